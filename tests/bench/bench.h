/* bench.h - clocks, memory and counts that every C and C++ benchmark shares.
 *
 * The counts below and those at the top of go/main.go say how much work an item is. Change both or
 * neither: a ratio only means something when both sides did the same thing.
 */
#ifndef ASTHRA__BENCH_H
#define ASTHRA__BENCH_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    BENCH_SPAWN_AWAIT = 500000, /* spawned and awaited one at a time */
    BENCH_SPAWN_MANY = 100000,  /* spawned, then all awaited: one batch */
    BENCH_SPAWN_BATCHES = 5,
    BENCH_FIB = 32,
    BENCH_ROUND_TRIPS = 500000,
    BENCH_VALUES = 2000000, /* through a buffered channel */
    BENCH_CAPACITY = 128,
    BENCH_MPMC_TASKS = 4, /* senders, and as many receivers */
    BENCH_DEFAULTS = 2000000,
    BENCH_YIELDS = 1000000, /* of each of the two tasks */
    BENCH_PARKED = 1000000,
    BENCH_SKYNET = 1000000, /* leaves */
    BENCH_SKYNET_WAYS = 10,
    BENCH_SLEEPS = 100000,
    BENCH_SLEEP_STEPS = 50, /* 1 ms, 2 ms ... 50 ms, round and round */
    BENCH_MUTEX_TASKS = 4,
    BENCH_LOCKS = 2000000,  /* of each task */
    BENCH_CONNECTIONS = 64, /* over loopback */
    BENCH_REQUESTS = 200000 /* on all of them */
};
#define BENCH_FIB_RESULT 2178309L
#define BENCH_SKYNET_SUM 499999500000LL

/* Receives of one select benchmark: fewer when each costs more. */
static inline long bench_receives(int cases) {
    return 4000000L / (cases + 6);
}

static inline double bench_clock(clockid_t which) {
    struct timespec t;
    clock_gettime(which, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline double bench_now(void) {
    return bench_clock(CLOCK_MONOTONIC);
}
static inline double bench_cpu(void) {
    return bench_clock(CLOCK_PROCESS_CPUTIME_ID);
}

/* Resident bytes of this process; page counts because /proc gives those without rounding. */
static inline double bench_resident(void) {
    long total = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f) return 0;
    if (fscanf(f, "%ld %ld", &total, &resident) != 2) resident = 0;
    fclose(f);
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

static inline void bench_print(double value) {
    printf("%.4g\n", value);
}
static inline void bench_print_ns(double start, double operations) {
    printf("%.2f\n", (bench_now() - start) * 1e9 / operations);
}

/* A wrong answer must never pass as a fast one. */
static inline void bench_require(int claim, const char *what) {
    if (claim) return;
    fprintf(stderr, "bench: wrong result: %s\n", what);
    exit(1);
}

/* An item that this program does not have: the driver then leaves its ratio out. */
static inline int bench_unknown(const char *item) {
    fprintf(stderr, "bench: no item %s here\n", item);
    return 3;
}
#endif
