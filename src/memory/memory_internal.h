/* memory - the zones' part of the configuration.                           [memory] internal */
#ifndef ASTHRA__MEMORY_INTERNAL_H
#define ASTHRA__MEMORY_INTERNAL_H

#include "memory.h"
#include "zone_internal.h"

#if ASTHRA_HAS_MEMORY

typedef struct Asthra__MemoryConfig {
    AsthraSafetyLevel level;
    size_t max_heap_size;
    AsthraHeapLimitPolicy policy;
    AsthraHeapLimitHook hook;
    void *hook_user;
    bool manual_is_on, pinned_is_on, is_numa_aware;
} Asthra__MemoryConfig;

/* Before the first use by others, or while they are at rest. All zero but the two switches: as it
 * is without a runtime. */
ASTHRA__FN void asthra__memory_configure(const Asthra__MemoryConfig *c);

/* What an allocator lent and holds no block goes back, if it is the hook no longer. */
ASTHRA__FN void asthra__memory_give_back(void);

#endif
#endif
