/* arena - memory taken bit by bit and freed all at once.                   [arena] contract
 *
 * An arena cuts blocks off the caller's memory, or off chunks that it asks an allocator for, one
 * behind the other. No block is freed alone: reset frees all of them, destroy the chunks as well.
 * Alone in a build (ASTHRA_RT_ONLY with ASTHRA_RT_WITH_ARENA) it compiles with -ffreestanding and
 * links with no library but memcpy, memmove, memset and memcmp, which compilers ask for.
 *
 * Threads: one at a time uses an arena, whichever it is; a task may take it across waits.
 * Blocks: never, unless the allocator of a growing one does.
 * AddressSanitizer is told which bytes are in a block; so an arena on memory that is to be used
 * otherwise again, a local array say, is ended by asthra_arena_destroy.
 * Needs: nothing.  Strip with: ASTHRA_RT_NO_ARENA.
 */
#ifndef ASTHRA__ARENA_H
#define ASTHRA__ARENA_H

#include "../core/alloc.h"

#if ASTHRA_HAS_ARENA

/* Zeroed, it refuses every allocation. It may move between calls. */
typedef struct AsthraArena {
    void *opaque[8];
} AsthraArena;

/* An arena on `size` bytes at `memory`. What precedes the first multiple of 16 in it, and what
 * follows the last, is not used; memory NULL is one of no bytes. What the arena was is forgotten.
 *
 * Owns      memory stays the caller's and outlives the arena, which keeps no records in it. */
ASTHRA_RT_API void asthra_arena_init(AsthraArena *a, void *memory, size_t size);

/* An arena that grows by `chunk` bytes at a time (0: 64 KiB), or by what a larger block needs, its
 * records of at most 32 bytes for each chunk included. The first chunk is asked for by the first
 * allocation. What the arena was is forgotten.
 *
 * `from` is copied, and what it names must outlive the arena. Of it `alloc` and `free` are called,
 * on the thread that uses the arena; free NULL: chunks are not given back. from NULL, or its alloc
 * NULL: what the runtime itself allocates with at this moment; in a build of arenas alone there is
 * none, and every allocation is refused.
 *
 * Owns      the caller ends it with asthra_arena_destroy. */
ASTHRA_RT_API void asthra_arena_init_growing(AsthraArena *a, size_t chunk,
                                             const AsthraAllocator *from);

/* Returns   a block of `size` bytes at a multiple of 16, not zeroed; of 0 bytes a block too, at an
 *           address of its own. NULL: full (ASTHRA_LIMIT), or the allocator gave no chunk or size
 *           is beyond PTRDIFF_MAX (ASTHRA_OUT_OF_MEMORY); then the arena is as it was.
 *           asthra_last_error() tells which, but where arenas are alone.
 * Owns      the arena, until the next reset or destroy.
 * Cost      that of a call and about 10 instructions (2 ns), and of memory `size` rounded up to 16
 *           bytes; when a chunk is full, also a call of the allocator. */
ASTHRA_RT_API void *asthra_arena_alloc(AsthraArena *a, size_t size);

/* Frees all blocks. Chunks are kept, and serve the next allocations in the order of their use; one
 * that a larger block does not fit into goes back then.
 *
 * Cost      a few ns, and as much for each chunk that has been used since the last reset. */
ASTHRA_RT_API void asthra_arena_reset(AsthraArena *a);

/* Frees all blocks and gives the chunks back; every allocation is refused from then on. Doing it
 * twice is allowed.
 *
 * Threads   any, when nobody uses it.             Cost  one free for each chunk. */
ASTHRA_RT_API void asthra_arena_destroy(AsthraArena *a);

#endif
#endif
