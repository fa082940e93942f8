/* task - handles and descriptors.                                          [task] internal */
#ifndef ASTHRA__TASK_INTERNAL_H
#define ASTHRA__TASK_INTERNAL_H

#include "scheduler_internal.h"

#if ASTHRA_HAS_TASK

/* Whoever waits for the end of a task, in its list, under its stripe's lock. */
typedef struct Asthra__AwaitNode {
    struct Asthra__AwaitNode *next, **link; /* link NULL: not in the list */
    Asthra__Parker *parker;
} Asthra__AwaitNode;

/* task_record.c */
ASTHRA__FN Asthra__Task *asthra__task_take(Asthra__Seat *s); /* NULL: no memory */
ASTHRA__FN void asthra__task_free(Asthra__Seat *s, Asthra__Task *t);
/* The descriptor that h names, or a panic: `verb` is the public function's name. With `consumes`
 * there must be a handle left to consume. */
ASTHRA__FN Asthra__Task *asthra__task_resolve(AsthraTaskHandle h, const char *verb, bool consumes);
ASTHRA__FN Asthra__Task *asthra__task_find(AsthraTaskHandle h); /* NULL: not valid */
/* Gives one handle up, which is `bits`; false: it was consumed meanwhile. */
ASTHRA__FN bool asthra__task_release(Asthra__Seat *s, Asthra__Task *t, uint64_t bits);
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__task_refuse(AsthraTaskHandle h,
                                                                 const char *verb);
ASTHRA__FN Asthra__Lock *asthra__task_stripe(const Asthra__Task *t);
ASTHRA__FN void *asthra__task_block(Asthra__Task *t, size_t *bytes); /* NULL: it has none */

/* task.c */
ASTHRA__FN void asthra__task_forward_cancel(uint64_t bits); /* to t and what it awaits, and so on */
ASTHRA__FN void asthra__task_cancel_many(const uint64_t *bits, size_t count);
/* A task with a block of `room` bytes, which t->value points to and which is its argument. It is to
 * be submitted or discarded. NULL: the reason is set. */
ASTHRA__FN Asthra__Task *asthra__task_prepare(Asthra__Seat *s, AsthraTaskFunction fn, size_t room,
                                              const char *name);
ASTHRA__FN AsthraTaskHandle asthra__task_submit(Asthra__Seat *s, Asthra__Task *t);
ASTHRA__COLD ASTHRA__FN void asthra__task_discard(Asthra__Seat *s, Asthra__Task *t);

#endif
#endif
