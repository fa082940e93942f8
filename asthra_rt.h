/* asthra_rt - a language runtime in one C header: tasks on all cores, channels, select.
 *
 * SPDX-License-Identifier: MIT-0 (the text is on the back page)
 *
 * Use
 *     #define ASTHRA_RT_IMPLEMENTATION    in exactly one .c file, before the include
 *     #include "asthra_rt.h"              wherever it is needed
 *     cc -std=c11 program.c -pthread      stb_ds.h must be findable, or be folded in (make dist)
 *
 * A whole program
 *
 *     #define ASTHRA_RT_IMPLEMENTATION
 *     #include "asthra_rt.h"
 *     #include <stdio.h>
 *
 *     static void *square(void *channel) {
 *         int64_t n;
 *         while (asthra_channel_next(channel, &n, sizeof n)) printf("%d\n", (int)(n * n));
 *         return NULL;
 *     }
 *
 *     int main(void) {
 *         AsthraChannel *numbers = asthra_channel_create(sizeof(int64_t), 8, "numbers");
 *         AsthraTaskHandle squares = asthra_spawn(square, numbers);
 *         for (int64_t n = 1; n <= 10; n++) asthra_channel_send(numbers, &n);
 *         asthra_channel_close(numbers);
 *         asthra_await(squares);
 *         asthra_channel_destroy(numbers);
 *     }
 *
 * Map (search for the words in brackets; each chapter has a contract in Part I, a body in Part II)
 *     [config] [compiler]                  what is in the build, and the words of the contracts
 *     [result] [panic] [trace] [type]      results, panics, debug lines, type descriptions
 *     [alloc] [zone]                       allocators, the names of the memory zones
 *     [pinned]                             addresses that foreign code may keep
 *     [stack]                              memory that goes with its task, thread or scope
 *     [arena]                              memory taken bit by bit and freed at once
 *     [pool]                               objects of one size, blocks that may move
 *     [task] [timer]                       spawn, await, cancel, sleep
 *     [channel] [select] [mutex]           what tasks share
 *     [typed]                              tasks and channels that know their types
 *     [fd]                                 waiting for pipes and sockets
 *     [module] [runtime]                   what is initialised once; configuration, start, stop
 *     Part II only: [sys] [os] [swap] [text] [sync] [thread] [table] [deque] [region] [fiber]
 *     [scheduler]
 *
 * Switches (define before the include, the same in every file that includes it)
 *     ASTHRA_RT_IMPLEMENTATION     this file holds the bodies
 *     ASTHRA_RT_STATIC             everything is static to this file (needs IMPLEMENTATION)
 *     ASTHRA_RT_API                linkage word of public functions, e.g. a visibility attribute
 *     ASTHRA_RT_NO_TASK            no tasks; goes with NO_CHANNEL, NO_SELECT, NO_MUTEX, NO_FD
 *     ASTHRA_RT_NO_CHANNEL         no channels; goes with NO_SELECT
 *     ASTHRA_RT_NO_SELECT          no select
 *     ASTHRA_RT_NO_MUTEX           no mutex
 *     ASTHRA_RT_NO_FD              no waiting for descriptors
 *     ASTHRA_RT_NO_TYPE            no type descriptions
 *     ASTHRA_RT_NO_MODULE          no modules
 *     ASTHRA_RT_NO_MANUAL, _NO_PINNED, _NO_STACK, _NO_ARENA, _NO_POOL   without that memory
 *     ASTHRA_RT_ONLY               nothing but what ASTHRA_RT_WITH_<PART> names, and the core that
 *                                  it stands on; WITH_ARENA alone needs no core, system or libc
 *     ASTHRA_RT_NO_THREADS         everything on the calling thread, no pthread symbol
 *     ASTHRA_RT_NO_ASM             ucontext instead of hand-written assembly
 *     ASTHRA_RT_NO_STDIO           no stdio: formatted messages without floating-point numbers
 *     ASTHRA_RT_NO_CALLER          call sites are not recorded
 *     ASTHRA_RT_NO_AUTO_INIT       use before asthra_runtime_init is an error, not a start
 *     ASTHRA_RT_LOCK_PINS          pinned ranges are locked into memory (mlock); needs pinned
 *     ASTHRA_RT_DEBUG              1: asserts; 2: asserts that walk structures
 *     ASTHRA_RT_STB_DS_H           where stb_ds.h is, in quotes or angle brackets
 *
 * House rules, said once
 *     Errors     A result whose status is not ASTHRA_OK, or NULL, false or a zero handle with the
 *                reason in asthra_last_error(). A bug of the caller is a panic.
 *     Ownership  Names and results are borrowed unless a comment says copied or owned.
 *     Threads    Any thread may call anything without registration, unless a comment says else.
 *     Blocking   A task that waits is parked and its thread goes on with others; a plain thread
 *                blocks. Every call that can wait returns ASTHRA_CANCELLED once its task is
 *                cancelled, and leaves errno as it was.
 *     Time       int64_t nanoseconds, relative; 0 polls, < 0 (ASTHRA_FOREVER) waits for ever.
 */
#ifndef ASTHRA_RT_H
#define ASTHRA_RT_H

/* ================================ Part I: contracts ================================ */

/* ---- [config] contract ------------------------------------------------ platform/config.h ---- */
/* config - which parts are in the build.                                   [config] contract
 *
 * A user speaks in presence: ASTHRA_RT_NO_CHANNEL takes one part out of a full build;
 * ASTHRA_RT_ONLY with ASTHRA_RT_WITH_TASK puts one part into an empty build. Everything below this
 * file speaks in values: ASTHRA_HAS_CHANNEL is 0 or 1, so that -Wundef finds every misspelling.
 * What a part needs is one row at the end; nothing is ever switched off silently.
 */

#define ASTHRA_RT_VERSION "0.1.0"
#define ASTHRA_RT_VERSION_NUMBER 100 /* major * 10000 + minor * 100 + patch */

/* Parts. */
#if defined(ASTHRA_RT_NO_TASK) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_TASK))
#define ASTHRA_HAS_TASK 0
#else
#define ASTHRA_HAS_TASK 1
#endif
#if defined(ASTHRA_RT_NO_CHANNEL) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_CHANNEL))
#define ASTHRA_HAS_CHANNEL 0
#else
#define ASTHRA_HAS_CHANNEL 1
#endif
#if defined(ASTHRA_RT_NO_SELECT) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_SELECT))
#define ASTHRA_HAS_SELECT 0
#else
#define ASTHRA_HAS_SELECT 1
#endif
#if defined(ASTHRA_RT_NO_MUTEX) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_MUTEX))
#define ASTHRA_HAS_MUTEX 0
#else
#define ASTHRA_HAS_MUTEX 1
#endif
#if defined(ASTHRA_RT_NO_FD) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_FD))
#define ASTHRA_HAS_FD 0
#else
#define ASTHRA_HAS_FD 1
#endif
#if defined(ASTHRA_RT_NO_TYPE) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_TYPE))
#define ASTHRA_HAS_TYPE 0
#else
#define ASTHRA_HAS_TYPE 1
#endif
#if defined(ASTHRA_RT_NO_MANUAL) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_MANUAL))
#define ASTHRA_HAS_MANUAL 0
#else
#define ASTHRA_HAS_MANUAL 1
#endif
#if defined(ASTHRA_RT_NO_PINNED) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_PINNED))
#define ASTHRA_HAS_PINNED 0
#else
#define ASTHRA_HAS_PINNED 1
#endif
#if defined(ASTHRA_RT_NO_STACK) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_STACK))
#define ASTHRA_HAS_STACK 0
#else
#define ASTHRA_HAS_STACK 1
#endif
#if defined(ASTHRA_RT_NO_ARENA) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_ARENA))
#define ASTHRA_HAS_ARENA 0
#else
#define ASTHRA_HAS_ARENA 1
#endif
#if defined(ASTHRA_RT_NO_POOL) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_POOL))
#define ASTHRA_HAS_POOL 0
#else
#define ASTHRA_HAS_POOL 1
#endif
#if defined(ASTHRA_RT_NO_MODULE) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_MODULE))
#define ASTHRA_HAS_MODULE 0
#else
#define ASTHRA_HAS_MODULE 1
#endif

/* Traits: how the parts are built. */
#ifdef ASTHRA_RT_NO_THREADS
#define ASTHRA_HAS_THREADS 0
#else
#define ASTHRA_HAS_THREADS 1
#endif
#ifdef ASTHRA_RT_NO_ASM
#define ASTHRA_HAS_ASM 0
#else
#define ASTHRA_HAS_ASM 1
#endif
#ifdef ASTHRA_RT_NO_STDIO
#define ASTHRA_HAS_STDIO 0
#else
#define ASTHRA_HAS_STDIO 1
#endif
#ifdef ASTHRA_RT_NO_CALLER
#define ASTHRA_HAS_CALLER 0
#else
#define ASTHRA_HAS_CALLER 1
#endif
#ifdef ASTHRA_RT_NO_AUTO_INIT
#define ASTHRA_HAS_AUTO_INIT 0
#else
#define ASTHRA_HAS_AUTO_INIT 1
#endif
#ifdef ASTHRA_RT_LOCK_PINS
#define ASTHRA_HAS_LOCKED_PINS 1
#else
#define ASTHRA_HAS_LOCKED_PINS 0
#endif

/* Parts that follow from others; nobody names them. Reports of the scheduler count in tables. */
#define ASTHRA_HAS_TABLE ASTHRA_HAS_TASK
/* Macros: what is not used leaves nothing. */
#define ASTHRA_HAS_TYPED ASTHRA_HAS_TASK
/* The blocks of all zones come from one heap, and its users come in by one door. */
#define ASTHRA_HAS_MEMORY (ASTHRA_HAS_MANUAL || ASTHRA_HAS_PINNED || ASTHRA_HAS_STACK)

/* Results, panics, threads, the system: below all parts but arenas, which alone want nothing but a
 * compiler. The list names every other part. */
#if defined(ASTHRA_RT_ONLY) && ASTHRA_HAS_ARENA &&                                      \
    !(ASTHRA_HAS_TASK || ASTHRA_HAS_CHANNEL || ASTHRA_HAS_SELECT || ASTHRA_HAS_MUTEX || \
      ASTHRA_HAS_FD || ASTHRA_HAS_TYPE || ASTHRA_HAS_MANUAL || ASTHRA_HAS_PINNED ||     \
      ASTHRA_HAS_STACK || ASTHRA_HAS_POOL || ASTHRA_HAS_MODULE)
#define ASTHRA_HAS_CORE 0
#else
#define ASTHRA_HAS_CORE 1
#endif

/* Needs, a row each. */
#if ASTHRA_HAS_CHANNEL && !ASTHRA_HAS_TASK
#error "channel needs task: add ASTHRA_RT_WITH_TASK, or take channel out with ASTHRA_RT_NO_CHANNEL"
#endif
#if ASTHRA_HAS_SELECT && !ASTHRA_HAS_CHANNEL
#error "select needs channel: add ASTHRA_RT_WITH_CHANNEL, or define ASTHRA_RT_NO_SELECT"
#endif
#if ASTHRA_HAS_MUTEX && !ASTHRA_HAS_TASK
#error "mutex needs task: add ASTHRA_RT_WITH_TASK, or take mutex out with ASTHRA_RT_NO_MUTEX"
#endif
#if ASTHRA_HAS_FD && !ASTHRA_HAS_TASK
#error "fd needs task: add ASTHRA_RT_WITH_TASK, or take fd out with ASTHRA_RT_NO_FD"
#endif
#if defined(ASTHRA_RT_LOCK_PINS) && !ASTHRA_HAS_PINNED
#error "ASTHRA_RT_LOCK_PINS needs pinned: add ASTHRA_RT_WITH_PINNED, or take LOCK_PINS back"
#endif
#if defined(ASTHRA_RT_STATIC) && !defined(ASTHRA_RT_IMPLEMENTATION)
#error "ASTHRA_RT_STATIC needs ASTHRA_RT_IMPLEMENTATION at the first include of asthra_rt.h"
#endif
#if defined(ASTHRA_RT_IMPLEMENTATION) && defined(__cplusplus)
#error "the body of asthra_rt.h is C11: define ASTHRA_RT_IMPLEMENTATION in a .c file"
#endif

#if defined(ASTHRA_RT_IMPLEMENTATION) && ASTHRA_HAS_CORE
#if defined(__STRICT_ANSI__) && defined(_FEATURES_H) && !defined(_GNU_SOURCE)
#if defined(_BITS_PTHREADTYPES_COMMON_H) || defined(_PTHREAD_H) || defined(_SIGNAL_H) || \
    defined(_UNISTD_H) || defined(_FCNTL_H) || defined(_SYS_MMAN_H) ||                   \
    (defined(_TIME_H) && !defined(CLOCK_MONOTONIC))
#error "strict -std=c11: include asthra_rt.h first, or define _GNU_SOURCE before, or use gnu11"
#endif
#define _GNU_SOURCE
#undef _FEATURES_H /* only plain headers were read so far: the rest can be had whole */
#include <features.h>
#endif
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* the bodies need it; Part I is the same without */
#endif
#endif

/* ---- [compiler] contract -------------------------------------------- platform/compiler.h ---- */
/* compiler - the words that every contract is written in.                  [compiler] contract
 *
 * Attributes, call-site capture and the linkage word of public functions. Compilers other than
 * gcc and clang get the plain form of each.
 */

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) || defined(__clang__)
#define ASTHRA_PRINTF(f, a) __attribute__((__format__(__printf__, f, a)))
#define ASTHRA_NORETURN __attribute__((__noreturn__))
#define ASTHRA_UNUSED __attribute__((__unused__))
#define ASTHRA_MUST_USE __attribute__((__warn_unused_result__))
#define ASTHRA__CLEANUP(f) __attribute__((__cleanup__(f), __unused__))
#define ASTHRA__ALIGNOF(T) __alignof__(T)
#else
#define ASTHRA_PRINTF(f, a)
#define ASTHRA_NORETURN
#define ASTHRA_UNUSED
#define ASTHRA_MUST_USE
#define ASTHRA__CLEANUP(f)
#define ASTHRA__ALIGNOF(T) 0
#endif

/* Linkage of a public function: extern, or static where one file holds everything. A host that
 * builds a shared library may define its own, for instance with a visibility attribute. */
#ifndef ASTHRA_RT_API
#ifdef ASTHRA_RT_STATIC
#define ASTHRA_RT_API ASTHRA_UNUSED static
#else
#define ASTHRA_RT_API extern
#endif
#endif

/* Linkage of the word that the inline safepoint reads, in its contract and in its body. */
#ifdef ASTHRA_RT_STATIC
#define ASTHRA__WORD ASTHRA_UNUSED static
#define ASTHRA__WORD_BODY static
#else
#define ASTHRA__WORD extern
#define ASTHRA__WORD_BODY
#endif

#define ASTHRA__INLINE ASTHRA_UNUSED static inline
#define ASTHRA__CONST ASTHRA_UNUSED static const
#define ASTHRA__STR2(x) #x
#define ASTHRA__STR(x) ASTHRA__STR2(x)
#define ASTHRA__CAT2(a, b) a##b
#define ASTHRA__CAT(a, b) ASTHRA__CAT2(a, b)

/* ASTHRA_HERE is "file:line" of the place that writes it, as #line says it. */
#if ASTHRA_HAS_CALLER
#define ASTHRA_HERE __FILE__ ":" ASTHRA__STR(__LINE__)
#define ASTHRA__AT(what) what " at " ASTHRA_HERE
#else
#define ASTHRA_HERE ((const char *)0)
#define ASTHRA__AT(what) what
#endif

/* A function as a data pointer, and back. */
#define ASTHRA_FN(f) ((void *)(uintptr_t)(f))
#define ASTHRA_FN_AS(type, pointer) ((type)(uintptr_t)(pointer))

#ifdef __cplusplus
extern "C" {
#endif

/* ---- [result] contract ---------------------------------------------------- core/result.h ---- */
/* result - what a call that can fail returns.                              [result] contract
 *
 * What the world can cause is a result; what only a bug can cause is a panic. A result is 16 bytes:
 * a status, 0 being OK, so that `!r.status` reads well, and a value. Codes, their names and their
 * sentences come from one table, ASTHRA_STATUS_TABLE.
 *
 * A message passed to asthra_result_err stays where its author keeps it (static text). A formatted
 * message, and a context, live in the error record of the task (outside tasks: of the thread),
 * until its next error or its end.
 *
 * Threads: any, without set-up, before asthra_runtime_init too. Blocks: never. Cost: a few
 * nanoseconds; the first error of a task or thread allocates its record.
 */

#if ASTHRA_HAS_CORE

/* X(name, sentence) */
#define ASTHRA_STATUS_TABLE(X)                 \
    X(OK, "Success")                           \
    X(FAILED, "Failed")                        \
    X(CLOSED, "Channel is closed")             \
    X(TIMED_OUT, "Timed out")                  \
    X(WOULD_BLOCK, "Would block")              \
    X(CANCELLED, "Task was cancelled")         \
    X(PANICKED, "Task panicked")               \
    X(OUT_OF_MEMORY, "Out of memory")          \
    X(LIMIT, "A configured limit was reached") \
    X(INVALID, "Invalid argument")

/* No enumerator counts them: a client's switch over all codes stays complete. */
#define ASTHRA__STATUS_CODE(name, sentence) ASTHRA_##name,
typedef enum AsthraStatus { ASTHRA_STATUS_TABLE(ASTHRA__STATUS_CODE) } AsthraStatus;
#undef ASTHRA__STATUS_CODE

struct AsthraError; /* opaque */

typedef struct AsthraResult {
    uint32_t status; /* AsthraStatus */
    uint32_t detail; /* errno, index, ... as the status says */
    union {
        void *pointer;
        int64_t integer;
        double real;
        const struct AsthraError *error;
    } value;
} AsthraResult;

/* A success that carries `value`. */
ASTHRA_RT_API AsthraResult asthra_result_ok(void *value);

/* A failure of status ASTHRA_FAILED. `message` is static text: it is kept, not copied.
 * Returns   the failure, which is also asthra_last_error() from now on. */
ASTHRA_RT_API AsthraResult asthra_result_err(const char *message);

/* The same with a context for the caller, borrowed: asthra_result_context gives it back. */
ASTHRA_RT_API AsthraResult asthra_result_err_with_context(const char *message, const void *context);

/* A failure of any status but ASTHRA_OK (which is taken as ASTHRA_FAILED) with a message formatted
 * as printf does, copied, at most 255 bytes; longer ones are cut. */
ASTHRA_RT_API AsthraResult asthra_result_errorf(AsthraStatus status, const char *format, ...)
    ASTHRA_PRINTF(2, 3);

ASTHRA_RT_API bool asthra_result_is_ok(AsthraResult r);
ASTHRA_RT_API AsthraStatus asthra_result_status(AsthraResult r);
ASTHRA_RT_API const char *asthra_result_message(AsthraResult r); /* never NULL */
ASTHRA_RT_API void *asthra_result_value(AsthraResult r);         /* NULL of a failure */
ASTHRA_RT_API const void *asthra_result_context(AsthraResult r); /* NULL: none */

/* The value of a success. A failure panics with `what`, the status and the message; the macro's
 * `what` is the expression and its place. */
ASTHRA_RT_API void *asthra_result_unwrap_at(AsthraResult r, const char *what);
#define asthra_result_unwrap(expr) asthra_result_unwrap_at((expr), ASTHRA__AT(#expr))

/* Evaluates expr once; a failure is returned from the enclosing function as it is. */
#define ASTHRA_TRY(expr)                            \
    do {                                            \
        AsthraResult asthra__try = (expr);          \
        if (asthra__try.status) return asthra__try; \
    } while (0)

/* Why the last call of this task (or thread) that says so with NULL, false or a zero handle failed.
 * Returns   the failure; a success carrying NULL if there was none since the last good spawn or
 *           create. Also holds the last result made by asthra_result_err* and _errorf. */
ASTHRA_RT_API AsthraResult asthra_last_error(void);

#endif

/* ---- [panic] contract ------------------------------------------------------ core/panic.h ---- */
/* panic - what happens when a program is wrong.                            [panic] contract
 *
 * A panic names its message, the place of the call (#line is honoured, so generated code names its
 * source), the task and the stack. It is recorded, told to the hook, written on stderr, and then
 * follows the policy of the task: abort the process (the default), or fail the task, whose await
 * reports it. Outside tasks it aborts. The last sixteen panics are kept.
 *
 * Threads: any, without set-up, before asthra_runtime_init too. When several threads panic at once,
 * each report is written whole. Allocation: none, so a panic works when memory ran out.
 */

#if ASTHRA_HAS_CORE

typedef enum AsthraPanicPolicy {
    ASTHRA_PANIC_ABORT = 0,
    ASTHRA_PANIC_FAIL_TASK, /* its await reports it */
    ASTHRA_PANIC_UNWIND     /* to the nearest protected call; without one as FAIL_TASK */
} AsthraPanicPolicy;

typedef struct AsthraPanicInfo {
    const char *message, *file; /* file NULL and line 0: the place is not known */
    int line;
    uint64_t task_id;      /* 0: no task */
    const char *task_name; /* never NULL; outside tasks the thread's name, or "no task" */
    const char *stack;     /* symbolized, a line for each frame, innermost first */
    int64_t time_ns;       /* as asthra_now_ns */
} AsthraPanicInfo;

/* Runs on the panicking thread, where the panic is, before anything is written or undone. It may
 * not block, and a panic inside it aborts with both messages. It may call asthra_panic_last and
 * asthra_panic_history. `info` and its texts are borrowed for the call. */
typedef void (*AsthraPanicHook)(const AsthraPanicInfo *info, void *user);

/* Panics. `here` is ASTHRA_HERE or NULL; the text is formatted as printf does and cut at 1,000
 * bytes. The macro passes the caller's place.
 * Returns   never. */
ASTHRA_RT_API ASTHRA_NORETURN void asthra_panic_at(const char *here, const char *text, ...)
    ASTHRA_PRINTF(2, 3);
ASTHRA_RT_API ASTHRA_NORETURN void asthra_panic(const char *text, ...) ASTHRA_PRINTF(1, 2);
#define asthra_panic(...) asthra_panic_at(ASTHRA_HERE, __VA_ARGS__)

/* One hook for the process; NULL takes it back. */
ASTHRA_RT_API void asthra_panic_set_hook(AsthraPanicHook hook, void *user);

/* Of the current task, which starts with the configured one. Outside tasks it changes nothing. */
ASTHRA_RT_API void asthra_panic_set_policy(AsthraPanicPolicy policy);

/* Returns   the newest panic, or NULL if there was none since the start or the last clearing.
 * Owns      borrowed; it and its texts live until sixteen more have happened. */
ASTHRA_RT_API const AsthraPanicInfo *asthra_panic_last(void);

/* Copies up to `room` of the newest into `out`, newest last. Texts live as above.
 * Returns   how many it wrote: at most 16. */
ASTHRA_RT_API size_t asthra_panic_history(AsthraPanicInfo *out, size_t room);
ASTHRA_RT_API void asthra_panic_clear_history(void);

#endif

/* ---- [alloc] contract ------------------------------------------------------ core/alloc.h ---- */
/* alloc - an allocator that a caller brings.                               [alloc] contract */

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

/* ---- [type] contract -------------------------------------------------------- core/type.h ---- */
/* type - what a value looks like in memory.                                [type] contract
 *
 * A type description is static data, initialised at compile time; a field that is left zero says
 * nothing, so {0} describes a value without pointers, fields or base. Collector, counting, foreign
 * calls and checks all read this one form. Two descriptions are the same type when they are the
 * same object, or when name, size and alignment agree: two shared objects may each hold a copy.
 *
 * Owns: everything is borrowed and must live as long as the values that it describes.
 * Strip with: ASTHRA_RT_NO_TYPE.
 */

#if ASTHRA_HAS_TYPE

typedef struct AsthraTypeInfo AsthraTypeInfo;
typedef struct AsthraTracer AsthraTracer; /* what a trace function reports pointers to */

typedef struct AsthraFieldInfo {
    const char *name;
    size_t offset;
    const AsthraTypeInfo *type;
} AsthraFieldInfo;

typedef struct AsthraMethodInfo {
    const char *name;
    void *function; /* ASTHRA_FN(f) */
} AsthraMethodInfo;

struct AsthraTypeInfo {
    const char *name;
    size_t size, alignment;          /* alignment 0: as malloc aligns */
    const uint32_t *pointer_offsets; /* bytes, of every pointer inside one value */
    size_t pointer_count;
    void (*trace)(void *object, AsthraTracer *tracer); /* for what offsets cannot tell */
    void (*destroy)(void *object);
    const AsthraTypeInfo *base;
    const AsthraFieldInfo *fields;
    size_t field_count;
    const AsthraMethodInfo *methods;
    size_t method_count;
};

typedef struct AsthraString {
    size_t length; /* bytes; a NUL may follow but need not */
    const char *data;
} AsthraString;

typedef struct AsthraSlice {
    void *data;
    size_t length, element_size; /* length counts elements */
} AsthraSlice;

typedef struct AsthraClosure {
    void *code, *env;
} AsthraClosure;

/* Initialisers. ASTHRA_FIELD(Node, next, &Node_type) is one row of a field table. */
#define ASTHRA__OFFSET(T, f) (uint32_t) offsetof(T, f)
#define ASTHRA__TYPE(name, T, offsets, n) \
    { name, sizeof(T), ASTHRA__ALIGNOF(T), offsets, n, NULL, NULL, NULL, NULL, 0, NULL, 0 }
#define ASTHRA_FIELD(T, f, type) \
    { #f, offsetof(T, f), (type) }

/* ASTHRA_TYPE_POINTERS(Node, ASTHRA__OFFSET(Node, next), ...); defines Node_type, a type whose
 * pointers stand at these offsets. */
#define ASTHRA_TYPE_POINTERS(T, ...)                       \
    static const uint32_t T##__pointers[] = {__VA_ARGS__}; \
    ASTHRA__CONST AsthraTypeInfo T##_type =                \
        ASTHRA__TYPE(#T, T, T##__pointers, sizeof T##__pointers / sizeof *T##__pointers)

/* Ready-made types, &asthra_type_i32. Each unit has copies of its own, so that static data can name
 * them; addresses do not matter. */
ASTHRA__CONST uint32_t asthra__word_at_0[] = {0};
ASTHRA__CONST uint32_t asthra__string_data[] = {ASTHRA__OFFSET(AsthraString, data)};
#define ASTHRA__SCALAR(word, T) asthra_type_##word = ASTHRA__TYPE(#word, T, NULL, 0)
ASTHRA__CONST AsthraTypeInfo ASTHRA__SCALAR(bool, bool), ASTHRA__SCALAR(i8, int8_t),
    ASTHRA__SCALAR(i16, int16_t), ASTHRA__SCALAR(i32, int32_t), ASTHRA__SCALAR(i64, int64_t),
    ASTHRA__SCALAR(u8, uint8_t), ASTHRA__SCALAR(u16, uint16_t), ASTHRA__SCALAR(u32, uint32_t),
    ASTHRA__SCALAR(u64, uint64_t), ASTHRA__SCALAR(f32, float), ASTHRA__SCALAR(f64, double),
    asthra_type_pointer = ASTHRA__TYPE("pointer", void *, asthra__word_at_0, 1),
    asthra_type_string = ASTHRA__TYPE("string", AsthraString, asthra__string_data, 1),
    asthra_type_optional_string = ASTHRA__TYPE("string?", AsthraString *, asthra__word_at_0, 1);

#endif

/* ---- [trace] contract ------------------------------------------------------ core/trace.h ---- */
/* trace - debug lines, and marks for the report floor.                     [trace] contract
 *
 * A debug flag makes the runtime say what it does, a line on stderr for each operation. All flags
 * are off at the start. Threads: any. Cost of a flag that is off: one load and a branch.
 */

#if ASTHRA_HAS_CORE

typedef enum AsthraDebugFlag {
    ASTHRA_DEBUG_MEMORY_ALLOCATION,
    ASTHRA_DEBUG_CONCURRENCY_OPERATIONS,
    ASTHRA_DEBUG_FFI_CALLS,
    ASTHRA_DEBUG_SAFETY_CHECKS
} AsthraDebugFlag;

ASTHRA_RT_API void asthra_set_debug_flag(AsthraDebugFlag flag, bool on);

#endif

/* ---- [zone] contract ------------------------------------------------------ memory/zone.h ---- */
/* zone - the names of the memory zones, and what holds for all of them.    [zone] contract */

#if ASTHRA_HAS_CORE

typedef enum AsthraMemoryZone {
    ASTHRA_MEMORY_ZONE_NONE = -1,
    ASTHRA_MEMORY_ZONE_GC = 0, /* collected */
    ASTHRA_MEMORY_ZONE_MANUAL, /* freed by hand */
    ASTHRA_MEMORY_ZONE_PINNED, /* freed by hand, at an address that is known to foreign code */
    ASTHRA_MEMORY_ZONE_STACK   /* freed with the task or scope that asked for it */
} AsthraMemoryZone;

/* "MEMORY_ZONE_MANUAL" of ASTHRA_MEMORY_ZONE_MANUAL and so on; never NULL. */
ASTHRA_RT_API const char *asthra_memory_zone_to_string(AsthraMemoryZone zone);

/* What an address is. */
typedef enum AsthraAddressKind {
    ASTHRA_ADDRESS_UNMAPPED,
    ASTHRA_ADDRESS_LIVE,   /* inside a live block */
    ASTHRA_ADDRESS_FREED,  /* inside a block that was freed and not handed out again */
    ASTHRA_ADDRESS_SLACK,  /* of a zone, in no block */
    ASTHRA_ADDRESS_STACK,  /* of a thread or a task */
    ASTHRA_ADDRESS_STATIC, /* code or data of the program or a library */
    ASTHRA_ADDRESS_FOREIGN /* mapped by others */
} AsthraAddressKind;

typedef struct AsthraAllocationInfo {
    AsthraAddressKind kind;
    AsthraMemoryZone zone;
    void *start;                         /* of the block; NULL: in no block */
    size_t size;                         /* as requested */
    uint64_t stamp;                      /* tells the uses of one address apart */
    uint64_t allocated_by, freed_by;     /* ids of tasks; 0: not known */
    const char *allocated_at, *freed_at; /* text; NULL: not recorded */
    const struct AsthraTypeInfo *type;
} AsthraAllocationInfo;

/* What frees are checked for, in blocks allocated from now on. */
typedef enum AsthraSafetyLevel {
    ASTHRA_SAFETY_DEFAULT = 0, /* CHECKED */
    ASTHRA_SAFETY_NONE,        /* nothing */
    ASTHRA_SAFETY_CHECKED,     /* invalid, interior and double frees, overflows into the slack */
    ASTHRA_SAFETY_FULL         /* and uses after the free and overflows by one byte */
} AsthraSafetyLevel;

/* What an allocation does that max_heap_size refuses. */
typedef enum AsthraHeapLimitPolicy {
    ASTHRA_HEAP_LIMIT_NULL,  /* returns NULL */
    ASTHRA_HEAP_LIMIT_PANIC, /* panics */
    ASTHRA_HEAP_LIMIT_HOOK   /* asks heap_limit_hook, then returns NULL */
} AsthraHeapLimitPolicy;

/* Called on the allocating thread, outside every lock, when `size` bytes would go over the limit;
 * it may free. true: try again. */
typedef bool (*AsthraHeapLimitHook)(size_t size, AsthraMemoryZone zone, void *user);

/* Both run on the allocating thread, outside every lock, after the allocation and before the free,
 * and may allocate, but not wait: what they allocate is not told to them. NULL: not wanted. */
typedef struct AsthraMemoryHooks {
    void (*on_alloc)(void *ptr, size_t size, AsthraMemoryZone zone, void *user);
    void (*on_free)(void *ptr, AsthraMemoryZone zone, void *user);
    void *user;
} AsthraMemoryHooks;

/* Copied; NULL: none. Other threads may finish what they are in with the hooks of before. */
ASTHRA_RT_API void asthra_memory_set_hooks(const AsthraMemoryHooks *hooks);

#endif

/* ---- [manual] contract -------------------------------------------------- memory/manual.h ---- */
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

/* ---- [pinned] contract -------------------------------------------------- memory/pinned.h ---- */
/* pinned - addresses that foreign code may keep.                           [pinned] contract
 *
 * Two things. The pinned zone gives out blocks as the manual zone does, for memory that is handed
 * to foreign code for good. And any memory can be pinned for a while: blocks of the zones, stacks,
 * static data, mappings of others. A pin is a promise that the address stays good: while it lasts
 * a free or a realloc of a manual or pinned block that it touches panics, by whichever thread, also
 * if the pin begins inside the block or goes on into the next ones. So does a free or a release of
 * the stack zone, and the end of a task that leaves such a block; frees to pools, arenas and other
 * allocators are not asked.
 *
 * Pins of one address count. The widest range of them holds until the last is undone: another pin
 * with a smaller size is just counted. Pins belong to no thread or task: anybody may undo them.
 * They outlive asthra_runtime_shutdown, which says on stderr which ones there are, and a forked
 * child has them too. The pinned zone's blocks are not pinned by being allocated.
 *
 * Pinning a block while another thread frees it is a bug like using it; the runtime stays whole,
 * but which of the two comes first is not defined.
 *
 * ASTHRA_RT_LOCK_PINS also locks the pages of pinned ranges into memory (mlock), page by page until
 * the last pin on a page is undone. A child of fork has the pins, but not the locks. Pages that the
 * host has locked itself are unlocked with the last pin on them.
 *
 * Threads: any, without set-up and without a runtime. Blocks: never, but with ASTHRA_RT_LOCK_PINS
 * until the pages have been read in. errno is left as it was.
 * Strip with: ASTHRA_RT_NO_PINNED.
 */

#if ASTHRA_HAS_PINNED

/* As asthra_manual_alloc and _free, in a zone of its own. */
ASTHRA_RT_API void *asthra_pinned_alloc(size_t size);
ASTHRA_RT_API void asthra_pinned_free(void *ptr); /* NULL is allowed */

/* Pins `size` bytes from ptr on.
 *
 * Returns   true; false with the reason in asthra_last_error(), and then nothing has changed: ptr
 *           is NULL, size is 0, the range goes past the end of the address space or over memory of
 *           the zones that is in no live block, memory ran out, or the system will not lock it.
 * Owns      the pin holds until an asthra_unpin_memory of the same ptr.
 * Cost      10 to 25 ns for what is outside the zones or within a block that begins at ptr; else
 *           three to four times that, and some for each further block and 4 MiB. 32 bytes for each
 *           address, as many for a block that is pinned from elsewhere, or for a locked page.
 *           Frees of blocks beside one that was ever pinned take about 20 ns longer.
 */
ASTHRA_RT_API bool asthra_pin_memory(void *ptr, size_t size);

/* Undoes one pin. ptr is what was pinned, to the byte.
 * Returns   true; false with the reason in asthra_last_error(): ptr is not pinned. */
ASTHRA_RT_API bool asthra_unpin_memory(void *ptr);

/* How many pins ptr has, to the byte; 0: it is not pinned. */
ASTHRA_RT_API size_t asthra_pin_count(const void *ptr);

typedef struct AsthraPinInfo {
    void *address;
    size_t size, count;
} AsthraPinInfo;

/* Writes the pinned addresses, at most `room` of them, in no order, as they were at one moment. out
 * may be NULL if room is 0.
 * Returns   how many there are, which may be more than `room`.
 * Cost      nobody pins meanwhile: some ns for each. */
ASTHRA_RT_API size_t asthra_pin_list(AsthraPinInfo *out, size_t room);

#endif

/* ---- [stack] contract ---------------------------------------------------- memory/stack.h ---- */
/* stack - memory that goes with its task, thread or scope.                 [stack] contract
 *
 * Each task (also one that is awaited in place) and each thread outside tasks has a region of its
 * own. Its blocks follow the task from worker to worker, and all of them are freed when the task or
 * the thread ends: nobody frees them one by one. A scope frees what was allocated since it was
 * opened. In the child of a fork the thread keeps the region of what forked.
 *
 *     ASTHRA_STACK_SCOPE(m) {
 *         char *text = asthra_stack_alloc(length + 1);
 *         ...
 *     }
 *
 * Blocks are aligned to 16. A write past the end of the newest block, up to the next multiple of 16
 * bytes not counted, panics at the next allocation or release; at ASTHRA_SAFETY_FULL every byte
 * past the end of every block is looked at, and writes to what was released are found when its
 * memory is given out again.
 *
 * Threads: any; a block may be read and written by all, but only its task allocates and releases.
 * Blocks: never. errno is left as it was. Strip with: ASTHRA_RT_NO_STACK.
 */

#if ASTHRA_HAS_STACK

/* A block of `size` bytes, not set; size 0 is a block of its own.
 * Returns   NULL: out of memory, over the limit, or more than there can be; asthra_last_error()
 *           says which, and the region is as it was.
 * Owns      the region, until the innermost scope that is open now is released, else to its end.
 * Cost      3 ns, and 16 bytes; each 4 to 64 KiB a chunk from the heap. */
ASTHRA_RT_API void *asthra_stack_alloc(size_t size);

/* An open scope. `depth` names it among all of the process, and the scope around it. */
typedef struct AsthraStackMark {
    void *top;
    uint64_t depth; /* 0: it was released */
    bool open;
} AsthraStackMark;

/* Opens a scope inside the innermost one of this task or thread. Needs no memory, cannot fail. */
ASTHRA_RT_API AsthraStackMark asthra_stack_mark(void);

/* Frees what was allocated since `mark`. Panics unless that is the innermost open scope of this
 * task or thread: not an outer one, one released before, or another's. Scopes that are still open
 * when the task ends or panics go with its region.
 * Cost      3 ns, whatever it frees, and a call of the heap for each chunk beyond one. */
ASTHRA_RT_API void asthra_stack_release(AsthraStackMark *mark);

#if defined(__GNUC__) || defined(__clang__) /* released on break, return and goto too */
#define ASTHRA_STACK_SCOPE(m)                                                                   \
    for (AsthraStackMark m ASTHRA__CLEANUP(asthra_stack_release) = asthra_stack_mark(); m.open; \
         m.open = false)
#else /* released at the closing brace only; leaving otherwise panics at the next release */
#define ASTHRA_STACK_SCOPE(m) \
    for (AsthraStackMark m = asthra_stack_mark(); m.open; asthra_stack_release(&m))
#endif

#endif

/* ---- [arena] contract ---------------------------------------------------- memory/arena.h ---- */
/* arena - memory taken bit by bit and freed all at once.                   [arena] contract
 *
 * An arena cuts blocks off the caller's memory, or off chunks that it asks an allocator for, one
 * behind the other. No block is freed alone: reset frees all of them, destroy the chunks as well.
 * Alone in a build (ASTHRA_RT_ONLY with ASTHRA_RT_WITH_ARENA) it compiles with -ffreestanding and
 * links with no library but memcpy, memmove, memset and memcmp, which compilers ask for.
 *
 * Threads: one at a time uses an arena, whichever it is; a task may take it across waits.
 * Blocks: never, unless the allocator of a growing one does.
 * AddressSanitizer is told which bytes are in a block; so an arena on memory that is to be used
 * otherwise again, a local array say, is ended by asthra_arena_destroy.
 * Needs: nothing.  Strip with: ASTHRA_RT_NO_ARENA.
 */

#if ASTHRA_HAS_ARENA

/* Zeroed, it refuses every allocation. It may move between calls. */
typedef struct AsthraArena {
    void *opaque[8];
} AsthraArena;

/* An arena on `size` bytes at `memory`. What precedes the first multiple of 16 in it, and what
 * follows the last, is not used; memory NULL is one of no bytes. What the arena was is forgotten.
 *
 * Owns      memory stays the caller's and outlives the arena, which keeps no records in it. */
ASTHRA_RT_API void asthra_arena_init(AsthraArena *a, void *memory, size_t size);

/* An arena that grows by `chunk` bytes at a time (0: 64 KiB), or by what a larger block needs, its
 * records of at most 32 bytes for each chunk included. The first chunk is asked for by the first
 * allocation. What the arena was is forgotten.
 *
 * `from` is copied, and what it names must outlive the arena. Of it `alloc` and `free` are called,
 * on the thread that uses the arena; free NULL: chunks are not given back. from NULL, or its alloc
 * NULL: what the runtime itself allocates with at this moment; in a build of arenas alone there is
 * none, and every allocation is refused.
 *
 * Owns      the caller ends it with asthra_arena_destroy. */
ASTHRA_RT_API void asthra_arena_init_growing(AsthraArena *a, size_t chunk,
                                             const AsthraAllocator *from);

/* Returns   a block of `size` bytes at a multiple of 16, not zeroed; of 0 bytes a block too, at an
 *           address of its own. NULL: full (ASTHRA_LIMIT), or the allocator gave no chunk or size
 *           is beyond PTRDIFF_MAX (ASTHRA_OUT_OF_MEMORY); then the arena is as it was.
 *           asthra_last_error() tells which, but where arenas are alone.
 * Owns      the arena, until the next reset or destroy.
 * Cost      that of a call and about 10 instructions (2 ns), and of memory `size` rounded up to 16
 *           bytes; when a chunk is full, also a call of the allocator. */
ASTHRA_RT_API void *asthra_arena_alloc(AsthraArena *a, size_t size);

/* Frees all blocks. Chunks are kept, and serve the next allocations in the order of their use; one
 * that a larger block does not fit into goes back then.
 *
 * Cost      a few ns, and as much for each chunk that has been used since the last reset. */
ASTHRA_RT_API void asthra_arena_reset(AsthraArena *a);

/* Frees all blocks and gives the chunks back; every allocation is refused from then on. Doing it
 * twice is allowed.
 *
 * Threads   any, when nobody uses it.             Cost  one free for each chunk. */
ASTHRA_RT_API void asthra_arena_destroy(AsthraArena *a);

#endif

/* ---- [pool] contract ------------------------------------------------------ memory/pool.h ---- */
/* pool - objects of one size, or blocks of any, out of memory set aside.   [pool] contract
 *
 * An object pool (object_size != 0) hands out objects of one size, the newest freed first. A block
 * pool (object_size 0) hands out blocks of any size, chosen by its strategy, and merges what is
 * freed with its free neighbours: when all is freed, a block of the whole capacity fits again.
 * All blocks are aligned to 16; what is in a new one is not said.
 *
 * Handles are for blocks that may move. A block pool can compact what handles name, and nothing
 * else: by asthra_pool_defragment, and with auto_defrag when an allocation does not fit though so
 * many bytes are free. Contents move along. The address that asthra_pool_handle_get gives holds
 * until the next call that may move blocks: a defragment, or, with auto_defrag, any allocation from
 * the pool. Threads that share such a pool need a lock of their own around "get the address and use
 * it" and around those calls.
 *
 * The pool's records stand beside the blocks, not in front of them: an overflow from one block into
 * the next hits the neighbour's bytes, never a record. What stands in free blocks is checked when
 * it is read: a block that was written to after its free, or from the block before, panics.
 *
 * Threads: any thread may call any pool, and end it when no other call on it is to come. A NULL
 * pool panics. Blocks: never. A pool that another thread was calling at the moment of a fork is not
 * to be used in the child.
 * Strip with: ASTHRA_RT_NO_POOL.
 */

#if ASTHRA_HAS_POOL

typedef enum AsthraPoolStrategy {
    ASTHRA_POOL_FIRST_FIT, /* the free block of the lowest address */
    ASTHRA_POOL_BEST_FIT,  /* the smallest that is large enough */
    ASTHRA_POOL_WORST_FIT  /* the largest */
} AsthraPoolStrategy;

typedef struct AsthraPoolConfig { /* zero: defaults */
    const char *name;             /* for reports; copied; NULL: "unnamed" */
    size_t object_size;           /* 0: blocks of any size */
    size_t capacity;              /* bytes that objects or blocks may take; 0: grows */
    AsthraPoolStrategy strategy;  /* of a block pool */
    bool auto_defrag;             /* moves only what handles name */
} AsthraPoolConfig;

typedef struct AsthraPool AsthraPool;
typedef struct AsthraPoolHandle { /* a value to copy; 0: failed */
    uint64_t bits;
} AsthraPoolHandle;

/* Opens a pool; config NULL is one of zeros. A capacity is set aside now: capacity / object_size
 * objects, or blocks whose sizes, each rounded up to 16, sum up to the capacity rounded up to 16.
 * Without one the pool grows by chunks, each half of what it has; of the chunks of a block pool
 * that are wholly free it keeps one.
 *
 * Returns   the pool; NULL if the configuration contradicts itself (ASTHRA_INVALID: an object pool
 *           with a strategy, a capacity below one object, an unknown strategy), is too large
 *           (ASTHRA_LIMIT: 32 GiB for a block pool) or memory ran out.
 * Owns      the caller owns it and ends it with asthra_pool_destroy.
 * Cost      an allocation; a second one for a capacity, of which 3 hundredths are written. */
ASTHRA_RT_API AsthraPool *asthra_pool_create(const AsthraPoolConfig *config);

/* `size` bytes; 0 is a unique block. An object pool gives an object for any size up to its own.
 *
 * Returns   the block; NULL with the reason in asthra_last_error(): ASTHRA_LIMIT, the capacity has
 *           no such block free; ASTHRA_INVALID, larger than the pool's objects;
 *           ASTHRA_OUT_OF_MEMORY, the pool could not grow.
 * Owns      the caller frees it with asthra_pool_free; it ends with the pool.
 * Cost      of an object: constant, some nanoseconds. Of a block, in a chunk of b bytes: O(log b)
 *           with each strategy, and with best fit O(log n) more where one of n free blocks over
 *           1 KiB is taken. A pool that grew has O(log b) chunks to look into. */
ASTHRA_RT_API void *asthra_pool_alloc(AsthraPool *p, size_t size);

/* Frees; NULL is nothing. What is not the start of a live block of this pool, or is a handle's,
 * panics "Invalid pointer in pool_free" and says what it is.
 * Cost      of an object: constant. Of a block: as its allocation, without the search, and a look
 *           at one word for each 1 KiB of it. */
ASTHRA_RT_API void asthra_pool_free(AsthraPool *p, void *block);

/* Ends the pool, and with it whatever is still allocated. NULL is nothing. */
ASTHRA_RT_API void asthra_pool_destroy(AsthraPool *p);

/* As asthra_pool_alloc, for a block that may move; in an object pool it never does.
 *
 * Returns   its handle; bits 0 with the reason in asthra_last_error(), as there; ASTHRA_LIMIT also
 *           beyond 16 million handles. */
ASTHRA_RT_API AsthraPoolHandle asthra_pool_handle_alloc(AsthraPool *p, size_t size);

/* Returns   where the block is, until it moves; NULL for a handle whose block was freed, that is
 *           another pool's, or 0. */
ASTHRA_RT_API void *asthra_pool_handle_get(AsthraPool *p, AsthraPoolHandle h);

/* Frees the block; 0 is nothing. A handle that was freed before, or is another pool's, panics
 * "Invalid handle in pool_handle_free" and says which. */
ASTHRA_RT_API void asthra_pool_handle_free(AsthraPool *p, AsthraPoolHandle h);

/* Moves each block that a handle names to the lowest place that it fits in. Other blocks stay where
 * they are and may keep free bytes apart. An object pool has nothing to move.
 *
 * Returns   bytes moved.
 * Cost      of h handles O(h log h), h times an allocation and a free, and the moves. */
ASTHRA_RT_API size_t asthra_pool_defragment(AsthraPool *p);

#define ASTHRA_POOL_NEW(T, pool) ((T *)asthra_pool_alloc((pool), sizeof(T)))

#endif

/* ---- [memory] contract -------------------------------------------------- memory/memory.h ---- */
/* memory - the door to all zones.                                          [memory] contract
 *
 * What a zone does and when it frees stands in its own chapter. The zone of collected memory is not
 * in this build yet: asking it fails with ASTHRA_INVALID.
 *
 * Threads: any. Blocks: never.
 */

#if ASTHRA_HAS_MEMORY

/* A block of the zone, aligned to 16, contents not set. Owned as the zone says. size 0 is a block
 * of its own. NULL: the reason is in asthra_last_error(). */
ASTHRA_RT_API void *asthra_alloc(size_t size, AsthraMemoryZone zone);

/* The same for count * size bytes; NULL also when the product overflows. */
ASTHRA_RT_API void *asthra_alloc_array(size_t count, size_t size, AsthraMemoryZone zone);

/* Frees a block of the zone; NULL is allowed. Panics if it is none; of the stack zone only the
 * newest block of the task or thread can be freed. */
ASTHRA_RT_API void asthra_free(void *ptr, AsthraMemoryZone zone);

/* One T, or an array of them, of ASTHRA_NEW(T, MANUAL): not initialised. */
#define ASTHRA_NEW(T, Z) ((T *)asthra_alloc(sizeof(T), ASTHRA_MEMORY_ZONE_##Z))
#define ASTHRA_NEW_ARRAY(T, n, Z) ((T *)asthra_alloc_array((n), sizeof(T), ASTHRA_MEMORY_ZONE_##Z))

/* The zone of any address, mapped or not; ASTHRA_MEMORY_ZONE_NONE outside all zones, also for the
 * stacks of threads and tasks. Cost: two loads and a division, no lock. */
ASTHRA_RT_API AsthraMemoryZone asthra_memory_zone_of(const void *ptr);

/* What an address is, as far as is known. At ASTHRA_SAFETY_FULL a block of the manual or the pinned
 * zone, also a freed one that was not given out again, tells both ends of its life: the tasks (0:
 * outside tasks) and the calls on the stack, innermost first, as text; and its stamp, a number that
 * no other allocation has. At the checked level freed_at alone is told, as the place of the free,
 * and at both the kind and the size. A block of the stack zone is told, with the task, to the task
 * or thread that owns it, and what was released is SLACK there; others are shown the chunk of
 * memory that it is in as if that were a block.
 *
 * Returns   true: it lies in a block, live or freed, and out->start is the block's.
 * Owns      the texts live until the thread asks again, those of ASTHRA_SAFETY_FULL for ever.
 * Cost      inside the zones little more than zone_of, with a recorded free some microseconds;
 *           outside, the system's list of mappings is read.
 */
ASTHRA_RT_API bool asthra_memory_describe(const void *ptr, AsthraAllocationInfo *out);

/* Bytes count as asthra_manual_usable_size counts them. Exact when the zone is at rest; the peak
 * may be off by 64 KiB for each thread, of the stack zone for each task that uses it. Pages that
 * are free belong to no zone and are only in the sums of all. */
typedef struct AsthraMemoryStatistics {
    size_t current, peak, total; /* usable bytes now, at most, ever */
    size_t count, failures;      /* allocations ever, refused */
    size_t mapped, resident;     /* bytes of address space for its blocks; of those in memory */
} AsthraMemoryStatistics;

/* Cost: the pages of the zone are looked through, and the system asked which are in memory. */
ASTHRA_RT_API AsthraMemoryStatistics asthra_memory_statistics(AsthraMemoryZone zone);
ASTHRA_RT_API AsthraMemoryStatistics asthra_memory_statistics_all(void); /* of all zones */

/* Gives free memory back to the system, what lies between live blocks too: what the calling thread
 * and ended threads hold, and what no thread holds. What came from an allocator of the
 * configuration goes back to it once no runtime with an allocator runs; no thread may ask about
 * addresses in freed blocks meanwhile. Returns the bytes given back. */
ASTHRA_RT_API size_t asthra_memory_trim(void);

#endif

/* ---- [task] contract ------------------------------------------------- concurrency/task.h ---- */
/* task - functions that run on all cores, and their results.               [task] contract
 *
 * A task is a function called later, perhaps on another core, on a stack that it borrows. Spawning
 * costs no stack: a task that never waits runs on a worker's own, one that waits keeps the stack it
 * stands on until it ends. Awaiting a child that has not started calls it in place.
 *
 * A handle is a value with a generation, never a pointer. Each handle is consumed once, by an await
 * that succeeds or by a detach; using it afterwards panics and names it. Plain threads may call
 * everything here; awaiting from one blocks that thread only.
 *
 * Fairness: a runnable task waits at most 64 turns of its worker for each task queued before it,
 * whatever the others do, as long as each turn ends.
 *
 * A task that is due while the system refuses it a stack waits until others have ended; where
 * nothing else can go on, that panics.
 * Needs: nothing.  Strip with: ASTHRA_RT_NO_TASK.
 */

#if ASTHRA_HAS_TASK

typedef struct AsthraTaskHandle {
    uint64_t bits; /* 0: a spawn that failed */
} AsthraTaskHandle;

/* Runs on any worker, may wait, may panic; its return value is what await gives. */
typedef void *(*AsthraTaskFunction)(void *args);

typedef enum AsthraTaskState {
    ASTHRA_TASK_CREATED, /* spawned, not started */
    ASTHRA_TASK_READY,   /* waited, may go on, has no worker yet */
    ASTHRA_TASK_RUNNING,
    ASTHRA_TASK_WAITING,
    ASTHRA_TASK_COMPLETED, /* its function returned */
    ASTHRA_TASK_FAILED,    /* it panicked */
    ASTHRA_TASK_CANCELLED  /* before it started, or it ended after it saw its cancellation */
} AsthraTaskState;

#define ASTHRA_AFFINITY_ANY 0
#define ASTHRA_AFFINITY_MAIN (-1)
#define ASTHRA_AFFINITY_WORKER(n) ((int)(n) + 1) /* n from 0 */

typedef struct AsthraSpawnOptions { /* zero: defaults */
    const char *name;               /* copied */
    size_t stack_bytes; /* at least; 0: the configured size, half of which every task can use */
    int priority;       /* higher runs earlier; 0 is plain */
    int affinity;       /* the worker that alone runs it */
} AsthraSpawnOptions;

/* Makes a task of fn(args). `args` is borrowed until the task ends. The macro names the task after
 * its expression and place; asthra_spawn_at keeps `name`, which is static text.
 *
 * Returns   a handle, to be awaited or detached; the zero handle if memory ran out, max_tasks is
 *           reached or tasks are switched off.
 * Blocks    never.        Cost  some ten nanoseconds; no allocation once warm.
 */
ASTHRA_RT_API AsthraTaskHandle asthra_spawn_at(AsthraTaskFunction fn, void *args, const char *name);
ASTHRA_RT_API AsthraTaskHandle asthra_spawn(AsthraTaskFunction fn, void *args);
#define asthra_spawn(fn, args) asthra_spawn_at((fn), (args), ASTHRA__AT(#fn))

/* The same with options (NULL: defaults). A worker that does not exist and a stack of no
 * sensible size are refused with a zero handle. What is bound to a main that hosts runs in
 * asthra_runtime_poll, and in asthra_runtime_shutdown. */
ASTHRA_RT_API AsthraTaskHandle asthra_spawn_with(const AsthraSpawnOptions *o, AsthraTaskFunction fn,
                                                 void *args);

/* Copies the block (NULL: `size` zeroes) into the task and passes that copy's address, which is
 * aligned as malloc's and lives until the task has been awaited or, detached, has ended.
 * Cost   blocks of up to 16 bytes, and larger ones where the descriptor was used for such a
 *        block before, are not allocated. */
ASTHRA_RT_API AsthraTaskHandle asthra_spawn_copy_at(AsthraTaskFunction fn, const void *block,
                                                    size_t size, const char *name);
ASTHRA_RT_API AsthraTaskHandle asthra_spawn_copy(AsthraTaskFunction fn, const void *block,
                                                 size_t size);
#define asthra_spawn_copy(fn, block, size) \
    asthra_spawn_copy_at((fn), (block), (size), ASTHRA__AT(#fn))

/* Waits for the end and consumes the handle.
 *
 * Returns   what the task's function returned; NULL if it was cancelled before it started. A task
 *           that panicked panics here again with its message.
 * Blocks    until the task has ended; cancelling the awaiting task cancels the awaited one.
 * A zero, stale or foreign handle panics with its id, or with the reason why its spawn failed; so
 * does a lack of memory to wait with.
 */
ASTHRA_RT_API void *asthra_await(AsthraTaskHandle t);

/* The same, with how the task ended as a result: ASTHRA_OK, ASTHRA_PANICKED (the message is the
 * panic's) or ASTHRA_CANCELLED. `result` (may be NULL) receives the value, NULL if there is
 * none. */
ASTHRA_RT_API AsthraResult asthra_await_result(AsthraTaskHandle t, void **result);

/* The same for asthra_spawn_copy: the first `size` bytes of the task's block are copied to `block`.
 * A task without a block, or with a smaller one, is ASTHRA_INVALID and is consumed. */
ASTHRA_RT_API AsthraResult asthra_await_copy(AsthraTaskHandle t, void *block, size_t size);

/* The same with a limit. ASTHRA_TIMED_OUT, ASTHRA_OUT_OF_MEMORY if there was none to wait with, and
 * ASTHRA_CANCELLED of the awaiting task (then r.detail is 1) leave the handle as it was. With
 * timeout_ns < 0 it is asthra_await_result, and a cancel goes on to the awaited task. */
ASTHRA_RT_API AsthraResult asthra_await_timeout(AsthraTaskHandle t, int64_t timeout_ns,
                                                void **result);

/* What the functions that typed.h makes call. fn leaves its result where its arguments were, in the
 * block, and returns the block. The result is zeroes if the task was cancelled before it started;
 * whatever else is no result is a panic that begins with `who`.
 *
 * Blocks of up to 16 bytes travel in registers. Of a larger one of `room` bytes the first `size`
 * are copied, and the others are not set. */
typedef struct AsthraTaskWords {
    uint64_t first, second;
} AsthraTaskWords;
ASTHRA_RT_API AsthraTaskHandle asthra_spawn_words_at(AsthraTaskFunction fn, AsthraTaskWords block,
                                                     const char *name);
ASTHRA_RT_API AsthraTaskHandle asthra_spawn_room_at(AsthraTaskFunction fn, const void *block,
                                                    size_t size, size_t room, const char *name);
ASTHRA_RT_API AsthraTaskWords asthra_await_words_at(AsthraTaskHandle t, const char *who);
ASTHRA_RT_API void asthra_await_copy_at(AsthraTaskHandle t, void *block, size_t size,
                                        const char *who);

/* Gives the handle up: the task runs on and frees itself. Consumes the handle. */
ASTHRA_RT_API void asthra_task_detach(AsthraTaskHandle t);

/* A second handle to the same task, to be consumed on its own. */
ASTHRA_RT_API AsthraTaskHandle asthra_task_retain(AsthraTaskHandle t);

/* Asks the task to end: a wait that it is in, or comes to, returns ASTHRA_CANCELLED; one that has
 * not started never does. Also reaches the task that it awaits. False: it had ended. */
ASTHRA_RT_API bool asthra_task_cancel(AsthraTaskHandle t);

ASTHRA_RT_API bool asthra_task_is_valid(AsthraTaskHandle t); /* not consumed; never panics */

/* Not to be consumed; zero outside tasks. */
ASTHRA_RT_API AsthraTaskHandle asthra_task_current(void);

ASTHRA_RT_API uint64_t asthra_task_id(AsthraTaskHandle t);      /* never 0, never used twice */
ASTHRA_RT_API const char *asthra_task_name(AsthraTaskHandle t); /* lives as long as the task */
ASTHRA_RT_API AsthraTaskState asthra_task_state(AsthraTaskHandle t);
ASTHRA_RT_API AsthraTaskHandle asthra_task_parent(AsthraTaskHandle t); /* zero: a thread, or gone */

/* Unfinished tasks that t spawned. Cost: looks at every descriptor in use. */
ASTHRA_RT_API size_t asthra_task_child_count(AsthraTaskHandle t);

/* Lets others run; outside tasks, gives the rest of the time slice back. */
ASTHRA_RT_API void asthra_yield(void);

/* Has somebody asked the current task to end? False inside a masked region and outside tasks. */
ASTHRA_RT_API bool asthra_cancel_requested(void);

/* Between begin and end a cancel of the current task has no effect yet. Nests, up to 255 deep. */
ASTHRA_RT_API void asthra_cancel_mask_begin(void);
ASTHRA_RT_API void asthra_cancel_mask_end(void);

/* For loops that never call the runtime: lets others run if they wait and the caller has not let
 * them for a fifth of a millisecond. One load and a predictable branch while nobody waits; about
 * 5 ns while somebody might. Nothing on a thread that runs no tasks. */
ASTHRA__WORD volatile uint32_t asthra_safepoint_word; /* the one object that crosses the API */
ASTHRA_RT_API void asthra_safepoint_slow(void);
ASTHRA__INLINE void asthra_safepoint(void) {
#if defined(__GNUC__) || defined(__clang__)
    if (__atomic_load_n(&asthra_safepoint_word, __ATOMIC_RELAXED)) asthra_safepoint_slow();
#else
    if (asthra_safepoint_word) asthra_safepoint_slow();
#endif
}

#endif

/* ---- [timer] contract ----------------------------------------------- concurrency/timer.h ---- */
/* timer - time, and waiting for it.                                        [timer] contract
 *
 * One unit: int64_t nanoseconds of a monotonic clock. Relative times: 0 polls, < 0 is for ever.
 */

#if ASTHRA_HAS_CORE

#define ASTHRA_FOREVER ((int64_t)-1)
#define ASTHRA_US(n) ((int64_t)(n) * 1000)
#define ASTHRA_MS(n) ((int64_t)(n) * 1000000)
#define ASTHRA_SECONDS(n) ((int64_t)(n) * 1000000000)

#if ASTHRA_HAS_TASK

/* Monotonic; virtual in the deterministic mode, where it advances when nothing can run. */
ASTHRA_RT_API int64_t asthra_now_ns(void);

/* Waits at least ns; ns < 0 waits for a cancellation.
 * Returns   ASTHRA_OK; ASTHRA_CANCELLED if the task is cancelled before the time is over;
 *           ASTHRA_OUT_OF_MEMORY, at once, if there was none to wait with. */
ASTHRA_RT_API AsthraResult asthra_sleep_ns(int64_t ns);

#endif
#endif

/* ---- [channel] contract ------------------------------------------- concurrency/channel.h ---- */
/* channel - bounded queues that tasks share.                              [channel] contract
 *
 * A channel carries values of one size, copied in and copied out, in sending order. With capacity 0
 * each send meets its receive. Closing wakes every waiter; values already inside can still be
 * received. Any thread may call: a task parks, a plain thread blocks.
 *
 * A send happens before the receive of its value completes. With capacity C the k-th receive
 * happens before the (k+C)-th send completes. Closing happens before a receive that reports it.
 *
 * Every call but destroy may be made by any number of threads at once. A NULL channel panics. A
 * call that would wait in a cancelled task returns ASTHRA_CANCELLED; one that need not wait
 * succeeds. One that finds no memory to wait with, or no thread to run others meanwhile, returns
 * ASTHRA_OUT_OF_MEMORY.
 * Needs: task.  Strip with: ASTHRA_RT_NO_CHANNEL.
 */

#if ASTHRA_HAS_CHANNEL

typedef struct AsthraConcurrencyChannel AsthraConcurrencyChannel, AsthraChannel;

/* Opens a channel for `capacity` values of `element_size` bytes each, called `name` in reports
 * (copied; NULL: "unnamed").
 *
 * Returns   the channel; NULL if element_size is 0, the sizes overflow, memory ran out or channels
 *           are switched off (asthra_last_error() says which).
 * Owns      the caller owns it and ends it with asthra_channel_destroy.
 * Blocks    never.            Cost  one allocation.
 */
ASTHRA_RT_API AsthraChannel *asthra_channel_create(size_t element_size, size_t capacity,
                                                   const char *name);

/* Sends a copy of the element_size bytes at `value`.
 *
 * Returns   ASTHRA_OK once it is in the channel (capacity 0: once it was received); ASTHRA_CLOSED,
 *           also if closed while waiting; ASTHRA_CANCELLED. Failures have sent nothing.
 * Blocks    while there is no room.            Cost  some 20 ns when nobody waits, and the copy.
 */
ASTHRA_RT_API AsthraResult asthra_channel_send(AsthraChannel *c, const void *value);

/* Receives the oldest value into `out`; NULL drops it.
 *
 * Returns   ASTHRA_OK; ASTHRA_CLOSED if closed and drained; ASTHRA_CANCELLED. Failures leave *out
 *           as it was.
 * Blocks    while there is nothing to receive.            Cost  as send.
 */
ASTHRA_RT_API AsthraResult asthra_channel_receive(AsthraChannel *c, void *out);

/* The same without waiting: ASTHRA_WOULD_BLOCK where the others would wait. */
ASTHRA_RT_API AsthraResult asthra_channel_try_send(AsthraChannel *c, const void *value);
ASTHRA_RT_API AsthraResult asthra_channel_try_receive(AsthraChannel *c, void *out);

/* The same, waiting for at most timeout_ns (0: not at all, < 0: for ever): then
 * ASTHRA_TIMED_OUT. */
ASTHRA_RT_API AsthraResult asthra_channel_send_timeout(AsthraChannel *c, const void *value,
                                                       int64_t timeout_ns);
ASTHRA_RT_API AsthraResult asthra_channel_receive_timeout(AsthraChannel *c, void *out,
                                                          int64_t timeout_ns);

/* Receive for loops: false at the end, which is when the channel is closed and drained, or when the
 * waiting task was cancelled, or when there was no memory to wait with (asthra_last_error() tells).
 * An element_size that is not the channel's panics. */
ASTHRA_RT_API bool asthra_channel_next(AsthraChannel *c, void *out, size_t element_size);

/* Closes: from now on sends fail, and receives fail once the values inside are drained. Waiting
 * senders and receivers are woken with ASTHRA_CLOSED.
 *
 * Returns   true if this call closed it; closing again changes nothing.            Blocks  never.
 */
ASTHRA_RT_API bool asthra_channel_close(AsthraChannel *c);

ASTHRA_RT_API bool asthra_channel_is_closed(const AsthraChannel *c);
ASTHRA_RT_API size_t asthra_channel_count(const AsthraChannel *c); /* inside; out of date at once */
ASTHRA_RT_API size_t asthra_channel_capacity(const AsthraChannel *c);
ASTHRA_RT_API size_t asthra_channel_element_size(const AsthraChannel *c);
ASTHRA_RT_API const char *asthra_channel_name(const AsthraChannel *c); /* lives as long as c */

/* For a loop that waits for descriptors: one that is readable while a receive would not wait. It is
 * made by the first call, belongs to the channel, and is only to be polled: not read, not closed.
 * What it says may be out of date at once, as all such answers, so receive with try_receive.
 *
 * Returns   the descriptor, the same at every call; -1 with the reason in asthra_last_error().
 * Cost      from then on a system call whenever the channel goes from empty to not, or back.
 */
ASTHRA_RT_API int asthra_channel_fd(AsthraChannel *c);

/* Returns c, if it carries values of element_size bytes. Of another, and of NULL, the panic begins
 * with `who`. What the functions that typed.h makes ask first. */
ASTHRA_RT_API AsthraChannel *asthra_channel_expect(AsthraChannel *c, size_t element_size,
                                                   const char *who);

/* Ends a channel; values inside are dropped. Whoever knows that no other call on it is to come may
 * do this, even while a call whose value it has received, or sent, is still returning elsewhere.
 * A channel that somebody waits on panics and names the waiters. A select waits on all its channels
 * until it returns. */
ASTHRA_RT_API void asthra_channel_destroy(AsthraChannel *c);

#endif

/* ---- [select] contract --------------------------------------------- concurrency/select.h ---- */
/* select - waiting on several channels at once.                            [select] contract
 *
 * A select completes exactly one of its cases: a ready one, each with equal probability, or the
 * first that becomes ready. A case is ready when its send or receive need not wait; a closed
 * channel is always ready. A NULL channel never is. One channel may stand in several cases, also as
 * send and receive; a select never meets itself.
 * Needs: channel.  Strip with: ASTHRA_RT_NO_SELECT.
 */

#if ASTHRA_HAS_SELECT

#define ASTHRA_SELECT_DEFAULT (-1)
#define ASTHRA_SELECT_TIMEOUT (-2)
#define ASTHRA_SELECT_CANCELLED (-3)
#define ASTHRA_SELECT_OUT_OF_MEMORY (-4)

typedef enum AsthraSelectKind { ASTHRA_SELECT_SEND, ASTHRA_SELECT_RECEIVE } AsthraSelectKind;

typedef enum AsthraSelectOutcome { /* NONE: no case was chosen */
    ASTHRA_SELECT_NONE = 0,
    ASTHRA_SELECT_RECEIVED,
    ASTHRA_SELECT_SENT,
    ASTHRA_SELECT_CLOSED
} AsthraSelectOutcome;

typedef struct AsthraSelectCase {
    AsthraSelectKind kind;
    AsthraStatus status; /* out, of the chosen case: OK or CLOSED; the others keep theirs */
    AsthraChannel *channel;
    void *data; /* send: read, never written; receive: NULL drops the value */
} AsthraSelectCase;

ASTHRA_RT_API AsthraSelectCase asthra_select_send(AsthraChannel *c, const void *value);
ASTHRA_RT_API AsthraSelectCase asthra_select_receive(AsthraChannel *c, void *out);

/* Completes one of `count` cases.
 *
 * Returns   the index of the case that was chosen, its status set; ASTHRA_SELECT_DEFAULT if
 *           timeout_ns is 0 and no case was ready; ASTHRA_SELECT_TIMEOUT after timeout_ns;
 *           ASTHRA_SELECT_CANCELLED; ASTHRA_SELECT_OUT_OF_MEMORY if there was none to wait with
 *           (asthra_last_error() says for what). The last four have sent and received nothing.
 * Owns      cases, values and channels are borrowed until it returns.
 * Blocks    until a case is ready; with no case but NULL channels, until timeout or cancellation.
 * Cost      no allocation. About 60 bytes of stack for each case while it waits, so that a thousand
 *           cases fit in any task; some 20 ns for each case when it waits, one or two when not.
 */
ASTHRA_RT_API int asthra_select(AsthraSelectCase *cases, size_t count, int64_t timeout_ns);

/* The same cases executed again and again. A builder is used by one task or thread at a time. */
typedef struct AsthraSelectBuilder AsthraSelectBuilder;

/* Returns an empty builder, to be ended with asthra_select_builder_destroy; NULL: out of memory. */
ASTHRA_RT_API AsthraSelectBuilder *asthra_select_builder_create(void);

/* Adds a case. `data` is read at each execute, `out` is written when its case is chosen; both, and
 * the channel, are borrowed while the builder is executed.
 * Returns   the case's index, from 0 upwards; -1 with the reason in asthra_last_error(). */
ASTHRA_RT_API int asthra_select_builder_add_send(AsthraSelectBuilder *b, AsthraChannel *c,
                                                 const void *data);
ASTHRA_RT_API int asthra_select_builder_add_receive(AsthraSelectBuilder *b, AsthraChannel *c,
                                                    void *out);

/* Never wait: ASTHRA_SELECT_DEFAULT instead. Beats a timeout. */
ASTHRA_RT_API void asthra_select_builder_set_default(AsthraSelectBuilder *b);

/* Wait at most timeout_ns, counted anew at each execute; 0 polls, < 0 is for ever (at the
 * start). */
ASTHRA_RT_API void asthra_select_builder_set_timeout(AsthraSelectBuilder *b, int64_t timeout_ns);
ASTHRA_RT_API void asthra_select_builder_destroy(AsthraSelectBuilder *b);

/* As asthra_select, with the builder's cases: the index that add_* returned, or < 0 as above. */
ASTHRA_RT_API int asthra_select_execute(AsthraSelectBuilder *b);

/* What the last execute did. CLOSED: the chosen case's channel was closed (and, of a receive,
 * drained). */
ASTHRA_RT_API AsthraSelectOutcome asthra_select_outcome(const AsthraSelectBuilder *b);

#endif

/* ---- [mutex] contract ----------------------------------------------- concurrency/mutex.h ---- */
/* mutex - one at a time, for tasks and threads alike.                        [mutex] contract
 *
 * A waiting task parks, a plain thread blocks. Whoever locked it unlocks it: a task keeps it across
 * waits and moves between workers. Locking twice, unlocking what is not the caller's, and
 * destroying a locked mutex are bugs and panic. A task that ends, or panics, does not unlock what
 * it holds.
 *
 * Fairness: waiters are served in order; passers-by may come first, but a waiter that was woken
 * twice in vain is handed the mutex directly.
 *
 * Zeroed memory is an unlocked mutex. It must not move. Whoever locks it last may destroy and free
 * it, even while the unlock before is still returning.
 * Needs: task.  Strip with: ASTHRA_RT_NO_MUTEX.
 */

#if ASTHRA_HAS_MUTEX

typedef struct AsthraMutex {
    uint64_t opaque[4];
} AsthraMutex;

#define ASTHRA_MUTEX_INIT { { 0, 0, 0, 0 } }

ASTHRA_RT_API void asthra_mutex_init(AsthraMutex *m);

/* Returns   ASTHRA_OK, and the caller owns it; of a caller that had to wait also ASTHRA_CANCELLED,
 *           and ASTHRA_OUT_OF_MEMORY if there was none to wait with.
 * Blocks    while another owns it.            Cost  about 10 ns when nobody does. */
ASTHRA_RT_API AsthraResult asthra_mutex_lock(AsthraMutex *m);

/* False: somebody owns it, perhaps the caller. */
ASTHRA_RT_API bool asthra_mutex_try_lock(AsthraMutex *m);

/* As lock, for at most timeout_ns (0: not at all, < 0: for ever): then ASTHRA_TIMED_OUT. */
ASTHRA_RT_API AsthraResult asthra_mutex_lock_timeout(AsthraMutex *m, int64_t timeout_ns);

/* Blocks: never. */
ASTHRA_RT_API void asthra_mutex_unlock(AsthraMutex *m);

/* Not needed for the memory's sake: there is nothing to free. */
ASTHRA_RT_API void asthra_mutex_destroy(AsthraMutex *m);

#endif

/* ---- [typed] contract ----------------------------------------------- concurrency/typed.h ---- */
/* typed - tasks and channels that know their types.                         [typed] contract
 *
 * The macros here make plain functions, with which the common program needs no cast, no struct of
 * arguments and no free. They stand where a function would: at file scope, in one file, or in a
 * header by their _DECLARE forms. Types are whatever C can pass by value and copy as bytes; one
 * that is spelt around its name (a function pointer, an array in a struct) needs a typedef.
 *
 * What is of the wrong type, or missing, is the compiler's error at the caller's line. (Pointers of
 * another type are only a warning to gcc before 14 and clang before 16, as in any call of C.)
 * Needs: task; channels need channel, their cases in a select need select.  Nothing to strip: these
 * are macros.
 */

#if ASTHRA_HAS_TYPED

/* ---- tasks ---- */

/* A function of 1 to 8 arguments that can also run as a task:
 *
 *     ASTHRA_TASK(int64_t, count_words, (const char *, path), (size_t, from)) {
 *         ...
 *         return words;
 *     }
 *
 *     int64_t count_words(const char *path, size_t from);            calls it
 *     count_words_task count_words_go(const char *path, size_t from);   spawns it
 *     int64_t count_words_await(count_words_task t);          waits, consumes t, gives the result
 *
 * The body may use all three. Arguments and the result, of any size, are copied; nobody frees.
 * `t.task` is an ordinary handle, to be cancelled, retained, asked for its state or detached. Go
 * gives the zero handle where asthra_spawn does, and awaiting that panics with the reason. Await
 * panics if the task panicked, with its message; the result of a task that was cancelled before it
 * started is zeroes. Panics name the task and the line of its ASTHRA_TASK, not the caller's, which
 * is in the stack.
 *
 * Cost   as asthra_spawn and asthra_await while the arguments take at most 16 bytes and the result
 *        at most 16, else as asthra_spawn_copy. */
#define ASTHRA_TASK(R, name, ...)                         \
    ASTHRA__TASK_OF(static, VALUE, R, name, __VA_ARGS__); \
    static R name ASTHRA__PARAMETERS(__VA_ARGS__)

/* The same of a function that returns nothing. */
#define ASTHRA_TASK_VOID(name, ...)                         \
    ASTHRA__TASK_OF(static, VOID, void, name, __VA_ARGS__); \
    static void name ASTHRA__PARAMETERS(__VA_ARGS__)

/* For headers, followed by a semicolon: the function itself is external, and one file holds it as
 * plain C: int64_t count_words(const char *path, size_t from) { ... } */
#define ASTHRA_TASK_DECLARE(R, name, ...) ASTHRA__TASK_OF(extern, VALUE, R, name, __VA_ARGS__)
#define ASTHRA_TASK_DECLARE_VOID(name, ...) ASTHRA__TASK_OF(extern, VOID, void, name, __VA_ARGS__)

/* All of them without arguments: ASTHRA_TASK0(double, measure) { ... } */
#define ASTHRA_TASK0(R, name)                 \
    ASTHRA__TASK0_OF(static, VALUE, R, name); \
    static R name(void)
#define ASTHRA_TASK0_VOID(name)                 \
    ASTHRA__TASK0_OF(static, VOID, void, name); \
    static void name(void)
#define ASTHRA_TASK0_DECLARE(R, name) ASTHRA__TASK0_OF(extern, VALUE, R, name)
#define ASTHRA_TASK0_DECLARE_VOID(name) ASTHRA__TASK0_OF(extern, VOID, void, name)

/* How the macros are made. EACH: m(type, name) for each argument, with s() between. */
#define ASTHRA__COUNT_(a, b, c, d, e, f, g, h, i, k, ...) k
#define ASTHRA__COUNT(...) ASTHRA__COUNT_(__VA_ARGS__, 8, 7, 6, 5, 4, 3, 2, 1, 0, ~)
#define ASTHRA__E1(m, s, a) m a
#define ASTHRA__E2(m, s, a, b) m a s() m b
#define ASTHRA__E3(m, s, a, b, c) m a s() m b s() m c
#define ASTHRA__E4(m, s, a, b, c, d) m a s() m b s() m c s() m d
#define ASTHRA__E5(m, s, a, b, c, d, e) m a s() m b s() m c s() m d s() m e
#define ASTHRA__E6(m, s, a, b, c, d, e, f) m a s() m b s() m c s() m d s() m e s() m f
#define ASTHRA__E7(m, s, a, b, c, d, e, f, g) m a s() m b s() m c s() m d s() m e s() m f s() m g
#define ASTHRA__E8(m, s, a, b, c, d, e, f, g, h) \
    m a s() m b s() m c s() m d s() m e s() m f s() m g s() m h
#define ASTHRA__EACH(m, s, ...) \
    ASTHRA__CAT(ASTHRA__E, ASTHRA__COUNT(~, __VA_ARGS__))(m, s, __VA_ARGS__)
#define ASTHRA__COMMA() ,
#define ASTHRA__NOTHING()
#define ASTHRA__BARE(...) __VA_ARGS__
#define ASTHRA__PARAMETER(t, n) t n
#define ASTHRA__TYPE_AND_NAME(t, n) t n;
#define ASTHRA__VALUE(t, n) n
#define ASTHRA__GET(t, n) asthra__block->in.n
#define ASTHRA__PARAMETERS(...) (ASTHRA__EACH(ASTHRA__PARAMETER, ASTHRA__COMMA, __VA_ARGS__))

/* C would decay an array on its way; C++ refuses it by itself. */
#ifdef __cplusplus
#define ASTHRA__CLAIM(claim, text) static_assert(claim, text)
#define ASTHRA__ARGUMENT(t, n)
#else
#define ASTHRA__CLAIM(claim, text) __extension__ _Static_assert(claim, text)
#define ASTHRA__IS_SAME(a, b) __builtin_types_compatible_p(__typeof__(a), __typeof__(b))
#define ASTHRA__ARGUMENT(t, n)                            \
    enum { asthra__name_of_argument_##n };                \
    ASTHRA__CLAIM(ASTHRA__IS_SAME(n, asthra__block.in.n), \
                  #n " is an array: pass its address, or a struct that holds it");
#endif

#define ASTHRA__VALUE_RESULT(R) R result;
#define ASTHRA__VALUE_KEEP asthra__block->result =
#define ASTHRA__VALUE_AWAIT(R, t, who)                                  \
    union {                                                             \
        R result;                                                       \
        AsthraTaskWords words;                                          \
    } asthra__block;                                                    \
    if (sizeof(R) <= sizeof(AsthraTaskWords))                           \
        asthra__block.words = asthra_await_words_at(t, who);            \
    else                                                                \
        asthra_await_copy_at(t, &asthra__block.result, sizeof(R), who); \
    return asthra__block.result;
#define ASTHRA__VOID_RESULT(R)
#define ASTHRA__VOID_KEEP
#define ASTHRA__VOID_AWAIT(R, t, who) asthra_await_words_at(t, who);

/* The result takes the place of the arguments, which have been passed on by then. */
#define ASTHRA__TASK(link, kind, R, name, parameters, fields, claims, values, arguments)      \
    typedef struct {                                                                          \
        AsthraTaskHandle task;                                                                \
    } name##_task;                                                                            \
    union name##__block {                                                                     \
        struct {                                                                              \
            fields                                                                            \
        } in;                                                                                 \
        ASTHRA__##kind##_RESULT(R) AsthraTaskWords words;                                     \
    };                                                                                        \
    ASTHRA__CLAIM(ASTHRA__ALIGNOF(union name##__block) <= 2 * sizeof(void *),                 \
                  #name ": more than malloc's alignment; pass the address of what needs it"); \
    link R name parameters;                                                                   \
    ASTHRA_UNUSED static void *name##__run(void *asthra__args) {                              \
        union name##__block *asthra__block = (union name##__block *)asthra__args;             \
        (void)asthra__block;                                                                  \
        ASTHRA__##kind##_KEEP name arguments;                                                 \
        return asthra__args;                                                                  \
    }                                                                                         \
    ASTHRA__INLINE name##_task name##_go parameters {                                         \
        union name##__block asthra__block = {{ASTHRA__BARE values}};                          \
        name##_task asthra__task;                                                             \
        claims if (sizeof asthra__block <= sizeof(AsthraTaskWords)) asthra__task.task =       \
            asthra_spawn_words_at(name##__run, asthra__block.words, ASTHRA__AT(#name));       \
        else asthra__task.task =                                                              \
            asthra_spawn_room_at(name##__run, &asthra__block.in, sizeof asthra__block.in,     \
                                 sizeof asthra__block, ASTHRA__AT(#name));                    \
        return asthra__task;                                                                  \
    }                                                                                         \
    ASTHRA__INLINE R name##_await(name##_task asthra__task) {                                 \
        ASTHRA__##kind##_AWAIT(R, asthra__task.task, ASTHRA__AT(#name "_await"))              \
    }                                                                                         \
    union name##__block
#define ASTHRA__TASK_OF(link, kind, R, name, ...)                                   \
    ASTHRA__TASK(link, kind, R, name, ASTHRA__PARAMETERS(__VA_ARGS__),              \
                 ASTHRA__EACH(ASTHRA__TYPE_AND_NAME, ASTHRA__NOTHING, __VA_ARGS__), \
                 ASTHRA__EACH(ASTHRA__ARGUMENT, ASTHRA__NOTHING, __VA_ARGS__),      \
                 (ASTHRA__EACH(ASTHRA__VALUE, ASTHRA__COMMA, __VA_ARGS__)),         \
                 (ASTHRA__EACH(ASTHRA__GET, ASTHRA__COMMA, __VA_ARGS__)))
#define ASTHRA__TASK0_OF(link, kind, R, name) \
    ASTHRA__TASK(link, kind, R, name, (void), char none;, , (0), ())

/* ---- channels ---- */

#if ASTHRA_HAS_CHANNEL

/* A channel of values of type T, at file scope:
 *
 *     ASTHRA_CHANNEL_TYPE(Lines, char *);
 *
 *     Lines lines = Lines_create(8);         named "Lines"; raw is NULL if it failed
 *     AsthraResult r = Lines_send(lines, text);
 *     char *line;
 *     while (Lines_receive(lines, &line)) puts(line);
 *     Lines_close(lines);
 *     Lines_destroy(lines);
 *
 * and _try_send, _try_receive, _send_timeout and _receive_timeout, each as its namesake in channel,
 * _receive as asthra_channel_next. T is also Lines_value. Lines is a value that holds the channel:
 * `lines.raw` serves for what has no form here, and a channel of other sources can be put there.
 * One that is NULL, or whose values have another size, panics, and names the line of the
 * ASTHRA_CHANNEL_TYPE. */
#define ASTHRA_CHANNEL_TYPE(name, T)                                                              \
    typedef T name##_value;                                                                       \
    typedef struct {                                                                              \
        AsthraChannel *raw;                                                                       \
    } name;                                                                                       \
    ASTHRA__INLINE name name##_create(size_t asthra__capacity) {                                  \
        name asthra__c;                                                                           \
        asthra__c.raw = asthra_channel_create(sizeof(name##_value), asthra__capacity, #name);     \
        return asthra__c;                                                                         \
    }                                                                                             \
    ASTHRA__INLINE AsthraResult name##_send(name asthra__c, T asthra__v) {                        \
        ASTHRA__ELEMENT(name, asthra__v);                                                         \
        return asthra_channel_send(ASTHRA__CHANNEL(name, _send, asthra__c), &asthra__v);          \
    }                                                                                             \
    ASTHRA__INLINE bool name##_receive(name asthra__c, name##_value *asthra__out) {               \
        return asthra_channel_next(ASTHRA__CHANNEL(name, _receive, asthra__c), asthra__out,       \
                                   sizeof(name##_value));                                         \
    }                                                                                             \
    ASTHRA__INLINE AsthraResult name##_try_send(name asthra__c, T asthra__v) {                    \
        return asthra_channel_try_send(ASTHRA__CHANNEL(name, _try_send, asthra__c), &asthra__v);  \
    }                                                                                             \
    ASTHRA__INLINE AsthraResult name##_try_receive(name asthra__c, name##_value *asthra__out) {   \
        return asthra_channel_try_receive(ASTHRA__CHANNEL(name, _try_receive, asthra__c),         \
                                          asthra__out);                                           \
    }                                                                                             \
    ASTHRA__INLINE AsthraResult name##_send_timeout(name asthra__c, T asthra__v,                  \
                                                    int64_t asthra__ns) {                         \
        AsthraChannel *asthra__raw = ASTHRA__CHANNEL(name, _send_timeout, asthra__c);             \
        return asthra_channel_send_timeout(asthra__raw, &asthra__v, asthra__ns);                  \
    }                                                                                             \
    ASTHRA__INLINE AsthraResult name##_receive_timeout(name asthra__c, name##_value *asthra__out, \
                                                       int64_t asthra__ns) {                      \
        AsthraChannel *asthra__raw = ASTHRA__CHANNEL(name, _receive_timeout, asthra__c);          \
        return asthra_channel_receive_timeout(asthra__raw, asthra__out, asthra__ns);              \
    }                                                                                             \
    ASTHRA__INLINE bool name##_close(name asthra__c) {                                            \
        return asthra_channel_close(ASTHRA__CHANNEL(name, _close, asthra__c));                    \
    }                                                                                             \
    ASTHRA__INLINE void name##_destroy(name asthra__c) {                                          \
        asthra_channel_destroy(ASTHRA__CHANNEL(name, _destroy, asthra__c));                       \
    }                                                                                             \
    typedef name##_value name##__element

#define ASTHRA__CHANNEL(name, verb, c) \
    asthra_channel_expect((c).raw, sizeof(name##_value), ASTHRA__AT(#name #verb))
#ifdef __cplusplus
#define ASTHRA__ELEMENT(name, v)     \
    name##_value *asthra__at = &(v); \
    (void)asthra__at
#else
#define ASTHRA__ELEMENT(name, v)                    \
    ASTHRA__CLAIM(ASTHRA__IS_SAME(v, name##_value), \
                  #name ": its values are arrays: put the array into a struct")
#endif

#endif

#endif

/* ---- [fd] contract -------------------------------------------------------------- io/fd.h ---- */
/* fd - waiting until a descriptor is ready.                                [fd] contract
 *
 * A task that waits for a pipe, a socket, a terminal is parked and its thread goes on with others;
 * ten thousand of them cost one thread that the system wakes. Any descriptor that poll(2) takes
 * will do, in blocking mode or not, and nothing has to be registered or given back.
 * Needs: task.  Strip with: ASTHRA_RT_NO_FD.
 */

#if ASTHRA_HAS_FD

/* Waits until `fd` is ready for one of `events`, which are those of poll(2): POLLIN, POLLOUT, 0 for
 * nothing but errors and the end. Several tasks may wait for one descriptor; each that the event
 * concerns goes on.
 *
 * Returns   ASTHRA_OK, and value.integer holds what poll calls revents, POLLERR and POLLHUP
 *           among them; ASTHRA_TIMED_OUT; ASTHRA_CANCELLED; ASTHRA_INVALID if fd is not open or
 *           `events` are none; ASTHRA_CLOSED if it was closed meanwhile, which may take a second or
 *           two to be seen: better wake those who wait with shutdown(2) first; ASTHRA_LIMIT or
 *           ASTHRA_OUT_OF_MEMORY if the system had no room. detail is the errno that it gave.
 * Blocks    the task only; a plain thread blocks in poll(2).
 * Cost      one system call to begin, a share of one to be told, and two switches.
 */
ASTHRA_RT_API AsthraResult asthra_wait_fd(int fd, int events, int64_t timeout_ns);

#endif

/* ---- [module] contract ------------------------------------------------- runtime/module.h ---- */
/* module - parts of a program that are initialised once, needs first.        [module] contract
 *
 * A compiler, or a library, describes a part of the program as static data: its name, its types,
 * the modules that it needs, and what is to be called at its beginning and at its end. Registering
 * a module initialises whatever it needs, then the module itself, each once, whoever registers it
 * and however often. asthra_runtime_shutdown undoes them, the one initialised last first, and after
 * that all of them may be registered anew.
 *
 * A module is known by its name. Two of one name in a program are an error, unless they are one
 * object. In the child of a fork nothing is registered: what the parent initialised is the parent's
 * to undo. (Without threads the child goes on as its parent would.)
 * Needs: nothing.  Strip with: ASTHRA_RT_NO_MODULE.
 */

#if ASTHRA_HAS_MODULE

struct AsthraTypeInfo;
typedef struct AsthraModule AsthraModule;

/* Static data: borrowed until asthra_runtime_shutdown has returned. What is NULL is not there. */
struct AsthraModule {
    const char *name, *version;                /* the version is for messages */
    const struct AsthraTypeInfo *const *types; /* ends with NULL, as needs does */
    const AsthraModule *const *needs;

    /* Called once, after the inits of all needs have succeeded. It may spawn, await and wait, and
     * register further modules, which are needs as well. Outside tasks it runs on the thread that
     * registers; in a task, in a task of its own, so that a panic under ASTHRA_PANIC_FAIL_TASK is
     * its failure. It returns: a longjmp out of it, or the end of its thread, is a bug. */
    AsthraResult (*init)(const AsthraModule *m);

    /* Called in asthra_runtime_shutdown, on its thread, when tasks have ended as that says: none is
     * left but what the finis of other modules spawned. It may use the runtime as before, but for
     * registering and shutting down. What it leaves behind ends as tasks do at shutdown. */
    void (*fini)(const AsthraModule *m);
};

/* Initialises m and what it needs, and starts the runtime if that does not run.
 *
 * Returns   ASTHRA_OK, also if it had been done; whoever comes while another initialises m waits
 *           and gets the same answer, or takes over where that one was cancelled. ASTHRA_INVALID:
 *           m is NULL; it, or what it needs, has no name, or another's; modules need each other in
 *           a cycle, which is named ("a needs b needs a"); or the runtime shuts down.
 *           ASTHRA_OUT_OF_MEMORY. ASTHRA_PANICKED: an init did. ASTHRA_CANCELLED: the caller was.
 *           Else what an init failed with, and asthra_result_message names the module. After an
 *           error m may be registered again. What succeeded before it stays initialised, for
 *           others may use it by then.
 * Blocks    while inits run, its own and those of others; all needs are looked at before the first
 *           of them. An init that awaits a task which registers that init's own module waits for
 *           ever, and so does all that needs it.
 * Cost      an allocation for each module that is new; a lookup of m's name if it is not.
 */
ASTHRA_RT_API AsthraResult asthra_module_register(const AsthraModule *m);

#endif

/* ---- [runtime] contract ----------------------------------------------- runtime/runtime.h ---- */
/* runtime - configuration, start, stop.                                    [runtime] contract
 *
 * The first call that needs workers starts the runtime with the defaults. A program that wants
 * other settings calls asthra_runtime_init before. ASTHRA_RT_NO_AUTO_INIT makes that call
 * mandatory.
 */

#if ASTHRA_HAS_CORE

typedef enum AsthraMainThread {
    ASTHRA_MAIN_HELPS, /* the starting thread runs tasks while it waits in the runtime */
    ASTHRA_MAIN_HOSTS  /* not unless it polls: all workers are threads beside it */
} AsthraMainThread;

typedef enum AsthraOptimizationLevel {
    ASTHRA_OPT_DEFAULT = 0, /* as the header was compiled */
    ASTHRA_OPT_DEBUG,       /* workers sleep at once, never spin: steadier under a debugger */
    ASTHRA_OPT_RELEASE
} AsthraOptimizationLevel;

/* Made by asthra_runtime_config_default() and changed from there; booleans are literal. */
typedef struct AsthraRuntimeConfig {
    size_t struct_size;           /* set by asthra_runtime_config_default(); 0 is refused */
    size_t worker_threads;        /* 0: the cores this process may use; 1 without threads */
    size_t max_tasks;             /* spawned and unfinished; 0: no limit */
    size_t stack_size;            /* bytes for each task; 0: 256 KiB (64 KiB on 32-bit machines) */
    AsthraMainThread main_thread; /* without threads always ASTHRA_MAIN_HELPS */
    uint64_t deterministic_seed;  /* not 0: one worker, all choices come from it, time is virtual */
    bool enable_tier1_concurrency;  /* tasks */
    bool enable_tier2_concurrency;  /* channels and select */
    bool enable_tier3_concurrency;  /* threads that are neither workers nor main: spawn, create */
    bool enable_panic_handler;      /* report on stderr and history; the hook runs either way */
    AsthraPanicPolicy panic_policy; /* that tasks start with */
    AsthraOptimizationLevel opt_level;
    int64_t shutdown_timeout_ns;                     /* for parked tasks that shutdown cancelled */
    bool enable_manual_memory, enable_pinned_memory; /* zones */
    AsthraSafetyLevel memory_safety_level;           /* of blocks allocated from now on */
    size_t max_heap_size; /* bytes over all zones, as their statistics count; 0: no limit */
    AsthraHeapLimitPolicy heap_limit_policy;
    AsthraHeapLimitHook heap_limit_hook;
    void *heap_limit_hook_user;
    /* Where all that is fresh comes from while the runtime runs: its records and the memory of the
     * zones, which take 8 MiB at a time for 4 that are aligned. alloc NULL: malloc and the system.
     * Stacks and descriptors of tasks, error records and the tables of the zones always come from
     * the system. What holds no block goes back in asthra_runtime_shutdown(), the rest once it was
     * freed and asthra_memory_trim() is called: until then the allocator must work. */
    AsthraAllocator allocator;
    bool numa_aware; /* fresh pages of a zone come from the node of the thread that takes them; no
                      * effect on a machine with one node */
} AsthraRuntimeConfig;

ASTHRA_RT_API AsthraRuntimeConfig asthra_runtime_config_default(void);

/* Starts the runtime; NULL: the defaults. `config` is copied.
 *
 * Returns   true; false with the reason in asthra_last_error(): it runs already, a field is out of
 *           range, or the system refused a part, and then nothing is left behind.
 * Threads   one at a time. The calling thread becomes the main thread of config->main_thread.
 */
ASTHRA_RT_API bool asthra_runtime_init(const AsthraRuntimeConfig *config);
ASTHRA_RT_API bool asthra_runtime_init_with_config(const AsthraRuntimeConfig *config);

/* Lets queued and running tasks finish, cancels the parked ones, waits shutdown_timeout_ns for
 * them, undoes modules (module.h), reports by name what still stands on stderr, and frees
 * everything. Tasks that keep one
 * another busy are cancelled when they wait or yield after shutdown_timeout_ns. Called by the
 * thread that started the runtime, outside tasks; without a running runtime it does nothing. If the
 * configuration has an allocator no thread may ask about addresses in freed blocks meanwhile. */
ASTHRA_RT_API void asthra_runtime_shutdown(void);

ASTHRA_RT_API bool asthra_runtime_is_running(void);

#if ASTHRA_HAS_TASK

/* ---- a main loop of the program's own ----
 *
 * A program whose main thread lives in a loop that it does not own (a window system's, a game's,
 * poll(2)) binds what must run there to it, with ASTHRA_AFFINITY_MAIN, and gives it turns. With
 * ASTHRA_MAIN_HOSTS bound tasks run nowhere else; with ASTHRA_MAIN_HELPS they also run while main
 * waits in the runtime. Where main is the only worker (no threads, a seed, worker_threads 1) a poll
 * runs every task. */

/* Runs tasks that are due and bound to main until none is, or the time is over; at least one if
 * there is one. budget_ns < 0: no limit. A task that does not give way is not interrupted.
 *
 * Returns   how many turns it gave. 0 with a reason in asthra_last_error() if the caller is not the
 *           thread that started the runtime, or is a task, or there was no memory.
 * Blocks    never, but for what the tasks do.
 */
ASTHRA_RT_API size_t asthra_runtime_poll(int64_t budget_ns);

/* When to poll next although the descriptor below stays silent: a time as asthra_now_ns tells it,
 * now or earlier if work is due; ASTHRA_FOREVER if none is to be expected. Threads: main. */
ASTHRA_RT_API int64_t asthra_runtime_next_deadline(void);

/* A descriptor that is readable while a poll has work, to be polled only: not read, not closed. It
 * lives until the runtime is shut down. Where main would be the only worker the first call starts
 * a thread for what is not bound to main, if there can be threads.
 *
 * Returns   the descriptor, the same at every call; -1 with the reason in asthra_last_error(). */
ASTHRA_RT_API int asthra_runtime_wake_fd(void);

#endif

/* Names the calling thread in reports: copied, cut at 31 bytes; NULL takes the name back. Threads
 * need no registration otherwise, so this does not start the runtime. Returns true. */
ASTHRA_RT_API bool asthra_register_this_thread(const char *name);

#endif

#ifdef __cplusplus
}
#endif

#endif /* ASTHRA_RT_H */

/* ================================ Part II: bodies ================================ */

#if defined(ASTHRA_RT_IMPLEMENTATION) && !defined(ASTHRA__IMPLEMENTED)
#define ASTHRA__IMPLEMENTED

/* ---- [compiler] internal ----------------------------------- platform/compiler_internal.h ---- */
/* compiler - attributes, atomics and sanitizer facts for the bodies.       [compiler] internal
 *
 * Atomics are C11's with the order written at each use: asthra__load(&x, acquire). With
 * ASTHRA_RT_NO_THREADS the same words are plain accesses, so that no build needs an atomic that
 * its machine does not have. So they are without the core, where nothing is shared.
 */

#if !(defined(__GNUC__) || defined(__clang__))
#error "the body of asthra_rt.h needs gcc or clang (GNU asm, attributes, __has_include)"
#endif

/* Linkage of a function that upper floors call: static in the book, hidden in the workshop. */
#ifdef ASTHRA__WORKSHOP
#define ASTHRA__FN __attribute__((__visibility__("hidden"))) extern
#else
#define ASTHRA__FN ASTHRA_UNUSED static
#endif

#define ASTHRA__LIKELY(x) __builtin_expect(!!(x), 1)
#define ASTHRA__UNLIKELY(x) __builtin_expect(!!(x), 0)
#define ASTHRA__NOINLINE __attribute__((__noinline__))
#define ASTHRA__COLD __attribute__((__cold__, __noinline__))
/* Everything that a short hot function calls becomes part of it, but for what says noinline. That
 * doubles the code, so not where size is what counts. */
#ifdef __OPTIMIZE_SIZE__
#define ASTHRA__FLATTEN
#else
#define ASTHRA__FLATTEN __attribute__((__flatten__))
#endif
/* A few instructions on every hot path: part of its callers in the book. */
#if defined(__OPTIMIZE__) && !defined(__OPTIMIZE_SIZE__) && !defined(ASTHRA__WORKSHOP)
#define ASTHRA__FAST inline __attribute__((__always_inline__))
#else
#define ASTHRA__FAST
#endif
#define ASTHRA__ALIGNED(n) __attribute__((__aligned__(n)))
#define ASTHRA__CONTAINER(T, member, pointer) ((T *)(void *)((char *)(pointer)-offsetof(T, member)))
#define ASTHRA__CONTAINER_CONST(T, member, pointer) \
    ((const T *)(const void *)((const char *)(pointer)-offsetof(T, member)))

/* Two lines: the prefetcher of x86 fetches them in pairs. */
enum { ASTHRA__CACHE_LINE = 64, ASTHRA__CACHE_PAIR = 128 };
enum { ASTHRA__MAX_ALIGN = _Alignof(max_align_t) }; /* of what malloc gives */

#if defined(__SANITIZE_ADDRESS__)
#define ASTHRA__ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ASTHRA__ASAN 1
#endif
#endif
#ifndef ASTHRA__ASAN
#define ASTHRA__ASAN 0
#endif
/* Of functions that touch what AddressSanitizer was told to be nobody's. GCC may move the loads of
 * one that is only not to be inlined into callers that are checked. */
#if defined(__clang__)
#define ASTHRA__ASAN_BLIND __attribute__((__noinline__, __no_sanitize__("address")))
#else
#define ASTHRA__ASAN_BLIND __attribute__((__noipa__, __no_sanitize__("address")))
#endif
#if defined(__SANITIZE_THREAD__)
#define ASTHRA__TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ASTHRA__TSAN 1
#endif
#endif
#ifndef ASTHRA__TSAN
#define ASTHRA__TSAN 0
#endif

#if ASTHRA_HAS_THREADS && ASTHRA_HAS_CORE
#include <stdatomic.h>
#define ASTHRA__ATOMIC(T) _Atomic(T)
#define asthra__load(p, order) atomic_load_explicit((p), memory_order_##order)
#define asthra__store(p, v, order) atomic_store_explicit((p), (v), memory_order_##order)
#define asthra__exchange(p, v, order) atomic_exchange_explicit((p), (v), memory_order_##order)
#define asthra__add(p, v, order) atomic_fetch_add_explicit((p), (v), memory_order_##order)
#define asthra__sub(p, v, order) atomic_fetch_sub_explicit((p), (v), memory_order_##order)
#define asthra__or(p, v, order) atomic_fetch_or_explicit((p), (v), memory_order_##order)
#define asthra__and(p, v, order) atomic_fetch_and_explicit((p), (v), memory_order_##order)
/* Strong; a failure reads with relaxed order into *expected. */
#define asthra__cas(p, expected, v, order)                                              \
    atomic_compare_exchange_strong_explicit((p), (expected), (v), memory_order_##order, \
                                            memory_order_relaxed)
#else
#define ASTHRA__ATOMIC(T) T
#define asthra__load(p, order) (*(p))
#define asthra__store(p, v, order) ((void)(*(p) = (v)))
#define asthra__update(p, expression)                       \
    __extension__({                                         \
        __typeof__(p) asthra__p = (p);                      \
        __typeof__(*asthra__p) asthra__old = *asthra__p;    \
        *asthra__p = (__typeof__(asthra__old))(expression); \
        asthra__old;                                        \
    })
#define asthra__exchange(p, v, order) asthra__update(p, v)
#define asthra__add(p, v, order) asthra__update(p, asthra__old + (v))
#define asthra__sub(p, v, order) asthra__update(p, asthra__old - (v))
#define asthra__or(p, v, order) asthra__update(p, asthra__old | (v))
#define asthra__and(p, v, order) asthra__update(p, asthra__old &(v))
#define asthra__cas(p, expected, v, order) \
    (*(p) == *(expected) ? (void)(*(p) = (v)), true : ((void)(*(expected) = *(p)), false))
#endif

/* Where a function's stack pointer was when it was called, which is what the caller has again.
 * Clang does not know how on RISC-V, whose frame pointer is just that. */
#if defined(__clang__) && defined(__riscv)
#define ASTHRA__CALLER_STACK __builtin_frame_address(0)
#else
#define ASTHRA__CALLER_STACK __builtin_dwarf_cfa()
#endif

/* A field of 64 bits: on i386 compilers do not agree on where one would lie. */
#define ASTHRA__ATOMIC_64(T) ASTHRA__ALIGNED(8) ASTHRA__ATOMIC(T)

/* Keeps the compiler, not the processor, from moving memory accesses over it. */
#define asthra__compiler_fence() __asm__ volatile("" ::: "memory")

/* Told to the processor inside a spin loop. */
static inline void asthra__cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __asm__ volatile("pause" ::: "memory");
#elif defined(__aarch64__) || (defined(__arm__) && defined(__ARM_ARCH) && __ARM_ARCH >= 7)
    __asm__ volatile("yield" ::: "memory");
#elif defined(__riscv)
    __asm__ volatile(".4byte 0x0100000f" ::: "memory"); /* pause; a fence of nothing before that */
#else
    asthra__compiler_fence();
#endif
}

/* ---- [sys] internal --------------------------------------------- platform/sys_internal.h ---- */
/* sys - which system and processor this is, as values.                     [sys] internal */

#if ASTHRA_HAS_CORE

#if defined(__linux__)
#define ASTHRA__SYS_LINUX 1
#else
#error "asthra_rt knows Linux so far: a new system is a file platform/os_<system>.c and a line here"
#endif

#if defined(__x86_64__) && !defined(__ILP32__)
#define ASTHRA__CPU_X86_64 1
#else
#define ASTHRA__CPU_X86_64 0
#endif
#if defined(__aarch64__) && !defined(__ILP32__)
#define ASTHRA__CPU_AARCH64 1
#else
#define ASTHRA__CPU_AARCH64 0
#endif
#if defined(__riscv) && __riscv_xlen == 64 && defined(__riscv_float_abi_double)
#define ASTHRA__CPU_RISCV64 1
#else
#define ASTHRA__CPU_RISCV64 0
#endif
#if defined(__i386__)
#define ASTHRA__CPU_I386 1
#else
#define ASTHRA__CPU_I386 0
#endif
#if ASTHRA_HAS_ASM && ASTHRA_HAS_TASK && \
    !(ASTHRA__CPU_X86_64 || ASTHRA__CPU_AARCH64 || ASTHRA__CPU_RISCV64 || ASTHRA__CPU_I386)
#error "no hand-written context switch for this processor yet: define ASTHRA_RT_NO_ASM"
#endif

#endif

/* ---- [os] internal ----------------------------------------------- platform/os_internal.h ---- */
/* os - what the runtime asks of the system: pages, clock, cores, parking.  [os] internal
 *
 * One file per system implements it (os_linux.c; faults and backtraces in os_linux_fault.c). What
 * can fail says so, and errno is left as it was. Sizes and addresses of pages are multiples of
 * asthra__os_page_size(). Nothing here asks a heap, save what the C library does inside
 * asthra__os_thread_start and, on threads that are not the main one, asthra__os_stack_bounds.
 */

#if ASTHRA_HAS_CORE

ASTHRA__FN size_t asthra__os_page_size(void);

/* Zeroed address space that takes memory when it is touched; NULL: refused. */
ASTHRA__FN void *asthra__os_map(size_t bytes);
/* The same at a multiple of `alignment`, a power of two and at least a page, and counted against
 * what the system is willing to promise. */
ASTHRA__FN void *asthra__os_map_aligned(size_t bytes, size_t alignment);
ASTHRA__FN void asthra__os_unmap(void *start, size_t bytes);

/* Gives the pages back and keeps the addresses and the guards among them. They read as zero
 * afterwards. false: they may have kept their bytes, as where the host has locked its memory. */
ASTHRA__FN bool asthra__os_discard(void *start, size_t bytes);
/* The pages of one mapping take the place of another's, and are more or fewer then. */
typedef enum Asthra__OsMoved {
    ASTHRA__OS_MOVED,
    ASTHRA__OS_STAYED, /* refused; what was in the other's may be lost */
    ASTHRA__OS_LOST    /* refused, and the other is not mapped any more */
} Asthra__OsMoved;
ASTHRA__FN Asthra__OsMoved asthra__os_move(void *from, size_t bytes, void *to, size_t to_bytes);

/* Makes `count` single pages, `stride` bytes apart, fault when touched, until they are unmapped.
 * The system's limit of mappings is respected: false says that some page is not guarded, and
 * nothing else is lost. */
ASTHRA__FN bool asthra__os_guard_pages(void *first, size_t stride, size_t count);

/* Keeps pages in memory, or no longer; calls do not nest. Returns 0, or the system's error: then
 * some of the pages may be locked. */
ASTHRA__FN int asthra__os_lock_pages(void *start, size_t bytes);
ASTHRA__FN void asthra__os_unlock_pages(void *start, size_t bytes);

/* Nodes of memory: how many are online (1 where the system cannot tell), and the one of the core
 * that the calling thread runs on. */
ASTHRA__FN unsigned asthra__os_nodes(void);
ASTHRA__FN unsigned asthra__os_node(void);
/* Asks for untouched pages to come from the node while it has any; where the system will not hear
 * of it, they come from the node of the thread that touches them. */
ASTHRA__FN void asthra__os_prefer_node(void *start, size_t bytes, unsigned node);
/* Closes pages, which fault when touched until they are opened again, or opens them, as zero or
 * as they were. false: refused, and the pages are as before, or zero. */
ASTHRA__FN bool asthra__os_close_pages(void *start, size_t bytes);
ASTHRA__FN bool asthra__os_open_pages(void *start, size_t bytes);

ASTHRA__FN size_t asthra__os_resident(const void *start, size_t bytes); /* of whole pages, bytes */

/* What the system says of an address; for messages, it takes a while. */
typedef enum Asthra__OsMapping {
    ASTHRA__OS_MAPPING_NONE,
    ASTHRA__OS_MAPPING_STATIC, /* of the program or a library, its zeroed data included */
    ASTHRA__OS_MAPPING_STACK,  /* of the main thread */
    ASTHRA__OS_MAPPING_OTHER   /* or it cannot be told */
} Asthra__OsMapping;
ASTHRA__FN Asthra__OsMapping asthra__os_mapping_of(const void *address);

ASTHRA__FN int64_t asthra__os_now_ns(void);   /* monotonic */
ASTHRA__FN uint64_t asthra__os_entropy(void); /* differs from run to run */
ASTHRA__FN unsigned asthra__os_cores(void);   /* that it may use: affinity and quota; at least 1 */

/* Sleeps while *word == expected, until asthra__os_wake or for timeout_ns (< 0: no limit). May
 * return early for no reason; errno is left as it was. */
ASTHRA__FN void asthra__os_wait(ASTHRA__ATOMIC(uint32_t) * word, uint32_t expected,
                                int64_t timeout_ns);
ASTHRA__FN void asthra__os_wake(ASTHRA__ATOMIC(uint32_t) * word, uint32_t how_many);
ASTHRA__FN void asthra__os_yield(void); /* the rest of this thread's time slice */

/* The two halves of an asymmetric fence: alone neither orders anything. After light in thread A and
 * heavy in thread B, either A sees what B wrote before its fence or B sees what A wrote before its
 * own. Light is free where the system can interrupt the other cores (membarrier); else both are
 * full fences. A forked child inherits the choice. */
ASTHRA__FN void asthra__os_fence_setup(void); /* before the first use in a process */
ASTHRA__FN void asthra__os_fence_light(void);
ASTHRA__FN void asthra__os_fence_heavy(void);

/* The most bytes that a stack may be asked for. */
#define ASTHRA__OS_STACK_MOST (SIZE_MAX / (sizeof(size_t) > 4 ? 1024 : 16))

/* The calling thread's own stack, whatever stack it stands on now. */
ASTHRA__FN bool asthra__os_stack_bounds(void **low, void **high);
ASTHRA__FN bool asthra__os_is_main_thread(void);
ASTHRA__FN uint64_t asthra__os_thread_id(void); /* as the system's tools show it */
/* Threads of the process, a sanitizer's own included; 0: cannot tell. */
ASTHRA__FN size_t asthra__os_thread_count(void);
ASTHRA__FN void asthra__os_write_error(const char *text, size_t length); /* stderr, signal-safe */
ASTHRA__FN bool asthra__os_stderr_is_terminal(void);

#if ASTHRA_HAS_THREADS
/* A thread that blocks every signal but those of its own faults, so that a host's handlers run on
 * the host's threads. `name` (NULL: none; 15 bytes count) is what the system's tools show. The
 * stack is at least what the system asks for. false: refused. */
typedef struct Asthra__OsThread {
    unsigned long long handle;
} Asthra__OsThread;
ASTHRA__FN bool asthra__os_thread_start(Asthra__OsThread *out, size_t stack_bytes,
                                        void *(*run)(void *), void *argument, const char *name);
ASTHRA__FN void asthra__os_thread_join(Asthra__OsThread thread);
#endif

/* Descriptors. One set for the process, in which descriptors are armed: once one is ready the set
 * tells its mark, and it is disarmed. Events are those of poll(2), an error and the end are always
 * among them. Any thread may arm and wake; one at a time waits. errno is left as it was. */
typedef enum Asthra__OsArmed {
    ASTHRA__OS_ARMED,
    ASTHRA__OS_ARMED_ANEW,   /* the set had not known it: what was armed there before was closed */
    ASTHRA__OS_ARMED_NEVER,  /* a plain file: it is ready whenever it is asked */
    ASTHRA__OS_ARMED_CLOSED, /* no open descriptor */
    ASTHRA__OS_ARMED_FULL    /* the system has no room for it */
} Asthra__OsArmed;
typedef struct Asthra__OsReady {
    uint64_t mark;
    int events;
} Asthra__OsReady;
ASTHRA__FN bool asthra__os_poll_open(void);  /* false: refused */
ASTHRA__FN void asthra__os_poll_close(void); /* also in a forked child: the parent's set is kept */
/* is_known: it was armed before. Arming what is armed changes its events and mark. */
ASTHRA__FN Asthra__OsArmed asthra__os_poll_arm(int fd, int events, uint64_t mark, bool is_known);
/* How many are ready, at most `room`; waits for at most timeout_ns for one (< 0: no limit). */
ASTHRA__FN size_t asthra__os_poll_wait(Asthra__OsReady *out, size_t room, int64_t timeout_ns);
ASTHRA__FN void asthra__os_poll_wake(void); /* ends the wait under way, or else the next one */
/* One descriptor, without the set: its events, 0 at the limit, < 0: the negative errno. */
ASTHRA__FN int asthra__os_poll_one(int fd, int events, int64_t timeout_ns);

/* A descriptor that is readable from a set to a clear; fd < 0: the system refused. */
typedef struct Asthra__OsSignal {
    int fd, far_end;
} Asthra__OsSignal;
ASTHRA__FN Asthra__OsSignal asthra__os_signal_open(void);
ASTHRA__FN void asthra__os_signal_close(Asthra__OsSignal s);
ASTHRA__FN void asthra__os_signal_set(Asthra__OsSignal s);
ASTHRA__FN void asthra__os_signal_clear(Asthra__OsSignal s);

/* Faults. `handler` is called for SIGSEGV and SIGBUS that an instruction caused, with the address
 * that was touched, on the alternate stack of a thread that has one. true: it has changed the
 * context, or wants the instruction again; false: the signal goes on to whoever handled it before.
 * Only what is safe in a signal handler may be called in it. */
typedef bool (*Asthra__OsFaultHandler)(void *address, void *context);
ASTHRA__FN bool asthra__os_fault_install(Asthra__OsFaultHandler handler); /* once for the process */
ASTHRA__FN void asthra__os_fault_remove(void);
/* This thread's alternate stack. One that the host or a sanitizer has set is kept and used;
 * *memory, NULL then, is what leave needs. false: no memory. */
ASTHRA__FN bool asthra__os_fault_stack_enter(void **memory);
ASTHRA__FN void asthra__os_fault_stack_leave(void *memory);
/* Makes the interrupted code go on in `target(argument)`, which must not return, on the stack that
 * ends at `stack_top`. false: not on this processor. */
ASTHRA__FN bool asthra__os_fault_redirect(void *context, void (*target)(void *), void *argument,
                                          void *stack_top);

/* Makes the interrupted code go on as if it had called `target(argument)`, which must not return,
 * so that a backtrace shows it as the caller. false: not on this processor. On i386 the argument
 * comes in a register: on the stack it would be in the way of the backtrace. */
#if ASTHRA__CPU_I386
#define ASTHRA__OS_CALLED __attribute__((__regparm__(1)))
#else
#define ASTHRA__OS_CALLED
#endif
typedef void (*Asthra__OsCalled)(void *argument) ASTHRA__OS_CALLED;
ASTHRA__FN bool asthra__os_fault_call(void *context, Asthra__OsCalled target, void *argument);

/* Writes an address inside each calling instruction, newest caller first; returns how many. Ends
 * where a fiber began. Walks unwind tables: code built without them ends it early. */
ASTHRA__FN size_t asthra__os_backtrace(void **out, size_t room);
/* The same as frames. `place` is where the frame goes on when its callee returns, `stack` its stack
 * pointer then, 0 where that cannot be told; is_exact: it was interrupted there, and not left by a
 * call. *is_all: there are no more. The first is the caller's. */
typedef struct Asthra__OsFrame {
    uintptr_t place, stack;
    bool is_exact;
} Asthra__OsFrame;
ASTHRA__FN size_t asthra__os_frames(Asthra__OsFrame *out, size_t room, bool *is_all);

/* Writes "function+0x12 (object)" or, where there is no name, "0x55d0 (object+0x1234)", for
 * addr2line; without a zero at the end. Returns bytes written, never more than `room`. */
ASTHRA__FN size_t asthra__os_symbol(const void *address, char *out, size_t room);

/* Hooks of fork: before in the parent, after in the parent, after in the child. They cannot be
 * taken back. Without threads there are none: the child goes on as its parent would. */
ASTHRA__FN void asthra__os_on_fork(void (*before)(void), void (*parent)(void), void (*child)(void));

/* ---- what the files of one system share; Linux ---- */

/* Reads at most room - 1 bytes of a file of /proc or /sys as a string; "" if there is none. */
ASTHRA__FN size_t asthra__os_read_file(const char *path, char *out, size_t room);
/* Counts the mappings of this process. If `inside` is not 0 stops at the one that holds it; *start
 * and *end are its bounds, *before is the end of the one below it. 0: not found, or no /proc. */
ASTHRA__FN size_t asthra__os_maps_scan(uintptr_t inside, uintptr_t *before, uintptr_t *start,
                                       uintptr_t *end);

#endif

/* ---- [os] body ------------------------------------------------------ platform/os_linux.c ---- */
/* os_linux - clock, cores, parking, fences and threads of Linux.           [os] body
 *
 * Parking is a futex. The word that is waited on is the truth; a wake without a sleeper is lost and
 * may be, because every sleeper compares the word first.
 *
 * Fences. membarrier makes every running thread of the process pass a full fence, so one side of a
 * Dekker-like protocol can do without. The kernel keeps the registration over fork.
 * ThreadSanitizer does not model fences: there both halves are a read-modify-write of one word.
 *
 * The choices that were found at run time live in the one object below. Each is written once or
 * may be written twice with the same value, so relaxed order is enough.
 */

#if ASTHRA_HAS_CORE && ASTHRA__SYS_LINUX

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#if ASTHRA_HAS_THREADS
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#endif

enum {
    ASTHRA__OS_FUTEX_WAIT = 128, /* FUTEX_WAIT | FUTEX_PRIVATE_FLAG */
    ASTHRA__OS_FUTEX_WAKE = 129,
    ASTHRA__OS_MEMBARRIER_QUERY = 0,
    ASTHRA__OS_MEMBARRIER_EXPEDITED = 1 << 3,
    ASTHRA__OS_MEMBARRIER_REGISTER = 1 << 4,
    ASTHRA__OS_PREFERRED = 1, /* MPOL_PREFERRED */
    ASTHRA__OS_NODES = 1024   /* the most that Linux can be built for */
};

static struct {
    ASTHRA__ATOMIC(bool) has_membarrier;
    ASTHRA__ATOMIC(uint32_t) fence; /* ThreadSanitizer's stand-in */
} asthra__os;

ASTHRA__FN size_t asthra__os_read_file(const char *path, char *out, size_t room) {
    int saved = errno;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    size_t have = 0;
    ssize_t got = 0;
    while (file >= 0 && have + 1 < room && (got = read(file, out + have, room - 1 - have)) > 0)
        have += (size_t)got;
    if (file >= 0) close(file);
    out[have] = 0;
    errno = saved;
    return have;
}

/* Clock, chance, cores. */

ASTHRA__FN int64_t asthra__os_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

ASTHRA__FN uint64_t asthra__os_entropy(void) {
    int saved = errno;
    uint64_t bits = 0;
    const unsigned long seed = getauxval(AT_RANDOM); /* the kernel's 16 random bytes */
    if (seed) memcpy(&bits, (const void *)seed, sizeof bits);
    bits ^= (uint64_t)asthra__os_now_ns() * 0x9e3779b97f4a7c15u ^ (uint64_t)getpid() << 40;
#ifdef SYS_getrandom
    uint64_t fresh;
    if (syscall(SYS_getrandom, &fresh, sizeof fresh, 1L /* GRND_NONBLOCK */) == (long)sizeof fresh)
        bits = fresh;
#endif
    errno = saved;
    return bits;
}

/* Cores of the affinity mask. 8192 is the most that Linux can be built for. */
static unsigned asthra__os_cores_allowed(void) {
    unsigned long mask[8192 / 8 / sizeof(unsigned long)];
    unsigned count = 0;
    long bytes = syscall(SYS_sched_getaffinity, 0L, sizeof mask, mask);
    for (size_t i = 0; bytes > 0 && i < (size_t)bytes / sizeof *mask; i++)
        count += (unsigned)__builtin_popcountl(mask[i]);
    if (count > 0) return count;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (unsigned)online : 1;
}

/* Cores of the quota in a cpu.max ("quota period", or "max period"), rounded up; 0: no quota. */
static unsigned asthra__os_cores_quota(const char *path) {
    char text[64];
    if (asthra__os_read_file(path, text, sizeof text) == 0) return 0;
    char *rest;
    long long quota = strtoll(text, &rest, 10), period = strtoll(rest, NULL, 10);
    if (quota <= 0 || period <= 0) return 0;
    long long cores = (quota + period - 1) / period;
    return cores < 8192 ? (unsigned)cores : 8192;
}

/* The tightest quota of this process's control group and the ones above it; 0: none. A container
 * sees its own group as the root, so the root is asked too. */
static unsigned asthra__os_cores_of_group(void) {
    static const char root[] = "/sys/fs/cgroup", leaf[] = "/cpu.max";
    char groups[2048], path[sizeof root + 512 + sizeof leaf];
    unsigned least = 0;
    asthra__os_read_file("/proc/self/cgroup", groups, sizeof groups);
    const char *own = strncmp(groups, "0::", 3) == 0 ? groups : strstr(groups, "\n0::");
    own = own ? strchr(own, '/') : NULL;
    size_t length = own ? strcspn(own, "\n") : 0;
    if (length > 512) length = 0;
    memcpy(path, root, sizeof root - 1);
    if (length > 0) memcpy(path + sizeof root - 1, own, length);
    for (;;) {
        memcpy(path + sizeof root - 1 + length, leaf, sizeof leaf);
        unsigned quota = asthra__os_cores_quota(path);
        if (quota && (!least || quota < least)) least = quota;
        if (length == 0) return least;
        do length--;
        while (length > 0 && path[sizeof root - 1 + length] != '/');
    }
}

ASTHRA__FN unsigned asthra__os_cores(void) {
    int saved = errno;
    unsigned allowed = asthra__os_cores_allowed(), quota = asthra__os_cores_of_group();
    errno = saved;
    return quota && quota < allowed ? quota : allowed;
}

/* Nodes of memory. */

/* How many numbers a list like "0-2,5" has; 0: it is none. */
static unsigned asthra__os_list_count(const char *text) {
    unsigned count = 0;
    for (;;) {
        char *rest;
        long first = strtol(text, &rest, 10), last = first;
        if (rest == text) return count;
        if (*rest == '-') last = strtol(rest + 1, &rest, 10);
        if (first < 0 || last < first || last >= ASTHRA__OS_NODES) return count;
        count += (unsigned)(last - first + 1);
        if (*rest != ',') return count;
        text = rest + 1;
    }
}

ASTHRA__FN unsigned asthra__os_nodes(void) {
    char text[256];
    int saved = errno;
    asthra__os_read_file("/sys/devices/system/node/has_memory", text, sizeof text);
    unsigned count = asthra__os_list_count(text);
    errno = saved;
    return count > 0 ? count : 1;
}

ASTHRA__FN unsigned asthra__os_node(void) {
    int saved = errno;
    unsigned node = 0;
    if (syscall(SYS_getcpu, NULL, &node, NULL) != 0) node = 0;
    errno = saved;
    return node;
}

/* The kernel reads one bit less than it is told of. */
ASTHRA__FN void asthra__os_prefer_node(void *start, size_t bytes, unsigned node) {
    enum { BITS = 8 * sizeof(unsigned long) };
    unsigned long mask[ASTHRA__OS_NODES / BITS] = {0};
    int saved = errno;
    if (node >= ASTHRA__OS_NODES) return;
    mask[node / BITS] = 1ul << node % BITS;
    syscall(SYS_mbind, start, bytes, (long)ASTHRA__OS_PREFERRED, mask, (long)ASTHRA__OS_NODES + 1,
            0L);
    errno = saved;
}

/* Parking. The kernel's old timespec is two longs on every processor that has this call. */

ASTHRA__FN void asthra__os_wait(ASTHRA__ATOMIC(uint32_t) * word, uint32_t expected,
                                int64_t timeout_ns) {
    int saved = errno;
    int64_t seconds = timeout_ns / 1000000000;
    long limit[2] = {seconds < INT32_MAX ? (long)seconds : INT32_MAX,
                     (long)(timeout_ns % 1000000000)};
    syscall(SYS_futex, word, (long)ASTHRA__OS_FUTEX_WAIT, (long)expected,
            timeout_ns < 0 ? NULL : limit, NULL, 0L);
    errno = saved;
}

ASTHRA__FN void asthra__os_wake(ASTHRA__ATOMIC(uint32_t) * word, uint32_t how_many) {
    int saved = errno;
    long most = how_many < INT32_MAX ? (long)how_many : INT32_MAX;
    syscall(SYS_futex, word, (long)ASTHRA__OS_FUTEX_WAKE, most, NULL, NULL, 0L);
    errno = saved;
}

ASTHRA__FN void asthra__os_yield(void) {
    sched_yield();
}

/* Fences. */

#if ASTHRA_HAS_THREADS && !ASTHRA__TSAN

static bool asthra__os_membarrier(int command) {
#ifdef SYS_membarrier
    return syscall(SYS_membarrier, (long)command, 0L, 0L) == 0;
#else
    (void)command;
    return false;
#endif
}

ASTHRA__FN void asthra__os_fence_setup(void) {
    int saved = errno;
    bool works = asthra__os_membarrier(ASTHRA__OS_MEMBARRIER_REGISTER) &&
                 asthra__os_membarrier(ASTHRA__OS_MEMBARRIER_EXPEDITED);
    asthra__store(&asthra__os.has_membarrier, works, relaxed);
    errno = saved;
}

ASTHRA__FN ASTHRA__FAST void asthra__os_fence_light(void) {
    if (ASTHRA__LIKELY(asthra__load(&asthra__os.has_membarrier, relaxed)))
        asthra__compiler_fence();
    else
        atomic_thread_fence(memory_order_seq_cst);
}

/* A membarrier that worked and is refused now (a sandbox was entered meanwhile) leaves the other
 * side unfenced; going on would lose wake-ups in silence. */
ASTHRA__FN void asthra__os_fence_heavy(void) {
    static const char text[] = "asthra_rt: membarrier was taken away from this process after the "
                               "runtime had started; allow it, or start the runtime later\n";
    atomic_thread_fence(memory_order_seq_cst);
    if (!asthra__load(&asthra__os.has_membarrier, relaxed)) return;
    int saved = errno;
    if (!asthra__os_membarrier(ASTHRA__OS_MEMBARRIER_EXPEDITED)) {
        asthra__os_fence_setup();
        if (!asthra__load(&asthra__os.has_membarrier, relaxed)) {
            asthra__os_write_error(text, sizeof text - 1);
            abort();
        }
    }
    errno = saved;
}

#else

ASTHRA__FN void asthra__os_fence_setup(void) {}

ASTHRA__FN void asthra__os_fence_light(void) {
    asthra__add(&asthra__os.fence, 1, seq_cst);
}

ASTHRA__FN void asthra__os_fence_heavy(void) {
    asthra__add(&asthra__os.fence, 1, seq_cst);
}

#endif

/* This process and its threads. */

ASTHRA__FN uint64_t asthra__os_thread_id(void) {
    return (uint64_t)syscall(SYS_gettid);
}

ASTHRA__FN bool asthra__os_is_main_thread(void) {
    return asthra__os_thread_id() == (uint64_t)getpid();
}

/* The main thread's stack is the mapping that holds the kernel's gift of random bytes. It grows
 * down to its limit, or to the mapping below it and the gap that the kernel keeps there. */
static bool asthra__os_main_stack(void **low, void **high) {
    uintptr_t before, start, end, least;
    struct rlimit limit;
    if (!asthra__os_maps_scan((uintptr_t)getauxval(AT_RANDOM), &before, &start, &end)) return false;
    least = before + 256 * asthra__os_page_size();
    if (getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur < end - least)
        least = end - (uintptr_t)limit.rlim_cur;
    if (least > start) least = start;
    *low = (void *)least;
    *high = (void *)end;
    return true;
}

ASTHRA__FN size_t asthra__os_thread_count(void) {
    int saved = errno;
    struct stat tasks; /* one directory for each, and "." and ".." */
    bool is_known = stat("/proc/self/task", &tasks) == 0 && tasks.st_nlink > 2;
    errno = saved;
    return is_known ? (size_t)tasks.st_nlink - 2 : 0;
}

ASTHRA__FN void asthra__os_write_error(const char *text, size_t length) {
    int saved = errno;
    while (length > 0) {
        ssize_t done = write(STDERR_FILENO, text, length);
        if (done < 0 && errno != EINTR) break;
        if (done <= 0) continue;
        text += done;
        length -= (size_t)done;
    }
    errno = saved;
}

ASTHRA__FN bool asthra__os_stderr_is_terminal(void) {
    int saved = errno;
    bool is_terminal = isatty(STDERR_FILENO) != 0;
    errno = saved;
    return is_terminal;
}

#if ASTHRA_HAS_THREADS

/* Two names that a host's earlier include of <pthread.h> may have left undeclared. */
extern int asthra__os_getattr(pthread_t thread, pthread_attr_t *out) __asm__("pthread_getattr_np");
extern int asthra__os_setname(pthread_t thread, const char *name) __asm__("pthread_setname_np");

/* The C library opens a stream to answer for the main thread, and musl tells only what has been
 * touched; so that one we answer ourselves. A thread that forked is the child's main thread and
 * stands elsewhere, which is why the place of a local counts. */
ASTHRA__FN bool asthra__os_stack_bounds(void **low, void **high) {
    pthread_attr_t attributes;
    size_t bytes = 0;
    const char *here = (const char *)&attributes;
    bool is_known = asthra__os_is_main_thread() && asthra__os_main_stack(low, high);
    if (is_known && here >= (char *)*low && here < (char *)*high) return true;
    if (asthra__os_getattr(pthread_self(), &attributes) != 0) return false;
    is_known = pthread_attr_getstack(&attributes, low, &bytes) == 0;
    pthread_attr_destroy(&attributes);
    if (is_known) *high = (char *)*low + bytes;
    return is_known;
}

/* Everything but what the thread's own instructions raise: those would end the process blocked. */
static void asthra__os_blocked_signals(sigset_t *set) {
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
    sigfillset(set);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(set, faults[i]);
}

static size_t asthra__os_thread_stack(size_t bytes) {
    long least = sysconf(_SC_THREAD_STACK_MIN);
    size_t page = asthra__os_page_size();
    if (least > 0 && bytes < (size_t)least) bytes = (size_t)least;
    if (bytes < (size_t)PTHREAD_STACK_MIN) bytes = (size_t)PTHREAD_STACK_MIN;
    return (bytes + page - 1) / page * page;
}

/* The new thread inherits the mask of this one, which is why it is changed for the moment. */
ASTHRA__FN bool asthra__os_thread_start(Asthra__OsThread *out, size_t stack_bytes,
                                        void *(*run)(void *), void *argument, const char *name) {
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t blocked, before;
    char shown[16] = {0};
    int saved = errno;
    if (pthread_attr_init(&attributes) != 0) return false;
    pthread_attr_setstacksize(&attributes, asthra__os_thread_stack(stack_bytes));
    asthra__os_blocked_signals(&blocked);
    pthread_sigmask(SIG_BLOCK, &blocked, &before);
    bool is_started = pthread_create(&thread, &attributes, run, argument) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (is_started) {
        for (size_t i = 0; name && name[i] && i + 1 < sizeof shown; i++) shown[i] = name[i];
        if (name) asthra__os_setname(thread, shown);
        *out = (Asthra__OsThread){0};
        memcpy(&out->handle, &thread, sizeof thread);
    }
    errno = saved;
    return is_started;
}
_Static_assert(sizeof(pthread_t) <= sizeof(unsigned long long), "a pthread_t fits the handle");

ASTHRA__FN void asthra__os_thread_join(Asthra__OsThread thread) {
    pthread_t joined;
    memcpy(&joined, &thread.handle, sizeof joined);
    pthread_join(joined, NULL);
}

ASTHRA__FN void asthra__os_on_fork(void (*before)(void), void (*parent)(void),
                                   void (*child)(void)) {
    pthread_atfork(before, parent, child);
}

#else

ASTHRA__FN bool asthra__os_stack_bounds(void **low, void **high) {
    return asthra__os_is_main_thread() && asthra__os_main_stack(low, high);
}

ASTHRA__FN void asthra__os_on_fork(void (*before)(void), void (*parent)(void),
                                   void (*child)(void)) {
    (void)before, (void)parent, (void)child;
}

#endif

#endif

/* ---- [os] body ------------------------------------------------ platform/os_linux_pages.c ---- */
/* os_linux - pages of Linux.                                               [os] body: pages
 *
 * Memory comes from mmap without reservation, so that a thousand stacks cost addresses and
 * not memory. A guard page is a mark in the page table where the kernel has such marks
 * (MADV_GUARD_INSTALL, 6.13), 64 of them in one call where a process may advise itself
 * (process_madvise on PIDFD_SELF). Older kernels split the mapping in two with mprotect, and a
 * process has a limit of mappings (vm.max_map_count). Of that limit we take no more than leaves
 * half of it to the host: a budget, filled by counting the lines of /proc/self/maps, pays two
 * mappings a guard. When it is empty and something was unmapped since, it is counted again.
 *
 * What the mappings of the process are, the kernel tells in a file; it is read for messages, and to
 * fill the budget.
 */

#if ASTHRA_HAS_CORE && ASTHRA__SYS_LINUX

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#if ASTHRA__ASAN
void __asan_unpoison_memory_region(void const volatile *addr, size_t size);
#endif

enum {
    ASTHRA__OS_GUARD_INSTALL = 102,    /* MADV_GUARD_INSTALL, Linux 6.13 */
    ASTHRA__OS_NO_SUCH_ADVICE = 30000, /* to be refused */
    ASTHRA__OS_PIDFD_SELF = -10000,    /* PIDFD_SELF_THREAD, Linux 6.15 */
    ASTHRA__OS_DONTNEED_LOCKED = 24,   /* MADV_DONTNEED_LOCKED, Linux 5.18 */
    ASTHRA__OS_MOVE = 1 | 2,           /* MREMAP_MAYMOVE, MREMAP_FIXED */
    ASTHRA__OS_NOREPLACE = 0x100000,   /* MAP_FIXED_NOREPLACE, Linux 4.17; before that a hint */
    ASTHRA__OS_PROCESS_MADVISE = 440,  /* the same number on every processor */
    ASTHRA__OS_GUARDS_A_CALL = 64
};

/* Ways to guard a page, best first; one that fails for good is never tried again. The first is to
 * find out: emulators and sandboxes exist that answer OK to any advice and do nothing. */
enum {
    ASTHRA__OS_GUARD_UNKNOWN,
    ASTHRA__OS_GUARD_MANY,
    ASTHRA__OS_GUARD_EACH,
    ASTHRA__OS_GUARD_SPLIT
};

static struct {
    ASTHRA__ATOMIC(int) guard_way;
    ASTHRA__ATOMIC(int) budget;      /* mappings that guards may still make */
    ASTHRA__ATOMIC(bool) is_counted; /* nothing was unmapped since the budget was filled */
} asthra__pages;

/* ---- the mappings of the process ---- */

/* /proc/self/maps, a character at a time: it has no bound, and no heap may be asked. */
typedef struct Asthra__OsMaps {
    int file;
    size_t at, have;
    char bytes[1024];
} Asthra__OsMaps;

static int asthra__os_maps_next(Asthra__OsMaps *maps) {
    if (maps->at == maps->have) {
        ssize_t got = read(maps->file, maps->bytes, sizeof maps->bytes);
        if (got <= 0) return -1;
        maps->have = (size_t)got;
        maps->at = 0;
    }
    return maps->bytes[maps->at++];
}

/* Reads hexadecimal digits; the character that ended them is in *end. */
static uintptr_t asthra__os_maps_number(Asthra__OsMaps *maps, int *end) {
    uintptr_t value = 0;
    for (;;) {
        int c = asthra__os_maps_next(maps);
        *end = c;
        if (c >= '0' && c <= '9')
            value = value << 4 | (uintptr_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value << 4 | (uintptr_t)(c - 'a' + 10);
        else
            return value;
    }
}

ASTHRA__FN size_t asthra__os_maps_scan(uintptr_t inside, uintptr_t *before, uintptr_t *start,
                                       uintptr_t *end) {
    int saved = errno, c = 0;
    Asthra__OsMaps maps = {.file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC)};
    size_t count = 0;
    *before = *start = *end = 0;
    while (maps.file >= 0 && c >= 0) {
        uintptr_t low = asthra__os_maps_number(&maps, &c);
        uintptr_t high = asthra__os_maps_number(&maps, &c);
        if (c < 0) break;
        count++;
        *before = *end;
        *start = low;
        *end = high;
        if (inside && inside >= low && inside < high) break;
        while (c >= 0 && c != '\n') c = asthra__os_maps_next(&maps);
    }
    if (maps.file >= 0) close(maps.file);
    errno = saved;
    return inside && !(inside >= *start && inside < *end) ? 0 : count;
}

/* Reads to the end of the line; returns the first character of the mapping's name, 0: none. */
static int asthra__os_maps_name(Asthra__OsMaps *maps, char second[8]) {
    int name = 0, c;
    size_t n = 0;
    while ((c = asthra__os_maps_next(maps)) >= 0 && c != '\n') {
        if (name == 0 && (c == '/' || c == '[')) name = c;
        if (name != 0 && n < 7) second[n++] = (char)c;
    }
    second[n] = '\0';
    return name;
}

static Asthra__OsMapping asthra__os_mapping_kind(int name, const char *text, bool follows_file) {
    if (name == '/') return ASTHRA__OS_MAPPING_STATIC;
    if (name == 0 && follows_file) return ASTHRA__OS_MAPPING_STATIC; /* .bss */
    return strcmp(text, "[stack]") == 0 ? ASTHRA__OS_MAPPING_STACK : ASTHRA__OS_MAPPING_OTHER;
}

ASTHRA__FN Asthra__OsMapping asthra__os_mapping_of(const void *address) {
    int saved = errno, c = 0;
    Asthra__OsMaps maps = {.file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC)};
    Asthra__OsMapping found = maps.file < 0 ? ASTHRA__OS_MAPPING_OTHER : ASTHRA__OS_MAPPING_NONE;
    uintptr_t at = (uintptr_t)address, file_end = 0;
    while (maps.file >= 0) {
        char text[8];
        uintptr_t low = asthra__os_maps_number(&maps, &c);
        uintptr_t high = asthra__os_maps_number(&maps, &c);
        if (c < 0) break;
        int name = asthra__os_maps_name(&maps, text);
        if (at >= low && at < high) {
            found = asthra__os_mapping_kind(name, text, low == file_end);
            break;
        }
        if (name == '/') file_end = high;
    }
    if (maps.file >= 0) close(maps.file);
    errno = saved;
    return found;
}

/* ---- pages ---- */

ASTHRA__FN size_t asthra__os_page_size(void) {
    return (size_t)sysconf(_SC_PAGESIZE);
}

ASTHRA__FN void *asthra__os_map(size_t bytes) {
    int saved = errno;
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    errno = saved;
    return start == MAP_FAILED ? NULL : start;
}

ASTHRA__FN void asthra__os_unmap(void *start, size_t bytes) {
    int saved = errno;
#if ASTHRA__ASAN
    __asan_unpoison_memory_region(start, bytes); /* its shadow outlives the mapping */
#endif
    munmap(start, bytes);
    asthra__store(&asthra__pages.is_counted, false, relaxed);
    errno = saved;
}

static char *asthra__os_map_plain(size_t bytes) {
    int saved = errno;
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    errno = saved;
    return start == MAP_FAILED ? NULL : start;
}

/* Neighbours of an aligned mapping are often aligned, so the plain call comes first. */
ASTHRA__FN void *asthra__os_map_aligned(size_t bytes, size_t alignment) {
    size_t wide = bytes + alignment - asthra__os_page_size();
    char *start = asthra__os_map_plain(bytes);
    if (start == NULL || ((uintptr_t)start & (alignment - 1)) == 0) return start;
    asthra__os_unmap(start, bytes);
    if (wide < bytes || (start = asthra__os_map_plain(wide)) == NULL) return NULL;
    size_t head = (size_t)(-(uintptr_t)start & (alignment - 1)), tail = wide - head - bytes;
    if (head != 0) asthra__os_unmap(start, head);
    if (tail != 0) asthra__os_unmap(start + head + bytes, tail);
    return start + head;
}

ASTHRA__FN bool asthra__os_close_pages(void *start, size_t bytes) {
    int saved = errno;
    madvise(start, bytes, MADV_DONTNEED);
    bool is_closed = mprotect(start, bytes, PROT_NONE) == 0;
    errno = saved;
    return is_closed;
}

ASTHRA__FN bool asthra__os_open_pages(void *start, size_t bytes) {
    int saved = errno;
    bool is_open = mprotect(start, bytes, PROT_READ | PROT_WRITE) == 0;
    errno = saved;
    return is_open;
}

ASTHRA__FN size_t asthra__os_resident(const void *start, size_t bytes) {
    unsigned char there[256];
    int saved = errno;
    size_t page = asthra__os_page_size(), count = 0;
    for (size_t done = 0; done < bytes; done += sizeof there * page) {
        size_t part = bytes - done < sizeof there * page ? bytes - done : sizeof there * page;
        if (mincore((char *)(uintptr_t)start + done, part, there) != 0) break;
        for (size_t i = 0; i < (part + page - 1) / page; i++) count += there[i] & 1;
    }
    errno = saved;
    return count * page;
}

ASTHRA__FN int asthra__os_lock_pages(void *start, size_t bytes) {
    int saved = errno;
    int error = mlock(start, bytes) == 0 ? 0 : errno;
    errno = saved;
    return error;
}

ASTHRA__FN void asthra__os_unlock_pages(void *start, size_t bytes) {
    int saved = errno;
    munlock(start, bytes);
    errno = saved;
}

ASTHRA__FN bool asthra__os_discard(void *start, size_t bytes) {
    int saved = errno; /* EINVAL: locked memory */
    bool is_done = madvise(start, bytes, MADV_DONTNEED) == 0 ||
                   madvise(start, bytes, ASTHRA__OS_DONTNEED_LOCKED) == 0;
    errno = saved;
    return is_done;
}

/* Whether all of it is mapped. */
static bool asthra__os_is_mapped(void *start, size_t bytes) {
    return msync(start, bytes, MS_ASYNC) == 0;
}

/* The kernel takes away what is in the way before it finds reasons to refuse: that `from` lies in
 * several mappings, because the host has advised part of it, say. */
ASTHRA__FN Asthra__OsMoved asthra__os_move(void *from, size_t bytes, void *to, size_t to_bytes) {
    int saved = errno;
    Asthra__OsMoved how = ASTHRA__OS_MOVED;
    if (syscall(SYS_mremap, from, bytes, to_bytes, ASTHRA__OS_MOVE, to) != (long)to) {
        void *again = mmap(to, to_bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | ASTHRA__OS_NOREPLACE, -1, 0);
        how = asthra__os_is_mapped(to, to_bytes) ? ASTHRA__OS_STAYED : ASTHRA__OS_LOST;
        if (again != MAP_FAILED && again != to) munmap(again, to_bytes);
    }
#if ASTHRA__ASAN
    if (how == ASTHRA__OS_MOVED) __asan_unpoison_memory_region(from, bytes);
#endif
    errno = saved;
    return how;
}

/* Fills the budget: how far the mappings of the process are from half of what it may have. */
static void asthra__os_budget_fill(void) {
    char text[32];
    uintptr_t before, start, end;
    asthra__os_read_file("/proc/sys/vm/max_map_count", text, sizeof text);
    long limit = atol(text) > 0 ? atol(text) / 2 : 65530 / 2;
    long used = (long)asthra__os_maps_scan(0, &before, &start, &end);
    long left = limit > used ? limit - used : 0;
    asthra__store(&asthra__pages.is_counted, true, relaxed);
    asthra__store(&asthra__pages.budget, left < INT32_MAX ? (int)left : INT32_MAX, relaxed);
}

/* Takes two mappings from the budget; false: there are none to take. */
static bool asthra__os_budget_take(void) {
    if (asthra__sub(&asthra__pages.budget, 2, relaxed) >= 2) return true;
    asthra__add(&asthra__pages.budget, 2, relaxed);
    if (asthra__load(&asthra__pages.is_counted, relaxed)) return false;
    asthra__os_budget_fill();
    return asthra__sub(&asthra__pages.budget, 2, relaxed) >= 2;
}

/* Guards pages from `first` on in one call; returns how many, 0 with errno if none. */
static size_t asthra__os_guard_many(char *first, size_t stride, size_t count) {
    struct iovec pages[ASTHRA__OS_GUARDS_A_CALL];
    size_t page = asthra__os_page_size();
    if (count > ASTHRA__OS_GUARDS_A_CALL) count = ASTHRA__OS_GUARDS_A_CALL;
    for (size_t i = 0; i < count; i++)
        pages[i] = (struct iovec){.iov_base = first + i * stride, .iov_len = page};
    long done = syscall(ASTHRA__OS_PROCESS_MADVISE, (long)ASTHRA__OS_PIDFD_SELF, pages, count,
                        (long)ASTHRA__OS_GUARD_INSTALL, 0L);
    return done > 0 ? (size_t)done / page : 0;
}

/* Guards pages from `first` on in the way `way`; returns how many, 0 if that way is closed. */
static size_t asthra__os_guard_some(int way, char *first, size_t stride, size_t count) {
    size_t page = asthra__os_page_size();
    if (way == ASTHRA__OS_GUARD_MANY) return asthra__os_guard_many(first, stride, count);
    if (way == ASTHRA__OS_GUARD_EACH) return madvise(first, page, ASTHRA__OS_GUARD_INSTALL) == 0;
    return asthra__os_budget_take() && mprotect(first, page, PROT_NONE) == 0;
}

static int asthra__os_guard_way(void *some_page) {
    int way = asthra__load(&asthra__pages.guard_way, relaxed);
    if (ASTHRA__LIKELY(way != ASTHRA__OS_GUARD_UNKNOWN)) return way;
    bool is_honest = madvise(some_page, asthra__os_page_size(), ASTHRA__OS_NO_SUCH_ADVICE) != 0;
    way = is_honest ? ASTHRA__OS_GUARD_MANY : ASTHRA__OS_GUARD_SPLIT;
    asthra__store(&asthra__pages.guard_way, way, relaxed);
    return way;
}

ASTHRA__FN bool asthra__os_guard_pages(void *first, size_t stride, size_t count) {
    int saved = errno;
    char *at = first;
    while (count > 0) {
        int way = asthra__os_guard_way(at);
        size_t done = asthra__os_guard_some(way, at, stride, count);
        at += done * stride;
        count -= done;
        if (done > 0) continue;
        if (way == ASTHRA__OS_GUARD_SPLIT || errno == ENOMEM) break;
        if (errno != EINTR && errno != EAGAIN)
            asthra__store(&asthra__pages.guard_way, way + 1, relaxed);
    }
    errno = saved;
    return count == 0;
}

#endif

/* ---- [os] body ------------------------------------------------ platform/os_linux_fault.c ---- */
/* os_linux_fault - fault signals, alternate stacks, backtraces.            [os] body
 *
 * A fault handler shares its signal with the host's and the sanitizers'. Three rules keep peace.
 * Only a signal that an instruction caused is ours (si_code > 0); one that was sent goes on. What
 * is not ours goes on to the handler before us, with the mask that it asked for; where that was the
 * default, the default is put back and the instruction faults again, so that the core dump shows
 * the culprit and not this file. And removal restores the old handler only where ours is still the
 * one installed: if someone has stacked theirs on top since, ours stays below it and passes on.
 *
 * The handler runs with its signal blocked: a fault inside it ends the process at once instead of
 * recursing. Leaving it by asthra__os_fault_redirect is an ordinary return from the signal, so the
 * mask of the interrupted code comes back by itself.
 *
 * Names come from dladdr, bound weakly: a static program or an old C library without it links
 * quietly and reports offsets in its executable instead.
 */

#if ASTHRA_HAS_CORE && ASTHRA__SYS_LINUX

#include <elf.h>
#include <errno.h>
#include <link.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/ucontext.h>
#include <ucontext.h>
#include <unistd.h>
#include <unwind.h>

enum {
    ASTHRA__OS_FAULT_SIGNALS = 2,
    ASTHRA__OS_AT_MINSIGSTKSZ = 51,   /* AT_MINSIGSTKSZ: what the kernel's own frame takes */
    ASTHRA__OS_FAULT_ROOM = 48 * 1024 /* for the handler; unwinding takes most of it */
};

static const int asthra__os_fault_numbers[ASTHRA__OS_FAULT_SIGNALS] = {SIGSEGV, SIGBUS};

static struct {
    ASTHRA__ATOMIC(Asthra__OsFaultHandler) handler;
    struct sigaction before[ASTHRA__OS_FAULT_SIGNALS];
    bool is_linked[ASTHRA__OS_FAULT_SIGNALS]; /* ours is installed, or below one that calls it */
} asthra__os_fault;

/* Passes a signal on to whoever had it before. */
static void asthra__os_fault_pass(int number, siginfo_t *info, void *context) {
    const struct sigaction *before = &asthra__os_fault.before[number == SIGBUS];
    bool is_sent = info->si_code <= 0;
    bool is_plain = !(before->sa_flags & SA_SIGINFO);
    if (is_plain && before->sa_handler == SIG_IGN && is_sent) return;
    if (is_plain && (before->sa_handler == SIG_DFL || before->sa_handler == SIG_IGN)) {
        struct sigaction standard = {.sa_handler = SIG_DFL};
        sigaction(number, &standard, NULL);
        if (is_sent) raise(number); /* arrives when this handler returns */
        return;
    }
    sigset_t own;
    sigemptyset(&own);
    sigaddset(&own, number);
    sigprocmask(SIG_BLOCK, &before->sa_mask, NULL);
    if (before->sa_flags & SA_NODEFER) sigprocmask(SIG_UNBLOCK, &own, NULL);
    if (is_plain)
        before->sa_handler(number);
    else
        before->sa_sigaction(number, info, context);
}

static void asthra__os_fault_signal(int number, siginfo_t *info, void *context) {
    int saved = errno;
    Asthra__OsFaultHandler handler = asthra__load(&asthra__os_fault.handler, acquire);
    if (!(handler && info->si_code > 0 && handler(info->si_addr, context)))
        asthra__os_fault_pass(number, info, context);
    errno = saved;
}

static bool asthra__os_fault_is_ours(const struct sigaction *action) {
    return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == asthra__os_fault_signal;
}

/* The old action is stored before ours can run, because ours reads it. */
static bool asthra__os_fault_link(int i) {
    int number = asthra__os_fault_numbers[i];
    struct sigaction ours = {.sa_flags = SA_SIGINFO | SA_ONSTACK};
    if (asthra__os_fault.is_linked[i]) return true;
    if (sigaction(number, NULL, &asthra__os_fault.before[i]) != 0) return false;
    ours.sa_sigaction = asthra__os_fault_signal;
    sigemptyset(&ours.sa_mask);
    asthra__os_fault.is_linked[i] = sigaction(number, &ours, NULL) == 0;
    return asthra__os_fault.is_linked[i];
}

ASTHRA__FN void asthra__os_fault_remove(void) {
    int saved = errno;
    asthra__store(&asthra__os_fault.handler, NULL, release); /* pairs with the handler's acquire */
    for (int i = 0; i < ASTHRA__OS_FAULT_SIGNALS; i++) {
        struct sigaction now;
        int number = asthra__os_fault_numbers[i];
        if (!asthra__os_fault.is_linked[i] || sigaction(number, NULL, &now) != 0) continue;
        if (!asthra__os_fault_is_ours(&now)) continue;
        sigaction(number, &asthra__os_fault.before[i], NULL);
        asthra__os_fault.is_linked[i] = false;
    }
    errno = saved;
}

ASTHRA__FN bool asthra__os_fault_install(Asthra__OsFaultHandler handler) {
    int saved = errno;
    bool is_linked = true;
    asthra__store(&asthra__os_fault.handler, handler, release);
    for (int i = 0; i < ASTHRA__OS_FAULT_SIGNALS; i++)
        is_linked = asthra__os_fault_link(i) && is_linked;
    if (!is_linked) asthra__os_fault_remove();
    errno = saved;
    return is_linked;
}

/* Alternate stacks: a guard page, room for the handler, the kernel's frame. */

static size_t asthra__os_fault_stack_bytes(void) {
    size_t page = asthra__os_page_size(), frame = (size_t)getauxval(ASTHRA__OS_AT_MINSIGSTKSZ);
    if (frame < 8192) frame = 8192;
    return page + (frame + ASTHRA__OS_FAULT_ROOM + page - 1) / page * page;
}

ASTHRA__FN bool asthra__os_fault_stack_enter(void **memory) {
    int saved = errno;
    stack_t now = {0};
    size_t bytes = asthra__os_fault_stack_bytes(), page = asthra__os_page_size();
    *memory = NULL;
    if (sigaltstack(NULL, &now) == 0 && !(now.ss_flags & SS_DISABLE)) return true;
    char *start = asthra__os_map(bytes);
    if (!start) return false;
    (void)asthra__os_guard_pages(start, page, 1);
    stack_t ours = {.ss_sp = start + page, .ss_size = bytes - page};
    bool is_set = sigaltstack(&ours, NULL) == 0;
    if (is_set)
        *memory = start;
    else
        asthra__os_unmap(start, bytes);
    errno = saved;
    return is_set;
}

/* If the host has set its own since, that one stays. */
ASTHRA__FN void asthra__os_fault_stack_leave(void *memory) {
    int saved = errno;
    stack_t now = {0}, none = {.ss_flags = SS_DISABLE};
    if (!memory) return;
    if (sigaltstack(NULL, &now) == 0 && now.ss_sp == (char *)memory + asthra__os_page_size())
        sigaltstack(&none, NULL);
    asthra__os_unmap(memory, asthra__os_fault_stack_bytes());
    errno = saved;
}

/* The saved registers of each processor. The places in gregs are the kernel's, written as numbers
 * because their names are there only if the host's first include asked for GNU's. */

/* Code that was interrupted among its sums may have left the x87 stack full, and a call finds it
 * empty: says so in the saved tags, which lie behind the control and the status word. */
#if ASTHRA__CPU_X86_64
static void asthra__os_x87_empty(mcontext_t *saved) {
    if (saved->fpregs != NULL) ((uint16_t *)(void *)saved->fpregs)[2] = 0; /* a bit: in use */
}
#elif ASTHRA__CPU_I386
static void asthra__os_x87_empty(mcontext_t *saved) {
    if (saved->fpregs != NULL) ((uint32_t *)(void *)saved->fpregs)[2] |= 0xffff; /* 3: empty */
}
#endif

ASTHRA__FN bool asthra__os_fault_redirect(void *context, void (*target)(void *), void *argument,
                                          void *stack_top) {
    mcontext_t *saved = &((ucontext_t *)context)->uc_mcontext;
    uintptr_t top = (uintptr_t)stack_top & ~(uintptr_t)15;
#if ASTHRA__CPU_X86_64
    enum { ASTHRA__RDI = 8, ASTHRA__RBP = 10, ASTHRA__RSP = 15, ASTHRA__RIP = 16 };
    enum { ASTHRA__FLAGS = 17, ASTHRA__DIRECTION = 0x400 };
    memset((void *)(top - 16), 0, 16); /* a return address that ends a walk, as a call leaves it */
    saved->gregs[ASTHRA__RSP] = (greg_t)(top - 8);
    saved->gregs[ASTHRA__RBP] = 0;
    saved->gregs[ASTHRA__RDI] = (greg_t)(uintptr_t)argument;
    saved->gregs[ASTHRA__RIP] = (greg_t)(uintptr_t)target;
    saved->gregs[ASTHRA__FLAGS] &= ~(greg_t)ASTHRA__DIRECTION; /* the ABI's state at a call */
    asthra__os_x87_empty(saved);
    return true;
#elif ASTHRA__CPU_AARCH64
    saved->sp = top;
    saved->regs[0] = (uintptr_t)argument;
    saved->regs[29] = 0;
    saved->regs[30] = 0;
    saved->pc = (uintptr_t)target;
    saved->pstate &= ~(uint64_t)0xc00; /* BTYPE: not the target of an indirect branch */
    return true;
#elif ASTHRA__CPU_RISCV64
    enum { ASTHRA__PC = 0, ASTHRA__RA = 1, ASTHRA__SP = 2, ASTHRA__S0 = 8, ASTHRA__A0 = 10 };
    saved->__gregs[ASTHRA__SP] = top;
    saved->__gregs[ASTHRA__A0] = (uintptr_t)argument;
    saved->__gregs[ASTHRA__S0] = 0;
    saved->__gregs[ASTHRA__RA] = 0;
    saved->__gregs[ASTHRA__PC] = (uintptr_t)target;
    return true;
#elif ASTHRA__CPU_I386
    enum { ASTHRA__EBP = 6, ASTHRA__ESP = 7, ASTHRA__EIP = 14 };
    enum { ASTHRA__FLAGS = 16, ASTHRA__DIRECTION = 0x400 };
    uintptr_t *call = (uintptr_t *)(top - 16) - 1;
    call[0] = 0; /* a return address that ends a walk */
    call[1] = (uintptr_t)argument;
    saved->gregs[ASTHRA__ESP] = (greg_t)(uintptr_t)call;
    saved->gregs[ASTHRA__EBP] = 0;
    saved->gregs[ASTHRA__EIP] = (greg_t)(uintptr_t)target;
    saved->gregs[ASTHRA__FLAGS] &= ~(greg_t)ASTHRA__DIRECTION;
    asthra__os_x87_empty(saved);
    return true;
#else
    (void)saved, (void)top, (void)target, (void)argument;
    return false;
#endif
}

ASTHRA__FN bool asthra__os_fault_call(void *context, Asthra__OsCalled target, void *argument) {
    mcontext_t *saved = &((ucontext_t *)context)->uc_mcontext;
#if ASTHRA__CPU_X86_64
    enum { ASTHRA__CALL_RDI = 8, ASTHRA__CALL_RSP = 15, ASTHRA__CALL_RIP = 16 };
    enum { ASTHRA__CALL_FLAGS = 17, ASTHRA__CALL_DIRECTION = 0x400 };
    /* What lies below the stack pointer belongs to code that never goes on. A walk looks one byte
     * below a return address. */
    uintptr_t *top = (uintptr_t *)(uintptr_t)saved->gregs[ASTHRA__CALL_RSP] - 1;
    *top = (uintptr_t)saved->gregs[ASTHRA__CALL_RIP] + 1;
    saved->gregs[ASTHRA__CALL_RSP] = (greg_t)(uintptr_t)top;
    saved->gregs[ASTHRA__CALL_RDI] = (greg_t)(uintptr_t)argument;
    saved->gregs[ASTHRA__CALL_RIP] = (greg_t)(uintptr_t)target;
    saved->gregs[ASTHRA__CALL_FLAGS] &= ~(greg_t)ASTHRA__CALL_DIRECTION;
    asthra__os_x87_empty(saved);
    return true;
#elif ASTHRA__CPU_AARCH64
    saved->regs[30] = saved->pc + 4;
    saved->regs[0] = (uintptr_t)argument;
    saved->pc = (uintptr_t)target;
    saved->pstate &= ~(uint64_t)0xc00;
    return true;
#elif ASTHRA__CPU_RISCV64
    enum { ASTHRA__CALL_PC = 0, ASTHRA__CALL_RA = 1, ASTHRA__CALL_A0 = 10 };
    saved->__gregs[ASTHRA__CALL_RA] = saved->__gregs[ASTHRA__CALL_PC] + 2; /* the least there is */
    saved->__gregs[ASTHRA__CALL_A0] = (uintptr_t)argument;
    saved->__gregs[ASTHRA__CALL_PC] = (uintptr_t)target;
    return true;
#elif ASTHRA__CPU_I386
    enum { ASTHRA__CALL_ESP = 7, ASTHRA__CALL_EAX = 11, ASTHRA__CALL_EIP = 14 };
    enum { ASTHRA__CALL_FLAGS = 16, ASTHRA__CALL_DIRECTION = 0x400 };
    uintptr_t *top = (uintptr_t *)(uintptr_t)saved->gregs[ASTHRA__CALL_ESP] - 1;
    *top = (uintptr_t)saved->gregs[ASTHRA__CALL_EIP] + 1;
    saved->gregs[ASTHRA__CALL_ESP] = (greg_t)(uintptr_t)top;
    saved->gregs[ASTHRA__CALL_EAX] = (greg_t)(uintptr_t)argument;
    saved->gregs[ASTHRA__CALL_EIP] = (greg_t)(uintptr_t)target;
    saved->gregs[ASTHRA__CALL_FLAGS] &= ~(greg_t)ASTHRA__CALL_DIRECTION;
    asthra__os_x87_empty(saved);
    return true;
#else
    (void)saved, (void)target, (void)argument;
    return false;
#endif
}

/* Backtraces. The unwinder is libgcc's. Outside glibc it is bound weakly, because Debian's for musl
 * does not link; there a backtrace is empty unless the program has the unwinder for other reasons,
 * as C++ does, or is linked with -Wl,-u,_Unwind_Backtrace. */

#ifdef __GLIBC__
#define ASTHRA__OS_UNWINDER(name) __asm__(name)
#define ASTHRA__OS_HAS_UNWINDER 1
#define ASTHRA__OS_HAS_CFA 1
#else
#define ASTHRA__OS_UNWINDER(name) __asm__(name) __attribute__((__weak__))
#define ASTHRA__OS_HAS_UNWINDER (&asthra__os_unwind != NULL)
#define ASTHRA__OS_HAS_CFA (&asthra__os_unwind_stack != NULL)
#endif
extern _Unwind_Reason_Code asthra__os_unwind(_Unwind_Trace_Fn each, void *argument)
    ASTHRA__OS_UNWINDER("_Unwind_Backtrace");
extern uintptr_t asthra__os_unwind_place(struct _Unwind_Context *frame, int *is_exact)
    ASTHRA__OS_UNWINDER("_Unwind_GetIPInfo");

extern uintptr_t asthra__os_unwind_stack(struct _Unwind_Context *frame)
    ASTHRA__OS_UNWINDER("_Unwind_GetCFA");

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
    if (trace->is_caller && trace->out != NULL) trace->out[trace->count] = (void *)(at - !is_exact);
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
    const char *slash = path ? strrchr(path, '/') : NULL;
    return slash ? slash + 1 : path ? path : "?";
}

/* How far the executable was moved from the addresses in its file; *is_inside: it holds `at`. The
 * program headers stand behind the file header, at the start of the part that has offset 0. */
static uintptr_t asthra__os_exe_shift(uintptr_t at, bool *is_inside) {
    const ElfW(Phdr) *parts = (const void *)getauxval(AT_PHDR);
    size_t count = parts ? (size_t)getauxval(AT_PHNUM) : 0;
    uintptr_t shift = 0;
    *is_inside = false;
    for (size_t i = 0; i < count; i++)
        if (parts[i].p_type == PT_LOAD && parts[i].p_offset == 0)
            shift = (uintptr_t)parts - sizeof(ElfW(Ehdr)) - (uintptr_t)parts[i].p_vaddr;
    for (size_t i = 0; i < count; i++)
        if (parts[i].p_type == PT_LOAD && at - shift - parts[i].p_vaddr < parts[i].p_memsz)
            *is_inside = true;
    return shift;
}

ASTHRA__FN size_t asthra__os_symbol(const void *address, char *out, size_t room) {
    Asthra__OsLine line = {.out = out, .room = room};
    Asthra__OsName name = {0};
    uintptr_t at = (uintptr_t)address;
    bool is_inside;
    uintptr_t shift = asthra__os_exe_shift(at, &is_inside);
    bool is_named = !!asthra__os_dladdr && asthra__os_dladdr(address, &name) != 0;
    if (is_named && name.function) {
        asthra__os_line_text(&line, name.function);
        asthra__os_line_text(&line, "+");
        asthra__os_line_hex(&line, at - (uintptr_t)name.start);
        asthra__os_line_text(&line, " (");
        asthra__os_line_text(&line, asthra__os_basename(name.object));
    } else {
        asthra__os_line_hex(&line, at);
        if (!is_named && !is_inside) return line.length;
        const char *object = is_inside ? (const char *)getauxval(AT_EXECFN) : name.object;
        asthra__os_line_text(&line, " (");
        asthra__os_line_text(&line, asthra__os_basename(object));
        asthra__os_line_text(&line, "+");
        asthra__os_line_hex(&line, at - (is_inside ? shift : (uintptr_t)name.base));
    }
    asthra__os_line_text(&line, ")");
    return line.length;
}

#endif

/* ---- [os] body ------------------------------------------------- platform/os_linux_poll.c ---- */
/* os_linux - descriptors: an epoll set, and eventfds.                      [os] body: descriptors
 *
 * Each descriptor is armed for one event (EPOLLONESHOT) and stays in the set disarmed, so that the
 * next wait is one system call, and one that finds a descriptor closed, or closed and its number
 * given to another file, is told so by the same call: the set keeps files, not numbers. The events
 * of epoll are those of poll(2) bit by bit (asserted below).
 *
 * Whoever waits is woken through an eventfd in the same set, edge-triggered, so that nobody has to
 * read it: every write is a new edge.
 */

#if ASTHRA_HAS_CORE && ASTHRA__SYS_LINUX

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

_Static_assert(EPOLLIN == POLLIN && EPOLLOUT == POLLOUT && EPOLLPRI == POLLPRI &&
                   EPOLLERR == POLLERR && EPOLLHUP == POLLHUP,
               "the events of epoll are those of poll");

static struct {
    ASTHRA__ATOMIC(int) set, wake; /* 1 + descriptor; 0: none */
    ASTHRA__ATOMIC(bool) lacks_ns; /* the system has no epoll_pwait2 */
} asthra__poll_set;

static int asthra__os_poll_set(void) {
    return asthra__load(&asthra__poll_set.set, acquire) - 1;
}

ASTHRA__FN bool asthra__os_poll_open(void) {
    int saved = errno;
    int set = epoll_create1(EPOLL_CLOEXEC), wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN | EPOLLET, .data.u64 = UINT64_MAX};
    bool is_open = set >= 0 && wake >= 0 && epoll_ctl(set, EPOLL_CTL_ADD, wake, &e) == 0;
    if (!is_open && set >= 0) close(set);
    if (!is_open && wake >= 0) close(wake);
    if (is_open) asthra__store(&asthra__poll_set.wake, wake + 1, release);
    if (is_open) asthra__store(&asthra__poll_set.set, set + 1, release);
    errno = saved;
    return is_open;
}

ASTHRA__FN void asthra__os_poll_close(void) {
    int saved = errno;
    int set = asthra__exchange(&asthra__poll_set.set, 0, acq_rel) - 1;
    int wake = asthra__exchange(&asthra__poll_set.wake, 0, acq_rel) - 1;
    if (set >= 0) close(set);
    if (wake >= 0) close(wake);
    errno = saved;
}

static Asthra__OsArmed asthra__os_poll_refused(int error) {
    if (error == EPERM) return ASTHRA__OS_ARMED_NEVER;
    if (error == EBADF || error == EINVAL) return ASTHRA__OS_ARMED_CLOSED;
    return ASTHRA__OS_ARMED_FULL;
}

/* What is known is changed, what is not is added; whoever knew wrong tries the other. A file that
 * is in the set under this number although we did not know has another number too, and was never
 * armed by it since: it counts as known. */
ASTHRA__FN Asthra__OsArmed asthra__os_poll_arm(int fd, int events, uint64_t mark, bool is_known) {
    int saved = errno, set = asthra__os_poll_set();
    struct epoll_event e = {.events = (uint32_t)events | EPOLLONESHOT, .data.u64 = mark};
    int first = is_known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, error = 0;
    Asthra__OsArmed how = is_known ? ASTHRA__OS_ARMED : ASTHRA__OS_ARMED_ANEW;
    if (epoll_ctl(set, first, fd, &e) != 0) error = errno;
    if (error == ENOENT || error == EEXIST) {
        how = is_known ? ASTHRA__OS_ARMED_ANEW : ASTHRA__OS_ARMED;
        error = 0;
        if (epoll_ctl(set, is_known ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &e) != 0) error = errno;
    }
    if (error != 0) how = asthra__os_poll_refused(error);
    errno = saved;
    return how;
}

/* Rounded up, so that nobody waits in a loop of zeroes. */
static int asthra__os_milliseconds(int64_t ns) {
    if (ns < 0) return -1;
    int64_t ms = ns / 1000000 + (ns % 1000000 != 0);
    return ms < INT32_MAX ? (int)ms : INT32_MAX;
}

static int asthra__os_epoll(struct epoll_event *out, int room, int64_t timeout_ns) {
    int set = asthra__os_poll_set();
#ifdef SYS_epoll_pwait2
    if (timeout_ns > 0 && !asthra__load(&asthra__poll_set.lacks_ns, relaxed)) {
        int64_t limit[2] = {timeout_ns / 1000000000, timeout_ns % 1000000000};
        long got = syscall(SYS_epoll_pwait2, (long)set, out, (long)room, limit, NULL, 8L);
        if (got >= 0 || errno == EINTR) return (int)got;
        asthra__store(&asthra__poll_set.lacks_ns, true, relaxed);
    }
#endif
    return epoll_wait(set, out, room, asthra__os_milliseconds(timeout_ns));
}

ASTHRA__FN size_t asthra__os_poll_wait(Asthra__OsReady *out, size_t room, int64_t timeout_ns) {
    static const char text[] = "asthra_rt: the program closed a descriptor of the runtime's, with "
                               "tasks waiting on it: leave those that it did not open alone\n";
    enum { MOST = 64 };
    struct epoll_event events[MOST];
    int saved = errno;
    size_t count = 0;
    int got = asthra__os_epoll(events, room < MOST ? (int)room : MOST, timeout_ns);
    if (got < 0 && errno != EINTR) {
        asthra__os_write_error(text, sizeof text - 1);
        abort();
    }
    for (int i = 0; i < got; i++) {
        if (events[i].data.u64 == UINT64_MAX) continue; /* a wake */
        out[count++] = (Asthra__OsReady){events[i].data.u64, (int)events[i].events};
    }
    errno = saved;
    return count;
}

ASTHRA__FN void asthra__os_poll_wake(void) {
    asthra__os_signal_set(
        (Asthra__OsSignal){asthra__load(&asthra__poll_set.wake, acquire) - 1, -1});
}

ASTHRA__FN int asthra__os_poll_one(int fd, int events, int64_t timeout_ns) {
    int saved = errno;
    struct pollfd p = {.fd = fd, .events = (short)events};
    int got = poll(&p, 1, asthra__os_milliseconds(timeout_ns));
    int answer = got > 0 ? p.revents : got == 0 ? 0 : -errno;
    errno = saved;
    return answer;
}

ASTHRA__FN Asthra__OsSignal asthra__os_signal_open(void) {
    int saved = errno;
    Asthra__OsSignal s = {eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), -1};
    errno = saved;
    return s;
}

ASTHRA__FN void asthra__os_signal_close(Asthra__OsSignal s) {
    int saved = errno;
    if (s.fd >= 0) close(s.fd);
    errno = saved;
}

ASTHRA__FN void asthra__os_signal_set(Asthra__OsSignal s) {
    const uint64_t one = 1;
    int saved = errno;
    ssize_t done = write(s.fd, &one, sizeof one); /* a full counter is readable too */
    (void)done;
    errno = saved;
}

ASTHRA__FN void asthra__os_signal_clear(Asthra__OsSignal s) {
    uint64_t count;
    int saved = errno;
    ssize_t done = read(s.fd, &count, sizeof count);
    (void)done;
    errno = saved;
}

#endif

/* ---- [swap] internal ------------------------------------------- platform/swap_internal.h ---- */
/* swap - leaving one stack and arriving on another.                        [swap] internal
 *
 * A context is the stack pointer of code that left its stack; everything else it needs lies above
 * that pointer: callee-saved registers and the control words of the floating-point units. Signal
 * masks do not travel; sticky floating-point flags may. One file per ABI
 * (swap_<processor>.c), or ucontext under ASTHRA_RT_NO_ASM (swap_ucontext.c).
 *
 * Sanitizers and Valgrind see a stack pointer that jumps: whoever calls asthra__swap announces it.
 */

#if ASTHRA_HAS_TASK

/* Linkage and name of a routine that assembly may define: a strong hidden symbol in every mode, so
 * that the call is direct in shared objects too and two runtimes in one program do not link. */
#if ASTHRA_HAS_ASM
#define ASTHRA__SWAP_FN __attribute__((__visibility__("hidden"))) extern
#define ASTHRA__SWAP_NAMED(name) __asm__(name)
#else
#define ASTHRA__SWAP_FN ASTHRA__FN
#define ASTHRA__SWAP_NAMED(name)
#endif

typedef struct Asthra__SwapContext Asthra__SwapContext; /* never complete: an address on a stack */

/* False where the processor keeps a second, protected stack of return addresses (shadow stack): it
 * would end the process at the first swap. Asked once, before that. */
ASTHRA__FN bool asthra__swap_is_allowed(void);

/* A context that starts entry(message of its first swap) with default floating-point control on the
 * stack from `low` to `top`. `entry` must not return; a backtrace ends in it. */
ASTHRA__FN Asthra__SwapContext *asthra__swap_make(void *low, void *top, void (*entry)(void *));

/* Leaves this stack, writes its context to *from, goes on in `to`. Returns the message of whoever
 * comes back. *from is written before the stack is left: nobody may use it until this side has
 * been left, which only code on the other side can know.
 * Cost: the processor predicts the return when both sides called from the same place. */
ASTHRA__SWAP_FN void *asthra__swap(Asthra__SwapContext **from, Asthra__SwapContext *to,
                                   void *message) ASTHRA__SWAP_NAMED("asthra__swap");

/* Calls fn(argument) with default floating-point control and returns its value with the caller's
 * control words restored; is_default: they are the defaults, says the caller, which may be cheaper.
 * While it runs, *escape is a way out: asthra__swap_escape(*escape, v)
 * abandons every frame above and makes this call return v. Escape stands on the same stack. */
ASTHRA__SWAP_FN void *asthra__swap_call(void *(*fn)(void *), void *argument,
                                        Asthra__SwapContext **escape, bool is_default)
    ASTHRA__SWAP_NAMED("asthra__swap_call");
ASTHRA_NORETURN ASTHRA__SWAP_FN void asthra__swap_escape(Asthra__SwapContext *escape, void *value)
    ASTHRA__SWAP_NAMED("asthra__swap_escape");

#endif

/* ---- [swap] body ------------------------------------------------- platform/swap_x86_64.c ---- */
/* swap_x86_64 - the switch for x86-64, System V ABI.                       [swap] body
 *
 * A switch is a function call whose return happens on another stack. The ABI (System V x86-64,
 * section 3.2.1) says what a call keeps: rbx, rbp, r12 to r15, the control bits of mxcsr and the
 * x87 word. They are pushed, the stack pointers are exchanged, and the same things are popped on
 * the other side.
 *
 * A saved context, offsets from the stack pointer that stands for it:
 *
 *      0   mxcsr, 4 bytes
 *      4   x87 control word, 2 bytes; 2 unused
 *      8   r15
 *     16   r14
 *     24   r13
 *     32   r12      entry, in a context that has not started
 *     40   rbx
 *     48   rbp      0, in a context that has not started: a walk along rbp ends there
 *     56   return address
 *     64   the stack pointer after the return
 *
 * asthra__swap_call leaves the same layout, so that its frame is a context to escape to.
 *
 * mxcsr is loaded always: on Zen 3 that costs 1.4 ns, while reading back what stmxcsr has just
 * stored, to see whether it must be, costs 1.9. Its sticky flags travel with it. The x87 word is
 * loaded only where it differs, and then its flags are cleared first, or a flag that another task
 * left behind would raise here once its mask bit is off.
 *
 * stmxcsr itself costs 5 ns on the same processor, and reading its word back 2 more: a caller that
 * vouches for its control words, as the worker's loop can, is spared it.
 *
 * The switch ends in `ret`, not in an indirect jump: the processor's return predictor then stays in
 * step with the frames above, which on both sides are mostly the same functions. Four such frames
 * deep, a switch and its returns took 23 ns with ret and 36 with jmp, though jmp alone is quicker.
 */

#if ASTHRA_HAS_TASK && ASTHRA_HAS_ASM && ASTHRA__CPU_X86_64

/* from: rdi; to: rsi; message: rdx */
__asm__(".pushsection .text.asthra__swap,\"ax\",@progbits\n"
        ".p2align 5\n"
        ".globl asthra__swap\n"
        ".hidden asthra__swap\n"
        ".type asthra__swap, @function\n"
        "asthra__swap:\n"
        ".cfi_startproc\n"
        "endbr64\n"
        "pushq %rbp\n" /* the caller's rbp, at 48 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %rbp, 0\n"
        "pushq %rbx\n" /* the caller's rbx, at 40 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %rbx, 0\n"
        "pushq %r12\n" /* the caller's r12, at 32 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %r12, 0\n"
        "pushq %r13\n" /* the caller's r13, at 24 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %r13, 0\n"
        "pushq %r14\n" /* the caller's r14, at 16 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %r14, 0\n"
        "pushq %r15\n" /* the caller's r15, at 8 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %r15, 0\n"
        "subq $8, %rsp\n" /* room for the control words; rsp is now this context */
        ".cfi_adjust_cfa_offset 8\n"
        "stmxcsr (%rsp)\n"       /* mxcsr, at 0 */
        "fnstcw 4(%rsp)\n"       /* the x87 word, at 4 */
        "movq %rsp, (%rdi)\n"    /* *from = this context */
        "movzwl 4(%rsp), %ecx\n" /* ecx: our x87 word */
        "movq %rdx, %rax\n"      /* rax: message, what the other side returns */
        "movq %rsi, %rsp\n"      /* leave: rsp is the context `to`, with the same layout */
        "ldmxcsr (%rsp)\n"       /* the mxcsr of `to`, from 0 */
        "cmpw 4(%rsp), %cx\n"    /* is its x87 word ours? */
        "jne 2f\n"
        "1:\n"
        "addq $8, %rsp\n" /* past the control words */
        ".cfi_remember_state\n"
        ".cfi_adjust_cfa_offset -8\n"
        "popq %r15\n" /* r15 of the arriving side, from 8 */
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %r15\n"
        "popq %r14\n" /* its r14, from 16 */
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %r14\n"
        "popq %r13\n" /* its r13, from 24 */
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %r13\n"
        "popq %r12\n" /* its r12, from 32 */
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %r12\n"
        "popq %rbx\n" /* its rbx, from 40 */
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %rbx\n"
        "popq %rbp\n" /* its rbp, from 48 */
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %rbp\n"
        "ret\n" /* to its caller, from 56 */
        ".cfi_restore_state\n"
        "2:\n"
        "fnclex\n"        /* no flag of another task may raise below */
        "fldcw 4(%rsp)\n" /* the x87 word of `to`, from 4 */
        "jmp 1b\n"
        ".cfi_endproc\n"
        ".size asthra__swap, .-asthra__swap\n"
        ".popsection\n");

/* The first return of a new context comes here. rax: message; r12: entry; rsp: top, 16-aligned. */
__asm__(".pushsection .text.asthra__swap_start,\"ax\",@progbits\n"
        ".p2align 4\n"
        ".globl asthra__swap_start\n"
        ".hidden asthra__swap_start\n"
        ".type asthra__swap_start, @function\n"
        "asthra__swap_start:\n"
        ".cfi_startproc\n"
        ".cfi_undefined %rip\n" /* nobody called: unwinders stop here */
        "endbr64\n"
        "movq %rax, %rdi\n" /* argument of entry: message */
        "callq *%r12\n"     /* entry(message), which never returns */
        "ud2\n"
        ".cfi_endproc\n"
        ".size asthra__swap_start, .-asthra__swap_start\n"
        ".popsection\n");

/* fn: rdi; argument: rsi; escape: rdx; is_default: cl
 * asthra__swap_escape: escape: rdi; value: rsi */
__asm__(".pushsection .text.asthra__swap_call,\"ax\",@progbits\n"
        ".p2align 5\n"
        ".globl asthra__swap_call\n"
        ".hidden asthra__swap_call\n"
        ".type asthra__swap_call, @function\n"
        "asthra__swap_call:\n"
        ".cfi_startproc\n"
        "endbr64\n"
        "pushq %rbp\n" /* the caller's rbp, at 48 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %rbp, 0\n"
        "pushq %rbx\n" /* the caller's rbx, at 40 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %rbx, 0\n"
        "pushq %r12\n" /* the caller's r12, at 32 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %r12, 0\n"
        "pushq %r13\n" /* the caller's r13, at 24 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %r13, 0\n"
        "pushq %r14\n" /* the caller's r14, at 16 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %r14, 0\n"
        "pushq %r15\n" /* the caller's r15, at 8 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %r15, 0\n"
        "subq $8, %rsp\n" /* room for the control words: 16-aligned for the call */
        ".cfi_adjust_cfa_offset 8\n"
        "movq %rsp, (%rdx)\n" /* *escape = this context */
        "movq %rdi, %rax\n"   /* rax: fn */
        "movq %rsi, %rdi\n"   /* rdi: argument */
        "testb %cl, %cl\n"
        "jnz 6f\n"
        "stmxcsr (%rsp)\n"       /* the caller's mxcsr, at 0 */
        "fnstcw 4(%rsp)\n"       /* the caller's x87 word, at 4 */
        "movl (%rsp), %ecx\n"    /* ecx: mxcsr */
        "movzwl 4(%rsp), %edx\n" /* edx: the x87 word */
        "andl $0xffc0, %ecx\n"   /* without its flags */
        "xorl $0x1f80, %ecx\n"   /* the default: all masked, to nearest */
        "xorl $0x037f, %edx\n"   /* the default: all masked, to nearest, extended precision */
        "orl %edx, %ecx\n"
        "jnz 3f\n"
        "1:\n"
        "callq *%rax\n"     /* rax = fn(argument) */
        "2:\n"              /* here returns fn, and asthra__swap_escape; rax: value */
        "ldmxcsr (%rsp)\n"  /* the caller's mxcsr, from 0 */
        "fnstcw -8(%rsp)\n" /* the x87 word that fn left, in the red zone */
        "movzwl -8(%rsp), %ecx\n"
        "cmpw 4(%rsp), %cx\n" /* is it the caller's? */
        "jne 5f\n"
        "4:\n"
        "addq $8, %rsp\n" /* past the control words */
        ".cfi_remember_state\n"
        ".cfi_adjust_cfa_offset -8\n"
        "popq %r15\n" /* the caller's again, from 8 upwards */
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %r15\n"
        "popq %r14\n"
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %r14\n"
        "popq %r13\n"
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %r13\n"
        "popq %r12\n"
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %r12\n"
        "popq %rbx\n"
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %rbx\n"
        "popq %rbp\n"
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %rbp\n"
        "ret\n" /* rax: value */
        ".cfi_restore_state\n"
        "3:\n"
        "movl $0x1f80, -8(%rsp)\n" /* the defaults, in the red zone */
        "movl $0x037f, -4(%rsp)\n"
        "ldmxcsr -8(%rsp)\n"
        "fnclex\n" /* a flag left behind must not raise under another mask */
        "fldcw -4(%rsp)\n"
        "jmp 1b\n"
        "5:\n"
        "fnclex\n"
        "fldcw 4(%rsp)\n" /* the caller's x87 word, from 4 */
        "jmp 4b\n"
        "6:\n"
        "movl $0x1f80, (%rsp)\n" /* the caller's, by its word for it */
        "movl $0x037f, 4(%rsp)\n"
        "jmp 1b\n"
        ".cfi_endproc\n"
        ".size asthra__swap_call, .-asthra__swap_call\n"
        ".globl asthra__swap_escape\n"
        ".hidden asthra__swap_escape\n"
        ".type asthra__swap_escape, @function\n"
        "asthra__swap_escape:\n"
        ".cfi_startproc\n"
        "endbr64\n"
        "movq %rsi, %rax\n" /* rax: value */
        "movq %rdi, %rsp\n" /* every frame below is gone */
        ".cfi_def_cfa %rsp, 64\n"
        ".cfi_offset %rbp, -16\n"
        ".cfi_offset %rbx, -24\n"
        ".cfi_offset %r12, -32\n"
        ".cfi_offset %r13, -40\n"
        ".cfi_offset %r14, -48\n"
        ".cfi_offset %r15, -56\n"
        "cld\n" /* wherever the frames below were */
        "jmp 2b\n"
        ".cfi_endproc\n"
        ".size asthra__swap_escape, .-asthra__swap_escape\n"
        ".popsection\n");

__attribute__((__visibility__("hidden"))) extern void
asthra__swap_start(void) __asm__("asthra__swap_start");

/* What asthra__swap pops, as the table above draws it. */
typedef struct Asthra__SwapFrame {
    uint32_t mxcsr;
    uint16_t x87_word, unused;
    uint64_t r15, r14, r13, r12, rbx, rbp, return_address;
} Asthra__SwapFrame;
_Static_assert(sizeof(Asthra__SwapFrame) == 64, "the table of swap_x86_64.c");
_Static_assert(offsetof(Asthra__SwapFrame, r12) == 32, "the table of swap_x86_64.c");
_Static_assert(offsetof(Asthra__SwapFrame, return_address) == 56, "the table of swap_x86_64.c");

/* rdsspq reads the shadow stack's pointer; where there is none it does nothing and rax stays 0. */
ASTHRA__FN bool asthra__swap_is_allowed(void) {
    uint64_t pointer = 0;
    __asm__ volatile(".byte 0xf3, 0x48, 0x0f, 0x1e, 0xc8" : "+a"(pointer)); /* rdsspq %rax */
    return pointer == 0;
}

ASTHRA__FN Asthra__SwapContext *asthra__swap_make(void *low, void *top, void (*entry)(void *)) {
    char *end = (char *)top - ((uintptr_t)top & 15);
    Asthra__SwapFrame *frame = (Asthra__SwapFrame *)(void *)end - 1;
    (void)low;
    *frame = (Asthra__SwapFrame){.mxcsr = 0x1f80,
                                 .x87_word = 0x037f,
                                 .r12 = (uint64_t)(uintptr_t)entry,
                                 .return_address = (uint64_t)(uintptr_t)asthra__swap_start};
    return (Asthra__SwapContext *)(void *)frame;
}

#endif

/* ---- [swap] body ------------------------------------------------ platform/swap_aarch64.c ---- */
/* swap_aarch64 - the switch for AArch64, AAPCS64.                          [swap] body
 *
 * A switch is a function call whose return happens on another stack. AAPCS64 (section 6.1) says
 * what a call keeps: x19 to x28, the frame pointer x29, the low halves d8 to d15 of v8 to v15, and
 * FPCR's control bits; the link register x30 is the return address. They are stored, the stack
 * pointers are exchanged, and the same things are loaded on the other side. Return addresses are
 * not signed here: callers that sign theirs do so with their own stack pointer, which travels.
 *
 * A saved context, offsets from the stack pointer that stands for it:
 *
 *      0   x29, x30      frame pointer (0 in a context that has not started), return address
 *     16   x19, x20      x19: entry, in a context that has not started
 *     32   x21, x22
 *     48   x23, x24
 *     64   x25, x26
 *     80   x27, x28
 *     96   d8, d9
 *    112   d10, d11
 *    128   d12, d13
 *    144   d14, d15
 *    160   fpcr, 8 bytes; 8 unused
 *    176   the stack pointer after the return
 *
 * asthra__swap_call leaves the same layout, so that its frame is a context to escape to. FPCR is
 * written only where it differs, because a write may wait for all floating-point work; its flags
 * live in another register (FPSR) and stay with the thread.
 */

#if ASTHRA_HAS_TASK && ASTHRA_HAS_ASM && ASTHRA__CPU_AARCH64

/* from: x0; to: x1; message: x2 */
__asm__(".pushsection .text.asthra__swap,\"ax\",%progbits\n"
        ".p2align 5\n"
        ".globl asthra__swap\n"
        ".hidden asthra__swap\n"
        ".type asthra__swap, %function\n"
        "asthra__swap:\n"
        ".cfi_startproc\n"
        "hint #34\n"                   /* bti c */
        "stp x29, x30, [sp, #-176]!\n" /* x29, x30 at 0; sp is now this context */
        ".cfi_adjust_cfa_offset 176\n"
        ".cfi_rel_offset x29, 0\n"
        ".cfi_rel_offset x30, 8\n"
        "stp x19, x20, [sp, #16]\n" /* the caller's x19 to x28, from 16 */
        ".cfi_rel_offset x19, 16\n"
        ".cfi_rel_offset x20, 24\n"
        "stp x21, x22, [sp, #32]\n"
        ".cfi_rel_offset x21, 32\n"
        ".cfi_rel_offset x22, 40\n"
        "stp x23, x24, [sp, #48]\n"
        ".cfi_rel_offset x23, 48\n"
        ".cfi_rel_offset x24, 56\n"
        "stp x25, x26, [sp, #64]\n"
        ".cfi_rel_offset x25, 64\n"
        ".cfi_rel_offset x26, 72\n"
        "stp x27, x28, [sp, #80]\n"
        ".cfi_rel_offset x27, 80\n"
        ".cfi_rel_offset x28, 88\n"
        "stp d8, d9, [sp, #96]\n" /* the caller's d8 to d15, from 96 */
        ".cfi_rel_offset d8, 96\n"
        ".cfi_rel_offset d9, 104\n"
        "stp d10, d11, [sp, #112]\n"
        ".cfi_rel_offset d10, 112\n"
        ".cfi_rel_offset d11, 120\n"
        "stp d12, d13, [sp, #128]\n"
        ".cfi_rel_offset d12, 128\n"
        ".cfi_rel_offset d13, 136\n"
        "stp d14, d15, [sp, #144]\n"
        ".cfi_rel_offset d14, 144\n"
        ".cfi_rel_offset d15, 152\n"
        "mrs x9, fpcr\n"        /* x9: our fpcr */
        "str x9, [sp, #160]\n"  /* fpcr, at 160 */
        "mov x10, sp\n"         /* x10: this context */
        "str x10, [x0]\n"       /* *from = this context */
        "mov x0, x2\n"          /* x0: message, what the other side returns */
        "mov sp, x1\n"          /* leave: sp is the context `to`, with the same layout */
        "ldr x10, [sp, #160]\n" /* x10: the fpcr of `to` */
        "cmp x9, x10\n"
        "b.ne 2f\n"
        "1:\n"
        "ldp d14, d15, [sp, #144]\n" /* d8 to d15 of the arriving side */
        "ldp d12, d13, [sp, #128]\n"
        "ldp d10, d11, [sp, #112]\n"
        "ldp d8, d9, [sp, #96]\n"
        "ldp x27, x28, [sp, #80]\n" /* its x19 to x28 */
        "ldp x25, x26, [sp, #64]\n"
        "ldp x23, x24, [sp, #48]\n"
        "ldp x21, x22, [sp, #32]\n"
        "ldp x19, x20, [sp, #16]\n"
        "ldp x29, x30, [sp], #176\n" /* its frame pointer and return address */
        ".cfi_remember_state\n"
        ".cfi_def_cfa sp, 0\n"
        ".cfi_same_value x29\n"
        ".cfi_same_value x30\n"
        ".cfi_same_value x19\n"
        ".cfi_same_value x20\n"
        ".cfi_same_value x21\n"
        ".cfi_same_value x22\n"
        ".cfi_same_value x23\n"
        ".cfi_same_value x24\n"
        ".cfi_same_value x25\n"
        ".cfi_same_value x26\n"
        ".cfi_same_value x27\n"
        ".cfi_same_value x28\n"
        "ret\n" /* to its caller */
        ".cfi_restore_state\n"
        "2:\n"
        "msr fpcr, x10\n" /* the fpcr of `to` */
        "b 1b\n"
        ".cfi_endproc\n"
        ".size asthra__swap, .-asthra__swap\n"
        ".popsection\n");

/* The first return of a new context comes here. x0: message; x19: entry; sp: top, 16-aligned. */
__asm__(".pushsection .text.asthra__swap_start,\"ax\",%progbits\n"
        ".p2align 4\n"
        ".globl asthra__swap_start\n"
        ".hidden asthra__swap_start\n"
        ".type asthra__swap_start, %function\n"
        "asthra__swap_start:\n"
        ".cfi_startproc\n"
        ".cfi_undefined x30\n" /* nobody called: unwinders stop here */
        "hint #34\n"           /* bti c */
        "blr x19\n"            /* entry(message), which never returns */
        "brk #1\n"
        ".cfi_endproc\n"
        ".size asthra__swap_start, .-asthra__swap_start\n"
        ".popsection\n");

/* fn: x0; argument: x1; escape: x2.   asthra__swap_escape: escape: x0; value: x1 */
__asm__(".pushsection .text.asthra__swap_call,\"ax\",%progbits\n"
        ".p2align 5\n"
        ".globl asthra__swap_call\n"
        ".hidden asthra__swap_call\n"
        ".type asthra__swap_call, %function\n"
        "asthra__swap_call:\n"
        ".cfi_startproc\n"
        "hint #34\n"                   /* bti c */
        "stp x29, x30, [sp, #-176]!\n" /* x29, x30 at 0; sp is now this context */
        ".cfi_adjust_cfa_offset 176\n"
        ".cfi_rel_offset x29, 0\n"
        ".cfi_rel_offset x30, 8\n"
        "mov x29, sp\n"             /* a frame record, for those who walk along x29 */
        "stp x19, x20, [sp, #16]\n" /* the caller's x19 to x28, from 16 */
        ".cfi_rel_offset x19, 16\n"
        ".cfi_rel_offset x20, 24\n"
        "stp x21, x22, [sp, #32]\n"
        ".cfi_rel_offset x21, 32\n"
        ".cfi_rel_offset x22, 40\n"
        "stp x23, x24, [sp, #48]\n"
        ".cfi_rel_offset x23, 48\n"
        ".cfi_rel_offset x24, 56\n"
        "stp x25, x26, [sp, #64]\n"
        ".cfi_rel_offset x25, 64\n"
        ".cfi_rel_offset x26, 72\n"
        "stp x27, x28, [sp, #80]\n"
        ".cfi_rel_offset x27, 80\n"
        ".cfi_rel_offset x28, 88\n"
        "stp d8, d9, [sp, #96]\n" /* the caller's d8 to d15, from 96 */
        ".cfi_rel_offset d8, 96\n"
        ".cfi_rel_offset d9, 104\n"
        "stp d10, d11, [sp, #112]\n"
        ".cfi_rel_offset d10, 112\n"
        ".cfi_rel_offset d11, 120\n"
        "stp d12, d13, [sp, #128]\n"
        ".cfi_rel_offset d12, 128\n"
        ".cfi_rel_offset d13, 136\n"
        "stp d14, d15, [sp, #144]\n"
        ".cfi_rel_offset d14, 144\n"
        ".cfi_rel_offset d15, 152\n"
        "mrs x9, fpcr\n"       /* x9: the caller's fpcr */
        "str x9, [sp, #160]\n" /* fpcr, at 160 */
        "mov x10, sp\n"        /* x10: this context */
        "str x10, [x2]\n"      /* *escape = this context */
        "mov x10, x0\n"        /* x10: fn */
        "mov x0, x1\n"         /* x0: argument */
        "cbnz x9, 3f\n"        /* the default is 0 */
        "1:\n"
        "blr x10\n"             /* x0 = fn(argument) */
        "2:\n"                  /* here returns fn, and asthra__swap_escape; x0: value */
        "mrs x9, fpcr\n"        /* x9: what fn left */
        "ldr x10, [sp, #160]\n" /* x10: the caller's fpcr */
        "cmp x9, x10\n"
        "b.ne 5f\n"
        "4:\n"
        "ldp d14, d15, [sp, #144]\n" /* the caller's again */
        "ldp d12, d13, [sp, #128]\n"
        "ldp d10, d11, [sp, #112]\n"
        "ldp d8, d9, [sp, #96]\n"
        "ldp x27, x28, [sp, #80]\n"
        "ldp x25, x26, [sp, #64]\n"
        "ldp x23, x24, [sp, #48]\n"
        "ldp x21, x22, [sp, #32]\n"
        "ldp x19, x20, [sp, #16]\n"
        "ldp x29, x30, [sp], #176\n"
        ".cfi_remember_state\n"
        ".cfi_def_cfa sp, 0\n"
        ".cfi_same_value x29\n"
        ".cfi_same_value x30\n"
        ".cfi_same_value x19\n"
        ".cfi_same_value x20\n"
        ".cfi_same_value x21\n"
        ".cfi_same_value x22\n"
        ".cfi_same_value x23\n"
        ".cfi_same_value x24\n"
        ".cfi_same_value x25\n"
        ".cfi_same_value x26\n"
        ".cfi_same_value x27\n"
        ".cfi_same_value x28\n"
        "ret\n" /* x0: value */
        ".cfi_restore_state\n"
        "3:\n"
        "msr fpcr, xzr\n" /* to nearest, nothing flushed, nothing trapped */
        "b 1b\n"
        "5:\n"
        "msr fpcr, x10\n" /* the caller's fpcr */
        "b 4b\n"
        ".cfi_endproc\n"
        ".size asthra__swap_call, .-asthra__swap_call\n"
        ".globl asthra__swap_escape\n"
        ".hidden asthra__swap_escape\n"
        ".type asthra__swap_escape, %function\n"
        "asthra__swap_escape:\n"
        ".cfi_startproc\n"
        "hint #34\n"   /* bti c */
        "mov sp, x0\n" /* every frame below is gone */
        ".cfi_def_cfa sp, 176\n"
        ".cfi_offset x29, -176\n"
        ".cfi_offset x30, -168\n"
        "mov x0, x1\n" /* x0: value */
        "b 2b\n"
        ".cfi_endproc\n"
        ".size asthra__swap_escape, .-asthra__swap_escape\n"
        ".popsection\n");

__attribute__((__visibility__("hidden"))) extern void
asthra__swap_start(void) __asm__("asthra__swap_start");

/* What asthra__swap loads, as the table above draws it. */
typedef struct Asthra__SwapFrame {
    uint64_t x29, x30, x19, x20_to_x28[9], d8_to_d15[8], fpcr, unused;
} Asthra__SwapFrame;
_Static_assert(sizeof(Asthra__SwapFrame) == 176, "the table of swap_aarch64.c");
_Static_assert(offsetof(Asthra__SwapFrame, x19) == 16, "the table of swap_aarch64.c");
_Static_assert(offsetof(Asthra__SwapFrame, d8_to_d15) == 96, "the table of swap_aarch64.c");
_Static_assert(offsetof(Asthra__SwapFrame, fpcr) == 160, "the table of swap_aarch64.c");

/* chkfeat clears bit 0 of x16 where the guarded control stack is on; it is a no-op elsewhere. */
ASTHRA__FN bool asthra__swap_is_allowed(void) {
    register uint64_t feature __asm__("x16") = 1;
    __asm__ volatile("hint #40" : "+r"(feature)); /* chkfeat x16 */
    return feature != 0;
}

ASTHRA__FN Asthra__SwapContext *asthra__swap_make(void *low, void *top, void (*entry)(void *)) {
    char *end = (char *)top - ((uintptr_t)top & 15);
    Asthra__SwapFrame *frame = (Asthra__SwapFrame *)(void *)end - 1;
    (void)low;
    *frame = (Asthra__SwapFrame){.x30 = (uint64_t)(uintptr_t)asthra__swap_start,
                                 .x19 = (uint64_t)(uintptr_t)entry};
    return (Asthra__SwapContext *)(void *)frame;
}

#endif

/* ---- [swap] body ------------------------------------------------ platform/swap_riscv64.c ---- */
/* swap_riscv64 - the switch for RISC-V 64, LP64D.                          [swap] body
 *
 * A switch is a function call whose return happens on another stack. The calling convention (RISC-V
 * ELF psABI, "Register Convention") says what a call keeps: s0 to s11 and fs0 to fs11; ra is the
 * return address, gp and tp are the program's and the thread's. They are stored, the stack pointers
 * are exchanged, and the same things are loaded on the other side. Of fcsr the rounding mode (frm)
 * travels, as control words do on other processors; its flags stay with the thread.
 *
 * A saved context, offsets from the stack pointer that stands for it:
 *
 *      0   frm, 8 bytes
 *      8   fs0 to fs11
 *    104   s11
 *    112   s10
 *    120   s9
 *    128   s8
 *    136   s7
 *    144   s6
 *    152   s5
 *    160   s4
 *    168   s3
 *    176   s2
 *    184   s1      entry, in a context that has not started
 *    192   s0      frame pointer; 0 in a context that has not started
 *    200   ra      return address
 *    208   the stack pointer after the return
 *
 * The last two are where code with frame pointers keeps them. asthra__swap_call leaves the same
 * layout, so that its frame is a context to escape to. frm is written only where it differs,
 * because a write may wait for all floating-point work.
 *
 * Landing pads (Zicfilp) are lpad 0, which other processors take for an addition that goes nowhere;
 * an indirect call through t2 asks for none, and neither does a return.
 */

#if ASTHRA_HAS_TASK && ASTHRA_HAS_ASM && ASTHRA__CPU_RISCV64

#include <errno.h>
#include <sys/prctl.h>

/* from: a0; to: a1; message: a2 */
__asm__(".pushsection .text.asthra__swap,\"ax\",%progbits\n"
        ".option push\n"
        ".option norelax\n" /* no relocation but the linker's own: it names no symbol */
        ".p2align 5\n"
        ".globl asthra__swap\n"
        ".hidden asthra__swap\n"
        ".type asthra__swap, %function\n"
        "asthra__swap:\n"
        ".cfi_startproc\n"
        "auipc zero, 0\n"     /* lpad 0 */
        "addi sp, sp, -208\n" /* sp is now this context */
        ".cfi_def_cfa_offset 208\n"
        "sd ra, 200(sp)\n" /* the return address, at 200 */
        ".cfi_offset ra, -8\n"
        "sd s0, 192(sp)\n" /* the caller's s0 to s11, from 192 down */
        ".cfi_offset s0, -16\n"
        "sd s1, 184(sp)\n"
        ".cfi_offset s1, -24\n"
        "sd s2, 176(sp)\n"
        ".cfi_offset s2, -32\n"
        "sd s3, 168(sp)\n"
        ".cfi_offset s3, -40\n"
        "sd s4, 160(sp)\n"
        ".cfi_offset s4, -48\n"
        "sd s5, 152(sp)\n"
        ".cfi_offset s5, -56\n"
        "sd s6, 144(sp)\n"
        ".cfi_offset s6, -64\n"
        "sd s7, 136(sp)\n"
        ".cfi_offset s7, -72\n"
        "sd s8, 128(sp)\n"
        ".cfi_offset s8, -80\n"
        "sd s9, 120(sp)\n"
        ".cfi_offset s9, -88\n"
        "sd s10, 112(sp)\n"
        ".cfi_offset s10, -96\n"
        "sd s11, 104(sp)\n"
        ".cfi_offset s11, -104\n"
        "fsd fs0, 8(sp)\n" /* the caller's fs0 to fs11, from 8 */
        ".cfi_offset fs0, -200\n"
        "fsd fs1, 16(sp)\n"
        ".cfi_offset fs1, -192\n"
        "fsd fs2, 24(sp)\n"
        ".cfi_offset fs2, -184\n"
        "fsd fs3, 32(sp)\n"
        ".cfi_offset fs3, -176\n"
        "fsd fs4, 40(sp)\n"
        ".cfi_offset fs4, -168\n"
        "fsd fs5, 48(sp)\n"
        ".cfi_offset fs5, -160\n"
        "fsd fs6, 56(sp)\n"
        ".cfi_offset fs6, -152\n"
        "fsd fs7, 64(sp)\n"
        ".cfi_offset fs7, -144\n"
        "fsd fs8, 72(sp)\n"
        ".cfi_offset fs8, -136\n"
        "fsd fs9, 80(sp)\n"
        ".cfi_offset fs9, -128\n"
        "fsd fs10, 88(sp)\n"
        ".cfi_offset fs10, -120\n"
        "fsd fs11, 96(sp)\n"
        ".cfi_offset fs11, -112\n"
        "frrm t0\n"      /* t0: our rounding mode */
        "sd t0, 0(sp)\n" /* the rounding mode, at 0 */
        "sd sp, 0(a0)\n" /* *from = this context */
        "mv a0, a2\n"    /* a0: message, what the other side returns */
        "mv sp, a1\n"    /* leave: sp is the context `to`, with the same layout */
        "ld t1, 0(sp)\n" /* t1: the rounding mode of `to` */
        "bne t0, t1, 2f\n"
        "1:\n"
        "fld fs0, 8(sp)\n" /* fs0 to fs11 of the arriving side */
        "fld fs1, 16(sp)\n"
        "fld fs2, 24(sp)\n"
        "fld fs3, 32(sp)\n"
        "fld fs4, 40(sp)\n"
        "fld fs5, 48(sp)\n"
        "fld fs6, 56(sp)\n"
        "fld fs7, 64(sp)\n"
        "fld fs8, 72(sp)\n"
        "fld fs9, 80(sp)\n"
        "fld fs10, 88(sp)\n"
        "fld fs11, 96(sp)\n"
        "ld s11, 104(sp)\n" /* its s11 to s0 */
        "ld s10, 112(sp)\n"
        "ld s9, 120(sp)\n"
        "ld s8, 128(sp)\n"
        "ld s7, 136(sp)\n"
        "ld s6, 144(sp)\n"
        "ld s5, 152(sp)\n"
        "ld s4, 160(sp)\n"
        "ld s3, 168(sp)\n"
        "ld s2, 176(sp)\n"
        "ld s1, 184(sp)\n"
        "ld s0, 192(sp)\n"
        "ld ra, 200(sp)\n" /* its return address */
        "addi sp, sp, 208\n"
        ".cfi_remember_state\n"
        ".cfi_def_cfa_offset 0\n"
        ".cfi_restore ra\n"
        ".cfi_restore s0\n"
        ".cfi_restore s1\n"
        ".cfi_restore s2\n"
        ".cfi_restore s3\n"
        ".cfi_restore s4\n"
        ".cfi_restore s5\n"
        ".cfi_restore s6\n"
        ".cfi_restore s7\n"
        ".cfi_restore s8\n"
        ".cfi_restore s9\n"
        ".cfi_restore s10\n"
        ".cfi_restore s11\n"
        ".cfi_restore fs0\n"
        ".cfi_restore fs1\n"
        ".cfi_restore fs2\n"
        ".cfi_restore fs3\n"
        ".cfi_restore fs4\n"
        ".cfi_restore fs5\n"
        ".cfi_restore fs6\n"
        ".cfi_restore fs7\n"
        ".cfi_restore fs8\n"
        ".cfi_restore fs9\n"
        ".cfi_restore fs10\n"
        ".cfi_restore fs11\n"
        "ret\n" /* to its caller */
        ".cfi_restore_state\n"
        "2:\n"
        "fsrm t1\n" /* the rounding mode of `to` */
        "j 1b\n"
        ".cfi_endproc\n"
        ".size asthra__swap, .-asthra__swap\n"
        ".option pop\n"
        ".popsection\n");

/* The first return of a new context comes here. a0: message; s1: entry; sp: top, 16-aligned. */
__asm__(".pushsection .text.asthra__swap_start,\"ax\",%progbits\n"
        ".option push\n"
        ".option norelax\n" /* no relocation but the linker's own: it names no symbol */
        ".p2align 4\n"
        ".globl asthra__swap_start\n"
        ".hidden asthra__swap_start\n"
        ".type asthra__swap_start, %function\n"
        "asthra__swap_start:\n"
        ".cfi_startproc\n"
        ".cfi_undefined ra\n" /* nobody called: unwinders stop here */
        "mv t2, s1\n"         /* a call through t2 asks for no landing pad */
        "jalr t2\n"           /* entry(message), which never returns */
        "unimp\n"
        ".cfi_endproc\n"
        ".size asthra__swap_start, .-asthra__swap_start\n"
        ".option pop\n"
        ".popsection\n");

/* fn: a0; argument: a1; escape: a2.   asthra__swap_escape: escape: a0; value: a1 */
__asm__(".pushsection .text.asthra__swap_call,\"ax\",%progbits\n"
        ".option push\n"
        ".option norelax\n" /* no relocation but the linker's own: it names no symbol */
        ".p2align 5\n"
        ".globl asthra__swap_call\n"
        ".hidden asthra__swap_call\n"
        ".type asthra__swap_call, %function\n"
        "asthra__swap_call:\n"
        ".cfi_startproc\n"
        "auipc zero, 0\n"     /* lpad 0 */
        "addi sp, sp, -208\n" /* sp is now this context */
        ".cfi_def_cfa_offset 208\n"
        "sd ra, 200(sp)\n" /* the return address, at 200 */
        ".cfi_offset ra, -8\n"
        "sd s0, 192(sp)\n" /* the caller's s0 to s11, from 192 down */
        ".cfi_offset s0, -16\n"
        "addi s0, sp, 208\n" /* a frame record, for those who walk along s0 */
        "sd s1, 184(sp)\n"
        ".cfi_offset s1, -24\n"
        "sd s2, 176(sp)\n"
        ".cfi_offset s2, -32\n"
        "sd s3, 168(sp)\n"
        ".cfi_offset s3, -40\n"
        "sd s4, 160(sp)\n"
        ".cfi_offset s4, -48\n"
        "sd s5, 152(sp)\n"
        ".cfi_offset s5, -56\n"
        "sd s6, 144(sp)\n"
        ".cfi_offset s6, -64\n"
        "sd s7, 136(sp)\n"
        ".cfi_offset s7, -72\n"
        "sd s8, 128(sp)\n"
        ".cfi_offset s8, -80\n"
        "sd s9, 120(sp)\n"
        ".cfi_offset s9, -88\n"
        "sd s10, 112(sp)\n"
        ".cfi_offset s10, -96\n"
        "sd s11, 104(sp)\n"
        ".cfi_offset s11, -104\n"
        "fsd fs0, 8(sp)\n" /* the caller's fs0 to fs11, from 8 */
        ".cfi_offset fs0, -200\n"
        "fsd fs1, 16(sp)\n"
        ".cfi_offset fs1, -192\n"
        "fsd fs2, 24(sp)\n"
        ".cfi_offset fs2, -184\n"
        "fsd fs3, 32(sp)\n"
        ".cfi_offset fs3, -176\n"
        "fsd fs4, 40(sp)\n"
        ".cfi_offset fs4, -168\n"
        "fsd fs5, 48(sp)\n"
        ".cfi_offset fs5, -160\n"
        "fsd fs6, 56(sp)\n"
        ".cfi_offset fs6, -152\n"
        "fsd fs7, 64(sp)\n"
        ".cfi_offset fs7, -144\n"
        "fsd fs8, 72(sp)\n"
        ".cfi_offset fs8, -136\n"
        "fsd fs9, 80(sp)\n"
        ".cfi_offset fs9, -128\n"
        "fsd fs10, 88(sp)\n"
        ".cfi_offset fs10, -120\n"
        "fsd fs11, 96(sp)\n"
        ".cfi_offset fs11, -112\n"
        "frrm t0\n"      /* t0: the caller's rounding mode */
        "sd t0, 0(sp)\n" /* the rounding mode, at 0 */
        "sd sp, 0(a2)\n" /* *escape = this context */
        "mv t2, a0\n"    /* t2: fn */
        "mv a0, a1\n"    /* a0: argument */
        "bnez t0, 3f\n"  /* the default is 0 */
        "1:\n"
        "jalr t2\n"      /* a0 = fn(argument) */
        "2:\n"           /* here returns fn, and asthra__swap_escape; a0: value */
        "frrm t0\n"      /* t0: what fn left */
        "ld t1, 0(sp)\n" /* t1: the caller's rounding mode */
        "bne t0, t1, 5f\n"
        "4:\n"
        "fld fs0, 8(sp)\n" /* the caller's again */
        "fld fs1, 16(sp)\n"
        "fld fs2, 24(sp)\n"
        "fld fs3, 32(sp)\n"
        "fld fs4, 40(sp)\n"
        "fld fs5, 48(sp)\n"
        "fld fs6, 56(sp)\n"
        "fld fs7, 64(sp)\n"
        "fld fs8, 72(sp)\n"
        "fld fs9, 80(sp)\n"
        "fld fs10, 88(sp)\n"
        "fld fs11, 96(sp)\n"
        "ld s11, 104(sp)\n"
        "ld s10, 112(sp)\n"
        "ld s9, 120(sp)\n"
        "ld s8, 128(sp)\n"
        "ld s7, 136(sp)\n"
        "ld s6, 144(sp)\n"
        "ld s5, 152(sp)\n"
        "ld s4, 160(sp)\n"
        "ld s3, 168(sp)\n"
        "ld s2, 176(sp)\n"
        "ld s1, 184(sp)\n"
        "ld s0, 192(sp)\n"
        "ld ra, 200(sp)\n"
        "addi sp, sp, 208\n"
        ".cfi_remember_state\n"
        ".cfi_def_cfa_offset 0\n"
        ".cfi_restore ra\n"
        ".cfi_restore s0\n"
        ".cfi_restore s1\n"
        ".cfi_restore s2\n"
        ".cfi_restore s3\n"
        ".cfi_restore s4\n"
        ".cfi_restore s5\n"
        ".cfi_restore s6\n"
        ".cfi_restore s7\n"
        ".cfi_restore s8\n"
        ".cfi_restore s9\n"
        ".cfi_restore s10\n"
        ".cfi_restore s11\n"
        ".cfi_restore fs0\n"
        ".cfi_restore fs1\n"
        ".cfi_restore fs2\n"
        ".cfi_restore fs3\n"
        ".cfi_restore fs4\n"
        ".cfi_restore fs5\n"
        ".cfi_restore fs6\n"
        ".cfi_restore fs7\n"
        ".cfi_restore fs8\n"
        ".cfi_restore fs9\n"
        ".cfi_restore fs10\n"
        ".cfi_restore fs11\n"
        "ret\n" /* a0: value */
        ".cfi_restore_state\n"
        "3:\n"
        "fsrm zero\n" /* to nearest */
        "j 1b\n"
        "5:\n"
        "fsrm t1\n" /* the caller's rounding mode */
        "j 4b\n"
        ".cfi_endproc\n"
        ".size asthra__swap_call, .-asthra__swap_call\n"
        ".globl asthra__swap_escape\n"
        ".hidden asthra__swap_escape\n"
        ".type asthra__swap_escape, %function\n"
        ".p2align 2\n"
        "asthra__swap_escape:\n"
        ".cfi_startproc\n"
        "auipc zero, 0\n" /* lpad 0 */
        "mv sp, a0\n"     /* every frame below is gone */
        ".cfi_def_cfa_offset 208\n"
        ".cfi_offset ra, -8\n"
        ".cfi_offset s0, -16\n"
        "mv a0, a1\n" /* a0: value */
        "j 2b\n"
        ".cfi_endproc\n"
        ".size asthra__swap_escape, .-asthra__swap_escape\n"
        ".option pop\n"
        ".popsection\n");

__attribute__((__visibility__("hidden"))) extern void
asthra__swap_start(void) __asm__("asthra__swap_start");

/* What asthra__swap loads, as the table above draws it. */
typedef struct Asthra__SwapFrame {
    uint64_t frm, fs0_to_fs11[12], s11_to_s2[10], s1, s0, ra;
} Asthra__SwapFrame;
_Static_assert(sizeof(Asthra__SwapFrame) == 208, "the table of swap_riscv64.c");
_Static_assert(offsetof(Asthra__SwapFrame, s11_to_s2) == 104, "the table of swap_riscv64.c");
_Static_assert(offsetof(Asthra__SwapFrame, s1) == 184, "the table of swap_riscv64.c");
_Static_assert(offsetof(Asthra__SwapFrame, ra) == 200, "the table of swap_riscv64.c");

/* The instruction that reads the shadow stack's pointer (Zicfiss) is illegal on processors of
 * before, so the system is asked; one that does not know the question has none to give. */
ASTHRA__FN bool asthra__swap_is_allowed(void) {
    enum { ASTHRA__SHADOW_STATUS = 74, ASTHRA__SHADOW_ON = 1 }; /* PR_GET_SHADOW_STACK_STATUS */
    unsigned long status = 0;
    int saved = errno;
    bool is_known = prctl(ASTHRA__SHADOW_STATUS, &status, 0ul, 0ul, 0ul) == 0;
    errno = saved;
    return !is_known || !(status & ASTHRA__SHADOW_ON);
}

ASTHRA__FN Asthra__SwapContext *asthra__swap_make(void *low, void *top, void (*entry)(void *)) {
    char *end = (char *)top - ((uintptr_t)top & 15);
    Asthra__SwapFrame *frame = (Asthra__SwapFrame *)(void *)end - 1;
    (void)low;
    *frame = (Asthra__SwapFrame){.ra = (uint64_t)(uintptr_t)asthra__swap_start,
                                 .s1 = (uint64_t)(uintptr_t)entry};
    return (Asthra__SwapContext *)(void *)frame;
}

#endif

/* ---- [swap] body --------------------------------------------------- platform/swap_i386.c ---- */
/* swap_i386 - the switch for i386, System V ABI.                           [swap] body
 *
 * A switch is a function call whose return happens on another stack. The ABI (System V i386,
 * section 2.2.2) says what a call keeps: ebx, esi, edi, ebp, the control bits of mxcsr and the x87
 * word. They are pushed, the stack pointers are exchanged, and the same things are popped on the
 * other side. Arguments come on the stack, and nothing here needs to know where the program lies.
 *
 * A saved context, offsets from the stack pointer that stands for it:
 *
 *      0   mxcsr, 4 bytes; unused where the program is built without SSE
 *      4   x87 control word, 2 bytes; 2 unused
 *      8   edi
 *     12   esi      entry, in a context that has not started
 *     16   ebx
 *     20   ebp      0, in a context that has not started: a walk along ebp ends there
 *     24   return address
 *     28   the stack pointer after the return; the arguments of who has called
 *
 * asthra__swap_call leaves the same layout, so that its frame is a context to escape to. A stack
 * that is a multiple of 16 where a call has pushed its arguments, as compilers want it, is again
 * one where asthra__swap_call has pushed its own.
 *
 * Control words are treated as in swap_x86_64.c: mxcsr is loaded always and its sticky flags
 * travel, the x87 word is loaded only where it differs, its flags cleared first. There is no red
 * zone: what lies below the stack pointer is a signal handler's.
 */

#if ASTHRA_HAS_TASK && ASTHRA_HAS_ASM && ASTHRA__CPU_I386

#if defined(__SSE__)
#define ASTHRA__SWAP_SSE 1
#else
#define ASTHRA__SWAP_SSE 0
#endif
/* Landing pads where the compiler makes them: old processors do not know the instruction. */
#if defined(__CET__)
#define ASTHRA__SWAP_PADS 1
#else
#define ASTHRA__SWAP_PADS 0
#endif

/* from, to, message: at 4, 8, 12; 24 more once all is pushed */
__asm__(".pushsection .text.asthra__swap,\"ax\",@progbits\n"
        ".p2align 5\n"
        ".globl asthra__swap\n"
        ".hidden asthra__swap\n"
        ".type asthra__swap, @function\n"
        "asthra__swap:\n"
        ".cfi_startproc\n"
#if ASTHRA__SWAP_PADS
        "endbr32\n"
#endif
        "pushl %ebp\n" /* the caller's ebp, at 20 */
        ".cfi_adjust_cfa_offset 4\n"
        ".cfi_rel_offset %ebp, 0\n"
        "pushl %ebx\n" /* the caller's ebx, at 16 */
        ".cfi_adjust_cfa_offset 4\n"
        ".cfi_rel_offset %ebx, 0\n"
        "pushl %esi\n" /* the caller's esi, at 12 */
        ".cfi_adjust_cfa_offset 4\n"
        ".cfi_rel_offset %esi, 0\n"
        "pushl %edi\n" /* the caller's edi, at 8 */
        ".cfi_adjust_cfa_offset 4\n"
        ".cfi_rel_offset %edi, 0\n"
        "subl $8, %esp\n" /* room for the control words; esp is now this context */
        ".cfi_adjust_cfa_offset 8\n"
#if ASTHRA__SWAP_SSE
        "stmxcsr (%esp)\n" /* mxcsr, at 0 */
#endif
        "fnstcw 4(%esp)\n"       /* the x87 word, at 4 */
        "movl 28(%esp), %ecx\n"  /* ecx: from */
        "movl 32(%esp), %edx\n"  /* edx: to */
        "movl 36(%esp), %eax\n"  /* eax: message, what the other side returns */
        "movl %esp, (%ecx)\n"    /* *from = this context */
        "movzwl 4(%esp), %ecx\n" /* ecx: our x87 word */
        "movl %edx, %esp\n"      /* leave: esp is the context `to`, with the same layout */
#if ASTHRA__SWAP_SSE
        "ldmxcsr (%esp)\n" /* the mxcsr of `to`, from 0 */
#endif
        "cmpw 4(%esp), %cx\n" /* is its x87 word ours? */
        "jne 2f\n"
        "1:\n"
        "addl $8, %esp\n" /* past the control words */
        ".cfi_remember_state\n"
        ".cfi_adjust_cfa_offset -8\n"
        "popl %edi\n" /* edi of the arriving side, from 8 */
        ".cfi_adjust_cfa_offset -4\n"
        ".cfi_restore %edi\n"
        "popl %esi\n" /* its esi, from 12 */
        ".cfi_adjust_cfa_offset -4\n"
        ".cfi_restore %esi\n"
        "popl %ebx\n" /* its ebx, from 16 */
        ".cfi_adjust_cfa_offset -4\n"
        ".cfi_restore %ebx\n"
        "popl %ebp\n" /* its ebp, from 20 */
        ".cfi_adjust_cfa_offset -4\n"
        ".cfi_restore %ebp\n"
        "ret\n" /* to its caller, from 24 */
        ".cfi_restore_state\n"
        "2:\n"
        "fnclex\n"        /* no flag of another task may raise below */
        "fldcw 4(%esp)\n" /* the x87 word of `to`, from 4 */
        "jmp 1b\n"
        ".cfi_endproc\n"
        ".size asthra__swap, .-asthra__swap\n"
        ".popsection\n");

/* The first return of a new context comes here. eax: message; esi: entry; esp: 4 above a multiple
 * of 16, where the one argument of a call goes. */
__asm__(".pushsection .text.asthra__swap_start,\"ax\",@progbits\n"
        ".p2align 4\n"
        ".globl asthra__swap_start\n"
        ".hidden asthra__swap_start\n"
        ".type asthra__swap_start, @function\n"
        "asthra__swap_start:\n"
        ".cfi_startproc\n"
        ".cfi_undefined %eip\n" /* nobody called: unwinders stop here */
#if ASTHRA__SWAP_PADS
        "endbr32\n"
#endif
        "pushl %eax\n" /* argument of entry: message */
        ".cfi_adjust_cfa_offset 4\n"
        "call *%esi\n" /* entry(message), which never returns */
        "ud2\n"
        ".cfi_endproc\n"
        ".size asthra__swap_start, .-asthra__swap_start\n"
        ".popsection\n");

/* fn, argument, escape, is_default: at 4, 8, 12, 16; 24 more once all is pushed
 * asthra__swap_escape: escape, value: at 4, 8 */
__asm__(".pushsection .text.asthra__swap_call,\"ax\",@progbits\n"
        ".p2align 5\n"
        ".globl asthra__swap_call\n"
        ".hidden asthra__swap_call\n"
        ".type asthra__swap_call, @function\n"
        "asthra__swap_call:\n"
        ".cfi_startproc\n"
#if ASTHRA__SWAP_PADS
        "endbr32\n"
#endif
        "pushl %ebp\n" /* the caller's ebp, at 20 */
        ".cfi_adjust_cfa_offset 4\n"
        ".cfi_rel_offset %ebp, 0\n"
        "pushl %ebx\n" /* the caller's ebx, at 16 */
        ".cfi_adjust_cfa_offset 4\n"
        ".cfi_rel_offset %ebx, 0\n"
        "pushl %esi\n" /* the caller's esi, at 12 */
        ".cfi_adjust_cfa_offset 4\n"
        ".cfi_rel_offset %esi, 0\n"
        "pushl %edi\n" /* the caller's edi, at 8 */
        ".cfi_adjust_cfa_offset 4\n"
        ".cfi_rel_offset %edi, 0\n"
        "subl $8, %esp\n" /* room for the control words */
        ".cfi_adjust_cfa_offset 8\n"
        "movl 36(%esp), %ecx\n" /* ecx: escape */
        "movl %esp, (%ecx)\n"   /* *escape = this context */
        "movl 28(%esp), %eax\n" /* eax: fn */
        "movl 32(%esp), %edx\n" /* edx: argument */
        "cmpb $0, 40(%esp)\n"   /* is_default? */
        "jne 6f\n"
        "movl $0x1f80, (%esp)\n" /* what mxcsr is taken for without SSE */
#if ASTHRA__SWAP_SSE
        "stmxcsr (%esp)\n" /* the caller's mxcsr, at 0 */
#endif
        "fnstcw 4(%esp)\n"       /* the caller's x87 word, at 4 */
        "movl (%esp), %ecx\n"    /* ecx: mxcsr */
        "movzwl 4(%esp), %ebx\n" /* ebx: the x87 word */
        "andl $0xffc0, %ecx\n"   /* without its flags */
        "xorl $0x1f80, %ecx\n"   /* the default: all masked, to nearest */
        "xorl $0x037f, %ebx\n"   /* the default: all masked, to nearest, extended precision */
        "orl %ebx, %ecx\n"
        "jnz 3f\n"
        "1:\n"
        "pushl %edx\n" /* argument: 16-aligned for the call */
        ".cfi_adjust_cfa_offset 4\n"
        "call *%eax\n" /* eax = fn(argument) */
        "addl $4, %esp\n"
        ".cfi_adjust_cfa_offset -4\n"
        "2:\n" /* here goes on who called fn, and asthra__swap_escape; eax: value */
#if ASTHRA__SWAP_SSE
        "ldmxcsr (%esp)\n" /* the caller's mxcsr, from 0 */
#endif
        "pushl %ecx\n" /* room */
        ".cfi_adjust_cfa_offset 4\n"
        "fnstcw (%esp)\n" /* the x87 word that fn left */
        "popl %ecx\n"
        ".cfi_adjust_cfa_offset -4\n"
        "cmpw 4(%esp), %cx\n" /* is it the caller's? */
        "jne 5f\n"
        "4:\n"
        "addl $8, %esp\n" /* past the control words */
        ".cfi_remember_state\n"
        ".cfi_adjust_cfa_offset -8\n"
        "popl %edi\n" /* the caller's again, from 8 upwards */
        ".cfi_adjust_cfa_offset -4\n"
        ".cfi_restore %edi\n"
        "popl %esi\n"
        ".cfi_adjust_cfa_offset -4\n"
        ".cfi_restore %esi\n"
        "popl %ebx\n"
        ".cfi_adjust_cfa_offset -4\n"
        ".cfi_restore %ebx\n"
        "popl %ebp\n"
        ".cfi_adjust_cfa_offset -4\n"
        ".cfi_restore %ebp\n"
        "ret\n" /* eax: value */
        ".cfi_restore_state\n"
        "3:\n"
        "pushl $0x1f80\n" /* the defaults */
        ".cfi_adjust_cfa_offset 4\n"
#if ASTHRA__SWAP_SSE
        "ldmxcsr (%esp)\n"
#endif
        "movl $0x037f, (%esp)\n"
        "fnclex\n" /* a flag left behind must not raise under another mask */
        "fldcw (%esp)\n"
        "popl %ecx\n"
        ".cfi_adjust_cfa_offset -4\n"
        "jmp 1b\n"
        "5:\n"
        "fnclex\n"
        "fldcw 4(%esp)\n" /* the caller's x87 word, from 4 */
        "jmp 4b\n"
        "6:\n"
        "movl $0x1f80, (%esp)\n" /* the caller's, by its word for it */
        "movl $0x037f, 4(%esp)\n"
        "jmp 1b\n"
        ".cfi_endproc\n"
        ".size asthra__swap_call, .-asthra__swap_call\n"
        ".globl asthra__swap_escape\n"
        ".hidden asthra__swap_escape\n"
        ".type asthra__swap_escape, @function\n"
        "asthra__swap_escape:\n"
        ".cfi_startproc\n"
#if ASTHRA__SWAP_PADS
        "endbr32\n"
#endif
        "movl 8(%esp), %eax\n" /* eax: value */
        "movl 4(%esp), %esp\n" /* every frame below is gone */
        ".cfi_def_cfa %esp, 28\n"
        ".cfi_offset %ebp, -8\n"
        ".cfi_offset %ebx, -12\n"
        ".cfi_offset %esi, -16\n"
        ".cfi_offset %edi, -20\n"
        "cld\n" /* wherever the frames below were */
        "jmp 2b\n"
        ".cfi_endproc\n"
        ".size asthra__swap_escape, .-asthra__swap_escape\n"
        ".popsection\n");

__attribute__((__visibility__("hidden"))) extern void
asthra__swap_start(void) __asm__("asthra__swap_start");

/* What asthra__swap pops, as the table above draws it. */
typedef struct Asthra__SwapFrame {
    uint32_t mxcsr;
    uint16_t x87_word, unused;
    uint32_t edi, esi, ebx, ebp, return_address;
} Asthra__SwapFrame;
_Static_assert(sizeof(Asthra__SwapFrame) == 28, "the table of swap_i386.c");
_Static_assert(offsetof(Asthra__SwapFrame, esi) == 12, "the table of swap_i386.c");
_Static_assert(offsetof(Asthra__SwapFrame, return_address) == 24, "the table of swap_i386.c");

/* Linux has shadow stacks for 64-bit programs alone. */
ASTHRA__FN bool asthra__swap_is_allowed(void) {
    return true;
}

ASTHRA__FN Asthra__SwapContext *asthra__swap_make(void *low, void *top, void (*entry)(void *)) {
    char *end = (char *)top - ((uintptr_t)top & 15) - 12;
    Asthra__SwapFrame *frame = (Asthra__SwapFrame *)(void *)end - 1;
    (void)low;
    *frame = (Asthra__SwapFrame){.mxcsr = 0x1f80,
                                 .x87_word = 0x037f,
                                 .esi = (uint32_t)(uintptr_t)entry,
                                 .return_address = (uint32_t)(uintptr_t)asthra__swap_start};
    return (Asthra__SwapContext *)(void *)frame;
}

#endif

/* ---- [swap] body ----------------------------------------------- platform/swap_ucontext.c ---- */
/* swap_ucontext - the switch in terms of the C library.                    [swap] body
 *
 * For processors without a file of their own, and for builds that want no assembly. A context is a
 * record that lies on the stack it stands for, and its address is the context. getcontext and its
 * kin also carry the signal mask, which costs a system call or two at each switch and is wrong here
 * (masks belong to threads): the record that is resumed is given the mask of the thread first.
 *
 * The floating-point words travel inside ucontext_t, as the C library does it; but for mxcsr on
 * i386, which each side takes along by itself. The defaults of a fresh context are set with one
 * instruction each, because fenv.h would make every program link libm; a processor that is not
 * named below starts tasks with the words of their creator.
 */

#if ASTHRA_HAS_TASK && !ASTHRA_HAS_ASM

#include <signal.h>
#include <string.h>
#include <ucontext.h>

#ifndef __GLIBC__
#error "ASTHRA_RT_NO_ASM needs the ucontext functions of glibc; this C library has none"
#endif

typedef struct Asthra__SwapRecord {
    ucontext_t context;
    void *message;
    void (*entry)(void *);
    uint32_t word;
    volatile bool has_escaped;
} Asthra__SwapRecord;

#if defined(__x86_64__) || (defined(__i386__) && defined(__SSE__))
static void asthra__swap_default_words(void) {
    static const uint32_t mxcsr = 0x1f80;
    static const uint16_t x87_word = 0x037f;
    __asm__ volatile("ldmxcsr %0\n\tfnclex\n\tfldcw %1" : : "m"(mxcsr), "m"(x87_word));
}
#elif defined(__i386__)
static void asthra__swap_default_words(void) {
    static const uint16_t x87_word = 0x037f;
    __asm__ volatile("fnclex\n\tfldcw %0" : : "m"(x87_word));
}
#elif defined(__aarch64__)
static void asthra__swap_default_words(void) {
    __asm__ volatile("msr fpcr, xzr");
}
#elif defined(__riscv) && defined(__riscv_flen)
static void asthra__swap_default_words(void) {
    __asm__ volatile("fscsr zero");
}
#elif defined(__arm__) && defined(__ARM_FP)
static void asthra__swap_default_words(void) {
    __asm__ volatile("vmsr fpscr, %0" : : "r"(0));
}
#else
static void asthra__swap_default_words(void) {}
#endif

/* What the C library leaves behind. */
#if defined(__i386__) && defined(__SSE__)
static uint32_t asthra__swap_word(void) {
    uint32_t mxcsr;
    __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
    return mxcsr;
}
static void asthra__swap_set_word(uint32_t mxcsr) {
    __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
}
#else
static uint32_t asthra__swap_word(void) {
    return 0;
}
static void asthra__swap_set_word(uint32_t none) {
    (void)none;
}
#endif

ASTHRA__FN bool asthra__swap_is_allowed(void) {
    return true; /* the C library keeps its own contexts in step with a shadow stack */
}

/* The record's address comes in two halves, because makecontext passes ints. */
static void asthra__swap_start(unsigned high, unsigned low) {
    Asthra__SwapRecord *record =
        (Asthra__SwapRecord *)(uintptr_t)((uint64_t)high << 32 | (uint64_t)low);
    asthra__swap_default_words();
    record->entry(record->message);
    __builtin_trap();
}

ASTHRA__FN Asthra__SwapContext *asthra__swap_make(void *low, void *top, void (*entry)(void *)) {
    uintptr_t end = ((uintptr_t)top - sizeof(Asthra__SwapRecord)) & ~(uintptr_t)63;
    Asthra__SwapRecord *record = (Asthra__SwapRecord *)end;
    uint64_t bits = (uint64_t)end;
    memset(record, 0, sizeof *record);
    getcontext(&record->context);
    record->entry = entry;
    record->context.uc_link = NULL;
    record->context.uc_stack.ss_sp = low;
    record->context.uc_stack.ss_size = end - (uintptr_t)low;
    makecontext(&record->context, (void (*)(void))(uintptr_t)asthra__swap_start, 2,
                (unsigned)(bits >> 32), (unsigned)bits);
    return (Asthra__SwapContext *)(void *)record;
}

/* So that the switch leaves the mask of this thread as it is. */
static void asthra__swap_keep_mask(Asthra__SwapRecord *record) {
    sigprocmask(SIG_SETMASK, NULL, &record->context.uc_sigmask);
}

ASTHRA__FN void *asthra__swap(Asthra__SwapContext **from, Asthra__SwapContext *to, void *message) {
    Asthra__SwapRecord here, *there = (Asthra__SwapRecord *)(void *)to;
    there->message = message;
    asthra__swap_keep_mask(there);
    *from = (Asthra__SwapContext *)(void *)&here;
    here.word = asthra__swap_word();
    swapcontext(&here.context, &there->context);
    asthra__swap_set_word(here.word);
    return here.message;
}

ASTHRA__FN void *asthra__swap_call(void *(*fn)(void *), void *argument,
                                   Asthra__SwapContext **escape, bool is_default) {
    Asthra__SwapRecord here;
    (void)is_default;
    here.has_escaped = false;
    here.word = asthra__swap_word();
    getcontext(&here.context); /* returns again when fn has returned, or at the escape */
    if (here.has_escaped) {
        asthra__swap_set_word(here.word);
        return here.message;
    }
    *escape = (Asthra__SwapContext *)(void *)&here;
    asthra__swap_default_words();
    void *value = fn(argument);
    asthra__swap_escape((Asthra__SwapContext *)(void *)&here, value); /* its words come back too */
}

ASTHRA_NORETURN ASTHRA__FN void asthra__swap_escape(Asthra__SwapContext *escape, void *value) {
    Asthra__SwapRecord *there = (Asthra__SwapRecord *)(void *)escape;
    there->message = value;
    there->has_escaped = true;
    asthra__swap_keep_mask(there);
    setcontext(&there->context);
    __builtin_trap();
}

#endif

/* ---- [text] internal ----------------------------------------------- core/text_internal.h ---- */
/* text - writing messages where stdio cannot go.                           [text] internal
 *
 * A text is a caller's buffer that fills up and never overflows; what does not fit is cut and the
 * end is always a NUL. Nothing here allocates, locks or reads the locale, so signal handlers and
 * the out-of-memory path may use it; floating-point directives alone go through the C library.
 */

#if ASTHRA_HAS_CORE

typedef struct Asthra__Text {
    char *start;
    size_t length, room; /* room counts the NUL */
} Asthra__Text;

ASTHRA__FN Asthra__Text asthra__text_on(char *buffer, size_t room);
ASTHRA__FN void asthra__text_add(Asthra__Text *t, const char *words); /* NULL: nothing */
ASTHRA__FN void asthra__text_add_count(Asthra__Text *t, const char *bytes, size_t count);

/* printf's %d %i %u %x %X %o %c %s %p %%, with hh h l ll z t j, flags, width and precision; a NULL
 * string is "(null)". %f %e %g %a (not in signal handlers; without their # flag; a long double is
 * rounded to double) go through snprintf, and under ASTHRA_RT_NO_STDIO they write "<float>". %n
 * stores nothing; any other directive is copied as it stands. */
ASTHRA__FN void asthra__text_format(Asthra__Text *t, const char *format, ...) ASTHRA_PRINTF(2, 3);
ASTHRA__FN void asthra__text_format_list(Asthra__Text *t, const char *format, va_list list)
    ASTHRA_PRINTF(2, 0);
ASTHRA__FN void asthra__text_add_duration(Asthra__Text *t, int64_t ns); /* "1.5 s", "20 ms" */

/* One line on stderr in one write, formatted as above, cut at 1,000 bytes; errno is left as it was.
 * Signal-safe without floating-point directives. */
ASTHRA__FN void asthra__text_report(const char *format, ...) ASTHRA_PRINTF(1, 2);

#endif

/* ---- [text] body ------------------------------------------------------------ core/text.c ---- */
/* text - a formatter that asks nobody for anything.                        [text] body
 *
 * A message must be written by a handler of a fault, by a panic for want of memory, and by a thread
 * that holds a lock. The C library's printf promises nothing there, so a format is read here: one
 * directive at a time becomes a record, its argument becomes a sign, zeros and a body, and one
 * function pads them. Only floating-point numbers, whose correct printing is long, are left to
 * snprintf, a directive at a time.
 */

#if ASTHRA_HAS_CORE

#include <errno.h>
#include <string.h>
#if ASTHRA_HAS_STDIO
#include <stdio.h>
#endif

typedef struct Asthra__TextDirective {
    bool left, plus, space, alternate, zero;
    char length;          /* h l z t j, H for hh, q for ll, L; 0: none */
    char kind;            /* the letter; 0: the format ended */
    int width, precision; /* precision < 0: none */
} Asthra__TextDirective;

/* A va_list may be an array, which decays as an argument; a struct can be passed by address. */
typedef struct Asthra__TextArguments {
    va_list list;
} Asthra__TextArguments;

ASTHRA__FN Asthra__Text asthra__text_on(char *buffer, size_t room) {
    Asthra__Text t = {buffer, 0, room};
    if (room) buffer[0] = 0;
    return t;
}

ASTHRA__FN void asthra__text_add_count(Asthra__Text *t, const char *bytes, size_t count) {
    size_t left = t->room ? t->room - 1 - t->length : 0;
    if (count > left) count = left;
    if (!count) return;
    memcpy(t->start + t->length, bytes, count);
    t->length += count;
    t->start[t->length] = 0;
}

ASTHRA__FN void asthra__text_add(Asthra__Text *t, const char *words) {
    if (words) asthra__text_add_count(t, words, strlen(words));
}

static void asthra__text_fill(Asthra__Text *t, char with, size_t count) {
    for (; count && t->length + 1 < t->room; count--) asthra__text_add_count(t, &with, 1);
}

/* Writes blanks, sign, zeros and body as the flags and the width want them. */
static void asthra__text_put(Asthra__Text *t, const Asthra__TextDirective *d, const char *sign,
                             size_t zeros, const char *body, size_t count) {
    size_t used = strlen(sign) + zeros + count;
    size_t pad = (size_t)d->width > used ? (size_t)d->width - used : 0;
    if (d->zero && !d->left) {
        zeros += pad;
        pad = 0;
    }
    if (!d->left) asthra__text_fill(t, ' ', pad);
    asthra__text_add(t, sign);
    asthra__text_fill(t, '0', zeros);
    asthra__text_add_count(t, body, count);
    if (d->left) asthra__text_fill(t, ' ', pad);
}

static const char *asthra__text_sign(const Asthra__TextDirective *d, bool negative) {
    if (negative) return "-";
    return d->plus ? "+" : d->space ? " " : "";
}

static void asthra__text_put_number(Asthra__Text *t, Asthra__TextDirective *d, const char *sign,
                                    uint64_t number, unsigned base) {
    const char *digits = d->kind == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    char body[24], *start = body + sizeof body; /* 64 bits are 22 octal digits */
    for (; number; number /= base) *--start = digits[number % base];
    size_t count = (size_t)(body + sizeof body - start), zeros;
    if (d->precision >= 0) d->zero = false;
    size_t wanted = d->precision < 0 ? 1 : (size_t)d->precision;
    zeros = wanted > count ? wanted - count : 0;
    if (base == 8 && d->alternate && !zeros) zeros = 1;
    asthra__text_put(t, d, sign, zeros, start, count);
}

static void asthra__text_put_string(Asthra__Text *t, Asthra__TextDirective *d, const char *string) {
    if (!string) string = "(null)";
    size_t most = d->precision < 0 ? SIZE_MAX : (size_t)d->precision, count = 0;
    while (count < most && string[count]) count++;
    d->zero = false;
    asthra__text_put(t, d, "", 0, string, count);
}

static int64_t asthra__text_take_signed(const Asthra__TextDirective *d, Asthra__TextArguments *a) {
    switch (d->length) {
    case 'H': return (signed char)va_arg(a->list, int);
    case 'h': return (short)va_arg(a->list, int);
    case 'l': return va_arg(a->list, long);
    case 'q': return va_arg(a->list, long long);
    case 'z':
    case 't': return va_arg(a->list, ptrdiff_t);
    case 'j': return va_arg(a->list, intmax_t);
    default: return va_arg(a->list, int);
    }
}

static uint64_t asthra__text_take_unsigned(const Asthra__TextDirective *d,
                                           Asthra__TextArguments *a) {
    switch (d->length) {
    case 'H': return (unsigned char)va_arg(a->list, unsigned);
    case 'h': return (unsigned short)va_arg(a->list, unsigned);
    case 'l': return va_arg(a->list, unsigned long);
    case 'q': return va_arg(a->list, unsigned long long);
    case 'z':
    case 't': return va_arg(a->list, size_t);
    case 'j': return va_arg(a->list, uintmax_t);
    default: return va_arg(a->list, unsigned);
    }
}

/* The magnitude of a number in digits; returns how many. A negative precision is the default's. */
static size_t asthra__text_float_digits(char kind, int precision, double value, char *out,
                                        size_t room) {
#if ASTHRA_HAS_STDIO
    int count = 0;
    switch (kind) {
    case 'f': count = snprintf(out, room, "%.*f", precision, value); break;
    case 'F': count = snprintf(out, room, "%.*F", precision, value); break;
    case 'e': count = snprintf(out, room, "%.*e", precision, value); break;
    case 'E': count = snprintf(out, room, "%.*E", precision, value); break;
    case 'g': count = snprintf(out, room, "%.*g", precision, value); break;
    case 'G': count = snprintf(out, room, "%.*G", precision, value); break;
    case 'a': count = snprintf(out, room, "%.*a", precision, value); break;
    default: count = snprintf(out, room, "%.*A", precision, value); break;
    }
    return count < 0 ? 0 : (size_t)count < room ? (size_t)count : room - 1;
#else
    Asthra__Text t = asthra__text_on(out, room);
    (void)kind, (void)precision, (void)value;
    asthra__text_add(&t, "<float>");
    return t.length;
#endif
}

static void asthra__text_put_float(Asthra__Text *t, Asthra__TextDirective *d,
                                   Asthra__TextArguments *a) {
    char body[400]; /* the largest double has 309 digits before the point */
    double value =
        d->length == 'L' ? (double)va_arg(a->list, long double) : va_arg(a->list, double);
    size_t count = asthra__text_float_digits(d->kind, d->precision, value, body, sizeof body);
    const char *start = body + (body[0] == '-');
    char before[4]; /* the sign, and the 0x of %a: padding zeros come behind it */
    Asthra__Text sign = asthra__text_on(before, sizeof before);
    asthra__text_add(&sign, asthra__text_sign(d, body[0] == '-'));
    if (start[0] < '0' || start[0] > '9') d->zero = false; /* inf, nan */
    if (start[0] == '0' && (start[1] == 'x' || start[1] == 'X')) {
        asthra__text_add_count(&sign, start, 2);
        start += 2;
    }
    asthra__text_put(t, d, before, 0, start, count - (size_t)(start - body));
}

/* Reads a number or a star; returns where the format goes on. */
static const char *asthra__text_read_number(const char *f, Asthra__TextArguments *a, int *out) {
    if (*f == '*') {
        *out = va_arg(a->list, int);
        return f + 1;
    }
    for (*out = 0; *f >= '0' && *f <= '9'; f++)
        if (*out < 100000) *out = *out * 10 + (*f - '0');
    return f;
}

static const char *asthra__text_read_flags(const char *f, Asthra__TextDirective *d) {
    for (;; f++) {
        if (*f == '-')
            d->left = true;
        else if (*f == '+')
            d->plus = true;
        else if (*f == ' ')
            d->space = true;
        else if (*f == '#')
            d->alternate = true;
        else if (*f == '0')
            d->zero = true;
        else
            return f;
    }
}

static const char *asthra__text_read_length(const char *f, Asthra__TextDirective *d) {
    if (!*f || !strchr("hlLztj", *f)) return f;
    d->length = *f++;
    if (*f != d->length || (*f != 'h' && *f != 'l')) return f;
    d->length = *f == 'h' ? 'H' : 'q';
    return f + 1;
}

/* `f` stands behind the percent sign; returns the place behind the directive's letter. */
static const char *asthra__text_read(const char *f, Asthra__TextArguments *a,
                                     Asthra__TextDirective *d) {
    *d = (Asthra__TextDirective){.precision = -1};
    f = asthra__text_read_flags(f, d);
    f = asthra__text_read_number(f, a, &d->width);
    if (d->width < 0) {
        d->left = true;
        d->width = d->width < -100000 ? 100000 : -d->width;
    }
    if (*f == '.') f = asthra__text_read_number(f + 1, a, &d->precision);
    f = asthra__text_read_length(f, d);
    d->kind = *f;
    return *f ? f + 1 : f;
}

static void asthra__text_put_signed(Asthra__Text *t, Asthra__TextDirective *d,
                                    Asthra__TextArguments *a) {
    int64_t number = asthra__text_take_signed(d, a);
    uint64_t magnitude = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    asthra__text_put_number(t, d, asthra__text_sign(d, number < 0), magnitude, 10);
}

static void asthra__text_put_hex(Asthra__Text *t, Asthra__TextDirective *d,
                                 Asthra__TextArguments *a) {
    uint64_t number = asthra__text_take_unsigned(d, a);
    const char *prefix = d->alternate && number ? (d->kind == 'X' ? "0X" : "0x") : "";
    asthra__text_put_number(t, d, prefix, number, 16);
}

/* Writes one directive; false: it is none that we know. */
static bool asthra__text_put_directive(Asthra__Text *t, Asthra__TextDirective *d,
                                       Asthra__TextArguments *a) {
    char letter;
    switch (d->kind) {
    case 'd':
    case 'i': asthra__text_put_signed(t, d, a); return true;
    case 'u': asthra__text_put_number(t, d, "", asthra__text_take_unsigned(d, a), 10); return true;
    case 'o': asthra__text_put_number(t, d, "", asthra__text_take_unsigned(d, a), 8); return true;
    case 'x':
    case 'X': asthra__text_put_hex(t, d, a); return true;
    case 'c':
        letter = (char)va_arg(a->list, int);
        d->zero = false;
        asthra__text_put(t, d, "", 0, &letter, 1);
        return true;
    case 's': asthra__text_put_string(t, d, va_arg(a->list, const char *)); return true;
    case 'p':
        asthra__text_put_number(t, d, "0x", (uintptr_t)va_arg(a->list, void *), 16);
        return true;
    case 'n': (void)va_arg(a->list, void *); return true;
    case '%': asthra__text_add_count(t, "%", 1); return true;
    default:
        if (!d->kind || !strchr("fFeEgGaA", d->kind)) return false;
        asthra__text_put_float(t, d, a);
        return true;
    }
}

ASTHRA__FN void asthra__text_format_list(Asthra__Text *t, const char *format, va_list list) {
    Asthra__TextArguments arguments;
    va_copy(arguments.list, list);
    while (*format) {
        size_t plain = strcspn(format, "%");
        asthra__text_add_count(t, format, plain);
        format += plain;
        if (!*format) break;
        Asthra__TextDirective d;
        const char *end = asthra__text_read(format + 1, &arguments, &d);
        if (!asthra__text_put_directive(t, &d, &arguments))
            asthra__text_add_count(t, format, (size_t)(end - format));
        format = end;
    }
    va_end(arguments.list);
}

ASTHRA__FN void asthra__text_format(Asthra__Text *t, const char *format, ...) {
    va_list list;
    va_start(list, format);
    asthra__text_format_list(t, format, list);
    va_end(list);
}

/* In the largest unit that leaves a whole number, with one decimal if that is not 0. */
ASTHRA__FN void asthra__text_add_duration(Asthra__Text *t, int64_t ns) {
    static const struct {
        uint64_t ns;
        const char *name;
    } units[] = {{1000000000, "s"}, {1000000, "ms"}, {1000, "us"}, {1, "ns"}};
    uint64_t left = ns < 0 ? 0 - (uint64_t)ns : (uint64_t)ns;
    size_t i = 0;
    while (i < 3 && left < units[i].ns) i++;
    unsigned tenths = (unsigned)(left % units[i].ns * 10 / units[i].ns);
    asthra__text_format(t, "%s%llu", ns < 0 ? "-" : "", (unsigned long long)(left / units[i].ns));
    if (tenths) asthra__text_format(t, ".%u", tenths);
    asthra__text_format(t, " %s", units[i].name);
}

ASTHRA__FN void asthra__text_report(const char *format, ...) {
    char line[1002];
    int saved = errno;
    va_list list;
    va_start(list, format);
    Asthra__Text t = asthra__text_on(line, sizeof line - 1); /* the newline's place stays free */
    asthra__text_format_list(&t, format, list);
    va_end(list);
    line[t.length++] = '\n';
    asthra__os_write_error(line, t.length);
    errno = saved;
}

#endif

/* ---- [sync] internal ----------------------------------------------- core/sync_internal.h ---- */
/* sync - the short lock under everything.                                  [sync] internal
 *
 * Asthra__Lock guards a few dozen instructions, or the copy of one value of any size: it spins
 * briefly, then sleeps. Unlocking is a plain store where the system has asymmetric fences. It may
 * be unlocked by another fiber or thread than the one that locked it, and it is free when zeroed.
 * Once another thread can have the lock, unlock never touches its memory again: whoever gets the
 * lock last may free what it stands in.
 */

#if ASTHRA_HAS_CORE

typedef struct Asthra__Lock {
    ASTHRA__ATOMIC(uint32_t) word; /* 1: held */
} Asthra__Lock;

/* With ASTHRA_RT_NO_THREADS a lock that is held already is a sure deadlock: said, then abort. */
ASTHRA__FN void asthra__lock(Asthra__Lock *l);
ASTHRA__FN bool asthra__lock_try(Asthra__Lock *l);
ASTHRA__FN void asthra__unlock(Asthra__Lock *l);
ASTHRA__FN bool asthra__lock_is_held(const Asthra__Lock *l); /* by anybody: for asserts */

/* Runs setup() once in the process's life, however many threads arrive; all wait for its end. setup
 * must not come back to the same once. */
typedef struct Asthra__Once {
    ASTHRA__ATOMIC(uint32_t) state;
} Asthra__Once;
ASTHRA__FN void asthra__once(Asthra__Once *once, void (*setup)(void));

/* Chooses the fences, once. A lock does it before it sleeps; until then an unlock is dearer. */
ASTHRA__FN void asthra__sync_setup(void);

/* In a forked child: forgets the threads that slept in the parent. Locks they held stay held. */
ASTHRA__FN void asthra__sync_fork_child(void);

#endif

/* ---- [sync] body ------------------------------------------------------------ core/sync.c ---- */
/* sync - a word, a spin and a sleep.                                       [sync] body
 *
 * Locking exchanges the word from 0 to 1. Who finds 1 spins for some microseconds, because the
 * lock guards a few dozen instructions, and then sleeps on the word. Unlocking stores 0 and wakes
 * one sleeper if there is any.
 *
 * The spinner looks seldom, after pauses that double. Two threads that pass one lock to and fro
 * move its lines from core to core each time; who stays away for a microsecond lets the other do
 * dozens of rounds at home. Eight tasks on one channel at two workers: 81 ns a value with looks
 * after single pauses, 24 like this.
 *
 * Where sleepers are counted. A count inside the lock would be read after the store of 0, when the
 * next owner may already have freed the lock (a channel is destroyed after its last receive). So
 * the counts stand in a table of the process, chosen by the lock's address. Unlocking reads the
 * table and passes the word's address, but not the word, to the system. Two locks that share a
 * count cost each other a needless wake, and an address that was freed and used again gets an early
 * wake, which every sleeper must expect anyway.
 *
 * Why no wake is lost. The sleeper S and the unlocker U do
 *
 *     S1  sleepers += 1              U1  word = 0
 *         heavy fence                    light fence
 *     S2  exchange, or the           U2  sleepers != 0: wake one
 *         system's look, at word
 *
 * and the fences (os_internal.h) leave two interleavings. Either U2 sees S1: U wakes. If S is not
 * asleep yet then, the system's look at the word comes after U1, finds no 1, and S does not fall
 * asleep. Or U2 does not see S1: then S2 sees U1, and S takes the lock or looks again.
 *
 * A woken thread has no right to the lock: a passer-by may take it first, and the woken thread goes
 * back to sleep, still counted. Nothing is lost by that, since the passer-by, too, will unlock, see
 * the count and wake. For the same reason one wake for each unlock is enough for any number of
 * sleepers: suppose some sleep while the word stays 0. The last unlock saw their count and woke one
 * of them; that one found 0 and took the lock, or lost to somebody who did. Either way there was a
 * later unlock, against what was supposed.
 *
 * Counts go down only by their own thread, after it has the lock. A count read too high costs a
 * wake; it is never read too low, because S1 precedes the sleep and the fences order it.
 */

#if ASTHRA_HAS_CORE

#include <stdlib.h>

#if ASTHRA_HAS_THREADS

enum { ASTHRA__SYNC_PAUSE = 32, ASTHRA__SYNC_SPINS = 1000, ASTHRA__SYNC_COUNTS = 256 };

static struct {
    Asthra__Once fences;
    ASTHRA__ATOMIC(uint32_t) spins; /* rounds before sleeping, plus 1; 0: not asked for yet */
    ASTHRA__ATOMIC(uint32_t) sleepers[ASTHRA__SYNC_COUNTS];
} asthra__sync;

/* The count that this lock shares with others. Locks are at least 4 bytes apart. */
static inline ASTHRA__ATOMIC(uint32_t) * asthra__sync_sleepers(const Asthra__Lock *l) {
    uint32_t hash = (uint32_t)((uintptr_t)l >> 2) * 2654435761u; /* Fibonacci hashing */
    return &asthra__sync.sleepers[hash >> 24];
}

/* Spinning for a thread that is not running is a waste: none where there is one core. */
static uint32_t asthra__sync_spins(void) {
    uint32_t spins = asthra__load(&asthra__sync.spins, relaxed);
    if (spins) return spins - 1;
    spins = asthra__os_cores() > 1 ? ASTHRA__SYNC_SPINS : 0;
    asthra__store(&asthra__sync.spins, spins + 1, relaxed);
    return spins;
}

ASTHRA__COLD static void asthra__lock_slow(Asthra__Lock *l) {
    uint32_t spins = asthra__sync_spins();
    for (uint32_t pause = ASTHRA__SYNC_PAUSE; pause < spins; pause *= 2) {
        for (uint32_t i = 0; i < pause; i++) asthra__cpu_relax();
        if (!asthra__load(&l->word, relaxed) && asthra__lock_try(l)) return;
    }
    ASTHRA__ATOMIC(uint32_t) *sleepers = asthra__sync_sleepers(l);
    asthra__sync_setup(); /* a light fence may be free from now on: ours must know */
    asthra__add(sleepers, 1, relaxed);
    asthra__os_fence_heavy(); /* partner: the light fence in asthra__unlock */
    while (asthra__exchange(&l->word, 1, acquire)) asthra__os_wait(&l->word, 1, -1);
    asthra__sub(sleepers, 1, relaxed);
}

ASTHRA__COLD static void asthra__unlock_wake(Asthra__Lock *l) {
    asthra__os_wake(&l->word, 1);
}

ASTHRA__FN ASTHRA__FAST void asthra__lock(Asthra__Lock *l) {
    /* acquire: partner is the release in asthra__unlock */
    if (ASTHRA__UNLIKELY(asthra__exchange(&l->word, 1, acquire))) asthra__lock_slow(l);
}

ASTHRA__FN ASTHRA__FAST bool asthra__lock_try(Asthra__Lock *l) {
    return !asthra__exchange(&l->word, 1, acquire);
}

ASTHRA__FN ASTHRA__FAST void asthra__unlock(Asthra__Lock *l) {
    asthra__store(&l->word, 0, release);
    asthra__os_fence_light(); /* partner: the heavy fence in asthra__lock_slow */
    if (ASTHRA__UNLIKELY(asthra__load(asthra__sync_sleepers(l), relaxed))) asthra__unlock_wake(l);
}

enum { ASTHRA__ONCE_NEW, ASTHRA__ONCE_RUNNING, ASTHRA__ONCE_DONE };

ASTHRA__COLD static void asthra__once_slow(Asthra__Once *once, void (*setup)(void)) {
    uint32_t expected = ASTHRA__ONCE_NEW;
    if (asthra__cas(&once->state, &expected, ASTHRA__ONCE_RUNNING, acquire)) {
        setup();
        asthra__store(&once->state, ASTHRA__ONCE_DONE, release); /* partner: the acquire loads */
        asthra__os_wake(&once->state, INT32_MAX);
        return;
    }
    while (asthra__load(&once->state, acquire) != ASTHRA__ONCE_DONE)
        asthra__os_wait(&once->state, ASTHRA__ONCE_RUNNING, -1);
}

ASTHRA__FN void asthra__once(Asthra__Once *once, void (*setup)(void)) {
    if (ASTHRA__LIKELY(asthra__load(&once->state, acquire) == ASTHRA__ONCE_DONE)) return;
    asthra__once_slow(once, setup);
}

ASTHRA__FN void asthra__sync_setup(void) {
    asthra__once(&asthra__sync.fences, asthra__os_fence_setup);
}

ASTHRA__FN void asthra__sync_fork_child(void) {
    for (size_t i = 0; i < ASTHRA__SYNC_COUNTS; i++)
        asthra__store(&asthra__sync.sleepers[i], 0, relaxed);
}

#else /* one thread: a word that says held */

ASTHRA__COLD static void asthra__lock_deadlock(void) {
    static const char words[] = "asthra_rt: a lock was taken twice in a build without threads\n";
    asthra__os_write_error(words, sizeof words - 1);
    abort();
}

ASTHRA__FN bool asthra__lock_try(Asthra__Lock *l) {
    if (l->word) return false;
    l->word = 1;
    return true;
}

ASTHRA__FN void asthra__lock(Asthra__Lock *l) {
    if (ASTHRA__UNLIKELY(!asthra__lock_try(l))) asthra__lock_deadlock();
}

ASTHRA__FN void asthra__unlock(Asthra__Lock *l) {
    l->word = 0;
}

ASTHRA__FN void asthra__once(Asthra__Once *once, void (*setup)(void)) {
    if (once->state) return;
    once->state = 1;
    setup();
}

ASTHRA__FN void asthra__sync_setup(void) {}

ASTHRA__FN void asthra__sync_fork_child(void) {}

#endif

ASTHRA__FN bool asthra__lock_is_held(const Asthra__Lock *l) {
    return asthra__load(&l->word, relaxed) != 0;
}

#endif

/* ---- [thread] internal ------------------------------------------- core/thread_internal.h ---- */
/* thread - the one record of each thread.                                  [thread] internal
 *
 * A thread gets its record at its first call and gives it back when it ends; calls from other
 * destructors while it ends are served by attaching again. Every module that needs per-thread state
 * has one slot in it. The record's address must never be kept across a switch of stacks: the fiber
 * may go on under another thread (ARCHITECTURE, law 4), so it is asked for again through the
 * accessor, whose result the compiler cannot guess.
 */

#if ASTHRA_HAS_CORE

struct AsthraError;
struct Asthra__Heap;
struct Asthra__StackRegion;

enum { ASTHRA__SCHEDULER_SLOT = 512, ASTHRA__HEAP_SLOTS = 4, ASTHRA__DESCRIBED = 96 };

typedef struct Asthra__Thread Asthra__Thread;
struct Asthra__Thread {
    bool is_attached;
    bool is_main;           /* the process's first thread; in a forked child the only */
    bool is_listed;         /* its end will be told; link says the same, but under the lock */
    unsigned char detaches; /* how often it has ended: destructors may call us again */
    uint64_t id;            /* as the system's tools show it: for reports of one without a name */

    const char *panic;             /* the panic's slot: the message of the one in progress */
    struct AsthraError *own_error; /* its error record: result's, which frees it at the end */
    char name[32];                 /* "main" of the first thread, else "" until it is named */
    Asthra__Thread *next, **link;  /* the list of attached threads; under its lock */
    void *fault_stack;
    char described[ASTHRA__DESCRIBED]; /* memory's slot: the text of its last description */
    bool is_in_memory_hook;            /* zone's slot */
    bool is_in_heap;              /* heap's: it is opening one; attaching leaves it as it was */
    bool is_in_deed;              /* heap's: it is walking the stack, which may allocate */
    void *stack_low, *stack_high; /* heap's: its own stack; stack_high NULL: not asked yet */
    struct Asthra__Heap *heaps[ASTHRA__HEAP_SLOTS]; /* heap's slot: by zone; NULL: none yet */
    struct Asthra__StackRegion *stack; /* stack's slot: of the running task, else of the thread */
    struct Asthra__StackRegion *stack_idle; /* stack's: kept for the next tasks here */
    uint32_t stack_stamp;                   /* stack's: the next scope's; 0: get some */
    int *errno_place; /* compilers keep &errno across a switch of stacks; this is asked for anew */
    /* The scheduler's slot: room for its Asthra__Seat, zeroed at attach, so that no call of a new
     * thread can fail for want of memory. */
    ASTHRA__ALIGNED(16) unsigned char scheduler[ASTHRA__SCHEDULER_SLOT];
};

/* Never NULL: attaches the thread if need be. */
ASTHRA__FN ASTHRA__NOINLINE Asthra__Thread *asthra__thread(void);
ASTHRA__FN ASTHRA__NOINLINE Asthra__Thread *asthra__thread_if_attached(void); /* signal-safe */
/* The same place, attached or not: for slots whose zero means that there is nothing yet. */
ASTHRA__FN ASTHRA__NOINLINE Asthra__Thread *asthra__thread_place(void);
/* The same, part of its caller: a function that is never inlined and asks before its first call. */
ASTHRA__FN Asthra__Thread *asthra__thread_raw(void);
ASTHRA__FN void asthra__thread_set_name(const char *name); /* copied, cut at 31 bytes; NULL: "" */
ASTHRA__FN size_t asthra__thread_count(void);              /* attached ones */

/* Called by an ending thread, newest registration first, while its record is whole. At most four;
 * one that is registered again changes nothing. */
ASTHRA__FN void asthra__thread_on_detach(void (*hook)(Asthra__Thread *t));

#endif

/* ---- [thread] body -------------------------------------------------------- core/thread.c ---- */
/* thread - attach at the first call, detach at the end.                    [thread] body
 *
 * The record is a thread-local object, so finding it costs no lock and no allocation. The first
 * call of a thread fills it, puts it into the list and arms the destructor of a pthread key, the
 * one way to hear of the end of a thread that somebody else made.
 *
 * Thread-exit destructors run in no order, and any of them may call the runtime when ours has run.
 * That call attaches the thread again and arms the key again; the system then makes another round
 * of destructors. It makes a limited number of rounds (POSIX: at least four), so after three ends
 * the thread gets a record that is neither listed nor armed: the list must never hold the record of
 * a thread that is gone. The same is done when the system has no key to give. All that such a
 * record can lose is one error record of a few hundred bytes.
 *
 * Invariant: a record is in the list if and only if link is not NULL, and then its destructor is
 * armed. The list and its hooks are changed only under the lock, which forking takes, so that the
 * child finds them whole; there the list is cut down to the thread that forked.
 */

#if ASTHRA_HAS_CORE

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#if ASTHRA_HAS_THREADS
#include <pthread.h>
#endif

enum { ASTHRA__THREAD_HOOKS = 4, ASTHRA__THREAD_ENDS = 3 };

static struct {
    Asthra__Lock lock;
    Asthra__Thread *first;
    void (*hooks[ASTHRA__THREAD_HOOKS])(Asthra__Thread *t);
    size_t hook_count;
#if ASTHRA_HAS_THREADS
    Asthra__Once once;
    pthread_key_t key;
    bool has_key;
#endif
} asthra__thread_list;

#if ASTHRA_HAS_THREADS
static _Thread_local Asthra__Thread asthra__thread_record;
#else
static Asthra__Thread asthra__thread_record;
#endif

static void asthra__thread_fill(Asthra__Thread *t) {
    unsigned char detaches = t->detaches;
    bool is_in_heap = t->is_in_heap;
    memset(t, 0, sizeof *t);
    t->detaches = detaches;
    t->is_in_heap = is_in_heap;
    t->errno_place = &errno;
    t->id = asthra__os_thread_id();
    t->is_main = asthra__os_is_main_thread();
    if (t->is_main) memcpy(t->name, "main", sizeof "main");
}

/* Caller holds the lock of the list. */
static void asthra__thread_enlist(Asthra__Thread *t) {
    t->next = asthra__thread_list.first;
    t->link = &asthra__thread_list.first;
    if (t->next) t->next->link = &t->next;
    asthra__thread_list.first = t;
}

#if ASTHRA_HAS_THREADS

/* Caller holds the lock of the list. */
static void asthra__thread_unlist(Asthra__Thread *t) {
    *t->link = t->next;
    if (t->next) t->next->link = t->link;
    t->next = NULL;
    t->link = NULL;
}

/* Hooks are only ever added, so one that is read under the lock may be called outside it. */
static void asthra__thread_call_hooks(Asthra__Thread *t) {
    void (*hooks[ASTHRA__THREAD_HOOKS])(Asthra__Thread *);
    asthra__lock(&asthra__thread_list.lock);
    size_t count = asthra__thread_list.hook_count;
    memcpy(hooks, asthra__thread_list.hooks, sizeof hooks);
    asthra__unlock(&asthra__thread_list.lock);
    while (count > 0) hooks[--count](t);
}

/* The key's destructor: `record` belongs to the calling thread, which is ending. */
static void asthra__thread_detach(void *record) {
    Asthra__Thread *t = record;
    asthra__thread_call_hooks(t);
    asthra__lock(&asthra__thread_list.lock);
    asthra__thread_unlist(t);
    asthra__unlock(&asthra__thread_list.lock);
    t->is_attached = t->is_listed = false;
    t->detaches++;
}

static void asthra__thread_fork_before(void) {
    asthra__lock(&asthra__thread_list.lock);
}
static void asthra__thread_fork_parent(void) {
    asthra__unlock(&asthra__thread_list.lock);
}
static void asthra__thread_fork_child(void) {
    asthra__sync_fork_child();
    asthra__thread_list.first = NULL;
    Asthra__Thread *t = asthra__thread_if_attached();
    if (t) t->is_main = asthra__os_is_main_thread(), t->id = asthra__os_thread_id();
    if (t && t->link) asthra__thread_enlist(t);
    asthra__unlock(&asthra__thread_list.lock);
}

static void asthra__thread_setup(void) {
    asthra__sync_setup();
    asthra__thread_list.has_key =
        pthread_key_create(&asthra__thread_list.key, asthra__thread_detach) == 0;
    asthra__os_on_fork(asthra__thread_fork_before, asthra__thread_fork_parent,
                       asthra__thread_fork_child);
}

/* Asks for the end of the calling thread; false: it will not be told. */
static bool asthra__thread_arm(Asthra__Thread *t) {
    return asthra__thread_list.has_key && t->detaches < ASTHRA__THREAD_ENDS &&
           pthread_setspecific(asthra__thread_list.key, t) == 0;
}

ASTHRA__COLD static void asthra__thread_attach(Asthra__Thread *t) {
    int saved = errno;
    asthra__once(&asthra__thread_list.once, asthra__thread_setup);
    asthra__thread_fill(t);
    if (asthra__thread_arm(t) && !t->is_attached) { /* else arming allocated, and that attached */
        asthra__lock(&asthra__thread_list.lock);
        asthra__thread_enlist(t);
        asthra__unlock(&asthra__thread_list.lock);
        t->is_listed = true;
    }
    t->is_attached = true;
    errno = saved;
}

#else

ASTHRA__COLD static void asthra__thread_attach(Asthra__Thread *t) {
    int saved = errno;
    asthra__thread_fill(t);
    asthra__thread_enlist(t);
    t->is_listed = true;
    t->is_attached = true;
    errno = saved;
}

#endif

ASTHRA__FN ASTHRA__FAST Asthra__Thread *asthra__thread_raw(void) {
    return &asthra__thread_record;
}

ASTHRA__FN ASTHRA__NOINLINE Asthra__Thread *asthra__thread_place(void) {
    Asthra__Thread *t = &asthra__thread_record;
    __asm__ volatile("" : "+r"(t));
    return t;
}

ASTHRA__FN ASTHRA__NOINLINE Asthra__Thread *asthra__thread(void) {
    Asthra__Thread *t = &asthra__thread_record;
    if (ASTHRA__UNLIKELY(!t->is_attached)) asthra__thread_attach(t);
    __asm__ volatile("" : "+r"(t)); /* noinline alone does not keep two calls from being merged */
    return t;
}

ASTHRA__FN ASTHRA__NOINLINE Asthra__Thread *asthra__thread_if_attached(void) {
    Asthra__Thread *t = asthra__thread_record.is_attached ? &asthra__thread_record : NULL;
    __asm__ volatile("" : "+r"(t));
    return t;
}

ASTHRA__FN void asthra__thread_set_name(const char *name) {
    Asthra__Thread *t = asthra__thread();
    Asthra__Text text = asthra__text_on(t->name, sizeof t->name);
    asthra__text_add(&text, name);
}

ASTHRA__FN size_t asthra__thread_count(void) {
    size_t count = 0;
    asthra__lock(&asthra__thread_list.lock);
    for (const Asthra__Thread *t = asthra__thread_list.first; t; t = t->next) count++;
    asthra__unlock(&asthra__thread_list.lock);
    return count;
}

ASTHRA__FN void asthra__thread_on_detach(void (*hook)(Asthra__Thread *t)) {
    size_t i = 0;
    asthra__lock(&asthra__thread_list.lock);
    while (i < asthra__thread_list.hook_count && asthra__thread_list.hooks[i] != hook) i++;
    if (i < ASTHRA__THREAD_HOOKS) {
        asthra__thread_list.hooks[i] = hook;
        if (i == asthra__thread_list.hook_count) asthra__thread_list.hook_count++;
    }
    asthra__unlock(&asthra__thread_list.lock);
    if (i < ASTHRA__THREAD_HOOKS) return;
    asthra__text_report("asthra_rt: thread keeps %d detach hooks; raise ASTHRA__THREAD_HOOKS",
                        (int)ASTHRA__THREAD_HOOKS);
    abort();
}

#endif

/* ---- [result] internal ------------------------------------------- core/result_internal.h ---- */
/* result - failures as the bodies make them.                               [result] internal */

#if ASTHRA_HAS_CORE

/* A failure with the status's own sentence: no record is written, so it costs nothing. */
ASTHRA__FN AsthraResult asthra__result_of(AsthraStatus status);
ASTHRA__FN AsthraResult asthra__result_integer(int64_t value);

/* Notes why a call that returns NULL, false or a zero handle failed. Formatted, copied. */
ASTHRA__FN void asthra__error_set(AsthraStatus status, const char *format, ...) ASTHRA_PRINTF(2, 3);
/* The same with the status's own sentence: needs no memory, for what is no surprise. */
ASTHRA__FN void asthra__error_note(AsthraStatus status);
ASTHRA__FN void asthra__error_clear(void); /* by a good spawn or create; cheap when there is none */

/* A hook: where the running task keeps its error record; NULL: no task, the thread's serves. */
typedef struct AsthraError **(*Asthra__ResultPlace)(void);
ASTHRA__FN void asthra__result_set_place(Asthra__ResultPlace place);

/* Ends the record of a task or thread; NULL is allowed. */
ASTHRA__FN void asthra__error_free(struct AsthraError *record);

#endif

/* ---- [result] body -------------------------------------------------------- core/result.c ---- */
/* result - one record for each task, one sentence for each code.           [result] body
 *
 * A result has room for a status and a pointer, so a failure points at what says more about it: a
 * constant record with the status's own sentence, which costs nothing, or the error record of the
 * task, which the next error of that task overwrites. The scheduler says where the running task
 * keeps its record; until the first error that place holds NULL.
 *
 * The record comes from malloc, because the runtime's own allocator stands on panics, and those on
 * results. If there is no memory for it, its place holds the constant record of the status instead,
 * so that the failure keeps at least its status and that status's sentence.
 *
 * A message is formatted into a buffer of its own first: its arguments may be the one before it.
 */

#if ASTHRA_HAS_CORE

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct AsthraError {
    const char *message;
    const void *context;
};

/* The error comes first, so that the slot's pointer is the record's. */
typedef struct Asthra__ErrorRecord {
    struct AsthraError error;
    AsthraResult last; /* status ASTHRA_OK: nothing to tell */
    char text[256];    /* where a formatted message lives */
} Asthra__ErrorRecord;

#define ASTHRA__RESULT_ERROR(name, sentence) {sentence, NULL},
static const struct AsthraError asthra__result_errors[] = {
    ASTHRA_STATUS_TABLE(ASTHRA__RESULT_ERROR){"Unknown status", NULL}};
#undef ASTHRA__RESULT_ERROR

_Static_assert(sizeof(AsthraResult) == 16, "a result travels in two registers");

enum { ASTHRA__RESULT_LAST = sizeof asthra__result_errors / sizeof *asthra__result_errors - 1 };

static const struct AsthraError *asthra__result_sentence(uint32_t status) {
    return &asthra__result_errors[status < ASTHRA__RESULT_LAST ? status : ASTHRA__RESULT_LAST];
}

/* Which status's constant record is this? ASTHRA_OK: none's, it is a record of its own or NULL. */
static uint32_t asthra__result_status_of(const struct AsthraError *error) {
    uintptr_t offset = (uintptr_t)error - (uintptr_t)asthra__result_errors;
    return offset < sizeof asthra__result_errors ? (uint32_t)(offset / sizeof *error) : ASTHRA_OK;
}

static struct {
    ASTHRA__ATOMIC(Asthra__ResultPlace) place; /* the scheduler's: where a task keeps it */
    Asthra__Once setup;
} asthra__result;

ASTHRA__FN void asthra__result_set_place(Asthra__ResultPlace place) {
    asthra__store(&asthra__result.place, place, release);
}

/* Where the running task, or else this thread, keeps its record. */
static struct AsthraError **asthra__result_slot(Asthra__Thread *t) {
    Asthra__ResultPlace place = asthra__load(&asthra__result.place, acquire);
    struct AsthraError **of_task = place ? place() : NULL;
    return of_task ? of_task : &t->own_error;
}

static void asthra__result_leave(Asthra__Thread *t) {
    asthra__error_free(t->own_error);
    t->own_error = NULL;
}
static void asthra__result_setup(void) {
    asthra__thread_on_detach(asthra__result_leave);
}

/* The same place, to be written. */
static struct AsthraError **asthra__result_slot_kept(void) {
    asthra__once(&asthra__result.setup, asthra__result_setup);
    return asthra__result_slot(asthra__thread());
}

/* The record of the running task or thread, or NULL if there is none and no memory for one. */
static Asthra__ErrorRecord *asthra__result_record(void) {
    struct AsthraError **slot = asthra__result_slot_kept();
    if (!*slot || asthra__result_status_of(*slot) != ASTHRA_OK) {
        int saved = errno;
        Asthra__ErrorRecord *fresh = calloc(1, sizeof *fresh);
        errno = saved;
        if (!fresh) return NULL;
        *slot = &fresh->error;
    }
    return (Asthra__ErrorRecord *)(void *)*slot;
}

ASTHRA__FN AsthraResult asthra__result_of(AsthraStatus status) {
    AsthraResult r = {(uint32_t)status, 0, {NULL}};
    if (status != ASTHRA_OK) r.value.error = asthra__result_sentence(r.status);
    return r;
}

ASTHRA__FN AsthraResult asthra__result_integer(int64_t value) {
    AsthraResult r = {ASTHRA_OK, 0, {NULL}};
    r.value.integer = value;
    return r;
}

/* A failure whose message lives at least as long as the record; NULL: the status's sentence. */
ASTHRA__COLD static AsthraResult asthra__result_note(AsthraStatus status, const char *message,
                                                     const void *context) {
    if (status == ASTHRA_OK) status = ASTHRA_FAILED;
    AsthraResult r = asthra__result_of(status);
    Asthra__ErrorRecord *record = asthra__result_record();
    if (!record) {
        /* never written through: it is not in a record's place for long, nor taken for one */
        *asthra__result_slot_kept() = (struct AsthraError *)(uintptr_t)r.value.error;
        return r;
    }
    record->error.message = message ? message : r.value.error->message;
    record->error.context = context;
    r.value.error = &record->error;
    record->last = r;
    return r;
}

ASTHRA__COLD static AsthraResult asthra__result_note_list(AsthraStatus status, const char *format,
                                                          va_list list) ASTHRA_PRINTF(2, 0);
ASTHRA__COLD static AsthraResult asthra__result_note_list(AsthraStatus status, const char *format,
                                                          va_list list) {
    Asthra__ErrorRecord *record = format ? asthra__result_record() : NULL;
    if (!record) return asthra__result_note(status, NULL, NULL);
    char text[sizeof record->text];
    Asthra__Text t = asthra__text_on(text, sizeof text);
    asthra__text_format_list(&t, format, list);
    memcpy(record->text, text, t.length + 1);
    return asthra__result_note(status, record->text, NULL);
}

ASTHRA__FN void asthra__error_set(AsthraStatus status, const char *format, ...) {
    va_list list;
    va_start(list, format);
    asthra__result_note_list(status, format, list);
    va_end(list);
}

ASTHRA__FN void asthra__error_note(AsthraStatus status) {
    struct AsthraError **slot = asthra__result_slot_kept();
    if (*slot && asthra__result_status_of(*slot) == ASTHRA_OK)
        asthra__result_note(status, NULL, NULL);
    else /* a constant record in its place, as when there is no memory */
        *slot = (struct AsthraError *)(uintptr_t)asthra__result_sentence((uint32_t)status);
}

ASTHRA__FN void asthra__error_clear(void) {
    Asthra__Thread *t = asthra__thread_if_attached();
    struct AsthraError **slot = t ? asthra__result_slot(t) : NULL;
    if (!slot || !*slot) return;
    if (asthra__result_status_of(*slot) != ASTHRA_OK)
        *slot = NULL;
    else
        ((Asthra__ErrorRecord *)(void *)*slot)->last.status = ASTHRA_OK;
}

ASTHRA__FN void asthra__error_free(struct AsthraError *record) {
    if (asthra__result_status_of(record) == ASTHRA_OK) free(record);
}

ASTHRA_RT_API AsthraResult asthra_result_ok(void *value) {
    AsthraResult r = {ASTHRA_OK, 0, {value}};
    return r;
}

ASTHRA_RT_API AsthraResult asthra_result_err(const char *message) {
    return asthra__result_note(ASTHRA_FAILED, message, NULL);
}

ASTHRA_RT_API AsthraResult asthra_result_err_with_context(const char *message,
                                                          const void *context) {
    return asthra__result_note(ASTHRA_FAILED, message, context);
}

ASTHRA_RT_API AsthraResult asthra_result_errorf(AsthraStatus status, const char *format, ...) {
    va_list list;
    va_start(list, format);
    AsthraResult r = asthra__result_note_list(status, format, list);
    va_end(list);
    return r;
}

ASTHRA_RT_API bool asthra_result_is_ok(AsthraResult r) {
    return r.status == ASTHRA_OK;
}

ASTHRA_RT_API AsthraStatus asthra_result_status(AsthraResult r) {
    return (AsthraStatus)r.status;
}

ASTHRA_RT_API const char *asthra_result_message(AsthraResult r) {
    if (r.status != ASTHRA_OK && r.value.error) return r.value.error->message;
    return asthra__result_sentence(r.status)->message; /* a success, or made by hand */
}

ASTHRA_RT_API void *asthra_result_value(AsthraResult r) {
    return r.status == ASTHRA_OK ? r.value.pointer : NULL;
}

ASTHRA_RT_API const void *asthra_result_context(AsthraResult r) {
    return r.status != ASTHRA_OK && r.value.error ? r.value.error->context : NULL;
}

ASTHRA_RT_API AsthraResult asthra_last_error(void) {
    Asthra__Thread *t = asthra__thread_if_attached();
    const struct AsthraError *error = t ? *asthra__result_slot(t) : NULL;
    uint32_t status = asthra__result_status_of(error);
    if (status != ASTHRA_OK) return asthra__result_of((AsthraStatus)status);
    const Asthra__ErrorRecord *record = (const Asthra__ErrorRecord *)(const void *)error;
    return record && record->last.status != ASTHRA_OK ? record->last : asthra_result_ok(NULL);
}

#endif

/* ---- [panic] internal --------------------------------------------- core/panic_internal.h ---- */
/* panic - asserts, and what the scheduler adds to a panic.                 [panic] internal
 *
 * ASTHRA__CHECK is always on, for what memory safety depends on. ASTHRA__ASSERT is on when
 * ASTHRA_RT_DEBUG is 1 or more, ASTHRA__ASSERT_SLOW, which walks structures, when it is 2.
 */

#if ASTHRA_HAS_CORE

#ifndef ASTHRA_RT_DEBUG
#define ASTHRA_RT_DEBUG 0
#endif

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__check_failed(const char *what);
#define ASTHRA__CHECK(x) \
    (ASTHRA__LIKELY(x) ? (void)0 : asthra__check_failed(ASTHRA__AT("broken invariant: " #x)))
#if ASTHRA_RT_DEBUG >= 1
#define ASTHRA__ASSERT(x) ASTHRA__CHECK(x)
#else
#define ASTHRA__ASSERT(x) ((void)sizeof(x))
#endif
#if ASTHRA_RT_DEBUG >= 2
#define ASTHRA__ASSERT_SLOW(x) ASTHRA__CHECK(x)
#else
#define ASTHRA__ASSERT_SLOW(x) ((void)sizeof(x))
#endif

/* Slots that the scheduler fills; each may be NULL. They run on the panicking thread, task_id and
 * task_name under the panic's lock: those two only read. */
typedef struct Asthra__PanicOwner {
    uint64_t (*task_id)(void);      /* 0: no task */
    const char *(*task_name)(void); /* NULL: no task */
    AsthraPanicPolicy (*policy)(void);
    void (*set_policy)(AsthraPanicPolicy policy);
    /* Returns only if there is no task to fail. `info` and its message live for the call. */
    void (*fail_task)(const AsthraPanicInfo *info);
} Asthra__PanicOwner;
ASTHRA__FN void asthra__panic_set_owner(const Asthra__PanicOwner *owner); /* static; NULL: none */

/* enable_panic_handler: false keeps the report and the history away; hook and policy still hold. */
ASTHRA__FN void asthra__panic_enable_report(bool on);

/* A panic with a finished message that has no place of its own, such as a fault or an await that
 * passes a child's panic on. Copied; file may be NULL. */
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__panic_with(const char *file, int line,
                                                                const char *message);

#endif

/* ---- [panic] body ---------------------------------------------------------- core/panic.c ---- */
/* panic - record, tell, report, end.                                       [panic] body
 *
 * A panic happens when something is wrong, perhaps the heap, perhaps a lock: it allocates nothing
 * and uses only text, os and one lock of its own. Its texts are written into a ring of sixteen
 * slots. The steps are
 *
 *     1  mark the thread, so that a panic inside a panic is known
 *     2  under the lock: take the next slot of the ring and fill it in
 *     3  without the lock: call the hook
 *     4  under the lock: compose the report and write it in one piece
 *     5  unmark the thread, and follow the policy
 *
 * A marked thread that panics again (in the hook, or in any step) reports both messages and aborts
 * at once, without the lock, which it may hold. The mark stands in the thread's record: no step
 * parks, so the thread stays the same to step 5.
 *
 * A slot is filled whether or not the history is on, because the hook and the task need the texts;
 * `is_kept` says whether history shows it. Slots are taken in turn, so the texts of a panic live
 * until sixteen more have happened. More than sixteen threads inside steps 3 to 5 at the same
 * moment would share slots: their reports may then name each other's messages, and nothing worse.
 *
 * The first thread to abort does so; others that come to the same point wait for the end, so that
 * its core dump shows the first panic.
 *
 * The lock stays with the threads that a fork leaves behind. As soon as anybody has set a hook or
 * an owner, forking takes it; before that every panic ends the process.
 */

#if ASTHRA_HAS_CORE

#include <stdlib.h>
#include <string.h>

enum { ASTHRA__PANIC_RING = 16, ASTHRA__PANIC_FRAMES = 32 };

typedef struct Asthra__PanicSlot {
    AsthraPanicInfo info;
    bool is_kept; /* the history shows it */
    char message[1001], file[256], task_name[64], stack[3072];
} Asthra__PanicSlot;

static struct {
    Asthra__Lock lock;
    uint64_t count; /* of all panics; the next one takes slot count % 16 */
    AsthraPanicHook hook;
    void *hook_user;
    bool is_silent; /* asthra__panic_enable_report(false) */
    ASTHRA__ATOMIC(const Asthra__PanicOwner *) owner;
    ASTHRA__ATOMIC(uint32_t) aborting;
    Asthra__Once fork_once;
    Asthra__PanicSlot slots[ASTHRA__PANIC_RING];
    char report[sizeof(Asthra__PanicSlot) + 256];
} asthra__panic;

static const char asthra__panic_no_task[] = "no task";

/* Where a panic was called: what the public functions pass down. */
typedef struct Asthra__PanicPlace {
    const char *file; /* not ended by a NUL; NULL: not known */
    size_t file_length;
    int line;
    const void *caller; /* the return address of the public function */
} Asthra__PanicPlace;

static void asthra__panic_fork_before(void) {
    asthra__lock(&asthra__panic.lock);
}
static void asthra__panic_fork_after(void) {
    asthra__unlock(&asthra__panic.lock);
}
static void asthra__panic_watch_fork(void) {
    asthra__os_on_fork(asthra__panic_fork_before, asthra__panic_fork_after,
                       asthra__panic_fork_after);
}

/* Splits "path:12" at its last colon. */
static Asthra__PanicPlace asthra__panic_place(const char *here, const void *caller) {
    Asthra__PanicPlace place = {NULL, 0, 0, caller};
    const char *colon = here ? strrchr(here, ':') : NULL;
    if (!here) return place;
    place.file = here;
    place.file_length = colon ? (size_t)(colon - here) : strlen(here);
    for (const char *digit = colon ? colon + 1 : ""; *digit >= '0' && *digit <= '9'; digit++)
        place.line = place.line * 10 + (*digit - '0');
    return place;
}

static void asthra__panic_fill_task(Asthra__PanicSlot *slot) {
    const Asthra__PanicOwner *owner = asthra__load(&asthra__panic.owner, acquire);
    const char *name = owner && owner->task_name ? owner->task_name() : NULL;
    slot->info.task_id = name && owner->task_id ? owner->task_id() : 0;
    if (!name) name = asthra__thread()->name;
    if (!*name) name = slot->info.task_id ? "unnamed" : asthra__panic_no_task;
    Asthra__Text t = asthra__text_on(slot->task_name, sizeof slot->task_name);
    asthra__text_add(&t, name);
    slot->info.task_name = slot->task_name;
}

/* A line for each frame from the one that `caller` returns to outwards: those inside are ours. A
 * frame's address lies inside its calling instruction, a return address at that one's end. */
static void asthra__panic_fill_stack(Asthra__PanicSlot *slot, const void *caller) {
    void *frames[ASTHRA__PANIC_FRAMES];
    size_t count = asthra__os_backtrace(frames, ASTHRA__PANIC_FRAMES), first = 0;
    Asthra__Text t = asthra__text_on(slot->stack, sizeof slot->stack);
    while (first < count && (uintptr_t)caller - (uintptr_t)frames[first] > 4) first++;
    if (first == count) first = 0;
    for (size_t i = first; i < count; i++) {
        char symbol[200];
        size_t length = asthra__os_symbol(frames[i], symbol, sizeof symbol);
        if (t.length + length + 4 > t.room) break; /* whole lines only */
        asthra__text_add(&t, "  ");
        asthra__text_add_count(&t, symbol, length);
        asthra__text_add(&t, "\n");
    }
    slot->info.stack = slot->stack;
}

static void asthra__panic_fill_place(Asthra__PanicSlot *slot, const Asthra__PanicPlace *place) {
    Asthra__Text t = asthra__text_on(slot->file, sizeof slot->file);
    if (place->file) asthra__text_add_count(&t, place->file, place->file_length);
    slot->info.file = place->file ? slot->file : NULL;
    slot->info.line = place->line;
}

/* Steps 1 and 2. */
static Asthra__PanicSlot *asthra__panic_record(const Asthra__PanicPlace *place, char *message,
                                               const char *format, va_list list)
    ASTHRA_PRINTF(3, 0);
static Asthra__PanicSlot *asthra__panic_record(const Asthra__PanicPlace *place, char *message,
                                               const char *format, va_list list) {
    asthra__lock(&asthra__panic.lock);
    uint64_t number = asthra__panic.count++;
    Asthra__PanicSlot *slot = &asthra__panic.slots[number % ASTHRA__PANIC_RING];
    Asthra__Text t = asthra__text_on(slot->message, sizeof slot->message);
    slot->info.message = slot->message;
    slot->info.time_ns = asthra__os_now_ns();
    asthra__thread()->panic = slot->message;
    asthra__text_format_list(&t, format, list);
    asthra__panic_fill_place(slot, place);
    asthra__panic_fill_task(slot);
    asthra__panic_fill_stack(slot, place->caller);
    slot->is_kept = !asthra__panic.is_silent;
    memcpy(message, slot->message, sizeof slot->message);
    asthra__unlock(&asthra__panic.lock);
    return slot;
}

/* Step 3. */
static void asthra__panic_call_hook(const AsthraPanicInfo *info) {
    asthra__lock(&asthra__panic.lock);
    AsthraPanicHook hook = asthra__panic.hook;
    void *user = asthra__panic.hook_user;
    asthra__unlock(&asthra__panic.lock);
    if (hook) hook(info, user);
}

static void asthra__panic_compose(Asthra__Text *t, const AsthraPanicInfo *info) {
    asthra__text_format(t, "panic: %s\n", info->message);
    if (info->file) asthra__text_format(t, "  at %s:%d\n", info->file, info->line);
    if (info->task_id)
        asthra__text_format(t, "  in task '%s' (id %llu)\n", info->task_name,
                            (unsigned long long)info->task_id);
    else if (strcmp(info->task_name, asthra__panic_no_task) == 0)
        asthra__text_format(t, "  in no task\n");
    else
        asthra__text_format(t, "  in thread '%s'\n", info->task_name);
    if (*info->stack) asthra__text_format(t, "stack:\n%s", info->stack);
}

/* Step 4. */
static void asthra__panic_report(const AsthraPanicInfo *info) {
    asthra__lock(&asthra__panic.lock);
    if (!asthra__panic.is_silent) {
        Asthra__Text t = asthra__text_on(asthra__panic.report, sizeof asthra__panic.report);
        asthra__panic_compose(&t, info);
        asthra__os_write_error(t.start, t.length);
    }
    asthra__unlock(&asthra__panic.lock);
}

/* Aborts if no other thread has begun to; else waits for that one, but not for ever. */
ASTHRA_NORETURN static void asthra__panic_abort(void) {
    static const int64_t patience_ns = 2000000000;
    int64_t start = asthra__os_now_ns();
    if (asthra__exchange(&asthra__panic.aborting, 1, acquire))
        while (asthra__os_now_ns() - start < patience_ns)
            asthra__os_wait(&asthra__panic.aborting, 1, patience_ns);
    abort();
}

/* The second panic of a thread that is still busy with its first. */
ASTHRA__COLD ASTHRA_NORETURN static void asthra__panic_again(const char *first, const char *format,
                                                             va_list list) ASTHRA_PRINTF(2, 0);
ASTHRA__COLD ASTHRA_NORETURN static void asthra__panic_again(const char *first, const char *format,
                                                             va_list list) {
    char second[400];
    Asthra__Text t = asthra__text_on(second, sizeof second);
    asthra__text_format_list(&t, format, list);
    asthra__text_report("panic: %s\n  while handling the panic: %.400s", second, first);
    abort();
}

/* Step 5. */
ASTHRA_NORETURN static void asthra__panic_end(const AsthraPanicInfo *info) {
    const Asthra__PanicOwner *owner = asthra__load(&asthra__panic.owner, acquire);
    AsthraPanicPolicy policy = owner && owner->policy ? owner->policy() : ASTHRA_PANIC_ABORT;
    asthra__thread()->panic = NULL;
    if (policy != ASTHRA_PANIC_ABORT && owner->fail_task) owner->fail_task(info);
    asthra__panic_abort();
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__panic_run(const Asthra__PanicPlace *place,
                                                           const char *format, va_list list)
    ASTHRA_PRINTF(2, 0);
ASTHRA__COLD ASTHRA_NORETURN static void asthra__panic_run(const Asthra__PanicPlace *place,
                                                           const char *format, va_list list) {
    Asthra__Thread *t = asthra__thread();
    if (t->panic) asthra__panic_again(t->panic, format, list);
    t->panic = "(its message was not written yet)";
    char message[sizeof asthra__panic.slots[0].message];
    const Asthra__PanicSlot *slot = asthra__panic_record(place, message, format, list);
    asthra__panic_call_hook(&slot->info);
    asthra__panic_report(&slot->info);
    AsthraPanicInfo info = slot->info;
    info.message = message; /* sixteen others may have panicked meanwhile */
    asthra__panic_end(&info);
}

/* The same with arguments instead of their list. */
ASTHRA_NORETURN static void asthra__panic_run_with(const Asthra__PanicPlace *place,
                                                   const char *format, ...) ASTHRA_PRINTF(2, 3);
ASTHRA_NORETURN static void asthra__panic_run_with(const Asthra__PanicPlace *place,
                                                   const char *format, ...) {
    va_list list;
    va_start(list, format);
    asthra__panic_run(place, format, list);
}

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__panic_with(const char *file, int line,
                                                                const char *message) {
    Asthra__PanicPlace place = {file, file ? strlen(file) : 0, line, __builtin_return_address(0)};
    asthra__panic_run_with(&place, "%s", message);
}

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__check_failed(const char *what) {
    Asthra__PanicPlace place = asthra__panic_place(NULL, __builtin_return_address(0));
    asthra__panic_run_with(&place, "%s", what);
}

ASTHRA__FN void asthra__panic_set_owner(const Asthra__PanicOwner *owner) {
    asthra__once(&asthra__panic.fork_once, asthra__panic_watch_fork);
    asthra__store(&asthra__panic.owner, owner, release); /* partner: the acquire loads */
}

ASTHRA__FN void asthra__panic_enable_report(bool on) {
    asthra__lock(&asthra__panic.lock);
    asthra__panic.is_silent = !on;
    asthra__unlock(&asthra__panic.lock);
}

ASTHRA__COLD ASTHRA_RT_API ASTHRA_NORETURN void asthra_panic_at(const char *here, const char *text,
                                                                ...) {
    Asthra__PanicPlace place = asthra__panic_place(here, __builtin_return_address(0));
    va_list list;
    va_start(list, text);
    asthra__panic_run(&place, text, list);
}

/* For callers that need a function, not a macro: they have no place to pass. */
ASTHRA__COLD ASTHRA_RT_API ASTHRA_NORETURN void(asthra_panic)(const char *text, ...) {
    Asthra__PanicPlace place = asthra__panic_place(NULL, __builtin_return_address(0));
    va_list list;
    va_start(list, text);
    asthra__panic_run(&place, text, list);
}

ASTHRA_RT_API void asthra_panic_set_hook(AsthraPanicHook hook, void *user) {
    asthra__once(&asthra__panic.fork_once, asthra__panic_watch_fork);
    asthra__lock(&asthra__panic.lock);
    asthra__panic.hook = hook;
    asthra__panic.hook_user = user;
    asthra__unlock(&asthra__panic.lock);
}

ASTHRA_RT_API void asthra_panic_set_policy(AsthraPanicPolicy policy) {
    const Asthra__PanicOwner *owner = asthra__load(&asthra__panic.owner, acquire);
    if (owner && owner->set_policy) owner->set_policy(policy);
}

/* The panic that has `age` newer ones that are kept, or NULL. Caller holds the lock. */
static const AsthraPanicInfo *asthra__panic_find(size_t age) {
    uint64_t count = asthra__panic.count;
    uint64_t room = count < ASTHRA__PANIC_RING ? count : ASTHRA__PANIC_RING;
    for (uint64_t back = 1; back <= room; back++) {
        const Asthra__PanicSlot *slot = &asthra__panic.slots[(count - back) % ASTHRA__PANIC_RING];
        if (slot->is_kept && age-- == 0) return &slot->info;
    }
    return NULL;
}

ASTHRA_RT_API const AsthraPanicInfo *asthra_panic_last(void) {
    asthra__lock(&asthra__panic.lock);
    const AsthraPanicInfo *newest = asthra__panic_find(0);
    asthra__unlock(&asthra__panic.lock);
    return newest;
}

ASTHRA_RT_API size_t asthra_panic_history(AsthraPanicInfo *out, size_t room) {
    size_t count = 0;
    asthra__lock(&asthra__panic.lock);
    while (count < room && asthra__panic_find(count)) count++;
    for (size_t i = 0; i < count; i++) out[i] = *asthra__panic_find(count - 1 - i);
    asthra__unlock(&asthra__panic.lock);
    return count;
}

ASTHRA_RT_API void asthra_panic_clear_history(void) {
    asthra__lock(&asthra__panic.lock);
    for (size_t i = 0; i < ASTHRA__PANIC_RING; i++) asthra__panic.slots[i].is_kept = false;
    asthra__unlock(&asthra__panic.lock);
}

/* Unwrap stands here because it panics: results stand below panics and never name them. */
#define ASTHRA__PANIC_STATUS_NAME(name, sentence) #name,
ASTHRA_RT_API void *asthra_result_unwrap_at(AsthraResult r, const char *what) {
    static const char *const names[] = {ASTHRA_STATUS_TABLE(ASTHRA__PANIC_STATUS_NAME)};
    if (ASTHRA__LIKELY(!r.status)) return r.value.pointer;
    const char *name = r.status < sizeof names / sizeof *names ? names[r.status] : "unknown";
    Asthra__PanicPlace place = asthra__panic_place(NULL, __builtin_return_address(0));
    asthra__panic_run_with(&place, "unwrap of a failure: %s: %s: %s", what ? what : "a result",
                           name, asthra_result_message(r));
}
#undef ASTHRA__PANIC_STATUS_NAME

#endif

/* ---- [alloc] internal --------------------------------------------- core/alloc_internal.h ---- */
/* alloc - memory for the runtime's own records.                            [alloc] internal
 *
 * Blocks are aligned as malloc aligns them. One hook takes all that is fresh elsewhere: the
 * allocator of the configuration. The C library's malloc serves until then, and afterwards. A block
 * is freed and made larger where it came from.
 */

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

/* ---- [alloc] body ---------------------------------------------------------- core/alloc.c ---- */
/* alloc - a hook, and malloc behind it.                                    [alloc] body
 *
 * A block carries a head of 16 bytes that names its source, so it goes back to where it came from
 * whatever the hook is by then: channels and pools outlive a runtime, and begin before it. malloc
 * is no source; any other is a counted copy of the hook, in memory of that allocator itself. The
 * hook counts as one user and each block as one, and the last to go frees the copy.
 *
 * Who takes from a hook must count before the hook can change and its copy be freed, so both happen
 * under a lock. Without a hook there is no lock: one load says so. In a forked child no runtime is
 * running, so it has no hook; what it inherited still has its source.
 *
 * errno is left as it was: running out of memory is told by the result, and calls of the runtime
 * promise not to disturb it.
 */

#if ASTHRA_HAS_CORE

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct Asthra__AllocSource {
    AsthraAllocator allocator;
    ASTHRA__ATOMIC(size_t) users; /* blocks, and the hook */
} Asthra__AllocSource;

typedef union Asthra__AllocHead { /* in front of each block */
    Asthra__AllocSource *source;  /* NULL: malloc */
    char room[16];
} Asthra__AllocHead;
_Static_assert(sizeof(Asthra__AllocHead) % ASTHRA__MAX_ALIGN == 0, "blocks stay aligned");

static struct {
    Asthra__Lock lock; /* of hook, and of the step from reading it to counting */
    Asthra__Once once;
    ASTHRA__ATOMIC(Asthra__AllocSource *) hook; /* NULL: malloc */
} asthra__alloc_state;

/* ---- sources ---- */

/* The hook with one more user; NULL: malloc serves. */
static Asthra__AllocSource *asthra__source_enter(void) {
    if (ASTHRA__LIKELY(!asthra__alloc_is_hooked())) return NULL;
    asthra__lock(&asthra__alloc_state.lock);
    Asthra__AllocSource *s = asthra__load(&asthra__alloc_state.hook, relaxed);
    if (s != NULL) asthra__add(&s->users, (size_t)1, relaxed);
    asthra__unlock(&asthra__alloc_state.lock);
    return s;
}

static void asthra__source_leave(Asthra__AllocSource *s) {
    if (asthra__sub(&s->users, (size_t)1, acq_rel) != 1) return;
    AsthraAllocator a = s->allocator;
    a.free(s, a.user);
}

static void *asthra__source_expect_aligned(void *given) {
    if (ASTHRA__LIKELY((uintptr_t)given % ASTHRA__MAX_ALIGN == 0)) return given;
    asthra_panic_at(NULL,
                    "Wrong block from the allocator of the configuration: expected an address that "
                    "is a multiple of %d, found %p",
                    (int)ASTHRA__MAX_ALIGN, given);
}

/* NULL: there is none; then the source has a user less. */
static Asthra__AllocHead *asthra__source_take(Asthra__AllocSource *s, size_t bytes) {
    void *given = s->allocator.alloc(bytes, s->allocator.user);
    if (given == NULL) asthra__source_leave(s);
    return asthra__source_expect_aligned(given);
}

static void asthra__alloc_fork_before(void) {
    asthra__lock(&asthra__alloc_state.lock);
}
static void asthra__alloc_fork_parent(void) {
    asthra__unlock(&asthra__alloc_state.lock);
}
static void asthra__alloc_fork_child(void) {
    asthra__store(&asthra__alloc_state.hook, (Asthra__AllocSource *)NULL, relaxed);
    asthra__unlock(&asthra__alloc_state.lock);
}
static void asthra__alloc_setup(void) {
    asthra__os_on_fork(asthra__alloc_fork_before, asthra__alloc_fork_parent,
                       asthra__alloc_fork_child);
}

/* NULL: the allocator gave no memory. */
static Asthra__AllocSource *asthra__source_make(const AsthraAllocator *from) {
    asthra__once(&asthra__alloc_state.once, asthra__alloc_setup);
    int saved = errno;
    Asthra__AllocSource *s = from->alloc(sizeof *s, from->user);
    errno = saved;
    if (asthra__source_expect_aligned(s) == NULL) return NULL;
    s->allocator = *from;
    asthra__store(&s->users, (size_t)1, relaxed);
    return s;
}

ASTHRA__FN bool asthra__alloc_set_hook(const AsthraAllocator *hook) {
    Asthra__AllocSource *fresh = NULL;
    ASTHRA__CHECK(!hook || (hook->alloc && hook->realloc && hook->free));
    if (hook != NULL && (fresh = asthra__source_make(hook)) == NULL) return false;
    asthra__lock(&asthra__alloc_state.lock);
    Asthra__AllocSource *old = asthra__load(&asthra__alloc_state.hook, relaxed);
    asthra__store(&asthra__alloc_state.hook, fresh, relaxed);
    asthra__unlock(&asthra__alloc_state.lock);
    if (old != NULL) asthra__source_leave(old);
    return true;
}

ASTHRA__FN bool asthra__alloc_is_hooked(void) {
    return asthra__load(&asthra__alloc_state.hook, relaxed) != NULL;
}

static void *asthra__alloc_for_others(size_t bytes, void *unused) {
    (void)unused;
    return asthra__alloc(bytes);
}
static void asthra__free_for_others(void *block, void *unused) {
    (void)unused;
    asthra__free(block);
}
ASTHRA__FN AsthraAllocator asthra__alloc_source(void) {
    AsthraAllocator a = {asthra__alloc_for_others, NULL, asthra__free_for_others, NULL};
    return a;
}

/* ---- blocks ---- */

static Asthra__AllocHead *asthra__head_of(void *block) {
    return (Asthra__AllocHead *)block - 1;
}

ASTHRA__FN void *asthra__alloc(size_t bytes) {
    if (bytes > SIZE_MAX - sizeof(Asthra__AllocHead)) return NULL;
    int saved = errno;
    size_t all = bytes + sizeof(Asthra__AllocHead);
    Asthra__AllocSource *s = asthra__source_enter();
    Asthra__AllocHead *head = s != NULL ? asthra__source_take(s, all) : malloc(all);
    errno = saved;
    if (head == NULL) return NULL;
    head->source = s;
    return head + 1;
}

ASTHRA__FN void *asthra__alloc_zeroed(size_t count, size_t bytes) {
    size_t all;
    if (__builtin_mul_overflow(count, bytes, &all)) return NULL;
    if (asthra__alloc_is_hooked() || all > SIZE_MAX - sizeof(Asthra__AllocHead)) {
        void *block = asthra__alloc(all);
        return block ? memset(block, 0, all) : NULL;
    }
    int saved = errno; /* fresh pages are zero already, and calloc knows */
    Asthra__AllocHead *head = calloc(1, all + sizeof *head);
    errno = saved;
    return head ? head + 1 : NULL;
}

ASTHRA__FN void *asthra__realloc(void *block, size_t bytes) {
    if (!block) return asthra__alloc(bytes);
    if (bytes > SIZE_MAX - sizeof(Asthra__AllocHead)) return NULL;
    int saved = errno;
    Asthra__AllocHead *head = asthra__head_of(block);
    const Asthra__AllocSource *s = head->source;
    bytes += sizeof *head;
    head = s != NULL ? s->allocator.realloc(head, bytes, s->allocator.user) : realloc(head, bytes);
    errno = saved;
    if (s != NULL) asthra__source_expect_aligned(head);
    return head ? head + 1 : NULL;
}

ASTHRA__FN void asthra__free(void *block) {
    if (!block) return;
    int saved = errno;
    Asthra__AllocHead *head = asthra__head_of(block);
    Asthra__AllocSource *s = head->source;
    if (s == NULL) {
        free(head);
    } else {
        s->allocator.free(head, s->allocator.user);
        asthra__source_leave(s);
    }
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

/* ---- [type] internal ----------------------------------------------- core/type_internal.h ---- */
/* type - when two descriptions are one type.                               [type] internal */

#if ASTHRA_HAS_TYPE

/* The same pointer, or name, size and alignment agree; NULL, or no name, equals nothing else. */
ASTHRA__FN bool asthra__type_same(const AsthraTypeInfo *a, const AsthraTypeInfo *b);

#endif

/* ---- [type] body ------------------------------------------------------------ core/type.c ---- */
/* type - comparing descriptions.                                           [type] body
 *
 * Identity is by content, since each translation unit and each shared object may hold a copy of a
 * description. Layout beyond size and alignment is not compared: a name stands for one type in a
 * program, and size and alignment catch two versions of it. Descriptions without a name have
 * nothing to be recognised by, so each of them is a type of its own.
 */

#if ASTHRA_HAS_TYPE

#include <string.h>

ASTHRA__FN bool asthra__type_same(const AsthraTypeInfo *a, const AsthraTypeInfo *b) {
    if (a == b) return true;
    if (!a || !b || !a->name || !b->name) return false;
    return a->size == b->size && a->alignment == b->alignment && strcmp(a->name, b->name) == 0;
}

#endif

/* ---- [table] internal --------------------------------------------- core/table_internal.h ---- */
/* table - numbers or texts mapped to 64-bit values.                        [table] internal
 *
 * A table's keys are all numbers or all texts (copied). Its entries stand in one array, in the
 * order in which they came; removing one moves the last entry into the hole. Running out of memory
 * is a panic, so nothing that must survive it keeps a table.
 *
 * Threads: find, count and at may run on several threads while nobody changes the table; the caller
 * locks for the rest. Creating one is safe anywhere. Blocks: never. Cost: amortised constant.
 */

#if ASTHRA_HAS_TABLE

typedef enum Asthra__TableKeys { ASTHRA__TABLE_NUMBERS, ASTHRA__TABLE_TEXTS } Asthra__TableKeys;

typedef union Asthra__TableKey {
    uint64_t number;
    char *text;
} Asthra__TableKey;

typedef struct Asthra__TableEntry {
    Asthra__TableKey key;
    uint64_t value;
} Asthra__TableEntry;

typedef struct Asthra__Table {
    Asthra__TableEntry *entries; /* as stb_ds keeps them: one unused stands before */
    Asthra__TableKeys keys;
} Asthra__Table;

ASTHRA__FN void asthra__table_create(Asthra__Table *t, Asthra__TableKeys keys);
ASTHRA__FN void asthra__table_destroy(Asthra__Table *t); /* a zeroed one too */

/* The value of a key, or NULL. Like that of slot, it is valid until the next slot or remove. */
ASTHRA__FN uint64_t *asthra__table_find(const Asthra__Table *t, uint64_t number);
ASTHRA__FN uint64_t *asthra__table_find_text(const Asthra__Table *t, const char *text);

/* The value of a key, made as 0 if it was not there: *asthra__table_slot(&t, id) += 1. */
ASTHRA__FN uint64_t *asthra__table_slot(Asthra__Table *t, uint64_t number);
ASTHRA__FN uint64_t *asthra__table_slot_text(Asthra__Table *t, const char *text);

/* False: it was not there. */
ASTHRA__FN bool asthra__table_remove(Asthra__Table *t, uint64_t number);
ASTHRA__FN bool asthra__table_remove_text(Asthra__Table *t, const char *text);

ASTHRA__FN size_t asthra__table_count(const Asthra__Table *t);
ASTHRA__FN const Asthra__TableEntry *asthra__table_at(const Asthra__Table *t, size_t i);

/* In a forked child, where another thread's create may have stopped half-way. */
ASTHRA__FN void asthra__table_after_fork(void);

#endif

/* ---- [table] body ---------------------------------------------------------- core/table.c ---- */
/* table - numbers or texts mapped to 64-bit values.                        [table] body
 *
 * The only file that sees stb_ds. Its functions are called and not its macros, which need typeof. A
 * map of stb_ds is a pointer to the first entry; before it stand one entry that holds a default,
 * unused here, and the header with the length. Four traps of stb_ds, and what is done about them:
 *
 * - It never looks at what realloc returned: our settings give it asthra__alloc_or_die. The sizes
 *   it asks for are products that could wrap, so asthra__table_enter refuses long before they do.
 * - The first put of an empty map, and a get from it, allocate and draw from a global seed. A table
 *   is therefore made whole when it is created, under a lock; later nothing touches the seed.
 * - A plain get writes to the header, so that two readers would race. Only the _ts form is called.
 * - A put of a new key leaves the value as it was in memory: it is zeroed here.
 */

#if ASTHRA_HAS_TABLE

/* stb_ds_open - the door to stb_ds, the one package: what stands between the doors is private.
 *
 * A host may use stb_ds itself, before us, after us, or both, in another version. So every macro
 * that stb_ds.h reads or defines is put aside here and comes back in stb_ds_close.h; all that it
 * declares gets a private name. Short names need nothing: our settings leave them out. When a newer
 * stb_ds.h defines one more macro, `make hygiene` names it; add it to both doors.
 */
#pragma push_macro("INCLUDE_STB_DS_H")
#undef INCLUDE_STB_DS_H
#pragma push_macro("STBDS_ADDRESSOF")
#undef STBDS_ADDRESSOF
#pragma push_macro("STBDS_ALIGN_FWD")
#undef STBDS_ALIGN_FWD
#pragma push_macro("STBDS_ARR_TO_HASH")
#undef STBDS_ARR_TO_HASH
#pragma push_macro("STBDS_ASSERT")
#undef STBDS_ASSERT
#pragma push_macro("STBDS_ASSERT_WAS_UNDEFINED")
#undef STBDS_ASSERT_WAS_UNDEFINED
#pragma push_macro("STBDS_BUCKET_LENGTH")
#undef STBDS_BUCKET_LENGTH
#pragma push_macro("STBDS_BUCKET_MASK")
#undef STBDS_BUCKET_MASK
#pragma push_macro("STBDS_BUCKET_SHIFT")
#undef STBDS_BUCKET_SHIFT
#pragma push_macro("STBDS_CACHE_LINE_SIZE")
#undef STBDS_CACHE_LINE_SIZE
#pragma push_macro("STBDS_FREE")
#undef STBDS_FREE
#pragma push_macro("STBDS_HASH_DELETED")
#undef STBDS_HASH_DELETED
#pragma push_macro("STBDS_HASH_EMPTY")
#undef STBDS_HASH_EMPTY
#pragma push_macro("STBDS_HASH_TO_ARR")
#undef STBDS_HASH_TO_ARR
#pragma push_macro("STBDS_HAS_LITERAL_ARRAY")
#undef STBDS_HAS_LITERAL_ARRAY
#pragma push_macro("STBDS_HAS_TYPEOF")
#undef STBDS_HAS_TYPEOF
#pragma push_macro("STBDS_HM_BINARY")
#undef STBDS_HM_BINARY
#pragma push_macro("STBDS_HM_STRING")
#undef STBDS_HM_STRING
#pragma push_macro("STBDS_INDEX_DELETED")
#undef STBDS_INDEX_DELETED
#pragma push_macro("STBDS_INDEX_EMPTY")
#undef STBDS_INDEX_EMPTY
#pragma push_macro("STBDS_INDEX_IN_USE")
#undef STBDS_INDEX_IN_USE
#pragma push_macro("STBDS_INTERNAL_BUCKET_START")
#undef STBDS_INTERNAL_BUCKET_START
#pragma push_macro("STBDS_INTERNAL_SMALL_BUCKET")
#undef STBDS_INTERNAL_SMALL_BUCKET
#pragma push_macro("STBDS_NOTUSED")
#undef STBDS_NOTUSED
#pragma push_macro("STBDS_NO_SHORT_NAMES")
#undef STBDS_NO_SHORT_NAMES
#pragma push_macro("STBDS_OFFSETOF")
#undef STBDS_OFFSETOF
#pragma push_macro("STBDS_REALLOC")
#undef STBDS_REALLOC
#pragma push_macro("STBDS_ROTATE_LEFT")
#undef STBDS_ROTATE_LEFT
#pragma push_macro("STBDS_ROTATE_RIGHT")
#undef STBDS_ROTATE_RIGHT
#pragma push_macro("STBDS_SH_ARENA")
#undef STBDS_SH_ARENA
#pragma push_macro("STBDS_SH_DEFAULT")
#undef STBDS_SH_DEFAULT
#pragma push_macro("STBDS_SH_NONE")
#undef STBDS_SH_NONE
#pragma push_macro("STBDS_SH_STRDUP")
#undef STBDS_SH_STRDUP
#pragma push_macro("STBDS_SIPHASH_2_4")
#undef STBDS_SIPHASH_2_4
#pragma push_macro("STBDS_SIPHASH_C_ROUNDS")
#undef STBDS_SIPHASH_C_ROUNDS
#pragma push_macro("STBDS_SIPHASH_D_ROUNDS")
#undef STBDS_SIPHASH_D_ROUNDS
#pragma push_macro("STBDS_SIPROUND")
#undef STBDS_SIPROUND
#pragma push_macro("STBDS_SIZE_T_BITS")
#undef STBDS_SIZE_T_BITS
#pragma push_macro("STBDS_STATISTICS")
#undef STBDS_STATISTICS
#pragma push_macro("STBDS_STATS")
#undef STBDS_STATS
#pragma push_macro("STBDS_STRING_ARENA_BLOCKSIZE_MAX")
#undef STBDS_STRING_ARENA_BLOCKSIZE_MAX
#pragma push_macro("STBDS_STRING_ARENA_BLOCKSIZE_MIN")
#undef STBDS_STRING_ARENA_BLOCKSIZE_MIN
#pragma push_macro("STBDS_TEST_SIPHASH_2_4")
#undef STBDS_TEST_SIPHASH_2_4
#pragma push_macro("STBDS_UNIT_TESTS")
#undef STBDS_UNIT_TESTS
#pragma push_macro("STB_DS_IMPLEMENTATION")
#undef STB_DS_IMPLEMENTATION
#pragma push_macro("stbds_arraddn")
#undef stbds_arraddn
#pragma push_macro("stbds_arraddnindex")
#undef stbds_arraddnindex
#pragma push_macro("stbds_arraddnoff")
#undef stbds_arraddnoff
#pragma push_macro("stbds_arraddnptr")
#undef stbds_arraddnptr
#pragma push_macro("stbds_array_header")
#undef stbds_array_header
#pragma push_macro("stbds_arrcap")
#undef stbds_arrcap
#pragma push_macro("stbds_arrdel")
#undef stbds_arrdel
#pragma push_macro("stbds_arrdeln")
#undef stbds_arrdeln
#pragma push_macro("stbds_arrdelswap")
#undef stbds_arrdelswap
#pragma push_macro("stbds_arrfree")
#undef stbds_arrfree
#pragma push_macro("stbds_arrfreef")
#undef stbds_arrfreef
#pragma push_macro("stbds_arrgrow")
#undef stbds_arrgrow
#pragma push_macro("stbds_arrgrowf")
#undef stbds_arrgrowf
#pragma push_macro("stbds_arrgrowf_wrapper")
#undef stbds_arrgrowf_wrapper
#pragma push_macro("stbds_arrins")
#undef stbds_arrins
#pragma push_macro("stbds_arrinsn")
#undef stbds_arrinsn
#pragma push_macro("stbds_arrlast")
#undef stbds_arrlast
#pragma push_macro("stbds_arrlen")
#undef stbds_arrlen
#pragma push_macro("stbds_arrlenu")
#undef stbds_arrlenu
#pragma push_macro("stbds_arrmaybegrow")
#undef stbds_arrmaybegrow
#pragma push_macro("stbds_arrpop")
#undef stbds_arrpop
#pragma push_macro("stbds_arrpush")
#undef stbds_arrpush
#pragma push_macro("stbds_arrput")
#undef stbds_arrput
#pragma push_macro("stbds_arrsetcap")
#undef stbds_arrsetcap
#pragma push_macro("stbds_arrsetlen")
#undef stbds_arrsetlen
#pragma push_macro("stbds_hash_bucket")
#undef stbds_hash_bucket
#pragma push_macro("stbds_hash_bytes")
#undef stbds_hash_bytes
#pragma push_macro("stbds_hash_index")
#undef stbds_hash_index
#pragma push_macro("stbds_hash_seed")
#undef stbds_hash_seed
#pragma push_macro("stbds_hash_string")
#undef stbds_hash_string
#pragma push_macro("stbds_hash_table")
#undef stbds_hash_table
#pragma push_macro("stbds_header")
#undef stbds_header
#pragma push_macro("stbds_hm_find_slot")
#undef stbds_hm_find_slot
#pragma push_macro("stbds_hmdefault")
#undef stbds_hmdefault
#pragma push_macro("stbds_hmdefaults")
#undef stbds_hmdefaults
#pragma push_macro("stbds_hmdel")
#undef stbds_hmdel
#pragma push_macro("stbds_hmdel_key")
#undef stbds_hmdel_key
#pragma push_macro("stbds_hmdel_key_wrapper")
#undef stbds_hmdel_key_wrapper
#pragma push_macro("stbds_hmfree")
#undef stbds_hmfree
#pragma push_macro("stbds_hmfree_func")
#undef stbds_hmfree_func
#pragma push_macro("stbds_hmget")
#undef stbds_hmget
#pragma push_macro("stbds_hmget_key")
#undef stbds_hmget_key
#pragma push_macro("stbds_hmget_key_ts")
#undef stbds_hmget_key_ts
#pragma push_macro("stbds_hmget_key_ts_wrapper")
#undef stbds_hmget_key_ts_wrapper
#pragma push_macro("stbds_hmget_key_wrapper")
#undef stbds_hmget_key_wrapper
#pragma push_macro("stbds_hmget_ts")
#undef stbds_hmget_ts
#pragma push_macro("stbds_hmgeti")
#undef stbds_hmgeti
#pragma push_macro("stbds_hmgeti_ts")
#undef stbds_hmgeti_ts
#pragma push_macro("stbds_hmgetp")
#undef stbds_hmgetp
#pragma push_macro("stbds_hmgetp_null")
#undef stbds_hmgetp_null
#pragma push_macro("stbds_hmgetp_ts")
#undef stbds_hmgetp_ts
#pragma push_macro("stbds_hmgets")
#undef stbds_hmgets
#pragma push_macro("stbds_hmlen")
#undef stbds_hmlen
#pragma push_macro("stbds_hmlenu")
#undef stbds_hmlenu
#pragma push_macro("stbds_hmput")
#undef stbds_hmput
#pragma push_macro("stbds_hmput_default")
#undef stbds_hmput_default
#pragma push_macro("stbds_hmput_default_wrapper")
#undef stbds_hmput_default_wrapper
#pragma push_macro("stbds_hmput_key")
#undef stbds_hmput_key
#pragma push_macro("stbds_hmput_key_wrapper")
#undef stbds_hmput_key_wrapper
#pragma push_macro("stbds_hmputs")
#undef stbds_hmputs
#pragma push_macro("stbds_is_key_equal")
#undef stbds_is_key_equal
#pragma push_macro("stbds_load_32_or_64")
#undef stbds_load_32_or_64
#pragma push_macro("stbds_log2")
#undef stbds_log2
#pragma push_macro("stbds_make_hash_index")
#undef stbds_make_hash_index
#pragma push_macro("stbds_probe_position")
#undef stbds_probe_position
#pragma push_macro("stbds_pshdel")
#undef stbds_pshdel
#pragma push_macro("stbds_pshget")
#undef stbds_pshget
#pragma push_macro("stbds_pshgeti")
#undef stbds_pshgeti
#pragma push_macro("stbds_pshput")
#undef stbds_pshput
#pragma push_macro("stbds_rand_seed")
#undef stbds_rand_seed
#pragma push_macro("stbds_sh_new_arena")
#undef stbds_sh_new_arena
#pragma push_macro("stbds_sh_new_strdup")
#undef stbds_sh_new_strdup
#pragma push_macro("stbds_shdefault")
#undef stbds_shdefault
#pragma push_macro("stbds_shdefaults")
#undef stbds_shdefaults
#pragma push_macro("stbds_shdel")
#undef stbds_shdel
#pragma push_macro("stbds_shfree")
#undef stbds_shfree
#pragma push_macro("stbds_shget")
#undef stbds_shget
#pragma push_macro("stbds_shgeti")
#undef stbds_shgeti
#pragma push_macro("stbds_shgetp")
#undef stbds_shgetp
#pragma push_macro("stbds_shgetp_null")
#undef stbds_shgetp_null
#pragma push_macro("stbds_shgets")
#undef stbds_shgets
#pragma push_macro("stbds_shlen")
#undef stbds_shlen
#pragma push_macro("stbds_shlenu")
#undef stbds_shlenu
#pragma push_macro("stbds_shmode_func")
#undef stbds_shmode_func
#pragma push_macro("stbds_shmode_func_wrapper")
#undef stbds_shmode_func_wrapper
#pragma push_macro("stbds_shput")
#undef stbds_shput
#pragma push_macro("stbds_shputi")
#undef stbds_shputi
#pragma push_macro("stbds_shputs")
#undef stbds_shputs
#pragma push_macro("stbds_siphash_bytes")
#undef stbds_siphash_bytes
#pragma push_macro("stbds_stralloc")
#undef stbds_stralloc
#pragma push_macro("stbds_strdup")
#undef stbds_strdup
#pragma push_macro("stbds_string_arena")
#undef stbds_string_arena
#pragma push_macro("stbds_string_block")
#undef stbds_string_block
#pragma push_macro("stbds_strreset")
#undef stbds_strreset
#pragma push_macro("stbds_temp")
#undef stbds_temp
#pragma push_macro("stbds_temp_key")
#undef stbds_temp_key
#pragma push_macro("stbds_unit_tests")
#undef stbds_unit_tests

/* Private names. */
#define stbds_rand_seed asthra__stbds_rand_seed
#define stbds_hash_bytes asthra__stbds_hash_bytes
#define stbds_hash_string asthra__stbds_hash_string
#define stbds_stralloc asthra__stbds_stralloc
#define stbds_strreset asthra__stbds_strreset
#define stbds_unit_tests asthra__stbds_unit_tests
#define stbds_arrgrowf asthra__stbds_arrgrowf
#define stbds_arrfreef asthra__stbds_arrfreef
#define stbds_hmfree_func asthra__stbds_hmfree_func
#define stbds_hmget_key asthra__stbds_hmget_key
#define stbds_hmget_key_ts asthra__stbds_hmget_key_ts
#define stbds_hmput_default asthra__stbds_hmput_default
#define stbds_hmput_key asthra__stbds_hmput_key
#define stbds_hmdel_key asthra__stbds_hmdel_key
#define stbds_shmode_func asthra__stbds_shmode_func
#define stbds_string_arena asthra__stbds_string_arena
#define stbds_string_block asthra__stbds_string_block
#define stbds_array_header asthra__stbds_array_header
#define stbds_hash_bucket asthra__stbds_hash_bucket
#define stbds_hash_index asthra__stbds_hash_index
#define stbds_hash_seed asthra__stbds_hash_seed
#define stbds_probe_position asthra__stbds_probe_position
#define stbds_log2 asthra__stbds_log2
#define stbds_make_hash_index asthra__stbds_make_hash_index
#define stbds_siphash_bytes asthra__stbds_siphash_bytes
#define stbds_is_key_equal asthra__stbds_is_key_equal
#define stbds_hm_find_slot asthra__stbds_hm_find_slot
#define stbds_strdup asthra__stbds_strdup
#define STBDS_SH_NONE ASTHRA__STBDS_SH_NONE
#define STBDS_SH_DEFAULT ASTHRA__STBDS_SH_DEFAULT
#define STBDS_SH_STRDUP ASTHRA__STBDS_SH_STRDUP
#define STBDS_SH_ARENA ASTHRA__STBDS_SH_ARENA

/* Our settings. stb_ds never looks at what realloc returned, so ours does not return on failure. */
#define STB_DS_IMPLEMENTATION
#define STBDS_NO_SHORT_NAMES
#define STBDS_REALLOC(context, block, bytes) asthra__alloc_or_die((block), (bytes))
#define STBDS_FREE(context, block) asthra__free(block)
#define STBDS_ASSERT(x) ((void)0)

/* A function declared static stays static when stb_ds says extern (C11 6.2.2p4), and keeps its
 * attributes: no symbol leaves, what is unused is dropped, and shifts of bytes into the sign bit of
 * an int, which both compilers define, pass the undefined-behaviour sanitizer. */
#define ASTHRA__STBDS_FN ASTHRA_UNUSED __attribute__((__no_sanitize__("undefined"))) static
struct stbds_string_arena;
ASTHRA__STBDS_FN void stbds_rand_seed(size_t seed);
ASTHRA__STBDS_FN size_t stbds_hash_bytes(void *p, size_t len, size_t seed);
ASTHRA__STBDS_FN size_t stbds_siphash_bytes(void *p, size_t len, size_t seed);
ASTHRA__STBDS_FN size_t stbds_hash_string(char *str, size_t seed);
ASTHRA__STBDS_FN char *stbds_stralloc(struct stbds_string_arena *a, char *str);
ASTHRA__STBDS_FN void stbds_strreset(struct stbds_string_arena *a);
ASTHRA__STBDS_FN void *stbds_arrgrowf(void *a, size_t elemsize, size_t addlen, size_t min_cap);
ASTHRA__STBDS_FN void stbds_arrfreef(void *a);
ASTHRA__STBDS_FN void stbds_hmfree_func(void *p, size_t elemsize);
ASTHRA__STBDS_FN void *stbds_hmget_key(void *a, size_t elemsize, void *key, size_t keysize,
                                       int mode);
ASTHRA__STBDS_FN void *stbds_hmget_key_ts(void *a, size_t elemsize, void *key, size_t keysize,
                                          ptrdiff_t *temp, int mode);
ASTHRA__STBDS_FN void *stbds_hmput_default(void *a, size_t elemsize);
ASTHRA__STBDS_FN void *stbds_hmput_key(void *a, size_t elemsize, void *key, size_t keysize,
                                       int mode);
ASTHRA__STBDS_FN void *stbds_hmdel_key(void *a, size_t elemsize, void *key, size_t keysize,
                                       size_t keyoffset, int mode);
ASTHRA__STBDS_FN void *stbds_shmode_func(size_t elemsize, int mode);
#undef ASTHRA__STBDS_FN

/* What stb_ds looks like under our warnings is its author's affair. */
#pragma GCC diagnostic push
#ifdef __clang__
#pragma clang diagnostic ignored "-Weverything"
#else
#pragma GCC diagnostic ignored "-Wcast-align"
#pragma GCC diagnostic ignored "-Wcast-qual"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wfloat-conversion"
#pragma GCC diagnostic ignored "-Wimplicit-fallthrough"
#pragma GCC diagnostic ignored "-Wmissing-declarations"
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wnull-dereference"
#pragma GCC diagnostic ignored "-Wpedantic"
#pragma GCC diagnostic ignored "-Wpointer-arith"
#pragma GCC diagnostic ignored "-Wredundant-decls"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#pragma GCC diagnostic ignored "-Wswitch-default"
#pragma GCC diagnostic ignored "-Wundef"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-macros"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#endif

/* Where it is. ./amalgamate --fold puts the text of stb_ds.h here, in place of these lines. */
#if defined(ASTHRA_RT_STB_DS_H)
#include ASTHRA_RT_STB_DS_H
#elif defined(__has_include)
#if __has_include("stb_ds.h")
#include "stb_ds.h"
#elif __has_include(<stb/stb_ds.h>)
#include <stb/stb_ds.h>
#elif __has_include(<stb_ds.h>)
#include <stb_ds.h>
#else
#error "stb_ds.h is missing: put it beside asthra_rt.h, or define ASTHRA_RT_STB_DS_H as its path"
#endif
#else
#include "stb_ds.h"
#endif
/* This is what --fold replaces. */
/* stb_ds_close - the door back: the host's macros are as they were before stb_ds_open.h. */
#pragma GCC diagnostic pop
#undef INCLUDE_STB_DS_H
#pragma pop_macro("INCLUDE_STB_DS_H")
#undef STBDS_ADDRESSOF
#pragma pop_macro("STBDS_ADDRESSOF")
#undef STBDS_ALIGN_FWD
#pragma pop_macro("STBDS_ALIGN_FWD")
#undef STBDS_ARR_TO_HASH
#pragma pop_macro("STBDS_ARR_TO_HASH")
#undef STBDS_ASSERT
#pragma pop_macro("STBDS_ASSERT")
#undef STBDS_ASSERT_WAS_UNDEFINED
#pragma pop_macro("STBDS_ASSERT_WAS_UNDEFINED")
#undef STBDS_BUCKET_LENGTH
#pragma pop_macro("STBDS_BUCKET_LENGTH")
#undef STBDS_BUCKET_MASK
#pragma pop_macro("STBDS_BUCKET_MASK")
#undef STBDS_BUCKET_SHIFT
#pragma pop_macro("STBDS_BUCKET_SHIFT")
#undef STBDS_CACHE_LINE_SIZE
#pragma pop_macro("STBDS_CACHE_LINE_SIZE")
#undef STBDS_FREE
#pragma pop_macro("STBDS_FREE")
#undef STBDS_HASH_DELETED
#pragma pop_macro("STBDS_HASH_DELETED")
#undef STBDS_HASH_EMPTY
#pragma pop_macro("STBDS_HASH_EMPTY")
#undef STBDS_HASH_TO_ARR
#pragma pop_macro("STBDS_HASH_TO_ARR")
#undef STBDS_HAS_LITERAL_ARRAY
#pragma pop_macro("STBDS_HAS_LITERAL_ARRAY")
#undef STBDS_HAS_TYPEOF
#pragma pop_macro("STBDS_HAS_TYPEOF")
#undef STBDS_HM_BINARY
#pragma pop_macro("STBDS_HM_BINARY")
#undef STBDS_HM_STRING
#pragma pop_macro("STBDS_HM_STRING")
#undef STBDS_INDEX_DELETED
#pragma pop_macro("STBDS_INDEX_DELETED")
#undef STBDS_INDEX_EMPTY
#pragma pop_macro("STBDS_INDEX_EMPTY")
#undef STBDS_INDEX_IN_USE
#pragma pop_macro("STBDS_INDEX_IN_USE")
#undef STBDS_INTERNAL_BUCKET_START
#pragma pop_macro("STBDS_INTERNAL_BUCKET_START")
#undef STBDS_INTERNAL_SMALL_BUCKET
#pragma pop_macro("STBDS_INTERNAL_SMALL_BUCKET")
#undef STBDS_NOTUSED
#pragma pop_macro("STBDS_NOTUSED")
#undef STBDS_NO_SHORT_NAMES
#pragma pop_macro("STBDS_NO_SHORT_NAMES")
#undef STBDS_OFFSETOF
#pragma pop_macro("STBDS_OFFSETOF")
#undef STBDS_REALLOC
#pragma pop_macro("STBDS_REALLOC")
#undef STBDS_ROTATE_LEFT
#pragma pop_macro("STBDS_ROTATE_LEFT")
#undef STBDS_ROTATE_RIGHT
#pragma pop_macro("STBDS_ROTATE_RIGHT")
#undef STBDS_SH_ARENA
#pragma pop_macro("STBDS_SH_ARENA")
#undef STBDS_SH_DEFAULT
#pragma pop_macro("STBDS_SH_DEFAULT")
#undef STBDS_SH_NONE
#pragma pop_macro("STBDS_SH_NONE")
#undef STBDS_SH_STRDUP
#pragma pop_macro("STBDS_SH_STRDUP")
#undef STBDS_SIPHASH_2_4
#pragma pop_macro("STBDS_SIPHASH_2_4")
#undef STBDS_SIPHASH_C_ROUNDS
#pragma pop_macro("STBDS_SIPHASH_C_ROUNDS")
#undef STBDS_SIPHASH_D_ROUNDS
#pragma pop_macro("STBDS_SIPHASH_D_ROUNDS")
#undef STBDS_SIPROUND
#pragma pop_macro("STBDS_SIPROUND")
#undef STBDS_SIZE_T_BITS
#pragma pop_macro("STBDS_SIZE_T_BITS")
#undef STBDS_STATISTICS
#pragma pop_macro("STBDS_STATISTICS")
#undef STBDS_STATS
#pragma pop_macro("STBDS_STATS")
#undef STBDS_STRING_ARENA_BLOCKSIZE_MAX
#pragma pop_macro("STBDS_STRING_ARENA_BLOCKSIZE_MAX")
#undef STBDS_STRING_ARENA_BLOCKSIZE_MIN
#pragma pop_macro("STBDS_STRING_ARENA_BLOCKSIZE_MIN")
#undef STBDS_TEST_SIPHASH_2_4
#pragma pop_macro("STBDS_TEST_SIPHASH_2_4")
#undef STBDS_UNIT_TESTS
#pragma pop_macro("STBDS_UNIT_TESTS")
#undef STB_DS_IMPLEMENTATION
#pragma pop_macro("STB_DS_IMPLEMENTATION")
#undef stbds_arraddn
#pragma pop_macro("stbds_arraddn")
#undef stbds_arraddnindex
#pragma pop_macro("stbds_arraddnindex")
#undef stbds_arraddnoff
#pragma pop_macro("stbds_arraddnoff")
#undef stbds_arraddnptr
#pragma pop_macro("stbds_arraddnptr")
#undef stbds_array_header
#pragma pop_macro("stbds_array_header")
#undef stbds_arrcap
#pragma pop_macro("stbds_arrcap")
#undef stbds_arrdel
#pragma pop_macro("stbds_arrdel")
#undef stbds_arrdeln
#pragma pop_macro("stbds_arrdeln")
#undef stbds_arrdelswap
#pragma pop_macro("stbds_arrdelswap")
#undef stbds_arrfree
#pragma pop_macro("stbds_arrfree")
#undef stbds_arrfreef
#pragma pop_macro("stbds_arrfreef")
#undef stbds_arrgrow
#pragma pop_macro("stbds_arrgrow")
#undef stbds_arrgrowf
#pragma pop_macro("stbds_arrgrowf")
#undef stbds_arrgrowf_wrapper
#pragma pop_macro("stbds_arrgrowf_wrapper")
#undef stbds_arrins
#pragma pop_macro("stbds_arrins")
#undef stbds_arrinsn
#pragma pop_macro("stbds_arrinsn")
#undef stbds_arrlast
#pragma pop_macro("stbds_arrlast")
#undef stbds_arrlen
#pragma pop_macro("stbds_arrlen")
#undef stbds_arrlenu
#pragma pop_macro("stbds_arrlenu")
#undef stbds_arrmaybegrow
#pragma pop_macro("stbds_arrmaybegrow")
#undef stbds_arrpop
#pragma pop_macro("stbds_arrpop")
#undef stbds_arrpush
#pragma pop_macro("stbds_arrpush")
#undef stbds_arrput
#pragma pop_macro("stbds_arrput")
#undef stbds_arrsetcap
#pragma pop_macro("stbds_arrsetcap")
#undef stbds_arrsetlen
#pragma pop_macro("stbds_arrsetlen")
#undef stbds_hash_bucket
#pragma pop_macro("stbds_hash_bucket")
#undef stbds_hash_bytes
#pragma pop_macro("stbds_hash_bytes")
#undef stbds_hash_index
#pragma pop_macro("stbds_hash_index")
#undef stbds_hash_seed
#pragma pop_macro("stbds_hash_seed")
#undef stbds_hash_string
#pragma pop_macro("stbds_hash_string")
#undef stbds_hash_table
#pragma pop_macro("stbds_hash_table")
#undef stbds_header
#pragma pop_macro("stbds_header")
#undef stbds_hm_find_slot
#pragma pop_macro("stbds_hm_find_slot")
#undef stbds_hmdefault
#pragma pop_macro("stbds_hmdefault")
#undef stbds_hmdefaults
#pragma pop_macro("stbds_hmdefaults")
#undef stbds_hmdel
#pragma pop_macro("stbds_hmdel")
#undef stbds_hmdel_key
#pragma pop_macro("stbds_hmdel_key")
#undef stbds_hmdel_key_wrapper
#pragma pop_macro("stbds_hmdel_key_wrapper")
#undef stbds_hmfree
#pragma pop_macro("stbds_hmfree")
#undef stbds_hmfree_func
#pragma pop_macro("stbds_hmfree_func")
#undef stbds_hmget
#pragma pop_macro("stbds_hmget")
#undef stbds_hmget_key
#pragma pop_macro("stbds_hmget_key")
#undef stbds_hmget_key_ts
#pragma pop_macro("stbds_hmget_key_ts")
#undef stbds_hmget_key_ts_wrapper
#pragma pop_macro("stbds_hmget_key_ts_wrapper")
#undef stbds_hmget_key_wrapper
#pragma pop_macro("stbds_hmget_key_wrapper")
#undef stbds_hmget_ts
#pragma pop_macro("stbds_hmget_ts")
#undef stbds_hmgeti
#pragma pop_macro("stbds_hmgeti")
#undef stbds_hmgeti_ts
#pragma pop_macro("stbds_hmgeti_ts")
#undef stbds_hmgetp
#pragma pop_macro("stbds_hmgetp")
#undef stbds_hmgetp_null
#pragma pop_macro("stbds_hmgetp_null")
#undef stbds_hmgetp_ts
#pragma pop_macro("stbds_hmgetp_ts")
#undef stbds_hmgets
#pragma pop_macro("stbds_hmgets")
#undef stbds_hmlen
#pragma pop_macro("stbds_hmlen")
#undef stbds_hmlenu
#pragma pop_macro("stbds_hmlenu")
#undef stbds_hmput
#pragma pop_macro("stbds_hmput")
#undef stbds_hmput_default
#pragma pop_macro("stbds_hmput_default")
#undef stbds_hmput_default_wrapper
#pragma pop_macro("stbds_hmput_default_wrapper")
#undef stbds_hmput_key
#pragma pop_macro("stbds_hmput_key")
#undef stbds_hmput_key_wrapper
#pragma pop_macro("stbds_hmput_key_wrapper")
#undef stbds_hmputs
#pragma pop_macro("stbds_hmputs")
#undef stbds_is_key_equal
#pragma pop_macro("stbds_is_key_equal")
#undef stbds_load_32_or_64
#pragma pop_macro("stbds_load_32_or_64")
#undef stbds_log2
#pragma pop_macro("stbds_log2")
#undef stbds_make_hash_index
#pragma pop_macro("stbds_make_hash_index")
#undef stbds_probe_position
#pragma pop_macro("stbds_probe_position")
#undef stbds_pshdel
#pragma pop_macro("stbds_pshdel")
#undef stbds_pshget
#pragma pop_macro("stbds_pshget")
#undef stbds_pshgeti
#pragma pop_macro("stbds_pshgeti")
#undef stbds_pshput
#pragma pop_macro("stbds_pshput")
#undef stbds_rand_seed
#pragma pop_macro("stbds_rand_seed")
#undef stbds_sh_new_arena
#pragma pop_macro("stbds_sh_new_arena")
#undef stbds_sh_new_strdup
#pragma pop_macro("stbds_sh_new_strdup")
#undef stbds_shdefault
#pragma pop_macro("stbds_shdefault")
#undef stbds_shdefaults
#pragma pop_macro("stbds_shdefaults")
#undef stbds_shdel
#pragma pop_macro("stbds_shdel")
#undef stbds_shfree
#pragma pop_macro("stbds_shfree")
#undef stbds_shget
#pragma pop_macro("stbds_shget")
#undef stbds_shgeti
#pragma pop_macro("stbds_shgeti")
#undef stbds_shgetp
#pragma pop_macro("stbds_shgetp")
#undef stbds_shgetp_null
#pragma pop_macro("stbds_shgetp_null")
#undef stbds_shgets
#pragma pop_macro("stbds_shgets")
#undef stbds_shlen
#pragma pop_macro("stbds_shlen")
#undef stbds_shlenu
#pragma pop_macro("stbds_shlenu")
#undef stbds_shmode_func
#pragma pop_macro("stbds_shmode_func")
#undef stbds_shmode_func_wrapper
#pragma pop_macro("stbds_shmode_func_wrapper")
#undef stbds_shput
#pragma pop_macro("stbds_shput")
#undef stbds_shputi
#pragma pop_macro("stbds_shputi")
#undef stbds_shputs
#pragma pop_macro("stbds_shputs")
#undef stbds_siphash_bytes
#pragma pop_macro("stbds_siphash_bytes")
#undef stbds_stralloc
#pragma pop_macro("stbds_stralloc")
#undef stbds_strdup
#pragma pop_macro("stbds_strdup")
#undef stbds_string_arena
#pragma pop_macro("stbds_string_arena")
#undef stbds_string_block
#pragma pop_macro("stbds_string_block")
#undef stbds_strreset
#pragma pop_macro("stbds_strreset")
#undef stbds_temp
#pragma pop_macro("stbds_temp")
#undef stbds_temp_key
#pragma pop_macro("stbds_temp_key")
#undef stbds_unit_tests
#pragma pop_macro("stbds_unit_tests")

enum { ASTHRA__TABLE_ENTRY_BYTES = sizeof(Asthra__TableEntry) };

/* An entry costs 16 bytes in the array and 16 or more in the index; both may double at once. */
#define ASTHRA__TABLE_MAX (SIZE_MAX / 256)

_Static_assert(offsetof(Asthra__TableEntry, key) == 0, "stb_ds looks for the key at the start");

static struct { Asthra__Lock lock; /* over the seed of stb_ds */ } asthra__table;

static asthra__stbds_array_header *asthra__table_header(const Asthra__Table *t) {
    return (asthra__stbds_array_header *)(void *)(t->entries - 1) - 1;
}

/* How stb_ds hashes and compares the keys of t: the bytes of a number, or a text to its NUL. */
static int asthra__table_mode(const Asthra__Table *t) {
    return t->keys == ASTHRA__TABLE_TEXTS; /* STBDS_HM_STRING is 1, STBDS_HM_BINARY 0 */
}

/* What stb_ds takes as the key: the text itself, or the address of the number. */
static void *asthra__table_key(const Asthra__Table *t, Asthra__TableKey *key) {
    return t->keys == ASTHRA__TABLE_TEXTS ? (void *)key->text : (void *)&key->number;
}

static Asthra__TableKey asthra__table_text(const char *text) {
    Asthra__TableKey key = {0};
    key.text = (char *)(uintptr_t)text; /* only read: stb_ds keeps a copy */
    return key;
}

static uint64_t *asthra__table_look(const Asthra__Table *t, Asthra__TableKey key) {
    if (!t->entries) return NULL;
    ptrdiff_t i = -1;
    asthra__stbds_hmget_key_ts(t->entries, ASTHRA__TABLE_ENTRY_BYTES, asthra__table_key(t, &key),
                               sizeof key, &i, asthra__table_mode(t));
    return i < 0 ? NULL : &t->entries[i].value;
}

static uint64_t *asthra__table_enter(Asthra__Table *t, Asthra__TableKey key) {
    size_t before = asthra__table_count(t);
    ASTHRA__CHECK(t->entries && before < ASTHRA__TABLE_MAX);
    t->entries =
        asthra__stbds_hmput_key(t->entries, ASTHRA__TABLE_ENTRY_BYTES, asthra__table_key(t, &key),
                                sizeof key, asthra__table_mode(t));
    Asthra__TableEntry *entry = &t->entries[asthra__table_header(t)->temp];
    if (asthra__table_count(t) > before) entry->value = 0;
    return &entry->value;
}

static bool asthra__table_drop(Asthra__Table *t, Asthra__TableKey key) {
    if (!t->entries) return false;
    t->entries =
        asthra__stbds_hmdel_key(t->entries, ASTHRA__TABLE_ENTRY_BYTES, asthra__table_key(t, &key),
                                sizeof key, 0, asthra__table_mode(t));
    return asthra__table_header(t)->temp == 1;
}

ASTHRA__FN void asthra__table_create(Asthra__Table *t, Asthra__TableKeys keys) {
    int mode = keys == ASTHRA__TABLE_TEXTS ? ASTHRA__STBDS_SH_STRDUP : ASTHRA__STBDS_SH_NONE;
    asthra__lock(&asthra__table.lock);
    t->entries = asthra__stbds_shmode_func(ASTHRA__TABLE_ENTRY_BYTES, mode);
    asthra__unlock(&asthra__table.lock);
    t->keys = keys;
}

ASTHRA__FN void asthra__table_destroy(Asthra__Table *t) {
    if (t->entries) asthra__stbds_hmfree_func(t->entries - 1, ASTHRA__TABLE_ENTRY_BYTES);
    t->entries = NULL;
}

ASTHRA__FN uint64_t *asthra__table_find(const Asthra__Table *t, uint64_t number) {
    ASTHRA__ASSERT(t->keys == ASTHRA__TABLE_NUMBERS);
    return asthra__table_look(t, (Asthra__TableKey){.number = number});
}

ASTHRA__FN uint64_t *asthra__table_find_text(const Asthra__Table *t, const char *text) {
    ASTHRA__ASSERT(!t->entries || t->keys == ASTHRA__TABLE_TEXTS);
    return asthra__table_look(t, asthra__table_text(text));
}

ASTHRA__FN uint64_t *asthra__table_slot(Asthra__Table *t, uint64_t number) {
    ASTHRA__CHECK(t->keys == ASTHRA__TABLE_NUMBERS);
    return asthra__table_enter(t, (Asthra__TableKey){.number = number});
}

ASTHRA__FN uint64_t *asthra__table_slot_text(Asthra__Table *t, const char *text) {
    ASTHRA__CHECK(t->keys == ASTHRA__TABLE_TEXTS);
    return asthra__table_enter(t, asthra__table_text(text));
}

ASTHRA__FN bool asthra__table_remove(Asthra__Table *t, uint64_t number) {
    ASTHRA__ASSERT(t->keys == ASTHRA__TABLE_NUMBERS);
    return asthra__table_drop(t, (Asthra__TableKey){.number = number});
}

ASTHRA__FN bool asthra__table_remove_text(Asthra__Table *t, const char *text) {
    ASTHRA__ASSERT(!t->entries || t->keys == ASTHRA__TABLE_TEXTS);
    return asthra__table_drop(t, asthra__table_text(text));
}

ASTHRA__FN size_t asthra__table_count(const Asthra__Table *t) {
    return t->entries ? asthra__table_header(t)->length - 1 : 0;
}

ASTHRA__FN const Asthra__TableEntry *asthra__table_at(const Asthra__Table *t, size_t i) {
    ASTHRA__CHECK(i < asthra__table_count(t));
    return &t->entries[i];
}

ASTHRA__FN void asthra__table_after_fork(void) {
    asthra__table.lock = (Asthra__Lock){0};
}

#endif

/* ---- [trace] internal --------------------------------------------- core/trace_internal.h ---- */
/* trace - the marks that the bodies leave.                                 [trace] internal
 *
 * ASTHRA__TRACE(flag, format, ...) writes one debug line when the flag is on. Lines name tasks by
 * id and channels by name, never by address, so that a run with a deterministic seed writes the
 * same bytes each time.
 */

#if ASTHRA_HAS_CORE

/* All that a hot path asks is one word: the debug flags, and above them what modules that trace
 * anyway want to be asked at the same places. */
enum {
    ASTHRA__TRACE_ZONE_LIMIT = 1 << 16,
    ASTHRA__TRACE_ZONE_HOOKS = 1 << 17,
    ASTHRA__TRACE_ZONE_OFF = 1 << 18,  /* some zone is */
    ASTHRA__TRACE_ZONE_PINS = 1 << 19, /* some block of the stack zone is pinned */
    ASTHRA__TRACE_ZONES = ASTHRA__TRACE_ZONE_LIMIT | ASTHRA__TRACE_ZONE_HOOKS |
                          ASTHRA__TRACE_ZONE_OFF | ASTHRA__TRACE_ZONE_PINS |
                          1 << ASTHRA_DEBUG_MEMORY_ALLOCATION
};
ASTHRA__FN uint32_t asthra__trace_word(void); /* one relaxed load */
ASTHRA__FN void asthra__trace_set(uint32_t bit, bool on); /* sequentially consistent */

ASTHRA__FN bool asthra__trace_is_on(AsthraDebugFlag flag); /* one relaxed load */
#define ASTHRA__TRACE(flag, ...) \
    (ASTHRA__UNLIKELY(asthra__trace_is_on(flag)) ? asthra__text_report(__VA_ARGS__) : (void)0)

#endif

/* ---- [trace] body ---------------------------------------------------------- core/trace.c ---- */
/* trace - one word of flags.                                               [trace] body
 *
 * All flags stand in one word, so that a mark whose flag is off costs a relaxed load and a branch.
 * Nothing is published with a flag: a thread that sees it a little later writes a line less.
 */

#if ASTHRA_HAS_CORE

/* Bit n is AsthraDebugFlag n; ASTHRA__TRACE_* stand above. */
static struct { ASTHRA__ATOMIC(uint32_t) word; } asthra__trace;

ASTHRA__FN ASTHRA__FAST uint32_t asthra__trace_word(void) {
    return asthra__load(&asthra__trace.word, relaxed);
}

ASTHRA__FN void asthra__trace_set(uint32_t bit, bool on) {
    if (on)
        asthra__or(&asthra__trace.word, bit, seq_cst);
    else
        asthra__and(&asthra__trace.word, ~bit, seq_cst);
}

ASTHRA__FN bool asthra__trace_is_on(AsthraDebugFlag flag) {
    return asthra__trace_word() >> (unsigned)flag & 1;
}

ASTHRA_RT_API void asthra_set_debug_flag(AsthraDebugFlag flag, bool on) {
    if ((unsigned)flag > ASTHRA_DEBUG_SAFETY_CHECKS) return;
    asthra__trace_set((uint32_t)1 << (unsigned)flag, on);
}

#endif

/* ---- [deque] internal ----------------------------------------- lockfree/deque_internal.h ---- */
/* deque - a work-stealing deque of pointers.                               [deque] internal
 *
 * One owner pushes and pops at the new end; anybody steals at the old one. What is newest is the
 * owner's alone and costs it no atomic instruction; the rest is shared. The owner moves items over
 * when others are hungry; a thief can make it so, which is dear. asthra__sync_setup comes first: a
 * fence may not change its kind while others steal.
 */

#if ASTHRA_HAS_TASK

typedef struct Asthra__DequeArray Asthra__DequeArray;
typedef struct Asthra__Deque {
    ASTHRA__ATOMIC(size_t) head; /* the owner's: where the next one goes */
    Asthra__DequeArray *array;   /* changed by the owner, under the lock */
    size_t tail_seen;            /* the owner's last look at tail: tail is never less */
    ASTHRA__ALIGNED(128) Asthra__Lock lock;
    ASTHRA__ATOMIC(size_t) tail;   /* the oldest; under the lock */
    ASTHRA__ATOMIC(size_t) border; /* where the owner's own begin; changed under the lock */
} Asthra__Deque;
_Static_assert(offsetof(Asthra__Deque, lock) % ASTHRA__CACHE_PAIR == 0, "owner and thieves apart");

ASTHRA__FN bool asthra__deque_init(Asthra__Deque *d); /* false: out of memory */
ASTHRA__FN void asthra__deque_destroy(Asthra__Deque *d);
/* For the owner. Pop waits while a thief holds the lock, if nothing is the owner's alone. */
ASTHRA__FN bool asthra__deque_push(Asthra__Deque *d, void *item);   /* false: out of memory */
ASTHRA__FN void *asthra__deque_pop(Asthra__Deque *d);               /* newest; NULL: empty */
ASTHRA__FN bool asthra__deque_pop_if(Asthra__Deque *d, void *item); /* if among the newest few */
ASTHRA__FN void *asthra__deque_oldest(Asthra__Deque *d);            /* NULL: empty */
ASTHRA__FN void asthra__deque_share(Asthra__Deque *d); /* if nothing is shared: the older half */
/* For others. Oldest; NULL: nothing is shared, or somebody else is at it. */
ASTHRA__FN void *asthra__deque_steal(Asthra__Deque *d);
/* The same, and shares the older half first if nothing is: microseconds, for the owner too. */
ASTHRA__FN void *asthra__deque_wrest(Asthra__Deque *d);
/* For anybody: a guess while others are at work. */
ASTHRA__FN size_t asthra__deque_count(const Asthra__Deque *d);

#endif

/* ---- [deque] body ------------------------------------------------------ lockfree/deque.c ---- */
/* deque - a work-stealing deque of pointers.                               [deque] body
 *
 * Items live at tail .. head - 1, oldest first; index i is in slot i & mask. Below `border` they
 * are shared: whoever holds the lock takes one at tail. From border on they are the owner's alone.
 * A split of this kind is known from Lace (van Dijk and van de Pol, Lace: Non-blocking Split Deque
 * for Work-Stealing, 2014), where only the owner moves the split; here a thief can, so that a task
 * which stays long in one computation does not sit on the work behind it.
 *
 * Invariants
 *   - tail <= border <= head, but for the owner's pop that is under way, which has lowered head,
 *     and between T1 and T2 below, where border may be above it. The owner lowers head to what it
 *     saw to be its own; where border has passed that since, O2 fails and head is put back.
 *   - Only the owner writes head and slots. tail, border and array change under the lock only.
 *   - An item is taken by the owner without the lock only if it is at or above border.
 *
 * The one race: the owner pops its last own item while a thief moves border up. Dekker, with the
 * dear fence on the thief's side (os_internal.h):
 *
 *     O1  head = b                   T1  border = new, under the lock
 *         light fence                    heavy fence
 *     O2  border <= b? it is mine    T2  head < new? then border = head, but not below the old
 *
 * Either O2 sees T1: then the owner puts head back and takes the way through the lock, where border
 * stands still. Or T2 sees O1: then b and what is above it is the owner's again. Between T1 and T2
 * nobody steals, because the thief holds the lock. This protocol is tests/model/deque.pml.
 *
 * Measured on two cores of a virtual machine: a pop with a fence or a lock 4 ns, without 0.5; the
 * heavy fence 11 us beside a running owner. So owners share by themselves while somebody is hungry
 * (asthra__runnable_task), and thieves wrest only what no owner shares for microseconds.
 */

#if ASTHRA_HAS_TASK

struct Asthra__DequeArray {
    size_t mask;
    ASTHRA__ATOMIC(void *) slots[];
};

enum { ASTHRA__DEQUE_FIRST = 256, ASTHRA__DEQUE_DIG = 8 };

static Asthra__DequeArray *asthra__deque_array(size_t slots) {
    Asthra__DequeArray *a = asthra__alloc_zeroed(1, sizeof *a + slots * sizeof a->slots[0]);
    if (a != NULL) a->mask = slots - 1;
    return a;
}

static inline void *asthra__deque_at(const Asthra__Deque *d, size_t index) {
    return asthra__load(&d->array->slots[index & d->array->mask], relaxed);
}

ASTHRA__FN bool asthra__deque_init(Asthra__Deque *d) {
    d->array = asthra__deque_array(ASTHRA__DEQUE_FIRST);
    d->tail_seen = 0;
    asthra__store(&d->head, (size_t)0, relaxed);
    asthra__store(&d->tail, (size_t)0, relaxed);
    asthra__store(&d->border, (size_t)0, relaxed);
    return d->array != NULL;
}

ASTHRA__FN void asthra__deque_destroy(Asthra__Deque *d) {
    asthra__free(d->array);
    d->array = NULL;
}

/* Twice the room, if it is needed. */
ASTHRA__COLD static bool asthra__deque_grow(Asthra__Deque *d, size_t head) {
    Asthra__DequeArray *old = d->array, *a = old;
    asthra__lock(&d->lock);
    d->tail_seen = asthra__load(&d->tail, relaxed);
    bool is_full = head - d->tail_seen > old->mask;
    if (is_full && (a = asthra__deque_array((old->mask + 1) * 2)) != NULL) {
        for (size_t i = d->tail_seen; i != head; i++)
            asthra__store(&a->slots[i & a->mask], asthra__deque_at(d, i), relaxed);
        d->array = a;
    }
    asthra__unlock(&d->lock);
    if (a != NULL && a != old) asthra__free(old);
    return a != NULL;
}

ASTHRA__FN bool asthra__deque_push(Asthra__Deque *d, void *item) {
    size_t h = asthra__load(&d->head, relaxed);
    if (ASTHRA__UNLIKELY(h - d->tail_seen > d->array->mask) && !asthra__deque_grow(d, h)) {
        return false;
    }
    asthra__store(&d->array->slots[h & d->array->mask], item, relaxed);
    asthra__store(&d->head, h + 1, release); /* partner: the acquires of head under the lock */
    return true;
}

/* The newest, with the newer half of what is shared: it is the owner's from here on. */
ASTHRA__NOINLINE static void *asthra__deque_pop_shared(Asthra__Deque *d) {
    size_t h = asthra__load(&d->head, relaxed);
    void *item = NULL;
    if (asthra__load(&d->tail, relaxed) == h) return NULL;
    asthra__lock(&d->lock);
    size_t count = h - asthra__load(&d->tail, relaxed);
    if (count != 0) {
        if (asthra__load(&d->border, relaxed) == h) {
            asthra__store(&d->border, h - (count + 1) / 2, relaxed);
        }
        item = asthra__deque_at(d, h - 1);
        asthra__store(&d->head, h - 1, release);
    }
    asthra__unlock(&d->lock);
    return item;
}

ASTHRA__FN ASTHRA__FAST void *asthra__deque_pop(Asthra__Deque *d) {
    size_t h = asthra__load(&d->head, relaxed);
    if (asthra__load(&d->border, relaxed) < h) {
        asthra__store(&d->head, h - 1, release);
        asthra__os_fence_light(); /* partner: the heavy one in wrest */
        if (ASTHRA__LIKELY(asthra__load(&d->border, relaxed) < h)) {
            return asthra__deque_at(d, h - 1);
        }
        asthra__store(&d->head, h, release);
    }
    return asthra__deque_pop_shared(d);
}

/* Takes index i out of the owner's own; those above it move down. The same race as in pop. */
ASTHRA__NOINLINE static bool asthra__deque_dig(Asthra__Deque *d, size_t i) {
    size_t h = asthra__load(&d->head, relaxed);
    asthra__store(&d->head, i, release);
    asthra__os_fence_light(); /* partner: the heavy one in wrest */
    bool is_own = asthra__load(&d->border, relaxed) <= i;
    for (size_t k = i; is_own && k + 1 < h; k++) {
        asthra__store(&d->array->slots[k & d->array->mask], asthra__deque_at(d, k + 1), relaxed);
    }
    asthra__store(&d->head, is_own ? h - 1 : h, release);
    return is_own;
}

ASTHRA__FN bool asthra__deque_pop_if(Asthra__Deque *d, void *item) {
    size_t h = asthra__load(&d->head, relaxed);
    if (ASTHRA__LIKELY(asthra__deque_at(d, h - 1) == item)) return asthra__deque_pop(d) != NULL;
    size_t border = asthra__load(&d->border, relaxed);
    for (size_t depth = 2; depth <= ASTHRA__DEQUE_DIG && border + depth <= h; depth++) {
        if (asthra__deque_at(d, h - depth) == item) return asthra__deque_dig(d, h - depth);
    }
    return false;
}

/* Takes the oldest. Caller holds the lock. */
static void *asthra__deque_take(Asthra__Deque *d) {
    size_t t = asthra__load(&d->tail, relaxed);
    if (t == asthra__load(&d->border, relaxed)) return NULL;
    asthra__store(&d->tail, t + 1, relaxed);
    return asthra__deque_at(d, t);
}

/* Moves border into the owner's own, half-way up, if nothing is shared. Caller holds the lock. */
static void asthra__deque_raise(Asthra__Deque *d, size_t head) {
    size_t border = asthra__load(&d->border, relaxed);
    if (asthra__load(&d->tail, relaxed) != border || head <= border) return;
    asthra__store(&d->border, border + (head - border + 1) / 2, relaxed);
}

ASTHRA__FN void asthra__deque_share(Asthra__Deque *d) {
    size_t border = asthra__load(&d->border, relaxed);
    if (asthra__load(&d->tail, relaxed) != border) return;
    asthra__lock(&d->lock);
    asthra__deque_raise(d, asthra__load(&d->head, relaxed));
    asthra__unlock(&d->lock);
}

ASTHRA__FN void *asthra__deque_oldest(Asthra__Deque *d) {
    if (asthra__deque_count(d) == 0) return NULL;
    asthra__lock(&d->lock);
    asthra__deque_raise(d, asthra__load(&d->head, relaxed));
    void *item = asthra__deque_take(d);
    asthra__unlock(&d->lock);
    return item;
}

ASTHRA__FN void *asthra__deque_steal(Asthra__Deque *d) {
    size_t t = asthra__load(&d->tail, relaxed);
    if (t == asthra__load(&d->border, relaxed) || !asthra__lock_try(&d->lock)) return NULL;
    void *item = asthra__deque_take(d);
    asthra__unlock(&d->lock);
    return item;
}

ASTHRA__FN void *asthra__deque_wrest(Asthra__Deque *d) {
    if (asthra__deque_count(d) == 0 || !asthra__lock_try(&d->lock)) return NULL;
    size_t before = asthra__load(&d->border, relaxed);
    asthra__deque_raise(d, asthra__load(&d->head, acquire)); /* partner: the release in push */
    size_t after = asthra__load(&d->border, relaxed);
    if (after != before) {
        asthra__os_fence_heavy(); /* partner: the light one in pop */
        size_t h = asthra__load(&d->head, acquire);
        if (h < after) asthra__store(&d->border, h > before ? h : before, relaxed);
    }
    void *item = asthra__deque_take(d);
    asthra__unlock(&d->lock);
    return item;
}

ASTHRA__FN size_t asthra__deque_count(const Asthra__Deque *d) {
    size_t h = asthra__load(&d->head, acquire);
    size_t t = asthra__load(&d->tail, relaxed);
    return (ptrdiff_t)(h - t) > 0 ? h - t : 0;
}

#endif

/* ---- [region] internal ----------------------------------------- memory/region_internal.h ---- */
/* region - whose a piece of address space is.                              [region] internal
 *
 * Zones take address space in units of 4 MiB, aligned to as much. A table of two levels tells for
 * any address, without a lock, what has its unit: an entry is the address of a record that its
 * claimer keeps, at least until the unit is claimed again, and the record's kind in the low bits.
 */

#if ASTHRA_HAS_MEMORY

enum { ASTHRA__REGION_BYTES = 1 << 22, ASTHRA__REGION_KINDS = 8 };

typedef enum Asthra__RegionKind {
    ASTHRA__REGION_NONE,    /* of nobody */
    ASTHRA__REGION_SEGMENT, /* heap's: cut into pages; the record is the unit's own head */
    ASTHRA__REGION_HUGE,    /* heap's: one block */
    ASTHRA__REGION_GUARD    /* heap's: blocks that end where a closed page begins */
} Asthra__RegionKind;

/* A record's address (aligned to ASTHRA__REGION_KINDS) + its kind; 0: of nobody. */
ASTHRA__FN uintptr_t asthra__region_entry(const void *address);

/* `start` is aligned to a unit; bytes are rounded up to units. false: no memory for the table, or
 * addresses beyond it; then nothing is claimed. */
ASTHRA__FN bool asthra__region_claim(void *start, size_t bytes, const void *record,
                                     Asthra__RegionKind kind);
/* Only entries that still say so. */
ASTHRA__FN void asthra__region_drop(void *start, size_t bytes, const void *record,
                                    Asthra__RegionKind kind);

#endif

/* ---- [region] body ------------------------------------------------------ memory/region.c ---- */
/* region - whose a piece of address space is.                              [region] body
 *
 * A leaf of the table (8,192 entries, 32 GiB of addresses) is mapped when the first unit in it is
 * claimed, and stays; the root, 64 KiB on 64-bit systems, is static and costs the pages of it that
 * are touched. Addresses beyond the table belong to nobody.
 *
 * An entry is written, with release, before its units are handed out; readers acquire it. Whoever
 * asks about an address while its unit changes hands gets either answer, and the record behind
 * either is readable, because records are never unmapped. An entry may outlive its mapping, so that
 * a second free can be told from a wild one; the next claimer of the unit overwrites it. Two
 * threads may find at once that a leaf is missing: one publishes, the other gives its own back.
 */

#if ASTHRA_HAS_MEMORY

enum {
    ASTHRA__REGION_SHIFT = 22,
#if UINTPTR_MAX > 0xffffffffu
    ASTHRA__REGION_LEAF_BITS = 13,
    ASTHRA__REGION_ROOT_BITS = 13, /* 48 bits of address */
#else
    ASTHRA__REGION_LEAF_BITS = 10,
    ASTHRA__REGION_ROOT_BITS = 0,
#endif
    ASTHRA__REGION_LEAF = 1 << ASTHRA__REGION_LEAF_BITS
};

typedef ASTHRA__ATOMIC(uintptr_t) Asthra__RegionEntry;

static struct {
    ASTHRA__ATOMIC(Asthra__RegionEntry *) root[1 << ASTHRA__REGION_ROOT_BITS];
} asthra__region;

/* Where the entry of a unit is; NULL: there is none. */
static ASTHRA__FAST Asthra__RegionEntry *asthra__region_place(uintptr_t unit) {
    uintptr_t branch = unit >> ASTHRA__REGION_LEAF_BITS;
    if (ASTHRA__UNLIKELY(branch >> ASTHRA__REGION_ROOT_BITS)) return NULL;
    Asthra__RegionEntry *leaf = asthra__load(&asthra__region.root[branch], acquire);
    return ASTHRA__UNLIKELY(leaf == NULL) ? NULL : &leaf[unit & (ASTHRA__REGION_LEAF - 1)];
}

ASTHRA__FN ASTHRA__FAST uintptr_t asthra__region_entry(const void *address) {
    Asthra__RegionEntry *at = asthra__region_place((uintptr_t)address >> ASTHRA__REGION_SHIFT);
    return ASTHRA__UNLIKELY(at == NULL) ? 0 : asthra__load(at, acquire);
}

/* Makes the leaf if need be. NULL: no memory, or an address beyond the table. */
static Asthra__RegionEntry *asthra__region_place_made(uintptr_t unit) {
    Asthra__RegionEntry *at = asthra__region_place(unit), *none = NULL;
    uintptr_t branch = unit >> ASTHRA__REGION_LEAF_BITS;
    if (at != NULL || branch >> ASTHRA__REGION_ROOT_BITS) return at;
    size_t bytes = sizeof(Asthra__RegionEntry) * ASTHRA__REGION_LEAF;
    Asthra__RegionEntry *leaf = asthra__os_map(bytes);
    if (leaf == NULL) return NULL;
    if (!asthra__cas(&asthra__region.root[branch], &none, leaf, acq_rel))
        asthra__os_unmap(leaf, bytes);
    return asthra__region_place(unit);
}

static size_t asthra__region_units(size_t bytes) {
    return bytes / ASTHRA__REGION_BYTES + (bytes % ASTHRA__REGION_BYTES != 0);
}

ASTHRA__FN void asthra__region_drop(void *start, size_t bytes, const void *record,
                                    Asthra__RegionKind kind) {
    uintptr_t unit = (uintptr_t)start >> ASTHRA__REGION_SHIFT;
    for (size_t n = asthra__region_units(bytes); n-- > 0;) {
        uintptr_t entry = (uintptr_t)record + (uintptr_t)kind;
        (void)asthra__cas(asthra__region_place(unit + n), &entry, (uintptr_t)0, release);
    }
}

ASTHRA__FN bool asthra__region_claim(void *start, size_t bytes, const void *record,
                                     Asthra__RegionKind kind) {
    uintptr_t unit = (uintptr_t)start >> ASTHRA__REGION_SHIFT;
    size_t units = asthra__region_units(bytes);
    for (size_t i = 0; i < units; i++) {
        Asthra__RegionEntry *at = asthra__region_place_made(unit + i);
        if (at == NULL) {
            asthra__region_drop(start, i * ASTHRA__REGION_BYTES, record, kind);
            return false;
        }
        asthra__store(at, (uintptr_t)record + (uintptr_t)kind, release);
    }
    return true;
}

#endif

/* ---- [zone] internal --------------------------------------------- memory/zone_internal.h ---- */
/* zone - accounts, the limit and the hooks that all zones share.           [zone] internal
 *
 * An account counts what one thread (or heap, or stack) allocated and freed in one zone. Only its
 * owner writes it, anybody reads it; sums over all accounts of a zone are exact when the zone is at
 * rest. Each 64 KiB the owner adds what is new to the zone's own count, which keeps the peak.
 */

#if ASTHRA_HAS_MEMORY

enum { ASTHRA__ZONES = 4, ASTHRA__ACCOUNT_STEP = 65536 };

typedef struct Asthra__Account {
    /* What is left of a step, so that counting and the question whether to tell are one
     * subtraction: total = total_due - alloc_left, freed = freed_due - free_left. */
    ASTHRA__ATOMIC(ptrdiff_t) alloc_left, free_left;
    ASTHRA__ATOMIC(size_t) count, failures; /* allocations, refusals */
    ASTHRA__ATOMIC(size_t) total_due, freed_due;
    size_t told; /* total - freed, when the zone was told last */
} Asthra__Account;

ASTHRA__FN void asthra__account_tell(Asthra__Account *a, AsthraMemoryZone zone);

/* Only the owner counts, so a load and a store are enough. false: nothing was counted, the zone is
 * to be told first; the other two do that themselves. */
static inline bool asthra__account_try_alloc(Asthra__Account *a, size_t size) {
    ptrdiff_t left = asthra__load(&a->alloc_left, relaxed) - (ptrdiff_t)size;
    if (ASTHRA__UNLIKELY(left < 0)) return false;
    asthra__store(&a->alloc_left, left, relaxed);
    asthra__store(&a->count, asthra__load(&a->count, relaxed) + 1, relaxed);
    return true;
}
/* Counts a free; below 0: the zone is to be told. */
static inline ptrdiff_t asthra__account_free_quick(Asthra__Account *a, size_t size) {
    ptrdiff_t left = asthra__load(&a->free_left, relaxed) - (ptrdiff_t)size;
    asthra__store(&a->free_left, left, relaxed);
    return left;
}
ASTHRA__FN void asthra__account_alloc(Asthra__Account *a, size_t size, AsthraMemoryZone zone);
ASTHRA__FN void asthra__account_free(Asthra__Account *a, size_t size, AsthraMemoryZone zone);
/* A live block has another size now. */
ASTHRA__FN void asthra__account_resize(Asthra__Account *a, size_t before, size_t after,
                                       AsthraMemoryZone zone);
ASTHRA__FN void asthra__account_fail(Asthra__Account *a);

/* What a zone adds up: *sum grows by the account. */
typedef struct Asthra__AccountSum {
    size_t total, freed, count, failures;
} Asthra__AccountSum;
ASTHRA__FN void asthra__account_sum(const Asthra__Account *a, Asthra__AccountSum *sum);

/* The most that was ever in use, at least `current`; ASTHRA_MEMORY_ZONE_NONE: of all zones. */
ASTHRA__FN size_t asthra__zone_peak(AsthraMemoryZone zone, size_t current);

/* True while a limit, a hook or the debug line wants to know of each allocation and each free: then
 * a zone does the four calls below, else none of them. One load. */
static inline bool asthra__zone_is_watched(void) {
    return (asthra__trace_word() & ASTHRA__TRACE_ZONES) != 0;
}
/* Before an allocation: may the zones hold `size` more? Asks the limit's hook. false: no, and
 * asthra_last_error says why; with the policy to panic it panics. */
ASTHRA__FN bool asthra__zone_admit(size_t size, AsthraMemoryZone zone);
ASTHRA__FN void asthra__zone_release(size_t size); /* after a free, or for what was not got */
ASTHRA__FN void asthra__zone_tell_alloc(void *ptr, size_t size, AsthraMemoryZone zone);
ASTHRA__FN void asthra__zone_tell_free(void *ptr, AsthraMemoryZone zone);

/* What is switched off refuses every allocation and names its field of the configuration. */
ASTHRA__FN void asthra__zone_switch(AsthraMemoryZone zone, bool on);

/* max_bytes 0: no limit; `live` is what the zones hold already. */
typedef struct Asthra__ZoneLimit {
    size_t max_bytes, live;
    AsthraHeapLimitPolicy policy;
    AsthraHeapLimitHook hook;
    void *hook_user;
} Asthra__ZoneLimit;
ASTHRA__FN void asthra__zone_set_limit(const Asthra__ZoneLimit *limit);

/* Called by the heap around a fork: every watched allocation takes the lock of the hooks. */
ASTHRA__FN void asthra__zone_fork_before(void);
ASTHRA__FN void asthra__zone_fork_after(void);

#endif

/* ---- [zone] body ---------------------------------------------------------- memory/zone.c ---- */
/* zone - accounts, the limit and the hooks that all zones share.           [zone] body
 *
 * Nothing here is on the path of an allocation that nobody watches. A limit is one counter that
 * each watched allocation raises before it takes memory, so that it is never passed, not even for
 * a moment; the counter is set when the limit is, from the accounts. Its settings are plain data: a
 * limit comes and goes with the runtime's start and stop, while nobody allocates; where there is
 * none before and after, others may. Hooks may change at any time, so they are copied under a lock
 * and called outside it.
 */

#if ASTHRA_HAS_MEMORY

enum { ASTHRA__ZONE_ALL = ASTHRA__ZONES };

static struct {
    ASTHRA__ATOMIC(size_t) live[ASTHRA__ZONES + 1], peak[ASTHRA__ZONES + 1]; /* as told */
    ASTHRA__ATOMIC(size_t) limited; /* bytes in use, kept while there is a limit */
    ASTHRA__ATOMIC(size_t) max;     /* of limit; 0: there is none, and nobody looks at it */
    Asthra__ZoneLimit limit;
    ASTHRA__ATOMIC(uint32_t) off; /* bit n: zone n is switched off */
    Asthra__Lock lock;            /* of hooks */
    AsthraMemoryHooks hooks;
} asthra__zone;

static void asthra__zone_live_add(size_t index, size_t more) {
    size_t live = asthra__add(&asthra__zone.live[index], more, relaxed) + more;
    size_t peak = asthra__load(&asthra__zone.peak[index], relaxed);
    if ((ptrdiff_t)live < 0) return; /* freed here before it was told there */
    while (live > peak && !asthra__cas(&asthra__zone.peak[index], &peak, live, relaxed)) continue;
}

static size_t asthra__account_total(const Asthra__Account *a) {
    return asthra__load(&a->total_due, relaxed) - (size_t)asthra__load(&a->alloc_left, relaxed);
}
static size_t asthra__account_freed(const Asthra__Account *a) {
    return asthra__load(&a->freed_due, relaxed) - (size_t)asthra__load(&a->free_left, relaxed);
}

ASTHRA__COLD ASTHRA__FN void asthra__account_tell(Asthra__Account *a, AsthraMemoryZone zone) {
    size_t total = asthra__account_total(a), freed = asthra__account_freed(a);
    size_t more = total - freed - a->told;
    a->told += more;
    asthra__store(&a->total_due, total + ASTHRA__ACCOUNT_STEP, relaxed);
    asthra__store(&a->alloc_left, (ptrdiff_t)ASTHRA__ACCOUNT_STEP, relaxed);
    asthra__store(&a->freed_due, freed + ASTHRA__ACCOUNT_STEP, relaxed);
    asthra__store(&a->free_left, (ptrdiff_t)ASTHRA__ACCOUNT_STEP, relaxed);
    asthra__zone_live_add((size_t)zone, more);
    asthra__zone_live_add(ASTHRA__ZONE_ALL, more);
}

/* Takes from what is left, below nothing too: then the zone is told. */
static void asthra__account_take(ASTHRA__ATOMIC(ptrdiff_t) * left, Asthra__Account *a, size_t size,
                                 AsthraMemoryZone zone) {
    ptrdiff_t rest = asthra__load(left, relaxed) - (ptrdiff_t)size;
    asthra__store(left, rest, relaxed);
    if (rest < 0) asthra__account_tell(a, zone);
}

ASTHRA__FN void asthra__account_alloc(Asthra__Account *a, size_t size, AsthraMemoryZone zone) {
    asthra__add(&a->count, 1, relaxed);
    asthra__account_take(&a->alloc_left, a, size, zone);
}

ASTHRA__FN void asthra__account_free(Asthra__Account *a, size_t size, AsthraMemoryZone zone) {
    asthra__account_take(&a->free_left, a, size, zone);
}

ASTHRA__FN void asthra__account_resize(Asthra__Account *a, size_t before, size_t after,
                                       AsthraMemoryZone zone) {
    asthra__account_take(&a->free_left, a, before, zone);
    asthra__account_take(&a->alloc_left, a, after, zone);
}

ASTHRA__COLD ASTHRA__FN void asthra__account_fail(Asthra__Account *a) {
    asthra__add(&a->failures, 1, relaxed);
}

ASTHRA__FN void asthra__account_sum(const Asthra__Account *a, Asthra__AccountSum *sum) {
    sum->total += asthra__account_total(a);
    sum->freed += asthra__account_freed(a);
    sum->count += asthra__load(&a->count, relaxed);
    sum->failures += asthra__load(&a->failures, relaxed);
}

ASTHRA__FN size_t asthra__zone_peak(AsthraMemoryZone zone, size_t current) {
    size_t index = zone == ASTHRA_MEMORY_ZONE_NONE ? ASTHRA__ZONE_ALL : (size_t)zone;
    size_t peak = asthra__load(&asthra__zone.peak[index], relaxed);
    return peak > current ? peak : current;
}

ASTHRA_RT_API const char *asthra_memory_zone_to_string(AsthraMemoryZone zone) {
    static const char *const names[] = {"NONE", "GC", "MANUAL", "PINNED", "STACK"};
    size_t index = (size_t)((int)zone + 1);
    return index < sizeof names / sizeof *names ? names[index] : "NONE";
}

ASTHRA__FN void asthra__zone_set_limit(const Asthra__ZoneLimit *limit) {
    asthra__store(&asthra__zone.max, (size_t)0, relaxed);
    asthra__zone.limit = *limit;
    asthra__store(&asthra__zone.limited, limit->live, relaxed);
    asthra__store(&asthra__zone.max, limit->max_bytes, release);
    asthra__trace_set(ASTHRA__TRACE_ZONE_LIMIT, limit->max_bytes != 0);
}

static bool asthra__zone_take(size_t size) {
    size_t max = asthra__load(&asthra__zone.max, acquire);
    size_t used = asthra__load(&asthra__zone.limited, relaxed);
    if (max == 0) return true;
    do {
        if (size > max || used > max - size) return false;
    } while (!asthra__cas(&asthra__zone.limited, &used, used + size, relaxed));
    return true;
}

/* Whether the policy lets the allocation try again. */
static bool asthra__zone_over_limit(size_t size, AsthraMemoryZone zone) {
    const Asthra__ZoneLimit *l = &asthra__zone.limit;
    size_t used = asthra__load(&asthra__zone.limited, relaxed);
    if (l->policy == ASTHRA_HEAP_LIMIT_HOOK && l->hook != NULL && l->hook(size, zone, l->hook_user))
        return true;
    if (l->policy == ASTHRA_HEAP_LIMIT_PANIC)
        asthra_panic_at(NULL,
                        "Heap limit: %zu bytes of zone %s asked for, %zu of max_heap_size %zu in "
                        "use; free some, or raise it",
                        size, asthra_memory_zone_to_string(zone), used, l->max_bytes);
    asthra__error_set(ASTHRA_LIMIT,
                      "max_heap_size is %zu bytes, %zu are in use, %zu more were asked for",
                      l->max_bytes, used, size);
    return false;
}

ASTHRA__FN void asthra__zone_switch(AsthraMemoryZone zone, bool on) {
    uint32_t bit = (uint32_t)1 << (unsigned)zone;
    if (on)
        asthra__and(&asthra__zone.off, ~bit, relaxed);
    else
        asthra__or(&asthra__zone.off, bit, relaxed);
    asthra__trace_set(ASTHRA__TRACE_ZONE_OFF, asthra__load(&asthra__zone.off, relaxed) != 0);
}

static bool asthra__zone_is_off(AsthraMemoryZone zone) {
    if ((asthra__load(&asthra__zone.off, relaxed) >> (unsigned)zone & 1) == 0) return false;
    asthra__error_set(ASTHRA_INVALID, "enable_%s_memory is false in the runtime's configuration",
                      zone == ASTHRA_MEMORY_ZONE_PINNED ? "pinned" : "manual");
    return true;
}

ASTHRA__FN bool asthra__zone_admit(size_t size, AsthraMemoryZone zone) {
    if (asthra__zone_is_off(zone)) return false;
    while (!asthra__zone_take(size))
        if (!asthra__zone_over_limit(size, zone)) return false;
    return true;
}

ASTHRA__FN void asthra__zone_release(size_t size) {
    if (asthra__load(&asthra__zone.max, relaxed) != 0)
        asthra__sub(&asthra__zone.limited, size, relaxed);
}

static AsthraMemoryHooks asthra__zone_hooks(void) {
    asthra__lock(&asthra__zone.lock);
    AsthraMemoryHooks hooks = asthra__zone.hooks;
    asthra__unlock(&asthra__zone.lock);
    return hooks;
}

/* A hook that allocates is not told of that: it would never end. */
static bool asthra__zone_enter_hook(void) {
    Asthra__Thread *t = asthra__thread();
    bool is_free = !t->is_in_memory_hook;
    t->is_in_memory_hook = true;
    return is_free;
}

ASTHRA__FN void asthra__zone_tell_alloc(void *ptr, size_t size, AsthraMemoryZone zone) {
    ASTHRA__TRACE(ASTHRA_DEBUG_MEMORY_ALLOCATION, "ALLOC: %p (%zu bytes) in zone %s", ptr, size,
                  asthra_memory_zone_to_string(zone));
    AsthraMemoryHooks hooks = asthra__zone_hooks();
    if (hooks.on_alloc == NULL || !asthra__zone_enter_hook()) return;
    hooks.on_alloc(ptr, size, zone, hooks.user);
    asthra__thread()->is_in_memory_hook = false;
}

ASTHRA__FN void asthra__zone_tell_free(void *ptr, AsthraMemoryZone zone) {
    ASTHRA__TRACE(ASTHRA_DEBUG_MEMORY_ALLOCATION, "FREE: %p in zone %s", ptr,
                  asthra_memory_zone_to_string(zone));
    AsthraMemoryHooks hooks = asthra__zone_hooks();
    if (hooks.on_free == NULL || !asthra__zone_enter_hook()) return;
    hooks.on_free(ptr, zone, hooks.user);
    asthra__thread()->is_in_memory_hook = false;
}

ASTHRA__FN void asthra__zone_fork_before(void) {
    asthra__lock(&asthra__zone.lock);
}
ASTHRA__FN void asthra__zone_fork_after(void) {
    asthra__unlock(&asthra__zone.lock);
}

ASTHRA_RT_API void asthra_memory_set_hooks(const AsthraMemoryHooks *hooks) {
    static const AsthraMemoryHooks none;
    if (hooks == NULL) hooks = &none;
    asthra__lock(&asthra__zone.lock);
    asthra__zone.hooks = *hooks;
    asthra__unlock(&asthra__zone.lock);
    asthra__trace_set(ASTHRA__TRACE_ZONE_HOOKS, hooks->on_alloc != NULL || hooks->on_free != NULL);
}

#endif

/* ---- [heap] internal --------------------------------------------- memory/heap_internal.h ---- */
/* heap - blocks of the manual, the pinned and the stack zone.              [heap] internal
 *
 * One allocator serves the zones that give out blocks: each thread has a heap for each zone that it
 * uses, and a block comes from, and is told apart by, the zone of its page. Zones are the faces
 * that users see. heap.c holds the essay.
 *
 * `site` is the return address of the public function: who allocated, who freed.
 */

typedef struct Asthra__HeapRunner {       /* hooks: of what runs on the calling thread */
    uint64_t (*task)(void);               /* its id; 0: no task */
    char *(*stack_end)(const char *here); /* of the stack that has `here`; NULL: not known */
} Asthra__HeapRunner;

#if ASTHRA_HAS_MEMORY

/* ---- what zones call. NULL: the reason is in asthra_last_error. `verb` is for panics. ---- */

ASTHRA__FN ASTHRA__NOINLINE void *asthra__heap_alloc(size_t size, AsthraMemoryZone zone,
                                                     const void *site);
ASTHRA__FN void *asthra__heap_alloc_zeroed(size_t count, size_t size, AsthraMemoryZone zone,
                                           const void *site);
ASTHRA__FN void *asthra__heap_alloc_aligned(size_t size, size_t alignment, AsthraMemoryZone zone,
                                            const void *site);
/* NULL allocates; size 0 is a block of no bytes. The old block stays as it was on failure. */
ASTHRA__FN void *asthra__heap_realloc(void *ptr, size_t size, AsthraMemoryZone zone,
                                      const void *site, const char *verb);
/* Panics unless ptr is NULL or the start of a live block of the zone. */
ASTHRA__FN ASTHRA__NOINLINE void asthra__heap_free(void *ptr, AsthraMemoryZone zone,
                                                   const void *site, const char *verb);
/* The same two, part of their callers, under the rule of asthra__thread_raw. */
ASTHRA__FN void *asthra__heap_alloc_here(size_t size, AsthraMemoryZone zone, const void *site);
ASTHRA__FN void asthra__heap_free_here(void *ptr, AsthraMemoryZone zone, const void *site,
                                       const char *verb);
ASTHRA__FN size_t asthra__heap_usable_size(const void *ptr, AsthraMemoryZone zone,
                                           const char *verb);

/* O(1), for any address; NONE: outside the heap. */
ASTHRA__FN AsthraMemoryZone asthra__heap_zone_of(const void *ptr);
/* Which of UNMAPPED, STACK, STATIC and FOREIGN an address outside the heap is; for messages. */
ASTHRA__FN AsthraAddressKind asthra__heap_outside(const void *ptr);
/* A hook: whether an address is on a stack that the system does not know as one. */
ASTHRA__FN void asthra__heap_set_stack_test(bool (*is_stack)(const void *ptr));

/* Live blocks of a zone, each once if the zone is at rest; false stops. */
ASTHRA__FN void asthra__heap_walk(AsthraMemoryZone zone,
                                  bool (*visit)(void *block, size_t size, void *user), void *user);
ASTHRA__FN void asthra__heap_sum(AsthraMemoryZone zone, Asthra__AccountSum *sum);
/* Bytes; NONE: of all zones, with what is free. */
ASTHRA__FN size_t asthra__heap_mapped(AsthraMemoryZone zone, size_t *resident);
ASTHRA__FN size_t asthra__heap_trim(void); /* bytes given back to the system */

/* Of blocks from now on; other threads follow at their next slow call. */
ASTHRA__FN void asthra__heap_set_level(AsthraSafetyLevel level);
ASTHRA__FN void asthra__heap_settle_level(void); /* the calling thread's heaps follow now */

/* While a page holds a pinned block its frees ask `is_pinned` of the pinned zone first. `more`: 1
 * or -1. An address outside the heap is ignored. */
ASTHRA__FN void asthra__heap_count_pin(const void *ptr, int more);
ASTHRA__FN void asthra__heap_set_pin_test(bool (*is_pinned)(const void *start, size_t size));

/* ---- what a sanitizer is told ---- */

/* Looks at records while others may be changing them, and believes nothing that it could not read
 * in a segment: what it says of a block at rest is right. */
#if ASTHRA__TSAN
#define ASTHRA__HEAP_PEEK __attribute__((__noinline__, __no_sanitize__("thread")))
#else
#define ASTHRA__HEAP_PEEK
#endif

#if ASTHRA__ASAN
void __asan_poison_memory_region(void const volatile *addr, size_t size);
void __asan_unpoison_memory_region(void const volatile *addr, size_t size);
#define asthra__heap_hide(start, bytes) __asan_poison_memory_region((start), (bytes))
#define asthra__heap_show(start, bytes) __asan_unpoison_memory_region((start), (bytes))
#else
#define asthra__heap_hide(start, bytes) ((void)(start), (void)(bytes))
#define asthra__heap_show(start, bytes) ((void)(start), (void)(bytes))
#endif

/* Of words in blocks that are ours. */
#if ASTHRA__ASAN
#define ASTHRA__HEAP_OWN ASTHRA__ASAN_BLIND
#elif ASTHRA__TSAN
#define ASTHRA__HEAP_OWN ASTHRA__HEAP_PEEK
#else
#define ASTHRA__HEAP_OWN ASTHRA__FAST
#endif

/* ---- what the files of the heap share ---- */

enum {
    ASTHRA__SLICE_SHIFT = 16,
    ASTHRA__SLICE_BYTES = 1 << ASTHRA__SLICE_SHIFT,
    ASTHRA__SEGMENT_SLICES = ASTHRA__REGION_BYTES / ASTHRA__SLICE_BYTES,
    ASTHRA__MEDIUM_SLICES = 8, /* of a page for blocks of over 8 KiB */
    ASTHRA__SMALL_MAX = 8192,
    ASTHRA__MEDIUM_MAX = 65536,  /* larger blocks have pages of their own */
    ASTHRA__LARGE_MAX = 1 << 21, /* larger ones have mappings of their own */
    ASTHRA__HEAP_BINS = 80
};

typedef struct Asthra__Heap Asthra__Heap;
typedef struct Asthra__HeapPage Asthra__HeapPage;

typedef struct Asthra__HeapBlock Asthra__HeapBlock;
struct Asthra__HeapBlock { /* a free one */
    uintptr_t link;        /* to the next */
};

/* A page record: the first line is what an allocation and a free look at. */
struct Asthra__HeapPage {
    ASTHRA__ATOMIC(Asthra__Heap *) quick; /* the heap whose thread may free without asking */
    Asthra__HeapBlock *free;
    char *start;                /* of the first block */
    uint64_t inverse;           /* 2^64 / block_size, rounded up: what asthra__begins_block wants */
    uint32_t block_size, bytes; /* bytes: of all blocks */
    uint32_t used;              /* blocks neither in `free` nor gone, as the owner knows */
    uint16_t made, room;        /* blocks that were ever in `free`; that fit */
    uint8_t slices;             /* 0: the slice is in no page */
    uint8_t level, bin;
    bool is_listed; /* in its heap's bin */

    ASTHRA__ALIGNED(64) Asthra__Heap *heap; /* the owner; NULL: a single block, nobody's */
    Asthra__HeapPage *next, *prev;          /* in the bin: a ring */
    ASTHRA__ATOMIC_64(uint64_t) hollow;     /* a bit for each unit whose memory is gone */
    ASTHRA__ATOMIC(uint32_t) pins;
    uint16_t gone, swept; /* blocks in hollow units; `used` when it was looked for such units */
    int8_t zone;
    bool is_zero; /* its memory was zero when the page was made */
};

typedef struct Asthra__HeapCache { /* free blocks of one class, at hand */
    Asthra__HeapBlock *free;
    uint32_t size;
    int32_t left; /* frees, less allocations, until it is full */
} Asthra__HeapCache;

struct Asthra__Heap {
    Asthra__HeapCache caches[ASTHRA__HEAP_BINS];
    Asthra__HeapPage *bins[ASTHRA__HEAP_BINS]; /* rings of pages with room; NULL: none */
    Asthra__HeapPage *sweep;                   /* in sweep_bin: the next to be looked at, or NULL */
    Asthra__Account account;
    struct Asthra__Full *full; /* the full level's; NULL: none yet */
    AsthraMemoryZone zone;
    uint32_t quick_below; /* sizes that a quick path may serve */
    uint32_t extra;       /* bytes of a block that are ours */
    uint8_t level, sweep_bin;
    uint16_t number;
    uint64_t tag;                       /* of the trailer of what is freed here: all but the site */
    ASTHRA__ATOMIC_64(uint64_t) thread; /* that it serves now, or served last */
    Asthra__Heap *next;                 /* of all heaps; never taken out */
    Asthra__Heap *next_idle;            /* of those whose thread has ended */
    ASTHRA__ALIGNED(ASTHRA__CACHE_PAIR) ASTHRA__ATOMIC(Asthra__HeapBlock *) remote;
};

/* ---- trailers ----
 *
 * At the checked level and above, the last eight bytes of a block are not the user's: they say
 * whether the block is live. Their first byte in memory tells the kind; what writes past the end of
 * a block hardly ever leaves one of these four there.
 *
 * LIVE   bits 8..39: how many bytes were not asked for, with the trailer; 40..63: the mark
 * FREED  bits 8..15: the number of the heap that it was freed to, 0: above 255; 16..63: the site
 * FAR    the same, by a thread that does not own the block, and the owner has not seen it yet
 * NEVER  nothing else: it was not handed out yet */
enum {
    ASTHRA__TRAILER_BYTES = 8,
    ASTHRA__TRAILER_LIVE = 0xe7,
    ASTHRA__TRAILER_FREED = 0xdf,
    ASTHRA__TRAILER_FAR = 0xf5,
    ASTHRA__TRAILER_NEVER = 0xd1
};
#define ASTHRA__TRAILER_MARK (UINT64_C(0xa57a9c) << 40 | ASTHRA__TRAILER_LIVE)

static inline const void *asthra__trailer_site(uint64_t trailer) {
    return (const void *)(uintptr_t)(trailer >> 16);
}
static inline unsigned asthra__trailer_number(uint64_t trailer) {
    return (unsigned)(trailer >> 8) & 255;
}
static inline uint64_t asthra__trailer_tag(unsigned number) {
    return (uint64_t)(number < 256 ? number : 0) << 8 | ASTHRA__TRAILER_FREED;
}
/* More than any capacity: it is not of a live block. */
static inline uint64_t asthra__trailer_slack(uint64_t trailer) {
    uint64_t rest = trailer - ASTHRA__TRAILER_MARK;
    return rest >> 8 | rest << 56;
}

/* heap_block.c: links, trailers and marks, and what a block's page says of it. */
ASTHRA__FN uintptr_t asthra__block_link(const Asthra__HeapBlock *b);
ASTHRA__FN void asthra__block_set_next(Asthra__HeapBlock *b, Asthra__HeapBlock *next);
/* The next free block; panics if a user has written over the link. */
ASTHRA__FN Asthra__HeapBlock *asthra__block_next(const Asthra__HeapBlock *b);
ASTHRA__FN void
asthra__block_make(const Asthra__HeapPage *p, char *block, Asthra__HeapBlock *next,
                   uint64_t trailer); /* a free one; the level may have no trailer */
ASTHRA__FN uint64_t asthra__trailer_get(const char *block, size_t capacity);
ASTHRA__FN void asthra__trailer_set(char *block, size_t capacity, uint64_t trailer);
ASTHRA__FN bool asthra__trailer_replace(char *block, size_t capacity, uint64_t before,
                                        uint64_t after);
/* The first byte that was not asked for; if nothing is left but the trailer, the trailer's kind. */
ASTHRA__FN void asthra__tail_mark(char *place);
ASTHRA__FN bool asthra__tail_is_whole(const char *place);
ASTHRA__FN void asthra__block_mark_live(char *block, size_t capacity, size_t size);
/* How many bytes the user did not ask for of the live block that begins here; more than the
 * capacity: there is none, or something wrote past its end. */
ASTHRA__FN uint64_t asthra__block_slack(const Asthra__HeapPage *p, const char *block);
ASTHRA__FN uint64_t asthra__freed_by(const Asthra__Heap *h, const void *site); /* a trailer */
ASTHRA__FN Asthra__HeapPage *asthra__page_of(const void *block);
/* Of any address: whether a block of the page begins there. */
ASTHRA__FN bool asthra__begins_block(const Asthra__HeapPage *p, const void *ptr);
/* Whether the address is in a page whose blocks the heap may free without asking. *p is NULL if it
 * is in no page. */
ASTHRA__FN bool asthra__page_is_quick(const Asthra__Heap *h, const void *ptr, Asthra__HeapPage **p);

/* In the place of an owner: no heap is here. */
static inline Asthra__Heap *asthra__not_quick(void) {
    return (Asthra__Heap *)(uintptr_t)1;
}

/* heap_segment.c: address space, cut into slices. */
typedef struct Asthra__Span { /* slices of one segment */
    Asthra__HeapPage *page;   /* the record of the first; NULL: no memory */
    char *start;
    bool is_zero;
} Asthra__Span;
ASTHRA__FN Asthra__Span asthra__segment_take(unsigned slices);
ASTHRA__FN void asthra__segment_give(Asthra__HeapPage *page); /* what the record says stays */
/* The page that has an address of the segment now, or had it last. */
ASTHRA__FN Asthra__HeapPage *asthra__segment_page(uintptr_t segment, const void *ptr);
ASTHRA__FN void asthra__segment_each(bool (*visit)(Asthra__HeapPage *page, void *user), void *user);
ASTHRA__FN size_t asthra__segment_mapped(size_t *resident); /* of all; *resident grows */
ASTHRA__FN size_t asthra__segment_trim(void);
ASTHRA__FN size_t
asthra__segment_given(void); /* bytes, ever, of pages that went when they emptied */
/* Which node of memory the calling thread is on; NULL, as at first: fresh memory comes from
 * anywhere. */
typedef unsigned (*Asthra__NodeNow)(void);
ASTHRA__FN void asthra__segment_set_nodes(Asthra__NodeNow node_now);
/* From asthra__alloc, with room to begin at a multiple of `alignment`; *raw is what is to be freed.
 * NULL: no memory. */
ASTHRA__FN void *asthra__segment_borrow(size_t bytes, size_t alignment, void **raw);
ASTHRA__FN bool asthra__segment_is_lent(void); /* some segment is an allocator's */
ASTHRA__FN bool asthra__page_is_lent(const Asthra__HeapPage *page);
ASTHRA__FN void *asthra__segment_metadata(size_t bytes); /* zeroed, for ever; NULL: no memory */
ASTHRA__FN void asthra__segment_fork_before(void);
ASTHRA__FN void asthra__segment_fork_after(void);

/* heap_trace.c: who did something to a block, and from where; for the full level. */
typedef struct Asthra__Deed {
    uint64_t task;  /* 0: outside tasks */
    uint32_t calls; /* a number for the calls on the stack; 0: not known */
} Asthra__Deed;
/* The caller's; site: the return address of the public function, where the calls begin. Not under
 * a lock: the unwinder takes some of its own. */
ASTHRA__FN ASTHRA__NOINLINE Asthra__Deed asthra__deed_here(const void *site);
/* "f+0x12 (program), from g+0x34 (program), from ...", for ever; NULL: not known, or no memory. */
ASTHRA__FN const char *asthra__calls_text(uint32_t calls);
/* The same words, as many whole calls as fit into `most` bytes. false: not known. */
ASTHRA__FN bool asthra__calls_say(Asthra__Text *t, uint32_t calls, size_t most);
ASTHRA__FN void asthra__heap_set_runner(const Asthra__HeapRunner *runner); /* static; NULL: none */

typedef struct Asthra__Note { /* of a live or freed block; where: heap_full.c */
    uint64_t word;            /* the stamp, below it 16 bits of calls, and a byte that is known */
    uint64_t task;            /* that allocated it */
} Asthra__Note;

/* heap_huge.c: blocks with mappings of their own. */
typedef struct Asthra__Huge Asthra__Huge;
struct Asthra__Huge { /* never unmapped */
    char *start;
    size_t mapped, size; /* bytes of the mapping, asked for */
    void *raw;           /* what an allocator lent; NULL: the system's */
    ASTHRA__ATOMIC(uint32_t) is_live;
    ASTHRA__ATOMIC(uint32_t) pins;
    int8_t zone;
    uint8_t level;
    bool is_guarded; /* heap_guard.c's: the mapping goes on, closed */
    bool is_zero;    /* when it was taken */
    bool is_moved;   /* to another's mapping: its own is gone */
    bool is_kept;    /* its mapping waits for another use */
    int64_t kept_since;
    uint64_t freed_by;              /* as a trailer tells it */
    Asthra__Huge *next, *next_free; /* of all; of those that are free */
    Asthra__Note note;              /* at the full level, both */
    uint64_t freeing_task;
};
ASTHRA__FN Asthra__Huge *asthra__huge_take(size_t size, size_t alignment); /* NULL: no memory */
ASTHRA__FN void asthra__huge_give(Asthra__Huge *huge);
/* What the user's bytes of the block end with. */
ASTHRA__FN void asthra__huge_mark(Asthra__Huge *huge);
/* The pages of one block become those of another, whose own are lost; then `from` has none. false:
 * nothing was done; or, with to->is_moved, the other has none any more. */
ASTHRA__FN bool asthra__huge_move(Asthra__Huge *from, Asthra__Huge *to);
/* Mappings that wait for another use: gives them back, or the old ones; counts their bytes. */
ASTHRA__FN size_t asthra__huge_trim(void);
ASTHRA__FN void asthra__huge_decay(void);
ASTHRA__FN size_t asthra__huge_kept(size_t *resident); /* *resident grows */
ASTHRA__FN void asthra__huge_each(bool (*visit)(Asthra__Huge *huge, void *user), void *user);
ASTHRA__FN void asthra__huge_fork_before(void);
ASTHRA__FN void asthra__huge_fork_after(void);

/* heap_thread.c: whose a heap is. */
ASTHRA__FN Asthra__Heap *asthra__heap_enter(AsthraMemoryZone zone); /* the thread's, or a shared */
ASTHRA__FN void asthra__heap_leave(Asthra__Heap *h);
ASTHRA__FN Asthra__Heap *asthra__heap_next(Asthra__Heap *h, AsthraMemoryZone zone); /* NULL first */
ASTHRA__FN uint64_t asthra__heap_thread(unsigned number); /* that it serves, or served last */
/* Trim the heaps whose thread has ended, and those that have none. Return bytes given back. */
ASTHRA__FN size_t asthra__heap_visit_idle(void);
ASTHRA__FN size_t asthra__heap_visit_shared(void); /* caller owns no heap */
ASTHRA__FN bool asthra__heap_is_quick(const Asthra__Heap *h);
ASTHRA__FN AsthraSafetyLevel asthra__heap_level(void);

/* heap_page.c: pages and the bins where they wait; caller owns h. */
ASTHRA__FN void asthra__page_fill(Asthra__Heap *h, const Asthra__Span *span, size_t all,
                                  size_t block_size); /* the record of a fresh span */
ASTHRA__FN void asthra__page_push(Asthra__Heap *h, Asthra__HeapBlock *block); /* a freed one */
/* All free blocks of the bin's first page; NULL: no memory. */
ASTHRA__FN Asthra__HeapBlock *asthra__bin_take(Asthra__Heap *h, unsigned bin);
ASTHRA__FN void asthra__bins_shed(Asthra__Heap *h);     /* gives empty pages back */
ASTHRA__FN size_t asthra__bins_hollow(Asthra__Heap *h); /* gives back what it can of the others */
ASTHRA__FN void asthra__bins_leave(Asthra__Heap *h); /* nothing comes from these pages any more */
/* Whether these bytes of the page lie, in part, in memory that is gone. */
ASTHRA__FN bool asthra__page_is_hollow(const Asthra__HeapPage *p, size_t start, size_t bytes);

/* heap.c; caller owns h. */
ASTHRA__FN void asthra__heap_drain(Asthra__Heap *h); /* takes what other threads freed */
ASTHRA__FN void asthra__heap_shed(Asthra__Heap *h);  /* gives empty pages back */
/* Both, and hollow memory: bytes of that. */
ASTHRA__FN size_t asthra__heap_trim_one(Asthra__Heap *h);
ASTHRA__FN void asthra__heap_change_level(Asthra__Heap *h, AsthraSafetyLevel level);
ASTHRA__FN void asthra__heap_put(Asthra__Heap *h, Asthra__HeapBlock *block); /* a freed one */
ASTHRA__FN bool asthra__heap_is_watched(AsthraMemoryZone zone);
ASTHRA__FN void asthra__heap_count_failure(AsthraMemoryZone zone);
/* Who asks for, or gives back, a block of this level; chunks of the stack zone do not tell. */
ASTHRA__FN Asthra__Deed asthra__heap_deed(AsthraSafetyLevel level, AsthraMemoryZone zone,
                                          const void *site);

/* heap_find.c: from any address, while other threads take and free. */
typedef struct Asthra__Found { /* the block of an address: of a page, or huge, or neither */
    Asthra__HeapPage *page;
    Asthra__Huge *huge;
    char *start;
    size_t capacity, size;
    AsthraMemoryZone zone;
    AsthraSafetyLevel level;
    bool is_broken; /* something wrote over its trailer: size is the most that it can be */
} Asthra__Found;
ASTHRA__FN AsthraAddressKind asthra__heap_find(const void *ptr, Asthra__Found *f);
ASTHRA__FN uint64_t asthra__found_freed_by(const Asthra__Found *f); /* 0: not known */
static inline size_t asthra__found_charge(const Asthra__Found *f) {
    return f->level == ASTHRA_SAFETY_NONE ? f->capacity : f->size;
}

/* Finds a block that a caller names, or panics: `ptr` is the start of a live one of the zone. */
ASTHRA__FN void asthra__heap_expect(const void *ptr, AsthraMemoryZone zone, const char *verb,
                                    Asthra__Found *f);

/* heap_free.c */
ASTHRA__COLD ASTHRA__FN void asthra__heap_free_slow(void *ptr, AsthraMemoryZone zone,
                                                    const void *site, const char *verb);
/* Caller owns h; the block may be another heap's. */
ASTHRA__FN void asthra__heap_go_home(Asthra__Heap *h, const Asthra__Found *f); /* freed, small */

/* heap_full.c; caller owns h. */
enum { ASTHRA__FULL_EXTRA = ASTHRA__TRAILER_BYTES + 16, ASTHRA__FULL_LEAST = 16 };
/* What the class of a block must hold. */
static inline size_t asthra__full_room(size_t size) {
    return (size < ASTHRA__FULL_LEAST ? ASTHRA__FULL_LEAST : size) + ASTHRA__FULL_EXTRA;
}
ASTHRA__FN bool asthra__full_wants_guard(Asthra__Heap *h); /* it is this allocation's turn */
ASTHRA__FN void asthra__full_allocated(Asthra__Heap *h, const void *block, Asthra__Deed deed);
ASTHRA__FN void asthra__full_freed(const Asthra__Found *f, Asthra__Deed deed);
ASTHRA__FN bool asthra__quarantine_add(Asthra__Heap *h, const Asthra__Found *f); /* false: not */
ASTHRA__FN void asthra__quarantine_flush(Asthra__Heap *h);
typedef struct Asthra__History { /* zeros where nothing is known */
    uint64_t stamp;
    Asthra__Deed allocated, freed;
} Asthra__History;
/* Of a block at the full level; `freed` only if it is. */
ASTHRA__FN Asthra__History asthra__full_history(const Asthra__Found *f, AsthraAddressKind kind);

/* heap_guard.c: blocks that end where an inaccessible page begins. */
ASTHRA__FN Asthra__Huge *asthra__guard_take(size_t size); /* NULL: too large, or none to have */
ASTHRA__FN void asthra__guard_give(Asthra__Huge *guard);
ASTHRA__FN Asthra__Huge *asthra__guard_find(uintptr_t pool, const void *ptr);
ASTHRA__FN void asthra__guard_each(bool (*visit)(Asthra__Huge *guard, void *user), void *user);
/* A fault handler (os_internal.h): panics if the address is a closed one. */
ASTHRA__FN bool asthra__guard_on_fault(void *address, void *context);
ASTHRA__FN void asthra__guard_fork_before(void);
ASTHRA__FN void asthra__guard_fork_after(void);

/* heap_check.c: the panics. */
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_touched(const Asthra__Found *f,
                                                                  const char *at, bool is_live);
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_used_after_free(const Asthra__Found *f,
                                                                          size_t at);
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void
asthra__heap_invalid(const void *ptr, AsthraMemoryZone zone, const char *verb);
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_overflown(const Asthra__Found *f,
                                                                    const char *verb);
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_still_pinned(const Asthra__Found *f,
                                                                       const char *verb);
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_damaged(const void *block);
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_freed_at_once(const void *block);

#elif ASTHRA_HAS_CORE

static inline void asthra__heap_set_runner(const Asthra__HeapRunner *runner) {
    (void)runner;
}
static inline bool asthra__guard_on_fault(void *address, void *context) {
    (void)address, (void)context;
    return false;
}

#endif

/* ---- [heap] body -------------------------------------------------- memory/heap_segment.c ---- */
/* heap - address space, cut into slices.                                   [heap] body: segment
 *
 * For the pages of all heaps; a slice is 64 KiB.
 *
 * A segment is one unit of the region table. Its head, a slice of which only what is used is
 * touched, holds the records of all pages, so that they are found from any address inside by
 * masking, and is never unmapped: who asks about a stray address always finds something readable.
 * Taking and giving slices is rare (once in 64 KiB of blocks), so one lock guards it.
 *
 * Invariants, under the lock: bit n of `free` says that slice n is in no page; bit n of `touched`
 * that it is free and may hold bytes. `fading` is the part of `touched` that was touched at the
 * last tick already. A slice that stays free for one to two ticks goes back to the system, by
 * whoever gives or takes next: there is no thread for it. A segment is in the ring of `available`
 * ones if and only if it has a free slice.
 *
 * Slices are taken where they lie lowest in the first segment that has enough of them in a row:
 * touched or not, because a segment that fills up leaves others empty.
 *
 * Nodes of memory. A segment belongs to the node of the thread it was made for, which the system is
 * asked to take its pages from; there is a ring for each node, and nodes that are a multiple of
 * eight apart share one. Where nodes do not matter all rings are searched.
 *
 * Memory that a caller's allocator lent is aligned inside a larger block, `raw`. It is never
 * unmapped, nor known to be zero: all of what is free counts as touched, for ever. It goes back
 * when no slice of it is in a page and the allocator is not in use any more. Then the head goes
 * too, so the list of all segments may lose some while nobody walks it (`walkers` is 0), and the
 * table's entry is dropped before.
 */

#if ASTHRA_HAS_MEMORY

#include <string.h>

enum { ASTHRA__SEGMENT_HEAD_SLICES = 1, ASTHRA__SEGMENT_NODES = 8, ASTHRA__METADATA_STEP = 65536 };
#define ASTHRA__NODE_ANY (~0u)
#define ASTHRA__SEGMENT_TICK_NS INT64_C(100000000)

typedef struct Asthra__Segment Asthra__Segment;
struct Asthra__Segment {
    ASTHRA__ALIGNED(64) Asthra__HeapPage *page_of[ASTHRA__SEGMENT_SLICES]; /* by slice */
    Asthra__Segment *next_of_all, *next, *prev; /* next, prev: the ring of available ones */
    uint64_t free, touched, fading;
    void *raw; /* NULL: not lent */
    unsigned node;
    ASTHRA__ALIGNED(64) Asthra__HeapPage pages[ASTHRA__SEGMENT_SLICES];
};
_Static_assert(sizeof(Asthra__Segment) <= ASTHRA__SLICE_BYTES * ASTHRA__SEGMENT_HEAD_SLICES,
               "the records fit into the head");
_Static_assert(ASTHRA__SEGMENT_SLICES == 64, "a word has a bit for each slice");

static struct {
    Asthra__Lock lock;
    ASTHRA__ATOMIC(Asthra__Segment *) all; /* grows at its head */
    unsigned walkers, lent;                /* walks of all; segments with a raw block */
    Asthra__Segment *available[ASTHRA__SEGMENT_NODES];
    ASTHRA__ATOMIC(Asthra__NodeNow) node_now; /* NULL: nodes do not matter */
    int64_t next_tick;
    size_t given;   /* bytes that went back with the last block of a page; for trim */
    char *metadata; /* what is left of the last piece */
    size_t metadata_left;
} asthra__segments;

/* ---- metadata ---- */

static void *asthra__metadata_take(size_t bytes) {
    bytes = (bytes + 127) & ~(size_t)127;
    if (bytes > asthra__segments.metadata_left) {
        char *piece = asthra__os_map_aligned(ASTHRA__METADATA_STEP, asthra__os_page_size());
        if (piece == NULL) return NULL;
        asthra__segments.metadata = piece;
        asthra__segments.metadata_left = ASTHRA__METADATA_STEP;
    }
    void *taken = asthra__segments.metadata;
    asthra__segments.metadata += bytes;
    asthra__segments.metadata_left -= bytes;
    return taken;
}

ASTHRA__FN void *asthra__segment_metadata(size_t bytes) {
    ASTHRA__ASSERT(bytes <= ASTHRA__METADATA_STEP / 4);
    asthra__lock(&asthra__segments.lock);
    void *taken = asthra__metadata_take(bytes);
    asthra__unlock(&asthra__segments.lock);
    return taken;
}

/* ---- the rings of available segments ---- */

static Asthra__Segment **asthra__segment_ring(unsigned node) {
    return &asthra__segments.available[node % ASTHRA__SEGMENT_NODES];
}

static void asthra__segment_enlist(Asthra__Segment *s) {
    Asthra__Segment **ring = asthra__segment_ring(s->node), *head = *ring;
    if (head == NULL) {
        s->next = s->prev = s;
        *ring = s;
        return;
    }
    s->next = head; /* at the end: fuller ones are asked first */
    s->prev = head->prev;
    s->prev->next = head->prev = s;
}

static void asthra__segment_unlist(Asthra__Segment *s) {
    Asthra__Segment **ring = asthra__segment_ring(s->node);
    if (*ring == s) *ring = s->next == s ? NULL : s->next;
    s->next->prev = s->prev;
    s->prev->next = s->next;
}

static uint64_t asthra__slice_mask(unsigned first, unsigned count) {
    return (count == 64 ? ~UINT64_C(0) : (UINT64_C(1) << count) - 1) << first;
}

/* The lowest of `count` free slices in a row; -1: there are none. */
static int asthra__segment_find(const Asthra__Segment *s, unsigned count) {
    uint64_t runs = s->free; /* bit n: a run of `have` begins at n */
    for (unsigned have = 1; have < count && runs != 0;) {
        unsigned step = have < count - have ? have : count - have;
        runs &= runs >> step;
        have += step;
    }
    return runs == 0 ? -1 : __builtin_ctzll(runs);
}

/* ---- decay ---- */

/* What the system does not take stays touched. */
static size_t asthra__slices_discard(Asthra__Segment *s, uint64_t which) {
    size_t bytes = 0;
    if (s->raw != NULL) return 0;
    while (which != 0) {
        unsigned first = (unsigned)__builtin_ctzll(which), count = 1;
        while (first + count < 64 && (which >> (first + count) & 1)) count++;
        char *start = (char *)s + (size_t)first * ASTHRA__SLICE_BYTES;
        uint64_t mask = asthra__slice_mask(first, count);
        which &= ~mask;
        if (!asthra__os_discard(start, (size_t)count * ASTHRA__SLICE_BYTES)) continue;
        bytes += (size_t)count * ASTHRA__SLICE_BYTES;
        s->touched &= ~mask;
    }
    return bytes;
}

/* Caller holds the lock: a slice that is taken meanwhile would lose its bytes. */
static void asthra__segment_tick(void) {
    int64_t now = asthra__os_now_ns();
    if (ASTHRA__LIKELY(now < asthra__segments.next_tick)) return;
    asthra__segments.next_tick = now + ASTHRA__SEGMENT_TICK_NS;
    for (unsigned node = 0; node < ASTHRA__SEGMENT_NODES; node++) {
        Asthra__Segment *first = *asthra__segment_ring(node), *s = first;
        for (; s != NULL; s = s->next == first ? NULL : s->next) {
            if (s->fading != 0) asthra__slices_discard(s, s->fading);
            s->fading = s->touched;
        }
    }
}

/* Caller holds the lock. */
static size_t asthra__segment_discard_all(void) {
    size_t bytes = 0;
    for (unsigned node = 0; node < ASTHRA__SEGMENT_NODES; node++) {
        Asthra__Segment *first = *asthra__segment_ring(node), *s = first;
        for (; s != NULL; s = s->next == first ? NULL : s->next) {
            bytes += asthra__slices_discard(s, s->touched);
            s->fading &= s->touched;
        }
    }
    return bytes;
}

/* ---- slices ---- */

/* Caller holds the lock. */
static Asthra__Span asthra__segment_cut(Asthra__Segment *s, unsigned first, unsigned slices) {
    uint64_t mask = asthra__slice_mask(first, slices);
    Asthra__Span span = {&s->pages[first], (char *)s + (size_t)first * ASTHRA__SLICE_BYTES,
                         (s->touched & mask) == 0};
    s->free &= ~mask;
    s->touched &= ~mask;
    s->fading &= ~mask;
    if (s->free == 0) asthra__segment_unlist(s);
    for (unsigned i = 0; i < slices; i++) {
        s->page_of[first + i] = &s->pages[first];
        s->pages[first + i].slices = (uint8_t)(i == 0 ? slices : 0);
        asthra__store(&s->pages[first + i].quick, asthra__not_quick(), relaxed);
    }
    return span;
}

ASTHRA__FN void *asthra__segment_borrow(size_t bytes, size_t alignment, void **raw) {
    size_t room;
    *raw = NULL;
    if (!__builtin_add_overflow(bytes, alignment, &room) && room <= PTRDIFF_MAX)
        *raw = asthra__alloc(room);
    uintptr_t start = (uintptr_t)*raw;
    return *raw == NULL ? NULL : (char *)*raw + (-start & (alignment - 1));
}

#define ASTHRA__SEGMENT_UNUSED (~asthra__slice_mask(0, ASTHRA__SEGMENT_HEAD_SLICES))

static Asthra__Segment *asthra__segment_lend(void) {
    void *raw;
    Asthra__Segment *s = asthra__segment_borrow(ASTHRA__REGION_BYTES, ASTHRA__REGION_BYTES, &raw);
    if (s == NULL) return NULL;
    memset(s, 0, sizeof *s);
    s->raw = raw;
    s->touched = ASTHRA__SEGMENT_UNUSED;
    return s;
}

static Asthra__Segment *asthra__segment_map(unsigned node) {
    Asthra__Segment *s = asthra__os_map_aligned(ASTHRA__REGION_BYTES, ASTHRA__REGION_BYTES);
    if (s != NULL && node != ASTHRA__NODE_ANY)
        asthra__os_prefer_node(s, ASTHRA__REGION_BYTES, node);
    return s;
}

static void asthra__segment_unmap(Asthra__Segment *s) {
    void *raw = s->raw;
    asthra__heap_show(s, ASTHRA__REGION_BYTES);
    if (raw != NULL)
        asthra__free(raw);
    else
        asthra__os_unmap(s, ASTHRA__REGION_BYTES);
}

/* One that is claimed, and that nobody knows yet. */
static Asthra__Segment *asthra__segment_make(unsigned node) {
    Asthra__Segment *s =
        asthra__alloc_is_hooked() ? asthra__segment_lend() : asthra__segment_map(node);
    if (s == NULL) return NULL;
    s->node = node == ASTHRA__NODE_ANY ? 0 : node;
    s->free = ASTHRA__SEGMENT_UNUSED;
    for (unsigned i = 0; i < ASTHRA__SEGMENT_SLICES; i++) s->page_of[i] = &s->pages[i];
    if (asthra__region_claim(s, ASTHRA__REGION_BYTES, s, ASTHRA__REGION_SEGMENT)) return s;
    asthra__segment_unmap(s);
    return NULL;
}

/* Caller holds the lock. */
static Asthra__Span asthra__segment_search(unsigned slices, unsigned node) {
    Asthra__Segment *first = *asthra__segment_ring(node), *s = first;
    for (; s != NULL; s = s->next == first ? NULL : s->next) {
        int at = asthra__segment_find(s, slices);
        if (at >= 0) return asthra__segment_cut(s, (unsigned)at, slices);
    }
    return (Asthra__Span){NULL, NULL, false};
}

static Asthra__Span asthra__segment_look(unsigned slices, unsigned node) {
    Asthra__Span span = {NULL, NULL, false};
    unsigned first = node == ASTHRA__NODE_ANY ? 0 : node;
    unsigned end = node == ASTHRA__NODE_ANY ? ASTHRA__SEGMENT_NODES : node + 1;
    asthra__lock(&asthra__segments.lock);
    asthra__segment_tick();
    for (unsigned n = first; n < end && span.page == NULL; n++)
        span = asthra__segment_search(slices, n);
    asthra__unlock(&asthra__segments.lock);
    return span;
}

static Asthra__Span asthra__segment_add(Asthra__Segment *s, unsigned slices) {
    asthra__lock(&asthra__segments.lock);
    s->next_of_all = asthra__load(&asthra__segments.all, relaxed);
    asthra__store(&asthra__segments.all, s, release);
    asthra__segments.lent += s->raw != NULL;
    asthra__segment_enlist(s);
    Asthra__Span span = asthra__segment_cut(s, ASTHRA__SEGMENT_HEAD_SLICES, slices);
    asthra__unlock(&asthra__segments.lock);
    return span;
}

ASTHRA__FN void asthra__segment_set_nodes(Asthra__NodeNow node_now) {
    asthra__store(&asthra__segments.node_now, node_now, relaxed);
}

static unsigned asthra__segment_node(void) {
    Asthra__NodeNow node_now = asthra__load(&asthra__segments.node_now, relaxed);
    return ASTHRA__LIKELY(node_now == NULL) ? ASTHRA__NODE_ANY : node_now();
}

ASTHRA__FN Asthra__Span asthra__segment_take(unsigned slices) {
    unsigned node = asthra__segment_node();
    asthra__huge_decay();
    Asthra__Span span = asthra__segment_look(slices, node);
    if (span.page != NULL) return span;
    asthra__heap_visit_idle(); /* heaps of threads that have ended may have empty pages */
    span = asthra__segment_look(slices, node);
    if (span.page != NULL) return span;
    Asthra__Segment *s = asthra__segment_make(node);
    if (s == NULL && asthra__huge_trim() != 0) s = asthra__segment_make(node);
    if (s != NULL) return asthra__segment_add(s, slices);
    return node == ASTHRA__NODE_ANY ? span : asthra__segment_look(slices, ASTHRA__NODE_ANY);
}

ASTHRA__FN void asthra__segment_give(Asthra__HeapPage *page) {
    Asthra__Segment *s =
        (Asthra__Segment *)((uintptr_t)page & ~((uintptr_t)ASTHRA__REGION_BYTES - 1));
    unsigned first = (unsigned)(page - s->pages), slices = page->slices;
    uint64_t mask = asthra__slice_mask(first, slices);
    bool is_gone = asthra__load(&page->hollow, relaxed) != 0; /* then the rest goes too */
    page->slices = 0;
    asthra__compiler_fence(); /* who asks about its blocks meanwhile finds no page */
    if (is_gone) is_gone = asthra__os_discard(page->start, (size_t)slices * ASTHRA__SLICE_BYTES);
    asthra__lock(&asthra__segments.lock);
    if (s->free == 0) asthra__segment_enlist(s);
    s->free |= mask;
    if (!is_gone) s->touched |= mask;
    if (is_gone) asthra__segments.given += (size_t)slices * ASTHRA__SLICE_BYTES;
    asthra__segment_tick();
    asthra__unlock(&asthra__segments.lock);
}

ASTHRA__FN ASTHRA__FAST Asthra__HeapPage *asthra__segment_page(uintptr_t segment, const void *ptr) {
    Asthra__Segment *s = (Asthra__Segment *)segment;
    return s->page_of[((uintptr_t)ptr - segment) >> ASTHRA__SLICE_SHIFT];
}

static ASTHRA__HEAP_PEEK void
asthra__segment_walk(Asthra__Segment *s, bool (*visit)(Asthra__HeapPage *, void *), void *user) {
    for (; s != NULL; s = s->next_of_all)
        for (unsigned i = ASTHRA__SEGMENT_HEAD_SLICES; i < ASTHRA__SEGMENT_SLICES; i++)
            if (s->pages[i].slices != 0 && !visit(&s->pages[i], user)) return;
}

static Asthra__Segment *asthra__segment_walk_begin(void) {
    asthra__lock(&asthra__segments.lock);
    asthra__segments.walkers++;
    Asthra__Segment *first = asthra__load(&asthra__segments.all, relaxed);
    asthra__unlock(&asthra__segments.lock);
    return first;
}
static void asthra__segment_walk_end(void) {
    asthra__lock(&asthra__segments.lock);
    asthra__segments.walkers--;
    asthra__unlock(&asthra__segments.lock);
}

/* A visitor that never returns, as by a panic, leaves a walker behind: nothing goes back then. */
ASTHRA__FN void asthra__segment_each(bool (*visit)(Asthra__HeapPage *page, void *user),
                                     void *user) {
    asthra__segment_walk(asthra__segment_walk_begin(), visit, user);
    asthra__segment_walk_end();
}

ASTHRA__FN size_t asthra__segment_mapped(size_t *resident) {
    size_t mapped = 0;
    for (Asthra__Segment *s = asthra__segment_walk_begin(); s != NULL; s = s->next_of_all) {
        mapped += ASTHRA__REGION_BYTES;
        *resident += asthra__os_resident(s, ASTHRA__REGION_BYTES);
    }
    asthra__segment_walk_end();
    return mapped;
}

/* ---- what goes back ---- */

/* Takes the segments that can go back out of everything. Caller holds the lock. */
static Asthra__Segment *asthra__segment_unlink_lent(void) {
    Asthra__Segment *s = asthra__load(&asthra__segments.all, relaxed);
    Asthra__Segment *last = NULL, *found = NULL, *next;
    if (asthra__segments.walkers != 0) return NULL;
    for (; s != NULL; s = next) {
        next = s->next_of_all;
        if (s->raw == NULL || s->free != ASTHRA__SEGMENT_UNUSED) {
            last = s;
            continue;
        }
        if (last == NULL)
            asthra__store(&asthra__segments.all, next, relaxed);
        else
            last->next_of_all = next;
        asthra__segment_unlist(s);
        asthra__segments.lent--;
        s->next_of_all = found;
        found = s;
    }
    return found;
}

/* Lent segments without a page go back. Nobody may ask about addresses in them meanwhile. */
static size_t asthra__segment_return(void) {
    asthra__lock(&asthra__segments.lock);
    Asthra__Segment *s = asthra__segment_unlink_lent(), *next;
    asthra__unlock(&asthra__segments.lock);
    size_t bytes = 0;
    for (; s != NULL; s = next, bytes += ASTHRA__REGION_BYTES) {
        next = s->next_of_all;
        asthra__region_drop(s, ASTHRA__REGION_BYTES, s, ASTHRA__REGION_SEGMENT);
        asthra__segment_unmap(s);
    }
    return bytes;
}

ASTHRA__FN bool asthra__page_is_lent(const Asthra__HeapPage *page) {
    uintptr_t segment = (uintptr_t)page & ~((uintptr_t)ASTHRA__REGION_BYTES - 1);
    return ((const Asthra__Segment *)segment)->raw != NULL;
}

ASTHRA__FN bool asthra__segment_is_lent(void) {
    asthra__lock(&asthra__segments.lock);
    bool is_lent = asthra__segments.lent != 0;
    asthra__unlock(&asthra__segments.lock);
    return is_lent;
}

ASTHRA__FN size_t asthra__segment_given(void) {
    asthra__lock(&asthra__segments.lock);
    size_t bytes = asthra__segments.given;
    asthra__unlock(&asthra__segments.lock);
    return bytes;
}

ASTHRA__FN size_t asthra__segment_trim(void) {
    asthra__lock(&asthra__segments.lock);
    size_t bytes = asthra__segment_discard_all();
    asthra__unlock(&asthra__segments.lock);
    return asthra__alloc_is_hooked() ? bytes : bytes + asthra__segment_return();
}

ASTHRA__FN void asthra__segment_fork_before(void) {
    asthra__lock(&asthra__segments.lock);
}
ASTHRA__FN void asthra__segment_fork_after(void) {
    asthra__unlock(&asthra__segments.lock);
}

#endif

/* ---- [heap] body ----------------------------------------------------- memory/heap_huge.c ---- */
/* heap - blocks with mappings of their own.                                [heap] body: huge
 *
 * Each has a mapping of its own, at the start of a unit of the region table.
 *
 * The record stands apart, in metadata, because the mapping is gone once the block is freed and the
 * table still points at the record then: that is how a second free is told from a wild one. Records
 * are used again in the order in which they were freed, so that the memory of a free lasts long.
 *
 * While a caller's allocator is in use the mapping is a block of it with room to align inside.
 *
 * A program that takes and frees megabytes in a loop would spend its time in the system, which
 * makes each page anew. So a freed mapping waits a tenth of a second, if nobody calls the heap
 * longer, for a block of its size or down to half of that; what is too large is cut off. At the
 * full level it goes at once: touching it faults.
 */

#if ASTHRA_HAS_MEMORY

enum {
    ASTHRA__HUGE_KEPT = 16,
    ASTHRA__HUGE_KEPT_BYTES = 32 << 20, /* of all */
    ASTHRA__HUGE_KEPT_MOST = 16 << 20   /* of one */
};
#define ASTHRA__HUGE_KEPT_NS INT64_C(100000000)

static struct {
    Asthra__Lock lock; /* of the queue of free records, of those kept, and of additions to all */
    ASTHRA__ATOMIC(Asthra__Huge *) all;
    Asthra__Huge *first_free, *last_free;
    Asthra__Huge *kept[ASTHRA__HUGE_KEPT]; /* freed, but mapped: the oldest first */
    ASTHRA__ATOMIC(unsigned) kept_count;
    size_t kept_bytes;
} asthra__huge;

/* ---- records ---- */

static Asthra__Huge *asthra__huge_record_take(void) {
    asthra__lock(&asthra__huge.lock);
    Asthra__Huge *huge = asthra__huge.first_free;
    if (huge != NULL) {
        asthra__huge.first_free = huge->next_free;
        asthra__unlock(&asthra__huge.lock);
        if (huge->start != NULL)
            asthra__region_drop(huge->start, huge->mapped, huge, ASTHRA__REGION_HUGE);
        return huge;
    }
    huge = asthra__segment_metadata(sizeof *huge);
    if (huge != NULL) {
        huge->next = asthra__load(&asthra__huge.all, relaxed);
        asthra__store(&asthra__huge.all, huge, release);
    }
    asthra__unlock(&asthra__huge.lock);
    return huge;
}

static void asthra__huge_record_give(Asthra__Huge *huge) {
    asthra__lock(&asthra__huge.lock);
    huge->next_free = NULL;
    if (asthra__huge.first_free == NULL)
        asthra__huge.first_free = huge;
    else
        asthra__huge.last_free->next_free = huge;
    asthra__huge.last_free = huge;
    asthra__unlock(&asthra__huge.lock);
}

/* ---- mappings ---- */

/* Fills huge->start, NULL: no memory, and what tells how to give it back. */
static void asthra__huge_map(Asthra__Huge *huge, size_t bytes, size_t alignment) {
    huge->raw = NULL;
    huge->mapped = bytes;
    huge->start = asthra__alloc_is_hooked() ? asthra__segment_borrow(bytes, alignment, &huge->raw)
                                            : asthra__os_map_aligned(bytes, alignment);
    huge->is_zero = huge->raw == NULL;
}

static void asthra__huge_unmap(Asthra__Huge *huge) {
    asthra__heap_show(huge->start, huge->mapped);
    if (huge->raw != NULL)
        asthra__free(huge->raw);
    else
        asthra__os_unmap(huge->start, huge->mapped);
}

/* What lies behind the first `bytes` goes. */
static void asthra__huge_cut(Asthra__Huge *huge, size_t bytes) {
    size_t units = (bytes + ASTHRA__REGION_BYTES - 1) & ~(size_t)(ASTHRA__REGION_BYTES - 1);
    if (units < huge->mapped)
        asthra__region_drop(huge->start + units, huge->mapped - units, huge, ASTHRA__REGION_HUGE);
    if (bytes < huge->mapped) asthra__os_unmap(huge->start + bytes, huge->mapped - bytes);
    huge->mapped = bytes;
}

/* ---- mappings that wait for another use ---- */

static bool asthra__huge_is_worth_keeping(const Asthra__Huge *huge) {
    return huge->raw == NULL && huge->mapped <= ASTHRA__HUGE_KEPT_MOST &&
           huge->level != ASTHRA_SAFETY_FULL;
}

/* Caller holds the lock. */
static Asthra__Huge *asthra__huge_kept_out(unsigned i) {
    Asthra__Huge *huge = asthra__huge.kept[i];
    unsigned count = asthra__load(&asthra__huge.kept_count, relaxed) - 1;
    for (; i < count; i++) asthra__huge.kept[i] = asthra__huge.kept[i + 1];
    huge->is_kept = false;
    asthra__huge.kept_bytes -= huge->mapped;
    asthra__store(&asthra__huge.kept_count, count, relaxed);
    return huge;
}

/* The smallest that is large enough and no more than twice as large; NULL: there is none. */
static Asthra__Huge *asthra__huge_kept_take(size_t bytes, size_t alignment) {
    unsigned best = ASTHRA__HUGE_KEPT;
    asthra__lock(&asthra__huge.lock);
    for (unsigned i = asthra__load(&asthra__huge.kept_count, relaxed); i-- > 0;) {
        const Asthra__Huge *huge = asthra__huge.kept[i];
        if (huge->mapped < bytes || huge->mapped / 2 > bytes) continue;
        if (((uintptr_t)huge->start & (alignment - 1)) != 0) continue;
        if (best == ASTHRA__HUGE_KEPT || huge->mapped < asthra__huge.kept[best]->mapped) best = i;
    }
    Asthra__Huge *huge = best == ASTHRA__HUGE_KEPT ? NULL : asthra__huge_kept_out(best);
    asthra__unlock(&asthra__huge.lock);
    if (huge == NULL) return NULL;
    asthra__huge_cut(huge, bytes);
    asthra__heap_show(huge->start, bytes);
    huge->is_zero = false;
    return huge;
}

/* The oldest, if it was put there before `since`, or there are too many; NULL: none. */
static Asthra__Huge *asthra__huge_kept_old(int64_t since) {
    Asthra__Huge *huge = NULL;
    asthra__lock(&asthra__huge.lock);
    unsigned count = asthra__load(&asthra__huge.kept_count, relaxed);
    if (count != 0 && (asthra__huge.kept[0]->kept_since < since || count == ASTHRA__HUGE_KEPT ||
                       asthra__huge.kept_bytes > ASTHRA__HUGE_KEPT_BYTES))
        huge = asthra__huge_kept_out(0);
    asthra__unlock(&asthra__huge.lock);
    return huge;
}

static size_t asthra__huge_give_old(int64_t since) {
    Asthra__Huge *huge;
    size_t bytes = 0;
    while ((huge = asthra__huge_kept_old(since)) != NULL) {
        bytes += huge->mapped;
        asthra__huge_unmap(huge);
        asthra__huge_record_give(huge);
    }
    return bytes;
}

ASTHRA__FN size_t asthra__huge_trim(void) {
    return asthra__huge_give_old(INT64_MAX);
}

ASTHRA__FN void asthra__huge_decay(void) {
    if (ASTHRA__LIKELY(asthra__load(&asthra__huge.kept_count, relaxed) == 0)) return;
    asthra__huge_give_old(asthra__os_now_ns() - ASTHRA__HUGE_KEPT_NS);
}

static void asthra__huge_keep(Asthra__Huge *huge) {
    int64_t now = asthra__os_now_ns();
    asthra__heap_hide(huge->start, huge->mapped);
    asthra__lock(&asthra__huge.lock);
    unsigned count = asthra__load(&asthra__huge.kept_count, relaxed);
    bool has_room = count < ASTHRA__HUGE_KEPT; /* else others came between */
    if (has_room) {
        huge->kept_since = now;
        huge->is_kept = true;
        asthra__huge.kept[count] = huge;
        asthra__huge.kept_bytes += huge->mapped;
        asthra__store(&asthra__huge.kept_count, count + 1, relaxed);
    }
    asthra__unlock(&asthra__huge.lock);
    if (!has_room) {
        asthra__huge_unmap(huge);
        asthra__huge_record_give(huge);
    }
    asthra__huge_give_old(now - ASTHRA__HUGE_KEPT_NS);
}

ASTHRA__FN size_t asthra__huge_kept(size_t *resident) {
    asthra__lock(&asthra__huge.lock);
    size_t bytes = asthra__huge.kept_bytes;
    for (unsigned i = asthra__load(&asthra__huge.kept_count, relaxed); i-- > 0;)
        *resident += asthra__os_resident(asthra__huge.kept[i]->start, asthra__huge.kept[i]->mapped);
    asthra__unlock(&asthra__huge.lock);
    return bytes;
}

/* ---- blocks ---- */

static Asthra__Huge *asthra__huge_take_fresh(size_t bytes, size_t alignment) {
    Asthra__Huge *huge = asthra__huge_record_take();
    if (huge == NULL) return NULL;
    asthra__huge_map(huge, bytes, alignment);
    if (huge->start != NULL) {
        if (asthra__region_claim(huge->start, bytes, huge, ASTHRA__REGION_HUGE)) return huge;
        asthra__huge_unmap(huge);
        huge->start = NULL;
    }
    asthra__huge_record_give(huge);
    return NULL;
}

ASTHRA__FN Asthra__Huge *asthra__huge_take(size_t size, size_t alignment) {
    size_t page = asthra__os_page_size();
    size_t bytes = size == 0 ? page : (size + page - 1) & ~(page - 1);
    if (bytes < size || bytes > PTRDIFF_MAX) return NULL;
    if (alignment < ASTHRA__REGION_BYTES) alignment = ASTHRA__REGION_BYTES;
    Asthra__Huge *huge =
        asthra__alloc_is_hooked() ? NULL : asthra__huge_kept_take(bytes, alignment);
    if (huge == NULL) huge = asthra__huge_take_fresh(bytes, alignment);
    if (huge == NULL && asthra__huge_trim() != 0) huge = asthra__huge_take_fresh(bytes, alignment);
    asthra__huge_decay();
    return huge;
}

ASTHRA__FN void asthra__huge_mark(Asthra__Huge *huge) {
    if (huge->level == ASTHRA_SAFETY_NONE) return;
    if (huge->size < huge->mapped) asthra__tail_mark(huge->start + huge->size); /* else guarded */
    asthra__heap_hide(huge->start + huge->size, huge->mapped - huge->size);
}

ASTHRA__FN bool asthra__huge_move(Asthra__Huge *from, Asthra__Huge *to) {
    bool is_plain = from->raw == NULL && to->raw == NULL && !from->is_guarded && !to->is_guarded;
    if (!is_plain || from->level == ASTHRA_SAFETY_FULL) return false;
    Asthra__OsMoved moved = asthra__os_move(from->start, from->mapped, to->start, to->mapped);
    from->is_moved = moved == ASTHRA__OS_MOVED;
    to->is_moved = moved == ASTHRA__OS_LOST;
    if (!to->is_moved) asthra__huge_mark(to); /* its own may be lost */
    return from->is_moved;
}

ASTHRA__FN void asthra__huge_give(Asthra__Huge *huge) {
    if (ASTHRA__UNLIKELY(huge->is_guarded)) {
        asthra__guard_give(huge);
    } else if (huge->is_moved) {
        huge->is_moved = false;
        asthra__huge_record_give(huge);
    } else if (asthra__huge_is_worth_keeping(huge)) {
        asthra__huge_keep(huge);
    } else {
        asthra__huge_unmap(huge);
        asthra__huge_record_give(huge);
    }
}

ASTHRA__FN ASTHRA__HEAP_PEEK void asthra__huge_each(bool (*visit)(Asthra__Huge *huge, void *user),
                                                    void *user) {
    Asthra__Huge *huge = asthra__load(&asthra__huge.all, acquire);
    for (; huge != NULL; huge = huge->next)
        if (asthra__load(&huge->is_live, acquire) != 0 && !visit(huge, user)) return;
    asthra__guard_each(visit, user);
}

ASTHRA__FN void asthra__huge_fork_before(void) {
    asthra__lock(&asthra__huge.lock);
    asthra__guard_fork_before();
}
ASTHRA__FN void asthra__huge_fork_after(void) {
    asthra__guard_fork_after();
    asthra__unlock(&asthra__huge.lock);
}

#endif

/* ---- [heap] body --------------------------------------------------- memory/heap_thread.c ---- */
/* heap - whose a heap is.                                                  [heap] body: thread
 *
 * One thread's, nobody's for a while, or shared by those that can have none.
 *
 * A heap is opened at the first slow call of a thread for a zone. When the thread ends, the heap
 * gives its empty pages back and waits, with the rest, in the queue of idle ones for the next
 * thread; heaps are never freed, so a remote free may push onto any heap it has ever seen. Frees
 * go on while a heap is idle: whoever needs a new segment first looks through the idle heaps for
 * pages that have become empty.
 *
 * A thread that is just attaching, or whose end nobody will tell (its record is not in the list),
 * shares one heap for each zone with its like, under a lock: the C library may call an allocator
 * that is built on us in the middle of our own pthread_key_create.
 *
 * A forked child keeps the heap of the thread that forked. Those of the other threads may have been
 * in the middle of anything: they stay as they are, and blocks in them can be freed but their room
 * is not used again. The locks of all files of the heap are taken around the fork.
 */

#if ASTHRA_HAS_MEMORY

static struct {
    Asthra__Lock lock; /* of all and idle */
    Asthra__Lock shared_lock;
    Asthra__Once once;
    ASTHRA__ATOMIC(Asthra__Heap *) all;
    Asthra__Heap *idle[ASTHRA__ZONES];
    Asthra__Heap shared[ASTHRA__ZONES];
    ASTHRA__ATOMIC(uint32_t) level;
    uint16_t count;
} asthra__heaps;

ASTHRA__FN AsthraSafetyLevel asthra__heap_level(void) {
    uint32_t level = asthra__load(&asthra__heaps.level, relaxed);
    return level == ASTHRA_SAFETY_DEFAULT ? ASTHRA_SAFETY_CHECKED : (AsthraSafetyLevel)level;
}

ASTHRA__FN void asthra__heap_set_level(AsthraSafetyLevel level) {
    asthra__store(&asthra__heaps.level, (uint32_t)level, relaxed);
}

static bool asthra__heap_is_shared(const Asthra__Heap *h) {
    return h >= asthra__heaps.shared && h < asthra__heaps.shared + ASTHRA__ZONES;
}

ASTHRA__FN Asthra__Heap *asthra__heap_next(Asthra__Heap *h, AsthraMemoryZone zone) {
    Asthra__Heap *next = h == NULL                   ? &asthra__heaps.shared[zone]
                         : asthra__heap_is_shared(h) ? asthra__load(&asthra__heaps.all, acquire)
                                                     : h->next;
    while (next != NULL && next != &asthra__heaps.shared[zone] && next->zone != zone)
        next = next->next;
    return next;
}

ASTHRA__FN uint64_t asthra__heap_thread(unsigned number) {
    Asthra__Heap *h = asthra__load(&asthra__heaps.all, acquire);
    while (h != NULL && h->number != number) h = h->next;
    return h == NULL ? 0 : asthra__load(&h->thread, relaxed);
}

/* ---- opening and closing ---- */

static void asthra__heap_detach(Asthra__Thread *t) {
    for (size_t z = 0; z < ASTHRA__ZONES; z++) {
        Asthra__Heap *h = t->heaps[z];
        if (h == NULL) continue;
        t->heaps[z] = NULL;
        asthra__heap_drain(h);
        asthra__heap_shed(h);
        if (h->zone != ASTHRA_MEMORY_ZONE_STACK) asthra__account_tell(&h->account, h->zone);
        asthra__lock(&asthra__heaps.lock);
        h->next_idle = asthra__heaps.idle[z];
        asthra__heaps.idle[z] = h;
        asthra__unlock(&asthra__heaps.lock);
    }
}

static void asthra__heap_fork_before(void) {
    asthra__lock(&asthra__heaps.shared_lock); /* who holds it may visit the idle heaps */
    asthra__lock(&asthra__heaps.lock);
    asthra__huge_fork_before();
    asthra__segment_fork_before();
    asthra__zone_fork_before();
}
static void asthra__heap_fork_after(void) {
    asthra__zone_fork_after();
    asthra__segment_fork_after();
    asthra__huge_fork_after();
    asthra__unlock(&asthra__heaps.lock);
    asthra__unlock(&asthra__heaps.shared_lock);
}

static void asthra__heap_setup(void) {
    asthra__thread_on_detach(asthra__heap_detach);
    asthra__os_on_fork(asthra__heap_fork_before, asthra__heap_fork_after, asthra__heap_fork_after);
}

static Asthra__Heap *asthra__heap_make(AsthraMemoryZone zone) {
    Asthra__Heap *h = asthra__segment_metadata(sizeof *h);
    if (h == NULL) return NULL;
    h->zone = zone;
    asthra__lock(&asthra__heaps.lock);
    h->number = ++asthra__heaps.count;
    asthra__heap_change_level(h, asthra__heap_level());
    h->next = asthra__load(&asthra__heaps.all, relaxed);
    asthra__store(&asthra__heaps.all, h, release);
    asthra__unlock(&asthra__heaps.lock);
    return h;
}

static Asthra__Heap *asthra__heap_adopt(AsthraMemoryZone zone) {
    asthra__lock(&asthra__heaps.lock);
    Asthra__Heap *h = asthra__heaps.idle[zone];
    if (h != NULL) asthra__heaps.idle[zone] = h->next_idle;
    asthra__unlock(&asthra__heaps.lock);
    return h;
}

/* NULL: no memory, or a thread that can have none. */
static Asthra__Heap *asthra__heap_open(AsthraMemoryZone zone) {
    asthra__once(&asthra__heaps.once, asthra__heap_setup);
    Asthra__Thread *t = asthra__thread();
    if (!t->is_listed) return NULL;
    Asthra__Heap *h = asthra__heap_adopt(zone);
    if (h == NULL) h = asthra__heap_make(zone);
    if (h == NULL) return NULL;
    asthra__store(&h->thread, t->id, relaxed);
    t->heaps[zone] = h;
    return h;
}

ASTHRA__FN Asthra__Heap *asthra__heap_enter(AsthraMemoryZone zone) {
    Asthra__Thread *t = asthra__thread_place();
    Asthra__Heap *h = t->heaps[zone];
    if (ASTHRA__UNLIKELY(h == NULL) && !t->is_in_heap) {
        t->is_in_heap = true;
        h = asthra__heap_open(zone);
        t->is_in_heap = false;
    }
    if (h == NULL) {
        h = &asthra__heaps.shared[zone];
        asthra__lock(&asthra__heaps.shared_lock);
        h->zone = zone;
    }
    if (h->level != asthra__heap_level()) asthra__heap_change_level(h, asthra__heap_level());
    return h;
}

ASTHRA__FN void asthra__heap_settle_level(void) {
    for (size_t z = 0; z < ASTHRA__ZONES; z++)
        if (asthra__thread_place()->heaps[z] != NULL)
            asthra__heap_leave(asthra__heap_enter((AsthraMemoryZone)z));
}

ASTHRA__FN void asthra__heap_leave(Asthra__Heap *h) {
    if (asthra__heap_is_shared(h)) asthra__unlock(&asthra__heaps.shared_lock);
}

ASTHRA__FN bool asthra__heap_is_quick(const Asthra__Heap *h) {
    return !asthra__heap_is_shared(h) && h->level != ASTHRA_SAFETY_FULL;
}

ASTHRA__FN size_t asthra__heap_visit_idle(void) {
    size_t bytes = 0;
    asthra__lock(&asthra__heaps.lock);
    for (size_t z = 0; z < ASTHRA__ZONES; z++)
        for (Asthra__Heap *h = asthra__heaps.idle[z]; h != NULL; h = h->next_idle)
            bytes += asthra__heap_trim_one(h);
    asthra__unlock(&asthra__heaps.lock);
    return bytes;
}

ASTHRA__FN size_t asthra__heap_visit_shared(void) {
    size_t bytes = 0;
    asthra__lock(&asthra__heaps.shared_lock);
    for (size_t z = 0; z < ASTHRA__ZONES; z++) {
        Asthra__Heap *h = &asthra__heaps.shared[z];
        if (h->level == ASTHRA_SAFETY_DEFAULT) continue; /* nobody has entered it yet */
        bytes += asthra__heap_trim_one(h);
    }
    asthra__unlock(&asthra__heaps.shared_lock);
    return bytes;
}

#endif

/* ---- [heap] body ---------------------------------------------------- memory/heap_block.c ---- */
/* heap - the words in a block that are ours.                                [heap] body: block
 *
 * Links of free blocks, trailers and marks; and what a block's page says of it.
 */

#if ASTHRA_HAS_MEMORY

/* ---- links ---- */

/* Links are kept with some bits turned that no address has: what a user writes into a freed block
 * hardly ever makes a link of it. */
#if UINTPTR_MAX > 0xffffffffu
#define ASTHRA__LINK_BITS ((uintptr_t)0xa57a00000000000b)
#define ASTHRA__LINK_NEVER ((uintptr_t)0xffff00000000000f)
#else
#define ASTHRA__LINK_BITS ((uintptr_t)0xb)
#define ASTHRA__LINK_NEVER ((uintptr_t)0xf)
#endif

ASTHRA__FN ASTHRA__HEAP_OWN uintptr_t asthra__block_link(const Asthra__HeapBlock *b) {
    return b->link ^ ASTHRA__LINK_BITS;
}
ASTHRA__FN ASTHRA__HEAP_OWN void asthra__block_set_next(Asthra__HeapBlock *b,
                                                        Asthra__HeapBlock *next) {
    b->link = (uintptr_t)next ^ ASTHRA__LINK_BITS;
}
ASTHRA__FN ASTHRA__FAST Asthra__HeapBlock *asthra__block_next(const Asthra__HeapBlock *b) {
    uintptr_t next = asthra__block_link(b);
    if (ASTHRA__UNLIKELY((next & ASTHRA__LINK_NEVER) != 0)) asthra__heap_damaged(b);
    return (Asthra__HeapBlock *)next;
}

/* ---- trailers ---- */

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define asthra__trailer_turn(trailer) __builtin_bswap64(trailer) /* the kind comes first */
#else
#define asthra__trailer_turn(trailer) (trailer)
#endif

static ASTHRA__FAST ASTHRA__ATOMIC(uint64_t) * asthra__trailer_at(const char *b, size_t capacity) {
    return (ASTHRA__ATOMIC(uint64_t) *)(uintptr_t)(b + capacity - ASTHRA__TRAILER_BYTES);
}
ASTHRA__FN ASTHRA__HEAP_OWN uint64_t asthra__trailer_get(const char *block, size_t capacity) {
    return asthra__trailer_turn(asthra__load(asthra__trailer_at(block, capacity), relaxed));
}
ASTHRA__FN ASTHRA__HEAP_OWN void asthra__trailer_set(char *block, size_t capacity,
                                                     uint64_t trailer) {
    asthra__store(asthra__trailer_at(block, capacity), asthra__trailer_turn(trailer), relaxed);
}
ASTHRA__FN ASTHRA__HEAP_OWN bool asthra__trailer_replace(char *block, size_t capacity,
                                                         uint64_t before, uint64_t after) {
    before = asthra__trailer_turn(before);
    return asthra__cas(asthra__trailer_at(block, capacity), &before, asthra__trailer_turn(after),
                       acq_rel);
}

ASTHRA__FN ASTHRA__HEAP_OWN void asthra__tail_mark(char *place) {
    *(unsigned char *)place = ASTHRA__TRAILER_LIVE;
}
ASTHRA__FN ASTHRA__HEAP_OWN bool asthra__tail_is_whole(const char *place) {
    return *(const unsigned char *)place == ASTHRA__TRAILER_LIVE;
}

/* The trailer last: a load of it that comes soon shall find all of it in one store. */
ASTHRA__FN ASTHRA__FAST void asthra__block_mark_live(char *block, size_t capacity, size_t size) {
    asthra__tail_mark(block + size);
    asthra__trailer_set(block, capacity, ASTHRA__TRAILER_MARK + ((uint64_t)(capacity - size) << 8));
}

ASTHRA__FN ASTHRA__FAST void asthra__block_make(const Asthra__HeapPage *p, char *block,
                                                Asthra__HeapBlock *next, uint64_t trailer) {
    asthra__block_set_next((Asthra__HeapBlock *)(void *)block, next);
    if (p->level != ASTHRA_SAFETY_NONE) asthra__trailer_set(block, p->block_size, trailer);
}

ASTHRA__FN ASTHRA__FAST Asthra__HeapPage *asthra__page_of(const void *block) {
    return asthra__segment_page((uintptr_t)block & ~(uintptr_t)(ASTHRA__REGION_BYTES - 1), block);
}

/* Of any address: whether a block of the page begins there. For an offset and a size below 2^32 the
 * product, modulo 2^64, is below the inverse if and only if the size divides the offset (Lemire,
 * Kaser, Kurz: Faster remainder by direct computation, 2019). */
ASTHRA__FN ASTHRA__FAST bool asthra__begins_block(const Asthra__HeapPage *p, const void *ptr) {
    uint64_t offset = (uintptr_t)ptr - (uintptr_t)p->start;
    return offset < p->bytes && offset * p->inverse < p->inverse;
}
ASTHRA__FN ASTHRA__FAST uint64_t asthra__freed_by(const Asthra__Heap *h, const void *site) {
    return (uint64_t)(uintptr_t)site << 16 | h->tag;
}

ASTHRA__FN ASTHRA__FAST uint64_t asthra__block_slack(const Asthra__HeapPage *p, const char *block) {
    size_t capacity = p->block_size;
    if (ASTHRA__UNLIKELY(!asthra__begins_block(p, block))) return UINT64_MAX;
    uint64_t slack = asthra__trailer_slack(asthra__trailer_get(block, capacity));
    if (ASTHRA__UNLIKELY(slack > capacity)) return UINT64_MAX;
    bool is_whole = asthra__tail_is_whole(block + capacity - (size_t)slack);
    return ASTHRA__LIKELY(is_whole) ? slack : UINT64_MAX;
}

ASTHRA__FN ASTHRA__FAST bool asthra__page_is_quick(const Asthra__Heap *h, const void *ptr,
                                                   Asthra__HeapPage **p) {
    uintptr_t segment = (uintptr_t)ptr & ~(uintptr_t)(ASTHRA__REGION_BYTES - 1);
    *p = NULL;
    if (ASTHRA__UNLIKELY(asthra__region_entry(ptr) != segment + ASTHRA__REGION_SEGMENT))
        return false;
    *p = asthra__segment_page(segment, ptr);
    return ASTHRA__LIKELY(asthra__load(&(*p)->quick, relaxed) == h);
}

#endif

/* ---- [heap] body ---------------------------------------------------------- memory/heap.c ---- */
/* heap - blocks of the manual, the pinned and the stack zone.              [heap] body
 *
 * Sizes up to 64 KiB are rounded up to one of 80 classes: steps of 16 bytes up to 128, then eight
 * to a doubling. A page holds blocks of one class and belongs to the heap of one thread, which
 * alone takes from it: the page's list of free blocks needs no lock. Between the pages and the user
 * stands a cache for each class, a list that takes over what a page has and grows by some 32 KiB of
 * frees: what was freed last is given out first, wherever it lies. A page of small blocks is a
 * slice of a segment (64 KiB), one of blocks over 8 KiB is eight slices; blocks over 64 KiB have
 * pages of their own, and over 2 MiB mappings of their own (heap_huge.c).
 *
 * At the checked level a block ends with a trailer that says what it is: never given, freed and by
 * whom, or live with so many bytes asked for. So a free finds, from the address alone and without a
 * lock: the segment (is it ours? the region table says), the page, whether a block begins there,
 * and whether it is live. The byte after those that were asked for has a known value, and the
 * trailer is known in most of its bits, so that a write past the end is found at the free. A side
 * table of states was tried first: to look into it cost a cache line more for each block that is
 * not in the cache, and blocks that fill their class had no room for a mark.
 *
 * Another thread's free changes the trailer, by compare-and-swap, which says who wins when two
 * threads free one block, and pushes the block onto the owner heap's `remote` list. The owner takes
 * the whole list the next time one of its caches runs empty. It marks its own frees with a plain
 * store, so a block that it frees at the same moment as another thread is in two lists, and is
 * found then by its trailer. While a block is live its page cannot go away, so the pusher may read
 * whose it is; after the push it touches nothing.
 *
 * Invariants. A page is in its bin's ring (is_listed) if and only if it has a free block or room
 * for one, and has its heap's level; blocks in caches have that level too. `used` counts blocks
 * that are neither in `free` nor unmade, those in the cache among them. A page whose `quick` is its
 * heap may be freed to without asking anything else: it is not pinned, its level is not the full
 * one, and the heap is its thread's.
 */

#if ASTHRA_HAS_MEMORY

#include <string.h>

/* ---- classes ---- */

/* Bins of sizes up to 1,024, by sixteens. */
static ASTHRA__FAST unsigned asthra__bin_of(size_t size) { /* 0 to 65536 */
    static const uint8_t bins[] = {
        0,  0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 16, 17, 17, 18,
        18, 19, 19, 20, 20, 21, 21, 22, 22, 23, 23, 24, 24, 24, 24, 25, 25, 25, 25, 26, 26, 26,
        26, 27, 27, 27, 27, 28, 28, 28, 28, 29, 29, 29, 29, 30, 30, 30, 30, 31, 31, 31, 31};
    if (ASTHRA__LIKELY(size <= 1024)) return bins[(size + 15) / 16];
    unsigned n = (unsigned)size - 1, top = 31 - (unsigned)__builtin_clz(n);
    return 8 + (top - 7) * 8 + ((n >> (top - 3)) & 7);
}

static size_t asthra__bin_size(unsigned bin) {
    if (bin < 8) return (size_t)(bin + 1) * 16;
    return (size_t)(9 + (bin - 8) % 8) << (4 + (bin - 8) / 8);
}

static size_t asthra__round_up(size_t size, size_t to) {
    return (size + to - 1) & ~(to - 1);
}

/* The bin whose blocks hold `size` bytes and begin at multiples of `alignment`; HEAP_BINS: none. */
static unsigned asthra__bin_for(size_t size, size_t alignment) {
    if (size > ASTHRA__MEDIUM_MAX || alignment > ASTHRA__SLICE_BYTES) return ASTHRA__HEAP_BINS;
    unsigned bin = asthra__bin_of(size);
    while (bin < ASTHRA__HEAP_BINS && (asthra__bin_size(bin) & (alignment - 1)) != 0) bin++;
    return bin;
}

/* What a block for `size` bytes can hold; 0: more than there can be. */
static size_t asthra__heap_capacity(size_t size, size_t alignment) {
    unsigned bin = asthra__bin_for(size, alignment);
    if (bin < ASTHRA__HEAP_BINS) return asthra__bin_size(bin);
    size_t page = asthra__os_page_size();
    if (size > (size_t)PTRDIFF_MAX - page) return 0;
    return size == 0 ? page : asthra__round_up(size, page);
}

/* ---- caches ---- */

/* How far a cache may grow beyond what it was filled with: 32 KiB, but 4 to 128 blocks. */
static int asthra__cache_limit(size_t size) {
    size_t count = 32768 / size;
    return count > 128 ? 128 : count < 4 ? 4 : (int)count;
}

/* Keeps the newest half of what a cache may grow by; the rest goes home to its pages. */
static void asthra__cache_shrink(Asthra__Heap *h, Asthra__HeapCache *c, int keep) {
    Asthra__HeapBlock *rest = c->free, *last = NULL;
    for (int i = 0; i < keep && rest != NULL; i++) {
        last = rest;
        rest = asthra__block_next(rest);
    }
    if (last == NULL)
        c->free = NULL;
    else
        asthra__block_set_next(last, NULL);
    c->left = asthra__cache_limit(c->size) - keep;
    while (rest != NULL) {
        Asthra__HeapBlock *next = asthra__block_next(rest);
        asthra__page_push(h, rest);
        rest = next;
    }
}

/* Takes all that a page has: a page that is full leaves the ring. false: no memory. */
static bool asthra__cache_fill(Asthra__Heap *h, unsigned bin) {
    Asthra__HeapCache *c = &h->caches[bin];
    asthra__heap_drain(h);
    if (c->free != NULL) return true;
    c->free = asthra__bin_take(h, bin);
    c->left = asthra__cache_limit(c->size);
    return c->free != NULL;
}

/* A block of the owner's, marked as freed. Returns what is left: below 0, the cache is full. */
static ASTHRA__FAST int asthra__cache_put(Asthra__HeapCache *c, Asthra__HeapBlock *block) {
    asthra__block_set_next(block, c->free);
    c->free = block;
    return --c->left;
}

/* The block that the cache will give next is out of it. */
static ASTHRA__FAST void asthra__cache_take(Asthra__HeapCache *c, Asthra__HeapBlock *block) {
    c->free = asthra__block_next(block);
    c->left++;
}

ASTHRA__FN void asthra__heap_put(Asthra__Heap *h, Asthra__HeapBlock *block) {
    const Asthra__HeapPage *p = asthra__page_of(block);
    Asthra__HeapCache *c = &h->caches[p->bin];
    if (p->level != h->level)
        asthra__page_push(h, block);
    else if (asthra__cache_put(c, block) < 0)
        asthra__cache_shrink(h, c, asthra__cache_limit(c->size) / 2);
}

/* A block that another thread freed is the owner's again. Its trailer is another one if the owner
 * freed it at the same time. */
static void asthra__far_take_back(Asthra__HeapBlock *block) {
    Asthra__HeapPage *p = asthra__page_of(block);
    if (p->level == ASTHRA_SAFETY_NONE) return;
    uint64_t trailer = asthra__trailer_get((char *)block, p->block_size);
    unsigned kind = trailer & 255;
    if (ASTHRA__UNLIKELY(kind == ASTHRA__TRAILER_LIVE || kind == ASTHRA__TRAILER_FREED))
        asthra__heap_freed_at_once(block);
    if (ASTHRA__UNLIKELY(kind != ASTHRA__TRAILER_FAR)) asthra__heap_damaged(block);
    asthra__trailer_set((char *)block, p->block_size,
                        trailer - ASTHRA__TRAILER_FAR + ASTHRA__TRAILER_FREED);
}

ASTHRA__FN void asthra__heap_drain(Asthra__Heap *h) {
    if (asthra__load(&h->remote, relaxed) == NULL) return;
    Asthra__HeapBlock *block = asthra__exchange(&h->remote, NULL, acquire);
    while (block != NULL) {
        asthra__far_take_back(block);
        Asthra__HeapBlock *next = asthra__block_next(block);
        asthra__heap_put(h, block);
        block = next;
    }
}

ASTHRA__FN void asthra__heap_shed(Asthra__Heap *h) {
    asthra__quarantine_flush(h);
    for (unsigned bin = 0; bin < ASTHRA__HEAP_BINS; bin++)
        asthra__cache_shrink(h, &h->caches[bin], 0);
    asthra__bins_shed(h);
}

ASTHRA__FN size_t asthra__heap_trim_one(Asthra__Heap *h) {
    asthra__heap_drain(h);
    asthra__heap_shed(h);
    return asthra__bins_hollow(h);
}

static ASTHRA__HEAP_PEEK bool asthra__page_slow_down(Asthra__HeapPage *p, void *user) {
    if (p->heap == user) asthra__store(&p->quick, asthra__not_quick(), relaxed);
    return true;
}

/* Pages of the old level leave the bins and are no longer quick; a free that empties one gives it
 * back. */
ASTHRA__FN void asthra__heap_change_level(Asthra__Heap *h, AsthraSafetyLevel level) {
    for (unsigned bin = 0; bin < ASTHRA__HEAP_BINS; bin++)
        h->caches[bin].size = (uint32_t)asthra__bin_size(bin);
    asthra__heap_shed(h);
    asthra__bins_leave(h);
    if (h->level != ASTHRA_SAFETY_DEFAULT) /* else it is new and has no pages */
        asthra__segment_each(asthra__page_slow_down, h);
    h->level = (uint8_t)level;
    h->tag = asthra__trailer_tag(h->number);
    h->extra = level == ASTHRA_SAFETY_NONE ? 0 : ASTHRA__TRAILER_BYTES;
    h->quick_below = level == ASTHRA_SAFETY_FULL ? 0 : ASTHRA__MEDIUM_MAX + 1 - h->extra;
}

/* ---- the quick paths ----
 *
 * Without safety blocks have no trailers: then an allocation looks at nothing but the heap and the
 * block. The full level has no quick paths. */

/* NULL: nothing was done. */
static ASTHRA__FAST void *asthra__heap_alloc_quick(Asthra__Heap *h, size_t size,
                                                   AsthraMemoryZone zone) {
    if (ASTHRA__UNLIKELY(size >= h->quick_below)) return NULL;
    Asthra__HeapCache *c = &h->caches[asthra__bin_of(size + h->extra)];
    Asthra__HeapBlock *block = c->free;
    if (ASTHRA__UNLIKELY(block == NULL)) return NULL;
    bool is_plain = h->extra == 0;
    size_t capacity = c->size, charge = is_plain ? capacity : size;
    if (zone != ASTHRA_MEMORY_ZONE_STACK && !asthra__account_try_alloc(&h->account, charge))
        return NULL;
    asthra__cache_take(c, block);
    asthra__heap_show(block, charge);
    if (!is_plain) asthra__block_mark_live((char *)block, capacity, size);
    return block;
}

/* The cache is full, or the account has a step behind it. */
ASTHRA__COLD static void asthra__heap_settle(Asthra__Heap *h, Asthra__HeapCache *c) {
    if (c->left < 0) asthra__cache_shrink(h, c, asthra__cache_limit(c->size) / 2);
    if (h->zone != ASTHRA_MEMORY_ZONE_STACK) asthra__account_tell(&h->account, h->zone);
}

/* false: nothing was done, because something is wrong; the slow path finds out what it is. */
static ASTHRA__FAST bool asthra__heap_free_quick(Asthra__Heap *h, Asthra__HeapPage *p, void *ptr,
                                                 AsthraMemoryZone zone, const void *site) {
    size_t capacity = p->block_size, charge = capacity;
    ptrdiff_t left = 0;
    if (p->level != ASTHRA_SAFETY_NONE) {
        uint64_t slack = asthra__block_slack(p, ptr);
        if (ASTHRA__UNLIKELY(slack > capacity)) return false;
        asthra__trailer_set(ptr, capacity, asthra__freed_by(h, site));
        charge -= (size_t)slack;
    }
    if (zone != ASTHRA_MEMORY_ZONE_STACK) left = asthra__account_free_quick(&h->account, charge);
    asthra__heap_hide(ptr, capacity);
    Asthra__HeapCache *c = &h->caches[p->bin];
    left |= asthra__cache_put(c, ptr);
    if (ASTHRA__UNLIKELY(left < 0)) asthra__heap_settle(h, c);
    return true;
}

/* ---- taking blocks of all sizes; caller owns h ---- */

static void *asthra__large_take(Asthra__Heap *h, size_t room, size_t size) {
    size_t capacity = asthra__round_up(room, asthra__os_page_size());
    Asthra__Span span = asthra__segment_take(
        (unsigned)((capacity + ASTHRA__SLICE_BYTES - 1) >> ASTHRA__SLICE_SHIFT));
    Asthra__HeapPage *p = span.page;
    if (p == NULL) return NULL;
    p->heap = NULL;
    asthra__page_fill(h, &span, capacity, capacity);
    p->used = p->made = 1;
    asthra__heap_show(p->start, h->level == ASTHRA_SAFETY_NONE ? capacity : size);
    if (h->level != ASTHRA_SAFETY_NONE) asthra__block_mark_live(p->start, capacity, size);
    return p->start;
}

static void *asthra__huge_give_out(Asthra__Heap *h, Asthra__Huge *huge, size_t size) {
    if (huge == NULL) return NULL;
    huge->size = size;
    huge->zone = (int8_t)h->zone;
    huge->level = h->level;
    asthra__huge_mark(huge);
    asthra__store(&huge->is_live, 1u, release);
    return huge->start;
}

static void *asthra__small_take(Asthra__Heap *h, unsigned bin, size_t size) {
    Asthra__HeapCache *c = &h->caches[bin];
    if (c->free == NULL && !asthra__cache_fill(h, bin)) return NULL;
    Asthra__HeapBlock *block = c->free;
    asthra__cache_take(c, block);
    asthra__heap_show(block, h->level == ASTHRA_SAFETY_NONE ? c->size : size);
    if (h->level != ASTHRA_SAFETY_NONE) asthra__block_mark_live((char *)block, c->size, size);
    return block;
}

static void *asthra__heap_take(Asthra__Heap *h, size_t size, size_t alignment) {
    bool is_full = h->level == ASTHRA_SAFETY_FULL;
    size_t room = is_full ? asthra__full_room(size) : size + h->extra;
    if (is_full && alignment <= 16 && asthra__full_wants_guard(h)) {
        void *guarded = asthra__huge_give_out(h, asthra__guard_take(size), size);
        if (guarded != NULL) return guarded;
    }
    unsigned bin = asthra__bin_for(room, alignment);
    if (bin < ASTHRA__HEAP_BINS) return asthra__small_take(h, bin, size);
    if (room <= ASTHRA__LARGE_MAX && alignment <= ASTHRA__SLICE_BYTES)
        return asthra__large_take(h, room, size);
    return asthra__huge_give_out(h, asthra__huge_take(room, alignment), size);
}

ASTHRA__FN Asthra__Deed asthra__heap_deed(AsthraSafetyLevel level, AsthraMemoryZone zone,
                                          const void *site) {
    if (ASTHRA__LIKELY(level != ASTHRA_SAFETY_FULL || zone == ASTHRA_MEMORY_ZONE_STACK))
        return (Asthra__Deed){0, 0};
    return asthra__deed_here(site);
}

/* What the limit and the accounts are charged for a block of the heap. */
static size_t asthra__heap_charge(AsthraSafetyLevel level, size_t size, size_t alignment) {
    return level == ASTHRA_SAFETY_NONE ? asthra__heap_capacity(size, alignment) : size;
}

/* Counts what the zones are told of; blocks of the stack zone are chunks that it counts itself. */
static void *asthra__heap_alloc_counted(size_t size, size_t alignment, AsthraMemoryZone zone,
                                        const void *site) {
    Asthra__Deed deed = asthra__heap_deed(asthra__heap_level(), zone, site);
    Asthra__Heap *h = asthra__heap_enter(zone);
    void *ptr = asthra__heap_take(h, size, alignment);
    if (ptr == NULL)
        asthra__account_fail(&h->account);
    else if (zone != ASTHRA_MEMORY_ZONE_STACK)
        asthra__account_alloc(
            &h->account, asthra__heap_charge((AsthraSafetyLevel)h->level, size, alignment), zone);
    if (h->level == ASTHRA_SAFETY_FULL && ptr != NULL) asthra__full_allocated(h, ptr, deed);
    asthra__heap_leave(h);
    if (ptr == NULL) asthra__error_note(ASTHRA_OUT_OF_MEMORY);
    return ptr;
}

ASTHRA__FN void asthra__heap_count_failure(AsthraMemoryZone zone) {
    Asthra__Heap *h = asthra__heap_enter(zone);
    asthra__account_fail(&h->account);
    asthra__heap_leave(h);
}

ASTHRA__FN bool asthra__heap_is_watched(AsthraMemoryZone zone) {
    return asthra__zone_is_watched() && zone != ASTHRA_MEMORY_ZONE_STACK;
}

ASTHRA__COLD static void *asthra__heap_alloc_slow(size_t size, size_t alignment,
                                                  AsthraMemoryZone zone, const void *site) {
    if (asthra__heap_capacity(size, alignment) == 0) {
        asthra__heap_count_failure(zone);
        asthra__error_note(ASTHRA_OUT_OF_MEMORY);
        return NULL;
    }
    if (!asthra__heap_is_watched(zone))
        return asthra__heap_alloc_counted(size, alignment, zone, site);
    size_t charge = asthra__heap_charge(asthra__heap_level(), size, alignment);
    if (!asthra__zone_admit(charge, zone)) {
        asthra__heap_count_failure(zone);
        return NULL;
    }
    void *ptr = asthra__heap_alloc_counted(size, alignment, zone, site);
    if (ptr == NULL)
        asthra__zone_release(charge);
    else
        asthra__zone_tell_alloc(ptr, size, zone);
    return ptr;
}

ASTHRA__FN ASTHRA__FAST void *asthra__heap_alloc_here(size_t size, AsthraMemoryZone zone,
                                                      const void *site) {
    Asthra__Heap *h = asthra__thread_raw()->heaps[zone];
    if (ASTHRA__LIKELY(h != NULL && !asthra__zone_is_watched())) {
        void *ptr = asthra__heap_alloc_quick(h, size, zone);
        if (ASTHRA__LIKELY(ptr != NULL)) return ptr;
    }
    return asthra__heap_alloc_slow(size, 16, zone, site);
}

ASTHRA__FN ASTHRA__NOINLINE void *asthra__heap_alloc(size_t size, AsthraMemoryZone zone,
                                                     const void *site) {
    return asthra__heap_alloc_here(size, zone, site);
}

ASTHRA__FN void *asthra__heap_alloc_aligned(size_t size, size_t alignment, AsthraMemoryZone zone,
                                            const void *site) {
    if (alignment == 0 || (alignment & (alignment - 1)) != 0) {
        asthra__error_set(ASTHRA_INVALID, "alignment is %zu, expected a power of two", alignment);
        return NULL;
    }
    return asthra__heap_alloc_slow(size, alignment < 16 ? 16 : alignment, zone, site);
}

ASTHRA__FN void *asthra__heap_alloc_zeroed(size_t count, size_t size, AsthraMemoryZone zone,
                                           const void *site) {
    size_t all;
    if (__builtin_mul_overflow(count, size, &all)) all = SIZE_MAX; /* refused as too large */
    char *ptr = asthra__heap_alloc(all, zone, site);
    if (ptr == NULL) return NULL;
    if (all > ASTHRA__MEDIUM_MAX && !asthra__heap_is_watched(zone)) { /* no hook wrote into it */
        Asthra__Found f;
        asthra__heap_find(ptr, &f);
        if (f.huge != NULL ? f.huge->is_zero : f.page->is_zero) return ptr;
    }
    return memset(ptr, 0, all);
}

ASTHRA__FN ASTHRA__FAST void asthra__heap_free_here(void *ptr, AsthraMemoryZone zone,
                                                    const void *site, const char *verb) {
    Asthra__Heap *h = asthra__thread_raw()->heaps[zone];
    Asthra__HeapPage *p;
    bool is_done = ASTHRA__LIKELY(h != NULL) && ASTHRA__LIKELY(!asthra__zone_is_watched()) &&
                   ASTHRA__LIKELY(asthra__page_is_quick(h, ptr, &p)) &&
                   ASTHRA__LIKELY(asthra__heap_free_quick(h, p, ptr, zone, site));
    if (ASTHRA__UNLIKELY(!is_done)) asthra__heap_free_slow(ptr, zone, site, verb);
}

ASTHRA__FN ASTHRA__NOINLINE void asthra__heap_free(void *ptr, AsthraMemoryZone zone,
                                                   const void *site, const char *verb) {
    asthra__heap_free_here(ptr, zone, site, verb);
}

#endif

/* ---- [heap] body ----------------------------------------------------- memory/heap_page.c ---- */
/* heap - pages of blocks, and the bins where they wait.                     [heap] body: page
 *
 * What the owner of a page does, rarely.
 *
 * Hollow memory. Few blocks are enough to keep a page, and then its class alone can use what is
 * free in it. So before a heap grows by memory that nobody has touched yet, it looks for as much
 * that it can give back to the system: units of its pages, of 4 KiB or what the system makes them,
 * in which no block is in use. A bit for each unit of a page says that it is hollow: its memory is
 * gone, the blocks that lie in it, wholly or in part, are out of the list of free ones and counted
 * by `gone`. A page without a free block makes those of its lowest hollow units anew before it
 * makes blocks that never were, and that too is memory by which the heap grows. Nothing is given
 * back while a heap goes on in what it has. When the last block of a page with hollow units is
 * freed, the rest of it goes at once: a slice is either touched or gone.
 *
 * A look costs a walk over the free blocks of a page, so a page is looked at again only when the
 * number of its blocks in use is another one, and a heap that grows by one page walks over as many
 * blocks as a page may have. The full level keeps its freed blocks as they are.
 */

#if ASTHRA_HAS_MEMORY

enum { ASTHRA__PAGE_UNITS = 64, ASTHRA__SWEEP_LOOKS = 32, ASTHRA__SWEEP_BLOCKS = 4096 };

/* ---- bins ---- */

static void asthra__page_enlist(Asthra__Heap *h, Asthra__HeapPage *p) {
    Asthra__HeapPage *head = h->bins[p->bin];
    p->is_listed = true;
    if (head == NULL) {
        p->next = p->prev = p;
        h->bins[p->bin] = p;
        return;
    }
    p->next = head;
    p->prev = head->prev;
    p->prev->next = head->prev = p;
}

/* The next of the bin; NULL: it was the last. */
static Asthra__HeapPage *asthra__page_after(const Asthra__Heap *h, const Asthra__HeapPage *p) {
    return p->next == h->bins[p->bin] ? NULL : p->next;
}

static void asthra__page_unlist(Asthra__Heap *h, Asthra__HeapPage *p) {
    if (h->sweep == p) h->sweep = asthra__page_after(h, p);
    if (h->bins[p->bin] == p) h->bins[p->bin] = p->next == p ? NULL : p->next;
    p->next->prev = p->prev;
    p->prev->next = p->next;
    p->is_listed = false;
}

/* The page has no block in use. */
static void asthra__page_give_back(Asthra__Heap *h, Asthra__HeapPage *p) {
    if (p->is_listed) asthra__page_unlist(h, p);
    asthra__store(&p->quick, asthra__not_quick(), relaxed);
    asthra__segment_give(p);
}

/* The last page of a bin stays when it is empty, or a loop of a few allocations and frees would
 * take and give slices. */
ASTHRA__FN void asthra__page_push(Asthra__Heap *h, Asthra__HeapBlock *block) {
    Asthra__HeapPage *p = asthra__page_of(block);
    asthra__block_set_next(block, p->free);
    p->free = block;
    if (--p->used == 0 && !(p->is_listed && p->next == p)) {
        asthra__page_give_back(h, p);
    } else if (!p->is_listed && p->level == h->level) {
        asthra__page_enlist(h, p);
    }
}

ASTHRA__FN void asthra__bins_shed(Asthra__Heap *h) {
    for (unsigned bin = 0; bin < ASTHRA__HEAP_BINS; bin++) {
        for (Asthra__HeapPage *p = h->bins[bin], *next; p != NULL; p = next) {
            next = asthra__page_after(h, p);
            if (p->used == 0) asthra__page_give_back(h, p);
        }
    }
}

ASTHRA__FN void asthra__bins_leave(Asthra__Heap *h) {
    for (unsigned bin = 0; bin < ASTHRA__HEAP_BINS; bin++)
        while (h->bins[bin] != NULL) asthra__page_unlist(h, h->bins[bin]);
}

/* ---- hollow units ---- */

static ASTHRA__HEAP_PEEK unsigned asthra__unit_shift(const Asthra__HeapPage *p) {
    size_t least = (size_t)p->slices * ASTHRA__SLICE_BYTES / ASTHRA__PAGE_UNITS;
    size_t page = asthra__os_page_size();
    return (unsigned)__builtin_ctzl(page < least ? least : page);
}

typedef struct Asthra__Reach { /* from first to last */
    unsigned first, last;
} Asthra__Reach;

static Asthra__Reach asthra__units_of(const Asthra__HeapPage *p, size_t block, unsigned shift) {
    size_t start = block * p->block_size, end = start + p->block_size - 1;
    return (Asthra__Reach){(unsigned)(start >> shift), (unsigned)(end >> shift)};
}
static Asthra__Reach asthra__blocks_of(const Asthra__HeapPage *p, unsigned unit, unsigned shift) {
    size_t start = (size_t)unit << shift, end = start + ((size_t)1 << shift) - 1;
    unsigned last = (unsigned)(end / p->block_size);
    return (Asthra__Reach){(unsigned)(start / p->block_size), last < p->made ? last : p->made - 1u};
}

static uint64_t asthra__reach_mask(Asthra__Reach units) {
    return (~UINT64_C(0) >> (63 - (units.last - units.first) % 64)) << units.first % 64;
}

static bool asthra__block_is_gone(const Asthra__HeapPage *p, size_t block, unsigned shift) {
    uint64_t units = asthra__reach_mask(asthra__units_of(p, block, shift));
    return (asthra__load(&p->hollow, relaxed) & units) != 0;
}

/* Of a page that is being made the fields may not fit together. */
ASTHRA__FN ASTHRA__HEAP_PEEK bool asthra__page_is_hollow(const Asthra__HeapPage *p, size_t start,
                                                         size_t bytes) {
    uint64_t hollow = asthra__load(&p->hollow, relaxed);
    if (ASTHRA__LIKELY(hollow == 0)) return false;
    unsigned shift = asthra__unit_shift(p);
    Asthra__Reach units = {(unsigned)(start >> shift), (unsigned)((start + bytes - 1) >> shift)};
    return (hollow & asthra__reach_mask(units)) != 0;
}

static size_t asthra__block_number(const Asthra__HeapPage *p, const Asthra__HeapBlock *b) {
    return (size_t)((const char *)b - p->start) / p->block_size;
}

/* Those in which there are blocks, all of them free, and not yet hollow. */
static uint64_t asthra__units_empty(const Asthra__HeapPage *p, unsigned shift) {
    uint16_t idle[ASTHRA__PAGE_UNITS] = {0}; /* blocks in the unit that nobody has */
    uint64_t hollow = asthra__load(&p->hollow, relaxed), empty = 0;
    size_t all = (size_t)p->slices * ASTHRA__SLICE_BYTES;
    size_t end = p->made == p->room ? all : (size_t)p->made * p->block_size;
    for (const Asthra__HeapBlock *b = p->free; b != NULL; b = asthra__block_next(b)) {
        Asthra__Reach units = asthra__units_of(p, asthra__block_number(p, b), shift);
        for (unsigned u = units.first; u <= units.last; u++) idle[u]++;
    }
    for (size_t block = 0; hollow != 0 && block < p->made; block++) {
        Asthra__Reach units = asthra__units_of(p, block, shift);
        if ((hollow & asthra__reach_mask(units)) == 0) continue;
        for (unsigned u = units.first; u <= units.last; u++) idle[u]++;
    }
    for (unsigned u = 0; (size_t)(u + 1) << shift <= end; u++) {
        Asthra__Reach blocks = asthra__blocks_of(p, u, shift);
        if (idle[u] != 0 && idle[u] == blocks.last - blocks.first + 1) empty |= UINT64_C(1) << u;
    }
    return empty & ~hollow;
}

/* Takes the blocks of hollow units out of the page's list. */
static void asthra__page_strain(Asthra__HeapPage *p, unsigned shift) {
    Asthra__HeapBlock *b = p->free, *next;
    for (p->free = NULL; b != NULL; b = next) {
        next = asthra__block_next(b);
        if (asthra__block_is_gone(p, asthra__block_number(p, b), shift)) {
            p->gone++;
        } else {
            asthra__block_set_next(b, p->free);
            p->free = b;
        }
    }
}

static size_t asthra__units_discard(const Asthra__HeapPage *p, uint64_t units, unsigned shift) {
    size_t bytes = 0;
    while (units != 0) {
        unsigned first = (unsigned)__builtin_ctzll(units), last = first;
        while (last + 1 < ASTHRA__PAGE_UNITS && (units >> (last + 1) & 1)) last++;
        units &= ~asthra__reach_mask((Asthra__Reach){first, last});
        size_t run = (size_t)(last - first + 1) << shift;
        if (asthra__os_discard(p->start + ((size_t)first << shift), run)) bytes += run;
    }
    return bytes;
}

static uint32_t asthra__page_idle(const Asthra__HeapPage *p) { /* blocks in its list */
    return (uint32_t)p->made - p->gone - p->used;
}

/* Bytes given back. A page that has given some is the last of its bin: fuller ones come first. */
static size_t asthra__page_hollow(Asthra__Heap *h, Asthra__HeapPage *p) {
    unsigned shift = asthra__unit_shift(p);
    p->swept = (uint16_t)p->used;
    if ((size_t)asthra__page_idle(p) * p->block_size < (size_t)1 << shift) return 0;
    if (p->level == ASTHRA_SAFETY_FULL || asthra__page_is_lent(p)) return 0;
    uint64_t empty = asthra__units_empty(p, shift);
    if (empty == 0) return 0;
    asthra__store(&p->hollow, asthra__load(&p->hollow, relaxed) | empty, relaxed);
    asthra__page_strain(p, shift);
    asthra__page_unlist(h, p);
    asthra__page_enlist(h, p);
    return asthra__units_discard(p, empty, shift);
}

ASTHRA__FN size_t asthra__bins_hollow(Asthra__Heap *h) {
    size_t bytes = 0;
    for (unsigned bin = 0; bin < ASTHRA__HEAP_BINS; bin++) {
        Asthra__HeapPage *p = h->bins[bin], *last = p == NULL ? NULL : p->prev, *next;
        for (; p != NULL; p = p == last ? NULL : next) {
            next = p->next;
            if (p->swept != (uint16_t)p->used) bytes += asthra__page_hollow(h, p);
        }
    }
    return bytes;
}

/* Goes on where the last sweep ended, until it has given back what the heap is about to take. */
static void asthra__heap_sweep(Asthra__Heap *h, size_t wanted) {
    size_t given = 0;
    uint32_t walked = 0;
    unsigned bins = 0, looks = 0;
    while (given < wanted && walked < ASTHRA__SWEEP_BLOCKS && looks < ASTHRA__SWEEP_LOOKS &&
           bins <= ASTHRA__HEAP_BINS) {
        Asthra__HeapPage *p = h->sweep;
        if (p == NULL) {
            h->sweep_bin = (uint8_t)((h->sweep_bin + ASTHRA__HEAP_BINS - 1u) % ASTHRA__HEAP_BINS);
            h->sweep = h->bins[h->sweep_bin];
            bins++;
            continue;
        }
        h->sweep = asthra__page_after(h, p);
        looks++;
        if (p->swept == (uint16_t)p->used) continue;
        walked += asthra__page_idle(p);
        given += asthra__page_hollow(h, p);
    }
}

/* Makes the blocks of the lowest hollow units anew, of as many as it takes to have one. Returns the
 * bytes of these. */
static size_t asthra__page_remake(Asthra__HeapPage *p) {
    size_t bytes = 0;
    unsigned shift = asthra__unit_shift(p);
    uint64_t hollow = asthra__load(&p->hollow, relaxed);
    while (hollow != 0 && p->free == NULL) {
        Asthra__Reach blocks = asthra__blocks_of(p, (unsigned)__builtin_ctzll(hollow), shift);
        hollow &= hollow - 1;
        bytes += (size_t)1 << shift;
        asthra__store(&p->hollow, hollow, relaxed);
        for (size_t i = blocks.last + 1u; i-- > blocks.first;) {
            char *block = p->start + i * p->block_size;
            if (asthra__block_is_gone(p, i, shift)) continue;
            asthra__block_make(p, block, p->free, ASTHRA__TRAILER_FREED); /* by whom, went too */
            p->free = (void *)block;
            p->gone--;
        }
    }
    return bytes;
}

/* ---- making pages and blocks ---- */

/* Blocks begin at multiples of the largest power of two that divides their size, or of a slice. */
ASTHRA__FN void asthra__page_fill(Asthra__Heap *h, const Asthra__Span *span, size_t all,
                                  size_t block_size) {
    Asthra__HeapPage *p = span->page;
    size_t room = all / block_size;
    p->zone = (int8_t)h->zone;
    p->level = h->level;
    p->is_zero = span->is_zero;
    p->start = span->start;
    p->block_size = (uint32_t)block_size;
    p->bytes = (uint32_t)(room * block_size);
    p->inverse = UINT64_MAX / block_size + 1;
    p->free = NULL;
    p->used = p->made = p->gone = 0;
    p->swept = UINT16_MAX;
    asthra__store(&p->hollow, 0u, relaxed);
    p->room = (uint16_t)room;
    p->is_listed = false;
    asthra__heap_hide(p->start, p->bytes);
}

static Asthra__HeapPage *asthra__page_make(Asthra__Heap *h, unsigned bin) {
    size_t size = h->caches[bin].size;
    unsigned slices = size <= ASTHRA__SMALL_MAX ? 1 : ASTHRA__MEDIUM_SLICES;
    size_t all = (size_t)slices * ASTHRA__SLICE_BYTES;
    Asthra__Span span = asthra__segment_take(slices);
    Asthra__HeapPage *p = span.page;
    if (p == NULL) return NULL;
    p->heap = h;
    p->bin = (uint8_t)bin;
    asthra__page_fill(h, &span, all, size);
    asthra__store(&p->quick, asthra__heap_is_quick(h) ? h : asthra__not_quick(), relaxed);
    asthra__page_enlist(h, p);
    if (span.is_zero) asthra__heap_sweep(h, all);
    return p;
}

/* Makes up to 4 KiB of blocks, lowest first: memory is touched as it is needed. */
static void asthra__page_extend(Asthra__HeapPage *p) {
    size_t count = 4096 / p->block_size, left = (size_t)p->room - p->made;
    if (count == 0) count = 1;
    if (count > left) count = left;
    char *block = p->start + (size_t)p->made * p->block_size;
    p->free = (Asthra__HeapBlock *)(void *)block;
    for (size_t i = 1; i <= count; i++, block += p->block_size)
        asthra__block_make(p, block, i < count ? (void *)(block + p->block_size) : NULL,
                           ASTHRA__TRAILER_NEVER);
    p->made = (uint16_t)(p->made + count);
}

ASTHRA__FN Asthra__HeapBlock *asthra__bin_take(Asthra__Heap *h, unsigned bin) {
    Asthra__HeapPage *p = h->bins[bin];
    if (p == NULL && (p = asthra__page_make(h, bin)) == NULL) return NULL;
    size_t grown = p->free == NULL && p->gone != 0 ? asthra__page_remake(p) : 0;
    if (p->free == NULL) asthra__page_extend(p);
    Asthra__HeapBlock *blocks = p->free;
    p->free = NULL;
    p->used = (uint32_t)p->made - p->gone;
    p->swept = UINT16_MAX; /* as many may be in use soon, but others */
    if (p->made == p->room && p->gone == 0) asthra__page_unlist(h, p);
    if (grown != 0) asthra__heap_sweep(h, grown);
    return blocks;
}

#endif

/* ---- [heap] body ----------------------------------------------------- memory/heap_find.c ---- */
/* heap - the block of an address.                                           [heap] body: find
 *
 * From any address, and while other threads take and free.
 */

#if ASTHRA_HAS_MEMORY

static ASTHRA__HEAP_PEEK AsthraAddressKind asthra__huge_find(Asthra__Huge *huge, const void *ptr,
                                                             Asthra__Found *f) {
    size_t offset = (size_t)((const char *)ptr - huge->start);
    bool is_live = asthra__load(&huge->is_live, acquire) != 0;
    *f = (Asthra__Found){NULL,
                         huge,
                         huge->start,
                         huge->mapped,
                         huge->size,
                         (AsthraMemoryZone)huge->zone,
                         (AsthraSafetyLevel)huge->level,
                         false};
    if (offset >= huge->mapped) return ASTHRA_ADDRESS_SLACK;
    return is_live ? ASTHRA_ADDRESS_LIVE : ASTHRA_ADDRESS_FREED;
}

/* Where there are no states: whether the block is in the page's list of free ones. Those in a cache
 * are taken for live, and while the owner changes the list the answer may be wrong; but every
 * address that is followed lies in the page. */
static ASTHRA__HEAP_PEEK AsthraAddressKind asthra__page_find_unmarked(const Asthra__HeapPage *p,
                                                                      Asthra__Found *f) {
    uintptr_t b = (uintptr_t)p->free;
    for (unsigned n = 0; n < p->room && b - (uintptr_t)p->start < p->bytes; n++) {
        if (b == (uintptr_t)f->start) return ASTHRA_ADDRESS_FREED;
        b = asthra__block_link((const Asthra__HeapBlock *)b);
    }
    f->size = f->capacity;
    return ASTHRA_ADDRESS_LIVE;
}

/* What a trailer tells of the block that it ends. */
static AsthraAddressKind asthra__trailer_read(uint64_t trailer, Asthra__Found *f) {
    uint64_t slack = asthra__trailer_slack(trailer);
    switch (trailer & 255) {
    case ASTHRA__TRAILER_NEVER: return ASTHRA_ADDRESS_SLACK;
    case ASTHRA__TRAILER_FREED:
    case ASTHRA__TRAILER_FAR: return ASTHRA_ADDRESS_FREED;
    default: break;
    }
    f->is_broken = slack > f->capacity;
    f->size = f->capacity - (f->is_broken ? ASTHRA__TRAILER_BYTES : (size_t)slack);
    return ASTHRA_ADDRESS_LIVE;
}

static ASTHRA__HEAP_PEEK AsthraAddressKind asthra__page_find(Asthra__HeapPage *p, const void *ptr,
                                                             Asthra__Found *f) {
    size_t offset = (size_t)((const char *)ptr - p->start), capacity = p->block_size;
    *f = (Asthra__Found){0};
    f->page = p;
    f->capacity = capacity;
    f->zone = ASTHRA_MEMORY_ZONE_NONE;
    f->level = (AsthraSafetyLevel)p->level;
    if (capacity == 0) return ASTHRA_ADDRESS_SLACK; /* the slice was in no page yet */
    f->zone = (AsthraMemoryZone)p->zone;
    if (offset >= p->bytes) return ASTHRA_ADDRESS_SLACK;
    f->start = p->start + offset / capacity * capacity;
    offset = (size_t)(f->start - p->start);
    if (offset >= (size_t)p->made * capacity) return ASTHRA_ADDRESS_SLACK;
    if (p->slices == 0 || asthra__page_is_hollow(p, offset, capacity))
        return ASTHRA_ADDRESS_FREED; /* its memory may be gone */
    if (f->level == ASTHRA_SAFETY_NONE) return asthra__page_find_unmarked(p, f);
    /* Of a page that is being made the fields may not fit together. */
    if (((uintptr_t)f->start & (ASTHRA__REGION_BYTES - 1)) + capacity > ASTHRA__REGION_BYTES)
        return ASTHRA_ADDRESS_SLACK;
    AsthraAddressKind kind = asthra__trailer_read(asthra__trailer_get(f->start, capacity), f);
    if (ASTHRA__UNLIKELY(f->is_broken) && /* or it went while it was read */
        (p->slices == 0 || asthra__page_is_hollow(p, offset, capacity)))
        return ASTHRA_ADDRESS_FREED;
    return kind;
}

/* Also of addresses whose pages change hands meanwhile. */
ASTHRA__FN ASTHRA__HEAP_PEEK AsthraAddressKind asthra__heap_find(const void *ptr,
                                                                 Asthra__Found *f) {
    uintptr_t entry = asthra__region_entry(ptr), kind = entry % ASTHRA__REGION_KINDS;
    uintptr_t record = entry - kind;
    if (kind == ASTHRA__REGION_HUGE) return asthra__huge_find((Asthra__Huge *)record, ptr, f);
    if (kind == ASTHRA__REGION_SEGMENT)
        return asthra__page_find(asthra__segment_page(record, ptr), ptr, f);
    if (kind == ASTHRA__REGION_GUARD)
        return asthra__huge_find(asthra__guard_find(record, ptr), ptr, f);
    *f = (Asthra__Found){0};
    f->zone = ASTHRA_MEMORY_ZONE_NONE;
    return ASTHRA_ADDRESS_FOREIGN;
}

ASTHRA__FN AsthraMemoryZone asthra__heap_zone_of(const void *ptr) {
    Asthra__Found f;
    AsthraAddressKind kind = asthra__heap_find(ptr, &f);
    /* Beside a huge block, and where one was, others may have their mappings. */
    bool is_gone = kind != ASTHRA_ADDRESS_LIVE && f.huge != NULL && !f.huge->is_guarded;
    return is_gone ? ASTHRA_MEMORY_ZONE_NONE : f.zone;
}

ASTHRA__FN uint64_t asthra__found_freed_by(const Asthra__Found *f) {
    if (f->huge != NULL) return f->huge->freed_by;
    if (f->level == ASTHRA_SAFETY_NONE) return 0;
    uint64_t trailer = asthra__trailer_get(f->start, f->capacity);
    unsigned kind = trailer & 255; /* none of the two if the page's memory is gone */
    bool is_known = trailer > UINT16_MAX;
    return (kind == ASTHRA__TRAILER_FREED || kind == ASTHRA__TRAILER_FAR) && is_known ? trailer : 0;
}

/* Of a live block: whether nobody wrote past its end. */
static bool asthra__found_is_whole(const Asthra__Found *f) {
    return !f->is_broken && (f->size == f->capacity || asthra__tail_is_whole(f->start + f->size));
}

ASTHRA__FN void asthra__heap_expect(const void *ptr, AsthraMemoryZone zone, const char *verb,
                                    Asthra__Found *f) {
    AsthraAddressKind kind = asthra__heap_find(ptr, f);
    if (ASTHRA__UNLIKELY(kind != ASTHRA_ADDRESS_LIVE || f->start != ptr || f->zone != zone))
        asthra__heap_invalid(ptr, zone, verb);
    if (f->level == ASTHRA_SAFETY_NONE || asthra__found_is_whole(f)) return;
    Asthra__Found again; /* another thread's free may have written there just now */
    if (asthra__heap_find(ptr, &again) != ASTHRA_ADDRESS_LIVE)
        asthra__heap_invalid(ptr, zone, verb);
    asthra__heap_overflown(f, verb);
}
ASTHRA__FN size_t asthra__heap_usable_size(const void *ptr, AsthraMemoryZone zone,
                                           const char *verb) {
    Asthra__Found f;
    if (ptr == NULL) return 0;
    asthra__heap_expect(ptr, zone, verb, &f);
    return asthra__found_charge(&f);
}

#endif

/* ---- [heap] body ----------------------------------------------------- memory/heap_free.c ---- */
/* heap - frees that are not quick, other sizes, and pins.                   [heap] body: free
 *
 * A free that finds anything unusual about its block comes here.
 */

#if ASTHRA_HAS_MEMORY

#include <string.h>

static struct {
    bool (*is_pinned)(const void *start, size_t size);
    ASTHRA__ATOMIC(size_t) stack_pins; /* of chunks of the stack zone */
} asthra__heap;

/* ---- frees that are not quick ---- */

static void asthra__heap_refuse_pinned(const Asthra__Found *f, const char *verb) {
    uint32_t pins = f->page != NULL ? asthra__load(&f->page->pins, acquire)
                                    : asthra__load(&f->huge->pins, acquire);
    if (ASTHRA__LIKELY(pins == 0) || asthra__heap.is_pinned == NULL) return;
    if (asthra__heap.is_pinned(f->start, f->capacity)) asthra__heap_still_pinned(f, verb);
}

static bool asthra__huge_mark_freed(Asthra__Huge *huge, uint64_t by) {
    if (asthra__exchange(&huge->is_live, 0u, acq_rel) == 0) return false;
    huge->freed_by = by;
    return true;
}

/* Marks the block as freed. Of two threads that free one block one gets past this, unless the other
 * is the owner and quick: then the owner's mark replaces the far one, which drain misses. */
static void asthra__found_mark_freed(const Asthra__Found *f, AsthraMemoryZone zone,
                                     const Asthra__Heap *h, uint64_t by, const char *verb) {
    bool is_done = f->huge == NULL && f->level == ASTHRA_SAFETY_NONE;
    if (f->huge != NULL) {
        is_done = asthra__huge_mark_freed(f->huge, by);
    } else if (!is_done) {
        uint64_t trailer = asthra__trailer_get(f->start, f->capacity);
        if (f->page->heap != NULL && f->page->heap != h)
            by += ASTHRA__TRAILER_FAR - ASTHRA__TRAILER_FREED;
        is_done = asthra__trailer_slack(trailer) <= f->capacity &&
                  asthra__trailer_replace(f->start, f->capacity, trailer, by);
    }
    if (ASTHRA__UNLIKELY(!is_done)) asthra__heap_invalid(f->start, zone, verb);
}

static void asthra__remote_push(Asthra__Heap *owner, Asthra__HeapBlock *block) {
    Asthra__HeapBlock *head = asthra__load(&owner->remote, relaxed);
    do {
        asthra__block_set_next(block, head);
    } while (!asthra__cas(&owner->remote, &head, block, release));
}

ASTHRA__FN void asthra__heap_go_home(Asthra__Heap *h, const Asthra__Found *f) {
    if (f->page->heap == NULL)
        asthra__segment_give(f->page);
    else if (f->page->heap == h)
        asthra__heap_put(h, (void *)f->start);
    else
        asthra__remote_push(f->page->heap, (void *)f->start);
}

static void asthra__found_give(Asthra__Heap *h, const Asthra__Found *f) {
    if (f->huge != NULL) {
        asthra__huge_give(f->huge);
        return;
    }
    asthra__heap_hide(f->start, f->capacity);
    if (f->level == ASTHRA_SAFETY_FULL && asthra__quarantine_add(h, f)) return;
    asthra__heap_go_home(h, f);
}

/* A block of another heap's page, if nothing is wrong with it and nobody wants to be asked: only
 * where it goes is looked up. false: nothing was done. */
static bool asthra__heap_free_far(void *ptr, AsthraMemoryZone zone, const void *site) {
    Asthra__HeapPage *p;
    Asthra__Heap *h = asthra__thread_raw()->heaps[zone];
    if (h == NULL || asthra__zone_is_watched() || zone == ASTHRA_MEMORY_ZONE_STACK) return false;
    if (asthra__page_is_quick(h, ptr, &p) || p == NULL || p->zone != (int8_t)zone) return false;
    if (p->heap == NULL || p->heap == h || p->level == ASTHRA_SAFETY_FULL ||
        asthra__load(&p->pins, acquire) != 0)
        return false;
    size_t capacity = p->block_size, charge = capacity;
    if (p->level != ASTHRA_SAFETY_NONE) {
        uint64_t slack = asthra__block_slack(p, ptr), by = asthra__freed_by(h, site);
        if (slack > capacity ||
            !asthra__trailer_replace(ptr, capacity, ASTHRA__TRAILER_MARK + (slack << 8),
                                     by - ASTHRA__TRAILER_FREED + ASTHRA__TRAILER_FAR))
            return false;
        charge -= (size_t)slack;
    }
    if (asthra__account_free_quick(&h->account, charge) < 0)
        asthra__account_tell(&h->account, zone);
    asthra__heap_hide(ptr, capacity);
    asthra__remote_push(p->heap, ptr);
    return true;
}

/* A live one of the zone, which is not pinned. */
static void asthra__heap_free_found(const Asthra__Found *f, AsthraMemoryZone zone, const void *site,
                                    const char *verb) {
    if (asthra__heap_is_watched(zone)) {
        bool is_there = f->huge == NULL || !f->huge->is_moved;
        if (is_there) asthra__zone_tell_free(f->start, zone);
        asthra__zone_release(asthra__found_charge(f));
    }
    Asthra__Deed deed = asthra__heap_deed(f->level, zone, site);
    if (f->level == ASTHRA_SAFETY_FULL) site = (const void *)(uintptr_t)deed.calls;
    Asthra__Heap *h = asthra__heap_enter(zone);
    size_t charge = asthra__found_charge(f);
    asthra__found_mark_freed(f, zone, h, asthra__freed_by(h, site), verb);
    if (f->level == ASTHRA_SAFETY_FULL) asthra__full_freed(f, deed);
    if (zone != ASTHRA_MEMORY_ZONE_STACK) asthra__account_free(&h->account, charge, zone);
    asthra__found_give(h, f);
    asthra__heap_leave(h);
}

ASTHRA__COLD ASTHRA__FN void asthra__heap_free_slow(void *ptr, AsthraMemoryZone zone,
                                                    const void *site, const char *verb) {
    Asthra__Found f;
    if (ptr == NULL || asthra__heap_free_far(ptr, zone, site)) return;
    asthra__heap_expect(ptr, zone, verb, &f);
    asthra__heap_refuse_pinned(&f, verb);
    asthra__heap_free_found(&f, zone, site, verb);
}

/* ---- a block of another size ---- */

/* Whether a block may stay where it is: it fits, and leaves less than half unused. */
static bool asthra__found_fits(const Asthra__Found *f, size_t size) {
    size_t room = f->capacity - (f->level == ASTHRA_SAFETY_NONE ? 0 : ASTHRA__TRAILER_BYTES);
    return size <= room && size >= f->capacity / 2 && f->level != ASTHRA_SAFETY_FULL;
}

static void asthra__found_remark(const Asthra__Found *f, size_t size) {
    asthra__heap_hide(f->start, f->capacity);
    asthra__heap_show(f->start, size);
    if (f->huge == NULL) {
        asthra__block_mark_live(f->start, f->capacity, size);
    } else {
        f->huge->size = size;
        asthra__tail_mark(f->start + size);
    }
}

/* false: the limit does not let it grow. */
static bool asthra__found_resize(Asthra__Found *f, size_t size) {
    bool is_watched = asthra__heap_is_watched(f->zone);
    size_t before = asthra__found_charge(f);
    size_t after = f->level == ASTHRA_SAFETY_NONE ? f->capacity : size;
    if (is_watched && after > before && !asthra__zone_admit(after - before, f->zone)) {
        asthra__heap_count_failure(f->zone);
        return false;
    }
    if (is_watched) asthra__zone_tell_free(f->start, f->zone);
    if (f->level != ASTHRA_SAFETY_NONE) asthra__found_remark(f, size);
    Asthra__Heap *h = asthra__heap_enter(f->zone);
    asthra__account_resize(&h->account, before, after, f->zone);
    asthra__heap_leave(h);
    if (is_watched && before > after) asthra__zone_release(before - after);
    if (is_watched) asthra__zone_tell_alloc(f->start, size, f->zone);
    return true;
}

/* Gives the new block what the old one held; false: the new one's mapping was lost over it. Hooks
 * may look into a block that is freed, so where there are any pages do not move. */
static bool asthra__found_hand_over(const Asthra__Found *f, const Asthra__Found *to) {
    bool may_move = f->huge != NULL && to->huge != NULL && !asthra__heap_is_watched(f->zone);
    size_t bytes = asthra__found_charge(f);
    if (may_move && asthra__huge_move(f->huge, to->huge)) return true;
    if (to->huge != NULL && to->huge->is_moved) return false;
    memcpy(to->start, f->start, bytes < to->size ? bytes : to->size);
    return true;
}

static void *asthra__heap_realloc_huge(const Asthra__Found *f, char *moved, AsthraMemoryZone zone,
                                       const void *site, const char *verb) {
    Asthra__Found to;
    asthra__heap_find(moved, &to);
    bool is_done = asthra__found_hand_over(f, &to);
    asthra__heap_free_found(is_done ? f : &to, zone, site, verb);
    if (is_done) return moved;
    asthra__error_note(ASTHRA_OUT_OF_MEMORY);
    return NULL;
}

ASTHRA__FN void *asthra__heap_realloc(void *ptr, size_t size, AsthraMemoryZone zone,
                                      const void *site, const char *verb) {
    Asthra__Found f;
    if (ptr == NULL) return asthra__heap_alloc(size, zone, site);
    asthra__heap_expect(ptr, zone, verb, &f);
    asthra__heap_refuse_pinned(&f, verb);
    if (asthra__found_fits(&f, size)) return asthra__found_resize(&f, size) ? ptr : NULL;
    char *moved = asthra__heap_alloc(size, zone, site);
    if (moved == NULL) return NULL;
    if (f.huge != NULL) return asthra__heap_realloc_huge(&f, moved, zone, site, verb);
    size_t kept = asthra__found_charge(&f);
    memcpy(moved, ptr, kept < size ? kept : size);
    asthra__heap_free(ptr, zone, site, verb);
    return moved;
}

/* ---- pins ---- */

ASTHRA__FN void asthra__heap_set_pin_test(bool (*is_pinned)(const void *start, size_t size)) {
    asthra__heap.is_pinned = is_pinned;
}

/* Releases of the stack zone look for pins while there are any. Who takes the last pin away and
 * then sees that another came meanwhile puts the mark back; partner: the mark of who came. */
static void asthra__heap_count_stack_pin(int more) {
    size_t count = asthra__add(&asthra__heap.stack_pins, (size_t)more, seq_cst) + (size_t)more;
    asthra__trace_set(ASTHRA__TRACE_ZONE_PINS, count != 0);
    if (count == 0 && asthra__load(&asthra__heap.stack_pins, seq_cst) != 0)
        asthra__trace_set(ASTHRA__TRACE_ZONE_PINS, true);
}

/* The quick word is the owner's, but a page that once held a pin may stay slow for ever. */
ASTHRA__FN void asthra__heap_count_pin(const void *ptr, int more) {
    Asthra__Found f;
    asthra__heap_find(ptr, &f);
    if (f.page == NULL && f.huge == NULL) return;
    asthra__add(f.page != NULL ? &f.page->pins : &f.huge->pins, (uint32_t)more, acq_rel);
    if (f.page != NULL) asthra__store(&f.page->quick, asthra__not_quick(), release);
    if (f.zone == ASTHRA_MEMORY_ZONE_STACK) asthra__heap_count_stack_pin(more);
}

#endif

/* ---- [heap] body ---------------------------------------------------- memory/heap_check.c ---- */
/* heap - what an address really is.                                        [heap] body: check
 *
 * For panics of the heap and for asthra_memory_describe.
 */

#if ASTHRA_HAS_MEMORY

/* A hook: whether an address is on a stack that the system does not know as one. */
static struct { bool (*is_stack)(const void *ptr); } asthra__heap_check;

ASTHRA__FN void asthra__heap_set_stack_test(bool (*is_stack)(const void *ptr)) {
    asthra__heap_check.is_stack = is_stack;
}

static bool asthra__is_on_stack(const void *ptr) {
    void *low = NULL, *high = NULL;
    if (asthra__heap_check.is_stack != NULL && asthra__heap_check.is_stack(ptr)) return true;
    return asthra__os_stack_bounds(&low, &high) && ptr >= low && ptr < high;
}

ASTHRA__FN AsthraAddressKind asthra__heap_outside(const void *ptr) {
    if (asthra__is_on_stack(ptr)) return ASTHRA_ADDRESS_STACK;
    switch (asthra__os_mapping_of(ptr)) {
    case ASTHRA__OS_MAPPING_NONE: return ASTHRA_ADDRESS_UNMAPPED;
    case ASTHRA__OS_MAPPING_STATIC: return ASTHRA_ADDRESS_STATIC;
    case ASTHRA__OS_MAPPING_STACK: return ASTHRA_ADDRESS_STACK;
    case ASTHRA__OS_MAPPING_OTHER: break;
    }
    return ASTHRA_ADDRESS_FOREIGN;
}

/* ---- sentences ---- */

static void asthra__say_outside(Asthra__Text *t, const void *ptr) {
    static const char *const words[] = {
        [ASTHRA_ADDRESS_UNMAPPED] = "nothing is mapped there",
        [ASTHRA_ADDRESS_LIVE] = "",
        [ASTHRA_ADDRESS_FREED] = "",
        [ASTHRA_ADDRESS_SLACK] = "",
        [ASTHRA_ADDRESS_STACK] = "it is on a stack",
        [ASTHRA_ADDRESS_STATIC] = "it is static data or code",
        [ASTHRA_ADDRESS_FOREIGN] = "it is memory of others, such as malloc",
    };
    asthra__text_format(t, "was never allocated: %s", words[asthra__heap_outside(ptr)]);
}

static void asthra__say_where(Asthra__Text *t, const void *ptr, const Asthra__Found *f) {
    size_t inside = (size_t)((const char *)ptr - f->start);
    if (inside != 0) asthra__text_format(t, "is interior: %zu bytes into ", inside);
    asthra__text_format(t, "%s%p", inside == 0 ? "is the block " : "the block ", (void *)f->start);
}

/* The calls of a free and of an allocation fit into one message. */
enum { ASTHRA__SAY_CALLS = 330, ASTHRA__SAY_MOST = 900 };

static void asthra__say_deed(Asthra__Text *t, Asthra__Deed deed) {
    if (deed.task != 0) asthra__text_format(t, " by task %llu", (unsigned long long)deed.task);
    asthra__text_add(t, " at ");
    if (!asthra__calls_say(t, deed.calls, ASTHRA__SAY_CALLS)) asthra__text_add(t, "(not known)");
}

/* Who freed it, at the full level also who allocated it. */
static void asthra__say_freer(Asthra__Text *t, const Asthra__Found *f) {
    uint64_t by = asthra__found_freed_by(f);
    char name[128];
    if (by == 0) return;
    uint64_t thread = asthra__heap_thread(asthra__trailer_number(by));
    if (thread != 0) asthra__text_format(t, " by thread %llu", (unsigned long long)thread);
    if (f->level == ASTHRA_SAFETY_FULL) {
        Asthra__History history = asthra__full_history(f, ASTHRA_ADDRESS_FREED);
        asthra__say_deed(t, history.freed);
        asthra__text_add(t, "; it was allocated");
        asthra__say_deed(t, history.allocated);
        return;
    }
    size_t length = asthra__os_symbol(asthra__trailer_site(by), name, sizeof name);
    asthra__text_add(t, " at ");
    asthra__text_add_count(t, name, length);
}

/* At the full level. */
static void asthra__say_allocator(Asthra__Text *t, const Asthra__Found *f) {
    if (f->level != ASTHRA_SAFETY_FULL) return;
    asthra__text_add(t, "; it was allocated");
    asthra__say_deed(t, asthra__full_history(f, ASTHRA_ADDRESS_LIVE).allocated);
}

static void asthra__say_what(Asthra__Text *t, const void *ptr, AsthraMemoryZone zone) {
    Asthra__Found f;
    AsthraAddressKind kind = asthra__heap_find(ptr, &f);
    const char *zone_name = asthra_memory_zone_to_string(f.zone);
    asthra__text_format(t, "%p ", ptr);
    if (kind == ASTHRA_ADDRESS_LIVE) {
        asthra__say_where(t, ptr, &f);
        asthra__text_format(t, " of %zu bytes in zone %s", f.size, zone_name);
        if (f.zone != zone) asthra__text_add(t, ", another zone");
        if (f.zone != ASTHRA_MEMORY_ZONE_STACK) asthra__say_allocator(t, &f);
    } else if (kind == ASTHRA_ADDRESS_FREED) {
        asthra__say_where(t, ptr, &f);
        asthra__text_format(t, " of zone %s, freed before", zone_name);
        asthra__say_freer(t, &f);
    } else if (kind == ASTHRA_ADDRESS_SLACK) {
        asthra__text_add(t, "was never allocated: it is in no block, between those of the heap");
    } else {
        asthra__say_outside(t, ptr);
    }
}

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void
asthra__heap_invalid(const void *ptr, AsthraMemoryZone zone, const char *verb) {
    char buffer[ASTHRA__SAY_MOST];
    Asthra__Text t = asthra__text_on(buffer, sizeof buffer);
    asthra__say_what(&t, ptr, zone);
    asthra_panic_at(NULL, "Invalid pointer in %s: %s", verb, buffer);
}

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_overflown(const Asthra__Found *f,
                                                                    const char *verb) {
    char buffer[ASTHRA__SAY_MOST];
    Asthra__Text t = asthra__text_on(buffer, sizeof buffer);
    asthra__say_allocator(&t, f);
    asthra_panic_at(NULL,
                    "Heap overflow, seen in %s: the block %p of %s%zu bytes in zone %s was written "
                    "past its end%s",
                    verb, (void *)f->start, f->is_broken ? "up to " : "", f->size,
                    asthra_memory_zone_to_string(f->zone), buffer);
}

/* A closed page, by a read or a write. */
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_touched(const Asthra__Found *f,
                                                                  const char *at, bool is_live) {
    char buffer[ASTHRA__SAY_MOST];
    Asthra__Text t = asthra__text_on(buffer, sizeof buffer);
    const char *zone = asthra_memory_zone_to_string(f->zone);
    if (is_live) {
        asthra__say_allocator(&t, f);
        asthra_panic_at(NULL,
                        "Heap overflow: %p, %zu bytes past the end of the block %p of %zu bytes in "
                        "zone %s, was touched%s",
                        (const void *)at, (size_t)(at - f->start) - f->size, (void *)f->start,
                        f->size, zone, buffer);
    }
    asthra__say_freer(&t, f);
    asthra_panic_at(NULL,
                    "Use after free: %p, byte %td of the block %p of %zu bytes in zone %s, was "
                    "touched after it was freed%s",
                    (const void *)at, at - f->start, (void *)f->start, f->size, zone, buffer);
}

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_still_pinned(const Asthra__Found *f,
                                                                       const char *verb) {
    asthra_panic_at(NULL,
                    "Pinned memory in %s: the block %p of %zu bytes is pinned; unpin it first",
                    verb, (void *)f->start, f->size);
}

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_damaged(const void *block) {
    Asthra__Found f;
    char buffer[ASTHRA__SAY_MOST];
    Asthra__Text t = asthra__text_on(buffer, sizeof buffer);
    asthra__heap_find(block, &f);
    asthra__say_allocator(&t, &f);
    asthra_panic_at(NULL,
                    "Use after free: the freed block %p (of up to %zu bytes, zone %s) was written "
                    "to%s",
                    block, f.capacity, asthra_memory_zone_to_string(f.zone), buffer);
}

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_used_after_free(const Asthra__Found *f,
                                                                          size_t at) {
    char buffer[ASTHRA__SAY_MOST];
    Asthra__Text t = asthra__text_on(buffer, sizeof buffer);
    asthra__say_freer(&t, f);
    asthra_panic_at(NULL,
                    "Use after free: byte %zu of the block %p (of up to %zu bytes, zone %s) was "
                    "written to after it was freed%s",
                    at, (void *)f->start, f->capacity, asthra_memory_zone_to_string(f->zone),
                    buffer);
}

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_freed_at_once(const void *block) {
    Asthra__Found f;
    char buffer[ASTHRA__SAY_MOST];
    Asthra__Text t = asthra__text_on(buffer, sizeof buffer);
    asthra__heap_find(block, &f);
    asthra__say_allocator(&t, &f);
    asthra_panic_at(NULL,
                    "Double free: the block %p (of up to %zu bytes, zone %s) was freed by two "
                    "threads at once%s",
                    block, f.capacity, asthra_memory_zone_to_string(f.zone), buffer);
}

#endif

/* ---- [heap] body ----------------------------------------------------- memory/heap_full.c ---- */
/* heap - the full level: freed blocks wait, and are looked at again.       [heap] body: full
 *
 * At the full level a freed block is filled with a pattern and waits in the quarantine of the heap
 * whose thread freed it, until so many blocks or bytes came after it. A block that leaves with
 * another byte in it was written to after its free. Until then it is not handed out, so that a
 * second free is told from a first. What is only read after its free is seen as the pattern, and
 * blocks over 64 KiB do not wait.
 *
 *     a page's block | user's bytes | slack            | note | trailer
 *     when freed     | link | freeing task | pattern   | note | trailer
 *
 * Before the trailer of a page's block stand 16 bytes, its note [Asthra__Note]: its stamp, and who
 * allocated it from where. It is written when the block is given out and stays until it is given
 * out again, so that a block that waits, or is in a list, still tells its life. Its first byte is
 * the one that is known to follow the user's. When the block is freed, the number of the calls
 * takes the place of the site in its trailer. The quarantine keeps copies of that and of the task
 * that freed, to see that nobody wrote there; while a block waits the pattern stands in the place
 * of its link. Blocks with records of their own have note and task there.
 *
 * Stamps are taken from the process's count some thousand at a time, 40 bits wide. Each thousandth
 * allocation of a heap is a guarded one if there is room (heap_guard.c).
 *
 * What a heap needs for all this stands in metadata; it keeps it for ever. Without memory for it
 * blocks do not wait, have no stamps and are not guarded.
 */

#if ASTHRA_HAS_MEMORY

enum {
    ASTHRA__QUARANTINE_BLOCKS = 512,
    ASTHRA__QUARANTINE_BYTES = 1 << 20,
    ASTHRA__STAMPS = 4096,      /* that a heap takes at once */
    ASTHRA__GUARD_EVERY = 1000, /* allocations */
    ASTHRA__NOTE_CALLS = 8,     /* the first bit of a note's word that is one of calls */
    ASTHRA__NOTE_STAMP = 24,    /* of stamps */
    ASTHRA__FREED_FROM = 16     /* behind the link and the freeing task */
};
#define ASTHRA__FREED_PATTERN UINT64_C(0xdfdfdfdfdfdfdfdf)
_Static_assert((int)ASTHRA__FREED_FROM <= (int)ASTHRA__FULL_LEAST, "each block has room for it");
_Static_assert(sizeof(Asthra__Note) + ASTHRA__TRAILER_BYTES == ASTHRA__FULL_EXTRA, "of a block");

typedef struct Asthra__Waiting { /* a freed block, and what stands in it */
    char *block;
    uint64_t freed_by, freeing_task;
} Asthra__Waiting;

struct Asthra__Full {
    uint64_t stamp;        /* the last one given */
    uint32_t until_guard;  /* allocations, to the next guarded one */
    unsigned first, count; /* a ring */
    size_t bytes;
    Asthra__Waiting waiting[ASTHRA__QUARANTINE_BLOCKS];
};

static struct { ASTHRA__ATOMIC(uint32_t) stamp_blocks; } asthra__full;

static struct Asthra__Full *asthra__full_of(Asthra__Heap *h) {
    if (ASTHRA__LIKELY(h->full != NULL)) return h->full;
    h->full = asthra__segment_metadata(sizeof *h->full);
    if (h->full != NULL) h->full->until_guard = ASTHRA__GUARD_EVERY;
    return h->full;
}

/* ---- words in blocks, hidden from sanitizers and looked at by all ---- */

#if ASTHRA__ASAN
#define ASTHRA__FULL_OWN ASTHRA__ASAN_BLIND
#elif ASTHRA__TSAN
#define ASTHRA__FULL_OWN ASTHRA__HEAP_PEEK
#else
#define ASTHRA__FULL_OWN
#endif

static ASTHRA__FULL_OWN Asthra__Note asthra__note_read(const Asthra__Note *n) {
    return (Asthra__Note){n->word, n->task};
}
static ASTHRA__FULL_OWN void asthra__note_write(Asthra__Note *n, uint64_t word, uint64_t task) {
    n->word = word;
    n->task = task;
}
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define asthra__note_turn(word) __builtin_bswap64(word) /* the known byte comes first */
#else
#define asthra__note_turn(word) (word)
#endif

static Asthra__Note *asthra__note_of(const Asthra__Found *f) {
    if (f->huge != NULL) return &f->huge->note;
    return (Asthra__Note *)(void *)(f->start + f->capacity - ASTHRA__FULL_EXTRA);
}

static volatile uint64_t *asthra__freeing_task(const char *block) {
    return (volatile uint64_t *)(void *)(uintptr_t)(block + 8);
}
static ASTHRA__FULL_OWN uint64_t asthra__freeing_task_read(const char *block) {
    return *asthra__freeing_task(block);
}
static ASTHRA__FULL_OWN void asthra__freeing_task_write(const char *block, uint64_t task) {
    *asthra__freeing_task(block) = task;
}

/* Word for word: memset would be a sanitizer's, or is made into an instruction that takes long to
 * begin. `end` is a multiple of eight. */
static ASTHRA__FULL_OWN void asthra__full_fill(char *block, size_t end) {
    volatile uint64_t *words = (volatile uint64_t *)(void *)block;
    *(volatile uintptr_t *)(void *)block = (uintptr_t)ASTHRA__FREED_PATTERN;
    for (size_t i = ASTHRA__FREED_FROM / sizeof *words; i < end / sizeof *words; i++)
        words[i] = ASTHRA__FREED_PATTERN;
}

/* The first byte of the words that are others; end: none is. Four at once while there are. */
static ASTHRA__FULL_OWN size_t asthra__full_touched(const char *block, size_t end) {
    const uint64_t *words = (const uint64_t *)(const void *)block, pattern = ASTHRA__FREED_PATTERN;
    size_t i = ASTHRA__FREED_FROM / sizeof *words, count = end / sizeof *words;
    if (*(const uintptr_t *)(const void *)block != (uintptr_t)pattern) return 0;
    while (i + 4 <= count && ((words[i] ^ pattern) | (words[i + 1] ^ pattern) |
                              (words[i + 2] ^ pattern) | (words[i + 3] ^ pattern)) == 0)
        i += 4;
    while (i < count && words[i] == pattern) i++;
    return i * sizeof *words;
}

static ASTHRA__FULL_OWN size_t asthra__full_touched_byte(const char *block, size_t word) {
    const volatile unsigned char *bytes = (const volatile unsigned char *)block;
    while (bytes[word] == (ASTHRA__FREED_PATTERN & 0xff)) word++;
    return word;
}

static ASTHRA__FULL_OWN size_t asthra__full_unlike(const char *at, const void *copy, size_t size) {
    const volatile char *bytes = at;
    size_t i = 0;
    while (i < size && bytes[i] == ((const char *)copy)[i]) i++;
    return i;
}

/* ---- notes ---- */

/* The stamps of a heap run to the next multiple of ASTHRA__STAMPS. */
static uint64_t asthra__full_stamp(struct Asthra__Full *full) {
    if (ASTHRA__UNLIKELY(++full->stamp % ASTHRA__STAMPS <= 1))
        full->stamp =
            (uint64_t)asthra__add(&asthra__full.stamp_blocks, 1u, relaxed) * ASTHRA__STAMPS + 2;
    return full->stamp;
}

/* As much of what asthra__heap_find says of a live block as its note needs. */
static void asthra__full_locate(Asthra__Found *f, char *block) {
    uintptr_t entry = asthra__region_entry(block);
    if (entry % ASTHRA__REGION_KINDS != ASTHRA__REGION_SEGMENT) {
        asthra__heap_find(block, f);
        return;
    }
    f->page = asthra__segment_page(entry - ASTHRA__REGION_SEGMENT, block);
    f->huge = NULL;
    f->start = block;
    f->capacity = f->page->block_size;
}

ASTHRA__FN bool asthra__full_wants_guard(Asthra__Heap *h) {
    struct Asthra__Full *full = h->zone == ASTHRA_MEMORY_ZONE_STACK ? NULL : asthra__full_of(h);
    if (ASTHRA__LIKELY(full == NULL || --full->until_guard != 0)) return false;
    full->until_guard = ASTHRA__GUARD_EVERY;
    return true;
}

ASTHRA__FN void asthra__full_allocated(Asthra__Heap *h, const void *block, Asthra__Deed deed) {
    Asthra__Found f;
    struct Asthra__Full *full = asthra__full_of(h);
    uint64_t stamp = full == NULL ? 0 : asthra__full_stamp(full);
    asthra__full_locate(&f, (char *)(uintptr_t)block);
    uint64_t word = stamp << ASTHRA__NOTE_STAMP | (uint64_t)deed.calls << ASTHRA__NOTE_CALLS |
                    ASTHRA__TRAILER_LIVE;
    asthra__note_write(asthra__note_of(&f), asthra__note_turn(word), deed.task);
}

ASTHRA__FN void asthra__full_freed(const Asthra__Found *f, Asthra__Deed deed) {
    if (f->huge != NULL)
        f->huge->freeing_task = deed.task;
    else
        asthra__freeing_task_write(f->start, deed.task);
}

ASTHRA__FN ASTHRA__HEAP_PEEK Asthra__History asthra__full_history(const Asthra__Found *f,
                                                                  AsthraAddressKind kind) {
    Asthra__Note note = asthra__note_read(asthra__note_of(f));
    Asthra__History history = {0, {0, 0}, {0, 0}};
    uint64_t word = asthra__note_turn(note.word);
    if ((word & 255) == ASTHRA__TRAILER_LIVE) { /* else its memory is gone, or not its own */
        history.stamp = word >> ASTHRA__NOTE_STAMP;
        history.allocated.task = note.task;
        history.allocated.calls = (uint32_t)(word >> ASTHRA__NOTE_CALLS) & 0xffff;
    }
    uint64_t by = kind == ASTHRA_ADDRESS_FREED ? asthra__found_freed_by(f) : 0;
    if (by == 0) return history;
    history.freed.calls = (uint32_t)(uintptr_t)asthra__trailer_site(by);
    history.freed.task =
        f->huge != NULL ? f->huge->freeing_task : asthra__freeing_task_read(f->start);
    return history;
}

/* ---- the quarantine ---- */

static bool asthra__waiting_is_whole(const Asthra__Found *f, const Asthra__Waiting *w) {
    size_t end = f->capacity - ASTHRA__FULL_EXTRA;
    return asthra__full_touched(w->block, end) == end &&
           asthra__freeing_task_read(w->block) == w->freeing_task &&
           asthra__found_freed_by(f) == w->freed_by;
}

/* Says which byte of it is the first that somebody wrote to. */
ASTHRA__COLD ASTHRA_NORETURN static void asthra__waiting_panic(const Asthra__Found *f,
                                                               const Asthra__Waiting *w) {
    size_t end = f->capacity - ASTHRA__FULL_EXTRA, at = asthra__full_touched(w->block, end);
    size_t same = asthra__full_unlike(w->block + 8, &w->freeing_task, sizeof w->freeing_task);
    if (at == end && same < sizeof w->freeing_task)
        at = 8 + same;
    else if (at == end)
        at = f->capacity - ASTHRA__TRAILER_BYTES;
    else
        at = asthra__full_touched_byte(w->block, at);
    asthra__heap_used_after_free(f, at);
}

/* The oldest block goes home. */
static void asthra__quarantine_release(Asthra__Heap *h, struct Asthra__Full *q) {
    Asthra__Found f;
    Asthra__Waiting w = q->waiting[q->first];
    q->first = (q->first + 1) % ASTHRA__QUARANTINE_BLOCKS;
    q->count--;
    asthra__heap_find(w.block, &f);
    q->bytes -= f.capacity;
    if (ASTHRA__UNLIKELY(!asthra__waiting_is_whole(&f, &w))) asthra__waiting_panic(&f, &w);
    asthra__heap_go_home(h, &f);
}

ASTHRA__FN void asthra__quarantine_flush(Asthra__Heap *h) {
    while (h->full != NULL && h->full->count > 0) asthra__quarantine_release(h, h->full);
}

ASTHRA__FN bool asthra__quarantine_add(Asthra__Heap *h, const Asthra__Found *f) {
    struct Asthra__Full *q = asthra__full_of(h);
    if (q == NULL || f->capacity > ASTHRA__MEDIUM_MAX) return false;
    while (q->count == ASTHRA__QUARANTINE_BLOCKS ||
           (q->count > 0 && q->bytes + f->capacity > ASTHRA__QUARANTINE_BYTES))
        asthra__quarantine_release(h, q);
    asthra__full_fill(f->start, f->capacity - ASTHRA__FULL_EXTRA);
    q->waiting[(q->first + q->count++) % ASTHRA__QUARANTINE_BLOCKS] =
        (Asthra__Waiting){f->start, asthra__found_freed_by(f), asthra__freeing_task_read(f->start)};
    q->bytes += f->capacity;
    return true;
}

#endif

/* ---- [heap] body ---------------------------------------------------- memory/heap_guard.c ---- */
/* heap - blocks that end where an inaccessible page begins.                [heap] body: guard
 *
 * The slack finds an overflow when the block is freed, the quarantine a write when a freed block
 * leaves it, and neither finds a read. So some blocks of the full level, one in a thousand, have a
 * page of their own: the block ends at the page's end, and the page after it is closed. When the
 * block is freed its own page is closed too, until its place is used again, which is as late as can
 * be. The instruction that touches a closed page faults, and the fault becomes a panic that names
 * the block and its life, in the thread and with the stack that did it.
 *
 * A pool is one unit of the region table, cut into places of two pages each; at first all of it is
 * closed. A place's record is that of a huge block, so that all that is asked of those holds for
 * guarded blocks too. Free places wait in a queue, oldest first, under the lock. There are no more
 * than four pools (with pages of 4 KiB 2,048 places); open places cost a page and two entries in
 * the system's list of mappings each, of which a process has tens of thousands. What cannot have a
 * place, for whatever reason, becomes an ordinary block; so do all while a caller's allocator is in
 * use, which has no such pages.
 *
 * The faults are told by who installs the handler: the runtime's, while it runs. At other times
 * they are plain faults.
 */

#if ASTHRA_HAS_MEMORY

enum { ASTHRA__GUARD_POOLS = 4 };

typedef struct Asthra__GuardPool {
    char *unit;
    size_t page;
    uint32_t count; /* of places */
    Asthra__Huge places[];
} Asthra__GuardPool;

static struct {
    Asthra__Lock lock; /* of the queue, and of making pools */
    ASTHRA__ATOMIC(Asthra__GuardPool *) pools[ASTHRA__GUARD_POOLS];
    Asthra__Huge *first_free, *last_free;
} asthra__guard;

/* ---- places ---- */

/* Caller holds the lock. */
static void asthra__guard_enqueue(Asthra__Huge *guard) {
    guard->next_free = NULL;
    if (asthra__guard.first_free == NULL)
        asthra__guard.first_free = guard;
    else
        asthra__guard.last_free->next_free = guard;
    asthra__guard.last_free = guard;
}

static char *asthra__guard_page(const Asthra__GuardPool *pool, const Asthra__Huge *guard) {
    return pool->unit + (size_t)(guard - pool->places) * 2 * pool->page;
}

/* The pool is made, but nobody knows it. */
static Asthra__GuardPool *asthra__guard_map(void) {
    size_t page = asthra__os_page_size(), count = ASTHRA__REGION_BYTES / (2 * page);
    size_t bytes = sizeof(Asthra__GuardPool) + count * sizeof(Asthra__Huge);
    Asthra__GuardPool *pool = asthra__os_map(bytes);
    char *unit = asthra__os_map_aligned(ASTHRA__REGION_BYTES, ASTHRA__REGION_BYTES);
    if (pool != NULL && unit != NULL && asthra__os_close_pages(unit, ASTHRA__REGION_BYTES)) {
        *pool = (Asthra__GuardPool){.unit = unit, .page = page, .count = (uint32_t)count};
        for (size_t i = 0; i < count; i++) {
            pool->places[i].is_guarded = true;
            pool->places[i].zone = ASTHRA_MEMORY_ZONE_NONE;
        }
        if (asthra__region_claim(unit, ASTHRA__REGION_BYTES, pool, ASTHRA__REGION_GUARD))
            return pool;
    }
    if (unit != NULL) asthra__os_unmap(unit, ASTHRA__REGION_BYTES);
    if (pool != NULL) asthra__os_unmap(pool, bytes);
    return NULL;
}

/* Caller holds the lock. */
static void asthra__guard_grow(void) {
    unsigned n = 0;
    while (n < ASTHRA__GUARD_POOLS && asthra__load(&asthra__guard.pools[n], relaxed) != NULL) n++;
    Asthra__GuardPool *pool = n == ASTHRA__GUARD_POOLS ? NULL : asthra__guard_map();
    if (pool == NULL) return;
    for (uint32_t i = 0; i < pool->count; i++) asthra__guard_enqueue(&pool->places[i]);
    asthra__store(&asthra__guard.pools[n], pool, release);
}

static Asthra__Huge *asthra__guard_dequeue(void) {
    asthra__lock(&asthra__guard.lock);
    if (asthra__guard.first_free == NULL) asthra__guard_grow();
    Asthra__Huge *guard = asthra__guard.first_free;
    if (guard != NULL) asthra__guard.first_free = guard->next_free;
    asthra__unlock(&asthra__guard.lock);
    return guard;
}

static const Asthra__GuardPool *asthra__guard_pool(const Asthra__Huge *guard) {
    for (unsigned n = 0;; n++) {
        const Asthra__GuardPool *pool = asthra__load(&asthra__guard.pools[n], acquire);
        if ((size_t)((const char *)guard - (const char *)pool->places) <
            pool->count * sizeof *guard)
            return pool;
    }
}

static void asthra__guard_queue(Asthra__Huge *guard) {
    asthra__lock(&asthra__guard.lock);
    asthra__guard_enqueue(guard);
    asthra__unlock(&asthra__guard.lock);
}

ASTHRA__FN Asthra__Huge *asthra__guard_take(size_t size) {
    size_t capacity = size == 0 ? 16 : (size + 15) & ~(size_t)15;
    if (size > asthra__os_page_size() || asthra__alloc_is_hooked()) return NULL;
    Asthra__Huge *guard = asthra__guard_dequeue();
    if (guard == NULL) return NULL;
    const Asthra__GuardPool *pool = asthra__guard_pool(guard);
    char *page = asthra__guard_page(pool, guard);
    if (!asthra__os_open_pages(page, pool->page)) {
        asthra__guard_queue(guard);
        return NULL;
    }
    asthra__heap_hide(page, pool->page);
    guard->start = page + pool->page - capacity;
    guard->mapped = capacity;
    asthra__heap_show(guard->start, size);
    return guard;
}

/* A page that the system does not close, for want of mappings, stays open and is used again. */
ASTHRA__FN void asthra__guard_give(Asthra__Huge *guard) {
    const Asthra__GuardPool *pool = asthra__guard_pool(guard);
    asthra__os_close_pages(asthra__guard_page(pool, guard), pool->page);
    asthra__guard_queue(guard);
}

ASTHRA__FN Asthra__Huge *asthra__guard_find(uintptr_t pool, const void *ptr) {
    Asthra__GuardPool *p = (Asthra__GuardPool *)pool;
    return &p->places[((uintptr_t)ptr & (ASTHRA__REGION_BYTES - 1)) / (2 * p->page)];
}

ASTHRA__FN ASTHRA__HEAP_PEEK void asthra__guard_each(bool (*visit)(Asthra__Huge *guard, void *user),
                                                     void *user) {
    for (unsigned n = 0; n < ASTHRA__GUARD_POOLS; n++) {
        Asthra__GuardPool *pool = asthra__load(&asthra__guard.pools[n], acquire);
        if (pool == NULL) return;
        for (uint32_t i = 0; i < pool->count; i++) {
            Asthra__Huge *guard = &pool->places[i];
            if (asthra__load(&guard->is_live, acquire) != 0 && !visit(guard, user)) return;
        }
    }
}

/* ---- faults ---- */

/* On the stack of the thread that faulted, which may stand at any multiple of eight, or four. */
#if defined(__x86_64__) || defined(__i386__)
__attribute__((__force_align_arg_pointer__))
#endif
ASTHRA__COLD static ASTHRA__OS_CALLED void
asthra__guard_panic(void *address) {
    Asthra__Found f;
    bool is_live = asthra__heap_find(address, &f) != ASTHRA_ADDRESS_FREED &&
                   asthra__load(&f.huge->is_live, acquire) != 0;
    asthra__heap_touched(&f, address, is_live);
}

/* In a signal handler. The own page of a live block is open: what faults there is not ours. */
ASTHRA__FN bool asthra__guard_on_fault(void *address, void *context) {
    uintptr_t entry = asthra__region_entry(address);
    if (entry % ASTHRA__REGION_KINDS != ASTHRA__REGION_GUARD) return false;
    const Asthra__GuardPool *pool = (const void *)(entry - ASTHRA__REGION_GUARD);
    const Asthra__Huge *guard = asthra__guard_find(entry - ASTHRA__REGION_GUARD, address);
    bool is_behind = (char *)address >= asthra__guard_page(pool, guard) + pool->page;
    if (guard->start == NULL) return false;
    if (!is_behind && asthra__load(&guard->is_live, acquire) != 0) return false;
    return asthra__os_fault_call(context, asthra__guard_panic, address);
}

ASTHRA__FN void asthra__guard_fork_before(void) {
    asthra__lock(&asthra__guard.lock);
}
ASTHRA__FN void asthra__guard_fork_after(void) {
    asthra__unlock(&asthra__guard.lock);
}

#endif

/* ---- [heap] body ---------------------------------------------------- memory/heap_trace.c ---- */
/* heap - who did something to a block, and from where.                     [heap] body: trace
 *
 * At the full level each allocation and each free notes the task and the calls on the stack. Two
 * things make that cheap enough to do always.
 *
 * A walk is remembered. Unwinding by the program's tables takes a microsecond; but where one return
 * address stands is known once the frame above it has been unwound: for the code that a call goes
 * back to, the distance on the stack to the next return address is always the same. So a table says
 * for return addresses how far it is to the next [Asthra__Step], the unwinder is asked for what the
 * table does not know yet, and most walks are some ten look-ups. No frame pointers are needed.
 * Frames whose size changes (alloca, arrays of variable length, realigned stacks) are found out
 * when two distances for one address differ; from then on stacks with them are unwound each time.
 * Until then a wrong distance leads to a word that is hardly ever a return address that the table
 * knows. No step leaves the stack, whose end the scheduler or the system tells; on a stack that is
 * unknown to both, everything is unwound.
 *
 * Equal stacks are stored once [Asthra__Calls], and a block keeps a number of 16 bits. The depot
 * never forgets; it has room for 32,767 stacks, and takes memory as it fills. A site that comes
 * with very many of them, as in a recursion with several calls, keeps four calls of the next ones
 * and then two, so that there are fewer, and in the last quarter of the depot one. When that is
 * full, what is new has no number.
 *
 * Both tables are one mapping, made at the first use. A step is two words that tell nothing to who
 * sees only one of them new: the first is the address turned by the second. Lists of the depot only
 * grow at their heads; of two threads that add equal stacks at once both may succeed, and nothing
 * is lost but room.
 */

#if ASTHRA_HAS_MEMORY

#include <string.h>

enum {
    ASTHRA__CALLS_DEPTH = 8,
    ASTHRA__CALLS_OWN = 6, /* of the walk: our own above it */
    ASTHRA__CALLS_WALK = ASTHRA__CALLS_DEPTH + ASTHRA__CALLS_OWN,
    ASTHRA__CALLS_MOST = 32768,
    ASTHRA__CALLS_HEADS = 16384,
    ASTHRA__STEPS = 4096,
    ASTHRA__FAN_WIDE = 64,                    /* stacks of one site, until they keep fewer calls */
    ASTHRA__STEP_BITS = sizeof(uintptr_t) * 4 /* half of a word */
};

/* What is known of a return address: the distances, in words, from the stack pointer after the
 * return to the place of the next return address, and to the stack pointer there. */
typedef struct Asthra__Step {
    ASTHRA__ATOMIC(uintptr_t) check, how; /* check ^ how: the address */
} Asthra__Step;
#define ASTHRA__STEP_HALF (((uintptr_t)1 << ASTHRA__STEP_BITS) - 1)
#define ASTHRA__STEP_END (~(uintptr_t)0)        /* nobody called this */
#define ASTHRA__STEP_VARIES (~(uintptr_t)0 - 1) /* to be unwound each time */

typedef struct Asthra__Calls {
    ASTHRA__ATOMIC(const char *) text;
    ASTHRA__ATOMIC(uint32_t) next; /* of the same hash; 0: none */
    uint32_t count;
    uintptr_t places[ASTHRA__CALLS_DEPTH]; /* return addresses, innermost first */
} Asthra__Calls;

typedef struct Asthra__Depot {
    ASTHRA__ATOMIC(uint32_t) used;
    ASTHRA__ATOMIC(uint32_t) heads[ASTHRA__CALLS_HEADS];
    Asthra__Step steps[ASTHRA__STEPS];
    ASTHRA__ATOMIC(uint16_t) fans[ASTHRA__STEPS]; /* stacks of a site, and of its like in hash */
    Asthra__Calls calls[ASTHRA__CALLS_MOST];      /* the first is nobody's */
} Asthra__Depot;

static struct {
    ASTHRA__ATOMIC(Asthra__Depot *) depot;
    ASTHRA__ATOMIC(const Asthra__HeapRunner *) runner;
} asthra__deeds;

#if ASTHRA__ASAN
#define ASTHRA__STACK_PEEK ASTHRA__ASAN_BLIND
#elif ASTHRA__TSAN
#define ASTHRA__STACK_PEEK ASTHRA__HEAP_PEEK
#else
#define ASTHRA__STACK_PEEK
#endif

ASTHRA__FN void asthra__heap_set_runner(const Asthra__HeapRunner *runner) {
    asthra__store(&asthra__deeds.runner, runner, release);
}

/* NULL: no memory. */
static Asthra__Depot *asthra__depot(void) {
    Asthra__Depot *d = asthra__load(&asthra__deeds.depot, acquire), *none = NULL;
    if (ASTHRA__LIKELY(d != NULL)) return d;
    d = asthra__os_map(sizeof *d);
    if (d == NULL) return NULL;
    if (asthra__cas(&asthra__deeds.depot, &none, d, acq_rel)) return d;
    asthra__os_unmap(d, sizeof *d);
    return asthra__load(&asthra__deeds.depot, acquire);
}

/* ---- steps ---- */

static ASTHRA__FAST Asthra__Step *asthra__step_at(Asthra__Depot *d, uintptr_t place) {
    return &d->steps[(place >> 1 ^ place >> 13) % ASTHRA__STEPS];
}

/* 0: not known. */
static ASTHRA__FAST uintptr_t asthra__step_find(Asthra__Depot *d, uintptr_t place) {
    Asthra__Step *s = asthra__step_at(d, place);
    uintptr_t how = asthra__load(&s->how, relaxed);
    return (asthra__load(&s->check, relaxed) ^ how) == place ? how : 0;
}

static void asthra__step_set(Asthra__Depot *d, uintptr_t place, uintptr_t how) {
    Asthra__Step *s = asthra__step_at(d, place);
    uintptr_t known = asthra__step_find(d, place);
    if (known == how) return;
    if (known != 0) how = ASTHRA__STEP_VARIES;
    asthra__store(&s->how, how, relaxed);
    asthra__store(&s->check, place ^ how, relaxed);
}

static ASTHRA__STACK_PEEK uintptr_t asthra__stack_word(uintptr_t at) {
    return *(const volatile uintptr_t *)at;
}

/* Where the return address stands depends on processor and compiler, so it is looked for. */
static void asthra__step_learn(Asthra__Depot *d, const Asthra__OsFrame *from,
                               const Asthra__OsFrame *to) {
    uintptr_t slot = to->stack, delta = (to->stack - from->stack) / sizeof slot;
    if (from->is_exact || to->is_exact || to->stack <= from->stack) return;
    if (delta >= ASTHRA__STEP_HALF || to->stack % sizeof slot != 0) return;
    do slot -= sizeof slot;
    while (slot > from->stack && asthra__stack_word(slot) != to->place);
    if (slot < from->stack || asthra__stack_word(slot) != to->place) return;
    uintptr_t offset = (slot - from->stack) / sizeof slot;
    asthra__step_set(d, from->place, delta << ASTHRA__STEP_BITS | offset);
}

/* ---- walks ---- */

typedef struct Asthra__Walk {
    Asthra__Depot *depot;
    uintptr_t place, stack, end; /* of the first return address; end: of the stack, 0: not known */
    uintptr_t site;              /* what is kept begins there: above it is our own */
    size_t most, count;
    uintptr_t kept[ASTHRA__CALLS_DEPTH];
} Asthra__Walk;

/* Not what a recursion comes through once more: it tells little, and there are many ways. */
static ASTHRA__FAST void asthra__walk_keep(Asthra__Walk *w, uintptr_t place) {
    size_t n = w->count;
    if (n == 0 && place != w->site) return;
    if ((n >= 1 && w->kept[n - 1] == place) || (n >= 2 && w->kept[n - 2] == place)) return;
    w->kept[w->count++] = place;
}

/* Keeps nothing if some step is not known. */
static void asthra__walk_known(Asthra__Walk *w) {
    uintptr_t place = w->place, stack = w->stack;
    for (size_t n = 0; n < ASTHRA__CALLS_WALK && stack < w->end; n++) {
        uintptr_t how = asthra__step_find(w->depot, place);
        if (ASTHRA__UNLIKELY(how == 0 || how == ASTHRA__STEP_VARIES)) break;
        asthra__walk_keep(w, place);
        if (how == ASTHRA__STEP_END || w->count == w->most) return;
        uintptr_t slot = stack + (how & ASTHRA__STEP_HALF) * sizeof slot;
        if (ASTHRA__UNLIKELY(slot > w->end - sizeof slot)) break;
        place = asthra__stack_word(slot);
        stack += (how >> ASTHRA__STEP_BITS) * sizeof slot;
        if (n + 1 == ASTHRA__CALLS_WALK) return;
    }
    w->count = 0;
}

/* With the unwinder; the table learns from it. */
ASTHRA__COLD static void asthra__walk_unwound(Asthra__Walk *w) {
    Asthra__OsFrame frames[ASTHRA__CALLS_WALK + 4];
    bool is_all = false;
    size_t count = asthra__os_frames(frames, sizeof frames / sizeof *frames, &is_all), first = 0;
    while (first < count && frames[first].place != w->place) first++;
    if (first == count) return;
    frames[first].stack = w->stack; /* as those who know the walk will count it */
    for (size_t i = first; i < count; i++) {
        if (i + 1 < count)
            asthra__step_learn(w->depot, &frames[i], &frames[i + 1]);
        else if (is_all && !frames[i].is_exact)
            asthra__step_set(w->depot, frames[i].place, ASTHRA__STEP_END);
        if (w->count < w->most) asthra__walk_keep(w, frames[i].place);
    }
}

/* ---- the depot ---- */

static ASTHRA__ATOMIC(uint16_t) * asthra__fan_at(Asthra__Depot *d, uintptr_t site) {
    return &d->fans[(site >> 1 ^ site >> 13) % ASTHRA__STEPS];
}

static uint32_t asthra__calls_find(Asthra__Depot *d, uint32_t first, const uintptr_t *places,
                                   size_t count) {
    for (uint32_t i = first; i != 0; i = asthra__load(&d->calls[i].next, relaxed)) {
        const Asthra__Calls *c = &d->calls[i];
        size_t n = 0;
        while (n < count && c->places[n] == places[n]) n++;
        if (n == count && c->count == count) return i;
    }
    return 0;
}

/* 0: the depot is full. */
static uint32_t asthra__calls_add(Asthra__Depot *d, ASTHRA__ATOMIC(uint32_t) * head, uint32_t first,
                                  const uintptr_t *places, size_t count) {
    if (asthra__load(&d->used, relaxed) >= ASTHRA__CALLS_MOST - 1) return 0;
    uint32_t i = asthra__add(&d->used, 1u, relaxed) + 1;
    if (i >= ASTHRA__CALLS_MOST) return 0;
    Asthra__Calls *c = &d->calls[i];
    ASTHRA__ATOMIC(uint16_t) *fan = asthra__fan_at(d, places[0]);
    asthra__store(fan, (uint16_t)(asthra__load(fan, relaxed) + 1), relaxed);
    c->count = (uint32_t)count;
    memcpy(c->places, places, count * sizeof *places);
    do {
        asthra__store(&c->next, first, relaxed);
    } while (!asthra__cas(head, &first, i, release)); /* partner: the acquire of who looks */
    return i;
}

static uint32_t asthra__calls_of(Asthra__Depot *d, const uintptr_t *places, size_t count) {
    uint64_t hash = count;
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ places[i]) * UINT64_C(0x9e3779b97f4a7c15) ^ hash >> 29;
    ASTHRA__ATOMIC(uint32_t) *head = &d->heads[hash >> 40 & (ASTHRA__CALLS_HEADS - 1)];
    uint32_t first = asthra__load(head, acquire), i = asthra__calls_find(d, first, places, count);
    return ASTHRA__LIKELY(i != 0) ? i : asthra__calls_add(d, head, first, places, count);
}

/* ---- deeds ---- */

/* The end of the stack that the caller stands on; 0: it is nobody's that we know. */
static uintptr_t asthra__stack_end_of(Asthra__Thread *t, const Asthra__HeapRunner *runner,
                                      uintptr_t stack) {
    const char *here = (const char *)stack;
    char *end = runner == NULL ? NULL : runner->stack_end(here);
    if (ASTHRA__LIKELY(end != NULL)) return (uintptr_t)end;
    if (t->stack_high == NULL && !asthra__os_stack_bounds(&t->stack_low, &t->stack_high))
        t->stack_low = t->stack_high = (void *)(uintptr_t)1;
    bool is_own = here >= (char *)t->stack_low && here < (char *)t->stack_high;
    return is_own ? (uintptr_t)t->stack_high : 0;
}

/* How many calls a stack keeps. */
static size_t asthra__calls_depth(Asthra__Depot *d, uintptr_t site) {
    uint32_t used = asthra__load(&d->used, relaxed);
    int wide = used < ASTHRA__CALLS_MOST / 8 ? ASTHRA__FAN_WIDE : ASTHRA__FAN_WIDE / 4;
    int fan = asthra__load(asthra__fan_at(d, site), relaxed);
    if (ASTHRA__LIKELY(fan < wide)) return ASTHRA__CALLS_DEPTH;
    return used > ASTHRA__CALLS_MOST / 4 * 3 ? 1 : fan < 4 * wide ? 4 : 2;
}

/* Where a walk does not meet the site, as without an unwinder, the site stands alone. */
static uint32_t asthra__calls_here(Asthra__Walk *w) {
    asthra__walk_known(w);
    if (ASTHRA__UNLIKELY(w->count == 0)) asthra__walk_unwound(w);
    if (w->count == 0 && w->site == 0) return 0;
    if (w->count == 0) w->kept[w->count++] = w->site;
    return asthra__calls_of(w->depot, w->kept, w->count);
}

ASTHRA__FN ASTHRA__NOINLINE Asthra__Deed asthra__deed_here(const void *site) {
    const Asthra__HeapRunner *runner = asthra__load(&asthra__deeds.runner, acquire);
    Asthra__Deed deed = {runner == NULL ? 0 : runner->task(), 0};
    Asthra__Thread *t = asthra__thread_place();
    Asthra__Depot *d = asthra__depot();
    if (d == NULL || t->is_in_deed) return deed; /* the unwinder's own, or the C library's */
    t->is_in_deed = true;
    Asthra__Walk w;
    w.depot = d;
    w.place = (uintptr_t)__builtin_return_address(0);
    w.stack = (uintptr_t)ASTHRA__CALLER_STACK;
    w.end = asthra__stack_end_of(t, runner, w.stack);
    w.site = (uintptr_t)site;
    w.most = asthra__calls_depth(d, w.site);
    w.count = 0;
    deed.calls = asthra__calls_here(&w);
    t->is_in_deed = false;
    return deed;
}

/* ---- words ---- */

/* Copies what another thread may just have filled; 0: there is no such number. */
static ASTHRA__HEAP_PEEK size_t asthra__calls_places(uint32_t calls, uintptr_t *places) {
    const Asthra__Depot *d = asthra__load(&asthra__deeds.depot, acquire);
    if (d == NULL || calls == 0 || calls >= ASTHRA__CALLS_MOST) return 0;
    const Asthra__Calls *c = &d->calls[calls];
    size_t count = c->count <= ASTHRA__CALLS_DEPTH ? c->count : 0;
    for (size_t i = 0; i < count; i++) places[i] = c->places[i];
    return count;
}

ASTHRA__FN bool asthra__calls_say(Asthra__Text *t, uint32_t calls, size_t most) {
    uintptr_t places[ASTHRA__CALLS_DEPTH];
    size_t count = asthra__calls_places(calls, places), from = t->length;
    for (size_t i = 0; i < count; i++) {
        char name[128]; /* a return address may be that of the next function */
        size_t length = asthra__os_symbol((const void *)(places[i] - 1), name, sizeof name);
        if (i > 0 && t->length - from + length + 7 > most) break;
        asthra__text_add(t, i == 0 ? "" : ", from ");
        asthra__text_add_count(t, name, length);
    }
    return count != 0;
}

ASTHRA__FN const char *asthra__calls_text(uint32_t calls) {
    char buffer[ASTHRA__CALLS_DEPTH * 136];
    Asthra__Depot *d = asthra__load(&asthra__deeds.depot, acquire);
    if (d == NULL || calls >= ASTHRA__CALLS_MOST) return NULL;
    Asthra__Calls *c = &d->calls[calls];
    const char *text = asthra__load(&c->text, acquire);
    Asthra__Text t = asthra__text_on(buffer, sizeof buffer);
    if (text != NULL || !asthra__calls_say(&t, calls, sizeof buffer)) return text;
    char *own = asthra__segment_metadata(t.length + 1);
    if (own == NULL) return NULL;
    memcpy(own, buffer, t.length + 1);
    return asthra__cas(&c->text, &text, own, release) ? own : asthra__load(&c->text, acquire);
}

#endif

/* ---- [heap] body ----------------------------------------------------- memory/heap_walk.c ---- */
/* heap - what is asked of all heaps.                                       [heap] body: walk
 *
 * Sums, walks, measures and the trim go over the heaps, pages and huge blocks of all threads while
 * these go on: what they say is exact where nobody is at work.
 */

#if ASTHRA_HAS_MEMORY

ASTHRA__FN void asthra__heap_sum(AsthraMemoryZone zone, Asthra__AccountSum *sum) {
    Asthra__Heap *h = NULL;
    while ((h = asthra__heap_next(h, zone)) != NULL) asthra__account_sum(&h->account, sum);
}

typedef struct Asthra__HeapWalk {
    AsthraMemoryZone zone;
    bool (*visit)(void *block, size_t size, void *user);
    void *user;
    size_t mapped, resident;
    bool goes_on;
} Asthra__HeapWalk;

static ASTHRA__HEAP_PEEK bool asthra__walk_page(Asthra__HeapPage *p, void *user) {
    Asthra__HeapWalk *w = user;
    Asthra__Found f;
    /* visit may free the page's last block, and what it allocates may take the slices */
    for (size_t i = 0; p->slices != 0 && p->zone == (int8_t)w->zone && i < p->room && w->goes_on;
         i++) {
        char *block = p->start + i * p->block_size;
        if (asthra__heap_find(block, &f) == ASTHRA_ADDRESS_LIVE)
            w->goes_on = w->visit(block, f.size, w->user);
    }
    return w->goes_on;
}

static ASTHRA__HEAP_PEEK bool asthra__walk_huge(Asthra__Huge *huge, void *user) {
    Asthra__HeapWalk *w = user;
    if (huge->zone == (int8_t)w->zone) w->goes_on = w->visit(huge->start, huge->size, w->user);
    return w->goes_on;
}

ASTHRA__FN void asthra__heap_walk(AsthraMemoryZone zone,
                                  bool (*visit)(void *block, size_t size, void *user), void *user) {
    Asthra__HeapWalk w = {zone, visit, user, 0, 0, true};
    asthra__segment_each(asthra__walk_page, &w);
    if (w.goes_on) asthra__huge_each(asthra__walk_huge, &w);
}

static ASTHRA__HEAP_PEEK bool asthra__measure_page(Asthra__HeapPage *p, void *user) {
    Asthra__HeapWalk *w = user;
    if (p->zone != (int8_t)w->zone) return true;
    size_t bytes = (size_t)p->slices * ASTHRA__SLICE_BYTES;
    w->mapped += bytes;
    w->resident += asthra__os_resident(
        (char *)((uintptr_t)p->start & ~(uintptr_t)(ASTHRA__SLICE_BYTES - 1)), bytes);
    return true;
}

static ASTHRA__HEAP_PEEK bool asthra__measure_huge(Asthra__Huge *huge, void *user) {
    Asthra__HeapWalk *w = user;
    if (huge->zone != (int8_t)w->zone && w->zone != ASTHRA_MEMORY_ZONE_NONE) return true;
    char *page = (char *)((uintptr_t)huge->start & ~(asthra__os_page_size() - 1));
    size_t bytes = (size_t)(huge->start + huge->mapped - page); /* a guarded block begins late */
    w->mapped += bytes;
    w->resident += asthra__os_resident(page, bytes);
    return true;
}

ASTHRA__FN size_t asthra__heap_mapped(AsthraMemoryZone zone, size_t *resident) {
    Asthra__HeapWalk w = {zone, NULL, NULL, 0, 0, true};
    if (zone == ASTHRA_MEMORY_ZONE_NONE)
        w.mapped = asthra__segment_mapped(&w.resident);
    else
        asthra__segment_each(asthra__measure_page, &w);
    asthra__huge_each(asthra__measure_huge, &w);
    if (zone == ASTHRA_MEMORY_ZONE_NONE) w.mapped += asthra__huge_kept(&w.resident);
    *resident = w.resident;
    return w.mapped;
}

static size_t asthra__heap_trim_all(void) {
    size_t bytes = asthra__heap_visit_idle() + asthra__heap_visit_shared();
    for (size_t zone = 0; zone < ASTHRA__ZONES; zone++) {
        if (asthra__thread_place()->heaps[zone] == NULL) continue;
        Asthra__Heap *h = asthra__heap_enter((AsthraMemoryZone)zone);
        bytes += asthra__heap_trim_one(h);
        asthra__heap_leave(h);
    }
    return bytes;
}

/* Twice: what waits in the quarantine of one heap goes home to another, visited before. */
ASTHRA__FN size_t asthra__heap_trim(void) {
    size_t before = asthra__segment_given(), bytes = asthra__heap_trim_all();
    bytes += asthra__heap_trim_all();
    bytes += asthra__segment_given() - before;
    return bytes + asthra__segment_trim() + asthra__huge_trim();
}

#endif

/* ---- [manual] body ------------------------------------------------------ memory/manual.c ---- */
/* manual - memory that is freed by hand.                                   [manual] body
 *
 * A face of the heap. The functions are not inlined anywhere, because they look at the record of
 * the thread that calls, and because the return address tells who allocated or freed.
 */

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

/* ---- [pinned] internal ----------------------------------------- memory/pinned_internal.h ---- */
/* pinned - what upper floors ask of the table of pins.                     [pinned] internal */

#if ASTHRA_HAS_PINNED

/* A line on stderr for each pinned address, but for no more than sixteen of them; returns how many
 * there are. */
ASTHRA__FN size_t asthra__pinned_report(void);

/* Whether a pin holds a byte of the range, or the address of an empty one. Cost: a look at each
 * pin. */
ASTHRA__FN bool asthra__pinned_touches(const void *start, size_t size);

/* A hook: what an address's pins hold has changed from `before` to `after` bytes. before 0: the
 * first pin; after 0: the last was undone; else a wider one came. Told before the call that did it
 * returns, in the true order for each address, under a lock: it must not pin, allocate or wait. Set
 * before the first pin that it is to hear of; NULL: none. */
ASTHRA__FN void asthra__pinned_set_hook(void (*changed)(void *address, size_t before,
                                                        size_t after));

/* The table of a shard of pins, or of locked pages: open addressing over memory of its own. */
typedef struct Asthra__Pin {
    uintptr_t address; /* 0: the slot is free */
    size_t size, count;
    uint32_t others; /* addresses whose pins touch the block that begins here */
    bool is_spread;  /* it counts among the others of blocks, and its pages are locked */
    bool is_block;   /* a live block begins here: the heap counts a pin at the address */
} Asthra__Pin;

typedef struct Asthra__PinTable {
    Asthra__Pin *slots; /* a power of two of them, or none */
    size_t room, used;
    unsigned shift; /* of a hash, to its home slot */
} Asthra__PinTable;

ASTHRA__FN Asthra__Pin *asthra__pin_find(const Asthra__PinTable *t, uintptr_t address);
/* Found or made, and then zero but for the address; NULL: no memory. Moves the others. */
ASTHRA__FN Asthra__Pin *asthra__pin_slot(Asthra__PinTable *t, uintptr_t address);
ASTHRA__FN void asthra__pin_erase(Asthra__PinTable *t, Asthra__Pin *pin); /* moves the others */

static inline uint64_t asthra__pin_hash(uintptr_t address) {
    return (uint64_t)address * UINT64_C(0x9e3779b97f4a7c15); /* Fibonacci hashing: take high bits */
}

#elif ASTHRA_HAS_CORE

static inline size_t asthra__pinned_report(void) {
    return 0;
}
static inline bool asthra__pinned_touches(const void *start, size_t size) {
    (void)start, (void)size;
    return false;
}

#endif

/* ---- [pinned] body ------------------------------------------------ memory/pinned_table.c ---- */
/* pinned - the table behind the pins.                                      [pinned] body: table
 *
 * Linear probing over slots that are a mapping of their own. Not from the heap, because a table
 * outlives the runtime and must not show in any zone's statistics; and not from asthra__alloc,
 * whose hook may be another when it is freed. A removal moves later entries back, so that there
 * are no marks of the dead.
 *
 * The table grows when three quarters of it are in use. If there is no memory for that it fills
 * up, all but one slot, before it refuses. It shrinks when an eighth is in use, if it can.
 */

#if ASTHRA_HAS_PINNED

_Static_assert(sizeof(Asthra__Pin) <= 32, "an entry is half a cache line");

enum { ASTHRA__PIN_LEAST_ROOM = 128 }; /* a page of 4 KiB */

/* The shard is chosen by the four highest bits: the home slot goes by those below. */
static ASTHRA__FAST size_t asthra__pin_home(const Asthra__PinTable *t, uintptr_t address) {
    return (size_t)(asthra__pin_hash(address) << 4 >> t->shift);
}

ASTHRA__FN ASTHRA__FAST Asthra__Pin *asthra__pin_find(const Asthra__PinTable *t,
                                                      uintptr_t address) {
    if (ASTHRA__UNLIKELY(t->room == 0)) return NULL;
    for (size_t i = asthra__pin_home(t, address);; i = (i + 1) & (t->room - 1)) {
        if (t->slots[i].address == address) return &t->slots[i];
        if (t->slots[i].address == 0) return NULL;
    }
}

static Asthra__Pin *asthra__pin_place(Asthra__PinTable *t, uintptr_t address) {
    size_t i = asthra__pin_home(t, address);
    while (t->slots[i].address != 0) i = (i + 1) & (t->room - 1);
    return &t->slots[i];
}

static size_t asthra__pin_bytes(size_t room) {
    size_t page = asthra__os_page_size();
    return (room * sizeof(Asthra__Pin) + page - 1) & ~(page - 1);
}

/* false: no memory; the table is as it was. */
static bool asthra__pin_resize(Asthra__PinTable *t, size_t room) {
    if (room > (size_t)PTRDIFF_MAX / sizeof(Asthra__Pin)) return false;
    Asthra__PinTable old = *t;
    Asthra__Pin *slots = asthra__os_map_aligned(asthra__pin_bytes(room), asthra__os_page_size());
    if (slots == NULL) return false;
    t->slots = slots;
    t->room = room;
    t->shift = 64 - (unsigned)__builtin_ctzll(room);
    for (size_t i = 0; i < old.room; i++)
        if (old.slots[i].address != 0) *asthra__pin_place(t, old.slots[i].address) = old.slots[i];
    if (old.room != 0) asthra__os_unmap(old.slots, asthra__pin_bytes(old.room));
    return true;
}

/* Whether one more fits, now or after growing. */
ASTHRA__COLD static bool asthra__pin_grow(Asthra__PinTable *t) {
    return asthra__pin_resize(t, t->room == 0 ? ASTHRA__PIN_LEAST_ROOM : t->room * 2) ||
           t->used + 1 < t->room;
}

ASTHRA__FN ASTHRA__FAST Asthra__Pin *asthra__pin_slot(Asthra__PinTable *t, uintptr_t address) {
    Asthra__Pin *pin = asthra__pin_find(t, address);
    if (pin != NULL) return pin;
    if (ASTHRA__UNLIKELY(t->used >= t->room / 4 * 3) && !asthra__pin_grow(t)) return NULL;
    pin = asthra__pin_place(t, address);
    *pin = (Asthra__Pin){.address = address};
    t->used++;
    return pin;
}

/* An entry moves into the hole unless that lies before its home. */
ASTHRA__FN ASTHRA__FAST void asthra__pin_erase(Asthra__PinTable *t, Asthra__Pin *pin) {
    size_t mask = t->room - 1, hole = (size_t)(pin - t->slots);
    for (size_t i = (hole + 1) & mask; t->slots[i].address != 0; i = (i + 1) & mask) {
        size_t home = asthra__pin_home(t, t->slots[i].address);
        if (((i - home) & mask) < ((i - hole) & mask)) continue;
        t->slots[hole] = t->slots[i];
        hole = i;
    }
    t->slots[hole] = (Asthra__Pin){.address = 0};
    t->used--;
    if (ASTHRA__UNLIKELY(t->used < t->room / 8) && t->room > ASTHRA__PIN_LEAST_ROOM)
        (void)asthra__pin_resize(t, t->room / 4);
}

#endif

/* ---- [pinned] body ------------------------------------------------------ memory/pinned.c ---- */
/* pinned - addresses that foreign code may keep.                           [pinned] body
 *
 * A pin is an entry of a table, by its address, under the lock of one of sixteen shards. The heap
 * keeps a count of pins for each page; where that is not 0 a free asks asthra__pinned_holds whether
 * the block is pinned, and that looks for an entry of the block's start. So an entry is also made
 * for the start of each block that pins of other addresses touch, with the number of those
 * (`others`): a free looks up one entry, however many pins there are and wherever they begin.
 *
 * Plain pins, nearly all, need one entry: the range is within the block that begins at the address,
 * or is no memory of ours. The others are spread over several entries and shards; the lock `spread`
 * is taken around all that is done to them, before that of a shard. With it are, under
 * ASTHRA_RT_LOCK_PINS, the counts of the locked pages, and every pin is a spread one.
 *
 * Invariants. An entry is in the table while count or others is not 0. While an entry is_spread,
 * each block that its range touches, but for one that begins at its address, counts it among its
 * others, and its pages are counted as locked. Only the holder of `spread` changes is_spread, or
 * the size or the presence of an entry that has it. The heap has counted, at the block's start, one
 * pin for each entry that is_block and has pins, and one for each of its others. It is told of live
 * blocks only: these stay where they are until they are unpinned, so what was counted on a page is
 * taken from the same page. That is also why memory of the zones that is in no live block cannot be
 * pinned: nobody knows what will become of its page.
 *
 * Under a shard's lock nothing is called but the heap's counting, which takes no lock, the system
 * for a larger table, and the hook: so the heap's locks and these never wait for one another, nor
 * does the order matter in which the two are taken around a fork.
 */

#if ASTHRA_HAS_PINNED

enum { ASTHRA__PIN_SHARDS = 16, ASTHRA__PINS_REPORTED = 16 };

typedef struct Asthra__PinShard {
    ASTHRA__ALIGNED(ASTHRA__CACHE_PAIR) Asthra__Lock lock;
    Asthra__PinTable table;
} Asthra__PinShard;

static struct {
    Asthra__PinShard shards[ASTHRA__PIN_SHARDS];
    Asthra__Lock spread;
    Asthra__Once once;
    void (*changed)(void *address, size_t before, size_t after);
#if ASTHRA_HAS_LOCKED_PINS
    Asthra__PinTable pages;
#endif
} asthra__pinned;

/* ---- the zone ---- */

ASTHRA_RT_API ASTHRA__NOINLINE void *asthra_pinned_alloc(size_t size) {
    return asthra__heap_alloc(size, ASTHRA_MEMORY_ZONE_PINNED, __builtin_return_address(0));
}

ASTHRA_RT_API ASTHRA__NOINLINE void asthra_pinned_free(void *ptr) {
    asthra__heap_free(ptr, ASTHRA_MEMORY_ZONE_PINNED, __builtin_return_address(0), "pinned_free");
}

/* ---- locks ---- */

static ASTHRA__FAST Asthra__PinShard *asthra__pin_lock(uintptr_t address) {
    Asthra__PinShard *s = &asthra__pinned.shards[asthra__pin_hash(address) >> 60];
    asthra__lock(&s->lock);
    return s;
}

static void asthra__pin_lock_all(void) {
    asthra__lock(&asthra__pinned.spread);
    for (size_t i = 0; i < ASTHRA__PIN_SHARDS; i++) asthra__lock(&asthra__pinned.shards[i].lock);
}
static void asthra__pin_unlock_all(void) {
    for (size_t i = 0; i < ASTHRA__PIN_SHARDS; i++) asthra__unlock(&asthra__pinned.shards[i].lock);
    asthra__unlock(&asthra__pinned.spread);
}

/* The heap's question: is the live block that begins at `start` pinned? */
static bool asthra__pinned_holds(const void *start, size_t size) {
    (void)size;
    Asthra__PinShard *s = asthra__pin_lock((uintptr_t)start);
    bool is_held = asthra__pin_find(&s->table, (uintptr_t)start) != NULL;
    asthra__unlock(&s->lock);
    return is_held;
}

static void asthra__pinned_setup(void) {
    asthra__heap_set_pin_test(asthra__pinned_holds);
    asthra__os_on_fork(asthra__pin_lock_all, asthra__pin_unlock_all, asthra__pin_unlock_all);
}

/* ---- entries; caller holds the shard's lock ---- */

/* One more pin of the entry's address. */
static ASTHRA__FAST void asthra__pin_add(Asthra__Pin *pin, size_t size, bool is_block) {
    size_t before = pin->count == 0 ? 0 : pin->size;
    if (pin->count++ == 0) {
        pin->is_block = is_block;
        if (is_block) asthra__heap_count_pin((void *)pin->address, 1);
    }
    if (size <= before) return;
    pin->size = size;
    if (asthra__pinned.changed != NULL) asthra__pinned.changed((void *)pin->address, before, size);
}

/* The last pin of the entry's address is undone. */
static ASTHRA__FAST void asthra__pin_end(Asthra__PinTable *t, Asthra__Pin *pin) {
    if (pin->is_block) asthra__heap_count_pin((void *)pin->address, -1);
    if (asthra__pinned.changed != NULL) asthra__pinned.changed((void *)pin->address, pin->size, 0);
    pin->count = 0;
    pin->is_spread = false;
    if (pin->others == 0) asthra__pin_erase(t, pin);
}

/* ---- ranges, block by block ---- */

typedef enum Asthra__PinStep {
    ASTHRA__PIN_STEP_END,
    ASTHRA__PIN_STEP_BLOCK, /* *block is the start of a live one */
    ASTHRA__PIN_STEP_DEAD   /* *block is an address of the zones that is in none */
} Asthra__PinStep;

/* Whether an address that is in no live block is the zones' all the same: others cannot have
 * theirs there. Beside a mapping, in its last unit, they can. */
static bool asthra__pin_is_dead(const Asthra__Found *f, AsthraAddressKind kind) {
    if (kind == ASTHRA_ADDRESS_LIVE) return false;
    if (f->huge == NULL) return f->page != NULL;
    return f->huge->is_guarded || (f->huge->is_kept && kind == ASTHRA_ADDRESS_FREED);
}

/* Goes from *at to behind the next block; `last` is the last byte of the range. */
static Asthra__PinStep asthra__pin_step(uintptr_t *at, uintptr_t last, uintptr_t *block) {
    while (*at <= last) {
        Asthra__Found f;
        uintptr_t here = *at;
        AsthraAddressKind kind = asthra__heap_find((void *)here, &f);
        bool is_live = kind == ASTHRA_ADDRESS_LIVE, is_dead = asthra__pin_is_dead(&f, kind);
        *block = is_live ? (uintptr_t)f.start : here;
        if (is_live)
            *at = (uintptr_t)f.start + f.capacity;
        else if (is_dead)
            *at = (here | (ASTHRA__SLICE_BYTES - 1)) + 1;
        else /* of others; the rest of a huge block's last unit too */
            *at = (here | (ASTHRA__REGION_BYTES - 1)) + 1;
        if (is_live) return ASTHRA__PIN_STEP_BLOCK;
        if (is_dead) return ASTHRA__PIN_STEP_DEAD;
        if (*at == 0) break; /* the end of the address space */
    }
    return ASTHRA__PIN_STEP_END;
}

/* One more address whose pins touch the block. false: no memory. */
static bool asthra__pin_add_other(uintptr_t block) {
    Asthra__PinShard *s = asthra__pin_lock(block);
    Asthra__Pin *pin = asthra__pin_slot(&s->table, block);
    if (pin != NULL) {
        pin->others++;
        asthra__heap_count_pin((void *)block, 1);
    }
    asthra__unlock(&s->lock);
    return pin != NULL;
}

static void asthra__pin_remove_other(uintptr_t block) {
    Asthra__PinShard *s = asthra__pin_lock(block);
    Asthra__Pin *pin = asthra__pin_find(&s->table, block);
    if (pin != NULL && pin->others != 0) {
        asthra__heap_count_pin((void *)block, -1);
        if (--pin->others == 0 && pin->count == 0) asthra__pin_erase(&s->table, pin);
    }
    asthra__unlock(&s->lock);
}

/* Why a range cannot be held. */
typedef struct Asthra__PinRefusal {
    AsthraStatus status;
    uintptr_t dead; /* INVALID: an address in no live block */
    int error;      /* LIMIT: the system's, of locking pages */
} Asthra__PinRefusal;

/* Caller holds spread, as for the next. */
static void asthra__pin_let_blocks_go(uintptr_t address, size_t size) {
    uintptr_t at = address, last = address + (size - 1), block;
    Asthra__PinStep step;
    while ((step = asthra__pin_step(&at, last, &block)) != ASTHRA__PIN_STEP_END)
        if (step == ASTHRA__PIN_STEP_BLOCK && block != address) asthra__pin_remove_other(block);
}

static Asthra__PinRefusal asthra__pin_hold_blocks(uintptr_t address, size_t size) {
    Asthra__PinRefusal why = {ASTHRA_OK, 0, 0};
    uintptr_t at = address, done = address, block;
    for (; why.status == ASTHRA_OK; done = at) {
        Asthra__PinStep step = asthra__pin_step(&at, address + (size - 1), &block);
        if (step == ASTHRA__PIN_STEP_END) return why;
        if (step == ASTHRA__PIN_STEP_DEAD)
            why = (Asthra__PinRefusal){ASTHRA_INVALID, block, 0};
        else if (block != address && !asthra__pin_add_other(block))
            why.status = ASTHRA_OUT_OF_MEMORY;
        if (why.status != ASTHRA_OK) break;
    }
    if (done != address) asthra__pin_let_blocks_go(address, done - address);
    return why;
}

/* ---- locked pages; caller holds spread ---- */

#if ASTHRA_HAS_LOCKED_PINS

static uintptr_t asthra__pin_page_of(uintptr_t address) {
    return address & ~((uintptr_t)asthra__os_page_size() - 1);
}

/* Unlocks those pages from `first` to `last` that nothing counts, each run of them in one call. */
static void asthra__pin_unlock_idle(uintptr_t first, uintptr_t last) {
    uintptr_t page = asthra__os_page_size(), run = 0;
    for (uintptr_t at = first; at != last + page; at += page) {
        bool is_idle = asthra__pin_find(&asthra__pinned.pages, at) == NULL;
        if (!is_idle && run != 0) asthra__os_unlock_pages((void *)(at - run), run);
        run = is_idle ? run + page : 0;
    }
    if (run != 0) asthra__os_unlock_pages((void *)(last + page - run), run);
}

static void asthra__pin_uncount_pages(uintptr_t first, uintptr_t end) {
    for (uintptr_t at = first; at != end; at += asthra__os_page_size()) {
        Asthra__Pin *pin = asthra__pin_find(&asthra__pinned.pages, at);
        if (--pin->count == 0) asthra__pin_erase(&asthra__pinned.pages, pin);
    }
}

static void asthra__pin_let_pages_go(uintptr_t address, size_t size) {
    uintptr_t first = asthra__pin_page_of(address);
    uintptr_t last = asthra__pin_page_of(address + (size - 1));
    asthra__pin_uncount_pages(first, last + asthra__os_page_size());
    asthra__pin_unlock_idle(first, last);
}

static Asthra__PinRefusal asthra__pin_hold_pages(uintptr_t address, size_t size) {
    uintptr_t first = asthra__pin_page_of(address), page = asthra__os_page_size();
    uintptr_t last = asthra__pin_page_of(address + (size - 1)), at = first;
    Asthra__PinRefusal why = {ASTHRA_OK, 0, 0};
    why.error = asthra__os_lock_pages((void *)first, last - first + page);
    if (why.error != 0) why.status = ASTHRA_LIMIT;
    for (; why.status == ASTHRA_OK && at != last + page; at += page) {
        Asthra__Pin *pin = asthra__pin_slot(&asthra__pinned.pages, at);
        if (pin == NULL) {
            why.status = ASTHRA_OUT_OF_MEMORY;
            break;
        }
        pin->count++;
    }
    if (why.status == ASTHRA_OK) return why;
    asthra__pin_uncount_pages(first, at);
    asthra__pin_unlock_idle(first, last);
    return why;
}

#else

static void asthra__pin_let_pages_go(uintptr_t address, size_t size) {
    (void)address, (void)size;
}
static Asthra__PinRefusal asthra__pin_hold_pages(uintptr_t address, size_t size) {
    (void)address, (void)size;
    return (Asthra__PinRefusal){ASTHRA_OK, 0, 0};
}

#endif

/* ---- spread pins; caller holds spread ---- */

static void asthra__pin_let_go(uintptr_t address, size_t size) {
    asthra__pin_let_pages_go(address, size);
    asthra__pin_let_blocks_go(address, size);
}

static Asthra__PinRefusal asthra__pin_hold(uintptr_t address, size_t size) {
    Asthra__PinRefusal why = asthra__pin_hold_blocks(address, size);
    if (why.status != ASTHRA_OK) return why;
    why = asthra__pin_hold_pages(address, size);
    if (why.status != ASTHRA_OK) asthra__pin_let_blocks_go(address, size);
    return why;
}

/* The range is held once for this pin; what its address holds already is let go again, or this one
 * is, whichever is less. */
static Asthra__PinRefusal asthra__pin_spread_held(uintptr_t address, size_t size, bool is_block) {
    Asthra__PinShard *s = asthra__pin_lock(address);
    Asthra__Pin *pin = asthra__pin_slot(&s->table, address);
    size_t twice = pin == NULL ? size : pin->is_spread ? pin->size : 0;
    if (pin != NULL) {
        asthra__pin_add(pin, size, is_block);
        pin->is_spread = true;
    }
    asthra__unlock(&s->lock);
    if (twice > size) twice = size;
    if (twice != 0) asthra__pin_let_go(address, twice);
    return (Asthra__PinRefusal){pin == NULL ? ASTHRA_OUT_OF_MEMORY : ASTHRA_OK, 0, 0};
}

static void asthra__pin_explain(const void *ptr, size_t size, const Asthra__PinRefusal *why) {
    if (why->status == ASTHRA_INVALID)
        asthra__error_set(ASTHRA_INVALID,
                          "of %zu bytes from %p, %p is in a zone, but in no live block: it was "
                          "freed, or never given out",
                          size, ptr, (void *)why->dead);
    else if (why->status == ASTHRA_LIMIT)
        asthra__error_set(ASTHRA_LIMIT,
                          "the system does not lock %zu bytes from %p into memory (errno %d): is "
                          "all of it mapped, and is ulimit -l enough?",
                          size, ptr, why->error);
    else
        asthra__error_note(why->status);
}

ASTHRA__COLD static bool asthra__pin_spread(void *ptr, size_t size, bool is_block) {
    asthra__lock(&asthra__pinned.spread);
    Asthra__PinRefusal why = asthra__pin_hold((uintptr_t)ptr, size);
    if (why.status == ASTHRA_OK) why = asthra__pin_spread_held((uintptr_t)ptr, size, is_block);
    asthra__unlock(&asthra__pinned.spread);
    if (why.status != ASTHRA_OK) asthra__pin_explain(ptr, size, &why);
    return why.status == ASTHRA_OK;
}

/* Undoes one pin; *rest is what its address held if that was the last and is to be let go. */
static bool asthra__pin_undo(Asthra__PinShard *s, uintptr_t address, size_t *rest) {
    Asthra__Pin *pin = asthra__pin_find(&s->table, address);
    if (pin == NULL || pin->count == 0) return false;
    if (pin->count > 1) {
        pin->count--;
        return true;
    }
    *rest = pin->is_spread ? pin->size : 0;
    asthra__pin_end(&s->table, pin);
    return true;
}

ASTHRA__COLD static bool asthra__unpin_spread(uintptr_t address) {
    size_t rest = 0;
    asthra__lock(&asthra__pinned.spread);
    Asthra__PinShard *s = asthra__pin_lock(address);
    bool was_pinned = asthra__pin_undo(s, address, &rest);
    asthra__unlock(&s->lock);
    if (rest != 0) asthra__pin_let_go(address, rest);
    asthra__unlock(&asthra__pinned.spread);
    return was_pinned;
}

/* ---- pins ---- */

/* Whether one entry is all that the pin needs. */
static ASTHRA__FAST bool asthra__pin_is_plain(uintptr_t address, size_t size, bool *is_block) {
    Asthra__Found f;
    AsthraAddressKind kind = asthra__heap_find((void *)address, &f);
    bool is_live = kind == ASTHRA_ADDRESS_LIVE;
    *is_block = is_live && (uintptr_t)f.start == address;
    if (ASTHRA_HAS_LOCKED_PINS) return false;
    if (is_live) return *is_block && size <= f.capacity;
    return !asthra__pin_is_dead(&f, kind) &&
           ((address + (size - 1)) ^ address) < ASTHRA__REGION_BYTES;
}

ASTHRA__COLD static bool asthra__pin_refuse(const void *ptr, size_t size) {
    if (ptr == NULL)
        asthra__error_set(ASTHRA_INVALID, "ptr is NULL: there is nothing to pin");
    else if (size == 0)
        asthra__error_set(ASTHRA_INVALID, "size is 0: expected the bytes to pin from %p on", ptr);
    else
        asthra__error_set(ASTHRA_INVALID, "%zu bytes from %p go past the end of the address space",
                          size, ptr);
    return false;
}

ASTHRA_RT_API bool asthra_pin_memory(void *ptr, size_t size) {
    uintptr_t address = (uintptr_t)ptr;
    bool is_block, is_spread = false;
    if (ASTHRA__UNLIKELY(ptr == NULL || size == 0 || size - 1 > UINTPTR_MAX - address))
        return asthra__pin_refuse(ptr, size);
    asthra__once(&asthra__pinned.once, asthra__pinned_setup);
    bool is_plain = asthra__pin_is_plain(address, size, &is_block);
    Asthra__PinShard *s = asthra__pin_lock(address);
    Asthra__Pin *pin =
        is_plain ? asthra__pin_slot(&s->table, address) : asthra__pin_find(&s->table, address);
    if (!is_plain) is_spread = pin == NULL || pin->count == 0 || pin->size < size;
    if (!is_spread && pin != NULL) asthra__pin_add(pin, size, is_block);
    asthra__unlock(&s->lock);
    if (is_spread) return asthra__pin_spread(ptr, size, is_block);
    if (ASTHRA__UNLIKELY(pin == NULL)) asthra__error_note(ASTHRA_OUT_OF_MEMORY);
    return pin != NULL;
}

ASTHRA_RT_API bool asthra_unpin_memory(void *ptr) {
    uintptr_t address = (uintptr_t)ptr;
    size_t rest = 0;
    Asthra__PinShard *s = asthra__pin_lock(address);
    Asthra__Pin *pin = asthra__pin_find(&s->table, address);
    bool is_spread = pin != NULL && pin->is_spread && pin->count == 1;
    bool was_pinned = !is_spread && asthra__pin_undo(s, address, &rest);
    asthra__unlock(&s->lock);
    if (is_spread) was_pinned = asthra__unpin_spread(address);
    if (ASTHRA__UNLIKELY(!was_pinned))
        asthra__error_set(ASTHRA_INVALID, "%p is not pinned: expected the ptr of a pin", ptr);
    return was_pinned;
}

ASTHRA_RT_API size_t asthra_pin_count(const void *ptr) {
    Asthra__PinShard *s = asthra__pin_lock((uintptr_t)ptr);
    const Asthra__Pin *pin = asthra__pin_find(&s->table, (uintptr_t)ptr);
    size_t count = pin == NULL ? 0 : pin->count;
    asthra__unlock(&s->lock);
    return count;
}

/* ---- lists ---- */

static bool asthra__pin_shard_touches(Asthra__PinShard *s, uintptr_t start, uintptr_t last) {
    bool touches = false;
    asthra__lock(&s->lock);
    for (size_t i = 0; i < s->table.room && !touches; i++) {
        const Asthra__Pin *pin = &s->table.slots[i];
        touches = pin->count != 0 && pin->address <= last && pin->address + pin->size - 1 >= start;
    }
    asthra__unlock(&s->lock);
    return touches;
}

ASTHRA__FN bool asthra__pinned_touches(const void *start, size_t size) {
    uintptr_t first = (uintptr_t)start, last = first + (size != 0 ? size - 1 : 0);
    for (size_t i = 0; i < ASTHRA__PIN_SHARDS; i++)
        if (asthra__pin_shard_touches(&asthra__pinned.shards[i], first, last)) return true;
    return false;
}

/* Appends the pins of a shard that still fit; returns how many there are with those before. */
static size_t asthra__pin_list_shard(const Asthra__PinTable *t, AsthraPinInfo *out, size_t room,
                                     size_t have) {
    for (size_t i = 0; i < t->room; i++) {
        const Asthra__Pin *pin = &t->slots[i];
        if (pin->count == 0) continue;
        if (have < room) out[have] = (AsthraPinInfo){(void *)pin->address, pin->size, pin->count};
        have++;
    }
    return have;
}

ASTHRA_RT_API size_t asthra_pin_list(AsthraPinInfo *out, size_t room) {
    size_t have = 0;
    asthra__pin_lock_all();
    for (size_t i = 0; i < ASTHRA__PIN_SHARDS; i++)
        have = asthra__pin_list_shard(&asthra__pinned.shards[i].table, out, room, have);
    asthra__pin_unlock_all();
    return have;
}

static void asthra__pin_report(const AsthraPinInfo *pin) {
    static const char *const words[] = {
        [ASTHRA_ADDRESS_UNMAPPED] = "where nothing is mapped any more",
        [ASTHRA_ADDRESS_LIVE] = "",
        [ASTHRA_ADDRESS_FREED] = "",
        [ASTHRA_ADDRESS_SLACK] = "",
        [ASTHRA_ADDRESS_STACK] = "on a stack",
        [ASTHRA_ADDRESS_STATIC] = "static data or code",
        [ASTHRA_ADDRESS_FOREIGN] = "memory of others",
    };
    AsthraMemoryZone zone = asthra__heap_zone_of(pin->address);
    bool is_ours = zone != ASTHRA_MEMORY_ZONE_NONE;
    asthra__text_report("asthra_rt: still pinned: %zu bytes from %p (%zu pin%s), %s%s", pin->size,
                        pin->address, pin->count, pin->count == 1 ? "" : "s",
                        is_ours ? "zone " : words[asthra__heap_outside(pin->address)],
                        is_ours ? asthra_memory_zone_to_string(zone) : "");
}

ASTHRA__FN size_t asthra__pinned_report(void) {
    AsthraPinInfo pins[ASTHRA__PINS_REPORTED];
    size_t count = asthra_pin_list(pins, ASTHRA__PINS_REPORTED);
    for (size_t i = 0; i < count && i < ASTHRA__PINS_REPORTED; i++) asthra__pin_report(&pins[i]);
    if (count > ASTHRA__PINS_REPORTED)
        asthra__text_report("asthra_rt: still pinned: and %zu more", count - ASTHRA__PINS_REPORTED);
    return count;
}

ASTHRA__FN void asthra__pinned_set_hook(void (*changed)(void *address, size_t before,
                                                        size_t after)) {
    asthra__pinned.changed = changed;
}

#endif

/* ---- [stack] internal ------------------------------------------- memory/stack_internal.h ---- */
/* stack - regions, as others see them.                                     [stack] internal
 *
 * asthra__thread()->stack is the region of what runs on the thread. Who makes a thread run
 * something else stores that one's region there, having kept the old value: a load and a store. The
 * value is NULL of what has no region; any other must be ended once, by asthra__stack_end where it
 * stands in the record, else by asthra__stack_drop.
 */

#if ASTHRA_HAS_STACK

typedef uint64_t (*Asthra__StackOwner)(void);

/* What runs on this thread has ended, and with it its region. Tells the hooks: not in a task.
 * has_failed: it may have been in the middle of an allocation. */
ASTHRA__FN void asthra__stack_end(bool has_failed);
ASTHRA__FN void asthra__stack_drop(struct Asthra__StackRegion *r); /* hooks are not told */
/* No task runs any more: the regions of those that never ended go. */
ASTHRA__FN void asthra__stack_end_tasks(void);
/* A hook: the id of the running task; 0: none. NULL: there are no tasks. */
ASTHRA__FN void asthra__stack_set_owner(Asthra__StackOwner task);

/* What `ptr` is in the chunk of the heap that begins at `chunk` and is described in *out. In the
 * running task's or thread's own region: a live block, or none; of another's the chunk stays.
 * Returns whether it is in a block or such a chunk. */
ASTHRA__FN bool asthra__stack_describe(const void *chunk, const void *ptr,
                                       AsthraAllocationInfo *out);
/* Frees the newest block of what runs here, if no scope was opened after it; NULL is allowed.
 * Else panics "Invalid pointer in <verb>". */
ASTHRA__FN void asthra__stack_free(void *ptr, const char *verb);
/* What all regions hold and held. Failures: those by the limit; the others are in the heap's sum
 * of the zone, which gave no chunk. */
ASTHRA__FN void asthra__stack_sum(Asthra__AccountSum *sum);
/* Gives the regions that the calling thread keeps for its next tasks back to the heap, and that of
 * what runs here if it has neither a block nor an open scope. */
ASTHRA__FN void asthra__stack_trim(void);

#elif ASTHRA_HAS_TASK

static inline void asthra__stack_end(bool has_failed) {
    (void)has_failed;
}
static inline void asthra__stack_drop(struct Asthra__StackRegion *r) {
    (void)r;
}
static inline void asthra__stack_end_tasks(void) {}
static inline void asthra__stack_set_owner(uint64_t (*task)(void)) {
    (void)task;
}

#endif

/* ---- [stack] body -------------------------------------------------------- memory/stack.c ---- */
/* stack - memory that goes with its task, thread or scope.                 [stack] body
 *
 * A region is a pile of chunks from the heap; the first chunk holds the region's own record. A
 * block is cut from the top of the newest chunk, and behind it stands its foot: its size, and how
 * many bytes the region had live with it. So whatever lies right below an address where a block
 * ended says how much to give back down to there, without a look at what lies above: a release is
 * one subtraction. Feet also lead from any block to the one below, which is how single frees, hooks
 * and the full level walk.
 *
 *     chunk | header, base foot | block, foot | block, foot | free ...
 *                                                           ^ top
 *
 * Opening a scope needs no memory. Each has a stamp, a number that no other scope of the process
 * has; the region knows that of the innermost one, and a mark carries its own and that of the scope
 * around it, as it carries the top to go back to. A release compares one number and takes the other
 * over. What has no region yet keeps the stamp in the place of the region's address, as an odd
 * number. Stamps come in blocks of 4,096 to each thread, 31 bits wide: a mark would have to be kept
 * for two thousand million others to be taken for a new one.
 *
 * A foot has a bit that says that the top of an open scope stands right above it; such a block
 * cannot be freed alone. A scope that finds the bit set notes that in its mark and leaves it so.
 *
 * The `live` in the newest foot must agree with the region's at each allocation and release: who
 * writes past the newest block changes it. A pattern is added to it, so that its bytes are seldom
 * 0, the likeliest byte to be written there.
 *
 * Regions are the running task's alone; only the list of all regions has a lock. A region that ends
 * is emptied, and its first chunk waits with the thread for the next task there; the account goes
 * on. In a forked child the regions of the other threads and tasks are orphans: the next call that
 * opens or sums regions empties them. They may be in the middle of an allocation, so what links a
 * chunk comes after what fills it, and an orphan is emptied without being checked.
 *
 * A thread whose end nobody tells (see thread.c) may leave its last region behind.
 */

#if ASTHRA_HAS_STACK

#include <string.h>

enum {
    ASTHRA__STACK_FOOT = 16,
    ASTHRA__STACK_LESS = 16, /* bytes that chunks are smaller than a class of the heap */
    ASTHRA__STACK_FIRST = 4096 - ASTHRA__STACK_LESS, /* of a region's first chunk */
    ASTHRA__STACK_MOST = 65536 - ASTHRA__STACK_LESS, /* of the others, unless a block needs more */
    ASTHRA__STACK_IDLE = 16,                         /* regions that a thread keeps */
    ASTHRA__STAMP_BITS = 31,
    ASTHRA__STAMP_MASK = 0x7fffffff,
    ASTHRA__STAMP_BLOCK = 4096,
    ASTHRA__STACK_FRESH = 0xa9, /* at the full level: in a block, past its end, in free memory */
    ASTHRA__STACK_SLACK = 0xb7,
    ASTHRA__STACK_FREED = 0xd3
};
#define ASTHRA__FOOT_PATTERN UINT64_C(0x9d5bc3e7a1f3b5d9)
#define ASTHRA__MARK_JOINS ((uint64_t)1 << (2 * ASTHRA__STAMP_BITS))

typedef struct Asthra__StackRegion Asthra__StackRegion;

typedef struct Asthra__StackFoot {
    uint64_t live; /* of the region with this block, + the pattern */
    uint64_t size; /* * 2, + 1: the top of an open scope stands here */
} Asthra__StackFoot;
_Static_assert(sizeof(Asthra__StackFoot) == ASTHRA__STACK_FOOT, "blocks stay aligned");

typedef struct Asthra__StackChunk Asthra__StackChunk;
struct Asthra__StackChunk {
    Asthra__StackRegion *region;
    Asthra__StackChunk *below; /* NULL: the first one */
    char *below_top;           /* where that one was left */
    char *end;
    ASTHRA__ALIGNED(16) Asthra__StackFoot base;
};

struct Asthra__StackRegion {
    Asthra__StackRegion *self; /* as a chunk begins with its region */
    char *top, *quick_end;     /* the chunk's end; top: every allocation is a slow one */
    uint64_t live;             /* what must stand in the newest foot */
    Asthra__StackChunk *chunk;
    Asthra__Account account;
    uint32_t scope; /* the stamp of the innermost open one; 0: none */
    uint8_t level;
    uint8_t idle_count;                /* regions in the thread's list from here on */
    Asthra__StackChunk *spare;         /* empty; NULL: none */
    ASTHRA__ATOMIC_64(uint64_t) task;  /* the id; 0: a thread's, or idle */
    Asthra__StackRegion *next, **link; /* of all, or of the orphans */
    Asthra__StackRegion *next_idle;
    Asthra__StackChunk first;
};

static struct {
    Asthra__Once once;
    Asthra__Lock lock; /* of all, orphans and ended */
    Asthra__StackRegion *all, *orphans;
    Asthra__AccountSum ended; /* of regions that are gone; refusals by the limit */
    ASTHRA__ATOMIC(uint32_t) stamp_blocks;
    ASTHRA__ATOMIC(Asthra__StackOwner) task;
} asthra__stack;

/* ---- what stands in the thread's record: a region, or a stamp ---- */

static inline bool asthra__stack_is_region(const Asthra__StackRegion *r) {
    return r != NULL && ((uintptr_t)r & 1) == 0;
}
static inline Asthra__StackRegion *asthra__stack_stamp_tag(uint32_t stamp) {
    return stamp == 0 ? NULL : (Asthra__StackRegion *)((uintptr_t)stamp << 1 | 1);
}
static inline uint32_t asthra__stack_scope(const Asthra__StackRegion *r) {
    return asthra__stack_is_region(r) ? r->scope : (uint32_t)((uintptr_t)r >> 1);
}

/* ---- feet; a sanitizer is told that these are ours ---- */

#if ASTHRA__ASAN
#define ASTHRA__STACK_OWN ASTHRA__ASAN_BLIND
#else
#define ASTHRA__STACK_OWN ASTHRA__FAST
#endif

static inline Asthra__StackFoot *asthra__foot_at(const char *top) {
    return (Asthra__StackFoot *)(void *)(uintptr_t)(top - ASTHRA__STACK_FOOT);
}
static ASTHRA__STACK_OWN uint64_t asthra__foot_live(const char *top) {
    return asthra__foot_at(top)->live;
}
static ASTHRA__STACK_OWN size_t asthra__foot_size(const char *top) {
    return (size_t)(asthra__foot_at(top)->size >> 1);
}
static ASTHRA__STACK_OWN bool asthra__foot_has_scope(const char *top) {
    return (asthra__foot_at(top)->size & 1) != 0;
}
static ASTHRA__STACK_OWN void asthra__foot_set_scope(const char *top, bool on) {
    Asthra__StackFoot *f = asthra__foot_at(top);
    f->size = (f->size & ~(uint64_t)1) | on;
}
static ASTHRA__STACK_OWN void asthra__foot_write(char *top, uint64_t live, size_t size) {
    Asthra__StackFoot *f = asthra__foot_at(top);
    f->live = live;
    f->size = (uint64_t)size << 1;
}
/* The first byte in [from, to) that is not `fill`; `to`: all are. */
static ASTHRA__STACK_OWN const char *asthra__stack_unlike(const char *from, const char *to,
                                                          int fill) {
    while (from < to && (unsigned char)*from == fill) from++;
    return from;
}

/* ---- sizes ---- */

static inline size_t asthra__stack_need(size_t size) { /* with its foot; size is no monster */
    return (size + ASTHRA__STACK_FOOT + 15) & ~(size_t)15;
}
static inline char *asthra__stack_chunk_base(const Asthra__StackChunk *c) {
    return (char *)(uintptr_t)(c + 1);
}
static size_t asthra__stack_counted(const Asthra__StackRegion *r) {
    Asthra__AccountSum sum = {0, 0, 0, 0};
    asthra__account_sum(&r->account, &sum);
    return sum.total - sum.freed;
}

/* ---- panics ---- */

static void asthra__stack_say_owner(Asthra__Text *t, uint64_t task) {
    if (task != 0)
        asthra__text_format(t, "task %llu", (unsigned long long)task);
    else
        asthra__text_format(t, "thread %llu", (unsigned long long)asthra__thread()->id);
}

static uint64_t asthra__stack_task(void) {
    Asthra__StackOwner task = asthra__load(&asthra__stack.task, acquire);
    return task == NULL ? 0 : task();
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__stack_overflown(const char *top) {
    asthra_panic_at(NULL,
                    "Stack zone overflow: the newest block, which ends at most 16 bytes below %p, "
                    "was written past its end",
                    (const void *)top);
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__stack_overflown_at(const char *block,
                                                                    size_t size) {
    asthra_panic_at(NULL,
                    "Stack zone overflow: the block %p of %zu bytes was written past its end, or "
                    "the one before it far past its own",
                    (const void *)block, size);
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__stack_written_to(const char *at) {
    asthra_panic_at(NULL,
                    "Use after release: %p in the stack zone was written to after its block had "
                    "been released",
                    (const void *)at);
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__stack_wrong_release(uint32_t found,
                                                                     uint32_t expected) {
    char who[64];
    Asthra__Text t = asthra__text_on(who, sizeof who);
    asthra__stack_say_owner(&t, asthra__stack_task());
    if (expected == 0)
        asthra_panic_at(NULL,
                        "Wrong release in stack_release: expected no more releases, because %s has "
                        "no open scope; found scope %u",
                        who, found);
    if (found == 0)
        asthra_panic_at(NULL,
                        "Wrong release in stack_release: expected scope %u, the innermost open one "
                        "of %s; found a mark that is not open: it was released before, or no "
                        "stack_mark made it",
                        expected, who);
    asthra_panic_at(NULL,
                    "Wrong release in stack_release: expected scope %u, the innermost open one of "
                    "%s; found scope %u: one around it, one released before, or another's",
                    expected, who, found);
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__stack_no_mark(void) {
    asthra_panic_at(NULL, "Wrong release in stack_release: expected a mark, found NULL");
}

static ASTHRA__FAST void asthra__stack_expect_whole(const Asthra__StackRegion *r) {
    if (ASTHRA__UNLIKELY(asthra__foot_live(r->top) != r->live)) asthra__stack_overflown(r->top);
}

/* ---- chunks ---- */

static void asthra__stack_set_top(Asthra__StackRegion *r, char *top) {
    r->top = top;
    r->quick_end = r->level == ASTHRA_SAFETY_FULL ? top : r->chunk->end;
}

/* Nobody's bytes from here on. */
static void asthra__stack_wipe(const Asthra__StackRegion *r, char *from, const char *to) {
    if (r->level == ASTHRA_SAFETY_FULL) {
        asthra__heap_show(from, (size_t)(to - from));
        memset(from, ASTHRA__STACK_FREED, (size_t)(to - from));
    }
    asthra__heap_hide(from, (size_t)(to - from));
}

static void asthra__stack_chunk_fill(Asthra__StackRegion *r, Asthra__StackChunk *c, size_t bytes) {
    c->region = r;
    c->end = (char *)(c == &r->first ? (void *)r : (void *)c) + bytes;
    asthra__stack_wipe(r, asthra__stack_chunk_base(c), c->end);
    asthra__heap_hide(&c->base, sizeof c->base);
}

static void asthra__stack_chunk_free(Asthra__StackChunk *c) {
    if (c == NULL) return;
    asthra__heap_free(c, ASTHRA_MEMORY_ZONE_STACK, NULL, "stack_release");
}

/* Leaves the newest chunk for the one below. It may be the spare from here on, so that a loop over
 * the border of a chunk does not go to the heap each time. */
static void asthra__stack_chunk_pop(Asthra__StackRegion *r) {
    Asthra__StackChunk *c = r->chunk, *spare = r->spare;
    asthra__stack_wipe(r, asthra__stack_chunk_base(c), c->end);
    char *top = c->below_top;
    r->chunk = c->below;
    asthra__stack_set_top(r, top);
    asthra__compiler_fence(); /* a fork may see the region between any two lines */
    size_t bytes = (size_t)(c->end - (char *)c);
    if (bytes > ASTHRA__STACK_MOST ||
        (spare != NULL && spare->end - (char *)spare >= c->end - (char *)c)) {
        asthra__stack_chunk_free(c);
        return;
    }
    r->spare = c;
    asthra__compiler_fence();
    asthra__stack_chunk_free(spare);
}

/* The size of a new chunk for a block; SIZE_MAX: the heap will refuse it. */
static size_t asthra__stack_chunk_bytes(const Asthra__StackRegion *r, size_t size) {
    if (size > (size_t)PTRDIFF_MAX / 2) return SIZE_MAX;
    size_t least = asthra__stack_need(size) + sizeof(Asthra__StackChunk);
    size_t bytes = ASTHRA__STACK_FIRST;
    if (r->chunk != &r->first) bytes = (size_t)(r->chunk->end - (char *)r->chunk);
    bytes = bytes * 2 + ASTHRA__STACK_LESS;
    if (bytes > ASTHRA__STACK_MOST) bytes = ASTHRA__STACK_MOST;
    return bytes < least ? least : bytes;
}

/* A chunk on top that has room for the block; false: no memory. */
static bool asthra__stack_chunk_push(Asthra__StackRegion *r, size_t size) {
    size_t bytes = asthra__stack_chunk_bytes(r, size);
    Asthra__StackChunk *c = r->spare;
    if (c != NULL && bytes != SIZE_MAX &&
        (size_t)(c->end - asthra__stack_chunk_base(c)) >= asthra__stack_need(size)) {
        r->spare = NULL;
    } else {
        c = asthra__heap_alloc(bytes, ASTHRA_MEMORY_ZONE_STACK, NULL);
        if (c == NULL) return false;
        asthra__stack_chunk_fill(r, c, bytes);
    }
    c->below = r->chunk;
    c->below_top = r->top;
    asthra__foot_write(asthra__stack_chunk_base(c), r->live, 0);
    asthra__compiler_fence();
    r->chunk = c;
    asthra__stack_set_top(r, asthra__stack_chunk_base(c));
    return true;
}

/* ---- regions: beginning and end ---- */

static void asthra__stack_link(Asthra__StackRegion *r) { /* caller holds the lock */
    r->next = asthra__stack.all;
    r->link = &asthra__stack.all;
    if (r->next != NULL) r->next->link = &r->next;
    asthra__stack.all = r;
}
static void asthra__stack_unlink(Asthra__StackRegion *r) { /* caller holds the lock */
    *r->link = r->next;
    if (r->next != NULL) r->next->link = r->link;
}

/* Frees all blocks and chunks but the first. Looks at no foot: an orphan's may be half written. */
static void asthra__stack_empty(Asthra__StackRegion *r) {
    size_t live = asthra__stack_counted(r);
    while (r->chunk != &r->first) asthra__stack_chunk_pop(r);
    asthra__stack_wipe(r, asthra__stack_chunk_base(&r->first), r->first.end);
    asthra__stack_set_top(r, asthra__stack_chunk_base(&r->first));
    asthra__stack_chunk_free(r->spare);
    r->spare = NULL;
    r->scope = 0;
    asthra__store(&r->task, UINT64_C(0), relaxed);
    asthra__account_free(&r->account, live, ASTHRA_MEMORY_ZONE_STACK);
    if (r->account.told != 0) asthra__account_tell(&r->account, ASTHRA_MEMORY_ZONE_STACK);
    asthra__zone_release(live);
}

/* It is in no list any more; its account goes into the total. */
static void asthra__stack_bury(Asthra__StackRegion *r) {
    asthra__account_tell(&r->account, ASTHRA_MEMORY_ZONE_STACK);
    asthra__lock(&asthra__stack.lock);
    asthra__account_sum(&r->account, &asthra__stack.ended);
    asthra__unlock(&asthra__stack.lock);
    asthra__heap_free(r, ASTHRA_MEMORY_ZONE_STACK, NULL, "stack_release");
}

static void asthra__stack_destroy(Asthra__StackRegion *r) {
    asthra__stack_empty(r);
    asthra__lock(&asthra__stack.lock);
    asthra__stack_unlink(r);
    asthra__unlock(&asthra__stack.lock);
    asthra__stack_bury(r);
}

/* Of a list that nobody else can reach. */
static void asthra__stack_destroy_all(Asthra__StackRegion *list) {
    while (list != NULL) {
        Asthra__StackRegion *next = list->next;
        asthra__stack_empty(list);
        asthra__stack_bury(list);
        list = next;
    }
}

ASTHRA__FN void asthra__stack_trim(void) {
    Asthra__Thread *t = asthra__thread();
    Asthra__StackRegion *r;
    while ((r = t->stack_idle) != NULL) {
        t->stack_idle = r->next_idle;
        asthra__stack_destroy(r);
    }
    r = t->stack;
    if (asthra__stack_is_region(r) && r->scope == 0 &&
        r->top == asthra__stack_chunk_base(&r->first)) {
        t->stack = NULL;
        asthra__stack_destroy(r);
    }
}

static void asthra__stack_detach(Asthra__Thread *t) {
    asthra__stack_end(false);
    asthra__stack_trim();
    t->stack_stamp = 0;
}

static void asthra__stack_fork_before(void) {
    asthra__lock(&asthra__stack.lock);
}
static void asthra__stack_fork_parent(void) {
    asthra__unlock(&asthra__stack.lock);
}

/* What the thread that forked has stays; the rest are orphans. */
static void asthra__stack_fork_child(void) {
    Asthra__Thread *t = asthra__thread_if_attached();
    Asthra__StackRegion *mine = t != NULL && asthra__stack_is_region(t->stack) ? t->stack : NULL;
    Asthra__StackRegion *idle = t != NULL ? t->stack_idle : NULL, *r;
    if (mine != NULL) asthra__stack_unlink(mine);
    for (r = idle; r != NULL; r = r->next_idle) asthra__stack_unlink(r);
    Asthra__StackRegion **last = &asthra__stack.orphans;
    while (*last != NULL) last = &(*last)->next;
    *last = asthra__stack.all;
    asthra__stack.all = NULL;
    if (mine != NULL) asthra__stack_link(mine);
    for (r = idle; r != NULL; r = r->next_idle) asthra__stack_link(r);
    if (mine != NULL) asthra__store(&mine->task, UINT64_C(0), relaxed); /* it is the thread's now */
    asthra__unlock(&asthra__stack.lock);
}

static void asthra__stack_reap_orphans(void) {
    asthra__lock(&asthra__stack.lock);
    Asthra__StackRegion *list = asthra__stack.orphans;
    asthra__stack.orphans = NULL;
    asthra__unlock(&asthra__stack.lock);
    asthra__stack_destroy_all(list);
}

/* Hooks run newest first, and ours still needs the heap of the thread. */
static void asthra__stack_setup(void) {
    asthra__heap_leave(asthra__heap_enter(ASTHRA_MEMORY_ZONE_STACK));
    asthra__thread_on_detach(asthra__stack_detach);
    asthra__os_on_fork(asthra__stack_fork_before, asthra__stack_fork_parent,
                       asthra__stack_fork_child);
}

static Asthra__StackRegion *asthra__stack_make(void) {
    asthra__once(&asthra__stack.once, asthra__stack_setup);
    asthra__stack_reap_orphans();
    Asthra__StackRegion *r =
        asthra__heap_alloc(ASTHRA__STACK_FIRST, ASTHRA_MEMORY_ZONE_STACK, NULL);
    if (r == NULL) return NULL;
    memset(r, 0, sizeof *r);
    r->self = r;
    r->level = (uint8_t)asthra__heap_level();
    asthra__stack_chunk_fill(r, &r->first, ASTHRA__STACK_FIRST);
    r->chunk = &r->first;
    asthra__lock(&asthra__stack.lock);
    asthra__stack_link(r);
    asthra__unlock(&asthra__stack.lock);
    return r;
}

/* One that is empty, from the thread's store if it can be; NULL: no memory. */
static Asthra__StackRegion *asthra__stack_begin(Asthra__Thread *t) {
    uint8_t level = (uint8_t)asthra__heap_level();
    Asthra__StackRegion *r = t->stack_idle;
    if (r == NULL) return asthra__stack_make();
    t->stack_idle = r->next_idle;
    if (r->level != level) {
        r->level = level;
        asthra__stack_wipe(r, asthra__stack_chunk_base(&r->first), r->first.end);
    }
    return r;
}

/* The region of what runs here; NULL: it has none yet, and there is no memory for one. */
static Asthra__StackRegion *asthra__stack_open(void) {
    Asthra__Thread *t = asthra__thread();
    if (asthra__stack_is_region(t->stack)) return t->stack;
    Asthra__StackRegion *r = asthra__stack_begin(t);
    if (r == NULL) return NULL;
    r->scope = asthra__stack_scope(t->stack);
    r->live = ASTHRA__FOOT_PATTERN;
    asthra__foot_write(asthra__stack_chunk_base(&r->first), r->live, 0);
    asthra__stack_set_top(r, asthra__stack_chunk_base(&r->first));
    asthra__store(&r->task, asthra__stack_task(), relaxed);
    t->stack = r;
    return r;
}

/* ---- walking down ---- */

typedef struct Asthra__StackWalk {
    const Asthra__StackRegion *region;
    const char *to; /* NULL: the bottom */
    const Asthra__StackChunk *chunk;
    char *block; /* where the walk is: all above was shown */
    size_t size;
} Asthra__StackWalk;

static Asthra__StackWalk asthra__stack_walk(const Asthra__StackRegion *r, const char *to) {
    return (Asthra__StackWalk){r, to, r->chunk, r->top, 0};
}

/* To the next block below; false: there is none above `to`. Panics where feet disagree. */
static bool asthra__stack_next(Asthra__StackWalk *w) {
    while (w->block == asthra__stack_chunk_base(w->chunk) && w->block != w->to) {
        if (w->chunk->below == NULL) return false;
        w->block = w->chunk->below_top;
        w->chunk = w->chunk->below;
    }
    if (w->block == w->to) return false;
    char *top = w->block;
    w->size = asthra__foot_size(top);
    size_t room = (size_t)(top - asthra__stack_chunk_base(w->chunk));
    if (w->size >= room || asthra__stack_need(w->size) > room) asthra__stack_overflown(top);
    w->block = top - asthra__stack_need(w->size);
    if (asthra__foot_live(top) != asthra__foot_live(w->block) + w->size)
        asthra__stack_overflown_at(w->block, w->size);
    if (w->region->level == ASTHRA_SAFETY_FULL) {
        const char *foot = top - ASTHRA__STACK_FOOT;
        if (asthra__stack_unlike(w->block + w->size, foot, ASTHRA__STACK_SLACK) != foot)
            asthra__stack_overflown_at(w->block, w->size);
    }
    return true;
}

/* Of all blocks above `to`. */
static void asthra__stack_expect_unpinned(const Asthra__StackRegion *r, const char *to) {
    if (ASTHRA__LIKELY((asthra__trace_word() & ASTHRA__TRACE_ZONE_PINS) == 0)) return;
    Asthra__StackWalk w = asthra__stack_walk(r, to);
    while (asthra__stack_next(&w)) {
        Asthra__Found f = {.start = w.block, .size = w.size};
        if (asthra__pinned_touches(w.block, w.size)) asthra__heap_still_pinned(&f, "stack_release");
    }
}

/* All blocks above `to` are about to go: tells hooks, and looks at them at the full level. The
 * hooks may allocate here; what they leave goes too. */
static void asthra__stack_farewell(const Asthra__StackRegion *r, const char *to) {
    bool is_told = asthra__zone_is_watched();
    if (!is_told && r->level != ASTHRA_SAFETY_FULL) return;
    Asthra__StackWalk w = asthra__stack_walk(r, to);
    while (asthra__stack_next(&w))
        if (is_told) asthra__zone_tell_free(w.block, ASTHRA_MEMORY_ZONE_STACK);
}

/* ---- the ends that the scheduler and the thread's end call ---- */

ASTHRA__COLD ASTHRA__FN void asthra__stack_end(bool has_failed) {
    Asthra__StackRegion *r = asthra__thread()->stack;
    if (!asthra__stack_is_region(r)) {
        asthra__thread()->stack = NULL;
        return;
    }
    if (!has_failed) asthra__stack_expect_whole(r);
    if (!has_failed) asthra__stack_expect_unpinned(r, NULL);
    asthra__stack_farewell(r, NULL);
    Asthra__Thread *t = asthra__thread();
    t->stack = NULL;
    uint8_t count = t->stack_idle == NULL ? 0 : t->stack_idle->idle_count;
    if (count >= ASTHRA__STACK_IDLE) {
        asthra__stack_destroy(r);
        return;
    }
    asthra__stack_empty(r);
    r->idle_count = (uint8_t)(count + 1);
    r->next_idle = t->stack_idle;
    t->stack_idle = r;
}

ASTHRA__COLD ASTHRA__FN void asthra__stack_drop(Asthra__StackRegion *r) {
    if (asthra__stack_is_region(r)) asthra__stack_destroy(r);
}

ASTHRA__FN void asthra__stack_end_tasks(void) {
    Asthra__StackRegion *found = NULL, *next;
    asthra__lock(&asthra__stack.lock);
    for (Asthra__StackRegion *r = asthra__stack.all; r != NULL; r = next) {
        next = r->next;
        if (asthra__load(&r->task, relaxed) == 0) continue;
        asthra__stack_unlink(r);
        r->next = found;
        found = r;
    }
    asthra__unlock(&asthra__stack.lock);
    asthra__stack_destroy_all(found);
}

ASTHRA__FN void asthra__stack_set_owner(Asthra__StackOwner task) {
    asthra__store(&asthra__stack.task, task, release);
}

ASTHRA__FN void asthra__stack_sum(Asthra__AccountSum *sum) {
    asthra__stack_reap_orphans();
    asthra__lock(&asthra__stack.lock);
    sum->total += asthra__stack.ended.total;
    sum->freed += asthra__stack.ended.freed;
    sum->count += asthra__stack.ended.count;
    sum->failures += asthra__stack.ended.failures;
    for (const Asthra__StackRegion *r = asthra__stack.all; r != NULL; r = r->next)
        asthra__account_sum(&r->account, sum);
    asthra__unlock(&asthra__stack.lock);
}

/* ---- allocation ---- */

/* There is room, and it was counted. */
static ASTHRA__FAST void *asthra__stack_push(Asthra__StackRegion *r, size_t size) {
    char *block = r->top, *top = block + asthra__stack_need(size);
    asthra__stack_expect_whole(r);
    r->live += size;
    asthra__foot_write(top, r->live, size);
    r->top = top;
    asthra__heap_show(block, size);
    return block;
}

static void *asthra__stack_push_full(Asthra__StackRegion *r, size_t size) {
    const char *end = r->top + asthra__stack_need(size);
    const char *bad = asthra__stack_unlike(r->top, end, ASTHRA__STACK_FREED);
    if (bad != end) asthra__stack_written_to(bad);
    char *block = asthra__stack_push(r, size);
    asthra__stack_set_top(r, r->top);
    size_t slack = (size_t)(r->top - ASTHRA__STACK_FOOT - (block + size));
    asthra__heap_show(block, size + slack);
    memset(block, ASTHRA__STACK_FRESH, size);
    memset(block + size, ASTHRA__STACK_SLACK, slack);
    asthra__heap_hide(block + size, slack);
    return block;
}

static void *asthra__stack_take(size_t size) {
    Asthra__StackRegion *r = asthra__stack_open();
    if (r == NULL) return NULL;
    asthra__stack_expect_whole(r);
    size_t room = (size_t)(r->chunk->end - r->top);
    if ((size >= room || asthra__stack_need(size) > room) && !asthra__stack_chunk_push(r, size))
        return NULL;
    asthra__account_alloc(&r->account, size, ASTHRA_MEMORY_ZONE_STACK);
    return r->level == ASTHRA_SAFETY_FULL ? asthra__stack_push_full(r, size)
                                          : asthra__stack_push(r, size);
}

ASTHRA__COLD static void *asthra__stack_alloc_slow(size_t size) {
    bool is_watched = asthra__zone_is_watched();
    if (is_watched && !asthra__zone_admit(size, ASTHRA_MEMORY_ZONE_STACK)) {
        asthra__lock(&asthra__stack.lock);
        asthra__stack.ended.failures++;
        asthra__unlock(&asthra__stack.lock);
        return NULL;
    }
    void *block = asthra__stack_take(size);
    if (is_watched && block == NULL) asthra__zone_release(size);
    if (is_watched && block != NULL) asthra__zone_tell_alloc(block, size, ASTHRA_MEMORY_ZONE_STACK);
    return block;
}

ASTHRA_RT_API ASTHRA__NOINLINE void *asthra_stack_alloc(size_t size) {
    Asthra__StackRegion *r = asthra__thread_raw()->stack;
    if (ASTHRA__LIKELY(asthra__stack_is_region(r) && !asthra__zone_is_watched())) {
        size_t room = (size_t)(r->quick_end - r->top);
        if (ASTHRA__LIKELY(size < room && asthra__stack_need(size) <= room) &&
            ASTHRA__LIKELY(asthra__account_try_alloc(&r->account, size)))
            return asthra__stack_push(r, size);
    }
    return asthra__stack_alloc_slow(size);
}

/* ---- scopes ---- */

/* For those who read and write the record: compilers would ask for its place again. */
static ASTHRA__FAST Asthra__Thread *asthra__stack_place(void) {
    Asthra__Thread *t = asthra__thread_raw();
    __asm__("" : "+r"(t));
    return t;
}

static ASTHRA__FAST AsthraStackMark asthra__stack_mark_on(Asthra__Thread *t) {
    uint32_t stamp = t->stack_stamp;
    Asthra__StackRegion *r = t->stack;
    AsthraStackMark mark = {NULL, 0, true};
    mark.depth = (uint64_t)asthra__stack_scope(r) << ASTHRA__STAMP_BITS | stamp;
    t->stack_stamp = (stamp + 1) % ASTHRA__STAMP_BLOCK == 0 ? 0 : stamp + 1;
    if (!asthra__stack_is_region(r)) {
        t->stack = asthra__stack_stamp_tag(stamp);
        return mark;
    }
    mark.top = r->top;
    if (asthra__foot_has_scope(r->top)) mark.depth |= ASTHRA__MARK_JOINS;
    asthra__foot_set_scope(r->top, true);
    r->scope = stamp;
    return mark;
}

/* The thread needs more stamps. Attaches it, and makes sure that its end is told. */
ASTHRA__COLD static AsthraStackMark asthra__stack_mark_slow(void) {
    asthra__once(&asthra__stack.once, asthra__stack_setup);
    uint32_t block = asthra__add(&asthra__stack.stamp_blocks, 1, relaxed);
    uint32_t first = block * ASTHRA__STAMP_BLOCK & ASTHRA__STAMP_MASK;
    Asthra__Thread *t = asthra__thread();
    t->stack_stamp = first == 0 ? 1 : first;
    return asthra__stack_mark_on(t);
}

ASTHRA_RT_API ASTHRA__NOINLINE AsthraStackMark asthra_stack_mark(void) {
    Asthra__Thread *t = asthra__stack_place();
    if (ASTHRA__UNLIKELY(t->stack_stamp == 0)) return asthra__stack_mark_slow();
    return asthra__stack_mark_on(t);
}

/* Back to `top`, in the newest chunk. */
static ASTHRA__FAST void asthra__stack_cut(Asthra__StackRegion *r, char *top, bool joins) {
    uint64_t rest = asthra__foot_live(top), freed = r->live - rest;
    asthra__stack_expect_whole(r);
    if (ASTHRA__UNLIKELY(rest > r->live)) asthra__stack_overflown(top);
    asthra__heap_hide(top, (size_t)(r->top - top));
    r->top = top;
    r->live = rest;
    if (!joins) asthra__foot_set_scope(top, false);
    if (ASTHRA__UNLIKELY(asthra__account_free_quick(&r->account, (size_t)freed) < 0))
        asthra__account_tell(&r->account, ASTHRA_MEMORY_ZONE_STACK);
}

static inline bool asthra__stack_is_in_chunk(const Asthra__StackRegion *r, const char *top) {
    const char *base = asthra__stack_chunk_base(r->chunk);
    return (size_t)(top - base) <= (size_t)(r->top - base);
}

ASTHRA__COLD static void asthra__stack_cut_slow(Asthra__StackRegion *r, char *top, bool joins) {
    asthra__stack_expect_whole(r);
    asthra__stack_expect_unpinned(r, top);
    asthra__stack_farewell(r, top);
    if (top == NULL) top = asthra__stack_chunk_base(&r->first);
    while (!asthra__stack_is_in_chunk(r, top)) {
        ASTHRA__CHECK(r->chunk != &r->first); /* the mark was made up */
        asthra__stack_chunk_pop(r);
    }
    uint64_t rest = asthra__foot_live(top), freed = r->live - rest;
    if (rest > r->live) asthra__stack_overflown(top);
    asthra__stack_wipe(r, top, r->top);
    asthra__stack_set_top(r, top);
    r->live = rest;
    if (!joins) asthra__foot_set_scope(top, false);
    asthra__account_free(&r->account, (size_t)freed, ASTHRA_MEMORY_ZONE_STACK);
    asthra__zone_release((size_t)freed);
}

ASTHRA_RT_API ASTHRA__NOINLINE void asthra_stack_release(AsthraStackMark *mark) {
    Asthra__Thread *t = asthra__stack_place();
    Asthra__StackRegion *r = t->stack;
    if (ASTHRA__UNLIKELY(mark == NULL)) asthra__stack_no_mark();
    uint64_t depth = mark->depth;
    uint32_t stamp = depth & ASTHRA__STAMP_MASK;
    uint32_t around = depth >> ASTHRA__STAMP_BITS & ASTHRA__STAMP_MASK;
    if (ASTHRA__UNLIKELY(stamp == 0 || asthra__stack_scope(r) != stamp))
        asthra__stack_wrong_release(stamp, asthra__stack_scope(r));
    mark->open = false;
    mark->depth = 0;
    if (!asthra__stack_is_region(r)) {
        t->stack = asthra__stack_stamp_tag(around);
        return;
    }
    bool joins = (depth & ASTHRA__MARK_JOINS) != 0;
    if (ASTHRA__LIKELY(asthra__stack_is_in_chunk(r, mark->top) && !asthra__zone_is_watched() &&
                       r->level != ASTHRA_SAFETY_FULL))
        asthra__stack_cut(r, mark->top, joins);
    else
        asthra__stack_cut_slow(r, mark->top, joins);
    r->scope = around;
}

/* ---- a single block ---- */

/* Says what else ptr, which lies in a chunk, is. */
static void asthra__stack_say_what(Asthra__Text *t, const char *ptr,
                                   const Asthra__StackRegion *of) {
    const Asthra__StackRegion *mine = asthra__thread()->stack;
    uint64_t task = asthra__load(&of->task, relaxed);
    Asthra__StackWalk w = asthra__stack_walk(of, NULL);
    asthra__text_format(t, "%p ", (const void *)ptr);
    if (mine != of) {
        asthra__text_add(t, "is in the region of ");
        if (task != 0) asthra__stack_say_owner(t, task);
        if (task == 0) asthra__text_add(t, "another thread, or of a task that has ended");
        return;
    }
    if (!asthra__stack_next(&w)) {
        asthra__text_add(t, "was freed or released before: the region has no block");
        return;
    }
    if (w.block == ptr) {
        asthra__text_add(t, "is the newest block, but a scope was opened after it: release first");
        return;
    }
    asthra__text_format(t, "is not the newest block, which is %p of %zu bytes", (void *)w.block,
                        w.size);
    for (Asthra__StackWalk all = asthra__stack_walk(mine, NULL); asthra__stack_next(&all);)
        if (all.block <= ptr && ptr < all.block + asthra__stack_need(all.size)) return;
    asthra__text_add(t, ", and was freed or released before");
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__stack_invalid(const char *ptr, const char *verb) {
    char what[256];
    Asthra__Found f;
    Asthra__Text t = asthra__text_on(what, sizeof what);
    AsthraAddressKind kind = asthra__heap_find(ptr, &f);
    if (kind != ASTHRA_ADDRESS_LIVE || f.zone != ASTHRA_MEMORY_ZONE_STACK)
        asthra__heap_invalid(ptr, ASTHRA_MEMORY_ZONE_STACK, verb);
    asthra__stack_say_what(&t, ptr, *(Asthra__StackRegion *const *)(const void *)f.start);
    asthra_panic_at(NULL, "Invalid pointer in %s: %s", verb, what);
}

ASTHRA__FN bool asthra__stack_describe(const void *chunk, const void *ptr,
                                       AsthraAllocationInfo *out) {
    const Asthra__StackRegion *mine = asthra__thread()->stack;
    const Asthra__StackRegion *of = *(Asthra__StackRegion *const *)chunk;
    if (out->kind != ASTHRA_ADDRESS_LIVE) return true;
    if (mine != of) return true;
    out->kind = ASTHRA_ADDRESS_SLACK;
    out->start = NULL;
    out->size = 0;
    for (Asthra__StackWalk w = asthra__stack_walk(mine, NULL); asthra__stack_next(&w);) {
        if ((size_t)((const char *)ptr - w.block) >= (w.size == 0 ? 1 : w.size)) continue;
        out->kind = ASTHRA_ADDRESS_LIVE;
        out->start = w.block;
        out->size = w.size;
        out->allocated_by = asthra__stack_task();
        return true;
    }
    return false;
}

ASTHRA__FN ASTHRA__NOINLINE void asthra__stack_free(void *ptr, const char *verb) {
    Asthra__StackRegion *r = asthra__thread_raw()->stack;
    if (ptr == NULL) return;
    if (!asthra__stack_is_region(r)) asthra__stack_invalid(ptr, verb);
    char *top = r->top;
    asthra__stack_expect_whole(r);
    char *block = top - asthra__stack_need(asthra__foot_size(top));
    bool is_empty = top == asthra__stack_chunk_base(&r->first);
    if (is_empty || ptr != block || asthra__foot_has_scope(top)) asthra__stack_invalid(ptr, verb);
    asthra__stack_cut_slow(r, block, true);
    if (block == asthra__stack_chunk_base(r->chunk) && r->chunk != &r->first)
        asthra__stack_chunk_pop(r);
}

#endif

/* ---- [arena] body -------------------------------------------------------- memory/arena.c ---- */
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

/* ---- [pool] internal --------------------------------------------- memory/pool_internal.h ---- */
/* pool - chunks, maps and free blocks, as the pieces of pool share them.   [pool] internal
 *
 * A chunk is one piece of memory: its record, its maps, then the blocks, in granules of 16 bytes. A
 * map has a bit for each granule:
 *
 *     starts live     the granule is
 *        0    0       inside a block, live or free
 *        1    1       the first of a live block, or the end of the chunk
 *        1    0       the first of a free block
 *        0    1       the last of a free block that has two or more
 *
 * and `held` marks the start of a block that a handle names. An object pool has live and held only:
 * the first granule of a live object. Everything below but at, chunk_of and the maps belongs to
 * block pools. The pool's lock is held wherever a pool is passed, unless a comment says else.
 */

#if ASTHRA_HAS_POOL

enum {
    ASTHRA__POOL_GRANULE = 16,
    ASTHRA__POOL_NONE = 0x7fffffff,
    ASTHRA__POOL_BINS = 64,  /* sizes that have a list of their own, for best fit */
    ASTHRA__POOL_LEVELS = 12 /* 8^11 pages hold 2^39 granules */
};

typedef uint32_t Asthra__PoolWord __attribute__((__may_alias__));
typedef uintptr_t Asthra__PoolLink __attribute__((__may_alias__));

typedef struct Asthra__PoolChunk {
    AsthraPool *pool;
    char *base;   /* the first block */
    size_t bytes; /* of blocks */
    size_t fresh; /* object pools: so many bytes have been objects once */
    uint64_t *live, *held, *starts;
    uint64_t secret; /* of the check words */
    /* Of block pools: */
    uint32_t granules;                      /* bytes / 16, below ASTHRA__POOL_NONE */
    uint32_t root;                          /* of the tree of large free blocks, for best fit */
    uint64_t bin_mask;                      /* bit k: there are free blocks of k + 1 granules */
    uint32_t *bins;                         /* the first of each; NULL: not best fit */
    uint32_t *summary[ASTHRA__POOL_LEVELS]; /* from the pages' up to the chunk's */
    unsigned levels;                        /* summary[levels] is the chunk's */
    struct Asthra__PoolChunk *next_empty;   /* in the list of those to be given back */
} Asthra__PoolChunk;

typedef struct Asthra__PoolHandle {
    char *address;       /* NULL: free */
    size_t size;         /* as requested */
    uint32_t generation; /* of the handle that is, or will be, valid */
    uint32_t next;       /* free entry */
} Asthra__PoolHandle;

struct AsthraPool {
    Asthra__Lock lock;
    bool grows, auto_defrag;
    bool is_compact; /* nothing was freed since all was moved together */
    AsthraPoolStrategy strategy;
    size_t object_size, stride; /* object_size 0: block pool */
    char *newest_free;          /* object pools: the newest freed object; NULL: none */
    Asthra__PoolChunk *newest;  /* object pools: it has the fresh objects */
    Asthra__PoolChunk *recent;  /* the chunk that chunk_of found last */
    size_t capacity, total;     /* bytes, as configured and in chunks */
    size_t free_bytes;          /* block pools */
    Asthra__PoolHandle *handles;
    uint32_t *handles_sorted; /* room for a list of handles, behind them */
    uint32_t handle_room, handle_count, free_handle, stamp;
    const char *name;
    uint32_t changes; /* of the list of chunks */
    uint32_t chunk_count, chunk_room;
    Asthra__PoolChunk *chunks[]; /* by address */
};

/* First in every public function. */
#define ASTHRA__POOL_NEEDS(p)              \
    (ASTHRA__LIKELY((p) != NULL) ? (void)0 \
                                 : asthra_panic_at(NULL, "%s: the pool is NULL", __func__))

/* ---- maps ---- */

static inline bool asthra__pool_bit(const uint64_t *map, size_t i) {
    return (map[i >> 6] >> (i & 63) & 1) != 0;
}
static inline void asthra__pool_set(uint64_t *map, size_t i) {
    map[i >> 6] |= UINT64_C(1) << (i & 63);
}
static inline void asthra__pool_clear(uint64_t *map, size_t i) {
    map[i >> 6] &= ~(UINT64_C(1) << (i & 63));
}
static inline char *asthra__pool_at(const Asthra__PoolChunk *c, size_t i) {
    return c->base + i * ASTHRA__POOL_GRANULE;
}

/* Granules for a request; ASTHRA__POOL_NONE: more than any chunk has. */
static inline uint32_t asthra__pool_granules(size_t size) {
    size_t n = size ? (size - 1) / ASTHRA__POOL_GRANULE + 1 : 1;
    return n < ASTHRA__POOL_NONE ? (uint32_t)n : ASTHRA__POOL_NONE;
}

/* The chunk whose blocks hold this address; NULL: none. */
ASTHRA__FN Asthra__PoolChunk *asthra__pool_chunk_search(AsthraPool *p, const void *address);
static inline Asthra__PoolChunk *asthra__pool_chunk_of(AsthraPool *p, const void *address) {
    Asthra__PoolChunk *c = p->recent;
    if (ASTHRA__LIKELY(c && (uintptr_t)address - (uintptr_t)c->base < c->bytes)) return c;
    return asthra__pool_chunk_search(p, address);
}

/* ---- what AddressSanitizer is told ---- */

#if ASTHRA__ASAN
void __asan_poison_memory_region(void const volatile *addr, size_t size);
void __asan_unpoison_memory_region(void const volatile *addr, size_t size);
#define ASTHRA__POOL_UNSEEN ASTHRA__ASAN_BLIND
#else
#define ASTHRA__POOL_UNSEEN ASTHRA__FAST
#endif
static inline void asthra__pool_shut(char *start, size_t bytes) {
#if ASTHRA__ASAN
    __asan_poison_memory_region(start, bytes);
#endif
    (void)start, (void)bytes;
}
static inline void asthra__pool_open(char *start, size_t bytes) {
#if ASTHRA__ASAN
    __asan_unpoison_memory_region(start, bytes);
#endif
    (void)start, (void)bytes;
}

/* ---- free blocks; sizes in granules ---- */

typedef struct Asthra__PoolTag {
    uint32_t left, right, size;
} Asthra__PoolTag;

/* In the first 16 bytes of a free block. Reading one that is damaged panics. */
ASTHRA__FN Asthra__PoolTag asthra__pool_tag(const Asthra__PoolChunk *c, uint32_t i);
ASTHRA__FN void asthra__pool_tag_write(const Asthra__PoolChunk *c, uint32_t i,
                                       const Asthra__PoolTag *t);
/* Something in free memory is not as it was left: unlocks the pool and panics. */
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__pool_damaged(AsthraPool *p, const void *block);

/* Makes i..i+size one free block; its neighbours are live. */
ASTHRA__FN void asthra__pool_free_add(Asthra__PoolChunk *c, uint32_t i, uint32_t size);
/* The granules stop being a free block; what they are then is the caller's. */
ASTHRA__FN void asthra__pool_free_remove(Asthra__PoolChunk *c, uint32_t i, uint32_t size);
/* Sizes of the free block that starts at i, and that ends before i; 0: there is none. */
ASTHRA__FN uint32_t asthra__pool_free_from(const Asthra__PoolChunk *c, uint32_t i);
ASTHRA__FN uint32_t asthra__pool_free_before(const Asthra__PoolChunk *c, uint32_t i);
/* The largest free block's size (0: none is free), and the first that has at least n; there is. */
ASTHRA__FN uint32_t asthra__pool_largest(const Asthra__PoolChunk *c);
ASTHRA__FN uint32_t asthra__pool_first(const Asthra__PoolChunk *c, uint32_t n);
/* Words for the summary of so many pages, and giving them, zeroed, to a chunk. */
ASTHRA__FN size_t asthra__pool_summary_words(size_t pages);
ASTHRA__FN void asthra__pool_summary_lay(Asthra__PoolChunk *c, uint32_t *words);

/* The index by size, where there are bins. best: the smallest that has at least n, and its size;
 * ASTHRA__POOL_NONE: none has. */
ASTHRA__FN void asthra__pool_size_add(Asthra__PoolChunk *c, uint32_t i, uint32_t size);
ASTHRA__FN void asthra__pool_size_remove(Asthra__PoolChunk *c, uint32_t i, uint32_t size);
ASTHRA__FN uint32_t asthra__pool_best(const Asthra__PoolChunk *c, uint32_t n, uint32_t *size);

/* ---- blocks ---- */

ASTHRA__FN uint32_t asthra__pool_live_size(const Asthra__PoolChunk *c, uint32_t i); /* granules */
/* The first n granules of the free block at i become a live block of `size` bytes. */
ASTHRA__FN char *asthra__pool_occupy(Asthra__PoolChunk *c, uint32_t i, uint32_t n, size_t size);
/* A live block of n granules becomes free and is merged with its neighbours. true: the whole chunk
 * is free now. */
ASTHRA__FN bool asthra__pool_vacate(Asthra__PoolChunk *c, uint32_t i, uint32_t n);
/* Takes chunks that are wholly free, but for the largest of them, out of a pool that grows.
 * Returns   their list, for asthra__pool_discard without the lock. */
ASTHRA__FN Asthra__PoolChunk *asthra__pool_shed(AsthraPool *p);
ASTHRA__FN void asthra__pool_discard(Asthra__PoolChunk *list);

/* ---- for handles ---- */

/* Block or object; NULL: asthra_last_error says why. The lock is not held. */
ASTHRA__FN void *asthra__pool_obtain(AsthraPool *p, size_t size);
/* Frees a live block or object.
 * Returns   chunks to discard. */
ASTHRA__FN Asthra__PoolChunk *asthra__pool_return(AsthraPool *p, char *block);
/* The one place where memory comes from, and goes back to; the lock is not held. */
ASTHRA__FN void *asthra__pool_memory(size_t bytes); /* NULL: none */
ASTHRA__FN void asthra__pool_memory_free(void *memory);
/* Moves what handles name until some free block has `enough` granules; returns bytes moved. */
ASTHRA__FN size_t asthra__pool_compact(AsthraPool *p, uint32_t enough);

#endif

/* ---- [pool] body ---------------------------------------------------------- memory/pool.c ---- */
/* pool - chunks, objects and blocks.                                             [pool] body
 *
 * Truth is in the maps of a chunk (pool_internal.h), which lie in front of its blocks and out of
 * the way of overflows: a pointer is a live block's start, or not, by two bits, whatever stands in
 * memory. A block has no header; its size is the distance to the next start, found word by word of
 * the map, 64 granules at a step. So blocks whose sizes sum up to the capacity fit into it. All
 * that lies before the blocks is 3 hundredths of them, for objects 2.
 *
 * Free blocks are kept as pool_free.c and pool_size.c say, free objects in a list: a freed object
 * holds in its first word the one freed before it, in its second a hash of that, of its own address
 * and of the chunk's secret, compared before the first is believed. Objects that were never used
 * have no link: they are taken off the newest chunk's end.
 *
 * Growing. Memory is asked for without the lock, since whoever gives it may be slow, or may call
 * this pool. Two threads that grow at once are told apart by `changes`: the later one throws its
 * chunk away and looks again. A chunk has at least half of the bytes that the pool has, so k chunks
 * are 1.5^k times the first, and 64 of them more than there are addresses. Where memory for so much
 * is refused, what is needed is tried.
 *
 * All panics give the lock back first: a task may fail alone and others go on.
 */

#if ASTHRA_HAS_POOL

#include <string.h>

enum {
    ASTHRA__POOL_CHUNKS = 64,
    ASTHRA__POOL_FIRST_CHUNK = 65536, /* bytes of blocks */
    ASTHRA__POOL_FIRST_OBJECTS = 4096 /* bytes, unless 8 objects are more */
};

static struct {
    ASTHRA__ATOMIC(uint32_t) stamps; /* pools made: what tells their handles apart */
} asthra__pool;

/* ---- memory ---- */

ASTHRA__FN void *asthra__pool_memory(size_t bytes) {
    return asthra__alloc(bytes);
}

ASTHRA__FN void asthra__pool_memory_free(void *memory) {
    asthra__free(memory);
}

/* Chunks are few and sorted: k of them are told apart in log2 k steps. */
ASTHRA__FN Asthra__PoolChunk *asthra__pool_chunk_search(AsthraPool *p, const void *address) {
    uint32_t low = 0, high = p->chunk_count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        Asthra__PoolChunk *c = p->chunks[middle];
        if ((uintptr_t)address - (uintptr_t)c->base < c->bytes) return p->recent = c;
        if ((uintptr_t)address < (uintptr_t)c->base)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* Bytes of a chunk's record, maps, and what else lies before its blocks. */
static size_t asthra__pool_head(const AsthraPool *p, size_t granules) {
    size_t words = granules / 64 + 1, head = sizeof(Asthra__PoolChunk);
    if (p->object_size) return head + 2 * words * sizeof(uint64_t);
    if (p->strategy == ASTHRA_POOL_BEST_FIT) head += ASTHRA__POOL_BINS * sizeof(uint32_t);
    return head + 3 * words * sizeof(uint64_t) +
           asthra__pool_summary_words(words) * sizeof(uint32_t);
}

/* Gives a chunk for blocks what lies behind its first two maps. */
static void asthra__pool_chunk_for_blocks(Asthra__PoolChunk *c, size_t words) {
    uint32_t *rest = (uint32_t *)(void *)(c->held + 2 * words);
    c->granules = (uint32_t)(c->bytes / ASTHRA__POOL_GRANULE);
    c->starts = c->held + words;
    asthra__pool_set(c->starts, c->granules); /* the end: neither free nor inside a block */
    asthra__pool_set(c->live, c->granules);
    if (c->pool->strategy == ASTHRA_POOL_BEST_FIT) {
        c->bins = rest;
        rest += ASTHRA__POOL_BINS;
    }
    asthra__pool_summary_lay(c, rest);
}

/* A chunk that is in no pool yet; `bytes` is a multiple of 16. NULL: no memory. No lock. */
static Asthra__PoolChunk *asthra__pool_chunk_create(AsthraPool *p, size_t bytes) {
    size_t granules = bytes / ASTHRA__POOL_GRANULE, words = granules / 64 + 1;
    size_t head = asthra__pool_head(p, granules);
    if (bytes > PTRDIFF_MAX - head - ASTHRA__POOL_GRANULE) return NULL;
    Asthra__PoolChunk *c = asthra__pool_memory(head + bytes + ASTHRA__POOL_GRANULE);
    if (!c) return NULL;
    memset(c, 0, head);
    c->pool = p;
    c->live = (uint64_t *)(c + 1);
    c->held = c->live + words;
    c->base = (char *)c + head;
    c->base += (0 - (uintptr_t)c->base) % ASTHRA__POOL_GRANULE;
    c->bytes = bytes;
    c->secret = ((uint64_t)p->stamp << 32 ^ (uintptr_t)c) * UINT64_C(0xd1342543de82ef95);
    c->root = ASTHRA__POOL_NONE;
    if (!p->object_size) asthra__pool_chunk_for_blocks(c, words);
    asthra__pool_shut(c->base, bytes);
    return c;
}

ASTHRA__FN void asthra__pool_discard(Asthra__PoolChunk *list) {
    while (list) {
        Asthra__PoolChunk *c = list;
        list = c->next_empty;
        asthra__pool_open(c->base, c->bytes);
        asthra__pool_memory_free(c);
    }
}

static void asthra__pool_install(AsthraPool *p, Asthra__PoolChunk *c) {
    uint32_t k = p->chunk_count++;
    while (k > 0 && (uintptr_t)p->chunks[k - 1] > (uintptr_t)c) {
        p->chunks[k] = p->chunks[k - 1];
        k--;
    }
    p->chunks[k] = c;
    p->changes++;
    p->total += c->bytes;
    p->newest = c;
    p->is_compact = false; /* it may lie lower */
    if (c->granules) asthra__pool_free_add(c, 0, c->granules);
}

static bool asthra__pool_is_empty(const Asthra__PoolChunk *c) {
    return asthra__pool_free_from(c, 0) == c->granules;
}

ASTHRA__FN Asthra__PoolChunk *asthra__pool_shed(AsthraPool *p) {
    if (!p->grows || p->object_size) return NULL;
    Asthra__PoolChunk *list = NULL, *kept = NULL;
    uint32_t count = 0;
    for (uint32_t k = 0; k < p->chunk_count; k++) {
        Asthra__PoolChunk *c = p->chunks[k];
        if (asthra__pool_is_empty(c) && (!kept || c->bytes > kept->bytes)) kept = c;
    }
    for (uint32_t k = 0; k < p->chunk_count; k++) {
        Asthra__PoolChunk *c = p->chunks[k];
        if (c == kept || !asthra__pool_is_empty(c)) {
            p->chunks[count++] = c;
        } else {
            c->next_empty = list;
            list = c;
            p->total -= c->bytes;
            p->free_bytes -= c->bytes;
        }
    }
    p->recent = NULL;
    p->chunk_count = count;
    p->changes++;
    return list;
}

/* ---- blocks ---- */

ASTHRA__FN uint32_t asthra__pool_live_size(const Asthra__PoolChunk *c, uint32_t i) {
    size_t w = ((size_t)i + 1) >> 6;
    uint64_t bits = c->starts[w] & ~UINT64_C(0) << ((i + 1) & 63);
    while (!bits) bits = c->starts[++w]; /* the chunk's end is a start */
    return (uint32_t)(w * 64 + (size_t)__builtin_ctzll(bits)) - i;
}

ASTHRA__FN char *asthra__pool_occupy(Asthra__PoolChunk *c, uint32_t i, uint32_t n, size_t size) {
    uint32_t room = asthra__pool_free_from(c, i);
    ASTHRA__ASSERT(room >= n);
    asthra__pool_free_remove(c, i, room);
    asthra__pool_set(c->starts, i);
    asthra__pool_set(c->live, i);
    if (room > n) asthra__pool_free_add(c, i + n, room - n);
    asthra__pool_open(asthra__pool_at(c, i), size);
    return asthra__pool_at(c, i);
}

ASTHRA__FN bool asthra__pool_vacate(Asthra__PoolChunk *c, uint32_t i, uint32_t n) {
    uint32_t before = asthra__pool_free_before(c, i), behind = asthra__pool_free_from(c, i + n);
    asthra__pool_shut(asthra__pool_at(c, i), (size_t)n * ASTHRA__POOL_GRANULE);
    if (before) asthra__pool_free_remove(c, i - before, before);
    if (behind) asthra__pool_free_remove(c, i + n, behind);
    asthra__pool_clear(c->starts, i);
    asthra__pool_clear(c->live, i);
    asthra__pool_free_add(c, i - before, before + n + behind);
    c->pool->is_compact = false;
    return before + n + behind == c->granules;
}

/* The chunk that the strategy takes n granules from, and the place; NULL: none has so many. */
static Asthra__PoolChunk *asthra__pool_find(const AsthraPool *p, uint32_t n, uint32_t *at) {
    Asthra__PoolChunk *found = NULL;
    uint32_t most = n, least = UINT32_MAX;
    for (uint32_t k = 0; k < p->chunk_count; k++) {
        Asthra__PoolChunk *c = p->chunks[k];
        uint32_t size = 0, i;
        if (p->strategy == ASTHRA_POOL_BEST_FIT) {
            i = asthra__pool_best(c, n, &size);
            if (i == ASTHRA__POOL_NONE || size >= least) continue;
            found = c, *at = i, least = size;
            if (size == n) break;
        } else {
            size = asthra__pool_largest(c);
            if (size < most || (found && size == most)) continue;
            found = c, most = size;
            if (p->strategy == ASTHRA_POOL_FIRST_FIT) break;
        }
    }
    if (found && p->strategy != ASTHRA_POOL_BEST_FIT)
        *at = asthra__pool_first(found, p->strategy == ASTHRA_POOL_FIRST_FIT ? n : most);
    return found;
}

static void *asthra__pool_take_block(const AsthraPool *p, size_t size) {
    uint32_t n = asthra__pool_granules(size), at = 0;
    Asthra__PoolChunk *c = asthra__pool_find(p, n, &at);
    return c ? asthra__pool_occupy(c, at, n, size) : NULL;
}

/* ---- objects ---- */

static inline uintptr_t asthra__pool_link_check(const Asthra__PoolChunk *c, const char *object,
                                                uintptr_t next) {
    uint64_t h = (c->secret ^ (uintptr_t)object ^ next) * UINT64_C(0x9e3779b97f4a7c15);
    return (uintptr_t)(h >> (64 - 8 * sizeof(uintptr_t))) ^ next;
}

static ASTHRA__POOL_UNSEEN char *asthra__pool_link(const Asthra__PoolChunk *c, const char *object) {
    const Asthra__PoolLink *w = (const Asthra__PoolLink *)(const void *)object;
    if (ASTHRA__UNLIKELY(w[1] != asthra__pool_link_check(c, object, w[0])))
        asthra__pool_damaged(c->pool, object);
    return (char *)w[0];
}

static ASTHRA__POOL_UNSEEN void asthra__pool_link_write(const Asthra__PoolChunk *c, char *object,
                                                        const char *next) {
    Asthra__PoolLink *w = (Asthra__PoolLink *)(void *)object;
    w[0] = (uintptr_t)next;
    w[1] = asthra__pool_link_check(c, object, (uintptr_t)next);
}

static inline size_t asthra__pool_index(const Asthra__PoolChunk *c, const char *block) {
    return (size_t)(block - c->base) / ASTHRA__POOL_GRANULE;
}

static inline void *asthra__pool_take_object(AsthraPool *p, size_t size) {
    char *object = p->newest_free;
    Asthra__PoolChunk *c;
    if (ASTHRA__LIKELY(object != NULL)) {
        c = asthra__pool_chunk_of(p, object);
        p->newest_free = asthra__pool_link(c, object);
    } else {
        c = p->newest;
        if (!c || c->fresh == c->bytes) return NULL;
        object = c->base + c->fresh;
        c->fresh += p->stride;
    }
    asthra__pool_set(c->live, asthra__pool_index(c, object));
    asthra__pool_open(object, size);
    return object;
}

/* ---- both ---- */

static inline void *asthra__pool_take(AsthraPool *p, size_t size) {
    if (!p->object_size) return asthra__pool_take_block(p, size);
    return size <= p->object_size ? asthra__pool_take_object(p, size) : NULL;
}

ASTHRA__FN ASTHRA__FAST Asthra__PoolChunk *asthra__pool_return(AsthraPool *p, char *block) {
    Asthra__PoolChunk *c = asthra__pool_chunk_of(p, block);
    size_t i = asthra__pool_index(c, block);
    if (!p->object_size) {
        bool is_empty = asthra__pool_vacate(c, (uint32_t)i, asthra__pool_live_size(c, (uint32_t)i));
        return ASTHRA__UNLIKELY(is_empty) ? asthra__pool_shed(p) : NULL;
    }
    asthra__pool_clear(c->live, i);
    asthra__pool_link_write(c, block, p->newest_free);
    asthra__pool_shut(block, p->stride);
    p->newest_free = block;
    return NULL;
}

/* ---- growing ---- */

/* Bytes of the next chunk, at most and at least, to hold `size` more. */
static size_t asthra__pool_next_chunk(const AsthraPool *p, size_t size, size_t total,
                                      size_t *least) {
    size_t unit = p->stride, most = (ASTHRA__POOL_NONE - 1) * (size_t)ASTHRA__POOL_GRANULE;
    size_t bytes = p->object_size ? ASTHRA__POOL_FIRST_OBJECTS : ASTHRA__POOL_FIRST_CHUNK;
    *least = p->object_size ? unit : asthra__pool_granules(size) * unit;
    if (p->object_size && bytes / 8 < unit && unit <= PTRDIFF_MAX / 8) bytes = 8 * unit;
    if (bytes < total / 2) bytes = total / 2;
    if (!p->object_size && bytes > most) bytes = most;
    if (bytes < *least) bytes = *least;
    return bytes / unit * unit;
}

/* Adds a chunk, unless the list has changed since `seen`. false: no memory. No lock. */
static bool asthra__pool_grow(AsthraPool *p, size_t size, uint32_t seen, size_t total) {
    size_t least, bytes = asthra__pool_next_chunk(p, size, total, &least);
    Asthra__PoolChunk *c = asthra__pool_chunk_create(p, bytes);
    if (!c && bytes > least) c = asthra__pool_chunk_create(p, least);
    if (!c) return false;
    asthra__lock(&p->lock);
    bool is_changed = p->changes != seen, is_full = p->chunk_count == p->chunk_room;
    if (!is_changed && !is_full) asthra__pool_install(p, c);
    asthra__unlock(&p->lock);
    if (is_changed || is_full) asthra__pool_discard(c);
    return is_changed || !is_full;
}

/* Takes after moving together what can be moved, if that may help. */
static void *asthra__pool_take_compacted(AsthraPool *p, size_t size) {
    if (!p->auto_defrag || p->is_compact || size > p->free_bytes) return NULL;
    asthra__pool_compact(p, asthra__pool_granules(size));
    return asthra__pool_take(p, size);
}

ASTHRA__COLD static void *asthra__pool_say_none(const AsthraPool *p, size_t size, size_t free_bytes,
                                                bool is_full) {
    if (!is_full)
        asthra__error_set(ASTHRA_OUT_OF_MEMORY, "pool '%s' found no memory to grow by %zu bytes",
                          p->name, size);
    else if (p->object_size)
        asthra__error_set(ASTHRA_LIMIT, "pool '%s' is full: its capacity is %zu bytes", p->name,
                          p->capacity);
    else
        asthra__error_set(ASTHRA_LIMIT,
                          "pool '%s' has no free block of %zu bytes: %zu of its %zu bytes are free",
                          p->name, size, free_bytes, p->total);
    return NULL;
}

ASTHRA__COLD static void *asthra__pool_obtain_slow(AsthraPool *p, size_t size) {
    if (p->object_size && size > p->object_size) {
        asthra__error_set(ASTHRA_INVALID, "pool '%s' has objects of %zu bytes; %zu were asked for",
                          p->name, p->object_size, size);
        return NULL;
    }
    bool can_grow = p->grows && asthra__pool_granules(size) < ASTHRA__POOL_NONE;
    for (;;) {
        asthra__lock(&p->lock);
        void *block = asthra__pool_take(p, size);
        if (!block && !can_grow) block = asthra__pool_take_compacted(p, size);
        uint32_t seen = p->changes;
        size_t total = p->total, free_bytes = p->free_bytes;
        asthra__unlock(&p->lock);
        if (block) return block;
        if (!can_grow) return asthra__pool_say_none(p, size, free_bytes, !p->grows);
        can_grow = asthra__pool_grow(p, size, seen, total);
    }
}

ASTHRA__FN ASTHRA__FAST void *asthra__pool_obtain(AsthraPool *p, size_t size) {
    asthra__lock(&p->lock);
    void *block = asthra__pool_take(p, size);
    asthra__unlock(&p->lock);
    return ASTHRA__LIKELY(block != NULL) ? block : asthra__pool_obtain_slow(p, size);
}

/* ---- pointers that are wrong ---- */

/* The last granule up to i whose bit is set in the map. There is one. */
static size_t asthra__pool_last_set(const uint64_t *map, size_t i) {
    while (!asthra__pool_bit(map, i)) i--;
    return i;
}

static void asthra__pool_say_object(Asthra__Text *t, const AsthraPool *p,
                                    const Asthra__PoolChunk *c, size_t offset) {
    size_t inside = offset % p->stride;
    const char *object = c->base + (offset - inside);
    bool is_live = asthra__pool_bit(c->live, asthra__pool_index(c, object));
    const char *what = is_live              ? "a live object"
                       : offset >= c->fresh ? "a place that was never handed out"
                                            : "an object that was freed before";
    if (inside)
        asthra__text_format(t, "it is %zu bytes inside %s at %p", inside, what,
                            (const void *)object);
    else
        asthra__text_format(t, "it is %s", is_live ? "a handle's: use its handle" : what);
}

static void asthra__pool_say_block(Asthra__Text *t, const Asthra__PoolChunk *c, size_t offset) {
    size_t start = asthra__pool_last_set(c->starts, offset / ASTHRA__POOL_GRANULE);
    size_t bytes = (size_t)asthra__pool_live_size(c, (uint32_t)start) * ASTHRA__POOL_GRANULE;
    const void *block = asthra__pool_at(c, start);
    size_t inside = offset - start * ASTHRA__POOL_GRANULE;
    if (!asthra__pool_bit(c->live, start))
        asthra__text_format(t, "it is in free memory (%zu bytes at %p): freed before?", bytes,
                            block);
    else if (inside)
        asthra__text_format(t, "it is %zu bytes inside a live block of %zu at %p", inside, bytes,
                            block);
    else
        asthra__text_add(t, "it is a handle's: use its handle");
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__pool_refuse(AsthraPool *p, const void *block) {
    char words[160];
    Asthra__Text t = asthra__text_on(words, sizeof words);
    const Asthra__PoolChunk *c = asthra__pool_chunk_of(p, block);
    if (!c)
        asthra__text_add(&t, "it is in none of its chunks");
    else if (p->object_size)
        asthra__pool_say_object(&t, p, c, (size_t)((const char *)block - c->base));
    else
        asthra__pool_say_block(&t, c, (size_t)((const char *)block - c->base));
    asthra__unlock(&p->lock);
    asthra_panic_at(NULL,
                    "Invalid pointer in pool_free: %p is not the start of a live block of pool "
                    "'%s': %s",
                    block, p->name, words);
}

/* ---- the contract ---- */

/* Says why not with asthra_last_error. */
static bool asthra__pool_config_is_good(const AsthraPoolConfig *config) {
    size_t object = config->object_size, most = PTRDIFF_MAX / 4;
    if ((unsigned)config->strategy > ASTHRA_POOL_WORST_FIT)
        asthra__error_set(ASTHRA_INVALID, "asthra_pool_create: strategy %d is none",
                          (int)config->strategy);
    else if (object && config->strategy != ASTHRA_POOL_FIRST_FIT)
        asthra__error_set(ASTHRA_INVALID, "asthra_pool_create: strategies are for blocks, and "
                                          "object_size is not 0");
    else if (config->capacity && config->capacity < object)
        asthra__error_set(ASTHRA_INVALID,
                          "asthra_pool_create: a capacity of %zu bytes holds no object of %zu",
                          config->capacity, object);
    else if (object > most || config->capacity > most ||
             (!object && asthra__pool_granules(config->capacity) == ASTHRA__POOL_NONE))
        asthra__error_set(ASTHRA_LIMIT, "asthra_pool_create: the pool would be too large");
    else
        return true;
    return false;
}

/* The pool, its table of chunks and its name in one piece; the capacity is still missing. */
static AsthraPool *asthra__pool_record_create(const AsthraPoolConfig *config) {
    const char *name = config->name ? config->name : "unnamed";
    uint32_t room = config->capacity ? 1 : ASTHRA__POOL_CHUNKS;
    size_t length = strlen(name) + 1, head = sizeof(AsthraPool) + room * sizeof(void *);
    AsthraPool *p = asthra__pool_memory(head + length);
    if (!p) return NULL;
    memset(p, 0, head);
    p->name = memcpy((char *)p + head, name, length);
    p->chunk_room = room;
    p->grows = !config->capacity;
    p->auto_defrag = config->auto_defrag && !config->object_size;
    p->strategy = config->strategy;
    p->object_size = config->object_size;
    p->stride = config->object_size ? (config->object_size + ASTHRA__POOL_GRANULE - 1) & ~(size_t)15
                                    : ASTHRA__POOL_GRANULE;
    p->capacity = config->capacity;
    p->stamp = asthra__add(&asthra__pool.stamps, 1, relaxed);
    p->free_handle = UINT32_MAX;
    return p;
}

ASTHRA_RT_API AsthraPool *asthra_pool_create(const AsthraPoolConfig *config) {
    static const AsthraPoolConfig zeros;
    if (!config) config = &zeros;
    if (!asthra__pool_config_is_good(config)) return NULL;
    asthra__sync_setup(); /* unlocking is cheaper from now on */
    AsthraPool *p = asthra__pool_record_create(config);
    if (p && config->capacity) {
        size_t units = p->object_size ? config->capacity / p->object_size
                                      : asthra__pool_granules(config->capacity);
        size_t bytes;
        Asthra__PoolChunk *c = __builtin_mul_overflow(units, p->stride, &bytes)
                                   ? NULL
                                   : asthra__pool_chunk_create(p, bytes);
        if (c) {
            asthra__pool_install(p, c);
        } else {
            asthra__pool_memory_free(p);
            p = NULL;
        }
    }
    if (p)
        asthra__error_clear();
    else
        asthra__error_set(ASTHRA_OUT_OF_MEMORY,
                          "asthra_pool_create: no memory for a capacity of %zu bytes",
                          config->capacity);
    return p;
}

ASTHRA_RT_API void *asthra_pool_alloc(AsthraPool *p, size_t size) {
    ASTHRA__POOL_NEEDS(p);
    return asthra__pool_obtain(p, size);
}

ASTHRA_RT_API void asthra_pool_free(AsthraPool *p, void *block) {
    ASTHRA__POOL_NEEDS(p);
    if (!block) return;
    asthra__lock(&p->lock);
    const Asthra__PoolChunk *c = asthra__pool_chunk_of(p, block);
    size_t offset = c ? (size_t)((char *)block - c->base) : 1, i = offset / ASTHRA__POOL_GRANULE;
    bool is_start = offset % ASTHRA__POOL_GRANULE == 0 && asthra__pool_bit(c->live, i) &&
                    (p->object_size || asthra__pool_bit(c->starts, i));
    if (ASTHRA__UNLIKELY(!is_start || asthra__pool_bit(c->held, i))) asthra__pool_refuse(p, block);
    Asthra__PoolChunk *empty = asthra__pool_return(p, block);
    asthra__unlock(&p->lock);
    if (ASTHRA__UNLIKELY(empty != NULL)) asthra__pool_discard(empty);
}

ASTHRA_RT_API void asthra_pool_destroy(AsthraPool *p) {
    if (!p) return;
    for (uint32_t k = 0; k < p->chunk_count; k++) asthra__pool_discard(p->chunks[k]);
    asthra__pool_memory_free(p->handles);
    asthra__pool_memory_free(p);
}

#endif

/* ---- [pool] body ----------------------------------------------------- memory/pool_free.c ---- */
/* pool - what is free: tags, and the largest of each page.                 [pool] body: free
 *
 * A free block of n granules tells about itself, in words of 32 bits:
 *
 *     0  1     links of the index by size (pool_size.c); elsewhere 0
 *     2        n
 *     3        check: a hash of these three, of the block's place and of the chunk's secret
 *     4n - 1   n, if it is not 1: found from the block behind
 *
 * A use after free and an overflow of the block before hit these words first. They are checked when
 * they are read, and the size behind against the size in front, so that a wrong word is a panic and
 * not an address. Where blocks start is in the maps, which no user's pointer comes near.
 *
 * What a search needs lies close together, out of the way too. 64 granules, a word of a map, are a
 * page. For each page there is the size of the largest free block that starts in it, for each eight
 * pages the largest of these, and so on up to one number for the chunk. The first fit is found on
 * the way down by taking the first of eight that is large enough; the worst fit is the first of the
 * largest there is. A change goes up as long as it changes something.
 */

#if ASTHRA_HAS_POOL

ASTHRA__COLD ASTHRA__FN void asthra__pool_damaged(AsthraPool *p, const void *block) {
    asthra__unlock(&p->lock);
    asthra_panic_at(NULL,
                    "Damaged free block %p in pool '%s': it was written to after it was freed, or "
                    "from the block before it, past that one's end",
                    block, p->name);
}

/* ---- tags ---- */

static inline uint32_t asthra__pool_check(const Asthra__PoolChunk *c, uint32_t i,
                                          const Asthra__PoolTag *t) {
    uint64_t k = UINT64_C(0x9e3779b97f4a7c15);
    uint64_t h = (c->secret ^ i ^ ((uint64_t)t->left << 32 | t->right)) * k;
    return (uint32_t)((h ^ h >> 32 ^ t->size) * k >> 32);
}

ASTHRA__FN ASTHRA__POOL_UNSEEN Asthra__PoolTag asthra__pool_tag(const Asthra__PoolChunk *c,
                                                                uint32_t i) {
    const Asthra__PoolWord *w = (const Asthra__PoolWord *)(const void *)asthra__pool_at(c, i);
    Asthra__PoolTag t = {w[0], w[1], w[2]};
    if (ASTHRA__UNLIKELY(w[3] != asthra__pool_check(c, i, &t))) asthra__pool_damaged(c->pool, w);
    return t;
}

ASTHRA__FN ASTHRA__POOL_UNSEEN void asthra__pool_tag_write(const Asthra__PoolChunk *c, uint32_t i,
                                                           const Asthra__PoolTag *t) {
    Asthra__PoolWord *w = (Asthra__PoolWord *)(void *)asthra__pool_at(c, i);
    w[0] = t->left;
    w[1] = t->right;
    w[2] = t->size;
    w[3] = asthra__pool_check(c, i, t);
}

/* The last word before granule i. */
static ASTHRA__POOL_UNSEEN uint32_t asthra__pool_word_before(const Asthra__PoolChunk *c,
                                                             uint32_t i) {
    return ((const Asthra__PoolWord *)(const void *)asthra__pool_at(c, i))[-1];
}
static ASTHRA__POOL_UNSEEN void asthra__pool_word_before_write(const Asthra__PoolChunk *c,
                                                               uint32_t i, uint32_t value) {
    ((Asthra__PoolWord *)(void *)asthra__pool_at(c, i))[-1] = value;
}

ASTHRA__FN uint32_t asthra__pool_free_from(const Asthra__PoolChunk *c, uint32_t i) {
    if (!asthra__pool_bit(c->starts, i) || asthra__pool_bit(c->live, i)) return 0;
    return asthra__pool_tag(c, i).size;
}

ASTHRA__FN uint32_t asthra__pool_free_before(const Asthra__PoolChunk *c, uint32_t i) {
    if (i == 0 || asthra__pool_bit(c->starts, i - 1) == asthra__pool_bit(c->live, i - 1)) return 0;
    if (asthra__pool_bit(c->starts, i - 1)) return 1;
    uint32_t size = asthra__pool_word_before(c, i);
    if (size < 2 || size > i || asthra__pool_free_from(c, i - size) != size)
        asthra__pool_damaged(c->pool, asthra__pool_at(c, i - 1));
    return size;
}

/* ---- pages ---- */

enum { ASTHRA__POOL_FAN = 8 };

/* The first free block of at least n granules that starts in a page; ASTHRA__POOL_NONE: none.
 * *largest is the largest there is if none is so large. */
static uint32_t asthra__pool_page_first(const Asthra__PoolChunk *c, size_t page, uint32_t n,
                                        uint32_t *largest) {
    uint64_t starts = c->starts[page], rest = starts & ~c->live[page];
    *largest = 0;
    for (; rest; rest &= rest - 1) {
        unsigned bit = (unsigned)__builtin_ctzll(rest);
        uint64_t behind = starts & (~UINT64_C(1) << bit);
        uint32_t i = (uint32_t)(page * 64 + bit);
        uint32_t size =
            behind ? (uint32_t)__builtin_ctzll(behind) - bit : asthra__pool_tag(c, i).size;
        if (size >= n) return i;
        if (size > *largest) *largest = size;
    }
    return ASTHRA__POOL_NONE;
}

ASTHRA__FN size_t asthra__pool_summary_words(size_t pages) {
    size_t words = 0;
    for (; pages > 1; pages = (pages + ASTHRA__POOL_FAN - 1) / ASTHRA__POOL_FAN)
        words += (pages + ASTHRA__POOL_FAN - 1) / ASTHRA__POOL_FAN * ASTHRA__POOL_FAN;
    return words + 1;
}

ASTHRA__FN void asthra__pool_summary_lay(Asthra__PoolChunk *c, uint32_t *words) {
    size_t pages = c->granules / 64 + 1;
    c->levels = 0;
    for (; pages > 1; pages = (pages + ASTHRA__POOL_FAN - 1) / ASTHRA__POOL_FAN) {
        c->summary[c->levels++] = words;
        words += (pages + ASTHRA__POOL_FAN - 1) / ASTHRA__POOL_FAN * ASTHRA__POOL_FAN;
    }
    c->summary[c->levels] = words; /* the one for the chunk */
}

static void asthra__pool_raise(const Asthra__PoolChunk *c, uint32_t i, uint32_t size) {
    size_t at = i / 64;
    for (unsigned level = 0; level <= c->levels; level++, at /= ASTHRA__POOL_FAN) {
        if (c->summary[level][at] >= size) return;
        c->summary[level][at] = size;
    }
}

/* A block of `size` is not in the page of i any more. */
static void asthra__pool_lower_page(const Asthra__PoolChunk *c, uint32_t i, uint32_t size) {
    size_t at = i / 64;
    uint32_t largest;
    if (c->summary[0][at] != size) return;
    asthra__pool_page_first(c, at, ASTHRA__POOL_NONE, &largest);
    c->summary[0][at] = largest;
    for (unsigned level = 1; level <= c->levels && largest < size; level++) {
        at /= ASTHRA__POOL_FAN;
        if (c->summary[level][at] != size) return;
        const uint32_t *below = &c->summary[level - 1][at * ASTHRA__POOL_FAN];
        largest = 0;
        for (int k = 0; k < ASTHRA__POOL_FAN; k++)
            if (below[k] > largest) largest = below[k];
        c->summary[level][at] = largest;
    }
}

ASTHRA__FN uint32_t asthra__pool_largest(const Asthra__PoolChunk *c) {
    return c->summary[c->levels][0];
}

ASTHRA__FN uint32_t asthra__pool_first(const Asthra__PoolChunk *c, uint32_t n) {
    ASTHRA__ASSERT(asthra__pool_largest(c) >= n);
    size_t at = 0;
    uint32_t largest;
    for (unsigned level = c->levels; level-- > 0;) {
        at *= ASTHRA__POOL_FAN;
        while (c->summary[level][at] < n) at++;
    }
    return asthra__pool_page_first(c, at, n, &largest);
}

/* ---- both ---- */

ASTHRA__FN void asthra__pool_free_add(Asthra__PoolChunk *c, uint32_t i, uint32_t size) {
    Asthra__PoolTag tag = {0, 0, size};
    asthra__pool_set(c->starts, i);
    if (size > 1) {
        asthra__pool_set(c->live, i + size - 1);
        asthra__pool_word_before_write(c, i + size, size);
    }
    if (c->bins)
        asthra__pool_size_add(c, i, size);
    else
        asthra__pool_tag_write(c, i, &tag);
    asthra__pool_raise(c, i, size);
    c->pool->free_bytes += (size_t)size * ASTHRA__POOL_GRANULE;
}

ASTHRA__FN void asthra__pool_free_remove(Asthra__PoolChunk *c, uint32_t i, uint32_t size) {
    if (c->bins) asthra__pool_size_remove(c, i, size);
    asthra__pool_clear(c->starts, i);
    if (size > 1) asthra__pool_clear(c->live, i + size - 1);
    asthra__pool_lower_page(c, i, size);
    c->pool->free_bytes -= (size_t)size * ASTHRA__POOL_GRANULE;
}

#endif

/* ---- [pool] body ----------------------------------------------------- memory/pool_size.c ---- */
/* pool - free blocks by size, for best fit.                                [pool] body: size
 *
 * Up to 64 granules each size has a list, and a bit that says whether it is empty: the best fit is
 * the newest of the first list that is not. Larger blocks are the nodes of a treap: a search tree
 * by size, then place, and a heap in another order that looks random, here a hash of the place, so
 * that its depth is some 3 log2 n whatever sizes and places do. Links are in the blocks' tags, and
 * checked with them.
 */

#if ASTHRA_HAS_POOL

/* ---- the lists; left is the next, right the one before ---- */

static void asthra__pool_list_add(Asthra__PoolChunk *c, uint32_t i, uint32_t size) {
    uint32_t *first = &c->bins[size - 1];
    Asthra__PoolTag tag = {ASTHRA__POOL_NONE, ASTHRA__POOL_NONE, size};
    if (c->bin_mask >> (size - 1) & 1) {
        tag.left = *first;
        Asthra__PoolTag next = asthra__pool_tag(c, *first);
        next.right = i;
        asthra__pool_tag_write(c, *first, &next);
    }
    asthra__pool_tag_write(c, i, &tag);
    *first = i;
    c->bin_mask |= UINT64_C(1) << (size - 1);
}

static void asthra__pool_list_remove(Asthra__PoolChunk *c, uint32_t i, uint32_t size) {
    Asthra__PoolTag tag = asthra__pool_tag(c, i);
    if (tag.left != ASTHRA__POOL_NONE) {
        Asthra__PoolTag next = asthra__pool_tag(c, tag.left);
        next.right = tag.right;
        asthra__pool_tag_write(c, tag.left, &next);
    }
    if (tag.right != ASTHRA__POOL_NONE) {
        Asthra__PoolTag before = asthra__pool_tag(c, tag.right);
        before.left = tag.left;
        asthra__pool_tag_write(c, tag.right, &before);
    } else {
        c->bins[size - 1] = tag.left;
        if (tag.left == ASTHRA__POOL_NONE) c->bin_mask &= ~(UINT64_C(1) << (size - 1));
    }
}

/* ---- the tree; each function returns the root of what it made ---- */

/* Who is above whom; no two places are equal. */
static inline uint32_t asthra__pool_rank(uint32_t i) {
    i *= 0x9e3779b1u;
    i = (i ^ i >> 15) * 0x85ebca77u;
    return i ^ i >> 13;
}

static inline bool asthra__pool_is_left(uint32_t a, uint32_t a_size, uint32_t b, uint32_t b_size) {
    return a_size != b_size ? a_size < b_size : a < b;
}

/* Cuts the tree at the place where block `i` belongs. */
static void asthra__pool_split(const Asthra__PoolChunk *c, uint32_t root, uint32_t i, uint32_t size,
                               uint32_t *left, uint32_t *right) {
    *left = *right = ASTHRA__POOL_NONE;
    if (root == ASTHRA__POOL_NONE) return;
    Asthra__PoolTag tag = asthra__pool_tag(c, root);
    if (asthra__pool_is_left(root, tag.size, i, size)) {
        asthra__pool_split(c, tag.right, i, size, &tag.right, right);
        *left = root;
    } else {
        asthra__pool_split(c, tag.left, i, size, left, &tag.left);
        *right = root;
    }
    asthra__pool_tag_write(c, root, &tag);
}

/* Of two trees, everything in the first left of everything in the second. */
static uint32_t asthra__pool_merge(const Asthra__PoolChunk *c, uint32_t left, uint32_t right) {
    if (left == ASTHRA__POOL_NONE) return right;
    if (right == ASTHRA__POOL_NONE) return left;
    uint32_t top = asthra__pool_rank(left) > asthra__pool_rank(right) ? left : right;
    Asthra__PoolTag tag = asthra__pool_tag(c, top);
    if (top == left)
        tag.right = asthra__pool_merge(c, tag.right, right);
    else
        tag.left = asthra__pool_merge(c, left, tag.left);
    asthra__pool_tag_write(c, top, &tag);
    return top;
}

static uint32_t asthra__pool_insert(const Asthra__PoolChunk *c, uint32_t root, uint32_t i,
                                    uint32_t size) {
    Asthra__PoolTag tag = {0, 0, size};
    if (root == ASTHRA__POOL_NONE || asthra__pool_rank(i) > asthra__pool_rank(root)) {
        asthra__pool_split(c, root, i, size, &tag.left, &tag.right);
        asthra__pool_tag_write(c, i, &tag);
        return i;
    }
    tag = asthra__pool_tag(c, root);
    uint32_t *side = asthra__pool_is_left(i, size, root, tag.size) ? &tag.left : &tag.right;
    uint32_t child = asthra__pool_insert(c, *side, i, size);
    if (child == *side) return root;
    *side = child;
    asthra__pool_tag_write(c, root, &tag);
    return root;
}

static uint32_t asthra__pool_erase(const Asthra__PoolChunk *c, uint32_t root, uint32_t i,
                                   uint32_t size) {
    if (root == ASTHRA__POOL_NONE) asthra__pool_damaged(c->pool, asthra__pool_at(c, i));
    Asthra__PoolTag tag = asthra__pool_tag(c, root);
    if (root == i) return asthra__pool_merge(c, tag.left, tag.right);
    uint32_t *side = asthra__pool_is_left(i, size, root, tag.size) ? &tag.left : &tag.right;
    uint32_t child = asthra__pool_erase(c, *side, i, size);
    if (child == *side) return root;
    *side = child;
    asthra__pool_tag_write(c, root, &tag);
    return root;
}

/* ---- both ---- */

ASTHRA__FN void asthra__pool_size_add(Asthra__PoolChunk *c, uint32_t i, uint32_t size) {
    if (size <= ASTHRA__POOL_BINS)
        asthra__pool_list_add(c, i, size);
    else
        c->root = asthra__pool_insert(c, c->root, i, size);
}

ASTHRA__FN void asthra__pool_size_remove(Asthra__PoolChunk *c, uint32_t i, uint32_t size) {
    if (size <= ASTHRA__POOL_BINS)
        asthra__pool_list_remove(c, i, size);
    else
        c->root = asthra__pool_erase(c, c->root, i, size);
}

ASTHRA__FN uint32_t asthra__pool_best(const Asthra__PoolChunk *c, uint32_t n, uint32_t *size) {
    uint64_t lists = n <= ASTHRA__POOL_BINS ? c->bin_mask >> (n - 1) : 0;
    if (lists) {
        *size = n + (uint32_t)__builtin_ctzll(lists);
        return c->bins[*size - 1];
    }
    uint32_t best = ASTHRA__POOL_NONE;
    for (uint32_t i = c->root; i != ASTHRA__POOL_NONE;) {
        Asthra__PoolTag tag = asthra__pool_tag(c, i);
        if (tag.size >= n) {
            best = i;
            *size = tag.size;
        }
        i = tag.size >= n ? tag.left : tag.right;
    }
    return best;
}

#endif

/* ---- [pool] body --------------------------------------------------- memory/pool_handle.c ---- */
/* pool - handles, and moving what they name.                             [pool] body: handle
 *
 * A handle is a generation (24 bits, from 1), the stamp of its pool (16) and the index of an entry
 * in the pool's table (24). The entry has the address, the size and the generation of the handle
 * that is valid; a free raises the generation, and an entry whose generations are used up is never
 * used again. Stamps come round after 65,536 pools.
 *
 * Compaction visits the entries by address, sorted beside the table, in memory that was taken with
 * it: compacting needs none. Each block goes to the first free block, by address, of all chunks
 * that is large enough and lies before it; if there is none, but free memory right before it, it
 * slides down over that. So blocks only move down, each at most once, and a block that was visited
 * lies before those that were not.
 */

#if ASTHRA_HAS_POOL

#include <string.h>

enum {
    ASTHRA__POOL_HANDLES = 1 << 24, /* at most */
    ASTHRA__POOL_FIRST_HANDLES = 16,
    ASTHRA__POOL_GENERATIONS = 1 << 24
};

/* ---- the table ---- */

/* Makes room for twice as many, unless another thread has done so. false: no memory. No lock. */
static bool asthra__pool_handles_grow(AsthraPool *p, uint32_t room) {
    uint32_t more = room ? 2 * room : ASTHRA__POOL_FIRST_HANDLES;
    size_t bytes = more * (sizeof(Asthra__PoolHandle) + sizeof(uint32_t));
    Asthra__PoolHandle *fresh = asthra__pool_memory(bytes), *old = fresh;
    if (!fresh) return false;
    asthra__lock(&p->lock);
    if (p->handle_room == room) {
        old = p->handles;
        if (old) memcpy(fresh, old, p->handle_count * sizeof *fresh);
        p->handles = fresh;
        p->handles_sorted = (uint32_t *)(void *)(fresh + more);
        p->handle_room = more;
    }
    asthra__unlock(&p->lock);
    asthra__pool_memory_free(old);
    return true;
}

/* An entry with no block yet; UINT32_MAX: no memory, said. No lock. */
static uint32_t asthra__pool_entry_take(AsthraPool *p) {
    for (;;) {
        asthra__lock(&p->lock);
        uint32_t index = p->free_handle, room = p->handle_room;
        if (index != UINT32_MAX) {
            p->free_handle = p->handles[index].next;
        } else if (p->handle_count < room) {
            index = p->handle_count++;
            p->handles[index] = (Asthra__PoolHandle){NULL, 0, 1, 0};
        }
        asthra__unlock(&p->lock);
        if (index != UINT32_MAX) return index;
        if (room == ASTHRA__POOL_HANDLES) {
            asthra__error_set(ASTHRA_LIMIT, "pool '%s' has %u handles, and can have no more",
                              p->name, (unsigned)room);
            return index;
        }
        if (!asthra__pool_handles_grow(p, room)) {
            asthra__error_set(ASTHRA_OUT_OF_MEMORY, "pool '%s' found no memory for a handle",
                              p->name);
            return index;
        }
    }
}

static void asthra__pool_entry_give(AsthraPool *p, uint32_t index) {
    Asthra__PoolHandle *e = &p->handles[index];
    e->address = NULL;
    if (e->generation == ASTHRA__POOL_GENERATIONS) return; /* used up */
    e->next = p->free_handle;
    p->free_handle = index;
}

static uint64_t asthra__pool_handle_bits(const AsthraPool *p, uint32_t index) {
    return (uint64_t)p->handles[index].generation << 40 | (uint64_t)(p->stamp & 0xffff) << 24 |
           index;
}

/* NULL: not a valid handle of this pool. */
static Asthra__PoolHandle *asthra__pool_entry_of(const AsthraPool *p, AsthraPoolHandle h) {
    uint32_t index = (uint32_t)(h.bits & (ASTHRA__POOL_HANDLES - 1));
    if (index >= p->handle_count || h.bits != asthra__pool_handle_bits(p, index)) return NULL;
    return p->handles[index].address ? &p->handles[index] : NULL;
}

/* Marks the block of an entry, which is live, as a handle's or not. */
static void asthra__pool_hold(AsthraPool *p, char *block, bool on) {
    Asthra__PoolChunk *c = asthra__pool_chunk_of(p, block);
    size_t i = (size_t)(block - c->base) / ASTHRA__POOL_GRANULE;
    if (on)
        asthra__pool_set(c->held, i);
    else
        asthra__pool_clear(c->held, i);
}

/* ---- compaction ---- */

/* Moves e's block of n granules from i in c to `to` in d, where as many are free. */
static void asthra__pool_move(Asthra__PoolHandle *e, Asthra__PoolChunk *c, uint32_t i, uint32_t n,
                              Asthra__PoolChunk *d, uint32_t to) {
    char *target = asthra__pool_occupy(d, to, n, e->size);
    memmove(target, e->address, e->size);
    asthra__pool_set(d->held, to);
    asthra__pool_clear(c->held, i);
    asthra__pool_vacate(c, i, n);
    e->address = target;
}

/* Moves it down over the `gap` free granules right before it. */
static void asthra__pool_slide(Asthra__PoolHandle *e, Asthra__PoolChunk *c, uint32_t i, uint32_t n,
                               uint32_t gap) {
    uint32_t to = i - gap, behind = asthra__pool_free_from(c, i + n);
    char *target = asthra__pool_at(c, to);
    asthra__pool_free_remove(c, to, gap);
    if (behind) asthra__pool_free_remove(c, i + n, behind);
    asthra__pool_clear(c->starts, i);
    asthra__pool_clear(c->live, i);
    asthra__pool_clear(c->held, i);
    asthra__pool_open(target, e->size);
    memmove(target, e->address, e->size);
    asthra__pool_shut(target + e->size, (size_t)(gap + n) * ASTHRA__POOL_GRANULE - e->size);
    asthra__pool_set(c->starts, to);
    asthra__pool_set(c->live, to);
    asthra__pool_set(c->held, to);
    asthra__pool_free_add(c, to + n, gap + behind);
    e->address = target;
}

/* Moves e's block down if there is room. Returns bytes moved; *changed is where room came to be. */
static size_t asthra__pool_lower(AsthraPool *p, Asthra__PoolHandle *e,
                                 Asthra__PoolChunk **changed) {
    Asthra__PoolChunk *c = asthra__pool_chunk_of(p, e->address), *d = NULL;
    uint32_t i = (uint32_t)((size_t)(e->address - c->base) / ASTHRA__POOL_GRANULE), to = 0;
    uint32_t n = asthra__pool_live_size(c, i), gap;
    *changed = c;
    for (uint32_t k = 0; d != c; k++) {
        d = p->chunks[k];
        if (asthra__pool_largest(d) < n) continue;
        to = asthra__pool_first(d, n);
        if (d == c && to > i) break;
        asthra__pool_move(e, c, i, n, d, to);
        return e->size;
    }
    gap = asthra__pool_free_before(c, i);
    if (!gap) return 0;
    asthra__pool_slide(e, c, i, n, gap);
    return e->size;
}

static void asthra__pool_sift(const Asthra__PoolHandle *entries, uint32_t *list, uint32_t from,
                              uint32_t count) {
    uint32_t moved = list[from], child;
    uintptr_t address = (uintptr_t)entries[moved].address;
    for (; (child = 2 * from + 1) < count; from = child) {
        if (child + 1 < count &&
            (uintptr_t)entries[list[child]].address < (uintptr_t)entries[list[child + 1]].address)
            child++;
        if ((uintptr_t)entries[list[child]].address <= address) break;
        list[from] = list[child];
    }
    list[from] = moved;
}

/* Lists the entries that have a block, by address (heapsort). Returns how many. */
static uint32_t asthra__pool_sort(AsthraPool *p) {
    uint32_t *list = p->handles_sorted, count = 0;
    for (uint32_t i = 0; i < p->handle_count; i++)
        if (p->handles[i].address) list[count++] = i;
    for (uint32_t from = count / 2; from-- > 0;) asthra__pool_sift(p->handles, list, from, count);
    for (uint32_t rest = count; rest-- > 1;) {
        uint32_t last = list[0];
        list[0] = list[rest];
        list[rest] = last;
        asthra__pool_sift(p->handles, list, 0, rest);
    }
    return count;
}

ASTHRA__FN size_t asthra__pool_compact(AsthraPool *p, uint32_t enough) {
    if (p->object_size || p->is_compact) return 0;
    size_t moved = 0;
    uint32_t count = asthra__pool_sort(p), k = 0;
    for (; k < count; k++) {
        Asthra__PoolChunk *changed;
        moved += asthra__pool_lower(p, &p->handles[p->handles_sorted[k]], &changed);
        if (asthra__pool_largest(changed) >= enough) break;
    }
    p->is_compact = k == count;
    return moved;
}

/* ---- the contract ---- */

ASTHRA_RT_API AsthraPoolHandle asthra_pool_handle_alloc(AsthraPool *p, size_t size) {
    ASTHRA__POOL_NEEDS(p);
    AsthraPoolHandle h = {0};
    uint32_t index = asthra__pool_entry_take(p);
    if (index == UINT32_MAX) return h;
    char *block = asthra__pool_obtain(p, size);
    asthra__lock(&p->lock);
    if (block) {
        p->handles[index].address = block;
        p->handles[index].size = size;
        asthra__pool_hold(p, block, true);
        p->is_compact = false; /* one more that may move */
        h.bits = asthra__pool_handle_bits(p, index);
    } else {
        asthra__pool_entry_give(p, index);
    }
    asthra__unlock(&p->lock);
    return h;
}

/* Why it is not one of p's; any pool's lock may be free. */
static const char *asthra__pool_handle_fault(const AsthraPool *p, AsthraPoolHandle h) {
    if (!h.bits) return "0, which a failed allocation gave";
    if (!(h.bits >> 40)) return "none that any pool has given";
    if ((h.bits >> 24 & 0xffff) != (p->stamp & 0xffff)) return "another pool's";
    return "stale: its block was freed before";
}

ASTHRA_RT_API void *asthra_pool_handle_get(AsthraPool *p, AsthraPoolHandle h) {
    ASTHRA__POOL_NEEDS(p);
    asthra__lock(&p->lock);
    const Asthra__PoolHandle *e = asthra__pool_entry_of(p, h);
    void *address = e ? e->address : NULL;
    asthra__unlock(&p->lock);
    if (ASTHRA__UNLIKELY(!address))
        asthra__error_set(ASTHRA_INVALID, "pool '%s' was given a handle that is %s", p->name,
                          asthra__pool_handle_fault(p, h));
    return address;
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__pool_handle_refuse(const AsthraPool *p,
                                                                    AsthraPoolHandle h) {
    asthra_panic_at(NULL, "Invalid handle in pool_handle_free: %#jx in pool '%s' is %s",
                    (uintmax_t)h.bits, p->name, asthra__pool_handle_fault(p, h));
}

ASTHRA_RT_API void asthra_pool_handle_free(AsthraPool *p, AsthraPoolHandle h) {
    ASTHRA__POOL_NEEDS(p);
    if (!h.bits) return;
    asthra__lock(&p->lock);
    Asthra__PoolHandle *e = asthra__pool_entry_of(p, h);
    if (ASTHRA__UNLIKELY(!e)) {
        asthra__unlock(&p->lock);
        asthra__pool_handle_refuse(p, h);
    }
    char *block = e->address;
    asthra__pool_hold(p, block, false);
    e->generation++;
    asthra__pool_entry_give(p, (uint32_t)(e - p->handles));
    Asthra__PoolChunk *empty = asthra__pool_return(p, block);
    asthra__unlock(&p->lock);
    asthra__pool_discard(empty);
}

ASTHRA_RT_API size_t asthra_pool_defragment(AsthraPool *p) {
    ASTHRA__POOL_NEEDS(p);
    asthra__lock(&p->lock);
    size_t moved = asthra__pool_compact(p, ASTHRA__POOL_NONE);
    Asthra__PoolChunk *empty = moved ? asthra__pool_shed(p) : NULL;
    asthra__unlock(&p->lock);
    asthra__pool_discard(empty);
    return moved;
}

#endif

/* ---- [memory] internal ----------------------------------------- memory/memory_internal.h ---- */
/* memory - the zones' part of the configuration.                           [memory] internal */

#if ASTHRA_HAS_MEMORY

typedef struct Asthra__MemoryConfig {
    AsthraSafetyLevel level;
    size_t max_heap_size;
    AsthraHeapLimitPolicy policy;
    AsthraHeapLimitHook hook;
    void *hook_user;
    bool manual_is_on, pinned_is_on, is_numa_aware;
} Asthra__MemoryConfig;

/* Before the first use by others, or while they are at rest. All zero but the two switches: as it
 * is without a runtime. */
ASTHRA__FN void asthra__memory_configure(const Asthra__MemoryConfig *c);

/* What an allocator lent and holds no block goes back, if it is the hook no longer. */
ASTHRA__FN void asthra__memory_give_back(void);

#endif

/* ---- [memory] body ------------------------------------------------------ memory/memory.c ---- */
/* memory - the door to all zones.                                          [memory] body
 *
 * It knows every zone and holds nothing of its own. A zone that the build leaves out fails like one
 * that does not exist.
 */

#if ASTHRA_HAS_MEMORY

#include <string.h>

static void asthra__memory_refuse(AsthraMemoryZone zone) {
    if ((int)zone < ASTHRA_MEMORY_ZONE_GC || zone > ASTHRA_MEMORY_ZONE_STACK)
        asthra__error_set(ASTHRA_INVALID, "%d is no AsthraMemoryZone", (int)zone);
    else
        asthra__error_set(ASTHRA_INVALID, "zone %s is not in this build",
                          asthra_memory_zone_to_string(zone));
}

ASTHRA_RT_API ASTHRA__NOINLINE void *asthra_alloc(size_t size, AsthraMemoryZone zone) {
    (void)size; /* where no zone is in the build */
#if ASTHRA_HAS_MANUAL
    if (ASTHRA__LIKELY(zone == ASTHRA_MEMORY_ZONE_MANUAL))
        return asthra__heap_alloc_here(size, ASTHRA_MEMORY_ZONE_MANUAL,
                                       __builtin_return_address(0));
#endif
    switch (zone) {
#if ASTHRA_HAS_PINNED
    case ASTHRA_MEMORY_ZONE_PINNED:
        return asthra__heap_alloc(size, ASTHRA_MEMORY_ZONE_PINNED, __builtin_return_address(0));
#endif
#if ASTHRA_HAS_STACK
    case ASTHRA_MEMORY_ZONE_STACK: return asthra_stack_alloc(size);
#endif
    case ASTHRA_MEMORY_ZONE_MANUAL:
    case ASTHRA_MEMORY_ZONE_NONE:
    case ASTHRA_MEMORY_ZONE_GC:
    default: asthra__memory_refuse(zone); return NULL;
    }
}

ASTHRA_RT_API ASTHRA__NOINLINE void *asthra_alloc_array(size_t count, size_t size,
                                                        AsthraMemoryZone zone) {
    size_t all;
    if (__builtin_mul_overflow(count, size, &all)) all = SIZE_MAX; /* refused as too large */
    return asthra_alloc(all, zone);
}

ASTHRA_RT_API ASTHRA__NOINLINE void asthra_free(void *ptr, AsthraMemoryZone zone) {
    const void *site = __builtin_return_address(0);
    if (ptr == NULL) return;
#if ASTHRA_HAS_MANUAL
    if (ASTHRA__LIKELY(zone == ASTHRA_MEMORY_ZONE_MANUAL)) {
        asthra__heap_free_here(ptr, ASTHRA_MEMORY_ZONE_MANUAL, site, "manual_free");
        return;
    }
#endif
    switch (zone) {
#if ASTHRA_HAS_PINNED
    case ASTHRA_MEMORY_ZONE_PINNED: asthra__heap_free(ptr, zone, site, "pinned_free"); return;
#endif
#if ASTHRA_HAS_STACK
    case ASTHRA_MEMORY_ZONE_STACK: asthra__stack_free(ptr, "stack_free"); return;
#endif
    case ASTHRA_MEMORY_ZONE_MANUAL:
    case ASTHRA_MEMORY_ZONE_NONE:
    case ASTHRA_MEMORY_ZONE_GC:
    default: (void)site; asthra__heap_invalid(ptr, zone, "free");
    }
}

ASTHRA_RT_API AsthraMemoryZone asthra_memory_zone_of(const void *ptr) {
    return asthra__heap_zone_of(ptr);
}

/* What the block tells of itself. */
static void asthra__memory_tell(const Asthra__Found *f, AsthraAllocationInfo *out) {
    Asthra__History history = asthra__full_history(f, out->kind);
    out->stamp = history.stamp;
    out->allocated_by = history.allocated.task;
    out->allocated_at = asthra__calls_text(history.allocated.calls);
    out->freed_by = history.freed.task;
    out->freed_at = asthra__calls_text(history.freed.calls);
}

/* A place in code as text, kept in the thread's record. */
static const char *asthra__memory_site(uint64_t by) {
    if (by == 0) return NULL;
    char *text = asthra__thread()->described;
    size_t length = asthra__os_symbol(asthra__trailer_site(by), text, ASTHRA__DESCRIBED - 1);
    text[length] = '\0';
    return text;
}

ASTHRA_RT_API bool asthra_memory_describe(const void *ptr, AsthraAllocationInfo *out) {
    Asthra__Found f;
    memset(out, 0, sizeof *out);
    out->kind = asthra__heap_find(ptr, &f);
    out->zone = asthra__heap_zone_of(ptr);
    if (out->kind == ASTHRA_ADDRESS_FOREIGN) out->kind = asthra__heap_outside(ptr);
    if (out->kind != ASTHRA_ADDRESS_LIVE && out->kind != ASTHRA_ADDRESS_FREED) return false;
    out->start = f.start;
    out->size = f.size;
#if ASTHRA_HAS_STACK
    if (f.zone == ASTHRA_MEMORY_ZONE_STACK) return asthra__stack_describe(f.start, ptr, out);
#endif
    if (f.level == ASTHRA_SAFETY_FULL)
        asthra__memory_tell(&f, out);
    else if (out->kind == ASTHRA_ADDRESS_FREED)
        out->freed_at = asthra__memory_site(asthra__found_freed_by(&f));
    return true;
}

/* ---- statistics ---- */

static void asthra__memory_sum(AsthraMemoryZone zone, Asthra__AccountSum *sum) {
    asthra__heap_sum(zone, sum);
#if ASTHRA_HAS_STACK
    if (zone == ASTHRA_MEMORY_ZONE_STACK) asthra__stack_sum(sum);
#endif
}

static void asthra__memory_conclude(AsthraMemoryZone zone, const Asthra__AccountSum *sum,
                                    AsthraMemoryStatistics *out) {
    out->current = sum->total - sum->freed;
    if ((ptrdiff_t)out->current < 0) out->current = 0; /* frees were seen before allocations */
    out->total = sum->total;
    out->count = sum->count;
    out->failures = sum->failures;
    out->mapped = asthra__heap_mapped(zone, &out->resident);
    out->peak = asthra__zone_peak(zone, out->current);
}

ASTHRA_RT_API AsthraMemoryStatistics asthra_memory_statistics(AsthraMemoryZone zone) {
    AsthraMemoryStatistics out;
    Asthra__AccountSum sum = {0, 0, 0, 0};
    memset(&out, 0, sizeof out);
    if ((int)zone < ASTHRA_MEMORY_ZONE_GC || zone > ASTHRA_MEMORY_ZONE_STACK) return out;
    asthra__memory_sum(zone, &sum);
    asthra__memory_conclude(zone, &sum, &out);
    return out;
}

ASTHRA_RT_API AsthraMemoryStatistics asthra_memory_statistics_all(void) {
    AsthraMemoryStatistics out;
    Asthra__AccountSum sum = {0, 0, 0, 0};
    memset(&out, 0, sizeof out);
    for (int zone = ASTHRA_MEMORY_ZONE_GC; zone <= ASTHRA_MEMORY_ZONE_STACK; zone++)
        asthra__memory_sum((AsthraMemoryZone)zone, &sum);
    asthra__memory_conclude(ASTHRA_MEMORY_ZONE_NONE, &sum, &out);
    return out;
}

ASTHRA_RT_API size_t asthra_memory_trim(void) {
#if ASTHRA_HAS_STACK
    asthra__stack_trim();
#endif
    return asthra__heap_trim();
}

/* ---- start and stop ---- */

ASTHRA__FN void asthra__memory_configure(const Asthra__MemoryConfig *c) {
    Asthra__ZoneLimit limit = {c->max_heap_size, 0, c->policy, c->hook, c->hook_user};
    if (c->max_heap_size != 0) limit.live = asthra_memory_statistics_all().current;
    asthra__heap_set_level(c->level);
    asthra__zone_set_limit(&limit);
    asthra__heap_settle_level();
    asthra__zone_switch(ASTHRA_MEMORY_ZONE_MANUAL, c->manual_is_on);
    asthra__zone_switch(ASTHRA_MEMORY_ZONE_PINNED, c->pinned_is_on);
    bool nodes_matter = c->is_numa_aware && asthra__os_nodes() > 1;
    asthra__segment_set_nodes(nodes_matter ? asthra__os_node : NULL);
}

ASTHRA__FN void asthra__memory_give_back(void) {
    if (asthra__segment_is_lent()) (void)asthra_memory_trim();
}

#endif

/* ---- [fiber] internal -------------------------------------- concurrency/fiber_internal.h ---- */
/* fiber - stacks, and moving between them.                                 [fiber] internal
 *
 * A fiber is a stack of its own with a record at its high end. Pool fibers are mapped in slabs,
 * guarded at their low end and cached by each worker; a bound fiber is the stack that an OS thread
 * came with, and only that thread may resume it.
 */

#if ASTHRA_HAS_TASK

/* What a run queue holds: a task that has not started, or a fiber that may go on. */
typedef struct Asthra__Runnable {
    struct Asthra__Runnable *next;
    bool is_fiber;
    int32_t priority;
} Asthra__Runnable;

/* An entry of an ordered queue: higher priority first, older first among equals; old ones rise. */
typedef struct Asthra__Ranked {
    struct Asthra__Ranked *left, *right;
    int64_t order; /* smaller runs earlier */
    Asthra__Runnable *item;
} Asthra__Ranked;

struct Asthra__Task;
struct Asthra__Slab;

typedef struct Asthra__Fiber Asthra__Fiber;
struct Asthra__Fiber {
    Asthra__Runnable runnable; /* also links idle fibers */
    Asthra__Ranked ranked;
    Asthra__SwapContext *context; /* while nobody stands on it */
    struct Asthra__Slab *slab;    /* NULL: bound */
    char *low, *high;             /* usable bytes; the guard lies below low */
    struct Asthra__Task *task;    /* the task on top, NULL: a worker's loop or a plain thread */
    struct Asthra__StackRegion *stack; /* the stack zone's of what is on top, while it is left */
    Asthra__SwapContext *escape;       /* out of that task's function */
    int bound_to;                      /* worker that alone may resume it; -1: any */
    int saved_errno;                   /* the scheduler saves it, which knows the thread */
    bool has_failed;                   /* the task on top panicked and escaped */
    bool has_canary;                   /* instead of a guard page */
    bool is_single;                    /* made for one task, destroyed after it */
    unsigned valgrind_id;              /* 1 + Valgrind's number of this stack; 0: it was not told */
    void *cxx_globals[2];              /* caughtExceptions, uncaughtExceptions */
    void *fake_stack;                  /* AddressSanitizer's, while nobody stands on it */
    void *tsan;                        /* ThreadSanitizer's fiber */
};

/* Once at start: the stack of fibers that ask for no size, and what every fiber begins with. */
ASTHRA__FN void asthra__fiber_setup(size_t default_stack_bytes, void (*entry)(void *));
ASTHRA__FN size_t asthra__fiber_default_bytes(void);

/* A fiber with at least stack_bytes (0: the default) that will call entry(NULL). NULL: the system
 * refused. */
ASTHRA__FN Asthra__Fiber *asthra__fiber_create(size_t stack_bytes);

/* Up to `want` idle fibers of the default size as a list: given ones, or else fresh. */
ASTHRA__FN Asthra__Fiber *asthra__fiber_take(uint32_t want, uint32_t *got);

/* Takes idle fibers of the default size back, a list. They keep their contexts. */
ASTHRA__FN void asthra__fiber_give(Asthra__Fiber *list);

/* Its stack goes back to the system; not the one we stand on. */
ASTHRA__FN void asthra__fiber_destroy(Asthra__Fiber *f);

/* Gives the memory of idle stacks back but for their first page; returns the bytes. */
ASTHRA__FN size_t asthra__fiber_trim(void);

ASTHRA__FN void asthra__fiber_bind(Asthra__Fiber *f, int worker); /* this thread's own stack */
ASTHRA__FN void asthra__fiber_teardown(void); /* every slab goes; nobody may stand on one */
ASTHRA__FN void asthra__fiber_forget(void);   /* in a forked child: as before setup */

/* Leaves `from`, on which we stand, for `to`; comes back when somebody switches to `from`, unless
 * it is dead. The C++ exception state stays with each fiber; sanitizers are told. */
ASTHRA__FN void asthra__fiber_switch(Asthra__Fiber *from, Asthra__Fiber *to, bool is_dead);
ASTHRA__FN void asthra__fiber_arrive(Asthra__Fiber *to); /* first act of an entry function */

/* Bytes between here and the low end of f, on which we stand. */
ASTHRA__FN size_t asthra__fiber_room(const Asthra__Fiber *f);

/* The fiber whose guard page holds address; NULL: none. Signal-safe. */
ASTHRA__FN Asthra__Fiber *asthra__fiber_of_guard(const void *address);

#endif

/* ---- [fiber] body --------------------------------------------------- concurrency/fiber.c ---- */
/* fiber - stacks, and moving between them.                                 [fiber] body
 *
 * Stacks are mapped in slabs: one mapping for up to 64 of them, so that a million stacks stay far
 * below the system's limit of mappings, each with a guard page at its low end and its record at its
 * high end, where the first frames make the page resident anyway. A parked task that uses little
 * costs one page.
 *
 *     low address                                                         high address
 *     | guard | usable stack, grows down <------------------------- | Asthra__Fiber |
 *
 * The first slab is small and each next one twice as large, so that a program with three tasks does
 * not pay for sixty-four. A stack of another size than the default is a slab of its own, and slabs
 * of large stacks have fewer where addresses are few.
 *
 * Invariants
 *   - Slab records are never freed before teardown, only reused: the fault handler walks their list
 *     without a lock.
 *   - An idle fiber stands in its entry function with nothing of a task above it; whoever takes it
 *     switches to it as it is.
 *   - Where pages could not be guarded, a canary at the low end is checked at each departure. The
 *     overflow is then found late, but it is found.
 *   - With ThreadSanitizer every fiber is fresh and is unmapped when it ends: the tool keeps shadow
 *     for addresses, and a stack that served two tasks would mix their histories.
 */

#if ASTHRA_HAS_TASK

#include <string.h>

enum { ASTHRA__SLAB_FIRST = 4, ASTHRA__SLAB_MOST = 64 };
#define ASTHRA__SLAB_BYTES (SIZE_MAX / 64) /* at most, if it is not one stack alone */
#define ASTHRA__CANARY UINT64_C(0x6173746872612d72)

typedef struct Asthra__Slab {
    struct Asthra__Slab *next;        /* all slabs, newest first */
    struct Asthra__Slab *next_unused; /* records without memory */
    ASTHRA__ATOMIC(char *) base;      /* NULL: no memory */
    size_t stride;
    uint32_t count, carved;
    bool is_guarded;
} Asthra__Slab;

/* Records come from the system, as the stacks do, whatever allocator the configuration names: a
 * task that was spawned is promised a stack. */
typedef struct Asthra__SlabBatch Asthra__SlabBatch;
struct Asthra__SlabBatch {
    Asthra__SlabBatch *next;
    Asthra__Slab slabs[64];
};

static struct {
    Asthra__Lock lock;
    ASTHRA__ATOMIC(Asthra__Slab *) slabs;
    Asthra__SlabBatch *batches;
    Asthra__Slab *unused, *current; /* current: default-sized fibers are carved from it */
    Asthra__Fiber *idle, *idle_trimmed;
    size_t default_bytes;
    uint32_t slab_size;
    void (*entry)(void *);
} asthra__fiber;

/* ---- what sanitizers and C++ want to know ---- */

#if ASTHRA__ASAN
void __sanitizer_start_switch_fiber(void **fake_stack_save, const void *bottom, size_t size);
void __sanitizer_finish_switch_fiber(void *fake_stack_save, const void **bottom_old,
                                     size_t *size_old);
#endif
#if ASTHRA__TSAN
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void *__tsan_get_current_fiber(void);
#endif

/* Valgrind takes a stack pointer that moves a little for calls and returns, and forgets what lay
 * between; so it is told of each stack. A request is a group of rotations that add up to nothing
 * and an exchange of a register with itself, which Valgrind knows and a processor does in a
 * nanosecond (Valgrind manual, "The client request mechanism"). Returns 1 + the answer; 0: nobody
 * listens. */
enum { ASTHRA__VALGRIND_STACK = 0x1501, ASTHRA__VALGRIND_STACK_GONE = 0x1502 };
static unsigned asthra__valgrind(size_t request, uintptr_t first, uintptr_t second) {
    uintptr_t words[6] = {request, first, second, 0, 0, 0}, answer = UINTPTR_MAX;
#if ASTHRA_HAS_ASM && ASTHRA__CPU_X86_64
    __asm__ volatile("rolq $3, %%rdi\n\t"
                     "rolq $13, %%rdi\n\t"
                     "rolq $61, %%rdi\n\t"
                     "rolq $51, %%rdi\n\t"
                     "xchgq %%rbx, %%rbx"
                     : "+d"(answer)
                     : "a"(words)
                     : "cc", "memory");
#elif ASTHRA_HAS_ASM && ASTHRA__CPU_I386
    __asm__ volatile("roll $3, %%edi\n\t"
                     "roll $13, %%edi\n\t"
                     "roll $29, %%edi\n\t"
                     "roll $19, %%edi\n\t"
                     "xchgl %%ebx, %%ebx"
                     : "+d"(answer)
                     : "a"(words)
                     : "cc", "memory");
#elif ASTHRA_HAS_ASM && ASTHRA__CPU_AARCH64
    register uintptr_t result __asm__("x3") = answer;
    register uintptr_t *argument __asm__("x4") = words;
    __asm__ volatile("ror x12, x12, #3\n\t"
                     "ror x12, x12, #13\n\t"
                     "ror x12, x12, #51\n\t"
                     "ror x12, x12, #61\n\t"
                     "orr x10, x10, x10"
                     : "+r"(result)
                     : "r"(argument)
                     : "cc", "memory");
    answer = result;
#elif ASTHRA_HAS_ASM && ASTHRA__CPU_RISCV64
    register uintptr_t result __asm__("a3") = answer;
    register uintptr_t *argument __asm__("a4") = words;
    __asm__ volatile(".option push\n\t"
                     ".option norvc\n\t"
                     "srli zero, zero, 3\n\t"
                     "srli zero, zero, 13\n\t"
                     "srli zero, zero, 51\n\t"
                     "srli zero, zero, 61\n\t"
                     "or a0, a0, a0\n\t"
                     ".option pop"
                     : "+r"(result)
                     : "r"(argument)
                     : "cc", "memory");
    answer = result;
#else
    (void)words;
#endif
    return (unsigned)(answer + 1);
}

/* The C++ runtime's per-thread record of exceptions in flight: two words that belong to a stack. */
extern void *asthra__cxa_get_globals(void) __asm__("__cxa_get_globals") __attribute__((__weak__));

static void asthra__fiber_depart(Asthra__Fiber *from, Asthra__Fiber *to, bool is_dead) {
    if (asthra__cxa_get_globals != NULL) {
        memcpy(from->cxx_globals, asthra__cxa_get_globals(), sizeof from->cxx_globals);
    }
    if (ASTHRA__UNLIKELY(from->has_canary)) {
        ASTHRA__CHECK(*(uint64_t *)(void *)from->low == ASTHRA__CANARY);
    }
#if ASTHRA__ASAN
    __sanitizer_start_switch_fiber(is_dead ? NULL : &from->fake_stack, to->low,
                                   (size_t)(to->high - to->low));
#endif
#if ASTHRA__TSAN
    if (to->tsan == NULL) to->tsan = __tsan_create_fiber(0); /* late: it costs a millisecond */
    __tsan_switch_to_fiber(to->tsan, 0);
#endif
    (void)to, (void)is_dead;
}

ASTHRA__FN void asthra__fiber_arrive(Asthra__Fiber *to) {
#if ASTHRA__ASAN
    __sanitizer_finish_switch_fiber(to->fake_stack, NULL, NULL);
#endif
    if (asthra__cxa_get_globals != NULL) {
        memcpy(asthra__cxa_get_globals(), to->cxx_globals, sizeof to->cxx_globals);
    }
}

ASTHRA__FN void asthra__fiber_switch(Asthra__Fiber *from, Asthra__Fiber *to, bool is_dead) {
    asthra__fiber_depart(from, to, is_dead);
    asthra__swap(&from->context, to->context, NULL);
    asthra__fiber_arrive(from);
}

/* ---- slabs ---- */

static size_t asthra__fiber_stride(size_t usable) {
    size_t page = asthra__os_page_size();
    return (usable + sizeof(Asthra__Fiber) + page - 1) / page * page + page;
}

static size_t asthra__slab_batch_bytes(void) {
    size_t page = asthra__os_page_size();
    return (sizeof(Asthra__SlabBatch) + page - 1) / page * page;
}

/* More records, in the list of all for good. Caller holds the lock. */
static void asthra__slab_records(void) {
    Asthra__SlabBatch *batch = asthra__os_map(asthra__slab_batch_bytes());
    if (batch == NULL) return;
    batch->next = asthra__fiber.batches;
    asthra__fiber.batches = batch;
    for (size_t i = sizeof batch->slabs / sizeof *batch->slabs; i-- > 0;) {
        Asthra__Slab *s = &batch->slabs[i];
        s->next_unused = asthra__fiber.unused;
        asthra__fiber.unused = s;
        s->next = asthra__load(&asthra__fiber.slabs, relaxed);
        asthra__store(&asthra__fiber.slabs, s, release); /* the fault handler walks the list */
    }
}

/* Caller holds the lock. */
static Asthra__Slab *asthra__slab_record(void) {
    if (asthra__fiber.unused == NULL) asthra__slab_records();
    Asthra__Slab *s = asthra__fiber.unused;
    if (s != NULL) asthra__fiber.unused = s->next_unused;
    return s;
}

/* Caller holds the lock. NULL: no memory. */
static Asthra__Slab *asthra__slab_map(size_t stride, uint32_t count) {
    Asthra__Slab *s = asthra__slab_record();
    if (s == NULL) return NULL;
    char *base = asthra__os_map(stride * count);
    if (base == NULL) {
        s->next_unused = asthra__fiber.unused;
        asthra__fiber.unused = s;
        return NULL;
    }
    s->stride = stride;
    s->count = count;
    s->carved = 0;
    s->is_guarded = asthra__os_guard_pages(base, stride, count);
    asthra__store(&s->base, base, release);
    return s;
}

static Asthra__Fiber *asthra__slab_fiber(const Asthra__Slab *s, char *base, uint32_t i) {
    char *record = base + s->stride * (i + 1) - sizeof(Asthra__Fiber);
    return (Asthra__Fiber *)(void *)(record - (uintptr_t)record % 64);
}

/* Before the stacks of s go. */
static void asthra__slab_untell(const Asthra__Slab *s, char *base) {
    for (uint32_t i = 0; i < s->carved; i++) {
        unsigned id = asthra__slab_fiber(s, base, i)->valgrind_id;
        if (id != 0) (void)asthra__valgrind(ASTHRA__VALGRIND_STACK_GONE, id - 1, 0);
    }
}

/* Caller holds the lock. */
static void asthra__slab_unmap(Asthra__Slab *s) {
    char *base = asthra__load(&s->base, relaxed);
    asthra__slab_untell(s, base);
    asthra__store(&s->base, (char *)NULL, relaxed);
    asthra__os_unmap(base, s->stride * s->count);
    s->next_unused = asthra__fiber.unused;
    asthra__fiber.unused = s;
}

/* Makes the next stack of s a fiber. */
static Asthra__Fiber *asthra__slab_carve(Asthra__Slab *s) {
    char *stack = asthra__load(&s->base, relaxed) + s->stride * s->carved++;
    char *record = stack + s->stride - sizeof(Asthra__Fiber);
    Asthra__Fiber *f = (Asthra__Fiber *)(void *)(record - (uintptr_t)record % 64);
    memset(f, 0, sizeof *f);
    f->runnable.is_fiber = true;
    f->ranked.item = &f->runnable;
    f->slab = s;
    f->low = stack + asthra__os_page_size();
    f->high = (char *)f;
    f->bound_to = -1;
    f->has_canary = !s->is_guarded;
    if (f->has_canary) *(uint64_t *)(void *)f->low = ASTHRA__CANARY;
    f->valgrind_id =
        asthra__valgrind(ASTHRA__VALGRIND_STACK, (uintptr_t)f->low, (uintptr_t)f->high);
    f->context = asthra__swap_make(f->low, f->high, asthra__fiber.entry);
    return f;
}

/* How many stacks the next slab of the default size has. Caller holds the lock. */
static uint32_t asthra__slab_count(size_t stride) {
    uint32_t count = asthra__fiber.slab_size;
    while (count > 1 && stride > ASTHRA__SLAB_BYTES / count) count /= 2;
    return count;
}

/* A fresh fiber of the default size. Caller holds the lock. */
static Asthra__Fiber *asthra__fiber_fresh(void) {
    Asthra__Slab *s = asthra__fiber.current;
    if (s == NULL || s->carved == s->count) {
        size_t stride = asthra__fiber_stride(asthra__fiber.default_bytes);
        s = asthra__slab_map(stride, asthra__slab_count(stride));
        if (s == NULL) return NULL;
        asthra__fiber.current = s;
        if (asthra__fiber.slab_size < ASTHRA__SLAB_MOST) asthra__fiber.slab_size *= 2;
    }
    return asthra__slab_carve(s);
}

/* ---- for the scheduler ---- */

ASTHRA__FN void asthra__fiber_setup(size_t default_stack_bytes, void (*entry)(void *)) {
    asthra__fiber.default_bytes = default_stack_bytes;
    asthra__fiber.slab_size = ASTHRA__SLAB_FIRST;
    asthra__fiber.entry = entry;
}

ASTHRA__FN size_t asthra__fiber_default_bytes(void) {
    return asthra__fiber.default_bytes;
}

ASTHRA__FN Asthra__Fiber *asthra__fiber_create(size_t stack_bytes) {
    size_t usable = stack_bytes == 0 ? asthra__fiber.default_bytes : stack_bytes;
    if (usable > ASTHRA__OS_STACK_MOST) return NULL;
    asthra__lock(&asthra__fiber.lock);
    Asthra__Slab *s = asthra__slab_map(asthra__fiber_stride(usable), 1);
    Asthra__Fiber *f = s == NULL ? NULL : asthra__slab_carve(s);
    asthra__unlock(&asthra__fiber.lock);
    return f;
}

static Asthra__Fiber *asthra__fiber_next(const Asthra__Fiber *f) {
    return f->runnable.next == NULL ? NULL
                                    : ASTHRA__CONTAINER(Asthra__Fiber, runnable, f->runnable.next);
}

static Asthra__Fiber *asthra__fiber_unlink(Asthra__Fiber **list) {
    Asthra__Fiber *f = *list;
    if (f != NULL) *list = asthra__fiber_next(f);
    return f;
}

ASTHRA__FN Asthra__Fiber *asthra__fiber_take(uint32_t want, uint32_t *got) {
    Asthra__Fiber *list = NULL;
    *got = 0;
    asthra__lock(&asthra__fiber.lock);
    while (*got < want) {
        Asthra__Fiber *f = asthra__fiber_unlink(&asthra__fiber.idle);
        if (f == NULL) f = asthra__fiber_unlink(&asthra__fiber.idle_trimmed);
        if (f == NULL) f = asthra__fiber_fresh();
        if (f == NULL) break;
        f->runnable.next = list == NULL ? NULL : &list->runnable;
        list = f;
        *got += 1;
    }
    asthra__unlock(&asthra__fiber.lock);
    return list;
}

ASTHRA__FN void asthra__fiber_give(Asthra__Fiber *list) {
    Asthra__Fiber *last = list;
    for (Asthra__Fiber *f = list; f != NULL; f = asthra__fiber_next(f)) last = f;
    if (last == NULL) return;
    asthra__lock(&asthra__fiber.lock);
    last->runnable.next = asthra__fiber.idle == NULL ? NULL : &asthra__fiber.idle->runnable;
    asthra__fiber.idle = list;
    asthra__unlock(&asthra__fiber.lock);
}

ASTHRA__FN void asthra__fiber_destroy(Asthra__Fiber *f) {
    ASTHRA__ASSERT(f->slab != NULL && f->slab->count == 1);
#if ASTHRA__TSAN
    if (f->tsan != NULL) __tsan_destroy_fiber(f->tsan);
#endif
    asthra__lock(&asthra__fiber.lock);
    asthra__slab_unmap(f->slab);
    asthra__unlock(&asthra__fiber.lock);
}

ASTHRA__FN size_t asthra__fiber_trim(void) {
    size_t page = asthra__os_page_size(), bytes = 0;
    asthra__lock(&asthra__fiber.lock);
    Asthra__Fiber *list = asthra__fiber.idle;
    asthra__fiber.idle = NULL;
    asthra__unlock(&asthra__fiber.lock);
    while (list != NULL) {
        Asthra__Fiber *f = asthra__fiber_unlink(&list);
        uintptr_t keep = (uintptr_t)f->context / page * page;
        if (f->slab->is_guarded && keep > (uintptr_t)f->low) {
            (void)asthra__os_discard(f->low, keep - (uintptr_t)f->low);
            bytes += keep - (uintptr_t)f->low;
        }
        asthra__lock(&asthra__fiber.lock);
        f->runnable.next =
            asthra__fiber.idle_trimmed == NULL ? NULL : &asthra__fiber.idle_trimmed->runnable;
        asthra__fiber.idle_trimmed = f;
        asthra__unlock(&asthra__fiber.lock);
    }
    return bytes;
}

ASTHRA__FN void asthra__fiber_bind(Asthra__Fiber *f, int worker) {
    void *low = NULL, *high = NULL;
    asthra__os_stack_bounds(&low, &high);
    memset(f, 0, sizeof *f);
    f->runnable.is_fiber = true;
    f->ranked.item = &f->runnable;
    const char *here = __builtin_frame_address(0);
    bool is_here = here >= (char *)low && here < (char *)high;
    f->low = is_here ? low : NULL; /* a task's stack, in the child of its fork: of no known size */
    f->high = is_here ? high : NULL;
    f->bound_to = worker;
#if ASTHRA__TSAN
    f->tsan = __tsan_get_current_fiber();
#endif
}

#if ASTHRA__TSAN
static void asthra__slab_forget(const Asthra__Slab *s, char *base) {
    for (uint32_t i = 0; i < s->carved; i++) {
        void *fiber = asthra__slab_fiber(s, base, i)->tsan;
        if (fiber != NULL) __tsan_destroy_fiber(fiber);
    }
}
#else
static void asthra__slab_forget(const Asthra__Slab *s, char *base) {
    (void)s, (void)base;
}
#endif

ASTHRA__FN void asthra__fiber_teardown(void) {
    Asthra__Slab *s = asthra__load(&asthra__fiber.slabs, relaxed);
    asthra__store(&asthra__fiber.slabs, (Asthra__Slab *)NULL, relaxed);
    for (; s != NULL; s = s->next) {
        char *base = asthra__load(&s->base, relaxed);
        if (base == NULL) continue;
        asthra__slab_forget(s, base);
        asthra__slab_untell(s, base);
        asthra__os_unmap(base, s->stride * s->count);
    }
    while (asthra__fiber.batches != NULL) {
        Asthra__SlabBatch *batch = asthra__fiber.batches;
        asthra__fiber.batches = batch->next;
        asthra__os_unmap(batch, asthra__slab_batch_bytes());
    }
    asthra__fiber.unused = NULL;
    asthra__fiber.current = NULL;
    asthra__fiber.idle = NULL;
    asthra__fiber.idle_trimmed = NULL;
}

ASTHRA__FN void asthra__fiber_forget(void) {
    memset(&asthra__fiber, 0, sizeof asthra__fiber);
}

ASTHRA__FN size_t asthra__fiber_room(const Asthra__Fiber *f) {
    return (size_t)((char *)__builtin_frame_address(0) - f->low);
}

ASTHRA__FN Asthra__Fiber *asthra__fiber_of_guard(const void *address) {
    size_t page = asthra__os_page_size();
    for (Asthra__Slab *s = asthra__load(&asthra__fiber.slabs, acquire); s != NULL; s = s->next) {
        char *base = asthra__load(&s->base, acquire);
        size_t distance = (size_t)((const char *)address - base);
        if (base == NULL || (const char *)address < base) continue;
        if (distance >= s->stride * s->count || distance % s->stride >= page) continue;
        uintptr_t record =
            (uintptr_t)base + distance / s->stride * s->stride + s->stride - sizeof(Asthra__Fiber);
        return (Asthra__Fiber *)(record - record % 64);
    }
    return NULL;
}

#endif

/* ---- [scheduler] internal ------------------------------ concurrency/scheduler_internal.h ---- */
/* scheduler - workers, run queues, waiting and waking.                     [scheduler] internal
 *
 * What the floors above use: who is running (seat, parker), how to wait and wake, random choices
 * and turns that the deterministic mode steers. What only the scheduler and task chapters use comes
 * last.
 */

#if ASTHRA_HAS_TASK

/* ---- waiting -----------------------------------------------------------------------------------
 *
 * Whoever waits, task or plain thread, has one parker with one word:
 *
 *     claim      IDLE: runs. OPEN: waits, anybody may complete it. BUSY: its owner is completing
 *                another's wait (select only). DONE: completed; exactly one wake is owed to it.
 *     SWITCHED   its stack has been left, so whoever owes the wake may resume it at once
 *     WAKE       the wake was delivered before the stack was left: whoever leaves makes it run
 *     FIRM       cancellation does not claim it
 *     turn       counts waits, so that a late canceller cannot hit the next wait
 *
 * A wait is opened, published (a node in a channel's list, a task's list, a timer), and parked. The
 * first to turn OPEN into DONE has completed it: it writes what the wait carries (outcome, winner,
 * the value itself), unlinks what it must, and wakes as its last act. The memory of a wait lives on
 * the waiter's stack and is safe from the claim to the wake, and before the claim under the lock of
 * the list that its node is in.
 *
 * A wait with `held` set is opened and published under that lock, which parking gives back only
 * after the stack has been left. Its word starts SWITCHED: whoever finds the node under the lock
 * may wake without asking, and one-sided claimers (timer, cancel) pass through the lock before they
 * wake. */
enum {
    ASTHRA__WAIT_IDLE = 0,
    ASTHRA__WAIT_OPEN = 1,
    ASTHRA__WAIT_BUSY = 2,
    ASTHRA__WAIT_DONE = 3,
    ASTHRA__WAIT_CLAIM = 3, /* mask of the four above */
    ASTHRA__WAIT_SWITCHED = 4,
    ASTHRA__WAIT_WAKE = 8,
    ASTHRA__WAIT_FIRM = 16,
    ASTHRA__WAIT_TURN = 32
};

typedef struct Asthra__Parker {
    ASTHRA__ATOMIC(uint32_t) word;
    uint32_t index;            /* of the task; 0: a plain thread */
    struct Asthra__Wait *wait; /* while not IDLE */
} Asthra__Parker;

typedef struct Asthra__Wait {
    const char *what, *name; /* for reports: "receive on channel", "jobs" */
    Asthra__Lock *held;      /* see above; NULL: none */
    bool is_firm;            /* cancellation does not end it */
    AsthraStatus outcome;    /* written by whoever completed it */
    void *winner;            /* likewise, if the wait has several nodes */
    Asthra__Parker *parker;  /* from here on the scheduler's */
    Asthra__Fiber *fiber;
    int64_t since_ns, deadline_ns;
    /* instead of what and name, where those are too few; NULL unless set once it is open */
    void (*describe)(Asthra__Text *t, const struct Asthra__Wait *w);
    size_t timer_slot; /* position in its heap + 1; 0: not in one */
    struct Asthra__Worker *timer_owner;
    ASTHRA__ATOMIC(uint32_t) signal; /* a plain thread sleeps on this */
} Asthra__Wait;

/* Begins a wait of whoever calls; w's first five fields are set, the rest may be garbage. With
 * w->held the caller holds that lock. Until asthra__wait_park or asthra__wait_retract the caller
 * may be completed at any time. Returns the parker, for the nodes. */
ASTHRA__FN Asthra__Parker *asthra__wait_open(Asthra__Wait *w);

/* Waits until completed, for at most timeout_ns (< 0: for ever). Releases w->held. Returns
 * w->outcome: what the completer wrote, or ASTHRA_TIMED_OUT, or ASTHRA_CANCELLED; after these two
 * the caller unlinks its nodes under their locks. errno is kept. */
ASTHRA__FN AsthraStatus asthra__wait_park(Asthra__Wait *w, int64_t timeout_ns);

/* The parker of whoever calls, which also tells callers apart, say as the owner of a mutex. */
ASTHRA__FN Asthra__Parker *asthra__parker(void);
/* "task 'name'" or "thread 'name'", into the caller's buffer, which it returns. */
ASTHRA__FN const char *asthra__parker_name(const Asthra__Parker *p, char *out, size_t room);
/* The same of a parker's address whose owner may be gone long since: "a task that has ended". */
ASTHRA__FN const char *asthra__parker_name_if_any(uintptr_t parker, char *out, size_t room);

/* Takes an opened wait back instead of parking: true, and nobody owes a wake; false: it has been
 * completed, and the caller must park to consume its wake. Does not touch w->held. */
ASTHRA__FN bool asthra__wait_retract(Asthra__Wait *w);

/* Completes another's wait: true if this call did, then the caller owes one asthra__wait_wake.
 * Waits out BUSY. The caller holds the lock of the list in which it found the wait. */
ASTHRA__FN bool asthra__wait_claim(Asthra__Parker *p);

/* The last act of a completer, after unlocking: makes it run, next on this worker if it can be. */
ASTHRA__FN void asthra__wait_wake(Asthra__Parker *p);

/* ---- who runs, and choices ---- */

typedef struct Asthra__Seat Asthra__Seat;

/* Seat of the calling thread, which starts the runtime if it must. Never kept across a wait. */
ASTHRA__FN Asthra__Seat *asthra__seat(void);

/* The deterministic mode may let others run here. Called at the beginning of every operation that
 * tasks can see each other through. Free when the mode is off. */
ASTHRA__FN void asthra__turn(void);

/* 0 .. bound - 1; from the seed in the deterministic mode. */
ASTHRA__FN uint32_t asthra__random(uint32_t bound);

/* Monotonic now, virtual in the deterministic mode. */
ASTHRA__FN int64_t asthra__now_ns(void);

/* now + timeout, or INT64_MAX for ever. */
ASTHRA__FN int64_t asthra__deadline(int64_t timeout_ns);

/* True if this tier (1 tasks, 2 channels) is configured, and 3 too where a thread calls that is
 * neither a worker nor main; else false with the reason, naming the field, in asthra_last_error. */
ASTHRA__FN bool asthra__tier_is_on(int tier);

ASTHRA__FN uint64_t asthra__current_id(void); /* of the running task; 0: none */
ASTHRA__FN bool asthra__cancel_pending(void); /* the running task is cancelled and not masked */
/* What a debug line calls whoever runs: "task 12", or "thread". Into a caller's buffer. */
ASTHRA__FN const char *asthra__who(char *out, size_t room);

/* ==== from here on: for the scheduler, task and runtime chapters only ==== */

typedef struct Asthra__Task Asthra__Task;
typedef struct Asthra__Worker Asthra__Worker;

/* What few tasks have: a copied name, a stack of its own size, a rank, a large block. It stays with
 * the descriptor, so that the next task there finds its room. */
typedef struct Asthra__TaskExtra {
    ASTHRA__ALIGNED(ASTHRA__MAX_ALIGN) Asthra__Ranked ranked;
    size_t stack_bytes, block_bytes;
    size_t room; /* bytes behind this struct, for the block */
    char name[72];
} Asthra__TaskExtra;

/* The word of a task: state and everything that others may change, in one place, with the
 * generation, so that one compare-and-swap both checks a handle and acts on it.
 *
 *     bits 0-2    end: 0 while it is unfinished, else an AsthraTaskState
 *     bit  3      CANCEL    somebody asked it to end
 *     bit  4      AWAITED   nodes are in its list of awaiters
 *     bit  5      ALIVE     the descriptor is in use
 *     bits 8-31   handles   not yet consumed
 *     bits 32-63  generation
 *
 * A descriptor is free when it has ended and has no handle left; freeing it counts the generation
 * up, so every older handle is stale. Only compare-and-swaps change the word of a task that others
 * can reach, with one exception: see asthra__task_end. */
#define ASTHRA__TASK_END ((uint64_t)7)
#define ASTHRA__TASK_CANCEL ((uint64_t)8)
#define ASTHRA__TASK_AWAITED ((uint64_t)16)
#define ASTHRA__TASK_ALIVE ((uint64_t)32)
#define ASTHRA__TASK_HANDLE ((uint64_t)256)
#define ASTHRA__TASK_HANDLES ((uint64_t)0xffffff00)
#define ASTHRA__TASK_GENERATION (~(uint64_t)0xffffffff)

enum { /* Asthra__Task.marks, written by the spawner, then by whoever runs it */
       ASTHRA__TASK_STARTED = 1,
       ASTHRA__TASK_ESCAPED = 2, /* its own handle was taken with asthra_task_current */
       ASTHRA__TASK_SAW_CANCEL = 4,
       ASTHRA__TASK_COPIED = 8, /* has a block */
       ASTHRA__TASK_EXTRA = 16, /* its extra is in use, not only kept */
       ASTHRA__TASK_FORKED = 32 /* we are the child of a fork that it made */
};

enum { ASTHRA__TASK_INLINE = 16 }; /* bytes of a block inside the descriptor */

struct Asthra__Task {
    Asthra__Runnable runnable; /* also links free descriptors */
    ASTHRA__ATOMIC_64(uint64_t) word;
    AsthraTaskFunction function;
    void *value; /* the argument until it starts, the result once it has ended */
    const char *name;
    Asthra__Parker parker;
    uint64_t parent;                      /* handle bits */
    ASTHRA__ATOMIC_64(uint64_t) awaiting; /* handle bits of the child that it awaits; 0: none */
    struct Asthra__AwaitNode *waiters;    /* under the stripe lock of this task */
    struct AsthraError *error;
    Asthra__TaskExtra *extra;
    int16_t affinity; /* as in AsthraSpawnOptions, the main thread resolved */
    ASTHRA__ATOMIC(uint8_t) marks;
    ASTHRA__ATOMIC(uint8_t) masks; /* depth of asthra_cancel_mask_begin */
    uint8_t policy;                /* AsthraPanicPolicy */
    uint8_t block_size;            /* of an inline block */
    ASTHRA__ALIGNED(ASTHRA__MAX_ALIGN) unsigned char block[ASTHRA__TASK_INLINE];
};
_Static_assert(sizeof(void *) != 8 || sizeof(Asthra__Task) == 128, "two cache lines");

/* An ordered queue under a lock: an intrusive skew heap, so that nothing can run out of memory. */
typedef struct Asthra__RankedQueue {
    Asthra__Lock lock;
    Asthra__Ranked *root;
    ASTHRA__ATOMIC(uint32_t) count;
    int64_t sequence;
} Asthra__RankedQueue;

typedef struct Asthra__ListQueue {
    Asthra__Lock lock;
    Asthra__Runnable *first, **last;
    ASTHRA__ATOMIC(uint32_t) count;
} Asthra__ListQueue;

enum { ASTHRA__RING = 256 };

/* A bounded queue of fibers: its owner appends, anybody takes the oldest. */
typedef struct Asthra__Ring {
    ASTHRA__ATOMIC(uint32_t) tail;
    ASTHRA__ATOMIC(Asthra__Runnable *) slots[ASTHRA__RING];
    ASTHRA__ALIGNED(128) ASTHRA__ATOMIC(uint32_t) head;
} Asthra__Ring;

static inline Asthra__Fiber *asthra__fiber_of(Asthra__Runnable *item) {
    return ASTHRA__CONTAINER(Asthra__Fiber, runnable, item);
}

typedef struct Asthra__TimerEntry {
    int64_t deadline_ns;
    Asthra__Wait *wait;
} Asthra__TimerEntry;

typedef struct Asthra__Timers {
    Asthra__Lock lock;
    Asthra__TimerEntry *heap; /* four children each; [0] is the earliest */
    size_t count, room;
    ASTHRA__ATOMIC_64(int64_t) earliest_ns; /* INT64_MAX: none */
} Asthra__Timers;

typedef enum Asthra__Leaving { /* what is to be done for the fiber that was left last */
                               ASTHRA__LEFT_NOTHING,
                               ASTHRA__LEFT_HOLDING, /* give its lock back */
                               ASTHRA__LEFT_WAITING, /* mark its word SWITCHED */
                               ASTHRA__LEFT_READY,   /* it yielded: append it */
                               ASTHRA__LEFT_IDLE,    /* a loop that has nothing to do: cache it */
                               ASTHRA__LEFT_DEAD     /* nobody comes back */
} Asthra__Leaving;

struct Asthra__Worker {
    /* The owner's. */
    int number;
    uint32_t turns, next_streak;
    uint32_t starved, starved_turn; /* tasks in a row that got no stack; the last one's turn */
    int64_t now_ns;                 /* read every 64 turns and when idle */
    Asthra__Fiber *spare;           /* idle loops, newest first */
    uint32_t spare_count;
    Asthra__Runnable *assigned; /* what the loop that is switched to shall do first */
    Asthra__Leaving leaving;
    Asthra__Fiber *left;
    Asthra__Wait *left_wait;
    Asthra__Seat *seat;
#if ASTHRA_HAS_THREADS
    Asthra__OsThread thread;
#endif
    bool has_thread;
    ASTHRA__ATOMIC(uint32_t) only_bound; /* main's, when a relief thread serves the queues */
    bool is_hosted; /* its loop runs inside asthra_runtime_poll, until host_end_ns */
    int64_t host_end_ns;
    size_t host_turns;                        /* in this poll */
    uint32_t safepoint_turn, safepoint_calls; /* the last safepoint's turn, and how many in it */
    int64_t safepoint_ns;                     /* when that turn, or the last look, began */
    /* Read by others now and then. */
    ASTHRA__ALIGNED(128) ASTHRA__ATOMIC(Asthra__Runnable *) next; /* see asthra__next_take */
    ASTHRA__ATOMIC(uint32_t) owner_in;
    ASTHRA__ATOMIC(uint32_t) thief_in;
    ASTHRA__ATOMIC(uint32_t) turns_seen;    /* turns, published */
    ASTHRA__ATOMIC(uint32_t) turns_watched; /* of these, what a watcher saw last, and since when */
    ASTHRA__ATOMIC_64(int64_t) watched_ns;
    ASTHRA__ATOMIC(uint32_t) is_outside; /* its thread, main, runs the program's own code */
    ASTHRA__ALIGNED(128) Asthra__Deque deque;
    ASTHRA__ALIGNED(128) Asthra__Ring ring;
    ASTHRA__ALIGNED(128) Asthra__Timers timers;
    ASTHRA__ALIGNED(128) Asthra__RankedQueue bound;       /* only this worker may run these */
    ASTHRA__ALIGNED(128) ASTHRA__ATOMIC(uint32_t) asleep; /* Asthra__Asleep */
};

typedef enum Asthra__Asleep {
    ASTHRA__AWAKE,
    ASTHRA__ASLEEP,        /* on this word */
    ASTHRA__ASLEEP_OUTSIDE /* in the poller */
} Asthra__Asleep;

/* What waits for events from outside the process, filled by the floor above. `wait` waits for one,
 * for at most timeout_ns (< 0: no limit), and says whether there is something to deliver; `deliver`
 * makes it runnable. One thread at a time calls these two. `wake` ends a wait. `end`: no wait is
 * left; in a forked child those that were are forgotten. */
typedef struct Asthra__Poller {
    bool (*wait)(int64_t timeout_ns);
    void (*deliver)(void);
    void (*wake)(void);
    void (*end)(bool is_child);
} Asthra__Poller;

/* What the scheduler keeps for each thread, inside its Asthra__Thread. */
struct Asthra__Seat {
    uint32_t epoch; /* of its runtime, + 1; 0: none */
    bool is_main;   /* the thread that started the runtime */
    Asthra__Thread *thread;
    Asthra__Worker *worker;               /* NULL: a plain thread */
    Asthra__Task *task;                   /* NULL: outside tasks */
    Asthra__Fiber *fiber;                 /* we stand on it */
    Asthra__Fiber root;                   /* the stack that the thread came with */
    Asthra__Parker parker;                /* of the thread itself */
    ASTHRA__ATOMIC_64(uint64_t) awaiting; /* as a task's, of what it awaits outside tasks */
    Asthra__Task *loaded, *spare;         /* free descriptors */
    uint32_t loaded_count, spare_count;
    uint32_t fresh, fresh_end; /* descriptors never used yet: [fresh, fresh_end) */
    ASTHRA__ATOMIC_64(uint64_t) spawned;
    ASTHRA__ATOMIC_64(uint64_t) ended;
    uint64_t random_state;
    uint32_t in_place_streak;
    Asthra__Seat *next, **link;
};
_Static_assert(sizeof(Asthra__Seat) <= ASTHRA__SCHEDULER_SLOT,
               "thread_internal.h: make the slot larger");

/* Settings, already checked. */
typedef struct Asthra__SchedulerConfig {
    unsigned workers; /* 0: cores */
    size_t max_tasks, stack_bytes;
    bool main_helps, spins;
    bool tier_is_on[4]; /* [1] .. [3] */
    uint64_t seed;      /* not 0: deterministic */
    AsthraPanicPolicy policy;
    int64_t shutdown_timeout_ns;
} Asthra__SchedulerConfig;

typedef enum Asthra__Phase {
    ASTHRA__PHASE_NONE, /* not started */
    ASTHRA__PHASE_RUNNING,
    ASTHRA__PHASE_DRAINING, /* shutdown waits for tasks */
    ASTHRA__PHASE_STOPPED   /* workers leave */
} Asthra__Phase;

enum {
    ASTHRA__STRIPES = 64,
    ASTHRA__SEGMENTS = 22,
    ASTHRA__MAGAZINE = 128,
    ASTHRA__FAIR_TURNS = 64,
    ASTHRA__FAIR_STEP = 8 /* turns from one that begins with another queue to the next */
};

enum {                            /* Asthra__Scheduler.rare */
       ASTHRA__RARE_UNMANNED = 1, /* threads are still to be started */
       ASTHRA__RARE_RELIEF = 2,   /* a plain thread would need a relief thread */
       ASTHRA__RARE_LIMIT = 4,    /* max_tasks */
       ASTHRA__RARE_TIER = 8      /* tasks, or external threads, are switched off */
};

/* The one record of the scheduler. */
typedef struct Asthra__Scheduler {
    ASTHRA__ATOMIC(uint32_t) phase; /* Asthra__Phase */
    ASTHRA__ATOMIC(uint32_t) epoch; /* counts starts and stops, skips UINT32_MAX */
    bool has_fork_hook;
    Asthra__Lock seats_lock; /* this and what stands above outlive a stop */
    Asthra__SchedulerConfig config;
    Asthra__Worker *workers;
    void *workers_block;
    ASTHRA__ATOMIC(uint32_t) worker_count; /* of config, main included if it helps */
    ASTHRA__ATOMIC(uint32_t) rare;         /* Asthra__Rare bits: what a spawn must look at */
    ASTHRA__ATOMIC(uint32_t) queue_count;  /* workers with queues: a main that hosts, too, last */
    unsigned workers_made;                 /* in the block: one more where relief may be needed */
    ASTHRA__ATOMIC(uint32_t) manned;       /* workers whose threads run; == worker_count: all */
    Asthra__Lock start_lock;
    Asthra__Seat *seats;
    uint64_t ended_before, spawned_before; /* by seats that are gone */
    Asthra__Seat *main_seat;
    /* Work that belongs to no worker. */
    ASTHRA__ALIGNED(128) Asthra__ListQueue global;
    ASTHRA__ALIGNED(128) Asthra__RankedQueue urgent, background;
    ASTHRA__ATOMIC(uint32_t) ranked; /* entries in all ranked queues, the bound ones included */
    /* Idle workers. */
    ASTHRA__ALIGNED(128) ASTHRA__ATOMIC(uint32_t) sleeping;
    ASTHRA__ATOMIC(uint32_t) searching, watching;
    ASTHRA__ATOMIC(uint32_t) rests;          /* how often a worker lay down */
    ASTHRA__ATOMIC(uint32_t) host_blocked;   /* plain threads inside our waits */
    ASTHRA__ATOMIC(uint32_t) timed_hosts;    /* of these, with a timeout */
    ASTHRA__ATOMIC(uint32_t) is_asleep_told; /* worker and thread may find it out together */
    /* Events from outside, and a host's loop. */
    ASTHRA__ALIGNED(128) ASTHRA__ATOMIC(const Asthra__Poller *) poller;
    ASTHRA__ATOMIC(uint32_t) outside;    /* waits for the poller */
    ASTHRA__ATOMIC(uint32_t) is_polling; /* somebody is in it */
    ASTHRA__ATOMIC(uint32_t) has_bound;  /* a task was bound to a main that hosts */
    ASTHRA__ATOMIC(uint32_t) has_signal; /* host_signal is open */
    ASTHRA__ATOMIC(uint32_t) is_signalled;
    Asthra__OsSignal host_signal; /* readable: main has work */
    /* Tasks. */
    ASTHRA__ALIGNED(128) Asthra__Lock descriptors_lock;
    Asthra__Task *segments[ASTHRA__SEGMENTS];
    ASTHRA__ATOMIC(uint32_t) descriptors; /* indices below have memory; index 0 is unused */
    Asthra__Task *magazines;              /* full ones, linked through waiters */
    ASTHRA__ATOMIC(size_t) unfinished;    /* counted only under max_tasks */
    Asthra__Lock stripes[ASTHRA__STRIPES];
    /* Shutdown, and the deterministic mode. */
    ASTHRA__ATOMIC(uint32_t) left; /* worker threads that are through */
    ASTHRA__ATOMIC(Asthra__Parker *) drainer;
    Asthra__Lock drain_lock;
    bool drain_quiescent;
    uint32_t drain_turns;
    uint64_t random_state;
    int64_t virtual_ns;
    ASTHRA__ATOMIC(bool) is_deterministic;
} Asthra__Scheduler;

/* scheduler.c */
ASTHRA__FN Asthra__Scheduler *asthra__scheduler(void);
ASTHRA__FN bool asthra__is_deterministic(void);
ASTHRA__FN void asthra__epoch_next(void);           /* from here on every seat is an old one's */
ASTHRA__FN Asthra__Seat *asthra__seat_if_any(void); /* signal-safe; NULL: none */
ASTHRA__FN Asthra__Seat *asthra__seat_setup(Asthra__Worker *w); /* of this thread; w may be NULL */
/* Both return the seat by the time the caller goes on. */
ASTHRA__FN Asthra__Seat *asthra__leave(Asthra__Seat *s, Asthra__Leaving how, Asthra__Wait *wait);
ASTHRA__FN Asthra__Seat *asthra__run_in_place(Asthra__Seat *s, Asthra__Task *t);
ASTHRA__FN size_t asthra__own_stack(const Asthra__Task *t);     /* 0: any stack will do */
ASTHRA__FN bool asthra__spare_ensure(Asthra__Worker *w);        /* an idle loop in store */
ASTHRA__FN void asthra__loop(void *unused);                     /* what every pool stack runs */
ASTHRA__FN Asthra__Seat *asthra__worker_enter(Asthra__Seat *s); /* from its own stack, and back */

/* scheduler_start.c */
ASTHRA__FN Asthra__SchedulerConfig asthra__scheduler_defaults(void);
/* false: the reason is set */
ASTHRA__FN bool asthra__scheduler_start(const Asthra__SchedulerConfig *c);
ASTHRA__FN void asthra__scheduler_check_stop(void); /* panics if the caller may not stop it */
ASTHRA__FN void asthra__scheduler_drain(void);      /* as a stop begins; then it runs as before */
ASTHRA__FN void asthra__scheduler_stop(void);
ASTHRA__FN bool asthra__scheduler_is_running(void);
/* starts the threads; false: the reason is set */
ASTHRA__FN bool asthra__scheduler_man(const Asthra__Seat *s);
ASTHRA__FN bool asthra__scheduler_relieve(void); /* a main that would be alone gets a thread */
ASTHRA__FN void asthra__drain_check(void);       /* a task has ended during shutdown */
ASTHRA__FN void asthra__drain_turn(void);        /* a turn has begun during shutdown under a seed */

/* scheduler_queue.c */
ASTHRA__FN void asthra__list_push(Asthra__ListQueue *q, Asthra__Runnable *item);
ASTHRA__FN Asthra__Runnable *asthra__list_pop(Asthra__ListQueue *q);
ASTHRA__FN bool asthra__list_remove(Asthra__ListQueue *q, Asthra__Runnable *item);
ASTHRA__FN Asthra__Runnable *asthra__list_pop_at(Asthra__ListQueue *q, uint32_t position);
ASTHRA__FN void asthra__ranked_push(Asthra__RankedQueue *q, Asthra__Ranked *r);
ASTHRA__FN Asthra__Runnable *asthra__ranked_pop(Asthra__RankedQueue *q);
ASTHRA__FN bool asthra__ring_push(Asthra__Ring *r, Asthra__Runnable *item); /* owner; false: full */
ASTHRA__FN Asthra__Runnable *asthra__ring_pop(Asthra__Ring *r);             /* anybody */
ASTHRA__FN uint32_t asthra__ring_count(const Asthra__Ring *r);
ASTHRA__FN Asthra__Runnable *asthra__next_take(Asthra__Worker *w);  /* its owner */
ASTHRA__FN Asthra__Runnable *asthra__next_steal(Asthra__Worker *w); /* not the owner */
/* w: ours */
ASTHRA__FN void asthra__runnable_fiber(Asthra__Worker *w, Asthra__Fiber *f, bool is_next);
ASTHRA__FN void asthra__runnable_task(Asthra__Seat *s, Asthra__Task *t);
ASTHRA__FN Asthra__Runnable *asthra__pick(Asthra__Worker *w); /* own and global work; NULL: none */
ASTHRA__FN bool asthra__has_other_work(Asthra__Worker *w);
static inline bool asthra__is_fair_turn(uint32_t turn) {
    return turn % ASTHRA__FAIR_TURNS == 0;
}

/* scheduler_wait.c */
/* after a claim from afar */
ASTHRA__FN void asthra__wait_end(Asthra__Wait *w, AsthraStatus outcome);
ASTHRA__FN void asthra__wait_switched(Asthra__Worker *ours, Asthra__Wait *w);
ASTHRA__FN bool asthra__cancel_is_pending(const Asthra__Task *t); /* cancelled, not masked */
ASTHRA__FN bool asthra__cancel_observe(Asthra__Task *t); /* the same, and t knows; NULL: false */

/* scheduler_idle.c */
ASTHRA__FN Asthra__Runnable *asthra__idle(Asthra__Worker *w); /* NULL: the workers leave */
/* If somebody has no work: shares what w has, w's own call, and notifies. */
ASTHRA__FN void asthra__feed(Asthra__Scheduler *g, Asthra__Worker *w);
ASTHRA__FN void asthra__feed_slow(Asthra__Worker *w);
/* Deterministic mode, and nothing can run: to the next timer. False: there is none. */
ASTHRA__FN bool asthra__advance_virtual_time(Asthra__Scheduler *g, Asthra__Worker *w);
ASTHRA__FN bool asthra__drain_is_quiescent(Asthra__Scheduler *g); /* makes shutdown go on */
ASTHRA__FN void asthra__notify(void); /* there is new work for anybody */
ASTHRA__FN void asthra__notify_worker(Asthra__Worker *w);
ASTHRA__FN void asthra__notify_all(void);
ASTHRA__FN Asthra__Runnable *asthra__take_from_main(Asthra__Worker *w); /* while it is away */
ASTHRA__FN bool asthra__work_exists(Asthra__Scheduler *g, Asthra__Worker *w);
/* Has the turn lasted, and does somebody wait? */
ASTHRA__FN bool asthra__safepoint_is_due(Asthra__Worker *w);
/* Something waits that no idle worker may see: loops look at their safepoints from here on. */
static inline void asthra__safepoint_ask(void) {
    if (ASTHRA__UNLIKELY(!__atomic_load_n(&asthra_safepoint_word, __ATOMIC_RELAXED)))
        __atomic_store_n(&asthra_safepoint_word, 1u, __ATOMIC_RELAXED);
}

/* scheduler_outside.c */
ASTHRA__FN void asthra__outside_set_poller(const Asthra__Poller *p); /* to the runtime's end */
/* A wait that the poller will complete: before it is published, and once it is over. */
ASTHRA__FN void asthra__outside_begin(void);
ASTHRA__FN void asthra__outside_end(void);
static inline bool asthra__outside_is_awaited(Asthra__Scheduler *g) {
    return asthra__load(&g->outside, seq_cst) != 0;
}
ASTHRA__FN bool asthra__outside_poll(Asthra__Scheduler *g); /* without waiting; did it help? */
/* Of the watcher, whose word says ASLEEP. True: the caller delivers, once it counts as awake. */
ASTHRA__FN bool asthra__outside_sleep(Asthra__Scheduler *g, Asthra__Worker *w, int64_t left_ns);
ASTHRA__FN void asthra__outside_deliver(Asthra__Scheduler *g);

/* scheduler_host.c */
ASTHRA__FN Asthra__Worker *asthra__main_worker(Asthra__Scheduler *g);
/* w is main's, which hosts: it is not among those who lie down. */
static inline bool asthra__is_uncounted(Asthra__Scheduler *g, const Asthra__Worker *w) {
    return (uint32_t)w->number >= asthra__load(&g->worker_count, relaxed);
}
ASTHRA__FN void asthra__host_tell(Asthra__Scheduler *g); /* main has work, if its loop asked */
ASTHRA__FN void asthra__host_tell_if_alone(Asthra__Scheduler *g);
ASTHRA__FN Asthra__Runnable *asthra__host_item(Asthra__Worker *w); /* NULL: back to the host */
ASTHRA__FN size_t asthra__host_poll(Asthra__Seat *s, int64_t budget_ns); /* how many turns it ran */
ASTHRA__FN int64_t asthra__host_deadline(void);                          /* INT64_MAX: none */
ASTHRA__FN int asthra__host_fd(void);                                    /* -1: the reason is set */

/* scheduler_timer.c */
ASTHRA__FN bool asthra__timer_add(Asthra__Worker *w, Asthra__Wait *wait); /* false: no memory */
ASTHRA__FN void asthra__timer_remove(Asthra__Wait *wait);
ASTHRA__FN bool asthra__timers_run(Asthra__Worker *w, int64_t now_ns); /* did anything fire? */
ASTHRA__FN int64_t asthra__timers_earliest(void); /* over all workers; INT64_MAX: none */

/* scheduler_report.c */
#define ASTHRA__LOOK_AGAIN_NS ASTHRA_SECONDS(1) /* whether all are asleep; see scheduler_idle.c */
ASTHRA__FN void asthra__report_setup(void);
ASTHRA__FN void asthra__report_teardown(void);
ASTHRA__FN bool asthra__all_are_asleep(void); /* only waiting tasks, and nothing can end a wait */
ASTHRA__FN bool asthra__rest_is_total(void);  /* no worker runs or holds anything */
ASTHRA__FN void asthra__report_asleep(void);  /* prints who waits on what */
/* after shutdown's time: what still stands; is_still: and nothing of it can run any more */
ASTHRA__FN void asthra__report_standing(bool is_still);

/* task.c, declared here because the scheduler runs what they made */
/* is_alone: nobody but an awaiter that called it in place can know of t. */
ASTHRA__FN void asthra__task_end(Asthra__Seat *s, Asthra__Task *t, AsthraTaskState how, void *value,
                                 bool is_alone);
ASTHRA__FN Asthra__Task *asthra__task_at(uint32_t index);
ASTHRA__FN uint64_t asthra__task_bits(const Asthra__Task *t);
ASTHRA__FN void asthra__task_cancel_parked(void); /* every one that waits */
/* Those that wait or yield just now. False: all had been cancelled before. */
ASTHRA__FN bool asthra__task_cancel_idle(void);
ASTHRA__FN void asthra__task_flush(Asthra__Seat *s); /* gives a seat's free descriptors back */
ASTHRA__FN void asthra__task_teardown(void);
ASTHRA__FN uint64_t asthra__task_unfinished(void);

#endif

/* ---- [scheduler] body ------------------------------------------- concurrency/scheduler.c ---- */
/* scheduler - workers, run queues, waiting and waking.                     [scheduler] body
 *
 * The picture. A worker is a seat for one OS thread: it owns queues, timers and idle stacks. Its
 * loop runs on a pool stack and calls each new task as a function on that stack. A task that waits
 * keeps the stack, loop frame below it included; the worker goes on with the fiber it must run
 * next, or with an idle loop on another stack. When the task ends, it returns into the loop frame
 * at the base of its stack, which goes on as the loop of whichever worker runs it by then.
 *
 *     loop --calls--> task --awaits--> child in place --waits-->  [stack is parked]
 *
 * Rules that keep this sound
 *   - A worker that runs a task always has at least one idle loop in store, so that waiting never
 *     needs memory: a new task is not started before that is so.
 *   - What is to be done for the stack that was left (give a lock back, mark a word, cache it) is
 *     done by whoever arrives, on the same thread, through the worker's `leaving`: until then
 *     nobody else can resume it.
 *   - After a switch everything about the current thread is asked for again: the fiber may have
 *     moved. Pointers to the fiber and the task stay good.
 *   - An OS thread's own stack (main's, or the base of a worker thread) is bound to its worker.
 *   - A task with a stack size of its own, and under ThreadSanitizer every task, gets a single-use
 *     fiber whose loop runs that task and then gives way.
 */

#if ASTHRA_HAS_TASK

#include <string.h>

enum { ASTHRA__SPARES_MOST = 64, ASTHRA__SPARES_BATCH = 16 };

static Asthra__Scheduler asthra__scheduler_record;

ASTHRA__FN Asthra__Scheduler *asthra__scheduler(void) {
    return &asthra__scheduler_record;
}
ASTHRA__FN ASTHRA__FAST bool asthra__is_deterministic(void) {
    return asthra__load(&asthra__scheduler_record.is_deterministic, relaxed);
}

/* ---- seats ---- */

/* What a seat of this runtime has; a fresh one has 0. */
static inline uint32_t asthra__epoch(void) {
    return asthra__load(&asthra__scheduler_record.epoch, relaxed) + 1;
}

ASTHRA__FN void asthra__epoch_next(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint32_t next = asthra__load(&g->epoch, relaxed) + 1;
    asthra__store(&g->epoch, next == UINT32_MAX ? 0 : next, relaxed);
}

static Asthra__Seat *asthra__seat_of(Asthra__Thread *t) {
    return (Asthra__Seat *)(void *)t->scheduler;
}

ASTHRA__FN Asthra__Seat *asthra__seat_if_any(void) {
    Asthra__Thread *t = asthra__thread_if_attached();
    if (t == NULL) return NULL;
    Asthra__Seat *s = asthra__seat_of(t);
    return s->epoch == asthra__epoch() ? s : NULL;
}

/* A thread ends: its descriptors and its counts are kept. The lock keeps a shutdown, which counts
 * the epoch up under it, from taking the descriptors away meanwhile. */
static void asthra__seat_leave(Asthra__Thread *t) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Seat *s = asthra__seat_of(t);
    if (s->epoch == 0) return;
    asthra__lock(&g->seats_lock);
    if (s->epoch != asthra__epoch()) {
        asthra__unlock(&g->seats_lock);
        return;
    }
    asthra__task_flush(s);
    g->spawned_before += asthra__load(&s->spawned, relaxed);
    g->ended_before += asthra__load(&s->ended, relaxed);
    *s->link = s->next;
    if (s->next != NULL) s->next->link = s->link;
    if (g->main_seat == s) g->main_seat = NULL;
    asthra__unlock(&g->seats_lock);
    s->epoch = 0;
}

ASTHRA__FN Asthra__Seat *asthra__seat_setup(Asthra__Worker *w) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Thread *t = asthra__thread();
    Asthra__Seat *s = asthra__seat_of(t);
    memset(s, 0, sizeof *s);
    s->thread = t;
    s->worker = w;
    s->fiber = &s->root;
    s->random_state = asthra__os_entropy() | 1;
    if (w != NULL) {
        asthra__fiber_bind(&s->root, w->number);
        w->seat = s;
        w->now_ns = asthra__os_now_ns();
    }
    asthra__thread_on_detach(asthra__seat_leave);
    asthra__lock(&g->seats_lock);
    s->next = g->seats;
    s->link = &g->seats;
    if (s->next != NULL) s->next->link = &s->next;
    g->seats = s;
    asthra__unlock(&g->seats_lock);
    s->epoch = asthra__epoch();
    return s;
}

/* A thread that does not belong to the running runtime calls it. */
ASTHRA__COLD static Asthra__Seat *asthra__seat_join(Asthra__Thread *t) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (asthra__load(&g->phase, acquire) == ASTHRA__PHASE_NONE) {
#if ASTHRA_HAS_AUTO_INIT
        Asthra__SchedulerConfig c = asthra__scheduler_defaults();
        bool is_first = asthra__scheduler_start(&c);
        if (asthra__load(&g->phase, acquire) == ASTHRA__PHASE_NONE) {
            asthra__panic_with(NULL, 0, asthra_result_message(asthra_last_error()));
        }
        if (!is_first) asthra__error_clear(); /* another thread was, and that will do too */
#else
        asthra__panic_with(NULL, 0,
                           "the runtime is used before asthra_runtime_init "
                           "(ASTHRA_RT_NO_AUTO_INIT is defined)");
#endif
    }
    if (asthra__seat_of(t)->epoch != asthra__epoch()) asthra__seat_setup(NULL);
    return asthra__seat_of(t);
}

ASTHRA__FN Asthra__Seat *asthra__seat(void) {
    Asthra__Thread *t = asthra__thread();
    Asthra__Seat *s = asthra__seat_of(t);
    if (ASTHRA__UNLIKELY(s->epoch != asthra__epoch())) {
        return asthra__seat_join(t);
    }
    return s;
}

/* ---- small things that everybody asks ---- */

ASTHRA__FN uint32_t asthra__random(uint32_t bound) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint64_t *state = asthra__is_deterministic() ? &g->random_state : &asthra__seat()->random_state;
    uint64_t x = *state; /* xorshift64* (Vigna, 2016); the high half is multiplied into the range */
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return (uint32_t)(((x * UINT64_C(2685821657736338717)) >> 32) * bound >> 32);
}

ASTHRA__COLD static void asthra__turn_slow(void) {
    if (asthra__seat()->worker != NULL && asthra__random(4) == 0) asthra_yield();
}

ASTHRA__FN ASTHRA__FAST void asthra__turn(void) {
    if (ASTHRA__UNLIKELY(asthra__is_deterministic())) asthra__turn_slow();
}

ASTHRA__FN int64_t asthra__now_ns(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    bool runs = asthra__load(&g->phase, acquire) != ASTHRA__PHASE_NONE; /* partner: start */
    return runs && asthra__is_deterministic() ? g->virtual_ns : asthra__os_now_ns();
}

ASTHRA__FN int64_t asthra__deadline(int64_t timeout_ns) {
    int64_t now = asthra__now_ns();
    if (timeout_ns < 0 || timeout_ns >= INT64_MAX - now) return INT64_MAX - 1;
    return now + timeout_ns;
}

ASTHRA__FN bool asthra__tier_is_on(int tier) {
    static const char *const fields[] = {"", "enable_tier1_concurrency", "enable_tier2_concurrency",
                                         "enable_tier3_concurrency"};
    const Asthra__Seat *s = asthra__seat();
    const bool *is_on = asthra__scheduler_record.config.tier_is_on;
    bool is_external = s->worker == NULL && !s->is_main;
    if (is_on[tier] && is_external) tier = 3;
    if (is_on[tier]) return true;
    asthra__error_set(ASTHRA_INVALID, "%s is false in the runtime's configuration", fields[tier]);
    return false;
}

ASTHRA__FN uint64_t asthra__current_id(void) {
    Asthra__Seat *s = asthra__seat_if_any();
    return s == NULL || s->task == NULL ? 0 : asthra__task_bits(s->task);
}

ASTHRA__FN const char *asthra__who(char *out, size_t room) {
    Asthra__Text t = asthra__text_on(out, room);
    uint64_t id = asthra__current_id();
    if (id != 0) {
        asthra__text_format(&t, "task %llu", (unsigned long long)id);
    } else {
        asthra__text_add(&t, "thread");
    }
    return out;
}

/* ---- leaving a stack ---- */

static Asthra__Fiber *asthra__spare_pop(Asthra__Worker *w) {
    Asthra__Fiber *f = w->spare;
    Asthra__Runnable *next = f->runnable.next;
    w->spare = next == NULL ? NULL : ASTHRA__CONTAINER(Asthra__Fiber, runnable, next);
    w->spare_count--;
    return f;
}

static void asthra__spare_push(Asthra__Worker *w, Asthra__Fiber *f) {
    f->runnable.next = w->spare == NULL ? NULL : &w->spare->runnable;
    w->spare = f;
    w->spare_count++;
}

/* Half of the store goes back to all. */
ASTHRA__COLD static void asthra__spare_give(Asthra__Worker *w) {
    Asthra__Fiber *list = NULL;
    while (w->spare_count > ASTHRA__SPARES_MOST / 2) {
        Asthra__Fiber *f = asthra__spare_pop(w);
        f->runnable.next = list == NULL ? NULL : &list->runnable;
        list = f;
    }
    asthra__fiber_give(list);
}

/* Makes sure of one idle loop. */
ASTHRA__FN bool asthra__spare_ensure(Asthra__Worker *w) {
    if (ASTHRA__LIKELY(w->spare != NULL)) return true;
    uint32_t got = 0;
    Asthra__Fiber *list = asthra__fiber_take(w->number < 0 ? 1 : ASTHRA__SPARES_BATCH, &got);
    w->spare = list;
    w->spare_count = got;
    return got > 0;
}

/* A loop has a region only where a hook of the program allocated from the stack zone in it. */
ASTHRA__COLD static void asthra__drop_stack(Asthra__Fiber *left) {
    asthra__stack_drop(left->stack);
    left->stack = NULL;
}

/* Does what the stack that was just left asked for. First act after every switch. */
static void asthra__arrived(const Asthra__Seat *s) {
    Asthra__Worker *w = s->worker;
    Asthra__Leaving leaving = w->leaving;
    Asthra__Fiber *left = w->left;
    w->leaving = ASTHRA__LEFT_NOTHING;
    switch (leaving) {
    case ASTHRA__LEFT_NOTHING: break;
    case ASTHRA__LEFT_HOLDING: asthra__unlock(w->left_wait->held); break;
    case ASTHRA__LEFT_WAITING: asthra__wait_switched(w, w->left_wait); break;
    case ASTHRA__LEFT_READY: asthra__runnable_fiber(w, left, false); break;
    case ASTHRA__LEFT_DEAD:
        if (ASTHRA__UNLIKELY(left->stack != NULL)) asthra__drop_stack(left);
        asthra__fiber_destroy(left);
        break;
    case ASTHRA__LEFT_IDLE:
        if (ASTHRA__UNLIKELY(left->stack != NULL)) asthra__drop_stack(left);
        if (ASTHRA__UNLIKELY(w->spare_count >= ASTHRA__SPARES_MOST)) asthra__spare_give(w);
        asthra__spare_push(w, left);
        break;
    }
}

/* Goes on in `to`; comes back when somebody resumes the caller's fiber, with the seat by then. */
static Asthra__Seat *asthra__go_to(Asthra__Seat *s, Asthra__Fiber *to, Asthra__Leaving how) {
    Asthra__Fiber *from = s->fiber;
    from->task = s->task;
    from->stack = s->thread->stack;
    from->saved_errno = *s->thread->errno_place;
    s->worker->leaving = how;
    s->worker->left = from;
    s->fiber = to;
    s->task = to->task;
    s->thread->stack = to->stack;
    asthra__fiber_switch(from, to, how == ASTHRA__LEFT_DEAD);
    s = asthra__seat();
    asthra__arrived(s);
    *s->thread->errno_place = from->saved_errno;
    return s;
}

ASTHRA__FN Asthra__Seat *asthra__leave(Asthra__Seat *s, Asthra__Leaving how, Asthra__Wait *wait) {
    Asthra__Worker *w = s->worker;
    bool is_root = s->fiber == &s->root;
    w->left_wait = wait;
    if (is_root) asthra__store(&w->is_outside, 0u, relaxed);
    /* The turn that runs timers is the loop's: we may still hold a lock that a timer wants. */
    bool is_for_loop =
        asthra__is_fair_turn(w->turns + 1) || w->is_hosted || asthra__load(&w->only_bound, relaxed);
    Asthra__Runnable *item = is_for_loop ? NULL : asthra__pick(w);
    if (item != NULL && item->is_fiber) {
        s = asthra__go_to(s, asthra__fiber_of(item), how);
    } else {
        w->assigned = item;
        s = asthra__go_to(s, asthra__spare_pop(w), how);
    }
    if (is_root) asthra__store(&w->is_outside, 1u, relaxed);
    return s;
}

/* ---- running ---- */

/* What a task calls stops here when it panics: see asthra__report_setup. */
static void *asthra__call_task(Asthra__Fiber *f, Asthra__Task *t, bool is_in_place) {
    Asthra__SwapContext *outer = f->escape;
    void *value = asthra__swap_call(t->function, t->value, &f->escape, !is_in_place);
    f->escape = outer;
    return value;
}

/* The stack zone's region of what ran here goes: t's, or what a hook left to the loop before it. */
static ASTHRA__FAST Asthra__Seat *asthra__end_stack(Asthra__Seat *s, bool has_failed) {
    if (ASTHRA__LIKELY(s->thread->stack == NULL)) return s;
    asthra__stack_end(has_failed);
    return asthra__seat(); /* it may have called hooks */
}

/* Runs t on the fiber we stand on, from its beginning to its end; returns the seat by then. */
static ASTHRA__FAST Asthra__Seat *asthra__run(Asthra__Seat *s, Asthra__Task *t, bool is_in_place) {
    Asthra__Fiber *f = s->fiber; /* it ends on the stack it begins on */
    if (ASTHRA__UNLIKELY(asthra__load(&t->word, acquire) & ASTHRA__TASK_CANCEL)) {
        asthra__task_end(s, t, ASTHRA_TASK_CANCELLED, NULL, false);
        return s;
    }
    asthra__store(&t->marks, (uint8_t)(asthra__load(&t->marks, relaxed) | ASTHRA__TASK_STARTED),
                  relaxed);
    if (!is_in_place) s = asthra__end_stack(s, false);
    f->task = s->task = t;
    void *value = asthra__call_task(f, t, is_in_place); /* a loop keeps the default control words */
    s = asthra__seat();
    AsthraTaskState how = ASTHRA_TASK_COMPLETED;
    uint8_t marks = asthra__load(&t->marks, relaxed);
    if (ASTHRA__UNLIKELY(marks & (ASTHRA__TASK_SAW_CANCEL | ASTHRA__TASK_FORKED))) {
        if (marks & ASTHRA__TASK_FORKED) {
            asthra_panic_at(NULL,
                            "task '%s' forked and now returns in the child, where its runtime "
                            "is gone: end the child in the task, with _exit or exec",
                            t->name);
        }
        how = ASTHRA_TASK_CANCELLED;
    }
    if (ASTHRA__UNLIKELY(f->has_failed)) how = ASTHRA_TASK_FAILED;
    f->has_failed = false;
    f->task = s->task = NULL;
    s = asthra__end_stack(s, how == ASTHRA_TASK_FAILED);
    asthra__task_end(s, t, how, value, is_in_place && !(marks & ASTHRA__TASK_ESCAPED));
    return s;
}

/* The caller, a task or a thread outside tasks, stands on this stack and awaits t, which nobody
 * else can start any more. */
ASTHRA__FN Asthra__Seat *asthra__run_in_place(Asthra__Seat *s, Asthra__Task *t) {
    Asthra__Fiber *f = s->fiber;
    Asthra__Task *below = s->task;
    struct Asthra__StackRegion *stack_below = s->thread->stack;
    int errno_below = *s->thread->errno_place;
    s->thread->stack = NULL;
    s = asthra__run(s, t, true);
    f->task = s->task = below;
    s->thread->stack = stack_below;
    *s->thread->errno_place = errno_below;
    return s;
}

/* A task with a priority or an affinity: the fiber takes them over while it carries the task. */
static void asthra__run_ranked(Asthra__Seat *s, Asthra__Task *t) {
    Asthra__Fiber *f = s->fiber;
    f->runnable.priority = t->runnable.priority;
    f->bound_to = t->affinity - 1;
    asthra__run(s, t, false);
    f->runnable.priority = 0;
    f->bound_to = -1;
}

ASTHRA__FN size_t asthra__own_stack(const Asthra__Task *t) {
    uint8_t marks = asthra__load(&t->marks, relaxed);
    size_t wanted = marks & ASTHRA__TASK_EXTRA ? t->extra->stack_bytes : 0;
    if (wanted > asthra__fiber_default_bytes() / 2) return wanted * 2;
    return ASTHRA__TSAN ? asthra__fiber_default_bytes() : 0;
}

/* No stack for t. One that was cancelled needs none; another is tried again when others have ended
 * or a timer has fired. Where as many in a row had none as there are, nobody else will end: time
 * must go on, or it is the last straw. While shutdown waits, it cancels those that hold the stacks;
 * how long it waits for them is its own. */
ASTHRA__COLD static void asthra__run_later(Asthra__Scheduler *g, Asthra__Seat *s, Asthra__Task *t) {
    Asthra__Worker *w = s->worker;
    if (asthra__load(&t->word, acquire) & ASTHRA__TASK_CANCEL) {
        asthra__run(s, t, false);
        return;
    }
    w->starved = w->starved_turn == w->turns - 1 ? w->starved + 1 : 1;
    w->starved_turn = w->turns;
    bool is_stuck = asthra__ring_count(&w->ring) == 0 && asthra__load(&w->next, relaxed) == NULL &&
                    w->starved > asthra__load(&g->global.count, relaxed);
    bool is_last = is_stuck && asthra__load(&g->phase, acquire) == ASTHRA__PHASE_RUNNING;
    if (is_stuck && !is_last) asthra__drain_is_quiescent(g);
    if (is_stuck && !asthra__advance_virtual_time(g, w) && is_last &&
        asthra__load(&w->timers.earliest_ns, relaxed) == INT64_MAX) {
        size_t own = asthra__own_stack(t);
        asthra_panic_at(NULL,
                        "out of memory: no stack for the next task, '%s' of %zu KiB; lower "
                        "stack_size, spawn fewer tasks at once, or raise the memory limit",
                        t->name, (own != 0 ? own : asthra__fiber_default_bytes()) / 1024);
    }
    asthra__list_push(&g->global, &t->runnable);
}

/* Starts t on this stack, or on one of its own. */
static void asthra__start(Asthra__Seat *s, Asthra__Task *t) {
    Asthra__Worker *w = s->worker;
    size_t own_stack = s->fiber->is_single ? 0 : asthra__own_stack(t);
    if (ASTHRA__UNLIKELY(!asthra__spare_ensure(w))) {
        asthra__run_later(asthra__scheduler(), s, t);
    } else if (ASTHRA__UNLIKELY(own_stack != 0)) {
        Asthra__Fiber *f = asthra__fiber_create(own_stack);
        if (f == NULL) {
            asthra__run_later(asthra__scheduler(), s, t);
            return;
        }
        f->is_single = true;
        w->assigned = &t->runnable;
        asthra__go_to(s, f, ASTHRA__LEFT_IDLE);
    } else if (ASTHRA__UNLIKELY(t->affinity != 0 || t->runnable.priority != 0)) {
        asthra__run_ranked(s, t);
    } else {
        asthra__run(s, t, false);
    }
}

/* What the loop does next: NULL when the workers leave, or main its poll. */
static Asthra__Runnable *asthra__next_item(Asthra__Worker *w) {
    Asthra__Runnable *item = w->assigned;
    w->assigned = NULL;
    if (item == NULL && w->is_hosted) return asthra__host_item(w);
    if (item == NULL && asthra__is_fair_turn(w->turns + 1) && /* a yielder comes by here */
        asthra__load(&asthra__scheduler()->phase, acquire) == ASTHRA__PHASE_STOPPED) {
        return NULL;
    }
    if (item == NULL) {
        bool is_bound = asthra__load(&w->only_bound, relaxed);
        item = is_bound ? asthra__ranked_pop(&w->bound) : asthra__pick(w);
    }
    return item != NULL ? item : asthra__idle(w);
}

/* The entry of every pool fiber. */
ASTHRA__FN void asthra__loop(void *unused) {
    (void)unused;
    asthra__fiber_arrive(asthra__seat()->fiber);
    asthra__arrived(asthra__seat());
    for (;;) {
        Asthra__Seat *s = asthra__seat();
        bool is_single = s->fiber->is_single && s->worker->assigned == NULL;
        if (is_single) { /* its task has ended */
            asthra__spare_ensure(s->worker);
            asthra__go_to(s, asthra__spare_pop(s->worker), ASTHRA__LEFT_DEAD);
        }
        Asthra__Runnable *item = asthra__next_item(s->worker);
        s = asthra__seat();
        if (item == NULL) {
            asthra__go_to(s, &s->root, ASTHRA__LEFT_IDLE);
        } else if (item->is_fiber) {
            asthra__go_to(s, asthra__fiber_of(item), ASTHRA__LEFT_IDLE);
        } else {
            asthra__start(s, ASTHRA__CONTAINER(Asthra__Task, runnable, item));
        }
    }
}

ASTHRA__FN Asthra__Seat *asthra__worker_enter(Asthra__Seat *s) {
    Asthra__Worker *w = s->worker;
    if (!asthra__spare_ensure(w)) return s;
    return asthra__go_to(s, asthra__spare_pop(w), ASTHRA__LEFT_NOTHING);
}

#endif

/* ---- [scheduler] body ------------------------------------- concurrency/scheduler_start.c ---- */
/* scheduler - threads, start and stop.                                     [scheduler] body: start
 *
 * Start and stop. The first seat that is asked for starts the record; the first spawn starts the
 * threads. A start counts the epoch up, and a seat of an older epoch sets itself up again. In a
 * forked child the record is forgotten, not freed: other threads' halves of it cannot be trusted.
 *
 * The thread that starts the runtime sits on worker 0 if it helps. It takes part only while it
 * waits in a call of ours, so between its calls its queues can be stolen from but nothing runs
 * there. With a single worker that would let a plain thread wait for ever; when a plain thread
 * makes work or waits there, a relief thread is started, and from then on worker 0 runs only what
 * is bound to it.
 *
 * Stop has two phases. Queued and running tasks end by themselves: the first is over when nothing
 * can run. Then those that are parked are cancelled, and the second waits for them for as long as
 * the configuration says. Whatever still stands is told by name and left where it is.
 */

#if ASTHRA_HAS_TASK

#include <string.h>

enum { ASTHRA__THREAD_STACK = 64 * 1024, ASTHRA__DRAIN_TURNS = 1 << 20 };

/* ---- threads ---- */

#if ASTHRA_HAS_THREADS
static void *asthra__worker_main(void *argument) {
    Asthra__Worker *w = argument;
    Asthra__Thread *t = asthra__thread();
    asthra__os_fault_stack_enter(&t->fault_stack);
    asthra__worker_enter(asthra__seat_setup(w));
    asthra__os_fault_stack_leave(t->fault_stack);
    t->fault_stack = NULL;
    Asthra__Scheduler *g = asthra__scheduler();
    asthra__add(&g->left, 1u, release);
    asthra__os_wake(&g->left, 1);
    return NULL;
}

static bool asthra__man_one(Asthra__Worker *w) {
    char name[16];
    Asthra__Text t = asthra__text_on(name, sizeof name);
    if (!asthra__spare_ensure(w)) return false;
    asthra__text_format(&t, "asthra-%d", w->number);
    w->has_thread =
        asthra__os_thread_start(&w->thread, ASTHRA__THREAD_STACK, asthra__worker_main, w, name);
    return w->has_thread;
}

/* Starts the threads of workers that have none, up to `count` workers. */
ASTHRA__COLD static bool asthra__man_slow(Asthra__Scheduler *g) {
    bool is_good = true;
    asthra__lock(&g->start_lock);
    uint32_t manned = asthra__load(&g->manned, relaxed);
    for (; is_good && manned < asthra__load(&g->worker_count, acquire); manned++) {
        Asthra__Worker *w = &g->workers[manned];
        bool is_main = manned == 0 && g->config.main_helps;
        is_good = is_main || asthra__man_one(w);
        if (is_good) asthra__store(&g->manned, manned + 1, release);
    }
    asthra__unlock(&g->start_lock);
    if (!is_good) {
        asthra__error_set(ASTHRA_OUT_OF_MEMORY, "the system refused worker %u of %u", manned,
                          asthra__load(&g->worker_count, acquire));
    }
    return is_good;
}
#else
ASTHRA__COLD static bool asthra__man_slow(Asthra__Scheduler *g) {
    asthra__store(&g->manned, 1u, relaxed);
    return true;
}
#endif

/* A plain thread makes work, or waits, beside a single worker that is the main thread's. */
ASTHRA__COLD static bool asthra__relieve_main(Asthra__Scheduler *g) {
#if ASTHRA_HAS_THREADS
    asthra__lock(&g->start_lock);
    bool is_good = asthra__load(&g->worker_count, acquire) == 2;
    if (!is_good && asthra__man_one(&g->workers[1])) {
        asthra__store(&g->workers[0].only_bound, 1u, relaxed);
        asthra__store(&g->queue_count, 2u, release);
        asthra__store(&g->worker_count, 2u, release);
        asthra__store(&g->manned, 2u, release);
        is_good = true;
    }
    asthra__unlock(&g->start_lock);
    if (!is_good) {
        asthra__error_set(ASTHRA_OUT_OF_MEMORY, "the system refused a thread to work beside main, "
                                                "which is the single worker");
    }
    return is_good;
#else
    (void)g;
    return true;
#endif
}

ASTHRA__FN bool asthra__scheduler_relieve(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (!(asthra__load(&g->rare, acquire) & ASTHRA__RARE_RELIEF)) return true;
    if (!asthra__relieve_main(g)) return false;
    asthra__and(&g->rare, ~(uint32_t)ASTHRA__RARE_RELIEF, release);
    return true;
}

ASTHRA__FN bool asthra__scheduler_man(const Asthra__Seat *s) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint32_t rare = asthra__load(&g->rare, acquire);
    if (rare & ASTHRA__RARE_UNMANNED) {
        if (!asthra__man_slow(g)) return false;
        asthra__and(&g->rare, ~(uint32_t)ASTHRA__RARE_UNMANNED, release);
    }
    return s->worker != NULL || asthra__scheduler_relieve();
}

/* ---- start and stop ---- */

ASTHRA__FN Asthra__SchedulerConfig asthra__scheduler_defaults(void) {
    Asthra__SchedulerConfig c;
    memset(&c, 0, sizeof c);
    c.main_helps = true;
    c.spins = true;
    c.tier_is_on[1] = c.tier_is_on[2] = c.tier_is_on[3] = true;
    c.shutdown_timeout_ns = ASTHRA_SECONDS(5);
    return c;
}

/* One block, aligned to line pairs. */
static bool asthra__workers_create(Asthra__Scheduler *g, unsigned count) {
    size_t bytes = sizeof(Asthra__Worker) * count + ASTHRA__CACHE_PAIR;
    g->workers_block = asthra__alloc_zeroed(1, bytes);
    if (g->workers_block == NULL) return false;
    uintptr_t start = (uintptr_t)g->workers_block + ASTHRA__CACHE_PAIR - 1;
    g->workers = (Asthra__Worker *)(start - start % ASTHRA__CACHE_PAIR);
    for (unsigned i = 0; i < count; i++) {
        Asthra__Worker *w = &g->workers[i];
        w->number = (int)i;
        asthra__store(&w->timers.earliest_ns, INT64_MAX, relaxed);
        if (!asthra__deque_init(&w->deque)) return false;
    }
    return true;
}

static void asthra__workers_destroy(Asthra__Scheduler *g) {
    if (g->workers_block == NULL) return;
    for (unsigned i = 0; i < g->workers_made; i++) {
        asthra__deque_destroy(&g->workers[i].deque);
        asthra__free(g->workers[i].timers.heap);
    }
    asthra__free(g->workers_block);
    g->workers_block = NULL;
}

/* The child of a fork: as before init, and nothing of the parent's is touched. */
static void asthra__scheduler_forget(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    size_t kept = offsetof(Asthra__Scheduler, config);
    memset((char *)g + kept, 0, sizeof *g - kept);
    asthra__fiber_forget();
    __atomic_store_n(&asthra_safepoint_word, 0u, __ATOMIC_RELAXED);
    asthra__store(&g->phase, (uint32_t)ASTHRA__PHASE_NONE, release);
}

/* From here on no thread belongs to this runtime; those that end keep off it. */
static void asthra__seats_dismiss(Asthra__Scheduler *g) {
    asthra__lock(&g->seats_lock);
    asthra__epoch_next();
    g->seats = NULL;
    asthra__unlock(&g->seats_lock);
}

/* Nobody waits for the outside any more, and main's loop hears of nothing. */
static void asthra__scheduler_turn_inward(Asthra__Scheduler *g, bool is_child) {
    const Asthra__Poller *p = asthra__load(&g->poller, relaxed);
    if (p != NULL) p->end(is_child);
    if (asthra__load(&g->has_signal, relaxed)) asthra__os_signal_close(g->host_signal);
}

static void asthra__scheduler_after_fork(void) {
    asthra__sync_fork_child();
    asthra__table_after_fork();
    Asthra__Seat *s = asthra__seat_if_any();
    if (s != NULL && s->task != NULL) {
        uint8_t marks = asthra__load(&s->task->marks, relaxed);
        asthra__store(&s->task->marks, (uint8_t)(marks | ASTHRA__TASK_FORKED), relaxed);
    }
    asthra__store(&asthra__scheduler()->seats_lock.word, 0, relaxed);
    asthra__seats_dismiss(asthra__scheduler());
    asthra__scheduler_turn_inward(asthra__scheduler(), true);
    asthra__scheduler_forget();
}

static unsigned asthra__count_workers(const Asthra__SchedulerConfig *c) {
    if (c->seed != 0 || !ASTHRA_HAS_THREADS) return 1;
    return c->workers != 0 ? c->workers : asthra__os_cores();
}

static bool asthra__start_locked(Asthra__Scheduler *g, const Asthra__SchedulerConfig *c) {
    g->config = *c;
    g->config.main_helps = c->main_helps || c->seed != 0 || !ASTHRA_HAS_THREADS;
    asthra__store(&g->worker_count, asthra__count_workers(c), release);
    bool is_lone = g->config.main_helps && asthra__count_workers(c) == 1 && c->seed == 0;
    uint32_t rare = ASTHRA__RARE_UNMANNED;
    if (is_lone && ASTHRA_HAS_THREADS) rare |= ASTHRA__RARE_RELIEF;
    if (c->max_tasks != 0) rare |= ASTHRA__RARE_LIMIT;
    if (!c->tier_is_on[1] || !c->tier_is_on[3]) rare |= ASTHRA__RARE_TIER;
    asthra__store(&g->rare, rare, relaxed);
    bool is_hosted = !g->config.main_helps; /* the last one is main's */
    g->workers_made = asthra__count_workers(c) + (is_lone || is_hosted ? 1 : 0);
    asthra__store(&g->queue_count, asthra__count_workers(c) + (is_hosted ? 1 : 0), release);
    asthra__store(&g->is_deterministic, c->seed != 0, relaxed);
    g->random_state = c->seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    g->virtual_ns = 0;
    if (c->seed != 0) asthra__safepoint_ask(); /* a seed counts safepoints, from the first on */
    asthra__sync_setup();
    if (!g->has_fork_hook) asthra__os_on_fork(NULL, NULL, asthra__scheduler_after_fork);
    g->has_fork_hook = true;
    size_t stack = c->stack_bytes != 0 ? c->stack_bytes : (sizeof(void *) == 8 ? 256u : 64u) * 1024;
    asthra__fiber_setup(stack, asthra__loop);
    if (!asthra__workers_create(g, g->workers_made)) return false;
    if (g->config.main_helps && !asthra__spare_ensure(&g->workers[0])) return false;
    asthra__epoch_next();
    Asthra__Thread *t = asthra__thread();
    g->main_seat = asthra__seat_setup(g->config.main_helps ? &g->workers[0] : NULL);
    g->main_seat->is_main = true;
    if (is_hosted) asthra__fiber_bind(&g->main_seat->root, asthra__main_worker(g)->number);
    if (g->config.main_helps) asthra__store(&g->workers[0].is_outside, 1u, relaxed);
    asthra__os_fault_stack_enter(&t->fault_stack);
    asthra__report_setup();
    asthra__stack_set_owner(asthra__current_id);
    return true;
}

ASTHRA__FN bool asthra__scheduler_start(const Asthra__SchedulerConfig *c) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (!asthra__swap_is_allowed()) {
        asthra__error_set(ASTHRA_FAILED, "shadow stacks are on for this process: tasks need a "
                                         "program built without -fcf-protection=return");
        return false;
    }
    asthra__lock(&g->start_lock);
    bool is_first = asthra__load(&g->phase, relaxed) == ASTHRA__PHASE_NONE;
    bool is_good = is_first && asthra__start_locked(g, c);
    if (is_good) asthra__store(&g->phase, (uint32_t)ASTHRA__PHASE_RUNNING, release);
    if (is_first && !is_good) {
        asthra__fiber_teardown();
        asthra__workers_destroy(g);
    }
    asthra__unlock(&g->start_lock);
    if (is_first && !is_good) asthra__error_set(ASTHRA_OUT_OF_MEMORY, "no memory for the workers");
    if (!is_first) asthra__error_set(ASTHRA_INVALID, "the runtime is already running");
    return is_good;
}

ASTHRA__FN bool asthra__scheduler_is_running(void) {
    return asthra__load(&asthra__scheduler()->phase, acquire) == ASTHRA__PHASE_RUNNING;
}

/* There was no memory for the timer of that wait: gives others turns instead. Nobody tells when
 * nothing can run any more, so the first phase is short. */
ASTHRA__COLD static void asthra__drain_by_turns(bool is_first, int64_t timeout_ns) {
    int64_t start = asthra__os_now_ns();
    if (is_first && timeout_ns > ASTHRA_MS(10)) timeout_ns = ASTHRA_MS(10);
    while (asthra__task_unfinished() > 0 && asthra__os_now_ns() - start < timeout_ns)
        asthra_yield();
}

/* Waits, on the thread that shuts down, until every task has ended or, before everything was
 * cancelled, until nothing can run. False: the time was over before. */
static bool asthra__drain(Asthra__Scheduler *g, bool is_first, int64_t timeout_ns) {
    Asthra__Wait w = {.what = "shutdown", .held = &g->drain_lock, .is_firm = true};
    asthra__lock(&g->drain_lock);
    g->drain_quiescent = !is_first;
    Asthra__Parker *p = asthra__wait_open(&w);
    asthra__store(&g->drainer, p, seq_cst);
    if (asthra__task_unfinished() == 0 && asthra__wait_retract(&w)) {
        asthra__store(&g->drainer, (Asthra__Parker *)NULL, relaxed);
        asthra__unlock(&g->drain_lock);
        return true;
    }
    if (is_first) asthra__notify_all(); /* those at rest shall look at the drainer */
    AsthraStatus status = asthra__wait_park(&w, timeout_ns);
    asthra__lock(&g->drain_lock);
    asthra__store(&g->drainer, (Asthra__Parker *)NULL, relaxed);
    asthra__unlock(&g->drain_lock);
    if (ASTHRA__UNLIKELY(status == ASTHRA_OUT_OF_MEMORY))
        asthra__drain_by_turns(is_first, timeout_ns);
    return status == ASTHRA_OK;
}

/* Lets run what runs until nothing can. Tasks that keep one another going, or yield for ever, would
 * never come to that: each time that the time is over, those that wait just then are cancelled. */
static void asthra__drain_first(Asthra__Scheduler *g) {
    int64_t timeout_ns = g->config.shutdown_timeout_ns;
    if (timeout_ns >= 0 && timeout_ns < ASTHRA_MS(1)) timeout_ns = ASTHRA_MS(1);
    if (asthra__is_deterministic()) timeout_ns = ASTHRA_FOREVER; /* see asthra__drain_turn */
    while (asthra__task_unfinished() > 0 && !asthra__drain(g, true, timeout_ns)) {
        if (!asthra__task_cancel_idle()) return;
    }
}

static void asthra__drain_end(Asthra__Scheduler *g, AsthraStatus outcome) {
    asthra__lock(&g->drain_lock);
    Asthra__Parker *drainer = asthra__load(&g->drainer, relaxed);
    bool is_ours = drainer != NULL && asthra__wait_claim(drainer);
    if (is_ours) drainer->wait->outcome = outcome;
    asthra__unlock(&g->drain_lock);
    if (is_ours) asthra__wait_wake(drainer);
}

ASTHRA__FN void asthra__drain_check(void) {
    if (asthra__task_unfinished() == 0) asthra__drain_end(asthra__scheduler(), ASTHRA_OK);
}

/* Under a seed time stands still while anything can run, so there the limit is one of turns. */
ASTHRA__FN void asthra__drain_turn(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (++g->drain_turns % ASTHRA__DRAIN_TURNS == 0) asthra__drain_end(g, ASTHRA_TIMED_OUT);
}

/* Gives the workers that were told to stop a while to leave the tasks that still stand. */
static bool asthra__workers_have_left(Asthra__Scheduler *g) {
    int64_t end = asthra__os_now_ns() + ASTHRA_MS(200), now;
    uint32_t threads = 0, left;
    for (unsigned i = 0; i < asthra__load(&g->worker_count, acquire); i++) {
        threads += g->workers[i].has_thread;
    }
    while ((left = asthra__load(&g->left, acquire)) != threads) {
        if ((now = asthra__os_now_ns()) >= end) return false;
        asthra__os_wait(&g->left, left, end - now);
    }
    return true;
}

static void asthra__join_workers(Asthra__Scheduler *g) {
#if ASTHRA_HAS_THREADS
    for (unsigned i = 0; i < asthra__load(&g->worker_count, acquire); i++) {
        if (g->workers[i].has_thread) asthra__os_thread_join(g->workers[i].thread);
    }
#else
    (void)g;
#endif
}

/* What is bound to a main that hosts ends only if main runs it: it becomes a worker as others. */
static void asthra__host_join(Asthra__Scheduler *g, Asthra__Seat *s) {
    Asthra__Worker *w = asthra__main_worker(g);
    if (!asthra__load(&g->has_bound, acquire) || asthra__task_unfinished() == 0) return;
    if (s->worker != NULL || !asthra__spare_ensure(w)) return;
    asthra__lock(&g->start_lock);
    uint32_t count = asthra__load(&g->worker_count, relaxed);
    if (asthra__load(&g->manned, relaxed) == count) {
        s->worker = w;
        asthra__store(&g->worker_count, count + 1, release);
        asthra__store(&g->manned, count + 1, release);
    }
    asthra__unlock(&g->start_lock);
}

ASTHRA__FN void asthra__scheduler_check_stop(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Seat *s = asthra__seat();
    if (s->task != NULL) {
        asthra_panic_at(NULL,
                        "asthra_runtime_shutdown: called in a task; call it outside tasks, on "
                        "the thread that started the runtime");
    }
    if (!s->is_main && g->main_seat != NULL) {
        asthra_panic_at(NULL, "asthra_runtime_shutdown: another thread started the runtime, and it "
                              "alone may stop it");
    }
}

/* Both phases. */
static void asthra__drain_all(Asthra__Scheduler *g, Asthra__Seat *s) {
    asthra__store(&g->phase, (uint32_t)ASTHRA__PHASE_DRAINING, seq_cst);
    /* pairs with the light one in task_end: it wakes us, or we see its count */
    asthra__os_fence_heavy();
    asthra__host_join(g, s);
    asthra__drain_first(g);
    if (asthra__task_unfinished() > 0) {
        asthra__task_cancel_parked();
        asthra__drain(g, false, g->config.shutdown_timeout_ns);
    }
}

ASTHRA__FN void asthra__scheduler_drain(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    asthra__drain_all(g, asthra__seat());
    if (asthra__task_unfinished() > 0) g->config.shutdown_timeout_ns = 0; /* they had their time */
    asthra__store(&g->phase, (uint32_t)ASTHRA__PHASE_RUNNING, seq_cst);
}

ASTHRA__FN void asthra__scheduler_stop(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Seat *s = asthra__seat();
    asthra__drain_all(g, s);
    asthra__store(&g->phase, (uint32_t)ASTHRA__PHASE_STOPPED, seq_cst);
    asthra__notify_all();
    bool stands = asthra__task_unfinished() > 0, is_still = stands && asthra__workers_have_left(g);
    if (stands && !is_still) asthra__report_standing(false);
    asthra__join_workers(g);
    if (is_still) asthra__report_standing(true);
    asthra__seats_dismiss(g);
    asthra__report_teardown();
    asthra__stack_set_owner(NULL);
    asthra__stack_end_tasks();
    asthra__os_fault_stack_leave(s->thread->fault_stack);
    s->thread->fault_stack = NULL;
    asthra__task_teardown();
    asthra__workers_destroy(g);
    asthra__fiber_teardown();
    asthra__scheduler_turn_inward(g, false);
    asthra__scheduler_forget();
}

#endif

/* ---- [scheduler] body ------------------------------------- concurrency/scheduler_queue.c ---- */
/* scheduler - run queues.                                                  [scheduler] body: queues
 *
 * Where work waits, in the order in which a worker looks:
 *
 *     bound       ranked, locked: what only this worker may run (affinity, the main thread's stack)
 *     urgent      ranked, locked, global: priority above 0
 *     next        one slot: the fiber woken last, so that a rendezvous is one switch
 *     ring        first in, first out: fibers that were woken or yielded; others steal from it
 *     deque       last in, first out for its owner: tasks that have not started
 *     global      first in, first out: work of plain threads, and what did not fit a ring
 *     background  ranked, locked, global: priority below 0
 *
 * Fairness. The slot is used at most ASTHRA__FAIR_TURNS times in a row while the ring holds work.
 * Every eighth turn begins with another queue, each of them once in ASTHRA__FAIR_TURNS turns. So
 * whatever is queued moves up by one at least every 64 turns. A rank is the order of
 * arrival less 2^20 for each step of priority, so that ranked work rises as it ages.
 */

#if ASTHRA_HAS_TASK

/* ---- lists ---- */

ASTHRA__FN void asthra__list_push(Asthra__ListQueue *q, Asthra__Runnable *item) {
    item->next = NULL;
    asthra__lock(&q->lock);
    if (q->first == NULL) q->last = &q->first;
    *q->last = item;
    q->last = &item->next;
    asthra__store(&q->count, asthra__load(&q->count, relaxed) + 1, release);
    asthra__unlock(&q->lock);
}

ASTHRA__FN Asthra__Runnable *asthra__list_pop_at(Asthra__ListQueue *q, uint32_t position) {
    if (asthra__load(&q->count, relaxed) == 0) return NULL;
    asthra__lock(&q->lock);
    Asthra__Runnable **at = &q->first;
    for (; position > 0 && *at != NULL && (*at)->next != NULL; position--) at = &(*at)->next;
    Asthra__Runnable *item = *at;
    if (item != NULL) {
        *at = item->next;
        if (q->last == &item->next) q->last = at;
        asthra__store(&q->count, asthra__load(&q->count, relaxed) - 1, relaxed);
    }
    asthra__unlock(&q->lock);
    return item;
}

/* False: somebody else has taken it. */
ASTHRA__FN bool asthra__list_remove(Asthra__ListQueue *q, Asthra__Runnable *item) {
    asthra__lock(&q->lock);
    Asthra__Runnable **at = &q->first;
    while (*at != NULL && *at != item) at = &(*at)->next;
    bool is_there = *at != NULL;
    if (is_there) {
        *at = item->next;
        if (q->last == &item->next) q->last = at;
        asthra__store(&q->count, asthra__load(&q->count, relaxed) - 1, relaxed);
    }
    asthra__unlock(&q->lock);
    return is_there;
}

ASTHRA__FN Asthra__Runnable *asthra__list_pop(Asthra__ListQueue *q) {
    return asthra__list_pop_at(q, 0);
}

/* ---- ranked queues: skew heaps (Sleator and Tarjan, Self-Adjusting Heaps, 1986), top-down ---- */

static Asthra__Ranked *asthra__ranked_merge(Asthra__Ranked *a, Asthra__Ranked *b) {
    Asthra__Ranked *root = NULL, **at = &root;
    while (a != NULL && b != NULL) {
        if (b->order < a->order) {
            Asthra__Ranked *swap = a;
            a = b;
            b = swap;
        }
        *at = a;
        Asthra__Ranked *right = a->right; /* goes on as the left child's side */
        a->right = a->left;
        at = &a->left;
        a = right;
    }
    *at = a != NULL ? a : b;
    return root;
}

ASTHRA__FN void asthra__ranked_push(Asthra__RankedQueue *q, Asthra__Ranked *r) {
    asthra__lock(&q->lock);
    r->left = r->right = NULL;
    r->order = q->sequence++ - (int64_t)r->item->priority * (1 << 20);
    q->root = asthra__ranked_merge(q->root, r);
    asthra__store(&q->count, asthra__load(&q->count, relaxed) + 1, release);
    asthra__add(&asthra__scheduler()->ranked, 1u, release);
    asthra__unlock(&q->lock);
}

ASTHRA__FN Asthra__Runnable *asthra__ranked_pop(Asthra__RankedQueue *q) {
    if (ASTHRA__LIKELY(asthra__load(&q->count, relaxed) == 0)) return NULL;
    asthra__lock(&q->lock);
    Asthra__Ranked *r = q->root;
    if (r != NULL) {
        q->root = asthra__ranked_merge(r->left, r->right);
        asthra__store(&q->count, asthra__load(&q->count, relaxed) - 1, relaxed);
        asthra__sub(&asthra__scheduler()->ranked, 1u, relaxed);
    }
    asthra__unlock(&q->lock);
    return r == NULL ? NULL : r->item;
}

/* ---- rings ---- */

ASTHRA__FN bool asthra__ring_push(Asthra__Ring *r, Asthra__Runnable *item) {
    uint32_t tail = asthra__load(&r->tail, relaxed);
    if (tail - asthra__load(&r->head, acquire) >= ASTHRA__RING) return false;
    asthra__store(&r->slots[tail % ASTHRA__RING], item, relaxed);
    asthra__store(&r->tail, tail + 1, release); /* pairs with the load of tail in ring_pop */
    return true;
}

/* The slot is read before the CAS: the owner reuses it only after head has moved on, and then the
 * CAS fails. */
ASTHRA__FN Asthra__Runnable *asthra__ring_pop(Asthra__Ring *r) {
    uint32_t head = asthra__load(&r->head, acquire);
    for (;;) {
        if (head == asthra__load(&r->tail, acquire)) return NULL;
        Asthra__Runnable *item = asthra__load(&r->slots[head % ASTHRA__RING], relaxed);
        if (asthra__cas(&r->head, &head, head + 1, acq_rel)) return item;
    }
}

ASTHRA__FN uint32_t asthra__ring_count(const Asthra__Ring *r) {
    return asthra__load(&r->tail, relaxed) - asthra__load(&r->head, relaxed);
}

/* ---- the slot ----
 *
 * Its owner takes and fills it with plain accesses; a thief comes only when the worker has been in
 * one turn for a whole tick of the watcher. The two exclude each other as Dekker's algorithm does,
 * with the expensive half of the fence on the thief's side: the owner raises owner_in, light fence,
 * looks at thief_in; the thief raises thief_in, heavy fence, looks at owner_in. At least one sees
 * the other; the thief then gives up, and the owner waits for it. */

static void asthra__next_enter(Asthra__Worker *w) {
    asthra__store(&w->owner_in, 1u, relaxed);
    asthra__os_fence_light();
    while (ASTHRA__UNLIKELY(asthra__load(&w->thief_in, acquire) != 0)) asthra__cpu_relax();
}

static void asthra__next_leave(Asthra__Worker *w) {
    asthra__store(&w->owner_in, 0u, release);
}

ASTHRA__FN Asthra__Runnable *asthra__next_take(Asthra__Worker *w) {
    if (asthra__load(&w->next, relaxed) == NULL) return NULL;
    asthra__next_enter(w);
    Asthra__Runnable *item = asthra__load(&w->next, relaxed);
    asthra__store(&w->next, (Asthra__Runnable *)NULL, relaxed);
    asthra__next_leave(w);
    return item;
}

/* Puts item into the slot; returns what was there. */
static Asthra__Runnable *asthra__next_put(Asthra__Worker *w, Asthra__Runnable *item) {
    asthra__next_enter(w);
    Asthra__Runnable *before = asthra__load(&w->next, relaxed);
    asthra__store(&w->next, item, release);
    asthra__next_leave(w);
    return before;
}

ASTHRA__FN Asthra__Runnable *asthra__next_steal(Asthra__Worker *w) {
    Asthra__Runnable *item = NULL;
    uint32_t free = 0;
    if (asthra__load(&w->next, relaxed) == NULL) return NULL;
    if (!asthra__cas(&w->thief_in, &free, 1u, acq_rel)) return NULL;
    asthra__os_fence_heavy();
    if (asthra__load(&w->owner_in, acquire) == 0) {
        item = asthra__load(&w->next, acquire);
        asthra__store(&w->next, (Asthra__Runnable *)NULL, relaxed);
    }
    asthra__store(&w->thief_in, 0u, release);
    return item;
}

/* ---- making runnable ---- */

static void asthra__ring_or_global(Asthra__Worker *w, Asthra__Runnable *item) {
    if (!asthra__ring_push(&w->ring, item)) asthra__list_push(&asthra__scheduler()->global, item);
    asthra__notify();
}

static void asthra__runnable_ranked(Asthra__Ranked *r, int bound_to) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (bound_to >= 0) {
        Asthra__Worker *owner = &g->workers[bound_to];
        asthra__ranked_push(&owner->bound, r);
        asthra__notify_worker(owner);
        if (owner == asthra__main_worker(g)) asthra__host_tell(g);
    } else {
        asthra__ranked_push(r->item->priority > 0 ? &g->urgent : &g->background, r);
        asthra__notify();
    }
}

ASTHRA__FN void asthra__runnable_fiber(Asthra__Worker *w, Asthra__Fiber *f, bool is_next) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Runnable *item = &f->runnable;
    if (ASTHRA__UNLIKELY(asthra__is_deterministic() || w == NULL)) {
        if (!asthra__is_deterministic() && (f->bound_to >= 0 || item->priority != 0)) {
            asthra__runnable_ranked(&f->ranked, f->bound_to);
            return;
        }
        asthra__list_push(&g->global, item);
        asthra__notify();
        return;
    }
    bool is_ours = f->bound_to < 0 || f->bound_to == w->number;
    if (ASTHRA__LIKELY(is_next && is_ours)) {
        item = asthra__next_put(w, item);
        asthra__safepoint_ask();
        if (!ASTHRA_HAS_THREADS) asthra__host_tell_if_alone(g);
        if (item == NULL) return;
        f = asthra__fiber_of(item);
    }
    if (f->bound_to >= 0 || item->priority != 0) {
        asthra__runnable_ranked(&f->ranked, f->bound_to);
    } else {
        asthra__ring_or_global(w, item);
    }
}

ASTHRA__FN ASTHRA__FAST void asthra__feed(Asthra__Scheduler *g, Asthra__Worker *w) {
    asthra__os_fence_light(); /* as in asthra__notify */
    uint32_t hungry = asthra__load(&g->sleeping, relaxed) | asthra__load(&g->searching, relaxed);
    if (ASTHRA__UNLIKELY(hungry != 0))
        asthra__feed_slow(w);
    else
        asthra__safepoint_ask();
}

ASTHRA__FN void asthra__runnable_task(Asthra__Seat *s, Asthra__Task *t) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Worker *w = s->worker;
    bool is_ranked = t->affinity != 0 || t->runnable.priority != 0;
    if (ASTHRA__UNLIKELY(is_ranked) && !asthra__is_deterministic()) {
        asthra__runnable_ranked(&t->extra->ranked, t->affinity - 1);
        return;
    }
    if (ASTHRA__UNLIKELY(w == NULL || asthra__is_deterministic()) ||
        ASTHRA__UNLIKELY(!asthra__deque_push(&w->deque, &t->runnable))) {
        asthra__list_push(&g->global, &t->runnable);
        asthra__notify();
        return;
    }
    asthra__feed(g, w);
}

/* ---- picking ---- */

/* Any of the first 32, as the seed says. */
static Asthra__Runnable *asthra__pick_deterministic(Asthra__Scheduler *g) {
    uint32_t count = asthra__load(&g->global.count, relaxed);
    if (count == 0) return NULL;
    if (asthra__load(&g->phase, acquire) == ASTHRA__PHASE_DRAINING) asthra__drain_turn();
    return asthra__list_pop_at(&g->global, asthra__random(count < 32 ? count : 32));
}

/* A turn that begins elsewhere. Timers are run on a turn that only a loop takes: see
 * asthra__leave. */
ASTHRA__COLD static Asthra__Runnable *asthra__pick_fairly(Asthra__Scheduler *g, Asthra__Worker *w) {
    switch (w->turns / ASTHRA__FAIR_STEP % (ASTHRA__FAIR_TURNS / ASTHRA__FAIR_STEP)) {
    case 0:
        w->now_ns = asthra__os_now_ns();
        asthra__timers_run(w, w->now_ns);
        if (asthra__load(&g->workers[0].is_outside, relaxed)) {
            asthra__timers_run(&g->workers[0], w->now_ns);
        }
        asthra__outside_poll(g);
        return asthra__list_pop(&g->global);
    case 1: return asthra__deque_oldest(&w->deque);
    case 2: return asthra__ring_pop(&w->ring);
    case 3: return asthra__ranked_pop(&g->background);
    case 4: return asthra__ranked_pop(&g->urgent);
    case 5: return asthra__next_take(w);
    case 6: return asthra__take_from_main(w);
    default: return NULL;
    }
}

ASTHRA__FN ASTHRA__FAST Asthra__Runnable *asthra__pick(Asthra__Worker *w) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Runnable *item;
    w->turns++;
    asthra__store(&w->turns_seen, w->turns, relaxed);
    if (ASTHRA__UNLIKELY(asthra__is_deterministic())) return asthra__pick_deterministic(g);
    if (ASTHRA__UNLIKELY(w->turns % ASTHRA__FAIR_STEP == 0)) {
        if ((item = asthra__pick_fairly(g, w)) != NULL) return item;
    }
    bool any_ranked = asthra__load(&g->ranked, relaxed) != 0;
    if (ASTHRA__UNLIKELY(any_ranked)) {
        if ((item = asthra__ranked_pop(&w->bound)) != NULL) return item;
        if ((item = asthra__ranked_pop(&g->urgent)) != NULL) return item;
    }
    if (++w->next_streak < ASTHRA__FAIR_TURNS || asthra__ring_count(&w->ring) == 0) {
        if ((item = asthra__next_take(w)) != NULL) return item;
    }
    w->next_streak = 0;
    if ((item = asthra__ring_pop(&w->ring)) != NULL) return item;
    if ((item = asthra__next_take(w)) != NULL) return item;
    if ((item = asthra__deque_pop(&w->deque)) != NULL) return item;
    if ((item = asthra__list_pop(&g->global)) != NULL) return item;
    return any_ranked ? asthra__ranked_pop(&g->background) : NULL;
}

/* Is somebody else waiting for a turn here? Asked by what would go on without giving one. */
ASTHRA__FN bool asthra__has_other_work(Asthra__Worker *w) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (asthra__load(&w->next, relaxed) != NULL || asthra__ring_count(&w->ring) != 0) return true;
    if (asthra__load(&g->global.count, relaxed) != 0) return true;
    if (asthra__load(&w->bound.count, relaxed) != 0) return true;
    if (asthra__load(&g->urgent.count, relaxed) != 0) return true;
    return asthra__load(&w->timers.earliest_ns, relaxed) <= asthra__now_ns();
}

#endif

/* ---- [scheduler] body -------------------------------------- concurrency/scheduler_idle.c ---- */
/* scheduler - workers without work.                                        [scheduler] body: idle
 *
 * A worker that finds nothing of its own searches: it steals from the others and looks at the
 * global queues for a short while, then sleeps on its word `asleep`. At most half of the workers
 * search. While somebody searches or sleeps, whoever spawns shares (asthra__feed); what is not
 * shared is wrested from its owner now and then, and before going to sleep.
 *
 * Counters: sleeping counts words `asleep` that are 1; searching counts workers that search, or
 * were woken in order to. Whoever turns a word from 1 to 0, the sleeper at a timeout or somebody
 * with work, takes it out of `sleeping`; a waker adds it to `searching` on its behalf.
 *
 * No wake-up is lost.
 *   - Work is published first, then: light fence, look at sleeping and searching. Somebody sleeps
 *     and nobody searches: wake one. A sleeper does it the other way round: asleep = 1, sleeping +
 *     1, heavy fence, look at every queue once more. Either the producer sees the sleeper or the
 *     sleeper sees the work.
 *   - A producer that saw a searcher relies on it. A searcher that stops searching without work
 *     does so before that last look at all queues, so it sees what was published before it stopped.
 *     One that found work and was the last searcher wakes another, because there may be more.
 *
 * Watching. A slot `next` is not stolen at once, or two tasks that talk to each other would be torn
 * apart; timers of a worker that computes for long must fire. So while somebody is awake, one of
 * the sleepers watches: it sleeps in ticks of 50 us, doubling up to 1 ms. When a worker has been in
 * the same turn for a whole tick, its slot is taken; due timers are run. Waking up from total rest
 * starts a watcher. When everybody rests, the one that lies down last is the watcher, whoever
 * ticked before, and sleeps until the next timer; it sees nothing meanwhile, so whoever lies down
 * after it, or leaves the rest, finds another. (It says that it sleeps, then looks whether all
 * still rest; whoever leaves says so, then looks whether somebody ticks.)
 *
 * Safepoints. Where every worker computes, nobody watches, and nobody else may run what is bound to
 * one of them. So whoever makes something runnable, sets a timer or stops watching also sets the
 * word that safepoints read; a loop that has used its turn for a while then looks for itself.
 *
 * Rest without a timer and with tasks left is the end of shutdown's first phase, or a deadlock: see
 * scheduler_report.c. While threads that we do not know might still end it, the last one looks
 * again every second, because nobody is told when such a thread is gone. (A main that hosts looks
 * itself.)
 */

#if ASTHRA_HAS_TASK

/* Scheduler.watching: 0, or the watcher's mark, with this while it sleeps until the next timer */
#define ASTHRA__WATCH_SLEEPS 1u

enum {
    ASTHRA__SEARCH_ROUNDS = 40,
    ASTHRA__TICK_FIRST_US = 50,
    ASTHRA__TICK_MOST_US = 1000,
    ASTHRA__SAFEPOINT_US = 200
};

/* ---- waking ---- */

/* Turns the word of a sleeper; true: it was asleep and will search. */
static bool asthra__rouse(Asthra__Scheduler *g, Asthra__Worker *w) {
    uint32_t asleep = asthra__load(&w->asleep, relaxed);
    if (asleep == ASTHRA__AWAKE) return false;
    asthra__sub(&g->sleeping, 1u, seq_cst); /* first: nobody may count it as asleep when it runs */
    asthra__add(&g->searching, 1u, seq_cst);
    while (asleep != ASTHRA__AWAKE) { /* it may go from its word into the poller meanwhile */
        if (!asthra__cas(&w->asleep, &asleep, (uint32_t)ASTHRA__AWAKE, acq_rel)) continue;
        if (asleep == ASTHRA__ASLEEP)
            asthra__os_wake(&w->asleep, 1);
        else
            asthra__load(&g->poller, acquire)->wake();
        return true;
    }
    asthra__sub(&g->searching, 1u, seq_cst);
    asthra__add(&g->sleeping, 1u, seq_cst);
    return false;
}

ASTHRA__COLD static void asthra__rouse_any(Asthra__Scheduler *g) {
    for (unsigned i = asthra__load(&g->worker_count, acquire); i-- > 0;) {
        if (asthra__rouse(g, &g->workers[i])) return;
    }
}

ASTHRA__FN void asthra__notify(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    asthra__os_fence_light();
    if (asthra__load(&g->searching, relaxed) != 0) {
        asthra__host_tell_if_alone(g);
        return;
    }
    if (ASTHRA__LIKELY(asthra__load(&g->sleeping, relaxed) == 0))
        asthra__safepoint_ask();
    else
        asthra__rouse_any(g);
}

ASTHRA__COLD ASTHRA__FN void asthra__feed_slow(Asthra__Worker *w) {
    if (asthra__deque_count(&w->deque) == 0) return;
    asthra__deque_share(&w->deque);
    asthra__notify();
}

ASTHRA__FN void asthra__notify_worker(Asthra__Worker *w) {
    asthra__os_fence_light();
    if (!asthra__rouse(asthra__scheduler(), w)) asthra__safepoint_ask();
}

ASTHRA__FN void asthra__notify_all(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    asthra__os_fence_heavy();
    for (unsigned i = 0; i < asthra__load(&g->worker_count, acquire); i++)
        asthra__rouse(g, &g->workers[i]);
}

/* ---- searching ---- */

static Asthra__Runnable *asthra__steal(Asthra__Scheduler *g, Asthra__Worker *thief, bool wrests) {
    uint32_t start = asthra__random(asthra__load(&g->queue_count, acquire));
    for (unsigned i = 0; i < asthra__load(&g->queue_count, acquire); i++) {
        Asthra__Worker *victim = &g->workers[(start + i) % asthra__load(&g->queue_count, acquire)];
        Asthra__Runnable *item;
        if (victim == thief) continue;
        item = wrests ? asthra__deque_wrest(&victim->deque) : asthra__deque_steal(&victim->deque);
        if (item != NULL) return item;
        if (asthra__ring_count(&victim->ring) != 0 &&
            (item = asthra__ring_pop(&victim->ring)) != NULL) {
            return item;
        }
    }
    return NULL;
}

static Asthra__Runnable *asthra__search(Asthra__Scheduler *g, Asthra__Worker *w) {
    int rounds =
        g->config.spins && asthra__load(&g->worker_count, acquire) > 1 ? ASTHRA__SEARCH_ROUNDS : 1;
    for (int round = 0; round < rounds; round++) {
        Asthra__Runnable *item = asthra__pick(w);
        bool wrests = round % 16 == 15 || round + 1 == rounds;
        if (item == NULL && !asthra__is_deterministic()) item = asthra__steal(g, w, wrests);
        if (item == NULL && asthra__outside_poll(g)) item = asthra__pick(w);
        if (item != NULL) return item;
        for (int i = 0; i < 32 && round + 1 < rounds; i++) asthra__cpu_relax();
    }
    return NULL;
}

/* Is there anything that a worker which lies down should rather do? A look without taking. */
ASTHRA__FN bool asthra__work_exists(Asthra__Scheduler *g, Asthra__Worker *w) {
    if (asthra__load(&w->next, relaxed) != NULL || asthra__load(&w->bound.count, relaxed) != 0 ||
        asthra__load(&g->global.count, relaxed) != 0 ||
        asthra__load(&g->urgent.count, relaxed) != 0 ||
        asthra__load(&g->background.count, relaxed) != 0) {
        return true;
    }
    for (unsigned i = 0; i < asthra__load(&g->queue_count, acquire); i++) {
        if (asthra__deque_count(&g->workers[i].deque) != 0) return true;
        if (asthra__ring_count(&g->workers[i].ring) != 0) return true;
    }
    return false;
}

/* ---- watching ---- */

/* Has it been in one turn for a whole tick, as far as those saw who looked? What they saw is kept
 * with it: whoever watches may itself have work now and then, and begins no new count. */
static bool asthra__is_stuck(Asthra__Worker *w, int64_t now_ns) {
    uint32_t seen = asthra__load(&w->turns_seen, relaxed);
    if (asthra__load(&w->turns_watched, relaxed) == seen) {
        return now_ns - asthra__load(&w->watched_ns, relaxed) >= ASTHRA__TICK_FIRST_US * 1000;
    }
    asthra__store(&w->turns_watched, seen, relaxed);
    asthra__store(&w->watched_ns, now_ns, relaxed);
    return false;
}

/* Takes what a stuck worker was to run next, if w may run it. */
static Asthra__Runnable *asthra__next_of_stuck(Asthra__Worker *w, Asthra__Worker *other) {
    Asthra__Runnable *item = asthra__next_steal(other);
    if (item == NULL) return NULL;
    Asthra__Fiber *f = asthra__fiber_of(item); /* nothing else is there */
    if (f->bound_to < 0 || f->bound_to == w->number) return item;
    asthra__runnable_fiber(w, f, false); /* to its own worker's queue */
    return NULL;
}

/* Helps workers that have been in one turn for a tick. Returns what it took, or NULL. */
static Asthra__Runnable *asthra__watch(Asthra__Scheduler *g, Asthra__Worker *w) {
    Asthra__Runnable *item = NULL;
    w->now_ns = asthra__now_ns();
    for (unsigned i = 0; i < asthra__load(&g->queue_count, acquire); i++) {
        Asthra__Worker *other = &g->workers[i];
        bool is_stuck = asthra__is_stuck(other, w->now_ns);
        asthra__timers_run(other, w->now_ns);
        if (is_stuck && item == NULL && other != w) item = asthra__next_of_stuck(w, other);
    }
    return item;
}

/* ---- safepoints ---- */

static bool asthra__somebody_watches(Asthra__Scheduler *g) {
    uint32_t seen = asthra__load(&g->watching, seq_cst);
    return seen != 0 && !(seen & ASTHRA__WATCH_SLEEPS);
}

/* Timers or the outside, and no idle worker that would see them. */
static bool asthra__needs_watch(Asthra__Scheduler *g) {
    bool has_any = asthra__timers_earliest() != INT64_MAX || asthra__outside_is_awaited(g);
    return has_any && !asthra__somebody_watches(g);
}

/* Nobody waits, so that safepoints cost nothing until somebody asks again. Whoever asks publishes
 * first, then looks at the word, with a light fence between; we clear it, then look once more. */
ASTHRA__COLD static void asthra__safepoint_rest(Asthra__Scheduler *g, Asthra__Worker *w) {
    __atomic_store_n(&asthra_safepoint_word, 0u, __ATOMIC_RELAXED);
    asthra__os_fence_heavy();
    if (asthra__needs_watch(g) || asthra__work_exists(g, w)) asthra__safepoint_ask();
}

/* A clock costs more than the rest of it, so it is read at every sixteenth call of a turn. */
ASTHRA__FN bool asthra__safepoint_is_due(Asthra__Worker *w) {
    Asthra__Scheduler *g = asthra__scheduler();
    bool is_new = w->safepoint_turn != w->turns;
    w->safepoint_turn = w->turns;
    w->safepoint_calls = is_new ? 0 : w->safepoint_calls + 1;
    if (w->safepoint_calls % 16 != 0) return false;
    int64_t now_ns = asthra__os_now_ns();
    if (is_new) w->safepoint_ns = now_ns;
    if (now_ns - w->safepoint_ns < ASTHRA__SAFEPOINT_US * 1000) return false;
    w->safepoint_ns = now_ns;
    for (unsigned i = 0; i < asthra__load(&g->queue_count, acquire); i++)
        asthra__timers_run(&g->workers[i], now_ns);
    asthra__outside_poll(g);
    if (asthra__work_exists(g, w)) return true;
    if (!asthra__needs_watch(g)) asthra__safepoint_rest(g, w);
    return false;
}

/* Main is away and its queues get no turns: those who have work enough look there now and then. */
ASTHRA__FN Asthra__Runnable *asthra__take_from_main(Asthra__Worker *w) {
    Asthra__Worker *main = &asthra__scheduler()->workers[0];
    Asthra__Runnable *item;
    if (w == main || asthra__load(&main->is_outside, relaxed) == 0) return NULL;
    if ((item = asthra__deque_steal(&main->deque)) != NULL) return item;
    if ((item = asthra__ring_pop(&main->ring)) != NULL) return item;
    if (!asthra__is_stuck(main, asthra__os_now_ns())) return NULL;
    if ((item = asthra__deque_wrest(&main->deque)) != NULL) return item;
    return asthra__next_of_stuck(w, main);
}

/* In the deterministic mode time stands still while anything can run. */
ASTHRA__FN bool asthra__advance_virtual_time(Asthra__Scheduler *g, Asthra__Worker *w) {
    int64_t earliest = asthra__timers_earliest();
    if (!asthra__is_deterministic() || earliest == INT64_MAX) return false;
    if (asthra__load(&g->phase, acquire) == ASTHRA__PHASE_DRAINING && !g->drain_quiescent) {
        return false; /* those who sleep are parked: they will be cancelled */
    }
    if (earliest > g->virtual_ns) g->virtual_ns = earliest;
    return asthra__timers_run(w, g->virtual_ns);
}

/* ---- resting ---- */

/* Nothing can run: the first phase of shutdown is over. False: it was, or nobody drains. */
ASTHRA__FN bool asthra__drain_is_quiescent(Asthra__Scheduler *g) {
    asthra__lock(&g->drain_lock);
    Asthra__Parker *drainer = asthra__load(&g->drainer, relaxed);
    bool is_ours = drainer != NULL && !g->drain_quiescent && asthra__wait_claim(drainer);
    g->drain_quiescent = g->drain_quiescent || is_ours;
    asthra__unlock(&g->drain_lock);
    if (is_ours) asthra__wait_wake(drainer);
    return is_ours;
}

/* Everybody else rests too, and no timer will change that. True: it made shutdown go on, perhaps
 * on this worker. */
ASTHRA__COLD static bool asthra__all_rest(Asthra__Scheduler *g) {
    if (asthra__load(&g->phase, acquire) == ASTHRA__PHASE_DRAINING) {
        return asthra__rest_is_total() && asthra__drain_is_quiescent(g);
    }
    if (asthra__all_are_asleep()) asthra__report_asleep();
    return false;
}

static uint32_t asthra__watch_mark(const Asthra__Worker *w) {
    return (uint32_t)(w->number + 1) * 2;
}

/* True: w is the watcher. Of those who lie down while others are awake, one that finds none that
 * ticks; the one that lies down last in any case. */
static bool asthra__take_watch(Asthra__Scheduler *g, const Asthra__Worker *w, bool all_rest) {
    uint32_t mark = asthra__watch_mark(w), seen = asthra__load(&g->watching, relaxed);
    if (all_rest) {
        asthra__store(&g->watching, mark | ASTHRA__WATCH_SLEEPS, seq_cst);
        return true;
    }
    while (seen == 0 || (seen & ASTHRA__WATCH_SLEEPS) || seen == mark) {
        if (asthra__cas(&g->watching, &seen, mark, acq_rel)) return true;
    }
    return false;
}

static bool asthra__is_watcher(Asthra__Scheduler *g, const Asthra__Worker *w) {
    uint32_t seen = asthra__load(&g->watching, relaxed);
    return (seen | ASTHRA__WATCH_SLEEPS) == (asthra__watch_mark(w) | ASTHRA__WATCH_SLEEPS);
}

/* Wakes up: if it was the watcher and was not relieved, it is one that ticks. */
static void asthra__wake_watch(Asthra__Scheduler *g, const Asthra__Worker *w) {
    uint32_t seen = asthra__watch_mark(w) | ASTHRA__WATCH_SLEEPS;
    if (asthra__load(&g->watching, relaxed) == seen)
        asthra__cas(&g->watching, &seen, asthra__watch_mark(w), acq_rel);
}

static void asthra__stop_watching(Asthra__Scheduler *g, const Asthra__Worker *w) {
    uint32_t seen = asthra__load(&g->watching, relaxed);
    if (asthra__is_watcher(g, w)) asthra__cas(&g->watching, &seen, 0u, seq_cst);
}

static bool asthra__all_sleep(Asthra__Scheduler *g) {
    return asthra__load(&g->sleeping, seq_cst) == asthra__load(&g->worker_count, acquire);
}

/* How long to sleep. */
static int64_t asthra__rest_for(Asthra__Scheduler *g, Asthra__Worker *w, int64_t *tick_us) {
    bool all_rest = asthra__all_sleep(g);
    bool drains = asthra__load(&g->phase, acquire) == ASTHRA__PHASE_DRAINING;
    int64_t earliest = asthra__timers_earliest();
    if (all_rest && (drains || earliest == INT64_MAX) && asthra__all_rest(g)) return 0;
    if (all_rest && earliest == INT64_MAX && !asthra__outside_is_awaited(g)) {
        asthra__stop_watching(g, w);
        return g->config.main_helps && !drains ? ASTHRA__LOOK_AGAIN_NS : ASTHRA_FOREVER;
    }
    if (!asthra__take_watch(g, w, all_rest)) return ASTHRA_FOREVER;
    if (all_rest && !asthra__all_sleep(g)) {
        asthra__wake_watch(g, w);
        all_rest = false;
    }
    w->now_ns = asthra__os_now_ns();
    int64_t left = earliest == INT64_MAX ? INT64_MAX : earliest - w->now_ns;
    if (!all_rest && left > *tick_us * 1000) left = *tick_us * 1000;
    if (*tick_us < ASTHRA__TICK_MOST_US) *tick_us *= 2;
    return left < 0 ? 0 : left;
}

/* Lies down once. True: roused by a producer, which counted us as a searcher. */
static bool asthra__sleep_once(Asthra__Scheduler *g, Asthra__Worker *w, int64_t *tick_us) {
    bool got = false;
    asthra__store(&w->asleep, (uint32_t)ASTHRA__ASLEEP, seq_cst);
    asthra__add(&g->rests, 1u, seq_cst);
    asthra__add(&g->sleeping, 1u, seq_cst);
    asthra__os_fence_heavy(); /* pairs with the light one in notify */
    if (!asthra__work_exists(g, w) && asthra__load(&g->phase, acquire) != ASTHRA__PHASE_STOPPED) {
        int64_t left = asthra__rest_for(g, w, tick_us);
        bool polls = left > 0 && asthra__outside_is_awaited(g) && asthra__is_watcher(g, w);
        if (polls)
            got = asthra__outside_sleep(g, w, left);
        else if (left != 0)
            asthra__os_wait(&w->asleep, ASTHRA__ASLEEP, left);
        asthra__wake_watch(g, w);
    }
    bool is_roused =
        asthra__exchange(&w->asleep, (uint32_t)ASTHRA__AWAKE, acq_rel) == ASTHRA__AWAKE;
    if (!is_roused) asthra__sub(&g->sleeping, 1u, seq_cst);
    if (got) asthra__outside_deliver(g);
    return is_roused;
}

/* After total rest nobody watches whoever wakes up first: it asks for a watcher. */
static void asthra__leave_rest(Asthra__Scheduler *g) {
    if (asthra__load(&g->worker_count, acquire) < 2 || asthra__load(&g->sleeping, relaxed) == 0)
        return;
    if (!asthra__somebody_watches(g) && asthra__load(&g->searching, relaxed) == 0)
        asthra__rouse_any(g);
}

/* Searches; a find by the last searcher calls for another. */
static Asthra__Runnable *asthra__search_counted(Asthra__Scheduler *g, Asthra__Worker *w,
                                                bool is_counted) {
    if (!is_counted) {
        if (asthra__load(&g->searching, relaxed) * 2 >= asthra__load(&g->worker_count, acquire) + 1)
            return asthra__pick(w); /* enough of us search: only what a timer made ours */
        asthra__add(&g->searching, 1u, seq_cst);
    }
    Asthra__Runnable *item = asthra__search(g, w);
    uint32_t searchers = asthra__sub(&g->searching, 1u, seq_cst);
    if (item != NULL && searchers == 1) asthra__notify();
    return item;
}

ASTHRA__FN Asthra__Runnable *asthra__idle(Asthra__Worker *w) {
    Asthra__Scheduler *g = asthra__scheduler();
    int64_t tick_us = ASTHRA__TICK_FIRST_US;
    bool is_counted = false;
    for (;;) {
        Asthra__Runnable *item = asthra__search_counted(g, w, is_counted);
        is_counted = false;
        if (item == NULL && asthra__load(&g->phase, acquire) == ASTHRA__PHASE_STOPPED) {
            asthra__stop_watching(g, w);
            return NULL;
        }
        if (item == NULL && asthra__advance_virtual_time(g, w)) continue;
        if (item == NULL) is_counted = asthra__sleep_once(g, w, &tick_us);
        if (item == NULL && !is_counted) item = asthra__watch(g, w);
        if (item == NULL) continue;
        asthra__stop_watching(g, w);
        asthra__leave_rest(g);
        asthra__safepoint_ask(); /* timers are watched by nobody, perhaps */
        return item;
    }
}

#endif

/* ---- [scheduler] body -------------------------------------- concurrency/scheduler_wait.c ---- */
/* scheduler - waiting and waking.                                          [scheduler] body: waits
 *
 * The states of a parker's word and who may change them stand in scheduler_internal.h. Here is why
 * no wake is lost and none comes twice.
 *
 *   - Exactly one party turns OPEN into DONE: a peer under its list's lock, a timer, a canceller,
 *     or the waiter itself (retract turns it into IDLE). All do it by compare-and-swap on one word.
 *   - That party alone calls asthra__wait_wake, once. If SWITCHED is set the stack has been left:
 *     it makes the fiber runnable. Else it sets WAKE; the worker that has just left the stack sets
 *     SWITCHED. Both are read-modify-writes of the same word, so one of them is second, and the
 *     second makes the fiber runnable.
 *   - With `held` the word starts SWITCHED, although the stack is still in use. Whoever finds the
 *     node holds the lock, which is released after the stack was left; a timer and a canceller find
 *     the wait elsewhere, so they pass through the lock before they wake.
 *   - Cancel and open: the canceller sets the task's CANCEL bit, heavy fence, then looks at the
 *     parker's word. The waiter writes OPEN, light fence, then looks at the CANCEL bit. One of them
 *     sees the other.
 *   - A plain thread sleeps on w->signal. It may return as soon as the signal is written, so the
 *     waker's last touch is a wake-up call on an address, which the system bears to be anything.
 */

#if ASTHRA_HAS_TASK

ASTHRA__FN Asthra__Parker *asthra__parker(void) {
    Asthra__Seat *s = asthra__seat();
    return s->task != NULL ? &s->task->parker : &s->parker;
}

ASTHRA__FN bool asthra__cancel_is_pending(const Asthra__Task *t) {
    return (asthra__load(&t->word, relaxed) & ASTHRA__TASK_CANCEL) != 0 &&
           asthra__load(&t->masks, relaxed) == 0;
}

/* The current task observes that it is cancelled. */
ASTHRA__FN bool asthra__cancel_observe(Asthra__Task *t) {
    if (t == NULL || ASTHRA__LIKELY(!asthra__cancel_is_pending(t))) return false;
    uint8_t marks = asthra__load(&t->marks, relaxed);
    asthra__store(&t->marks, (uint8_t)(marks | ASTHRA__TASK_SAW_CANCEL), relaxed);
    return true;
}

ASTHRA__FN bool asthra__cancel_pending(void) {
    return asthra__cancel_observe(asthra__seat()->task);
}

ASTHRA__FN Asthra__Parker *asthra__wait_open(Asthra__Wait *w) {
    Asthra__Seat *s = asthra__seat();
    Asthra__Parker *p = s->task != NULL ? &s->task->parker : &s->parker;
    uint32_t word = asthra__load(&p->word, relaxed) & ~(uint32_t)(ASTHRA__WAIT_TURN - 1);
    word += ASTHRA__WAIT_TURN + ASTHRA__WAIT_OPEN;
    if (w->held != NULL || s->worker == NULL) word |= ASTHRA__WAIT_SWITCHED;
    bool is_masked = s->task != NULL && asthra__load(&s->task->masks, relaxed) > 0;
    if (w->is_firm || is_masked) word |= ASTHRA__WAIT_FIRM;
    w->parker = p;
    w->fiber = s->worker != NULL ? s->fiber : NULL;
    w->outcome = ASTHRA_OK;
    w->winner = NULL;
    w->describe = NULL;
    w->timer_slot = 0;
    w->deadline_ns = INT64_MAX;
    asthra__store(&w->signal, 0u, relaxed);
    p->wait = w;
    asthra__store(&p->word, word, release);
    return p;
}

/* OPEN to `claim`; false if it was something else. */
static bool asthra__wait_close(Asthra__Parker *p, uint32_t claim) {
    uint32_t word = asthra__load(&p->word, acquire);
    while ((word & ASTHRA__WAIT_CLAIM) == ASTHRA__WAIT_OPEN) {
        uint32_t closed = (word & ~(uint32_t)ASTHRA__WAIT_CLAIM) | claim;
        if (asthra__cas(&p->word, &word, closed, acq_rel)) return true;
    }
    return false;
}

ASTHRA__FN bool asthra__wait_retract(Asthra__Wait *w) {
    return asthra__wait_close(w->parker, ASTHRA__WAIT_IDLE);
}

ASTHRA__FN bool asthra__wait_claim(Asthra__Parker *p) {
    for (unsigned rounds = 0;;) {
        if (ASTHRA__LIKELY(asthra__wait_close(p, ASTHRA__WAIT_DONE))) return true;
        uint32_t word = asthra__load(&p->word, acquire);
        if ((word & ASTHRA__WAIT_CLAIM) != ASTHRA__WAIT_BUSY &&
            (word & ASTHRA__WAIT_CLAIM) != ASTHRA__WAIT_OPEN) {
            return false;
        }
        if (++rounds % 64 != 0) {
            asthra__cpu_relax();
        } else {
            asthra__os_yield(); /* the owner of BUSY may have lost its core */
        }
    }
}

/* Claims for a party that did not find the wait in a list: a timer, a canceller. */
ASTHRA__FN void asthra__wait_end(Asthra__Wait *w, AsthraStatus outcome) {
    w->outcome = outcome;
    if (w->held != NULL) {
        Asthra__Lock *held = w->held;
        asthra__lock(held); /* until the waiter has left its stack */
        asthra__unlock(held);
    }
    asthra__wait_wake(w->parker);
}

/* Its stack has been left, or it is a thread: nothing may be assumed about w afterwards. */
static void asthra__wait_resume(Asthra__Worker *ours, Asthra__Wait *w) {
    if (w->fiber != NULL) {
        asthra__runnable_fiber(ours, w->fiber, true);
    } else {
        /* It counts as running now; it may not have counted itself as blocked yet. */
        asthra__sub(&asthra__scheduler()->host_blocked, 1u, seq_cst);
        asthra__store(&w->signal, 1u, release); /* pairs with the load in wait_on_thread */
        asthra__os_wake(&w->signal, 1);
    }
}

ASTHRA__FN void asthra__wait_wake(Asthra__Parker *p) {
    Asthra__Wait *w = p->wait;
    if (!(asthra__load(&p->word, acquire) & ASTHRA__WAIT_SWITCHED)) {
        uint32_t before = asthra__or(&p->word, (uint32_t)ASTHRA__WAIT_WAKE, acq_rel);
        if (!(before & ASTHRA__WAIT_SWITCHED)) return; /* whoever leaves its stack makes it run */
    }
    asthra__wait_resume(w->fiber != NULL ? asthra__seat()->worker : NULL, w);
}

/* The stack of w has just been left; the second half of asthra__leave. */
ASTHRA__FN void asthra__wait_switched(Asthra__Worker *ours, Asthra__Wait *w) {
    uint32_t before = asthra__or(&w->parker->word, (uint32_t)ASTHRA__WAIT_SWITCHED, acq_rel);
    if (before & ASTHRA__WAIT_WAKE) asthra__wait_resume(ours, w);
}

/* The last one awake may be a plain thread: the workers looked before it blocked. Both sides count
 * themselves first and look then, so one of them sees the other. */
static void asthra__host_check(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint32_t manned = asthra__load(&g->manned, relaxed);
    if (ASTHRA__LIKELY(asthra__load(&g->sleeping, seq_cst) != manned)) return;
    if (asthra__all_are_asleep()) asthra__report_asleep();
}

/* Sleeps until completed or until the deadline: true, and then nobody owes a wake. */
static bool asthra__host_sleep(Asthra__Wait *w, int64_t deadline_ns) {
    int64_t left;
    while (asthra__load(&w->signal, acquire) == 0 && (left = deadline_ns - asthra__os_now_ns()) > 0)
        asthra__os_wait(&w->signal, 0, left);
    return asthra__load(&w->signal, acquire) == 0 &&
           asthra__wait_close(w->parker, ASTHRA__WAIT_DONE);
}

/* Sleeps until completed. A main that hosts looks now and then whether all have fallen asleep. */
static void asthra__host_sleep_on(Asthra__Wait *w) {
    bool looks = asthra__seat()->is_main;
    asthra__host_check();
    while (asthra__load(&w->signal, acquire) == 0) {
        asthra__os_wait(&w->signal, 0, looks ? ASTHRA__LOOK_AGAIN_NS : ASTHRA_FOREVER);
        if (looks) asthra__host_check();
    }
}

/* A plain thread blocks, and nobody else. Its clock is the system's, also in the deterministic
 * mode. The limit is counted before the thread is, so that it never looks as if it waited for
 * ever. */
static void asthra__wait_on_thread(Asthra__Wait *w, int64_t timeout_ns) {
    Asthra__Scheduler *g = asthra__scheduler();
    int64_t now = asthra__os_now_ns(), deadline = INT64_MAX;
    bool is_timed = timeout_ns >= 0;
    if (is_timed) deadline = timeout_ns < INT64_MAX - now ? now + timeout_ns : INT64_MAX - 1;
    w->since_ns = now;
    if (is_timed) asthra__add(&g->timed_hosts, 1u, seq_cst);
    asthra__add(&g->host_blocked, 1u, seq_cst);
    if (w->held != NULL) asthra__unlock(w->held);
    if (!is_timed) {
        asthra__host_sleep_on(w);
    } else if (asthra__host_sleep(w, deadline)) {
        w->outcome = ASTHRA_TIMED_OUT;
        asthra__sub(&g->host_blocked, 1u, seq_cst);
    } else {
        while (asthra__load(&w->signal, acquire) == 0) asthra__os_wait(&w->signal, 0, -1);
    }
    if (is_timed) asthra__sub(&g->timed_hosts, 1u, relaxed);
}

/* Gives up before parking, unless it has been completed. */
static bool asthra__wait_give_up(Asthra__Wait *w, AsthraStatus outcome) {
    if (!asthra__wait_retract(w)) return false;
    if (w->held != NULL) asthra__unlock(w->held);
    w->outcome = outcome;
    return true;
}

/* There was no memory for its timer. Gives up, unless it has been completed. */
ASTHRA__COLD static bool asthra__wait_without_timer(Asthra__Wait *w) {
    w->deadline_ns = INT64_MAX;
    if (!asthra__wait_give_up(w, ASTHRA_OUT_OF_MEMORY)) return false;
    asthra__error_set(ASTHRA_OUT_OF_MEMORY, "no memory for the timer of a wait");
    return true;
}

static void asthra__wait_finish(Asthra__Wait *w) {
    Asthra__Parker *p = w->parker;
    uint32_t word = asthra__load(&p->word, acquire);
    if (w->deadline_ns != INT64_MAX) asthra__timer_remove(w);
    asthra__store(&p->word, word & ~(uint32_t)(ASTHRA__WAIT_TURN - 1), relaxed);
    if (ASTHRA__UNLIKELY(w->outcome == ASTHRA_CANCELLED))
        asthra__cancel_observe(asthra__seat()->task);
}

ASTHRA__FN AsthraStatus asthra__wait_park(Asthra__Wait *w, int64_t timeout_ns) {
    Asthra__Seat *s = asthra__seat();
    uint32_t missing = s->worker == NULL ? ASTHRA__RARE_RELIEF : ASTHRA__RARE_UNMANNED;
    if (ASTHRA__UNLIKELY(asthra__load(&asthra__scheduler()->rare, acquire) & missing) &&
        !asthra__scheduler_man(s) && asthra__wait_give_up(w, ASTHRA_OUT_OF_MEMORY)) {
        return ASTHRA_OUT_OF_MEMORY; /* nobody would run what we wait for */
    }
    if (s->worker == NULL) {
        asthra__wait_on_thread(w, timeout_ns);
        asthra__wait_finish(w);
        return w->outcome;
    }
    if (s->task != NULL && !w->is_firm) {
        asthra__os_fence_light(); /* pairs with the heavy one in cancel */
        if (asthra__cancel_observe(s->task) && asthra__wait_give_up(w, ASTHRA_CANCELLED)) {
            asthra_yield(); /* a loop that does not heed its cancel must not keep its worker */
            return ASTHRA_CANCELLED;
        }
    }
    w->since_ns = asthra__is_deterministic() ? asthra__now_ns() : s->worker->now_ns;
    if (timeout_ns >= 0) {
        w->deadline_ns = asthra__deadline(timeout_ns);
        if (ASTHRA__UNLIKELY(!asthra__timer_add(s->worker, w)) && asthra__wait_without_timer(w))
            return ASTHRA_OUT_OF_MEMORY;
    }
    asthra__leave(s, w->held != NULL ? ASTHRA__LEFT_HOLDING : ASTHRA__LEFT_WAITING, w);
    asthra__wait_finish(w);
    return w->outcome;
}

#endif

/* ---- [scheduler] body ------------------------------------- concurrency/scheduler_timer.c ---- */
/* scheduler - timers.                                                      [scheduler] body: timers
 *
 * Each worker has a heap of deadlines, four children to a node, under a lock of its own; `earliest`
 * is published, so that an idle worker can see and run another's due timers. A wait knows its place
 * in the heap (timer_slot is the index + 1), so that a wait that ends early takes its timer along:
 * a million timeouts that never fire leave nothing behind.
 *
 * Firing claims the wait under the heap's lock and takes it out; a wait that ends early takes
 * itself out under the same lock. So a timer never touches a wait that is over, and a wait that is
 * being fired is claimed, therefore cannot be over before its wake. Claiming waits out BUSY, whose
 * holder needs no timer lock while it is BUSY.
 */

#if ASTHRA_HAS_TASK

static void asthra__timers_place(Asthra__Timers *t, size_t at, Asthra__TimerEntry e) {
    t->heap[at] = e;
    e.wait->timer_slot = at + 1;
}

static void asthra__timers_up(Asthra__Timers *t, size_t at, Asthra__TimerEntry e) {
    while (at > 0 && e.deadline_ns < t->heap[(at - 1) / 4].deadline_ns) {
        asthra__timers_place(t, at, t->heap[(at - 1) / 4]);
        at = (at - 1) / 4;
    }
    asthra__timers_place(t, at, e);
}

static void asthra__timers_down(Asthra__Timers *t, size_t at, Asthra__TimerEntry e) {
    for (;;) {
        size_t first = at * 4 + 1, best = first;
        if (first >= t->count) break;
        for (size_t i = first + 1; i < first + 4 && i < t->count; i++) {
            if (t->heap[i].deadline_ns < t->heap[best].deadline_ns) best = i;
        }
        if (e.deadline_ns <= t->heap[best].deadline_ns) break;
        asthra__timers_place(t, at, t->heap[best]);
        at = best;
    }
    asthra__timers_place(t, at, e);
}

static void asthra__timers_take(Asthra__Timers *t, size_t at) {
    Asthra__TimerEntry last = t->heap[--t->count];
    t->heap[at].wait->timer_slot = 0;
    if (at < t->count) {
        asthra__timers_up(t, at, last);
        asthra__timers_down(t, last.wait->timer_slot - 1, last);
    }
    asthra__store(&t->earliest_ns, t->count == 0 ? INT64_MAX : t->heap[0].deadline_ns, release);
}

ASTHRA__FN bool asthra__timer_add(Asthra__Worker *w, Asthra__Wait *wait) {
    Asthra__Timers *t = &w->timers;
    Asthra__TimerEntry e = {wait->deadline_ns, wait};
    asthra__lock(&t->lock);
    if (t->count == t->room) {
        size_t room = t->room == 0 ? 64 : t->room * 2;
        Asthra__TimerEntry *heap = asthra__realloc(t->heap, room * sizeof *heap);
        if (heap == NULL) {
            asthra__unlock(&t->lock);
            return false;
        }
        t->heap = heap;
        t->room = room;
    }
    wait->timer_owner = w;
    asthra__timers_up(t, t->count++, e);
    asthra__store(&t->earliest_ns, t->heap[0].deadline_ns, release);
    asthra__unlock(&t->lock);
    asthra__os_fence_light();
    asthra__safepoint_ask();
    if (asthra__is_uncounted(asthra__scheduler(), w)) asthra__notify(); /* all others may rest */
    return true;
}

ASTHRA__FN void asthra__timer_remove(Asthra__Wait *wait) {
    Asthra__Timers *t = &wait->timer_owner->timers;
    asthra__lock(&t->lock);
    if (wait->timer_slot != 0) asthra__timers_take(t, wait->timer_slot - 1);
    asthra__unlock(&t->lock);
}

/* Fires up to 64 due timers: claimed under the lock, woken after it. */
static size_t asthra__timers_fire(Asthra__Timers *t, int64_t now_ns) {
    Asthra__Wait *due[64];
    size_t count = 0, seen = 0;
    asthra__lock(&t->lock);
    while (seen < 64 && t->count > 0 && t->heap[0].deadline_ns <= now_ns) {
        Asthra__Wait *wait = t->heap[0].wait;
        asthra__timers_take(t, 0);
        seen++;
        if (asthra__wait_claim(wait->parker)) due[count++] = wait;
    }
    asthra__unlock(&t->lock);
    for (size_t i = 0; i < count; i++) asthra__wait_end(due[i], ASTHRA_TIMED_OUT);
    return seen;
}

ASTHRA__FN bool asthra__timers_run(Asthra__Worker *w, int64_t now_ns) {
    bool any = false;
    while (asthra__load(&w->timers.earliest_ns, acquire) <= now_ns) {
        any = asthra__timers_fire(&w->timers, now_ns) > 0 || any;
    }
    return any;
}

ASTHRA__FN int64_t asthra__timers_earliest(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    int64_t earliest = INT64_MAX;
    for (unsigned i = 0; i < asthra__load(&g->queue_count, acquire); i++) {
        int64_t mine = asthra__load(&g->workers[i].timers.earliest_ns, acquire);
        if (mine < earliest) earliest = mine;
    }
    return earliest;
}

#endif

/* ---- [scheduler] body ----------------------------------- concurrency/scheduler_outside.c ---- */
/* scheduler - events from outside the process.                            [scheduler] body: outside
 *
 * The floor above knows how to wait for them (Asthra__Poller); when, and on which thread, is
 * decided here. `outside` counts the waits; while it is 0 nothing of this costs more than a load.
 *
 *   - A worker that finds nothing to do asks, without waiting, before it spins or lies down.
 *   - Of those who lie down the watcher (scheduler_idle.c) waits in the poller instead of on its
 *     word: while others are awake for a tick, at total rest until the next timer or for ever. Its
 *     word says so, and whoever rouses it ends the poll.
 *   - Where nobody lies down, every 64th turn of a worker asks, and safepoints do.
 *
 * One thread at a time is in the poller, from asking until what it was told is delivered. A watcher
 * that finds another there, one that asks or one that was relieved, sleeps for a tick and looks
 * again.
 *
 * At total rest somebody waits in the poller, if there is a wait: a wait begins on a worker that is
 * awake, which counts it before it lies down; the one that lies down last sees the count. A main
 * that hosts is not counted among the workers, so it rouses one.
 */

#if ASTHRA_HAS_TASK

enum { ASTHRA__OUTSIDE_TICK_NS = 1000000 };

ASTHRA__FN void asthra__outside_set_poller(const Asthra__Poller *p) {
    asthra__store(&asthra__scheduler()->poller, p, release);
}

ASTHRA__FN void asthra__outside_begin(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    asthra__add(&g->outside, 1u, seq_cst);
    const Asthra__Worker *w = asthra__seat()->worker;
    if (asthra__is_uncounted(g, w)) asthra__notify();
}

ASTHRA__FN void asthra__outside_end(void) {
    asthra__sub(&asthra__scheduler()->outside, 1u, seq_cst);
}

static bool asthra__outside_enter(Asthra__Scheduler *g) {
    return asthra__load(&g->is_polling, relaxed) == 0 &&
           asthra__exchange(&g->is_polling, 1u, acquire) == 0;
}

static void asthra__outside_leave(Asthra__Scheduler *g) {
    asthra__store(&g->is_polling, 0u, release);
}

ASTHRA__FN void asthra__outside_deliver(Asthra__Scheduler *g) {
    asthra__load(&g->poller, acquire)->deliver();
    asthra__outside_leave(g);
}

ASTHRA__FN bool asthra__outside_poll(Asthra__Scheduler *g) {
    if (ASTHRA__LIKELY(!asthra__outside_is_awaited(g)) || !asthra__outside_enter(g)) return false;
    bool got = asthra__load(&g->poller, acquire)->wait(0);
    if (got)
        asthra__outside_deliver(g);
    else
        asthra__outside_leave(g);
    return got;
}

ASTHRA__FN bool asthra__outside_sleep(Asthra__Scheduler *g, Asthra__Worker *w, int64_t left_ns) {
    uint32_t asleep = ASTHRA__ASLEEP;
    if (!asthra__outside_enter(g)) {
        if (left_ns > ASTHRA__OUTSIDE_TICK_NS) left_ns = ASTHRA__OUTSIDE_TICK_NS;
        asthra__os_wait(&w->asleep, ASTHRA__ASLEEP, left_ns);
        return false;
    }
    bool got = asthra__cas(&w->asleep, &asleep, (uint32_t)ASTHRA__ASLEEP_OUTSIDE, acq_rel) &&
               asthra__load(&g->poller, acquire)->wait(left_ns == INT64_MAX ? -1 : left_ns);
    if (!got) asthra__outside_leave(g);
    return got;
}

#endif

/* ---- [scheduler] body -------------------------------------- concurrency/scheduler_host.c ---- */
/* scheduler - a main thread with a loop of its own.                        [scheduler] body: host
 *
 * Work that is bound to main waits in the queue of main's worker: worker 0 if main helps; if it
 * hosts, one more worker behind the others, which is in the queues' count but not in the workers',
 * because it never lies down. asthra__host_poll seats main there for a while: it leaves main's
 * stack, runs the loop, and the loop comes back when nothing is due or the time is over.
 *
 * What main may run. Only what is bound to it, if others serve the rest: a host's loop wants short
 * turns. Everything, if main is the only worker there is: without threads, under a seed, and with
 * one worker as long as no other thread works beside it. Whoever asks for the descriptor there gets
 * such a thread (relief), so that what waits for timers and descriptors needs no call of main's.
 *
 * The signal. Whoever gives main work publishes it, then exchanges is_signalled for 1, and sets the
 * signal if it was 0. A poll at its end clears the signal, stores 0, then looks at the queue once
 * more, and tells itself if there is work left. So between polls work implies a signal: work
 * published before the store is seen in the queue, after it the exchange sees 0.
 *
 * Where main is alone, all work is main's: `searching` is held at 1, so that every notify comes by
 * here.
 */

#if ASTHRA_HAS_TASK

enum { ASTHRA__HOST_TICK_NS = 1000000 };

ASTHRA__FN Asthra__Worker *asthra__main_worker(Asthra__Scheduler *g) {
    return &g->workers[g->config.main_helps ? 0 : g->workers_made - 1];
}

/* Is main the one that runs everything? */
static bool asthra__host_is_alone(Asthra__Scheduler *g) {
    return g->config.main_helps && asthra__load(&g->worker_count, acquire) == 1 &&
           asthra__load(&g->workers[0].only_bound, relaxed) == 0;
}

ASTHRA__FN void asthra__host_tell(Asthra__Scheduler *g) {
    if (ASTHRA__LIKELY(asthra__load(&g->has_signal, seq_cst) == 0)) return;
    if (asthra__exchange(&g->is_signalled, 1u, seq_cst) == 0) asthra__os_signal_set(g->host_signal);
}

static void asthra__host_hush(Asthra__Scheduler *g) {
    if (asthra__load(&g->is_signalled, acquire) == 0) return;
    asthra__os_signal_clear(g->host_signal);
    asthra__store(&g->is_signalled, 0u, seq_cst);
}

ASTHRA__FN void asthra__host_tell_if_alone(Asthra__Scheduler *g) {
    bool asks = asthra__load(&g->has_signal, relaxed) != 0;
    if (ASTHRA__UNLIKELY(asks) && asthra__host_is_alone(g)) asthra__host_tell(g);
}

static bool asthra__host_has_work(Asthra__Scheduler *g, Asthra__Worker *w) {
    if (asthra__load(&w->bound.count, seq_cst) != 0) return true;
    return asthra__host_is_alone(g) && asthra__work_exists(g, w);
}

/* ---- the loop, inside a poll ---- */

/* The slot of main's worker, if main may run it; else it goes to the others. */
static Asthra__Runnable *asthra__host_next(Asthra__Scheduler *g, Asthra__Worker *w) {
    Asthra__Runnable *item = asthra__next_take(w);
    if (item == NULL) return NULL;
    if (ASTHRA__CONTAINER(Asthra__Fiber, runnable, item)->bound_to == w->number) return item;
    asthra__list_push(&g->global, item);
    asthra__notify();
    return NULL;
}

static Asthra__Runnable *asthra__host_pick(Asthra__Scheduler *g, Asthra__Worker *w) {
    Asthra__Runnable *item;
    if (asthra__host_is_alone(g)) {
        do item = asthra__pick(w);
        while (item == NULL && (asthra__outside_poll(g) || asthra__advance_virtual_time(g, w)));
        return item;
    }
    w->turns++;
    asthra__store(&w->turns_seen, w->turns, relaxed);
    item = asthra__host_next(g, w);
    return item != NULL ? item : asthra__ranked_pop(&w->bound);
}

ASTHRA__FN Asthra__Runnable *asthra__host_item(Asthra__Worker *w) {
    Asthra__Scheduler *g = asthra__scheduler();
    w->now_ns = asthra__os_now_ns();
    if (w->host_turns > 0 && w->now_ns >= w->host_end_ns) return NULL;
    if (!asthra__is_deterministic()) asthra__timers_run(w, w->now_ns);
    Asthra__Runnable *item = asthra__host_pick(g, w);
    if (item != NULL) w->host_turns++;
    return item;
}

ASTHRA__FN size_t asthra__host_poll(Asthra__Seat *s, int64_t budget_ns) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Worker *w = asthra__main_worker(g);
    bool is_seated = s->worker != NULL;
    if (!asthra__spare_ensure(w)) {
        asthra__error_set(ASTHRA_OUT_OF_MEMORY, "asthra_runtime_poll: no stack to run tasks on");
        return 0;
    }
    int64_t now = asthra__os_now_ns();
    w->host_end_ns = budget_ns < 0 || budget_ns >= INT64_MAX - now ? INT64_MAX : now + budget_ns;
    w->host_turns = 0;
    w->is_hosted = true;
    s->worker = w;
    asthra__store(&w->is_outside, 0u, relaxed);
    s = asthra__worker_enter(s);
    if (g->config.main_helps) asthra__store(&w->is_outside, 1u, relaxed);
    w->is_hosted = false;
    if (!asthra__host_is_alone(g)) {
        Asthra__Runnable *item = asthra__host_next(g, w);
        if (item != NULL) asthra__ranked_push(&w->bound, &asthra__fiber_of(item)->ranked);
    }
    if (!is_seated) s->worker = NULL;
    asthra__host_hush(g);
    if (asthra__host_has_work(g, w)) asthra__host_tell(g);
    return w->host_turns;
}

/* ---- what a host asks between polls ---- */

ASTHRA__FN int64_t asthra__host_deadline(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Worker *w = asthra__main_worker(g);
    if (asthra__host_has_work(g, w)) return asthra__now_ns();
    if (!asthra__host_is_alone(g)) return asthra__load(&w->timers.earliest_ns, acquire);
    int64_t earliest = asthra__timers_earliest(), tick = asthra__now_ns() + ASTHRA__HOST_TICK_NS;
    return asthra__outside_is_awaited(g) && tick < earliest ? tick : earliest;
}

/* Opens the signal. Caller holds start_lock. */
static bool asthra__host_open(Asthra__Scheduler *g) {
    if (asthra__load(&g->has_signal, relaxed)) return true;
    g->host_signal = asthra__os_signal_open();
    if (g->host_signal.fd < 0) return false;
    if (asthra__host_is_alone(g)) asthra__add(&g->searching, 1u, seq_cst);
    asthra__store(&g->has_signal, 1u, seq_cst);
    return true;
}

ASTHRA__FN int asthra__host_fd(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (!asthra__scheduler_relieve()) return -1;
    asthra__lock(&g->start_lock);
    bool is_open = asthra__host_open(g);
    asthra__unlock(&g->start_lock);
    if (!is_open) {
        asthra__error_set(ASTHRA_LIMIT, "asthra_runtime_wake_fd: the system refused a descriptor");
        return -1;
    }
    if (asthra__host_has_work(g, asthra__main_worker(g))) asthra__host_tell(g);
    return g->host_signal.fd;
}

#endif

/* ---- [scheduler] body ------------------------------------ concurrency/scheduler_report.c ---- */
/* scheduler - who waits on what, and what a panic needs to know.           [scheduler] body: report
 *
 * Asleep. When the last worker lies down, nothing can run. If no timer is set, no plain thread
 * waits with a limit, and the process has no thread but the workers and threads that wait in our
 * calls, then nothing will ever run again: that is a bug of the program, told as a panic with
 * everybody who waits. `host_blocked` counts waits of plain threads that nobody has resumed yet;
 * whoever resumes one takes it out first, so a thread that is about to run is not counted as
 * blocked. A thread that the program made itself, and a sanitizer's own, keep the check silent:
 * they might still do something.
 *
 * Overflow. A touch of a guard page ends the task, not the process's memory: the handler, on an
 * alternate stack, makes the thread go on in a function of ours on the free part of an idle loop's
 * stack, where the panic has room to format, to call the hook and to fail the task.
 */

#if ASTHRA_HAS_TASK

#include <string.h>

#if ASTHRA__ASAN
void __asan_handle_no_return(void);
#endif

/* ---- names ---- */

static void asthra__describe_thread(Asthra__Text *t, const Asthra__Thread *thread) {
    if (thread->name[0] != '\0')
        asthra__text_format(t, "thread '%s'", thread->name);
    else
        asthra__text_format(t, "thread %llu", (unsigned long long)thread->id);
}

ASTHRA__FN const char *asthra__parker_name(const Asthra__Parker *p, char *out, size_t room) {
    Asthra__Text t = asthra__text_on(out, room);
    if (p->index != 0) {
        const Asthra__Task *task = ASTHRA__CONTAINER_CONST(Asthra__Task, parker, p);
        asthra__text_format(&t, "task %llu '%s'", (unsigned long long)asthra__task_bits(task),
                            task->name);
    } else {
        asthra__describe_thread(&t, ASTHRA__CONTAINER_CONST(Asthra__Seat, parker, p)->thread);
    }
    return out;
}

static bool asthra__is_unfinished(const Asthra__Task *t) {
    uint64_t word = asthra__load(&t->word, acquire);
    return (word & ASTHRA__TASK_ALIVE) && !(word & ASTHRA__TASK_END);
}

ASTHRA__FN const char *asthra__parker_name_if_any(uintptr_t parker, char *out, size_t room) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint32_t count = asthra__load(&g->descriptors, acquire);
    for (uint32_t i = 1; i < count; i++) {
        const Asthra__Task *t = asthra__task_at(i);
        if ((uintptr_t)&t->parker != parker) continue;
        return asthra__is_unfinished(t) ? asthra__parker_name(&t->parker, out, room)
                                        : "a task that has ended";
    }
    const char *name = "a thread that has ended";
    asthra__lock(&g->seats_lock);
    for (const Asthra__Seat *s = g->seats; s != NULL; s = s->next) {
        if ((uintptr_t)&s->parker == parker) name = asthra__parker_name(&s->parker, out, room);
    }
    asthra__unlock(&g->seats_lock);
    return name;
}

/* ---- lists of those who wait ---- */

/* A wait lives on its waiter's stack: it is looked at only if nobody can go on meanwhile. */
static void asthra__describe_wait(Asthra__Text *t, const Asthra__Parker *p, bool is_still) {
    uint32_t claim = asthra__load(&p->word, acquire) & ASTHRA__WAIT_CLAIM;
    if (claim != ASTHRA__WAIT_OPEN && claim != ASTHRA__WAIT_BUSY) {
        asthra__text_add(t, claim == ASTHRA__WAIT_IDLE ? "running" : "may run");
        return;
    }
    if (!is_still) {
        asthra__text_add(t, "waiting");
        return;
    }
    const Asthra__Wait *wait = p->wait;
    if (wait->describe != NULL) {
        wait->describe(t, wait);
        return;
    }
    asthra__text_add(t, wait->what);
    if (wait->name != NULL) asthra__text_format(t, " '%s'", wait->name);
}

static const Asthra__Task *asthra__task_of(uint64_t bits) {
    uint32_t index = (uint32_t)bits;
    if (index == 0 || index >= asthra__load(&asthra__scheduler()->descriptors, acquire))
        return NULL;
    const Asthra__Task *t = asthra__task_at(index);
    return asthra__task_bits(t) == bits ? t : NULL;
}

/* An await of a child in place, which is no wait of its own. */
static void asthra__describe_await(Asthra__Text *line, uint64_t bits) {
    const Asthra__Task *t = asthra__task_of(bits);
    if (t != NULL)
        asthra__text_format(line, "await of task '%s'", t->name);
    else
        asthra__text_format(line, "await of task %llu", (unsigned long long)bits);
}

/* What t does, as one line. */
static void asthra__describe_task(Asthra__Text *line, const Asthra__Task *t, bool is_still) {
    uint64_t child = asthra__load(&t->awaiting, relaxed);
    asthra__text_format(line, "task '%s': ", t->name);
    if (!(asthra__load(&t->marks, relaxed) & ASTHRA__TASK_STARTED)) {
        asthra__text_add(line, "not started");
    } else if (child != 0) {
        asthra__describe_await(line, child);
    } else {
        asthra__describe_wait(line, &t->parker, is_still);
    }
}

/* What the thread of s does; false: it runs the program's own code. */
static bool asthra__describe_seat(Asthra__Text *line, const Asthra__Seat *s, bool is_still) {
    uint64_t child = asthra__load(&s->awaiting, acquire);
    bool waits = (asthra__load(&s->parker.word, acquire) & ASTHRA__WAIT_CLAIM) != 0;
    if (!waits && child == 0) return false;
    asthra__describe_thread(line, s->thread);
    asthra__text_add(line, ": ");
    if (child != 0)
        asthra__describe_await(line, child);
    else
        asthra__describe_wait(line, &s->parker, is_still);
    return true;
}

/* Lines that say the same are one line with a count, so that a million workers fit a screen. */
typedef struct Asthra__Groups {
    Asthra__Table counts, oldest; /* by line: how many, and since when at the earliest */
} Asthra__Groups;

/* Since when p waits; UINT64_MAX: it does not. Whoever awaits `child` in place waits at least since
 * that one does. */
static uint64_t asthra__waits_since(const Asthra__Parker *p, uint64_t child) {
    const Asthra__Task *t;
    while ((asthra__load(&p->word, acquire) & ASTHRA__WAIT_CLAIM) != ASTHRA__WAIT_OPEN) {
        if ((t = asthra__task_of(child)) == NULL) return UINT64_MAX;
        p = &t->parker;
        child = asthra__load(&t->awaiting, relaxed);
    }
    return (uint64_t)p->wait->since_ns;
}

static void asthra__groups_add(Asthra__Groups *g, const char *line, uint64_t since) {
    uint64_t count = ++*asthra__table_slot_text(&g->counts, line);
    uint64_t *oldest = asthra__table_slot_text(&g->oldest, line);
    if (count == 1 || since < *oldest) *oldest = since;
}

static void asthra__groups_print(Asthra__Groups *g, int64_t now_ns) {
    for (size_t i = 0; i < asthra__table_count(&g->counts); i++) {
        const Asthra__TableEntry *e = asthra__table_at(&g->counts, i);
        uint64_t since = *asthra__table_find_text(&g->oldest, e->key.text);
        char age[40];
        Asthra__Text t = asthra__text_on(age, sizeof age);
        if (since != UINT64_MAX) {
            asthra__text_add(&t, ", since ");
            asthra__text_add_duration(&t, now_ns > (int64_t)since ? now_ns - (int64_t)since : 0);
        }
        asthra__text_report("  %llu x %s%s", (unsigned long long)e->value, e->key.text, age);
    }
    asthra__table_destroy(&g->counts);
    asthra__table_destroy(&g->oldest);
}

/* Every unfinished task, then every plain thread that waits. is_still: nothing runs meanwhile. */
static void asthra__report_everybody(bool is_still) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Groups groups;
    uint32_t count = asthra__load(&g->descriptors, acquire);
    char line[300];
    asthra__table_create(&groups.counts, ASTHRA__TABLE_TEXTS);
    asthra__table_create(&groups.oldest, ASTHRA__TABLE_TEXTS);
    for (uint32_t i = 1; i < count; i++) {
        const Asthra__Task *t = asthra__task_at(i);
        if (!asthra__is_unfinished(t)) continue;
        Asthra__Text text = asthra__text_on(line, sizeof line);
        asthra__describe_task(&text, t, is_still);
        uint64_t child = asthra__load(&t->awaiting, relaxed);
        asthra__groups_add(&groups, line,
                           is_still ? asthra__waits_since(&t->parker, child) : UINT64_MAX);
    }
    asthra__lock(&g->seats_lock);
    for (const Asthra__Seat *s = g->seats; s != NULL; s = s->next) {
        Asthra__Text text = asthra__text_on(line, sizeof line);
        if (!asthra__describe_seat(&text, s, is_still)) continue;
        uint64_t child = asthra__load(&s->awaiting, relaxed);
        asthra__groups_add(&groups, line,
                           is_still ? asthra__waits_since(&s->parker, child) : UINT64_MAX);
    }
    asthra__unlock(&g->seats_lock);
    asthra__groups_print(&groups, asthra__now_ns());
}

/* ---- asleep ---- */

/* Every worker lies, and not for a moment only: none holds work, and none got up between two looks,
 * or it would be up still, or have lain down again. */
ASTHRA__FN bool asthra__rest_is_total(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint32_t workers = asthra__load(&g->worker_count, acquire);
    uint32_t manned = asthra__load(&g->manned, acquire);
    uint32_t rests = asthra__load(&g->rests, seq_cst);
    if (manned == 0) workers = 0; /* nobody has spawned yet: there are no worker threads */
    if (manned != workers || asthra__load(&g->sleeping, seq_cst) != workers) return false;
    for (uint32_t i = 0; i < workers; i++) {
        if (asthra__work_exists(g, &g->workers[i])) return false;
    }
    return asthra__load(&g->sleeping, seq_cst) == workers &&
           asthra__load(&g->rests, seq_cst) == rests;
}

ASTHRA__FN bool asthra__all_are_asleep(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (asthra__load(&g->phase, acquire) != ASTHRA__PHASE_RUNNING) return false;
    uint32_t rests = asthra__load(&g->rests, seq_cst);
    if (!asthra__rest_is_total() || asthra__timers_earliest() != INT64_MAX) return false;
    if (asthra__outside_is_awaited(g)) return false;
    if (asthra__load(&g->timed_hosts, seq_cst) != 0) return false;
    size_t known = asthra__load(&g->manned, acquire) + asthra__load(&g->host_blocked, seq_cst) +
                   (ASTHRA__TSAN ? 1 : 0);
    if (asthra__os_thread_count() != known) return false;
    return asthra__rest_is_total() && asthra__load(&g->rests, seq_cst) == rests;
}

ASTHRA__COLD ASTHRA__FN void asthra__report_asleep(void) {
    static const char text[] = "all tasks are asleep";
    if (asthra__exchange(&asthra__scheduler()->is_asleep_told, 1u, acq_rel)) return;
    asthra__text_report("all tasks are asleep, and nothing is left that could wake one:");
    asthra__report_everybody(true);
    asthra__panic_with(NULL, 0, text);
}

ASTHRA__FN void asthra__report_standing(bool is_still) {
    asthra__text_report("shutdown: these tasks were cancelled and have not ended in time:");
    asthra__report_everybody(is_still);
}

/* ---- panics of tasks ---- */

static Asthra__Task *asthra__panic_task(void) {
    Asthra__Seat *s = asthra__seat_if_any();
    return s == NULL ? NULL : s->task;
}

static struct AsthraError **asthra__task_error_place(void) {
    Asthra__Task *t = asthra__panic_task();
    return t == NULL ? NULL : &t->error;
}

static uint64_t asthra__panic_task_id(void) {
    Asthra__Task *t = asthra__panic_task();
    return t == NULL ? 0 : asthra__task_bits(t);
}

static const char *asthra__panic_task_name(void) {
    Asthra__Task *t = asthra__panic_task();
    return t == NULL ? NULL : t->name;
}

static AsthraPanicPolicy asthra__panic_task_policy(void) {
    Asthra__Task *t = asthra__panic_task();
    return t == NULL ? ASTHRA_PANIC_ABORT : (AsthraPanicPolicy)t->policy;
}

static void asthra__panic_task_set_policy(AsthraPanicPolicy policy) {
    Asthra__Task *t = asthra__panic_task();
    if (t != NULL) t->policy = (uint8_t)policy;
}

/* Ends the task's function here and now; its frames are abandoned. */
static void asthra__panic_fail_task(const AsthraPanicInfo *info) {
    Asthra__Seat *s = asthra__seat_if_any();
    if (s == NULL || s->task == NULL) return;
    asthra__error_set(ASTHRA_PANICKED, "%s", info->message);
    s->fiber->has_failed = true;
#if ASTHRA__ASAN
    __asan_handle_no_return();
#endif
    asthra__swap_escape(s->fiber->escape, NULL);
}

/* ---- overflow ---- */

/* Which tasks stand below `top` on its stack: each awaits the one above it, without a wait. */
static void asthra__name_those_below(Asthra__Text *out, const Asthra__Task *top) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint32_t count = asthra__load(&g->descriptors, acquire);
    uint64_t above = asthra__task_bits(top);
    for (int named = 0; above != 0 && named < 8; named++) {
        uint64_t next = 0;
        for (uint32_t i = 1; i < count && next == 0; i++) {
            const Asthra__Task *t = asthra__task_at(i);
            bool is_idle = (asthra__load(&t->parker.word, relaxed) & ASTHRA__WAIT_CLAIM) == 0;
            if (!asthra__is_unfinished(t) || !is_idle) continue;
            if (asthra__load(&t->awaiting, relaxed) != above) continue;
            asthra__text_format(out, "%s'%s'",
                                named == 0 ? " on a stack that it shares with " : ", ", t->name);
            next = asthra__task_bits(t);
        }
        above = next;
    }
}

/* On the free part of an idle loop's stack. */
ASTHRA__COLD static void asthra__overflow_panic(void *fiber) {
    const Asthra__Fiber *f = fiber;
    char message[400];
    Asthra__Text t = asthra__text_on(message, sizeof message);
    size_t kib = (size_t)(f->high - f->low) / 1024;
    Asthra__Task *task = asthra__panic_task();
    if (task == NULL) {
        asthra__text_format(&t, "stack overflow: the runtime used all %zu KiB of a stack", kib);
    } else {
        asthra__text_format(&t, "stack overflow: task '%s' used all %zu KiB", task->name, kib);
        asthra__name_those_below(&t, task);
        asthra__text_add(&t,
                         "; give it more with stack_bytes in AsthraSpawnOptions, or all of them "
                         "with stack_size in AsthraRuntimeConfig");
    }
    asthra__panic_with(NULL, 0, message);
}

/* A task that was called in place on main's own stack ran out of that one. */
static bool asthra__is_below_root(const Asthra__Seat *s, const void *address) {
    uintptr_t low = (uintptr_t)s->root.low, at = (uintptr_t)address;
    size_t page = asthra__os_page_size();
    return s->fiber == &s->root && s->task != NULL && at < low + page && at >= low - 256 * page;
}

/* In a signal handler. */
static bool asthra__on_fault(void *address, void *context) {
    if (asthra__guard_on_fault(address, context)) return true;
    Asthra__Fiber *f = asthra__fiber_of_guard(address);
    Asthra__Seat *s = asthra__seat_if_any();
    if (s == NULL || s->worker == NULL) return false;
    if (f == NULL && asthra__is_below_root(s, address)) f = s->fiber;
    if (f == NULL || s->fiber != f) return false;
    Asthra__Fiber *spare = s->worker->spare;
    if (spare == NULL) return false;
    uintptr_t top = ((uintptr_t)spare->context - 1024) / 64 * 64;
    return asthra__os_fault_redirect(context, asthra__overflow_panic, f, (void *)top);
}

static char *asthra__stack_end_here(const char *here) {
    const Asthra__Seat *s = asthra__seat_if_any();
    const Asthra__Fiber *f = s == NULL ? NULL : s->fiber;
    return f != NULL && here >= f->low && here < f->high ? f->high : NULL;
}

ASTHRA__FN void asthra__report_setup(void) {
    static const Asthra__HeapRunner runner = {asthra__current_id, asthra__stack_end_here};
    static const Asthra__PanicOwner owner = {
        asthra__panic_task_id,         asthra__panic_task_name, asthra__panic_task_policy,
        asthra__panic_task_set_policy, asthra__panic_fail_task,
    };
    asthra__panic_set_owner(&owner);
    asthra__result_set_place(asthra__task_error_place);
    asthra__heap_set_runner(&runner);
    asthra__os_fault_install(asthra__on_fault);
}

ASTHRA__FN void asthra__report_teardown(void) {
    asthra__os_fault_remove();
    asthra__heap_set_runner(NULL);
    asthra__panic_set_owner(NULL);
    asthra__result_set_place(NULL);
}

#endif

/* ---- [task] internal ---------------------------------------- concurrency/task_internal.h ---- */
/* task - handles and descriptors.                                          [task] internal */

#if ASTHRA_HAS_TASK

/* Whoever waits for the end of a task, in its list, under its stripe's lock. */
typedef struct Asthra__AwaitNode {
    struct Asthra__AwaitNode *next, **link; /* link NULL: not in the list */
    Asthra__Parker *parker;
} Asthra__AwaitNode;

/* task_record.c */
ASTHRA__FN Asthra__Task *asthra__task_take(Asthra__Seat *s); /* NULL: no memory */
ASTHRA__FN void asthra__task_free(Asthra__Seat *s, Asthra__Task *t);
/* The descriptor that h names, or a panic: `verb` is the public function's name. With `consumes`
 * there must be a handle left to consume. */
ASTHRA__FN Asthra__Task *asthra__task_resolve(AsthraTaskHandle h, const char *verb, bool consumes);
ASTHRA__FN Asthra__Task *asthra__task_find(AsthraTaskHandle h); /* NULL: not valid */
/* Gives one handle up, which is `bits`; false: it was consumed meanwhile. */
ASTHRA__FN bool asthra__task_release(Asthra__Seat *s, Asthra__Task *t, uint64_t bits);
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__task_refuse(AsthraTaskHandle h,
                                                                 const char *verb);
ASTHRA__FN Asthra__Lock *asthra__task_stripe(const Asthra__Task *t);
ASTHRA__FN void *asthra__task_block(Asthra__Task *t, size_t *bytes); /* NULL: it has none */

/* task.c */
ASTHRA__FN void asthra__task_forward_cancel(uint64_t bits); /* to t and what it awaits, and so on */

#endif

/* ---- [task] body ---------------------------------------------- concurrency/task_record.c ---- */
/* task - descriptors and handles.                                         [task] body: record
 *
 * A task is a descriptor of two cache lines. Descriptors live in segments that double in size and
 * are never unmapped while the runtime runs, so an index, checked against their number, always
 * leads to a readable word; that word holds the generation, so a stale handle is seen and a handle
 * can be acted upon by one compare-and-swap.
 *
 * Free descriptors are kept by the thread that frees them, in magazines (Bonwick and Adams,
 * Magazines and Vmem, 2001): two of up to 128, exchanged with the shared store when one is full or
 * both are empty, so that one thread may spawn and another await without a lock for each task.
 *
 * Life of a descriptor
 *     free -> spawned: ALIVE, one handle, nobody else knows it: plain writes until it is queued
 *     queued: whoever takes it out of its queue, and nobody else, starts it
 *     running -> ended: `how` is added to the word, or plainly stored if nobody else can know it
 *     ended and no handle left: whoever makes it so frees it, and nobody else can
 */

#if ASTHRA_HAS_TASK

#include <string.h>

/* LeakSanitizer looks for pointers in mapped memory only where it is told to. */
#if ASTHRA__ASAN
void __lsan_register_root_region(const void *start, size_t bytes);
void __lsan_unregister_root_region(const void *start, size_t bytes);
#define ASTHRA__ROOTS(verb, start, bytes) __lsan_##verb##_root_region((start), (bytes))
#else
#define ASTHRA__ROOTS(verb, start, bytes) ((void)0)
#endif

enum { ASTHRA__SEGMENT_FIRST = 1024, ASTHRA__FRESH_BATCH = 64, ASTHRA__EXTRA_KEPT = 1024 };

/* ---- descriptors ---- */

static unsigned asthra__segment_of(uint32_t index) {
    return 31u - (unsigned)__builtin_clz(index + ASTHRA__SEGMENT_FIRST) - 10u;
}

ASTHRA__FN Asthra__Task *asthra__task_at(uint32_t index) {
    unsigned k = asthra__segment_of(index);
    uint32_t first = (uint32_t)ASTHRA__SEGMENT_FIRST << k;
    return &asthra__scheduler()->segments[k][index + ASTHRA__SEGMENT_FIRST - first];
}

ASTHRA__FN uint64_t asthra__task_bits(const Asthra__Task *t) {
    return (asthra__load(&t->word, relaxed) & ASTHRA__TASK_GENERATION) | t->parker.index;
}

ASTHRA__FN Asthra__Lock *asthra__task_stripe(const Asthra__Task *t) {
    return &asthra__scheduler()->stripes[t->parker.index % ASTHRA__STRIPES];
}

/* A range of descriptors that were never used. Caller holds the lock. */
static bool asthra__task_reserve(Asthra__Scheduler *g, Asthra__Seat *s) {
    uint32_t first = asthra__load(&g->descriptors, relaxed);
    uint32_t last = first + ASTHRA__FRESH_BATCH - 1;
    unsigned k = asthra__segment_of(last);
    if (k >= ASTHRA__SEGMENTS) return false;
    if (g->segments[k] == NULL) {
        size_t bytes = ((size_t)ASTHRA__SEGMENT_FIRST << k) * sizeof(Asthra__Task);
        g->segments[k] = asthra__os_map(bytes);
        if (g->segments[k] == NULL) return false;
        ASTHRA__ROOTS(register, g->segments[k], bytes);
    }
    s->fresh = first == 0 ? 1 : first;
    s->fresh_end = last + 1;
    asthra__store(&g->descriptors, last + 1, release); /* pairs with the load in task_find */
    return true;
}

/* The seat has none: full magazine, shared one, or fresh ones. */
ASTHRA__COLD static bool asthra__task_refill(Asthra__Seat *s) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (s->spare != NULL) {
        s->loaded = s->spare;
        s->loaded_count = s->spare_count;
        s->spare = NULL;
        return true;
    }
    asthra__lock(&g->descriptors_lock);
    Asthra__Task *magazine = g->magazines;
    bool is_good = magazine != NULL || asthra__task_reserve(g, s);
    if (magazine != NULL) g->magazines = (Asthra__Task *)(void *)magazine->waiters;
    asthra__unlock(&g->descriptors_lock);
    if (magazine != NULL) {
        magazine->waiters = NULL;
        s->loaded = magazine;
        s->loaded_count = (uint32_t)(uintptr_t)magazine->value;
    }
    return is_good;
}

static Asthra__Task *asthra__task_next_free(const Asthra__Task *t) {
    return (Asthra__Task *)(void *)t->runnable.next;
}

/* The next one that was never used. Its generation differs from runtime to runtime, so that a
 * handle that outlived a shutdown is stale; the first one's, and a seeded one's, begin with 0. */
static Asthra__Task *asthra__task_fresh(Asthra__Seat *s) {
    Asthra__Task *t = asthra__task_at(s->fresh);
    uint64_t runs = asthra__is_deterministic() ? 0 : (s->epoch - 2) / 2;
    asthra__store(&t->word, (runs * 0x9e3779b1u) << 32, relaxed);
    t->parker.index = s->fresh++;
    return t;
}

/* A free descriptor, or NULL. */
ASTHRA__FN Asthra__Task *asthra__task_take(Asthra__Seat *s) {
    if (ASTHRA__UNLIKELY(s->loaded == NULL && s->fresh == s->fresh_end) &&
        !asthra__task_refill(s)) {
        return NULL;
    }
    Asthra__Task *t = s->loaded;
    if (ASTHRA__LIKELY(t != NULL)) {
        s->loaded = asthra__task_next_free(t);
        s->loaded_count--;
        return t;
    }
    return asthra__task_fresh(s);
}

/* A magazine becomes everybody's. Its first descriptor keeps the link and the count. */
static void asthra__magazine_give(Asthra__Task *magazine, uint32_t count) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (magazine == NULL) return;
    magazine->value = (void *)(uintptr_t)count;
    asthra__lock(&g->descriptors_lock);
    magazine->waiters = (struct Asthra__AwaitNode *)(void *)g->magazines;
    g->magazines = magazine;
    asthra__unlock(&g->descriptors_lock);
}

/* The full one in use goes aside; the one that was there goes to all. */
ASTHRA__COLD static void asthra__task_flush_loaded(Asthra__Seat *s) {
    asthra__magazine_give(s->spare, s->spare_count);
    s->spare = s->loaded;
    s->spare_count = s->loaded_count;
    s->loaded = NULL;
    s->loaded_count = 0;
}

ASTHRA__FN void asthra__task_flush(Asthra__Seat *s) {
    for (; s->fresh < s->fresh_end; s->loaded_count++) { /* make them look used */
        Asthra__Task *t = asthra__task_fresh(s);
        t->runnable.next = s->loaded == NULL ? NULL : &s->loaded->runnable;
        s->loaded = t;
    }
    asthra__task_flush_loaded(s);
    asthra__task_flush_loaded(s);
}

ASTHRA__FN void asthra__task_free(Asthra__Seat *s, Asthra__Task *t) {
    if (ASTHRA__UNLIKELY(t->error != NULL)) asthra__error_free(t->error);
    if (ASTHRA__UNLIKELY(t->extra != NULL) && t->extra->room > ASTHRA__EXTRA_KEPT) {
        asthra__free(t->extra);
        t->extra = NULL;
    }
    t->error = NULL;
    uint64_t word = asthra__load(&t->word, relaxed);
    asthra__store(&t->word, (word & ASTHRA__TASK_GENERATION) + (UINT64_C(1) << 32), release);
    if (ASTHRA__UNLIKELY(s->loaded_count >= ASTHRA__MAGAZINE)) asthra__task_flush_loaded(s);
    t->runnable.next = s->loaded == NULL ? NULL : &s->loaded->runnable;
    s->loaded = t;
    s->loaded_count++;
}

ASTHRA__FN uint64_t asthra__task_unfinished(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    asthra__lock(&g->seats_lock);
    uint64_t ended = g->ended_before, spawned = g->spawned_before;
    for (Asthra__Seat *s = g->seats; s != NULL; s = s->next)
        ended += asthra__load(&s->ended, acquire);
    for (Asthra__Seat *s = g->seats; s != NULL; s = s->next) {
        spawned += asthra__load(&s->spawned, acquire);
    }
    asthra__unlock(&g->seats_lock);
    return spawned - ended;
}

/* ---- handles ---- */

ASTHRA__FN Asthra__Task *asthra__task_find(AsthraTaskHandle h) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint32_t index = (uint32_t)h.bits;
    if (index == 0 || index >= asthra__load(&g->descriptors, acquire)) return NULL;
    Asthra__Task *t = asthra__task_at(index);
    uint64_t word = asthra__load(&t->word, acquire);
    bool is_same = ((word ^ h.bits) & ASTHRA__TASK_GENERATION) == 0;
    return is_same && (word & ASTHRA__TASK_ALIVE) ? t : NULL;
}

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__task_refuse(AsthraTaskHandle h,
                                                                 const char *verb) {
    AsthraResult why = asthra_last_error();
    if (h.bits == 0 && why.status) {
        asthra_panic_at(NULL, "%s: handle 0, whose spawn failed: %s", verb,
                        asthra_result_message(why));
    }
    asthra_panic_at(
        NULL,
        "%s: handle %llu names no task: it was awaited or detached before, or never came "
        "from a spawn of this runtime",
        verb, (unsigned long long)h.bits);
}

ASTHRA__FN Asthra__Task *asthra__task_resolve(AsthraTaskHandle h, const char *verb, bool consumes) {
    Asthra__Task *t = asthra__task_find(h);
    if (ASTHRA__UNLIKELY(t == NULL)) asthra__task_refuse(h, verb);
    if (consumes && !(asthra__load(&t->word, relaxed) & ASTHRA__TASK_HANDLES)) {
        asthra_panic_at(NULL, "%s: task %llu was detached, or its handle was consumed", verb,
                        (unsigned long long)h.bits);
    }
    return t;
}

/* Two sides that consume one handle at once are a bug of the caller. Where somebody has parked for
 * the end, the generation and the count of handles are checked and counted down in one step. */
ASTHRA__FN bool asthra__task_release(Asthra__Seat *s, Asthra__Task *t, uint64_t bits) {
    const uint64_t mask = ASTHRA__TASK_HANDLES | ASTHRA__TASK_AWAITED;
    uint64_t word = asthra__load(&t->word, acquire), after;
    if (((word ^ bits) & ASTHRA__TASK_GENERATION) != 0) return false;
    if ((word & mask) == ASTHRA__TASK_HANDLE && (word & ASTHRA__TASK_END) != 0) {
        asthra__task_free(s, t); /* the only handle, and it is ours */
        return true;
    }
    do {
        bool is_same = ((word ^ bits) & ASTHRA__TASK_GENERATION) == 0;
        if (!is_same || !(word & ASTHRA__TASK_HANDLES)) return false;
        after = word - ASTHRA__TASK_HANDLE;
    } while (!asthra__cas(&t->word, &word, after, acq_rel));
    if (!(after & ASTHRA__TASK_HANDLES) && (after & ASTHRA__TASK_END)) asthra__task_free(s, t);
    return true;
}

ASTHRA__FN void *asthra__task_block(Asthra__Task *t, size_t *bytes) {
    uint8_t marks = asthra__load(&t->marks, relaxed);
    if (!(marks & ASTHRA__TASK_COPIED)) return NULL;
    *bytes = marks & ASTHRA__TASK_EXTRA ? t->extra->block_bytes : t->block_size;
    return marks & ASTHRA__TASK_EXTRA ? (void *)(t->extra + 1) : t->block;
}

ASTHRA__FN void asthra__task_teardown(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint32_t count = asthra__load(&g->descriptors, relaxed);
    for (uint32_t i = 1; i < count; i++) {
        Asthra__Task *t = asthra__task_at(i);
        asthra__error_free(t->error);
        asthra__free(t->extra);
    }
    for (unsigned k = 0; k < ASTHRA__SEGMENTS; k++) {
        size_t bytes = ((size_t)ASTHRA__SEGMENT_FIRST << k) * sizeof(Asthra__Task);
        if (g->segments[k] == NULL) continue;
        ASTHRA__ROOTS(unregister, g->segments[k], bytes);
        asthra__os_unmap(g->segments[k], bytes);
    }
}

#endif

/* ---- [task] body ----------------------------------------------------- concurrency/task.c ---- */
/* task - functions that run on all cores, and their results.               [task] body
 *
 * A task is a descriptor (see task_record.c), spawned, cancelled and asked about here; awaiting it
 * is task_await.c.
 */

#if ASTHRA_HAS_TASK

#include <string.h>

ASTHRA__WORD_BODY volatile uint32_t asthra_safepoint_word;

/* ---- spawn ---- */

ASTHRA__COLD static AsthraTaskHandle asthra__spawn_failed(Asthra__Seat *s, Asthra__Task *t) {
    AsthraTaskHandle none = {0};
    if (asthra__scheduler()->config.max_tasks != 0 && t != NULL) {
        asthra__sub(&asthra__scheduler()->unfinished, (size_t)1, relaxed);
    }
    if (t != NULL) {
        t->extra = NULL;
        asthra__task_free(s, t);
    }
    return none;
}

/* Room for a task under max_tasks. */
ASTHRA__COLD static bool asthra__task_admit(Asthra__Scheduler *g) {
    if (asthra__add(&g->unfinished, (size_t)1, relaxed) < g->config.max_tasks) return true;
    asthra__sub(&g->unfinished, (size_t)1, relaxed);
    asthra__error_set(ASTHRA_LIMIT, "max_tasks: %zu tasks are unfinished already",
                      g->config.max_tasks);
    return false;
}

/* What a spawn looks at when anything about this runtime is rare. */
ASTHRA__COLD static bool asthra__task_may_start(Asthra__Scheduler *g, const Asthra__Seat *s) {
    if (!asthra__tier_is_on(1) || !asthra__scheduler_man(s)) return false;
    return g->config.max_tasks == 0 || asthra__task_admit(g);
}

ASTHRA__COLD static Asthra__Task *asthra__task_none(Asthra__Scheduler *g) {
    if (g->config.max_tasks != 0) asthra__sub(&g->unfinished, (size_t)1, relaxed);
    asthra__error_set(ASTHRA_OUT_OF_MEMORY, "no memory for a task's descriptor");
    return NULL;
}

/* A descriptor with everything but what options add; NULL: the reason is set. */
static Asthra__Task *asthra__task_create(Asthra__Seat *s, AsthraTaskFunction fn, void *value,
                                         const char *name) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (ASTHRA__UNLIKELY(fn == NULL)) asthra_panic_at(NULL, "asthra_spawn: the function is NULL");
    uint32_t rare = asthra__load(&g->rare, acquire);
    if (s->worker != NULL) rare &= ~(uint32_t)ASTHRA__RARE_RELIEF;
    if (ASTHRA__UNLIKELY(rare != 0) && !asthra__task_may_start(g, s)) return NULL;
    Asthra__Task *t = asthra__task_take(s);
    if (ASTHRA__UNLIKELY(t == NULL)) return asthra__task_none(g);
    uint64_t generation = asthra__load(&t->word, relaxed) & ASTHRA__TASK_GENERATION;
    asthra__store(&t->word, generation | ASTHRA__TASK_HANDLE | ASTHRA__TASK_ALIVE, release);
    t->function = fn;
    t->value = value;
    t->name = name;
    t->parent = s->task != NULL ? asthra__task_bits(s->task) : 0;
    t->runnable.priority = 0;
    t->affinity = 0;
    asthra__store(&t->marks, (uint8_t)0, relaxed);
    asthra__store(&t->awaiting, (uint64_t)0, relaxed);
    asthra__store(&t->masks, (uint8_t)0, relaxed);
    t->policy = (uint8_t)g->config.policy;
    return t;
}

static AsthraTaskHandle asthra__task_submit(Asthra__Seat *s, Asthra__Task *t) {
    AsthraTaskHandle h = {asthra__task_bits(t)};
    struct AsthraError *error = s->task != NULL ? s->task->error : s->thread->own_error;
    if (ASTHRA__UNLIKELY(error != NULL)) asthra__error_clear();
    asthra__store(&s->spawned, asthra__load(&s->spawned, relaxed) + 1, release);
    ASTHRA__TRACE(ASTHRA_DEBUG_CONCURRENCY_OPERATIONS, "SPAWN: task %llu %s",
                  (unsigned long long)h.bits, t->name);
    asthra__runnable_task(s, t);
    return h;
}

ASTHRA__FLATTEN ASTHRA_RT_API AsthraTaskHandle asthra_spawn_at(AsthraTaskFunction fn, void *args,
                                                               const char *name) {
    asthra__turn();
    Asthra__Seat *s = asthra__seat();
    Asthra__Task *t = asthra__task_create(s, fn, args, name);
    if (ASTHRA__UNLIKELY(t == NULL)) return asthra__spawn_failed(s, NULL);
    return asthra__task_submit(s, t);
}

ASTHRA_RT_API AsthraTaskHandle(asthra_spawn)(AsthraTaskFunction fn, void *args) {
    return asthra_spawn_at(fn, args, "task");
}

/* Room for options and for a block of `bytes`; kept with the descriptor for its next task. */
static bool asthra__task_extend(Asthra__Task *t, size_t bytes) {
    if (t->extra != NULL && t->extra->room < bytes) {
        asthra__free(t->extra);
        t->extra = NULL;
    }
    if (t->extra == NULL) {
        size_t room = (bytes + 63) / 64 * 64;
        if (bytes > SIZE_MAX / 2) return false;
        t->extra = asthra__alloc(sizeof *t->extra + room);
        if (t->extra == NULL) return false;
        t->extra->room = room;
    }
    t->extra->stack_bytes = 0;
    t->extra->ranked.item = &t->runnable;
    uint8_t marks = asthra__load(&t->marks, relaxed);
    asthra__store(&t->marks, (uint8_t)(marks | ASTHRA__TASK_EXTRA), relaxed);
    return true;
}

/* The worker that an affinity means, + 1; 0: any. False: there is none, and the reason is set. */
static bool asthra__task_affinity(Asthra__Scheduler *g, int affinity, int16_t *out) {
    unsigned count = asthra__load(&g->worker_count, relaxed);
    *out = 0;
    if (affinity == ASTHRA_AFFINITY_ANY) return true;
    if (affinity == ASTHRA_AFFINITY_MAIN) {
        *out = (int16_t)ASTHRA_AFFINITY_WORKER(asthra__main_worker(g)->number);
        if (!g->config.main_helps) asthra__store(&g->has_bound, 1u, release);
        return true;
    }
    if (affinity < 0) {
        asthra__error_set(ASTHRA_INVALID, "affinity: %d is none of ASTHRA_AFFINITY_", affinity);
    } else if ((unsigned)affinity > count) {
        asthra__error_set(ASTHRA_INVALID, "affinity: worker %d asked for, there are %u, from 0",
                          affinity - 1, count);
    } else {
        *out = (int16_t)affinity;
        return true;
    }
    return false;
}

ASTHRA_RT_API AsthraTaskHandle asthra_spawn_with(const AsthraSpawnOptions *o, AsthraTaskFunction fn,
                                                 void *args) {
    static const AsthraSpawnOptions defaults = {NULL, 0, 0, 0};
    asthra__turn();
    Asthra__Seat *s = asthra__seat();
    int16_t affinity;
    if (o == NULL) o = &defaults;
    if (o->stack_bytes > ASTHRA__OS_STACK_MOST) {
        asthra__error_set(ASTHRA_INVALID, "stack_bytes: %zu asked for, at most %zu", o->stack_bytes,
                          ASTHRA__OS_STACK_MOST);
        return asthra__spawn_failed(s, NULL);
    }
    if (!asthra__task_affinity(asthra__scheduler(), o->affinity, &affinity)) {
        return asthra__spawn_failed(s, NULL);
    }
    Asthra__Task *t = asthra__task_create(s, fn, args, "task");
    if (t == NULL) return asthra__spawn_failed(s, NULL);
    if (!asthra__task_extend(t, 0)) {
        asthra__error_set(ASTHRA_OUT_OF_MEMORY, "no memory for a task's options");
        return asthra__spawn_failed(s, t);
    }
    t->extra->stack_bytes = o->stack_bytes;
    t->runnable.priority = o->priority;
    t->affinity = affinity;
    if (o->name != NULL) {
        Asthra__Text name = asthra__text_on(t->extra->name, sizeof t->extra->name);
        asthra__text_add(&name, o->name);
        t->name = t->extra->name;
    }
    return asthra__task_submit(s, t);
}

/* A block of more bytes than the descriptor has room for. False: no memory. */
static bool asthra__task_add_block(Asthra__Task *t, size_t size) {
    if (!asthra__task_extend(t, size)) {
        asthra__error_set(ASTHRA_OUT_OF_MEMORY, "no memory for a task's block of %zu bytes", size);
        return false;
    }
    t->extra->block_bytes = size;
    t->value = t->extra + 1;
    asthra__store(&t->marks, (uint8_t)(ASTHRA__TASK_EXTRA | ASTHRA__TASK_COPIED), relaxed);
    return true;
}

/* The block that the descriptor has room for. */
static inline void asthra__task_use_block(Asthra__Task *t, size_t size) {
    t->block_size = (uint8_t)size;
    t->value = t->block;
    asthra__store(&t->marks, (uint8_t)ASTHRA__TASK_COPIED, relaxed);
}

ASTHRA__FLATTEN ASTHRA_RT_API AsthraTaskHandle asthra_spawn_words_at(AsthraTaskFunction fn,
                                                                     AsthraTaskWords block,
                                                                     const char *name) {
    asthra__turn();
    Asthra__Seat *s = asthra__seat();
    Asthra__Task *t = asthra__task_create(s, fn, NULL, name);
    if (ASTHRA__UNLIKELY(t == NULL)) return asthra__spawn_failed(s, NULL);
    _Static_assert(sizeof block == ASTHRA__TASK_INLINE, "they fill the block of a descriptor");
    asthra__task_use_block(t, sizeof block);
    memcpy(t->block, &block, sizeof block);
    return asthra__task_submit(s, t);
}

ASTHRA_RT_API AsthraTaskHandle asthra_spawn_room_at(AsthraTaskFunction fn, const void *block,
                                                    size_t size, size_t room, const char *name) {
    asthra__turn();
    Asthra__Seat *s = asthra__seat();
    Asthra__Task *t = asthra__task_create(s, fn, NULL, name);
    if (ASTHRA__UNLIKELY(t == NULL)) return asthra__spawn_failed(s, NULL);
    if (room <= ASTHRA__TASK_INLINE) {
        asthra__task_use_block(t, room);
    } else if (!asthra__task_add_block(t, room)) {
        return asthra__spawn_failed(s, t);
    }
    if (block == NULL)
        memset(t->value, 0, size);
    else if (size > 0)
        memcpy(t->value, block, size);
    return asthra__task_submit(s, t);
}

ASTHRA_RT_API AsthraTaskHandle asthra_spawn_copy_at(AsthraTaskFunction fn, const void *block,
                                                    size_t size, const char *name) {
    return asthra_spawn_room_at(fn, block, size, size, name);
}

ASTHRA_RT_API AsthraTaskHandle(asthra_spawn_copy)(AsthraTaskFunction fn, const void *block,
                                                  size_t size) {
    return asthra_spawn_copy_at(fn, block, size, "task");
}

/* ---- the end ---- */

/* Tells the end, claims and unlinks every awaiter, then wakes them. Told under the lock: once it is
 * told, an awaiter that had timed out may free t, and nobody may find the awaiters of the next task
 * there before our list is empty. Returns the word before. */
ASTHRA__COLD static uint64_t asthra__task_end_awaited(Asthra__Task *t, AsthraTaskState how) {
    Asthra__Lock *stripe = asthra__task_stripe(t);
    Asthra__AwaitNode *won = NULL;
    asthra__lock(stripe);
    uint64_t word = asthra__add(&t->word, (uint64_t)how, acq_rel);
    for (Asthra__AwaitNode *n = t->waiters, *next; n != NULL; n = next) {
        next = n->next;
        n->link = NULL;
        if (!asthra__wait_claim(n->parker)) continue; /* timed out, or cancelled */
        n->next = won;
        won = n;
    }
    t->waiters = NULL;
    asthra__unlock(stripe);
    while (won != NULL) { /* a node is its waiter's until the wake */
        Asthra__Parker *p = won->parker;
        won = won->next;
        asthra__wait_wake(p);
    }
    return word;
}

/* The end of a task that others may know of. */
static void asthra__task_end_shared(Asthra__Seat *s, Asthra__Task *t, AsthraTaskState how) {
    uint64_t word = asthra__load(&t->word, relaxed);
    do {
        if (word & ASTHRA__TASK_AWAITED) {
            word = asthra__task_end_awaited(t, how);
            break;
        }
    } while (!asthra__cas(&t->word, &word, word | (uint64_t)how, acq_rel));
    if (!(word & ASTHRA__TASK_HANDLES)) asthra__task_free(s, t);
}

ASTHRA__FN void asthra__task_end(Asthra__Seat *s, Asthra__Task *t, AsthraTaskState how, void *value,
                                 bool is_alone) {
    Asthra__Scheduler *g = asthra__scheduler();
    ASTHRA__TRACE(ASTHRA_DEBUG_CONCURRENCY_OPERATIONS, "END: task %llu %s",
                  (unsigned long long)asthra__task_bits(t), t->name);
    t->value = value;
    asthra__store(&s->ended, asthra__load(&s->ended, relaxed) + 1, release);
    if (ASTHRA__UNLIKELY(g->config.max_tasks != 0)) {
        asthra__sub(&g->unfinished, (size_t)1, relaxed);
    }
    uint64_t word = asthra__load(&t->word, relaxed);
    uint64_t low = (uint32_t)word & ~(uint32_t)ASTHRA__TASK_CANCEL;
    if (is_alone && low == (ASTHRA__TASK_HANDLE | ASTHRA__TASK_ALIVE)) {
        /* only its awaiter, below us, knows it */
        asthra__store(&t->word, word | (uint64_t)how, release);
    } else {
        asthra__task_end_shared(s, t, how);
    }
    asthra__os_fence_light(); /* pairs with the heavy one in scheduler_stop */
    if (ASTHRA__UNLIKELY(asthra__load(&g->phase, relaxed) == ASTHRA__PHASE_DRAINING)) {
        asthra__drain_check();
    }
}

/* ---- cancellation ---- */

static bool asthra__task_is_on(uint64_t word, uint64_t bits) {
    bool is_same = ((word ^ bits) & ASTHRA__TASK_GENERATION) == 0;
    return is_same && (word & ASTHRA__TASK_ALIVE) && !(word & ASTHRA__TASK_END);
}

/* Sets CANCEL; false: h is over. */
static bool asthra__task_mark_cancel(Asthra__Task *t, uint64_t bits) {
    uint64_t word = asthra__load(&t->word, acquire);
    do {
        if (!asthra__task_is_on(word, bits)) return false;
    } while (!asthra__cas(&t->word, &word, word | ASTHRA__TASK_CANCEL, acq_rel));
    return true;
}

/* Ends the wait that t is in, if it may be ended. The canceller of a chain holds no handle of t: it
 * may have ended meanwhile, and another task may wait in its place. So the parker's word is read
 * first, then the generation: if that is still ours, so is the wait, and its turn is in the word.
 * */
static void asthra__task_end_wait(Asthra__Task *t, uint64_t bits) {
    Asthra__Parker *p = &t->parker;
    for (;;) {
        uint32_t word = asthra__load(&p->word, acquire), claim = word & ASTHRA__WAIT_CLAIM;
        if (!asthra__task_is_on(asthra__load(&t->word, acquire), bits)) return;
        if (word & ASTHRA__WAIT_FIRM) return;
        if (claim == ASTHRA__WAIT_BUSY) {
            asthra__cpu_relax();
            continue;
        }
        if (claim != ASTHRA__WAIT_OPEN) return;
        uint32_t done = (word & ~(uint32_t)ASTHRA__WAIT_CLAIM) | ASTHRA__WAIT_DONE;
        if (asthra__cas(&p->word, &word, done, acq_rel)) break;
    }
    asthra__wait_end(p->wait, ASTHRA_CANCELLED);
}

ASTHRA__FN void asthra__task_forward_cancel(uint64_t bits) {
    while (bits != 0) {
        AsthraTaskHandle h = {bits};
        Asthra__Task *t = asthra__task_find(h);
        if (t == NULL || !asthra__task_mark_cancel(t, bits)) return;
        asthra__os_fence_heavy(); /* pairs with the light ones in wait_park and await */
        uint64_t child = asthra__load(&t->awaiting, acquire);
        bool is_masked = asthra__load(&t->masks, relaxed) > 0;
        if (!asthra__task_is_on(asthra__load(&t->word, acquire), bits)) return; /* child: not its */
        asthra__task_end_wait(t, bits);
        bits = is_masked ? 0 : child;
    }
}

ASTHRA_RT_API bool asthra_task_cancel(AsthraTaskHandle h) {
    asthra__turn();
    asthra__seat();
    Asthra__Task *t = asthra__task_resolve(h, "asthra_task_cancel", false);
    if (asthra__load(&t->word, acquire) & ASTHRA__TASK_END) return false;
    asthra__task_forward_cancel(h.bits);
    return true;
}

ASTHRA__FN void asthra__task_cancel_parked(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint32_t count = asthra__load(&g->descriptors, acquire);
    for (uint32_t i = 1; i < count; i++) {
        Asthra__Task *t = asthra__task_at(i);
        uint64_t word = asthra__load(&t->word, acquire);
        if (!(word & ASTHRA__TASK_ALIVE) || (word & ASTHRA__TASK_END)) continue;
        asthra__task_forward_cancel((word & ASTHRA__TASK_GENERATION) | i);
    }
}

/* Of tasks that await one another the last one counts: what it does is what all do. */
ASTHRA__FN bool asthra__task_cancel_idle(void) {
    bool found = false;
    uint32_t count = asthra__load(&asthra__scheduler()->descriptors, acquire);
    for (uint32_t i = 1; i < count; i++) {
        Asthra__Task *t = asthra__task_at(i);
        uint64_t word = asthra__load(&t->word, acquire);
        if (!(word & ASTHRA__TASK_ALIVE) || (word & ASTHRA__TASK_END)) continue;
        if ((word & ASTHRA__TASK_CANCEL) || asthra__load(&t->awaiting, acquire) != 0) continue;
        found = true;
        uint32_t claim = asthra__load(&t->parker.word, acquire) & ASTHRA__WAIT_CLAIM;
        if (claim == ASTHRA__WAIT_OPEN || claim == ASTHRA__WAIT_DONE)
            asthra__task_forward_cancel((word & ASTHRA__TASK_GENERATION) | i);
    }
    return found;
}

ASTHRA_RT_API bool asthra_cancel_requested(void) {
    if (asthra__seat_if_any() == NULL) return false; /* before the start too */
    asthra__turn();
    return asthra__cancel_pending();
}

ASTHRA_RT_API void asthra_cancel_mask_begin(void) {
    Asthra__Seat *s = asthra__seat_if_any();
    Asthra__Task *t = s == NULL ? NULL : s->task;
    if (t == NULL) return;
    uint8_t masks = asthra__load(&t->masks, relaxed);
    ASTHRA__CHECK(masks < UINT8_MAX);
    asthra__store(&t->masks, (uint8_t)(masks + 1), relaxed);
}

ASTHRA_RT_API void asthra_cancel_mask_end(void) {
    Asthra__Seat *s = asthra__seat_if_any();
    Asthra__Task *t = s == NULL ? NULL : s->task;
    if (t == NULL) return;
    uint8_t masks = asthra__load(&t->masks, relaxed);
    if (masks == 0) asthra_panic_at(NULL, "asthra_cancel_mask_end: no region is open");
    asthra__store(&t->masks, (uint8_t)(masks - 1), relaxed);
}

/* ---- asking ---- */

ASTHRA_RT_API void asthra_task_detach(AsthraTaskHandle h) {
    asthra__turn();
    Asthra__Seat *s = asthra__seat();
    Asthra__Task *t = asthra__task_resolve(h, "asthra_task_detach", true);
    if (!asthra__task_release(s, t, h.bits)) asthra__task_refuse(h, "asthra_task_detach");
}

ASTHRA_RT_API AsthraTaskHandle asthra_task_retain(AsthraTaskHandle h) {
    asthra__seat();
    Asthra__Task *t = asthra__task_resolve(h, "asthra_task_retain", false);
    asthra__add(&t->word, ASTHRA__TASK_HANDLE, relaxed);
    return h;
}

ASTHRA_RT_API bool asthra_task_is_valid(AsthraTaskHandle h) {
    return asthra__task_find(h) != NULL;
}

ASTHRA_RT_API AsthraTaskHandle asthra_task_current(void) {
    AsthraTaskHandle h = {0};
    Asthra__Seat *s = asthra__seat_if_any();
    if (s == NULL || s->task == NULL) return h;
    uint8_t marks = asthra__load(&s->task->marks, relaxed);
    asthra__store(&s->task->marks, (uint8_t)(marks | ASTHRA__TASK_ESCAPED), relaxed);
    h.bits = asthra__task_bits(s->task);
    return h;
}

ASTHRA_RT_API uint64_t asthra_task_id(AsthraTaskHandle h) {
    asthra__task_resolve(h, "asthra_task_id", false);
    return h.bits;
}

ASTHRA_RT_API const char *asthra_task_name(AsthraTaskHandle h) {
    return asthra__task_resolve(h, "asthra_task_name", false)->name;
}

ASTHRA_RT_API AsthraTaskState asthra_task_state(AsthraTaskHandle h) {
    Asthra__Task *t = asthra__task_resolve(h, "asthra_task_state", false);
    uint64_t end = asthra__load(&t->word, acquire) & ASTHRA__TASK_END;
    if (end != 0) return (AsthraTaskState)end;
    if (!(asthra__load(&t->marks, relaxed) & ASTHRA__TASK_STARTED)) return ASTHRA_TASK_CREATED;
    if (asthra__load(&t->awaiting, relaxed) != 0) return ASTHRA_TASK_WAITING;
    switch (asthra__load(&t->parker.word, relaxed) & ASTHRA__WAIT_CLAIM) {
    case ASTHRA__WAIT_OPEN: return ASTHRA_TASK_WAITING;
    case ASTHRA__WAIT_DONE: return ASTHRA_TASK_READY;
    default: return ASTHRA_TASK_RUNNING;
    }
}

ASTHRA_RT_API AsthraTaskHandle asthra_task_parent(AsthraTaskHandle h) {
    AsthraTaskHandle parent = {asthra__task_resolve(h, "asthra_task_parent", false)->parent};
    if (asthra__task_find(parent) == NULL) parent.bits = 0;
    return parent;
}

ASTHRA_RT_API size_t asthra_task_child_count(AsthraTaskHandle h) {
    Asthra__Scheduler *g = asthra__scheduler();
    asthra__task_resolve(h, "asthra_task_child_count", false);
    size_t children = 0;
    uint32_t count = asthra__load(&g->descriptors, acquire);
    for (uint32_t i = 1; i < count; i++) {
        Asthra__Task *t = asthra__task_at(i);
        uint64_t word = asthra__load(&t->word, acquire);
        bool is_live = (word & ASTHRA__TASK_ALIVE) && !(word & ASTHRA__TASK_END);
        if (is_live && t->parent == h.bits) children++;
    }
    return children;
}

ASTHRA__FLATTEN ASTHRA_RT_API void asthra_yield(void) {
    Asthra__Seat *s = asthra__seat_if_any();
    if (s == NULL || s->worker == NULL ||
        asthra__load(&asthra__scheduler()->manned, relaxed) == 0) {
        asthra__os_yield();
        return;
    }
    Asthra__Parker *p = s->task != NULL ? &s->task->parker : &s->parker;
    uint32_t turn = asthra__load(&p->word, relaxed) & ~(uint32_t)(ASTHRA__WAIT_TURN - 1);
    asthra__store(&p->word, turn | ASTHRA__WAIT_DONE, relaxed); /* READY, for who asks */
    asthra__leave(s, ASTHRA__LEFT_READY, NULL);
    asthra__store(&p->word, turn, relaxed);
}

ASTHRA_RT_API void asthra_safepoint_slow(void) {
    const Asthra__Seat *s = asthra__seat_if_any();
    if (s == NULL || s->worker == NULL) return;
    if (asthra__is_deterministic())
        asthra__turn();
    else if (asthra__safepoint_is_due(s->worker))
        asthra_yield();
}

#endif

/* ---- [task] body ----------------------------------------------- concurrency/task_await.c ---- */
/* task - awaiting.                                                         [task] body: await
 *
 * Three ways to the end of a child, tried in this order.
 *
 *   1. It has ended: take the value.
 *   2. It is among the newest few in this worker's deque: take it out, so that nobody else can
 *      start it, and call it here, on top of the awaiting frame. No stack, no queue, no switch. On
 *      one stack every task but the top one then awaits the one above it. Not in place: a timed
 *      await (it could not return early), a child with a stack of its own, a stack whose free part
 *      is less than half (so that every task can use the other half), and every 64th time in a row
 *      if others are due.
 *   3. Else a node in the child's list, and park. The stripe's lock is held from the look at the
 *      child's word until the stack has been left, so the child's end cannot slip in between.
 *
 * An older one is not dug out of the deque: parking hands the whole deque to the worker's loop,
 * newest first, which costs less than finding one task in its middle.
 *
 * An untimed await is firm: a cancel of the awaiter goes on to the child instead, and the await
 * returns when the child has; the awaiter has seen its cancel if the child ended by it, and not if
 * the child completed all the same. `awaiting` says where to. Dekker again: we write `awaiting`,
 * light fence, look at our own CANCEL; the canceller sets CANCEL, heavy fence, reads `awaiting`.
 */

#if ASTHRA_HAS_TASK

#include <string.h>

/* May t, which is newest in our deque, be called on this stack? */
static bool asthra__await_fits(Asthra__Seat *s, const Asthra__Task *t) {
    Asthra__Fiber *f = s->fiber;
    if (ASTHRA__TSAN || f->low == NULL || asthra__own_stack(t) != 0) return false;
    if (asthra__fiber_room(f) < (size_t)(f->high - f->low) / 2) return false;
    if (ASTHRA__LIKELY(++s->in_place_streak % ASTHRA__FAIR_TURNS != 0)) return true;
    return !asthra__has_other_work(s->worker);
}

/* Takes t out of its queue for us, or says no. */
static bool asthra__await_claims(Asthra__Seat *s, Asthra__Task *t) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (s->worker == NULL || (asthra__load(&t->marks, relaxed) & ASTHRA__TASK_STARTED))
        return false;
    if (t->affinity != 0 || t->runnable.priority != 0 || !asthra__await_fits(s, t)) return false;
    if (ASTHRA__UNLIKELY(asthra__is_deterministic())) {
        return asthra__random(2) == 0 && asthra__list_remove(&g->global, &t->runnable);
    }
    if (!asthra__deque_pop_if(&s->worker->deque, &t->runnable)) return false;
    asthra__feed(g, s->worker); /* who looked while we dug saw less than there is */
    return true;
}

static void asthra__await_unlink(Asthra__Task *t, Asthra__AwaitNode *n) {
    asthra__lock(asthra__task_stripe(t));
    if (n->link != NULL) {
        *n->link = n->next;
        if (n->next != NULL) n->next->link = n->link;
        n->link = NULL;
    }
    asthra__unlock(asthra__task_stripe(t));
}

/* Parks until t has ended. */
ASTHRA__NOINLINE static AsthraStatus asthra__await_parked(Asthra__Task *t, uint64_t bits,
                                                          int64_t timeout_ns) {
    Asthra__Lock *stripe = asthra__task_stripe(t);
    Asthra__Wait w = {
        .what = "await of task", .name = t->name, .held = stripe, .is_firm = timeout_ns < 0};
    asthra__lock(stripe);
    uint64_t word = asthra__or(&t->word, ASTHRA__TASK_AWAITED, acq_rel);
    bool is_over = ((word ^ bits) & ASTHRA__TASK_GENERATION) != 0; /* its handle was consumed */
    if (is_over || (word & ASTHRA__TASK_END)) {
        asthra__unlock(stripe);
        return ASTHRA_OK;
    }
    if (timeout_ns == 0) {
        asthra__unlock(stripe);
        return ASTHRA_TIMED_OUT;
    }
    Asthra__AwaitNode node = {t->waiters, &t->waiters, asthra__wait_open(&w)};
    if (node.next != NULL) node.next->link = &node.next;
    t->waiters = &node;
    AsthraStatus status = asthra__wait_park(&w, timeout_ns);
    if (status != ASTHRA_OK) asthra__await_unlink(t, &node);
    return status;
}

/* OK once t has ended. Cancels of the awaiter reach t meanwhile. *seat is the seat afterwards. */
static AsthraStatus asthra__await_end(Asthra__Seat **seat, Asthra__Task *t, uint64_t bits,
                                      int64_t timeout_ns) {
    if (asthra__load(&t->word, acquire) & ASTHRA__TASK_END) return ASTHRA_OK;
    Asthra__Seat *s = *seat;
    Asthra__Task *me = s->task;
    if (me == t)
        asthra_panic_at(NULL, "asthra_await: task %llu awaits itself", (unsigned long long)bits);
    /* outside tasks the seat stays: its thread waits for nobody else meanwhile */
    ASTHRA__ATOMIC(uint64_t) *awaiting = me != NULL ? &me->awaiting : &s->awaiting;
    if (timeout_ns < 0) {
        asthra__store(awaiting, bits, release); /* partners: a cancel, a report */
        asthra__os_fence_light();
        if (ASTHRA__UNLIKELY(me != NULL && asthra__cancel_is_pending(me)))
            asthra__task_forward_cancel(bits);
    }
    AsthraStatus status = ASTHRA_OK;
    if (timeout_ns < 0 && asthra__await_claims(s, t)) {
        *seat = asthra__run_in_place(s, t);
    } else {
        status = asthra__await_parked(t, bits, timeout_ns);
        *seat = asthra__seat();
    }
    if (timeout_ns < 0) asthra__store(awaiting, (uint64_t)0, relaxed);
    if (ASTHRA__UNLIKELY(status == ASTHRA_OUT_OF_MEMORY && timeout_ns < 0)) {
        asthra_panic_at(NULL,
                        "asthra_await: out of memory: no stack or thread to go on with while "
                        "task %llu is awaited",
                        (unsigned long long)bits);
    }
    return status;
}

/* How t ended, as a result of the awaiter; t is freed or released. */
static AsthraResult asthra__await_take(Asthra__Seat *s, Asthra__Task *t, AsthraTaskHandle h,
                                       void **value) {
    uint64_t word = asthra__load(&t->word, acquire), end = word & ASTHRA__TASK_END;
    AsthraResult r = asthra__result_of(ASTHRA_OK);
    if (ASTHRA__UNLIKELY((word ^ h.bits) & ASTHRA__TASK_GENERATION)) {
        asthra__task_refuse(h, "asthra_await");
    }
    if (value != NULL) *value = t->value;
    r.value.pointer = t->value;
    if (ASTHRA__UNLIKELY(end == ASTHRA_TASK_CANCELLED)) {
        r = asthra__result_of(ASTHRA_CANCELLED);
        asthra__cancel_observe(s->task);
    }
    if (ASTHRA__UNLIKELY(end == ASTHRA_TASK_FAILED)) {
        r = asthra__result_of(ASTHRA_PANICKED);
        if (t->error != NULL) {
            r.value.error = t->error;
            r = asthra_result_errorf(ASTHRA_PANICKED, "%s", asthra_result_message(r));
        }
    }
    if (ASTHRA__UNLIKELY(!asthra__task_release(s, t, h.bits))) {
        asthra__task_refuse(h, "asthra_await");
    }
    return r;
}

static Asthra__Seat *asthra__await_begin(AsthraTaskHandle h, const char *verb, Asthra__Task **t) {
    asthra__turn();
    Asthra__Seat *s = asthra__seat();
    *t = asthra__task_resolve(h, verb, true);
    return s;
}

/* Its panic goes on here. */
static inline void *asthra__await_take_or_panic(Asthra__Seat *s, Asthra__Task *t,
                                                AsthraTaskHandle h) {
    void *value;
    AsthraResult r = asthra__await_take(s, t, h, &value);
    if (ASTHRA__UNLIKELY(r.status == ASTHRA_PANICKED)) {
        asthra__panic_with(NULL, 0, asthra_result_message(r));
    }
    return value;
}

ASTHRA__FLATTEN ASTHRA_RT_API void *asthra_await(AsthraTaskHandle h) {
    Asthra__Task *t;
    Asthra__Seat *s = asthra__await_begin(h, "asthra_await", &t);
    asthra__await_end(&s, t, h.bits, ASTHRA_FOREVER);
    return asthra__await_take_or_panic(s, t, h);
}

ASTHRA_RT_API AsthraResult asthra_await_result(AsthraTaskHandle h, void **result) {
    Asthra__Task *t;
    Asthra__Seat *s = asthra__await_begin(h, "asthra_await_result", &t);
    asthra__await_end(&s, t, h.bits, ASTHRA_FOREVER);
    return asthra__await_take(s, t, h, result);
}

ASTHRA_RT_API AsthraResult asthra_await_timeout(AsthraTaskHandle h, int64_t timeout_ns,
                                                void **result) {
    Asthra__Task *t;
    Asthra__Seat *s = asthra__await_begin(h, "asthra_await_timeout", &t);
    AsthraStatus status = asthra__await_end(&s, t, h.bits, timeout_ns);
    if (status == ASTHRA_OK) return asthra__await_take(s, t, h, result);
    AsthraResult r = asthra__result_of(status);
    r.detail = status == ASTHRA_CANCELLED;
    return r;
}

ASTHRA__FLATTEN ASTHRA_RT_API AsthraResult asthra_await_copy(AsthraTaskHandle h, void *block,
                                                             size_t size) {
    Asthra__Task *t;
    Asthra__Seat *s = asthra__await_begin(h, "asthra_await_copy", &t);
    asthra__await_end(&s, t, h.bits, ASTHRA_FOREVER);
    size_t bytes = 0;
    void *copy = asthra__task_block(t, &bytes);
    bool is_good = copy != NULL && size <= bytes;
    if (is_good && size > 0) memcpy(block, copy, size);
    AsthraResult r = asthra__await_take(s, t, h, NULL);
    if (is_good || r.status) return r;
    return asthra_result_errorf(ASTHRA_INVALID,
                                "asthra_await_copy: %zu bytes asked for, the task's block has %zu",
                                size, bytes);
}

/* The result in t's block. */
ASTHRA__NOINLINE static void asthra__await_copy_out(Asthra__Task *t, void *block, size_t size,
                                                    const char *who) {
    size_t bytes = 0;
    const void *copy = asthra__task_block(t, &bytes);
    if (copy == NULL || bytes < size) {
        asthra_panic_at(NULL,
                        "%s: task '%s' is of another kind: it has no block with a result of %zu "
                        "bytes",
                        who, t->name, size);
    }
    if (t->value == NULL)
        memset(block, 0, size);
    else
        memcpy(block, copy, size);
}

ASTHRA__FLATTEN ASTHRA_RT_API AsthraTaskWords asthra_await_words_at(AsthraTaskHandle h,
                                                                    const char *who) {
    Asthra__Task *t;
    AsthraTaskWords block;
    Asthra__Seat *s = asthra__await_begin(h, who, &t);
    asthra__await_end(&s, t, h.bits, ASTHRA_FOREVER);
    if (ASTHRA__LIKELY(t->value == t->block))
        memcpy(&block, t->block, sizeof block);
    else
        asthra__await_copy_out(t, &block, sizeof block, who);
    asthra__await_take_or_panic(s, t, h);
    return block;
}

ASTHRA_RT_API void asthra_await_copy_at(AsthraTaskHandle h, void *block, size_t size,
                                        const char *who) {
    Asthra__Task *t;
    Asthra__Seat *s = asthra__await_begin(h, who, &t);
    asthra__await_end(&s, t, h.bits, ASTHRA_FOREVER);
    asthra__await_copy_out(t, block, size, who);
    asthra__await_take_or_panic(s, t, h);
}

#endif

/* ---- [timer] body --------------------------------------------------- concurrency/timer.c ---- */
/* timer - time, and waiting for it.                                        [timer] body
 *
 * A sleep is a wait that nobody but its timer, or a canceller, can complete; the timers themselves
 * are the scheduler's (scheduler_timer.c), because every wait can have one.
 */

#if ASTHRA_HAS_TASK

ASTHRA_RT_API int64_t asthra_now_ns(void) {
    return asthra__now_ns();
}

ASTHRA_RT_API AsthraResult asthra_sleep_ns(int64_t ns) {
    Asthra__Wait w = {.what = "sleep"};
    asthra__turn();
    asthra__wait_open(&w);
    AsthraStatus status = asthra__wait_park(&w, ns);
    return asthra__result_of(status == ASTHRA_TIMED_OUT ? ASTHRA_OK : status);
}

#endif

/* ---- [channel] internal ---------------------------------- concurrency/channel_internal.h ---- */
/* channel - what select needs of it.                                      [channel] internal
 *
 * A waiter is a node on the stack of whoever waits. It is linked, read and unlinked only under the
 * lock of its channel. `is_linked` becomes false as the last touch of whoever unlinks a node that
 * is not its own, so the owner, seeing false, may leave without the lock.
 */

#if ASTHRA_HAS_CHANNEL

#include <string.h>

typedef struct Asthra__Waiter Asthra__Waiter;
struct Asthra__Waiter {
    Asthra__Waiter *next, *prev;
    Asthra__Parker *parker;
    void *slot;    /* the value to send, never written; or where to receive, NULL: drop */
    int32_t index; /* of the case in its select */
    ASTHRA__ATOMIC(bool) is_linked;
};

/* Oldest first. `first` is also read without the lock, as a hint. */
typedef struct Asthra__Waiters {
    ASTHRA__ATOMIC(Asthra__Waiter *) first;
    Asthra__Waiter *last;
} Asthra__Waiters;

struct AsthraConcurrencyChannel {
    /* Never changes: every core may keep a copy. */
    size_t element_size;
    char *ring;
    const char *name;
    void *block; /* what the allocator gave */
    /* Of asthra_channel_fd, which few channels have. */
    ASTHRA__ATOMIC(uint32_t) has_signal;
    bool is_shown; /* the signal is set; under the lock */
    Asthra__OsSignal signal;
    /* Changes under the lock: whoever takes it gets all of this with one line. */
    ASTHRA__ALIGNED(64) Asthra__Lock lock;
    ASTHRA__ATOMIC(uint32_t) is_closed;
    size_t capacity;
    size_t head; /* index of the oldest value */
    ASTHRA__ATOMIC(size_t) count;
    Asthra__Waiters senders, receivers;
};
_Static_assert(offsetof(AsthraConcurrencyChannel, lock) == ASTHRA__CACHE_LINE &&
                   sizeof(AsthraConcurrencyChannel) == 2 * ASTHRA__CACHE_LINE,
               "what changes has a line of its own");

/* Makes the descriptor of a channel that has one say what is true. Caller holds c->lock. */
ASTHRA__COLD ASTHRA__FN void asthra__channel_show_slow(AsthraChannel *c);
static inline void asthra__channel_show(AsthraChannel *c) {
    if (ASTHRA__UNLIKELY(asthra__load(&c->has_signal, relaxed))) asthra__channel_show_slow(c);
}
static inline void asthra__channel_unlock(AsthraChannel *c) {
    asthra__channel_show(c);
    asthra__unlock(&c->lock);
}

/* Would a send, or a receive, have to wait? Without the lock: true was so at some moment of the
 * call, false is only a hint. closed is read last, because it never becomes false again: with
 * nothing inside, nobody waiting, and not closed even later, there was a moment when all three
 * held. */
static inline bool asthra__channel_is_full(AsthraChannel *c) {
    bool has_room = asthra__load(&c->count, acquire) < c->capacity;
    uintptr_t receiver = (uintptr_t)asthra__load(&c->receivers.first, acquire);
    return !(has_room | receiver | asthra__load(&c->is_closed, acquire)); /* one branch */
}
static inline bool asthra__channel_is_empty(AsthraChannel *c) {
    uintptr_t inside = (uintptr_t)asthra__load(&c->count, acquire);
    uintptr_t sender = (uintptr_t)asthra__load(&c->senders.first, acquire);
    return !(inside | sender | asthra__load(&c->is_closed, acquire));
}

static inline void asthra__waiters_append(Asthra__Waiters *list, Asthra__Waiter *w) {
    w->next = NULL;
    w->prev = list->last;
    asthra__store(&w->is_linked, true, relaxed);
    if (w->prev)
        w->prev->next = w;
    else
        asthra__store(&list->first, w, relaxed);
    list->last = w;
}

/* is_linked is the caller's business: see the head of this file. */
static inline void asthra__waiters_remove(Asthra__Waiters *list, const Asthra__Waiter *w) {
    if (w->prev)
        w->prev->next = w->next;
    else
        asthra__store(&list->first, w->next, relaxed);
    if (w->next)
        w->next->prev = w->prev;
    else
        list->last = w->prev;
}

static inline void asthra__waiter_release(Asthra__Waiter *w) {
    asthra__store(&w->is_linked, false, release); /* partner: asthra__waiter_unlink */
}

/* Copies one value; the common sizes without a call. A compiler that sees the caller's value, as
 * with ASTHRA_RT_STATIC, would warn of the sizes that it does not have: it shall not see it. */
static inline void asthra__channel_copy(void *to, const void *from, size_t size) {
    __asm__("" : "+r"(to), "+r"(from));
    if (size == 8)
        memcpy(to, from, 8);
    else if (size == 4)
        memcpy(to, from, 4);
    else if (size == 16)
        memcpy(to, from, 16);
    else
        memcpy(to, from, size);
}

/* Touch every page of a user's value before any lock is taken, so that a bad pointer faults in its
 * owner's call while nothing is held. Writing puts back what was there. */
static inline void asthra__channel_touch_source(const AsthraChannel *c, const void *value) {
    const volatile char *at = (const volatile char *)value;
    for (size_t i = 4096; ASTHRA__UNLIKELY(i < c->element_size); i += 4096) (void)at[i];
    (void)at[0], (void)at[c->element_size - 1];
}
static inline void asthra__channel_touch_target(const AsthraChannel *c, void *out) {
    volatile char *at = (volatile char *)out;
    if (!out) return;
    for (size_t i = 4096; ASTHRA__UNLIKELY(i < c->element_size); i += 4096) at[i] = at[i];
    at[0] = at[0];
    at[c->element_size - 1] = at[c->element_size - 1];
}

/* A source in a waiter's slot, which is never written through. */
static inline void *asthra__channel_source(const void *value) {
    return (void *)(uintptr_t)value;
}

/* Sends or receives without waiting: ASTHRA_OK, ASTHRA_CLOSED or ASTHRA_WOULD_BLOCK. Caller holds
 * c->lock. *wake becomes whom the caller must wake after unlocking, or NULL. */
ASTHRA__FN AsthraStatus asthra__channel_put(AsthraChannel *c, const void *value,
                                            Asthra__Parker **wake);
ASTHRA__FN AsthraStatus asthra__channel_take(AsthraChannel *c, void *out, Asthra__Parker **wake);

/* Unlinks the caller's own node if nobody did yet. */
ASTHRA__FN void asthra__waiter_unlink(AsthraChannel *c, Asthra__Waiters *list, Asthra__Waiter *w);

/* Completes w, whose wait the caller has claimed and whose node it has unlinked. */
static inline Asthra__Parker *asthra__waiter_finish(Asthra__Waiter *w, AsthraStatus status) {
    Asthra__Wait *wait = w->parker->wait;
    wait->outcome = status;
    wait->winner = w;
    return w->parker;
}

/* A debug line: "channel 'jobs': send by task 12". */
ASTHRA__COLD ASTHRA__FN void asthra__channel_say(const AsthraChannel *c, const char *verb);
static inline void asthra__channel_trace(const AsthraChannel *c, const char *verb) {
    if (ASTHRA__UNLIKELY(asthra__trace_is_on(ASTHRA_DEBUG_CONCURRENCY_OPERATIONS)))
        asthra__channel_say(c, verb);
}

#endif

/* ---- [channel] body ----------------------------------------------- concurrency/channel.c ---- */
/* channel - a ring, two lists of waiters, one short lock.                     [channel] body
 *
 * Everything that changes stands behind one lock. Whoever comes looks for a waiting opposite first
 * and copies the value straight between its own buffer and the other's slot; nobody has to look
 * again after a wake. Else the value goes through the ring, else the caller appends a node that
 * stands on its own stack and parks. Parking gives the lock back only after the stack was left, so
 * whoever finds the node may resume its owner at once.
 *
 * Invariants, whenever the lock is free (a waiter is live until somebody has claimed its wait):
 *   a live receiver waits     ->  count == 0 and not closed
 *   a live sender waits       ->  count == capacity and not closed
 *   so: who takes from a full ring moves the oldest live sender's value into the slot that became
 *   free, and sending order holds; and live senders and receivers that could meet never wait both.
 * A node whose claim fails belongs to a select, a timeout or a cancel that was completed elsewhere:
 * it is unlinked and forgotten.
 *
 * Whoever completes a wait writes the value, the outcome and the winner under the lock, unlocks,
 * and wakes as its last act; after that it touches neither the channel nor the waiter. Unlocking
 * itself does not touch the lock once another can have it (sync_internal.h), and a woken owner
 * whose node was unlinked by its partner does not come back to the lock. So when a hand-over is
 * complete both sides are through with the channel, and either may destroy it.
 *
 * A fault in a user's buffer must not happen under the lock: the caller's own value is touched,
 * page by page, before locking. What a partner copies into or out of a waiter's slot was touched by
 * that waiter. A buffer that another thread unmaps in the middle of the call is beyond this.
 *
 * Head and count wrap by comparison: a division costs more than the rest of a send.
 *
 * One cache line holds all that changes, on purpose: both sides need the lock anyway, and get the
 * rest with it. What never changes has a line of its own, which all cores can keep.
 *
 * try_send and try_receive look without the lock first. That they found nothing was true at one
 * moment of the call, which is all that a failed try says.
 */

#if ASTHRA_HAS_CHANNEL

ASTHRA__COLD ASTHRA_NORETURN static void asthra__channel_null(const char *function,
                                                              const char *what) {
    asthra_panic_at(NULL, "%s: the %s is NULL", function, what);
}

/* Names the function in a panic for a bug of the caller. */
#define ASTHRA__CHANNEL_NEEDS(pointer, what) \
    (ASTHRA__LIKELY((pointer) != NULL) ? (void)0 : asthra__channel_null(__func__, what))

ASTHRA__FN void asthra__channel_say(const AsthraChannel *c, const char *verb) {
    char who[64];
    ASTHRA__TRACE(ASTHRA_DEBUG_CONCURRENCY_OPERATIONS, "channel '%s': %s by %s", c->name, verb,
                  asthra__who(who, sizeof who));
}

static inline AsthraResult asthra__channel_result(AsthraStatus status) {
    if (ASTHRA__UNLIKELY(status != ASTHRA_OK)) return asthra__result_of(status);
    AsthraResult ok = {0, 0, {NULL}};
    return ok;
}

/* ---- under the lock ---- */

static inline void *asthra__channel_at(const AsthraChannel *c, size_t index) {
    return c->ring + index * c->element_size;
}

/* Unlinks the oldest live waiter and claims its wait. The caller finishes and wakes it. */
static inline Asthra__Waiter *asthra__waiters_claim(Asthra__Waiters *list) {
    Asthra__Waiter *w;
    while ((w = asthra__load(&list->first, relaxed)) != NULL) {
        asthra__waiters_remove(list, w);
        bool is_mine = asthra__wait_claim(w->parker);
        asthra__waiter_release(w); /* without the claim, the last touch; with it, the wake is */
        if (is_mine) return w;
    }
    return NULL;
}

ASTHRA__FN ASTHRA__FAST AsthraStatus asthra__channel_put(AsthraChannel *c, const void *value,
                                                         Asthra__Parker **wake) {
    ASTHRA__ASSERT(asthra__lock_is_held(&c->lock));
    size_t count = asthra__load(&c->count, relaxed);
    *wake = NULL;
    if (asthra__load(&c->is_closed, relaxed)) return ASTHRA_CLOSED;
    Asthra__Waiter *w = asthra__waiters_claim(&c->receivers);
    if (w) {
        if (w->slot) asthra__channel_copy(w->slot, value, c->element_size);
        *wake = asthra__waiter_finish(w, ASTHRA_OK);
        return ASTHRA_OK;
    }
    if (count == c->capacity) return ASTHRA_WOULD_BLOCK;
    size_t tail = c->head + count;
    if (tail >= c->capacity) tail -= c->capacity;
    asthra__channel_copy(asthra__channel_at(c, tail), value, c->element_size);
    asthra__store(&c->count, count + 1, relaxed);
    return ASTHRA_OK;
}

/* Takes the oldest value out of the ring, which is not empty. */
static inline Asthra__Parker *asthra__channel_pop(AsthraChannel *c, void *out) {
    size_t count = asthra__load(&c->count, relaxed);
    void *at = asthra__channel_at(c, c->head);
    if (out) asthra__channel_copy(out, at, c->element_size);
    if (++c->head == c->capacity) c->head = 0;
    Asthra__Waiter *w = asthra__waiters_claim(&c->senders);
    if (!w) {
        asthra__store(&c->count, count - 1, relaxed);
        return NULL;
    }
    ASTHRA__ASSERT(count == c->capacity); /* so the slot that became free is the newest now */
    asthra__channel_copy(at, w->slot, c->element_size);
    return asthra__waiter_finish(w, ASTHRA_OK);
}

ASTHRA__FN ASTHRA__FAST AsthraStatus asthra__channel_take(AsthraChannel *c, void *out,
                                                          Asthra__Parker **wake) {
    ASTHRA__ASSERT(asthra__lock_is_held(&c->lock));
    *wake = NULL;
    if (asthra__load(&c->count, relaxed)) {
        *wake = asthra__channel_pop(c, out);
        return ASTHRA_OK;
    }
    Asthra__Waiter *w = asthra__waiters_claim(&c->senders);
    if (w) {
        if (out) asthra__channel_copy(out, w->slot, c->element_size);
        *wake = asthra__waiter_finish(w, ASTHRA_OK);
        return ASTHRA_OK;
    }
    return asthra__load(&c->is_closed, relaxed) ? ASTHRA_CLOSED : ASTHRA_WOULD_BLOCK;
}

/* ---- waiting ---- */

ASTHRA__FN void asthra__waiter_unlink(AsthraChannel *c, Asthra__Waiters *list, Asthra__Waiter *w) {
    if (!asthra__load(&w->is_linked, acquire)) return; /* partner: asthra__waiter_release */
    asthra__lock(&c->lock);
    if (asthra__load(&w->is_linked, relaxed)) asthra__waiters_remove(list, w);
    asthra__channel_unlock(c);
}

/* Waits in the list for a partner. Caller holds c->lock, which is given back. */
ASTHRA__NOINLINE static AsthraStatus asthra__channel_wait(AsthraChannel *c, Asthra__Waiters *list,
                                                          void *slot, const char *what,
                                                          int64_t timeout_ns) {
    Asthra__Wait wait;
    Asthra__Waiter w;
    wait.what = what;
    wait.name = c->name;
    wait.held = &c->lock;
    wait.is_firm = false;
    wait.outcome = ASTHRA_OK;
    w.slot = slot;
    w.parker = asthra__wait_open(&wait);
    asthra__waiters_append(list, &w);
    asthra__channel_show(c);
    AsthraStatus status = asthra__wait_park(&wait, timeout_ns);
    asthra__waiter_unlink(c, list, &w);
    return status;
}

static inline AsthraStatus asthra__channel_send(AsthraChannel *c, const void *value,
                                                int64_t timeout_ns) {
    Asthra__Parker *wake;
    asthra__channel_trace(c, "send");
    asthra__channel_touch_source(c, value);
    asthra__lock(&c->lock);
    AsthraStatus status = asthra__channel_put(c, value, &wake);
    if (status == ASTHRA_WOULD_BLOCK && timeout_ns != 0)
        return asthra__channel_wait(c, &c->senders, asthra__channel_source(value),
                                    "send on channel", timeout_ns);
    asthra__channel_unlock(c);
    if (wake) asthra__wait_wake(wake);
    return status;
}

static inline AsthraStatus asthra__channel_receive(AsthraChannel *c, void *out,
                                                   int64_t timeout_ns) {
    Asthra__Parker *wake;
    asthra__channel_trace(c, "receive");
    asthra__channel_touch_target(c, out);
    asthra__lock(&c->lock);
    AsthraStatus status = asthra__channel_take(c, out, &wake);
    if (status == ASTHRA_WOULD_BLOCK && timeout_ns != 0)
        return asthra__channel_wait(c, &c->receivers, out, "receive on channel", timeout_ns);
    asthra__channel_unlock(c);
    if (wake) asthra__wait_wake(wake);
    return status;
}

/* ---- opening and ending ---- */

/* Bytes of header, ring and name in one block, with room to align the header; 0: too many. */
static size_t asthra__channel_bytes(size_t element_size, size_t capacity, size_t name_bytes) {
    size_t fixed = sizeof(AsthraChannel) + ASTHRA__CACHE_LINE + name_bytes;
    if (name_bytes > PTRDIFF_MAX / 2 || capacity > (PTRDIFF_MAX - fixed) / element_size) return 0;
    return fixed + capacity * element_size;
}

static AsthraChannel *asthra__channel_lay_out(void *block, size_t element_size, size_t capacity,
                                              const char *name, size_t name_bytes) {
    size_t mask = ASTHRA__CACHE_LINE - 1;
    AsthraChannel *c = (AsthraChannel *)(((uintptr_t)block + mask) & ~(uintptr_t)mask);
    memset(c, 0, sizeof *c);
    c->block = block;
    c->element_size = element_size;
    c->capacity = capacity;
    c->ring = (char *)(c + 1);
    char *text = c->ring + capacity * element_size;
    memcpy(text, name, name_bytes);
    c->name = text;
    return c;
}

ASTHRA_RT_API AsthraChannel *asthra_channel_create(size_t element_size, size_t capacity,
                                                   const char *name) {
    if (!asthra__tier_is_on(2)) return NULL;
    if (!name) name = "unnamed";
    if (!element_size) {
        asthra__error_set(ASTHRA_INVALID, "asthra_channel_create: '%s' has element_size 0", name);
        return NULL;
    }
    size_t name_bytes = strlen(name) + 1;
    size_t bytes = asthra__channel_bytes(element_size, capacity, name_bytes);
    if (!bytes) {
        asthra__error_set(ASTHRA_INVALID,
                          "asthra_channel_create: '%s': %zu values of %zu bytes overflow", name,
                          capacity, element_size);
        return NULL;
    }
    void *block = asthra__alloc(bytes);
    if (!block) {
        asthra__error_set(ASTHRA_OUT_OF_MEMORY,
                          "asthra_channel_create: no memory for '%s', %zu values of %zu bytes",
                          name, capacity, element_size);
        return NULL;
    }
    asthra__error_clear();
    AsthraChannel *c = asthra__channel_lay_out(block, element_size, capacity, name, name_bytes);
    asthra__channel_trace(c, "create");
    return c;
}

/* Unlinks whoever waits in the list, with ASTHRA_CLOSED, into a chain through `next`. */
static void asthra__channel_dismiss(Asthra__Waiters *list, Asthra__Waiter **chain) {
    Asthra__Waiter *w;
    while ((w = asthra__waiters_claim(list)) != NULL) {
        asthra__waiter_finish(w, ASTHRA_CLOSED);
        w->next = NULL;
        *chain = w;
        chain = &w->next;
    }
}

static void asthra__channel_wake_all(Asthra__Waiter *w) {
    while (w) {
        Asthra__Waiter *next = w->next; /* the wake ends w's life */
        asthra__wait_wake(w->parker);
        w = next;
    }
}

ASTHRA_RT_API bool asthra_channel_close(AsthraChannel *c) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    Asthra__Waiter *senders = NULL, *receivers = NULL;
    asthra__turn();
    asthra__channel_trace(c, "close");
    asthra__lock(&c->lock);
    bool is_first = !asthra__load(&c->is_closed, relaxed);
    if (is_first) {
        asthra__store(&c->is_closed, 1, release);
        asthra__channel_dismiss(&c->receivers, &receivers);
        asthra__channel_dismiss(&c->senders, &senders);
    }
    asthra__channel_unlock(c);
    asthra__channel_wake_all(receivers);
    asthra__channel_wake_all(senders);
    if (!is_first) asthra__error_note(ASTHRA_CLOSED);
    return is_first;
}

/* Adds ", task 'a' (receive)" for each live waiter; forgets the others. Returns how many. */
static size_t asthra__channel_list(Asthra__Waiters *list, const char *verb, Asthra__Text *text) {
    size_t live = 0;
    Asthra__Waiter *next;
    for (Asthra__Waiter *w = asthra__load(&list->first, relaxed); w; w = next) {
        char name[96];
        next = w->next;
        uint32_t claim = asthra__load(&w->parker->word, acquire) & ASTHRA__WAIT_CLAIM;
        if (claim == ASTHRA__WAIT_DONE || claim == ASTHRA__WAIT_IDLE) {
            asthra__waiters_remove(list, w);
            asthra__waiter_release(w);
            continue;
        }
        asthra__text_format(text, "%s%s (%s)", text->length ? ", " : "",
                            asthra__parker_name(w->parker, name, sizeof name), verb);
        live++;
    }
    return live;
}

ASTHRA_RT_API void asthra_channel_destroy(AsthraChannel *c) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    char buffer[600];
    Asthra__Text who = asthra__text_on(buffer, sizeof buffer);
    asthra__turn();
    asthra__channel_trace(c, "destroy");
    asthra__lock(&c->lock);
    size_t live = asthra__channel_list(&c->receivers, "receive", &who);
    live += asthra__channel_list(&c->senders, "send", &who);
    asthra__channel_unlock(c);
    if (live)
        asthra_panic_at(NULL,
                        "asthra_channel_destroy: %zu still wait on channel '%s': %s; close it and "
                        "let them return first",
                        live, c->name, buffer);
    if (asthra__load(&c->has_signal, relaxed)) asthra__os_signal_close(c->signal);
    asthra__free(c->block);
}

/* ---- the rest of the contract ---- */

ASTHRA_RT_API AsthraResult asthra_channel_send(AsthraChannel *c, const void *value) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    ASTHRA__CHANNEL_NEEDS(value, "value");
    asthra__turn();
    return asthra__channel_result(asthra__channel_send(c, value, -1));
}

ASTHRA_RT_API AsthraResult asthra_channel_receive(AsthraChannel *c, void *out) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    asthra__turn();
    return asthra__channel_result(asthra__channel_receive(c, out, -1));
}

ASTHRA_RT_API AsthraResult asthra_channel_try_send(AsthraChannel *c, const void *value) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    ASTHRA__CHANNEL_NEEDS(value, "value");
    asthra__turn();
    if (asthra__channel_is_full(c)) return asthra__result_of(ASTHRA_WOULD_BLOCK);
    return asthra__channel_result(asthra__channel_send(c, value, 0));
}

ASTHRA_RT_API AsthraResult asthra_channel_try_receive(AsthraChannel *c, void *out) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    asthra__turn();
    if (asthra__channel_is_empty(c)) return asthra__result_of(ASTHRA_WOULD_BLOCK);
    return asthra__channel_result(asthra__channel_receive(c, out, 0));
}

/* A limit of 0 has run out. */
static AsthraResult asthra__channel_timed(AsthraStatus status) {
    return asthra__channel_result(status == ASTHRA_WOULD_BLOCK ? ASTHRA_TIMED_OUT : status);
}

ASTHRA_RT_API AsthraResult asthra_channel_send_timeout(AsthraChannel *c, const void *value,
                                                       int64_t timeout_ns) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    ASTHRA__CHANNEL_NEEDS(value, "value");
    asthra__turn();
    return asthra__channel_timed(asthra__channel_send(c, value, timeout_ns));
}

ASTHRA_RT_API AsthraResult asthra_channel_receive_timeout(AsthraChannel *c, void *out,
                                                          int64_t timeout_ns) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    asthra__turn();
    return asthra__channel_timed(asthra__channel_receive(c, out, timeout_ns));
}

ASTHRA_RT_API bool asthra_channel_next(AsthraChannel *c, void *out, size_t element_size) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    if (ASTHRA__UNLIKELY(element_size != c->element_size))
        asthra_panic_at(NULL,
                        "asthra_channel_next: channel '%s' carries values of %zu bytes, not %zu",
                        c->name, c->element_size, element_size);
    asthra__turn();
    AsthraStatus status = asthra__channel_receive(c, out, -1);
    if (ASTHRA__UNLIKELY(status != ASTHRA_OK)) asthra__error_note(status);
    return status == ASTHRA_OK;
}

ASTHRA__COLD ASTHRA_NORETURN static void
asthra__channel_unlike(const AsthraChannel *c, size_t element_size, const char *who) {
    AsthraResult why = asthra_last_error();
    if (c)
        asthra_panic_at(NULL, "%s: channel '%s' carries values of %zu bytes, not %zu", who, c->name,
                        c->element_size, element_size);
    if (why.status)
        asthra_panic_at(NULL, "%s: the channel is NULL; the last error here was: %s", who,
                        asthra_result_message(why));
    asthra_panic_at(NULL, "%s: the channel is NULL: it was never created", who);
}

ASTHRA_RT_API AsthraChannel *asthra_channel_expect(AsthraChannel *c, size_t element_size,
                                                   const char *who) {
    if (ASTHRA__UNLIKELY(!c || c->element_size != element_size))
        asthra__channel_unlike(c, element_size, who);
    return c;
}

ASTHRA_RT_API bool asthra_channel_is_closed(const AsthraChannel *c) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    asthra__turn();
    return asthra__load(&c->is_closed, acquire) != 0; /* partner: asthra_channel_close */
}

ASTHRA_RT_API size_t asthra_channel_count(const AsthraChannel *c) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    asthra__turn();
    return asthra__load(&c->count, relaxed);
}

ASTHRA_RT_API size_t asthra_channel_capacity(const AsthraChannel *c) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    return c->capacity;
}

ASTHRA_RT_API size_t asthra_channel_element_size(const AsthraChannel *c) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    return c->element_size;
}

ASTHRA_RT_API const char *asthra_channel_name(const AsthraChannel *c) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    return c->name;
}

/* ---- the descriptor ---- */

ASTHRA__COLD ASTHRA__FN void asthra__channel_show_slow(AsthraChannel *c) {
    bool must_wait = asthra__channel_is_empty(c);
    if (c->is_shown == !must_wait) return;
    c->is_shown = !must_wait;
    if (must_wait)
        asthra__os_signal_clear(c->signal);
    else
        asthra__os_signal_set(c->signal);
}

/* Opened outside the lock, because the system may take its time; of two, one is given back. */
ASTHRA_RT_API int asthra_channel_fd(AsthraChannel *c) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    asthra__turn();
    if (asthra__load(&c->has_signal, acquire)) return c->signal.fd;
    Asthra__OsSignal fresh = asthra__os_signal_open();
    if (fresh.fd < 0) {
        asthra__error_set(ASTHRA_LIMIT,
                          "asthra_channel_fd: the system refused a descriptor for channel '%s'",
                          c->name);
        return -1;
    }
    asthra__lock(&c->lock);
    bool is_first = !asthra__load(&c->has_signal, relaxed);
    if (is_first) c->signal = fresh;
    asthra__store(&c->has_signal, 1u, release);
    asthra__channel_unlock(c);
    if (!is_first) asthra__os_signal_close(fresh);
    return c->signal.fd;
}

#endif

/* ---- [select] body ------------------------------------------------- concurrency/select.c ---- */
/* select - one of many, without locking all.                                   [select] body
 *
 * First pass, nothing enqueued. The cases are looked at without locks; one of those that seem ready
 * is drawn, all with the same probability; its channel is locked and the operation tried. Somebody
 * may have been faster: then all are looked at again. This ends with a completed case, or with a
 * look that found no case ready, each at some moment of the look. (Not all at the same moment: a
 * token that moves from a channel not yet looked at to one already looked at can be missed. To see
 * all at once, all would have to be locked.) A select with a default or a limit of 0 ends here.
 *
 * Second pass. The wait is opened and a node for each case appended to its channel, one lock at a
 * time, and under that lock the case is tried once more: so two selects that could meet never sleep
 * both, because the later of the two nodes was appended by somebody who looked. From the first node
 * on others may complete us, so whatever we complete ourselves takes our own word first:
 *
 *     buffer or closed    own word OPEN to DONE, then the operation, which can no longer fail
 *     a partner           own word OPEN to BUSY; the partner's OPEN to DONE; own word to DONE
 *         partner DONE    its node is stale: own word back to OPEN, unlink the node, go on
 *         partner BUSY    the one with the lower address stays BUSY and spins. The other steps
 *                         back to OPEN, so that the lower may take it, and tries again later.
 *
 * A failing OPEN means that somebody completed us; then no further node is appended. The order by
 * address is what keeps two or more selects, each busy with the next, from waiting in a circle, or
 * from stepping back for ever. BUSY is never held over a lock. A partner is needed only where there
 * is no buffer: with one, a waiting opposite of a case that is not ready is never live (channel.c).
 * One-sided claimers (send, receive, close, timers, cancellation) wait BUSY out.
 *
 * However it was completed, the wait ends in one park, which consumes exactly one wake: a select
 * that completed itself wakes itself, without leaving its stack. Then the remaining nodes are
 * unlinked, each under its lock. This protocol is tests/model/select.pml.
 *
 * No allocation and no limit: nodes stand in frames of a recursion, sixteen a frame, so that any
 * number of cases goes down the stack in small steps and an overflow meets the guard.
 */

#if ASTHRA_HAS_SELECT

#include <limits.h>

typedef struct Asthra__Select {
    AsthraSelectCase *cases;
    int count, chosen;
    int64_t timeout_ns;
    Asthra__Parker *self;
    Asthra__Wait wait;
} Asthra__Select;

typedef enum Asthra__SelectStep {
    ASTHRA__SELECT_WAITS,     /* nothing to match */
    ASTHRA__SELECT_MATCHED,   /* we completed a case: our word is DONE, and the wake is ours */
    ASTHRA__SELECT_COMPLETED, /* somebody else did */
    ASTHRA__SELECT_STALE      /* the partner is completed elsewhere */
} Asthra__SelectStep;

/* ---- first pass ---- */

ASTHRA__COLD ASTHRA_NORETURN static void asthra__select_bad_case(const AsthraSelectCase *k, int i) {
    if (k->kind == ASTHRA_SELECT_SEND)
        asthra_panic_at(NULL, "asthra_select: case %d sends to channel '%s', but its data is NULL",
                        i, k->channel->name);
    asthra_panic_at(NULL, "asthra_select: case %d has kind %d, which is neither send nor receive",
                    i, (int)k->kind);
}

static inline bool asthra__select_looks_ready(const AsthraSelectCase *k, int i) {
    if (!k->channel) return false;
    if (k->kind == ASTHRA_SELECT_RECEIVE) return !asthra__channel_is_empty(k->channel);
    if (ASTHRA__UNLIKELY(k->kind != ASTHRA_SELECT_SEND || !k->data)) asthra__select_bad_case(k, i);
    return !asthra__channel_is_full(k->channel);
}

/* One of the cases that look ready, each with equal probability; -1: none. A block of 64 replaces
 * what was drawn before with the probability that it has a share in all that were seen so far. */
static int asthra__select_draw(const AsthraSelectCase *cases, int count) {
    uint32_t seen = 0;
    int drawn = -1;
    for (int start = 0; start < count; start += 64) {
        uint64_t ready = 0;
        uint32_t here = 0;
        for (int i = start; i < count && i < start + 64; i++) {
            uint32_t is_ready = asthra__select_looks_ready(&cases[i], i);
            ready |= (uint64_t)is_ready << (i - start);
            here += is_ready;
        }
        if (!here) continue;
        seen += here;
        if (seen > here && asthra__random(seen) >= here) continue;
        for (uint32_t skip = here > 1 ? asthra__random(here) : 0; skip > 0; skip--)
            ready &= ready - 1;
        drawn = start + __builtin_ctzll(ready);
    }
    return drawn;
}

static void asthra__select_touch(const AsthraSelectCase *k) {
    if (k->kind == ASTHRA_SELECT_SEND)
        asthra__channel_touch_source(k->channel, k->data);
    else
        asthra__channel_touch_target(k->channel, k->data);
}

/* The case's operation without waiting. Caller holds the channel's lock and wakes *wake. */
static inline AsthraStatus asthra__select_try(const AsthraSelectCase *k, Asthra__Parker **wake) {
    if (k->kind == ASTHRA_SELECT_SEND) return asthra__channel_put(k->channel, k->data, wake);
    return asthra__channel_take(k->channel, k->data, wake);
}

/* Completes a ready case and returns its index; -1: none is ready. */
static int asthra__select_poll(AsthraSelectCase *cases, int count) {
    int drawn;
    while ((drawn = asthra__select_draw(cases, count)) >= 0) {
        AsthraSelectCase *k = &cases[drawn];
        Asthra__Parker *wake;
        asthra__select_touch(k);
        asthra__lock(&k->channel->lock);
        AsthraStatus status = asthra__select_try(k, &wake);
        asthra__channel_unlock(k->channel);
        if (wake) asthra__wait_wake(wake);
        if (status == ASTHRA_WOULD_BLOCK) continue;
        k->status = status;
        asthra__channel_trace(k->channel,
                              k->kind == ASTHRA_SELECT_SEND ? "select sends" : "select receives");
        break;
    }
    return drawn;
}

/* ---- second pass: words ---- */

/* Moves the claim of p's word; false if it was not `from`. Orders what both sides wrote before. */
static bool asthra__select_move(Asthra__Parker *p, uint32_t from, uint32_t to) {
    uint32_t word = asthra__load(&p->word, relaxed);
    do {
        if ((word & ASTHRA__WAIT_CLAIM) != from) return false;
    } while (!asthra__cas(&p->word, &word, (word & ~(uint32_t)ASTHRA__WAIT_CLAIM) | to, seq_cst));
    return true;
}

static uint32_t asthra__select_claim_of(Asthra__Parker *p) {
    return asthra__load(&p->word, seq_cst) & ASTHRA__WAIT_CLAIM;
}

/* Lets time pass for somebody who is BUSY, which takes a few instructions unless it lost its
 * core. */
static void asthra__select_relax(unsigned *rounds) {
    if (++*rounds % 64)
        asthra__cpu_relax();
    else
        asthra__os_yield();
}

/* We are BUSY. Tries to take the partner; on MATCHED our word is DONE, else it is OPEN. WAITS: the
 * partner is busy itself and goes first. */
static Asthra__SelectStep asthra__select_take_partner(Asthra__Parker *self, Asthra__Parker *other) {
    unsigned rounds = 0;
    for (;;) {
        if (asthra__select_move(other, ASTHRA__WAIT_OPEN, ASTHRA__WAIT_DONE)) {
            asthra__select_move(self, ASTHRA__WAIT_BUSY, ASTHRA__WAIT_DONE);
            return ASTHRA__SELECT_MATCHED;
        }
        uint32_t claim = asthra__select_claim_of(other);
        if (claim == ASTHRA__WAIT_DONE || claim == ASTHRA__WAIT_IDLE) {
            asthra__select_move(self, ASTHRA__WAIT_BUSY, ASTHRA__WAIT_OPEN);
            return ASTHRA__SELECT_STALE;
        }
        if (claim == ASTHRA__WAIT_BUSY && (uintptr_t)self > (uintptr_t)other) {
            asthra__select_move(self, ASTHRA__WAIT_BUSY, ASTHRA__WAIT_OPEN);
            return ASTHRA__SELECT_WAITS;
        }
        asthra__select_relax(&rounds);
    }
}

/* Claims partner and self, both or neither: MATCHED, STALE or COMPLETED. */
static Asthra__SelectStep asthra__select_claim_pair(Asthra__Parker *self, Asthra__Parker *other) {
    unsigned rounds = 0;
    while (asthra__select_move(self, ASTHRA__WAIT_OPEN, ASTHRA__WAIT_BUSY)) {
        Asthra__SelectStep step = asthra__select_take_partner(self, other);
        if (step != ASTHRA__SELECT_WAITS) return step;
        do {
            asthra__select_relax(&rounds);
        } while (asthra__select_claim_of(other) == ASTHRA__WAIT_BUSY &&
                 asthra__select_claim_of(self) == ASTHRA__WAIT_OPEN);
    }
    return ASTHRA__SELECT_COMPLETED;
}

/* ---- second pass: under the lock of a case's channel ---- */

/* Matches with a node of the opposite list, which is unlinked and left in *found. */
static Asthra__SelectStep asthra__select_meet(Asthra__Parker *self, Asthra__Waiters *opposite,
                                              Asthra__Waiter **found) {
    Asthra__Waiter *next;
    for (Asthra__Waiter *w = asthra__load(&opposite->first, relaxed); w; w = next) {
        next = w->next;
        if (w->parker == self) continue; /* a select never meets itself */
        Asthra__SelectStep step = asthra__select_claim_pair(self, w->parker);
        if (step == ASTHRA__SELECT_COMPLETED) return step;
        asthra__waiters_remove(opposite, w);
        asthra__waiter_release(w); /* a stale one's last touch; a match is woken later */
        if (step == ASTHRA__SELECT_STALE) continue;
        *found = w;
        return step;
    }
    return ASTHRA__SELECT_WAITS;
}

static Asthra__SelectStep asthra__select_meet_sender(Asthra__Select *s, AsthraSelectCase *k,
                                                     Asthra__Parker **wake) {
    Asthra__Waiter *w;
    Asthra__SelectStep step = asthra__select_meet(s->self, &k->channel->senders, &w);
    if (step != ASTHRA__SELECT_MATCHED) return step;
    if (k->data) asthra__channel_copy(k->data, w->slot, k->channel->element_size);
    *wake = asthra__waiter_finish(w, ASTHRA_OK);
    return step;
}

static Asthra__SelectStep asthra__select_meet_receiver(Asthra__Select *s, AsthraSelectCase *k,
                                                       Asthra__Parker **wake) {
    Asthra__Waiter *w;
    Asthra__SelectStep step = asthra__select_meet(s->self, &k->channel->receivers, &w);
    if (step != ASTHRA__SELECT_MATCHED) return step;
    if (w->slot) asthra__channel_copy(w->slot, k->data, k->channel->element_size);
    *wake = asthra__waiter_finish(w, ASTHRA_OK);
    return step;
}

/* Can the case be completed without a partner? Then nothing but our own word stands against it. */
static bool asthra__select_is_one_sided(const AsthraSelectCase *k) {
    size_t count = asthra__load(&k->channel->count, relaxed);
    if (asthra__load(&k->channel->is_closed, relaxed)) return true;
    return k->kind == ASTHRA_SELECT_SEND ? count < k->channel->capacity : count > 0;
}

static Asthra__SelectStep asthra__select_match(Asthra__Select *s, AsthraSelectCase *k,
                                               AsthraStatus *status, Asthra__Parker **wake) {
    *status = ASTHRA_OK;
    if (asthra__select_is_one_sided(k)) {
        if (!asthra__select_move(s->self, ASTHRA__WAIT_OPEN, ASTHRA__WAIT_DONE))
            return ASTHRA__SELECT_COMPLETED;
        *status = asthra__select_try(k, wake);
        ASTHRA__ASSERT(*status != ASTHRA_WOULD_BLOCK);
        return ASTHRA__SELECT_MATCHED;
    }
    if (k->kind == ASTHRA_SELECT_SEND) return asthra__select_meet_receiver(s, k, wake);
    return asthra__select_meet_sender(s, k, wake);
}

static Asthra__Waiters *asthra__select_list(const AsthraSelectCase *k) {
    return k->kind == ASTHRA_SELECT_SEND ? &k->channel->senders : &k->channel->receivers;
}

/* Case i, which w stands for, looks ready: matches it, or appends w after all. Gives the lock back.
 * False: the select has been completed. */
ASTHRA__NOINLINE static bool asthra__select_settle(Asthra__Select *s, int i, Asthra__Waiter *w) {
    AsthraSelectCase *k = &s->cases[i];
    Asthra__Parker *wake = NULL;
    AsthraStatus status;
    Asthra__SelectStep step = asthra__select_match(s, k, &status, &wake);
    if (step == ASTHRA__SELECT_WAITS) asthra__waiters_append(asthra__select_list(k), w);
    if (step == ASTHRA__SELECT_MATCHED) asthra__waiter_finish(w, status);
    asthra__channel_unlock(k->channel);
    if (wake) asthra__wait_wake(wake);
    if (step == ASTHRA__SELECT_MATCHED) asthra__wait_wake(s->self); /* so that park returns */
    return step == ASTHRA__SELECT_WAITS;
}

/* Many receives into one buffer are usual, and touching it once will do. */
static inline bool asthra__select_shares_buffer(const AsthraSelectCase *k,
                                                const AsthraSelectCase *before) {
    return k->data == before->data && k->kind == before->kind && before->channel &&
           k->channel->element_size <= before->channel->element_size;
}

/* Before the first node is listed: a touch writes the target's own byte back, and from then on a
 * partner may have filled a target that several cases share. */
static void asthra__select_touch_all(const AsthraSelectCase *cases, int count) {
    for (int i = 0; i < count; i++) {
        const AsthraSelectCase *k = &cases[i];
        if (!k->channel) continue;
        if (i == 0 || !asthra__select_shares_buffer(k, k - 1)) asthra__select_touch(k);
    }
}

/* Appends w for case i, or completes the select. */
static inline bool asthra__select_offer(Asthra__Select *s, int i, Asthra__Waiter *w) {
    const AsthraSelectCase *k = &s->cases[i];
    AsthraChannel *c = k->channel;
    bool is_send = k->kind == ASTHRA_SELECT_SEND;
    asthra__lock(&c->lock);
    bool must_wait = is_send ? asthra__channel_is_full(c) : asthra__channel_is_empty(c);
    if (ASTHRA__UNLIKELY(!must_wait)) return asthra__select_settle(s, i, w);
    asthra__waiters_append(is_send ? &c->senders : &c->receivers, w);
    asthra__channel_unlock(c);
    return true;
}

/* ---- second pass: the recursion ---- */

/* Consumes the wake and notes who completed us, while every node is still there. */
static void asthra__select_park(Asthra__Select *s) {
    AsthraStatus status = asthra__wait_park(&s->wait, s->timeout_ns);
    const Asthra__Waiter *winner = s->wait.winner;
    switch (status) {
    case ASTHRA_TIMED_OUT: s->chosen = ASTHRA_SELECT_TIMEOUT; break;
    case ASTHRA_CANCELLED: s->chosen = ASTHRA_SELECT_CANCELLED; break;
    case ASTHRA_OUT_OF_MEMORY: s->chosen = ASTHRA_SELECT_OUT_OF_MEMORY; break;
    default: /* OK or CLOSED */ s->chosen = winner->index; s->cases[s->chosen].status = status;
    }
}

/* Appends nodes for the cases from `first` on, parks, unlinks. */
ASTHRA__NOINLINE static void asthra__select_wait_from(Asthra__Select *s, int first) {
    Asthra__Waiter nodes[16];
    int used = 0, i = first;
    bool is_waiting = true;
    for (; is_waiting && i < s->count && used < 16; i++) {
        if (!s->cases[i].channel) continue;
        Asthra__Waiter *w = &nodes[used++];
        w->parker = s->self;
        w->slot = s->cases[i].data;
        w->index = i;
        asthra__store(&w->is_linked, false, relaxed);
        is_waiting = asthra__select_offer(s, i, w);
    }
    if (is_waiting && i < s->count)
        asthra__select_wait_from(s, i);
    else
        asthra__select_park(s);
    for (int n = 0; n < used; n++) {
        const AsthraSelectCase *k = &s->cases[nodes[n].index];
        asthra__waiter_unlink(k->channel, asthra__select_list(k), &nodes[n]);
    }
}

/* "select of receive on channel 'a', send on channel 'b'"; in a report, while nobody can go on. */
static void asthra__select_describe(Asthra__Text *t, const Asthra__Wait *w) {
    const Asthra__Select *s = ASTHRA__CONTAINER_CONST(Asthra__Select, wait, w);
    int named = 0, others = 0;
    asthra__text_add(t, "select");
    for (int i = 0; i < s->count; i++) {
        const AsthraSelectCase *k = &s->cases[i];
        if (!k->channel) continue;
        if (named == 4) {
            others++;
            continue;
        }
        asthra__text_format(t, "%s%s on channel '%s'", named++ ? ", " : " of ",
                            k->kind == ASTHRA_SELECT_SEND ? "send" : "receive", k->channel->name);
    }
    if (others) asthra__text_format(t, ", and %d more", others);
    if (!named) asthra__text_add(t, " without a channel");
}

ASTHRA__NOINLINE static int asthra__select_wait(AsthraSelectCase *cases, int count,
                                                int64_t timeout_ns) {
    Asthra__Select s;
    s.cases = cases;
    s.count = count;
    s.timeout_ns = timeout_ns;
    s.wait.what = "select";
    s.wait.name = NULL;
    s.wait.held = NULL;
    s.wait.is_firm = false;
    s.wait.outcome = ASTHRA_OK;
    asthra__select_touch_all(cases, count);
    s.self = asthra__wait_open(&s.wait);
    s.wait.describe = asthra__select_describe;
    asthra__select_wait_from(&s, 0);
    return s.chosen;
}

/* ---- the contract ---- */

static AsthraSelectCase asthra__select_case(AsthraSelectKind kind, AsthraChannel *c, void *data) {
    AsthraSelectCase k = {kind, ASTHRA_OK, c, data};
    return k;
}

ASTHRA_RT_API AsthraSelectCase asthra_select_send(AsthraChannel *c, const void *value) {
    return asthra__select_case(ASTHRA_SELECT_SEND, c, asthra__channel_source(value));
}

ASTHRA_RT_API AsthraSelectCase asthra_select_receive(AsthraChannel *c, void *out) {
    return asthra__select_case(ASTHRA_SELECT_RECEIVE, c, out);
}

ASTHRA_RT_API int asthra_select(AsthraSelectCase *cases, size_t count, int64_t timeout_ns) {
    if (ASTHRA__UNLIKELY(!cases && count)) asthra_panic_at(NULL, "asthra_select: cases is NULL");
    if (ASTHRA__UNLIKELY(count > INT_MAX))
        asthra_panic_at(NULL, "asthra_select: %zu cases; the index of a case is an int", count);
    asthra__turn();
    int chosen = asthra__select_poll(cases, (int)count);
    if (chosen >= 0) return chosen;
    if (timeout_ns == 0) return ASTHRA_SELECT_DEFAULT;
    return asthra__select_wait(cases, (int)count, timeout_ns);
}

struct AsthraSelectBuilder {
    AsthraSelectCase *cases;
    size_t count, room;
    int64_t timeout_ns;
    bool has_default;
    AsthraSelectOutcome outcome;
};

#define ASTHRA__SELECT_NEEDS(b)            \
    (ASTHRA__LIKELY((b) != NULL) ? (void)0 \
                                 : asthra_panic_at(NULL, "%s: the builder is NULL", __func__))

ASTHRA_RT_API AsthraSelectBuilder *asthra_select_builder_create(void) {
    if (!asthra__tier_is_on(2)) return NULL;
    AsthraSelectBuilder *b = asthra__alloc_zeroed(1, sizeof *b);
    if (!b) {
        asthra__error_set(ASTHRA_OUT_OF_MEMORY, "asthra_select_builder_create: out of memory");
        return NULL;
    }
    b->timeout_ns = -1;
    asthra__error_clear();
    return b;
}

static int asthra__select_add(AsthraSelectBuilder *b, AsthraSelectCase k) {
    if (b->count == b->room) {
        size_t room = b->room ? b->room * 2 : 8;
        AsthraSelectCase *cases = NULL;
        if (room <= INT_MAX) cases = asthra__realloc(b->cases, room * sizeof *cases);
        if (!cases) {
            asthra__error_set(ASTHRA_OUT_OF_MEMORY, "select builder: no memory for %zu cases",
                              room);
            return -1;
        }
        b->cases = cases;
        b->room = room;
    }
    b->cases[b->count] = k;
    return (int)b->count++;
}

ASTHRA_RT_API int asthra_select_builder_add_send(AsthraSelectBuilder *b, AsthraChannel *c,
                                                 const void *data) {
    ASTHRA__SELECT_NEEDS(b);
    if (c && !data)
        asthra_panic_at(NULL, "asthra_select_builder_add_send: the data for channel '%s' is NULL",
                        c->name);
    return asthra__select_add(b, asthra_select_send(c, data));
}

ASTHRA_RT_API int asthra_select_builder_add_receive(AsthraSelectBuilder *b, AsthraChannel *c,
                                                    void *out) {
    ASTHRA__SELECT_NEEDS(b);
    return asthra__select_add(b, asthra_select_receive(c, out));
}

ASTHRA_RT_API void asthra_select_builder_set_default(AsthraSelectBuilder *b) {
    ASTHRA__SELECT_NEEDS(b);
    b->has_default = true;
}

ASTHRA_RT_API void asthra_select_builder_set_timeout(AsthraSelectBuilder *b, int64_t timeout_ns) {
    ASTHRA__SELECT_NEEDS(b);
    b->timeout_ns = timeout_ns;
}

ASTHRA_RT_API void asthra_select_builder_destroy(AsthraSelectBuilder *b) {
    ASTHRA__SELECT_NEEDS(b);
    asthra__free(b->cases);
    asthra__free(b);
}

static AsthraSelectOutcome asthra__select_outcome_of(const AsthraSelectCase *k) {
    if (k->status == ASTHRA_CLOSED) return ASTHRA_SELECT_CLOSED;
    return k->kind == ASTHRA_SELECT_SEND ? ASTHRA_SELECT_SENT : ASTHRA_SELECT_RECEIVED;
}

ASTHRA_RT_API int asthra_select_execute(AsthraSelectBuilder *b) {
    ASTHRA__SELECT_NEEDS(b);
    int chosen = asthra_select(b->cases, b->count, b->has_default ? 0 : b->timeout_ns);
    b->outcome = chosen < 0 ? ASTHRA_SELECT_NONE : asthra__select_outcome_of(&b->cases[chosen]);
    if (chosen == ASTHRA_SELECT_DEFAULT && !b->has_default) return ASTHRA_SELECT_TIMEOUT;
    return chosen;
}

ASTHRA_RT_API AsthraSelectOutcome asthra_select_outcome(const AsthraSelectBuilder *b) {
    ASTHRA__SELECT_NEEDS(b);
    return b->outcome;
}

#endif

/* ---- [mutex] body --------------------------------------------------- concurrency/mutex.c ---- */
/* mutex - a word for the owner, and a table of waiters.                          [mutex] body
 *
 * The first word of a mutex is its owner's parker, or 0. Locking is one compare-and-swap. Unlocking
 * is a plain store, which halves the cost of a pair, and it must not touch the mutex afterwards,
 * because the next owner may free it. So the waiters do not stand in the mutex but in a table of
 * the process, in a bucket chosen by its address; who unlocks looks only at the bucket.
 *
 * Why no wake is lost. A waiter S and an unlocker U do
 *
 *     S1  asleep += 1, under the bucket's lock        U1  owner = 0
 *         heavy fence                                     light fence
 *     S2  try once more; park, which gives the        U2  asleep != 0: lock the bucket,
 *         bucket's lock back                              wake the oldest waiter
 *
 * and the fences (os_internal.h) leave two interleavings: U2 sees S1, and finds S parked; or S2
 * sees U1, and S takes the mutex or fails against a later owner, for whom the same holds.
 *
 * A woken waiter has no right to the mutex: a passer-by may take it first, which keeps the mutex
 * busy instead of idle while somebody wakes up. Against convoys at most one waiter of a mutex is
 * awake at a time: it keeps its place in the bucket, marked, and unlockers that see the mark wake
 * nobody else. When it gets the mutex it leaves the bucket, and its own unlock wakes the next; when
 * it does not, it sleeps again in the same place (S1 and S2 again, so whoever has the mutex then
 * will see it). One that was woken twice in vain is handed the mutex: the unlocker, which looks at
 * the bucket before U1 too, writes the waiter in as the owner. So nobody is passed for ever.
 *
 * `asleep` counts waiters without the mark: an unlock is fast while the only waiter is on its way.
 * Mutexes that share a bucket cost each other nothing but the look.
 */

#if ASTHRA_HAS_MUTEX

#include <string.h>

enum { ASTHRA__MUTEX_BUCKETS = 64, ASTHRA__MUTEX_PATIENCE = 2 };

typedef struct Asthra__MutexWaiter Asthra__MutexWaiter;
struct Asthra__MutexWaiter {
    Asthra__MutexWaiter *next, *prev;
    const AsthraMutex *mutex; /* compared, never followed */
    Asthra__Parker *parker;
    bool is_woken; /* on its way to try again */
    bool is_owner; /* was handed the mutex and unlinked */
    unsigned in_vain;
    Asthra__Wait wait;
};

typedef struct Asthra__MutexBucket {
    ASTHRA__ALIGNED(64) Asthra__Lock lock;
    ASTHRA__ATOMIC(uint32_t) asleep;
    Asthra__MutexWaiter *first, *last;
} Asthra__MutexBucket;

static struct {
    Asthra__MutexBucket buckets[ASTHRA__MUTEX_BUCKETS];
    Asthra__Once fork_hook;
} asthra__mutex;

typedef ASTHRA__ATOMIC(uintptr_t) Asthra__MutexWord __attribute__((__may_alias__));
_Static_assert(sizeof(Asthra__MutexWord) <= sizeof(AsthraMutex), "the owner fits");

static inline Asthra__MutexWord *asthra__mutex_owner(AsthraMutex *m) {
    return (Asthra__MutexWord *)(void *)m->opaque;
}

static inline Asthra__MutexBucket *asthra__mutex_bucket(const AsthraMutex *m) {
    uint32_t hash = (uint32_t)((uintptr_t)m >> 3) * 2654435761u; /* Fibonacci hashing */
    return &asthra__mutex.buckets[hash >> 26];
}
_Static_assert(ASTHRA__MUTEX_BUCKETS == 1 << (32 - 26), "the hash reaches each bucket");

static inline bool asthra__mutex_try(AsthraMutex *m, const Asthra__Parker *self) {
    uintptr_t nobody = 0;
    return asthra__cas(asthra__mutex_owner(m), &nobody, (uintptr_t)self, acquire);
}

/* ---- the bucket; its lock is held ---- */

static void asthra__mutex_append(Asthra__MutexBucket *b, Asthra__MutexWaiter *w) {
    w->next = NULL;
    w->prev = b->last;
    if (w->prev)
        w->prev->next = w;
    else
        b->first = w;
    b->last = w;
}

static void asthra__mutex_remove(Asthra__MutexBucket *b, const Asthra__MutexWaiter *w) {
    if (w->prev)
        w->prev->next = w->next;
    else
        b->first = w->next;
    if (w->next)
        w->next->prev = w->prev;
    else
        b->last = w->prev;
}

/* The oldest waiter of m from w on; NULL: none. */
static Asthra__MutexWaiter *asthra__mutex_find(Asthra__MutexWaiter *w, const AsthraMutex *m) {
    while (w && w->mutex != m) w = w->next;
    return w;
}

/* Claims the oldest waiter of m that still waits, and marks it; NULL: none, or one is on its
 * way. */
static Asthra__MutexWaiter *asthra__mutex_rouse(Asthra__MutexBucket *b, const AsthraMutex *m) {
    Asthra__MutexWaiter *w = asthra__mutex_find(b->first, m);
    for (; w; w = asthra__mutex_find(w->next, m)) {
        if (w->is_woken) return NULL;
        if (!asthra__wait_claim(w->parker)) continue; /* timed out or cancelled: it leaves itself */
        w->is_woken = true;
        w->wait.outcome = ASTHRA_OK;
        asthra__sub(&b->asleep, 1, relaxed);
        return w;
    }
    return NULL;
}

/* ---- waiting ---- */

/* In a forked child nobody waits any more, and no bucket is locked. */
static void asthra__mutex_fork_child(void) {
    for (int i = 0; i < ASTHRA__MUTEX_BUCKETS; i++) {
        Asthra__MutexBucket *b = &asthra__mutex.buckets[i];
        asthra__store(&b->lock.word, 0, relaxed);
        asthra__store(&b->asleep, 0, relaxed);
        b->first = b->last = NULL;
    }
}
static void asthra__mutex_hook_fork(void) {
    asthra__os_on_fork(NULL, NULL, asthra__mutex_fork_child);
}

/* Tries for about a microsecond, ever less often, so that the owner is not disturbed. */
static bool asthra__mutex_spin(AsthraMutex *m, const Asthra__Parker *self) {
    for (int pause = 1; pause <= 32; pause *= 2) {
        for (int i = 0; i < pause; i++) asthra__cpu_relax();
        if (!asthra__load(asthra__mutex_owner(m), relaxed) && asthra__mutex_try(m, self))
            return true;
    }
    return false;
}

static void asthra__mutex_leave(Asthra__MutexBucket *b, Asthra__MutexWaiter *w) {
    asthra__lock(&b->lock);
    if (!w->is_woken) asthra__sub(&b->asleep, 1, relaxed);
    asthra__mutex_remove(b, w);
    asthra__unlock(&b->lock);
}

/* Sleeps once. w stands in the bucket, whose lock is held and is given back. OK: woken, or it has
 * the mutex already; else the wait is over and w still stands in the bucket. */
static AsthraStatus asthra__mutex_sleep(AsthraMutex *m, Asthra__MutexBucket *b,
                                        Asthra__MutexWaiter *w, int64_t deadline_ns) {
    int64_t timeout_ns = -1;
    w->is_woken = false;
    asthra__add(&b->asleep, 1, relaxed);
    asthra__os_fence_heavy(); /* partner: the light fence in asthra_mutex_unlock */
    if (asthra__mutex_try(m, w->parker)) {
        asthra__sub(&b->asleep, 1, relaxed);
        asthra__mutex_remove(b, w);
        asthra__unlock(&b->lock);
        w->is_owner = true;
        return ASTHRA_OK;
    }
    if (deadline_ns != INT64_MAX) {
        timeout_ns = deadline_ns - asthra__now_ns();
        if (timeout_ns < 1) timeout_ns = 1;
    }
    w->wait.held = &b->lock;
    asthra__wait_open(&w->wait);
    return asthra__wait_park(&w->wait, timeout_ns);
}

ASTHRA__NOINLINE static AsthraStatus asthra__mutex_wait(AsthraMutex *m, Asthra__Parker *self,
                                                        int64_t timeout_ns) {
    Asthra__MutexBucket *b = asthra__mutex_bucket(m);
    int64_t deadline_ns = timeout_ns < 0 ? INT64_MAX : asthra__deadline(timeout_ns);
    Asthra__MutexWaiter w;
    memset(&w, 0, sizeof w);
    w.mutex = m;
    w.parker = self;
    w.wait.what = "lock of a mutex";
    asthra__once(&asthra__mutex.fork_hook, asthra__mutex_hook_fork);
    asthra__lock(&b->lock);
    asthra__mutex_append(b, &w);
    for (;;) {
        AsthraStatus status = asthra__mutex_sleep(m, b, &w, deadline_ns);
        if (w.is_owner) return ASTHRA_OK;
        if (status != ASTHRA_OK || asthra__mutex_try(m, self) || asthra__mutex_spin(m, self)) {
            asthra__mutex_leave(b, &w);
            return status;
        }
        w.in_vain++;
        asthra__lock(&b->lock);
    }
}

ASTHRA__NOINLINE static AsthraResult asthra__mutex_lock_slow(AsthraMutex *m, Asthra__Parker *self,
                                                             int64_t timeout_ns) {
    if (asthra__load(asthra__mutex_owner(m), relaxed) == (uintptr_t)self)
        asthra_panic_at(NULL, "asthra_mutex_lock: already locked by this task or thread");
    if (timeout_ns == 0) return asthra__result_of(ASTHRA_TIMED_OUT);
    if (asthra__mutex_spin(m, self)) return asthra__result_of(ASTHRA_OK);
    return asthra__result_of(asthra__mutex_wait(m, self, timeout_ns));
}

/* ---- unlocking ---- */

/* Hands the mutex to the oldest waiter if it has been patient, else frees it and wakes that one.
 * The bucket is not empty; the caller owns m. */
ASTHRA__NOINLINE static void asthra__mutex_pass_on(AsthraMutex *m, Asthra__MutexBucket *b) {
    asthra__lock(&b->lock);
    Asthra__MutexWaiter *w = asthra__mutex_rouse(b, m);
    Asthra__Parker *parker = w ? w->parker : NULL;
    bool is_handed = w && w->in_vain >= ASTHRA__MUTEX_PATIENCE;
    if (is_handed) {
        asthra__mutex_remove(b, w);
        w->is_owner = true;
    }
    /* release: partner is the acquire in asthra__mutex_try, or the wake */
    asthra__store(asthra__mutex_owner(m), is_handed ? (uintptr_t)parker : 0, release);
    asthra__unlock(&b->lock);
    if (parker) asthra__wait_wake(parker);
}

/* Wakes the oldest waiter of m, which is free, perhaps locked again, perhaps gone. */
ASTHRA__NOINLINE static void asthra__mutex_wake(const AsthraMutex *m, Asthra__MutexBucket *b) {
    asthra__lock(&b->lock);
    Asthra__MutexWaiter *w = asthra__mutex_rouse(b, m);
    Asthra__Parker *parker = w ? w->parker : NULL;
    asthra__unlock(&b->lock);
    if (parker) asthra__wait_wake(parker);
}

/* ---- the contract ---- */

#define ASTHRA__MUTEX_NEEDS(m)             \
    (ASTHRA__LIKELY((m) != NULL) ? (void)0 \
                                 : asthra_panic_at(NULL, "%s: the mutex is NULL", __func__))

ASTHRA_RT_API void asthra_mutex_init(AsthraMutex *m) {
    ASTHRA__MUTEX_NEEDS(m);
    memset(m, 0, sizeof *m);
}

static inline AsthraResult asthra__mutex_lock(AsthraMutex *m, int64_t timeout_ns) {
    asthra__turn();
    Asthra__Parker *self = asthra__parker();
    AsthraResult ok = {0, 0, {NULL}};
    if (ASTHRA__LIKELY(asthra__mutex_try(m, self))) return ok;
    return asthra__mutex_lock_slow(m, self, timeout_ns);
}

ASTHRA_RT_API AsthraResult asthra_mutex_lock(AsthraMutex *m) {
    ASTHRA__MUTEX_NEEDS(m);
    return asthra__mutex_lock(m, -1);
}

ASTHRA_RT_API AsthraResult asthra_mutex_lock_timeout(AsthraMutex *m, int64_t timeout_ns) {
    ASTHRA__MUTEX_NEEDS(m);
    return asthra__mutex_lock(m, timeout_ns);
}

ASTHRA_RT_API bool asthra_mutex_try_lock(AsthraMutex *m) {
    ASTHRA__MUTEX_NEEDS(m);
    asthra__turn();
    if (ASTHRA__LIKELY(asthra__mutex_try(m, asthra__parker()))) return true;
    asthra__error_note(ASTHRA_WOULD_BLOCK);
    return false;
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__mutex_not_mine(uintptr_t owner) {
    char name[96];
    if (!owner) asthra_panic_at(NULL, "asthra_mutex_unlock: it is not locked");
    asthra_panic_at(NULL,
                    "asthra_mutex_unlock: it was locked by another, %s, which alone may unlock it",
                    asthra__parker_name_if_any(owner, name, sizeof name));
}

ASTHRA_RT_API void asthra_mutex_unlock(AsthraMutex *m) {
    ASTHRA__MUTEX_NEEDS(m);
    asthra__turn();
    Asthra__MutexBucket *b = asthra__mutex_bucket(m);
    uintptr_t owner = asthra__load(asthra__mutex_owner(m), relaxed);
    if (ASTHRA__UNLIKELY(owner != (uintptr_t)asthra__parker())) asthra__mutex_not_mine(owner);
    if (ASTHRA__UNLIKELY(asthra__load(&b->asleep, relaxed))) {
        asthra__mutex_pass_on(m, b);
        return;
    }
    asthra__store(asthra__mutex_owner(m), 0,
                  release);   /* partner: the acquire in asthra__mutex_try */
    asthra__os_fence_light(); /* partner: the heavy fence in asthra__mutex_sleep */
    if (ASTHRA__UNLIKELY(asthra__load(&b->asleep, relaxed))) asthra__mutex_wake(m, b);
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__mutex_in_use(uintptr_t owner) {
    char name[96];
    if (!owner) asthra_panic_at(NULL, "asthra_mutex_destroy: it is still waited for");
    asthra_panic_at(NULL, "asthra_mutex_destroy: it is still locked by %s; unlock it first",
                    asthra__parker_name_if_any(owner, name, sizeof name));
}

ASTHRA_RT_API void asthra_mutex_destroy(AsthraMutex *m) {
    ASTHRA__MUTEX_NEEDS(m);
    Asthra__MutexBucket *b = asthra__mutex_bucket(m);
    uintptr_t owner = asthra__load(asthra__mutex_owner(m), relaxed);
    asthra__lock(&b->lock);
    bool is_awaited = asthra__mutex_find(b->first, m) != NULL;
    asthra__unlock(&b->lock);
    if (owner || is_awaited) asthra__mutex_in_use(owner);
    memset(m, 0, sizeof *m);
}

#endif

/* ---- [fd] body ------------------------------------------------------------------ io/fd.c ---- */
/* fd - waiting until a descriptor is ready.                                [fd] body
 *
 * Each descriptor number has an entry: a lock, a list of those who wait, and whether the system's
 * set (os_internal.h) knows it. A wait links a node that stands on its own stack, arms the set for
 * what all in the list want, and parks; the entry's lock is held from there to the moment when the
 * stack has been left. The scheduler calls us back (Asthra__Poller): marks of what is ready come
 * in, nodes are claimed and unlinked under the entry's lock, what is left is armed again.
 *
 * A mark is the number with the entry's `turn`, counted up whenever it is armed. So an event that
 * was on its way when somebody armed anew is dropped, and comes again if it is still true: nobody
 * is told of readiness that had been used up before the wait began.
 *
 * Closed. A set forgets a file that is closed and tells nobody. Arming tells: it finds the number
 * closed, or given to another file. So whoever begins to wait completes those who waited for the
 * file before; and a sweep arms all that is awaited once more, after a tenth of a second, then ever
 * more seldom while no new waits begin. It never takes more than about a hundredth of the time.
 *
 * Entries are in segments that double and stay, so an entry never moves; number i is in segment
 * floor(log2(i / 64 + 1)).
 */

#if ASTHRA_HAS_FD

#include <errno.h>
#include <poll.h>
#include <string.h>

enum {
    ASTHRA__FD_SEGMENTS = 26, /* the last one ends above INT_MAX */
    ASTHRA__FD_FIRST = 64,
    ASTHRA__FD_BATCH = 64,
    ASTHRA__FD_EVENTS = 0x7fff /* poll's are a positive short */
};
#define ASTHRA__FD_SWEEP_NS ASTHRA_MS(100)
#define ASTHRA__FD_SWEEP_MOST_NS ASTHRA_MS(1600)

typedef struct Asthra__FdNode {
    struct Asthra__FdNode *next, **link; /* link NULL: in no list */
    Asthra__Parker *parker;
    int wanted, got;
} Asthra__FdNode;

typedef struct Asthra__FdEntry {
    Asthra__Lock lock;
    uint32_t turn;
    Asthra__FdNode *first;           /* of those who wait */
    bool is_known;                   /* to the set */
    ASTHRA__ATOMIC(bool) is_awaited; /* perhaps: what a sweep looks at first */
} Asthra__FdEntry;

static struct {
    Asthra__Lock lock; /* of opening, and of new segments */
    ASTHRA__ATOMIC(bool) is_open;
    bool has_fork_hook;
    ASTHRA__ATOMIC(Asthra__FdEntry *) segments[ASTHRA__FD_SEGMENTS];
    ASTHRA__ATOMIC(uint32_t) begun; /* counts waits */
    /* Of the one thread that polls. */
    Asthra__OsReady ready[ASTHRA__FD_BATCH];
    size_t ready_count;
    uint32_t begun_at_sweep;
    int64_t sweep_at_ns, sweep_after_ns;
} asthra__fd;

/* ---- entries ---- */

static size_t asthra__fd_segment_size(unsigned segment) {
    return (size_t)ASTHRA__FD_FIRST << segment;
}

static unsigned asthra__fd_segment_of(unsigned fd, size_t *within) {
    unsigned segment = 31u - (unsigned)__builtin_clz(fd / ASTHRA__FD_FIRST + 1);
    *within = fd - (asthra__fd_segment_size(segment) - ASTHRA__FD_FIRST);
    return segment;
}

/* NULL: none was made for it. */
static Asthra__FdEntry *asthra__fd_find(unsigned fd) {
    size_t within;
    unsigned segment = asthra__fd_segment_of(fd, &within);
    Asthra__FdEntry *entries = asthra__load(&asthra__fd.segments[segment], acquire);
    return entries == NULL ? NULL : &entries[within];
}

/* NULL: no memory. */
ASTHRA__COLD static Asthra__FdEntry *asthra__fd_make(unsigned fd) {
    size_t within;
    unsigned segment = asthra__fd_segment_of(fd, &within);
    asthra__lock(&asthra__fd.lock);
    Asthra__FdEntry *entries = asthra__load(&asthra__fd.segments[segment], relaxed);
    if (entries == NULL) {
        entries = asthra__alloc_zeroed(asthra__fd_segment_size(segment), sizeof *entries);
        asthra__store(&asthra__fd.segments[segment], entries, release);
    }
    asthra__unlock(&asthra__fd.lock);
    return entries == NULL ? NULL : &entries[within];
}

/* ---- under an entry's lock ---- */

static void asthra__fd_link(Asthra__FdEntry *e, Asthra__FdNode *n) {
    asthra__store(&e->is_awaited, true, relaxed);
    n->next = e->first;
    n->link = &e->first;
    if (n->next != NULL) n->next->link = &n->next;
    e->first = n;
}

static void asthra__fd_unlink(Asthra__FdNode *n) {
    *n->link = n->next;
    if (n->next != NULL) n->next->link = n->link;
    n->link = NULL;
}

static Asthra__OsArmed asthra__fd_arm(Asthra__FdEntry *e, unsigned fd) {
    int events = 0;
    for (const Asthra__FdNode *n = e->first; n != NULL; n = n->next) events |= n->wanted;
    uint64_t mark = (uint64_t)++e->turn << 32 | fd;
    Asthra__OsArmed how = asthra__os_poll_arm((int)fd, events, mark, e->is_known);
    e->is_known = how == ASTHRA__OS_ARMED || how == ASTHRA__OS_ARMED_ANEW;
    return how;
}

/* Completes those from n on that `events` concern, all but `own`, and puts them in front of
 * `chain`. */
static Asthra__FdNode *asthra__fd_complete(Asthra__FdNode *n, const Asthra__FdNode *own, int events,
                                           AsthraStatus outcome, Asthra__FdNode *chain) {
    for (Asthra__FdNode *next; n != NULL; n = next) {
        int got = events & (n->wanted | POLLERR | POLLHUP | POLLNVAL);
        next = n->next;
        if (n == own || got == 0) continue;
        asthra__fd_unlink(n);
        if (!asthra__wait_claim(n->parker)) continue; /* timed out, or cancelled */
        n->parker->wait->outcome = outcome;
        n->got = got;
        n->next = chain;
        chain = n;
    }
    return chain;
}

/* After unlocking. */
static void asthra__fd_wake(Asthra__FdNode *chain) {
    while (chain != NULL) {
        Asthra__Parker *p = chain->parker;
        chain = chain->next; /* the wake ends the node's life */
        asthra__wait_wake(p);
    }
}

/* ---- what the scheduler calls ---- */

static bool asthra__fd_sweep_is_due(void) {
    return asthra__os_now_ns() >= asthra__fd.sweep_at_ns;
}

static bool asthra__fd_poller_wait(int64_t timeout_ns) {
    int64_t sweep_ns = asthra__fd.sweep_at_ns - asthra__os_now_ns();
    if (sweep_ns < 0) sweep_ns = 0;
    if (timeout_ns < 0 || timeout_ns > sweep_ns) timeout_ns = sweep_ns;
    asthra__fd.ready_count = asthra__os_poll_wait(asthra__fd.ready, ASTHRA__FD_BATCH, timeout_ns);
    return asthra__fd.ready_count > 0 || asthra__fd_sweep_is_due();
}

static Asthra__FdNode *asthra__fd_tell(Asthra__OsReady ready, Asthra__FdNode *chain) {
    unsigned fd = (unsigned)(uint32_t)ready.mark;
    Asthra__FdEntry *e = asthra__fd_find(fd);
    if (e == NULL) return chain;
    asthra__lock(&e->lock);
    if (e->turn == (uint32_t)(ready.mark >> 32)) {
        AsthraStatus how = ready.events & POLLNVAL ? ASTHRA_CLOSED : ASTHRA_OK;
        chain = asthra__fd_complete(e->first, NULL, ready.events, how, chain);
        if (e->first != NULL) asthra__fd_arm(e, fd); /* what it finds closed the sweep will find */
    }
    asthra__unlock(&e->lock);
    return chain;
}

/* Is the file that e's nodes wait for still there? */
static Asthra__FdNode *asthra__fd_check(Asthra__FdEntry *e, unsigned fd, Asthra__FdNode *chain) {
    if (!asthra__load(&e->is_awaited, relaxed)) return chain;
    asthra__lock(&e->lock);
    asthra__store(&e->is_awaited, e->first != NULL, relaxed);
    if (e->first != NULL) {
        bool was_known = e->is_known;
        Asthra__OsArmed how = asthra__fd_arm(e, fd);
        bool is_other = was_known && how == ASTHRA__OS_ARMED_ANEW;
        if (how == ASTHRA__OS_ARMED_CLOSED || is_other)
            chain = asthra__fd_complete(e->first, NULL, POLLNVAL, ASTHRA_CLOSED, chain);
    }
    asthra__unlock(&e->lock);
    return chain;
}

static Asthra__FdNode *asthra__fd_sweep(Asthra__FdNode *chain) {
    int64_t start = asthra__os_now_ns(), after = asthra__fd.sweep_after_ns * 2;
    uint32_t begun = asthra__load(&asthra__fd.begun, relaxed);
    unsigned fd = 0;
    for (unsigned s = 0; s < ASTHRA__FD_SEGMENTS; s++) {
        Asthra__FdEntry *entries = asthra__load(&asthra__fd.segments[s], acquire);
        size_t size = asthra__fd_segment_size(s);
        for (size_t i = 0; entries != NULL && i < size; i++)
            chain = asthra__fd_check(&entries[i], fd + (unsigned)i, chain);
        fd += (unsigned)size;
    }
    if (begun != asthra__fd.begun_at_sweep) after = ASTHRA__FD_SWEEP_NS;
    if (after > ASTHRA__FD_SWEEP_MOST_NS) after = ASTHRA__FD_SWEEP_MOST_NS;
    asthra__fd.begun_at_sweep = begun;
    asthra__fd.sweep_after_ns = after;
    int64_t end = asthra__os_now_ns(), cost = (end - start) * 100;
    asthra__fd.sweep_at_ns = end + (cost > after ? cost : after);
    return chain;
}

static void asthra__fd_poller_deliver(void) {
    Asthra__FdNode *chain = NULL;
    for (size_t i = 0; i < asthra__fd.ready_count; i++)
        chain = asthra__fd_tell(asthra__fd.ready[i], chain);
    asthra__fd.ready_count = 0;
    if (asthra__fd_sweep_is_due()) chain = asthra__fd_sweep(chain);
    asthra__fd_wake(chain);
}

/* In a forked child entries may be locked, and the set is the parent's too: both are forgotten. */
static void asthra__fd_poller_end(bool is_child) {
    asthra__os_poll_close();
    for (unsigned s = 0; s < ASTHRA__FD_SEGMENTS; s++) {
        if (!is_child) asthra__free(asthra__load(&asthra__fd.segments[s], relaxed));
        asthra__store(&asthra__fd.segments[s], (Asthra__FdEntry *)NULL, relaxed);
    }
    asthra__store(&asthra__fd.is_open, false, release);
    asthra__store(&asthra__fd.lock.word, 0, relaxed);
}

/* Opens the set, once for each run of the runtime. */
ASTHRA__COLD static bool asthra__fd_open(void) {
    static const Asthra__Poller poller = {asthra__fd_poller_wait, asthra__fd_poller_deliver,
                                          asthra__os_poll_wake, asthra__fd_poller_end};
    asthra__lock(&asthra__fd.lock);
    bool is_open = asthra__load(&asthra__fd.is_open, relaxed);
    if (!is_open && asthra__os_poll_open()) {
        asthra__fd.sweep_after_ns = ASTHRA__FD_SWEEP_NS;
        asthra__fd.sweep_at_ns = asthra__os_now_ns() + ASTHRA__FD_SWEEP_NS;
        asthra__fd.ready_count = 0;
        asthra__outside_set_poller(&poller);
        asthra__store(&asthra__fd.is_open, true, release);
        is_open = true;
    }
    asthra__unlock(&asthra__fd.lock);
    return is_open;
}

/* ---- waiting ---- */

static AsthraResult asthra__fd_result(AsthraStatus status, int fd, int error) {
    AsthraResult r;
    if (status == ASTHRA_INVALID)
        r = asthra_result_errorf(status, "asthra_wait_fd: %d is no open descriptor", fd);
    else if (status == ASTHRA_CLOSED)
        r = asthra_result_errorf(status, "asthra_wait_fd: descriptor %d was closed by others", fd);
    else
        r = asthra_result_errorf(status, "asthra_wait_fd: no room to wait for descriptor %d", fd);
    r.detail = (uint32_t)error;
    return r;
}

static AsthraResult asthra__fd_ready(int events) {
    AsthraResult r = {ASTHRA_OK, 0, {NULL}};
    r.value.integer = events;
    return r;
}

/* On the calling thread. A signal does not end the wait. */
static AsthraResult asthra__fd_poll(int fd, int events, int64_t timeout_ns) {
    int64_t start = asthra__os_now_ns(), left_ns = timeout_ns;
    int got;
    while ((got = asthra__os_poll_one(fd, events, left_ns)) == -EINTR || got == 0) {
        if (timeout_ns < 0) continue;
        left_ns = timeout_ns - (asthra__os_now_ns() - start);
        if (left_ns <= 0) return asthra__result_of(ASTHRA_TIMED_OUT);
    }
    if (got < 0) return asthra__fd_result(ASTHRA_OUT_OF_MEMORY, fd, -got);
    if (got & POLLNVAL) return asthra__fd_result(ASTHRA_INVALID, fd, EBADF);
    return asthra__fd_ready(got);
}

/* Not armed: gives the wait, which nobody has seen, up again. */
static AsthraResult asthra__fd_refuse(Asthra__FdEntry *e, Asthra__Wait *w, int fd,
                                      Asthra__OsArmed how, Asthra__FdNode *closed, int wanted) {
    (void)asthra__wait_retract(w);
    asthra__unlock(&e->lock);
    asthra__fd_wake(closed);
    if (how == ASTHRA__OS_ARMED_NEVER) return asthra__fd_ready(wanted & (POLLIN | POLLOUT));
    if (how == ASTHRA__OS_ARMED_CLOSED) return asthra__fd_result(ASTHRA_INVALID, fd, EBADF);
    return asthra__fd_result(ASTHRA_LIMIT, fd, ENOSPC);
}

static AsthraResult asthra__fd_park(Asthra__FdEntry *e, int fd, int events, int64_t timeout_ns) {
    Asthra__FdNode node = {.wanted = events}, *closed = NULL;
    Asthra__Wait w = {.what = "descriptor", .held = &e->lock};
    asthra__lock(&e->lock);
    bool was_known = e->is_known;
    node.parker = asthra__wait_open(&w);
    asthra__fd_link(e, &node);
    Asthra__OsArmed how = asthra__fd_arm(e, (unsigned)fd);
    bool is_armed = how == ASTHRA__OS_ARMED || how == ASTHRA__OS_ARMED_ANEW;
    if (ASTHRA__UNLIKELY(how == ASTHRA__OS_ARMED_CLOSED ||
                         (was_known && how == ASTHRA__OS_ARMED_ANEW)))
        closed = asthra__fd_complete(e->first, &node, POLLNVAL, ASTHRA_CLOSED, NULL);
    if (ASTHRA__UNLIKELY(!is_armed)) {
        asthra__fd_unlink(&node);
        return asthra__fd_refuse(e, &w, fd, how, closed, events);
    }
    asthra__fd_wake(closed);
    AsthraStatus status = asthra__wait_park(&w, timeout_ns);
    if (status == ASTHRA_OK) return asthra__fd_ready(node.got);
    asthra__lock(&e->lock);
    if (node.link != NULL) asthra__fd_unlink(&node);
    asthra__unlock(&e->lock);
    if (status == ASTHRA_CLOSED) return asthra__fd_result(status, fd, EBADF);
    return asthra__result_of(status);
}

ASTHRA_RT_API AsthraResult asthra_wait_fd(int fd, int events, int64_t timeout_ns) {
    asthra__turn();
    if (fd < 0) return asthra__fd_result(ASTHRA_INVALID, fd, EBADF);
    if (events & ~ASTHRA__FD_EVENTS)
        return asthra_result_errorf(ASTHRA_INVALID,
                                    "asthra_wait_fd: events are 0x%x, expected those of poll(2), "
                                    "at most 0x%x",
                                    (unsigned)events, ASTHRA__FD_EVENTS);
    if (timeout_ns == 0 || asthra__seat()->worker == NULL)
        return asthra__fd_poll(fd, events, timeout_ns);
    if (ASTHRA__UNLIKELY(!asthra__load(&asthra__fd.is_open, acquire)) && !asthra__fd_open())
        return asthra__fd_result(ASTHRA_LIMIT, fd, EMFILE);
    Asthra__FdEntry *e = asthra__fd_find((unsigned)fd);
    if (ASTHRA__UNLIKELY(e == NULL)) { /* no large segment for a number that is none */
        int got = asthra__os_poll_one(fd, 0, 0);
        if (got > 0 && got & POLLNVAL) return asthra__fd_result(ASTHRA_INVALID, fd, EBADF);
        e = asthra__fd_make((unsigned)fd);
    }
    if (ASTHRA__UNLIKELY(e == NULL)) return asthra__fd_result(ASTHRA_OUT_OF_MEMORY, fd, ENOMEM);
    asthra__add(&asthra__fd.begun, 1u, relaxed);
    asthra__outside_begin();
    AsthraResult r = asthra__fd_park(e, fd, events, timeout_ns);
    asthra__outside_end();
    return r;
}

#endif

/* ---- [module] internal ---------------------------------------- runtime/module_internal.h ---- */
/* module - records, plans, and what the runtime asks at its end.             [module] internal */

#if ASTHRA_HAS_MODULE

typedef enum Asthra__ModuleState {
    ASTHRA__MODULE_OPEN,    /* in a plan: its needs are being looked at */
    ASTHRA__MODULE_PLANNED, /* in a plan */
    ASTHRA__MODULE_RUNNING, /* registered: its init runs */
    ASTHRA__MODULE_DONE,    /* registered: initialised */
    ASTHRA__MODULE_GONE     /* its init has failed; only its place in the tree is left */
} Asthra__ModuleState;

/* Who runs an init, or registers. No two are alike, also of those that have ended. */
typedef struct Asthra__ModuleParty {
    uint64_t task; /* 0: outside tasks */
    const Asthra__Thread *thread;
} Asthra__ModuleParty;

/* One module, first in a plan, then, if nobody else was first, in the registry. */
typedef struct Asthra__ModuleRecord Asthra__ModuleRecord;
struct Asthra__ModuleRecord {
    const AsthraModule *module;
    uint64_t hash; /* of its name */
    Asthra__ModuleState state;
    uint32_t epoch;                  /* of the registry that it was put into */
    Asthra__ModuleRecord *child[4];  /* in the tree that it stands in */
    Asthra__ModuleRecord *next;      /* planned: the one to be initialised next; RUNNING: older */
    Asthra__ModuleRecord *needed_by; /* whose need led to it; NULL: it was asked for */
    Asthra__ModuleRecord *path;      /* the next one of a ring that is being named */
    Asthra__ModuleRecord *known;     /* the registered one that stands for it, perhaps itself */
    Asthra__ModuleRecord *wants;     /* RUNNING: planned, what its init registers now; or NULL */
    Asthra__ModuleRecord *older, *newer;   /* DONE */
    const AsthraModule *const *needs_left; /* OPEN: not looked at yet; NULL: none */
    struct Asthra__ModuleWaiter *waiters;  /* RUNNING: for its end */
    Asthra__ModuleParty party;             /* RUNNING: in its init; zero: it has not begun */
};

/* ---- module_plan.c ---- */

/* The link to the record of that name, or to where it would stand. */
ASTHRA__FN Asthra__ModuleRecord **asthra__module_place(Asthra__ModuleRecord **tree,
                                                       const char *name, uint64_t hash);
/* All but the RUNNING ones as a list; the tree is no more. */
ASTHRA__FN Asthra__ModuleRecord *asthra__module_flatten(Asthra__ModuleRecord *tree);
ASTHRA__FN void asthra__module_free_list(Asthra__ModuleRecord *list);

/* What is not initialised yet of m and its needs, needs first, as a list; OK, or nothing is left
 * behind. */
ASTHRA__FN AsthraResult asthra__module_plan(const AsthraModule *m, Asthra__ModuleRecord **list);

ASTHRA__FN AsthraResult asthra__module_conflict(const AsthraModule *old, const AsthraModule *young);

/* "modules need each other in a cycle: a needs b needs a" of the ring that r->path leads round. It
 * begins with the smallest name, so that a cycle has one text, whoever comes upon it. */
ASTHRA__FN void asthra__module_name_ring(const Asthra__ModuleRecord *r, Asthra__Text *t);

/* ---- module.c ---- */

/* Registered under that name, initialised (*is_done) or about to be; NULL: none. */
ASTHRA__FN const AsthraModule *asthra__module_known(const char *name, uint64_t hash, bool *is_done);

/* Calls visit for the types of all modules that are initialised, those of needs first, until it
 * returns false. Under the lock: visit must not register, wait or allocate. */
ASTHRA__FN void asthra__module_each_type(bool (*visit)(const struct AsthraTypeInfo *type,
                                                       const AsthraModule *m, void *user),
                                         void *user);

/* Between the two below: whoever asks on the thread that shuts down is a fini. */
ASTHRA__FN bool asthra__module_is_ending(void);
/* Refuses to register from now on, waits timeout_ns for inits that still run, then calls finis. */
ASTHRA__FN void asthra__module_end_all(int64_t timeout_ns);
ASTHRA__FN void asthra__module_reopen(void); /* the shutdown is over */

#elif ASTHRA_HAS_CORE

static inline bool asthra__module_is_ending(void) {
    return false;
}
static inline void asthra__module_end_all(int64_t timeout_ns) {
    (void)timeout_ns;
}
static inline void asthra__module_reopen(void) {}

#endif

/* ---- [module] body ------------------------------------------------ runtime/module_plan.c ---- */
/* module - what must be initialised, and in which order.                     [module] body: plan
 *
 * Needs are static data, so all of them can be looked at before the first init runs. A plan walks
 * them depth first and lists each module after its needs; whatever is wrong with names, or goes
 * round in a cycle, is found here, when nothing has been done and nobody waits. So two threads that
 * come to one cycle from two ends cannot wait for each other: both refuse, and with the same words.
 *
 * The walk keeps its stack in the records (needed_by and needs_left), so a chain may be as long as
 * memory is. Modules that are registered already are not walked: who registered them walked their
 * needs, and found no way back to what is new here.
 *
 * Names are found in a tree of four-way nodes, led by two bits of the name's hash at each, which is
 * part of the records: nothing grows, so nothing but a record can want memory.
 */

#if ASTHRA_HAS_MODULE

#include <string.h>

/* ---- names ---- */

static uint64_t asthra__module_hash(const char *name) { /* FNV-1a (Fowler, Noll, Vo) */
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (; *name != '\0'; name++) {
        hash = (hash ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
    }
    return hash;
}

ASTHRA__FN Asthra__ModuleRecord **asthra__module_place(Asthra__ModuleRecord **tree,
                                                       const char *name, uint64_t hash) {
    for (uint64_t way = hash; *tree != NULL; way <<= 2) {
        const Asthra__ModuleRecord *r = *tree;
        bool is_it = r->hash == hash && r->state != ASTHRA__MODULE_GONE;
        if (is_it && strcmp(r->module->name, name) == 0) break;
        tree = &(*tree)->child[way >> 62];
    }
    return tree;
}

ASTHRA__FN Asthra__ModuleRecord *asthra__module_flatten(Asthra__ModuleRecord *tree) {
    Asthra__ModuleRecord *list = NULL, *r;
    if (tree != NULL) tree->next = NULL;
    while ((r = tree) != NULL) {
        tree = r->next;
        for (int i = 0; i < 4; i++) {
            if (r->child[i] == NULL) continue;
            r->child[i]->next = tree;
            tree = r->child[i];
        }
        if (r->state == ASTHRA__MODULE_RUNNING) continue;
        r->next = list;
        list = r;
    }
    return list;
}

ASTHRA__FN void asthra__module_free_list(Asthra__ModuleRecord *list) {
    for (Asthra__ModuleRecord *next; list != NULL; list = next) {
        next = list->next;
        asthra__free(list);
    }
}

/* ---- what can be wrong ---- */

static const char *asthra__module_version(const AsthraModule *m) {
    return m->version != NULL ? m->version : "without a number";
}

ASTHRA__FN AsthraResult asthra__module_conflict(const AsthraModule *old,
                                                const AsthraModule *young) {
    return asthra_result_errorf(ASTHRA_INVALID,
                                "two modules have the name '%s': version %s, which came first, and "
                                "version %s",
                                young->name, asthra__module_version(old),
                                asthra__module_version(young));
}

static AsthraResult asthra__module_nameless(const Asthra__ModuleRecord *needed_by) {
    if (needed_by == NULL)
        return asthra_result_errorf(ASTHRA_INVALID, "asthra_module_register: a module has no name");
    return asthra_result_errorf(ASTHRA_INVALID, "module '%s' needs one that has no name",
                                needed_by->module->name);
}

enum { ASTHRA__MODULE_RING_TEXT = 150 };

ASTHRA__FN void asthra__module_name_ring(const Asthra__ModuleRecord *r, Asthra__Text *t) {
    const Asthra__ModuleRecord *first = r, *at = r->path;
    size_t left = 0;
    for (; at != r; at = at->path, left++) {
        if (strcmp(at->module->name, first->module->name) < 0) first = at;
    }
    asthra__text_format(t, "modules need each other in a cycle: %s", first->module->name);
    for (at = first->path; at != first; at = at->path, left--) {
        if (t->length + strlen(at->module->name) > ASTHRA__MODULE_RING_TEXT) break;
        asthra__text_format(t, " needs %s", at->module->name);
    }
    if (left > 0) asthra__text_format(t, " needs %zu more, the last of which", left);
    asthra__text_format(t, " needs %s", first->module->name);
}

/* ---- the walk ---- */

typedef struct Asthra__ModulePlan {
    Asthra__ModuleRecord *tree;          /* all, by name */
    Asthra__ModuleRecord *deepest;       /* OPEN, as those are to which its needed_by leads */
    Asthra__ModuleRecord *first, **last; /* PLANNED */
} Asthra__ModulePlan;

/* A need of the deepest one leads to r, which is OPEN as well. */
static AsthraResult asthra__module_refuse_ring(const Asthra__ModulePlan *p,
                                               Asthra__ModuleRecord *r) {
    char text[256];
    Asthra__Text t = asthra__text_on(text, sizeof text);
    for (Asthra__ModuleRecord *at = p->deepest; at != r; at = at->needed_by)
        at->needed_by->path = at;
    p->deepest->path = r;
    asthra__module_name_ring(r, &t);
    return asthra_result_errorf(ASTHRA_INVALID, "%s", text);
}

/* The walk comes to m from the deepest one, or begins with it. */
static AsthraResult asthra__module_reach(Asthra__ModulePlan *p, const AsthraModule *m) {
    if (m->name == NULL || m->name[0] == '\0') return asthra__module_nameless(p->deepest);
    uint64_t hash = asthra__module_hash(m->name);
    Asthra__ModuleRecord **at = asthra__module_place(&p->tree, m->name, hash), *r = *at;
    if (r != NULL && r->module != m) return asthra__module_conflict(r->module, m);
    if (r != NULL && r->state == ASTHRA__MODULE_OPEN) return asthra__module_refuse_ring(p, r);
    if (r != NULL) return asthra__result_of(ASTHRA_OK);
    bool is_done;
    const AsthraModule *known = asthra__module_known(m->name, hash, &is_done);
    if (known != NULL && known != m) return asthra__module_conflict(known, m);
    if (is_done) return asthra__result_of(ASTHRA_OK);
    r = asthra__alloc_zeroed(1, sizeof *r);
    if (r == NULL) {
        return asthra_result_errorf(ASTHRA_OUT_OF_MEMORY, "no memory for the record of module '%s'",
                                    m->name);
    }
    r->module = m;
    r->hash = hash;
    r->state = ASTHRA__MODULE_OPEN;
    r->needed_by = p->deepest;
    r->needs_left = known == NULL ? m->needs : NULL;
    *at = p->deepest = r;
    return asthra__result_of(ASTHRA_OK);
}

/* All needs of the deepest one are listed, so it comes next. */
static void asthra__module_close(Asthra__ModulePlan *p) {
    Asthra__ModuleRecord *r = p->deepest;
    p->deepest = r->needed_by;
    r->state = ASTHRA__MODULE_PLANNED;
    *p->last = r;
    p->last = &r->next;
}

ASTHRA__FN AsthraResult asthra__module_plan(const AsthraModule *m, Asthra__ModuleRecord **list) {
    Asthra__ModulePlan p = {NULL, NULL, NULL, &p.first};
    AsthraResult result = asthra__module_reach(&p, m);
    while (!result.status && p.deepest != NULL) {
        const AsthraModule *const **left = &p.deepest->needs_left;
        if (*left == NULL || **left == NULL) {
            asthra__module_close(&p);
        } else {
            const AsthraModule *need = *(*left)++;
            result = asthra__module_reach(&p, need);
        }
    }
    if (result.status) {
        asthra__module_free_list(asthra__module_flatten(p.tree));
        p.first = NULL;
    }
    *list = p.first;
    return result;
}

#endif

/* ---- [module] body ----------------------------------------------------- runtime/module.c ---- */
/* module - parts of a program that are initialised once, needs first.        [module] body
 *
 * Registering makes a plan (module_plan.c), then brings its records into the registry one after the
 * other, needs first: what is there already is done or waited for, what is not is put there as
 * RUNNING and initialised by whoever put it there. The lock is never held while an init or a fini
 * runs; a module's end is told to all who wait for it, with the words of its failure.
 *
 *     planned --put--> RUNNING --init is OK--> DONE --fini--> freed
 *                         `--init fails--> GONE: a place in the tree, which the next one may take
 *
 * Nobody waits in a ring. Static needs cannot make one (see there), but inits register too: the
 * init of a registers b while, on another thread, the init of b registers a. So an init's record
 * names what it registers at the moment (`wants`): what it waits for, or runs itself. Before anyone
 * waits inside an init it walks these names, under the lock; whoever would close a ring is told its
 * name instead, and may fail or go on. A party is inside the innermost init that it runs, which is
 * why a record keeps its party; parties are told apart by numbers that are never used again.
 *
 * A record may be abandoned while its init runs: the process forks, or shutdown has waited long
 * enough. Both count the epoch up, and a record of an older epoch belongs to nobody but its init.
 */

#if ASTHRA_HAS_MODULE

#include <string.h>

static struct {
    Asthra__Lock lock;
    bool is_closed; /* from the first fini to the end of the shutdown */
    uint32_t epoch; /* of records whose init runs; those of older ones are nobody's */
    Asthra__ModuleRecord *tree;
    Asthra__ModuleRecord *running;         /* newest first */
    Asthra__ModuleRecord *oldest, *newest; /* in the order in which they were initialised */
    Asthra__Once fork_hook;
} asthra__module;

/* How an init ended, with words of its own. */
typedef struct Asthra__ModuleOutcome {
    uint32_t status, detail;
    char text[200];
} Asthra__ModuleOutcome;

static AsthraResult asthra__module_result(const Asthra__ModuleOutcome *o) {
    AsthraResult r = asthra__result_of(ASTHRA_OK);
    if (o->status != ASTHRA_OK) r = asthra_result_errorf((AsthraStatus)o->status, "%s", o->text);
    r.detail = o->detail;
    return r;
}

/* ---- who ---- */

static Asthra__ModuleParty asthra__module_self(void) {
    Asthra__ModuleParty p = {0, NULL};
#if ASTHRA_HAS_TASK
    p.task = asthra__current_id();
#endif
    if (p.task == 0) p.thread = asthra__thread();
    return p;
}

/* The init that the caller is in; NULL: none. Caller holds the lock. */
static Asthra__ModuleRecord *asthra__module_innermost(Asthra__ModuleParty self) {
    Asthra__ModuleRecord *r = asthra__module.running;
    while (r != NULL && (r->party.task != self.task || r->party.thread != self.thread)) r = r->next;
    return r;
}

/* ---- waiting ---- */

typedef struct Asthra__ModuleWaiter Asthra__ModuleWaiter;
struct Asthra__ModuleWaiter {
    Asthra__ModuleWaiter *next, **link; /* link NULL: told, or about to be */
    Asthra__ModuleRecord *outer;        /* the init that it is in; NULL: none */
    Asthra__ModuleOutcome outcome;
#if ASTHRA_HAS_TASK
    Asthra__Wait wait;
    Asthra__Parker *parker;
#else
    ASTHRA__ATOMIC(uint32_t) signal;
#endif
};

/* Caller holds the lock. */
static void asthra__module_unlink(Asthra__ModuleWaiter *w) {
    if (w->outer != NULL) w->outer->wants = NULL;
    if (w->link == NULL) return;
    *w->link = w->next;
    if (w->next != NULL) w->next->link = w->link;
    w->link = NULL;
}

static void asthra__module_link(Asthra__ModuleRecord *r, Asthra__ModuleWaiter *w) {
    w->next = r->waiters;
    w->link = &r->waiters;
    if (w->next != NULL) w->next->link = &w->next;
    r->waiters = w;
}

#if ASTHRA_HAS_TASK

/* Waits for the end of r's init, for timeout_ns. Caller holds the lock, which is given back. OK: it
 * has ended, and w->outcome says how. */
static AsthraStatus asthra__module_wait(Asthra__ModuleRecord *r, Asthra__ModuleWaiter *w,
                                        int64_t timeout_ns) {
    memset(&w->wait, 0, sizeof w->wait);
    w->wait.what = "init of module";
    w->wait.name = r->module->name;
    w->wait.held = &asthra__module.lock;
    w->parker = asthra__wait_open(&w->wait);
    asthra__module_link(r, w);
    AsthraStatus status = asthra__wait_park(&w->wait, timeout_ns);
    if (status == ASTHRA_OK) return ASTHRA_OK;
    asthra__lock(&asthra__module.lock);
    asthra__module_unlink(w);
    asthra__unlock(&asthra__module.lock);
    return status;
}

/* False: it has given up. Caller holds the lock. */
static bool asthra__module_claim(Asthra__ModuleWaiter *w) {
    if (!asthra__wait_claim(w->parker)) return false;
    w->wait.outcome = ASTHRA_OK;
    return true;
}

static void asthra__module_wake(Asthra__ModuleWaiter *w) {
    asthra__wait_wake(w->parker);
}

#else

/* As above, of threads, by a word to sleep on. */
static AsthraStatus asthra__module_wait(Asthra__ModuleRecord *r, Asthra__ModuleWaiter *w,
                                        int64_t timeout_ns) {
    int64_t left = timeout_ns, end = timeout_ns < 0 ? 0 : asthra__os_now_ns() + timeout_ns;
    asthra__store(&w->signal, 0u, relaxed);
    asthra__module_link(r, w);
    asthra__unlock(&asthra__module.lock);
    while (asthra__load(&w->signal, acquire) == 0) {
        asthra__os_wait(&w->signal, 0, left);
        if (left < 0 || (left = end - asthra__os_now_ns()) > 0) continue;
        asthra__lock(&asthra__module.lock);
        bool is_over = w->link != NULL;
        asthra__module_unlink(w);
        asthra__unlock(&asthra__module.lock);
        if (is_over) return ASTHRA_TIMED_OUT;
        left = -1; /* the signal is on its way */
    }
    return ASTHRA_OK;
}

static bool asthra__module_claim(Asthra__ModuleWaiter *w) {
    (void)w;
    return true;
}

/* It may return as soon as the signal is written. */
static void asthra__module_wake(Asthra__ModuleWaiter *w) {
    asthra__store(&w->signal, 1u, release); /* partner: the acquire in asthra__module_wait */
    asthra__os_wake(&w->signal, 1);
}

#endif

/* Tells those who wait for r how it ended. Returns `told` and before it those that must be woken.
 * Caller holds the lock. */
static Asthra__ModuleWaiter *asthra__module_tell(Asthra__ModuleRecord *r,
                                                 const Asthra__ModuleOutcome *outcome,
                                                 Asthra__ModuleWaiter *told) {
    for (Asthra__ModuleWaiter *w = r->waiters, *next; w != NULL; w = next) {
        next = w->next;
        w->link = NULL;
        if (w->outer != NULL) w->outer->wants = NULL;
        if (!asthra__module_claim(w)) continue;
        w->outcome = *outcome;
        w->next = told;
        told = w;
    }
    r->waiters = NULL;
    return told;
}

static void asthra__module_wake_all(Asthra__ModuleWaiter *told) {
    for (Asthra__ModuleWaiter *next; told != NULL; told = next) {
        next = told->next; /* a waiter is its own until the wake */
        asthra__module_wake(told);
    }
}

/* ---- one init ---- */

typedef struct Asthra__ModuleCall {
    Asthra__ModuleRecord *record;
    AsthraPanicPolicy policy;
    Asthra__ModuleOutcome *outcome;
} Asthra__ModuleCall;

/* Keeps how an init ended, before the error record that its words may stand in is written again. */
static void asthra__module_keep(Asthra__ModuleCall *call, AsthraResult r) {
    const Asthra__ModuleRecord *record = call->record;
    Asthra__Text t = asthra__text_on(call->outcome->text, sizeof call->outcome->text);
    call->outcome->status = r.status;
    call->outcome->detail = r.detail;
    if (r.status == ASTHRA_OK) return;
    asthra__text_format(&t, "init of module '%s'", record->module->name);
    if (record->needed_by != NULL)
        asthra__text_format(&t, ", needed by '%s'", record->needed_by->module->name);
    asthra__text_format(&t, ": %s", asthra_result_message(r));
}

static void asthra__module_init_here(Asthra__ModuleCall *call) {
    const AsthraModule *m = call->record->module;
    Asthra__ModuleParty self = asthra__module_self();
    asthra__lock(&asthra__module.lock);
    call->record->party = self;
    asthra__unlock(&asthra__module.lock);
    asthra__module_keep(call, m->init(m));
}

#if ASTHRA_HAS_TASK

static void *asthra__module_task(void *args) {
    Asthra__ModuleCall *call = args;
    asthra_panic_set_policy(call->policy);
    asthra__module_init_here(call);
    return NULL;
}

/* In a task the init is a child, because a panic stops at its boundary: it must not leave a record
 * behind that runs for ever. */
static void asthra__module_init(Asthra__ModuleCall *call) {
    const Asthra__Task *me = asthra__seat()->task;
    if (me == NULL) {
        asthra__module_init_here(call);
        return;
    }
    char name[72];
    Asthra__Text t = asthra__text_on(name, sizeof name);
    asthra__text_format(&t, "init of %s", call->record->module->name);
    AsthraSpawnOptions options = {name, 0, 0, ASTHRA_AFFINITY_ANY};
    call->policy = (AsthraPanicPolicy)me->policy;
    AsthraTaskHandle child = asthra_spawn_with(&options, asthra__module_task, call);
    AsthraResult r = child.bits == 0 ? asthra_last_error() : asthra_await_result(child, NULL);
    if (r.status != ASTHRA_OK && call->outcome->status == ASTHRA_OK) asthra__module_keep(call, r);
}

#else

static void asthra__module_init(Asthra__ModuleCall *call) {
    asthra__module_init_here(call);
}

#endif

/* r->path and what follows lead from its root in its plan down to r; returns that root. */
static Asthra__ModuleRecord *asthra__module_lead(Asthra__ModuleRecord *r) {
    for (; r->needed_by != NULL; r = r->needed_by) r->needed_by->path = r;
    return r;
}

/* Would an init that waits for r wait for itself? Then r->path leads round the ring. Caller holds
 * the lock. */
static bool asthra__module_closes_ring(Asthra__ModuleRecord *r, const Asthra__ModuleRecord *init) {
    Asthra__ModuleRecord *at = r;
    for (; at->known != init; at = at->known->wants) {
        if (at->known->wants == NULL) return false;
        at->path = asthra__module_lead(at->known->wants);
    }
    at->path = asthra__module_lead(r);
    return true;
}

/* ---- from the plan into the registry ---- */

/* Puts r into the tree, in the place of one that is gone if such a one is on its way. Caller holds
 * the lock, and frees what is returned. */
static Asthra__ModuleRecord *asthra__module_plant(Asthra__ModuleRecord *r) {
    Asthra__ModuleRecord **at = &asthra__module.tree;
    for (uint64_t way = r->hash; *at != NULL && (*at)->state != ASTHRA__MODULE_GONE; way <<= 2)
        at = &(*at)->child[way >> 62];
    Asthra__ModuleRecord *gone = *at;
    memset(r->child, 0, sizeof r->child);
    if (gone != NULL) memcpy(r->child, gone->child, sizeof r->child);
    *at = r;
    return gone;
}

/* Takes r, whose init has ended, off the running ones. Caller holds the lock. */
static void asthra__module_conclude(Asthra__ModuleRecord *r, bool is_good) {
    Asthra__ModuleRecord **at = &asthra__module.running;
    while (*at != r) at = &(*at)->next;
    *at = r->next;
    r->state = is_good ? ASTHRA__MODULE_DONE : ASTHRA__MODULE_GONE;
    if (!is_good) return;
    r->older = asthra__module.newest;
    r->newer = NULL;
    if (r->older != NULL)
        r->older->newer = r;
    else
        asthra__module.oldest = r;
    asthra__module.newest = r;
}

/* r's init has ended; it was called in that of `outer`, if that is not NULL. */
static AsthraResult asthra__module_finish(Asthra__ModuleRecord *r, Asthra__ModuleRecord *outer,
                                          const Asthra__ModuleOutcome *outcome) {
    Asthra__ModuleWaiter *told = NULL;
    asthra__lock(&asthra__module.lock);
    bool is_lost = r->epoch != asthra__module.epoch;
    if (!is_lost) {
        if (outer != NULL) outer->wants = NULL;
        asthra__module_conclude(r, outcome->status == ASTHRA_OK);
        told = asthra__module_tell(r, outcome, NULL);
    }
    asthra__unlock(&asthra__module.lock);
    asthra__module_wake_all(told);
    if (!is_lost) return asthra__module_result(outcome);
    AsthraResult result = asthra_result_errorf(
        ASTHRA_FAILED, "module '%s': the runtime was shut down, or the process forked, in its init",
        r->module->name);
    asthra__free(r);
    return result;
}

/* Caller holds the lock, which is given back. */
static AsthraResult asthra__module_run(Asthra__ModuleRecord *r) {
    Asthra__ModuleOutcome outcome = {ASTHRA_OK, 0, ""};
    Asthra__ModuleCall call = {r, ASTHRA_PANIC_ABORT, &outcome};
    Asthra__ModuleRecord *outer = asthra__module_innermost(asthra__module_self());
    Asthra__ModuleRecord *gone = asthra__module_plant(r);
    r->state = ASTHRA__MODULE_RUNNING;
    r->epoch = asthra__module.epoch;
    r->known = r;
    r->next = asthra__module.running;
    asthra__module.running = r;
    if (outer != NULL) outer->wants = r;
    asthra__unlock(&asthra__module.lock);
    asthra__free(gone);
    if (r->module->init != NULL) asthra__module_init(&call);
    return asthra__module_finish(r, outer, &outcome);
}

/* Another runs the init of `known`, which r stands for in our plan; or we do, further down on our
 * stack. Caller holds the lock, which is given back. False: that one was cancelled, and it is our
 * turn. */
static bool asthra__module_await(Asthra__ModuleRecord *r, Asthra__ModuleRecord *known,
                                 AsthraResult *result) {
    Asthra__ModuleWaiter w;
    w.outer = asthra__module_innermost(asthra__module_self());
    r->known = known;
    if (w.outer != NULL && asthra__module_closes_ring(r, w.outer)) {
        Asthra__Text t = asthra__text_on(w.outcome.text, sizeof w.outcome.text);
        asthra__module_name_ring(r, &t);
        asthra__unlock(&asthra__module.lock);
        *result = asthra_result_errorf(ASTHRA_INVALID, "%s", w.outcome.text);
        return true;
    }
    if (w.outer != NULL) w.outer->wants = r;
    AsthraStatus status = asthra__module_wait(known, &w, -1);
    if (status != ASTHRA_OK) {
        *result = asthra__result_of(status);
        return true;
    }
    *result = asthra__module_result(&w.outcome);
    return w.outcome.status != ASTHRA_CANCELLED;
}

static AsthraResult asthra__module_too_late(const AsthraModule *m) {
    return asthra_result_errorf(ASTHRA_INVALID,
                                "module '%s' is registered while the runtime shuts down", m->name);
}

/* Makes one of a plan, whose needs are initialised, a module that is. */
static AsthraResult asthra__module_bring(Asthra__ModuleRecord *r, uint32_t epoch) {
    const AsthraModule *m = r->module, *old = m;
    AsthraResult result = asthra__result_of(ASTHRA_OK);
    bool is_over = false;
    while (!is_over) {
        asthra__lock(&asthra__module.lock);
        bool is_late = asthra__module.is_closed || asthra__module.epoch != epoch;
        Asthra__ModuleRecord *known = *asthra__module_place(&asthra__module.tree, m->name, r->hash);
        if (!is_late && known == NULL) return asthra__module_run(r);
        if (!is_late) old = known->module;
        if (!is_late && old == m && known->state == ASTHRA__MODULE_RUNNING) {
            is_over = asthra__module_await(r, known, &result);
            continue;
        }
        asthra__unlock(&asthra__module.lock);
        is_over = true;
        result = is_late ? asthra__module_too_late(m) : asthra__result_of(ASTHRA_OK);
        if (old != m) result = asthra__module_conflict(old, m);
    }
    asthra__free(r);
    return result;
}

static void asthra__module_fork_child(void) {
    asthra__store(&asthra__module.lock.word, 0, relaxed);
    asthra__module.is_closed = false;
    asthra__module.epoch++;
    asthra__module.tree = asthra__module.running = NULL;
    asthra__module.oldest = asthra__module.newest = NULL;
}
static void asthra__module_hook_fork(void) {
    asthra__os_on_fork(NULL, NULL, asthra__module_fork_child);
}

/* Starts what must be started; returns the epoch. */
static uint32_t asthra__module_begin(void) {
#if ASTHRA_HAS_TASK
    asthra__turn();
    asthra__seat();
#endif
    asthra__once(&asthra__module.fork_hook, asthra__module_hook_fork);
    asthra__lock(&asthra__module.lock);
    uint32_t epoch = asthra__module.epoch;
    asthra__unlock(&asthra__module.lock);
    return epoch;
}

ASTHRA_RT_API AsthraResult asthra_module_register(const AsthraModule *m) {
    if (m == NULL)
        return asthra_result_errorf(ASTHRA_INVALID, "asthra_module_register: the module is NULL");
    uint32_t epoch = asthra__module_begin();
    Asthra__ModuleRecord *left, *r;
    AsthraResult result = asthra__module_plan(m, &left);
    while (!result.status && (r = left) != NULL) {
        left = r->next;
        result = asthra__module_bring(r, epoch);
    }
    asthra__module_free_list(left); /* what an error has left of it */
    return result;
}

/* ---- what others ask ---- */

ASTHRA__FN const AsthraModule *asthra__module_known(const char *name, uint64_t hash,
                                                    bool *is_done) {
    asthra__lock(&asthra__module.lock);
    const Asthra__ModuleRecord *r = *asthra__module_place(&asthra__module.tree, name, hash);
    const AsthraModule *m = r == NULL ? NULL : r->module;
    *is_done = r != NULL && r->state == ASTHRA__MODULE_DONE;
    asthra__unlock(&asthra__module.lock);
    return m;
}

ASTHRA__FN void asthra__module_each_type(bool (*visit)(const struct AsthraTypeInfo *type,
                                                       const AsthraModule *m, void *user),
                                         void *user) {
    bool goes_on = true;
    asthra__lock(&asthra__module.lock);
    for (const Asthra__ModuleRecord *r = asthra__module.oldest; goes_on && r; r = r->newer) {
        const struct AsthraTypeInfo *const *type = r->module->types;
        for (; goes_on && type != NULL && *type != NULL; type++)
            goes_on = visit(*type, r->module, user);
    }
    asthra__unlock(&asthra__module.lock);
}

/* ---- the end ---- */

ASTHRA__FN bool asthra__module_is_ending(void) {
    asthra__lock(&asthra__module.lock);
    bool is_ending = asthra__module.is_closed;
    asthra__unlock(&asthra__module.lock);
    return is_ending;
}

/* Waits for inits on threads that know nothing of the shutdown. Holds the lock before and after. */
static void asthra__module_await_running(int64_t timeout_ns) {
    int64_t end = asthra__os_now_ns() + timeout_ns;
    while (asthra__module.running != NULL) {
        int64_t left = timeout_ns < 0 ? -1 : end - asthra__os_now_ns();
        if (timeout_ns >= 0 && left <= 0) break;
        Asthra__ModuleWaiter w;
        w.outer = NULL;
        asthra__module_wait(asthra__module.running, &w, left);
        asthra__lock(&asthra__module.lock);
    }
}

/* Those whose init goes on belong to that init from here on. Caller holds the lock, and wakes. */
static Asthra__ModuleWaiter *asthra__module_abandon(void) {
    static const Asthra__ModuleOutcome outcome = {
        ASTHRA_FAILED, 0, "the runtime was shut down before a module was initialised"};
    Asthra__ModuleWaiter *told = NULL;
    for (Asthra__ModuleRecord *r = asthra__module.running; r != NULL; r = r->next) {
        asthra__text_report("shutdown: the init of module '%s' goes on; what it needs is ended",
                            r->module->name);
        told = asthra__module_tell(r, &outcome, told);
    }
    asthra__module.running = NULL;
    asthra__module.epoch++;
    return told;
}

static Asthra__ModuleRecord *asthra__module_newest(void) {
    asthra__lock(&asthra__module.lock);
    Asthra__ModuleRecord *r = asthra__module.newest;
    if (r != NULL) asthra__module.newest = r->older;
    if (r != NULL && r->older != NULL) r->older->newer = NULL;
    if (asthra__module.newest == NULL) asthra__module.oldest = NULL;
    asthra__unlock(&asthra__module.lock);
    return r;
}

static void asthra__module_call_finis(void) {
    for (const Asthra__ModuleRecord *r; (r = asthra__module_newest()) != NULL;)
        if (r->module->fini != NULL) r->module->fini(r->module);
}

ASTHRA__FN void asthra__module_end_all(int64_t timeout_ns) {
    asthra__lock(&asthra__module.lock);
    const Asthra__ModuleRecord *init = asthra__module_innermost(asthra__module_self());
    if (init != NULL) {
        asthra__unlock(&asthra__module.lock);
        asthra_panic_at(NULL, "asthra_runtime_shutdown: called in the init of module '%s'",
                        init->module->name);
    }
    asthra__module.is_closed = true;
    asthra__module_await_running(timeout_ns);
    Asthra__ModuleWaiter *told = asthra__module_abandon();
    Asthra__ModuleRecord *list = asthra__module_flatten(asthra__module.tree);
    asthra__module.tree = NULL; /* an abandoned one in it may be freed at any time */
    asthra__unlock(&asthra__module.lock);
    asthra__module_wake_all(told);
    asthra__module_call_finis();
    asthra__module_free_list(list);
}

ASTHRA__FN void asthra__module_reopen(void) {
    asthra__lock(&asthra__module.lock);
    asthra__module.is_closed = false;
    asthra__unlock(&asthra__module.lock);
}

#endif

/* ---- [runtime] body --------------------------------------------------- runtime/runtime.c ---- */
/* runtime - configuration, start, stop.                                    [runtime] body
 *
 * The roof: it checks a configuration and hands each part its share. Each keeps its own state, so
 * that each works alone; what has been started when a later part fails is stopped in reverse.
 */

#if ASTHRA_HAS_CORE

#include <string.h>

ASTHRA_RT_API AsthraRuntimeConfig asthra_runtime_config_default(void) {
    AsthraRuntimeConfig c;
    memset(&c, 0, sizeof c);
    c.struct_size = sizeof c;
    c.enable_tier1_concurrency = true;
    c.enable_tier2_concurrency = true;
    c.enable_tier3_concurrency = true;
    c.enable_panic_handler = true;
    c.shutdown_timeout_ns = INT64_C(5000000000);
    c.enable_manual_memory = c.enable_pinned_memory = true;
    return c;
}

/* The checks leave the first field that is out of range as a sentence in asthra_last_error. */

static bool asthra__runtime_is_enum(const char *field, int value, int last, const char *type) {
    if (value >= 0 && value <= last) return true;
    asthra__error_set(ASTHRA_INVALID, "%s is %d, no %s", field, value, type);
    return false;
}

static bool asthra__runtime_check_enums(const AsthraRuntimeConfig *c) {
    return asthra__runtime_is_enum("main_thread", (int)c->main_thread, ASTHRA_MAIN_HOSTS,
                                   "AsthraMainThread") &&
           asthra__runtime_is_enum("panic_policy", (int)c->panic_policy, ASTHRA_PANIC_UNWIND,
                                   "AsthraPanicPolicy") &&
           asthra__runtime_is_enum("opt_level", (int)c->opt_level, ASTHRA_OPT_RELEASE,
                                   "AsthraOptimizationLevel") &&
           asthra__runtime_is_enum("memory_safety_level", (int)c->memory_safety_level,
                                   ASTHRA_SAFETY_FULL, "AsthraSafetyLevel") &&
           asthra__runtime_is_enum("heap_limit_policy", (int)c->heap_limit_policy,
                                   ASTHRA_HEAP_LIMIT_HOOK, "AsthraHeapLimitPolicy");
}

static bool asthra__runtime_check(const AsthraRuntimeConfig *c) {
    if (c->struct_size == 0) {
        asthra__error_set(ASTHRA_INVALID, "struct_size is 0: begin with "
                                          "asthra_runtime_config_default() and change fields");
    } else if (c->struct_size != sizeof *c) {
        asthra__error_set(ASTHRA_INVALID,
                          "struct_size is %zu, this runtime's is %zu: the program and "
                          "the implementation were compiled with different headers",
                          c->struct_size, sizeof *c);
    } else if (c->worker_threads > 1024) {
        asthra__error_set(ASTHRA_INVALID, "worker_threads is %zu, at most 1024", c->worker_threads);
    } else if (c->stack_size != 0 &&
               (c->stack_size < 16384 || c->stack_size > ASTHRA__OS_STACK_MOST)) {
        asthra__error_set(ASTHRA_INVALID, "stack_size is %zu, expected 0 or 16384 to %zu bytes",
                          c->stack_size, ASTHRA__OS_STACK_MOST);
    } else if (!asthra__runtime_check_enums(c)) {
        return false;
    } else if (c->heap_limit_policy == ASTHRA_HEAP_LIMIT_HOOK && c->heap_limit_hook == NULL) {
        asthra__error_set(ASTHRA_INVALID,
                          "heap_limit_policy is ASTHRA_HEAP_LIMIT_HOOK, heap_limit_hook is NULL");
    } else if (c->allocator.alloc != NULL &&
               (c->allocator.realloc == NULL || c->allocator.free == NULL)) {
        asthra__error_set(ASTHRA_INVALID, "allocator has alloc, but its %s is NULL",
                          c->allocator.realloc == NULL ? "realloc" : "free");
    } else if (c->deterministic_seed != 0 && c->main_thread == ASTHRA_MAIN_HOSTS) {
        asthra__error_set(ASTHRA_INVALID, "deterministic_seed goes with ASTHRA_MAIN_HELPS: one "
                                          "thread runs everything");
    } else {
        return true;
    }
    return false;
}

/* What the parts that need no start are told; NULL: as without a runtime. */
static void asthra__runtime_settle(const AsthraRuntimeConfig *config) {
    AsthraRuntimeConfig defaults = asthra_runtime_config_default();
    const AsthraRuntimeConfig *c = config != NULL ? config : &defaults;
    asthra__panic_enable_report(c->enable_panic_handler);
#if ASTHRA_HAS_MEMORY
    asthra__memory_configure(&(Asthra__MemoryConfig){
        c->memory_safety_level, c->max_heap_size, c->heap_limit_policy, c->heap_limit_hook,
        c->heap_limit_hook_user, c->enable_manual_memory, c->enable_pinned_memory, c->numa_aware});
#endif
}

/* Before anything is started, so that all of it comes from there. false: the reason is set. */
static bool asthra__runtime_use_allocator(const AsthraRuntimeConfig *c) {
    if (c->allocator.alloc == NULL || asthra__alloc_set_hook(&c->allocator)) return true;
    asthra__error_set(ASTHRA_OUT_OF_MEMORY, "allocator gave no memory for its own record");
    return false;
}

/* After everything has stopped. */
static void asthra__runtime_leave_allocator(void) {
    (void)asthra__alloc_set_hook(NULL);
#if ASTHRA_HAS_MEMORY
    asthra__memory_give_back();
#endif
}

#if ASTHRA_HAS_TASK

static bool asthra__runtime_start(const AsthraRuntimeConfig *c) {
    Asthra__SchedulerConfig s = asthra__scheduler_defaults();
    s.workers = (unsigned)c->worker_threads;
    s.max_tasks = c->max_tasks;
    s.stack_bytes = c->stack_size;
    s.main_helps = c->main_thread == ASTHRA_MAIN_HELPS;
    s.spins = c->opt_level != ASTHRA_OPT_DEBUG;
    s.tier_is_on[1] = c->enable_tier1_concurrency;
    s.tier_is_on[2] = c->enable_tier2_concurrency;
    s.tier_is_on[3] = c->enable_tier3_concurrency;
    s.seed = c->deterministic_seed;
    s.policy = c->panic_policy;
    s.shutdown_timeout_ns = c->shutdown_timeout_ns;
    return asthra__scheduler_start(&s);
}

ASTHRA_RT_API void asthra_runtime_shutdown(void) {
    if (!asthra__scheduler_is_running()) return;
    asthra__scheduler_check_stop();
    if (asthra__module_is_ending()) return;
    if (ASTHRA_HAS_MODULE) asthra__scheduler_drain(); /* tasks may register; finis find none */
    asthra__module_end_all(asthra__scheduler()->config.shutdown_timeout_ns);
    asthra__scheduler_stop();
    asthra__pinned_report();
    asthra__runtime_settle(NULL);
    asthra__runtime_leave_allocator();
    asthra__module_reopen();
}

ASTHRA_RT_API bool asthra_runtime_is_running(void) {
    return asthra__scheduler_is_running();
}

ASTHRA_RT_API size_t asthra_runtime_poll(int64_t budget_ns) {
    Asthra__Seat *s = asthra__seat();
    if (s->is_main && s->task == NULL) return asthra__host_poll(s, budget_ns);
    asthra__error_set(ASTHRA_INVALID,
                      s->task != NULL ? "asthra_runtime_poll: called in a task; it is main's, "
                                        "outside tasks"
                                      : "asthra_runtime_poll: called by another thread than the "
                                        "one that started the runtime");
    return 0;
}

ASTHRA_RT_API int64_t asthra_runtime_next_deadline(void) {
    asthra__seat();
    int64_t deadline = asthra__host_deadline();
    return deadline == INT64_MAX ? ASTHRA_FOREVER : deadline;
}

ASTHRA_RT_API int asthra_runtime_wake_fd(void) {
    asthra__seat();
    return asthra__host_fd();
}

#else

/* Nothing has threads or queues: running is a flag. */
static struct {
    ASTHRA__ATOMIC(uint32_t) is_running;
    int64_t shutdown_timeout_ns; /* while it runs */
} asthra__runtime;

static bool asthra__runtime_start(const AsthraRuntimeConfig *c) {
    if (asthra__exchange(&asthra__runtime.is_running, 1u, acq_rel) == 0) {
        asthra__runtime.shutdown_timeout_ns = c->shutdown_timeout_ns;
        return true;
    }
    asthra__error_set(ASTHRA_INVALID, "the runtime is already running");
    return false;
}

ASTHRA_RT_API void asthra_runtime_shutdown(void) {
    int64_t timeout_ns = asthra_runtime_config_default().shutdown_timeout_ns;
    if (asthra__module_is_ending()) return;
    if (asthra_runtime_is_running()) timeout_ns = asthra__runtime.shutdown_timeout_ns;
    asthra__module_end_all(timeout_ns);
    if (asthra__exchange(&asthra__runtime.is_running, 0u, acq_rel) != 0) asthra__pinned_report();
    asthra__runtime_settle(NULL);
    asthra__runtime_leave_allocator();
    asthra__module_reopen();
}

ASTHRA_RT_API bool asthra_runtime_is_running(void) {
    return asthra__load(&asthra__runtime.is_running, acquire) != 0;
}

#endif

ASTHRA_RT_API bool asthra_runtime_init(const AsthraRuntimeConfig *config) {
    AsthraRuntimeConfig defaults = asthra_runtime_config_default();
    const AsthraRuntimeConfig *c = config != NULL ? config : &defaults;
    if (!asthra__runtime_check(c)) return false;
    bool is_idle = !asthra_runtime_is_running(); /* else its allocator stays, and start says why */
    if (is_idle && !asthra__runtime_use_allocator(c)) return false;
    if (!asthra__runtime_start(c)) {
        if (is_idle) asthra__runtime_leave_allocator();
        return false;
    }
    asthra__runtime_settle(c);
    asthra__error_clear();
    return true;
}

ASTHRA_RT_API bool asthra_runtime_init_with_config(const AsthraRuntimeConfig *config) {
    return asthra_runtime_init(config);
}

ASTHRA_RT_API bool asthra_register_this_thread(const char *name) {
    asthra__thread_set_name(name);
    return true;
}

#endif

#endif /* ASTHRA_RT_IMPLEMENTATION */

/* Back page
 *
 * asthra_rt is licensed MIT-0: permission is hereby granted, free of charge, to any person
 * obtaining a copy of this software and associated documentation files, to deal in the software
 * without restriction, including without limitation the rights to use, copy, modify, merge,
 * publish, distribute, sublicense, and/or sell copies of the software, and to permit persons to
 * whom the software is furnished to do so. The software is provided "as is", without warranty of
 * any kind, express or implied, including but not limited to the warranties of merchantability,
 * fitness for a particular purpose and noninfringement. In no event shall the authors or
 * copyright holders be liable for any claim, damages or other liability, whether in an action of
 * contract, tort or otherwise, arising from, out of or in connection with the software or the use
 * or other dealings in it.
 *
 * Third party: stb_ds.h (public domain or MIT), found on the system or folded in by make dist.
 */
