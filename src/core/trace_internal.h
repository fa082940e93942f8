/* trace - the marks that the bodies leave.                                 [trace] internal
 *
 * ASTHRA__TRACE(flag, format, ...) writes one debug line when the flag is on. Lines name tasks by
 * id and channels by name, never by address, so that a run with a deterministic seed writes the
 * same bytes each time.
 */
#ifndef ASTHRA__TRACE_INTERNAL_H
#define ASTHRA__TRACE_INTERNAL_H

#include "text_internal.h"
#include "trace.h"

ASTHRA__FN bool asthra__trace_is_on(AsthraDebugFlag flag); /* one relaxed load */
#define ASTHRA__TRACE(flag, ...) \
    (ASTHRA__UNLIKELY(asthra__trace_is_on(flag)) ? asthra__text_report(__VA_ARGS__) : (void)0)

#endif
