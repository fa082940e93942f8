/* trace - debug lines, and marks for the report floor.                     [trace] contract
 *
 * A debug flag makes the runtime say what it does, a line on stderr for each operation. All flags
 * are off at the start. Threads: any. Cost of a flag that is off: one load and a branch.
 */
#ifndef ASTHRA__TRACE_H
#define ASTHRA__TRACE_H

#include "../platform/compiler.h"

#if ASTHRA_HAS_CORE

typedef enum AsthraDebugFlag {
    ASTHRA_DEBUG_MEMORY_ALLOCATION,
    ASTHRA_DEBUG_CONCURRENCY_OPERATIONS,
    ASTHRA_DEBUG_FFI_CALLS,
    ASTHRA_DEBUG_SAFETY_CHECKS
} AsthraDebugFlag;

ASTHRA_RT_API void asthra_set_debug_flag(AsthraDebugFlag flag, bool on);

#endif
#endif
