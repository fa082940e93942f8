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
 */
#include "heap_internal.h"

#if ASTHRA_HAS_MEMORY

enum { ASTHRA__SEGMENT_HEAD_SLICES = 1, ASTHRA__METADATA_STEP = 65536 };
#define ASTHRA__SEGMENT_TICK_NS INT64_C(100000000)

typedef struct Asthra__Segment Asthra__Segment;
struct Asthra__Segment {
    ASTHRA__ALIGNED(64) Asthra__HeapPage *page_of[ASTHRA__SEGMENT_SLICES]; /* by slice */
    Asthra__Segment *next_of_all, *next, *prev; /* next, prev: the ring of available ones */
    uint64_t free, touched, fading;
    ASTHRA__ALIGNED(64) Asthra__HeapPage pages[ASTHRA__SEGMENT_SLICES];
};
_Static_assert(sizeof(Asthra__Segment) <= ASTHRA__SLICE_BYTES * ASTHRA__SEGMENT_HEAD_SLICES,
               "the records fit into the head");
_Static_assert(ASTHRA__SEGMENT_SLICES == 64, "a word has a bit for each slice");

static struct {
    Asthra__Lock lock;
    ASTHRA__ATOMIC(Asthra__Segment *) all; /* only ever grows, at its head */
    Asthra__Segment *available;
    int64_t next_tick;
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

/* ---- the ring of available segments ---- */

static void asthra__segment_enlist(Asthra__Segment *s) {
    Asthra__Segment *head = asthra__segments.available;
    if (head == NULL) {
        s->next = s->prev = s;
        asthra__segments.available = s;
        return;
    }
    s->next = head; /* at the end: fuller ones are asked first */
    s->prev = head->prev;
    s->prev->next = head->prev = s;
}

static void asthra__segment_unlist(Asthra__Segment *s) {
    if (asthra__segments.available == s) asthra__segments.available = s->next == s ? NULL : s->next;
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
    Asthra__Segment *first = asthra__segments.available, *s = first;
    if (s == NULL) return;
    do {
        if (s->fading != 0) asthra__slices_discard(s, s->fading);
        s->fading = s->touched;
        s = s->next;
    } while (s != first);
}

ASTHRA__FN size_t asthra__segment_trim(void) {
    size_t bytes = 0;
    asthra__lock(&asthra__segments.lock);
    Asthra__Segment *first = asthra__segments.available, *s = first;
    if (s != NULL) {
        do {
            bytes += asthra__slices_discard(s, s->touched);
            s->fading &= s->touched;
            s = s->next;
        } while (s != first);
    }
    asthra__unlock(&asthra__segments.lock);
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

/* A segment that is mapped and claimed, and that nobody knows yet. */
static Asthra__Segment *asthra__segment_map(void) {
    Asthra__Segment *s = asthra__os_map_aligned(ASTHRA__REGION_BYTES, ASTHRA__REGION_BYTES);
    if (s == NULL) return NULL;
    s->free = ~asthra__slice_mask(0, ASTHRA__SEGMENT_HEAD_SLICES);
    for (unsigned i = 0; i < ASTHRA__SEGMENT_SLICES; i++) s->page_of[i] = &s->pages[i];
    if (asthra__region_claim(s, ASTHRA__REGION_BYTES, s, ASTHRA__REGION_SEGMENT)) return s;
    asthra__os_unmap(s, ASTHRA__REGION_BYTES);
    return NULL;
}

/* Caller holds the lock. */
static Asthra__Span asthra__segment_search(unsigned slices) {
    Asthra__Segment *first = asthra__segments.available, *s = first;
    if (s != NULL) {
        do {
            int at = asthra__segment_find(s, slices);
            if (at >= 0) return asthra__segment_cut(s, (unsigned)at, slices);
            s = s->next;
        } while (s != first);
    }
    return (Asthra__Span){NULL, NULL, false};
}

static Asthra__Span asthra__segment_add(Asthra__Segment *s, unsigned slices) {
    asthra__lock(&asthra__segments.lock);
    s->next_of_all = asthra__load(&asthra__segments.all, relaxed);
    asthra__store(&asthra__segments.all, s, release);
    asthra__segment_enlist(s);
    Asthra__Span span = asthra__segment_cut(s, ASTHRA__SEGMENT_HEAD_SLICES, slices);
    asthra__unlock(&asthra__segments.lock);
    return span;
}

ASTHRA__FN Asthra__Span asthra__segment_take(unsigned slices) {
    for (int tries = 0;; tries++) {
        asthra__lock(&asthra__segments.lock);
        asthra__segment_tick();
        Asthra__Span span = asthra__segment_search(slices);
        asthra__unlock(&asthra__segments.lock);
        if (span.page != NULL) return span;
        if (tries > 0) break;
        asthra__heap_visit_idle(); /* heaps of threads that have ended may have empty pages */
    }
    Asthra__Segment *s = asthra__segment_map();
    return s == NULL ? (Asthra__Span){NULL, NULL, false} : asthra__segment_add(s, slices);
}

ASTHRA__FN void asthra__segment_give(Asthra__HeapPage *page) {
    Asthra__Segment *s =
        (Asthra__Segment *)((uintptr_t)page & ~((uintptr_t)ASTHRA__REGION_BYTES - 1));
    asthra__lock(&asthra__segments.lock);
    unsigned first = (unsigned)(page - s->pages), slices = page->slices;
    uint64_t mask = asthra__slice_mask(first, slices);
    page->slices = 0;
    if (s->free == 0) asthra__segment_enlist(s);
    s->free |= mask;
    s->touched |= mask;
    asthra__segment_tick();
    asthra__unlock(&asthra__segments.lock);
}

ASTHRA__FN ASTHRA__FAST Asthra__HeapPage *asthra__segment_page(uintptr_t segment, const void *ptr) {
    Asthra__Segment *s = (Asthra__Segment *)segment;
    return s->page_of[((uintptr_t)ptr - segment) >> ASTHRA__SLICE_SHIFT];
}

ASTHRA__FN ASTHRA__HEAP_PEEK void
asthra__segment_each(bool (*visit)(Asthra__HeapPage *page, void *user), void *user) {
    Asthra__Segment *s = asthra__load(&asthra__segments.all, acquire);
    for (; s != NULL; s = s->next_of_all)
        for (unsigned i = ASTHRA__SEGMENT_HEAD_SLICES; i < ASTHRA__SEGMENT_SLICES; i++)
            if (s->pages[i].slices != 0 && !visit(&s->pages[i], user)) return;
}

ASTHRA__FN void asthra__segment_fork_before(void) {
    asthra__lock(&asthra__segments.lock);
}
ASTHRA__FN void asthra__segment_fork_after(void) {
    asthra__unlock(&asthra__segments.lock);
}

#endif
