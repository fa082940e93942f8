/* heap - frees that are not quick, other sizes, and pins.                   [heap] body: free
 *
 * A free that finds anything unusual about its block comes here.
 */
#include "heap_internal.h"

#if ASTHRA_HAS_MEMORY

#include <string.h>

static struct {
    bool (*is_pinned)(const void *start, size_t size);
    ASTHRA__ATOMIC(size_t) stack_pins; /* of chunks of the stack zone */
} asthra__heap;

/* ---- frees that are not quick ---- */

static void asthra__heap_refuse_pinned(const Asthra__Found *f, const char *verb) {
    uint32_t pins = f->page != NULL ? asthra__load(&f->page->pins, acquire)
                                    : asthra__load(&f->huge->pins, acquire);
    if (ASTHRA__LIKELY(pins == 0) || asthra__heap.is_pinned == NULL) return;
    if (asthra__heap.is_pinned(f->start, f->capacity)) asthra__heap_still_pinned(f, verb);
}

static bool asthra__huge_mark_freed(Asthra__Huge *huge, uint64_t by) {
    if (asthra__exchange(&huge->is_live, 0u, acq_rel) == 0) return false;
    huge->freed_by = by;
    return true;
}

/* Marks the block as freed. Of two threads that free one block one gets past this, unless the other
 * is the owner and quick: then the owner's mark replaces the far one, which drain misses. */
static void asthra__found_mark_freed(const Asthra__Found *f, AsthraMemoryZone zone,
                                     const Asthra__Heap *h, uint64_t by, const char *verb) {
    bool is_done = f->huge == NULL && f->level == ASTHRA_SAFETY_NONE;
    if (f->huge != NULL) {
        is_done = asthra__huge_mark_freed(f->huge, by);
    } else if (!is_done) {
        uint64_t trailer = asthra__trailer_get(f->start, f->capacity);
        if (f->page->heap != NULL && f->page->heap != h)
            by += ASTHRA__TRAILER_FAR - ASTHRA__TRAILER_FREED;
        is_done = asthra__trailer_slack(trailer) <= f->capacity &&
                  asthra__trailer_replace(f->start, f->capacity, trailer, by);
    }
    if (ASTHRA__UNLIKELY(!is_done)) asthra__heap_invalid(f->start, zone, verb);
}

static void asthra__remote_push(Asthra__Heap *owner, Asthra__HeapBlock *block) {
    Asthra__HeapBlock *head = asthra__load(&owner->remote, relaxed);
    do {
        asthra__block_set_next(block, head);
    } while (!asthra__cas(&owner->remote, &head, block, release));
}

ASTHRA__FN void asthra__heap_go_home(Asthra__Heap *h, const Asthra__Found *f) {
    if (f->page->heap == NULL)
        asthra__segment_give(f->page);
    else if (f->page->heap == h)
        asthra__heap_put(h, (void *)f->start);
    else
        asthra__remote_push(f->page->heap, (void *)f->start);
}

static void asthra__found_give(Asthra__Heap *h, const Asthra__Found *f) {
    if (f->huge != NULL) {
        asthra__huge_give(f->huge);
        return;
    }
    asthra__heap_hide(f->start, f->capacity);
    if (f->level == ASTHRA_SAFETY_FULL && asthra__quarantine_add(h, f)) return;
    asthra__heap_go_home(h, f);
}

/* A block of another heap's page, if nothing is wrong with it and nobody wants to be asked: only
 * where it goes is looked up. false: nothing was done. */
static bool asthra__heap_free_far(void *ptr, AsthraMemoryZone zone, const void *site) {
    Asthra__HeapPage *p;
    Asthra__Heap *h = asthra__thread_raw()->heaps[zone];
    if (h == NULL || asthra__zone_is_watched() || zone == ASTHRA_MEMORY_ZONE_STACK) return false;
    if (asthra__page_is_quick(h, ptr, &p) || p == NULL || p->zone != (int8_t)zone) return false;
    if (p->heap == NULL || p->heap == h || p->level == ASTHRA_SAFETY_FULL ||
        asthra__load(&p->pins, acquire) != 0)
        return false;
    size_t capacity = p->block_size, charge = capacity;
    if (p->level != ASTHRA_SAFETY_NONE) {
        uint64_t slack = asthra__block_slack(p, ptr), by = asthra__freed_by(h, site);
        if (slack > capacity ||
            !asthra__trailer_replace(ptr, capacity, ASTHRA__TRAILER_MARK + (slack << 8),
                                     by - ASTHRA__TRAILER_FREED + ASTHRA__TRAILER_FAR))
            return false;
        charge -= (size_t)slack;
    }
    if (asthra__account_free_quick(&h->account, charge) < 0)
        asthra__account_tell(&h->account, zone);
    asthra__heap_hide(ptr, capacity);
    asthra__remote_push(p->heap, ptr);
    return true;
}

/* A live one of the zone, which is not pinned. */
static void asthra__heap_free_found(const Asthra__Found *f, AsthraMemoryZone zone, const void *site,
                                    const char *verb) {
    if (asthra__heap_is_watched(zone)) {
        bool is_there = f->huge == NULL || !f->huge->is_moved;
        if (is_there) asthra__zone_tell_free(f->start, zone);
        asthra__zone_release(asthra__found_charge(f));
    }
    Asthra__Deed deed = asthra__heap_deed(f->level, zone, site);
    if (f->level == ASTHRA_SAFETY_FULL) site = (const void *)(uintptr_t)deed.calls;
    Asthra__Heap *h = asthra__heap_enter(zone);
    size_t charge = asthra__found_charge(f);
    asthra__found_mark_freed(f, zone, h, asthra__freed_by(h, site), verb);
    if (f->level == ASTHRA_SAFETY_FULL) asthra__full_freed(f, deed);
    if (zone != ASTHRA_MEMORY_ZONE_STACK) asthra__account_free(&h->account, charge, zone);
    asthra__found_give(h, f);
    asthra__heap_leave(h);
}

ASTHRA__COLD ASTHRA__FN void asthra__heap_free_slow(void *ptr, AsthraMemoryZone zone,
                                                    const void *site, const char *verb) {
    Asthra__Found f;
    if (ptr == NULL || asthra__heap_free_far(ptr, zone, site)) return;
    asthra__heap_expect(ptr, zone, verb, &f);
    asthra__heap_refuse_pinned(&f, verb);
    asthra__heap_free_found(&f, zone, site, verb);
}

/* ---- a block of another size ---- */

/* Whether a block may stay where it is: it fits, and leaves less than half unused. */
static bool asthra__found_fits(const Asthra__Found *f, size_t size) {
    size_t room = f->capacity - (f->level == ASTHRA_SAFETY_NONE ? 0 : ASTHRA__TRAILER_BYTES);
    return size <= room && size >= f->capacity / 2 && f->level != ASTHRA_SAFETY_FULL;
}

static void asthra__found_remark(const Asthra__Found *f, size_t size) {
    asthra__heap_hide(f->start, f->capacity);
    asthra__heap_show(f->start, size);
    if (f->huge == NULL) {
        asthra__block_mark_live(f->start, f->capacity, size);
    } else {
        f->huge->size = size;
        asthra__tail_mark(f->start + size);
    }
}

/* false: the limit does not let it grow. */
static bool asthra__found_resize(Asthra__Found *f, size_t size) {
    bool is_watched = asthra__heap_is_watched(f->zone);
    size_t before = asthra__found_charge(f);
    size_t after = f->level == ASTHRA_SAFETY_NONE ? f->capacity : size;
    if (is_watched && after > before && !asthra__zone_admit(after - before, f->zone)) {
        asthra__heap_count_failure(f->zone);
        return false;
    }
    if (is_watched) asthra__zone_tell_free(f->start, f->zone);
    if (f->level != ASTHRA_SAFETY_NONE) asthra__found_remark(f, size);
    Asthra__Heap *h = asthra__heap_enter(f->zone);
    asthra__account_resize(&h->account, before, after, f->zone);
    asthra__heap_leave(h);
    if (is_watched && before > after) asthra__zone_release(before - after);
    if (is_watched) asthra__zone_tell_alloc(f->start, size, f->zone);
    return true;
}

/* Gives the new block what the old one held; false: the new one's mapping was lost over it. Hooks
 * may look into a block that is freed, so where there are any pages do not move. */
static bool asthra__found_hand_over(const Asthra__Found *f, const Asthra__Found *to) {
    bool may_move = f->huge != NULL && to->huge != NULL && !asthra__heap_is_watched(f->zone);
    size_t bytes = asthra__found_charge(f);
    if (may_move && asthra__huge_move(f->huge, to->huge)) return true;
    if (to->huge != NULL && to->huge->is_moved) return false;
    memcpy(to->start, f->start, bytes < to->size ? bytes : to->size);
    return true;
}

static void *asthra__heap_realloc_huge(const Asthra__Found *f, char *moved, AsthraMemoryZone zone,
                                       const void *site, const char *verb) {
    Asthra__Found to;
    asthra__heap_find(moved, &to);
    bool is_done = asthra__found_hand_over(f, &to);
    asthra__heap_free_found(is_done ? f : &to, zone, site, verb);
    if (is_done) return moved;
    asthra__error_note(ASTHRA_OUT_OF_MEMORY);
    return NULL;
}

ASTHRA__FN void *asthra__heap_realloc(void *ptr, size_t size, AsthraMemoryZone zone,
                                      const void *site, const char *verb) {
    Asthra__Found f;
    if (ptr == NULL) return asthra__heap_alloc(size, zone, site);
    asthra__heap_expect(ptr, zone, verb, &f);
    asthra__heap_refuse_pinned(&f, verb);
    if (asthra__found_fits(&f, size)) return asthra__found_resize(&f, size) ? ptr : NULL;
    char *moved = asthra__heap_alloc(size, zone, site);
    if (moved == NULL) return NULL;
    if (f.huge != NULL) return asthra__heap_realloc_huge(&f, moved, zone, site, verb);
    size_t kept = asthra__found_charge(&f);
    memcpy(moved, ptr, kept < size ? kept : size);
    asthra__heap_free(ptr, zone, site, verb);
    return moved;
}

/* ---- pins ---- */

ASTHRA__FN void asthra__heap_set_pin_test(bool (*is_pinned)(const void *start, size_t size)) {
    asthra__heap.is_pinned = is_pinned;
}

/* Releases of the stack zone look for pins while there are any. Who takes the last pin away and
 * then sees that another came meanwhile puts the mark back; partner: the mark of who came. */
static void asthra__heap_count_stack_pin(int more) {
    size_t count = asthra__add(&asthra__heap.stack_pins, (size_t)more, seq_cst) + (size_t)more;
    asthra__trace_set(ASTHRA__TRACE_ZONE_PINS, count != 0);
    if (count == 0 && asthra__load(&asthra__heap.stack_pins, seq_cst) != 0)
        asthra__trace_set(ASTHRA__TRACE_ZONE_PINS, true);
}

/* The quick word is the owner's, but a page that once held a pin may stay slow for ever. */
ASTHRA__FN void asthra__heap_count_pin(const void *ptr, int more) {
    Asthra__Found f;
    asthra__heap_find(ptr, &f);
    if (f.page == NULL && f.huge == NULL) return;
    asthra__add(f.page != NULL ? &f.page->pins : &f.huge->pins, (uint32_t)more, acq_rel);
    if (f.page != NULL) asthra__store(&f.page->quick, asthra__not_quick(), release);
    if (f.zone == ASTHRA_MEMORY_ZONE_STACK) asthra__heap_count_stack_pin(more);
}

#endif
