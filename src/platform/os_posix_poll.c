/* os_posix - descriptors: an array for poll(2), and pipes.                 [os] body: descriptors
 *
 * The set is an array of what is armed, with the place of each number beside it, so that arming
 * takes a few steps; telling takes a poll over all of them. Whoever waits works on a copy. What is
 * ready is told if it is still armed with the mark that the copy has, and leaves the set. Arming
 * ends a wait under way, whose copy lacks it.
 *
 * A number that was given to another file is that file: nobody can tell. A closed one is told by
 * the next poll, or by arming it.
 *
 * The lock is held for a few steps, or for the copy, and never over a system call but sched_yield.
 * Arrays are mapped, twice as large each time, and stay.
 */
#include "os_internal.h"

#if ASTHRA_HAS_CORE && ASTHRA__SYS_POSIX

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct Asthra__OsArmedFd {
    int fd, events;
    uint64_t mark;
} Asthra__OsArmedFd;

typedef struct Asthra__OsArray { /* grows; what is new is zero */
    void *at;
    size_t bytes;
} Asthra__OsArray;

static struct {
    ASTHRA__ATOMIC(uint32_t) lock;
    ASTHRA__ATOMIC(uint32_t) waits; /* somebody is in poll, or about to be */
    Asthra__OsSignal wake;
    bool is_open;
    size_t count;
    Asthra__OsArray armed;         /* Asthra__OsArmedFd, by place */
    Asthra__OsArray place;         /* uint32_t, by number: the place + 1; 0: not armed */
    Asthra__OsArray polled, marks; /* the copy: struct pollfd, uint64_t; of whoever waits */
} asthra__poll_set;

static void asthra__poll_lock(void) {
    while (asthra__exchange(&asthra__poll_set.lock, 1u, acquire)) asthra__os_yield();
}
static void asthra__poll_unlock(void) {
    asthra__store(&asthra__poll_set.lock, 0u, release);
}

/* False: no memory, and all is as it was. */
static bool asthra__os_array_reach(Asthra__OsArray *a, size_t bytes) {
    if (bytes <= a->bytes) return true;
    size_t more = a->bytes != 0 ? a->bytes : 4 * asthra__os_page_size();
    while (more < bytes) more *= 2;
    void *fresh = asthra__os_map(more);
    if (fresh == NULL) return false;
    if (a->at != NULL) memcpy(fresh, a->at, a->bytes);
    if (a->at != NULL) asthra__os_unmap(a->at, a->bytes);
    a->at = fresh;
    a->bytes = more;
    return true;
}

/* ---- the set ---- */

ASTHRA__FN bool asthra__os_poll_open(void) {
    bool has_room = asthra__os_array_reach(&asthra__poll_set.polled, sizeof(struct pollfd)) &&
                    asthra__os_array_reach(&asthra__poll_set.marks, sizeof(uint64_t));
    if (has_room) asthra__poll_set.wake = asthra__os_signal_open();
    asthra__poll_set.is_open = has_room && asthra__poll_set.wake.fd >= 0;
    return asthra__poll_set.is_open;
}

ASTHRA__FN void asthra__os_poll_close(void) {
    if (asthra__poll_set.is_open) asthra__os_signal_close(asthra__poll_set.wake);
    asthra__poll_set.is_open = false;
    asthra__poll_set.count = 0;
    if (asthra__poll_set.place.at != NULL)
        memset(asthra__poll_set.place.at, 0, asthra__poll_set.place.bytes);
    asthra__store(&asthra__poll_set.lock, 0u, relaxed);
    asthra__store(&asthra__poll_set.waits, 0u, relaxed);
}

/* Caller holds the lock. */
static bool asthra__poll_put(int fd, int events, uint64_t mark) {
    size_t number = (size_t)fd, count = asthra__poll_set.count;
    if (!asthra__os_array_reach(&asthra__poll_set.place, (number + 1) * sizeof(uint32_t)) ||
        !asthra__os_array_reach(&asthra__poll_set.armed, (count + 1) * sizeof(Asthra__OsArmedFd)))
        return false;
    uint32_t *place = &((uint32_t *)asthra__poll_set.place.at)[number];
    if (*place == 0) *place = (uint32_t)++asthra__poll_set.count;
    ((Asthra__OsArmedFd *)asthra__poll_set.armed.at)[*place - 1] =
        (Asthra__OsArmedFd){fd, events, mark};
    return true;
}

/* Takes fd out, if it is armed with that mark. Caller holds the lock. */
static bool asthra__poll_take(int fd, uint64_t mark) {
    Asthra__OsArmedFd *armed = asthra__poll_set.armed.at;
    uint32_t *places = asthra__poll_set.place.at, place = places[fd];
    if (place == 0 || armed[place - 1].mark != mark) return false;
    const Asthra__OsArmedFd *last = &armed[--asthra__poll_set.count];
    armed[place - 1] = *last;
    places[last->fd] = place;
    places[fd] = 0;
    return true;
}

ASTHRA__FN Asthra__OsArmed asthra__os_poll_arm(int fd, int events, uint64_t mark, bool is_known) {
    int now = asthra__os_poll_one(fd, 0, 0);
    (void)is_known;
    if (now > 0 && now & POLLNVAL) return ASTHRA__OS_ARMED_CLOSED;
    asthra__poll_lock();
    bool is_put = asthra__poll_put(fd, events, mark);
    bool must_wake = asthra__load(&asthra__poll_set.waits, relaxed) != 0;
    asthra__poll_unlock();
    if (is_put && must_wake) asthra__os_poll_wake();
    return is_put ? ASTHRA__OS_ARMED : ASTHRA__OS_ARMED_FULL;
}

/* Makes the copy, behind the signal; how many it holds. Without memory for all of them, as many as
 * there is room for from the start: thousands. */
static size_t asthra__poll_copy(void) {
    asthra__poll_lock();
    size_t count = asthra__poll_set.count;
    const Asthra__OsArmedFd *armed = asthra__poll_set.armed.at;
    if (!asthra__os_array_reach(&asthra__poll_set.polled, (count + 1) * sizeof(struct pollfd)) ||
        !asthra__os_array_reach(&asthra__poll_set.marks, (count + 1) * sizeof(uint64_t))) {
        size_t most = asthra__poll_set.polled.bytes / sizeof(struct pollfd) - 1;
        size_t marks = asthra__poll_set.marks.bytes / sizeof(uint64_t) - 1;
        if (most > marks) most = marks;
        if (count > most) count = most;
    }
    struct pollfd *polled = asthra__poll_set.polled.at;
    uint64_t *marks = asthra__poll_set.marks.at;
    polled[0] = (struct pollfd){asthra__poll_set.wake.fd, POLLIN, 0};
    for (size_t i = 0; i < count; i++) {
        polled[i + 1] = (struct pollfd){armed[i].fd, (short)armed[i].events, 0};
        marks[i + 1] = armed[i].mark;
    }
    asthra__store(&asthra__poll_set.waits, 1u, relaxed);
    asthra__poll_unlock();
    return count;
}

ASTHRA__FN size_t asthra__os_poll_wait(Asthra__OsReady *out, size_t room, int64_t timeout_ns) {
    int saved = errno;
    size_t count = asthra__poll_copy(), told = 0;
    struct pollfd *polled = asthra__poll_set.polled.at;
    const uint64_t *marks = asthra__poll_set.marks.at;
    int got = poll(polled, (nfds_t)count + 1, asthra__os_ms(timeout_ns));
    asthra__store(&asthra__poll_set.waits, 0u, relaxed);
    if (got > 0 && polled[0].revents & POLLNVAL) asthra__os_poll_lost();
    if (got > 0 && polled[0].revents != 0) asthra__os_signal_clear(asthra__poll_set.wake);
    asthra__poll_lock();
    for (size_t i = 1; got > 0 && i <= count && told < room; i++) {
        if (polled[i].revents == 0 || !asthra__poll_take(polled[i].fd, marks[i])) continue;
        out[told++] = (Asthra__OsReady){marks[i], polled[i].revents};
    }
    asthra__poll_unlock();
    errno = saved;
    return told;
}

ASTHRA__FN void asthra__os_poll_wake(void) {
    asthra__os_signal_set(asthra__poll_set.wake);
}

/* ---- signals: a byte in a pipe ---- */

static bool asthra__os_signal_tame(int fd) {
    return fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 && fcntl(fd, F_SETFL, O_NONBLOCK) == 0;
}

ASTHRA__FN Asthra__OsSignal asthra__os_signal_open(void) {
    Asthra__OsSignal none = {-1, -1};
    int saved = errno, ends[2];
    bool is_open = pipe(ends) == 0;
    Asthra__OsSignal s = is_open ? (Asthra__OsSignal){ends[0], ends[1]} : none;
    if (is_open && !(asthra__os_signal_tame(s.fd) && asthra__os_signal_tame(s.far_end))) {
        asthra__os_signal_close(s);
        s = none;
    }
    errno = saved;
    return s;
}

ASTHRA__FN void asthra__os_signal_close(Asthra__OsSignal s) {
    int saved = errno;
    if (s.fd >= 0) close(s.fd);
    if (s.far_end >= 0) close(s.far_end);
    errno = saved;
}

ASTHRA__FN void asthra__os_signal_set(Asthra__OsSignal s) {
    int saved = errno;
    ssize_t done = write(s.far_end, "", 1); /* a full pipe is readable too */
    (void)done;
    errno = saved;
}

ASTHRA__FN void asthra__os_signal_clear(Asthra__OsSignal s) {
    char bytes[64];
    int saved = errno;
    while (read(s.fd, bytes, sizeof bytes) == (ssize_t)sizeof bytes) continue;
    errno = saved;
}

#endif
