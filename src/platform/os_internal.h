/* os - what the runtime asks of the system: pages, clock, cores, parking.  [os] internal
 *
 * What all systems do alike is in os.c, os_fault.c, os_trace.c and os_code.c; the rest in a set of
 * files for each system: os_linux.c and its pieces; os_posix.c and its pieces for every other. What
 * can fail says so, and errno is left as it was. Sizes and addresses of pages are multiples of
 * asthra__os_page_size(). Nothing here asks a heap, save what the C library does inside
 * asthra__os_thread_start and, on threads that are not the main one, asthra__os_stack_bounds.
 */
#ifndef ASTHRA__OS_INTERNAL_H
#define ASTHRA__OS_INTERNAL_H

#include "sys_internal.h"

#if ASTHRA_HAS_CORE

ASTHRA__FN size_t asthra__os_page_size(void);

/* Zeroed address space that takes memory when it is touched; NULL: refused. */
ASTHRA__FN void *asthra__os_map(size_t bytes);
/* The same at a multiple of `alignment`, a power of two and at least a page, and counted against
 * what the system is willing to promise. */
ASTHRA__FN void *asthra__os_map_aligned(size_t bytes, size_t alignment);
ASTHRA__FN void asthra__os_unmap(void *start, size_t bytes);

/* Gives the pages back and keeps the addresses. They read as zero afterwards. No guard may be among
 * them. false: they may have kept their bytes, as where the host has locked its memory. */
ASTHRA__FN bool asthra__os_discard(void *start, size_t bytes);
/* The pages of one mapping take the place of another's, and are more or fewer then. */
typedef enum Asthra__OsMoved {
    ASTHRA__OS_MOVED,
    ASTHRA__OS_STAYED, /* refused; what was in the other's may be lost */
    ASTHRA__OS_LOST    /* refused, and the other is not mapped any more */
} Asthra__OsMoved;
ASTHRA__FN Asthra__OsMoved asthra__os_move(void *from, size_t bytes, void *to, size_t to_bytes);

/* Makes `count` single pages, `stride` bytes apart, fault when touched, until they are unmapped.
 * The system's limit of mappings is respected: false says that some page is not guarded, and
 * nothing else is lost. Where it was true, unmap_guarded is told how many go with the mapping. */
ASTHRA__FN bool asthra__os_guard_pages(void *first, size_t stride, size_t count);
ASTHRA__FN void asthra__os_unmap_guarded(void *start, size_t bytes, size_t guards);

/* Keeps pages in memory, or no longer; calls do not nest. Returns 0, or the system's error: then
 * some of the pages may be locked. */
ASTHRA__FN int asthra__os_lock_pages(void *start, size_t bytes);
ASTHRA__FN void asthra__os_unlock_pages(void *start, size_t bytes);

/* Nodes of memory: how many are online (1 where the system cannot tell), and the one of the core
 * that the calling thread runs on. */
ASTHRA__FN unsigned asthra__os_nodes(void);
ASTHRA__FN unsigned asthra__os_node(void);
/* Asks for untouched pages to come from the node while it has any; where the system will not hear
 * of it, they come from the node of the thread that touches them. */
ASTHRA__FN void asthra__os_prefer_node(void *start, size_t bytes, unsigned node);
/* Closes pages, which fault when touched until they are opened again, or opens them, as zero or
 * as they were. false: refused, and the pages are as before, or zero. */
ASTHRA__FN bool asthra__os_close_pages(void *start, size_t bytes);
ASTHRA__FN bool asthra__os_open_pages(void *start, size_t bytes);

/* What the pages of a mapping hold becomes code: they may be executed, and not written any more.
 * They are those of a file without a name, so that none was ever both. false: refused; the mapping
 * may be gone, its addresses are still the caller's. */
ASTHRA__FN bool asthra__os_map_code(void *start, size_t bytes);

/* Bytes of whole pages; where the system does not tell, all of them. */
ASTHRA__FN size_t asthra__os_resident(const void *start, size_t bytes);

/* What the system says of an address; for messages, it takes a while. */
typedef enum Asthra__OsMapping {
    ASTHRA__OS_MAPPING_NONE,
    ASTHRA__OS_MAPPING_STATIC, /* of the program or a library, its zeroed data included */
    ASTHRA__OS_MAPPING_STACK,  /* of the main thread */
    ASTHRA__OS_MAPPING_OTHER   /* or it cannot be told */
} Asthra__OsMapping;
ASTHRA__FN Asthra__OsMapping asthra__os_mapping_of(const void *address);

/* Whether a function may be there: mapped, and allowed to be executed. An address outside loaded
 * objects takes a while. Where the system does not tell what its pages may be used for (POSIX, or
 * Linux without /proc), what is mapped outside loaded objects counts as executable. */
ASTHRA__FN bool asthra__os_is_executable(const void *address);

ASTHRA__FN int64_t asthra__os_now_ns(void);   /* monotonic */
ASTHRA__FN uint64_t asthra__os_entropy(void); /* differs from run to run */
ASTHRA__FN unsigned asthra__os_cores(void);   /* that it may use: affinity and quota; at least 1 */

/* Sleeps while *word == expected, until asthra__os_wake or for timeout_ns (< 0: no limit). May
 * return early for no reason; errno is left as it was. */
ASTHRA__FN void asthra__os_wait(ASTHRA__ATOMIC(uint32_t) * word, uint32_t expected,
                                int64_t timeout_ns);
ASTHRA__FN void asthra__os_wake(ASTHRA__ATOMIC(uint32_t) * word, uint32_t how_many);
ASTHRA__FN void asthra__os_yield(void); /* the rest of this thread's time slice */

/* The two halves of an asymmetric fence: alone neither orders anything. After light in thread A and
 * heavy in thread B, either A sees what B wrote before its fence or B sees what A wrote before its
 * own. Light is free where the system can interrupt the other cores (membarrier); else both are
 * full fences. A forked child inherits the choice. */
ASTHRA__FN void asthra__os_fence_setup(void); /* before the first use in a process */
ASTHRA__FN void asthra__os_fence_light(void);
ASTHRA__FN void asthra__os_fence_heavy(void);

/* The most bytes that a stack may be asked for. */
#define ASTHRA__OS_STACK_MOST (SIZE_MAX / (sizeof(size_t) > 4 ? 1024 : 16))

/* The calling thread's own stack, whatever stack it stands on now. */
ASTHRA__FN bool asthra__os_stack_bounds(void **low, void **high);
ASTHRA__FN bool asthra__os_is_main_thread(void);
ASTHRA__FN uint64_t asthra__os_thread_id(void); /* as the system's tools show it, or debuggers */
/* Threads of the process, a sanitizer's own included; 0: cannot tell. */
ASTHRA__FN size_t asthra__os_thread_count(void);
ASTHRA__FN void asthra__os_write_error(const char *text, size_t length); /* stderr, signal-safe */
ASTHRA__FN bool asthra__os_stderr_is_terminal(void);

#if ASTHRA_HAS_THREADS
/* A thread that blocks every signal but those of its own faults, so that a host's handlers run on
 * the host's threads. `name` (NULL: none; 15 bytes count) is what the system's tools show. The
 * stack is at least what the system asks for. false: refused. */
typedef struct Asthra__OsThread {
    unsigned long long handle;
} Asthra__OsThread;
ASTHRA__FN bool asthra__os_thread_start(Asthra__OsThread *out, size_t stack_bytes,
                                        void *(*run)(void *), void *argument, const char *name);
ASTHRA__FN void asthra__os_thread_join(Asthra__OsThread thread);
ASTHRA__FN void asthra__os_thread_detach(Asthra__OsThread thread); /* nobody will join it */
ASTHRA__FN Asthra__OsThread asthra__os_thread_self(void);
#endif

/* Descriptors. One set for the process, in which descriptors are armed: once one is ready the set
 * tells its mark, and it is disarmed. Events are those of poll(2), an error and the end are always
 * among them. Any thread may arm and wake; one at a time waits. errno is left as it was. */
typedef enum Asthra__OsArmed {
    ASTHRA__OS_ARMED,
    ASTHRA__OS_ARMED_ANEW,   /* the set had not known it: what was armed there before was closed */
    ASTHRA__OS_ARMED_NEVER,  /* a plain file: it is ready whenever it is asked */
    ASTHRA__OS_ARMED_CLOSED, /* no open descriptor */
    ASTHRA__OS_ARMED_FULL    /* the system has no room for it */
} Asthra__OsArmed;
typedef struct Asthra__OsReady {
    uint64_t mark;
    int events;
} Asthra__OsReady;
ASTHRA__FN bool asthra__os_poll_open(void);  /* false: refused */
ASTHRA__FN void asthra__os_poll_close(void); /* also in a forked child: the parent's set is kept */
/* is_known: it was armed before. Arming what is armed changes its events and mark. */
ASTHRA__FN Asthra__OsArmed asthra__os_poll_arm(int fd, int events, uint64_t mark, bool is_known);
/* How many are ready, at most `room`; waits for at most timeout_ns for one (< 0: no limit). */
ASTHRA__FN size_t asthra__os_poll_wait(Asthra__OsReady *out, size_t room, int64_t timeout_ns);
ASTHRA__FN void asthra__os_poll_wake(void); /* ends the wait under way, or else the next one */
/* For poll(2): rounded up, so that nobody waits in a loop of zeroes. */
ASTHRA__FN int asthra__os_ms(int64_t ns);
/* The set is not ours any more: ends the process with a message. */
ASTHRA_NORETURN ASTHRA__FN void asthra__os_poll_lost(void);
/* One descriptor, without the set: its events, 0 at the limit, < 0: the negative errno. */
ASTHRA__FN int asthra__os_poll_one(int fd, int events, int64_t timeout_ns);

/* A descriptor that is readable from a set to a clear; fd < 0: the system refused. */
typedef struct Asthra__OsSignal {
    int fd, far_end;
} Asthra__OsSignal;
ASTHRA__FN Asthra__OsSignal asthra__os_signal_open(void);
ASTHRA__FN void asthra__os_signal_close(Asthra__OsSignal s);
ASTHRA__FN void asthra__os_signal_set(Asthra__OsSignal s);
ASTHRA__FN void asthra__os_signal_clear(Asthra__OsSignal s);

/* Faults. `handler` is called for SIGSEGV and SIGBUS that an instruction caused, with the address
 * that was touched, on the alternate stack of a thread that has one. true: it has changed the
 * context, or wants the instruction again; false: the signal goes on to whoever handled it before.
 * Only what is safe in a signal handler may be called in it. */
typedef bool (*Asthra__OsFaultHandler)(void *address, void *context);
ASTHRA__FN bool asthra__os_fault_install(Asthra__OsFaultHandler handler); /* once for the process */
ASTHRA__FN void asthra__os_fault_remove(void);
/* This thread's alternate stack. One that the host or a sanitizer has set is kept and used;
 * *memory, NULL then, is what leave needs. false: no memory. */
ASTHRA__FN bool asthra__os_fault_stack_enter(void **memory);
ASTHRA__FN void asthra__os_fault_stack_leave(void *memory);
/* Makes the interrupted code go on in `target(argument)`, which must not return, on the stack that
 * ends at `stack_top`. false: not on this processor. */
ASTHRA__FN bool asthra__os_fault_redirect(void *context, void (*target)(void *), void *argument,
                                          void *stack_top);

/* Makes the interrupted code go on as if it had called `target(argument)`, which must not return,
 * so that a backtrace shows it as the caller. false: not on this processor. On i386 the argument
 * comes in a register: on the stack it would be in the way of the backtrace. */
#if ASTHRA__CPU_I386
#define ASTHRA__OS_CALLED __attribute__((__regparm__(1)))
#else
#define ASTHRA__OS_CALLED
#endif
typedef void (*Asthra__OsCalled)(void *argument) ASTHRA__OS_CALLED;
ASTHRA__FN bool asthra__os_fault_call(void *context, Asthra__OsCalled target, void *argument);

/* 32-bit ARM: an address of Thumb code that somebody may go to is odd, and unwind tables are not
 * those of other processors. */
#if defined(__arm__) && !defined(__ARM_DWARF_EH__)
#define ASTHRA__OS_HAS_EHABI 1
#define ASTHRA__OS_ODD ((uintptr_t)1)
#else
#define ASTHRA__OS_HAS_EHABI 0
#define ASTHRA__OS_ODD ((uintptr_t)0)
#endif
/* Of a return address: the last byte of the call. */
static inline uintptr_t asthra__os_before(uintptr_t place) {
    return (place & ~ASTHRA__OS_ODD) - 1;
}

/* Writes an address inside each calling instruction, newest caller first; returns how many. Ends
 * where a fiber began. Walks unwind tables: code built without them ends it early. */
ASTHRA__FN size_t asthra__os_backtrace(void **out, size_t room);
/* The same as frames. `place` is where the frame goes on when its callee returns, `stack` its stack
 * pointer then, 0 where that cannot be told; is_exact: it was interrupted there, and not left by a
 * call. *is_all: there are no more. The first is the caller's. */
typedef struct Asthra__OsFrame {
    uintptr_t place, stack;
    bool is_exact;
} Asthra__OsFrame;
ASTHRA__FN size_t asthra__os_frames(Asthra__OsFrame *out, size_t room, bool *is_all);

/* Writes "function+0x12 (object)" or, where there is no name, "0x55d0 (object+0x1234)", for
 * addr2line; without a zero at the end. Returns bytes written, never more than `room`. */
ASTHRA__FN size_t asthra__os_symbol(const void *address, char *out, size_t room);

/* A call of the system by its number, with six arguments; a negative errno, or what it returned. */
ASTHRA__FN long asthra__os_syscall(long number, const long *args);

/* Hooks of fork: before in the parent, after in the parent, after in the child. They cannot be
 * taken back. Without threads there are none: the child goes on as its parent would. */
ASTHRA__FN void asthra__os_on_fork(void (*before)(void), void (*parent)(void), void (*child)(void));

/* ---- what the shared files ask of a system's ---- */

/* A file that nobody else sees, whose pages may be executed, to be written; < 0: refused. */
ASTHRA__FN int asthra__os_code_file(void);
/* Whether all of it is mapped; whole pages. */
ASTHRA__FN bool asthra__os_is_mapped(void *start, size_t bytes);
/* Whether a SIGSEGV or SIGBUS with this code was caused by an instruction. */
ASTHRA__FN bool asthra__os_is_fault(int number, int code);
ASTHRA__FN size_t asthra__os_signal_frame(void); /* most bytes that the system puts on a stack */
/* For processors that do not tell it themselves. POSIX knows of none. */
ASTHRA__FN bool asthra__os_has_shadow_stack(void);
/* The file that `at` belongs to, and how far it was moved from the addresses in it: as given, which
 * is dladdr's word or none, or better. NULL: cannot be told. */
ASTHRA__FN const char *asthra__os_object_of(uintptr_t at, const char *object, uintptr_t *moved);
ASTHRA__FN bool asthra__os_is_static(const void *address); /* of the program or a library */
/* Of an address that no loaded object calls code. is_in_object: it lies in one all the same. */
ASTHRA__FN bool asthra__os_is_code(const void *address, bool is_in_object);
#if ASTHRA_HAS_THREADS
ASTHRA__FN void asthra__os_thread_show(Asthra__OsThread thread, const char *name);
/* What the C library says of the calling thread's stack; of the main one, it may ask a heap. */
ASTHRA__FN bool asthra__os_thread_bounds(void **low, void **high);
#endif

/* ---- what the files of one system share ---- */

#if ASTHRA__SYS_LINUX
/* Reads at most room - 1 bytes of a file of /proc or /sys as a string; "" if there is none. */
ASTHRA__FN size_t asthra__os_read_file(const char *path, char *out, size_t room);
/* Counts the mappings of this process. If `inside` is not 0 stops at the one that holds it; *start
 * and *end are its bounds, *before is the end of the one below it. 0: not found, or no /proc. */
ASTHRA__FN size_t asthra__os_maps_scan(uintptr_t inside, uintptr_t *before, uintptr_t *start,
                                       uintptr_t *end);
#else
ASTHRA__FN bool asthra__os_main_stack(void **low, void **high); /* the main thread's */
#endif

#endif
#endif
