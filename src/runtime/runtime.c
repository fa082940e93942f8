/* runtime - configuration, start, stop.                                    [runtime] body
 *
 * The roof: it checks a configuration and hands each part its share. Each keeps its own state, so
 * that each works alone; what has been started when a later part fails is stopped in reverse.
 */
#include "runtime.h"

#include "../concurrency/scheduler_internal.h"
#include "../core/alloc_internal.h"
#include "../core/panic_internal.h"
#include "../core/thread_internal.h"
#include "../ffi/ffi_internal.h"
#include "../memory/memory_internal.h"
#include "../memory/pinned_internal.h"
#include "module_internal.h"

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
    c.enable_ffi = true;
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
#if ASTHRA_HAS_FFI
    asthra__ffi_configure(c->enable_ffi, c->strict_ffi_safety);
#endif
}

/* Before anything is started, so that all of it comes from there. false: the reason is set. */
static bool asthra__runtime_use_allocator(const AsthraRuntimeConfig *c) {
    if (c->allocator.alloc == NULL || asthra__alloc_set_hook(&c->allocator)) return true;
    asthra__error_set(ASTHRA_OUT_OF_MEMORY, "allocator gave no memory for its own record");
    return false;
}

/* What nobody gave back. */
static void asthra__runtime_report(void) {
#if ASTHRA_HAS_FFI
    asthra__ffi_report();
#endif
    asthra__pinned_report();
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
    asthra__runtime_report();
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
    if (asthra__exchange(&asthra__runtime.is_running, 0u, acq_rel) != 0) asthra__runtime_report();
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
