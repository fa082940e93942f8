/* In a forked child only the forking thread lives on: the runtime is as before init there. */
#include "test.h"
#include "asthra_rt.h"

#include <pthread.h>
#include <stdatomic.h>

#define NUMBER(n) ((void *)(intptr_t)(n))

#if defined(ASTHRA_RT_NO_THREADS)
#define SKIP_WHERE_UNSAFE() SKIP("fork: without threads the child keeps its tasks")
#elif UNDER_TSAN
/* It does not support a child that goes on with threads of its own after a fork of many. */
#define SKIP_WHERE_UNSAFE() SKIP("fork: ThreadSanitizer has no threads after a fork of many")
#elif defined(__SANITIZE_ADDRESS__)
#define SKIP_WHERE_UNSAFE() SKIP("fork: AddressSanitizer's heap stays locked after a fork of many")
#else
#define SKIP_WHERE_UNSAFE() \
    NEED_NO_EMULATOR("fork: qemu-user ends in an assertion of its own after a fork of many threads")
#endif

static void start(size_t workers, AsthraMainThread main_thread) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = workers;
    c.main_thread = main_thread;
    CHECK(asthra_runtime_init(&c));
}

static void *add_one(void *n) {
    return NUMBER((intptr_t)n + 1);
}
static void *echoes(void *pair) {
    AsthraChannel **c = pair;
    int value;
    while (asthra_channel_next(c[0], &value, sizeof value)) asthra_channel_send(c[1], &value);
    return NULL;
}

static void uses_everything(void) {
    AsthraChannel *c[2] = {asthra_channel_create(sizeof(int), 0, "a"),
                           asthra_channel_create(sizeof(int), 3, "b")};
    AsthraMutex m = ASTHRA_MUTEX_INIT;
    AsthraTaskHandle h = asthra_spawn(echoes, c);
    for (int i = 0, value = 0; i < 50; i++) {
        CHECK_EQ(asthra_channel_send(c[0], &i).status, ASTHRA_OK);
        CHECK_EQ(asthra_channel_receive(c[1], &value).status, ASTHRA_OK);
        CHECK_EQ(value, i);
        CHECK_EQ((intptr_t)asthra_await(asthra_spawn(add_one, NUMBER(i))), i + 1);
        CHECK_EQ(asthra_mutex_lock(&m).status, ASTHRA_OK);
        asthra_mutex_unlock(&m);
    }
    CHECK_EQ(asthra_sleep_ns(1000).status, ASTHRA_OK);
    asthra_channel_close(c[0]);
    asthra_await(h);
    asthra_channel_destroy(c[0]);
    asthra_channel_destroy(c[1]);
}

/* Forks; the child must find no runtime, use one of its own, and fork again. */
static void fork_and_check(int depth) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(10);
        CHECK(!asthra_runtime_is_running());
        CHECK_EQ(asthra_task_current().bits, 0);
        uses_everything(); /* starts it */
        CHECK(asthra_runtime_is_running());
        asthra_runtime_shutdown();
        start(3, ASTHRA_MAIN_HELPS);
        uses_everything();
        if (depth > 0) fork_and_check(depth - 1);
        asthra_runtime_shutdown();
        _exit(0);
    }
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

static atomic_int stop;
static void *keeps_busy(void *unused) {
    while (!atomic_load(&stop)) {
        asthra_await(asthra_spawn(add_one, NULL));
        asthra_sleep_ns(1000);
    }
    return unused;
}
static void *thread_keeps_busy(void *unused) {
    return keeps_busy(unused);
}

static void fork_with(size_t workers, AsthraMainThread main_thread) {
    AsthraTaskHandle h[4];
    pthread_t t;
    start(workers, main_thread);
    for (int i = 0; i < 4; i++) h[i] = asthra_spawn(keeps_busy, NULL);
    CHECK_EQ(pthread_create(&t, NULL, thread_keeps_busy, NULL), 0);
    asthra_sleep_ns(ASTHRA_MS(2));
    for (int i = 0; i < 8; i++) fork_and_check(i == 0);
    uses_everything(); /* the parent goes on */
    atomic_store(&stop, 1);
    pthread_join(t, NULL);
    for (int i = 0; i < 4; i++) asthra_await(h[i]);
    asthra_runtime_shutdown();
}

TEST(fork, the_child_of_a_helping_main_begins_anew) {
    SKIP_WHERE_UNSAFE();
    fork_with(2, ASTHRA_MAIN_HELPS);
}
TEST(fork, the_child_of_a_hosting_main_begins_anew) {
    SKIP_WHERE_UNSAFE();
    fork_with(2, ASTHRA_MAIN_HOSTS);
}
TEST(fork, the_child_of_many_workers_begins_anew) {
    SKIP_WHERE_UNSAFE();
    fork_with(6, ASTHRA_MAIN_HELPS);
}

static void *thread_forks(void *unused) {
    for (int i = 0; i < 5; i++) fork_and_check(0);
    return unused;
}

TEST(fork, the_child_of_a_plain_thread_begins_anew) {
    pthread_t t;
    SKIP_WHERE_UNSAFE();
    start(2, ASTHRA_MAIN_HELPS);
    AsthraTaskHandle h = asthra_spawn(keeps_busy, NULL);
    CHECK_EQ(pthread_create(&t, NULL, thread_forks, NULL), 0);
    pthread_join(t, NULL);
    atomic_store(&stop, 1);
    asthra_await(h);
}

TEST(fork, before_init_forking_changes_nothing) {
    SKIP_WHERE_UNSAFE();
    fork_and_check(1);
    CHECK(!asthra_runtime_is_running());
    uses_everything();
}

/* On a task's stack the child can do what it likes until it ends; the task itself is gone. */
static void *task_forks(void *unused) {
    for (int i = 0; i < 5; i++) fork_and_check(0);
    return unused;
}
TEST(fork, a_task_may_fork_and_its_child_begins_anew) {
    SKIP_WHERE_UNSAFE();
    for (size_t workers = 1; workers <= 3; workers++) {
        start(workers, ASTHRA_MAIN_HELPS);
        asthra_await(asthra_spawn(task_forks, NULL));
        AsthraSpawnOptions o = {.priority = 1};
        asthra_await(asthra_spawn_with(&o, task_forks, NULL)); /* not in place */
        asthra_runtime_shutdown();
    }
}

static void *task_execs(void *unused) {
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    return unused;
}
TEST(fork, tasks_start_other_programs) {
    AsthraTaskHandle h[10];
    start(3, ASTHRA_MAIN_HELPS);
    for (int i = 0; i < 10; i++) h[i] = asthra_spawn(task_execs, NULL);
    for (int i = 0; i < 10; i++) asthra_await(h[i]);
    asthra_runtime_shutdown();
}

/* A child that returns from the task's function would go on in a runtime that is not there. */
static void *child_returns(void *out) {
    pid_t child = fork();
    if (child != 0) *(pid_t *)out = child;
    return NULL;
}
TEST(fork, a_child_that_returns_from_its_task_ends_with_a_clear_panic) {
    SKIP_WHERE_UNSAFE();
    for (size_t workers = 1; workers <= 2; workers++) {
        pid_t child = 0;
        char text[4096];
        FILE *caught = tmpfile();
        int err = dup(STDERR_FILENO), status = -1;
        start(workers, ASTHRA_MAIN_HELPS);
        AsthraSpawnOptions o = {.priority = 1};
        dup2(fileno(caught), STDERR_FILENO);
        asthra_await(asthra_spawn_with(workers == 1 ? NULL : &o, child_returns, &child));
        CHECK_EQ(waitpid(child, &status, 0), child);
        dup2(err, STDERR_FILENO);
        ssize_t got = pread(fileno(caught), text, sizeof text - 1, 0);
        text[got > 0 ? got : 0] = 0;
        fputs(text, stderr);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
        CHECK(strstr(text, "forked") != NULL);
        asthra_runtime_shutdown();
    }
}

/* One thread is all there is, so the child is whole: tasks, channels and all. */
static void *answers(void *pair) {
    return echoes(pair);
}
TEST(fork, without_threads_the_child_goes_on_where_the_parent_was) {
#ifndef ASTHRA_RT_NO_THREADS
    SKIP("fork: this build has threads");
#endif
    AsthraChannel *c[2] = {asthra_channel_create(sizeof(int), 0, "there"),
                           asthra_channel_create(sizeof(int), 0, "back")};
    AsthraTaskHandle h = asthra_spawn(answers, c);
    int value = 7, status = -1;
    CHECK_EQ(asthra_channel_send(c[0], &value).status, ASTHRA_OK);
    pid_t child = fork();
    CHECK(child >= 0);
    CHECK_EQ(asthra_channel_receive(c[1], &value).status, ASTHRA_OK);
    CHECK_EQ(value, 7);
    asthra_channel_close(c[0]);
    asthra_await(h);
    uses_everything();
    if (child == 0) _exit(0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}
