/* heap - who did something to a block, and from where.                     [heap] body: trace
 *
 * At the full level each allocation and each free notes the task and the calls on the stack. Two
 * things make that cheap enough to do always.
 *
 * A walk is remembered. Unwinding by the program's tables takes a microsecond; but where one return
 * address stands is known once the frame above it has been unwound: for the code that a call goes
 * back to, the distance on the stack to the next return address is always the same. So a table says
 * for return addresses how far it is to the next [Asthra__Step], the unwinder is asked for what the
 * table does not know yet, and most walks are some ten look-ups. No frame pointers are needed.
 * Frames whose size changes (alloca, arrays of variable length, realigned stacks) are found out
 * when two distances for one address differ; from then on stacks with them are unwound each time.
 * Until then a wrong distance leads to a word that is hardly ever a return address that the table
 * knows. No step leaves the stack, whose end the scheduler or the system tells; on a stack that is
 * unknown to both, everything is unwound.
 *
 * Equal stacks are stored once [Asthra__Calls], and a block keeps a number of 16 bits. The depot
 * never forgets; it has room for 32,767 stacks, and takes memory as it fills. A site that comes
 * with very many of them, as in a recursion with several calls, keeps four calls of the next ones
 * and then two, so that there are fewer, and in the last quarter of the depot one. When that is
 * full, what is new has no number.
 *
 * Both tables are one mapping, made at the first use. A step is two words that tell nothing to who
 * sees only one of them new: the first is the address turned by the second. Lists of the depot only
 * grow at their heads; of two threads that add equal stacks at once both may succeed, and nothing
 * is lost but room.
 */
#include "heap_internal.h"

#if ASTHRA_HAS_MEMORY

#include <string.h>

enum {
    ASTHRA__CALLS_DEPTH = 8,
    ASTHRA__CALLS_OWN = 6, /* of the walk: our own above it */
    ASTHRA__CALLS_WALK = ASTHRA__CALLS_DEPTH + ASTHRA__CALLS_OWN,
    ASTHRA__CALLS_MOST = 32768,
    ASTHRA__CALLS_HEADS = 16384,
    ASTHRA__STEPS = 4096,
    ASTHRA__FAN_WIDE = 64,                    /* stacks of one site, until they keep fewer calls */
    ASTHRA__STEP_BITS = sizeof(uintptr_t) * 4 /* half of a word */
};

/* What is known of a return address: the distances, in words, from the stack pointer after the
 * return to the place of the next return address, and to the stack pointer there. */
typedef struct Asthra__Step {
    ASTHRA__ATOMIC(uintptr_t) check, how; /* check ^ how: the address */
} Asthra__Step;
#define ASTHRA__STEP_HALF (((uintptr_t)1 << ASTHRA__STEP_BITS) - 1)
#define ASTHRA__STEP_END (~(uintptr_t)0)        /* nobody called this */
#define ASTHRA__STEP_VARIES (~(uintptr_t)0 - 1) /* to be unwound each time */

typedef struct Asthra__Calls {
    ASTHRA__ATOMIC(const char *) text;
    ASTHRA__ATOMIC(uint32_t) next; /* of the same hash; 0: none */
    uint32_t count;
    uintptr_t places[ASTHRA__CALLS_DEPTH]; /* return addresses, innermost first */
} Asthra__Calls;

typedef struct Asthra__Depot {
    ASTHRA__ATOMIC(uint32_t) used;
    ASTHRA__ATOMIC(uint32_t) heads[ASTHRA__CALLS_HEADS];
    Asthra__Step steps[ASTHRA__STEPS];
    ASTHRA__ATOMIC(uint16_t) fans[ASTHRA__STEPS]; /* stacks of a site, and of its like in hash */
    Asthra__Calls calls[ASTHRA__CALLS_MOST];      /* the first is nobody's */
} Asthra__Depot;

static struct {
    ASTHRA__ATOMIC(Asthra__Depot *) depot;
    ASTHRA__ATOMIC(const Asthra__HeapRunner *) runner;
} asthra__deeds;

#if ASTHRA__ASAN
#define ASTHRA__STACK_PEEK ASTHRA__ASAN_BLIND
#elif ASTHRA__TSAN
#define ASTHRA__STACK_PEEK ASTHRA__HEAP_PEEK
#else
#define ASTHRA__STACK_PEEK
#endif

ASTHRA__FN void asthra__heap_set_runner(const Asthra__HeapRunner *runner) {
    asthra__store(&asthra__deeds.runner, runner, release);
}

/* NULL: no memory. */
static Asthra__Depot *asthra__depot(void) {
    Asthra__Depot *d = asthra__load(&asthra__deeds.depot, acquire), *none = NULL;
    if (ASTHRA__LIKELY(d != NULL)) return d;
    d = asthra__os_map(sizeof *d);
    if (d == NULL) return NULL;
    if (asthra__cas(&asthra__deeds.depot, &none, d, acq_rel)) return d;
    asthra__os_unmap(d, sizeof *d);
    return asthra__load(&asthra__deeds.depot, acquire);
}

/* ---- steps ---- */

static ASTHRA__FAST Asthra__Step *asthra__step_at(Asthra__Depot *d, uintptr_t place) {
    return &d->steps[(place >> 1 ^ place >> 13) % ASTHRA__STEPS];
}

/* 0: not known. */
static ASTHRA__FAST uintptr_t asthra__step_find(Asthra__Depot *d, uintptr_t place) {
    Asthra__Step *s = asthra__step_at(d, place);
    uintptr_t how = asthra__load(&s->how, relaxed);
    return (asthra__load(&s->check, relaxed) ^ how) == place ? how : 0;
}

static void asthra__step_set(Asthra__Depot *d, uintptr_t place, uintptr_t how) {
    Asthra__Step *s = asthra__step_at(d, place);
    uintptr_t known = asthra__step_find(d, place);
    if (known == how) return;
    if (known != 0) how = ASTHRA__STEP_VARIES;
    asthra__store(&s->how, how, relaxed);
    asthra__store(&s->check, place ^ how, relaxed);
}

static ASTHRA__STACK_PEEK uintptr_t asthra__stack_word(uintptr_t at) {
    return *(const volatile uintptr_t *)at;
}

/* Where the return address stands depends on processor and compiler, so it is looked for. */
static void asthra__step_learn(Asthra__Depot *d, const Asthra__OsFrame *from,
                               const Asthra__OsFrame *to) {
    uintptr_t slot = to->stack, delta = (to->stack - from->stack) / sizeof slot;
    if (from->is_exact || to->is_exact || to->stack <= from->stack) return;
    if (delta >= ASTHRA__STEP_HALF || to->stack % sizeof slot != 0) return;
    do slot -= sizeof slot;
    while (slot > from->stack && asthra__stack_word(slot) != to->place);
    if (slot < from->stack || asthra__stack_word(slot) != to->place) return;
    uintptr_t offset = (slot - from->stack) / sizeof slot;
    asthra__step_set(d, from->place, delta << ASTHRA__STEP_BITS | offset);
}

/* ---- walks ---- */

typedef struct Asthra__Walk {
    Asthra__Depot *depot;
    uintptr_t place, stack, end; /* of the first return address; end: of the stack, 0: not known */
    uintptr_t site;              /* what is kept begins there: above it is our own */
    size_t most, count;
    uintptr_t kept[ASTHRA__CALLS_DEPTH];
} Asthra__Walk;

/* Not what a recursion comes through once more: it tells little, and there are many ways. */
static ASTHRA__FAST void asthra__walk_keep(Asthra__Walk *w, uintptr_t place) {
    size_t n = w->count;
    if (n == 0 && place != w->site) return;
    if ((n >= 1 && w->kept[n - 1] == place) || (n >= 2 && w->kept[n - 2] == place)) return;
    w->kept[w->count++] = place;
}

/* Keeps nothing if some step is not known. */
static void asthra__walk_known(Asthra__Walk *w) {
    uintptr_t place = w->place, stack = w->stack;
    for (size_t n = 0; n < ASTHRA__CALLS_WALK && stack < w->end; n++) {
        uintptr_t how = asthra__step_find(w->depot, place);
        if (ASTHRA__UNLIKELY(how == 0 || how == ASTHRA__STEP_VARIES)) break;
        asthra__walk_keep(w, place);
        if (how == ASTHRA__STEP_END || w->count == w->most) return;
        uintptr_t slot = stack + (how & ASTHRA__STEP_HALF) * sizeof slot;
        if (ASTHRA__UNLIKELY(slot > w->end - sizeof slot)) break;
        place = asthra__stack_word(slot);
        stack += (how >> ASTHRA__STEP_BITS) * sizeof slot;
        if (n + 1 == ASTHRA__CALLS_WALK) return;
    }
    w->count = 0;
}

/* With the unwinder; the table learns from it. */
ASTHRA__COLD static void asthra__walk_unwound(Asthra__Walk *w) {
    Asthra__OsFrame frames[ASTHRA__CALLS_WALK + 4];
    bool is_all = false;
    size_t count = asthra__os_frames(frames, sizeof frames / sizeof *frames, &is_all), first = 0;
    while (first < count && frames[first].place != w->place) first++;
    if (first == count) return;
    frames[first].stack = w->stack; /* as those who know the walk will count it */
    for (size_t i = first; i < count; i++) {
        if (i + 1 < count)
            asthra__step_learn(w->depot, &frames[i], &frames[i + 1]);
        else if (is_all && !frames[i].is_exact)
            asthra__step_set(w->depot, frames[i].place, ASTHRA__STEP_END);
        if (w->count < w->most) asthra__walk_keep(w, frames[i].place);
    }
}

/* ---- the depot ---- */

static ASTHRA__ATOMIC(uint16_t) * asthra__fan_at(Asthra__Depot *d, uintptr_t site) {
    return &d->fans[(site >> 1 ^ site >> 13) % ASTHRA__STEPS];
}

static uint32_t asthra__calls_find(Asthra__Depot *d, uint32_t first, const uintptr_t *places,
                                   size_t count) {
    for (uint32_t i = first; i != 0; i = asthra__load(&d->calls[i].next, relaxed)) {
        const Asthra__Calls *c = &d->calls[i];
        size_t n = 0;
        while (n < count && c->places[n] == places[n]) n++;
        if (n == count && c->count == count) return i;
    }
    return 0;
}

/* 0: the depot is full. */
static uint32_t asthra__calls_add(Asthra__Depot *d, ASTHRA__ATOMIC(uint32_t) * head, uint32_t first,
                                  const uintptr_t *places, size_t count) {
    if (asthra__load(&d->used, relaxed) >= ASTHRA__CALLS_MOST - 1) return 0;
    uint32_t i = asthra__add(&d->used, 1u, relaxed) + 1;
    if (i >= ASTHRA__CALLS_MOST) return 0;
    Asthra__Calls *c = &d->calls[i];
    ASTHRA__ATOMIC(uint16_t) *fan = asthra__fan_at(d, places[0]);
    asthra__store(fan, (uint16_t)(asthra__load(fan, relaxed) + 1), relaxed);
    c->count = (uint32_t)count;
    memcpy(c->places, places, count * sizeof *places);
    do {
        asthra__store(&c->next, first, relaxed);
    } while (!asthra__cas(head, &first, i, release)); /* partner: the acquire of who looks */
    return i;
}

static uint32_t asthra__calls_of(Asthra__Depot *d, const uintptr_t *places, size_t count) {
    uint64_t hash = count;
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ places[i]) * UINT64_C(0x9e3779b97f4a7c15) ^ hash >> 29;
    ASTHRA__ATOMIC(uint32_t) *head = &d->heads[hash >> 40 & (ASTHRA__CALLS_HEADS - 1)];
    uint32_t first = asthra__load(head, acquire), i = asthra__calls_find(d, first, places, count);
    return ASTHRA__LIKELY(i != 0) ? i : asthra__calls_add(d, head, first, places, count);
}

/* ---- deeds ---- */

/* The end of the stack that the caller stands on; 0: it is nobody's that we know. */
static uintptr_t asthra__stack_end_of(Asthra__Thread *t, const Asthra__HeapRunner *runner,
                                      uintptr_t stack) {
    const char *here = (const char *)stack;
    char *end = runner == NULL ? NULL : runner->stack_end(here);
    if (ASTHRA__LIKELY(end != NULL)) return (uintptr_t)end;
    if (t->stack_high == NULL && !asthra__os_stack_bounds(&t->stack_low, &t->stack_high))
        t->stack_low = t->stack_high = (void *)(uintptr_t)1;
    bool is_own = here >= (char *)t->stack_low && here < (char *)t->stack_high;
    return is_own ? (uintptr_t)t->stack_high : 0;
}

/* How many calls a stack keeps. */
static size_t asthra__calls_depth(Asthra__Depot *d, uintptr_t site) {
    uint32_t used = asthra__load(&d->used, relaxed);
    int wide = used < ASTHRA__CALLS_MOST / 8 ? ASTHRA__FAN_WIDE : ASTHRA__FAN_WIDE / 4;
    int fan = asthra__load(asthra__fan_at(d, site), relaxed);
    if (ASTHRA__LIKELY(fan < wide)) return ASTHRA__CALLS_DEPTH;
    return used > ASTHRA__CALLS_MOST / 4 * 3 ? 1 : fan < 4 * wide ? 4 : 2;
}

/* Where a walk does not meet the site, as without an unwinder, the site stands alone. */
static uint32_t asthra__calls_here(Asthra__Walk *w) {
    asthra__walk_known(w);
    if (ASTHRA__UNLIKELY(w->count == 0)) asthra__walk_unwound(w);
    if (w->count == 0 && w->site == 0) return 0;
    if (w->count == 0) w->kept[w->count++] = w->site;
    return asthra__calls_of(w->depot, w->kept, w->count);
}

ASTHRA__FN ASTHRA__NOINLINE Asthra__Deed asthra__deed_here(const void *site) {
    const Asthra__HeapRunner *runner = asthra__load(&asthra__deeds.runner, acquire);
    Asthra__Deed deed = {runner == NULL ? 0 : runner->task(), 0};
    Asthra__Thread *t = asthra__thread_place();
    Asthra__Depot *d = asthra__depot();
    if (d == NULL || t->is_in_deed) return deed; /* the unwinder's own, or the C library's */
    t->is_in_deed = true;
    Asthra__Walk w;
    w.depot = d;
    w.place = (uintptr_t)__builtin_return_address(0);
    w.stack = (uintptr_t)ASTHRA__CALLER_STACK;
    w.end = asthra__stack_end_of(t, runner, w.stack);
    w.site = (uintptr_t)site;
    w.most = asthra__calls_depth(d, w.site);
    w.count = 0;
    deed.calls = asthra__calls_here(&w);
    t->is_in_deed = false;
    return deed;
}

/* ---- words ---- */

/* Copies what another thread may just have filled; 0: there is no such number. */
static ASTHRA__HEAP_PEEK size_t asthra__calls_places(uint32_t calls, uintptr_t *places) {
    const Asthra__Depot *d = asthra__load(&asthra__deeds.depot, acquire);
    if (d == NULL || calls == 0 || calls >= ASTHRA__CALLS_MOST) return 0;
    const Asthra__Calls *c = &d->calls[calls];
    size_t count = c->count <= ASTHRA__CALLS_DEPTH ? c->count : 0;
    for (size_t i = 0; i < count; i++) places[i] = c->places[i];
    return count;
}

ASTHRA__FN bool asthra__calls_say(Asthra__Text *t, uint32_t calls, size_t most) {
    uintptr_t places[ASTHRA__CALLS_DEPTH];
    size_t count = asthra__calls_places(calls, places), from = t->length;
    for (size_t i = 0; i < count; i++) {
        char name[128]; /* a return address may be that of the next function */
        size_t length =
            asthra__os_symbol((const void *)asthra__os_before(places[i]), name, sizeof name);
        if (i > 0 && t->length - from + length + 7 > most) break;
        asthra__text_add(t, i == 0 ? "" : ", from ");
        asthra__text_add_count(t, name, length);
    }
    return count != 0;
}

ASTHRA__FN const char *asthra__calls_text(uint32_t calls) {
    char buffer[ASTHRA__CALLS_DEPTH * 136];
    Asthra__Depot *d = asthra__load(&asthra__deeds.depot, acquire);
    if (d == NULL || calls >= ASTHRA__CALLS_MOST) return NULL;
    Asthra__Calls *c = &d->calls[calls];
    const char *text = asthra__load(&c->text, acquire);
    Asthra__Text t = asthra__text_on(buffer, sizeof buffer);
    if (text != NULL || !asthra__calls_say(&t, calls, sizeof buffer)) return text;
    char *own = asthra__segment_metadata(t.length + 1);
    if (own == NULL) return NULL;
    memcpy(own, buffer, t.length + 1);
    return asthra__cas(&c->text, &text, own, release) ? own : asthra__load(&c->text, acquire);
}

#endif
