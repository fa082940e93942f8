/* alloc - memory for the runtime's own records.                            [alloc] internal
 *
 * Blocks are aligned as malloc aligns them (16 bytes on 64-bit systems). One hook takes all of it
 * elsewhere: a caller's allocator, or later the manual zone. The C library's malloc serves until
 * then.
 */
#ifndef ASTHRA__ALLOC_INTERNAL_H
#define ASTHRA__ALLOC_INTERNAL_H

#include "alloc.h"
#include "panic_internal.h"

#if ASTHRA_HAS_CORE

ASTHRA__FN void *asthra__alloc(size_t bytes);                      /* NULL: out of memory */
ASTHRA__FN void *asthra__alloc_zeroed(size_t count, size_t bytes); /* NULL on overflow too */
ASTHRA__FN void *asthra__realloc(void *block, size_t bytes);       /* NULL: block is untouched */
ASTHRA__FN void asthra__free(void *block);                         /* NULL is allowed */
ASTHRA__FN void *asthra__alloc_or_die(void *block, size_t bytes);  /* realloc that panics */
ASTHRA__FN char *asthra__alloc_text(const char *text); /* a copy; NULL of NULL, or out of memory */

/* Copied; NULL: malloc. Called while the runtime is at rest and holds no block, because a block
 * goes back to the hook of that moment. */
ASTHRA__FN void asthra__alloc_set_hook(const AsthraAllocator *hook);

/* The hook of this moment, or malloc, without a realloc: for who holds blocks when it changes. */
ASTHRA__FN AsthraAllocator asthra__alloc_source(void);

#endif
#endif
