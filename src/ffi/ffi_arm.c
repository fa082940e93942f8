/* ffi_arm - steps and plans for 32-bit ARM with hardware floating point. [ffi] body: processor
 *
 * AAPCS32, section 6 and its VFP variant: numbers and up to four alike floating-point members of a
 * struct go to s0-s15 and d0-d7, which share their bits, the lowest that are free, until one does
 * not fit; all else goes word by word to r0-r3 and then to the stack, at an even word where it is
 * aligned to 8 bytes, and a struct may begin in the one and end in the other. How a type is aligned
 * is what its members need, not what is asked of the type as a whole. A variadic function has its
 * floating-point numbers with all else.
 *
 * While steps run:
 *     r4    the word of this step                 r7    frame, below
 *     r5    the next argument's address in args   r8    where the next word of the stack goes
 *     r6    function                              r12   in the argument at hand: what comes next
 *     lr    the carry, from one step to the next  r9    scratch
 *     r0-r3 s0-s15                                what is already loaded
 *
 * Frame, offsets from r7:
 *      0   ret                                    4   the caller's r4 to r9
 *     28   return address                        32   function, as asthra__ffi_enter has it
 *          stack arguments, below, from sp on
 *
 * Steps stand in slots of 16 bytes, those that end a call in slots of 32. They are ARM or Thumb
 * code as what is compiled around them; a section's address is odd in Thumb code, and so is that of
 * each of its slots. Words are loaded by what takes any address: a packed struct may lie anywhere.
 */
#include "ffi_arm_internal.h"

#if ASTHRA_HAS_FFI && ASTHRA__CPU_ARM

/* clang-format off */
/* Inside the frame that asthra__ffi_enter has made. */
#define ASTHRA__ARM_FRAME      \
    ASTHRA__ARM_TABLE          \
    ".cfi_def_cfa r7, 32\n"    \
    ASTHRA__ARM_SAVED
#define ASTHRA__ARM_TABLE      \
    ".save {r4-r9, lr}\n"      \
    ".pad #4\n"                \
    ".setfp r7, sp\n"
#define ASTHRA__ARM_SAVED      \
    ".cfi_offset r4, -28\n"    \
    ".cfi_offset r5, -24\n"    \
    ".cfi_offset r6, -20\n"    \
    ".cfi_offset r7, -16\n"    \
    ".cfi_offset r8, -12\n"    \
    ".cfi_offset r9, -8\n"     \
    ".cfi_offset lr, -4\n"
/* To the next step, behind so many operands. */
#define ASTHRA__ARM_NEXT0 "ldr pc, [r4, #4]!\n"
#define ASTHRA__ARM_NEXT1 "ldr pc, [r4, #8]!\n"
/* r12: the address of the next argument. */
#define ASTHRA__ARM_ARGUMENT "ldr r12, [r5], #4\n"

/* steps: r0; ret: r1; args: r2; stack bytes: r3, a multiple of 8; function: on the stack */
__asm__(ASTHRA__ARM_BEGIN("asthra__ffi_enter")
        "push {r1, r4-r9, lr}\n"        /* ret, at 0, and the caller's r4 to r9 and lr */
        ASTHRA__ARM_TABLE
        ".cfi_def_cfa_offset 32\n"
        ASTHRA__ARM_SAVED
        "mov r7, sp\n"
        ".cfi_def_cfa_register r7\n"
        "mov r4, r0\n"                  /* r4: the first step */
        "mov r5, r2\n"                  /* r5: args */
        "ldr r6, [r7, #32]\n"           /* r6: function */
        "cmp r3, #4096\n"
        "bhi 2f\n"
        "1:\n"
        "sub sp, sp, r3\n"              /* room for the stack arguments; sp is 8-aligned */
        "mov r8, sp\n"
        "ldr pc, [r4]\n"
        "2:\n"                          /* no page is stepped over: one of them is the guard */
        "sub sp, sp, #4096\n"
        "str r3, [sp]\n"
        "sub r3, r3, #4096\n"
        "cmp r3, #4096\n"
        "bhi 2b\n"
        "b 1b\n"
        ASTHRA__ARM_END("asthra__ffi_enter"));

/* The call itself. */
__asm__(ASTHRA__ARM_BEGIN("asthra__ffi_run")
        ASTHRA__ARM_FRAME
        "blx r6\n"                      /* function(...) */
        ASTHRA__ARM_NEXT0
        ASTHRA__ARM_END("asthra__ffi_run"));

/* Into r0-r3: 0 to 3 the first word of the next argument, 4 to 7 one word more, 8 to 11 the carry;
 * 12 and 13 two words of the next argument into r0 and r1, r2 and r3; 14 ret into r0. */
__asm__(ASTHRA__ARM_BEGIN("asthra__ffi_general")
        ASTHRA__ARM_FRAME
        ".irp r, 0, 1, 2, 3\n"
        ".p2align 4\n"
        ASTHRA__ARM_ARGUMENT
        "ldr r\\r, [r12], #4\n"
        ASTHRA__ARM_NEXT0
        ".endr\n"
        ".irp r, 0, 1, 2, 3\n"
        ".p2align 4\n"
        "ldr r\\r, [r12], #4\n"
        ASTHRA__ARM_NEXT0
        ".endr\n"
        ".irp r, 0, 1, 2, 3\n"
        ".p2align 4\n"
        "mov r\\r, lr\n"                /* the carry */
        ASTHRA__ARM_NEXT0
        ".endr\n"
        ".p2align 4\n"
        ASTHRA__ARM_ARGUMENT
        "ldr r0, [r12]\n"
        "ldr r1, [r12, #4]\n"
        ASTHRA__ARM_NEXT0
        ".p2align 4\n"
        ASTHRA__ARM_ARGUMENT
        "ldr r2, [r12]\n"
        "ldr r3, [r12, #4]\n"
        ASTHRA__ARM_NEXT0
        ".p2align 4\n"
        "ldr r0, [r7]\n"                /* ret */
        ASTHRA__ARM_NEXT0
        ASTHRA__ARM_END("asthra__ffi_general"));

/* Into s0-s15: 0 to 15 the next argument's first, 16 to 31 one more of it, 32 to 47 the carry; into
 * d0-d7: 48 to 55 the next argument's first, 56 to 63 one more of it. */
__asm__(ASTHRA__ARM_BEGIN("asthra__ffi_vector")
        ASTHRA__ARM_FRAME
        ".irp r, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
        ".p2align 4\n"
        ASTHRA__ARM_ARGUMENT
        "vldmia r12!, {s\\r}\n"
        ASTHRA__ARM_NEXT0
        ".endr\n"
        ".irp r, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
        ".p2align 4\n"
        "vldmia r12!, {s\\r}\n"
        ASTHRA__ARM_NEXT0
        ".endr\n"
        ".irp r, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
        ".p2align 4\n"
        "vmov s\\r, lr\n"               /* the carry */
        ASTHRA__ARM_NEXT0
        ".endr\n"
        ".irp r, 0, 1, 2, 3, 4, 5, 6, 7\n"
        ".p2align 4\n"
        ASTHRA__ARM_ARGUMENT
        "vldmia r12!, {d\\r}\n"
        ASTHRA__ARM_NEXT0
        ".endr\n"
        ".irp r, 0, 1, 2, 3, 4, 5, 6, 7\n"
        ".p2align 4\n"
        "vldmia r12!, {d\\r}\n"
        ASTHRA__ARM_NEXT0
        ".endr\n"
        ASTHRA__ARM_END("asthra__ffi_vector"));

/* Into the carry: 0 to 3 the next argument, an s8, u8, s16, u16; 5 to 7 the last 1 to 3 bytes of
 * the argument at hand, of which no other is read; 8 one word of it. 4 the next argument is at
 * hand. */
__asm__(ASTHRA__ARM_BEGIN("asthra__ffi_carry")
        ASTHRA__ARM_FRAME
        ".irp op, ldrsb, ldrb, ldrsh, ldrh\n"
        ".p2align 4\n"
        ASTHRA__ARM_ARGUMENT
        "\\op lr, [r12]\n"
        ASTHRA__ARM_NEXT0
        ".endr\n"
        ".p2align 4\n"
        ASTHRA__ARM_ARGUMENT
        ASTHRA__ARM_NEXT0
        ".irp op, ldrb, ldrh\n"
        ".p2align 4\n"
        "\\op lr, [r12]\n"
        ASTHRA__ARM_NEXT0
        ".endr\n"
        ".p2align 4\n"
        "ldrh lr, [r12]\n"
        "ldrb r12, [r12, #2]\n"
        "orr lr, lr, r12, lsl #16\n"
        ASTHRA__ARM_NEXT0
        ".p2align 4\n"
        "ldr lr, [r12], #4\n"
        ASTHRA__ARM_NEXT0
        ASTHRA__ARM_END("asthra__ffi_carry"));

/* To the stack: 0 the first word of the next argument, 1 one word more, 2 the carry, 3 nothing, for
 * a word that is left out; 4 two words of the next argument, which lies at a multiple of 4; 5 as
 * many bytes of the argument at hand as the next word says, a multiple of 4. */
__asm__(ASTHRA__ARM_BEGIN("asthra__ffi_to_stack")
        ASTHRA__ARM_FRAME
        ASTHRA__ARM_ARGUMENT
        "ldr lr, [r12], #4\n"
        "str lr, [r8], #4\n"
        ASTHRA__ARM_NEXT0
        ".p2align 4\n"
        "ldr lr, [r12], #4\n"
        "str lr, [r8], #4\n"
        ASTHRA__ARM_NEXT0
        ".p2align 4\n"
        "str lr, [r8], #4\n"            /* the carry */
        ASTHRA__ARM_NEXT0
        ".p2align 4\n"
        "add r8, r8, #4\n"
        ASTHRA__ARM_NEXT0
        ".p2align 4\n"
        ASTHRA__ARM_ARGUMENT
        "ldm r12, {r9, lr}\n"
        "stm r8!, {r9, lr}\n"
        ASTHRA__ARM_NEXT0
        ".p2align 4\n"
        "ldr r9, [r4, #4]\n"            /* r9: bytes */
        "1:\n"
        "ldr lr, [r12], #4\n"
        "str lr, [r8], #4\n"
        "subs r9, r9, #4\n"
        "bne 1b\n"
        ASTHRA__ARM_NEXT1
        ASTHRA__ARM_END("asthra__ffi_to_stack"));

/* The end of a call: 0 stores nothing; 1 to 4 store 1, 2, 3, 4 bytes of r0; 5 r0 and r1; 6 to 9 one
 * to four floats, 10 to 13 doubles; 14 so many bytes of these as the next word says, to any
 * address. */
#define ASTHRA__ARM_RET "ldr r12, [r7]\n"
#define ASTHRA__ARM_LEAVE \
    "mov sp, r7\n"        \
    "pop {r3-r9, pc}\n"
__asm__(ASTHRA__ARM_BEGIN("asthra__ffi_result")
        ASTHRA__ARM_FRAME
        ASTHRA__ARM_LEAVE
        ".p2align 5\n"
        ASTHRA__ARM_RET
        "strb r0, [r12]\n"
        ASTHRA__ARM_LEAVE
        ".p2align 5\n"
        ASTHRA__ARM_RET
        "strh r0, [r12]\n"
        ASTHRA__ARM_LEAVE
        ".p2align 5\n"
        ASTHRA__ARM_RET
        "strh r0, [r12]\n"
        "lsr r0, r0, #16\n"
        "strb r0, [r12, #2]\n"
        ASTHRA__ARM_LEAVE
        ".p2align 5\n"
        ASTHRA__ARM_RET
        "str r0, [r12]\n"
        ASTHRA__ARM_LEAVE
        ".p2align 5\n"
        ASTHRA__ARM_RET
        "str r0, [r12]\n"
        "str r1, [r12, #4]\n"
        ASTHRA__ARM_LEAVE
        ".irp list, s0, s0-s1, s0-s2, s0-s3, d0, d0-d1, d0-d2, d0-d3\n"
        ".p2align 5\n"
        ASTHRA__ARM_RET
        "vstmia r12, {\\list}\n"
        ASTHRA__ARM_LEAVE
        ".endr\n"
        ".p2align 5\n"
        "vpush {d0-d3}\n"
        ASTHRA__ARM_RET
        "ldr r1, [r4, #4]\n"            /* r1: bytes, a multiple of 4 */
        "1:\n"
        "pop {r0}\n"
        "str r0, [r12], #4\n"
        "subs r1, r1, #4\n"
        "bne 1b\n"
        ASTHRA__ARM_LEAVE
        ASTHRA__ARM_END("asthra__ffi_result"));

/* run: r0; record: r1. While run runs r4 is the record, as asthra__ffi_personality knows. */
__asm__(ASTHRA__ARM_BEGIN("asthra__ffi_guard")
        ".personality asthra__ffi_personality\n"
        "push {r4, lr}\n"               /* the caller's r4 */
        ".save {r4, lr}\n"
        ".cfi_def_cfa_offset 8\n"
        ".cfi_offset r4, -8\n"
        ".cfi_offset lr, -4\n"
        "mov r4, r1\n"
        "mov r12, r0\n"
        "mov r0, r1\n"
        "blx r12\n"                     /* run(record) */
        "pop {r4, pc}\n"
        ASTHRA__ARM_END("asthra__ffi_guard"));
/* clang-format on */

ASTHRA__FFI_CODE void asthra__ffi_run(void) __asm__("asthra__ffi_run");
ASTHRA__FFI_CODE void asthra__ffi_general(void) __asm__("asthra__ffi_general");
ASTHRA__FFI_CODE void asthra__ffi_vector(void) __asm__("asthra__ffi_vector");
ASTHRA__FFI_CODE void asthra__ffi_carry(void) __asm__("asthra__ffi_carry");
ASTHRA__FFI_CODE void asthra__ffi_to_stack(void) __asm__("asthra__ffi_to_stack");
ASTHRA__FFI_CODE void asthra__ffi_result(void) __asm__("asthra__ffi_result");

/* ---- steps ---- */

/* Slots, as the sections above count them. */
enum {
    ASTHRA__ARM_FIRST = 0, /* general, stack: the first word of the next argument */
    ASTHRA__ARM_PAIR = 12, /* general: two words of the next argument */
    ASTHRA__ARM_RETURN = 14,
    ASTHRA__ARM_ARGUMENT_STEP = 4, /* carry: the next argument is at hand */
    ASTHRA__ARM_WORD = 8,          /* carry: one word of it */
    ASTHRA__ARM_CARRY = 2,         /* stack */
    ASTHRA__ARM_GAP = 3,
    ASTHRA__ARM_TWO = 4,
    ASTHRA__ARM_MANY = 5
};

static void asthra__arm_step(Asthra__FFIBuilder *b, void (*first)(void), unsigned slot) {
    asthra__ffi_emit(b, (uintptr_t)first + 16 * slot);
}

/* r: the general register that something goes to; from 4 on: to the stack. */
static void asthra__arm_put_carry(Asthra__FFIBuilder *b, unsigned r) {
    if (r < 4)
        asthra__arm_step(b, asthra__ffi_general, 8 + r);
    else
        asthra__arm_step(b, asthra__ffi_to_stack, ASTHRA__ARM_CARRY);
}

static void asthra__arm_put_word(Asthra__FFIBuilder *b, unsigned r, bool is_first) {
    if (r < 4)
        asthra__arm_step(b, asthra__ffi_general, (is_first ? ASTHRA__ARM_FIRST : 4) + r);
    else
        asthra__arm_step(b, asthra__ffi_to_stack, is_first ? ASTHRA__ARM_FIRST : 1);
}

/* The next argument, of any size, word by word. */
static void asthra__arm_put_bytes(Asthra__FFIBuilder *b, unsigned r, size_t size) {
    size_t left = size / 4;
    bool is_first = true;
    for (; left > 0 && (r < 4 || left <= 4); left--, r++) {
        asthra__arm_put_word(b, r, is_first);
        is_first = false;
    }
    if (is_first) asthra__arm_step(b, asthra__ffi_carry, ASTHRA__ARM_ARGUMENT_STEP);
    if (left > 0) {
        asthra__arm_step(b, asthra__ffi_to_stack, ASTHRA__ARM_MANY);
        asthra__ffi_emit(b, 4 * left);
    }
    if (size % 4 == 0) return;
    asthra__arm_step(b, asthra__ffi_carry, ASTHRA__ARM_ARGUMENT_STEP + (unsigned)(size % 4));
    asthra__arm_put_carry(b, r);
}

static void asthra__arm_put(Asthra__FFIBuilder *b, AsthraFFIKind kind, Asthra__FFIShape shape,
                            unsigned r) {
    if (kind >= ASTHRA_FFI_BOOL && kind <= ASTHRA_FFI_U16) {
        asthra__arm_step(b, asthra__ffi_carry,
                         kind == ASTHRA_FFI_BOOL ? 1 : (unsigned)kind - ASTHRA_FFI_S8);
        asthra__arm_put_carry(b, r);
    } else if (shape.size == 8 && r < 4 && r % 2 == 0) {
        asthra__arm_step(b, asthra__ffi_general, ASTHRA__ARM_PAIR + r / 2);
    } else if (shape.size == 8 && r >= 4 && shape.align % 4 == 0) {
        asthra__arm_step(b, asthra__ffi_to_stack, ASTHRA__ARM_TWO);
    } else {
        asthra__arm_put_bytes(b, r, shape.size);
    }
}

/* ---- types ---- */

/* What goes to vector registers: so many of one floating-point type. */
typedef struct Asthra__ARMVector {
    AsthraFFIKind base; /* F32 or F64 */
    unsigned count;     /* 0: none of that */
} Asthra__ARMVector;

static bool asthra__arm_alike(const AsthraFFIType *t, Asthra__ARMVector *v);

/* `count` times the same scalar. */
static bool asthra__arm_alike_scalar(Asthra__ARMVector *v, AsthraFFIKind kind, unsigned count) {
    if (v->base != ASTHRA_FFI_VOID && v->base != kind) return false;
    v->base = kind;
    v->count = count;
    return true;
}

/* Members side by side, or the longest of a union, with nothing between or behind them. */
static bool asthra__arm_alike_fields(const AsthraFFIType *t, Asthra__ARMVector *v) {
    Asthra__FFIShape shape;
    unsigned sum = 0;
    for (size_t i = 0; i < t->count; i++) {
        if (!asthra__arm_alike(t->fields[i], v)) return false;
        if (t->kind == ASTHRA_FFI_STRUCT)
            sum += v->count;
        else if (v->count > sum)
            sum = v->count;
        if (sum > 4) return false;
    }
    v->count = sum;
    return asthra__ffi_measure(t, &shape) == NULL &&
           shape.size == sum * asthra__ffi_size_of(v->base);
}

static bool asthra__arm_alike(const AsthraFFIType *t, Asthra__ARMVector *v) {
    switch (t->kind) {
    case ASTHRA_FFI_F32: return asthra__arm_alike_scalar(v, ASTHRA_FFI_F32, 1);
    case ASTHRA_FFI_CF32: return asthra__arm_alike_scalar(v, ASTHRA_FFI_F32, 2);
    case ASTHRA_FFI_F64:
    case ASTHRA_FFI_LDBL: return asthra__arm_alike_scalar(v, ASTHRA_FFI_F64, 1);
    case ASTHRA_FFI_CF64:
    case ASTHRA_FFI_CLDBL: return asthra__arm_alike_scalar(v, ASTHRA_FFI_F64, 2);
    case ASTHRA_FFI_ARRAY:
        if (t->count > 4 || !asthra__arm_alike(t->fields[0], v)) return false;
        v->count *= (unsigned)t->count;
        return v->count <= 4;
    case ASTHRA_FFI_STRUCT:
    case ASTHRA_FFI_UNION: return asthra__arm_alike_fields(t, v);
    default: return false;
    }
}

static Asthra__ARMVector asthra__arm_vector(const Asthra__FFIBuilder *b, const AsthraFFIType *t) {
    Asthra__ARMVector v = {ASTHRA_FFI_VOID, 0};
    if (b->plan->is_variadic || !asthra__arm_alike(t, &v)) v.count = 0;
    return v;
}

/* How many of s0-s15 it takes. */
static unsigned asthra__arm_width(Asthra__ARMVector v) {
    return v.base == ASTHRA_FFI_F64 ? 2 * v.count : v.count;
}

/* AAPCS32, natural alignment: of a composite the strictest of its members', as they lie, whatever
 * it says itself. 4 or 8. */
static size_t asthra__arm_alignment(const AsthraFFIType *t, Asthra__FFIShape shape) {
    size_t natural = 4, cap = t->size != 0 ? t->align : SIZE_MAX, end = 0;
    if (!asthra__ffi_is_block(t->kind))
        return t->kind == ASTHRA_FFI_CF32 || asthra__ffi_size_of(t->kind) < 8 ? 4 : 8;
    for (size_t i = 0; i < t->count; i++) {
        size_t size, align;
        (void)asthra_ffi_layout(t->fields[i], &size, &align, NULL);
        if (align > cap) align = cap;
        if (align > natural) natural = align;
        end = ((t->kind == ASTHRA_FFI_UNION ? 0 : end) + align - 1) / align * align + size;
        if (end > shape.size) return 4; /* packed */
    }
    return natural < 8 ? 4 : 8;
}

/* ---- results ---- */

ASTHRA__FN const char *asthra__ffi_begin(Asthra__FFIBuilder *b, const AsthraFFIType *result,
                                         Asthra__FFIShape shape) {
    b->plan->result_how = ASTHRA__ARM_REGISTERS;
    if (result == NULL) return NULL;
    bool is_number = asthra__ffi_is_integer(result->kind) ||
                     (result->kind >= ASTHRA_FFI_F32 && result->kind <= ASTHRA_FFI_LDBL);
    bool is_vector = asthra__arm_vector(b, result).count > 0;
    if (!is_number && !is_vector && shape.size > 4) {
        b->plan->result_how = ASTHRA__ARM_MEMORY;
        asthra__arm_step(b, asthra__ffi_general, ASTHRA__ARM_RETURN);
        b->ints = 1;
    } else if (shape.align > 8) {
        b->plan->result_how = ASTHRA__ARM_ALIGNED;
    }
    return NULL;
}

/* The step that stores the result. */
static void asthra__arm_store(Asthra__FFIBuilder *b) {
    const Asthra__FFIPlan *p = b->plan;
    Asthra__FFIShape shape = {0, 1};
    Asthra__ARMVector v = {ASTHRA_FFI_VOID, 0};
    if (p->result != NULL && p->result_how != ASTHRA__ARM_MEMORY) {
        (void)asthra__ffi_measure(p->result, &shape);
        v = asthra__arm_vector(b, p->result);
    }
    unsigned slot = shape.size <= 4 ? (unsigned)shape.size : 5;
    if (v.count > 0) slot = (v.base == ASTHRA_FFI_F64 ? 9 : 5) + v.count;
    if (v.count > 0 && shape.align < 4) slot = 14;
    asthra__arm_step(b, asthra__ffi_result, 2 * slot);
    if (slot == 14) asthra__ffi_emit(b, shape.size);
}

ASTHRA__FN void asthra__ffi_end(Asthra__FFIBuilder *b) {
    b->plan->has_vectors = b->floats != 0;
    asthra__arm_step(b, asthra__ffi_run, 0);
    asthra__arm_store(b);
    b->plan->stack_bytes = (uint32_t)((b->stack + 7) & ~(size_t)7);
}

/* ---- parameters ---- */

/* The place of an argument is in the frame; what asks for a stricter alignment than its place has
 * is copied for the handler. */
static void asthra__arm_place(Asthra__FFIPlace *place, Asthra__FFIShape shape, size_t offset) {
    place->offset = (uint32_t)offset;
    if (shape.align > 8 || offset % shape.align != 0)
        place->how = ASTHRA__FFI_HERE | ASTHRA__FFI_MOVED;
}

/* The lowest of s0-s15 from which on enough are free; 16: there are none, and none are any more. */
static unsigned asthra__arm_take(Asthra__FFIBuilder *b, Asthra__ARMVector v) {
    unsigned width = asthra__arm_width(v), stride = v.base == ASTHRA_FFI_F64 ? 2 : 1;
    unsigned mask = (1U << width) - 1;
    for (unsigned r = 0; r + width <= 16; r += stride)
        if ((b->floats & mask << r) == 0) {
            b->floats |= mask << r;
            return r;
        }
    b->floats = 0xffff;
    return 16;
}

static void asthra__arm_add_vector(Asthra__FFIBuilder *b, Asthra__ARMVector v,
                                   Asthra__FFIShape shape, unsigned r) {
    if (shape.align < 4) { /* vector loads want a multiple of 4 */
        asthra__arm_step(b, asthra__ffi_carry, ASTHRA__ARM_ARGUMENT_STEP);
        for (unsigned i = 0; i < asthra__arm_width(v); i++) {
            asthra__arm_step(b, asthra__ffi_carry, ASTHRA__ARM_WORD);
            asthra__arm_step(b, asthra__ffi_vector, 32 + r + i);
        }
        return;
    }
    for (unsigned i = 0; i < v.count; i++)
        if (v.base == ASTHRA_FFI_F64)
            asthra__arm_step(b, asthra__ffi_vector, (i == 0 ? 48 : 56) + r / 2 + i);
        else
            asthra__arm_step(b, asthra__ffi_vector, (i == 0 ? 0 : 16) + r + i);
}

/* Registers and stack as AAPCS32 has it, 6.5, stage C, rules 3 to 8. The frame of closures has the
 * stack behind r3, so an argument in both is in one piece there. */
static void asthra__arm_add_words(Asthra__FFIBuilder *b, AsthraFFIKind kind, Asthra__FFIShape shape,
                                  size_t align, Asthra__FFIPlace *place) {
    unsigned words = (unsigned)((shape.size + 3) / 4), r;
    if (align == 8) b->ints = (b->ints + 1) & ~1U;
    r = b->ints;
    if (r < 4 && (words <= 4 - r || b->stack == 0)) {
        b->ints = words <= 4 - r ? r + words : 4;
        if (r + words > 4) (void)asthra__ffi_stack(b, 4 * (size_t)(r + words - 4), 4);
        asthra__arm_place(place, shape, ASTHRA__ARM_FRAME_GENERAL + 4 * r);
    } else {
        size_t before = b->stack, at = asthra__ffi_stack(b, 4 * (size_t)words, align);
        if (at != before) asthra__arm_step(b, asthra__ffi_to_stack, ASTHRA__ARM_GAP);
        b->ints = r = 4;
        asthra__arm_place(place, shape, ASTHRA__ARM_FRAME_STACK + at);
    }
    asthra__arm_put(b, kind, shape, r);
}

ASTHRA__FN const char *asthra__ffi_add(Asthra__FFIBuilder *b, const AsthraFFIType *t,
                                       Asthra__FFIShape shape, Asthra__FFIPlace *place) {
    Asthra__ARMVector v = asthra__arm_vector(b, t);
    unsigned ints = b->ints, r = v.count > 0 ? asthra__arm_take(b, v) : 16;
    if (r < 16) {
        asthra__arm_add_vector(b, v, shape, r);
        asthra__arm_place(place, shape, ASTHRA__ARM_FRAME_VECTORS + 4 * r);
        return NULL;
    }
    if (v.count > 0) b->ints = 4; /* to the stack, but the general registers stay free */
    asthra__arm_add_words(b, t->kind, shape, asthra__arm_alignment(t, shape), place);
    if (v.count > 0) b->ints = ints;
    return NULL;
}

#endif
