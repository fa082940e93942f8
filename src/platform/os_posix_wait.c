/* os_posix - parking on condition variables.                               [os] body: parking
 *
 * Who sleeps puts a record with a condition variable of its own into the list of a bucket. Buckets
 * are chosen by the address of the word and have a mutex each. Somebody changes the word and calls
 * for a wake:
 *
 *     sleeper S                                waker W
 *     S1  locks the bucket                     W0  has changed the word
 *     S2  looks: the word is as expected       W1  locks the bucket
 *     S3  enlists, and waits, which unlocks    W2  takes the oldest sleepers of the word out of the
 *         until it is signalled or late            list, marks them, signals each
 *     S4  unmarked: leaves the list itself     W3  unlocks
 *     S5  unlocks
 *
 * No wake is lost. If W1 comes before S1, then S2 comes after W3 and sees the change of W0: S does
 * not sleep. Else W2 comes after S3, and finds S in the list.
 *
 * Others touch a record only while it is in the list and they hold the mutex, and S leaves only
 * with the mutex held: nobody touches a stack that is gone. Of the word W uses the address alone,
 * because what it stands in may have been freed. A wake is for one thread, however many sleep on
 * the word or share the bucket.
 *
 * Nothing here allocates, unless a C library does so in pthread_cond_init; where that is refused
 * the sleep ends early, as any may. A wait on a condition variable is a cancellation point, and who
 * was cancelled there would stay in the list, so cancellation is off meanwhile. None of this is for
 * signal handlers; ours neither wait nor wake.
 *
 * Fork. The child has none of the threads that held mutexes or stood in lists, and makes its
 * buckets anew. Its hook is registered before all others of the runtime and so runs before them:
 * they may wake.
 *
 * With one thread nobody is there to wake it: a sleep is a nap, cut short by any signal, and of
 * bounded length, so that what a signal handler wrote is seen.
 */
#include "os_internal.h"

#if ASTHRA_HAS_CORE && ASTHRA__SYS_POSIX

#include <errno.h>
#include <time.h>
#if ASTHRA_HAS_THREADS
#include <pthread.h>
#include <sched.h>
#endif

#if ASTHRA_HAS_THREADS

enum {
    ASTHRA__OS_BUCKET_BITS = 6,
    ASTHRA__OS_BUCKETS = 1 << ASTHRA__OS_BUCKET_BITS,
    ASTHRA__OS_SLEEP_MOST = 100000000 /* seconds: three years, which no time_t overflows on */
};

typedef struct Asthra__OsSleeper Asthra__OsSleeper;
struct Asthra__OsSleeper {
    Asthra__OsSleeper *next, **link; /* of the list; under the bucket's mutex, as all is */
    const void *word;
    pthread_cond_t is_due;
    bool is_woken; /* and out of the list */
};

typedef struct Asthra__OsBucket {
    ASTHRA__ALIGNED(64) pthread_mutex_t lock;
    Asthra__OsSleeper *first, **end; /* the oldest; where the next is linked */
} Asthra__OsBucket;

static struct {
    pthread_once_t once;
    pthread_condattr_t monotonic;
    Asthra__OsBucket buckets[ASTHRA__OS_BUCKETS];
} asthra__os_parking = {.once = PTHREAD_ONCE_INIT};

/* At the start, and in a forked child, whatever state the parent's were in. */
static void asthra__os_parking_clear(void) {
    for (size_t i = 0; i < ASTHRA__OS_BUCKETS; i++) {
        Asthra__OsBucket *b = &asthra__os_parking.buckets[i];
        pthread_mutex_init(&b->lock, NULL);
        b->first = NULL;
        b->end = &b->first;
    }
}

static void asthra__os_parking_setup(void) {
    pthread_condattr_init(&asthra__os_parking.monotonic);
    pthread_condattr_setclock(&asthra__os_parking.monotonic, CLOCK_MONOTONIC);
    asthra__os_parking_clear();
    pthread_atfork(NULL, NULL, asthra__os_parking_clear);
}

ASTHRA__FN void asthra__os_on_fork(void (*before)(void), void (*parent)(void),
                                   void (*child)(void)) {
    pthread_once(&asthra__os_parking.once, asthra__os_parking_setup);
    pthread_atfork(before, parent, child);
}

static Asthra__OsBucket *asthra__os_bucket(const void *word) {
    uint32_t hash = (uint32_t)((uintptr_t)word >> 2) * 2654435761u; /* Fibonacci hashing */
    pthread_once(&asthra__os_parking.once, asthra__os_parking_setup);
    return &asthra__os_parking.buckets[hash >> (32 - ASTHRA__OS_BUCKET_BITS)];
}

static void asthra__os_enlist(Asthra__OsBucket *b, Asthra__OsSleeper *s) {
    s->next = NULL;
    s->link = b->end;
    *b->end = s;
    b->end = &s->next;
}

static void asthra__os_unlist(Asthra__OsBucket *b, Asthra__OsSleeper *s) {
    *s->link = s->next;
    if (s->next)
        s->next->link = s->link;
    else
        b->end = s->link;
}

static struct timespec asthra__os_due(int64_t timeout_ns) {
    struct timespec due;
    int64_t seconds = timeout_ns / 1000000000;
    clock_gettime(CLOCK_MONOTONIC, &due);
    due.tv_sec += (time_t)(seconds < ASTHRA__OS_SLEEP_MOST ? seconds : ASTHRA__OS_SLEEP_MOST);
    due.tv_nsec += (long)(timeout_ns % 1000000000);
    if (due.tv_nsec < 1000000000) return due;
    due.tv_nsec -= 1000000000;
    due.tv_sec++;
    return due;
}

/* S1 to S5. */
static void asthra__os_sleep(Asthra__OsBucket *b, Asthra__OsSleeper *s,
                             ASTHRA__ATOMIC(uint32_t) * word, uint32_t expected,
                             const struct timespec *due) {
    pthread_mutex_lock(&b->lock);
    if (asthra__load(word, relaxed) == expected) {
        int error = 0;
        asthra__os_enlist(b, s);
        while (!s->is_woken && error == 0)
            error = due ? pthread_cond_timedwait(&s->is_due, &b->lock, due)
                        : pthread_cond_wait(&s->is_due, &b->lock);
        if (!s->is_woken) asthra__os_unlist(b, s);
    }
    pthread_mutex_unlock(&b->lock);
}

ASTHRA__FN void asthra__os_wait(ASTHRA__ATOMIC(uint32_t) * word, uint32_t expected,
                                int64_t timeout_ns) {
    Asthra__OsSleeper s = {.word = word};
    Asthra__OsBucket *b = asthra__os_bucket(word);
    struct timespec due;
    int saved = errno, cancel;
    if (timeout_ns >= 0) due = asthra__os_due(timeout_ns);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
    if (pthread_cond_init(&s.is_due, &asthra__os_parking.monotonic) == 0) {
        asthra__os_sleep(b, &s, word, expected, timeout_ns < 0 ? NULL : &due);
        pthread_cond_destroy(&s.is_due);
    } else {
        sched_yield();
    }
    pthread_setcancelstate(cancel, &cancel);
    errno = saved;
}

/* W1 to W3. */
ASTHRA__FN void asthra__os_wake(ASTHRA__ATOMIC(uint32_t) * word, uint32_t how_many) {
    int saved = errno;
    Asthra__OsBucket *b = asthra__os_bucket(word);
    pthread_mutex_lock(&b->lock);
    for (Asthra__OsSleeper *s = b->first, *next; s && how_many > 0; s = next) {
        next = s->next;
        if (s->word != word) continue;
        asthra__os_unlist(b, s);
        s->is_woken = true;
        pthread_cond_signal(&s->is_due);
        how_many--;
    }
    pthread_mutex_unlock(&b->lock);
    errno = saved;
}

#else

ASTHRA__FN void asthra__os_wait(ASTHRA__ATOMIC(uint32_t) * word, uint32_t expected,
                                int64_t timeout_ns) {
    const int64_t nap_ns = 999999999;
    int saved = errno;
    if (timeout_ns < 0 || timeout_ns > nap_ns) timeout_ns = nap_ns;
    struct timespec nap = {.tv_nsec = (long)timeout_ns};
    if (asthra__load(word, relaxed) == expected) nanosleep(&nap, NULL);
    errno = saved;
}

ASTHRA__FN void asthra__os_wake(ASTHRA__ATOMIC(uint32_t) * word, uint32_t how_many) {
    (void)word, (void)how_many;
}

ASTHRA__FN void asthra__os_on_fork(void (*before)(void), void (*parent)(void),
                                   void (*child)(void)) {
    (void)before, (void)parent, (void)child;
}

#endif

#endif
