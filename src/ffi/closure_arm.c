/* closure_arm - stubs and entries for 32-bit ARM.                   [closure] body: processor
 *
 * The frame, offsets from its beginning, as ffi_arm_internal.h names them; the stack's arguments
 * follow behind r3, as if there were more registers of that kind:
 *
 *      0   d0 to d7, or s0 to s15              128   the caller's r7    132   return address
 *     64   results: r0, r1; or d0 to d3        136   r0, r1, r2, r3
 *
 * Which registers have the result is not asked: the same bytes are loaded into both. A stub brings
 * its record in r12, the one register that is nobody's between a call and a function's entry.
 * Mapped stubs are ARM code; the program's own are as what is compiled around them.
 */
#include "closure_internal.h"
#include "ffi_arm_internal.h"

#if ASTHRA_HAS_CLOSURE && ASTHRA__CPU_ARM

#include <string.h>

/* clang-format off */
/* record: r12 */
__asm__(ASTHRA__ARM_BEGIN("asthra__closure_entry")
        "push {r0-r3}\n"                /* arguments, at 136 */
        ".pad #16\n"
        ".cfi_adjust_cfa_offset 16\n"
        "push {r7, lr}\n"               /* the caller's r7 and return address, at 128 */
        ".save {r7, lr}\n"
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset r7, 0\n"
        ".cfi_rel_offset lr, 4\n"
        "mov r7, sp\n"
        ".setfp r7, sp\n"
        ".cfi_def_cfa_register r7\n"
        "sub sp, sp, #64\n"
        "vpush {d0-d7}\n"               /* arguments, at 0; sp: the frame, 8-aligned */
        "mov r0, r12\n"                 /* r0: record */
        "mov r1, sp\n"                  /* r1: frame */
        "ldr r12, [r12, #4]\n"
        "blx r12\n"                     /* record->enter(record, frame) */
        "sub r12, r7, #64\n"            /* r12: results */
        "vldmia r12, {d0-d3}\n"
        "ldmia r12, {r0, r1}\n"
        "mov sp, r7\n"
        ".cfi_def_cfa_register sp\n"
        "pop {r7, lr}\n"
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore r7\n"
        ".cfi_restore lr\n"
        "add sp, sp, #16\n"
        ".cfi_adjust_cfa_offset -16\n"
        "bx lr\n"
        ASTHRA__ARM_END("asthra__closure_entry"));

/* The same without vector registers, for a result of one word or two, which enter returns. Of the
 * frame there is only what lies behind offset 128. */
__asm__(ASTHRA__ARM_BEGIN("asthra__closure_entry_word")
        "push {r0-r3}\n"                /* arguments, at 136 */
        ".pad #16\n"
        ".cfi_adjust_cfa_offset 16\n"
        "push {r7, lr}\n"               /* the caller's r7 and return address, at 128 */
        ".save {r7, lr}\n"
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset r7, 0\n"
        ".cfi_rel_offset lr, 4\n"
        "mov r0, r12\n"                 /* r0: record */
        "sub r1, sp, #128\n"            /* r1: frame */
        "ldr r12, [r12, #4]\n"
        "blx r12\n"                     /* r0, r1 = record->enter(record, frame) */
        "pop {r7, lr}\n"
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore r7\n"
        ".cfi_restore lr\n"
        "add sp, sp, #16\n"
        ".cfi_adjust_cfa_offset -16\n"
        "bx lr\n"
        ASTHRA__ARM_END("asthra__closure_entry_word"));

/* The program's own stubs, 16 bytes each, and where they find the first record, of 32. */
__asm__(ASTHRA__FFI_WORD("asthra__closure_records")
        ASTHRA__ARM_BEGIN("asthra__closure_stubs")
        ".set asthra__stub, 0\n"
        ".rept 128\n"
        ".p2align 4\n"
        "mov r12, #32 * asthra__stub\n"
        ".set asthra__stub, asthra__stub + 1\n"
        "b 1f\n"
        ".endr\n"
        ".p2align 2\n"
        "1:\n"
        "push {r0}\n"                   /* an argument's: there is no register left */
        ".cfi_adjust_cfa_offset 4\n"
        "ldr r0, 3f\n"
        "2:\n"
        "add r0, r0, pc\n"
        "ldr r0, [r0]\n"                /* r0: records */
        "add r12, r12, r0\n"            /* r12: record */
        "pop {r0}\n"
        ".cfi_adjust_cfa_offset -4\n"
        "ldr pc, [r12]\n"               /* record->entry */
        ".p2align 2\n"
        "3:\n"
        ".word asthra__closure_records - (2b + " ASTHRA__ARM_AHEAD ")\n"
        ASTHRA__ARM_END("asthra__closure_stubs"));
/* clang-format on */

ASTHRA__FFI_CODE void asthra__closure_entry(void) __asm__("asthra__closure_entry");
ASTHRA__FFI_CODE void asthra__closure_entry_word(void) __asm__("asthra__closure_entry_word");
_Static_assert(ASTHRA__CLOSURE_FIXED == 128 && ASTHRA__CLOSURE_RECORD == 32, "the stubs above");

/* ldr r12, [pc, #0]; ldr pc, [r12]; and what the first loads */
ASTHRA__FN void asthra__closure_write(unsigned char *bytes, uintptr_t at, uintptr_t record) {
    uint32_t stub[] = {0xe59fc000, 0xe59cf000, (uint32_t)record, 0xe7f000f0};
    _Static_assert(sizeof stub == ASTHRA__CLOSURE_STUB, "a stub");
    (void)at;
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

/* Vector registers may hold what is aligned more strictly than the frame: to up to 32 bytes. */
ASTHRA__FN void *asthra__closure_result(const Asthra__FFIPlan *p, char *frame) {
    char *result = frame + ASTHRA__ARM_FRAME_RESULT;
    if (p->result_how == ASTHRA__ARM_ALIGNED) result += -(uintptr_t)result & 31;
    if (p->result_how == ASTHRA__ARM_MEMORY)
        memcpy(&result, frame + ASTHRA__ARM_FRAME_GENERAL, sizeof result);
    return result;
}

/* Integers are widened to 64 bits: callers may rely on 32 of them. */
ASTHRA__FN uint64_t asthra__closure_finish(const Asthra__FFIPlan *p, char *frame) {
    char *result = frame + ASTHRA__ARM_FRAME_RESULT;
    uint64_t wide;
    if (p->result_how == ASTHRA__ARM_MEMORY)
        memcpy(result, frame + ASTHRA__ARM_FRAME_GENERAL, sizeof(void *));
    if (p->result_how == ASTHRA__ARM_ALIGNED)
        memmove(result, asthra__closure_result(p, frame), p->result_size);
    if (asthra__ffi_is_integer((AsthraFFIKind)p->result_kind)) {
        wide = asthra__ffi_widen((AsthraFFIKind)p->result_kind, result);
        memcpy(result, &wide, sizeof wide);
    }
    return 0;
}

#endif
