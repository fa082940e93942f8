/* closure_aarch64 - stubs and entries for AArch64.                  [closure] body: processor
 *
 * The frame, offsets from its beginning, as ffi_aarch64_internal.h names them; arguments of the
 * stack follow at 288, so that one base serves for all:
 *
 *      0   x0 to x7                            208   result: x0, x1; or v0 to v3, 16 bytes of each
 *     64   x8, where a result goes; 8 unused   272   the caller's x29, return address
 *     80   v0 to v7, 16 bytes of each          288   the stack
 *
 * A stub brings its record in x17, and leaves it through x16: so it may go to a landing pad for
 * calls.
 */
#include "closure_internal.h"
#include "ffi_aarch64_internal.h"

#if ASTHRA_HAS_CLOSURE && ASTHRA__CPU_AARCH64

#include <string.h>

/* clang-format off */
/* record: x17 */
__asm__(ASTHRA__FFI_BEGIN("asthra__closure_entry")
        "hint #34\n"                    /* bti c */
        "sub sp, sp, #288\n"            /* sp: the frame */
        ".cfi_def_cfa_offset 288\n"
        "stp x29, x30, [sp, #272]\n"    /* a frame record, at 272 */
        ".cfi_offset x29, -16\n"
        ".cfi_offset x30, -8\n"
        "add x29, sp, #272\n"
        "stp x0, x1, [sp]\n"            /* arguments, from 0 */
        "stp x2, x3, [sp, #16]\n"
        "stp x4, x5, [sp, #32]\n"
        "stp x6, x7, [sp, #48]\n"
        "str x8, [sp, #64]\n"
        "stp q0, q1, [sp, #80]\n"
        "stp q2, q3, [sp, #112]\n"
        "stp q4, q5, [sp, #144]\n"
        "stp q6, q7, [sp, #176]\n"
        "mov x0, x17\n"                 /* x0: record */
        "mov x1, sp\n"                  /* x1: frame */
        "ldr x16, [x17, #8]\n"
        "blr x16\n"                     /* record->enter(record, frame) */
        "ldp x0, x1, [sp, #208]\n"      /* results, whichever of them count */
        "ldp q0, q1, [sp, #208]\n"
        "ldp q2, q3, [sp, #240]\n"
        "ldp x29, x30, [sp, #272]\n"
        ".cfi_restore x29\n"
        ".cfi_restore x30\n"
        "add sp, sp, #288\n"
        ".cfi_def_cfa_offset 0\n"
        "ret\n"
        ASTHRA__FFI_END("asthra__closure_entry"));

/* The same without vector registers, for a result of one word, which enter returns. */
__asm__(ASTHRA__FFI_BEGIN("asthra__closure_entry_word")
        "hint #34\n"                    /* bti c */
        "sub sp, sp, #288\n"            /* sp: the frame */
        ".cfi_def_cfa_offset 288\n"
        "stp x29, x30, [sp, #272]\n"    /* a frame record, at 272 */
        ".cfi_offset x29, -16\n"
        ".cfi_offset x30, -8\n"
        "add x29, sp, #272\n"
        "stp x0, x1, [sp]\n"            /* arguments, from 0 */
        "stp x2, x3, [sp, #16]\n"
        "stp x4, x5, [sp, #32]\n"
        "stp x6, x7, [sp, #48]\n"
        "mov x0, x17\n"                 /* x0: record */
        "mov x1, sp\n"                  /* x1: frame */
        "ldr x16, [x17, #8]\n"
        "blr x16\n"                     /* x0 = record->enter(record, frame) */
        "ldp x29, x30, [sp, #272]\n"
        ".cfi_restore x29\n"
        ".cfi_restore x30\n"
        "add sp, sp, #288\n"
        ".cfi_def_cfa_offset 0\n"
        "ret\n"
        ASTHRA__FFI_END("asthra__closure_entry_word"));

/* The program's own stubs, 16 bytes each, and where they find the first record, of 64. */
__asm__(ASTHRA__FFI_WORD("asthra__closure_records")
        ASTHRA__FFI_BEGIN("asthra__closure_stubs")
        ".set asthra__stub, 0\n"
        ".rept 128\n"
        ".p2align 4\n"
        "hint #34\n"                    /* bti c */
        "mov x17, #64 * asthra__stub\n"
        ".set asthra__stub, asthra__stub + 1\n"
        "b 1f\n"
        ".endr\n"
        "1:\n"
        "adrp x16, asthra__closure_records\n"
        "ldr x16, [x16, #:lo12:asthra__closure_records]\n"
        "add x17, x17, x16\n"           /* x17: record */
        "ldr x16, [x17]\n"              /* record->entry */
        "br x16\n"
        ASTHRA__FFI_END("asthra__closure_stubs"));
/* clang-format on */

ASTHRA__FFI_CODE void asthra__closure_entry(void) __asm__("asthra__closure_entry");
ASTHRA__FFI_CODE void asthra__closure_entry_word(void) __asm__("asthra__closure_entry_word");

/* bti c; adr x17, record; ldr x16, [x17]; br x16 */
ASTHRA__FN void asthra__closure_write(unsigned char *bytes, uintptr_t at, uintptr_t record) {
    uint32_t distance = (uint32_t)(record - (at + 4)); /* below 1 MiB */
    uint32_t stub[] = {0xd503245f, 0x10000011 | (distance & 3) << 29 | distance >> 2 << 5,
                       0xf9400230, 0xd61f0200};
    _Static_assert(sizeof stub == ASTHRA__CLOSURE_STUB, "a stub");
    memcpy(bytes, stub, sizeof stub);
}

ASTHRA__FN void *asthra__closure_entry_of(const Asthra__FFIPlan *p, bool is_plain,
                                          Asthra__ClosureResult *how) {
    if (!is_plain || p->has_vectors ||
        (p->result_size != 0 && !asthra__ffi_is_integer((AsthraFFIKind)p->result_kind)))
        return (void *)(uintptr_t)asthra__closure_entry;
    *how = ASTHRA__CLOSURE_WORD;
    return (void *)(uintptr_t)asthra__closure_entry_word;
}

ASTHRA__FN void *asthra__closure_result(const Asthra__FFIPlan *p, char *frame) {
    void *result = frame + ASTHRA__A_FRAME_RESULT;
    if (p->result_how == ASTHRA__A_MEMORY)
        memcpy(&result, frame + ASTHRA__A_FRAME_HIDDEN, sizeof result);
    return result;
}

/* Elements go apart, from the last on: to the beginning of 16 bytes each. */
static void asthra__a_spread(char *result, size_t element, size_t count) {
    for (size_t i = count; i-- > 1;)
        memmove(result + 16 * i, result + element * i, element == 4 ? 4 : 8);
}

/* Integers are widened to 64 bits, though nobody may rely on it. */
ASTHRA__FN uint64_t asthra__closure_finish(const Asthra__FFIPlan *p, char *frame) {
    char *result = frame + ASTHRA__A_FRAME_RESULT;
    if (p->result_how == ASTHRA__A_MEMORY) return 0;
    if (p->result_how != ASTHRA__A_GENERAL) {
        size_t element = p->result_how >> 3;
        if (element < 16) asthra__a_spread(result, element, p->result_how & 7U);
    } else if (asthra__ffi_is_integer((AsthraFFIKind)p->result_kind)) {
        uint64_t wide = asthra__ffi_widen((AsthraFFIKind)p->result_kind, result);
        memcpy(result, &wide, sizeof wide);
    }
    return 0;
}

#endif
