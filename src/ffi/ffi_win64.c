/* ffi_win64 - the plans of Win64 on x86-64.                             [ffi] body: processor
 *
 * "x64 calling convention" of Microsoft's documentation, as gcc and clang have it under ms_abi: one
 * of four slots for each argument, general or vector by its kind; types of 1, 2, 4 or 8 bytes go by
 * value as if they were integers, all others by the address of a copy that the caller makes; 32
 * bytes of the stack belong to the callee. A variadic function finds doubles in both registers.
 */
#include "ffi_x86_64_internal.h"

#if ASTHRA_HAS_FFI && ASTHRA__CPU_X86_64

enum { ASTHRA__WIN_RCX = 3, ASTHRA__WIN_RDX = 2 };

static unsigned asthra__win_register(unsigned slot) {
    static const uint8_t registers[] = {ASTHRA__WIN_RCX, ASTHRA__WIN_RDX, 4, 5};
    return registers[slot];
}

/* Offset of the stack slot of an argument, which the first four have, too: it is the callee's. */
static size_t asthra__win_slot(unsigned slot) {
    return 8 * (size_t)slot;
}

static bool asthra__win_is_value(AsthraFFIKind kind, size_t size) {
    return kind != ASTHRA_FFI_LDBL && (size == 1 || size == 2 || size == 4 || size == 8);
}

ASTHRA__FN const char *asthra__ffi_win64_begin(Asthra__FFIBuilder *b, const AsthraFFIType *result,
                                               Asthra__FFIShape shape) {
    b->plan->result_how = ASTHRA__X_II;
    if (result != NULL && asthra__ffi_x_is_real(result->kind))
        b->plan->result_how = ASTHRA__X_VV;
    else if (result != NULL && !asthra__win_is_value(result->kind, shape.size))
        asthra__ffi_x_hidden(b, asthra__win_register(b->ints++));
    unsigned slots = b->plan->parameters + b->ints;
    b->stack = asthra__win_slot(slots < 4 ? 4 : slots); /* copies lie behind the slots */
    return NULL;
}

/* An argument of at most 8 bytes in one of the four slots. */
static void asthra__win_add_register(Asthra__FFIBuilder *b, const AsthraFFIType *t, size_t size,
                                     Asthra__FFIPlace *place) {
    unsigned r = asthra__win_register(b->ints);
    if (!asthra__ffi_x_is_real(t->kind)) {
        if (asthra__ffi_x_widen(b, t->kind))
            asthra__ffi_x_general(b, r);
        else
            asthra__ffi_x_load_general(b, r, size);
        place->offset = 8 * r;
    } else {
        if (b->plan->is_variadic) {
            asthra__ffi_x_carry(b, (unsigned)(ASTHRA__X_FIRST + size - 1));
            asthra__ffi_x_general(b, r);
            asthra__ffi_x_vector(b, b->ints);
        } else {
            asthra__ffi_x_load_vector(b, b->ints, size);
        }
        place->offset = ASTHRA__X_FRAME_VECTORS + 8 * b->ints;
    }
}

/* The address of a copy, in a register or on the stack. */
static void asthra__win_add_copy(Asthra__FFIBuilder *b, const AsthraFFIType *t,
                                 Asthra__FFIShape shape) {
    size_t room = (shape.size + 7) & ~(size_t)7;
    size_t at = asthra__ffi_stack(b, room, shape.align < 16 ? 16 : shape.align);
    asthra__ffi_x_load_stack(b, t->kind, shape.size, at);
    asthra__ffi_x_stack(b, ASTHRA__X_STACK_TO_CARRY, at);
    if (b->ints < 4)
        asthra__ffi_x_general(b, asthra__win_register(b->ints));
    else
        asthra__ffi_x_stack(b, ASTHRA__X_CARRY_TO_STACK, asthra__win_slot(b->ints));
}

ASTHRA__FN const char *asthra__ffi_win64_add(Asthra__FFIBuilder *b, const AsthraFFIType *t,
                                             Asthra__FFIShape shape, Asthra__FFIPlace *place) {
    bool is_value = asthra__win_is_value(t->kind, shape.size);
    if (b->ints < 4 && is_value) {
        asthra__win_add_register(b, t, shape.size, place);
    } else {
        place->offset = b->ints < 4 ? 8 * asthra__win_register(b->ints)
                                    : (uint32_t)(ASTHRA__X_FRAME_STACK + asthra__win_slot(b->ints));
        if (is_value) {
            asthra__ffi_x_load_stack(b, t->kind, shape.size, asthra__win_slot(b->ints));
        } else {
            asthra__win_add_copy(b, t, shape);
            place->how = ASTHRA__FFI_POINTED;
            asthra__ffi_align_place(place, shape.align); /* gcc aligns its copies to 16 at most */
        }
    }
    b->ints++;
    return NULL;
}

ASTHRA__FN void asthra__ffi_win64_end(Asthra__FFIBuilder *b) {
    asthra__ffi_x_call(b, 0);
}

#endif
