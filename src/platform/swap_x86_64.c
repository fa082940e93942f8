/* swap_x86_64 - the switch for x86-64, System V ABI.                       [swap] body
 *
 * A switch is a function call whose return happens on another stack. The ABI (System V x86-64,
 * section 3.2.1) says what a call keeps: rbx, rbp, r12 to r15, the control bits of mxcsr and the
 * x87 word. They are pushed, the stack pointers are exchanged, and the same things are popped on
 * the other side.
 *
 * A saved context, offsets from the stack pointer that stands for it:
 *
 *      0   mxcsr, 4 bytes
 *      4   x87 control word, 2 bytes; 2 unused
 *      8   r15
 *     16   r14
 *     24   r13
 *     32   r12      entry, in a context that has not started
 *     40   rbx
 *     48   rbp      0, in a context that has not started: a walk along rbp ends there
 *     56   return address
 *     64   the stack pointer after the return
 *
 * asthra__swap_call leaves the same layout, so that its frame is a context to escape to.
 *
 * mxcsr is loaded always: on Zen 3 that costs 1.4 ns, while reading back what stmxcsr has just
 * stored, to see whether it must be, costs 1.9. Its sticky flags travel with it. The x87 word is
 * loaded only where it differs, and then its flags are cleared first, or a flag that another task
 * left behind would raise here once its mask bit is off.
 *
 * stmxcsr itself costs 5 ns on the same processor, and reading its word back 2 more: a caller that
 * vouches for its control words, as the worker's loop can, is spared it.
 *
 * The switch ends in `ret`, not in an indirect jump: the processor's return predictor then stays in
 * step with the frames above, which on both sides are mostly the same functions. Four such frames
 * deep, a switch and its returns took 23 ns with ret and 36 with jmp, though jmp alone is quicker.
 */
#include "swap_internal.h"

#if ASTHRA_HAS_TASK && ASTHRA_HAS_ASM && ASTHRA__CPU_X86_64

/* from: rdi; to: rsi; message: rdx */
__asm__(".pushsection .text.asthra__swap,\"ax\",@progbits\n"
        ".p2align 5\n"
        ".globl asthra__swap\n"
        ".hidden asthra__swap\n"
        ".type asthra__swap, @function\n"
        "asthra__swap:\n"
        ".cfi_startproc\n"
        "endbr64\n"
        "pushq %rbp\n" /* the caller's rbp, at 48 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %rbp, 0\n"
        "pushq %rbx\n" /* the caller's rbx, at 40 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %rbx, 0\n"
        "pushq %r12\n" /* the caller's r12, at 32 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %r12, 0\n"
        "pushq %r13\n" /* the caller's r13, at 24 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %r13, 0\n"
        "pushq %r14\n" /* the caller's r14, at 16 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %r14, 0\n"
        "pushq %r15\n" /* the caller's r15, at 8 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %r15, 0\n"
        "subq $8, %rsp\n" /* room for the control words; rsp is now this context */
        ".cfi_adjust_cfa_offset 8\n"
        "stmxcsr (%rsp)\n"       /* mxcsr, at 0 */
        "fnstcw 4(%rsp)\n"       /* the x87 word, at 4 */
        "movq %rsp, (%rdi)\n"    /* *from = this context */
        "movzwl 4(%rsp), %ecx\n" /* ecx: our x87 word */
        "movq %rdx, %rax\n"      /* rax: message, what the other side returns */
        "movq %rsi, %rsp\n"      /* leave: rsp is the context `to`, with the same layout */
        "ldmxcsr (%rsp)\n"       /* the mxcsr of `to`, from 0 */
        "cmpw 4(%rsp), %cx\n"    /* is its x87 word ours? */
        "jne 2f\n"
        "1:\n"
        "addq $8, %rsp\n" /* past the control words */
        ".cfi_remember_state\n"
        ".cfi_adjust_cfa_offset -8\n"
        "popq %r15\n" /* r15 of the arriving side, from 8 */
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %r15\n"
        "popq %r14\n" /* its r14, from 16 */
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %r14\n"
        "popq %r13\n" /* its r13, from 24 */
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %r13\n"
        "popq %r12\n" /* its r12, from 32 */
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %r12\n"
        "popq %rbx\n" /* its rbx, from 40 */
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %rbx\n"
        "popq %rbp\n" /* its rbp, from 48 */
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %rbp\n"
        "ret\n" /* to its caller, from 56 */
        ".cfi_restore_state\n"
        "2:\n"
        "fnclex\n"        /* no flag of another task may raise below */
        "fldcw 4(%rsp)\n" /* the x87 word of `to`, from 4 */
        "jmp 1b\n"
        ".cfi_endproc\n"
        ".size asthra__swap, .-asthra__swap\n"
        ".popsection\n");

/* The first return of a new context comes here. rax: message; r12: entry; rsp: top, 16-aligned. */
__asm__(".pushsection .text.asthra__swap_start,\"ax\",@progbits\n"
        ".p2align 4\n"
        ".globl asthra__swap_start\n"
        ".hidden asthra__swap_start\n"
        ".type asthra__swap_start, @function\n"
        "asthra__swap_start:\n"
        ".cfi_startproc\n"
        ".cfi_undefined %rip\n" /* nobody called: unwinders stop here */
        "endbr64\n"
        "movq %rax, %rdi\n" /* argument of entry: message */
        "callq *%r12\n"     /* entry(message), which never returns */
        "ud2\n"
        ".cfi_endproc\n"
        ".size asthra__swap_start, .-asthra__swap_start\n"
        ".popsection\n");

/* fn: rdi; argument: rsi; escape: rdx; is_default: cl
 * asthra__swap_escape: escape: rdi; value: rsi */
__asm__(".pushsection .text.asthra__swap_call,\"ax\",@progbits\n"
        ".p2align 5\n"
        ".globl asthra__swap_call\n"
        ".hidden asthra__swap_call\n"
        ".type asthra__swap_call, @function\n"
        "asthra__swap_call:\n"
        ".cfi_startproc\n"
        "endbr64\n"
        "pushq %rbp\n" /* the caller's rbp, at 48 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %rbp, 0\n"
        "pushq %rbx\n" /* the caller's rbx, at 40 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %rbx, 0\n"
        "pushq %r12\n" /* the caller's r12, at 32 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %r12, 0\n"
        "pushq %r13\n" /* the caller's r13, at 24 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %r13, 0\n"
        "pushq %r14\n" /* the caller's r14, at 16 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %r14, 0\n"
        "pushq %r15\n" /* the caller's r15, at 8 */
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset %r15, 0\n"
        "subq $8, %rsp\n" /* room for the control words: 16-aligned for the call */
        ".cfi_adjust_cfa_offset 8\n"
        "movq %rsp, (%rdx)\n" /* *escape = this context */
        "movq %rdi, %rax\n"   /* rax: fn */
        "movq %rsi, %rdi\n"   /* rdi: argument */
        "testb %cl, %cl\n"
        "jnz 6f\n"
        "stmxcsr (%rsp)\n"       /* the caller's mxcsr, at 0 */
        "fnstcw 4(%rsp)\n"       /* the caller's x87 word, at 4 */
        "movl (%rsp), %ecx\n"    /* ecx: mxcsr */
        "movzwl 4(%rsp), %edx\n" /* edx: the x87 word */
        "andl $0xffc0, %ecx\n"   /* without its flags */
        "xorl $0x1f80, %ecx\n"   /* the default: all masked, to nearest */
        "xorl $0x037f, %edx\n"   /* the default: all masked, to nearest, extended precision */
        "orl %edx, %ecx\n"
        "jnz 3f\n"
        "1:\n"
        "callq *%rax\n"     /* rax = fn(argument) */
        "2:\n"              /* here returns fn, and asthra__swap_escape; rax: value */
        "ldmxcsr (%rsp)\n"  /* the caller's mxcsr, from 0 */
        "fnstcw -8(%rsp)\n" /* the x87 word that fn left, in the red zone */
        "movzwl -8(%rsp), %ecx\n"
        "cmpw 4(%rsp), %cx\n" /* is it the caller's? */
        "jne 5f\n"
        "4:\n"
        "addq $8, %rsp\n" /* past the control words */
        ".cfi_remember_state\n"
        ".cfi_adjust_cfa_offset -8\n"
        "popq %r15\n" /* the caller's again, from 8 upwards */
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %r15\n"
        "popq %r14\n"
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %r14\n"
        "popq %r13\n"
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %r13\n"
        "popq %r12\n"
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %r12\n"
        "popq %rbx\n"
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %rbx\n"
        "popq %rbp\n"
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore %rbp\n"
        "ret\n" /* rax: value */
        ".cfi_restore_state\n"
        "3:\n"
        "movl $0x1f80, -8(%rsp)\n" /* the defaults, in the red zone */
        "movl $0x037f, -4(%rsp)\n"
        "ldmxcsr -8(%rsp)\n"
        "fnclex\n" /* a flag left behind must not raise under another mask */
        "fldcw -4(%rsp)\n"
        "jmp 1b\n"
        "5:\n"
        "fnclex\n"
        "fldcw 4(%rsp)\n" /* the caller's x87 word, from 4 */
        "jmp 4b\n"
        "6:\n"
        "movl $0x1f80, (%rsp)\n" /* the caller's, by its word for it */
        "movl $0x037f, 4(%rsp)\n"
        "jmp 1b\n"
        ".cfi_endproc\n"
        ".size asthra__swap_call, .-asthra__swap_call\n"
        ".globl asthra__swap_escape\n"
        ".hidden asthra__swap_escape\n"
        ".type asthra__swap_escape, @function\n"
        "asthra__swap_escape:\n"
        ".cfi_startproc\n"
        "endbr64\n"
        "movq %rsi, %rax\n" /* rax: value */
        "movq %rdi, %rsp\n" /* every frame below is gone */
        ".cfi_def_cfa %rsp, 64\n"
        ".cfi_offset %rbp, -16\n"
        ".cfi_offset %rbx, -24\n"
        ".cfi_offset %r12, -32\n"
        ".cfi_offset %r13, -40\n"
        ".cfi_offset %r14, -48\n"
        ".cfi_offset %r15, -56\n"
        "cld\n" /* wherever the frames below were */
        "jmp 2b\n"
        ".cfi_endproc\n"
        ".size asthra__swap_escape, .-asthra__swap_escape\n"
        ".popsection\n");

__attribute__((__visibility__("hidden"))) extern void
asthra__swap_start(void) __asm__("asthra__swap_start");

/* What asthra__swap pops, as the table above draws it. */
typedef struct Asthra__SwapFrame {
    uint32_t mxcsr;
    uint16_t x87_word, unused;
    uint64_t r15, r14, r13, r12, rbx, rbp, return_address;
} Asthra__SwapFrame;
_Static_assert(sizeof(Asthra__SwapFrame) == 64, "the table of swap_x86_64.c");
_Static_assert(offsetof(Asthra__SwapFrame, r12) == 32, "the table of swap_x86_64.c");
_Static_assert(offsetof(Asthra__SwapFrame, return_address) == 56, "the table of swap_x86_64.c");

/* rdsspq reads the shadow stack's pointer; where there is none it does nothing and rax stays 0. */
ASTHRA__FN bool asthra__swap_is_allowed(void) {
    uint64_t pointer = 0;
    __asm__ volatile(".byte 0xf3, 0x48, 0x0f, 0x1e, 0xc8" : "+a"(pointer)); /* rdsspq %rax */
    return pointer == 0;
}

ASTHRA__FN Asthra__SwapContext *asthra__swap_make(void *low, void *top, void (*entry)(void *)) {
    char *end = (char *)top - ((uintptr_t)top & 15);
    Asthra__SwapFrame *frame = (Asthra__SwapFrame *)(void *)end - 1;
    (void)low;
    *frame = (Asthra__SwapFrame){.mxcsr = 0x1f80,
                                 .x87_word = 0x037f,
                                 .r12 = (uint64_t)(uintptr_t)entry,
                                 .return_address = (uint64_t)(uintptr_t)asthra__swap_start};
    return (Asthra__SwapContext *)(void *)frame;
}

#endif
