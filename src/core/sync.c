/* sync - a word, a spin and a sleep.                                       [sync] body
 *
 * Locking exchanges the word from 0 to 1. Who finds 1 spins for some microseconds, because the
 * lock guards a few dozen instructions, and then sleeps on the word. Unlocking stores 0 and wakes
 * one sleeper if there is any.
 *
 * The spinner looks seldom, after pauses that double. Two threads that pass one lock to and fro
 * move its lines from core to core each time; who stays away for a microsecond lets the other do
 * dozens of rounds at home. Eight tasks on one channel at two workers: 81 ns a value with looks
 * after single pauses, 24 like this.
 *
 * Where sleepers are counted. A count inside the lock would be read after the store of 0, when the
 * next owner may already have freed the lock (a channel is destroyed after its last receive). So
 * the counts stand in a table of the process, chosen by the lock's address. Unlocking reads the
 * table and passes the word's address, but not the word, to the system. Two locks that share a
 * count cost each other a needless wake, and an address that was freed and used again gets an early
 * wake, which every sleeper must expect anyway.
 *
 * Why no wake is lost. The sleeper S and the unlocker U do
 *
 *     S1  sleepers += 1              U1  word = 0
 *         heavy fence                    light fence
 *     S2  exchange, or the           U2  sleepers != 0: wake one
 *         system's look, at word
 *
 * and the fences (os_internal.h) leave two interleavings. Either U2 sees S1: U wakes. If S is not
 * asleep yet then, the system's look at the word comes after U1, finds no 1, and S does not fall
 * asleep. Or U2 does not see S1: then S2 sees U1, and S takes the lock or looks again.
 *
 * A woken thread has no right to the lock: a passer-by may take it first, and the woken thread goes
 * back to sleep, still counted. Nothing is lost by that, since the passer-by, too, will unlock, see
 * the count and wake. For the same reason one wake for each unlock is enough for any number of
 * sleepers: suppose some sleep while the word stays 0. The last unlock saw their count and woke one
 * of them; that one found 0 and took the lock, or lost to somebody who did. Either way there was a
 * later unlock, against what was supposed.
 *
 * Counts go down only by their own thread, after it has the lock. A count read too high costs a
 * wake; it is never read too low, because S1 precedes the sleep and the fences order it.
 */
#include "sync_internal.h"

#if ASTHRA_HAS_CORE

#include <stdlib.h>

#if ASTHRA_HAS_THREADS

enum { ASTHRA__SYNC_PAUSE = 32, ASTHRA__SYNC_SPINS = 1000, ASTHRA__SYNC_COUNTS = 256 };

static struct {
    Asthra__Once fences;
    ASTHRA__ATOMIC(uint32_t) spins; /* rounds before sleeping, plus 1; 0: not asked for yet */
    ASTHRA__ATOMIC(uint32_t) sleepers[ASTHRA__SYNC_COUNTS];
} asthra__sync;

/* The count that this lock shares with others. Locks are at least 4 bytes apart. */
static inline ASTHRA__ATOMIC(uint32_t) * asthra__sync_sleepers(const Asthra__Lock *l) {
    uint32_t hash = (uint32_t)((uintptr_t)l >> 2) * 2654435761u; /* Fibonacci hashing */
    return &asthra__sync.sleepers[hash >> 24];
}

/* Spinning for a thread that is not running is a waste: none where there is one core. */
static uint32_t asthra__sync_spins(void) {
    uint32_t spins = asthra__load(&asthra__sync.spins, relaxed);
    if (spins) return spins - 1;
    spins = asthra__os_cores() > 1 ? ASTHRA__SYNC_SPINS : 0;
    asthra__store(&asthra__sync.spins, spins + 1, relaxed);
    return spins;
}

ASTHRA__COLD static void asthra__lock_slow(Asthra__Lock *l) {
    uint32_t spins = asthra__sync_spins();
    for (uint32_t pause = ASTHRA__SYNC_PAUSE; pause < spins; pause *= 2) {
        for (uint32_t i = 0; i < pause; i++) asthra__cpu_relax();
        if (!asthra__load(&l->word, relaxed) && asthra__lock_try(l)) return;
    }
    ASTHRA__ATOMIC(uint32_t) *sleepers = asthra__sync_sleepers(l);
    asthra__sync_setup(); /* a light fence may be free from now on: ours must know */
    asthra__add(sleepers, 1, relaxed);
    asthra__os_fence_heavy(); /* partner: the light fence in asthra__unlock */
    while (asthra__exchange(&l->word, 1, acquire)) asthra__os_wait(&l->word, 1, -1);
    asthra__sub(sleepers, 1, relaxed);
}

ASTHRA__COLD static void asthra__unlock_wake(Asthra__Lock *l) {
    asthra__os_wake(&l->word, 1);
}

ASTHRA__FN ASTHRA__FAST void asthra__lock(Asthra__Lock *l) {
    /* acquire: partner is the release in asthra__unlock */
    if (ASTHRA__UNLIKELY(asthra__exchange(&l->word, 1, acquire))) asthra__lock_slow(l);
}

ASTHRA__FN ASTHRA__FAST bool asthra__lock_try(Asthra__Lock *l) {
    return !asthra__exchange(&l->word, 1, acquire);
}

ASTHRA__FN ASTHRA__FAST void asthra__unlock(Asthra__Lock *l) {
    asthra__store(&l->word, 0, release);
    asthra__os_fence_light(); /* partner: the heavy fence in asthra__lock_slow */
    if (ASTHRA__UNLIKELY(asthra__load(asthra__sync_sleepers(l), relaxed))) asthra__unlock_wake(l);
}

enum { ASTHRA__ONCE_NEW, ASTHRA__ONCE_RUNNING, ASTHRA__ONCE_DONE };

ASTHRA__COLD static void asthra__once_slow(Asthra__Once *once, void (*setup)(void)) {
    uint32_t expected = ASTHRA__ONCE_NEW;
    if (asthra__cas(&once->state, &expected, ASTHRA__ONCE_RUNNING, acquire)) {
        setup();
        asthra__store(&once->state, ASTHRA__ONCE_DONE, release); /* partner: the acquire loads */
        asthra__os_wake(&once->state, INT32_MAX);
        return;
    }
    while (asthra__load(&once->state, acquire) != ASTHRA__ONCE_DONE)
        asthra__os_wait(&once->state, ASTHRA__ONCE_RUNNING, -1);
}

ASTHRA__FN void asthra__once(Asthra__Once *once, void (*setup)(void)) {
    if (ASTHRA__LIKELY(asthra__load(&once->state, acquire) == ASTHRA__ONCE_DONE)) return;
    asthra__once_slow(once, setup);
}

ASTHRA__FN void asthra__sync_setup(void) {
    asthra__once(&asthra__sync.fences, asthra__os_fence_setup);
}

ASTHRA__FN void asthra__sync_fork_child(void) {
    for (size_t i = 0; i < ASTHRA__SYNC_COUNTS; i++)
        asthra__store(&asthra__sync.sleepers[i], 0, relaxed);
}

#else /* one thread: a word that says held */

ASTHRA__COLD static void asthra__lock_deadlock(void) {
    static const char words[] = "asthra_rt: a lock was taken twice in a build without threads\n";
    asthra__os_write_error(words, sizeof words - 1);
    abort();
}

ASTHRA__FN bool asthra__lock_try(Asthra__Lock *l) {
    if (l->word) return false;
    l->word = 1;
    return true;
}

ASTHRA__FN void asthra__lock(Asthra__Lock *l) {
    if (ASTHRA__UNLIKELY(!asthra__lock_try(l))) asthra__lock_deadlock();
}

ASTHRA__FN void asthra__unlock(Asthra__Lock *l) {
    l->word = 0;
}

ASTHRA__FN void asthra__once(Asthra__Once *once, void (*setup)(void)) {
    if (once->state) return;
    once->state = 1;
    setup();
}

ASTHRA__FN void asthra__sync_setup(void) {}

ASTHRA__FN void asthra__sync_fork_child(void) {}

#endif

ASTHRA__FN bool asthra__lock_is_held(const Asthra__Lock *l) {
    return asthra__load(&l->word, relaxed) != 0;
}

#endif
