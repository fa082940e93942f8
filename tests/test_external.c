/* The promises of src/concurrency/external.h, one test each. */
#include "test.h"
#include "asthra_rt.h"
#include "tasks.h"

#include <dirent.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define NUMBER(n) ((void *)(intptr_t)(n))

/* ---- calls that end ---- */

static void *adds_one(void *n) {
    return NUMBER((intptr_t)n + 1);
}

static void *calls_a_few(void *unused) {
    for (int i = 0; i < 50; i++) {
        AsthraResult r = asthra_external_call(adds_one, NUMBER(i), NULL);
        CHECK_EQ(r.status, ASTHRA_OK);
        CHECK_EQ((intptr_t)asthra_result_value(r), i + 1);
    }
    return unused;
}

TEST(external, a_call_gives_what_the_function_returns_in_tasks_and_on_main) {
    for (size_t workers = 1; workers <= 3; workers++) {
        AsthraTaskHandle t[5];
        start_as(workers, 0);
        calls_a_few(NULL);
        for (int i = 0; i < 5; i++) t[i] = asthra_spawn(calls_a_few, NULL);
        for (int i = 0; i < 5; i++) asthra_await(t[i]);
        asthra_runtime_shutdown();
    }
}

TEST(external, a_call_gives_what_the_function_returns_under_a_seed) {
    AsthraTaskHandle t[5];
    start_as(1, 7);
    for (int i = 0; i < 5; i++) t[i] = asthra_spawn(calls_a_few, NULL);
    for (int i = 0; i < 5; i++) asthra_await(t[i]);
    calls_a_few(NULL);
}

TEST(external, a_call_gives_what_the_function_returns_on_plain_threads) {
    pthread_t t[4];
    for (int i = 0; i < 4; i++) CHECK_EQ(pthread_create(&t[i], NULL, calls_a_few, NULL), 0);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
}

TEST(external, a_call_of_a_plain_thread_needs_no_runtime) {
    calls_a_few(NULL);
    CHECK(!asthra_runtime_is_running());
    start_as(2, 0);
    calls_a_few(NULL);
    asthra_runtime_shutdown();
    calls_a_few(NULL);
    CHECK(!asthra_runtime_is_running());
}

static pthread_t ran_on;
static void *notes_thread(void *unused) {
    ran_on = pthread_self();
    return unused;
}

TEST(external, the_function_runs_on_another_thread_that_serves_the_next_call_too) {
    NEED_THREADS();
    asthra_external_call(notes_thread, NULL, NULL);
    pthread_t first = ran_on;
    CHECK(!pthread_equal(first, pthread_self()));
    for (int i = 0; i < 10; i++) {
        asthra_external_call(notes_thread, NULL, NULL);
        CHECK(pthread_equal(ran_on, first));
        asthra_sleep_ns(ASTHRA_MS(1)); /* so that it sleeps, too */
    }
}

TEST(external, under_a_seed_the_function_runs_right_here_and_there_is_no_timeout) {
    AsthraExternalCallOptions o = {NULL, 1, 0};
    start_as(1, 7);
    AsthraResult r = asthra_external_call(notes_thread, NUMBER(3), &o);
    CHECK_EQ(r.status, ASTHRA_OK);
    CHECK_EQ((intptr_t)r.value.pointer, 3);
    CHECK(pthread_equal(ran_on, pthread_self()));
}

static void *sends_and_awaits(void *number) {
    int n = (int)(intptr_t)number, got = 0;
    AsthraChannel *c = asthra_channel_create(sizeof(int), 1, "of the function");
    CHECK_EQ(asthra_channel_send(c, &n).status, ASTHRA_OK);
    CHECK_EQ((intptr_t)asthra_await(asthra_spawn(adds_one, number)), n + 1);
    CHECK_EQ(asthra_channel_receive(c, &got).status, ASTHRA_OK);
    asthra_channel_destroy(c);
    CHECK_EQ(asthra_sleep_ns(1000).status, ASTHRA_OK);
    return NUMBER(got);
}

TEST(external, the_function_may_call_everything) {
    for (size_t workers = 1; workers <= 2; workers++) {
        start_as(workers, 0);
        CHECK_EQ((intptr_t)asthra_external_call(sends_and_awaits, NUMBER(5), NULL).value.pointer,
                 5);
        asthra_runtime_shutdown();
    }
}

static void *calls_deeper(void *depth) {
    if (depth == NULL) return NUMBER(1);
    AsthraResult r = asthra_external_call(calls_deeper, NUMBER((intptr_t)depth - 1), NULL);
    CHECK_EQ(r.status, ASTHRA_OK);
    return NUMBER((intptr_t)r.value.pointer + 1);
}

TEST(external, a_function_may_make_calls_of_its_own) {
    CHECK_EQ((intptr_t)asthra_external_call(calls_deeper, NUMBER(20), NULL).value.pointer, 21);
}

static void *leaves_things_behind(void *unused) {
    asthra_result_errorf(ASTHRA_FAILED, "a failure of the %s function", "first");
    asthra_register_this_thread("another name");
    memset(asthra_stack_alloc(1000), 'x', 1000);
    return unused;
}
static void *finds_nothing(void *unused) {
    CHECK_EQ(asthra_last_error().status, ASTHRA_OK);
    return unused;
}

TEST(external, a_function_finds_nothing_of_the_one_before) {
    NEED_THREADS();
    asthra_external_call(leaves_things_behind, NULL, NULL);
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_STACK).current, 0);
    asthra_external_call(finds_nothing, NULL, NULL);
}

static void *uses_stack(void *unused) {
    volatile char block[200 * 1024];
    for (size_t i = 0; i < sizeof block; i += 512) block[i] = 1;
    return unused;
}

TEST(external, the_function_has_an_ordinary_stack) {
    CHECK_EQ(asthra_external_call(uses_stack, NULL, NULL).status, ASTHRA_OK);
}

static void *looks_at_signals(void *out) {
    pthread_sigmask(SIG_SETMASK, NULL, out);
    return NULL;
}

TEST(external, signals_of_the_program_are_blocked_in_the_function) {
    NEED_THREADS();
    sigset_t set;
    asthra_external_call(looks_at_signals, &set, NULL);
    CHECK(sigismember(&set, SIGUSR1) && sigismember(&set, SIGINT));
    CHECK(!sigismember(&set, SIGSEGV));
}

/* ---- errno ---- */

/* Compilers keep its address while a task moves to another thread. */
__attribute__((noinline)) static int errno_now(void) {
    __asm__ volatile("");
    return errno;
}
__attribute__((noinline)) static void set_errno(int value) {
    __asm__ volatile("");
    errno = value;
}

static void *sets_errno(void *unused) {
    errno = EPIPE;
    return unused;
}
static void *keeps_errno(void *unused) {
    AsthraExternalCallOptions o = {"errno", ASTHRA_SECONDS(1000), 0};
    set_errno(77);
    CHECK_EQ(asthra_external_call(sets_errno, NULL, NULL).status, ASTHRA_OK);
    CHECK_EQ(errno_now(), 77);
    CHECK_EQ(asthra_external_call(sets_errno, NULL, &o).status, ASTHRA_OK);
    CHECK_EQ(errno_now(), 77);
    CHECK_EQ(asthra_external_call(NULL, NULL, NULL).status, ASTHRA_FAILED);
    CHECK_EQ(errno_now(), 77);
    return unused;
}

TEST(external, errno_is_left_as_it_was) {
    keeps_errno(NULL);
    asthra_await(asthra_spawn(keeps_errno, NULL));
    asthra_runtime_shutdown();
    start_as(1, 7);
    asthra_await(asthra_spawn(keeps_errno, NULL));
}

/* ---- functions that are none ---- */

static void check_invalid(void *address) {
    AsthraExternalFunction fn;
    memcpy(&fn, &address, sizeof fn);
    AsthraResult r = asthra_external_call(fn, NULL, NULL);
    CHECK_EQ(r.status, ASTHRA_FAILED);
    CHECK_STR(asthra_result_message(r), "Invalid external function");
    CHECK_STR(asthra_result_message(asthra_last_error()), "Invalid external function");
}

TEST(external, null_and_data_are_no_functions) {
    static int data[10], initialised[10] = {1, 2, 3};
    check_invalid(NULL);
    check_invalid(&data[5]);
    check_invalid(&initialised[5]);
}

TEST(external, stacks_and_heaps_are_no_functions) {
    char local = 0;
#ifdef ASTHRA_RT_POSIX
    SKIP("POSIX does not tell what pages are for");
#endif
    char *block = malloc(100);
    check_invalid(&local);
    check_invalid(block);
    free(block);
}

TEST(external, what_is_not_mapped_is_no_function) {
    NEED_UNMAPPED_ADDRESSES();
    char *page = mmap(NULL, 65536, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    CHECK_EQ(munmap(page, 65536), 0);
    check_invalid(page);
    check_invalid(NUMBER(-4096));
    check_invalid(NUMBER(8));
}

/* Gives back what it was given, on each processor. */
static const unsigned char identity[] = {
#if defined(__x86_64__)
    0x48, 0x89, 0xf8, 0xc3 /* mov %rdi, %rax; ret */
#elif defined(__i386__)
    0x8b, 0x44, 0x24, 0x04, 0xc3 /* mov 4(%esp), %eax; ret */
#elif defined(__aarch64__)
    0xc0, 0x03, 0x5f, 0xd6 /* ret */
#elif defined(__riscv)
    0x67, 0x80, 0x00, 0x00 /* ret */
#elif defined(__arm__)
    0x1e, 0xff, 0x2f, 0xe1 /* bx lr */
#endif
};

TEST(external, a_function_may_have_been_written_at_run_time) {
    AsthraExternalFunction fn;
    char *page = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    memcpy(page, identity, sizeof identity);
#ifndef ASTHRA_RT_POSIX
    check_invalid(page);
#endif
    CHECK_EQ(mprotect(page, 65536, PROT_READ | PROT_EXEC), 0);
    __builtin___clear_cache(page, page + sizeof identity);
    memcpy(&fn, &page, sizeof fn);
    CHECK(asthra_external_call(fn, page, NULL).value.pointer == page);
}

/* ---- arguments ---- */

typedef struct Argument {
    int number, filler[50];
} Argument;

static void *changes(void *args) {
    Argument *a = args;
    return NUMBER(++a->number);
}

TEST(external, arguments_are_the_callers_unless_they_are_copied) {
    Argument a = {1, {0}};
    AsthraExternalCallOptions o = {NULL, 0, sizeof a};
    CHECK_EQ((intptr_t)asthra_external_call(changes, &a, NULL).value.pointer, 2);
    CHECK_EQ(a.number, 2);
    CHECK_EQ((intptr_t)asthra_external_call(changes, &a, &o).value.pointer, 3);
    CHECK_EQ(a.number, 2);
}

TEST(external, arguments_that_cannot_be_copied_are_refused) {
    AsthraExternalCallOptions o = {NULL, 0, SIZE_MAX - 10};
    Argument a = {1, {0}};
    AsthraResult r = asthra_external_call(changes, &a, &o);
    CHECK_EQ(r.status, ASTHRA_OUT_OF_MEMORY);
    CHECK(strstr(asthra_result_message(r), "arguments") != NULL);
    o.args_size = 4;
    CHECK_EQ(asthra_external_call(changes, NULL, &o).status, ASTHRA_INVALID);
    CHECK_EQ(a.number, 1);
}

/* ---- functions that block ---- */

/* A function that says that it has begun, waits for a byte, and says that it is over. */
typedef struct Blocking {
    int begun[2], go[2], over[2];
    char text[40];
} Blocking;

static Blocking blocking(void) {
    Blocking b;
    CHECK(pipe(b.begun) == 0 && pipe(b.go) == 0 && pipe(b.over) == 0);
    snprintf(b.text, sizeof b.text, "what it is given");
    return b;
}
static void put_byte(int fd) {
    CHECK_EQ(write(fd, "x", 1), 1);
}
static void take_byte(int fd) {
    char c;
    CHECK_EQ(read(fd, &c, 1), 1);
}
static void *blocks(void *p) {
    const Blocking *b = p;
    put_byte(b->begun[1]);
    take_byte(b->go[0]);
    CHECK_STR(b->text, "what it is given");
    put_byte(b->over[1]);
    return NUMBER(9);
}

typedef struct Call {
    Blocking *b;
    AsthraExternalCallOptions options;
    AsthraResult result;
} Call;
static void *makes_call(void *p) {
    Call *c = p;
    c->result = asthra_external_call(blocks, c->b, &c->options);
    return NULL;
}

/* Ends one that its caller has left: its copy is all that it has. */
static void let_go(Blocking *b) {
    Blocking ends = *b;
    memset(b, 0, sizeof *b);
    put_byte(ends.go[1]);
    take_byte(ends.over[0]);
}

TEST(external, one_worker_serves_others_while_calls_block) {
    enum { CALLS = 20 };
    NEED_THREADS();
    Blocking b[CALLS];
    Call c[CALLS];
    AsthraTaskHandle t[CALLS];
    start_as(1, 0);
    for (int i = 0; i < CALLS; i++) {
        b[i] = blocking();
        c[i] = (Call){&b[i], {"blocks", 0, 0}, {0, 0, {NULL}}};
        t[i] = asthra_spawn(makes_call, &c[i]);
    }
    for (int i = 0; i < CALLS; i++) until_waiting(t[i]);
    for (int i = 0; i < CALLS; i++) take_byte(b[i].begun[0]); /* all are in read */
    CHECK_EQ((intptr_t)asthra_await(asthra_spawn(adds_one, NUMBER(1))), 2);
    for (int i = CALLS; i-- > 0;) {
        put_byte(b[i].go[1]);
        asthra_await(t[i]);
        CHECK_EQ(c[i].result.status, ASTHRA_OK);
        CHECK_EQ((intptr_t)c[i].result.value.pointer, 9);
    }
}

static atomic_int inside;
static void *waits_for_all(void *count) {
    atomic_fetch_add(&inside, 1);
    while (atomic_load(&inside) < (intptr_t)count) usleep(100);
    return count;
}
static void *calls_one_of_many(void *count) {
    return asthra_external_call(waits_for_all, count, NULL).value.pointer;
}

TEST(external, sixty_four_calls_are_under_way_at_once) {
    enum { CALLS = 64, THREADS = 16 };
    AsthraTaskHandle t[CALLS - THREADS];
    pthread_t p[THREADS];
    NEED_THREADS();
    start_as(2, 0);
    for (int round = 0; round < 3; round++) {
        atomic_store(&inside, 0);
        for (int i = 0; i < THREADS; i++)
            CHECK_EQ(pthread_create(&p[i], NULL, calls_one_of_many, NUMBER(CALLS)), 0);
        for (int i = 0; i < CALLS - THREADS; i++)
            t[i] = asthra_spawn(calls_one_of_many, NUMBER(CALLS));
        for (int i = 0; i < CALLS - THREADS; i++) CHECK_EQ((intptr_t)asthra_await(t[i]), CALLS);
        for (int i = 0; i < THREADS; i++) pthread_join(p[i], NULL);
    }
    asthra_runtime_shutdown();
}

static void *yields(void *n) {
    for (int i = 0; i < (intptr_t)n; i++) sched_yield();
    return n;
}
static void *calls_many(void *seed) {
    uint64_t dice = (uint64_t)(intptr_t)seed;
    for (int i = 0; i < 2000 / (int)test_thrift(); i++) {
        intptr_t n = test_roll(&dice, 4);
        AsthraExternalCallOptions o = {n % 2 ? "odd" : NULL, 0, 0};
        if (test_roll(&dice, 3) == 0) o.timeout_ns = 1 + test_roll(&dice, 20000);
        AsthraResult r = asthra_external_call(yields, NUMBER(n), &o);
        if (r.status == ASTHRA_OK) CHECK_EQ((intptr_t)r.value.pointer, n);
        if (r.status != ASTHRA_OK) CHECK(r.status == ASTHRA_TIMED_OUT && o.timeout_ns > 0);
    }
    return NULL;
}

TEST_WITHIN(60, external, many_calls_with_and_without_limits_all_end) {
    AsthraTaskHandle t[8];
    pthread_t p[2];
    for (size_t workers = 1; workers <= 3; workers++) {
        start_as(workers, 0);
        for (int i = 0; i < 8; i++) t[i] = asthra_spawn(calls_many, NUMBER(i));
#ifndef ASTHRA_RT_NO_THREADS
        for (int i = 0; i < 2; i++)
            CHECK_EQ(pthread_create(&p[i], NULL, calls_many, NUMBER(i + 8)), 0);
        for (int i = 0; i < 2; i++) pthread_join(p[i], NULL);
#endif
        (void)p;
        for (int i = 0; i < 8; i++) asthra_await(t[i]);
        asthra_runtime_shutdown();
    }
}

/* ---- timeouts ---- */

static void *is_too_late(void *unused) {
    Blocking b = blocking(), kept = b;
    AsthraExternalCallOptions o = {"late", 1000000, sizeof b};
    set_errno(77);
    CHECK_EQ(asthra_external_call(blocks, &b, &o).status, ASTHRA_TIMED_OUT);
    CHECK_EQ(errno_now(), 77);
    let_go(&b);
    o.args_size = 0; /* and without a copy, where they live on */
    CHECK_EQ(asthra_external_call(blocks, &kept, &o).status, ASTHRA_TIMED_OUT);
    put_byte(kept.go[1]);
    take_byte(kept.over[0]);
    return unused;
}

TEST(external, a_call_may_have_a_limit_and_the_function_goes_on) {
    NEED_THREADS();
    pthread_t p;
    is_too_late(NULL);
    asthra_await(asthra_spawn(is_too_late, NULL));
    CHECK_EQ(pthread_create(&p, NULL, is_too_late, NULL), 0);
    pthread_join(p, NULL);
    calls_a_few(NULL);
}

TEST(external, a_function_that_ends_in_time_does_not_know_of_the_limit) {
    static const int64_t limits[] = {0, -1, ASTHRA_SECONDS(1000), INT64_MAX};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        AsthraExternalCallOptions o = {NULL, limits[i], 0};
        AsthraResult r = asthra_external_call(adds_one, NUMBER(1), &o);
        CHECK_EQ(r.status, ASTHRA_OK);
        CHECK_EQ((intptr_t)r.value.pointer, 2);
    }
}

/* ---- cancellation ---- */

TEST(external, a_cancelled_task_leaves_and_the_function_goes_on) {
    NEED_THREADS();
    for (size_t workers = 1; workers <= 2; workers++) {
        Blocking b = blocking();
        Call c = {&b, {NULL, 0, sizeof b}, {0, 0, {NULL}}};
        start_as(workers, 0);
        AsthraTaskHandle t = asthra_spawn(makes_call, &c);
        until_waiting(t);
        CHECK(asthra_task_cancel(t));
        CHECK_EQ(asthra_await_result(t, NULL).status, ASTHRA_CANCELLED);
        CHECK_EQ(c.result.status, ASTHRA_CANCELLED);
        let_go(&b);
        asthra_runtime_shutdown();
    }
}

static atomic_int called;
static void *notes_call(void *unused) {
    atomic_fetch_add(&called, 1);
    return unused;
}
static atomic_int begun;
static void *calls_though_cancelled(void *go) {
    atomic_store(&begun, 1);
    while (!asthra_cancel_requested()) asthra_yield();
    CHECK_EQ(asthra_external_call(notes_call, go, NULL).status, ASTHRA_CANCELLED);
    asthra_cancel_mask_begin();
    CHECK_EQ(asthra_external_call(notes_call, go, NULL).status, ASTHRA_OK);
    asthra_cancel_mask_end();
    return NULL;
}

TEST(external, a_task_that_was_cancelled_calls_nothing_unless_it_is_masked) {
    AsthraTaskHandle t = asthra_spawn(calls_though_cancelled, NULL);
    while (!atomic_load(&begun)) asthra_yield();
    asthra_task_cancel(t);
    asthra_await_result(t, NULL);
    CHECK_EQ(atomic_load(&called), 1);
}

static void *calls_masked(void *call) {
    asthra_cancel_mask_begin();
    makes_call(call);
    asthra_cancel_mask_end();
    return NULL;
}

TEST(external, a_masked_task_waits_for_the_function) {
    NEED_THREADS();
    Blocking b = blocking();
    Call c = {&b, {NULL, 0, 0}, {0, 0, {NULL}}};
    AsthraTaskHandle t = asthra_spawn(calls_masked, &c);
    until_waiting(t);
    asthra_task_cancel(t);
    put_byte(b.go[1]);
    asthra_await_result(t, NULL);
    CHECK_EQ(c.result.status, ASTHRA_OK);
}

/* ---- shutdown ---- */

TEST(external, shutdown_cancels_tasks_in_calls_and_waits_for_no_function) {
    NEED_THREADS();
    for (size_t workers = 1; workers <= 2; workers++) {
        Blocking b = blocking();
        Call c = {&b, {NULL, 0, sizeof b}, {0, 0, {NULL}}};
        start_as(workers, 0);
        until_waiting(asthra_spawn(makes_call, &c));
        asthra_runtime_shutdown();
        CHECK_EQ(c.result.status, ASTHRA_CANCELLED);
        if (workers == 2) start_as(1, 0); /* the function may see the next one */
        let_go(&b);
        calls_a_few(NULL);
        asthra_runtime_shutdown();
    }
}

TEST(external, a_task_that_still_stands_at_shutdown_is_woken_no_more) {
    NEED_THREADS();
    Blocking *b = malloc(sizeof *b); /* of a task that never ends */
    AsthraRuntimeConfig config = asthra_runtime_config_default();
    config.worker_threads = 2;
    config.shutdown_timeout_ns = ASTHRA_MS(1);
    CHECK(asthra_runtime_init(&config));
    *b = blocking();
    Call c = {b, {NULL, 0, sizeof *b}, {0, 0, {NULL}}};
    until_waiting(asthra_spawn(calls_masked, &c));
    asthra_runtime_shutdown();
    let_go(b);
    CHECK(asthra_runtime_init(&config));
    calls_a_few(NULL);
    asthra_runtime_shutdown();
    free(b);
}

TEST(external, a_plain_thread_may_be_in_a_call_while_the_runtime_shuts_down) {
    NEED_THREADS();
    Blocking b = blocking();
    Call c = {&b, {NULL, 0, 0}, {0, 0, {NULL}}};
    pthread_t p;
    start_as(2, 0);
    CHECK_EQ(pthread_create(&p, NULL, makes_call, &c), 0);
    take_byte(b.begun[0]);
    asthra_runtime_shutdown();
    put_byte(b.go[1]);
    pthread_join(p, NULL);
    CHECK_EQ(c.result.status, ASTHRA_OK);
    CHECK_EQ((intptr_t)c.result.value.pointer, 9);
    start_as(2, 0);
    calls_a_few(NULL);
}

/* Threads of this process; 0: the system does not tell. */
static int threads_now(void) {
    DIR *tasks = opendir("/proc/self/task");
    int count = 0;
    for (struct dirent *e; tasks && (e = readdir(tasks)) != NULL;) count += e->d_name[0] != '.';
    if (tasks) closedir(tasks);
    return count;
}
/* One that was joined may stand in the list for a moment. */
static void until_threads(int count) {
    while (threads_now() != count) usleep(1000);
}

TEST(external, idle_helpers_end_with_the_runtime) {
    NEED_THREADS();
    NEED_NO_EMULATOR("qemu-user has threads of its own");
    int before = 0;
    for (int round = 0; round < 3; round++) {
        AsthraTaskHandle t[8];
        atomic_store(&inside, 0);
        start_as(2, 0);
        for (int i = 0; i < 8; i++) t[i] = asthra_spawn(calls_one_of_many, NUMBER(8));
        for (int i = 0; i < 8; i++) asthra_await(t[i]);
        asthra_runtime_shutdown();
        if (round == 0) { /* a sanitizer may have got one of its own */
            calls_a_few(NULL);
            before = threads_now() - 1;
        } else {
            until_threads(before);
        }
    }
}

TEST(external, idle_helpers_end_after_some_seconds) {
    NEED_THREADS();
    if (test_thrift() != 1) SKIP("waiting for idle helpers: in the plain variant");
    start_as(1, 0);
    calls_a_few(NULL);
    until_threads(1);
    calls_a_few(NULL);
}

/* ---- fork ---- */

TEST(external, a_forked_child_has_helpers_of_its_own) {
    NEED_THREADS();
    SKIP_WHERE_UNSAFE();
    Blocking b = blocking();
    Call c = {&b, {NULL, 0, 0}, {0, 0, {NULL}}};
    start_as(2, 0);
    AsthraTaskHandle t = asthra_spawn(makes_call, &c);
    take_byte(b.begun[0]);
    calls_a_few(NULL); /* one is idle, one is not */
    for (int i = 0; i < 5; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(10);
            calls_a_few(NULL);
            asthra_await(asthra_spawn(calls_a_few, NULL));
            asthra_runtime_shutdown();
            _exit(0);
        }
        int status = -1;
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
    }
    put_byte(b.go[1]);
    asthra_await(t);
    CHECK_EQ(c.result.status, ASTHRA_OK);
}

static void *forks(void *returns) {
    pid_t child = fork();
    if (child == 0 && returns == NULL) _exit(5);
    return NUMBER(child);
}
static int status_of_fork(void *returns) {
    int status = -1;
    AsthraResult r = asthra_external_call(forks, returns, NULL);
    CHECK_EQ(r.status, ASTHRA_OK);
    pid_t child = (pid_t)(intptr_t)r.value.pointer;
    CHECK_EQ(waitpid(child, &status, 0), child);
    return status;
}

TEST(external, a_function_may_fork_but_must_not_return_in_the_child) {
    NEED_THREADS();
    SKIP_WHERE_UNSAFE();
    int status = status_of_fork(NULL);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);
    status = status_of_fork(&status);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    calls_a_few(NULL);
}

/* ---- names, panics, and who is asleep ---- */

#if defined(__linux__) && !defined(ASTHRA_RT_NO_THREADS) && !defined(ASTHRA_RT_POSIX)
static void *tells_name(void *out) {
    CHECK_EQ(pthread_getname_np(pthread_self(), out, 16), 0);
    return NULL;
}

TEST(external, the_helper_shows_the_name_of_the_call) {
    static const char *const names[] = {"reader", NULL, "a name that is far too long for it"};
    static const char *const shown[] = {"reader", "external", "a name that is "};
    char name[16];
    for (int i = 0; i < 3; i++) {
        AsthraExternalCallOptions o = {names[i], 0, 0};
        asthra_external_call(tells_name, name, &o);
        CHECK_STR(name, shown[i]);
    }
}
#endif

static void *panics(void *unused) {
    asthra_panic("this is %s", "the end");
    return unused;
}
static void *calls_what_panics(void *unused) {
    AsthraExternalCallOptions o = {"panicker", 0, 0};
    asthra_panic_set_policy(ASTHRA_PANIC_UNWIND);
    asthra_external_call(panics, NULL, &o);
    return unused;
}

TEST_PANICS(external, a_panic_in_the_function_is_a_plain_threads, "in thread 'panicker'") {
    NEED_THREADS();
    asthra_await(asthra_spawn(calls_what_panics, NULL));
}

static void *sleeps(void *us) {
    usleep((unsigned)(intptr_t)us);
    return NULL;
}
static void *calls_what_sleeps(void *us) {
    return asthra_external_call(sleeps, us, NULL).value.pointer;
}

TEST(external, nobody_is_asleep_while_a_function_runs) {
    int us = test_thrift() == 1 ? 1200000 : 50000;
    for (size_t workers = 1; workers <= 2; workers++) {
        start_as(workers, 0);
        asthra_await(asthra_spawn(calls_what_sleeps, NUMBER(us)));
        calls_what_sleeps(NUMBER(us / 8));
        asthra_runtime_shutdown();
    }
}

static void need_a_deadlock(void) {
    NEED_THREADS();
    NEED_TO_COUNT_THREADS();
    NEED_NO_EMULATOR("qemu-user has a thread of its own: nobody is asleep for sure");
#if UNDER_TSAN
    SKIP("ThreadSanitizer may have more threads of its own: nobody is asleep for sure");
#endif
}

/* Not because the helper has ended. */
static void expects_three_threads(const AsthraPanicInfo *info, void *unused) {
    (void)info, (void)unused;
    if (threads_now() != 3) _exit(0);
}

TEST_PANICS(external, all_are_asleep_although_helpers_are_idle, "all tasks are asleep") {
    need_a_deadlock();
    asthra_panic_set_hook(expects_three_threads, NULL);
    calls_what_sleeps(NUMBER(20000)); /* a plain thread that rests, and rests no more */
    start_as(2, 0);
    asthra_await(asthra_spawn(calls_a_few, NULL));
    asthra_channel_receive(asthra_channel_create(1, 0, "never"), NULL);
}

static void *waits_for_ever(void *unused) {
    asthra_channel_receive(asthra_channel_create(1, 0, "never"), NULL);
    return unused;
}
static void *calls_what_waits(void *unused) {
    AsthraExternalCallOptions o = {"stuck", 0, 0};
    asthra_external_call(waits_for_ever, NULL, &o);
    return unused;
}

TEST_PANICS(external, all_are_asleep_if_the_function_is_too, "external call 'stuck'") {
    need_a_deadlock();
    start_as(2, 0);
    asthra_await(asthra_spawn(calls_what_waits, NULL));
}

/* ---- threads that are not ours ---- */

#ifndef ASTHRA_RT_NO_THREADS

static void on_thread(void *(*function)(void *), void *argument) {
    pthread_t t;
    CHECK_EQ(pthread_create(&t, NULL, function, argument), 0);
    pthread_join(t, NULL);
}

/* Threads that stand still until they are let go. */
typedef struct Standing {
    pthread_t thread;
    int go[2];
    bool uses_runtime;
} Standing;
static void *stands(void *p) {
    Standing *s = p;
    if (s->uses_runtime) asthra_await(asthra_spawn(adds_one, NULL));
    take_byte(s->go[0]);
    return NULL;
}
static void stand(Standing *s, bool uses_runtime) {
    s->uses_runtime = uses_runtime;
    CHECK_EQ(pipe(s->go), 0);
    CHECK_EQ(pthread_create(&s->thread, NULL, stands, s), 0);
}
static void let_end(Standing *s) {
    put_byte(s->go[1]);
    pthread_join(s->thread, NULL);
}

TEST(external, registered_threads_are_listed_oldest_first) {
    enum { THREADS = 40 };
    Standing s[THREADS];
    AsthraExternalThreadInfo list[THREADS + 1];
    char name[] = "a name that has more than thirty-one letters";
    CHECK_EQ(asthra_external_thread_count(), 0);
    CHECK_EQ(asthra_external_thread_list(NULL, 0), 0);
    for (int i = 0; i < THREADS; i++) {
        stand(&s[i], false);
        CHECK(asthra_register_external_thread(s[i].thread, i == 3 ? NULL : name));
    }
    name[0] = '#';
    for (int i = 0; i < THREADS; i += 2) CHECK(asthra_unregister_external_thread(s[i].thread));
    CHECK(asthra_register_external_thread(s[0].thread, "again"));
    CHECK_EQ(asthra_external_thread_count(), THREADS / 2 + 1);
    list[3].name[0] = '?';
    CHECK_EQ(asthra_external_thread_list(list, 3), THREADS / 2 + 1);
    CHECK_EQ(list[3].name[0], '?');
    CHECK_EQ(asthra_external_thread_list(list, THREADS + 1), THREADS / 2 + 1);
    for (int i = 0; i < THREADS / 2; i++) CHECK(pthread_equal(list[i].thread, s[2 * i + 1].thread));
    CHECK(pthread_equal(list[THREADS / 2].thread, s[0].thread));
    CHECK_STR(list[0].name, "a name that has more than thirt");
    CHECK_STR(list[1].name, "");
    CHECK_STR(list[THREADS / 2].name, "again");
    for (int i = 0; i < THREADS; i++) let_end(&s[i]);
}

TEST(external, a_thread_is_registered_once) {
    CHECK(asthra_register_external_thread(pthread_self(), "one"));
    CHECK(!asthra_register_external_thread(pthread_self(), "two"));
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
    CHECK(strstr(asthra_result_message(asthra_last_error()), "already") != NULL);
    CHECK(asthra_unregister_external_thread(pthread_self()));
    CHECK(!asthra_unregister_external_thread(pthread_self()));
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
    CHECK(asthra_register_external_thread(pthread_self(), "three"));
    CHECK_EQ(asthra_external_thread_count(), 1);
}

static void *registers_itself(void *unused) {
    CHECK(asthra_register_external_thread(pthread_self(), "short-lived"));
    CHECK_EQ(asthra_external_thread_count(), 2);
    return unused;
}

TEST(external, a_thread_that_ends_leaves_the_list_if_it_has_used_the_runtime) {
    Standing used, unused;
    CHECK(asthra_register_external_thread(pthread_self(), "stays"));
    on_thread(registers_itself, NULL);
    CHECK_EQ(asthra_external_thread_count(), 1);
    stand(&used, true);
    stand(&unused, false);
    CHECK(asthra_register_external_thread(used.thread, "used"));
    CHECK(asthra_register_external_thread(unused.thread, "unused"));
    let_end(&used);
    let_end(&unused);
    CHECK_EQ(asthra_external_thread_count(), 2);
    CHECK(asthra_unregister_external_thread(unused.thread));
}

typedef struct Told {
    pthread_t thread, on;
    char name[32];
    int started, gone;
} Told;
static void notes_change(pthread_t thread, const char *name, bool started, void *user) {
    Told *t = user;
    t->thread = thread;
    t->on = pthread_self();
    snprintf(t->name, sizeof t->name, "%s", name);
    *(started ? &t->started : &t->gone) += 1;
    CHECK_EQ(asthra_external_thread_count(), started);
    calls_a_few(NULL);
    CHECK_EQ((intptr_t)asthra_await(asthra_spawn(adds_one, NUMBER(1))), 2);
    asthra_manual_free(asthra_manual_alloc(100));
    CHECK(asthra_stack_alloc(100) != NULL);
    asthra_result_errorf(ASTHRA_FAILED, "and makes %s", "a record");
}
static void *is_told_of_itself(void *p) {
    Told *t = p;
    CHECK(asthra_register_external_thread(pthread_self(), "itself"));
    CHECK_EQ(t->started, 1);
    CHECK(pthread_equal(t->on, pthread_self()) && pthread_equal(t->thread, pthread_self()));
    return NUMBER(t->gone);
}

TEST(external, a_hook_is_told_of_changes_and_may_call_everything) {
    Told t;
    Standing s;
    memset(&t, 0, sizeof t);
    asthra_external_thread_on_change(notes_change, &t);
    on_thread(is_told_of_itself, &t);
    CHECK_EQ(t.gone, 1); /* by that thread, while it ended */
    CHECK(pthread_equal(t.on, t.thread) && !pthread_equal(t.on, pthread_self()));
    CHECK_STR(t.name, "itself");
    stand(&s, false);
    CHECK(asthra_register_external_thread(s.thread, "another"));
    CHECK(pthread_equal(t.on, pthread_self()) && pthread_equal(t.thread, s.thread));
    CHECK(asthra_unregister_external_thread(s.thread));
    CHECK_EQ(t.started, 2);
    CHECK_EQ(t.gone, 2);
    CHECK_STR(t.name, "another");
    asthra_external_thread_on_change(NULL, NULL);
    CHECK(asthra_register_external_thread(s.thread, "untold"));
    CHECK_EQ(t.started, 2);
    let_end(&s);
    asthra_runtime_shutdown();
}

static void *panics_by_name(void *unused) {
    asthra_register_external_thread(pthread_self(), "the reader");
    asthra_panic("of it");
    return unused;
}

TEST_PANICS(external, a_registered_thread_has_its_name_in_reports, "in thread 'the reader'") {
    on_thread(panics_by_name, NULL);
}

TEST(external, registration_needs_tier_3) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.enable_tier3_concurrency = false;
    CHECK(asthra_runtime_init(&c));
    CHECK(!asthra_register_external_thread(pthread_self(), "refused"));
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
    CHECK(strstr(asthra_result_message(asthra_last_error()), "enable_tier3_concurrency") != NULL);
    CHECK_EQ(asthra_external_thread_count(), 0);
}

TEST(external, the_list_outlives_the_runtime) {
    CHECK(asthra_register_external_thread(pthread_self(), "stays"));
    asthra_runtime_shutdown();
    CHECK_EQ(asthra_external_thread_count(), 1);
    CHECK(asthra_unregister_external_thread(pthread_self()));
}

static void check_child(void *is_listed) {
    int status = -1;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        AsthraExternalThreadInfo list[2];
        size_t count = is_listed != NULL;
        alarm(10);
        CHECK_EQ(asthra_external_thread_list(list, 2), count);
        if (is_listed) CHECK(pthread_equal(list[0].thread, pthread_self()));
        CHECK_EQ(asthra_register_external_thread(pthread_self(), "child"), !count);
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}
static void *forks_as_one_of_many(void *is_listed) {
    if (is_listed) CHECK(asthra_register_external_thread(pthread_self(), "forks"));
    check_child(is_listed);
    return NULL;
}

TEST(external, in_a_forked_child_only_the_thread_that_forked_is_listed) {
    SKIP_WHERE_UNSAFE();
    Standing s[3];
    CHECK(asthra_register_external_thread(pthread_self(), "main"));
    for (int i = 0; i < 3; i++) {
        stand(&s[i], true);
        CHECK(asthra_register_external_thread(s[i].thread, "stands"));
    }
    check_child(&s);
    on_thread(forks_as_one_of_many, &s);
    on_thread(forks_as_one_of_many, NULL);
    CHECK_EQ(asthra_external_thread_count(), 4);
    for (int i = 0; i < 3; i++) let_end(&s[i]);
}

enum { MANY = 120 };
static atomic_int registered, counted;
static void *lives_a_whole_life(void *number) {
    char name[32];
    snprintf(name, sizeof name, "thread %d", (int)(intptr_t)number);
    CHECK(asthra_register_external_thread(pthread_self(), name));
    atomic_fetch_add(&registered, 1);
    while (atomic_load(&registered) < MANY) usleep(100);
    CHECK_EQ(asthra_external_thread_count(), MANY);
    atomic_fetch_add(&counted, 1);
    while (atomic_load(&counted) < MANY) usleep(100);
    for (int i = 0; i < 5; i++) CHECK(sends_and_awaits(number) == number);
    AsthraExternalThreadInfo *list = calloc(MANY, sizeof *list);
    size_t i = 0, count = asthra_external_thread_list(list, MANY);
    while (i < count && !pthread_equal(list[i].thread, pthread_self())) i++;
    CHECK(i < count);
    CHECK_STR(list[i].name, name);
    free(list);
    if ((intptr_t)number % 2) CHECK(asthra_unregister_external_thread(pthread_self()));
    return NULL;
}

TEST_WITHIN(60, external, more_than_a_hundred_threads_register_and_use_the_runtime_at_once) {
    pthread_t t[MANY];
    start_as(2, 0);
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(pthread_create(&t[i], NULL, lives_a_whole_life, NUMBER(i)), 0);
    for (int i = 0; i < MANY; i++) pthread_join(t[i], NULL);
    CHECK_EQ(asthra_external_thread_count(), 0);
    asthra_runtime_shutdown();
}

#endif
