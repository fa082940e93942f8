/* scheduler - workers, run queues, waiting and waking.                     [scheduler] body
 *
 * The picture. A worker is a seat for one OS thread: it owns queues, timers and idle stacks. Its
 * loop runs on a pool stack and calls each new task as a function on that stack. A task that waits
 * keeps the stack, loop frame below it included; the worker goes on with the fiber it must run
 * next, or with an idle loop on another stack. When the task ends, it returns into the loop frame
 * at the base of its stack, which goes on as the loop of whichever worker runs it by then.
 *
 *     loop --calls--> task --awaits--> child in place --waits-->  [stack is parked]
 *
 * Rules that keep this sound
 *   - A worker that runs a task always has at least one idle loop in store, so that waiting never
 *     needs memory: a new task is not started before that is so.
 *   - What is to be done for the stack that was left (give a lock back, mark a word, cache it) is
 *     done by whoever arrives, on the same thread, through the worker's `leaving`: until then
 *     nobody else can resume it.
 *   - After a switch everything about the current thread is asked for again: the fiber may have
 *     moved. Pointers to the fiber and the task stay good.
 *   - An OS thread's own stack (main's, or the base of a worker thread) is bound to its worker.
 *   - A task with a stack size of its own, and under ThreadSanitizer every task, gets a single-use
 *     fiber whose loop runs that task and then gives way.
 *
 * Start and stop. The first seat that is asked for starts the record; the first spawn starts the
 * threads. A start counts the epoch up, and a seat of an older epoch sets itself up again. In a
 * forked child the record is forgotten, not freed: other threads' halves of it cannot be trusted.
 *
 * The thread that starts the runtime sits on worker 0 if it helps. It takes part only while it
 * waits in a call of ours, so between its calls its queues can be stolen from but nothing runs
 * there. With a single worker that would let a plain thread wait for ever; when a plain thread
 * makes work or waits there, a relief thread is started, and from then on worker 0 runs only what
 * is bound to it.
 */
#include "scheduler_internal.h"
#include "../core/table_internal.h"

#if ASTHRA_HAS_TASK

#include <string.h>

enum { ASTHRA__SPARES_MOST = 64, ASTHRA__SPARES_BATCH = 16, ASTHRA__THREAD_STACK = 64 * 1024 };

static Asthra__Scheduler asthra__scheduler_record = {.epoch = 1}; /* a fresh seat has 0 */

ASTHRA__FN Asthra__Scheduler *asthra__scheduler(void) {
    return &asthra__scheduler_record;
}
ASTHRA__FN ASTHRA__FAST bool asthra__is_deterministic(void) {
    return asthra__load(&asthra__scheduler_record.is_deterministic, relaxed);
}

/* ---- seats ---- */

static inline uint32_t asthra__epoch(void) {
    return asthra__load(&asthra__scheduler_record.epoch, relaxed);
}

static void asthra__epoch_next(Asthra__Scheduler *g) {
    uint32_t next = asthra__load(&g->epoch, relaxed) + 1;
    asthra__store(&g->epoch, next + (next == 0), relaxed);
}

static Asthra__Seat *asthra__seat_of(Asthra__Thread *t) {
    return (Asthra__Seat *)(void *)t->scheduler;
}

ASTHRA__FN Asthra__Seat *asthra__seat_if_any(void) {
    Asthra__Thread *t = asthra__thread_if_attached();
    if (t == NULL) return NULL;
    Asthra__Seat *s = asthra__seat_of(t);
    return s->epoch == asthra__epoch() ? s : NULL;
}

/* A thread ends: its descriptors and its counts are kept. The lock keeps a shutdown, which counts
 * the epoch up under it, from taking the descriptors away meanwhile. */
static void asthra__seat_leave(Asthra__Thread *t) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Seat *s = asthra__seat_of(t);
    if (s->epoch == 0) return;
    asthra__lock(&g->seats_lock);
    if (s->epoch != asthra__epoch()) {
        asthra__unlock(&g->seats_lock);
        return;
    }
    asthra__task_flush(s);
    g->spawned_before += asthra__load(&s->spawned, relaxed);
    g->ended_before += asthra__load(&s->ended, relaxed);
    *s->link = s->next;
    if (s->next != NULL) s->next->link = s->link;
    if (g->main_seat == s) g->main_seat = NULL;
    asthra__unlock(&g->seats_lock);
    s->epoch = 0;
}

static void asthra__seat_setup(Asthra__Thread *t, Asthra__Worker *w) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Seat *s = asthra__seat_of(t);
    memset(s, 0, sizeof *s);
    s->thread = t;
    s->worker = w;
    s->fiber = &s->root;
    s->random_state = asthra__os_entropy() | 1;
    if (w != NULL) {
        asthra__fiber_bind(&s->root, w->number);
        w->seat = s;
        w->now_ns = asthra__os_now_ns();
    }
    asthra__thread_on_detach(asthra__seat_leave);
    asthra__lock(&g->seats_lock);
    s->next = g->seats;
    s->link = &g->seats;
    if (s->next != NULL) s->next->link = &s->next;
    g->seats = s;
    asthra__unlock(&g->seats_lock);
    s->epoch = asthra__epoch();
}

/* A thread that does not belong to the running runtime calls it. */
ASTHRA__COLD static Asthra__Seat *asthra__seat_join(Asthra__Thread *t) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (asthra__load(&g->phase, acquire) == ASTHRA__PHASE_NONE) {
#if ASTHRA_HAS_AUTO_INIT
        Asthra__SchedulerConfig c = asthra__scheduler_defaults();
        bool is_first = asthra__scheduler_start(&c);
        if (asthra__load(&g->phase, acquire) == ASTHRA__PHASE_NONE) {
            asthra__panic_with(NULL, 0, asthra_result_message(asthra_last_error()));
        }
        if (!is_first) asthra__error_clear(); /* another thread was, and that will do too */
#else
        asthra__panic_with(NULL, 0,
                           "the runtime is used before asthra_runtime_init "
                           "(ASTHRA_RT_NO_AUTO_INIT is defined)");
#endif
    }
    if (asthra__seat_of(t)->epoch != asthra__epoch()) asthra__seat_setup(t, NULL);
    return asthra__seat_of(t);
}

ASTHRA__FN Asthra__Seat *asthra__seat(void) {
    Asthra__Thread *t = asthra__thread();
    Asthra__Seat *s = asthra__seat_of(t);
    if (ASTHRA__UNLIKELY(s->epoch != asthra__epoch())) {
        return asthra__seat_join(t);
    }
    return s;
}

/* ---- small things that everybody asks ---- */

ASTHRA__FN uint32_t asthra__random(uint32_t bound) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint64_t *state = asthra__is_deterministic() ? &g->random_state : &asthra__seat()->random_state;
    uint64_t x = *state; /* xorshift64* (Vigna, 2016); the high half is multiplied into the range */
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return (uint32_t)(((x * UINT64_C(2685821657736338717)) >> 32) * bound >> 32);
}

ASTHRA__COLD static void asthra__turn_slow(void) {
    if (asthra__seat()->worker != NULL && asthra__random(4) == 0) asthra_yield();
}

ASTHRA__FN ASTHRA__FAST void asthra__turn(void) {
    if (ASTHRA__UNLIKELY(asthra__is_deterministic())) asthra__turn_slow();
}

ASTHRA__FN int64_t asthra__now_ns(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    bool runs = asthra__load(&g->phase, acquire) != ASTHRA__PHASE_NONE; /* partner: start */
    return runs && asthra__is_deterministic() ? g->virtual_ns : asthra__os_now_ns();
}

ASTHRA__FN int64_t asthra__deadline(int64_t timeout_ns) {
    int64_t now = asthra__now_ns();
    if (timeout_ns < 0 || timeout_ns >= INT64_MAX - now) return INT64_MAX - 1;
    return now + timeout_ns;
}

ASTHRA__FN bool asthra__tier_is_on(int tier) {
    static const char *const fields[] = {"", "enable_tier1_concurrency", "enable_tier2_concurrency",
                                         "enable_tier3_concurrency"};
    asthra__seat();
    if (asthra__scheduler_record.config.tier_is_on[tier]) return true;
    asthra__error_set(ASTHRA_INVALID, "%s is false in the runtime's configuration", fields[tier]);
    return false;
}

ASTHRA__FN uint64_t asthra__current_id(void) {
    Asthra__Seat *s = asthra__seat_if_any();
    return s == NULL || s->task == NULL ? 0 : asthra__task_bits(s->task);
}

ASTHRA__FN const char *asthra__who(char *out, size_t room) {
    Asthra__Text t = asthra__text_on(out, room);
    uint64_t id = asthra__current_id();
    if (id != 0) {
        asthra__text_format(&t, "task %llu", (unsigned long long)id);
    } else {
        asthra__text_add(&t, "thread");
    }
    return out;
}

/* ---- leaving a stack ---- */

static Asthra__Fiber *asthra__spare_pop(Asthra__Worker *w) {
    Asthra__Fiber *f = w->spare;
    Asthra__Runnable *next = f->runnable.next;
    w->spare = next == NULL ? NULL : ASTHRA__CONTAINER(Asthra__Fiber, runnable, next);
    w->spare_count--;
    return f;
}

static void asthra__spare_push(Asthra__Worker *w, Asthra__Fiber *f) {
    f->runnable.next = w->spare == NULL ? NULL : &w->spare->runnable;
    w->spare = f;
    w->spare_count++;
}

/* Half of the store goes back to all. */
ASTHRA__COLD static void asthra__spare_give(Asthra__Worker *w) {
    Asthra__Fiber *list = NULL;
    while (w->spare_count > ASTHRA__SPARES_MOST / 2) {
        Asthra__Fiber *f = asthra__spare_pop(w);
        f->runnable.next = list == NULL ? NULL : &list->runnable;
        list = f;
    }
    asthra__fiber_give(list);
}

/* Makes sure of one idle loop. */
static bool asthra__spare_ensure(Asthra__Worker *w) {
    if (ASTHRA__LIKELY(w->spare != NULL)) return true;
    uint32_t got = 0;
    Asthra__Fiber *list = asthra__fiber_take(w->number < 0 ? 1 : ASTHRA__SPARES_BATCH, &got);
    w->spare = list;
    w->spare_count = got;
    return got > 0;
}

/* Does what the stack that was just left asked for. First act after every switch. */
static void asthra__arrived(const Asthra__Seat *s) {
    Asthra__Worker *w = s->worker;
    Asthra__Leaving leaving = w->leaving;
    Asthra__Fiber *left = w->left;
    w->leaving = ASTHRA__LEFT_NOTHING;
    switch (leaving) {
    case ASTHRA__LEFT_NOTHING: break;
    case ASTHRA__LEFT_HOLDING: asthra__unlock(w->left_wait->held); break;
    case ASTHRA__LEFT_WAITING: asthra__wait_switched(w, w->left_wait); break;
    case ASTHRA__LEFT_READY: asthra__runnable_fiber(w, left, false); break;
    case ASTHRA__LEFT_DEAD: asthra__fiber_destroy(left); break;
    case ASTHRA__LEFT_IDLE:
        if (ASTHRA__UNLIKELY(w->spare_count >= ASTHRA__SPARES_MOST)) asthra__spare_give(w);
        asthra__spare_push(w, left);
        break;
    }
}

/* Goes on in `to`; comes back when somebody resumes the caller's fiber, with the seat by then. */
static Asthra__Seat *asthra__go_to(Asthra__Seat *s, Asthra__Fiber *to, Asthra__Leaving how) {
    Asthra__Fiber *from = s->fiber;
    from->task = s->task;
    from->saved_errno = *s->thread->errno_place;
    s->worker->leaving = how;
    s->worker->left = from;
    s->fiber = to;
    s->task = to->task;
    asthra__fiber_switch(from, to, how == ASTHRA__LEFT_DEAD);
    s = asthra__seat();
    asthra__arrived(s);
    *s->thread->errno_place = from->saved_errno;
    return s;
}

ASTHRA__FN Asthra__Seat *asthra__leave(Asthra__Seat *s, Asthra__Leaving how, Asthra__Wait *wait) {
    Asthra__Worker *w = s->worker;
    bool is_root = s->fiber == &s->root;
    w->left_wait = wait;
    if (is_root) asthra__store(&w->is_outside, 0u, relaxed);
    /* The turn that runs timers is the loop's: we may still hold a lock that a timer wants. */
    bool is_for_loop = asthra__is_fair_turn(w->turns + 1) || asthra__load(&w->only_bound, relaxed);
    Asthra__Runnable *item = is_for_loop ? NULL : asthra__pick(w);
    if (item != NULL && item->is_fiber) {
        s = asthra__go_to(s, ASTHRA__CONTAINER(Asthra__Fiber, runnable, item), how);
    } else {
        w->assigned = item;
        s = asthra__go_to(s, asthra__spare_pop(w), how);
    }
    if (is_root) asthra__store(&w->is_outside, 1u, relaxed);
    return s;
}

/* ---- running ---- */

/* What a task calls stops here when it panics: see asthra__report_setup. */
static void *asthra__call_task(Asthra__Fiber *f, Asthra__Task *t, bool is_in_place) {
    Asthra__SwapContext *outer = f->escape;
    void *value = asthra__swap_call(t->function, t->value, &f->escape, !is_in_place);
    f->escape = outer;
    return value;
}

/* Runs t on the fiber we stand on, from its beginning to its end; returns the seat by then. */
static ASTHRA__FAST Asthra__Seat *asthra__run(Asthra__Seat *s, Asthra__Task *t, bool is_in_place) {
    Asthra__Fiber *f = s->fiber; /* it ends on the stack it begins on */
    if (ASTHRA__UNLIKELY(asthra__load(&t->word, acquire) & ASTHRA__TASK_CANCEL)) {
        asthra__task_end(s, t, ASTHRA_TASK_CANCELLED, NULL, false);
        return s;
    }
    asthra__store(&t->marks, (uint8_t)(asthra__load(&t->marks, relaxed) | ASTHRA__TASK_STARTED),
                  relaxed);
    f->task = s->task = t;
    void *value = asthra__call_task(f, t, is_in_place); /* a loop keeps the default control words */
    s = asthra__seat();
    AsthraTaskState how = ASTHRA_TASK_COMPLETED;
    uint8_t marks = asthra__load(&t->marks, relaxed);
    if (ASTHRA__UNLIKELY(marks & (ASTHRA__TASK_SAW_CANCEL | ASTHRA__TASK_FORKED))) {
        if (marks & ASTHRA__TASK_FORKED) {
            asthra_panic_at(NULL,
                            "task '%s' forked and now returns in the child, where its runtime "
                            "is gone: end the child in the task, with _exit or exec",
                            t->name);
        }
        how = ASTHRA_TASK_CANCELLED;
    }
    if (ASTHRA__UNLIKELY(f->has_failed)) how = ASTHRA_TASK_FAILED;
    f->has_failed = false;
    f->task = s->task = NULL;
    asthra__task_end(s, t, how, value, is_in_place && !(marks & ASTHRA__TASK_ESCAPED));
    return s;
}

/* The caller, a task or a thread outside tasks, stands on this stack and awaits t, which nobody
 * else can start any more. */
ASTHRA__FN Asthra__Seat *asthra__run_in_place(Asthra__Seat *s, Asthra__Task *t) {
    Asthra__Fiber *f = s->fiber;
    Asthra__Task *below = s->task;
    int errno_below = *s->thread->errno_place;
    s = asthra__run(s, t, true);
    f->task = s->task = below;
    *s->thread->errno_place = errno_below;
    return s;
}

/* A task with a priority or an affinity: the fiber takes them over while it carries the task. */
static void asthra__run_ranked(Asthra__Seat *s, Asthra__Task *t) {
    Asthra__Fiber *f = s->fiber;
    f->runnable.priority = t->runnable.priority;
    f->bound_to = t->affinity - 1;
    asthra__run(s, t, false);
    f->runnable.priority = 0;
    f->bound_to = -1;
}

ASTHRA__FN size_t asthra__own_stack(const Asthra__Task *t) {
    uint8_t marks = asthra__load(&t->marks, relaxed);
    size_t wanted = marks & ASTHRA__TASK_EXTRA ? t->extra->stack_bytes : 0;
    if (wanted > asthra__fiber_default_bytes() / 2) return wanted * 2;
    return ASTHRA__TSAN ? asthra__fiber_default_bytes() : 0;
}

/* No stack for t. One that was cancelled needs none; another is tried again when others have ended
 * or a timer has fired. Where as many in a row had none as there are, nobody else will end: time
 * must go on, or it is the last straw. While shutdown waits, it cancels those that hold the stacks;
 * how long it waits for them is its own. */
ASTHRA__COLD static void asthra__run_later(Asthra__Scheduler *g, Asthra__Seat *s,
                                           Asthra__Task *t) {
    Asthra__Worker *w = s->worker;
    if (asthra__load(&t->word, acquire) & ASTHRA__TASK_CANCEL) {
        asthra__run(s, t, false);
        return;
    }
    w->starved = w->starved_turn == w->turns - 1 ? w->starved + 1 : 1;
    w->starved_turn = w->turns;
    bool is_stuck = asthra__ring_count(&w->ring) == 0 && asthra__load(&w->next, relaxed) == NULL &&
                    w->starved > asthra__load(&g->global.count, relaxed);
    bool is_last = is_stuck && asthra__load(&g->phase, acquire) == ASTHRA__PHASE_RUNNING;
    if (is_stuck && !is_last) asthra__drain_is_quiescent(g);
    if (is_stuck && !asthra__advance_virtual_time(g, w) && is_last &&
        asthra__load(&w->timers.earliest_ns, relaxed) == INT64_MAX) {
        asthra__panic_with(NULL, 0,
                           "out of memory: no stack for the next task; lower stack_size, "
                           "spawn fewer tasks at once, or raise the memory limit");
    }
    asthra__list_push(&g->global, &t->runnable);
}

/* Starts t on this stack, or on one of its own. */
static void asthra__start(Asthra__Seat *s, Asthra__Task *t) {
    Asthra__Worker *w = s->worker;
    size_t own_stack = s->fiber->is_single ? 0 : asthra__own_stack(t);
    if (ASTHRA__UNLIKELY(!asthra__spare_ensure(w))) {
        asthra__run_later(asthra__scheduler(), s, t);
    } else if (ASTHRA__UNLIKELY(own_stack != 0)) {
        Asthra__Fiber *f = asthra__fiber_create(own_stack);
        if (f == NULL) {
            asthra__run_later(asthra__scheduler(), s, t);
            return;
        }
        f->is_single = true;
        w->assigned = &t->runnable;
        asthra__go_to(s, f, ASTHRA__LEFT_IDLE);
    } else if (ASTHRA__UNLIKELY(t->affinity != 0 || t->runnable.priority != 0)) {
        asthra__run_ranked(s, t);
    } else {
        asthra__run(s, t, false);
    }
}

/* What the loop does next: NULL when the workers leave. */
static Asthra__Runnable *asthra__next_item(Asthra__Worker *w) {
    Asthra__Runnable *item = w->assigned;
    w->assigned = NULL;
    if (item == NULL && asthra__is_fair_turn(w->turns + 1) && /* a yielder comes by here */
        asthra__load(&asthra__scheduler()->phase, acquire) == ASTHRA__PHASE_STOPPED) {
        return NULL;
    }
    if (item == NULL) {
        bool is_bound = asthra__load(&w->only_bound, relaxed);
        item = is_bound ? asthra__ranked_pop(&w->bound) : asthra__pick(w);
    }
    return item != NULL ? item : asthra__idle(w);
}

/* The entry of every pool fiber. */
static void asthra__loop(void *unused) {
    (void)unused;
    asthra__fiber_arrive(asthra__seat()->fiber);
    asthra__arrived(asthra__seat());
    for (;;) {
        Asthra__Seat *s = asthra__seat();
        bool is_single = s->fiber->is_single && s->worker->assigned == NULL;
        if (is_single) { /* its task has ended */
            asthra__spare_ensure(s->worker);
            asthra__go_to(s, asthra__spare_pop(s->worker), ASTHRA__LEFT_DEAD);
        }
        Asthra__Runnable *item = asthra__next_item(s->worker);
        s = asthra__seat();
        if (item == NULL) {
            asthra__go_to(s, &s->root, ASTHRA__LEFT_IDLE);
        } else if (item->is_fiber) {
            asthra__go_to(s, ASTHRA__CONTAINER(Asthra__Fiber, runnable, item), ASTHRA__LEFT_IDLE);
        } else {
            asthra__start(s, ASTHRA__CONTAINER(Asthra__Task, runnable, item));
        }
    }
}

/* ---- threads ---- */

#if ASTHRA_HAS_THREADS
static void *asthra__worker_main(void *argument) {
    Asthra__Worker *w = argument;
    Asthra__Thread *t = asthra__thread();
    asthra__os_fault_stack_enter(&t->fault_stack);
    asthra__seat_setup(t, w);
    Asthra__Seat *s = asthra__seat();
    if (asthra__spare_ensure(w)) asthra__go_to(s, asthra__spare_pop(w), ASTHRA__LEFT_NOTHING);
    asthra__os_fault_stack_leave(t->fault_stack);
    t->fault_stack = NULL;
    Asthra__Scheduler *g = asthra__scheduler();
    asthra__add(&g->left, 1u, release);
    asthra__os_wake(&g->left, 1);
    return NULL;
}

static bool asthra__man_one(Asthra__Worker *w) {
    char name[16];
    Asthra__Text t = asthra__text_on(name, sizeof name);
    if (!asthra__spare_ensure(w)) return false;
    asthra__text_format(&t, "asthra-%d", w->number);
    w->has_thread =
        asthra__os_thread_start(&w->thread, ASTHRA__THREAD_STACK, asthra__worker_main, w, name);
    return w->has_thread;
}

/* Starts the threads of workers that have none, up to `count` workers. */
ASTHRA__COLD static bool asthra__man_slow(Asthra__Scheduler *g) {
    bool is_good = true;
    asthra__lock(&g->start_lock);
    uint32_t manned = asthra__load(&g->manned, relaxed);
    for (; is_good && manned < asthra__load(&g->worker_count, acquire); manned++) {
        Asthra__Worker *w = &g->workers[manned];
        bool is_main = manned == 0 && g->config.main_helps;
        is_good = is_main || asthra__man_one(w);
        if (is_good) asthra__store(&g->manned, manned + 1, release);
    }
    asthra__unlock(&g->start_lock);
    if (!is_good) {
        asthra__error_set(ASTHRA_OUT_OF_MEMORY, "the system refused worker %u of %u", manned,
                          asthra__load(&g->worker_count, acquire));
    }
    return is_good;
}
#else
ASTHRA__COLD static bool asthra__man_slow(Asthra__Scheduler *g) {
    asthra__store(&g->manned, 1u, relaxed);
    return true;
}
#endif

/* A plain thread makes work, or waits, beside a single worker that is the main thread's. */
ASTHRA__COLD static bool asthra__relieve_main(Asthra__Scheduler *g) {
#if ASTHRA_HAS_THREADS
    asthra__lock(&g->start_lock);
    bool is_good = asthra__load(&g->worker_count, acquire) == 2;
    if (!is_good && asthra__man_one(&g->workers[1])) {
        asthra__store(&g->workers[0].only_bound, 1u, relaxed);
        asthra__store(&g->worker_count, 2u, release);
        asthra__store(&g->manned, 2u, release);
        is_good = true;
    }
    asthra__unlock(&g->start_lock);
    if (!is_good) {
        asthra__error_set(ASTHRA_OUT_OF_MEMORY, "the system refused a thread to work beside main, "
                                                "which is the single worker");
    }
    return is_good;
#else
    (void)g;
    return true;
#endif
}

ASTHRA__FN bool asthra__scheduler_man(const Asthra__Seat *s) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint32_t rare = asthra__load(&g->rare, acquire);
    if (rare & ASTHRA__RARE_UNMANNED) {
        if (!asthra__man_slow(g)) return false;
        asthra__and(&g->rare, ~(uint32_t)ASTHRA__RARE_UNMANNED, release);
    }
    if ((rare & ASTHRA__RARE_RELIEF) && s->worker == NULL) {
        if (!asthra__relieve_main(g)) return false;
        asthra__and(&g->rare, ~(uint32_t)ASTHRA__RARE_RELIEF, release);
    }
    return true;
}

/* ---- start and stop ---- */

ASTHRA__FN Asthra__SchedulerConfig asthra__scheduler_defaults(void) {
    Asthra__SchedulerConfig c;
    memset(&c, 0, sizeof c);
    c.main_helps = true;
    c.spins = true;
    c.tier_is_on[1] = c.tier_is_on[2] = c.tier_is_on[3] = true;
    c.shutdown_timeout_ns = ASTHRA_SECONDS(5);
    return c;
}

/* One block, aligned to line pairs. */
static bool asthra__workers_create(Asthra__Scheduler *g, unsigned count) {
    size_t bytes = sizeof(Asthra__Worker) * count + ASTHRA__CACHE_PAIR;
    g->workers_block = asthra__alloc_zeroed(1, bytes);
    if (g->workers_block == NULL) return false;
    uintptr_t start = (uintptr_t)g->workers_block + ASTHRA__CACHE_PAIR - 1;
    g->workers = (Asthra__Worker *)(start - start % ASTHRA__CACHE_PAIR);
    for (unsigned i = 0; i < count; i++) {
        Asthra__Worker *w = &g->workers[i];
        w->number = (int)i;
        asthra__store(&w->timers.earliest_ns, INT64_MAX, relaxed);
        if (!asthra__deque_init(&w->deque)) return false;
    }
    return true;
}

static void asthra__workers_destroy(Asthra__Scheduler *g) {
    if (g->workers_block == NULL) return;
    for (unsigned i = 0; i < g->workers_made; i++) {
        asthra__deque_destroy(&g->workers[i].deque);
        asthra__free(g->workers[i].timers.heap);
    }
    asthra__free(g->workers_block);
    g->workers_block = NULL;
}

/* The child of a fork: as before init, and nothing of the parent's is touched. */
static void asthra__scheduler_forget(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    size_t kept = offsetof(Asthra__Scheduler, config);
    memset((char *)g + kept, 0, sizeof *g - kept);
    asthra__fiber_forget();
    asthra__store(&g->phase, (uint32_t)ASTHRA__PHASE_NONE, release);
}

/* From here on no thread belongs to this runtime; those that end keep off it. */
static void asthra__seats_dismiss(Asthra__Scheduler *g) {
    asthra__lock(&g->seats_lock);
    asthra__epoch_next(g);
    g->seats = NULL;
    asthra__unlock(&g->seats_lock);
}

static void asthra__scheduler_after_fork(void) {
    asthra__sync_fork_child();
    asthra__table_after_fork();
    Asthra__Seat *s = asthra__seat_if_any();
    if (s != NULL && s->task != NULL) {
        uint8_t marks = asthra__load(&s->task->marks, relaxed);
        asthra__store(&s->task->marks, (uint8_t)(marks | ASTHRA__TASK_FORKED), relaxed);
    }
    asthra__store(&asthra__scheduler()->seats_lock.word, 0, relaxed);
    asthra__seats_dismiss(asthra__scheduler());
    asthra__scheduler_forget();
}

static unsigned asthra__count_workers(const Asthra__SchedulerConfig *c) {
    if (c->seed != 0 || !ASTHRA_HAS_THREADS) return 1;
    return c->workers != 0 ? c->workers : asthra__os_cores();
}

static bool asthra__start_locked(Asthra__Scheduler *g, const Asthra__SchedulerConfig *c) {
    static bool has_fork_hook;
    g->config = *c;
    g->config.main_helps = c->main_helps || c->seed != 0 || !ASTHRA_HAS_THREADS;
    asthra__store(&g->worker_count, asthra__count_workers(c), release);
    bool is_lone = g->config.main_helps && asthra__count_workers(c) == 1 && c->seed == 0;
    uint32_t rare = ASTHRA__RARE_UNMANNED;
    if (is_lone && ASTHRA_HAS_THREADS) rare |= ASTHRA__RARE_RELIEF;
    if (c->max_tasks != 0) rare |= ASTHRA__RARE_LIMIT;
    if (!c->tier_is_on[1]) rare |= ASTHRA__RARE_TIER;
    asthra__store(&g->rare, rare, relaxed);
    g->workers_made = asthra__count_workers(c) + (is_lone ? 1 : 0);
    asthra__store(&g->is_deterministic, c->seed != 0, relaxed);
    g->random_state = c->seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    g->virtual_ns = 0;
    asthra__sync_setup();
    if (!has_fork_hook) asthra__os_on_fork(NULL, NULL, asthra__scheduler_after_fork);
    has_fork_hook = true;
    size_t stack = c->stack_bytes != 0 ? c->stack_bytes : (sizeof(void *) == 8 ? 256u : 64u) * 1024;
    asthra__fiber_setup(stack, asthra__loop);
    if (!asthra__workers_create(g, g->workers_made)) return false;
    if (g->config.main_helps && !asthra__spare_ensure(&g->workers[0])) return false;
    asthra__epoch_next(g);
    Asthra__Thread *t = asthra__thread();
    asthra__seat_setup(t, g->config.main_helps ? &g->workers[0] : NULL);
    g->main_seat = asthra__seat_of(t);
    g->main_seat->is_main = true;
    if (g->config.main_helps) asthra__store(&g->workers[0].is_outside, 1u, relaxed);
    asthra__os_fault_stack_enter(&t->fault_stack);
    asthra__report_setup();
    return true;
}

ASTHRA__FN bool asthra__scheduler_start(const Asthra__SchedulerConfig *c) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (!asthra__swap_is_allowed()) {
        asthra__error_set(ASTHRA_FAILED, "shadow stacks are on for this process: tasks need a "
                                         "program built without -fcf-protection=return");
        return false;
    }
    asthra__lock(&g->start_lock);
    bool is_first = asthra__load(&g->phase, relaxed) == ASTHRA__PHASE_NONE;
    bool is_good = is_first && asthra__start_locked(g, c);
    if (is_good) asthra__store(&g->phase, (uint32_t)ASTHRA__PHASE_RUNNING, release);
    if (is_first && !is_good) {
        asthra__fiber_teardown();
        asthra__workers_destroy(g);
    }
    asthra__unlock(&g->start_lock);
    if (is_first && !is_good) asthra__error_set(ASTHRA_OUT_OF_MEMORY, "no memory for the workers");
    if (!is_first) asthra__error_set(ASTHRA_INVALID, "the runtime is already running");
    return is_good;
}

ASTHRA__FN bool asthra__scheduler_is_running(void) {
    return asthra__load(&asthra__scheduler_record.phase, acquire) == ASTHRA__PHASE_RUNNING;
}

/* There was no memory for the timer of that wait: gives others turns instead. */
ASTHRA__COLD static void asthra__drain_by_turns(int64_t timeout_ns) {
    int64_t start = asthra__os_now_ns();
    while (asthra__task_unfinished() > 0 && asthra__os_now_ns() - start < timeout_ns)
        asthra_yield();
}

/* Waits, on the thread that shuts down, until every task has ended or, before anything was
 * cancelled, until nothing can run. */
static void asthra__drain(Asthra__Scheduler *g, bool is_first, int64_t timeout_ns) {
    Asthra__Wait w = {.what = "shutdown", .held = &g->drain_lock, .is_firm = true};
    asthra__lock(&g->drain_lock);
    g->drain_quiescent = !is_first;
    Asthra__Parker *p = asthra__wait_open(&w);
    asthra__store(&g->drainer, p, seq_cst);
    if (asthra__task_unfinished() == 0 && asthra__wait_retract(&w)) {
        asthra__store(&g->drainer, (Asthra__Parker *)NULL, relaxed);
        asthra__unlock(&g->drain_lock);
        return;
    }
    if (is_first) asthra__notify_all(); /* those at rest shall look at the drainer */
    AsthraStatus status = asthra__wait_park(&w, timeout_ns);
    asthra__lock(&g->drain_lock);
    asthra__store(&g->drainer, (Asthra__Parker *)NULL, relaxed);
    asthra__unlock(&g->drain_lock);
    if (ASTHRA__UNLIKELY(status == ASTHRA_OUT_OF_MEMORY)) asthra__drain_by_turns(timeout_ns);
}

ASTHRA__FN void asthra__drain_check(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (asthra__task_unfinished() != 0) return;
    asthra__lock(&g->drain_lock);
    Asthra__Parker *drainer = asthra__load(&g->drainer, relaxed);
    bool is_ours = drainer != NULL && asthra__wait_claim(drainer);
    asthra__unlock(&g->drain_lock);
    if (is_ours) asthra__wait_wake(drainer);
}

/* Gives the workers that were told to stop a while to leave the tasks that still stand. */
static bool asthra__workers_have_left(Asthra__Scheduler *g) {
    int64_t end = asthra__os_now_ns() + ASTHRA_MS(200), now;
    uint32_t threads = 0, left;
    for (unsigned i = 0; i < asthra__load(&g->worker_count, acquire); i++) {
        threads += g->workers[i].has_thread;
    }
    while ((left = asthra__load(&g->left, acquire)) != threads) {
        if ((now = asthra__os_now_ns()) >= end) return false;
        asthra__os_wait(&g->left, left, end - now);
    }
    return true;
}

static void asthra__join_workers(Asthra__Scheduler *g) {
#if ASTHRA_HAS_THREADS
    for (unsigned i = 0; i < asthra__load(&g->worker_count, acquire); i++) {
        if (g->workers[i].has_thread) asthra__os_thread_join(g->workers[i].thread);
    }
#else
    (void)g;
#endif
}

ASTHRA__FN void asthra__scheduler_stop(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Seat *s = asthra__seat();
    if (s->task != NULL) {
        asthra_panic_at(NULL,
                        "asthra_runtime_shutdown: called in a task; call it outside tasks, on "
                        "the thread that started the runtime");
    }
    if (!s->is_main && g->main_seat != NULL) {
        asthra_panic_at(NULL, "asthra_runtime_shutdown: another thread started the runtime, and it "
                              "alone may stop it");
    }
    asthra__store(&g->phase, (uint32_t)ASTHRA__PHASE_DRAINING, seq_cst);
    /* pairs with the light one in task_end: it wakes us, or we see its count */
    asthra__os_fence_heavy();
    if (asthra__task_unfinished() > 0) asthra__drain(g, true, ASTHRA_FOREVER);
    if (asthra__task_unfinished() > 0) {
        asthra__task_cancel_parked();
        asthra__drain(g, false, g->config.shutdown_timeout_ns);
    }
    asthra__store(&g->phase, (uint32_t)ASTHRA__PHASE_STOPPED, seq_cst);
    asthra__notify_all();
    bool stands = asthra__task_unfinished() > 0, is_still = stands && asthra__workers_have_left(g);
    if (stands && !is_still) asthra__report_standing(false);
    asthra__join_workers(g);
    if (is_still) asthra__report_standing(true);
    asthra__seats_dismiss(g);
    asthra__report_teardown();
    asthra__os_fault_stack_leave(s->thread->fault_stack);
    s->thread->fault_stack = NULL;
    asthra__task_teardown();
    asthra__workers_destroy(g);
    asthra__fiber_teardown();
    asthra__scheduler_forget();
}

#endif
