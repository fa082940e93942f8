/* ours - every item of the Concurrency table on asthra_rt.   usage: ours ITEM WORKERS
 *
 * An item runs inside a task, as it does inside a goroutine in Go: main only awaits it. It prints
 * one line; a wrong answer ends the program with an error instead.
 */
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"

#include "bench.h"
#include <stdatomic.h>

static void *nothing(void *args) {
    return args;
}

static AsthraChannel *channel_of_words(size_t capacity) {
    AsthraChannel *c = asthra_channel_create(sizeof(uint64_t), capacity, "bench");
    bench_require(c != NULL, "channel_create");
    return c;
}

static uint64_t receive_word(AsthraChannel *c) {
    uint64_t value = 0;
    bench_require(!asthra_channel_receive(c, &value).status, "receive");
    return value;
}

static void send_word(AsthraChannel *c, uint64_t value) {
    bench_require(!asthra_channel_send(c, &value).status, "send");
}

/* ---- spawn and await ---- */
static void spawn_await(long count) {
    for (long i = 0; i < count; i++) asthra_await(asthra_spawn(nothing, NULL));
}

static void measure_spawn_await(void) {
    spawn_await(BENCH_SPAWN_AWAIT / 10);
    double start = bench_now();
    spawn_await(BENCH_SPAWN_AWAIT);
    bench_print_ns(start, BENCH_SPAWN_AWAIT);
}

static void spawn_all(AsthraTaskHandle *handles) {
    for (int i = 0; i < BENCH_SPAWN_MANY; i++) handles[i] = asthra_spawn(nothing, NULL);
    for (int i = 0; i < BENCH_SPAWN_MANY; i++) asthra_await(handles[i]);
}

static void measure_spawn_many(void) {
    AsthraTaskHandle *handles = malloc(BENCH_SPAWN_MANY * sizeof *handles);
    bench_require(handles != NULL, "malloc");
    spawn_all(handles);
    double start = bench_now();
    for (int i = 0; i < BENCH_SPAWN_BATCHES; i++) spawn_all(handles);
    bench_print_ns(start, (double)BENCH_SPAWN_MANY * BENCH_SPAWN_BATCHES);
    free(handles);
}

typedef struct Fib {
    int n;
    long result;
} Fib;

static void *fib_task(void *args);

static long fib(int n) {
    if (n < 2) return n;
    Fib child = {n - 1, 0};
    AsthraTaskHandle task = asthra_spawn(fib_task, &child);
    long own = fib(n - 2);
    asthra_await(task);
    return child.result + own;
}

static void *fib_task(void *args) {
    Fib *f = args;
    f->result = fib(f->n);
    return NULL;
}

static void measure_fib(void) {
    fib(20);
    double start = bench_now();
    long result = fib(BENCH_FIB);
    bench_print(bench_now() - start);
    bench_require(result == BENCH_FIB_RESULT, "fib");
}

ASTHRA_TASK(long, typed_fib, (int, n)) {
    if (n < 2) return n;
    typed_fib_task task = typed_fib_go(n - 1);
    long own = typed_fib(n - 2);
    return typed_fib_await(task) + own;
}

static void measure_typed(void) {
    typed_fib(20);
    double start = bench_now();
    long result = typed_fib(BENCH_FIB);
    bench_print(bench_now() - start);
    bench_require(result == BENCH_FIB_RESULT, "typed fib");
}

/* ---- channels ---- */
typedef struct Pair {
    AsthraChannel *there, *back;
} Pair;

static void *echo(void *args) {
    Pair *p = args;
    for (long i = 0; i < BENCH_ROUND_TRIPS; i++) send_word(p->back, receive_word(p->there));
    return NULL;
}

static void measure_pingpong(void) {
    Pair p = {channel_of_words(0), channel_of_words(0)};
    AsthraTaskHandle other = asthra_spawn(echo, &p);
    double start = bench_now();
    uint64_t sum = 0;
    for (long i = 0; i < BENCH_ROUND_TRIPS; i++) {
        send_word(p.there, 1);
        sum += receive_word(p.back);
    }
    bench_print_ns(start, 2.0 * BENCH_ROUND_TRIPS);
    asthra_await(other);
    bench_require(sum == BENCH_ROUND_TRIPS, "pingpong");
    asthra_channel_destroy(p.there);
    asthra_channel_destroy(p.back);
}

typedef struct Side {
    AsthraChannel *channel;
    long count;
    uint64_t sum;
} Side;

static void *send_side(void *args) {
    Side *s = args;
    for (long i = 0; i < s->count; i++) send_word(s->channel, 1);
    return NULL;
}

static void *receive_side(void *args) {
    Side *s = args;
    uint64_t sum = 0;
    for (long i = 0; i < s->count; i++) sum += receive_word(s->channel);
    s->sum = sum;
    return NULL;
}

static void transfer(int pairs) {
    AsthraChannel *c = channel_of_words(BENCH_CAPACITY);
    AsthraTaskHandle tasks[2 * BENCH_MPMC_TASKS];
    Side senders[BENCH_MPMC_TASKS], receivers[BENCH_MPMC_TASKS];
    double start = bench_now();
    for (int i = 0; i < pairs; i++) {
        senders[i] = receivers[i] = (Side){c, BENCH_VALUES / pairs, 0};
        tasks[2 * i] = asthra_spawn(send_side, &senders[i]);
        tasks[2 * i + 1] = asthra_spawn(receive_side, &receivers[i]);
    }
    for (int i = 0; i < 2 * pairs; i++) asthra_await(tasks[i]);
    bench_print_ns(start, BENCH_VALUES);
    uint64_t total = 0;
    for (int i = 0; i < pairs; i++) total += receivers[i].sum;
    bench_require(total == BENCH_VALUES, "transfer");
    asthra_channel_destroy(c);
}

static void measure_spsc(void) {
    transfer(1);
}
static void measure_mpmc(void) {
    transfer(BENCH_MPMC_TASKS);
}

/* ---- select ---- */
enum { MOST_CASES = 64 };

typedef struct Ring {
    AsthraChannel *channels[MOST_CASES];
    int cases;
} Ring;

/* One sender goes round the channels, so that about every other select finds nothing and waits. */
static void *send_round(void *args) {
    Ring *r = args;
    long count = bench_receives(r->cases);
    for (long i = 0; i < count; i++) send_word(r->channels[i % r->cases], 1);
    return NULL;
}

static void measure_select(int cases) {
    Ring r = {{NULL}, cases};
    AsthraSelectCase choices[MOST_CASES];
    uint64_t value = 0, sum = 0;
    for (int i = 0; i < cases; i++) {
        r.channels[i] = channel_of_words(0);
        choices[i] = asthra_select_receive(r.channels[i], &value);
    }
    AsthraTaskHandle sender = asthra_spawn(send_round, &r);
    long count = bench_receives(cases);
    double start = bench_now();
    for (long i = 0; i < count; i++) {
        value = 0;
        asthra_select(choices, (size_t)cases, ASTHRA_FOREVER);
        sum += value;
    }
    bench_print_ns(start, (double)count);
    asthra_await(sender);
    bench_require(sum == (uint64_t)count, "select");
    for (int i = 0; i < cases; i++) asthra_channel_destroy(r.channels[i]);
}

static void measure_select2(void) {
    measure_select(2);
}
static void measure_select8(void) {
    measure_select(8);
}
static void measure_select64(void) {
    measure_select(64);
}

static void measure_select_default(void) {
    uint64_t value;
    AsthraChannel *a = channel_of_words(0), *b = channel_of_words(0);
    AsthraSelectCase choices[2] = {asthra_select_receive(a, &value),
                                   asthra_select_receive(b, &value)};
    long missed = 0;
    double start = bench_now();
    for (long i = 0; i < BENCH_DEFAULTS; i++) {
        if (asthra_select(choices, 2, 0) < 0) missed++;
    }
    bench_print_ns(start, BENCH_DEFAULTS);
    bench_require(missed == BENCH_DEFAULTS, "select_default");
    asthra_channel_destroy(a);
    asthra_channel_destroy(b);
}

/* ---- scheduling ---- */
static void *take_turns(void *args) {
    for (long i = 0; i < BENCH_YIELDS; i++) asthra_yield();
    return args;
}

static void measure_yield(void) {
    double start = bench_now();
    AsthraTaskHandle one = asthra_spawn(take_turns, NULL);
    AsthraTaskHandle two = asthra_spawn(take_turns, NULL);
    asthra_await(one);
    asthra_await(two);
    bench_print_ns(start, 2.0 * BENCH_YIELDS);
}

typedef struct Crowd {
    AsthraChannel *channel;
    _Atomic long reached;
} Crowd;

static void *wait_in_crowd(void *args) {
    Crowd *crowd = args;
    atomic_fetch_add_explicit(&crowd->reached, 1, memory_order_relaxed);
    receive_word(crowd->channel);
    return NULL;
}

/* Prints bytes each, seconds to create (until all are parked), seconds to wake and join, and the
 * bytes each took before any had started: its descriptor. The handles are written first, so that
 * their own pages are not counted. */
static void measure_million(void) {
    Crowd crowd = {channel_of_words(0), 0};
    AsthraTaskHandle *handles = malloc(BENCH_PARKED * sizeof *handles);
    bench_require(handles != NULL, "malloc");
    memset(handles, 1, BENCH_PARKED * sizeof *handles);
    double before = bench_resident(), start = bench_now();
    for (long i = 0; i < BENCH_PARKED; i++) handles[i] = asthra_spawn(wait_in_crowd, &crowd);
    double unstarted = bench_resident() - before;
    while (atomic_load_explicit(&crowd.reached, memory_order_relaxed) < BENCH_PARKED) {
        asthra_yield();
    }
    double created = bench_now() - start, parked = bench_resident() - before;
    start = bench_now();
    for (long i = 0; i < BENCH_PARKED; i++) send_word(crowd.channel, 1);
    for (long i = 0; i < BENCH_PARKED; i++) asthra_await(handles[i]);
    printf("%.0f %.4g %.4g %.0f\n", parked / BENCH_PARKED, created, bench_now() - start,
           unstarted / BENCH_PARKED);
    free(handles);
    asthra_channel_destroy(crowd.channel);
}

typedef struct Skynet {
    AsthraChannel *up;
    uint64_t number, size;
} Skynet;

static void *skynet(void *args) {
    Skynet *s = args;
    if (s->size == 1) {
        send_word(s->up, s->number);
        return NULL;
    }
    AsthraChannel *down = channel_of_words(0);
    uint64_t part = s->size / BENCH_SKYNET_WAYS, sum = 0;
    for (uint64_t i = 0; i < BENCH_SKYNET_WAYS; i++) {
        Skynet child = {down, s->number + i * part, part};
        asthra_task_detach(asthra_spawn_copy(skynet, &child, sizeof child));
    }
    for (int i = 0; i < BENCH_SKYNET_WAYS; i++) sum += receive_word(down);
    asthra_channel_destroy(down);
    send_word(s->up, sum);
    return NULL;
}

static void measure_skynet(void) {
    Skynet top = {channel_of_words(0), 0, BENCH_SKYNET};
    double start = bench_now();
    asthra_task_detach(asthra_spawn_copy(skynet, &top, sizeof top));
    uint64_t sum = receive_word(top.up);
    bench_print(bench_now() - start);
    bench_require(sum == (uint64_t)BENCH_SKYNET_SUM, "skynet");
    asthra_channel_destroy(top.up);
}

static void *sleep_once(void *args) {
    int64_t pause = *(int64_t *)args;
    bench_require(!asthra_sleep_ns(pause).status, "sleep");
    return NULL;
}

static void measure_sleeps(void) {
    AsthraTaskHandle *handles = malloc(BENCH_SLEEPS * sizeof *handles);
    bench_require(handles != NULL, "malloc");
    double before = bench_cpu();
    for (int i = 0; i < BENCH_SLEEPS; i++) {
        int64_t pause = ASTHRA_MS(1 + i % BENCH_SLEEP_STEPS);
        handles[i] = asthra_spawn_copy(sleep_once, &pause, sizeof pause);
    }
    for (int i = 0; i < BENCH_SLEEPS; i++) asthra_await(handles[i]);
    bench_print(bench_cpu() - before);
    free(handles);
}

typedef struct Shared {
    AsthraMutex lock;
    long count;
} Shared;

static void *lock_often(void *args) {
    Shared *s = args;
    for (long i = 0; i < BENCH_LOCKS; i++) {
        asthra_mutex_lock(&s->lock);
        s->count++;
        asthra_mutex_unlock(&s->lock);
    }
    return NULL;
}

static void measure_mutex(void) {
    Shared s = {ASTHRA_MUTEX_INIT, 0};
    AsthraTaskHandle tasks[BENCH_MUTEX_TASKS];
    double start = bench_now();
    for (int i = 0; i < BENCH_MUTEX_TASKS; i++) tasks[i] = asthra_spawn(lock_often, &s);
    for (int i = 0; i < BENCH_MUTEX_TASKS; i++) asthra_await(tasks[i]);
    bench_print_ns(start, (double)BENCH_LOCKS * BENCH_MUTEX_TASKS);
    bench_require(s.count == (long)BENCH_LOCKS * BENCH_MUTEX_TASKS, "mutex");
    asthra_mutex_destroy(&s.lock);
}

typedef struct Item {
    const char *name;
    void (*measure)(void);
} Item;

static const Item items[] = {
    {"spawn_await", measure_spawn_await},
    {"spawn_many", measure_spawn_many},
    {"fib", measure_fib},
    {"typed", measure_typed},
    {"pingpong", measure_pingpong},
    {"spsc", measure_spsc},
    {"mpmc", measure_mpmc},
    {"select2", measure_select2},
    {"select8", measure_select8},
    {"select64", measure_select64},
    {"select_default", measure_select_default},
    {"yield", measure_yield},
    {"million", measure_million},
    {"skynet", measure_skynet},
    {"sleeps", measure_sleeps},
    {"mutex", measure_mutex},
};

static void *run_item(void *args) {
    const Item *item = args;
    item->measure();
    return NULL;
}

static void start_runtime(int workers) {
    AsthraRuntimeConfig config = asthra_runtime_config_default();
    config.worker_threads = (size_t)workers;
    bench_require(asthra_runtime_init(&config), asthra_result_message(asthra_last_error()));
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "";
    Item item = {NULL, NULL};
    for (size_t i = 0; i < sizeof items / sizeof *items; i++) {
        if (!strcmp(items[i].name, name)) item = items[i];
    }
    if (!item.name) return bench_unknown(name);
    start_runtime(argc > 2 ? atoi(argv[2]) : 1);
    asthra_await(asthra_spawn(run_item, &item));
    asthra_runtime_shutdown();
    return 0;
}
