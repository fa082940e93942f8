/* heap - blocks of the manual, the pinned and the stack zone.              [heap] internal
 *
 * One allocator serves the zones that give out blocks: each thread has a heap for each zone that it
 * uses, and a block comes from, and is told apart by, the zone of its page. Zones are the faces
 * that users see. heap.c holds the essay.
 *
 * `site` is the return address of the public function: who allocated, who freed.
 */
#ifndef ASTHRA__HEAP_INTERNAL_H
#define ASTHRA__HEAP_INTERNAL_H

#include "../core/panic_internal.h"
#include "../core/thread_internal.h"
#include "region_internal.h"
#include "zone_internal.h"

#if ASTHRA_HAS_MEMORY

/* ---- what zones call. NULL: the reason is in asthra_last_error. `verb` is for panics. ---- */

ASTHRA__FN ASTHRA__NOINLINE void *asthra__heap_alloc(size_t size, AsthraMemoryZone zone);
ASTHRA__FN void *asthra__heap_alloc_zeroed(size_t count, size_t size, AsthraMemoryZone zone);
ASTHRA__FN void *asthra__heap_alloc_aligned(size_t size, size_t alignment, AsthraMemoryZone zone);
/* NULL allocates; size 0 is a block of no bytes. The old block stays as it was on failure. */
ASTHRA__FN void *asthra__heap_realloc(void *ptr, size_t size, AsthraMemoryZone zone,
                                      const void *site, const char *verb);
/* Panics unless ptr is NULL or the start of a live block of the zone. */
ASTHRA__FN ASTHRA__NOINLINE void asthra__heap_free(void *ptr, AsthraMemoryZone zone,
                                                   const void *site, const char *verb);
/* The same two, part of their callers, under the rule of asthra__thread_raw. */
ASTHRA__FN void *asthra__heap_alloc_here(size_t size, AsthraMemoryZone zone);
ASTHRA__FN void asthra__heap_free_here(void *ptr, AsthraMemoryZone zone, const void *site,
                                       const char *verb);
ASTHRA__FN size_t asthra__heap_usable_size(const void *ptr, AsthraMemoryZone zone,
                                           const char *verb);

/* O(1), for any address; NONE: outside the heap. */
ASTHRA__FN AsthraMemoryZone asthra__heap_zone_of(const void *ptr);
/* Which of UNMAPPED, STACK, STATIC and FOREIGN an address outside the heap is; for messages. */
ASTHRA__FN AsthraAddressKind asthra__heap_outside(const void *ptr);
/* A hook: whether an address is on a stack that the system does not know as one. */
ASTHRA__FN void asthra__heap_set_stack_test(bool (*is_stack)(const void *ptr));

/* Live blocks of a zone, each once if the zone is at rest; false stops. */
ASTHRA__FN void asthra__heap_walk(AsthraMemoryZone zone,
                                  bool (*visit)(void *block, size_t size, void *user), void *user);
ASTHRA__FN void asthra__heap_sum(AsthraMemoryZone zone, Asthra__AccountSum *sum);
ASTHRA__FN size_t asthra__heap_mapped(AsthraMemoryZone zone, size_t *resident); /* bytes */
ASTHRA__FN size_t asthra__heap_trim(void); /* bytes given back to the system */

/* Of blocks from now on; other threads follow at their next slow call. */
ASTHRA__FN void asthra__heap_set_level(AsthraSafetyLevel level);
ASTHRA__FN void asthra__heap_settle_level(void); /* the calling thread's heaps follow now */

/* While a page holds a pinned block its frees ask `is_pinned` of the pinned zone first. `more`: 1
 * or -1. An address outside the heap is ignored. */
ASTHRA__FN void asthra__heap_count_pin(const void *ptr, int more);
ASTHRA__FN void asthra__heap_set_pin_test(bool (*is_pinned)(const void *start, size_t size));

/* ---- what the files of the heap share ---- */

enum {
    ASTHRA__SLICE_SHIFT = 16,
    ASTHRA__SLICE_BYTES = 1 << ASTHRA__SLICE_SHIFT,
    ASTHRA__SEGMENT_SLICES = ASTHRA__REGION_BYTES / ASTHRA__SLICE_BYTES,
    ASTHRA__MEDIUM_SLICES = 8, /* of a page for blocks of over 8 KiB */
    ASTHRA__SMALL_MAX = 8192,
    ASTHRA__MEDIUM_MAX = 65536,  /* larger blocks have pages of their own */
    ASTHRA__LARGE_MAX = 1 << 21, /* larger ones have mappings of their own */
    ASTHRA__HEAP_BINS = 80
};

/* States stand in the segment's head, an area for each granule that classes have: the state of what
 * begins at `ptr` is found by this alone, because area number `shift` takes the bytes from
 * REGION_BYTES >> shift to twice that, and no two areas meet. */
static inline ASTHRA__ATOMIC(uint8_t) * asthra__state_of(const void *ptr, unsigned shift) {
    uintptr_t inside = (uintptr_t)ptr & (ASTHRA__REGION_BYTES - 1);
    uintptr_t segment = (uintptr_t)ptr - inside;
    return (ASTHRA__ATOMIC(uint8_t) *)(segment + ((inside | ASTHRA__REGION_BYTES) >> shift));
}

/* What a block's state says. FREED_FAR: by another thread, and the owner has not taken it back yet.
 * From LIVE on: live, and the distance is the slack, the bytes of the block that were not asked
 * for. LIVE_WIDE: the slack stands in the block's last eight bytes. */
enum {
    ASTHRA__BLOCK_NEVER,
    ASTHRA__BLOCK_FREED,
    ASTHRA__BLOCK_FREED_FAR,
    ASTHRA__BLOCK_LIVE_WIDE,
    ASTHRA__BLOCK_LIVE,
    ASTHRA__BLOCK_SLACK_MAX = 255 - ASTHRA__BLOCK_LIVE
};

typedef struct Asthra__Heap Asthra__Heap;
typedef struct Asthra__HeapPage Asthra__HeapPage;

typedef struct Asthra__HeapBlock Asthra__HeapBlock;
struct Asthra__HeapBlock { /* a free one */
    uintptr_t link;        /* to the next */
    uintptr_t freed_by;    /* heap number and site; at level 1 and up */
};

/* A page record: the first line is what an allocation and a free look at. */
struct Asthra__HeapPage {
    ASTHRA__ATOMIC(Asthra__Heap *) quick; /* the heap whose thread may free without asking */
    Asthra__HeapBlock *free;
    char *start;                /* of the first block */
    uint32_t block_size, bytes; /* bytes: of all blocks */
    uint32_t used;              /* blocks that are not in `free`, as the owner knows */
    uint16_t made, room;        /* blocks that were ever in `free`; that fit */
    uint8_t slices;             /* 0: the slice is in no page */
    uint8_t level;
    uint8_t shift;  /* blocks begin at multiples of 1 << shift: what a state stands for */
    bool is_listed; /* in its heap's bin */

    ASTHRA__ALIGNED(64) Asthra__Heap *heap; /* the owner; NULL: a single block, nobody's */
    Asthra__HeapPage *next, *prev;          /* in the bin: a ring */
    ASTHRA__ATOMIC(uint32_t) pins;
    int8_t zone;
    uint8_t bin;
    bool is_zero; /* its memory was zero when the page was made */
};

typedef struct Asthra__HeapCache { /* free blocks of one class, at hand */
    Asthra__HeapBlock *free;
    uint32_t size;
    int16_t left;  /* frees, less allocations, until it is full */
    uint8_t shift; /* of its pages */
} Asthra__HeapCache;

struct Asthra__Heap {
    Asthra__HeapCache caches[ASTHRA__HEAP_BINS];
    Asthra__HeapPage *bins[ASTHRA__HEAP_BINS]; /* rings of pages with room; NULL: none */
    Asthra__Account account;
    struct Asthra__Quarantine *quarantine; /* NULL: none yet */
    AsthraMemoryZone zone;
    uint8_t level;
    uint16_t number;
    uintptr_t tag;                   /* the number above 48 bits */
    ASTHRA__ATOMIC(uint64_t) thread; /* that it serves now, or served last */
    Asthra__Heap *next;              /* of all heaps; never taken out */
    Asthra__Heap *next_idle;         /* of those whose thread has ended */
    ASTHRA__ALIGNED(ASTHRA__CACHE_PAIR) ASTHRA__ATOMIC(Asthra__HeapBlock *) remote;
};

/* In the place of an owner: no heap is here. */
static inline Asthra__Heap *asthra__not_quick(void) {
    return (Asthra__Heap *)(uintptr_t)1;
}

/* heap_segment.c: address space, cut into slices. */
typedef struct Asthra__Span { /* slices of one segment */
    Asthra__HeapPage *page;   /* the record of the first; NULL: no memory */
    char *start;
    bool is_zero;
} Asthra__Span;
ASTHRA__FN Asthra__Span asthra__segment_take(unsigned slices);
ASTHRA__FN void asthra__segment_give(Asthra__HeapPage *page); /* what the record says stays */
/* The page that has an address of the segment now, or had it last. */
ASTHRA__FN Asthra__HeapPage *asthra__segment_page(uintptr_t segment, const void *ptr);
ASTHRA__FN void asthra__segment_each(bool (*visit)(Asthra__HeapPage *page, void *user), void *user);
ASTHRA__FN size_t asthra__segment_trim(void);
/* Which node of memory the calling thread is on; NULL, as at first: fresh memory comes from
 * anywhere. */
typedef unsigned (*Asthra__NodeNow)(void);
ASTHRA__FN void asthra__segment_set_nodes(Asthra__NodeNow node_now);
/* From asthra__alloc, with room to begin at a multiple of `alignment`; *raw is what is to be freed.
 * NULL: no memory. */
ASTHRA__FN void *asthra__segment_borrow(size_t bytes, size_t alignment, void **raw);
ASTHRA__FN bool asthra__segment_is_lent(void);           /* some segment is an allocator's */
ASTHRA__FN void *asthra__segment_metadata(size_t bytes); /* zeroed, for ever; NULL: no memory */
ASTHRA__FN void asthra__segment_fork_before(void);
ASTHRA__FN void asthra__segment_fork_after(void);

/* heap_huge.c: blocks with mappings of their own. */
typedef struct Asthra__Huge Asthra__Huge;
struct Asthra__Huge { /* never unmapped */
    char *start;
    size_t mapped, size; /* bytes of the mapping, asked for */
    void *raw;           /* what an allocator lent; NULL: the system's */
    ASTHRA__ATOMIC(uint32_t) is_live;
    ASTHRA__ATOMIC(uint32_t) pins;
    int8_t zone;
    uint8_t level;
    uintptr_t freed_by;
    Asthra__Huge *next, *next_free; /* of all; of those that are free */
};
ASTHRA__FN Asthra__Huge *asthra__huge_map(size_t size, size_t alignment);
ASTHRA__FN void asthra__huge_unmap(Asthra__Huge *huge);
ASTHRA__FN void asthra__huge_each(bool (*visit)(Asthra__Huge *huge, void *user), void *user);
ASTHRA__FN void asthra__huge_fork_before(void);
ASTHRA__FN void asthra__huge_fork_after(void);

/* heap_thread.c: whose a heap is. */
ASTHRA__FN Asthra__Heap *asthra__heap_enter(AsthraMemoryZone zone); /* the thread's, or a shared */
ASTHRA__FN void asthra__heap_leave(Asthra__Heap *h);
ASTHRA__FN Asthra__Heap *asthra__heap_next(Asthra__Heap *h, AsthraMemoryZone zone); /* NULL first */
ASTHRA__FN uint64_t asthra__heap_thread(unsigned number); /* that it serves, or served last */
/* Give the empty pages back of heaps whose thread has ended, and of those that have none. */
ASTHRA__FN void asthra__heap_visit_idle(void);
ASTHRA__FN void asthra__heap_visit_shared(void); /* caller owns no heap */
ASTHRA__FN bool asthra__heap_is_quick(const Asthra__Heap *h);
ASTHRA__FN AsthraSafetyLevel asthra__heap_level(void);

/* heap.c; caller owns h. */
ASTHRA__FN void asthra__heap_drain(Asthra__Heap *h); /* takes what other threads freed */
ASTHRA__FN void asthra__heap_shed(Asthra__Heap *h);  /* gives empty pages back */
ASTHRA__FN void asthra__heap_change_level(Asthra__Heap *h, AsthraSafetyLevel level);

typedef struct Asthra__Found { /* the block of an address: of a page, or huge, or neither */
    Asthra__HeapPage *page;
    Asthra__Huge *huge;
    char *start;
    size_t capacity, size;
    AsthraMemoryZone zone;
    AsthraSafetyLevel level;
} Asthra__Found;
ASTHRA__FN AsthraAddressKind asthra__heap_find(const void *ptr, Asthra__Found *f);
/* What freed_by holds: the heap's number above the site's 48 bits. */
static inline uintptr_t asthra__freed_by_site(uintptr_t by) {
#if UINTPTR_MAX > 0xffffffffu
    return by & (((uintptr_t)1 << 48) - 1);
#else
    return by;
#endif
}
ASTHRA__FN uintptr_t asthra__found_freed_by(const Asthra__Found *f); /* 0: not known */
ASTHRA__FN uintptr_t asthra__block_freed_by(const Asthra__HeapBlock *b);
static inline size_t asthra__found_charge(const Asthra__Found *f) {
    return f->level == ASTHRA_SAFETY_NONE ? f->capacity : f->size;
}

ASTHRA__FN void asthra__heap_go_home(Asthra__Heap *h, const Asthra__Found *f); /* freed, small */

/* heap_full.c; caller owns h. */
ASTHRA__FN bool asthra__quarantine_add(Asthra__Heap *h, const Asthra__Found *f); /* false: not */
ASTHRA__FN void asthra__quarantine_flush(Asthra__Heap *h);

/* heap_check.c: the panics. */
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_used_after_free(const Asthra__Found *f,
                                                                          size_t at);
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void
asthra__heap_invalid(const void *ptr, AsthraMemoryZone zone, const char *verb);
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_overflown(const Asthra__Found *f,
                                                                    const char *verb);
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_still_pinned(const Asthra__Found *f,
                                                                       const char *verb);
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_damaged(const void *block);
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_freed_at_once(const void *block);

/* ---- what a sanitizer is told ---- */

/* Looks at records while others may be changing them, and believes nothing that it could not read
 * in a segment: what it says of a block at rest is right. */
#if ASTHRA__TSAN
#define ASTHRA__HEAP_PEEK __attribute__((__noinline__, __no_sanitize__("thread")))
#else
#define ASTHRA__HEAP_PEEK
#endif

#if ASTHRA__ASAN
void __asan_poison_memory_region(void const volatile *addr, size_t size);
void __asan_unpoison_memory_region(void const volatile *addr, size_t size);
#define asthra__heap_hide(start, bytes) __asan_poison_memory_region((start), (bytes))
#define asthra__heap_show(start, bytes) __asan_unpoison_memory_region((start), (bytes))
#else
#define asthra__heap_hide(start, bytes) ((void)(start), (void)(bytes))
#define asthra__heap_show(start, bytes) ((void)(start), (void)(bytes))
#endif

#endif
#endif
