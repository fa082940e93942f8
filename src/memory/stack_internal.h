/* stack - regions, as others see them.                                     [stack] internal
 *
 * asthra__thread()->stack is the region of what runs on the thread. Who makes a thread run
 * something else stores that one's region there, having kept the old value: a load and a store. The
 * value is NULL of what has no region; any other must be ended once, by asthra__stack_end where it
 * stands in the record, else by asthra__stack_drop.
 */
#ifndef ASTHRA__STACK_INTERNAL_H
#define ASTHRA__STACK_INTERNAL_H

#include "stack.h"

#include "../core/thread_internal.h"
#include "zone_internal.h"

#if ASTHRA_HAS_STACK

typedef uint64_t (*Asthra__StackOwner)(void);

/* What runs on this thread has ended, and with it its region. Tells the hooks: not in a task.
 * has_failed: it may have been in the middle of an allocation. */
ASTHRA__FN void asthra__stack_end(bool has_failed);
ASTHRA__FN void asthra__stack_drop(struct Asthra__StackRegion *r); /* hooks are not told */
/* No task runs any more: the regions of those that never ended go. */
ASTHRA__FN void asthra__stack_end_tasks(void);
/* A hook: the id of the running task; 0: none. NULL: there are no tasks. */
ASTHRA__FN void asthra__stack_set_owner(Asthra__StackOwner task);

/* What `ptr` is in the chunk of the heap that begins at `chunk` and is described in *out. In the
 * running task's or thread's own region: a live block, or none; of another's the chunk stays.
 * Returns whether it is in a block or such a chunk. */
ASTHRA__FN bool asthra__stack_describe(const void *chunk, const void *ptr,
                                       AsthraAllocationInfo *out);
/* Frees the newest block of what runs here, if no scope was opened after it; NULL is allowed.
 * Else panics "Invalid pointer in <verb>". */
ASTHRA__FN void asthra__stack_free(void *ptr, const char *verb);
/* What all regions hold and held. Failures: those by the limit; the others are in the heap's sum
 * of the zone, which gave no chunk. */
ASTHRA__FN void asthra__stack_sum(Asthra__AccountSum *sum);
/* Gives the regions that the calling thread keeps for its next tasks back to the heap, and that of
 * what runs here if it has neither a block nor an open scope. */
ASTHRA__FN void asthra__stack_trim(void);

#elif ASTHRA_HAS_TASK

static inline void asthra__stack_end(bool has_failed) {
    (void)has_failed;
}
static inline void asthra__stack_drop(struct Asthra__StackRegion *r) {
    (void)r;
}
static inline void asthra__stack_end_tasks(void) {}
static inline void asthra__stack_set_owner(uint64_t (*task)(void)) {
    (void)task;
}

#endif
#endif
