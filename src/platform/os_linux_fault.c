/* os_linux_fault - registers that a signal saved, stacks of threads.       [os] body: layouts
 *
 * What Linux and its C libraries lay out in memory, for either layer: nothing here is a call of the
 * system's. The places in gregs are the kernel's, written as numbers because their names are there
 * only if the host's first include asked for GNU's.
 */
#include "os_internal.h"

#if ASTHRA_HAS_CORE && ASTHRA__SYS_LINUX_ABI

#include <string.h>
#include <sys/ucontext.h>
#include <ucontext.h>
#if ASTHRA_HAS_THREADS
#include <pthread.h>
#endif

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
#elif ASTHRA__CPU_ARM
/* An odd address is Thumb code's. Whatever block of conditional instructions was interrupted, its
 * conditions (the IT bits) are not for the code that is gone to. */
enum { ASTHRA__ARM_THUMB = 0x20, ASTHRA__ARM_IT = 0x0600fc00 };
static void asthra__os_arm_go(mcontext_t *saved, uintptr_t target) {
    saved->arm_pc = target & ~(uintptr_t)1;
    saved->arm_cpsr &= ~(unsigned long)(ASTHRA__ARM_THUMB | ASTHRA__ARM_IT);
    if (target & 1) saved->arm_cpsr |= ASTHRA__ARM_THUMB;
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
#elif ASTHRA__CPU_ARM
    saved->arm_sp = top;
    saved->arm_r0 = (uintptr_t)argument;
    saved->arm_fp = 0;
    saved->arm_lr = 0;
    asthra__os_arm_go(saved, (uintptr_t)target);
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
#elif ASTHRA__CPU_ARM
    bool is_thumb = (saved->arm_cpsr & ASTHRA__ARM_THUMB) != 0;
    saved->arm_lr = is_thumb ? (saved->arm_pc + 2) | 1 : saved->arm_pc + 4;
    saved->arm_r0 = (uintptr_t)argument;
    asthra__os_arm_go(saved, (uintptr_t)target);
    return true;
#else
    (void)saved, (void)target, (void)argument;
    return false;
#endif
}

#if ASTHRA_HAS_THREADS

/* A name that a host's earlier include of <pthread.h> may have left undeclared. */
extern int asthra__os_getattr(pthread_t thread, pthread_attr_t *out) __asm__("pthread_getattr_np");

ASTHRA__FN bool asthra__os_thread_bounds(void **low, void **high) {
    pthread_attr_t attributes;
    size_t bytes = 0;
    if (asthra__os_getattr(pthread_self(), &attributes) != 0) return false;
    bool is_known = pthread_attr_getstack(&attributes, low, &bytes) == 0;
    pthread_attr_destroy(&attributes);
    if (is_known) *high = (char *)*low + bytes;
    return is_known;
}

#endif

#endif
