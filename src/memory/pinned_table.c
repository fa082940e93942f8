/* pinned - the table behind the pins.                                      [pinned] body: table
 *
 * Linear probing over slots that are a mapping of their own. Not from the heap, because a table
 * outlives the runtime and must not show in any zone's statistics; and not from asthra__alloc,
 * whose hook may be another when it is freed. A removal moves later entries back, so that there
 * are no marks of the dead.
 *
 * The table grows when three quarters of it are in use. If there is no memory for that it fills
 * up, all but one slot, before it refuses. It shrinks when an eighth is in use, if it can.
 */
#include "pinned_internal.h"

#include "../platform/os_internal.h"

#if ASTHRA_HAS_PINNED

_Static_assert(sizeof(Asthra__Pin) <= 32, "an entry is half a cache line");

enum { ASTHRA__PIN_LEAST_ROOM = 128 }; /* a page of 4 KiB */

/* The shard is chosen by the four highest bits: the home slot goes by those below. */
static ASTHRA__FAST size_t asthra__pin_home(const Asthra__PinTable *t, uintptr_t address) {
    return (size_t)(asthra__pin_hash(address) << 4 >> t->shift);
}

ASTHRA__FN ASTHRA__FAST Asthra__Pin *asthra__pin_find(const Asthra__PinTable *t,
                                                      uintptr_t address) {
    if (ASTHRA__UNLIKELY(t->room == 0)) return NULL;
    for (size_t i = asthra__pin_home(t, address);; i = (i + 1) & (t->room - 1)) {
        if (t->slots[i].address == address) return &t->slots[i];
        if (t->slots[i].address == 0) return NULL;
    }
}

static Asthra__Pin *asthra__pin_place(Asthra__PinTable *t, uintptr_t address) {
    size_t i = asthra__pin_home(t, address);
    while (t->slots[i].address != 0) i = (i + 1) & (t->room - 1);
    return &t->slots[i];
}

static size_t asthra__pin_bytes(size_t room) {
    size_t page = asthra__os_page_size();
    return (room * sizeof(Asthra__Pin) + page - 1) & ~(page - 1);
}

/* false: no memory; the table is as it was. */
static bool asthra__pin_resize(Asthra__PinTable *t, size_t room) {
    if (room > (size_t)PTRDIFF_MAX / sizeof(Asthra__Pin)) return false;
    Asthra__PinTable old = *t;
    Asthra__Pin *slots = asthra__os_map_aligned(asthra__pin_bytes(room), asthra__os_page_size());
    if (slots == NULL) return false;
    t->slots = slots;
    t->room = room;
    t->shift = 64 - (unsigned)__builtin_ctzll(room);
    for (size_t i = 0; i < old.room; i++)
        if (old.slots[i].address != 0) *asthra__pin_place(t, old.slots[i].address) = old.slots[i];
    if (old.room != 0) asthra__os_unmap(old.slots, asthra__pin_bytes(old.room));
    return true;
}

/* Whether one more fits, now or after growing. */
ASTHRA__COLD static bool asthra__pin_grow(Asthra__PinTable *t) {
    return asthra__pin_resize(t, t->room == 0 ? ASTHRA__PIN_LEAST_ROOM : t->room * 2) ||
           t->used + 1 < t->room;
}

ASTHRA__FN ASTHRA__FAST Asthra__Pin *asthra__pin_slot(Asthra__PinTable *t, uintptr_t address) {
    Asthra__Pin *pin = asthra__pin_find(t, address);
    if (pin != NULL) return pin;
    if (ASTHRA__UNLIKELY(t->used >= t->room / 4 * 3) && !asthra__pin_grow(t)) return NULL;
    pin = asthra__pin_place(t, address);
    *pin = (Asthra__Pin){.address = address};
    t->used++;
    return pin;
}

/* An entry moves into the hole unless that lies before its home. */
ASTHRA__FN ASTHRA__FAST void asthra__pin_erase(Asthra__PinTable *t, Asthra__Pin *pin) {
    size_t mask = t->room - 1, hole = (size_t)(pin - t->slots);
    for (size_t i = (hole + 1) & mask; t->slots[i].address != 0; i = (i + 1) & mask) {
        size_t home = asthra__pin_home(t, t->slots[i].address);
        if (((i - home) & mask) < ((i - hole) & mask)) continue;
        t->slots[hole] = t->slots[i];
        hole = i;
    }
    t->slots[hole] = (Asthra__Pin){.address = 0};
    t->used--;
    if (ASTHRA__UNLIKELY(t->used < t->room / 8) && t->room > ASTHRA__PIN_LEAST_ROOM)
        (void)asthra__pin_resize(t, t->room / 4);
}

#endif
