/* pinned - what upper floors ask of the table of pins.                     [pinned] internal */
#ifndef ASTHRA__PINNED_INTERNAL_H
#define ASTHRA__PINNED_INTERNAL_H

#include "pinned.h"

#include "heap_internal.h"

#if ASTHRA_HAS_PINNED

/* A line on stderr for each pinned address, but for no more than sixteen of them; returns how many
 * there are. */
ASTHRA__FN size_t asthra__pinned_report(void);

/* Whether a pin holds a byte of the range, or the address of an empty one. Cost: a look at each
 * pin. */
ASTHRA__FN bool asthra__pinned_touches(const void *start, size_t size);

/* A hook: what an address's pins hold has changed from `before` to `after` bytes. before 0: the
 * first pin; after 0: the last was undone; else a wider one came. Told before the call that did it
 * returns, in the true order for each address, under a lock: it must not pin, allocate or wait. Set
 * before the first pin that it is to hear of; NULL: none. */
ASTHRA__FN void asthra__pinned_set_hook(void (*changed)(void *address, size_t before,
                                                        size_t after));

/* The table of a shard of pins, or of locked pages: open addressing over memory of its own. */
typedef struct Asthra__Pin {
    uintptr_t address; /* 0: the slot is free */
    size_t size, count;
    uint32_t others; /* addresses whose pins touch the block that begins here */
    bool is_spread;  /* it counts among the others of blocks, and its pages are locked */
    bool is_block;   /* a live block begins here: the heap counts a pin at the address */
} Asthra__Pin;

typedef struct Asthra__PinTable {
    Asthra__Pin *slots; /* a power of two of them, or none */
    size_t room, used;
    unsigned shift; /* of a hash, to its home slot */
} Asthra__PinTable;

ASTHRA__FN Asthra__Pin *asthra__pin_find(const Asthra__PinTable *t, uintptr_t address);
/* Found or made, and then zero but for the address; NULL: no memory. Moves the others. */
ASTHRA__FN Asthra__Pin *asthra__pin_slot(Asthra__PinTable *t, uintptr_t address);
ASTHRA__FN void asthra__pin_erase(Asthra__PinTable *t, Asthra__Pin *pin); /* moves the others */

static inline uint64_t asthra__pin_hash(uintptr_t address) {
    return (uint64_t)address * UINT64_C(0x9e3779b97f4a7c15); /* Fibonacci hashing: take high bits */
}

#elif ASTHRA_HAS_CORE

static inline size_t asthra__pinned_report(void) {
    return 0;
}
static inline bool asthra__pinned_touches(const void *start, size_t size) {
    (void)start, (void)size;
    return false;
}

#endif

#endif
