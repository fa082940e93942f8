/* What runtime.h promises a program with a main loop of its own, and channel.h a polling loop. */
#include "test.h"
#include "asthra_rt.h"

#include <poll.h>
#include <stdatomic.h>
#include <sys/resource.h>

#define NUMBER(n) ((void *)(intptr_t)(n))

static void start_as(size_t workers, AsthraMainThread main_thread) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = workers;
    c.main_thread = main_thread;
    CHECK(asthra_runtime_init(&c));
}

/* Every way of being main: helping with 1 to 3 workers, hosting with 1 to 3. */
#define EACH_MAIN(main_, workers_)                                               \
    for (AsthraMainThread main_ = ASTHRA_MAIN_HELPS; main_ <= ASTHRA_MAIN_HOSTS; \
         main_ = (AsthraMainThread)(main_ + 1))                                  \
        for (size_t workers_ = 1; workers_ <= 3; workers_++)

static bool is_readable(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int got = poll(&p, 1, 0);
    CHECK(got >= 0);
    return got == 1 && p.revents == POLLIN;
}

/* One turn of a host's loop: until the runtime calls, or its deadline. */
static size_t host_turn(int fd) {
    int64_t deadline = asthra_runtime_next_deadline(), now = asthra_now_ns();
    int64_t left_ms = deadline < now ? 0 : (deadline - now) / 1000000 + 1;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    CHECK(poll(&p, 1, deadline == ASTHRA_FOREVER ? -1 : (int)left_ms) >= 0);
    return asthra_runtime_poll(ASTHRA_MS(1));
}

static pthread_t main_thread;
static atomic_int done;

static void *on_main(void *unused) {
    CHECK(pthread_equal(pthread_self(), main_thread));
    atomic_fetch_add(&done, 1);
    return unused;
}

static AsthraTaskHandle spawn_on_main(AsthraTaskFunction fn, void *args) {
    AsthraSpawnOptions o = {.affinity = ASTHRA_AFFINITY_MAIN};
    AsthraTaskHandle t = asthra_spawn_with(&o, fn, args);
    CHECK(t.bits != 0);
    return t;
}

/* ---- poll ---- */

TEST(host, a_poll_runs_what_is_bound_to_main) {
    main_thread = pthread_self();
    EACH_MAIN(kind, workers) {
        AsthraTaskHandle t[10];
        start_as(workers, kind);
        for (int i = 0; i < 10; i++) t[i] = spawn_on_main(on_main, NUMBER(i));
        CHECK_EQ(asthra_runtime_poll(ASTHRA_FOREVER), 10);
        for (int i = 0; i < 10; i++) {
            CHECK_EQ(asthra_task_state(t[i]), ASTHRA_TASK_COMPLETED);
            CHECK_EQ((intptr_t)asthra_await(t[i]), i);
        }
        CHECK_EQ(asthra_runtime_poll(ASTHRA_FOREVER), 0);
        CHECK_EQ(asthra_last_error().status, ASTHRA_OK);
        asthra_runtime_shutdown();
    }
}

static void *not_on_main(void *out) {
    *(pthread_t *)out = pthread_self();
    atomic_fetch_add(&done, 1);
    return out;
}

TEST(host, a_hosting_main_runs_nothing_else) {
    NEED_THREADS();
    enum { TASKS = 100 };
    pthread_t seen[TASKS];
    main_thread = pthread_self();
    start_as(2, ASTHRA_MAIN_HOSTS);
    for (int i = 0; i < TASKS; i++) asthra_task_detach(asthra_spawn(not_on_main, &seen[i]));
    while (atomic_load(&done) < TASKS) CHECK_EQ(asthra_runtime_poll(ASTHRA_FOREVER), 0);
    for (int i = 0; i < TASKS; i++) CHECK(!pthread_equal(seen[i], main_thread));
}

/* What is bound to main and what is not call each other. */
static void *asks_main(void *unused) {
    for (int i = 0; i < 20; i++) asthra_await(spawn_on_main(on_main, NULL));
    atomic_fetch_add(&done, 1000);
    return unused;
}

static void *asks_others(void *unused) {
    for (int i = 0; i < 20; i++) {
        on_main(NULL);
        asthra_await(asthra_spawn(asks_main, NULL));
        on_main(NULL);
        asthra_sleep_ns(1000);
    }
    atomic_fetch_add(&done, 1000000);
    return unused;
}

TEST(host, a_loop_drives_tasks_that_call_each_other) {
    main_thread = pthread_self();
    EACH_MAIN(kind, workers) {
        atomic_store(&done, 0);
        start_as(workers, kind);
        int fd = asthra_runtime_wake_fd();
        CHECK(fd >= 0);
        for (int i = 0; i < 3; i++) asthra_task_detach(spawn_on_main(asks_others, NULL));
        while (atomic_load(&done) < 3000000) host_turn(fd);
        CHECK_EQ(atomic_load(&done), 3000000 + 3 * 20 * 1000 + 3 * 20 * (2 + 20));
        asthra_runtime_shutdown();
    }
}

static void *yields(void *turns) {
    for (int64_t i = 0; i < (intptr_t)turns; i++) asthra_yield();
    return turns;
}

TEST(host, a_poll_ends_with_its_time) {
    EACH_MAIN(kind, workers) {
        start_as(workers, kind);
        int fd = asthra_runtime_wake_fd();
        AsthraTaskHandle t = spawn_on_main(yields, NUMBER(5));
        for (int i = 0; i < 5; i++) { /* a budget of 0 is one turn */
            CHECK(is_readable(fd));
            CHECK(asthra_runtime_next_deadline() <= asthra_now_ns());
            CHECK_EQ(asthra_runtime_poll(0), 1);
            CHECK(asthra_task_state(t) != ASTHRA_TASK_COMPLETED);
        }
        CHECK_EQ(asthra_runtime_poll(ASTHRA_FOREVER), 1);
        CHECK_EQ(asthra_task_state(t), ASTHRA_TASK_COMPLETED);
        asthra_await(t);
        asthra_runtime_shutdown();
    }
}

static void *polls(void *unused) {
    CHECK_EQ(asthra_runtime_poll(0), 0);
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
    return unused;
}

TEST(host, a_poll_by_others_than_main_is_refused) {
    NEED_THREADS();
    start_as(2, ASTHRA_MAIN_HELPS);
    AsthraTaskHandle t = spawn_on_main(yields, NULL);
    pthread_t other;
    CHECK(pthread_create(&other, NULL, polls, NULL) == 0);
    pthread_join(other, NULL);
    asthra_await(asthra_spawn(polls, NULL));
    asthra_await(spawn_on_main(polls, NULL));
    asthra_await(t);
}

static void *panics(void *unused) {
    asthra_panic("on main");
    return unused;
}

TEST(host, a_panic_in_a_poll_fails_its_task_alone) {
    main_thread = pthread_self();
    EACH_MAIN(kind, workers) {
        AsthraRuntimeConfig c = asthra_runtime_config_default();
        c.worker_threads = workers;
        c.main_thread = kind;
        c.panic_policy = ASTHRA_PANIC_FAIL_TASK;
        CHECK(asthra_runtime_init(&c));
        AsthraTaskHandle bad = spawn_on_main(panics, NULL), good = spawn_on_main(on_main, NULL);
        CHECK_EQ(asthra_runtime_poll(ASTHRA_FOREVER), 2);
        CHECK_EQ(asthra_await_result(bad, NULL).status, ASTHRA_PANICKED);
        asthra_await(good);
        asthra_runtime_shutdown();
    }
}

/* ---- when to poll ---- */

TEST(host, the_descriptor_is_readable_while_there_is_work) {
    main_thread = pthread_self();
    EACH_MAIN(kind, workers) {
        start_as(workers, kind);
        AsthraTaskHandle t = spawn_on_main(on_main, NULL);
        int fd = asthra_runtime_wake_fd(); /* what was there before counts too */
        CHECK(fd >= 0);
        CHECK_EQ(asthra_runtime_wake_fd(), fd);
        CHECK(is_readable(fd));
        CHECK_EQ(asthra_runtime_poll(ASTHRA_FOREVER), 1);
        CHECK(!is_readable(fd));
        asthra_await(t);
        t = spawn_on_main(on_main, NULL);
        CHECK(is_readable(fd));
        CHECK_EQ(asthra_runtime_poll(ASTHRA_FOREVER), 1);
        CHECK(!is_readable(fd));
        asthra_await(t);
        CHECK_EQ(asthra_runtime_next_deadline(), ASTHRA_FOREVER);
        asthra_runtime_shutdown();
    }
}

static void *sleeps(void *ms) {
    asthra_sleep_ns(ASTHRA_MS((intptr_t)ms));
    return on_main(ms);
}

TEST(host, the_deadline_is_that_of_the_next_sleeper) {
    main_thread = pthread_self();
    EACH_MAIN(kind, workers) {
        start_as(workers, kind);
        int fd = asthra_runtime_wake_fd();
        int64_t before = asthra_now_ns();
        AsthraTaskHandle late = spawn_on_main(sleeps, NUMBER(1000000));
        CHECK_EQ(asthra_runtime_poll(ASTHRA_FOREVER), 1);
        int64_t deadline = asthra_runtime_next_deadline();
        CHECK(deadline >= before + ASTHRA_SECONDS(1000));
        CHECK(deadline <= asthra_now_ns() + ASTHRA_SECONDS(1000));
        AsthraTaskHandle soon = spawn_on_main(sleeps, NUMBER(20));
        while (asthra_task_state(soon) != ASTHRA_TASK_COMPLETED) host_turn(fd);
        CHECK(asthra_now_ns() >= before + ASTHRA_MS(20));
        asthra_await(soon);
        asthra_task_cancel(late);
        while (asthra_task_state(late) != ASTHRA_TASK_CANCELLED) host_turn(fd);
        asthra_await_result(late, NULL);
        asthra_runtime_shutdown();
    }
}

static void *waits_for_a_byte(void *fd) {
    char byte;
    int from = (int)(intptr_t)fd;
    CHECK_EQ(asthra_wait_fd(from, POLLIN, ASTHRA_FOREVER).status, ASTHRA_OK);
    CHECK(read(from, &byte, 1) == 1);
    return on_main(fd);
}

/* Others rest, and nobody but main is left to begin a wait. */
TEST(host, a_wait_that_begins_on_main_is_seen_by_those_at_rest) {
    main_thread = pthread_self();
    EACH_MAIN(kind, workers) {
        int ends[2];
        CHECK(pipe(ends) == 0);
        start_as(workers, kind);
        int fd = asthra_runtime_wake_fd();
        for (int i = 0; i < 20; i++) {
            AsthraTaskHandle t = i % 2 ? spawn_on_main(sleeps, NUMBER(1))
                                       : spawn_on_main(waits_for_a_byte, NUMBER(ends[0]));
            CHECK(asthra_runtime_poll(ASTHRA_FOREVER) >= 1); /* 2: its sleep was over by then */
            CHECK(i % 2 || write(ends[1], "x", 1) == 1);
            while (asthra_task_state(t) != ASTHRA_TASK_COMPLETED) host_turn(fd);
            asthra_await(t);
        }
        close(ends[0]);
        close(ends[1]);
        asthra_runtime_shutdown();
    }
}

static void *spawns_on_main(void *n) {
    for (int i = 0; i < (intptr_t)n; i++) asthra_task_detach(spawn_on_main(on_main, NULL));
    return n;
}

TEST(host, no_work_for_main_is_lost) {
    NEED_THREADS();
    enum { THREADS = 3 };
    const int each = 3000 / (int)test_thrift();
    main_thread = pthread_self();
    EACH_MAIN(kind, workers) {
        pthread_t threads[THREADS];
        atomic_store(&done, 0);
        start_as(workers, kind);
        int fd = asthra_runtime_wake_fd();
        for (int i = 0; i < THREADS; i++)
            CHECK(pthread_create(&threads[i], NULL, spawns_on_main, NUMBER(each)) == 0);
        asthra_task_detach(asthra_spawn(spawns_on_main, NUMBER(each)));
        while (atomic_load(&done) < (THREADS + 1) * each) {
            struct pollfd p = {.fd = fd, .events = POLLIN};
            CHECK(poll(&p, 1, -1) == 1); /* for ever: the deadline is not asked for */
            asthra_runtime_poll(ASTHRA_US(20));
        }
        for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
        asthra_runtime_shutdown();
    }
}

TEST(host, a_lone_helper_that_polls_descriptors_gets_help) {
    NEED_THREADS();
    start_as(1, ASTHRA_MAIN_HELPS);
    CHECK(asthra_runtime_wake_fd() >= 0);
    pthread_t seen = pthread_self();
    asthra_task_detach(asthra_spawn(not_on_main, &seen));
    while (atomic_load(&done) == 0) sched_yield(); /* main gives nothing */
    CHECK(!pthread_equal(seen, pthread_self()));
}

TEST(host, a_lone_helper_runs_everything) {
    main_thread = pthread_self();
    start_as(1, ASTHRA_MAIN_HELPS);
    AsthraTaskHandle t[5];
    for (int i = 0; i < 5; i++) t[i] = asthra_spawn(sleeps, NUMBER(1));
    CHECK(asthra_runtime_next_deadline() <= asthra_now_ns());
    while (atomic_load(&done) < 5) asthra_runtime_poll(ASTHRA_MS(1));
    for (int i = 0; i < 5; i++) asthra_await(t[i]);
}

TEST(host, under_a_seed_a_poll_moves_time) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.deterministic_seed = 7;
    main_thread = pthread_self();
    CHECK(asthra_runtime_init(&c));
    int fd = asthra_runtime_wake_fd();
    AsthraTaskHandle t = asthra_spawn(sleeps, NUMBER(1000000));
    CHECK(is_readable(fd));
    CHECK_EQ(asthra_runtime_poll(ASTHRA_FOREVER), 2);
    CHECK_EQ(asthra_now_ns(), ASTHRA_SECONDS(1000));
    CHECK(!is_readable(fd));
    asthra_await(t);
}

/* No number is free: each says so, and has what it needs as soon as there is one. */
TEST(host, a_descriptor_that_the_system_refuses_is_told) {
    EACH_MAIN(kind, workers) {
        struct rlimit before, none;
        int lowest = dup(STDERR_FILENO);
        CHECK(lowest >= 0 && close(lowest) == 0);
        start_as(workers, kind);
        AsthraChannel *c = asthra_channel_create(1, 1, "c");
        CHECK(getrlimit(RLIMIT_NOFILE, &before) == 0);
        none = before;
        none.rlim_cur = (rlim_t)lowest;
        CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
        CHECK_EQ(asthra_runtime_wake_fd(), -1);
        CHECK_EQ(asthra_last_error().status, ASTHRA_LIMIT);
        CHECK_STR(asthra_result_message(asthra_last_error()),
                  "asthra_runtime_wake_fd: the system refused a descriptor");
        CHECK_EQ(asthra_channel_fd(c), -1);
        CHECK_EQ(asthra_last_error().status, ASTHRA_LIMIT);
        CHECK_STR(asthra_result_message(asthra_last_error()),
                  "asthra_channel_fd: the system refused a descriptor for channel 'c'");
        CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
        CHECK(asthra_runtime_wake_fd() >= 0);
        CHECK(asthra_channel_fd(c) >= 0);
        asthra_channel_destroy(c);
        asthra_runtime_shutdown();
        int after = dup(STDERR_FILENO);
        CHECK_EQ(after, lowest);
        close(after);
    }
}

/* ---- the end ---- */

static void *waits_for_ever(void *result) {
    *(AsthraResult *)result = asthra_sleep_ns(ASTHRA_FOREVER);
    return NULL;
}

TEST(host, shutdown_finishes_what_is_bound_to_main) {
    main_thread = pthread_self();
    EACH_MAIN(kind, workers) {
        AsthraResult r = {0, 0, {0}};
        atomic_store(&done, 0);
        start_as(workers, kind);
        int fd = asthra_runtime_wake_fd();
        asthra_task_detach(spawn_on_main(waits_for_ever, &r));
        CHECK_EQ(asthra_runtime_poll(ASTHRA_FOREVER), 1);
        for (int i = 0; i < 10; i++) asthra_task_detach(spawn_on_main(on_main, NULL));
        asthra_runtime_shutdown();
        CHECK_EQ(atomic_load(&done), 10);
        CHECK_EQ(r.status, ASTHRA_CANCELLED);
        CHECK(fcntl(fd, F_GETFD) == -1 && errno == EBADF); /* it was the runtime's */
    }
}

TEST_PANICS(host, a_hosting_main_that_awaits_its_own_work_is_told, "all tasks are asleep") {
    NEED_THREADS();
    NEED_NO_EMULATOR("qemu-user has a thread of its own: nobody is asleep for sure");
    NEED_TO_COUNT_THREADS();
#if defined(__SANITIZE_THREAD__)
    SKIP("ThreadSanitizer may have more threads of its own: nobody is asleep for sure");
#endif
    start_as(1, ASTHRA_MAIN_HOSTS);
    asthra_await(spawn_on_main(on_main, NULL));
}

/* ---- channels ---- */

TEST(host, the_descriptor_of_a_channel_is_readable_while_a_receive_would_not_wait) {
    AsthraChannel *c = asthra_channel_create(sizeof(int), 2, "c");
    int one = 1, out;
    asthra_channel_send(c, &one);
    int fd = asthra_channel_fd(c);
    CHECK(fd >= 0);
    CHECK_EQ(asthra_channel_fd(c), fd);
    CHECK(is_readable(fd));
    CHECK_EQ(asthra_channel_receive(c, &out).status, ASTHRA_OK);
    CHECK(!is_readable(fd));
    for (int i = 0; i < 2; i++) asthra_channel_send(c, &one);
    for (int i = 0; i < 2; i++) {
        CHECK(is_readable(fd));
        CHECK_EQ(asthra_channel_try_receive(c, &out).status, ASTHRA_OK);
    }
    CHECK(!is_readable(fd));
    CHECK_EQ(asthra_channel_try_receive(c, &out).status, ASTHRA_WOULD_BLOCK);
    asthra_channel_close(c);
    CHECK(is_readable(fd));
    CHECK_EQ(asthra_channel_try_receive(c, &out).status, ASTHRA_CLOSED);
    CHECK(is_readable(fd));
    asthra_channel_destroy(c);
    CHECK(fcntl(fd, F_GETFD) == -1 && errno == EBADF);
}

static void *sends(void *channel) {
    int one = 1;
    asthra_channel_send(channel, &one);
    return NULL;
}

static void *selects_a_send(void *channel) {
    int one = 1;
    AsthraSelectCase k = asthra_select_send(channel, &one);
    asthra_select(&k, 1, ASTHRA_FOREVER);
    return NULL;
}

static void *selects_a_receive(void *channel) {
    int out;
    AsthraSelectCase k = asthra_select_receive(channel, &out);
    asthra_select(&k, 1, ASTHRA_FOREVER);
    return NULL;
}

static void until_waiting(AsthraTaskHandle t) {
    while (asthra_task_state(t) != ASTHRA_TASK_WAITING) asthra_sleep_ns(10000);
}

TEST(host, a_waiting_sender_is_shown_too) {
    AsthraTaskFunction senders[2] = {sends, selects_a_send};
    AsthraChannel *c = asthra_channel_create(sizeof(int), 0, "c");
    int fd = asthra_channel_fd(c), out;
    for (int i = 0; i < 4; i++) {
        CHECK(!is_readable(fd));
        AsthraTaskHandle t = asthra_spawn(senders[i % 2], c);
        until_waiting(t);
        while (!is_readable(fd)) sched_yield(); /* it waits from before its node is linked */
        if (i < 2) {
            CHECK_EQ(asthra_channel_try_receive(c, &out).status, ASTHRA_OK);
        } else {
            asthra_task_cancel(t);
        }
        asthra_await_result(t, NULL);
    }
    CHECK(!is_readable(fd));
    AsthraTaskHandle t = asthra_spawn(selects_a_receive, c);
    until_waiting(t);
    CHECK(!is_readable(fd)); /* what it would take is not shown to others */
    sends(c);
    CHECK(!is_readable(fd));
    asthra_await(t);
    asthra_channel_destroy(c);
}

enum { PRODUCERS = 3 };

static void *produces(void *channel) {
    for (int i = 0; i < 1000; i++) {
        asthra_channel_send(channel, &i);
        if (i % 10 == 0) asthra_yield();
    }
    return NULL;
}

TEST(host, a_loop_receives_everything) {
    const size_t capacities[2] = {0, 5};
    EACH_MAIN(kind, workers) {
        AsthraTaskHandle t[PRODUCERS];
        start_as(workers, kind);
        AsthraChannel *c = asthra_channel_create(sizeof(int), capacities[workers % 2], "c");
        int fd = asthra_channel_fd(c), wake = asthra_runtime_wake_fd(), got = 0, out;
        for (int i = 0; i < PRODUCERS; i++) t[i] = asthra_spawn(produces, c);
        while (got < PRODUCERS * 1000) {
            struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = wake, .events = POLLIN}};
            CHECK(poll(p, 2, -1) >= 1);
            if (p[1].revents) asthra_runtime_poll(ASTHRA_US(50));
            while (!asthra_channel_try_receive(c, &out).status) got++;
        }
        for (int i = 0; i < PRODUCERS; i++) asthra_await(t[i]);
        asthra_channel_destroy(c);
        asthra_runtime_shutdown();
    }
}
