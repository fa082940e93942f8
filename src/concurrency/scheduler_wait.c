/* scheduler - waiting and waking.                                          [scheduler] body: waits
 *
 * The states of a parker's word and who may change them stand in scheduler_internal.h. Here is why
 * no wake is lost and none comes twice.
 *
 *   - Exactly one party turns OPEN into DONE: a peer under its list's lock, a timer, a canceller,
 *     or the waiter itself (retract turns it into IDLE). All do it by compare-and-swap on one word.
 *   - That party alone calls asthra__wait_wake, once. If SWITCHED is set the stack has been left:
 *     it makes the fiber runnable. Else it sets WAKE; the worker that has just left the stack sets
 *     SWITCHED. Both are read-modify-writes of the same word, so one of them is second, and the
 *     second makes the fiber runnable.
 *   - With `held` the word starts SWITCHED, although the stack is still in use. Whoever finds the
 *     node holds the lock, which is released after the stack was left; a timer and a canceller find
 *     the wait elsewhere, so they pass through the lock before they wake.
 *   - Cancel and open: the canceller sets the task's CANCEL bit, heavy fence, then looks at the
 *     parker's word. The waiter writes OPEN, light fence, then looks at the CANCEL bit. One of them
 *     sees the other.
 *   - A plain thread sleeps on w->signal. It may return as soon as the signal is written, so the
 *     waker's last touch is a wake-up call on an address, which the system bears to be anything.
 */
#include "scheduler_internal.h"

#if ASTHRA_HAS_TASK

ASTHRA__FN Asthra__Parker *asthra__parker(void) {
    Asthra__Seat *s = asthra__seat();
    return s->task != NULL ? &s->task->parker : &s->parker;
}

ASTHRA__FN bool asthra__cancel_is_pending(const Asthra__Task *t) {
    return (asthra__load(&t->word, relaxed) & ASTHRA__TASK_CANCEL) != 0 &&
           asthra__load(&t->masks, relaxed) == 0;
}

/* The current task observes that it is cancelled. */
ASTHRA__FN bool asthra__cancel_observe(Asthra__Task *t) {
    if (t == NULL || ASTHRA__LIKELY(!asthra__cancel_is_pending(t))) return false;
    uint8_t marks = asthra__load(&t->marks, relaxed);
    asthra__store(&t->marks, (uint8_t)(marks | ASTHRA__TASK_SAW_CANCEL), relaxed);
    return true;
}

ASTHRA__FN bool asthra__cancel_pending(void) {
    return asthra__cancel_observe(asthra__seat()->task);
}

ASTHRA__FN Asthra__Parker *asthra__wait_open(Asthra__Wait *w) {
    Asthra__Seat *s = asthra__seat();
    Asthra__Parker *p = s->task != NULL ? &s->task->parker : &s->parker;
    uint32_t word = asthra__load(&p->word, relaxed) & ~(uint32_t)(ASTHRA__WAIT_TURN - 1);
    word += ASTHRA__WAIT_TURN + ASTHRA__WAIT_OPEN;
    if (w->held != NULL || s->worker == NULL) word |= ASTHRA__WAIT_SWITCHED;
    bool is_masked = s->task != NULL && asthra__load(&s->task->masks, relaxed) > 0;
    if (w->is_firm || is_masked) word |= ASTHRA__WAIT_FIRM;
    w->parker = p;
    w->fiber = s->worker != NULL ? s->fiber : NULL;
    w->outcome = ASTHRA_OK;
    w->winner = NULL;
    w->describe = NULL;
    w->timer_slot = 0;
    w->deadline_ns = INT64_MAX;
    asthra__store(&w->signal, 0u, relaxed);
    p->wait = w;
    asthra__store(&p->word, word, release);
    return p;
}

/* OPEN to `claim`; false if it was something else. */
static bool asthra__wait_close(Asthra__Parker *p, uint32_t claim) {
    uint32_t word = asthra__load(&p->word, acquire);
    while ((word & ASTHRA__WAIT_CLAIM) == ASTHRA__WAIT_OPEN) {
        uint32_t closed = (word & ~(uint32_t)ASTHRA__WAIT_CLAIM) | claim;
        if (asthra__cas(&p->word, &word, closed, acq_rel)) return true;
    }
    return false;
}

ASTHRA__FN bool asthra__wait_retract(Asthra__Wait *w) {
    return asthra__wait_close(w->parker, ASTHRA__WAIT_IDLE);
}

ASTHRA__FN bool asthra__wait_claim(Asthra__Parker *p) {
    for (unsigned rounds = 0;;) {
        if (ASTHRA__LIKELY(asthra__wait_close(p, ASTHRA__WAIT_DONE))) return true;
        uint32_t word = asthra__load(&p->word, acquire);
        if ((word & ASTHRA__WAIT_CLAIM) != ASTHRA__WAIT_BUSY &&
            (word & ASTHRA__WAIT_CLAIM) != ASTHRA__WAIT_OPEN) {
            return false;
        }
        if (++rounds % 64 != 0) {
            asthra__cpu_relax();
        } else {
            asthra__os_yield(); /* the owner of BUSY may have lost its core */
        }
    }
}

/* Claims for a party that did not find the wait in a list: a timer, a canceller. */
ASTHRA__FN void asthra__wait_end(Asthra__Wait *w, AsthraStatus outcome) {
    w->outcome = outcome;
    if (w->held != NULL) {
        Asthra__Lock *held = w->held;
        asthra__lock(held); /* until the waiter has left its stack */
        asthra__unlock(held);
    }
    asthra__wait_wake(w->parker);
}

/* Its stack has been left, or it is a thread: nothing may be assumed about w afterwards. */
static void asthra__wait_resume(Asthra__Worker *ours, Asthra__Wait *w) {
    if (w->fiber != NULL) {
        asthra__runnable_fiber(ours, w->fiber, true);
    } else {
        /* It counts as running now; it may not have counted itself as blocked yet. */
        asthra__sub(&asthra__scheduler()->host_blocked, 1u, seq_cst);
        asthra__store(&w->signal, 1u, release); /* pairs with the load in wait_on_thread */
        asthra__os_wake(&w->signal, 1);
    }
}

ASTHRA__FN void asthra__wait_wake(Asthra__Parker *p) {
    Asthra__Wait *w = p->wait;
    if (!(asthra__load(&p->word, acquire) & ASTHRA__WAIT_SWITCHED)) {
        uint32_t before = asthra__or(&p->word, (uint32_t)ASTHRA__WAIT_WAKE, acq_rel);
        if (!(before & ASTHRA__WAIT_SWITCHED)) return; /* whoever leaves its stack makes it run */
    }
    asthra__wait_resume(w->fiber != NULL ? asthra__seat()->worker : NULL, w);
}

/* The stack of w has just been left; the second half of asthra__leave. */
ASTHRA__FN void asthra__wait_switched(Asthra__Worker *ours, Asthra__Wait *w) {
    uint32_t before = asthra__or(&w->parker->word, (uint32_t)ASTHRA__WAIT_SWITCHED, acq_rel);
    if (before & ASTHRA__WAIT_WAKE) asthra__wait_resume(ours, w);
}

/* The last one awake may be a plain thread: the workers looked before it blocked. Both sides count
 * themselves first and look then, so one of them sees the other. */
static void asthra__host_check(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint32_t manned = asthra__load(&g->manned, relaxed);
    if (ASTHRA__LIKELY(asthra__load(&g->sleeping, seq_cst) != manned)) return;
    if (asthra__all_are_asleep()) asthra__report_asleep();
}

/* Sleeps until completed or until the deadline: true, and then nobody owes a wake. */
static bool asthra__host_sleep(Asthra__Wait *w, int64_t deadline_ns) {
    int64_t left;
    while (asthra__load(&w->signal, acquire) == 0 && (left = deadline_ns - asthra__os_now_ns()) > 0)
        asthra__os_wait(&w->signal, 0, left);
    return asthra__load(&w->signal, acquire) == 0 &&
           asthra__wait_close(w->parker, ASTHRA__WAIT_DONE);
}

/* Sleeps until completed. A main that hosts looks now and then whether all have fallen asleep. */
static void asthra__host_sleep_on(Asthra__Wait *w) {
    bool looks = asthra__seat()->is_main;
    asthra__host_check();
    while (asthra__load(&w->signal, acquire) == 0) {
        asthra__os_wait(&w->signal, 0, looks ? ASTHRA__LOOK_AGAIN_NS : ASTHRA_FOREVER);
        if (looks) asthra__host_check();
    }
}

/* A plain thread blocks, and nobody else. Its clock is the system's, also in the deterministic
 * mode. The limit is counted before the thread is, so that it never looks as if it waited for
 * ever. */
static void asthra__wait_on_thread(Asthra__Wait *w, int64_t timeout_ns) {
    Asthra__Scheduler *g = asthra__scheduler();
    int64_t now = asthra__os_now_ns(), deadline = INT64_MAX;
    bool is_timed = timeout_ns >= 0;
    if (is_timed) deadline = timeout_ns < INT64_MAX - now ? now + timeout_ns : INT64_MAX - 1;
    w->since_ns = now;
    if (is_timed) asthra__add(&g->timed_hosts, 1u, seq_cst);
    asthra__add(&g->host_blocked, 1u, seq_cst);
    if (w->held != NULL) asthra__unlock(w->held);
    if (!is_timed) {
        asthra__host_sleep_on(w);
    } else if (asthra__host_sleep(w, deadline)) {
        w->outcome = ASTHRA_TIMED_OUT;
        asthra__sub(&g->host_blocked, 1u, seq_cst);
    } else {
        while (asthra__load(&w->signal, acquire) == 0) asthra__os_wait(&w->signal, 0, -1);
    }
    if (is_timed) asthra__sub(&g->timed_hosts, 1u, relaxed);
}

/* Gives up before parking, unless it has been completed. */
static bool asthra__wait_give_up(Asthra__Wait *w, AsthraStatus outcome) {
    if (!asthra__wait_retract(w)) return false;
    if (w->held != NULL) asthra__unlock(w->held);
    w->outcome = outcome;
    return true;
}

/* There was no memory for its timer. Gives up, unless it has been completed. */
ASTHRA__COLD static bool asthra__wait_without_timer(Asthra__Wait *w) {
    w->deadline_ns = INT64_MAX;
    if (!asthra__wait_give_up(w, ASTHRA_OUT_OF_MEMORY)) return false;
    asthra__error_set(ASTHRA_OUT_OF_MEMORY, "no memory for the timer of a wait");
    return true;
}

static void asthra__wait_finish(Asthra__Wait *w) {
    Asthra__Parker *p = w->parker;
    uint32_t word = asthra__load(&p->word, acquire);
    if (w->deadline_ns != INT64_MAX) asthra__timer_remove(w);
    asthra__store(&p->word, word & ~(uint32_t)(ASTHRA__WAIT_TURN - 1), relaxed);
    if (ASTHRA__UNLIKELY(w->outcome == ASTHRA_CANCELLED))
        asthra__cancel_observe(asthra__seat()->task);
}

ASTHRA__FN AsthraStatus asthra__wait_park(Asthra__Wait *w, int64_t timeout_ns) {
    Asthra__Seat *s = asthra__seat();
    uint32_t missing = s->worker == NULL ? ASTHRA__RARE_RELIEF : ASTHRA__RARE_UNMANNED;
    if (ASTHRA__UNLIKELY(asthra__load(&asthra__scheduler()->rare, acquire) & missing) &&
        !asthra__scheduler_man(s) && asthra__wait_give_up(w, ASTHRA_OUT_OF_MEMORY)) {
        return ASTHRA_OUT_OF_MEMORY; /* nobody would run what we wait for */
    }
    if (s->worker == NULL) {
        asthra__wait_on_thread(w, timeout_ns);
        asthra__wait_finish(w);
        return w->outcome;
    }
    if (s->task != NULL && !w->is_firm) {
        asthra__os_fence_light(); /* pairs with the heavy one in cancel */
        if (asthra__cancel_observe(s->task) && asthra__wait_give_up(w, ASTHRA_CANCELLED)) {
            asthra_yield(); /* a loop that does not heed its cancel must not keep its worker */
            return ASTHRA_CANCELLED;
        }
    }
    w->since_ns = asthra__is_deterministic() ? asthra__now_ns() : s->worker->now_ns;
    if (timeout_ns >= 0) {
        w->deadline_ns = asthra__deadline(timeout_ns);
        if (ASTHRA__UNLIKELY(!asthra__timer_add(s->worker, w)) && asthra__wait_without_timer(w))
            return ASTHRA_OUT_OF_MEMORY;
    }
    asthra__leave(s, w->held != NULL ? ASTHRA__LEFT_HOLDING : ASTHRA__LEFT_WAITING, w);
    asthra__wait_finish(w);
    return w->outcome;
}

#endif
