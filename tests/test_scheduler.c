/* What the scheduler promises beyond single calls: nobody sleeps for ever unseen, nobody is woken
 * in vain, the deterministic mode repeats itself. Private names, and ASTHRA_RT_NO_AUTO_INIT. */
#include "test.h"
#define ASTHRA_RT_IMPLEMENTATION
#define ASTHRA_RT_STATIC
#define ASTHRA_RT_NO_AUTO_INIT
#include "asthra_rt.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define NUMBER(n) ((void *)(intptr_t)(n))

static void start_as(size_t workers, AsthraMainThread main_thread) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = workers;
    c.main_thread = main_thread;
    CHECK(asthra_runtime_init(&c));
}
static void start(size_t workers) {
    start_as(workers, ASTHRA_MAIN_HELPS);
}

static void *add_one(void *n) {
    return NUMBER((intptr_t)n + 1);
}

static void pause_ms(long ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* Main too, if it is one of them. */
static void until_workers_rest(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (!ASTHRA_HAS_THREADS) return; /* main alone */
    for (unsigned i = 0; i < asthra__load(&g->worker_count, acquire); i++)
        while (asthra__load(&g->workers[i].asleep, acquire) == 0) sched_yield();
}

/* ---- without auto-init ---- */

TEST_PANICS(scheduler, use_before_init_is_a_clear_error, "used before asthra_runtime_init") {
    asthra_spawn(add_one, NULL);
}
TEST_PANICS(scheduler, a_wait_before_init_is_a_clear_error, "used before asthra_runtime_init") {
    asthra_sleep_ns(0);
}
TEST_PANICS(scheduler, use_after_shutdown_is_a_clear_error, "used before asthra_runtime_init") {
    start(2);
    CHECK_EQ((intptr_t)asthra_await(asthra_spawn(add_one, NULL)), 1);
    asthra_runtime_shutdown();
    asthra_channel_create(1, 1, "late");
}

/* ---- layout ---- */

TEST(scheduler, words_that_different_threads_write_are_on_different_lines) {
    CHECK(offsetof(Asthra__Worker, next) / 64 != offsetof(Asthra__Worker, deque) / 64);
    CHECK(offsetof(Asthra__Worker, asleep) / 64 != offsetof(Asthra__Worker, bound) / 64);
    CHECK(offsetof(Asthra__Deque, tail) / 64 != offsetof(Asthra__Deque, head) / 64);
    CHECK(offsetof(Asthra__Ring, head) / 64 != offsetof(Asthra__Ring, tail) / 64);
    CHECK(sizeof(Asthra__Worker) % 128 == 0);
}

/* ---- queues ---- */

TEST(scheduler, a_list_keeps_its_order_whatever_is_taken_out) {
    static Asthra__ListQueue q;
    static Asthra__Runnable items[50];
    for (int i = 0; i < 50; i++) asthra__list_push(&q, &items[i]);
    CHECK(asthra__list_pop_at(&q, 49) == &items[49]);
    CHECK(asthra__list_pop_at(&q, 1000) == &items[48]);
    CHECK(asthra__list_remove(&q, &items[20]));
    CHECK(!asthra__list_remove(&q, &items[20]));
    CHECK(asthra__list_remove(&q, &items[47]));
    asthra__list_push(&q, &items[47]);
    for (int i = 0; i < 47; i++) {
        if (i != 20) CHECK(asthra__list_pop(&q) == &items[i]);
    }
    CHECK(asthra__list_pop(&q) == &items[47]);
    CHECK(asthra__list_pop(&q) == NULL);
    CHECK(asthra__list_pop_at(&q, 3) == NULL);
    asthra__list_push(&q, &items[0]);
    CHECK(asthra__list_pop(&q) == &items[0]);
}

TEST(scheduler, a_ranked_queue_orders_by_priority_then_age_and_the_old_rise) {
    static Asthra__RankedQueue q;
    static Asthra__Ranked ranks[1000];
    static Asthra__Runnable items[1000];
    for (int i = 0; i < 1000; i++) {
        items[i].priority = i * 37 % 10;
        ranks[i].item = &items[i];
        asthra__ranked_push(&q, &ranks[i]);
    }
    Asthra__Runnable *before = NULL, *now;
    for (int i = 0; i < 1000; i++, before = now) {
        CHECK((now = asthra__ranked_pop(&q)) != NULL);
        if (!before) continue;
        CHECK(now->priority < before->priority ||
              (now->priority == before->priority && now > before));
    }
    CHECK(asthra__ranked_pop(&q) == NULL);
    items[0].priority = 0;
    asthra__ranked_push(&q, &ranks[0]);
    q.sequence += 1 << 20; /* a million later ones */
    items[1].priority = 1;
    asthra__ranked_push(&q, &ranks[1]);
    CHECK(asthra__ranked_pop(&q) == &items[0]);
}

TEST(scheduler, a_ring_holds_what_it_can_and_says_when_it_is_full) {
    static Asthra__Ring r;
    static Asthra__Runnable items[ASTHRA__RING + 1];
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < ASTHRA__RING; i++) CHECK(asthra__ring_push(&r, &items[i]));
        CHECK(!asthra__ring_push(&r, &items[ASTHRA__RING]));
        CHECK_EQ(asthra__ring_count(&r), ASTHRA__RING);
        for (int i = 0; i < ASTHRA__RING; i++) CHECK(asthra__ring_pop(&r) == &items[i]);
        CHECK(asthra__ring_pop(&r) == NULL);
        for (int i = 0; i < 100; i++) CHECK(asthra__ring_push(&r, &items[i]));
        for (int i = 0; i < 100; i++) CHECK(asthra__ring_pop(&r) == &items[i]);
    }
}

/* ---- wake-ups ---- */

static AsthraChannel *channel;
static atomic_int flag;

static void *sends_to_main(void *unused) {
    for (int i = 0; i < 30; i++) {
        pause_ms(2); /* everybody rests meanwhile */
        CHECK_EQ(asthra_channel_send(channel, &i).status, ASTHRA_OK);
        while (atomic_load(&flag) <= i) sched_yield();
    }
    return unused;
}
static void *sets_flag_for_each(void *other) {
    int value;
    while (asthra_channel_next(other, &value, sizeof value)) atomic_store(&flag, value + 1);
    return NULL;
}

/* Main wakes a task into its own slot and goes away to compute: another worker takes the task. */
TEST(scheduler, what_main_woke_runs_while_main_is_away) {
    for (size_t workers = 2; workers <= 4; workers++) {
        pthread_t t;
        start(workers);
        atomic_store(&flag, 0);
        channel = asthra_channel_create(sizeof(int), 0, "to main");
        AsthraChannel *other = asthra_channel_create(sizeof(int), 0, "to task");
        AsthraTaskHandle h = asthra_spawn(sets_flag_for_each, other);
        CHECK_EQ(pthread_create(&t, NULL, sends_to_main, NULL), 0);
        for (int i = 0, value; i < 30; i++) {
            CHECK_EQ(asthra_channel_receive(channel, &value).status, ASTHRA_OK);
            CHECK_EQ(asthra_channel_send(other, &value).status, ASTHRA_OK);
            while (atomic_load(&flag) <= i) sched_yield(); /* outside the runtime */
        }
        pthread_join(t, NULL);
        asthra_channel_close(other);
        asthra_await(h);
        asthra_channel_destroy(channel);
        asthra_channel_destroy(other);
        asthra_runtime_shutdown();
    }
}

static atomic_int stop;
static void *ticks_until_stopped(void *unused) {
    while (!atomic_load(&stop)) asthra_sleep_ns(ASTHRA_US(20));
    return unused;
}
static void *yields_until_stopped(void *unused) {
    while (!atomic_load(&stop)) asthra_yield();
    return unused;
}
static void *echoes_flag(void *c) {
    int value;
    while (asthra_channel_next(c, &value, sizeof value)) atomic_store(&flag, value + 1);
    return NULL;
}

/* The other worker is never idle for long, or never at all: still it looks after main's. */
static void main_is_away_beside(AsthraTaskFunction busy, int count) {
    AsthraTaskHandle h[4];
    NEED_THREADS();
    start(2);
    AsthraChannel *c = asthra_channel_create(sizeof(int), 0, "to task");
    AsthraTaskHandle waker = asthra_spawn(echoes_flag, c);
    for (int i = 0; i < count; i++) h[i] = asthra_spawn(busy, NULL);
    asthra_sleep_ns(ASTHRA_MS(1));
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(asthra_channel_send(c, &i).status, ASTHRA_OK);
        while (atomic_load(&flag) <= i) sched_yield(); /* outside the runtime */
    }
    AsthraTaskHandle queued = asthra_spawn(add_one, NULL);
    while (asthra_task_state(queued) != ASTHRA_TASK_COMPLETED) sched_yield();
    asthra_await(queued);
    atomic_store(&stop, 1);
    asthra_channel_close(c);
    asthra_await(waker);
    for (int i = 0; i < count; i++) asthra_await(h[i]);
    asthra_channel_destroy(c);
    asthra_runtime_shutdown();
}

TEST(scheduler, what_main_woke_runs_beside_a_worker_that_ticks) {
    main_is_away_beside(ticks_until_stopped, 1);
}
TEST(scheduler, what_main_woke_runs_beside_a_worker_that_is_never_idle) {
    main_is_away_beside(yields_until_stopped, 3);
}

static void *hands_on(void *args) {
    AsthraChannel **pair = args;
    int value;
    while (asthra_channel_next(pair[0], &value, sizeof value)) {
        value++;
        asthra_channel_send(pair[1], &value);
    }
    asthra_channel_close(pair[1]);
    return NULL;
}

/* A ring of tasks that lie down between any two steps. */
static void ring(size_t workers, int tasks, int balls) {
    AsthraChannel *c[65], *pairs[64][2];
    AsthraTaskHandle h[64];
    start(workers);
    for (int i = 0; i <= tasks; i++)
        c[i] = asthra_channel_create(sizeof(int), (size_t)i % 3, "ring");
    for (int i = 0; i < tasks; i++) {
        pairs[i][0] = c[i], pairs[i][1] = c[i + 1];
        h[i] = asthra_spawn(hands_on, pairs[i]);
    }
    for (int i = 0; i < balls; i++) {
        int value = i;
        CHECK_EQ(asthra_channel_send(c[0], &value).status, ASTHRA_OK);
        CHECK_EQ(asthra_channel_receive(c[tasks], &value).status, ASTHRA_OK);
        CHECK_EQ(value, i + tasks);
    }
    asthra_channel_close(c[0]);
    for (int i = 0; i < tasks; i++) asthra_await(h[i]);
    for (int i = 0; i <= tasks; i++) asthra_channel_destroy(c[i]);
    asthra_runtime_shutdown();
}

TEST(scheduler, no_wake_up_is_lost_in_a_ring) {
    ring(1, 10, 500);
    ring(2, 10, 500);
    ring(3, 30, 200);
    ring(8, 64, 100);
}

static void *thread_spawns(void *unused) {
    for (int i = 0; i < 300; i++) {
        CHECK_EQ((intptr_t)asthra_await(asthra_spawn(add_one, NUMBER(i))), i + 1);
        if (i % 50 == 0) pause_ms(1);
    }
    return unused;
}

TEST(scheduler, no_wake_up_is_lost_between_threads_and_workers_at_rest) {
    for (size_t workers = 1; workers <= 8; workers *= 2) {
        pthread_t t[4];
        start_as(workers, workers % 4 ? ASTHRA_MAIN_HOSTS : ASTHRA_MAIN_HELPS);
        for (int i = 0; i < 4; i++) CHECK_EQ(pthread_create(&t[i], NULL, thread_spawns, NULL), 0);
        for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
        asthra_runtime_shutdown();
    }
}

/* ---- all asleep ---- */

static void *receives(void *c) {
    int value = 0;
    asthra_channel_receive(c, &value);
    return NUMBER(value);
}

/* Nobody is asleep for sure while there are threads that the runtime does not know. */
static void need_to_see_all_threads(void) {
    NEED_TO_COUNT_THREADS();
    NEED_NO_EMULATOR("qemu-user has a thread of its own: nobody is asleep for sure");
#if ASTHRA__TSAN
    pthread_t t; /* its first makes one more of the sanitizer's own, now and then */
    CHECK_EQ(pthread_create(&t, NULL, add_one, NULL), 0);
    pthread_join(t, NULL);
    if (asthra__os_thread_count() > 2)
        SKIP("ThreadSanitizer has more threads of its own here: nobody is asleep for sure");
#endif
}

TEST_PANICS(scheduler, all_asleep_names_the_task_and_its_channel,
            "task 'receiver': receive on channel 'never'") {
    need_to_see_all_threads();
    start(2);
    AsthraSpawnOptions o = {.name = "receiver"};
    AsthraChannel *c = asthra_channel_create(sizeof(int), 0, "never");
    asthra_await(asthra_spawn_with(&o, receives, c));
}
TEST_PANICS(scheduler, all_asleep_is_a_panic, "panic: all tasks are asleep") {
    need_to_see_all_threads();
    start(1);
    asthra_await(asthra_spawn(receives, asthra_channel_create(sizeof(int), 0, "never")));
}
TEST_PANICS(scheduler, all_asleep_counts_those_who_wait_for_the_same, "1000 x task 'receiver'") {
    need_to_see_all_threads();
    start(2);
    AsthraSpawnOptions o = {.name = "receiver"};
    AsthraChannel *c = asthra_channel_create(sizeof(int), 0, "never");
    for (int i = 0; i < 1000; i++) asthra_task_detach(asthra_spawn_with(&o, receives, c));
    receives(c);
}
TEST_PANICS(scheduler, all_asleep_names_main_too, "thread 'main': receive on channel 'never'") {
    need_to_see_all_threads();
    start(2);
    receives(asthra_channel_create(sizeof(int), 0, "never"));
}
static void *says_its_name(void *out) {
    return asthra__parker_name(asthra__parker(), out, 64) == out ? out : NULL;
}
/* It once was "thread ''". */
TEST(scheduler, a_thread_without_a_name_is_told_by_its_number) {
    char said[64] = "", number[64];
    pthread_t t;
    start(1);
    CHECK_EQ(pthread_create(&t, NULL, says_its_name, said), 0);
    pthread_join(t, NULL);
    CHECK(strtoull(said + strlen("thread "), NULL, 10) > 1);
    snprintf(number, sizeof number, "thread %llu",
             (unsigned long long)strtoull(said + strlen("thread "), NULL, 10));
    CHECK_STR(said, number);
}
/* Called in place on main's stack, or on another worker: the line is the same. */
TEST_PANICS(scheduler, all_asleep_names_main_where_it_awaits,
            "thread 'main': await of task 'receiver', since ") {
    need_to_see_all_threads();
    start(1);
    AsthraSpawnOptions o = {.name = "receiver"};
    AsthraChannel *c = asthra_channel_create(sizeof(int), 0, "never");
    asthra_await(asthra_spawn_with(&o, receives, c));
}
TEST_PANICS(scheduler, all_asleep_names_every_channel_of_a_select,
            "select of receive on channel 'never', send on channel 'full', since ") {
    need_to_see_all_threads();
    start(1);
    int value = 0;
    AsthraSelectCase cases[] = {
        asthra_select_receive(NULL, &value),
        asthra_select_receive(asthra_channel_create(sizeof(int), 0, "never"), &value),
        asthra_select_send(asthra_channel_create(sizeof(int), 0, "full"), &value),
    };
    asthra_select(cases, 3, ASTHRA_FOREVER);
}
TEST_PANICS(scheduler, all_asleep_is_seen_under_a_hosting_main, "all tasks are asleep") {
    need_to_see_all_threads();
    start_as(2, ASTHRA_MAIN_HOSTS);
    asthra_await(asthra_spawn(receives, asthra_channel_create(sizeof(int), 0, "never")));
}
TEST_PANICS(scheduler, all_asleep_is_seen_when_a_thread_blocks_last, "all tasks are asleep") {
    need_to_see_all_threads();
    start_as(2, ASTHRA_MAIN_HOSTS);
    AsthraTaskHandle h = asthra_spawn(receives, asthra_channel_create(sizeof(int), 0, "never"));
    until_workers_rest();
    asthra_await(h);
}
TEST_PANICS(scheduler, all_asleep_is_seen_before_any_task_was_spawned, "all tasks are asleep") {
    need_to_see_all_threads();
    start_as(2, ASTHRA_MAIN_HOSTS);
    receives(asthra_channel_create(sizeof(int), 0, "never"));
}
static void *ends_late(void *unused) {
    pause_ms(100);
    return unused;
}
/* It once hung: the thread had kept the check silent, and nobody looked again. */
static void asleep_after_a_thread(AsthraMainThread main_thread) {
    pthread_t t;
    need_to_see_all_threads();
    start_as(2, main_thread);
    CHECK_EQ(pthread_create(&t, NULL, ends_late, NULL), 0);
    receives(asthra_channel_create(sizeof(int), 0, "never"));
}
TEST_PANICS(scheduler, all_asleep_is_seen_when_another_thread_has_ended, "all tasks are asleep") {
    asleep_after_a_thread(ASTHRA_MAIN_HELPS);
}
TEST_PANICS(scheduler, all_asleep_is_seen_when_another_has_ended_under_a_host,
            "all tasks are asleep") {
    asleep_after_a_thread(ASTHRA_MAIN_HOSTS);
}
/* It once hung: those who wait were forgotten at the stop, and then came back uncalled-for. */
TEST_PANICS(scheduler, all_asleep_is_seen_after_a_thread_has_waited_through_a_stop,
            "all tasks are asleep") {
    pthread_t t;
    int value = 1;
    need_to_see_all_threads();
    start_as(2, ASTHRA_MAIN_HOSTS);
    AsthraChannel *c = asthra_channel_create(sizeof(int), 0, "beyond");
    CHECK_EQ(pthread_create(&t, NULL, receives, c), 0);
    while (asthra__load(&asthra__scheduler()->host_blocked, seq_cst) == 0) pause_ms(1);
    asthra_runtime_shutdown();
    start_as(2, ASTHRA_MAIN_HOSTS);
    CHECK_EQ(asthra_channel_send(c, &value).status, ASTHRA_OK);
    CHECK_EQ(pthread_join(t, NULL), 0);
    receives(c);
}
static AsthraTaskHandle pair[2];
static void *awaits_other(void *number) {
    while (atomic_load(&flag) == 0) asthra_yield();
    return asthra_await(pair[(intptr_t)number]);
}
TEST_PANICS(scheduler, tasks_that_await_each_other_are_found,
            "task 'first': await of task 'second', since ") {
    need_to_see_all_threads();
    start(2);
    AsthraSpawnOptions first = {.name = "first"}, second = {.name = "second"};
    pair[0] = asthra_spawn_with(&first, awaits_other, NUMBER(1));
    pair[1] = asthra_spawn_with(&second, awaits_other, NUMBER(0));
    atomic_store(&flag, 1);
    asthra_await(asthra_task_retain(pair[0]));
}
TEST_PANICS(scheduler, all_asleep_is_seen_in_the_deterministic_mode, "all tasks are asleep") {
    need_to_see_all_threads();
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.deterministic_seed = 3;
    CHECK(asthra_runtime_init(&c));
    asthra_await(asthra_spawn(receives, asthra_channel_create(sizeof(int), 0, "never")));
}

/* ---- and never without reason ---- */

/* It once was, where the system cannot count threads: none were known, and none were told. */
TEST(scheduler, nobody_is_asleep_while_somebody_asks) {
    start(2);
    CHECK(asthra__rest_is_total());
    CHECK(!asthra__all_are_asleep());
}

static void *sends_late(void *c) {
    int one = 1;
    until_workers_rest();
    asthra_channel_send(c, &one);
    return NULL;
}

static void not_asleep_with_a_thread(AsthraMainThread main_thread, size_t workers) {
    pthread_t t;
    start_as(workers, main_thread);
    AsthraChannel *c = asthra_channel_create(sizeof(int), 0, "later");
    AsthraTaskHandle h = asthra_spawn(receives, c);
    CHECK_EQ(pthread_create(&t, NULL, sends_late, c), 0);
    CHECK_EQ((intptr_t)asthra_await(h), 1);
    pthread_join(t, NULL);
    asthra_channel_destroy(c);
    asthra_runtime_shutdown();
}

TEST(scheduler, nobody_is_asleep_while_another_thread_lives) {
    for (size_t workers = 1; workers <= 3; workers++) {
        not_asleep_with_a_thread(ASTHRA_MAIN_HELPS, workers);
        not_asleep_with_a_thread(ASTHRA_MAIN_HOSTS, workers);
    }
}

static void *sleeps_then_sends(void *c) {
    int one = 1;
    asthra_sleep_ns(ASTHRA_MS(30));
    asthra_channel_send(c, &one);
    return NULL;
}

TEST(scheduler, nobody_is_asleep_while_a_timer_runs) {
    for (size_t workers = 1; workers <= 3; workers++) {
        start_as(workers, workers == 3 ? ASTHRA_MAIN_HOSTS : ASTHRA_MAIN_HELPS);
        AsthraChannel *c = asthra_channel_create(sizeof(int), 0, "later");
        AsthraTaskHandle h = asthra_spawn(sleeps_then_sends, c);
        CHECK_EQ((intptr_t)receives(c), 1);
        asthra_await(h);
        asthra_channel_destroy(c);
        asthra_runtime_shutdown();
    }
}

static void *waits_timed(void *c) {
    int value;
    for (int i = 0; i < 200; i++) {
        CHECK_EQ(asthra_channel_receive_timeout(c, &value, ASTHRA_US(100)).status,
                 ASTHRA_TIMED_OUT);
    }
    asthra_channel_close(c);
    return NULL;
}

/* The workers lie down again and again while a thread begins and ends timed waits. */
TEST(scheduler, nobody_is_asleep_while_a_thread_waits_with_a_limit) {
    for (size_t workers = 1; workers <= 2; workers++) {
        pthread_t t;
        start_as(workers, ASTHRA_MAIN_HOSTS);
        AsthraChannel *c = asthra_channel_create(sizeof(int), 0, "timed");
        CHECK_EQ(pthread_create(&t, NULL, waits_timed, c), 0);
        AsthraChannel *n = asthra_channel_create(sizeof(int), 0, "never");
        AsthraTaskHandle never = asthra_spawn(receives, n);
        for (int i = 0; i < 200; i++) asthra_await(asthra_spawn(add_one, NULL));
        int value;
        CHECK_EQ(asthra_channel_receive(c, &value).status, ASTHRA_CLOSED);
        pthread_join(t, NULL);
        asthra_task_cancel(never);
        asthra_await(never);
        asthra_channel_destroy(n);
        asthra_channel_destroy(c);
        asthra_runtime_shutdown();
    }
}

static void *plays(void *args) {
    AsthraChannel **c = args;
    int value = 0;
    for (int i = 0; i < 2000; i++) {
        if (asthra_channel_send(c[0], &value).status || asthra_channel_receive(c[1], &value).status)
            break;
    }
    asthra_channel_close(c[0]);
    return NULL;
}

/* Two plain threads and main hand a ball on; everybody blocks most of the time, nobody for ever. */
TEST(scheduler, threads_that_wait_for_each_other_in_turn_are_not_asleep) {
    for (int workers = 1; workers <= 2; workers++) {
        pthread_t t;
        start_as((size_t)workers, workers == 1 ? ASTHRA_MAIN_HOSTS : ASTHRA_MAIN_HELPS);
        AsthraChannel *c[2] = {asthra_channel_create(4, 0, "to"),
                               asthra_channel_create(4, 0, "fro")};
        asthra_await(asthra_spawn(add_one, NULL));
        CHECK_EQ(pthread_create(&t, NULL, plays, c), 0);
        int value;
        while (asthra_channel_next(c[0], &value, sizeof value)) asthra_channel_send(c[1], &value);
        pthread_join(t, NULL);
        asthra_channel_destroy(c[0]);
        asthra_channel_destroy(c[1]);
        asthra_runtime_shutdown();
    }
}

/* ---- the deterministic mode ---- */

static AsthraChannel *jobs, *results;
static void *works(void *number) {
    int job;
    while (asthra_channel_next(jobs, &job, sizeof job)) {
        if (job % 5 == 0) asthra_sleep_ns(ASTHRA_US(job * 13 % 70));
        int result = job * 10 + (int)(intptr_t)number;
        asthra_channel_send(results, &result);
    }
    return number;
}
static void *gives(void *unused) {
    for (int i = 0; i < 40; i++) asthra_channel_send(jobs, &i);
    asthra_channel_close(jobs);
    return unused;
}

/* Runs a program under a seed in a child; its debug lines are left in `out`. */
static void traced_run(uint64_t seed, FILE *out) {
    pid_t child = fork();
    if (child == 0) {
        AsthraRuntimeConfig c = asthra_runtime_config_default();
        c.deterministic_seed = seed;
        dup2(fileno(out), STDERR_FILENO);
        asthra_set_debug_flag(ASTHRA_DEBUG_CONCURRENCY_OPERATIONS, true);
        CHECK(asthra_runtime_init(&c));
        jobs = asthra_channel_create(sizeof(int), 2, "jobs");
        results = asthra_channel_create(sizeof(int), 0, "results");
        AsthraTaskHandle h[5];
        for (int i = 0; i < 4; i++) h[i] = asthra_spawn_at(works, NUMBER(i), "works");
        h[4] = asthra_spawn_at(gives, NULL, "gives");
        for (int i = 0; i < 40; i++) {
            int result = 0, stop;
            AsthraSelectCase cases[2] = {asthra_select_receive(results, &result),
                                         asthra_select_receive(NULL, &stop)};
            int chosen = asthra_select(cases, 2, ASTHRA_US(40));
            if (chosen != 0) i--;
            fprintf(stderr, "%d %d %lld\n", chosen, result, (long long)asthra_now_ns());
        }
        for (int i = 0; i < 5; i++) asthra_await(h[i]);
        asthra_runtime_shutdown();
        _exit(0);
    }
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

static size_t traced(uint64_t seed, char *text, size_t room) {
    FILE *out = tmpfile();
    CHECK(out != NULL);
    traced_run(seed, out);
    ssize_t got = pread(fileno(out), text, room - 1, 0);
    CHECK(got > 0);
    text[got] = 0;
    fclose(out);
    return (size_t)got;
}

TEST(scheduler, the_same_seed_gives_the_same_trace_and_others_differ) {
    static char first[1 << 17], second[1 << 17], before[1 << 17];
    int different = 0;
    for (uint64_t seed = 1; seed <= 15; seed++) {
        CHECK(traced(seed, first, sizeof first) > 1000);
        traced(seed, second, sizeof second);
        if (strcmp(first, second) != 0) {
            fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
            CHECK(!"the same");
        }
        if (seed > 1 && strcmp(first, before) != 0) different++;
        strcpy(before, first);
    }
    CHECK(different >= 12);
}

static int orders_seen[6];
static int order[3];
static int order_count;
static void *notes(void *number) {
    order[order_count++] = (int)(intptr_t)number;
    return NULL;
}

TEST(scheduler, seeds_explore_every_order) {
    for (uint64_t seed = 1; seed <= 200; seed++) {
        AsthraRuntimeConfig c = asthra_runtime_config_default();
        AsthraTaskHandle h[3];
        c.deterministic_seed = seed;
        CHECK(asthra_runtime_init(&c));
        order_count = 0;
        for (int i = 0; i < 3; i++) h[i] = asthra_spawn(notes, NUMBER(i));
        asthra_sleep_ns(1000);
        for (int i = 0; i < 3; i++) asthra_await(h[i]);
        orders_seen[order[0] * 2 + (order[1] > order[2])]++;
        asthra_runtime_shutdown();
    }
    for (int i = 0; i < 6; i++) CHECK(orders_seen[i] > 0);
}

static void *mixes_timers(void *unused) {
    for (int i = 0; i < 300; i++) asthra_await(asthra_spawn(add_one, NULL));
    asthra_sleep_ns(ASTHRA_SECONDS(1000));
    return unused;
}

/* Choices must not look at the system's clock: the virtual one passes it here. */
TEST(scheduler, virtual_time_may_pass_the_systems) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.deterministic_seed = 11;
    CHECK(asthra_runtime_init(&c));
    asthra_sleep_ns(ASTHRA_SECONDS(86400) * 10000);
    int64_t before = asthra_now_ns();
    AsthraTaskHandle a = asthra_spawn(mixes_timers, NULL), b = asthra_spawn(mixes_timers, NULL);
    asthra_await(a);
    asthra_await(b);
    CHECK_EQ(asthra_now_ns() - before, ASTHRA_SECONDS(1000));
    asthra_runtime_shutdown();
}

static void *thread_waits_in_real_time(void *c) {
    int value;
    int64_t before = asthra__os_now_ns();
    CHECK_EQ(asthra_channel_receive_timeout(c, &value, ASTHRA_MS(5)).status, ASTHRA_TIMED_OUT);
    CHECK(asthra__os_now_ns() - before >= ASTHRA_MS(5));
    return NULL;
}

TEST(scheduler, a_plain_thread_waits_in_real_time_beside_a_virtual_clock) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    pthread_t t;
    c.deterministic_seed = 2;
    CHECK(asthra_runtime_init(&c));
    AsthraChannel *empty = asthra_channel_create(sizeof(int), 0, "empty");
    CHECK_EQ(pthread_create(&t, NULL, thread_waits_in_real_time, empty), 0);
    pthread_join(t, NULL);
    asthra_runtime_shutdown();
    asthra_channel_destroy(empty);
}
