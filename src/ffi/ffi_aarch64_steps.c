/* ffi_aarch64_steps - machine code of calls for AArch64.                     [ffi] body: steps
 *
 * Steps stand in slots of 32 bytes, so that the address of one is the first's and a multiple. Each
 * begins with a landing pad: whoever guards the pages of the program guards these. Registers and
 * frame are drawn in ffi_aarch64_internal.h.
 */
#include "ffi_aarch64_internal.h"

#if ASTHRA_HAS_FFI && ASTHRA__CPU_AARCH64

/* clang-format off */
/* Inside the frame that asthra__ffi_enter has made. */
#define ASTHRA__A_FRAME       \
    ".cfi_def_cfa x29, 32\n"  \
    ".cfi_offset x29, -32\n"  \
    ".cfi_offset x30, -24\n"  \
    ".cfi_offset x19, -16\n"
/* A slot begins, with bti j. */
#define ASTHRA__A_SLOT ".p2align 5\n" "hint #36\n"
/* To the next step, behind so many operands. */
#define ASTHRA__A_NEXT0 "ldr x17, [x19, #8]!\n" "br x17\n"
#define ASTHRA__A_NEXT1 "ldr x17, [x19, #16]!\n" "br x17\n"
#define ASTHRA__A_NEXT2 "ldr x17, [x19, #24]!\n" "br x17\n"
/* x10: the address of the next argument. */
#define ASTHRA__A_ARGUMENT "ldr x10, [x9], #8\n"

/* steps: x0; ret: x1; args: x2; stack bytes: x3, a multiple of 16; function: x4 */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_enter")
        "hint #34\n"                    /* bti c */
        "stp x29, x30, [sp, #-32]!\n"   /* a frame record, at 0 */
        ".cfi_def_cfa_offset 32\n"
        ".cfi_offset x29, -32\n"
        ".cfi_offset x30, -24\n"
        "stp x19, x1, [sp, #16]\n"      /* the caller's x19, at 16; ret, at 24 */
        ".cfi_offset x19, -16\n"
        "mov x29, sp\n"
        ".cfi_def_cfa_register x29\n"
        "mov x19, x0\n"                 /* x19: the first step */
        "mov x9, x2\n"                  /* x9: args */
        "mov x15, x4\n"                 /* x15: function */
        "cmp x3, #4096\n"
        "b.hi 2f\n"
        "1:\n"
        "sub sp, sp, x3\n"              /* room for copies and stack arguments */
        "mov x14, sp\n"                 /* x14: the first stack argument */
        "ldr x17, [x19]\n"
        "br x17\n"
        "2:\n"                          /* no page is stepped over: one of them is the guard */
        "sub sp, sp, #4096\n"
        "str xzr, [sp]\n"
        "sub x3, x3, #4096\n"
        "cmp x3, #4096\n"
        "b.hi 2b\n"
        "b 1b\n"
        ASTHRA__FFI_END("asthra__ffi_enter"));

/* Into x0 to x7, eight slots of each kind: an s8, u8, s16, u16, four bytes, eight bytes of the next
 * argument; the carry. Into two of them, from x0, x1 to x6, x7: 56 sixteen bytes; 63 nine to
 * fifteen, where operands say at which byte the last eight begin, and how many bits of these belong
 * to the first register too. 70: ret, into x8. */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_general")
        ASTHRA__A_FRAME
        ".macro asthra__load op, x\n"
        ".irp r, 0, 1, 2, 3, 4, 5, 6, 7\n"
        ASTHRA__A_SLOT
        ASTHRA__A_ARGUMENT
        "\\op \\x\\r, [x10]\n"
        ASTHRA__A_NEXT0
        ".endr\n"
        ".endm\n"
        "asthra__load ldrsb, w\n"
        "asthra__load ldrb, w\n"
        "asthra__load ldrsh, w\n"
        "asthra__load ldrh, w\n"
        "asthra__load ldr, w\n"
        "asthra__load ldr, x\n"
        ".purgem asthra__load\n"
        ".irp r, 0, 1, 2, 3, 4, 5, 6, 7\n"
        ASTHRA__A_SLOT
        "mov x\\r, x11\n"               /* the carry */
        ASTHRA__A_NEXT0
        ".endr\n"
        ".macro asthra__pair a, b\n"
        ASTHRA__A_SLOT
        ASTHRA__A_ARGUMENT
        "ldp x\\a, x\\b, [x10]\n"
        ASTHRA__A_NEXT0
        ".endm\n"
        "asthra__pair 0, 1\n"
        "asthra__pair 1, 2\n"
        "asthra__pair 2, 3\n"
        "asthra__pair 3, 4\n"
        "asthra__pair 4, 5\n"
        "asthra__pair 5, 6\n"
        "asthra__pair 6, 7\n"
        ".purgem asthra__pair\n"
        ".macro asthra__piece a, b\n"
        ASTHRA__A_SLOT
        ASTHRA__A_ARGUMENT
        "ldp x12, x13, [x19, #8]\n"     /* where, bits */
        "ldr x\\a, [x10]\n"
        "ldr x\\b, [x10, x12]\n"
        "lsr x\\b, x\\b, x13\n"
        ASTHRA__A_NEXT2
        ".endm\n"
        "asthra__piece 0, 1\n"
        "asthra__piece 1, 2\n"
        "asthra__piece 2, 3\n"
        "asthra__piece 3, 4\n"
        "asthra__piece 4, 5\n"
        "asthra__piece 5, 6\n"
        "asthra__piece 6, 7\n"
        ".purgem asthra__piece\n"
        ASTHRA__A_SLOT
        "ldr x8, [x29, #24]\n"          /* ret */
        ASTHRA__A_NEXT0
        ASTHRA__FFI_END("asthra__ffi_general"));

/* Into v0 to v7: floats, then doubles, then quads, 26 slots each: one, from v0 to v7; two, from v0,
 * v1 to v6, v7; three; four. */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_vector")
        ASTHRA__A_FRAME
        ".macro asthra__two v, a, b\n"
        ASTHRA__A_SLOT
        ASTHRA__A_ARGUMENT
        "ldp \\v\\a, \\v\\b, [x10]\n"
        ASTHRA__A_NEXT0
        ".endm\n"
        ".macro asthra__three v, n, a, b, c\n"
        ASTHRA__A_SLOT
        ASTHRA__A_ARGUMENT
        "ldp \\v\\a, \\v\\b, [x10]\n"
        "ldr \\v\\c, [x10, #2 * \\n]\n"
        ASTHRA__A_NEXT0
        ".endm\n"
        ".macro asthra__four v, n, a, b, c, d\n"
        ASTHRA__A_SLOT
        ASTHRA__A_ARGUMENT
        "ldp \\v\\a, \\v\\b, [x10]\n"
        "ldp \\v\\c, \\v\\d, [x10, #2 * \\n]\n"
        ASTHRA__A_NEXT0
        ".endm\n"
        ".macro asthra__elements v, n\n" /* registers, and bytes of each */
        ".irp r, 0, 1, 2, 3, 4, 5, 6, 7\n"
        ASTHRA__A_SLOT
        ASTHRA__A_ARGUMENT
        "ldr \\v\\r, [x10]\n"
        ASTHRA__A_NEXT0
        ".endr\n"
        "asthra__two \\v, 0, 1\n"
        "asthra__two \\v, 1, 2\n"
        "asthra__two \\v, 2, 3\n"
        "asthra__two \\v, 3, 4\n"
        "asthra__two \\v, 4, 5\n"
        "asthra__two \\v, 5, 6\n"
        "asthra__two \\v, 6, 7\n"
        "asthra__three \\v, \\n, 0, 1, 2\n"
        "asthra__three \\v, \\n, 1, 2, 3\n"
        "asthra__three \\v, \\n, 2, 3, 4\n"
        "asthra__three \\v, \\n, 3, 4, 5\n"
        "asthra__three \\v, \\n, 4, 5, 6\n"
        "asthra__three \\v, \\n, 5, 6, 7\n"
        "asthra__four \\v, \\n, 0, 1, 2, 3\n"
        "asthra__four \\v, \\n, 1, 2, 3, 4\n"
        "asthra__four \\v, \\n, 2, 3, 4, 5\n"
        "asthra__four \\v, \\n, 3, 4, 5, 6\n"
        "asthra__four \\v, \\n, 4, 5, 6, 7\n"
        ".endm\n"
        "asthra__elements s, 4\n"
        "asthra__elements d, 8\n"
        "asthra__elements q, 16\n"
        ".purgem asthra__two\n"
        ".purgem asthra__three\n"
        ".purgem asthra__four\n"
        ".purgem asthra__elements\n"
        ASTHRA__FFI_END("asthra__ffi_vector"));

/* Into the carry, of the next argument: 0 to 3 its 3, 5, 6, 7 bytes, of which no other is read. The
 * address of a copy of it, whose first byte is so many below x29 as an operand says and which has
 * as many bytes as the next, and 16: 4. 5: with a mask for the address as the first operand. */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_carry")
        ASTHRA__A_FRAME
        ASTHRA__A_SLOT
        ASTHRA__A_ARGUMENT
        "ldrh w11, [x10]\n"
        "ldrb w12, [x10, #2]\n"
        "orr w11, w11, w12, lsl #16\n"
        ASTHRA__A_NEXT0
        ".irp more, 1, 2, 3\n"          /* two words that share bytes */
        ASTHRA__A_SLOT
        ASTHRA__A_ARGUMENT
        "ldr w11, [x10]\n"
        "ldur w12, [x10, #\\more]\n"
        "orr x11, x11, x12, lsl #8 * \\more\n"
        ASTHRA__A_NEXT0
        ".endr\n"
        ASTHRA__A_SLOT
        ASTHRA__A_ARGUMENT
        "ldp x12, x13, [x19, #8]\n"     /* how far below, bytes but for 16 */
        "sub x11, x29, x12\n"
        "b 1f\n"
        ASTHRA__A_SLOT
        ASTHRA__A_ARGUMENT
        "ldr x16, [x19, #8]!\n"         /* the mask */
        "ldp x12, x13, [x19, #8]\n"
        "sub x11, x29, x12\n"
        "and x11, x11, x16\n"
        "1:\n"
        "ldr q16, [x10, x13]\n"         /* from the end on */
        "str q16, [x11, x13]\n"
        "subs x13, x13, #16\n"
        "b.hi 1b\n"
        "ldr q16, [x10]\n"              /* the first sixteen, some of them again */
        "str q16, [x11]\n"
        ASTHRA__A_NEXT2
        ASTHRA__FFI_END("asthra__ffi_carry"));

/* To the stack, the next argument: 0 to 5 an s8, u8, s16, u16, four bytes, eight; 6 sixteen bytes;
 * 7 nine to fifteen, where the operand is eight less; 8 as many as the operand says, by eight. 9:
 * the carry. 10: eight bytes stay free. */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_to_stack")
        ASTHRA__A_FRAME
        ".macro asthra__push op, x\n"
        ASTHRA__A_SLOT
        ASTHRA__A_ARGUMENT
        "\\op \\x, [x10]\n"
        "str x12, [x14], #8\n"
        ASTHRA__A_NEXT0
        ".endm\n"
        "asthra__push ldrsb, w12\n"
        "asthra__push ldrb, w12\n"
        "asthra__push ldrsh, w12\n"
        "asthra__push ldrh, w12\n"
        "asthra__push ldr, w12\n"
        "asthra__push ldr, x12\n"
        ".purgem asthra__push\n"
        ASTHRA__A_SLOT
        ASTHRA__A_ARGUMENT
        "ldr q16, [x10]\n"
        "str q16, [x14], #16\n"
        ASTHRA__A_NEXT0
        ASTHRA__A_SLOT
        ASTHRA__A_ARGUMENT
        "b 1f\n"
        ASTHRA__A_SLOT
        ASTHRA__A_ARGUMENT
        "b 2f\n"
        ASTHRA__A_SLOT
        "str x11, [x14], #8\n"          /* the carry */
        ASTHRA__A_NEXT0
        ASTHRA__A_SLOT
        "add x14, x14, #8\n"
        ASTHRA__A_NEXT0
        "1:\n"                          /* the last eight, then the first */
        "ldr x12, [x19, #8]\n"
        "ldr x13, [x10, x12]\n"
        "str x13, [x14, x12]\n"
        "ldr x13, [x10]\n"
        "str x13, [x14], #16\n"
        ASTHRA__A_NEXT1
        "2:\n"
        "ldr x12, [x19, #8]\n"          /* x12: bytes */
        "3:\n"
        "ldr x13, [x10], #8\n"
        "str x13, [x14], #8\n"
        "subs x12, x12, #8\n"
        "b.hi 3b\n"
        ASTHRA__A_NEXT1
        ASTHRA__FFI_END("asthra__ffi_to_stack"));

/* The call and what is done with its result: 0 nothing; 1 to 4 store 1, 2, 4, 8 bytes of x0; 5 x0
 * and x1; 6 as many bytes of these as the operand says. From 7 on, one to four floats, doubles,
 * quads from v0. */
#define ASTHRA__A_CALL        \
    ASTHRA__A_SLOT            \
    "blr x15\n" /* function(...) */
#define ASTHRA__A_RET "ldr x9, [x29, #24]\n"
#define ASTHRA__A_LEAVE       \
    ".cfi_remember_state\n"   \
    "ldr x19, [x29, #16]\n"   \
    ".cfi_restore x19\n"      \
    "mov sp, x29\n"           \
    ".cfi_def_cfa_register sp\n" \
    "ldp x29, x30, [sp], #32\n" \
    ".cfi_def_cfa_offset 0\n" \
    ".cfi_restore x29\n"      \
    ".cfi_restore x30\n"      \
    "ret\n"                   \
    ".cfi_restore_state\n"
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_result")
        ASTHRA__A_FRAME
        ASTHRA__A_CALL
        ASTHRA__A_LEAVE
        ".macro asthra__store op, r\n"
        ASTHRA__A_CALL
        ASTHRA__A_RET
        "\\op \\r, [x9]\n"
        ASTHRA__A_LEAVE
        ".endm\n"
        ".macro asthra__two op, r, s\n"
        ASTHRA__A_CALL
        ASTHRA__A_RET
        "\\op \\r, \\s, [x9]\n"
        ASTHRA__A_LEAVE
        ".endm\n"
        "asthra__store strb, w0\n"
        "asthra__store strh, w0\n"
        "asthra__store str, w0\n"
        "asthra__store str, x0\n"
        "asthra__two stp, x0, x1\n"
        ASTHRA__A_CALL
        "b 1f\n"
        ".macro asthra__elements v, n\n" /* registers, and bytes of each */
        "asthra__store str, \\v\\()0\n"
        "asthra__two stp, \\v\\()0, \\v\\()1\n"
        ASTHRA__A_CALL
        ASTHRA__A_RET
        "stp \\v\\()0, \\v\\()1, [x9]\n"
        "str \\v\\()2, [x9, #2 * \\n]\n"
        "b 6f\n"
        ASTHRA__A_CALL
        ASTHRA__A_RET
        "stp \\v\\()0, \\v\\()1, [x9]\n"
        "stp \\v\\()2, \\v\\()3, [x9, #2 * \\n]\n"
        "b 6f\n"
        ".endm\n"
        "asthra__elements s, 4\n"
        "asthra__elements d, 8\n"
        "asthra__elements q, 16\n"
        ".purgem asthra__store\n"
        ".purgem asthra__two\n"
        ".purgem asthra__elements\n"
        "1:\n"
        ASTHRA__A_RET
        "ldr x10, [x19, #8]\n"          /* bytes, 3 to 15: what is left of them is in x0 */
        "tbz x10, #3, 2f\n"
        "str x0, [x9], #8\n"
        "mov x0, x1\n"
        "2:\n"
        "tbz x10, #2, 3f\n"
        "str w0, [x9], #4\n"
        "lsr x0, x0, #32\n"
        "3:\n"
        "tbz x10, #1, 4f\n"
        "strh w0, [x9], #2\n"
        "lsr x0, x0, #16\n"
        "4:\n"
        "tbz x10, #0, 6f\n"
        "strb w0, [x9]\n"
        "6:\n"
        ASTHRA__A_LEAVE
        ASTHRA__FFI_END("asthra__ffi_result"));

/* Where unwinders find the personality of asthra__ffi_guard; C writes it. */
__asm__(ASTHRA__FFI_WORD("asthra__ffi_personality"));

/* run: x0; record: x1. While run runs x19 is the record, as asthra__ffi_personality knows. */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_guard")
        ".cfi_personality 0x9b, asthra__ffi_personality\n"
        "hint #34\n"                    /* bti c */
        "stp x29, x30, [sp, #-32]!\n"   /* a frame record, at 0 */
        ".cfi_def_cfa_offset 32\n"
        ".cfi_offset x29, -32\n"
        ".cfi_offset x30, -24\n"
        "str x19, [sp, #16]\n"          /* the caller's x19, at 16 */
        ".cfi_offset x19, -16\n"
        "mov x29, sp\n"
        "mov x19, x1\n"
        "mov x9, x0\n"
        "mov x0, x1\n"
        "blr x9\n"                      /* run(record) */
        "ldr x19, [sp, #16]\n"
        ".cfi_restore x19\n"
        "ldp x29, x30, [sp], #32\n"
        ".cfi_def_cfa_offset 0\n"
        ".cfi_restore x29\n"
        ".cfi_restore x30\n"
        "ret\n"
        ASTHRA__FFI_END("asthra__ffi_guard"));
/* clang-format on */

#endif
