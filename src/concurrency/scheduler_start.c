/* scheduler - threads, start and stop.                                     [scheduler] body: start
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
 *
 * Stop has two phases. Queued and running tasks end by themselves: the first is over when nothing
 * can run. Then those that are parked are cancelled, and the second waits for them for as long as
 * the configuration says. Whatever still stands is told by name and left where it is.
 */
#include "scheduler_internal.h"
#include "../core/table_internal.h"
#include "../memory/stack_internal.h"

#if ASTHRA_HAS_TASK

#include <string.h>

enum { ASTHRA__THREAD_STACK = 64 * 1024, ASTHRA__DRAIN_TURNS = 1 << 20 };

/* ---- threads ---- */

#if ASTHRA_HAS_THREADS
static void *asthra__worker_main(void *argument) {
    Asthra__Worker *w = argument;
    Asthra__Thread *t = asthra__thread();
    asthra__os_fault_stack_enter(&t->fault_stack);
    asthra__worker_enter(asthra__seat_setup(w));
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
        asthra__store(&g->queue_count, 2u, release);
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

ASTHRA__FN bool asthra__scheduler_relieve(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (!(asthra__load(&g->rare, acquire) & ASTHRA__RARE_RELIEF)) return true;
    if (!asthra__relieve_main(g)) return false;
    asthra__and(&g->rare, ~(uint32_t)ASTHRA__RARE_RELIEF, release);
    return true;
}

ASTHRA__FN bool asthra__scheduler_man(const Asthra__Seat *s) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint32_t rare = asthra__load(&g->rare, acquire);
    if (rare & ASTHRA__RARE_UNMANNED) {
        if (!asthra__man_slow(g)) return false;
        asthra__and(&g->rare, ~(uint32_t)ASTHRA__RARE_UNMANNED, release);
    }
    return s->worker != NULL || asthra__scheduler_relieve();
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

/* As before init; in the child of a fork nothing of the parent's is touched. */
static void asthra__scheduler_forget(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    size_t kept = offsetof(Asthra__Scheduler, config);
    memset((char *)g + kept, 0, sizeof *g - kept);
    asthra__fiber_forget();
    __atomic_store_n(&asthra_safepoint_word, 0u, __ATOMIC_RELAXED);
    asthra__store(&g->phase, (uint32_t)ASTHRA__PHASE_NONE, release);
}

/* From here on no thread belongs to this runtime; those that end keep off it. */
static void asthra__seats_dismiss(Asthra__Scheduler *g) {
    asthra__lock(&g->seats_lock);
    asthra__epoch_next();
    g->seats = NULL;
    asthra__unlock(&g->seats_lock);
}

/* Nobody waits for the outside any more, and main's loop hears of nothing. */
static void asthra__scheduler_turn_inward(Asthra__Scheduler *g, bool is_child) {
    const Asthra__Poller *p = asthra__load(&g->poller, relaxed);
    if (p != NULL) p->end(is_child);
    if (asthra__load(&g->has_signal, relaxed)) asthra__os_signal_close(g->host_signal);
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
    asthra__scheduler_turn_inward(asthra__scheduler(), true);
    asthra__scheduler_forget();
    asthra__store(&asthra__scheduler()->host_blocked, 0u, relaxed);
    asthra__store(&asthra__scheduler()->timed_hosts, 0u, relaxed);
}

static unsigned asthra__count_workers(const Asthra__SchedulerConfig *c) {
    if (c->seed != 0 || !ASTHRA_HAS_THREADS) return 1;
    return c->workers != 0 ? c->workers : asthra__os_cores();
}

static bool asthra__start_locked(Asthra__Scheduler *g, const Asthra__SchedulerConfig *c) {
    g->config = *c;
    g->config.main_helps = c->main_helps || c->seed != 0 || !ASTHRA_HAS_THREADS;
    asthra__store(&g->worker_count, asthra__count_workers(c), release);
    bool is_lone = g->config.main_helps && asthra__count_workers(c) == 1 && c->seed == 0;
    uint32_t rare = ASTHRA__RARE_UNMANNED;
    if (is_lone && ASTHRA_HAS_THREADS) rare |= ASTHRA__RARE_RELIEF;
    if (c->max_tasks != 0) rare |= ASTHRA__RARE_LIMIT;
    if (!c->tier_is_on[1] || !c->tier_is_on[3]) rare |= ASTHRA__RARE_TIER;
    asthra__store(&g->rare, rare, relaxed);
    bool is_hosted = !g->config.main_helps; /* the last one is main's */
    g->workers_made = asthra__count_workers(c) + (is_lone || is_hosted ? 1 : 0);
    asthra__store(&g->queue_count, asthra__count_workers(c) + (is_hosted ? 1 : 0), release);
    asthra__store(&g->is_deterministic, c->seed != 0, relaxed);
    asthra__store(&g->helpers_spin, c->spins, relaxed);
    g->random_state = c->seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    g->virtual_ns = 0;
    if (c->seed != 0) asthra__safepoint_ask(); /* a seed counts safepoints, from the first on */
    asthra__sync_setup();
    if (!g->has_fork_hook) asthra__os_on_fork(NULL, NULL, asthra__scheduler_after_fork);
    g->has_fork_hook = true;
    size_t stack = c->stack_bytes != 0 ? c->stack_bytes : (sizeof(void *) == 8 ? 256u : 64u) * 1024;
    asthra__fiber_setup(stack, asthra__loop);
    if (!asthra__workers_create(g, g->workers_made)) return false;
    if (g->config.main_helps && !asthra__spare_ensure(&g->workers[0])) return false;
    asthra__epoch_next();
    Asthra__Thread *t = asthra__thread();
    g->main_seat = asthra__seat_setup(g->config.main_helps ? &g->workers[0] : NULL);
    g->main_seat->is_main = true;
    if (is_hosted) asthra__fiber_bind(&g->main_seat->root, asthra__main_worker(g)->number);
    if (g->config.main_helps) asthra__store(&g->workers[0].is_outside, 1u, relaxed);
    asthra__os_fault_stack_enter(&t->fault_stack);
    asthra__report_setup();
    asthra__stack_set_owner(asthra__current_id);
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
    return asthra__load(&asthra__scheduler()->phase, acquire) == ASTHRA__PHASE_RUNNING;
}

/* There was no memory for the timer of that wait: gives others turns instead. Nobody tells when
 * nothing can run any more, so the first phase is short. */
ASTHRA__COLD static void asthra__drain_by_turns(bool is_first, int64_t timeout_ns) {
    int64_t start = asthra__os_now_ns();
    if (is_first && timeout_ns > ASTHRA_MS(10)) timeout_ns = ASTHRA_MS(10);
    while (asthra__task_unfinished() > 0 && asthra__os_now_ns() - start < timeout_ns)
        asthra_yield();
}

/* Waits, on the thread that shuts down, until every task has ended or, before everything was
 * cancelled, until nothing can run. False: the time was over before. */
static bool asthra__drain(Asthra__Scheduler *g, bool is_first, int64_t timeout_ns) {
    Asthra__Wait w = {.what = "shutdown", .held = &g->drain_lock, .is_firm = true};
    asthra__lock(&g->drain_lock);
    g->drain_quiescent = !is_first;
    Asthra__Parker *p = asthra__wait_open(&w);
    asthra__store(&g->drainer, p, seq_cst);
    if (asthra__task_unfinished() == 0 && asthra__wait_retract(&w)) {
        asthra__store(&g->drainer, (Asthra__Parker *)NULL, relaxed);
        asthra__unlock(&g->drain_lock);
        return true;
    }
    if (is_first) asthra__notify_all(); /* those at rest shall look at the drainer */
    AsthraStatus status = asthra__wait_park(&w, timeout_ns);
    asthra__lock(&g->drain_lock);
    asthra__store(&g->drainer, (Asthra__Parker *)NULL, relaxed);
    asthra__unlock(&g->drain_lock);
    if (ASTHRA__UNLIKELY(status == ASTHRA_OUT_OF_MEMORY))
        asthra__drain_by_turns(is_first, timeout_ns);
    return status == ASTHRA_OK;
}

/* Lets run what runs until nothing can. Tasks that keep one another going, or yield for ever, would
 * never come to that: each time that the time is over, those that wait just then are cancelled. */
static void asthra__drain_first(Asthra__Scheduler *g) {
    int64_t timeout_ns = g->config.shutdown_timeout_ns;
    if (timeout_ns >= 0 && timeout_ns < ASTHRA_MS(1)) timeout_ns = ASTHRA_MS(1);
    if (asthra__is_deterministic()) timeout_ns = ASTHRA_FOREVER; /* see asthra__drain_turn */
    while (asthra__task_unfinished() > 0 && !asthra__drain(g, true, timeout_ns)) {
        if (!asthra__task_cancel_idle()) return;
    }
}

static void asthra__drain_end(Asthra__Scheduler *g, AsthraStatus outcome) {
    asthra__lock(&g->drain_lock);
    Asthra__Parker *drainer = asthra__load(&g->drainer, relaxed);
    bool is_ours = drainer != NULL && asthra__wait_claim(drainer);
    if (is_ours) drainer->wait->outcome = outcome;
    asthra__unlock(&g->drain_lock);
    if (is_ours) asthra__wait_wake(drainer);
}

ASTHRA__FN void asthra__drain_check(void) {
    if (asthra__task_unfinished() == 0) asthra__drain_end(asthra__scheduler(), ASTHRA_OK);
}

/* Under a seed time stands still while anything can run, so there the limit is one of turns. */
ASTHRA__FN void asthra__drain_turn(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (++g->drain_turns % ASTHRA__DRAIN_TURNS == 0) asthra__drain_end(g, ASTHRA_TIMED_OUT);
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

/* What is bound to a main that hosts ends only if main runs it: it becomes a worker as others. */
static void asthra__host_join(Asthra__Scheduler *g, Asthra__Seat *s) {
    Asthra__Worker *w = asthra__main_worker(g);
    if (!asthra__load(&g->has_bound, acquire) || asthra__task_unfinished() == 0) return;
    if (s->worker != NULL || !asthra__spare_ensure(w)) return;
    asthra__lock(&g->start_lock);
    uint32_t count = asthra__load(&g->worker_count, relaxed);
    if (asthra__load(&g->manned, relaxed) == count) {
        s->worker = w;
        asthra__store(&g->worker_count, count + 1, release);
        asthra__store(&g->manned, count + 1, release);
    }
    asthra__unlock(&g->start_lock);
}

ASTHRA__FN void asthra__scheduler_check_stop(void) {
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
    if (s->scopes != NULL) asthra__scope_left_open(s->scopes, "asthra_runtime_shutdown: called");
}

/* Both phases. */
static void asthra__drain_all(Asthra__Scheduler *g, Asthra__Seat *s) {
    asthra__store(&g->phase, (uint32_t)ASTHRA__PHASE_DRAINING, seq_cst);
    /* pairs with the light one in task_end: it wakes us, or we see its count */
    asthra__os_fence_heavy();
    asthra__host_join(g, s);
    asthra__drain_first(g);
    if (asthra__task_unfinished() > 0) {
        asthra__task_cancel_parked();
        asthra__drain(g, false, g->config.shutdown_timeout_ns);
    }
}

ASTHRA__FN void asthra__scheduler_drain(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    asthra__drain_all(g, asthra__seat());
    if (asthra__task_unfinished() > 0) g->config.shutdown_timeout_ns = 0; /* they had their time */
    asthra__store(&g->phase, (uint32_t)ASTHRA__PHASE_RUNNING, seq_cst);
}

ASTHRA__FN void asthra__scheduler_stop(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Seat *s = asthra__seat();
    asthra__drain_all(g, s);
    asthra__store(&g->phase, (uint32_t)ASTHRA__PHASE_STOPPED, seq_cst);
    asthra__notify_all();
    bool stands = asthra__task_unfinished() > 0, is_still = stands && asthra__workers_have_left(g);
    if (stands && !is_still) asthra__report_standing(false);
    asthra__join_workers(g);
    if (is_still) asthra__report_standing(true);
    Asthra__HelpersEnd end_helpers = asthra__load(&g->end_helpers, acquire);
    if (end_helpers != NULL) end_helpers();
    asthra__seats_dismiss(g);
    asthra__report_teardown();
    asthra__stack_set_owner(NULL);
    asthra__stack_end_tasks();
    asthra__os_fault_stack_leave(s->thread->fault_stack);
    s->thread->fault_stack = NULL;
    asthra__task_teardown();
    asthra__workers_destroy(g);
    asthra__fiber_teardown();
    asthra__scheduler_turn_inward(g, false);
    asthra__scheduler_forget();
}

#endif
