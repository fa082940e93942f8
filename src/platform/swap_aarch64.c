/* swap_aarch64 - the switch for AArch64, AAPCS64.                          [swap] body
 *
 * A switch is a function call whose return happens on another stack. AAPCS64 (section 6.1) says
 * what a call keeps: x19 to x28, the frame pointer x29, the low halves d8 to d15 of v8 to v15, and
 * FPCR's control bits; the link register x30 is the return address. They are stored, the stack
 * pointers are exchanged, and the same things are loaded on the other side. Return addresses are
 * not signed here: callers that sign theirs do so with their own stack pointer, which travels.
 *
 * A saved context, offsets from the stack pointer that stands for it:
 *
 *      0   x29, x30      frame pointer (0 in a context that has not started), return address
 *     16   x19, x20      x19: entry, in a context that has not started
 *     32   x21, x22
 *     48   x23, x24
 *     64   x25, x26
 *     80   x27, x28
 *     96   d8, d9
 *    112   d10, d11
 *    128   d12, d13
 *    144   d14, d15
 *    160   fpcr, 8 bytes; 8 unused
 *    176   the stack pointer after the return
 *
 * asthra__swap_call leaves the same layout, so that its frame is a context to escape to. FPCR is
 * written only where it differs, because a write may wait for all floating-point work; its flags
 * live in another register (FPSR) and stay with the thread.
 */
#include "swap_internal.h"

#if ASTHRA_HAS_TASK && ASTHRA_HAS_ASM && ASTHRA__CPU_AARCH64

/* from: x0; to: x1; message: x2 */
__asm__(".pushsection .text.asthra__swap,\"ax\",%progbits\n"
        ".p2align 5\n"
        ".globl asthra__swap\n"
        ".hidden asthra__swap\n"
        ".type asthra__swap, %function\n"
        "asthra__swap:\n"
        ".cfi_startproc\n"
        "hint #34\n"                   /* bti c */
        "stp x29, x30, [sp, #-176]!\n" /* x29, x30 at 0; sp is now this context */
        ".cfi_adjust_cfa_offset 176\n"
        ".cfi_rel_offset x29, 0\n"
        ".cfi_rel_offset x30, 8\n"
        "stp x19, x20, [sp, #16]\n" /* the caller's x19 to x28, from 16 */
        ".cfi_rel_offset x19, 16\n"
        ".cfi_rel_offset x20, 24\n"
        "stp x21, x22, [sp, #32]\n"
        ".cfi_rel_offset x21, 32\n"
        ".cfi_rel_offset x22, 40\n"
        "stp x23, x24, [sp, #48]\n"
        ".cfi_rel_offset x23, 48\n"
        ".cfi_rel_offset x24, 56\n"
        "stp x25, x26, [sp, #64]\n"
        ".cfi_rel_offset x25, 64\n"
        ".cfi_rel_offset x26, 72\n"
        "stp x27, x28, [sp, #80]\n"
        ".cfi_rel_offset x27, 80\n"
        ".cfi_rel_offset x28, 88\n"
        "stp d8, d9, [sp, #96]\n" /* the caller's d8 to d15, from 96 */
        ".cfi_rel_offset d8, 96\n"
        ".cfi_rel_offset d9, 104\n"
        "stp d10, d11, [sp, #112]\n"
        ".cfi_rel_offset d10, 112\n"
        ".cfi_rel_offset d11, 120\n"
        "stp d12, d13, [sp, #128]\n"
        ".cfi_rel_offset d12, 128\n"
        ".cfi_rel_offset d13, 136\n"
        "stp d14, d15, [sp, #144]\n"
        ".cfi_rel_offset d14, 144\n"
        ".cfi_rel_offset d15, 152\n"
        "mrs x9, fpcr\n"        /* x9: our fpcr */
        "str x9, [sp, #160]\n"  /* fpcr, at 160 */
        "mov x10, sp\n"         /* x10: this context */
        "str x10, [x0]\n"       /* *from = this context */
        "mov x0, x2\n"          /* x0: message, what the other side returns */
        "mov sp, x1\n"          /* leave: sp is the context `to`, with the same layout */
        "ldr x10, [sp, #160]\n" /* x10: the fpcr of `to` */
        "cmp x9, x10\n"
        "b.ne 2f\n"
        "1:\n"
        "ldp d14, d15, [sp, #144]\n" /* d8 to d15 of the arriving side */
        "ldp d12, d13, [sp, #128]\n"
        "ldp d10, d11, [sp, #112]\n"
        "ldp d8, d9, [sp, #96]\n"
        "ldp x27, x28, [sp, #80]\n" /* its x19 to x28 */
        "ldp x25, x26, [sp, #64]\n"
        "ldp x23, x24, [sp, #48]\n"
        "ldp x21, x22, [sp, #32]\n"
        "ldp x19, x20, [sp, #16]\n"
        "ldp x29, x30, [sp], #176\n" /* its frame pointer and return address */
        ".cfi_remember_state\n"
        ".cfi_def_cfa sp, 0\n"
        ".cfi_same_value x29\n"
        ".cfi_same_value x30\n"
        ".cfi_same_value x19\n"
        ".cfi_same_value x20\n"
        ".cfi_same_value x21\n"
        ".cfi_same_value x22\n"
        ".cfi_same_value x23\n"
        ".cfi_same_value x24\n"
        ".cfi_same_value x25\n"
        ".cfi_same_value x26\n"
        ".cfi_same_value x27\n"
        ".cfi_same_value x28\n"
        "ret\n" /* to its caller */
        ".cfi_restore_state\n"
        "2:\n"
        "msr fpcr, x10\n" /* the fpcr of `to` */
        "b 1b\n"
        ".cfi_endproc\n"
        ".size asthra__swap, .-asthra__swap\n"
        ".popsection\n");

/* The first return of a new context comes here. x0: message; x19: entry; sp: top, 16-aligned. */
__asm__(".pushsection .text.asthra__swap_start,\"ax\",%progbits\n"
        ".p2align 4\n"
        ".globl asthra__swap_start\n"
        ".hidden asthra__swap_start\n"
        ".type asthra__swap_start, %function\n"
        "asthra__swap_start:\n"
        ".cfi_startproc\n"
        ".cfi_undefined x30\n" /* nobody called: unwinders stop here */
        "hint #34\n"           /* bti c */
        "blr x19\n"            /* entry(message), which never returns */
        "brk #1\n"
        ".cfi_endproc\n"
        ".size asthra__swap_start, .-asthra__swap_start\n"
        ".popsection\n");

/* fn: x0; argument: x1; escape: x2.   asthra__swap_escape: escape: x0; value: x1 */
__asm__(".pushsection .text.asthra__swap_call,\"ax\",%progbits\n"
        ".p2align 5\n"
        ".globl asthra__swap_call\n"
        ".hidden asthra__swap_call\n"
        ".type asthra__swap_call, %function\n"
        "asthra__swap_call:\n"
        ".cfi_startproc\n"
        "hint #34\n"                   /* bti c */
        "stp x29, x30, [sp, #-176]!\n" /* x29, x30 at 0; sp is now this context */
        ".cfi_adjust_cfa_offset 176\n"
        ".cfi_rel_offset x29, 0\n"
        ".cfi_rel_offset x30, 8\n"
        "mov x29, sp\n"             /* a frame record, for those who walk along x29 */
        "stp x19, x20, [sp, #16]\n" /* the caller's x19 to x28, from 16 */
        ".cfi_rel_offset x19, 16\n"
        ".cfi_rel_offset x20, 24\n"
        "stp x21, x22, [sp, #32]\n"
        ".cfi_rel_offset x21, 32\n"
        ".cfi_rel_offset x22, 40\n"
        "stp x23, x24, [sp, #48]\n"
        ".cfi_rel_offset x23, 48\n"
        ".cfi_rel_offset x24, 56\n"
        "stp x25, x26, [sp, #64]\n"
        ".cfi_rel_offset x25, 64\n"
        ".cfi_rel_offset x26, 72\n"
        "stp x27, x28, [sp, #80]\n"
        ".cfi_rel_offset x27, 80\n"
        ".cfi_rel_offset x28, 88\n"
        "stp d8, d9, [sp, #96]\n" /* the caller's d8 to d15, from 96 */
        ".cfi_rel_offset d8, 96\n"
        ".cfi_rel_offset d9, 104\n"
        "stp d10, d11, [sp, #112]\n"
        ".cfi_rel_offset d10, 112\n"
        ".cfi_rel_offset d11, 120\n"
        "stp d12, d13, [sp, #128]\n"
        ".cfi_rel_offset d12, 128\n"
        ".cfi_rel_offset d13, 136\n"
        "stp d14, d15, [sp, #144]\n"
        ".cfi_rel_offset d14, 144\n"
        ".cfi_rel_offset d15, 152\n"
        "mrs x9, fpcr\n"       /* x9: the caller's fpcr */
        "str x9, [sp, #160]\n" /* fpcr, at 160 */
        "mov x10, sp\n"        /* x10: this context */
        "str x10, [x2]\n"      /* *escape = this context */
        "mov x10, x0\n"        /* x10: fn */
        "mov x0, x1\n"         /* x0: argument */
        "cbnz x9, 3f\n"        /* the default is 0 */
        "1:\n"
        "blr x10\n"             /* x0 = fn(argument) */
        "2:\n"                  /* here returns fn, and asthra__swap_escape; x0: value */
        "mrs x9, fpcr\n"        /* x9: what fn left */
        "ldr x10, [sp, #160]\n" /* x10: the caller's fpcr */
        "cmp x9, x10\n"
        "b.ne 5f\n"
        "4:\n"
        "ldp d14, d15, [sp, #144]\n" /* the caller's again */
        "ldp d12, d13, [sp, #128]\n"
        "ldp d10, d11, [sp, #112]\n"
        "ldp d8, d9, [sp, #96]\n"
        "ldp x27, x28, [sp, #80]\n"
        "ldp x25, x26, [sp, #64]\n"
        "ldp x23, x24, [sp, #48]\n"
        "ldp x21, x22, [sp, #32]\n"
        "ldp x19, x20, [sp, #16]\n"
        "ldp x29, x30, [sp], #176\n"
        ".cfi_remember_state\n"
        ".cfi_def_cfa sp, 0\n"
        ".cfi_same_value x29\n"
        ".cfi_same_value x30\n"
        ".cfi_same_value x19\n"
        ".cfi_same_value x20\n"
        ".cfi_same_value x21\n"
        ".cfi_same_value x22\n"
        ".cfi_same_value x23\n"
        ".cfi_same_value x24\n"
        ".cfi_same_value x25\n"
        ".cfi_same_value x26\n"
        ".cfi_same_value x27\n"
        ".cfi_same_value x28\n"
        "ret\n" /* x0: value */
        ".cfi_restore_state\n"
        "3:\n"
        "msr fpcr, xzr\n" /* to nearest, nothing flushed, nothing trapped */
        "b 1b\n"
        "5:\n"
        "msr fpcr, x10\n" /* the caller's fpcr */
        "b 4b\n"
        ".cfi_endproc\n"
        ".size asthra__swap_call, .-asthra__swap_call\n"
        ".globl asthra__swap_escape\n"
        ".hidden asthra__swap_escape\n"
        ".type asthra__swap_escape, %function\n"
        "asthra__swap_escape:\n"
        ".cfi_startproc\n"
        "hint #34\n"   /* bti c */
        "mov sp, x0\n" /* every frame below is gone */
        ".cfi_def_cfa sp, 176\n"
        ".cfi_offset x29, -176\n"
        ".cfi_offset x30, -168\n"
        "mov x0, x1\n" /* x0: value */
        "b 2b\n"
        ".cfi_endproc\n"
        ".size asthra__swap_escape, .-asthra__swap_escape\n"
        ".popsection\n");

__attribute__((__visibility__("hidden"))) extern void
asthra__swap_start(void) __asm__("asthra__swap_start");

/* What asthra__swap loads, as the table above draws it. */
typedef struct Asthra__SwapFrame {
    uint64_t x29, x30, x19, x20_to_x28[9], d8_to_d15[8], fpcr, unused;
} Asthra__SwapFrame;
_Static_assert(sizeof(Asthra__SwapFrame) == 176, "the table of swap_aarch64.c");
_Static_assert(offsetof(Asthra__SwapFrame, x19) == 16, "the table of swap_aarch64.c");
_Static_assert(offsetof(Asthra__SwapFrame, d8_to_d15) == 96, "the table of swap_aarch64.c");
_Static_assert(offsetof(Asthra__SwapFrame, fpcr) == 160, "the table of swap_aarch64.c");

/* chkfeat clears bit 0 of x16 where the guarded control stack is on; it is a no-op elsewhere. */
ASTHRA__FN bool asthra__swap_is_allowed(void) {
    register uint64_t feature __asm__("x16") = 1;
    __asm__ volatile("hint #40" : "+r"(feature)); /* chkfeat x16 */
    return feature != 0;
}

ASTHRA__FN Asthra__SwapContext *asthra__swap_make(void *low, void *top, void (*entry)(void *)) {
    char *end = (char *)top - ((uintptr_t)top & 15);
    Asthra__SwapFrame *frame = (Asthra__SwapFrame *)(void *)end - 1;
    (void)low;
    *frame = (Asthra__SwapFrame){.x30 = (uint64_t)(uintptr_t)asthra__swap_start,
                                 .x19 = (uint64_t)(uintptr_t)entry};
    return (Asthra__SwapContext *)(void *)frame;
}

#endif
