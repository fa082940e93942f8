/* swap_riscv64 - the switch for RISC-V 64, LP64D.                          [swap] body
 *
 * A switch is a function call whose return happens on another stack. The calling convention (RISC-V
 * ELF psABI, "Register Convention") says what a call keeps: s0 to s11 and fs0 to fs11; ra is the
 * return address, gp and tp are the program's and the thread's. They are stored, the stack pointers
 * are exchanged, and the same things are loaded on the other side. Of fcsr the rounding mode (frm)
 * travels, as control words do on other processors; its flags stay with the thread.
 *
 * A saved context, offsets from the stack pointer that stands for it:
 *
 *      0   frm, 8 bytes
 *      8   fs0 to fs11
 *    104   s11
 *    112   s10
 *    120   s9
 *    128   s8
 *    136   s7
 *    144   s6
 *    152   s5
 *    160   s4
 *    168   s3
 *    176   s2
 *    184   s1      entry, in a context that has not started
 *    192   s0      frame pointer; 0 in a context that has not started
 *    200   ra      return address
 *    208   the stack pointer after the return
 *
 * The last two are where code with frame pointers keeps them. asthra__swap_call leaves the same
 * layout, so that its frame is a context to escape to. frm is written only where it differs,
 * because a write may wait for all floating-point work.
 *
 * Landing pads (Zicfilp) are lpad 0, which other processors take for an addition that goes nowhere;
 * an indirect call through t2 asks for none, and neither does a return.
 */
#include "swap_internal.h"

#include "os_internal.h"

#if ASTHRA_HAS_TASK && ASTHRA_HAS_ASM && ASTHRA__CPU_RISCV64

/* from: a0; to: a1; message: a2 */
__asm__(".pushsection .text.asthra__swap,\"ax\",%progbits\n"
        ".option push\n"
        ".option norelax\n" /* aligned by the assembler, not by the linker */
        ".p2align 5\n"
        ".globl asthra__swap\n"
        ".hidden asthra__swap\n"
        ".type asthra__swap, %function\n"
        "asthra__swap:\n"
        ".cfi_startproc\n"
        "auipc zero, 0\n"     /* lpad 0 */
        "addi sp, sp, -208\n" /* sp is now this context */
        ".cfi_def_cfa_offset 208\n"
        "sd ra, 200(sp)\n" /* the return address, at 200 */
        ".cfi_offset ra, -8\n"
        "sd s0, 192(sp)\n" /* the caller's s0 to s11, from 192 down */
        ".cfi_offset s0, -16\n"
        "sd s1, 184(sp)\n"
        ".cfi_offset s1, -24\n"
        "sd s2, 176(sp)\n"
        ".cfi_offset s2, -32\n"
        "sd s3, 168(sp)\n"
        ".cfi_offset s3, -40\n"
        "sd s4, 160(sp)\n"
        ".cfi_offset s4, -48\n"
        "sd s5, 152(sp)\n"
        ".cfi_offset s5, -56\n"
        "sd s6, 144(sp)\n"
        ".cfi_offset s6, -64\n"
        "sd s7, 136(sp)\n"
        ".cfi_offset s7, -72\n"
        "sd s8, 128(sp)\n"
        ".cfi_offset s8, -80\n"
        "sd s9, 120(sp)\n"
        ".cfi_offset s9, -88\n"
        "sd s10, 112(sp)\n"
        ".cfi_offset s10, -96\n"
        "sd s11, 104(sp)\n"
        ".cfi_offset s11, -104\n"
        "fsd fs0, 8(sp)\n" /* the caller's fs0 to fs11, from 8 */
        ".cfi_offset fs0, -200\n"
        "fsd fs1, 16(sp)\n"
        ".cfi_offset fs1, -192\n"
        "fsd fs2, 24(sp)\n"
        ".cfi_offset fs2, -184\n"
        "fsd fs3, 32(sp)\n"
        ".cfi_offset fs3, -176\n"
        "fsd fs4, 40(sp)\n"
        ".cfi_offset fs4, -168\n"
        "fsd fs5, 48(sp)\n"
        ".cfi_offset fs5, -160\n"
        "fsd fs6, 56(sp)\n"
        ".cfi_offset fs6, -152\n"
        "fsd fs7, 64(sp)\n"
        ".cfi_offset fs7, -144\n"
        "fsd fs8, 72(sp)\n"
        ".cfi_offset fs8, -136\n"
        "fsd fs9, 80(sp)\n"
        ".cfi_offset fs9, -128\n"
        "fsd fs10, 88(sp)\n"
        ".cfi_offset fs10, -120\n"
        "fsd fs11, 96(sp)\n"
        ".cfi_offset fs11, -112\n"
        "frrm t0\n"      /* t0: our rounding mode */
        "sd t0, 0(sp)\n" /* the rounding mode, at 0 */
        "sd sp, 0(a0)\n" /* *from = this context */
        "mv a0, a2\n"    /* a0: message, what the other side returns */
        "mv sp, a1\n"    /* leave: sp is the context `to`, with the same layout */
        "ld t1, 0(sp)\n" /* t1: the rounding mode of `to` */
        "bne t0, t1, 2f\n"
        "1:\n"
        "fld fs0, 8(sp)\n" /* fs0 to fs11 of the arriving side */
        "fld fs1, 16(sp)\n"
        "fld fs2, 24(sp)\n"
        "fld fs3, 32(sp)\n"
        "fld fs4, 40(sp)\n"
        "fld fs5, 48(sp)\n"
        "fld fs6, 56(sp)\n"
        "fld fs7, 64(sp)\n"
        "fld fs8, 72(sp)\n"
        "fld fs9, 80(sp)\n"
        "fld fs10, 88(sp)\n"
        "fld fs11, 96(sp)\n"
        "ld s11, 104(sp)\n" /* its s11 to s0 */
        "ld s10, 112(sp)\n"
        "ld s9, 120(sp)\n"
        "ld s8, 128(sp)\n"
        "ld s7, 136(sp)\n"
        "ld s6, 144(sp)\n"
        "ld s5, 152(sp)\n"
        "ld s4, 160(sp)\n"
        "ld s3, 168(sp)\n"
        "ld s2, 176(sp)\n"
        "ld s1, 184(sp)\n"
        "ld s0, 192(sp)\n"
        "ld ra, 200(sp)\n" /* its return address */
        "addi sp, sp, 208\n"
        ".cfi_remember_state\n"
        ".cfi_def_cfa_offset 0\n"
        ".cfi_restore ra\n"
        ".cfi_restore s0\n"
        ".cfi_restore s1\n"
        ".cfi_restore s2\n"
        ".cfi_restore s3\n"
        ".cfi_restore s4\n"
        ".cfi_restore s5\n"
        ".cfi_restore s6\n"
        ".cfi_restore s7\n"
        ".cfi_restore s8\n"
        ".cfi_restore s9\n"
        ".cfi_restore s10\n"
        ".cfi_restore s11\n"
        ".cfi_restore fs0\n"
        ".cfi_restore fs1\n"
        ".cfi_restore fs2\n"
        ".cfi_restore fs3\n"
        ".cfi_restore fs4\n"
        ".cfi_restore fs5\n"
        ".cfi_restore fs6\n"
        ".cfi_restore fs7\n"
        ".cfi_restore fs8\n"
        ".cfi_restore fs9\n"
        ".cfi_restore fs10\n"
        ".cfi_restore fs11\n"
        "ret\n" /* to its caller */
        ".cfi_restore_state\n"
        "2:\n"
        "fsrm t1\n" /* the rounding mode of `to` */
        "j 1b\n"
        ".cfi_endproc\n"
        ".size asthra__swap, .-asthra__swap\n"
        ".option pop\n"
        ".popsection\n");

/* The first return of a new context comes here. a0: message; s1: entry; sp: top, 16-aligned. */
__asm__(".pushsection .text.asthra__swap_start,\"ax\",%progbits\n"
        ".option push\n"
        ".option norelax\n" /* aligned by the assembler, not by the linker */
        ".p2align 4\n"
        ".globl asthra__swap_start\n"
        ".hidden asthra__swap_start\n"
        ".type asthra__swap_start, %function\n"
        "asthra__swap_start:\n"
        ".cfi_startproc\n"
        ".cfi_undefined ra\n" /* nobody called: unwinders stop here */
        "mv t2, s1\n"         /* a call through t2 asks for no landing pad */
        "jalr t2\n"           /* entry(message), which never returns */
        "unimp\n"
        ".cfi_endproc\n"
        ".size asthra__swap_start, .-asthra__swap_start\n"
        ".option pop\n"
        ".popsection\n");

/* fn: a0; argument: a1; escape: a2.   asthra__swap_escape: escape: a0; value: a1 */
__asm__(".pushsection .text.asthra__swap_call,\"ax\",%progbits\n"
        ".option push\n"
        ".option norelax\n" /* aligned by the assembler, not by the linker */
        ".p2align 5\n"
        ".globl asthra__swap_call\n"
        ".hidden asthra__swap_call\n"
        ".type asthra__swap_call, %function\n"
        "asthra__swap_call:\n"
        ".cfi_startproc\n"
        "auipc zero, 0\n"     /* lpad 0 */
        "addi sp, sp, -208\n" /* sp is now this context */
        ".cfi_def_cfa_offset 208\n"
        "sd ra, 200(sp)\n" /* the return address, at 200 */
        ".cfi_offset ra, -8\n"
        "sd s0, 192(sp)\n" /* the caller's s0 to s11, from 192 down */
        ".cfi_offset s0, -16\n"
        "addi s0, sp, 208\n" /* a frame record, for those who walk along s0 */
        "sd s1, 184(sp)\n"
        ".cfi_offset s1, -24\n"
        "sd s2, 176(sp)\n"
        ".cfi_offset s2, -32\n"
        "sd s3, 168(sp)\n"
        ".cfi_offset s3, -40\n"
        "sd s4, 160(sp)\n"
        ".cfi_offset s4, -48\n"
        "sd s5, 152(sp)\n"
        ".cfi_offset s5, -56\n"
        "sd s6, 144(sp)\n"
        ".cfi_offset s6, -64\n"
        "sd s7, 136(sp)\n"
        ".cfi_offset s7, -72\n"
        "sd s8, 128(sp)\n"
        ".cfi_offset s8, -80\n"
        "sd s9, 120(sp)\n"
        ".cfi_offset s9, -88\n"
        "sd s10, 112(sp)\n"
        ".cfi_offset s10, -96\n"
        "sd s11, 104(sp)\n"
        ".cfi_offset s11, -104\n"
        "fsd fs0, 8(sp)\n" /* the caller's fs0 to fs11, from 8 */
        ".cfi_offset fs0, -200\n"
        "fsd fs1, 16(sp)\n"
        ".cfi_offset fs1, -192\n"
        "fsd fs2, 24(sp)\n"
        ".cfi_offset fs2, -184\n"
        "fsd fs3, 32(sp)\n"
        ".cfi_offset fs3, -176\n"
        "fsd fs4, 40(sp)\n"
        ".cfi_offset fs4, -168\n"
        "fsd fs5, 48(sp)\n"
        ".cfi_offset fs5, -160\n"
        "fsd fs6, 56(sp)\n"
        ".cfi_offset fs6, -152\n"
        "fsd fs7, 64(sp)\n"
        ".cfi_offset fs7, -144\n"
        "fsd fs8, 72(sp)\n"
        ".cfi_offset fs8, -136\n"
        "fsd fs9, 80(sp)\n"
        ".cfi_offset fs9, -128\n"
        "fsd fs10, 88(sp)\n"
        ".cfi_offset fs10, -120\n"
        "fsd fs11, 96(sp)\n"
        ".cfi_offset fs11, -112\n"
        "frrm t0\n"      /* t0: the caller's rounding mode */
        "sd t0, 0(sp)\n" /* the rounding mode, at 0 */
        "sd sp, 0(a2)\n" /* *escape = this context */
        "mv t2, a0\n"    /* t2: fn */
        "mv a0, a1\n"    /* a0: argument */
        "bnez t0, 3f\n"  /* the default is 0 */
        "1:\n"
        "jalr t2\n"      /* a0 = fn(argument) */
        "2:\n"           /* here returns fn, and asthra__swap_escape; a0: value */
        "frrm t0\n"      /* t0: what fn left */
        "ld t1, 0(sp)\n" /* t1: the caller's rounding mode */
        "bne t0, t1, 5f\n"
        "4:\n"
        "fld fs0, 8(sp)\n" /* the caller's again */
        "fld fs1, 16(sp)\n"
        "fld fs2, 24(sp)\n"
        "fld fs3, 32(sp)\n"
        "fld fs4, 40(sp)\n"
        "fld fs5, 48(sp)\n"
        "fld fs6, 56(sp)\n"
        "fld fs7, 64(sp)\n"
        "fld fs8, 72(sp)\n"
        "fld fs9, 80(sp)\n"
        "fld fs10, 88(sp)\n"
        "fld fs11, 96(sp)\n"
        "ld s11, 104(sp)\n"
        "ld s10, 112(sp)\n"
        "ld s9, 120(sp)\n"
        "ld s8, 128(sp)\n"
        "ld s7, 136(sp)\n"
        "ld s6, 144(sp)\n"
        "ld s5, 152(sp)\n"
        "ld s4, 160(sp)\n"
        "ld s3, 168(sp)\n"
        "ld s2, 176(sp)\n"
        "ld s1, 184(sp)\n"
        "ld s0, 192(sp)\n"
        "ld ra, 200(sp)\n"
        "addi sp, sp, 208\n"
        ".cfi_remember_state\n"
        ".cfi_def_cfa_offset 0\n"
        ".cfi_restore ra\n"
        ".cfi_restore s0\n"
        ".cfi_restore s1\n"
        ".cfi_restore s2\n"
        ".cfi_restore s3\n"
        ".cfi_restore s4\n"
        ".cfi_restore s5\n"
        ".cfi_restore s6\n"
        ".cfi_restore s7\n"
        ".cfi_restore s8\n"
        ".cfi_restore s9\n"
        ".cfi_restore s10\n"
        ".cfi_restore s11\n"
        ".cfi_restore fs0\n"
        ".cfi_restore fs1\n"
        ".cfi_restore fs2\n"
        ".cfi_restore fs3\n"
        ".cfi_restore fs4\n"
        ".cfi_restore fs5\n"
        ".cfi_restore fs6\n"
        ".cfi_restore fs7\n"
        ".cfi_restore fs8\n"
        ".cfi_restore fs9\n"
        ".cfi_restore fs10\n"
        ".cfi_restore fs11\n"
        "ret\n" /* a0: value */
        ".cfi_restore_state\n"
        "3:\n"
        "fsrm zero\n" /* to nearest */
        "j 1b\n"
        "5:\n"
        "fsrm t1\n" /* the caller's rounding mode */
        "j 4b\n"
        ".cfi_endproc\n"
        ".size asthra__swap_call, .-asthra__swap_call\n"
        ".globl asthra__swap_escape\n"
        ".hidden asthra__swap_escape\n"
        ".type asthra__swap_escape, %function\n"
        ".p2align 2\n"
        "asthra__swap_escape:\n"
        ".cfi_startproc\n"
        "auipc zero, 0\n" /* lpad 0 */
        "mv sp, a0\n"     /* every frame below is gone */
        ".cfi_def_cfa_offset 208\n"
        ".cfi_offset ra, -8\n"
        ".cfi_offset s0, -16\n"
        "mv a0, a1\n" /* a0: value */
        "j 2b\n"
        ".cfi_endproc\n"
        ".size asthra__swap_escape, .-asthra__swap_escape\n"
        ".option pop\n"
        ".popsection\n");

__attribute__((__visibility__("hidden"))) extern void
asthra__swap_start(void) __asm__("asthra__swap_start");

/* What asthra__swap loads, as the table above draws it. */
typedef struct Asthra__SwapFrame {
    uint64_t frm, fs0_to_fs11[12], s11_to_s2[10], s1, s0, ra;
} Asthra__SwapFrame;
_Static_assert(sizeof(Asthra__SwapFrame) == 208, "the table of swap_riscv64.c");
_Static_assert(offsetof(Asthra__SwapFrame, s11_to_s2) == 104, "the table of swap_riscv64.c");
_Static_assert(offsetof(Asthra__SwapFrame, s1) == 184, "the table of swap_riscv64.c");
_Static_assert(offsetof(Asthra__SwapFrame, ra) == 200, "the table of swap_riscv64.c");

/* The instruction that reads the shadow stack's pointer (Zicfiss) is illegal on processors of
 * before, so the system is asked. */
ASTHRA__FN bool asthra__swap_is_allowed(void) {
    return !asthra__os_has_shadow_stack();
}

ASTHRA__FN Asthra__SwapContext *asthra__swap_make(void *low, void *top, void (*entry)(void *)) {
    char *end = (char *)top - ((uintptr_t)top & 15);
    Asthra__SwapFrame *frame = (Asthra__SwapFrame *)(void *)end - 1;
    (void)low;
    *frame = (Asthra__SwapFrame){.ra = (uint64_t)(uintptr_t)asthra__swap_start,
                                 .s1 = (uint64_t)(uintptr_t)entry};
    return (Asthra__SwapContext *)(void *)frame;
}

#endif
