/* treegrep TEXT [DIRECTORY] - the lines of a tree that hold a text, as grep -rFI, from all cores: a
 * task for each directory and file. Lines come in the order of names, because a directory awaits
 * its entries in that order, whoever was first. */
#define _FILE_OFFSET_BITS 64 /* large files and folders, where a long has 32 bits */
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct Lines {
    char *text; /* malloc's */
    size_t length;
} Lines;
static const char *wanted = "proctype";
static void add(Lines *l, const char *text, size_t length) {
    if (length > 0) l->text = realloc(l->text, l->length + length);
    if (length > 0) memcpy(l->text + l->length, text, length);
    l->length += length;
}

static void search(Lines *found, const char *path, const char *at, const char *end) {
    for (const char *hit;
         at < end && (hit = memmem(at, (size_t)(end - at), wanted, strlen(wanted))); at++) {
        const char *before = memrchr(at, '\n', (size_t)(hit - at));
        const char *line = before ? before + 1 : at;
        if (!(at = memchr(hit, '\n', (size_t)(end - hit)))) at = end;
        add(found, path, strlen(path)), add(found, ":", 1);
        add(found, line, (size_t)(at - line));
        add(found, "\n", 1);
    }
}

static void search_file(Lines *found, const char *path) {
    char small[65536], *block = small; /* half of what every task can use of its stack */
    struct stat facts = {.st_size = 0};
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &facts)) perror(path);
    if ((size_t)facts.st_size > sizeof small) block = malloc((size_t)facts.st_size);
    ssize_t got = block ? read(file, block, (size_t)facts.st_size) : 0;
    if (got > 0 && !memchr(block, 0, (size_t)got)) search(found, path, block, block + got);
    if (block != small) free(block);
    if (file >= 0) close(file);
}

static int is_searched(const struct dirent *e) {
    if (e->d_type == DT_DIR) return strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    return e->d_type == DT_REG;
}

ASTHRA_TASK(Lines, look, (char *, path), (bool, is_directory)) { /* frees the path */
    struct dirent **entries = NULL;
    Lines found = {NULL, 0};
    int count = is_directory ? scandir(path, &entries, is_searched, alphasort) : 0;
    if (count < 0) perror(path);
    if (!is_directory) search_file(&found, path);
    look_task *below = calloc(count > 0 ? (size_t)count : 1, sizeof *below);
    for (int i = 0; i < count; i++) {
        char *child = malloc(strlen(path) + strlen(entries[i]->d_name) + 2);
        sprintf(child, "%s/%s", path, entries[i]->d_name);
        below[i] = look_go(child, entries[i]->d_type == DT_DIR);
        free(entries[i]);
    }
    for (int i = 0; i < count; i++) {
        Lines part = look_await(below[i]);
        add(&found, part.text, part.length), free(part.text);
    }
    free(entries), free(below), free(path);
    return found;
}

int main(int count, char **words) {
    if (count > 1) wanted = words[1];
    Lines found = look_await(look_go(strdup(count > 2 ? words[2] : "tests/model"), true));
    return fwrite(found.text, 1, found.length, stdout) == 0;
}
