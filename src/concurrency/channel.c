/* channel - a ring, two lists of waiters, one short lock.                     [channel] body
 *
 * Everything that changes stands behind one lock. Whoever comes looks for a waiting opposite first
 * and copies the value straight between its own buffer and the other's slot; nobody has to look
 * again after a wake. Else the value goes through the ring, else the caller appends a node that
 * stands on its own stack and parks. Parking gives the lock back only after the stack was left, so
 * whoever finds the node may resume its owner at once.
 *
 * Invariants, whenever the lock is free (a waiter is live until somebody has claimed its wait):
 *   a live receiver waits     ->  count == 0 and not closed
 *   a live sender waits       ->  count == capacity and not closed
 *   so: who takes from a full ring moves the oldest live sender's value into the slot that became
 *   free, and sending order holds; and live senders and receivers that could meet never wait both.
 * A node whose claim fails belongs to a select, a timeout or a cancel that was completed elsewhere:
 * it is unlinked and forgotten.
 *
 * Whoever completes a wait writes the value, the outcome and the winner under the lock, unlocks,
 * and wakes as its last act; after that it touches neither the channel nor the waiter. Unlocking
 * itself does not touch the lock once another can have it (sync_internal.h), and a woken owner
 * whose node was unlinked by its partner does not come back to the lock. So when a hand-over is
 * complete both sides are through with the channel, and either may destroy it.
 *
 * A fault in a user's buffer must not happen under the lock: the caller's own value is touched,
 * page by page, before locking. What a partner copies into or out of a waiter's slot was touched by
 * that waiter. A buffer that another thread unmaps in the middle of the call is beyond this.
 *
 * Head and count wrap by comparison: a division costs more than the rest of a send.
 *
 * One cache line holds all that changes, on purpose: both sides need the lock anyway, and get the
 * rest with it. What never changes has a line of its own, which all cores can keep.
 *
 * try_send and try_receive look without the lock first. That they found nothing was true at one
 * moment of the call, which is all that a failed try says.
 */
#include "channel_internal.h"

#include "../core/alloc_internal.h"

#if ASTHRA_HAS_CHANNEL

ASTHRA__COLD ASTHRA_NORETURN static void asthra__channel_null(const char *function,
                                                              const char *what) {
    asthra_panic_at(NULL, "%s: the %s is NULL", function, what);
}

/* Names the function in a panic for a bug of the caller. */
#define ASTHRA__CHANNEL_NEEDS(pointer, what) \
    (ASTHRA__LIKELY((pointer) != NULL) ? (void)0 : asthra__channel_null(__func__, what))

ASTHRA__FN void asthra__channel_say(const AsthraChannel *c, const char *verb) {
    char who[64];
    ASTHRA__TRACE(ASTHRA_DEBUG_CONCURRENCY_OPERATIONS, "channel '%s': %s by %s", c->name, verb,
                  asthra__who(who, sizeof who));
}

static inline AsthraResult asthra__channel_result(AsthraStatus status) {
    if (ASTHRA__UNLIKELY(status != ASTHRA_OK)) return asthra__result_of(status);
    AsthraResult ok = {0, 0, {NULL}};
    return ok;
}

/* ---- under the lock ---- */

static inline void *asthra__channel_at(const AsthraChannel *c, size_t index) {
    return c->ring + index * c->element_size;
}

/* Unlinks the oldest live waiter and claims its wait. The caller finishes and wakes it. */
static inline Asthra__Waiter *asthra__waiters_claim(Asthra__Waiters *list) {
    Asthra__Waiter *w;
    while ((w = asthra__load(&list->first, relaxed)) != NULL) {
        asthra__waiters_remove(list, w);
        bool is_mine = asthra__wait_claim(w->parker);
        asthra__waiter_release(w); /* without the claim, the last touch; with it, the wake is */
        if (is_mine) return w;
    }
    return NULL;
}

ASTHRA__FN ASTHRA__FAST AsthraStatus asthra__channel_put(AsthraChannel *c, const void *value,
                                                         Asthra__Parker **wake) {
    ASTHRA__ASSERT(asthra__lock_is_held(&c->lock));
    size_t count = asthra__load(&c->count, relaxed);
    *wake = NULL;
    if (asthra__load(&c->is_closed, relaxed)) return ASTHRA_CLOSED;
    Asthra__Waiter *w = asthra__waiters_claim(&c->receivers);
    if (w) {
        if (w->slot) asthra__channel_copy(w->slot, value, c->element_size);
        *wake = asthra__waiter_finish(w, ASTHRA_OK);
        return ASTHRA_OK;
    }
    if (count == c->capacity) return ASTHRA_WOULD_BLOCK;
    size_t tail = c->head + count;
    if (tail >= c->capacity) tail -= c->capacity;
    asthra__channel_copy(asthra__channel_at(c, tail), value, c->element_size);
    asthra__store(&c->count, count + 1, relaxed);
    return ASTHRA_OK;
}

/* Takes the oldest value out of the ring, which is not empty. */
static inline Asthra__Parker *asthra__channel_pop(AsthraChannel *c, void *out) {
    size_t count = asthra__load(&c->count, relaxed);
    void *at = asthra__channel_at(c, c->head);
    if (out) asthra__channel_copy(out, at, c->element_size);
    if (++c->head == c->capacity) c->head = 0;
    Asthra__Waiter *w = asthra__waiters_claim(&c->senders);
    if (!w) {
        asthra__store(&c->count, count - 1, relaxed);
        return NULL;
    }
    ASTHRA__ASSERT(count == c->capacity); /* so the slot that became free is the newest now */
    asthra__channel_copy(at, w->slot, c->element_size);
    return asthra__waiter_finish(w, ASTHRA_OK);
}

ASTHRA__FN ASTHRA__FAST AsthraStatus asthra__channel_take(AsthraChannel *c, void *out,
                                                          Asthra__Parker **wake) {
    ASTHRA__ASSERT(asthra__lock_is_held(&c->lock));
    *wake = NULL;
    if (asthra__load(&c->count, relaxed)) {
        *wake = asthra__channel_pop(c, out);
        return ASTHRA_OK;
    }
    Asthra__Waiter *w = asthra__waiters_claim(&c->senders);
    if (w) {
        if (out) asthra__channel_copy(out, w->slot, c->element_size);
        *wake = asthra__waiter_finish(w, ASTHRA_OK);
        return ASTHRA_OK;
    }
    return asthra__load(&c->is_closed, relaxed) ? ASTHRA_CLOSED : ASTHRA_WOULD_BLOCK;
}

/* ---- waiting ---- */

ASTHRA__FN void asthra__waiter_unlink(AsthraChannel *c, Asthra__Waiters *list, Asthra__Waiter *w) {
    if (!asthra__load(&w->is_linked, acquire)) return; /* partner: asthra__waiter_release */
    asthra__lock(&c->lock);
    if (asthra__load(&w->is_linked, relaxed)) asthra__waiters_remove(list, w);
    asthra__channel_unlock(c);
}

/* Waits in the list for a partner. Caller holds c->lock, which is given back. */
ASTHRA__NOINLINE static AsthraStatus asthra__channel_wait(AsthraChannel *c, Asthra__Waiters *list,
                                                          void *slot, const char *what,
                                                          int64_t timeout_ns) {
    Asthra__Wait wait;
    Asthra__Waiter w;
    wait.what = what;
    wait.name = c->name;
    wait.held = &c->lock;
    wait.is_firm = false;
    wait.outcome = ASTHRA_OK;
    w.slot = slot;
    w.parker = asthra__wait_open(&wait);
    asthra__waiters_append(list, &w);
    asthra__channel_show(c);
    AsthraStatus status = asthra__wait_park(&wait, timeout_ns);
    asthra__waiter_unlink(c, list, &w);
    return status;
}

static inline AsthraStatus asthra__channel_send(AsthraChannel *c, const void *value,
                                                int64_t timeout_ns) {
    Asthra__Parker *wake;
    asthra__channel_trace(c, "send");
    asthra__channel_touch_source(c, value);
    asthra__lock(&c->lock);
    AsthraStatus status = asthra__channel_put(c, value, &wake);
    if (status == ASTHRA_WOULD_BLOCK && timeout_ns != 0)
        return asthra__channel_wait(c, &c->senders, asthra__channel_source(value),
                                    "send on channel", timeout_ns);
    asthra__channel_unlock(c);
    if (wake) asthra__wait_wake(wake);
    return status;
}

static inline AsthraStatus asthra__channel_receive(AsthraChannel *c, void *out,
                                                   int64_t timeout_ns) {
    Asthra__Parker *wake;
    asthra__channel_trace(c, "receive");
    asthra__channel_touch_target(c, out);
    asthra__lock(&c->lock);
    AsthraStatus status = asthra__channel_take(c, out, &wake);
    if (status == ASTHRA_WOULD_BLOCK && timeout_ns != 0)
        return asthra__channel_wait(c, &c->receivers, out, "receive on channel", timeout_ns);
    asthra__channel_unlock(c);
    if (wake) asthra__wait_wake(wake);
    return status;
}

/* ---- opening and ending ---- */

/* Bytes of header, ring and name in one block, with room to align the header; 0: too many. */
static size_t asthra__channel_bytes(size_t element_size, size_t capacity, size_t name_bytes) {
    size_t fixed = sizeof(AsthraChannel) + ASTHRA__CACHE_LINE + name_bytes;
    if (name_bytes > PTRDIFF_MAX / 2 || capacity > (PTRDIFF_MAX - fixed) / element_size) return 0;
    return fixed + capacity * element_size;
}

static AsthraChannel *asthra__channel_lay_out(void *block, size_t element_size, size_t capacity,
                                              const char *name, size_t name_bytes) {
    size_t mask = ASTHRA__CACHE_LINE - 1;
    AsthraChannel *c = (AsthraChannel *)(((uintptr_t)block + mask) & ~(uintptr_t)mask);
    memset(c, 0, sizeof *c);
    c->block = block;
    c->element_size = element_size;
    c->capacity = capacity;
    c->ring = (char *)(c + 1);
    char *text = c->ring + capacity * element_size;
    memcpy(text, name, name_bytes);
    c->name = text;
    return c;
}

ASTHRA_RT_API AsthraChannel *asthra_channel_create(size_t element_size, size_t capacity,
                                                   const char *name) {
    if (!asthra__tier_is_on(2)) return NULL;
    if (!name) name = "unnamed";
    if (!element_size) {
        asthra__error_set(ASTHRA_INVALID, "asthra_channel_create: '%s' has element_size 0", name);
        return NULL;
    }
    size_t name_bytes = strlen(name) + 1;
    size_t bytes = asthra__channel_bytes(element_size, capacity, name_bytes);
    if (!bytes) {
        asthra__error_set(ASTHRA_INVALID,
                          "asthra_channel_create: '%s': %zu values of %zu bytes overflow", name,
                          capacity, element_size);
        return NULL;
    }
    void *block = asthra__alloc(bytes);
    if (!block) {
        asthra__error_set(ASTHRA_OUT_OF_MEMORY,
                          "asthra_channel_create: no memory for '%s', %zu values of %zu bytes",
                          name, capacity, element_size);
        return NULL;
    }
    asthra__error_clear();
    AsthraChannel *c = asthra__channel_lay_out(block, element_size, capacity, name, name_bytes);
    asthra__channel_trace(c, "create");
    return c;
}

/* Unlinks whoever waits in the list, with ASTHRA_CLOSED, into a chain through `next`. */
static void asthra__channel_dismiss(Asthra__Waiters *list, Asthra__Waiter **chain) {
    Asthra__Waiter *w;
    while ((w = asthra__waiters_claim(list)) != NULL) {
        asthra__waiter_finish(w, ASTHRA_CLOSED);
        w->next = NULL;
        *chain = w;
        chain = &w->next;
    }
}

static void asthra__channel_wake_all(Asthra__Waiter *w) {
    while (w) {
        Asthra__Waiter *next = w->next; /* the wake ends w's life */
        asthra__wait_wake(w->parker);
        w = next;
    }
}

ASTHRA_RT_API bool asthra_channel_close(AsthraChannel *c) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    Asthra__Waiter *senders = NULL, *receivers = NULL;
    asthra__turn();
    asthra__channel_trace(c, "close");
    asthra__lock(&c->lock);
    bool is_first = !asthra__load(&c->is_closed, relaxed);
    if (is_first) {
        asthra__store(&c->is_closed, 1, release);
        asthra__channel_dismiss(&c->receivers, &receivers);
        asthra__channel_dismiss(&c->senders, &senders);
    }
    asthra__channel_unlock(c);
    asthra__channel_wake_all(receivers);
    asthra__channel_wake_all(senders);
    if (!is_first) asthra__error_note(ASTHRA_CLOSED);
    return is_first;
}

/* Adds ", task 'a' (receive)" for each live waiter; forgets the others. Returns how many. */
static size_t asthra__channel_list(Asthra__Waiters *list, const char *verb, Asthra__Text *text) {
    size_t live = 0;
    Asthra__Waiter *next;
    for (Asthra__Waiter *w = asthra__load(&list->first, relaxed); w; w = next) {
        char name[96];
        next = w->next;
        uint32_t claim = asthra__load(&w->parker->word, acquire) & ASTHRA__WAIT_CLAIM;
        if (claim == ASTHRA__WAIT_DONE || claim == ASTHRA__WAIT_IDLE) {
            asthra__waiters_remove(list, w);
            asthra__waiter_release(w);
            continue;
        }
        asthra__text_format(text, "%s%s (%s)", text->length ? ", " : "",
                            asthra__parker_name(w->parker, name, sizeof name), verb);
        live++;
    }
    return live;
}

ASTHRA_RT_API void asthra_channel_destroy(AsthraChannel *c) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    char buffer[600];
    Asthra__Text who = asthra__text_on(buffer, sizeof buffer);
    asthra__turn();
    asthra__channel_trace(c, "destroy");
    asthra__lock(&c->lock);
    size_t live = asthra__channel_list(&c->receivers, "receive", &who);
    live += asthra__channel_list(&c->senders, "send", &who);
    asthra__channel_unlock(c);
    if (live)
        asthra_panic_at(NULL,
                        "asthra_channel_destroy: %zu still wait on channel '%s': %s; close it and "
                        "let them return first",
                        live, c->name, buffer);
    if (asthra__load(&c->has_signal, relaxed)) asthra__os_signal_close(c->signal);
    asthra__free(c->block);
}

/* ---- the rest of the contract ---- */

ASTHRA_RT_API AsthraResult asthra_channel_send(AsthraChannel *c, const void *value) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    ASTHRA__CHANNEL_NEEDS(value, "value");
    asthra__turn();
    return asthra__channel_result(asthra__channel_send(c, value, -1));
}

ASTHRA_RT_API AsthraResult asthra_channel_receive(AsthraChannel *c, void *out) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    asthra__turn();
    return asthra__channel_result(asthra__channel_receive(c, out, -1));
}

ASTHRA_RT_API AsthraResult asthra_channel_try_send(AsthraChannel *c, const void *value) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    ASTHRA__CHANNEL_NEEDS(value, "value");
    asthra__turn();
    if (asthra__channel_is_full(c)) return asthra__result_of(ASTHRA_WOULD_BLOCK);
    return asthra__channel_result(asthra__channel_send(c, value, 0));
}

ASTHRA_RT_API AsthraResult asthra_channel_try_receive(AsthraChannel *c, void *out) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    asthra__turn();
    if (asthra__channel_is_empty(c)) return asthra__result_of(ASTHRA_WOULD_BLOCK);
    return asthra__channel_result(asthra__channel_receive(c, out, 0));
}

/* A limit of 0 has run out. */
static AsthraResult asthra__channel_timed(AsthraStatus status) {
    return asthra__channel_result(status == ASTHRA_WOULD_BLOCK ? ASTHRA_TIMED_OUT : status);
}

ASTHRA_RT_API AsthraResult asthra_channel_send_timeout(AsthraChannel *c, const void *value,
                                                       int64_t timeout_ns) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    ASTHRA__CHANNEL_NEEDS(value, "value");
    asthra__turn();
    return asthra__channel_timed(asthra__channel_send(c, value, timeout_ns));
}

ASTHRA_RT_API AsthraResult asthra_channel_receive_timeout(AsthraChannel *c, void *out,
                                                          int64_t timeout_ns) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    asthra__turn();
    return asthra__channel_timed(asthra__channel_receive(c, out, timeout_ns));
}

ASTHRA_RT_API bool asthra_channel_next(AsthraChannel *c, void *out, size_t element_size) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    if (ASTHRA__UNLIKELY(element_size != c->element_size))
        asthra_panic_at(NULL,
                        "asthra_channel_next: channel '%s' carries values of %zu bytes, not %zu",
                        c->name, c->element_size, element_size);
    asthra__turn();
    AsthraStatus status = asthra__channel_receive(c, out, -1);
    if (ASTHRA__UNLIKELY(status != ASTHRA_OK)) asthra__error_note(status);
    return status == ASTHRA_OK;
}

ASTHRA__COLD ASTHRA_NORETURN static void
asthra__channel_unlike(const AsthraChannel *c, size_t element_size, const char *who) {
    AsthraResult why = asthra_last_error();
    if (c)
        asthra_panic_at(NULL, "%s: channel '%s' carries values of %zu bytes, not %zu", who, c->name,
                        c->element_size, element_size);
    if (why.status)
        asthra_panic_at(NULL, "%s: the channel is NULL; the last error here was: %s", who,
                        asthra_result_message(why));
    asthra_panic_at(NULL, "%s: the channel is NULL: it was never created", who);
}

ASTHRA_RT_API AsthraChannel *asthra_channel_expect(AsthraChannel *c, size_t element_size,
                                                   const char *who) {
    if (ASTHRA__UNLIKELY(!c || c->element_size != element_size))
        asthra__channel_unlike(c, element_size, who);
    return c;
}

ASTHRA_RT_API bool asthra_channel_is_closed(const AsthraChannel *c) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    asthra__turn();
    return asthra__load(&c->is_closed, acquire) != 0; /* partner: asthra_channel_close */
}

ASTHRA_RT_API size_t asthra_channel_count(const AsthraChannel *c) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    asthra__turn();
    return asthra__load(&c->count, relaxed);
}

ASTHRA_RT_API size_t asthra_channel_capacity(const AsthraChannel *c) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    return c->capacity;
}

ASTHRA_RT_API size_t asthra_channel_element_size(const AsthraChannel *c) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    return c->element_size;
}

ASTHRA_RT_API const char *asthra_channel_name(const AsthraChannel *c) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    return c->name;
}

/* ---- the descriptor ---- */

ASTHRA__COLD ASTHRA__FN void asthra__channel_show_slow(AsthraChannel *c) {
    bool must_wait = asthra__channel_is_empty(c);
    if (c->is_shown == !must_wait) return;
    c->is_shown = !must_wait;
    if (must_wait)
        asthra__os_signal_clear(c->signal);
    else
        asthra__os_signal_set(c->signal);
}

/* Opened outside the lock, because the system may take its time; of two, one is given back. */
ASTHRA_RT_API int asthra_channel_fd(AsthraChannel *c) {
    ASTHRA__CHANNEL_NEEDS(c, "channel");
    asthra__turn();
    if (asthra__load(&c->has_signal, acquire)) return c->signal.fd;
    Asthra__OsSignal fresh = asthra__os_signal_open();
    if (fresh.fd < 0) {
        asthra__error_set(ASTHRA_LIMIT,
                          "asthra_channel_fd: the system refused a descriptor for channel '%s'",
                          c->name);
        return -1;
    }
    asthra__lock(&c->lock);
    bool is_first = !asthra__load(&c->has_signal, relaxed);
    if (is_first) c->signal = fresh;
    asthra__store(&c->has_signal, 1u, release);
    asthra__channel_unlock(c);
    if (!is_first) asthra__os_signal_close(fresh);
    return c->signal.fd;
}

#endif
