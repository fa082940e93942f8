/* concordance - the words that a text has most often, and the lines they stand on.
 *
 *     concordance [file]       without a file: examples/opticks.txt
 *
 * Main cuts the text into parts that end where a line ends, and spawns a task for each. A task
 * notes the words of its part in its stack zone, which it shares with nobody: no lock, and no free,
 * because the zone ends with the task. What is to outlive the task it copies, under a lock, to the
 * index: the same structure in the manual zone, where each block is freed by hand. Parts come to
 * the index in any order; words and lines are sorted in the end, so that the answer is always one.
 */
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLE "examples/opticks.txt"
#define PART_BYTES ((size_t)4096)
#define SHORTEST 5 /* letters of a word: "the", "of" and "and" tell little */
#define WORDS_SHOWN 12
#define LINES_SHOWN 10

typedef struct Line {
    struct Line *next;
    size_t number;
} Line;

typedef struct Word {
    struct Word *child[4]; /* by two bits of the hash for each level */
    struct Word *next;     /* in the list of all */
    Line *lines;           /* each once */
    size_t count, line_count, length;
    char text[]; /* in small letters */
} Word;

typedef struct Words {
    AsthraMemoryZone zone; /* of every block */
    Word *root, *all;
    size_t count;
} Words;

typedef struct Part {
    char *text, *end;
    size_t line; /* the number of the first one */
    Words *index;
    AsthraMutex *lock; /* of the index */
    AsthraTaskHandle task;
} Part;

static void *must(void *block) {
    if (!block) asthra_panic("%s", asthra_result_message(asthra_last_error()));
    return block;
}

/* The word of these letters, a new one if there was none. */
static Word *words_get(Words *s, const char *text, size_t length) {
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)text[i]) * 1099511628211u;
    Word **at = &s->root;
    for (; *at; at = &(*at)->child[hash & 3], hash >>= 2) {
        if ((*at)->length == length && memcmp((*at)->text, text, length) == 0) return *at;
    }
    Word *w = *at = must(asthra_alloc(sizeof(Word) + length + 1, s->zone));
    *w = (Word){.next = s->all, .length = length};
    memcpy(w->text, text, length);
    w->text[length] = '\0';
    s->all = w;
    s->count++;
    return w;
}

static void word_add_line(Word *w, size_t number, AsthraMemoryZone zone) {
    Line *line = must(asthra_alloc(sizeof(Line), zone));
    *line = (Line){w->lines, number};
    w->lines = line;
    w->line_count++;
}

static void words_add(Words *s, const Words *others) {
    for (const Word *other = others->all; other; other = other->next) {
        Word *w = words_get(s, other->text, other->length);
        w->count += other->count;
        for (Line *l = other->lines; l; l = l->next) word_add_line(w, l->number, s->zone);
    }
}

static void words_free(Words *s) {
    for (Word *w = s->all, *next; w; w = next) {
        next = w->next;
        for (Line *l = w->lines, *next_line; l; l = next_line) {
            next_line = l->next;
            asthra_free(l, s->zone);
        }
        asthra_free(w, s->zone);
    }
}

/* 0: no letter. In any locale; bytes above ASCII are letters, so that words in UTF-8 hold. */
static char small_letter(char c) {
    if (c >= 'A' && c <= 'Z') return (char)(c - 'A' + 'a');
    return (c >= 'a' && c <= 'z') || (unsigned char)c >= 0x80 ? c : 0;
}

static void *index_part(void *arg) {
    Part *p = arg;
    Words notes = {.zone = ASTHRA_MEMORY_ZONE_STACK};
    size_t length, line = p->line;
    for (char *at = p->text; at < p->end; at += length ? length : 1) {
        for (length = 0; at + length < p->end && small_letter(at[length]); length++) {
            at[length] = small_letter(at[length]);
        }
        if (*at == '\n') line++;
        if (length < SHORTEST) continue;
        Word *w = words_get(&notes, at, length);
        w->count++;
        if (!w->lines || w->lines->number != line) word_add_line(w, line, notes.zone);
    }
    asthra_result_unwrap(asthra_mutex_lock(p->lock));
    words_add(p->index, &notes);
    asthra_mutex_unlock(p->lock);
    return NULL; /* and with the task go its notes */
}

/* Cuts the text, lets each part be indexed by a task of its own and waits for all of them. */
static void index_text(Words *index, char *text, size_t length) {
    AsthraMutex lock = ASTHRA_MUTEX_INIT;
    Part *parts = must(ASTHRA_NEW_ARRAY(Part, length / PART_BYTES + 1, MANUAL));
    char *at = text, *end = text + length;
    size_t count = 0, line = 1;
    for (; at < end; at = parts[count++].end) {
        size_t most = (size_t)(end - at);
        char *cut = most > PART_BYTES ? memchr(at + PART_BYTES, '\n', most - PART_BYTES) : NULL;
        Part *p = &parts[count];
        *p = (Part){at, cut ? cut + 1 : end, line, index, &lock, {0}};
        for (char *c = at; c < p->end; c++) line += *c == '\n';
        p->task = asthra_spawn(index_part, p);
    }
    while (count > 0) asthra_await(parts[--count].task);
    asthra_manual_free(parts);
}

static int by_count(const void *a, const void *b) {
    const Word *v = *(Word *const *)a, *w = *(Word *const *)b;
    if (v->count != w->count) return v->count > w->count ? -1 : 1;
    return strcmp(v->text, w->text);
}

static int by_number(const void *a, const void *b) {
    size_t m = *(const size_t *)a, n = *(const size_t *)b;
    return m < n ? -1 : m > n;
}

static void print_word(const Word *w) {
    ASTHRA_STACK_SCOPE(sorting) {
        size_t *numbers = must(ASTHRA_NEW_ARRAY(size_t, w->line_count, STACK)), n = 0;
        for (const Line *l = w->lines; l; l = l->next) numbers[n++] = l->number;
        qsort(numbers, n, sizeof *numbers, by_number);
        printf("%6zu %-14s", w->count, w->text);
        for (size_t i = 0; i < n && i < LINES_SHOWN; i++) printf(" %zu", numbers[i]);
        puts(n > LINES_SHOWN ? " ..." : "");
    }
}

static void print_index(const Words *index) {
    ASTHRA_STACK_SCOPE(sorting) {
        Word **sorted = must(ASTHRA_NEW_ARRAY(Word *, index->count, STACK));
        size_t n = 0;
        for (Word *w = index->all; w; w = w->next) sorted[n++] = w;
        qsort(sorted, n, sizeof *sorted, by_count);
        printf("%zu words, and the lines of the most frequent:\n", n);
        for (size_t i = 0; i < n && i < WORDS_SHOWN; i++) print_word(sorted[i]);
    }
}

static void print_zone(AsthraMemoryZone zone) {
    AsthraMemoryStatistics s = asthra_memory_statistics(zone);
    printf("%s: %zu blocks, %zu bytes left\n", asthra_memory_zone_to_string(zone), s.count,
           s.current);
}

/* The whole file in a manual block; NULL: errno says why not. */
static char *read_file(const char *name, size_t *length) {
    FILE *file = fopen(name, "rb");
    if (!file) return NULL;
    size_t room = PART_BYTES, got;
    char *text = must(asthra_manual_alloc(room));
    for (*length = 0; (got = fread(text + *length, 1, room - *length, file)) > 0;) {
        *length += got;
        if (*length == room) text = must(asthra_manual_realloc(text, room *= 2));
    }
    bool failed = ferror(file);
    int why = errno;
    fclose(file);
    if (!failed) return text;
    asthra_manual_free(text);
    errno = why;
    return NULL;
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : SAMPLE;
    size_t length;
    char *text = read_file(name, &length);
    if (!text) {
        fprintf(stderr, "concordance: cannot read '%s': %s\n", name, strerror(errno));
        return EXIT_FAILURE;
    }
    Words index = {.zone = ASTHRA_MEMORY_ZONE_MANUAL};
    index_text(&index, text, length);
    print_index(&index);
    words_free(&index);
    asthra_manual_free(text);
    print_zone(ASTHRA_MEMORY_ZONE_STACK);
    print_zone(ASTHRA_MEMORY_ZONE_MANUAL);
    asthra_runtime_shutdown();
    return EXIT_SUCCESS;
}
