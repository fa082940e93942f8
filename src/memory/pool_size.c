/* pool - free blocks by size, for best fit.                                [pool] body: size
 *
 * Up to 64 granules each size has a list, and a bit that says whether it is empty: the best fit is
 * the newest of the first list that is not. Larger blocks are the nodes of a treap: a search tree
 * by size, then place, and a heap in another order that looks random, here a hash of the place, so
 * that its depth is some 3 log2 n whatever sizes and places do. Links are in the blocks' tags, and
 * checked with them.
 */
#include "pool_internal.h"

#if ASTHRA_HAS_POOL

/* ---- the lists; left is the next, right the one before ---- */

static void asthra__pool_list_add(Asthra__PoolChunk *c, uint32_t i, uint32_t size) {
    uint32_t *first = &c->bins[size - 1];
    Asthra__PoolTag tag = {ASTHRA__POOL_NONE, ASTHRA__POOL_NONE, size};
    if (c->bin_mask >> (size - 1) & 1) {
        tag.left = *first;
        Asthra__PoolTag next = asthra__pool_tag(c, *first);
        next.right = i;
        asthra__pool_tag_write(c, *first, &next);
    }
    asthra__pool_tag_write(c, i, &tag);
    *first = i;
    c->bin_mask |= UINT64_C(1) << (size - 1);
}

static void asthra__pool_list_remove(Asthra__PoolChunk *c, uint32_t i, uint32_t size) {
    Asthra__PoolTag tag = asthra__pool_tag(c, i);
    if (tag.left != ASTHRA__POOL_NONE) {
        Asthra__PoolTag next = asthra__pool_tag(c, tag.left);
        next.right = tag.right;
        asthra__pool_tag_write(c, tag.left, &next);
    }
    if (tag.right != ASTHRA__POOL_NONE) {
        Asthra__PoolTag before = asthra__pool_tag(c, tag.right);
        before.left = tag.left;
        asthra__pool_tag_write(c, tag.right, &before);
    } else {
        c->bins[size - 1] = tag.left;
        if (tag.left == ASTHRA__POOL_NONE) c->bin_mask &= ~(UINT64_C(1) << (size - 1));
    }
}

/* ---- the tree; each function returns the root of what it made ---- */

/* Who is above whom; no two places are equal. */
static inline uint32_t asthra__pool_rank(uint32_t i) {
    i *= 0x9e3779b1u;
    i = (i ^ i >> 15) * 0x85ebca77u;
    return i ^ i >> 13;
}

static inline bool asthra__pool_is_left(uint32_t a, uint32_t a_size, uint32_t b, uint32_t b_size) {
    return a_size != b_size ? a_size < b_size : a < b;
}

/* Cuts the tree at the place where block `i` belongs. */
static void asthra__pool_split(const Asthra__PoolChunk *c, uint32_t root, uint32_t i, uint32_t size,
                               uint32_t *left, uint32_t *right) {
    *left = *right = ASTHRA__POOL_NONE;
    if (root == ASTHRA__POOL_NONE) return;
    Asthra__PoolTag tag = asthra__pool_tag(c, root);
    if (asthra__pool_is_left(root, tag.size, i, size)) {
        asthra__pool_split(c, tag.right, i, size, &tag.right, right);
        *left = root;
    } else {
        asthra__pool_split(c, tag.left, i, size, left, &tag.left);
        *right = root;
    }
    asthra__pool_tag_write(c, root, &tag);
}

/* Of two trees, everything in the first left of everything in the second. */
static uint32_t asthra__pool_merge(const Asthra__PoolChunk *c, uint32_t left, uint32_t right) {
    if (left == ASTHRA__POOL_NONE) return right;
    if (right == ASTHRA__POOL_NONE) return left;
    uint32_t top = asthra__pool_rank(left) > asthra__pool_rank(right) ? left : right;
    Asthra__PoolTag tag = asthra__pool_tag(c, top);
    if (top == left)
        tag.right = asthra__pool_merge(c, tag.right, right);
    else
        tag.left = asthra__pool_merge(c, left, tag.left);
    asthra__pool_tag_write(c, top, &tag);
    return top;
}

static uint32_t asthra__pool_insert(const Asthra__PoolChunk *c, uint32_t root, uint32_t i,
                                    uint32_t size) {
    Asthra__PoolTag tag = {0, 0, size};
    if (root == ASTHRA__POOL_NONE || asthra__pool_rank(i) > asthra__pool_rank(root)) {
        asthra__pool_split(c, root, i, size, &tag.left, &tag.right);
        asthra__pool_tag_write(c, i, &tag);
        return i;
    }
    tag = asthra__pool_tag(c, root);
    uint32_t *side = asthra__pool_is_left(i, size, root, tag.size) ? &tag.left : &tag.right;
    uint32_t child = asthra__pool_insert(c, *side, i, size);
    if (child == *side) return root;
    *side = child;
    asthra__pool_tag_write(c, root, &tag);
    return root;
}

static uint32_t asthra__pool_erase(const Asthra__PoolChunk *c, uint32_t root, uint32_t i,
                                   uint32_t size) {
    if (root == ASTHRA__POOL_NONE) asthra__pool_damaged(c->pool, asthra__pool_at(c, i));
    Asthra__PoolTag tag = asthra__pool_tag(c, root);
    if (root == i) return asthra__pool_merge(c, tag.left, tag.right);
    uint32_t *side = asthra__pool_is_left(i, size, root, tag.size) ? &tag.left : &tag.right;
    uint32_t child = asthra__pool_erase(c, *side, i, size);
    if (child == *side) return root;
    *side = child;
    asthra__pool_tag_write(c, root, &tag);
    return root;
}

/* ---- both ---- */

ASTHRA__FN void asthra__pool_size_add(Asthra__PoolChunk *c, uint32_t i, uint32_t size) {
    if (size <= ASTHRA__POOL_BINS)
        asthra__pool_list_add(c, i, size);
    else
        c->root = asthra__pool_insert(c, c->root, i, size);
}

ASTHRA__FN void asthra__pool_size_remove(Asthra__PoolChunk *c, uint32_t i, uint32_t size) {
    if (size <= ASTHRA__POOL_BINS)
        asthra__pool_list_remove(c, i, size);
    else
        c->root = asthra__pool_erase(c, c->root, i, size);
}

ASTHRA__FN uint32_t asthra__pool_best(const Asthra__PoolChunk *c, uint32_t n, uint32_t *size) {
    uint64_t lists = n <= ASTHRA__POOL_BINS ? c->bin_mask >> (n - 1) : 0;
    if (lists) {
        *size = n + (uint32_t)__builtin_ctzll(lists);
        return c->bins[*size - 1];
    }
    uint32_t best = ASTHRA__POOL_NONE;
    for (uint32_t i = c->root; i != ASTHRA__POOL_NONE;) {
        Asthra__PoolTag tag = asthra__pool_tag(c, i);
        if (tag.size >= n) {
            best = i;
            *size = tag.size;
        }
        i = tag.size >= n ? tag.left : tag.right;
    }
    return best;
}

#endif
