/* ffi_riscv64 - what the files of RISC-V 64 share: frames, slots of steps.        [ffi] internal
 *
 * While steps run:
 *     s1   the word of this step                  s0   frame, below
 *     t0   the next argument's address in args    t1   address of the argument just read
 *     t3   the carry, from one step to the next   t2, t4   scratch
 *     t5   where the next stack argument goes     t6   function
 *     a0-a7, fa0-fa7                              what is already loaded
 *
 * Frame of a call, offsets from s0, which is the stack pointer at entry:
 *     -8   return address
 *    -16   the caller's s0
 *    -24   the caller's s1
 *    -32   ret
 *          copies of what is passed by address, downwards
 *          stack arguments, from sp on
 */
#ifndef ASTHRA__FFI_RISCV64_INTERNAL_H
#define ASTHRA__FFI_RISCV64_INTERNAL_H

#include "ffi_internal.h"

#if ASTHRA_HAS_FFI && ASTHRA__CPU_RISCV64

enum { ASTHRA__R_KEPT = 32 }; /* bytes of a call's frame above the copies */

/* What the entries of closures make: fa0 to fa7, a result, the caller's frame pointer, the return
 * address, a0 to a7, the stack: an argument can lie across the border. */
enum {
    ASTHRA__R_FRAME_FLOATS = 0,
    ASTHRA__R_FRAME_RESULT = 64,
    ASTHRA__R_FRAME_RESULT_BYTES = 128,
    ASTHRA__R_FRAME_GENERAL = 208,
    ASTHRA__R_FRAME_STACK = 272
};

/* result_how; else the kinds of the two scalars that it is in registers, the second times 16. */
enum { ASTHRA__R_WORDS = 0, ASTHRA__R_MEMORY = 15 /* a0 said where */ };

static inline bool asthra__r_is_float(AsthraFFIKind kind) {
    return kind == ASTHRA_FFI_F32 || kind == ASTHRA_FFI_F64;
}

/* Steps, in slots of 32 bytes: by their numbers, as comments in ffi_riscv64_steps.c tell them. */
ASTHRA__FFI_CODE void asthra__ffi_general(void) __asm__("asthra__ffi_general");
ASTHRA__FFI_CODE void asthra__ffi_float(void) __asm__("asthra__ffi_float");
ASTHRA__FFI_CODE void asthra__ffi_carry(void) __asm__("asthra__ffi_carry");
ASTHRA__FFI_CODE void asthra__ffi_to_stack(void) __asm__("asthra__ffi_to_stack");
ASTHRA__FFI_CODE void asthra__ffi_result(void) __asm__("asthra__ffi_result");

enum {
    ASTHRA__R_32 = 4,
    ASTHRA__R_64 = 5,
    ASTHRA__R_MOVE = 6, /* of the carry, into a0 to a7 */
    ASTHRA__R_PAIR = 56,
    ASTHRA__R_HIDDEN = 63,
    ASTHRA__R_LATER = 16, /* floats inside the argument just read */
    ASTHRA__R_HALVES = 6,
    ASTHRA__R_BYTES = 7,
    ASTHRA__R_TAKE = 8,
    ASTHRA__R_PUSH_PAIR = 6,
    ASTHRA__R_PUSH_CARRY = 7,
    ASTHRA__R_PUSH_NOTHING = 8,
    ASTHRA__R_COPY = 9,
    ASTHRA__R_COPY_ALIGNED = 12,
    ASTHRA__R_STORE_FLOAT = 5,
    ASTHRA__R_STORE_PAIR = 7,
    ASTHRA__R_STORE_FLOATS = 8,
    ASTHRA__R_STORE_UNITS = 10,
    ASTHRA__R_JUST_CALL = 12,
    ASTHRA__R_PART = 13,
    ASTHRA__R_PART_FLOAT = 17,
    ASTHRA__R_LEAVE = 21
};

#endif
#endif
