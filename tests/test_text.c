/* The formatter, compared with the C library's: private names, so the bodies are in this file. */
#include "test.h"
#define ASTHRA_RT_STATIC
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"

#include <limits.h>
#include <math.h>

/* Both formatters on one format and its argument. */
#define SAME(format, ...)                                                                   \
    do {                                                                                    \
        char want[600], got[600];                                                           \
        Asthra__Text t_ = asthra__text_on(got, sizeof got);                                 \
        snprintf(want, sizeof want, (format), __VA_ARGS__);                                 \
        asthra__text_format(&t_, (format), __VA_ARGS__);                                    \
        if (strcmp(got, want) != 0)                                                         \
            test_fail(__FILE__, __LINE__, "%s: \"%s\" is not \"%s\"", (format), got, want); \
        CHECK_EQ(t_.length, strlen(want));                                                  \
    } while (0)

/* Calls use(format) for every subset of the flags, with several widths and precisions. */
static void each_format(const char *flags, const char *end, void (*use)(const char *format)) {
    static const char *const widths[] = {"", "1", "7", "25"};
    static const char *const precisions[] = {"", ".", ".0", ".1", ".9", ".23"};
    for (unsigned set = 0; set < 1u << strlen(flags); set++) {
        char chosen[8] = "";
        for (unsigned i = 0, n = 0; flags[i]; i++)
            if (set >> i & 1) chosen[n++] = flags[i];
        for (size_t w = 0; w < 4; w++)
            for (size_t p = 0; p < 6; p++) {
                char format[40];
                snprintf(format, sizeof format, "<%%%s%s%s%s>", chosen, widths[w], precisions[p],
                         end);
                use(format);
            }
    }
}

static void print_ints(const char *format) {
    static const int values[] = {0, 1, -1, 42, -4242, INT_MAX, INT_MIN};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) SAME(format, values[i]);
}

static void print_longs(const char *format) {
    static const long long values[] = {0, -1, 65535, LLONG_MAX, LLONG_MIN};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) SAME(format, values[i]);
}

static void print_doubles(const char *format) {
    static const double values[] = {0.0, -0.0, 1.5, -3.14159, 1e300, 1e-7};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) SAME(format, values[i]);
}

static void print_strings(const char *format) {
    SAME(format, "");
    SAME(format, "x");
    SAME(format, "twelve chars");
}

TEST(text, signed_integers_print_as_printf_does) {
    each_format("-+ 0", "d", print_ints);
    each_format("-+ 0", "i", print_ints);
    each_format("-+ 0", "hhd", print_ints);
    each_format("-+ 0", "hd", print_ints);
    each_format("-+ 0", "lld", print_longs);
    each_format("-+ 0", "jd", print_longs);
}

TEST(text, unsigned_integers_print_as_printf_does) {
    static const char *const letters[] = {"u", "hhu", "hu"};
    static const char *const based[] = {"x", "X", "o", "hx", "hho"};
    for (size_t i = 0; i < 3; i++) each_format("-0", letters[i], print_ints);
    for (size_t i = 0; i < 5; i++) each_format("-#0", based[i], print_ints);
    each_format("-#0", "llx", print_longs);
    each_format("-#0", "llo", print_longs);
    each_format("-0", "llu", print_longs);
}

TEST(text, sizes_and_pointers_print_as_printf_does) {
    int here = 0;
    SAME("%zu %zd %td", SIZE_MAX, (ssize_t)-5, (ptrdiff_t)-7);
    SAME("%lu %ld", ULONG_MAX, LONG_MIN);
    SAME("%p", (void *)&here);
    SAME("[%20p|%-20p]", (void *)&here, (void *)&here);
}

TEST(text, strings_and_letters_print_as_printf_does) {
    each_format("-", "s", print_strings);
    SAME("<%c|%5c|%-5c>", 'a', 'b', 'c');
    SAME("<%.2s>", "\x01xyz");
    SAME("%d%%", 5);
}

TEST(text, floating_point_numbers_print_as_printf_does) {
    static const char *const letters[] = {"f", "F", "e", "E", "g", "G", "a", "A"};
    for (size_t i = 0; i < 8; i++) each_format("-+ 0", letters[i], print_doubles);
    SAME("<%08f|%-8f|%+F>", (double)INFINITY, (double)-INFINITY, (double)INFINITY);
    SAME("%Lf", (long double)2.25);
}

TEST(text, stars_are_widths_and_precisions) {
    SAME("<%*d|%-*d|%*d>", 6, 1, 6, 2, -6, 3);
    SAME("<%.*s|%.*s>", 2, "abc", -1, "abc");
    SAME("<%*.*f>", 9, 2, 3.14159);
}

TEST(text, a_string_without_a_nul_is_read_to_its_precision) {
    char *three = malloc(3); /* AddressSanitizer guards its end */
    memcpy(three, "abc", 3);
    SAME("%.3s", three);
    free(three);
}

TEST(text, null_string_is_named) {
    char buffer[32];
    Asthra__Text t = asthra__text_on(buffer, sizeof buffer);
    const char *volatile none = NULL;
    asthra__text_format(&t, "<%s>", none);
    CHECK_STR(buffer, "<(null)>");
}

TEST(text, what_does_not_fit_is_cut) {
    char buffer[9];
    memset(buffer, '#', sizeof buffer);
    Asthra__Text t = asthra__text_on(buffer, 8);
    asthra__text_format(&t, "%s%d%50d", "abc", 1234, 5);
    CHECK_STR(buffer, "abc1234");
    CHECK_EQ(t.length, 7);
    asthra__text_add(&t, "more");
    CHECK_STR(buffer, "abc1234");
    CHECK_EQ(buffer[8], '#');
}

TEST(text, no_room_holds_nothing) {
    char untouched = '#';
    Asthra__Text t = asthra__text_on(&untouched, 0);
    asthra__text_format(&t, "%d %s %30d", 1, "x", 2);
    CHECK_EQ(untouched, '#');
    CHECK_EQ(t.length, 0);
}

TEST(text, adding_null_adds_nothing) {
    char buffer[8];
    Asthra__Text t = asthra__text_on(buffer, sizeof buffer);
    asthra__text_add(&t, NULL);
    CHECK_STR(buffer, "");
}

TEST(text, unknown_directive_is_copied) {
    char buffer[32];
    const char *volatile odd = "a%5yb%";
    Asthra__Text t = asthra__text_on(buffer, sizeof buffer);
    asthra__text_format(&t, odd, 1);
    CHECK_STR(buffer, "a%5yb%");
}

static const char *duration(int64_t ns) {
    static char buffer[40];
    Asthra__Text t = asthra__text_on(buffer, sizeof buffer);
    asthra__text_add_duration(&t, ns);
    return buffer;
}

TEST(text, durations_take_the_unit_that_fits) {
    CHECK_STR(duration(0), "0 ns");
    CHECK_STR(duration(999), "999 ns");
    CHECK_STR(duration(1500), "1.5 us");
    CHECK_STR(duration(20000000), "20 ms");
    CHECK_STR(duration(1500000000), "1.5 s");
    CHECK_STR(duration(-2000), "-2 us");
    CHECK_STR(duration(INT64_MIN), "-9223372036.8 s");
}

/* Sends stderr into a pipe; returns what report() wrote there in its first write. */
static size_t captured(void (*report)(void), char *out, size_t room) {
    int ends[2], before = dup(STDERR_FILENO);
    CHECK(pipe2(ends, O_DIRECT) == 0); /* a packet for each write */
    dup2(ends[1], STDERR_FILENO);
    report();
    dup2(before, STDERR_FILENO);
    ssize_t got = read(ends[0], out, room - 1);
    CHECK(got >= 0);
    out[got] = 0;
    return (size_t)got;
}

static void report_short(void) {
    errno = 77;
    asthra__text_report("%d of %s", 3, "four");
    CHECK_EQ(errno, 77);
}
static void report_long(void) {
    asthra__text_report("%2000d", 1);
}

TEST(text, report_is_one_line_in_one_write_and_leaves_errno) {
    char line[100];
    captured(report_short, line, sizeof line);
    CHECK_STR(line, "3 of four\n");
}

TEST(text, report_is_cut_at_a_thousand_bytes_and_ends_its_line) {
    char line[2100];
    size_t length = captured(report_long, line, sizeof line);
    CHECK_EQ(length, 1001);
    CHECK_EQ(line[1000], '\n');
}
