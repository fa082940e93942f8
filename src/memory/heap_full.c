/* heap - the full level: freed blocks wait, and are looked at again.       [heap] body: full
 *
 * At the full level a freed block is filled with a pattern and waits in the quarantine of the heap
 * whose thread freed it, until so many blocks or bytes came after it. A block that leaves with
 * another byte in it was written to after its free. Until then it is not handed out, so that a
 * second free is told from a first. What is only read after its free is seen as the pattern, and
 * blocks over 64 KiB do not wait.
 *
 *     a page's block | user's bytes | slack            | note | trailer
 *     when freed     | link | freeing task | pattern   | note | trailer
 *
 * Before the trailer of a page's block stand 16 bytes, its note [Asthra__Note]: its stamp, and who
 * allocated it from where. It is written when the block is given out and stays until it is given
 * out again, so that a block that waits, or is in a list, still tells its life. Its first byte is
 * the one that is known to follow the user's. When the block is freed, the number of the calls
 * takes the place of the site in its trailer. The quarantine keeps copies of that and of the task
 * that freed, to see that nobody wrote there; while a block waits the pattern stands in the place
 * of its link. Blocks with records of their own have note and task there.
 *
 * Stamps are taken from the process's count some thousand at a time, 40 bits wide. Each thousandth
 * allocation of a heap is a guarded one if there is room (heap_guard.c).
 *
 * What a heap needs for all this stands in metadata; it keeps it for ever. Without memory for it
 * blocks do not wait, have no stamps and are not guarded.
 */
#include "heap_internal.h"

#if ASTHRA_HAS_MEMORY

enum {
    ASTHRA__QUARANTINE_BLOCKS = 512,
    ASTHRA__QUARANTINE_BYTES = 1 << 20,
    ASTHRA__STAMPS = 4096,      /* that a heap takes at once */
    ASTHRA__GUARD_EVERY = 1000, /* allocations */
    ASTHRA__NOTE_CALLS = 8,     /* the first bit of a note's word that is one of calls */
    ASTHRA__NOTE_STAMP = 24,    /* of stamps */
    ASTHRA__FREED_FROM = 16     /* behind the link and the freeing task */
};
#define ASTHRA__FREED_PATTERN UINT64_C(0xdfdfdfdfdfdfdfdf)
_Static_assert((int)ASTHRA__FREED_FROM <= (int)ASTHRA__FULL_LEAST, "each block has room for it");
_Static_assert(sizeof(Asthra__Note) + ASTHRA__TRAILER_BYTES == ASTHRA__FULL_EXTRA, "of a block");

typedef struct Asthra__Waiting { /* a freed block, and what stands in it */
    char *block;
    uint64_t freed_by, freeing_task;
} Asthra__Waiting;

struct Asthra__Full {
    uint64_t stamp;        /* the last one given */
    uint32_t until_guard;  /* allocations, to the next guarded one */
    unsigned first, count; /* a ring */
    size_t bytes;
    Asthra__Waiting waiting[ASTHRA__QUARANTINE_BLOCKS];
};

static struct { ASTHRA__ATOMIC(uint32_t) stamp_blocks; } asthra__full;

static struct Asthra__Full *asthra__full_of(Asthra__Heap *h) {
    if (ASTHRA__LIKELY(h->full != NULL)) return h->full;
    h->full = asthra__segment_metadata(sizeof *h->full);
    if (h->full != NULL) h->full->until_guard = ASTHRA__GUARD_EVERY;
    return h->full;
}

/* ---- words in blocks, hidden from sanitizers and looked at by all ---- */

#if ASTHRA__ASAN
#define ASTHRA__FULL_OWN ASTHRA__ASAN_BLIND
#elif ASTHRA__TSAN
#define ASTHRA__FULL_OWN ASTHRA__HEAP_PEEK
#else
#define ASTHRA__FULL_OWN
#endif

static ASTHRA__FULL_OWN Asthra__Note asthra__note_read(const Asthra__Note *n) {
    return (Asthra__Note){n->word, n->task};
}
static ASTHRA__FULL_OWN void asthra__note_write(Asthra__Note *n, uint64_t word, uint64_t task) {
    n->word = word;
    n->task = task;
}
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define asthra__note_turn(word) __builtin_bswap64(word) /* the known byte comes first */
#else
#define asthra__note_turn(word) (word)
#endif

static Asthra__Note *asthra__note_of(const Asthra__Found *f) {
    if (f->huge != NULL) return &f->huge->note;
    return (Asthra__Note *)(void *)(f->start + f->capacity - ASTHRA__FULL_EXTRA);
}

static volatile uint64_t *asthra__freeing_task(const char *block) {
    return (volatile uint64_t *)(void *)(uintptr_t)(block + 8);
}
static ASTHRA__FULL_OWN uint64_t asthra__freeing_task_read(const char *block) {
    return *asthra__freeing_task(block);
}
static ASTHRA__FULL_OWN void asthra__freeing_task_write(const char *block, uint64_t task) {
    *asthra__freeing_task(block) = task;
}

/* Word for word: memset would be a sanitizer's, or is made into an instruction that takes long to
 * begin. `end` is a multiple of eight. */
static ASTHRA__FULL_OWN void asthra__full_fill(char *block, size_t end) {
    volatile uint64_t *words = (volatile uint64_t *)(void *)block;
    *(volatile uintptr_t *)(void *)block = (uintptr_t)ASTHRA__FREED_PATTERN;
    for (size_t i = ASTHRA__FREED_FROM / sizeof *words; i < end / sizeof *words; i++)
        words[i] = ASTHRA__FREED_PATTERN;
}

/* The first byte of the words that are others; end: none is. Four at once while there are. */
static ASTHRA__FULL_OWN size_t asthra__full_touched(const char *block, size_t end) {
    const uint64_t *words = (const uint64_t *)(const void *)block, pattern = ASTHRA__FREED_PATTERN;
    size_t i = ASTHRA__FREED_FROM / sizeof *words, count = end / sizeof *words;
    if (*(const uintptr_t *)(const void *)block != (uintptr_t)pattern) return 0;
    while (i + 4 <= count && ((words[i] ^ pattern) | (words[i + 1] ^ pattern) |
                              (words[i + 2] ^ pattern) | (words[i + 3] ^ pattern)) == 0)
        i += 4;
    while (i < count && words[i] == pattern) i++;
    return i * sizeof *words;
}

static ASTHRA__FULL_OWN size_t asthra__full_touched_byte(const char *block, size_t word) {
    const volatile unsigned char *bytes = (const volatile unsigned char *)block;
    while (bytes[word] == (ASTHRA__FREED_PATTERN & 0xff)) word++;
    return word;
}

static ASTHRA__FULL_OWN size_t asthra__full_unlike(const char *at, const void *copy, size_t size) {
    const volatile char *bytes = at;
    size_t i = 0;
    while (i < size && bytes[i] == ((const char *)copy)[i]) i++;
    return i;
}

/* ---- notes ---- */

/* The stamps of a heap run to the next multiple of ASTHRA__STAMPS. */
static uint64_t asthra__full_stamp(struct Asthra__Full *full) {
    if (ASTHRA__UNLIKELY(++full->stamp % ASTHRA__STAMPS <= 1))
        full->stamp =
            (uint64_t)asthra__add(&asthra__full.stamp_blocks, 1u, relaxed) * ASTHRA__STAMPS + 2;
    return full->stamp;
}

/* As much of what asthra__heap_find says of a live block as its note needs. */
static void asthra__full_locate(Asthra__Found *f, char *block) {
    uintptr_t entry = asthra__region_entry(block);
    if (entry % ASTHRA__REGION_KINDS != ASTHRA__REGION_SEGMENT) {
        asthra__heap_find(block, f);
        return;
    }
    f->page = asthra__segment_page(entry - ASTHRA__REGION_SEGMENT, block);
    f->huge = NULL;
    f->start = block;
    f->capacity = f->page->block_size;
}

ASTHRA__FN bool asthra__full_wants_guard(Asthra__Heap *h) {
    struct Asthra__Full *full = h->zone == ASTHRA_MEMORY_ZONE_STACK ? NULL : asthra__full_of(h);
    if (ASTHRA__LIKELY(full == NULL || --full->until_guard != 0)) return false;
    full->until_guard = ASTHRA__GUARD_EVERY;
    return true;
}

ASTHRA__FN void asthra__full_allocated(Asthra__Heap *h, const void *block, Asthra__Deed deed) {
    Asthra__Found f;
    struct Asthra__Full *full = asthra__full_of(h);
    uint64_t stamp = full == NULL ? 0 : asthra__full_stamp(full);
    asthra__full_locate(&f, (char *)(uintptr_t)block);
    uint64_t word = stamp << ASTHRA__NOTE_STAMP | (uint64_t)deed.calls << ASTHRA__NOTE_CALLS |
                    ASTHRA__TRAILER_LIVE;
    asthra__note_write(asthra__note_of(&f), asthra__note_turn(word), deed.task);
}

ASTHRA__FN void asthra__full_freed(const Asthra__Found *f, Asthra__Deed deed) {
    if (f->huge != NULL)
        f->huge->freeing_task = deed.task;
    else
        asthra__freeing_task_write(f->start, deed.task);
}

ASTHRA__FN ASTHRA__HEAP_PEEK Asthra__History asthra__full_history(const Asthra__Found *f,
                                                                  AsthraAddressKind kind) {
    Asthra__Note note = asthra__note_read(asthra__note_of(f));
    Asthra__History history = {0, {0, 0}, {0, 0}};
    uint64_t word = asthra__note_turn(note.word);
    if ((word & 255) == ASTHRA__TRAILER_LIVE) { /* else its memory is gone, or not its own */
        history.stamp = word >> ASTHRA__NOTE_STAMP;
        history.allocated.task = note.task;
        history.allocated.calls = (uint32_t)(word >> ASTHRA__NOTE_CALLS) & 0xffff;
    }
    uint64_t by = kind == ASTHRA_ADDRESS_FREED ? asthra__found_freed_by(f) : 0;
    if (by == 0) return history;
    history.freed.calls = (uint32_t)(uintptr_t)asthra__trailer_site(by);
    history.freed.task =
        f->huge != NULL ? f->huge->freeing_task : asthra__freeing_task_read(f->start);
    return history;
}

/* ---- the quarantine ---- */

static bool asthra__waiting_is_whole(const Asthra__Found *f, const Asthra__Waiting *w) {
    size_t end = f->capacity - ASTHRA__FULL_EXTRA;
    return asthra__full_touched(w->block, end) == end &&
           asthra__freeing_task_read(w->block) == w->freeing_task &&
           asthra__found_freed_by(f) == w->freed_by;
}

/* Says which byte of it is the first that somebody wrote to. */
ASTHRA__COLD ASTHRA_NORETURN static void asthra__waiting_panic(const Asthra__Found *f,
                                                               const Asthra__Waiting *w) {
    size_t end = f->capacity - ASTHRA__FULL_EXTRA, at = asthra__full_touched(w->block, end);
    size_t same = asthra__full_unlike(w->block + 8, &w->freeing_task, sizeof w->freeing_task);
    if (at == end && same < sizeof w->freeing_task)
        at = 8 + same;
    else if (at == end)
        at = f->capacity - ASTHRA__TRAILER_BYTES;
    else
        at = asthra__full_touched_byte(w->block, at);
    asthra__heap_used_after_free(f, at);
}

/* The oldest block goes home. */
static void asthra__quarantine_release(Asthra__Heap *h, struct Asthra__Full *q) {
    Asthra__Found f;
    Asthra__Waiting w = q->waiting[q->first];
    q->first = (q->first + 1) % ASTHRA__QUARANTINE_BLOCKS;
    q->count--;
    asthra__heap_find(w.block, &f);
    q->bytes -= f.capacity;
    if (ASTHRA__UNLIKELY(!asthra__waiting_is_whole(&f, &w))) asthra__waiting_panic(&f, &w);
    asthra__heap_go_home(h, &f);
}

ASTHRA__FN void asthra__quarantine_flush(Asthra__Heap *h) {
    while (h->full != NULL && h->full->count > 0) asthra__quarantine_release(h, h->full);
}

ASTHRA__FN bool asthra__quarantine_add(Asthra__Heap *h, const Asthra__Found *f) {
    struct Asthra__Full *q = asthra__full_of(h);
    if (q == NULL || f->capacity > ASTHRA__MEDIUM_MAX) return false;
    while (q->count == ASTHRA__QUARANTINE_BLOCKS ||
           (q->count > 0 && q->bytes + f->capacity > ASTHRA__QUARANTINE_BYTES))
        asthra__quarantine_release(h, q);
    asthra__full_fill(f->start, f->capacity - ASTHRA__FULL_EXTRA);
    q->waiting[(q->first + q->count++) % ASTHRA__QUARANTINE_BLOCKS] =
        (Asthra__Waiting){f->start, asthra__found_freed_by(f), asthra__freeing_task_read(f->start)};
    q->bytes += f->capacity;
    return true;
}

#endif
