/* ffi_x86_64_steps - machine code of calls for x86-64.                     [ffi] body: steps
 *
 * Steps that come for each register stand in slots of 32 bytes, so that the address of one is the
 * first's and a multiple; steps of other kinds have such slots too. A step ends in notrack jmp: its
 * target is one of ours and has no landing pad. Registers and the frame are drawn in
 * ffi_x86_64_internal.h.
 */
#include "ffi_x86_64_internal.h"

#if ASTHRA_HAS_FFI && ASTHRA__CPU_X86_64

/* clang-format off */
/* Inside the frame that asthra__ffi_enter has made. */
#define ASTHRA__X_FRAME      \
    ".cfi_def_cfa %rbp, 16\n" \
    ".cfi_offset %rbp, -16\n" \
    ".cfi_offset %rbx, -24\n"
/* To the next step, behind so many operands. */
#define ASTHRA__X_NEXT0 "addq $8, %rbx\n" "notrack jmp *(%rbx)\n"
#define ASTHRA__X_NEXT1 "addq $16, %rbx\n" "notrack jmp *(%rbx)\n"
#define ASTHRA__X_NEXT2 "addq $24, %rbx\n" "notrack jmp *(%rbx)\n"
/* rax: the address of the next argument. */
#define ASTHRA__X_ARGUMENT  \
    "movq (%r10), %rax\n"   \
    "addq $8, %r10\n"

/* steps: rdi; ret: rsi; args: rdx; stack bytes: rcx, 8 more than a multiple of 16; function: r8 */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_enter")
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
        ASTHRA__FFI_END("asthra__ffi_enter"));

/* Runs: the first arguments, as many as there are registers at most, or eight on the stack, if all
 * are of one size: four and eight bytes into general registers, the same into vector registers, the
 * same to the stack. A run of n is entered n loads before the end; the next word has the bytes of
 * args that it took. asthra__x_runs says where each begins. */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_run")
        ASTHRA__X_FRAME
        ".macro asthra__load i, op, r\n" /* 8 bytes */
        ".p2align 3\n"
        "movq 8 * \\i(%r10), %rax\n"
        "\\op (%rax), %\\r\n"
        ".endm\n"
        ".macro asthra__put i, op, r\n"  /* 16 bytes */
        ".p2align 4\n"
        "movq 8 * \\i(%r10), %rax\n"
        "\\op (%rax), %\\r\n"
        "movq %rax, 8 * \\i(%rsp)\n"
        ".endm\n"
        ".macro asthra__run_ends\n"
        "addq 8(%rbx), %r10\n"
        ASTHRA__X_NEXT1
        ".p2align 5\n"
        ".endm\n"
        "asthra__load 5, movl, r9d\n"
        "asthra__load 4, movl, r8d\n"
        "asthra__load 3, movl, ecx\n"
        "asthra__load 2, movl, edx\n"
        "asthra__load 1, movl, esi\n"
        "asthra__load 0, movl, edi\n"
        "asthra__run_ends\n"
        "asthra__load 5, movq, r9\n"
        "asthra__load 4, movq, r8\n"
        "asthra__load 3, movq, rcx\n"
        "asthra__load 2, movq, rdx\n"
        "asthra__load 1, movq, rsi\n"
        "asthra__load 0, movq, rdi\n"
        "asthra__run_ends\n"
        ".irp i, 7, 6, 5, 4, 3, 2, 1, 0\n"
        "asthra__load \\i, movss, xmm\\i\n"
        ".endr\n"
        "asthra__run_ends\n"
        ".irp i, 7, 6, 5, 4, 3, 2, 1, 0\n"
        "asthra__load \\i, movsd, xmm\\i\n"
        ".endr\n"
        "asthra__run_ends\n"
        ".irp i, 7, 6, 5, 4, 3, 2, 1, 0\n"
        "asthra__put \\i, movl, eax\n"
        ".endr\n"
        "asthra__run_ends\n"
        ".irp i, 7, 6, 5, 4, 3, 2, 1, 0\n"
        "asthra__put \\i, movq, rax\n"
        ".endr\n"
        "asthra__run_ends\n"
        ".purgem asthra__load\n"
        ".purgem asthra__put\n"
        ".purgem asthra__run_ends\n"
        ASTHRA__FFI_END("asthra__ffi_run"));

/* Into general registers: 0 to 5 four bytes of the next argument, 6 to 11 eight, 12 to 17 carry. */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_general")
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
        ASTHRA__FFI_END("asthra__ffi_general"));

/* Into vector registers: 0 to 7 a float, 8 to 15 a double, 16 to 23 the carry. */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_vector")
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
        ASTHRA__FFI_END("asthra__ffi_vector"));

/* Into the carry, of the next argument: 0 to 3 an s8, u8, s16, u16; 4 to 11 the first 1 to 8 bytes,
 * of which no other is read; 12 to 19 so many from its byte 8 on, of the argument just read. */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_carry")
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
        ".purgem asthra__piece\n"
        ASTHRA__FFI_END("asthra__ffi_carry"));

/* To the stack, at the offset in the next word: 0 four bytes of the next argument, 1 eight, 2 the
 * carry; 3 as many bytes of it as the word after that says, 8 to 15; 4 likewise, 16 or more. 5 the
 * next word into al, last before the call of a variadic function; 6 the address of that offset,
 * into the carry; 7 ret, into the carry; 8 aligns the stack by the mask in the next word. */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_to_stack")
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
        "movl 8(%rbx), %eax\n"          /* al: vector registers at most */
        ASTHRA__X_NEXT1
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
        ASTHRA__FFI_END("asthra__ffi_to_stack"));

/* The call, and its end: 0 stores nothing; 1 to 4 store 1, 2, 4, 8 bytes of rax; 5 and 6 a float, a
 * double; 7 and 8 one long double and two; 9 rax and rdx; 10 xmm0 and xmm1; 11 as many bytes of rax
 * and rdx as the next word says, 1 to 16; 12 to 14 likewise, with rdx from xmm0; with rdx from rax
 * and rax from xmm0; with rax from xmm0 and rdx from xmm1. */
#define ASTHRA__X_CALL "callq *-24(%rbp)\n" /* function(...) */
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
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_result")
        ASTHRA__X_FRAME
        ASTHRA__X_CALL
        ASTHRA__X_LEAVE
        ".macro asthra__store op, r\n"
        ".p2align 5\n"
        ASTHRA__X_CALL
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
        ASTHRA__X_CALL
        ASTHRA__X_RET
        "fstpt (%rcx)\n"
        ASTHRA__X_LEAVE
        ".p2align 5\n"
        ASTHRA__X_CALL
        ASTHRA__X_RET
        "fstpt (%rcx)\n"                /* the real part */
        "fstpt 16(%rcx)\n"
        ASTHRA__X_LEAVE
        ".p2align 5\n"
        ASTHRA__X_CALL
        ASTHRA__X_RET
        "movq %rax, (%rcx)\n"
        "movq %rdx, 8(%rcx)\n"
        ASTHRA__X_LEAVE
        ".p2align 5\n"
        ASTHRA__X_CALL
        ASTHRA__X_RET
        "movsd %xmm0, (%rcx)\n"
        "movsd %xmm1, 8(%rcx)\n"
        ASTHRA__X_LEAVE
        ".p2align 5\n"
        ASTHRA__X_CALL
        "jmp 1f\n"
        ".p2align 5\n"
        ASTHRA__X_CALL
        "movq %xmm0, %rdx\n"
        "jmp 1f\n"
        ".p2align 5\n"
        ASTHRA__X_CALL
        "movq %rax, %rdx\n"
        "movq %xmm0, %rax\n"
        "jmp 1f\n"
        ".p2align 5\n"
        ASTHRA__X_CALL
        "movq %xmm0, %rax\n"
        "movq %xmm1, %rdx\n"
        "1:\n"
        ASTHRA__X_RET
        "movl 8(%rbx), %esi\n"          /* bytes: what is left of them is in rax */
        "testb $16, %sil\n"
        "jnz 6f\n"
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
        "6:\n"
        "movq %rax, (%rcx)\n"
        "movq %rdx, 8(%rcx)\n"
        ASTHRA__X_LEAVE
        ASTHRA__FFI_END("asthra__ffi_result"));

/* Where unwinders find the personality of asthra__ffi_guard; C writes it. */
__asm__(ASTHRA__FFI_WORD("asthra__ffi_personality"));

/* run: rdi; record: rsi. While run runs rbx is the record, as asthra__ffi_personality knows. */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_guard")
        ".cfi_personality 0x9b, asthra__ffi_personality\n"
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
        ASTHRA__FFI_END("asthra__ffi_guard"));
/* clang-format on */

#endif
