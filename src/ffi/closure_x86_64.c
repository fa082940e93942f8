/* closure_x86_64 - stubs and entries for x86-64.                    [closure] body: processor
 *
 * The frame, offsets from its beginning, as ffi_internal.h names them; arguments of the stack
 * follow at 176, so that one base serves for all:
 *
 *      0   rdi, rsi, rdx, rcx, r8, r9          112   results: rax, rdx; or st0
 *     48   xmm0 to xmm7, 8 bytes of each       128   results: xmm0, xmm1; or st1
 *    160   the caller's rbp                    168   return address
 *
 * A stub brings its record in r10, which neither ABI keeps or passes arguments in. Under Win64 rdi,
 * rsi and xmm6 to xmm15 are the caller's: they are kept below the frame.
 */
#include "closure_internal.h"
#include "ffi_x86_64_internal.h"

#if ASTHRA_HAS_CLOSURE && ASTHRA__CPU_X86_64

#include <string.h>

/* clang-format off */
/* record: r10 */
__asm__(ASTHRA__FFI_BEGIN("asthra__closure_entry")
        "endbr64\n"
        "pushq %rbp\n"                  /* the caller's rbp, at 160 */
        ".cfi_def_cfa_offset 16\n"
        ".cfi_offset %rbp, -16\n"
        "movq %rsp, %rbp\n"
        ".cfi_def_cfa_register %rbp\n"
        "subq $160, %rsp\n"             /* rsp: the frame, 16-aligned */
        "movq %rdi, (%rsp)\n"           /* arguments, from 0 */
        "movq %rsi, 8(%rsp)\n"
        "movq %rdx, 16(%rsp)\n"
        "movq %rcx, 24(%rsp)\n"
        "movq %r8, 32(%rsp)\n"
        "movq %r9, 40(%rsp)\n"
        "movsd %xmm0, 48(%rsp)\n"
        "movsd %xmm1, 56(%rsp)\n"
        "movsd %xmm2, 64(%rsp)\n"
        "movsd %xmm3, 72(%rsp)\n"
        "movsd %xmm4, 80(%rsp)\n"
        "movsd %xmm5, 88(%rsp)\n"
        "movsd %xmm6, 96(%rsp)\n"
        "movsd %xmm7, 104(%rsp)\n"
        "movq %r10, %rdi\n"             /* rdi: record */
        "movq %rsp, %rsi\n"             /* rsi: frame */
        "callq *8(%r10)\n"              /* eax = record->enter(record, frame) */
        "testl %eax, %eax\n"
        "jnz 1f\n"
        "movq 112(%rsp), %rax\n"        /* results, whichever of them count */
        "movq 120(%rsp), %rdx\n"
        "movsd 128(%rsp), %xmm0\n"
        "movsd 136(%rsp), %xmm1\n"
        ".cfi_remember_state\n"
        "leave\n"
        ".cfi_def_cfa %rsp, 8\n"
        ".cfi_restore %rbp\n"
        "ret\n"
        ".cfi_restore_state\n"
        "1:\n"                          /* one long double, or two: the second goes below */
        "cmpl $1, %eax\n"
        "je 2f\n"
        "fldt 128(%rsp)\n"
        "2:\n"
        "fldt 112(%rsp)\n"
        "leave\n"
        ".cfi_def_cfa %rsp, 8\n"
        ".cfi_restore %rbp\n"
        "ret\n"
        ASTHRA__FFI_END("asthra__closure_entry"));

/* The same without vector registers, for a result of one word, which enter returns. The frame has
 * 168 bytes: the caller's rbp is where it was. */
__asm__(ASTHRA__FFI_BEGIN("asthra__closure_entry_word")
        "endbr64\n"
        "subq $168, %rsp\n"             /* rsp: the frame, 16-aligned */
        ".cfi_def_cfa_offset 176\n"
        "movq %rdi, (%rsp)\n"           /* arguments, from 0 */
        "movq %rsi, 8(%rsp)\n"
        "movq %rdx, 16(%rsp)\n"
        "movq %rcx, 24(%rsp)\n"
        "movq %r8, 32(%rsp)\n"
        "movq %r9, 40(%rsp)\n"
        "movq %r10, %rdi\n"             /* rdi: record */
        "movq %rsp, %rsi\n"             /* rsi: frame */
        "callq *8(%r10)\n"              /* rax = record->enter(record, frame) */
        "addq $168, %rsp\n"
        ".cfi_def_cfa_offset 8\n"
        "ret\n"
        ASTHRA__FFI_END("asthra__closure_entry_word"));

/* And without general registers, for results in vector registers. */
__asm__(ASTHRA__FFI_BEGIN("asthra__closure_entry_vectors")
        "endbr64\n"
        "subq $168, %rsp\n"             /* rsp: the frame, 16-aligned */
        ".cfi_def_cfa_offset 176\n"
        "movsd %xmm0, 48(%rsp)\n"       /* arguments */
        "movsd %xmm1, 56(%rsp)\n"
        "movsd %xmm2, 64(%rsp)\n"
        "movsd %xmm3, 72(%rsp)\n"
        "movsd %xmm4, 80(%rsp)\n"
        "movsd %xmm5, 88(%rsp)\n"
        "movsd %xmm6, 96(%rsp)\n"
        "movsd %xmm7, 104(%rsp)\n"
        "movq %r10, %rdi\n"             /* rdi: record */
        "movq %rsp, %rsi\n"             /* rsi: frame */
        "callq *8(%r10)\n"              /* record->enter(record, frame) */
        "movsd 128(%rsp), %xmm0\n"      /* results */
        "movsd 136(%rsp), %xmm1\n"
        "addq $168, %rsp\n"
        ".cfi_def_cfa_offset 8\n"
        "ret\n"
        ASTHRA__FFI_END("asthra__closure_entry_vectors"));

/* record: r10. The frame begins 160 bytes above rsp: below it are xmm6 to xmm15. */
__asm__(ASTHRA__FFI_BEGIN("asthra__closure_entry_win64")
        "endbr64\n"
        "pushq %rbp\n"
        ".cfi_def_cfa_offset 16\n"
        ".cfi_offset %rbp, -16\n"
        "movq %rsp, %rbp\n"
        ".cfi_def_cfa_register %rbp\n"
        "subq $320, %rsp\n"             /* rsp + 160: the frame */
        "movq %rdi, 160(%rsp)\n"        /* the caller's, in slots that hold no argument */
        ".cfi_offset %rdi, -176\n"
        "movq %rsi, 168(%rsp)\n"
        ".cfi_offset %rsi, -168\n"
        ".irp r, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
        "movaps %xmm\\r, 16 * (\\r - 6)(%rsp)\n"
        ".cfi_offset %xmm\\r, 16 * (\\r - 6) - 336\n"
        ".endr\n"
        "movq %rdx, 176(%rsp)\n"        /* arguments */
        "movq %rcx, 184(%rsp)\n"
        "movq %r8, 192(%rsp)\n"
        "movq %r9, 200(%rsp)\n"
        "movsd %xmm0, 208(%rsp)\n"
        "movsd %xmm1, 216(%rsp)\n"
        "movsd %xmm2, 224(%rsp)\n"
        "movsd %xmm3, 232(%rsp)\n"
        "movq %r10, %rdi\n"             /* rdi: record */
        "leaq 160(%rsp), %rsi\n"        /* rsi: frame */
        "cld\n"
        "callq *8(%r10)\n"
        "movq 272(%rsp), %rax\n"        /* results */
        "movsd 288(%rsp), %xmm0\n"
        ".irp r, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
        "movaps 16 * (\\r - 6)(%rsp), %xmm\\r\n"
        ".endr\n"
        "movq 168(%rsp), %rsi\n"
        "movq 160(%rsp), %rdi\n"
        "leave\n"
        ".cfi_def_cfa %rsp, 8\n"
        "ret\n"
        ASTHRA__FFI_END("asthra__closure_entry_win64"));

/* The program's own stubs, 16 bytes each, and where they find the first record, of 64. */
__asm__(ASTHRA__FFI_WORD("asthra__closure_records")
        ASTHRA__FFI_BEGIN("asthra__closure_stubs")
        ".set asthra__stub, 0\n"
        ".rept 128\n"
        ".p2align 4\n"
        "endbr64\n"
        "movl $64 * asthra__stub, %r10d\n"
        ".set asthra__stub, asthra__stub + 1\n"
        "jmp 1f\n"
        ".endr\n"
        "1:\n"
        "addq asthra__closure_records(%rip), %r10\n" /* r10: record */
        "jmpq *(%r10)\n"                             /* record->entry */
        ASTHRA__FFI_END("asthra__closure_stubs"));
/* clang-format on */

ASTHRA__FFI_CODE void asthra__closure_entry(void) __asm__("asthra__closure_entry");
ASTHRA__FFI_CODE void asthra__closure_entry_word(void) __asm__("asthra__closure_entry_word");
ASTHRA__FFI_CODE void asthra__closure_entry_vectors(void) __asm__("asthra__closure_entry_vectors");
ASTHRA__FFI_CODE void asthra__closure_entry_win64(void) __asm__("asthra__closure_entry_win64");

/* endbr64; leaq record(%rip), %r10; jmpq *(%r10) */
ASTHRA__FN void asthra__closure_write(unsigned char *bytes, uintptr_t at, uintptr_t record) {
    static const unsigned char stub[ASTHRA__CLOSURE_STUB] = {
        0xf3, 0x0f, 0x1e, 0xfa, 0x4c, 0x8d, 0x15, 0, 0, 0, 0, 0x41, 0xff, 0x22, 0xcc, 0xcc};
    int32_t distance = (int32_t)(record - (at + 11));
    memcpy(bytes, stub, sizeof stub);
    memcpy(bytes + 7, &distance, sizeof distance);
}

/* No general register has an argument. */
static bool asthra__closure_takes_vectors(const Asthra__FFIPlan *p) {
    const Asthra__FFIPlace *places = asthra__ffi_places((Asthra__FFIPlan *)(uintptr_t)p);
    size_t i = 0;
    while (i < p->parameters && places[i].offset >= ASTHRA__X_FRAME_VECTORS) i++;
    return i == p->parameters;
}

ASTHRA__FN void *asthra__closure_entry_of(const Asthra__FFIPlan *p, bool is_plain,
                                          Asthra__ClosureResult *how) {
    if (p->abi == ASTHRA_FFI_ABI_WIN64) return (void *)(uintptr_t)asthra__closure_entry_win64;
    if (is_plain && p->result_how == ASTHRA__X_VV) {
        *how = ASTHRA__CLOSURE_AS_IS;
        if (asthra__closure_takes_vectors(p))
            return (void *)(uintptr_t)asthra__closure_entry_vectors;
    }
    if (!is_plain || p->has_vectors || p->is_variadic ||
        (p->result_size != 0 && !asthra__ffi_is_integer((AsthraFFIKind)p->result_kind)))
        return (void *)(uintptr_t)asthra__closure_entry;
    *how = ASTHRA__CLOSURE_WORD;
    return (void *)(uintptr_t)asthra__closure_entry_word;
}

/* Which slot of the frame has the address that the caller gave for the result. */
static char *asthra__closure_hidden(const Asthra__FFIPlan *p, char *frame) {
    return frame + (p->abi == ASTHRA_FFI_ABI_WIN64 ? 24 : 0);
}

ASTHRA__FN void *asthra__closure_result(const Asthra__FFIPlan *p, char *frame) {
    void *result;
    if (p->result_how == ASTHRA__X_VV) return frame + ASTHRA__X_FRAME_VECTOR_RESULT;
    if (p->result_how != ASTHRA__X_MEMORY) return frame + ASTHRA__X_FRAME_GENERAL_RESULT;
    memcpy(&result, asthra__closure_hidden(p, frame), sizeof result);
    return result;
}

/* Integers are widened to 64 bits: callers may rely on 32 of them. */
ASTHRA__FN uint64_t asthra__closure_finish(const Asthra__FFIPlan *p, char *frame) {
    char *general = frame + ASTHRA__X_FRAME_GENERAL_RESULT;
    char *vector = frame + ASTHRA__X_FRAME_VECTOR_RESULT;
    uint64_t wide;
    switch (p->result_how) {
    case ASTHRA__X_MEMORY: memcpy(general, asthra__closure_hidden(p, frame), 8); break;
    case ASTHRA__X_II:
        if (!asthra__ffi_is_integer((AsthraFFIKind)p->result_kind)) break;
        wide = asthra__ffi_widen((AsthraFFIKind)p->result_kind, general);
        memcpy(general, &wide, sizeof wide);
        break;
    case ASTHRA__X_IV: memcpy(vector, general + 8, 8); break;
    case ASTHRA__X_VI:
        memcpy(vector, general, 8);
        memcpy(general, general + 8, 8);
        break;
    case ASTHRA__X_X87: return 1;
    case ASTHRA__X_X87_PAIR: return 2;
    default: break;
    }
    return 0;
}

#endif
