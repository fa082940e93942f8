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
#include "../core/text_internal.h"
#include "../core/thread_internal.h"
#include "region_internal.h"
#include "zone_internal.h"

typedef struct Asthra__HeapRunner {       /* hooks: of what runs on the calling thread */
    uint64_t (*task)(void);               /* its id; 0: no task */
    char *(*stack_end)(const char *here); /* of the stack that has `here`; NULL: not known */
} Asthra__HeapRunner;

#if ASTHRA_HAS_MEMORY

/* ---- what zones call. NULL: the reason is in asthra_last_error. `verb` is for panics. ---- */

ASTHRA__FN ASTHRA__NOINLINE void *asthra__heap_alloc(size_t size, AsthraMemoryZone zone,
                                                     const void *site);
ASTHRA__FN void *asthra__heap_alloc_zeroed(size_t count, size_t size, AsthraMemoryZone zone,
                                           const void *site);
ASTHRA__FN void *asthra__heap_alloc_aligned(size_t size, size_t alignment, AsthraMemoryZone zone,
                                            const void *site);
/* NULL allocates; size 0 is a block of no bytes. The old block stays as it was on failure. */
ASTHRA__FN void *asthra__heap_realloc(void *ptr, size_t size, AsthraMemoryZone zone,
                                      const void *site, const char *verb);
/* Panics unless ptr is NULL or the start of a live block of the zone. */
ASTHRA__FN ASTHRA__NOINLINE void asthra__heap_free(void *ptr, AsthraMemoryZone zone,
                                                   const void *site, const char *verb);
/* The same two, part of their callers, under the rule of asthra__thread_raw. */
ASTHRA__FN void *asthra__heap_alloc_here(size_t size, AsthraMemoryZone zone, const void *site);
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
/* Bytes; NONE: of all zones, with what is free. */
ASTHRA__FN size_t asthra__heap_mapped(AsthraMemoryZone zone, size_t *resident);
ASTHRA__FN size_t asthra__heap_trim(void); /* bytes given back to the system */

/* Of blocks from now on; other threads follow at their next slow call. */
ASTHRA__FN void asthra__heap_set_level(AsthraSafetyLevel level);
ASTHRA__FN void asthra__heap_settle_level(void); /* the calling thread's heaps follow now */

/* While a page holds a pinned block its frees ask `is_pinned` of the pinned zone first. `more`: 1
 * or -1. An address outside the heap is ignored. */
ASTHRA__FN void asthra__heap_count_pin(const void *ptr, int more);
ASTHRA__FN void asthra__heap_set_pin_test(bool (*is_pinned)(const void *start, size_t size));

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

/* Of words in blocks that are ours. */
#if ASTHRA__ASAN
#define ASTHRA__HEAP_OWN ASTHRA__ASAN_BLIND
#elif ASTHRA__TSAN
#define ASTHRA__HEAP_OWN ASTHRA__HEAP_PEEK
#else
#define ASTHRA__HEAP_OWN ASTHRA__FAST
#endif

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

typedef struct Asthra__Heap Asthra__Heap;
typedef struct Asthra__HeapPage Asthra__HeapPage;

typedef struct Asthra__HeapBlock Asthra__HeapBlock;
struct Asthra__HeapBlock { /* a free one */
    uintptr_t link;        /* to the next */
};

/* A page record: the first line is what an allocation and a free look at. */
struct Asthra__HeapPage {
    ASTHRA__ATOMIC(Asthra__Heap *) quick; /* the heap whose thread may free without asking */
    Asthra__HeapBlock *free;
    char *start;                /* of the first block */
    uint64_t inverse;           /* 2^64 / block_size, rounded up: what asthra__begins_block wants */
    uint32_t block_size, bytes; /* bytes: of all blocks */
    uint32_t used;              /* blocks neither in `free` nor gone, as the owner knows */
    uint16_t made, room;        /* blocks that were ever in `free`; that fit */
    uint8_t slices;             /* 0: the slice is in no page */
    uint8_t level, bin;
    bool is_listed; /* in its heap's bin */

    ASTHRA__ALIGNED(64) Asthra__Heap *heap; /* the owner; NULL: a single block, nobody's */
    Asthra__HeapPage *next, *prev;          /* in the bin: a ring */
    ASTHRA__ATOMIC_64(uint64_t) hollow;     /* a bit for each unit whose memory is gone */
    ASTHRA__ATOMIC(uint32_t) pins;
    uint16_t gone, swept; /* blocks in hollow units; `used` when it was looked for such units */
    int8_t zone;
    bool is_zero; /* its memory was zero when the page was made */
};

typedef struct Asthra__HeapCache { /* free blocks of one class, at hand */
    Asthra__HeapBlock *free;
    uint32_t size;
    int32_t left; /* frees, less allocations, until it is full */
} Asthra__HeapCache;

struct Asthra__Heap {
    Asthra__HeapCache caches[ASTHRA__HEAP_BINS];
    Asthra__HeapPage *bins[ASTHRA__HEAP_BINS]; /* rings of pages with room; NULL: none */
    Asthra__HeapPage *sweep;                   /* in sweep_bin: the next to be looked at, or NULL */
    Asthra__Account account;
    struct Asthra__Full *full; /* the full level's; NULL: none yet */
    AsthraMemoryZone zone;
    uint32_t quick_below; /* sizes that a quick path may serve */
    uint32_t extra;       /* bytes of a block that are ours */
    uint8_t level, sweep_bin;
    uint16_t number;
    uint64_t tag;                       /* of the trailer of what is freed here: all but the site */
    ASTHRA__ATOMIC_64(uint64_t) thread; /* that it serves now, or served last */
    Asthra__Heap *next;                 /* of all heaps; never taken out */
    Asthra__Heap *next_idle;            /* of those whose thread has ended */
    ASTHRA__ALIGNED(ASTHRA__CACHE_PAIR) ASTHRA__ATOMIC(Asthra__HeapBlock *) remote;
};

/* ---- trailers ----
 *
 * At the checked level and above, the last eight bytes of a block are not the user's: they say
 * whether the block is live. Their first byte in memory tells the kind; what writes past the end of
 * a block hardly ever leaves one of these four there.
 *
 * LIVE   bits 8..39: how many bytes were not asked for, with the trailer; 40..63: the mark
 * FREED  bits 8..15: the number of the heap that it was freed to, 0: above 255; 16..63: the site
 * FAR    the same, by a thread that does not own the block, and the owner has not seen it yet
 * NEVER  nothing else: it was not handed out yet */
enum {
    ASTHRA__TRAILER_BYTES = 8,
    ASTHRA__TRAILER_LIVE = 0xe7,
    ASTHRA__TRAILER_FREED = 0xdf,
    ASTHRA__TRAILER_FAR = 0xf5,
    ASTHRA__TRAILER_NEVER = 0xd1
};
#define ASTHRA__TRAILER_MARK (UINT64_C(0xa57a9c) << 40 | ASTHRA__TRAILER_LIVE)

static inline const void *asthra__trailer_site(uint64_t trailer) {
    return (const void *)(uintptr_t)(trailer >> 16);
}
static inline unsigned asthra__trailer_number(uint64_t trailer) {
    return (unsigned)(trailer >> 8) & 255;
}
static inline uint64_t asthra__trailer_tag(unsigned number) {
    return (uint64_t)(number < 256 ? number : 0) << 8 | ASTHRA__TRAILER_FREED;
}
/* More than any capacity: it is not of a live block. */
static inline uint64_t asthra__trailer_slack(uint64_t trailer) {
    uint64_t rest = trailer - ASTHRA__TRAILER_MARK;
    return rest >> 8 | rest << 56;
}

/* heap_block.c: links, trailers and marks, and what a block's page says of it. */
ASTHRA__FN uintptr_t asthra__block_link(const Asthra__HeapBlock *b);
ASTHRA__FN void asthra__block_set_next(Asthra__HeapBlock *b, Asthra__HeapBlock *next);
/* The next free block; panics if a user has written over the link. */
ASTHRA__FN Asthra__HeapBlock *asthra__block_next(const Asthra__HeapBlock *b);
ASTHRA__FN void
asthra__block_make(const Asthra__HeapPage *p, char *block, Asthra__HeapBlock *next,
                   uint64_t trailer); /* a free one; the level may have no trailer */
ASTHRA__FN uint64_t asthra__trailer_get(const char *block, size_t capacity);
ASTHRA__FN void asthra__trailer_set(char *block, size_t capacity, uint64_t trailer);
ASTHRA__FN bool asthra__trailer_replace(char *block, size_t capacity, uint64_t before,
                                        uint64_t after);
/* The first byte that was not asked for; if nothing is left but the trailer, the trailer's kind. */
ASTHRA__FN void asthra__tail_mark(char *place);
ASTHRA__FN bool asthra__tail_is_whole(const char *place);
ASTHRA__FN void asthra__block_mark_live(char *block, size_t capacity, size_t size);
/* How many bytes the user did not ask for of the live block that begins here; more than the
 * capacity: there is none, or something wrote past its end. */
ASTHRA__FN uint64_t asthra__block_slack(const Asthra__HeapPage *p, const char *block);
ASTHRA__FN uint64_t asthra__freed_by(const Asthra__Heap *h, const void *site); /* a trailer */
ASTHRA__FN Asthra__HeapPage *asthra__page_of(const void *block);
/* Of any address: whether a block of the page begins there. */
ASTHRA__FN bool asthra__begins_block(const Asthra__HeapPage *p, const void *ptr);
/* Whether the address is in a page whose blocks the heap may free without asking. *p is NULL if it
 * is in no page. */
ASTHRA__FN bool asthra__page_is_quick(const Asthra__Heap *h, const void *ptr, Asthra__HeapPage **p);

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
ASTHRA__FN size_t asthra__segment_mapped(size_t *resident); /* of all; *resident grows */
ASTHRA__FN size_t asthra__segment_trim(void);
ASTHRA__FN size_t
asthra__segment_given(void); /* bytes, ever, of pages that went when they emptied */
/* Which node of memory the calling thread is on; NULL, as at first: fresh memory comes from
 * anywhere. */
typedef unsigned (*Asthra__NodeNow)(void);
ASTHRA__FN void asthra__segment_set_nodes(Asthra__NodeNow node_now);
/* From asthra__alloc, with room to begin at a multiple of `alignment`; *raw is what is to be freed.
 * NULL: no memory. */
ASTHRA__FN void *asthra__segment_borrow(size_t bytes, size_t alignment, void **raw);
ASTHRA__FN bool asthra__segment_is_lent(void); /* some segment is an allocator's */
ASTHRA__FN bool asthra__page_is_lent(const Asthra__HeapPage *page);
ASTHRA__FN void *asthra__segment_metadata(size_t bytes); /* zeroed, for ever; NULL: no memory */
ASTHRA__FN void asthra__segment_fork_before(void);
ASTHRA__FN void asthra__segment_fork_after(void);

/* heap_trace.c: who did something to a block, and from where; for the full level. */
typedef struct Asthra__Deed {
    uint64_t task;  /* 0: outside tasks */
    uint32_t calls; /* a number for the calls on the stack; 0: not known */
} Asthra__Deed;
/* The caller's; site: the return address of the public function, where the calls begin. Not under
 * a lock: the unwinder takes some of its own. */
ASTHRA__FN ASTHRA__NOINLINE Asthra__Deed asthra__deed_here(const void *site);
/* "f+0x12 (program), from g+0x34 (program), from ...", for ever; NULL: not known, or no memory. */
ASTHRA__FN const char *asthra__calls_text(uint32_t calls);
/* The same words, as many whole calls as fit into `most` bytes. false: not known. */
ASTHRA__FN bool asthra__calls_say(Asthra__Text *t, uint32_t calls, size_t most);
ASTHRA__FN void asthra__heap_set_runner(const Asthra__HeapRunner *runner); /* static; NULL: none */

typedef struct Asthra__Note { /* of a live or freed block; where: heap_full.c */
    uint64_t word;            /* the stamp, below it 16 bits of calls, and a byte that is known */
    uint64_t task;            /* that allocated it */
} Asthra__Note;

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
    bool is_guarded; /* heap_guard.c's: the mapping goes on, closed */
    bool is_zero;    /* when it was taken */
    bool is_moved;   /* to another's mapping: its own is gone */
    bool is_kept;    /* its mapping waits for another use */
    int64_t kept_since;
    uint64_t freed_by;              /* as a trailer tells it */
    Asthra__Huge *next, *next_free; /* of all; of those that are free */
    Asthra__Note note;              /* at the full level, both */
    uint64_t freeing_task;
};
ASTHRA__FN Asthra__Huge *asthra__huge_take(size_t size, size_t alignment); /* NULL: no memory */
ASTHRA__FN void asthra__huge_give(Asthra__Huge *huge);
/* What the user's bytes of the block end with. */
ASTHRA__FN void asthra__huge_mark(Asthra__Huge *huge);
/* The pages of one block become those of another, whose own are lost; then `from` has none. false:
 * nothing was done; or, with to->is_moved, the other has none any more. */
ASTHRA__FN bool asthra__huge_move(Asthra__Huge *from, Asthra__Huge *to);
/* Mappings that wait for another use: gives them back, or the old ones; counts their bytes. */
ASTHRA__FN size_t asthra__huge_trim(void);
ASTHRA__FN void asthra__huge_decay(void);
ASTHRA__FN size_t asthra__huge_kept(size_t *resident); /* *resident grows */
ASTHRA__FN void asthra__huge_each(bool (*visit)(Asthra__Huge *huge, void *user), void *user);
ASTHRA__FN void asthra__huge_fork_before(void);
ASTHRA__FN void asthra__huge_fork_after(void);

/* heap_thread.c: whose a heap is. */
ASTHRA__FN Asthra__Heap *asthra__heap_enter(AsthraMemoryZone zone); /* the thread's, or a shared */
ASTHRA__FN void asthra__heap_leave(Asthra__Heap *h);
ASTHRA__FN Asthra__Heap *asthra__heap_next(Asthra__Heap *h, AsthraMemoryZone zone); /* NULL first */
ASTHRA__FN uint64_t asthra__heap_thread(unsigned number); /* that it serves, or served last */
/* Trim the heaps whose thread has ended, and those that have none. Return bytes given back. */
ASTHRA__FN size_t asthra__heap_visit_idle(void);
ASTHRA__FN size_t asthra__heap_visit_shared(void); /* caller owns no heap */
ASTHRA__FN bool asthra__heap_is_quick(const Asthra__Heap *h);
ASTHRA__FN AsthraSafetyLevel asthra__heap_level(void);

/* heap_page.c: pages and the bins where they wait; caller owns h. */
ASTHRA__FN void asthra__page_fill(Asthra__Heap *h, const Asthra__Span *span, size_t all,
                                  size_t block_size); /* the record of a fresh span */
ASTHRA__FN void asthra__page_push(Asthra__Heap *h, Asthra__HeapBlock *block); /* a freed one */
/* All free blocks of the bin's first page; NULL: no memory. */
ASTHRA__FN Asthra__HeapBlock *asthra__bin_take(Asthra__Heap *h, unsigned bin);
ASTHRA__FN void asthra__bins_shed(Asthra__Heap *h);     /* gives empty pages back */
ASTHRA__FN size_t asthra__bins_hollow(Asthra__Heap *h); /* gives back what it can of the others */
ASTHRA__FN void asthra__bins_leave(Asthra__Heap *h); /* nothing comes from these pages any more */
/* Whether these bytes of the page lie, in part, in memory that is gone. */
ASTHRA__FN bool asthra__page_is_hollow(const Asthra__HeapPage *p, size_t start, size_t bytes);

/* heap.c; caller owns h. */
ASTHRA__FN void asthra__heap_drain(Asthra__Heap *h); /* takes what other threads freed */
ASTHRA__FN void asthra__heap_shed(Asthra__Heap *h);  /* gives empty pages back */
/* Both, and hollow memory: bytes of that. */
ASTHRA__FN size_t asthra__heap_trim_one(Asthra__Heap *h);
ASTHRA__FN void asthra__heap_change_level(Asthra__Heap *h, AsthraSafetyLevel level);
ASTHRA__FN void asthra__heap_put(Asthra__Heap *h, Asthra__HeapBlock *block); /* a freed one */
ASTHRA__FN bool asthra__heap_is_watched(AsthraMemoryZone zone);
ASTHRA__FN void asthra__heap_count_failure(AsthraMemoryZone zone);
/* Who asks for, or gives back, a block of this level; chunks of the stack zone do not tell. */
ASTHRA__FN Asthra__Deed asthra__heap_deed(AsthraSafetyLevel level, AsthraMemoryZone zone,
                                          const void *site);

/* heap_find.c: from any address, while other threads take and free. */
typedef struct Asthra__Found { /* the block of an address: of a page, or huge, or neither */
    Asthra__HeapPage *page;
    Asthra__Huge *huge;
    char *start;
    size_t capacity, size;
    AsthraMemoryZone zone;
    AsthraSafetyLevel level;
    bool is_broken; /* something wrote over its trailer: size is the most that it can be */
} Asthra__Found;
ASTHRA__FN AsthraAddressKind asthra__heap_find(const void *ptr, Asthra__Found *f);
ASTHRA__FN uint64_t asthra__found_freed_by(const Asthra__Found *f); /* 0: not known */
static inline size_t asthra__found_charge(const Asthra__Found *f) {
    return f->level == ASTHRA_SAFETY_NONE ? f->capacity : f->size;
}

/* Finds a block that a caller names, or panics: `ptr` is the start of a live one of the zone. */
ASTHRA__FN void asthra__heap_expect(const void *ptr, AsthraMemoryZone zone, const char *verb,
                                    Asthra__Found *f);

/* heap_free.c */
ASTHRA__COLD ASTHRA__FN void asthra__heap_free_slow(void *ptr, AsthraMemoryZone zone,
                                                    const void *site, const char *verb);
/* Caller owns h; the block may be another heap's. */
ASTHRA__FN void asthra__heap_go_home(Asthra__Heap *h, const Asthra__Found *f); /* freed, small */

/* heap_full.c; caller owns h. */
enum { ASTHRA__FULL_EXTRA = ASTHRA__TRAILER_BYTES + 16, ASTHRA__FULL_LEAST = 16 };
/* What the class of a block must hold. */
static inline size_t asthra__full_room(size_t size) {
    return (size < ASTHRA__FULL_LEAST ? ASTHRA__FULL_LEAST : size) + ASTHRA__FULL_EXTRA;
}
ASTHRA__FN bool asthra__full_wants_guard(Asthra__Heap *h); /* it is this allocation's turn */
ASTHRA__FN void asthra__full_allocated(Asthra__Heap *h, const void *block, Asthra__Deed deed);
ASTHRA__FN void asthra__full_freed(const Asthra__Found *f, Asthra__Deed deed);
ASTHRA__FN bool asthra__quarantine_add(Asthra__Heap *h, const Asthra__Found *f); /* false: not */
ASTHRA__FN void asthra__quarantine_flush(Asthra__Heap *h);
typedef struct Asthra__History { /* zeros where nothing is known */
    uint64_t stamp;
    Asthra__Deed allocated, freed;
} Asthra__History;
/* Of a block at the full level; `freed` only if it is. */
ASTHRA__FN Asthra__History asthra__full_history(const Asthra__Found *f, AsthraAddressKind kind);

/* heap_guard.c: blocks that end where an inaccessible page begins. */
ASTHRA__FN Asthra__Huge *asthra__guard_take(size_t size); /* NULL: too large, or none to have */
ASTHRA__FN void asthra__guard_give(Asthra__Huge *guard);
ASTHRA__FN Asthra__Huge *asthra__guard_find(uintptr_t pool, const void *ptr);
ASTHRA__FN void asthra__guard_each(bool (*visit)(Asthra__Huge *guard, void *user), void *user);
/* A fault handler (os_internal.h): panics if the address is a closed one. */
ASTHRA__FN bool asthra__guard_on_fault(void *address, void *context);
ASTHRA__FN void asthra__guard_fork_before(void);
ASTHRA__FN void asthra__guard_fork_after(void);

/* heap_check.c: the panics. */
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_touched(const Asthra__Found *f,
                                                                  const char *at, bool is_live);
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

#elif ASTHRA_HAS_CORE

static inline void asthra__heap_set_runner(const Asthra__HeapRunner *runner) {
    (void)runner;
}
static inline bool asthra__guard_on_fault(void *address, void *context) {
    (void)address, (void)context;
    return false;
}

#endif
#endif
