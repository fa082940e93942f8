/* external - functions that block, and threads that are not ours.           [external] body
 *
 * A call is a record. Its caller hands it to a helper thread and waits; the helper calls the
 * function, notes the value, and wakes the caller. Whoever is through with the record last frees
 * it: mostly the caller, but the helper if the caller has left, because its time was over or it was
 * cancelled. All of this is decided under one lock, which is held for a few dozen instructions:
 *
 *     caller                                       helper
 *     C1  takes an idle helper, or starts one
 *     C2  under the lock: is it over already?      H1  calls the function
 *         no: opens a wait and shows its parker    H2  under the lock: notes that it is over, and
 *     C3  parks                                        claims the parker, if there is one
 *     C4  under the lock: it is over, or the       H3  wakes what it claimed; frees the record if
 *         record is left to the helper                 it was left
 *
 * Helpers. There is one for each call under way, so that no call waits behind another, which might
 * be the one that it waits for: as many as the system gives, and its refusal is an error. A helper
 * that has nothing to do stands in a list, newest first, so that few serve many; one that nobody
 * wanted for ASTHRA__EXTERNAL_IDLE_NS ends, and so do all that are idle when the runtime shuts
 * down. Those that are busy then belong to nobody: they end when they have been idle for that long.
 * What a helper stands on is its own stack; in the list, others know it by a pointer to that.
 *
 * Handing over. `word` says what a helper does: it spins or sleeps until it is posted. Where both
 * sides sleep a call costs two wake-ups by the system, 6 to 25 us. So a helper spins for a while
 * after a call if that has paid lately, and a caller that has nothing else to do looks for some
 * microseconds whether the call is over before it parks, giving way to others between the looks:
 * the helper may be on its core. Then a short call takes 1 us on idle cores and 5 on busy ones.
 * None of this on a single core, nor where the configuration says no.
 *
 * Who is asleep. A helper that rests can wake nobody; one that works might, so the scheduler is
 * told of both (scheduler_report.c): a helper rests once it has woken its caller, although it is in
 * the list before, and works before its caller waits. A plain thread that waits here rests as well.
 *
 * Shutdown cancels tasks that wait here, as everywhere. Some are masked and stand still when their
 * stacks go: they are made to have left, and then helpers that have claimed a wait but not woken it
 * are awaited (`waking`). A plain thread sleeps on the record, and needs no scheduler: it may have
 * been told in its function that it is time to shut down, which must not start everything again.
 *
 * A forked child has no helpers, and forgets those that were. Fork may also be called by a function
 * on a helper: `generation` tells, and in the child the function must not return.
 *
 * Without threads and under a seed the function is called right there: one thread runs everything.
 */
#include "external.h"

#include "../core/alloc_internal.h"
#include "../core/result_internal.h"
#include "../memory/stack_internal.h"
#include "scheduler_internal.h"

#if ASTHRA_HAS_EXTERNAL

#include <string.h>

typedef struct Asthra__ExternalCall Asthra__ExternalCall;
struct Asthra__ExternalCall {
    AsthraExternalFunction function;
    void *args, *value;
    Asthra__ExternalCall *next, **link; /* of those under way */
    Asthra__Parker *parker;             /* of the caller while it is parked */
    ASTHRA__ATOMIC(uint32_t) is_over;   /* a plain thread sleeps on this */
    bool is_left;                       /* by the caller: the helper frees it */
    bool is_parking;                    /* the caller parks, or will; else it is a plain thread */
    bool is_asleep, is_resting;         /* that, and it sleeps; without a limit */
    bool spins;
    uint32_t generation;
    char name[32];
    ASTHRA__ALIGNED(ASTHRA__MAX_ALIGN) unsigned char copy[]; /* of the arguments */
};

/* Makes the record; NULL: no memory. */
static Asthra__ExternalCall *asthra__external_make(AsthraExternalFunction fn, void *args,
                                                   const AsthraExternalCallOptions *options) {
    Asthra__ExternalCall *c = NULL;
    if (options->args_size <= SIZE_MAX / 2 - sizeof *c)
        c = asthra__alloc(sizeof *c + options->args_size);
    if (c == NULL) return NULL;
    memset(c, 0, sizeof *c);
    c->function = fn;
    c->args = args;
    if (options->args_size != 0) c->args = memcpy(c->copy, args, options->args_size);
    Asthra__Text t = asthra__text_on(c->name, sizeof c->name);
    asthra__text_add(&t, options->name != NULL ? options->name : "external");
    return c;
}

static AsthraStatus asthra__external_run_here(Asthra__ExternalCall *c, void **value) {
    *value = c->function(c->args);
    asthra__free(c);
    return ASTHRA_OK;
}

#if ASTHRA_HAS_THREADS

enum {
    ASTHRA__EXTERNAL_STACK = sizeof(void *) == 8 ? 1 << 20 : 1 << 18,
    ASTHRA__EXTERNAL_CREDIT = 4,  /* spins in vain after one that was not */
    ASTHRA__EXTERNAL_TRIES = 128, /* rests, of which one begins with a spin all the same */
    ASTHRA__EXTERNAL_LOOKS = 8,   /* of a caller before it parks */
    ASTHRA__EXTERNAL_SHOWN = 16   /* bytes of a name that the system's tools show */
};
#define ASTHRA__EXTERNAL_SPIN_NS ASTHRA_US(50) /* of a helper after a call */
#define ASTHRA__EXTERNAL_IDLE_NS ASTHRA_SECONDS(5)

enum { /* Asthra__ExternalHelper.word */
       ASTHRA__EXTERNAL_SPINNING,
       ASTHRA__EXTERNAL_SLEEPING,
       ASTHRA__EXTERNAL_POSTED,
       ASTHRA__EXTERNAL_ENDS /* somebody joins it */
};

typedef struct Asthra__ExternalHelper Asthra__ExternalHelper;
struct Asthra__ExternalHelper {
    Asthra__ExternalHelper *next, **link; /* of idle ones; link NULL: it is not among them */
    Asthra__ExternalCall *call;
    Asthra__OsThread thread;
    ASTHRA__ATOMIC(uint32_t) word;
    uint32_t rests, credit;
    bool spins;
    char shown[ASTHRA__EXTERNAL_SHOWN];
};

static struct {
    Asthra__Once once;
    Asthra__Lock lock;
    Asthra__ExternalHelper *idle;
    Asthra__ExternalCall *under_way;
    uint32_t generation;             /* counts forks that made us */
    bool has_cores;                  /* more than one */
    ASTHRA__ATOMIC(uint32_t) waking; /* helpers between claim and wake */
} asthra__external;

/* ---- lists; the lock is held ---- */

static void asthra__external_enlist(Asthra__ExternalCall *c) {
    c->next = asthra__external.under_way;
    c->link = &asthra__external.under_way;
    if (c->next != NULL) c->next->link = &c->next;
    asthra__external.under_way = c;
}

static void asthra__external_unlist(Asthra__ExternalCall *c) {
    *c->link = c->next;
    if (c->next != NULL) c->next->link = c->link;
}

static void asthra__external_lie_down(Asthra__ExternalHelper *h) {
    h->next = asthra__external.idle;
    h->link = &asthra__external.idle;
    if (h->next != NULL) h->next->link = &h->next;
    asthra__external.idle = h;
}

static void asthra__external_get_up(Asthra__ExternalHelper *h) {
    *h->link = h->next;
    if (h->next != NULL) h->next->link = h->link;
    h->link = NULL;
    asthra__helper_works();
}

/* ---- a helper ---- */

/* The last touch is a wake-up call on an address: the helper may have ended by then. */
static void asthra__external_post(Asthra__ExternalHelper *h, uint32_t what) {
    uint32_t before = asthra__exchange(&h->word, what, acq_rel);
    if (before == ASTHRA__EXTERNAL_SLEEPING) asthra__os_wake(&h->word, 1);
}

/* Sleeps until it is posted; false: nobody did in time. */
static bool asthra__external_sleep(Asthra__ExternalHelper *h, int64_t deadline_ns) {
    int64_t left = -1;
    while (asthra__load(&h->word, acquire) == ASTHRA__EXTERNAL_SLEEPING) {
        if (deadline_ns != INT64_MAX && (left = deadline_ns - asthra__os_now_ns()) <= 0)
            return false;
        asthra__os_wait(&h->word, ASTHRA__EXTERNAL_SLEEPING, left);
    }
    return true;
}

/* Spins until it is posted, if that has been of use lately. It is longer than a wake-up of the
 * caller, who would else find the helper asleep each time; where the caller must wait for this very
 * core it never succeeds, and is tried now and then only. */
static void asthra__external_spin(Asthra__ExternalHelper *h, int64_t now_ns) {
    int64_t end_ns = now_ns + ASTHRA__EXTERNAL_SPIN_NS;
    bool is_try = ++h->rests % ASTHRA__EXTERNAL_TRIES == 0;
    if (!h->spins || (h->credit == 0 && !is_try)) return;
    do {
        for (int i = 0; i < 32; i++) {
            if (asthra__load(&h->word, acquire) != ASTHRA__EXTERNAL_SPINNING) {
                h->credit = ASTHRA__EXTERNAL_CREDIT;
                return;
            }
            asthra__cpu_relax();
        }
    } while (asthra__os_now_ns() < end_ns);
    if (h->credit != 0) h->credit--;
}

/* Its time is over. True: it has left the list, and nobody will join it. */
static bool asthra__external_is_unwanted(Asthra__ExternalHelper *h) {
    asthra__lock(&asthra__external.lock);
    bool is_unwanted = h->link != NULL;
    if (is_unwanted) asthra__external_get_up(h);
    asthra__unlock(&asthra__external.lock);
    if (is_unwanted) asthra__os_thread_detach(h->thread);
    return is_unwanted;
}

/* Waits for work; false: it is to end. */
static bool asthra__external_rest(Asthra__ExternalHelper *h) {
    uint32_t spinning = ASTHRA__EXTERNAL_SPINNING;
    int64_t now_ns = asthra__os_now_ns();
    asthra__external_spin(h, now_ns);
    if (asthra__cas(&h->word, &spinning, (uint32_t)ASTHRA__EXTERNAL_SLEEPING, acq_rel) &&
        !asthra__external_sleep(h, now_ns + ASTHRA__EXTERNAL_IDLE_NS)) {
        if (asthra__external_is_unwanted(h)) return false;
        asthra__external_sleep(h, INT64_MAX); /* somebody is about to post it */
    }
    return asthra__load(&h->word, acquire) == ASTHRA__EXTERNAL_POSTED;
}

static void asthra__external_show(Asthra__ExternalHelper *h, const char *name) {
    char shown[ASTHRA__EXTERNAL_SHOWN];
    Asthra__Text t = asthra__text_on(shown, sizeof shown);
    asthra__text_add(&t, name);
    asthra__thread_set_name(name);
    if (strcmp(h->shown, shown) == 0) return;
    memcpy(h->shown, shown, sizeof shown);
    asthra__os_thread_show(h->thread, shown);
}

/* H2: c is over, and h may have the next one. Who is to be woken, or NULL. */
static Asthra__Parker *asthra__external_finish(Asthra__ExternalHelper *h, Asthra__ExternalCall *c) {
    asthra__lock(&asthra__external.lock);
    asthra__external_unlist(c);
    asthra__store(&h->word, (uint32_t)ASTHRA__EXTERNAL_SPINNING, relaxed);
    asthra__external_lie_down(h);
    Asthra__Parker *p = c->parker;
    bool is_left = c->is_left, is_asleep = c->is_asleep && !is_left;
    if (p != NULL && !asthra__wait_claim(p)) p = NULL;
    if (p != NULL) asthra__add(&asthra__external.waking, 1u, relaxed);
    if (c->is_resting) asthra__helper_works();
    asthra__store(&c->is_over, 1u, release); /* partner: the acquire in look and sleep_on */
    asthra__unlock(&asthra__external.lock);
    if (is_left) asthra__free(c);
    if (is_asleep) asthra__os_wake(&c->is_over, 1); /* or what was there, if it has seen it */
    return p;
}

/* One call, as the first thing of a thread might be: nothing is left of the one before. */
static void asthra__external_serve(Asthra__ExternalHelper *h) {
    Asthra__ExternalCall *c = h->call;
    h->spins = c->spins;
    asthra__external_show(h, c->name);
    asthra__error_clear();
    c->value = c->function(c->args);
    if (ASTHRA__UNLIKELY(c->generation != asthra__external.generation)) {
        asthra_panic_at(NULL,
                        "external function '%s' forked and now returns in the child, where nobody "
                        "waits for it: end the child in the function, with _exit or exec",
                        c->name);
    }
    if (asthra__thread()->stack != NULL) asthra__stack_end(false);
    Asthra__Parker *p = asthra__external_finish(h, c);
    if (p != NULL) {
        asthra__wait_wake(p);
        asthra__sub(&asthra__external.waking, 1u, release);
    }
    asthra__helper_rests(); /* even if somebody has said already that it works again */
}

static void *asthra__external_main(void *call) {
    Asthra__ExternalHelper h;
    memset(&h, 0, sizeof h);
    h.call = call;
    h.credit = 1;
    h.thread = asthra__os_thread_self();
    do asthra__external_serve(&h);
    while (asthra__external_rest(&h));
    return NULL;
}

/* ---- stop and fork ---- */

/* The scheduler stops: see Asthra__HelpersEnd. */
static void asthra__external_end(void) {
    Asthra__ExternalHelper *h;
    asthra__lock(&asthra__external.lock);
    for (Asthra__ExternalCall *c = asthra__external.under_way; c != NULL; c = c->next) {
        if (!c->is_parking) continue;
        c->parker = NULL;
        c->is_left = true;
    }
    asthra__unlock(&asthra__external.lock);
    while (asthra__load(&asthra__external.waking, acquire) != 0) asthra__os_yield();
    for (;;) {
        asthra__lock(&asthra__external.lock);
        if ((h = asthra__external.idle) != NULL) asthra__external_get_up(h);
        asthra__unlock(&asthra__external.lock);
        if (h == NULL) return;
        Asthra__OsThread thread = h->thread;
        asthra__external_post(h, ASTHRA__EXTERNAL_ENDS);
        asthra__os_thread_join(thread);
    }
}

static void asthra__external_fork_child(void) {
    asthra__store(&asthra__external.lock.word, 0, relaxed);
    asthra__store(&asthra__external.waking, 0u, relaxed);
    asthra__external.idle = NULL;
    asthra__external.under_way = NULL;
    asthra__external.generation++;
    asthra__helpers_forget();
}

static void asthra__external_setup(void) {
    asthra__external.has_cores = asthra__os_cores() > 1;
    asthra__os_on_fork(NULL, NULL, asthra__external_fork_child);
    asthra__helpers_on_stop(asthra__external_end);
}

/* ---- a caller ---- */

/* C1. False: the system refused a thread. */
static bool asthra__external_hand_over(Asthra__ExternalCall *c) {
    Asthra__OsThread unused;
    asthra__lock(&asthra__external.lock);
    Asthra__ExternalHelper *h = asthra__external.idle;
    asthra__external_enlist(c);
    if (h != NULL) {
        asthra__external_get_up(h);
        h->call = c;
    }
    asthra__unlock(&asthra__external.lock);
    if (h != NULL) asthra__external_post(h, ASTHRA__EXTERNAL_POSTED);
    if (h != NULL ||
        asthra__os_thread_start(&unused, ASTHRA__EXTERNAL_STACK, asthra__external_main, c, NULL))
        return true;
    asthra__lock(&asthra__external.lock);
    asthra__external_unlist(c);
    asthra__unlock(&asthra__external.lock);
    return false;
}

/* For some microseconds, if nothing else is to be done meanwhile: a park and a wake cost more. */
static void asthra__external_look(const Asthra__ExternalCall *c) {
    Asthra__Worker *w = c->is_parking ? asthra__seat()->worker : NULL;
    if (!c->spins || (w != NULL && asthra__work_exists(asthra__scheduler(), w))) return;
    for (int round = 0; round < ASTHRA__EXTERNAL_LOOKS; round++) {
        for (int i = 0; i < 16; i++) {
            if (asthra__load(&c->is_over, acquire)) return;
            asthra__cpu_relax();
        }
        asthra__os_yield(); /* the helper may stand in line for this very core */
    }
}

/* C2 and C3 of a plain thread. */
static AsthraStatus asthra__external_sleep_on(Asthra__ExternalCall *c, int64_t deadline_ns) {
    int64_t left = ASTHRA_FOREVER;
    asthra__lock(&asthra__external.lock);
    c->is_asleep = !asthra__load(&c->is_over, relaxed);
    c->is_resting = c->is_asleep && deadline_ns == INT64_MAX;
    if (c->is_resting) asthra__helper_rests();
    asthra__unlock(&asthra__external.lock);
    while (!asthra__load(&c->is_over, acquire)) {
        if (deadline_ns != INT64_MAX && (left = deadline_ns - asthra__os_now_ns()) <= 0)
            return ASTHRA_TIMED_OUT;
        asthra__os_wait(&c->is_over, 0, left);
    }
    return ASTHRA_OK;
}

/* C2 and C3. */
static AsthraStatus asthra__external_park(Asthra__ExternalCall *c, int64_t timeout_ns) {
    Asthra__Wait w = {.what = "external call", .name = c->name};
    asthra__lock(&asthra__external.lock);
    bool is_over = asthra__load(&c->is_over, relaxed);
    if (!is_over) c->parker = asthra__wait_open(&w);
    asthra__unlock(&asthra__external.lock);
    return is_over ? ASTHRA_OK : asthra__wait_park(&w, timeout_ns);
}

/* There was no memory to park with, and the function runs: gives others turns instead. */
ASTHRA__COLD static AsthraStatus asthra__external_take_turns(Asthra__ExternalCall *c,
                                                             int64_t deadline_ns) {
    while (!asthra__load(&c->is_over, acquire)) {
        if (asthra__cancel_pending()) return ASTHRA_CANCELLED;
        if (asthra__os_now_ns() >= deadline_ns) return ASTHRA_TIMED_OUT;
        asthra_yield();
        asthra__os_yield();
    }
    return ASTHRA_OK;
}

/* C4: the caller's part of the record ends. True: the function is over, and *value is its. */
static bool asthra__external_leave(Asthra__ExternalCall *c, void **value) {
    asthra__lock(&asthra__external.lock);
    bool is_over = asthra__load(&c->is_over, relaxed);
    if (is_over) *value = c->value;
    c->parker = NULL;
    c->is_left = true;
    asthra__unlock(&asthra__external.lock);
    if (is_over) asthra__free(c);
    return is_over;
}

static AsthraStatus asthra__external_wait(Asthra__ExternalCall *c, int64_t limit_ns) {
    int64_t now_ns = asthra__os_now_ns(), deadline_ns = INT64_MAX;
    if (limit_ns >= 0 && limit_ns < INT64_MAX - now_ns) deadline_ns = now_ns + limit_ns;
    asthra__external_look(c);
    if (!c->is_parking) return asthra__external_sleep_on(c, deadline_ns);
    AsthraStatus status = asthra__external_park(c, limit_ns);
    if (ASTHRA__LIKELY(status != ASTHRA_OUT_OF_MEMORY)) return status;
    return asthra__external_take_turns(c, deadline_ns);
}

static AsthraStatus asthra__external_run(Asthra__ExternalCall *c, const Asthra__Seat *s,
                                         int64_t timeout_ns, void **value) {
    asthra__once(&asthra__external.once, asthra__external_setup);
    c->is_parking = s != NULL && s->worker != NULL;
    c->spins = asthra__external.has_cores && asthra__helpers_may_spin();
    c->generation = asthra__external.generation;
    if (!asthra__external_hand_over(c)) {
        asthra__free(c);
        return ASTHRA_LIMIT;
    }
    AsthraStatus status = asthra__external_wait(c, timeout_ns > 0 ? timeout_ns : ASTHRA_FOREVER);
    bool is_over = asthra__external_leave(c, value);
    return is_over && status == ASTHRA_TIMED_OUT ? ASTHRA_OK : status;
}

#else

static AsthraStatus asthra__external_run(Asthra__ExternalCall *c, const Asthra__Seat *s,
                                         int64_t timeout_ns, void **value) {
    (void)s, (void)timeout_ns;
    return asthra__external_run_here(c, value);
}

#endif

/* ---- the contract ---- */

static AsthraResult asthra__external_result(AsthraStatus status, void *value) {
    if (status == ASTHRA_OK) return asthra_result_ok(value);
    if (status == ASTHRA_LIMIT)
        return asthra_result_errorf(status, "asthra_external_call: the system refused a thread");
    return asthra__result_of(status);
}

/* s: the caller's seat; NULL: a plain thread that has none. */
static AsthraResult asthra__external_call(AsthraExternalFunction fn, void *args,
                                          const AsthraExternalCallOptions *options,
                                          const Asthra__Seat *s) {
    void *value = NULL;
    Asthra__ExternalCall *c = asthra__external_make(fn, args, options);
    if (c == NULL)
        return asthra_result_errorf(ASTHRA_OUT_OF_MEMORY,
                                    "asthra_external_call: no memory for %zu bytes of arguments",
                                    options->args_size);
    AsthraStatus status = asthra__is_deterministic()
                              ? asthra__external_run_here(c, &value)
                              : asthra__external_run(c, s, options->timeout_ns, &value);
    return asthra__external_result(status, value);
}

ASTHRA_RT_API AsthraResult asthra_external_call(AsthraExternalFunction fn, void *args,
                                                const AsthraExternalCallOptions *options) {
    static const AsthraExternalCallOptions defaults = {NULL, 0, 0};
    if (options == NULL) options = &defaults;
    asthra__turn();
    if (!asthra__os_is_executable(ASTHRA_FN(fn)))
        return asthra_result_err("Invalid external function");
    if (args == NULL && options->args_size != 0)
        return asthra_result_errorf(ASTHRA_INVALID,
                                    "asthra_external_call: args_size is %zu, args is NULL",
                                    options->args_size);
    const Asthra__Seat *s = asthra__seat_if_any();
    if (s != NULL && asthra__cancel_observe(s->task)) {
        asthra_yield(); /* as a wait would: see asthra__wait_park */
        return asthra__result_of(ASTHRA_CANCELLED);
    }
    int saved = *asthra__thread()->errno_place;
    AsthraResult r = asthra__external_call(fn, args, options, s);
    *asthra__thread()->errno_place = saved;
    return r;
}

#endif
