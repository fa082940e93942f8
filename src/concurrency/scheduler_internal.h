/* scheduler - workers, run queues, waiting and waking.                     [scheduler] internal
 *
 * What the floors above use: who is running (seat, parker), how to wait and wake, random choices
 * and turns that the deterministic mode steers. What only the scheduler and task chapters use comes
 * last.
 */
#ifndef ASTHRA__SCHEDULER_INTERNAL_H
#define ASTHRA__SCHEDULER_INTERNAL_H

#include "../core/trace_internal.h"
#include "../lockfree/deque_internal.h"
#include "fiber_internal.h"
#include "task.h"
#include "timer.h"

#if ASTHRA_HAS_TASK

/* ---- waiting -----------------------------------------------------------------------------------
 *
 * Whoever waits, task or plain thread, has one parker with one word:
 *
 *     claim      IDLE: runs. OPEN: waits, anybody may complete it. BUSY: its owner is completing
 *                another's wait (select only). DONE: completed; exactly one wake is owed to it.
 *     SWITCHED   its stack has been left, so whoever owes the wake may resume it at once
 *     WAKE       the wake was delivered before the stack was left: whoever leaves makes it run
 *     FIRM       cancellation does not claim it
 *     turn       counts waits, so that a late canceller cannot hit the next wait
 *
 * A wait is opened, published (a node in a channel's list, a task's list, a timer), and parked. The
 * first to turn OPEN into DONE has completed it: it writes what the wait carries (outcome, winner,
 * the value itself), unlinks what it must, and wakes as its last act. The memory of a wait lives on
 * the waiter's stack and is safe from the claim to the wake, and before the claim under the lock of
 * the list that its node is in.
 *
 * A wait with `held` set is opened and published under that lock, which parking gives back only
 * after the stack has been left. Its word starts SWITCHED: whoever finds the node under the lock
 * may wake without asking, and one-sided claimers (timer, cancel) pass through the lock before they
 * wake. */
enum {
    ASTHRA__WAIT_IDLE = 0,
    ASTHRA__WAIT_OPEN = 1,
    ASTHRA__WAIT_BUSY = 2,
    ASTHRA__WAIT_DONE = 3,
    ASTHRA__WAIT_CLAIM = 3, /* mask of the four above */
    ASTHRA__WAIT_SWITCHED = 4,
    ASTHRA__WAIT_WAKE = 8,
    ASTHRA__WAIT_FIRM = 16,
    ASTHRA__WAIT_TURN = 32
};

typedef struct Asthra__Parker {
    ASTHRA__ATOMIC(uint32_t) word;
    uint32_t index;            /* of the task; 0: a plain thread */
    struct Asthra__Wait *wait; /* while not IDLE */
} Asthra__Parker;

typedef struct Asthra__Wait {
    const char *what, *name; /* for reports: "receive on channel", "jobs" */
    Asthra__Lock *held;      /* see above; NULL: none */
    bool is_firm;            /* cancellation does not end it */
    AsthraStatus outcome;    /* written by whoever completed it */
    void *winner;            /* likewise, if the wait has several nodes */
    Asthra__Parker *parker;  /* from here on the scheduler's */
    Asthra__Fiber *fiber;
    int64_t since_ns, deadline_ns;
    /* instead of what and name, where those are too few; NULL unless set once it is open */
    void (*describe)(Asthra__Text *t, const struct Asthra__Wait *w);
    size_t timer_slot; /* position in its heap + 1; 0: not in one */
    struct Asthra__Worker *timer_owner;
    ASTHRA__ATOMIC(uint32_t) signal; /* a plain thread sleeps on this */
} Asthra__Wait;

/* Begins a wait of whoever calls; w's first five fields are set, the rest may be garbage. With
 * w->held the caller holds that lock. Until asthra__wait_park or asthra__wait_retract the caller
 * may be completed at any time. Returns the parker, for the nodes. */
ASTHRA__FN Asthra__Parker *asthra__wait_open(Asthra__Wait *w);

/* Waits until completed, for at most timeout_ns (< 0: for ever). Releases w->held. Returns
 * w->outcome: what the completer wrote, or ASTHRA_TIMED_OUT, or ASTHRA_CANCELLED; after these two
 * the caller unlinks its nodes under their locks. errno is kept. */
ASTHRA__FN AsthraStatus asthra__wait_park(Asthra__Wait *w, int64_t timeout_ns);

/* The parker of whoever calls, which also tells callers apart, say as the owner of a mutex. */
ASTHRA__FN Asthra__Parker *asthra__parker(void);
/* "task 'name'" or "thread 'name'", into the caller's buffer, which it returns. */
ASTHRA__FN const char *asthra__parker_name(const Asthra__Parker *p, char *out, size_t room);
/* The same of a parker's address whose owner may be gone long since: "a task that has ended". */
ASTHRA__FN const char *asthra__parker_name_if_any(uintptr_t parker, char *out, size_t room);

/* Takes an opened wait back instead of parking: true, and nobody owes a wake; false: it has been
 * completed, and the caller must park to consume its wake. Does not touch w->held. */
ASTHRA__FN bool asthra__wait_retract(Asthra__Wait *w);

/* Completes another's wait: true if this call did, then the caller owes one asthra__wait_wake.
 * Waits out BUSY. The caller holds the lock of the list in which it found the wait. */
ASTHRA__FN bool asthra__wait_claim(Asthra__Parker *p);

/* The last act of a completer, after unlocking: makes it run, next on this worker if it can be. */
ASTHRA__FN void asthra__wait_wake(Asthra__Parker *p);

/* ---- who runs, and choices ---- */

typedef struct Asthra__Seat Asthra__Seat;

/* Seat of the calling thread, which starts the runtime if it must. Never kept across a wait. */
ASTHRA__FN Asthra__Seat *asthra__seat(void);

/* The deterministic mode may let others run here. Called at the beginning of every operation that
 * tasks can see each other through. Free when the mode is off. */
ASTHRA__FN void asthra__turn(void);

/* 0 .. bound - 1; from the seed in the deterministic mode. */
ASTHRA__FN uint32_t asthra__random(uint32_t bound);

/* Monotonic now, virtual in the deterministic mode. */
ASTHRA__FN int64_t asthra__now_ns(void);

/* now + timeout, or INT64_MAX for ever. */
ASTHRA__FN int64_t asthra__deadline(int64_t timeout_ns);

/* True if this tier (1 tasks, 2 channels) is configured, and 3 too where a thread calls that is
 * neither a worker nor main; else false with the reason, naming the field, in asthra_last_error. */
ASTHRA__FN bool asthra__tier_is_on(int tier);

ASTHRA__FN uint64_t asthra__current_id(void); /* of the running task; 0: none */
ASTHRA__FN bool asthra__cancel_pending(void); /* the running task is cancelled and not masked */
/* What a debug line calls whoever runs: "task 12", or "thread". Into a caller's buffer. */
ASTHRA__FN const char *asthra__who(char *out, size_t room);

/* ==== from here on: for the scheduler, task and runtime chapters only ==== */

typedef struct Asthra__Task Asthra__Task;
typedef struct Asthra__Worker Asthra__Worker;

/* What few tasks have: a copied name, a stack of its own size, a rank, a large block. It stays with
 * the descriptor, so that the next task there finds its room. */
typedef struct Asthra__TaskExtra {
    ASTHRA__ALIGNED(ASTHRA__MAX_ALIGN) Asthra__Ranked ranked;
    size_t stack_bytes, block_bytes;
    size_t room; /* bytes behind this struct, for the block */
    char name[72];
} Asthra__TaskExtra;

/* The word of a task: state and everything that others may change, in one place, with the
 * generation, so that one compare-and-swap both checks a handle and acts on it.
 *
 *     bits 0-2    end: 0 while it is unfinished, else an AsthraTaskState
 *     bit  3      CANCEL    somebody asked it to end
 *     bit  4      AWAITED   nodes are in its list of awaiters
 *     bit  5      ALIVE     the descriptor is in use
 *     bits 8-31   handles   not yet consumed
 *     bits 32-63  generation
 *
 * A descriptor is free when it has ended and has no handle left; freeing it counts the generation
 * up, so every older handle is stale. Only compare-and-swaps change the word of a task that others
 * can reach, with one exception: see asthra__task_end. */
#define ASTHRA__TASK_END ((uint64_t)7)
#define ASTHRA__TASK_CANCEL ((uint64_t)8)
#define ASTHRA__TASK_AWAITED ((uint64_t)16)
#define ASTHRA__TASK_ALIVE ((uint64_t)32)
#define ASTHRA__TASK_HANDLE ((uint64_t)256)
#define ASTHRA__TASK_HANDLES ((uint64_t)0xffffff00)
#define ASTHRA__TASK_GENERATION (~(uint64_t)0xffffffff)

enum { /* Asthra__Task.marks, written by the spawner, then by whoever runs it */
       ASTHRA__TASK_STARTED = 1,
       ASTHRA__TASK_ESCAPED = 2, /* its own handle was taken with asthra_task_current */
       ASTHRA__TASK_SAW_CANCEL = 4,
       ASTHRA__TASK_COPIED = 8,  /* has a block */
       ASTHRA__TASK_EXTRA = 16,  /* its extra is in use, not only kept */
       ASTHRA__TASK_FORKED = 32, /* we are the child of a fork that it made */
       ASTHRA__TASK_SCOPED = 64, /* its block begins with a node of the scope that waits for it */
       ASTHRA__TASK_SCOPES = 128 /* it has open scopes, and `value` is the innermost */
};

enum { ASTHRA__TASK_INLINE = 16 }; /* bytes of a block inside the descriptor */

struct Asthra__Task {
    Asthra__Runnable runnable; /* also links free descriptors */
    ASTHRA__ATOMIC_64(uint64_t) word;
    AsthraTaskFunction function;
    void *value; /* the argument until it starts, then see SCOPES, then the result */
    const char *name;
    Asthra__Parker parker;
    uint64_t parent;                      /* handle bits */
    ASTHRA__ATOMIC_64(uint64_t) awaiting; /* handle bits of the child that it awaits; 0: none */
    struct Asthra__AwaitNode *waiters;    /* under the stripe lock of this task */
    struct AsthraError *error;
    Asthra__TaskExtra *extra;
    int16_t affinity; /* as in AsthraSpawnOptions, the main thread resolved */
    ASTHRA__ATOMIC(uint8_t) marks;
    ASTHRA__ATOMIC(uint8_t) masks; /* depth of asthra_cancel_mask_begin */
    uint8_t policy;                /* AsthraPanicPolicy */
    uint8_t block_size;            /* of an inline block */
    ASTHRA__ALIGNED(ASTHRA__MAX_ALIGN) unsigned char block[ASTHRA__TASK_INLINE];
};
_Static_assert(sizeof(void *) != 8 || sizeof(Asthra__Task) == 128, "two cache lines");

/* An ordered queue under a lock: an intrusive skew heap, so that nothing can run out of memory. */
typedef struct Asthra__RankedQueue {
    Asthra__Lock lock;
    Asthra__Ranked *root;
    ASTHRA__ATOMIC(uint32_t) count;
    int64_t sequence;
} Asthra__RankedQueue;

typedef struct Asthra__ListQueue {
    Asthra__Lock lock;
    Asthra__Runnable *first, **last;
    ASTHRA__ATOMIC(uint32_t) count;
} Asthra__ListQueue;

enum { ASTHRA__RING = 256 };

/* A bounded queue of fibers: its owner appends, anybody takes the oldest. */
typedef struct Asthra__Ring {
    ASTHRA__ATOMIC(uint32_t) tail;
    ASTHRA__ATOMIC(Asthra__Runnable *) slots[ASTHRA__RING];
    ASTHRA__ALIGNED(128) ASTHRA__ATOMIC(uint32_t) head;
} Asthra__Ring;

static inline Asthra__Fiber *asthra__fiber_of(Asthra__Runnable *item) {
    return ASTHRA__CONTAINER(Asthra__Fiber, runnable, item);
}

typedef struct Asthra__TimerEntry {
    int64_t deadline_ns;
    Asthra__Wait *wait;
} Asthra__TimerEntry;

typedef struct Asthra__Timers {
    Asthra__Lock lock;
    Asthra__TimerEntry *heap; /* four children each; [0] is the earliest */
    size_t count, room;
    ASTHRA__ATOMIC_64(int64_t) earliest_ns; /* INT64_MAX: none */
} Asthra__Timers;

typedef enum Asthra__Leaving { /* what is to be done for the fiber that was left last */
                               ASTHRA__LEFT_NOTHING,
                               ASTHRA__LEFT_HOLDING, /* give its lock back */
                               ASTHRA__LEFT_WAITING, /* mark its word SWITCHED */
                               ASTHRA__LEFT_READY,   /* it yielded: append it */
                               ASTHRA__LEFT_IDLE,    /* a loop that has nothing to do: cache it */
                               ASTHRA__LEFT_DEAD     /* nobody comes back */
} Asthra__Leaving;

struct Asthra__Worker {
    /* The owner's. */
    int number;
    uint32_t turns, next_streak;
    uint32_t starved, starved_turn; /* tasks in a row that got no stack; the last one's turn */
    int64_t now_ns;                 /* read every 64 turns and when idle */
    Asthra__Fiber *spare;           /* idle loops, newest first */
    uint32_t spare_count;
    Asthra__Runnable *assigned; /* what the loop that is switched to shall do first */
    Asthra__Leaving leaving;
    Asthra__Fiber *left;
    Asthra__Wait *left_wait;
    Asthra__Seat *seat;
#if ASTHRA_HAS_THREADS
    Asthra__OsThread thread;
#endif
    bool has_thread;
    ASTHRA__ATOMIC(uint32_t) only_bound; /* main's, when a relief thread serves the queues */
    bool is_hosted; /* its loop runs inside asthra_runtime_poll, until host_end_ns */
    int64_t host_end_ns;
    size_t host_turns;                        /* in this poll */
    uint32_t safepoint_turn, safepoint_calls; /* the last safepoint's turn, and how many in it */
    int64_t safepoint_ns;                     /* when that turn, or the last look, began */
    /* Read by others now and then. */
    ASTHRA__ALIGNED(128) ASTHRA__ATOMIC(Asthra__Runnable *) next; /* see asthra__next_take */
    ASTHRA__ATOMIC(uint32_t) owner_in;
    ASTHRA__ATOMIC(uint32_t) thief_in;
    ASTHRA__ATOMIC(uint32_t) turns_seen;    /* turns, published */
    ASTHRA__ATOMIC(uint32_t) turns_watched; /* of these, what a watcher saw last, and since when */
    ASTHRA__ATOMIC_64(int64_t) watched_ns;
    ASTHRA__ATOMIC(uint32_t) is_outside; /* its thread, main, runs the program's own code */
    ASTHRA__ALIGNED(128) Asthra__Deque deque;
    ASTHRA__ALIGNED(128) Asthra__Ring ring;
    ASTHRA__ALIGNED(128) Asthra__Timers timers;
    ASTHRA__ALIGNED(128) Asthra__RankedQueue bound;       /* only this worker may run these */
    ASTHRA__ALIGNED(128) ASTHRA__ATOMIC(uint32_t) asleep; /* Asthra__Asleep */
};

typedef enum Asthra__Asleep {
    ASTHRA__AWAKE,
    ASTHRA__ASLEEP,        /* on this word */
    ASTHRA__ASLEEP_OUTSIDE /* in the poller */
} Asthra__Asleep;

/* What waits for events from outside the process, filled by the floor above. `wait` waits for one,
 * for at most timeout_ns (< 0: no limit), and says whether there is something to deliver; `deliver`
 * makes it runnable. One thread at a time calls these two. `wake` ends a wait. `end`: no wait is
 * left; in a forked child those that were are forgotten. */
typedef struct Asthra__Poller {
    bool (*wait)(int64_t timeout_ns);
    void (*deliver)(void);
    void (*wake)(void);
    void (*end)(bool is_child);
} Asthra__Poller;

/* Of the floor above, whose helper threads wake tasks: no worker runs any more, and what they do
 * for tasks that still stand must be over once this returns. */
typedef void (*Asthra__HelpersEnd)(void);

/* What the scheduler keeps for each thread, inside its Asthra__Thread. */
struct Asthra__Seat {
    uint32_t epoch; /* of its runtime, + 1; 0: none */
    bool is_main;   /* the thread that started the runtime */
    Asthra__Thread *thread;
    Asthra__Worker *worker;               /* NULL: a plain thread */
    Asthra__Task *task;                   /* NULL: outside tasks */
    Asthra__Fiber *fiber;                 /* we stand on it */
    Asthra__Fiber root;                   /* the stack that the thread came with */
    Asthra__Parker parker;                /* of the thread itself */
    ASTHRA__ATOMIC_64(uint64_t) awaiting; /* as a task's, of what it awaits outside tasks */
    Asthra__Task *loaded, *spare;         /* free descriptors */
    uint32_t loaded_count, spare_count;
    uint32_t fresh, fresh_end; /* descriptors never used yet: [fresh, fresh_end) */
    ASTHRA__ATOMIC_64(uint64_t) spawned;
    ASTHRA__ATOMIC_64(uint64_t) ended;
    uint64_t random_state;
    uint32_t in_place_streak;
    struct Asthra__Scope *scopes; /* open outside tasks; the innermost */
    Asthra__Seat *next, **link;
};
_Static_assert(sizeof(Asthra__Seat) <= ASTHRA__SCHEDULER_SLOT,
               "thread_internal.h: make the slot larger");

/* Settings, already checked. */
typedef struct Asthra__SchedulerConfig {
    unsigned workers; /* 0: cores */
    size_t max_tasks, stack_bytes;
    bool main_helps, spins;
    bool tier_is_on[4]; /* [1] .. [3] */
    uint64_t seed;      /* not 0: deterministic */
    AsthraPanicPolicy policy;
    int64_t shutdown_timeout_ns;
} Asthra__SchedulerConfig;

typedef enum Asthra__Phase {
    ASTHRA__PHASE_NONE, /* not started */
    ASTHRA__PHASE_RUNNING,
    ASTHRA__PHASE_DRAINING, /* shutdown waits for tasks */
    ASTHRA__PHASE_STOPPED   /* workers leave */
} Asthra__Phase;

enum {
    ASTHRA__STRIPES = 64,
    ASTHRA__SEGMENTS = 22,
    ASTHRA__MAGAZINE = 128,
    ASTHRA__FAIR_TURNS = 64,
    ASTHRA__FAIR_STEP = 8 /* turns from one that begins with another queue to the next */
};

enum {                            /* Asthra__Scheduler.rare */
       ASTHRA__RARE_UNMANNED = 1, /* threads are still to be started */
       ASTHRA__RARE_RELIEF = 2,   /* a plain thread would need a relief thread */
       ASTHRA__RARE_LIMIT = 4,    /* max_tasks */
       ASTHRA__RARE_TIER = 8      /* tasks, or external threads, are switched off */
};

/* The one record of the scheduler. */
typedef struct Asthra__Scheduler {
    ASTHRA__ATOMIC(uint32_t) phase; /* Asthra__Phase */
    ASTHRA__ATOMIC(uint32_t) epoch; /* counts starts and stops, skips UINT32_MAX */
    bool has_fork_hook;
    Asthra__Lock seats_lock;
    ASTHRA__ATOMIC(bool) helpers_spin;
    ASTHRA__ATOMIC(uint32_t) resting; /* helpers of the floor above that wait for work */
    ASTHRA__ATOMIC(uint32_t) moves;   /* how often one lay down or got up */
    ASTHRA__ATOMIC(Asthra__HelpersEnd) end_helpers;
    ASTHRA__ALIGNED(128) ASTHRA__ATOMIC(uint32_t) host_blocked; /* plain threads inside our waits */
    ASTHRA__ATOMIC(uint32_t) timed_hosts;                       /* of these, with a timeout */
    /* What stands above outlives a stop. */
    ASTHRA__ALIGNED(128) Asthra__SchedulerConfig config;
    Asthra__Worker *workers;
    void *workers_block;
    ASTHRA__ATOMIC(uint32_t) worker_count; /* of config, main included if it helps */
    ASTHRA__ATOMIC(uint32_t) rare;         /* Asthra__Rare bits: what a spawn must look at */
    ASTHRA__ATOMIC(uint32_t) queue_count;  /* workers with queues: a main that hosts, too, last */
    unsigned workers_made;                 /* in the block: one more where relief may be needed */
    ASTHRA__ATOMIC(uint32_t) manned;       /* workers whose threads run; == worker_count: all */
    Asthra__Lock start_lock;
    Asthra__Seat *seats;
    uint64_t ended_before, spawned_before; /* by seats that are gone */
    Asthra__Seat *main_seat;
    /* Work that belongs to no worker. */
    ASTHRA__ALIGNED(128) Asthra__ListQueue global;
    ASTHRA__ALIGNED(128) Asthra__RankedQueue urgent, background;
    ASTHRA__ATOMIC(uint32_t) ranked; /* entries in all ranked queues, the bound ones included */
    /* Idle workers. */
    ASTHRA__ALIGNED(128) ASTHRA__ATOMIC(uint32_t) sleeping;
    ASTHRA__ATOMIC(uint32_t) searching, watching;
    ASTHRA__ATOMIC(uint32_t) rests;          /* how often a worker lay down */
    ASTHRA__ATOMIC(uint32_t) is_asleep_told; /* worker and thread may find it out together */
    /* Events from outside, and a host's loop. */
    ASTHRA__ALIGNED(128) ASTHRA__ATOMIC(const Asthra__Poller *) poller;
    ASTHRA__ATOMIC(uint32_t) outside;    /* waits for the poller */
    ASTHRA__ATOMIC(uint32_t) polling;    /* who is in it: scheduler_outside.c */
    ASTHRA__ATOMIC(uint32_t) has_bound;  /* a task was bound to a main that hosts */
    ASTHRA__ATOMIC(uint32_t) has_signal; /* host_signal is open */
    ASTHRA__ATOMIC(uint32_t) is_signalled;
    Asthra__OsSignal host_signal; /* readable: main has work */
    /* Tasks. */
    ASTHRA__ALIGNED(128) Asthra__Lock descriptors_lock;
    Asthra__Task *segments[ASTHRA__SEGMENTS];
    ASTHRA__ATOMIC(uint32_t) descriptors; /* indices below have memory; index 0 is unused */
    Asthra__Task *magazines;              /* full ones, linked through waiters */
    ASTHRA__ATOMIC(size_t) unfinished;    /* counted only under max_tasks */
    Asthra__Lock stripes[ASTHRA__STRIPES];
    /* Shutdown, and the deterministic mode. */
    ASTHRA__ATOMIC(uint32_t) left; /* worker threads that are through */
    ASTHRA__ATOMIC(Asthra__Parker *) drainer;
    Asthra__Lock drain_lock;
    bool drain_quiescent;
    uint32_t drain_turns;
    uint64_t random_state;
    int64_t virtual_ns;
    ASTHRA__ATOMIC(bool) is_deterministic;
} Asthra__Scheduler;

/* scheduler.c */
ASTHRA__FN Asthra__Scheduler *asthra__scheduler(void);
ASTHRA__FN bool asthra__is_deterministic(void);
ASTHRA__FN void asthra__epoch_next(void);           /* from here on every seat is an old one's */
ASTHRA__FN Asthra__Seat *asthra__seat_if_any(void); /* signal-safe; NULL: none */
ASTHRA__FN Asthra__Seat *asthra__seat_setup(Asthra__Worker *w); /* of this thread; w may be NULL */
/* Both return the seat by the time the caller goes on. */
ASTHRA__FN Asthra__Seat *asthra__leave(Asthra__Seat *s, Asthra__Leaving how, Asthra__Wait *wait);
ASTHRA__FN Asthra__Seat *asthra__run_in_place(Asthra__Seat *s, Asthra__Task *t);
ASTHRA__FN size_t asthra__own_stack(const Asthra__Task *t); /* 0: any stack will do */
ASTHRA__FN bool asthra__spare_ensure(Asthra__Worker *w);    /* an idle loop in store */
/* One whose stack is used otherwise until it is put back. */
ASTHRA__COLD ASTHRA__FN bool asthra__spare_set_aside(Asthra__Worker *w);
ASTHRA__COLD ASTHRA__FN void asthra__spare_put_back(Asthra__Worker *w, Asthra__Fiber *f);
ASTHRA__FN void asthra__loop(void *unused);                     /* what every pool stack runs */
ASTHRA__FN Asthra__Seat *asthra__worker_enter(Asthra__Seat *s); /* from its own stack, and back */

/* scheduler_start.c */
ASTHRA__FN Asthra__SchedulerConfig asthra__scheduler_defaults(void);
/* false: the reason is set */
ASTHRA__FN bool asthra__scheduler_start(const Asthra__SchedulerConfig *c);
ASTHRA__FN void asthra__scheduler_check_stop(void); /* panics if the caller may not stop it */
ASTHRA__FN void asthra__scheduler_drain(void);      /* as a stop begins; then it runs as before */
ASTHRA__FN void asthra__scheduler_stop(void);
ASTHRA__FN bool asthra__scheduler_is_running(void);
/* starts the threads; false: the reason is set */
ASTHRA__FN bool asthra__scheduler_man(const Asthra__Seat *s);
ASTHRA__FN bool asthra__scheduler_relieve(void); /* a main that would be alone gets a thread */
ASTHRA__FN void asthra__drain_check(void);       /* a task has ended during shutdown */
ASTHRA__FN void asthra__drain_turn(void);        /* a turn has begun during shutdown under a seed */

/* scheduler_queue.c */
ASTHRA__FN void asthra__list_push(Asthra__ListQueue *q, Asthra__Runnable *item);
ASTHRA__FN Asthra__Runnable *asthra__list_pop(Asthra__ListQueue *q);
ASTHRA__FN bool asthra__list_remove(Asthra__ListQueue *q, Asthra__Runnable *item);
ASTHRA__FN Asthra__Runnable *asthra__list_pop_at(Asthra__ListQueue *q, uint32_t position);
ASTHRA__FN void asthra__ranked_push(Asthra__RankedQueue *q, Asthra__Ranked *r);
ASTHRA__FN Asthra__Runnable *asthra__ranked_pop(Asthra__RankedQueue *q);
ASTHRA__FN bool asthra__ring_push(Asthra__Ring *r, Asthra__Runnable *item); /* owner; false: full */
ASTHRA__FN Asthra__Runnable *asthra__ring_pop(Asthra__Ring *r);             /* anybody */
ASTHRA__FN uint32_t asthra__ring_count(const Asthra__Ring *r);
ASTHRA__FN Asthra__Runnable *asthra__next_take(Asthra__Worker *w);  /* its owner */
ASTHRA__FN Asthra__Runnable *asthra__next_steal(Asthra__Worker *w); /* not the owner */
/* w: ours */
ASTHRA__FN void asthra__runnable_fiber(Asthra__Worker *w, Asthra__Fiber *f, bool is_next);
ASTHRA__FN void asthra__runnable_task(Asthra__Seat *s, Asthra__Task *t);
ASTHRA__FN Asthra__Runnable *asthra__pick(Asthra__Worker *w); /* own and global work; NULL: none */
ASTHRA__FN bool asthra__has_other_work(Asthra__Worker *w);
static inline bool asthra__is_fair_turn(uint32_t turn) {
    return turn % ASTHRA__FAIR_TURNS == 0;
}

/* scheduler_wait.c */
/* after a claim from afar */
ASTHRA__FN void asthra__wait_end(Asthra__Wait *w, AsthraStatus outcome);
ASTHRA__FN void asthra__wait_switched(Asthra__Worker *ours, Asthra__Wait *w);
ASTHRA__FN bool asthra__cancel_is_pending(const Asthra__Task *t); /* cancelled, not masked */
ASTHRA__FN bool asthra__cancel_observe(Asthra__Task *t); /* the same, and t knows; NULL: false */

/* scheduler_idle.c */
ASTHRA__FN Asthra__Runnable *asthra__idle(Asthra__Worker *w); /* NULL: the workers leave */
/* If somebody has no work: shares what w has, w's own call, and notifies. */
ASTHRA__FN void asthra__feed(Asthra__Scheduler *g, Asthra__Worker *w);
ASTHRA__FN void asthra__feed_slow(Asthra__Worker *w);
/* Deterministic mode, and nothing can run: to the next timer. False: there is none. */
ASTHRA__FN bool asthra__advance_virtual_time(Asthra__Scheduler *g, Asthra__Worker *w);
ASTHRA__FN bool asthra__drain_is_quiescent(Asthra__Scheduler *g); /* makes shutdown go on */
ASTHRA__FN void asthra__notify(void); /* there is new work for anybody */
ASTHRA__FN void asthra__notify_worker(Asthra__Worker *w);
ASTHRA__FN void asthra__notify_all(void);
ASTHRA__FN Asthra__Runnable *asthra__take_from_main(Asthra__Worker *w); /* while it is away */
ASTHRA__FN bool asthra__work_exists(Asthra__Scheduler *g, Asthra__Worker *w);
/* Has the turn lasted, and does somebody wait? */
ASTHRA__FN bool asthra__safepoint_is_due(Asthra__Worker *w);
/* Something waits that no idle worker may see: loops look at their safepoints from here on. */
static inline void asthra__safepoint_ask(void) {
    if (ASTHRA__UNLIKELY(!__atomic_load_n(&asthra_safepoint_word, __ATOMIC_RELAXED)))
        __atomic_store_n(&asthra_safepoint_word, 1u, __ATOMIC_RELAXED);
}

/* scheduler_outside.c */
ASTHRA__FN void asthra__outside_set_poller(const Asthra__Poller *p); /* to the runtime's end */
/* A wait that the poller will complete: before it is published, and once it is over. */
ASTHRA__FN void asthra__outside_begin(void);
ASTHRA__FN void asthra__outside_end(void);
/* A helper of the floor above, or a thread that waits for one, lies down, and does nothing until
 * somebody says that it works. Then it is a thread that may do anything, so nobody is asleep for
 * good. */
ASTHRA__FN void asthra__helper_rests(void);
ASTHRA__FN void asthra__helper_works(void);
ASTHRA__FN bool asthra__helpers_may_spin(void); /* says the configuration of the last start */
ASTHRA__FN void asthra__helpers_on_stop(Asthra__HelpersEnd end);
ASTHRA__FN void asthra__helpers_forget(void); /* in a forked child: there are none */
static inline bool asthra__outside_is_awaited(Asthra__Scheduler *g) {
    return asthra__load(&g->outside, seq_cst) != 0;
}
ASTHRA__FN bool asthra__outside_poll(Asthra__Scheduler *g); /* without waiting; did it help? */
/* Of the watcher, whose word says ASLEEP. True: the caller delivers, once it counts as awake. */
ASTHRA__FN bool asthra__outside_sleep(Asthra__Scheduler *g, Asthra__Worker *w, int64_t left_ns);
ASTHRA__FN void asthra__outside_deliver(Asthra__Scheduler *g);

/* scheduler_host.c */
ASTHRA__FN Asthra__Worker *asthra__main_worker(Asthra__Scheduler *g);
/* w is main's, which hosts: it is not among those who lie down. */
static inline bool asthra__is_uncounted(Asthra__Scheduler *g, const Asthra__Worker *w) {
    return (uint32_t)w->number >= asthra__load(&g->worker_count, relaxed);
}
ASTHRA__FN void asthra__host_tell(Asthra__Scheduler *g); /* main has work, if its loop asked */
ASTHRA__FN void asthra__host_tell_if_alone(Asthra__Scheduler *g);
ASTHRA__FN Asthra__Runnable *asthra__host_item(Asthra__Worker *w); /* NULL: back to the host */
ASTHRA__FN size_t asthra__host_poll(Asthra__Seat *s, int64_t budget_ns); /* how many turns it ran */
ASTHRA__FN int64_t asthra__host_deadline(void);                          /* INT64_MAX: none */
ASTHRA__FN int asthra__host_fd(void);                                    /* -1: the reason is set */

/* scheduler_timer.c */
ASTHRA__FN bool asthra__timer_add(Asthra__Worker *w, Asthra__Wait *wait); /* false: no memory */
ASTHRA__FN void asthra__timer_remove(Asthra__Wait *wait);
ASTHRA__FN bool asthra__timers_run(Asthra__Worker *w, int64_t now_ns); /* did anything fire? */
ASTHRA__FN int64_t asthra__timers_earliest(void); /* over all workers; INT64_MAX: none */

/* scheduler_report.c */
#define ASTHRA__LOOK_AGAIN_NS ASTHRA_SECONDS(1) /* whether all are asleep; see scheduler_idle.c */
ASTHRA__FN void asthra__report_setup(void);
ASTHRA__FN void asthra__report_teardown(void);
ASTHRA__FN bool asthra__all_are_asleep(void); /* only waiting tasks, and nothing can end a wait */
ASTHRA__FN bool asthra__rest_is_total(void);  /* no worker runs or holds anything */
ASTHRA__FN void asthra__report_asleep(void);  /* prints who waits on what */
/* after shutdown's time: what still stands; is_still: and nothing of it can run any more */
ASTHRA__FN void asthra__report_standing(bool is_still);

/* task.c, declared here because the scheduler runs what they made */
/* is_alone: nobody but an awaiter that called it in place can know of t. */
ASTHRA__FN void asthra__task_end(Asthra__Seat *s, Asthra__Task *t, AsthraTaskState how, void *value,
                                 bool is_alone);
ASTHRA__FN Asthra__Task *asthra__task_at(uint32_t index);
ASTHRA__FN uint64_t asthra__task_bits(const Asthra__Task *t);
ASTHRA__FN void asthra__task_cancel_parked(void); /* every one that waits */
/* Those that wait or yield just now. False: all had been cancelled before. */
ASTHRA__FN bool asthra__task_cancel_idle(void);
ASTHRA__FN void asthra__task_flush(Asthra__Seat *s); /* gives a seat's free descriptors back */
ASTHRA__FN void asthra__task_teardown(void);
ASTHRA__FN uint64_t asthra__task_unfinished(void);

/* scope.c, likewise */
#if ASTHRA_HAS_SCOPE
/* asthra__task_end of a SCOPED task, of which the scope is told. */
ASTHRA__COLD ASTHRA__FN void asthra__scope_child_end(Asthra__Seat *s, Asthra__Task *t,
                                                     AsthraTaskState how, void *value);
/* The frames of the running task are about to go: cancels the children of its open scopes and waits
 * for them. False: no memory to wait with. */
ASTHRA__COLD ASTHRA__FN bool asthra__scope_abandon(void);
/* Panics: what its owner does, "a task has returned", would leave it open. */
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void
asthra__scope_left_open(const struct Asthra__Scope *scope, const char *what);
#else
static inline void asthra__scope_child_end(Asthra__Seat *s, Asthra__Task *t, AsthraTaskState how,
                                           void *value) {
    asthra__task_end(s, t, how, value, false);
}
static inline bool asthra__scope_abandon(void) {
    return true;
}
static inline void asthra__scope_left_open(const struct Asthra__Scope *scope, const char *what) {
    (void)scope, (void)what;
}
#endif

#endif
#endif
