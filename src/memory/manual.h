/* manual - memory that is freed by hand.                                   [manual] contract
 *
 * An allocator for a whole process: per-thread heaps, size classes, frees from any thread without a
 * lock, large blocks from mappings of their own. It needs no set-up and no runtime: it works before
 * asthra_runtime_init, in constructors, in destructors of ending threads and after shutdown.
 *
 * Blocks are aligned to 16. A block of 0 bytes is a block of its own and can be freed. NULL means
 * that the heap cannot grow, or a bad argument; asthra_last_error() says which. At the checked
 * level (the default) a block knows its size to the byte, a free of what is not the start of a live
 * block panics "Invalid pointer in manual_free" with what the address really is, and a write past
 * the end is found when the block is freed, which takes eight bytes of each block; at
 * ASTHRA_SAFETY_NONE such frees are undefined.
 *
 * Threads: any, also for a block that another thread allocated; errno is left as it was. Blocks:
 * never. Cost: 5 to 15 ns; a block over 64 KiB about 0.1 us, over 2 MiB two system calls.
 * Strip with: ASTHRA_RT_NO_MANUAL.
 */
#ifndef ASTHRA__MANUAL_H
#define ASTHRA__MANUAL_H

#include "zone.h"

#if ASTHRA_HAS_MANUAL

/* Owns: the caller, until asthra_manual_free. The contents are not set. */
ASTHRA_RT_API void *asthra_manual_alloc(size_t size);

/* A block of count * size zero bytes; NULL also when the product overflows. */
ASTHRA_RT_API void *asthra_manual_alloc_zeroed(size_t count, size_t size);

/* alignment is a power of two, of any size; else NULL with ASTHRA_INVALID. */
ASTHRA_RT_API void *asthra_manual_alloc_aligned(size_t size, size_t alignment);

/* The block with another size, here or moved; what fits of the contents is kept, an alignment over
 * 16 is not. ptr NULL allocates. size 0 gives a block of 0 bytes, never a free alone.
 * Returns   the block, which takes the place of ptr; NULL: ptr is as it was. */
ASTHRA_RT_API void *asthra_manual_realloc(void *ptr, size_t size);

/* NULL is allowed. */
ASTHRA_RT_API void asthra_manual_free(void *ptr);

/* Bytes that may be written: at the checked level what was asked for, else what the size class
 * has. 0 of NULL. */
ASTHRA_RT_API size_t asthra_manual_usable_size(const void *ptr);

typedef bool (*AsthraBlockVisitor)(void *block, size_t size, void *user); /* false stops */

/* Calls visit for each live block, in no order. visit may free the block it is given and allocate
 * others. While other threads allocate and free, their blocks may be missed or shown.
 * Cost: the whole heap is looked through. */
ASTHRA_RT_API void asthra_manual_walk(AsthraBlockVisitor visit, void *user);

#endif

#endif
