/* logscan - counts what web servers logged: by status, method, path and host, on all cores.
 *
 *     logscan [file]...       without a file: examples/sample.log
 *
 * Main reads the files into chunks that end where a line ends, and spawns a task for each. A task
 * counts its chunk into tables that the chunk carries, so tasks share nothing and lock nothing.
 * One channel, `idle`, holds every chunk that is neither being filled nor being counted:
 *
 *     idle --take--> main fills it --spawn--> a task counts it --send--> idle
 *
 * It bounds the memory, because main waits while all chunks are out. And it joins: once main has
 * taken every chunk back, every task is done, and what the chunks carry adds up to the answer.
 *
 * A line is a request if it reads `host ... "METHOD path ..." status bytes ...`, which the common
 * and the combined log format do; a path ends before its '?'. Other lines are only counted.
 */
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "logscan_tally.h" /* Text, Tally, tally_line, tally_merge */

#define SAMPLE "examples/sample.log"
#define CHUNK_BYTES ((size_t)1 << 20)
#define MAX_LINE_BYTES ((size_t)1 << 28) /* /dev/zero is one line; it has to end somewhere */
#define PROGRESS_NS ASTHRA_MS(100)

typedef struct Chunk {
    char *text;
    size_t length, room;
    Tally tally; /* of all the text that ever was in here */
    AsthraChannel *idle;
} Chunk;

typedef struct Scan {
    AsthraChannel *idle; /* of Chunk *, with room for all of them, so that a send never waits */
    Chunk *chunks;
    size_t chunk_count;
    uint64_t bytes_read;
    bool shows_progress;
    int64_t next_progress;
} Scan;

static void *count_chunk(void *arg) {
    Chunk *chunk = arg;
    const char *at = chunk->text, *end = at + chunk->length;
    while (at < end) {
        const char *line_end = find(at, end, '\n');
        tally_line(&chunk->tally, at, line_end);
        at = line_end + 1;
    }
    asthra_channel_send(chunk->idle, &chunk); /* from here on the chunk is its next taker's */
    return NULL;
}

static void start_count(Chunk *chunk) {
    AsthraTaskHandle task = asthra_spawn(count_chunk, chunk);
    if (task.bits) {
        asthra_task_detach(task); /* the channel tells when it is done */
    } else {
        count_chunk(chunk); /* there was no memory for a task */
    }
}

static void show_progress(Scan *s) {
    if (!s->shows_progress || asthra_now_ns() < s->next_progress) return;
    s->next_progress = asthra_now_ns() + PROGRESS_NS;
    fprintf(stderr, "\rlogscan: %" PRIu64 " MB read", s->bytes_read / 1000000);
}

/* Waits for an idle chunk; the timeout keeps the progress line alive while all are out. */
static Chunk *take_chunk(Scan *s) {
    Chunk *chunk = NULL;
    AsthraSelectCase idle = asthra_select_receive(s->idle, &chunk);
    int chosen;
    do {
        chosen = asthra_select(&idle, 1, PROGRESS_NS);
        show_progress(s);
    } while (chosen == ASTHRA_SELECT_TIMEOUT);
    return chunk;
}

static bool chunk_reserve(Chunk *chunk, size_t room) {
    if (chunk->room >= room) return true;
    char *text = realloc(chunk->text, room);
    if (!text) return false;
    chunk->text = text;
    chunk->room = room;
    return true;
}

/* Makes room in the full `*chunk`: a task gets its whole lines, and another chunk begins with the
 * rest. A chunk that holds not even one line grows. False: it could not, and errno says why. */
static bool pass_lines(Scan *s, Chunk **chunk) {
    Chunk *full = *chunk;
    size_t lines = full->length;
    while (lines && full->text[lines - 1] != '\n') lines--;
    if (!lines && full->room >= MAX_LINE_BYTES) errno = EFBIG;
    if (!lines) return full->room < MAX_LINE_BYTES && chunk_reserve(full, full->room * 2);

    Chunk *next = *chunk = take_chunk(s);
    size_t rest = full->length - lines;
    bool has_room = chunk_reserve(next, rest + 1);
    next->length = has_room ? rest : 0;
    memcpy(next->text, full->text + lines, next->length);
    full->length = lines;
    start_count(full);
    return has_room;
}

/* False: it could not be read to its end, and errno says why. */
static bool scan_lines(Scan *s, int fd) {
    Chunk *chunk = take_chunk(s);
    chunk->length = 0;
    ssize_t got;
    bool ok = true;
    while (ok && (got = read(fd, chunk->text + chunk->length, chunk->room - chunk->length)) != 0) {
        if (got < 0) {
            ok = errno == EINTR;
            continue;
        }
        s->bytes_read += (uint64_t)got;
        chunk->length += (size_t)got;
        if (chunk->length == chunk->room) ok = pass_lines(s, &chunk);
    }
    int why = errno;
    start_count(chunk); /* the last line, which may lack its newline; or what a failure left */
    errno = why;
    return ok;
}

static bool scan_file(Scan *s, const char *name) {
    int fd = open(name, O_RDONLY);
    bool ok = fd >= 0 && scan_lines(s, fd);
    int why = errno;
    if (fd >= 0) close(fd);
    if (s->shows_progress) fputs("\r\033[K", stderr); /* wipes the progress line */
    if (!ok) fprintf(stderr, "logscan: cannot read '%s': %s\n", name, strerror(why));
    return ok;
}

/* False: out of memory. */
static bool scan_begin(Scan *s) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    s->chunk_count = (cores > 0 ? (size_t)cores : 1) + 1; /* one fills while the others count */
    s->shows_progress = isatty(STDERR_FILENO);
    s->chunks = calloc(s->chunk_count, sizeof *s->chunks);
    s->idle = asthra_channel_create(sizeof(Chunk *), s->chunk_count, "idle chunks");
    if (!s->chunks || !s->idle) return false;
    for (size_t i = 0; i < s->chunk_count; i++) {
        Chunk *chunk = &s->chunks[i];
        chunk->idle = s->idle;
        if (!chunk_reserve(chunk, CHUNK_BYTES)) return false;
        asthra_channel_send(s->idle, &chunk);
    }
    return true;
}

/* Waits for all tasks and adds up what they found. */
static Tally *scan_join(Scan *s) {
    Tally *total = &take_chunk(s)->tally;
    for (size_t i = 1; i < s->chunk_count; i++) tally_merge(total, &take_chunk(s)->tally);
    return total;
}

static void scan_end(Scan *s) {
    for (size_t i = 0; s->chunks && i < s->chunk_count; i++) {
        tally_free(&s->chunks[i].tally);
        free(s->chunks[i].text);
    }
    free(s->chunks);
    if (s->idle) asthra_channel_destroy(s->idle);
}

static void print_row(uint64_t requests, uint64_t bytes, Text name) {
    printf("%12" PRIu64 " %16" PRIu64 "  ", requests, bytes);
    fwrite(name.at, 1, name.length, stdout);
    putchar('\n');
}

static void print_table(const Table *t, const Tally *total, const char *title, size_t limit) {
    printf("\n%12s %16s  %s\n", "requests", "bytes", title);
    uint64_t requests = total->requests, bytes = total->bytes;
    const Row *row = NULL;
    for (size_t i = 0; i < limit && (row = row_after(t, row)) != NULL; i++) {
        print_row(row->requests, row->bytes, (Text){row->name, row->length});
        requests -= row->requests;
        bytes -= row->bytes;
    }
    if (t->row_count <= limit) return;
    char others[40];
    int length = snprintf(others, sizeof others, "(%zu others)", t->row_count - limit);
    print_row(requests, bytes, (Text){others, (size_t)length});
}

static bool print_report(const Tally *total) {
    printf("%" PRIu64 " lines, %" PRIu64 " requests, %" PRIu64 " bytes sent, ", total->lines,
           total->requests, total->bytes);
    printf("%" PRIu64 " lines skipped\n", total->lines - total->requests);
    print_table(&total->tables[STATUS], total, "status", 20);
    print_table(&total->tables[METHOD], total, "method", 20);
    print_table(&total->tables[PATH], total, "path", 10);
    print_table(&total->tables[HOST], total, "host", 10);
    if (fflush(stdout) == 0 && !ferror(stdout)) return true;
    fprintf(stderr, "logscan: cannot write: %s\n", strerror(errno));
    return false;
}

int main(int argc, char **argv) {
    Scan s = {0};
    bool has_memory = scan_begin(&s), ok = has_memory;
    if (has_memory) {
        if (argc < 2) ok = scan_file(&s, SAMPLE);
        for (int i = 1; ok && i < argc; i++) ok = scan_file(&s, argv[i]);
        if (!ok && argc < 2) fputs("logscan: name a log, or run where " SAMPLE " is\n", stderr);
        Tally *total = scan_join(&s);
        has_memory = !total->out_of_memory;
        ok = ok && has_memory && print_report(total);
    }
    if (!has_memory) fputs("logscan: out of memory\n", stderr);
    scan_end(&s);
    asthra_runtime_shutdown();
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
