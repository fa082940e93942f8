/* ffi_x86_64 - plans for x86-64.                                       [ffi] body: processor
 *
 * System V ABI, x86-64 psABI 1.0, section 3.2.3: a type of at most 16 bytes is cut into eightbytes,
 * each of which goes to a general or a vector register by what scalars lie in it; what is larger,
 * or finds too few registers, or has a scalar where it should not be, goes to the stack. Long
 * doubles do too, and come back on the x87 stack. Win64, gcc's ms_abi, is in ffi_win64.c: other
 * rules, the same steps.
 */
#include "ffi_x86_64_internal.h"

#if ASTHRA_HAS_FFI && ASTHRA__CPU_X86_64

#include <string.h>

/* ---- steps, for both ABIs ---- */

static void asthra__ffi_step(Asthra__FFIBuilder *b, void (*first)(void), size_t slot) {
    asthra__ffi_emit(b, (uintptr_t)first + 32 * slot);
}

ASTHRA__FN void asthra__ffi_x_carry(Asthra__FFIBuilder *b, unsigned step) {
    asthra__ffi_step(b, asthra__ffi_carry, step);
}
ASTHRA__FN void asthra__ffi_x_general(Asthra__FFIBuilder *b, unsigned r) {
    asthra__ffi_step(b, asthra__ffi_general, 12 + r);
}
ASTHRA__FN void asthra__ffi_x_vector(Asthra__FFIBuilder *b, unsigned r) {
    asthra__ffi_step(b, asthra__ffi_vector, 16 + r);
}
ASTHRA__FN void asthra__ffi_x_stack(Asthra__FFIBuilder *b, unsigned step, size_t operand) {
    asthra__ffi_step(b, asthra__ffi_to_stack, step);
    asthra__ffi_emit(b, operand);
}

typedef struct Asthra__XRun {
    uint16_t
        one; /* the run of one, from asthra__ffi_run on; each longer one begins a slot before */
    uint8_t most, slot;
} Asthra__XRun;
static const Asthra__XRun asthra__x_runs[] = {{40, 6, 8},  {104, 6, 8},  {184, 8, 8},
                                              {280, 8, 8}, {432, 8, 16}, {592, 8, 16}};

/* The next argument, of `size` bytes, goes behind n others of its run, or begins one; false: it
 * cannot, because something is between them, or its size is another. */
static bool asthra__x_join(Asthra__FFIBuilder *b, Asthra__XWhere where, size_t n, size_t size) {
    const Asthra__XRun *run = &asthra__x_runs[where + (size == 8)];
    uintptr_t one = (uintptr_t)asthra__ffi_run + run->one;
    if ((size != 4 && size != 8) || n >= run->most) return false;
    if (n == 0) {
        asthra__ffi_emit(b, one);
        asthra__ffi_emit(b, sizeof(void *));
        return true;
    }
    if (b->count < b->plan->parameters * (size_t)ASTHRA__FFI_PLACE_WORDS + 2) return false;
    uintptr_t *last = b->words + b->count - 2;
    if (last[0] != one - run->slot * (n - 1)) return false;
    last[0] -= run->slot;
    last[1] += sizeof(void *);
    return true;
}

/* The first n bytes of the next argument, 1 to 8, into a general register. */
ASTHRA__FN void asthra__ffi_x_load_general(Asthra__FFIBuilder *b, unsigned r, size_t n) {
    if (n == 4 || n == 8) {
        asthra__ffi_step(b, asthra__ffi_general, (n == 8 ? 6 : 0) + r);
        return;
    }
    asthra__ffi_x_carry(b, (unsigned)(ASTHRA__X_FIRST + n - 1));
    asthra__ffi_x_general(b, r);
}

ASTHRA__FN void asthra__ffi_x_load_vector(Asthra__FFIBuilder *b, unsigned r, size_t n) {
    if (n == 4 || n == 8) {
        asthra__ffi_step(b, asthra__ffi_vector, (n == 8 ? 8 : 0) + r);
        return;
    }
    asthra__ffi_x_carry(b, (unsigned)(ASTHRA__X_FIRST + n - 1));
    asthra__ffi_x_vector(b, r);
}

/* An integer, widened as C does, into the carry; false: it is one of 32 or 64 bits. */
ASTHRA__FN bool asthra__ffi_x_widen(Asthra__FFIBuilder *b, AsthraFFIKind kind) {
    if (kind < ASTHRA_FFI_BOOL || kind > ASTHRA_FFI_U16) return false;
    asthra__ffi_x_carry(b, kind == ASTHRA_FFI_BOOL ? 1 : (unsigned)kind - ASTHRA_FFI_S8);
    return true;
}

/* The next argument, of n bytes, to the stack. */
ASTHRA__FN void asthra__ffi_x_load_stack(Asthra__FFIBuilder *b, AsthraFFIKind kind, size_t n,
                                         size_t offset) {
    if (asthra__ffi_x_widen(b, kind)) {
        asthra__ffi_x_stack(b, 2, offset);
    } else if (asthra__x_join(b, ASTHRA__X_ON_THE_STACK, offset / 8, n)) {
        return;
    } else if (n == 4 || n == 8) {
        asthra__ffi_x_stack(b, n == 8 ? 1 : 0, offset);
    } else if (n < 8) {
        asthra__ffi_x_carry(b, (unsigned)(ASTHRA__X_FIRST + n - 1));
        asthra__ffi_x_stack(b, 2, offset);
    } else {
        asthra__ffi_x_stack(b, n < 16 ? 3 : 4, offset);
        asthra__ffi_emit(b, n);
    }
}

/* ret, into the first register that there is. */
ASTHRA__FN void asthra__ffi_x_hidden(Asthra__FFIBuilder *b, unsigned r) {
    asthra__ffi_step(b, asthra__ffi_to_stack, 7);
    asthra__ffi_x_general(b, r);
    b->plan->result_how = ASTHRA__X_MEMORY;
}

/* The call, and what comes of it. `vectors` counts for variadic functions. */
ASTHRA__FN void asthra__ffi_x_call(Asthra__FFIBuilder *b, unsigned vectors) {
    static const uint8_t general[17] = {0,  1,  2,  11, 3,  11, 11, 11, 4,
                                        11, 11, 11, 11, 11, 11, 11, 9};
    size_t size = b->plan->result_size, step = 0;
    if (b->plan->is_variadic) asthra__ffi_x_stack(b, 5, vectors);
    switch (b->plan->result_how) {
    case ASTHRA__X_MEMORY: break;
    case ASTHRA__X_X87: step = 7; break;
    case ASTHRA__X_X87_PAIR: step = 8; break;
    case ASTHRA__X_II: step = general[size]; break;
    case ASTHRA__X_IV: step = 12; break;
    case ASTHRA__X_VI: step = 13; break;
    default: step = size == 4 ? 5 : size == 8 ? 6 : size == 16 ? 10 : 14; /* ASTHRA__X_VV */
    }
    asthra__ffi_step(b, asthra__ffi_result, step);
    if (step > 10) asthra__ffi_emit(b, size);
}

/* What is aligned more strictly than the stack is comes first of all. */
static void asthra__ffi_x_end(Asthra__FFIBuilder *b) {
    size_t first = (size_t)b->plan->parameters * ASTHRA__FFI_PLACE_WORDS;
    b->plan->stack_bytes = (uint32_t)(((b->stack + b->behind + 15) & ~(size_t)15) + 8);
    if (b->stack_align <= 16) return;
    asthra__ffi_emit(b, 0);
    asthra__ffi_emit(b, 0);
    if (b->is_out_of_memory) return;
    memmove(b->words + first + 2, b->words + first, (b->count - first - 2) * sizeof *b->words);
    b->words[first] = (uintptr_t)asthra__ffi_to_stack + 32 * 8;
    b->words[first + 1] = ~(uintptr_t)(b->stack_align - 1);
}

/* ---- System V ---- */

typedef enum Asthra__XClass {
    ASTHRA__X_NONE,
    ASTHRA__X_INTEGER,
    ASTHRA__X_SSE,
    ASTHRA__X_X87_CLASS,
    ASTHRA__X_X87_UP,
    ASTHRA__X_ON_STACK
} Asthra__XClass;

typedef struct Asthra__XClasses {
    size_t base;          /* where it lies in the argument */
    Asthra__XClass of[2]; /* of the argument's eightbytes */
} Asthra__XClasses;

/* psABI, "classification", 4: of two fields in one eightbyte. */
static Asthra__XClass asthra__x_merge(Asthra__XClass a, Asthra__XClass b) {
    if (a == b || b == ASTHRA__X_NONE) return a;
    if (a == ASTHRA__X_NONE) return b;
    if (a == ASTHRA__X_ON_STACK || b == ASTHRA__X_ON_STACK) return ASTHRA__X_ON_STACK;
    if (a == ASTHRA__X_INTEGER || b == ASTHRA__X_INTEGER) return ASTHRA__X_INTEGER;
    if (a == ASTHRA__X_SSE && b == ASTHRA__X_SSE) return ASTHRA__X_SSE;
    return ASTHRA__X_ON_STACK;
}

/* A scalar, which on the whole takes one eightbyte or two. */
static void asthra__x_classify_scalar(AsthraFFIKind kind, Asthra__XClasses *c) {
    const AsthraFFIType t = {kind, 0, 0, NULL, 0};
    Asthra__FFIShape shape;
    Asthra__XClass low = asthra__ffi_is_integer(kind) ? ASTHRA__X_INTEGER
                         : kind == ASTHRA_FFI_LDBL    ? ASTHRA__X_X87_CLASS
                         : kind == ASTHRA_FFI_CLDBL   ? ASTHRA__X_ON_STACK
                                                      : ASTHRA__X_SSE;
    (void)asthra__ffi_measure(&t, &shape);
    c->of[(c->base + shape.size - 1) / 8] = low == ASTHRA__X_X87_CLASS ? ASTHRA__X_X87_UP : low;
    c->of[c->base / 8] = c->base % shape.align != 0 ? ASTHRA__X_ON_STACK : low;
}

/* psABI, "classification", 5, of each block by itself, before it is part of another. */
static void asthra__x_clean_up(Asthra__XClasses *c) {
    bool is_up_alone = c->of[1] == ASTHRA__X_X87_UP && c->of[0] != ASTHRA__X_X87_CLASS;
    if (c->of[1] == ASTHRA__X_ON_STACK || is_up_alone) c->of[0] = ASTHRA__X_ON_STACK;
}

static bool asthra__x_classify_at(const AsthraFFIType *t, size_t at, void *whole) {
    Asthra__XClasses *w = whole, c = {w->base + at, {ASTHRA__X_NONE, ASTHRA__X_NONE}};
    if (!asthra__ffi_is_block(t->kind))
        asthra__x_classify_scalar(t->kind, &c);
    else
        asthra__ffi_fields(t, asthra__x_classify_at, &c);
    asthra__x_clean_up(&c);
    w->of[0] = asthra__x_merge(w->of[0], c.of[0]);
    w->of[1] = asthra__x_merge(w->of[1], c.of[1]);
    return w->of[0] != ASTHRA__X_ON_STACK;
}

static Asthra__XClasses asthra__x_classify(const AsthraFFIType *t, size_t size) {
    Asthra__XClasses c = {0, {ASTHRA__X_NONE, ASTHRA__X_NONE}};
    if (size > 16)
        c.of[0] = ASTHRA__X_ON_STACK;
    else
        asthra__x_classify_at(t, 0, &c);
    return c;
}

static uint8_t asthra__x_result_how(const AsthraFFIType *t, size_t size) {
    if (asthra__ffi_is_integer(t->kind)) return ASTHRA__X_II; /* most of them */
    if (asthra__ffi_x_is_real(t->kind)) return ASTHRA__X_VV;
    if (t->kind == ASTHRA_FFI_CLDBL) return ASTHRA__X_X87_PAIR;
    Asthra__XClasses c = asthra__x_classify(t, size);
    if (c.of[0] == ASTHRA__X_ON_STACK) return ASTHRA__X_MEMORY;
    if (c.of[0] == ASTHRA__X_X87_CLASS) return ASTHRA__X_X87;
    if (c.of[0] == ASTHRA__X_SSE) return c.of[1] == ASTHRA__X_INTEGER ? ASTHRA__X_VI : ASTHRA__X_VV;
    return c.of[1] == ASTHRA__X_SSE ? ASTHRA__X_IV : ASTHRA__X_II;
}

static const char *asthra__x_begin(Asthra__FFIBuilder *b, const AsthraFFIType *result,
                                   size_t size) {
    b->plan->result_how = ASTHRA__X_II;
    if (result == NULL) return NULL;
    b->plan->result_how = asthra__x_result_how(result, size);
    if (b->plan->result_how == ASTHRA__X_MEMORY) asthra__ffi_x_hidden(b, b->ints++);
    return NULL;
}

static uint32_t asthra__x_place_of(Asthra__XClass class, unsigned r) {
    return class == ASTHRA__X_SSE ? ASTHRA__X_FRAME_VECTORS + 8 * r : 8 * r;
}

/* The eightbytes of a type that has registers. */
static void asthra__x_add_registers(Asthra__FFIBuilder *b, const Asthra__XClasses *c,
                                    Asthra__FFIShape shape, Asthra__FFIPlace *place) {
    unsigned r = c->of[0] == ASTHRA__X_SSE ? b->floats++ : b->ints++;
    size_t n = shape.size < 8 ? shape.size : 8;
    place->offset = asthra__x_place_of(c->of[0], r);
    if (c->of[0] == ASTHRA__X_SSE)
        asthra__ffi_x_load_vector(b, r, n);
    else
        asthra__ffi_x_load_general(b, r, n);
    unsigned first = r;
    if (c->of[1] != ASTHRA__X_NONE) {
        r = c->of[1] == ASTHRA__X_SSE ? b->floats++ : b->ints++;
        asthra__ffi_x_carry(b, (unsigned)(ASTHRA__X_REST + shape.size - 9));
        if (c->of[1] == ASTHRA__X_SSE)
            asthra__ffi_x_vector(b, r);
        else
            asthra__ffi_x_general(b, r);
    }
    bool is_aligned = shape.align <= 8 || place->offset % 16 == 0;
    bool is_whole = c->of[0] == c->of[1] && r == first + 1; /* side by side in the frame, too */
    if (shape.size <= 8 || (is_whole && is_aligned)) return;
    place->how = ASTHRA__FFI_SCATTERED;
    place->second = (uint16_t)asthra__x_place_of(c->of[1], r);
    place->split = 8;
}

static void asthra__x_add(Asthra__FFIBuilder *b, const AsthraFFIType *t, Asthra__FFIShape shape,
                          Asthra__FFIPlace *place) {
    if (asthra__ffi_is_integer(t->kind) && b->ints < 6) { /* most of them */
        place->offset = 8 * b->ints;
        if (asthra__ffi_x_widen(b, t->kind))
            asthra__ffi_x_general(b, b->ints);
        else if (!asthra__x_join(b, ASTHRA__X_IN_GENERAL, b->ints, shape.size))
            asthra__ffi_x_load_general(b, b->ints, shape.size);
        b->ints++;
        return;
    }
    if (asthra__ffi_x_is_real(t->kind) && b->floats < 8) {
        place->offset = ASTHRA__X_FRAME_VECTORS + 8 * b->floats;
        if (!asthra__x_join(b, ASTHRA__X_IN_VECTORS, b->floats, shape.size))
            asthra__ffi_x_load_vector(b, b->floats, shape.size);
        b->floats++;
        return;
    }
    Asthra__XClasses c = asthra__x_classify(t, shape.size);
    bool is_on_stack = c.of[0] == ASTHRA__X_ON_STACK || c.of[0] == ASTHRA__X_X87_CLASS;
    unsigned ints = (unsigned)(c.of[0] == ASTHRA__X_INTEGER) + (c.of[1] == ASTHRA__X_INTEGER);
    unsigned floats = (unsigned)(c.of[0] == ASTHRA__X_SSE) + (c.of[1] == ASTHRA__X_SSE);
    if (!is_on_stack && b->ints + ints <= 6 && b->floats + floats <= 8) {
        asthra__x_add_registers(b, &c, shape, place);
        return;
    }
    size_t at =
        asthra__ffi_stack(b, (shape.size + 7) & ~(size_t)7, shape.align < 8 ? 8 : shape.align);
    asthra__ffi_x_load_stack(b, t->kind, shape.size, at);
    place->offset = (uint32_t)(ASTHRA__X_FRAME_STACK + at);
}

/* ---- which of the two ---- */

ASTHRA__FN const char *asthra__ffi_begin(Asthra__FFIBuilder *b, const AsthraFFIType *result,
                                         Asthra__FFIShape shape) {
    if (b->abi == ASTHRA_FFI_ABI_WIN64) return asthra__ffi_win64_begin(b, result, shape);
    return asthra__x_begin(b, result, shape.size);
}

ASTHRA__FN const char *asthra__ffi_add(Asthra__FFIBuilder *b, const AsthraFFIType *t,
                                       Asthra__FFIShape shape, Asthra__FFIPlace *place) {
    if (b->abi == ASTHRA_FFI_ABI_WIN64) return asthra__ffi_win64_add(b, t, shape, place);
    asthra__x_add(b, t, shape, place);
    return NULL;
}

ASTHRA__FN void asthra__ffi_end(Asthra__FFIBuilder *b) {
    b->plan->has_vectors = b->floats != 0;
    if (b->abi == ASTHRA_FFI_ABI_WIN64)
        asthra__ffi_win64_end(b);
    else
        asthra__ffi_x_call(b, b->floats);
    asthra__ffi_x_end(b);
}

#endif
