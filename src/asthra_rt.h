/* asthra_rt - a language runtime in one C header: tasks on all cores, channels, select.
 *
 * SPDX-License-Identifier: MIT-0 (the text is on the back page)
 *
 * Use
 *     #define ASTHRA_RT_IMPLEMENTATION    in exactly one .c file, before the include
 *     #include "asthra_rt.h"              wherever it is needed
 *     cc -std=c11 program.c -pthread      stb_ds.h must be findable, or be folded in (make dist)
 *
 * A whole program
 *
 *     #define ASTHRA_RT_IMPLEMENTATION
 *     #include "asthra_rt.h"
 *     #include <stdio.h>
 *
 *     ASTHRA_CHANNEL_TYPE(Numbers, int);
 *
 *     ASTHRA_TASK(int, add_squares, (Numbers, numbers)) {
 *         int n, sum = 0;
 *         while (Numbers_receive(numbers, &n)) sum += n * n;
 *         return sum;
 *     }
 *
 *     int main(void) {
 *         Numbers numbers = Numbers_create(8);
 *         add_squares_task squares = add_squares_go(numbers);
 *         for (int n = 1; n <= 10; n++) Numbers_send(numbers, n);
 *         Numbers_close(numbers);
 *         printf("the squares add up to %d\n", add_squares_await(squares));
 *         Numbers_destroy(numbers);
 *     }
 *
 * Map (search for the words in brackets; each chapter has a contract in Part I, a body in Part II)
 *     [config] [compiler]                  what is in the build, and the words of the contracts
 *     [result] [panic] [trace] [type]      results, panics, debug lines, type descriptions
 *     [alloc] [zone]                       allocators, the names of the memory zones
 *     [pinned]                             addresses that foreign code may keep
 *     [stack]                              memory that goes with its task, thread or scope
 *     [arena]                              memory taken bit by bit and freed at once
 *     [pool]                               objects of one size, blocks that may move
 *     [task] [timer]                       spawn, await, cancel, sleep
 *     [scope]                              tasks that end with the block that spawns them
 *     [channel] [select] [mutex]           what tasks share
 *     [typed]                              tasks and channels that know their types
 *     [external]                           functions that block, threads that are not ours
 *     [library] [ffi] [closure] [marshal]  calling C that nobody compiled for us, and back
 *     [fd]                                 waiting for pipes and sockets
 *     [gdb]                                tasks, stacks and channels in the debugger
 *     [module] [runtime]                   what is initialised once; configuration, start, stop
 *     Part II only: [sys] [os] [swap] [text] [sync] [thread] [table] [deque] [region] [fiber]
 *     [scheduler]
 *
 * Switches (define before the include, the same in every file that includes it)
 *     ASTHRA_RT_IMPLEMENTATION     this file holds the bodies
 *     ASTHRA_RT_STATIC             everything is static to this file (needs IMPLEMENTATION)
 *     ASTHRA_RT_API                linkage word of public functions, e.g. a visibility attribute
 *     ASTHRA_RT_NO_TASK            no tasks; goes with NO_CHANNEL, NO_SELECT, NO_MUTEX, NO_SCOPE,
 *                                  NO_FD, NO_EXTERNAL
 *     ASTHRA_RT_NO_CHANNEL         no channels; goes with NO_SELECT
 *     ASTHRA_RT_NO_SELECT          no select
 *     ASTHRA_RT_NO_MUTEX           no mutex
 *     ASTHRA_RT_NO_SCOPE           no scopes
 *     ASTHRA_RT_NO_FD              no waiting for descriptors
 *     ASTHRA_RT_NO_EXTERNAL        no helper threads for what blocks
 *     ASTHRA_RT_NO_LIBRARY         no shared objects at run time
 *     ASTHRA_RT_NO_FFI             no foreign calls; goes with NO_CLOSURE, NO_MARSHAL
 *     ASTHRA_RT_NO_CLOSURE         no functions made at run time
 *     ASTHRA_RT_NO_MARSHAL         no marshaling
 *     ASTHRA_RT_NO_TYPE            no type descriptions; goes with NO_FFI, NO_CLOSURE, NO_MARSHAL
 *     ASTHRA_RT_NO_MODULE          no modules
 *     ASTHRA_RT_NO_GDB             no script for gdb, which is never loaded
 *     ASTHRA_RT_NO_MANUAL, _NO_PINNED, _NO_STACK, _NO_ARENA, _NO_POOL   without that memory
 *     ASTHRA_RT_ONLY               nothing but what ASTHRA_RT_WITH_<PART> names, and the core that
 *                                  it stands on; WITH_ARENA alone needs no core, system or libc
 *     ASTHRA_RT_NO_THREADS         everything on the calling thread, no pthread symbol
 *     ASTHRA_RT_NO_ASM             ucontext instead of hand-written assembly; no ffi, closure,
 *                                  marshal
 *     ASTHRA_RT_POSIX              POSIX.1-2008 and MAP_ANON, no other system call: no futex, no
 *                                  /proc; what every system but Linux gets anyway
 *     ASTHRA_RT_NO_STDIO           no stdio: formatted messages without floating-point numbers
 *     ASTHRA_RT_NO_CALLER          call sites are not recorded
 *     ASTHRA_RT_NO_AUTO_INIT       use before asthra_runtime_init is an error, not a start
 *     ASTHRA_RT_LOCK_PINS          pinned ranges are locked into memory (mlock); needs pinned
 *     ASTHRA_RT_DEBUG              1: asserts; 2: asserts that walk structures
 *     ASTHRA_RT_STB_DS_H           where stb_ds.h is, in quotes or angle brackets
 *
 * House rules, said once
 *     Errors     A result whose status is not ASTHRA_OK, or NULL, false or a zero handle with the
 *                reason in asthra_last_error(). A bug of the caller is a panic.
 *     Ownership  Names and results are borrowed unless a comment says copied or owned.
 *     Threads    Any thread may call anything without registration, unless a comment says else.
 *     Blocking   A task that waits is parked and its thread goes on with others; a plain thread
 *                blocks. Every call that can wait returns ASTHRA_CANCELLED once its task is
 *                cancelled, and leaves errno as it was.
 *     Time       int64_t nanoseconds, relative; 0 polls, < 0 (ASTHRA_FOREVER) waits for ever.
 */
#ifndef ASTHRA_RT_H
#define ASTHRA_RT_H

/* ================================ Part I: contracts ================================ */

#include "platform/config.h"

#if defined(ASTHRA_RT_IMPLEMENTATION) && ASTHRA_HAS_CORE
#if defined(__STRICT_ANSI__) && defined(_FEATURES_H) && !defined(_GNU_SOURCE)
#if defined(_BITS_PTHREADTYPES_COMMON_H) || defined(_PTHREAD_H) || defined(_SIGNAL_H) || \
    defined(_UNISTD_H) || defined(_FCNTL_H) || defined(_SYS_MMAN_H) ||                   \
    (defined(_TIME_H) && !defined(CLOCK_MONOTONIC))
#error "strict -std=c11: include asthra_rt.h first, or define _GNU_SOURCE before, or use gnu11"
#endif
#define _GNU_SOURCE
#undef _FEATURES_H /* only plain headers were read so far: the rest can be had whole */
#include <features.h>
#endif
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* the bodies need it; Part I is the same without */
#endif
#endif

#include "platform/compiler.h"

#ifdef __cplusplus
extern "C" {
#endif

#include "core/result.h"
#include "core/panic.h"
#include "core/alloc.h"
#include "core/type.h"
#include "core/trace.h"
#include "memory/zone.h"
#include "memory/manual.h"
#include "memory/pinned.h"
#include "memory/stack.h"
#include "memory/arena.h"
#include "memory/pool.h"
#include "memory/memory.h"
#include "concurrency/task.h"
#include "concurrency/timer.h"
#include "concurrency/channel.h"
#include "concurrency/select.h"
#include "concurrency/mutex.h"
#include "concurrency/scope.h"
#include "concurrency/typed.h"
#include "concurrency/external.h"
#include "ffi/library.h"
#include "ffi/ffi.h"
#include "ffi/closure.h"
#include "ffi/marshal.h"
#include "io/fd.h"
#include "report/gdb.h"
#include "runtime/module.h"
#include "runtime/runtime.h"

#ifdef __cplusplus
}
#endif

#endif /* ASTHRA_RT_H */

/* ================================ Part II: bodies ================================ */

#if defined(ASTHRA_RT_IMPLEMENTATION) && !defined(ASTHRA__IMPLEMENTED)
#define ASTHRA__IMPLEMENTED

#include "platform/compiler_internal.h"
#include "platform/sys_internal.h"
#include "platform/os_internal.h"
#include "platform/os.c"
#include "platform/os_fault.c"
#include "platform/os_trace.c"
#include "platform/os_code.c"
#include "platform/os_linux.c"
#include "platform/os_linux_pages.c"
#include "platform/os_linux_fault.c"
#include "platform/os_linux_poll.c"
#include "platform/os_posix.c"
#include "platform/os_posix_wait.c"
#include "platform/os_posix_pages.c"
#include "platform/os_posix_fault.c"
#include "platform/os_posix_poll.c"
#include "platform/swap_internal.h"
#include "platform/swap_x86_64.c"
#include "platform/swap_aarch64.c"
#include "platform/swap_riscv64.c"
#include "platform/swap_i386.c"
#include "platform/swap_arm.c"
#include "platform/swap_ucontext.c"
#include "core/text_internal.h"
#include "core/text.c"
#include "core/sync_internal.h"
#include "core/sync.c"
#include "core/thread_internal.h"
#include "core/thread.c"
#include "core/result_internal.h"
#include "core/result.c"
#include "core/panic_internal.h"
#include "core/panic.c"
#include "core/alloc_internal.h"
#include "core/alloc.c"
#include "core/type_internal.h"
#include "core/type.c"
#include "core/table_internal.h"
#include "core/table.c"
#include "core/trace_internal.h"
#include "core/trace.c"
#include "lockfree/deque_internal.h"
#include "lockfree/deque.c"
#include "memory/region_internal.h"
#include "memory/region.c"
#include "memory/zone_internal.h"
#include "memory/zone.c"
#include "memory/heap_internal.h"
#include "memory/heap_segment.c"
#include "memory/heap_huge.c"
#include "memory/heap_thread.c"
#include "memory/heap_block.c"
#include "memory/heap.c"
#include "memory/heap_page.c"
#include "memory/heap_find.c"
#include "memory/heap_free.c"
#include "memory/heap_check.c"
#include "memory/heap_full.c"
#include "memory/heap_guard.c"
#include "memory/heap_trace.c"
#include "memory/heap_walk.c"
#include "memory/manual.c"
#include "memory/pinned_internal.h"
#include "memory/pinned_table.c"
#include "memory/pinned.c"
#include "memory/stack_internal.h"
#include "memory/stack.c"
#include "memory/arena.c"
#include "memory/pool_internal.h"
#include "memory/pool.c"
#include "memory/pool_free.c"
#include "memory/pool_size.c"
#include "memory/pool_handle.c"
#include "memory/memory_internal.h"
#include "memory/memory.c"
#include "concurrency/fiber_internal.h"
#include "concurrency/fiber.c"
#include "concurrency/scheduler_internal.h"
#include "concurrency/scheduler.c"
#include "concurrency/scheduler_start.c"
#include "concurrency/scheduler_queue.c"
#include "concurrency/scheduler_idle.c"
#include "concurrency/scheduler_wait.c"
#include "concurrency/scheduler_timer.c"
#include "concurrency/scheduler_outside.c"
#include "concurrency/scheduler_host.c"
#include "concurrency/scheduler_report.c"
#include "concurrency/task_internal.h"
#include "concurrency/task_record.c"
#include "concurrency/task.c"
#include "concurrency/task_await.c"
#include "concurrency/timer.c"
#include "concurrency/channel_internal.h"
#include "concurrency/channel.c"
#include "concurrency/select.c"
#include "concurrency/select_cases.c"
#include "concurrency/mutex.c"
#include "concurrency/scope.c"
#include "concurrency/external.c"
#include "concurrency/external_threads.c"
#include "ffi/library.c"
#include "ffi/ffi_internal.h"
#include "ffi/ffi_type.c"
#include "ffi/ffi_text.c"
#include "ffi/ffi.c"
#include "ffi/ffi_x86_64_internal.h"
#include "ffi/ffi_x86_64_steps.c"
#include "ffi/ffi_x86_64.c"
#include "ffi/ffi_win64.c"
#include "ffi/ffi_aarch64_internal.h"
#include "ffi/ffi_aarch64_steps.c"
#include "ffi/ffi_aarch64.c"
#include "ffi/ffi_riscv64_internal.h"
#include "ffi/ffi_riscv64_steps.c"
#include "ffi/ffi_riscv64.c"
#include "ffi/ffi_arm_internal.h"
#include "ffi/ffi_arm.c"
#include "ffi/ffi_i386_internal.h"
#include "ffi/ffi_i386.c"
#include "ffi/ffi_call.c"
#include "ffi/ffi_rules.c"
#include "ffi/ffi_transfer.c"
#include "ffi/ffi_pass.c"
#include "ffi/ffi_describe.c"
#include "ffi/closure_internal.h"
#include "ffi/closure.c"
#include "ffi/closure_x86_64.c"
#include "ffi/closure_aarch64.c"
#include "ffi/closure_riscv64.c"
#include "ffi/closure_arm.c"
#include "ffi/closure_i386.c"
#include "ffi/marshal_internal.h"
#include "ffi/marshal.c"
#include "ffi/marshal_basic.c"
#include "ffi/marshal_compose.c"
#include "io/fd.c"
#include "report/gdb_internal.h"
#include "report/gdb.c"
#include "report/gdb_stack.c"
#include "report/gdb_value.c"
#include "runtime/module_internal.h"
#include "runtime/module_plan.c"
#include "runtime/module.c"
#include "runtime/runtime.c"

#endif /* ASTHRA_RT_IMPLEMENTATION */

/* Back page
 *
 * asthra_rt is licensed MIT-0: permission is hereby granted, free of charge, to any person
 * obtaining a copy of this software and associated documentation files, to deal in the software
 * without restriction, including without limitation the rights to use, copy, modify, merge,
 * publish, distribute, sublicense, and/or sell copies of the software, and to permit persons to
 * whom the software is furnished to do so. The software is provided "as is", without warranty of
 * any kind, express or implied, including but not limited to the warranties of merchantability,
 * fitness for a particular purpose and noninfringement. In no event shall the authors or
 * copyright holders be liable for any claim, damages or other liability, whether in an action of
 * contract, tort or otherwise, arising from, out of or in connection with the software or the use
 * or other dealings in it.
 *
 * Third party: stb_ds.h (public domain or MIT), found on the system or folded in by make dist.
 */
