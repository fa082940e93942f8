/* scheduler - run queues.                                                  [scheduler] body: queues
 *
 * Where work waits, in the order in which a worker looks:
 *
 *     bound       ranked, locked: what only this worker may run (affinity, the main thread's stack)
 *     urgent      ranked, locked, global: priority above 0
 *     next        one slot: the fiber woken last, so that a rendezvous is one switch
 *     ring        first in, first out: fibers that were woken or yielded; others steal from it
 *     deque       last in, first out for its owner: tasks that have not started
 *     global      first in, first out: work of plain threads, and what did not fit a ring
 *     background  ranked, locked, global: priority below 0
 *
 * Fairness. The slot is used at most ASTHRA__FAIR_TURNS times in a row while the ring holds work.
 * Every eighth turn begins with another queue, each of them once in ASTHRA__FAIR_TURNS turns. So
 * whatever is queued moves up by one at least every 64 turns. A rank is the order of
 * arrival less 2^20 for each step of priority, so that ranked work rises as it ages.
 */
#include "scheduler_internal.h"

#if ASTHRA_HAS_TASK

/* ---- lists ---- */

ASTHRA__FN void asthra__list_push(Asthra__ListQueue *q, Asthra__Runnable *item) {
    item->next = NULL;
    asthra__lock(&q->lock);
    if (q->first == NULL) q->last = &q->first;
    *q->last = item;
    q->last = &item->next;
    asthra__store(&q->count, asthra__load(&q->count, relaxed) + 1, release);
    asthra__unlock(&q->lock);
}

ASTHRA__FN Asthra__Runnable *asthra__list_pop_at(Asthra__ListQueue *q, uint32_t position) {
    if (asthra__load(&q->count, relaxed) == 0) return NULL;
    asthra__lock(&q->lock);
    Asthra__Runnable **at = &q->first;
    for (; position > 0 && *at != NULL && (*at)->next != NULL; position--) at = &(*at)->next;
    Asthra__Runnable *item = *at;
    if (item != NULL) {
        *at = item->next;
        if (q->last == &item->next) q->last = at;
        asthra__store(&q->count, asthra__load(&q->count, relaxed) - 1, relaxed);
    }
    asthra__unlock(&q->lock);
    return item;
}

/* False: somebody else has taken it. */
ASTHRA__FN bool asthra__list_remove(Asthra__ListQueue *q, Asthra__Runnable *item) {
    asthra__lock(&q->lock);
    Asthra__Runnable **at = &q->first;
    while (*at != NULL && *at != item) at = &(*at)->next;
    bool is_there = *at != NULL;
    if (is_there) {
        *at = item->next;
        if (q->last == &item->next) q->last = at;
        asthra__store(&q->count, asthra__load(&q->count, relaxed) - 1, relaxed);
    }
    asthra__unlock(&q->lock);
    return is_there;
}

ASTHRA__FN Asthra__Runnable *asthra__list_pop(Asthra__ListQueue *q) {
    return asthra__list_pop_at(q, 0);
}

/* ---- ranked queues: skew heaps (Sleator and Tarjan, Self-Adjusting Heaps, 1986), top-down ---- */

static Asthra__Ranked *asthra__ranked_merge(Asthra__Ranked *a, Asthra__Ranked *b) {
    Asthra__Ranked *root = NULL, **at = &root;
    while (a != NULL && b != NULL) {
        if (b->order < a->order) {
            Asthra__Ranked *swap = a;
            a = b;
            b = swap;
        }
        *at = a;
        Asthra__Ranked *right = a->right; /* goes on as the left child's side */
        a->right = a->left;
        at = &a->left;
        a = right;
    }
    *at = a != NULL ? a : b;
    return root;
}

ASTHRA__FN void asthra__ranked_push(Asthra__RankedQueue *q, Asthra__Ranked *r) {
    asthra__lock(&q->lock);
    r->left = r->right = NULL;
    r->order = q->sequence++ - (int64_t)r->item->priority * (1 << 20);
    q->root = asthra__ranked_merge(q->root, r);
    asthra__store(&q->count, asthra__load(&q->count, relaxed) + 1, release);
    asthra__add(&asthra__scheduler()->ranked, 1u, release);
    asthra__unlock(&q->lock);
}

ASTHRA__FN Asthra__Runnable *asthra__ranked_pop(Asthra__RankedQueue *q) {
    if (ASTHRA__LIKELY(asthra__load(&q->count, relaxed) == 0)) return NULL;
    asthra__lock(&q->lock);
    Asthra__Ranked *r = q->root;
    if (r != NULL) {
        q->root = asthra__ranked_merge(r->left, r->right);
        asthra__store(&q->count, asthra__load(&q->count, relaxed) - 1, relaxed);
        asthra__sub(&asthra__scheduler()->ranked, 1u, relaxed);
    }
    asthra__unlock(&q->lock);
    return r == NULL ? NULL : r->item;
}

/* ---- rings ---- */

ASTHRA__FN bool asthra__ring_push(Asthra__Ring *r, Asthra__Runnable *item) {
    uint32_t tail = asthra__load(&r->tail, relaxed);
    if (tail - asthra__load(&r->head, acquire) >= ASTHRA__RING) return false;
    asthra__store(&r->slots[tail % ASTHRA__RING], item, relaxed);
    asthra__store(&r->tail, tail + 1, release); /* pairs with the load of tail in ring_pop */
    return true;
}

/* The slot is read before the CAS: the owner reuses it only after head has moved on, and then the
 * CAS fails. */
ASTHRA__FN Asthra__Runnable *asthra__ring_pop(Asthra__Ring *r) {
    uint32_t head = asthra__load(&r->head, acquire);
    for (;;) {
        if (head == asthra__load(&r->tail, acquire)) return NULL;
        Asthra__Runnable *item = asthra__load(&r->slots[head % ASTHRA__RING], relaxed);
        if (asthra__cas(&r->head, &head, head + 1, acq_rel)) return item;
    }
}

ASTHRA__FN uint32_t asthra__ring_count(const Asthra__Ring *r) {
    return asthra__load(&r->tail, relaxed) - asthra__load(&r->head, relaxed);
}

/* ---- the slot ----
 *
 * Its owner takes and fills it with plain accesses; a thief comes only when the worker has been in
 * one turn for a whole tick of the watcher. The two exclude each other as Dekker's algorithm does,
 * with the expensive half of the fence on the thief's side: the owner raises owner_in, light fence,
 * looks at thief_in; the thief raises thief_in, heavy fence, looks at owner_in. At least one sees
 * the other; the thief then gives up, and the owner waits for it. */

static void asthra__next_enter(Asthra__Worker *w) {
    asthra__store(&w->owner_in, 1u, relaxed);
    asthra__os_fence_light();
    while (ASTHRA__UNLIKELY(asthra__load(&w->thief_in, acquire) != 0)) asthra__cpu_relax();
}

static void asthra__next_leave(Asthra__Worker *w) {
    asthra__store(&w->owner_in, 0u, release);
}

ASTHRA__FN Asthra__Runnable *asthra__next_take(Asthra__Worker *w) {
    if (asthra__load(&w->next, relaxed) == NULL) return NULL;
    asthra__next_enter(w);
    Asthra__Runnable *item = asthra__load(&w->next, relaxed);
    asthra__store(&w->next, (Asthra__Runnable *)NULL, relaxed);
    asthra__next_leave(w);
    return item;
}

/* Puts item into the slot; returns what was there. */
static Asthra__Runnable *asthra__next_put(Asthra__Worker *w, Asthra__Runnable *item) {
    asthra__next_enter(w);
    Asthra__Runnable *before = asthra__load(&w->next, relaxed);
    asthra__store(&w->next, item, release);
    asthra__next_leave(w);
    return before;
}

ASTHRA__FN Asthra__Runnable *asthra__next_steal(Asthra__Worker *w) {
    Asthra__Runnable *item = NULL;
    uint32_t free = 0;
    if (asthra__load(&w->next, relaxed) == NULL) return NULL;
    if (!asthra__cas(&w->thief_in, &free, 1u, acq_rel)) return NULL;
    asthra__os_fence_heavy();
    if (asthra__load(&w->owner_in, acquire) == 0) {
        item = asthra__load(&w->next, acquire);
        asthra__store(&w->next, (Asthra__Runnable *)NULL, relaxed);
    }
    asthra__store(&w->thief_in, 0u, release);
    return item;
}

/* ---- making runnable ---- */

static void asthra__ring_or_global(Asthra__Worker *w, Asthra__Runnable *item) {
    if (!asthra__ring_push(&w->ring, item)) asthra__list_push(&asthra__scheduler()->global, item);
    asthra__notify();
}

static void asthra__runnable_ranked(Asthra__Ranked *r, int bound_to) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (bound_to >= 0) {
        Asthra__Worker *owner = &g->workers[bound_to];
        asthra__ranked_push(&owner->bound, r);
        asthra__notify_worker(owner);
        if (owner == asthra__main_worker(g)) asthra__host_tell(g);
    } else {
        asthra__ranked_push(r->item->priority > 0 ? &g->urgent : &g->background, r);
        asthra__notify();
    }
}

ASTHRA__FN void asthra__runnable_fiber(Asthra__Worker *w, Asthra__Fiber *f, bool is_next) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Runnable *item = &f->runnable;
    if (ASTHRA__UNLIKELY(asthra__is_deterministic() || w == NULL)) {
        if (!asthra__is_deterministic() && (f->bound_to >= 0 || item->priority != 0)) {
            asthra__runnable_ranked(&f->ranked, f->bound_to);
            return;
        }
        asthra__list_push(&g->global, item);
        asthra__notify();
        return;
    }
    bool is_ours = f->bound_to < 0 || f->bound_to == w->number;
    if (ASTHRA__LIKELY(is_next && is_ours)) {
        item = asthra__next_put(w, item);
        asthra__safepoint_ask();
        if (!ASTHRA_HAS_THREADS) asthra__host_tell_if_alone(g);
        if (item == NULL) return;
        f = asthra__fiber_of(item);
    }
    if (f->bound_to >= 0 || item->priority != 0) {
        asthra__runnable_ranked(&f->ranked, f->bound_to);
    } else {
        asthra__ring_or_global(w, item);
    }
}

ASTHRA__FN ASTHRA__FAST void asthra__feed(Asthra__Scheduler *g, Asthra__Worker *w) {
    asthra__os_fence_light(); /* as in asthra__notify */
    uint32_t hungry = asthra__load(&g->sleeping, relaxed) | asthra__load(&g->searching, relaxed);
    if (ASTHRA__UNLIKELY(hungry != 0))
        asthra__feed_slow(w);
    else
        asthra__safepoint_ask();
}

ASTHRA__FN void asthra__runnable_task(Asthra__Seat *s, Asthra__Task *t) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Worker *w = s->worker;
    bool is_ranked = t->affinity != 0 || t->runnable.priority != 0;
    if (ASTHRA__UNLIKELY(is_ranked) && !asthra__is_deterministic()) {
        asthra__runnable_ranked(&t->extra->ranked, t->affinity - 1);
        return;
    }
    if (ASTHRA__UNLIKELY(w == NULL || asthra__is_deterministic()) ||
        ASTHRA__UNLIKELY(!asthra__deque_push(&w->deque, &t->runnable))) {
        asthra__list_push(&g->global, &t->runnable);
        asthra__notify();
        return;
    }
    asthra__feed(g, w);
}

/* ---- picking ---- */

/* Any of the first 32, as the seed says. */
static Asthra__Runnable *asthra__pick_deterministic(Asthra__Scheduler *g) {
    uint32_t count = asthra__load(&g->global.count, relaxed);
    if (count == 0) return NULL;
    if (asthra__load(&g->phase, acquire) == ASTHRA__PHASE_DRAINING) asthra__drain_turn();
    return asthra__list_pop_at(&g->global, asthra__random(count < 32 ? count : 32));
}

/* A turn that begins elsewhere. Timers are run on a turn that only a loop takes: see
 * asthra__leave. */
ASTHRA__COLD static Asthra__Runnable *asthra__pick_fairly(Asthra__Scheduler *g, Asthra__Worker *w) {
    switch (w->turns / ASTHRA__FAIR_STEP % (ASTHRA__FAIR_TURNS / ASTHRA__FAIR_STEP)) {
    case 0:
        w->now_ns = asthra__os_now_ns();
        asthra__timers_run(w, w->now_ns);
        if (asthra__load(&g->workers[0].is_outside, relaxed)) {
            asthra__timers_run(&g->workers[0], w->now_ns);
        }
        asthra__outside_poll(g);
        return asthra__list_pop(&g->global);
    case 1: return asthra__deque_oldest(&w->deque);
    case 2: return asthra__ring_pop(&w->ring);
    case 3: return asthra__ranked_pop(&g->background);
    case 4: return asthra__ranked_pop(&g->urgent);
    case 5: return asthra__next_take(w);
    case 6: return asthra__take_from_main(w);
    default: return NULL;
    }
}

ASTHRA__FN ASTHRA__FAST Asthra__Runnable *asthra__pick(Asthra__Worker *w) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Runnable *item;
    w->turns++;
    asthra__store(&w->turns_seen, w->turns, relaxed);
    if (ASTHRA__UNLIKELY(asthra__is_deterministic())) return asthra__pick_deterministic(g);
    if (ASTHRA__UNLIKELY(w->turns % ASTHRA__FAIR_STEP == 0)) {
        if ((item = asthra__pick_fairly(g, w)) != NULL) return item;
    }
    bool any_ranked = asthra__load(&g->ranked, relaxed) != 0;
    if (ASTHRA__UNLIKELY(any_ranked)) {
        if ((item = asthra__ranked_pop(&w->bound)) != NULL) return item;
        if ((item = asthra__ranked_pop(&g->urgent)) != NULL) return item;
    }
    if (++w->next_streak < ASTHRA__FAIR_TURNS || asthra__ring_count(&w->ring) == 0) {
        if ((item = asthra__next_take(w)) != NULL) return item;
    }
    w->next_streak = 0;
    if ((item = asthra__ring_pop(&w->ring)) != NULL) return item;
    if ((item = asthra__next_take(w)) != NULL) return item;
    if ((item = asthra__deque_pop(&w->deque)) != NULL) return item;
    if ((item = asthra__list_pop(&g->global)) != NULL) return item;
    return any_ranked ? asthra__ranked_pop(&g->background) : NULL;
}

/* Is somebody else waiting for a turn here? Asked by what would go on without giving one. */
ASTHRA__FN bool asthra__has_other_work(Asthra__Worker *w) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (asthra__load(&w->next, relaxed) != NULL || asthra__ring_count(&w->ring) != 0) return true;
    if (asthra__load(&g->global.count, relaxed) != 0) return true;
    if (asthra__load(&w->bound.count, relaxed) != 0) return true;
    if (asthra__load(&g->urgent.count, relaxed) != 0) return true;
    return asthra__load(&w->timers.earliest_ns, relaxed) <= asthra__now_ns();
}

#endif
