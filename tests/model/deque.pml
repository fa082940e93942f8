/* deque - the protocol of the work-stealing deque (src/lockfree/deque.c), for spin.
 *
 * The Owner makes any STEPS calls and then pops until nothing is left, while two Thieves wrest. A
 * steal has no steps of its own: it is a wrest that finds something shared. The looks without the
 * lock that can only make a caller give up (count, the first lines of share and steal) are left
 * out, since whoever gives up has changed nothing. Where the array would grow the push fails here,
 * as if memory had run out: what matters is the owner's second look at tail.
 *
 * What the owner stores without the lock, head and slots, waits in its store buffer until Memory
 * takes it: at any time, in order; with -DEARLY slots overtake head, for a release store does not
 * hold back what comes after it. The owner sees what it stored last, others what Memory took. The
 * thief's heavy fence, a membarrier, empties the buffer and the light fence does nothing; with
 * -DPLAIN, where there is no membarrier, the light one waits until the buffer is empty and the
 * heavy one does nothing to it. Giving the lock back waits for the buffer, taking it does not. tail
 * and border change under the lock only, so nobody can tell whether their stores are late.
 *
 * What is checked: every item is taken exactly once, and in the end all are; pop takes the newest,
 * and tail moves over the oldest; the owner takes nothing below tail; tail <= border, always;
 * border <= head whenever the lock is given back, where a head that the owner has lowered counts as
 * it would be once put back.
 *
 * tests/model/run names the worlds (START, PLAIN, ...) and the variants that must fail
 * (-DBROKEN_...).
 */
#ifndef START
#define START 3 /* items that are in at first, all of them the owner's own */
#endif
#ifndef ITEMS
#define ITEMS 4 /* that are ever pushed */
#endif
#ifndef STEPS
#define STEPS 3 /* calls of the owner */
#endif
#ifndef WRESTS
#define WRESTS 2 /* calls of each thief */
#endif
#define RING 4
#define THIEVES 2

byte head = START;
byte tail, border;
byte slots[RING]; /* items count from 1 */
bit lock;

/* The owner's stores on their way: slot or HEAD, and the value. */
#define HEAD RING
chan buffer = [3] of { byte, byte };
byte own_head = START;
byte own_slots[RING];

/* Ghosts. */
byte pushed = START;
byte taken;         /* bit i: item i + 1 */
byte oldest;        /* the last that was taken at tail */
byte whole = START; /* head, or what the owner would put back */
byte at_work = THIEVES;

#define AT(index) ((index) % RING)
#define ACQUIRE() atomic { !lock -> lock = 1 }

inline release() {
    assert(tail <= border && border <= whole);
    lock = 0
}

inline take(item) {
    assert(item != 0 && !(taken & (1 << (item - 1))));
    taken = taken | (1 << (item - 1));
    item = 0
}

/* From tail; `seen` is its slot as the caller sees it. Caller holds the lock. */
inline take_oldest(seen) {
    if
    :: tail == border
    :: else ->
        d_step { assert(tail < border); tail++ };
        d_step { item = seen; assert(item > oldest); oldest = item; take(item) }
    fi
}

inline take_newest() {
    item = own_slots[AT(h - 1)];
    assert(h > tail && (taken >> item) == ((1 << pushed) - 1) >> item);
    take(item);
    whole = h - 1
}

/* What border becomes when the lock's holder sees head as h. */
#define RAISED(h) (tail == border && h > border -> border + (h - border + 1) / 2 : border)

inline complete_store() {
    buffer?place, value;
    if
    :: place == HEAD -> head = value
    :: else -> slots[place] = value
    fi;
    place = 0;
    value = 0
}

proctype Memory() {
    byte place, value;
end:
    do
    :: d_step { nempty(buffer) -> complete_store() }
    od
}

inline store_head(value) {
    atomic { buffer!HEAD, value; own_head = value }
}

inline store_slot(index, value) {
#ifdef EARLY
    d_step { slots[AT(index)] = value; own_slots[AT(index)] = value }
#else
    atomic { buffer!AT(index), value; own_slots[AT(index)] = value }
#endif
}

inline light_fence() {
#if defined(PLAIN) && !defined(BROKEN_LIGHT_FENCE)
    empty(buffer)
#else
    skip
#endif
}

inline heavy_fence() {
#if defined(PLAIN) || defined(BROKEN_HEAVY_FENCE)
    skip
#else
    d_step {
        do
        :: nempty(buffer) -> complete_store()
        :: empty(buffer) -> break
        od
    }
#endif
}

proctype Owner() {
    byte steps, h, i, item, tail_seen;
again:
    atomic {
        h = own_head;
        i = 0;
        if
        :: steps < STEPS ->
            steps++;
            if
            :: pushed < ITEMS -> goto push
            :: goto share
            :: goto oldest_one
            :: h >= 2 -> i = h - 2; goto pop_if
            :: h >= 3 -> i = h - 3; goto pop_if
            :: goto pop
            fi
        :: else -> goto pop
        fi
    };

push:
    if
    :: h - tail_seen < RING
    :: else ->
#ifdef BROKEN_GROW_UNLOCKED
        tail_seen = tail;
#else
        ACQUIRE();
        tail_seen = tail;
        atomic { empty(buffer) -> release() };
#endif
        if
        :: h - tail_seen < RING
        :: else -> goto again
        fi
    fi;
    store_slot(h, pushed + 1);
    atomic { store_head(h + 1); pushed++; whole = h + 1 };
    goto again;

share:
    ACQUIRE();
    border = RAISED(h);
    atomic { empty(buffer) -> release() };
    goto again;

oldest_one:
    ACQUIRE();
    border = RAISED(h);
    take_oldest(own_slots[AT(tail - 1)]);
    atomic { empty(buffer) -> release() };
    goto again;

pop:
    if
    :: border < h
    :: else -> goto pop_shared
    fi;
    store_head(h - 1);
    light_fence();
    atomic {
        if
#ifdef BROKEN_ONE_LOOK
        :: true ->
#else
        :: border < h ->
#endif
            take_newest();
            goto again
        :: else
        fi
    };
#ifndef BROKEN_NOT_PUT_BACK
    store_head(h);
#endif
pop_shared:
    if
    :: tail == h && steps == STEPS -> goto done
    :: tail == h && steps != STEPS -> goto again
    :: else
    fi;
    ACQUIRE();
    if
    :: tail != h ->
        border = (border == h -> h - (h - tail + 1) / 2 : border);
        atomic { store_head(h - 1); take_newest() }
    :: else
    fi;
    atomic { empty(buffer) -> release() };
    goto again;

pop_if: /* index i, below the newest */
    if
    :: border <= i
    :: else -> goto again
    fi;
#ifdef BROKEN_DIG_HIGH
    store_head(h - 1);
#else
    store_head(i);
#endif
    light_fence();
    atomic {
        if
        :: border <= i -> assert(i >= tail); item = own_slots[AT(i)]; take(item); whole = h - 1
        :: else -> goto put_back
        fi
    };
    do
    :: i + 1 < h -> store_slot(i, own_slots[AT(i + 1)]); i++
    :: else -> break
    od;
    store_head(h - 1);
    goto again;
put_back:
    store_head(h);
    goto again;

done:
    at_work == 0;
    assert(taken == (1 << pushed) - 1 && tail == h && border == h)
}

proctype Thief() {
    byte wrests, before, after, h, item, place, value;
    do
    :: wrests < WRESTS ->
        atomic { !lock -> lock = 1; wrests++; h = head; before = border; after = RAISED(h) };
        if
        :: after == before
        :: else ->
            border = after;
#ifdef BROKEN_UNLOCKED
            lock = 0;
            ACQUIRE();
#endif
            heavy_fence();
            h = head;
#ifndef BROKEN_NOT_LOWERED
            if
            :: h >= after
            :: else ->
#ifdef BROKEN_CLAMP
                border = h
#else
                border = (h > before -> h : before)
#endif
            fi
#endif
        fi;
        take_oldest(slots[AT(tail - 1)]);
        d_step { before = 0; after = 0; h = 0; release() }
    :: else -> break
    od;
    at_work--
}

init {
    atomic {
        byte i = 0;
        do
        :: i < START -> slots[i] = i + 1; own_slots[i] = i + 1; i++
        :: else -> break
        od;
        i = 0;
        run Memory();
        run Owner();
        do
        :: i < THIEVES -> run Thief(); i++
        :: else -> break
        od;
        i = 0
    }
}
