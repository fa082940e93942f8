/* ffi_i386 - steps and plans for i386.                                  [ffi] body: processor
 *
 * System V ABI, i386 psABI 1.1, section 2.2, as gcc and clang have it on Linux: all arguments lie
 * on the stack, each at a multiple of 4, whatever alignment its type asks for. Numbers come back in
 * eax, eax and edx, or on the x87 stack; a complex float in eax and edx; every struct and union and
 * larger complex numbers where the caller says, by an argument before all others, which the
 * function takes off the stack as it returns. (A struct with a member that asks for 16 bytes is no
 * exception, unless the member's own type asks for that, a typedef of a scalar: gcc aligns it then,
 * clang does not, and a descriptor cannot tell.)
 *
 * While steps run:
 *     ebx   the word of this step                 ebp   frame, below
 *     esi   the next argument's address in args   eax   in the argument at hand; scratch
 *     edi   where the next word goes              esp   the first stack argument
 *     ecx, edx   scratch
 *
 * Frame, offsets from ebp:
 *     24   function, as asthra__ffi_enter has it    4   return address
 *     20   stack bytes                              0   the caller's ebp
 *     16   args                                    -4   the caller's ebx
 *     12   ret                                     -8   the caller's esi
 *      8   steps                                  -12   the caller's edi
 *          stack arguments, below, from esp on
 *
 * Steps stand in slots of 32 bytes. Nothing here needs to know where the program lies, or SSE.
 */
#include "ffi_i386_internal.h"

#if ASTHRA_HAS_FFI && ASTHRA__CPU_I386

/* clang-format off */
/* Inside the frame that asthra__ffi_enter has made. */
#define ASTHRA__I_FRAME       \
    ".cfi_def_cfa %ebp, 8\n"  \
    ".cfi_offset %ebp, -8\n"  \
    ".cfi_offset %ebx, -12\n" \
    ".cfi_offset %esi, -16\n" \
    ".cfi_offset %edi, -20\n"
/* To the next step, behind so many operands. */
#define ASTHRA__I_NEXT0 "addl $4, %ebx\n" "notrack jmp *(%ebx)\n"
#define ASTHRA__I_NEXT1 "addl $8, %ebx\n" "notrack jmp *(%ebx)\n"
/* eax: the address of the next argument. */
#define ASTHRA__I_ARGUMENT \
    "movl (%esi), %eax\n"  \
    "addl $4, %esi\n"

/* steps, ret, args, stack bytes, function: at 8, 12, 16, 20, 24 of the frame */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_enter")
        ASTHRA__I_PAD
        "pushl %ebp\n"                  /* the caller's ebp */
        ".cfi_def_cfa_offset 8\n"
        ".cfi_offset %ebp, -8\n"
        "movl %esp, %ebp\n"
        ".cfi_def_cfa_register %ebp\n"
        "pushl %ebx\n"                  /* the caller's ebx, at -4 */
        ".cfi_offset %ebx, -12\n"
        "pushl %esi\n"                  /* the caller's esi, at -8 */
        ".cfi_offset %esi, -16\n"
        "pushl %edi\n"                  /* the caller's edi, at -12 */
        ".cfi_offset %edi, -20\n"
        "movl 8(%ebp), %ebx\n"          /* ebx: the first step */
        "movl 16(%ebp), %esi\n"         /* esi: args */
        "movl 20(%ebp), %eax\n"         /* eax: stack bytes */
        "cmpl $4096, %eax\n"
        "ja 2f\n"
        "1:\n"
        "subl %eax, %esp\n"             /* room for the stack arguments */
        "andl $-16, %esp\n"             /* not every caller has its stack aligned */
        "movl %esp, %edi\n"
        "notrack jmp *(%ebx)\n"
        "2:\n"                          /* no page is stepped over: one of them is the guard */
        "subl $4096, %esp\n"
        "orl $0, (%esp)\n"
        "subl $4096, %eax\n"
        "cmpl $4096, %eax\n"
        "ja 2b\n"
        "jmp 1b\n"
        ASTHRA__FFI_END("asthra__ffi_enter"));

/* The call itself. */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_run")
        ASTHRA__I_FRAME
        "call *24(%ebp)\n"              /* function(...) */
        ASTHRA__I_NEXT0
        ASTHRA__FFI_END("asthra__ffi_run"));

/* To the stack: 0 to 2 one, two and three words of the next argument; 3 to 6 the next argument,
 * an s8, u8, s16, u16; 7 to 9 the last 1 to 3 bytes of the argument at hand, of which no other is
 * read; 10 ret; 11 as many bytes of the argument at hand as the next word says, a multiple of 4. 12
 * the next argument is at hand. */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_to_stack")
        ASTHRA__I_FRAME
        ASTHRA__I_ARGUMENT
        "movl (%eax), %eax\n"
        "movl %eax, (%edi)\n"
        "addl $4, %edi\n"
        ASTHRA__I_NEXT0
        ".p2align 5\n"
        ASTHRA__I_ARGUMENT
        "movl (%eax), %ecx\n"
        "movl 4(%eax), %edx\n"
        "movl %ecx, (%edi)\n"
        "movl %edx, 4(%edi)\n"
        "addl $8, %edi\n"
        ASTHRA__I_NEXT0
        ".p2align 5\n"
        ASTHRA__I_ARGUMENT
        "movl (%eax), %ecx\n"
        "movl 4(%eax), %edx\n"
        "movl 8(%eax), %eax\n"
        "movl %ecx, (%edi)\n"
        "movl %edx, 4(%edi)\n"
        "movl %eax, 8(%edi)\n"
        "jmp 1f\n"
        ".irp op, movsbl, movzbl, movswl, movzwl\n"
        ".p2align 5\n"
        ASTHRA__I_ARGUMENT
        "\\op (%eax), %eax\n"
        "movl %eax, (%edi)\n"
        "addl $4, %edi\n"
        ASTHRA__I_NEXT0
        ".endr\n"
        ".irp op, movzbl, movzwl\n"
        ".p2align 5\n"
        "\\op (%eax), %eax\n"
        "movl %eax, (%edi)\n"
        "addl $4, %edi\n"
        ASTHRA__I_NEXT0
        ".endr\n"
        ".p2align 5\n"
        "movzwl (%eax), %ecx\n"
        "movzbl 2(%eax), %eax\n"
        "movw %cx, (%edi)\n"
        "movw %ax, 2(%edi)\n"
        "addl $4, %edi\n"
        ASTHRA__I_NEXT0
        ".p2align 5\n"
        "movl 12(%ebp), %eax\n"         /* ret */
        "movl %eax, (%edi)\n"
        "addl $4, %edi\n"
        ASTHRA__I_NEXT0
        ".p2align 5\n"
        "movl 4(%ebx), %ecx\n"          /* ecx: bytes */
        "jmp 2f\n"
        ".p2align 5\n"
        ASTHRA__I_ARGUMENT
        ASTHRA__I_NEXT0
        ".p2align 5\n"
        "1:\n"
        "addl $12, %edi\n"
        ASTHRA__I_NEXT0
        ".p2align 5\n"
        "2:\n"
        "addl %ecx, %eax\n"             /* eax, edi: the ends */
        "addl %ecx, %edi\n"
        "negl %ecx\n"
        "3:\n"
        "movl (%eax,%ecx), %edx\n"
        "movl %edx, (%edi,%ecx)\n"
        "addl $4, %ecx\n"
        "jnz 3b\n"
        ASTHRA__I_NEXT1
        ASTHRA__FFI_END("asthra__ffi_to_stack"));

/* The end of a call: 0 stores nothing; 1 to 3 store 1, 2, 4 bytes of eax; 4 eax and edx; 5 to 7 a
 * float, a double, a long double. */
#define ASTHRA__I_LEAVE        \
    ".cfi_remember_state\n"    \
    "leal -12(%ebp), %esp\n"   \
    "popl %edi\n"              \
    ".cfi_restore %edi\n"      \
    "popl %esi\n"              \
    ".cfi_restore %esi\n"      \
    "popl %ebx\n"              \
    ".cfi_restore %ebx\n"      \
    "popl %ebp\n"              \
    ".cfi_restore %ebp\n"      \
    ".cfi_def_cfa %esp, 4\n"   \
    "ret\n"                    \
    ".cfi_restore_state\n"
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_result")
        ASTHRA__I_FRAME
        ASTHRA__I_LEAVE
        ".p2align 5\n"
        "movl 12(%ebp), %ecx\n"         /* ret */
        "movb %al, (%ecx)\n"
        ASTHRA__I_LEAVE
        ".p2align 5\n"
        "movl 12(%ebp), %ecx\n"
        "movw %ax, (%ecx)\n"
        ASTHRA__I_LEAVE
        ".p2align 5\n"
        "movl 12(%ebp), %ecx\n"
        "movl %eax, (%ecx)\n"
        ASTHRA__I_LEAVE
        ".p2align 5\n"
        "movl 12(%ebp), %ecx\n"
        "movl %eax, (%ecx)\n"
        "movl %edx, 4(%ecx)\n"
        ASTHRA__I_LEAVE
        ".irp store, fstps, fstpl, fstpt\n"
        ".p2align 5\n"
        "movl 12(%ebp), %ecx\n"
        "\\store (%ecx)\n"
        ASTHRA__I_LEAVE
        ".endr\n"
        ASTHRA__FFI_END("asthra__ffi_result"));

/* Where unwinders find the personality of asthra__ffi_guard; C writes it. */
__asm__(ASTHRA__FFI_WORD("asthra__ffi_personality"));

/* run, record: at 4, 8; 12 more once the frame is made. While run runs ebx is the record, as
 * asthra__ffi_personality knows. */
__asm__(ASTHRA__FFI_BEGIN("asthra__ffi_guard")
        ".cfi_personality 0x9b, asthra__ffi_personality\n"
        ASTHRA__I_PAD
        "pushl %ebx\n"                  /* the caller's ebx */
        ".cfi_def_cfa_offset 8\n"
        ".cfi_offset %ebx, -8\n"
        "subl $8, %esp\n"               /* 16-aligned for the call */
        ".cfi_def_cfa_offset 16\n"
        "movl 20(%esp), %ebx\n"         /* ebx: record */
        "movl %ebx, (%esp)\n"
        "call *16(%esp)\n"              /* run(record) */
        "addl $8, %esp\n"
        ".cfi_def_cfa_offset 8\n"
        "popl %ebx\n"
        ".cfi_def_cfa_offset 4\n"
        ".cfi_restore %ebx\n"
        "ret\n"
        ASTHRA__FFI_END("asthra__ffi_guard"));
/* clang-format on */

ASTHRA__FFI_CODE void asthra__ffi_run(void) __asm__("asthra__ffi_run");
ASTHRA__FFI_CODE void asthra__ffi_to_stack(void) __asm__("asthra__ffi_to_stack");
ASTHRA__FFI_CODE void asthra__ffi_result(void) __asm__("asthra__ffi_result");

enum { /* to the stack */
       ASTHRA__I_WORDS = 0,
       ASTHRA__I_INTEGERS = 3,
       ASTHRA__I_LAST = 6, /* and the number of bytes */
       ASTHRA__I_RETURN = 10,
       ASTHRA__I_MANY = 11,
       ASTHRA__I_ARGUMENT_STEP = 12
};

static void asthra__i_step(Asthra__FFIBuilder *b, void (*first)(void), size_t slot) {
    asthra__ffi_emit(b, (uintptr_t)first + 32 * slot);
}

/* ---- results ---- */

static uint8_t asthra__i_result_how(const AsthraFFIType *t) {
    switch (t->kind) {
    case ASTHRA_FFI_F32: return ASTHRA__I_FLOAT;
    case ASTHRA_FFI_F64: return ASTHRA__I_DOUBLE;
    case ASTHRA_FFI_LDBL: return ASTHRA__I_LONG_DOUBLE;
    case ASTHRA_FFI_CF64:
    case ASTHRA_FFI_CLDBL:
    case ASTHRA_FFI_STRUCT:
    case ASTHRA_FFI_UNION: return ASTHRA__I_MEMORY;
    default: return ASTHRA__I_GENERAL;
    }
}

ASTHRA__FN const char *asthra__ffi_begin(Asthra__FFIBuilder *b, const AsthraFFIType *result,
                                         Asthra__FFIShape shape) {
    (void)shape;
    b->plan->result_how = ASTHRA__I_GENERAL;
    if (result == NULL) return NULL;
    b->plan->result_how = asthra__i_result_how(result);
    if (b->plan->result_how == ASTHRA__I_MEMORY) {
        (void)asthra__ffi_stack(b, 4, 4);
        asthra__i_step(b, asthra__ffi_to_stack, ASTHRA__I_RETURN);
    }
    return NULL;
}

ASTHRA__FN void asthra__ffi_end(Asthra__FFIBuilder *b) {
    static const uint8_t general[] = {0, 1, 2, 0, 3, 0, 0, 0, 4}; /* by size */
    const Asthra__FFIPlan *p = b->plan;
    size_t slot = 0;
    if (p->result_how == ASTHRA__I_GENERAL)
        slot = general[p->result_size];
    else if (p->result_how != ASTHRA__I_MEMORY)
        slot = 4 + (size_t)p->result_how;
    asthra__i_step(b, asthra__ffi_run, 0);
    asthra__i_step(b, asthra__ffi_result, slot);
    b->plan->stack_bytes = (uint32_t)((b->stack + 15) & ~(size_t)15);
}

/* ---- parameters ---- */

/* The next argument, of any size. */
static void asthra__i_put_bytes(Asthra__FFIBuilder *b, size_t size) {
    if (size == 4 || size == 8 || size == 12) {
        asthra__i_step(b, asthra__ffi_to_stack, ASTHRA__I_WORDS + size / 4 - 1);
        return;
    }
    asthra__i_step(b, asthra__ffi_to_stack, ASTHRA__I_ARGUMENT_STEP);
    if (size >= 4) {
        asthra__i_step(b, asthra__ffi_to_stack, ASTHRA__I_MANY);
        asthra__ffi_emit(b, size & ~(size_t)3);
    }
    if (size % 4 != 0) asthra__i_step(b, asthra__ffi_to_stack, ASTHRA__I_LAST + size % 4);
}

ASTHRA__FN const char *asthra__ffi_add(Asthra__FFIBuilder *b, const AsthraFFIType *t,
                                       Asthra__FFIShape shape, Asthra__FFIPlace *place) {
    size_t at = asthra__ffi_stack(b, (shape.size + 3) & ~(size_t)3, 4);
    place->offset = (uint32_t)(ASTHRA__I_FRAME_STACK + at);
    if (shape.align > 4) place->how = ASTHRA__FFI_HERE | ASTHRA__FFI_MOVED;
    if (t->kind == ASTHRA_FFI_BOOL)
        asthra__i_step(b, asthra__ffi_to_stack, ASTHRA__I_INTEGERS + 1);
    else if (t->kind >= ASTHRA_FFI_S8 && t->kind <= ASTHRA_FFI_U16)
        asthra__i_step(b, asthra__ffi_to_stack,
                       ASTHRA__I_INTEGERS + (size_t)t->kind - ASTHRA_FFI_S8);
    else
        asthra__i_put_bytes(b, shape.size);
    return NULL;
}

#endif
