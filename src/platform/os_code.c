/* os_code - which addresses may be executed.                               [os] body: code
 *
 * Loaded objects are asked first, through the loader's dl_iterate_phdr, which costs some ten
 * nanoseconds for each object before the right one. It is bound weakly, like dladdr in os_trace.c:
 * a static program that uses it for nothing else does without. What lies in no object, or in a part
 * of one that was not loaded to be executed (and may have been made so since), the system's own
 * piece is asked about: code that was written at run time, the kernel's own page.
 */
#include "os_internal.h"

#if ASTHRA_HAS_CORE

/* What the loader shows, in its own layout: <link.h> declares it for GNU dialects only. */
typedef struct Asthra__OsSegment {
    uint32_t type;
#if UINTPTR_MAX > UINT32_MAX
    uint32_t flags;
#endif
    uintptr_t offset, address, physical, file_bytes, bytes;
#if UINTPTR_MAX == UINT32_MAX
    uint32_t flags;
#endif
    uintptr_t align;
} Asthra__OsSegment;
_Static_assert(sizeof(Asthra__OsSegment) == (sizeof(void *) == 8 ? 56 : 32), "an ELF header's row");

typedef struct Asthra__OsObject { /* the part that all C libraries have */
    uintptr_t moved;
    const char *name;
    const Asthra__OsSegment *segments;
    uint16_t count;
} Asthra__OsObject;

enum { ASTHRA__OS_LOADED = 1, ASTHRA__OS_EXECUTED = 1 }; /* PT_LOAD, PF_X */

extern int asthra__os_each_object(int (*look)(Asthra__OsObject *object, size_t bytes, void *at),
                                  void *at) __asm__("dl_iterate_phdr") __attribute__((__weak__));

typedef struct Asthra__OsCode {
    uintptr_t at;
    bool is_in_object, is_executable;
} Asthra__OsCode;

/* Not 0: enough seen. */
static int asthra__os_look_for_code(Asthra__OsObject *object, size_t bytes, void *argument) {
    Asthra__OsCode *code = argument;
    (void)bytes;
    for (unsigned i = 0; i < object->count && !code->is_in_object; i++) {
        const Asthra__OsSegment *s = &object->segments[i];
        uintptr_t start = object->moved + s->address;
        if (s->type != ASTHRA__OS_LOADED || code->at - start >= s->bytes) continue;
        code->is_in_object = true;
        code->is_executable = (s->flags & ASTHRA__OS_EXECUTED) != 0;
    }
    return code->is_in_object;
}

ASTHRA__FN bool asthra__os_is_executable(const void *address) {
    Asthra__OsCode code = {(uintptr_t)address & ~ASTHRA__OS_ODD, false, false};
    if (code.at == 0) return false;
    if (!!asthra__os_each_object) asthra__os_each_object(asthra__os_look_for_code, &code);
    return code.is_executable || asthra__os_is_code((const void *)code.at, code.is_in_object);
}

#endif
