/* The promises of src/io/fd.h, one test each. */
#include "test.h"
#include "asthra_rt.h"
#include "tasks.h"

#include <poll.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define NUMBER(n) ((void *)(intptr_t)(n))

typedef struct Pair {
    int near, far;
} Pair;

static Pair pipe_pair(void) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    return (Pair){ends[0], ends[1]};
}

static Pair socket_pair(void) {
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    return (Pair){ends[0], ends[1]};
}

static void close_pair(Pair p) {
    close(p.near);
    close(p.far);
}

static void put_byte(int fd) {
    CHECK(write(fd, "x", 1) == 1);
}

static void take_byte(int fd) {
    char c;
    CHECK(read(fd, &c, 1) == 1);
}

/* A wait in a task, as the others see it. */
typedef struct Waiting {
    int fd, events;
    int64_t timeout_ns;
    AsthraResult result;
    char message[100];
} Waiting;

static void *waits(void *p) {
    Waiting *w = p;
    w->result = asthra_wait_fd(w->fd, w->events, w->timeout_ns);
    snprintf(w->message, sizeof w->message, "%s", asthra_result_message(w->result));
    return p;
}

static AsthraTaskHandle spawn_wait(Waiting *w, int fd, int events) {
    *w = (Waiting){fd, events, ASTHRA_FOREVER, {0, 0, {0}}, ""};
    AsthraTaskHandle t = asthra_spawn(waits, w);
    until_waiting(t);
    return t;
}

static void check_ready(Waiting *w, AsthraTaskHandle t, int events) {
    asthra_await(t);
    CHECK_EQ(w->result.status, ASTHRA_OK);
    CHECK_EQ(w->result.value.integer, events);
}

/* ---- readiness ---- */

static void told_when_readable(size_t workers) {
    start_as(workers, 0);
    Pair pairs[2] = {pipe_pair(), socket_pair()};
    for (int i = 0; i < 2; i++) {
        Waiting w;
        AsthraTaskHandle t = spawn_wait(&w, pairs[i].near, POLLIN);
        put_byte(pairs[i].far);
        check_ready(&w, t, POLLIN);
        take_byte(pairs[i].near); /* and again, on what the set knows by now */
        t = spawn_wait(&w, pairs[i].near, POLLIN);
        put_byte(pairs[i].far);
        check_ready(&w, t, POLLIN);
        close_pair(pairs[i]);
    }
    asthra_runtime_shutdown();
}

TEST(fd, a_task_is_told_when_its_descriptor_is_readable) {
    for (size_t workers = 1; workers <= 3; workers++) told_when_readable(workers);
}

static void *waits_at_once(void *p) {
    const Pair *pair = p;
    AsthraResult r = asthra_wait_fd(pair->near, POLLIN | POLLOUT, ASTHRA_FOREVER);
    CHECK_EQ(r.status, ASTHRA_OK);
    CHECK_EQ(r.value.integer, POLLIN | POLLOUT);
    return NULL;
}

TEST(fd, what_is_ready_already_is_told_too) {
    Pair p = socket_pair();
    put_byte(p.far);
    asthra_await(asthra_spawn(waits_at_once, &p));
    waits_at_once(&p);
}

/* Makes the near end of a socket pair refuse a write. */
static size_t fill(int fd) {
    char block[4096];
    size_t all = 0;
    ssize_t done;
    memset(block, 'x', sizeof block);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    while ((done = write(fd, block, sizeof block)) > 0) all += (size_t)done;
    CHECK_EQ(errno, EAGAIN);
    return all;
}

TEST(fd, a_task_is_told_when_its_descriptor_is_writable) {
    Pair p = socket_pair();
    size_t left = fill(p.near);
    Waiting w;
    AsthraTaskHandle t = spawn_wait(&w, p.near, POLLOUT);
    char block[4096];
    while (left > 0) {
        ssize_t got = read(p.far, block, sizeof block);
        CHECK(got > 0);
        left -= (size_t)got;
    }
    check_ready(&w, t, POLLOUT);
}

TEST(fd, the_end_is_told_whatever_was_asked) {
    for (int events = 0; events <= POLLIN; events += POLLIN) {
        Pair p = pipe_pair();
        Waiting w;
        AsthraTaskHandle t = spawn_wait(&w, p.near, events);
        close(p.far);
        check_ready(&w, t, POLLHUP);
        close(p.near);
    }
}

TEST(fd, an_error_is_told_whatever_was_asked) {
    Pair p = pipe_pair();
    size_t left = fill(p.far);
    Waiting w;
    AsthraTaskHandle t = spawn_wait(&w, p.far, 0);
    CHECK(left > 0);
    close(p.near);
    asthra_await(t);
    CHECK_EQ(w.result.status, ASTHRA_OK);
    CHECK(w.result.value.integer & POLLERR);
}

TEST(fd, a_plain_file_is_always_ready) {
    char path[] = "/tmp/asthra_fd_XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    unlink(path);
    Waiting w = {fd, POLLIN | POLLOUT, ASTHRA_FOREVER, {0, 0, {0}}, ""};
    asthra_await(asthra_spawn(waits, &w));
    CHECK_EQ(w.result.status, ASTHRA_OK);
    CHECK_EQ(w.result.value.integer, POLLIN | POLLOUT);
}

/* ---- several ---- */

TEST(fd, readers_and_writers_of_one_descriptor_are_told_apart) {
    Pair p = socket_pair();
    Waiting reads[3], writes;
    AsthraTaskHandle readers[3], writer;
    start_as(2, 0);
    size_t filled = fill(p.near);
    for (int i = 0; i < 3; i++) readers[i] = spawn_wait(&reads[i], p.near, POLLIN);
    writer = spawn_wait(&writes, p.near, POLLOUT);
    put_byte(p.far);
    for (int i = 0; i < 3; i++) check_ready(&reads[i], readers[i], POLLIN);
    CHECK_EQ(asthra_task_state(writer), ASTHRA_TASK_WAITING);
    take_byte(p.near);
    readers[0] = spawn_wait(&reads[0], p.near, POLLIN);
    char block[4096];
    while (filled > 0) {
        ssize_t got = read(p.far, block, sizeof block);
        CHECK(got > 0);
        filled -= (size_t)got;
    }
    check_ready(&writes, writer, POLLOUT);
    CHECK_EQ(asthra_task_state(readers[0]), ASTHRA_TASK_WAITING);
    put_byte(p.far);
    check_ready(&reads[0], readers[0], POLLIN);
}

/* Of many that are told of each byte one gets it; the others must wait for the next one, and never
 * be told of a byte that was gone before they asked. */
static void *competes(void *p) {
    const Pair *pair = p;
    int64_t got = 0;
    for (;;) {
        char c;
        ssize_t n = read(pair->near, &c, 1);
        if (n == 1) got++;
        if (n == 0) return NUMBER(got);
        if (n < 0) CHECK_EQ(asthra_wait_fd(pair->near, POLLIN, ASTHRA_FOREVER).status, ASTHRA_OK);
    }
}

TEST(fd, many_that_compete_for_one_descriptor_miss_nothing) {
    enum { TASKS = 20 };
    const int bytes = 5000 / (int)test_thrift();
    for (size_t workers = 1; workers <= 3; workers++) {
        AsthraTaskHandle t[TASKS];
        Pair p = socket_pair();
        fcntl(p.near, F_SETFL, O_NONBLOCK);
        int64_t sum = 0;
        start_as(workers, 0);
        for (int i = 0; i < TASKS; i++) t[i] = asthra_spawn(competes, &p);
        for (int i = 0; i < bytes; i++) {
            put_byte(p.far);
            if (i % 7 == 0) asthra_yield();
        }
        close(p.far);
        for (int i = 0; i < TASKS; i++) sum += (intptr_t)asthra_await(t[i]);
        CHECK_EQ(sum, bytes);
        close(p.near);
        asthra_runtime_shutdown();
    }
}

/* Each waits for a byte, passes one on, `rounds` times; a ring of pipes. */
enum { RING = 50 };
static Pair ring[RING];
static int ring_rounds;

static void *passes_on(void *index) {
    int i = (int)(intptr_t)index;
    for (int r = 0; r < ring_rounds; r++) {
        CHECK_EQ(asthra_wait_fd(ring[i].near, POLLIN, ASTHRA_FOREVER).status, ASTHRA_OK);
        take_byte(ring[i].near);
        put_byte(ring[(i + 1) % RING].far);
    }
    return NULL;
}

static void go_round(size_t workers, uint64_t seed) {
    AsthraTaskHandle t[RING];
    start_as(workers, seed);
    for (int i = 0; i < RING; i++) ring[i] = i % 2 ? pipe_pair() : socket_pair();
    for (int i = 0; i < RING; i++) t[i] = asthra_spawn(passes_on, NUMBER(i));
    for (int i = 0; i < 5; i++) put_byte(ring[i * 7].far);
    for (int i = 0; i < RING; i++) asthra_await(t[i]);
    for (int i = 0; i < RING; i++) close_pair(ring[i]);
    asthra_runtime_shutdown();
}

TEST(fd, bytes_go_round_a_ring_of_tasks) {
    ring_rounds = 200 / (int)test_thrift();
    for (size_t workers = 1; workers <= 4; workers++) go_round(workers, 0);
}

TEST(fd, bytes_go_round_under_seeds) {
    ring_rounds = 10;
    for (uint64_t seed = 1; seed <= 40 / test_thrift(); seed++) go_round(1, seed);
}

/* ---- limits and cancellation ---- */

TEST(fd, a_limit_ends_the_wait) {
    Pair p = pipe_pair();
    for (uint64_t seed = 0; seed < 3; seed++) {
        start_as(2, seed);
        Waiting w = {p.near, POLLIN, ASTHRA_MS(2), {0, 0, {0}}, ""};
        int64_t before = asthra_now_ns();
        asthra_await(asthra_spawn(waits, &w));
        CHECK_EQ(w.result.status, ASTHRA_TIMED_OUT);
        CHECK(asthra_now_ns() - before >= ASTHRA_MS(2));
        w.timeout_ns = 0;
        asthra_await(asthra_spawn(waits, &w));
        CHECK_EQ(w.result.status, ASTHRA_TIMED_OUT);
        put_byte(p.far);
        w.timeout_ns = ASTHRA_SECONDS(100); /* an event that the set was armed for before */
        asthra_await(asthra_spawn(waits, &w));
        CHECK_EQ(w.result.status, ASTHRA_OK);
        w.timeout_ns = 0;
        asthra_await(asthra_spawn(waits, &w));
        CHECK_EQ(w.result.status, ASTHRA_OK);
        take_byte(p.near);
        asthra_runtime_shutdown();
    }
}

TEST(fd, a_cancel_ends_the_wait) {
    Pair p = pipe_pair();
    Waiting w;
    AsthraTaskHandle t = spawn_wait(&w, p.near, POLLIN);
    CHECK(asthra_task_cancel(t));
    CHECK_EQ(asthra_await_result(t, NULL).status, ASTHRA_CANCELLED);
    CHECK_EQ(w.result.status, ASTHRA_CANCELLED);
    t = spawn_wait(&w, p.near, POLLIN);
    put_byte(p.far);
    check_ready(&w, t, POLLIN);
}

TEST(fd, shutdown_cancels_the_wait) {
    Pair p = pipe_pair();
    Waiting w;
    asthra_task_detach(spawn_wait(&w, p.near, POLLIN));
    asthra_runtime_shutdown();
    CHECK_EQ(w.result.status, ASTHRA_CANCELLED);
    start_as(2, 0); /* the next run opens a set of its own */
    AsthraTaskHandle t = spawn_wait(&w, p.near, POLLIN);
    put_byte(p.far);
    check_ready(&w, t, POLLIN);
}

/* ---- bad ones ---- */

TEST(fd, what_is_not_open_is_refused) {
    int bad[3] = {-1, 19000, INT32_MAX};
    close(19000);
    for (int i = 0; i < 3; i++) {
        Waiting w = {bad[i], POLLIN, ASTHRA_FOREVER, {0, 0, {0}}, ""};
        asthra_await(asthra_spawn(waits, &w));
        CHECK_EQ(w.result.status, ASTHRA_INVALID);
        CHECK_EQ(w.result.detail, EBADF);
        AsthraResult r = asthra_wait_fd(bad[i], POLLIN, ASTHRA_FOREVER);
        CHECK_EQ(r.status, ASTHRA_INVALID);
        CHECK_EQ(r.detail, EBADF);
        char expected[80];
        snprintf(expected, sizeof expected, "asthra_wait_fd: %d is no open descriptor", bad[i]);
        CHECK_STR(asthra_result_message(r), expected);
    }
}

TEST(fd, what_are_no_events_is_refused) {
    AsthraResult r = asthra_wait_fd(0, 0x10001, ASTHRA_FOREVER);
    CHECK_EQ(r.status, ASTHRA_INVALID);
    CHECK_STR(asthra_result_message(r), "asthra_wait_fd: events are 0x10001, expected those of "
                                        "poll(2), at most 0x7fff");
}

/* To take away what another thread watches is a race, as ThreadSanitizer says if it sees it. */
#ifdef __SANITIZE_THREAD__
#include <sys/syscall.h>
#define close_under_a_waiter(fd) CHECK(syscall(SYS_close, fd) == 0)
#define dup2_under_a_waiter(from, fd) CHECK(syscall(SYS_dup3, from, fd, 0) == fd)
#else
#define close_under_a_waiter(fd) CHECK(close(fd) == 0)
#define dup2_under_a_waiter(from, fd) CHECK(dup2(from, fd) == fd)
#endif

TEST(fd, a_descriptor_closed_by_others_ends_the_wait) {
    for (uint64_t seed = 0; seed < 2; seed++) {
        start_as(2, seed);
        Pair p = socket_pair();
        Waiting w[2];
        AsthraTaskHandle t[2];
        for (int i = 0; i < 2; i++) t[i] = spawn_wait(&w[i], p.near, POLLIN);
        close_under_a_waiter(p.near);
        for (int i = 0; i < 2; i++) {
            asthra_await(t[i]);
            CHECK_EQ(w[i].result.status, ASTHRA_CLOSED);
            CHECK_EQ(w[i].result.detail, EBADF);
        }
        close(p.far);
        asthra_runtime_shutdown();
    }
}

TEST(fd, a_number_that_is_another_file_now_ends_the_wait_for_the_old_one) {
#ifdef ASTHRA_RT_POSIX
    SKIP("POSIX does not tell a number from its file");
#endif
    Pair old = socket_pair(), fresh = socket_pair();
    Waiting w[2];
    AsthraTaskHandle t = spawn_wait(&w[0], old.near, POLLIN);
    dup2_under_a_waiter(fresh.near, old.near);
    AsthraTaskHandle next = spawn_wait(&w[1], old.near, POLLIN);
    asthra_await(t);
    CHECK_EQ(w[0].result.status, ASTHRA_CLOSED);
    CHECK_EQ(asthra_task_state(next), ASTHRA_TASK_WAITING);
    put_byte(fresh.far);
    check_ready(&w[1], next, POLLIN);
}

/* The old file lives on under another number, and the set still watches it. */
TEST(fd, an_event_of_a_file_that_left_its_number_is_not_told) {
    Pair old = socket_pair(), fresh = socket_pair();
    Waiting w;
    AsthraTaskHandle t = spawn_wait(&w, old.near, POLLIN);
    asthra_task_cancel(t); /* the set stays armed for it */
    asthra_await_result(t, NULL);
    int kept = dup(old.near);
    CHECK(kept >= 0);
    dup2_under_a_waiter(fresh.near, old.near);
    t = spawn_wait(&w, old.near, POLLIN);
    put_byte(old.far);
    for (int i = 0; i < 100; i++) asthra_sleep_ns(1000);
    CHECK_EQ(asthra_task_state(t), ASTHRA_TASK_WAITING);
    put_byte(fresh.far);
    check_ready(&w, t, POLLIN);
}

TEST_PANICS(fd, a_set_that_the_program_closed_is_told, "closed a descriptor of the runtime's") {
    Pair p = pipe_pair();
    Waiting w;
    AsthraTaskHandle t = spawn_wait(&w, p.near, POLLIN);
    for (int fd = p.far + 1; fd < p.far + 20; fd++) close(fd);
    asthra_await(t);
}

/* ---- limits of the system ---- */

static int lowest_number(void) {
    int fd = dup(STDERR_FILENO);
    CHECK(fd >= 0);
    close(fd);
    return fd;
}

static struct rlimit leave_room_for(int count) {
    struct rlimit before, limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &before) == 0);
    limit = before;
    limit.rlim_cur = (rlim_t)(lowest_number() + count);
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    return before;
}

TEST(fd, without_descriptors_to_wait_with_the_reason_is_told) {
    for (uint64_t seed = 0; seed < 2; seed++) {
        Pair p = pipe_pair();
        Waiting w;
        start_as(2, seed);
        for (int room = 0; room < 2; room++) { /* it takes two */
            int lowest = lowest_number();
            struct rlimit before = leave_room_for(room);
            w = (Waiting){p.near, POLLIN, ASTHRA_FOREVER, {0, 0, {0}}, ""};
            asthra_await(asthra_spawn(waits, &w));
            CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
            char expected[90];
            snprintf(expected, sizeof expected,
                     "asthra_wait_fd: the system refused what waiting for descriptor %d needs",
                     p.near);
            CHECK_EQ(w.result.status, ASTHRA_LIMIT);
            CHECK_EQ(w.result.detail, EMFILE);
            CHECK_STR(w.message, expected);
            CHECK_EQ(lowest_number(), lowest);
        }
        AsthraTaskHandle t = spawn_wait(&w, p.near, POLLIN); /* and the next one gets them */
        put_byte(p.far);
        check_ready(&w, t, POLLIN);
        close_pair(p);
        asthra_runtime_shutdown();
    }
}

/* ---- who waits ---- */

static void *writes_later(void *p) {
    const Pair *pair = p;
    for (int i = 0; i < 50; i++) sched_yield();
    put_byte(pair->far);
    return NULL;
}

TEST(fd, a_plain_thread_waits_as_well) {
    NEED_THREADS();
    Pair p = pipe_pair();
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.main_thread = ASTHRA_MAIN_HOSTS;
    CHECK(asthra_runtime_init(&c));
    pthread_t writer;
    CHECK(pthread_create(&writer, NULL, writes_later, &p) == 0);
    AsthraResult r = asthra_wait_fd(p.near, POLLIN, ASTHRA_FOREVER);
    CHECK_EQ(r.status, ASTHRA_OK);
    CHECK_EQ(r.value.integer, POLLIN);
    pthread_join(writer, NULL);
    take_byte(p.near);
    CHECK_EQ(asthra_wait_fd(p.near, POLLIN, ASTHRA_MS(1)).status, ASTHRA_TIMED_OUT);
    CHECK_EQ(asthra_wait_fd(p.near, POLLIN, 0).status, ASTHRA_TIMED_OUT);
}

TEST(fd, main_runs_tasks_while_it_waits) {
    Pair p = pipe_pair();
    start_as(1, 0);
    AsthraTaskHandle t = asthra_spawn(writes_later, &p);
    AsthraResult r = asthra_wait_fd(p.near, POLLIN, ASTHRA_FOREVER);
    CHECK_EQ(r.status, ASTHRA_OK);
    asthra_await(t);
}

/* Nobody of this process is left to wake the task, and that is no deadlock. */
TEST(fd, those_who_wait_for_another_process_are_not_asleep) {
    Pair request = pipe_pair(), answer = pipe_pair();
    pid_t other = fork();
    CHECK(other >= 0);
    if (other == 0) {
        take_byte(request.near);
        put_byte(answer.far);
        _exit(0);
    }
    start_as(2, 0);
    Waiting w;
    AsthraTaskHandle t = spawn_wait(&w, answer.near, POLLIN);
    put_byte(request.far);
    check_ready(&w, t, POLLIN);
    CHECK(waitpid(other, NULL, 0) == other);
}

static atomic_bool is_told;

static void *yields_until_told(void *unused) {
    while (!atomic_load(&is_told)) asthra_yield();
    return unused;
}

static void *computes_until_told(void *unused) {
    while (!atomic_load(&is_told)) asthra_safepoint();
    return unused;
}

static void *tells(void *p) {
    waits(p);
    atomic_store(&is_told, true);
    return NULL;
}

static void told_beside(AsthraTaskFunction busy, size_t workers) {
    Pair p = pipe_pair();
    Waiting w = {p.near, POLLIN, ASTHRA_FOREVER, {0, 0, {0}}, ""};
    AsthraTaskHandle t[4];
    atomic_store(&is_told, false);
    start_as(workers, 0);
    AsthraTaskHandle teller = asthra_spawn(tells, &w);
    until_waiting(teller);
    for (size_t i = 0; i < workers; i++) t[i] = asthra_spawn(busy, NULL);
    AsthraTaskHandle writer = asthra_spawn(writes_later, &p);
    asthra_await(writer);
    for (size_t i = 0; i < workers; i++) asthra_await(t[i]);
    asthra_await(teller);
    CHECK_EQ(w.result.status, ASTHRA_OK);
    close_pair(p);
    asthra_runtime_shutdown();
}

TEST(fd, workers_that_are_never_idle_look_as_well) {
    for (size_t workers = 1; workers <= 2; workers++) told_beside(yields_until_told, workers);
}

TEST(fd, safepoints_look_as_well) {
    for (size_t workers = 1; workers <= 2; workers++) told_beside(computes_until_told, workers);
}

TEST(fd, the_child_of_a_fork_waits_by_itself) {
    SKIP_WHERE_UNSAFE();
    Pair p = socket_pair();
    Waiting w;
    start_as(2, 0);
    AsthraTaskHandle t = spawn_wait(&w, p.near, POLLIN);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        Pair own = pipe_pair();
        Waiting mine;
        AsthraTaskHandle waiter = spawn_wait(&mine, own.near, POLLIN);
        put_byte(own.far);
        check_ready(&mine, waiter, POLLIN);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    put_byte(p.far);
    check_ready(&w, t, POLLIN);
}

/* All rest: one in the poller, the others on their words, and nobody looks every millisecond. */
TEST(fd, workers_sleep_while_nothing_is_ready) {
    NEED_THREADS();
    NEED_NO_EMULATOR("qemu-user's own threads switch, too");
    struct rusage before, after;
    start_as(4, 0);
    Pair p = pipe_pair();
    Waiting w = {p.near, POLLIN, ASTHRA_MS(600), {0, 0, {0}}, ""};
    CHECK(getrusage(RUSAGE_SELF, &before) == 0);
    asthra_await(asthra_spawn(waits, &w));
    CHECK(getrusage(RUSAGE_SELF, &after) == 0);
    CHECK_EQ(w.result.status, ASTHRA_TIMED_OUT);
    CHECK(after.ru_nvcsw - before.ru_nvcsw < 200);
}

/* Runs a child that goes on as its parent would, tasks and all. */
static pid_t fork_whole(void) {
#ifndef ASTHRA_RT_NO_THREADS
    SKIP("with threads the child begins anew");
#endif
    pid_t child = fork();
    CHECK(child >= 0);
    return child;
}

static void end_whole(pid_t child) {
    int status = -1;
    if (child == 0) _exit(0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

TEST(fd, without_threads_those_who_wait_are_told_in_parent_and_child) {
    Pair p = socket_pair();
    Waiting w;
    AsthraTaskHandle t = spawn_wait(&w, p.near, POLLIN);
    pid_t child = fork_whole();
    if (child != 0) put_byte(p.far); /* which nobody reads */
    check_ready(&w, t, POLLIN);
    end_whole(child);
}

/* The same number, armed as often, for another file. */
TEST(fd, without_threads_nobody_is_told_what_the_child_waits_for) {
    Pair p = socket_pair(), fresh = socket_pair(), ready = pipe_pair(), go = pipe_pair();
    Waiting w;
    AsthraTaskHandle t = spawn_wait(&w, p.near, POLLIN);
    put_byte(p.far);
    check_ready(&w, t, POLLIN);
    take_byte(p.near);
    pid_t child = fork_whole();
    if (child == 0) CHECK(dup2(fresh.near, p.near) == p.near);
    t = spawn_wait(&w, p.near, POLLIN);
    if (child == 0) {
        put_byte(ready.far);
        take_byte(go.near);
    } else {
        take_byte(ready.near);
        put_byte(fresh.far);
        for (int i = 0; i < 200; i++) asthra_yield();
        CHECK_EQ(asthra_task_state(t), ASTHRA_TASK_WAITING);
        put_byte(p.far);
    }
    check_ready(&w, t, POLLIN);
    if (child != 0) put_byte(go.far);
    end_whole(child);
}

TEST(fd, without_threads_a_child_that_gets_no_set_is_told) {
    Pair p = socket_pair();
    Waiting w;
    AsthraTaskHandle t = spawn_wait(&w, p.near, POLLIN);
    pid_t child = fork_whole();
    if (child == 0) {
        struct rlimit limit, none;
        CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
        none = limit;
        none.rlim_cur = 0;
        CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
        asthra_await(t);
        CHECK_EQ(w.result.status, ASTHRA_LIMIT);
        CHECK_EQ(w.result.detail, EMFILE);
        CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        t = spawn_wait(&w, p.near, POLLIN); /* and the next one gets it */
        put_byte(p.far);
        check_ready(&w, t, POLLIN);
        take_byte(p.near);
    }
    end_whole(child);
    put_byte(p.far);
    check_ready(&w, t, POLLIN);
}

/* ---- many ---- */

TEST_WITHIN(60, fd, ten_thousand_tasks_wait_at_once) {
    enum { SOCKETS = 4000, PIPES = 2000, MOST = 2 * SOCKETS + PIPES };
    const int thrift = (int)test_thrift();
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    const int sockets = SOCKETS / thrift, pipes = PIPES / thrift, tasks = 2 * sockets + pipes;
    if (limit.rlim_cur < (rlim_t)(2 * sockets + 2 * pipes + 50))
        SKIP("needs twelve thousand descriptors");
    Waiting *w = calloc(MOST, sizeof *w);
    AsthraTaskHandle *t = calloc(MOST, sizeof *t);
    int *far = calloc(MOST, sizeof *far);
    CHECK(w && t && far);
    start_as(2, 0);
    for (int i = 0; i < tasks; i++) {
        bool is_pipe = i >= 2 * sockets;
        if (is_pipe || i % 2 == 0) {
            Pair p = is_pipe ? pipe_pair() : socket_pair();
            w[i].fd = p.near;
            far[i] = p.far;
        } else { /* both ends of a socket are waited for, and written to from the other */
            w[i].fd = far[i - 1];
            far[i] = w[i - 1].fd;
        }
        w[i].events = POLLIN;
        w[i].timeout_ns = ASTHRA_FOREVER;
        t[i] = asthra_spawn(waits, &w[i]);
    }
    for (int i = 0; i < tasks; i++) until_waiting(t[i]);
    for (int i = 0; i < tasks; i++) put_byte(far[(i * 7919) % tasks]);
    for (int i = 0; i < tasks; i++) check_ready(&w[i], t[i], POLLIN);
    asthra_runtime_shutdown();
    free(w);
    free(t);
    free(far);
}
