/* config - which parts are in the build.                                   [config] contract
 *
 * A user speaks in presence: ASTHRA_RT_NO_CHANNEL takes one part out of a full build;
 * ASTHRA_RT_ONLY with ASTHRA_RT_WITH_TASK puts one part into an empty build. Everything below this
 * file speaks in values: ASTHRA_HAS_CHANNEL is 0 or 1, so that -Wundef finds every misspelling.
 * What a part needs is one row at the end; nothing is ever switched off silently.
 */
#ifndef ASTHRA__CONFIG_H
#define ASTHRA__CONFIG_H

#define ASTHRA_RT_VERSION "0.1.0"
#define ASTHRA_RT_VERSION_NUMBER 100 /* major * 10000 + minor * 100 + patch */

/* Parts. */
#if defined(ASTHRA_RT_NO_TASK) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_TASK))
#define ASTHRA_HAS_TASK 0
#else
#define ASTHRA_HAS_TASK 1
#endif
#if defined(ASTHRA_RT_NO_CHANNEL) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_CHANNEL))
#define ASTHRA_HAS_CHANNEL 0
#else
#define ASTHRA_HAS_CHANNEL 1
#endif
#if defined(ASTHRA_RT_NO_SELECT) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_SELECT))
#define ASTHRA_HAS_SELECT 0
#else
#define ASTHRA_HAS_SELECT 1
#endif
#if defined(ASTHRA_RT_NO_MUTEX) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_MUTEX))
#define ASTHRA_HAS_MUTEX 0
#else
#define ASTHRA_HAS_MUTEX 1
#endif
#if defined(ASTHRA_RT_NO_SCOPE) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_SCOPE))
#define ASTHRA_HAS_SCOPE 0
#else
#define ASTHRA_HAS_SCOPE 1
#endif
#if defined(ASTHRA_RT_NO_FD) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_FD))
#define ASTHRA_HAS_FD 0
#else
#define ASTHRA_HAS_FD 1
#endif
#if defined(ASTHRA_RT_NO_EXTERNAL) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_EXTERNAL))
#define ASTHRA_HAS_EXTERNAL 0
#else
#define ASTHRA_HAS_EXTERNAL 1
#endif
/* ASTHRA_RT_NO_ASM takes these three out, because their calls are hand-written. */
#if defined(ASTHRA_RT_NO_FFI) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_FFI)) || \
    (defined(ASTHRA_RT_NO_ASM) && !defined(ASTHRA_RT_WITH_FFI))
#define ASTHRA_HAS_FFI 0
#else
#define ASTHRA_HAS_FFI 1
#endif
#if defined(ASTHRA_RT_NO_CLOSURE) ||                                 \
    (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_CLOSURE)) || \
    (defined(ASTHRA_RT_NO_ASM) && !defined(ASTHRA_RT_WITH_CLOSURE))
#define ASTHRA_HAS_CLOSURE 0
#else
#define ASTHRA_HAS_CLOSURE 1
#endif
#if defined(ASTHRA_RT_NO_MARSHAL) ||                                 \
    (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_MARSHAL)) || \
    (defined(ASTHRA_RT_NO_ASM) && !defined(ASTHRA_RT_WITH_MARSHAL))
#define ASTHRA_HAS_MARSHAL 0
#else
#define ASTHRA_HAS_MARSHAL 1
#endif
#if defined(ASTHRA_RT_NO_LIBRARY) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_LIBRARY))
#define ASTHRA_HAS_LIBRARY 0
#else
#define ASTHRA_HAS_LIBRARY 1
#endif
#if defined(ASTHRA_RT_NO_TYPE) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_TYPE))
#define ASTHRA_HAS_TYPE 0
#else
#define ASTHRA_HAS_TYPE 1
#endif
#if defined(ASTHRA_RT_NO_MANUAL) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_MANUAL))
#define ASTHRA_HAS_MANUAL 0
#else
#define ASTHRA_HAS_MANUAL 1
#endif
#if defined(ASTHRA_RT_NO_PINNED) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_PINNED))
#define ASTHRA_HAS_PINNED 0
#else
#define ASTHRA_HAS_PINNED 1
#endif
#if defined(ASTHRA_RT_NO_STACK) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_STACK))
#define ASTHRA_HAS_STACK 0
#else
#define ASTHRA_HAS_STACK 1
#endif
#if defined(ASTHRA_RT_NO_ARENA) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_ARENA))
#define ASTHRA_HAS_ARENA 0
#else
#define ASTHRA_HAS_ARENA 1
#endif
#if defined(ASTHRA_RT_NO_POOL) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_POOL))
#define ASTHRA_HAS_POOL 0
#else
#define ASTHRA_HAS_POOL 1
#endif
#if defined(ASTHRA_RT_NO_MODULE) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_MODULE))
#define ASTHRA_HAS_MODULE 0
#else
#define ASTHRA_HAS_MODULE 1
#endif
#if defined(ASTHRA_RT_NO_GDB) || (defined(ASTHRA_RT_ONLY) && !defined(ASTHRA_RT_WITH_GDB))
#define ASTHRA_HAS_GDB 0
#else
#define ASTHRA_HAS_GDB 1
#endif

/* Traits: how the parts are built. */
#ifdef ASTHRA_RT_NO_THREADS
#define ASTHRA_HAS_THREADS 0
#else
#define ASTHRA_HAS_THREADS 1
#endif
#ifdef ASTHRA_RT_NO_ASM
#define ASTHRA_HAS_ASM 0
#else
#define ASTHRA_HAS_ASM 1
#endif
#ifdef ASTHRA_RT_NO_STDIO
#define ASTHRA_HAS_STDIO 0
#else
#define ASTHRA_HAS_STDIO 1
#endif
#ifdef ASTHRA_RT_NO_CALLER
#define ASTHRA_HAS_CALLER 0
#else
#define ASTHRA_HAS_CALLER 1
#endif
#ifdef ASTHRA_RT_NO_AUTO_INIT
#define ASTHRA_HAS_AUTO_INIT 0
#else
#define ASTHRA_HAS_AUTO_INIT 1
#endif
#if defined(ASTHRA_RT_POSIX) || !defined(__linux__)
#define ASTHRA_HAS_LINUX 0 /* its calls and files */
#else
#define ASTHRA_HAS_LINUX 1
#endif
#ifdef ASTHRA_RT_LOCK_PINS
#define ASTHRA_HAS_LOCKED_PINS 1
#else
#define ASTHRA_HAS_LOCKED_PINS 0
#endif

/* Parts that follow from others; nobody names them. Reports of the scheduler count in tables. */
#define ASTHRA_HAS_TABLE ASTHRA_HAS_TASK
/* Macros: what is not used leaves nothing. */
#define ASTHRA_HAS_TYPED ASTHRA_HAS_TASK
/* The blocks of all zones come from one heap, and its users come in by one door. */
#define ASTHRA_HAS_MEMORY (ASTHRA_HAS_MANUAL || ASTHRA_HAS_PINNED || ASTHRA_HAS_STACK)

/* Results, panics, threads, the system: below all parts but arenas, which alone want nothing but a
 * compiler. The list names every other part. */
#if defined(ASTHRA_RT_ONLY) && ASTHRA_HAS_ARENA &&                                         \
    !(ASTHRA_HAS_TASK || ASTHRA_HAS_CHANNEL || ASTHRA_HAS_SELECT || ASTHRA_HAS_MUTEX ||    \
      ASTHRA_HAS_SCOPE || ASTHRA_HAS_FD || ASTHRA_HAS_TYPE || ASTHRA_HAS_MANUAL ||         \
      ASTHRA_HAS_PINNED || ASTHRA_HAS_STACK || ASTHRA_HAS_POOL || ASTHRA_HAS_MODULE ||     \
      ASTHRA_HAS_EXTERNAL || ASTHRA_HAS_FFI || ASTHRA_HAS_CLOSURE || ASTHRA_HAS_MARSHAL || \
      ASTHRA_HAS_LIBRARY || ASTHRA_HAS_GDB)
#define ASTHRA_HAS_CORE 0
#else
#define ASTHRA_HAS_CORE 1
#endif

/* Needs, a row each. */
#if ASTHRA_HAS_CHANNEL && !ASTHRA_HAS_TASK
#error "channel needs task: add ASTHRA_RT_WITH_TASK, or take channel out with ASTHRA_RT_NO_CHANNEL"
#endif
#if ASTHRA_HAS_SELECT && !ASTHRA_HAS_CHANNEL
#error "select needs channel: add ASTHRA_RT_WITH_CHANNEL, or define ASTHRA_RT_NO_SELECT"
#endif
#if ASTHRA_HAS_MUTEX && !ASTHRA_HAS_TASK
#error "mutex needs task: add ASTHRA_RT_WITH_TASK, or take mutex out with ASTHRA_RT_NO_MUTEX"
#endif
#if ASTHRA_HAS_SCOPE && !ASTHRA_HAS_TASK
#error "scope needs task: add ASTHRA_RT_WITH_TASK, or take scope out with ASTHRA_RT_NO_SCOPE"
#endif
#if ASTHRA_HAS_FD && !ASTHRA_HAS_TASK
#error "fd needs task: add ASTHRA_RT_WITH_TASK, or take fd out with ASTHRA_RT_NO_FD"
#endif
#if ASTHRA_HAS_EXTERNAL && !ASTHRA_HAS_TASK
#error "external needs task: add ASTHRA_RT_WITH_TASK, or define ASTHRA_RT_NO_EXTERNAL"
#endif
#if ASTHRA_HAS_FFI && !ASTHRA_HAS_TYPE
#error "ffi needs type: add ASTHRA_RT_WITH_TYPE, or take ffi out with ASTHRA_RT_NO_FFI"
#endif
#if ASTHRA_HAS_CLOSURE && !ASTHRA_HAS_FFI
#error "closure needs ffi: add ASTHRA_RT_WITH_FFI, or define ASTHRA_RT_NO_CLOSURE"
#endif
#if ASTHRA_HAS_MARSHAL && !ASTHRA_HAS_FFI
#error "marshal needs ffi: add ASTHRA_RT_WITH_FFI, or define ASTHRA_RT_NO_MARSHAL"
#endif
#if ASTHRA_HAS_FFI && defined(ASTHRA_RT_NO_ASM)
#error "ffi needs hand-written calls: take ASTHRA_RT_NO_ASM back, or ASTHRA_RT_WITH_FFI"
#endif
#if defined(ASTHRA_RT_LOCK_PINS) && !ASTHRA_HAS_PINNED
#error "ASTHRA_RT_LOCK_PINS needs pinned: add ASTHRA_RT_WITH_PINNED, or take LOCK_PINS back"
#endif
#if defined(ASTHRA_RT_STATIC) && !defined(ASTHRA_RT_IMPLEMENTATION)
#error "ASTHRA_RT_STATIC needs ASTHRA_RT_IMPLEMENTATION at the first include of asthra_rt.h"
#endif
#if defined(ASTHRA_RT_IMPLEMENTATION) && defined(__cplusplus)
#error "the body of asthra_rt.h is C11: define ASTHRA_RT_IMPLEMENTATION in a .c file"
#endif

#endif
