/* pool - chunks, objects and blocks.                                             [pool] body
 *
 * Truth is in the maps of a chunk (pool_internal.h), which lie in front of its blocks and out of
 * the way of overflows: a pointer is a live block's start, or not, by two bits, whatever stands in
 * memory. A block has no header; its size is the distance to the next start, found word by word of
 * the map, 64 granules at a step. So blocks whose sizes sum up to the capacity fit into it. All
 * that lies before the blocks is 3 hundredths of them, for objects 2.
 *
 * Free blocks are kept as pool_free.c and pool_size.c say, free objects in a list: a freed object
 * holds in its first word the one freed before it, in its second a hash of that, of its own address
 * and of the chunk's secret, compared before the first is believed. Objects that were never used
 * have no link: they are taken off the newest chunk's end.
 *
 * Growing. Memory is asked for without the lock, since whoever gives it may be slow, or may call
 * this pool. Two threads that grow at once are told apart by `changes`: the later one throws its
 * chunk away and looks again. A chunk has at least half of the bytes that the pool has, so k chunks
 * are 1.5^k times the first, and 64 of them more than there are addresses. Where memory for so much
 * is refused, what is needed is tried.
 *
 * All panics give the lock back first: a task may fail alone and others go on.
 */
#include "pool_internal.h"

#include "../core/text_internal.h"

#if ASTHRA_HAS_POOL

#include <string.h>

enum {
    ASTHRA__POOL_CHUNKS = 64,
    ASTHRA__POOL_FIRST_CHUNK = 65536, /* bytes of blocks */
    ASTHRA__POOL_FIRST_OBJECTS = 4096 /* bytes, unless 8 objects are more */
};

static struct {
    ASTHRA__ATOMIC(uint32_t) stamps; /* pools made: what tells their handles apart */
} asthra__pool;

/* ---- memory ---- */

ASTHRA__FN void *asthra__pool_memory(size_t bytes) {
    return asthra__alloc(bytes);
}

ASTHRA__FN void asthra__pool_memory_free(void *memory) {
    asthra__free(memory);
}

/* Chunks are few and sorted: k of them are told apart in log2 k steps. */
ASTHRA__FN Asthra__PoolChunk *asthra__pool_chunk_search(AsthraPool *p, const void *address) {
    uint32_t low = 0, high = p->chunk_count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        Asthra__PoolChunk *c = p->chunks[middle];
        if ((uintptr_t)address - (uintptr_t)c->base < c->bytes) return p->recent = c;
        if ((uintptr_t)address < (uintptr_t)c->base)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* Bytes of a chunk's record, maps, and what else lies before its blocks. */
static size_t asthra__pool_head(const AsthraPool *p, size_t granules) {
    size_t words = granules / 64 + 1, head = sizeof(Asthra__PoolChunk);
    if (p->object_size) return head + 2 * words * sizeof(uint64_t);
    if (p->strategy == ASTHRA_POOL_BEST_FIT) head += ASTHRA__POOL_BINS * sizeof(uint32_t);
    return head + 3 * words * sizeof(uint64_t) +
           asthra__pool_summary_words(words) * sizeof(uint32_t);
}

/* Gives a chunk for blocks what lies behind its first two maps. */
static void asthra__pool_chunk_for_blocks(Asthra__PoolChunk *c, size_t words) {
    uint32_t *rest = (uint32_t *)(void *)(c->held + 2 * words);
    c->granules = (uint32_t)(c->bytes / ASTHRA__POOL_GRANULE);
    c->starts = c->held + words;
    asthra__pool_set(c->starts, c->granules); /* the end: neither free nor inside a block */
    asthra__pool_set(c->live, c->granules);
    if (c->pool->strategy == ASTHRA_POOL_BEST_FIT) {
        c->bins = rest;
        rest += ASTHRA__POOL_BINS;
    }
    asthra__pool_summary_lay(c, rest);
}

/* A chunk that is in no pool yet; `bytes` is a multiple of 16. NULL: no memory. No lock. */
static Asthra__PoolChunk *asthra__pool_chunk_create(AsthraPool *p, size_t bytes) {
    size_t granules = bytes / ASTHRA__POOL_GRANULE, words = granules / 64 + 1;
    size_t head = asthra__pool_head(p, granules);
    if (bytes > PTRDIFF_MAX - head - ASTHRA__POOL_GRANULE) return NULL;
    Asthra__PoolChunk *c = asthra__pool_memory(head + bytes + ASTHRA__POOL_GRANULE);
    if (!c) return NULL;
    memset(c, 0, head);
    c->pool = p;
    c->live = (uint64_t *)(c + 1);
    c->held = c->live + words;
    c->base = (char *)c + head;
    c->base += (0 - (uintptr_t)c->base) % ASTHRA__POOL_GRANULE;
    c->bytes = bytes;
    c->secret = ((uint64_t)p->stamp << 32 ^ (uintptr_t)c) * UINT64_C(0xd1342543de82ef95);
    c->root = ASTHRA__POOL_NONE;
    if (!p->object_size) asthra__pool_chunk_for_blocks(c, words);
    asthra__pool_shut(c->base, bytes);
    return c;
}

ASTHRA__FN void asthra__pool_discard(Asthra__PoolChunk *list) {
    while (list) {
        Asthra__PoolChunk *c = list;
        list = c->next_empty;
        asthra__pool_open(c->base, c->bytes);
        asthra__pool_memory_free(c);
    }
}

static void asthra__pool_install(AsthraPool *p, Asthra__PoolChunk *c) {
    uint32_t k = p->chunk_count++;
    while (k > 0 && (uintptr_t)p->chunks[k - 1] > (uintptr_t)c) {
        p->chunks[k] = p->chunks[k - 1];
        k--;
    }
    p->chunks[k] = c;
    p->changes++;
    p->total += c->bytes;
    p->newest = c;
    p->is_compact = false; /* it may lie lower */
    if (c->granules) asthra__pool_free_add(c, 0, c->granules);
}

static bool asthra__pool_is_empty(const Asthra__PoolChunk *c) {
    return asthra__pool_free_from(c, 0) == c->granules;
}

ASTHRA__FN Asthra__PoolChunk *asthra__pool_shed(AsthraPool *p) {
    if (!p->grows || p->object_size) return NULL;
    Asthra__PoolChunk *list = NULL, *kept = NULL;
    uint32_t count = 0;
    for (uint32_t k = 0; k < p->chunk_count; k++) {
        Asthra__PoolChunk *c = p->chunks[k];
        if (asthra__pool_is_empty(c) && (!kept || c->bytes > kept->bytes)) kept = c;
    }
    for (uint32_t k = 0; k < p->chunk_count; k++) {
        Asthra__PoolChunk *c = p->chunks[k];
        if (c == kept || !asthra__pool_is_empty(c)) {
            p->chunks[count++] = c;
        } else {
            c->next_empty = list;
            list = c;
            p->total -= c->bytes;
            p->free_bytes -= c->bytes;
        }
    }
    p->recent = NULL;
    p->chunk_count = count;
    p->changes++;
    return list;
}

/* ---- blocks ---- */

ASTHRA__FN uint32_t asthra__pool_live_size(const Asthra__PoolChunk *c, uint32_t i) {
    size_t w = ((size_t)i + 1) >> 6;
    uint64_t bits = c->starts[w] & ~UINT64_C(0) << ((i + 1) & 63);
    while (!bits) bits = c->starts[++w]; /* the chunk's end is a start */
    return (uint32_t)(w * 64 + (size_t)__builtin_ctzll(bits)) - i;
}

ASTHRA__FN char *asthra__pool_occupy(Asthra__PoolChunk *c, uint32_t i, uint32_t n, size_t size) {
    uint32_t room = asthra__pool_free_from(c, i);
    ASTHRA__ASSERT(room >= n);
    asthra__pool_free_remove(c, i, room);
    asthra__pool_set(c->starts, i);
    asthra__pool_set(c->live, i);
    if (room > n) asthra__pool_free_add(c, i + n, room - n);
    asthra__pool_open(asthra__pool_at(c, i), size);
    return asthra__pool_at(c, i);
}

ASTHRA__FN bool asthra__pool_vacate(Asthra__PoolChunk *c, uint32_t i, uint32_t n) {
    uint32_t before = asthra__pool_free_before(c, i), behind = asthra__pool_free_from(c, i + n);
    asthra__pool_shut(asthra__pool_at(c, i), (size_t)n * ASTHRA__POOL_GRANULE);
    if (before) asthra__pool_free_remove(c, i - before, before);
    if (behind) asthra__pool_free_remove(c, i + n, behind);
    asthra__pool_clear(c->starts, i);
    asthra__pool_clear(c->live, i);
    asthra__pool_free_add(c, i - before, before + n + behind);
    c->pool->is_compact = false;
    return before + n + behind == c->granules;
}

/* The chunk that the strategy takes n granules from, and the place; NULL: none has so many. */
static Asthra__PoolChunk *asthra__pool_find(const AsthraPool *p, uint32_t n, uint32_t *at) {
    Asthra__PoolChunk *found = NULL;
    uint32_t most = n, least = UINT32_MAX;
    for (uint32_t k = 0; k < p->chunk_count; k++) {
        Asthra__PoolChunk *c = p->chunks[k];
        uint32_t size = 0, i;
        if (p->strategy == ASTHRA_POOL_BEST_FIT) {
            i = asthra__pool_best(c, n, &size);
            if (i == ASTHRA__POOL_NONE || size >= least) continue;
            found = c, *at = i, least = size;
            if (size == n) break;
        } else {
            size = asthra__pool_largest(c);
            if (size < most || (found && size == most)) continue;
            found = c, most = size;
            if (p->strategy == ASTHRA_POOL_FIRST_FIT) break;
        }
    }
    if (found && p->strategy != ASTHRA_POOL_BEST_FIT)
        *at = asthra__pool_first(found, p->strategy == ASTHRA_POOL_FIRST_FIT ? n : most);
    return found;
}

static void *asthra__pool_take_block(const AsthraPool *p, size_t size) {
    uint32_t n = asthra__pool_granules(size), at = 0;
    Asthra__PoolChunk *c = asthra__pool_find(p, n, &at);
    return c ? asthra__pool_occupy(c, at, n, size) : NULL;
}

/* ---- objects ---- */

static inline uintptr_t asthra__pool_link_check(const Asthra__PoolChunk *c, const char *object,
                                                uintptr_t next) {
    uint64_t h = (c->secret ^ (uintptr_t)object ^ next) * UINT64_C(0x9e3779b97f4a7c15);
    return (uintptr_t)(h >> (64 - 8 * sizeof(uintptr_t))) ^ next;
}

static ASTHRA__POOL_UNSEEN char *asthra__pool_link(const Asthra__PoolChunk *c, const char *object) {
    const Asthra__PoolLink *w = (const Asthra__PoolLink *)(const void *)object;
    if (ASTHRA__UNLIKELY(w[1] != asthra__pool_link_check(c, object, w[0])))
        asthra__pool_damaged(c->pool, object);
    return (char *)w[0];
}

static ASTHRA__POOL_UNSEEN void asthra__pool_link_write(const Asthra__PoolChunk *c, char *object,
                                                        const char *next) {
    Asthra__PoolLink *w = (Asthra__PoolLink *)(void *)object;
    w[0] = (uintptr_t)next;
    w[1] = asthra__pool_link_check(c, object, (uintptr_t)next);
}

static inline size_t asthra__pool_index(const Asthra__PoolChunk *c, const char *block) {
    return (size_t)(block - c->base) / ASTHRA__POOL_GRANULE;
}

static inline void *asthra__pool_take_object(AsthraPool *p, size_t size) {
    char *object = p->newest_free;
    Asthra__PoolChunk *c;
    if (ASTHRA__LIKELY(object != NULL)) {
        c = asthra__pool_chunk_of(p, object);
        p->newest_free = asthra__pool_link(c, object);
    } else {
        c = p->newest;
        if (!c || c->fresh == c->bytes) return NULL;
        object = c->base + c->fresh;
        c->fresh += p->stride;
    }
    asthra__pool_set(c->live, asthra__pool_index(c, object));
    asthra__pool_open(object, size);
    return object;
}

/* ---- both ---- */

static inline void *asthra__pool_take(AsthraPool *p, size_t size) {
    if (!p->object_size) return asthra__pool_take_block(p, size);
    return size <= p->object_size ? asthra__pool_take_object(p, size) : NULL;
}

ASTHRA__FN ASTHRA__FAST Asthra__PoolChunk *asthra__pool_return(AsthraPool *p, char *block) {
    Asthra__PoolChunk *c = asthra__pool_chunk_of(p, block);
    size_t i = asthra__pool_index(c, block);
    if (!p->object_size) {
        bool is_empty = asthra__pool_vacate(c, (uint32_t)i, asthra__pool_live_size(c, (uint32_t)i));
        return ASTHRA__UNLIKELY(is_empty) ? asthra__pool_shed(p) : NULL;
    }
    asthra__pool_clear(c->live, i);
    asthra__pool_link_write(c, block, p->newest_free);
    asthra__pool_shut(block, p->stride);
    p->newest_free = block;
    return NULL;
}

/* ---- growing ---- */

/* Bytes of the next chunk, at most and at least, to hold `size` more. */
static size_t asthra__pool_next_chunk(const AsthraPool *p, size_t size, size_t total,
                                      size_t *least) {
    size_t unit = p->stride, most = (ASTHRA__POOL_NONE - 1) * (size_t)ASTHRA__POOL_GRANULE;
    size_t bytes = p->object_size ? ASTHRA__POOL_FIRST_OBJECTS : ASTHRA__POOL_FIRST_CHUNK;
    *least = p->object_size ? unit : asthra__pool_granules(size) * unit;
    if (p->object_size && bytes / 8 < unit && unit <= PTRDIFF_MAX / 8) bytes = 8 * unit;
    if (bytes < total / 2) bytes = total / 2;
    if (!p->object_size && bytes > most) bytes = most;
    if (bytes < *least) bytes = *least;
    return bytes / unit * unit;
}

/* Adds a chunk, unless the list has changed since `seen`. false: no memory. No lock. */
static bool asthra__pool_grow(AsthraPool *p, size_t size, uint32_t seen, size_t total) {
    size_t least, bytes = asthra__pool_next_chunk(p, size, total, &least);
    Asthra__PoolChunk *c = asthra__pool_chunk_create(p, bytes);
    if (!c && bytes > least) c = asthra__pool_chunk_create(p, least);
    if (!c) return false;
    asthra__lock(&p->lock);
    bool is_changed = p->changes != seen, is_full = p->chunk_count == p->chunk_room;
    if (!is_changed && !is_full) asthra__pool_install(p, c);
    asthra__unlock(&p->lock);
    if (is_changed || is_full) asthra__pool_discard(c);
    return is_changed || !is_full;
}

/* Takes after moving together what can be moved, if that may help. */
static void *asthra__pool_take_compacted(AsthraPool *p, size_t size) {
    if (!p->auto_defrag || p->is_compact || size > p->free_bytes) return NULL;
    asthra__pool_compact(p, asthra__pool_granules(size));
    return asthra__pool_take(p, size);
}

ASTHRA__COLD static void *asthra__pool_say_none(const AsthraPool *p, size_t size, size_t free_bytes,
                                                bool is_full) {
    if (!is_full)
        asthra__error_set(ASTHRA_OUT_OF_MEMORY, "pool '%s' found no memory to grow by %zu bytes",
                          p->name, size);
    else if (p->object_size)
        asthra__error_set(ASTHRA_LIMIT, "pool '%s' is full: its capacity is %zu bytes", p->name,
                          p->capacity);
    else
        asthra__error_set(ASTHRA_LIMIT,
                          "pool '%s' has no free block of %zu bytes: %zu of its %zu bytes are free",
                          p->name, size, free_bytes, p->total);
    return NULL;
}

ASTHRA__COLD static void *asthra__pool_obtain_slow(AsthraPool *p, size_t size) {
    if (p->object_size && size > p->object_size) {
        asthra__error_set(ASTHRA_INVALID, "pool '%s' has objects of %zu bytes; %zu were asked for",
                          p->name, p->object_size, size);
        return NULL;
    }
    bool can_grow = p->grows && asthra__pool_granules(size) < ASTHRA__POOL_NONE;
    for (;;) {
        asthra__lock(&p->lock);
        void *block = asthra__pool_take(p, size);
        if (!block && !can_grow) block = asthra__pool_take_compacted(p, size);
        uint32_t seen = p->changes;
        size_t total = p->total, free_bytes = p->free_bytes;
        asthra__unlock(&p->lock);
        if (block) return block;
        if (!can_grow) return asthra__pool_say_none(p, size, free_bytes, !p->grows);
        can_grow = asthra__pool_grow(p, size, seen, total);
    }
}

ASTHRA__FN ASTHRA__FAST void *asthra__pool_obtain(AsthraPool *p, size_t size) {
    asthra__lock(&p->lock);
    void *block = asthra__pool_take(p, size);
    asthra__unlock(&p->lock);
    return ASTHRA__LIKELY(block != NULL) ? block : asthra__pool_obtain_slow(p, size);
}

/* ---- pointers that are wrong ---- */

/* The last granule up to i whose bit is set in the map. There is one. */
static size_t asthra__pool_last_set(const uint64_t *map, size_t i) {
    while (!asthra__pool_bit(map, i)) i--;
    return i;
}

static void asthra__pool_say_object(Asthra__Text *t, const AsthraPool *p,
                                    const Asthra__PoolChunk *c, size_t offset) {
    size_t inside = offset % p->stride;
    const char *object = c->base + (offset - inside);
    bool is_live = asthra__pool_bit(c->live, asthra__pool_index(c, object));
    const char *what = is_live              ? "a live object"
                       : offset >= c->fresh ? "a place that was never handed out"
                                            : "an object that was freed before";
    if (inside)
        asthra__text_format(t, "it is %zu bytes inside %s at %p", inside, what,
                            (const void *)object);
    else
        asthra__text_format(t, "it is %s", is_live ? "a handle's: use its handle" : what);
}

static void asthra__pool_say_block(Asthra__Text *t, const Asthra__PoolChunk *c, size_t offset) {
    size_t start = asthra__pool_last_set(c->starts, offset / ASTHRA__POOL_GRANULE);
    size_t bytes = (size_t)asthra__pool_live_size(c, (uint32_t)start) * ASTHRA__POOL_GRANULE;
    const void *block = asthra__pool_at(c, start);
    size_t inside = offset - start * ASTHRA__POOL_GRANULE;
    if (!asthra__pool_bit(c->live, start))
        asthra__text_format(t, "it is in free memory (%zu bytes at %p): freed before?", bytes,
                            block);
    else if (inside)
        asthra__text_format(t, "it is %zu bytes inside a live block of %zu at %p", inside, bytes,
                            block);
    else
        asthra__text_add(t, "it is a handle's: use its handle");
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__pool_refuse(AsthraPool *p, const void *block) {
    char words[160];
    Asthra__Text t = asthra__text_on(words, sizeof words);
    const Asthra__PoolChunk *c = asthra__pool_chunk_of(p, block);
    if (!c)
        asthra__text_add(&t, "it is in none of its chunks");
    else if (p->object_size)
        asthra__pool_say_object(&t, p, c, (size_t)((const char *)block - c->base));
    else
        asthra__pool_say_block(&t, c, (size_t)((const char *)block - c->base));
    asthra__unlock(&p->lock);
    asthra_panic_at(NULL,
                    "Invalid pointer in pool_free: %p is not the start of a live block of pool "
                    "'%s': %s",
                    block, p->name, words);
}

/* ---- the contract ---- */

/* Says why not with asthra_last_error. */
static bool asthra__pool_config_is_good(const AsthraPoolConfig *config) {
    size_t object = config->object_size, most = PTRDIFF_MAX / 4;
    if ((unsigned)config->strategy > ASTHRA_POOL_WORST_FIT)
        asthra__error_set(ASTHRA_INVALID, "asthra_pool_create: strategy %d is none",
                          (int)config->strategy);
    else if (object && config->strategy != ASTHRA_POOL_FIRST_FIT)
        asthra__error_set(ASTHRA_INVALID, "asthra_pool_create: strategies are for blocks, and "
                                          "object_size is not 0");
    else if (config->capacity && config->capacity < object)
        asthra__error_set(ASTHRA_INVALID,
                          "asthra_pool_create: a capacity of %zu bytes holds no object of %zu",
                          config->capacity, object);
    else if (object > most || config->capacity > most ||
             (!object && asthra__pool_granules(config->capacity) == ASTHRA__POOL_NONE))
        asthra__error_set(ASTHRA_LIMIT, "asthra_pool_create: the pool would be too large");
    else
        return true;
    return false;
}

/* The pool, its table of chunks and its name in one piece; the capacity is still missing. */
static AsthraPool *asthra__pool_record_create(const AsthraPoolConfig *config) {
    const char *name = config->name ? config->name : "unnamed";
    uint32_t room = config->capacity ? 1 : ASTHRA__POOL_CHUNKS;
    size_t length = strlen(name) + 1, head = sizeof(AsthraPool) + room * sizeof(void *);
    AsthraPool *p = asthra__pool_memory(head + length);
    if (!p) return NULL;
    memset(p, 0, head);
    p->name = memcpy((char *)p + head, name, length);
    p->chunk_room = room;
    p->grows = !config->capacity;
    p->auto_defrag = config->auto_defrag && !config->object_size;
    p->strategy = config->strategy;
    p->object_size = config->object_size;
    p->stride = config->object_size ? (config->object_size + ASTHRA__POOL_GRANULE - 1) & ~(size_t)15
                                    : ASTHRA__POOL_GRANULE;
    p->capacity = config->capacity;
    p->stamp = asthra__add(&asthra__pool.stamps, 1, relaxed);
    p->free_handle = UINT32_MAX;
    return p;
}

ASTHRA_RT_API AsthraPool *asthra_pool_create(const AsthraPoolConfig *config) {
    static const AsthraPoolConfig zeros;
    if (!config) config = &zeros;
    if (!asthra__pool_config_is_good(config)) return NULL;
    asthra__sync_setup(); /* unlocking is cheaper from now on */
    AsthraPool *p = asthra__pool_record_create(config);
    if (p && config->capacity) {
        size_t units = p->object_size ? config->capacity / p->object_size
                                      : asthra__pool_granules(config->capacity);
        size_t bytes;
        Asthra__PoolChunk *c = __builtin_mul_overflow(units, p->stride, &bytes)
                                   ? NULL
                                   : asthra__pool_chunk_create(p, bytes);
        if (c) {
            asthra__pool_install(p, c);
        } else {
            asthra__pool_memory_free(p);
            p = NULL;
        }
    }
    if (p)
        asthra__error_clear();
    else
        asthra__error_set(ASTHRA_OUT_OF_MEMORY,
                          "asthra_pool_create: no memory for a capacity of %zu bytes",
                          config->capacity);
    return p;
}

ASTHRA_RT_API void *asthra_pool_alloc(AsthraPool *p, size_t size) {
    ASTHRA__POOL_NEEDS(p);
    return asthra__pool_obtain(p, size);
}

ASTHRA_RT_API void asthra_pool_free(AsthraPool *p, void *block) {
    ASTHRA__POOL_NEEDS(p);
    if (!block) return;
    asthra__lock(&p->lock);
    const Asthra__PoolChunk *c = asthra__pool_chunk_of(p, block);
    size_t offset = c ? (size_t)((char *)block - c->base) : 1, i = offset / ASTHRA__POOL_GRANULE;
    bool is_start = offset % ASTHRA__POOL_GRANULE == 0 && asthra__pool_bit(c->live, i) &&
                    (p->object_size || asthra__pool_bit(c->starts, i));
    if (ASTHRA__UNLIKELY(!is_start || asthra__pool_bit(c->held, i))) asthra__pool_refuse(p, block);
    Asthra__PoolChunk *empty = asthra__pool_return(p, block);
    asthra__unlock(&p->lock);
    if (ASTHRA__UNLIKELY(empty != NULL)) asthra__pool_discard(empty);
}

ASTHRA_RT_API void asthra_pool_destroy(AsthraPool *p) {
    if (!p) return;
    for (uint32_t k = 0; k < p->chunk_count; k++) asthra__pool_discard(p->chunks[k]);
    asthra__pool_memory_free(p->handles);
    asthra__pool_memory_free(p);
}

#endif
