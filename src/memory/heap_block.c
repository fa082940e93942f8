/* heap - the words in a block that are ours.                                [heap] body: block
 *
 * Links of free blocks, trailers and marks; and what a block's page says of it.
 */
#include "heap_internal.h"

#if ASTHRA_HAS_MEMORY

/* ---- links ---- */

/* Links are kept with some bits turned that no address has: what a user writes into a freed block
 * hardly ever makes a link of it. */
#if UINTPTR_MAX > 0xffffffffu
#define ASTHRA__LINK_BITS ((uintptr_t)0xa57a00000000000b)
#define ASTHRA__LINK_NEVER ((uintptr_t)0xffff00000000000f)
#else
#define ASTHRA__LINK_BITS ((uintptr_t)0xb)
#define ASTHRA__LINK_NEVER ((uintptr_t)0xf)
#endif

ASTHRA__FN ASTHRA__HEAP_OWN uintptr_t asthra__block_link(const Asthra__HeapBlock *b) {
    return b->link ^ ASTHRA__LINK_BITS;
}
ASTHRA__FN ASTHRA__HEAP_OWN void asthra__block_set_next(Asthra__HeapBlock *b,
                                                        Asthra__HeapBlock *next) {
    b->link = (uintptr_t)next ^ ASTHRA__LINK_BITS;
}
ASTHRA__FN ASTHRA__FAST Asthra__HeapBlock *asthra__block_next(const Asthra__HeapBlock *b) {
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
ASTHRA__FN ASTHRA__HEAP_OWN uint64_t asthra__trailer_get(const char *block, size_t capacity) {
    return asthra__trailer_turn(asthra__load(asthra__trailer_at(block, capacity), relaxed));
}
ASTHRA__FN ASTHRA__HEAP_OWN void asthra__trailer_set(char *block, size_t capacity,
                                                     uint64_t trailer) {
    asthra__store(asthra__trailer_at(block, capacity), asthra__trailer_turn(trailer), relaxed);
}
ASTHRA__FN ASTHRA__HEAP_OWN bool asthra__trailer_replace(char *block, size_t capacity,
                                                         uint64_t before, uint64_t after) {
    before = asthra__trailer_turn(before);
    return asthra__cas(asthra__trailer_at(block, capacity), &before, asthra__trailer_turn(after),
                       acq_rel);
}

ASTHRA__FN ASTHRA__HEAP_OWN void asthra__tail_mark(char *place) {
    *(unsigned char *)place = ASTHRA__TRAILER_LIVE;
}
ASTHRA__FN ASTHRA__HEAP_OWN bool asthra__tail_is_whole(const char *place) {
    return *(const unsigned char *)place == ASTHRA__TRAILER_LIVE;
}

/* The trailer last: a load of it that comes soon shall find all of it in one store. */
ASTHRA__FN ASTHRA__FAST void asthra__block_mark_live(char *block, size_t capacity, size_t size) {
    asthra__tail_mark(block + size);
    asthra__trailer_set(block, capacity, ASTHRA__TRAILER_MARK + ((uint64_t)(capacity - size) << 8));
}

ASTHRA__FN ASTHRA__FAST void asthra__block_make(const Asthra__HeapPage *p, char *block,
                                                Asthra__HeapBlock *next, uint64_t trailer) {
    asthra__block_set_next((Asthra__HeapBlock *)(void *)block, next);
    if (p->level != ASTHRA_SAFETY_NONE) asthra__trailer_set(block, p->block_size, trailer);
}

ASTHRA__FN ASTHRA__FAST Asthra__HeapPage *asthra__page_of(const void *block) {
    return asthra__segment_page((uintptr_t)block & ~(uintptr_t)(ASTHRA__REGION_BYTES - 1), block);
}

/* Of any address: whether a block of the page begins there. For an offset and a size below 2^32 the
 * product, modulo 2^64, is below the inverse if and only if the size divides the offset (Lemire,
 * Kaser, Kurz: Faster remainder by direct computation, 2019). */
ASTHRA__FN ASTHRA__FAST bool asthra__begins_block(const Asthra__HeapPage *p, const void *ptr) {
    uint64_t offset = (uintptr_t)ptr - (uintptr_t)p->start;
    return offset < p->bytes && offset * p->inverse < p->inverse;
}
ASTHRA__FN ASTHRA__FAST uint64_t asthra__freed_by(const Asthra__Heap *h, const void *site) {
    return (uint64_t)(uintptr_t)site << 16 | h->tag;
}

ASTHRA__FN ASTHRA__FAST uint64_t asthra__block_slack(const Asthra__HeapPage *p, const char *block) {
    size_t capacity = p->block_size;
    if (ASTHRA__UNLIKELY(!asthra__begins_block(p, block))) return UINT64_MAX;
    uint64_t slack = asthra__trailer_slack(asthra__trailer_get(block, capacity));
    if (ASTHRA__UNLIKELY(slack > capacity)) return UINT64_MAX;
    bool is_whole = asthra__tail_is_whole(block + capacity - (size_t)slack);
    return ASTHRA__LIKELY(is_whole) ? slack : UINT64_MAX;
}

ASTHRA__FN ASTHRA__FAST bool asthra__page_is_quick(const Asthra__Heap *h, const void *ptr,
                                                   Asthra__HeapPage **p) {
    uintptr_t segment = (uintptr_t)ptr & ~(uintptr_t)(ASTHRA__REGION_BYTES - 1);
    *p = NULL;
    if (ASTHRA__UNLIKELY(asthra__region_entry(ptr) != segment + ASTHRA__REGION_SEGMENT))
        return false;
    *p = asthra__segment_page(segment, ptr);
    return ASTHRA__LIKELY(asthra__load(&(*p)->quick, relaxed) == h);
}

#endif
