/* pool - chunks, maps and free blocks, as the pieces of pool share them.   [pool] internal
 *
 * A chunk is one piece of memory: its record, its maps, then the blocks, in granules of 16 bytes. A
 * map has a bit for each granule:
 *
 *     starts live     the granule is
 *        0    0       inside a block, live or free
 *        1    1       the first of a live block, or the end of the chunk
 *        1    0       the first of a free block
 *        0    1       the last of a free block that has two or more
 *
 * and `held` marks the start of a block that a handle names. An object pool has live and held only:
 * the first granule of a live object. Everything below but at, chunk_of and the maps belongs to
 * block pools. The pool's lock is held wherever a pool is passed, unless a comment says else.
 */
#ifndef ASTHRA__POOL_INTERNAL_H
#define ASTHRA__POOL_INTERNAL_H

#include "pool.h"

#include "../core/alloc_internal.h"
#include "../core/sync_internal.h"

#if ASTHRA_HAS_POOL

enum {
    ASTHRA__POOL_GRANULE = 16,
    ASTHRA__POOL_NONE = 0x7fffffff,
    ASTHRA__POOL_BINS = 64,  /* sizes that have a list of their own, for best fit */
    ASTHRA__POOL_LEVELS = 12 /* 8^11 pages hold 2^39 granules */
};

typedef uint32_t Asthra__PoolWord __attribute__((__may_alias__));
typedef uintptr_t Asthra__PoolLink __attribute__((__may_alias__));

typedef struct Asthra__PoolChunk {
    AsthraPool *pool;
    char *base;   /* the first block */
    size_t bytes; /* of blocks */
    size_t fresh; /* object pools: so many bytes have been objects once */
    uint64_t *live, *held, *starts;
    uint64_t secret; /* of the check words */
    /* Of block pools: */
    uint32_t granules;                      /* bytes / 16, below ASTHRA__POOL_NONE */
    uint32_t root;                          /* of the tree of large free blocks, for best fit */
    uint64_t bin_mask;                      /* bit k: there are free blocks of k + 1 granules */
    uint32_t *bins;                         /* the first of each; NULL: not best fit */
    uint32_t *summary[ASTHRA__POOL_LEVELS]; /* from the pages' up to the chunk's */
    unsigned levels;                        /* summary[levels] is the chunk's */
    struct Asthra__PoolChunk *next_empty;   /* in the list of those to be given back */
} Asthra__PoolChunk;

typedef struct Asthra__PoolHandle {
    char *address;       /* NULL: free */
    size_t size;         /* as requested */
    uint32_t generation; /* of the handle that is, or will be, valid */
    uint32_t next;       /* free entry */
} Asthra__PoolHandle;

struct AsthraPool {
    Asthra__Lock lock;
    bool grows, auto_defrag;
    bool is_compact; /* nothing was freed since all was moved together */
    AsthraPoolStrategy strategy;
    size_t object_size, stride; /* object_size 0: block pool */
    char *newest_free;          /* object pools: the newest freed object; NULL: none */
    Asthra__PoolChunk *newest;  /* object pools: it has the fresh objects */
    Asthra__PoolChunk *recent;  /* the chunk that chunk_of found last */
    size_t capacity, total;     /* bytes, as configured and in chunks */
    size_t free_bytes;          /* block pools */
    Asthra__PoolHandle *handles;
    uint32_t *handles_sorted; /* room for a list of handles, behind them */
    uint32_t handle_room, handle_count, free_handle, stamp;
    const char *name;
    uint32_t changes; /* of the list of chunks */
    uint32_t chunk_count, chunk_room;
    Asthra__PoolChunk *chunks[]; /* by address */
};

/* First in every public function. */
#define ASTHRA__POOL_NEEDS(p)              \
    (ASTHRA__LIKELY((p) != NULL) ? (void)0 \
                                 : asthra_panic_at(NULL, "%s: the pool is NULL", __func__))

/* ---- maps ---- */

static inline bool asthra__pool_bit(const uint64_t *map, size_t i) {
    return (map[i >> 6] >> (i & 63) & 1) != 0;
}
static inline void asthra__pool_set(uint64_t *map, size_t i) {
    map[i >> 6] |= UINT64_C(1) << (i & 63);
}
static inline void asthra__pool_clear(uint64_t *map, size_t i) {
    map[i >> 6] &= ~(UINT64_C(1) << (i & 63));
}
static inline char *asthra__pool_at(const Asthra__PoolChunk *c, size_t i) {
    return c->base + i * ASTHRA__POOL_GRANULE;
}

/* Granules for a request; ASTHRA__POOL_NONE: more than any chunk has. */
static inline uint32_t asthra__pool_granules(size_t size) {
    size_t n = size ? (size - 1) / ASTHRA__POOL_GRANULE + 1 : 1;
    return n < ASTHRA__POOL_NONE ? (uint32_t)n : ASTHRA__POOL_NONE;
}

/* The chunk whose blocks hold this address; NULL: none. */
ASTHRA__FN Asthra__PoolChunk *asthra__pool_chunk_search(AsthraPool *p, const void *address);
static inline Asthra__PoolChunk *asthra__pool_chunk_of(AsthraPool *p, const void *address) {
    Asthra__PoolChunk *c = p->recent;
    if (ASTHRA__LIKELY(c && (uintptr_t)address - (uintptr_t)c->base < c->bytes)) return c;
    return asthra__pool_chunk_search(p, address);
}

/* ---- what AddressSanitizer is told ---- */

#if ASTHRA__ASAN
void __asan_poison_memory_region(void const volatile *addr, size_t size);
void __asan_unpoison_memory_region(void const volatile *addr, size_t size);
#define ASTHRA__POOL_UNSEEN ASTHRA__ASAN_BLIND
#else
#define ASTHRA__POOL_UNSEEN ASTHRA__FAST
#endif
static inline void asthra__pool_shut(char *start, size_t bytes) {
#if ASTHRA__ASAN
    __asan_poison_memory_region(start, bytes);
#endif
    (void)start, (void)bytes;
}
static inline void asthra__pool_open(char *start, size_t bytes) {
#if ASTHRA__ASAN
    __asan_unpoison_memory_region(start, bytes);
#endif
    (void)start, (void)bytes;
}

/* ---- free blocks; sizes in granules ---- */

typedef struct Asthra__PoolTag {
    uint32_t left, right, size;
} Asthra__PoolTag;

/* In the first 16 bytes of a free block. Reading one that is damaged panics. */
ASTHRA__FN Asthra__PoolTag asthra__pool_tag(const Asthra__PoolChunk *c, uint32_t i);
ASTHRA__FN void asthra__pool_tag_write(const Asthra__PoolChunk *c, uint32_t i,
                                       const Asthra__PoolTag *t);
/* Something in free memory is not as it was left: unlocks the pool and panics. */
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__pool_damaged(AsthraPool *p, const void *block);

/* Makes i..i+size one free block; its neighbours are live. */
ASTHRA__FN void asthra__pool_free_add(Asthra__PoolChunk *c, uint32_t i, uint32_t size);
/* The granules stop being a free block; what they are then is the caller's. */
ASTHRA__FN void asthra__pool_free_remove(Asthra__PoolChunk *c, uint32_t i, uint32_t size);
/* Sizes of the free block that starts at i, and that ends before i; 0: there is none. */
ASTHRA__FN uint32_t asthra__pool_free_from(const Asthra__PoolChunk *c, uint32_t i);
ASTHRA__FN uint32_t asthra__pool_free_before(const Asthra__PoolChunk *c, uint32_t i);
/* The largest free block's size (0: none is free), and the first that has at least n; there is. */
ASTHRA__FN uint32_t asthra__pool_largest(const Asthra__PoolChunk *c);
ASTHRA__FN uint32_t asthra__pool_first(const Asthra__PoolChunk *c, uint32_t n);
/* Words for the summary of so many pages, and giving them, zeroed, to a chunk. */
ASTHRA__FN size_t asthra__pool_summary_words(size_t pages);
ASTHRA__FN void asthra__pool_summary_lay(Asthra__PoolChunk *c, uint32_t *words);

/* The index by size, where there are bins. best: the smallest that has at least n, and its size;
 * ASTHRA__POOL_NONE: none has. */
ASTHRA__FN void asthra__pool_size_add(Asthra__PoolChunk *c, uint32_t i, uint32_t size);
ASTHRA__FN void asthra__pool_size_remove(Asthra__PoolChunk *c, uint32_t i, uint32_t size);
ASTHRA__FN uint32_t asthra__pool_best(const Asthra__PoolChunk *c, uint32_t n, uint32_t *size);

/* ---- blocks ---- */

ASTHRA__FN uint32_t asthra__pool_live_size(const Asthra__PoolChunk *c, uint32_t i); /* granules */
/* The first n granules of the free block at i become a live block of `size` bytes. */
ASTHRA__FN char *asthra__pool_occupy(Asthra__PoolChunk *c, uint32_t i, uint32_t n, size_t size);
/* A live block of n granules becomes free and is merged with its neighbours. true: the whole chunk
 * is free now. */
ASTHRA__FN bool asthra__pool_vacate(Asthra__PoolChunk *c, uint32_t i, uint32_t n);
/* Takes chunks that are wholly free, but for the largest of them, out of a pool that grows.
 * Returns   their list, for asthra__pool_discard without the lock. */
ASTHRA__FN Asthra__PoolChunk *asthra__pool_shed(AsthraPool *p);
ASTHRA__FN void asthra__pool_discard(Asthra__PoolChunk *list);

/* ---- for handles ---- */

/* Block or object; NULL: asthra_last_error says why. The lock is not held. */
ASTHRA__FN void *asthra__pool_obtain(AsthraPool *p, size_t size);
/* Frees a live block or object.
 * Returns   chunks to discard. */
ASTHRA__FN Asthra__PoolChunk *asthra__pool_return(AsthraPool *p, char *block);
/* The one place where memory comes from, and goes back to; the lock is not held. */
ASTHRA__FN void *asthra__pool_memory(size_t bytes); /* NULL: none */
ASTHRA__FN void asthra__pool_memory_free(void *memory);
/* Moves what handles name until some free block has `enough` granules; returns bytes moved. */
ASTHRA__FN size_t asthra__pool_compact(AsthraPool *p, uint32_t enough);

#endif
#endif
