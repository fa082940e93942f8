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
 */
#include "scheduler_internal.h"
#include "../memory/stack_internal.h"

#if ASTHRA_HAS_TASK

#include <string.h>

enum {
    ASTHRA__SPARES_MOST = 64,
    ASTHRA__SPARES_BATCH = 16,
    ASTHRA__RUN_MARKS =
        ASTHRA__TASK_SAW_CANCEL | ASTHRA__TASK_FORKED | ASTHRA__TASK_SCOPES | ASTHRA__TASK_SCOPED
};

static Asthra__Scheduler asthra__scheduler_record;

ASTHRA__FN Asthra__Scheduler *asthra__scheduler(void) {
    return &asthra__scheduler_record;
}
ASTHRA__FN ASTHRA__FAST bool asthra__is_deterministic(void) {
    return asthra__load(&asthra__scheduler_record.is_deterministic, relaxed);
}

/* ---- seats ---- */

/* What a seat of this runtime has; a fresh one has 0. */
static inline uint32_t asthra__epoch(void) {
    return asthra__load(&asthra__scheduler_record.epoch, relaxed) + 1;
}

ASTHRA__FN void asthra__epoch_next(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint32_t next = asthra__load(&g->epoch, relaxed) + 1;
    asthra__store(&g->epoch, next == UINT32_MAX ? 0 : next, relaxed);
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
    if (ASTHRA__UNLIKELY(s->scopes != NULL && s->epoch == asthra__epoch()))
        asthra__scope_left_open(s->scopes, "a thread ends");
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

ASTHRA__FN Asthra__Seat *asthra__seat_setup(Asthra__Worker *w) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Thread *t = asthra__thread();
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
    return s;
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
    if (asthra__seat_of(t)->epoch != asthra__epoch()) asthra__seat_setup(NULL);
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
    const Asthra__Seat *s = asthra__seat();
    const bool *is_on = asthra__scheduler_record.config.tier_is_on;
    bool is_external = s->worker == NULL && !s->is_main;
    if (is_on[tier] && is_external) tier = 3;
    if (is_on[tier]) return true;
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
ASTHRA__FN bool asthra__spare_ensure(Asthra__Worker *w) {
    if (ASTHRA__LIKELY(w->spare != NULL)) return true;
    uint32_t got = 0;
    Asthra__Fiber *list = asthra__fiber_take(w->number < 0 ? 1 : ASTHRA__SPARES_BATCH, &got);
    w->spare = list;
    w->spare_count = got;
    return got > 0;
}

/* The newest idle loop is kept from running; false: there is no other, and no memory for one. */
ASTHRA__COLD ASTHRA__FN bool asthra__spare_set_aside(Asthra__Worker *w) {
    Asthra__Fiber *f = asthra__spare_pop(w);
    if (asthra__spare_ensure(w)) return true;
    asthra__spare_push(w, f);
    return false;
}
ASTHRA__COLD ASTHRA__FN void asthra__spare_put_back(Asthra__Worker *w, Asthra__Fiber *f) {
    asthra__spare_push(w, f);
}

/* A loop has a region only where a hook of the program allocated from the stack zone in it. */
ASTHRA__COLD static void asthra__drop_stack(Asthra__Fiber *left) {
    asthra__stack_drop(left->stack);
    left->stack = NULL;
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
    case ASTHRA__LEFT_DEAD:
        if (ASTHRA__UNLIKELY(left->stack != NULL)) asthra__drop_stack(left);
        asthra__fiber_destroy(left);
        break;
    case ASTHRA__LEFT_IDLE:
        if (ASTHRA__UNLIKELY(left->stack != NULL)) asthra__drop_stack(left);
        if (ASTHRA__UNLIKELY(w->spare_count >= ASTHRA__SPARES_MOST)) asthra__spare_give(w);
        asthra__spare_push(w, left);
        break;
    }
}

/* Goes on in `to`; comes back when somebody resumes the caller's fiber, with the seat by then. */
static Asthra__Seat *asthra__go_to(Asthra__Seat *s, Asthra__Fiber *to, Asthra__Leaving how) {
    Asthra__Fiber *from = s->fiber;
    from->task = s->task;
    from->stack = s->thread->stack;
    from->saved_errno = *s->thread->errno_place;
    s->worker->leaving = how;
    s->worker->left = from;
    s->fiber = to;
    s->task = to->task;
    s->thread->stack = to->stack;
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
    bool is_for_loop =
        asthra__is_fair_turn(w->turns + 1) || w->is_hosted || asthra__load(&w->only_bound, relaxed);
    Asthra__Runnable *item = is_for_loop ? NULL : asthra__pick(w);
    if (item != NULL && item->is_fiber) {
        s = asthra__go_to(s, asthra__fiber_of(item), how);
    } else {
        w->assigned = item;
        s = asthra__go_to(s, asthra__spare_pop(w), how);
    }
    if (is_root) asthra__store(&w->is_outside, 1u, relaxed);
    return s;
}

/* ---- running ---- */

/* What a task calls stops here when it panics: see asthra__report_setup. */
static ASTHRA__FAST void *asthra__call(Asthra__Fiber *f, AsthraTaskFunction fn, void *argument,
                                       bool is_in_place) {
    Asthra__SwapContext *outer = f->escape;
    void *value = asthra__swap_call(fn, argument, &f->escape, !is_in_place);
    f->escape = outer;
    return value;
}

/* The stack zone's region of what ran here goes: t's, or what a hook left to the loop before it. */
static ASTHRA__FAST Asthra__Seat *asthra__end_stack(Asthra__Seat *s, bool has_failed) {
    if (ASTHRA__LIKELY(s->thread->stack == NULL)) return s;
    asthra__stack_end(has_failed);
    return asthra__seat(); /* it may have called hooks */
}

/* t's function has returned, or it has panicked: *how. What it leaves on the fiber goes. */
static ASTHRA__FAST Asthra__Seat *asthra__run_leave(Asthra__Fiber *f, AsthraTaskState *how) {
    Asthra__Seat *s = asthra__seat();
    if (ASTHRA__UNLIKELY(f->has_failed)) *how = ASTHRA_TASK_FAILED;
    f->has_failed = false;
    f->task = s->task = NULL;
    return asthra__end_stack(s, *how == ASTHRA_TASK_FAILED);
}

static void *asthra__say_left_open(void *scope) {
    asthra__scope_left_open(scope, "a task has returned");
    return NULL;
}

/* The rest of asthra__run for a task with one of ASTHRA__RUN_MARKS. */
ASTHRA__COLD static Asthra__Seat *asthra__run_marked(Asthra__Fiber *f, Asthra__Task *t,
                                                     void *value) {
    uint8_t marks = asthra__load(&t->marks, relaxed);
    if (marks & ASTHRA__TASK_FORKED) {
        asthra_panic_at(NULL,
                        "task '%s' forked and now returns in the child, where its runtime "
                        "is gone: end the child in the task, with _exit or exec",
                        t->name);
    }
    if (marks & ASTHRA__TASK_SCOPES) asthra__call(f, asthra__say_left_open, t->value, true);
    bool saw = marks & ASTHRA__TASK_SAW_CANCEL;
    AsthraTaskState how = saw ? ASTHRA_TASK_CANCELLED : ASTHRA_TASK_COMPLETED;
    Asthra__Seat *s = asthra__run_leave(f, &how);
    if (marks & ASTHRA__TASK_SCOPED)
        asthra__scope_child_end(s, t, how, how == ASTHRA_TASK_FAILED ? NULL : value);
    else
        asthra__task_end(s, t, how, value, false);
    return s;
}

/* The same for one that was cancelled before it started. */
ASTHRA__COLD static void asthra__run_not(Asthra__Seat *s, Asthra__Task *t) {
    if (asthra__load(&t->marks, relaxed) & ASTHRA__TASK_SCOPED)
        asthra__scope_child_end(s, t, ASTHRA_TASK_CANCELLED, NULL);
    else
        asthra__task_end(s, t, ASTHRA_TASK_CANCELLED, NULL, false);
}

/* Runs t on the fiber we stand on, from its beginning to its end; returns the seat by then. */
static ASTHRA__FAST Asthra__Seat *asthra__run(Asthra__Seat *s, Asthra__Task *t, bool is_in_place) {
    Asthra__Fiber *f = s->fiber; /* it ends on the stack it begins on */
    if (ASTHRA__UNLIKELY(asthra__load(&t->word, acquire) & ASTHRA__TASK_CANCEL)) {
        asthra__run_not(s, t);
        return s;
    }
    asthra__store(&t->marks, (uint8_t)(asthra__load(&t->marks, relaxed) | ASTHRA__TASK_STARTED),
                  relaxed);
    if (!is_in_place) s = asthra__end_stack(s, false);
    f->task = s->task = t;
    /* a loop keeps the default control words */
    void *value = asthra__call(f, t->function, t->value, is_in_place);
    uint8_t marks = asthra__load(&t->marks, relaxed);
    if (ASTHRA__UNLIKELY(marks & ASTHRA__RUN_MARKS)) return asthra__run_marked(f, t, value);
    AsthraTaskState how = ASTHRA_TASK_COMPLETED;
    s = asthra__run_leave(f, &how);
    asthra__task_end(s, t, how, value, is_in_place && !(marks & ASTHRA__TASK_ESCAPED));
    return s;
}

/* The caller, a task or a thread outside tasks, stands on this stack and awaits t, which nobody
 * else can start any more. */
ASTHRA__FN Asthra__Seat *asthra__run_in_place(Asthra__Seat *s, Asthra__Task *t) {
    Asthra__Fiber *f = s->fiber;
    Asthra__Task *below = s->task;
    struct Asthra__StackRegion *stack_below = s->thread->stack;
    int errno_below = *s->thread->errno_place;
    s->thread->stack = NULL;
    s = asthra__run(s, t, true);
    f->task = s->task = below;
    s->thread->stack = stack_below;
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
ASTHRA__COLD static void asthra__run_later(Asthra__Scheduler *g, Asthra__Seat *s, Asthra__Task *t) {
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
        size_t own = asthra__own_stack(t);
        asthra_panic_at(NULL,
                        "out of memory: no stack for the next task, '%s' of %zu KiB; lower "
                        "stack_size, spawn fewer tasks at once, or raise the memory limit",
                        t->name, (own != 0 ? own : asthra__fiber_default_bytes()) / 1024);
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

/* What the loop does next: NULL when the workers leave, or main its poll. */
static Asthra__Runnable *asthra__next_item(Asthra__Worker *w) {
    Asthra__Runnable *item = w->assigned;
    w->assigned = NULL;
    if (item == NULL && w->is_hosted) return asthra__host_item(w);
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
ASTHRA__FN void asthra__loop(void *unused) {
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
            asthra__go_to(s, asthra__fiber_of(item), ASTHRA__LEFT_IDLE);
        } else {
            asthra__start(s, ASTHRA__CONTAINER(Asthra__Task, runnable, item));
        }
    }
}

ASTHRA__FN Asthra__Seat *asthra__worker_enter(Asthra__Seat *s) {
    Asthra__Worker *w = s->worker;
    if (!asthra__spare_ensure(w)) return s;
    return asthra__go_to(s, asthra__spare_pop(w), ASTHRA__LEFT_NOTHING);
}

#endif
