/* asthra_malloc - the manual zone as a program's malloc.
 *
 *     cc -O2 -fPIC -shared -ftls-model=initial-exec -o asthra_malloc.so asthra_malloc.c -pthread
 *     LD_PRELOAD=./asthra_malloc.so sort words.txt
 */
#define ASTHRA_RT_ONLY
#define ASTHRA_RT_WITH_MANUAL
#define ASTHRA_RT_STATIC
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>

static void *or_errno(void *block) {
    if (block == NULL) errno = ENOMEM;
    return block;
}
void *malloc(size_t size) {
    return or_errno(asthra_manual_alloc(size));
}
void *calloc(size_t count, size_t size) {
    return or_errno(asthra_manual_alloc_zeroed(count, size));
}
void free(void *block) {
    asthra_manual_free(block);
}
void *realloc(void *block, size_t size) {
    if (block == NULL || size > 0) return or_errno(asthra_manual_realloc(block, size));
    asthra_manual_free(block); /* as the C library has it */
    return NULL;
}
void *aligned_alloc(size_t alignment, size_t size) {
    return or_errno(asthra_manual_alloc_aligned(size, alignment));
}
void *memalign(size_t alignment, size_t size) {
    return aligned_alloc(alignment, size);
}
int posix_memalign(void **out, size_t alignment, size_t size) {
    if (alignment % sizeof(void *) != 0 || (alignment & (alignment - 1)) != 0) return EINVAL;
    void *block = asthra_manual_alloc_aligned(size, alignment);
    if (block == NULL) return ENOMEM;
    *out = block;
    return 0;
}
size_t malloc_usable_size(void *block) {
    return asthra_manual_usable_size(block);
}
