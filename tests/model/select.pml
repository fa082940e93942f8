/* select - the protocol by which selects on shared channels complete each other, for spin.
 *
 * DESIGN.md, "Channels and select", steps 1 to 10, sequentially consistent. Each Select process
 * executes one select of up to two cases; its word is OPEN, BUSY or DONE and carries two bits for
 * parking. A parker sets SWITCHED after it left its stack. A claimer that saw SWITCHED when it
 * claimed makes the task runnable itself; another sets WAKE as its last act, and whoever sets the
 * second of the two bits makes the task runnable.
 *
 * What is checked: nobody commits twice; both sides of a match agree; a task is made runnable
 * exactly once, and not before it left its stack; nobody touches a word or a node after its select
 * returned, for they lie on its stack; when nothing can move any more, nobody sleeps who could go
 * on (Monitor); and, by a run for non-progress cycles, no two selects give way to each other for
 * ever: there are no progress labels, so every fair infinite run is an error.
 *
 * Spinning on a BUSY word is a guard that blocks: if it can last for ever, spin sees a deadlock.
 * Queues are sets here, and any waiter may be met first, which covers every order of arrival.
 *
 * tests/model/run names the configurations (-DRING2, ...) and the variants that must fail
 * (-DBROKEN_...).
 */
#define OPEN 0
#define BUSY 1
#define DONE 2

#define SEND 0
#define RECEIVE 1

#define NONE 9 /* no channel, no partner */

#if defined(RING3) || defined(CROWD) || defined(BUFFERED)
#define SELECTS 3
#else
#define SELECTS 2
#endif
#define CASES 2
#define CHANNELS 3
#define CASE(s, k) ((s) * CASES + (k))
#define ALL_CASES 3 /* one bit for each */

/* A select's word: in the runtime one integer, here three variables that change together. */
byte state[SELECTS];
bit switched[SELECTS];
bit wake[SELECTS];

byte channel_of[SELECTS * CASES]; /* NONE: the case is never ready, as a NULL channel */
bit way_of[SELECTS * CASES];      /* SEND or RECEIVE */
bit node[SELECTS * CASES];        /* linked into its channel's list of waiters */

bit lock[CHANNELS];
bit closed[CHANNELS];
byte capacity[CHANNELS];
byte count[CHANNELS];

bit armed[SELECTS]; /* a timer or a canceller may claim the word; changed under its lock */
bit armed_lock[SELECTS];
bit cancelled[SELECTS]; /* the cancel came before the select was armed */

/* Ghosts: what the runtime does not store, for the assertions. */
bit alive[SELECTS];   /* the select has not returned: its word and nodes may be touched */
bit commits[SELECTS];
byte partner[SELECTS]; /* NONE: buffer, close, timer, cancel */
byte place[SELECTS];   /* the channel of the match */
bit runnable[SELECTS]; /* in a queue of the scheduler */
bit made[SELECTS];     /* it has been made runnable */
bit returned[SELECTS];

#define ACQUIRE(l) atomic { !l -> l = 1 }
#define RELEASE(l) l = 0

inline commit(side, with, where) {
    d_step {
        assert(alive[side] && !commits[side]);
        commits[side] = 1;
        partner[side] = with;
        place[side] = where
    }
}

inline make_runnable(task) {
    d_step {
        assert(!made[task]);
        assert(switched[task]); /* else it would run on a stack that is still in use */
        made[task] = 1;
        runnable[task] = 1
    }
}

/* The last act of a claimer; `saw` is what SWITCHED was at its claim. */
inline wake_up(who, saw) {
    if
#ifdef BROKEN_EARLY_WAKE
    :: true -> make_runnable(who)
#else
    :: saw -> make_runnable(who)
    :: else ->
        atomic {
            assert(alive[who]);
            wake[who] = 1;
            saw = switched[who]
        }
        if
#ifndef BROKEN_LOST_WAKE
        :: saw -> make_runnable(who)
#endif
        :: else
        fi
#endif
    fi;
    saw = 0
}

/* One CAS, OPEN to DONE, and what it found: `was` is the state before, `seen` its SWITCHED. */
inline claim(target, was, seen) {
    d_step {
        assert(alive[target]);
        was = state[target];
        seen = 0;
        if
        :: was == OPEN -> state[target] = DONE; seen = switched[target]
        :: else
        fi
    }
}

/* A claimer with no word of its own waits out BUSY. */
inline claim_one_sided(who, found, saw) {
    do
#ifdef BROKEN_IMPATIENT
    :: d_step { found = state[who]; state[who] = DONE; saw = switched[who] }
        if
        :: found == BUSY -> found = OPEN
        :: else
        fi;
        break
#endif
    :: claim(who, found, saw);
        if
        :: found == BUSY -> state[who] != BUSY
        :: else -> break
        fi
    od
}

#define WAITS(s, k, c, w) \
    (node[CASE(s, k)] && channel_of[CASE(s, k)] == c && way_of[CASE(s, k)] == w)

/* Any waiter of channel `at` that goes that `way`, not of `self`. Caller holds the lock. */
inline find_waiter(at, way, self, waiter, its_case) {
    waiter = NONE;
    if
    :: self != 0 && WAITS(0, 0, at, way) -> waiter = 0; its_case = 0
    :: self != 0 && WAITS(0, 1, at, way) -> waiter = 0; its_case = 1
    :: self != 1 && WAITS(1, 0, at, way) -> waiter = 1; its_case = 0
    :: self != 1 && WAITS(1, 1, at, way) -> waiter = 1; its_case = 1
#if SELECTS > 2
    :: self != 2 && WAITS(2, 0, at, way) -> waiter = 2; its_case = 0
    :: self != 2 && WAITS(2, 1, at, way) -> waiter = 2; its_case = 1
#endif
    :: else
    fi
}

inline unlink(owner, its_case) {
    d_step {
        assert(alive[owner]);
        node[CASE(owner, its_case)] = 0
    }
}

/* Step 4: BUSY, or `found` tells that another has completed us. */
inline become_busy() {
    d_step {
        found = OPEN;
        if
        :: is_listed -> found = state[s]; if :: found == OPEN -> state[s] = BUSY :: else fi
        :: else
        fi
    }
}

#ifdef BROKEN_ONE_CAS
#define BECOME_BUSY() found = OPEN /* "re-check under the lock with one CAS", of the partner only */
#else
#define BECOME_BUSY() become_busy()
#endif

proctype Select(byte s) {
    byte untried = ALL_CASES, k, c, p, q, found;
    bit w, saw, is_listed;

#ifdef BROKEN_ARM_EARLY
    armed[s] = 1; /* known to a timer, it may not commit without a CAS of its own word */
#endif
    /* In any order of the cases. */
    do
    :: untried == 0 -> goto arm
    :: else ->
        if
        :: untried & 1 -> k = 0
        :: untried & 2 -> k = 1
        fi;
        untried = untried & ~(1 << k);
        c = channel_of[CASE(s, k)];
        w = way_of[CASE(s, k)];
        if
        :: c == NONE -> skip
        :: else ->
            ACQUIRE(lock[c]);
look:
            p = NONE;
            if
            :: w == SEND && closed[c] -> goto alone
            :: w == RECEIVE && count[c] > 0 -> goto alone
            :: else
            fi;
            atomic { find_waiter(c, 1 - w, s, p, q) };
            if
            :: p != NONE -> goto match
            :: p == NONE && w == RECEIVE && closed[c] -> goto alone
            :: p == NONE && w == SEND && count[c] < capacity[c] -> goto alone
            :: else
            fi;
#ifdef BROKEN_SCAN
            RELEASE(lock[c]); /* what arrives between the look and the list is not seen */
            ACQUIRE(lock[c]);
#endif
            d_step { node[CASE(s, k)] = 1; is_listed = 1 };
            RELEASE(lock[c])
        fi
    od;

alone: /* the buffer or a closed channel completes the case */
    BECOME_BUSY();
    if
    :: found != OPEN -> RELEASE(lock[c]); goto park
    :: else
    fi;
    commit(s, NONE, c);
    state[s] = DONE;
    if
    :: w == SEND && !closed[c] -> assert(count[c] < capacity[c]); count[c]++
    :: w == RECEIVE && count[c] > 0 -> count[c]--; goto refill
    :: else
    fi;
    RELEASE(lock[c]);
    goto tidy;

refill: /* a place in the buffer became free: a waiting sender completes */
    atomic { find_waiter(c, SEND, s, p, q) };
    if
    :: p == NONE -> RELEASE(lock[c])
    :: else ->
        claim_one_sided(p, found, saw);
        unlink(p, q);
        if
        :: found == DONE -> goto refill
        :: else
        fi;
        commit(p, NONE, c);
        count[c]++;
        RELEASE(lock[c]);
        wake_up(p, saw)
    fi;
    goto tidy;

match: /* with p's case q */
    BECOME_BUSY();
    if
    :: found != OPEN -> RELEASE(lock[c]); goto park
    :: else
    fi;
again:
    claim(p, found, saw);
    if
    :: found == OPEN ->
        commit(s, p, c);
        state[s] = DONE;
        commit(p, s, c);
        unlink(p, q);
        RELEASE(lock[c]);
        wake_up(p, saw);
        goto tidy
    :: found == DONE -> /* its select was completed elsewhere: that node is of no use */
        unlink(p, q);
        if
        :: is_listed -> state[s] = OPEN
        :: else
        fi;
        goto look
    :: found == BUSY && is_listed ->
#ifdef BROKEN_BOTH_STAY
        state[p] != BUSY;
        goto again
#endif
        if
#ifndef BROKEN_BOTH_YIELD
        :: s < p -> state[p] != BUSY; goto again
#endif
        :: else -> state[s] = OPEN; state[p] != BUSY; goto look
        fi
    :: found == BUSY && !is_listed -> state[p] != BUSY; goto again
    fi;

arm: /* only now, so that while nothing is listed nobody else can complete us */
    ACQUIRE(armed_lock[s]);
    if
    :: cancelled[s] ->
        RELEASE(armed_lock[s]);
        claim(s, found, saw);
        if
        :: found == OPEN -> commit(s, NONE, NONE); goto tidy
        :: else
        fi
    :: else ->
        armed[s] = 1;
        RELEASE(armed_lock[s])
    fi;

park:
    if
#ifdef BROKEN_NO_WAKE
    :: state[s] == DONE -> goto tidy
#endif
    :: state[s] == DONE -> /* seen before the switch: the wake is still to be consumed */
end_unswitched:
        wake[s]
    :: true ->
        atomic { saw = wake[s]; switched[s] = 1 }
        if
        :: saw -> make_runnable(s)
        :: else
        fi;
        saw = 0;
end_asleep:
        atomic { runnable[s] -> runnable[s] = 0 }
    fi;
    assert(state[s] == DONE && commits[s]);

tidy:
    assert(!runnable[s] && commits[s]);
#ifndef BROKEN_NODES_STAY
    k = 0;
    do
    :: k < CASES && node[CASE(s, k)] ->
        c = channel_of[CASE(s, k)];
        ACQUIRE(lock[c]);
        unlink(s, k);
        RELEASE(lock[c])
    :: k < CASES && !node[CASE(s, k)] -> k++
    :: k == CASES -> break
    od;
#endif
    ACQUIRE(armed_lock[s]);
    armed[s] = 0;
    RELEASE(armed_lock[s]);
    d_step {
        alive[s] = 0;
        returned[s] = 1;
        found = 0; p = 0; q = 0; c = 0; k = 0; w = 0; saw = 0; is_listed = 0
    }
}

/* A timer that fires, or a cancel: it finds the word through a record that has a lock. A timer is
 * started by arming; a cancel may come at any time, and is kept if nothing is armed yet. */
proctype OneSided(byte s; bit is_cancel) {
    byte found;
    bit saw;
    is_cancel || armed[s] || returned[s];
    ACQUIRE(armed_lock[s]);
    if
    :: armed[s] -> /* it never meets BUSY: who is armed has tried all cases */
        claim_one_sided(s, found, saw);
        if
        :: found == OPEN -> commit(s, NONE, NONE)
        :: else
        fi;
        RELEASE(armed_lock[s]);
        if
        :: found == OPEN -> wake_up(s, saw)
        :: else
        fi
    :: else ->
        cancelled[s] = is_cancel;
        RELEASE(armed_lock[s])
    fi
}

/* Claims all waiters, first the ones of one way, then the others; wakes them after unlocking. */
proctype Close(byte c) {
    byte p, q, found, to_wake, to_wake_switched;
    bit w, saw;
    ACQUIRE(lock[c]);
    closed[c] = 1;
next:
    atomic { find_waiter(c, w, NONE, p, q) };
    if
    :: p == NONE && w == SEND -> w = RECEIVE; goto next
    :: p == NONE && w == RECEIVE -> skip
    :: else ->
        claim_one_sided(p, found, saw);
        unlink(p, q);
        if
        :: found == OPEN ->
            commit(p, NONE, c);
            d_step {
                to_wake = to_wake | (1 << p);
                to_wake_switched = to_wake_switched | (saw << p)
            }
        :: else
        fi;
        goto next
    fi;
    RELEASE(lock[c]);
    p = 0;
    do
    :: p < SELECTS && (to_wake & (1 << p)) ->
        saw = (to_wake_switched >> p) & 1;
        wake_up(p, saw);
        p++
    :: p < SELECTS && !(to_wake & (1 << p)) -> p++
    :: p == SELECTS -> break
    od
}

#define READY(s, k) ready_on(channel_of[CASE(s, k)], way_of[CASE(s, k)])
#define ready_on(c, w) \
    (c != NONE && (closed[c] || (w == RECEIVE && count[c] > 0) || \
                   (w == SEND && count[c] < capacity[c])))

#define FIT(s, k, p, q) \
    (channel_of[CASE(s, k)] != NONE && channel_of[CASE(s, k)] == channel_of[CASE(p, q)] && \
     way_of[CASE(s, k)] != way_of[CASE(p, q)])

/* Runs when nothing else can: everybody has returned or sleeps for good. */
proctype Monitor() {
    byte s, p;
end_monitor:
    timeout;
    atomic {
        s = 0;
        do
        :: s < SELECTS ->
            if
            :: returned[s] ->
                assert(!runnable[s]);
                if
                :: partner[s] != NONE ->
                    p = partner[s];
                    assert(commits[p] && partner[p] == s && place[p] == place[s])
                :: else
                fi
            :: else ->
                assert(state[s] == OPEN);
                assert(!READY(s, 0) && !READY(s, 1));
                p = 0;
                do
                :: p < SELECTS ->
                    assert(p == s || returned[p] || !FIT(s, 0, p, 0) && !FIT(s, 0, p, 1));
                    assert(p == s || returned[p] || !FIT(s, 1, p, 0) && !FIT(s, 1, p, 1));
                    p++
                :: else -> break
                od
            fi;
            s++
        :: else -> break
        od;
        assert(!lock[0] && !lock[1] && !lock[2])
    }
}

inline add_case(s, k, c, w) {
    channel_of[CASE(s, k)] = c;
    way_of[CASE(s, k)] = w
}

init {
    atomic {
        byte i = 0;
        do
        :: i < SELECTS -> alive[i] = 1; partner[i] = NONE; place[i] = NONE; i++
        :: else -> break
        od;
        i = 0;
#ifdef RING3 /* three selects in a ring: each may send to the next or receive from the last */
        add_case(0, 0, 0, SEND);
        add_case(0, 1, 2, RECEIVE);
        add_case(1, 0, 0, RECEIVE);
        add_case(1, 1, 1, SEND);
        add_case(2, 0, 1, RECEIVE);
        add_case(2, 1, 2, SEND);
#elif defined(CROWD) /* both ways on one channel in one select, a plain receive, a NULL channel */
        add_case(0, 0, 0, SEND);
        add_case(0, 1, 0, RECEIVE);
        add_case(1, 0, 0, SEND);
        add_case(1, 1, 0, RECEIVE);
        add_case(2, 0, 0, RECEIVE);
        add_case(2, 1, NONE, SEND);
#elif defined(BUFFERED) /* two senders and a receiver that meet at a buffer of one, and elsewhere */
        capacity[0] = 1;
        count[0] = 1;
        add_case(0, 0, 0, SEND);
        add_case(0, 1, 1, RECEIVE);
        add_case(1, 0, 0, RECEIVE);
        add_case(1, 1, 1, SEND);
        add_case(2, 0, 0, SEND);
        add_case(2, 1, NONE, SEND);
#else /* two selects that can meet on either of two channels */
        add_case(0, 0, 0, SEND);
        add_case(0, 1, 1, RECEIVE);
        add_case(1, 0, 0, RECEIVE);
        add_case(1, 1, 1, SEND);
#endif
        do
        :: i < SELECTS -> run Select(i); i++
        :: else -> break
        od;
#ifdef TIMER
        run OneSided(0, 0);
#endif
#ifdef CANCEL
        run OneSided(1, 1);
#endif
#ifdef CLOSE
        run Close(0);
#endif
        run Monitor();
        i = 0
    }
}
