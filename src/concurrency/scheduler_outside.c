/* scheduler - events from outside the process.                            [scheduler] body: outside
 *
 * The floor above knows how to wait for them (Asthra__Poller); when, and on which thread, is
 * decided here. `outside` counts the waits; while it is 0 nothing of this costs more than a load.
 *
 *   - A worker that finds nothing to do asks, without waiting, before it spins or lies down.
 *   - Of those who lie down the watcher (scheduler_idle.c) and whoever does so last wait in the
 *     poller instead of on their word: while others are awake for a tick, at total rest until the
 *     next timer or for ever. Their word says so, and whoever rouses them ends the poll.
 *   - Where nobody lies down, every 64th turn of a worker asks, and safepoints do.
 *
 * One thread at a time is in the poller, from asking until what it was told is delivered. Who lies
 * down and finds a sleeper there sleeps on its word, since that one delivers, or is awake and lies
 * down again, later; if it finds one that asks, for a tick, and looks again.
 *
 * At total rest somebody waits in the poller, if there is a wait: a wait begins on a worker that is
 * awake, which counts it before it lies down; the one that lies down last sees the count. A main
 * that hosts is not counted among the workers, so it rouses one.
 */
#include "scheduler_internal.h"

#if ASTHRA_HAS_TASK

enum { ASTHRA__OUTSIDE_TICK_NS = 1000000 };
enum { ASTHRA__POLL_NOBODY, ASTHRA__POLL_ASKS, ASTHRA__POLL_SLEEPS }; /* Scheduler.polling */

ASTHRA__FN void asthra__outside_set_poller(const Asthra__Poller *p) {
    asthra__store(&asthra__scheduler()->poller, p, release);
}

ASTHRA__FN void asthra__outside_begin(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    asthra__add(&g->outside, 1u, seq_cst);
    const Asthra__Worker *w = asthra__seat()->worker;
    if (asthra__is_uncounted(g, w)) asthra__notify();
}

ASTHRA__FN void asthra__outside_end(void) {
    asthra__sub(&asthra__scheduler()->outside, 1u, seq_cst);
}

/* Who is in the poller; nobody: now the caller is. */
static uint32_t asthra__outside_enter(Asthra__Scheduler *g, uint32_t as) {
    uint32_t found = asthra__load(&g->polling, relaxed);
    if (found == ASTHRA__POLL_NOBODY) asthra__cas(&g->polling, &found, as, acquire);
    return found;
}

static void asthra__outside_leave(Asthra__Scheduler *g) {
    asthra__store(&g->polling, (uint32_t)ASTHRA__POLL_NOBODY, release);
}

ASTHRA__FN void asthra__outside_deliver(Asthra__Scheduler *g) {
    asthra__load(&g->poller, acquire)->deliver();
    asthra__outside_leave(g);
}

ASTHRA__FN bool asthra__outside_poll(Asthra__Scheduler *g) {
    if (ASTHRA__LIKELY(!asthra__outside_is_awaited(g))) return false;
    if (asthra__outside_enter(g, ASTHRA__POLL_ASKS) != ASTHRA__POLL_NOBODY) return false;
    bool got = asthra__load(&g->poller, acquire)->wait(0);
    if (got)
        asthra__outside_deliver(g);
    else
        asthra__outside_leave(g);
    return got;
}

ASTHRA__FN bool asthra__outside_sleep(Asthra__Scheduler *g, Asthra__Worker *w, int64_t left_ns) {
    uint32_t asleep = ASTHRA__ASLEEP, found = asthra__outside_enter(g, ASTHRA__POLL_SLEEPS);
    if (found != ASTHRA__POLL_NOBODY) {
        if (found == ASTHRA__POLL_ASKS && left_ns > ASTHRA__OUTSIDE_TICK_NS)
            left_ns = ASTHRA__OUTSIDE_TICK_NS;
        asthra__os_wait(&w->asleep, ASTHRA__ASLEEP, left_ns);
        return false;
    }
    bool got = asthra__cas(&w->asleep, &asleep, (uint32_t)ASTHRA__ASLEEP_OUTSIDE, acq_rel) &&
               asthra__load(&g->poller, acquire)->wait(left_ns == INT64_MAX ? -1 : left_ns);
    if (!got) asthra__outside_leave(g);
    return got;
}

/* ---- helpers ---- */

/* Whoever adds up who rests and who waits must not count a thread that was woken by a helper with
 * that helper, nor one that waits for a helper with that one. So `moves` is counted up before a
 * helper rests and after it has got up, and who adds up looks at it before and after. */
ASTHRA__FN void asthra__helper_rests(void) {
    asthra__add(&asthra__scheduler()->moves, 1u, seq_cst);
    asthra__add(&asthra__scheduler()->resting, 1u, seq_cst);
}

ASTHRA__FN void asthra__helper_works(void) {
    asthra__sub(&asthra__scheduler()->resting, 1u, seq_cst);
    asthra__add(&asthra__scheduler()->moves, 1u, seq_cst);
}

ASTHRA__FN bool asthra__helpers_may_spin(void) {
    return asthra__load(&asthra__scheduler()->helpers_spin, relaxed);
}

ASTHRA__FN void asthra__helpers_on_stop(Asthra__HelpersEnd end) {
    asthra__store(&asthra__scheduler()->end_helpers, end, release);
}

ASTHRA__FN void asthra__helpers_forget(void) {
    asthra__store(&asthra__scheduler()->resting, 0u, relaxed);
}

#endif
