/* os_fault - fault signals and alternate stacks.                           [os] body: faults
 *
 * A fault handler shares its signal with the host's and the sanitizers'. Three rules keep peace.
 * Only a signal that an instruction caused, as its code tells, is ours; one that was sent goes on.
 * What is not ours goes on to the handler before us, with the mask that it asked for; where that
 * was the default, the default is put back and the instruction faults again, so that the core dump
 * shows the culprit and not this file. And removal restores the old handler only where ours is
 * still the one installed: if someone has stacked theirs on top since, ours stays below it and
 * passes on.
 *
 * The handler runs with its signal blocked: a fault inside it ends the process at once instead of
 * recursing. Leaving it by asthra__os_fault_redirect is an ordinary return from the signal, so the
 * mask of the interrupted code comes back by itself.
 */
#include "os_internal.h"

#if ASTHRA_HAS_CORE

#include <errno.h>
#include <signal.h>

enum {
    ASTHRA__OS_FAULT_SIGNALS = 2,
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
    bool is_sent = !asthra__os_is_fault(number, info->si_code);
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
    bool is_fault = asthra__os_is_fault(number, info->si_code);
    if (!(handler && is_fault && handler(info->si_addr, context)))
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

/* Alternate stacks: a guard page, room for the handler, the kernel's frame, and the number of guard
 * pages, 1 or 0. */

static size_t *asthra__os_fault_stack_guards(void *memory, size_t bytes) {
    return (size_t *)(void *)((char *)memory + bytes) - 1;
}

static size_t asthra__os_fault_stack_bytes(void) {
    size_t page = asthra__os_page_size(), frame = asthra__os_signal_frame();
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
    size_t *guards = asthra__os_fault_stack_guards(start, bytes);
    *guards = asthra__os_guard_pages(start, page, 1);
    stack_t ours = {.ss_sp = start + page, .ss_size = bytes - page - 64};
    bool is_set = sigaltstack(&ours, NULL) == 0;
    if (is_set)
        *memory = start;
    else
        asthra__os_unmap_guarded(start, bytes, *guards);
    errno = saved;
    return is_set;
}

/* If the host has set its own since, that one stays. */
ASTHRA__FN void asthra__os_fault_stack_leave(void *memory) {
    int saved = errno;
    stack_t now = {0}, none = {.ss_flags = SS_DISABLE};
    size_t bytes = asthra__os_fault_stack_bytes();
    if (!memory) return;
    if (sigaltstack(NULL, &now) == 0 && now.ss_sp == (char *)memory + asthra__os_page_size())
        sigaltstack(&none, NULL);
    asthra__os_unmap_guarded(memory, bytes, *asthra__os_fault_stack_guards(memory, bytes));
    errno = saved;
}

#endif
