/* timer - time, and waiting for it.                                        [timer] body
 *
 * A sleep is a wait that nobody but its timer, or a canceller, can complete; the timers themselves
 * are the scheduler's (scheduler_timer.c), because every wait can have one.
 */
#include "timer.h"

#include "scheduler_internal.h"

#if ASTHRA_HAS_TASK

ASTHRA_RT_API int64_t asthra_now_ns(void) {
    return asthra__now_ns();
}

ASTHRA_RT_API AsthraResult asthra_sleep_ns(int64_t ns) {
    Asthra__Wait w = {.what = "sleep"};
    asthra__turn();
    asthra__wait_open(&w);
    AsthraStatus status = asthra__wait_park(&w, ns);
    return asthra__result_of(status == ASTHRA_TIMED_OUT ? ASTHRA_OK : status);
}

#endif
