/* The promises of src/runtime/runtime.h, and shutdown in every state. */
#include "test.h"
#include "asthra_rt.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define NUMBER(n) ((void *)(intptr_t)(n))

static AsthraRuntimeConfig with_workers(size_t workers) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = workers;
    return c;
}

static void start(size_t workers) {
    AsthraRuntimeConfig c = with_workers(workers);
    CHECK(asthra_runtime_init(&c));
}

static void *add_one(void *n) {
    return NUMBER((intptr_t)n + 1);
}

static void until_waiting(AsthraTaskHandle t) {
    while (asthra_task_state(t) != ASTHRA_TASK_WAITING) asthra_sleep_ns(10000);
}

/* ---- configuration ---- */

TEST(runtime, the_default_configuration_is_complete) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    CHECK_EQ(c.struct_size, sizeof c);
    CHECK(c.enable_tier1_concurrency && c.enable_tier2_concurrency && c.enable_tier3_concurrency);
    CHECK(c.enable_panic_handler);
    CHECK_EQ(c.main_thread, ASTHRA_MAIN_HELPS);
    CHECK_EQ(c.deterministic_seed, 0);
    CHECK(asthra_runtime_init(&c));
}

static void refused(const AsthraRuntimeConfig *c, const char *word) {
    CHECK(!asthra_runtime_init(c));
    AsthraResult r = asthra_last_error();
    CHECK_EQ(r.status, ASTHRA_INVALID);
    if (!strstr(asthra_result_message(r), word))
        test_fail(__FILE__, __LINE__, "\"%s\" does not name %s", asthra_result_message(r), word);
    CHECK(!asthra_runtime_is_running());
}

TEST(runtime, a_field_out_of_range_is_refused_and_named) {
    AsthraRuntimeConfig d = asthra_runtime_config_default(), c = d;
    memset(&c, 0, sizeof c);
    refused(&c, "asthra_runtime_config_default");
    c = d, c.struct_size -= 8;
    refused(&c, "struct_size");
    c = d, c.worker_threads = 100000;
    refused(&c, "worker_threads");
    c = d, c.stack_size = 100;
    refused(&c, "stack_size");
    c = d, c.stack_size = SIZE_MAX;
    refused(&c, "stack_size");
    c = d, c.main_thread = (AsthraMainThread)7;
    refused(&c, "main_thread");
    c = d, c.panic_policy = (AsthraPanicPolicy)9;
    refused(&c, "panic_policy");
    c = d, c.opt_level = (AsthraOptimizationLevel)9;
    refused(&c, "opt_level");
    c = d, c.deterministic_seed = 1, c.main_thread = ASTHRA_MAIN_HOSTS;
    refused(&c, "deterministic_seed");
    CHECK(asthra_runtime_init(&d));
    CHECK_EQ(asthra_last_error().status, ASTHRA_OK);
}

TEST(runtime, null_means_the_defaults) {
    CHECK(asthra_runtime_init(NULL));
    CHECK(asthra_runtime_is_running());
    CHECK_EQ((intptr_t)asthra_await(asthra_spawn(add_one, NULL)), 1);
    asthra_runtime_shutdown();
    CHECK(!asthra_runtime_is_running());
    CHECK(asthra_runtime_init_with_config(NULL));
    CHECK(asthra_runtime_is_running());
}

TEST(runtime, twice_is_a_clear_error) {
    CHECK(asthra_runtime_init(NULL));
    CHECK(!asthra_runtime_init(NULL));
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
    CHECK(strstr(asthra_result_message(asthra_last_error()), "already running") != NULL);
    CHECK_EQ((intptr_t)asthra_await(asthra_spawn(add_one, NULL)), 1);
}

TEST(runtime, the_first_use_starts_it_and_an_init_after_that_is_an_error) {
    CHECK(!asthra_runtime_is_running());
    CHECK_EQ((intptr_t)asthra_await(asthra_spawn(add_one, NULL)), 1);
    CHECK(asthra_runtime_is_running());
    CHECK(!asthra_runtime_init(NULL));
    CHECK(strstr(asthra_result_message(asthra_last_error()), "already running") != NULL);
    asthra_runtime_shutdown();
    CHECK(asthra_runtime_init(NULL));
}

TEST(runtime, what_needs_no_workers_does_not_start_it) {
    AsthraTaskHandle none = {0};
    CHECK_EQ(asthra_last_error().status, ASTHRA_OK);
    CHECK(asthra_now_ns() > 0);
    CHECK_EQ(asthra_task_current().bits, 0);
    CHECK(!asthra_task_is_valid(none));
    asthra_yield();
    CHECK(!asthra_cancel_requested());
    asthra_cancel_mask_begin();
    asthra_cancel_mask_end();
    CHECK(!asthra_runtime_is_running());
}

TEST(runtime, shutdown_without_a_runtime_does_nothing) {
    asthra_runtime_shutdown();
    asthra_runtime_shutdown();
    CHECK(asthra_runtime_init(NULL));
    asthra_runtime_shutdown();
    asthra_runtime_shutdown();
}

TEST(runtime, a_part_that_is_off_fails_naming_its_field) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.enable_tier1_concurrency = false;
    c.enable_tier2_concurrency = false;
    CHECK(asthra_runtime_init(&c));
    CHECK_EQ(asthra_spawn(add_one, NULL).bits, 0);
    CHECK(strstr(asthra_result_message(asthra_last_error()), "enable_tier1_concurrency") != NULL);
    CHECK_EQ(asthra_spawn_with(NULL, add_one, NULL).bits, 0);
    CHECK_EQ(asthra_spawn_copy(add_one, NULL, 8).bits, 0);
    CHECK(asthra_channel_create(4, 0, "off") == NULL);
    CHECK(strstr(asthra_result_message(asthra_last_error()), "enable_tier2_concurrency") != NULL);
    CHECK_EQ(asthra_sleep_ns(1000).status, ASTHRA_OK);
    asthra_runtime_shutdown();
}

static bool last_error_names_tier3(void) {
    return strstr(asthra_result_message(asthra_last_error()), "enable_tier3_concurrency") != NULL;
}
static void *is_refused_as_a_thread(void *unused) {
    CHECK_EQ(asthra_spawn(add_one, NULL).bits, 0);
    CHECK(last_error_names_tier3());
    CHECK(asthra_channel_create(4, 0, "off") == NULL);
    CHECK(last_error_names_tier3());
    CHECK(asthra_select_builder_create() == NULL);
    return unused;
}
static void *makes_a_channel(void *unused) {
    AsthraChannel *c = asthra_channel_create(4, 0, "on");
    CHECK(c != NULL);
    asthra_channel_destroy(c);
    CHECK_EQ((intptr_t)asthra_await(asthra_spawn(add_one, NULL)), 1);
    return unused;
}

TEST(runtime, with_tier3_off_only_main_and_tasks_may_spawn) {
    NEED_THREADS();
    for (int hosts = 0; hosts < 2; hosts++) {
        AsthraRuntimeConfig c = with_workers(2);
        pthread_t thread;
        c.enable_tier3_concurrency = false;
        c.main_thread = hosts ? ASTHRA_MAIN_HOSTS : ASTHRA_MAIN_HELPS;
        CHECK(asthra_runtime_init(&c));
        makes_a_channel(NULL);
        asthra_await(asthra_spawn(makes_a_channel, NULL));
        CHECK_EQ(pthread_create(&thread, NULL, is_refused_as_a_thread, NULL), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        asthra_runtime_shutdown();
    }
}

static atomic_int gate;
static void *waits_for_gate(void *unused) {
    while (!atomic_load(&gate)) asthra_yield();
    return unused;
}

TEST(runtime, max_tasks_counts_spawned_unfinished_tasks) {
    AsthraRuntimeConfig c = with_workers(2);
    AsthraTaskHandle h[10];
    c.max_tasks = 10;
    CHECK(asthra_runtime_init(&c));
    for (int round = 0; round < 20; round++) {
        atomic_store(&gate, 0);
        for (int i = 0; i < 10; i++) CHECK((h[i] = asthra_spawn(waits_for_gate, NULL)).bits != 0);
        CHECK_EQ(asthra_spawn(add_one, NULL).bits, 0);
        CHECK_EQ(asthra_last_error().status, ASTHRA_LIMIT);
        CHECK(strstr(asthra_result_message(asthra_last_error()), "max_tasks") != NULL);
        CHECK_EQ(asthra_spawn_copy(add_one, NULL, 100).bits, 0);
        atomic_store(&gate, 1);
        for (int i = 0; i < 10; i++) {
            while (asthra_task_state(h[i]) != ASTHRA_TASK_COMPLETED) asthra_sleep_ns(1000);
        }
        /* finished ones do not count, awaited or not */
        for (int i = 0; i < 5; i++) asthra_await(asthra_spawn(add_one, NULL));
        CHECK_EQ(asthra_last_error().status, ASTHRA_OK);
        for (int i = 0; i < 10; i++) asthra_await(h[i]);
    }
    asthra_runtime_shutdown();
}

static int told;
static void tell(const AsthraPanicInfo *info, void *user) {
    (void)info, (void)user;
    told++;
}
static void *fails(void *unused) {
    (void)unused;
    asthra_panic_at(NULL, "quiet please");
}

TEST(runtime, without_the_panic_handler_nothing_is_reported_but_the_hook_runs) {
    AsthraRuntimeConfig c = with_workers(1);
    c.enable_panic_handler = false;
    c.panic_policy = ASTHRA_PANIC_FAIL_TASK;
    asthra_panic_set_hook(tell, NULL);
    CHECK(asthra_runtime_init(&c));
    int out = dup(STDERR_FILENO);
    FILE *caught = tmpfile();
    dup2(fileno(caught), STDERR_FILENO);
    AsthraResult r = asthra_await_result(asthra_spawn(fails, NULL), NULL);
    dup2(out, STDERR_FILENO);
    CHECK_EQ(r.status, ASTHRA_PANICKED);
    CHECK_EQ(told, 1);
    CHECK_EQ(lseek(fileno(caught), 0, SEEK_END), 0);
}

TEST(runtime, last_error_works_before_the_start_and_is_cleared_by_a_good_spawn) {
    asthra_result_errorf(ASTHRA_FAILED, "before");
    CHECK_STR(asthra_result_message(asthra_last_error()), "before");
    AsthraTaskHandle h = asthra_spawn(add_one, NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_OK);
    asthra_await(h);
}

/* ---- again and again ---- */

static size_t threads_now(void) {
    char line[200];
    size_t count = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "Threads: %zu", &count) == 1) break;
    }
    if (f) fclose(f);
    return count;
}

static size_t mappings_now(size_t *kib) {
    char line[400];
    size_t count = 0, low, high;
    FILE *f = fopen("/proc/self/maps", "r");
    *kib = 0;
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%zx-%zx", &low, &high) == 2 && (high - low) >> 30 < 16) {
            *kib += (high - low) / 1024;
        }
        count++;
    }
    if (f) fclose(f);
    return count;
}

static void *some_work(void *channel) {
    int value = 1;
    asthra_channel_send(channel, &value);
    asthra_sleep_ns(1000);
    return NULL;
}

static void one_life(int i) {
    AsthraRuntimeConfig c = with_workers((size_t)(i % 4) + 1);
    if (i % 5 == 0) c.main_thread = ASTHRA_MAIN_HOSTS;
    if (i % 7 == 0 && i % 5) c.deterministic_seed = (uint64_t)i;
    CHECK(asthra_runtime_init(&c));
    if (i % 11 == 0) {
        asthra_runtime_shutdown();
        return;
    }
    AsthraChannel *channel = asthra_channel_create(sizeof(int), 0, "c");
    AsthraTaskHandle h[5];
    int sum = 0;
    for (int k = 0; k < 5; k++) h[k] = asthra_spawn(some_work, channel);
    for (int k = 0; k < 5; k++) {
        int value = 0;
        CHECK_EQ(asthra_channel_receive(channel, &value).status, ASTHRA_OK);
        sum += value;
    }
    CHECK_EQ(sum, 5);
    for (int k = 0; k < 5; k++) {
        if (i % 2)
            asthra_await(h[k]);
        else
            asthra_task_detach(h[k]);
    }
    asthra_runtime_shutdown();
    asthra_channel_destroy(channel);
}

#if defined(__SANITIZE_THREAD__)
enum { LIVES = 200 };
#else
enum { LIVES = 1000 };
#endif
TEST_WITHIN(60, runtime, a_thousand_lives_leave_nothing_behind) {
    size_t kib_before, kib_after, maps_before = 0, threads_before = 0;
#ifdef __GLIBC__
    mallopt(M_ARENA_MAX, 1); /* or it maps 64 MiB whenever one thread more calls malloc at once */
#endif
    for (int i = 0; i < LIVES; i++) {
        one_life(i);
        if (i == LIVES / 10) {
            maps_before = mappings_now(&kib_before);
            threads_before = threads_now();
        }
    }
    size_t maps_after = mappings_now(&kib_after);
    /* ThreadSanitizer has some of its own after a fork; a joined one may linger. */
    while (threads_now() > threads_before + 1) sched_yield();
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    if (maps_after >= maps_before + 20 || kib_after >= kib_before + 4096) {
        test_fail(__FILE__, __LINE__, "%zu mappings of %zu KiB were there, and %zu of %zu KiB are",
                  maps_before, kib_before, maps_after, kib_after);
    }
#else
    (void)maps_before, (void)maps_after;
#endif
}

static AsthraTaskHandle left_over;
TEST_PANICS(runtime, a_handle_of_an_earlier_life_is_stale, "names no task") {
    start(2);
    left_over = asthra_spawn(add_one, NULL);
    asthra_runtime_shutdown();
    start(2);
    for (int i = 0; i < 3000; i++) asthra_await(asthra_spawn(add_one, NULL));
    AsthraTaskHandle now[200];
    for (int i = 0; i < 200; i++) now[i] = asthra_spawn(add_one, NULL);
    CHECK(!asthra_task_is_valid(left_over));
    for (int i = 0; i < 200; i++) asthra_await(now[i]);
    asthra_await(left_over);
}

/* ---- shutdown in every state ---- */

static atomic_int ends;
static void *counts(void *unused) {
    atomic_fetch_add(&ends, 1);
    return unused;
}
static void *counts_late(void *unused) {
    for (int i = 0; i < 20; i++) asthra_yield();
    atomic_fetch_add(&ends, 1);
    return unused;
}
static void *counts_at_last(void *unused) {
    asthra_task_detach(asthra_spawn(counts_late, NULL));
    asthra_task_detach(asthra_spawn(counts, NULL));
    return unused;
}

TEST(runtime, shutdown_lets_queued_and_running_tasks_finish) {
    for (size_t workers = 1; workers <= 8; workers *= 2) {
        atomic_store(&ends, 0);
        start(workers);
        for (int i = 0; i < 500; i++) {
            asthra_task_detach(asthra_spawn(i % 2 ? counts : counts_at_last, NULL));
        }
        asthra_runtime_shutdown();
        CHECK_EQ(atomic_load(&ends), 250 + 250 * 2);
    }
}

static void *waits_for_ever(void *status) {
    AsthraResult r = asthra_sleep_ns(ASTHRA_FOREVER);
    if (status) *(uint32_t *)status = r.status;
    atomic_fetch_add(&ends, 1);
    return NULL;
}
static void *sleeps_an_hour(void *status) {
    AsthraResult r = asthra_sleep_ns(ASTHRA_SECONDS(3600));
    *(uint32_t *)status = r.status;
    atomic_fetch_add(&ends, 1);
    return NULL;
}
static void *ticks(void *unused) {
    while (asthra_sleep_ns(ASTHRA_US(200)).status == ASTHRA_OK) continue;
    atomic_fetch_add(&ends, 1);
    return unused;
}
static void *awaits_one_that_waits(void *status) {
    asthra_await(asthra_spawn(waits_for_ever, status));
    atomic_fetch_add(&ends, 1);
    return NULL;
}
static AsthraChannel *shared;
static void *receives(void *status) {
    int value;
    *(uint32_t *)status = asthra_channel_receive(shared, &value).status;
    atomic_fetch_add(&ends, 1);
    return NULL;
}

static void shutdown_with_parked(AsthraMainThread main_thread, size_t workers, bool has_begun) {
    uint32_t status[5] = {99, 99, 99, 99, 99};
    AsthraRuntimeConfig c = with_workers(workers);
    c.main_thread = main_thread;
    CHECK(asthra_runtime_init(&c));
    atomic_store(&ends, 0);
    shared = asthra_channel_create(sizeof(int), 0, "shared");
    asthra_task_detach(asthra_spawn(waits_for_ever, &status[0]));
    asthra_task_detach(asthra_spawn(sleeps_an_hour, &status[1]));
    asthra_task_detach(asthra_spawn(ticks, NULL));
    asthra_task_detach(asthra_spawn(awaits_one_that_waits, &status[3]));
    asthra_task_detach(asthra_spawn(receives, &status[4]));
    if (has_begun) asthra_sleep_ns(ASTHRA_MS(3));
    asthra_runtime_shutdown();
    CHECK_EQ(atomic_load(&ends), 6);
    for (int i = 0; i < 5; i++) {
        if (i != 2) CHECK_EQ(status[i], ASTHRA_CANCELLED);
    }
    asthra_channel_destroy(shared);
}

TEST(runtime, shutdown_cancels_the_parked_sleepers_included) {
    for (size_t workers = 1; workers <= 4; workers++) {
        for (int has_begun = 0; has_begun < 2; has_begun++) {
            shutdown_with_parked(ASTHRA_MAIN_HELPS, workers, has_begun != 0);
            shutdown_with_parked(ASTHRA_MAIN_HOSTS, workers, has_begun != 0);
        }
    }
}

TEST(runtime, shutdown_cancels_the_parked_in_the_deterministic_mode_too) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        uint32_t status = 99;
        AsthraRuntimeConfig c = with_workers(1);
        c.deterministic_seed = seed;
        CHECK(asthra_runtime_init(&c));
        asthra_task_detach(asthra_spawn(sleeps_an_hour, &status));
        asthra_task_detach(asthra_spawn(ticks, NULL));
        asthra_sleep_ns(ASTHRA_MS(3));
        asthra_runtime_shutdown();
        CHECK_EQ(status, ASTHRA_CANCELLED);
    }
}

/* Their waiters are gone with their stacks, so these channels cannot be destroyed. */
static AsthraChannel *abandoned[8];
static int abandoned_count;

/* What stands after the time is told by name, and the program goes on. 0 workers: under a seed,
 * where time stands still while anything runs. */
static void standing(AsthraTaskFunction fn, const char *words, size_t workers, AsthraMainThread m) {
    char text[4096];
    AsthraRuntimeConfig c = with_workers(workers);
    c.main_thread = m;
    c.deterministic_seed = workers == 0 ? 7 : 0;
    c.shutdown_timeout_ns = ASTHRA_MS(20);
    int out = dup(STDERR_FILENO);
    FILE *caught = tmpfile();
    dup2(fileno(caught), STDERR_FILENO);
    CHECK(asthra_runtime_init(&c));
    AsthraSpawnOptions o = {.name = "stubborn"};
    shared = abandoned[abandoned_count++] = asthra_channel_create(sizeof(int), 0, "shared");
    AsthraTaskHandle h = asthra_spawn_with(&o, fn, NULL);
    for (int i = 0; i < 20; i++) asthra_yield();
    while (asthra_task_state(h) == ASTHRA_TASK_CREATED) asthra_sleep_ns(1000);
    if (workers != 0) asthra_sleep_ns(ASTHRA_MS(1));
    asthra_task_detach(h);
    asthra_runtime_shutdown();
    dup2(out, STDERR_FILENO);
    close(out);
    ssize_t got = pread(fileno(caught), text, sizeof text - 1, 0);
    text[got > 0 ? got : 0] = 0;
    fclose(caught);
    fputs(text, stderr);
    CHECK(strstr(text, "'stubborn'") != NULL);
    CHECK(strstr(text, words) != NULL);
    CHECK(!asthra_runtime_is_running());
    start(2);
    CHECK_EQ((intptr_t)asthra_await(asthra_spawn(add_one, NULL)), 1);
    asthra_runtime_shutdown();
}

static void *waits_masked(void *unused) {
    int value;
    asthra_cancel_mask_begin();
    asthra_channel_receive(shared, &value);
    return unused;
}
static void *yields_for_ever(void *unused) {
    for (;;) asthra_yield();
    return unused;
}
static void *does_not_heed(void *unused) {
    int value;
    for (;;) asthra_channel_receive(shared, &value);
    return unused;
}
static void *sleeps_masked(void *unused) {
    asthra_cancel_mask_begin();
    for (;;) asthra_sleep_ns(ASTHRA_MS(1));
    return unused;
}

static void standing_all(AsthraTaskFunction fn, const char *words) {
    bool is_slow = test_thrift() == 20;
    for (size_t workers = is_slow; workers <= (is_slow ? 1 : 3); workers++)
        standing(fn, words, workers, ASTHRA_MAIN_HELPS);
    standing(fn, words, 1, ASTHRA_MAIN_HOSTS);
}

TEST(runtime, a_masked_wait_is_reported_by_name) {
    standing_all(waits_masked, "receive on channel 'shared'");
}
TEST(runtime, a_task_that_does_not_heed_its_cancel_is_reported_by_name) {
    standing_all(does_not_heed, "stubborn");
}
TEST(runtime, a_masked_ticker_is_reported_by_name) {
    standing_all(sleeps_masked, "stubborn");
}

TEST(runtime, a_task_that_yields_for_ever_is_reported_by_name) {
    standing_all(yields_for_ever, "stubborn");
}

static AsthraChannel *there, *back;
static void *serves(void *unused) {
    int ball = 0;
    for (;;) {
        if (asthra_channel_send(there, &ball).status) return unused;
        if (asthra_channel_receive(back, &ball).status) return unused;
    }
}
static void *answers(void *unused) {
    int ball = 0;
    for (;;) {
        if (asthra_channel_receive(there, &ball).status) return unused;
        if (asthra_channel_send(back, &ball).status) return unused;
    }
}
static void *polls(void *unused) {
    while (!asthra_cancel_requested()) asthra_yield();
    return unused;
}

TEST(runtime, shutdown_ends_tasks_that_keep_one_another_busy) {
    for (size_t workers = 0; workers <= (test_thrift() == 20 ? 1 : 3); workers++) {
        AsthraRuntimeConfig c = with_workers(workers);
        c.deterministic_seed = workers == 0 ? 7 : 0;
        c.shutdown_timeout_ns = ASTHRA_MS(20);
        CHECK(asthra_runtime_init(&c));
        there = asthra_channel_create(sizeof(int), 0, "there");
        back = asthra_channel_create(sizeof(int), 0, "back");
        asthra_task_detach(asthra_spawn(serves, NULL));
        asthra_task_detach(asthra_spawn(answers, NULL));
        asthra_task_detach(asthra_spawn(polls, NULL));
        asthra_runtime_shutdown();
        asthra_channel_destroy(there);
        asthra_channel_destroy(back);
    }
}

static void *tries_shutdown(void *unused) {
    asthra_runtime_shutdown();
    return unused;
}
TEST_PANICS(runtime, shutdown_in_a_task_panics, "asthra_runtime_shutdown: called in a task") {
    asthra_await(asthra_spawn(tries_shutdown, NULL));
}
TEST_PANICS(runtime, shutdown_by_another_thread_panics, "another thread started the runtime") {
    pthread_t t;
    start(2);
    CHECK_EQ(pthread_create(&t, NULL, tries_shutdown, NULL), 0);
    pthread_join(t, NULL);
}

static void *uses_and_ends(void *unused) {
    asthra_await(asthra_spawn(add_one, NULL));
    asthra_task_detach(asthra_spawn(counts, NULL));
    atomic_fetch_add(&gate, 1);
    return unused; /* its seat is given up while main shuts down */
}

TEST(runtime, threads_may_end_while_the_runtime_stops) {
    for (int i = 0; i < 150; i++) {
        pthread_t t[4];
        atomic_store(&gate, 0);
        start((size_t)(i % 3) + 1);
        for (int k = 0; k < 4; k++) CHECK_EQ(pthread_create(&t[k], NULL, uses_and_ends, NULL), 0);
        while (atomic_load(&gate) < 4) asthra_sleep_ns(1000);
        asthra_runtime_shutdown();
        for (int k = 0; k < 4; k++) pthread_join(t[k], NULL);
    }
}

static atomic_int ready;
static void *calls_first(void *unused) {
    atomic_fetch_add(&ready, 1);
    while (atomic_load(&ready) < 6) sched_yield();
    CHECK_EQ((intptr_t)asthra_await(asthra_spawn(add_one, NUMBER(1))), 2);
    CHECK_EQ(asthra_last_error().status, ASTHRA_OK);
    return unused;
}

TEST(runtime, first_calls_from_several_threads_at_once_start_it_once) {
    pthread_t t[6];
    for (int i = 0; i < 6; i++) CHECK_EQ(pthread_create(&t[i], NULL, calls_first, NULL), 0);
    for (int i = 0; i < 6; i++) pthread_join(t[i], NULL);
    CHECK(asthra_runtime_is_running());
    CHECK_EQ((intptr_t)asthra_await(asthra_spawn(add_one, NUMBER(1))), 2);
}

static void *starts_and_ends(void *unused) {
    asthra_await(asthra_spawn(add_one, NULL));
    return unused;
}

TEST(runtime, the_thread_that_started_it_may_end) {
    pthread_t t;
    CHECK_EQ(pthread_create(&t, NULL, starts_and_ends, NULL), 0);
    pthread_join(t, NULL);
    for (int i = 0; i < 100; i++) {
        CHECK_EQ((intptr_t)asthra_await(asthra_spawn(add_one, NUMBER(i))), i + 1);
    }
    asthra_runtime_shutdown();
    start(2);
    CHECK_EQ((intptr_t)asthra_await(asthra_spawn(add_one, NUMBER(1))), 2);
}

TEST(runtime, a_runtime_can_start_on_another_thread_each_time) {
    for (int i = 0; i < 20; i++) {
        pthread_t t;
        CHECK_EQ(pthread_create(&t, NULL, (void *(*)(void *))starts_and_ends, NULL), 0);
        pthread_join(t, NULL);
        asthra_runtime_shutdown();
    }
}

TEST(runtime, main_may_leave_with_tasks_under_way) {
    start(2);
    for (int i = 0; i < 100; i++) asthra_task_detach(asthra_spawn(waits_for_ever, NULL));
    for (int i = 0; i < 10; i++) asthra_task_detach(asthra_spawn(yields_for_ever, NULL));
    until_waiting(asthra_spawn(waits_for_ever, NULL));
    exit(0);
}

TEST(runtime, every_opt_level_works) {
    for (int level = ASTHRA_OPT_DEFAULT; level <= ASTHRA_OPT_RELEASE; level++) {
        AsthraRuntimeConfig c = with_workers(3);
        c.opt_level = (AsthraOptimizationLevel)level;
        CHECK(asthra_runtime_init(&c));
        for (int i = 0; i < 100; i++) asthra_await(asthra_spawn(counts_late, NULL));
        asthra_runtime_shutdown();
    }
}

TEST(runtime, many_workers_on_few_cores) {
    start(64);
    AsthraTaskHandle h[500];
    for (int i = 0; i < 500; i++) h[i] = asthra_spawn(counts_late, NULL);
    for (int i = 0; i < 500; i++) asthra_await(h[i]);
    asthra_runtime_shutdown();
}

TEST_PANICS(runtime, a_report_says_the_name_a_thread_registered, "in thread 'indexer'") {
    CHECK(asthra_register_this_thread("indexer"));
    CHECK(!asthra_runtime_is_running());
    asthra_panic("as said");
}
