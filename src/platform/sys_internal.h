/* sys - which system and processor this is, as values.                     [sys] internal */
#ifndef ASTHRA__SYS_INTERNAL_H
#define ASTHRA__SYS_INTERNAL_H

#include "compiler_internal.h"

#if ASTHRA_HAS_CORE

/* Linux and its own calls; or POSIX alone, which is every other system too. A system with calls of
 * its own to use is a set of files platform/os_<system>*.c and a line here. */
#define ASTHRA__SYS_LINUX ASTHRA_HAS_LINUX
#define ASTHRA__SYS_POSIX (!ASTHRA_HAS_LINUX)
/* What lies where in memory is Linux's, whichever calls are made. */
#if defined(__linux__)
#define ASTHRA__SYS_LINUX_ABI 1
#else
#define ASTHRA__SYS_LINUX_ABI 0
#endif

#if ASTHRA__SYS_POSIX
#if defined(_WIN32) || defined(__APPLE__) /* the one has none of it, the other no setclock */
#error "asthra_rt needs Linux, or POSIX.1-2008 with pthread_condattr_setclock"
#endif
#include <sys/mman.h>
#include <time.h>
#if !defined(MAP_ANON) || !defined(CLOCK_MONOTONIC)
#error "asthra_rt needs mmap with MAP_ANON, and CLOCK_MONOTONIC"
#endif
#endif

#if defined(__x86_64__) && !defined(__ILP32__)
#define ASTHRA__CPU_X86_64 1
#else
#define ASTHRA__CPU_X86_64 0
#endif
#if defined(__aarch64__) && !defined(__ILP32__)
#define ASTHRA__CPU_AARCH64 1
#else
#define ASTHRA__CPU_AARCH64 0
#endif
#if defined(__riscv) && __riscv_xlen == 64 && defined(__riscv_float_abi_double)
#define ASTHRA__CPU_RISCV64 1
#else
#define ASTHRA__CPU_RISCV64 0
#endif
#if defined(__i386__)
#define ASTHRA__CPU_I386 1
#else
#define ASTHRA__CPU_I386 0
#endif
#if defined(__arm__) && defined(__ARM_PCS_VFP) && (!defined(__thumb__) || defined(__thumb2__))
#define ASTHRA__CPU_ARM 1
#else
#define ASTHRA__CPU_ARM 0
#endif
#if ASTHRA_HAS_ASM && ASTHRA_HAS_TASK &&                                                      \
    !(ASTHRA__CPU_X86_64 || ASTHRA__CPU_AARCH64 || ASTHRA__CPU_RISCV64 || ASTHRA__CPU_I386 || \
      ASTHRA__CPU_ARM)
#error "no hand-written context switch for this processor yet: define ASTHRA_RT_NO_ASM"
#endif

#endif
#endif
