/* deque - a work-stealing deque of pointers.                               [deque] body
 *
 * Items live at tail .. head - 1, oldest first; index i is in slot i & mask. Below `border` they
 * are shared: whoever holds the lock takes one at tail. From border on they are the owner's alone.
 * A split of this kind is known from Lace (van Dijk and van de Pol, Lace: Non-blocking Split Deque
 * for Work-Stealing, 2014), where only the owner moves the split; here a thief can, so that a task
 * which stays long in one computation does not sit on the work behind it.
 *
 * Invariants
 *   - tail <= border <= head, but for the owner's pop that is under way, which has lowered head,
 *     and between T1 and T2 below, where border may be above it. The owner lowers head to what it
 *     saw to be its own; where border has passed that since, O2 fails and head is put back.
 *   - Only the owner writes head and slots. tail, border and array change under the lock only.
 *   - An item is taken by the owner without the lock only if it is at or above border.
 *
 * The one race: the owner pops its last own item while a thief moves border up. Dekker, with the
 * dear fence on the thief's side (os_internal.h):
 *
 *     O1  head = b                   T1  border = new, under the lock
 *         light fence                    heavy fence
 *     O2  border <= b? it is mine    T2  head < new? then border = head, but not below the old
 *
 * Either O2 sees T1: then the owner puts head back and takes the way through the lock, where border
 * stands still. Or T2 sees O1: then b and what is above it is the owner's again. Between T1 and T2
 * nobody steals, because the thief holds the lock. This protocol is tests/model/deque.pml.
 *
 * Measured on two cores of a virtual machine: a pop with a fence or a lock 4 ns, without 0.5; the
 * heavy fence 11 us beside a running owner. So owners share by themselves while somebody is hungry
 * (asthra__runnable_task), and thieves wrest only what no owner shares for microseconds.
 */
#include "deque_internal.h"

#if ASTHRA_HAS_TASK

struct Asthra__DequeArray {
    size_t mask;
    ASTHRA__ATOMIC(void *) slots[];
};

enum { ASTHRA__DEQUE_FIRST = 256, ASTHRA__DEQUE_DIG = 8 };

static Asthra__DequeArray *asthra__deque_array(size_t slots) {
    Asthra__DequeArray *a = asthra__alloc_zeroed(1, sizeof *a + slots * sizeof a->slots[0]);
    if (a != NULL) a->mask = slots - 1;
    return a;
}

static inline void *asthra__deque_at(const Asthra__Deque *d, size_t index) {
    return asthra__load(&d->array->slots[index & d->array->mask], relaxed);
}

ASTHRA__FN bool asthra__deque_init(Asthra__Deque *d) {
    d->array = asthra__deque_array(ASTHRA__DEQUE_FIRST);
    d->tail_seen = 0;
    asthra__store(&d->head, (size_t)0, relaxed);
    asthra__store(&d->tail, (size_t)0, relaxed);
    asthra__store(&d->border, (size_t)0, relaxed);
    return d->array != NULL;
}

ASTHRA__FN void asthra__deque_destroy(Asthra__Deque *d) {
    asthra__free(d->array);
    d->array = NULL;
}

/* Twice the room, if it is needed. */
ASTHRA__COLD static bool asthra__deque_grow(Asthra__Deque *d, size_t head) {
    Asthra__DequeArray *old = d->array, *a = old;
    asthra__lock(&d->lock);
    d->tail_seen = asthra__load(&d->tail, relaxed);
    bool is_full = head - d->tail_seen > old->mask;
    if (is_full && (a = asthra__deque_array((old->mask + 1) * 2)) != NULL) {
        for (size_t i = d->tail_seen; i != head; i++)
            asthra__store(&a->slots[i & a->mask], asthra__deque_at(d, i), relaxed);
        d->array = a;
    }
    asthra__unlock(&d->lock);
    if (a != NULL && a != old) asthra__free(old);
    return a != NULL;
}

ASTHRA__FN bool asthra__deque_push(Asthra__Deque *d, void *item) {
    size_t h = asthra__load(&d->head, relaxed);
    if (ASTHRA__UNLIKELY(h - d->tail_seen > d->array->mask) && !asthra__deque_grow(d, h)) {
        return false;
    }
    asthra__store(&d->array->slots[h & d->array->mask], item, relaxed);
    asthra__store(&d->head, h + 1, release); /* partner: the acquires of head under the lock */
    return true;
}

/* The newest, with the newer half of what is shared: it is the owner's from here on. */
ASTHRA__NOINLINE static void *asthra__deque_pop_shared(Asthra__Deque *d) {
    size_t h = asthra__load(&d->head, relaxed);
    void *item = NULL;
    if (asthra__load(&d->tail, relaxed) == h) return NULL;
    asthra__lock(&d->lock);
    size_t count = h - asthra__load(&d->tail, relaxed);
    if (count != 0) {
        if (asthra__load(&d->border, relaxed) == h) {
            asthra__store(&d->border, h - (count + 1) / 2, relaxed);
        }
        item = asthra__deque_at(d, h - 1);
        asthra__store(&d->head, h - 1, release);
    }
    asthra__unlock(&d->lock);
    return item;
}

ASTHRA__FN ASTHRA__FAST void *asthra__deque_pop(Asthra__Deque *d) {
    size_t h = asthra__load(&d->head, relaxed);
    if (asthra__load(&d->border, relaxed) < h) {
        asthra__store(&d->head, h - 1, release);
        asthra__os_fence_light(); /* partner: the heavy one in wrest */
        if (ASTHRA__LIKELY(asthra__load(&d->border, relaxed) < h)) {
            return asthra__deque_at(d, h - 1);
        }
        asthra__store(&d->head, h, release);
    }
    return asthra__deque_pop_shared(d);
}

/* Takes index i out of the owner's own; those above it move down. The same race as in pop. */
ASTHRA__NOINLINE static bool asthra__deque_dig(Asthra__Deque *d, size_t i) {
    size_t h = asthra__load(&d->head, relaxed);
    asthra__store(&d->head, i, release);
    asthra__os_fence_light(); /* partner: the heavy one in wrest */
    bool is_own = asthra__load(&d->border, relaxed) <= i;
    for (size_t k = i; is_own && k + 1 < h; k++) {
        asthra__store(&d->array->slots[k & d->array->mask], asthra__deque_at(d, k + 1), relaxed);
    }
    asthra__store(&d->head, is_own ? h - 1 : h, release);
    return is_own;
}

ASTHRA__FN bool asthra__deque_pop_if(Asthra__Deque *d, void *item) {
    size_t h = asthra__load(&d->head, relaxed);
    if (ASTHRA__LIKELY(asthra__deque_at(d, h - 1) == item)) return asthra__deque_pop(d) != NULL;
    size_t border = asthra__load(&d->border, relaxed);
    for (size_t depth = 2; depth <= ASTHRA__DEQUE_DIG && border + depth <= h; depth++) {
        if (asthra__deque_at(d, h - depth) == item) return asthra__deque_dig(d, h - depth);
    }
    return false;
}

/* Takes the oldest. Caller holds the lock. */
static void *asthra__deque_take(Asthra__Deque *d) {
    size_t t = asthra__load(&d->tail, relaxed);
    if (t == asthra__load(&d->border, relaxed)) return NULL;
    asthra__store(&d->tail, t + 1, relaxed);
    return asthra__deque_at(d, t);
}

/* Moves border into the owner's own, half-way up, if nothing is shared. Caller holds the lock. */
static void asthra__deque_raise(Asthra__Deque *d, size_t head) {
    size_t border = asthra__load(&d->border, relaxed);
    if (asthra__load(&d->tail, relaxed) != border || head <= border) return;
    asthra__store(&d->border, border + (head - border + 1) / 2, relaxed);
}

ASTHRA__FN void asthra__deque_share(Asthra__Deque *d) {
    size_t border = asthra__load(&d->border, relaxed);
    if (asthra__load(&d->tail, relaxed) != border) return;
    asthra__lock(&d->lock);
    asthra__deque_raise(d, asthra__load(&d->head, relaxed));
    asthra__unlock(&d->lock);
}

ASTHRA__FN void *asthra__deque_oldest(Asthra__Deque *d) {
    if (asthra__deque_count(d) == 0) return NULL;
    asthra__lock(&d->lock);
    asthra__deque_raise(d, asthra__load(&d->head, relaxed));
    void *item = asthra__deque_take(d);
    asthra__unlock(&d->lock);
    return item;
}

ASTHRA__FN void *asthra__deque_steal(Asthra__Deque *d) {
    size_t t = asthra__load(&d->tail, relaxed);
    if (t == asthra__load(&d->border, relaxed) || !asthra__lock_try(&d->lock)) return NULL;
    void *item = asthra__deque_take(d);
    asthra__unlock(&d->lock);
    return item;
}

ASTHRA__FN void *asthra__deque_wrest(Asthra__Deque *d) {
    if (asthra__deque_count(d) == 0 || !asthra__lock_try(&d->lock)) return NULL;
    size_t before = asthra__load(&d->border, relaxed);
    asthra__deque_raise(d, asthra__load(&d->head, acquire)); /* partner: the release in push */
    size_t after = asthra__load(&d->border, relaxed);
    if (after != before) {
        asthra__os_fence_heavy(); /* partner: the light one in pop */
        size_t h = asthra__load(&d->head, acquire);
        if (h < after) asthra__store(&d->border, h > before ? h : before, relaxed);
    }
    void *item = asthra__deque_take(d);
    asthra__unlock(&d->lock);
    return item;
}

ASTHRA__FN size_t asthra__deque_count(const Asthra__Deque *d) {
    size_t h = asthra__load(&d->head, acquire);
    size_t t = asthra__load(&d->tail, relaxed);
    return (ptrdiff_t)(h - t) > 0 ? h - t : 0;
}

#endif
