/* panic - asserts, and what the scheduler adds to a panic.                 [panic] internal
 *
 * ASTHRA__CHECK is always on, for what memory safety depends on. ASTHRA__ASSERT is on when
 * ASTHRA_RT_DEBUG is 1 or more, ASTHRA__ASSERT_SLOW, which walks structures, when it is 2.
 */
#ifndef ASTHRA__PANIC_INTERNAL_H
#define ASTHRA__PANIC_INTERNAL_H

#include "panic.h"
#include "result_internal.h"

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
#endif
