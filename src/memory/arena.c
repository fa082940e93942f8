/* arena - memory taken bit by bit and freed all at once.                   [arena] body
 *
 * `next` and `end` bound what is left of the memory in use; both are multiples of 16, so an
 * allocation rounds its size up, compares and adds. The last byte of a block lies at offset
 * (size - 1) | 15 from its start. That is SIZE_MAX for 0 and for sizes that rounding up would
 * overflow, and SIZE_MAX never fits: one comparison sends all that is unusual the slow way.
 *
 * A growing arena has two lists of chunks: `used`, the newest first, and `spare`, what a reset
 * left, in the order of its use, so that a program that does the same after each reset finds the
 * chunks that it needs where it needs them and asks the allocator for nothing.
 * A chunk has at least the `chunk` bytes of its arena, therefore an ordinary request always fits
 * into the first spare one. A larger request gives back those that it does not fit into, on its way
 * to one that does: each is given back once, however requests and spares are mixed, and an arena
 * never holds more than it needed before the last reset and what it took since.
 *
 * When a chunk has less room left than the one in use, as one made for a large block has, next and
 * end stay where they are: no room is lost to large blocks.
 *
 * The file needs no other: a build of arenas alone has neither errors to set nor an allocator.
 */
#include "arena.h"

#include "../core/alloc_internal.h"
#include "../core/result_internal.h"
#include "../platform/compiler_internal.h"

#if ASTHRA_HAS_ARENA

enum { ASTHRA__ARENA_ALIGN = 16, ASTHRA__ARENA_CHUNK = 65536 };

/* The start of what an allocator gave. It, and what aligning costs, fits into two units. */
typedef struct __attribute__((__may_alias__)) Asthra__ArenaChunk {
    struct Asthra__ArenaChunk *next;
    size_t bytes; /* all of it, as asked for */
} Asthra__ArenaChunk;

enum { ASTHRA__ARENA_HEAD = 2 * ASTHRA__ARENA_ALIGN };
_Static_assert(sizeof(Asthra__ArenaChunk) + ASTHRA__ARENA_ALIGN - 1 < ASTHRA__ARENA_HEAD,
               "the head of a chunk and an address that is not aligned fit");

/* What AsthraArena keeps opaque. Without `alloc` it does not grow. */
typedef struct __attribute__((__may_alias__)) Asthra__Arena {
    char *next, *end;
    Asthra__ArenaChunk *used, *spare;
    union {
        size_t chunk; /* bytes; of a growing arena */
        char *start;  /* of the caller's memory; NULL: none */
    } of;
    void *(*alloc)(size_t size, void *user);
    void (*free)(void *block, void *user);
    void *user;
} Asthra__Arena;
_Static_assert(sizeof(Asthra__Arena) == sizeof(AsthraArena), "it overlays what users see");

/* ---- what AddressSanitizer wants to know ---- */

#if ASTHRA__ASAN
void __asan_poison_memory_region(void const volatile *addr, size_t size);
void __asan_unpoison_memory_region(void const volatile *addr, size_t size);
static void asthra__arena_hide(const void *start, size_t bytes) {
    __asan_poison_memory_region(start, bytes);
}
static void asthra__arena_show(const void *start, size_t bytes) {
    __asan_unpoison_memory_region(start, bytes);
}
#else
static inline void asthra__arena_hide(const void *start, size_t bytes) {
    (void)start, (void)bytes;
}
static inline void asthra__arena_show(const void *start, size_t bytes) {
    (void)start, (void)bytes;
}
#endif

/* ---- what the core gives, where it is there ---- */

#if ASTHRA_HAS_CORE
static AsthraAllocator asthra__arena_source(void) {
    return asthra__alloc_source();
}
ASTHRA__COLD static void asthra__arena_failed(const Asthra__Arena *a, size_t size) {
    if (a->alloc)
        asthra__error_set(ASTHRA_OUT_OF_MEMORY,
                          "asthra_arena_alloc: no memory for a chunk that holds %zu bytes", size);
    else
        asthra__error_set(ASTHRA_LIMIT, "asthra_arena_alloc: %zu bytes asked for, %zu of %zu left",
                          size, (size_t)(a->end - a->next), (size_t)(a->end - a->of.start));
}
#else
static inline AsthraAllocator asthra__arena_source(void) {
    AsthraAllocator none = {NULL, NULL, NULL, NULL};
    return none;
}
static inline void asthra__arena_failed(const Asthra__Arena *a, size_t size) {
    (void)a, (void)size;
}
#endif

/* ---- helpers ---- */

static inline Asthra__Arena *asthra__arena(AsthraArena *a) {
    return (Asthra__Arena *)(void *)a;
}

/* Bytes from an address to the next multiple of 16. */
static size_t asthra__arena_skip(const void *address) {
    return -(size_t)(uintptr_t)address & (ASTHRA__ARENA_ALIGN - 1);
}

static char *asthra__arena_start(Asthra__ArenaChunk *c) {
    return (char *)(c + 1) + asthra__arena_skip(c + 1);
}
static size_t asthra__arena_room(Asthra__ArenaChunk *c) {
    size_t head = (size_t)(asthra__arena_start(c) - (char *)c);
    return (c->bytes - head) / ASTHRA__ARENA_ALIGN * ASTHRA__ARENA_ALIGN;
}

static void asthra__arena_give_back(const Asthra__Arena *a, Asthra__ArenaChunk *c) {
    asthra__arena_show(asthra__arena_start(c), asthra__arena_room(c));
    if (a->free) a->free(c, a->user);
}

/* A chunk with room for `need`, in no list: a spare one or a new one. NULL: no memory. */
static Asthra__ArenaChunk *asthra__arena_chunk(Asthra__Arena *a, size_t need) {
    size_t bytes = need + ASTHRA__ARENA_HEAD;
    Asthra__ArenaChunk *c;
    while ((c = a->spare) != NULL) {
        a->spare = c->next;
        if (asthra__arena_room(c) >= need) return c;
        asthra__arena_give_back(a, c);
    }
    if (bytes < a->of.chunk) bytes = a->of.chunk;
    c = a->alloc(bytes, a->user);
    if (!c) return NULL;
    c->bytes = bytes;
    asthra__arena_hide(asthra__arena_start(c), asthra__arena_room(c));
    return c;
}

/* A block that does not fit into what is left, or of 0 bytes. */
ASTHRA__NOINLINE static void *asthra__arena_slow(Asthra__Arena *a, size_t size) {
    size_t left = (size_t)(a->end - a->next), need = ASTHRA__ARENA_ALIGN;
    char *block = a->next;
    if (size == 0 && left != 0) {
        a->next += need;
        return block;
    }
    if (size != 0) need = ((size - 1) | (ASTHRA__ARENA_ALIGN - 1)) + 1;
    bool may_grow = a->alloc && size <= PTRDIFF_MAX - 2 * ASTHRA__ARENA_HEAD;
    Asthra__ArenaChunk *c = may_grow ? asthra__arena_chunk(a, need) : NULL;
    if (!c) {
        asthra__arena_failed(a, size);
        return NULL;
    }
    block = asthra__arena_start(c);
    size_t room = asthra__arena_room(c);
    c->next = a->used;
    a->used = c;
    if (room - need >= left) {
        a->next = block + need;
        a->end = block + room;
    }
    asthra__arena_show(block, size);
    return block;
}

/* ---- the contract ---- */

ASTHRA_RT_API void asthra_arena_init(AsthraArena *arena, void *memory, size_t size) {
    Asthra__Arena *a = asthra__arena(arena);
    size_t skip = asthra__arena_skip(memory);
    *a = (Asthra__Arena){0};
    if (!memory || size < skip) return;
    a->of.start = a->next = (char *)memory + skip;
    a->end = a->next + (size - skip) / ASTHRA__ARENA_ALIGN * ASTHRA__ARENA_ALIGN;
    asthra__arena_hide(a->next, (size_t)(a->end - a->next));
}

ASTHRA_RT_API void asthra_arena_init_growing(AsthraArena *arena, size_t chunk,
                                             const AsthraAllocator *from) {
    Asthra__Arena *a = asthra__arena(arena);
    AsthraAllocator source = from && from->alloc ? *from : asthra__arena_source();
    *a = (Asthra__Arena){0};
    if (!source.alloc) return;
    a->of.chunk = chunk ? chunk : ASTHRA__ARENA_CHUNK;
    a->alloc = source.alloc;
    a->free = source.free;
    a->user = source.user;
}

ASTHRA_RT_API void *asthra_arena_alloc(AsthraArena *arena, size_t size) {
    Asthra__Arena *a = asthra__arena(arena);
    size_t last = (size - 1) | (ASTHRA__ARENA_ALIGN - 1);
    char *block = a->next;
    if (ASTHRA__UNLIKELY(last >= (size_t)(a->end - block))) return asthra__arena_slow(a, size);
    a->next = block + last + 1;
    asthra__arena_show(block, size);
    return block;
}

ASTHRA_RT_API void asthra_arena_reset(AsthraArena *arena) {
    Asthra__Arena *a = asthra__arena(arena);
    Asthra__ArenaChunk *c;
    if (!a->alloc) {
        a->next = a->of.start;
        asthra__arena_hide(a->next, (size_t)(a->end - a->next));
        return;
    }
    while ((c = a->used) != NULL) {
        a->used = c->next;
        c->next = a->spare;
        a->spare = c;
        asthra__arena_hide(asthra__arena_start(c), asthra__arena_room(c));
    }
    a->next = a->end = NULL;
}

ASTHRA_RT_API void asthra_arena_destroy(AsthraArena *arena) {
    Asthra__Arena *a = asthra__arena(arena);
    Asthra__ArenaChunk *c;
    asthra_arena_reset(arena);
    asthra__arena_show(a->next, (size_t)(a->end - a->next));
    while ((c = a->spare) != NULL) {
        a->spare = c->next;
        asthra__arena_give_back(a, c);
    }
    *a = (Asthra__Arena){0};
}

#endif
