/* select - waiting on several channels at once.                            [select] contract
 *
 * A select completes exactly one of its cases: a ready one, each with equal probability, or the
 * first that becomes ready. A case is ready when its send or receive need not wait; a closed
 * channel is always ready. A NULL channel never is. One channel may stand in several cases, also as
 * send and receive; a select never meets itself.
 * Needs: channel.  Strip with: ASTHRA_RT_NO_SELECT.
 */
#ifndef ASTHRA__SELECT_H
#define ASTHRA__SELECT_H

#include "channel.h"

#if ASTHRA_HAS_SELECT

#define ASTHRA_SELECT_DEFAULT (-1)
#define ASTHRA_SELECT_TIMEOUT (-2)
#define ASTHRA_SELECT_CANCELLED (-3)
#define ASTHRA_SELECT_OUT_OF_MEMORY (-4)

typedef enum AsthraSelectKind { ASTHRA_SELECT_SEND, ASTHRA_SELECT_RECEIVE } AsthraSelectKind;

typedef enum AsthraSelectOutcome { /* NONE: no case was chosen */
    ASTHRA_SELECT_NONE = 0,
    ASTHRA_SELECT_RECEIVED,
    ASTHRA_SELECT_SENT,
    ASTHRA_SELECT_CLOSED
} AsthraSelectOutcome;

typedef struct AsthraSelectCase {
    AsthraSelectKind kind;
    AsthraStatus status; /* out, of the chosen case: OK or CLOSED; the others keep theirs */
    AsthraChannel *channel;
    void *data; /* send: read, never written; receive: NULL drops the value */
} AsthraSelectCase;

ASTHRA_RT_API AsthraSelectCase asthra_select_send(AsthraChannel *c, const void *value);
ASTHRA_RT_API AsthraSelectCase asthra_select_receive(AsthraChannel *c, void *out);

/* Completes one of `count` cases.
 *
 * Returns   the index of the case that was chosen, its status set; ASTHRA_SELECT_DEFAULT if
 *           timeout_ns is 0 and no case was ready; ASTHRA_SELECT_TIMEOUT after timeout_ns;
 *           ASTHRA_SELECT_CANCELLED; ASTHRA_SELECT_OUT_OF_MEMORY if there was none to wait with
 *           (asthra_last_error() says for what). The last four have sent and received nothing.
 * Owns      cases, values and channels are borrowed until it returns.
 * Blocks    until a case is ready; with no case but NULL channels, until timeout or cancellation.
 * Cost      no allocation. About 60 bytes of stack for each case while it waits, so that a thousand
 *           cases fit in any task; some 20 ns for each case when it waits, one or two when not.
 */
ASTHRA_RT_API int asthra_select(AsthraSelectCase *cases, size_t count, int64_t timeout_ns);

/* The same cases executed again and again. A builder is used by one task or thread at a time. */
typedef struct AsthraSelectBuilder AsthraSelectBuilder;

/* Returns an empty builder, to be ended with asthra_select_builder_destroy; NULL: out of memory. */
ASTHRA_RT_API AsthraSelectBuilder *asthra_select_builder_create(void);

/* Adds a case. `data` is read at each execute, `out` is written when its case is chosen; both, and
 * the channel, are borrowed while the builder is executed.
 * Returns   the case's index, from 0 upwards; -1 with the reason in asthra_last_error(). */
ASTHRA_RT_API int asthra_select_builder_add_send(AsthraSelectBuilder *b, AsthraChannel *c,
                                                 const void *data);
ASTHRA_RT_API int asthra_select_builder_add_receive(AsthraSelectBuilder *b, AsthraChannel *c,
                                                    void *out);

/* Never wait: ASTHRA_SELECT_DEFAULT instead. Beats a timeout. */
ASTHRA_RT_API void asthra_select_builder_set_default(AsthraSelectBuilder *b);

/* Wait at most timeout_ns, counted anew at each execute; 0 polls, < 0 is for ever (at the
 * start). */
ASTHRA_RT_API void asthra_select_builder_set_timeout(AsthraSelectBuilder *b, int64_t timeout_ns);
ASTHRA_RT_API void asthra_select_builder_destroy(AsthraSelectBuilder *b);

/* As asthra_select, with the builder's cases: the index that add_* returned, or < 0 as above. */
ASTHRA_RT_API int asthra_select_execute(AsthraSelectBuilder *b);

/* What the last execute did. CLOSED: the chosen case's channel was closed (and, of a receive,
 * drained). */
ASTHRA_RT_API AsthraSelectOutcome asthra_select_outcome(const AsthraSelectBuilder *b);

#endif
#endif
