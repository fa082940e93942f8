/* result - one record for each task, one sentence for each code.           [result] body
 *
 * A result has room for a status and a pointer, so a failure points at what says more about it: a
 * constant record with the status's own sentence, which costs nothing, or the error record of the
 * task, which the next error of that task overwrites. The scheduler says where the running task
 * keeps its record; until the first error that place holds NULL.
 *
 * The record comes from malloc, because the runtime's own allocator stands on panics, and those on
 * results. If there is no memory for it, its place holds the constant record of the status instead,
 * so that the failure keeps at least its status and that status's sentence.
 *
 * A message is formatted into a buffer of its own first: its arguments may be the one before it.
 */
#include "result_internal.h"
#include "text_internal.h"

#if ASTHRA_HAS_CORE

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct AsthraError {
    const char *message;
    const void *context;
};

/* The error comes first, so that the slot's pointer is the record's. */
typedef struct Asthra__ErrorRecord {
    struct AsthraError error;
    AsthraResult last;                                       /* status ASTHRA_OK: nothing to tell */
    char text[256];                                          /* where a formatted message lives */
    ASTHRA__ALIGNED(8) char context[ASTHRA__RESULT_CONTEXT]; /* and a context that was copied */
} Asthra__ErrorRecord;

#define ASTHRA__RESULT_ERROR(name, sentence) {sentence, NULL},
static const struct AsthraError asthra__result_errors[] = {
    ASTHRA_STATUS_TABLE(ASTHRA__RESULT_ERROR){"Unknown status", NULL}};
#undef ASTHRA__RESULT_ERROR

_Static_assert(sizeof(AsthraResult) == 16, "a result travels in two registers");

enum { ASTHRA__RESULT_LAST = sizeof asthra__result_errors / sizeof *asthra__result_errors - 1 };

static const struct AsthraError *asthra__result_sentence(uint32_t status) {
    return &asthra__result_errors[status < ASTHRA__RESULT_LAST ? status : ASTHRA__RESULT_LAST];
}

/* Which status's constant record is this? ASTHRA_OK: none's, it is a record of its own or NULL. */
static uint32_t asthra__result_status_of(const struct AsthraError *error) {
    uintptr_t offset = (uintptr_t)error - (uintptr_t)asthra__result_errors;
    return offset < sizeof asthra__result_errors ? (uint32_t)(offset / sizeof *error) : ASTHRA_OK;
}

static struct {
    ASTHRA__ATOMIC(Asthra__ResultPlace) place; /* the scheduler's: where a task keeps it */
    Asthra__Once setup;
} asthra__result;

ASTHRA__FN void asthra__result_set_place(Asthra__ResultPlace place) {
    asthra__store(&asthra__result.place, place, release);
}

/* Where the running task, or else this thread, keeps its record. */
static struct AsthraError **asthra__result_slot(Asthra__Thread *t) {
    Asthra__ResultPlace place = asthra__load(&asthra__result.place, acquire);
    struct AsthraError **of_task = place ? place() : NULL;
    return of_task ? of_task : &t->own_error;
}

static void asthra__result_leave(Asthra__Thread *t) {
    asthra__error_free(t->own_error);
    t->own_error = NULL;
}
static void asthra__result_setup(void) {
    asthra__thread_on_detach(asthra__result_leave);
}

/* The same place, to be written. */
static struct AsthraError **asthra__result_slot_kept(void) {
    asthra__once(&asthra__result.setup, asthra__result_setup);
    return asthra__result_slot(asthra__thread());
}

/* The record of the running task or thread, or NULL if there is none and no memory for one. */
static Asthra__ErrorRecord *asthra__result_record(void) {
    struct AsthraError **slot = asthra__result_slot_kept();
    if (!*slot || asthra__result_status_of(*slot) != ASTHRA_OK) {
        int saved = errno;
        Asthra__ErrorRecord *fresh = calloc(1, sizeof *fresh);
        errno = saved;
        if (!fresh) return NULL;
        *slot = &fresh->error;
    }
    return (Asthra__ErrorRecord *)(void *)*slot;
}

ASTHRA__FN AsthraResult asthra__result_of(AsthraStatus status) {
    AsthraResult r = {(uint32_t)status, 0, {NULL}};
    if (status != ASTHRA_OK) r.value.error = asthra__result_sentence(r.status);
    return r;
}

ASTHRA__FN AsthraResult asthra__result_integer(int64_t value) {
    AsthraResult r = {ASTHRA_OK, 0, {NULL}};
    r.value.integer = value;
    return r;
}

/* A failure whose message lives at least as long as the record; NULL: the status's sentence. */
ASTHRA__COLD static AsthraResult asthra__result_note(AsthraStatus status, const char *message,
                                                     const void *context) {
    if (status == ASTHRA_OK) status = ASTHRA_FAILED;
    AsthraResult r = asthra__result_of(status);
    Asthra__ErrorRecord *record = asthra__result_record();
    if (!record) {
        /* never written through: it is not in a record's place for long, nor taken for one */
        *asthra__result_slot_kept() = (struct AsthraError *)(uintptr_t)r.value.error;
        return r;
    }
    record->error.message = message ? message : r.value.error->message;
    record->error.context = context;
    r.value.error = &record->error;
    record->last = r;
    return r;
}

ASTHRA__FN AsthraResult asthra__result_with(AsthraStatus status, uint32_t detail,
                                            const char *message, const void *context,
                                            size_t bytes) {
    Asthra__ErrorRecord *record = asthra__result_record();
    if (record) memcpy(record->context, context, bytes);
    AsthraResult r = asthra__result_note(status, message, record ? record->context : NULL);
    r.detail = detail;
    if (record) record->last.detail = detail;
    return r;
}

/* A context goes along with its record: what was copied into that is copied again. */
static void asthra__result_copy_context(Asthra__ErrorRecord *to, const struct AsthraError *from) {
    const Asthra__ErrorRecord *record = (const Asthra__ErrorRecord *)(const void *)from;
    bool is_inside = from->context != NULL && from->context == record->context;
    if (is_inside) memcpy(to->context, record->context, sizeof to->context);
    to->error.context = is_inside ? to->context : from->context;
}

ASTHRA__COLD static AsthraResult asthra__result_note_list(AsthraStatus status, const char *format,
                                                          va_list list) ASTHRA_PRINTF(2, 0);
ASTHRA__COLD static AsthraResult asthra__result_note_list(AsthraStatus status, const char *format,
                                                          va_list list) {
    Asthra__ErrorRecord *record = format ? asthra__result_record() : NULL;
    if (!record) return asthra__result_note(status, NULL, NULL);
    char text[sizeof record->text];
    Asthra__Text t = asthra__text_on(text, sizeof text);
    asthra__text_format_list(&t, format, list);
    memcpy(record->text, text, t.length + 1);
    return asthra__result_note(status, record->text, NULL);
}

ASTHRA__FN void asthra__error_set(AsthraStatus status, const char *format, ...) {
    va_list list;
    va_start(list, format);
    asthra__result_note_list(status, format, list);
    va_end(list);
}

ASTHRA__FN void asthra__error_note(AsthraStatus status) {
    struct AsthraError **slot = asthra__result_slot_kept();
    if (*slot && asthra__result_status_of(*slot) == ASTHRA_OK)
        asthra__result_note(status, NULL, NULL);
    else /* a constant record in its place, as when there is no memory */
        *slot = (struct AsthraError *)(uintptr_t)asthra__result_sentence((uint32_t)status);
}

ASTHRA__FN void asthra__error_clear(void) {
    Asthra__Thread *t = asthra__thread_if_attached();
    struct AsthraError **slot = t ? asthra__result_slot(t) : NULL;
    if (!slot || !*slot) return;
    if (asthra__result_status_of(*slot) != ASTHRA_OK)
        *slot = NULL;
    else
        ((Asthra__ErrorRecord *)(void *)*slot)->last.status = ASTHRA_OK;
}

ASTHRA__FN struct AsthraError *asthra__error_put_aside(void) {
    struct AsthraError **slot = asthra__result_slot_kept(), *record = *slot;
    *slot = NULL;
    return record;
}

ASTHRA__FN void asthra__error_put_back(struct AsthraError *record) {
    struct AsthraError **slot = asthra__result_slot_kept();
    asthra__error_free(*slot);
    *slot = record;
}

ASTHRA__FN struct AsthraError *asthra__error_copy(AsthraResult r) {
    const struct AsthraError *sentence = asthra__result_sentence(r.status);
    const char *message = asthra_result_message(r);
    Asthra__ErrorRecord *copy = NULL;
    if (message != sentence->message || asthra_result_context(r)) copy = calloc(1, sizeof *copy);
    if (!copy) return (struct AsthraError *)(uintptr_t)sentence; /* never written through */
    Asthra__Text t = asthra__text_on(copy->text, sizeof copy->text);
    asthra__text_add(&t, message);
    copy->error.message = copy->text;
    asthra__result_copy_context(copy, r.value.error);
    return &copy->error;
}

ASTHRA__FN AsthraResult asthra__result_adopt(uint32_t status, uint32_t detail,
                                             struct AsthraError *copy) {
    AsthraResult r = {status, detail, {NULL}};
    const char *message = copy ? copy->message : NULL;
    Asthra__ErrorRecord *record = asthra__result_record();
    r.value.error = asthra__result_sentence(status);
    if (record) {
        Asthra__Text t = asthra__text_on(record->text, sizeof record->text);
        asthra__text_add(&t, message ? message : r.value.error->message);
        record->error.message = record->text;
        record->error.context = NULL;
        if (copy != NULL && copy->context != NULL) asthra__result_copy_context(record, copy);
        r.value.error = &record->error;
        record->last = r;
    } else {
        asthra__error_note((AsthraStatus)status);
    }
    asthra__error_free(copy);
    return r;
}

ASTHRA__FN void asthra__error_free(struct AsthraError *record) {
    if (asthra__result_status_of(record) == ASTHRA_OK) free(record);
}

ASTHRA_RT_API AsthraResult asthra_result_ok(void *value) {
    AsthraResult r = {ASTHRA_OK, 0, {value}};
    return r;
}

ASTHRA_RT_API AsthraResult asthra_result_err(const char *message) {
    return asthra__result_note(ASTHRA_FAILED, message, NULL);
}

ASTHRA_RT_API AsthraResult asthra_result_err_with_context(const char *message,
                                                          const void *context) {
    return asthra__result_note(ASTHRA_FAILED, message, context);
}

ASTHRA_RT_API AsthraResult asthra_result_errorf(AsthraStatus status, const char *format, ...) {
    va_list list;
    va_start(list, format);
    AsthraResult r = asthra__result_note_list(status, format, list);
    va_end(list);
    return r;
}

ASTHRA_RT_API bool asthra_result_is_ok(AsthraResult r) {
    return r.status == ASTHRA_OK;
}

ASTHRA_RT_API AsthraStatus asthra_result_status(AsthraResult r) {
    return (AsthraStatus)r.status;
}

ASTHRA_RT_API const char *asthra_result_message(AsthraResult r) {
    if (r.status != ASTHRA_OK && r.value.error) return r.value.error->message;
    return asthra__result_sentence(r.status)->message; /* a success, or made by hand */
}

ASTHRA_RT_API void *asthra_result_value(AsthraResult r) {
    return r.status == ASTHRA_OK ? r.value.pointer : NULL;
}

ASTHRA_RT_API const void *asthra_result_context(AsthraResult r) {
    return r.status != ASTHRA_OK && r.value.error ? r.value.error->context : NULL;
}

ASTHRA_RT_API AsthraResult asthra_last_error(void) {
    Asthra__Thread *t = asthra__thread_if_attached();
    const struct AsthraError *error = t ? *asthra__result_slot(t) : NULL;
    uint32_t status = asthra__result_status_of(error);
    if (status != ASTHRA_OK) return asthra__result_of((AsthraStatus)status);
    const Asthra__ErrorRecord *record = (const Asthra__ErrorRecord *)(const void *)error;
    return record && record->last.status != ASTHRA_OK ? record->last : asthra_result_ok(NULL);
}

#endif
