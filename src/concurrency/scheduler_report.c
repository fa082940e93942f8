/* scheduler - who waits on what, and what a panic needs to know.           [scheduler] body: report
 *
 * Asleep. When the last worker lies down, nothing can run. If no timer is set, no plain thread
 * waits with a limit, and the process has no thread but the workers, helpers without work, and
 * threads that wait in our calls, then nothing will ever run again: that is a bug of the program,
 * told as a panic with everybody who waits. `host_blocked` counts waits of plain threads that
 * nobody has resumed yet; whoever resumes one takes it out first, so a thread that is about to run
 * is not counted as blocked. A thread that the program made itself, and a sanitizer's own, keep the
 * check silent: they might still do something.
 *
 * Overflow. A touch of a guard page ends the task, not the process's memory: the handler, on an
 * alternate stack, makes the thread go on in a function of ours on the free part of an idle loop's
 * stack, where the panic has room to format, to call the hook and to fail the task.
 */
#include "scheduler_internal.h"
#include "../core/table_internal.h"
#include "../memory/heap_internal.h"

#if ASTHRA_HAS_TASK

#include <string.h>

#if ASTHRA__ASAN
void __asan_handle_no_return(void);
#endif

/* ---- names ---- */

static void asthra__describe_thread(Asthra__Text *t, const Asthra__Thread *thread) {
    if (thread->name[0] != '\0')
        asthra__text_format(t, "thread '%s'", thread->name);
    else
        asthra__text_format(t, "thread %llu", (unsigned long long)thread->id);
}

ASTHRA__FN const char *asthra__parker_name(const Asthra__Parker *p, char *out, size_t room) {
    Asthra__Text t = asthra__text_on(out, room);
    if (p->index != 0) {
        const Asthra__Task *task = ASTHRA__CONTAINER_CONST(Asthra__Task, parker, p);
        asthra__text_format(&t, "task %llu '%s'", (unsigned long long)asthra__task_bits(task),
                            task->name);
    } else {
        asthra__describe_thread(&t, ASTHRA__CONTAINER_CONST(Asthra__Seat, parker, p)->thread);
    }
    return out;
}

static bool asthra__is_unfinished(const Asthra__Task *t) {
    uint64_t word = asthra__load(&t->word, acquire);
    return (word & ASTHRA__TASK_ALIVE) && !(word & ASTHRA__TASK_END);
}

ASTHRA__FN const char *asthra__parker_name_if_any(uintptr_t parker, char *out, size_t room) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint32_t count = asthra__load(&g->descriptors, acquire);
    for (uint32_t i = 1; i < count; i++) {
        const Asthra__Task *t = asthra__task_at(i);
        if ((uintptr_t)&t->parker != parker) continue;
        return asthra__is_unfinished(t) ? asthra__parker_name(&t->parker, out, room)
                                        : "a task that has ended";
    }
    const char *name = "a thread that has ended";
    asthra__lock(&g->seats_lock);
    for (const Asthra__Seat *s = g->seats; s != NULL; s = s->next) {
        if ((uintptr_t)&s->parker == parker) name = asthra__parker_name(&s->parker, out, room);
    }
    asthra__unlock(&g->seats_lock);
    return name;
}

/* ---- lists of those who wait ---- */

/* A wait lives on its waiter's stack: it is looked at only if nobody can go on meanwhile. */
static void asthra__describe_wait(Asthra__Text *t, const Asthra__Parker *p, bool is_still) {
    uint32_t claim = asthra__load(&p->word, acquire) & ASTHRA__WAIT_CLAIM;
    if (claim != ASTHRA__WAIT_OPEN && claim != ASTHRA__WAIT_BUSY) {
        asthra__text_add(t, claim == ASTHRA__WAIT_IDLE ? "running" : "may run");
        return;
    }
    if (!is_still) {
        asthra__text_add(t, "waiting");
        return;
    }
    const Asthra__Wait *wait = p->wait;
    if (wait->describe != NULL) {
        wait->describe(t, wait);
        return;
    }
    asthra__text_add(t, wait->what);
    if (wait->name != NULL) asthra__text_format(t, " '%s'", wait->name);
}

static const Asthra__Task *asthra__task_of(uint64_t bits) {
    uint32_t index = (uint32_t)bits;
    if (index == 0 || index >= asthra__load(&asthra__scheduler()->descriptors, acquire))
        return NULL;
    const Asthra__Task *t = asthra__task_at(index);
    return asthra__task_bits(t) == bits ? t : NULL;
}

/* An await of a child in place, which is no wait of its own. */
static void asthra__describe_await(Asthra__Text *line, uint64_t bits) {
    const Asthra__Task *t = asthra__task_of(bits);
    if (t != NULL)
        asthra__text_format(line, "await of task '%s'", t->name);
    else
        asthra__text_format(line, "await of task %llu", (unsigned long long)bits);
}

/* What t does, as one line. */
static void asthra__describe_task(Asthra__Text *line, const Asthra__Task *t, bool is_still) {
    uint64_t child = asthra__load(&t->awaiting, relaxed);
    asthra__text_format(line, "task '%s': ", t->name);
    if (!(asthra__load(&t->marks, relaxed) & ASTHRA__TASK_STARTED)) {
        asthra__text_add(line, "not started");
    } else if (child != 0) {
        asthra__describe_await(line, child);
    } else {
        asthra__describe_wait(line, &t->parker, is_still);
    }
}

/* What the thread of s does; false: it runs the program's own code. */
static bool asthra__describe_seat(Asthra__Text *line, const Asthra__Seat *s, bool is_still) {
    uint64_t child = asthra__load(&s->awaiting, acquire);
    bool waits = (asthra__load(&s->parker.word, acquire) & ASTHRA__WAIT_CLAIM) != 0;
    if (!waits && child == 0) return false;
    asthra__describe_thread(line, s->thread);
    asthra__text_add(line, ": ");
    if (child != 0)
        asthra__describe_await(line, child);
    else
        asthra__describe_wait(line, &s->parker, is_still);
    return true;
}

/* Lines that say the same are one line with a count, so that a million workers fit a screen. */
typedef struct Asthra__Groups {
    Asthra__Table counts, oldest; /* by line: how many, and since when at the earliest */
} Asthra__Groups;

/* Since when p waits; UINT64_MAX: it does not. Whoever awaits `child` in place waits at least since
 * that one does. */
static uint64_t asthra__waits_since(const Asthra__Parker *p, uint64_t child) {
    const Asthra__Task *t;
    while ((asthra__load(&p->word, acquire) & ASTHRA__WAIT_CLAIM) != ASTHRA__WAIT_OPEN) {
        if ((t = asthra__task_of(child)) == NULL) return UINT64_MAX;
        p = &t->parker;
        child = asthra__load(&t->awaiting, relaxed);
    }
    return (uint64_t)p->wait->since_ns;
}

static void asthra__groups_add(Asthra__Groups *g, const char *line, uint64_t since) {
    uint64_t count = ++*asthra__table_slot_text(&g->counts, line);
    uint64_t *oldest = asthra__table_slot_text(&g->oldest, line);
    if (count == 1 || since < *oldest) *oldest = since;
}

static void asthra__groups_print(Asthra__Groups *g, int64_t now_ns) {
    for (size_t i = 0; i < asthra__table_count(&g->counts); i++) {
        const Asthra__TableEntry *e = asthra__table_at(&g->counts, i);
        uint64_t since = *asthra__table_find_text(&g->oldest, e->key.text);
        char age[40];
        Asthra__Text t = asthra__text_on(age, sizeof age);
        if (since != UINT64_MAX) {
            asthra__text_add(&t, ", since ");
            asthra__text_add_duration(&t, now_ns > (int64_t)since ? now_ns - (int64_t)since : 0);
        }
        asthra__text_report("  %llu x %s%s", (unsigned long long)e->value, e->key.text, age);
    }
    asthra__table_destroy(&g->counts);
    asthra__table_destroy(&g->oldest);
}

/* Every unfinished task, then every plain thread that waits. is_still: nothing runs meanwhile. */
static void asthra__report_everybody(bool is_still) {
    Asthra__Scheduler *g = asthra__scheduler();
    Asthra__Groups groups;
    uint32_t count = asthra__load(&g->descriptors, acquire);
    char line[300];
    asthra__table_create(&groups.counts, ASTHRA__TABLE_TEXTS);
    asthra__table_create(&groups.oldest, ASTHRA__TABLE_TEXTS);
    for (uint32_t i = 1; i < count; i++) {
        const Asthra__Task *t = asthra__task_at(i);
        if (!asthra__is_unfinished(t)) continue;
        Asthra__Text text = asthra__text_on(line, sizeof line);
        asthra__describe_task(&text, t, is_still);
        uint64_t child = asthra__load(&t->awaiting, relaxed);
        asthra__groups_add(&groups, line,
                           is_still ? asthra__waits_since(&t->parker, child) : UINT64_MAX);
    }
    asthra__lock(&g->seats_lock);
    for (const Asthra__Seat *s = g->seats; s != NULL; s = s->next) {
        Asthra__Text text = asthra__text_on(line, sizeof line);
        if (!asthra__describe_seat(&text, s, is_still)) continue;
        uint64_t child = asthra__load(&s->awaiting, relaxed);
        asthra__groups_add(&groups, line,
                           is_still ? asthra__waits_since(&s->parker, child) : UINT64_MAX);
    }
    asthra__unlock(&g->seats_lock);
    asthra__groups_print(&groups, asthra__now_ns());
}

/* ---- asleep ---- */

/* Every worker lies, and not for a moment only: none holds work, and none got up between two looks,
 * or it would be up still, or have lain down again. */
ASTHRA__FN bool asthra__rest_is_total(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint32_t workers = asthra__load(&g->worker_count, acquire);
    uint32_t manned = asthra__load(&g->manned, acquire);
    uint32_t rests = asthra__load(&g->rests, seq_cst);
    if (manned == 0) workers = 0; /* nobody has spawned yet: there are no worker threads */
    if (manned != workers || asthra__load(&g->sleeping, seq_cst) != workers) return false;
    for (uint32_t i = 0; i < workers; i++) {
        if (asthra__work_exists(g, &g->workers[i])) return false;
    }
    return asthra__load(&g->sleeping, seq_cst) == workers &&
           asthra__load(&g->rests, seq_cst) == rests;
}

ASTHRA__FN bool asthra__all_are_asleep(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (asthra__load(&g->phase, acquire) != ASTHRA__PHASE_RUNNING) return false;
    uint32_t rests = asthra__load(&g->rests, seq_cst);
    uint32_t moves = asthra__load(&g->moves, seq_cst);
    if (!asthra__rest_is_total() || asthra__timers_earliest() != INT64_MAX) return false;
    if (asthra__outside_is_awaited(g)) return false;
    if (asthra__load(&g->timed_hosts, seq_cst) != 0) return false;
    size_t known = asthra__load(&g->manned, acquire) + asthra__load(&g->host_blocked, seq_cst) +
                   asthra__load(&g->resting, seq_cst) + (ASTHRA__TSAN ? 1 : 0);
    size_t threads = asthra__os_thread_count();
    if (threads == 0 || threads != known) return false;
    return asthra__rest_is_total() && asthra__load(&g->rests, seq_cst) == rests &&
           asthra__load(&g->moves, seq_cst) == moves;
}

ASTHRA__COLD ASTHRA__FN void asthra__report_asleep(void) {
    static const char text[] = "all tasks are asleep";
    if (asthra__exchange(&asthra__scheduler()->is_asleep_told, 1u, acq_rel)) return;
    asthra__text_report("all tasks are asleep, and nothing is left that could wake one:");
    asthra__report_everybody(true);
    asthra__panic_with(NULL, 0, text);
}

ASTHRA__FN void asthra__report_standing(bool is_still) {
    asthra__text_report("shutdown: these tasks were cancelled and have not ended in time:");
    asthra__report_everybody(is_still);
}

/* ---- panics of tasks ---- */

static Asthra__Task *asthra__panic_task(void) {
    Asthra__Seat *s = asthra__seat_if_any();
    return s == NULL ? NULL : s->task;
}

static struct AsthraError **asthra__task_error_place(void) {
    Asthra__Task *t = asthra__panic_task();
    return t == NULL ? NULL : &t->error;
}

static uint64_t asthra__panic_task_id(void) {
    Asthra__Task *t = asthra__panic_task();
    return t == NULL ? 0 : asthra__task_bits(t);
}

static const char *asthra__panic_task_name(void) {
    Asthra__Task *t = asthra__panic_task();
    return t == NULL ? NULL : t->name;
}

static AsthraPanicPolicy asthra__panic_task_policy(void) {
    Asthra__Task *t = asthra__panic_task();
    return t == NULL ? ASTHRA_PANIC_ABORT : (AsthraPanicPolicy)t->policy;
}

static void asthra__panic_task_set_policy(AsthraPanicPolicy policy) {
    Asthra__Task *t = asthra__panic_task();
    if (t != NULL) t->policy = (uint8_t)policy;
}

/* Children of its open scopes may use the frames. After an overflow we stand on the free part of an
 * idle loop's stack, which nobody may run on meanwhile. False: that cannot be. */
ASTHRA__COLD static bool asthra__panic_leave_scopes(Asthra__Seat *s) {
    const char *here = __builtin_frame_address(0);
    Asthra__Fiber *under = s->worker != NULL ? s->worker->spare : NULL;
    if (under != NULL && (here < under->low || here >= under->high)) under = NULL;
    if (under != NULL && !asthra__spare_set_aside(s->worker)) return false;
    bool is_good = asthra__scope_abandon();
    if (under != NULL) asthra__spare_put_back(asthra__seat()->worker, under);
    return is_good;
}

/* Ends the task's function here and now; its frames are abandoned. */
static void asthra__panic_fail_task(const AsthraPanicInfo *info) {
    Asthra__Seat *s = asthra__seat_if_any();
    if (s == NULL || s->task == NULL) return;
    if (asthra__load(&s->task->marks, relaxed) & ASTHRA__TASK_SCOPES) {
        if (!asthra__panic_leave_scopes(s)) return;
        s = asthra__seat();
    }
    Asthra__Fiber *f = s->fiber; /* what is left may wait, and come back elsewhere */
    if (f->guards != NULL) asthra__fiber_guards_abandon(f, f->escape);
    asthra__error_set(ASTHRA_PANICKED, "%s", info->message);
    f->has_failed = true;
#if ASTHRA__ASAN
    __asan_handle_no_return();
#endif
    asthra__swap_escape(f->escape, NULL);
}

/* ---- overflow ---- */

/* Which tasks stand below `top` on its stack: each awaits the one above it, without a wait. */
static void asthra__name_those_below(Asthra__Text *out, const Asthra__Task *top) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint32_t count = asthra__load(&g->descriptors, acquire);
    uint64_t above = asthra__task_bits(top);
    for (int named = 0; above != 0 && named < 8; named++) {
        uint64_t next = 0;
        for (uint32_t i = 1; i < count && next == 0; i++) {
            const Asthra__Task *t = asthra__task_at(i);
            bool is_idle = (asthra__load(&t->parker.word, relaxed) & ASTHRA__WAIT_CLAIM) == 0;
            if (!asthra__is_unfinished(t) || !is_idle) continue;
            if (asthra__load(&t->awaiting, relaxed) != above) continue;
            asthra__text_format(out, "%s'%s'",
                                named == 0 ? " on a stack that it shares with " : ", ", t->name);
            next = asthra__task_bits(t);
        }
        above = next;
    }
}

/* On the free part of an idle loop's stack. */
ASTHRA__COLD static void asthra__overflow_panic(void *fiber) {
    const Asthra__Fiber *f = fiber;
    char message[400];
    Asthra__Text t = asthra__text_on(message, sizeof message);
    size_t kib = (size_t)(f->high - f->low) / 1024;
    Asthra__Task *task = asthra__panic_task();
    if (task == NULL) {
        asthra__text_format(&t, "stack overflow: the runtime used all %zu KiB of a stack", kib);
    } else {
        asthra__text_format(&t, "stack overflow: task '%s' used all %zu KiB", task->name, kib);
        asthra__name_those_below(&t, task);
        asthra__text_add(&t,
                         "; give it more with stack_bytes in AsthraSpawnOptions, or all of them "
                         "with stack_size in AsthraRuntimeConfig");
    }
    asthra__panic_with(NULL, 0, message);
}

/* A task that was called in place on main's own stack ran out of that one. */
static bool asthra__is_below_root(const Asthra__Seat *s, const void *address) {
    uintptr_t low = (uintptr_t)s->root.low, at = (uintptr_t)address;
    size_t page = asthra__os_page_size();
    return s->fiber == &s->root && s->task != NULL && at < low + page && at >= low - 256 * page;
}

/* In a signal handler. */
static bool asthra__on_fault(void *address, void *context) {
    if (asthra__guard_on_fault(address, context)) return true;
    Asthra__Fiber *f = asthra__fiber_of_guard(address);
    Asthra__Seat *s = asthra__seat_if_any();
    if (s == NULL || s->worker == NULL) return false;
    if (f == NULL && asthra__is_below_root(s, address)) f = s->fiber;
    if (f == NULL || s->fiber != f) return false;
    Asthra__Fiber *spare = s->worker->spare;
    if (spare == NULL) return false;
    uintptr_t top = ((uintptr_t)spare->context - 1024) / 64 * 64;
    return asthra__os_fault_redirect(context, asthra__overflow_panic, f, (void *)top);
}

static char *asthra__stack_end_here(const char *here) {
    const Asthra__Seat *s = asthra__seat_if_any();
    const Asthra__Fiber *f = s == NULL ? NULL : s->fiber;
    return f != NULL && here >= f->low && here < f->high ? f->high : NULL;
}

ASTHRA__FN void asthra__report_setup(void) {
    static const Asthra__HeapRunner runner = {asthra__current_id, asthra__stack_end_here};
    static const Asthra__PanicOwner owner = {
        asthra__panic_task_id,         asthra__panic_task_name, asthra__panic_task_policy,
        asthra__panic_task_set_policy, asthra__panic_fail_task,
    };
    asthra__panic_set_owner(&owner);
    asthra__result_set_place(asthra__task_error_place);
    asthra__heap_set_runner(&runner);
    asthra__os_fault_install(asthra__on_fault);
}

ASTHRA__FN void asthra__report_teardown(void) {
    asthra__os_fault_remove();
    asthra__heap_set_runner(NULL);
    asthra__panic_set_owner(NULL);
    asthra__result_set_place(NULL);
}

#endif
