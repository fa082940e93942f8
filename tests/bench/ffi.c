/* ffi - the items of foreign calls on asthra_rt.   usage: ffi ITEM WORKERS
 *
 * Besides those of ffi_items.h, which peers have too:
 *
 *     marshal_string     16 bytes with their length become a C string, which becomes such bytes
 *     transfer_full      a call that hands a manual block over, and its reclaim
 *     external_call      us of an empty external call out of a task, on one worker
 *     external_register  us of a thread's registration and its end
 */
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"

#include "ffi_items.h"
#include <pthread.h>

enum { MOST = 12 };

static void require_ok(AsthraResult r) {
    bench_require(r.status == ASTHRA_OK, asthra_result_message(r));
}

/* ---- calls ---- */
static void run_void(long count) {
    AsthraFFICall c;
    require_ok(asthra_ffi_signature(&c, ASTHRA_FN(callee_void), "v()"));
    for (long i = 0; i < count; i++) asthra_ffi_invoke(&c, NULL, NULL);
    asthra_ffi_release(&c);
}

/* A call of `params` parameters of 32 bits, the first of which counts up. */
static long sum_of_ints(void *callee, const char *signature, int params, long count) {
    AsthraFFICall c;
    int32_t values[MOST], result;
    void *args[MOST];
    long sum = 0;
    for (int k = 0; k < params; k++) {
        values[k] = k;
        args[k] = &values[k];
    }
    require_ok(asthra_ffi_signature(&c, callee, signature));
    for (long i = 0; i < count; i++) {
        values[0] = (int32_t)i;
        asthra_ffi_invoke(&c, &result, args);
        sum += result;
    }
    asthra_ffi_release(&c);
    return sum;
}

static void run_int2(long count) {
    long sum = sum_of_ints(ASTHRA_FN(callee_int2), "i(ii)", 2, count);
    check_sum((double)sum, count, 1);
}
static void run_int12(long count) {
    long sum = sum_of_ints(ASTHRA_FN(callee_int12), "i(iiiiiiiiiiii)", 12, count);
    check_sum((double)sum, count, 66);
}

static void run_double8(long count) {
    AsthraFFICall c;
    double values[8], result, sum = 0;
    void *args[8];
    for (int k = 0; k < 8; k++) {
        values[k] = k;
        args[k] = &values[k];
    }
    require_ok(asthra_ffi_signature(&c, ASTHRA_FN(callee_double8), "d(dddddddd)"));
    for (long i = 0; i < count; i++) {
        values[0] = (double)i;
        asthra_ffi_invoke(&c, &result, args);
        sum += result;
    }
    check_sum(sum, count, 28);
    asthra_ffi_release(&c);
}

static void run_struct16(long count) {
    AsthraFFICall c;
    Pair p = {0, 1};
    void *args[] = {&p};
    double result, sum = 0;
    require_ok(asthra_ffi_signature(&c, ASTHRA_FN(callee_struct16), "d({dd})"));
    for (long i = 0; i < count; i++) {
        p.x = (double)i;
        asthra_ffi_invoke(&c, &result, args);
        sum += result;
    }
    check_sum(sum, count, 1);
    asthra_ffi_release(&c);
}

static void run_struct32(long count) {
    AsthraFFICall c;
    Quad q = {0, 1, 2, 3};
    void *args[] = {&q};
    double result, sum = 0;
    require_ok(asthra_ffi_signature(&c, ASTHRA_FN(callee_struct32), "d({ldld})"));
    for (long i = 0; i < count; i++) {
        q.a = i;
        asthra_ffi_invoke(&c, &result, args);
        sum += result;
    }
    check_sum(sum, count, 6);
    asthra_ffi_release(&c);
}

static void run_variadic4(long count) {
    AsthraFFICall c;
    int32_t a, b = 1, d = 3;
    double e = 2, f = 4, result, sum = 0;
    void *args[] = {&a, &b, &e, &d, &f};
    require_ok(asthra_ffi_signature(&c, ASTHRA_FN(callee_variadic4), "d(i...idid)"));
    for (long i = 0; i < count; i++) {
        a = (int32_t)i;
        asthra_ffi_invoke(&c, &result, args);
        sum += result;
    }
    check_sum(sum, count, 10);
    asthra_ffi_release(&c);
}

static void run_prepare(long count) {
    AsthraFFICall c;
    const AsthraFFIType *const params[] = {&asthra_ffi_type_s32, &asthra_ffi_type_s32};
    for (long i = 0; i < count; i++) {
        require_ok(
            asthra_ffi_prepare(&c, ASTHRA_FN(callee_int2), &asthra_ffi_type_s32, params, 2, 2));
        asthra_ffi_release(&c);
    }
}

/* ---- closures ---- */
static void add_ints(const AsthraFFICall *c, void *ret, void **args, void *user) {
    (void)c, (void)user;
    *(int32_t *)ret = *(int32_t *)args[0] + *(int32_t *)args[1];
}

static void make_pair(const AsthraFFICall *c, void *ret, void **args, void *user) {
    (void)c, (void)user;
    *(Pair *)ret = (Pair){*(double *)args[0], *(double *)args[1]};
}

static void run_closure_int2(long count) {
    AsthraFFICall c;
    AsthraFFIClosure *closure;
    void *code;
    long sum = 0;
    require_ok(asthra_ffi_signature(&c, NULL, "i(ii)"));
    require_ok(asthra_ffi_closure_create(&closure, &code, &c, add_ints, NULL));
    int (*volatile call)(int, int) = ASTHRA_FN_AS(int (*)(int, int), code);
    for (long i = 0; i < count; i++) sum += call((int)i, 1);
    check_sum((double)sum, count, 1);
    asthra_ffi_closure_destroy(closure);
    asthra_ffi_release(&c);
}

static void run_closure_struct(long count) {
    AsthraFFICall c;
    AsthraFFIClosure *closure;
    void *code;
    double sum = 0;
    require_ok(asthra_ffi_signature(&c, NULL, "{dd}(dd)"));
    require_ok(asthra_ffi_closure_create(&closure, &code, &c, make_pair, NULL));
    Pair (*volatile call)(double, double) = ASTHRA_FN_AS(Pair(*)(double, double), code);
    for (long i = 0; i < count; i++) {
        Pair p = call((double)i, 1);
        sum += p.x + p.y;
    }
    check_sum(sum, count, 1);
    asthra_ffi_closure_destroy(closure);
    asthra_ffi_release(&c);
}

static void run_closure_create(long count) {
    AsthraFFICall c;
    AsthraFFIClosure *closure;
    void *code;
    require_ok(asthra_ffi_signature(&c, NULL, "i(ii)"));
    for (long i = 0; i < count; i++) {
        require_ok(asthra_ffi_closure_create(&closure, &code, &c, add_ints, NULL));
        asthra_ffi_closure_destroy(closure);
    }
    asthra_ffi_release(&c);
}

/* ---- who owns what ---- */
static void run_marshal(long count) {
    AsthraString text = {16, "sixteen letters."};
    for (long i = 0; i < count; i++) {
        char *c = asthra_marshal_to_c(&text, &asthra_type_string);
        bench_require(c != NULL && c[15] == '.' && c[16] == '\0', "to C");
        AsthraString *back = asthra_marshal_to_asthra(c, &asthra_type_string);
        bench_require(back != NULL && back->length == 16 && back->data[15] == '.', "and back");
        asthra_marshal_free(back, &asthra_type_string);
        asthra_marshal_free(c, &asthra_type_string);
    }
}

static void run_transfer(long count) {
    AsthraFFICall c;
    void *block = asthra_manual_alloc(32), *args[] = {&block};
    bench_require(block != NULL, "out of memory");
    require_ok(asthra_ffi_signature(&c, ASTHRA_FN(callee_take), "v(p)"));
    require_ok(asthra_ffi_set_transfer(&c, 0, ASTHRA_TRANSFER_FULL));
    for (long i = 0; i < count; i++) {
        require_ok(asthra_ffi_call(&c, args));
        require_ok(asthra_ffi_reclaim(block));
    }
    asthra_manual_free(block);
    asthra_ffi_release(&c);
}

/* ---- other threads ---- */
static void *nothing(void *args) {
    return args;
}

static void *call_outside(void *count) {
    for (long i = 0; i < *(long *)count; i++) {
        AsthraResult r = asthra_external_call(nothing, count, NULL);
        bench_require(asthra_result_value(r) == count, asthra_result_message(r));
    }
    return NULL;
}

static void run_external(long count) {
    asthra_await(asthra_spawn(call_outside, &count));
}

static void run_register(long count) {
    for (long i = 0; i < count; i++) {
        bench_require(asthra_register_external_thread(pthread_self(), "bench"), "register");
        bench_require(asthra_unregister_external_thread(pthread_self()), "unregister");
    }
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
    {"marshal_string", run_marshal, bench_cpu, 1e-9},
    {"transfer_full", run_transfer, bench_cpu, 1e-9},
    {"external_call", run_external, bench_now, 1e-6},
    {"external_register", run_register, bench_cpu, 1e-6},
};

int main(int argc, char **argv) {
    AsthraRuntimeConfig config = asthra_runtime_config_default();
    config.worker_threads = 1;
    bench_require(asthra_runtime_init(&config), asthra_result_message(asthra_last_error()));
    return MEASURE_ITEM(items, argc > 1 ? argv[1] : "");
}
