/* heap - blocks with mappings of their own.                                [heap] body: huge
 *
 * Each has a mapping of its own, at the start of a unit of the region table.
 *
 * The record stands apart, in metadata, because the mapping is gone once the block is freed and the
 * table still points at the record then: that is how a second free is told from a wild one. Records
 * are used again in the order in which they were freed, so that the memory of a free lasts long.
 *
 * While a caller's allocator is in use the mapping is a block of it with room to align inside.
 */
#include "heap_internal.h"

#if ASTHRA_HAS_MEMORY

static struct {
    Asthra__Lock lock; /* of the queue of free records, and of additions to all */
    ASTHRA__ATOMIC(Asthra__Huge *) all;
    Asthra__Huge *first_free, *last_free;
} asthra__huge;

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

/* Fills huge->start, NULL: no memory, and what tells how to give it back. */
static void asthra__huge_get(Asthra__Huge *huge, size_t bytes, size_t alignment) {
    huge->raw = NULL;
    huge->mapped = bytes;
    huge->start = asthra__alloc_is_hooked() ? asthra__segment_borrow(bytes, alignment, &huge->raw)
                                            : asthra__os_map_aligned(bytes, alignment);
}

static void asthra__huge_give(const Asthra__Huge *huge) {
    if (huge->raw != NULL)
        asthra__free(huge->raw);
    else
        asthra__os_unmap(huge->start, huge->mapped);
}

ASTHRA__FN Asthra__Huge *asthra__huge_map(size_t size, size_t alignment) {
    size_t page = asthra__os_page_size();
    size_t mapped = size == 0 ? page : (size + page - 1) & ~(page - 1);
    if (mapped < size || mapped > PTRDIFF_MAX) return NULL;
    if (alignment < ASTHRA__REGION_BYTES) alignment = ASTHRA__REGION_BYTES;
    Asthra__Huge *huge = asthra__huge_record_take();
    if (huge == NULL) return NULL;
    asthra__huge_get(huge, mapped, alignment);
    if (huge->start != NULL) {
        huge->size = size;
        if (asthra__region_claim(huge->start, mapped, huge, ASTHRA__REGION_HUGE)) return huge;
        asthra__huge_give(huge);
        huge->start = NULL;
    }
    asthra__huge_record_give(huge);
    return NULL;
}

ASTHRA__FN void asthra__huge_unmap(Asthra__Huge *huge) {
    if (ASTHRA__UNLIKELY(huge->is_guarded)) {
        asthra__guard_give(huge);
        return;
    }
    asthra__heap_show(huge->start, huge->mapped);
    asthra__huge_give(huge);
    asthra__huge_record_give(huge);
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
