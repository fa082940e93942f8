/* text - writing messages where stdio cannot go.                           [text] internal
 *
 * A text is a caller's buffer that fills up and never overflows; what does not fit is cut and the
 * end is always a NUL. Nothing here allocates, locks or reads the locale, so signal handlers and
 * the out-of-memory path may use it; floating-point directives alone go through the C library.
 */
#ifndef ASTHRA__TEXT_INTERNAL_H
#define ASTHRA__TEXT_INTERNAL_H

#include "../platform/compiler_internal.h"

#if ASTHRA_HAS_CORE

typedef struct Asthra__Text {
    char *start;
    size_t length, room; /* room counts the NUL */
} Asthra__Text;

ASTHRA__FN Asthra__Text asthra__text_on(char *buffer, size_t room);
ASTHRA__FN void asthra__text_add(Asthra__Text *t, const char *words); /* NULL: nothing */
ASTHRA__FN void asthra__text_add_count(Asthra__Text *t, const char *bytes, size_t count);

/* printf's %d %i %u %x %X %o %c %s %p %%, with hh h l ll z t j, flags, width and precision; a NULL
 * string is "(null)". %f %e %g %a (not in signal handlers; without their # flag; a long double is
 * rounded to double) go through snprintf, and under ASTHRA_RT_NO_STDIO they write "<float>". %n
 * stores nothing; any other directive is copied as it stands. */
ASTHRA__FN void asthra__text_format(Asthra__Text *t, const char *format, ...) ASTHRA_PRINTF(2, 3);
ASTHRA__FN void asthra__text_format_list(Asthra__Text *t, const char *format, va_list list)
    ASTHRA_PRINTF(2, 0);
ASTHRA__FN void asthra__text_add_duration(Asthra__Text *t, int64_t ns); /* "1.5 s", "20 ms" */

/* One line on stderr in one write, formatted as above, cut at 1,000 bytes; errno is left as it was.
 * Signal-safe without floating-point directives. */
ASTHRA__FN void asthra__text_report(const char *format, ...) ASTHRA_PRINTF(1, 2);

#endif
#endif
