/* compiler - the words that every contract is written in.                  [compiler] contract
 *
 * Attributes, call-site capture and the linkage word of public functions. Compilers other than
 * gcc and clang get the plain form of each.
 */
#ifndef ASTHRA__COMPILER_H
#define ASTHRA__COMPILER_H

#include "config.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) || defined(__clang__)
#define ASTHRA_PRINTF(f, a) __attribute__((__format__(__printf__, f, a)))
#define ASTHRA_NORETURN __attribute__((__noreturn__))
#define ASTHRA_UNUSED __attribute__((__unused__))
#define ASTHRA_MUST_USE __attribute__((__warn_unused_result__))
#define ASTHRA__CLEANUP(f) __attribute__((__cleanup__(f), __unused__))
#define ASTHRA__ALIGNOF(T) __alignof__(T)
#else
#define ASTHRA_PRINTF(f, a)
#define ASTHRA_NORETURN
#define ASTHRA_UNUSED
#define ASTHRA_MUST_USE
#define ASTHRA__CLEANUP(f)
#define ASTHRA__ALIGNOF(T) 0
#endif

/* Linkage of a public function: extern, or static where one file holds everything. A host that
 * builds a shared library may define its own, for instance with a visibility attribute. */
#ifndef ASTHRA_RT_API
#ifdef ASTHRA_RT_STATIC
#define ASTHRA_RT_API ASTHRA_UNUSED static
#else
#define ASTHRA_RT_API extern
#endif
#endif

/* Linkage of the word that the inline safepoint reads, in its contract and in its body. */
#ifdef ASTHRA_RT_STATIC
#define ASTHRA__WORD ASTHRA_UNUSED static
#define ASTHRA__WORD_BODY static
#else
#define ASTHRA__WORD extern
#define ASTHRA__WORD_BODY
#endif

#define ASTHRA__INLINE ASTHRA_UNUSED static inline
#define ASTHRA__CONST ASTHRA_UNUSED static const
#define ASTHRA__STR2(x) #x
#define ASTHRA__STR(x) ASTHRA__STR2(x)
#define ASTHRA__CAT2(a, b) a##b
#define ASTHRA__CAT(a, b) ASTHRA__CAT2(a, b)

/* ASTHRA_HERE is "file:line" of the place that writes it, as #line says it. */
#if ASTHRA_HAS_CALLER
#define ASTHRA_HERE __FILE__ ":" ASTHRA__STR(__LINE__)
#define ASTHRA__AT(what) what " at " ASTHRA_HERE
#else
#define ASTHRA_HERE ((const char *)0)
#define ASTHRA__AT(what) what
#endif

/* A function as a data pointer, and back. */
#define ASTHRA_FN(f) ((void *)(uintptr_t)(f))
#define ASTHRA_FN_AS(type, pointer) ((type)(uintptr_t)(pointer))

#endif
