/* text - a formatter that asks nobody for anything.                        [text] body
 *
 * A message must be written by a handler of a fault, by a panic for want of memory, and by a thread
 * that holds a lock. The C library's printf promises nothing there, so a format is read here: one
 * directive at a time becomes a record, its argument becomes a sign, zeros and a body, and one
 * function pads them. Only floating-point numbers, whose correct printing is long, are left to
 * snprintf, a directive at a time.
 */
#include "text_internal.h"
#include "../platform/os_internal.h"

#if ASTHRA_HAS_CORE

#include <errno.h>
#include <string.h>
#if ASTHRA_HAS_STDIO
#include <stdio.h>
#endif

typedef struct Asthra__TextDirective {
    bool left, plus, space, alternate, zero;
    char length;          /* h l z t j, H for hh, q for ll, L; 0: none */
    char kind;            /* the letter; 0: the format ended */
    int width, precision; /* precision < 0: none */
} Asthra__TextDirective;

/* A va_list may be an array, which decays as an argument; a struct can be passed by address. */
typedef struct Asthra__TextArguments {
    va_list list;
} Asthra__TextArguments;

ASTHRA__FN Asthra__Text asthra__text_on(char *buffer, size_t room) {
    Asthra__Text t = {buffer, 0, room};
    if (room) buffer[0] = 0;
    return t;
}

ASTHRA__FN void asthra__text_add_count(Asthra__Text *t, const char *bytes, size_t count) {
    size_t left = t->room ? t->room - 1 - t->length : 0;
    if (count > left) count = left;
    if (!count) return;
    memcpy(t->start + t->length, bytes, count);
    t->length += count;
    t->start[t->length] = 0;
}

ASTHRA__FN void asthra__text_add(Asthra__Text *t, const char *words) {
    if (words) asthra__text_add_count(t, words, strlen(words));
}

static void asthra__text_fill(Asthra__Text *t, char with, size_t count) {
    for (; count && t->length + 1 < t->room; count--) asthra__text_add_count(t, &with, 1);
}

/* Writes blanks, sign, zeros and body as the flags and the width want them. */
static void asthra__text_put(Asthra__Text *t, const Asthra__TextDirective *d, const char *sign,
                             size_t zeros, const char *body, size_t count) {
    size_t used = strlen(sign) + zeros + count;
    size_t pad = (size_t)d->width > used ? (size_t)d->width - used : 0;
    if (d->zero && !d->left) {
        zeros += pad;
        pad = 0;
    }
    if (!d->left) asthra__text_fill(t, ' ', pad);
    asthra__text_add(t, sign);
    asthra__text_fill(t, '0', zeros);
    asthra__text_add_count(t, body, count);
    if (d->left) asthra__text_fill(t, ' ', pad);
}

static const char *asthra__text_sign(const Asthra__TextDirective *d, bool negative) {
    if (negative) return "-";
    return d->plus ? "+" : d->space ? " " : "";
}

static void asthra__text_put_number(Asthra__Text *t, Asthra__TextDirective *d, const char *sign,
                                    uint64_t number, unsigned base) {
    const char *digits = d->kind == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    char body[24], *start = body + sizeof body; /* 64 bits are 22 octal digits */
    for (; number; number /= base) *--start = digits[number % base];
    size_t count = (size_t)(body + sizeof body - start), zeros;
    if (d->precision >= 0) d->zero = false;
    size_t wanted = d->precision < 0 ? 1 : (size_t)d->precision;
    zeros = wanted > count ? wanted - count : 0;
    if (base == 8 && d->alternate && !zeros) zeros = 1;
    asthra__text_put(t, d, sign, zeros, start, count);
}

static void asthra__text_put_string(Asthra__Text *t, Asthra__TextDirective *d, const char *string) {
    if (!string) string = "(null)";
    size_t most = d->precision < 0 ? SIZE_MAX : (size_t)d->precision, count = 0;
    while (count < most && string[count]) count++;
    d->zero = false;
    asthra__text_put(t, d, "", 0, string, count);
}

static int64_t asthra__text_take_signed(const Asthra__TextDirective *d, Asthra__TextArguments *a) {
    switch (d->length) {
    case 'H': return (signed char)va_arg(a->list, int);
    case 'h': return (short)va_arg(a->list, int);
    case 'l': return va_arg(a->list, long);
    case 'q': return va_arg(a->list, long long);
    case 'z':
    case 't': return va_arg(a->list, ptrdiff_t);
    case 'j': return va_arg(a->list, intmax_t);
    default: return va_arg(a->list, int);
    }
}

static uint64_t asthra__text_take_unsigned(const Asthra__TextDirective *d,
                                           Asthra__TextArguments *a) {
    switch (d->length) {
    case 'H': return (unsigned char)va_arg(a->list, unsigned);
    case 'h': return (unsigned short)va_arg(a->list, unsigned);
    case 'l': return va_arg(a->list, unsigned long);
    case 'q': return va_arg(a->list, unsigned long long);
    case 'z':
    case 't': return va_arg(a->list, size_t);
    case 'j': return va_arg(a->list, uintmax_t);
    default: return va_arg(a->list, unsigned);
    }
}

/* The magnitude of a number in digits; returns how many. A negative precision is the default's. */
static size_t asthra__text_float_digits(char kind, int precision, double value, char *out,
                                        size_t room) {
#if ASTHRA_HAS_STDIO
    int count = 0;
    switch (kind) {
    case 'f': count = snprintf(out, room, "%.*f", precision, value); break;
    case 'F': count = snprintf(out, room, "%.*F", precision, value); break;
    case 'e': count = snprintf(out, room, "%.*e", precision, value); break;
    case 'E': count = snprintf(out, room, "%.*E", precision, value); break;
    case 'g': count = snprintf(out, room, "%.*g", precision, value); break;
    case 'G': count = snprintf(out, room, "%.*G", precision, value); break;
    case 'a': count = snprintf(out, room, "%.*a", precision, value); break;
    default: count = snprintf(out, room, "%.*A", precision, value); break;
    }
    return count < 0 ? 0 : (size_t)count < room ? (size_t)count : room - 1;
#else
    Asthra__Text t = asthra__text_on(out, room);
    (void)kind, (void)precision, (void)value;
    asthra__text_add(&t, "<float>");
    return t.length;
#endif
}

static void asthra__text_put_float(Asthra__Text *t, Asthra__TextDirective *d,
                                   Asthra__TextArguments *a) {
    char body[400]; /* the largest double has 309 digits before the point */
    double value =
        d->length == 'L' ? (double)va_arg(a->list, long double) : va_arg(a->list, double);
    size_t count = asthra__text_float_digits(d->kind, d->precision, value, body, sizeof body);
    const char *start = body + (body[0] == '-');
    char before[4]; /* the sign, and the 0x of %a: padding zeros come behind it */
    Asthra__Text sign = asthra__text_on(before, sizeof before);
    asthra__text_add(&sign, asthra__text_sign(d, body[0] == '-'));
    if (start[0] < '0' || start[0] > '9') d->zero = false; /* inf, nan */
    if (start[0] == '0' && (start[1] == 'x' || start[1] == 'X')) {
        asthra__text_add_count(&sign, start, 2);
        start += 2;
    }
    asthra__text_put(t, d, before, 0, start, count - (size_t)(start - body));
}

/* Reads a number or a star; returns where the format goes on. */
static const char *asthra__text_read_number(const char *f, Asthra__TextArguments *a, int *out) {
    if (*f == '*') {
        *out = va_arg(a->list, int);
        return f + 1;
    }
    for (*out = 0; *f >= '0' && *f <= '9'; f++)
        if (*out < 100000) *out = *out * 10 + (*f - '0');
    return f;
}

static const char *asthra__text_read_flags(const char *f, Asthra__TextDirective *d) {
    for (;; f++) {
        if (*f == '-')
            d->left = true;
        else if (*f == '+')
            d->plus = true;
        else if (*f == ' ')
            d->space = true;
        else if (*f == '#')
            d->alternate = true;
        else if (*f == '0')
            d->zero = true;
        else
            return f;
    }
}

static const char *asthra__text_read_length(const char *f, Asthra__TextDirective *d) {
    if (!*f || !strchr("hlLztj", *f)) return f;
    d->length = *f++;
    if (*f != d->length || (*f != 'h' && *f != 'l')) return f;
    d->length = *f == 'h' ? 'H' : 'q';
    return f + 1;
}

/* `f` stands behind the percent sign; returns the place behind the directive's letter. */
static const char *asthra__text_read(const char *f, Asthra__TextArguments *a,
                                     Asthra__TextDirective *d) {
    *d = (Asthra__TextDirective){.precision = -1};
    f = asthra__text_read_flags(f, d);
    f = asthra__text_read_number(f, a, &d->width);
    if (d->width < 0) {
        d->left = true;
        d->width = d->width < -100000 ? 100000 : -d->width;
    }
    if (*f == '.') f = asthra__text_read_number(f + 1, a, &d->precision);
    f = asthra__text_read_length(f, d);
    d->kind = *f;
    return *f ? f + 1 : f;
}

static void asthra__text_put_signed(Asthra__Text *t, Asthra__TextDirective *d,
                                    Asthra__TextArguments *a) {
    int64_t number = asthra__text_take_signed(d, a);
    uint64_t magnitude = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    asthra__text_put_number(t, d, asthra__text_sign(d, number < 0), magnitude, 10);
}

static void asthra__text_put_hex(Asthra__Text *t, Asthra__TextDirective *d,
                                 Asthra__TextArguments *a) {
    uint64_t number = asthra__text_take_unsigned(d, a);
    const char *prefix = d->alternate && number ? (d->kind == 'X' ? "0X" : "0x") : "";
    asthra__text_put_number(t, d, prefix, number, 16);
}

/* Writes one directive; false: it is none that we know. */
static bool asthra__text_put_directive(Asthra__Text *t, Asthra__TextDirective *d,
                                       Asthra__TextArguments *a) {
    char letter;
    switch (d->kind) {
    case 'd':
    case 'i': asthra__text_put_signed(t, d, a); return true;
    case 'u': asthra__text_put_number(t, d, "", asthra__text_take_unsigned(d, a), 10); return true;
    case 'o': asthra__text_put_number(t, d, "", asthra__text_take_unsigned(d, a), 8); return true;
    case 'x':
    case 'X': asthra__text_put_hex(t, d, a); return true;
    case 'c':
        letter = (char)va_arg(a->list, int);
        d->zero = false;
        asthra__text_put(t, d, "", 0, &letter, 1);
        return true;
    case 's': asthra__text_put_string(t, d, va_arg(a->list, const char *)); return true;
    case 'p':
        asthra__text_put_number(t, d, "0x", (uintptr_t)va_arg(a->list, void *), 16);
        return true;
    case 'n': (void)va_arg(a->list, void *); return true;
    case '%': asthra__text_add_count(t, "%", 1); return true;
    default:
        if (!d->kind || !strchr("fFeEgGaA", d->kind)) return false;
        asthra__text_put_float(t, d, a);
        return true;
    }
}

ASTHRA__FN void asthra__text_format_list(Asthra__Text *t, const char *format, va_list list) {
    Asthra__TextArguments arguments;
    va_copy(arguments.list, list);
    while (*format) {
        size_t plain = strcspn(format, "%");
        asthra__text_add_count(t, format, plain);
        format += plain;
        if (!*format) break;
        Asthra__TextDirective d;
        const char *end = asthra__text_read(format + 1, &arguments, &d);
        if (!asthra__text_put_directive(t, &d, &arguments))
            asthra__text_add_count(t, format, (size_t)(end - format));
        format = end;
    }
    va_end(arguments.list);
}

ASTHRA__FN void asthra__text_format(Asthra__Text *t, const char *format, ...) {
    va_list list;
    va_start(list, format);
    asthra__text_format_list(t, format, list);
    va_end(list);
}

/* In the largest unit that leaves a whole number, with one decimal if that is not 0. */
ASTHRA__FN void asthra__text_add_duration(Asthra__Text *t, int64_t ns) {
    static const struct {
        uint64_t ns;
        const char *name;
    } units[] = {{1000000000, "s"}, {1000000, "ms"}, {1000, "us"}, {1, "ns"}};
    uint64_t left = ns < 0 ? 0 - (uint64_t)ns : (uint64_t)ns;
    size_t i = 0;
    while (i < 3 && left < units[i].ns) i++;
    unsigned tenths = (unsigned)(left % units[i].ns * 10 / units[i].ns);
    asthra__text_format(t, "%s%llu", ns < 0 ? "-" : "", (unsigned long long)(left / units[i].ns));
    if (tenths) asthra__text_format(t, ".%u", tenths);
    asthra__text_format(t, " %s", units[i].name);
}

ASTHRA__FN void asthra__text_report(const char *format, ...) {
    char line[1002];
    int saved = errno;
    va_list list;
    va_start(list, format);
    Asthra__Text t = asthra__text_on(line, sizeof line - 1); /* the newline's place stays free */
    asthra__text_format_list(&t, format, list);
    va_end(list);
    line[t.length++] = '\n';
    asthra__os_write_error(line, t.length);
    errno = saved;
}

#endif
