/* deque - a work-stealing deque of pointers.                               [deque] body
 *
 * The circular-array deque of Chase and Lev, with the orders that Le, Pop, Cohen and Zappa Nardelli
 * proved for it (Correct and Efficient Work-Stealing for Weak Memory Models, 2013), written with
 * sequentially consistent accesses where they have fences, because ThreadSanitizer knows those.
 *
 * Invariants
 *   - top only grows. Items live at top .. bottom - 1; index i is in slot i & mask.
 *   - Only the owner writes bottom, slots and array. A thief's CAS of top takes one item.
 *   - When one item is left, owner and thief both go through that CAS, so it is taken once. The
 *     owner lowers bottom before it reads top, a thief reads top before it reads bottom, all
 *     sequentially consistent: one of the two sees the other.
 *   - A thief reads its slot before its CAS. The owner can only have reused that slot after top
 *     moved on, and then the CAS fails. Arrays that were outgrown stay readable until destroy.
 */
#include "deque_internal.h"

#if ASTHRA_HAS_TASK

struct Asthra__DequeArray {
    size_t mask;
    Asthra__DequeArray *outgrown;
    ASTHRA__ATOMIC(void *) slots[];
};

enum { ASTHRA__DEQUE_FIRST = 256 };

static Asthra__DequeArray *asthra__deque_array(size_t slots, Asthra__DequeArray *outgrown) {
    Asthra__DequeArray *a = asthra__alloc(sizeof *a + slots * sizeof a->slots[0]);
    if (a == NULL) return NULL;
    a->mask = slots - 1;
    a->outgrown = outgrown;
    return a;
}

ASTHRA__FN bool asthra__deque_init(Asthra__Deque *d) {
    Asthra__DequeArray *a = asthra__deque_array(ASTHRA__DEQUE_FIRST, NULL);
    /* Indices start at 1, so that a bottom below top never wraps. */
    d->top_seen = 1;
    asthra__store(&d->bottom, (size_t)1, relaxed);
    asthra__store(&d->top, (size_t)1, relaxed);
    asthra__store(&d->array, a, release);
    return a != NULL;
}

ASTHRA__FN void asthra__deque_destroy(Asthra__Deque *d) {
    Asthra__DequeArray *a = asthra__load(&d->array, relaxed);
    while (a != NULL) {
        Asthra__DequeArray *older = a->outgrown;
        asthra__free(a);
        a = older;
    }
    asthra__store(&d->array, (Asthra__DequeArray *)NULL, relaxed);
}

/* Twice the room; the old array stays for thieves that hold it. */
ASTHRA__COLD static Asthra__DequeArray *asthra__deque_grow(Asthra__Deque *d, size_t bottom,
                                                           size_t top) {
    Asthra__DequeArray *old = asthra__load(&d->array, relaxed);
    Asthra__DequeArray *a = asthra__deque_array((old->mask + 1) * 2, old);
    if (a == NULL) return NULL;
    for (size_t i = top; i != bottom; i++) {
        void *item = asthra__load(&old->slots[i & old->mask], relaxed);
        asthra__store(&a->slots[i & a->mask], item, relaxed);
    }
    asthra__store(&d->array, a, release); /* pairs with the acquire in steal */
    return a;
}

ASTHRA__FN bool asthra__deque_push(Asthra__Deque *d, void *item) {
    size_t b = asthra__load(&d->bottom, relaxed);
    Asthra__DequeArray *a = asthra__load(&d->array, relaxed);
    if (ASTHRA__UNLIKELY(b - d->top_seen > a->mask)) { /* full, by what we last saw of top */
        d->top_seen = asthra__load(&d->top, acquire);
        if (b - d->top_seen > a->mask && (a = asthra__deque_grow(d, b, d->top_seen)) == NULL) {
            return false;
        }
    }
    asthra__store(&a->slots[b & a->mask], item, relaxed);
    asthra__store(&d->bottom, b + 1, release); /* pairs with the load of bottom in steal */
    return true;
}

/* Takes index b = bottom - 1, which the caller found to exist. */
static void *asthra__deque_take(Asthra__Deque *d, Asthra__DequeArray *a, size_t b) {
    asthra__store(&d->bottom, b, seq_cst); /* before the load of top: see the invariants */
    size_t t = asthra__load(&d->top, seq_cst);
    d->top_seen = t;
    void *item = NULL;
    if (ASTHRA__LIKELY(t < b)) return asthra__load(&a->slots[b & a->mask], relaxed);
    if (t == b && asthra__cas(&d->top, &t, t + 1, seq_cst)) {
        item = asthra__load(&a->slots[b & a->mask], relaxed);
    }
    asthra__store(&d->bottom, b + 1, relaxed); /* empty now: bottom == top */
    return item;
}

ASTHRA__FN void *asthra__deque_pop(Asthra__Deque *d) {
    size_t b = asthra__load(&d->bottom, relaxed);
    if (b == asthra__load(&d->top, relaxed)) return NULL; /* only we add: empty stays empty */
    return asthra__deque_take(d, asthra__load(&d->array, relaxed), b - 1);
}

ASTHRA__FN bool asthra__deque_pop_if(Asthra__Deque *d, void *item) {
    size_t b = asthra__load(&d->bottom, relaxed);
    Asthra__DequeArray *a = asthra__load(&d->array, relaxed);
    if (b == asthra__load(&d->top, relaxed)) return false;
    if (asthra__load(&a->slots[(b - 1) & a->mask], relaxed) != item) return false;
    return asthra__deque_take(d, a, b - 1) != NULL;
}

ASTHRA__FN void *asthra__deque_steal(Asthra__Deque *d) {
    size_t t = asthra__load(&d->top, seq_cst);
    size_t b = asthra__load(&d->bottom, seq_cst);
    if ((ptrdiff_t)(b - t) <= 0) return NULL;
    Asthra__DequeArray *a = asthra__load(&d->array, acquire);
    void *item = asthra__load(&a->slots[t & a->mask], relaxed);
    return asthra__cas(&d->top, &t, t + 1, seq_cst) ? item : NULL;
}

ASTHRA__FN size_t asthra__deque_count(const Asthra__Deque *d) {
    size_t b = asthra__load(&d->bottom, relaxed);
    size_t t = asthra__load(&d->top, relaxed);
    return (ptrdiff_t)(b - t) > 0 ? b - t : 0;
}

#endif
