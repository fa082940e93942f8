/* panic - record, tell, report, end.                                       [panic] body
 *
 * A panic happens when something is wrong, perhaps the heap, perhaps a lock: it allocates nothing
 * and uses only text, os and one lock of its own. Its texts are written into a ring of sixteen
 * slots. The steps are
 *
 *     1  mark the thread, so that a panic inside a panic is known
 *     2  under the lock: take the next slot of the ring and fill it in
 *     3  without the lock: call the hook
 *     4  under the lock: compose the report and write it in one piece
 *     5  unmark the thread, and follow the policy
 *
 * A marked thread that panics again (in the hook, or in any step) reports both messages and aborts
 * at once, without the lock, which it may hold. The mark stands in the thread's record: no step
 * parks, so the thread stays the same to step 5.
 *
 * A slot is filled whether or not the history is on, because the hook and the task need the texts;
 * `is_kept` says whether history shows it. Slots are taken in turn, so the texts of a panic live
 * until sixteen more have happened. More than sixteen threads inside steps 3 to 5 at the same
 * moment would share slots: their reports may then name each other's messages, and nothing worse.
 *
 * The first thread to abort does so; others that come to the same point wait for the end, so that
 * its core dump shows the first panic.
 *
 * The lock stays with the threads that a fork leaves behind. As soon as anybody has set a hook or
 * an owner, forking takes it; before that every panic ends the process.
 */
#include "panic_internal.h"
#include "text_internal.h"

#if ASTHRA_HAS_CORE

#include <stdlib.h>
#include <string.h>

enum { ASTHRA__PANIC_RING = 16, ASTHRA__PANIC_FRAMES = 32 };

typedef struct Asthra__PanicSlot {
    AsthraPanicInfo info;
    bool is_kept; /* the history shows it */
    char message[1001], file[256], task_name[64], stack[3072];
} Asthra__PanicSlot;

static struct {
    Asthra__Lock lock;
    uint64_t count; /* of all panics; the next one takes slot count % 16 */
    AsthraPanicHook hook;
    void *hook_user;
    bool is_silent; /* asthra__panic_enable_report(false) */
    ASTHRA__ATOMIC(const Asthra__PanicOwner *) owner;
    ASTHRA__ATOMIC(uint32_t) aborting;
    Asthra__Once fork_once;
    Asthra__PanicSlot slots[ASTHRA__PANIC_RING];
    char report[sizeof(Asthra__PanicSlot) + 256];
} asthra__panic;

static const char asthra__panic_no_task[] = "no task";

/* Where a panic was called: what the public functions pass down. */
typedef struct Asthra__PanicPlace {
    const char *file; /* not ended by a NUL; NULL: not known */
    size_t file_length;
    int line;
    const void *caller; /* the return address of the public function */
} Asthra__PanicPlace;

static void asthra__panic_fork_before(void) {
    asthra__lock(&asthra__panic.lock);
}
static void asthra__panic_fork_after(void) {
    asthra__unlock(&asthra__panic.lock);
}
static void asthra__panic_watch_fork(void) {
    asthra__os_on_fork(asthra__panic_fork_before, asthra__panic_fork_after,
                       asthra__panic_fork_after);
}

/* Splits "path:12" at its last colon. */
static Asthra__PanicPlace asthra__panic_place(const char *here, const void *caller) {
    Asthra__PanicPlace place = {NULL, 0, 0, caller};
    const char *colon = here ? strrchr(here, ':') : NULL;
    if (!here) return place;
    place.file = here;
    place.file_length = colon ? (size_t)(colon - here) : strlen(here);
    for (const char *digit = colon ? colon + 1 : ""; *digit >= '0' && *digit <= '9'; digit++)
        place.line = place.line * 10 + (*digit - '0');
    return place;
}

static void asthra__panic_fill_task(Asthra__PanicSlot *slot) {
    const Asthra__PanicOwner *owner = asthra__load(&asthra__panic.owner, acquire);
    const char *name = owner && owner->task_name ? owner->task_name() : NULL;
    slot->info.task_id = name && owner->task_id ? owner->task_id() : 0;
    if (!name) name = asthra__thread()->name;
    if (!*name) name = slot->info.task_id ? "unnamed" : asthra__panic_no_task;
    Asthra__Text t = asthra__text_on(slot->task_name, sizeof slot->task_name);
    asthra__text_add(&t, name);
    slot->info.task_name = slot->task_name;
}

/* A line for each frame from the one that `caller` returns to outwards: those inside are ours. A
 * frame's address lies inside its calling instruction, a return address at that one's end. */
static void asthra__panic_fill_stack(Asthra__PanicSlot *slot, const void *caller) {
    void *frames[ASTHRA__PANIC_FRAMES];
    size_t count = asthra__os_backtrace(frames, ASTHRA__PANIC_FRAMES), first = 0;
    Asthra__Text t = asthra__text_on(slot->stack, sizeof slot->stack);
    while (first < count && (uintptr_t)caller - (uintptr_t)frames[first] > 4) first++;
    if (first == count) first = 0;
    for (size_t i = first; i < count; i++) {
        char symbol[200];
        size_t length = asthra__os_symbol(frames[i], symbol, sizeof symbol);
        if (t.length + length + 4 > t.room) break; /* whole lines only */
        asthra__text_add(&t, "  ");
        asthra__text_add_count(&t, symbol, length);
        asthra__text_add(&t, "\n");
    }
    slot->info.stack = slot->stack;
}

static void asthra__panic_fill_place(Asthra__PanicSlot *slot, const Asthra__PanicPlace *place) {
    Asthra__Text t = asthra__text_on(slot->file, sizeof slot->file);
    if (place->file) asthra__text_add_count(&t, place->file, place->file_length);
    slot->info.file = place->file ? slot->file : NULL;
    slot->info.line = place->line;
}

/* Steps 1 and 2. */
static Asthra__PanicSlot *asthra__panic_record(const Asthra__PanicPlace *place, char *message,
                                               const char *format, va_list list)
    ASTHRA_PRINTF(3, 0);
static Asthra__PanicSlot *asthra__panic_record(const Asthra__PanicPlace *place, char *message,
                                               const char *format, va_list list) {
    asthra__lock(&asthra__panic.lock);
    uint64_t number = asthra__panic.count++;
    Asthra__PanicSlot *slot = &asthra__panic.slots[number % ASTHRA__PANIC_RING];
    Asthra__Text t = asthra__text_on(slot->message, sizeof slot->message);
    slot->info.message = slot->message;
    slot->info.time_ns = asthra__os_now_ns();
    asthra__thread()->panic = slot->message;
    asthra__text_format_list(&t, format, list);
    asthra__panic_fill_place(slot, place);
    asthra__panic_fill_task(slot);
    asthra__panic_fill_stack(slot, place->caller);
    slot->is_kept = !asthra__panic.is_silent;
    memcpy(message, slot->message, sizeof slot->message);
    asthra__unlock(&asthra__panic.lock);
    return slot;
}

/* Step 3. */
static void asthra__panic_call_hook(const AsthraPanicInfo *info) {
    asthra__lock(&asthra__panic.lock);
    AsthraPanicHook hook = asthra__panic.hook;
    void *user = asthra__panic.hook_user;
    asthra__unlock(&asthra__panic.lock);
    if (hook) hook(info, user);
}

static void asthra__panic_compose(Asthra__Text *t, const AsthraPanicInfo *info) {
    asthra__text_format(t, "panic: %s\n", info->message);
    if (info->file) asthra__text_format(t, "  at %s:%d\n", info->file, info->line);
    if (info->task_id)
        asthra__text_format(t, "  in task '%s' (id %llu)\n", info->task_name,
                            (unsigned long long)info->task_id);
    else if (strcmp(info->task_name, asthra__panic_no_task) == 0)
        asthra__text_format(t, "  in no task\n");
    else
        asthra__text_format(t, "  in thread '%s'\n", info->task_name);
    if (*info->stack) asthra__text_format(t, "stack:\n%s", info->stack);
}

/* Step 4. */
static void asthra__panic_report(const AsthraPanicInfo *info) {
    asthra__lock(&asthra__panic.lock);
    if (!asthra__panic.is_silent) {
        Asthra__Text t = asthra__text_on(asthra__panic.report, sizeof asthra__panic.report);
        asthra__panic_compose(&t, info);
        asthra__os_write_error(t.start, t.length);
    }
    asthra__unlock(&asthra__panic.lock);
}

/* Aborts if no other thread has begun to; else waits for that one, but not for ever. */
ASTHRA_NORETURN static void asthra__panic_abort(void) {
    static const int64_t patience_ns = 2000000000;
    int64_t start = asthra__os_now_ns();
    if (asthra__exchange(&asthra__panic.aborting, 1, acquire))
        while (asthra__os_now_ns() - start < patience_ns)
            asthra__os_wait(&asthra__panic.aborting, 1, patience_ns);
    abort();
}

/* The second panic of a thread that is still busy with its first. */
ASTHRA__COLD ASTHRA_NORETURN static void asthra__panic_again(const char *first, const char *format,
                                                             va_list list) ASTHRA_PRINTF(2, 0);
ASTHRA__COLD ASTHRA_NORETURN static void asthra__panic_again(const char *first, const char *format,
                                                             va_list list) {
    char second[400];
    Asthra__Text t = asthra__text_on(second, sizeof second);
    asthra__text_format_list(&t, format, list);
    asthra__text_report("panic: %s\n  while handling the panic: %.400s", second, first);
    abort();
}

/* Step 5. */
ASTHRA_NORETURN static void asthra__panic_end(const AsthraPanicInfo *info) {
    const Asthra__PanicOwner *owner = asthra__load(&asthra__panic.owner, acquire);
    AsthraPanicPolicy policy = owner && owner->policy ? owner->policy() : ASTHRA_PANIC_ABORT;
    asthra__thread()->panic = NULL;
    if (policy != ASTHRA_PANIC_ABORT && owner->fail_task) owner->fail_task(info);
    asthra__panic_abort();
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__panic_run(const Asthra__PanicPlace *place,
                                                           const char *format, va_list list)
    ASTHRA_PRINTF(2, 0);
ASTHRA__COLD ASTHRA_NORETURN static void asthra__panic_run(const Asthra__PanicPlace *place,
                                                           const char *format, va_list list) {
    Asthra__Thread *t = asthra__thread();
    if (t->panic) asthra__panic_again(t->panic, format, list);
    t->panic = "(its message was not written yet)";
    char message[sizeof asthra__panic.slots[0].message];
    const Asthra__PanicSlot *slot = asthra__panic_record(place, message, format, list);
    asthra__panic_call_hook(&slot->info);
    asthra__panic_report(&slot->info);
    AsthraPanicInfo info = slot->info;
    info.message = message; /* sixteen others may have panicked meanwhile */
    asthra__panic_end(&info);
}

/* The same with arguments instead of their list. */
ASTHRA_NORETURN static void asthra__panic_run_with(const Asthra__PanicPlace *place,
                                                   const char *format, ...) ASTHRA_PRINTF(2, 3);
ASTHRA_NORETURN static void asthra__panic_run_with(const Asthra__PanicPlace *place,
                                                   const char *format, ...) {
    va_list list;
    va_start(list, format);
    asthra__panic_run(place, format, list);
}

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__panic_with(const char *file, int line,
                                                                const char *message) {
    Asthra__PanicPlace place = {file, file ? strlen(file) : 0, line, __builtin_return_address(0)};
    asthra__panic_run_with(&place, "%s", message);
}

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__check_failed(const char *what) {
    Asthra__PanicPlace place = asthra__panic_place(NULL, __builtin_return_address(0));
    asthra__panic_run_with(&place, "%s", what);
}

ASTHRA__FN void asthra__panic_set_owner(const Asthra__PanicOwner *owner) {
    asthra__once(&asthra__panic.fork_once, asthra__panic_watch_fork);
    asthra__store(&asthra__panic.owner, owner, release); /* partner: the acquire loads */
}

ASTHRA__FN void asthra__panic_enable_report(bool on) {
    asthra__lock(&asthra__panic.lock);
    asthra__panic.is_silent = !on;
    asthra__unlock(&asthra__panic.lock);
}

ASTHRA__COLD ASTHRA_RT_API ASTHRA_NORETURN void asthra_panic_at(const char *here, const char *text,
                                                                ...) {
    Asthra__PanicPlace place = asthra__panic_place(here, __builtin_return_address(0));
    va_list list;
    va_start(list, text);
    asthra__panic_run(&place, text, list);
}

/* For callers that need a function, not a macro: they have no place to pass. */
ASTHRA__COLD ASTHRA_RT_API ASTHRA_NORETURN void(asthra_panic)(const char *text, ...) {
    Asthra__PanicPlace place = asthra__panic_place(NULL, __builtin_return_address(0));
    va_list list;
    va_start(list, text);
    asthra__panic_run(&place, text, list);
}

ASTHRA_RT_API void asthra_panic_set_hook(AsthraPanicHook hook, void *user) {
    asthra__once(&asthra__panic.fork_once, asthra__panic_watch_fork);
    asthra__lock(&asthra__panic.lock);
    asthra__panic.hook = hook;
    asthra__panic.hook_user = user;
    asthra__unlock(&asthra__panic.lock);
}

ASTHRA_RT_API void asthra_panic_set_policy(AsthraPanicPolicy policy) {
    const Asthra__PanicOwner *owner = asthra__load(&asthra__panic.owner, acquire);
    if (owner && owner->set_policy) owner->set_policy(policy);
}

/* The panic that has `age` newer ones that are kept, or NULL. Caller holds the lock. */
static const AsthraPanicInfo *asthra__panic_find(size_t age) {
    uint64_t count = asthra__panic.count;
    uint64_t room = count < ASTHRA__PANIC_RING ? count : ASTHRA__PANIC_RING;
    for (uint64_t back = 1; back <= room; back++) {
        const Asthra__PanicSlot *slot = &asthra__panic.slots[(count - back) % ASTHRA__PANIC_RING];
        if (slot->is_kept && age-- == 0) return &slot->info;
    }
    return NULL;
}

ASTHRA_RT_API const AsthraPanicInfo *asthra_panic_last(void) {
    asthra__lock(&asthra__panic.lock);
    const AsthraPanicInfo *newest = asthra__panic_find(0);
    asthra__unlock(&asthra__panic.lock);
    return newest;
}

ASTHRA_RT_API size_t asthra_panic_history(AsthraPanicInfo *out, size_t room) {
    size_t count = 0;
    asthra__lock(&asthra__panic.lock);
    while (count < room && asthra__panic_find(count)) count++;
    for (size_t i = 0; i < count; i++) out[i] = *asthra__panic_find(count - 1 - i);
    asthra__unlock(&asthra__panic.lock);
    return count;
}

ASTHRA_RT_API void asthra_panic_clear_history(void) {
    asthra__lock(&asthra__panic.lock);
    for (size_t i = 0; i < ASTHRA__PANIC_RING; i++) asthra__panic.slots[i].is_kept = false;
    asthra__unlock(&asthra__panic.lock);
}

/* Unwrap stands here because it panics: results stand below panics and never name them. */
#define ASTHRA__PANIC_STATUS_NAME(name, sentence) #name,
ASTHRA_RT_API void *asthra_result_unwrap_at(AsthraResult r, const char *what) {
    static const char *const names[] = {ASTHRA_STATUS_TABLE(ASTHRA__PANIC_STATUS_NAME)};
    if (ASTHRA__LIKELY(!r.status)) return r.value.pointer;
    const char *name = r.status < sizeof names / sizeof *names ? names[r.status] : "unknown";
    Asthra__PanicPlace place = asthra__panic_place(NULL, __builtin_return_address(0));
    asthra__panic_run_with(&place, "unwrap of a failure: %s: %s: %s", what ? what : "a result",
                           name, asthra_result_message(r));
}
#undef ASTHRA__PANIC_STATUS_NAME

#endif
