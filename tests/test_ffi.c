/* Foreign calls: types, preparing, invoking, errors, ownership. Signatures by the thousand are
 * tests/ffi's; here is what the contract says in sentences. */
#include "test.h"

#include "asthra_rt.h"
#include <math.h>
#include <sys/syscall.h>

/* ---- functions to call ---- */

static int add(int a, int b) {
    return a + b;
}
static int calls;
static void count_call(void) {
    calls++;
}
static int8_t negate8(int8_t a) {
    return (int8_t)-a;
}
static uint16_t next16(uint16_t a) {
    return (uint16_t)(a + 1);
}
static float half(float a) {
    return a / 2;
}
static int sum_all(int count, ...) {
    va_list list;
    int sum = 0;
    va_start(list, count);
    for (int i = 0; i < count; i++) sum += va_arg(list, int);
    va_end(list);
    return sum;
}
static int refuse(int number) {
    errno = number;
    return -1;
}
static int accept_any(int number) {
    (void)number;
    return 1;
}
static void *same(void *p) {
    return p;
}
static void *fail_with(void *p) {
    (void)p;
    errno = ENOMEM;
    return NULL;
}
typedef struct Pair {
    double a, b;
} Pair;
typedef struct Odd {
    char bytes[11];
} Odd;
typedef struct Large {
    int64_t a[5];
} Large;
static Pair swapped(Pair p) {
    return (Pair){p.b, p.a};
}
static Odd turned(Odd o) {
    for (int i = 0; i < 5; i++) {
        char c = o.bytes[i];
        o.bytes[i] = o.bytes[10 - i];
        o.bytes[10 - i] = c;
    }
    return o;
}
static Large doubled(Large l) {
    for (int i = 0; i < 5; i++) l.a[i] *= 2;
    return l;
}

#define INT (&asthra_ffi_type_s32)
static const AsthraFFIType *const two_ints[] = {INT, INT};

/* A prepared call, or the test has failed. */
static AsthraFFICall call_of(void *fn, const char *signature) {
    AsthraFFICall c;
    AsthraResult r = asthra_ffi_signature(&c, fn, signature);
    if (r.status) fprintf(stderr, "%s: %s\n", signature, asthra_result_message(r));
    CHECK(!r.status);
    return c; /* and so it is moved */
}
static const char *refusal(const char *signature) {
    AsthraFFICall c;
    AsthraResult r = asthra_ffi_signature(&c, ASTHRA_FN(add), signature);
    CHECK_EQ(r.status, ASTHRA_INVALID);
    return asthra_result_message(r);
}
#define CHECK_HOLDS(text, part) CHECK(strstr((text), (part)) != NULL)

/* ---- types ---- */

TEST(ffi, layout_of_a_struct_is_the_compilers) {
    typedef struct Mixed {
        char c;
        double d;
        short s;
        struct {
            char x[3];
            int y;
        } inner[2];
        long double l;
    } Mixed;
    const AsthraFFIType bytes = {ASTHRA_FFI_ARRAY, 0, 0,
                                 (const AsthraFFIType *const[]){&asthra_ffi_type_s8}, 3};
    const AsthraFFIType inner = {ASTHRA_FFI_STRUCT, 0, 0,
                                 (const AsthraFFIType *const[]){&bytes, INT}, 2};
    const AsthraFFIType inners = {ASTHRA_FFI_ARRAY, 0, 0, (const AsthraFFIType *const[]){&inner},
                                  2};
    const AsthraFFIType mixed = {
        ASTHRA_FFI_STRUCT, 0, 0,
        (const AsthraFFIType *const[]){&asthra_ffi_type_s8, &asthra_ffi_type_f64,
                                       &asthra_ffi_type_s16, &inners, &asthra_ffi_type_ldbl},
        5};
    size_t size, align, offset[5];
    CHECK(!asthra_ffi_layout(&mixed, &size, &align, offset).status);
    CHECK_EQ(size, sizeof(Mixed));
    CHECK_EQ(align, offsetof(
                        struct {
                            char first;
                            Mixed m;
                        },
                        m));
    CHECK_EQ(offset[1], offsetof(Mixed, d));
    CHECK_EQ(offset[2], offsetof(Mixed, s));
    CHECK_EQ(offset[3], offsetof(Mixed, inner));
    CHECK_EQ(offset[4], offsetof(Mixed, l));
}

TEST(ffi, layout_of_a_union_is_its_largest_member) {
    const AsthraFFIType u = {
        ASTHRA_FFI_UNION, 0, 0,
        (const AsthraFFIType *const[]){&asthra_ffi_type_s8, &asthra_ffi_type_f32}, 2};
    size_t size, align, offset[2];
    CHECK(!asthra_ffi_layout(&u, &size, &align, offset).status);
    CHECK_EQ(size, 4);
    CHECK_EQ(align, 4);
    CHECK_EQ(offset[0] + offset[1], 0);
}

TEST(ffi, a_given_size_packs_or_spreads_the_fields) {
    const AsthraFFIType *const fields[] = {&asthra_ffi_type_s8, INT};
    const AsthraFFIType packed = {ASTHRA_FFI_STRUCT, 5, 1, fields, 2},
                        wide = {ASTHRA_FFI_STRUCT, 32, 32, fields, 2},
                        tight = {ASTHRA_FFI_STRUCT, 3, 1, fields, 2};
    size_t size, align, offset[2];
    CHECK(!asthra_ffi_layout(&packed, &size, &align, offset).status);
    CHECK(size == 5 && align == 1 && offset[1] == 1);
    CHECK(!asthra_ffi_layout(&wide, &size, &align, offset).status);
    CHECK(size == 32 && align == 32 && offset[1] == 4);
    CHECK_EQ(asthra_ffi_layout(&tight, NULL, NULL, NULL).status, ASTHRA_INVALID);
}

/* ---- what prepare refuses ---- */

static const char *prepare_with(const AsthraFFIType *ret, const AsthraFFIType *second) {
    const AsthraFFIType *params[] = {INT, second};
    AsthraFFICall c;
    AsthraResult r = asthra_ffi_prepare(&c, ASTHRA_FN(add), ret, params, 2, 2);
    CHECK_EQ(r.status, ASTHRA_INVALID);
    return asthra_result_message(r);
}

TEST(ffi, a_bad_descriptor_is_refused_by_its_place) {
    const AsthraFFIType empty = {ASTHRA_FFI_STRUCT, 0, 0, NULL, 0},
                        nothing = {ASTHRA_FFI_STRUCT, 0, 0, NULL, 2},
                        hole = {ASTHRA_FFI_STRUCT, 0, 0, (const AsthraFFIType *const[]){NULL}, 1},
                        hollow = {ASTHRA_FFI_UNION, 0, 0,
                                  (const AsthraFFIType *const[]){&asthra_ffi_type_void}, 1},
                        unknown = {(AsthraFFIKind)99, 0, 0, NULL, 0},
                        list = {ASTHRA_FFI_ARRAY, 0, 0, (const AsthraFFIType *const[]){INT}, 4},
                        uneven = {ASTHRA_FFI_S32, 4, 3, NULL, 0},
                        wrong = {ASTHRA_FFI_S32, 8, 8, NULL, 0};
    CHECK_HOLDS(prepare_with(INT, NULL), "parameter 1 is NULL");
    CHECK_HOLDS(prepare_with(INT, &asthra_ffi_type_void), "parameter 1 is void");
    CHECK_HOLDS(prepare_with(INT, &empty), "parameter 1 has no fields");
    CHECK_HOLDS(prepare_with(INT, &nothing), "parameter 1 has fields that are NULL");
    CHECK_HOLDS(prepare_with(INT, &hole), "parameter 1 has a field that is NULL");
    CHECK_HOLDS(prepare_with(INT, &hollow), "parameter 1 has a field that is void");
    CHECK_HOLDS(prepare_with(INT, &unknown), "parameter 1 has a kind");
    CHECK_HOLDS(prepare_with(INT, &list), "parameter 1 is an array");
    CHECK_HOLDS(prepare_with(INT, &uneven), "parameter 1 has an alignment");
    CHECK_HOLDS(prepare_with(INT, &wrong), "parameter 1 has a size");
    CHECK_HOLDS(prepare_with(&empty, INT), "return has no fields");
}

TEST(ffi, a_type_that_contains_itself_is_refused) {
    AsthraFFIType a = {ASTHRA_FFI_STRUCT, 0, 0, NULL, 2}, b = {ASTHRA_FFI_STRUCT, 0, 0, NULL, 1};
    const AsthraFFIType *const of_a[] = {&b, &b}, *const of_b[] = {&a};
    a.fields = of_a;
    b.fields = of_b;
    CHECK_HOLDS(prepare_with(INT, &a), "parameter 1 contains itself");
    CHECK_HOLDS(prepare_with(&b, INT), "return contains itself");
}

TEST(ffi, a_type_of_doubling_fields_is_refused_in_time) {
    AsthraFFIType level[40];
    const AsthraFFIType *twice[40][2];
    for (int i = 0; i < 40; i++) {
        twice[i][0] = twice[i][1] = i == 0 ? &asthra_ffi_type_s8 : &level[i - 1];
        level[i] = (AsthraFFIType){ASTHRA_FFI_STRUCT, 0, 0, twice[i], 2};
    }
    CHECK_HOLDS(prepare_with(INT, &level[39]), "parameter 1 has more than");
}

TEST(ffi, unpromoted_variadic_types_are_refused) {
    const AsthraFFIType *const bad[] = {&asthra_ffi_type_bool, &asthra_ffi_type_s8,
                                        &asthra_ffi_type_u8,   &asthra_ffi_type_s16,
                                        &asthra_ffi_type_u16,  &asthra_ffi_type_f32};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const AsthraFFIType *const params[] = {INT, bad[i]};
        AsthraFFICall c;
        AsthraResult r = asthra_ffi_prepare(&c, ASTHRA_FN(sum_all), INT, params, 2, 1);
        CHECK_EQ(r.status, ASTHRA_INVALID);
        CHECK_HOLDS(asthra_result_message(r), "parameter 1 is variadic and unpromoted");
        CHECK(!asthra_ffi_prepare(&c, ASTHRA_FN(sum_all), INT, params, 2, 2).status);
    }
}

TEST(ffi, counts_that_make_no_sense_are_refused) {
    AsthraFFICall c;
    CHECK_EQ(asthra_ffi_prepare(&c, NULL, INT, two_ints, 2, 3).status, ASTHRA_INVALID);
    CHECK_EQ(asthra_ffi_prepare(&c, NULL, INT, two_ints, 5000, 5000).status, ASTHRA_INVALID);
    CHECK_EQ(asthra_ffi_prepare(&c, NULL, INT, NULL, 1, 1).status, ASTHRA_INVALID);
    CHECK_EQ(asthra_ffi_prepare(NULL, NULL, INT, two_ints, 2, 2).status, ASTHRA_INVALID);
}

TEST(ffi, a_text_that_cannot_be_read_says_where) {
    CHECK_HOLDS(refusal("i(iq)"), "expected a type at 3, found 'q'");
    CHECK_HOLDS(refusal("i(ii"), "found the end");
    CHECK_HOLDS(refusal("i"), "expected ( at 1");
    CHECK_HOLDS(refusal("i(i)x"), "expected the end at 4");
    CHECK_HOLDS(refusal("i({ii)"), "expected a type at 5");
    CHECK_HOLDS(refusal("i({[0i]})"), "expected a number of elements");
    CHECK_HOLDS(refusal("i(v)"), "expected a type at 2");
    CHECK_HOLDS(refusal("i({})"), "parameter 0 has no fields");
    CHECK_HOLDS(refusal("i([3i])"), "parameter 0 is an array");
    CHECK_HOLDS(refusal("i(...c)"), "parameter 0 is variadic");
    CHECK_HOLDS(refusal(""), "expected a type at 0");
}

/* ---- calling ---- */

TEST(ffi, a_call_passes_arguments_and_stores_the_result) {
    AsthraFFICall c;
    int a = 40, b = 2, sum = 0;
    CHECK(!asthra_ffi_prepare(&c, ASTHRA_FN(add), INT, two_ints, 2, 2).status);
    CHECK(c.is_safe);
    ASTHRA_FFI_INVOKE(&c, &sum, &a, &b);
    CHECK_EQ(sum, 42);
    CHECK(a == 40 && b == 2);
    asthra_ffi_release(&c);
    asthra_ffi_release(&c);
    asthra_ffi_release(NULL);
}

TEST(ffi, a_result_has_exactly_the_bytes_of_its_type) {
    unsigned char room[8];
    int8_t small = 5;
    uint16_t middle = 0xffff;
    AsthraFFICall c8 = call_of(ASTHRA_FN(negate8), "c(c)"),
                  c16 = call_of(ASTHRA_FN(next16), "S(S)");
    memset(room, 0x77, sizeof room);
    ASTHRA_FFI_INVOKE(&c8, room + 2, &small);
    CHECK(room[1] == 0x77 && room[2] == 0xfb && room[3] == 0x77);
    ASTHRA_FFI_INVOKE(&c16, room + 4, &middle);
    CHECK(room[3] == 0x77 && room[4] == 0 && room[5] == 0 && room[6] == 0x77);
}

TEST(ffi, structs_go_by_value_both_ways) {
    Pair p = {1, 2}, q;
    Odd o = {"0123456789"}, t;
    Large l = {{1, 2, 3, 4, 5}}, m;
    AsthraFFICall pairs = call_of(ASTHRA_FN(swapped), "{dd}({dd})"),
                  odds = call_of(ASTHRA_FN(turned), "{[11c]}({[11c]})"),
                  larges = call_of(ASTHRA_FN(doubled), "{[5l]}({[5l]})");
    ASTHRA_FFI_INVOKE(&pairs, &q, &p);
    CHECK(q.a == 2 && q.b == 1);
    ASTHRA_FFI_INVOKE(&odds, &t, &o);
    CHECK(t.bytes[0] == 0 && memcmp(t.bytes + 1, "9876543210", 10) == 0);
    ASTHRA_FFI_INVOKE(&larges, &m, &l);
    CHECK(m.a[0] == 2 && m.a[4] == 10 && l.a[4] == 5);
    asthra_ffi_release(&pairs);
    asthra_ffi_release(&odds);
    asthra_ffi_release(&larges);
}

TEST(ffi, a_result_that_nobody_wants_is_dropped) {
    Large l = {{1, 2, 3, 4, 5}};
    int a = 1, b = 2;
    AsthraFFICall large = call_of(ASTHRA_FN(doubled), "{[5l]}({[5l]})"),
                  word = call_of(ASTHRA_FN(add), "i(ii)");
    ASTHRA_FFI_INVOKE(&large, NULL, &l);
    ASTHRA_FFI_INVOKE(&word, NULL, &a, &b);
    asthra_ffi_release(&large);
}

TEST(ffi, a_variadic_function_is_called_with_what_follows_the_dots) {
    int count = 3, a = 10, b = 20, c = 12, sum, none = 0;
    AsthraFFICall call = call_of(ASTHRA_FN(sum_all), "i(i...iii)"),
                  empty = call_of(ASTHRA_FN(sum_all), "i(i...)");
    ASTHRA_FFI_INVOKE(&call, &sum, &count, &a, &b, &c);
    CHECK_EQ(sum, 42);
    ASTHRA_FFI_INVOKE(&empty, &sum, &none);
    CHECK_EQ(sum, 0);
}

TEST(ffi, printf_takes_doubles_and_integers) {
    char text[64];
    char *out = text;
    size_t room = sizeof text;
    const char *format = "%d %s %.2f %lld";
    int i = -7, written;
    const char *s = "and";
    double d = 2.5;
    long long big = INT64_C(1) << 40;
    AsthraFFICall c =
        call_of(ASTHRA_FN(snprintf), sizeof(size_t) == 8 ? "i(pLp...ipdl)" : "i(pIp...ipdl)");
    ASTHRA_FFI_INVOKE(&c, &written, &out, &room, &format, &i, &s, &d, &big);
    CHECK_STR(text, "-7 and 2.50 1099511627776");
    CHECK_EQ(written, (int)strlen(text));
    asthra_ffi_release(&c);
}

TEST(ffi, a_call_of_many_parameters_is_moved_and_released) {
    AsthraFFICall c = call_of(ASTHRA_FN(sum_all), "i(i...iiiiiiiiiiiiiiiiiiiiiiiiiiiiii)");
    AsthraFFICall moved = c;
    int values[31], sum;
    void *args[31];
    for (int i = 0; i < 31; i++) {
        values[i] = i == 0 ? 30 : i;
        args[i] = &values[i];
    }
    memset(&c, 0xee, sizeof c);
    asthra_ffi_invoke(&moved, &sum, args);
    CHECK_EQ(sum, 465);
    asthra_ffi_release(&moved);
}

TEST(ffi, function_ptr_may_be_set_later) {
    AsthraFFICall c = call_of(NULL, "i(ii)");
    int a = 3, b = 4, sum = 0;
    c.function_ptr = ASTHRA_FN(add);
    ASTHRA_FFI_INVOKE(&c, &sum, &a, &b);
    CHECK_EQ(sum, 7);
}

TEST_PANICS(ffi, invoking_a_bare_signature_panics, "function_ptr is NULL") {
    AsthraFFICall c = call_of(NULL, "v()");
    ASTHRA_FFI_INVOKE(&c, NULL, NULL);
}

TEST(ffi, what_could_not_be_prepared_or_was_released_is_not_called) {
    AsthraFFICall c, empty = {.function_ptr = ASTHRA_FN(count_call)};
    CHECK_EQ(asthra_ffi_signature(&c, ASTHRA_FN(count_call), "d(q)").status, ASTHRA_INVALID);
    CHECK_EQ(asthra_ffi_call(&c, NULL).status, ASTHRA_INVALID);
    CHECK_HOLDS(asthra_result_message(asthra_last_error()), "is not prepared");
    CHECK(!asthra_ffi_signature(&c, ASTHRA_FN(count_call), "v()").status);
    asthra_ffi_release(&c);
    asthra_ffi_release(&c);
    CHECK_EQ(asthra_ffi_call(&c, NULL).status, ASTHRA_INVALID);
    CHECK_EQ(calls, 0);
    CHECK(!asthra_ffi_signature(&c, ASTHRA_FN(count_call), "v()").status);
    CHECK(!asthra_ffi_call(&c, NULL).status);
    asthra_ffi_release(&c);
    for (int i = 0; i < 2; i++) { /* a static one prepares itself again */
        CHECK(!asthra_ffi_call(&empty, NULL).status);
        asthra_ffi_release(&empty);
    }
    CHECK_EQ(calls, 3);
}

TEST(ffi, what_is_wrong_with_a_long_text_is_said) {
    char text[1000] = "v(";
    for (int i = 0; i < 200; i++) strcat(text, "{ii}");
    strcat(text, "q)");
    CHECK_HOLDS(refusal(text), "expected a type at 802, found 'q': \"...");
}

TEST(ffi, packed_types_nest) {
    enum { LEVELS = 30 };
    static AsthraFFIType types[LEVELS];
    static const AsthraFFIType *fields[LEVELS][3];
    const AsthraFFIType *inner = &asthra_ffi_type_s32;
    size_t size = 4, got, align, offset[3];
    for (int i = 0; i < LEVELS; i++) {
        fields[i][0] = fields[i][2] = &asthra_ffi_type_u8;
        fields[i][1] = inner;
        size += 2;
        types[i] = (AsthraFFIType){ASTHRA_FFI_STRUCT, size, 2, fields[i], 3};
        inner = &types[i];
    }
    CHECK(!asthra_ffi_layout(inner, &got, &align, offset).status);
    CHECK(got == size && align == 2);
    CHECK(offset[0] == 0 && offset[1] == 1 && offset[2] == size - 1);
}

TEST(ffi, a_layout_counts_each_field_once) {
    enum { FIELDS = 99999 };
    static const AsthraFFIType *fields[FIELDS];
    static size_t offset[FIELDS];
    for (int i = 0; i < FIELDS; i++) fields[i] = &asthra_ffi_type_u8;
    AsthraFFIType type = {ASTHRA_FFI_STRUCT, 0, 0, fields, FIELDS - 1};
    CHECK(!asthra_ffi_layout(&type, NULL, NULL, offset).status);
    CHECK_EQ(offset[FIELDS - 2], FIELDS - 2);
}

#if defined(__x86_64__)
/* A union of an integer and a long double goes to the stack, and so does what it is in, where else
 * both its words would have registers. gcc has a note for whoever passes one. */
static uint64_t reads_around(uint64_t before, uint64_t behind, uint64_t c, uint64_t d, uint64_t e,
                             uint64_t f, uint64_t first, uint64_t second) {
    (void)c, (void)d, (void)e, (void)f;
    return before == 1 && behind == 2 ? 10 * first + second : 0;
}
TEST(ffi, blocks_inside_of_blocks_are_classified_by_themselves) {
    const AsthraFFIType *mixed_fields[] = {&asthra_ffi_type_u32, &asthra_ffi_type_ldbl};
    const AsthraFFIType mixed = {ASTHRA_FFI_UNION, 0, 0, mixed_fields, 2};
    const AsthraFFIType *word[] = {&asthra_ffi_type_u64};
    const AsthraFFIType words = {ASTHRA_FFI_ARRAY, 0, 0, word, 2}, *both[] = {&mixed, &words};
    const AsthraFFIType around = {ASTHRA_FFI_UNION, 0, 0, both, 2};
    const AsthraFFIType *params[] = {&asthra_ffi_type_u64, &around, &asthra_ffi_type_u64};
    AsthraFFICall c;
    _Alignas(16) uint64_t union_of_both[] = {3, 4};
    uint64_t before = 1, behind = 2, got = 0;
    AsthraResult r =
        asthra_ffi_prepare(&c, ASTHRA_FN(reads_around), &asthra_ffi_type_u64, params, 3, 3);
    CHECK_EQ(r.status, ASTHRA_OK);
    ASTHRA_FFI_INVOKE(&c, &got, &before, union_of_both, &behind);
    CHECK_EQ(got, 34);
    asthra_ffi_release(&c);
}
#endif

static double gives_nan(void) {
    return NAN;
}
TEST(ffi, nan_is_no_zero) {
    AsthraFFICall c = call_of(ASTHRA_FN(gives_nan), "d()");
    CHECK(!asthra_ffi_set_error_rule(&c, ASTHRA_FFI_ERROR_NONZERO).status);
    CHECK_EQ(asthra_ffi_call(&c, NULL).status, ASTHRA_FAILED);
    asthra_ffi_release(&c);
}

TEST_PANICS(ffi, invoking_what_cannot_be_prepared_panics, "expected a type at 0, found '?'") {
    static AsthraFFICall c = {.function_ptr = ASTHRA_FN(count_call), .signature = "?"};
    ASTHRA_FFI_INVOKE(&c, NULL, NULL);
}

/* ---- static calls ---- */

static AsthraFFICall static_add = {.function_ptr = ASTHRA_FN(add), .signature = "i(ii)"};

TEST(ffi, a_static_call_prepares_itself) {
    int a = 1, b = 2, sum = 0;
    ASTHRA_FFI_INVOKE(&static_add, &sum, &a, &b);
    CHECK_EQ(sum, 3);
    CHECK(static_add.is_safe);
    CHECK_EQ(static_add.param_count, 2);
    asthra_ffi_release(&static_add);
    ASTHRA_FFI_INVOKE(&static_add, &sum, &b, &b);
    CHECK_EQ(sum, 4);
}

static void *call_static(void *unused) {
    int a = 20, b = 22, sum;
    for (int i = 0; i < 1000; i++) {
        AsthraResult r = asthra_ffi_call(&static_add, (void *[]){&a, &b});
        CHECK(!r.status && r.value.integer == 42);
        ASTHRA_FFI_INVOKE(&static_add, &sum, &a, &b);
        CHECK_EQ(sum, 42);
    }
    return unused;
}

TEST(ffi, sixty_four_threads_share_one_static_call) {
    pthread_t threads[64];
    for (int i = 0; i < 64; i++) CHECK(!pthread_create(&threads[i], NULL, call_static, NULL));
    for (int i = 0; i < 64; i++) pthread_join(threads[i], NULL);
}

TEST(ffi, a_static_call_knows_types_by_their_descriptions) {
    static const AsthraTypeInfo *const params[] = {&asthra_type_f32};
    static AsthraFFICall c = {.function_ptr = ASTHRA_FN(half),
                              .param_types = params,
                              .param_count = 1,
                              .return_type = &asthra_type_f32};
    float five = 5;
    AsthraResult r = asthra_ffi_call(&c, (void *[]){&five});
    CHECK(!r.status);
    CHECK(r.value.real == 2.5);
}

TEST(ffi, a_type_without_a_layout_is_named) {
    static const AsthraTypeInfo opaque = {.name = "Opaque", .size = 24, .alignment = 8};
    static const AsthraTypeInfo *const params[] = {&asthra_type_i32, &opaque};
    static AsthraFFICall c = {
        .function_ptr = ASTHRA_FN(add), .param_types = params, .param_count = 2};
    AsthraResult r = asthra_ffi_call(&c, (void *[]){NULL, NULL});
    CHECK_EQ(r.status, ASTHRA_INVALID);
    CHECK_HOLDS(asthra_result_message(r), "parameter 1: type 'Opaque'");
}

TEST(ffi, a_type_with_a_field_table_is_a_struct) {
    static const AsthraFieldInfo fields[] = {ASTHRA_FIELD(Pair, a, &asthra_type_f64),
                                             ASTHRA_FIELD(Pair, b, &asthra_type_f64)};
    static const AsthraTypeInfo pair = {.name = "Pair",
                                        .size = sizeof(Pair),
                                        .alignment = ASTHRA__ALIGNOF(Pair),
                                        .fields = fields,
                                        .field_count = 2};
    static const AsthraTypeInfo *const params[] = {&pair};
    static AsthraFFICall c = {.function_ptr = ASTHRA_FN(swapped),
                              .param_types = params,
                              .param_count = 1,
                              .return_type = &pair};
    Pair p = {3, 4}, q;
    const AsthraFFIType *type = asthra_ffi_type_of(&pair);
    CHECK(type != NULL && type->kind == ASTHRA_FFI_STRUCT && type->count == 2);
    CHECK(asthra_ffi_type_of(&pair) == type);
    CHECK(!asthra_ffi_call_into(&c, &q, (void *[]){&p}).status);
    CHECK(q.a == 4 && q.b == 3);
    CHECK(asthra_ffi_type_of(NULL) == NULL);
}

/* ---- calls that check ---- */

TEST(ffi, words_are_widened_into_the_result) {
    int8_t five = 5;
    float nine = 9;
    uint16_t most = 0xfffe;
    void *p = &five;
    AsthraFFICall c8 = call_of(ASTHRA_FN(negate8), "c(c)"),
                  c16 = call_of(ASTHRA_FN(next16), "S(S)"), cf = call_of(ASTHRA_FN(half), "f(f)"),
                  cp = call_of(ASTHRA_FN(same), "p(p)"), cv = call_of(ASTHRA_FN(count_call), "v()");
    CHECK_EQ(asthra_ffi_call(&c8, (void *[]){&five}).value.integer, -5);
    CHECK_EQ(asthra_ffi_call(&c16, (void *[]){&most}).value.integer, 0xffff);
    CHECK(asthra_ffi_call(&cf, (void *[]){&nine}).value.real == 4.5);
    CHECK(asthra_ffi_call(&cp, (void *[]){&p}).value.pointer == &five);
    CHECK_EQ(asthra_ffi_call(&cv, NULL).status, ASTHRA_OK);
    CHECK_EQ(calls, 1);
}

TEST(ffi, a_result_that_is_no_word_needs_a_place) {
    Pair p = {1, 2}, q = {0, 0};
    AsthraFFICall c = call_of(ASTHRA_FN(swapped), "{dd}({dd})");
    AsthraResult r = asthra_ffi_call(&c, (void *[]){&p});
    CHECK_EQ(r.status, ASTHRA_INVALID);
    CHECK_HOLDS(asthra_result_message(r), "asthra_ffi_call_into");
    CHECK(!asthra_ffi_call_into(&c, &q, (void *[]){&p}).status);
    CHECK(q.a == 2 && q.b == 1);
    asthra_ffi_release(&c);
}

TEST(ffi, errno_is_zeroed_before_and_noted_after) {
    int number = ENOENT;
    AsthraFFICall bad = call_of(ASTHRA_FN(refuse), "i(i)"),
                  good = call_of(ASTHRA_FN(accept_any), "i(i)");
    errno = EDOM;
    CHECK_EQ(asthra_ffi_call(&good, (void *[]){&number}).value.integer, 1);
    CHECK_EQ(asthra_ffi_last_errno(), 0);
    CHECK_EQ(asthra_ffi_call(&bad, (void *[]){&number}).value.integer, -1);
    CHECK_EQ(asthra_ffi_last_errno(), ENOENT);
}

static void check_failure(int number, AsthraStatus status, const char *message) {
    AsthraFFICall c = call_of(ASTHRA_FN(refuse), "i(i)");
    c.safety_contract = "takes what it likes";
    CHECK(!asthra_ffi_set_error_rule(&c, ASTHRA_FFI_ERROR_NEGATIVE).status);
    AsthraResult r = asthra_ffi_call(&c, (void *[]){&number});
    CHECK_EQ(r.status, status);
    CHECK_EQ(r.detail, number);
    CHECK_STR(asthra_result_message(r), message);
    const AsthraFFIError *e = asthra_result_context(r);
    CHECK(e != NULL && e->type == (int)status && e->errno_value == number);
    CHECK_STR(e->message, message);
    CHECK_STR(e->context, "takes what it likes");
}

TEST(ffi, failures_are_told_by_the_rule_and_named_by_errno) {
    check_failure(ENOMEM, ASTHRA_OUT_OF_MEMORY, "Out of memory in FFI call");
    check_failure(EINVAL, ASTHRA_INVALID, "Invalid argument in FFI call");
    check_failure(EACCES, ASTHRA_FAILED, "Access denied in FFI call");
    check_failure(ENOENT, ASTHRA_FAILED, "FFI call failed");
}

TEST(ffi, each_error_rule_fails_on_its_values) {
    int zero = 0, one = 1, minus = -1;
    void *none = NULL, *some = &one;
    AsthraFFICall i = call_of(ASTHRA_FN(add), "i(ii)"), p = call_of(ASTHRA_FN(same), "p(p)");
    CHECK(!asthra_ffi_call(&i, (void *[]){&minus, &zero}).status);
    CHECK(!asthra_ffi_set_error_rule(&i, ASTHRA_FFI_ERROR_NEGATIVE).status);
    CHECK(asthra_ffi_call(&i, (void *[]){&minus, &zero}).status);
    CHECK(!asthra_ffi_call(&i, (void *[]){&one, &zero}).status);
    CHECK(!asthra_ffi_set_error_rule(&i, ASTHRA_FFI_ERROR_NONZERO).status);
    CHECK(asthra_ffi_call(&i, (void *[]){&one, &zero}).status);
    CHECK(!asthra_ffi_call(&i, (void *[]){&one, &minus}).status);
    CHECK(!asthra_ffi_set_error_rule(&i, ASTHRA_FFI_ERROR_NEVER).status);
    CHECK(!asthra_ffi_call(&i, (void *[]){&one, &zero}).status);
    CHECK(!asthra_ffi_set_error_rule(&p, ASTHRA_FFI_ERROR_NULL).status);
    CHECK(asthra_ffi_call(&p, (void *[]){&none}).status);
    CHECK(!asthra_ffi_call(&p, (void *[]){&some}).status);
    CHECK_EQ(asthra_ffi_set_error_rule(&i, ASTHRA_FFI_ERROR_NULL).status, ASTHRA_INVALID);
    CHECK_EQ(asthra_ffi_set_error_rule(&p, ASTHRA_FFI_ERROR_NEGATIVE).status, ASTHRA_INVALID);
    CHECK_EQ(asthra_ffi_set_error_rule(&p, (AsthraFFIErrorRule)17).status, ASTHRA_INVALID);
}

static const char *unsafe(AsthraFFICall *c, void **args) {
    AsthraResult r = asthra_ffi_call_safe(c, args);
    CHECK_EQ(r.status, ASTHRA_INVALID);
    CHECK_HOLDS(asthra_result_message(r), "Unsafe FFI call");
    return asthra_result_message(r);
}

TEST(ffi, a_safe_call_names_the_rule_that_failed) {
    static int data = 5;
    AsthraFFICall c = call_of(ASTHRA_FN(add), "i(ii)");
    int a = 1, b = 2;
    CHECK_EQ(asthra_ffi_call_safe(&c, (void *[]){&a, &b}).value.integer, 3);
    CHECK_HOLDS(unsafe(&c, NULL), "args is NULL");
    CHECK_HOLDS(unsafe(&c, (void *[]){&a, NULL}), "parameter 1 has no value");
    c.safety_contract = "both are small";
    CHECK_HOLDS(unsafe(&c, NULL), "both are small");
    c.is_safe = false;
    CHECK_HOLDS(unsafe(&c, (void *[]){&a, &b}), "is_safe is false");
    c.is_safe = true;
    c.function_ptr = NULL;
    CHECK_HOLDS(unsafe(&c, (void *[]){&a, &b}), "the function is NULL");
    c.function_ptr = &data;
    CHECK_HOLDS(unsafe(&c, (void *[]){&a, &b}), "not to be executed");
}

TEST(ffi, strict_safety_makes_every_call_a_safe_one) {
    AsthraRuntimeConfig config = asthra_runtime_config_default();
    AsthraFFICall c = call_of(ASTHRA_FN(add), "i(ii)");
    int a = 1;
    config.strict_ffi_safety = true;
    CHECK(asthra_runtime_init(&config));
    AsthraResult r = asthra_ffi_call(&c, (void *[]){&a, NULL});
    CHECK_EQ(r.status, ASTHRA_INVALID);
    CHECK_HOLDS(asthra_result_message(r), "parameter 1 has no value");
    asthra_runtime_shutdown();
}

TEST(ffi, calls_can_be_switched_off) {
    AsthraRuntimeConfig config = asthra_runtime_config_default();
    AsthraFFICall c = call_of(ASTHRA_FN(count_call), "v()");
    config.enable_ffi = false;
    CHECK(asthra_runtime_init(&config));
    CHECK_EQ(asthra_ffi_call(&c, NULL).status, ASTHRA_FAILED);
    CHECK_HOLDS(asthra_result_message(asthra_last_error()), "enable_ffi");
    CHECK_EQ(calls, 0);
    asthra_runtime_shutdown();
    CHECK(!asthra_ffi_call(&c, NULL).status);
    CHECK_EQ(calls, 1);
}

TEST(ffi, a_pointer_into_freed_memory_is_unsafe) {
    AsthraFFICall c = call_of(ASTHRA_FN(same), "p(p)");
    char *block = asthra_manual_alloc(64), *inside = block + 8;
    CHECK(!asthra_ffi_call_safe(&c, (void *[]){&inside}).status);
    asthra_manual_free(block);
    CHECK_HOLDS(unsafe(&c, (void *[]){&inside}), "parameter 0 leads into freed memory");
    CHECK_HOLDS(unsafe(&c, (void *[]){block}), "parameter 0 has a value that lies in freed memory");
}

/* ---- ownership ---- */

static AsthraFFICall handing(void *fn, AsthraTransferSemantics how) {
    AsthraFFICall c = call_of(fn, "p(p)");
    CHECK(!asthra_ffi_set_transfer(&c, 0, how).status);
    return c;
}

TEST(ffi, what_is_handed_over_is_out_until_it_is_reclaimed) {
    AsthraFFICall c = handing(ASTHRA_FN(same), ASTHRA_TRANSFER_FULL);
    void *block = asthra_manual_alloc(40);
    CHECK(!asthra_ffi_call(&c, (void *[]){&block}).status);
    CHECK_EQ(asthra_ffi_transferred_count(), 1);
    CHECK_EQ(asthra_pin_count(block), 1);
    AsthraResult r = asthra_ffi_call(&c, (void *[]){&block});
    CHECK_EQ(r.status, ASTHRA_INVALID);
    CHECK_HOLDS(asthra_result_message(r), "out already");
    CHECK_EQ(asthra_ffi_reclaim(block).value.pointer == block, 1);
    CHECK_EQ(asthra_ffi_transferred_count(), 0);
    CHECK_EQ(asthra_pin_count(block), 0);
    CHECK_EQ(asthra_ffi_reclaim(block).status, ASTHRA_INVALID);
    CHECK_EQ(asthra_ffi_reclaim(NULL).status, ASTHRA_INVALID);
    asthra_manual_free(block);
    asthra_ffi_release(&c);
}

TEST_PANICS(ffi, freeing_what_is_out_panics, "pinned") {
    AsthraFFICall c = handing(ASTHRA_FN(same), ASTHRA_TRANSFER_CONTAINER);
    void *block = asthra_manual_alloc(40);
    CHECK(!asthra_ffi_call(&c, (void *[]){&block}).status);
    asthra_manual_free(block);
}

TEST(ffi, after_a_failed_call_the_caller_owns_it_still) {
    AsthraFFICall c = handing(ASTHRA_FN(fail_with), ASTHRA_TRANSFER_FULL);
    void *block = asthra_pinned_alloc(40);
    CHECK(!asthra_ffi_set_error_rule(&c, ASTHRA_FFI_ERROR_NULL).status);
    CHECK_EQ(asthra_ffi_call(&c, (void *[]){&block}).status, ASTHRA_OUT_OF_MEMORY);
    CHECK_EQ(asthra_ffi_transferred_count(), 0);
    CHECK_EQ(asthra_ffi_reclaim(block).status, ASTHRA_INVALID);
    asthra_pinned_free(block);
    asthra_ffi_release(&c);
}

TEST(ffi, memory_of_others_is_passed_on_and_not_remembered) {
    AsthraFFICall c = handing(ASTHRA_FN(same), ASTHRA_TRANSFER_FULL);
    void *block = malloc(40), *none = NULL;
    CHECK(asthra_ffi_call(&c, (void *[]){&block}).value.pointer == block);
    CHECK(asthra_ffi_call(&c, (void *[]){&none}).value.pointer == NULL);
    CHECK_EQ(asthra_ffi_transferred_count(), 0);
    free(block);
    asthra_ffi_release(&c);
}

TEST(ffi, what_cannot_be_handed_over_is_refused) {
    AsthraFFICall c = handing(ASTHRA_FN(same), ASTHRA_TRANSFER_FULL);
    char *block = asthra_manual_alloc(64), *inside = block + 8, *temporary = asthra_stack_alloc(16);
    CHECK_EQ(asthra_ffi_call(&c, (void *[]){&inside}).status, ASTHRA_INVALID);
    CHECK_HOLDS(unsafe(&c, (void *[]){&inside}), "middle of a block");
    CHECK_HOLDS(unsafe(&c, (void *[]){&temporary}), "stack zone");
    asthra_manual_free(block);
    CHECK_EQ(asthra_ffi_call(&c, (void *[]){&block}).status, ASTHRA_INVALID);
    CHECK_EQ(asthra_ffi_transferred_count(), 0);
    AsthraFFICall words = call_of(ASTHRA_FN(add), "i(ii)");
    CHECK_EQ(asthra_ffi_set_transfer(&words, 0, ASTHRA_TRANSFER_FULL).status, ASTHRA_INVALID);
    CHECK_EQ(asthra_ffi_set_transfer(&words, 2, ASTHRA_TRANSFER_FULL).status, ASTHRA_INVALID);
    CHECK_EQ(asthra_ffi_set_transfer(&c, 0, (AsthraTransferSemantics)9).status, ASTHRA_INVALID);
    asthra_ffi_release(&c);
}

TEST(ffi, a_static_call_hands_over_all_its_pointers) {
    static const AsthraTypeInfo *const params[] = {&asthra_type_pointer};
    static AsthraFFICall c = {.function_ptr = ASTHRA_FN(same),
                              .transfer = ASTHRA_TRANSFER_FULL,
                              .param_types = params,
                              .param_count = 1,
                              .return_type = &asthra_type_pointer};
    void *block = asthra_manual_alloc(8);
    CHECK(!asthra_ffi_call(&c, (void *[]){&block}).status);
    CHECK_EQ(asthra_ffi_transferred_count(), 1);
    CHECK(!asthra_ffi_reclaim(block).status);
    asthra_manual_free(block);
    asthra_ffi_release(&c);
}

static int ended;
static void end_it(void *p) {
    ended++;
    free(p);
}
static void *fresh(void) {
    return malloc(24);
}
static AsthraFFICall bringing(void) {
    AsthraFFICall c = call_of(ASTHRA_FN(fresh), "p()");
    CHECK(!asthra_ffi_set_transfer(&c, ASTHRA_FFI_RETURN, ASTHRA_TRANSFER_FULL).status);
    CHECK(!asthra_ffi_set_return_free(&c, end_it).status);
    return c;
}

TEST(ffi, a_full_return_is_freed_by_its_function_when_reclaimed) {
    AsthraFFICall c = bringing();
    AsthraResult r = asthra_ffi_call(&c, NULL);
    CHECK(!r.status && r.value.pointer != NULL);
    CHECK_EQ(ended, 0);
    CHECK(!asthra_ffi_reclaim(r.value.pointer).status);
    CHECK_EQ(ended, 1);
    asthra_ffi_release(&c);
}

TEST(ffi, a_full_return_is_freed_at_the_latest_by_shutdown) {
    AsthraFFICall c = bringing();
    CHECK(asthra_runtime_init(NULL));
    for (int i = 0; i < 100; i++) CHECK(!asthra_ffi_call(&c, NULL).status);
    asthra_runtime_shutdown();
    CHECK_EQ(ended, 100);
    asthra_ffi_release(&c);
}

static void *frees(void *p) {
    free(p);
    return NULL;
}
/* The table once kept it, to free it a second time. */
TEST(ffi, a_full_return_that_is_handed_on_is_c_s) {
    AsthraFFICall in = bringing(), out = handing(ASTHRA_FN(frees), ASTHRA_TRANSFER_FULL);
    CHECK(asthra_runtime_init(NULL));
    void *p = asthra_ffi_call(&in, NULL).value.pointer;
    CHECK(!asthra_ffi_call(&out, (void *[]){&p}).status);
    CHECK_EQ(asthra_ffi_reclaim(p).status, ASTHRA_INVALID);
    asthra_runtime_shutdown();
    CHECK_EQ(ended, 0);
    asthra_ffi_release(&in);
    asthra_ffi_release(&out);
}
static void *refuses(void *p) {
    (void)p;
    return NULL;
}
TEST(ffi, a_full_return_that_c_refuses_is_still_ours) {
    AsthraFFICall in = bringing(), out = handing(ASTHRA_FN(refuses), ASTHRA_TRANSFER_FULL);
    void *p = asthra_ffi_call(&in, NULL).value.pointer;
    CHECK(!asthra_ffi_set_error_rule(&out, ASTHRA_FFI_ERROR_NULL).status);
    CHECK_EQ(asthra_ffi_call(&out, (void *[]){&p}).status, ASTHRA_FAILED);
    CHECK_EQ(ended, 0);
    CHECK(!asthra_ffi_reclaim(p).status);
    CHECK_EQ(ended, 1);
    asthra_ffi_release(&in);
    asthra_ffi_release(&out);
}

TEST(ffi, a_full_return_that_c_took_is_forgotten) {
    AsthraFFICall in = bringing(), out = handing(ASTHRA_FN(same), ASTHRA_TRANSFER_FULL),
                  failing = handing(ASTHRA_FN(refuses), ASTHRA_TRANSFER_FULL);
    void *p = asthra_ffi_call(&in, NULL).value.pointer;
    CHECK(!asthra_ffi_set_error_rule(&failing, ASTHRA_FFI_ERROR_NULL).status);
    CHECK(!asthra_ffi_call(&out, (void *[]){&p}).status);
    CHECK_EQ(asthra_ffi_call(&failing, (void *[]){&p}).status, ASTHRA_FAILED); /* C's, still */
    CHECK_EQ(asthra_ffi_reclaim(p).status, ASTHRA_INVALID);
    CHECK_EQ(ended, 0);
    free(p);
    asthra_ffi_release(&in);
    asthra_ffi_release(&out);
    asthra_ffi_release(&failing);
}

static void *manual_block(void) {
    return asthra_manual_alloc(48);
}
static void end_manual(void *p) {
    ended++;
    asthra_manual_free(p);
}
TEST(ffi, a_block_of_ours_that_came_in_goes_out_and_comes_back) {
    AsthraFFICall in = call_of(ASTHRA_FN(manual_block), "p()");
    AsthraFFICall out = handing(ASTHRA_FN(same), ASTHRA_TRANSFER_FULL);
    CHECK(!asthra_ffi_set_transfer(&in, ASTHRA_FFI_RETURN, ASTHRA_TRANSFER_FULL).status);
    CHECK(!asthra_ffi_set_return_free(&in, end_manual).status);
    void *p = asthra_ffi_call(&in, NULL).value.pointer;
    CHECK(!asthra_ffi_call(&out, (void *[]){&p}).status);
    CHECK_EQ(asthra_ffi_transferred_count(), 1);
    CHECK_EQ(asthra_ffi_call(&out, (void *[]){&p}).status, ASTHRA_INVALID);
    CHECK(!asthra_ffi_reclaim(p).status);
    CHECK(ended == 0 && asthra_ffi_transferred_count() == 0);
    CHECK(!asthra_ffi_reclaim(p).status);
    CHECK_EQ(ended, 1);
    CHECK_EQ(asthra_ffi_reclaim(p).status, ASTHRA_INVALID);
    asthra_ffi_release(&in);
    asthra_ffi_release(&out);
}

TEST(ffi, what_c_gives_back_as_ours_is_ended_when_it_is_reclaimed) {
    AsthraFFICall c = handing(ASTHRA_FN(same), ASTHRA_TRANSFER_FULL); /* push and pop in one */
    CHECK(!asthra_ffi_set_transfer(&c, ASTHRA_FFI_RETURN, ASTHRA_TRANSFER_FULL).status);
    CHECK(!asthra_ffi_set_return_free(&c, end_manual).status);
    void *block = asthra_manual_alloc(24);
    CHECK(asthra_ffi_call(&c, (void *[]){&block}).value.pointer == block);
    CHECK(!asthra_ffi_reclaim(block).status);
    CHECK_EQ(ended, 1);
    CHECK_EQ(asthra_ffi_transferred_count(), 0);
    asthra_ffi_release(&c);
}

TEST(ffi, the_result_of_a_failed_call_is_freed_if_nobody_is_told_of_it) {
    AsthraFFICall c = bringing(); /* NULL would be good */
    void *p;
    CHECK(!asthra_ffi_set_error_rule(&c, ASTHRA_FFI_ERROR_NONZERO).status);
    CHECK_EQ(asthra_ffi_call(&c, NULL).status, ASTHRA_FAILED);
    CHECK_EQ(ended, 1);
    CHECK_EQ(asthra_ffi_call_into(&c, &p, NULL).status, ASTHRA_FAILED);
    CHECK_EQ(ended, 1);
    CHECK(!asthra_ffi_reclaim(p).status);
    CHECK_EQ(ended, 2);
    asthra_ffi_release(&c);
}

/* The same pointer goes out and comes back, by a call that fails. */
TEST(ffi, what_goes_through_a_failed_call_is_ended_once) {
    AsthraFFICall in = bringing(), through = handing(ASTHRA_FN(same), ASTHRA_TRANSFER_FULL);
    CHECK(!asthra_ffi_set_transfer(&through, ASTHRA_FFI_RETURN, ASTHRA_TRANSFER_FULL).status);
    CHECK(!asthra_ffi_set_return_free(&through, end_it).status);
    CHECK(!asthra_ffi_set_error_rule(&through, ASTHRA_FFI_ERROR_NONZERO).status);
    void *p = asthra_ffi_call(&in, NULL).value.pointer, *told;
    CHECK_EQ(asthra_ffi_call(&through, (void *[]){&p}).status, ASTHRA_FAILED); /* told of nothing */
    CHECK_EQ(ended, 1);
    CHECK_EQ(asthra_ffi_reclaim(p).status, ASTHRA_INVALID);
    CHECK(!asthra_ffi_set_return_free(&through, end_manual).status);
    p = asthra_manual_alloc(24);
    CHECK_EQ(asthra_ffi_call_into(&through, &told, (void *[]){&p}).status, ASTHRA_FAILED);
    CHECK(told == p && ended == 1 && asthra_ffi_transferred_count() == 0);
    CHECK(!asthra_ffi_reclaim(p).status);
    CHECK_EQ(ended, 2);
    asthra_ffi_release(&in);
    asthra_ffi_release(&through);
}

TEST(ffi, what_c_gave_back_as_ours_is_ended_by_shutdown) {
    AsthraFFICall c = handing(ASTHRA_FN(same), ASTHRA_TRANSFER_FULL);
    CHECK(!asthra_ffi_set_transfer(&c, ASTHRA_FFI_RETURN, ASTHRA_TRANSFER_FULL).status);
    CHECK(!asthra_ffi_set_return_free(&c, end_manual).status);
    void *block = asthra_manual_alloc(24);
    CHECK(asthra_runtime_init(NULL));
    CHECK(!asthra_ffi_call(&c, (void *[]){&block}).status);
    asthra_runtime_shutdown();
    CHECK(ended == 1 && asthra_ffi_transferred_count() == 0);
    asthra_ffi_release(&c);
}

TEST_PANICS(ffi, shutdown_reports_what_is_out, "and not reclaimed") {
    AsthraFFICall c = handing(ASTHRA_FN(same), ASTHRA_TRANSFER_FULL);
    void *block = asthra_manual_alloc(40);
    CHECK(asthra_runtime_init(NULL));
    CHECK(!asthra_ffi_call(&c, (void *[]){&block}).status);
    asthra_runtime_shutdown();
    abort();
}

TEST(ffi, many_blocks_are_out_at_once_and_come_back_in_any_order) {
    enum { BLOCKS = 3000 };
    static void *blocks[BLOCKS];
    AsthraFFICall c = handing(ASTHRA_FN(same), ASTHRA_TRANSFER_FULL);
    uint64_t dice = 5;
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = asthra_manual_alloc(16 + test_roll(&dice, 100));
        CHECK(!asthra_ffi_call(&c, (void *[]){&blocks[i]}).status);
    }
    CHECK_EQ(asthra_ffi_transferred_count(), BLOCKS);
    for (int left = BLOCKS; left > 0; left--) {
        uint32_t i = test_roll(&dice, (uint32_t)left);
        CHECK(!asthra_ffi_reclaim(blocks[i]).status);
        CHECK_EQ(asthra_ffi_reclaim(blocks[i]).status, ASTHRA_INVALID);
        asthra_manual_free(blocks[i]);
        blocks[i] = blocks[left - 1];
    }
    CHECK_EQ(asthra_ffi_transferred_count(), 0);
    asthra_ffi_release(&c);
}

/* ---- the system ---- */

static void need_calls_of_linux(void) {
#if defined(ASTHRA_RT_POSIX) || !defined(__linux__)
    SKIP("POSIX has no calls by number");
#endif
}

TEST(ffi, a_call_of_the_system_returns_what_the_system_does) {
    need_calls_of_linux();
    const long closed = -1;
    AsthraResult r = asthra_ffi_syscall(SYS_getpid, NULL, 0);
    CHECK(!r.status && r.value.integer == getpid());
    errno = EDOM;
    r = asthra_ffi_syscall(SYS_close, &closed, 1);
    CHECK_EQ(r.status, ASTHRA_FAILED);
    CHECK_EQ(r.detail, EBADF);
    CHECK_EQ(asthra_ffi_last_errno(), EBADF);
    CHECK_STR(asthra_result_message(r), "FFI call failed");
    CHECK_EQ(errno, EDOM);
    CHECK_EQ(asthra_ffi_syscall(SYS_getpid, &closed, 7).status, ASTHRA_INVALID);
    CHECK_EQ(asthra_ffi_syscall(SYS_getpid, NULL, 1).status, ASTHRA_INVALID);
}

static int pipe_ends[2];
static char pipe_byte;

static void *read_by_number(void *unused) {
    const long args[] = {pipe_ends[0], (long)(intptr_t)&pipe_byte, 1};
    AsthraResult r = asthra_ffi_syscall(SYS_read, args, 3);
    CHECK(!r.status && r.value.integer == 1);
    return unused;
}

static void *write_one(void *unused) {
    CHECK(write(pipe_ends[1], "x", 1) == 1);
    return unused;
}

/* With one worker, which the reader does not hold. */
TEST(ffi, a_call_of_the_system_that_blocks_holds_no_worker) {
    need_calls_of_linux();
    NEED_THREADS();
    AsthraRuntimeConfig config = asthra_runtime_config_default();
    config.worker_threads = 1;
    CHECK(asthra_runtime_init(&config));
    CHECK(!pipe(pipe_ends));
    AsthraTaskHandle reader = asthra_spawn(read_by_number, NULL);
    asthra_yield();
    AsthraTaskHandle writer = asthra_spawn(write_one, NULL);
    asthra_await(reader);
    asthra_await(writer);
    CHECK_EQ(pipe_byte, 'x');
    asthra_runtime_shutdown();
}
