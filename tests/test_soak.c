/* Random programs over tasks, channels, selects, closes, cancels, time-outs, detach and retain,
 * whose bookkeeping must come out even: under deterministic seeds, each run twice and compared byte
 * by byte, and under real threads.
 *
 *     ASTHRA_SOAK_SEEDS=1000    how many seeds (default: as many as fit into some seconds)
 *     ASTHRA_SOAK_FIRST=77      the first of them: to run a failing one again
 */
#include "test.h"
#include "asthra_rt.h"

#include <pthread.h>
#include <stdatomic.h>

#define NUMBER(n) ((void *)(intptr_t)(n))

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { SLOW = 1 };
#else
enum { SLOW = 0 };
#endif

enum { CHANNELS = 5, DEPTH = 3, STEPS = 12 };

/* What one program shares. A value sent is its number; sums on both sides must agree at the end. */
typedef struct World {
    AsthraChannel *channels[CHANNELS];
    AsthraMutex mutex;
    long guarded; /* under the mutex */
    atomic_long sent, received, sent_sum, received_sum, spawned, begun, ended, locked;
    __attribute__((aligned(8))) atomic_uint_least64_t numbers;
    uint64_t seed;
} World;
static World world;

typedef struct Dice {
    uint64_t state;
} Dice;

static uint32_t roll(Dice *d, uint32_t bound) {
    return test_roll(&d->state, bound);
}

typedef struct Part {
    uint64_t dice;
    int depth;
} Part;

static void count_sent(AsthraResult r, long value) {
    if (r.status != ASTHRA_OK) return;
    atomic_fetch_add(&world.sent, 1);
    atomic_fetch_add(&world.sent_sum, value);
}
static void count_received(AsthraStatus status, long value, long before) {
    if (status != ASTHRA_OK) {
        CHECK_EQ(value, before); /* untouched */
        return;
    }
    atomic_fetch_add(&world.received, 1);
    atomic_fetch_add(&world.received_sum, value);
}
static AsthraChannel *any_channel(Dice *d) {
    return world.channels[roll(d, CHANNELS)];
}
static long next_value(void) {
    return (long)atomic_fetch_add(&world.numbers, 1) + 1;
}
static int64_t short_time(Dice *d) {
    return (int64_t)roll(d, 60) * 1000;
}

static void step_send(Dice *d) {
    long value = next_value();
    AsthraChannel *c = any_channel(d);
    if (roll(d, 3) == 0)
        count_sent(asthra_channel_try_send(c, &value), value);
    else
        count_sent(asthra_channel_send_timeout(c, &value, short_time(d)), value);
}
static void step_receive(Dice *d) {
    long value = -7;
    AsthraChannel *c = any_channel(d);
    AsthraResult r = roll(d, 3) == 0 ? asthra_channel_try_receive(c, &value)
                                     : asthra_channel_receive_timeout(c, &value, short_time(d));
    count_received((AsthraStatus)r.status, value, -7);
}
/* The same, written as ifs. */
static int select_by_ifs(AsthraSelectCase *cases, size_t count, int64_t limit_ns) {
    int chosen = ASTHRA_SELECT_CANCELLED;
    ASTHRA_SELECT(s) {
        for (size_t i = 0; i < count; i++) {
            AsthraSelectCase *k = &cases[i];
            bool is_chosen = k->kind == ASTHRA_SELECT_SEND
                                 ? asthra_case_send(&s, k->channel, k->data)
                                 : asthra_case_receive(&s, k->channel, k->data);
            if (!is_chosen) continue;
            k->status = s.ok ? ASTHRA_OK : ASTHRA_CLOSED;
            chosen = (int)i;
        }
        if (limit_ns == 0 && asthra_case_default(&s)) chosen = ASTHRA_SELECT_DEFAULT;
        if (limit_ns != 0 && asthra_case_timeout(&s, limit_ns)) chosen = ASTHRA_SELECT_TIMEOUT;
    }
    return chosen;
}
static void step_select(Dice *d) {
    AsthraSelectCase cases[6];
    long values[6];
    size_t count = 1 + roll(d, 6);
    for (size_t i = 0; i < count; i++) {
        bool sends = roll(d, 2) != 0;
        AsthraChannel *c = roll(d, 10) == 0 ? NULL : any_channel(d);
        values[i] = sends ? next_value() : -7;
        cases[i] = sends ? asthra_select_send(c, &values[i]) : asthra_select_receive(c, &values[i]);
    }
    int64_t limit_ns = roll(d, 4) == 0 ? 0 : short_time(d) + 1;
    int chosen =
        roll(d, 2) ? select_by_ifs(cases, count, limit_ns) : asthra_select(cases, count, limit_ns);
    CHECK(chosen >= ASTHRA_SELECT_CANCELLED && chosen < (int)count);
    for (size_t i = 0; i < count; i++) {
        if ((int)i != chosen && cases[i].kind == ASTHRA_SELECT_RECEIVE) CHECK_EQ(values[i], -7);
    }
    if (chosen < 0) return;
    AsthraResult r = {.status = (uint32_t)cases[chosen].status};
    if (cases[chosen].kind == ASTHRA_SELECT_SEND)
        count_sent(r, values[chosen]);
    else
        count_received(cases[chosen].status, values[chosen], -7);
}
static void step_mutex(Dice *d) {
    AsthraResult r = roll(d, 2) ? asthra_mutex_lock(&world.mutex)
                                : asthra_mutex_lock_timeout(&world.mutex, short_time(d));
    if (r.status != ASTHRA_OK) return;
    long before = world.guarded;
    if (roll(d, 3) == 0) asthra_yield();
    world.guarded = before + 1;
    atomic_fetch_add(&world.locked, 1);
    asthra_mutex_unlock(&world.mutex);
}

static void *part(void *args);

/* One way of seven to be through with a child. */
static void finish(Dice *d, AsthraTaskHandle h, bool may_end_in_place) {
    AsthraResult r;
    switch (roll(d, 7)) {
    case 0: asthra_task_detach(h); break;
    case 1: asthra_await_result(h, NULL); break;
    case 2: {
        AsthraTaskHandle second = asthra_task_retain(h);
        asthra_await_result(h, NULL);
        CHECK(asthra_task_is_valid(second));
        asthra_await_result(second, NULL);
        CHECK(!asthra_task_is_valid(second));
        break;
    }
    case 3:
        do r = asthra_await_timeout(h, short_time(d) + 1, NULL);
        while (r.status == ASTHRA_TIMED_OUT);
        if (r.status == ASTHRA_CANCELLED && r.detail == 1) asthra_task_detach(h); /* ourselves */
        break;
    case 4:
        asthra_task_cancel(h);
        asthra_await_result(h, NULL);
        break;
    case 5:
        if (roll(d, 2)) asthra_yield();
        asthra_task_cancel(h);
        asthra_task_detach(h);
        break;
    default:
        if (may_end_in_place)
            asthra_await(h);
        else
            asthra_task_detach(h);
        break;
    }
}

static AsthraTaskHandle spawn_part(Dice *d, int depth) {
    Part p = {(uint64_t)roll(d, UINT32_MAX) << 20 ^ world.seed, depth};
    AsthraSpawnOptions o = {.name = "soaked", .priority = (int)roll(d, 5) - 2};
    atomic_fetch_add(&world.spawned, 1);
    if (roll(d, 4)) return asthra_spawn_copy_at(part, &p, sizeof p, "part");
    if (roll(d, 6) == 0) o.stack_bytes = 200000;
    Part *copy = malloc(sizeof *copy);
    *copy = p;
    copy->depth |= 1 << 8; /* to be freed */
    return asthra_spawn_with(&o, part, copy);
}

static void step_spawn(Dice *d, int depth) {
    AsthraTaskHandle h[4];
    size_t count = 1 + roll(d, 4);
    if (depth >= DEPTH) return;
    for (size_t i = 0; i < count; i++) {
        h[i] = spawn_part(d, depth + 1);
        CHECK(h[i].bits != 0);
    }
    for (size_t i = 0; i < count; i++) {
        AsthraTaskHandle one = h[i];
        if (roll(d, 8) == 0) (void)asthra_task_state(one);
        finish(d, one, true);
    }
}

static void *part(void *args) {
    Part p = *(Part *)args;
    Dice d = {p.dice};
    bool is_masked = false;
    if (p.depth >> 8) free(args);
    atomic_fetch_add(&world.begun, 1);
    uint32_t steps = roll(&d, STEPS);
    for (uint32_t i = 0; i < steps; i++) {
        switch (roll(&d, 10)) {
        case 0:
        case 1: step_send(&d); break;
        case 2:
        case 3: step_receive(&d); break;
        case 4:
        case 5: step_select(&d); break;
        case 6: step_spawn(&d, p.depth & 255); break;
        case 7: step_mutex(&d); break;
        case 8: asthra_sleep_ns(short_time(&d)); break;
        default:
            if (is_masked)
                asthra_cancel_mask_end();
            else
                asthra_cancel_mask_begin();
            is_masked = !is_masked;
            break;
        }
        if (roll(&d, 400) == 0) asthra_channel_close(any_channel(&d));
        if (asthra_cancel_requested() && roll(&d, 2)) break;
    }
    if (is_masked) asthra_cancel_mask_end();
    atomic_fetch_add(&world.ended, 1);
    return NULL;
}

static void begin_world(uint64_t seed) {
    memset(&world, 0, sizeof world);
    world.seed = seed;
    for (size_t i = 0; i < CHANNELS; i++) {
        world.channels[i] = asthra_channel_create(sizeof(long), i, "world");
        CHECK(world.channels[i] != NULL);
    }
}

/* All tasks have ended: what was sent was received or is still inside, and nothing else is. */
static void end_world(void) {
    long value;
    for (size_t i = 0; i < CHANNELS; i++) {
        AsthraChannel *c = world.channels[i];
        while (asthra_channel_try_receive(c, &value).status == ASTHRA_OK) {
            count_received(ASTHRA_OK, value, 0);
        }
        CHECK_EQ(asthra_channel_count(c), 0);
        asthra_channel_destroy(c);
    }
    CHECK_EQ(world.sent, world.received);
    CHECK_EQ(world.sent_sum, world.received_sum);
    CHECK_EQ(world.begun, world.ended);
    CHECK(world.begun <= world.spawned); /* some were cancelled before they began */
    CHECK_EQ(world.guarded, world.locked);
    CHECK(asthra_mutex_try_lock(&world.mutex));
    asthra_mutex_unlock(&world.mutex);
}

static void run_parts(Dice *d, int count) {
    AsthraTaskHandle h[16];
    for (int i = 0; i < count; i++) h[i] = spawn_part(d, 0);
    for (int i = 0; i < count; i++) {
        if (roll(d, 10) == 0) asthra_task_cancel(h[i]);
        finish(d, h[i], true);
    }
}

static void *thread_runs_parts(void *seed) {
    Dice d = {(uint64_t)(uintptr_t)seed};
    run_parts(&d, 8);
    return NULL;
}

/* Shutdown waits for those that were detached; the channels outlive the runtime. */
static void stop_and_check(void) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    asthra_runtime_shutdown();
    c.worker_threads = 1;
    CHECK(asthra_runtime_init(&c)); /* to look into the channels */
    end_world();
    asthra_runtime_shutdown();
}

static void seeded(uint64_t seed) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    Dice d = {seed};
    c.deterministic_seed = seed;
    CHECK(asthra_runtime_init(&c));
    begin_world(seed);
    run_parts(&d, 10);
    asthra_set_debug_flag(ASTHRA_DEBUG_CONCURRENCY_OPERATIONS, false);
    stop_and_check();
}

static void threaded(uint64_t seed) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    pthread_t t[2];
    Dice d = {seed};
    size_t threads = roll(&d, 3);
    c.worker_threads = 1 + roll(&d, 5);
    if (roll(&d, 4) == 0) c.main_thread = ASTHRA_MAIN_HOSTS;
    CHECK(asthra_runtime_init(&c));
    begin_world(seed);
    for (size_t i = 0; i < threads; i++) {
        CHECK_EQ(pthread_create(&t[i], NULL, thread_runs_parts, NUMBER(seed * 3 + i)), 0);
    }
    run_parts(&d, 12);
    for (size_t i = 0; i < threads; i++) pthread_join(t[i], NULL);
    stop_and_check();
}

/* ---- running them ---- */

static uint64_t from_environment(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text && strtoull(text, NULL, 10) > 0 ? strtoull(text, NULL, 10) : otherwise;
}

/* Runs one program in a child, which ends with its group; what it writes goes to `out`. */
static void run_child(void (*program)(uint64_t), uint64_t seed, FILE *out, bool is_traced) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        dup2(fileno(out), STDERR_FILENO);
        alarm(SLOW ? 60 : 15);
        asthra_set_debug_flag(ASTHRA_DEBUG_CONCURRENCY_OPERATIONS, is_traced);
        program(seed);
        _exit(0);
    }
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    if (status == 0) return;
    static char text[4001];
    off_t size = lseek(fileno(out), 0, SEEK_END);
    ssize_t got = pread(fileno(out), text, 4000, size > 4000 ? size - 4000 : 0);
    text[got > 0 ? got : 0] = 0;
    test_fail(__FILE__, __LINE__, "%s\nseed %llu: %s %d; again with ASTHRA_SOAK_FIRST=%llu", text,
              (unsigned long long)seed, WIFSIGNALED(status) ? "signal" : "exit status",
              WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status),
              (unsigned long long)seed);
}

/* Where they differ first, or -1. */
static long differ(FILE *a, FILE *b) {
    int x, y;
    rewind(a);
    rewind(b);
    for (long at = 0;; at++) {
        x = getc(a), y = getc(b);
        if (x != y) return at;
        if (x == EOF) return -1;
    }
}

static FILE *fresh(FILE *old) {
    if (old) fclose(old);
    FILE *f = tmpfile();
    CHECK(f != NULL);
    return f;
}

static void soak(void (*program)(uint64_t), bool is_compared, double seconds) {
    uint64_t first = from_environment("ASTHRA_SOAK_FIRST", 1);
    uint64_t most = from_environment("ASTHRA_SOAK_SEEDS", UINT64_MAX / 2), seed = first;
    bool is_bounded = getenv("ASTHRA_SOAK_SEEDS") != NULL;
    double end = test_seconds() + seconds;
    FILE *a = NULL, *b = NULL;
    if (getenv("ASTHRA_SOAK_FIRST") && !is_bounded) most = 1;
    for (; seed - first < most; seed++) {
        if (!is_bounded && test_seconds() > end) break;
        a = fresh(a);
        run_child(program, seed, a, is_compared);
        if (!is_compared) continue;
        b = fresh(b);
        run_child(program, seed, b, true);
        long at = differ(a, b);
        if (at >= 0) {
            test_fail(__FILE__, __LINE__, "seed %llu: two runs differ at byte %ld",
                      (unsigned long long)seed, at);
        }
    }
    if (a) fclose(a);
    if (b) fclose(b);
    fprintf(stderr, "%llu seeds\n", (unsigned long long)(seed - first));
}

/* An hour at most; without ASTHRA_SOAK_SEEDS each ends after some seconds. */
TEST_WITHIN(3600, soak, seeded_programs_come_out_even_and_repeat_themselves) {
    soak(seeded, true, test_thrift() == 1 ? 7 : 2);
}
TEST_WITHIN(3600, soak, threaded_programs_come_out_even) {
    NEED_THREADS();
    soak(threaded, false, test_thrift() == 1 ? 7 : 2);
}
