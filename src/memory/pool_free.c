/* pool - what is free: tags, and the largest of each page.                 [pool] body: free
 *
 * A free block of n granules tells about itself, in words of 32 bits:
 *
 *     0  1     links of the index by size (pool_size.c); elsewhere 0
 *     2        n
 *     3        check: a hash of these three, of the block's place and of the chunk's secret
 *     4n - 1   n, if it is not 1: found from the block behind
 *
 * A use after free and an overflow of the block before hit these words first. They are checked when
 * they are read, and the size behind against the size in front, so that a wrong word is a panic and
 * not an address. Where blocks start is in the maps, which no user's pointer comes near.
 *
 * What a search needs lies close together, out of the way too. 64 granules, a word of a map, are a
 * page. For each page there is the size of the largest free block that starts in it, for each eight
 * pages the largest of these, and so on up to one number for the chunk. The first fit is found on
 * the way down by taking the first of eight that is large enough; the worst fit is the first of the
 * largest there is. A change goes up as long as it changes something.
 */
#include "pool_internal.h"

#if ASTHRA_HAS_POOL

ASTHRA__COLD ASTHRA__FN void asthra__pool_damaged(AsthraPool *p, const void *block) {
    asthra__unlock(&p->lock);
    asthra_panic_at(NULL,
                    "Damaged free block %p in pool '%s': it was written to after it was freed, or "
                    "from the block before it, past that one's end",
                    block, p->name);
}

/* ---- tags ---- */

static inline uint32_t asthra__pool_check(const Asthra__PoolChunk *c, uint32_t i,
                                          const Asthra__PoolTag *t) {
    uint64_t k = UINT64_C(0x9e3779b97f4a7c15);
    uint64_t h = (c->secret ^ i ^ ((uint64_t)t->left << 32 | t->right)) * k;
    return (uint32_t)((h ^ h >> 32 ^ t->size) * k >> 32);
}

ASTHRA__FN ASTHRA__POOL_UNSEEN Asthra__PoolTag asthra__pool_tag(const Asthra__PoolChunk *c,
                                                                uint32_t i) {
    const Asthra__PoolWord *w = (const Asthra__PoolWord *)(const void *)asthra__pool_at(c, i);
    Asthra__PoolTag t = {w[0], w[1], w[2]};
    if (ASTHRA__UNLIKELY(w[3] != asthra__pool_check(c, i, &t))) asthra__pool_damaged(c->pool, w);
    return t;
}

ASTHRA__FN ASTHRA__POOL_UNSEEN void asthra__pool_tag_write(const Asthra__PoolChunk *c, uint32_t i,
                                                           const Asthra__PoolTag *t) {
    Asthra__PoolWord *w = (Asthra__PoolWord *)(void *)asthra__pool_at(c, i);
    w[0] = t->left;
    w[1] = t->right;
    w[2] = t->size;
    w[3] = asthra__pool_check(c, i, t);
}

/* The last word before granule i. */
static ASTHRA__POOL_UNSEEN uint32_t asthra__pool_word_before(const Asthra__PoolChunk *c,
                                                             uint32_t i) {
    return ((const Asthra__PoolWord *)(const void *)asthra__pool_at(c, i))[-1];
}
static ASTHRA__POOL_UNSEEN void asthra__pool_word_before_write(const Asthra__PoolChunk *c,
                                                               uint32_t i, uint32_t value) {
    ((Asthra__PoolWord *)(void *)asthra__pool_at(c, i))[-1] = value;
}

ASTHRA__FN uint32_t asthra__pool_free_from(const Asthra__PoolChunk *c, uint32_t i) {
    if (!asthra__pool_bit(c->starts, i) || asthra__pool_bit(c->live, i)) return 0;
    return asthra__pool_tag(c, i).size;
}

ASTHRA__FN uint32_t asthra__pool_free_before(const Asthra__PoolChunk *c, uint32_t i) {
    if (i == 0 || asthra__pool_bit(c->starts, i - 1) == asthra__pool_bit(c->live, i - 1)) return 0;
    if (asthra__pool_bit(c->starts, i - 1)) return 1;
    uint32_t size = asthra__pool_word_before(c, i);
    if (size < 2 || size > i || asthra__pool_free_from(c, i - size) != size)
        asthra__pool_damaged(c->pool, asthra__pool_at(c, i - 1));
    return size;
}

/* ---- pages ---- */

enum { ASTHRA__POOL_FAN = 8 };

/* The first free block of at least n granules that starts in a page; ASTHRA__POOL_NONE: none.
 * *largest is the largest there is if none is so large. */
static uint32_t asthra__pool_page_first(const Asthra__PoolChunk *c, size_t page, uint32_t n,
                                        uint32_t *largest) {
    uint64_t starts = c->starts[page], rest = starts & ~c->live[page];
    *largest = 0;
    for (; rest; rest &= rest - 1) {
        unsigned bit = (unsigned)__builtin_ctzll(rest);
        uint64_t behind = starts & (~UINT64_C(1) << bit);
        uint32_t i = (uint32_t)(page * 64 + bit);
        uint32_t size =
            behind ? (uint32_t)__builtin_ctzll(behind) - bit : asthra__pool_tag(c, i).size;
        if (size >= n) return i;
        if (size > *largest) *largest = size;
    }
    return ASTHRA__POOL_NONE;
}

ASTHRA__FN size_t asthra__pool_summary_words(size_t pages) {
    size_t words = 0;
    for (; pages > 1; pages = (pages + ASTHRA__POOL_FAN - 1) / ASTHRA__POOL_FAN)
        words += (pages + ASTHRA__POOL_FAN - 1) / ASTHRA__POOL_FAN * ASTHRA__POOL_FAN;
    return words + 1;
}

ASTHRA__FN void asthra__pool_summary_lay(Asthra__PoolChunk *c, uint32_t *words) {
    size_t pages = c->granules / 64 + 1;
    c->levels = 0;
    for (; pages > 1; pages = (pages + ASTHRA__POOL_FAN - 1) / ASTHRA__POOL_FAN) {
        c->summary[c->levels++] = words;
        words += (pages + ASTHRA__POOL_FAN - 1) / ASTHRA__POOL_FAN * ASTHRA__POOL_FAN;
    }
    c->summary[c->levels] = words; /* the one for the chunk */
}

static void asthra__pool_raise(const Asthra__PoolChunk *c, uint32_t i, uint32_t size) {
    size_t at = i / 64;
    for (unsigned level = 0; level <= c->levels; level++, at /= ASTHRA__POOL_FAN) {
        if (c->summary[level][at] >= size) return;
        c->summary[level][at] = size;
    }
}

/* A block of `size` is not in the page of i any more. */
static void asthra__pool_lower_page(const Asthra__PoolChunk *c, uint32_t i, uint32_t size) {
    size_t at = i / 64;
    uint32_t largest;
    if (c->summary[0][at] != size) return;
    asthra__pool_page_first(c, at, ASTHRA__POOL_NONE, &largest);
    c->summary[0][at] = largest;
    for (unsigned level = 1; level <= c->levels && largest < size; level++) {
        at /= ASTHRA__POOL_FAN;
        if (c->summary[level][at] != size) return;
        const uint32_t *below = &c->summary[level - 1][at * ASTHRA__POOL_FAN];
        largest = 0;
        for (int k = 0; k < ASTHRA__POOL_FAN; k++)
            if (below[k] > largest) largest = below[k];
        c->summary[level][at] = largest;
    }
}

ASTHRA__FN uint32_t asthra__pool_largest(const Asthra__PoolChunk *c) {
    return c->summary[c->levels][0];
}

ASTHRA__FN uint32_t asthra__pool_first(const Asthra__PoolChunk *c, uint32_t n) {
    ASTHRA__ASSERT(asthra__pool_largest(c) >= n);
    size_t at = 0;
    uint32_t largest;
    for (unsigned level = c->levels; level-- > 0;) {
        at *= ASTHRA__POOL_FAN;
        while (c->summary[level][at] < n) at++;
    }
    return asthra__pool_page_first(c, at, n, &largest);
}

/* ---- both ---- */

ASTHRA__FN void asthra__pool_free_add(Asthra__PoolChunk *c, uint32_t i, uint32_t size) {
    Asthra__PoolTag tag = {0, 0, size};
    asthra__pool_set(c->starts, i);
    if (size > 1) {
        asthra__pool_set(c->live, i + size - 1);
        asthra__pool_word_before_write(c, i + size, size);
    }
    if (c->bins)
        asthra__pool_size_add(c, i, size);
    else
        asthra__pool_tag_write(c, i, &tag);
    asthra__pool_raise(c, i, size);
    c->pool->free_bytes += (size_t)size * ASTHRA__POOL_GRANULE;
}

ASTHRA__FN void asthra__pool_free_remove(Asthra__PoolChunk *c, uint32_t i, uint32_t size) {
    if (c->bins) asthra__pool_size_remove(c, i, size);
    asthra__pool_clear(c->starts, i);
    if (size > 1) asthra__pool_clear(c->live, i + size - 1);
    asthra__pool_lower_page(c, i, size);
    c->pool->free_bytes -= (size_t)size * ASTHRA__POOL_GRANULE;
}

#endif
