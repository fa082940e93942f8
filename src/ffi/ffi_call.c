/* ffi_call - calls that check, note errno and tell failures.                  [ffi] body: calls
 *
 * errno is the one thing that a foreign function leaves behind beside its result. It is set to 0
 * before and read right afterwards, through the thread's record: the function may have called back,
 * parked its task there and come back on another thread.
 */
#include "ffi_internal.h"

#include "../concurrency/external.h"
#include "../concurrency/scheduler_internal.h"
#include "../core/trace_internal.h"
#include "../memory/heap_internal.h"

#if ASTHRA_HAS_FFI

#include <errno.h>
#include <string.h>

static struct { ASTHRA__ATOMIC(bool) is_off, is_strict; } asthra__ffi_mode;

ASTHRA__FN void asthra__ffi_configure(bool is_enabled, bool is_strict) {
    asthra__store(&asthra__ffi_mode.is_off, !is_enabled, relaxed);
    asthra__store(&asthra__ffi_mode.is_strict, is_strict, relaxed);
}

/* ---- results ---- */

static bool asthra__ffi_is_word(AsthraFFIKind kind) {
    return asthra__ffi_is_integer(kind) || kind == ASTHRA_FFI_F32 || kind == ASTHRA_FFI_F64;
}

/* A word as the value of a result. */
static AsthraResult asthra__ffi_value(AsthraFFIKind kind, const void *word) {
    AsthraResult r = {ASTHRA_OK, 0, {NULL}};
    float single;
    if (kind == ASTHRA_FFI_F64) {
        memcpy(&r.value.real, word, sizeof r.value.real);
    } else if (kind == ASTHRA_FFI_F32) {
        memcpy(&single, word, sizeof single);
        r.value.real = (double)single;
    } else if (kind != ASTHRA_FFI_VOID) {
        r.value.integer = (int64_t)asthra__ffi_widen(kind, word);
    }
    return r;
}

static bool asthra__ffi_has_failed(const Asthra__FFIPlan *p, AsthraResult r) {
    AsthraFFIKind kind = (AsthraFFIKind)p->result_kind;
    bool is_real = kind == ASTHRA_FFI_F32 || kind == ASTHRA_FFI_F64;
    bool is_unsigned = kind == ASTHRA_FFI_U64 || kind == ASTHRA_FFI_PTR;
    switch (p->error_rule) {
    case ASTHRA_FFI_ERROR_NEGATIVE:
        return is_real ? r.value.real < 0 : !is_unsigned && r.value.integer < 0;
    case ASTHRA_FFI_ERROR_NULL: return r.value.integer == 0;
    case ASTHRA_FFI_ERROR_NONZERO:
        return is_real ? !(r.value.real >= 0 && r.value.real <= 0) : r.value.integer != 0;
    default: return false;
    }
}

/* The documented sentences. */
ASTHRA__COLD static AsthraResult asthra__ffi_failure(const char *contract, int number) {
    AsthraFFIError e = {ASTHRA_FAILED, number, "FFI call failed", contract};
    if (number == ENOMEM) {
        e.type = ASTHRA_OUT_OF_MEMORY;
        e.message = "Out of memory in FFI call";
    } else if (number == EINVAL) {
        e.type = ASTHRA_INVALID;
        e.message = "Invalid argument in FFI call";
    } else if (number == EACCES) {
        e.message = "Access denied in FFI call";
    }
    return asthra__result_with((AsthraStatus)e.type, (uint32_t)number, e.message, &e, sizeof e);
}

ASTHRA__COLD static void asthra__ffi_say(const AsthraFFICall *c, int number) {
    char name[128];
    size_t length = asthra__os_symbol(c->function_ptr, name, sizeof name);
    asthra__text_report("FFI: %.*s, %u arguments, errno %d", (int)length, name,
                        asthra__ffi_plan(c)->parameters, number);
}

ASTHRA__FN AsthraResult asthra__ffi_perform(const AsthraFFICall *c, void *ret, void *const *args) {
    const Asthra__FFIPlan *p = asthra__ffi_plan(c);
    AsthraFFIKind kind = (AsthraFFIKind)p->result_kind;
    uint64_t word = 0;
    bool is_word = asthra__ffi_is_word(kind);
    *asthra__thread()->errno_place = 0;
    asthra_ffi_invoke(c, is_word ? &word : ret, args);
    Asthra__Thread *t = asthra__thread();
    t->ffi_errno = *t->errno_place;
    AsthraResult r = asthra__ffi_value(is_word ? kind : ASTHRA_FFI_VOID, &word);
    if (is_word && ret != NULL) memcpy(ret, &word, p->result_size);
    if (ASTHRA__UNLIKELY(asthra__trace_is_on(ASTHRA_DEBUG_FFI_CALLS)))
        asthra__ffi_say(c, t->ffi_errno);
    if (p->error_rule != ASTHRA_FFI_ERROR_NEVER && asthra__ffi_has_failed(p, r))
        return asthra__ffi_failure(c->safety_contract, t->ffi_errno);
    return r;
}

ASTHRA_RT_API int asthra_ffi_last_errno(void) {
    return asthra__thread_place()->ffi_errno;
}

/* ---- checks ---- */

ASTHRA__COLD static AsthraResult asthra__ffi_unsafe(const AsthraFFICall *c, const char *rule,
                                                    size_t param) {
    char where[32] = "";
    Asthra__Text t = asthra__text_on(where, sizeof where);
    const char *contract = c->safety_contract;
    if (param != ASTHRA_FFI_RETURN) asthra__text_format(&t, "parameter %zu ", param);
    return asthra_result_errorf(ASTHRA_INVALID, "Unsafe FFI call: %s%s%s%s", where, rule,
                                contract != NULL ? "; safety contract: " : "",
                                contract != NULL ? contract : "");
}

/* NULL, or why the pointer may not be passed. */
static const char *asthra__ffi_check_pointer(const void *ptr) {
#if ASTHRA_HAS_MEMORY
    Asthra__Found found;
    if (ptr != NULL && asthra__heap_find(ptr, &found) == ASTHRA_ADDRESS_FREED)
        return "leads into freed memory";
#else
    (void)ptr;
#endif
    return NULL;
}

static const char *asthra__ffi_check_argument(const Asthra__FFIPlan *p, size_t i, void **args) {
    const Asthra__FFIRule *row = asthra__ffi_find_row(p, i);
    const void *ptr;
    if (args[i] == NULL) return "has no value: its address is NULL";
    if (asthra__ffi_check_pointer(args[i]) != NULL) return "has a value that lies in freed memory";
    if (row != NULL && row->marshaler != NULL)
        return asthra__ffi_check_pointer(asthra__marshal_target(row->marshaler, args[i]));
    if (asthra__ffi_type_at(p, i)->kind != ASTHRA_FFI_PTR) return NULL;
    memcpy(&ptr, args[i], sizeof ptr);
    const char *wrong = asthra__ffi_check_pointer(ptr);
    bool is_moved = row != NULL && row->transfer != ASTHRA_TRANSFER_NONE;
    return wrong == NULL && is_moved ? asthra__ffi_could_hand_over(ptr) : wrong;
}

static AsthraResult asthra__ffi_check_call(const AsthraFFICall *c, void **args) {
    const Asthra__FFIPlan *p = asthra__ffi_plan(c);
    const char *wrong = NULL;
    if (c->function_ptr == NULL)
        wrong = "the function is NULL";
    else if (!asthra__os_is_executable(c->function_ptr))
        wrong = "the function is not mapped, or not to be executed";
    else if (!c->is_safe)
        wrong = "is_safe is false";
    else if (p->parameters != 0 && args == NULL)
        wrong = "args is NULL";
    if (wrong != NULL) return asthra__ffi_unsafe(c, wrong, ASTHRA_FFI_RETURN);
    for (size_t i = 0; i < p->parameters; i++) {
        wrong = asthra__ffi_check_argument(p, i, args);
        if (wrong != NULL) return asthra__ffi_unsafe(c, wrong, i);
    }
    return asthra_result_ok(NULL);
}

/* ---- public ---- */

ASTHRA__COLD static AsthraResult asthra__ffi_is_no_word(void) {
    return asthra_result_errorf(ASTHRA_INVALID, "asthra_ffi_call: what is returned is no word: "
                                                "use asthra_ffi_call_into");
}

/* Whether the result goes into an AsthraResult. */
static bool asthra__ffi_returns_word(const Asthra__FFIPlan *p) {
    if (p->rules != NULL && p->rules->result_marshaler != NULL)
        return asthra__marshal_is_word(p->rules->result_marshaler);
    return p->result == NULL || asthra__ffi_is_word((AsthraFFIKind)p->result_kind);
}

static AsthraResult asthra__ffi_do(AsthraFFICall *c, void *ret, void **args, bool is_checked) {
    AsthraResult r = asthra_result_ok(NULL);
    if (ASTHRA__UNLIKELY(c == NULL))
        return asthra_result_errorf(ASTHRA_INVALID, "asthra_ffi_call: the call is NULL");
    if (ASTHRA__UNLIKELY(!asthra__ffi_ensure(c, &r))) return r;
    if (ASTHRA__UNLIKELY(asthra__load(&asthra__ffi_mode.is_off, relaxed)))
        return asthra_result_errorf(ASTHRA_FAILED, "asthra_ffi_call: foreign calls are switched "
                                                   "off (enable_ffi)");
    const Asthra__FFIPlan *p = asthra__ffi_plan(c);
    if (ASTHRA__UNLIKELY(ret == NULL && !asthra__ffi_returns_word(p)))
        return asthra__ffi_is_no_word();
    if (ASTHRA__UNLIKELY(is_checked || asthra__load(&asthra__ffi_mode.is_strict, relaxed))) {
        r = asthra__ffi_check_call(c, args);
        if (r.status) return r;
    }
    if (ASTHRA__UNLIKELY(c->function_ptr == NULL))
        return asthra__ffi_unsafe(c, "the function is NULL", ASTHRA_FFI_RETURN);
    return p->rules != NULL ? asthra__ffi_pass(c, ret, args) : asthra__ffi_perform(c, ret, args);
}

ASTHRA_RT_API AsthraResult asthra_ffi_call(AsthraFFICall *c, void **args) {
    return asthra__ffi_do(c, NULL, args, false);
}

ASTHRA_RT_API AsthraResult asthra_ffi_call_safe(AsthraFFICall *c, void **args) {
    return asthra__ffi_do(c, NULL, args, true);
}

ASTHRA_RT_API AsthraResult asthra_ffi_call_into(AsthraFFICall *c, void *ret, void **args) {
    return asthra__ffi_do(c, ret, args, false);
}

/* ---- the system ---- */

typedef struct Asthra__FFISyscall {
    long number, args[6];
} Asthra__FFISyscall;

static void *asthra__ffi_make_syscall(void *call) {
    const Asthra__FFISyscall *s = call;
    return (void *)(intptr_t)asthra__os_syscall(s->number, s->args);
}

/* A task gives it to a helper: who waits in the system holds a worker. */
static AsthraResult asthra__ffi_pass_syscall(Asthra__FFISyscall *s) {
#if ASTHRA_HAS_EXTERNAL
    const Asthra__Seat *seat = asthra__seat_if_any();
    const AsthraExternalCallOptions options = {"syscall", 0, sizeof *s};
    if (seat != NULL && seat->task != NULL) {
        asthra_cancel_mask_begin(); /* the system may write to memory of the task's until it ends */
        AsthraResult r = asthra_external_call(asthra__ffi_make_syscall, s, &options);
        asthra_cancel_mask_end();
        return r;
    }
#endif
    return asthra_result_ok(asthra__ffi_make_syscall(s));
}

ASTHRA_RT_API AsthraResult asthra_ffi_syscall(long number, const long *args, size_t count) {
    Asthra__FFISyscall s = {number, {0, 0, 0, 0, 0, 0}};
    if (count > 6 || (count > 0 && args == NULL))
        return asthra_result_errorf(ASTHRA_INVALID,
                                    "asthra_ffi_syscall: %zu arguments%s, at most 6", count,
                                    args == NULL ? " at NULL" : "");
    if (!ASTHRA_HAS_LINUX)
        return asthra_result_errorf(ASTHRA_INVALID,
                                    "asthra_ffi_syscall: this build has no calls of "
                                    "Linux (ASTHRA_RT_POSIX)");
    if (count > 0) memcpy(s.args, args, count * sizeof *args);
    int saved = errno;
    AsthraResult r = asthra__ffi_pass_syscall(&s);
    intptr_t value = (intptr_t)r.value.pointer;
    *asthra__thread()->errno_place = saved;
    if (r.status) return r;
    asthra__thread()->ffi_errno = value < 0 && value > -4096 ? (int)-value : 0;
    if (value < 0 && value > -4096) return asthra__ffi_failure(NULL, (int)-value);
    return asthra__result_integer(value);
}

#endif
