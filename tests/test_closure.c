/* Closures: functions made at run time. Signatures by the thousand are tests/ffi's. */
#include "test.h"

#include "asthra_rt.h"
#include <sys/resource.h>

typedef int (*IntOfTwo)(int, int);
typedef struct Pair {
    double a, b;
} Pair;

static void add_offset(const AsthraFFICall *sig, void *ret, void **args, void *user) {
    CHECK(sig->param_count == 2);
    *(int *)ret = *(const int *)args[0] + *(const int *)args[1] + *(const int *)user;
}
static void swap_pair(const AsthraFFICall *sig, void *ret, void **args, void *user) {
    const Pair *p = args[0];
    (void)sig, (void)user;
    *(Pair *)ret = (Pair){p->b, p->a};
}
static void note_void(const AsthraFFICall *sig, void *ret, void **args, void *user) {
    (void)sig, (void)args;
    CHECK(ret == NULL);
    ++*(int *)user;
}
static void compare_ints(const AsthraFFICall *sig, void *ret, void **args, void *user) {
    const int *a = *(const int *const *)args[0], *b = *(const int *const *)args[1];
    (void)sig;
    ++*(int *)user;
    *(int *)ret = (*a > *b) - (*a < *b);
}
static void give_byte(const AsthraFFICall *sig, void *ret, void **args, void *user) {
    (void)sig, (void)args;
    memcpy(ret, user, 1);
}

static AsthraFFICall two_ints;

/* A closure of two_ints. */
static AsthraFFIClosure *offset_by(int *offset, IntOfTwo *f) {
    AsthraFFIClosure *closure;
    void *code;
    if (!two_ints.is_safe) CHECK(!asthra_ffi_signature(&two_ints, NULL, "i(ii)").status);
    CHECK(!asthra_ffi_closure_create(&closure, &code, &two_ints, add_offset, offset).status);
    CHECK(asthra_ffi_closure_function(closure) == code);
    *f = ASTHRA_FN_AS(IntOfTwo, code);
    return closure;
}

TEST(closure, a_closure_is_called_as_a_function) {
    int offset = 100;
    IntOfTwo f;
    AsthraFFIClosure *closure = offset_by(&offset, &f);
    CHECK_EQ(f(1, 2), 103);
    offset = -3;
    CHECK_EQ(f(1, 2), 0);
    asthra_ffi_closure_destroy(closure);
    asthra_ffi_closure_destroy(NULL);
}

TEST(closure, structs_and_nothing_are_results_too) {
    int count = 0;
    AsthraFFIClosure *pairs = asthra_ffi_closure_bind_signature("{dd}({dd})", swap_pair, NULL),
                     *nothing = asthra_ffi_closure_bind_signature("v(p)", note_void, &count);
    CHECK(pairs && nothing);
    Pair (*f)(Pair) = ASTHRA_FN_AS(Pair(*)(Pair), asthra_ffi_closure_function(pairs));
    void (*g)(void *) = ASTHRA_FN_AS(void (*)(void *), asthra_ffi_closure_function(nothing));
    Pair p = f((Pair){1, 2});
    CHECK(p.a == 2 && p.b == 1);
    g(&p);
    CHECK_EQ(count, 1);
    asthra_ffi_closure_destroy(pairs);
    asthra_ffi_closure_destroy(nothing);
}

TEST(closure, qsort_is_given_one) {
    int numbers[200], asked = 0;
    uint64_t dice = 1;
    AsthraFFIClosure *c = asthra_ffi_closure_bind_signature("i(pp)", compare_ints, &asked);
    CHECK(c != NULL);
    for (int i = 0; i < 200; i++) numbers[i] = (int)test_roll(&dice, 1000);
    qsort(numbers, 200, sizeof *numbers,
          ASTHRA_FN_AS(int (*)(const void *, const void *), asthra_ffi_closure_function(c)));
    for (int i = 1; i < 200; i++) CHECK(numbers[i - 1] <= numbers[i]);
    CHECK(asked > 200);
    asthra_ffi_closure_destroy(c);
}

/* What C may rely on: the whole int, and on some processors the whole register. */
TEST(closure, narrow_results_are_widened) {
    unsigned char minus = 0xff;
    AsthraFFIClosure *s = asthra_ffi_closure_bind_signature("c()", give_byte, &minus),
                     *u = asthra_ffi_closure_bind_signature("C()", give_byte, &minus);
    CHECK(s && u);
    CHECK_EQ(ASTHRA_FN_AS(int (*)(void), asthra_ffi_closure_function(s))(), -1);
    CHECK_EQ(ASTHRA_FN_AS(int (*)(void), asthra_ffi_closure_function(u))(), 255);
    asthra_ffi_closure_destroy(s);
    asthra_ffi_closure_destroy(u);
}

/* Where two floats come in registers, much of such an argument comes not at all. */
typedef struct Padded {
    float a, b, padding[7];
} Padded;

static void wipe_first(const AsthraFFICall *sig, void *ret, void **args, void *user) {
    Padded second;
    (void)sig, (void)ret;
    memset(args[0], 0x5a, sizeof(Padded));
    memcpy(&second, args[1], sizeof second);
    CHECK(second.a == 3 && second.b == 4);
    ++*(int *)user;
}

TEST(closure, an_argument_may_be_written_to_padding_and_all) {
    const AsthraFFIType *const f32 = &asthra_ffi_type_f32;
    const AsthraFFIType wide = {ASTHRA_FFI_STRUCT, 32, 32, &f32, 1};
    const AsthraFFIType *const fields[] = {f32, &wide}; /* under #pragma pack(4) */
    const AsthraFFIType padded = {ASTHRA_FFI_STRUCT, sizeof(Padded), 4, fields, 2};
    const AsthraFFIType *const params[] = {&padded, &padded};
    Padded one = {1, 2, {0}}, two = {3, 4, {0}};
    AsthraFFICall sig, call;
    AsthraFFIClosure *closure;
    void *code;
    int count = 0;
    CHECK(!asthra_ffi_prepare(&sig, NULL, NULL, params, 2, 2).status);
    CHECK(!asthra_ffi_closure_create(&closure, &code, &sig, wipe_first, &count).status);
    CHECK(!asthra_ffi_prepare(&call, code, NULL, params, 2, 2).status);
    ASTHRA_FFI_INVOKE(&call, NULL, &one, &two);
    CHECK_EQ(count, 1);
    CHECK(one.a == 1 && two.b == 4);
    asthra_ffi_closure_destroy(closure);
    asthra_ffi_release(&call);
    asthra_ffi_release(&sig);
}

TEST(closure, bad_arguments_are_refused) {
    AsthraFFIClosure *closure = NULL;
    AsthraFFICall bad = {.signature = "i(?)"};
    void *code;
    int offset = 0;
    IntOfTwo f;
    asthra_ffi_closure_destroy(offset_by(&offset, &f));
    CHECK_EQ(asthra_ffi_closure_create(NULL, &code, &two_ints, add_offset, NULL).status,
             ASTHRA_INVALID);
    CHECK_EQ(asthra_ffi_closure_create(&closure, NULL, &two_ints, add_offset, NULL).status,
             ASTHRA_INVALID);
    CHECK_EQ(asthra_ffi_closure_create(&closure, &code, NULL, add_offset, NULL).status,
             ASTHRA_INVALID);
    CHECK_EQ(asthra_ffi_closure_create(&closure, &code, &two_ints, NULL, NULL).status,
             ASTHRA_INVALID);
    CHECK_EQ(asthra_ffi_closure_create(&closure, &code, &bad, add_offset, NULL).status,
             ASTHRA_INVALID);
    CHECK(closure == NULL && code == NULL);
    CHECK(asthra_ffi_closure_bind_signature("i(?)", add_offset, NULL) == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
    CHECK(asthra_ffi_closure_function(NULL) == NULL);
}

TEST(closure, ten_thousand_live_at_once) {
    enum { MANY = 10000 };
    static AsthraFFIClosure *closures[MANY];
    static IntOfTwo f[MANY];
    static int offset[MANY];
    for (int i = 0; i < MANY; i++) {
        offset[i] = i;
        closures[i] = offset_by(&offset[i], &f[i]);
    }
    for (int i = 0; i < MANY; i++) CHECK_EQ(f[i](1, 1), i + 2);
    for (int i = 0; i < MANY; i += 2) asthra_ffi_closure_destroy(closures[i]);
    for (int i = 0; i < MANY; i += 2) closures[i] = offset_by(&offset[i], &f[i]);
    for (int i = 0; i < MANY; i++) CHECK_EQ(f[i](2, 2), i + 4);
    for (int i = 0; i < MANY; i++) asthra_ffi_closure_destroy(closures[i]);
}

/* Without descriptors there is no file to map, and the program's own stubs serve. */
TEST(closure, without_a_file_a_hundred_and_twenty_eight_live_at_once) {
    enum { FIXED = 128 };
    AsthraFFIClosure *closures[FIXED], *more;
    IntOfTwo f[FIXED];
    int offset[FIXED];
    void *code;
    struct rlimit before;
    CHECK(!getrlimit(RLIMIT_NOFILE, &before));
    CHECK(!setrlimit(RLIMIT_NOFILE, &(struct rlimit){0, before.rlim_max}));
    for (int i = 0; i < FIXED; i++) {
        offset[i] = i;
        closures[i] = offset_by(&offset[i], &f[i]);
    }
    AsthraResult r = asthra_ffi_closure_create(&more, &code, &two_ints, add_offset, NULL);
    CHECK_EQ(r.status, ASTHRA_LIMIT);
    CHECK(strstr(asthra_result_message(r), "128 stubs") != NULL);
    for (int i = 0; i < FIXED; i++) CHECK_EQ(f[i](1, 1), i + 2);
    for (int i = 0; i < FIXED; i++) asthra_ffi_closure_destroy(closures[i]);
    closures[0] = offset_by(&offset[7], &f[0]);
    CHECK_EQ(f[0](0, 0), 7);
    asthra_ffi_closure_destroy(closures[0]);
    CHECK(!setrlimit(RLIMIT_NOFILE, &before));
}

/* It once ended the process, by a signal. */
TEST(closure, where_no_file_may_be_written_there_are_the_program_s_own_stubs) {
    int offset = 3;
    IntOfTwo f;
    struct rlimit before;
    CHECK(!getrlimit(RLIMIT_FSIZE, &before));
    CHECK(!setrlimit(RLIMIT_FSIZE, &(struct rlimit){100, before.rlim_max}));
    AsthraFFIClosure *closure = offset_by(&offset, &f);
    CHECK(!setrlimit(RLIMIT_FSIZE, &before));
    CHECK_EQ(f(1, 2), 6);
    asthra_ffi_closure_destroy(closure);
}

#if defined(__x86_64__)
/* gcc's callers align their copies to 16, and no more. */
typedef struct Strict {
    _Alignas(32) int64_t n;
} Strict;
typedef int64_t __attribute__((ms_abi)) (*OfStrict)(int64_t, Strict);
static void reads_strict(const AsthraFFICall *c, void *ret, void **args, void *user) {
    (void)c, (void)user;
    int64_t n = *(int64_t *)args[0], sum = n + *(int64_t *)args[1];
    CHECK_EQ((uintptr_t)args[1] % 32, 0);
    memcpy(ret, &sum, sizeof sum);
}
/* Copies at two depths of the stack: one of them is aligned by chance alone. */
static __attribute__((__noinline__)) int64_t calls_strict(OfStrict f, int depth) {
    volatile char room[16];
    Strict s = {40};
    room[0] = 1;
    return depth > 0 ? calls_strict(f, depth - 1) + room[0] - 1 : f(2, s);
}

TEST(closure, of_win64_an_over_aligned_argument_is_aligned) {
    const AsthraFFIType *n[] = {&asthra_ffi_type_s64};
    const AsthraFFIType strict = {ASTHRA_FFI_STRUCT, 32, 32, n, 1};
    const AsthraFFIType *params[] = {&asthra_ffi_type_s64, &strict};
    AsthraFFICall sig;
    AsthraFFIClosure *closure;
    void *code;
    CHECK(!asthra_ffi_prepare_abi(&sig, ASTHRA_FFI_ABI_WIN64, NULL, &asthra_ffi_type_s64, params, 2,
                                  2)
               .status);
    CHECK(!asthra_ffi_closure_create(&closure, &code, &sig, reads_strict, NULL).status);
    for (int depth = 0; depth < 4; depth++)
        CHECK_EQ(calls_strict(ASTHRA_FN_AS(OfStrict, code), depth), 42);
    asthra_ffi_closure_destroy(closure);
    asthra_ffi_release(&sig);
}
#endif

/* Memory for a signature may hold what a prepared call was that has been moved since. */
TEST(closure, a_signature_that_is_null_is_an_error) {
    AsthraFFICall moved;
    char text[] = "v(iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiii)"; /* more than fits into the call */
    char *block = malloc(sizeof moved + 16);                 /* as the runtime's, with their head */
    CHECK(!asthra_ffi_signature(&moved, NULL, text).status);
    memcpy(block + 16, &moved, sizeof moved);
    __asm__ volatile("" : : "r"(block) : "memory"); /* or nothing would be copied */
    free(block);
    CHECK(asthra_ffi_closure_bind_signature(NULL, add_offset, NULL) == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
    asthra_ffi_release(&moved);
}

TEST(closure, no_page_is_writable_and_executable) {
    char line[512], access[8];
    int offset = 0, executable = 0;
    IntOfTwo f;
    unsigned long long start, end;
    AsthraFFIClosure *closure = offset_by(&offset, &f);
    FILE *maps = fopen("/proc/self/maps", "r");
    if (maps == NULL) SKIP("no /proc");
    while (fgets(line, sizeof line, maps) != NULL) {
        if (sscanf(line, "%llx-%llx %7s", &start, &end, access) != 3) continue;
        CHECK(access[1] != 'w' || access[2] != 'x');
        uintptr_t code = (uintptr_t)asthra_ffi_closure_function(closure);
        executable += code >= start && code < end && access[2] == 'x';
    }
    fclose(maps);
    CHECK_EQ(executable, 1);
    asthra_ffi_closure_destroy(closure);
}

TEST_PANICS(closure, calling_one_that_has_ended_panics, "a closure was called that has ended") {
    int offset = 0;
    IntOfTwo f;
    asthra_ffi_closure_destroy(offset_by(&offset, &f));
    f(1, 2);
}

TEST_PANICS(closure, ending_one_twice_panics, "has ended already") {
    int offset = 0;
    IntOfTwo f;
    AsthraFFIClosure *closure = offset_by(&offset, &f);
    asthra_ffi_closure_destroy(closure);
    asthra_ffi_closure_destroy(closure);
}

typedef struct Shared {
    IntOfTwo f;
    int offset;
} Shared;

static void *call_shared(void *args) {
    const Shared *s = args;
    for (int i = 0; i < 2000; i++) CHECK_EQ(s->f(i, 1), i + 1 + s->offset);
    return NULL;
}

static void *make_and_end(void *unused) {
    for (int i = 0; i < 500; i++) {
        int offset = i;
        IntOfTwo f;
        AsthraFFIClosure *closure;
        void *code;
        CHECK(!asthra_ffi_closure_create(&closure, &code, &two_ints, add_offset, &offset).status);
        f = ASTHRA_FN_AS(IntOfTwo, code);
        CHECK_EQ(f(1, 1), i + 2);
        asthra_ffi_closure_destroy(closure);
    }
    return unused;
}

TEST(closure, threads_call_one_and_make_others) {
    Shared s = {NULL, 5};
    AsthraFFIClosure *closure = offset_by(&s.offset, &s.f);
    pthread_t callers[8], makers[8];
    for (int i = 0; i < 8; i++) {
        CHECK(!pthread_create(&callers[i], NULL, call_shared, &s));
        CHECK(!pthread_create(&makers[i], NULL, make_and_end, NULL));
    }
    for (int i = 0; i < 8; i++) {
        pthread_join(callers[i], NULL);
        pthread_join(makers[i], NULL);
    }
    asthra_ffi_closure_destroy(closure);
}

TEST(closure, a_forked_child_calls_and_makes_its_own) {
    int offset = 1, other = 50, status;
    IntOfTwo f, g;
    AsthraFFIClosure *closure = offset_by(&offset, &f);
    pid_t child = fork();
    if (child == 0) {
        CHECK_EQ(f(1, 1), 3);
        asthra_ffi_closure_destroy(closure);
        AsthraFFIClosure *own = offset_by(&other, &g);
        CHECK_EQ(g(1, 1), 52);
        asthra_ffi_closure_destroy(own);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK_EQ(f(1, 1), 3);
    asthra_ffi_closure_destroy(closure);
}

/* A handler may be in the middle of anything: here it calls through another closure. */
static void ask_again(const AsthraFFICall *sig, void *ret, void **args, void *user) {
    const int *left = args[0];
    (void)sig;
    IntOfTwo f = *(IntOfTwo *)user;
    *(int *)ret = *left == 0 ? 0 : 1 + f(*left - 1, 0);
}

TEST(closure, a_handler_calls_its_own_closure) {
    IntOfTwo f;
    AsthraFFIClosure *closure;
    void *code;
    CHECK(!asthra_ffi_signature(&two_ints, NULL, "i(ii)").status);
    CHECK(!asthra_ffi_closure_create(&closure, &code, &two_ints, ask_again, &f).status);
    f = ASTHRA_FN_AS(IntOfTwo, code);
    CHECK_EQ(f(100, 0), 100);
    asthra_ffi_closure_destroy(closure);
}
