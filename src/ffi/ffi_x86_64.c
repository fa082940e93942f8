/* ffi_x86_64 - steps and plans for x86-64.                              [ffi] body: processor
 *
 * System V ABI, x86-64 psABI 1.0, section 3.2.3: a type of at most 16 bytes is cut into eightbytes,
 * each of which goes to a general or a vector register by what scalars lie in it; what is larger,
 * or finds too few registers, or has a scalar where it should not be, goes to the stack. Long
 * doubles do too, and come back on the x87 stack. Win64, gcc's ms_abi, is in ffi_win64.c: other
 * rules, the same steps.
 *
 * While steps run:
 *     rbx   the word of this step                 rbp   frame, below
 *     r10   the next argument's address in args   rax   address of the argument just read; scratch
 *     r11   the carry, from one step to the next  rsp   the first stack argument
 *     rdi rsi rdx rcx r8 r9 xmm0-7                what is already loaded; xmm8 and above are free
 *
 * Frame, offsets from rbp:
 *      8   return address
 *      0   the caller's rbp
 *     -8   the caller's rbx
 *    -16   ret
 *    -24   function
 *          stack arguments, from rsp on
 *
 * Steps that come for each register stand in slots of 32 bytes, so that the address of one is the
 * first's and a multiple; steps of other kinds have such slots too. A step ends in notrack jmp: its
 * target is one of ours and has no landing pad.
 */
#include "ffi_internal.h"

#if ASTHRA_HAS_FFI && ASTHRA__CPU_X86_64

#include <string.h>

/* clang-format off */
#define ASTHRA__X_BEGIN(name)                        \
    ".pushsection .text." name ",\"ax\",@progbits\n" \
    ".p2align 5\n"                                   \
    ".globl " name "\n"                              \
    ".hidden " name "\n"                             \
    ".type " name ", @function\n"                    \
    name ":\n"                                       \
    ".cfi_startproc\n"
/* Inside the frame that asthra__ffi_enter has made. */
#define ASTHRA__X_FRAME      \
    ".cfi_def_cfa %rbp, 16\n" \
    ".cfi_offset %rbp, -16\n" \
    ".cfi_offset %rbx, -24\n"
#define ASTHRA__X_END(name)       \
    ".cfi_endproc\n"              \
    ".size " name ", .-" name "\n" \
    ".popsection\n"
/* To the next step, behind so many operands. */
#define ASTHRA__X_NEXT0 "addq $8, %rbx\n" "notrack jmp *(%rbx)\n"
#define ASTHRA__X_NEXT1 "addq $16, %rbx\n" "notrack jmp *(%rbx)\n"
#define ASTHRA__X_NEXT2 "addq $24, %rbx\n" "notrack jmp *(%rbx)\n"
/* rax: the address of the next argument. */
#define ASTHRA__X_ARGUMENT  \
    "movq (%r10), %rax\n"   \
    "addq $8, %r10\n"

/* steps: rdi; ret: rsi; args: rdx; stack bytes: rcx, 8 more than a multiple of 16; function: r8 */
__asm__(ASTHRA__X_BEGIN("asthra__ffi_enter")
        "endbr64\n"
        "pushq %rbp\n"                  /* the caller's rbp */
        ".cfi_def_cfa_offset 16\n"
        ".cfi_offset %rbp, -16\n"
        "movq %rsp, %rbp\n"
        ".cfi_def_cfa_register %rbp\n"
        "pushq %rbx\n"                  /* the caller's rbx, at -8 */
        ".cfi_offset %rbx, -24\n"
        "pushq %rsi\n"                  /* ret, at -16 */
        "pushq %r8\n"                   /* function, at -24 */
        "movq %rdi, %rbx\n"             /* rbx: the first step */
        "movq %rdx, %r10\n"             /* r10: args */
        "cmpq $4096, %rcx\n"
        "ja 2f\n"
        "1:\n"
        "subq %rcx, %rsp\n"             /* room for the stack arguments; rsp is 16-aligned */
        "notrack jmp *(%rbx)\n"
        "2:\n"                          /* no page is stepped over: one of them is the guard */
        "subq $4096, %rsp\n"
        "orq $0, (%rsp)\n"
        "subq $4096, %rcx\n"
        "cmpq $4096, %rcx\n"
        "ja 2b\n"
        "jmp 1b\n"
        ASTHRA__X_END("asthra__ffi_enter"));

/* The call itself: 0, and 1 with the number of vector registers for a variadic function. */
__asm__(ASTHRA__X_BEGIN("asthra__ffi_run")
        ASTHRA__X_FRAME
        "callq *-24(%rbp)\n"            /* function(...) */
        ASTHRA__X_NEXT0
        ".p2align 5\n"
        "movl 8(%rbx), %eax\n"          /* al: vector registers at most */
        "callq *-24(%rbp)\n"
        ASTHRA__X_NEXT1
        ASTHRA__X_END("asthra__ffi_run"));

/* Into general registers: 0 to 5 four bytes of the next argument, 6 to 11 eight, 12 to 17 carry. */
__asm__(ASTHRA__X_BEGIN("asthra__ffi_general")
        ASTHRA__X_FRAME
        ".irp r, edi, esi, edx, ecx, r8d, r9d\n"
        ".p2align 5\n"
        ASTHRA__X_ARGUMENT
        "movl (%rax), %\\r\n"
        ASTHRA__X_NEXT0
        ".endr\n"
        ".irp r, rdi, rsi, rdx, rcx, r8, r9\n"
        ".p2align 5\n"
        ASTHRA__X_ARGUMENT
        "movq (%rax), %\\r\n"
        ASTHRA__X_NEXT0
        ".endr\n"
        ".irp r, rdi, rsi, rdx, rcx, r8, r9\n"
        ".p2align 5\n"
        "movq %r11, %\\r\n"             /* the carry */
        ASTHRA__X_NEXT0
        ".endr\n"
        ASTHRA__X_END("asthra__ffi_general"));

/* Into vector registers: 0 to 7 a float, 8 to 15 a double, 16 to 23 the carry. */
__asm__(ASTHRA__X_BEGIN("asthra__ffi_vector")
        ASTHRA__X_FRAME
        ".irp r, 0, 1, 2, 3, 4, 5, 6, 7\n"
        ".p2align 5\n"
        ASTHRA__X_ARGUMENT
        "movss (%rax), %xmm\\r\n"
        ASTHRA__X_NEXT0
        ".endr\n"
        ".irp r, 0, 1, 2, 3, 4, 5, 6, 7\n"
        ".p2align 5\n"
        ASTHRA__X_ARGUMENT
        "movsd (%rax), %xmm\\r\n"
        ASTHRA__X_NEXT0
        ".endr\n"
        ".irp r, 0, 1, 2, 3, 4, 5, 6, 7\n"
        ".p2align 5\n"
        "movq %r11, %xmm\\r\n"          /* the carry */
        ASTHRA__X_NEXT0
        ".endr\n"
        ASTHRA__X_END("asthra__ffi_vector"));

/* Into the carry, of the next argument: 0 to 3 an s8, u8, s16, u16; 4 to 11 the first 1 to 8 bytes,
 * of which no other is read; 12 to 19 so many from its byte 8 on, of the argument just read. 20 its
 * address. */
__asm__(ASTHRA__X_BEGIN("asthra__ffi_carry")
        ASTHRA__X_FRAME
        ".irp op, movsbl, movzbl, movswl, movzwl\n"
        ".p2align 5\n"
        ASTHRA__X_ARGUMENT
        "\\op (%rax), %r11d\n"
        ASTHRA__X_NEXT0
        ".endr\n"
        ".macro asthra__piece from\n"   /* bytes from that offset of the argument at rax */
        ".irp op, movzbl, movzwl\n"
        ".p2align 5\n"
        ".if \\from == 0\n"
        ASTHRA__X_ARGUMENT
        ".endif\n"
        "\\op \\from(%rax), %r11d\n"
        ASTHRA__X_NEXT0
        ".endr\n"
        ".p2align 5\n"
        ".if \\from == 0\n"
        ASTHRA__X_ARGUMENT
        ".endif\n"
        "movzwl \\from(%rax), %r11d\n"  /* 3: two that share a byte */
        "movzwl \\from + 1(%rax), %eax\n"
        "shll $8, %eax\n"
        "orl %eax, %r11d\n"
        ASTHRA__X_NEXT0
        ".irp more, 0, 1, 2, 3\n"       /* 4 to 7: likewise */
        ".p2align 5\n"
        ".if \\from == 0\n"
        ASTHRA__X_ARGUMENT
        ".endif\n"
        "movl \\from(%rax), %r11d\n"
        ".if \\more\n"
        "movl \\from + \\more(%rax), %eax\n"
        "shlq $8 * \\more, %rax\n"
        "orq %rax, %r11\n"
        ".endif\n"
        ASTHRA__X_NEXT0
        ".endr\n"
        ".p2align 5\n"
        ".if \\from == 0\n"
        ASTHRA__X_ARGUMENT
        ".endif\n"
        "movq \\from(%rax), %r11\n"
        ASTHRA__X_NEXT0
        ".endm\n"
        "asthra__piece 0\n"
        "asthra__piece 8\n"
        ".p2align 5\n"
        ASTHRA__X_ARGUMENT
        "movq %rax, %r11\n"
        ASTHRA__X_NEXT0
        ".purgem asthra__piece\n"
        ASTHRA__X_END("asthra__ffi_carry"));

/* To the stack, at the offset in the next word: 0 four bytes of the next argument, 1 eight, 2 the
 * carry; 3 as many bytes of it as the word after that says, 8 to 15; 4 and 5, of two slots, 16 or
 * more. 6 the address of that offset, into the carry; 7 ret, into the carry; 8 aligns the stack by
 * the mask in the next word. */
__asm__(ASTHRA__X_BEGIN("asthra__ffi_to_stack")
        ASTHRA__X_FRAME
        ASTHRA__X_ARGUMENT
        "movl (%rax), %eax\n"
        "movq 8(%rbx), %r11\n"          /* the offset */
        "movq %rax, (%rsp,%r11)\n"
        ASTHRA__X_NEXT1
        ".p2align 5\n"
        ASTHRA__X_ARGUMENT
        "movq (%rax), %rax\n"
        "movq 8(%rbx), %r11\n"          /* the offset */
        "movq %rax, (%rsp,%r11)\n"
        ASTHRA__X_NEXT1
        ".p2align 5\n"
        "movq 8(%rbx), %rax\n"          /* the offset */
        "movq %r11, (%rsp,%rax)\n"
        ASTHRA__X_NEXT1
        ".p2align 5\n"
        ASTHRA__X_ARGUMENT
        "jmp 3f\n"
        ".p2align 5\n"
        ASTHRA__X_ARGUMENT
        "jmp 4f\n"
        ".p2align 5\n"
        "nop\n"                         /* kept, so that slots are in step */
        ".p2align 5\n"
        "movq 8(%rbx), %r11\n"          /* the offset */
        "addq %rsp, %r11\n"
        ASTHRA__X_NEXT1
        ".p2align 5\n"
        "movq -16(%rbp), %r11\n"        /* ret */
        ASTHRA__X_NEXT0
        ".p2align 5\n"
        "andq 8(%rbx), %rsp\n"          /* the mask */
        ASTHRA__X_NEXT1
        ".p2align 5\n"
        "3:\n"
        "movq %r10, %xmm8\n"            /* xmm8: args */
        "movq 8(%rbx), %r11\n"
        "addq %rsp, %r11\n"             /* r11: where it goes */
        "movq 16(%rbx), %r10\n"         /* r10: bytes */
        "movq (%rax), %xmm9\n"          /* the first eight and the last eight */
        "movq -8(%rax,%r10), %xmm10\n"
        "movq %xmm9, (%r11)\n"
        "movq %xmm10, -8(%r11,%r10)\n"
        "movq %xmm8, %r10\n"
        ASTHRA__X_NEXT2
        "4:\n"
        "movq %r10, %xmm8\n"            /* xmm8: args */
        "movq 8(%rbx), %r11\n"
        "addq %rsp, %r11\n"             /* r11: where it goes */
        "movq 16(%rbx), %r10\n"         /* r10: bytes */
        "5:\n"
        "movups -16(%rax,%r10), %xmm9\n" /* from the end on */
        "movups %xmm9, -16(%r11,%r10)\n"
        "subq $16, %r10\n"
        "cmpq $16, %r10\n"
        "ja 5b\n"
        "movups (%rax), %xmm9\n"        /* the first sixteen, some of them again */
        "movups %xmm9, (%r11)\n"
        "movq %xmm8, %r10\n"
        ASTHRA__X_NEXT2
        ASTHRA__X_END("asthra__ffi_to_stack"));

/* The end of a call: 0 stores nothing; 1 to 4 store 1, 2, 4, 8 bytes of rax; 5 and 6 a float, a
 * double; 7 and 8 one long double and two; 9 rax and rdx; 10 xmm0 and xmm1; 11 so many bytes of rax
 * and rdx as the next word says. Before that, where rax and rdx are not what they should be: 12
 * moves xmm0 to rdx; 13 rax to rdx and xmm0 to rax; 14 xmm0 to rax and xmm1 to rdx. */
#define ASTHRA__X_RET "movq -16(%rbp), %rcx\n"
#define ASTHRA__X_LEAVE       \
    ".cfi_remember_state\n"   \
    "movq -8(%rbp), %rbx\n"   \
    "leave\n"                 \
    ".cfi_def_cfa %rsp, 8\n"  \
    ".cfi_restore %rbp\n"     \
    ".cfi_restore %rbx\n"     \
    "ret\n"                   \
    ".cfi_restore_state\n"
__asm__(ASTHRA__X_BEGIN("asthra__ffi_result")
        ASTHRA__X_FRAME
        ASTHRA__X_LEAVE
        ".macro asthra__store op, r\n"
        ".p2align 5\n"
        ASTHRA__X_RET
        "\\op %\\r, (%rcx)\n"
        ASTHRA__X_LEAVE
        ".endm\n"
        "asthra__store movb, al\n"
        "asthra__store movw, ax\n"
        "asthra__store movl, eax\n"
        "asthra__store movq, rax\n"
        "asthra__store movss, xmm0\n"
        "asthra__store movsd, xmm0\n"
        ".purgem asthra__store\n"
        ".p2align 5\n"
        ASTHRA__X_RET
        "fstpt (%rcx)\n"
        ASTHRA__X_LEAVE
        ".p2align 5\n"
        ASTHRA__X_RET
        "fstpt (%rcx)\n"                /* the real part */
        "fstpt 16(%rcx)\n"
        ASTHRA__X_LEAVE
        ".p2align 5\n"
        ASTHRA__X_RET
        "movq %rax, (%rcx)\n"
        "movq %rdx, 8(%rcx)\n"
        ASTHRA__X_LEAVE
        ".p2align 5\n"
        ASTHRA__X_RET
        "movsd %xmm0, (%rcx)\n"
        "movsd %xmm1, 8(%rcx)\n"
        ASTHRA__X_LEAVE
        ".p2align 5\n"
        "jmp 1f\n"
        ".p2align 5\n"
        "movq %xmm0, %rdx\n"
        ASTHRA__X_NEXT0
        ".p2align 5\n"
        "movq %rax, %rdx\n"
        "movq %xmm0, %rax\n"
        ASTHRA__X_NEXT0
        ".p2align 5\n"
        "movq %xmm0, %rax\n"
        "movq %xmm1, %rdx\n"
        ASTHRA__X_NEXT0
        "1:\n"
        ASTHRA__X_RET
        "movl 8(%rbx), %esi\n"          /* bytes, 1 to 15: what is left of them is in rax */
        "testb $8, %sil\n"
        "jz 2f\n"
        "movq %rax, (%rcx)\n"
        "addq $8, %rcx\n"
        "movq %rdx, %rax\n"
        "2:\n"
        "testb $4, %sil\n"
        "jz 3f\n"
        "movl %eax, (%rcx)\n"
        "addq $4, %rcx\n"
        "shrq $32, %rax\n"
        "3:\n"
        "testb $2, %sil\n"
        "jz 4f\n"
        "movw %ax, (%rcx)\n"
        "addq $2, %rcx\n"
        "shrl $16, %eax\n"
        "4:\n"
        "testb $1, %sil\n"
        "jz 5f\n"
        "movb %al, (%rcx)\n"
        "5:\n"
        ASTHRA__X_LEAVE
        ASTHRA__X_END("asthra__ffi_result"));

/* run: rdi; record: rsi. While run runs rbx is the record, as asthra__ffi_personality knows. */
__asm__(ASTHRA__X_BEGIN("asthra__ffi_guard")
        ".cfi_personality 0x1b, asthra__ffi_personality\n"
        "endbr64\n"
        "pushq %rbx\n"                 /* the caller's rbx */
        ".cfi_def_cfa_offset 16\n"
        ".cfi_offset %rbx, -16\n"
        "movq %rsi, %rbx\n"
        "movq %rdi, %rax\n"
        "movq %rsi, %rdi\n"
        "callq *%rax\n"                /* run(record) */
        "popq %rbx\n"
        ".cfi_def_cfa_offset 8\n"
        ".cfi_restore %rbx\n"
        "ret\n"
        ASTHRA__X_END("asthra__ffi_guard"));
/* clang-format on */

ASTHRA__FFI_CODE void asthra__ffi_run(void) __asm__("asthra__ffi_run");
ASTHRA__FFI_CODE void asthra__ffi_general(void) __asm__("asthra__ffi_general");
ASTHRA__FFI_CODE void asthra__ffi_vector(void) __asm__("asthra__ffi_vector");
ASTHRA__FFI_CODE void asthra__ffi_carry(void) __asm__("asthra__ffi_carry");
ASTHRA__FFI_CODE void asthra__ffi_to_stack(void) __asm__("asthra__ffi_to_stack");
ASTHRA__FFI_CODE void asthra__ffi_result(void) __asm__("asthra__ffi_result");

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

/* Call and result. `vectors` counts for variadic functions. */
ASTHRA__FN void asthra__ffi_x_call(Asthra__FFIBuilder *b, unsigned vectors) {
    size_t size = b->plan->result_size;
    asthra__ffi_step(b, asthra__ffi_run, b->plan->is_variadic);
    if (b->plan->is_variadic) asthra__ffi_emit(b, vectors);
    switch (b->plan->result_how) {
    case ASTHRA__X_MEMORY: size = 0; break;
    case ASTHRA__X_X87: asthra__ffi_step(b, asthra__ffi_result, 7); return;
    case ASTHRA__X_X87_PAIR: asthra__ffi_step(b, asthra__ffi_result, 8); return;
    case ASTHRA__X_II: break;
    case ASTHRA__X_IV: asthra__ffi_step(b, asthra__ffi_result, 12); break;
    case ASTHRA__X_VI: asthra__ffi_step(b, asthra__ffi_result, 13); break;
    default: /* ASTHRA__X_VV */
        if (size == 4 || size == 8 || size == 16) {
            asthra__ffi_step(b, asthra__ffi_result, size == 16 ? 10 : size == 8 ? 6 : 5);
            return;
        }
        asthra__ffi_step(b, asthra__ffi_result, 14);
    }
    switch (size) {
    case 0: asthra__ffi_step(b, asthra__ffi_result, 0); break;
    case 1: asthra__ffi_step(b, asthra__ffi_result, 1); break;
    case 2: asthra__ffi_step(b, asthra__ffi_result, 2); break;
    case 4: asthra__ffi_step(b, asthra__ffi_result, 3); break;
    case 8: asthra__ffi_step(b, asthra__ffi_result, 4); break;
    case 16: asthra__ffi_step(b, asthra__ffi_result, 9); break;
    default: asthra__ffi_step(b, asthra__ffi_result, 11); asthra__ffi_emit(b, size);
    }
}

/* What is aligned more strictly than the stack is comes first of all. */
ASTHRA__FN void asthra__ffi_x_end(Asthra__FFIBuilder *b) {
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
    Asthra__XClass of[2]; /* of the eightbytes */
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

static bool asthra__x_classify_leaf(const Asthra__FFILeaf *leaf, void *user) {
    Asthra__XClasses *c = user;
    Asthra__XClass low = asthra__ffi_is_integer(leaf->kind) ? ASTHRA__X_INTEGER
                         : leaf->kind == ASTHRA_FFI_LDBL    ? ASTHRA__X_X87_CLASS
                         : leaf->kind == ASTHRA_FFI_CLDBL   ? ASTHRA__X_ON_STACK
                                                            : ASTHRA__X_SSE;
    Asthra__XClass high = low == ASTHRA__X_X87_CLASS ? ASTHRA__X_X87_UP : low;
    if (leaf->is_odd) low = high = ASTHRA__X_ON_STACK;
    size_t first = leaf->offset / 8, last = (leaf->offset + leaf->size - 1) / 8;
    c->of[first] = asthra__x_merge(c->of[first], low);
    if (last != first) c->of[last] = asthra__x_merge(c->of[last], high);
    return true;
}

static Asthra__XClasses asthra__x_classify(const AsthraFFIType *t, size_t size) {
    Asthra__XClasses c = {{ASTHRA__X_NONE, ASTHRA__X_NONE}};
    if (size > 16)
        c.of[0] = ASTHRA__X_ON_STACK;
    else
        asthra__ffi_leaves(t, asthra__x_classify_leaf, &c);
    bool is_up_alone = c.of[1] == ASTHRA__X_X87_UP && c.of[0] != ASTHRA__X_X87_CLASS;
    if (c.of[1] == ASTHRA__X_ON_STACK || is_up_alone) c.of[0] = ASTHRA__X_ON_STACK;
    return c;
}

static uint8_t asthra__x_result_how(const AsthraFFIType *t, size_t size) {
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
        else
            asthra__ffi_x_load_general(b, b->ints, shape.size);
        b->ints++;
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
