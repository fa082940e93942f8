/* direct - the items of foreign calls as plain calls through pointers.   usage: direct ITEM WORKERS
 *
 * The pointers are volatile: no compiler knows who is called.
 */
#include "ffi_items.h"

static void (*volatile call_void)(void) = callee_void;
static int (*volatile call_int2)(int, int) = callee_int2;
static double (*volatile call_double8)(double, double, double, double, double, double, double,
                                       double) = callee_double8;
static int (*volatile call_int12)(int, int, int, int, int, int, int, int, int, int, int,
                                  int) = callee_int12;
static double (*volatile call_struct16)(Pair) = callee_struct16;
static double (*volatile call_struct32)(Quad) = callee_struct32;
static double (*volatile call_variadic4)(int, ...) = callee_variadic4;
static Pair (*volatile call_pair)(double, double) = callee_pair;

static void run_void(long count) {
    for (long i = 0; i < count; i++) call_void();
}

static void run_int2(long count) {
    long sum = 0;
    for (long i = 0; i < count; i++) sum += call_int2((int)i, 1);
    check_sum((double)sum, count, 1);
}

static void run_double8(long count) {
    double sum = 0;
    for (long i = 0; i < count; i++) sum += call_double8((double)i, 1, 2, 3, 4, 5, 6, 7);
    check_sum(sum, count, 28);
}

static void run_int12(long count) {
    long sum = 0;
    for (long i = 0; i < count; i++) sum += call_int12((int)i, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11);
    check_sum((double)sum, count, 66);
}

static void run_struct16(long count) {
    double sum = 0;
    for (long i = 0; i < count; i++) sum += call_struct16((Pair){(double)i, 1});
    check_sum(sum, count, 1);
}

static void run_struct32(long count) {
    double sum = 0;
    for (long i = 0; i < count; i++) sum += call_struct32((Quad){i, 1, 2, 3});
    check_sum(sum, count, 6);
}

static void run_variadic4(long count) {
    double sum = 0;
    for (long i = 0; i < count; i++) sum += call_variadic4((int)i, 1, 2.0, 3, 4.0);
    check_sum(sum, count, 10);
}

static void run_pair(long count) {
    double sum = 0;
    for (long i = 0; i < count; i++) {
        Pair p = call_pair((double)i, 1);
        sum += p.x + p.y;
    }
    check_sum(sum, count, 1);
}

static const Item items[] = {
    {"ffi_void", run_void, bench_cpu, 1e-9},
    {"ffi_int2", run_int2, bench_cpu, 1e-9},
    {"ffi_double8", run_double8, bench_cpu, 1e-9},
    {"ffi_int12", run_int12, bench_cpu, 1e-9},
    {"ffi_struct16", run_struct16, bench_cpu, 1e-9},
    {"ffi_struct32", run_struct32, bench_cpu, 1e-9},
    {"ffi_variadic4", run_variadic4, bench_cpu, 1e-9},
    {"closure_int2", run_int2, bench_cpu, 1e-9},
    {"closure_struct", run_pair, bench_cpu, 1e-9},
};

int main(int argc, char **argv) {
    return MEASURE_ITEM(items, argc > 1 ? argv[1] : "");
}
