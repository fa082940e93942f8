/* ffi_rules - what a call does with its arguments beside passing them.        [ffi] body: rules
 *
 * A call without rules is a plan and nothing else. Rules are kept apart, on the heap, a row for
 * each parameter that has any, in the order of parameters; making them is rare, and for one thread.
 */
#include "ffi_internal.h"

#include "../core/text_internal.h"

#if ASTHRA_HAS_FFI

#include <string.h>

ASTHRA__FN void asthra__ffi_forget_rules(Asthra__FFIPlan *p) {
    if (p->rules != NULL) asthra__free(p->rules->rows);
    asthra__free(p->rules);
    p->rules = NULL;
}

/* The rules of a plan; NULL: no memory. */
static Asthra__FFIRules *asthra__ffi_rules_of(Asthra__FFIPlan *p) {
    if (p->rules == NULL) p->rules = asthra__alloc_zeroed(1, sizeof *p->rules);
    return p->rules;
}

ASTHRA__FN Asthra__FFIRule *asthra__ffi_find_row(const Asthra__FFIPlan *p, size_t param) {
    for (size_t i = 0; p->rules != NULL && i < p->rules->count; i++)
        if (p->rules->rows[i].param == param) return &p->rules->rows[i];
    return NULL;
}

/* The row of a parameter, made if it was not there; NULL: no memory. */
static Asthra__FFIRule *asthra__ffi_row(Asthra__FFIPlan *p, size_t param) {
    Asthra__FFIRules *rules = asthra__ffi_rules_of(p);
    Asthra__FFIRule *found = asthra__ffi_find_row(p, param);
    if (rules == NULL || found != NULL) return found;
    size_t i = 0;
    while (i < rules->count && rules->rows[i].param < param) i++;
    Asthra__FFIRule *rows = asthra__realloc(rules->rows, (rules->count + 1) * sizeof *rows);
    if (rows == NULL) return NULL;
    memmove(rows + i + 1, rows + i, (rules->count - i) * sizeof *rows);
    rows[i] = (Asthra__FFIRule){(uint32_t)param, ASTHRA_TRANSFER_NONE, false, NULL};
    rules->rows = rows;
    rules->count++;
    return &rows[i];
}

ASTHRA__FN AsthraResult asthra__ffi_set_rule(Asthra__FFIPlan *p, size_t param,
                                             const AsthraTransferSemantics *transfer,
                                             const struct AsthraTypeMarshaler *const *marshaler) {
    Asthra__FFIRules *rules = asthra__ffi_rules_of(p);
    Asthra__FFIRule *row = NULL;
    if (rules != NULL && param != ASTHRA_FFI_RETURN) row = asthra__ffi_row(p, param);
    if (rules == NULL || (row == NULL && param != ASTHRA_FFI_RETURN))
        return asthra_result_errorf(ASTHRA_OUT_OF_MEMORY, "asthra_ffi: no memory for a rule");
    bool is_moved = row != NULL && (transfer != NULL ? *transfer : row->transfer) != 0;
    if (is_moved && (marshaler != NULL ? *marshaler : row->marshaler) != NULL)
        return asthra_result_errorf(ASTHRA_INVALID,
                                    "asthra_ffi: parameter %zu is marshaled, so C gets a copy, "
                                    "which cannot be handed over",
                                    param);
    if (transfer != NULL) *(row != NULL ? &row->transfer : &rules->result_transfer) = *transfer;
    if (marshaler != NULL) *(row != NULL ? &row->marshaler : &rules->result_marshaler) = *marshaler;
    return asthra_result_ok(NULL);
}

ASTHRA__FN const AsthraFFIType *asthra__ffi_type_at(const Asthra__FFIPlan *p, size_t param) {
    if (param == ASTHRA_FFI_RETURN) return p->result;
    return asthra__ffi_places((Asthra__FFIPlan *)(uintptr_t)p)[param].type;
}

ASTHRA__FN AsthraResult asthra__ffi_expect(AsthraFFICall *c, size_t param, const char *who) {
    AsthraResult r = asthra_result_ok(NULL);
    if (c == NULL) return asthra_result_errorf(ASTHRA_INVALID, "%s: the call is NULL", who);
    if (!asthra__ffi_ensure(c, &r)) return r;
    const Asthra__FFIPlan *p = asthra__ffi_plan(c);
    if (param == ASTHRA_FFI_RETURN && p->result == NULL)
        return asthra_result_errorf(ASTHRA_INVALID, "%s: the call returns nothing", who);
    if (param != ASTHRA_FFI_RETURN && param >= p->parameters)
        return asthra_result_errorf(ASTHRA_INVALID, "%s: parameter %zu of %u", who, param,
                                    p->parameters);
    return r;
}

static bool asthra__ffi_is_pointer(const AsthraFFIType *t) {
    return t != NULL && t->kind == ASTHRA_FFI_PTR;
}

ASTHRA_RT_API AsthraResult asthra_ffi_set_transfer(AsthraFFICall *c, size_t param,
                                                   AsthraTransferSemantics how) {
    static const char who[] = "asthra_ffi_set_transfer";
    AsthraResult r = asthra__ffi_expect(c, param, who);
    if (r.status) return r;
    Asthra__FFIPlan *p = asthra__ffi_plan(c);
    if ((unsigned)how > ASTHRA_TRANSFER_CONTAINER)
        return asthra_result_errorf(ASTHRA_INVALID, "%s: %d is no AsthraTransferSemantics", who,
                                    (int)how);
    if (!asthra__ffi_is_pointer(asthra__ffi_type_at(p, param)))
        return asthra_result_errorf(ASTHRA_INVALID, "%s: it is no pointer", who);
    r = asthra__ffi_set_rule(p, param, &how, NULL);
    if (!r.status && param != ASTHRA_FFI_RETURN) asthra__ffi_find_row(p, param)->is_own = true;
    return r;
}

ASTHRA__FN AsthraResult asthra__ffi_set_marshaled(AsthraFFICall *c, size_t param,
                                                  const struct AsthraTypeMarshaler *m) {
    Asthra__FFIPlan *p = asthra__ffi_plan(c);
    AsthraTransferSemantics whole = ASTHRA_TRANSFER_NONE;
    const Asthra__FFIRule *row = asthra__ffi_find_row(p, param);
    bool is_own = param == ASTHRA_FFI_RETURN || (row != NULL && row->is_own);
    if (m == NULL && asthra__ffi_is_pointer(asthra__ffi_type_at(p, param))) whole = c->transfer;
    return asthra__ffi_set_rule(p, param, is_own ? NULL : &whole, &m);
}

ASTHRA_RT_API AsthraResult asthra_ffi_set_return_free(AsthraFFICall *c, void (*end)(void *)) {
    static const char who[] = "asthra_ffi_set_return_free";
    AsthraResult r = asthra__ffi_expect(c, ASTHRA_FFI_RETURN, who);
    if (r.status) return r;
    Asthra__FFIPlan *p = asthra__ffi_plan(c);
    if (!asthra__ffi_is_pointer(p->result))
        return asthra_result_errorf(ASTHRA_INVALID, "%s: the result is no pointer", who);
    r = asthra__ffi_set_rule(p, ASTHRA_FFI_RETURN, NULL, NULL);
    if (!r.status) p->rules->result_end = end;
    return r;
}

ASTHRA_RT_API AsthraResult asthra_ffi_set_error_rule(AsthraFFICall *c, AsthraFFIErrorRule rule) {
    static const char who[] = "asthra_ffi_set_error_rule";
    AsthraResult r = asthra__ffi_expect(c, ASTHRA_FFI_RETURN, who);
    if (rule == ASTHRA_FFI_ERROR_NEVER && c != NULL && asthra__ffi_ensure(c, &r)) {
        asthra__ffi_plan(c)->error_rule = (uint8_t)rule;
        return asthra_result_ok(NULL);
    }
    if (r.status) return r;
    AsthraFFIKind kind = (AsthraFFIKind)asthra__ffi_plan(c)->result_kind;
    bool is_number = kind >= ASTHRA_FFI_BOOL && kind <= ASTHRA_FFI_F64;
    bool is_good = rule == ASTHRA_FFI_ERROR_NEGATIVE ? is_number
                   : rule == ASTHRA_FFI_ERROR_NULL
                       ? kind == ASTHRA_FFI_PTR
                       : rule == ASTHRA_FFI_ERROR_NONZERO && (is_number || kind == ASTHRA_FFI_PTR);
    if (!is_good)
        return asthra_result_errorf(ASTHRA_INVALID, "%s: rule %d does not go with what is returned",
                                    who, (int)rule);
    asthra__ffi_plan(c)->error_rule = (uint8_t)rule;
    return r;
}

/* ---- type descriptions ---- */

ASTHRA__FN AsthraResult asthra__ffi_describe(const AsthraTypeInfo *type, size_t param,
                                             const AsthraFFIType **out) {
    char where[32];
    Asthra__Text t = asthra__text_on(where, sizeof where);
    const struct AsthraTypeMarshaler *m = NULL;
    AsthraResult r = asthra_result_ok(NULL);
    if (type != NULL) r = asthra__marshal_for(type, param == ASTHRA_FFI_RETURN, &m);
    bool is_refused = r.status != ASTHRA_OK;
    if (!is_refused) {
        *out = m != NULL ? asthra__marshal_c_type(m) : asthra_ffi_type_of(type);
        if (*out != NULL) return r;
        r = asthra_last_error();
    }
    if (r.status == ASTHRA_OUT_OF_MEMORY) return r;
    if (param == ASTHRA_FFI_RETURN)
        asthra__text_add(&t, "return");
    else
        asthra__text_format(&t, "parameter %zu", param);
    if (type == NULL)
        return asthra_result_errorf(ASTHRA_INVALID, "asthra_ffi_call: %s has no type: NULL", where);
    if (is_refused)
        return asthra_result_errorf(ASTHRA_INVALID, "asthra_ffi_call: %s: %s", where,
                                    asthra_result_message(r));
    return asthra_result_errorf(ASTHRA_INVALID,
                                "asthra_ffi_call: %s: type '%s' has no marshaler, and no C layout",
                                where, type->name != NULL ? type->name : "?");
}

/* What a type that has a marshaler is, of a parameter of a static call. */
static AsthraResult asthra__ffi_settle_one(AsthraFFICall *c, size_t param,
                                           const AsthraTypeInfo *type) {
    Asthra__FFIPlan *p = asthra__ffi_plan(c);
    const struct AsthraTypeMarshaler *m = NULL;
    if (type != NULL) ASTHRA_TRY(asthra__marshal_for(type, param == ASTHRA_FFI_RETURN, &m));
    bool moves = c->transfer != ASTHRA_TRANSFER_NONE && (m == NULL || param == ASTHRA_FFI_RETURN) &&
                 asthra__ffi_is_pointer(asthra__ffi_type_at(p, param));
    if (m == NULL && !moves) return asthra_result_ok(NULL);
    return asthra__ffi_set_rule(p, param, moves ? &c->transfer : NULL, m != NULL ? &m : NULL);
}

ASTHRA__FN AsthraResult asthra__ffi_settle(AsthraFFICall *c) {
    const Asthra__FFIPlan *p = asthra__ffi_plan(c);
    bool is_typed = c->signature == NULL;
    AsthraResult r = asthra_result_ok(NULL);
    if ((unsigned)c->transfer > ASTHRA_TRANSFER_CONTAINER)
        return asthra_result_errorf(ASTHRA_INVALID,
                                    "asthra_ffi_call: transfer is %d, no AsthraTransferSemantics",
                                    (int)c->transfer);
    if (p->result != NULL)
        r = asthra__ffi_settle_one(c, ASTHRA_FFI_RETURN, is_typed ? c->return_type : NULL);
    for (size_t i = 0; i < p->parameters && !r.status; i++)
        r = asthra__ffi_settle_one(c, i, is_typed ? c->param_types[i] : NULL);
    return r;
}

#endif
