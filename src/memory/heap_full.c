/* heap - the full level: freed blocks wait, and are looked at again.       [heap] body: full
 *
 * At the full level a freed block is filled with a pattern and waits in the quarantine of the heap
 * whose thread freed it, until so many blocks or bytes came after it. A block that leaves with
 * another byte in it was written to after its free. Until then it is not handed out, so that a
 * second free is told from a first. What is only read after its free is seen as the pattern, and
 * blocks over 64 KiB do not wait.
 *
 * The ring stands in metadata, a heap keeps it for ever. The link that a free block begins with
 * has its own check.
 */
#include "heap_internal.h"

#if ASTHRA_HAS_MEMORY

enum {
    ASTHRA__QUARANTINE_BLOCKS = 512,
    ASTHRA__QUARANTINE_BYTES = 1 << 20,
    ASTHRA__FREED_BYTE = 0xdf,
    ASTHRA__FREED_FROM = sizeof(Asthra__HeapBlock)
};

struct Asthra__Quarantine {
    size_t bytes;
    unsigned first, count; /* a ring */
    char *blocks[ASTHRA__QUARANTINE_BLOCKS];
};

#if ASTHRA__ASAN
#define ASTHRA__FULL_OWN __attribute__((__noinline__, __no_sanitize__("address")))
#else
#define ASTHRA__FULL_OWN
#endif

/* Byte for byte: memset would be a sanitizer's. */
static ASTHRA__FULL_OWN void asthra__full_fill(char *block, size_t capacity) {
    volatile unsigned char *bytes = (volatile unsigned char *)block;
    for (size_t i = ASTHRA__FREED_FROM; i < capacity - ASTHRA__TRAILER_BYTES; i++)
        bytes[i] = ASTHRA__FREED_BYTE;
}

/* The first byte that is another one; capacity: none is. */
static ASTHRA__FULL_OWN size_t asthra__full_touched(const char *block, size_t capacity) {
    const volatile unsigned char *bytes = (const volatile unsigned char *)block;
    size_t i = ASTHRA__FREED_FROM, end = capacity - ASTHRA__TRAILER_BYTES;
    while (i < end && bytes[i] == ASTHRA__FREED_BYTE) i++;
    return i < end ? i : capacity;
}

/* The oldest block goes home. */
static void asthra__quarantine_release(Asthra__Heap *h, struct Asthra__Quarantine *q) {
    Asthra__Found f;
    char *block = q->blocks[q->first];
    q->first = (q->first + 1) % ASTHRA__QUARANTINE_BLOCKS;
    q->count--;
    asthra__heap_find(block, &f);
    q->bytes -= f.capacity;
    size_t at = asthra__full_touched(block, f.capacity);
    if (ASTHRA__UNLIKELY(at < f.capacity)) asthra__heap_used_after_free(&f, at);
    asthra__heap_go_home(h, &f);
}

ASTHRA__FN void asthra__quarantine_flush(Asthra__Heap *h) {
    while (h->quarantine != NULL && h->quarantine->count > 0)
        asthra__quarantine_release(h, h->quarantine);
}

ASTHRA__FN bool asthra__quarantine_add(Asthra__Heap *h, const Asthra__Found *f) {
    if (h->quarantine == NULL) h->quarantine = asthra__segment_metadata(sizeof *h->quarantine);
    struct Asthra__Quarantine *q = h->quarantine;
    if (q == NULL || f->capacity > ASTHRA__MEDIUM_MAX) return false;
    while (q->count == ASTHRA__QUARANTINE_BLOCKS ||
           (q->count > 0 && q->bytes + f->capacity > ASTHRA__QUARANTINE_BYTES))
        asthra__quarantine_release(h, q);
    asthra__full_fill(f->start, f->capacity);
    q->blocks[(q->first + q->count++) % ASTHRA__QUARANTINE_BLOCKS] = f->start;
    q->bytes += f->capacity;
    return true;
}

#endif
