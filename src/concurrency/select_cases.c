/* select - a select written as plain ifs.                                 [select] body: cases
 *
 * ASTHRA_SELECT is a loop of two rounds, and the functions in its conditions know which one it is.
 *
 *     BEGUN --step--> GATHERS --step: asthra_select--> ANSWERS --step--> OVER
 *
 * While it gathers, each case notes itself; while it answers, the n-th case that asks is compared
 * with the n-th that was noted, and is told whether it was chosen. The phases are odd numbers, so
 * that a case with a select that was never begun is seen.
 */
#include "select.h"

#include "channel_internal.h"

#if ASTHRA_HAS_SELECT

enum {
    ASTHRA__SELECT_BEGUN = 0x5e1ec7a1,
    ASTHRA__SELECT_GATHERS,
    ASTHRA__SELECT_ANSWERS,
    ASTHRA__SELECT_OVER
};

ASTHRA_RT_API AsthraSelect *asthra_select_begin_at(AsthraSelect *s, const char *who) {
    s->phase = ASTHRA__SELECT_BEGUN;
    s->next = s->count = s->chosen = 0;
    s->ok = true;
    s->timeout_ns = ASTHRA_FOREVER;
    s->who = who;
    s->timeouts = s->shortest = 0;
    s->has_default = s->is_taken = false;
    return s;
}

ASTHRA_RT_API AsthraSelect *asthra_select_begin(AsthraSelect *s) {
    return asthra_select_begin_at(s, "asthra_select_begin");
}

/* Waits, and prepares the second round. */
static void asthra__select_choose(AsthraSelect *s) {
    int64_t timeout_ns = s->has_default ? 0 : s->timeout_ns;
    s->chosen = asthra_select(s->cases, (size_t)s->count, timeout_ns);
    if (s->chosen == ASTHRA_SELECT_DEFAULT && !s->has_default) s->chosen = ASTHRA_SELECT_TIMEOUT;
    if (s->chosen >= 0) s->ok = s->cases[s->chosen].status == ASTHRA_OK;
    if (s->chosen == ASTHRA_SELECT_CANCELLED) asthra__error_note(ASTHRA_CANCELLED);
    s->timeouts = 0;
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__select_missed(const AsthraSelect *s) {
    const char *what = s->chosen == ASTHRA_SELECT_DEFAULT               ? "the default"
                       : s->chosen < 0                                  ? "the timeout"
                       : s->cases[s->chosen].kind == ASTHRA_SELECT_SEND ? "a send"
                                                                        : "a receive";
    const char *name = s->chosen < 0 ? NULL : s->cases[s->chosen].channel->name;
    asthra_panic_at(NULL,
                    "%s: %s%s%s%s was chosen, but when the body ran again nobody asked for it: a "
                    "condition has changed in between",
                    s->who, what, name ? " on channel '" : "", name ? name : "", name ? "'" : "");
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__select_outside(const char *who) {
    asthra_panic_at(NULL, "%s: not in the body of an ASTHRA_SELECT", who);
}

ASTHRA_RT_API bool asthra_select_step(AsthraSelect *s) {
    switch (s->phase) {
    case ASTHRA__SELECT_BEGUN: break;
    case ASTHRA__SELECT_GATHERS: asthra__select_choose(s); break;
    case ASTHRA__SELECT_ANSWERS:
        if (ASTHRA__UNLIKELY(!s->is_taken) && s->chosen > ASTHRA_SELECT_CANCELLED)
            asthra__select_missed(s);
        s->phase = ASTHRA__SELECT_OVER;
        return false;
    default: asthra__select_outside("asthra_select_step");
    }
    s->phase++;
    return true;
}

/* Is this the second round? */
static inline bool asthra__select_answers(const AsthraSelect *s, const char *who) {
    if (ASTHRA__LIKELY(s != NULL)) {
        if (s->phase == ASTHRA__SELECT_ANSWERS) return true;
        if (ASTHRA__LIKELY(s->phase == ASTHRA__SELECT_GATHERS)) return false;
    }
    asthra__select_outside(who);
}

/* Tells who asks that its branch is the one. */
static inline bool asthra__select_give(AsthraSelect *s, bool is_chosen) {
    if (!is_chosen || s->is_taken) return false;
    s->is_taken = true;
    return true;
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__select_too_many(const AsthraSelect *s,
                                                                 const char *who) {
    asthra_panic_at(NULL,
                    "%s: more than %d cases in the %s: asthra_select_builder_create makes a select "
                    "without a limit",
                    who, ASTHRA_SELECT_MAX, s->who);
}

ASTHRA__COLD ASTHRA_NORETURN static void asthra__select_changed(const AsthraSelect *s,
                                                                const char *who) {
    asthra_panic_at(NULL,
                    "%s: the cases of the %s were others, or in another order, when its body ran "
                    "for the first time",
                    who, s->who);
}

/* A case in the first round. The fields are written one by one: a struct that is put together on
 * the stack and copied in larger pieces stalls the processor. */
static inline void asthra__select_note(AsthraSelect *s, AsthraSelectKind kind, AsthraChannel *c,
                                       void *data, size_t element_size, const char *who) {
    if (ASTHRA__UNLIKELY(s->count == ASTHRA_SELECT_MAX)) asthra__select_too_many(s, who);
    if (c && element_size && ASTHRA__UNLIKELY(c->element_size != element_size))
        asthra_channel_expect(c, element_size, who);
    AsthraSelectCase *k = &s->cases[s->count++];
    k->kind = kind;
    k->status = ASTHRA_OK;
    k->channel = c;
    k->data = data;
}

/* The same case in the second round. */
static inline bool asthra__select_ask(AsthraSelect *s, AsthraSelectKind kind,
                                      const AsthraChannel *c, const void *data, const char *who) {
    const AsthraSelectCase *k = &s->cases[s->next];
    if (ASTHRA__UNLIKELY(s->next == s->count || k->kind != kind || k->channel != c ||
                         k->data != data))
        asthra__select_changed(s, who);
    return asthra__select_give(s, s->next++ == s->chosen);
}

ASTHRA_RT_API bool asthra_case_receive_at(AsthraSelect *s, AsthraChannel *c, void *out,
                                          size_t element_size, const char *who) {
    if (asthra__select_answers(s, who))
        return asthra__select_ask(s, ASTHRA_SELECT_RECEIVE, c, out, who);
    asthra__select_note(s, ASTHRA_SELECT_RECEIVE, c, out, element_size, who);
    return false;
}

ASTHRA_RT_API bool asthra_case_send_at(AsthraSelect *s, AsthraChannel *c, const void *value,
                                       size_t element_size, const char *who) {
    if (asthra__select_answers(s, who))
        return asthra__select_ask(s, ASTHRA_SELECT_SEND, c, value, who);
    if (ASTHRA__UNLIKELY(c && !value))
        asthra_panic_at(NULL, "%s: the value for channel '%s' is NULL", who, c->name);
    void *data = asthra__channel_source(value);
    asthra__select_note(s, ASTHRA_SELECT_SEND, c, data, element_size, who);
    return false;
}

ASTHRA_RT_API bool asthra_case_timeout_at(AsthraSelect *s, int64_t timeout_ns, const char *who) {
    int number = s ? s->timeouts : 0;
    if (asthra__select_answers(s, who)) {
        s->timeouts++;
        return asthra__select_give(s, s->chosen == ASTHRA_SELECT_TIMEOUT && number == s->shortest);
    }
    s->timeouts++;
    if (timeout_ns < 0 || (s->timeout_ns >= 0 && timeout_ns >= s->timeout_ns)) return false;
    s->timeout_ns = timeout_ns;
    s->shortest = number;
    return false;
}

ASTHRA_RT_API bool asthra_case_default_at(AsthraSelect *s, const char *who) {
    if (asthra__select_answers(s, who))
        return asthra__select_give(s, s->chosen == ASTHRA_SELECT_DEFAULT);
    s->has_default = true;
    return false;
}

ASTHRA_RT_API bool asthra_case_cancelled_at(AsthraSelect *s, const char *who) {
    if (!asthra__select_answers(s, who)) return false;
    return asthra__select_give(s, s->chosen <= ASTHRA_SELECT_CANCELLED);
}

/* For callers that need a function, not a macro. */
ASTHRA_RT_API bool(asthra_case_receive)(AsthraSelect *s, AsthraChannel *c, void *out) {
    return asthra_case_receive_at(s, c, out, 0, "asthra_case_receive");
}
ASTHRA_RT_API bool(asthra_case_send)(AsthraSelect *s, AsthraChannel *c, const void *value) {
    return asthra_case_send_at(s, c, value, 0, "asthra_case_send");
}
ASTHRA_RT_API bool(asthra_case_timeout)(AsthraSelect *s, int64_t timeout_ns) {
    return asthra_case_timeout_at(s, timeout_ns, "asthra_case_timeout");
}
ASTHRA_RT_API bool(asthra_case_default)(AsthraSelect *s) {
    return asthra_case_default_at(s, "asthra_case_default");
}
ASTHRA_RT_API bool(asthra_case_cancelled)(AsthraSelect *s) {
    return asthra_case_cancelled_at(s, "asthra_case_cancelled");
}

#endif
