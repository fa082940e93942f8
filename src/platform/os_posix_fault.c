/* os_posix_fault - registers and stacks of a system that nobody described. [os] body: layouts
 *
 * POSIX says that a handler gets a context and that a thread has a stack, and not where in memory
 * what lies. Faults are seen, and go on to whoever handled them before.
 */
#include "os_internal.h"

#if ASTHRA_HAS_CORE && !ASTHRA__SYS_LINUX_ABI

ASTHRA__FN bool asthra__os_fault_redirect(void *context, void (*target)(void *), void *argument,
                                          void *stack_top) {
    (void)context, (void)target, (void)argument, (void)stack_top;
    return false;
}

ASTHRA__FN bool asthra__os_fault_call(void *context, void (*target)(void *), void *argument) {
    (void)context, (void)target, (void)argument;
    return false;
}

#if ASTHRA_HAS_THREADS
ASTHRA__FN bool asthra__os_thread_bounds(void **low, void **high) {
    (void)low, (void)high;
    return false;
}
#endif

#endif
