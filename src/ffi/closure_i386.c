/* closure_i386 - stubs and entries for i386.                        [closure] body: processor
 *
 * The frame, offsets from its beginning, as ffi_i386_internal.h names them:
 *
 *      0   results: eax, edx; or st0            20   return address
 *     16   the caller's ebp                     24   arguments, from the stack
 *
 * A stub brings its record in ecx, which cdecl neither keeps nor passes arguments in. Where the
 * caller has said where the result goes, its word for that is the first argument, and taken off the
 * stack by an entry of its own.
 */
#include "closure_internal.h"
#include "ffi_i386_internal.h"

#if ASTHRA_HAS_CLOSURE && ASTHRA__CPU_I386

#include <string.h>

/* clang-format off */
/* record: ecx */
#define ASTHRA__I_ENTER                                                                 \
    ASTHRA__I_PAD                                                                       \
    "pushl %ebp\n"                      /* the caller's ebp, at 16 */                   \
    ".cfi_def_cfa_offset 8\n"                                                           \
    ".cfi_offset %ebp, -8\n"                                                            \
    "movl %esp, %ebp\n"                                                                 \
    ".cfi_def_cfa_register %ebp\n"                                                      \
    "subl $24, %esp\n"                                                                  \
    "leal -16(%ebp), %eax\n"            /* eax: frame */                                \
    "andl $-16, %esp\n"                 /* not every caller has its stack aligned */    \
    "movl %ecx, (%esp)\n"                                                               \
    "movl %eax, 4(%esp)\n"                                                              \
    "call *4(%ecx)\n"                   /* eax, edx = record->enter(record, frame) */
#define ASTHRA__I_EXIT       \
    "leave\n"                \
    ".cfi_def_cfa %esp, 4\n" \
    ".cfi_restore %ebp\n"
__asm__(ASTHRA__FFI_BEGIN("asthra__closure_entry")
        ASTHRA__I_ENTER
        "testl %eax, %eax\n"
        "jnz 1f\n"
        "movl -16(%ebp), %eax\n"        /* results */
        "movl -12(%ebp), %edx\n"
        ".cfi_remember_state\n"
        ASTHRA__I_EXIT
        "ret\n"
        ".cfi_restore_state\n"
        "1:\n"                          /* eax: float, double or long double */
        "cmpl $2, %eax\n"
        "ja 3f\n"
        "je 2f\n"
        "flds -16(%ebp)\n"
        ".cfi_remember_state\n"
        ASTHRA__I_EXIT
        "ret\n"
        ".cfi_restore_state\n"
        "2:\n"
        "fldl -16(%ebp)\n"
        ".cfi_remember_state\n"
        ASTHRA__I_EXIT
        "ret\n"
        ".cfi_restore_state\n"
        "3:\n"
        "fldt -16(%ebp)\n"
        ASTHRA__I_EXIT
        "ret\n"
        ASTHRA__FFI_END("asthra__closure_entry"));

/* The same for a result of one word or two, which enter returns. */
__asm__(ASTHRA__FFI_BEGIN("asthra__closure_entry_word")
        ASTHRA__I_ENTER
        ASTHRA__I_EXIT
        "ret\n"
        ASTHRA__FFI_END("asthra__closure_entry_word"));

/* The same where the caller has said where the result goes. */
__asm__(ASTHRA__FFI_BEGIN("asthra__closure_entry_memory")
        ASTHRA__I_ENTER
        "movl 8(%ebp), %eax\n"
        ASTHRA__I_EXIT
        "ret $4\n"
        ASTHRA__FFI_END("asthra__closure_entry_memory"));

/* The program's own stubs, 16 bytes each, and where they find the first record, of 32. */
__asm__(ASTHRA__FFI_WORD("asthra__closure_records")
        ASTHRA__FFI_BEGIN("asthra__closure_stubs")
        ".set asthra__stub, 0\n"
        ".rept 128\n"
        ".p2align 4\n"
        ASTHRA__I_PAD
        "movl $32 * asthra__stub, %ecx\n"
        ".set asthra__stub, asthra__stub + 1\n"
        "jmp 1f\n"
        ".endr\n"
        "1:\n"
        "call 3f\n"
        "2:\n"
        "addl asthra__closure_records - 2b(%eax), %ecx\n" /* ecx: record */
        "jmp *(%ecx)\n"                                   /* record->entry */
        "3:\n"
        ".cfi_adjust_cfa_offset 4\n"
        "movl (%esp), %eax\n"           /* eax: 2 */
        "ret\n"
        ASTHRA__FFI_END("asthra__closure_stubs"));
/* clang-format on */

ASTHRA__FFI_CODE void asthra__closure_entry(void) __asm__("asthra__closure_entry");
ASTHRA__FFI_CODE void asthra__closure_entry_word(void) __asm__("asthra__closure_entry_word");
ASTHRA__FFI_CODE void asthra__closure_entry_memory(void) __asm__("asthra__closure_entry_memory");
_Static_assert(ASTHRA__CLOSURE_FIXED == 128 && ASTHRA__CLOSURE_RECORD == 32, "the stubs above");

/* endbr32, where it is wanted; movl $record, %ecx; jmp *(%ecx) */
ASTHRA__FN void asthra__closure_write(unsigned char *bytes, uintptr_t at, uintptr_t record) {
    static const unsigned char pad[] = {0xf3, 0x0f, 0x1e, 0xfb}, jump[] = {0xff, 0x21};
    bool has_pad = sizeof ASTHRA__I_PAD > 1;
    (void)at;
    memset(bytes, 0xcc, ASTHRA__CLOSURE_STUB);
    if (has_pad) memcpy(bytes, pad, sizeof pad);
    bytes += has_pad ? sizeof pad : 0;
    bytes[0] = 0xb9;
    memcpy(bytes + 1, &record, 4);
    memcpy(bytes + 5, jump, sizeof jump);
}

ASTHRA__FN void *asthra__closure_entry_of(const Asthra__FFIPlan *p, bool is_plain,
                                          Asthra__ClosureResult *how) {
    if (p->result_how == ASTHRA__I_MEMORY) return (void *)(uintptr_t)asthra__closure_entry_memory;
    if (!is_plain ||
        (p->result_size != 0 && !asthra__ffi_is_integer((AsthraFFIKind)p->result_kind)))
        return (void *)(uintptr_t)asthra__closure_entry;
    *how = ASTHRA__CLOSURE_WORD;
    return (void *)(uintptr_t)asthra__closure_entry_word;
}

ASTHRA__FN void *asthra__closure_result(const Asthra__FFIPlan *p, char *frame) {
    void *result = frame;
    if (p->result_how == ASTHRA__I_MEMORY)
        memcpy(&result, frame + ASTHRA__I_FRAME_STACK, sizeof result);
    return result;
}

/* Integers are widened to 64 bits: callers may rely on 32 of them. */
ASTHRA__FN uint64_t asthra__closure_finish(const Asthra__FFIPlan *p, char *frame) {
    if (asthra__ffi_is_integer((AsthraFFIKind)p->result_kind)) {
        uint64_t wide = asthra__ffi_widen((AsthraFFIKind)p->result_kind, frame);
        memcpy(frame, &wide, sizeof wide);
    }
    return p->result_how;
}

#endif
