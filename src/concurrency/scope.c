/* scope - tasks that do not outlive the block that spawns them.                    [scope] body
 *
 * A scope has a record of its own, off the stack: whatever the owner forgets or abandons, a child
 * that ends finds it. Records of one owner form a stack, whose top the owner's descriptor holds in
 * `value` while it runs (ASTHRA__TASK_SCOPES), or a thread's seat in `scopes`.
 *
 * A child is a task whose block begins with a node of its scope. The scope holds its only handle
 * and nobody awaits it; instead its end (ASTHRA__TASK_SCOPED) calls here:
 *
 *     1  out of the list, so that nobody cancels it any more; its failure is noted
 *     2  the task ends as any other, and its handle is consumed: it exists no more
 *     3  `running` is counted down, and the last one wakes the owner
 *
 * Step 3 is the last touch, so the owner may free the record once it has seen 0 under the lock.
 *
 * A failure is claimed under the lock, and its message copied by whoever claimed it, before step 3.
 * Then the children are cancelled, some at a time: the lock is given back in between, because
 * cancelling wakes others, and a child of ours may stand in the end of a scope of its own.
 */
#include "scope.h"

#include "../core/alloc_internal.h"
#include "task_internal.h"

#if ASTHRA_HAS_SCOPE

#include <string.h>

typedef struct Asthra__ScopeChild Asthra__ScopeChild;
struct Asthra__ScopeChild {
    ASTHRA__ALIGNED(ASTHRA__MAX_ALIGN) Asthra__ScopeChild *next;
    Asthra__ScopeChild **link;
    struct Asthra__Scope *scope;
    AsthraScopeFunction function;
    uint64_t bits;
    AsthraResult result;
};

typedef struct Asthra__Scope {
    struct Asthra__Scope *outer; /* of the same owner */
    const AsthraScope *face;     /* compared, never followed */
    const Asthra__Parker *owner;
    const char *who;
    Asthra__Lock lock;                /* from here on what it guards */
    size_t running;                   /* children that are not through with step 3 */
    Asthra__ScopeChild *fresh, *told; /* of these, not cancelled and cancelled; newest first */
    bool is_over;                     /* nothing is spawned any more */
    uint32_t status, detail;          /* of the first failure */
    struct AsthraError *error;        /* its claimer's until step 3 */
    Asthra__Parker *waiter;           /* the owner, in the end */
} Asthra__Scope;

enum { ASTHRA__SCOPE_BATCH = 64 };

/* ---- whose scopes ---- */

static Asthra__Scope *asthra__scope_innermost(const Asthra__Seat *s) {
    if (s->task == NULL) return s->scopes;
    bool has_any = asthra__load(&s->task->marks, relaxed) & ASTHRA__TASK_SCOPES;
    return has_any ? s->task->value : NULL;
}

static void asthra__scope_set_innermost(Asthra__Seat *s, Asthra__Scope *scope) {
    if (s->task == NULL) {
        s->scopes = scope;
        return;
    }
    uint8_t marks = asthra__load(&s->task->marks, relaxed) & (uint8_t)~ASTHRA__TASK_SCOPES;
    if (scope != NULL) marks |= (uint8_t)ASTHRA__TASK_SCOPES;
    s->task->value = scope;
    asthra__store(&s->task->marks, marks, relaxed);
}

/* opaque: the record, and this of it, which garbage and a copy do not have; 0 once it has ended. */
static void *asthra__scope_seal(const AsthraScope *s, const Asthra__Scope *scope) {
    return (void *)((uintptr_t)s ^ (uintptr_t)scope ^ (uintptr_t)0x5c09e5c09e5c09e5u);
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__scope_refuse(const AsthraScope *s,
                                                              const char *who) {
    if (s == NULL) asthra_panic_at(NULL, "%s: the scope is NULL", who);
    if (s->opaque[0] == NULL && s->opaque[1] == NULL)
        asthra_panic_at(NULL, "%s: the scope has ended, or was never begun", who);
    asthra_panic_at(
        NULL, "%s: the scope was never begun: this is something else, or the copy of one", who);
}

/* The record of an open scope; NULL: there was no memory for one. */
static Asthra__Scope *asthra__scope_of(const AsthraScope *s, const char *who) {
    if (ASTHRA__UNLIKELY(s == NULL || s->opaque[1] != asthra__scope_seal(s, s->opaque[0])))
        asthra__scope_refuse(s, who);
    return s->opaque[0];
}

/* ---- failures and cancelling ---- */

/* Up to a batch of children that were not cancelled before; how many. */
static size_t asthra__scope_take_fresh(Asthra__Scope *scope, uint64_t *bits) {
    size_t count = 0;
    Asthra__ScopeChild *c;
    asthra__lock(&scope->lock);
    while (count < ASTHRA__SCOPE_BATCH && (c = scope->fresh) != NULL) {
        scope->fresh = c->next;
        if (c->next != NULL) c->next->link = &scope->fresh;
        c->next = scope->told;
        c->link = &scope->told;
        if (c->next != NULL) c->next->link = &c->next;
        scope->told = c;
        bits[count++] = c->bits;
    }
    asthra__unlock(&scope->lock);
    return count;
}

/* The scope is over. The caller is its owner, or one of its children before step 3. */
ASTHRA__COLD static void asthra__scope_cancel(Asthra__Scope *scope) {
    uint64_t bits[ASTHRA__SCOPE_BATCH];
    size_t count;
    while ((count = asthra__scope_take_fresh(scope, bits)) > 0)
        asthra__task_cancel_many(bits, count);
}

/* A failure; the first one counts. The same callers. */
ASTHRA__COLD static void asthra__scope_fail(Asthra__Scope *scope, AsthraResult r) {
    asthra__lock(&scope->lock);
    bool is_first = scope->status == ASTHRA_OK;
    if (is_first) {
        scope->status = r.status;
        scope->detail = r.detail;
    }
    scope->is_over = true;
    asthra__unlock(&scope->lock);
    if (!is_first) return;
    scope->error = asthra__error_copy(r);
    asthra__scope_cancel(scope);
}

/* ---- children ---- */

static void *asthra__scope_run(void *block) {
    Asthra__ScopeChild *c = block;
    c->result = c->function(c + 1);
    return c;
}

/* How t, which is about to end, has fared. */
static AsthraResult asthra__scope_fate(const Asthra__Task *t, const Asthra__ScopeChild *c,
                                       AsthraTaskState how, const void *value) {
    AsthraResult r = asthra__result_of(ASTHRA_PANICKED);
    if (value != NULL) return c->result; /* it returned, perhaps after it saw its cancel */
    if (how == ASTHRA_TASK_CANCELLED) return asthra__result_of(ASTHRA_CANCELLED);
    if (t->error != NULL) r.value.error = t->error;
    return r;
}

ASTHRA__FN void asthra__scope_child_end(Asthra__Seat *s, Asthra__Task *t, AsthraTaskState how,
                                        void *value) {
    size_t bytes;
    Asthra__ScopeChild *c = asthra__task_block(t, &bytes);
    Asthra__Scope *scope = c->scope;
    uint64_t bits = c->bits;
    asthra__lock(&scope->lock);
    *c->link = c->next;
    if (c->next != NULL) c->next->link = c->link;
    asthra__unlock(&scope->lock);
    AsthraResult r = asthra__scope_fate(t, c, how, value);
    if (r.status != ASTHRA_OK) asthra__scope_fail(scope, r);
    asthra__task_end(s, t, how, NULL, false);
    asthra__task_release(s, t, bits);
    asthra__lock(&scope->lock);
    Asthra__Parker *waiter = --scope->running == 0 ? scope->waiter : NULL;
    if (waiter != NULL && !asthra__wait_claim(waiter)) waiter = NULL;
    asthra__unlock(&scope->lock);
    if (waiter != NULL) asthra__wait_wake(waiter);
}

/* Lists c as a child; false: the scope is over. */
static bool asthra__scope_admit(Asthra__Scope *scope, Asthra__ScopeChild *c) {
    asthra__lock(&scope->lock);
    bool is_over = scope->is_over;
    if (!is_over) {
        c->next = scope->fresh;
        c->link = &scope->fresh;
        if (c->next != NULL) c->next->link = &c->next;
        scope->fresh = c;
        scope->running++;
    } else if (scope->status == ASTHRA_OK) { /* its owner was cancelled: this one is not done */
        scope->status = ASTHRA_CANCELLED;
    }
    asthra__unlock(&scope->lock);
    return !is_over;
}

ASTHRA_RT_API void asthra_scope_spawn_at(AsthraScope *s, AsthraScopeFunction fn, const void *block,
                                         size_t size, const char *name) {
    asthra__turn();
    Asthra__Seat *seat = asthra__seat();
    Asthra__Scope *scope = asthra__scope_of(s, "asthra_scope_spawn");
    if (ASTHRA__UNLIKELY(fn == NULL))
        asthra_panic_at(NULL, "asthra_scope_spawn: the function is NULL");
    if (ASTHRA__UNLIKELY(scope == NULL)) return;
    size_t room = size < SIZE_MAX / 2 ? sizeof(Asthra__ScopeChild) + size : SIZE_MAX;
    Asthra__Task *t = asthra__task_prepare(seat, asthra__scope_run, room, name);
    if (ASTHRA__UNLIKELY(t == NULL)) {
        asthra__scope_fail(scope, asthra_last_error());
        return;
    }
    Asthra__ScopeChild *c = t->value;
    c->scope = scope;
    c->function = fn;
    c->bits = asthra__task_bits(t);
    if (block == NULL)
        memset(c + 1, 0, size);
    else if (size > 0)
        memcpy(c + 1, block, size);
    uint8_t marks = asthra__load(&t->marks, relaxed);
    asthra__store(&t->marks, (uint8_t)(marks | ASTHRA__TASK_SCOPED), relaxed);
    if (asthra__scope_admit(scope, c))
        asthra__task_submit(seat, t);
    else
        asthra__task_discard(seat, t);
}

/* ---- waiting ---- */

/* Waits until no child runs any more or the wait was ended. The lock is held before and after. */
static AsthraStatus asthra__scope_wait_once(Asthra__Scope *scope, bool is_firm) {
    Asthra__Wait w = {
        .what = "end of", .name = scope->who, .held = &scope->lock, .is_firm = is_firm};
    scope->waiter = asthra__wait_open(&w);
    AsthraStatus status = asthra__wait_park(&w, ASTHRA_FOREVER);
    asthra__lock(&scope->lock);
    scope->waiter = NULL;
    return status;
}

/* Waits until no child runs: ASTHRA_OK; ASTHRA_CANCELLED: and the owner's cancel went on to them
 * meanwhile; ASTHRA_OUT_OF_MEMORY: there was none to wait with, and some still do. */
static AsthraStatus asthra__scope_wait(Asthra__Scope *scope, bool is_firm) {
    AsthraStatus how = ASTHRA_OK, status;
    asthra__lock(&scope->lock);
    while (scope->running > 0) {
        status = asthra__scope_wait_once(scope, is_firm);
        if (status == ASTHRA_OK) continue;
        how = status;
        if (status == ASTHRA_OUT_OF_MEMORY) break;
        is_firm = scope->is_over = true;
        asthra__unlock(&scope->lock);
        asthra__scope_cancel(scope);
        asthra__lock(&scope->lock);
    }
    asthra__unlock(&scope->lock);
    return how;
}

/* The owner's wait. If it was cancelled it has seen that only if the scope has failed by it. */
static void asthra__scope_await(Asthra__Scope *scope) {
    Asthra__Task *t = asthra__seat()->task;
    uint8_t before = t == NULL ? 0 : asthra__load(&t->marks, relaxed);
    AsthraStatus how = asthra__scope_wait(scope, false);
    if (ASTHRA__UNLIKELY(how == ASTHRA_OUT_OF_MEMORY)) {
        asthra_panic_at(NULL,
                        "out of memory: no stack or thread to go on with while the %s waits for "
                        "its children",
                        scope->who);
    }
    if (how == ASTHRA_CANCELLED && scope->status != ASTHRA_CANCELLED)
        asthra__store(&t->marks, before, relaxed);
}

/* No child runs: the record goes. */
static void asthra__scope_leave(Asthra__Scope *scope) {
    asthra__scope_set_innermost(asthra__seat(), scope->outer);
    asthra__free(scope);
}

ASTHRA__FN bool asthra__scope_abandon(void) {
    Asthra__Scope *scope;
    while ((scope = asthra__scope_innermost(asthra__seat())) != NULL) {
        asthra__lock(&scope->lock);
        scope->is_over = true;
        asthra__unlock(&scope->lock);
        asthra__scope_cancel(scope);
        if (asthra__scope_wait(scope, true) != ASTHRA_OK) return false;
        asthra__error_free(scope->error);
        asthra__scope_leave(scope);
    }
    return true;
}

ASTHRA__FN void asthra__scope_left_open(const struct Asthra__Scope *scope, const char *what) {
    asthra_panic_at(NULL, "%s while the %s is open: its asthra_scope_end is missing", what,
                    scope->who);
}

/* ---- the contract ---- */

ASTHRA_RT_API void asthra_scope_begin_at(AsthraScope *s, const char *who) {
    if (ASTHRA__UNLIKELY(s == NULL)) asthra_panic_at(NULL, "%s: the scope is NULL", who);
    asthra__turn();
    Asthra__Seat *seat = asthra__seat();
    Asthra__Scope *outer = asthra__scope_innermost(seat);
    for (const Asthra__Scope *o = outer; o != NULL; o = o->outer) {
        if (o->face == s) asthra_panic_at(NULL, "%s: the scope is open since the %s", who, o->who);
    }
    Asthra__Scope *scope = asthra__alloc_zeroed(1, sizeof *scope);
    s->result = asthra_result_ok(NULL);
    s->open = true;
    s->opaque[0] = scope;
    s->opaque[1] = asthra__scope_seal(s, scope);
    if (ASTHRA__UNLIKELY(scope == NULL)) return;
    scope->outer = outer;
    scope->face = s;
    scope->owner = asthra__parker();
    scope->who = who;
    asthra__scope_set_innermost(seat, scope);
}

/* It is not the caller's innermost. */
ASTHRA__COLD ASTHRA_NORETURN static void asthra__scope_refuse_end(const Asthra__Scope *scope,
                                                                  const char *who) {
    const Asthra__Scope *innermost = asthra__scope_innermost(asthra__seat());
    char name[100];
    if (scope->owner != asthra__parker())
        asthra_panic_at(NULL, "%s: the %s belongs to %s, which alone may end it", who, scope->who,
                        asthra__parker_name_if_any((uintptr_t)scope->owner, name, sizeof name));
    if (innermost == NULL)
        asthra_panic_at(NULL, "%s: the runtime was shut down inside the %s", who, scope->who);
    asthra_panic_at(NULL, "%s: the %s is still open inside the %s", who, innermost->who,
                    scope->who);
}

ASTHRA_RT_API AsthraResult asthra_scope_end_at(AsthraScope *s, const char *who) {
    asthra__turn();
    Asthra__Scope *scope = asthra__scope_of(s, who);
    AsthraResult r = asthra__result_of(ASTHRA_OK);
    if (ASTHRA__LIKELY(scope != NULL)) {
        if (ASTHRA__UNLIKELY(asthra__scope_innermost(asthra__seat()) != scope))
            asthra__scope_refuse_end(scope, who);
        asthra__scope_await(scope);
        if (ASTHRA__UNLIKELY(scope->status != ASTHRA_OK))
            r = asthra__result_adopt(scope->status, scope->detail, scope->error);
        asthra__scope_leave(scope);
    } else {
        r = asthra_result_errorf(ASTHRA_OUT_OF_MEMORY, "%s: no memory for a scope", who);
    }
    s->open = false;
    s->opaque[0] = s->opaque[1] = NULL;
    return r;
}

ASTHRA_RT_API AsthraScope *asthra_scope_enter_at(AsthraScope *s, const char *who) {
    asthra_scope_begin_at(s, who);
    return s;
}

ASTHRA_RT_API void asthra_scope_check(AsthraScope **s) {
    if (ASTHRA__LIKELY(!(*s)->open)) return;
    const Asthra__Scope *scope = asthra__scope_of(*s, "asthra_scope_check");
    asthra_panic_at(NULL, "the %s was left without its end, by break, return or goto",
                    scope == NULL ? "scope" : scope->who);
}

/* For callers that need a function, not a macro. */
ASTHRA_RT_API void(asthra_scope_begin)(AsthraScope *s) {
    asthra_scope_begin_at(s, "asthra_scope_begin");
}
ASTHRA_RT_API void(asthra_scope_spawn)(AsthraScope *s, AsthraScopeFunction fn, const void *block,
                                       size_t size) {
    asthra_scope_spawn_at(s, fn, block, size, "task");
}
ASTHRA_RT_API AsthraResult(asthra_scope_end)(AsthraScope *s) {
    return asthra_scope_end_at(s, "asthra_scope_end");
}
ASTHRA_RT_API AsthraScope *asthra_scope_enter(AsthraScope *s) {
    return asthra_scope_enter_at(s, "asthra_scope_enter");
}

#endif
