/* module - parts of a program that are initialised once, needs first.        [module] body
 *
 * Registering makes a plan (module_plan.c), then brings its records into the registry one after the
 * other, needs first: what is there already is done or waited for, what is not is put there as
 * RUNNING and initialised by whoever put it there. The lock is never held while an init or a fini
 * runs; a module's end is told to all who wait for it, with the words of its failure.
 *
 *     planned --put--> RUNNING --init is OK--> DONE --fini--> freed
 *                         `--init fails--> GONE: a place in the tree, which the next one may take
 *
 * Nobody waits in a ring. Static needs cannot make one (see there), but inits register too: the
 * init of a registers b while, on another thread, the init of b registers a. So an init's record
 * names what it registers at the moment (`wants`): what it waits for, or runs itself. Before anyone
 * waits inside an init it walks these names, under the lock; whoever would close a ring is told its
 * name instead, and may fail or go on. A party is inside the innermost init that it runs, which is
 * why a record keeps its party; parties are told apart by numbers that are never used again.
 *
 * A record may be abandoned while its init runs: the process forks, or shutdown has waited long
 * enough. Both count the epoch up, and a record of an older epoch belongs to nobody but its init.
 */
#include "module_internal.h"

#include "../concurrency/scheduler_internal.h"

#if ASTHRA_HAS_MODULE

#include <string.h>

static struct {
    Asthra__Lock lock;
    bool is_closed; /* from the first fini to the end of the shutdown */
    uint32_t epoch; /* of records whose init runs; those of older ones are nobody's */
    Asthra__ModuleRecord *tree;
    Asthra__ModuleRecord *running;         /* newest first */
    Asthra__ModuleRecord *oldest, *newest; /* in the order in which they were initialised */
    Asthra__Once fork_hook;
} asthra__module;

/* How an init ended, with words of its own. */
typedef struct Asthra__ModuleOutcome {
    uint32_t status, detail;
    char text[200];
} Asthra__ModuleOutcome;

static AsthraResult asthra__module_result(const Asthra__ModuleOutcome *o) {
    AsthraResult r = asthra__result_of(ASTHRA_OK);
    if (o->status != ASTHRA_OK) r = asthra_result_errorf((AsthraStatus)o->status, "%s", o->text);
    r.detail = o->detail;
    return r;
}

/* ---- who ---- */

static Asthra__ModuleParty asthra__module_self(void) {
    Asthra__ModuleParty p = {0, NULL};
#if ASTHRA_HAS_TASK
    p.task = asthra__current_id();
#endif
    if (p.task == 0) p.thread = asthra__thread();
    return p;
}

/* The init that the caller is in; NULL: none. Caller holds the lock. */
static Asthra__ModuleRecord *asthra__module_innermost(Asthra__ModuleParty self) {
    Asthra__ModuleRecord *r = asthra__module.running;
    while (r != NULL && (r->party.task != self.task || r->party.thread != self.thread)) r = r->next;
    return r;
}

/* ---- waiting ---- */

typedef struct Asthra__ModuleWaiter Asthra__ModuleWaiter;
struct Asthra__ModuleWaiter {
    Asthra__ModuleWaiter *next, **link; /* link NULL: told, or about to be */
    Asthra__ModuleRecord *outer;        /* the init that it is in; NULL: none */
    Asthra__ModuleOutcome outcome;
#if ASTHRA_HAS_TASK
    Asthra__Wait wait;
    Asthra__Parker *parker;
#else
    ASTHRA__ATOMIC(uint32_t) signal;
#endif
};

/* Caller holds the lock. */
static void asthra__module_unlink(Asthra__ModuleWaiter *w) {
    if (w->outer != NULL) w->outer->wants = NULL;
    if (w->link == NULL) return;
    *w->link = w->next;
    if (w->next != NULL) w->next->link = w->link;
    w->link = NULL;
}

static void asthra__module_link(Asthra__ModuleRecord *r, Asthra__ModuleWaiter *w) {
    w->next = r->waiters;
    w->link = &r->waiters;
    if (w->next != NULL) w->next->link = &w->next;
    r->waiters = w;
}

#if ASTHRA_HAS_TASK

/* Waits for the end of r's init, for timeout_ns. Caller holds the lock, which is given back. OK: it
 * has ended, and w->outcome says how. */
static AsthraStatus asthra__module_wait(Asthra__ModuleRecord *r, Asthra__ModuleWaiter *w,
                                        int64_t timeout_ns) {
    memset(&w->wait, 0, sizeof w->wait);
    w->wait.what = "init of module";
    w->wait.name = r->module->name;
    w->wait.held = &asthra__module.lock;
    w->parker = asthra__wait_open(&w->wait);
    asthra__module_link(r, w);
    AsthraStatus status = asthra__wait_park(&w->wait, timeout_ns);
    if (status == ASTHRA_OK) return ASTHRA_OK;
    asthra__lock(&asthra__module.lock);
    asthra__module_unlink(w);
    asthra__unlock(&asthra__module.lock);
    return status;
}

/* False: it has given up. Caller holds the lock. */
static bool asthra__module_claim(Asthra__ModuleWaiter *w) {
    if (!asthra__wait_claim(w->parker)) return false;
    w->wait.outcome = ASTHRA_OK;
    return true;
}

static void asthra__module_wake(Asthra__ModuleWaiter *w) {
    asthra__wait_wake(w->parker);
}

#else

/* As above, of threads, by a word to sleep on. */
static AsthraStatus asthra__module_wait(Asthra__ModuleRecord *r, Asthra__ModuleWaiter *w,
                                        int64_t timeout_ns) {
    int64_t left = timeout_ns, end = timeout_ns < 0 ? 0 : asthra__os_now_ns() + timeout_ns;
    asthra__store(&w->signal, 0u, relaxed);
    asthra__module_link(r, w);
    asthra__unlock(&asthra__module.lock);
    while (asthra__load(&w->signal, acquire) == 0) {
        asthra__os_wait(&w->signal, 0, left);
        if (left < 0 || (left = end - asthra__os_now_ns()) > 0) continue;
        asthra__lock(&asthra__module.lock);
        bool is_over = w->link != NULL;
        asthra__module_unlink(w);
        asthra__unlock(&asthra__module.lock);
        if (is_over) return ASTHRA_TIMED_OUT;
        left = -1; /* the signal is on its way */
    }
    return ASTHRA_OK;
}

static bool asthra__module_claim(Asthra__ModuleWaiter *w) {
    (void)w;
    return true;
}

/* It may return as soon as the signal is written. */
static void asthra__module_wake(Asthra__ModuleWaiter *w) {
    asthra__store(&w->signal, 1u, release); /* partner: the acquire in asthra__module_wait */
    asthra__os_wake(&w->signal, 1);
}

#endif

/* Tells those who wait for r how it ended. Returns `told` and before it those that must be woken.
 * Caller holds the lock. */
static Asthra__ModuleWaiter *asthra__module_tell(Asthra__ModuleRecord *r,
                                                 const Asthra__ModuleOutcome *outcome,
                                                 Asthra__ModuleWaiter *told) {
    for (Asthra__ModuleWaiter *w = r->waiters, *next; w != NULL; w = next) {
        next = w->next;
        w->link = NULL;
        if (w->outer != NULL) w->outer->wants = NULL;
        if (!asthra__module_claim(w)) continue;
        w->outcome = *outcome;
        w->next = told;
        told = w;
    }
    r->waiters = NULL;
    return told;
}

static void asthra__module_wake_all(Asthra__ModuleWaiter *told) {
    for (Asthra__ModuleWaiter *next; told != NULL; told = next) {
        next = told->next; /* a waiter is its own until the wake */
        asthra__module_wake(told);
    }
}

/* ---- one init ---- */

typedef struct Asthra__ModuleCall {
    Asthra__ModuleRecord *record;
    AsthraPanicPolicy policy;
    Asthra__ModuleOutcome *outcome;
} Asthra__ModuleCall;

/* Keeps how an init ended, before the error record that its words may stand in is written again. */
static void asthra__module_keep(Asthra__ModuleCall *call, AsthraResult r) {
    const Asthra__ModuleRecord *record = call->record;
    Asthra__Text t = asthra__text_on(call->outcome->text, sizeof call->outcome->text);
    call->outcome->status = r.status;
    call->outcome->detail = r.detail;
    if (r.status == ASTHRA_OK) return;
    asthra__text_format(&t, "init of module '%s'", record->module->name);
    if (record->needed_by != NULL)
        asthra__text_format(&t, ", needed by '%s'", record->needed_by->module->name);
    asthra__text_format(&t, ": %s", asthra_result_message(r));
}

static void asthra__module_init_here(Asthra__ModuleCall *call) {
    const AsthraModule *m = call->record->module;
    Asthra__ModuleParty self = asthra__module_self();
    asthra__lock(&asthra__module.lock);
    call->record->party = self;
    asthra__unlock(&asthra__module.lock);
    asthra__module_keep(call, m->init(m));
}

#if ASTHRA_HAS_TASK

static void *asthra__module_task(void *args) {
    Asthra__ModuleCall *call = args;
    asthra_panic_set_policy(call->policy);
    asthra__module_init_here(call);
    return NULL;
}

/* In a task the init is a child, because a panic stops at its boundary: it must not leave a record
 * behind that runs for ever. */
static void asthra__module_init(Asthra__ModuleCall *call) {
    const Asthra__Task *me = asthra__seat()->task;
    if (me == NULL) {
        asthra__module_init_here(call);
        return;
    }
    char name[72];
    Asthra__Text t = asthra__text_on(name, sizeof name);
    asthra__text_format(&t, "init of %s", call->record->module->name);
    AsthraSpawnOptions options = {name, 0, 0, ASTHRA_AFFINITY_ANY};
    call->policy = (AsthraPanicPolicy)me->policy;
    AsthraTaskHandle child = asthra_spawn_with(&options, asthra__module_task, call);
    AsthraResult r = child.bits == 0 ? asthra_last_error() : asthra_await_result(child, NULL);
    if (r.status != ASTHRA_OK && call->outcome->status == ASTHRA_OK) asthra__module_keep(call, r);
}

#else

static void asthra__module_init(Asthra__ModuleCall *call) {
    asthra__module_init_here(call);
}

#endif

/* r->path and what follows lead from its root in its plan down to r; returns that root. */
static Asthra__ModuleRecord *asthra__module_lead(Asthra__ModuleRecord *r) {
    for (; r->needed_by != NULL; r = r->needed_by) r->needed_by->path = r;
    return r;
}

/* Would an init that waits for r wait for itself? Then r->path leads round the ring. Caller holds
 * the lock. */
static bool asthra__module_closes_ring(Asthra__ModuleRecord *r, const Asthra__ModuleRecord *init) {
    Asthra__ModuleRecord *at = r;
    for (; at->known != init; at = at->known->wants) {
        if (at->known->wants == NULL) return false;
        at->path = asthra__module_lead(at->known->wants);
    }
    at->path = asthra__module_lead(r);
    return true;
}

/* ---- from the plan into the registry ---- */

/* Puts r into the tree, in the place of one that is gone if such a one is on its way. Caller holds
 * the lock, and frees what is returned. */
static Asthra__ModuleRecord *asthra__module_plant(Asthra__ModuleRecord *r) {
    Asthra__ModuleRecord **at = &asthra__module.tree;
    for (uint64_t way = r->hash; *at != NULL && (*at)->state != ASTHRA__MODULE_GONE; way <<= 2)
        at = &(*at)->child[way >> 62];
    Asthra__ModuleRecord *gone = *at;
    memset(r->child, 0, sizeof r->child);
    if (gone != NULL) memcpy(r->child, gone->child, sizeof r->child);
    *at = r;
    return gone;
}

/* Takes r, whose init has ended, off the running ones. Caller holds the lock. */
static void asthra__module_conclude(Asthra__ModuleRecord *r, bool is_good) {
    Asthra__ModuleRecord **at = &asthra__module.running;
    while (*at != r) at = &(*at)->next;
    *at = r->next;
    r->state = is_good ? ASTHRA__MODULE_DONE : ASTHRA__MODULE_GONE;
    if (!is_good) return;
    r->older = asthra__module.newest;
    r->newer = NULL;
    if (r->older != NULL)
        r->older->newer = r;
    else
        asthra__module.oldest = r;
    asthra__module.newest = r;
}

/* r's init has ended; it was called in that of `outer`, if that is not NULL. */
static AsthraResult asthra__module_finish(Asthra__ModuleRecord *r, Asthra__ModuleRecord *outer,
                                          const Asthra__ModuleOutcome *outcome) {
    Asthra__ModuleWaiter *told = NULL;
    asthra__lock(&asthra__module.lock);
    bool is_lost = r->epoch != asthra__module.epoch;
    if (!is_lost) {
        if (outer != NULL) outer->wants = NULL;
        asthra__module_conclude(r, outcome->status == ASTHRA_OK);
        told = asthra__module_tell(r, outcome, NULL);
    }
    asthra__unlock(&asthra__module.lock);
    asthra__module_wake_all(told);
    if (!is_lost) return asthra__module_result(outcome);
    AsthraResult result = asthra_result_errorf(
        ASTHRA_FAILED, "module '%s': the runtime was shut down, or the process forked, in its init",
        r->module->name);
    asthra__free(r);
    return result;
}

/* Caller holds the lock, which is given back. */
static AsthraResult asthra__module_run(Asthra__ModuleRecord *r) {
    Asthra__ModuleOutcome outcome = {ASTHRA_OK, 0, ""};
    Asthra__ModuleCall call = {r, ASTHRA_PANIC_ABORT, &outcome};
    Asthra__ModuleRecord *outer = asthra__module_innermost(asthra__module_self());
    Asthra__ModuleRecord *gone = asthra__module_plant(r);
    r->state = ASTHRA__MODULE_RUNNING;
    r->epoch = asthra__module.epoch;
    r->known = r;
    r->next = asthra__module.running;
    asthra__module.running = r;
    if (outer != NULL) outer->wants = r;
    asthra__unlock(&asthra__module.lock);
    asthra__free(gone);
    if (r->module->init != NULL) asthra__module_init(&call);
    return asthra__module_finish(r, outer, &outcome);
}

/* Another runs the init of `known`, which r stands for in our plan; or we do, further down on our
 * stack. Caller holds the lock, which is given back. False: that one was cancelled, and it is our
 * turn. */
static bool asthra__module_await(Asthra__ModuleRecord *r, Asthra__ModuleRecord *known,
                                 AsthraResult *result) {
    Asthra__ModuleWaiter w;
    w.outer = asthra__module_innermost(asthra__module_self());
    r->known = known;
    if (w.outer != NULL && asthra__module_closes_ring(r, w.outer)) {
        Asthra__Text t = asthra__text_on(w.outcome.text, sizeof w.outcome.text);
        asthra__module_name_ring(r, &t);
        asthra__unlock(&asthra__module.lock);
        *result = asthra_result_errorf(ASTHRA_INVALID, "%s", w.outcome.text);
        return true;
    }
    if (w.outer != NULL) w.outer->wants = r;
    AsthraStatus status = asthra__module_wait(known, &w, -1);
    if (status != ASTHRA_OK) {
        *result = asthra__result_of(status);
        return true;
    }
    *result = asthra__module_result(&w.outcome);
    return w.outcome.status != ASTHRA_CANCELLED;
}

static AsthraResult asthra__module_too_late(const AsthraModule *m) {
    return asthra_result_errorf(ASTHRA_INVALID,
                                "module '%s' is registered while the runtime shuts down", m->name);
}

/* Makes one of a plan, whose needs are initialised, a module that is. */
static AsthraResult asthra__module_bring(Asthra__ModuleRecord *r, uint32_t epoch) {
    const AsthraModule *m = r->module, *old = m;
    AsthraResult result = asthra__result_of(ASTHRA_OK);
    bool is_over = false;
    while (!is_over) {
        asthra__lock(&asthra__module.lock);
        bool is_late = asthra__module.is_closed || asthra__module.epoch != epoch;
        Asthra__ModuleRecord *known = *asthra__module_place(&asthra__module.tree, m->name, r->hash);
        if (!is_late && known == NULL) return asthra__module_run(r);
        if (!is_late) old = known->module;
        if (!is_late && old == m && known->state == ASTHRA__MODULE_RUNNING) {
            is_over = asthra__module_await(r, known, &result);
            continue;
        }
        asthra__unlock(&asthra__module.lock);
        is_over = true;
        result = is_late ? asthra__module_too_late(m) : asthra__result_of(ASTHRA_OK);
        if (old != m) result = asthra__module_conflict(old, m);
    }
    asthra__free(r);
    return result;
}

static void asthra__module_fork_child(void) {
    asthra__store(&asthra__module.lock.word, 0, relaxed);
    asthra__module.is_closed = false;
    asthra__module.epoch++;
    asthra__module.tree = asthra__module.running = NULL;
    asthra__module.oldest = asthra__module.newest = NULL;
}
static void asthra__module_hook_fork(void) {
    asthra__os_on_fork(NULL, NULL, asthra__module_fork_child);
}

/* Starts what must be started; returns the epoch. */
static uint32_t asthra__module_begin(void) {
#if ASTHRA_HAS_TASK
    asthra__turn();
    asthra__seat();
#endif
    asthra__once(&asthra__module.fork_hook, asthra__module_hook_fork);
    asthra__lock(&asthra__module.lock);
    uint32_t epoch = asthra__module.epoch;
    asthra__unlock(&asthra__module.lock);
    return epoch;
}

ASTHRA_RT_API AsthraResult asthra_module_register(const AsthraModule *m) {
    if (m == NULL)
        return asthra_result_errorf(ASTHRA_INVALID, "asthra_module_register: the module is NULL");
    uint32_t epoch = asthra__module_begin();
    Asthra__ModuleRecord *left, *r;
    AsthraResult result = asthra__module_plan(m, &left);
    while (!result.status && (r = left) != NULL) {
        left = r->next;
        result = asthra__module_bring(r, epoch);
    }
    asthra__module_free_list(left); /* what an error has left of it */
    return result;
}

/* ---- what others ask ---- */

ASTHRA__FN const AsthraModule *asthra__module_known(const char *name, uint64_t hash,
                                                    bool *is_done) {
    asthra__lock(&asthra__module.lock);
    const Asthra__ModuleRecord *r = *asthra__module_place(&asthra__module.tree, name, hash);
    const AsthraModule *m = r == NULL ? NULL : r->module;
    *is_done = r != NULL && r->state == ASTHRA__MODULE_DONE;
    asthra__unlock(&asthra__module.lock);
    return m;
}

ASTHRA__FN void asthra__module_each_type(bool (*visit)(const struct AsthraTypeInfo *type,
                                                       const AsthraModule *m, void *user),
                                         void *user) {
    bool goes_on = true;
    asthra__lock(&asthra__module.lock);
    for (const Asthra__ModuleRecord *r = asthra__module.oldest; goes_on && r; r = r->newer) {
        const struct AsthraTypeInfo *const *type = r->module->types;
        for (; goes_on && type != NULL && *type != NULL; type++)
            goes_on = visit(*type, r->module, user);
    }
    asthra__unlock(&asthra__module.lock);
}

/* ---- the end ---- */

ASTHRA__FN bool asthra__module_is_ending(void) {
    asthra__lock(&asthra__module.lock);
    bool is_ending = asthra__module.is_closed;
    asthra__unlock(&asthra__module.lock);
    return is_ending;
}

/* Waits for inits on threads that know nothing of the shutdown. Holds the lock before and after. */
static void asthra__module_await_running(int64_t timeout_ns) {
    int64_t end = asthra__os_now_ns() + timeout_ns;
    while (asthra__module.running != NULL) {
        int64_t left = timeout_ns < 0 ? -1 : end - asthra__os_now_ns();
        if (timeout_ns >= 0 && left <= 0) break;
        Asthra__ModuleWaiter w;
        w.outer = NULL;
        asthra__module_wait(asthra__module.running, &w, left);
        asthra__lock(&asthra__module.lock);
    }
}

/* Those whose init goes on belong to that init from here on. Caller holds the lock, and wakes. */
static Asthra__ModuleWaiter *asthra__module_abandon(void) {
    static const Asthra__ModuleOutcome outcome = {
        ASTHRA_FAILED, 0, "the runtime was shut down before a module was initialised"};
    Asthra__ModuleWaiter *told = NULL;
    for (Asthra__ModuleRecord *r = asthra__module.running; r != NULL; r = r->next) {
        asthra__text_report("shutdown: the init of module '%s' goes on; what it needs is ended",
                            r->module->name);
        told = asthra__module_tell(r, &outcome, told);
    }
    asthra__module.running = NULL;
    asthra__module.epoch++;
    return told;
}

static Asthra__ModuleRecord *asthra__module_newest(void) {
    asthra__lock(&asthra__module.lock);
    Asthra__ModuleRecord *r = asthra__module.newest;
    if (r != NULL) asthra__module.newest = r->older;
    if (r != NULL && r->older != NULL) r->older->newer = NULL;
    if (asthra__module.newest == NULL) asthra__module.oldest = NULL;
    asthra__unlock(&asthra__module.lock);
    return r;
}

static void asthra__module_call_finis(void) {
    for (const Asthra__ModuleRecord *r; (r = asthra__module_newest()) != NULL;)
        if (r->module->fini != NULL) r->module->fini(r->module);
}

ASTHRA__FN void asthra__module_end_all(int64_t timeout_ns) {
    asthra__lock(&asthra__module.lock);
    const Asthra__ModuleRecord *init = asthra__module_innermost(asthra__module_self());
    if (init != NULL) {
        asthra__unlock(&asthra__module.lock);
        asthra_panic_at(NULL, "asthra_runtime_shutdown: called in the init of module '%s'",
                        init->module->name);
    }
    asthra__module.is_closed = true;
    asthra__module_await_running(timeout_ns);
    Asthra__ModuleWaiter *told = asthra__module_abandon();
    Asthra__ModuleRecord *list = asthra__module_flatten(asthra__module.tree);
    asthra__module.tree = NULL; /* an abandoned one in it may be freed at any time */
    asthra__unlock(&asthra__module.lock);
    asthra__module_wake_all(told);
    asthra__module_call_finis();
    asthra__module_free_list(list);
}

ASTHRA__FN void asthra__module_reopen(void) {
    asthra__lock(&asthra__module.lock);
    asthra__module.is_closed = false;
    asthra__unlock(&asthra__module.lock);
}

#endif
