/* closure_riscv64 - stubs and entries for RISC-V 64.                [closure] body: processor
 *
 * The frame, offsets from its beginning, as ffi_riscv64_internal.h names them. a0 to a7 lie right
 * below the arguments of the stack, which follow at 272: one may begin in a7 and end there.
 *
 *      0   fa0 to fa7                                        192   the caller's s0, return address
 *     64   result: 128 bytes of it; or a0, a1, fa0, fa1      208   a0 to a7
 *
 * A stub brings its record in t3, and leaves it through t2, which asks for no landing pad. With the
 * one that it has itself, for calls, it needs more than 16 bytes.
 */
#include "closure_internal.h"
#include "ffi_riscv64_internal.h"

#if ASTHRA_HAS_CLOSURE && ASTHRA__CPU_RISCV64

#include <string.h>

/* clang-format off */
/* record: t3 */
__asm__(ASTHRA__FFI_BEGIN("asthra__closure_entry")
        "addi sp, sp, -272\n"           /* sp: the frame */
        ".cfi_def_cfa_offset 272\n"
        "sd ra, 200(sp)\n"              /* the return address, at 200 */
        ".cfi_offset ra, -72\n"
        "sd s0, 192(sp)\n"              /* the caller's s0, at 192 */
        ".cfi_offset s0, -80\n"
        "addi s0, sp, 208\n"            /* a frame record, for those who walk along s0 */
        ".irp r, 0, 1, 2, 3, 4, 5, 6, 7\n"
        "sd a\\r, 208 + 8 * \\r(sp)\n"  /* arguments */
        ".endr\n"
        ".irp r, 0, 1, 2, 3, 4, 5, 6, 7\n"
        "fsd fa\\r, 8 * \\r(sp)\n"
        ".endr\n"
        "mv a0, t3\n"                   /* a0: record */
        "mv a1, sp\n"                   /* a1: frame */
        "ld t2, 8(t3)\n"
        "jalr t2\n"                     /* record->enter(record, frame) */
        "ld a0, 64(sp)\n"               /* results, whichever of them count */
        "ld a1, 72(sp)\n"
        "fld fa0, 80(sp)\n"
        "fld fa1, 88(sp)\n"
        "ld ra, 200(sp)\n"
        ".cfi_restore ra\n"
        "ld s0, 192(sp)\n"
        ".cfi_restore s0\n"
        "addi sp, sp, 272\n"
        ".cfi_def_cfa_offset 0\n"
        "ret\n"
        ASTHRA__FFI_END("asthra__closure_entry"));

/* The same without fa0 to fa7, for a result of one word, which enter returns. */
__asm__(ASTHRA__FFI_BEGIN("asthra__closure_entry_word")
        "addi sp, sp, -272\n"           /* sp: the frame */
        ".cfi_def_cfa_offset 272\n"
        "sd ra, 200(sp)\n"              /* the return address, at 200 */
        ".cfi_offset ra, -72\n"
        "sd s0, 192(sp)\n"              /* the caller's s0, at 192 */
        ".cfi_offset s0, -80\n"
        "addi s0, sp, 208\n"            /* a frame record, for those who walk along s0 */
        ".irp r, 0, 1, 2, 3, 4, 5, 6, 7\n"
        "sd a\\r, 208 + 8 * \\r(sp)\n"  /* arguments */
        ".endr\n"
        "mv a0, t3\n"                   /* a0: record */
        "mv a1, sp\n"                   /* a1: frame */
        "ld t2, 8(t3)\n"
        "jalr t2\n"                     /* a0 = record->enter(record, frame) */
        "ld ra, 200(sp)\n"
        ".cfi_restore ra\n"
        "ld s0, 192(sp)\n"
        ".cfi_restore s0\n"
        "addi sp, sp, 272\n"
        ".cfi_def_cfa_offset 0\n"
        "ret\n"
        ASTHRA__FFI_END("asthra__closure_entry_word"));

/* The program's own stubs, 32 bytes each, and where they find the first record, of 64. */
__asm__(ASTHRA__FFI_WORD("asthra__closure_records")
        ASTHRA__FFI_BEGIN("asthra__closure_stubs")
        ".set asthra__stub, 0\n"
        ".rept 128\n"
        ".p2align 5\n"
        "auipc zero, 0\n"               /* lpad 0 */
        "li t3, 64 * asthra__stub\n"
        ".set asthra__stub, asthra__stub + 1\n"
        "j 1f\n"
        ".endr\n"
        "1:\n"
        "lla t4, asthra__closure_records\n"
        "ld t4, 0(t4)\n"
        "add t3, t3, t4\n"              /* t3: record */
        "ld t2, 0(t3)\n"                /* record->entry */
        "jr t2\n"
        ASTHRA__FFI_END("asthra__closure_stubs"));
/* clang-format on */

ASTHRA__FFI_CODE void asthra__closure_entry(void) __asm__("asthra__closure_entry");
ASTHRA__FFI_CODE void asthra__closure_entry_word(void) __asm__("asthra__closure_entry_word");

/* lpad 0; auipc t3, record; addi t3, t3, record; ld t2, 0(t3); jr t2 */
ASTHRA__FN void asthra__closure_write(unsigned char *bytes, uintptr_t at, uintptr_t record) {
    uint32_t distance = (uint32_t)(record - (at + 4)), high = distance + 0x800;
    uint32_t stub[ASTHRA__CLOSURE_STUB / 4] = {0x00000017, 0x00000e17 | (high & 0xfffff000),
                                               0x000e0e13 | distance << 20, 0x000e3383, 0x00038067};
    memcpy(bytes, stub, sizeof stub);
}

/* What enter returns has not the sign that a u32 needs. */
ASTHRA__FN void *asthra__closure_entry_of(const Asthra__FFIPlan *p, bool is_plain,
                                          Asthra__ClosureResult *how) {
    if (!is_plain || p->has_vectors || p->result_kind == ASTHRA_FFI_U32 ||
        (p->result_size != 0 && !asthra__ffi_is_integer((AsthraFFIKind)p->result_kind)))
        return (void *)(uintptr_t)asthra__closure_entry;
    *how = ASTHRA__CLOSURE_WORD;
    return (void *)(uintptr_t)asthra__closure_entry_word;
}

ASTHRA__FN void *asthra__closure_result(const Asthra__FFIPlan *p, char *frame) {
    void *result = frame + ASTHRA__R_FRAME_RESULT;
    if (p->result_how == ASTHRA__R_MEMORY)
        memcpy(&result, frame + ASTHRA__R_FRAME_GENERAL, sizeof result);
    return result;
}

/* A scalar as its register has it: an integer of 32 bits with its sign, whatever its type; a float
 * below ones. */
static uint64_t asthra__r_scalar(unsigned kind, const char *value) {
    uint32_t narrow;
    uint64_t wide;
    memcpy(&narrow, value, sizeof narrow);
    memcpy(&wide, value, sizeof wide);
    if (kind == ASTHRA_FFI_U32) return (uint64_t)(int64_t)(int32_t)narrow;
    if (kind == ASTHRA_FFI_F32) return narrow | (uint64_t)UINT32_MAX << 32;
    return kind == ASTHRA_FFI_F64 ? wide : asthra__ffi_widen((AsthraFFIKind)kind, value);
}

/* To the places of a0, a1, fa0, fa1. */
ASTHRA__FN uint64_t asthra__closure_finish(const Asthra__FFIPlan *p, char *frame) {
    char *result = frame + ASTHRA__R_FRAME_RESULT;
    unsigned kinds[] = {p->result_how & 15U, p->result_how >> 4}, words = 0, floats = 2;
    uint64_t to[4] = {0}, values[2];
    if (p->result_how == ASTHRA__R_MEMORY) return 0;
    if (p->result_how == ASTHRA__R_WORDS) {
        if (!asthra__ffi_is_integer((AsthraFFIKind)p->result_kind)) return 0;
        to[0] = asthra__r_scalar(p->result_kind, result);
        memcpy(result, to, sizeof *to);
        return 0;
    }
    values[0] = asthra__r_scalar(kinds[0], result);
    values[1] = kinds[1] != 0 ? asthra__r_scalar(kinds[1], result + p->result_split) : 0;
    for (unsigned i = 0; i < 2; i++)
        to[kinds[i] == ASTHRA_FFI_F32 || kinds[i] == ASTHRA_FFI_F64 ? floats++ : words++] =
            values[i];
    memcpy(result, to, sizeof to);
    return 0;
}

#endif
