/* region - whose a piece of address space is.                              [region] body
 *
 * A leaf of the table (8,192 entries, 32 GiB of addresses) is mapped when the first unit in it is
 * claimed, and stays; the root, 64 KiB on 64-bit systems, is static and costs the pages of it that
 * are touched. Addresses beyond the table belong to nobody.
 *
 * An entry is written, with release, before its units are handed out; readers acquire it. Whoever
 * asks about an address while its unit changes hands gets either answer, and the record behind
 * either is readable, because records are never unmapped. An entry may outlive its mapping, so that
 * a second free can be told from a wild one; the next claimer of the unit overwrites it. Two
 * threads may find at once that a leaf is missing: one publishes, the other gives its own back.
 */
#include "region_internal.h"

#if ASTHRA_HAS_MEMORY

enum {
    ASTHRA__REGION_SHIFT = 22,
#if UINTPTR_MAX > 0xffffffffu
    ASTHRA__REGION_LEAF_BITS = 13,
    ASTHRA__REGION_ROOT_BITS = 13, /* 48 bits of address */
#else
    ASTHRA__REGION_LEAF_BITS = 10,
    ASTHRA__REGION_ROOT_BITS = 0,
#endif
    ASTHRA__REGION_LEAF = 1 << ASTHRA__REGION_LEAF_BITS
};

typedef ASTHRA__ATOMIC(uintptr_t) Asthra__RegionEntry;

static struct {
    ASTHRA__ATOMIC(Asthra__RegionEntry *) root[1 << ASTHRA__REGION_ROOT_BITS];
} asthra__region;

/* Where the entry of a unit is; NULL: there is none. */
static ASTHRA__FAST Asthra__RegionEntry *asthra__region_place(uintptr_t unit) {
    uintptr_t branch = unit >> ASTHRA__REGION_LEAF_BITS;
    if (ASTHRA__UNLIKELY(branch >> ASTHRA__REGION_ROOT_BITS)) return NULL;
    Asthra__RegionEntry *leaf = asthra__load(&asthra__region.root[branch], acquire);
    return ASTHRA__UNLIKELY(leaf == NULL) ? NULL : &leaf[unit & (ASTHRA__REGION_LEAF - 1)];
}

ASTHRA__FN ASTHRA__FAST uintptr_t asthra__region_entry(const void *address) {
    Asthra__RegionEntry *at = asthra__region_place((uintptr_t)address >> ASTHRA__REGION_SHIFT);
    return ASTHRA__UNLIKELY(at == NULL) ? 0 : asthra__load(at, acquire);
}

/* Makes the leaf if need be. NULL: no memory, or an address beyond the table. */
static Asthra__RegionEntry *asthra__region_place_made(uintptr_t unit) {
    Asthra__RegionEntry *at = asthra__region_place(unit), *none = NULL;
    uintptr_t branch = unit >> ASTHRA__REGION_LEAF_BITS;
    if (at != NULL || branch >> ASTHRA__REGION_ROOT_BITS) return at;
    size_t bytes = sizeof(Asthra__RegionEntry) * ASTHRA__REGION_LEAF;
    Asthra__RegionEntry *leaf = asthra__os_map(bytes);
    if (leaf == NULL) return NULL;
    if (!asthra__cas(&asthra__region.root[branch], &none, leaf, acq_rel))
        asthra__os_unmap(leaf, bytes);
    return asthra__region_place(unit);
}

static size_t asthra__region_units(size_t bytes) {
    return bytes / ASTHRA__REGION_BYTES + (bytes % ASTHRA__REGION_BYTES != 0);
}

ASTHRA__FN void asthra__region_drop(void *start, size_t bytes, const void *record,
                                    Asthra__RegionKind kind) {
    uintptr_t unit = (uintptr_t)start >> ASTHRA__REGION_SHIFT;
    for (size_t n = asthra__region_units(bytes); n-- > 0;) {
        uintptr_t entry = (uintptr_t)record + (uintptr_t)kind;
        (void)asthra__cas(asthra__region_place(unit + n), &entry, (uintptr_t)0, release);
    }
}

ASTHRA__FN bool asthra__region_claim(void *start, size_t bytes, const void *record,
                                     Asthra__RegionKind kind) {
    uintptr_t unit = (uintptr_t)start >> ASTHRA__REGION_SHIFT;
    size_t units = asthra__region_units(bytes);
    for (size_t i = 0; i < units; i++) {
        Asthra__RegionEntry *at = asthra__region_place_made(unit + i);
        if (at == NULL) {
            asthra__region_drop(start, i * ASTHRA__REGION_BYTES, record, kind);
            return false;
        }
        asthra__store(at, (uintptr_t)record + (uintptr_t)kind, release);
    }
    return true;
}

#endif
