/* deque - a work-stealing deque of pointers.                               [deque] internal
 *
 * One owner pushes and pops at the bottom, anybody steals from the top. Never blocks. Grows; old
 * arrays live until asthra__deque_destroy, because a thief may still read them.
 */
#ifndef ASTHRA__DEQUE_INTERNAL_H
#define ASTHRA__DEQUE_INTERNAL_H

#include "../core/alloc_internal.h"

#if ASTHRA_HAS_TASK

typedef struct Asthra__DequeArray Asthra__DequeArray;
typedef struct Asthra__Deque {
    ASTHRA__ATOMIC(size_t) bottom; /* the owner's */
    ASTHRA__ATOMIC(Asthra__DequeArray *) array;
    size_t top_seen; /* the owner's last look at top: top is never less */
    ASTHRA__ALIGNED(128) ASTHRA__ATOMIC(size_t) top; /* thieves' */
} Asthra__Deque;

ASTHRA__FN bool asthra__deque_init(Asthra__Deque *d); /* false: out of memory */
ASTHRA__FN void asthra__deque_destroy(Asthra__Deque *d);
ASTHRA__FN bool asthra__deque_push(Asthra__Deque *d, void *item); /* owner; false: out of memory */
ASTHRA__FN void *asthra__deque_pop(Asthra__Deque *d);             /* owner; newest; NULL: empty */
ASTHRA__FN bool asthra__deque_pop_if(Asthra__Deque *d, void *item); /* owner; only if newest */
ASTHRA__FN void *asthra__deque_steal(Asthra__Deque *d); /* anybody; oldest; NULL: empty or lost */
ASTHRA__FN size_t asthra__deque_count(const Asthra__Deque *d); /* a guess while others steal */

#endif
#endif
