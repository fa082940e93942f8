/* pool - handles, and moving what they name.                             [pool] body: handle
 *
 * A handle is a generation (24 bits, from 1), the stamp of its pool (16) and the index of an entry
 * in the pool's table (24). The entry has the address, the size and the generation of the handle
 * that is valid; a free raises the generation, and an entry whose generations are used up is never
 * used again. Stamps come round after 65,536 pools.
 *
 * Compaction visits the entries by address, sorted beside the table, in memory that was taken with
 * it: compacting needs none. Each block goes to the first free block, by address, of all chunks
 * that is large enough and lies before it; if there is none, but free memory right before it, it
 * slides down over that. So blocks only move down, each at most once, and a block that was visited
 * lies before those that were not.
 */
#include "pool_internal.h"

#if ASTHRA_HAS_POOL

#include <string.h>

enum {
    ASTHRA__POOL_HANDLES = 1 << 24, /* at most */
    ASTHRA__POOL_FIRST_HANDLES = 16,
    ASTHRA__POOL_GENERATIONS = 1 << 24
};

/* ---- the table ---- */

/* Makes room for twice as many, unless another thread has done so. false: no memory. No lock. */
static bool asthra__pool_handles_grow(AsthraPool *p, uint32_t room) {
    uint32_t more = room ? 2 * room : ASTHRA__POOL_FIRST_HANDLES;
    size_t bytes = more * (sizeof(Asthra__PoolHandle) + sizeof(uint32_t));
    Asthra__PoolHandle *fresh = asthra__pool_memory(bytes), *old = fresh;
    if (!fresh) return false;
    asthra__lock(&p->lock);
    if (p->handle_room == room) {
        old = p->handles;
        if (old) memcpy(fresh, old, p->handle_count * sizeof *fresh);
        p->handles = fresh;
        p->handles_sorted = (uint32_t *)(void *)(fresh + more);
        p->handle_room = more;
    }
    asthra__unlock(&p->lock);
    asthra__pool_memory_free(old);
    return true;
}

/* An entry with no block yet; UINT32_MAX: no memory, said. No lock. */
static uint32_t asthra__pool_entry_take(AsthraPool *p) {
    for (;;) {
        asthra__lock(&p->lock);
        uint32_t index = p->free_handle, room = p->handle_room;
        if (index != UINT32_MAX) {
            p->free_handle = p->handles[index].next;
        } else if (p->handle_count < room) {
            index = p->handle_count++;
            p->handles[index] = (Asthra__PoolHandle){NULL, 0, 1, 0};
        }
        asthra__unlock(&p->lock);
        if (index != UINT32_MAX) return index;
        if (room == ASTHRA__POOL_HANDLES) {
            asthra__error_set(ASTHRA_LIMIT, "pool '%s' has %u handles, and can have no more",
                              p->name, (unsigned)room);
            return index;
        }
        if (!asthra__pool_handles_grow(p, room)) {
            asthra__error_set(ASTHRA_OUT_OF_MEMORY, "pool '%s' found no memory for a handle",
                              p->name);
            return index;
        }
    }
}

static void asthra__pool_entry_give(AsthraPool *p, uint32_t index) {
    Asthra__PoolHandle *e = &p->handles[index];
    e->address = NULL;
    if (e->generation == ASTHRA__POOL_GENERATIONS) return; /* used up */
    e->next = p->free_handle;
    p->free_handle = index;
}

static uint64_t asthra__pool_handle_bits(const AsthraPool *p, uint32_t index) {
    return (uint64_t)p->handles[index].generation << 40 | (uint64_t)(p->stamp & 0xffff) << 24 |
           index;
}

/* NULL: not a valid handle of this pool. */
static Asthra__PoolHandle *asthra__pool_entry_of(const AsthraPool *p, AsthraPoolHandle h) {
    uint32_t index = (uint32_t)(h.bits & (ASTHRA__POOL_HANDLES - 1));
    if (index >= p->handle_count || h.bits != asthra__pool_handle_bits(p, index)) return NULL;
    return p->handles[index].address ? &p->handles[index] : NULL;
}

/* Marks the block of an entry, which is live, as a handle's or not. */
static void asthra__pool_hold(AsthraPool *p, char *block, bool on) {
    Asthra__PoolChunk *c = asthra__pool_chunk_of(p, block);
    size_t i = (size_t)(block - c->base) / ASTHRA__POOL_GRANULE;
    if (on)
        asthra__pool_set(c->held, i);
    else
        asthra__pool_clear(c->held, i);
}

/* ---- compaction ---- */

/* Moves e's block of n granules from i in c to `to` in d, where as many are free. */
static void asthra__pool_move(Asthra__PoolHandle *e, Asthra__PoolChunk *c, uint32_t i, uint32_t n,
                              Asthra__PoolChunk *d, uint32_t to) {
    char *target = asthra__pool_occupy(d, to, n, e->size);
    memmove(target, e->address, e->size);
    asthra__pool_set(d->held, to);
    asthra__pool_clear(c->held, i);
    asthra__pool_vacate(c, i, n);
    e->address = target;
}

/* Moves it down over the `gap` free granules right before it. */
static void asthra__pool_slide(Asthra__PoolHandle *e, Asthra__PoolChunk *c, uint32_t i, uint32_t n,
                               uint32_t gap) {
    uint32_t to = i - gap, behind = asthra__pool_free_from(c, i + n);
    char *target = asthra__pool_at(c, to);
    asthra__pool_free_remove(c, to, gap);
    if (behind) asthra__pool_free_remove(c, i + n, behind);
    asthra__pool_clear(c->starts, i);
    asthra__pool_clear(c->live, i);
    asthra__pool_clear(c->held, i);
    asthra__pool_open(target, e->size);
    memmove(target, e->address, e->size);
    asthra__pool_shut(target + e->size, (size_t)(gap + n) * ASTHRA__POOL_GRANULE - e->size);
    asthra__pool_set(c->starts, to);
    asthra__pool_set(c->live, to);
    asthra__pool_set(c->held, to);
    asthra__pool_free_add(c, to + n, gap + behind);
    e->address = target;
}

/* Moves e's block down if there is room. Returns bytes moved; *changed is where room came to be. */
static size_t asthra__pool_lower(AsthraPool *p, Asthra__PoolHandle *e,
                                 Asthra__PoolChunk **changed) {
    Asthra__PoolChunk *c = asthra__pool_chunk_of(p, e->address), *d = NULL;
    uint32_t i = (uint32_t)((size_t)(e->address - c->base) / ASTHRA__POOL_GRANULE), to = 0;
    uint32_t n = asthra__pool_live_size(c, i), gap;
    *changed = c;
    for (uint32_t k = 0; d != c; k++) {
        d = p->chunks[k];
        if (asthra__pool_largest(d) < n) continue;
        to = asthra__pool_first(d, n);
        if (d == c && to > i) break;
        asthra__pool_move(e, c, i, n, d, to);
        return e->size;
    }
    gap = asthra__pool_free_before(c, i);
    if (!gap) return 0;
    asthra__pool_slide(e, c, i, n, gap);
    return e->size;
}

static void asthra__pool_sift(const Asthra__PoolHandle *entries, uint32_t *list, uint32_t from,
                              uint32_t count) {
    uint32_t moved = list[from], child;
    uintptr_t address = (uintptr_t)entries[moved].address;
    for (; (child = 2 * from + 1) < count; from = child) {
        if (child + 1 < count &&
            (uintptr_t)entries[list[child]].address < (uintptr_t)entries[list[child + 1]].address)
            child++;
        if ((uintptr_t)entries[list[child]].address <= address) break;
        list[from] = list[child];
    }
    list[from] = moved;
}

/* Lists the entries that have a block, by address (heapsort). Returns how many. */
static uint32_t asthra__pool_sort(AsthraPool *p) {
    uint32_t *list = p->handles_sorted, count = 0;
    for (uint32_t i = 0; i < p->handle_count; i++)
        if (p->handles[i].address) list[count++] = i;
    for (uint32_t from = count / 2; from-- > 0;) asthra__pool_sift(p->handles, list, from, count);
    for (uint32_t rest = count; rest-- > 1;) {
        uint32_t last = list[0];
        list[0] = list[rest];
        list[rest] = last;
        asthra__pool_sift(p->handles, list, 0, rest);
    }
    return count;
}

ASTHRA__FN size_t asthra__pool_compact(AsthraPool *p, uint32_t enough) {
    if (p->object_size || p->is_compact) return 0;
    size_t moved = 0;
    uint32_t count = asthra__pool_sort(p), k = 0;
    for (; k < count; k++) {
        Asthra__PoolChunk *changed;
        moved += asthra__pool_lower(p, &p->handles[p->handles_sorted[k]], &changed);
        if (asthra__pool_largest(changed) >= enough) break;
    }
    p->is_compact = k == count;
    return moved;
}

/* ---- the contract ---- */

ASTHRA_RT_API AsthraPoolHandle asthra_pool_handle_alloc(AsthraPool *p, size_t size) {
    ASTHRA__POOL_NEEDS(p);
    AsthraPoolHandle h = {0};
    uint32_t index = asthra__pool_entry_take(p);
    if (index == UINT32_MAX) return h;
    char *block = asthra__pool_obtain(p, size);
    asthra__lock(&p->lock);
    if (block) {
        p->handles[index].address = block;
        p->handles[index].size = size;
        asthra__pool_hold(p, block, true);
        p->is_compact = false; /* one more that may move */
        h.bits = asthra__pool_handle_bits(p, index);
    } else {
        asthra__pool_entry_give(p, index);
    }
    asthra__unlock(&p->lock);
    return h;
}

/* Why it is not one of p's; any pool's lock may be free. */
static const char *asthra__pool_handle_fault(const AsthraPool *p, AsthraPoolHandle h) {
    if (!h.bits) return "0, which a failed allocation gave";
    if (!(h.bits >> 40)) return "none that any pool has given";
    if ((h.bits >> 24 & 0xffff) != (p->stamp & 0xffff)) return "another pool's";
    return "stale: its block was freed before";
}

ASTHRA_RT_API void *asthra_pool_handle_get(AsthraPool *p, AsthraPoolHandle h) {
    ASTHRA__POOL_NEEDS(p);
    asthra__lock(&p->lock);
    const Asthra__PoolHandle *e = asthra__pool_entry_of(p, h);
    void *address = e ? e->address : NULL;
    asthra__unlock(&p->lock);
    if (ASTHRA__UNLIKELY(!address))
        asthra__error_set(ASTHRA_INVALID, "pool '%s' was given a handle that is %s", p->name,
                          asthra__pool_handle_fault(p, h));
    return address;
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__pool_handle_refuse(const AsthraPool *p,
                                                                    AsthraPoolHandle h) {
    asthra_panic_at(NULL, "Invalid handle in pool_handle_free: %#jx in pool '%s' is %s",
                    (uintmax_t)h.bits, p->name, asthra__pool_handle_fault(p, h));
}

ASTHRA_RT_API void asthra_pool_handle_free(AsthraPool *p, AsthraPoolHandle h) {
    ASTHRA__POOL_NEEDS(p);
    if (!h.bits) return;
    asthra__lock(&p->lock);
    Asthra__PoolHandle *e = asthra__pool_entry_of(p, h);
    if (ASTHRA__UNLIKELY(!e)) {
        asthra__unlock(&p->lock);
        asthra__pool_handle_refuse(p, h);
    }
    char *block = e->address;
    asthra__pool_hold(p, block, false);
    e->generation++;
    asthra__pool_entry_give(p, (uint32_t)(e - p->handles));
    Asthra__PoolChunk *empty = asthra__pool_return(p, block);
    asthra__unlock(&p->lock);
    asthra__pool_discard(empty);
}

ASTHRA_RT_API size_t asthra_pool_defragment(AsthraPool *p) {
    ASTHRA__POOL_NEEDS(p);
    asthra__lock(&p->lock);
    size_t moved = asthra__pool_compact(p, ASTHRA__POOL_NONE);
    Asthra__PoolChunk *empty = moved ? asthra__pool_shed(p) : NULL;
    asthra__unlock(&p->lock);
    asthra__pool_discard(empty);
    return moved;
}

#endif
