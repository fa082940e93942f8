/* compiler - attributes, atomics and sanitizer facts for the bodies.       [compiler] internal
 *
 * Atomics are C11's with the order written at each use: asthra__load(&x, acquire). With
 * ASTHRA_RT_NO_THREADS the same words are plain accesses, so that no build needs an atomic that
 * its machine does not have. So they are without the core, where nothing is shared.
 */
#ifndef ASTHRA__COMPILER_INTERNAL_H
#define ASTHRA__COMPILER_INTERNAL_H

#include "compiler.h"

#if !(defined(__GNUC__) || defined(__clang__))
#error "the body of asthra_rt.h needs gcc or clang (GNU asm, attributes, __has_include)"
#endif

/* Linkage of a function that upper floors call: static in the book, hidden in the workshop. */
#ifdef ASTHRA__WORKSHOP
#define ASTHRA__FN __attribute__((__visibility__("hidden"))) extern
#else
#define ASTHRA__FN ASTHRA_UNUSED static
#endif

#define ASTHRA__LIKELY(x) __builtin_expect(!!(x), 1)
#define ASTHRA__UNLIKELY(x) __builtin_expect(!!(x), 0)
#define ASTHRA__NOINLINE __attribute__((__noinline__))
#define ASTHRA__COLD __attribute__((__cold__, __noinline__))
/* Everything that a short hot function calls becomes part of it, but for what says noinline. That
 * doubles the code, so not where size is what counts. */
#ifdef __OPTIMIZE_SIZE__
#define ASTHRA__FLATTEN
#else
#define ASTHRA__FLATTEN __attribute__((__flatten__))
#endif
/* A few instructions on every hot path: part of its callers in the book. */
#if defined(__OPTIMIZE__) && !defined(__OPTIMIZE_SIZE__) && !defined(ASTHRA__WORKSHOP)
#define ASTHRA__FAST inline __attribute__((__always_inline__))
#else
#define ASTHRA__FAST
#endif
#define ASTHRA__ALIGNED(n) __attribute__((__aligned__(n)))
#define ASTHRA__CONTAINER(T, member, pointer) ((T *)(void *)((char *)(pointer)-offsetof(T, member)))
#define ASTHRA__CONTAINER_CONST(T, member, pointer) \
    ((const T *)(const void *)((const char *)(pointer)-offsetof(T, member)))

/* Two lines: the prefetcher of x86 fetches them in pairs. */
enum { ASTHRA__CACHE_LINE = 64, ASTHRA__CACHE_PAIR = 128 };
enum { ASTHRA__MAX_ALIGN = _Alignof(max_align_t) }; /* of what malloc gives */

#if defined(__SANITIZE_ADDRESS__)
#define ASTHRA__ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ASTHRA__ASAN 1
#endif
#endif
#ifndef ASTHRA__ASAN
#define ASTHRA__ASAN 0
#endif
/* Of functions that touch what AddressSanitizer was told to be nobody's. GCC may move the loads of
 * one that is only not to be inlined into callers that are checked. */
#if defined(__clang__)
#define ASTHRA__ASAN_BLIND __attribute__((__noinline__, __no_sanitize__("address")))
#else
#define ASTHRA__ASAN_BLIND __attribute__((__noipa__, __no_sanitize__("address")))
#endif
#if defined(__SANITIZE_THREAD__)
#define ASTHRA__TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ASTHRA__TSAN 1
#endif
#endif
#ifndef ASTHRA__TSAN
#define ASTHRA__TSAN 0
#endif

#if ASTHRA_HAS_THREADS && ASTHRA_HAS_CORE
#include <stdatomic.h>
#define ASTHRA__ATOMIC(T) _Atomic(T)
#define asthra__load(p, order) atomic_load_explicit((p), memory_order_##order)
#define asthra__store(p, v, order) atomic_store_explicit((p), (v), memory_order_##order)
#define asthra__exchange(p, v, order) atomic_exchange_explicit((p), (v), memory_order_##order)
#define asthra__add(p, v, order) atomic_fetch_add_explicit((p), (v), memory_order_##order)
#define asthra__sub(p, v, order) atomic_fetch_sub_explicit((p), (v), memory_order_##order)
#define asthra__or(p, v, order) atomic_fetch_or_explicit((p), (v), memory_order_##order)
#define asthra__and(p, v, order) atomic_fetch_and_explicit((p), (v), memory_order_##order)
/* Strong; a failure reads with relaxed order into *expected. */
#define asthra__cas(p, expected, v, order)                                              \
    atomic_compare_exchange_strong_explicit((p), (expected), (v), memory_order_##order, \
                                            memory_order_relaxed)
#else
#define ASTHRA__ATOMIC(T) T
#define asthra__load(p, order) (*(p))
#define asthra__store(p, v, order) ((void)(*(p) = (v)))
#define asthra__update(p, expression)                       \
    __extension__({                                         \
        __typeof__(p) asthra__p = (p);                      \
        __typeof__(*asthra__p) asthra__old = *asthra__p;    \
        *asthra__p = (__typeof__(asthra__old))(expression); \
        asthra__old;                                        \
    })
#define asthra__exchange(p, v, order) asthra__update(p, v)
#define asthra__add(p, v, order) asthra__update(p, asthra__old + (v))
#define asthra__sub(p, v, order) asthra__update(p, asthra__old - (v))
#define asthra__or(p, v, order) asthra__update(p, asthra__old | (v))
#define asthra__and(p, v, order) asthra__update(p, asthra__old &(v))
#define asthra__cas(p, expected, v, order) \
    (*(p) == *(expected) ? (void)(*(p) = (v)), true : ((void)(*(expected) = *(p)), false))
#endif

/* Where a function's stack pointer was when it was called, which is what the caller has again.
 * Clang does not know how on RISC-V, whose frame pointer is just that. */
#if defined(__clang__) && defined(__riscv)
#define ASTHRA__CALLER_STACK __builtin_frame_address(0)
#else
#define ASTHRA__CALLER_STACK __builtin_dwarf_cfa()
#endif

/* A field of 64 bits: on i386 compilers do not agree on where one would lie. */
#define ASTHRA__ATOMIC_64(T) ASTHRA__ALIGNED(8) ASTHRA__ATOMIC(T)

/* Keeps the compiler, not the processor, from moving memory accesses over it. */
#define asthra__compiler_fence() __asm__ volatile("" ::: "memory")

/* Told to the processor inside a spin loop. */
static inline void asthra__cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __asm__ volatile("pause" ::: "memory");
#elif defined(__aarch64__) || (defined(__arm__) && defined(__ARM_ARCH) && __ARM_ARCH >= 7)
    __asm__ volatile("yield" ::: "memory");
#elif defined(__riscv)
    __asm__ volatile(".4byte 0x0100000f" ::: "memory"); /* pause; a fence of nothing before that */
#else
    asthra__compiler_fence();
#endif
}

#endif
