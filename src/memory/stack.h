/* stack - memory that goes with its task, thread or scope.                 [stack] contract
 *
 * Each task (also one that is awaited in place) and each thread outside tasks has a region of its
 * own. Its blocks follow the task from worker to worker, and all of them are freed when the task or
 * the thread ends: nobody frees them one by one. A scope frees what was allocated since it was
 * opened. In the child of a fork the thread keeps the region of what forked.
 *
 *     ASTHRA_STACK_SCOPE(m) {
 *         char *text = asthra_stack_alloc(length + 1);
 *         ...
 *     }
 *
 * Blocks are aligned to 16. A write past the end of the newest block, up to the next multiple of 16
 * bytes not counted, panics at the next allocation or release; at ASTHRA_SAFETY_FULL every byte
 * past the end of every block is looked at, and writes to what was released are found when its
 * memory is given out again.
 *
 * Threads: any; a block may be read and written by all, but only its task allocates and releases.
 * Blocks: never. errno is left as it was. Strip with: ASTHRA_RT_NO_STACK.
 */
#ifndef ASTHRA__STACK_H
#define ASTHRA__STACK_H

#include "zone.h"

#if ASTHRA_HAS_STACK

/* A block of `size` bytes, not set; size 0 is a block of its own.
 * Returns   NULL: out of memory, over the limit, or more than there can be; asthra_last_error()
 *           says which, and the region is as it was.
 * Owns      the region, until the innermost scope that is open now is released, else to its end.
 * Cost      3 ns, and 16 bytes; each 4 to 64 KiB a chunk from the heap. */
ASTHRA_RT_API void *asthra_stack_alloc(size_t size);

/* An open scope. `depth` names it among all of the process, and the scope around it. */
typedef struct AsthraStackMark {
    void *top;
    uint64_t depth; /* 0: it was released */
    bool open;
} AsthraStackMark;

/* Opens a scope inside the innermost one of this task or thread. Needs no memory, cannot fail. */
ASTHRA_RT_API AsthraStackMark asthra_stack_mark(void);

/* Frees what was allocated since `mark`. Panics unless that is the innermost open scope of this
 * task or thread: not an outer one, one released before, or another's. Scopes that are still open
 * when the task ends or panics go with its region.
 * Cost      3 ns, whatever it frees, and a call of the heap for each chunk beyond one. */
ASTHRA_RT_API void asthra_stack_release(AsthraStackMark *mark);

#if defined(__GNUC__) || defined(__clang__) /* released on break, return and goto too */
#define ASTHRA_STACK_SCOPE(m)                                                                   \
    for (AsthraStackMark m ASTHRA__CLEANUP(asthra_stack_release) = asthra_stack_mark(); m.open; \
         m.open = false)
#else /* released at the closing brace only; leaving otherwise panics at the next release */
#define ASTHRA_STACK_SCOPE(m) \
    for (AsthraStackMark m = asthra_stack_mark(); m.open; asthra_stack_release(&m))
#endif

#endif

#endif
