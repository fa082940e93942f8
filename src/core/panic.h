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
#ifndef ASTHRA__PANIC_H
#define ASTHRA__PANIC_H

#include "result.h"

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
#endif
