/* logscan_tally - what logscan knows about lines: a parser, and tables of what was counted.
 *
 * Nothing here knows of tasks. A Tally belongs to whoever has it, and tally_merge adds one to
 * another; that is all it takes for counting on many cores.
 */
#ifndef LOGSCAN_TALLY_H
#define LOGSCAN_TALLY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* ---- tables ---- */

typedef struct Text {
    const char *at;
    size_t length;
} Text;

typedef struct Row {
    uint64_t requests, bytes;
    size_t length;
    char name[];
} Row;

typedef struct Slot {
    uint32_t hash;
    uint32_t row; /* its offset in rows; 0: free */
} Slot;

/* Open addressing. Rows stand in order of arrival, each with its name behind it: frequent names
 * arrive early, so the rows that are needed most lie together in the cache. */
typedef struct Table {
    Slot *slots;
    size_t slot_count; /* a power of two, and at least twice the rows */
    uint64_t *rows;    /* words; no row is at 0 */
    size_t words, word_room, row_count;
} Table;

static Row *row_at(const Table *t, size_t offset) { return (Row *)(void *)(t->rows + offset); }

static size_t row_words(size_t name_length) {
    return (sizeof(Row) + name_length + sizeof(uint64_t) - 1) / sizeof(uint64_t);
}

/* The row that arrived after `row` (NULL: the first of all), or NULL. */
static const Row *row_next(const Table *t, const Row *row) {
    const uint64_t *words = (const void *)row;
    size_t at = row ? (size_t)(words - t->rows) + row_words(row->length) : 1;
    return at < t->words ? row_at(t, at) : NULL;
}

static uint64_t mix(uint64_t x) {
    x *= 0x9E3779B97F4A7C15U;
    return x ^ x >> 32;
}

static uint64_t word_at(const char *at) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

/* By words; the last one overlaps the one before it, which is quicker than a loop over the rest. */
static uint32_t hash_of(Text name) {
    const char *at = name.at, *end = at + name.length;
    uint64_t hash = name.length, rest = 0;
    if (name.length < 8) {
        while (at < end) rest = rest << 8 | (unsigned char)*at++;
        return (uint32_t)mix(hash ^ rest);
    }
    for (; at < end - 8; at += 8) hash = mix(hash ^ word_at(at));
    return (uint32_t)mix(hash ^ word_at(end - 8));
}

static bool row_is(const Row *row, Text name) {
    if (row->length != name.length) return false;
    if (name.length < 8) return memcmp(row->name, name.at, name.length) == 0;
    size_t last = name.length - 8;
    for (size_t i = 0; i < last; i += 8) {
        if (word_at(row->name + i) != word_at(name.at + i)) return false;
    }
    return word_at(row->name + last) == word_at(name.at + last);
}

/* The slot of `name`, or the free one where it belongs. */
static Slot *table_find(const Table *t, Text name, uint32_t hash) {
    for (size_t i = hash;; i++) {
        Slot *slot = &t->slots[i & (t->slot_count - 1)];
        if (!slot->row || (slot->hash == hash && row_is(row_at(t, slot->row), name))) return slot;
    }
}

static bool table_widen(Table *t) {
    size_t count = t->slot_count ? t->slot_count * 2 : 128;
    Slot *slots = calloc(count, sizeof *slots);
    if (!slots) return false;
    for (size_t old = 0; old < t->slot_count; old++) {
        if (!t->slots[old].row) continue;
        size_t i = t->slots[old].hash;
        while (slots[i & (count - 1)].row) i++;
        slots[i & (count - 1)] = t->slots[old];
    }
    free(t->slots);
    t->slots = slots;
    t->slot_count = count;
    return true;
}

/* The offset of a new row; 0: out of memory. */
static uint32_t table_append(Table *t, Text name) {
    size_t at = t->words ? t->words : 1, end = at + row_words(name.length);
    if (end > UINT32_MAX) return 0;
    if (end > t->word_room) {
        uint64_t *rows = realloc(t->rows, end * 2 * sizeof *rows);
        if (!rows) return 0;
        t->rows = rows;
        t->word_room = end * 2;
    }
    Row *row = row_at(t, at);
    *row = (Row){.length = name.length};
    memcpy(row->name, name.at, name.length);
    t->words = end;
    t->row_count++;
    return (uint32_t)at;
}

/* False: out of memory. */
static bool table_add(Table *t, Text name, uint64_t requests, uint64_t bytes) {
    if (t->row_count * 2 >= t->slot_count && !table_widen(t)) return false;
    uint32_t hash = hash_of(name);
    Slot *slot = table_find(t, name, hash);
    if (!slot->row) *slot = (Slot){hash, table_append(t, name)};
    if (!slot->row) return false;
    Row *row = row_at(t, slot->row);
    row->requests += requests;
    row->bytes += bytes;
    return true;
}

/* By requests; names decide among equals, so that the same input always gives the same output. */
static bool row_precedes(const Row *a, const Row *b) {
    if (a->requests != b->requests) return a->requests > b->requests;
    int order = memcmp(a->name, b->name, a->length < b->length ? a->length : b->length);
    return order ? order < 0 : a->length < b->length;
}

/* The first row that comes after `previous` (NULL: the first of all), or NULL. */
static const Row *row_after(const Table *t, const Row *previous) {
    const Row *first = NULL;
    for (const Row *row = row_next(t, NULL); row; row = row_next(t, row)) {
        if (previous && !row_precedes(previous, row)) continue;
        if (!first || row_precedes(row, first)) first = row;
    }
    return first;
}

/* ---- lines ---- */

enum { STATUS, METHOD, PATH, HOST, TABLES };

typedef struct Tally {
    Table tables[TABLES];
    uint64_t lines, requests, bytes;
    bool out_of_memory; /* then the counts are worth nothing */
} Tally;

typedef struct Request {
    Text names[TABLES];
    uint64_t bytes;
} Request;

static const char *find(const char *at, const char *end, char wanted) {
    const char *found = memchr(at, wanted, (size_t)(end - at));
    return found ? found : end;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* `METHOD path...` */
static bool parse_quoted(const char *at, const char *end, Request *r) {
    const char *method = at;
    while (at < end && *at >= 'A' && *at <= 'Z') at++;
    if (at == method || at == end || *at != ' ') return false;
    r->names[METHOD] = (Text){method, (size_t)(at - method)};
    const char *path = ++at;
    while (at < end && *at != ' ' && *at != '?') at++;
    r->names[PATH] = (Text){path, (size_t)(at - path)};
    return at > path;
}

/* ` 200 1234` or ` 304 -`, then the end or a space. No answer has more than fifteen digits. */
static bool parse_numbers(const char *at, const char *end, Request *r) {
    if (end - at < 6 || at[0] != ' ' || at[1] < '1' || at[1] > '5' || !is_digit(at[2]) ||
        !is_digit(at[3]) || at[4] != ' ') {
        return false;
    }
    r->names[STATUS] = (Text){at + 1, 3};
    const char *digits = at += 5;
    r->bytes = 0;
    for (; at < end && is_digit(*at) && at - digits < 15; at++) {
        r->bytes = r->bytes * 10 + (uint64_t)(*at - '0');
    }
    if (at == digits && *at++ != '-') return false;
    return at == end || *at == ' ';
}

static bool parse_line(const char *at, const char *end, Request *r) {
    if (at < end && end[-1] == '\r') end--;
    const char *quote = find(at, end, '"');
    const char *host_end = find(at, quote, ' ');
    if (quote == end || host_end == quote || host_end == at) return false;
    r->names[HOST] = (Text){at, (size_t)(host_end - at)};
    const char *quote_end = find(quote + 1, end, '"');
    return quote_end < end && parse_quoted(quote + 1, quote_end, r) &&
           parse_numbers(quote_end + 1, end, r);
}

static void tally_line(Tally *t, const char *line, const char *end) {
    Request r;
    t->lines++;
    if (!parse_line(line, end, &r)) return;
    t->requests++;
    t->bytes += r.bytes;
    for (int i = 0; i < TABLES; i++) {
        if (!table_add(&t->tables[i], r.names[i], 1, r.bytes)) t->out_of_memory = true;
    }
}

static void tally_merge(Tally *into, const Tally *from) {
    into->lines += from->lines;
    into->requests += from->requests;
    into->bytes += from->bytes;
    into->out_of_memory |= from->out_of_memory;
    for (int i = 0; i < TABLES; i++) {
        const Table *t = &from->tables[i];
        for (const Row *row = row_next(t, NULL); row; row = row_next(t, row)) {
            Text name = {row->name, row->length};
            if (!table_add(&into->tables[i], name, row->requests, row->bytes)) {
                into->out_of_memory = true;
            }
        }
    }
}

static void tally_free(Tally *tally) {
    for (int i = 0; i < TABLES; i++) {
        free(tally->tables[i].slots);
        free(tally->tables[i].rows);
    }
}

#endif
