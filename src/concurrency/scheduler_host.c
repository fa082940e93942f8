/* scheduler - a main thread with a loop of its own.                        [scheduler] body: host
 *
 * Work that is bound to main waits in the queue of main's worker: worker 0 if main helps; if it
 * hosts, one more worker behind the others, which is in the queues' count but not in the workers',
 * because it never lies down. asthra__host_poll seats main there for a while: it leaves main's
 * stack, runs the loop, and the loop comes back when nothing is due or the time is over.
 *
 * What main may run. Only what is bound to it, if others serve the rest: a host's loop wants short
 * turns. Everything, if main is the only worker there is: without threads, under a seed, and with
 * one worker as long as no other thread works beside it. Whoever asks for the descriptor there gets
 * such a thread (relief), so that what waits for timers and descriptors needs no call of main's.
 *
 * The signal. Whoever gives main work publishes it, then exchanges is_signalled for 1, and sets the
 * signal if it was 0. A poll at its end clears the signal, stores 0, then looks at the queue once
 * more, and tells itself if there is work left. So between polls work implies a signal: work
 * published before the store is seen in the queue, after it the exchange sees 0.
 *
 * Where main is alone, all work is main's: `searching` is held at 1, so that every notify comes by
 * here.
 */
#include "scheduler_internal.h"

#if ASTHRA_HAS_TASK

enum { ASTHRA__HOST_TICK_NS = 1000000 };

ASTHRA__FN Asthra__Worker *asthra__main_worker(Asthra__Scheduler *g) {
    return &g->workers[g->config.main_helps ? 0 : g->workers_made - 1];
}

/* Is main the one that runs everything? */
static bool asthra__host_is_alone(Asthra__Scheduler *g) {
    return g->config.main_helps && asthra__load(&g->worker_count, acquire) == 1 &&
           asthra__load(&g->workers[0].only_bound, relaxed) == 0;
}

ASTHRA__FN void asthra__host_tell(Asthra__Scheduler *g) {
    if (ASTHRA__LIKELY(asthra__load(&g->has_signal, seq_cst) == 0)) return;
    if (asthra__exchange(&g->is_signalled, 1u, seq_cst) == 0) asthra__os_signal_set(g->host_signal);
}

static void asthra__host_hush(Asthra__Scheduler *g) {
    if (asthra__load(&g->is_signalled, acquire) == 0) return;
    asthra__os_signal_clear(g->host_signal);
    asthra__store(&g->is_signalled, 0u, seq_cst);
}

ASTHRA__FN void asthra__host_tell_if_alone(Asthra__Scheduler *g) {
    bool asks = asthra__load(&g->has_signal, relaxed) != 0;
    if (ASTHRA__UNLIKELY(asks) && asthra__host_is_alone(g)) asthra__host_tell(g);
}

static bool asthra__host_has_work(Asthra__Scheduler *g, Asthra__Worker *w) {
    if (asthra__load(&w->bound.count, seq_cst) != 0) return true;
    return asthra__host_is_alone(g) && asthra__work_exists(g, w);
}

/* ---- the loop, inside a poll ---- */

/* The slot of main's worker, if main may run it; else it goes to the others. */
static Asthra__Runnable *asthra__host_next(Asthra__Scheduler *g, Asthra__Worker *w) {
    Asthra__Runnable *item = asthra__next_take(w);
    if (item == NULL) return NULL;
    if (ASTHRA__CONTAINER(Asthra__Fiber, runnable, item)->bound_to == w->number) return item;
    asthra__list_push(&g->global, item);
    asthra__notify();
    return NULL;
}

static Asthra__Runnable *asthra__host_pick(Asthra__Scheduler *g, Asthra__Worker *w) {
    Asthra__Runnable *item;
    if (asthra__host_is_alone(g)) {
        do item = asthra__pick(w);
        while (item == NULL && (asthra__outside_poll(g) || asthra__advance_virtual_time(g, w)));
        return item;
    }
    w->turns++;
    asthra__store(&w->turns_seen, w->turns, relaxed);
    item = asthra__host_next(g, w);
    return item != NULL ? item : asthra__ranked_pop(&w->bound);
}

ASTHRA__FN Asthra__Runnable *asthra__host_item(Asthra__Worker *w) {
    Asthra__Scheduler *g = asthra__scheduler();
    w->now_ns = asthra__os_now_ns();
    if (w->host_turns > 0 && w->now_ns >= w->host_end_ns) return NULL;
    if (!asthra__is_deterministic()) asthra__timers_run(w, w->now_ns);
    Asthra__Runnable *item = asthra__host_pick(g, w);
    if (item != NULL) w->host_turns++;
    return item;
}

ASTHRA__FN size_t asthra__host_poll(Asthra__Seat *s, int64_t budget_ns) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Worker *w = asthra__main_worker(g);
    bool is_seated = s->worker != NULL;
    if (!asthra__spare_ensure(w)) {
        asthra__error_set(ASTHRA_OUT_OF_MEMORY, "asthra_runtime_poll: no stack to run tasks on");
        return 0;
    }
    int64_t now = asthra__os_now_ns();
    w->host_end_ns = budget_ns < 0 || budget_ns >= INT64_MAX - now ? INT64_MAX : now + budget_ns;
    w->host_turns = 0;
    w->is_hosted = true;
    s->worker = w;
    asthra__store(&w->is_outside, 0u, relaxed);
    s = asthra__worker_enter(s);
    if (g->config.main_helps) asthra__store(&w->is_outside, 1u, relaxed);
    w->is_hosted = false;
    if (!asthra__host_is_alone(g)) {
        Asthra__Runnable *item = asthra__host_next(g, w);
        if (item != NULL) asthra__ranked_push(&w->bound, &asthra__fiber_of(item)->ranked);
    }
    if (!is_seated) s->worker = NULL;
    asthra__host_hush(g);
    if (asthra__host_has_work(g, w)) asthra__host_tell(g);
    return w->host_turns;
}

/* ---- what a host asks between polls ---- */

ASTHRA__FN int64_t asthra__host_deadline(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Worker *w = asthra__main_worker(g);
    if (asthra__host_has_work(g, w)) return asthra__now_ns();
    if (!asthra__host_is_alone(g)) return asthra__load(&w->timers.earliest_ns, acquire);
    int64_t earliest = asthra__timers_earliest(), tick = asthra__now_ns() + ASTHRA__HOST_TICK_NS;
    return asthra__outside_is_awaited(g) && tick < earliest ? tick : earliest;
}

/* Opens the signal. Caller holds start_lock. */
static bool asthra__host_open(Asthra__Scheduler *g) {
    if (asthra__load(&g->has_signal, relaxed)) return true;
    g->host_signal = asthra__os_signal_open();
    if (g->host_signal.fd < 0) return false;
    if (asthra__host_is_alone(g)) asthra__add(&g->searching, 1u, seq_cst);
    asthra__store(&g->has_signal, 1u, seq_cst);
    return true;
}

ASTHRA__FN int asthra__host_fd(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (!asthra__scheduler_relieve()) return -1;
    asthra__lock(&g->start_lock);
    bool is_open = asthra__host_open(g);
    asthra__unlock(&g->start_lock);
    if (!is_open) {
        asthra__error_set(ASTHRA_LIMIT, "asthra_runtime_wake_fd: the system refused a descriptor");
        return -1;
    }
    if (asthra__host_has_work(g, asthra__main_worker(g))) asthra__host_tell(g);
    return g->host_signal.fd;
}

#endif
