/* stack - memory that goes with its task, thread or scope.                 [stack] body
 *
 * A region is a pile of chunks from the heap; the first chunk holds the region's own record. A
 * block is cut from the top of the newest chunk, and behind it stands its foot: its size, and how
 * many bytes the region had live with it. So whatever lies right below an address where a block
 * ended says how much to give back down to there, without a look at what lies above: a release is
 * one subtraction. Feet also lead from any block to the one below, which is how single frees, hooks
 * and the full level walk.
 *
 *     chunk | header, base foot | block, foot | block, foot | free ...
 *                                                           ^ top
 *
 * Opening a scope needs no memory. Each has a stamp, a number that no other scope of the process
 * has; the region knows that of the innermost one, and a mark carries its own and that of the scope
 * around it, as it carries the top to go back to. A release compares one number and takes the other
 * over. What has no region yet keeps the stamp in the place of the region's address, as an odd
 * number. Stamps come in blocks of 4,096 to each thread, 31 bits wide: a mark would have to be kept
 * for two thousand million others to be taken for a new one.
 *
 * A foot has a bit that says that the top of an open scope stands right above it; such a block
 * cannot be freed alone. A scope that finds the bit set notes that in its mark and leaves it so.
 *
 * The `live` in the newest foot must agree with the region's at each allocation and release: who
 * writes past the newest block changes it. A pattern is added to it, so that its bytes are seldom
 * 0, the likeliest byte to be written there.
 *
 * Regions are the running task's alone; only the list of all regions has a lock. A region that ends
 * is emptied, and its first chunk waits with the thread for the next task there; the account goes
 * on. In a forked child the regions of the other threads and tasks are orphans: the next call that
 * opens or sums regions empties them. They may be in the middle of an allocation, so what links a
 * chunk comes after what fills it, and an orphan is emptied without being checked.
 *
 * A thread whose end nobody tells (see thread.c) may leave its last region behind.
 */
#include "stack_internal.h"

#include "heap_internal.h"
#include "pinned_internal.h"

#if ASTHRA_HAS_STACK

#include <string.h>

enum {
    ASTHRA__STACK_FOOT = 16,
    ASTHRA__STACK_LESS = 16, /* bytes that chunks are smaller than a class of the heap */
    ASTHRA__STACK_FIRST = 4096 - ASTHRA__STACK_LESS, /* of a region's first chunk */
    ASTHRA__STACK_MOST = 65536 - ASTHRA__STACK_LESS, /* of the others, unless a block needs more */
    ASTHRA__STACK_IDLE = 16,                         /* regions that a thread keeps */
    ASTHRA__STAMP_BITS = 31,
    ASTHRA__STAMP_MASK = 0x7fffffff,
    ASTHRA__STAMP_BLOCK = 4096,
    ASTHRA__STACK_FRESH = 0xa9, /* at the full level: in a block, past its end, in free memory */
    ASTHRA__STACK_SLACK = 0xb7,
    ASTHRA__STACK_FREED = 0xd3
};
#define ASTHRA__FOOT_PATTERN UINT64_C(0x9d5bc3e7a1f3b5d9)
#define ASTHRA__MARK_JOINS ((uint64_t)1 << (2 * ASTHRA__STAMP_BITS))

typedef struct Asthra__StackRegion Asthra__StackRegion;

typedef struct Asthra__StackFoot {
    uint64_t live; /* of the region with this block, + the pattern */
    uint64_t size; /* * 2, + 1: the top of an open scope stands here */
} Asthra__StackFoot;
_Static_assert(sizeof(Asthra__StackFoot) == ASTHRA__STACK_FOOT, "blocks stay aligned");

typedef struct Asthra__StackChunk Asthra__StackChunk;
struct Asthra__StackChunk {
    Asthra__StackRegion *region;
    Asthra__StackChunk *below; /* NULL: the first one */
    char *below_top;           /* where that one was left */
    char *end;
    ASTHRA__ALIGNED(16) Asthra__StackFoot base;
};

struct Asthra__StackRegion {
    Asthra__StackRegion *self; /* as a chunk begins with its region */
    char *top, *quick_end;     /* the chunk's end; top: every allocation is a slow one */
    uint64_t live;             /* what must stand in the newest foot */
    Asthra__StackChunk *chunk;
    Asthra__Account account;
    uint32_t scope; /* the stamp of the innermost open one; 0: none */
    uint8_t level;
    uint8_t idle_count;                /* regions in the thread's list from here on */
    Asthra__StackChunk *spare;         /* empty; NULL: none */
    ASTHRA__ATOMIC_64(uint64_t) task;  /* the id; 0: a thread's, or idle */
    Asthra__StackRegion *next, **link; /* of all, or of the orphans */
    Asthra__StackRegion *next_idle;
    Asthra__StackChunk first;
};

static struct {
    Asthra__Once once;
    Asthra__Lock lock; /* of all, orphans and ended */
    Asthra__StackRegion *all, *orphans;
    Asthra__AccountSum ended; /* of regions that are gone; refusals by the limit */
    ASTHRA__ATOMIC(uint32_t) stamp_blocks;
    ASTHRA__ATOMIC(Asthra__StackOwner) task;
} asthra__stack;

/* ---- what stands in the thread's record: a region, or a stamp ---- */

static inline bool asthra__stack_is_region(const Asthra__StackRegion *r) {
    return r != NULL && ((uintptr_t)r & 1) == 0;
}
static inline Asthra__StackRegion *asthra__stack_stamp_tag(uint32_t stamp) {
    return stamp == 0 ? NULL : (Asthra__StackRegion *)((uintptr_t)stamp << 1 | 1);
}
static inline uint32_t asthra__stack_scope(const Asthra__StackRegion *r) {
    return asthra__stack_is_region(r) ? r->scope : (uint32_t)((uintptr_t)r >> 1);
}

/* ---- feet; a sanitizer is told that these are ours ---- */

#if ASTHRA__ASAN
#define ASTHRA__STACK_OWN ASTHRA__ASAN_BLIND
#else
#define ASTHRA__STACK_OWN ASTHRA__FAST
#endif

static inline Asthra__StackFoot *asthra__foot_at(const char *top) {
    return (Asthra__StackFoot *)(void *)(uintptr_t)(top - ASTHRA__STACK_FOOT);
}
static ASTHRA__STACK_OWN uint64_t asthra__foot_live(const char *top) {
    return asthra__foot_at(top)->live;
}
static ASTHRA__STACK_OWN size_t asthra__foot_size(const char *top) {
    return (size_t)(asthra__foot_at(top)->size >> 1);
}
static ASTHRA__STACK_OWN bool asthra__foot_has_scope(const char *top) {
    return (asthra__foot_at(top)->size & 1) != 0;
}
static ASTHRA__STACK_OWN void asthra__foot_set_scope(const char *top, bool on) {
    Asthra__StackFoot *f = asthra__foot_at(top);
    f->size = (f->size & ~(uint64_t)1) | on;
}
static ASTHRA__STACK_OWN void asthra__foot_write(char *top, uint64_t live, size_t size) {
    Asthra__StackFoot *f = asthra__foot_at(top);
    f->live = live;
    f->size = (uint64_t)size << 1;
}
/* The first byte in [from, to) that is not `fill`; `to`: all are. */
static ASTHRA__STACK_OWN const char *asthra__stack_unlike(const char *from, const char *to,
                                                          int fill) {
    while (from < to && (unsigned char)*from == fill) from++;
    return from;
}

/* ---- sizes ---- */

static inline size_t asthra__stack_need(size_t size) { /* with its foot; size is no monster */
    return (size + ASTHRA__STACK_FOOT + 15) & ~(size_t)15;
}
static inline char *asthra__stack_chunk_base(const Asthra__StackChunk *c) {
    return (char *)(uintptr_t)(c + 1);
}
static size_t asthra__stack_counted(const Asthra__StackRegion *r) {
    Asthra__AccountSum sum = {0, 0, 0, 0};
    asthra__account_sum(&r->account, &sum);
    return sum.total - sum.freed;
}

/* ---- panics ---- */

static void asthra__stack_say_owner(Asthra__Text *t, uint64_t task) {
    if (task != 0)
        asthra__text_format(t, "task %llu", (unsigned long long)task);
    else
        asthra__text_format(t, "thread %llu", (unsigned long long)asthra__thread()->id);
}

static uint64_t asthra__stack_task(void) {
    Asthra__StackOwner task = asthra__load(&asthra__stack.task, acquire);
    return task == NULL ? 0 : task();
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__stack_overflown(const char *top) {
    asthra_panic_at(NULL,
                    "Stack zone overflow: the newest block, which ends at most 16 bytes below %p, "
                    "was written past its end",
                    (const void *)top);
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__stack_overflown_at(const char *block,
                                                                    size_t size) {
    asthra_panic_at(NULL,
                    "Stack zone overflow: the block %p of %zu bytes was written past its end, or "
                    "the one before it far past its own",
                    (const void *)block, size);
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__stack_written_to(const char *at) {
    asthra_panic_at(NULL,
                    "Use after release: %p in the stack zone was written to after its block had "
                    "been released",
                    (const void *)at);
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__stack_wrong_release(uint32_t found,
                                                                     uint32_t expected) {
    char who[64];
    Asthra__Text t = asthra__text_on(who, sizeof who);
    asthra__stack_say_owner(&t, asthra__stack_task());
    if (expected == 0)
        asthra_panic_at(NULL,
                        "Wrong release in stack_release: expected no more releases, because %s has "
                        "no open scope; found scope %u",
                        who, found);
    if (found == 0)
        asthra_panic_at(NULL,
                        "Wrong release in stack_release: expected scope %u, the innermost open one "
                        "of %s; found a mark that is not open: it was released before, or no "
                        "stack_mark made it",
                        expected, who);
    asthra_panic_at(NULL,
                    "Wrong release in stack_release: expected scope %u, the innermost open one of "
                    "%s; found scope %u: one around it, one released before, or another's",
                    expected, who, found);
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__stack_no_mark(void) {
    asthra_panic_at(NULL, "Wrong release in stack_release: expected a mark, found NULL");
}

static ASTHRA__FAST void asthra__stack_expect_whole(const Asthra__StackRegion *r) {
    if (ASTHRA__UNLIKELY(asthra__foot_live(r->top) != r->live)) asthra__stack_overflown(r->top);
}

/* ---- chunks ---- */

static void asthra__stack_set_top(Asthra__StackRegion *r, char *top) {
    r->top = top;
    r->quick_end = r->level == ASTHRA_SAFETY_FULL ? top : r->chunk->end;
}

/* Nobody's bytes from here on. */
static void asthra__stack_wipe(const Asthra__StackRegion *r, char *from, const char *to) {
    if (r->level == ASTHRA_SAFETY_FULL) {
        asthra__heap_show(from, (size_t)(to - from));
        memset(from, ASTHRA__STACK_FREED, (size_t)(to - from));
    }
    asthra__heap_hide(from, (size_t)(to - from));
}

static void asthra__stack_chunk_fill(Asthra__StackRegion *r, Asthra__StackChunk *c, size_t bytes) {
    c->region = r;
    c->end = (char *)(c == &r->first ? (void *)r : (void *)c) + bytes;
    asthra__stack_wipe(r, asthra__stack_chunk_base(c), c->end);
    asthra__heap_hide(&c->base, sizeof c->base);
}

static void asthra__stack_chunk_free(Asthra__StackChunk *c) {
    if (c == NULL) return;
    asthra__heap_free(c, ASTHRA_MEMORY_ZONE_STACK, NULL, "stack_release");
}

/* Leaves the newest chunk for the one below. It may be the spare from here on, so that a loop over
 * the border of a chunk does not go to the heap each time. */
static void asthra__stack_chunk_pop(Asthra__StackRegion *r) {
    Asthra__StackChunk *c = r->chunk, *spare = r->spare;
    asthra__stack_wipe(r, asthra__stack_chunk_base(c), c->end);
    char *top = c->below_top;
    r->chunk = c->below;
    asthra__stack_set_top(r, top);
    asthra__compiler_fence(); /* a fork may see the region between any two lines */
    size_t bytes = (size_t)(c->end - (char *)c);
    if (bytes > ASTHRA__STACK_MOST ||
        (spare != NULL && spare->end - (char *)spare >= c->end - (char *)c)) {
        asthra__stack_chunk_free(c);
        return;
    }
    r->spare = c;
    asthra__compiler_fence();
    asthra__stack_chunk_free(spare);
}

/* The size of a new chunk for a block; SIZE_MAX: the heap will refuse it. */
static size_t asthra__stack_chunk_bytes(const Asthra__StackRegion *r, size_t size) {
    if (size > (size_t)PTRDIFF_MAX / 2) return SIZE_MAX;
    size_t least = asthra__stack_need(size) + sizeof(Asthra__StackChunk);
    size_t bytes = ASTHRA__STACK_FIRST;
    if (r->chunk != &r->first) bytes = (size_t)(r->chunk->end - (char *)r->chunk);
    bytes = bytes * 2 + ASTHRA__STACK_LESS;
    if (bytes > ASTHRA__STACK_MOST) bytes = ASTHRA__STACK_MOST;
    return bytes < least ? least : bytes;
}

/* A chunk on top that has room for the block; false: no memory. */
static bool asthra__stack_chunk_push(Asthra__StackRegion *r, size_t size) {
    size_t bytes = asthra__stack_chunk_bytes(r, size);
    Asthra__StackChunk *c = r->spare;
    if (c != NULL && bytes != SIZE_MAX &&
        (size_t)(c->end - asthra__stack_chunk_base(c)) >= asthra__stack_need(size)) {
        r->spare = NULL;
    } else {
        c = asthra__heap_alloc(bytes, ASTHRA_MEMORY_ZONE_STACK, NULL);
        if (c == NULL) return false;
        asthra__stack_chunk_fill(r, c, bytes);
    }
    c->below = r->chunk;
    c->below_top = r->top;
    asthra__foot_write(asthra__stack_chunk_base(c), r->live, 0);
    asthra__compiler_fence();
    r->chunk = c;
    asthra__stack_set_top(r, asthra__stack_chunk_base(c));
    return true;
}

/* ---- regions: beginning and end ---- */

static void asthra__stack_link(Asthra__StackRegion *r) { /* caller holds the lock */
    r->next = asthra__stack.all;
    r->link = &asthra__stack.all;
    if (r->next != NULL) r->next->link = &r->next;
    asthra__stack.all = r;
}
static void asthra__stack_unlink(Asthra__StackRegion *r) { /* caller holds the lock */
    *r->link = r->next;
    if (r->next != NULL) r->next->link = r->link;
}

/* Frees all blocks and chunks but the first. Looks at no foot: an orphan's may be half written. */
static void asthra__stack_empty(Asthra__StackRegion *r) {
    size_t live = asthra__stack_counted(r);
    while (r->chunk != &r->first) asthra__stack_chunk_pop(r);
    asthra__stack_wipe(r, asthra__stack_chunk_base(&r->first), r->first.end);
    asthra__stack_set_top(r, asthra__stack_chunk_base(&r->first));
    asthra__stack_chunk_free(r->spare);
    r->spare = NULL;
    r->scope = 0;
    asthra__store(&r->task, UINT64_C(0), relaxed);
    asthra__account_free(&r->account, live, ASTHRA_MEMORY_ZONE_STACK);
    if (r->account.told != 0) asthra__account_tell(&r->account, ASTHRA_MEMORY_ZONE_STACK);
    asthra__zone_release(live);
}

/* It is in no list any more; its account goes into the total. */
static void asthra__stack_bury(Asthra__StackRegion *r) {
    asthra__account_tell(&r->account, ASTHRA_MEMORY_ZONE_STACK);
    asthra__lock(&asthra__stack.lock);
    asthra__account_sum(&r->account, &asthra__stack.ended);
    asthra__unlock(&asthra__stack.lock);
    asthra__heap_free(r, ASTHRA_MEMORY_ZONE_STACK, NULL, "stack_release");
}

static void asthra__stack_destroy(Asthra__StackRegion *r) {
    asthra__stack_empty(r);
    asthra__lock(&asthra__stack.lock);
    asthra__stack_unlink(r);
    asthra__unlock(&asthra__stack.lock);
    asthra__stack_bury(r);
}

/* Of a list that nobody else can reach. */
static void asthra__stack_destroy_all(Asthra__StackRegion *list) {
    while (list != NULL) {
        Asthra__StackRegion *next = list->next;
        asthra__stack_empty(list);
        asthra__stack_bury(list);
        list = next;
    }
}

ASTHRA__FN void asthra__stack_trim(void) {
    Asthra__Thread *t = asthra__thread();
    Asthra__StackRegion *r;
    while ((r = t->stack_idle) != NULL) {
        t->stack_idle = r->next_idle;
        asthra__stack_destroy(r);
    }
    r = t->stack;
    if (asthra__stack_is_region(r) && r->scope == 0 &&
        r->top == asthra__stack_chunk_base(&r->first)) {
        t->stack = NULL;
        asthra__stack_destroy(r);
    }
}

static void asthra__stack_detach(Asthra__Thread *t) {
    asthra__stack_end(false);
    asthra__stack_trim();
    t->stack_stamp = 0;
}

static void asthra__stack_fork_before(void) {
    asthra__lock(&asthra__stack.lock);
}
static void asthra__stack_fork_parent(void) {
    asthra__unlock(&asthra__stack.lock);
}

/* What the thread that forked has stays; the rest are orphans. */
static void asthra__stack_fork_child(void) {
    Asthra__Thread *t = asthra__thread_if_attached();
    Asthra__StackRegion *mine = t != NULL && asthra__stack_is_region(t->stack) ? t->stack : NULL;
    Asthra__StackRegion *idle = t != NULL ? t->stack_idle : NULL, *r;
    if (mine != NULL) asthra__stack_unlink(mine);
    for (r = idle; r != NULL; r = r->next_idle) asthra__stack_unlink(r);
    Asthra__StackRegion **last = &asthra__stack.orphans;
    while (*last != NULL) last = &(*last)->next;
    *last = asthra__stack.all;
    asthra__stack.all = NULL;
    if (mine != NULL) asthra__stack_link(mine);
    for (r = idle; r != NULL; r = r->next_idle) asthra__stack_link(r);
    if (mine != NULL) asthra__store(&mine->task, UINT64_C(0), relaxed); /* it is the thread's now */
    asthra__unlock(&asthra__stack.lock);
}

static void asthra__stack_reap_orphans(void) {
    asthra__lock(&asthra__stack.lock);
    Asthra__StackRegion *list = asthra__stack.orphans;
    asthra__stack.orphans = NULL;
    asthra__unlock(&asthra__stack.lock);
    asthra__stack_destroy_all(list);
}

/* Hooks run newest first, and ours still needs the heap of the thread. */
static void asthra__stack_setup(void) {
    asthra__heap_leave(asthra__heap_enter(ASTHRA_MEMORY_ZONE_STACK));
    asthra__thread_on_detach(asthra__stack_detach);
    asthra__os_on_fork(asthra__stack_fork_before, asthra__stack_fork_parent,
                       asthra__stack_fork_child);
}

static Asthra__StackRegion *asthra__stack_make(void) {
    asthra__once(&asthra__stack.once, asthra__stack_setup);
    asthra__stack_reap_orphans();
    Asthra__StackRegion *r =
        asthra__heap_alloc(ASTHRA__STACK_FIRST, ASTHRA_MEMORY_ZONE_STACK, NULL);
    if (r == NULL) return NULL;
    memset(r, 0, sizeof *r);
    r->self = r;
    r->level = (uint8_t)asthra__heap_level();
    asthra__stack_chunk_fill(r, &r->first, ASTHRA__STACK_FIRST);
    r->chunk = &r->first;
    asthra__lock(&asthra__stack.lock);
    asthra__stack_link(r);
    asthra__unlock(&asthra__stack.lock);
    return r;
}

/* One that is empty, from the thread's store if it can be; NULL: no memory. */
static Asthra__StackRegion *asthra__stack_begin(Asthra__Thread *t) {
    uint8_t level = (uint8_t)asthra__heap_level();
    Asthra__StackRegion *r = t->stack_idle;
    if (r == NULL) return asthra__stack_make();
    t->stack_idle = r->next_idle;
    if (r->level != level) {
        r->level = level;
        asthra__stack_wipe(r, asthra__stack_chunk_base(&r->first), r->first.end);
    }
    return r;
}

/* The region of what runs here; NULL: it has none yet, and there is no memory for one. */
static Asthra__StackRegion *asthra__stack_open(void) {
    Asthra__Thread *t = asthra__thread();
    if (asthra__stack_is_region(t->stack)) return t->stack;
    Asthra__StackRegion *r = asthra__stack_begin(t);
    if (r == NULL) return NULL;
    r->scope = asthra__stack_scope(t->stack);
    r->live = ASTHRA__FOOT_PATTERN;
    asthra__foot_write(asthra__stack_chunk_base(&r->first), r->live, 0);
    asthra__stack_set_top(r, asthra__stack_chunk_base(&r->first));
    asthra__store(&r->task, asthra__stack_task(), relaxed);
    t->stack = r;
    return r;
}

/* ---- walking down ---- */

typedef struct Asthra__StackWalk {
    const Asthra__StackRegion *region;
    const char *to; /* NULL: the bottom */
    const Asthra__StackChunk *chunk;
    char *block; /* where the walk is: all above was shown */
    size_t size;
} Asthra__StackWalk;

static Asthra__StackWalk asthra__stack_walk(const Asthra__StackRegion *r, const char *to) {
    return (Asthra__StackWalk){r, to, r->chunk, r->top, 0};
}

/* To the next block below; false: there is none above `to`. Panics where feet disagree. */
static bool asthra__stack_next(Asthra__StackWalk *w) {
    while (w->block == asthra__stack_chunk_base(w->chunk) && w->block != w->to) {
        if (w->chunk->below == NULL) return false;
        w->block = w->chunk->below_top;
        w->chunk = w->chunk->below;
    }
    if (w->block == w->to) return false;
    char *top = w->block;
    w->size = asthra__foot_size(top);
    size_t room = (size_t)(top - asthra__stack_chunk_base(w->chunk));
    if (w->size >= room || asthra__stack_need(w->size) > room) asthra__stack_overflown(top);
    w->block = top - asthra__stack_need(w->size);
    if (asthra__foot_live(top) != asthra__foot_live(w->block) + w->size)
        asthra__stack_overflown_at(w->block, w->size);
    if (w->region->level == ASTHRA_SAFETY_FULL) {
        const char *foot = top - ASTHRA__STACK_FOOT;
        if (asthra__stack_unlike(w->block + w->size, foot, ASTHRA__STACK_SLACK) != foot)
            asthra__stack_overflown_at(w->block, w->size);
    }
    return true;
}

/* Of all blocks above `to`. */
static void asthra__stack_expect_unpinned(const Asthra__StackRegion *r, const char *to) {
    if (ASTHRA__LIKELY((asthra__trace_word() & ASTHRA__TRACE_ZONE_PINS) == 0)) return;
    Asthra__StackWalk w = asthra__stack_walk(r, to);
    while (asthra__stack_next(&w)) {
        Asthra__Found f = {.start = w.block, .size = w.size};
        if (asthra__pinned_touches(w.block, w.size)) asthra__heap_still_pinned(&f, "stack_release");
    }
}

/* All blocks above `to` are about to go: tells hooks, and looks at them at the full level. The
 * hooks may allocate here; what they leave goes too. */
static void asthra__stack_farewell(const Asthra__StackRegion *r, const char *to) {
    bool is_told = asthra__zone_is_watched();
    if (!is_told && r->level != ASTHRA_SAFETY_FULL) return;
    Asthra__StackWalk w = asthra__stack_walk(r, to);
    while (asthra__stack_next(&w))
        if (is_told) asthra__zone_tell_free(w.block, ASTHRA_MEMORY_ZONE_STACK);
}

/* ---- the ends that the scheduler and the thread's end call ---- */

ASTHRA__COLD ASTHRA__FN void asthra__stack_end(bool has_failed) {
    Asthra__StackRegion *r = asthra__thread()->stack;
    if (!asthra__stack_is_region(r)) {
        asthra__thread()->stack = NULL;
        return;
    }
    if (!has_failed) asthra__stack_expect_whole(r);
    if (!has_failed) asthra__stack_expect_unpinned(r, NULL);
    asthra__stack_farewell(r, NULL);
    Asthra__Thread *t = asthra__thread();
    t->stack = NULL;
    uint8_t count = t->stack_idle == NULL ? 0 : t->stack_idle->idle_count;
    if (count >= ASTHRA__STACK_IDLE) {
        asthra__stack_destroy(r);
        return;
    }
    asthra__stack_empty(r);
    r->idle_count = (uint8_t)(count + 1);
    r->next_idle = t->stack_idle;
    t->stack_idle = r;
}

ASTHRA__COLD ASTHRA__FN void asthra__stack_drop(Asthra__StackRegion *r) {
    if (asthra__stack_is_region(r)) asthra__stack_destroy(r);
}

ASTHRA__FN void asthra__stack_end_tasks(void) {
    Asthra__StackRegion *found = NULL, *next;
    asthra__lock(&asthra__stack.lock);
    for (Asthra__StackRegion *r = asthra__stack.all; r != NULL; r = next) {
        next = r->next;
        if (asthra__load(&r->task, relaxed) == 0) continue;
        asthra__stack_unlink(r);
        r->next = found;
        found = r;
    }
    asthra__unlock(&asthra__stack.lock);
    asthra__stack_destroy_all(found);
}

ASTHRA__FN void asthra__stack_set_owner(Asthra__StackOwner task) {
    asthra__store(&asthra__stack.task, task, release);
}

ASTHRA__FN void asthra__stack_sum(Asthra__AccountSum *sum) {
    asthra__stack_reap_orphans();
    asthra__lock(&asthra__stack.lock);
    sum->total += asthra__stack.ended.total;
    sum->freed += asthra__stack.ended.freed;
    sum->count += asthra__stack.ended.count;
    sum->failures += asthra__stack.ended.failures;
    for (const Asthra__StackRegion *r = asthra__stack.all; r != NULL; r = r->next)
        asthra__account_sum(&r->account, sum);
    asthra__unlock(&asthra__stack.lock);
}

/* ---- allocation ---- */

/* There is room, and it was counted. */
static ASTHRA__FAST void *asthra__stack_push(Asthra__StackRegion *r, size_t size) {
    char *block = r->top, *top = block + asthra__stack_need(size);
    asthra__stack_expect_whole(r);
    r->live += size;
    asthra__foot_write(top, r->live, size);
    r->top = top;
    asthra__heap_show(block, size);
    return block;
}

static void *asthra__stack_push_full(Asthra__StackRegion *r, size_t size) {
    const char *end = r->top + asthra__stack_need(size);
    const char *bad = asthra__stack_unlike(r->top, end, ASTHRA__STACK_FREED);
    if (bad != end) asthra__stack_written_to(bad);
    char *block = asthra__stack_push(r, size);
    asthra__stack_set_top(r, r->top);
    size_t slack = (size_t)(r->top - ASTHRA__STACK_FOOT - (block + size));
    asthra__heap_show(block, size + slack);
    memset(block, ASTHRA__STACK_FRESH, size);
    memset(block + size, ASTHRA__STACK_SLACK, slack);
    asthra__heap_hide(block + size, slack);
    return block;
}

static void *asthra__stack_take(size_t size) {
    Asthra__StackRegion *r = asthra__stack_open();
    if (r == NULL) return NULL;
    asthra__stack_expect_whole(r);
    size_t room = (size_t)(r->chunk->end - r->top);
    if ((size >= room || asthra__stack_need(size) > room) && !asthra__stack_chunk_push(r, size))
        return NULL;
    asthra__account_alloc(&r->account, size, ASTHRA_MEMORY_ZONE_STACK);
    return r->level == ASTHRA_SAFETY_FULL ? asthra__stack_push_full(r, size)
                                          : asthra__stack_push(r, size);
}

ASTHRA__COLD static void *asthra__stack_alloc_slow(size_t size) {
    bool is_watched = asthra__zone_is_watched();
    if (is_watched && !asthra__zone_admit(size, ASTHRA_MEMORY_ZONE_STACK)) {
        asthra__lock(&asthra__stack.lock);
        asthra__stack.ended.failures++;
        asthra__unlock(&asthra__stack.lock);
        return NULL;
    }
    void *block = asthra__stack_take(size);
    if (is_watched && block == NULL) asthra__zone_release(size);
    if (is_watched && block != NULL) asthra__zone_tell_alloc(block, size, ASTHRA_MEMORY_ZONE_STACK);
    return block;
}

ASTHRA_RT_API ASTHRA__NOINLINE void *asthra_stack_alloc(size_t size) {
    Asthra__StackRegion *r = asthra__thread_raw()->stack;
    if (ASTHRA__LIKELY(asthra__stack_is_region(r) && !asthra__zone_is_watched())) {
        size_t room = (size_t)(r->quick_end - r->top);
        if (ASTHRA__LIKELY(size < room && asthra__stack_need(size) <= room) &&
            ASTHRA__LIKELY(asthra__account_try_alloc(&r->account, size)))
            return asthra__stack_push(r, size);
    }
    return asthra__stack_alloc_slow(size);
}

/* ---- scopes ---- */

/* For those who read and write the record: compilers would ask for its place again. */
static ASTHRA__FAST Asthra__Thread *asthra__stack_place(void) {
    Asthra__Thread *t = asthra__thread_raw();
    __asm__("" : "+r"(t));
    return t;
}

static ASTHRA__FAST AsthraStackMark asthra__stack_mark_on(Asthra__Thread *t) {
    uint32_t stamp = t->stack_stamp;
    Asthra__StackRegion *r = t->stack;
    AsthraStackMark mark = {NULL, 0, true};
    mark.depth = (uint64_t)asthra__stack_scope(r) << ASTHRA__STAMP_BITS | stamp;
    t->stack_stamp = (stamp + 1) % ASTHRA__STAMP_BLOCK == 0 ? 0 : stamp + 1;
    if (!asthra__stack_is_region(r)) {
        t->stack = asthra__stack_stamp_tag(stamp);
        return mark;
    }
    mark.top = r->top;
    if (asthra__foot_has_scope(r->top)) mark.depth |= ASTHRA__MARK_JOINS;
    asthra__foot_set_scope(r->top, true);
    r->scope = stamp;
    return mark;
}

/* The thread needs more stamps. Attaches it, and makes sure that its end is told. */
ASTHRA__COLD static AsthraStackMark asthra__stack_mark_slow(void) {
    asthra__once(&asthra__stack.once, asthra__stack_setup);
    uint32_t block = asthra__add(&asthra__stack.stamp_blocks, 1, relaxed);
    uint32_t first = block * ASTHRA__STAMP_BLOCK & ASTHRA__STAMP_MASK;
    Asthra__Thread *t = asthra__thread();
    t->stack_stamp = first == 0 ? 1 : first;
    return asthra__stack_mark_on(t);
}

ASTHRA_RT_API ASTHRA__NOINLINE AsthraStackMark asthra_stack_mark(void) {
    Asthra__Thread *t = asthra__stack_place();
    if (ASTHRA__UNLIKELY(t->stack_stamp == 0)) return asthra__stack_mark_slow();
    return asthra__stack_mark_on(t);
}

/* Back to `top`, in the newest chunk. */
static ASTHRA__FAST void asthra__stack_cut(Asthra__StackRegion *r, char *top, bool joins) {
    uint64_t rest = asthra__foot_live(top), freed = r->live - rest;
    asthra__stack_expect_whole(r);
    if (ASTHRA__UNLIKELY(rest > r->live)) asthra__stack_overflown(top);
    asthra__heap_hide(top, (size_t)(r->top - top));
    r->top = top;
    r->live = rest;
    if (!joins) asthra__foot_set_scope(top, false);
    if (ASTHRA__UNLIKELY(asthra__account_free_quick(&r->account, (size_t)freed) < 0))
        asthra__account_tell(&r->account, ASTHRA_MEMORY_ZONE_STACK);
}

static inline bool asthra__stack_is_in_chunk(const Asthra__StackRegion *r, const char *top) {
    const char *base = asthra__stack_chunk_base(r->chunk);
    return (size_t)(top - base) <= (size_t)(r->top - base);
}

ASTHRA__COLD static void asthra__stack_cut_slow(Asthra__StackRegion *r, char *top, bool joins) {
    asthra__stack_expect_whole(r);
    asthra__stack_expect_unpinned(r, top);
    asthra__stack_farewell(r, top);
    if (top == NULL) top = asthra__stack_chunk_base(&r->first);
    while (!asthra__stack_is_in_chunk(r, top)) {
        ASTHRA__CHECK(r->chunk != &r->first); /* the mark was made up */
        asthra__stack_chunk_pop(r);
    }
    uint64_t rest = asthra__foot_live(top), freed = r->live - rest;
    if (rest > r->live) asthra__stack_overflown(top);
    asthra__stack_wipe(r, top, r->top);
    asthra__stack_set_top(r, top);
    r->live = rest;
    if (!joins) asthra__foot_set_scope(top, false);
    asthra__account_free(&r->account, (size_t)freed, ASTHRA_MEMORY_ZONE_STACK);
    asthra__zone_release((size_t)freed);
}

ASTHRA_RT_API ASTHRA__NOINLINE void asthra_stack_release(AsthraStackMark *mark) {
    Asthra__Thread *t = asthra__stack_place();
    Asthra__StackRegion *r = t->stack;
    if (ASTHRA__UNLIKELY(mark == NULL)) asthra__stack_no_mark();
    uint64_t depth = mark->depth;
    uint32_t stamp = depth & ASTHRA__STAMP_MASK;
    uint32_t around = depth >> ASTHRA__STAMP_BITS & ASTHRA__STAMP_MASK;
    if (ASTHRA__UNLIKELY(stamp == 0 || asthra__stack_scope(r) != stamp))
        asthra__stack_wrong_release(stamp, asthra__stack_scope(r));
    mark->open = false;
    mark->depth = 0;
    if (!asthra__stack_is_region(r)) {
        t->stack = asthra__stack_stamp_tag(around);
        return;
    }
    bool joins = (depth & ASTHRA__MARK_JOINS) != 0;
    if (ASTHRA__LIKELY(asthra__stack_is_in_chunk(r, mark->top) && !asthra__zone_is_watched() &&
                       r->level != ASTHRA_SAFETY_FULL))
        asthra__stack_cut(r, mark->top, joins);
    else
        asthra__stack_cut_slow(r, mark->top, joins);
    r->scope = around;
}

/* ---- a single block ---- */

/* Says what else ptr, which lies in a chunk, is. */
static void asthra__stack_say_what(Asthra__Text *t, const char *ptr,
                                   const Asthra__StackRegion *of) {
    const Asthra__StackRegion *mine = asthra__thread()->stack;
    uint64_t task = asthra__load(&of->task, relaxed);
    Asthra__StackWalk w = asthra__stack_walk(of, NULL);
    asthra__text_format(t, "%p ", (const void *)ptr);
    if (mine != of) {
        asthra__text_add(t, "is in the region of ");
        if (task != 0) asthra__stack_say_owner(t, task);
        if (task == 0) asthra__text_add(t, "another thread, or of a task that has ended");
        return;
    }
    if (!asthra__stack_next(&w)) {
        asthra__text_add(t, "was freed or released before: the region has no block");
        return;
    }
    if (w.block == ptr) {
        asthra__text_add(t, "is the newest block, but a scope was opened after it: release first");
        return;
    }
    asthra__text_format(t, "is not the newest block, which is %p of %zu bytes", (void *)w.block,
                        w.size);
    for (Asthra__StackWalk all = asthra__stack_walk(mine, NULL); asthra__stack_next(&all);)
        if (all.block <= ptr && ptr < all.block + asthra__stack_need(all.size)) return;
    asthra__text_add(t, ", and was freed or released before");
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__stack_invalid(const char *ptr, const char *verb) {
    char what[256];
    Asthra__Found f;
    Asthra__Text t = asthra__text_on(what, sizeof what);
    AsthraAddressKind kind = asthra__heap_find(ptr, &f);
    if (kind != ASTHRA_ADDRESS_LIVE || f.zone != ASTHRA_MEMORY_ZONE_STACK)
        asthra__heap_invalid(ptr, ASTHRA_MEMORY_ZONE_STACK, verb);
    asthra__stack_say_what(&t, ptr, *(Asthra__StackRegion *const *)(const void *)f.start);
    asthra_panic_at(NULL, "Invalid pointer in %s: %s", verb, what);
}

ASTHRA__FN bool asthra__stack_describe(const void *chunk, const void *ptr,
                                       AsthraAllocationInfo *out) {
    const Asthra__StackRegion *mine = asthra__thread()->stack;
    const Asthra__StackRegion *of = *(Asthra__StackRegion *const *)chunk;
    if (out->kind != ASTHRA_ADDRESS_LIVE) return true;
    if (mine != of) return true;
    out->kind = ASTHRA_ADDRESS_SLACK;
    out->start = NULL;
    out->size = 0;
    for (Asthra__StackWalk w = asthra__stack_walk(mine, NULL); asthra__stack_next(&w);) {
        if ((size_t)((const char *)ptr - w.block) >= (w.size == 0 ? 1 : w.size)) continue;
        out->kind = ASTHRA_ADDRESS_LIVE;
        out->start = w.block;
        out->size = w.size;
        out->allocated_by = asthra__stack_task();
        return true;
    }
    return false;
}

ASTHRA__FN ASTHRA__NOINLINE void asthra__stack_free(void *ptr, const char *verb) {
    Asthra__StackRegion *r = asthra__thread_raw()->stack;
    if (ptr == NULL) return;
    if (!asthra__stack_is_region(r)) asthra__stack_invalid(ptr, verb);
    char *top = r->top;
    asthra__stack_expect_whole(r);
    char *block = top - asthra__stack_need(asthra__foot_size(top));
    bool is_empty = top == asthra__stack_chunk_base(&r->first);
    if (is_empty || ptr != block || asthra__foot_has_scope(top)) asthra__stack_invalid(ptr, verb);
    asthra__stack_cut_slow(r, block, true);
    if (block == asthra__stack_chunk_base(r->chunk) && r->chunk != &r->first)
        asthra__stack_chunk_pop(r);
}

#endif
