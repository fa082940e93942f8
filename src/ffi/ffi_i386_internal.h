/* ffi_i386 - what the files of i386 share: frames, how assembly is written.      [ffi] internal */
#ifndef ASTHRA__FFI_I386_INTERNAL_H
#define ASTHRA__FFI_I386_INTERNAL_H

#include "ffi_internal.h"

#if ASTHRA_HAS_FFI && ASTHRA__CPU_I386

/* The frame that the entries of closures make: results, the caller's ebp, a return address, the
 * stack. */
enum { ASTHRA__I_FRAME_STACK = 24 };
/* result_how */
enum {
    ASTHRA__I_GENERAL,
    ASTHRA__I_FLOAT, /* and the next two: on the x87 stack */
    ASTHRA__I_DOUBLE,
    ASTHRA__I_LONG_DOUBLE,
    ASTHRA__I_MEMORY /* the caller said where */
};

/* clang-format off */
/* A routine, in a section of its own. */
/* clang-format on */
/* Landing pads where the compiler makes them: old processors do not know the instruction. */
#if defined(__CET__)
#define ASTHRA__I_PAD "endbr32\n"
#else
#define ASTHRA__I_PAD ""
#endif

#endif
#endif
