/* pipeline - read, parse and add up, a task each, with bounded channels between them: no stage runs
 * far ahead of the next one, however long the input is. A stage that fails cancels the others
 * wherever they wait, and the scope's result says what was wrong in which line. */
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Line {
    int number;
    long value;
    char *text; /* until it is parsed, on the heap */
} Line;
ASTHRA_CHANNEL_TYPE(Lines, Line);

typedef struct Pipeline { /* copied into each stage */
    const char *input;
    Lines read, parsed;
    long *sum; /* the owner's, which waits for the stages */
} Pipeline;

static AsthraResult read_lines(void *args) {
    const Pipeline *p = args;
    Line line = {0, 0, NULL};
    for (const char *at = p->input, *end; (end = strchr(at, '\n')) != NULL; at = end + 1) {
        line.number++;
        line.text = strndup(at, (size_t)(end - at));
        AsthraResult r = Lines_send(p->read, line);
        if (r.status) free(line.text); /* cancelled: nobody took it */
        ASTHRA_TRY(r);
    }
    Lines_close(p->read);
    return asthra_result_ok(NULL);
}

static AsthraResult parse_lines(void *args) {
    const Pipeline *p = args;
    for (Line line; Lines_receive(p->read, &line);) {
        char *end;
        line.value = strtol(line.text, &end, 10);
        AsthraResult r = *end == '\0' ? Lines_send(p->parsed, line)
                                      : asthra_result_errorf(ASTHRA_INVALID, "line %d: what is %s?",
                                                             line.number, line.text);
        free(line.text);
        ASTHRA_TRY(r);
    }
    Lines_close(p->parsed);
    return asthra_result_ok(NULL);
}

static AsthraResult add_up(void *args) {
    const Pipeline *p = args;
    for (Line line; Lines_receive(p->parsed, &line); *p->sum += line.value)
        if (line.value < 0)
            return asthra_result_errorf(ASTHRA_INVALID, "line %d: below 0", line.number);
    return asthra_result_ok(NULL);
}

static void run(const char *input) {
    long sum = 0;
    Pipeline p = {input, Lines_create(2), Lines_create(2), &sum};
    AsthraScope s;
    ASTHRA_SCOPE(s) {
        asthra_scope_spawn(&s, read_lines, &p, sizeof p);
        asthra_scope_spawn(&s, parse_lines, &p, sizeof p);
        asthra_scope_spawn(&s, add_up, &p, sizeof p);
    }
    if (s.result.status) puts(asthra_result_message(s.result));
    if (!s.result.status) printf("the sum is %ld\n", sum);
    for (Line line; !Lines_try_receive(p.read, &line).status;) free(line.text);
    Lines_destroy(p.read);
    Lines_destroy(p.parsed);
}

int main(void) {
    run("100\n200\n50\n30\n20\n5\n1\n8\n");
    run("100\n200\n50\n3O\n20\n5\n1\n8\n"); /* what parses fails, the others wait for it */
    run("100\n200\n-5\n30\n20\n5\n1\n8\n"); /* what adds fails, the others wait for room */
}
