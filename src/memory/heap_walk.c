/* heap - what is asked of all heaps.                                       [heap] body: walk
 *
 * Sums, walks, measures and the trim go over the heaps, pages and huge blocks of all threads while
 * these go on: what they say is exact where nobody is at work.
 */
#include "heap_internal.h"

#if ASTHRA_HAS_MEMORY

ASTHRA__FN void asthra__heap_sum(AsthraMemoryZone zone, Asthra__AccountSum *sum) {
    Asthra__Heap *h = NULL;
    while ((h = asthra__heap_next(h, zone)) != NULL) asthra__account_sum(&h->account, sum);
}

typedef struct Asthra__HeapWalk {
    AsthraMemoryZone zone;
    bool (*visit)(void *block, size_t size, void *user);
    void *user;
    size_t mapped, resident;
    bool goes_on;
} Asthra__HeapWalk;

static ASTHRA__HEAP_PEEK bool asthra__walk_page(Asthra__HeapPage *p, void *user) {
    Asthra__HeapWalk *w = user;
    Asthra__Found f;
    /* visit may free the page's last block, and what it allocates may take the slices */
    for (size_t i = 0; p->slices != 0 && p->zone == (int8_t)w->zone && i < p->room && w->goes_on;
         i++) {
        char *block = p->start + i * p->block_size;
        if (asthra__heap_find(block, &f) == ASTHRA_ADDRESS_LIVE)
            w->goes_on = w->visit(block, f.size, w->user);
    }
    return w->goes_on;
}

static ASTHRA__HEAP_PEEK bool asthra__walk_huge(Asthra__Huge *huge, void *user) {
    Asthra__HeapWalk *w = user;
    if (huge->zone == (int8_t)w->zone) w->goes_on = w->visit(huge->start, huge->size, w->user);
    return w->goes_on;
}

ASTHRA__FN void asthra__heap_walk(AsthraMemoryZone zone,
                                  bool (*visit)(void *block, size_t size, void *user), void *user) {
    Asthra__HeapWalk w = {zone, visit, user, 0, 0, true};
    asthra__segment_each(asthra__walk_page, &w);
    if (w.goes_on) asthra__huge_each(asthra__walk_huge, &w);
}

static ASTHRA__HEAP_PEEK bool asthra__measure_page(Asthra__HeapPage *p, void *user) {
    Asthra__HeapWalk *w = user;
    if (p->zone != (int8_t)w->zone) return true;
    size_t bytes = (size_t)p->slices * ASTHRA__SLICE_BYTES;
    w->mapped += bytes;
    w->resident += asthra__os_resident(
        (char *)((uintptr_t)p->start & ~(uintptr_t)(ASTHRA__SLICE_BYTES - 1)), bytes);
    return true;
}

static ASTHRA__HEAP_PEEK bool asthra__measure_huge(Asthra__Huge *huge, void *user) {
    Asthra__HeapWalk *w = user;
    if (huge->zone != (int8_t)w->zone && w->zone != ASTHRA_MEMORY_ZONE_NONE) return true;
    char *page = (char *)((uintptr_t)huge->start & ~(asthra__os_page_size() - 1));
    size_t bytes = (size_t)(huge->start + huge->mapped - page); /* a guarded block begins late */
    w->mapped += bytes;
    w->resident += asthra__os_resident(page, bytes);
    return true;
}

ASTHRA__FN size_t asthra__heap_mapped(AsthraMemoryZone zone, size_t *resident) {
    Asthra__HeapWalk w = {zone, NULL, NULL, 0, 0, true};
    if (zone == ASTHRA_MEMORY_ZONE_NONE)
        w.mapped = asthra__segment_mapped(&w.resident);
    else
        asthra__segment_each(asthra__measure_page, &w);
    asthra__huge_each(asthra__measure_huge, &w);
    if (zone == ASTHRA_MEMORY_ZONE_NONE) w.mapped += asthra__huge_kept(&w.resident);
    *resident = w.resident;
    return w.mapped;
}

static size_t asthra__heap_trim_all(void) {
    size_t bytes = asthra__heap_visit_idle() + asthra__heap_visit_shared();
    for (size_t zone = 0; zone < ASTHRA__ZONES; zone++) {
        if (asthra__thread_place()->heaps[zone] == NULL) continue;
        Asthra__Heap *h = asthra__heap_enter((AsthraMemoryZone)zone);
        bytes += asthra__heap_trim_one(h);
        asthra__heap_leave(h);
    }
    return bytes;
}

/* Twice: what waits in the quarantine of one heap goes home to another, visited before. */
ASTHRA__FN size_t asthra__heap_trim(void) {
    size_t before = asthra__segment_given(), bytes = asthra__heap_trim_all();
    bytes += asthra__heap_trim_all();
    bytes += asthra__segment_given() - before;
    return bytes + asthra__segment_trim() + asthra__huge_trim();
}

#endif
