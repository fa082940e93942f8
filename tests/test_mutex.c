/* The promises of src/concurrency/mutex.h, one test each. */
#include "test.h"
#include "asthra_rt.h"

#include <pthread.h>

static void until_waiting(AsthraTaskHandle t) {
    while (asthra_task_state(t) != ASTHRA_TASK_WAITING) asthra_sleep_ns(10000);
}

static AsthraMutex plain = ASTHRA_MUTEX_INIT;

TEST(mutex, a_static_one_is_unlocked) {
    CHECK(asthra_mutex_try_lock(&plain));
    asthra_mutex_unlock(&plain);
    CHECK_EQ(asthra_mutex_lock(&plain).status, ASTHRA_OK);
    asthra_mutex_unlock(&plain);
    asthra_mutex_destroy(&plain);
}

TEST(mutex, init_makes_an_unlocked_one) {
    AsthraMutex m;
    memset(&m, 0xff, sizeof m);
    asthra_mutex_init(&m);
    CHECK(asthra_mutex_try_lock(&m));
    asthra_mutex_unlock(&m);
    asthra_mutex_destroy(&m);
}

TEST(mutex, try_fails_while_somebody_owns_it) {
    CHECK(asthra_mutex_try_lock(&plain));
    CHECK(!asthra_mutex_try_lock(&plain)); /* the caller too */
    CHECK_EQ(asthra_last_error().status, ASTHRA_WOULD_BLOCK);
    asthra_mutex_unlock(&plain);
    CHECK(asthra_mutex_try_lock(&plain));
    asthra_mutex_unlock(&plain);
}

/* ---- exclusion ---- */

enum { SIDES = 3, ROUNDS = 20000 };

static long counter;

static void *count_up(void *args) {
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_EQ(asthra_mutex_lock(args).status, ASTHRA_OK);
        counter++;
        asthra_mutex_unlock(args);
    }
    return NULL;
}

TEST(mutex, tasks_and_threads_exclude_each_other) {
    AsthraTaskHandle tasks[SIDES];
    pthread_t threads[SIDES];
    for (int i = 0; i < SIDES; i++) {
        tasks[i] = asthra_spawn(count_up, &plain);
        CHECK(!pthread_create(&threads[i], NULL, count_up, &plain));
    }
    for (int i = 0; i < SIDES; i++) {
        asthra_await(tasks[i]);
        pthread_join(threads[i], NULL);
    }
    CHECK_EQ(counter, 2 * SIDES * ROUNDS);
    asthra_mutex_destroy(&plain);
}

static int inside;

static void *hold_over_a_wait(void *args) {
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(asthra_mutex_lock(args).status, ASTHRA_OK);
        CHECK_EQ(inside, 0);
        inside = 1;
        asthra_sleep_ns(ASTHRA_US(20)); /* may go on under another worker */
        asthra_yield();
        inside = 0;
        asthra_mutex_unlock(args);
    }
    return NULL;
}

TEST(mutex, a_task_keeps_it_across_waits) {
    AsthraTaskHandle tasks[8];
    for (int i = 0; i < 8; i++) tasks[i] = asthra_spawn(hold_over_a_wait, &plain);
    for (int i = 0; i < 8; i++) asthra_await(tasks[i]);
    CHECK_EQ(inside, 0);
}

/* A mutex is more than one address: neighbours that share a bucket do not mix their waiters up. */
TEST(mutex, many_mutexes_do_not_disturb_each_other) {
    enum { MANY = 200 };
    static AsthraMutex m[MANY];
    AsthraTaskHandle tasks[8];
    for (int i = 0; i < MANY; i++) CHECK(asthra_mutex_try_lock(&m[i]));
    counter = 0;
    AsthraTaskHandle waiter = asthra_spawn(count_up, &m[7]);
    until_waiting(waiter);
    for (int i = 0; i < MANY; i++)
        if (i != 7) asthra_mutex_unlock(&m[i]);
    CHECK_EQ(asthra_task_state(waiter), ASTHRA_TASK_WAITING);
    asthra_mutex_unlock(&m[7]);
    asthra_await(waiter);
    CHECK_EQ(counter, ROUNDS);
    for (int i = 0; i < 8; i++) tasks[i] = asthra_spawn(hold_over_a_wait, &m[100]);
    for (int i = 0; i < 8; i++) asthra_await(tasks[i]);
    for (int i = 0; i < MANY; i++) asthra_mutex_destroy(&m[i]);
}

/* ---- time, cancellation, order ---- */

static void *lock_with_limits(void *args) {
    CHECK_EQ(asthra_mutex_lock_timeout(args, 0).status, ASTHRA_TIMED_OUT);
    CHECK_EQ(asthra_mutex_lock_timeout(args, ASTHRA_MS(1)).status, ASTHRA_TIMED_OUT);
    return NULL;
}

TEST(mutex, a_timed_lock_gives_up) {
    CHECK(asthra_mutex_try_lock(&plain));
    asthra_await(asthra_spawn(lock_with_limits, &plain));
    pthread_t t;
    CHECK(!pthread_create(&t, NULL, lock_with_limits, &plain));
    pthread_join(t, NULL);
    asthra_mutex_unlock(&plain);
    CHECK_EQ(asthra_mutex_lock_timeout(&plain, ASTHRA_SECONDS(3600)).status, ASTHRA_OK);
    asthra_mutex_unlock(&plain);
    asthra_mutex_destroy(&plain);
}

static void *lock_cancelled(void *args) {
    CHECK_EQ(asthra_mutex_lock(args).status, ASTHRA_CANCELLED);
    return NULL;
}

TEST(mutex, a_waiting_lock_of_a_cancelled_task_returns_cancelled) {
    CHECK(asthra_mutex_try_lock(&plain));
    AsthraTaskHandle t = asthra_spawn(lock_cancelled, &plain);
    until_waiting(t);
    CHECK(asthra_task_cancel(t));
    asthra_await(t);
    asthra_mutex_unlock(&plain);
    CHECK(asthra_mutex_try_lock(&plain));
    asthra_mutex_unlock(&plain);
    asthra_mutex_destroy(&plain);
}

static int order[5], arrived;

static void *note_arrival(void *args) {
    asthra_mutex_lock(&plain);
    order[arrived++] = *(int *)args;
    asthra_mutex_unlock(&plain);
    return NULL;
}

TEST(mutex, waiters_are_served_in_order) {
    static int names[5] = {0, 1, 2, 3, 4};
    AsthraTaskHandle tasks[5];
    CHECK(asthra_mutex_try_lock(&plain));
    for (int i = 0; i < 5; i++) {
        tasks[i] = asthra_spawn(note_arrival, &names[i]);
        until_waiting(tasks[i]);
    }
    asthra_mutex_unlock(&plain);
    for (int i = 0; i < 5; i++) asthra_await(tasks[i]);
    for (int i = 0; i < 5; i++) CHECK_EQ(order[i], i);
}

static bool is_served;

static void *be_served(void *args) {
    asthra_mutex_lock(args);
    is_served = true;
    asthra_mutex_unlock(args);
    return NULL;
}

/* On the only worker a passer-by is always first: who is woken runs when it is locked again. */
static void *be_greedy(void *args) {
    int rounds = 0;
    asthra_mutex_lock(args);
    AsthraTaskHandle t = asthra_spawn(be_served, args);
    while (asthra_task_state(t) != ASTHRA_TASK_WAITING) asthra_yield();
    for (; !is_served; rounds++) {
        CHECK(rounds < 20);
        asthra_mutex_unlock(args);
        asthra_mutex_lock(args);
        asthra_yield();
    }
    asthra_mutex_unlock(args);
    asthra_await(t);
    return NULL;
}

TEST(mutex, nobody_is_passed_for_ever) {
    AsthraRuntimeConfig config = asthra_runtime_config_default();
    config.worker_threads = 1;
    CHECK(asthra_runtime_init(&config));
    asthra_await(asthra_spawn(be_greedy, &plain));
}

/* ---- the end of a mutex ---- */

typedef struct Shared {
    AsthraMutex mutex;
    int users;
} Shared;

static void *leave_shared(void *args) {
    Shared *shared = args;
    asthra_mutex_lock(&shared->mutex);
    bool is_last = --shared->users == 0;
    asthra_mutex_unlock(&shared->mutex);
    if (is_last) free(shared);
    return NULL;
}

TEST(mutex, whoever_locks_it_last_may_free_it) {
    for (int i = 0; i < 1000; i++) {
        Shared *shared = calloc(1, sizeof *shared);
        AsthraTaskHandle tasks[3];
        shared->users = 4;
        for (int k = 0; k < 3; k++) tasks[k] = asthra_spawn(leave_shared, shared);
        leave_shared(shared);
        for (int k = 0; k < 3; k++) asthra_await(tasks[k]);
    }
}

/* ---- bugs of the caller ---- */

TEST_PANICS(mutex, locking_twice_panics, "already locked by this task") {
    asthra_mutex_lock(&plain);
    asthra_mutex_lock(&plain);
}
TEST_PANICS(mutex, unlocking_a_free_one_panics, "asthra_mutex_unlock: it is not locked") {
    asthra_mutex_unlock(&plain);
}

static void *unlock_it(void *args) {
    asthra_mutex_unlock(args);
    return NULL;
}

TEST_PANICS(mutex, unlocking_anothers_panics, "locked by another, thread 'main', which alone") {
    asthra_mutex_lock(&plain);
    asthra_await(asthra_spawn(unlock_it, &plain));
}
static void *lock_and_keep(void *args) {
    asthra_mutex_lock(args);
    return NULL;
}
TEST_PANICS(mutex, unlocking_what_a_task_took_along_panics, "another, a task that has ended,") {
    asthra_await(asthra_spawn(lock_and_keep, &plain));
    asthra_mutex_unlock(&plain);
}
TEST_PANICS(mutex, destroying_a_locked_one_panics, "it is still locked by thread 'main'") {
    asthra_mutex_lock(&plain);
    asthra_mutex_destroy(&plain);
}
TEST_PANICS(mutex, null_panics, "asthra_mutex_lock: the mutex is NULL") {
    asthra_mutex_lock(NULL);
}

/* ---- a wait without a limit ---- */

static void *lock_plain(void *unused) {
    asthra_mutex_lock(&plain);
    return unused;
}

/* It once had a timer, due in 292 years: under a seed, at once; else, nobody was told. */
static void lock_for_ever(uint64_t seed) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    NEED_TO_COUNT_THREADS();
    NEED_NO_EMULATOR("qemu-user has a thread of its own: nobody is asleep for sure");
    c.deterministic_seed = seed;
    c.worker_threads = 1;
    CHECK(asthra_runtime_init(&c));
    CHECK(asthra_mutex_try_lock(&plain));
    asthra_await(asthra_spawn(lock_plain, NULL));
}
TEST_PANICS(mutex, a_lock_that_never_comes_is_told, "lock of a mutex") {
    lock_for_ever(0);
}
TEST_PANICS(mutex, a_lock_that_never_comes_is_told_under_a_seed, "lock of a mutex") {
    lock_for_ever(1);
}
