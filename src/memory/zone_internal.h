/* zone - accounts, the limit and the hooks that all zones share.           [zone] internal
 *
 * An account counts what one thread (or heap, or stack) allocated and freed in one zone. Only its
 * owner writes it, anybody reads it; sums over all accounts of a zone are exact when the zone is at
 * rest. Each 64 KiB the owner adds what is new to the zone's own count, which keeps the peak.
 */
#ifndef ASTHRA__ZONE_INTERNAL_H
#define ASTHRA__ZONE_INTERNAL_H

#include "zone.h"

#include "../core/alloc_internal.h"
#include "../core/trace_internal.h"

#if ASTHRA_HAS_MEMORY

enum { ASTHRA__ZONES = 4, ASTHRA__ACCOUNT_STEP = 65536 };

typedef struct Asthra__Account {
    /* What is left of a step, so that counting and the question whether to tell are one
     * subtraction: total = total_due - alloc_left, freed = freed_due - free_left. */
    ASTHRA__ATOMIC(ptrdiff_t) alloc_left, free_left;
    ASTHRA__ATOMIC(size_t) count, failures; /* allocations, refusals */
    ASTHRA__ATOMIC(size_t) total_due, freed_due;
    size_t told; /* total - freed, when the zone was told last */
} Asthra__Account;

ASTHRA__FN void asthra__account_tell(Asthra__Account *a, AsthraMemoryZone zone);

/* Only the owner counts, so a load and a store are enough. false: nothing was counted, the zone is
 * to be told first; the other two do that themselves. */
static inline bool asthra__account_try_alloc(Asthra__Account *a, size_t size) {
    ptrdiff_t left = asthra__load(&a->alloc_left, relaxed) - (ptrdiff_t)size;
    if (ASTHRA__UNLIKELY(left < 0)) return false;
    asthra__store(&a->alloc_left, left, relaxed);
    asthra__store(&a->count, asthra__load(&a->count, relaxed) + 1, relaxed);
    return true;
}
/* Counts a free; below 0: the zone is to be told. */
static inline ptrdiff_t asthra__account_free_quick(Asthra__Account *a, size_t size) {
    ptrdiff_t left = asthra__load(&a->free_left, relaxed) - (ptrdiff_t)size;
    asthra__store(&a->free_left, left, relaxed);
    return left;
}
ASTHRA__FN void asthra__account_alloc(Asthra__Account *a, size_t size, AsthraMemoryZone zone);
ASTHRA__FN void asthra__account_free(Asthra__Account *a, size_t size, AsthraMemoryZone zone);
/* A live block has another size now. */
ASTHRA__FN void asthra__account_resize(Asthra__Account *a, size_t before, size_t after,
                                       AsthraMemoryZone zone);
ASTHRA__FN void asthra__account_fail(Asthra__Account *a);

/* What a zone adds up: *sum grows by the account. */
typedef struct Asthra__AccountSum {
    size_t total, freed, count, failures;
} Asthra__AccountSum;
ASTHRA__FN void asthra__account_sum(const Asthra__Account *a, Asthra__AccountSum *sum);

/* The most that was ever in use, at least `current`; ASTHRA_MEMORY_ZONE_NONE: of all zones. */
ASTHRA__FN size_t asthra__zone_peak(AsthraMemoryZone zone, size_t current);

/* True while a limit, a hook or the debug line wants to know of each allocation and each free: then
 * a zone does the four calls below, else none of them. One load. */
static inline bool asthra__zone_is_watched(void) {
    return (asthra__trace_word() & ASTHRA__TRACE_ZONES) != 0;
}
/* Before an allocation: may the zones hold `size` more? Asks the limit's hook. false: no, and
 * asthra_last_error says why; with the policy to panic it panics. */
ASTHRA__FN bool asthra__zone_admit(size_t size, AsthraMemoryZone zone);
ASTHRA__FN void asthra__zone_release(size_t size); /* after a free, or for what was not got */
ASTHRA__FN void asthra__zone_tell_alloc(void *ptr, size_t size, AsthraMemoryZone zone);
ASTHRA__FN void asthra__zone_tell_free(void *ptr, AsthraMemoryZone zone);

/* What is switched off refuses every allocation and names its field of the configuration. */
ASTHRA__FN void asthra__zone_switch(AsthraMemoryZone zone, bool on);

/* max_bytes 0: no limit; `live` is what the zones hold already. */
typedef struct Asthra__ZoneLimit {
    size_t max_bytes, live;
    AsthraHeapLimitPolicy policy;
    AsthraHeapLimitHook hook;
    void *hook_user;
} Asthra__ZoneLimit;
ASTHRA__FN void asthra__zone_set_limit(const Asthra__ZoneLimit *limit);

/* Called by the heap around a fork: every watched allocation takes the lock of the hooks. */
ASTHRA__FN void asthra__zone_fork_before(void);
ASTHRA__FN void asthra__zone_fork_after(void);

#endif
#endif
