/* heap - the block of an address.                                           [heap] body: find
 *
 * From any address, and while other threads take and free.
 */
#include "heap_internal.h"

#if ASTHRA_HAS_MEMORY

static ASTHRA__HEAP_PEEK AsthraAddressKind asthra__huge_find(Asthra__Huge *huge, const void *ptr,
                                                             Asthra__Found *f) {
    size_t offset = (size_t)((const char *)ptr - huge->start);
    bool is_live = asthra__load(&huge->is_live, acquire) != 0;
    *f = (Asthra__Found){NULL,
                         huge,
                         huge->start,
                         huge->mapped,
                         huge->size,
                         (AsthraMemoryZone)huge->zone,
                         (AsthraSafetyLevel)huge->level,
                         false};
    if (offset >= huge->mapped) return ASTHRA_ADDRESS_SLACK;
    return is_live ? ASTHRA_ADDRESS_LIVE : ASTHRA_ADDRESS_FREED;
}

/* Where there are no states: whether the block is in the page's list of free ones. Those in a cache
 * are taken for live, and while the owner changes the list the answer may be wrong; but every
 * address that is followed lies in the page. */
static ASTHRA__HEAP_PEEK AsthraAddressKind asthra__page_find_unmarked(const Asthra__HeapPage *p,
                                                                      Asthra__Found *f) {
    uintptr_t b = (uintptr_t)p->free;
    for (unsigned n = 0; n < p->room && b - (uintptr_t)p->start < p->bytes; n++) {
        if (b == (uintptr_t)f->start) return ASTHRA_ADDRESS_FREED;
        b = asthra__block_link((const Asthra__HeapBlock *)b);
    }
    f->size = f->capacity;
    return ASTHRA_ADDRESS_LIVE;
}

/* What a trailer tells of the block that it ends. */
static AsthraAddressKind asthra__trailer_read(uint64_t trailer, Asthra__Found *f) {
    uint64_t slack = asthra__trailer_slack(trailer);
    switch (trailer & 255) {
    case ASTHRA__TRAILER_NEVER: return ASTHRA_ADDRESS_SLACK;
    case ASTHRA__TRAILER_FREED:
    case ASTHRA__TRAILER_FAR: return ASTHRA_ADDRESS_FREED;
    default: break;
    }
    f->is_broken = slack > f->capacity;
    f->size = f->capacity - (f->is_broken ? ASTHRA__TRAILER_BYTES : (size_t)slack);
    return ASTHRA_ADDRESS_LIVE;
}

static ASTHRA__HEAP_PEEK AsthraAddressKind asthra__page_find(Asthra__HeapPage *p, const void *ptr,
                                                             Asthra__Found *f) {
    size_t offset = (size_t)((const char *)ptr - p->start), capacity = p->block_size;
    *f = (Asthra__Found){0};
    f->page = p;
    f->capacity = capacity;
    f->zone = ASTHRA_MEMORY_ZONE_NONE;
    f->level = (AsthraSafetyLevel)p->level;
    if (capacity == 0) return ASTHRA_ADDRESS_SLACK; /* the slice was in no page yet */
    f->zone = (AsthraMemoryZone)p->zone;
    if (offset >= p->bytes) return ASTHRA_ADDRESS_SLACK;
    f->start = p->start + offset / capacity * capacity;
    offset = (size_t)(f->start - p->start);
    if (offset >= (size_t)p->made * capacity) return ASTHRA_ADDRESS_SLACK;
    if (p->slices == 0 || asthra__page_is_hollow(p, offset, capacity))
        return ASTHRA_ADDRESS_FREED; /* its memory may be gone */
    if (f->level == ASTHRA_SAFETY_NONE) return asthra__page_find_unmarked(p, f);
    /* Of a page that is being made the fields may not fit together. */
    if (((uintptr_t)f->start & (ASTHRA__REGION_BYTES - 1)) + capacity > ASTHRA__REGION_BYTES)
        return ASTHRA_ADDRESS_SLACK;
    AsthraAddressKind kind = asthra__trailer_read(asthra__trailer_get(f->start, capacity), f);
    if (ASTHRA__UNLIKELY(f->is_broken) && /* or it went while it was read */
        (p->slices == 0 || asthra__page_is_hollow(p, offset, capacity)))
        return ASTHRA_ADDRESS_FREED;
    return kind;
}

/* Also of addresses whose pages change hands meanwhile. */
ASTHRA__FN ASTHRA__HEAP_PEEK AsthraAddressKind asthra__heap_find(const void *ptr,
                                                                 Asthra__Found *f) {
    uintptr_t entry = asthra__region_entry(ptr), kind = entry % ASTHRA__REGION_KINDS;
    uintptr_t record = entry - kind;
    if (kind == ASTHRA__REGION_HUGE) return asthra__huge_find((Asthra__Huge *)record, ptr, f);
    if (kind == ASTHRA__REGION_SEGMENT)
        return asthra__page_find(asthra__segment_page(record, ptr), ptr, f);
    if (kind == ASTHRA__REGION_GUARD)
        return asthra__huge_find(asthra__guard_find(record, ptr), ptr, f);
    *f = (Asthra__Found){0};
    f->zone = ASTHRA_MEMORY_ZONE_NONE;
    return ASTHRA_ADDRESS_FOREIGN;
}

ASTHRA__FN AsthraMemoryZone asthra__heap_zone_of(const void *ptr) {
    Asthra__Found f;
    AsthraAddressKind kind = asthra__heap_find(ptr, &f);
    /* Beside a huge block, and where one was, others may have their mappings. */
    bool is_gone = kind != ASTHRA_ADDRESS_LIVE && f.huge != NULL && !f.huge->is_guarded;
    return is_gone ? ASTHRA_MEMORY_ZONE_NONE : f.zone;
}

ASTHRA__FN uint64_t asthra__found_freed_by(const Asthra__Found *f) {
    if (f->huge != NULL) return f->huge->freed_by;
    if (f->level == ASTHRA_SAFETY_NONE) return 0;
    uint64_t trailer = asthra__trailer_get(f->start, f->capacity);
    unsigned kind = trailer & 255; /* none of the two if the page's memory is gone */
    bool is_known = trailer > UINT16_MAX;
    return (kind == ASTHRA__TRAILER_FREED || kind == ASTHRA__TRAILER_FAR) && is_known ? trailer : 0;
}

/* Of a live block: whether nobody wrote past its end. */
static bool asthra__found_is_whole(const Asthra__Found *f) {
    return !f->is_broken && (f->size == f->capacity || asthra__tail_is_whole(f->start + f->size));
}

ASTHRA__FN void asthra__heap_expect(const void *ptr, AsthraMemoryZone zone, const char *verb,
                                    Asthra__Found *f) {
    AsthraAddressKind kind = asthra__heap_find(ptr, f);
    if (ASTHRA__UNLIKELY(kind != ASTHRA_ADDRESS_LIVE || f->start != ptr || f->zone != zone))
        asthra__heap_invalid(ptr, zone, verb);
    if (f->level == ASTHRA_SAFETY_NONE || asthra__found_is_whole(f)) return;
    Asthra__Found again; /* another thread's free may have written there just now */
    if (asthra__heap_find(ptr, &again) != ASTHRA_ADDRESS_LIVE)
        asthra__heap_invalid(ptr, zone, verb);
    asthra__heap_overflown(f, verb);
}
ASTHRA__FN size_t asthra__heap_usable_size(const void *ptr, AsthraMemoryZone zone,
                                           const char *verb) {
    Asthra__Found f;
    if (ptr == NULL) return 0;
    asthra__heap_expect(ptr, zone, verb, &f);
    return asthra__found_charge(&f);
}

#endif
