/* table - numbers or texts mapped to 64-bit values.                        [table] body
 *
 * The only file that sees stb_ds. Its functions are called and not its macros, which need typeof. A
 * map of stb_ds is a pointer to the first entry; before it stand one entry that holds a default,
 * unused here, and the header with the length. Four traps of stb_ds, and what is done about them:
 *
 * - It never looks at what realloc returned: our settings give it asthra__alloc_or_die. The sizes
 *   it asks for are products that could wrap, so asthra__table_enter refuses long before they do.
 * - The first put of an empty map, and a get from it, allocate and draw from a global seed. A table
 *   is therefore made whole when it is created, under a lock; later nothing touches the seed.
 * - A plain get writes to the header, so that two readers would race. Only the _ts form is called.
 * - A put of a new key leaves the value as it was in memory: it is zeroed here.
 */
#include "table_internal.h"

#if ASTHRA_HAS_TABLE

#include "stb_ds_open.h"
#include "stb_ds_close.h"

enum { ASTHRA__TABLE_ENTRY_BYTES = sizeof(Asthra__TableEntry) };

/* An entry costs 16 bytes in the array and 16 or more in the index; both may double at once. */
#define ASTHRA__TABLE_MAX (SIZE_MAX / 256)

_Static_assert(offsetof(Asthra__TableEntry, key) == 0, "stb_ds looks for the key at the start");

static struct { Asthra__Lock lock; /* over the seed of stb_ds */ } asthra__table;

static asthra__stbds_array_header *asthra__table_header(const Asthra__Table *t) {
    return (asthra__stbds_array_header *)(void *)(t->entries - 1) - 1;
}

/* How stb_ds hashes and compares the keys of t: the bytes of a number, or a text to its NUL. */
static int asthra__table_mode(const Asthra__Table *t) {
    return t->keys == ASTHRA__TABLE_TEXTS; /* STBDS_HM_STRING is 1, STBDS_HM_BINARY 0 */
}

/* What stb_ds takes as the key: the text itself, or the address of the number. */
static void *asthra__table_key(const Asthra__Table *t, Asthra__TableKey *key) {
    return t->keys == ASTHRA__TABLE_TEXTS ? (void *)key->text : (void *)&key->number;
}

static Asthra__TableKey asthra__table_text(const char *text) {
    Asthra__TableKey key = {0};
    key.text = (char *)(uintptr_t)text; /* only read: stb_ds keeps a copy */
    return key;
}

static uint64_t *asthra__table_look(const Asthra__Table *t, Asthra__TableKey key) {
    if (!t->entries) return NULL;
    ptrdiff_t i = -1;
    asthra__stbds_hmget_key_ts(t->entries, ASTHRA__TABLE_ENTRY_BYTES, asthra__table_key(t, &key),
                               sizeof key, &i, asthra__table_mode(t));
    return i < 0 ? NULL : &t->entries[i].value;
}

static uint64_t *asthra__table_enter(Asthra__Table *t, Asthra__TableKey key) {
    size_t before = asthra__table_count(t);
    ASTHRA__CHECK(t->entries && before < ASTHRA__TABLE_MAX);
    t->entries =
        asthra__stbds_hmput_key(t->entries, ASTHRA__TABLE_ENTRY_BYTES, asthra__table_key(t, &key),
                                sizeof key, asthra__table_mode(t));
    Asthra__TableEntry *entry = &t->entries[asthra__table_header(t)->temp];
    if (asthra__table_count(t) > before) entry->value = 0;
    return &entry->value;
}

static bool asthra__table_drop(Asthra__Table *t, Asthra__TableKey key) {
    if (!t->entries) return false;
    t->entries =
        asthra__stbds_hmdel_key(t->entries, ASTHRA__TABLE_ENTRY_BYTES, asthra__table_key(t, &key),
                                sizeof key, 0, asthra__table_mode(t));
    return asthra__table_header(t)->temp == 1;
}

ASTHRA__FN void asthra__table_create(Asthra__Table *t, Asthra__TableKeys keys) {
    int mode = keys == ASTHRA__TABLE_TEXTS ? ASTHRA__STBDS_SH_STRDUP : ASTHRA__STBDS_SH_NONE;
    asthra__lock(&asthra__table.lock);
    t->entries = asthra__stbds_shmode_func(ASTHRA__TABLE_ENTRY_BYTES, mode);
    asthra__unlock(&asthra__table.lock);
    t->keys = keys;
}

ASTHRA__FN void asthra__table_destroy(Asthra__Table *t) {
    if (t->entries) asthra__stbds_hmfree_func(t->entries - 1, ASTHRA__TABLE_ENTRY_BYTES);
    t->entries = NULL;
}

ASTHRA__FN uint64_t *asthra__table_find(const Asthra__Table *t, uint64_t number) {
    ASTHRA__ASSERT(t->keys == ASTHRA__TABLE_NUMBERS);
    return asthra__table_look(t, (Asthra__TableKey){.number = number});
}

ASTHRA__FN uint64_t *asthra__table_find_text(const Asthra__Table *t, const char *text) {
    ASTHRA__ASSERT(!t->entries || t->keys == ASTHRA__TABLE_TEXTS);
    return asthra__table_look(t, asthra__table_text(text));
}

ASTHRA__FN uint64_t *asthra__table_slot(Asthra__Table *t, uint64_t number) {
    ASTHRA__CHECK(t->keys == ASTHRA__TABLE_NUMBERS);
    return asthra__table_enter(t, (Asthra__TableKey){.number = number});
}

ASTHRA__FN uint64_t *asthra__table_slot_text(Asthra__Table *t, const char *text) {
    ASTHRA__CHECK(t->keys == ASTHRA__TABLE_TEXTS);
    return asthra__table_enter(t, asthra__table_text(text));
}

ASTHRA__FN bool asthra__table_remove(Asthra__Table *t, uint64_t number) {
    ASTHRA__ASSERT(t->keys == ASTHRA__TABLE_NUMBERS);
    return asthra__table_drop(t, (Asthra__TableKey){.number = number});
}

ASTHRA__FN bool asthra__table_remove_text(Asthra__Table *t, const char *text) {
    ASTHRA__ASSERT(!t->entries || t->keys == ASTHRA__TABLE_TEXTS);
    return asthra__table_drop(t, asthra__table_text(text));
}

ASTHRA__FN size_t asthra__table_count(const Asthra__Table *t) {
    return t->entries ? asthra__table_header(t)->length - 1 : 0;
}

ASTHRA__FN const Asthra__TableEntry *asthra__table_at(const Asthra__Table *t, size_t i) {
    ASTHRA__CHECK(i < asthra__table_count(t));
    return &t->entries[i];
}

ASTHRA__FN void asthra__table_after_fork(void) {
    asthra__table.lock = (Asthra__Lock){0};
}

#endif
