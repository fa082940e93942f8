/* ffi_aarch64 - plans for AArch64.                                        [ffi] body: processor
 *
 * AAPCS64, section 6.8.2, "Parameter passing rules": integers go to x0 to x7, floats and aggregates
 * of one to four alike to v0 to v7, each element to a register of its own; other composites of at
 * most 16 bytes go to general registers, larger ones by the address of a copy that the caller
 * makes. What does not fit goes to the stack, whole, and so does all that follows of its class. A
 * result is where a first argument would be; one that would be copied is written where x8 says.
 * Variadic arguments are like others (Apple's go to the stack, eight bytes each: not here).
 */
#include "ffi_aarch64_internal.h"

#if ASTHRA_HAS_FFI && ASTHRA__CPU_AARCH64

static void asthra__ffi_step(Asthra__FFIBuilder *b, void (*first)(void), size_t slot) {
    asthra__ffi_emit(b, (uintptr_t)first + 32 * slot);
}

/* ---- what a type is ---- */

/* How one of 1, 2, 4 or 8 bytes is loaded, by its slots; else -1. Integers are widened as C does
 * it, which nobody here asks for but Apple. */
static int asthra__a_word(AsthraFFIKind kind, size_t size) {
    if (kind == ASTHRA_FFI_S8) return 0;
    if (kind == ASTHRA_FFI_S16) return 2;
    return size == 8 ? ASTHRA__A_WORD : size == 4 ? 4 : size == 2 ? 3 : size == 1 ? 1 : -1;
}

/* "Homogeneous Floating-point Aggregates", or a float itself: how many elements it has, of *element
 * bytes, which is 0 before; 0: it is none. Nothing in it is padded. */
static size_t asthra__a_elements(const AsthraFFIType *t, size_t *element) {
    bool is_complex = t->kind >= ASTHRA_FFI_CF32 && t->kind <= ASTHRA_FFI_CLDBL;
    bool is_real = t->kind >= ASTHRA_FFI_F32 && t->kind <= ASTHRA_FFI_LDBL;
    size_t count = is_complex ? 2 : 1, size;
    if (is_complex || is_real) {
        size = asthra__ffi_size_of(t->kind) / count;
        if (*element == 0) *element = size;
        return *element == size ? count : 0;
    }
    if (!asthra__ffi_is_block(t->kind)) return 0;
    size_t members = t->kind == ASTHRA_FFI_ARRAY ? 1 : t->count, all = 0;
    for (size_t i = 0; i < members; i++) {
        count = asthra__a_elements(t->fields[i], element);
        if (count == 0) return 0;
        all = t->kind != ASTHRA_FFI_UNION ? all + count : count > all ? count : all;
    }
    if (t->kind == ASTHRA_FFI_ARRAY) all *= t->count;
    (void)asthra_ffi_layout(t, &size, NULL, NULL);
    return all * *element == size ? all : 0;
}

static unsigned asthra__a_vectors(const AsthraFFIType *t, size_t size, size_t *element) {
    *element = 0;
    if (asthra__ffi_is_integer(t->kind) || size > 64) return 0;
    size_t count = asthra__a_elements(t, element);
    return count <= 4 ? (unsigned)count : 0;
}

/* "Natural alignment": of a composite the strictest of its members', whatever it says itself. Of
 * packed long doubles it is what gcc makes of it; clang 14 is of another opinion. */
static size_t asthra__a_alignment(const AsthraFFIType *t, Asthra__FFIShape shape) {
    size_t natural = 1, cap = t->size != 0 ? t->align : SIZE_MAX, end = 0;
    if (!asthra__ffi_is_block(t->kind)) {
        bool is_quad = t->kind == ASTHRA_FFI_LDBL || t->kind == ASTHRA_FFI_CLDBL;
        return is_quad && sizeof(long double) == 16 ? 16 : 8;
    }
    for (size_t i = 0; i < t->count; i++) {
        size_t size, align;
        (void)asthra_ffi_layout(t->fields[i], &size, &align, NULL);
        if (align > cap) align = cap;
        if (align > natural) natural = align;
        end = ((t->kind == ASTHRA_FFI_UNION ? 0 : end) + align - 1) / align * align + size;
        if (end > shape.size) return 8; /* packed */
    }
    return natural < 16 ? 8 : 16;
}

/* ---- steps ---- */

/* Where the next stack argument of `size` bytes lies, in the frame of a closure. */
static uint32_t asthra__a_stack(Asthra__FFIBuilder *b, size_t size, size_t align) {
    size_t last = b->stack, at = asthra__ffi_stack(b, (size + 7) & ~(size_t)7, align);
    for (; last < at; last += 8) asthra__ffi_step(b, asthra__ffi_to_stack, ASTHRA__A_PUSH_NOTHING);
    return (uint32_t)(ASTHRA__A_FRAME_STACK + at);
}

/* The next argument, of n bytes, to the stack. */
static void asthra__a_push(Asthra__FFIBuilder *b, AsthraFFIKind kind, size_t n) {
    int word = asthra__a_word(kind, n);
    if (word >= 0) {
        asthra__ffi_step(b, asthra__ffi_to_stack, (size_t)word);
    } else if (n < 8) {
        asthra__ffi_step(b, asthra__ffi_carry, n == 3 ? 0 : n - 4);
        asthra__ffi_step(b, asthra__ffi_to_stack, ASTHRA__A_PUSH_CARRY);
    } else if (n == 16) {
        asthra__ffi_step(b, asthra__ffi_to_stack, ASTHRA__A_PUSH_PAIR);
    } else {
        asthra__ffi_step(b, asthra__ffi_to_stack,
                         n < 16 ? ASTHRA__A_PUSH_PIECE : ASTHRA__A_PUSH_WORDS);
        asthra__ffi_emit(b, n < 16 ? n - 8 : n);
    }
}

/* The next argument, of n bytes, at most 16, to general registers from r on. */
static void asthra__a_load(Asthra__FFIBuilder *b, AsthraFFIKind kind, size_t n, unsigned r) {
    int word = asthra__a_word(kind, n);
    if (word >= 0) {
        asthra__ffi_step(b, asthra__ffi_general, 8 * (size_t)word + r);
    } else if (n < 8) {
        asthra__ffi_step(b, asthra__ffi_carry, n == 3 ? 0 : n - 4);
        asthra__ffi_step(b, asthra__ffi_general, 8 * (size_t)ASTHRA__A_CARRY + r);
    } else if (n == 16) {
        asthra__ffi_step(b, asthra__ffi_general, ASTHRA__A_PAIR + r);
    } else {
        asthra__ffi_step(b, asthra__ffi_general, ASTHRA__A_PIECE + r);
        asthra__ffi_emit(b, n - 8);
        asthra__ffi_emit(b, 8 * (16 - n));
    }
}

/* Of elements of 4, 8, 16 bytes the first, second, third. */
static size_t asthra__a_size_class(size_t element) {
    return element == 4 ? 0 : element == 8 ? 1 : 2;
}

/* ---- plans ---- */

ASTHRA__FN const char *asthra__ffi_begin(Asthra__FFIBuilder *b, const AsthraFFIType *result,
                                         Asthra__FFIShape shape) {
    size_t element;
    b->plan->result_how = ASTHRA__A_GENERAL;
    unsigned vectors = result == NULL ? 0 : asthra__a_vectors(result, shape.size, &element);
    if (vectors != 0) {
        b->plan->result_how = (uint8_t)(element << 3 | vectors);
    } else if (shape.size > 16) {
        b->plan->result_how = ASTHRA__A_MEMORY;
        asthra__ffi_step(b, asthra__ffi_general, ASTHRA__A_HIDDEN);
    }
    return NULL;
}

/* Stage C, rules 1 to 6. */
static void asthra__a_add_vectors(Asthra__FFIBuilder *b, const AsthraFFIType *t,
                                  Asthra__FFIShape shape, Asthra__FFIPlace *place, unsigned count,
                                  size_t element) {
    static const uint8_t first[] = {0, 8, 15, 21}; /* slot of so many elements and one */
    if (b->floats + count > 8) {
        b->floats = 8;
        place->offset = asthra__a_stack(b, shape.size, asthra__a_alignment(t, shape));
        asthra__a_push(b, t->kind, shape.size);
        return;
    }
    asthra__ffi_step(b, asthra__ffi_vector,
                     ASTHRA__A_VECTORS * asthra__a_size_class(element) + first[count - 1] +
                         b->floats);
    place->offset = ASTHRA__A_FRAME_VECTORS + 16 * b->floats;
    if (count > 1 && element < 16) {
        place->how = ASTHRA__FFI_STRIDED;
        place->second = (uint16_t)count;
        place->split = (uint8_t)element;
    }
    b->floats += count;
}

/* Stage B, rule 4: the address of a copy, which lies as its type wants it. */
static void asthra__a_add_copy(Asthra__FFIBuilder *b, Asthra__FFIShape shape,
                               Asthra__FFIPlace *place) {
    size_t below = (b->behind + shape.size + 15) & ~(size_t)15;
    if (shape.align <= 16) {
        asthra__ffi_step(b, asthra__ffi_carry, ASTHRA__A_COPY);
    } else {
        asthra__ffi_step(b, asthra__ffi_carry, ASTHRA__A_COPY_ALIGNED);
        asthra__ffi_emit(b, ~(shape.align - 1));
    }
    asthra__ffi_emit(b, below);
    asthra__ffi_emit(b, shape.size - 16);
    b->behind = shape.align <= 16 ? below : below + shape.align - 16;
    place->how = ASTHRA__FFI_POINTED;
    if (b->ints < 8) {
        place->offset = 8 * b->ints;
        asthra__ffi_step(b, asthra__ffi_general, 8 * (size_t)ASTHRA__A_CARRY + b->ints++);
    } else {
        place->offset = asthra__a_stack(b, 8, 8);
        asthra__ffi_step(b, asthra__ffi_to_stack, ASTHRA__A_PUSH_CARRY);
    }
}

/* Stage C, rules 9 to 17. */
static void asthra__a_add_general(Asthra__FFIBuilder *b, const AsthraFFIType *t,
                                  Asthra__FFIShape shape, Asthra__FFIPlace *place) {
    unsigned words = shape.size > 8 ? 2 : 1;
    size_t align = words == 1 ? 8 : asthra__a_alignment(t, shape);
    if (align == 16) b->ints = (b->ints + 1) & ~1U;
    if (b->ints + words <= 8) {
        place->offset = 8 * b->ints;
        asthra__a_load(b, t->kind, shape.size, b->ints);
        b->ints += words;
    } else {
        b->ints = 8;
        place->offset = asthra__a_stack(b, shape.size, align);
        asthra__a_push(b, t->kind, shape.size);
    }
}

ASTHRA__FN const char *asthra__ffi_add(Asthra__FFIBuilder *b, const AsthraFFIType *t,
                                       Asthra__FFIShape shape, Asthra__FFIPlace *place) {
    size_t element;
    unsigned vectors = asthra__a_vectors(t, shape.size, &element);
    if (vectors != 0)
        asthra__a_add_vectors(b, t, shape, place, vectors, element);
    else if (shape.size > 16)
        asthra__a_add_copy(b, shape, place);
    else
        asthra__a_add_general(b, t, shape, place);
    asthra__ffi_align_place(place, shape.align);
    return NULL;
}

static size_t asthra__a_result_slot(const Asthra__FFIPlan *p) {
    static const uint8_t words[] = {0, 1, 2, ASTHRA__A_STORE_PIECE, 3};
    unsigned count = p->result_how & 7U;
    if (p->result_how == ASTHRA__A_MEMORY) return 0;
    if (p->result_how != ASTHRA__A_GENERAL)
        return ASTHRA__A_STORE_VECTORS + 4 * asthra__a_size_class(p->result_how >> 3) + count - 1;
    if (p->result_size <= 4) return words[p->result_size];
    return p->result_size == 8    ? 4
           : p->result_size == 16 ? ASTHRA__A_STORE_PAIR
                                  : ASTHRA__A_STORE_PIECE;
}

ASTHRA__FN void asthra__ffi_end(Asthra__FFIBuilder *b) {
    b->plan->has_vectors = b->floats != 0;
    size_t slot = asthra__a_result_slot(b->plan);
    asthra__ffi_step(b, asthra__ffi_result, slot);
    if (slot == ASTHRA__A_STORE_PIECE) asthra__ffi_emit(b, b->plan->result_size);
    b->plan->stack_bytes = (uint32_t)(((b->stack + 15) & ~(size_t)15) + b->behind);
}

#endif
