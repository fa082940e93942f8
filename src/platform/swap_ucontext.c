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
#include "swap_internal.h"

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
