/* libffi - the items of foreign calls on libffi.   usage: libffi ITEM WORKERS */
#include "ffi_items.h"
#include <ffi.h>

enum { MOST = 12 };

static ffi_type *pair_fields[] = {&ffi_type_double, &ffi_type_double, NULL};
static ffi_type pair_type = {0, 0, FFI_TYPE_STRUCT, pair_fields};
static ffi_type *quad_fields[] = {&ffi_type_sint64, &ffi_type_double, &ffi_type_sint64,
                                  &ffi_type_double, NULL};
static ffi_type quad_type = {0, 0, FFI_TYPE_STRUCT, quad_fields};

static void prepare(ffi_cif *cif, ffi_type *ret, ffi_type **params, unsigned count) {
    bench_require(ffi_prep_cif(cif, FFI_DEFAULT_ABI, count, ret, params) == FFI_OK, "prep_cif");
}

static void run_void(long count) {
    ffi_cif cif;
    prepare(&cif, &ffi_type_void, NULL, 0);
    for (long i = 0; i < count; i++) ffi_call(&cif, FFI_FN(callee_void), NULL, NULL);
}

/* A call of `params` parameters of 32 bits, the first of which counts up. */
static long sum_of_ints(void (*callee)(void), unsigned params, long count) {
    ffi_cif cif;
    ffi_type *types[MOST];
    int values[MOST];
    void *args[MOST];
    ffi_arg result;
    long sum = 0;
    for (unsigned k = 0; k < params; k++) {
        types[k] = &ffi_type_sint;
        values[k] = (int)k;
        args[k] = &values[k];
    }
    prepare(&cif, &ffi_type_sint, types, params);
    for (long i = 0; i < count; i++) {
        values[0] = (int)i;
        ffi_call(&cif, callee, &result, args);
        sum += (int)result;
    }
    return sum;
}

static void run_int2(long count) {
    check_sum((double)sum_of_ints(FFI_FN(callee_int2), 2, count), count, 1);
}
static void run_int12(long count) {
    check_sum((double)sum_of_ints(FFI_FN(callee_int12), 12, count), count, 66);
}

static void run_double8(long count) {
    ffi_cif cif;
    ffi_type *types[8];
    double values[8], result, sum = 0;
    void *args[8];
    for (int k = 0; k < 8; k++) {
        types[k] = &ffi_type_double;
        values[k] = k;
        args[k] = &values[k];
    }
    prepare(&cif, &ffi_type_double, types, 8);
    for (long i = 0; i < count; i++) {
        values[0] = (double)i;
        ffi_call(&cif, FFI_FN(callee_double8), &result, args);
        sum += result;
    }
    check_sum(sum, count, 28);
}

static void run_struct16(long count) {
    ffi_cif cif;
    ffi_type *types[] = {&pair_type};
    Pair p = {0, 1};
    void *args[] = {&p};
    double result, sum = 0;
    prepare(&cif, &ffi_type_double, types, 1);
    for (long i = 0; i < count; i++) {
        p.x = (double)i;
        ffi_call(&cif, FFI_FN(callee_struct16), &result, args);
        sum += result;
    }
    check_sum(sum, count, 1);
}

static void run_struct32(long count) {
    ffi_cif cif;
    ffi_type *types[] = {&quad_type};
    Quad q = {0, 1, 2, 3};
    void *args[] = {&q};
    double result, sum = 0;
    prepare(&cif, &ffi_type_double, types, 1);
    for (long i = 0; i < count; i++) {
        q.a = i;
        args[0] = &q; /* ffi_call has put the address of its copy there */
        ffi_call(&cif, FFI_FN(callee_struct32), &result, args);
        sum += result;
    }
    check_sum(sum, count, 6);
}

static void run_variadic4(long count) {
    ffi_cif cif;
    ffi_type *types[] = {&ffi_type_sint, &ffi_type_sint, &ffi_type_double, &ffi_type_sint,
                         &ffi_type_double};
    int a, b = 1, d = 3;
    double c = 2, e = 4, result, sum = 0;
    void *args[] = {&a, &b, &c, &d, &e};
    bench_require(ffi_prep_cif_var(&cif, FFI_DEFAULT_ABI, 1, 5, &ffi_type_double, types) == FFI_OK,
                  "var");
    for (long i = 0; i < count; i++) {
        a = (int)i;
        ffi_call(&cif, FFI_FN(callee_variadic4), &result, args);
        sum += result;
    }
    check_sum(sum, count, 10);
}

static void run_prepare(long count) {
    ffi_cif cif;
    ffi_type *types[] = {&ffi_type_sint, &ffi_type_sint};
    for (long i = 0; i < count; i++) prepare(&cif, &ffi_type_sint, types, 2);
}

/* ---- closures ---- */
static void add_ints(ffi_cif *cif, void *ret, void **args, void *user) {
    (void)cif, (void)user;
    *(ffi_sarg *)ret = *(int *)args[0] + *(int *)args[1];
}

static void make_pair(ffi_cif *cif, void *ret, void **args, void *user) {
    (void)cif, (void)user;
    *(Pair *)ret = (Pair){*(double *)args[0], *(double *)args[1]};
}

static ffi_closure *create(ffi_cif *cif, void (*handler)(ffi_cif *, void *, void **, void *),
                           void **code) {
    ffi_closure *c = ffi_closure_alloc(sizeof *c, code);
    bench_require(c && ffi_prep_closure_loc(c, cif, handler, NULL, *code) == FFI_OK, "closure");
    return c;
}

static void run_closure_int2(long count) {
    ffi_cif cif;
    ffi_type *types[] = {&ffi_type_sint, &ffi_type_sint};
    void *code;
    long sum = 0;
    prepare(&cif, &ffi_type_sint, types, 2);
    ffi_closure *c = create(&cif, add_ints, &code);
    int (*volatile call)(int, int) = (int (*)(int, int))(uintptr_t)code;
    for (long i = 0; i < count; i++) sum += call((int)i, 1);
    check_sum((double)sum, count, 1);
    ffi_closure_free(c);
}

static void run_closure_struct(long count) {
    ffi_cif cif;
    ffi_type *types[] = {&ffi_type_double, &ffi_type_double};
    void *code;
    double sum = 0;
    prepare(&cif, &pair_type, types, 2);
    ffi_closure *c = create(&cif, make_pair, &code);
    Pair (*volatile call)(double, double) = (Pair(*)(double, double))(uintptr_t)code;
    for (long i = 0; i < count; i++) {
        Pair p = call((double)i, 1);
        sum += p.x + p.y;
    }
    check_sum(sum, count, 1);
    ffi_closure_free(c);
}

static void run_closure_create(long count) {
    ffi_cif cif;
    ffi_type *types[] = {&ffi_type_sint, &ffi_type_sint};
    void *code;
    prepare(&cif, &ffi_type_sint, types, 2);
    for (long i = 0; i < count; i++) ffi_closure_free(create(&cif, add_ints, &code));
}

static const Item items[] = {
    {"ffi_void", run_void, bench_cpu, 1e-9},
    {"ffi_int2", run_int2, bench_cpu, 1e-9},
    {"ffi_double8", run_double8, bench_cpu, 1e-9},
    {"ffi_int12", run_int12, bench_cpu, 1e-9},
    {"ffi_struct16", run_struct16, bench_cpu, 1e-9},
    {"ffi_struct32", run_struct32, bench_cpu, 1e-9},
    {"ffi_variadic4", run_variadic4, bench_cpu, 1e-9},
    {"ffi_prepare", run_prepare, bench_cpu, 1e-9},
    {"closure_int2", run_closure_int2, bench_cpu, 1e-9},
    {"closure_struct", run_closure_struct, bench_cpu, 1e-9},
    {"closure_create", run_closure_create, bench_cpu, 1e-9},
};

int main(int argc, char **argv) {
    return MEASURE_ITEM(items, argc > 1 ? argv[1] : "");
}
