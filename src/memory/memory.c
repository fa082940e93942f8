/* memory - the door to all zones.                                          [memory] body
 *
 * It knows every zone and holds nothing of its own. A zone that the build leaves out fails like one
 * that does not exist.
 */
#include "memory.h"

#include "heap_internal.h"
#include "manual.h"
#include "memory_internal.h"
#include "stack_internal.h"

#include "../core/text_internal.h"

#if ASTHRA_HAS_MEMORY

#include <string.h>

static void asthra__memory_refuse(AsthraMemoryZone zone) {
    if ((int)zone < ASTHRA_MEMORY_ZONE_GC || zone > ASTHRA_MEMORY_ZONE_STACK)
        asthra__error_set(ASTHRA_INVALID, "%d is no AsthraMemoryZone", (int)zone);
    else
        asthra__error_set(ASTHRA_INVALID, "zone %s is not in this build",
                          asthra_memory_zone_to_string(zone));
}

ASTHRA_RT_API ASTHRA__NOINLINE void *asthra_alloc(size_t size, AsthraMemoryZone zone) {
    (void)size; /* where no zone is in the build */
#if ASTHRA_HAS_MANUAL
    if (ASTHRA__LIKELY(zone == ASTHRA_MEMORY_ZONE_MANUAL))
        return asthra__heap_alloc_here(size, ASTHRA_MEMORY_ZONE_MANUAL,
                                       __builtin_return_address(0));
#endif
    switch (zone) {
#if ASTHRA_HAS_PINNED
    case ASTHRA_MEMORY_ZONE_PINNED:
        return asthra__heap_alloc(size, ASTHRA_MEMORY_ZONE_PINNED, __builtin_return_address(0));
#endif
#if ASTHRA_HAS_STACK
    case ASTHRA_MEMORY_ZONE_STACK: return asthra_stack_alloc(size);
#endif
    case ASTHRA_MEMORY_ZONE_MANUAL:
    case ASTHRA_MEMORY_ZONE_NONE:
    case ASTHRA_MEMORY_ZONE_GC:
    default: asthra__memory_refuse(zone); return NULL;
    }
}

ASTHRA_RT_API ASTHRA__NOINLINE void *asthra_alloc_array(size_t count, size_t size,
                                                        AsthraMemoryZone zone) {
    size_t all;
    if (__builtin_mul_overflow(count, size, &all)) all = SIZE_MAX; /* refused as too large */
    return asthra_alloc(all, zone);
}

ASTHRA_RT_API ASTHRA__NOINLINE void asthra_free(void *ptr, AsthraMemoryZone zone) {
    const void *site = __builtin_return_address(0);
    if (ptr == NULL) return;
#if ASTHRA_HAS_MANUAL
    if (ASTHRA__LIKELY(zone == ASTHRA_MEMORY_ZONE_MANUAL)) {
        asthra__heap_free_here(ptr, ASTHRA_MEMORY_ZONE_MANUAL, site, "manual_free");
        return;
    }
#endif
    switch (zone) {
#if ASTHRA_HAS_PINNED
    case ASTHRA_MEMORY_ZONE_PINNED: asthra__heap_free(ptr, zone, site, "pinned_free"); return;
#endif
#if ASTHRA_HAS_STACK
    case ASTHRA_MEMORY_ZONE_STACK: asthra__stack_free(ptr, "stack_free"); return;
#endif
    case ASTHRA_MEMORY_ZONE_MANUAL:
    case ASTHRA_MEMORY_ZONE_NONE:
    case ASTHRA_MEMORY_ZONE_GC:
    default: (void)site; asthra__heap_invalid(ptr, zone, "free");
    }
}

ASTHRA_RT_API AsthraMemoryZone asthra_memory_zone_of(const void *ptr) {
    return asthra__heap_zone_of(ptr);
}

/* What the block tells of itself. */
static void asthra__memory_tell(const Asthra__Found *f, AsthraAllocationInfo *out) {
    Asthra__History history = asthra__full_history(f, out->kind);
    out->stamp = history.stamp;
    out->allocated_by = history.allocated.task;
    out->allocated_at = asthra__calls_text(history.allocated.calls);
    out->freed_by = history.freed.task;
    out->freed_at = asthra__calls_text(history.freed.calls);
}

/* A place in code as text, kept in the thread's record. */
static const char *asthra__memory_site(uint64_t by) {
    if (by == 0) return NULL;
    char *text = asthra__thread()->described;
    size_t length = asthra__os_symbol(asthra__trailer_site(by), text, ASTHRA__DESCRIBED - 1);
    text[length] = '\0';
    return text;
}

ASTHRA_RT_API bool asthra_memory_describe(const void *ptr, AsthraAllocationInfo *out) {
    Asthra__Found f;
    memset(out, 0, sizeof *out);
    out->kind = asthra__heap_find(ptr, &f);
    out->zone = asthra__heap_zone_of(ptr);
    if (out->kind == ASTHRA_ADDRESS_FOREIGN) out->kind = asthra__heap_outside(ptr);
    if (out->kind != ASTHRA_ADDRESS_LIVE && out->kind != ASTHRA_ADDRESS_FREED) return false;
    out->start = f.start;
    out->size = f.size;
#if ASTHRA_HAS_STACK
    if (f.zone == ASTHRA_MEMORY_ZONE_STACK) return asthra__stack_describe(f.start, ptr, out);
#endif
    if (f.level == ASTHRA_SAFETY_FULL)
        asthra__memory_tell(&f, out);
    else if (out->kind == ASTHRA_ADDRESS_FREED)
        out->freed_at = asthra__memory_site(asthra__found_freed_by(&f));
    return true;
}

/* ---- statistics ---- */

static void asthra__memory_sum(AsthraMemoryZone zone, Asthra__AccountSum *sum) {
    asthra__heap_sum(zone, sum);
#if ASTHRA_HAS_STACK
    if (zone == ASTHRA_MEMORY_ZONE_STACK) asthra__stack_sum(sum);
#endif
}

static void asthra__memory_conclude(AsthraMemoryZone zone, const Asthra__AccountSum *sum,
                                    AsthraMemoryStatistics *out) {
    out->current = sum->total - sum->freed;
    if ((ptrdiff_t)out->current < 0) out->current = 0; /* frees were seen before allocations */
    out->total = sum->total;
    out->count = sum->count;
    out->failures = sum->failures;
    out->mapped = asthra__heap_mapped(zone, &out->resident);
    out->peak = asthra__zone_peak(zone, out->current);
}

ASTHRA_RT_API AsthraMemoryStatistics asthra_memory_statistics(AsthraMemoryZone zone) {
    AsthraMemoryStatistics out;
    Asthra__AccountSum sum = {0, 0, 0, 0};
    memset(&out, 0, sizeof out);
    if ((int)zone < ASTHRA_MEMORY_ZONE_GC || zone > ASTHRA_MEMORY_ZONE_STACK) return out;
    asthra__memory_sum(zone, &sum);
    asthra__memory_conclude(zone, &sum, &out);
    return out;
}

ASTHRA_RT_API AsthraMemoryStatistics asthra_memory_statistics_all(void) {
    AsthraMemoryStatistics out;
    Asthra__AccountSum sum = {0, 0, 0, 0};
    memset(&out, 0, sizeof out);
    for (int zone = ASTHRA_MEMORY_ZONE_GC; zone <= ASTHRA_MEMORY_ZONE_STACK; zone++)
        asthra__memory_sum((AsthraMemoryZone)zone, &sum);
    asthra__memory_conclude(ASTHRA_MEMORY_ZONE_NONE, &sum, &out);
    return out;
}

ASTHRA_RT_API size_t asthra_memory_trim(void) {
#if ASTHRA_HAS_STACK
    asthra__stack_trim();
#endif
    return asthra__heap_trim();
}

/* ---- start and stop ---- */

ASTHRA__FN void asthra__memory_configure(const Asthra__MemoryConfig *c) {
    Asthra__ZoneLimit limit = {c->max_heap_size, 0, c->policy, c->hook, c->hook_user};
    if (c->max_heap_size != 0) limit.live = asthra_memory_statistics_all().current;
    asthra__heap_set_level(c->level);
    asthra__zone_set_limit(&limit);
    asthra__heap_settle_level();
    asthra__zone_switch(ASTHRA_MEMORY_ZONE_MANUAL, c->manual_is_on);
    asthra__zone_switch(ASTHRA_MEMORY_ZONE_PINNED, c->pinned_is_on);
    bool nodes_matter = c->is_numa_aware && asthra__os_nodes() > 1;
    asthra__segment_set_nodes(nodes_matter ? asthra__os_node : NULL);
}

ASTHRA__FN void asthra__memory_give_back(void) {
    if (asthra__segment_is_lent()) (void)asthra_memory_trim();
}

#endif
