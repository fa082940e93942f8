/* The lock and the once: private names, so the bodies are in this file. */
#include "test.h"
#define ASTHRA_RT_STATIC
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/time.h>

enum { THREADS = 4 };

static void on_threads(void *(*run)(void *), void *argument) {
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) CHECK(!pthread_create(&threads[i], NULL, run, argument));
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

TEST(sync, zeroed_lock_is_free) {
    Asthra__Lock l = {0};
    CHECK(!asthra__lock_is_held(&l));
    asthra__lock(&l);
    CHECK(asthra__lock_is_held(&l));
    asthra__unlock(&l);
    CHECK(!asthra__lock_is_held(&l));
}

TEST(sync, try_takes_a_free_lock_only) {
    Asthra__Lock l = {0};
    CHECK(asthra__lock_try(&l));
    CHECK(!asthra__lock_try(&l));
    CHECK(asthra__lock_is_held(&l));
    asthra__unlock(&l);
    CHECK(asthra__lock_try(&l));
}

typedef struct Counter {
    Asthra__Lock lock;
    long count, rounds;
    bool yields; /* inside the lock, so that the others must sleep */
} Counter;

static void *count_up(void *argument) {
    Counter *c = argument;
    for (long i = 0; i < c->rounds; i++) {
        asthra__lock(&c->lock);
        long seen = c->count;
        if (c->yields) sched_yield();
        c->count = seen + 1;
        asthra__unlock(&c->lock);
    }
    return NULL;
}

TEST(sync, one_thread_at_a_time) {
    Counter c = {.rounds = 50000};
    on_threads(count_up, &c);
    CHECK_EQ(c.count, THREADS * c.rounds);
    CHECK(!asthra__lock_is_held(&c.lock));
}

TEST(sync, every_sleeper_is_woken) { /* one that is not hangs this test */
    Counter c = {.rounds = 2000, .yields = true};
    on_threads(count_up, &c);
    CHECK_EQ(c.count, THREADS * c.rounds);
}

static void *lock_and_count(void *argument) {
    Counter *c = argument;
    asthra__lock(&c->lock);
    c->count++;
    asthra__unlock(&c->lock);
    return NULL;
}

#if !ASTHRA_HAS_THREADS /* nobody ever sleeps, and whoever asks has skipped before */
static uint32_t no_sleepers;
#define asthra__sync_sleepers(l) ((void)(l), &no_sleepers)
#endif

static void wait_for_sleepers(uint32_t count, const Asthra__Lock *l) {
    while (asthra__load(asthra__sync_sleepers(l), relaxed) < count) sched_yield();
}

TEST(sync, sleepers_are_counted_until_they_have_the_lock) {
    Counter c = {.count = 0};
    pthread_t threads[THREADS];
    asthra__lock(&c.lock);
    for (int i = 0; i < THREADS; i++) CHECK(!pthread_create(&threads[i], NULL, lock_and_count, &c));
    wait_for_sleepers(THREADS, &c.lock);
    CHECK_EQ(c.count, 0);
    asthra__unlock(&c.lock); /* one wake here, and one by each that unlocks */
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    CHECK_EQ(c.count, THREADS);
    CHECK_EQ(asthra__load(asthra__sync_sleepers(&c.lock), relaxed), 0);
}

static void *unlock(void *lock) {
    asthra__unlock(lock);
    return NULL;
}

TEST(sync, another_thread_may_unlock) {
    Asthra__Lock l = {0};
    pthread_t other;
    asthra__lock(&l);
    CHECK(!pthread_create(&other, NULL, unlock, &l));
    asthra__lock(&l);
    pthread_join(other, NULL);
    CHECK(asthra__lock_is_held(&l));
}

/* A lock alone on its page. A timer interrupts unlock again and again; where the lock is free then,
 * another thread could have freed it, so the handler takes the page away until unlock is done. */
static Asthra__Lock *alone;
static size_t alone_bytes;
static volatile sig_atomic_t is_unlocking, is_away, times_away;

static void take_away(int signal) {
    (void)signal;
    if (!is_unlocking || is_away || asthra__lock_is_held(alone)) return;
    is_away = 1;
    times_away++;
    mprotect(alone, alone_bytes, PROT_NONE);
}

TEST(sync, unlock_never_touches_the_lock_once_it_is_free) {
    struct sigaction action = {.sa_handler = take_away};
    struct itimerval often = {{0, 50}, {0, 50}};
    alone_bytes = asthra__os_page_size();
    alone = asthra__os_map(alone_bytes);
    CHECK(alone != NULL);
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    for (int64_t end = asthra__os_now_ns() + 1000000000; times_away < 300;) {
        asthra__lock(alone);
        is_unlocking = 1;
        asthra__unlock(alone);
        is_unlocking = 0;
        if (is_away) mprotect(alone, alone_bytes, PROT_READ | PROT_WRITE);
        is_away = 0;
        if (asthra__os_now_ns() > end) break; /* where signals are slow, fewer must do */
    }
}

TEST(sync, forked_child_forgets_the_sleepers_of_its_parent) {
    Counter c = {.count = 0};
    pthread_t other;
    asthra__thread(); /* arms the fork hooks */
    asthra__lock(&c.lock);
    CHECK(!pthread_create(&other, NULL, lock_and_count, &c));
    wait_for_sleepers(1, &c.lock);
    pid_t child = fork();
    if (child == 0) _exit(asthra__load(asthra__sync_sleepers(&c.lock), relaxed) == 0 ? 0 : 1);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    asthra__unlock(&c.lock);
    pthread_join(other, NULL);
}

static Asthra__Once once;
static int setups; /* how often it ran: once may not need a lock */
static bool is_set_up;

static void set_up(void) {
    setups++;
    for (int i = 0; i < 100; i++) sched_yield();
    is_set_up = true;
}
static void *need_setup(void *unused) {
    asthra__once(&once, set_up);
    CHECK(is_set_up);
    return unused;
}

TEST(sync, once_runs_once_and_all_wait_for_its_end) {
    on_threads(need_setup, NULL);
    need_setup(NULL);
    CHECK_EQ(setups, 1);
}
