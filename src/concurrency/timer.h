/* timer - time, and waiting for it.                                        [timer] contract
 *
 * One unit: int64_t nanoseconds of a monotonic clock. Relative times: 0 polls, < 0 is for ever.
 */
#ifndef ASTHRA__TIMER_H
#define ASTHRA__TIMER_H

#include "../core/result.h"

#if ASTHRA_HAS_CORE

#define ASTHRA_FOREVER ((int64_t)-1)
#define ASTHRA_US(n) ((int64_t)(n) * 1000)
#define ASTHRA_MS(n) ((int64_t)(n) * 1000000)
#define ASTHRA_SECONDS(n) ((int64_t)(n) * 1000000000)

#if ASTHRA_HAS_TASK

/* Monotonic; virtual in the deterministic mode, where it advances when nothing can run. */
ASTHRA_RT_API int64_t asthra_now_ns(void);

/* Waits at least ns; ns < 0 waits for a cancellation.
 * Returns   ASTHRA_OK; ASTHRA_CANCELLED if the task is cancelled before the time is over;
 *           ASTHRA_OUT_OF_MEMORY, at once, if there was none to wait with. */
ASTHRA_RT_API AsthraResult asthra_sleep_ns(int64_t ns);

#endif
#endif
#endif
