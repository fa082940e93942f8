/* alloc - memory for the runtime's own records.                            [alloc] internal
 *
 * Blocks are aligned as malloc aligns them. One hook takes all that is fresh elsewhere: the
 * allocator of the configuration. The C library's malloc serves until then, and afterwards. A block
 * is freed and made larger where it came from.
 */
#ifndef ASTHRA__ALLOC_INTERNAL_H
#define ASTHRA__ALLOC_INTERNAL_H

#include "alloc.h"
#include "panic_internal.h"
#include "sync_internal.h"

#if ASTHRA_HAS_CORE

ASTHRA__FN void *asthra__alloc(size_t bytes);                      /* NULL: out of memory */
ASTHRA__FN void *asthra__alloc_zeroed(size_t count, size_t bytes); /* NULL on overflow too */
ASTHRA__FN void *asthra__realloc(void *block, size_t bytes);       /* NULL: block is untouched */
ASTHRA__FN void asthra__free(void *block);                         /* NULL is allowed */
ASTHRA__FN void *asthra__alloc_or_die(void *block, size_t bytes);  /* realloc that panics */
ASTHRA__FN char *asthra__alloc_text(const char *text); /* a copy; NULL of NULL, or out of memory */

/* For blocks from now on; copied; NULL: malloc. Any thread may be allocating meanwhile. false: the
 * allocator gave no memory for the copy, and nothing has changed. */
ASTHRA__FN bool asthra__alloc_set_hook(const AsthraAllocator *hook);
ASTHRA__FN bool asthra__alloc_is_hooked(void);

/* The functions above as an allocator, without a realloc. */
ASTHRA__FN AsthraAllocator asthra__alloc_source(void);

#endif
#endif
