/* alloc - an allocator that a caller brings.                               [alloc] contract */
#ifndef ASTHRA__ALLOC_H
#define ASTHRA__ALLOC_H

#include "../platform/compiler.h"

#if ASTHRA_HAS_CORE || ASTHRA_HAS_ARENA

/* Gives blocks aligned as malloc's are (to alignof(max_align_t): 16, and 8 on 32-bit ARM), or NULL
 * when memory ran out. It may be called from any thread that uses what was made with it; `block` is
 * never NULL and sizes are never 0. It must not call the runtime, and must work until the last
 * block that it gave has been given back. */
typedef struct AsthraAllocator {
    void *(*alloc)(size_t size, void *user);
    void *(*realloc)(void *block, size_t size, void *user);
    void (*free)(void *block, void *user);
    void *user;
} AsthraAllocator;

#endif
#endif
