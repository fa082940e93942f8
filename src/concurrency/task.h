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
#ifndef ASTHRA__TASK_H
#define ASTHRA__TASK_H

#include "../core/panic.h"

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
#endif
