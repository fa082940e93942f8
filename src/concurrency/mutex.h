/* mutex - one at a time, for tasks and threads alike.                        [mutex] contract
 *
 * A waiting task parks, a plain thread blocks. Whoever locked it unlocks it: a task keeps it across
 * waits and moves between workers. Locking twice, unlocking what is not the caller's, and
 * destroying a locked mutex are bugs and panic. A task that ends, or panics, does not unlock what
 * it holds.
 *
 * Fairness: waiters are served in order; passers-by may come first, but a waiter that was woken
 * twice in vain is handed the mutex directly.
 *
 * Zeroed memory is an unlocked mutex. It must not move. Whoever locks it last may destroy and free
 * it, even while the unlock before is still returning.
 * Needs: task.  Strip with: ASTHRA_RT_NO_MUTEX.
 */
#ifndef ASTHRA__MUTEX_H
#define ASTHRA__MUTEX_H

#include "../core/result.h"

#if ASTHRA_HAS_MUTEX

typedef struct AsthraMutex {
    uint64_t opaque[4];
} AsthraMutex;

#define ASTHRA_MUTEX_INIT { { 0, 0, 0, 0 } }

ASTHRA_RT_API void asthra_mutex_init(AsthraMutex *m);

/* Returns   ASTHRA_OK, and the caller owns it; of a caller that had to wait also ASTHRA_CANCELLED,
 *           and ASTHRA_OUT_OF_MEMORY if there was none to wait with.
 * Blocks    while another owns it.            Cost  about 10 ns when nobody does. */
ASTHRA_RT_API AsthraResult asthra_mutex_lock(AsthraMutex *m);

/* False: somebody owns it, perhaps the caller. */
ASTHRA_RT_API bool asthra_mutex_try_lock(AsthraMutex *m);

/* As lock, for at most timeout_ns (0: not at all, < 0: for ever): then ASTHRA_TIMED_OUT. */
ASTHRA_RT_API AsthraResult asthra_mutex_lock_timeout(AsthraMutex *m, int64_t timeout_ns);

/* Blocks: never. */
ASTHRA_RT_API void asthra_mutex_unlock(AsthraMutex *m);

/* Not needed for the memory's sake: there is nothing to free. */
ASTHRA_RT_API void asthra_mutex_destroy(AsthraMutex *m);

#endif
#endif
