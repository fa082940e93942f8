/* channel - bounded queues that tasks share.                              [channel] contract
 *
 * A channel carries values of one size, copied in and copied out, in sending order. With capacity 0
 * each send meets its receive. Closing wakes every waiter; values already inside can still be
 * received. Any thread may call: a task parks, a plain thread blocks.
 *
 * A send happens before the receive of its value completes. With capacity C the k-th receive
 * happens before the (k+C)-th send completes. Closing happens before a receive that reports it.
 *
 * Every call but destroy may be made by any number of threads at once. A NULL channel panics. A
 * call that would wait in a cancelled task returns ASTHRA_CANCELLED; one that need not wait
 * succeeds. One that finds no memory to wait with, or no thread to run others meanwhile, returns
 * ASTHRA_OUT_OF_MEMORY.
 * Needs: task.  Strip with: ASTHRA_RT_NO_CHANNEL.
 */
#ifndef ASTHRA__CHANNEL_H
#define ASTHRA__CHANNEL_H

#include "../core/result.h"

#if ASTHRA_HAS_CHANNEL

typedef struct AsthraConcurrencyChannel AsthraConcurrencyChannel, AsthraChannel;

/* Opens a channel for `capacity` values of `element_size` bytes each, called `name` in reports
 * (copied; NULL: "unnamed").
 *
 * Returns   the channel; NULL if element_size is 0, the sizes overflow, memory ran out or channels
 *           are switched off (asthra_last_error() says which).
 * Owns      the caller owns it and ends it with asthra_channel_destroy.
 * Blocks    never.            Cost  one allocation.
 */
ASTHRA_RT_API AsthraChannel *asthra_channel_create(size_t element_size, size_t capacity,
                                                   const char *name);

/* Sends a copy of the element_size bytes at `value`.
 *
 * Returns   ASTHRA_OK once it is in the channel (capacity 0: once it was received); ASTHRA_CLOSED,
 *           also if closed while waiting; ASTHRA_CANCELLED. Failures have sent nothing.
 * Blocks    while there is no room.            Cost  some 20 ns when nobody waits, and the copy.
 */
ASTHRA_RT_API AsthraResult asthra_channel_send(AsthraChannel *c, const void *value);

/* Receives the oldest value into `out`; NULL drops it.
 *
 * Returns   ASTHRA_OK; ASTHRA_CLOSED if closed and drained; ASTHRA_CANCELLED. Failures leave *out
 *           as it was.
 * Blocks    while there is nothing to receive.            Cost  as send.
 */
ASTHRA_RT_API AsthraResult asthra_channel_receive(AsthraChannel *c, void *out);

/* The same without waiting: ASTHRA_WOULD_BLOCK where the others would wait. */
ASTHRA_RT_API AsthraResult asthra_channel_try_send(AsthraChannel *c, const void *value);
ASTHRA_RT_API AsthraResult asthra_channel_try_receive(AsthraChannel *c, void *out);

/* The same, waiting for at most timeout_ns (0: not at all, < 0: for ever): then
 * ASTHRA_TIMED_OUT. */
ASTHRA_RT_API AsthraResult asthra_channel_send_timeout(AsthraChannel *c, const void *value,
                                                       int64_t timeout_ns);
ASTHRA_RT_API AsthraResult asthra_channel_receive_timeout(AsthraChannel *c, void *out,
                                                          int64_t timeout_ns);

/* Receive for loops: false at the end, which is when the channel is closed and drained, or when the
 * waiting task was cancelled, or when there was no memory to wait with (asthra_last_error() tells).
 * An element_size that is not the channel's panics. */
ASTHRA_RT_API bool asthra_channel_next(AsthraChannel *c, void *out, size_t element_size);

/* Closes: from now on sends fail, and receives fail once the values inside are drained. Waiting
 * senders and receivers are woken with ASTHRA_CLOSED.
 *
 * Returns   true if this call closed it; closing again changes nothing.            Blocks  never.
 */
ASTHRA_RT_API bool asthra_channel_close(AsthraChannel *c);

ASTHRA_RT_API bool asthra_channel_is_closed(const AsthraChannel *c);
ASTHRA_RT_API size_t asthra_channel_count(const AsthraChannel *c); /* inside; out of date at once */
ASTHRA_RT_API size_t asthra_channel_capacity(const AsthraChannel *c);
ASTHRA_RT_API size_t asthra_channel_element_size(const AsthraChannel *c);
ASTHRA_RT_API const char *asthra_channel_name(const AsthraChannel *c); /* lives as long as c */

/* For a loop that waits for descriptors: one that is readable while a receive would not wait. It is
 * made by the first call, belongs to the channel, and is only to be polled: not read, not closed.
 * What it says may be out of date at once, as all such answers, so receive with try_receive.
 *
 * Returns   the descriptor, the same at every call; -1 with the reason in asthra_last_error().
 * Cost      from then on a system call whenever the channel goes from empty to not, or back.
 */
ASTHRA_RT_API int asthra_channel_fd(AsthraChannel *c);

/* Returns c, if it carries values of element_size bytes. Of another, and of NULL, the panic begins
 * with `who`. What the functions that typed.h makes ask first. */
ASTHRA_RT_API AsthraChannel *asthra_channel_expect(AsthraChannel *c, size_t element_size,
                                                   const char *who);

/* Ends a channel; values inside are dropped. Whoever knows that no other call on it is to come may
 * do this, even while a call whose value it has received, or sent, is still returning elsewhere.
 * A channel that somebody waits on panics and names the waiters. A select waits on all its channels
 * until it returns. */
ASTHRA_RT_API void asthra_channel_destroy(AsthraChannel *c);

#endif
#endif
