/* table - numbers or texts mapped to 64-bit values.                        [table] internal
 *
 * A table's keys are all numbers or all texts (copied). Its entries stand in one array, in the
 * order in which they came; removing one moves the last entry into the hole. Running out of memory
 * is a panic, so nothing that must survive it keeps a table.
 *
 * Threads: find, count and at may run on several threads while nobody changes the table; the caller
 * locks for the rest. Creating one is safe anywhere. Blocks: never. Cost: amortised constant.
 */
#ifndef ASTHRA__TABLE_INTERNAL_H
#define ASTHRA__TABLE_INTERNAL_H

#include "alloc_internal.h"
#include "sync_internal.h"

#if ASTHRA_HAS_TABLE

typedef enum Asthra__TableKeys { ASTHRA__TABLE_NUMBERS, ASTHRA__TABLE_TEXTS } Asthra__TableKeys;

typedef union Asthra__TableKey {
    uint64_t number;
    char *text;
} Asthra__TableKey;

typedef struct Asthra__TableEntry {
    Asthra__TableKey key;
    uint64_t value;
} Asthra__TableEntry;

typedef struct Asthra__Table {
    Asthra__TableEntry *entries; /* as stb_ds keeps them: one unused stands before */
    Asthra__TableKeys keys;
} Asthra__Table;

ASTHRA__FN void asthra__table_create(Asthra__Table *t, Asthra__TableKeys keys);
ASTHRA__FN void asthra__table_destroy(Asthra__Table *t); /* a zeroed one too */

/* The value of a key, or NULL. Like that of slot, it is valid until the next slot or remove. */
ASTHRA__FN uint64_t *asthra__table_find(const Asthra__Table *t, uint64_t number);
ASTHRA__FN uint64_t *asthra__table_find_text(const Asthra__Table *t, const char *text);

/* The value of a key, made as 0 if it was not there: *asthra__table_slot(&t, id) += 1. */
ASTHRA__FN uint64_t *asthra__table_slot(Asthra__Table *t, uint64_t number);
ASTHRA__FN uint64_t *asthra__table_slot_text(Asthra__Table *t, const char *text);

/* False: it was not there. */
ASTHRA__FN bool asthra__table_remove(Asthra__Table *t, uint64_t number);
ASTHRA__FN bool asthra__table_remove_text(Asthra__Table *t, const char *text);

ASTHRA__FN size_t asthra__table_count(const Asthra__Table *t);
ASTHRA__FN const Asthra__TableEntry *asthra__table_at(const Asthra__Table *t, size_t i);

/* In a forked child, where another thread's create may have stopped half-way. */
ASTHRA__FN void asthra__table_after_fork(void);

#endif
#endif
