/* ffi_x86_64 - steps and frames of x86-64.                                          [ffi] internal
 *
 * While steps run:
 *     rbx   the word of this step                 rbp   frame, below
 *     r10   the next argument's address in args   rax   address of the argument just read; scratch
 *     r11   the carry, from one step to the next  rsp   the first stack argument
 *     rdi rsi rdx rcx r8 r9 xmm0-7                what is already loaded; xmm8 and above are free
 *
 * Frame, offsets from rbp:
 *      8   return address
 *      0   the caller's rbp
 *     -8   the caller's rbx
 *    -16   ret
 *    -24   function
 *          stack arguments, from rsp on
 */
#ifndef ASTHRA__FFI_X86_64_INTERNAL_H
#define ASTHRA__FFI_X86_64_INTERNAL_H

#include "ffi_internal.h"

#if ASTHRA_HAS_FFI && ASTHRA__CPU_X86_64

/* What its two ABIs share: steps, by their numbers in ffi_x86_64_steps.c, and the frame that the
 * entries of closures make: six general registers, eight vector registers of 8 bytes, two results
 * of 16 bytes, the caller's frame pointer, a return address, the stack. */
enum {
    ASTHRA__X_FIRST = 4, /* of the carry: the first byte of the next argument */
    ASTHRA__X_REST = 12, /* byte 8 of the argument at hand */
    ASTHRA__X_CARRY_TO_STACK = 2,
    ASTHRA__X_STACK_TO_CARRY = 6, /* its address */
    ASTHRA__X_FRAME_VECTORS = 48,
    ASTHRA__X_FRAME_GENERAL_RESULT = 112,
    ASTHRA__X_FRAME_VECTOR_RESULT = 128,
    ASTHRA__X_FRAME_BYTES = 160,
    ASTHRA__X_FRAME_STACK = ASTHRA__X_FRAME_BYTES + 16
};
/* result_how: in general and vector registers, a first and a second of each. */
enum {
    ASTHRA__X_II,
    ASTHRA__X_IV,
    ASTHRA__X_VI,
    ASTHRA__X_VV,
    ASTHRA__X_X87,
    ASTHRA__X_X87_PAIR,
    ASTHRA__X_MEMORY /* the caller said where */
};
/* Where runs go, by the first of two in asthra__x_runs. */
typedef enum Asthra__XWhere {
    ASTHRA__X_IN_GENERAL = 0,
    ASTHRA__X_IN_VECTORS = 2,
    ASTHRA__X_ON_THE_STACK = 4
} Asthra__XWhere;

static inline bool asthra__ffi_x_is_real(AsthraFFIKind kind) { /* of vector registers */
    return kind == ASTHRA_FFI_F32 || kind == ASTHRA_FFI_F64;
}

ASTHRA__FFI_CODE void asthra__ffi_run(void) __asm__("asthra__ffi_run");
ASTHRA__FFI_CODE void asthra__ffi_general(void) __asm__("asthra__ffi_general");
ASTHRA__FFI_CODE void asthra__ffi_vector(void) __asm__("asthra__ffi_vector");
ASTHRA__FFI_CODE void asthra__ffi_carry(void) __asm__("asthra__ffi_carry");
ASTHRA__FFI_CODE void asthra__ffi_to_stack(void) __asm__("asthra__ffi_to_stack");
ASTHRA__FFI_CODE void asthra__ffi_result(void) __asm__("asthra__ffi_result");

ASTHRA__FN void asthra__ffi_x_carry(Asthra__FFIBuilder *b, unsigned step);
ASTHRA__FN void asthra__ffi_x_general(Asthra__FFIBuilder *b, unsigned r); /* of the carry */
ASTHRA__FN void asthra__ffi_x_vector(Asthra__FFIBuilder *b, unsigned r);
ASTHRA__FN void asthra__ffi_x_stack(Asthra__FFIBuilder *b, unsigned step, size_t operand);
ASTHRA__FN void asthra__ffi_x_load_general(Asthra__FFIBuilder *b, unsigned r, size_t n);
ASTHRA__FN void asthra__ffi_x_load_vector(Asthra__FFIBuilder *b, unsigned r, size_t n);
ASTHRA__FN void asthra__ffi_x_load_stack(Asthra__FFIBuilder *b, AsthraFFIKind kind, size_t n,
                                         size_t offset);
ASTHRA__FN bool asthra__ffi_x_widen(Asthra__FFIBuilder *b, AsthraFFIKind kind);
ASTHRA__FN void asthra__ffi_x_hidden(Asthra__FFIBuilder *b, unsigned r);
ASTHRA__FN void asthra__ffi_x_call(Asthra__FFIBuilder *b, unsigned vectors);

ASTHRA__FN const char *asthra__ffi_win64_begin(Asthra__FFIBuilder *b, const AsthraFFIType *result,
                                               Asthra__FFIShape shape);
ASTHRA__FN const char *asthra__ffi_win64_add(Asthra__FFIBuilder *b, const AsthraFFIType *t,
                                             Asthra__FFIShape shape, Asthra__FFIPlace *place);
ASTHRA__FN void asthra__ffi_win64_end(Asthra__FFIBuilder *b);

#endif
#endif
