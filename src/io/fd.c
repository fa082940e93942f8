/* fd - waiting until a descriptor is ready.                                [fd] body
 *
 * Each descriptor number has an entry: a lock, a list of those who wait, and whether the system's
 * set (os_internal.h) knows it. A wait links a node that stands on its own stack, arms the set for
 * what all in the list want, and parks; the entry's lock is held from there to the moment when the
 * stack has been left. The scheduler calls us back (Asthra__Poller): marks of what is ready come
 * in, nodes are claimed and unlinked under the entry's lock, what is left is armed again.
 *
 * A mark is the number with the entry's `turn`, counted up whenever it is armed. So an event that
 * was on its way when somebody armed anew is dropped, and comes again if it is still true: nobody
 * is told of readiness that had been used up before the wait began.
 *
 * Closed. A set forgets a file that is closed and tells nobody. Arming tells: it finds the number
 * closed, or given to another file. So whoever begins to wait completes those who waited for the
 * file before; and a sweep arms all that is awaited once more, after a tenth of a second, then ever
 * more seldom while no new waits begin. It never takes more than about a hundredth of the time.
 *
 * Fork. A set is shared with the parent, and so it is never used in a child. With threads nobody
 * waits there, and the next wait opens one. Without, those who wait are the child's too: whoever
 * comes to the set first sees that it was opened by another, and arms a fresh one for all of them.
 *
 * Entries are in segments that double and stay, so an entry never moves; number i is in segment
 * floor(log2(i / 64 + 1)).
 */
#include "fd.h"

#include "../concurrency/scheduler_internal.h"
#include "../core/alloc_internal.h"
#include "../core/result_internal.h"

#if ASTHRA_HAS_FD

#include <errno.h>
#include <poll.h>
#include <string.h>

enum {
    ASTHRA__FD_SEGMENTS = 26, /* the last one ends above INT_MAX */
    ASTHRA__FD_FIRST = 64,
    ASTHRA__FD_BATCH = 64,
    ASTHRA__FD_EVENTS = 0x7fff /* poll's are a positive short */
};
#define ASTHRA__FD_SWEEP_NS ASTHRA_MS(100)
#define ASTHRA__FD_SWEEP_MOST_NS ASTHRA_MS(1600)

typedef struct Asthra__FdNode {
    struct Asthra__FdNode *next, **link; /* link NULL: in no list */
    Asthra__Parker *parker;
    int wanted, got;
} Asthra__FdNode;

typedef struct Asthra__FdEntry {
    Asthra__Lock lock;
    uint32_t turn;
    Asthra__FdNode *first;           /* of those who wait */
    bool is_known;                   /* to the set */
    ASTHRA__ATOMIC(bool) is_awaited; /* perhaps: what a sweep looks at first */
} Asthra__FdEntry;

static struct {
    Asthra__Lock lock; /* of opening, and of new segments */
    ASTHRA__ATOMIC(bool) is_open;
    uint64_t owner; /* who opened it: not us in a child that goes on as its parent would */
    ASTHRA__ATOMIC(Asthra__FdEntry *) segments[ASTHRA__FD_SEGMENTS];
    ASTHRA__ATOMIC(uint32_t) begun; /* counts waits */
    /* Of the one thread that polls. */
    Asthra__OsReady ready[ASTHRA__FD_BATCH];
    size_t ready_count;
    uint32_t begun_at_sweep;
    int64_t sweep_at_ns, sweep_after_ns;
} asthra__fd;

/* ---- entries ---- */

static size_t asthra__fd_segment_size(unsigned segment) {
    return (size_t)ASTHRA__FD_FIRST << segment;
}

static unsigned asthra__fd_segment_of(unsigned fd, size_t *within) {
    unsigned segment = 31u - (unsigned)__builtin_clz(fd / ASTHRA__FD_FIRST + 1);
    *within = fd - (asthra__fd_segment_size(segment) - ASTHRA__FD_FIRST);
    return segment;
}

/* NULL: none was made for it. */
static Asthra__FdEntry *asthra__fd_find(unsigned fd) {
    size_t within;
    unsigned segment = asthra__fd_segment_of(fd, &within);
    Asthra__FdEntry *entries = asthra__load(&asthra__fd.segments[segment], acquire);
    return entries == NULL ? NULL : &entries[within];
}

/* NULL: no memory. */
ASTHRA__COLD static Asthra__FdEntry *asthra__fd_make(unsigned fd) {
    size_t within;
    unsigned segment = asthra__fd_segment_of(fd, &within);
    asthra__lock(&asthra__fd.lock);
    Asthra__FdEntry *entries = asthra__load(&asthra__fd.segments[segment], relaxed);
    if (entries == NULL) {
        entries = asthra__alloc_zeroed(asthra__fd_segment_size(segment), sizeof *entries);
        asthra__store(&asthra__fd.segments[segment], entries, release);
    }
    asthra__unlock(&asthra__fd.lock);
    return entries == NULL ? NULL : &entries[within];
}

/* ---- under an entry's lock ---- */

static void asthra__fd_link(Asthra__FdEntry *e, Asthra__FdNode *n) {
    asthra__store(&e->is_awaited, true, relaxed);
    n->next = e->first;
    n->link = &e->first;
    if (n->next != NULL) n->next->link = &n->next;
    e->first = n;
}

static void asthra__fd_unlink(Asthra__FdNode *n) {
    *n->link = n->next;
    if (n->next != NULL) n->next->link = n->link;
    n->link = NULL;
}

static Asthra__OsArmed asthra__fd_arm(Asthra__FdEntry *e, unsigned fd) {
    int events = 0;
    for (const Asthra__FdNode *n = e->first; n != NULL; n = n->next) events |= n->wanted;
    uint64_t mark = (uint64_t)++e->turn << 32 | fd;
    Asthra__OsArmed how = asthra__os_poll_arm((int)fd, events, mark, e->is_known);
    e->is_known = how == ASTHRA__OS_ARMED || how == ASTHRA__OS_ARMED_ANEW;
    return how;
}

/* Completes those from n on that `events` concern, all but `own`, and puts them in front of
 * `chain`. */
static Asthra__FdNode *asthra__fd_complete(Asthra__FdNode *n, const Asthra__FdNode *own, int events,
                                           AsthraStatus outcome, Asthra__FdNode *chain) {
    for (Asthra__FdNode *next; n != NULL; n = next) {
        int got = events & (n->wanted | POLLERR | POLLHUP | POLLNVAL);
        next = n->next;
        if (n == own || got == 0) continue;
        asthra__fd_unlink(n);
        if (!asthra__wait_claim(n->parker)) continue; /* timed out, or cancelled */
        n->parker->wait->outcome = outcome;
        n->got = got;
        n->next = chain;
        chain = n;
    }
    return chain;
}

/* After unlocking. */
static void asthra__fd_wake(Asthra__FdNode *chain) {
    while (chain != NULL) {
        Asthra__Parker *p = chain->parker;
        chain = chain->next; /* the wake ends the node's life */
        asthra__wait_wake(p);
    }
}

/* ---- what the scheduler calls ---- */

static bool asthra__fd_sweep_is_due(void) {
    return asthra__os_now_ns() >= asthra__fd.sweep_at_ns;
}

/* Is the set our parent's? */
static bool asthra__fd_is_inherited(void) {
    return !ASTHRA_HAS_THREADS && asthra__load(&asthra__fd.is_open, relaxed) &&
           asthra__fd.owner != asthra__os_thread_id();
}

static bool asthra__fd_poller_wait(int64_t timeout_ns) {
    if (ASTHRA__UNLIKELY(asthra__fd_is_inherited())) return true; /* for deliver to replace it */
    if (!asthra__load(&asthra__fd.is_open, relaxed)) return false;
    int64_t sweep_ns = asthra__fd.sweep_at_ns - asthra__os_now_ns();
    if (sweep_ns < 0) sweep_ns = 0;
    if (timeout_ns < 0 || timeout_ns > sweep_ns) timeout_ns = sweep_ns;
    asthra__fd.ready_count = asthra__os_poll_wait(asthra__fd.ready, ASTHRA__FD_BATCH, timeout_ns);
    return asthra__fd.ready_count > 0 || asthra__fd_sweep_is_due();
}

static Asthra__FdNode *asthra__fd_tell(Asthra__OsReady ready, Asthra__FdNode *chain) {
    unsigned fd = (unsigned)(uint32_t)ready.mark;
    Asthra__FdEntry *e = asthra__fd_find(fd);
    if (e == NULL) return chain;
    asthra__lock(&e->lock);
    if (e->turn == (uint32_t)(ready.mark >> 32)) {
        AsthraStatus how = ready.events & POLLNVAL ? ASTHRA_CLOSED : ASTHRA_OK;
        chain = asthra__fd_complete(e->first, NULL, ready.events, how, chain);
        if (e->first != NULL) asthra__fd_arm(e, fd); /* what it finds closed the sweep will find */
    }
    asthra__unlock(&e->lock);
    return chain;
}

/* Is the file that e's nodes wait for still there? */
static Asthra__FdNode *asthra__fd_check(Asthra__FdEntry *e, unsigned fd, Asthra__FdNode *chain) {
    if (!asthra__load(&e->is_awaited, relaxed)) return chain;
    asthra__lock(&e->lock);
    asthra__store(&e->is_awaited, e->first != NULL, relaxed);
    if (e->first != NULL) {
        bool was_known = e->is_known;
        Asthra__OsArmed how = asthra__fd_arm(e, fd);
        bool is_other = was_known && how == ASTHRA__OS_ARMED_ANEW;
        if (how == ASTHRA__OS_ARMED_CLOSED || is_other)
            chain = asthra__fd_complete(e->first, NULL, POLLNVAL, ASTHRA_CLOSED, chain);
    }
    asthra__unlock(&e->lock);
    return chain;
}

typedef Asthra__FdNode *Asthra__FdVisit(Asthra__FdEntry *e, unsigned fd, Asthra__FdNode *chain);

static Asthra__FdNode *asthra__fd_each(Asthra__FdVisit *visit, Asthra__FdNode *chain) {
    unsigned fd = 0;
    for (unsigned s = 0; s < ASTHRA__FD_SEGMENTS; s++) {
        Asthra__FdEntry *entries = asthra__load(&asthra__fd.segments[s], acquire);
        size_t size = asthra__fd_segment_size(s);
        for (size_t i = 0; entries != NULL && i < size; i++)
            chain = visit(&entries[i], fd + (unsigned)i, chain);
        fd += (unsigned)size;
    }
    return chain;
}

static Asthra__FdNode *asthra__fd_sweep(Asthra__FdNode *chain) {
    int64_t start = asthra__os_now_ns(), after = asthra__fd.sweep_after_ns * 2;
    uint32_t begun = asthra__load(&asthra__fd.begun, relaxed);
    chain = asthra__fd_each(asthra__fd_check, chain);
    if (begun != asthra__fd.begun_at_sweep) after = ASTHRA__FD_SWEEP_NS;
    if (after > ASTHRA__FD_SWEEP_MOST_NS) after = ASTHRA__FD_SWEEP_MOST_NS;
    asthra__fd.begun_at_sweep = begun;
    asthra__fd.sweep_after_ns = after;
    int64_t end = asthra__os_now_ns(), cost = (end - start) * 100;
    asthra__fd.sweep_at_ns = end + (cost > after ? cost : after);
    return chain;
}

static Asthra__FdNode *asthra__fd_adopt(Asthra__FdEntry *e, unsigned fd, Asthra__FdNode *chain) {
    e->is_known = false;
    if (asthra__load(&asthra__fd.is_open, relaxed)) return asthra__fd_check(e, fd, chain);
    return asthra__fd_complete(e->first, NULL, POLLNVAL, ASTHRA_LIMIT, chain);
}

/* A set of our own instead of the parent's. If the system has none those who wait are told. */
ASTHRA__COLD static void asthra__fd_replace(void) {
    asthra__os_poll_close();
    asthra__fd.owner = asthra__os_thread_id();
    asthra__fd.ready_count = 0;
    asthra__store(&asthra__fd.is_open, asthra__os_poll_open(), relaxed);
    asthra__fd_wake(asthra__fd_each(asthra__fd_adopt, NULL));
}

static void asthra__fd_poller_deliver(void) {
    Asthra__FdNode *chain = NULL;
    if (ASTHRA__UNLIKELY(asthra__fd_is_inherited())) asthra__fd_replace();
    for (size_t i = 0; i < asthra__fd.ready_count; i++)
        chain = asthra__fd_tell(asthra__fd.ready[i], chain);
    asthra__fd.ready_count = 0;
    if (asthra__fd_sweep_is_due()) chain = asthra__fd_sweep(chain);
    asthra__fd_wake(chain);
}

/* In a forked child entries may be locked, and the set is the parent's too: both are forgotten. */
static void asthra__fd_poller_end(bool is_child) {
    asthra__os_poll_close();
    for (unsigned s = 0; s < ASTHRA__FD_SEGMENTS; s++) {
        if (!is_child) asthra__free(asthra__load(&asthra__fd.segments[s], relaxed));
        asthra__store(&asthra__fd.segments[s], (Asthra__FdEntry *)NULL, relaxed);
    }
    asthra__store(&asthra__fd.is_open, false, release);
    asthra__store(&asthra__fd.lock.word, 0, relaxed);
}

/* Opens the set, once for each run of the runtime. */
ASTHRA__COLD static bool asthra__fd_open(void) {
    static const Asthra__Poller poller = {asthra__fd_poller_wait, asthra__fd_poller_deliver,
                                          asthra__os_poll_wake, asthra__fd_poller_end};
    asthra__lock(&asthra__fd.lock);
    bool is_open = asthra__load(&asthra__fd.is_open, relaxed);
    if (!is_open && asthra__os_poll_open()) {
        asthra__fd.sweep_after_ns = ASTHRA__FD_SWEEP_NS;
        asthra__fd.sweep_at_ns = asthra__os_now_ns() + ASTHRA__FD_SWEEP_NS;
        asthra__fd.ready_count = 0;
        asthra__fd.owner = asthra__os_thread_id();
        asthra__outside_set_poller(&poller);
        asthra__store(&asthra__fd.is_open, true, release);
        is_open = true;
    }
    asthra__unlock(&asthra__fd.lock);
    return is_open;
}

/* ---- waiting ---- */

static AsthraResult asthra__fd_result(AsthraStatus status, int fd, int error) {
    AsthraResult r;
    if (status == ASTHRA_INVALID)
        r = asthra_result_errorf(status, "asthra_wait_fd: %d is no open descriptor", fd);
    else if (status == ASTHRA_CLOSED)
        r = asthra_result_errorf(status, "asthra_wait_fd: descriptor %d was closed by others", fd);
    else if (error == EMFILE)
        r = asthra_result_errorf(
            status, "asthra_wait_fd: the system refused what waiting for descriptor %d needs", fd);
    else
        r = asthra_result_errorf(status, "asthra_wait_fd: no room to wait for descriptor %d", fd);
    r.detail = (uint32_t)error;
    return r;
}

static AsthraResult asthra__fd_ready(int events) {
    AsthraResult r = {ASTHRA_OK, 0, {NULL}};
    r.value.integer = events;
    return r;
}

/* On the calling thread. A signal does not end the wait. */
static AsthraResult asthra__fd_poll(int fd, int events, int64_t timeout_ns) {
    int64_t start = asthra__os_now_ns(), left_ns = timeout_ns;
    int got;
    while ((got = asthra__os_poll_one(fd, events, left_ns)) == -EINTR || got == 0) {
        if (timeout_ns < 0) continue;
        left_ns = timeout_ns - (asthra__os_now_ns() - start);
        if (left_ns <= 0) return asthra__result_of(ASTHRA_TIMED_OUT);
    }
    if (got < 0) return asthra__fd_result(ASTHRA_OUT_OF_MEMORY, fd, -got);
    if (got & POLLNVAL) return asthra__fd_result(ASTHRA_INVALID, fd, EBADF);
    return asthra__fd_ready(got);
}

/* Not armed: gives the wait up again. Nobody has seen it but whoever cancels the task, whose wake
 * is under way then and must find us parked. */
static AsthraResult asthra__fd_refuse(Asthra__FdEntry *e, Asthra__Wait *w, int fd,
                                      Asthra__OsArmed how, Asthra__FdNode *closed, int wanted) {
    if (ASTHRA__UNLIKELY(!asthra__wait_retract(w))) {
        asthra__fd_wake(closed);
        return asthra__result_of(asthra__wait_park(w, ASTHRA_FOREVER));
    }
    asthra__unlock(&e->lock);
    asthra__fd_wake(closed);
    if (how == ASTHRA__OS_ARMED_NEVER) return asthra__fd_ready(wanted & (POLLIN | POLLOUT));
    if (how == ASTHRA__OS_ARMED_CLOSED) return asthra__fd_result(ASTHRA_INVALID, fd, EBADF);
    return asthra__fd_result(ASTHRA_LIMIT, fd, ENOSPC);
}

static AsthraResult asthra__fd_park(Asthra__FdEntry *e, int fd, int events, int64_t timeout_ns) {
    Asthra__FdNode node = {.wanted = events}, *closed = NULL;
    Asthra__Wait w = {.what = "descriptor", .held = &e->lock};
    asthra__lock(&e->lock);
    bool was_known = e->is_known;
    node.parker = asthra__wait_open(&w);
    asthra__fd_link(e, &node);
    Asthra__OsArmed how = asthra__fd_arm(e, (unsigned)fd);
    bool is_armed = how == ASTHRA__OS_ARMED || how == ASTHRA__OS_ARMED_ANEW;
    if (ASTHRA__UNLIKELY(how == ASTHRA__OS_ARMED_CLOSED ||
                         (was_known && how == ASTHRA__OS_ARMED_ANEW)))
        closed = asthra__fd_complete(e->first, &node, POLLNVAL, ASTHRA_CLOSED, NULL);
    if (ASTHRA__UNLIKELY(!is_armed)) {
        asthra__fd_unlink(&node);
        return asthra__fd_refuse(e, &w, fd, how, closed, events);
    }
    asthra__fd_wake(closed);
    AsthraStatus status = asthra__wait_park(&w, timeout_ns);
    if (status == ASTHRA_OK) return asthra__fd_ready(node.got);
    asthra__lock(&e->lock);
    if (node.link != NULL) asthra__fd_unlink(&node);
    asthra__unlock(&e->lock);
    if (status == ASTHRA_CLOSED) return asthra__fd_result(status, fd, EBADF);
    if (status == ASTHRA_LIMIT) return asthra__fd_result(status, fd, EMFILE);
    return asthra__result_of(status);
}

ASTHRA_RT_API AsthraResult asthra_wait_fd(int fd, int events, int64_t timeout_ns) {
    asthra__turn();
    if (fd < 0) return asthra__fd_result(ASTHRA_INVALID, fd, EBADF);
    if (events & ~ASTHRA__FD_EVENTS)
        return asthra_result_errorf(ASTHRA_INVALID,
                                    "asthra_wait_fd: events are 0x%x, expected those of poll(2), "
                                    "at most 0x%x",
                                    (unsigned)events, ASTHRA__FD_EVENTS);
    if (timeout_ns == 0 || asthra__seat()->worker == NULL)
        return asthra__fd_poll(fd, events, timeout_ns);
    if (ASTHRA__UNLIKELY(asthra__fd_is_inherited())) asthra__fd_replace();
    if (ASTHRA__UNLIKELY(!asthra__load(&asthra__fd.is_open, acquire)) && !asthra__fd_open())
        return asthra__fd_result(ASTHRA_LIMIT, fd, EMFILE);
    Asthra__FdEntry *e = asthra__fd_find((unsigned)fd);
    if (ASTHRA__UNLIKELY(e == NULL)) { /* no large segment for a number that is none */
        int got = asthra__os_poll_one(fd, 0, 0);
        if (got > 0 && got & POLLNVAL) return asthra__fd_result(ASTHRA_INVALID, fd, EBADF);
        e = asthra__fd_make((unsigned)fd);
    }
    if (ASTHRA__UNLIKELY(e == NULL)) return asthra__fd_result(ASTHRA_OUT_OF_MEMORY, fd, ENOMEM);
    asthra__add(&asthra__fd.begun, 1u, relaxed);
    asthra__outside_begin();
    AsthraResult r = asthra__fd_park(e, fd, events, timeout_ns);
    asthra__outside_end();
    return r;
}

#endif
