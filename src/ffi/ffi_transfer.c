/* ffi_transfer - memory that is on the other side.                        [ffi] body: transfers
 *
 * A table remembers, by address, blocks that went out to C and results that came in to stay. What
 * is out is pinned as well, so that nobody frees it here. Only what begins a block of ours is out:
 * memory of others, which C may free by its own means, would be remembered for ever, or until the
 * same address comes up again for something else.
 *
 * Open addressing with linear probing; a removal moves later entries of the run up. The table
 * stands under the floor's lock, pins are taken and undone outside of it: an address is pinned
 * before it is in the table and unpinned after it has left.
 */
#include "ffi_internal.h"

#include "../core/text_internal.h"
#include "../memory/heap_internal.h"
#include "../memory/pinned_internal.h"

#if ASTHRA_HAS_FFI

#include <string.h>

typedef struct Asthra__FFIEntry {
    void *ptr;           /* NULL: the slot is free */
    void *function;      /* that it was handed to; NULL: it came in */
    void (*end)(void *); /* of what came in; NULL: nothing to do */
} Asthra__FFIEntry;

static struct {
    Asthra__FFIEntry *slots;
    size_t room, used; /* room is a power of two */
    ASTHRA__ATOMIC(size_t) out;
    ASTHRA__ATOMIC(const Asthra__FFICollector *) collector;
} asthra__ffi_border;

ASTHRA__FN void asthra__ffi_set_collector(const Asthra__FFICollector *collector) {
    asthra__store(&asthra__ffi_border.collector, collector, release);
}
ASTHRA__FN const Asthra__FFICollector *asthra__ffi_collector(void) {
    return asthra__load(&asthra__ffi_border.collector, acquire);
}

/* ---- table, under the lock ---- */

static size_t asthra__ffi_home(const void *ptr) {
    uint64_t hash = (uint64_t)(uintptr_t)ptr * UINT64_C(0x9e3779b97f4a7c15);
    return (size_t)(hash >> 32) & (asthra__ffi_border.room - 1);
}

/* The slot of ptr, or the free one where it belongs; room > used. */
static Asthra__FFIEntry *asthra__ffi_slot(const void *ptr) {
    size_t i = asthra__ffi_home(ptr);
    while (asthra__ffi_border.slots[i].ptr != NULL && asthra__ffi_border.slots[i].ptr != ptr)
        i = (i + 1) & (asthra__ffi_border.room - 1);
    return &asthra__ffi_border.slots[i];
}

static const Asthra__FFIEntry *asthra__ffi_entry(const void *ptr) {
    if (asthra__ffi_border.room == 0) return NULL;
    const Asthra__FFIEntry *e = asthra__ffi_slot(ptr);
    return e->ptr != NULL ? e : NULL;
}

static bool asthra__ffi_border_grow(void) {
    size_t before = asthra__ffi_border.room, room = before != 0 ? 2 * before : 64;
    Asthra__FFIEntry *old = asthra__ffi_border.slots, *slots;
    slots = asthra__alloc_zeroed(room, sizeof *slots);
    if (slots == NULL) return false;
    asthra__ffi_border.slots = slots;
    asthra__ffi_border.room = room;
    for (size_t i = 0; i < before; i++)
        if (old[i].ptr != NULL) *asthra__ffi_slot(old[i].ptr) = old[i];
    asthra__free(old);
    return true;
}

static bool asthra__ffi_remember(const Asthra__FFIEntry *e) {
    if (asthra__ffi_border.used * 2 >= asthra__ffi_border.room && !asthra__ffi_border_grow())
        return false;
    *asthra__ffi_slot(e->ptr) = *e;
    asthra__ffi_border.used++;
    if (e->function != NULL) asthra__add(&asthra__ffi_border.out, 1, relaxed);
    return true;
}

/* Closes the gap at i. */
static void asthra__ffi_close_gap(size_t i) {
    const size_t mask = asthra__ffi_border.room - 1;
    Asthra__FFIEntry *slots = asthra__ffi_border.slots;
    for (size_t j = (i + 1) & mask; slots[j].ptr != NULL; j = (j + 1) & mask) {
        if (((j - asthra__ffi_home(slots[j].ptr)) & mask) < ((j - i) & mask)) continue;
        slots[i] = slots[j];
        i = j;
    }
    slots[i].ptr = NULL;
}

/* false: it was not there. */
static bool asthra__ffi_forget(const void *ptr, Asthra__FFIEntry *out) {
    const Asthra__FFIEntry *e = asthra__ffi_entry(ptr);
    if (e == NULL) return false;
    *out = *e;
    asthra__ffi_close_gap((size_t)(e - asthra__ffi_border.slots));
    asthra__ffi_border.used--;
    if (out->function != NULL) asthra__sub(&asthra__ffi_border.out, 1, relaxed);
    return true;
}

/* ---- pins ---- */

/* Pins a block that the heap (is_ours) or the collector knows; false: neither does, or *wrong. */
static bool asthra__ffi_pin(void *ptr, bool is_ours, const char **wrong) {
    const Asthra__FFICollector *gc = asthra__ffi_collector();
    if (gc != NULL && gc->pin(ptr)) return true;
    if (!is_ours) return false;
#if ASTHRA_HAS_PINNED
    if (!asthra_pin_memory(ptr, 1)) *wrong = "cannot be handed over: no memory for a pin";
#endif
    return *wrong == NULL;
}

static void asthra__ffi_unpin(void *ptr) {
    const Asthra__FFICollector *gc = asthra__ffi_collector();
    if (gc != NULL && gc->unpin(ptr)) return;
#if ASTHRA_HAS_PINNED
    (void)asthra_unpin_memory(ptr);
#endif
}

/* Whether ptr begins a block of ours, or is nobody's that we know; else *wrong. */
static bool asthra__ffi_is_ours(const void *ptr, const char **wrong) {
#if ASTHRA_HAS_MEMORY
    Asthra__Found found;
    switch (asthra__heap_find(ptr, &found)) {
    case ASTHRA_ADDRESS_FREED: *wrong = "cannot be handed over: it leads into freed memory"; break;
    case ASTHRA_ADDRESS_SLACK: *wrong = "cannot be handed over: it leads to no block"; break;
    case ASTHRA_ADDRESS_LIVE:
        if (found.zone == ASTHRA_MEMORY_ZONE_STACK)
            *wrong = "cannot be handed over: the stack zone ends it with its task or scope";
        else if (found.start != (const char *)ptr)
            *wrong = "cannot be handed over: it leads into the middle of a block";
        return *wrong == NULL;
    default: break;
    }
#else
    (void)ptr, (void)wrong;
#endif
    return false;
}

/* ---- what calls by rules ask ---- */

static bool asthra__ffi_knows(const void *ptr) {
    asthra__ffi_lock();
    bool knows = asthra__ffi_entry(ptr) != NULL;
    asthra__ffi_unlock();
    return knows;
}

ASTHRA__FN const char *asthra__ffi_could_hand_over(const void *ptr) {
    const char *wrong = NULL;
    if (ptr == NULL || !asthra__ffi_is_ours(ptr, &wrong)) return wrong;
    return asthra__ffi_knows(ptr) ? "cannot be handed over: it is out already" : NULL;
}

ASTHRA__FN const char *asthra__ffi_hand_over(void *ptr, void *function) {
    Asthra__FFIEntry e = {ptr, function, NULL};
    const char *wrong = NULL;
    if (ptr == NULL) return NULL;
    bool is_ours = asthra__ffi_is_ours(ptr, &wrong);
    if (wrong != NULL || !asthra__ffi_pin(ptr, is_ours, &wrong)) return wrong;
    asthra__ffi_lock();
    if (asthra__ffi_entry(ptr) != NULL)
        wrong = "cannot be handed over: it is out already";
    else if (!asthra__ffi_remember(&e))
        wrong = "cannot be handed over: no memory to remember it";
    asthra__ffi_unlock();
    if (wrong != NULL) asthra__ffi_unpin(ptr);
    return wrong;
}

ASTHRA__FN void asthra__ffi_take_back(void *ptr) {
    Asthra__FFIEntry e;
    asthra__ffi_lock();
    const Asthra__FFIEntry *found = asthra__ffi_entry(ptr);
    bool is_out = found != NULL && found->function != NULL && asthra__ffi_forget(ptr, &e);
    asthra__ffi_unlock();
    if (is_out) asthra__ffi_unpin(ptr);
}

ASTHRA__FN bool asthra__ffi_adopt(void *ptr, void (*end)(void *)) {
    Asthra__FFIEntry e = {ptr, NULL, end};
    const Asthra__FFICollector *gc = asthra__ffi_collector();
    if (gc != NULL && gc->adopt(ptr, end)) return true;
    if (end == NULL) return true; /* the caller's */
    asthra__ffi_lock();
    bool is_kept = asthra__ffi_entry(ptr) != NULL || asthra__ffi_remember(&e);
    asthra__ffi_unlock();
    return is_kept;
}

/* ---- public ---- */

ASTHRA_RT_API AsthraResult asthra_ffi_reclaim(void *ptr) {
    Asthra__FFIEntry e;
    asthra__ffi_lock();
    bool is_known = ptr != NULL && asthra__ffi_forget(ptr, &e);
    asthra__ffi_unlock();
    if (!is_known)
        return asthra_result_errorf(
            ASTHRA_INVALID,
            "asthra_ffi_reclaim: %p is not out: expected what a call handed "
            "over, and nobody has reclaimed",
            ptr);
    if (e.function != NULL)
        asthra__ffi_unpin(ptr);
    else if (e.end != NULL)
        e.end(ptr);
    return asthra_result_ok(ptr);
}

ASTHRA_RT_API size_t asthra_ffi_transferred_count(void) {
    return asthra__load(&asthra__ffi_border.out, relaxed);
}

/* Some entry that came in, out of the table. */
static bool asthra__ffi_take_adopted(Asthra__FFIEntry *out) {
    bool is_found = false;
    asthra__ffi_lock();
    for (size_t i = 0; i < asthra__ffi_border.room && !is_found; i++) {
        const Asthra__FFIEntry *e = &asthra__ffi_border.slots[i];
        if (e->ptr != NULL && e->function == NULL) is_found = asthra__ffi_forget(e->ptr, out);
    }
    asthra__ffi_unlock();
    return is_found;
}

static void asthra__ffi_report_one(const Asthra__FFIEntry *e) {
    char name[128];
    size_t length = asthra__os_symbol(e->function, name, sizeof name);
    asthra__text_report("asthra_rt: %p was handed over to %.*s and not reclaimed", e->ptr,
                        (int)length, name);
}

ASTHRA__FN void asthra__ffi_report(void) {
    enum { ASTHRA__FFI_TOLD = 16 };
    Asthra__FFIEntry told[ASTHRA__FFI_TOLD], e;
    size_t count = 0;
    while (asthra__ffi_take_adopted(&e)) e.end(e.ptr);
    asthra__ffi_lock();
    for (size_t i = 0; i < asthra__ffi_border.room; i++) {
        const Asthra__FFIEntry *slot = &asthra__ffi_border.slots[i];
        if (slot->ptr != NULL && count++ < ASTHRA__FFI_TOLD) told[count - 1] = *slot;
    }
    asthra__ffi_unlock();
    for (size_t i = 0; i < count && i < ASTHRA__FFI_TOLD; i++) asthra__ffi_report_one(&told[i]);
    if (count > ASTHRA__FFI_TOLD)
        asthra__text_report("asthra_rt: and %zu more", count - ASTHRA__FFI_TOLD);
}

#endif
