/* heap - blocks of the manual, the pinned and the stack zone.              [heap] body
 *
 * Sizes up to 64 KiB are rounded up to one of 80 classes: steps of 16 bytes up to 128, then eight
 * to a doubling. A page holds blocks of one class and belongs to the heap of one thread, which
 * alone takes from it: the page's list of free blocks needs no lock. Between the pages and the user
 * stands a cache for each class, a list that takes over what a page has and grows by some 32 KiB of
 * frees: what was freed last is given out first, wherever it lies. A page of small blocks is a
 * slice of a segment (64 KiB), one of blocks over 8 KiB is eight slices; blocks over 64 KiB have
 * pages of their own, and over 2 MiB mappings of their own (heap_huge.c).
 *
 * At the checked level a block ends with a trailer that says what it is: never given, freed and by
 * whom, or live with so many bytes asked for. So a free finds, from the address alone and without a
 * lock: the segment (is it ours? the region table says), the page, whether a block begins there,
 * and whether it is live. The byte after those that were asked for has a known value, and the
 * trailer is known in most of its bits, so that a write past the end is found at the free. A side
 * table of states was tried first: to look into it cost a cache line more for each block that is
 * not in the cache, and blocks that fill their class had no room for a mark.
 *
 * Another thread's free changes the trailer, by compare-and-swap, which says who wins when two
 * threads free one block, and pushes the block onto the owner heap's `remote` list. The owner takes
 * the whole list the next time one of its caches runs empty. It marks its own frees with a plain
 * store, so a block that it frees at the same moment as another thread is in two lists, and is
 * found then by its trailer. While a block is live its page cannot go away, so the pusher may read
 * whose it is; after the push it touches nothing.
 *
 * Invariants. A page is in its bin's ring (is_listed) if and only if it has a free block or room
 * for one, and has its heap's level; blocks in caches have that level too. `used` counts blocks
 * that are neither in `free` nor unmade, those in the cache among them. A page whose `quick` is its
 * heap may be freed to without asking anything else: it is not pinned, its level is not the full
 * one, and the heap is its thread's.
 */
#include "heap_internal.h"

#if ASTHRA_HAS_MEMORY

#include <string.h>

/* ---- classes ---- */

/* Bins of sizes up to 1,024, by sixteens. */
static ASTHRA__FAST unsigned asthra__bin_of(size_t size) { /* 0 to 65536 */
    static const uint8_t bins[] = {
        0,  0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 16, 17, 17, 18,
        18, 19, 19, 20, 20, 21, 21, 22, 22, 23, 23, 24, 24, 24, 24, 25, 25, 25, 25, 26, 26, 26,
        26, 27, 27, 27, 27, 28, 28, 28, 28, 29, 29, 29, 29, 30, 30, 30, 30, 31, 31, 31, 31};
    if (ASTHRA__LIKELY(size <= 1024)) return bins[(size + 15) / 16];
    unsigned n = (unsigned)size - 1, top = 31 - (unsigned)__builtin_clz(n);
    return 8 + (top - 7) * 8 + ((n >> (top - 3)) & 7);
}

static size_t asthra__bin_size(unsigned bin) {
    if (bin < 8) return (size_t)(bin + 1) * 16;
    return (size_t)(9 + (bin - 8) % 8) << (4 + (bin - 8) / 8);
}

static size_t asthra__round_up(size_t size, size_t to) {
    return (size + to - 1) & ~(to - 1);
}

/* The bin whose blocks hold `size` bytes and begin at multiples of `alignment`; HEAP_BINS: none. */
static unsigned asthra__bin_for(size_t size, size_t alignment) {
    if (size > ASTHRA__MEDIUM_MAX || alignment > ASTHRA__SLICE_BYTES) return ASTHRA__HEAP_BINS;
    unsigned bin = asthra__bin_of(size);
    while (bin < ASTHRA__HEAP_BINS && (asthra__bin_size(bin) & (alignment - 1)) != 0) bin++;
    return bin;
}

/* What a block for `size` bytes can hold; 0: more than there can be. */
static size_t asthra__heap_capacity(size_t size, size_t alignment) {
    unsigned bin = asthra__bin_for(size, alignment);
    if (bin < ASTHRA__HEAP_BINS) return asthra__bin_size(bin);
    size_t page = asthra__os_page_size();
    if (size > (size_t)PTRDIFF_MAX - page) return 0;
    return size == 0 ? page : asthra__round_up(size, page);
}

/* ---- caches ---- */

/* How far a cache may grow beyond what it was filled with: 32 KiB, but 4 to 128 blocks. */
static int asthra__cache_limit(size_t size) {
    size_t count = 32768 / size;
    return count > 128 ? 128 : count < 4 ? 4 : (int)count;
}

/* Keeps the newest half of what a cache may grow by; the rest goes home to its pages. */
static void asthra__cache_shrink(Asthra__Heap *h, Asthra__HeapCache *c, int keep) {
    Asthra__HeapBlock *rest = c->free, *last = NULL;
    for (int i = 0; i < keep && rest != NULL; i++) {
        last = rest;
        rest = asthra__block_next(rest);
    }
    if (last == NULL)
        c->free = NULL;
    else
        asthra__block_set_next(last, NULL);
    c->left = asthra__cache_limit(c->size) - keep;
    while (rest != NULL) {
        Asthra__HeapBlock *next = asthra__block_next(rest);
        asthra__page_push(h, rest);
        rest = next;
    }
}

/* Takes all that a page has: a page that is full leaves the ring. false: no memory. */
static bool asthra__cache_fill(Asthra__Heap *h, unsigned bin) {
    Asthra__HeapCache *c = &h->caches[bin];
    asthra__heap_drain(h);
    if (c->free != NULL) return true;
    c->free = asthra__bin_take(h, bin);
    c->left = asthra__cache_limit(c->size);
    return c->free != NULL;
}

/* A block of the owner's, marked as freed. Returns what is left: below 0, the cache is full. */
static ASTHRA__FAST int asthra__cache_put(Asthra__HeapCache *c, Asthra__HeapBlock *block) {
    asthra__block_set_next(block, c->free);
    c->free = block;
    return --c->left;
}

/* The block that the cache will give next is out of it. */
static ASTHRA__FAST void asthra__cache_take(Asthra__HeapCache *c, Asthra__HeapBlock *block) {
    c->free = asthra__block_next(block);
    c->left++;
}

ASTHRA__FN void asthra__heap_put(Asthra__Heap *h, Asthra__HeapBlock *block) {
    const Asthra__HeapPage *p = asthra__page_of(block);
    Asthra__HeapCache *c = &h->caches[p->bin];
    if (p->level != h->level)
        asthra__page_push(h, block);
    else if (asthra__cache_put(c, block) < 0)
        asthra__cache_shrink(h, c, asthra__cache_limit(c->size) / 2);
}

/* A block that another thread freed is the owner's again. Its trailer is another one if the owner
 * freed it at the same time. */
static void asthra__far_take_back(Asthra__HeapBlock *block) {
    Asthra__HeapPage *p = asthra__page_of(block);
    if (p->level == ASTHRA_SAFETY_NONE) return;
    uint64_t trailer = asthra__trailer_get((char *)block, p->block_size);
    unsigned kind = trailer & 255;
    if (ASTHRA__UNLIKELY(kind == ASTHRA__TRAILER_LIVE || kind == ASTHRA__TRAILER_FREED))
        asthra__heap_freed_at_once(block);
    if (ASTHRA__UNLIKELY(kind != ASTHRA__TRAILER_FAR)) asthra__heap_damaged(block);
    asthra__trailer_set((char *)block, p->block_size,
                        trailer - ASTHRA__TRAILER_FAR + ASTHRA__TRAILER_FREED);
}

ASTHRA__FN void asthra__heap_drain(Asthra__Heap *h) {
    if (asthra__load(&h->remote, relaxed) == NULL) return;
    Asthra__HeapBlock *block = asthra__exchange(&h->remote, NULL, acquire);
    while (block != NULL) {
        asthra__far_take_back(block);
        Asthra__HeapBlock *next = asthra__block_next(block);
        asthra__heap_put(h, block);
        block = next;
    }
}

ASTHRA__FN void asthra__heap_shed(Asthra__Heap *h) {
    asthra__quarantine_flush(h);
    for (unsigned bin = 0; bin < ASTHRA__HEAP_BINS; bin++)
        asthra__cache_shrink(h, &h->caches[bin], 0);
    asthra__bins_shed(h);
}

ASTHRA__FN size_t asthra__heap_trim_one(Asthra__Heap *h) {
    asthra__heap_drain(h);
    asthra__heap_shed(h);
    return asthra__bins_hollow(h);
}

static ASTHRA__HEAP_PEEK bool asthra__page_slow_down(Asthra__HeapPage *p, void *user) {
    if (p->heap == user) asthra__store(&p->quick, asthra__not_quick(), relaxed);
    return true;
}

/* Pages of the old level leave the bins and are no longer quick; a free that empties one gives it
 * back. */
ASTHRA__FN void asthra__heap_change_level(Asthra__Heap *h, AsthraSafetyLevel level) {
    for (unsigned bin = 0; bin < ASTHRA__HEAP_BINS; bin++)
        h->caches[bin].size = (uint32_t)asthra__bin_size(bin);
    asthra__heap_shed(h);
    asthra__bins_leave(h);
    if (h->level != ASTHRA_SAFETY_DEFAULT) /* else it is new and has no pages */
        asthra__segment_each(asthra__page_slow_down, h);
    h->level = (uint8_t)level;
    h->tag = asthra__trailer_tag(h->number);
    h->extra = level == ASTHRA_SAFETY_NONE ? 0 : ASTHRA__TRAILER_BYTES;
    h->quick_below = level == ASTHRA_SAFETY_FULL ? 0 : ASTHRA__MEDIUM_MAX + 1 - h->extra;
}

/* ---- the quick paths ----
 *
 * Without safety blocks have no trailers: then an allocation looks at nothing but the heap and the
 * block. The full level has no quick paths. */

/* NULL: nothing was done. */
static ASTHRA__FAST void *asthra__heap_alloc_quick(Asthra__Heap *h, size_t size,
                                                   AsthraMemoryZone zone) {
    if (ASTHRA__UNLIKELY(size >= h->quick_below)) return NULL;
    Asthra__HeapCache *c = &h->caches[asthra__bin_of(size + h->extra)];
    Asthra__HeapBlock *block = c->free;
    if (ASTHRA__UNLIKELY(block == NULL)) return NULL;
    bool is_plain = h->extra == 0;
    size_t capacity = c->size, charge = is_plain ? capacity : size;
    if (zone != ASTHRA_MEMORY_ZONE_STACK && !asthra__account_try_alloc(&h->account, charge))
        return NULL;
    asthra__cache_take(c, block);
    asthra__heap_show(block, charge);
    if (!is_plain) asthra__block_mark_live((char *)block, capacity, size);
    return block;
}

/* The cache is full, or the account has a step behind it. */
ASTHRA__COLD static void asthra__heap_settle(Asthra__Heap *h, Asthra__HeapCache *c) {
    if (c->left < 0) asthra__cache_shrink(h, c, asthra__cache_limit(c->size) / 2);
    if (h->zone != ASTHRA_MEMORY_ZONE_STACK) asthra__account_tell(&h->account, h->zone);
}

/* false: nothing was done, because something is wrong; the slow path finds out what it is. */
static ASTHRA__FAST bool asthra__heap_free_quick(Asthra__Heap *h, Asthra__HeapPage *p, void *ptr,
                                                 AsthraMemoryZone zone, const void *site) {
    size_t capacity = p->block_size, charge = capacity;
    ptrdiff_t left = 0;
    if (p->level != ASTHRA_SAFETY_NONE) {
        uint64_t slack = asthra__block_slack(p, ptr);
        if (ASTHRA__UNLIKELY(slack > capacity)) return false;
        asthra__trailer_set(ptr, capacity, asthra__freed_by(h, site));
        charge -= (size_t)slack;
    }
    if (zone != ASTHRA_MEMORY_ZONE_STACK) left = asthra__account_free_quick(&h->account, charge);
    asthra__heap_hide(ptr, capacity);
    Asthra__HeapCache *c = &h->caches[p->bin];
    left |= asthra__cache_put(c, ptr);
    if (ASTHRA__UNLIKELY(left < 0)) asthra__heap_settle(h, c);
    return true;
}

/* ---- taking blocks of all sizes; caller owns h ---- */

static void *asthra__large_take(Asthra__Heap *h, size_t room, size_t size) {
    size_t capacity = asthra__round_up(room, asthra__os_page_size());
    Asthra__Span span = asthra__segment_take(
        (unsigned)((capacity + ASTHRA__SLICE_BYTES - 1) >> ASTHRA__SLICE_SHIFT));
    Asthra__HeapPage *p = span.page;
    if (p == NULL) return NULL;
    p->heap = NULL;
    asthra__page_fill(h, &span, capacity, capacity);
    p->used = p->made = 1;
    asthra__heap_show(p->start, h->level == ASTHRA_SAFETY_NONE ? capacity : size);
    if (h->level != ASTHRA_SAFETY_NONE) asthra__block_mark_live(p->start, capacity, size);
    return p->start;
}

static void *asthra__huge_give_out(Asthra__Heap *h, Asthra__Huge *huge, size_t size) {
    if (huge == NULL) return NULL;
    huge->size = size;
    huge->zone = (int8_t)h->zone;
    huge->level = h->level;
    asthra__huge_mark(huge);
    asthra__store(&huge->is_live, 1u, release);
    return huge->start;
}

static void *asthra__small_take(Asthra__Heap *h, unsigned bin, size_t size) {
    Asthra__HeapCache *c = &h->caches[bin];
    if (c->free == NULL && !asthra__cache_fill(h, bin)) return NULL;
    Asthra__HeapBlock *block = c->free;
    asthra__cache_take(c, block);
    asthra__heap_show(block, h->level == ASTHRA_SAFETY_NONE ? c->size : size);
    if (h->level != ASTHRA_SAFETY_NONE) asthra__block_mark_live((char *)block, c->size, size);
    return block;
}

static void *asthra__heap_take(Asthra__Heap *h, size_t size, size_t alignment) {
    bool is_full = h->level == ASTHRA_SAFETY_FULL;
    size_t room = is_full ? asthra__full_room(size) : size + h->extra;
    if (is_full && alignment <= 16 && asthra__full_wants_guard(h)) {
        void *guarded = asthra__huge_give_out(h, asthra__guard_take(size), size);
        if (guarded != NULL) return guarded;
    }
    unsigned bin = asthra__bin_for(room, alignment);
    if (bin < ASTHRA__HEAP_BINS) return asthra__small_take(h, bin, size);
    if (room <= ASTHRA__LARGE_MAX && alignment <= ASTHRA__SLICE_BYTES)
        return asthra__large_take(h, room, size);
    return asthra__huge_give_out(h, asthra__huge_take(room, alignment), size);
}

ASTHRA__FN Asthra__Deed asthra__heap_deed(AsthraSafetyLevel level, AsthraMemoryZone zone,
                                          const void *site) {
    if (ASTHRA__LIKELY(level != ASTHRA_SAFETY_FULL || zone == ASTHRA_MEMORY_ZONE_STACK))
        return (Asthra__Deed){0, 0};
    return asthra__deed_here(site);
}

/* What the limit and the accounts are charged for a block of the heap. */
static size_t asthra__heap_charge(AsthraSafetyLevel level, size_t size, size_t alignment) {
    return level == ASTHRA_SAFETY_NONE ? asthra__heap_capacity(size, alignment) : size;
}

/* Counts what the zones are told of; blocks of the stack zone are chunks that it counts itself. */
static void *asthra__heap_alloc_counted(size_t size, size_t alignment, AsthraMemoryZone zone,
                                        const void *site) {
    Asthra__Deed deed = asthra__heap_deed(asthra__heap_level(), zone, site);
    Asthra__Heap *h = asthra__heap_enter(zone);
    void *ptr = asthra__heap_take(h, size, alignment);
    if (ptr == NULL)
        asthra__account_fail(&h->account);
    else if (zone != ASTHRA_MEMORY_ZONE_STACK)
        asthra__account_alloc(
            &h->account, asthra__heap_charge((AsthraSafetyLevel)h->level, size, alignment), zone);
    if (h->level == ASTHRA_SAFETY_FULL && ptr != NULL) asthra__full_allocated(h, ptr, deed);
    asthra__heap_leave(h);
    if (ptr == NULL) asthra__error_note(ASTHRA_OUT_OF_MEMORY);
    return ptr;
}

ASTHRA__FN void asthra__heap_count_failure(AsthraMemoryZone zone) {
    Asthra__Heap *h = asthra__heap_enter(zone);
    asthra__account_fail(&h->account);
    asthra__heap_leave(h);
}

ASTHRA__FN bool asthra__heap_is_watched(AsthraMemoryZone zone) {
    return asthra__zone_is_watched() && zone != ASTHRA_MEMORY_ZONE_STACK;
}

ASTHRA__COLD static void *asthra__heap_alloc_slow(size_t size, size_t alignment,
                                                  AsthraMemoryZone zone, const void *site) {
    if (asthra__heap_capacity(size, alignment) == 0) {
        asthra__heap_count_failure(zone);
        asthra__error_note(ASTHRA_OUT_OF_MEMORY);
        return NULL;
    }
    if (!asthra__heap_is_watched(zone))
        return asthra__heap_alloc_counted(size, alignment, zone, site);
    size_t charge = asthra__heap_charge(asthra__heap_level(), size, alignment);
    if (!asthra__zone_admit(charge, zone)) {
        asthra__heap_count_failure(zone);
        return NULL;
    }
    void *ptr = asthra__heap_alloc_counted(size, alignment, zone, site);
    if (ptr == NULL)
        asthra__zone_release(charge);
    else
        asthra__zone_tell_alloc(ptr, size, zone);
    return ptr;
}

ASTHRA__FN ASTHRA__FAST void *asthra__heap_alloc_here(size_t size, AsthraMemoryZone zone,
                                                      const void *site) {
    Asthra__Heap *h = asthra__thread_raw()->heaps[zone];
    if (ASTHRA__LIKELY(h != NULL && !asthra__zone_is_watched())) {
        void *ptr = asthra__heap_alloc_quick(h, size, zone);
        if (ASTHRA__LIKELY(ptr != NULL)) return ptr;
    }
    return asthra__heap_alloc_slow(size, 16, zone, site);
}

ASTHRA__FN ASTHRA__NOINLINE void *asthra__heap_alloc(size_t size, AsthraMemoryZone zone,
                                                     const void *site) {
    return asthra__heap_alloc_here(size, zone, site);
}

ASTHRA__FN void *asthra__heap_alloc_aligned(size_t size, size_t alignment, AsthraMemoryZone zone,
                                            const void *site) {
    if (alignment == 0 || (alignment & (alignment - 1)) != 0) {
        asthra__error_set(ASTHRA_INVALID, "alignment is %zu, expected a power of two", alignment);
        return NULL;
    }
    return asthra__heap_alloc_slow(size, alignment < 16 ? 16 : alignment, zone, site);
}

ASTHRA__FN void *asthra__heap_alloc_zeroed(size_t count, size_t size, AsthraMemoryZone zone,
                                           const void *site) {
    size_t all;
    if (__builtin_mul_overflow(count, size, &all)) all = SIZE_MAX; /* refused as too large */
    char *ptr = asthra__heap_alloc(all, zone, site);
    if (ptr == NULL) return NULL;
    if (all > ASTHRA__MEDIUM_MAX && !asthra__heap_is_watched(zone)) { /* no hook wrote into it */
        Asthra__Found f;
        asthra__heap_find(ptr, &f);
        if (f.huge != NULL ? f.huge->is_zero : f.page->is_zero) return ptr;
    }
    return memset(ptr, 0, all);
}

ASTHRA__FN ASTHRA__FAST void asthra__heap_free_here(void *ptr, AsthraMemoryZone zone,
                                                    const void *site, const char *verb) {
    Asthra__Heap *h = asthra__thread_raw()->heaps[zone];
    Asthra__HeapPage *p;
    bool is_done = ASTHRA__LIKELY(h != NULL) && ASTHRA__LIKELY(!asthra__zone_is_watched()) &&
                   ASTHRA__LIKELY(asthra__page_is_quick(h, ptr, &p)) &&
                   ASTHRA__LIKELY(asthra__heap_free_quick(h, p, ptr, zone, site));
    if (ASTHRA__UNLIKELY(!is_done)) asthra__heap_free_slow(ptr, zone, site, verb);
}

ASTHRA__FN ASTHRA__NOINLINE void asthra__heap_free(void *ptr, AsthraMemoryZone zone,
                                                   const void *site, const char *verb) {
    asthra__heap_free_here(ptr, zone, site, verb);
}

#endif
