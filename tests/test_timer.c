/* The promises of src/concurrency/timer.h, one test each. */
#include "test.h"
#include "asthra_rt.h"

#include <pthread.h>
#include <stdatomic.h>

#define NUMBER(n) ((void *)(intptr_t)(n))

static void start(size_t workers) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = workers;
    CHECK(asthra_runtime_init(&c));
}

static void start_seeded(uint64_t seed) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.deterministic_seed = seed;
    CHECK(asthra_runtime_init(&c));
}

static void until_waiting(AsthraTaskHandle t) {
    while (asthra_task_state(t) != ASTHRA_TASK_WAITING) asthra_sleep_ns(10000);
}

TEST(timer, the_units_are_nanoseconds) {
    CHECK_EQ(ASTHRA_US(3), 3000);
    CHECK_EQ(ASTHRA_MS(3), 3000000);
    CHECK_EQ(ASTHRA_SECONDS(3), INT64_C(3000000000));
    CHECK(ASTHRA_FOREVER < 0);
}

TEST(timer, now_never_goes_back) {
    int64_t before = asthra_now_ns();
    for (int i = 0; i < 10000; i++) {
        int64_t now = asthra_now_ns();
        CHECK(now >= before);
        before = now;
    }
}

static void *sleeps_at_least(void *ns) {
    int64_t before = asthra_now_ns(), wanted = (int64_t)(intptr_t)ns;
    CHECK_EQ(asthra_sleep_ns(wanted).status, ASTHRA_OK);
    CHECK(asthra_now_ns() - before >= wanted);
    return NULL;
}

static void sleeps(size_t workers) {
    AsthraTaskHandle h[60];
    start(workers);
    for (int i = 0; i < 60; i++) h[i] = asthra_spawn(sleeps_at_least, NUMBER(i * i * 1000));
    sleeps_at_least(NUMBER(1000000)); /* main */
    for (int i = 0; i < 60; i++) asthra_await(h[i]);
    asthra_runtime_shutdown();
}

TEST(timer, sleep_waits_at_least_that_long) {
    for (size_t workers = 1; workers <= 4; workers++) sleeps(workers);
}

static void *thread_sleeps(void *ns) {
    errno = 12;
    sleeps_at_least(ns);
    CHECK_EQ(errno, 12);
    return NULL;
}

TEST(timer, plain_threads_sleep_too) {
    pthread_t t[4];
    for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, thread_sleeps, NUMBER(i * 1000000));
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
}

TEST(timer, a_sleep_of_nothing_is_ok) {
    for (int i = 0; i < 1000; i++) CHECK_EQ(asthra_sleep_ns(0).status, ASTHRA_OK);
}

static void *sleeps_without_end(void *ns) {
    return NUMBER(asthra_sleep_ns(*(const int64_t *)ns).status);
}

TEST(timer, a_negative_or_huge_sleep_waits_for_a_cancellation) {
    static int64_t longs[] = {-1, INT64_MIN, INT64_MAX, INT64_MAX - 1, INT64_MAX / 2};
    for (size_t i = 0; i < sizeof longs / sizeof *longs; i++) {
        AsthraTaskHandle h = asthra_spawn(sleeps_without_end, &longs[i]);
        until_waiting(h);
        asthra_sleep_ns(ASTHRA_MS(1));
        CHECK_EQ(asthra_task_state(h), ASTHRA_TASK_WAITING);
        CHECK(asthra_task_cancel(h));
        CHECK_EQ((intptr_t)asthra_await(h), ASTHRA_CANCELLED);
    }
}

/* ---- order: in virtual time it is exact ---- */

static int64_t woken[200];
static atomic_int woken_count;
static void *notes_its_time(void *ns) {
    asthra_sleep_ns((int64_t)(intptr_t)ns);
    CHECK_EQ(asthra_now_ns() % 1000, 0);
    woken[atomic_fetch_add(&woken_count, 1)] = (int64_t)(intptr_t)ns;
    return NULL;
}

TEST(timer, sleepers_wake_in_the_order_of_their_times) {
    for (uint64_t seed = 1; seed <= 10; seed++) {
        AsthraTaskHandle h[200];
        atomic_store(&woken_count, 0);
        start_seeded(seed);
        asthra_cancel_mask_begin();
        for (int i = 0; i < 200; i++) {
            h[i] = asthra_spawn(notes_its_time, NUMBER((i * 77 + 13) % 200 * 1000000 + 1000000));
        }
        for (int i = 0; i < 200; i++) asthra_await(h[i]);
        for (int i = 1; i < 200; i++) CHECK(woken[i] > woken[i - 1]);
        asthra_runtime_shutdown();
    }
}

TEST(timer, virtual_time_costs_no_time_and_is_exact) {
    start_seeded(5);
    int64_t before = asthra_now_ns();
    CHECK_EQ(asthra_sleep_ns(ASTHRA_SECONDS(86400) * 365).status, ASTHRA_OK);
    CHECK_EQ(asthra_now_ns() - before, ASTHRA_SECONDS(86400) * 365);
    asthra_runtime_shutdown();
}

/* ---- many ---- */

TEST_WITHIN(60, timer, a_hundred_thousand_timers) {
    enum { MOST = 100000 };
    static AsthraTaskHandle h[MOST];
    int count = UNDER_TSAN ? 2000 : MOST;
#if defined(__SANITIZE_ADDRESS__)
    count = 20000;
#endif
    start(2);
    for (int i = 0; i < count; i++) {
        h[i] = asthra_spawn(sleeps_at_least, NUMBER((i * 7919 % 50000) * 1000));
        CHECK(h[i].bits != 0);
    }
    for (int i = 0; i < count; i++) asthra_await(h[i]);
    asthra_runtime_shutdown();
}

static AsthraChannel *channel;
static void *receives_timed(void *count) {
    int value, ok = 0;
    for (intptr_t i = 0; i < (intptr_t)count; i++) {
        AsthraResult r = asthra_channel_receive_timeout(channel, &value, ASTHRA_SECONDS(3600));
        ok += r.status == ASTHRA_OK;
    }
    return NUMBER(ok);
}

TEST(timer, timeouts_that_never_fire_leave_nothing_behind) {
    intptr_t count = UNDER_TSAN ? 3000 : 50000;
    start(2);
    channel = asthra_channel_create(sizeof(int), 0, "c");
    AsthraTaskHandle h = asthra_spawn(receives_timed, NUMBER(count));
    for (int i = 0; i < count; i++) CHECK_EQ(asthra_channel_send(channel, &i).status, ASTHRA_OK);
    CHECK_EQ((intptr_t)asthra_await(h), count);
    asthra_channel_destroy(channel);
    asthra_runtime_shutdown();
}

static atomic_int stop;
static void *computes(void *unused) {
    while (!atomic_load(&stop)) continue;
    return unused;
}
static void *sleeps_then_stops(void *unused) {
    asthra_sleep_ns(ASTHRA_MS(1));
    atomic_store(&stop, 1); /* nobody saw it wait, perhaps: whoever waits for that looks here too */
    return unused;
}
static void *computes_after_spawning_a_sleeper(void *unused) {
    AsthraTaskHandle h = asthra_spawn(sleeps_then_stops, NULL);
    while (asthra_task_state(h) != ASTHRA_TASK_WAITING && !atomic_load(&stop)) asthra_yield();
    computes(NULL);
    asthra_await(h);
    return unused;
}

/* Its own worker never looks at its timers: another one has to. */
TEST(timer, timers_of_a_worker_that_computes_fire) {
    NEED_THREADS();
    for (int i = 0; i < 20; i++) {
        atomic_store(&stop, 0);
        start(2);
        AsthraTaskHandle h = asthra_spawn(computes_after_spawning_a_sleeper, NULL);
        asthra_await(h);
        asthra_runtime_shutdown();
    }
}

static void *yields_for_a_while(void *unused) {
    while (!atomic_load(&stop)) asthra_yield();
    return unused;
}

TEST(timer, timers_fire_among_yielders) {
    start(1);
    AsthraTaskHandle a = asthra_spawn(yields_for_a_while, NULL);
    AsthraTaskHandle b = asthra_spawn(yields_for_a_while, NULL);
    AsthraTaskHandle c = asthra_spawn(sleeps_then_stops, NULL);
    asthra_await(c);
    asthra_await(a);
    asthra_await(b);
}

/* ---- who lies down last must know the nearest timer ---- */

static void *sends_again_and_again(void *unused) {
    for (int i = 0; i < 50; i++) {
        struct timespec pause = {0, 2000000};
        nanosleep(&pause, NULL); /* everybody rests meanwhile */
        CHECK_EQ(asthra_channel_send(channel, &i).status, ASTHRA_OK);
    }
    return unused;
}
static void *sleeps_very_long(void *unused) {
    asthra_sleep_ns(ASTHRA_SECONDS(100000));
    return unused;
}

TEST(timer, a_near_timer_fires_although_a_worker_sleeps_until_a_far_one) {
    for (size_t workers = 2; workers <= 4; workers++) {
        pthread_t t;
        start(workers);
        channel = asthra_channel_create(sizeof(int), 0, "c");
        AsthraTaskHandle far = asthra_spawn(sleeps_very_long, NULL);
        until_waiting(far);
        CHECK_EQ(pthread_create(&t, NULL, sends_again_and_again, NULL), 0);
        for (int i = 0, value; i < 50; i++) {
            CHECK_EQ(asthra_channel_receive(channel, &value).status, ASTHRA_OK);
            CHECK_EQ(asthra_sleep_ns(ASTHRA_US(500)).status, ASTHRA_OK);
        }
        pthread_join(t, NULL);
        asthra_task_cancel(far);
        asthra_await(far);
        asthra_channel_destroy(channel);
        asthra_runtime_shutdown();
    }
}

/* ---- races of a timer with a peer and a cancel ---- */

typedef struct Brief {
    int64_t ns;
    AsthraResult result;
    int value;
} Brief;
static void *receives_briefly(void *args) {
    Brief *b = args;
    b->result = asthra_channel_receive_timeout(channel, &b->value, b->ns);
    return NULL;
}

TEST(timer, a_timeout_races_with_a_send_and_a_cancel) {
    int rounds = UNDER_TSAN ? 300 : 5000;
    start(4);
    channel = asthra_channel_create(sizeof(int), 0, "c");
    for (int i = 0; i < rounds; i++) {
        Brief b = {.ns = i % 40 * 500 + 1000, .result = {.status = 99}, .value = -1};
        AsthraTaskHandle h = asthra_spawn(receives_briefly, &b);
        if (i % 3 == 0) asthra_sleep_ns(i % 20 * 500);
        AsthraResult sent = asthra_channel_send_timeout(channel, &i, i % 30 * 300);
        if (i % 2) asthra_task_cancel(h);
        asthra_await_result(h, NULL);
        if (b.result.status == 99) CHECK(i % 2); /* cancelled before it started */
        CHECK_EQ(sent.status == ASTHRA_OK, b.result.status == ASTHRA_OK);
        CHECK_EQ(b.value, b.result.status == ASTHRA_OK ? i : -1);
    }
    asthra_channel_destroy(channel);
    asthra_runtime_shutdown();
}
