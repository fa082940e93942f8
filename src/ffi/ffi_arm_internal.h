/* ffi_arm - what the files of 32-bit ARM share: frames, how assembly is written.  [ffi] internal */
#ifndef ASTHRA__FFI_ARM_INTERNAL_H
#define ASTHRA__FFI_ARM_INTERNAL_H

#include "ffi_internal.h"

#if ASTHRA_HAS_FFI && ASTHRA__CPU_ARM

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "ffi knows little-endian ARM alone: define ASTHRA_RT_NO_FFI and ASTHRA_RT_NO_CLOSURE"
#endif

/* The frame that the entries of closures make: vector registers, results, the caller's r7, a return
 * address, r0 to r3, the stack. */
enum {
    ASTHRA__ARM_FRAME_VECTORS = 0,
    ASTHRA__ARM_FRAME_RESULT = 64,
    ASTHRA__ARM_FRAME_GENERAL = 136,
    ASTHRA__ARM_FRAME_STACK = ASTHRA__ARM_FRAME_GENERAL + 16
};
/* result_how */
enum {
    ASTHRA__ARM_REGISTERS,
    ASTHRA__ARM_ALIGNED, /* there, and to more than 8 bytes */
    ASTHRA__ARM_MEMORY   /* the caller said where */
};

/* Assembly is ARM or Thumb code as what is compiled around it. */
#if defined(__thumb__)
#define ASTHRA__ARM_STATE ".thumb\n"
#define ASTHRA__ARM_FUNC ".thumb_func\n"
#define ASTHRA__ARM_AHEAD "4" /* of an instruction: what it reads as pc */
#else
#define ASTHRA__ARM_STATE ".arm\n"
#define ASTHRA__ARM_FUNC
#define ASTHRA__ARM_AHEAD "8"
#endif
/* clang-format off */
/* A routine, in a section of its own. */
#define ASTHRA__ARM_BEGIN(name)                      \
    ".pushsection .text." name ",\"ax\",%progbits\n" \
    ".syntax unified\n"                              \
    ASTHRA__ARM_STATE                                \
    ".cfi_sections .debug_frame\n"                   \
    ".p2align 5\n"                                   \
    ".globl " name "\n"                              \
    ".hidden " name "\n"                             \
    ".type " name ", %function\n"                    \
    ASTHRA__ARM_FUNC                                 \
    name ":\n"                                       \
    ".fnstart\n"                                     \
    ".cfi_startproc\n"
#define ASTHRA__ARM_END(name)      \
    ".cfi_endproc\n"               \
    ".fnend\n"                     \
    ".size " name ", .-" name "\n" \
    ".popsection\n"
/* clang-format on */

#endif
#endif
