/* openmp - the task items on gcc's OpenMP.   usage: openmp ITEM WORKERS */
#include "bench.h"
#include <omp.h>

static void nothing(void) {
    __asm__ volatile("" ::: "memory");
}

static void spawn_await(long count) {
    for (long i = 0; i < count; i++) {
#pragma omp task
        nothing();
#pragma omp taskwait
    }
}

static void spawn_many(void) {
    for (int i = 0; i < BENCH_SPAWN_MANY; i++) {
#pragma omp task
        nothing();
    }
#pragma omp taskwait
}

static long fib(int n) {
    if (n < 2) return n;
    long child, own;
#pragma omp task shared(child) firstprivate(n)
    child = fib(n - 1);
    own = fib(n - 2);
#pragma omp taskwait
    return child + own;
}

static void measure_spawn_await(void) {
    spawn_await(BENCH_SPAWN_AWAIT / 10);
    double start = bench_now();
    spawn_await(BENCH_SPAWN_AWAIT);
    bench_print_ns(start, BENCH_SPAWN_AWAIT);
}

static void measure_spawn_many(void) {
    spawn_many();
    double start = bench_now();
    for (int i = 0; i < BENCH_SPAWN_BATCHES; i++) spawn_many();
    bench_print_ns(start, (double)BENCH_SPAWN_MANY * BENCH_SPAWN_BATCHES);
}

static void measure_fib(void) {
    fib(20);
    double start = bench_now();
    long result = fib(BENCH_FIB);
    bench_print(bench_now() - start);
    bench_require(result == BENCH_FIB_RESULT, "fib");
}

int main(int argc, char **argv) {
    const char *item = argc > 1 ? argv[1] : "";
    void (*measure)(void) = NULL;
    if (!strcmp(item, "spawn_await")) measure = measure_spawn_await;
    if (!strcmp(item, "spawn_many")) measure = measure_spawn_many;
    if (!strcmp(item, "fib")) measure = measure_fib;
    if (!measure) return bench_unknown(item);
    omp_set_num_threads(argc > 2 ? atoi(argv[2]) : 1);
#pragma omp parallel
#pragma omp single
    measure();
    return 0;
}
