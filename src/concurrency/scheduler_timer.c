/* scheduler - timers.                                                      [scheduler] body: timers
 *
 * Each worker has a heap of deadlines, four children to a node, under a lock of its own; `earliest`
 * is published, so that an idle worker can see and run another's due timers. A wait knows its place
 * in the heap (timer_slot is the index + 1), so that a wait that ends early takes its timer along:
 * a million timeouts that never fire leave nothing behind.
 *
 * Firing claims the wait under the heap's lock and takes it out; a wait that ends early takes
 * itself out under the same lock. So a timer never touches a wait that is over, and a wait that is
 * being fired is claimed, therefore cannot be over before its wake. Claiming waits out BUSY, whose
 * holder needs no timer lock while it is BUSY.
 */
#include "scheduler_internal.h"

#if ASTHRA_HAS_TASK

static void asthra__timers_place(Asthra__Timers *t, size_t at, Asthra__TimerEntry e) {
    t->heap[at] = e;
    e.wait->timer_slot = at + 1;
}

static void asthra__timers_up(Asthra__Timers *t, size_t at, Asthra__TimerEntry e) {
    while (at > 0 && e.deadline_ns < t->heap[(at - 1) / 4].deadline_ns) {
        asthra__timers_place(t, at, t->heap[(at - 1) / 4]);
        at = (at - 1) / 4;
    }
    asthra__timers_place(t, at, e);
}

static void asthra__timers_down(Asthra__Timers *t, size_t at, Asthra__TimerEntry e) {
    for (;;) {
        size_t first = at * 4 + 1, best = first;
        if (first >= t->count) break;
        for (size_t i = first + 1; i < first + 4 && i < t->count; i++) {
            if (t->heap[i].deadline_ns < t->heap[best].deadline_ns) best = i;
        }
        if (e.deadline_ns <= t->heap[best].deadline_ns) break;
        asthra__timers_place(t, at, t->heap[best]);
        at = best;
    }
    asthra__timers_place(t, at, e);
}

static void asthra__timers_take(Asthra__Timers *t, size_t at) {
    Asthra__TimerEntry last = t->heap[--t->count];
    t->heap[at].wait->timer_slot = 0;
    if (at < t->count) {
        asthra__timers_up(t, at, last);
        asthra__timers_down(t, last.wait->timer_slot - 1, last);
    }
    asthra__store(&t->earliest_ns, t->count == 0 ? INT64_MAX : t->heap[0].deadline_ns, release);
}

ASTHRA__FN bool asthra__timer_add(Asthra__Worker *w, Asthra__Wait *wait) {
    Asthra__Timers *t = &w->timers;
    Asthra__TimerEntry e = {wait->deadline_ns, wait};
    asthra__lock(&t->lock);
    if (t->count == t->room) {
        size_t room = t->room == 0 ? 64 : t->room * 2;
        Asthra__TimerEntry *heap = asthra__realloc(t->heap, room * sizeof *heap);
        if (heap == NULL) {
            asthra__unlock(&t->lock);
            return false;
        }
        t->heap = heap;
        t->room = room;
    }
    wait->timer_owner = w;
    asthra__timers_up(t, t->count++, e);
    asthra__store(&t->earliest_ns, t->heap[0].deadline_ns, release);
    asthra__unlock(&t->lock);
    asthra__os_fence_light();
    asthra__safepoint_ask();
    if (asthra__is_uncounted(asthra__scheduler(), w)) asthra__notify(); /* all others may rest */
    return true;
}

ASTHRA__FN void asthra__timer_remove(Asthra__Wait *wait) {
    Asthra__Timers *t = &wait->timer_owner->timers;
    asthra__lock(&t->lock);
    if (wait->timer_slot != 0) asthra__timers_take(t, wait->timer_slot - 1);
    asthra__unlock(&t->lock);
}

/* Fires up to 64 due timers: claimed under the lock, woken after it. */
static size_t asthra__timers_fire(Asthra__Timers *t, int64_t now_ns) {
    Asthra__Wait *due[64];
    size_t count = 0, seen = 0;
    asthra__lock(&t->lock);
    while (seen < 64 && t->count > 0 && t->heap[0].deadline_ns <= now_ns) {
        Asthra__Wait *wait = t->heap[0].wait;
        asthra__timers_take(t, 0);
        seen++;
        if (asthra__wait_claim(wait->parker)) due[count++] = wait;
    }
    asthra__unlock(&t->lock);
    for (size_t i = 0; i < count; i++) asthra__wait_end(due[i], ASTHRA_TIMED_OUT);
    return seen;
}

ASTHRA__FN bool asthra__timers_run(Asthra__Worker *w, int64_t now_ns) {
    bool any = false;
    while (asthra__load(&w->timers.earliest_ns, acquire) <= now_ns) {
        any = asthra__timers_fire(&w->timers, now_ns) > 0 || any;
    }
    return any;
}

ASTHRA__FN int64_t asthra__timers_earliest(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    int64_t earliest = INT64_MAX;
    for (unsigned i = 0; i < asthra__load(&g->queue_count, acquire); i++) {
        int64_t mine = asthra__load(&g->workers[i].timers.earliest_ns, acquire);
        if (mine < earliest) earliest = mine;
    }
    return earliest;
}

#endif
