/* check - runs what generate.c wrote; the end of its driver unit, after the tables.
 *
 *     PROGRAM          checks all signatures; the last line is "ffi: N passed, N failed"
 *     PROGRAM NUMBER   checks this one
 *
 * Of each signature, first with the program's own callers, which shows whether the two compilers
 * agree, then through the runtime:
 *
 *     direct    caller -> callee
 *     call      asthra_ffi_invoke -> callee, with a place for the result and without
 *     closure   caller -> closure -> handler
 *
 * And of each type, that asthra_ffi_layout is of the compiler's opinion.
 *
 * Every value lies at the end of a page, the next one unmapped, so that a byte too many is a fault;
 * what lies before it, and in its padding, is random. A fault is a failure of that signature.
 */
#include <float.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "keep.c"

enum { FFI_PARAMS = 64, FFI_SLOTS = FFI_PARAMS + 2, FFI_BEFORE = 64, FFI_SHOWN = 5 };
enum { FFI_RETURN = FFI_PARAMS, FFI_ARGS }; /* slots after those of the parameters */

const void *ffi_result;

/* The one that is being checked. */
static struct {
    unsigned number;
    const FfiSignature *signature;
    const char *way;
    unsigned entered, seen;
    bool is_failed;
    char *page[FFI_SLOTS];      /* one page, the next one unmapped */
    char *expected[FFI_SLOTS];  /* value of a parameter, or result */
    char *copy[FFI_SLOTS];      /* of the page, before the call */
    void *args[FFI_PARAMS + 1]; /* where the values are, at the ends of their pages */
    sigjmp_buf fault;
} now;
static unsigned ffi_passed, ffi_failed;
static size_t ffi_page;
static uint64_t ffi_dice;

static uint64_t roll(void) { /* splitmix64 */
    uint64_t x = ffi_dice += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* ---- what is said about failures ---- */

static void show_type(const FfiShape *shape, const FfiShape **shown, unsigned *count) {
    if (shape->form != FFI_AGGREGATE) return;
    for (unsigned i = 0; i < *count; i++)
        if (shown[i] == shape) return;
    if (*count < 256) shown[(*count)++] = shape;
    for (size_t i = 0; i < shape->count; i++) show_type(shape->fields[i].shape, shown, count);
    printf("     %s: %s, %u bytes\n", shape->name, shape->text, (unsigned)shape->size);
}

static void show_signature(const FfiSignature *s) {
    const FfiShape *shown[256];
    unsigned count = 0;
    printf("     %s f%u(", s->ret->name, now.number);
    for (unsigned i = 0; i < s->count; i++)
        printf("%s%s%s", i ? ", " : "", i == s->fixed ? "..., " : "", s->params[i]->name);
    puts(s->count ? ")" : "void)");
    show_type(s->ret, shown, &count);
    for (unsigned i = 0; i < s->count; i++) show_type(s->params[i], shown, &count);
}

/* True if details should follow: of the first few. */
static bool fail(const char *what) {
    bool is_first = !now.is_failed;
    if (is_first) ffi_failed++;
    now.is_failed = true;
    if (ffi_failed > FFI_SHOWN * 10 || (ffi_failed > FFI_SHOWN && !is_first)) return false;
    printf("FAIL %s of signature %u, seed %llu: %s\n", now.way, now.number,
           (unsigned long long)FFI_SEED, what);
    if (is_first && now.signature && ffi_failed <= FFI_SHOWN) show_signature(now.signature);
    fflush(stdout);
    return ffi_failed <= FFI_SHOWN;
}

static bool fail_param(unsigned param, const char *what) {
    char text[96];
    snprintf(text, sizeof text, "parameter %u, %s, %s", param, now.signature->params[param]->name,
             what);
    return fail(text);
}

static void show_bytes(const char *word, const void *bytes, size_t size) {
    const unsigned char *at = bytes;
    printf("     %s", word);
    for (size_t i = 0; i < size; i++) printf("%s%02x", i % 4 ? "" : " ", at[i]);
    putchar('\n');
}

static void fail_value(unsigned slot, const void *found, const void *expected, size_t size) {
    bool shows =
        slot == FFI_RETURN ? fail("the result is another") : fail_param(slot, "is another");
    if (!shows) return;
    show_bytes("expected", expected, size);
    show_bytes("found   ", found, size);
    fflush(stdout);
}

/* ---- values ---- */

static size_t significant(const FfiShape *shape) { /* bytes of a real */
    return shape->size >= 10 && LDBL_MANT_DIG == 64 ? 10 : shape->size;
}

/* A finite number, neither zero nor subnormal: the x87 changes what signals. */
static void fill_real(char *to, size_t size) {
    uint64_t bits = roll(), lower = roll();
    if (size == 4) {
        uint32_t narrow = (uint32_t)bits | UINT32_C(1) << 29;
        narrow &= ~(UINT32_C(1) << 30);
        memcpy(to, &narrow, sizeof narrow);
    } else if (size == 8) {
        bits = (bits | UINT64_C(1) << 61) & ~(UINT64_C(1) << 62);
        memcpy(to, &bits, sizeof bits);
    } else {
        long double value = (long double)bits + (long double)(lower | 1) * 0x1p-64L;
        if (lower & 2) value = -value;
        memcpy(to, &value, size < sizeof value ? size : sizeof value);
    }
}

static void fill(const FfiShape *shape, char *to) {
    uint64_t bits = roll();
    switch (shape->form) {
    case FFI_VOID: break;
    case FFI_INT:
    case FFI_BITS:
        if (!strcmp(shape->name, "_Bool")) bits &= 1;
        for (size_t i = 0; i < shape->size; i++) to[i] = (char)(bits >> 8 * i);
        break;
    case FFI_REAL: fill_real(to, significant(shape)); break;
    case FFI_COMPLEX:
    case FFI_AGGREGATE:
        for (size_t i = 0; i < shape->count; i++)
            for (size_t n = 0; n < shape->fields[i].count; n++)
                fill(shape->fields[i].shape,
                     to + shape->fields[i].offset + n * shape->fields[i].shape->size);
    }
}

static bool same(const FfiShape *shape, const char *a, const char *b) {
    if (shape->form == FFI_REAL) return memcmp(a, b, significant(shape)) == 0;
    if (!shape->fields) return memcmp(a, b, shape->size) == 0;
    for (size_t i = 0; i < shape->count; i++)
        for (size_t n = 0; n < shape->fields[i].count; n++) {
            const FfiField *field = &shape->fields[i];
            size_t at = field->offset + n * field->shape->size;
            if (!same(field->shape, a + at, b + at)) return false;
        }
    return true;
}

static int64_t widened(const FfiShape *shape, const char *value) {
    uint64_t bits = 0;
    for (size_t i = 0; i < shape->size; i++) bits |= (uint64_t)(unsigned char)value[i] << 8 * i;
    unsigned unused = 64 - 8 * (unsigned)shape->size;
    if (shape->is_signed) return (int64_t)(bits << unused) >> unused;
    return (int64_t)bits;
}

/* ---- what callees say ---- */

/* A compiler takes the stack to be aligned and does not look; so its opinion is hidden from it. */
static bool __attribute__((noinline)) stack_is_aligned(void) {
    _Alignas(__BIGGEST_ALIGNMENT__) char local = 0;
    char *at = &local;
    __asm__ volatile("" : "+r"(at)::"memory");
    return (uintptr_t)at % __BIGGEST_ALIGNMENT__ == 0;
}

void FFI_ABI ffi_enter(unsigned signature) {
    if (signature != now.number) fail("another function was called");
    if (!stack_is_aligned()) fail("the stack is not aligned");
    now.entered++;
}

void FFI_ABI ffi_seen(unsigned param, void *value) {
    const FfiShape *shape = now.signature->params[param];
    if (!same(shape, value, now.expected[param]))
        fail_value(param, value, now.expected[param], shape->size);
    memset(value, 0x5a, shape->size);
    now.seen++;
}

void FFI_ABI ffi_seen_int(unsigned param, int64_t value) {
    int64_t expected = widened(now.signature->params[param], now.expected[param]);
    if (value != expected) fail_value(param, &value, &expected, sizeof value);
    now.seen++;
}

/* ---- before and after ---- */

static void make_pages(void) {
    ffi_page = (size_t)sysconf(_SC_PAGESIZE);
    char *at = mmap(NULL, 2 * FFI_SLOTS * ffi_page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) abort();
    for (unsigned i = 0; i < FFI_SLOTS; i++, at += 2 * ffi_page) {
        if (mprotect(at, ffi_page, PROT_READ | PROT_WRITE)) abort();
        now.page[i] = at;
        now.expected[i] = malloc(ffi_page);
        now.copy[i] = malloc(ffi_page);
        if (!now.expected[i] || !now.copy[i]) abort();
    }
}

/* A place of `size` bytes in a slot: all that is before the end of its page. */
static char *place(unsigned slot, size_t size) {
    char *end = now.page[slot] + ffi_page;
    for (size_t i = 1; i <= size + FFI_BEFORE; i++) end[-(ptrdiff_t)i] = (char)roll();
    return end - size;
}
static void keep(unsigned slot, size_t size) {
    size += FFI_BEFORE;
    memcpy(now.copy[slot], now.page[slot] + ffi_page - size, size);
}
static bool is_kept(unsigned slot, size_t size) {
    size += FFI_BEFORE;
    return memcmp(now.copy[slot], now.page[slot] + ffi_page - size, size) == 0;
}

/* Values of a signature are the same each time, whatever was checked before. */
static void make_values(void) {
    const FfiSignature *s = now.signature;
    ffi_dice = (uint64_t)FFI_SEED * 1000003 + now.number;
    for (unsigned i = 0; i < s->count; i++) {
        now.args[i] = place(i, s->params[i]->size);
        fill(s->params[i], now.args[i]);
        memcpy(now.expected[i], now.args[i], s->params[i]->size);
        keep(i, s->params[i]->size);
    }
    fill(s->ret, now.expected[FFI_RETURN]);
    ffi_result = now.expected[FFI_RETURN];
    size_t size = s->count * sizeof(void *);
    memcpy(place(FFI_ARGS, size), now.args, size);
    keep(FFI_ARGS, size);
}

static void begin(const char *way) {
    now.way = way;
    now.entered = now.seen = 0;
    now.is_failed = false;
}

#if defined(__i386__) || defined(__x86_64__)
/* Whoever leaves something on the x87's stack is found out eight calls later, by others. */
static bool x87_is_empty(void) {
    struct {
        uint16_t control, a, status, b, tags, c, rest[8];
    } state;
    __asm__ volatile("fnstenv %0\n\tfldcw %0" : "=m"(state));
    return state.tags == 0xffff;
}
#else
static bool x87_is_empty(void) {
    return true;
}
#endif

static void end(unsigned calls) {
    const FfiSignature *s = now.signature;
    if (!x87_is_empty()) {
        fail("the x87's stack is not empty");
#if defined(__i386__) || defined(__x86_64__)
        __asm__ volatile("fninit");
#endif
    }
    if (now.entered != calls)
        fail("the function was not called, or more than once");
    else if (now.seen != calls * s->count)
        fail("not all parameters were seen");
    for (unsigned i = 0; i < s->count; i++)
        if (!is_kept(i, s->params[i]->size)) fail_param(i, "had its value written to");
    if (!is_kept(FFI_ARGS, s->count * sizeof(void *))) fail("the array of arguments was written");
    if (!now.is_failed) ffi_passed++;
}

/* Where a result of `size` bytes goes, and what is said about it then. */
static char *begin_result(size_t size) {
    char *out = place(FFI_RETURN, size);
    keep(FFI_RETURN, size);
    return out;
}
static void end_result(const char *out, size_t size) {
    const FfiShape *ret = now.signature->ret;
    if (memcmp(now.copy[FFI_RETURN], out - FFI_BEFORE, FFI_BEFORE) != 0)
        fail("bytes before the result were written");
    if (ret->form == FFI_INT && size == sizeof(int64_t) && ret->size < size) {
        int64_t expected = widened(ret, now.expected[FFI_RETURN]);
        if (memcmp(out, &expected, size) != 0) fail_value(FFI_RETURN, out, &expected, size);
    } else if (!same(ret, out, now.expected[FFI_RETURN]))
        fail_value(FFI_RETURN, out, now.expected[FFI_RETURN], ret->size);
}
/* Of a caller that widens integers. */
static size_t out_size(void) {
    const FfiShape *ret = now.signature->ret;
    return ret->form == FFI_INT ? sizeof(int64_t) : ret->size;
}

static void call(FfiCaller *caller, FfiFunction function, void *out) {
    const char *end = now.page[FFI_ARGS] + ffi_page;
    void *const *args = (void *const *)(const void *)end - now.signature->count;
    if (!call_keeping(caller, function, out, args)) fail("registers that a call preserves changed");
}

static void check_direct(void) {
    size_t size = out_size();
    char *out = begin_result(size);
    call(ffi_callers[now.number], ffi_callees[now.number], out);
    end_result(out, size);
    end(1);
}

/* ---- through the runtime ---- */

#ifndef FFI_DIRECT
static AsthraFFIAbi abi(void) { /* what is the default has a name too */
#ifdef FFI_MS
    return ASTHRA_FFI_ABI_WIN64;
#elif defined(__x86_64__)
    return now.number % 3 ? ASTHRA_FFI_ABI_DEFAULT : ASTHRA_FFI_ABI_SYSV64;
#else
    return ASTHRA_FFI_ABI_DEFAULT;
#endif
}

static const AsthraFFICall *ffi_call; /* the one that is being invoked */

static bool is_good(AsthraResult result, const char *what) {
    if (!result.status) return true;
    char text[320];
    snprintf(text, sizeof text, "%s: %s", what, asthra_result_message(result));
    fail(text);
    return false;
}

/* A prepared call, moved to a block of exactly its size; the list that it was made of is gone. */
static AsthraFFICall *prepare(FfiFunction function) {
    const FfiSignature *s = now.signature;
    const AsthraFFIType *list[FFI_PARAMS + 1];
    AsthraFFICall call, *moved = malloc(sizeof call);
    for (unsigned i = 0; i < s->count; i++) list[i] = s->params[i]->type;
    memset(&call, 0xee, sizeof call);
    const AsthraFFIType *ret = s->ret->size || now.number % 2 ? s->ret->type : NULL;
    AsthraResult result =
        asthra_ffi_prepare_abi(&call, abi(), ASTHRA_FN(function), ret, list, s->count, s->fixed);
    memset(list, 0, sizeof list);
    if (!moved || !is_good(result, "refused")) {
        free(moved);
        return NULL;
    }
    memcpy(moved, &call, sizeof call);
    memset(&call, 0, sizeof call);
    return moved;
}

static void FFI_ABI invoke(FfiFunction function, void *out, void *const *v) {
    (void)function;
    asthra_ffi_invoke(ffi_call, out, v);
}

static void check_call(void) {
    AsthraFFICall *prepared = prepare(ffi_callees[now.number]);
    if (!prepared) return;
    size_t size = now.signature->ret->size;
    char *out = begin_result(size);
    ffi_call = prepared;
    call(invoke, NULL, out);
    end_result(out, size);
    call(invoke, NULL, NULL);
    end(2);
    asthra_ffi_release(prepared);
    asthra_ffi_release(prepared);
    free(prepared);
}

/* Closures live on for a while, so that they are not all the same stub. */
typedef struct FfiBound {
    AsthraFFICall *call;
    AsthraFFIClosure *closure;
    unsigned number;
} FfiBound;
static FfiBound ffi_bound[300];

/* What a handler may do: write the result early or late, and to the arguments as to parameters. */
static void handle(const AsthraFFICall *sig, void *ret, void **args, void *user) {
    const FfiBound *bound = user;
    const FfiSignature *s = now.signature;
    bool is_early = now.number % 2 == 0;
    if (sig != bound->call) fail("the handler got another signature");
    ffi_enter(bound->number);
    if (!s->ret->size && ret) fail("a place for no result");
    if (is_early && s->ret->size) memcpy(ret, ffi_result, s->ret->size);
    for (unsigned i = 0; i < s->count; i++) {
        size_t align = s->params[i]->align;
        if (align > __BIGGEST_ALIGNMENT__) align = __BIGGEST_ALIGNMENT__; /* no stack has more */
        if ((uintptr_t)args[i] % align != 0) fail_param(i, "is not aligned");
        ffi_seen(i, args[i]);
    }
    if (!is_early && s->ret->size) memcpy(ret, ffi_result, s->ret->size);
}

static void unbind(FfiBound *bound) {
    asthra_ffi_closure_destroy(bound->closure);
    asthra_ffi_release(bound->call);
    free(bound->call);
    memset(bound, 0, sizeof *bound);
}

static void check_closure(void) {
    FfiBound *bound = &ffi_bound[now.number % (sizeof ffi_bound / sizeof *ffi_bound)];
    void *code = NULL;
    unbind(bound);
    bound->number = now.number;
    bound->call = prepare(NULL);
    if (!bound->call ||
        !is_good(asthra_ffi_closure_create(&bound->closure, &code, bound->call, handle, bound),
                 "no closure"))
        return;
    size_t size = out_size();
    char *out = begin_result(size);
    call(ffi_callers[now.number], (FfiFunction)(uintptr_t)code, out);
    end_result(out, size);
    end(1);
}

static const FfiShape *const *ffi_shape; /* the one whose layout is being checked */

static void check_layout(void) {
    const FfiShape *shape = *ffi_shape;
    size_t size = 0, align = 0, offsets[64] = {0};
    if (!is_good(asthra_ffi_layout(shape->type, &size, &align, offsets), shape->name)) return;
    bool is_same = size == shape->size && align == shape->align;
    for (size_t i = 0; i < shape->count; i++) is_same &= offsets[i] == shape->fields[i].offset;
    if (is_same)
        ffi_passed++;
    else if (fail(shape->text)) {
        printf("     expected: size %u, align %u,", (unsigned)shape->size, (unsigned)shape->align);
        for (size_t i = 0; i < shape->count; i++) printf(" %u", (unsigned)shape->fields[i].offset);
        printf("\n     found:    size %u, align %u,", (unsigned)size, (unsigned)align);
        for (size_t i = 0; i < shape->count; i++) printf(" %u", (unsigned)offsets[i]);
        putchar('\n');
        fflush(stdout);
    }
}
#endif

/* ---- all of them ---- */

static void on_fault(int number) {
    siglongjmp(now.fault, number);
}

static void catch_faults(void) {
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGALRM};
    static char stack[65536];
    const stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_ONSTACK | SA_NODEFER};
    sigaltstack(&other, NULL);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaction(signals[i], &action, NULL);
}

static void check(const char *way, void (*body)(void)) {
    begin(way);
    if (now.signature) make_values();
    alarm(60);
    int number = sigsetjmp(now.fault, 1);
    if (!number) body();
    alarm(0);
    if (!number) return;
    char what[32];
    snprintf(what, sizeof what, "signal %d", number);
    fail(what);
}

static void check_signature(unsigned number) {
    now.number = number;
    now.signature = &ffi_signatures[number];
    check("direct", check_direct);
#ifndef FFI_DIRECT
    check("call", check_call);
    check("closure", check_closure);
#endif
}

/* A sanitizer's last word. */
void __asan_on_error(void);
void __asan_on_error(void) {
    fail("AddressSanitizer has found something");
}

int main(int argc, char **argv) {
    unsigned count = sizeof ffi_signatures / sizeof *ffi_signatures;
    unsigned only = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : count;
    make_pages();
    catch_faults();
    for (unsigned i = 0; i < FFI_WORDS; i++) ffi_words[i] = (uintptr_t)roll();
    for (unsigned i = 0; i < FFI_REALS; i++) ffi_reals[i] = (double)roll();
#ifndef FFI_DIRECT
    for (ffi_shape = ffi_shapes; *ffi_shape; ffi_shape++) check("layout", check_layout);
#endif
    for (unsigned i = 0; i < count; i++)
        if (only == count || only == i) check_signature(i);
#ifndef FFI_DIRECT
    for (size_t i = 0; i < sizeof ffi_bound / sizeof *ffi_bound; i++) unbind(&ffi_bound[i]);
#endif
    printf("ffi: %u passed, %u failed\n", ffi_passed, ffi_failed);
    return ffi_failed != 0;
}
