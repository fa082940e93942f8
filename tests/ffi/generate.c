/* generate - writes C programs that check calls and closures of random signatures.
 *
 *     generate [OPTION...] PREFIX
 *
 *     --seed N         another N, other signatures and values
 *     --count N        how many signatures; 500 when left out
 *     --abi ms         all functions are __attribute__((ms_abi)); sysv when left out
 *     --direct         through C alone, without the runtime: shows whether two compilers agree
 *     --with WORD      with this kind of type, and --without WORD; the words are in a table below
 *     --odd            with all kinds, also those about which gcc 12 and clang 14 disagree
 *
 * PREFIX.h has the types, PREFIX_callees.c the functions, PREFIX_callers.c functions that call
 * through pointers, PREFIX_driver.c the descriptors and, by including check.c, the rest. Different
 * compilers may compile callees and callers; layouts are always said as C expressions. The same
 * arguments give the same bytes everywhere: no expression rolls dice in an order left to compilers.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) ((unsigned)(sizeof(array) / sizeof *(array)))

/* ---- options ---- */

enum {
    BOOLS = 1 << 0,
    COMPLEX = 1 << 1,
    LDBL = 1 << 2,
    CLDBL = 1 << 3,
    BARE_LDBL = 1 << 4,
    UNIONS = 1 << 5,
    VARIADIC = 1 << 6,
    PADDED_UNIONS = 1 << 7,
    PACKED = 1 << 8,
    PACKED_REALS = 1 << 9,
    ALIGNED = 1 << 10
};
enum { ODD_IN_SYSV = 1, ODD_IN_MS = 2, ODD = 3 };
static const struct Word {
    const char *word;
    unsigned bit, odd;
} words[] = {
    {"bool", BOOLS, 0},
    {"complex", COMPLEX, 0},
    {"ldbl", LDBL, 0},
    {"cldbl", CLDBL, 0},
    /* A parameter or result, not in a struct: gcc passes its address, clang itself. */
    {"bare-ldbl", BARE_LDBL, ODD_IN_MS},
    {"union", UNIONS, 0},
    {"variadic", VARIADIC, 0},
    {"packed", PACKED, 0},
    /* With members that have padding: clang loses what others have there (its issue 83388). */
    {"padded-unions", PADDED_UNIONS, ODD},
    /* Of nothing but floating members. When registers have run out on ARM and AArch64, clang aligns
     * it on the stack as its members would be, gcc as it is. */
    {"packed-reals", PACKED_REALS, ODD},
    /* More than its members are. They differ about the stack of ARM and i386, and on x86-64 about
     * the class of what only aligns a member of a union. */
    {"aligned", ALIGNED, ODD},
};

static struct Options {
    uint64_t seed;
    unsigned count, kinds;
    bool is_ms, is_direct;
    const char *prefix;
} options = {1, 500, 0, false, false, NULL};

static void die(const char *what, const char *word) {
    fprintf(stderr, "generate: %s%s\n", what, word);
    exit(2);
}

static unsigned bit_of(const char *word) {
    for (unsigned i = 0; word && i < COUNT(words); i++)
        if (!strcmp(words[i].word, word)) return words[i].bit;
    die("no such kind of type: ", word ? word : "");
    return 0;
}

static void read_options(char **argv) {
    unsigned with = 0, without = 0;
    bool is_odd = false;
    while (*++argv) {
        const char *word = *argv, *value = argv[1];
        bool takes_value = true;
        if (!strcmp(word, "--seed") && value)
            options.seed = strtoull(value, NULL, 10);
        else if (!strcmp(word, "--count") && value)
            options.count = (unsigned)atoi(value);
        else if (!strcmp(word, "--abi") && value)
            options.is_ms = !strcmp(value, "ms");
        else if (!strcmp(word, "--with"))
            with |= bit_of(value);
        else if (!strcmp(word, "--without"))
            without |= bit_of(value);
        else {
            takes_value = false;
            if (!strcmp(word, "--direct"))
                options.is_direct = true;
            else if (!strcmp(word, "--odd"))
                is_odd = true;
            else if (*word == '-')
                die("no such option: ", word);
            else
                options.prefix = word;
        }
        argv += takes_value;
    }
    for (unsigned i = 0; i < COUNT(words); i++)
        if (is_odd || !(words[i].odd & (options.is_ms ? ODD_IN_MS : ODD_IN_SYSV)))
            options.kinds |= words[i].bit;
    options.kinds = (options.kinds | with) & ~without;
    if (!options.prefix || !options.count) die("usage: generate [OPTION...] PREFIX", "");
}

/* ---- dice ---- */

static uint64_t dice;
static unsigned roll(unsigned bound) { /* splitmix64; one call to an expression */
    uint64_t x = dice += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return (unsigned)((x ^ x >> 31) >> 33) % bound;
}
static bool chance(unsigned percent) {
    return roll(100) < percent;
}

/* ---- types ---- */

/* A type is a number: of a scalar in this table, or of an aggregate after it. Sizes are those of
 * 64-bit processors, and only keep aggregates from growing too large. */
static const struct Scalar {
    const char *word, *name;
    unsigned size, kind;
} scalars[] = {
    {"bool", "_Bool", 1, BOOLS},
    {"s8", "int8_t", 1, 0},
    {"u8", "uint8_t", 1, 0},
    {"s16", "int16_t", 2, 0},
    {"u16", "uint16_t", 2, 0},
    {"s32", "int32_t", 4, 0},
    {"u32", "uint32_t", 4, 0},
    {"s64", "int64_t", 8, 0},
    {"u64", "uint64_t", 8, 0},
    {"f32", "float", 4, 0},
    {"f64", "double", 8, 0},
    {"ldbl", "long double", 16, LDBL},
    {"cf32", "float _Complex", 8, COMPLEX},
    {"cf64", "double _Complex", 16, COMPLEX},
    {"cldbl", "long double _Complex", 32, CLDBL},
    {"ptr", "void *", 8, 0},
};
enum { T_BOOL, T_S8, T_U8, T_S32 = 5, T_U64 = 8, T_F32, T_F64, T_LDBL, T_CF32, T_CF64, T_CLDBL };
enum { T_PTR = T_CLDBL + 1, SCALARS, VOID = -1 };
enum { FIELDS = 20, DEPTH = 4, BYTES = 256, TYPES = 16384, PARAMS = 64 };

/* What an aggregate, or a parameter, is to be like. */
typedef enum Style {
    INTEGER,
    FLOATING,
    LONG_DOUBLE,
    COMPLEX_NUMBER,
    POINTER,
    PAIR,  /* one or two fields of any scalars */
    ALIKE, /* 1 to 5 of one floating type */
    SMALL, /* 1 to 17 bytes of integers, odd sizes too */
    MIXED, /* up to 40 bytes of anything */
    BIG,   /* up to 256 */
    UNION,
    STYLES
} Style;

typedef struct Field {
    int type;
    unsigned rows, columns; /* 0: not an array, not one of arrays */
} Field;
typedef struct Aggregate {
    Field fields[FIELDS];
    unsigned count, size, align, depth;
    Style style;
    unsigned packed, aligned; /* 0: not */
    bool is_given;            /* the descriptor says size and alignment */
    bool has_other;           /* than floating scalars in it */
    bool has_aligned, has_padding;
} Aggregate;
static Aggregate types[TYPES];
static unsigned type_count;

static unsigned times(unsigned n) {
    return n ? n : 1;
}
static unsigned size_of(int type) {
    return type < SCALARS ? scalars[type].size : types[type - SCALARS].size;
}
static unsigned align_of(int type) {
    if (type >= SCALARS) return types[type - SCALARS].align;
    return type >= T_CF32 && type <= T_CLDBL ? size_of(type) / 2 : size_of(type);
}

static bool add(Aggregate *a, int type, unsigned rows, unsigned columns) {
    unsigned align = align_of(type), size = size_of(type) * times(rows) * times(columns);
    unsigned at = a->style == UNION ? 0 : (a->size + align - 1) / align * align;
    const Aggregate *inner = type < SCALARS ? NULL : &types[type - SCALARS];
    if (a->count == FIELDS || at + size > BYTES) return false;
    if (inner && inner->has_padding && a->style == UNION && !(options.kinds & PADDED_UNIONS))
        return false;
    if (inner) {
        if (inner->depth >= a->depth) a->depth = inner->depth + 1;
        a->has_other |= inner->has_other;
        a->has_aligned |= inner->has_aligned;
        a->has_padding |= inner->has_padding;
    } else
        a->has_other |= type < T_F32 || type > T_CLDBL;
    a->fields[a->count++] = (Field){type, rows, columns};
    a->has_padding |= a->style != UNION && at > a->size;
    if (at + size > a->size) a->size = at + size;
    if (align > a->align) a->align = align;
    return true;
}

static int keep(Aggregate *a) {
    unsigned size = (a->size + a->align - 1) / a->align * a->align;
    a->has_padding |= size > a->size;
    a->size = size;
    a->is_given = chance(20);
    if (chance(10) && (options.kinds & (a->has_other ? PACKED : PACKED_REALS)))
        a->packed = 1U << roll(4);
    else if (chance(10) && (options.kinds & ALIGNED))
        a->aligned = 4U << roll(4);
    a->is_given |= a->packed || a->aligned;
    a->has_aligned |= a->aligned > 0;
    a->has_padding |= a->aligned > 0;
    if (type_count == TYPES) die("too many types", "");
    types[type_count++] = *a;
    return SCALARS + (int)type_count - 1;
}

static int scalar_of(Style style) {
    switch (style) {
    case INTEGER: return (int)roll(T_U64 + 1);
    case FLOATING: return T_F32 + (int)roll(2);
    case LONG_DOUBLE: return T_LDBL;
    case COMPLEX_NUMBER: return T_CF32 + (int)roll(3);
    case POINTER: return T_PTR;
    default: return (int)roll(SCALARS);
    }
}
static int scalar(Style style) { /* one that is wanted; else another number */
    for (int tries = 0; tries < 8; tries++) {
        int type = scalar_of(style);
        if (!scalars[type].kind || (options.kinds & scalars[type].kind)) return type;
    }
    return T_F64;
}

static int make(Style style, unsigned depth);

/* An aggregate that fits under one of depth `depth`: of those that there are, or a new one. */
static int nested(unsigned depth) {
    static const Style styles[] = {PAIR, PAIR, ALIKE, SMALL, MIXED, UNION};
    Style style = styles[roll(COUNT(styles))];
    for (unsigned tries = 0; type_count && tries < 4; tries++) {
        unsigned i = roll(type_count);
        if (types[i].depth < depth && types[i].size <= 64) return SCALARS + (int)i;
    }
    return make(style, depth - 1);
}

static void fill_pair(Aggregate *a, unsigned depth) {
    for (unsigned n = 1 + roll(2); n; n--) {
        int type = depth > 1 && chance(15) ? make(PAIR, depth - 1) : scalar(STYLES);
        add(a, type, chance(10) ? 1 + roll(2) : 0, 0);
    }
}

static void fill_alike(Aggregate *a, unsigned depth, int base, unsigned left) {
    while (left) {
        unsigned n = 1 + roll(left);
        if (depth > 1 && chance(25)) {
            Aggregate inner = {.align = 1, .depth = 1, .style = ALIKE};
            fill_alike(&inner, depth - 1, base, n);
            int type = keep(&inner);
            add(a, type, chance(20) ? 1 : 0, 0);
        } else if (chance(40))
            add(a, base, n, 0);
        else
            add(a, base, 0, 0), n = 1;
        left -= n;
    }
}
static int floating_base(void) {
    static const int bases[] = {T_F32, T_F32, T_F32, T_F64, T_F64, T_F64, T_LDBL, T_CF32, T_CF64};
    int base = bases[roll(COUNT(bases))];
    return !scalars[base].kind || (options.kinds & scalars[base].kind) ? base : T_F32;
}

static void fill_small(Aggregate *a) {
    unsigned bytes = 1 + roll(17);
    for (unsigned tries = 0; a->size < bytes && tries < 20; tries++) {
        int type = scalar(chance(85) ? INTEGER : POINTER);
        unsigned room = bytes - a->size, size = size_of(type);
        if (size > room) continue;
        add(a, type, room / size > 1 && chance(40) ? 1 + roll(room / size) : 0, 0);
    }
    if (!a->count) add(a, T_U8, bytes, 0);
}

static void fill_mixed(Aggregate *a, unsigned depth, unsigned bytes) {
    for (unsigned tries = 0; a->size < bytes && tries < 20; tries++) {
        int type = depth > 1 && chance(25) ? nested(depth) : scalar(STYLES);
        unsigned rows = chance(20) ? 1 + roll(4) : 0;
        add(a, type, rows, rows && chance(20) ? 1 + roll(3) : 0);
    }
    if (!a->count) add(a, T_S32, 0, 0);
}

static void fill_union(Aggregate *a, unsigned depth) {
    unsigned wanted = 1 + roll(4);
    if (chance(25)) { /* of floats alone it is an aggregate of floats to some ABIs */
        int base = floating_base();
        while (a->count < wanted) {
            Aggregate inner = {.align = 1, .depth = 1, .style = ALIKE};
            fill_alike(&inner, 1, base, 1 + roll(4));
            bool is_nested = depth > 1 && chance(50);
            int type = is_nested ? keep(&inner) : base;
            if (!add(a, type, is_nested ? 0 : roll(4), 0)) break;
        }
        if (!a->count) add(a, base, 0, 0);
        return;
    }
    for (unsigned tries = 0; a->count < wanted && tries < 20; tries++) {
        int type = depth > 1 && chance(30) ? nested(depth) : scalar(STYLES);
        if (type != T_BOOL && size_of(type) <= 64) add(a, type, chance(30) ? 1 + roll(4) : 0, 0);
    }
    if (!a->count) add(a, T_S32, 0, 0);
}

static int make(Style style, unsigned depth) {
    Aggregate a = {.align = 1, .depth = 1, .style = style};
    int base = floating_base();
    switch (style) {
    case PAIR: fill_pair(&a, depth); break;
    case ALIKE: fill_alike(&a, depth, base, 1 + roll(5)); break;
    case SMALL: fill_small(&a); break;
    case UNION:
        if (!(options.kinds & UNIONS))
            a.style = PAIR, fill_pair(&a, depth);
        else
            fill_union(&a, depth);
        break;
    case BIG: fill_mixed(&a, depth, 41 + roll(BYTES - 40)); break;
    default: fill_mixed(&a, depth, 8 + roll(33));
    }
    return keep(&a);
}

/* ---- signatures ---- */

typedef struct Signature {
    int ret, params[PARAMS];
    unsigned count, fixed;
} Signature;
static Signature *signatures;

/* How often a parameter has a style, by the theme of its signature. */
static const unsigned char themes[][STYLES] = {
    {90, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0},      {0, 100, 0, 0, 0, 0, 0, 0, 0, 0, 0},
    {40, 40, 5, 5, 10, 0, 0, 0, 0, 0, 0},     {15, 15, 0, 0, 0, 30, 20, 20, 0, 0, 0},
    {10, 20, 0, 0, 0, 10, 60, 0, 0, 0, 0},    {20, 0, 0, 0, 0, 10, 0, 70, 0, 0, 0},
    {10, 10, 5, 5, 5, 15, 10, 10, 15, 5, 10}, {10, 10, 0, 0, 0, 0, 0, 0, 30, 40, 10},
    {10, 10, 20, 40, 0, 10, 10, 0, 0, 0, 0},  {10, 10, 0, 0, 0, 20, 0, 0, 0, 0, 60},
    {10, 10, 40, 10, 0, 10, 10, 0, 10, 0, 0},
};

static int type_like(Style style) {
    if (style < PAIR) {
        int type = scalar(style);
        return type != T_LDBL || (options.kinds & BARE_LDBL) ? type : T_F64;
    }
    for (unsigned tries = 0; type_count && tries < 6; tries++) {
        unsigned i = roll(type_count);
        if (types[i].style == style) return SCALARS + (int)i;
    }
    return make(style, DEPTH);
}

static int type_of_theme(unsigned theme) {
    unsigned at = roll(100), style = 0;
    if (chance(15)) return type_like((Style)roll(STYLES));
    for (unsigned sum = themes[theme][0]; sum <= at && style + 1 < STYLES;) {
        sum += themes[theme][++style];
    }
    return type_like((Style)style);
}

static unsigned param_count(void) {
    unsigned at = roll(100);
    return at < 70 ? roll(9) : at < 90 ? 6 + roll(11) : 13 + roll(PARAMS - 12);
}

/* What C leaves of an argument without a parameter. On x86-64, gcc 12 loads what is aligned to 16
 * bytes as if it had been saved so, but it was in general registers: unions of a long double and an
 * integer, and what is over-aligned. */
static int promoted(int type) {
    if (type >= SCALARS) {
        const Aggregate *a = &types[type - SCALARS];
        bool is_wide = a->has_other && a->size == 16 && a->align == 16;
        return is_wide || a->has_aligned ? T_PTR : type;
    }
    if (type == T_F32) return T_F64;
    return type < T_S32 ? T_S32 : type;
}

static void make_signature(Signature *s) {
    unsigned theme = roll(COUNT(themes)), repeats = chance(30) ? 80 : 5; /* some have runs of one */
    s->ret = chance(12) ? VOID : type_of_theme(theme);
    s->count = s->fixed = param_count();
    for (unsigned i = 0; i < s->count; i++)
        s->params[i] = i > 0 && chance(repeats) ? s->params[i - 1] : type_of_theme(theme);
    if (s->count < 2 || !(options.kinds & VARIADIC) || !chance(20)) return;
    s->fixed = chance(50) ? 1 : 1 + roll(s->count - 1);
    /* The last that is fixed too: C wants that of va_start. */
    for (unsigned i = s->fixed - 1; i < s->count; i++) s->params[i] = promoted(s->params[i]);
}

/* ---- text ---- */

static FILE *out;
__attribute__((format(printf, 1, 2))) static void put(const char *format, ...) {
    va_list values;
    va_start(values, format);
    vfprintf(out, format, values);
    va_end(values);
}
static void begin_file(const char *suffix) {
    char name[4096];
    snprintf(name, sizeof name, "%s%s", options.prefix, suffix);
    out = fopen(name, "w");
    if (!out) die("cannot write ", name);
    const char *base = strrchr(options.prefix, '/');
    if (strcmp(suffix, ".h") != 0)
        put("#include \"%s.h\"\n#include \"check.h\"\n", base ? base + 1 : options.prefix);
}
static void end_file(void) {
    if (fclose(out)) die("cannot write ", options.prefix);
}

static void put_type(int type) {
    if (type == VOID)
        put("void");
    else if (type < SCALARS)
        put("%s", scalars[type].name);
    else
        put("T%d", type - SCALARS);
}

static void put_text(const Aggregate *a) {
    put(a->style == UNION ? "union" : "struct");
    if (a->packed == 1) put(" __attribute__((packed))");
    if (a->aligned) put(" __attribute__((aligned(%u)))", a->aligned);
    put(" { ");
    for (unsigned i = 0; i < a->count; i++) {
        put_type(a->fields[i].type);
        put(" %c", 'a' + (int)i);
        if (a->fields[i].rows) put("[%u]", a->fields[i].rows);
        if (a->fields[i].columns) put("[%u]", a->fields[i].columns);
        put("; ");
    }
    put("}");
}

static void put_types(void) {
    put("#define FFI_SEED %lluU\n", (unsigned long long)options.seed);
    if (options.is_ms) put("#define FFI_MS\n");
    if (options.is_direct) put("#define FFI_DIRECT\n");
    put("#include <stdint.h>\n");
    for (unsigned i = 0; i < type_count; i++) {
        const Aggregate *a = &types[i];
        if (a->packed > 1) put("#pragma pack(push, %u)\n", a->packed);
        put("typedef ");
        put_text(a);
        put(" T%u;\n", i);
        if (a->packed > 1) put("#pragma pack(pop)\n");
    }
}

/* ---- callees and callers ---- */

/* An integer is looked at as its function's compiler widens it. */
static bool is_int(int type) {
    return type >= T_BOOL && type <= T_U64;
}

static void put_callee(const Signature *s, unsigned number) {
    put("static ");
    put_type(s->ret);
    put(" FFI_ABI f%u(", number);
    for (unsigned i = 0; i < s->fixed; i++) {
        put(i ? ", " : "");
        put_type(s->params[i]);
        put(" p%u", i);
    }
    put(s->fixed < s->count ? ", ...) {\n" : s->count ? ") {\n" : "void) {\n");
    put("ffi_enter(%u);\n", number);
    for (unsigned i = 0; i < s->fixed; i++) put(is_int(s->params[i]) ? "INT(%u)" : "IN(%u)", i);
    if (s->fixed < s->count) put("\nFFI_LIST list; FFI_BEGIN(list, p%u);\n", s->fixed - 1);
    for (unsigned i = s->fixed; i < s->count; i++) {
        put("NEXT(%u, ", i);
        put_type(s->params[i]);
        put(")");
    }
    if (s->fixed < s->count) put(" FFI_END(list);");
    if (s->ret != VOID) {
        put("\nreturn *(");
        put_type(s->ret);
        put(" const *)ffi_result;");
    }
    put("}\n");
}

static void put_caller(const Signature *s, unsigned number) {
    put("static void FFI_ABI c%u(FfiFunction f, void *out, void *const *v) {\n", number);
    put(s->ret == VOID ? "(void)out;" : s->count ? "" : "(void)v;");
    if (s->ret == VOID && !s->count) put("(void)v;");
    if (is_int(s->ret))
        put("*(int64_t *)out = (int64_t)");
    else if (s->ret != VOID) {
        put("*(");
        put_type(s->ret);
        put(" *)out = ");
    }
    put("((");
    put_type(s->ret);
    put(" (FFI_ABI *)(");
    for (unsigned i = 0; i < s->fixed; i++) {
        put(i ? ", " : "");
        put_type(s->params[i]);
    }
    put(s->fixed < s->count ? ", ...))f)(" : s->count ? "))f)(" : "void))f)(");
    for (unsigned i = 0; i < s->count; i++) {
        put(i ? ", V(" : "V(");
        put_type(s->params[i]);
        put(", %u)", i);
    }
    put(");}\n");
}

static void put_table(const char *declaration, const char *format) {
    put("%s[] = {\n", declaration);
    for (unsigned i = 0; i < options.count; i++) put(format, i);
    put("};\n");
}

/* ---- descriptors ---- */

static void put_descriptor(const Field *field) {
    if (field->rows) put("A(");
    if (field->columns) put("A(");
    if (field->type < SCALARS)
        put("&asthra_ffi_type_%s", scalars[field->type].word);
    else
        put("&D%d", field->type - SCALARS);
    if (field->columns) put(", %u)", field->columns);
    if (field->rows) put(", %u)", field->rows);
}

static void put_shape_name(int type) {
    if (type == VOID)
        put("&S_void");
    else if (type < SCALARS)
        put("&S_%s", scalars[type].word);
    else
        put("&S%d", type - SCALARS);
}

static void put_shape(const Aggregate *a, unsigned number) {
    if (!options.is_direct) {
        put("static const AsthraFFIType *const L%u[] = {", number);
        for (unsigned i = 0; i < a->count; i++) {
            put(i ? ", " : "");
            put_descriptor(&a->fields[i]);
        }
        put("};\nstatic const AsthraFFIType D%u = {ASTHRA_FFI_%s, ", number,
            a->style == UNION ? "UNION" : "STRUCT");
        if (a->is_given)
            put("sizeof(T%u), FFI_ALIGN(T%u)", number, number);
        else
            put("0, 0");
        put(", L%u, %u};\n", number, a->count);
    }
    put("static const FfiField F%u[] = {", number);
    for (unsigned i = 0; i < a->count; i++) {
        const Field *field = &a->fields[i];
        put("%s{offsetof(T%u, %c), %u, ", i ? ", " : "", number, 'a' + (int)i,
            times(field->rows) * times(field->columns));
        put_shape_name(field->type);
        put("}");
    }
    put("};\nstatic const FfiShape S%u = {\"T%u\", \"", number, number);
    if (a->packed > 1) put("pack(%u) ", a->packed);
    put_text(a);
    put("\", TYPE(&D%u), FFI_AGGREGATE, 0, sizeof(T%u), FFI_ALIGN(T%u), %u, F%u};\n", number,
        number, number, a->count, number);
}

static void put_scalars(void) {
    put("SCALAR(void, VOID, \"void\", 0, 0, 1)\n");
    for (int i = 0; i < SCALARS; i++) {
        const char *form = is_int(i) ? "INT" : i == T_PTR ? "BITS" : "REAL";
        const char *word = scalars[i].word, *name = scalars[i].name;
        if (i >= T_CF32 && i <= T_CLDBL)
            put("COMPLEX(%s, \"%s\", %s, S_%s)\n", word, name, name, word + 1);
        else
            put("SCALAR(%s, %s, \"%s\", %d, sizeof(%s), FFI_ALIGN(%s))\n", word, form, name,
                *word == 's', name, name);
    }
}

static void put_driver(void) {
    unsigned first = 0;
    put("#include \"shape.h\"\n");
    put_scalars();
    for (unsigned i = 0; i < type_count; i++) put_shape(&types[i], i);
    put("static const FfiShape *const params[] = {\n");
    for (unsigned i = 0; i < options.count; i++) {
        for (unsigned k = 0; k < signatures[i].count; k++) {
            put_shape_name(signatures[i].params[k]);
            put(", ");
        }
        put("\n");
    }
    put("NULL};\nstatic const FfiSignature ffi_signatures[] = {\n");
    for (unsigned i = 0; i < options.count; first += signatures[i++].count) {
        put("{");
        put_shape_name(signatures[i].ret);
        put(", params + %u, %u, %u},\n", first, signatures[i].count, signatures[i].fixed);
    }
    put("};\n");
    if (!options.is_direct) {
        put("static const FfiShape *const ffi_shapes[] = {\n");
        for (unsigned i = 0; i < type_count; i++) put("&S%u, ", i);
        put("NULL};\n");
    }
    put("#include \"check.c\"\n");
}

int main(int argc, char **argv) {
    (void)argc;
    read_options(argv);
    dice = options.seed;
    signatures = calloc(options.count, sizeof *signatures);
    if (!signatures) die("out of memory", "");
    for (unsigned i = 0; i < options.count; i++) make_signature(&signatures[i]);
    begin_file(".h"), put_types(), end_file();
    begin_file("_callees.c");
    for (unsigned i = 0; i < options.count; i++) put_callee(&signatures[i], i);
    put_table("const FfiFunction ffi_callees", "(FfiFunction)f%u,\n");
    end_file();
    begin_file("_callers.c");
    for (unsigned i = 0; i < options.count; i++) put_caller(&signatures[i], i);
    put_table("FfiCaller *const ffi_callers", "c%u,\n");
    end_file();
    begin_file("_driver.c"), put_driver(), end_file();
    free(signatures);
    return 0;
}
