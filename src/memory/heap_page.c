/* heap - pages of blocks, and the bins where they wait.                     [heap] body: page
 *
 * What the owner of a page does, rarely.
 *
 * Hollow memory. Few blocks are enough to keep a page, and then its class alone can use what is
 * free in it. So before a heap grows by memory that nobody has touched yet, it looks for as much
 * that it can give back to the system: units of its pages, of 4 KiB or what the system makes them,
 * in which no block is in use. A bit for each unit of a page says that it is hollow: its memory is
 * gone, the blocks that lie in it, wholly or in part, are out of the list of free ones and counted
 * by `gone`. A page without a free block makes those of its lowest hollow units anew before it
 * makes blocks that never were, and that too is memory by which the heap grows. Nothing is given
 * back while a heap goes on in what it has. When the last block of a page with hollow units is
 * freed, the rest of it goes at once: a slice is either touched or gone.
 *
 * A look costs a walk over the free blocks of a page, so a page is looked at again only when the
 * number of its blocks in use is another one, and a heap that grows by one page walks over as many
 * blocks as a page may have. The full level keeps its freed blocks as they are.
 */
#include "heap_internal.h"

#if ASTHRA_HAS_MEMORY

enum { ASTHRA__PAGE_UNITS = 64, ASTHRA__SWEEP_LOOKS = 32, ASTHRA__SWEEP_BLOCKS = 4096 };

/* ---- bins ---- */

static void asthra__page_enlist(Asthra__Heap *h, Asthra__HeapPage *p) {
    Asthra__HeapPage *head = h->bins[p->bin];
    p->is_listed = true;
    if (head == NULL) {
        p->next = p->prev = p;
        h->bins[p->bin] = p;
        return;
    }
    p->next = head;
    p->prev = head->prev;
    p->prev->next = head->prev = p;
}

/* The next of the bin; NULL: it was the last. */
static Asthra__HeapPage *asthra__page_after(const Asthra__Heap *h, const Asthra__HeapPage *p) {
    return p->next == h->bins[p->bin] ? NULL : p->next;
}

static void asthra__page_unlist(Asthra__Heap *h, Asthra__HeapPage *p) {
    if (h->sweep == p) h->sweep = asthra__page_after(h, p);
    if (h->bins[p->bin] == p) h->bins[p->bin] = p->next == p ? NULL : p->next;
    p->next->prev = p->prev;
    p->prev->next = p->next;
    p->is_listed = false;
}

/* The page has no block in use. */
static void asthra__page_give_back(Asthra__Heap *h, Asthra__HeapPage *p) {
    if (p->is_listed) asthra__page_unlist(h, p);
    asthra__store(&p->quick, asthra__not_quick(), relaxed);
    asthra__segment_give(p);
}

/* The last page of a bin stays when it is empty, or a loop of a few allocations and frees would
 * take and give slices. */
ASTHRA__FN void asthra__page_push(Asthra__Heap *h, Asthra__HeapBlock *block) {
    Asthra__HeapPage *p = asthra__page_of(block);
    asthra__block_set_next(block, p->free);
    p->free = block;
    if (--p->used == 0 && !(p->is_listed && p->next == p)) {
        asthra__page_give_back(h, p);
    } else if (!p->is_listed && p->level == h->level) {
        asthra__page_enlist(h, p);
    }
}

ASTHRA__FN void asthra__bins_shed(Asthra__Heap *h) {
    for (unsigned bin = 0; bin < ASTHRA__HEAP_BINS; bin++) {
        for (Asthra__HeapPage *p = h->bins[bin], *next; p != NULL; p = next) {
            next = asthra__page_after(h, p);
            if (p->used == 0) asthra__page_give_back(h, p);
        }
    }
}

ASTHRA__FN void asthra__bins_leave(Asthra__Heap *h) {
    for (unsigned bin = 0; bin < ASTHRA__HEAP_BINS; bin++)
        while (h->bins[bin] != NULL) asthra__page_unlist(h, h->bins[bin]);
}

/* ---- hollow units ---- */

static ASTHRA__HEAP_PEEK unsigned asthra__unit_shift(const Asthra__HeapPage *p) {
    size_t least = (size_t)p->slices * ASTHRA__SLICE_BYTES / ASTHRA__PAGE_UNITS;
    size_t page = asthra__os_page_size();
    return (unsigned)__builtin_ctzl(page < least ? least : page);
}

typedef struct Asthra__Reach { /* from first to last */
    unsigned first, last;
} Asthra__Reach;

static Asthra__Reach asthra__units_of(const Asthra__HeapPage *p, size_t block, unsigned shift) {
    size_t start = block * p->block_size, end = start + p->block_size - 1;
    return (Asthra__Reach){(unsigned)(start >> shift), (unsigned)(end >> shift)};
}
static Asthra__Reach asthra__blocks_of(const Asthra__HeapPage *p, unsigned unit, unsigned shift) {
    size_t start = (size_t)unit << shift, end = start + ((size_t)1 << shift) - 1;
    unsigned last = (unsigned)(end / p->block_size);
    return (Asthra__Reach){(unsigned)(start / p->block_size), last < p->made ? last : p->made - 1u};
}

static uint64_t asthra__reach_mask(Asthra__Reach units) {
    return (~UINT64_C(0) >> (63 - (units.last - units.first) % 64)) << units.first % 64;
}

static bool asthra__block_is_gone(const Asthra__HeapPage *p, size_t block, unsigned shift) {
    uint64_t units = asthra__reach_mask(asthra__units_of(p, block, shift));
    return (asthra__load(&p->hollow, relaxed) & units) != 0;
}

/* Of a page that is being made the fields may not fit together. */
ASTHRA__FN ASTHRA__HEAP_PEEK bool asthra__page_is_hollow(const Asthra__HeapPage *p, size_t start,
                                                         size_t bytes) {
    uint64_t hollow = asthra__load(&p->hollow, relaxed);
    if (ASTHRA__LIKELY(hollow == 0)) return false;
    unsigned shift = asthra__unit_shift(p);
    Asthra__Reach units = {(unsigned)(start >> shift), (unsigned)((start + bytes - 1) >> shift)};
    return (hollow & asthra__reach_mask(units)) != 0;
}

static size_t asthra__block_number(const Asthra__HeapPage *p, const Asthra__HeapBlock *b) {
    return (size_t)((const char *)b - p->start) / p->block_size;
}

/* Those in which there are blocks, all of them free, and not yet hollow. */
static uint64_t asthra__units_empty(const Asthra__HeapPage *p, unsigned shift) {
    uint16_t idle[ASTHRA__PAGE_UNITS] = {0}; /* blocks in the unit that nobody has */
    uint64_t hollow = asthra__load(&p->hollow, relaxed), empty = 0;
    size_t all = (size_t)p->slices * ASTHRA__SLICE_BYTES;
    size_t end = p->made == p->room ? all : (size_t)p->made * p->block_size;
    for (const Asthra__HeapBlock *b = p->free; b != NULL; b = asthra__block_next(b)) {
        Asthra__Reach units = asthra__units_of(p, asthra__block_number(p, b), shift);
        for (unsigned u = units.first; u <= units.last; u++) idle[u]++;
    }
    for (size_t block = 0; hollow != 0 && block < p->made; block++) {
        Asthra__Reach units = asthra__units_of(p, block, shift);
        if ((hollow & asthra__reach_mask(units)) == 0) continue;
        for (unsigned u = units.first; u <= units.last; u++) idle[u]++;
    }
    for (unsigned u = 0; (size_t)(u + 1) << shift <= end; u++) {
        Asthra__Reach blocks = asthra__blocks_of(p, u, shift);
        if (idle[u] != 0 && idle[u] == blocks.last - blocks.first + 1) empty |= UINT64_C(1) << u;
    }
    return empty & ~hollow;
}

/* Takes the blocks of hollow units out of the page's list. */
static void asthra__page_strain(Asthra__HeapPage *p, unsigned shift) {
    Asthra__HeapBlock *b = p->free, *next;
    for (p->free = NULL; b != NULL; b = next) {
        next = asthra__block_next(b);
        if (asthra__block_is_gone(p, asthra__block_number(p, b), shift)) {
            p->gone++;
        } else {
            asthra__block_set_next(b, p->free);
            p->free = b;
        }
    }
}

static size_t asthra__units_discard(const Asthra__HeapPage *p, uint64_t units, unsigned shift) {
    size_t bytes = 0;
    while (units != 0) {
        unsigned first = (unsigned)__builtin_ctzll(units), last = first;
        while (last + 1 < ASTHRA__PAGE_UNITS && (units >> (last + 1) & 1)) last++;
        units &= ~asthra__reach_mask((Asthra__Reach){first, last});
        size_t run = (size_t)(last - first + 1) << shift;
        if (asthra__os_discard(p->start + ((size_t)first << shift), run)) bytes += run;
    }
    return bytes;
}

static uint32_t asthra__page_idle(const Asthra__HeapPage *p) { /* blocks in its list */
    return (uint32_t)p->made - p->gone - p->used;
}

/* Bytes given back. A page that has given some is the last of its bin: fuller ones come first. */
static size_t asthra__page_hollow(Asthra__Heap *h, Asthra__HeapPage *p) {
    unsigned shift = asthra__unit_shift(p);
    p->swept = (uint16_t)p->used;
    if ((size_t)asthra__page_idle(p) * p->block_size < (size_t)1 << shift) return 0;
    if (p->level == ASTHRA_SAFETY_FULL || asthra__page_is_lent(p)) return 0;
    uint64_t empty = asthra__units_empty(p, shift);
    if (empty == 0) return 0;
    asthra__store(&p->hollow, asthra__load(&p->hollow, relaxed) | empty, relaxed);
    asthra__page_strain(p, shift);
    asthra__page_unlist(h, p);
    asthra__page_enlist(h, p);
    return asthra__units_discard(p, empty, shift);
}

ASTHRA__FN size_t asthra__bins_hollow(Asthra__Heap *h) {
    size_t bytes = 0;
    for (unsigned bin = 0; bin < ASTHRA__HEAP_BINS; bin++) {
        Asthra__HeapPage *p = h->bins[bin], *last = p == NULL ? NULL : p->prev, *next;
        for (; p != NULL; p = p == last ? NULL : next) {
            next = p->next;
            if (p->swept != (uint16_t)p->used) bytes += asthra__page_hollow(h, p);
        }
    }
    return bytes;
}

/* Goes on where the last sweep ended, until it has given back what the heap is about to take. */
static void asthra__heap_sweep(Asthra__Heap *h, size_t wanted) {
    size_t given = 0;
    uint32_t walked = 0;
    unsigned bins = 0, looks = 0;
    while (given < wanted && walked < ASTHRA__SWEEP_BLOCKS && looks < ASTHRA__SWEEP_LOOKS &&
           bins <= ASTHRA__HEAP_BINS) {
        Asthra__HeapPage *p = h->sweep;
        if (p == NULL) {
            h->sweep_bin = (uint8_t)((h->sweep_bin + ASTHRA__HEAP_BINS - 1u) % ASTHRA__HEAP_BINS);
            h->sweep = h->bins[h->sweep_bin];
            bins++;
            continue;
        }
        h->sweep = asthra__page_after(h, p);
        looks++;
        if (p->swept == (uint16_t)p->used) continue;
        walked += asthra__page_idle(p);
        given += asthra__page_hollow(h, p);
    }
}

/* Makes the blocks of the lowest hollow units anew, of as many as it takes to have one. Returns the
 * bytes of these. */
static size_t asthra__page_remake(Asthra__HeapPage *p) {
    size_t bytes = 0;
    unsigned shift = asthra__unit_shift(p);
    uint64_t hollow = asthra__load(&p->hollow, relaxed);
    while (hollow != 0 && p->free == NULL) {
        Asthra__Reach blocks = asthra__blocks_of(p, (unsigned)__builtin_ctzll(hollow), shift);
        hollow &= hollow - 1;
        bytes += (size_t)1 << shift;
        asthra__store(&p->hollow, hollow, relaxed);
        for (size_t i = blocks.last + 1u; i-- > blocks.first;) {
            char *block = p->start + i * p->block_size;
            if (asthra__block_is_gone(p, i, shift)) continue;
            asthra__block_make(p, block, p->free, ASTHRA__TRAILER_FREED); /* by whom, went too */
            p->free = (void *)block;
            p->gone--;
        }
    }
    return bytes;
}

/* ---- making pages and blocks ---- */

/* Blocks begin at multiples of the largest power of two that divides their size, or of a slice. */
ASTHRA__FN void asthra__page_fill(Asthra__Heap *h, const Asthra__Span *span, size_t all,
                                  size_t block_size) {
    Asthra__HeapPage *p = span->page;
    size_t room = all / block_size;
    p->zone = (int8_t)h->zone;
    p->level = h->level;
    p->is_zero = span->is_zero;
    p->start = span->start;
    p->block_size = (uint32_t)block_size;
    p->bytes = (uint32_t)(room * block_size);
    p->inverse = UINT64_MAX / block_size + 1;
    p->free = NULL;
    p->used = p->made = p->gone = 0;
    p->swept = UINT16_MAX;
    asthra__store(&p->hollow, 0u, relaxed);
    p->room = (uint16_t)room;
    p->is_listed = false;
    asthra__heap_hide(p->start, p->bytes);
}

static Asthra__HeapPage *asthra__page_make(Asthra__Heap *h, unsigned bin) {
    size_t size = h->caches[bin].size;
    unsigned slices = size <= ASTHRA__SMALL_MAX ? 1 : ASTHRA__MEDIUM_SLICES;
    size_t all = (size_t)slices * ASTHRA__SLICE_BYTES;
    Asthra__Span span = asthra__segment_take(slices);
    Asthra__HeapPage *p = span.page;
    if (p == NULL) return NULL;
    p->heap = h;
    p->bin = (uint8_t)bin;
    asthra__page_fill(h, &span, all, size);
    asthra__store(&p->quick, asthra__heap_is_quick(h) ? h : asthra__not_quick(), relaxed);
    asthra__page_enlist(h, p);
    if (span.is_zero) asthra__heap_sweep(h, all);
    return p;
}

/* Makes up to 4 KiB of blocks, lowest first: memory is touched as it is needed. */
static void asthra__page_extend(Asthra__HeapPage *p) {
    size_t count = 4096 / p->block_size, left = (size_t)p->room - p->made;
    if (count == 0) count = 1;
    if (count > left) count = left;
    char *block = p->start + (size_t)p->made * p->block_size;
    p->free = (Asthra__HeapBlock *)(void *)block;
    for (size_t i = 1; i <= count; i++, block += p->block_size)
        asthra__block_make(p, block, i < count ? (void *)(block + p->block_size) : NULL,
                           ASTHRA__TRAILER_NEVER);
    p->made = (uint16_t)(p->made + count);
}

ASTHRA__FN Asthra__HeapBlock *asthra__bin_take(Asthra__Heap *h, unsigned bin) {
    Asthra__HeapPage *p = h->bins[bin];
    if (p == NULL && (p = asthra__page_make(h, bin)) == NULL) return NULL;
    size_t grown = p->free == NULL && p->gone != 0 ? asthra__page_remake(p) : 0;
    if (p->free == NULL) asthra__page_extend(p);
    Asthra__HeapBlock *blocks = p->free;
    p->free = NULL;
    p->used = (uint32_t)p->made - p->gone;
    p->swept = UINT16_MAX; /* as many may be in use soon, but others */
    if (p->made == p->room && p->gone == 0) asthra__page_unlist(h, p);
    if (grown != 0) asthra__heap_sweep(h, grown);
    return blocks;
}

#endif
