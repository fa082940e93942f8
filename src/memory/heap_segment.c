/* heap - address space, cut into slices.                                   [heap] body: segment
 *
 * For the pages of all heaps; a slice is 64 KiB.
 *
 * A segment is one unit of the region table. Its head, a slice of which only what is used is
 * touched, holds the records of all pages, so that they are found from any address inside by
 * masking, and is never unmapped: who asks about a stray address always finds something readable.
 * Taking and giving slices is rare (once in 64 KiB of blocks), so one lock guards it.
 *
 * Invariants, under the lock: bit n of `free` says that slice n is in no page; bit n of `touched`
 * that it is free and may hold bytes. `fading` is the part of `touched` that was touched at the
 * last tick already. A slice that stays free for one to two ticks goes back to the system, by
 * whoever gives or takes next: there is no thread for it. A segment is in the ring of `available`
 * ones if and only if it has a free slice.
 *
 * Slices are taken where they lie lowest in the first segment that has enough of them in a row:
 * touched or not, because a segment that fills up leaves others empty.
 *
 * Nodes of memory. A segment belongs to the node of the thread it was made for, which the system is
 * asked to take its pages from; there is a ring for each node, and nodes that are a multiple of
 * eight apart share one. Where nodes do not matter all rings are searched.
 *
 * Memory that a caller's allocator lent is aligned inside a larger block, `raw`. It is never
 * unmapped, nor known to be zero: all of what is free counts as touched, for ever. It goes back
 * when no slice of it is in a page and the allocator is not in use any more. Then the head goes
 * too, so the list of all segments may lose some while nobody walks it (`walkers` is 0), and the
 * table's entry is dropped before.
 */
#include "heap_internal.h"

#if ASTHRA_HAS_MEMORY

#include <string.h>

enum { ASTHRA__SEGMENT_HEAD_SLICES = 1, ASTHRA__SEGMENT_NODES = 8, ASTHRA__METADATA_STEP = 65536 };
#define ASTHRA__NODE_ANY (~0u)
#define ASTHRA__SEGMENT_TICK_NS INT64_C(100000000)

typedef struct Asthra__Segment Asthra__Segment;
struct Asthra__Segment {
    ASTHRA__ALIGNED(64) Asthra__HeapPage *page_of[ASTHRA__SEGMENT_SLICES]; /* by slice */
    Asthra__Segment *next_of_all, *next, *prev; /* next, prev: the ring of available ones */
    uint64_t free, touched, fading;
    void *raw; /* NULL: not lent */
    unsigned node;
    ASTHRA__ALIGNED(64) Asthra__HeapPage pages[ASTHRA__SEGMENT_SLICES];
};
_Static_assert(sizeof(Asthra__Segment) <= ASTHRA__SLICE_BYTES * ASTHRA__SEGMENT_HEAD_SLICES,
               "the records fit into the head");
_Static_assert(ASTHRA__SEGMENT_SLICES == 64, "a word has a bit for each slice");

static struct {
    Asthra__Lock lock;
    ASTHRA__ATOMIC(Asthra__Segment *) all; /* grows at its head */
    unsigned walkers, lent;                /* walks of all; segments with a raw block */
    Asthra__Segment *available[ASTHRA__SEGMENT_NODES];
    ASTHRA__ATOMIC(Asthra__NodeNow) node_now; /* NULL: nodes do not matter */
    int64_t next_tick;
    size_t given;   /* bytes that went back with the last block of a page; for trim */
    char *metadata; /* what is left of the last piece */
    size_t metadata_left;
} asthra__segments;

/* ---- metadata ---- */

static void *asthra__metadata_take(size_t bytes) {
    bytes = (bytes + 127) & ~(size_t)127;
    if (bytes > asthra__segments.metadata_left) {
        char *piece = asthra__os_map_aligned(ASTHRA__METADATA_STEP, asthra__os_page_size());
        if (piece == NULL) return NULL;
        asthra__segments.metadata = piece;
        asthra__segments.metadata_left = ASTHRA__METADATA_STEP;
    }
    void *taken = asthra__segments.metadata;
    asthra__segments.metadata += bytes;
    asthra__segments.metadata_left -= bytes;
    return taken;
}

ASTHRA__FN void *asthra__segment_metadata(size_t bytes) {
    ASTHRA__ASSERT(bytes <= ASTHRA__METADATA_STEP / 4);
    asthra__lock(&asthra__segments.lock);
    void *taken = asthra__metadata_take(bytes);
    asthra__unlock(&asthra__segments.lock);
    return taken;
}

/* ---- the rings of available segments ---- */

static Asthra__Segment **asthra__segment_ring(unsigned node) {
    return &asthra__segments.available[node % ASTHRA__SEGMENT_NODES];
}

static void asthra__segment_enlist(Asthra__Segment *s) {
    Asthra__Segment **ring = asthra__segment_ring(s->node), *head = *ring;
    if (head == NULL) {
        s->next = s->prev = s;
        *ring = s;
        return;
    }
    s->next = head; /* at the end: fuller ones are asked first */
    s->prev = head->prev;
    s->prev->next = head->prev = s;
}

static void asthra__segment_unlist(Asthra__Segment *s) {
    Asthra__Segment **ring = asthra__segment_ring(s->node);
    if (*ring == s) *ring = s->next == s ? NULL : s->next;
    s->next->prev = s->prev;
    s->prev->next = s->next;
}

static uint64_t asthra__slice_mask(unsigned first, unsigned count) {
    return (count == 64 ? ~UINT64_C(0) : (UINT64_C(1) << count) - 1) << first;
}

/* The lowest of `count` free slices in a row; -1: there are none. */
static int asthra__segment_find(const Asthra__Segment *s, unsigned count) {
    uint64_t runs = s->free; /* bit n: a run of `have` begins at n */
    for (unsigned have = 1; have < count && runs != 0;) {
        unsigned step = have < count - have ? have : count - have;
        runs &= runs >> step;
        have += step;
    }
    return runs == 0 ? -1 : __builtin_ctzll(runs);
}

/* ---- decay ---- */

/* What the system does not take stays touched. */
static size_t asthra__slices_discard(Asthra__Segment *s, uint64_t which) {
    size_t bytes = 0;
    if (s->raw != NULL) return 0;
    while (which != 0) {
        unsigned first = (unsigned)__builtin_ctzll(which), count = 1;
        while (first + count < 64 && (which >> (first + count) & 1)) count++;
        char *start = (char *)s + (size_t)first * ASTHRA__SLICE_BYTES;
        uint64_t mask = asthra__slice_mask(first, count);
        which &= ~mask;
        if (!asthra__os_discard(start, (size_t)count * ASTHRA__SLICE_BYTES)) continue;
        bytes += (size_t)count * ASTHRA__SLICE_BYTES;
        s->touched &= ~mask;
    }
    return bytes;
}

/* Caller holds the lock: a slice that is taken meanwhile would lose its bytes. */
static void asthra__segment_tick(void) {
    int64_t now = asthra__os_now_ns();
    if (ASTHRA__LIKELY(now < asthra__segments.next_tick)) return;
    asthra__segments.next_tick = now + ASTHRA__SEGMENT_TICK_NS;
    for (unsigned node = 0; node < ASTHRA__SEGMENT_NODES; node++) {
        Asthra__Segment *first = *asthra__segment_ring(node), *s = first;
        for (; s != NULL; s = s->next == first ? NULL : s->next) {
            if (s->fading != 0) asthra__slices_discard(s, s->fading);
            s->fading = s->touched;
        }
    }
}

/* Caller holds the lock. */
static size_t asthra__segment_discard_all(void) {
    size_t bytes = 0;
    for (unsigned node = 0; node < ASTHRA__SEGMENT_NODES; node++) {
        Asthra__Segment *first = *asthra__segment_ring(node), *s = first;
        for (; s != NULL; s = s->next == first ? NULL : s->next) {
            bytes += asthra__slices_discard(s, s->touched);
            s->fading &= s->touched;
        }
    }
    return bytes;
}

/* ---- slices ---- */

/* Caller holds the lock. */
static Asthra__Span asthra__segment_cut(Asthra__Segment *s, unsigned first, unsigned slices) {
    uint64_t mask = asthra__slice_mask(first, slices);
    Asthra__Span span = {&s->pages[first], (char *)s + (size_t)first * ASTHRA__SLICE_BYTES,
                         (s->touched & mask) == 0};
    s->free &= ~mask;
    s->touched &= ~mask;
    s->fading &= ~mask;
    if (s->free == 0) asthra__segment_unlist(s);
    for (unsigned i = 0; i < slices; i++) {
        s->page_of[first + i] = &s->pages[first];
        s->pages[first + i].slices = (uint8_t)(i == 0 ? slices : 0);
        asthra__store(&s->pages[first + i].quick, asthra__not_quick(), relaxed);
    }
    return span;
}

ASTHRA__FN void *asthra__segment_borrow(size_t bytes, size_t alignment, void **raw) {
    size_t room;
    *raw = NULL;
    if (!__builtin_add_overflow(bytes, alignment, &room) && room <= PTRDIFF_MAX)
        *raw = asthra__alloc(room);
    uintptr_t start = (uintptr_t)*raw;
    return *raw == NULL ? NULL : (char *)*raw + (-start & (alignment - 1));
}

#define ASTHRA__SEGMENT_UNUSED (~asthra__slice_mask(0, ASTHRA__SEGMENT_HEAD_SLICES))

static Asthra__Segment *asthra__segment_lend(void) {
    void *raw;
    Asthra__Segment *s = asthra__segment_borrow(ASTHRA__REGION_BYTES, ASTHRA__REGION_BYTES, &raw);
    if (s == NULL) return NULL;
    memset(s, 0, sizeof *s);
    s->raw = raw;
    s->touched = ASTHRA__SEGMENT_UNUSED;
    return s;
}

static Asthra__Segment *asthra__segment_map(unsigned node) {
    Asthra__Segment *s = asthra__os_map_aligned(ASTHRA__REGION_BYTES, ASTHRA__REGION_BYTES);
    if (s != NULL && node != ASTHRA__NODE_ANY)
        asthra__os_prefer_node(s, ASTHRA__REGION_BYTES, node);
    return s;
}

static void asthra__segment_unmap(Asthra__Segment *s) {
    void *raw = s->raw;
    asthra__heap_show(s, ASTHRA__REGION_BYTES);
    if (raw != NULL)
        asthra__free(raw);
    else
        asthra__os_unmap(s, ASTHRA__REGION_BYTES);
}

/* One that is claimed, and that nobody knows yet. */
static Asthra__Segment *asthra__segment_make(unsigned node) {
    Asthra__Segment *s =
        asthra__alloc_is_hooked() ? asthra__segment_lend() : asthra__segment_map(node);
    if (s == NULL) return NULL;
    s->node = node == ASTHRA__NODE_ANY ? 0 : node;
    s->free = ASTHRA__SEGMENT_UNUSED;
    for (unsigned i = 0; i < ASTHRA__SEGMENT_SLICES; i++) s->page_of[i] = &s->pages[i];
    if (asthra__region_claim(s, ASTHRA__REGION_BYTES, s, ASTHRA__REGION_SEGMENT)) return s;
    asthra__segment_unmap(s);
    return NULL;
}

/* Caller holds the lock. */
static Asthra__Span asthra__segment_search(unsigned slices, unsigned node) {
    Asthra__Segment *first = *asthra__segment_ring(node), *s = first;
    for (; s != NULL; s = s->next == first ? NULL : s->next) {
        int at = asthra__segment_find(s, slices);
        if (at >= 0) return asthra__segment_cut(s, (unsigned)at, slices);
    }
    return (Asthra__Span){NULL, NULL, false};
}

static Asthra__Span asthra__segment_look(unsigned slices, unsigned node) {
    Asthra__Span span = {NULL, NULL, false};
    unsigned first = node == ASTHRA__NODE_ANY ? 0 : node;
    unsigned end = node == ASTHRA__NODE_ANY ? ASTHRA__SEGMENT_NODES : node + 1;
    asthra__lock(&asthra__segments.lock);
    asthra__segment_tick();
    for (unsigned n = first; n < end && span.page == NULL; n++)
        span = asthra__segment_search(slices, n);
    asthra__unlock(&asthra__segments.lock);
    return span;
}

static Asthra__Span asthra__segment_add(Asthra__Segment *s, unsigned slices) {
    asthra__lock(&asthra__segments.lock);
    s->next_of_all = asthra__load(&asthra__segments.all, relaxed);
    asthra__store(&asthra__segments.all, s, release);
    asthra__segments.lent += s->raw != NULL;
    asthra__segment_enlist(s);
    Asthra__Span span = asthra__segment_cut(s, ASTHRA__SEGMENT_HEAD_SLICES, slices);
    asthra__unlock(&asthra__segments.lock);
    return span;
}

ASTHRA__FN void asthra__segment_set_nodes(Asthra__NodeNow node_now) {
    asthra__store(&asthra__segments.node_now, node_now, relaxed);
}

static unsigned asthra__segment_node(void) {
    Asthra__NodeNow node_now = asthra__load(&asthra__segments.node_now, relaxed);
    return ASTHRA__LIKELY(node_now == NULL) ? ASTHRA__NODE_ANY : node_now();
}

ASTHRA__FN Asthra__Span asthra__segment_take(unsigned slices) {
    unsigned node = asthra__segment_node();
    asthra__huge_decay();
    Asthra__Span span = asthra__segment_look(slices, node);
    if (span.page != NULL) return span;
    asthra__heap_visit_idle(); /* heaps of threads that have ended may have empty pages */
    span = asthra__segment_look(slices, node);
    if (span.page != NULL) return span;
    Asthra__Segment *s = asthra__segment_make(node);
    if (s == NULL && asthra__huge_trim() != 0) s = asthra__segment_make(node);
    if (s != NULL) return asthra__segment_add(s, slices);
    return node == ASTHRA__NODE_ANY ? span : asthra__segment_look(slices, ASTHRA__NODE_ANY);
}

ASTHRA__FN void asthra__segment_give(Asthra__HeapPage *page) {
    Asthra__Segment *s =
        (Asthra__Segment *)((uintptr_t)page & ~((uintptr_t)ASTHRA__REGION_BYTES - 1));
    unsigned first = (unsigned)(page - s->pages), slices = page->slices;
    uint64_t mask = asthra__slice_mask(first, slices);
    bool is_gone = asthra__load(&page->hollow, relaxed) != 0; /* then the rest goes too */
    page->slices = 0;
    asthra__compiler_fence(); /* who asks about its blocks meanwhile finds no page */
    if (is_gone) is_gone = asthra__os_discard(page->start, (size_t)slices * ASTHRA__SLICE_BYTES);
    asthra__lock(&asthra__segments.lock);
    if (s->free == 0) asthra__segment_enlist(s);
    s->free |= mask;
    if (!is_gone) s->touched |= mask;
    if (is_gone) asthra__segments.given += (size_t)slices * ASTHRA__SLICE_BYTES;
    asthra__segment_tick();
    asthra__unlock(&asthra__segments.lock);
}

ASTHRA__FN ASTHRA__FAST Asthra__HeapPage *asthra__segment_page(uintptr_t segment, const void *ptr) {
    Asthra__Segment *s = (Asthra__Segment *)segment;
    return s->page_of[((uintptr_t)ptr - segment) >> ASTHRA__SLICE_SHIFT];
}

static ASTHRA__HEAP_PEEK void
asthra__segment_walk(Asthra__Segment *s, bool (*visit)(Asthra__HeapPage *, void *), void *user) {
    for (; s != NULL; s = s->next_of_all)
        for (unsigned i = ASTHRA__SEGMENT_HEAD_SLICES; i < ASTHRA__SEGMENT_SLICES; i++)
            if (s->pages[i].slices != 0 && !visit(&s->pages[i], user)) return;
}

static Asthra__Segment *asthra__segment_walk_begin(void) {
    asthra__lock(&asthra__segments.lock);
    asthra__segments.walkers++;
    Asthra__Segment *first = asthra__load(&asthra__segments.all, relaxed);
    asthra__unlock(&asthra__segments.lock);
    return first;
}
static void asthra__segment_walk_end(void) {
    asthra__lock(&asthra__segments.lock);
    asthra__segments.walkers--;
    asthra__unlock(&asthra__segments.lock);
}

/* A visitor that never returns, as by a panic, leaves a walker behind: nothing goes back then. */
ASTHRA__FN void asthra__segment_each(bool (*visit)(Asthra__HeapPage *page, void *user),
                                     void *user) {
    asthra__segment_walk(asthra__segment_walk_begin(), visit, user);
    asthra__segment_walk_end();
}

ASTHRA__FN size_t asthra__segment_mapped(size_t *resident) {
    size_t mapped = 0;
    for (Asthra__Segment *s = asthra__segment_walk_begin(); s != NULL; s = s->next_of_all) {
        mapped += ASTHRA__REGION_BYTES;
        *resident += asthra__os_resident(s, ASTHRA__REGION_BYTES);
    }
    asthra__segment_walk_end();
    return mapped;
}

/* ---- what goes back ---- */

/* Takes the segments that can go back out of everything. Caller holds the lock. */
static Asthra__Segment *asthra__segment_unlink_lent(void) {
    Asthra__Segment *s = asthra__load(&asthra__segments.all, relaxed);
    Asthra__Segment *last = NULL, *found = NULL, *next;
    if (asthra__segments.walkers != 0) return NULL;
    for (; s != NULL; s = next) {
        next = s->next_of_all;
        if (s->raw == NULL || s->free != ASTHRA__SEGMENT_UNUSED) {
            last = s;
            continue;
        }
        if (last == NULL)
            asthra__store(&asthra__segments.all, next, relaxed);
        else
            last->next_of_all = next;
        asthra__segment_unlist(s);
        asthra__segments.lent--;
        s->next_of_all = found;
        found = s;
    }
    return found;
}

/* Lent segments without a page go back. Nobody may ask about addresses in them meanwhile. */
static size_t asthra__segment_return(void) {
    asthra__lock(&asthra__segments.lock);
    Asthra__Segment *s = asthra__segment_unlink_lent(), *next;
    asthra__unlock(&asthra__segments.lock);
    size_t bytes = 0;
    for (; s != NULL; s = next, bytes += ASTHRA__REGION_BYTES) {
        next = s->next_of_all;
        asthra__region_drop(s, ASTHRA__REGION_BYTES, s, ASTHRA__REGION_SEGMENT);
        asthra__segment_unmap(s);
    }
    return bytes;
}

ASTHRA__FN bool asthra__page_is_lent(const Asthra__HeapPage *page) {
    uintptr_t segment = (uintptr_t)page & ~((uintptr_t)ASTHRA__REGION_BYTES - 1);
    return ((const Asthra__Segment *)segment)->raw != NULL;
}

ASTHRA__FN bool asthra__segment_is_lent(void) {
    asthra__lock(&asthra__segments.lock);
    bool is_lent = asthra__segments.lent != 0;
    asthra__unlock(&asthra__segments.lock);
    return is_lent;
}

ASTHRA__FN size_t asthra__segment_given(void) {
    asthra__lock(&asthra__segments.lock);
    size_t bytes = asthra__segments.given;
    asthra__unlock(&asthra__segments.lock);
    return bytes;
}

ASTHRA__FN size_t asthra__segment_trim(void) {
    asthra__lock(&asthra__segments.lock);
    size_t bytes = asthra__segment_discard_all();
    asthra__unlock(&asthra__segments.lock);
    return asthra__alloc_is_hooked() ? bytes : bytes + asthra__segment_return();
}

ASTHRA__FN void asthra__segment_fork_before(void) {
    asthra__lock(&asthra__segments.lock);
}
ASTHRA__FN void asthra__segment_fork_after(void) {
    asthra__unlock(&asthra__segments.lock);
}

#endif
