/* ffi_transfer - memory that is on the other side.                        [ffi] body: transfers
 *
 * A table remembers, by address, blocks that went out to C and results that came in to stay. What
 * is out is pinned as well, so that nobody frees it here. Only what begins a block of ours is out:
 * memory of others, which C may free by its own means, would be remembered for ever, or until the
 * same address comes up again for something else. Even of a result that came in and is handed on
 * to C the table forgets that it was to be ended.
 *
 *     came in    function NULL                    reclaim ends it
 *     out        function, not is_back            reclaim unpins it; it came in again if it had
 *     out, back  function, is_back: a result      reclaim unpins it, and ends it
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
    void (*end)(void *); /* of what came in; NULL: it never did */
    bool is_others;      /* out, but not pinned, nor counted: it is not ours */
    bool is_back;
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

static Asthra__FFIEntry *asthra__ffi_entry(const void *ptr) {
    if (asthra__ffi_border.room == 0) return NULL;
    Asthra__FFIEntry *e = asthra__ffi_slot(ptr);
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

static void asthra__ffi_forget(const Asthra__FFIEntry *e) {
    asthra__ffi_close_gap((size_t)(e - asthra__ffi_border.slots));
    asthra__ffi_border.used--;
}

/* ---- pins ---- */

static const char asthra__ffi_no_memory[] = "cannot be handed over: no memory to remember it";

/* Pins a block that the heap (is_ours) or the collector knows; false: neither does, or *wrong. */
static bool asthra__ffi_pin(void *ptr, bool is_ours, const char **wrong) {
    const Asthra__FFICollector *gc = asthra__ffi_collector();
    if (gc != NULL && gc->pin(ptr)) return true;
    if (!is_ours) return false;
#if ASTHRA_HAS_PINNED
    if (!asthra_pin_memory(ptr, 1)) *wrong = asthra__ffi_no_memory;
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

static const char asthra__ffi_is_out[] = "cannot be handed over: it is out already";

ASTHRA__FN const char *asthra__ffi_could_hand_over(const void *ptr) {
    const char *wrong = NULL;
    if (ptr == NULL || !asthra__ffi_is_ours(ptr, &wrong)) return wrong;
    asthra__ffi_lock();
    const Asthra__FFIEntry *e = asthra__ffi_entry(ptr);
    if (e != NULL && e->function != NULL) wrong = asthra__ffi_is_out;
    asthra__ffi_unlock();
    return wrong;
}

/* Of a block that is pinned; under the lock. NULL, or why not. */
static const char *asthra__ffi_send_out(void *ptr, void *function) {
    Asthra__FFIEntry fresh = {ptr, function, NULL, false, false}, *e = asthra__ffi_entry(ptr);
    if (e != NULL && e->function != NULL) return asthra__ffi_is_out;
    if (e != NULL)
        e->function = function;
    else if (!asthra__ffi_remember(&fresh))
        return asthra__ffi_no_memory;
    asthra__add(&asthra__ffi_border.out, 1, relaxed);
    return NULL;
}

ASTHRA__FN AsthraStatus asthra__ffi_hand_over(void *ptr, void *function, const char **wrong) {
    *wrong = NULL;
    if (ptr == NULL) return ASTHRA_OK;
    bool is_ours = asthra__ffi_is_ours(ptr, wrong);
    bool is_pinned = *wrong == NULL && asthra__ffi_pin(ptr, is_ours, wrong);
    if (*wrong == NULL) {
        asthra__ffi_lock();
        Asthra__FFIEntry *e = asthra__ffi_entry(ptr);
        if (is_pinned) {
            *wrong = asthra__ffi_send_out(ptr, function);
        } else if (e != NULL && e->function == NULL) {
            e->function = function;
            e->is_others = true;
        }
        asthra__ffi_unlock();
    }
    if (is_pinned && *wrong != NULL) asthra__ffi_unpin(ptr);
    if (*wrong == asthra__ffi_no_memory) return ASTHRA_OUT_OF_MEMORY;
    return *wrong == NULL ? ASTHRA_OK : ASTHRA_INVALID;
}

/* Under the lock: e, which is out, is so no more; is it to be unpinned? */
static bool asthra__ffi_come_home(Asthra__FFIEntry *e) {
    bool is_others = e->is_others;
    e->function = NULL;
    e->is_others = e->is_back = false;
    if (e->end == NULL) asthra__ffi_forget(e);
    if (!is_others) asthra__sub(&asthra__ffi_border.out, 1, relaxed);
    return !is_others;
}

/* Under the lock: e is to be ended, out or not; is it to be unpinned? */
static bool asthra__ffi_strike(Asthra__FFIEntry *e) {
    bool is_pinned = e->function != NULL && !e->is_others;
    if (is_pinned) asthra__sub(&asthra__ffi_border.out, 1, relaxed);
    asthra__ffi_forget(e);
    return is_pinned;
}

ASTHRA__FN void asthra__ffi_take_back(void *ptr) {
    if (ptr == NULL) return;
    asthra__ffi_lock();
    Asthra__FFIEntry *e = asthra__ffi_entry(ptr);
    bool is_pinned = e != NULL && e->function != NULL && asthra__ffi_come_home(e);
    asthra__ffi_unlock();
    if (is_pinned) asthra__ffi_unpin(ptr);
}

ASTHRA__FN void asthra__ffi_hand_off(void *ptr) {
    if (ptr == NULL) return;
    asthra__ffi_lock();
    const Asthra__FFIEntry *e = asthra__ffi_entry(ptr);
    if (e != NULL && e->function != NULL && e->is_others) asthra__ffi_forget(e);
    asthra__ffi_unlock();
}

/* Of an address that is in the table, what came in last counts: C may have freed what was there. */
ASTHRA__FN bool asthra__ffi_adopt(void *ptr, void (*end)(void *)) {
    Asthra__FFIEntry fresh = {ptr, NULL, end, false, false};
    const Asthra__FFICollector *gc = asthra__ffi_collector();
    if (gc != NULL && gc->adopt(ptr, end)) return true;
    if (end == NULL) return true; /* the caller's */
    asthra__ffi_lock();
    Asthra__FFIEntry *e = asthra__ffi_entry(ptr);
    bool is_kept = e != NULL || asthra__ffi_remember(&fresh);
    if (e != NULL && e->is_others) *e = fresh;
    if (e != NULL) {
        e->end = end;
        e->is_back = e->function != NULL;
    }
    asthra__ffi_unlock();
    return is_kept;
}

ASTHRA__FN void asthra__ffi_dispose(void *ptr, void (*end)(void *)) {
    asthra__ffi_lock();
    Asthra__FFIEntry *e = asthra__ffi_entry(ptr);
    bool is_pinned = e != NULL && end != NULL && asthra__ffi_strike(e);
    asthra__ffi_unlock();
    if (is_pinned) asthra__ffi_unpin(ptr);
    if (end != NULL)
        end(ptr);
    else
        (void)asthra__ffi_adopt(ptr, NULL);
}

/* ---- public ---- */

ASTHRA_RT_API AsthraResult asthra_ffi_reclaim(void *ptr) {
    bool is_pinned = false;
    void (*end)(void *) = NULL;
    asthra__ffi_lock();
    Asthra__FFIEntry *e = ptr != NULL ? asthra__ffi_entry(ptr) : NULL;
    bool is_known = e != NULL && !e->is_others;
    bool is_ended = is_known && (e->function == NULL || e->is_back);
    if (is_ended) end = e->end;
    if (is_known) is_pinned = is_ended ? asthra__ffi_strike(e) : asthra__ffi_come_home(e);
    asthra__ffi_unlock();
    if (!is_known)
        return asthra_result_errorf(
            ASTHRA_INVALID,
            "asthra_ffi_reclaim: %p is not out: expected what a call handed "
            "over, and nobody has reclaimed",
            ptr);
    if (is_pinned) asthra__ffi_unpin(ptr);
    if (end != NULL) end(ptr);
    return asthra_result_ok(ptr);
}

ASTHRA_RT_API size_t asthra_ffi_transferred_count(void) {
    return asthra__load(&asthra__ffi_border.out, relaxed);
}

/* The next entry from slot *at on that came in, taken out of the table. */
static bool asthra__ffi_take_adopted(size_t *at, Asthra__FFIEntry *out) {
    bool is_found = false, is_pinned = false;
    asthra__ffi_lock();
    while (*at < asthra__ffi_border.room && !is_found) {
        Asthra__FFIEntry *e = &asthra__ffi_border.slots[*at];
        *out = *e;
        is_found = e->ptr != NULL && (e->function == NULL || e->is_back);
        if (is_found)
            is_pinned = asthra__ffi_strike(e); /* another may move up here */
        else
            ++*at;
    }
    asthra__ffi_unlock();
    if (is_pinned) asthra__ffi_unpin(out->ptr);
    return is_found;
}

/* Those too that an end brings in. */
static void asthra__ffi_end_adopted(void) {
    Asthra__FFIEntry e;
    for (bool any = true; any;) {
        size_t at = 0;
        for (any = false; asthra__ffi_take_adopted(&at, &e); any = true) e.end(e.ptr);
    }
}

static void asthra__ffi_report_one(const Asthra__FFIEntry *e) {
    char name[128];
    size_t length = asthra__os_symbol(e->function, name, sizeof name);
    asthra__text_report("asthra_rt: %p was handed over to %.*s and not reclaimed", e->ptr,
                        (int)length, name);
}

ASTHRA__FN void asthra__ffi_report(void) {
    enum { ASTHRA__FFI_TOLD = 16 };
    Asthra__FFIEntry told[ASTHRA__FFI_TOLD];
    size_t count = 0;
    asthra__ffi_end_adopted();
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
