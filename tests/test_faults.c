/* Every program here runs again and again with one more call that fails, once or from then on: of
 * malloc, mmap, pthread_create, or one that makes a descriptor or arms one. It must get a clear
 * result or die of a panic that says what was out, and afterwards the runtime must be as good as
 * new: nothing is lost, nothing leaks. */
#include "test.h"

#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unwind.h>

/* ---- the calls that fail ---- */

static atomic_long calls, fail_at; /* fail_at 0: none */
static atomic_bool fails_on;
static atomic_int failed;
static atomic_long live_blocks, live_bytes, live_threads;

static bool fails(void) {
    long at = atomic_load(&fail_at), now = atomic_fetch_add(&calls, 1) + 1;
    if (at == 0 || (atomic_load(&fails_on) ? now < at : now != at)) return false;
    atomic_fetch_add(&failed, 1);
    errno = ENOMEM;
    return true;
}

static void *count_block(void *block) {
    if (block) atomic_fetch_add(&live_blocks, 1);
    return block;
}
static void *faulty_malloc(size_t size) {
    return fails() ? NULL : count_block(malloc(size));
}
static void *faulty_calloc(size_t n, size_t size) {
    return fails() ? NULL : count_block(calloc(n, size));
}
static void *faulty_realloc(void *block, size_t size) {
    if (fails()) return NULL;
    void *moved = realloc(block, size);
    return block ? moved : count_block(moved);
}
static void faulty_free(void *block) {
    if (block) atomic_fetch_sub(&live_blocks, 1);
    free(block);
}
static void *faulty_mmap(void *at, size_t size, int access, int flags, int fd, off_t from) {
    if (fails()) return MAP_FAILED;
    void *start = mmap(at, size, access, flags, fd, from);
    bool is_new = start != MAP_FAILED && !(flags & MAP_FIXED); /* else over what is mapped */
    if (is_new) atomic_fetch_add(&live_bytes, (long)size);
    return start;
}
static int faulty_munmap(void *start, size_t size) {
    atomic_fetch_sub(&live_bytes, (long)size);
    return munmap(start, size);
}
#ifndef ASTHRA_RT_NO_THREADS
static int faulty_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                                 void *(*function)(void *), void *argument) {
    if (fails()) return EAGAIN;
    int error = pthread_create(thread, attributes, function, argument);
    if (!error) atomic_fetch_add(&live_threads, 1);
    return error;
}
static int faulty_pthread_join(pthread_t thread, void **value) {
    atomic_fetch_sub(&live_threads, 1);
    return pthread_join(thread, value);
}
static int (*const true_pthread_create)(pthread_t *, const pthread_attr_t *, void *(*)(void *),
                                        void *) = pthread_create;
static int (*const true_pthread_join)(pthread_t, void **) = pthread_join;
#endif

/* Of no use to a layer that does without them. */
TEST_MAYBE_UNUSED static int faulty_descriptor(void) {
    if (!fails()) return 0;
    errno = EMFILE;
    return -1;
}
TEST_MAYBE_UNUSED static int faulty_epoll_create1(int flags) {
    return faulty_descriptor() ? -1 : epoll_create1(flags);
}
TEST_MAYBE_UNUSED static int faulty_eventfd(unsigned count, int flags) {
    return faulty_descriptor() ? -1 : eventfd(count, flags);
}
TEST_MAYBE_UNUSED static int faulty_pipe(int *ends) {
    return faulty_descriptor() ? -1 : pipe(ends);
}
TEST_MAYBE_UNUSED static int faulty_epoll_ctl(int set, int what, int fd, struct epoll_event *e) {
    return fails() ? -1 : epoll_ctl(set, what, fd, e);
}

#define epoll_create1 faulty_epoll_create1
#define eventfd faulty_eventfd
#define pipe faulty_pipe
#define epoll_ctl faulty_epoll_ctl
#define malloc faulty_malloc
#define calloc faulty_calloc
#define realloc faulty_realloc
#define free faulty_free
#define mmap faulty_mmap
#define munmap faulty_munmap
#undef pthread_create
#define pthread_create faulty_pthread_create
#define pthread_join faulty_pthread_join
#define ASTHRA_RT_IMPLEMENTATION
#define ASTHRA_RT_STATIC
#include "asthra_rt.h"
#undef pipe

#define NUMBER(n) ((void *)(intptr_t)(n))

/* ---- one run with one fault ---- */

enum { CAME_THROUGH = 0, DIED_CLEARLY = 42, MET_NO_FAULT = 43, MOST_FAULTS = 2000 };

typedef struct Program {
    void (*run)(void);
    size_t workers;
    AsthraMainThread main_thread;
    uint64_t seed;
} Program;

/* The reason of what failed last: it must be there and say what was out. */
static void is_told(void) {
    AsthraResult why = asthra_last_error();
    CHECK_EQ(why.status, ASTHRA_OUT_OF_MEMORY);
    CHECK(*asthra_result_message(why) != 0);
}
static bool is_fine_or_told(AsthraResult r) {
    if (asthra_result_is_ok(r)) return true;
    CHECK_EQ(r.status, ASTHRA_OUT_OF_MEMORY);
    CHECK(*asthra_result_message(r) != 0);
    return false;
}

static int open_descriptors(void) {
    int count = 0;
    for (int fd = 0; fd < 64; fd++) count += fcntl(fd, F_GETFD) != -1;
    return count;
}

/* The panics that task.h and scope.h promise. */
static void note_panic(const AsthraPanicInfo *info, void *unused) {
    (void)unused;
    if (!atomic_load(&failed)) return;
    if (strstr(info->message, "out of memory: no stack for the next task")) _exit(DIED_CLEARLY);
    if (strstr(info->message, "out of memory: no stack or thread to go on with"))
        _exit(DIED_CLEARLY);
}

static void live_once(const Program *p) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = p->workers;
    c.main_thread = p->main_thread;
    c.deterministic_seed = p->seed;
    if (!asthra_runtime_init(&c)) {
        is_told();
        CHECK(!asthra_runtime_is_running());
        return;
    }
    p->run();
    asthra_runtime_shutdown();
    CHECK(!asthra_runtime_is_running());
}

__attribute__((noreturn)) static void run_with_fault(const Program *p, long at, bool goes_on,
                                                     bool is_warm) {
    long blocks = 0, bytes = 0;
    int descriptors = open_descriptors();
    alarm(30);
    asthra_panic_set_hook(note_panic, NULL);
    if (is_warm) {
        asthra_result_err("makes the record of this thread, which stays");
        live_once(p);
        blocks = atomic_load(&live_blocks), bytes = atomic_load(&live_bytes);
    }
    atomic_store(&fails_on, goes_on);
    atomic_store(&calls, 0);
    atomic_store(&fail_at, at);
    live_once(p);
    atomic_store(&fail_at, 0);
    if (is_warm && (atomic_load(&live_blocks) != blocks || atomic_load(&live_bytes) != bytes)) {
        test_fail(__FILE__, __LINE__, "%ld blocks were live and %ld are, %ld bytes mapped and %ld",
                  blocks, atomic_load(&live_blocks), bytes, atomic_load(&live_bytes));
    }
    CHECK_EQ(atomic_load(&live_threads), 0);
    CHECK_EQ(open_descriptors(), descriptors);
    bool was_hit = atomic_load(&failed) != 0;
    atomic_store(&failed, 0); /* from here on nothing may fail or panic */
    live_once(p);
    _exit(was_hit ? CAME_THROUGH : MET_NO_FAULT);
}

/* Where a process costs a tenth of a second, two ways of four; and not every fault. */
static bool is_slow(void) {
    return test_thrift() == 20;
}

static void with_every_fault(const Program *p) {
    long step = is_slow() ? 29 : test_thrift();
    for (int way = 0; way < 4; way += is_slow() ? 3 : 1) {
        long at = 1, died = 0, faults = 0;
        for (int status = 0; status != MET_NO_FAULT; at += step, faults++) {
            CHECK(at < MOST_FAULTS);
            pid_t child = fork();
            CHECK(child >= 0);
            if (child == 0) run_with_fault(p, at, way & 1, way & 2);
            CHECK_EQ(waitpid(child, &status, 0), child);
            status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            died += status == DIED_CLEARLY;
            if (status != CAME_THROUGH && status != DIED_CLEARLY && status != MET_NO_FAULT) {
                test_fail(__FILE__, __LINE__, "fault %ld%s%s: status %d", at,
                          way & 1 ? " and all after it" : "", way & 2 ? ", warm" : "", status);
            }
        }
        fprintf(stderr, "%ld faults, %ld of them clear panics\n", faults - 1, died);
    }
}

/* On one worker, on two, beside a main that hosts, and under a seed. */
static void everywhere(void (*run)(void)) {
    if (!is_slow()) with_every_fault(&(Program){run, 1, ASTHRA_MAIN_HELPS, 0});
    if (!is_slow()) with_every_fault(&(Program){run, 1, ASTHRA_MAIN_HELPS, 7});
#ifndef ASTHRA_RT_NO_THREADS
    with_every_fault(&(Program){run, 2, ASTHRA_MAIN_HELPS, 0});
    with_every_fault(&(Program){run, 2, ASTHRA_MAIN_HOSTS, 0});
#endif
}

/* ---- the programs ---- */

static void *add_one(void *n) {
    return NUMBER((intptr_t)n + 1);
}
static void *yields(void *n) {
    asthra_yield();
    return NUMBER((intptr_t)n + 1);
}

static void runs_tasks(void) {
    AsthraTaskHandle h[30];
    for (int i = 0; i < 30; i++) {
        h[i] = asthra_spawn(i % 2 ? add_one : yields, NUMBER(i));
        if (!asthra_task_is_valid(h[i])) is_told();
    }
    for (int i = 0; i < 30; i++) {
        void *value = NULL;
        if (!asthra_task_is_valid(h[i])) continue;
        CHECK_EQ(asthra_await_result(h[i], &value).status, ASTHRA_OK);
        CHECK_EQ((intptr_t)value, i + 1);
    }
}
TEST_WITHIN(120, faults, tasks) {
    everywhere(runs_tasks);
}

static AsthraResult yields_or_fails(void *args) {
    asthra_yield();
    return *(int *)args == 7 ? asthra_result_errorf(ASTHRA_LIMIT, "%d", 7) : asthra_result_ok(NULL);
}
static void has_children(void) {
    AsthraScope outer, inner;
    ASTHRA_SCOPE(outer) {
        for (int i = 10; i < 20; i++) asthra_scope_spawn(&outer, yields_or_fails, &i, sizeof i);
        ASTHRA_SCOPE(inner) {
            for (int i = 0; i < 10; i++) asthra_scope_spawn(&inner, yields_or_fails, &i, sizeof i);
        }
        if (inner.result.status != ASTHRA_LIMIT) CHECK(!is_fine_or_told(inner.result));
    }
    is_fine_or_told(outer.result);
}
TEST_WITHIN(120, faults, scopes) {
    everywhere(has_children);
}

static void *sums(void *block) {
    unsigned char *bytes = block;
    size_t sum = 0;
    for (int i = 0; i < 10; i++) sum += bytes[i];
    bytes[0] = (unsigned char)sum;
    return NULL;
}
static void copies_blocks(void) {
    static const size_t sizes[] = {10, 24, 100, 5000, 100000};
    unsigned char block[100000];
    memset(block, 3, sizeof block);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        AsthraTaskHandle h = asthra_spawn_copy(sums, block, sizes[i]);
        if (!asthra_task_is_valid(h)) {
            is_told();
            continue;
        }
        unsigned char back[10] = {0};
        CHECK_EQ(asthra_await_copy(h, back, sizeof back).status, ASTHRA_OK);
        CHECK_EQ(back[0], 30);
    }
}
TEST_WITHIN(120, faults, blocks_that_are_copied) {
    everywhere(copies_blocks);
}

static void has_options(void) {
    AsthraTaskHandle h[6];
    for (int i = 0; i < 6; i++) {
        AsthraSpawnOptions o = {i % 2 ? "a name of its own" : NULL, i % 3 ? 0 : (size_t)1 << 20,
                                i - 3, i == 5 ? ASTHRA_AFFINITY_WORKER(0) : ASTHRA_AFFINITY_ANY};
        h[i] = asthra_spawn_with(&o, yields, NUMBER(i));
        if (!asthra_task_is_valid(h[i])) is_told();
    }
    for (int i = 0; i < 6; i++) {
        if (asthra_task_is_valid(h[i])) CHECK_EQ((intptr_t)asthra_await(h[i]), i + 1);
    }
}
TEST_WITHIN(120, faults, options) {
    everywhere(has_options);
}

static void *echoes(void *pair) {
    AsthraChannel **c = pair;
    int value;
    while (asthra_channel_next(c[0], &value, sizeof value)) {
        if (asthra_channel_send(c[1], &value).status != ASTHRA_OK) break;
    }
    return NULL;
}
static void talks(void) {
    AsthraChannel *c[2];
    c[0] = asthra_channel_create(sizeof(int), 0, "there");
    if (!c[0]) is_told();
    c[1] = asthra_channel_create(sizeof(int), 5, "and back");
    if (!c[1]) is_told();
    AsthraTaskHandle h = {0};
    if (c[0] && c[1]) {
        h = asthra_spawn(echoes, c);
        if (!asthra_task_is_valid(h)) is_told();
    }
    if (asthra_task_is_valid(h)) {
        for (int i = 0, value = 0; i < 10; i++) {
            if (!is_fine_or_told(asthra_channel_send(c[0], &i))) continue;
            while (!is_fine_or_told(asthra_channel_receive(c[1], &value))) {
            }
            CHECK_EQ(value, i);
        }
        asthra_channel_close(c[0]);
        asthra_await(h);
    }
    if (c[0]) asthra_channel_destroy(c[0]);
    if (c[1]) asthra_channel_destroy(c[1]);
}
TEST_WITHIN(120, faults, channels) {
    everywhere(talks);
}

/* A limit that is told as over is over; one that could not be set is told as such. */
static void is_late_or_told(uint32_t status, int64_t since_ns, int64_t limit_ns) {
    CHECK(status == ASTHRA_TIMED_OUT || status == ASTHRA_OUT_OF_MEMORY);
    if (status == ASTHRA_TIMED_OUT) CHECK(asthra_now_ns() - since_ns >= limit_ns);
    if (status == ASTHRA_OUT_OF_MEMORY) is_told();
}
static void select_ends_late(AsthraSelectBuilder *b) {
    int64_t since_ns = asthra_now_ns();
    int chosen = asthra_select_execute(b);
    CHECK(chosen == ASTHRA_SELECT_TIMEOUT || chosen == ASTHRA_SELECT_OUT_OF_MEMORY);
    is_late_or_told(chosen == ASTHRA_SELECT_TIMEOUT ? ASTHRA_TIMED_OUT : ASTHRA_OUT_OF_MEMORY,
                    since_ns, 1000);
}

enum { CASES = 20 };
static void selects(void) {
    AsthraChannel *c[CASES] = {NULL};
    int values[CASES] = {0}, sent = 5;
    AsthraSelectBuilder *b = asthra_select_builder_create();
    bool is_good = b != NULL;
    for (int i = 0; is_good && i < CASES; i++) {
        is_good = (c[i] = asthra_channel_create(sizeof(int), 1, "one of many")) != NULL &&
                  asthra_select_builder_add_receive(b, c[i], &values[i]) == i;
    }
    if (!is_good) is_told();
    if (is_good) {
        asthra_select_builder_set_timeout(b, 1000);
        CHECK_EQ(asthra_channel_send(c[7], &sent).status, ASTHRA_OK);
        CHECK_EQ(asthra_select_execute(b), 7);
        CHECK_EQ(values[7], 5);
        select_ends_late(b);
    }
    if (b) asthra_select_builder_destroy(b);
    for (int i = 0; i < CASES; i++) {
        if (c[i]) asthra_channel_destroy(c[i]);
    }
}
TEST_WITHIN(120, faults, select) {
    everywhere(selects);
}

static void *sleeps(void *us) {
    return NUMBER(asthra_sleep_ns(ASTHRA_US((intptr_t)us)).status);
}
static void waits_for_time(void) {
    AsthraTaskHandle h[100];
    for (int i = 0; i < 100; i++) {
        h[i] = asthra_spawn(sleeps, NUMBER(i % 10));
        if (!asthra_task_is_valid(h[i])) is_told();
    }
    is_fine_or_told(asthra_sleep_ns(1000));
    for (int i = 0; i < 100; i++) {
        void *how = NULL;
        if (!asthra_task_is_valid(h[i])) continue;
        AsthraResult r = asthra_await_timeout(h[i], ASTHRA_US(100), &how);
        if (r.status == ASTHRA_TIMED_OUT || r.status == ASTHRA_OUT_OF_MEMORY)
            r = asthra_await_result(h[i], &how);
        CHECK_EQ(r.status, ASTHRA_OK);
        CHECK((intptr_t)how == ASTHRA_OK || (intptr_t)how == ASTHRA_OUT_OF_MEMORY);
    }
}
TEST_WITHIN(300, faults, timers) {
    everywhere(waits_for_time);
}

/* Nobody is on the other side: every wait ends by its limit. */
static void *waits_with_limits(void *channel) {
    int value = 7;
    int64_t limit = ASTHRA_US(20), since = asthra_now_ns();
    is_late_or_told(asthra_channel_receive_timeout(channel, &value, limit).status, since, limit);
    since = asthra_now_ns();
    is_late_or_told(asthra_channel_send_timeout(channel, &value, limit).status, since, limit);
    AsthraSelectCase two[] = {asthra_select_receive(channel, &value),
                              asthra_select_receive(NULL, &value)};
    int chosen = asthra_select(two, 2, 1000);
    CHECK(chosen == ASTHRA_SELECT_TIMEOUT || chosen == ASTHRA_SELECT_OUT_OF_MEMORY);
    if (chosen == ASTHRA_SELECT_OUT_OF_MEMORY) is_told();
    CHECK_EQ(value, 7);
    return NULL;
}
static void runs_into_limits(void) {
    AsthraTaskHandle h[4];
    AsthraChannel *lonely[4];
    for (int i = 0; i < 4; i++) {
        if ((lonely[i] = asthra_channel_create(sizeof(int), 0, "lonely")) == NULL) {
            is_told();
            continue;
        }
        h[i] = asthra_spawn(waits_with_limits, lonely[i]);
        if (!asthra_task_is_valid(h[i])) is_told();
    }
    for (int i = 0; i < 4; i++) {
        if (lonely[i] && asthra_task_is_valid(h[i])) asthra_await(h[i]);
        if (lonely[i]) asthra_channel_destroy(lonely[i]);
    }
}
TEST_WITHIN(120, faults, limits) {
    everywhere(runs_into_limits);
}

static AsthraMutex mutex;
static int inside;
static void *locks(void *unused) {
    for (int i = 0; i < 5; i++) {
        if (!is_fine_or_told(asthra_mutex_lock(&mutex))) continue;
        CHECK_EQ(inside++, 0);
        asthra_yield();
        inside--;
        asthra_mutex_unlock(&mutex);
    }
    return unused;
}
static void excludes(void) {
    AsthraTaskHandle h[6];
    inside = 0;
    mutex = (AsthraMutex)ASTHRA_MUTEX_INIT;
    for (int i = 0; i < 6; i++) {
        h[i] = asthra_spawn(locks, NULL);
        if (!asthra_task_is_valid(h[i])) is_told();
    }
    locks(NULL);
    for (int i = 0; i < 6; i++) {
        if (asthra_task_is_valid(h[i])) asthra_await(h[i]);
    }
    asthra_mutex_destroy(&mutex);
}
TEST_WITHIN(120, faults, mutexes) {
    everywhere(excludes);
}

/* The oldest is awaited first, so that every await parks. */
static void *grows(void *depth) {
    AsthraTaskHandle h[12];
    intptr_t sum = 1;
    if ((intptr_t)depth == 0) return NUMBER(1);
    for (int i = 0; i < 12; i++) {
        h[i] = asthra_spawn(grows, NUMBER((intptr_t)depth - 1));
        if (!asthra_task_is_valid(h[i])) is_told();
    }
    for (int i = 0; i < 12; i++) {
        if (asthra_task_is_valid(h[i])) sum += (intptr_t)asthra_await(h[i]);
    }
    return NUMBER(sum);
}
static void grows_a_tree(void) {
    intptr_t nodes = (intptr_t)grows(NUMBER(2));
    CHECK(atomic_load(&failed) || nodes == 1 + 12 + 144);
}
TEST_WITHIN(120, faults, a_tree_of_awaits) {
    everywhere(grows_a_tree);
}

#ifndef ASTHRA_RT_NO_THREADS
static void *works_outside(void *unused) {
    for (int i = 0; i < 5; i++) {
        AsthraTaskHandle h = asthra_spawn(yields, NUMBER(i));
        if (!asthra_task_is_valid(h))
            is_told();
        else
            CHECK_EQ((intptr_t)asthra_await(h), i + 1);
        is_fine_or_told(asthra_sleep_ns(1000));
    }
    return unused;
}
static void has_threads(void) {
    pthread_t t[2];
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(true_pthread_create(&t[i], NULL, works_outside, NULL), 0);
    }
    works_outside(NULL);
    for (int i = 0; i < 2; i++) true_pthread_join(t[i], NULL);
}
/* Not under a seed: there main is the only worker, and it is away while it joins them. */
TEST_WITHIN(120, faults, plain_threads) {
    with_every_fault(&(Program){has_threads, 1, ASTHRA_MAIN_HELPS, 0});
    with_every_fault(&(Program){has_threads, 2, ASTHRA_MAIN_HELPS, 0});
    with_every_fault(&(Program){has_threads, 2, ASTHRA_MAIN_HOSTS, 0});
}
#endif

/* Calls on helpers. A limit for which there is no memory is kept all the same. */
static void *adds_to(void *args) {
    return NUMBER(*(int *)args + 1);
}
static bool is_called_or_told(int n, int64_t timeout_ns) {
    AsthraExternalCallOptions o = {"a call", timeout_ns, sizeof n};
    AsthraResult r = asthra_external_call(adds_to, &n, &o);
    if (r.status == ASTHRA_OK) CHECK_EQ((intptr_t)r.value.pointer, n + 1);
    if (r.status == ASTHRA_LIMIT) {
        CHECK(*asthra_result_message(r) != 0);
        return false;
    }
    return is_fine_or_told(r);
}
static void *calls_functions(void *n) {
    for (int i = 0; i < 3; i++)
        is_called_or_told((int)(intptr_t)n, i % 2 ? ASTHRA_SECONDS(1000) : 0);
    return n;
}
static void calls_on_helpers(void) {
    AsthraTaskHandle h[5];
    for (int i = 0; i < 5; i++) {
        h[i] = asthra_spawn(calls_functions, NUMBER(i));
        if (!asthra_task_is_valid(h[i])) is_told();
    }
    calls_functions(NUMBER(7));
    for (int i = 0; i < 5; i++) {
        if (asthra_task_is_valid(h[i])) CHECK_EQ((intptr_t)asthra_await(h[i]), i);
    }
}
TEST_WITHIN(120, faults, external_calls) {
    everywhere(calls_on_helpers);
}

#ifndef ASTHRA_RT_NO_THREADS
static void registers_threads(void) {
    pthread_t t[20]; /* more than the first array of the list holds; they need not run */
    bool is_listed[20];
    for (int i = 0; i < 20; i++) {
        memset(&t[i], 0, sizeof t[i]);
        memcpy(&t[i], &i, sizeof i);
        is_listed[i] = asthra_register_external_thread(t[i], "registered");
        if (!is_listed[i]) is_told();
    }
    for (int i = 0; i < 20; i++) CHECK_EQ(asthra_unregister_external_thread(t[i]), is_listed[i]);
    CHECK_EQ(asthra_external_thread_count(), 0);
}
TEST_WITHIN(120, faults, registered_threads) {
    everywhere(registers_threads);
}
#endif

/* More than the first segment of descriptors and the first array of a deque hold. */
static void spawns_many(void) {
    enum { MANY = 3000 };
    static AsthraTaskHandle h[MANY];
    for (int i = 0; i < MANY; i++) {
        h[i] = asthra_spawn(add_one, NUMBER(i));
        if (!asthra_task_is_valid(h[i])) is_told();
    }
    for (int i = 0; i < MANY; i++) {
        if (asthra_task_is_valid(h[i])) CHECK_EQ((intptr_t)asthra_await(h[i]), i + 1);
    }
}
TEST_WITHIN(120, faults, many_tasks) {
    if (is_slow()) SKIP("faults in many tasks: not where memory calls are slow");
    everywhere(spawns_many);
}

/* Shutdown cancels those that wait and lets the others finish. */
static AsthraChannel *never;
static atomic_int begun, ended;
static void *waits_for_nothing(void *how) {
    int value;
    AsthraMutex own = ASTHRA_MUTEX_INIT;
    AsthraSelectCase one[] = {asthra_select_receive(never, &value)};
    atomic_fetch_add(&begun, 1);
    asthra_mutex_lock(&own);
    switch ((intptr_t)how) {
    case 0: asthra_channel_receive(never, &value); break;
    case 1: asthra_select(one, 1, ASTHRA_FOREVER); break;
    case 2: asthra_sleep_ns(ASTHRA_FOREVER); break;
    case 3: asthra_sleep_ns(ASTHRA_SECONDS(1000)); break;
    default: asthra_yield(); break;
    }
    asthra_mutex_unlock(&own);
    atomic_fetch_add(&ended, 1);
    return NULL;
}
static void leaves_tasks_behind(void) {
    if ((never = asthra_channel_create(sizeof(int), 0, "never")) == NULL) {
        is_told();
        return;
    }
    for (int i = 0; i < 10; i++) {
        AsthraTaskHandle h = asthra_spawn(waits_for_nothing, NUMBER(i % 5));
        if (!asthra_task_is_valid(h)) {
            is_told();
            continue;
        }
        if (i == 6) asthra_task_cancel(h);
        asthra_task_detach(h);
    }
    asthra_yield();
    asthra_runtime_shutdown();
    CHECK_EQ(atomic_load(&begun), atomic_load(&ended));
    asthra_channel_destroy(never);
}
TEST_WITHIN(120, faults, tasks_left_behind) {
    everywhere(leaves_tasks_behind);
}

static void *sleeps_long(void *unused) {
    atomic_fetch_add(&begun, 1);
    asthra_sleep_ns(ASTHRA_SECONDS(1000));
    atomic_fetch_add(&ended, 1);
    return unused;
}
/* They hold the last stacks, and those that are queued wait for one: shutdown once waited for the
 * queued ones before it cancelled the sleeping ones. */
static void shut_down_without_stacks(uint64_t seed) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = 1;
    c.deterministic_seed = seed;
    CHECK(asthra_runtime_init(&c));
    for (int i = 0; i < 60; i++) {
        AsthraTaskHandle h = asthra_spawn(sleeps_long, NULL);
        CHECK(asthra_task_is_valid(h));
        asthra_task_detach(h);
        while (i == 0 && atomic_load(&begun) == 0) asthra_yield();
        atomic_store(&fails_on, true);
        atomic_store(&fail_at, 1);
    }
    asthra_runtime_shutdown();
    CHECK_EQ(atomic_load(&begun), atomic_load(&ended));
    CHECK_EQ(atomic_load(&live_bytes), 0);
}
TEST(faults, tasks_without_a_stack_do_not_hold_a_shutdown_up) {
    shut_down_without_stacks(0);
}
TEST(faults, tasks_without_a_stack_do_not_hold_a_seeded_shutdown_up) {
    if (ASTHRA__TSAN) SKIP("faults under a seed: ThreadSanitizer's stacks serve one task only");
    shut_down_without_stacks(7);
}

static void *fails_with_a_text(void *unused) {
    asthra_result_errorf(ASTHRA_FAILED, "a text of its own: %d", 7);
    return unused;
}
static void reports(void) {
    for (int i = 0; i < 4; i++) {
        AsthraTaskHandle h = asthra_spawn(fails_with_a_text, NULL);
        if (asthra_task_is_valid(h))
            asthra_await(h);
        else
            is_told();
        AsthraResult r = asthra_result_errorf(ASTHRA_FAILED, "number %d", i);
        CHECK_EQ(r.status, ASTHRA_FAILED);
        CHECK(*asthra_result_message(r) != 0);
    }
}
TEST_WITHIN(120, faults, results_with_texts) {
    everywhere(reports);
}

/* ---- descriptors ---- */

static void is_told_of_descriptors(AsthraResult why) {
    CHECK(why.status == ASTHRA_OUT_OF_MEMORY || why.status == ASTHRA_LIMIT);
    CHECK(*asthra_result_message(why) != 0);
}
/* What failed once succeeds when it is called again. */
static bool may_call_again(void) {
    return !atomic_load(&fails_on);
}

static bool waits_for_byte(int fd, int64_t timeout_ns) {
    AsthraResult r = asthra_wait_fd(fd, POLLIN, timeout_ns);
    if (r.status != ASTHRA_OK && r.status != ASTHRA_TIMED_OUT) {
        is_told_of_descriptors(r);
        if (!may_call_again()) return false;
        r = asthra_wait_fd(fd, POLLIN, timeout_ns);
    }
    CHECK_EQ(r.status, timeout_ns < 0 ? ASTHRA_OK : ASTHRA_TIMED_OUT);
    return true;
}
static void *takes_byte(void *fd) {
    char c;
    if (!waits_for_byte((int)(intptr_t)fd, ASTHRA_FOREVER)) return NUMBER(0);
    CHECK_EQ(read((int)(intptr_t)fd, &c, 1), 1);
    return NUMBER(1);
}
static void waits_for_descriptors(void) {
    enum { PIPES = 3 };
    int ends[PIPES][2], quiet[2];
    AsthraTaskHandle h[PIPES];
    CHECK_EQ(pipe(quiet), 0);
    for (int i = 0; i < PIPES; i++) {
        CHECK_EQ(pipe(ends[i]), 0);
        h[i] = asthra_spawn(takes_byte, NUMBER(ends[i][0]));
        if (!asthra_task_is_valid(h[i])) is_told();
    }
    waits_for_byte(quiet[0], ASTHRA_US(50));
    for (int i = 0; i < PIPES; i++) CHECK_EQ(write(ends[i][1], "x", 1), 1);
    for (int i = 0; i < PIPES; i++) {
        if (asthra_task_is_valid(h[i])) asthra_await(h[i]);
        close(ends[i][0]);
        close(ends[i][1]);
    }
    close(quiet[0]);
    close(quiet[1]);
}
TEST_WITHIN(120, faults, waits_for_descriptors) {
    everywhere(waits_for_descriptors);
}

static void *sends_one(void *channel) {
    int one = 1;
    is_fine_or_told(asthra_channel_send(channel, &one));
    return NULL;
}
static int descriptor_of(AsthraChannel *c) {
    for (int calls_left = 2;;) {
        int fd = c ? asthra_channel_fd(c) : asthra_runtime_wake_fd();
        if (fd >= 0) return fd;
        is_told_of_descriptors(asthra_last_error());
        if (!may_call_again()) return -1;
        CHECK(--calls_left > 0);
    }
}
static void shows_descriptors(void) {
    AsthraChannel *c = asthra_channel_create(sizeof(int), 1, "shown");
    struct pollfd p = {.events = POLLIN};
    if (!c) {
        is_told();
        return;
    }
    descriptor_of(NULL);
    p.fd = descriptor_of(c);
    CHECK_EQ(poll(&p, 1, 0), 0);
    sends_one(c);
    CHECK_EQ(poll(&p, 1, 0), p.fd >= 0 && asthra_channel_count(c) == 1);
    asthra_channel_destroy(c);
}
TEST_WITHIN(120, faults, descriptors_for_a_loop) {
    everywhere(shows_descriptors);
}
