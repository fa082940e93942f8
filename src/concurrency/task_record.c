/* task - descriptors and handles.                                         [task] body: record
 *
 * A task is a descriptor of two cache lines. Descriptors live in segments that double in size and
 * are never unmapped while the runtime runs, so an index, checked against their number, always
 * leads to a readable word; that word holds the generation, so a stale handle is seen and a handle
 * can be acted upon by one compare-and-swap.
 *
 * Free descriptors are kept by the thread that frees them, in magazines (Bonwick and Adams,
 * Magazines and Vmem, 2001): two of up to 128, exchanged with the shared store when one is full or
 * both are empty, so that one thread may spawn and another await without a lock for each task.
 *
 * Life of a descriptor
 *     free -> spawned: ALIVE, one handle, nobody else knows it: plain writes until it is queued
 *     queued: whoever takes it out of its queue, and nobody else, starts it
 *     running -> ended: `how` is added to the word, or plainly stored if nobody else can know it
 *     ended and no handle left: whoever makes it so frees it, and nobody else can
 */
#include "task_internal.h"

#if ASTHRA_HAS_TASK

#include <string.h>

/* LeakSanitizer looks for pointers in mapped memory only where it is told to. */
#if ASTHRA__ASAN
void __lsan_register_root_region(const void *start, size_t bytes);
void __lsan_unregister_root_region(const void *start, size_t bytes);
#define ASTHRA__ROOTS(verb, start, bytes) __lsan_##verb##_root_region((start), (bytes))
#else
#define ASTHRA__ROOTS(verb, start, bytes) ((void)0)
#endif

enum { ASTHRA__SEGMENT_FIRST = 1024, ASTHRA__FRESH_BATCH = 64, ASTHRA__EXTRA_KEPT = 1024 };

/* ---- descriptors ---- */

static unsigned asthra__segment_of(uint32_t index) {
    return 31u - (unsigned)__builtin_clz(index + ASTHRA__SEGMENT_FIRST) - 10u;
}

ASTHRA__FN Asthra__Task *asthra__task_at(uint32_t index) {
    unsigned k = asthra__segment_of(index);
    uint32_t first = (uint32_t)ASTHRA__SEGMENT_FIRST << k;
    return &asthra__scheduler()->segments[k][index + ASTHRA__SEGMENT_FIRST - first];
}

ASTHRA__FN uint64_t asthra__task_bits(const Asthra__Task *t) {
    return (asthra__load(&t->word, relaxed) & ASTHRA__TASK_GENERATION) | t->parker.index;
}

ASTHRA__FN Asthra__Lock *asthra__task_stripe(const Asthra__Task *t) {
    return &asthra__scheduler()->stripes[t->parker.index % ASTHRA__STRIPES];
}

/* A range of descriptors that were never used. Caller holds the lock. */
static bool asthra__task_reserve(Asthra__Scheduler *g, Asthra__Seat *s) {
    uint32_t first = asthra__load(&g->descriptors, relaxed);
    uint32_t last = first + ASTHRA__FRESH_BATCH - 1;
    unsigned k = asthra__segment_of(last);
    if (k >= ASTHRA__SEGMENTS) return false;
    if (g->segments[k] == NULL) {
        size_t bytes = ((size_t)ASTHRA__SEGMENT_FIRST << k) * sizeof(Asthra__Task);
        g->segments[k] = asthra__os_map(bytes);
        if (g->segments[k] == NULL) return false;
        ASTHRA__ROOTS(register, g->segments[k], bytes);
    }
    s->fresh = first == 0 ? 1 : first;
    s->fresh_end = last + 1;
    asthra__store(&g->descriptors, last + 1, release); /* pairs with the load in task_find */
    return true;
}

/* The seat has none: full magazine, shared one, or fresh ones. */
ASTHRA__COLD static bool asthra__task_refill(Asthra__Seat *s) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (s->spare != NULL) {
        s->loaded = s->spare;
        s->loaded_count = s->spare_count;
        s->spare = NULL;
        return true;
    }
    asthra__lock(&g->descriptors_lock);
    Asthra__Task *magazine = g->magazines;
    bool is_good = magazine != NULL || asthra__task_reserve(g, s);
    if (magazine != NULL) g->magazines = (Asthra__Task *)(void *)magazine->waiters;
    asthra__unlock(&g->descriptors_lock);
    if (magazine != NULL) {
        magazine->waiters = NULL;
        s->loaded = magazine;
        s->loaded_count = (uint32_t)(uintptr_t)magazine->value;
    }
    return is_good;
}

static Asthra__Task *asthra__task_next_free(const Asthra__Task *t) {
    return (Asthra__Task *)(void *)t->runnable.next;
}

/* The next one that was never used. Its generation differs from runtime to runtime, so that a
 * handle that outlived a shutdown is stale; the first one's, and a seeded one's, begin with 0. */
static Asthra__Task *asthra__task_fresh(Asthra__Seat *s) {
    Asthra__Task *t = asthra__task_at(s->fresh);
    uint64_t runs = asthra__is_deterministic() ? 0 : (s->epoch - 2) / 2;
    asthra__store(&t->word, (runs * 0x9e3779b1u) << 32, relaxed);
    t->parker.index = s->fresh++;
    return t;
}

/* A free descriptor, or NULL. */
ASTHRA__FN Asthra__Task *asthra__task_take(Asthra__Seat *s) {
    if (ASTHRA__UNLIKELY(s->loaded == NULL && s->fresh == s->fresh_end) &&
        !asthra__task_refill(s)) {
        return NULL;
    }
    Asthra__Task *t = s->loaded;
    if (ASTHRA__LIKELY(t != NULL)) {
        s->loaded = asthra__task_next_free(t);
        s->loaded_count--;
        return t;
    }
    return asthra__task_fresh(s);
}

/* A magazine becomes everybody's. Its first descriptor keeps the link and the count. */
static void asthra__magazine_give(Asthra__Task *magazine, uint32_t count) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (magazine == NULL) return;
    magazine->value = (void *)(uintptr_t)count;
    asthra__lock(&g->descriptors_lock);
    magazine->waiters = (struct Asthra__AwaitNode *)(void *)g->magazines;
    g->magazines = magazine;
    asthra__unlock(&g->descriptors_lock);
}

/* The full one in use goes aside; the one that was there goes to all. */
ASTHRA__COLD static void asthra__task_flush_loaded(Asthra__Seat *s) {
    asthra__magazine_give(s->spare, s->spare_count);
    s->spare = s->loaded;
    s->spare_count = s->loaded_count;
    s->loaded = NULL;
    s->loaded_count = 0;
}

ASTHRA__FN void asthra__task_flush(Asthra__Seat *s) {
    for (; s->fresh < s->fresh_end; s->loaded_count++) { /* make them look used */
        Asthra__Task *t = asthra__task_fresh(s);
        t->runnable.next = s->loaded == NULL ? NULL : &s->loaded->runnable;
        s->loaded = t;
    }
    asthra__task_flush_loaded(s);
    asthra__task_flush_loaded(s);
}

ASTHRA__FN void asthra__task_free(Asthra__Seat *s, Asthra__Task *t) {
    if (ASTHRA__UNLIKELY(t->error != NULL)) asthra__error_free(t->error);
    if (ASTHRA__UNLIKELY(t->extra != NULL) && t->extra->room > ASTHRA__EXTRA_KEPT) {
        asthra__free(t->extra);
        t->extra = NULL;
    }
    t->error = NULL;
    uint64_t word = asthra__load(&t->word, relaxed);
    asthra__store(&t->word, (word & ASTHRA__TASK_GENERATION) + (UINT64_C(1) << 32), release);
    if (ASTHRA__UNLIKELY(s->loaded_count >= ASTHRA__MAGAZINE)) asthra__task_flush_loaded(s);
    t->runnable.next = s->loaded == NULL ? NULL : &s->loaded->runnable;
    s->loaded = t;
    s->loaded_count++;
}

ASTHRA__FN uint64_t asthra__task_unfinished(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    asthra__lock(&g->seats_lock);
    uint64_t ended = g->ended_before, spawned = g->spawned_before;
    for (Asthra__Seat *s = g->seats; s != NULL; s = s->next)
        ended += asthra__load(&s->ended, acquire);
    for (Asthra__Seat *s = g->seats; s != NULL; s = s->next) {
        spawned += asthra__load(&s->spawned, acquire);
    }
    asthra__unlock(&g->seats_lock);
    return spawned - ended;
}

/* ---- handles ---- */

ASTHRA__FN Asthra__Task *asthra__task_find(AsthraTaskHandle h) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint32_t index = (uint32_t)h.bits;
    if (index == 0 || index >= asthra__load(&g->descriptors, acquire)) return NULL;
    Asthra__Task *t = asthra__task_at(index);
    uint64_t word = asthra__load(&t->word, acquire);
    bool is_same = ((word ^ h.bits) & ASTHRA__TASK_GENERATION) == 0;
    return is_same && (word & ASTHRA__TASK_ALIVE) ? t : NULL;
}

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__task_refuse(AsthraTaskHandle h,
                                                                 const char *verb) {
    AsthraResult why = asthra_last_error();
    if (h.bits == 0 && why.status) {
        asthra_panic_at(NULL, "%s: handle 0, whose spawn failed: %s", verb,
                        asthra_result_message(why));
    }
    asthra_panic_at(
        NULL,
        "%s: handle %llu names no task: it was awaited or detached before, or never came "
        "from a spawn of this runtime",
        verb, (unsigned long long)h.bits);
}

ASTHRA__FN Asthra__Task *asthra__task_resolve(AsthraTaskHandle h, const char *verb, bool consumes) {
    Asthra__Task *t = asthra__task_find(h);
    if (ASTHRA__UNLIKELY(t == NULL)) asthra__task_refuse(h, verb);
    if (consumes && !(asthra__load(&t->word, relaxed) & ASTHRA__TASK_HANDLES)) {
        asthra_panic_at(NULL, "%s: task %llu was detached, or its handle was consumed", verb,
                        (unsigned long long)h.bits);
    }
    return t;
}

/* Two sides that consume one handle at once are a bug of the caller. Where somebody has parked for
 * the end, the generation and the count of handles are checked and counted down in one step. */
ASTHRA__FN bool asthra__task_release(Asthra__Seat *s, Asthra__Task *t, uint64_t bits) {
    const uint64_t mask = ASTHRA__TASK_HANDLES | ASTHRA__TASK_AWAITED;
    uint64_t word = asthra__load(&t->word, acquire), after;
    if (((word ^ bits) & ASTHRA__TASK_GENERATION) != 0) return false;
    if ((word & mask) == ASTHRA__TASK_HANDLE && (word & ASTHRA__TASK_END) != 0) {
        asthra__task_free(s, t); /* the only handle, and it is ours */
        return true;
    }
    do {
        bool is_same = ((word ^ bits) & ASTHRA__TASK_GENERATION) == 0;
        if (!is_same || !(word & ASTHRA__TASK_HANDLES)) return false;
        after = word - ASTHRA__TASK_HANDLE;
    } while (!asthra__cas(&t->word, &word, after, acq_rel));
    if (!(after & ASTHRA__TASK_HANDLES) && (after & ASTHRA__TASK_END)) asthra__task_free(s, t);
    return true;
}

ASTHRA__FN void *asthra__task_block(Asthra__Task *t, size_t *bytes) {
    uint8_t marks = asthra__load(&t->marks, relaxed);
    if (!(marks & ASTHRA__TASK_COPIED)) return NULL;
    *bytes = marks & ASTHRA__TASK_EXTRA ? t->extra->block_bytes : t->block_size;
    return marks & ASTHRA__TASK_EXTRA ? (void *)(t->extra + 1) : t->block;
}

ASTHRA__FN void asthra__task_teardown(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint32_t count = asthra__load(&g->descriptors, relaxed);
    for (uint32_t i = 1; i < count; i++) {
        Asthra__Task *t = asthra__task_at(i);
        asthra__error_free(t->error);
        asthra__free(t->extra);
    }
    for (unsigned k = 0; k < ASTHRA__SEGMENTS; k++) {
        size_t bytes = ((size_t)ASTHRA__SEGMENT_FIRST << k) * sizeof(Asthra__Task);
        if (g->segments[k] == NULL) continue;
        ASTHRA__ROOTS(unregister, g->segments[k], bytes);
        asthra__os_unmap(g->segments[k], bytes);
    }
}

#endif
