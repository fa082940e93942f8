/* thread - the one record of each thread.                                  [thread] internal
 *
 * A thread gets its record at its first call and gives it back when it ends; calls from other
 * destructors while it ends are served by attaching again. Every module that needs per-thread state
 * has one slot in it. The record's address must never be kept across a switch of stacks: the fiber
 * may go on under another thread (ARCHITECTURE, law 4), so it is asked for again through the
 * accessor, whose result the compiler cannot guess.
 */
#ifndef ASTHRA__THREAD_INTERNAL_H
#define ASTHRA__THREAD_INTERNAL_H

#include "sync_internal.h"

#if ASTHRA_HAS_CORE

struct AsthraError;
struct Asthra__Heap;
struct Asthra__StackRegion;

enum { ASTHRA__SCHEDULER_SLOT = 512, ASTHRA__HEAP_SLOTS = 4, ASTHRA__DESCRIBED = 96 };

typedef struct Asthra__Thread Asthra__Thread;
struct Asthra__Thread {
    bool is_attached;
    bool is_main;           /* the process's first thread; in a forked child the only */
    bool is_listed;         /* its end will be told; link says the same, but under the lock */
    unsigned char detaches; /* how often it has ended: destructors may call us again */
    uint64_t id;            /* as the system's tools show it: for reports of one without a name */

    const char *panic;             /* the panic's slot: the message of the one in progress */
    struct AsthraError *own_error; /* its error record: result's, which frees it at the end */
    char name[32];                 /* "main" of the first thread, else "" until it is named */
    Asthra__Thread *next, **link;  /* the list of attached threads; under its lock */
    void *fault_stack;
    char described[ASTHRA__DESCRIBED]; /* memory's slot: the text of its last description */
    bool is_in_memory_hook;            /* zone's slot */
    bool is_in_heap;              /* heap's: it is opening one; attaching leaves it as it was */
    bool is_in_deed;              /* heap's: it is walking the stack, which may allocate */
    void *stack_low, *stack_high; /* heap's: its own stack; stack_high NULL: not asked yet */
    struct Asthra__Heap *heaps[ASTHRA__HEAP_SLOTS]; /* heap's slot: by zone; NULL: none yet */
    struct Asthra__StackRegion *stack; /* stack's slot: of the running task, else of the thread */
    struct Asthra__StackRegion *stack_idle; /* stack's: kept for the next tasks here */
    struct AsthraFFIClosure *closure;       /* closure's slot: one that has ended, for the next */
    int ffi_errno;                          /* ffi's: what its last call left in errno */
    uint32_t stack_stamp;                   /* stack's: the next scope's; 0: get some */
    int *errno_place; /* compilers keep &errno across a switch of stacks; this is asked for anew */
    /* The scheduler's slot: room for its Asthra__Seat, zeroed at attach, so that no call of a new
     * thread can fail for want of memory. */
    ASTHRA__ALIGNED(16) unsigned char scheduler[ASTHRA__SCHEDULER_SLOT];
};

/* Never NULL: attaches the thread if need be. */
ASTHRA__FN ASTHRA__NOINLINE Asthra__Thread *asthra__thread(void);
ASTHRA__FN ASTHRA__NOINLINE Asthra__Thread *asthra__thread_if_attached(void); /* signal-safe */
/* The same place, attached or not: for slots whose zero means that there is nothing yet. */
ASTHRA__FN ASTHRA__NOINLINE Asthra__Thread *asthra__thread_place(void);
/* The same, part of its caller: a function that is never inlined and asks before its first call. */
ASTHRA__FN Asthra__Thread *asthra__thread_raw(void);
ASTHRA__FN void asthra__thread_set_name(const char *name); /* copied, cut at 31 bytes; NULL: "" */
ASTHRA__FN size_t asthra__thread_count(void);              /* attached ones */

/* Called by an ending thread, newest registration first, while its record is whole. At most five;
 * one that is registered again changes nothing. */
ASTHRA__FN void asthra__thread_on_detach(void (*hook)(Asthra__Thread *t));
/* One more, called before those: it may call what the program has set, which may call everything.
 * Registered once. */
ASTHRA__FN void asthra__thread_before_detach(void (*hook)(Asthra__Thread *t));

#endif
#endif
