/* pinned - addresses that foreign code may keep.                           [pinned] contract
 *
 * Two things. The pinned zone gives out blocks as the manual zone does, for memory that is handed
 * to foreign code for good. And any memory can be pinned for a while: blocks of the zones, stacks,
 * static data, mappings of others. A pin is a promise that the address stays good: while it lasts
 * a free or a realloc of a manual or pinned block that it touches panics, by whichever thread, also
 * if the pin begins inside the block or goes on into the next ones. So does a free or a release of
 * the stack zone, and the end of a task that leaves such a block; frees to pools, arenas and other
 * allocators are not asked.
 *
 * Pins of one address count. The widest range of them holds until the last is undone: another pin
 * with a smaller size is just counted. Pins belong to no thread or task: anybody may undo them.
 * They outlive asthra_runtime_shutdown, which says on stderr which ones there are, and a forked
 * child has them too. The pinned zone's blocks are not pinned by being allocated.
 *
 * Pinning a block while another thread frees it is a bug like using it; the runtime stays whole,
 * but which of the two comes first is not defined.
 *
 * ASTHRA_RT_LOCK_PINS also locks the pages of pinned ranges into memory (mlock), page by page until
 * the last pin on a page is undone. A child of fork has the pins, but not the locks. Pages that the
 * host has locked itself are unlocked with the last pin on them.
 *
 * Threads: any, without set-up and without a runtime. Blocks: never, but with ASTHRA_RT_LOCK_PINS
 * until the pages have been read in. errno is left as it was.
 * Strip with: ASTHRA_RT_NO_PINNED.
 */
#ifndef ASTHRA__PINNED_H
#define ASTHRA__PINNED_H

#include "zone.h"

#if ASTHRA_HAS_PINNED

/* As asthra_manual_alloc and _free, in a zone of its own. */
ASTHRA_RT_API void *asthra_pinned_alloc(size_t size);
ASTHRA_RT_API void asthra_pinned_free(void *ptr); /* NULL is allowed */

/* Pins `size` bytes from ptr on.
 *
 * Returns   true; false with the reason in asthra_last_error(), and then nothing has changed: ptr
 *           is NULL, size is 0, the range goes past the end of the address space or over memory of
 *           the zones that is in no live block, memory ran out, or the system will not lock it.
 * Owns      the pin holds until an asthra_unpin_memory of the same ptr.
 * Cost      10 to 25 ns for what is outside the zones or within a block that begins at ptr; else
 *           three to four times that, and some for each further block and 4 MiB. 32 bytes for each
 *           address, as many for a block that is pinned from elsewhere, or for a locked page.
 *           Frees of blocks beside one that was ever pinned take about 20 ns longer.
 */
ASTHRA_RT_API bool asthra_pin_memory(void *ptr, size_t size);

/* Undoes one pin. ptr is what was pinned, to the byte.
 * Returns   true; false with the reason in asthra_last_error(): ptr is not pinned. */
ASTHRA_RT_API bool asthra_unpin_memory(void *ptr);

/* How many pins ptr has, to the byte; 0: it is not pinned. */
ASTHRA_RT_API size_t asthra_pin_count(const void *ptr);

typedef struct AsthraPinInfo {
    void *address;
    size_t size, count;
} AsthraPinInfo;

/* Writes the pinned addresses, at most `room` of them, in no order, as they were at one moment. out
 * may be NULL if room is 0.
 * Returns   how many there are, which may be more than `room`.
 * Cost      nobody pins meanwhile: some ns for each. */
ASTHRA_RT_API size_t asthra_pin_list(AsthraPinInfo *out, size_t room);

#endif

#endif
