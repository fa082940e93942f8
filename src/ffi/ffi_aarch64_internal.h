/* ffi_aarch64 - what the files of AArch64 share: frames, slots of steps.          [ffi] internal
 *
 * While steps run:
 *     x19   the word of this step                  x29   frame, below
 *     x9    the next argument's address in args    x10   address of the argument just read
 *     x11   the carry, from one step to the next   x12, x13, x16, x17, v16   scratch
 *     x14   where the next stack argument goes     x15   function
 *     x0-x7, x8, v0-v7                             what is already loaded
 *
 * Frame of a call, offsets from x29:
 *     24   ret
 *     16   the caller's x19
 *      0   the caller's x29, return address
 *          copies of what is passed by address, downwards
 *          stack arguments, from sp on
 */
#ifndef ASTHRA__FFI_AARCH64_INTERNAL_H
#define ASTHRA__FFI_AARCH64_INTERNAL_H

#include "ffi_internal.h"

#if ASTHRA_HAS_FFI && ASTHRA__CPU_AARCH64

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "ffi knows little-endian AArch64 alone: define ASTHRA_RT_NO_FFI and ASTHRA_RT_NO_CLOSURE"
#endif

/* What the entries of closures make: x0 to x7, x8, v0 to v7 of 16 bytes each, a result, the frame
 * pointer and return address of the caller, the stack. */
enum {
    ASTHRA__A_FRAME_HIDDEN = 64,
    ASTHRA__A_FRAME_VECTORS = 80,
    ASTHRA__A_FRAME_RESULT = 208,
    ASTHRA__A_FRAME_STACK = 288
};

/* result_how; else the number of elements in vector registers, and their size times 8. */
enum { ASTHRA__A_GENERAL, ASTHRA__A_MEMORY /* x8 says where */ };

/* Steps, in slots of 32 bytes: by their numbers, as comments in ffi_aarch64_steps.c tell them. */
ASTHRA__FFI_CODE void asthra__ffi_general(void) __asm__("asthra__ffi_general");
ASTHRA__FFI_CODE void asthra__ffi_vector(void) __asm__("asthra__ffi_vector");
ASTHRA__FFI_CODE void asthra__ffi_carry(void) __asm__("asthra__ffi_carry");
ASTHRA__FFI_CODE void asthra__ffi_to_stack(void) __asm__("asthra__ffi_to_stack");
ASTHRA__FFI_CODE void asthra__ffi_result(void) __asm__("asthra__ffi_result");

enum {
    ASTHRA__A_WORD = 5, /* of kinds: eight bytes */
    ASTHRA__A_CARRY = 6,
    ASTHRA__A_PAIR = 56,
    ASTHRA__A_PIECE = 63,
    ASTHRA__A_HIDDEN = 70,
    ASTHRA__A_VECTORS = 26, /* of an element's size */
    ASTHRA__A_COPY = 4,
    ASTHRA__A_COPY_ALIGNED = 5,
    ASTHRA__A_PUSH_PAIR = 6,
    ASTHRA__A_PUSH_PIECE = 7,
    ASTHRA__A_PUSH_WORDS = 8,
    ASTHRA__A_PUSH_CARRY = 9,
    ASTHRA__A_PUSH_NOTHING = 10,
    ASTHRA__A_STORE_PAIR = 5,
    ASTHRA__A_STORE_PIECE = 6,
    ASTHRA__A_STORE_VECTORS = 7
};

#endif
#endif
