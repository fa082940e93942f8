/* trace - one word of flags.                                               [trace] body
 *
 * All flags stand in one word, so that a mark whose flag is off costs a relaxed load and a branch.
 * Nothing is published with a flag: a thread that sees it a little later writes a line less.
 */
#include "trace_internal.h"

/* Bit n is AsthraDebugFlag n. */
static struct { ASTHRA__ATOMIC(uint32_t) flags; } asthra__trace;

ASTHRA__FN bool asthra__trace_is_on(AsthraDebugFlag flag) {
    return asthra__load(&asthra__trace.flags, relaxed) >> (unsigned)flag & 1;
}

ASTHRA_RT_API void asthra_set_debug_flag(AsthraDebugFlag flag, bool on) {
    if ((unsigned)flag > ASTHRA_DEBUG_SAFETY_CHECKS) return;
    uint32_t bit = (uint32_t)1 << (unsigned)flag;
    if (on)
        asthra__or(&asthra__trace.flags, bit, relaxed);
    else
        asthra__and(&asthra__trace.flags, ~bit, relaxed);
}
