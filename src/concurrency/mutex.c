/* mutex - a word for the owner, and a table of waiters.                          [mutex] body
 *
 * The first word of a mutex is its owner's parker, or 0. Locking is one compare-and-swap. Unlocking
 * is a plain store, which halves the cost of a pair, and it must not touch the mutex afterwards,
 * because the next owner may free it. So the waiters do not stand in the mutex but in a table of
 * the process, in a bucket chosen by its address; who unlocks looks only at the bucket.
 *
 * Why no wake is lost. A waiter S and an unlocker U do
 *
 *     S1  asleep += 1, under the bucket's lock        U1  owner = 0
 *         heavy fence                                     light fence
 *     S2  try once more; park, which gives the        U2  asleep != 0: lock the bucket,
 *         bucket's lock back                              wake the oldest waiter
 *
 * and the fences (os_internal.h) leave two interleavings: U2 sees S1, and finds S parked; or S2
 * sees U1, and S takes the mutex or fails against a later owner, for whom the same holds.
 *
 * A woken waiter has no right to the mutex: a passer-by may take it first, which keeps the mutex
 * busy instead of idle while somebody wakes up. Against convoys at most one waiter of a mutex is
 * awake at a time: it keeps its place in the bucket, marked, and unlockers that see the mark wake
 * nobody else. When it gets the mutex it leaves the bucket, and its own unlock wakes the next; when
 * it does not, it sleeps again in the same place (S1 and S2 again, so whoever has the mutex then
 * will see it). One that was woken twice in vain is handed the mutex: the unlocker, which looks at
 * the bucket before U1 too, writes the waiter in as the owner. So nobody is passed for ever.
 *
 * `asleep` counts waiters without the mark: an unlock is fast while the only waiter is on its way.
 * Mutexes that share a bucket cost each other nothing but the look.
 */
#include "mutex.h"

#include "scheduler_internal.h"

#if ASTHRA_HAS_MUTEX

#include <string.h>

enum { ASTHRA__MUTEX_BUCKETS = 64, ASTHRA__MUTEX_PATIENCE = 2 };

typedef struct Asthra__MutexWaiter Asthra__MutexWaiter;
struct Asthra__MutexWaiter {
    Asthra__MutexWaiter *next, *prev;
    const AsthraMutex *mutex; /* compared, never followed */
    Asthra__Parker *parker;
    bool is_woken; /* on its way to try again */
    bool is_owner; /* was handed the mutex and unlinked */
    unsigned in_vain;
    Asthra__Wait wait;
};

typedef struct Asthra__MutexBucket {
    ASTHRA__ALIGNED(64) Asthra__Lock lock;
    ASTHRA__ATOMIC(uint32_t) asleep;
    Asthra__MutexWaiter *first, *last;
} Asthra__MutexBucket;

static struct {
    Asthra__MutexBucket buckets[ASTHRA__MUTEX_BUCKETS];
    Asthra__Once fork_hook;
} asthra__mutex;

typedef ASTHRA__ATOMIC(uintptr_t) Asthra__MutexWord __attribute__((__may_alias__));
_Static_assert(sizeof(Asthra__MutexWord) <= sizeof(AsthraMutex), "the owner fits");

static inline Asthra__MutexWord *asthra__mutex_owner(AsthraMutex *m) {
    return (Asthra__MutexWord *)(void *)m->opaque;
}

static inline Asthra__MutexBucket *asthra__mutex_bucket(const AsthraMutex *m) {
    uint32_t hash = (uint32_t)((uintptr_t)m >> 3) * 2654435761u; /* Fibonacci hashing */
    return &asthra__mutex.buckets[hash >> 26];
}
_Static_assert(ASTHRA__MUTEX_BUCKETS == 1 << (32 - 26), "the hash reaches each bucket");

static inline bool asthra__mutex_try(AsthraMutex *m, const Asthra__Parker *self) {
    uintptr_t nobody = 0;
    return asthra__cas(asthra__mutex_owner(m), &nobody, (uintptr_t)self, acquire);
}

/* ---- the bucket; its lock is held ---- */

static void asthra__mutex_append(Asthra__MutexBucket *b, Asthra__MutexWaiter *w) {
    w->next = NULL;
    w->prev = b->last;
    if (w->prev)
        w->prev->next = w;
    else
        b->first = w;
    b->last = w;
}

static void asthra__mutex_remove(Asthra__MutexBucket *b, const Asthra__MutexWaiter *w) {
    if (w->prev)
        w->prev->next = w->next;
    else
        b->first = w->next;
    if (w->next)
        w->next->prev = w->prev;
    else
        b->last = w->prev;
}

/* The oldest waiter of m from w on; NULL: none. */
static Asthra__MutexWaiter *asthra__mutex_find(Asthra__MutexWaiter *w, const AsthraMutex *m) {
    while (w && w->mutex != m) w = w->next;
    return w;
}

/* Claims the oldest waiter of m that still waits, and marks it; NULL: none, or one is on its
 * way. */
static Asthra__MutexWaiter *asthra__mutex_rouse(Asthra__MutexBucket *b, const AsthraMutex *m) {
    Asthra__MutexWaiter *w = asthra__mutex_find(b->first, m);
    for (; w; w = asthra__mutex_find(w->next, m)) {
        if (w->is_woken) return NULL;
        if (!asthra__wait_claim(w->parker)) continue; /* timed out or cancelled: it leaves itself */
        w->is_woken = true;
        w->wait.outcome = ASTHRA_OK;
        asthra__sub(&b->asleep, 1, relaxed);
        return w;
    }
    return NULL;
}

/* ---- waiting ---- */

/* In a forked child nobody waits any more, and no bucket is locked. */
static void asthra__mutex_fork_child(void) {
    for (int i = 0; i < ASTHRA__MUTEX_BUCKETS; i++) {
        Asthra__MutexBucket *b = &asthra__mutex.buckets[i];
        asthra__store(&b->lock.word, 0, relaxed);
        asthra__store(&b->asleep, 0, relaxed);
        b->first = b->last = NULL;
    }
}
static void asthra__mutex_hook_fork(void) {
    asthra__os_on_fork(NULL, NULL, asthra__mutex_fork_child);
}

/* Tries for about a microsecond, ever less often, so that the owner is not disturbed. */
static bool asthra__mutex_spin(AsthraMutex *m, const Asthra__Parker *self) {
    for (int pause = 1; pause <= 32; pause *= 2) {
        for (int i = 0; i < pause; i++) asthra__cpu_relax();
        if (!asthra__load(asthra__mutex_owner(m), relaxed) && asthra__mutex_try(m, self))
            return true;
    }
    return false;
}

static void asthra__mutex_leave(Asthra__MutexBucket *b, Asthra__MutexWaiter *w) {
    asthra__lock(&b->lock);
    if (!w->is_woken) asthra__sub(&b->asleep, 1, relaxed);
    asthra__mutex_remove(b, w);
    asthra__unlock(&b->lock);
}

/* Sleeps once. w stands in the bucket, whose lock is held and is given back. OK: woken, or it has
 * the mutex already; else the wait is over and w still stands in the bucket. */
static AsthraStatus asthra__mutex_sleep(AsthraMutex *m, Asthra__MutexBucket *b,
                                        Asthra__MutexWaiter *w, int64_t deadline_ns) {
    int64_t timeout_ns = -1;
    w->is_woken = false;
    asthra__add(&b->asleep, 1, relaxed);
    asthra__os_fence_heavy(); /* partner: the light fence in asthra_mutex_unlock */
    if (asthra__mutex_try(m, w->parker)) {
        asthra__sub(&b->asleep, 1, relaxed);
        asthra__mutex_remove(b, w);
        asthra__unlock(&b->lock);
        w->is_owner = true;
        return ASTHRA_OK;
    }
    if (deadline_ns != INT64_MAX) {
        timeout_ns = deadline_ns - asthra__now_ns();
        if (timeout_ns < 1) timeout_ns = 1;
    }
    w->wait.held = &b->lock;
    asthra__wait_open(&w->wait);
    return asthra__wait_park(&w->wait, timeout_ns);
}

ASTHRA__NOINLINE static AsthraStatus asthra__mutex_wait(AsthraMutex *m, Asthra__Parker *self,
                                                        int64_t timeout_ns) {
    Asthra__MutexBucket *b = asthra__mutex_bucket(m);
    int64_t deadline_ns = timeout_ns < 0 ? INT64_MAX : asthra__deadline(timeout_ns);
    Asthra__MutexWaiter w;
    memset(&w, 0, sizeof w);
    w.mutex = m;
    w.parker = self;
    w.wait.what = "lock of a mutex";
    asthra__once(&asthra__mutex.fork_hook, asthra__mutex_hook_fork);
    asthra__lock(&b->lock);
    asthra__mutex_append(b, &w);
    for (;;) {
        AsthraStatus status = asthra__mutex_sleep(m, b, &w, deadline_ns);
        if (w.is_owner) return ASTHRA_OK;
        if (status != ASTHRA_OK || asthra__mutex_try(m, self) || asthra__mutex_spin(m, self)) {
            asthra__mutex_leave(b, &w);
            return status;
        }
        w.in_vain++;
        asthra__lock(&b->lock);
    }
}

ASTHRA__NOINLINE static AsthraResult asthra__mutex_lock_slow(AsthraMutex *m, Asthra__Parker *self,
                                                             int64_t timeout_ns) {
    if (asthra__load(asthra__mutex_owner(m), relaxed) == (uintptr_t)self)
        asthra_panic_at(NULL, "asthra_mutex_lock: already locked by this task or thread");
    if (timeout_ns == 0) return asthra__result_of(ASTHRA_TIMED_OUT);
    if (asthra__mutex_spin(m, self)) return asthra__result_of(ASTHRA_OK);
    return asthra__result_of(asthra__mutex_wait(m, self, timeout_ns));
}

/* ---- unlocking ---- */

/* Hands the mutex to the oldest waiter if it has been patient, else frees it and wakes that one.
 * The bucket is not empty; the caller owns m. */
ASTHRA__NOINLINE static void asthra__mutex_pass_on(AsthraMutex *m, Asthra__MutexBucket *b) {
    asthra__lock(&b->lock);
    Asthra__MutexWaiter *w = asthra__mutex_rouse(b, m);
    Asthra__Parker *parker = w ? w->parker : NULL;
    bool is_handed = w && w->in_vain >= ASTHRA__MUTEX_PATIENCE;
    if (is_handed) {
        asthra__mutex_remove(b, w);
        w->is_owner = true;
    }
    /* release: partner is the acquire in asthra__mutex_try, or the wake */
    asthra__store(asthra__mutex_owner(m), is_handed ? (uintptr_t)parker : 0, release);
    asthra__unlock(&b->lock);
    if (parker) asthra__wait_wake(parker);
}

/* Wakes the oldest waiter of m, which is free, perhaps locked again, perhaps gone. */
ASTHRA__NOINLINE static void asthra__mutex_wake(const AsthraMutex *m, Asthra__MutexBucket *b) {
    asthra__lock(&b->lock);
    Asthra__MutexWaiter *w = asthra__mutex_rouse(b, m);
    Asthra__Parker *parker = w ? w->parker : NULL;
    asthra__unlock(&b->lock);
    if (parker) asthra__wait_wake(parker);
}

/* ---- the contract ---- */

#define ASTHRA__MUTEX_NEEDS(m)             \
    (ASTHRA__LIKELY((m) != NULL) ? (void)0 \
                                 : asthra_panic_at(NULL, "%s: the mutex is NULL", __func__))

ASTHRA_RT_API void asthra_mutex_init(AsthraMutex *m) {
    ASTHRA__MUTEX_NEEDS(m);
    memset(m, 0, sizeof *m);
}

static inline AsthraResult asthra__mutex_lock(AsthraMutex *m, int64_t timeout_ns) {
    asthra__turn();
    Asthra__Parker *self = asthra__parker();
    AsthraResult ok = {0, 0, {NULL}};
    if (ASTHRA__LIKELY(asthra__mutex_try(m, self))) return ok;
    return asthra__mutex_lock_slow(m, self, timeout_ns);
}

ASTHRA_RT_API AsthraResult asthra_mutex_lock(AsthraMutex *m) {
    ASTHRA__MUTEX_NEEDS(m);
    return asthra__mutex_lock(m, -1);
}

ASTHRA_RT_API AsthraResult asthra_mutex_lock_timeout(AsthraMutex *m, int64_t timeout_ns) {
    ASTHRA__MUTEX_NEEDS(m);
    return asthra__mutex_lock(m, timeout_ns);
}

ASTHRA_RT_API bool asthra_mutex_try_lock(AsthraMutex *m) {
    ASTHRA__MUTEX_NEEDS(m);
    asthra__turn();
    if (ASTHRA__LIKELY(asthra__mutex_try(m, asthra__parker()))) return true;
    asthra__error_note(ASTHRA_WOULD_BLOCK);
    return false;
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__mutex_not_mine(uintptr_t owner) {
    char name[96];
    if (!owner) asthra_panic_at(NULL, "asthra_mutex_unlock: it is not locked");
    asthra_panic_at(NULL,
                    "asthra_mutex_unlock: it was locked by another, %s, which alone may unlock it",
                    asthra__parker_name_if_any(owner, name, sizeof name));
}

ASTHRA_RT_API void asthra_mutex_unlock(AsthraMutex *m) {
    ASTHRA__MUTEX_NEEDS(m);
    asthra__turn();
    Asthra__MutexBucket *b = asthra__mutex_bucket(m);
    uintptr_t owner = asthra__load(asthra__mutex_owner(m), relaxed);
    if (ASTHRA__UNLIKELY(owner != (uintptr_t)asthra__parker())) asthra__mutex_not_mine(owner);
    if (ASTHRA__UNLIKELY(asthra__load(&b->asleep, relaxed))) {
        asthra__mutex_pass_on(m, b);
        return;
    }
    asthra__store(asthra__mutex_owner(m), 0,
                  release);   /* partner: the acquire in asthra__mutex_try */
    asthra__os_fence_light(); /* partner: the heavy fence in asthra__mutex_sleep */
    if (ASTHRA__UNLIKELY(asthra__load(&b->asleep, relaxed))) asthra__mutex_wake(m, b);
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__mutex_in_use(uintptr_t owner) {
    char name[96];
    if (!owner) asthra_panic_at(NULL, "asthra_mutex_destroy: it is still waited for");
    asthra_panic_at(NULL, "asthra_mutex_destroy: it is still locked by %s; unlock it first",
                    asthra__parker_name_if_any(owner, name, sizeof name));
}

ASTHRA_RT_API void asthra_mutex_destroy(AsthraMutex *m) {
    ASTHRA__MUTEX_NEEDS(m);
    Asthra__MutexBucket *b = asthra__mutex_bucket(m);
    uintptr_t owner = asthra__load(asthra__mutex_owner(m), relaxed);
    asthra__lock(&b->lock);
    bool is_awaited = asthra__mutex_find(b->first, m) != NULL;
    asthra__unlock(&b->lock);
    if (owner || is_awaited) asthra__mutex_in_use(owner);
    memset(m, 0, sizeof *m);
}

#endif
