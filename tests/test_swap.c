/* The switch of stacks: private names, so the bodies are in this file. */
#include "test.h"
#define ASTHRA_RT_STATIC
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"

#include <pthread.h>

enum { STACK_BYTES = 256 * 1024 };

static Asthra__SwapContext *mine, *other; /* where main left, where the other side left */
static char stack[STACK_BYTES] __attribute__((aligned(64)));

#if ASTHRA__ASAN
#include <sanitizer/asan_interface.h>
#else
#define __asan_unpoison_memory_region(start, bytes) ((void)(start), (void)(bytes))
#endif

/* AddressSanitizer remembers the frames of whoever stood here before. */
static void other_side(void (*entry)(void *)) {
    __asan_unpoison_memory_region(stack, sizeof stack);
    other = asthra__swap_make(stack, stack + sizeof stack, entry);
}

static void *go(void *message) {
    return asthra__swap(&mine, other, message);
}

static void *back(void *message) {
    return asthra__swap(&other, mine, message);
}

static void add_one(void *message) {
    for (;;) message = back((char *)message + 1);
}

TEST(swap, no_shadow_stack_forbids_it_here) {
    CHECK(asthra__swap_is_allowed());
}

TEST(swap, a_million_round_trips_carry_their_messages) {
    other_side(add_one);
    char *message = NULL;
    for (int i = 0; i < 1000000; i++) message = go(message);
    CHECK_EQ((uintptr_t)message, 1000000);
}

static uintptr_t seen_stack;

static void note_stack(void *message) {
    volatile __attribute__((aligned(16))) char local[16];
    local[0] = 0;
    seen_stack = (uintptr_t)local + (uintptr_t)local[0];
    back(message);
}

TEST(swap, a_crooked_top_still_gives_an_aligned_stack) {
    for (size_t crooked = 0; crooked < 16; crooked++) {
        __asan_unpoison_memory_region(stack, sizeof stack);
        other = asthra__swap_make(stack, stack + sizeof stack - crooked, note_stack);
        go(NULL);
        CHECK_EQ(seen_stack % 16, 0);
        CHECK(seen_stack > (uintptr_t)stack && seen_stack < (uintptr_t)stack + sizeof stack);
    }
}

/* Registers: fills every callee-saved one from values[], switches, stores them back. */
#if ASTHRA_HAS_ASM && ASTHRA__CPU_X86_64
enum { VALUES = 6 };
extern void *swap_with_values(Asthra__SwapContext **from, Asthra__SwapContext *to, uint64_t *values,
                              void *swap);
__asm__(".pushsection .text.swap_with_values,\"ax\",@progbits\n"
        ".globl swap_with_values\n"
        ".type swap_with_values, @function\n"
        "swap_with_values:\n"
        "endbr64\n"
        "pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n"
        "pushq %rdx\n"
        "movq 0(%rdx), %rbp; movq 8(%rdx), %rbx; movq 16(%rdx), %r12\n"
        "movq 24(%rdx), %r13; movq 32(%rdx), %r14; movq 40(%rdx), %r15\n"
        "callq *%rcx\n"
        "popq %rdx\n"
        "movq %rbp, 0(%rdx); movq %rbx, 8(%rdx); movq %r12, 16(%rdx)\n"
        "movq %r13, 24(%rdx); movq %r14, 32(%rdx); movq %r15, 40(%rdx)\n"
        "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp\n"
        "ret\n"
        ".size swap_with_values, .-swap_with_values\n"
        ".popsection\n");
#elif ASTHRA_HAS_ASM && ASTHRA__CPU_I386
enum { VALUES = 4 }; /* the low halves: no register holds a whole one */
extern void *swap_with_values(Asthra__SwapContext **from, Asthra__SwapContext *to, uint64_t *values,
                              void *swap);
__asm__(".pushsection .text.swap_with_values,\"ax\",@progbits\n"
        ".globl swap_with_values\n"
        ".type swap_with_values, @function\n"
        "swap_with_values:\n"
        "pushl %ebp; pushl %ebx; pushl %esi; pushl %edi\n"
        "subl $12, %esp\n"
        "movl 32(%esp), %eax; movl %eax, (%esp)\n"
        "movl 36(%esp), %eax; movl %eax, 4(%esp)\n"
        "movl 40(%esp), %edx; movl %edx, 8(%esp)\n"
        "movl 44(%esp), %ecx\n"
        "movl 0(%edx), %ebp; movl 8(%edx), %ebx; movl 16(%edx), %esi; movl 24(%edx), %edi\n"
        "calll *%ecx\n"
        "movl 40(%esp), %edx\n"
        "movl %ebp, 0(%edx); movl %ebx, 8(%edx); movl %esi, 16(%edx); movl %edi, 24(%edx)\n"
        "addl $12, %esp\n"
        "popl %edi; popl %esi; popl %ebx; popl %ebp\n"
        "ret\n"
        ".size swap_with_values, .-swap_with_values\n"
        ".popsection\n");
#elif ASTHRA_HAS_ASM && ASTHRA__CPU_AARCH64
enum { VALUES = 19 };
extern void *swap_with_values(Asthra__SwapContext **from, Asthra__SwapContext *to, uint64_t *values,
                              void *swap);
__asm__(".pushsection .text.swap_with_values,\"ax\",%progbits\n"
        ".globl swap_with_values\n"
        ".type swap_with_values, %function\n"
        "swap_with_values:\n"
        "hint #34\n"
        "stp x29, x30, [sp, #-192]!; stp x19, x20, [sp, #16]; stp x21, x22, [sp, #32]\n"
        "stp x23, x24, [sp, #48]; stp x25, x26, [sp, #64]; stp x27, x28, [sp, #80]\n"
        "stp d8, d9, [sp, #96]; stp d10, d11, [sp, #112]; stp d12, d13, [sp, #128]\n"
        "stp d14, d15, [sp, #144]; str x2, [sp, #160]\n"
        "ldp x19, x20, [x2]; ldp x21, x22, [x2, #16]; ldp x23, x24, [x2, #32]\n"
        "ldp x25, x26, [x2, #48]; ldp x27, x28, [x2, #64]; ldr x29, [x2, #80]\n"
        "ldp d8, d9, [x2, #88]; ldp d10, d11, [x2, #104]; ldp d12, d13, [x2, #120]\n"
        "ldp d14, d15, [x2, #136]\n"
        "blr x3\n"
        "ldr x2, [sp, #160]\n"
        "stp x19, x20, [x2]; stp x21, x22, [x2, #16]; stp x23, x24, [x2, #32]\n"
        "stp x25, x26, [x2, #48]; stp x27, x28, [x2, #64]; str x29, [x2, #80]\n"
        "stp d8, d9, [x2, #88]; stp d10, d11, [x2, #104]; stp d12, d13, [x2, #120]\n"
        "stp d14, d15, [x2, #136]\n"
        "ldp d14, d15, [sp, #144]; ldp d12, d13, [sp, #128]; ldp d10, d11, [sp, #112]\n"
        "ldp d8, d9, [sp, #96]; ldp x27, x28, [sp, #80]; ldp x25, x26, [sp, #64]\n"
        "ldp x23, x24, [sp, #48]; ldp x21, x22, [sp, #32]; ldp x19, x20, [sp, #16]\n"
        "ldp x29, x30, [sp], #192\n"
        "ret\n"
        ".size swap_with_values, .-swap_with_values\n"
        ".popsection\n");
#elif ASTHRA_HAS_ASM && ASTHRA__CPU_ARM
enum { VALUES = 12 }; /* d8 to d15, r4 to r11 */
extern void *swap_with_values(Asthra__SwapContext **from, Asthra__SwapContext *to, uint64_t *values,
                              void *swap);
__asm__(".pushsection .text.swap_with_values,\"ax\",%progbits\n"
        ".syntax unified\n"
        ".arm\n"
        ".globl swap_with_values\n"
        ".type swap_with_values, %function\n"
        "swap_with_values:\n"
        "push {r2, r4-r11, lr}; vpush {d8-d15}\n"
        "vldmia r2!, {d8-d15}; ldmia r2, {r4-r11}\n"
        "blx r3\n"
        "ldr r2, [sp, #64]\n"
        "vstmia r2!, {d8-d15}; stmia r2, {r4-r11}\n"
        "vpop {d8-d15}; pop {r2, r4-r11, pc}\n"
        ".size swap_with_values, .-swap_with_values\n"
        ".popsection\n");
#elif ASTHRA_HAS_ASM && ASTHRA__CPU_RISCV64
enum { VALUES = 24 };
extern void *swap_with_values(Asthra__SwapContext **from, Asthra__SwapContext *to, uint64_t *values,
                              void *swap);
__asm__(".pushsection .text.swap_with_values,\"ax\",%progbits\n"
        ".globl swap_with_values\n"
        ".type swap_with_values, %function\n"
        "swap_with_values:\n"
        "addi sp, sp, -208; sd ra, 200(sp); sd a2, 192(sp)\n"
        ".irp i,0,1,2,3,4,5,6,7,8,9,10,11\n"
        "sd s\\i, 8*\\i(sp); fsd fs\\i, 96+8*\\i(sp)\n"
        "ld s\\i, 8*\\i(a2); fld fs\\i, 96+8*\\i(a2)\n"
        ".endr\n"
        "jalr a3\n"
        "ld a2, 192(sp); ld ra, 200(sp)\n"
        ".irp i,0,1,2,3,4,5,6,7,8,9,10,11\n"
        "sd s\\i, 8*\\i(a2); fsd fs\\i, 96+8*\\i(a2)\n"
        "ld s\\i, 8*\\i(sp); fld fs\\i, 96+8*\\i(sp)\n"
        ".endr\n"
        "addi sp, sp, 208\n"
        "ret\n"
        ".size swap_with_values, .-swap_with_values\n"
        ".popsection\n");
#else
enum { VALUES = 0 };
#endif

#if ASTHRA_HAS_ASM
static void check_values(Asthra__SwapContext **from, Asthra__SwapContext **to, uint64_t seed) {
    uint64_t values[VALUES];
    for (unsigned i = 0; i < VALUES; i++) values[i] = seed * (i + 1);
    swap_with_values(from, *to, values, ASTHRA_FN(asthra__swap));
    for (unsigned i = 0; i < VALUES; i++) CHECK_EQ(values[i], seed * (i + 1));
}

static void keep_values(void *message) {
    (void)message;
    for (uint64_t i = 1;; i++) check_values(&other, &mine, i * 0x9e3779b97f4a7c15u);
}

TEST(swap, callee_saved_registers_of_both_sides_survive) {
    other_side(keep_values);
    for (uint64_t i = 1; i <= 100000; i++) check_values(&mine, &other, i * 0xd1b54a32d192ed03u);
}

/* A call whose function changes every register that it must not: escape has to bring them back. */
static Asthra__SwapContext *call_escape;

static void *escape_from_values(void *argument) {
    uint64_t values[VALUES];
    (void)argument;
    for (unsigned i = 0; i < VALUES; i++) values[i] = ~(uint64_t)i;
    swap_with_values((Asthra__SwapContext **)(void *)call_escape,
                     (Asthra__SwapContext *)(void *)&values, values,
                     ASTHRA_FN(asthra__swap_escape)); /* escape(context, value) */
    return NULL;
}
static void *call_with_values(void *argument) {
    (void)argument;
    return asthra__swap_call(escape_from_values, NULL, &call_escape, false);
}

TEST(swap, escape_brings_callee_saved_registers_back) {
    uint64_t values[VALUES];
    for (unsigned i = 0; i < VALUES; i++) values[i] = 0x1234567u * (i + 1);
    void *value = swap_with_values(NULL, NULL, values, ASTHRA_FN(call_with_values));
    CHECK(value != NULL);
    for (unsigned i = 0; i < VALUES; i++) CHECK_EQ(values[i], 0x1234567u * (i + 1));
}
#endif

/* Floating-point control: words() reads it, set_words() replaces it, and rounding shows it. */
#if defined(__x86_64__) || (defined(__i386__) && defined(__SSE__))
enum { UP = 0x5f80 | 0x0b7f << 16, NORMAL = 0x1f80 | 0x037f << 16 };
static unsigned words(void) {
    unsigned mxcsr;
    unsigned short x87;
    __asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr), "=m"(x87));
    return (mxcsr & 0xffc0u) | (unsigned)x87 << 16;
}
static void set_words(unsigned value) {
    unsigned mxcsr = value & 0xffff;
    unsigned short x87 = (unsigned short)(value >> 16);
    __asm__ volatile("ldmxcsr %0; fldcw %1" : : "m"(mxcsr), "m"(x87));
}
#elif defined(__i386__)
enum { UP = 0x0b7f, NORMAL = 0x037f };
static unsigned words(void) {
    unsigned short x87;
    __asm__ volatile("fnstcw %0" : "=m"(x87));
    return x87;
}
static void set_words(unsigned value) {
    unsigned short x87 = (unsigned short)value;
    __asm__ volatile("fldcw %0" : : "m"(x87));
}
#elif defined(__aarch64__)
enum { UP = 1 << 22, NORMAL = 0 };
static unsigned words(void) {
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    return (unsigned)fpcr;
}
static void set_words(unsigned value) {
    uint64_t fpcr = value;
    __asm__ volatile("msr fpcr, %0" : : "r"(fpcr));
}
#elif defined(__ARM_PCS_VFP)
enum { UP = 1 << 22, NORMAL = 0 };
static unsigned words(void) {
    unsigned fpscr;
    __asm__ volatile("vmrs %0, fpscr" : "=r"(fpscr));
    return fpscr & 0x07ffff60;
}
static void set_words(unsigned value) {
    __asm__ volatile("vmsr fpscr, %0" : : "r"(value));
}
#elif defined(__riscv_flen)
enum { UP = 3, NORMAL = 0 };
static unsigned words(void) {
    unsigned long mode;
    __asm__ volatile("frrm %0" : "=r"(mode));
    return (unsigned)mode;
}
static void set_words(unsigned value) {
    __asm__ volatile("fsrm %0" : : "r"((unsigned long)value));
}
#else
enum { UP = 0, NORMAL = 0 };
static unsigned words(void) {
    return 0;
}
static void set_words(unsigned value) {
    (void)value;
}
#endif

/* Not inlined: a compiler moves arithmetic over what changes its mode. */
__attribute__((noinline)) static double a_third(void) {
    volatile double one = 1, three = 3;
    return one / three;
}

static unsigned words_at_start, words_after;

static void round_up(void *message) {
    (void)message;
    words_at_start = words();
    set_words(UP);
    back(NULL);
    words_after = words();
    back(NULL);
}

TEST(swap, rounding_travels_and_a_fresh_context_starts_with_the_default) {
    double nearest = a_third();
    set_words(UP);
    double up = a_third();
    CHECK(UP == NORMAL || up > nearest);
    other_side(round_up); /* made and entered under another mode than the default */
    go(NULL);
    CHECK_EQ(words_at_start, NORMAL);
    CHECK_EQ(words(), UP);
    set_words(NORMAL);
    go(NULL);
    CHECK_EQ(words_after, UP);
    CHECK_EQ(words(), NORMAL);
    CHECK(a_third() < up || UP == NORMAL);
}

static void *note_words(void *argument) {
    words_at_start = words();
    set_words(argument ? UP : NORMAL);
    return argument;
}

TEST(swap, a_call_starts_with_the_default_and_gives_the_callers_words_back) {
    Asthra__SwapContext *escape;
    int something;
    set_words(UP);
    CHECK(asthra__swap_call(note_words, NULL, &escape, false) == NULL);
    CHECK_EQ(words_at_start, NORMAL);
    CHECK_EQ(words(), UP);
    set_words(NORMAL);
    CHECK(asthra__swap_call(note_words, &something, &escape, false) == &something);
    CHECK_EQ(words_at_start, NORMAL);
    CHECK_EQ(words(), NORMAL);
}

static void *turns_words_up(void *argument) {
    set_words(UP);
    return argument;
}
TEST(swap, a_caller_with_default_words_has_them_again_whatever_was_called) {
    Asthra__SwapContext *escape;
    int something;
    set_words(NORMAL);
    CHECK(asthra__swap_call(turns_words_up, &something, &escape, true) == &something);
    CHECK_EQ(words(), NORMAL);
    CHECK(asthra__swap_call(note_words, NULL, &escape, true) == NULL);
    CHECK_EQ(words_at_start, NORMAL);
}

#if defined(__x86_64__) || defined(__i386__)
enum { UNMASKED = NORMAL & ~(NORMAL > 0xffff ? 4u << 16 : 4u) };
static void divide_by_zero(void) {
    __asm__ volatile("fld1; fldz; fdivrp; fstp %st(0)");
}
static void leave_a_flag(void *message) {
    divide_by_zero();
    back(message);
}
static void *leave_a_flag_and_return(void *argument) {
    divide_by_zero();
    return argument;
}

TEST(swap, an_x87_flag_of_one_side_does_not_raise_on_the_other) {
    Asthra__SwapContext *escape;
    set_words(UNMASKED); /* division by zero raises on this side */
    other_side(leave_a_flag);
    go(NULL);
    __asm__ volatile("fwait");
    asthra__swap_call(leave_a_flag_and_return, NULL, &escape, false);
    __asm__ volatile("fwait");
    CHECK_EQ(words(), UNMASKED);
}
#endif

/* Escapes. */

typedef struct Deep {
    Asthra__SwapContext *escape;
    int depth;
} Deep;

__attribute__((noinline)) static int dive(Deep *deep, int depth) {
    volatile char room[64];
    room[0] = (char)depth;
    if (depth == deep->depth) {
        set_words(UP);
        asthra__swap_escape(deep->escape, deep);
    }
    return depth > 100000 ? 0 : dive(deep, depth + 1) + room[0];
}

static void *dive_from(void *argument) {
    dive(argument, 0);
    return NULL;
}

TEST(swap, escape_leaves_deep_frames) {
    for (int depth = 0; depth < 1000; depth += 37) {
        Deep deep = {.depth = depth};
        CHECK(asthra__swap_call(dive_from, &deep, &deep.escape, false) == &deep);
        CHECK_EQ(words(), NORMAL);
    }
}

static void *call_inside(void *argument) {
    Deep inner = {.depth = 3};
    CHECK(asthra__swap_call(dive_from, &inner, &inner.escape, false) == &inner);
    dive(argument, 0);
    return NULL;
}

TEST(swap, calls_nest_and_each_escape_ends_its_own) {
    Deep outer = {.depth = 5};
    CHECK(asthra__swap_call(call_inside, &outer, &outer.escape, false) == &outer);
}

static void *switch_away(void *argument) {
    return go(argument);
}

TEST(swap, a_call_may_leave_its_stack_and_come_back) {
    Asthra__SwapContext *escape;
    other_side(add_one);
    char byte[2];
    CHECK(asthra__swap_call(switch_away, byte, &escape, false) == byte + 1);
}

/* Surroundings. */

static sigset_t signals_now(void) {
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    return now;
}

static void block_a_signal(void *message) {
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &one, NULL);
    back(message);
}

TEST(swap, the_signal_mask_stays_with_the_thread) {
    other_side(block_a_signal);
    go(NULL);
    sigset_t now = signals_now();
    CHECK(sigismember(&now, SIGUSR1) == 1);
}

static void *go_on_a_thread(void *message) {
    return go(message);
}

TEST(swap, a_context_goes_on_under_another_thread) {
    other_side(add_one);
    char bytes[4];
    CHECK(go(bytes) == bytes + 1);
    for (int i = 0; i < 3; i++) {
        pthread_t thread;
        void *got;
        CHECK_EQ(pthread_create(&thread, NULL, go_on_a_thread, bytes + i), 0);
        CHECK_EQ(pthread_join(thread, &got), 0);
        CHECK(got == bytes + i + 1);
    }
}

enum { FRAMES = 64 };
static void *frames[FRAMES];
static size_t frame_count;

/* Calls through a pointer that the compiler cannot see through, or it unrolls the recursion. */
static void (*volatile look_on)(int depth);

static void look_back(int depth) {
    look_on = look_back;
    if (depth > 0)
        look_on(depth - 1);
    else
        frame_count = asthra__os_backtrace(frames, FRAMES);
    __asm__ volatile("" ::: "memory"); /* no tail call: each level keeps its frame */
}

static void need_unwinder(void) {
    look_back(0);
    if (frame_count == 0) SKIP("this program has no unwinder");
}

static void look_back_and_leave(void *message) {
    look_back(10);
    back(message);
}

TEST(swap, a_backtrace_ends_where_the_stack_began) {
    need_unwinder();
    other_side(look_back_and_leave);
    go(NULL);
    CHECK(frame_count >= 12 && frame_count < 20);
#if ASTHRA_HAS_ASM
    uintptr_t start = (uintptr_t)asthra__swap_start & ~ASTHRA__OS_ODD;
    uintptr_t last = (uintptr_t)frames[frame_count - 1];
    CHECK(last > start && last < start + 32);
#endif
}

static void *look_back_inside(void *argument) {
    look_back(3);
    return argument;
}

TEST(swap, a_backtrace_goes_through_a_call) {
    Asthra__SwapContext *escape;
    need_unwinder();
    look_back(3);
    size_t outside = frame_count;
    asthra__swap_call(look_back_inside, NULL, &escape, false);
#ifdef __GLIBC__
    CHECK_EQ(frame_count, outside + 2);
#else
    CHECK(frame_count > outside); /* one that follows frame pointers misses who called assembly */
#endif
}
