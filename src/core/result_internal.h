/* result - failures as the bodies make them.                               [result] internal */
#ifndef ASTHRA__RESULT_INTERNAL_H
#define ASTHRA__RESULT_INTERNAL_H

#include "result.h"
#include "thread_internal.h"

#if ASTHRA_HAS_CORE

/* A failure with the status's own sentence: no record is written, so it costs nothing. */
ASTHRA__FN AsthraResult asthra__result_of(AsthraStatus status);
ASTHRA__FN AsthraResult asthra__result_integer(int64_t value);

/* A failure with static text, and a context of at most ASTHRA__RESULT_CONTEXT bytes, copied. */
enum { ASTHRA__RESULT_CONTEXT = 32 };
ASTHRA__FN AsthraResult asthra__result_with(AsthraStatus status, uint32_t detail,
                                            const char *message, const void *context, size_t bytes);

/* Notes why a call that returns NULL, false or a zero handle failed. Formatted, copied. */
ASTHRA__FN void asthra__error_set(AsthraStatus status, const char *format, ...) ASTHRA_PRINTF(2, 3);
/* The same with the status's own sentence: needs no memory, for what is no surprise. */
ASTHRA__FN void asthra__error_note(AsthraStatus status);
ASTHRA__FN void asthra__error_clear(void); /* by a good spawn or create; cheap when there is none */

/* A hook: where the running task keeps its error record; NULL: no task, the thread's serves. */
typedef struct AsthraError **(*Asthra__ResultPlace)(void);
ASTHRA__FN void asthra__result_set_place(Asthra__ResultPlace place);

/* A failure on its way to another task: a copy that belongs to nobody (where it has no message of
 * its own, or without memory, the status's sentence), and the failure that it becomes there. `copy`
 * is NULL, or consumed. */
ASTHRA__FN struct AsthraError *asthra__error_copy(AsthraResult r);
ASTHRA__FN AsthraResult asthra__result_adopt(uint32_t status, uint32_t detail,
                                             struct AsthraError *copy);

/* The record of the running task or thread, put aside while others make errors, and put back. The
 * results that lead to it stay good. NULL: there is none. */
ASTHRA__FN struct AsthraError *asthra__error_put_aside(void);
ASTHRA__FN void asthra__error_put_back(struct AsthraError *record);

/* Ends the record of a task or thread; NULL is allowed. */
ASTHRA__FN void asthra__error_free(struct AsthraError *record);

#endif
#endif
