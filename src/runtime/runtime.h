/* runtime - configuration, start, stop.                                    [runtime] contract
 *
 * The first call that needs workers starts the runtime with the defaults. A program that wants
 * other settings calls asthra_runtime_init before. ASTHRA_RT_NO_AUTO_INIT makes that call
 * mandatory.
 */
#ifndef ASTHRA__RUNTIME_H
#define ASTHRA__RUNTIME_H

#include "../core/alloc.h"
#include "../core/panic.h"
#include "../memory/zone.h"

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
    bool enable_ffi;        /* asthra_ffi_call and its kin; asthra_ffi_invoke asks nobody */
    bool strict_ffi_safety; /* asthra_ffi_call validates too */
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
#endif
