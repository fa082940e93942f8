/* channel - what select needs of it.                                      [channel] internal
 *
 * A waiter is a node on the stack of whoever waits. It is linked, read and unlinked only under the
 * lock of its channel. `is_linked` becomes false as the last touch of whoever unlinks a node that
 * is not its own, so the owner, seeing false, may leave without the lock.
 */
#ifndef ASTHRA__CHANNEL_INTERNAL_H
#define ASTHRA__CHANNEL_INTERNAL_H

#include "channel.h"
#include "scheduler_internal.h"

#if ASTHRA_HAS_CHANNEL

#include <string.h>

typedef struct Asthra__Waiter Asthra__Waiter;
struct Asthra__Waiter {
    Asthra__Waiter *next, *prev;
    Asthra__Parker *parker;
    void *slot;    /* the value to send, never written; or where to receive, NULL: drop */
    int32_t index; /* of the case in its select */
    ASTHRA__ATOMIC(bool) is_linked;
};

/* Oldest first. `first` is also read without the lock, as a hint. */
typedef struct Asthra__Waiters {
    ASTHRA__ATOMIC(Asthra__Waiter *) first;
    Asthra__Waiter *last;
} Asthra__Waiters;

struct AsthraConcurrencyChannel {
    /* Never changes: every core may keep a copy. */
    size_t element_size;
    char *ring;
    const char *name;
    void *block; /* what the allocator gave */
    /* Of asthra_channel_fd, which few channels have. */
    ASTHRA__ATOMIC(uint32_t) has_signal;
    bool is_shown; /* the signal is set; under the lock */
    Asthra__OsSignal signal;
    /* Changes under the lock: whoever takes it gets all of this with one line. */
    ASTHRA__ALIGNED(64) Asthra__Lock lock;
    ASTHRA__ATOMIC(uint32_t) is_closed;
    size_t capacity;
    size_t head; /* index of the oldest value */
    ASTHRA__ATOMIC(size_t) count;
    Asthra__Waiters senders, receivers;
};
_Static_assert(offsetof(AsthraConcurrencyChannel, lock) == ASTHRA__CACHE_LINE &&
                   sizeof(AsthraConcurrencyChannel) == 2 * ASTHRA__CACHE_LINE,
               "what changes has a line of its own");

/* Makes the descriptor of a channel that has one say what is true. Caller holds c->lock. */
ASTHRA__COLD ASTHRA__FN void asthra__channel_show_slow(AsthraChannel *c);
static inline void asthra__channel_show(AsthraChannel *c) {
    if (ASTHRA__UNLIKELY(asthra__load(&c->has_signal, relaxed))) asthra__channel_show_slow(c);
}
static inline void asthra__channel_unlock(AsthraChannel *c) {
    asthra__channel_show(c);
    asthra__unlock(&c->lock);
}

/* Would a send, or a receive, have to wait? Without the lock: true was so at some moment of the
 * call, false is only a hint. closed is read last, because it never becomes false again: with
 * nothing inside, nobody waiting, and not closed even later, there was a moment when all three
 * held. */
static inline bool asthra__channel_is_full(AsthraChannel *c) {
    bool has_room = asthra__load(&c->count, acquire) < c->capacity;
    uintptr_t receiver = (uintptr_t)asthra__load(&c->receivers.first, acquire);
    return !(has_room | receiver | asthra__load(&c->is_closed, acquire)); /* one branch */
}
static inline bool asthra__channel_is_empty(AsthraChannel *c) {
    uintptr_t inside = (uintptr_t)asthra__load(&c->count, acquire);
    uintptr_t sender = (uintptr_t)asthra__load(&c->senders.first, acquire);
    return !(inside | sender | asthra__load(&c->is_closed, acquire));
}

static inline void asthra__waiters_append(Asthra__Waiters *list, Asthra__Waiter *w) {
    w->next = NULL;
    w->prev = list->last;
    asthra__store(&w->is_linked, true, relaxed);
    if (w->prev)
        w->prev->next = w;
    else
        asthra__store(&list->first, w, relaxed);
    list->last = w;
}

/* is_linked is the caller's business: see the head of this file. */
static inline void asthra__waiters_remove(Asthra__Waiters *list, const Asthra__Waiter *w) {
    if (w->prev)
        w->prev->next = w->next;
    else
        asthra__store(&list->first, w->next, relaxed);
    if (w->next)
        w->next->prev = w->prev;
    else
        list->last = w->prev;
}

static inline void asthra__waiter_release(Asthra__Waiter *w) {
    asthra__store(&w->is_linked, false, release); /* partner: asthra__waiter_unlink */
}

/* Copies one value; the common sizes without a call. A compiler that sees the caller's value, as
 * with ASTHRA_RT_STATIC, would warn of the sizes that it does not have: it shall not see it. */
static inline void asthra__channel_copy(void *to, const void *from, size_t size) {
    __asm__("" : "+r"(to), "+r"(from));
    if (size == 8)
        memcpy(to, from, 8);
    else if (size == 4)
        memcpy(to, from, 4);
    else if (size == 16)
        memcpy(to, from, 16);
    else
        memcpy(to, from, size);
}

/* Touch every page of a user's value before any lock is taken, so that a bad pointer faults in its
 * owner's call while nothing is held. Writing puts back what was there. */
static inline void asthra__channel_touch_source(const AsthraChannel *c, const void *value) {
    const volatile char *at = (const volatile char *)value;
    for (size_t i = 4096; ASTHRA__UNLIKELY(i < c->element_size); i += 4096) (void)at[i];
    (void)at[0], (void)at[c->element_size - 1];
}
static inline void asthra__channel_touch_target(const AsthraChannel *c, void *out) {
    volatile char *at = (volatile char *)out;
    if (!out) return;
    for (size_t i = 4096; ASTHRA__UNLIKELY(i < c->element_size); i += 4096) at[i] = at[i];
    at[0] = at[0];
    at[c->element_size - 1] = at[c->element_size - 1];
}

/* A source in a waiter's slot, which is never written through. */
static inline void *asthra__channel_source(const void *value) {
    return (void *)(uintptr_t)value;
}

/* Sends or receives without waiting: ASTHRA_OK, ASTHRA_CLOSED or ASTHRA_WOULD_BLOCK. Caller holds
 * c->lock. *wake becomes whom the caller must wake after unlocking, or NULL. */
ASTHRA__FN AsthraStatus asthra__channel_put(AsthraChannel *c, const void *value,
                                            Asthra__Parker **wake);
ASTHRA__FN AsthraStatus asthra__channel_take(AsthraChannel *c, void *out, Asthra__Parker **wake);

/* Unlinks the caller's own node if nobody did yet. */
ASTHRA__FN void asthra__waiter_unlink(AsthraChannel *c, Asthra__Waiters *list, Asthra__Waiter *w);

/* Completes w, whose wait the caller has claimed and whose node it has unlinked. */
static inline Asthra__Parker *asthra__waiter_finish(Asthra__Waiter *w, AsthraStatus status) {
    Asthra__Wait *wait = w->parker->wait;
    wait->outcome = status;
    wait->winner = w;
    return w->parker;
}

/* A debug line: "channel 'jobs': send by task 12". */
ASTHRA__COLD ASTHRA__FN void asthra__channel_say(const AsthraChannel *c, const char *verb);
static inline void asthra__channel_trace(const AsthraChannel *c, const char *verb) {
    if (ASTHRA__UNLIKELY(asthra__trace_is_on(ASTHRA_DEBUG_CONCURRENCY_OPERATIONS)))
        asthra__channel_say(c, verb);
}

#endif
#endif
