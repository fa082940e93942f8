/* heap - what an address really is.                                        [heap] body: check
 *
 * For panics of the heap and for asthra_memory_describe.
 */
#include "heap_internal.h"

#include "../core/text_internal.h"

#if ASTHRA_HAS_MEMORY

/* A hook: whether an address is on a stack that the system does not know as one. */
static struct { bool (*is_stack)(const void *ptr); } asthra__heap_check;

ASTHRA__FN void asthra__heap_set_stack_test(bool (*is_stack)(const void *ptr)) {
    asthra__heap_check.is_stack = is_stack;
}

static bool asthra__is_on_stack(const void *ptr) {
    void *low = NULL, *high = NULL;
    if (asthra__heap_check.is_stack != NULL && asthra__heap_check.is_stack(ptr)) return true;
    return asthra__os_stack_bounds(&low, &high) && ptr >= low && ptr < high;
}

ASTHRA__FN AsthraAddressKind asthra__heap_outside(const void *ptr) {
    if (asthra__is_on_stack(ptr)) return ASTHRA_ADDRESS_STACK;
    switch (asthra__os_mapping_of(ptr)) {
    case ASTHRA__OS_MAPPING_NONE: return ASTHRA_ADDRESS_UNMAPPED;
    case ASTHRA__OS_MAPPING_STATIC: return ASTHRA_ADDRESS_STATIC;
    case ASTHRA__OS_MAPPING_STACK: return ASTHRA_ADDRESS_STACK;
    case ASTHRA__OS_MAPPING_OTHER: break;
    }
    return ASTHRA_ADDRESS_FOREIGN;
}

/* ---- sentences ---- */

static void asthra__say_outside(Asthra__Text *t, const void *ptr) {
    static const char *const words[] = {
        [ASTHRA_ADDRESS_UNMAPPED] = "nothing is mapped there",
        [ASTHRA_ADDRESS_LIVE] = "",
        [ASTHRA_ADDRESS_FREED] = "",
        [ASTHRA_ADDRESS_SLACK] = "",
        [ASTHRA_ADDRESS_STACK] = "it is on a stack",
        [ASTHRA_ADDRESS_STATIC] = "it is static data or code",
        [ASTHRA_ADDRESS_FOREIGN] = "it is memory of others, such as malloc",
    };
    asthra__text_format(t, "was never allocated: %s", words[asthra__heap_outside(ptr)]);
}

static void asthra__say_where(Asthra__Text *t, const void *ptr, const Asthra__Found *f) {
    size_t inside = (size_t)((const char *)ptr - f->start);
    if (inside != 0) asthra__text_format(t, "is interior: %zu bytes into ", inside);
    asthra__text_format(t, "%s%p", inside == 0 ? "is the block " : "the block ", (void *)f->start);
}

/* The calls of a free and of an allocation fit into one message. */
enum { ASTHRA__SAY_CALLS = 330, ASTHRA__SAY_MOST = 900 };

static void asthra__say_deed(Asthra__Text *t, Asthra__Deed deed) {
    if (deed.task != 0) asthra__text_format(t, " by task %llu", (unsigned long long)deed.task);
    asthra__text_add(t, " at ");
    if (!asthra__calls_say(t, deed.calls, ASTHRA__SAY_CALLS)) asthra__text_add(t, "(not known)");
}

/* Who freed it, at the full level also who allocated it. */
static void asthra__say_freer(Asthra__Text *t, const Asthra__Found *f) {
    uint64_t by = asthra__found_freed_by(f);
    char name[128];
    if (by == 0) return;
    uint64_t thread = asthra__heap_thread(asthra__trailer_number(by));
    if (thread != 0) asthra__text_format(t, " by thread %llu", (unsigned long long)thread);
    if (f->level == ASTHRA_SAFETY_FULL) {
        Asthra__History history = asthra__full_history(f, ASTHRA_ADDRESS_FREED);
        asthra__say_deed(t, history.freed);
        asthra__text_add(t, "; it was allocated");
        asthra__say_deed(t, history.allocated);
        return;
    }
    size_t length = asthra__os_symbol(asthra__trailer_site(by), name, sizeof name);
    asthra__text_add(t, " at ");
    asthra__text_add_count(t, name, length);
}

/* At the full level. */
static void asthra__say_allocator(Asthra__Text *t, const Asthra__Found *f) {
    if (f->level != ASTHRA_SAFETY_FULL) return;
    asthra__text_add(t, "; it was allocated");
    asthra__say_deed(t, asthra__full_history(f, ASTHRA_ADDRESS_LIVE).allocated);
}

static void asthra__say_what(Asthra__Text *t, const void *ptr, AsthraMemoryZone zone) {
    Asthra__Found f;
    AsthraAddressKind kind = asthra__heap_find(ptr, &f);
    const char *zone_name = asthra_memory_zone_to_string(f.zone);
    asthra__text_format(t, "%p ", ptr);
    if (kind == ASTHRA_ADDRESS_LIVE) {
        asthra__say_where(t, ptr, &f);
        asthra__text_format(t, " of %zu bytes in zone %s", f.size, zone_name);
        if (f.zone != zone) asthra__text_add(t, ", another zone");
        if (f.zone != ASTHRA_MEMORY_ZONE_STACK) asthra__say_allocator(t, &f);
    } else if (kind == ASTHRA_ADDRESS_FREED) {
        asthra__say_where(t, ptr, &f);
        asthra__text_format(t, " of zone %s, freed before", zone_name);
        asthra__say_freer(t, &f);
    } else if (kind == ASTHRA_ADDRESS_SLACK) {
        asthra__text_add(t, "was never allocated: it is in no block, between those of the heap");
    } else {
        asthra__say_outside(t, ptr);
    }
}

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void
asthra__heap_invalid(const void *ptr, AsthraMemoryZone zone, const char *verb) {
    char buffer[ASTHRA__SAY_MOST];
    Asthra__Text t = asthra__text_on(buffer, sizeof buffer);
    asthra__say_what(&t, ptr, zone);
    asthra_panic_at(NULL, "Invalid pointer in %s: %s", verb, buffer);
}

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_overflown(const Asthra__Found *f,
                                                                    const char *verb) {
    char buffer[ASTHRA__SAY_MOST];
    Asthra__Text t = asthra__text_on(buffer, sizeof buffer);
    asthra__say_allocator(&t, f);
    asthra_panic_at(NULL,
                    "Heap overflow, seen in %s: the block %p of %s%zu bytes in zone %s was written "
                    "past its end%s",
                    verb, (void *)f->start, f->is_broken ? "up to " : "", f->size,
                    asthra_memory_zone_to_string(f->zone), buffer);
}

/* A closed page, by a read or a write. */
ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_touched(const Asthra__Found *f,
                                                                  const char *at, bool is_live) {
    char buffer[ASTHRA__SAY_MOST];
    Asthra__Text t = asthra__text_on(buffer, sizeof buffer);
    const char *zone = asthra_memory_zone_to_string(f->zone);
    if (is_live) {
        asthra__say_allocator(&t, f);
        asthra_panic_at(NULL,
                        "Heap overflow: %p, %zu bytes past the end of the block %p of %zu bytes in "
                        "zone %s, was touched%s",
                        (const void *)at, (size_t)(at - f->start) - f->size, (void *)f->start,
                        f->size, zone, buffer);
    }
    asthra__say_freer(&t, f);
    asthra_panic_at(NULL,
                    "Use after free: %p, byte %td of the block %p of %zu bytes in zone %s, was "
                    "touched after it was freed%s",
                    (const void *)at, at - f->start, (void *)f->start, f->size, zone, buffer);
}

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_still_pinned(const Asthra__Found *f,
                                                                       const char *verb) {
    asthra_panic_at(NULL,
                    "Pinned memory in %s: the block %p of %zu bytes is pinned; unpin it first",
                    verb, (void *)f->start, f->size);
}

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_damaged(const void *block) {
    Asthra__Found f;
    char buffer[ASTHRA__SAY_MOST];
    Asthra__Text t = asthra__text_on(buffer, sizeof buffer);
    asthra__heap_find(block, &f);
    asthra__say_allocator(&t, &f);
    asthra_panic_at(NULL,
                    "Use after free: the freed block %p (of up to %zu bytes, zone %s) was written "
                    "to%s",
                    block, f.capacity, asthra_memory_zone_to_string(f.zone), buffer);
}

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_used_after_free(const Asthra__Found *f,
                                                                          size_t at) {
    char buffer[ASTHRA__SAY_MOST];
    Asthra__Text t = asthra__text_on(buffer, sizeof buffer);
    asthra__say_freer(&t, f);
    asthra_panic_at(NULL,
                    "Use after free: byte %zu of the block %p (of up to %zu bytes, zone %s) was "
                    "written to after it was freed%s",
                    at, (void *)f->start, f->capacity, asthra_memory_zone_to_string(f->zone),
                    buffer);
}

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__heap_freed_at_once(const void *block) {
    Asthra__Found f;
    char buffer[ASTHRA__SAY_MOST];
    Asthra__Text t = asthra__text_on(buffer, sizeof buffer);
    asthra__heap_find(block, &f);
    asthra__say_allocator(&t, &f);
    asthra_panic_at(NULL,
                    "Double free: the block %p (of up to %zu bytes, zone %s) was freed by two "
                    "threads at once%s",
                    block, f.capacity, asthra_memory_zone_to_string(f.zone), buffer);
}

#endif
