/* trace - one word of flags.                                               [trace] body
 *
 * All flags stand in one word, so that a mark whose flag is off costs a relaxed load and a branch.
 * Nothing is published with a flag: a thread that sees it a little later writes a line less.
 */
#include "trace_internal.h"

#if ASTHRA_HAS_CORE

/* Bit n is AsthraDebugFlag n; ASTHRA__TRACE_* stand above. */
static struct { ASTHRA__ATOMIC(uint32_t) word; } asthra__trace;

ASTHRA__FN ASTHRA__FAST uint32_t asthra__trace_word(void) {
    return asthra__load(&asthra__trace.word, relaxed);
}

ASTHRA__FN void asthra__trace_set(uint32_t bit, bool on) {
    if (on)
        asthra__or(&asthra__trace.word, bit, seq_cst);
    else
        asthra__and(&asthra__trace.word, ~bit, seq_cst);
}

ASTHRA__FN bool asthra__trace_is_on(AsthraDebugFlag flag) {
    return asthra__trace_word() >> (unsigned)flag & 1;
}

ASTHRA_RT_API void asthra_set_debug_flag(AsthraDebugFlag flag, bool on) {
    if ((unsigned)flag > ASTHRA_DEBUG_SAFETY_CHECKS) return;
    asthra__trace_set((uint32_t)1 << (unsigned)flag, on);
}

#endif
