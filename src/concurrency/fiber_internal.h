/* fiber - stacks, and moving between them.                                 [fiber] internal
 *
 * A fiber is a stack of its own with a record at its high end. Pool fibers are mapped in slabs,
 * guarded at their low end and cached by each worker; a bound fiber is the stack that an OS thread
 * came with, and only that thread may resume it.
 */
#ifndef ASTHRA__FIBER_INTERNAL_H
#define ASTHRA__FIBER_INTERNAL_H

#include "../core/alloc_internal.h"
#include "../platform/swap_internal.h"

#if ASTHRA_HAS_TASK

/* What a run queue holds: a task that has not started, or a fiber that may go on. */
typedef struct Asthra__Runnable {
    struct Asthra__Runnable *next;
    bool is_fiber;
    int32_t priority;
} Asthra__Runnable;

/* An entry of an ordered queue: higher priority first, older first among equals; old ones rise. */
typedef struct Asthra__Ranked {
    struct Asthra__Ranked *left, *right;
    int64_t order; /* smaller runs earlier */
    Asthra__Runnable *item;
} Asthra__Ranked;

struct Asthra__Task;
struct Asthra__Slab;

/* Something on a stack that must be put right before a panic abandons its frames. It lies in the
 * frame that it guards, and knows it: what a longjmp has left behind is no guard any more. */
typedef struct Asthra__FiberGuard Asthra__FiberGuard;
struct Asthra__FiberGuard {
    Asthra__FiberGuard *outer;
    uintptr_t seal;
    void (*leave)(Asthra__FiberGuard *g);
};

typedef struct Asthra__Fiber Asthra__Fiber;
struct Asthra__Fiber {
    Asthra__Runnable runnable; /* also links idle fibers */
    Asthra__Ranked ranked;
    Asthra__SwapContext *context; /* while nobody stands on it */
    struct Asthra__Slab *slab;    /* NULL: bound */
    char *low, *high;             /* usable bytes; the guard lies below low */
    struct Asthra__Task *task;    /* the task on top, NULL: a worker's loop or a plain thread */
    struct Asthra__StackRegion *stack; /* the stack zone's of what is on top, while it is left */
    Asthra__SwapContext *escape;       /* out of that task's function */
    Asthra__FiberGuard *guards;        /* on this stack, the innermost; of every task on it */
    int bound_to;                      /* worker that alone may resume it; -1: any */
    int saved_errno;                   /* the scheduler saves it, which knows the thread */
    bool has_failed;                   /* the task on top panicked and escaped */
    bool has_canary;                   /* instead of a guard page */
    bool is_single;                    /* made for one task, destroyed after it */
    unsigned valgrind_id;              /* 1 + Valgrind's number of this stack; 0: it was not told */
    void *cxx_globals[2 + ASTHRA__OS_HAS_EHABI]; /* caughtExceptions, uncaughtExceptions; on
                                                  * 32-bit ARM propagatingExceptions */
    void *fake_stack;                            /* AddressSanitizer's, while nobody stands on it */
    void *tsan;                                  /* ThreadSanitizer's fiber */
};

/* Innermost first: entered and left in order, but for what a longjmp skips. */
ASTHRA__FN void asthra__fiber_guard_enter(Asthra__Fiber *f, Asthra__FiberGuard *g);
ASTHRA__FN void asthra__fiber_guard_leave(Asthra__Fiber *f, Asthra__FiberGuard *g);
/* Leaves all that lie deeper than `end`, innermost first. No `leave` lets a panic out. */
ASTHRA__FN void asthra__fiber_guards_abandon(Asthra__Fiber *f, const void *end);

/* Once at start: the stack of fibers that ask for no size, and what every fiber begins with. */
ASTHRA__FN void asthra__fiber_setup(size_t default_stack_bytes, void (*entry)(void *));
ASTHRA__FN size_t asthra__fiber_default_bytes(void);

/* A fiber with at least stack_bytes (0: the default) that will call entry(NULL). NULL: the system
 * refused. */
ASTHRA__FN Asthra__Fiber *asthra__fiber_create(size_t stack_bytes);

/* Up to `want` idle fibers of the default size as a list: given ones, or else fresh. */
ASTHRA__FN Asthra__Fiber *asthra__fiber_take(uint32_t want, uint32_t *got);

/* Takes idle fibers of the default size back, a list. They keep their contexts. */
ASTHRA__FN void asthra__fiber_give(Asthra__Fiber *list);

/* Its stack goes back to the system; not the one we stand on. */
ASTHRA__FN void asthra__fiber_destroy(Asthra__Fiber *f);

/* Gives the memory of idle stacks back but for their first page; returns the bytes. */
ASTHRA__FN size_t asthra__fiber_trim(void);

ASTHRA__FN void asthra__fiber_bind(Asthra__Fiber *f, int worker); /* this thread's own stack */
ASTHRA__FN void asthra__fiber_teardown(void); /* every slab goes; nobody may stand on one */
ASTHRA__FN void asthra__fiber_forget(void);   /* in a forked child: as before setup */

/* Leaves `from`, on which we stand, for `to`; comes back when somebody switches to `from`, unless
 * it is dead. The C++ exception state stays with each fiber; sanitizers are told. */
ASTHRA__FN void asthra__fiber_switch(Asthra__Fiber *from, Asthra__Fiber *to, bool is_dead);
ASTHRA__FN void asthra__fiber_arrive(Asthra__Fiber *to); /* first act of an entry function */

/* Bytes between here and the low end of f, on which we stand. */
ASTHRA__FN size_t asthra__fiber_room(const Asthra__Fiber *f);

/* The fiber whose guard page holds address; NULL: none. Signal-safe. */
ASTHRA__FN Asthra__Fiber *asthra__fiber_of_guard(const void *address);

#endif
#endif
