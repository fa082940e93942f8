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
 * What is known about a block stands outside it, in a byte of the segment's head: never given,
 * freed, or live with so many bytes of slack. So a free finds, from the address alone and without a
 * lock: the segment (is it ours? the region table says), the page, whether a block begins there,
 * and whether it is live. At the checked level the first bytes of the slack hold a pattern, so that
 * a write past the end is found at the free.
 *
 * Another thread's free changes the state, which says who wins when two threads free one block, and
 * pushes the block onto the owner heap's `remote` list. The owner takes the whole list the next
 * time one of its caches runs empty. It marks its own frees with a plain store, so a block that it
 * frees at the same moment as another thread is in two lists, and is found then by its state. While
 * a block is live its page cannot go away, so the pusher may read whose it is; after the push it
 * touches nothing.
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

static struct { bool (*is_pinned)(const void *start, size_t size); } asthra__heap;

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

/* Of pages with blocks of this size: log2 of what their addresses are multiples of. */
static uint8_t asthra__shift_of(size_t size) {
    unsigned shift = size == 0 ? 0 : (unsigned)__builtin_ctzll(size);
    if (size > ASTHRA__MEDIUM_MAX) return ASTHRA__SLICE_SHIFT;
    return (uint8_t)shift;
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
ASTHRA__FN ASTHRA__HEAP_OWN uintptr_t asthra__block_freed_by(const Asthra__HeapBlock *b) {
    return b->freed_by;
}
static ASTHRA__HEAP_OWN void asthra__block_set_freed_by(Asthra__HeapBlock *b, uintptr_t by) {
    b->freed_by = by;
}

typedef uint64_t __attribute__((__aligned__(1), __may_alias__)) Asthra__AnyWord;
static ASTHRA__HEAP_OWN uint64_t asthra__word_at(const char *place) {
    return *(const Asthra__AnyWord *)(const void *)place;
}
static ASTHRA__HEAP_OWN void asthra__set_word_at(char *place, uint64_t word) {
    *(Asthra__AnyWord *)(void *)place = word;
}

/* ---- states and slack ---- */

/* No byte of it is 0, the likeliest byte to be written one past the end. */
#define ASTHRA__SLACK_PATTERN UINT64_C(0xe7a5c39b8d6f5133)

/* The smaller of two, without a branch: sizes come in no order that a branch could learn. */
static ASTHRA__FAST size_t asthra__lesser(size_t a, size_t b) {
    return b ^ ((a ^ b) & (0 - (size_t)(a < b)));
}

/* The pattern begins right after the size, or covers the last eight bytes when the slack is less;
 * the caller has not written into them yet. */
static ASTHRA__FAST uint8_t asthra__slack_mark(char *block, size_t capacity, size_t size) {
    size_t slack = capacity - size;
    asthra__set_word_at(block + asthra__lesser(size, capacity - 8), ASTHRA__SLACK_PATTERN);
    if (ASTHRA__LIKELY(slack <= ASTHRA__BLOCK_SLACK_MAX))
        return (uint8_t)(ASTHRA__BLOCK_LIVE + slack);
    asthra__set_word_at(block + capacity - 8, slack ^ ASTHRA__SLACK_PATTERN);
    return ASTHRA__BLOCK_LIVE_WIDE;
}

/* The slack of a live block; more than its capacity: what tells it is overwritten. */
static ASTHRA__FAST size_t asthra__slack_of(const char *block, size_t capacity, uint8_t state) {
    if (ASTHRA__LIKELY(state >= ASTHRA__BLOCK_LIVE)) return (size_t)state - ASTHRA__BLOCK_LIVE;
    return (size_t)(asthra__word_at(block + capacity - 8) ^ ASTHRA__SLACK_PATTERN);
}

/* Whether nobody wrote past the end: of the word that the pattern was written to, the part that
 * lies in the slack counts, up to eight bytes. slack <= capacity. */
static ASTHRA__FAST bool asthra__slack_is_whole(const char *block, size_t capacity, size_t slack) {
    size_t part = asthra__lesser(slack, 8);
    uint64_t word = asthra__word_at(block + capacity - 8 - slack + part) ^ ASTHRA__SLACK_PATTERN;
    unsigned half = 32 - 4 * (unsigned)part; /* bits; twice that may be 64, too much for a shift */
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return word << half << half == 0;
#else
    return word >> half >> half == 0;
#endif
}

static ASTHRA__FAST Asthra__HeapPage *asthra__page_of(const void *block) {
    return asthra__segment_page((uintptr_t)block & ~(uintptr_t)(ASTHRA__REGION_BYTES - 1), block);
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
    p->shift = asthra__shift_of(block_size);
    p->free = NULL;
    p->used = p->made = 0;
    p->room = (uint16_t)room;
    p->is_listed = false;
    memset((void *)(uintptr_t)asthra__state_of(p->start, p->shift), 0,
           asthra__round_up(all, (size_t)1 << p->shift) >> p->shift);
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
    for (size_t i = 1; i < count; i++, block += p->block_size)
        asthra__block_set_next((void *)block, (void *)(block + p->block_size));
    asthra__block_set_next((void *)block, NULL);
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

static void asthra__cache_setup(Asthra__HeapCache *c, size_t size) {
    c->size = (uint32_t)size;
    c->shift = asthra__shift_of(size);
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
    c->left = (int16_t)(asthra__cache_limit(c->size) - keep);
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
    c->left = (int16_t)asthra__cache_limit(c->size);
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

/* A block that another thread freed is the owner's again. Its state is another one if the owner
 * freed it at the same time. */
static void asthra__far_take_back(const Asthra__HeapBlock *block) {
    Asthra__HeapPage *p = asthra__page_of(block);
    if (p->level == ASTHRA_SAFETY_NONE) return;
    ASTHRA__ATOMIC(uint8_t) *state = asthra__state_of(block, p->shift);
    if (ASTHRA__UNLIKELY(asthra__load(state, relaxed) != ASTHRA__BLOCK_FREED_FAR))
        asthra__heap_freed_at_once(block);
    asthra__store(state, (uint8_t)ASTHRA__BLOCK_FREED, relaxed);
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
        asthra__cache_setup(&h->caches[bin], asthra__bin_size(bin));
    asthra__heap_shed(h);
    for (unsigned bin = 0; bin < ASTHRA__HEAP_BINS; bin++)
        while (h->bins[bin] != NULL) asthra__page_unlist(h, h->bins[bin]);
    if (h->level != ASTHRA_SAFETY_DEFAULT) /* else it is new and has no pages */
        asthra__segment_each(asthra__page_slow_down, h);
    h->level = (uint8_t)level;
}

/* ---- the quick paths ----
 *
 * Without safety a page keeps no states: then an allocation looks at nothing but the heap and the
 * block. */

/* Marks a block that leaves a cache. */
static ASTHRA__FAST void asthra__block_give_out(char *block, size_t capacity, unsigned shift,
                                                size_t size) {
    asthra__store(asthra__state_of(block, shift), asthra__slack_mark(block, capacity, size),
                  relaxed);
}

/* NULL: nothing was done. */
static ASTHRA__FAST void *asthra__heap_alloc_quick(Asthra__Heap *h, size_t size,
                                                   AsthraMemoryZone zone) {
    if (ASTHRA__UNLIKELY(size > ASTHRA__MEDIUM_MAX)) return NULL;
    Asthra__HeapCache *c = &h->caches[asthra__bin_of(size)];
    Asthra__HeapBlock *block = c->free;
    if (ASTHRA__UNLIKELY(block == NULL || h->level == ASTHRA_SAFETY_FULL)) return NULL;
    size_t capacity = c->size, charge = h->level == ASTHRA_SAFETY_NONE ? capacity : size;
    if (zone != ASTHRA_MEMORY_ZONE_STACK && !asthra__account_try_alloc(&h->account, charge))
        return NULL;
    asthra__cache_take(c, block);
    asthra__heap_show(block, charge);
    if (h->level != ASTHRA_SAFETY_NONE)
        asthra__block_give_out((char *)block, capacity, c->shift, size);
    return block;
}

/* Who frees: the heap's number above the site's 48 bits. */
static ASTHRA__FAST uintptr_t asthra__freed_by(const Asthra__Heap *h, const void *site) {
#if UINTPTR_MAX > 0xffffffffu
    return h->tag | ((uintptr_t)site & (((uintptr_t)1 << 48) - 1));
#else
    (void)h;
    return (uintptr_t)site;
#endif
}

/* The slack of the live block that begins here; SIZE_MAX: there is none, or something wrote past
 * its end. Marks the block as freed. */
static ASTHRA__FAST size_t asthra__block_take_back(Asthra__HeapPage *p, char *block,
                                                   size_t capacity) {
    unsigned shift = p->shift;
    ASTHRA__ATOMIC(uint8_t) *at = asthra__state_of(block, shift);
    if (ASTHRA__UNLIKELY((uintptr_t)block % ((uintptr_t)1 << shift) != 0)) return SIZE_MAX;
    uint8_t state = asthra__load(at, relaxed);
    size_t slack = (size_t)state - ASTHRA__BLOCK_LIVE;
    if (ASTHRA__UNLIKELY(state < ASTHRA__BLOCK_LIVE)) {
        if (state != ASTHRA__BLOCK_LIVE_WIDE) return SIZE_MAX;
        slack = asthra__slack_of(block, capacity, state);
        if (slack > capacity) return SIZE_MAX;
    }
    if (ASTHRA__UNLIKELY(!asthra__slack_is_whole(block, capacity, slack))) return SIZE_MAX;
    asthra__store(at, (uint8_t)ASTHRA__BLOCK_FREED, relaxed);
    return slack;
}

/* The cache is full, or the account has a step behind it. */
ASTHRA__COLD static void asthra__heap_settle(Asthra__Heap *h, Asthra__HeapCache *c) {
    if (c->left < 0) asthra__cache_shrink(h, c, asthra__cache_limit(c->size) / 2);
    if (h->zone != ASTHRA_MEMORY_ZONE_STACK) asthra__account_tell(&h->account, h->zone);
}

/* The page if the address is in one whose blocks the heap may free without asking; else NULL. */
static ASTHRA__FAST Asthra__HeapPage *asthra__page_quick(const Asthra__Heap *h, const void *ptr) {
    uintptr_t segment = (uintptr_t)ptr & ~(uintptr_t)(ASTHRA__REGION_BYTES - 1);
    if (ASTHRA__UNLIKELY(asthra__region_entry(ptr) != segment + ASTHRA__REGION_SEGMENT))
        return NULL;
    Asthra__HeapPage *p = asthra__segment_page(segment, ptr);
    return ASTHRA__UNLIKELY(asthra__load(&p->quick, relaxed) != h) ? NULL : p;
}

/* The free of a block that is not known to be wrong; else the slow path finds out what it is. */
static ASTHRA__FAST void asthra__heap_free_quick(Asthra__Heap *h, Asthra__HeapPage *p, void *ptr,
                                                 AsthraMemoryZone zone, size_t slack,
                                                 const void *site) {
    size_t capacity = p->block_size;
    ptrdiff_t left = 0;
    if (p->level != ASTHRA_SAFETY_NONE) asthra__block_set_freed_by(ptr, asthra__freed_by(h, site));
    if (zone != ASTHRA_MEMORY_ZONE_STACK)
        left = asthra__account_free_quick(&h->account, capacity - slack);
    asthra__heap_hide(ptr, capacity);
    Asthra__HeapCache *c = &h->caches[p->bin];
    left |= asthra__cache_put(c, ptr);
    if (ASTHRA__UNLIKELY(left < 0)) asthra__heap_settle(h, c);
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
    if (h->level != ASTHRA_SAFETY_NONE) asthra__block_give_out(p->start, capacity, p->shift, size);
    return p->start;
}

static void *asthra__huge_take(Asthra__Heap *h, size_t room, size_t size, size_t alignment) {
    Asthra__Huge *huge = asthra__huge_map(room, alignment);
    if (huge == NULL) return NULL;
    huge->size = size;
    huge->zone = (int8_t)h->zone;
    huge->level = h->level;
    if (h->level != ASTHRA_SAFETY_NONE) {
        asthra__slack_mark(huge->start, huge->mapped, size);
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
    if (h->level != ASTHRA_SAFETY_NONE)
        asthra__block_give_out((char *)block, c->size, c->shift, size);
    return block;
}

static void *asthra__heap_take(Asthra__Heap *h, size_t size, size_t alignment) {
    size_t room = h->level == ASTHRA_SAFETY_FULL ? size + 8 : size; /* for the pattern, always */
    unsigned bin = asthra__bin_for(room, alignment);
    if (bin < ASTHRA__HEAP_BINS) return asthra__small_take(h, bin, size);
    if (size <= ASTHRA__LARGE_MAX && alignment <= ASTHRA__SLICE_BYTES)
        return asthra__large_take(h, room, size);
    return asthra__huge_take(h, room, size, alignment);
}

/* What the limit and the accounts are charged for a block of the heap. */
static size_t asthra__heap_charge(AsthraSafetyLevel level, size_t size, size_t alignment) {
    return level == ASTHRA_SAFETY_NONE ? asthra__heap_capacity(size, alignment) : size;
}

/* Counts what the zones are told of; blocks of the stack zone are chunks that it counts itself. */
static void *asthra__heap_alloc_counted(size_t size, size_t alignment, AsthraMemoryZone zone) {
    Asthra__Heap *h = asthra__heap_enter(zone);
    void *ptr = asthra__heap_take(h, size, alignment);
    if (ptr == NULL)
        asthra__account_fail(&h->account);
    else if (zone != ASTHRA_MEMORY_ZONE_STACK)
        asthra__account_alloc(
            &h->account, asthra__heap_charge((AsthraSafetyLevel)h->level, size, alignment), zone);
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
                                                  AsthraMemoryZone zone) {
    if (asthra__heap_capacity(size, alignment) == 0) {
        asthra__heap_count_failure(zone);
        asthra__error_note(ASTHRA_OUT_OF_MEMORY);
        return NULL;
    }
    if (!asthra__heap_is_watched(zone)) return asthra__heap_alloc_counted(size, alignment, zone);
    size_t charge = asthra__heap_charge(asthra__heap_level(), size, alignment);
    if (!asthra__zone_admit(charge, zone)) {
        asthra__heap_count_failure(zone);
        return NULL;
    }
    void *ptr = asthra__heap_alloc_counted(size, alignment, zone);
    if (ptr == NULL)
        asthra__zone_release(charge);
    else
        asthra__zone_tell_alloc(ptr, size, zone);
    return ptr;
}

ASTHRA__FN ASTHRA__FAST void *asthra__heap_alloc_here(size_t size, AsthraMemoryZone zone) {
    Asthra__Heap *h = asthra__thread_raw()->heaps[zone];
    if (ASTHRA__LIKELY(h != NULL && !asthra__zone_is_watched())) {
        void *ptr = asthra__heap_alloc_quick(h, size, zone);
        if (ASTHRA__LIKELY(ptr != NULL)) return ptr;
    }
    return asthra__heap_alloc_slow(size, 16, zone);
}

ASTHRA__FN ASTHRA__NOINLINE void *asthra__heap_alloc(size_t size, AsthraMemoryZone zone) {
    return asthra__heap_alloc_here(size, zone);
}

ASTHRA__FN void *asthra__heap_alloc_aligned(size_t size, size_t alignment, AsthraMemoryZone zone) {
    if (alignment == 0 || (alignment & (alignment - 1)) != 0) {
        asthra__error_set(ASTHRA_INVALID, "alignment is %zu, expected a power of two", alignment);
        return NULL;
    }
    return asthra__heap_alloc_slow(size, alignment < 16 ? 16 : alignment, zone);
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
                         (AsthraSafetyLevel)huge->level};
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

static ASTHRA__HEAP_PEEK AsthraAddressKind asthra__page_find(Asthra__HeapPage *p, const void *ptr,
                                                             Asthra__Found *f) {
    size_t offset = (size_t)((const char *)ptr - p->start), capacity = p->block_size;
    *f = (Asthra__Found){
        p, NULL, NULL, capacity, 0, ASTHRA_MEMORY_ZONE_NONE, (AsthraSafetyLevel)p->level};
    if (capacity == 0) return ASTHRA_ADDRESS_SLACK; /* the slice was in no page yet */
    f->zone = (AsthraMemoryZone)p->zone;
    if (offset >= p->bytes) return ASTHRA_ADDRESS_SLACK;
    f->start = p->start + offset / capacity * capacity;
    if (f->level == ASTHRA_SAFETY_NONE) return asthra__page_find_unmarked(p, f);
    uint8_t state = asthra__load(asthra__state_of(f->start, p->shift), relaxed);
    if (state == ASTHRA__BLOCK_NEVER) return ASTHRA_ADDRESS_SLACK;
    if (state < ASTHRA__BLOCK_LIVE_WIDE) return ASTHRA_ADDRESS_FREED;
    /* Of a page that is being made the fields may not fit together. */
    if (((uintptr_t)f->start & (ASTHRA__REGION_BYTES - 1)) + capacity > ASTHRA__REGION_BYTES)
        return ASTHRA_ADDRESS_SLACK;
    size_t slack = asthra__slack_of(f->start, capacity, state);
    f->size = slack > capacity ? 0 : capacity - slack;
    return ASTHRA_ADDRESS_LIVE;
}

ASTHRA__FN AsthraAddressKind asthra__heap_find(const void *ptr, Asthra__Found *f) {
    uintptr_t entry = asthra__region_entry(ptr), kind = entry % ASTHRA__REGION_KINDS;
    uintptr_t record = entry - kind;
    if (kind == ASTHRA__REGION_HUGE) return asthra__huge_find((Asthra__Huge *)record, ptr, f);
    if (kind == ASTHRA__REGION_SEGMENT)
        return asthra__page_find(asthra__segment_page(record, ptr), ptr, f);
    *f = (Asthra__Found){0};
    f->zone = ASTHRA_MEMORY_ZONE_NONE;
    return ASTHRA_ADDRESS_FOREIGN;
}

ASTHRA__FN AsthraMemoryZone asthra__heap_zone_of(const void *ptr) {
    Asthra__Found f;
    AsthraAddressKind kind = asthra__heap_find(ptr, &f);
    /* Beside a huge block, and where one was, others may have their mappings. */
    bool is_gone = kind != ASTHRA_ADDRESS_LIVE && f.huge != NULL;
    return is_gone ? ASTHRA_MEMORY_ZONE_NONE : f.zone;
}

/* Finds a block that a caller names, or panics: `ptr` is the start of a live one of the zone. */
static void asthra__heap_expect(const void *ptr, AsthraMemoryZone zone, const char *verb,
                                Asthra__Found *f) {
    AsthraAddressKind kind = asthra__heap_find(ptr, f);
    if (ASTHRA__UNLIKELY(kind != ASTHRA_ADDRESS_LIVE || f->start != ptr || f->zone != zone))
        asthra__heap_invalid(ptr, zone, verb);
    if (f->level == ASTHRA_SAFETY_NONE ||
        asthra__slack_is_whole(f->start, f->capacity, f->capacity - f->size))
        return;
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

/* Marks the block as freed. Of two threads that free one block one gets past this, unless the other
 * is the owner and quick: then the owner's mark replaces FREED_FAR, which drain misses. */
static void asthra__found_mark_freed(const Asthra__Found *f, AsthraMemoryZone zone,
                                     const Asthra__Heap *h, uintptr_t by, const char *verb) {
    if (f->huge != NULL) {
        if (asthra__exchange(&f->huge->is_live, 0u, acq_rel) == 1) {
            f->huge->freed_by = by;
            return;
        }
    } else if (f->level == ASTHRA_SAFETY_NONE) {
        return;
    } else {
        bool is_far = f->page->heap != NULL && f->page->heap != h;
        uint8_t now = is_far ? ASTHRA__BLOCK_FREED_FAR : ASTHRA__BLOCK_FREED;
        uint8_t was = asthra__exchange(asthra__state_of(f->start, f->page->shift), now, acq_rel);
        if (was >= ASTHRA__BLOCK_LIVE_WIDE) return;
    }
    asthra__heap_invalid(f->start, zone, verb);
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

static void asthra__found_give(Asthra__Heap *h, const Asthra__Found *f, uintptr_t by) {
    if (f->huge != NULL) {
        asthra__huge_unmap(f->huge);
        return;
    }
    if (f->level != ASTHRA_SAFETY_NONE) asthra__block_set_freed_by((void *)f->start, by);
    asthra__heap_hide(f->start, f->capacity);
    if (f->level == ASTHRA_SAFETY_FULL && asthra__quarantine_add(h, f)) return;
    asthra__heap_go_home(h, f);
}

ASTHRA__COLD static void asthra__heap_free_slow(void *ptr, AsthraMemoryZone zone, const void *site,
                                                const char *verb) {
    Asthra__Found f;
    if (ptr == NULL) return;
    asthra__heap_expect(ptr, zone, verb, &f);
    asthra__heap_refuse_pinned(&f, verb);
    if (asthra__heap_is_watched(zone)) {
        asthra__zone_tell_free(ptr, zone);
        asthra__zone_release(asthra__found_charge(&f));
    }
    Asthra__Heap *h = asthra__heap_enter(zone);
    uintptr_t by = asthra__freed_by(h, site);
    size_t charge = asthra__found_charge(&f);
    asthra__found_mark_freed(&f, zone, h, by, verb);
    if (zone != ASTHRA_MEMORY_ZONE_STACK) asthra__account_free(&h->account, charge, zone);
    asthra__found_give(h, &f, by);
    asthra__heap_leave(h);
}

ASTHRA__FN ASTHRA__FAST void asthra__heap_free_here(void *ptr, AsthraMemoryZone zone,
                                                    const void *site, const char *verb) {
    Asthra__Heap *h = asthra__thread_raw()->heaps[zone];
    Asthra__HeapPage *p = NULL;
    size_t slack = 0;
    if (ASTHRA__LIKELY(h != NULL && !asthra__zone_is_watched())) p = asthra__page_quick(h, ptr);
    if (ASTHRA__LIKELY(p != NULL) && p->level != ASTHRA_SAFETY_NONE)
        slack = asthra__block_take_back(p, ptr, p->block_size);
    if (ASTHRA__UNLIKELY(p == NULL || slack == SIZE_MAX))
        asthra__heap_free_slow(ptr, zone, site, verb);
    else
        asthra__heap_free_quick(h, p, ptr, zone, slack, site);
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
    char *ptr = asthra__heap_alloc(all, zone);
    if (ptr == NULL) return NULL;
    size_t dirty = all;
    if (all > ASTHRA__MEDIUM_MAX) { /* fresh memory is zero, but for the pattern */
        Asthra__Found f;
        asthra__heap_find(ptr, &f);
        if ((f.huge != NULL ? f.huge->raw == NULL : f.page->is_zero) &&
            f.level != ASTHRA_SAFETY_FULL)
            dirty = 8;
    }
    memset(ptr + all - dirty, 0, dirty);
    return ptr;
}

/* Whether a block may stay where it is: it fits, and leaves less than half unused. */
static bool asthra__found_fits(const Asthra__Found *f, size_t size) {
    return size <= f->capacity && size >= f->capacity / 2 && f->level != ASTHRA_SAFETY_FULL;
}

/* The pattern may share its word with the caller's last bytes: those are put back. */
static void asthra__found_remark(const Asthra__Found *f, size_t size) {
    char *place = f->start + f->capacity - 8, kept[8];
    size_t slack = f->capacity - size, keep = slack < 8 ? 8 - slack : 0;
    asthra__heap_show(f->start, f->capacity);
    memcpy(kept, place, keep);
    uint8_t state = asthra__slack_mark(f->start, f->capacity, size);
    memcpy(place, kept, keep);
    asthra__heap_hide(f->start, f->capacity);
    asthra__heap_show(f->start, size);
    if (f->huge != NULL)
        f->huge->size = size;
    else
        asthra__store(asthra__state_of(f->start, f->page->shift), state, relaxed);
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
    if (ptr == NULL) return asthra__heap_alloc(size, zone);
    asthra__heap_expect(ptr, zone, verb, &f);
    asthra__heap_refuse_pinned(&f, verb);
    if (asthra__found_fits(&f, size)) return asthra__found_resize(&f, size) ? ptr : NULL;
    char *moved = asthra__heap_alloc(size, zone);
    if (moved == NULL) return NULL;
    size_t old = asthra__found_charge(&f);
    memcpy(moved, ptr, old < size ? old : size);
    asthra__heap_free(ptr, zone, site, verb);
    return moved;
}

/* ---- what is asked of all heaps ---- */

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
        if (asthra__page_find(p, block, &f) == ASTHRA_ADDRESS_LIVE)
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
    if (huge->zone != (int8_t)w->zone) return true;
    w->mapped += huge->mapped;
    w->resident += asthra__os_resident(huge->start, huge->mapped);
    return true;
}

ASTHRA__FN size_t asthra__heap_mapped(AsthraMemoryZone zone, size_t *resident) {
    Asthra__HeapWalk w = {zone, NULL, NULL, 0, 0, true};
    asthra__segment_each(asthra__measure_page, &w);
    asthra__huge_each(asthra__measure_huge, &w);
    *resident = w.resident;
    return w.mapped;
}

static void asthra__heap_shed_all(void) {
    asthra__heap_visit_idle();
    asthra__heap_visit_shared();
    for (size_t zone = 0; zone < ASTHRA__ZONES; zone++) {
        if (asthra__thread_place()->heaps[zone] == NULL) continue;
        Asthra__Heap *h = asthra__heap_enter((AsthraMemoryZone)zone);
        asthra__heap_drain(h);
        asthra__heap_shed(h);
        asthra__heap_leave(h);
    }
}

/* Twice: what waits in the quarantine of one heap goes home to another, visited before. */
ASTHRA__FN size_t asthra__heap_trim(void) {
    asthra__heap_shed_all();
    asthra__heap_shed_all();
    return asthra__segment_trim();
}

/* ---- pins ---- */

ASTHRA__FN void asthra__heap_set_pin_test(bool (*is_pinned)(const void *start, size_t size)) {
    asthra__heap.is_pinned = is_pinned;
}

/* The quick word is the owner's, but a page that once held a pin may stay slow for ever. */
ASTHRA__FN void asthra__heap_count_pin(const void *ptr, int more) {
    Asthra__Found f;
    asthra__heap_find(ptr, &f);
    if (f.page == NULL && f.huge == NULL) return;
    asthra__add(f.page != NULL ? &f.page->pins : &f.huge->pins, (uint32_t)more, acq_rel);
    if (f.page != NULL) asthra__store(&f.page->quick, asthra__not_quick(), release);
}

#endif
