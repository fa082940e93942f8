/* pinned - addresses that foreign code may keep.                           [pinned] body
 *
 * A pin is an entry of a table, by its address, under the lock of one of sixteen shards. The heap
 * keeps a count of pins for each page; where that is not 0 a free asks asthra__pinned_holds whether
 * the block is pinned, and that looks for an entry of the block's start. So an entry is also made
 * for the start of each block that pins of other addresses touch, with the number of those
 * (`others`): a free looks up one entry, however many pins there are and wherever they begin.
 *
 * Plain pins, nearly all, need one entry: the range is within the block that begins at the address,
 * or is no memory of ours. The others are spread over several entries and shards; the lock `spread`
 * is taken around all that is done to them, before that of a shard. With it are, under
 * ASTHRA_RT_LOCK_PINS, the counts of the locked pages, and every pin is a spread one.
 *
 * Invariants. An entry is in the table while count or others is not 0. While an entry is_spread,
 * each block that its range touches, but for one that begins at its address, counts it among its
 * others, and its pages are counted as locked. Only the holder of `spread` changes is_spread, or
 * the size or the presence of an entry that has it. The heap has counted, at the block's start, one
 * pin for each entry that is_block and has pins, and one for each of its others. It is told of live
 * blocks only: these stay where they are until they are unpinned, so what was counted on a page is
 * taken from the same page. That is also why memory of the zones that is in no live block cannot be
 * pinned: nobody knows what will become of its page.
 *
 * Under a shard's lock nothing is called but the heap's counting, which takes no lock, the system
 * for a larger table, and the hook: so the heap's locks and these never wait for one another, nor
 * does the order matter in which the two are taken around a fork.
 */
#include "pinned_internal.h"

#include "../core/panic_internal.h"
#include "../core/text_internal.h"

#if ASTHRA_HAS_PINNED

enum { ASTHRA__PIN_SHARDS = 16, ASTHRA__PINS_REPORTED = 16 };

typedef struct Asthra__PinShard {
    ASTHRA__ALIGNED(ASTHRA__CACHE_PAIR) Asthra__Lock lock;
    Asthra__PinTable table;
} Asthra__PinShard;

static struct {
    Asthra__PinShard shards[ASTHRA__PIN_SHARDS];
    Asthra__Lock spread;
    Asthra__Once once;
    void (*changed)(void *address, size_t before, size_t after);
#if ASTHRA_HAS_LOCKED_PINS
    Asthra__PinTable pages;
#endif
} asthra__pinned;

/* ---- the zone ---- */

ASTHRA_RT_API ASTHRA__NOINLINE void *asthra_pinned_alloc(size_t size) {
    return asthra__heap_alloc(size, ASTHRA_MEMORY_ZONE_PINNED, __builtin_return_address(0));
}

ASTHRA_RT_API ASTHRA__NOINLINE void asthra_pinned_free(void *ptr) {
    asthra__heap_free(ptr, ASTHRA_MEMORY_ZONE_PINNED, __builtin_return_address(0), "pinned_free");
}

/* ---- locks ---- */

static ASTHRA__FAST Asthra__PinShard *asthra__pin_lock(uintptr_t address) {
    Asthra__PinShard *s = &asthra__pinned.shards[asthra__pin_hash(address) >> 60];
    asthra__lock(&s->lock);
    return s;
}

static void asthra__pin_lock_all(void) {
    asthra__lock(&asthra__pinned.spread);
    for (size_t i = 0; i < ASTHRA__PIN_SHARDS; i++) asthra__lock(&asthra__pinned.shards[i].lock);
}
static void asthra__pin_unlock_all(void) {
    for (size_t i = 0; i < ASTHRA__PIN_SHARDS; i++) asthra__unlock(&asthra__pinned.shards[i].lock);
    asthra__unlock(&asthra__pinned.spread);
}

/* The heap's question: is the live block that begins at `start` pinned? */
static bool asthra__pinned_holds(const void *start, size_t size) {
    (void)size;
    Asthra__PinShard *s = asthra__pin_lock((uintptr_t)start);
    bool is_held = asthra__pin_find(&s->table, (uintptr_t)start) != NULL;
    asthra__unlock(&s->lock);
    return is_held;
}

static void asthra__pinned_setup(void) {
    asthra__heap_set_pin_test(asthra__pinned_holds);
    asthra__os_on_fork(asthra__pin_lock_all, asthra__pin_unlock_all, asthra__pin_unlock_all);
}

/* ---- entries; caller holds the shard's lock ---- */

/* One more pin of the entry's address. */
static ASTHRA__FAST void asthra__pin_add(Asthra__Pin *pin, size_t size, bool is_block) {
    size_t before = pin->count == 0 ? 0 : pin->size;
    if (pin->count++ == 0) {
        pin->is_block = is_block;
        if (is_block) asthra__heap_count_pin((void *)pin->address, 1);
    }
    if (size <= before) return;
    pin->size = size;
    if (asthra__pinned.changed != NULL) asthra__pinned.changed((void *)pin->address, before, size);
}

/* The last pin of the entry's address is undone. */
static ASTHRA__FAST void asthra__pin_end(Asthra__PinTable *t, Asthra__Pin *pin) {
    if (pin->is_block) asthra__heap_count_pin((void *)pin->address, -1);
    if (asthra__pinned.changed != NULL) asthra__pinned.changed((void *)pin->address, pin->size, 0);
    pin->count = 0;
    pin->is_spread = false;
    if (pin->others == 0) asthra__pin_erase(t, pin);
}

/* ---- ranges, block by block ---- */

typedef enum Asthra__PinStep {
    ASTHRA__PIN_STEP_END,
    ASTHRA__PIN_STEP_BLOCK, /* *block is the start of a live one */
    ASTHRA__PIN_STEP_DEAD   /* *block is an address of the zones that is in none */
} Asthra__PinStep;

/* Whether an address that is in no live block is the zones' all the same: others cannot have
 * theirs there. Beside a mapping, in its last unit, they can. */
static bool asthra__pin_is_dead(const Asthra__Found *f, AsthraAddressKind kind) {
    if (kind == ASTHRA_ADDRESS_LIVE) return false;
    if (f->huge == NULL) return f->page != NULL;
    return f->huge->is_guarded || (f->huge->is_kept && kind == ASTHRA_ADDRESS_FREED);
}

/* Goes from *at to behind the next block; `last` is the last byte of the range. */
static Asthra__PinStep asthra__pin_step(uintptr_t *at, uintptr_t last, uintptr_t *block) {
    while (*at <= last) {
        Asthra__Found f;
        uintptr_t here = *at;
        AsthraAddressKind kind = asthra__heap_find((void *)here, &f);
        bool is_live = kind == ASTHRA_ADDRESS_LIVE, is_dead = asthra__pin_is_dead(&f, kind);
        *block = is_live ? (uintptr_t)f.start : here;
        if (is_live)
            *at = (uintptr_t)f.start + f.capacity;
        else if (is_dead)
            *at = (here | (ASTHRA__SLICE_BYTES - 1)) + 1;
        else /* of others; the rest of a huge block's last unit too */
            *at = (here | (ASTHRA__REGION_BYTES - 1)) + 1;
        if (is_live) return ASTHRA__PIN_STEP_BLOCK;
        if (is_dead) return ASTHRA__PIN_STEP_DEAD;
        if (*at == 0) break; /* the end of the address space */
    }
    return ASTHRA__PIN_STEP_END;
}

/* One more address whose pins touch the block. false: no memory. */
static bool asthra__pin_add_other(uintptr_t block) {
    Asthra__PinShard *s = asthra__pin_lock(block);
    Asthra__Pin *pin = asthra__pin_slot(&s->table, block);
    if (pin != NULL) {
        pin->others++;
        asthra__heap_count_pin((void *)block, 1);
    }
    asthra__unlock(&s->lock);
    return pin != NULL;
}

static void asthra__pin_remove_other(uintptr_t block) {
    Asthra__PinShard *s = asthra__pin_lock(block);
    Asthra__Pin *pin = asthra__pin_find(&s->table, block);
    if (pin != NULL && pin->others != 0) {
        asthra__heap_count_pin((void *)block, -1);
        if (--pin->others == 0 && pin->count == 0) asthra__pin_erase(&s->table, pin);
    }
    asthra__unlock(&s->lock);
}

/* Why a range cannot be held. */
typedef struct Asthra__PinRefusal {
    AsthraStatus status;
    uintptr_t dead; /* INVALID: an address in no live block */
    int error;      /* LIMIT: the system's, of locking pages */
} Asthra__PinRefusal;

/* Caller holds spread, as for the next. */
static void asthra__pin_let_blocks_go(uintptr_t address, size_t size) {
    uintptr_t at = address, last = address + (size - 1), block;
    Asthra__PinStep step;
    while ((step = asthra__pin_step(&at, last, &block)) != ASTHRA__PIN_STEP_END)
        if (step == ASTHRA__PIN_STEP_BLOCK && block != address) asthra__pin_remove_other(block);
}

static Asthra__PinRefusal asthra__pin_hold_blocks(uintptr_t address, size_t size) {
    Asthra__PinRefusal why = {ASTHRA_OK, 0, 0};
    uintptr_t at = address, done = address, block;
    for (; why.status == ASTHRA_OK; done = at) {
        Asthra__PinStep step = asthra__pin_step(&at, address + (size - 1), &block);
        if (step == ASTHRA__PIN_STEP_END) return why;
        if (step == ASTHRA__PIN_STEP_DEAD)
            why = (Asthra__PinRefusal){ASTHRA_INVALID, block, 0};
        else if (block != address && !asthra__pin_add_other(block))
            why.status = ASTHRA_OUT_OF_MEMORY;
        if (why.status != ASTHRA_OK) break;
    }
    if (done != address) asthra__pin_let_blocks_go(address, done - address);
    return why;
}

/* ---- locked pages; caller holds spread ---- */

#if ASTHRA_HAS_LOCKED_PINS

static uintptr_t asthra__pin_page_of(uintptr_t address) {
    return address & ~((uintptr_t)asthra__os_page_size() - 1);
}

/* Unlocks those pages from `first` to `last` that nothing counts, each run of them in one call. */
static void asthra__pin_unlock_idle(uintptr_t first, uintptr_t last) {
    uintptr_t page = asthra__os_page_size(), run = 0;
    for (uintptr_t at = first; at != last + page; at += page) {
        bool is_idle = asthra__pin_find(&asthra__pinned.pages, at) == NULL;
        if (!is_idle && run != 0) asthra__os_unlock_pages((void *)(at - run), run);
        run = is_idle ? run + page : 0;
    }
    if (run != 0) asthra__os_unlock_pages((void *)(last + page - run), run);
}

static void asthra__pin_uncount_pages(uintptr_t first, uintptr_t end) {
    for (uintptr_t at = first; at != end; at += asthra__os_page_size()) {
        Asthra__Pin *pin = asthra__pin_find(&asthra__pinned.pages, at);
        if (--pin->count == 0) asthra__pin_erase(&asthra__pinned.pages, pin);
    }
}

static void asthra__pin_let_pages_go(uintptr_t address, size_t size) {
    uintptr_t first = asthra__pin_page_of(address);
    uintptr_t last = asthra__pin_page_of(address + (size - 1));
    asthra__pin_uncount_pages(first, last + asthra__os_page_size());
    asthra__pin_unlock_idle(first, last);
}

static Asthra__PinRefusal asthra__pin_hold_pages(uintptr_t address, size_t size) {
    uintptr_t first = asthra__pin_page_of(address), page = asthra__os_page_size();
    uintptr_t last = asthra__pin_page_of(address + (size - 1)), at = first;
    Asthra__PinRefusal why = {ASTHRA_OK, 0, 0};
    why.error = asthra__os_lock_pages((void *)first, last - first + page);
    if (why.error != 0) why.status = ASTHRA_LIMIT;
    for (; why.status == ASTHRA_OK && at != last + page; at += page) {
        Asthra__Pin *pin = asthra__pin_slot(&asthra__pinned.pages, at);
        if (pin == NULL) {
            why.status = ASTHRA_OUT_OF_MEMORY;
            break;
        }
        pin->count++;
    }
    if (why.status == ASTHRA_OK) return why;
    asthra__pin_uncount_pages(first, at);
    asthra__pin_unlock_idle(first, last);
    return why;
}

#else

static void asthra__pin_let_pages_go(uintptr_t address, size_t size) {
    (void)address, (void)size;
}
static Asthra__PinRefusal asthra__pin_hold_pages(uintptr_t address, size_t size) {
    (void)address, (void)size;
    return (Asthra__PinRefusal){ASTHRA_OK, 0, 0};
}

#endif

/* ---- spread pins; caller holds spread ---- */

static void asthra__pin_let_go(uintptr_t address, size_t size) {
    asthra__pin_let_pages_go(address, size);
    asthra__pin_let_blocks_go(address, size);
}

static Asthra__PinRefusal asthra__pin_hold(uintptr_t address, size_t size) {
    Asthra__PinRefusal why = asthra__pin_hold_blocks(address, size);
    if (why.status != ASTHRA_OK) return why;
    why = asthra__pin_hold_pages(address, size);
    if (why.status != ASTHRA_OK) asthra__pin_let_blocks_go(address, size);
    return why;
}

/* The range is held once for this pin; what its address holds already is let go again, or this one
 * is, whichever is less. */
static Asthra__PinRefusal asthra__pin_spread_held(uintptr_t address, size_t size, bool is_block) {
    Asthra__PinShard *s = asthra__pin_lock(address);
    Asthra__Pin *pin = asthra__pin_slot(&s->table, address);
    size_t twice = pin == NULL ? size : pin->is_spread ? pin->size : 0;
    if (pin != NULL) {
        asthra__pin_add(pin, size, is_block);
        pin->is_spread = true;
    }
    asthra__unlock(&s->lock);
    if (twice > size) twice = size;
    if (twice != 0) asthra__pin_let_go(address, twice);
    return (Asthra__PinRefusal){pin == NULL ? ASTHRA_OUT_OF_MEMORY : ASTHRA_OK, 0, 0};
}

static void asthra__pin_explain(const void *ptr, size_t size, const Asthra__PinRefusal *why) {
    if (why->status == ASTHRA_INVALID)
        asthra__error_set(ASTHRA_INVALID,
                          "of %zu bytes from %p, %p is in a zone, but in no live block: it was "
                          "freed, or never given out",
                          size, ptr, (void *)why->dead);
    else if (why->status == ASTHRA_LIMIT)
        asthra__error_set(ASTHRA_LIMIT,
                          "the system does not lock %zu bytes from %p into memory (errno %d): is "
                          "all of it mapped, and is ulimit -l enough?",
                          size, ptr, why->error);
    else
        asthra__error_note(why->status);
}

ASTHRA__COLD static bool asthra__pin_spread(void *ptr, size_t size, bool is_block) {
    asthra__lock(&asthra__pinned.spread);
    Asthra__PinRefusal why = asthra__pin_hold((uintptr_t)ptr, size);
    if (why.status == ASTHRA_OK) why = asthra__pin_spread_held((uintptr_t)ptr, size, is_block);
    asthra__unlock(&asthra__pinned.spread);
    if (why.status != ASTHRA_OK) asthra__pin_explain(ptr, size, &why);
    return why.status == ASTHRA_OK;
}

/* Undoes one pin; *rest is what its address held if that was the last and is to be let go. */
static bool asthra__pin_undo(Asthra__PinShard *s, uintptr_t address, size_t *rest) {
    Asthra__Pin *pin = asthra__pin_find(&s->table, address);
    if (pin == NULL || pin->count == 0) return false;
    if (pin->count > 1) {
        pin->count--;
        return true;
    }
    *rest = pin->is_spread ? pin->size : 0;
    asthra__pin_end(&s->table, pin);
    return true;
}

ASTHRA__COLD static bool asthra__unpin_spread(uintptr_t address) {
    size_t rest = 0;
    asthra__lock(&asthra__pinned.spread);
    Asthra__PinShard *s = asthra__pin_lock(address);
    bool was_pinned = asthra__pin_undo(s, address, &rest);
    asthra__unlock(&s->lock);
    if (rest != 0) asthra__pin_let_go(address, rest);
    asthra__unlock(&asthra__pinned.spread);
    return was_pinned;
}

/* ---- pins ---- */

/* Whether one entry is all that the pin needs. */
static ASTHRA__FAST bool asthra__pin_is_plain(uintptr_t address, size_t size, bool *is_block) {
    Asthra__Found f;
    AsthraAddressKind kind = asthra__heap_find((void *)address, &f);
    bool is_live = kind == ASTHRA_ADDRESS_LIVE;
    *is_block = is_live && (uintptr_t)f.start == address;
    if (ASTHRA_HAS_LOCKED_PINS) return false;
    if (is_live) return *is_block && size <= f.capacity;
    return !asthra__pin_is_dead(&f, kind) &&
           ((address + (size - 1)) ^ address) < ASTHRA__REGION_BYTES;
}

ASTHRA__COLD static bool asthra__pin_refuse(const void *ptr, size_t size) {
    if (ptr == NULL)
        asthra__error_set(ASTHRA_INVALID, "ptr is NULL: there is nothing to pin");
    else if (size == 0)
        asthra__error_set(ASTHRA_INVALID, "size is 0: expected the bytes to pin from %p on", ptr);
    else
        asthra__error_set(ASTHRA_INVALID, "%zu bytes from %p go past the end of the address space",
                          size, ptr);
    return false;
}

ASTHRA_RT_API bool asthra_pin_memory(void *ptr, size_t size) {
    uintptr_t address = (uintptr_t)ptr;
    bool is_block, is_spread = false;
    if (ASTHRA__UNLIKELY(ptr == NULL || size == 0 || size - 1 > UINTPTR_MAX - address))
        return asthra__pin_refuse(ptr, size);
    asthra__once(&asthra__pinned.once, asthra__pinned_setup);
    bool is_plain = asthra__pin_is_plain(address, size, &is_block);
    Asthra__PinShard *s = asthra__pin_lock(address);
    Asthra__Pin *pin =
        is_plain ? asthra__pin_slot(&s->table, address) : asthra__pin_find(&s->table, address);
    if (!is_plain) is_spread = pin == NULL || pin->count == 0 || pin->size < size;
    if (!is_spread && pin != NULL) asthra__pin_add(pin, size, is_block);
    asthra__unlock(&s->lock);
    if (is_spread) return asthra__pin_spread(ptr, size, is_block);
    if (ASTHRA__UNLIKELY(pin == NULL)) asthra__error_note(ASTHRA_OUT_OF_MEMORY);
    return pin != NULL;
}

ASTHRA_RT_API bool asthra_unpin_memory(void *ptr) {
    uintptr_t address = (uintptr_t)ptr;
    size_t rest = 0;
    Asthra__PinShard *s = asthra__pin_lock(address);
    Asthra__Pin *pin = asthra__pin_find(&s->table, address);
    bool is_spread = pin != NULL && pin->is_spread && pin->count == 1;
    bool was_pinned = !is_spread && asthra__pin_undo(s, address, &rest);
    asthra__unlock(&s->lock);
    if (is_spread) was_pinned = asthra__unpin_spread(address);
    if (ASTHRA__UNLIKELY(!was_pinned))
        asthra__error_set(ASTHRA_INVALID, "%p is not pinned: expected the ptr of a pin", ptr);
    return was_pinned;
}

ASTHRA_RT_API size_t asthra_pin_count(const void *ptr) {
    Asthra__PinShard *s = asthra__pin_lock((uintptr_t)ptr);
    const Asthra__Pin *pin = asthra__pin_find(&s->table, (uintptr_t)ptr);
    size_t count = pin == NULL ? 0 : pin->count;
    asthra__unlock(&s->lock);
    return count;
}

/* ---- lists ---- */

static bool asthra__pin_shard_touches(Asthra__PinShard *s, uintptr_t start, uintptr_t last) {
    bool touches = false;
    asthra__lock(&s->lock);
    for (size_t i = 0; i < s->table.room && !touches; i++) {
        const Asthra__Pin *pin = &s->table.slots[i];
        touches = pin->count != 0 && pin->address <= last && pin->address + pin->size - 1 >= start;
    }
    asthra__unlock(&s->lock);
    return touches;
}

ASTHRA__FN bool asthra__pinned_touches(const void *start, size_t size) {
    uintptr_t first = (uintptr_t)start, last = first + (size != 0 ? size - 1 : 0);
    for (size_t i = 0; i < ASTHRA__PIN_SHARDS; i++)
        if (asthra__pin_shard_touches(&asthra__pinned.shards[i], first, last)) return true;
    return false;
}

/* Appends the pins of a shard that still fit; returns how many there are with those before. */
static size_t asthra__pin_list_shard(const Asthra__PinTable *t, AsthraPinInfo *out, size_t room,
                                     size_t have) {
    for (size_t i = 0; i < t->room; i++) {
        const Asthra__Pin *pin = &t->slots[i];
        if (pin->count == 0) continue;
        if (have < room) out[have] = (AsthraPinInfo){(void *)pin->address, pin->size, pin->count};
        have++;
    }
    return have;
}

ASTHRA_RT_API size_t asthra_pin_list(AsthraPinInfo *out, size_t room) {
    size_t have = 0;
    asthra__pin_lock_all();
    for (size_t i = 0; i < ASTHRA__PIN_SHARDS; i++)
        have = asthra__pin_list_shard(&asthra__pinned.shards[i].table, out, room, have);
    asthra__pin_unlock_all();
    return have;
}

static void asthra__pin_report(const AsthraPinInfo *pin) {
    static const char *const words[] = {
        [ASTHRA_ADDRESS_UNMAPPED] = "where nothing is mapped any more",
        [ASTHRA_ADDRESS_LIVE] = "",
        [ASTHRA_ADDRESS_FREED] = "",
        [ASTHRA_ADDRESS_SLACK] = "",
        [ASTHRA_ADDRESS_STACK] = "on a stack",
        [ASTHRA_ADDRESS_STATIC] = "static data or code",
        [ASTHRA_ADDRESS_FOREIGN] = "memory of others",
    };
    AsthraMemoryZone zone = asthra__heap_zone_of(pin->address);
    bool is_ours = zone != ASTHRA_MEMORY_ZONE_NONE;
    asthra__text_report("asthra_rt: still pinned: %zu bytes from %p (%zu pin%s), %s%s", pin->size,
                        pin->address, pin->count, pin->count == 1 ? "" : "s",
                        is_ours ? "zone " : words[asthra__heap_outside(pin->address)],
                        is_ours ? asthra_memory_zone_to_string(zone) : "");
}

ASTHRA__FN size_t asthra__pinned_report(void) {
    AsthraPinInfo pins[ASTHRA__PINS_REPORTED];
    size_t count = asthra_pin_list(pins, ASTHRA__PINS_REPORTED);
    for (size_t i = 0; i < count && i < ASTHRA__PINS_REPORTED; i++) asthra__pin_report(&pins[i]);
    if (count > ASTHRA__PINS_REPORTED)
        asthra__text_report("asthra_rt: still pinned: and %zu more", count - ASTHRA__PINS_REPORTED);
    return count;
}

ASTHRA__FN void asthra__pinned_set_hook(void (*changed)(void *address, size_t before,
                                                        size_t after)) {
    asthra__pinned.changed = changed;
}

#endif
