/* heap - blocks with mappings of their own.                                [heap] body: huge
 *
 * Each has a mapping of its own, at the start of a unit of the region table.
 *
 * The record stands apart, in metadata, because the mapping is gone once the block is freed and the
 * table still points at the record then: that is how a second free is told from a wild one. Records
 * are used again in the order in which they were freed, so that the memory of a free lasts long.
 *
 * While a caller's allocator is in use the mapping is a block of it with room to align inside.
 *
 * A program that takes and frees megabytes in a loop would spend its time in the system, which
 * makes each page anew. So a freed mapping waits a tenth of a second, if nobody calls the heap
 * longer, for a block of its size or down to half of that; what is too large is cut off. At the
 * full level it goes at once: touching it faults.
 */
#include "heap_internal.h"

#if ASTHRA_HAS_MEMORY

enum {
    ASTHRA__HUGE_KEPT = 16,
    ASTHRA__HUGE_KEPT_BYTES = 32 << 20, /* of all */
    ASTHRA__HUGE_KEPT_MOST = 16 << 20   /* of one */
};
#define ASTHRA__HUGE_KEPT_NS INT64_C(100000000)

static struct {
    Asthra__Lock lock; /* of the queue of free records, of those kept, and of additions to all */
    ASTHRA__ATOMIC(Asthra__Huge *) all;
    Asthra__Huge *first_free, *last_free;
    Asthra__Huge *kept[ASTHRA__HUGE_KEPT]; /* freed, but mapped: the oldest first */
    ASTHRA__ATOMIC(unsigned) kept_count;
    size_t kept_bytes;
} asthra__huge;

/* ---- records ---- */

static Asthra__Huge *asthra__huge_record_take(void) {
    asthra__lock(&asthra__huge.lock);
    Asthra__Huge *huge = asthra__huge.first_free;
    if (huge != NULL) {
        asthra__huge.first_free = huge->next_free;
        asthra__unlock(&asthra__huge.lock);
        if (huge->start != NULL)
            asthra__region_drop(huge->start, huge->mapped, huge, ASTHRA__REGION_HUGE);
        return huge;
    }
    huge = asthra__segment_metadata(sizeof *huge);
    if (huge != NULL) {
        huge->next = asthra__load(&asthra__huge.all, relaxed);
        asthra__store(&asthra__huge.all, huge, release);
    }
    asthra__unlock(&asthra__huge.lock);
    return huge;
}

static void asthra__huge_record_give(Asthra__Huge *huge) {
    asthra__lock(&asthra__huge.lock);
    huge->next_free = NULL;
    if (asthra__huge.first_free == NULL)
        asthra__huge.first_free = huge;
    else
        asthra__huge.last_free->next_free = huge;
    asthra__huge.last_free = huge;
    asthra__unlock(&asthra__huge.lock);
}

/* ---- mappings ---- */

/* Fills huge->start, NULL: no memory, and what tells how to give it back. */
static void asthra__huge_map(Asthra__Huge *huge, size_t bytes, size_t alignment) {
    huge->raw = NULL;
    huge->mapped = bytes;
    huge->start = asthra__alloc_is_hooked() ? asthra__segment_borrow(bytes, alignment, &huge->raw)
                                            : asthra__os_map_aligned(bytes, alignment);
    huge->is_zero = huge->raw == NULL;
}

static void asthra__huge_unmap(Asthra__Huge *huge) {
    asthra__heap_show(huge->start, huge->mapped);
    if (huge->raw != NULL)
        asthra__free(huge->raw);
    else
        asthra__os_unmap(huge->start, huge->mapped);
}

/* What lies behind the first `bytes` goes. */
static void asthra__huge_cut(Asthra__Huge *huge, size_t bytes) {
    size_t units = (bytes + ASTHRA__REGION_BYTES - 1) & ~(size_t)(ASTHRA__REGION_BYTES - 1);
    if (units < huge->mapped)
        asthra__region_drop(huge->start + units, huge->mapped - units, huge, ASTHRA__REGION_HUGE);
    if (bytes < huge->mapped) asthra__os_unmap(huge->start + bytes, huge->mapped - bytes);
    huge->mapped = bytes;
}

/* ---- mappings that wait for another use ---- */

static bool asthra__huge_is_worth_keeping(const Asthra__Huge *huge) {
    return huge->raw == NULL && huge->mapped <= ASTHRA__HUGE_KEPT_MOST &&
           huge->level != ASTHRA_SAFETY_FULL;
}

/* Caller holds the lock. */
static Asthra__Huge *asthra__huge_kept_out(unsigned i) {
    Asthra__Huge *huge = asthra__huge.kept[i];
    unsigned count = asthra__load(&asthra__huge.kept_count, relaxed) - 1;
    for (; i < count; i++) asthra__huge.kept[i] = asthra__huge.kept[i + 1];
    huge->is_kept = false;
    asthra__huge.kept_bytes -= huge->mapped;
    asthra__store(&asthra__huge.kept_count, count, relaxed);
    return huge;
}

/* The smallest that is large enough and no more than twice as large; NULL: there is none. */
static Asthra__Huge *asthra__huge_kept_take(size_t bytes, size_t alignment) {
    unsigned best = ASTHRA__HUGE_KEPT;
    asthra__lock(&asthra__huge.lock);
    for (unsigned i = asthra__load(&asthra__huge.kept_count, relaxed); i-- > 0;) {
        const Asthra__Huge *huge = asthra__huge.kept[i];
        if (huge->mapped < bytes || huge->mapped / 2 > bytes) continue;
        if (((uintptr_t)huge->start & (alignment - 1)) != 0) continue;
        if (best == ASTHRA__HUGE_KEPT || huge->mapped < asthra__huge.kept[best]->mapped) best = i;
    }
    Asthra__Huge *huge = best == ASTHRA__HUGE_KEPT ? NULL : asthra__huge_kept_out(best);
    asthra__unlock(&asthra__huge.lock);
    if (huge == NULL) return NULL;
    asthra__huge_cut(huge, bytes);
    asthra__heap_show(huge->start, bytes);
    huge->is_zero = false;
    return huge;
}

/* The oldest, if it was put there before `since`, or there are too many; NULL: none. */
static Asthra__Huge *asthra__huge_kept_old(int64_t since) {
    Asthra__Huge *huge = NULL;
    asthra__lock(&asthra__huge.lock);
    unsigned count = asthra__load(&asthra__huge.kept_count, relaxed);
    if (count != 0 && (asthra__huge.kept[0]->kept_since < since || count == ASTHRA__HUGE_KEPT ||
                       asthra__huge.kept_bytes > ASTHRA__HUGE_KEPT_BYTES))
        huge = asthra__huge_kept_out(0);
    asthra__unlock(&asthra__huge.lock);
    return huge;
}

static size_t asthra__huge_give_old(int64_t since) {
    Asthra__Huge *huge;
    size_t bytes = 0;
    while ((huge = asthra__huge_kept_old(since)) != NULL) {
        bytes += huge->mapped;
        asthra__huge_unmap(huge);
        asthra__huge_record_give(huge);
    }
    return bytes;
}

ASTHRA__FN size_t asthra__huge_trim(void) {
    return asthra__huge_give_old(INT64_MAX);
}

ASTHRA__FN void asthra__huge_decay(void) {
    if (ASTHRA__LIKELY(asthra__load(&asthra__huge.kept_count, relaxed) == 0)) return;
    asthra__huge_give_old(asthra__os_now_ns() - ASTHRA__HUGE_KEPT_NS);
}

static void asthra__huge_keep(Asthra__Huge *huge) {
    int64_t now = asthra__os_now_ns();
    asthra__heap_hide(huge->start, huge->mapped);
    asthra__lock(&asthra__huge.lock);
    unsigned count = asthra__load(&asthra__huge.kept_count, relaxed);
    bool has_room = count < ASTHRA__HUGE_KEPT; /* else others came between */
    if (has_room) {
        huge->kept_since = now;
        huge->is_kept = true;
        asthra__huge.kept[count] = huge;
        asthra__huge.kept_bytes += huge->mapped;
        asthra__store(&asthra__huge.kept_count, count + 1, relaxed);
    }
    asthra__unlock(&asthra__huge.lock);
    if (!has_room) {
        asthra__huge_unmap(huge);
        asthra__huge_record_give(huge);
    }
    asthra__huge_give_old(now - ASTHRA__HUGE_KEPT_NS);
}

ASTHRA__FN size_t asthra__huge_kept(size_t *resident) {
    asthra__lock(&asthra__huge.lock);
    size_t bytes = asthra__huge.kept_bytes;
    for (unsigned i = asthra__load(&asthra__huge.kept_count, relaxed); i-- > 0;)
        *resident += asthra__os_resident(asthra__huge.kept[i]->start, asthra__huge.kept[i]->mapped);
    asthra__unlock(&asthra__huge.lock);
    return bytes;
}

/* ---- blocks ---- */

static Asthra__Huge *asthra__huge_take_fresh(size_t bytes, size_t alignment) {
    Asthra__Huge *huge = asthra__huge_record_take();
    if (huge == NULL) return NULL;
    asthra__huge_map(huge, bytes, alignment);
    if (huge->start != NULL) {
        if (asthra__region_claim(huge->start, bytes, huge, ASTHRA__REGION_HUGE)) return huge;
        asthra__huge_unmap(huge);
        huge->start = NULL;
    }
    asthra__huge_record_give(huge);
    return NULL;
}

ASTHRA__FN Asthra__Huge *asthra__huge_take(size_t size, size_t alignment) {
    size_t page = asthra__os_page_size();
    size_t bytes = size == 0 ? page : (size + page - 1) & ~(page - 1);
    if (bytes < size || bytes > PTRDIFF_MAX) return NULL;
    if (alignment < ASTHRA__REGION_BYTES) alignment = ASTHRA__REGION_BYTES;
    Asthra__Huge *huge =
        asthra__alloc_is_hooked() ? NULL : asthra__huge_kept_take(bytes, alignment);
    if (huge == NULL) huge = asthra__huge_take_fresh(bytes, alignment);
    if (huge == NULL && asthra__huge_trim() != 0) huge = asthra__huge_take_fresh(bytes, alignment);
    asthra__huge_decay();
    return huge;
}

ASTHRA__FN void asthra__huge_mark(Asthra__Huge *huge) {
    if (huge->level == ASTHRA_SAFETY_NONE) return;
    if (huge->size < huge->mapped) asthra__tail_mark(huge->start + huge->size); /* else guarded */
    asthra__heap_hide(huge->start + huge->size, huge->mapped - huge->size);
}

ASTHRA__FN bool asthra__huge_move(Asthra__Huge *from, Asthra__Huge *to) {
    bool is_plain = from->raw == NULL && to->raw == NULL && !from->is_guarded && !to->is_guarded;
    if (!is_plain || from->level == ASTHRA_SAFETY_FULL) return false;
    Asthra__OsMoved moved = asthra__os_move(from->start, from->mapped, to->start, to->mapped);
    from->is_moved = moved == ASTHRA__OS_MOVED;
    to->is_moved = moved == ASTHRA__OS_LOST;
    if (!to->is_moved) asthra__huge_mark(to); /* its own may be lost */
    return from->is_moved;
}

ASTHRA__FN void asthra__huge_give(Asthra__Huge *huge) {
    if (ASTHRA__UNLIKELY(huge->is_guarded)) {
        asthra__guard_give(huge);
    } else if (huge->is_moved) {
        huge->is_moved = false;
        asthra__huge_record_give(huge);
    } else if (asthra__huge_is_worth_keeping(huge)) {
        asthra__huge_keep(huge);
    } else {
        asthra__huge_unmap(huge);
        asthra__huge_record_give(huge);
    }
}

ASTHRA__FN ASTHRA__HEAP_PEEK void asthra__huge_each(bool (*visit)(Asthra__Huge *huge, void *user),
                                                    void *user) {
    Asthra__Huge *huge = asthra__load(&asthra__huge.all, acquire);
    for (; huge != NULL; huge = huge->next)
        if (asthra__load(&huge->is_live, acquire) != 0 && !visit(huge, user)) return;
    asthra__guard_each(visit, user);
}

ASTHRA__FN void asthra__huge_fork_before(void) {
    asthra__lock(&asthra__huge.lock);
    asthra__guard_fork_before();
}
ASTHRA__FN void asthra__huge_fork_after(void) {
    asthra__guard_fork_after();
    asthra__unlock(&asthra__huge.lock);
}

#endif
