/* region - whose a piece of address space is.                              [region] internal
 *
 * Zones take address space in units of 4 MiB, aligned to as much. A table of two levels tells for
 * any address, without a lock, what has its unit: an entry is the address of a record that its
 * claimer keeps, at least until the unit is claimed again, and the record's kind in the low bits.
 */
#ifndef ASTHRA__REGION_INTERNAL_H
#define ASTHRA__REGION_INTERNAL_H

#include "../platform/os_internal.h"

#if ASTHRA_HAS_MEMORY

enum { ASTHRA__REGION_BYTES = 1 << 22, ASTHRA__REGION_KINDS = 8 };

typedef enum Asthra__RegionKind {
    ASTHRA__REGION_NONE,    /* of nobody */
    ASTHRA__REGION_SEGMENT, /* heap's: cut into pages; the record is the unit's own head */
    ASTHRA__REGION_HUGE,    /* heap's: one block */
    ASTHRA__REGION_GUARD    /* heap's: blocks that end where a closed page begins */
} Asthra__RegionKind;

/* A record's address (aligned to ASTHRA__REGION_KINDS) + its kind; 0: of nobody. */
ASTHRA__FN uintptr_t asthra__region_entry(const void *address);

/* `start` is aligned to a unit; bytes are rounded up to units. false: no memory for the table, or
 * addresses beyond it; then nothing is claimed. */
ASTHRA__FN bool asthra__region_claim(void *start, size_t bytes, const void *record,
                                     Asthra__RegionKind kind);
/* Only entries that still say so. */
ASTHRA__FN void asthra__region_drop(void *start, size_t bytes, const void *record,
                                    Asthra__RegionKind kind);

#endif
#endif
