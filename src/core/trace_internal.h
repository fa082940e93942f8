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

#if ASTHRA_HAS_CORE

/* All that a hot path asks is one word: the debug flags, and above them what modules that trace
 * anyway want to be asked at the same places. */
enum {
    ASTHRA__TRACE_ZONE_LIMIT = 1 << 16,
    ASTHRA__TRACE_ZONE_HOOKS = 1 << 17,
    ASTHRA__TRACE_ZONE_OFF = 1 << 18,  /* some zone is */
    ASTHRA__TRACE_ZONE_PINS = 1 << 19, /* some block of the stack zone is pinned */
    ASTHRA__TRACE_ZONES = ASTHRA__TRACE_ZONE_LIMIT | ASTHRA__TRACE_ZONE_HOOKS |
                          ASTHRA__TRACE_ZONE_OFF | ASTHRA__TRACE_ZONE_PINS |
                          1 << ASTHRA_DEBUG_MEMORY_ALLOCATION
};
ASTHRA__FN uint32_t asthra__trace_word(void);             /* one relaxed load */
ASTHRA__FN void asthra__trace_set(uint32_t bit, bool on); /* sequentially consistent */

ASTHRA__FN bool asthra__trace_is_on(AsthraDebugFlag flag); /* one relaxed load */
#define ASTHRA__TRACE(flag, ...) \
    (ASTHRA__UNLIKELY(asthra__trace_is_on(flag)) ? asthra__text_report(__VA_ARGS__) : (void)0)

#endif
#endif
