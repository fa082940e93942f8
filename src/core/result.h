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
#ifndef ASTHRA__RESULT_H
#define ASTHRA__RESULT_H

#include "../platform/compiler.h"

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
#endif
