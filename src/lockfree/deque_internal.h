/* deque - a work-stealing deque of pointers.                               [deque] internal
 *
 * One owner pushes and pops at the new end; anybody steals at the old one. What is newest is the
 * owner's alone and costs it no atomic instruction; the rest is shared. The owner moves items over
 * when others are hungry; a thief can make it so, which is dear. asthra__sync_setup comes first: a
 * fence may not change its kind while others steal.
 */
#ifndef ASTHRA__DEQUE_INTERNAL_H
#define ASTHRA__DEQUE_INTERNAL_H

#include "../core/alloc_internal.h"
#include "../core/sync_internal.h"

#if ASTHRA_HAS_TASK

typedef struct Asthra__DequeArray Asthra__DequeArray;
typedef struct Asthra__Deque {
    ASTHRA__ATOMIC(size_t) head; /* the owner's: where the next one goes */
    Asthra__DequeArray *array;   /* changed by the owner, under the lock */
    size_t tail_seen;            /* the owner's last look at tail: tail is never less */
    ASTHRA__ALIGNED(128) Asthra__Lock lock;
    ASTHRA__ATOMIC(size_t) tail;   /* the oldest; under the lock */
    ASTHRA__ATOMIC(size_t) border; /* where the owner's own begin; changed under the lock */
} Asthra__Deque;
_Static_assert(offsetof(Asthra__Deque, lock) % ASTHRA__CACHE_PAIR == 0, "owner and thieves apart");

ASTHRA__FN bool asthra__deque_init(Asthra__Deque *d); /* false: out of memory */
ASTHRA__FN void asthra__deque_destroy(Asthra__Deque *d);
/* For the owner. Pop waits while a thief holds the lock, if nothing is the owner's alone. */
ASTHRA__FN bool asthra__deque_push(Asthra__Deque *d, void *item);   /* false: out of memory */
ASTHRA__FN void *asthra__deque_pop(Asthra__Deque *d);               /* newest; NULL: empty */
ASTHRA__FN bool asthra__deque_pop_if(Asthra__Deque *d, void *item); /* if among the newest few */
ASTHRA__FN void *asthra__deque_oldest(Asthra__Deque *d);            /* NULL: empty */
ASTHRA__FN void asthra__deque_share(Asthra__Deque *d); /* if nothing is shared: the older half */
/* For others. Oldest; NULL: nothing is shared, or somebody else is at it. */
ASTHRA__FN void *asthra__deque_steal(Asthra__Deque *d);
/* The same, and shares the older half first if nothing is: microseconds, for the owner too. */
ASTHRA__FN void *asthra__deque_wrest(Asthra__Deque *d);
/* For anybody: a guess while others are at work. */
ASTHRA__FN size_t asthra__deque_count(const Asthra__Deque *d);

#endif
#endif
