/* manual - memory that is freed by hand.                                   [manual] body
 *
 * A face of the heap. The functions are not inlined anywhere, because they look at the record of
 * the thread that calls, and because the return address tells who allocated or freed.
 */
#include "manual.h"

#include "heap_internal.h"

#if ASTHRA_HAS_MANUAL

ASTHRA_RT_API ASTHRA__NOINLINE void *asthra_manual_alloc(size_t size) {
    return asthra__heap_alloc_here(size, ASTHRA_MEMORY_ZONE_MANUAL, __builtin_return_address(0));
}

ASTHRA_RT_API ASTHRA__NOINLINE void *asthra_manual_alloc_zeroed(size_t count, size_t size) {
    return asthra__heap_alloc_zeroed(count, size, ASTHRA_MEMORY_ZONE_MANUAL,
                                     __builtin_return_address(0));
}

ASTHRA_RT_API ASTHRA__NOINLINE void *asthra_manual_alloc_aligned(size_t size, size_t alignment) {
    return asthra__heap_alloc_aligned(size, alignment, ASTHRA_MEMORY_ZONE_MANUAL,
                                      __builtin_return_address(0));
}

ASTHRA_RT_API ASTHRA__NOINLINE void *asthra_manual_realloc(void *ptr, size_t size) {
    return asthra__heap_realloc(ptr, size, ASTHRA_MEMORY_ZONE_MANUAL, __builtin_return_address(0),
                                "manual_realloc");
}

ASTHRA_RT_API ASTHRA__NOINLINE void asthra_manual_free(void *ptr) {
    asthra__heap_free_here(ptr, ASTHRA_MEMORY_ZONE_MANUAL, __builtin_return_address(0),
                           "manual_free");
}

ASTHRA_RT_API size_t asthra_manual_usable_size(const void *ptr) {
    return asthra__heap_usable_size(ptr, ASTHRA_MEMORY_ZONE_MANUAL, "manual_usable_size");
}

ASTHRA_RT_API void asthra_manual_walk(AsthraBlockVisitor visit, void *user) {
    asthra__heap_walk(ASTHRA_MEMORY_ZONE_MANUAL, visit, user);
}

#endif
