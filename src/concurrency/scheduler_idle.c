/* scheduler - workers without work.                                        [scheduler] body: idle
 *
 * A worker that finds nothing of its own searches: it steals from the others and looks at the
 * global queues for a short while, then sleeps on its word `asleep`. At most half of the workers
 * search. While somebody searches or sleeps, whoever spawns shares (asthra__feed); what is not
 * shared is wrested from its owner now and then, and before going to sleep.
 *
 * Counters: sleeping counts words `asleep` that are 1; searching counts workers that search, or
 * were woken in order to. Whoever turns a word from 1 to 0, the sleeper at a timeout or somebody
 * with work, takes it out of `sleeping`; a waker adds it to `searching` on its behalf.
 *
 * No wake-up is lost.
 *   - Work is published first, then: light fence, look at sleeping and searching. Somebody sleeps
 *     and nobody searches: wake one. A sleeper does it the other way round: asleep = 1, sleeping +
 *     1, heavy fence, look at every queue once more. Either the producer sees the sleeper or the
 *     sleeper sees the work. (Who sleeps for a tick does without the fence, which costs a call of
 *     the system and an interrupt elsewhere, and may see the work a tick late.)
 *   - A producer that saw a searcher relies on it. A searcher that stops searching without work
 *     does so before that last look at all queues, so it sees what was published before it stopped.
 *     One that found work and was the last searcher wakes another, because there may be more.
 *
 * Watching. A slot `next` is not stolen at once, or two tasks that talk to each other would be torn
 * apart; timers of a worker that computes for long must fire. So while somebody is awake, one of
 * the sleepers watches: it sleeps in ticks of 50 us, doubling up to 1 ms. When a worker has been in
 * the same turn for a whole tick, its slot is taken; due timers are run. When everybody rests, the
 * watcher is the one that lies down last, or, if somebody ticks, that one at the end of its tick,
 * and sleeps until the next timer; it sees nothing meanwhile, so whoever lies down after it, or
 * leaves the rest, finds another. (It says that it sleeps, or that it watches no more, then looks
 * whether all still rest, and at the timers; whoever leaves says so, then looks whether somebody
 * ticks. What it saw before it said so does not count: another may have been up since and down
 * again, with a timer for which it relied on the tick.) So those who rest and wake many times in a
 * tick rouse nobody for it.
 *
 * Safepoints. Where every worker computes, nobody watches, and nobody else may run what is bound to
 * one of them. So whoever makes something runnable, sets a timer or stops watching also sets the
 * word that safepoints read; a loop that has used its turn for a while then looks for itself.
 *
 * Rest without a timer and with tasks left is the end of shutdown's first phase, or a deadlock: see
 * scheduler_report.c. While threads that we do not know might still end it, the last one looks
 * again every second, because nobody is told when such a thread is gone. (A main that hosts looks
 * itself.)
 */
#include "scheduler_internal.h"

#if ASTHRA_HAS_TASK

/* Scheduler.watching: 0, or the watcher's mark, with this while it sleeps until the next timer */
#define ASTHRA__WATCH_SLEEPS 1u

enum {
    ASTHRA__SEARCH_ROUNDS = 40,
    ASTHRA__SEARCH_ROUNDS_OUTSIDE = 2, /* each of which asks the system */
    ASTHRA__TICK_FIRST_US = 50,
    ASTHRA__TICK_MOST_US = 1000,
    ASTHRA__SAFEPOINT_US = 200
};

/* ---- waking ---- */

/* Turns the word of a sleeper; true: it was asleep and will search. */
static bool asthra__rouse(Asthra__Scheduler *g, Asthra__Worker *w) {
    uint32_t asleep = asthra__load(&w->asleep, relaxed);
    if (asleep == ASTHRA__AWAKE) return false;
    asthra__sub(&g->sleeping, 1u, seq_cst); /* first: nobody may count it as asleep when it runs */
    asthra__add(&g->searching, 1u, seq_cst);
    while (asleep != ASTHRA__AWAKE) { /* it may go from its word into the poller meanwhile */
        if (!asthra__cas(&w->asleep, &asleep, (uint32_t)ASTHRA__AWAKE, acq_rel)) continue;
        if (asleep == ASTHRA__ASLEEP)
            asthra__os_wake(&w->asleep, 1);
        else
            asthra__load(&g->poller, acquire)->wake();
        return true;
    }
    asthra__sub(&g->searching, 1u, seq_cst);
    asthra__add(&g->sleeping, 1u, seq_cst);
    return false;
}

ASTHRA__COLD static void asthra__rouse_any(Asthra__Scheduler *g) {
    for (unsigned i = asthra__load(&g->worker_count, acquire); i-- > 0;) {
        if (asthra__rouse(g, &g->workers[i])) return;
    }
}

ASTHRA__FN void asthra__notify(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    asthra__os_fence_light();
    if (asthra__load(&g->searching, relaxed) != 0) {
        asthra__host_tell_if_alone(g);
        return;
    }
    if (ASTHRA__LIKELY(asthra__load(&g->sleeping, relaxed) == 0))
        asthra__safepoint_ask();
    else
        asthra__rouse_any(g);
}

ASTHRA__COLD ASTHRA__FN void asthra__feed_slow(Asthra__Worker *w) {
    if (asthra__deque_count(&w->deque) == 0) return;
    asthra__deque_share(&w->deque);
    asthra__notify();
}

ASTHRA__FN void asthra__notify_worker(Asthra__Worker *w) {
    asthra__os_fence_light();
    if (!asthra__rouse(asthra__scheduler(), w)) asthra__safepoint_ask();
}

ASTHRA__FN void asthra__notify_all(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    asthra__os_fence_heavy();
    for (unsigned i = 0; i < asthra__load(&g->worker_count, acquire); i++)
        asthra__rouse(g, &g->workers[i]);
}

/* ---- searching ---- */

static Asthra__Runnable *asthra__steal(Asthra__Scheduler *g, Asthra__Worker *thief, bool wrests) {
    uint32_t start = asthra__random(asthra__load(&g->queue_count, acquire));
    for (unsigned i = 0; i < asthra__load(&g->queue_count, acquire); i++) {
        Asthra__Worker *victim = &g->workers[(start + i) % asthra__load(&g->queue_count, acquire)];
        Asthra__Runnable *item;
        if (victim == thief) continue;
        item = wrests ? asthra__deque_wrest(&victim->deque) : asthra__deque_steal(&victim->deque);
        if (item != NULL) return item;
        if (asthra__ring_count(&victim->ring) != 0 &&
            (item = asthra__ring_pop(&victim->ring)) != NULL) {
            return item;
        }
    }
    return NULL;
}

static int asthra__search_rounds(Asthra__Scheduler *g) {
    if (!g->config.spins || asthra__load(&g->worker_count, acquire) < 2) return 1;
    return asthra__outside_is_awaited(g) ? ASTHRA__SEARCH_ROUNDS_OUTSIDE : ASTHRA__SEARCH_ROUNDS;
}

static Asthra__Runnable *asthra__search(Asthra__Scheduler *g, Asthra__Worker *w, bool spins) {
    int rounds = spins ? asthra__search_rounds(g) : 1;
    for (int round = 0; round < rounds; round++) {
        Asthra__Runnable *item = asthra__pick(w);
        bool wrests = round % 16 == 15 || round + 1 == rounds;
        if (item == NULL && !asthra__is_deterministic()) item = asthra__steal(g, w, wrests);
        if (item == NULL && asthra__outside_poll(g)) item = asthra__pick(w);
        if (item != NULL) return item;
        for (int i = 0; i < 32 && round + 1 < rounds; i++) asthra__cpu_relax();
    }
    return NULL;
}

/* Is there anything that a worker which lies down should rather do? A look without taking. */
ASTHRA__FN bool asthra__work_exists(Asthra__Scheduler *g, Asthra__Worker *w) {
    if (asthra__load(&w->next, relaxed) != NULL || asthra__load(&w->bound.count, relaxed) != 0 ||
        asthra__load(&g->global.count, relaxed) != 0 ||
        asthra__load(&g->urgent.count, relaxed) != 0 ||
        asthra__load(&g->background.count, relaxed) != 0) {
        return true;
    }
    for (unsigned i = 0; i < asthra__load(&g->queue_count, acquire); i++) {
        if (asthra__deque_count(&g->workers[i].deque) != 0) return true;
        if (asthra__ring_count(&g->workers[i].ring) != 0) return true;
    }
    return false;
}

/* ---- watching ---- */

/* Has it been in one turn for a whole tick, as far as those saw who looked? What they saw is kept
 * with it: whoever watches may itself have work now and then, and begins no new count. */
static bool asthra__is_stuck(Asthra__Worker *w, int64_t now_ns) {
    uint32_t seen = asthra__load(&w->turns_seen, relaxed);
    if (asthra__load(&w->turns_watched, relaxed) == seen) {
        return now_ns - asthra__load(&w->watched_ns, relaxed) >= ASTHRA__TICK_FIRST_US * 1000;
    }
    asthra__store(&w->turns_watched, seen, relaxed);
    asthra__store(&w->watched_ns, now_ns, relaxed);
    return false;
}

/* Takes what a stuck worker was to run next, if w may run it. */
static Asthra__Runnable *asthra__next_of_stuck(Asthra__Worker *w, Asthra__Worker *other) {
    Asthra__Runnable *item = asthra__next_steal(other);
    if (item == NULL) return NULL;
    Asthra__Fiber *f = asthra__fiber_of(item); /* nothing else is there */
    if (f->bound_to < 0 || f->bound_to == w->number) return item;
    asthra__runnable_fiber(w, f, false); /* to its own worker's queue */
    return NULL;
}

/* Helps workers that have been in one turn for a tick. Returns what it took, or NULL. */
static Asthra__Runnable *asthra__watch(Asthra__Scheduler *g, Asthra__Worker *w) {
    Asthra__Runnable *item = NULL;
    w->now_ns = asthra__now_ns();
    for (unsigned i = 0; i < asthra__load(&g->queue_count, acquire); i++) {
        Asthra__Worker *other = &g->workers[i];
        bool is_stuck = asthra__is_stuck(other, w->now_ns);
        asthra__timers_run(other, w->now_ns);
        if (is_stuck && item == NULL && other != w) item = asthra__next_of_stuck(w, other);
    }
    return item;
}

/* ---- safepoints ---- */

static bool asthra__somebody_watches(Asthra__Scheduler *g) {
    uint32_t seen = asthra__load(&g->watching, seq_cst);
    return seen != 0 && !(seen & ASTHRA__WATCH_SLEEPS);
}

/* No timer is set, and nobody waits for the outside. */
static bool asthra__awaits_nothing(Asthra__Scheduler *g) {
    return asthra__timers_earliest() == INT64_MAX && !asthra__outside_is_awaited(g);
}

/* Timers or the outside, and no idle worker that would see them. */
static bool asthra__needs_watch(Asthra__Scheduler *g) {
    return !asthra__awaits_nothing(g) && !asthra__somebody_watches(g);
}

/* Nobody waits, so that safepoints cost nothing until somebody asks again. Whoever asks publishes
 * first, then looks at the word, with a light fence between; we clear it, then look once more. */
ASTHRA__COLD static void asthra__safepoint_rest(Asthra__Scheduler *g, Asthra__Worker *w) {
    __atomic_store_n(&asthra_safepoint_word, 0u, __ATOMIC_RELAXED);
    asthra__os_fence_heavy();
    if (asthra__needs_watch(g) || asthra__work_exists(g, w)) asthra__safepoint_ask();
}

/* A clock costs more than the rest of it, so it is read at every sixteenth call of a turn. */
ASTHRA__FN bool asthra__safepoint_is_due(Asthra__Worker *w) {
    Asthra__Scheduler *g = asthra__scheduler();
    bool is_new = w->safepoint_turn != w->turns;
    w->safepoint_turn = w->turns;
    w->safepoint_calls = is_new ? 0 : w->safepoint_calls + 1;
    if (w->safepoint_calls % 16 != 0) return false;
    int64_t now_ns = asthra__os_now_ns();
    if (is_new) w->safepoint_ns = now_ns;
    if (now_ns - w->safepoint_ns < ASTHRA__SAFEPOINT_US * 1000) return false;
    w->safepoint_ns = now_ns;
    for (unsigned i = 0; i < asthra__load(&g->queue_count, acquire); i++)
        asthra__timers_run(&g->workers[i], now_ns);
    asthra__outside_poll(g);
    if (asthra__work_exists(g, w)) return true;
    if (!asthra__needs_watch(g)) asthra__safepoint_rest(g, w);
    return false;
}

/* Main is away and its queues get no turns: those who have work enough look there now and then. */
ASTHRA__FN Asthra__Runnable *asthra__take_from_main(Asthra__Worker *w) {
    Asthra__Worker *main = &asthra__scheduler()->workers[0];
    Asthra__Runnable *item;
    if (w == main || asthra__load(&main->is_outside, relaxed) == 0) return NULL;
    if ((item = asthra__deque_steal(&main->deque)) != NULL) return item;
    if ((item = asthra__ring_pop(&main->ring)) != NULL) return item;
    if (!asthra__is_stuck(main, asthra__os_now_ns())) return NULL;
    if ((item = asthra__deque_wrest(&main->deque)) != NULL) return item;
    return asthra__next_of_stuck(w, main);
}

/* In the deterministic mode time stands still while anything can run. */
ASTHRA__FN bool asthra__advance_virtual_time(Asthra__Scheduler *g, Asthra__Worker *w) {
    int64_t earliest = asthra__timers_earliest();
    if (!asthra__is_deterministic() || earliest == INT64_MAX) return false;
    if (asthra__load(&g->phase, acquire) == ASTHRA__PHASE_DRAINING && !g->drain_quiescent) {
        return false; /* those who sleep are parked: they will be cancelled */
    }
    if (earliest > g->virtual_ns) g->virtual_ns = earliest;
    return asthra__timers_run(w, g->virtual_ns);
}

/* ---- resting ---- */

/* Nothing can run: the first phase of shutdown is over. False: it was, or nobody drains. */
ASTHRA__FN bool asthra__drain_is_quiescent(Asthra__Scheduler *g) {
    asthra__lock(&g->drain_lock);
    Asthra__Parker *drainer = asthra__load(&g->drainer, relaxed);
    bool is_ours = drainer != NULL && !g->drain_quiescent && asthra__wait_claim(drainer);
    g->drain_quiescent = g->drain_quiescent || is_ours;
    asthra__unlock(&g->drain_lock);
    if (is_ours) asthra__wait_wake(drainer);
    return is_ours;
}

/* Everybody else rests too, and no timer will change that. True: it made shutdown go on, perhaps
 * on this worker. */
ASTHRA__COLD static bool asthra__all_rest(Asthra__Scheduler *g) {
    if (asthra__load(&g->phase, acquire) == ASTHRA__PHASE_DRAINING) {
        return asthra__rest_is_total() && asthra__drain_is_quiescent(g);
    }
    if (asthra__all_are_asleep()) asthra__report_asleep();
    return false;
}

static uint32_t asthra__watch_mark(const Asthra__Worker *w) {
    return (uint32_t)(w->number + 1) * 2;
}

/* True: w, which lies down, is the watcher. False: somebody else ticks. */
static bool asthra__take_watch(Asthra__Scheduler *g, const Asthra__Worker *w, bool all_rest) {
    uint32_t mark = asthra__watch_mark(w), seen = asthra__load(&g->watching, seq_cst);
    uint32_t wanted = all_rest ? mark | ASTHRA__WATCH_SLEEPS : mark;
    while (seen == 0 || (seen & ASTHRA__WATCH_SLEEPS) || seen == mark) {
        if (asthra__cas(&g->watching, &seen, wanted, seq_cst)) return true;
    }
    return false;
}

static bool asthra__is_watcher(Asthra__Scheduler *g, const Asthra__Worker *w) {
    uint32_t seen = asthra__load(&g->watching, relaxed);
    return (seen | ASTHRA__WATCH_SLEEPS) == (asthra__watch_mark(w) | ASTHRA__WATCH_SLEEPS);
}

/* Wakes up: if it was the watcher and was not relieved, it is one that ticks. */
static void asthra__wake_watch(Asthra__Scheduler *g, const Asthra__Worker *w) {
    uint32_t seen = asthra__watch_mark(w) | ASTHRA__WATCH_SLEEPS;
    if (asthra__load(&g->watching, relaxed) == seen)
        asthra__cas(&g->watching, &seen, asthra__watch_mark(w), acq_rel);
}

static void asthra__stop_watching(Asthra__Scheduler *g, const Asthra__Worker *w) {
    uint32_t seen = asthra__load(&g->watching, relaxed);
    if (asthra__is_watcher(g, w)) asthra__cas(&g->watching, &seen, 0u, seq_cst);
}

static bool asthra__all_sleep(Asthra__Scheduler *g) {
    return asthra__load(&g->sleeping, seq_cst) == asthra__load(&g->worker_count, acquire);
}

/* How long to sleep. For a tick only, if w ticks. 0: not at all, but look again. */
static int64_t asthra__rest_for(Asthra__Scheduler *g, Asthra__Worker *w, bool ticks,
                                int64_t *tick_us) {
    bool all_rest = !ticks && asthra__all_sleep(g);
    bool drains = asthra__load(&g->phase, acquire) == ASTHRA__PHASE_DRAINING;
    bool is_over = all_rest && (drains || asthra__timers_earliest() == INT64_MAX);
    if (is_over && asthra__all_rest(g)) return 0;
    if (all_rest && asthra__awaits_nothing(g)) {
        asthra__stop_watching(g, w);
        if (!asthra__all_sleep(g) || !asthra__awaits_nothing(g)) return 0;
        return g->config.main_helps && !drains ? ASTHRA__LOOK_AGAIN_NS : ASTHRA_FOREVER;
    }
    if (!asthra__take_watch(g, w, all_rest))
        return all_rest && asthra__outside_is_awaited(g) ? INT64_MAX : ASTHRA_FOREVER;
    if (all_rest && !asthra__all_sleep(g)) {
        asthra__wake_watch(g, w);
        all_rest = false;
    }
    if (all_rest && asthra__awaits_nothing(g)) return 0; /* not any more */
    w->now_ns = asthra__os_now_ns();
    int64_t earliest = asthra__timers_earliest();
    int64_t left = earliest == INT64_MAX ? INT64_MAX : earliest - w->now_ns;
    if (!all_rest && left > *tick_us * 1000) left = *tick_us * 1000;
    if (*tick_us < ASTHRA__TICK_MOST_US) *tick_us *= 2;
    return left < 0 ? 0 : left;
}

/* Lies down once. True: roused by a producer, which counted us as a searcher. */
static bool asthra__sleep_once(Asthra__Scheduler *g, Asthra__Worker *w, int64_t *tick_us) {
    bool got = false;
    asthra__store(&w->asleep, (uint32_t)ASTHRA__ASLEEP, seq_cst);
    asthra__add(&g->rests, 1u, seq_cst);
    asthra__add(&g->sleeping, 1u, seq_cst);
    bool ticks = !asthra__all_sleep(g) && asthra__take_watch(g, w, false);
    if (!ticks) asthra__os_fence_heavy(); /* pairs with the light one in notify */
    if (!asthra__work_exists(g, w) && asthra__load(&g->phase, acquire) != ASTHRA__PHASE_STOPPED) {
        int64_t left = asthra__rest_for(g, w, ticks, tick_us);
        if (left > 0 && asthra__outside_is_awaited(g))
            got = asthra__outside_sleep(g, w, left);
        else if (left != 0)
            asthra__os_wait(&w->asleep, ASTHRA__ASLEEP, left);
        asthra__wake_watch(g, w);
    }
    bool is_roused =
        asthra__exchange(&w->asleep, (uint32_t)ASTHRA__AWAKE, acq_rel) == ASTHRA__AWAKE;
    if (!is_roused) asthra__sub(&g->sleeping, 1u, seq_cst);
    if (got) asthra__outside_deliver(g);
    return is_roused;
}

/* After total rest nobody watches whoever wakes up first: it asks for a watcher. */
static void asthra__leave_rest(Asthra__Scheduler *g) {
    if (asthra__load(&g->worker_count, acquire) < 2 || asthra__load(&g->sleeping, seq_cst) == 0)
        return;
    if (!asthra__somebody_watches(g) && asthra__load(&g->searching, seq_cst) == 0)
        asthra__rouse_any(g);
}

/* Searches; a find by the last searcher calls for another. One that was roused is counted. */
static Asthra__Runnable *asthra__search_counted(Asthra__Scheduler *g, Asthra__Worker *w,
                                                bool is_counted, bool spins) {
    if (!is_counted) {
        if (asthra__load(&g->searching, relaxed) * 2 >= asthra__load(&g->worker_count, acquire) + 1)
            return asthra__pick(w); /* enough of us search: only what a timer made ours */
        asthra__add(&g->searching, 1u, seq_cst);
    }
    Asthra__Runnable *item = asthra__search(g, w, spins);
    uint32_t searchers = asthra__sub(&g->searching, 1u, seq_cst);
    if (item != NULL && searchers == 1) asthra__notify();
    return item;
}

ASTHRA__FN Asthra__Runnable *asthra__idle(Asthra__Worker *w) {
    Asthra__Scheduler *g = asthra__scheduler();
    int64_t tick_us = ASTHRA__TICK_FIRST_US;
    bool is_counted = false, is_tick = false;
    for (;;) {
        Asthra__Runnable *item = asthra__search_counted(g, w, is_counted, !is_tick);
        is_counted = is_tick = false;
        if (item == NULL && asthra__load(&g->phase, acquire) == ASTHRA__PHASE_STOPPED) {
            asthra__stop_watching(g, w);
            return NULL;
        }
        if (item == NULL && asthra__advance_virtual_time(g, w)) continue;
        if (item == NULL) is_counted = asthra__sleep_once(g, w, &tick_us);
        is_tick = item == NULL && !is_counted;
        if (is_tick) item = asthra__watch(g, w);
        if (item == NULL) continue;
        asthra__stop_watching(g, w);
        asthra__leave_rest(g);
        asthra__safepoint_ask(); /* timers are watched by nobody, perhaps */
        return item;
    }
}

#endif
