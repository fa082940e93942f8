/* Signals while tasks park, switch, spawn and end: none is lost, none disturbs the runtime. */
#include "test.h"
#include "asthra_rt.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/time.h>

#define NUMBER(n) ((void *)(intptr_t)(n))

#if defined(__SANITIZE_THREAD__)
enum { SCALE = 10 };
/* It keeps a signal with the fiber it came to and runs the handler wherever that goes on. */
#define SKIP_UNDER_TSAN() SKIP("signals: under ThreadSanitizer handlers run on other threads")
#elif defined(__SANITIZE_ADDRESS__)
enum { SCALE = 4 };
#else
enum { SCALE = 1 };
#endif

#ifndef SKIP_UNDER_TSAN
#define SKIP_UNDER_TSAN() ((void)0)
#endif

static volatile sig_atomic_t alarms;
static void on_alarm(int number) {
    (void)number;
    alarms++;
    errno = 99; /* a handler that does not keep it is the host's business: ours must not break */
}
static void on_alarm_kept(int number) {
    int saved = errno;
    (void)number;
    alarms++;
    errno = saved;
}

static void alarm_every(long us, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    struct itimerval every = {{0, us}, {0, us}};
    sigemptyset(&action.sa_mask);
    CHECK_EQ(sigaction(SIGALRM, &action, NULL), 0);
    CHECK_EQ(setitimer(ITIMER_REAL, &every, NULL), 0);
}

static void start(size_t workers, AsthraMainThread main_thread) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = workers;
    c.main_thread = main_thread;
    CHECK(asthra_runtime_init(&c));
}

static void *add_one(void *n) {
    return NUMBER((intptr_t)n + 1);
}
static void *fib(void *n) {
    intptr_t k = (intptr_t)n;
    if (k < 2) return n;
    AsthraTaskHandle a = asthra_spawn(fib, NUMBER(k - 1));
    intptr_t b = (intptr_t)fib(NUMBER(k - 2));
    return NUMBER((intptr_t)asthra_await(a) + b);
}

static AsthraChannel *there, *back;
static void *returns_balls(void *unused) {
    int ball;
    while (asthra_channel_next(there, &ball, sizeof ball)) {
        ball++;
        if (ball % 100 == 0) asthra_yield();
        asthra_channel_send(back, &ball);
    }
    return unused;
}

static void work(int rounds) {
    there = asthra_channel_create(sizeof(int), 0, "there");
    back = asthra_channel_create(sizeof(int), 0, "back");
    AsthraTaskHandle h = asthra_spawn(returns_balls, NULL);
    for (int i = 0, ball = 0; i < rounds; i++) {
        CHECK_EQ(asthra_channel_send(there, &i).status, ASTHRA_OK);
        CHECK_EQ(asthra_channel_receive(back, &ball).status, ASTHRA_OK);
        CHECK_EQ(ball, i + 1);
        if (i % 200 == 0) {
            int64_t before = asthra_now_ns();
            CHECK_EQ(asthra_sleep_ns(ASTHRA_US(1500)).status, ASTHRA_OK);
            CHECK(asthra_now_ns() - before >= ASTHRA_US(1500)); /* not cut short */
            CHECK_EQ((intptr_t)asthra_await(asthra_spawn(fib, NUMBER(10))), 55);
        }
    }
    asthra_channel_close(there);
    asthra_await(h);
    asthra_channel_destroy(there);
    asthra_channel_destroy(back);
}

static void under_alarms(size_t workers, AsthraMainThread main_thread, int flags) {
    SKIP_UNDER_TSAN();
    alarm_every(1000, on_alarm_kept, flags);
    start(workers, main_thread);
    work(10000 / SCALE);
    while (alarms < 20) CHECK_EQ(asthra_sleep_ns(ASTHRA_US(300)).status, ASTHRA_OK);
    asthra_runtime_shutdown();
    CHECK(alarms >= 20);
}

TEST(signals, a_timer_signal_during_everything_on_one_worker) {
    under_alarms(1, ASTHRA_MAIN_HELPS, 0);
}
TEST(signals, a_timer_signal_during_everything_on_two_workers) {
    under_alarms(2, ASTHRA_MAIN_HELPS, SA_RESTART);
}
TEST(signals, a_timer_signal_under_a_hosting_main) {
    under_alarms(2, ASTHRA_MAIN_HOSTS, 0);
}

TEST(signals, a_handler_that_breaks_errno_breaks_nothing_of_ours) {
    alarm_every(300, on_alarm, 0);
    start(2, ASTHRA_MAIN_HELPS);
    work(5000 / SCALE);
    asthra_runtime_shutdown();
}

static void on_alarm_counts(int number) {
    (void)number;
    alarms++;
}
TEST(signals, an_alternate_stack_of_the_hosts_is_used_and_kept) {
    SKIP_UNDER_TSAN();
    static char memory[65536];
    stack_t mine = {.ss_sp = memory, .ss_size = sizeof memory}, now;
    CHECK_EQ(sigaltstack(&mine, NULL), 0);
    alarm_every(500, on_alarm_counts, SA_ONSTACK);
    start(2, ASTHRA_MAIN_HELPS);
    work(4000 / SCALE);
    asthra_runtime_shutdown();
    CHECK_EQ(sigaltstack(NULL, &now), 0);
    CHECK(now.ss_sp == memory);
}

/* Workers block the host's signals: a handler runs on the host's threads only. */
static pthread_t main_thread;
static volatile sig_atomic_t elsewhere;
static void on_alarm_where(int number) {
    (void)number;
    alarms++;
    if (!pthread_equal(pthread_self(), main_thread)) elsewhere++;
}
TEST(signals, handlers_run_on_the_hosts_threads_only) {
    SKIP_UNDER_TSAN();
    main_thread = pthread_self();
    alarm_every(500, on_alarm_where, 0);
    start(4, ASTHRA_MAIN_HELPS);
    work(4000 / SCALE);
    while (alarms < 20) asthra_sleep_ns(ASTHRA_US(300));
    asthra_runtime_shutdown();
    CHECK_EQ(elsewhere, 0);
}

static atomic_int stop, is_through;
static pthread_t target; /* not joined before the pest is: its id stays good */
static void *pesters(void *unused) {
    struct timespec pause = {0, 50000};
    while (!atomic_load(&stop)) {
        pthread_kill(target, SIGUSR1);
        nanosleep(&pause, NULL);
    }
    return unused;
}
static void *thread_works(void *unused) {
    for (int i = 0; i < 2000 / SCALE; i++) {
        CHECK_EQ((intptr_t)asthra_await(asthra_spawn(add_one, NUMBER(i))), i + 1);
        AsthraTaskHandle h = asthra_spawn(fib, NUMBER(8));
        AsthraResult r;
        do r = asthra_await_timeout(h, ASTHRA_US(50), NULL);
        while (r.status == ASTHRA_TIMED_OUT);
        CHECK_EQ(r.status, ASTHRA_OK);
    }
    atomic_store(&is_through, 1);
    while (!atomic_load(&stop)) sched_yield();
    return unused;
}

TEST(signals, a_plain_thread_that_waits_is_not_woken_by_a_signal) {
    struct sigaction action = {.sa_handler = on_alarm_counts};
    pthread_t t;
    sigaction(SIGUSR1, &action, NULL);
    start(2, ASTHRA_MAIN_HELPS);
    CHECK_EQ(pthread_create(&target, NULL, thread_works, NULL), 0);
    CHECK_EQ(pthread_create(&t, NULL, pesters, NULL), 0);
    atomic_store(&stop, 0);
    while (!atomic_load(&is_through)) asthra_sleep_ns(ASTHRA_US(300));
    atomic_store(&stop, 1);
    pthread_join(t, NULL);
    pthread_join(target, NULL);
    asthra_runtime_shutdown();
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
/* A fault that is not ours goes to the host's handler, or ends the process as it would have. */
static volatile sig_atomic_t faults;
static void *readable;
static void on_fault(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    if (info->si_addr != readable) _exit(3);
    faults++;
    mprotect(readable, 4096, PROT_READ | PROT_WRITE);
}
static void *touches(void *at) {
    *(volatile char *)at = 1;
    return NULL;
}
TEST(signals, the_hosts_fault_handler_gets_what_is_its_own) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    /* Its first page is not near main's stack, for which emulators leave no gap. */
    readable = mmap(NULL, 4 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(readable != MAP_FAILED);
    sigaction(SIGSEGV, &action, NULL);
    start(2, ASTHRA_MAIN_HELPS);
    asthra_await(asthra_spawn(touches, readable));
    CHECK_EQ(faults, 1);
    asthra_runtime_shutdown();
    struct sigaction now;
    sigaction(SIGSEGV, NULL, &now);
    CHECK(now.sa_sigaction == on_fault); /* and has its place back */
}

TEST(signals, a_wild_access_in_a_task_ends_the_process_as_ever) {
    pid_t child = fork();
    if (child == 0) {
        start(2, ASTHRA_MAIN_HELPS);
        asthra_await(asthra_spawn(touches, NUMBER(64)));
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    CHECK(WIFSIGNALED(status));
    CHECK_EQ(WTERMSIG(status), SIGSEGV);
}
#endif
