/* os_linux - descriptors: an epoll set, and eventfds.                      [os] body: descriptors
 *
 * Each descriptor is armed for one event (EPOLLONESHOT) and stays in the set disarmed, so that the
 * next wait is one system call, and one that finds a descriptor closed, or closed and its number
 * given to another file, is told so by the same call: the set keeps files, not numbers. The events
 * of epoll are those of poll(2) bit by bit (asserted below).
 *
 * Whoever waits is woken through an eventfd in the same set, edge-triggered, so that nobody has to
 * read it: every write is a new edge.
 */
#include "os_internal.h"

#if ASTHRA_HAS_CORE && ASTHRA__SYS_LINUX

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

_Static_assert(EPOLLIN == POLLIN && EPOLLOUT == POLLOUT && EPOLLPRI == POLLPRI &&
                   EPOLLERR == POLLERR && EPOLLHUP == POLLHUP,
               "the events of epoll are those of poll");

static struct {
    ASTHRA__ATOMIC(int) set, wake; /* 1 + descriptor; 0: none */
    ASTHRA__ATOMIC(bool) lacks_ns; /* the system has no epoll_pwait2 */
} asthra__poll_set;

static int asthra__os_poll_set(void) {
    return asthra__load(&asthra__poll_set.set, acquire) - 1;
}

ASTHRA__FN bool asthra__os_poll_open(void) {
    int saved = errno;
    int set = epoll_create1(EPOLL_CLOEXEC), wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN | EPOLLET, .data.u64 = UINT64_MAX};
    bool is_open = set >= 0 && wake >= 0 && epoll_ctl(set, EPOLL_CTL_ADD, wake, &e) == 0;
    if (!is_open && set >= 0) close(set);
    if (!is_open && wake >= 0) close(wake);
    if (is_open) asthra__store(&asthra__poll_set.wake, wake + 1, release);
    if (is_open) asthra__store(&asthra__poll_set.set, set + 1, release);
    errno = saved;
    return is_open;
}

ASTHRA__FN void asthra__os_poll_close(void) {
    int saved = errno;
    int set = asthra__exchange(&asthra__poll_set.set, 0, acq_rel) - 1;
    int wake = asthra__exchange(&asthra__poll_set.wake, 0, acq_rel) - 1;
    if (set >= 0) close(set);
    if (wake >= 0) close(wake);
    errno = saved;
}

static Asthra__OsArmed asthra__os_poll_refused(int error) {
    if (error == EPERM) return ASTHRA__OS_ARMED_NEVER;
    if (error == EBADF || error == EINVAL) return ASTHRA__OS_ARMED_CLOSED;
    return ASTHRA__OS_ARMED_FULL;
}

/* What is known is changed, what is not is added; whoever knew wrong tries the other. A file that
 * is in the set under this number although we did not know has another number too, and was never
 * armed by it since: it counts as known. */
ASTHRA__FN Asthra__OsArmed asthra__os_poll_arm(int fd, int events, uint64_t mark, bool is_known) {
    int saved = errno, set = asthra__os_poll_set();
    struct epoll_event e = {.events = (uint32_t)events | EPOLLONESHOT, .data.u64 = mark};
    int first = is_known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, error = 0;
    Asthra__OsArmed how = is_known ? ASTHRA__OS_ARMED : ASTHRA__OS_ARMED_ANEW;
    if (epoll_ctl(set, first, fd, &e) != 0) error = errno;
    if (error == ENOENT || error == EEXIST) {
        how = is_known ? ASTHRA__OS_ARMED_ANEW : ASTHRA__OS_ARMED;
        error = 0;
        if (epoll_ctl(set, is_known ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &e) != 0) error = errno;
    }
    if (error != 0) how = asthra__os_poll_refused(error);
    errno = saved;
    return how;
}

static int asthra__os_epoll(struct epoll_event *out, int room, int64_t timeout_ns) {
    int set = asthra__os_poll_set();
#ifdef SYS_epoll_pwait2
    if (timeout_ns > 0 && !asthra__load(&asthra__poll_set.lacks_ns, relaxed)) {
        int64_t limit[2] = {timeout_ns / 1000000000, timeout_ns % 1000000000};
        long got = syscall(SYS_epoll_pwait2, (long)set, out, (long)room, limit, NULL, 8L);
        if (got >= 0 || errno == EINTR) return (int)got;
        asthra__store(&asthra__poll_set.lacks_ns, true, relaxed);
    }
#endif
    return epoll_wait(set, out, room, asthra__os_ms(timeout_ns));
}

ASTHRA__FN size_t asthra__os_poll_wait(Asthra__OsReady *out, size_t room, int64_t timeout_ns) {
    enum { MOST = 64 };
    struct epoll_event events[MOST];
    int saved = errno;
    size_t count = 0;
    int got = asthra__os_epoll(events, room < MOST ? (int)room : MOST, timeout_ns);
    if (got < 0 && errno != EINTR) asthra__os_poll_lost();
    for (int i = 0; i < got; i++) {
        if (events[i].data.u64 == UINT64_MAX) continue; /* a wake */
        out[count++] = (Asthra__OsReady){events[i].data.u64, (int)events[i].events};
    }
    errno = saved;
    return count;
}

ASTHRA__FN void asthra__os_poll_wake(void) {
    asthra__os_signal_set(
        (Asthra__OsSignal){asthra__load(&asthra__poll_set.wake, acquire) - 1, -1});
}

ASTHRA__FN Asthra__OsSignal asthra__os_signal_open(void) {
    int saved = errno;
    Asthra__OsSignal s = {eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), -1};
    errno = saved;
    return s;
}

ASTHRA__FN void asthra__os_signal_close(Asthra__OsSignal s) {
    int saved = errno;
    if (s.fd >= 0) close(s.fd);
    errno = saved;
}

ASTHRA__FN void asthra__os_signal_set(Asthra__OsSignal s) {
    const uint64_t one = 1;
    int saved = errno;
    ssize_t done = write(s.fd, &one, sizeof one); /* a full counter is readable too */
    (void)done;
    errno = saved;
}

ASTHRA__FN void asthra__os_signal_clear(Asthra__OsSignal s) {
    uint64_t count;
    int saved = errno;
    ssize_t done = read(s.fd, &count, sizeof count);
    (void)done;
    errno = saved;
}

#endif
