/* os_linux_fault - fault signals, alternate stacks, backtraces.            [os] body
 *
 * A fault handler shares its signal with the host's and the sanitizers'. Three rules keep peace.
 * Only a signal that an instruction caused is ours (si_code > 0); one that was sent goes on. What
 * is not ours goes on to the handler before us, with the mask that it asked for; where that was the
 * default, the default is put back and the instruction faults again, so that the core dump shows
 * the culprit and not this file. And removal restores the old handler only where ours is still the
 * one installed: if someone has stacked theirs on top since, ours stays below it and passes on.
 *
 * The handler runs with its signal blocked: a fault inside it ends the process at once instead of
 * recursing. Leaving it by asthra__os_fault_redirect is an ordinary return from the signal, so the
 * mask of the interrupted code comes back by itself.
 *
 * Names come from dladdr, bound weakly: a static program or an old C library without it links
 * quietly and reports offsets in its executable instead.
 */
#include "os_internal.h"

#if ASTHRA_HAS_CORE && ASTHRA__SYS_LINUX

#include <elf.h>
#include <errno.h>
#include <link.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/ucontext.h>
#include <ucontext.h>
#include <unistd.h>
#include <unwind.h>

enum {
    ASTHRA__OS_FAULT_SIGNALS = 2,
    ASTHRA__OS_AT_MINSIGSTKSZ = 51,   /* AT_MINSIGSTKSZ: what the kernel's own frame takes */
    ASTHRA__OS_FAULT_ROOM = 48 * 1024 /* for the handler; unwinding takes most of it */
};

static const int asthra__os_fault_numbers[ASTHRA__OS_FAULT_SIGNALS] = {SIGSEGV, SIGBUS};

static struct {
    ASTHRA__ATOMIC(Asthra__OsFaultHandler) handler;
    struct sigaction before[ASTHRA__OS_FAULT_SIGNALS];
    bool is_linked[ASTHRA__OS_FAULT_SIGNALS]; /* ours is installed, or below one that calls it */
} asthra__os_fault;

/* Passes a signal on to whoever had it before. */
static void asthra__os_fault_pass(int number, siginfo_t *info, void *context) {
    const struct sigaction *before = &asthra__os_fault.before[number == SIGBUS];
    bool is_sent = info->si_code <= 0;
    bool is_plain = !(before->sa_flags & SA_SIGINFO);
    if (is_plain && before->sa_handler == SIG_IGN && is_sent) return;
    if (is_plain && (before->sa_handler == SIG_DFL || before->sa_handler == SIG_IGN)) {
        struct sigaction standard = {.sa_handler = SIG_DFL};
        sigaction(number, &standard, NULL);
        if (is_sent) raise(number); /* arrives when this handler returns */
        return;
    }
    sigset_t own;
    sigemptyset(&own);
    sigaddset(&own, number);
    sigprocmask(SIG_BLOCK, &before->sa_mask, NULL);
    if (before->sa_flags & SA_NODEFER) sigprocmask(SIG_UNBLOCK, &own, NULL);
    if (is_plain)
        before->sa_handler(number);
    else
        before->sa_sigaction(number, info, context);
}

static void asthra__os_fault_signal(int number, siginfo_t *info, void *context) {
    int saved = errno;
    Asthra__OsFaultHandler handler = asthra__load(&asthra__os_fault.handler, acquire);
    if (!(handler && info->si_code > 0 && handler(info->si_addr, context)))
        asthra__os_fault_pass(number, info, context);
    errno = saved;
}

static bool asthra__os_fault_is_ours(const struct sigaction *action) {
    return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == asthra__os_fault_signal;
}

/* The old action is stored before ours can run, because ours reads it. */
static bool asthra__os_fault_link(int i) {
    int number = asthra__os_fault_numbers[i];
    struct sigaction ours = {.sa_flags = SA_SIGINFO | SA_ONSTACK};
    if (asthra__os_fault.is_linked[i]) return true;
    if (sigaction(number, NULL, &asthra__os_fault.before[i]) != 0) return false;
    ours.sa_sigaction = asthra__os_fault_signal;
    sigemptyset(&ours.sa_mask);
    asthra__os_fault.is_linked[i] = sigaction(number, &ours, NULL) == 0;
    return asthra__os_fault.is_linked[i];
}

ASTHRA__FN void asthra__os_fault_remove(void) {
    int saved = errno;
    asthra__store(&asthra__os_fault.handler, NULL, release); /* pairs with the handler's acquire */
    for (int i = 0; i < ASTHRA__OS_FAULT_SIGNALS; i++) {
        struct sigaction now;
        int number = asthra__os_fault_numbers[i];
        if (!asthra__os_fault.is_linked[i] || sigaction(number, NULL, &now) != 0) continue;
        if (!asthra__os_fault_is_ours(&now)) continue;
        sigaction(number, &asthra__os_fault.before[i], NULL);
        asthra__os_fault.is_linked[i] = false;
    }
    errno = saved;
}

ASTHRA__FN bool asthra__os_fault_install(Asthra__OsFaultHandler handler) {
    int saved = errno;
    bool is_linked = true;
    asthra__store(&asthra__os_fault.handler, handler, release);
    for (int i = 0; i < ASTHRA__OS_FAULT_SIGNALS; i++)
        is_linked = asthra__os_fault_link(i) && is_linked;
    if (!is_linked) asthra__os_fault_remove();
    errno = saved;
    return is_linked;
}

/* Alternate stacks: a guard page, room for the handler, the kernel's frame. */

static size_t asthra__os_fault_stack_bytes(void) {
    size_t page = asthra__os_page_size(), frame = (size_t)getauxval(ASTHRA__OS_AT_MINSIGSTKSZ);
    if (frame < 8192) frame = 8192;
    return page + (frame + ASTHRA__OS_FAULT_ROOM + page - 1) / page * page;
}

ASTHRA__FN bool asthra__os_fault_stack_enter(void **memory) {
    int saved = errno;
    stack_t now = {0};
    size_t bytes = asthra__os_fault_stack_bytes(), page = asthra__os_page_size();
    *memory = NULL;
    if (sigaltstack(NULL, &now) == 0 && !(now.ss_flags & SS_DISABLE)) return true;
    char *start = asthra__os_map(bytes);
    if (!start) return false;
    (void)asthra__os_guard_pages(start, page, 1);
    stack_t ours = {.ss_sp = start + page, .ss_size = bytes - page};
    bool is_set = sigaltstack(&ours, NULL) == 0;
    if (is_set)
        *memory = start;
    else
        asthra__os_unmap(start, bytes);
    errno = saved;
    return is_set;
}

/* If the host has set its own since, that one stays. */
ASTHRA__FN void asthra__os_fault_stack_leave(void *memory) {
    int saved = errno;
    stack_t now = {0}, none = {.ss_flags = SS_DISABLE};
    if (!memory) return;
    if (sigaltstack(NULL, &now) == 0 && now.ss_sp == (char *)memory + asthra__os_page_size())
        sigaltstack(&none, NULL);
    asthra__os_unmap(memory, asthra__os_fault_stack_bytes());
    errno = saved;
}

/* The saved registers of each processor. The places in gregs are the kernel's, written as numbers
 * because their names are there only if the host's first include asked for GNU's. */

/* Code that was interrupted among its sums may have left the x87 stack full, and a call finds it
 * empty: says so in the saved tags, which lie behind the control and the status word. */
#if ASTHRA__CPU_X86_64
static void asthra__os_x87_empty(mcontext_t *saved) {
    if (saved->fpregs != NULL) ((uint16_t *)(void *)saved->fpregs)[2] = 0; /* a bit: in use */
}
#elif ASTHRA__CPU_I386
static void asthra__os_x87_empty(mcontext_t *saved) {
    if (saved->fpregs != NULL) ((uint32_t *)(void *)saved->fpregs)[2] |= 0xffff; /* 3: empty */
}
#elif ASTHRA__CPU_ARM
/* An odd address is Thumb code's. Whatever block of conditional instructions was interrupted, its
 * conditions (the IT bits) are not for the code that is gone to. */
enum { ASTHRA__ARM_THUMB = 0x20, ASTHRA__ARM_IT = 0x0600fc00 };
static void asthra__os_arm_go(mcontext_t *saved, uintptr_t target) {
    saved->arm_pc = target & ~(uintptr_t)1;
    saved->arm_cpsr &= ~(unsigned long)(ASTHRA__ARM_THUMB | ASTHRA__ARM_IT);
    if (target & 1) saved->arm_cpsr |= ASTHRA__ARM_THUMB;
}
#endif

ASTHRA__FN bool asthra__os_fault_redirect(void *context, void (*target)(void *), void *argument,
                                          void *stack_top) {
    mcontext_t *saved = &((ucontext_t *)context)->uc_mcontext;
    uintptr_t top = (uintptr_t)stack_top & ~(uintptr_t)15;
#if ASTHRA__CPU_X86_64
    enum { ASTHRA__RDI = 8, ASTHRA__RBP = 10, ASTHRA__RSP = 15, ASTHRA__RIP = 16 };
    enum { ASTHRA__FLAGS = 17, ASTHRA__DIRECTION = 0x400 };
    memset((void *)(top - 16), 0, 16); /* a return address that ends a walk, as a call leaves it */
    saved->gregs[ASTHRA__RSP] = (greg_t)(top - 8);
    saved->gregs[ASTHRA__RBP] = 0;
    saved->gregs[ASTHRA__RDI] = (greg_t)(uintptr_t)argument;
    saved->gregs[ASTHRA__RIP] = (greg_t)(uintptr_t)target;
    saved->gregs[ASTHRA__FLAGS] &= ~(greg_t)ASTHRA__DIRECTION; /* the ABI's state at a call */
    asthra__os_x87_empty(saved);
    return true;
#elif ASTHRA__CPU_AARCH64
    saved->sp = top;
    saved->regs[0] = (uintptr_t)argument;
    saved->regs[29] = 0;
    saved->regs[30] = 0;
    saved->pc = (uintptr_t)target;
    saved->pstate &= ~(uint64_t)0xc00; /* BTYPE: not the target of an indirect branch */
    return true;
#elif ASTHRA__CPU_RISCV64
    enum { ASTHRA__PC = 0, ASTHRA__RA = 1, ASTHRA__SP = 2, ASTHRA__S0 = 8, ASTHRA__A0 = 10 };
    saved->__gregs[ASTHRA__SP] = top;
    saved->__gregs[ASTHRA__A0] = (uintptr_t)argument;
    saved->__gregs[ASTHRA__S0] = 0;
    saved->__gregs[ASTHRA__RA] = 0;
    saved->__gregs[ASTHRA__PC] = (uintptr_t)target;
    return true;
#elif ASTHRA__CPU_I386
    enum { ASTHRA__EBP = 6, ASTHRA__ESP = 7, ASTHRA__EIP = 14 };
    enum { ASTHRA__FLAGS = 16, ASTHRA__DIRECTION = 0x400 };
    uintptr_t *call = (uintptr_t *)(top - 16) - 1;
    call[0] = 0; /* a return address that ends a walk */
    call[1] = (uintptr_t)argument;
    saved->gregs[ASTHRA__ESP] = (greg_t)(uintptr_t)call;
    saved->gregs[ASTHRA__EBP] = 0;
    saved->gregs[ASTHRA__EIP] = (greg_t)(uintptr_t)target;
    saved->gregs[ASTHRA__FLAGS] &= ~(greg_t)ASTHRA__DIRECTION;
    asthra__os_x87_empty(saved);
    return true;
#elif ASTHRA__CPU_ARM
    saved->arm_sp = top;
    saved->arm_r0 = (uintptr_t)argument;
    saved->arm_fp = 0;
    saved->arm_lr = 0;
    asthra__os_arm_go(saved, (uintptr_t)target);
    return true;
#else
    (void)saved, (void)top, (void)target, (void)argument;
    return false;
#endif
}

ASTHRA__FN bool asthra__os_fault_call(void *context, Asthra__OsCalled target, void *argument) {
    mcontext_t *saved = &((ucontext_t *)context)->uc_mcontext;
#if ASTHRA__CPU_X86_64
    enum { ASTHRA__CALL_RDI = 8, ASTHRA__CALL_RSP = 15, ASTHRA__CALL_RIP = 16 };
    enum { ASTHRA__CALL_FLAGS = 17, ASTHRA__CALL_DIRECTION = 0x400 };
    /* What lies below the stack pointer belongs to code that never goes on. A walk looks one byte
     * below a return address. */
    uintptr_t *top = (uintptr_t *)(uintptr_t)saved->gregs[ASTHRA__CALL_RSP] - 1;
    *top = (uintptr_t)saved->gregs[ASTHRA__CALL_RIP] + 1;
    saved->gregs[ASTHRA__CALL_RSP] = (greg_t)(uintptr_t)top;
    saved->gregs[ASTHRA__CALL_RDI] = (greg_t)(uintptr_t)argument;
    saved->gregs[ASTHRA__CALL_RIP] = (greg_t)(uintptr_t)target;
    saved->gregs[ASTHRA__CALL_FLAGS] &= ~(greg_t)ASTHRA__CALL_DIRECTION;
    asthra__os_x87_empty(saved);
    return true;
#elif ASTHRA__CPU_AARCH64
    saved->regs[30] = saved->pc + 4;
    saved->regs[0] = (uintptr_t)argument;
    saved->pc = (uintptr_t)target;
    saved->pstate &= ~(uint64_t)0xc00;
    return true;
#elif ASTHRA__CPU_RISCV64
    enum { ASTHRA__CALL_PC = 0, ASTHRA__CALL_RA = 1, ASTHRA__CALL_A0 = 10 };
    saved->__gregs[ASTHRA__CALL_RA] = saved->__gregs[ASTHRA__CALL_PC] + 2; /* the least there is */
    saved->__gregs[ASTHRA__CALL_A0] = (uintptr_t)argument;
    saved->__gregs[ASTHRA__CALL_PC] = (uintptr_t)target;
    return true;
#elif ASTHRA__CPU_I386
    enum { ASTHRA__CALL_ESP = 7, ASTHRA__CALL_EAX = 11, ASTHRA__CALL_EIP = 14 };
    enum { ASTHRA__CALL_FLAGS = 16, ASTHRA__CALL_DIRECTION = 0x400 };
    uintptr_t *top = (uintptr_t *)(uintptr_t)saved->gregs[ASTHRA__CALL_ESP] - 1;
    *top = (uintptr_t)saved->gregs[ASTHRA__CALL_EIP] + 1;
    saved->gregs[ASTHRA__CALL_ESP] = (greg_t)(uintptr_t)top;
    saved->gregs[ASTHRA__CALL_EAX] = (greg_t)(uintptr_t)argument;
    saved->gregs[ASTHRA__CALL_EIP] = (greg_t)(uintptr_t)target;
    saved->gregs[ASTHRA__CALL_FLAGS] &= ~(greg_t)ASTHRA__CALL_DIRECTION;
    asthra__os_x87_empty(saved);
    return true;
#elif ASTHRA__CPU_ARM
    bool is_thumb = (saved->arm_cpsr & ASTHRA__ARM_THUMB) != 0;
    saved->arm_lr = is_thumb ? (saved->arm_pc + 2) | 1 : saved->arm_pc + 4;
    saved->arm_r0 = (uintptr_t)argument;
    asthra__os_arm_go(saved, (uintptr_t)target);
    return true;
#else
    (void)saved, (void)target, (void)argument;
    return false;
#endif
}

/* Backtraces. The unwinder is libgcc's. Outside glibc it is bound weakly, because Debian's for musl
 * does not link; there a backtrace is empty unless the program has the unwinder for other reasons,
 * as C++ does, or is linked with -Wl,-u,_Unwind_Backtrace. */

#ifdef __GLIBC__
#define ASTHRA__OS_UNWINDER(name) __asm__(name)
#define ASTHRA__OS_HAS_UNWINDER 1
#else
#define ASTHRA__OS_UNWINDER(name) __asm__(name) __attribute__((__weak__))
#define ASTHRA__OS_HAS_UNWINDER (&asthra__os_unwind != NULL)
#endif
#if defined(__GLIBC__) || ASTHRA__OS_HAS_EHABI
#define ASTHRA__OS_HAS_CFA 1
#else
#define ASTHRA__OS_HAS_CFA (&asthra__os_unwind_stack != NULL)
#endif
extern _Unwind_Reason_Code asthra__os_unwind(_Unwind_Trace_Fn each, void *argument)
    ASTHRA__OS_UNWINDER("_Unwind_Backtrace");

#if ASTHRA__OS_HAS_EHABI
/* The unwinder of 32-bit ARM shows registers, and cannot tell who was interrupted. */
extern int asthra__os_unwind_register(struct _Unwind_Context *frame, int file, uint32_t number,
                                      int as, void *out) ASTHRA__OS_UNWINDER("_Unwind_VRS_Get");
static uintptr_t asthra__os_unwind_core(struct _Unwind_Context *frame, uint32_t number) {
    uintptr_t value = 0;
    (void)asthra__os_unwind_register(frame, 0, number, 0, &value); /* a core one, as 32 bits */
    return value;
}
static uintptr_t asthra__os_unwind_stack(struct _Unwind_Context *frame) {
    return asthra__os_unwind_core(frame, 13);
}
static uintptr_t asthra__os_unwind_place(struct _Unwind_Context *frame, int *is_exact) {
    *is_exact = 0;
    return asthra__os_unwind_core(frame, 15);
}
#else
extern uintptr_t asthra__os_unwind_place(struct _Unwind_Context *frame, int *is_exact)
    ASTHRA__OS_UNWINDER("_Unwind_GetIPInfo");
extern uintptr_t asthra__os_unwind_stack(struct _Unwind_Context *frame)
    ASTHRA__OS_UNWINDER("_Unwind_GetCFA");
#endif

typedef struct Asthra__OsTrace {
    void **out; /* one of the two is NULL */
    Asthra__OsFrame *frames;
    size_t room, count;
    bool is_caller, is_full; /* the first frame is this file's own; there were more */
    uintptr_t last;          /* the stack pointer of the frame before */
} Asthra__OsTrace;

/* A frame without a call of its own that a fault interrupted may seem to be its own caller. */
static _Unwind_Reason_Code asthra__os_trace_frame(struct _Unwind_Context *frame, void *argument) {
    Asthra__OsTrace *trace = argument;
    int is_exact = 0;
    uintptr_t at = asthra__os_unwind_place(frame, &is_exact);
    uintptr_t stack = ASTHRA__OS_HAS_CFA ? asthra__os_unwind_stack(frame) : 0;
    trace->is_full = at != 0 && trace->count == trace->room;
    if (at == 0 || trace->is_full || (stack != 0 && stack == trace->last && trace->count > 1))
        return _URC_END_OF_STACK;
    if (trace->is_caller && trace->out != NULL)
        trace->out[trace->count] = (void *)(is_exact ? at : asthra__os_before(at));
    if (trace->is_caller && trace->frames != NULL)
        trace->frames[trace->count] = (Asthra__OsFrame){at, stack, is_exact != 0};
    trace->count += trace->is_caller;
    trace->last = stack;
    trace->is_caller = true;
    return _URC_NO_REASON;
}

ASTHRA__NOINLINE ASTHRA__FN size_t asthra__os_backtrace(void **out, size_t room) {
    Asthra__OsTrace trace = {.out = out, .room = room};
    if (ASTHRA__OS_HAS_UNWINDER) asthra__os_unwind(asthra__os_trace_frame, &trace);
    return trace.count;
}

ASTHRA__NOINLINE ASTHRA__FN size_t asthra__os_frames(Asthra__OsFrame *out, size_t room,
                                                     bool *is_all) {
    Asthra__OsTrace trace = {.frames = out, .room = room};
    if (ASTHRA__OS_HAS_UNWINDER) asthra__os_unwind(asthra__os_trace_frame, &trace);
    *is_all = !trace.is_full;
    return trace.count;
}

/* Names. */

/* What dladdr fills, in its own layout: <dlfcn.h> declares it for GNU dialects only. */
typedef struct Asthra__OsName {
    const char *object;
    void *base;
    const char *function;
    void *start;
} Asthra__OsName;
extern int asthra__os_dladdr(const void *address, Asthra__OsName *out) __asm__("dladdr")
    __attribute__((__weak__));

typedef struct Asthra__OsLine {
    char *out;
    size_t room, length;
} Asthra__OsLine;

static void asthra__os_line_text(Asthra__OsLine *line, const char *text) {
    while (*text && line->length < line->room) line->out[line->length++] = *text++;
}

static void asthra__os_line_hex(Asthra__OsLine *line, uintptr_t value) {
    char digits[2 + 2 * sizeof value + 1];
    size_t at = sizeof digits - 1;
    digits[at] = 0;
    do digits[--at] = "0123456789abcdef"[value & 15];
    while ((value >>= 4) != 0);
    digits[--at] = 'x';
    digits[--at] = '0';
    asthra__os_line_text(line, digits + at);
}

static const char *asthra__os_basename(const char *path) {
    const char *slash = path ? strrchr(path, '/') : NULL;
    return slash ? slash + 1 : path ? path : "?";
}

/* How far the executable was moved from the addresses in its file; *is_inside: it holds `at`. The
 * program headers stand behind the file header, at the start of the part that has offset 0. */
static uintptr_t asthra__os_exe_shift(uintptr_t at, bool *is_inside) {
    const ElfW(Phdr) *parts = (const void *)getauxval(AT_PHDR);
    size_t count = parts ? (size_t)getauxval(AT_PHNUM) : 0;
    uintptr_t shift = 0;
    *is_inside = false;
    for (size_t i = 0; i < count; i++)
        if (parts[i].p_type == PT_LOAD && parts[i].p_offset == 0)
            shift = (uintptr_t)parts - sizeof(ElfW(Ehdr)) - (uintptr_t)parts[i].p_vaddr;
    for (size_t i = 0; i < count; i++)
        if (parts[i].p_type == PT_LOAD && at - shift - parts[i].p_vaddr < parts[i].p_memsz)
            *is_inside = true;
    return shift;
}

ASTHRA__FN size_t asthra__os_symbol(const void *address, char *out, size_t room) {
    Asthra__OsLine line = {.out = out, .room = room};
    Asthra__OsName name = {0};
    uintptr_t at = (uintptr_t)address;
    bool is_inside;
    uintptr_t shift = asthra__os_exe_shift(at, &is_inside);
    bool is_named = !!asthra__os_dladdr && asthra__os_dladdr(address, &name) != 0;
    if (is_named && name.function) {
        asthra__os_line_text(&line, name.function);
        asthra__os_line_text(&line, "+");
        asthra__os_line_hex(&line, at - ((uintptr_t)name.start & ~ASTHRA__OS_ODD));
        asthra__os_line_text(&line, " (");
        asthra__os_line_text(&line, asthra__os_basename(name.object));
    } else {
        asthra__os_line_hex(&line, at);
        if (!is_named && !is_inside) return line.length;
        const char *object = is_inside ? (const char *)getauxval(AT_EXECFN) : name.object;
        asthra__os_line_text(&line, " (");
        asthra__os_line_text(&line, asthra__os_basename(object));
        asthra__os_line_text(&line, "+");
        asthra__os_line_hex(&line, at - (is_inside ? shift : (uintptr_t)name.base));
    }
    asthra__os_line_text(&line, ")");
    return line.length;
}

#endif
