/* tbb - the task items on oneTBB's task_group.   usage: tbb ITEM WORKERS */
#include "bench.h"
#include <tbb/global_control.h>
#include <tbb/task_arena.h>
#include <tbb/task_group.h>

static void nothing() {
    __asm__ volatile("" ::: "memory");
}

static void spawn_await(long count) {
    tbb::task_group group;
    for (long i = 0; i < count; i++) {
        group.run(nothing);
        group.wait();
    }
}

static void spawn_many() {
    tbb::task_group group;
    for (int i = 0; i < BENCH_SPAWN_MANY; i++) group.run(nothing);
    group.wait();
}

static long fib(int n) {
    if (n < 2) return n;
    long child;
    tbb::task_group group;
    group.run([&child, n] { child = fib(n - 1); });
    long own = fib(n - 2);
    group.wait();
    return child + own;
}

static void measure_spawn_await() {
    spawn_await(BENCH_SPAWN_AWAIT / 10);
    double start = bench_now();
    spawn_await(BENCH_SPAWN_AWAIT);
    bench_print_ns(start, BENCH_SPAWN_AWAIT);
}

static void measure_spawn_many() {
    spawn_many();
    double start = bench_now();
    for (int i = 0; i < BENCH_SPAWN_BATCHES; i++) spawn_many();
    bench_print_ns(start, (double)BENCH_SPAWN_MANY * BENCH_SPAWN_BATCHES);
}

static void measure_fib() {
    fib(20);
    double start = bench_now();
    long result = fib(BENCH_FIB);
    bench_print(bench_now() - start);
    bench_require(result == BENCH_FIB_RESULT, "fib");
}

int main(int argc, char **argv) {
    const char *item = argc > 1 ? argv[1] : "";
    void (*measure)() = nullptr;
    if (!strcmp(item, "spawn_await")) measure = measure_spawn_await;
    if (!strcmp(item, "spawn_many")) measure = measure_spawn_many;
    if (!strcmp(item, "fib")) measure = measure_fib;
    if (!measure) return bench_unknown(item);
    int workers = argc > 2 ? atoi(argv[2]) : 1;
    tbb::global_control limit(tbb::global_control::max_allowed_parallelism, (size_t)workers);
    tbb::task_arena arena(workers);
    arena.execute(measure);
    return 0;
}
