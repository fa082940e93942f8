/* swap_i386 - the switch for i386, System V ABI.                           [swap] body
 *
 * A switch is a function call whose return happens on another stack. The ABI (System V i386,
 * section 2.2.2) says what a call keeps: ebx, esi, edi, ebp, the control bits of mxcsr and the x87
 * word. They are pushed, the stack pointers are exchanged, and the same things are popped on the
 * other side. Arguments come on the stack, and nothing here needs to know where the program lies.
 *
 * A saved context, offsets from the stack pointer that stands for it:
 *
 *      0   mxcsr, 4 bytes; unused where the program is built without SSE
 *      4   x87 control word, 2 bytes; 2 unused
 *      8   edi
 *     12   esi      entry, in a context that has not started
 *     16   ebx
 *     20   ebp      0, in a context that has not started: a walk along ebp ends there
 *     24   return address
 *     28   the stack pointer after the return; the arguments of who has called
 *
 * asthra__swap_call leaves the same layout, so that its frame is a context to escape to. A stack
 * that is a multiple of 16 where a call has pushed its arguments, as compilers want it, is again
 * one where asthra__swap_call has pushed its own.
 *
 * Control words are treated as in swap_x86_64.c: mxcsr is loaded always and its sticky flags
 * travel, the x87 word is loaded only where it differs, its flags cleared first. There is no red
 * zone: what lies below the stack pointer is a signal handler's.
 */
#include "swap_internal.h"

#if ASTHRA_HAS_TASK && ASTHRA_HAS_ASM && ASTHRA__CPU_I386

#if defined(__SSE__)
#define ASTHRA__SWAP_SSE 1
#else
#define ASTHRA__SWAP_SSE 0
#endif
/* Landing pads where the compiler makes them: old processors do not know the instruction. */
#if defined(__CET__)
#define ASTHRA__SWAP_PADS 1
#else
#define ASTHRA__SWAP_PADS 0
#endif

/* from, to, message: at 4, 8, 12; 24 more once all is pushed */
__asm__(".pushsection .text.asthra__swap,\"ax\",@progbits\n"
        ".p2align 5\n"
        ".globl asthra__swap\n"
        ".hidden asthra__swap\n"
        ".type asthra__swap, @function\n"
        "asthra__swap:\n"
        ".cfi_startproc\n"
#if ASTHRA__SWAP_PADS
        "endbr32\n"
#endif
        "pushl %ebp\n" /* the caller's ebp, at 20 */
        ".cfi_adjust_cfa_offset 4\n"
        ".cfi_rel_offset %ebp, 0\n"
        "pushl %ebx\n" /* the caller's ebx, at 16 */
        ".cfi_adjust_cfa_offset 4\n"
        ".cfi_rel_offset %ebx, 0\n"
        "pushl %esi\n" /* the caller's esi, at 12 */
        ".cfi_adjust_cfa_offset 4\n"
        ".cfi_rel_offset %esi, 0\n"
        "pushl %edi\n" /* the caller's edi, at 8 */
        ".cfi_adjust_cfa_offset 4\n"
        ".cfi_rel_offset %edi, 0\n"
        "subl $8, %esp\n" /* room for the control words; esp is now this context */
        ".cfi_adjust_cfa_offset 8\n"
#if ASTHRA__SWAP_SSE
        "stmxcsr (%esp)\n" /* mxcsr, at 0 */
#endif
        "fnstcw 4(%esp)\n"       /* the x87 word, at 4 */
        "movl 28(%esp), %ecx\n"  /* ecx: from */
        "movl 32(%esp), %edx\n"  /* edx: to */
        "movl 36(%esp), %eax\n"  /* eax: message, what the other side returns */
        "movl %esp, (%ecx)\n"    /* *from = this context */
        "movzwl 4(%esp), %ecx\n" /* ecx: our x87 word */
        "movl %edx, %esp\n"      /* leave: esp is the context `to`, with the same layout */
#if ASTHRA__SWAP_SSE
        "ldmxcsr (%esp)\n" /* the mxcsr of `to`, from 0 */
#endif
        "cmpw 4(%esp), %cx\n" /* is its x87 word ours? */
        "jne 2f\n"
        "1:\n"
        "addl $8, %esp\n" /* past the control words */
        ".cfi_remember_state\n"
        ".cfi_adjust_cfa_offset -8\n"
        "popl %edi\n" /* edi of the arriving side, from 8 */
        ".cfi_adjust_cfa_offset -4\n"
        ".cfi_restore %edi\n"
        "popl %esi\n" /* its esi, from 12 */
        ".cfi_adjust_cfa_offset -4\n"
        ".cfi_restore %esi\n"
        "popl %ebx\n" /* its ebx, from 16 */
        ".cfi_adjust_cfa_offset -4\n"
        ".cfi_restore %ebx\n"
        "popl %ebp\n" /* its ebp, from 20 */
        ".cfi_adjust_cfa_offset -4\n"
        ".cfi_restore %ebp\n"
        "ret\n" /* to its caller, from 24 */
        ".cfi_restore_state\n"
        "2:\n"
        "fnclex\n"        /* no flag of another task may raise below */
        "fldcw 4(%esp)\n" /* the x87 word of `to`, from 4 */
        "jmp 1b\n"
        ".cfi_endproc\n"
        ".size asthra__swap, .-asthra__swap\n"
        ".popsection\n");

/* The first return of a new context comes here. eax: message; esi: entry; esp: 4 above a multiple
 * of 16, where the one argument of a call goes. */
__asm__(".pushsection .text.asthra__swap_start,\"ax\",@progbits\n"
        ".p2align 4\n"
        ".globl asthra__swap_start\n"
        ".hidden asthra__swap_start\n"
        ".type asthra__swap_start, @function\n"
        "asthra__swap_start:\n"
        ".cfi_startproc\n"
        ".cfi_undefined %eip\n" /* nobody called: unwinders stop here */
#if ASTHRA__SWAP_PADS
        "endbr32\n"
#endif
        "pushl %eax\n" /* argument of entry: message */
        ".cfi_adjust_cfa_offset 4\n"
        "call *%esi\n" /* entry(message), which never returns */
        "ud2\n"
        ".cfi_endproc\n"
        ".size asthra__swap_start, .-asthra__swap_start\n"
        ".popsection\n");

/* fn, argument, escape, is_default: at 4, 8, 12, 16; 24 more once all is pushed
 * asthra__swap_escape: escape, value: at 4, 8 */
__asm__(".pushsection .text.asthra__swap_call,\"ax\",@progbits\n"
        ".p2align 5\n"
        ".globl asthra__swap_call\n"
        ".hidden asthra__swap_call\n"
        ".type asthra__swap_call, @function\n"
        "asthra__swap_call:\n"
        ".cfi_startproc\n"
#if ASTHRA__SWAP_PADS
        "endbr32\n"
#endif
        "pushl %ebp\n" /* the caller's ebp, at 20 */
        ".cfi_adjust_cfa_offset 4\n"
        ".cfi_rel_offset %ebp, 0\n"
        "pushl %ebx\n" /* the caller's ebx, at 16 */
        ".cfi_adjust_cfa_offset 4\n"
        ".cfi_rel_offset %ebx, 0\n"
        "pushl %esi\n" /* the caller's esi, at 12 */
        ".cfi_adjust_cfa_offset 4\n"
        ".cfi_rel_offset %esi, 0\n"
        "pushl %edi\n" /* the caller's edi, at 8 */
        ".cfi_adjust_cfa_offset 4\n"
        ".cfi_rel_offset %edi, 0\n"
        "subl $8, %esp\n" /* room for the control words */
        ".cfi_adjust_cfa_offset 8\n"
        "movl 36(%esp), %ecx\n" /* ecx: escape */
        "movl %esp, (%ecx)\n"   /* *escape = this context */
        "movl 28(%esp), %eax\n" /* eax: fn */
        "movl 32(%esp), %edx\n" /* edx: argument */
        "cmpb $0, 40(%esp)\n"   /* is_default? */
        "jne 6f\n"
        "movl $0x1f80, (%esp)\n" /* what mxcsr is taken for without SSE */
#if ASTHRA__SWAP_SSE
        "stmxcsr (%esp)\n" /* the caller's mxcsr, at 0 */
#endif
        "fnstcw 4(%esp)\n"       /* the caller's x87 word, at 4 */
        "movl (%esp), %ecx\n"    /* ecx: mxcsr */
        "movzwl 4(%esp), %ebx\n" /* ebx: the x87 word */
        "andl $0xffc0, %ecx\n"   /* without its flags */
        "xorl $0x1f80, %ecx\n"   /* the default: all masked, to nearest */
        "xorl $0x037f, %ebx\n"   /* the default: all masked, to nearest, extended precision */
        "orl %ebx, %ecx\n"
        "jnz 3f\n"
        "1:\n"
        "pushl %edx\n" /* argument: 16-aligned for the call */
        ".cfi_adjust_cfa_offset 4\n"
        "call *%eax\n" /* eax = fn(argument) */
        "addl $4, %esp\n"
        ".cfi_adjust_cfa_offset -4\n"
        "2:\n" /* here goes on who called fn, and asthra__swap_escape; eax: value */
#if ASTHRA__SWAP_SSE
        "ldmxcsr (%esp)\n" /* the caller's mxcsr, from 0 */
#endif
        "pushl %ecx\n" /* room */
        ".cfi_adjust_cfa_offset 4\n"
        "fnstcw (%esp)\n" /* the x87 word that fn left */
        "popl %ecx\n"
        ".cfi_adjust_cfa_offset -4\n"
        "cmpw 4(%esp), %cx\n" /* is it the caller's? */
        "jne 5f\n"
        "4:\n"
        "addl $8, %esp\n" /* past the control words */
        ".cfi_remember_state\n"
        ".cfi_adjust_cfa_offset -8\n"
        "popl %edi\n" /* the caller's again, from 8 upwards */
        ".cfi_adjust_cfa_offset -4\n"
        ".cfi_restore %edi\n"
        "popl %esi\n"
        ".cfi_adjust_cfa_offset -4\n"
        ".cfi_restore %esi\n"
        "popl %ebx\n"
        ".cfi_adjust_cfa_offset -4\n"
        ".cfi_restore %ebx\n"
        "popl %ebp\n"
        ".cfi_adjust_cfa_offset -4\n"
        ".cfi_restore %ebp\n"
        "ret\n" /* eax: value */
        ".cfi_restore_state\n"
        "3:\n"
        "pushl $0x1f80\n" /* the defaults */
        ".cfi_adjust_cfa_offset 4\n"
#if ASTHRA__SWAP_SSE
        "ldmxcsr (%esp)\n"
#endif
        "movl $0x037f, (%esp)\n"
        "fnclex\n" /* a flag left behind must not raise under another mask */
        "fldcw (%esp)\n"
        "popl %ecx\n"
        ".cfi_adjust_cfa_offset -4\n"
        "jmp 1b\n"
        "5:\n"
        "fnclex\n"
        "fldcw 4(%esp)\n" /* the caller's x87 word, from 4 */
        "jmp 4b\n"
        "6:\n"
        "movl $0x1f80, (%esp)\n" /* the caller's, by its word for it */
        "movl $0x037f, 4(%esp)\n"
        "jmp 1b\n"
        ".cfi_endproc\n"
        ".size asthra__swap_call, .-asthra__swap_call\n"
        ".globl asthra__swap_escape\n"
        ".hidden asthra__swap_escape\n"
        ".type asthra__swap_escape, @function\n"
        "asthra__swap_escape:\n"
        ".cfi_startproc\n"
#if ASTHRA__SWAP_PADS
        "endbr32\n"
#endif
        "movl 8(%esp), %eax\n" /* eax: value */
        "movl 4(%esp), %esp\n" /* every frame below is gone */
        ".cfi_def_cfa %esp, 28\n"
        ".cfi_offset %ebp, -8\n"
        ".cfi_offset %ebx, -12\n"
        ".cfi_offset %esi, -16\n"
        ".cfi_offset %edi, -20\n"
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
    uint32_t edi, esi, ebx, ebp, return_address;
} Asthra__SwapFrame;
_Static_assert(sizeof(Asthra__SwapFrame) == 28, "the table of swap_i386.c");
_Static_assert(offsetof(Asthra__SwapFrame, esi) == 12, "the table of swap_i386.c");
_Static_assert(offsetof(Asthra__SwapFrame, return_address) == 24, "the table of swap_i386.c");

/* Linux has shadow stacks for 64-bit programs alone. */
ASTHRA__FN bool asthra__swap_is_allowed(void) {
    return true;
}

ASTHRA__FN Asthra__SwapContext *asthra__swap_make(void *low, void *top, void (*entry)(void *)) {
    char *end = (char *)top - ((uintptr_t)top & 15) - 12;
    Asthra__SwapFrame *frame = (Asthra__SwapFrame *)(void *)end - 1;
    (void)low;
    *frame = (Asthra__SwapFrame){.mxcsr = 0x1f80,
                                 .x87_word = 0x037f,
                                 .esi = (uint32_t)(uintptr_t)entry,
                                 .return_address = (uint32_t)(uintptr_t)asthra__swap_start};
    return (Asthra__SwapContext *)(void *)frame;
}

#endif
