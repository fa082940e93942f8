/* ffi_items.h - what every side of the items of foreign calls shares: callees, and how to measure.
 *
 *     ffi_void, ffi_int2, ffi_double8, ffi_int12   a call of void(void), int(int, int) ...
 *     ffi_struct16, ffi_struct32                   of a function that takes a struct by value
 *     ffi_variadic4                                one fixed parameter, four variadic ones
 *     ffi_prepare                                  the preparation of int(int, int)
 *     closure_int2, closure_struct                 C calls a closure; one that returns a Pair
 *     closure_create                               a closure is made and ended
 *
 * The first argument counts up, the others stay, and all results are added up and checked. An item
 * runs twice as often again and again until it has taken 50 ms of processor time.
 */
#ifndef ASTHRA__BENCH_FFI_ITEMS_H
#define ASTHRA__BENCH_FFI_ITEMS_H
#include "bench.h"

typedef struct Pair {
    double x, y;
} Pair;
typedef struct Quad {
    int64_t a;
    double b;
    int64_t c;
    double d;
} Quad;

/* In ffi_callees.c, where nobody can inline them. Each adds its arguments up. */
void callee_void(void);
int callee_int2(int a, int b);
double callee_double8(double a, double b, double c, double d, double e, double f, double g,
                      double h);
int callee_int12(int a, int b, int c, int d, int e, int f, int g, int h, int i, int j, int k,
                 int l);
double callee_struct16(Pair p);
double callee_struct32(Quad q);
double callee_variadic4(int a, ...); /* int, double, int, double */
Pair callee_pair(double x, double y);
void callee_take(void *block);

typedef struct Item {
    const char *name;
    void (*run)(long count);
    double (*clock)(void);
    double unit; /* of what is printed, in seconds */
} Item;

/* The sum of `count` results, when the first argument counts up and the others add up to `rest`. */
static inline void check_sum(double sum, long count, double rest) {
    bench_require(sum == (double)count * ((double)(count - 1) / 2 + rest), "sum");
}

/* main: PROGRAM ITEM WORKERS SIDE */
static inline int measure_item(const Item *items, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++) {
        if (strcmp(items[i].name, name) != 0) continue;
        double took = 0;
        long calls = 64;
        while (took < 0.05) {
            calls *= 2;
            double start = items[i].clock();
            items[i].run(calls);
            took = items[i].clock() - start;
        }
        printf("%.3f\n", took / (double)calls / items[i].unit);
        return 0;
    }
    return bench_unknown(name);
}
#define MEASURE_ITEM(items, name) measure_item((items), sizeof(items) / sizeof *(items), (name))
#endif
