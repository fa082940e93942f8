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

/* A select written as plain ifs.
 *
 *     ASTHRA_SELECT(s) {
 *         if (asthra_case_receive(&s, lines, &line)) {
 *             if (!s.ok) break;                            lines is closed and drained
 *             puts(line);
 *         } else if (asthra_case_send(&s, numbers, &next)) {
 *             next++;
 *         } else if (asthra_case_timeout(&s, ASTHRA_MS(100))) {
 *             puts("nobody came");
 *         } else if (asthra_case_cancelled(&s)) {
 *             return;
 *         }
 *     }
 *
 * The body runs twice: first every case returns false and is noted, then the select waits, and then
 * the case that was chosen, and no other, returns true. So the body is these ifs and nothing else;
 * what stands in their conditions is evaluated twice, and what stands in no branch, a plain else
 * too, runs twice; targets and values are declared outside it. The cases must be the same both
 * times: another channel or target, another order, or a condition beside a case that has changed
 * meanwhile is a panic where it shows. A case may stand in a loop; a branch may wait, and may hold
 * another select.
 *
 * break and continue leave the select, and only it, not a loop around it; return and goto leave it
 * too. `s` is gone behind the closing brace.
 *
 * At most ASTHRA_SELECT_MAX cases, or it panics; a builder has no limit. Without any, and without a
 * timeout or default, it waits until the task is cancelled. Cost: asthra_select's and some 5 ns a
 * case. */
#define ASTHRA_SELECT_MAX 16
typedef struct AsthraSelect {
    int phase, next, count, chosen; /* opaque */
    bool ok;                        /* false: the chosen channel is closed */
    int64_t timeout_ns;
    AsthraSelectCase cases[ASTHRA_SELECT_MAX];
    const char *who; /* from here on opaque, too */
    int timeouts, shortest;
    bool has_default, is_taken;
} AsthraSelect;
#define ASTHRA_SELECT(s)                                                                     \
    for (AsthraSelect s, *s##__at = asthra_select_begin_at(&s, ASTHRA__AT("ASTHRA_SELECT")); \
         asthra_select_step(s##__at);)

/* True in the branch to run. `out` NULL drops the value; `*value` is read while the select waits. A
 * NULL channel is never ready. Panics name the line of the case, or of its ASTHRA_SELECT; a case
 * outside a select is one. */
ASTHRA_RT_API bool asthra_case_receive(AsthraSelect *s, AsthraChannel *c, void *out);
ASTHRA_RT_API bool asthra_case_send(AsthraSelect *s, AsthraChannel *c, const void *value);

/* Nothing was ready for timeout_ns; of several the shortest. < 0: never. */
ASTHRA_RT_API bool asthra_case_timeout(AsthraSelect *s, int64_t timeout_ns);

/* Nothing is ready. Beats a timeout. */
ASTHRA_RT_API bool asthra_case_default(AsthraSelect *s);

/* No case was chosen: the task is cancelled, or there was no memory to wait with, and nothing was
 * sent or received; asthra_last_error() says which. Without this case the select just ends, so a
 * loop around it must ask asthra_cancel_requested(). */
ASTHRA_RT_API bool asthra_case_cancelled(AsthraSelect *s);

/* What the macros call. `who` begins their panics; element_size 0: not known. */
ASTHRA_RT_API AsthraSelect *asthra_select_begin(AsthraSelect *s);
ASTHRA_RT_API AsthraSelect *asthra_select_begin_at(AsthraSelect *s, const char *who);
ASTHRA_RT_API bool asthra_select_step(AsthraSelect *s);
ASTHRA_RT_API bool asthra_case_receive_at(AsthraSelect *s, AsthraChannel *c, void *out,
                                          size_t element_size, const char *who);
ASTHRA_RT_API bool asthra_case_send_at(AsthraSelect *s, AsthraChannel *c, const void *value,
                                       size_t element_size, const char *who);
ASTHRA_RT_API bool asthra_case_timeout_at(AsthraSelect *s, int64_t timeout_ns, const char *who);
ASTHRA_RT_API bool asthra_case_default_at(AsthraSelect *s, const char *who);
ASTHRA_RT_API bool asthra_case_cancelled_at(AsthraSelect *s, const char *who);
#define asthra_case_receive(s, c, out) \
    asthra_case_receive_at((s), (c), (out), 0, ASTHRA__AT("asthra_case_receive"))
#define asthra_case_send(s, c, value) \
    asthra_case_send_at((s), (c), (value), 0, ASTHRA__AT("asthra_case_send"))
#define asthra_case_timeout(s, timeout_ns) \
    asthra_case_timeout_at((s), (timeout_ns), ASTHRA__AT("asthra_case_timeout"))
#define asthra_case_default(s) asthra_case_default_at((s), ASTHRA__AT("asthra_case_default"))
#define asthra_case_cancelled(s) asthra_case_cancelled_at((s), ASTHRA__AT("asthra_case_cancelled"))

#endif
#endif
