/* select - one of many, without locking all.                                   [select] body
 *
 * First pass, nothing enqueued. The cases are looked at without locks; one of those that seem ready
 * is drawn, all with the same probability; its channel is locked and the operation tried. Somebody
 * may have been faster: then all are looked at again. This ends with a completed case, or with a
 * look that found no case ready, each at some moment of the look. (Not all at the same moment: a
 * token that moves from a channel not yet looked at to one already looked at can be missed. To see
 * all at once, all would have to be locked.) A select with a default or a limit of 0 ends here.
 *
 * Second pass. The wait is opened and a node for each case appended to its channel, one lock at a
 * time, and under that lock the case is tried once more: so two selects that could meet never sleep
 * both, because the later of the two nodes was appended by somebody who looked. From the first node
 * on others may complete us, so whatever we complete ourselves takes our own word first:
 *
 *     buffer or closed    own word OPEN to DONE, then the operation, which can no longer fail
 *     a partner           own word OPEN to BUSY; the partner's OPEN to DONE; own word to DONE
 *         partner DONE    its node is stale: own word back to OPEN, unlink the node, go on
 *         partner BUSY    the one with the lower address stays BUSY and spins. The other steps
 *                         back to OPEN, so that the lower may take it, and tries again later.
 *
 * A failing OPEN means that somebody completed us; then no further node is appended. The order by
 * address is what keeps two or more selects, each busy with the next, from waiting in a circle, or
 * from stepping back for ever. BUSY is never held over a lock. A partner is needed only where there
 * is no buffer: with one, a waiting opposite of a case that is not ready is never live (channel.c).
 * One-sided claimers (send, receive, close, timers, cancellation) wait BUSY out.
 *
 * However it was completed, the wait ends in one park, which consumes exactly one wake: a select
 * that completed itself wakes itself, without leaving its stack. Then the remaining nodes are
 * unlinked, each under its lock. This protocol is tests/model/select.pml.
 *
 * No allocation and no limit: nodes stand in frames of a recursion, sixteen a frame, so that any
 * number of cases goes down the stack in small steps and an overflow meets the guard.
 */
#include "select.h"

#include "channel_internal.h"
#include "../core/alloc_internal.h"

#if ASTHRA_HAS_SELECT

#include <limits.h>

typedef struct Asthra__Select {
    AsthraSelectCase *cases;
    int count, chosen;
    int64_t timeout_ns;
    Asthra__Parker *self;
    Asthra__Wait wait;
} Asthra__Select;

typedef enum Asthra__SelectStep {
    ASTHRA__SELECT_WAITS,     /* nothing to match */
    ASTHRA__SELECT_MATCHED,   /* we completed a case: our word is DONE, and the wake is ours */
    ASTHRA__SELECT_COMPLETED, /* somebody else did */
    ASTHRA__SELECT_STALE      /* the partner is completed elsewhere */
} Asthra__SelectStep;

/* ---- first pass ---- */

ASTHRA__COLD ASTHRA_NORETURN static void asthra__select_bad_case(const AsthraSelectCase *k, int i) {
    if (k->kind == ASTHRA_SELECT_SEND)
        asthra_panic_at(NULL, "asthra_select: case %d sends to channel '%s', but its data is NULL",
                        i, k->channel->name);
    asthra_panic_at(NULL, "asthra_select: case %d has kind %d, which is neither send nor receive",
                    i, (int)k->kind);
}

static inline bool asthra__select_looks_ready(const AsthraSelectCase *k, int i) {
    if (!k->channel) return false;
    if (k->kind == ASTHRA_SELECT_RECEIVE) return !asthra__channel_is_empty(k->channel);
    if (ASTHRA__UNLIKELY(k->kind != ASTHRA_SELECT_SEND || !k->data)) asthra__select_bad_case(k, i);
    return !asthra__channel_is_full(k->channel);
}

/* One of the cases that look ready, each with equal probability; -1: none. A block of 64 replaces
 * what was drawn before with the probability that it has a share in all that were seen so far. */
static int asthra__select_draw(const AsthraSelectCase *cases, int count) {
    uint32_t seen = 0;
    int drawn = -1;
    for (int start = 0; start < count; start += 64) {
        uint64_t ready = 0;
        uint32_t here = 0;
        for (int i = start; i < count && i < start + 64; i++) {
            uint32_t is_ready = asthra__select_looks_ready(&cases[i], i);
            ready |= (uint64_t)is_ready << (i - start);
            here += is_ready;
        }
        if (!here) continue;
        seen += here;
        if (seen > here && asthra__random(seen) >= here) continue;
        for (uint32_t skip = here > 1 ? asthra__random(here) : 0; skip > 0; skip--)
            ready &= ready - 1;
        drawn = start + __builtin_ctzll(ready);
    }
    return drawn;
}

static void asthra__select_touch(const AsthraSelectCase *k) {
    if (k->kind == ASTHRA_SELECT_SEND)
        asthra__channel_touch_source(k->channel, k->data);
    else
        asthra__channel_touch_target(k->channel, k->data);
}

/* The case's operation without waiting. Caller holds the channel's lock and wakes *wake. */
static inline AsthraStatus asthra__select_try(const AsthraSelectCase *k, Asthra__Parker **wake) {
    if (k->kind == ASTHRA_SELECT_SEND) return asthra__channel_put(k->channel, k->data, wake);
    return asthra__channel_take(k->channel, k->data, wake);
}

/* Completes a ready case and returns its index; -1: none is ready. */
static int asthra__select_poll(AsthraSelectCase *cases, int count) {
    int drawn;
    while ((drawn = asthra__select_draw(cases, count)) >= 0) {
        AsthraSelectCase *k = &cases[drawn];
        Asthra__Parker *wake;
        asthra__select_touch(k);
        asthra__lock(&k->channel->lock);
        AsthraStatus status = asthra__select_try(k, &wake);
        asthra__channel_unlock(k->channel);
        if (wake) asthra__wait_wake(wake);
        if (status == ASTHRA_WOULD_BLOCK) continue;
        k->status = status;
        asthra__channel_trace(k->channel,
                              k->kind == ASTHRA_SELECT_SEND ? "select sends" : "select receives");
        break;
    }
    return drawn;
}

/* ---- second pass: words ---- */

/* Moves the claim of p's word; false if it was not `from`. Orders what both sides wrote before. */
static bool asthra__select_move(Asthra__Parker *p, uint32_t from, uint32_t to) {
    uint32_t word = asthra__load(&p->word, relaxed);
    do {
        if ((word & ASTHRA__WAIT_CLAIM) != from) return false;
    } while (!asthra__cas(&p->word, &word, (word & ~(uint32_t)ASTHRA__WAIT_CLAIM) | to, seq_cst));
    return true;
}

static uint32_t asthra__select_claim_of(Asthra__Parker *p) {
    return asthra__load(&p->word, seq_cst) & ASTHRA__WAIT_CLAIM;
}

/* Lets time pass for somebody who is BUSY, which takes a few instructions unless it lost its
 * core. */
static void asthra__select_relax(unsigned *rounds) {
    if (++*rounds % 64)
        asthra__cpu_relax();
    else
        asthra__os_yield();
}

/* We are BUSY. Tries to take the partner; on MATCHED our word is DONE, else it is OPEN. WAITS: the
 * partner is busy itself and goes first. */
static Asthra__SelectStep asthra__select_take_partner(Asthra__Parker *self, Asthra__Parker *other) {
    unsigned rounds = 0;
    for (;;) {
        if (asthra__select_move(other, ASTHRA__WAIT_OPEN, ASTHRA__WAIT_DONE)) {
            asthra__select_move(self, ASTHRA__WAIT_BUSY, ASTHRA__WAIT_DONE);
            return ASTHRA__SELECT_MATCHED;
        }
        uint32_t claim = asthra__select_claim_of(other);
        if (claim == ASTHRA__WAIT_DONE || claim == ASTHRA__WAIT_IDLE) {
            asthra__select_move(self, ASTHRA__WAIT_BUSY, ASTHRA__WAIT_OPEN);
            return ASTHRA__SELECT_STALE;
        }
        if (claim == ASTHRA__WAIT_BUSY && (uintptr_t)self > (uintptr_t)other) {
            asthra__select_move(self, ASTHRA__WAIT_BUSY, ASTHRA__WAIT_OPEN);
            return ASTHRA__SELECT_WAITS;
        }
        asthra__select_relax(&rounds);
    }
}

/* Claims partner and self, both or neither: MATCHED, STALE or COMPLETED. */
static Asthra__SelectStep asthra__select_claim_pair(Asthra__Parker *self, Asthra__Parker *other) {
    unsigned rounds = 0;
    while (asthra__select_move(self, ASTHRA__WAIT_OPEN, ASTHRA__WAIT_BUSY)) {
        Asthra__SelectStep step = asthra__select_take_partner(self, other);
        if (step != ASTHRA__SELECT_WAITS) return step;
        do {
            asthra__select_relax(&rounds);
        } while (asthra__select_claim_of(other) == ASTHRA__WAIT_BUSY &&
                 asthra__select_claim_of(self) == ASTHRA__WAIT_OPEN);
    }
    return ASTHRA__SELECT_COMPLETED;
}

/* ---- second pass: under the lock of a case's channel ---- */

/* Matches with a node of the opposite list, which is unlinked and left in *found. */
static Asthra__SelectStep asthra__select_meet(Asthra__Parker *self, Asthra__Waiters *opposite,
                                              Asthra__Waiter **found) {
    Asthra__Waiter *next;
    for (Asthra__Waiter *w = asthra__load(&opposite->first, relaxed); w; w = next) {
        next = w->next;
        if (w->parker == self) continue; /* a select never meets itself */
        Asthra__SelectStep step = asthra__select_claim_pair(self, w->parker);
        if (step == ASTHRA__SELECT_COMPLETED) return step;
        asthra__waiters_remove(opposite, w);
        asthra__waiter_release(w); /* a stale one's last touch; a match is woken later */
        if (step == ASTHRA__SELECT_STALE) continue;
        *found = w;
        return step;
    }
    return ASTHRA__SELECT_WAITS;
}

static Asthra__SelectStep asthra__select_meet_sender(Asthra__Select *s, AsthraSelectCase *k,
                                                     Asthra__Parker **wake) {
    Asthra__Waiter *w;
    Asthra__SelectStep step = asthra__select_meet(s->self, &k->channel->senders, &w);
    if (step != ASTHRA__SELECT_MATCHED) return step;
    if (k->data) asthra__channel_copy(k->data, w->slot, k->channel->element_size);
    *wake = asthra__waiter_finish(w, ASTHRA_OK);
    return step;
}

static Asthra__SelectStep asthra__select_meet_receiver(Asthra__Select *s, AsthraSelectCase *k,
                                                       Asthra__Parker **wake) {
    Asthra__Waiter *w;
    Asthra__SelectStep step = asthra__select_meet(s->self, &k->channel->receivers, &w);
    if (step != ASTHRA__SELECT_MATCHED) return step;
    if (w->slot) asthra__channel_copy(w->slot, k->data, k->channel->element_size);
    *wake = asthra__waiter_finish(w, ASTHRA_OK);
    return step;
}

/* Can the case be completed without a partner? Then nothing but our own word stands against it. */
static bool asthra__select_is_one_sided(const AsthraSelectCase *k) {
    size_t count = asthra__load(&k->channel->count, relaxed);
    if (asthra__load(&k->channel->is_closed, relaxed)) return true;
    return k->kind == ASTHRA_SELECT_SEND ? count < k->channel->capacity : count > 0;
}

static Asthra__SelectStep asthra__select_match(Asthra__Select *s, AsthraSelectCase *k,
                                               AsthraStatus *status, Asthra__Parker **wake) {
    *status = ASTHRA_OK;
    if (asthra__select_is_one_sided(k)) {
        if (!asthra__select_move(s->self, ASTHRA__WAIT_OPEN, ASTHRA__WAIT_DONE))
            return ASTHRA__SELECT_COMPLETED;
        *status = asthra__select_try(k, wake);
        ASTHRA__ASSERT(*status != ASTHRA_WOULD_BLOCK);
        return ASTHRA__SELECT_MATCHED;
    }
    if (k->kind == ASTHRA_SELECT_SEND) return asthra__select_meet_receiver(s, k, wake);
    return asthra__select_meet_sender(s, k, wake);
}

static Asthra__Waiters *asthra__select_list(const AsthraSelectCase *k) {
    return k->kind == ASTHRA_SELECT_SEND ? &k->channel->senders : &k->channel->receivers;
}

/* Case i, which w stands for, looks ready: matches it, or appends w after all. Gives the lock back.
 * False: the select has been completed. */
ASTHRA__NOINLINE static bool asthra__select_settle(Asthra__Select *s, int i, Asthra__Waiter *w) {
    AsthraSelectCase *k = &s->cases[i];
    Asthra__Parker *wake = NULL;
    AsthraStatus status;
    Asthra__SelectStep step = asthra__select_match(s, k, &status, &wake);
    if (step == ASTHRA__SELECT_WAITS) asthra__waiters_append(asthra__select_list(k), w);
    if (step == ASTHRA__SELECT_MATCHED) asthra__waiter_finish(w, status);
    asthra__channel_unlock(k->channel);
    if (wake) asthra__wait_wake(wake);
    if (step == ASTHRA__SELECT_MATCHED) asthra__wait_wake(s->self); /* so that park returns */
    return step == ASTHRA__SELECT_WAITS;
}

/* Many receives into one buffer are usual, and touching it once will do. */
static inline bool asthra__select_shares_buffer(const AsthraSelectCase *k,
                                                const AsthraSelectCase *before) {
    return k->data == before->data && k->kind == before->kind && before->channel &&
           k->channel->element_size <= before->channel->element_size;
}

/* Before the first node is listed: a touch writes the target's own byte back, and from then on a
 * partner may have filled a target that several cases share. */
static void asthra__select_touch_all(const AsthraSelectCase *cases, int count) {
    for (int i = 0; i < count; i++) {
        const AsthraSelectCase *k = &cases[i];
        if (!k->channel) continue;
        if (i == 0 || !asthra__select_shares_buffer(k, k - 1)) asthra__select_touch(k);
    }
}

/* Appends w for case i, or completes the select. */
static inline bool asthra__select_offer(Asthra__Select *s, int i, Asthra__Waiter *w) {
    const AsthraSelectCase *k = &s->cases[i];
    AsthraChannel *c = k->channel;
    bool is_send = k->kind == ASTHRA_SELECT_SEND;
    asthra__lock(&c->lock);
    bool must_wait = is_send ? asthra__channel_is_full(c) : asthra__channel_is_empty(c);
    if (ASTHRA__UNLIKELY(!must_wait)) return asthra__select_settle(s, i, w);
    asthra__waiters_append(is_send ? &c->senders : &c->receivers, w);
    asthra__channel_unlock(c);
    return true;
}

/* ---- second pass: the recursion ---- */

/* Consumes the wake and notes who completed us, while every node is still there. */
static void asthra__select_park(Asthra__Select *s) {
    AsthraStatus status = asthra__wait_park(&s->wait, s->timeout_ns);
    const Asthra__Waiter *winner = s->wait.winner;
    switch (status) {
    case ASTHRA_TIMED_OUT: s->chosen = ASTHRA_SELECT_TIMEOUT; break;
    case ASTHRA_CANCELLED: s->chosen = ASTHRA_SELECT_CANCELLED; break;
    case ASTHRA_OUT_OF_MEMORY: s->chosen = ASTHRA_SELECT_OUT_OF_MEMORY; break;
    default: /* OK or CLOSED */ s->chosen = winner->index; s->cases[s->chosen].status = status;
    }
}

/* Appends nodes for the cases from `first` on, parks, unlinks. */
ASTHRA__NOINLINE static void asthra__select_wait_from(Asthra__Select *s, int first) {
    Asthra__Waiter nodes[16];
    int used = 0, i = first;
    bool is_waiting = true;
    for (; is_waiting && i < s->count && used < 16; i++) {
        if (!s->cases[i].channel) continue;
        Asthra__Waiter *w = &nodes[used++];
        w->parker = s->self;
        w->slot = s->cases[i].data;
        w->index = i;
        asthra__store(&w->is_linked, false, relaxed);
        is_waiting = asthra__select_offer(s, i, w);
    }
    if (is_waiting && i < s->count)
        asthra__select_wait_from(s, i);
    else
        asthra__select_park(s);
    for (int n = 0; n < used; n++) {
        const AsthraSelectCase *k = &s->cases[nodes[n].index];
        asthra__waiter_unlink(k->channel, asthra__select_list(k), &nodes[n]);
    }
}

/* "select of receive on channel 'a', send on channel 'b'"; in a report, while nobody can go on. */
static void asthra__select_describe(Asthra__Text *t, const Asthra__Wait *w) {
    const Asthra__Select *s = ASTHRA__CONTAINER_CONST(Asthra__Select, wait, w);
    int named = 0, others = 0;
    asthra__text_add(t, "select");
    for (int i = 0; i < s->count; i++) {
        const AsthraSelectCase *k = &s->cases[i];
        if (!k->channel) continue;
        if (named == 4) {
            others++;
            continue;
        }
        asthra__text_format(t, "%s%s on channel '%s'", named++ ? ", " : " of ",
                            k->kind == ASTHRA_SELECT_SEND ? "send" : "receive", k->channel->name);
    }
    if (others) asthra__text_format(t, ", and %d more", others);
    if (!named) asthra__text_add(t, " without a channel");
}

ASTHRA__NOINLINE static int asthra__select_wait(AsthraSelectCase *cases, int count,
                                                int64_t timeout_ns) {
    Asthra__Select s;
    s.cases = cases;
    s.count = count;
    s.timeout_ns = timeout_ns;
    s.wait.what = "select";
    s.wait.name = NULL;
    s.wait.held = NULL;
    s.wait.is_firm = false;
    s.wait.outcome = ASTHRA_OK;
    asthra__select_touch_all(cases, count);
    s.self = asthra__wait_open(&s.wait);
    s.wait.describe = asthra__select_describe;
    asthra__select_wait_from(&s, 0);
    return s.chosen;
}

/* ---- the contract ---- */

static AsthraSelectCase asthra__select_case(AsthraSelectKind kind, AsthraChannel *c, void *data) {
    AsthraSelectCase k = {kind, ASTHRA_OK, c, data};
    return k;
}

ASTHRA_RT_API AsthraSelectCase asthra_select_send(AsthraChannel *c, const void *value) {
    return asthra__select_case(ASTHRA_SELECT_SEND, c, asthra__channel_source(value));
}

ASTHRA_RT_API AsthraSelectCase asthra_select_receive(AsthraChannel *c, void *out) {
    return asthra__select_case(ASTHRA_SELECT_RECEIVE, c, out);
}

ASTHRA_RT_API int asthra_select(AsthraSelectCase *cases, size_t count, int64_t timeout_ns) {
    if (ASTHRA__UNLIKELY(!cases && count)) asthra_panic_at(NULL, "asthra_select: cases is NULL");
    if (ASTHRA__UNLIKELY(count > INT_MAX))
        asthra_panic_at(NULL, "asthra_select: %zu cases; the index of a case is an int", count);
    asthra__turn();
    int chosen = asthra__select_poll(cases, (int)count);
    if (chosen >= 0) return chosen;
    if (timeout_ns == 0) return ASTHRA_SELECT_DEFAULT;
    return asthra__select_wait(cases, (int)count, timeout_ns);
}

struct AsthraSelectBuilder {
    AsthraSelectCase *cases;
    size_t count, room;
    int64_t timeout_ns;
    bool has_default;
    AsthraSelectOutcome outcome;
};

#define ASTHRA__SELECT_NEEDS(b)            \
    (ASTHRA__LIKELY((b) != NULL) ? (void)0 \
                                 : asthra_panic_at(NULL, "%s: the builder is NULL", __func__))

ASTHRA_RT_API AsthraSelectBuilder *asthra_select_builder_create(void) {
    if (!asthra__tier_is_on(2)) return NULL;
    AsthraSelectBuilder *b = asthra__alloc_zeroed(1, sizeof *b);
    if (!b) {
        asthra__error_set(ASTHRA_OUT_OF_MEMORY, "asthra_select_builder_create: out of memory");
        return NULL;
    }
    b->timeout_ns = -1;
    asthra__error_clear();
    return b;
}

static int asthra__select_add(AsthraSelectBuilder *b, AsthraSelectCase k) {
    if (b->count == b->room) {
        size_t room = b->room ? b->room * 2 : 8;
        AsthraSelectCase *cases = NULL;
        if (room <= INT_MAX) cases = asthra__realloc(b->cases, room * sizeof *cases);
        if (!cases) {
            asthra__error_set(ASTHRA_OUT_OF_MEMORY, "select builder: no memory for %zu cases",
                              room);
            return -1;
        }
        b->cases = cases;
        b->room = room;
    }
    b->cases[b->count] = k;
    return (int)b->count++;
}

ASTHRA_RT_API int asthra_select_builder_add_send(AsthraSelectBuilder *b, AsthraChannel *c,
                                                 const void *data) {
    ASTHRA__SELECT_NEEDS(b);
    if (c && !data)
        asthra_panic_at(NULL, "asthra_select_builder_add_send: the data for channel '%s' is NULL",
                        c->name);
    return asthra__select_add(b, asthra_select_send(c, data));
}

ASTHRA_RT_API int asthra_select_builder_add_receive(AsthraSelectBuilder *b, AsthraChannel *c,
                                                    void *out) {
    ASTHRA__SELECT_NEEDS(b);
    return asthra__select_add(b, asthra_select_receive(c, out));
}

ASTHRA_RT_API void asthra_select_builder_set_default(AsthraSelectBuilder *b) {
    ASTHRA__SELECT_NEEDS(b);
    b->has_default = true;
}

ASTHRA_RT_API void asthra_select_builder_set_timeout(AsthraSelectBuilder *b, int64_t timeout_ns) {
    ASTHRA__SELECT_NEEDS(b);
    b->timeout_ns = timeout_ns;
}

ASTHRA_RT_API void asthra_select_builder_destroy(AsthraSelectBuilder *b) {
    ASTHRA__SELECT_NEEDS(b);
    asthra__free(b->cases);
    asthra__free(b);
}

static AsthraSelectOutcome asthra__select_outcome_of(const AsthraSelectCase *k) {
    if (k->status == ASTHRA_CLOSED) return ASTHRA_SELECT_CLOSED;
    return k->kind == ASTHRA_SELECT_SEND ? ASTHRA_SELECT_SENT : ASTHRA_SELECT_RECEIVED;
}

ASTHRA_RT_API int asthra_select_execute(AsthraSelectBuilder *b) {
    ASTHRA__SELECT_NEEDS(b);
    int chosen = asthra_select(b->cases, b->count, b->has_default ? 0 : b->timeout_ns);
    b->outcome = chosen < 0 ? ASTHRA_SELECT_NONE : asthra__select_outcome_of(&b->cases[chosen]);
    if (chosen == ASTHRA_SELECT_DEFAULT && !b->has_default) return ASTHRA_SELECT_TIMEOUT;
    return chosen;
}

ASTHRA_RT_API AsthraSelectOutcome asthra_select_outcome(const AsthraSelectBuilder *b) {
    ASTHRA__SELECT_NEEDS(b);
    return b->outcome;
}

#endif
