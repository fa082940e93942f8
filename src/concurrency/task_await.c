/* task - awaiting.                                                         [task] body: await
 *
 * Three ways to the end of a child, tried in this order.
 *
 *   1. It has ended: take the value.
 *   2. It is among the newest few in this worker's deque: take it out, so that nobody else can
 *      start it, and call it here, on top of the awaiting frame. No stack, no queue, no switch. On
 *      one stack every task but the top one then awaits the one above it. Not in place: a timed
 *      await (it could not return early), a child with a stack of its own, a stack whose free part
 *      is less than half (so that every task can use the other half), and every 64th time in a row
 *      if others are due.
 *   3. Else a node in the child's list, and park. The stripe's lock is held from the look at the
 *      child's word until the stack has been left, so the child's end cannot slip in between.
 *
 * An older one is not dug out of the deque: parking hands the whole deque to the worker's loop,
 * newest first, which costs less than finding one task in its middle.
 *
 * An untimed await is firm: a cancel of the awaiter goes on to the child instead, and the await
 * returns when the child has; the awaiter has seen its cancel if the child ended by it, and not if
 * the child completed all the same. `awaiting` says where to. Dekker again: we write `awaiting`,
 * light fence, look at our own CANCEL; the canceller sets CANCEL, heavy fence, reads `awaiting`.
 */
#include "task_internal.h"

#if ASTHRA_HAS_TASK

#include <string.h>

/* May t, which is newest in our deque, be called on this stack? */
static bool asthra__await_fits(Asthra__Seat *s, const Asthra__Task *t) {
    Asthra__Fiber *f = s->fiber;
    if (ASTHRA__TSAN || f->low == NULL || asthra__own_stack(t) != 0) return false;
    if (asthra__fiber_room(f) < (size_t)(f->high - f->low) / 2) return false;
    if (ASTHRA__LIKELY(++s->in_place_streak % ASTHRA__FAIR_TURNS != 0)) return true;
    return !asthra__has_other_work(s->worker);
}

/* Takes t out of its queue for us, or says no. */
static bool asthra__await_claims(Asthra__Seat *s, Asthra__Task *t) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (s->worker == NULL || (asthra__load(&t->marks, relaxed) & ASTHRA__TASK_STARTED))
        return false;
    if (t->affinity != 0 || t->runnable.priority != 0 || !asthra__await_fits(s, t)) return false;
    if (ASTHRA__UNLIKELY(asthra__is_deterministic())) {
        return asthra__random(2) == 0 && asthra__list_remove(&g->global, &t->runnable);
    }
    if (!asthra__deque_pop_if(&s->worker->deque, &t->runnable)) return false;
    asthra__feed(g, s->worker); /* who looked while we dug saw less than there is */
    return true;
}

static void asthra__await_unlink(Asthra__Task *t, Asthra__AwaitNode *n) {
    asthra__lock(asthra__task_stripe(t));
    if (n->link != NULL) {
        *n->link = n->next;
        if (n->next != NULL) n->next->link = n->link;
        n->link = NULL;
    }
    asthra__unlock(asthra__task_stripe(t));
}

/* Parks until t has ended. */
ASTHRA__NOINLINE static AsthraStatus asthra__await_parked(Asthra__Task *t, uint64_t bits,
                                                          int64_t timeout_ns) {
    Asthra__Lock *stripe = asthra__task_stripe(t);
    Asthra__Wait w = {
        .what = "await of task", .name = t->name, .held = stripe, .is_firm = timeout_ns < 0};
    asthra__lock(stripe);
    uint64_t word = asthra__or(&t->word, ASTHRA__TASK_AWAITED, acq_rel);
    bool is_over = ((word ^ bits) & ASTHRA__TASK_GENERATION) != 0; /* its handle was consumed */
    if (is_over || (word & ASTHRA__TASK_END)) {
        asthra__unlock(stripe);
        return ASTHRA_OK;
    }
    if (timeout_ns == 0) {
        asthra__unlock(stripe);
        return ASTHRA_TIMED_OUT;
    }
    Asthra__AwaitNode node = {t->waiters, &t->waiters, asthra__wait_open(&w)};
    if (node.next != NULL) node.next->link = &node.next;
    t->waiters = &node;
    AsthraStatus status = asthra__wait_park(&w, timeout_ns);
    if (status != ASTHRA_OK) asthra__await_unlink(t, &node);
    return status;
}

/* OK once t has ended. Cancels of the awaiter reach t meanwhile. *seat is the seat afterwards. */
static AsthraStatus asthra__await_end(Asthra__Seat **seat, Asthra__Task *t, uint64_t bits,
                                      int64_t timeout_ns) {
    if (asthra__load(&t->word, acquire) & ASTHRA__TASK_END) return ASTHRA_OK;
    Asthra__Seat *s = *seat;
    Asthra__Task *me = s->task;
    if (me == t)
        asthra_panic_at(NULL, "asthra_await: task %llu awaits itself", (unsigned long long)bits);
    /* outside tasks the seat stays: its thread waits for nobody else meanwhile */
    ASTHRA__ATOMIC(uint64_t) *awaiting = me != NULL ? &me->awaiting : &s->awaiting;
    if (timeout_ns < 0) {
        asthra__store(awaiting, bits, release); /* partners: a cancel, a report */
        asthra__os_fence_light();
        if (ASTHRA__UNLIKELY(me != NULL && asthra__cancel_is_pending(me)))
            asthra__task_forward_cancel(bits);
    }
    AsthraStatus status = ASTHRA_OK;
    if (timeout_ns < 0 && asthra__await_claims(s, t)) {
        *seat = asthra__run_in_place(s, t);
    } else {
        status = asthra__await_parked(t, bits, timeout_ns);
        *seat = asthra__seat();
    }
    if (timeout_ns < 0) asthra__store(awaiting, (uint64_t)0, relaxed);
    if (ASTHRA__UNLIKELY(status == ASTHRA_OUT_OF_MEMORY && timeout_ns < 0)) {
        asthra_panic_at(NULL,
                        "asthra_await: out of memory: no stack or thread to go on with while "
                        "task %llu is awaited",
                        (unsigned long long)bits);
    }
    return status;
}

/* How t ended, as a result of the awaiter; t is freed or released. */
static AsthraResult asthra__await_take(Asthra__Seat *s, Asthra__Task *t, AsthraTaskHandle h,
                                       void **value) {
    uint64_t word = asthra__load(&t->word, acquire), end = word & ASTHRA__TASK_END;
    AsthraResult r = asthra__result_of(ASTHRA_OK);
    if (ASTHRA__UNLIKELY((word ^ h.bits) & ASTHRA__TASK_GENERATION)) {
        asthra__task_refuse(h, "asthra_await");
    }
    if (value != NULL) *value = t->value;
    r.value.pointer = t->value;
    if (ASTHRA__UNLIKELY(end == ASTHRA_TASK_CANCELLED)) {
        r = asthra__result_of(ASTHRA_CANCELLED);
        asthra__cancel_observe(s->task);
    }
    if (ASTHRA__UNLIKELY(end == ASTHRA_TASK_FAILED)) {
        r = asthra__result_of(ASTHRA_PANICKED);
        if (t->error != NULL) {
            r.value.error = t->error;
            r = asthra_result_errorf(ASTHRA_PANICKED, "%s", asthra_result_message(r));
        }
    }
    if (ASTHRA__UNLIKELY(!asthra__task_release(s, t, h.bits))) {
        asthra__task_refuse(h, "asthra_await");
    }
    return r;
}

static Asthra__Seat *asthra__await_begin(AsthraTaskHandle h, const char *verb, Asthra__Task **t) {
    asthra__turn();
    Asthra__Seat *s = asthra__seat();
    *t = asthra__task_resolve(h, verb, true);
    return s;
}

/* Its panic goes on here. */
static inline void *asthra__await_take_or_panic(Asthra__Seat *s, Asthra__Task *t,
                                                AsthraTaskHandle h) {
    void *value;
    AsthraResult r = asthra__await_take(s, t, h, &value);
    if (ASTHRA__UNLIKELY(r.status == ASTHRA_PANICKED)) {
        asthra__panic_with(NULL, 0, asthra_result_message(r));
    }
    return value;
}

ASTHRA__FLATTEN ASTHRA_RT_API void *asthra_await(AsthraTaskHandle h) {
    Asthra__Task *t;
    Asthra__Seat *s = asthra__await_begin(h, "asthra_await", &t);
    asthra__await_end(&s, t, h.bits, ASTHRA_FOREVER);
    return asthra__await_take_or_panic(s, t, h);
}

ASTHRA_RT_API AsthraResult asthra_await_result(AsthraTaskHandle h, void **result) {
    Asthra__Task *t;
    Asthra__Seat *s = asthra__await_begin(h, "asthra_await_result", &t);
    asthra__await_end(&s, t, h.bits, ASTHRA_FOREVER);
    return asthra__await_take(s, t, h, result);
}

ASTHRA_RT_API AsthraResult asthra_await_timeout(AsthraTaskHandle h, int64_t timeout_ns,
                                                void **result) {
    Asthra__Task *t;
    Asthra__Seat *s = asthra__await_begin(h, "asthra_await_timeout", &t);
    AsthraStatus status = asthra__await_end(&s, t, h.bits, timeout_ns);
    if (status == ASTHRA_OK) return asthra__await_take(s, t, h, result);
    AsthraResult r = asthra__result_of(status);
    r.detail = status == ASTHRA_CANCELLED;
    return r;
}

ASTHRA__FLATTEN ASTHRA_RT_API AsthraResult asthra_await_copy(AsthraTaskHandle h, void *block,
                                                             size_t size) {
    Asthra__Task *t;
    Asthra__Seat *s = asthra__await_begin(h, "asthra_await_copy", &t);
    asthra__await_end(&s, t, h.bits, ASTHRA_FOREVER);
    size_t bytes = 0;
    void *copy = asthra__task_block(t, &bytes);
    bool is_good = copy != NULL && size <= bytes;
    if (is_good && size > 0) memcpy(block, copy, size);
    AsthraResult r = asthra__await_take(s, t, h, NULL);
    if (is_good || r.status) return r;
    return asthra_result_errorf(ASTHRA_INVALID,
                                "asthra_await_copy: %zu bytes asked for, the task's block has %zu",
                                size, bytes);
}

/* The result in t's block. */
ASTHRA__NOINLINE static void asthra__await_copy_out(Asthra__Task *t, void *block, size_t size,
                                                    const char *who) {
    size_t bytes = 0;
    const void *copy = asthra__task_block(t, &bytes);
    if (copy == NULL || bytes < size) {
        asthra_panic_at(NULL,
                        "%s: task '%s' is of another kind: it has no block with a result of %zu "
                        "bytes",
                        who, t->name, size);
    }
    if (t->value == NULL)
        memset(block, 0, size);
    else
        memcpy(block, copy, size);
}

ASTHRA__FLATTEN ASTHRA_RT_API AsthraTaskWords asthra_await_words_at(AsthraTaskHandle h,
                                                                    const char *who) {
    Asthra__Task *t;
    AsthraTaskWords block;
    Asthra__Seat *s = asthra__await_begin(h, who, &t);
    asthra__await_end(&s, t, h.bits, ASTHRA_FOREVER);
    if (ASTHRA__LIKELY(t->value == t->block))
        memcpy(&block, t->block, sizeof block);
    else
        asthra__await_copy_out(t, &block, sizeof block, who);
    asthra__await_take_or_panic(s, t, h);
    return block;
}

ASTHRA_RT_API void asthra_await_copy_at(AsthraTaskHandle h, void *block, size_t size,
                                        const char *who) {
    Asthra__Task *t;
    Asthra__Seat *s = asthra__await_begin(h, who, &t);
    asthra__await_end(&s, t, h.bits, ASTHRA_FOREVER);
    asthra__await_copy_out(t, block, size, who);
    asthra__await_take_or_panic(s, t, h);
}

#endif
