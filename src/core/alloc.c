/* alloc - a hook, and malloc behind it.                                    [alloc] body
 *
 * A request of 0 bytes is one of 1, so that NULL always means that memory ran out. errno is left as
 * it was: running out of memory is told by the result, and calls of the runtime promise not to
 * disturb it. The hook is plain data: it changes only while nobody allocates.
 */
#include "alloc_internal.h"

#if ASTHRA_HAS_CORE

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A zero hook is malloc. */
static struct { AsthraAllocator hook; } asthra__alloc_state;

ASTHRA__FN void asthra__alloc_set_hook(const AsthraAllocator *hook) {
    static const AsthraAllocator none;
    ASTHRA__CHECK(!hook || (hook->alloc && hook->realloc && hook->free));
    asthra__alloc_state.hook = hook ? *hook : none;
}

static void *asthra__alloc_plain(size_t bytes, void *unused) {
    int saved = errno;
    void *block = malloc(bytes);
    (void)unused;
    errno = saved;
    return block;
}
static void asthra__alloc_plain_free(void *block, void *unused) {
    int saved = errno;
    (void)unused;
    free(block);
    errno = saved;
}
ASTHRA__FN AsthraAllocator asthra__alloc_source(void) {
    static const AsthraAllocator plain = {asthra__alloc_plain, NULL, asthra__alloc_plain_free,
                                          NULL};
    return asthra__alloc_state.hook.alloc ? asthra__alloc_state.hook : plain;
}

ASTHRA__FN void *asthra__alloc(size_t bytes) {
    const AsthraAllocator *hook = &asthra__alloc_state.hook;
    int saved = errno;
    if (!bytes) bytes = 1;
    void *block = hook->alloc ? hook->alloc(bytes, hook->user) : malloc(bytes);
    errno = saved;
    return block;
}

ASTHRA__FN void *asthra__alloc_zeroed(size_t count, size_t bytes) {
    size_t all;
    if (__builtin_mul_overflow(count, bytes, &all)) return NULL;
    if (!asthra__alloc_state.hook.alloc) {
        int saved = errno;
        void *fresh = calloc(1, all ? all : 1); /* fresh pages are zero already, and it knows */
        errno = saved;
        return fresh;
    }
    void *block = asthra__alloc(all);
    return block ? memset(block, 0, all) : NULL;
}

ASTHRA__FN void *asthra__realloc(void *block, size_t bytes) {
    const AsthraAllocator *hook = &asthra__alloc_state.hook;
    if (!block) return asthra__alloc(bytes);
    int saved = errno;
    if (!bytes) bytes = 1;
    void *moved = hook->alloc ? hook->realloc(block, bytes, hook->user) : realloc(block, bytes);
    errno = saved;
    return moved;
}

ASTHRA__FN void asthra__free(void *block) {
    const AsthraAllocator *hook = &asthra__alloc_state.hook;
    if (!block) return;
    int saved = errno;
    if (hook->alloc)
        hook->free(block, hook->user);
    else
        free(block);
    errno = saved;
}

ASTHRA__FN void *asthra__alloc_or_die(void *block, size_t bytes) {
    void *moved = asthra__realloc(block, bytes);
    if (ASTHRA__LIKELY(moved != NULL)) return moved;
    asthra_panic_at(NULL,
                    "Out of memory: the runtime asked for %zu bytes and got none; "
                    "raise the memory limit of the process",
                    bytes);
}

ASTHRA__FN char *asthra__alloc_text(const char *text) {
    if (!text) return NULL;
    size_t bytes = strlen(text) + 1;
    char *copy = asthra__alloc(bytes);
    return copy ? memcpy(copy, text, bytes) : NULL;
}

#endif
