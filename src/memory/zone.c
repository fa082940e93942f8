/* zone - accounts, the limit and the hooks that all zones share.           [zone] body
 *
 * Nothing here is on the path of an allocation that nobody watches. A limit is one counter that
 * each watched allocation raises before it takes memory, so that it is never passed, not even for
 * a moment; the counter is set when the limit is, from the accounts. Its settings are plain data: a
 * limit comes and goes with the runtime's start and stop, while nobody allocates; where there is
 * none before and after, others may. Hooks may change at any time, so they are copied under a lock
 * and called outside it.
 */
#include "zone_internal.h"

#include "../core/panic_internal.h"
#include "../core/thread_internal.h"

#if ASTHRA_HAS_MEMORY

enum { ASTHRA__ZONE_ALL = ASTHRA__ZONES };

static struct {
    ASTHRA__ATOMIC(size_t) live[ASTHRA__ZONES + 1], peak[ASTHRA__ZONES + 1]; /* as told */
    ASTHRA__ATOMIC(size_t) limited; /* bytes in use, kept while there is a limit */
    ASTHRA__ATOMIC(size_t) max;     /* of limit; 0: there is none, and nobody looks at it */
    Asthra__ZoneLimit limit;
    ASTHRA__ATOMIC(uint32_t) off; /* bit n: zone n is switched off */
    Asthra__Lock lock;            /* of hooks */
    AsthraMemoryHooks hooks;
} asthra__zone;

static void asthra__zone_live_add(size_t index, size_t more) {
    size_t live = asthra__add(&asthra__zone.live[index], more, relaxed) + more;
    size_t peak = asthra__load(&asthra__zone.peak[index], relaxed);
    if ((ptrdiff_t)live < 0) return; /* freed here before it was told there */
    while (live > peak && !asthra__cas(&asthra__zone.peak[index], &peak, live, relaxed)) continue;
}

static size_t asthra__account_total(const Asthra__Account *a) {
    return asthra__load(&a->total_due, relaxed) - (size_t)asthra__load(&a->alloc_left, relaxed);
}
static size_t asthra__account_freed(const Asthra__Account *a) {
    return asthra__load(&a->freed_due, relaxed) - (size_t)asthra__load(&a->free_left, relaxed);
}

ASTHRA__COLD ASTHRA__FN void asthra__account_tell(Asthra__Account *a, AsthraMemoryZone zone) {
    size_t total = asthra__account_total(a), freed = asthra__account_freed(a);
    size_t more = total - freed - a->told;
    a->told += more;
    asthra__store(&a->total_due, total + ASTHRA__ACCOUNT_STEP, relaxed);
    asthra__store(&a->alloc_left, (ptrdiff_t)ASTHRA__ACCOUNT_STEP, relaxed);
    asthra__store(&a->freed_due, freed + ASTHRA__ACCOUNT_STEP, relaxed);
    asthra__store(&a->free_left, (ptrdiff_t)ASTHRA__ACCOUNT_STEP, relaxed);
    asthra__zone_live_add((size_t)zone, more);
    asthra__zone_live_add(ASTHRA__ZONE_ALL, more);
}

/* Takes from what is left, below nothing too: then the zone is told. */
static void asthra__account_take(ASTHRA__ATOMIC(ptrdiff_t) * left, Asthra__Account *a, size_t size,
                                 AsthraMemoryZone zone) {
    ptrdiff_t rest = asthra__load(left, relaxed) - (ptrdiff_t)size;
    asthra__store(left, rest, relaxed);
    if (rest < 0) asthra__account_tell(a, zone);
}

ASTHRA__FN void asthra__account_alloc(Asthra__Account *a, size_t size, AsthraMemoryZone zone) {
    asthra__add(&a->count, 1, relaxed);
    asthra__account_take(&a->alloc_left, a, size, zone);
}

ASTHRA__FN void asthra__account_free(Asthra__Account *a, size_t size, AsthraMemoryZone zone) {
    asthra__account_take(&a->free_left, a, size, zone);
}

ASTHRA__FN void asthra__account_resize(Asthra__Account *a, size_t before, size_t after,
                                       AsthraMemoryZone zone) {
    asthra__account_take(&a->free_left, a, before, zone);
    asthra__account_take(&a->alloc_left, a, after, zone);
}

ASTHRA__COLD ASTHRA__FN void asthra__account_fail(Asthra__Account *a) {
    asthra__add(&a->failures, 1, relaxed);
}

ASTHRA__FN void asthra__account_sum(const Asthra__Account *a, Asthra__AccountSum *sum) {
    sum->total += asthra__account_total(a);
    sum->freed += asthra__account_freed(a);
    sum->count += asthra__load(&a->count, relaxed);
    sum->failures += asthra__load(&a->failures, relaxed);
}

ASTHRA__FN size_t asthra__zone_peak(AsthraMemoryZone zone, size_t current) {
    size_t index = zone == ASTHRA_MEMORY_ZONE_NONE ? ASTHRA__ZONE_ALL : (size_t)zone;
    size_t peak = asthra__load(&asthra__zone.peak[index], relaxed);
    return peak > current ? peak : current;
}

ASTHRA_RT_API const char *asthra_memory_zone_to_string(AsthraMemoryZone zone) {
    static const char *const names[] = {"NONE", "GC", "MANUAL", "PINNED", "STACK"};
    size_t index = (size_t)((int)zone + 1);
    return index < sizeof names / sizeof *names ? names[index] : "NONE";
}

ASTHRA__FN void asthra__zone_set_limit(const Asthra__ZoneLimit *limit) {
    asthra__store(&asthra__zone.max, (size_t)0, relaxed);
    asthra__zone.limit = *limit;
    asthra__store(&asthra__zone.limited, limit->live, relaxed);
    asthra__store(&asthra__zone.max, limit->max_bytes, release);
    asthra__trace_set(ASTHRA__TRACE_ZONE_LIMIT, limit->max_bytes != 0);
}

static bool asthra__zone_take(size_t size) {
    size_t max = asthra__load(&asthra__zone.max, acquire);
    size_t used = asthra__load(&asthra__zone.limited, relaxed);
    if (max == 0) return true;
    do {
        if (size > max || used > max - size) return false;
    } while (!asthra__cas(&asthra__zone.limited, &used, used + size, relaxed));
    return true;
}

/* Whether the policy lets the allocation try again. */
static bool asthra__zone_over_limit(size_t size, AsthraMemoryZone zone) {
    const Asthra__ZoneLimit *l = &asthra__zone.limit;
    size_t used = asthra__load(&asthra__zone.limited, relaxed);
    if (l->policy == ASTHRA_HEAP_LIMIT_HOOK && l->hook != NULL && l->hook(size, zone, l->hook_user))
        return true;
    if (l->policy == ASTHRA_HEAP_LIMIT_PANIC)
        asthra_panic_at(NULL,
                        "Heap limit: %zu bytes of zone %s asked for, %zu of max_heap_size %zu in "
                        "use; free some, or raise it",
                        size, asthra_memory_zone_to_string(zone), used, l->max_bytes);
    asthra__error_set(ASTHRA_LIMIT,
                      "max_heap_size is %zu bytes, %zu are in use, %zu more were asked for",
                      l->max_bytes, used, size);
    return false;
}

ASTHRA__FN void asthra__zone_switch(AsthraMemoryZone zone, bool on) {
    uint32_t bit = (uint32_t)1 << (unsigned)zone;
    if (on)
        asthra__and(&asthra__zone.off, ~bit, relaxed);
    else
        asthra__or(&asthra__zone.off, bit, relaxed);
    asthra__trace_set(ASTHRA__TRACE_ZONE_OFF, asthra__load(&asthra__zone.off, relaxed) != 0);
}

static bool asthra__zone_is_off(AsthraMemoryZone zone) {
    if ((asthra__load(&asthra__zone.off, relaxed) >> (unsigned)zone & 1) == 0) return false;
    asthra__error_set(ASTHRA_INVALID, "enable_%s_memory is false in the runtime's configuration",
                      zone == ASTHRA_MEMORY_ZONE_PINNED ? "pinned" : "manual");
    return true;
}

ASTHRA__FN bool asthra__zone_admit(size_t size, AsthraMemoryZone zone) {
    if (asthra__zone_is_off(zone)) return false;
    while (!asthra__zone_take(size))
        if (!asthra__zone_over_limit(size, zone)) return false;
    return true;
}

ASTHRA__FN void asthra__zone_release(size_t size) {
    if (asthra__load(&asthra__zone.max, relaxed) != 0)
        asthra__sub(&asthra__zone.limited, size, relaxed);
}

static AsthraMemoryHooks asthra__zone_hooks(void) {
    asthra__lock(&asthra__zone.lock);
    AsthraMemoryHooks hooks = asthra__zone.hooks;
    asthra__unlock(&asthra__zone.lock);
    return hooks;
}

/* A hook that allocates is not told of that: it would never end. */
static bool asthra__zone_enter_hook(void) {
    Asthra__Thread *t = asthra__thread();
    bool is_free = !t->is_in_memory_hook;
    t->is_in_memory_hook = true;
    return is_free;
}

ASTHRA__FN void asthra__zone_tell_alloc(void *ptr, size_t size, AsthraMemoryZone zone) {
    ASTHRA__TRACE(ASTHRA_DEBUG_MEMORY_ALLOCATION, "ALLOC: %p (%zu bytes) in zone %s", ptr, size,
                  asthra_memory_zone_to_string(zone));
    AsthraMemoryHooks hooks = asthra__zone_hooks();
    if (hooks.on_alloc == NULL || !asthra__zone_enter_hook()) return;
    hooks.on_alloc(ptr, size, zone, hooks.user);
    asthra__thread()->is_in_memory_hook = false;
}

ASTHRA__FN void asthra__zone_tell_free(void *ptr, AsthraMemoryZone zone) {
    ASTHRA__TRACE(ASTHRA_DEBUG_MEMORY_ALLOCATION, "FREE: %p in zone %s", ptr,
                  asthra_memory_zone_to_string(zone));
    AsthraMemoryHooks hooks = asthra__zone_hooks();
    if (hooks.on_free == NULL || !asthra__zone_enter_hook()) return;
    hooks.on_free(ptr, zone, hooks.user);
    asthra__thread()->is_in_memory_hook = false;
}

ASTHRA__FN void asthra__zone_fork_before(void) {
    asthra__lock(&asthra__zone.lock);
}
ASTHRA__FN void asthra__zone_fork_after(void) {
    asthra__unlock(&asthra__zone.lock);
}

ASTHRA_RT_API void asthra_memory_set_hooks(const AsthraMemoryHooks *hooks) {
    static const AsthraMemoryHooks none;
    if (hooks == NULL) hooks = &none;
    asthra__lock(&asthra__zone.lock);
    asthra__zone.hooks = *hooks;
    asthra__unlock(&asthra__zone.lock);
    asthra__trace_set(ASTHRA__TRACE_ZONE_HOOKS, hooks->on_alloc != NULL || hooks->on_free != NULL);
}

#endif
