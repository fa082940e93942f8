/* pool - objects of one size, or blocks of any, out of memory set aside.   [pool] contract
 *
 * An object pool (object_size != 0) hands out objects of one size, the newest freed first. A block
 * pool (object_size 0) hands out blocks of any size, chosen by its strategy, and merges what is
 * freed with its free neighbours: when all is freed, a block of the whole capacity fits again.
 * All blocks are aligned to 16; what is in a new one is not said.
 *
 * Handles are for blocks that may move. A block pool can compact what handles name, and nothing
 * else: by asthra_pool_defragment, and with auto_defrag when an allocation does not fit though so
 * many bytes are free. Contents move along. The address that asthra_pool_handle_get gives holds
 * until the next call that may move blocks: a defragment, or, with auto_defrag, any allocation from
 * the pool. Threads that share such a pool need a lock of their own around "get the address and use
 * it" and around those calls.
 *
 * The pool's records stand beside the blocks, not in front of them: an overflow from one block into
 * the next hits the neighbour's bytes, never a record. What stands in free blocks is checked when
 * it is read: a block that was written to after its free, or from the block before, panics.
 *
 * Threads: any thread may call any pool, and end it when no other call on it is to come. A NULL
 * pool panics. Blocks: never. A pool that another thread was calling at the moment of a fork is not
 * to be used in the child.
 * Strip with: ASTHRA_RT_NO_POOL.
 */
#ifndef ASTHRA__POOL_H
#define ASTHRA__POOL_H

#include "../core/result.h"

#if ASTHRA_HAS_POOL

typedef enum AsthraPoolStrategy {
    ASTHRA_POOL_FIRST_FIT, /* the free block of the lowest address */
    ASTHRA_POOL_BEST_FIT,  /* the smallest that is large enough */
    ASTHRA_POOL_WORST_FIT  /* the largest */
} AsthraPoolStrategy;

typedef struct AsthraPoolConfig { /* zero: defaults */
    const char *name;             /* for reports; copied; NULL: "unnamed" */
    size_t object_size;           /* 0: blocks of any size */
    size_t capacity;              /* bytes that objects or blocks may take; 0: grows */
    AsthraPoolStrategy strategy;  /* of a block pool */
    bool auto_defrag;             /* moves only what handles name */
} AsthraPoolConfig;

typedef struct AsthraPool AsthraPool;
typedef struct AsthraPoolHandle { /* a value to copy; 0: failed */
    uint64_t bits;
} AsthraPoolHandle;

/* Opens a pool; config NULL is one of zeros. A capacity is set aside now: capacity / object_size
 * objects, or blocks whose sizes, each rounded up to 16, sum up to the capacity rounded up to 16.
 * Without one the pool grows by chunks, each half of what it has; of the chunks of a block pool
 * that are wholly free it keeps one.
 *
 * Returns   the pool; NULL if the configuration contradicts itself (ASTHRA_INVALID: an object pool
 *           with a strategy, a capacity below one object, an unknown strategy), is too large
 *           (ASTHRA_LIMIT: 32 GiB for a block pool) or memory ran out.
 * Owns      the caller owns it and ends it with asthra_pool_destroy.
 * Cost      an allocation; a second one for a capacity, of which 3 hundredths are written. */
ASTHRA_RT_API AsthraPool *asthra_pool_create(const AsthraPoolConfig *config);

/* `size` bytes; 0 is a unique block. An object pool gives an object for any size up to its own.
 *
 * Returns   the block; NULL with the reason in asthra_last_error(): ASTHRA_LIMIT, the capacity has
 *           no such block free; ASTHRA_INVALID, larger than the pool's objects;
 *           ASTHRA_OUT_OF_MEMORY, the pool could not grow.
 * Owns      the caller frees it with asthra_pool_free; it ends with the pool.
 * Cost      of an object: constant, some nanoseconds. Of a block, in a chunk of b bytes: O(log b)
 *           with each strategy, and with best fit O(log n) more where one of n free blocks over
 *           1 KiB is taken. A pool that grew has O(log b) chunks to look into. */
ASTHRA_RT_API void *asthra_pool_alloc(AsthraPool *p, size_t size);

/* Frees; NULL is nothing. What is not the start of a live block of this pool, or is a handle's,
 * panics "Invalid pointer in pool_free" and says what it is.
 * Cost      of an object: constant. Of a block: as its allocation, without the search, and a look
 *           at one word for each 1 KiB of it. */
ASTHRA_RT_API void asthra_pool_free(AsthraPool *p, void *block);

/* Ends the pool, and with it whatever is still allocated. NULL is nothing. */
ASTHRA_RT_API void asthra_pool_destroy(AsthraPool *p);

/* As asthra_pool_alloc, for a block that may move; in an object pool it never does.
 *
 * Returns   its handle; bits 0 with the reason in asthra_last_error(), as there; ASTHRA_LIMIT also
 *           beyond 16 million handles. */
ASTHRA_RT_API AsthraPoolHandle asthra_pool_handle_alloc(AsthraPool *p, size_t size);

/* Returns   where the block is, until it moves; NULL for a handle whose block was freed, that is
 *           another pool's, or 0. */
ASTHRA_RT_API void *asthra_pool_handle_get(AsthraPool *p, AsthraPoolHandle h);

/* Frees the block; 0 is nothing. A handle that was freed before, or is another pool's, panics
 * "Invalid handle in pool_handle_free" and says which. */
ASTHRA_RT_API void asthra_pool_handle_free(AsthraPool *p, AsthraPoolHandle h);

/* Moves each block that a handle names to the lowest place that it fits in. Other blocks stay where
 * they are and may keep free bytes apart. An object pool has nothing to move.
 *
 * Returns   bytes moved.
 * Cost      of h handles O(h log h), h times an allocation and a free, and the moves. */
ASTHRA_RT_API size_t asthra_pool_defragment(AsthraPool *p);

#define ASTHRA_POOL_NEW(T, pool) ((T *)asthra_pool_alloc((pool), sizeof(T)))

#endif
#endif
