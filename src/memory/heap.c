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

static struct {
    bool (*is_pinned)(const void *start, size_t size);
    ASTHRA__ATOMIC(size_t) stack_pins; /* of chunks of the stack zone */
} asthra__heap;

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

/* ---- words in blocks; a sanitizer is told that these are ours ---- */

#if ASTHRA__ASAN
#define ASTHRA__HEAP_OWN __attribute__((__noinline__, __no_sanitize__("address")))
#elif ASTHRA__TSAN
#define ASTHRA__HEAP_OWN ASTHRA__HEAP_PEEK
#else
#define ASTHRA__HEAP_OWN ASTHRA__FAST
#endif

/* Links are kept with some bits turned that no address has: what a user writes into a freed block
 * hardly ever makes a link of it. */
#if UINTPTR_MAX > 0xffffffffu
#define ASTHRA__LINK_BITS ((uintptr_t)0xa57a00000000000b)
#define ASTHRA__LINK_NEVER ((uintptr_t)0xffff00000000000f)
#else
#define ASTHRA__LINK_BITS ((uintptr_t)0xb)
#define ASTHRA__LINK_NEVER ((uintptr_t)0xf)
#endif

static ASTHRA__HEAP_OWN uintptr_t asthra__block_link(const Asthra__HeapBlock *b) {
    return b->link ^ ASTHRA__LINK_BITS;
}
static ASTHRA__HEAP_OWN void asthra__block_set_next(Asthra__HeapBlock *b, Asthra__HeapBlock *next) {
    b->link = (uintptr_t)next ^ ASTHRA__LINK_BITS;
}
/* The next free block; panics if a user has written over the link. */
static ASTHRA__FAST Asthra__HeapBlock *asthra__block_next(const Asthra__HeapBlock *b) {
    uintptr_t next = asthra__block_link(b);
    if (ASTHRA__UNLIKELY((next & ASTHRA__LINK_NEVER) != 0)) asthra__heap_damaged(b);
    return (Asthra__HeapBlock *)next;
}

/* ---- trailers ---- */

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define asthra__trailer_turn(trailer) __builtin_bswap64(trailer) /* the kind comes first */
#else
#define asthra__trailer_turn(trailer) (trailer)
#endif

static ASTHRA__FAST ASTHRA__ATOMIC(uint64_t) * asthra__trailer_at(const char *b, size_t capacity) {
    return (ASTHRA__ATOMIC(uint64_t) *)(uintptr_t)(b + capacity - ASTHRA__TRAILER_BYTES);
}
static ASTHRA__HEAP_OWN uint64_t asthra__trailer_get(const char *block, size_t capacity) {
    return asthra__trailer_turn(asthra__load(asthra__trailer_at(block, capacity), relaxed));
}
static ASTHRA__HEAP_OWN void asthra__trailer_set(char *block, size_t capacity, uint64_t trailer) {
    asthra__store(asthra__trailer_at(block, capacity), asthra__trailer_turn(trailer), relaxed);
}
static ASTHRA__HEAP_OWN bool asthra__trailer_replace(char *block, size_t capacity, uint64_t before,
                                                     uint64_t after) {
    before = asthra__trailer_turn(before);
    return asthra__cas(asthra__trailer_at(block, capacity), &before, asthra__trailer_turn(after),
                       acq_rel);
}

/* The first byte that was not asked for; if nothing is left but the trailer, the trailer's kind. */
static ASTHRA__HEAP_OWN void asthra__tail_mark(char *place) {
    *(unsigned char *)place = ASTHRA__TRAILER_LIVE;
}
static ASTHRA__HEAP_OWN bool asthra__tail_is_whole(const char *place) {
    return *(const unsigned char *)place == ASTHRA__TRAILER_LIVE;
}

/* The trailer last: a load of it that comes soon shall find all of it in one store. */
static ASTHRA__FAST void asthra__block_mark_live(char *block, size_t capacity, size_t size) {
    asthra__tail_mark(block + size);
    asthra__trailer_set(block, capacity, ASTHRA__TRAILER_MARK + ((uint64_t)(capacity - size) << 8));
}

static ASTHRA__FAST Asthra__HeapPage *asthra__page_of(const void *block) {
    return asthra__segment_page((uintptr_t)block & ~(uintptr_t)(ASTHRA__REGION_BYTES - 1), block);
}

/* Of any address: whether a block of the page begins there. For an offset and a size below 2^32 the
 * product, modulo 2^64, is below the inverse if and only if the size divides the offset (Lemire,
 * Kaser, Kurz: Faster remainder by direct computation, 2019). */
static ASTHRA__FAST bool asthra__begins_block(const Asthra__HeapPage *p, const void *ptr) {
    uint64_t offset = (uintptr_t)ptr - (uintptr_t)p->start;
    return offset < p->bytes && offset * p->inverse < p->inverse;
}

/* ---- pages and bins: the owner's side, rarely ---- */

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

static void asthra__page_unlist(Asthra__Heap *h, Asthra__HeapPage *p) {
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

/* Puts a freed block of the owner's onto its page's list. The last page of a bin stays when it is
 * empty, or a loop of a few allocations and frees would take and give slices. */
static void asthra__page_push(Asthra__Heap *h, Asthra__HeapBlock *block) {
    Asthra__HeapPage *p = asthra__page_of(block);
    asthra__block_set_next(block, p->free);
    p->free = block;
    if (--p->used == 0 && !(p->is_listed && p->next == p)) {
        asthra__page_give_back(h, p);
    } else if (!p->is_listed && p->level == h->level) {
        asthra__page_enlist(h, p);
    }
}

/* Fills the record of a fresh span. Blocks begin at multiples of the largest power of two that
 * divides their size, or of a slice. */
static void asthra__page_fill(Asthra__Heap *h, const Asthra__Span *span, size_t all,
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
    p->used = p->made = 0;
    p->room = (uint16_t)room;
    p->is_listed = false;
    asthra__heap_hide(p->start, p->bytes);
}

static Asthra__HeapPage *asthra__page_make(Asthra__Heap *h, unsigned bin) {
    size_t size = asthra__bin_size(bin);
    unsigned slices = size <= ASTHRA__SMALL_MAX ? 1 : ASTHRA__MEDIUM_SLICES;
    Asthra__Span span = asthra__segment_take(slices);
    Asthra__HeapPage *p = span.page;
    if (p == NULL) return NULL;
    p->heap = h;
    p->bin = (uint8_t)bin;
    asthra__page_fill(h, &span, (size_t)slices * ASTHRA__SLICE_BYTES, size);
    asthra__store(&p->quick, asthra__heap_is_quick(h) ? h : asthra__not_quick(), relaxed);
    asthra__page_enlist(h, p);
    return p;
}

/* Makes up to 4 KiB of blocks, lowest first: memory is touched as it is needed. */
static void asthra__page_extend(Asthra__HeapPage *p) {
    size_t count = 4096 / p->block_size, left = (size_t)p->room - p->made;
    if (count == 0) count = 1;
    if (count > left) count = left;
    char *block = p->start + (size_t)p->made * p->block_size;
    p->free = (Asthra__HeapBlock *)(void *)block;
    for (size_t i = 1; i <= count; i++, block += p->block_size) {
        asthra__block_set_next((void *)block, i < count ? (void *)(block + p->block_size) : NULL);
        if (p->level != ASTHRA_SAFETY_NONE)
            asthra__trailer_set(block, p->block_size, ASTHRA__TRAILER_NEVER);
    }
    p->made = (uint16_t)(p->made + count);
}

/* The first page of the bin that has a block, or can make one; NULL: none has. */
static Asthra__HeapPage *asthra__bin_search(Asthra__Heap *h, unsigned bin) {
    Asthra__HeapPage *p = h->bins[bin];
    if (p == NULL && (p = asthra__page_make(h, bin)) == NULL) return NULL;
    if (p->free == NULL) asthra__page_extend(p);
    return p;
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
    Asthra__HeapPage *p = asthra__bin_search(h, bin);
    if (p == NULL) return false;
    c->free = p->free;
    c->left = asthra__cache_limit(c->size);
    p->free = NULL;
    p->used = p->made;
    if (p->made == p->room) asthra__page_unlist(h, p);
    return true;
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

static void asthra__heap_put(Asthra__Heap *h, Asthra__HeapBlock *block) {
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
    for (unsigned bin = 0; bin < ASTHRA__HEAP_BINS; bin++) {
        asthra__cache_shrink(h, &h->caches[bin], 0);
        Asthra__HeapPage *p = h->bins[bin], *last = p == NULL ? NULL : p->prev;
        while (p != NULL) {
            Asthra__HeapPage *next = p == last ? NULL : p->next;
            if (p->used == 0) asthra__page_give_back(h, p);
            p = next;
        }
    }
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
    for (unsigned bin = 0; bin < ASTHRA__HEAP_BINS; bin++)
        while (h->bins[bin] != NULL) asthra__page_unlist(h, h->bins[bin]);
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

/* The trailer of what is freed here and now. */
static ASTHRA__FAST uint64_t asthra__freed_by(const Asthra__Heap *h, const void *site) {
    return (uint64_t)(uintptr_t)site << 16 | h->tag;
}

/* How many bytes the user did not ask for of the live block that begins here; more than the
 * capacity: there is none, or something wrote past its end. */
static ASTHRA__FAST uint64_t asthra__block_slack(const Asthra__HeapPage *p, const char *block) {
    size_t capacity = p->block_size;
    if (ASTHRA__UNLIKELY(!asthra__begins_block(p, block))) return UINT64_MAX;
    uint64_t slack = asthra__trailer_slack(asthra__trailer_get(block, capacity));
    if (ASTHRA__UNLIKELY(slack > capacity)) return UINT64_MAX;
    bool is_whole = asthra__tail_is_whole(block + capacity - (size_t)slack);
    return ASTHRA__LIKELY(is_whole) ? slack : UINT64_MAX;
}

/* The cache is full, or the account has a step behind it. */
ASTHRA__COLD static void asthra__heap_settle(Asthra__Heap *h, Asthra__HeapCache *c) {
    if (c->left < 0) asthra__cache_shrink(h, c, asthra__cache_limit(c->size) / 2);
    if (h->zone != ASTHRA_MEMORY_ZONE_STACK) asthra__account_tell(&h->account, h->zone);
}

/* Whether the address is in a page whose blocks the heap may free without asking. *p is NULL if it
 * is in no page. */
static ASTHRA__FAST bool asthra__page_is_quick(const Asthra__Heap *h, const void *ptr,
                                               Asthra__HeapPage **p) {
    uintptr_t segment = (uintptr_t)ptr & ~(uintptr_t)(ASTHRA__REGION_BYTES - 1);
    *p = NULL;
    if (ASTHRA__UNLIKELY(asthra__region_entry(ptr) != segment + ASTHRA__REGION_SEGMENT))
        return false;
    *p = asthra__segment_page(segment, ptr);
    return ASTHRA__LIKELY(asthra__load(&(*p)->quick, relaxed) == h);
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
    if (h->level != ASTHRA_SAFETY_NONE) {
        if (size < huge->mapped) asthra__tail_mark(huge->start + size); /* else it is guarded */
        asthra__heap_hide(huge->start + size, huge->mapped - size);
    }
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
    return asthra__huge_give_out(h, asthra__huge_map(room, alignment), size);
}

/* Who asks for, or gives back, a block of this level; chunks of the stack zone do not tell. */
static Asthra__Deed asthra__heap_deed(AsthraSafetyLevel level, AsthraMemoryZone zone,
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

static void asthra__heap_count_failure(AsthraMemoryZone zone) {
    Asthra__Heap *h = asthra__heap_enter(zone);
    asthra__account_fail(&h->account);
    asthra__heap_leave(h);
}

static bool asthra__heap_is_watched(AsthraMemoryZone zone) {
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

static ASTHRA__FAST void *asthra__heap_alloc_for(size_t size, AsthraMemoryZone zone,
                                                 const void *site) {
    Asthra__Heap *h = asthra__thread_raw()->heaps[zone];
    if (ASTHRA__LIKELY(h != NULL && !asthra__zone_is_watched())) {
        void *ptr = asthra__heap_alloc_quick(h, size, zone);
        if (ASTHRA__LIKELY(ptr != NULL)) return ptr;
    }
    return asthra__heap_alloc_slow(size, 16, zone, site);
}

ASTHRA__FN ASTHRA__FAST void *asthra__heap_alloc_here(size_t size, AsthraMemoryZone zone) {
    return asthra__heap_alloc_for(size, zone, __builtin_return_address(0));
}

/* For callers that have called others, under the rule of asthra__thread_raw. */
static ASTHRA__NOINLINE void *asthra__heap_alloc_at(size_t size, AsthraMemoryZone zone,
                                                    const void *site) {
    return asthra__heap_alloc_for(size, zone, site);
}

ASTHRA__FN ASTHRA__NOINLINE void *asthra__heap_alloc(size_t size, AsthraMemoryZone zone) {
    return asthra__heap_alloc_here(size, zone);
}

ASTHRA__FN void *asthra__heap_alloc_aligned(size_t size, size_t alignment, AsthraMemoryZone zone) {
    if (alignment == 0 || (alignment & (alignment - 1)) != 0) {
        asthra__error_set(ASTHRA_INVALID, "alignment is %zu, expected a power of two", alignment);
        return NULL;
    }
    return asthra__heap_alloc_slow(size, alignment < 16 ? 16 : alignment, zone,
                                   __builtin_return_address(0));
}

/* ---- finding the block of an address ---- */

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
    if ((size_t)(f->start - p->start) >= (size_t)p->made * p->block_size)
        return ASTHRA_ADDRESS_SLACK;
    if (p->slices == 0) return ASTHRA_ADDRESS_FREED;
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
    if (f->level == ASTHRA_SAFETY_NONE) return asthra__page_find_unmarked(p, f);
    if ((size_t)(f->start - p->start) >= (size_t)p->made * capacity) return ASTHRA_ADDRESS_SLACK;
    if (p->slices == 0) return ASTHRA_ADDRESS_FREED; /* its memory may be gone */
    /* Of a page that is being made the fields may not fit together. */
    if (((uintptr_t)f->start & (ASTHRA__REGION_BYTES - 1)) + capacity > ASTHRA__REGION_BYTES)
        return ASTHRA_ADDRESS_SLACK;
    return asthra__trailer_read(asthra__trailer_get(f->start, capacity), f);
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
    return kind == ASTHRA__TRAILER_FREED || kind == ASTHRA__TRAILER_FAR ? trailer : 0;
}

/* Of a live block: whether nobody wrote past its end. */
static bool asthra__found_is_whole(const Asthra__Found *f) {
    return !f->is_broken && (f->size == f->capacity || asthra__tail_is_whole(f->start + f->size));
}

/* Finds a block that a caller names, or panics: `ptr` is the start of a live one of the zone. */
static void asthra__heap_expect(const void *ptr, AsthraMemoryZone zone, const char *verb,
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

/* Caller owns h; the block may be another heap's. */
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
        asthra__huge_unmap(f->huge);
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

ASTHRA__COLD static void asthra__heap_free_slow(void *ptr, AsthraMemoryZone zone, const void *site,
                                                const char *verb) {
    Asthra__Found f;
    if (ptr == NULL || asthra__heap_free_far(ptr, zone, site)) return;
    asthra__heap_expect(ptr, zone, verb, &f);
    asthra__heap_refuse_pinned(&f, verb);
    if (asthra__heap_is_watched(zone)) {
        asthra__zone_tell_free(ptr, zone);
        asthra__zone_release(asthra__found_charge(&f));
    }
    Asthra__Deed deed = asthra__heap_deed(f.level, zone, site);
    if (f.level == ASTHRA_SAFETY_FULL) site = (const void *)(uintptr_t)deed.calls;
    Asthra__Heap *h = asthra__heap_enter(zone);
    size_t charge = asthra__found_charge(&f);
    asthra__found_mark_freed(&f, zone, h, asthra__freed_by(h, site), verb);
    if (f.level == ASTHRA_SAFETY_FULL) asthra__full_freed(&f, deed);
    if (zone != ASTHRA_MEMORY_ZONE_STACK) asthra__account_free(&h->account, charge, zone);
    asthra__found_give(h, &f);
    asthra__heap_leave(h);
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

/* ---- what is made of these ---- */

ASTHRA__FN size_t asthra__heap_usable_size(const void *ptr, AsthraMemoryZone zone,
                                           const char *verb) {
    Asthra__Found f;
    if (ptr == NULL) return 0;
    asthra__heap_expect(ptr, zone, verb, &f);
    return asthra__found_charge(&f);
}

ASTHRA__FN void *asthra__heap_alloc_zeroed(size_t count, size_t size, AsthraMemoryZone zone) {
    size_t all;
    if (__builtin_mul_overflow(count, size, &all)) all = SIZE_MAX; /* refused as too large */
    char *ptr = asthra__heap_alloc_at(all, zone, __builtin_return_address(0));
    if (ptr == NULL) return NULL;
    if (all > ASTHRA__MEDIUM_MAX && !asthra__heap_is_watched(zone)) { /* no hook wrote into it */
        Asthra__Found f;
        asthra__heap_find(ptr, &f);
        if (f.huge != NULL ? f.huge->raw == NULL : f.page->is_zero) return ptr;
    }
    return memset(ptr, 0, all);
}

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

ASTHRA__FN void *asthra__heap_realloc(void *ptr, size_t size, AsthraMemoryZone zone,
                                      const void *site, const char *verb) {
    Asthra__Found f;
    if (ptr == NULL) return asthra__heap_alloc_at(size, zone, site);
    asthra__heap_expect(ptr, zone, verb, &f);
    asthra__heap_refuse_pinned(&f, verb);
    if (asthra__found_fits(&f, size)) return asthra__found_resize(&f, size) ? ptr : NULL;
    char *moved = asthra__heap_alloc_at(size, zone, site);
    if (moved == NULL) return NULL;
    size_t old = asthra__found_charge(&f);
    memcpy(moved, ptr, old < size ? old : size);
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
