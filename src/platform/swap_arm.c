/* swap_arm - the switch for 32-bit ARM, AAPCS with hardware floating point. [swap] body
 *
 * A switch is a function call whose return happens on another stack. AAPCS32 (sections 6.1.1 and
 * 6.1.2) says what a call keeps: r4 to r11, d8 to d15 and the control bits of FPSCR; lr is the
 * return address. They are pushed, the stack pointers are exchanged, and the same things are popped
 * on the other side.
 *
 * A saved context, offsets from the stack pointer that stands for it:
 *
 *      0   d8 to d15
 *     64   fpscr
 *     68   r4       entry, in a context that has not started
 *     72   r5
 *     76   r6
 *     80   r7       frame pointer of Thumb code; 0 in a context that has not started
 *     84   r8
 *     88   r9
 *     92   r10
 *     96   r11      frame pointer of ARM code; 0 in a context that has not started
 *    100   return address, odd in Thumb code
 *    104   the stack pointer after the return
 *
 * asthra__swap_call leaves the same layout, so that its frame is a context to escape to. FPSCR is
 * written only where its controls differ: rounding and the like, but not the flags (bits 0 to 4, 7
 * and 27 to 31), which stay with the thread.
 *
 * The routines are ARM or Thumb code as what is compiled around them, and go to and from either by
 * the low bit of an address. Unwinders of this ABI read tables of their own (EHABI32); call frame
 * information is for debuggers alone. Both know frames from the first instruction on, the tables as
 * far as they can tell: they have one description for each function.
 */
#include "swap_internal.h"

#if ASTHRA_HAS_TASK && ASTHRA_HAS_ASM && ASTHRA__CPU_ARM

#if defined(__thumb__)
#define ASTHRA__SWAP_THUMB 1
#else
#define ASTHRA__SWAP_THUMB 0
#endif

/* from: r0; to: r1; message: r2 */
__asm__(".pushsection .text.asthra__swap,\"ax\",%progbits\n"
        ".syntax unified\n"
#if ASTHRA__SWAP_THUMB
        ".thumb\n"
#else
        ".arm\n"
#endif
        ".cfi_sections .debug_frame\n"
        ".p2align 5\n"
        ".globl asthra__swap\n"
        ".hidden asthra__swap\n"
        ".type asthra__swap, %function\n"
#if ASTHRA__SWAP_THUMB
        ".thumb_func\n"
#endif
        "asthra__swap:\n"
        ".fnstart\n"
        ".cfi_startproc\n"
        "push {r4-r11, lr}\n" /* the caller's r4 to r11 and return address, from 68 */
        ".save {r4-r11, lr}\n"
        ".cfi_adjust_cfa_offset 36\n"
        ".cfi_rel_offset r4, 0\n"
        ".cfi_rel_offset r5, 4\n"
        ".cfi_rel_offset r6, 8\n"
        ".cfi_rel_offset r7, 12\n"
        ".cfi_rel_offset r8, 16\n"
        ".cfi_rel_offset r9, 20\n"
        ".cfi_rel_offset r10, 24\n"
        ".cfi_rel_offset r11, 28\n"
        ".cfi_rel_offset lr, 32\n"
        "vmrs r3, fpscr\n"     /* r3: our fpscr */
        "str r3, [sp, #-4]!\n" /* fpscr, at 64 */
        ".pad #4\n"
        ".cfi_adjust_cfa_offset 4\n"
        "vpush {d8-d15}\n" /* the caller's d8 to d15, from 0; sp is now this context */
        ".vsave {d8-d15}\n"
        ".cfi_adjust_cfa_offset 64\n"
        ".cfi_rel_offset d8, 0\n"
        ".cfi_rel_offset d9, 8\n"
        ".cfi_rel_offset d10, 16\n"
        ".cfi_rel_offset d11, 24\n"
        ".cfi_rel_offset d12, 32\n"
        ".cfi_rel_offset d13, 40\n"
        ".cfi_rel_offset d14, 48\n"
        ".cfi_rel_offset d15, 56\n"
        "mov r12, sp\n"   /* r12: this context */
        "str r12, [r0]\n" /* *from = this context */
        "mov r0, r2\n"    /* r0: message, what the other side returns */
        "mov sp, r1\n"    /* leave: sp is the context `to`, with the same layout */
        "vpop {d8-d15}\n" /* d8 to d15 of the arriving side */
        ".cfi_adjust_cfa_offset -64\n"
        ".cfi_restore d8\n"
        ".cfi_restore d9\n"
        ".cfi_restore d10\n"
        ".cfi_restore d11\n"
        ".cfi_restore d12\n"
        ".cfi_restore d13\n"
        ".cfi_restore d14\n"
        ".cfi_restore d15\n"
        "ldr r12, [sp], #4\n" /* r12: its fpscr */
        ".cfi_adjust_cfa_offset -4\n"
        "eor r12, r12, r3\n"
        "bic r12, r12, #0xf8000000\n" /* r12: where they differ, but for flags */
        "bics r12, r12, #0x9f\n"
        "bne 2f\n"
        "1:\n"
        "pop {r4-r11, pc}\n" /* its r4 to r11, and to its caller */
        "2:\n"
        "eor r3, r3, r12\n" /* the controls of `to`, and our flags */
        "vmsr fpscr, r3\n"
        "b 1b\n"
        ".cfi_endproc\n"
        ".fnend\n"
        ".size asthra__swap, .-asthra__swap\n"
        ".popsection\n");

/* The first return of a new context comes here. r0: message; r4: entry; sp: top, 16-aligned. */
__asm__(".pushsection .text.asthra__swap_start,\"ax\",%progbits\n"
        ".syntax unified\n"
#if ASTHRA__SWAP_THUMB
        ".thumb\n"
#else
        ".arm\n"
#endif
        ".cfi_sections .debug_frame\n"
        ".p2align 4\n"
        ".globl asthra__swap_start\n"
        ".hidden asthra__swap_start\n"
        ".type asthra__swap_start, %function\n"
#if ASTHRA__SWAP_THUMB
        ".thumb_func\n"
#endif
        "asthra__swap_start:\n"
        ".fnstart\n"
        ".cfi_startproc\n"
        ".unwind_raw 0, 0x80, 0x00\n" /* nobody called: unwinders stop here */
        ".cfi_undefined lr\n"
        "blx r4\n" /* entry(message), which never returns */
        "udf #0\n"
        ".cfi_endproc\n"
        ".fnend\n"
        ".size asthra__swap_start, .-asthra__swap_start\n"
        ".popsection\n");

/* fn: r0; argument: r1; escape: r2.   asthra__swap_escape: escape: r0; value: r1 */
__asm__(".pushsection .text.asthra__swap_call,\"ax\",%progbits\n"
        ".syntax unified\n"
#if ASTHRA__SWAP_THUMB
        ".thumb\n"
#else
        ".arm\n"
#endif
        ".cfi_sections .debug_frame\n"
        ".p2align 5\n"
        ".globl asthra__swap_call\n"
        ".hidden asthra__swap_call\n"
        ".type asthra__swap_call, %function\n"
#if ASTHRA__SWAP_THUMB
        ".thumb_func\n"
#endif
        "asthra__swap_call:\n"
        ".fnstart\n"
        ".cfi_startproc\n"
        "push {r4-r11, lr}\n" /* the caller's r4 to r11 and return address, from 68 */
        ".save {r4-r11, lr}\n"
        ".cfi_adjust_cfa_offset 36\n"
        ".cfi_rel_offset r4, 0\n"
        ".cfi_rel_offset r5, 4\n"
        ".cfi_rel_offset r6, 8\n"
        ".cfi_rel_offset r7, 12\n"
        ".cfi_rel_offset r8, 16\n"
        ".cfi_rel_offset r9, 20\n"
        ".cfi_rel_offset r10, 24\n"
        ".cfi_rel_offset r11, 28\n"
        ".cfi_rel_offset lr, 32\n"
        "vmrs r12, fpscr\n"     /* r12: the caller's fpscr */
        "str r12, [sp, #-4]!\n" /* fpscr, at 64 */
        ".pad #4\n"
        ".cfi_adjust_cfa_offset 4\n"
        "vpush {d8-d15}\n" /* the caller's d8 to d15, from 0; sp is now this context */
        ".vsave {d8-d15}\n"
        ".cfi_adjust_cfa_offset 64\n"
        ".cfi_rel_offset d8, 0\n"
        ".cfi_rel_offset d9, 8\n"
        ".cfi_rel_offset d10, 16\n"
        ".cfi_rel_offset d11, 24\n"
        ".cfi_rel_offset d12, 32\n"
        ".cfi_rel_offset d13, 40\n"
        ".cfi_rel_offset d14, 48\n"
        ".cfi_rel_offset d15, 56\n"
        "mov r3, sp\n"               /* r3: this context */
        "str r3, [r2]\n"             /* *escape = this context */
        "mov r3, r0\n"               /* r3: fn */
        "mov r0, r1\n"               /* r0: argument */
        "bic r2, r12, #0xf8000000\n" /* r2: what is not as the default, but for flags */
        "bics r2, r2, #0x9f\n"
        "bne 3f\n"
        "1:\n"
        "blx r3\n"         /* r0 = fn(argument) */
        "2:\n"             /* here returns fn, and asthra__swap_escape; r0: value */
        "vmrs r3, fpscr\n" /* r3: what fn left */
        "vpop {d8-d15}\n"  /* the caller's again */
        ".cfi_remember_state\n"
        ".cfi_adjust_cfa_offset -64\n"
        ".cfi_restore d8\n"
        ".cfi_restore d9\n"
        ".cfi_restore d10\n"
        ".cfi_restore d11\n"
        ".cfi_restore d12\n"
        ".cfi_restore d13\n"
        ".cfi_restore d14\n"
        ".cfi_restore d15\n"
        "ldr r12, [sp], #4\n" /* r12: the caller's fpscr */
        ".cfi_adjust_cfa_offset -4\n"
        "eor r12, r12, r3\n"
        "bic r12, r12, #0xf8000000\n" /* r12: where they differ, but for flags */
        "bics r12, r12, #0x9f\n"
        "bne 5f\n"
        "4:\n"
        "pop {r4-r11, pc}\n" /* r0: value */
        "5:\n"
        "eor r3, r3, r12\n" /* the caller's controls */
        "vmsr fpscr, r3\n"
        "b 4b\n"
        ".cfi_restore_state\n"
        "3:\n"
        "eor r12, r12, r2\n" /* to nearest, nothing flushed, nothing trapped */
        "vmsr fpscr, r12\n"
        "b 1b\n"
        ".cfi_endproc\n"
        ".fnend\n"
        ".size asthra__swap_call, .-asthra__swap_call\n"
        ".globl asthra__swap_escape\n"
        ".hidden asthra__swap_escape\n"
        ".type asthra__swap_escape, %function\n"
#if ASTHRA__SWAP_THUMB
        ".thumb_func\n"
#endif
        "asthra__swap_escape:\n"
        ".fnstart\n"
        ".cfi_startproc\n"
        ".cantunwind\n"
        "mov sp, r0\n" /* every frame below is gone */
        ".cfi_def_cfa sp, 104\n"
        ".cfi_offset r11, -8\n"
        ".cfi_offset lr, -4\n"
        "mov r0, r1\n" /* r0: value */
        "b 2b\n"
        ".cfi_endproc\n"
        ".fnend\n"
        ".size asthra__swap_escape, .-asthra__swap_escape\n"
        ".popsection\n");

__attribute__((__visibility__("hidden"))) extern void
asthra__swap_start(void) __asm__("asthra__swap_start");

/* What asthra__swap pops, as the table above draws it. */
typedef struct Asthra__SwapFrame {
    uint64_t d8_to_d15[8];
    uint32_t fpscr, r4, r5_to_r11[7], return_address;
} Asthra__SwapFrame;
_Static_assert(sizeof(Asthra__SwapFrame) == 104, "the table of swap_arm.c");
_Static_assert(offsetof(Asthra__SwapFrame, r4) == 68, "the table of swap_arm.c");
_Static_assert(offsetof(Asthra__SwapFrame, return_address) == 100, "the table of swap_arm.c");

/* These processors have no shadow stacks. */
ASTHRA__FN bool asthra__swap_is_allowed(void) {
    return true;
}

ASTHRA__FN Asthra__SwapContext *asthra__swap_make(void *low, void *top, void (*entry)(void *)) {
    char *end = (char *)top - ((uintptr_t)top & 15);
    Asthra__SwapFrame *frame = (Asthra__SwapFrame *)(void *)end - 1;
    (void)low;
    *frame = (Asthra__SwapFrame){.r4 = (uint32_t)(uintptr_t)entry,
                                 .return_address = (uint32_t)(uintptr_t)asthra__swap_start};
    return (Asthra__SwapContext *)(void *)frame;
}

#endif
