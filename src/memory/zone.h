/* zone - the names of the memory zones, and what holds for all of them.    [zone] contract */
#ifndef ASTHRA__ZONE_H
#define ASTHRA__ZONE_H

#include "../platform/compiler.h"

#if ASTHRA_HAS_CORE

typedef enum AsthraMemoryZone {
    ASTHRA_MEMORY_ZONE_NONE = -1,
    ASTHRA_MEMORY_ZONE_GC = 0, /* collected */
    ASTHRA_MEMORY_ZONE_MANUAL, /* freed by hand */
    ASTHRA_MEMORY_ZONE_PINNED, /* freed by hand, at an address that is known to foreign code */
    ASTHRA_MEMORY_ZONE_STACK   /* freed with the task or scope that asked for it */
} AsthraMemoryZone;

/* "MEMORY_ZONE_MANUAL" of ASTHRA_MEMORY_ZONE_MANUAL and so on; never NULL. */
ASTHRA_RT_API const char *asthra_memory_zone_to_string(AsthraMemoryZone zone);

/* What an address is. */
typedef enum AsthraAddressKind {
    ASTHRA_ADDRESS_UNMAPPED,
    ASTHRA_ADDRESS_LIVE,   /* inside a live block */
    ASTHRA_ADDRESS_FREED,  /* inside a block that was freed and not handed out again */
    ASTHRA_ADDRESS_SLACK,  /* of a zone, in no block */
    ASTHRA_ADDRESS_STACK,  /* of a thread or a task */
    ASTHRA_ADDRESS_STATIC, /* code or data of the program or a library */
    ASTHRA_ADDRESS_FOREIGN /* mapped by others */
} AsthraAddressKind;

typedef struct AsthraAllocationInfo {
    AsthraAddressKind kind;
    AsthraMemoryZone zone;
    void *start;                         /* of the block; NULL: in no block */
    size_t size;                         /* as requested */
    uint64_t stamp;                      /* tells the uses of one address apart */
    uint64_t allocated_by, freed_by;     /* ids of tasks; 0: not known */
    const char *allocated_at, *freed_at; /* text; NULL: not recorded */
    const struct AsthraTypeInfo *type;
} AsthraAllocationInfo;

/* What frees are checked for, in blocks allocated from now on. */
typedef enum AsthraSafetyLevel {
    ASTHRA_SAFETY_DEFAULT = 0, /* CHECKED */
    ASTHRA_SAFETY_NONE,        /* nothing */
    ASTHRA_SAFETY_CHECKED,     /* invalid, interior and double frees, overflows into the slack */
    ASTHRA_SAFETY_FULL         /* and uses after the free and overflows by one byte */
} AsthraSafetyLevel;

/* What an allocation does that max_heap_size refuses. */
typedef enum AsthraHeapLimitPolicy {
    ASTHRA_HEAP_LIMIT_NULL,  /* returns NULL */
    ASTHRA_HEAP_LIMIT_PANIC, /* panics */
    ASTHRA_HEAP_LIMIT_HOOK   /* asks heap_limit_hook, then returns NULL */
} AsthraHeapLimitPolicy;

/* Called on the allocating thread, outside every lock, when `size` bytes would go over the limit;
 * it may free. true: try again. */
typedef bool (*AsthraHeapLimitHook)(size_t size, AsthraMemoryZone zone, void *user);

/* Both run on the allocating thread, outside every lock, after the allocation and before the free,
 * and may allocate, but not wait: what they allocate is not told to them. NULL: not wanted. */
typedef struct AsthraMemoryHooks {
    void (*on_alloc)(void *ptr, size_t size, AsthraMemoryZone zone, void *user);
    void (*on_free)(void *ptr, AsthraMemoryZone zone, void *user);
    void *user;
} AsthraMemoryHooks;

/* Copied; NULL: none. Other threads may finish what they are in with the hooks of before. */
ASTHRA_RT_API void asthra_memory_set_hooks(const AsthraMemoryHooks *hooks);

#endif
#endif
