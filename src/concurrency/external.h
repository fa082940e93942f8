/* external - functions that block, and threads that are not ours.           [external] contract
 *
 * A function that may block would hold its worker. asthra_external_call gives it to a helper thread
 * and parks the task; helpers are kept for the next calls. Threads of the program, which need no
 * registration to use the runtime, can be named and listed.
 *
 * Needs: task. Strip with: ASTHRA_RT_NO_EXTERNAL.
 */
#ifndef ASTHRA__EXTERNAL_H
#define ASTHRA__EXTERNAL_H

#include "../core/result.h"

#if ASTHRA_HAS_EXTERNAL

#if ASTHRA_HAS_THREADS
#include <pthread.h>
#endif

typedef void *(*AsthraExternalFunction)(void *args);

typedef struct AsthraExternalCallOptions { /* zero: defaults */
    const char *name;   /* in reports, and of the helper meanwhile; NULL: "external" */
    int64_t timeout_ns; /* 0, or < 0: none */
    size_t args_size;   /* not 0: args is copied, so that a call that timed out owns it */
} AsthraExternalCallOptions;

/* Calls fn(args) on a helper thread and waits for it; options NULL: defaults. fn has a stack of
 * 1 MiB (256 KiB on 32-bit machines), every signal blocked but those of its own faults, and may
 * call everything; it must return, and a panic in it is a plain thread's. Its errno stays there.
 *
 * Returns   OK and what fn returned; ASTHRA_FAILED: "Invalid external function": fn is NULL, not
 *           mapped, or not to be executed; ASTHRA_TIMED_OUT, ASTHRA_CANCELLED: nobody waits any
 *           more, but fn goes on, and so args must live on or have been copied. Of a task that is
 *           cancelled already fn is not called; nor with ASTHRA_OUT_OF_MEMORY, ASTHRA_LIMIT (no
 *           thread can be had), ASTHRA_INVALID (args_size of a NULL).
 * Owns      a copy of args is freed when fn is over: what fn returns must not point into it.
 * Threads   any. Without threads, and in the deterministic mode, fn runs right here, on the
 *           caller's stack, and there is no timeout.
 * Blocks    the task, or the calling plain thread.
 * Cost      1 to 10 us if a helper is idle; some tens if one must be started, or fn is not in a
 *           loaded object. There is one helper for each call under way; idle ones end after 5 s,
 *           or when the runtime shuts down, which cancels tasks that wait here and waits for no fn.
 */
ASTHRA_RT_API AsthraResult asthra_external_call(AsthraExternalFunction fn, void *args,
                                                const AsthraExternalCallOptions *options);

#if ASTHRA_HAS_THREADS

typedef struct AsthraExternalThreadInfo {
    pthread_t thread;
    char name[32];
} AsthraExternalThreadInfo;

/* Told after a thread has been registered (started) and after it has gone, on the thread that did
 * it (the one that ends, where that is why), without a lock: it may call everything. */
typedef void (*AsthraExternalThreadHook)(pthread_t t, const char *name, bool started, void *user);

/* Puts a thread on the list under a name (copied, cut at 31 bytes; NULL: ""), which is also its
 * name in reports if it is the calling one. A thread that ends leaves the list by itself if it has
 * used the runtime; another must be taken off before its pthread_t serves a new one. The list lives
 * on when the runtime is shut down; in a forked child only the thread that forked is on it still.
 *
 * Returns   true; false with the reason in asthra_last_error(): it is on the list already, memory
 *           ran out, or enable_tier3_concurrency is off.
 * Threads   any, for any. Blocks: never. Cost: some nanoseconds for each thread on the list. */
ASTHRA_RT_API bool asthra_register_external_thread(pthread_t thread, const char *name);
ASTHRA_RT_API bool asthra_unregister_external_thread(pthread_t thread); /* false: it is not there */
ASTHRA_RT_API size_t asthra_external_thread_count(void);

/* Writes the list, at most `room` of it, oldest first; out may be NULL if room is 0.
 * Returns   how many there are, which may be more. */
ASTHRA_RT_API size_t asthra_external_thread_list(AsthraExternalThreadInfo *out, size_t room);

/* One hook; NULL: none. */
ASTHRA_RT_API void asthra_external_thread_on_change(AsthraExternalThreadHook hook, void *user);

#endif

#endif
#endif
