/* fd - waiting until a descriptor is ready.                                [fd] contract
 *
 * A task that waits for a pipe, a socket, a terminal is parked and its thread goes on with others;
 * ten thousand of them cost one thread that the system wakes. Any descriptor that poll(2) takes
 * will do, in blocking mode or not, and nothing has to be registered or given back. A child of fork
 * waits by itself: with threads it begins anew, without those who waited go on waiting in both.
 * Needs: task.  Strip with: ASTHRA_RT_NO_FD.
 */
#ifndef ASTHRA__FD_H
#define ASTHRA__FD_H

#include "../core/result.h"

#if ASTHRA_HAS_FD

/* Waits until `fd` is ready for one of `events`, which are those of poll(2): POLLIN, POLLOUT, 0 for
 * nothing but errors and the end. Several tasks may wait for one descriptor; each that the event
 * concerns goes on.
 *
 * Returns   ASTHRA_OK, and value.integer holds what poll calls revents, POLLERR and POLLHUP
 *           among them; ASTHRA_TIMED_OUT; ASTHRA_CANCELLED; ASTHRA_INVALID if fd is not open or
 *           `events` are none; ASTHRA_CLOSED if it was closed meanwhile, which may take a second or
 *           two to be seen: better wake those who wait with shutdown(2) first; ASTHRA_LIMIT or
 *           ASTHRA_OUT_OF_MEMORY if the system had no room. detail is the errno that it gave.
 * Blocks    the task only; a plain thread blocks in poll(2).
 * Cost      one system call to begin, a share of one to be told, and two switches.
 */
ASTHRA_RT_API AsthraResult asthra_wait_fd(int fd, int events, int64_t timeout_ns);

#endif
#endif
