/* generate - writes a web access log, the same bytes for the same arguments, to standard output.
 *
 *     generate [megabytes]     200 when left out
 *     generate lines count     examples/sample.log is `generate lines 2000`
 *
 * Hosts and paths are drawn so that few are frequent and many are rare, as in real logs: some
 * 20,000 hosts, 3,000 paths, and one line in 500 that is not a request.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) ((uint32_t)(sizeof(array) / sizeof *(array)))

static uint64_t random_state = 20261121;
static char line[512]; /* far longer than any that is written here */
static size_t line_length;

__attribute__((format(printf, 1, 2))) static void put(const char *format, ...) {
    va_list values;
    va_start(values, format);
    int length = vsnprintf(line + line_length, sizeof line - line_length, format, values);
    va_end(values);
    line_length += (size_t)length;
}

/* xorshift64*: a log needs variety, not quality. One call to an expression: C leaves the order of
 * arguments to the compiler, and the same arguments have to give the same log everywhere. */
static uint32_t random_below(uint32_t limit) {
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (uint32_t)(((random_state * 0x2545F4914F6CDD1DU) >> 32) * limit >> 32);
}

/* Below `limit`, small numbers far more often than large ones. */
static uint32_t skewed_below(uint32_t limit) {
    return random_below(1 + random_below(1 + random_below(limit)));
}

static void put_host(void) {
    uint32_t host = skewed_below(20000);
    uint32_t spread = host * 2654435761U; /* neighbours in rank are strangers on the net */
    if (host % 16 == 5) {
        put("2001:db8:%" PRIx32 "::%" PRIx32, spread >> 20, host);
    } else {
        put("10.%" PRIu32 ".%" PRIu32 ".%" PRIu32, spread >> 24, host >> 8, host & 255);
    }
}

static void put_path(void) {
    static const char *const frequent[] = {
        "/",           "/index.html",     "/favicon.ico", "/css/site.css", "/js/app.js", "/login",
        "/robots.txt", "/api/v1/session", "/api/v1/cart", "/img/logo.svg", "/feed.xml",  "/about"};
    static const char *const kind[] = {"articles", "products", "api/v1/items", "img/photos"};
    uint32_t rank = skewed_below(3000);
    if (rank < COUNT(frequent)) {
        put("%s", frequent[rank]);
    } else {
        put("/%s/%" PRIu32, kind[rank % COUNT(kind)], rank);
    }
    if (random_below(6) == 0) put("?page=%" PRIu32, 1 + skewed_below(40));
}

/* What servers log when no request arrived: a port scan, a time-out, half a line. */
static void put_oddity(void) {
    static const char *const odd[] = {"\"-\" 408 -", "\"\\x16\\x03\\x01\\x02\" 400 157",
                                      "\"GET /\" teapot 0", "\"GET /cut"};
    put("%s", odd[random_below(COUNT(odd))]);
}

static void put_request(void) {
    static const char *const methods[] = {"GET",  "GET",  "GET",  "GET", "GET",    "GET",    "GET",
                                          "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"};
    static const char *const statuses[] = {"200", "200", "200", "200", "200", "200",
                                           "200", "304", "304", "301", "404", "302",
                                           "403", "500", "206", "204", "503"};
    static const char *const agents[] = {"Mozilla/5.0", "curl/8.9.1", "Mozilla/5.0 (X11; Linux)",
                                         "GoodBot/2.1", "-"};
    const char *status = statuses[random_below(COUNT(statuses))];
    put("\"%s ", methods[random_below(COUNT(methods))]);
    put_path();
    if (strcmp(status, "304") == 0 || strcmp(status, "204") == 0) {
        put(" HTTP/1.1\" %s -", status);
    } else {
        put(" HTTP/1.1\" %s %" PRIu32, status, 120 + skewed_below(400000));
    }
    const char *agent = agents[skewed_below(COUNT(agents))];
    put(" \"%s\" \"%s\"", random_below(3) ? "-" : "https://example.org/", agent);
}

/* `second` counts from the first midnight of a month of 28 days that starts over. */
static void put_line(uint64_t second) {
    put_host();
    put(" - - [%02d/Feb/2026:%02d:%02d:%02d +0000] ", (int)(second / 86400 % 28) + 1,
        (int)(second / 3600 % 24), (int)(second / 60 % 60), (int)(second % 60));
    if (random_below(500) == 0) {
        put_oddity();
    } else {
        put_request();
    }
    put("\n");
}

int main(int argc, char **argv) {
    int by_lines = argc == 3 && strcmp(argv[1], "lines") == 0;
    uint64_t limit = strtoull(argc > 1 ? argv[argc - 1] : "200", NULL, 10);
    if (argc > 3 || (argc == 3 && !by_lines) || !limit) {
        fputs("usage: generate [megabytes] | generate lines count\n", stderr);
        return 2;
    }
    if (!by_lines) limit *= 1000000;
    static char buffer[1 << 16];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    uint64_t lines = 0, bytes = 0;
    for (; (by_lines ? lines : bytes) < limit && !ferror(stdout); lines++) {
        line_length = 0;
        put_line(lines / 7);
        bytes += fwrite(line, 1, line_length, stdout);
    }
    return fflush(stdout) || ferror(stdout);
}
