/* memory - the door to all zones.                                          [memory] contract
 *
 * What a zone does and when it frees stands in its own chapter. The zone of collected memory is not
 * in this build yet: asking it fails with ASTHRA_INVALID.
 *
 * Threads: any. Blocks: never.
 */
#ifndef ASTHRA__MEMORY_H
#define ASTHRA__MEMORY_H

#include "zone.h"

#if ASTHRA_HAS_MEMORY

/* A block of the zone, aligned to 16, contents not set. Owned as the zone says. size 0 is a block
 * of its own. NULL: the reason is in asthra_last_error(). */
ASTHRA_RT_API void *asthra_alloc(size_t size, AsthraMemoryZone zone);

/* The same for count * size bytes; NULL also when the product overflows. */
ASTHRA_RT_API void *asthra_alloc_array(size_t count, size_t size, AsthraMemoryZone zone);

/* Frees a block of the zone; NULL is allowed. Panics if it is none; of the stack zone only the
 * newest block of the task or thread can be freed. */
ASTHRA_RT_API void asthra_free(void *ptr, AsthraMemoryZone zone);

/* One T, or an array of them, of ASTHRA_NEW(T, MANUAL): not initialised. */
#define ASTHRA_NEW(T, Z) ((T *)asthra_alloc(sizeof(T), ASTHRA_MEMORY_ZONE_##Z))
#define ASTHRA_NEW_ARRAY(T, n, Z) ((T *)asthra_alloc_array((n), sizeof(T), ASTHRA_MEMORY_ZONE_##Z))

/* The zone of any address, mapped or not; ASTHRA_MEMORY_ZONE_NONE outside all zones, also for the
 * stacks of threads and tasks. Cost: two loads and a division, no lock. */
ASTHRA_RT_API AsthraMemoryZone asthra_memory_zone_of(const void *ptr);

/* What an address is, as far as is known. At ASTHRA_SAFETY_FULL a block of the manual or the pinned
 * zone, also a freed one that was not given out again, tells both ends of its life: the tasks (0:
 * outside tasks) and the calls on the stack, innermost first, as text; and its stamp, a number that
 * no other allocation has. At the checked level freed_at alone is told, as the place of the free,
 * and at both the kind and the size. A block of the stack zone is told, with the task, to the task
 * or thread that owns it, and what was released is SLACK there; others are shown the chunk of
 * memory that it is in as if that were a block.
 *
 * Returns   true: it lies in a block, live or freed, and out->start is the block's.
 * Owns      the texts live until the thread asks again, those of ASTHRA_SAFETY_FULL for ever.
 * Cost      inside the zones little more than zone_of, with a recorded free some microseconds;
 *           outside, the system's list of mappings is read.
 */
ASTHRA_RT_API bool asthra_memory_describe(const void *ptr, AsthraAllocationInfo *out);

/* Bytes count as asthra_manual_usable_size counts them. Exact when the zone is at rest; the peak
 * may be off by 64 KiB for each thread, of the stack zone for each task that uses it. Pages that
 * are free belong to no zone and are only in the sums of all. With ASTHRA_RT_POSIX nobody tells
 * what is in memory: all that is mapped counts as resident. */
typedef struct AsthraMemoryStatistics {
    size_t current, peak, total; /* usable bytes now, at most, ever */
    size_t count, failures;      /* allocations ever, refused */
    size_t mapped, resident;     /* bytes of address space for its blocks; of those in memory */
} AsthraMemoryStatistics;

/* Cost: the pages of the zone are looked through, and the system asked which are in memory. */
ASTHRA_RT_API AsthraMemoryStatistics asthra_memory_statistics(AsthraMemoryZone zone);
ASTHRA_RT_API AsthraMemoryStatistics asthra_memory_statistics_all(void); /* of all zones */

/* Gives free memory back to the system, what lies between live blocks too: what the calling thread
 * and ended threads hold, and what no thread holds. What came from an allocator of the
 * configuration goes back to it once no runtime with an allocator runs; no thread may ask about
 * addresses in freed blocks meanwhile. Returns the bytes given back. */
ASTHRA_RT_API size_t asthra_memory_trim(void);

#endif

#endif
