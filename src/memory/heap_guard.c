/* heap - blocks that end where an inaccessible page begins.                [heap] body: guard
 *
 * The slack finds an overflow when the block is freed, the quarantine a write when a freed block
 * leaves it, and neither finds a read. So some blocks of the full level, one in a thousand, have a
 * page of their own: the block ends at the page's end, and the page after it is closed. When the
 * block is freed its own page is closed too, until its place is used again, which is as late as can
 * be. The instruction that touches a closed page faults, and the fault becomes a panic that names
 * the block and its life, in the thread and with the stack that did it.
 *
 * A pool is one unit of the region table, cut into places of two pages each; at first all of it is
 * closed. A place's record is that of a huge block, so that all that is asked of those holds for
 * guarded blocks too. Free places wait in a queue, oldest first, under the lock. There are no more
 * than four pools (with pages of 4 KiB 2,048 places); open places cost a page and two entries in
 * the system's list of mappings each, of which a process has tens of thousands. What cannot have a
 * place, for whatever reason, becomes an ordinary block; so do all while a caller's allocator is in
 * use, which has no such pages.
 *
 * The faults are told by who installs the handler: the runtime's, while it runs. At other times
 * they are plain faults.
 */
#include "heap_internal.h"

#if ASTHRA_HAS_MEMORY

enum { ASTHRA__GUARD_POOLS = 4 };

typedef struct Asthra__GuardPool {
    char *unit;
    size_t page;
    uint32_t count; /* of places */
    Asthra__Huge places[];
} Asthra__GuardPool;

static struct {
    Asthra__Lock lock; /* of the queue, and of making pools */
    ASTHRA__ATOMIC(Asthra__GuardPool *) pools[ASTHRA__GUARD_POOLS];
    Asthra__Huge *first_free, *last_free;
} asthra__guard;

/* ---- places ---- */

/* Caller holds the lock. */
static void asthra__guard_enqueue(Asthra__Huge *guard) {
    guard->next_free = NULL;
    if (asthra__guard.first_free == NULL)
        asthra__guard.first_free = guard;
    else
        asthra__guard.last_free->next_free = guard;
    asthra__guard.last_free = guard;
}

static char *asthra__guard_page(const Asthra__GuardPool *pool, const Asthra__Huge *guard) {
    return pool->unit + (size_t)(guard - pool->places) * 2 * pool->page;
}

/* The pool is made, but nobody knows it. */
static Asthra__GuardPool *asthra__guard_map(void) {
    size_t page = asthra__os_page_size(), count = ASTHRA__REGION_BYTES / (2 * page);
    size_t bytes = sizeof(Asthra__GuardPool) + count * sizeof(Asthra__Huge);
    Asthra__GuardPool *pool = asthra__os_map(bytes);
    char *unit = asthra__os_map_aligned(ASTHRA__REGION_BYTES, ASTHRA__REGION_BYTES);
    if (pool != NULL && unit != NULL && asthra__os_close_pages(unit, ASTHRA__REGION_BYTES)) {
        *pool = (Asthra__GuardPool){.unit = unit, .page = page, .count = (uint32_t)count};
        for (size_t i = 0; i < count; i++) {
            pool->places[i].is_guarded = true;
            pool->places[i].zone = ASTHRA_MEMORY_ZONE_NONE;
        }
        if (asthra__region_claim(unit, ASTHRA__REGION_BYTES, pool, ASTHRA__REGION_GUARD))
            return pool;
    }
    if (unit != NULL) asthra__os_unmap(unit, ASTHRA__REGION_BYTES);
    if (pool != NULL) asthra__os_unmap(pool, bytes);
    return NULL;
}

/* Caller holds the lock. */
static void asthra__guard_grow(void) {
    unsigned n = 0;
    while (n < ASTHRA__GUARD_POOLS && asthra__load(&asthra__guard.pools[n], relaxed) != NULL) n++;
    Asthra__GuardPool *pool = n == ASTHRA__GUARD_POOLS ? NULL : asthra__guard_map();
    if (pool == NULL) return;
    for (uint32_t i = 0; i < pool->count; i++) asthra__guard_enqueue(&pool->places[i]);
    asthra__store(&asthra__guard.pools[n], pool, release);
}

static Asthra__Huge *asthra__guard_dequeue(void) {
    asthra__lock(&asthra__guard.lock);
    if (asthra__guard.first_free == NULL) asthra__guard_grow();
    Asthra__Huge *guard = asthra__guard.first_free;
    if (guard != NULL) asthra__guard.first_free = guard->next_free;
    asthra__unlock(&asthra__guard.lock);
    return guard;
}

static const Asthra__GuardPool *asthra__guard_pool(const Asthra__Huge *guard) {
    for (unsigned n = 0;; n++) {
        const Asthra__GuardPool *pool = asthra__load(&asthra__guard.pools[n], acquire);
        if ((size_t)((const char *)guard - (const char *)pool->places) <
            pool->count * sizeof *guard)
            return pool;
    }
}

static void asthra__guard_queue(Asthra__Huge *guard) {
    asthra__lock(&asthra__guard.lock);
    asthra__guard_enqueue(guard);
    asthra__unlock(&asthra__guard.lock);
}

ASTHRA__FN Asthra__Huge *asthra__guard_take(size_t size) {
    size_t capacity = size == 0 ? 16 : (size + 15) & ~(size_t)15;
    if (size > asthra__os_page_size() || asthra__alloc_is_hooked()) return NULL;
    Asthra__Huge *guard = asthra__guard_dequeue();
    if (guard == NULL) return NULL;
    const Asthra__GuardPool *pool = asthra__guard_pool(guard);
    char *page = asthra__guard_page(pool, guard);
    if (!asthra__os_open_pages(page, pool->page)) {
        asthra__guard_queue(guard);
        return NULL;
    }
    asthra__heap_hide(page, pool->page);
    guard->start = page + pool->page - capacity;
    guard->mapped = capacity;
    asthra__heap_show(guard->start, size);
    return guard;
}

/* A page that the system does not close, for want of mappings, stays open and is used again. */
ASTHRA__FN void asthra__guard_give(Asthra__Huge *guard) {
    const Asthra__GuardPool *pool = asthra__guard_pool(guard);
    asthra__os_close_pages(asthra__guard_page(pool, guard), pool->page);
    asthra__guard_queue(guard);
}

ASTHRA__FN Asthra__Huge *asthra__guard_find(uintptr_t pool, const void *ptr) {
    Asthra__GuardPool *p = (Asthra__GuardPool *)pool;
    return &p->places[((uintptr_t)ptr & (ASTHRA__REGION_BYTES - 1)) / (2 * p->page)];
}

ASTHRA__FN ASTHRA__HEAP_PEEK void asthra__guard_each(bool (*visit)(Asthra__Huge *guard, void *user),
                                                     void *user) {
    for (unsigned n = 0; n < ASTHRA__GUARD_POOLS; n++) {
        Asthra__GuardPool *pool = asthra__load(&asthra__guard.pools[n], acquire);
        if (pool == NULL) return;
        for (uint32_t i = 0; i < pool->count; i++) {
            Asthra__Huge *guard = &pool->places[i];
            if (asthra__load(&guard->is_live, acquire) != 0 && !visit(guard, user)) return;
        }
    }
}

/* ---- faults ---- */

/* On the stack of the thread that faulted, which may stand at any multiple of eight, or four. */
#if defined(__x86_64__) || defined(__i386__)
__attribute__((__force_align_arg_pointer__))
#endif
ASTHRA__COLD static ASTHRA__OS_CALLED void
asthra__guard_panic(void *address) {
    Asthra__Found f;
    bool is_live = asthra__heap_find(address, &f) != ASTHRA_ADDRESS_FREED &&
                   asthra__load(&f.huge->is_live, acquire) != 0;
    asthra__heap_touched(&f, address, is_live);
}

/* In a signal handler. The own page of a live block is open: what faults there is not ours. */
ASTHRA__FN bool asthra__guard_on_fault(void *address, void *context) {
    uintptr_t entry = asthra__region_entry(address);
    if (entry % ASTHRA__REGION_KINDS != ASTHRA__REGION_GUARD) return false;
    const Asthra__GuardPool *pool = (const void *)(entry - ASTHRA__REGION_GUARD);
    const Asthra__Huge *guard = asthra__guard_find(entry - ASTHRA__REGION_GUARD, address);
    bool is_behind = (char *)address >= asthra__guard_page(pool, guard) + pool->page;
    if (guard->start == NULL) return false;
    if (!is_behind && asthra__load(&guard->is_live, acquire) != 0) return false;
    return asthra__os_fault_call(context, asthra__guard_panic, address);
}

ASTHRA__FN void asthra__guard_fork_before(void) {
    asthra__lock(&asthra__guard.lock);
}
ASTHRA__FN void asthra__guard_fork_after(void) {
    asthra__unlock(&asthra__guard.lock);
}

#endif
