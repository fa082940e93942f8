/* ffi_riscv64 - plans for RISC-V 64, LP64D.                               [ffi] body: processor
 *
 * RISC-V ELF psABI, "Procedure Calling Convention". A float, or a struct that comes to one or two
 * scalars of which one at least is a float, goes to fa0 to fa7 and, for an integer in it, a0 to a7;
 * where these do not suffice, and as variadic argument, it is passed as anything else: in one or
 * two words in a0 to a7 or on the stack, the first perhaps in a7 and the second on the stack; what
 * is larger, by the address of a copy that the caller makes. A result is where a first argument
 * would be; of one that would be copied the caller gives the address first. Compilers agree that a
 * pointer is no integer there, and that unions come to nothing.
 */
#include "ffi_riscv64_internal.h"

#if ASTHRA_HAS_FFI && ASTHRA__CPU_RISCV64

static void asthra__ffi_step(Asthra__FFIBuilder *b, void (*first)(void), size_t slot) {
    asthra__ffi_emit(b, (uintptr_t)first + 32 * slot);
}

/* ---- what a type is ---- */

/* The scalars that a type comes to. */
typedef struct Asthra__RParts {
    size_t base; /* of the block at hand */
    AsthraFFIKind kind[2];
    size_t offset[2];
    unsigned count, floats;
} Asthra__RParts;

static bool asthra__r_add_scalar(Asthra__RParts *p, AsthraFFIKind of, size_t at) {
    AsthraFFIKind kind = of == ASTHRA_FFI_CF32   ? ASTHRA_FFI_F32
                         : of == ASTHRA_FFI_CF64 ? ASTHRA_FFI_F64
                                                 : of;
    unsigned parts = kind != of ? 2 : 1;
    size_t size = asthra__ffi_size_of(of) / parts;
    if (size > 8 || kind == ASTHRA_FFI_PTR || p->count + parts > 2) return false;
    for (unsigned i = 0; i < parts; i++, p->count++) {
        p->kind[p->count] = kind;
        p->offset[p->count] = at + i * size;
        p->floats += asthra__r_is_float(kind);
    }
    return true;
}

/* False: too many, or one of no register, or a union. */
static bool asthra__r_look(const AsthraFFIType *t, size_t at, void *parts) {
    Asthra__RParts *p = parts;
    if (!asthra__ffi_is_block(t->kind)) return asthra__r_add_scalar(p, t->kind, p->base + at);
    p->base += at;
    bool is_good = t->kind != ASTHRA_FFI_UNION && asthra__ffi_fields(t, asthra__r_look, p);
    p->base -= at;
    return is_good;
}

/* "Hardware Floating-point Calling Convention": floats, or none and the rest is void. */
static Asthra__RParts asthra__r_parts(const AsthraFFIType *t) {
    Asthra__RParts p = {0, {ASTHRA_FFI_VOID, ASTHRA_FFI_VOID}, {0, 0}, 0, 0};
    if (!asthra__ffi_is_integer(t->kind) && !asthra__r_look(t, 0, &p)) p.floats = 0;
    return p;
}

/* On the stack: no less than a word, no more than the stack itself. */
static size_t asthra__r_alignment(const AsthraFFIType *t, Asthra__FFIShape shape) {
    bool is_strict = asthra__ffi_is_block(t->kind)
                         ? shape.align >= 16
                         : t->kind == ASTHRA_FFI_LDBL || t->kind == ASTHRA_FFI_CLDBL;
    return is_strict ? 16 : 8;
}

/* How n bytes that lie at a multiple of `align` are loaded at once; -1: they cannot be. */
static int asthra__r_form_of(size_t n, size_t align) {
    if (n > align) return -1;
    return n == 8 ? ASTHRA__R_64 : n == 4 ? ASTHRA__R_32 : n == 2 ? 3 : n == 1 ? 1 : -1;
}

/* Integers are widened as C does it, and those of 32 bits always with a sign. */
static int asthra__r_form(AsthraFFIKind kind, Asthra__FFIShape shape) {
    if (kind == ASTHRA_FFI_S8) return 0;
    if (kind == ASTHRA_FFI_S16) return 2;
    if (asthra__ffi_is_integer(kind) || asthra__r_is_float(kind))
        return asthra__r_form_of(shape.size, 8);
    return asthra__r_form_of(shape.size, shape.align);
}

/* ---- steps ---- */

/* n bytes of the argument just read into the carry. */
static void asthra__r_carry(Asthra__FFIBuilder *b, size_t offset, size_t n, size_t align) {
    int form = asthra__r_form_of(n, align);
    if (form < 0) form = n == 8 && align == 4 ? ASTHRA__R_HALVES : ASTHRA__R_BYTES;
    asthra__ffi_step(b, asthra__ffi_carry, (size_t)form);
    asthra__ffi_emit(b, offset);
    if (form == ASTHRA__R_BYTES) asthra__ffi_emit(b, n);
}

/* The carry to where the next word of an argument goes. */
static void asthra__r_put(Asthra__FFIBuilder *b) {
    if (b->ints < 8) {
        asthra__ffi_step(b, asthra__ffi_general, 8 * (size_t)ASTHRA__R_MOVE + b->ints++);
    } else {
        asthra__ffi_step(b, asthra__ffi_to_stack, ASTHRA__R_PUSH_CARRY);
        b->stack += 8;
    }
}

/* Where the next argument that goes to words begins, in the frame of a closure. */
static uint32_t asthra__r_place(Asthra__FFIBuilder *b, size_t align) {
    if (b->ints < 8) return ASTHRA__R_FRAME_GENERAL + 8 * b->ints;
    size_t last = b->stack, at = asthra__ffi_stack(b, 0, align);
    for (; last < at; last += 8) asthra__ffi_step(b, asthra__ffi_to_stack, ASTHRA__R_PUSH_NOTHING);
    return (uint32_t)(ASTHRA__R_FRAME_STACK + at);
}

/* The next argument, of at most 16 bytes, as words. */
static void asthra__r_put_words(Asthra__FFIBuilder *b, AsthraFFIKind kind, Asthra__FFIShape shape) {
    int form = asthra__r_form(kind, shape);
    bool is_pair = shape.size == 16 && shape.align >= 8;
    if (b->ints == 8 && (form >= 0 || is_pair)) {
        asthra__ffi_step(b, asthra__ffi_to_stack, is_pair ? ASTHRA__R_PUSH_PAIR : (size_t)form);
        b->stack += is_pair ? 16 : 8;
    } else if (form >= 0) {
        asthra__ffi_step(b, asthra__ffi_general, 8 * (size_t)form + b->ints++);
    } else if (is_pair && b->ints < 7) {
        asthra__ffi_step(b, asthra__ffi_general, ASTHRA__R_PAIR + b->ints);
        b->ints += 2;
    } else {
        asthra__ffi_step(b, asthra__ffi_carry, ASTHRA__R_TAKE);
        asthra__r_carry(b, 0, shape.size < 8 ? shape.size : 8, shape.align);
        asthra__r_put(b);
        if (shape.size <= 8) return;
        asthra__r_carry(b, 8, shape.size - 8, shape.align);
        asthra__r_put(b);
    }
}

/* ---- plans ---- */

/* What comes to scalars and has much else in it; no compiler's headers have such a type. */
static const char *asthra__r_refuse(Asthra__FFIShape shape) {
    return shape.size > ASTHRA__R_FRAME_RESULT_BYTES ? "has more than 128 bytes for its one or two "
                                                       "floats, which go to registers"
                                                     : NULL;
}

ASTHRA__FN const char *asthra__ffi_begin(Asthra__FFIBuilder *b, const AsthraFFIType *result,
                                         Asthra__FFIShape shape) {
    b->plan->result_how = ASTHRA__R_WORDS;
    if (result == NULL) return NULL;
    Asthra__RParts p = asthra__r_parts(result);
    if (p.floats != 0) {
        b->plan->result_how = (uint8_t)(p.kind[0] | p.kind[1] << 4);
        b->plan->result_split = (uint8_t)p.offset[1];
        return asthra__r_refuse(shape);
    }
    if (shape.size <= 16) return NULL;
    b->plan->result_how = ASTHRA__R_MEMORY;
    asthra__ffi_step(b, asthra__ffi_general, ASTHRA__R_HIDDEN);
    b->ints++;
    return NULL;
}

static const char *asthra__r_add_parts(Asthra__FFIBuilder *b, const Asthra__RParts *p,
                                       Asthra__FFIShape shape, Asthra__FFIPlace *place) {
    for (unsigned i = 0; i < p->count; i++) {
        bool is_float = asthra__r_is_float(p->kind[i]);
        unsigned r = is_float ? b->floats++ : b->ints++;
        uint32_t at = (is_float ? ASTHRA__R_FRAME_FLOATS : ASTHRA__R_FRAME_GENERAL) + 8 * r;
        size_t size = asthra__ffi_size_of(p->kind[i]);
        if (is_float) {
            asthra__ffi_step(b, asthra__ffi_float,
                             (i == 0 ? 0 : (size_t)ASTHRA__R_LATER) + (size == 8 ? 8 : 0) + r);
            if (i != 0) asthra__ffi_emit(b, p->offset[i]);
        } else {
            size_t form =
                (size_t)asthra__r_form(p->kind[i], (Asthra__FFIShape){.size = size, .align = size});
            asthra__ffi_step(b, i == 0 ? asthra__ffi_general : asthra__ffi_carry,
                             i == 0 ? 8 * form + r : form);
            if (i != 0) asthra__ffi_emit(b, p->offset[i]);
            if (i != 0) asthra__ffi_step(b, asthra__ffi_general, 8 * (size_t)ASTHRA__R_MOVE + r);
        }
        if (i == 0) place->offset = at;
        if (i == 0) continue;
        place->how = ASTHRA__FFI_SCATTERED;
        place->second = (uint16_t)at;
        place->split = (uint8_t)p->offset[i];
    }
    if (shape.size > 8 * p->count) place->how |= ASTHRA__FFI_MOVED; /* there is padding, too */
    return asthra__r_refuse(shape);
}

/* The address of a copy, which lies as its type wants it. */
static void asthra__r_add_copy(Asthra__FFIBuilder *b, Asthra__FFIShape shape,
                               Asthra__FFIPlace *place) {
    size_t below = (b->behind + shape.size + 15) & ~(size_t)15;
    if (shape.align <= 16) {
        size_t unit = shape.align >= 8 ? 0 : shape.align == 4 ? 1 : 2;
        asthra__ffi_step(b, asthra__ffi_to_stack, ASTHRA__R_COPY + unit);
    } else {
        asthra__ffi_step(b, asthra__ffi_to_stack, ASTHRA__R_COPY_ALIGNED);
        asthra__ffi_emit(b, ~(shape.align - 1));
    }
    asthra__ffi_emit(b, ASTHRA__R_KEPT + below);
    asthra__ffi_emit(b, shape.size);
    b->behind = shape.align <= 16 ? below : below + shape.align - 16;
    place->how = ASTHRA__FFI_POINTED;
    place->offset = asthra__r_place(b, 8);
    asthra__r_put(b);
}

ASTHRA__FN const char *asthra__ffi_add(Asthra__FFIBuilder *b, const AsthraFFIType *t,
                                       Asthra__FFIShape shape, Asthra__FFIPlace *place) {
    const char *wrong = NULL;
    Asthra__RParts p = asthra__r_parts(t);
    if (p.floats != 0 && !b->is_variadic && b->floats + p.floats <= 8 &&
        b->ints + p.count - p.floats <= 8) {
        wrong = asthra__r_add_parts(b, &p, shape, place);
    } else if (shape.size > 16) {
        asthra__r_add_copy(b, shape, place);
    } else {
        size_t align = asthra__r_alignment(t, shape);
        if (b->is_variadic && align == 16) b->ints += b->ints & 1;
        place->offset = asthra__r_place(b, align);
        asthra__r_put_words(b, t->kind, shape);
    }
    asthra__ffi_align_place(place, shape.align);
    return wrong;
}

/* ---- results ---- */

static void asthra__r_store_part(Asthra__FFIBuilder *b, unsigned kind, size_t offset, unsigned r) {
    size_t size = asthra__ffi_size_of((AsthraFFIKind)kind), width = 0;
    for (; (size_t)1 << width < size; width++) continue;
    asthra__ffi_step(b, asthra__ffi_result,
                     asthra__r_is_float((AsthraFFIKind)kind)
                         ? ASTHRA__R_PART_FLOAT + 2 * (width - 2) + r
                         : ASTHRA__R_PART + width);
    asthra__ffi_emit(b, offset);
}

static void asthra__r_end_parts(Asthra__FFIBuilder *b) {
    unsigned first = b->plan->result_how & 15U, second = b->plan->result_how >> 4;
    size_t split = b->plan->result_split;
    size_t size = asthra__ffi_size_of((AsthraFFIKind)first);
    if (second == ASTHRA_FFI_VOID) {
        asthra__ffi_step(b, asthra__ffi_result, ASTHRA__R_STORE_FLOAT + (size == 8));
    } else if (first == second && split == size) {
        asthra__ffi_step(b, asthra__ffi_result, ASTHRA__R_STORE_FLOATS + (size == 8));
    } else {
        asthra__ffi_step(b, asthra__ffi_result, ASTHRA__R_JUST_CALL);
        asthra__r_store_part(b, first, 0, 0);
        asthra__r_store_part(b, second, split, first == ASTHRA_FFI_F32 || first == ASTHRA_FFI_F64);
        asthra__ffi_step(b, asthra__ffi_result, ASTHRA__R_LEAVE);
    }
}

static void asthra__r_end_words(Asthra__FFIBuilder *b) {
    Asthra__FFIShape shape = {0, 1};
    const AsthraFFIType *t = b->plan->result;
    size_t slot = 0;
    if (t != NULL && b->plan->result_how == ASTHRA__R_WORDS) {
        static const uint8_t stores[] = {1, 1, 2, 2, 3, 4}; /* of a form */
        (void)asthra__ffi_measure(t, &shape);
        int form = asthra__r_form(t->kind, shape);
        slot = form >= 0                              ? stores[form]
               : shape.size == 16 && shape.align >= 8 ? ASTHRA__R_STORE_PAIR
                                                      : ASTHRA__R_STORE_UNITS + (shape.align < 4);
    }
    asthra__ffi_step(b, asthra__ffi_result, slot);
    if (slot >= ASTHRA__R_STORE_UNITS) asthra__ffi_emit(b, shape.size);
}

ASTHRA__FN void asthra__ffi_end(Asthra__FFIBuilder *b) {
    b->plan->has_vectors = b->floats != 0;
    if (b->plan->result_how == ASTHRA__R_WORDS || b->plan->result_how == ASTHRA__R_MEMORY)
        asthra__r_end_words(b);
    else
        asthra__r_end_parts(b);
    b->plan->stack_bytes = (uint32_t)(((b->stack + 15) & ~(size_t)15) + b->behind);
}

#endif
