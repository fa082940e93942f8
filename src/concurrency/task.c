/* task - functions that run on all cores, and their results.               [task] body
 *
 * A task is a descriptor (see task_record.c), spawned, cancelled and asked about here; awaiting it
 * is task_await.c.
 */
#include "task_internal.h"

#if ASTHRA_HAS_TASK

#include <string.h>

ASTHRA__WORD_BODY volatile uint32_t asthra_safepoint_word;

/* ---- spawn ---- */

ASTHRA__COLD ASTHRA__FN void asthra__task_discard(Asthra__Seat *s, Asthra__Task *t) {
    if (asthra__scheduler()->config.max_tasks != 0) {
        asthra__sub(&asthra__scheduler()->unfinished, (size_t)1, relaxed);
    }
    asthra__task_free(s, t);
}

ASTHRA__COLD static AsthraTaskHandle asthra__spawn_failed(Asthra__Seat *s, Asthra__Task *t) {
    AsthraTaskHandle none = {0};
    if (t != NULL) asthra__task_discard(s, t);
    return none;
}

/* Room for a task under max_tasks. */
ASTHRA__COLD static bool asthra__task_admit(Asthra__Scheduler *g) {
    if (asthra__add(&g->unfinished, (size_t)1, relaxed) < g->config.max_tasks) return true;
    asthra__sub(&g->unfinished, (size_t)1, relaxed);
    asthra__error_set(ASTHRA_LIMIT, "max_tasks: %zu tasks are unfinished already",
                      g->config.max_tasks);
    return false;
}

/* What a spawn looks at when anything about this runtime is rare. */
ASTHRA__COLD static bool asthra__task_may_start(Asthra__Scheduler *g, const Asthra__Seat *s) {
    if (!asthra__tier_is_on(1) || !asthra__scheduler_man(s)) return false;
    return g->config.max_tasks == 0 || asthra__task_admit(g);
}

ASTHRA__COLD static Asthra__Task *asthra__task_none(Asthra__Scheduler *g) {
    if (g->config.max_tasks != 0) asthra__sub(&g->unfinished, (size_t)1, relaxed);
    asthra__error_set(ASTHRA_OUT_OF_MEMORY, "no memory for a task's descriptor");
    return NULL;
}

/* A descriptor with everything but what options add; NULL: the reason is set. */
static Asthra__Task *asthra__task_create(Asthra__Seat *s, AsthraTaskFunction fn, void *value,
                                         const char *name) {
    Asthra__Scheduler *g = asthra__scheduler();
    if (ASTHRA__UNLIKELY(fn == NULL)) asthra_panic_at(NULL, "asthra_spawn: the function is NULL");
    uint32_t rare = asthra__load(&g->rare, acquire);
    if (s->worker != NULL) rare &= ~(uint32_t)ASTHRA__RARE_RELIEF;
    if (ASTHRA__UNLIKELY(rare != 0) && !asthra__task_may_start(g, s)) return NULL;
    Asthra__Task *t = asthra__task_take(s);
    if (ASTHRA__UNLIKELY(t == NULL)) return asthra__task_none(g);
    uint64_t generation = asthra__load(&t->word, relaxed) & ASTHRA__TASK_GENERATION;
    asthra__store(&t->word, generation | ASTHRA__TASK_HANDLE | ASTHRA__TASK_ALIVE, release);
    t->function = fn;
    t->value = value;
    t->name = name;
    t->parent = s->task != NULL ? asthra__task_bits(s->task) : 0;
    t->runnable.priority = 0;
    t->affinity = 0;
    asthra__store(&t->marks, (uint8_t)0, relaxed);
    asthra__store(&t->awaiting, (uint64_t)0, relaxed);
    asthra__store(&t->masks, (uint8_t)0, relaxed);
    t->policy = (uint8_t)g->config.policy;
    return t;
}

ASTHRA__FN AsthraTaskHandle asthra__task_submit(Asthra__Seat *s, Asthra__Task *t) {
    AsthraTaskHandle h = {asthra__task_bits(t)};
    struct AsthraError *error = s->task != NULL ? s->task->error : s->thread->own_error;
    if (ASTHRA__UNLIKELY(error != NULL)) asthra__error_clear();
    asthra__store(&s->spawned, asthra__load(&s->spawned, relaxed) + 1, release);
    ASTHRA__TRACE(ASTHRA_DEBUG_CONCURRENCY_OPERATIONS, "SPAWN: task %llu %s",
                  (unsigned long long)h.bits, t->name);
    asthra__runnable_task(s, t);
    return h;
}

ASTHRA__FLATTEN ASTHRA_RT_API AsthraTaskHandle asthra_spawn_at(AsthraTaskFunction fn, void *args,
                                                               const char *name) {
    asthra__turn();
    Asthra__Seat *s = asthra__seat();
    Asthra__Task *t = asthra__task_create(s, fn, args, name);
    if (ASTHRA__UNLIKELY(t == NULL)) return asthra__spawn_failed(s, NULL);
    return asthra__task_submit(s, t);
}

ASTHRA_RT_API AsthraTaskHandle(asthra_spawn)(AsthraTaskFunction fn, void *args) {
    return asthra_spawn_at(fn, args, "task");
}

/* Room for options and for a block of `bytes`; kept with the descriptor for its next task. */
static bool asthra__task_extend(Asthra__Task *t, size_t bytes) {
    if (t->extra != NULL && t->extra->room < bytes) {
        asthra__free(t->extra);
        t->extra = NULL;
    }
    if (t->extra == NULL) {
        size_t room = (bytes + 63) / 64 * 64;
        if (bytes > SIZE_MAX / 2) return false;
        t->extra = asthra__alloc(sizeof *t->extra + room);
        if (t->extra == NULL) return false;
        t->extra->room = room;
    }
    t->extra->stack_bytes = 0;
    t->extra->ranked.item = &t->runnable;
    uint8_t marks = asthra__load(&t->marks, relaxed);
    asthra__store(&t->marks, (uint8_t)(marks | ASTHRA__TASK_EXTRA), relaxed);
    return true;
}

/* The worker that an affinity means, + 1; 0: any. False: there is none, and the reason is set. */
static bool asthra__task_affinity(Asthra__Scheduler *g, int affinity, int16_t *out) {
    unsigned count = asthra__load(&g->worker_count, relaxed);
    *out = 0;
    if (affinity == ASTHRA_AFFINITY_ANY) return true;
    if (affinity == ASTHRA_AFFINITY_MAIN) {
        *out = (int16_t)ASTHRA_AFFINITY_WORKER(asthra__main_worker(g)->number);
        if (!g->config.main_helps) asthra__store(&g->has_bound, 1u, release);
        return true;
    }
    if (affinity < 0) {
        asthra__error_set(ASTHRA_INVALID, "affinity: %d is none of ASTHRA_AFFINITY_", affinity);
    } else if ((unsigned)affinity > count) {
        asthra__error_set(ASTHRA_INVALID, "affinity: worker %d asked for, there are %u, from 0",
                          affinity - 1, count);
    } else {
        *out = (int16_t)affinity;
        return true;
    }
    return false;
}

ASTHRA_RT_API AsthraTaskHandle asthra_spawn_with(const AsthraSpawnOptions *o, AsthraTaskFunction fn,
                                                 void *args) {
    static const AsthraSpawnOptions defaults = {NULL, 0, 0, 0};
    asthra__turn();
    Asthra__Seat *s = asthra__seat();
    int16_t affinity;
    if (o == NULL) o = &defaults;
    if (o->stack_bytes > ASTHRA__OS_STACK_MOST) {
        asthra__error_set(ASTHRA_INVALID, "stack_bytes: %zu asked for, at most %zu", o->stack_bytes,
                          ASTHRA__OS_STACK_MOST);
        return asthra__spawn_failed(s, NULL);
    }
    if (!asthra__task_affinity(asthra__scheduler(), o->affinity, &affinity)) {
        return asthra__spawn_failed(s, NULL);
    }
    Asthra__Task *t = asthra__task_create(s, fn, args, "task");
    if (t == NULL) return asthra__spawn_failed(s, NULL);
    if (!asthra__task_extend(t, 0)) {
        asthra__error_set(ASTHRA_OUT_OF_MEMORY, "no memory for a task's options");
        return asthra__spawn_failed(s, t);
    }
    t->extra->stack_bytes = o->stack_bytes;
    t->runnable.priority = o->priority;
    t->affinity = affinity;
    if (o->name != NULL) {
        Asthra__Text name = asthra__text_on(t->extra->name, sizeof t->extra->name);
        asthra__text_add(&name, o->name);
        t->name = t->extra->name;
    }
    return asthra__task_submit(s, t);
}

/* A block of more bytes than the descriptor has room for. False: no memory. */
static bool asthra__task_add_block(Asthra__Task *t, size_t size) {
    if (!asthra__task_extend(t, size)) {
        asthra__error_set(ASTHRA_OUT_OF_MEMORY, "no memory for a task's block of %zu bytes", size);
        return false;
    }
    t->extra->block_bytes = size;
    t->value = t->extra + 1;
    asthra__store(&t->marks, (uint8_t)(ASTHRA__TASK_EXTRA | ASTHRA__TASK_COPIED), relaxed);
    return true;
}

/* The block that the descriptor has room for. */
static inline void asthra__task_use_block(Asthra__Task *t, size_t size) {
    t->block_size = (uint8_t)size;
    t->value = t->block;
    asthra__store(&t->marks, (uint8_t)ASTHRA__TASK_COPIED, relaxed);
}

ASTHRA__FLATTEN ASTHRA_RT_API AsthraTaskHandle asthra_spawn_words_at(AsthraTaskFunction fn,
                                                                     AsthraTaskWords block,
                                                                     const char *name) {
    asthra__turn();
    Asthra__Seat *s = asthra__seat();
    Asthra__Task *t = asthra__task_create(s, fn, NULL, name);
    if (ASTHRA__UNLIKELY(t == NULL)) return asthra__spawn_failed(s, NULL);
    _Static_assert(sizeof block == ASTHRA__TASK_INLINE, "they fill the block of a descriptor");
    asthra__task_use_block(t, sizeof block);
    memcpy(t->block, &block, sizeof block);
    return asthra__task_submit(s, t);
}

ASTHRA__FN Asthra__Task *asthra__task_prepare(Asthra__Seat *s, AsthraTaskFunction fn, size_t room,
                                              const char *name) {
    Asthra__Task *t = asthra__task_create(s, fn, NULL, name);
    if (ASTHRA__UNLIKELY(t == NULL)) return NULL;
    if (room <= ASTHRA__TASK_INLINE) {
        asthra__task_use_block(t, room);
    } else if (!asthra__task_add_block(t, room)) {
        asthra__task_discard(s, t);
        return NULL;
    }
    return t;
}

ASTHRA_RT_API AsthraTaskHandle asthra_spawn_room_at(AsthraTaskFunction fn, const void *block,
                                                    size_t size, size_t room, const char *name) {
    asthra__turn();
    Asthra__Seat *s = asthra__seat();
    Asthra__Task *t = asthra__task_prepare(s, fn, room, name);
    if (ASTHRA__UNLIKELY(t == NULL)) return asthra__spawn_failed(s, NULL);
    if (block == NULL)
        memset(t->value, 0, size);
    else if (size > 0)
        memcpy(t->value, block, size);
    return asthra__task_submit(s, t);
}

ASTHRA_RT_API AsthraTaskHandle asthra_spawn_copy_at(AsthraTaskFunction fn, const void *block,
                                                    size_t size, const char *name) {
    return asthra_spawn_room_at(fn, block, size, size, name);
}

ASTHRA_RT_API AsthraTaskHandle(asthra_spawn_copy)(AsthraTaskFunction fn, const void *block,
                                                  size_t size) {
    return asthra_spawn_copy_at(fn, block, size, "task");
}

/* ---- the end ---- */

/* Tells the end, claims and unlinks every awaiter, then wakes them. Told under the lock: once it is
 * told, an awaiter that had timed out may free t, and nobody may find the awaiters of the next task
 * there before our list is empty. Returns the word before. */
ASTHRA__COLD static uint64_t asthra__task_end_awaited(Asthra__Task *t, AsthraTaskState how) {
    Asthra__Lock *stripe = asthra__task_stripe(t);
    Asthra__AwaitNode *won = NULL;
    asthra__lock(stripe);
    uint64_t word = asthra__add(&t->word, (uint64_t)how, acq_rel);
    for (Asthra__AwaitNode *n = t->waiters, *next; n != NULL; n = next) {
        next = n->next;
        n->link = NULL;
        if (!asthra__wait_claim(n->parker)) continue; /* timed out, or cancelled */
        n->next = won;
        won = n;
    }
    t->waiters = NULL;
    asthra__unlock(stripe);
    while (won != NULL) { /* a node is its waiter's until the wake */
        Asthra__Parker *p = won->parker;
        won = won->next;
        asthra__wait_wake(p);
    }
    return word;
}

/* The end of a task that others may know of. */
static void asthra__task_end_shared(Asthra__Seat *s, Asthra__Task *t, AsthraTaskState how) {
    uint64_t word = asthra__load(&t->word, relaxed);
    do {
        if (word & ASTHRA__TASK_AWAITED) {
            word = asthra__task_end_awaited(t, how);
            break;
        }
    } while (!asthra__cas(&t->word, &word, word | (uint64_t)how, acq_rel));
    if (!(word & ASTHRA__TASK_HANDLES)) asthra__task_free(s, t);
}

ASTHRA__FN void asthra__task_end(Asthra__Seat *s, Asthra__Task *t, AsthraTaskState how, void *value,
                                 bool is_alone) {
    Asthra__Scheduler *g = asthra__scheduler();
    ASTHRA__TRACE(ASTHRA_DEBUG_CONCURRENCY_OPERATIONS, "END: task %llu %s",
                  (unsigned long long)asthra__task_bits(t), t->name);
    t->value = value;
    asthra__store(&s->ended, asthra__load(&s->ended, relaxed) + 1, release);
    if (ASTHRA__UNLIKELY(g->config.max_tasks != 0)) {
        asthra__sub(&g->unfinished, (size_t)1, relaxed);
    }
    uint64_t word = asthra__load(&t->word, relaxed);
    uint64_t low = (uint32_t)word & ~(uint32_t)ASTHRA__TASK_CANCEL;
    if (is_alone && low == (ASTHRA__TASK_HANDLE | ASTHRA__TASK_ALIVE)) {
        /* only its awaiter, below us, knows it */
        asthra__store(&t->word, word | (uint64_t)how, release);
    } else {
        asthra__task_end_shared(s, t, how);
    }
    asthra__os_fence_light(); /* pairs with the heavy one in scheduler_stop */
    if (ASTHRA__UNLIKELY(asthra__load(&g->phase, relaxed) == ASTHRA__PHASE_DRAINING)) {
        asthra__drain_check();
    }
}

/* ---- cancellation ---- */

static bool asthra__task_is_on(uint64_t word, uint64_t bits) {
    bool is_same = ((word ^ bits) & ASTHRA__TASK_GENERATION) == 0;
    return is_same && (word & ASTHRA__TASK_ALIVE) && !(word & ASTHRA__TASK_END);
}

/* Sets CANCEL; false: h is over. */
static bool asthra__task_mark_cancel(Asthra__Task *t, uint64_t bits) {
    uint64_t word = asthra__load(&t->word, acquire);
    do {
        if (!asthra__task_is_on(word, bits)) return false;
    } while (!asthra__cas(&t->word, &word, word | ASTHRA__TASK_CANCEL, acq_rel));
    return true;
}

/* Ends the wait that t is in, if it may be ended. The canceller of a chain holds no handle of t: it
 * may have ended meanwhile, and another task may wait in its place. So the parker's word is read
 * first, then the generation: if that is still ours, so is the wait, and its turn is in the word.
 * */
static void asthra__task_end_wait(Asthra__Task *t, uint64_t bits) {
    Asthra__Parker *p = &t->parker;
    for (;;) {
        uint32_t word = asthra__load(&p->word, acquire), claim = word & ASTHRA__WAIT_CLAIM;
        if (!asthra__task_is_on(asthra__load(&t->word, acquire), bits)) return;
        if (word & ASTHRA__WAIT_FIRM) return;
        if (claim == ASTHRA__WAIT_BUSY) {
            asthra__cpu_relax();
            continue;
        }
        if (claim != ASTHRA__WAIT_OPEN) return;
        uint32_t done = (word & ~(uint32_t)ASTHRA__WAIT_CLAIM) | ASTHRA__WAIT_DONE;
        if (asthra__cas(&p->word, &word, done, acq_rel)) break;
    }
    asthra__wait_end(p->wait, ASTHRA_CANCELLED);
}

/* The second half of a cancel, behind the fence. Returns the task that t awaits; 0: none. */
static uint64_t asthra__task_cancel_marked(Asthra__Task *t, uint64_t bits) {
    uint64_t child = asthra__load(&t->awaiting, acquire);
    bool is_masked = asthra__load(&t->masks, relaxed) > 0;
    if (!asthra__task_is_on(asthra__load(&t->word, acquire), bits)) return 0; /* child: not its */
    asthra__task_end_wait(t, bits);
    return is_masked ? 0 : child;
}

ASTHRA__FN void asthra__task_forward_cancel(uint64_t bits) {
    while (bits != 0) {
        AsthraTaskHandle h = {bits};
        Asthra__Task *t = asthra__task_find(h);
        if (t == NULL || !asthra__task_mark_cancel(t, bits)) return;
        asthra__os_fence_heavy(); /* pairs with the light ones in wait_park and await */
        bits = asthra__task_cancel_marked(t, bits);
    }
}

ASTHRA__FN void asthra__task_cancel_many(const uint64_t *bits, size_t count) {
    for (size_t i = 0; i < count; i++) {
        AsthraTaskHandle h = {bits[i]};
        Asthra__Task *t = asthra__task_find(h);
        if (t != NULL) asthra__task_mark_cancel(t, bits[i]);
    }
    asthra__os_fence_heavy(); /* one for all */
    for (size_t i = 0; i < count; i++) {
        AsthraTaskHandle h = {bits[i]};
        Asthra__Task *t = asthra__task_find(h);
        if (t != NULL) asthra__task_forward_cancel(asthra__task_cancel_marked(t, bits[i]));
    }
}

ASTHRA_RT_API bool asthra_task_cancel(AsthraTaskHandle h) {
    asthra__turn();
    asthra__seat();
    Asthra__Task *t = asthra__task_resolve(h, "asthra_task_cancel", false);
    if (asthra__load(&t->word, acquire) & ASTHRA__TASK_END) return false;
    asthra__task_forward_cancel(h.bits);
    return true;
}

ASTHRA__FN void asthra__task_cancel_parked(void) {
    Asthra__Scheduler *g = asthra__scheduler();
    uint32_t count = asthra__load(&g->descriptors, acquire);
    for (uint32_t i = 1; i < count; i++) {
        Asthra__Task *t = asthra__task_at(i);
        uint64_t word = asthra__load(&t->word, acquire);
        if (!(word & ASTHRA__TASK_ALIVE) || (word & ASTHRA__TASK_END)) continue;
        asthra__task_forward_cancel((word & ASTHRA__TASK_GENERATION) | i);
    }
}

/* Of tasks that await one another the last one counts: what it does is what all do. */
ASTHRA__FN bool asthra__task_cancel_idle(void) {
    bool found = false;
    uint32_t count = asthra__load(&asthra__scheduler()->descriptors, acquire);
    for (uint32_t i = 1; i < count; i++) {
        Asthra__Task *t = asthra__task_at(i);
        uint64_t word = asthra__load(&t->word, acquire);
        if (!(word & ASTHRA__TASK_ALIVE) || (word & ASTHRA__TASK_END)) continue;
        if ((word & ASTHRA__TASK_CANCEL) || asthra__load(&t->awaiting, acquire) != 0) continue;
        found = true;
        uint32_t claim = asthra__load(&t->parker.word, acquire) & ASTHRA__WAIT_CLAIM;
        if (claim == ASTHRA__WAIT_OPEN || claim == ASTHRA__WAIT_DONE)
            asthra__task_forward_cancel((word & ASTHRA__TASK_GENERATION) | i);
    }
    return found;
}

ASTHRA_RT_API bool asthra_cancel_requested(void) {
    if (asthra__seat_if_any() == NULL) return false; /* before the start too */
    asthra__turn();
    return asthra__cancel_pending();
}

ASTHRA_RT_API void asthra_cancel_mask_begin(void) {
    Asthra__Seat *s = asthra__seat_if_any();
    Asthra__Task *t = s == NULL ? NULL : s->task;
    if (t == NULL) return;
    uint8_t masks = asthra__load(&t->masks, relaxed);
    ASTHRA__CHECK(masks < UINT8_MAX);
    asthra__store(&t->masks, (uint8_t)(masks + 1), relaxed);
}

ASTHRA_RT_API void asthra_cancel_mask_end(void) {
    Asthra__Seat *s = asthra__seat_if_any();
    Asthra__Task *t = s == NULL ? NULL : s->task;
    if (t == NULL) return;
    uint8_t masks = asthra__load(&t->masks, relaxed);
    if (masks == 0) asthra_panic_at(NULL, "asthra_cancel_mask_end: no region is open");
    asthra__store(&t->masks, (uint8_t)(masks - 1), relaxed);
}

/* ---- asking ---- */

ASTHRA_RT_API void asthra_task_detach(AsthraTaskHandle h) {
    asthra__turn();
    Asthra__Seat *s = asthra__seat();
    Asthra__Task *t = asthra__task_resolve(h, "asthra_task_detach", true);
    if (!asthra__task_release(s, t, h.bits)) asthra__task_refuse(h, "asthra_task_detach");
}

ASTHRA_RT_API AsthraTaskHandle asthra_task_retain(AsthraTaskHandle h) {
    asthra__seat();
    Asthra__Task *t = asthra__task_resolve(h, "asthra_task_retain", false);
    asthra__add(&t->word, ASTHRA__TASK_HANDLE, relaxed);
    return h;
}

ASTHRA_RT_API bool asthra_task_is_valid(AsthraTaskHandle h) {
    return asthra__task_find(h) != NULL;
}

ASTHRA_RT_API AsthraTaskHandle asthra_task_current(void) {
    AsthraTaskHandle h = {0};
    Asthra__Seat *s = asthra__seat_if_any();
    if (s == NULL || s->task == NULL) return h;
    uint8_t marks = asthra__load(&s->task->marks, relaxed);
    asthra__store(&s->task->marks, (uint8_t)(marks | ASTHRA__TASK_ESCAPED), relaxed);
    h.bits = asthra__task_bits(s->task);
    return h;
}

ASTHRA_RT_API uint64_t asthra_task_id(AsthraTaskHandle h) {
    asthra__task_resolve(h, "asthra_task_id", false);
    return h.bits;
}

ASTHRA_RT_API const char *asthra_task_name(AsthraTaskHandle h) {
    return asthra__task_resolve(h, "asthra_task_name", false)->name;
}

ASTHRA_RT_API AsthraTaskState asthra_task_state(AsthraTaskHandle h) {
    Asthra__Task *t = asthra__task_resolve(h, "asthra_task_state", false);
    uint64_t end = asthra__load(&t->word, acquire) & ASTHRA__TASK_END;
    if (end != 0) return (AsthraTaskState)end;
    if (!(asthra__load(&t->marks, relaxed) & ASTHRA__TASK_STARTED)) return ASTHRA_TASK_CREATED;
    if (asthra__load(&t->awaiting, relaxed) != 0) return ASTHRA_TASK_WAITING;
    switch (asthra__load(&t->parker.word, relaxed) & ASTHRA__WAIT_CLAIM) {
    case ASTHRA__WAIT_OPEN: return ASTHRA_TASK_WAITING;
    case ASTHRA__WAIT_DONE: return ASTHRA_TASK_READY;
    default: return ASTHRA_TASK_RUNNING;
    }
}

ASTHRA_RT_API AsthraTaskHandle asthra_task_parent(AsthraTaskHandle h) {
    AsthraTaskHandle parent = {asthra__task_resolve(h, "asthra_task_parent", false)->parent};
    if (asthra__task_find(parent) == NULL) parent.bits = 0;
    return parent;
}

ASTHRA_RT_API size_t asthra_task_child_count(AsthraTaskHandle h) {
    Asthra__Scheduler *g = asthra__scheduler();
    asthra__task_resolve(h, "asthra_task_child_count", false);
    size_t children = 0;
    uint32_t count = asthra__load(&g->descriptors, acquire);
    for (uint32_t i = 1; i < count; i++) {
        Asthra__Task *t = asthra__task_at(i);
        uint64_t word = asthra__load(&t->word, acquire);
        bool is_live = (word & ASTHRA__TASK_ALIVE) && !(word & ASTHRA__TASK_END);
        if (is_live && t->parent == h.bits) children++;
    }
    return children;
}

ASTHRA__FLATTEN ASTHRA_RT_API void asthra_yield(void) {
    Asthra__Seat *s = asthra__seat_if_any();
    if (s == NULL || s->worker == NULL ||
        asthra__load(&asthra__scheduler()->manned, relaxed) == 0) {
        asthra__os_yield();
        return;
    }
    Asthra__Parker *p = s->task != NULL ? &s->task->parker : &s->parker;
    uint32_t turn = asthra__load(&p->word, relaxed) & ~(uint32_t)(ASTHRA__WAIT_TURN - 1);
    asthra__store(&p->word, turn | ASTHRA__WAIT_DONE, relaxed); /* READY, for who asks */
    asthra__leave(s, ASTHRA__LEFT_READY, NULL);
    asthra__store(&p->word, turn, relaxed);
}

ASTHRA_RT_API void asthra_safepoint_slow(void) {
    const Asthra__Seat *s = asthra__seat_if_any();
    if (s == NULL || s->worker == NULL) return;
    if (asthra__is_deterministic())
        asthra__turn();
    else if (asthra__safepoint_is_due(s->worker))
        asthra_yield();
}

#endif
