/* os_trace - backtraces and names.                                         [os] body: traces
 *
 * Names come from dladdr, bound weakly: a static program or an old C library without it links
 * quietly and reports offsets in its executable instead, where the system tells them.
 */
#include "os_internal.h"

#if ASTHRA_HAS_CORE

#include <string.h>
#include <unwind.h>

/* Backtraces. The unwinder is libgcc's. Outside glibc it is bound weakly, because Debian's for musl
 * does not link; there a backtrace is empty unless the program has the unwinder for other reasons,
 * as C++ does, or is linked with -Wl,-u,_Unwind_Backtrace. */

#ifdef __GLIBC__
#define ASTHRA__OS_UNWINDER(name) __asm__(name)
#define ASTHRA__OS_HAS_UNWINDER 1
#else
#define ASTHRA__OS_UNWINDER(name) __asm__(name) __attribute__((__weak__))
#define ASTHRA__OS_HAS_UNWINDER (&asthra__os_unwind != NULL)
#endif
#if defined(__GLIBC__) || ASTHRA__OS_HAS_EHABI
#define ASTHRA__OS_HAS_CFA 1
#else
#define ASTHRA__OS_HAS_CFA (&asthra__os_unwind_stack != NULL)
#endif
extern _Unwind_Reason_Code asthra__os_unwind(_Unwind_Trace_Fn each, void *argument)
    ASTHRA__OS_UNWINDER("_Unwind_Backtrace");

#if ASTHRA__OS_HAS_EHABI
/* The unwinder of 32-bit ARM shows registers, and cannot tell who was interrupted. */
extern int asthra__os_unwind_register(struct _Unwind_Context *frame, int file, uint32_t number,
                                      int as, void *out) ASTHRA__OS_UNWINDER("_Unwind_VRS_Get");
static uintptr_t asthra__os_unwind_core(struct _Unwind_Context *frame, uint32_t number) {
    uintptr_t value = 0;
    (void)asthra__os_unwind_register(frame, 0, number, 0, &value); /* a core one, as 32 bits */
    return value;
}
static uintptr_t asthra__os_unwind_stack(struct _Unwind_Context *frame) {
    return asthra__os_unwind_core(frame, 13);
}
static uintptr_t asthra__os_unwind_place(struct _Unwind_Context *frame, int *is_exact) {
    *is_exact = 0;
    return asthra__os_unwind_core(frame, 15);
}
#else
extern uintptr_t asthra__os_unwind_place(struct _Unwind_Context *frame, int *is_exact)
    ASTHRA__OS_UNWINDER("_Unwind_GetIPInfo");
extern uintptr_t asthra__os_unwind_stack(struct _Unwind_Context *frame)
    ASTHRA__OS_UNWINDER("_Unwind_GetCFA");
#endif

typedef struct Asthra__OsTrace {
    void **out; /* one of the two is NULL */
    Asthra__OsFrame *frames;
    size_t room, count;
    bool is_caller, is_full; /* the first frame is this file's own; there were more */
    uintptr_t last;          /* the stack pointer of the frame before */
} Asthra__OsTrace;

/* A frame without a call of its own that a fault interrupted may seem to be its own caller. */
static _Unwind_Reason_Code asthra__os_trace_frame(struct _Unwind_Context *frame, void *argument) {
    Asthra__OsTrace *trace = argument;
    int is_exact = 0;
    uintptr_t at = asthra__os_unwind_place(frame, &is_exact);
    uintptr_t stack = ASTHRA__OS_HAS_CFA ? asthra__os_unwind_stack(frame) : 0;
    trace->is_full = at != 0 && trace->count == trace->room;
    if (at == 0 || trace->is_full || (stack != 0 && stack == trace->last && trace->count > 1))
        return _URC_END_OF_STACK;
    if (trace->is_caller && trace->out != NULL)
        trace->out[trace->count] = (void *)(is_exact ? at : asthra__os_before(at));
    if (trace->is_caller && trace->frames != NULL)
        trace->frames[trace->count] = (Asthra__OsFrame){at, stack, is_exact != 0};
    trace->count += trace->is_caller;
    trace->last = stack;
    trace->is_caller = true;
    return _URC_NO_REASON;
}

ASTHRA__NOINLINE ASTHRA__FN size_t asthra__os_backtrace(void **out, size_t room) {
    Asthra__OsTrace trace = {.out = out, .room = room};
    if (ASTHRA__OS_HAS_UNWINDER) asthra__os_unwind(asthra__os_trace_frame, &trace);
    return trace.count;
}

ASTHRA__NOINLINE ASTHRA__FN size_t asthra__os_frames(Asthra__OsFrame *out, size_t room,
                                                     bool *is_all) {
    Asthra__OsTrace trace = {.frames = out, .room = room};
    if (ASTHRA__OS_HAS_UNWINDER) asthra__os_unwind(asthra__os_trace_frame, &trace);
    *is_all = !trace.is_full;
    return trace.count;
}

/* Names. */

/* What dladdr fills, in its own layout: <dlfcn.h> declares it for GNU dialects only. */
typedef struct Asthra__OsName {
    const char *object;
    void *base;
    const char *function;
    void *start;
} Asthra__OsName;
extern int asthra__os_dladdr(const void *address, Asthra__OsName *out) __asm__("dladdr")
    __attribute__((__weak__));

static bool asthra__os_is_named(const void *address, Asthra__OsName *name) {
    return !!asthra__os_dladdr && asthra__os_dladdr(address, name) != 0;
}

ASTHRA__FN bool asthra__os_is_static(const void *address) {
    Asthra__OsName name = {0};
    uintptr_t moved;
    (void)asthra__os_is_named(address, &name);
    moved = (uintptr_t)name.base;
    return asthra__os_object_of((uintptr_t)address, name.object, &moved) != NULL;
}

typedef struct Asthra__OsLine {
    char *out;
    size_t room, length;
} Asthra__OsLine;

static void asthra__os_line_text(Asthra__OsLine *line, const char *text) {
    while (*text && line->length < line->room) line->out[line->length++] = *text++;
}

static void asthra__os_line_hex(Asthra__OsLine *line, uintptr_t value) {
    char digits[2 + 2 * sizeof value + 1];
    size_t at = sizeof digits - 1;
    digits[at] = 0;
    do digits[--at] = "0123456789abcdef"[value & 15];
    while ((value >>= 4) != 0);
    digits[--at] = 'x';
    digits[--at] = '0';
    asthra__os_line_text(line, digits + at);
}

static const char *asthra__os_basename(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

ASTHRA__FN size_t asthra__os_symbol(const void *address, char *out, size_t room) {
    Asthra__OsLine line = {.out = out, .room = room};
    Asthra__OsName name = {0};
    uintptr_t at = (uintptr_t)address;
    if (asthra__os_is_named(address, &name) && name.function) {
        asthra__os_line_text(&line, name.function);
        asthra__os_line_text(&line, "+");
        asthra__os_line_hex(&line, at - ((uintptr_t)name.start & ~ASTHRA__OS_ODD));
        asthra__os_line_text(&line, " (");
        asthra__os_line_text(&line, asthra__os_basename(name.object));
    } else {
        uintptr_t moved = (uintptr_t)name.base;
        const char *object = asthra__os_object_of(at, name.object, &moved);
        asthra__os_line_hex(&line, at);
        if (!object) return line.length;
        asthra__os_line_text(&line, " (");
        asthra__os_line_text(&line, asthra__os_basename(object));
        asthra__os_line_text(&line, "+");
        asthra__os_line_hex(&line, at - moved);
    }
    asthra__os_line_text(&line, ")");
    return line.length;
}

#endif
