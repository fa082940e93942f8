/* sync - the short lock under everything.                                  [sync] internal
 *
 * Asthra__Lock guards a few dozen instructions, or the copy of one value of any size: it spins
 * briefly, then sleeps. Unlocking is a plain store where the system has asymmetric fences. It may
 * be unlocked by another fiber or thread than the one that locked it, and it is free when zeroed.
 * Once another thread can have the lock, unlock never touches its memory again: whoever gets the
 * lock last may free what it stands in.
 */
#ifndef ASTHRA__SYNC_INTERNAL_H
#define ASTHRA__SYNC_INTERNAL_H

#include "../platform/os_internal.h"

#if ASTHRA_HAS_CORE

typedef struct Asthra__Lock {
    ASTHRA__ATOMIC(uint32_t) word; /* 1: held */
} Asthra__Lock;

/* With ASTHRA_RT_NO_THREADS a lock that is held already is a sure deadlock: said, then abort. */
ASTHRA__FN void asthra__lock(Asthra__Lock *l);
ASTHRA__FN bool asthra__lock_try(Asthra__Lock *l);
ASTHRA__FN void asthra__unlock(Asthra__Lock *l);
ASTHRA__FN bool asthra__lock_is_held(const Asthra__Lock *l); /* by anybody: for asserts */

/* Runs setup() once in the process's life, however many threads arrive; all wait for its end. setup
 * must not come back to the same once. */
typedef struct Asthra__Once {
    ASTHRA__ATOMIC(uint32_t) state;
} Asthra__Once;
ASTHRA__FN void asthra__once(Asthra__Once *once, void (*setup)(void));

/* Chooses the fences, once. A lock does it before it sleeps; until then an unlock is dearer. */
ASTHRA__FN void asthra__sync_setup(void);

/* In a forked child: forgets the threads that slept in the parent. Locks they held stay held. */
ASTHRA__FN void asthra__sync_fork_child(void);

#endif
#endif
