/* ffi_riscv64_steps - machine code of calls for RISC-V 64.                   [ffi] body: steps
 *
 * Steps stand in slots of 32 bytes, so that the address of one is the first's and a multiple. They
 * are reached through t2, which asks for no landing pad. A load or store that its value's type does
 * not align is made of smaller ones: processors may leave it to a trap. Registers and the frame are
 * drawn in ffi_riscv64_internal.h.
 */
#include "ffi_riscv64_internal.h"

#if ASTHRA_HAS_FFI && ASTHRA__CPU_RISCV64

/* clang-format off */
/* Inside the frame that asthra__ffi_enter has made. */
#define ASTHRA__R_FRAME     \
    ".cfi_def_cfa s0, 0\n"  \
    ".cfi_offset ra, -8\n"  \
    ".cfi_offset s0, -16\n" \
    ".cfi_offset s1, -24\n"
#define ASTHRA__R_SLOT ".p2align 5\n"
/* To the next step, behind so many operands. */
#define ASTHRA__R_NEXT0 "ld t2, 8(s1)\n" "addi s1, s1, 8\n" "jr t2\n"
#define ASTHRA__R_NEXT1 "ld t2, 16(s1)\n" "addi s1, s1, 16\n" "jr t2\n"
#define ASTHRA__R_NEXT2 "ld t2, 24(s1)\n" "addi s1, s1, 24\n" "jr t2\n"
/* t1: the address of the next argument. */
#define ASTHRA__R_ARGUMENT "ld t1, 0(t0)\n" "addi t0, t0, 8\n"

/* steps: a0; ret: a1; args: a2; stack bytes: a3, a multiple of 16; function: a4 */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_enter")
        "auipc zero, 0\n"               /* lpad 0 */
        "addi sp, sp, -32\n"
        ".cfi_def_cfa_offset 32\n"
        "sd ra, 24(sp)\n"               /* the return address, at -8 */
        ".cfi_offset ra, -8\n"
        "sd s0, 16(sp)\n"               /* the caller's s0, at -16 */
        ".cfi_offset s0, -16\n"
        "sd s1, 8(sp)\n"                /* the caller's s1, at -24 */
        ".cfi_offset s1, -24\n"
        "sd a1, 0(sp)\n"                /* ret, at -32 */
        "addi s0, sp, 32\n"
        ".cfi_def_cfa s0, 0\n"
        "mv s1, a0\n"                   /* s1: the first step */
        "mv t0, a2\n"                   /* t0: args */
        "mv t6, a4\n"                   /* t6: function */
        "lui t1, 1\n"
        "bgtu a3, t1, 2f\n"
        "1:\n"
        "sub sp, sp, a3\n"              /* room for copies and stack arguments */
        "mv t5, sp\n"                   /* t5: the first stack argument */
        "ld t2, 0(s1)\n"
        "jr t2\n"
        "2:\n"                          /* no page is stepped over: one of them is the guard */
        "sub sp, sp, t1\n"
        "sd zero, 0(sp)\n"
        "sub a3, a3, t1\n"
        "bgtu a3, t1, 2b\n"
        "j 1b\n"
        ASTHRA__FFI_END("asthra__ffi_enter"));

/* Into a0 to a7, eight slots of each kind: an s8, u8, s16, u16, 32 bits with their sign, 64 bits of
 * the next argument; the carry. 56 two words into two of them, from a0, a1 to a6, a7. 63 ret, into
 * a0. */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_general")
        ASTHRA__R_FRAME
        ".irp op, lb, lbu, lh, lhu, lw, ld\n"
        ".irp r, 0, 1, 2, 3, 4, 5, 6, 7\n"
        ASTHRA__R_SLOT
        ASTHRA__R_ARGUMENT
        "\\op a\\r, 0(t1)\n"
        ASTHRA__R_NEXT0
        ".endr\n"
        ".endr\n"
        ".irp r, 0, 1, 2, 3, 4, 5, 6, 7\n"
        ASTHRA__R_SLOT
        "mv a\\r, t3\n"                 /* the carry */
        ASTHRA__R_NEXT0
        ".endr\n"
        ".macro asthra__pair a, b\n"
        ASTHRA__R_SLOT
        ASTHRA__R_ARGUMENT
        "ld a\\a, 0(t1)\n"
        "ld a\\b, 8(t1)\n"
        ASTHRA__R_NEXT0
        ".endm\n"
        "asthra__pair 0, 1\n"
        "asthra__pair 1, 2\n"
        "asthra__pair 2, 3\n"
        "asthra__pair 3, 4\n"
        "asthra__pair 4, 5\n"
        "asthra__pair 5, 6\n"
        "asthra__pair 6, 7\n"
        ".purgem asthra__pair\n"
        ASTHRA__R_SLOT
        "ld a0, -32(s0)\n"              /* ret */
        ASTHRA__R_NEXT0
        ASTHRA__FFI_END("asthra__ffi_general"));

/* Into fa0 to fa7, eight slots of each kind: a float, a double, the next argument's; a float, a
 * double, so many bytes into the argument just read as the operand says. */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_float")
        ASTHRA__R_FRAME
        ".irp op, flw, fld\n"
        ".irp r, 0, 1, 2, 3, 4, 5, 6, 7\n"
        ASTHRA__R_SLOT
        ASTHRA__R_ARGUMENT
        "\\op fa\\r, 0(t1)\n"
        ASTHRA__R_NEXT0
        ".endr\n"
        ".endr\n"
        ".irp op, flw, fld\n"
        ".irp r, 0, 1, 2, 3, 4, 5, 6, 7\n"
        ASTHRA__R_SLOT
        "ld t4, 8(s1)\n"                /* the offset */
        "add t4, t4, t1\n"
        "\\op fa\\r, 0(t4)\n"
        ASTHRA__R_NEXT1
        ".endr\n"
        ".endr\n"
        ASTHRA__FFI_END("asthra__ffi_float"));

/* Into the carry, so many bytes into the argument just read as the operand says: 0 to 5 an s8, u8,
 * s16, u16, 32 bits, 64; 6 two of 32 bits; 7 as many bytes as the next operand says. 8: nothing,
 * the next argument is taken as just read. */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_carry")
        ASTHRA__R_FRAME
        ".irp op, lb, lbu, lh, lhu, lw, ld\n"
        ASTHRA__R_SLOT
        "ld t4, 8(s1)\n"                /* the offset */
        "add t4, t4, t1\n"
        "\\op t3, 0(t4)\n"
        ASTHRA__R_NEXT1
        ".endr\n"
        ASTHRA__R_SLOT
        "ld t4, 8(s1)\n"
        "add t4, t4, t1\n"
        "lwu t3, 0(t4)\n"
        "lw t4, 4(t4)\n"
        "j 1f\n"
        ASTHRA__R_SLOT
        "ld t4, 8(s1)\n"
        "ld t2, 16(s1)\n"               /* bytes */
        "add t4, t4, t1\n"              /* t4: the first */
        "add t2, t2, t4\n"              /* t2: behind the last that is not in the carry */
        "li t3, 0\n"
        "j 2f\n"
        ASTHRA__R_SLOT
        ASTHRA__R_ARGUMENT
        ASTHRA__R_NEXT0
        "1:\n"
        "slli t4, t4, 32\n"
        "or t3, t3, t4\n"
        ASTHRA__R_NEXT1
        "2:\n"
        "addi t2, t2, -1\n"
        "lbu t1, 0(t2)\n"
        "slli t3, t3, 8\n"
        "or t3, t3, t1\n"
        "bne t2, t4, 2b\n"
        "ld t1, -8(t0)\n"
        ASTHRA__R_NEXT2
        ASTHRA__FFI_END("asthra__ffi_carry"));

/* To the stack, the next argument: 0 to 5 an s8, u8, s16, u16, 32 bits, 64; 6 two words. 7: the
 * carry. 8: a word stays free. Into the carry, the address of a copy of the next argument, which
 * begins so many bytes below s0 as an operand says and has as many as the next: 9 by 8 bytes, 10 by
 * 4, 11 by 1; 12 by 8, with a mask for the address as the first operand. */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_to_stack")
        ASTHRA__R_FRAME
        ".irp op, lb, lbu, lh, lhu, lw, ld\n"
        ASTHRA__R_SLOT
        ASTHRA__R_ARGUMENT
        "\\op t4, 0(t1)\n"
        "sd t4, 0(t5)\n"
        "addi t5, t5, 8\n"
        ASTHRA__R_NEXT0
        ".endr\n"
        ASTHRA__R_SLOT
        ASTHRA__R_ARGUMENT
        "ld t4, 0(t1)\n"
        "sd t4, 0(t5)\n"
        "j 1f\n"
        ASTHRA__R_SLOT
        "sd t3, 0(t5)\n"
        "addi t5, t5, 8\n"
        ASTHRA__R_NEXT0
        ASTHRA__R_SLOT
        "addi t5, t5, 8\n"
        ASTHRA__R_NEXT0
        ".irp unit, 8, 4, 1\n"
        ASTHRA__R_SLOT
        ASTHRA__R_ARGUMENT
        "ld t3, 8(s1)\n"                /* how far below */
        "ld t4, 16(s1)\n"               /* bytes */
        "sub t3, s0, t3\n"
        "j 2\\unit\\()f\n"
        ".endr\n"
        ASTHRA__R_SLOT
        ASTHRA__R_ARGUMENT
        "addi s1, s1, 8\n"
        "ld t2, 0(s1)\n"                /* the mask */
        "ld t3, 8(s1)\n"
        "ld t4, 16(s1)\n"
        "sub t3, s0, t3\n"
        "j 20f\n"
        "1:\n"
        "ld t4, 8(t1)\n"
        "sd t4, 8(t5)\n"
        "addi t5, t5, 16\n"
        ASTHRA__R_NEXT0
        "20:\n"
        "and t3, t3, t2\n"
        ".macro asthra__copy unit, load, store\n"
        "2\\unit:\n"
        "\\load t2, 0(t1)\n"
        "\\store t2, 0(t3)\n"
        "addi t1, t1, \\unit\n"
        "addi t3, t3, \\unit\n"
        "addi t4, t4, -\\unit\n"
        "bnez t4, 2\\unit\\()b\n"
        "j 3f\n"
        ".endm\n"
        "asthra__copy 8, ld, sd\n"
        "asthra__copy 4, lw, sw\n"
        "asthra__copy 1, lbu, sb\n"
        ".purgem asthra__copy\n"
        "3:\n"
        "ld t4, 16(s1)\n"               /* back to its first byte */
        "sub t3, t3, t4\n"
        ASTHRA__R_NEXT2
        ASTHRA__FFI_END("asthra__ffi_to_stack"));

/* The call and what is done with its result: 0 nothing; 1 to 4 store 1, 2, 4, 8 bytes of a0; 5, 6 a
 * float, a double; 7 a0 and a1; 8, 9 two floats, two doubles; 10, 11 as many bytes of a0 and a1 as
 * the operand says, by 4 and by 1. 12 just calls; and then, at the offset that the operand says, 13
 * to 16 store 1, 2, 4, 8 bytes of a0; 17, 18 a float of fa0, of fa1; 19, 20 a double. 21 ends. */
#define ASTHRA__R_CALL              \
    ASTHRA__R_SLOT                  \
    "mv t2, t6\n"                   \
    "jalr t2\n" /* function(...) */
#define ASTHRA__R_RET "ld t0, -32(s0)\n"
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_result")
        ASTHRA__R_FRAME
        ASTHRA__R_CALL
        "j 6f\n"
        ".macro asthra__store op, r\n"
        ASTHRA__R_CALL
        ASTHRA__R_RET
        "\\op \\r, 0(t0)\n"
        "j 6f\n"
        ".endm\n"
        "asthra__store sb, a0\n"
        "asthra__store sh, a0\n"
        "asthra__store sw, a0\n"
        "asthra__store sd, a0\n"
        "asthra__store fsw, fa0\n"
        "asthra__store fsd, fa0\n"
        ".purgem asthra__store\n"
        ".macro asthra__two op, r, second\n"
        ASTHRA__R_CALL
        ASTHRA__R_RET
        "\\op \\r\\()0, 0(t0)\n"
        "\\op \\r\\()1, \\second(t0)\n"
        "j 6f\n"
        ".endm\n"
        "asthra__two sd, a, 8\n"
        "asthra__two fsw, fa, 4\n"
        "asthra__two fsd, fa, 8\n"
        ".purgem asthra__two\n"
        ASTHRA__R_CALL
        ASTHRA__R_RET
        "ld t4, 8(s1)\n"                /* bytes */
        "j 4f\n"
        ASTHRA__R_CALL
        ASTHRA__R_RET
        "ld t4, 8(s1)\n"
        "j 5f\n"
        ASTHRA__R_CALL
        ASTHRA__R_NEXT0
        ".macro asthra__part op, r\n"
        ASTHRA__R_SLOT
        ASTHRA__R_RET
        "ld t4, 8(s1)\n"                /* the offset */
        "add t0, t0, t4\n"
        "\\op \\r, 0(t0)\n"
        ASTHRA__R_NEXT1
        ".endm\n"
        "asthra__part sb, a0\n"
        "asthra__part sh, a0\n"
        "asthra__part sw, a0\n"
        "asthra__part sd, a0\n"
        "asthra__part fsw, fa0\n"
        "asthra__part fsw, fa1\n"
        "asthra__part fsd, fa0\n"
        "asthra__part fsd, fa1\n"
        ".purgem asthra__part\n"
        ASTHRA__R_SLOT
        "j 6f\n"
        ".macro asthra__units bytes, op\n"
        "\\op a0, 0(t0)\n"              /* and what is in a0 and a1 moves down */
        "srli a0, a0, 8 * \\bytes\n"
        "slli t1, a1, 64 - 8 * \\bytes\n"
        "or a0, a0, t1\n"
        "srli a1, a1, 8 * \\bytes\n"
        "addi t0, t0, \\bytes\n"
        "addi t4, t4, -\\bytes\n"
        ".endm\n"
        "4:\n"
        "asthra__units 4, sw\n"
        "bnez t4, 4b\n"
        "j 6f\n"
        "5:\n"
        "asthra__units 1, sb\n"
        "bnez t4, 5b\n"
        ".purgem asthra__units\n"
        "6:\n"
        "ld ra, -8(s0)\n"
        ".cfi_restore ra\n"
        "ld s1, -24(s0)\n"
        ".cfi_restore s1\n"
        "mv t0, s0\n"
        ".cfi_def_cfa_register t0\n"
        "ld s0, -16(s0)\n"
        ".cfi_restore s0\n"
        "mv sp, t0\n"
        ".cfi_def_cfa_register sp\n"
        "ret\n"
        ASTHRA__FFI_END("asthra__ffi_result"));

/* Where unwinders find the personality of asthra__ffi_guard; C writes it. */
__asm__(ASTHRA__FFI_WORD("asthra__ffi_personality"));

/* run: a0; record: a1. While run runs s1 is the record, as asthra__ffi_personality knows. */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_guard")
        ".cfi_personality 0x9b, asthra__ffi_personality\n"
        "auipc zero, 0\n"               /* lpad 0 */
        "addi sp, sp, -32\n"
        ".cfi_def_cfa_offset 32\n"
        "sd ra, 24(sp)\n"               /* the return address, at -8 */
        ".cfi_offset ra, -8\n"
        "sd s0, 16(sp)\n"               /* the caller's s0, at -16 */
        ".cfi_offset s0, -16\n"
        "sd s1, 8(sp)\n"                /* the caller's s1, at -24 */
        ".cfi_offset s1, -24\n"
        "addi s0, sp, 32\n"
        "mv s1, a1\n"
        "mv t2, a0\n"
        "mv a0, a1\n"
        "jalr t2\n"                     /* run(record) */
        "ld ra, 24(sp)\n"
        ".cfi_restore ra\n"
        "ld s0, 16(sp)\n"
        ".cfi_restore s0\n"
        "ld s1, 8(sp)\n"
        ".cfi_restore s1\n"
        "addi sp, sp, 32\n"
        ".cfi_def_cfa_offset 0\n"
        "ret\n"
        ASTHRA__FFI_END("asthra__ffi_guard"));
/* clang-format on */

#endif
