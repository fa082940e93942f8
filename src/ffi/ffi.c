/* ffi - calls of C functions that nobody compiled for us.                          [ffi] body
 *
 * Preparing and invoking. What a call needs is known when its signature is: which register each
 * piece of each argument goes to, what lies where on the stack, how the result comes back. So it is
 * worked out once and written down as steps, addresses of hand-written pieces of machine code with
 * operands between them (ffi_<processor>.c). Invoking enters the first step; each loads what it
 * loads and jumps to the next. No step tests anything, and nothing is copied on the way: arguments
 * go from where the caller has them into their registers.
 *
 *     asthra_ffi_signature -> types -> asthra_ffi_prepare -> begin, add..., end -> words
 *     asthra_ffi_invoke    -> asthra__ffi_enter -> step -> step -> the function -> step -> return
 *
 * A plan lies inside its AsthraFFICall while it fits, which most do, and then preparing allocates
 * nothing and a call that is never released leaks nothing. Words hold addresses of code, sizes and
 * offsets, but none of the call itself: it may be moved.
 *
 * Invariants
 *  1  state is READY only if all else is written; it is stored with release and read with acquire.
 *  2  A static call prepares itself under the module's lock, which is held over a fork: a child
 *     finds it prepared or untouched.
 *  3  Descriptors are not looked at again after prepare, but for kinds of results.
 */
#include "ffi_internal.h"

#if ASTHRA_HAS_FFI

#include <string.h>

static struct {
    Asthra__Once setup;
    Asthra__Lock lock;
} asthra__ffi;

static void asthra__ffi_hold(void) {
    asthra__lock(&asthra__ffi.lock);
}
static void asthra__ffi_let_go(void) {
    asthra__unlock(&asthra__ffi.lock);
}
static void asthra__ffi_setup(void) {
    asthra__os_on_fork(asthra__ffi_hold, asthra__ffi_let_go, asthra__ffi_let_go);
}

ASTHRA__FN void asthra__ffi_lock(void) {
    asthra__once(&asthra__ffi.setup, asthra__ffi_setup);
    asthra__lock(&asthra__ffi.lock);
}

ASTHRA__FN void asthra__ffi_unlock(void) {
    asthra__unlock(&asthra__ffi.lock);
}

/* ---- building ---- */

/* More room, on the heap. */
ASTHRA__COLD static bool asthra__ffi_grow(Asthra__FFIBuilder *b, size_t room) {
    uintptr_t *words = asthra__realloc(b->is_heap ? b->words : NULL, room * sizeof *words);
    if (words == NULL) {
        b->is_out_of_memory = true;
        return false;
    }
    if (!b->is_heap) memcpy(words, b->words, b->count * sizeof *words);
    b->words = words;
    b->room = room;
    b->is_heap = true;
    return true;
}

ASTHRA__COLD ASTHRA__FN void asthra__ffi_emit_more(Asthra__FFIBuilder *b, uintptr_t word) {
    if (b->is_out_of_memory || !asthra__ffi_grow(b, b->room * 2)) return;
    b->words[b->count++] = word;
}

ASTHRA__FN size_t asthra__ffi_stack(Asthra__FFIBuilder *b, size_t size, size_t align) {
    size_t at = (b->stack + align - 1) & ~(align - 1);
    if (align > b->stack_align) b->stack_align = align;
    b->stack = at + size;
    return at;
}

/* A frame of arguments is one piece of a stack. */
#define ASTHRA__FFI_STACK_MOST ((size_t)1 << 28)

static const char *asthra__ffi_build_result(Asthra__FFIBuilder *b, const AsthraFFIType *result) {
    Asthra__FFIShape shape = {0, 1};
    if (result != NULL) {
        const char *wrong = asthra__ffi_measure(result, &shape);
        if (wrong != NULL) return wrong;
        if (shape.size > ASTHRA__FFI_STACK_MOST) return "is larger than a stack";
        b->plan->result_kind = (uint8_t)result->kind;
    }
    b->plan->result = result;
    b->plan->result_size = (uint32_t)shape.size;
    return asthra__ffi_begin(b, result, shape);
}

/* C widens these before a variadic function sees them. */
static bool asthra__ffi_is_promoted(AsthraFFIKind kind) {
    return (kind >= ASTHRA_FFI_BOOL && kind <= ASTHRA_FFI_U16) || kind == ASTHRA_FFI_F32;
}

static const char *asthra__ffi_build_parameter(Asthra__FFIBuilder *b, const AsthraFFIType *t,
                                               size_t i) {
    Asthra__FFIShape shape;
    Asthra__FFIPlace place = {t, 0, 0, ASTHRA__FFI_HERE, 0};
    const char *wrong = asthra__ffi_measure(t, &shape);
    if (wrong != NULL) return wrong;
    if (b->is_variadic && asthra__ffi_is_promoted(t->kind))
        return t->kind == ASTHRA_FFI_F32
                   ? "is variadic and unpromoted: C passes a float as double (f64)"
                   : "is variadic and unpromoted: C passes such an integer as int (s32)";
    if (shape.size > ASTHRA__FFI_STACK_MOST) return "is larger than a stack";
    wrong = asthra__ffi_add(b, t, shape, &place);
    if (wrong == NULL && b->stack + b->behind > ASTHRA__FFI_STACK_MOST)
        return "does not fit on a stack any more";
    if (place.how != ASTHRA__FFI_HERE) b->plan->is_plain = false;
    memcpy((Asthra__FFIPlace *)(void *)b->words + i, &place, sizeof place);
    return wrong;
}

/* *at: the parameter that is wrong, or ASTHRA_FFI_RETURN. */
static const char *asthra__ffi_build(Asthra__FFIBuilder *b, const Asthra__FFISignature *s,
                                     size_t *at) {
    *at = ASTHRA_FFI_RETURN;
    const char *wrong = asthra__ffi_build_result(b, s->result);
    for (size_t i = 0; i < s->nparams && wrong == NULL; i++) {
        *at = i;
        b->is_variadic = i >= s->nfixed;
        wrong = asthra__ffi_build_parameter(b, s->params[i], i);
    }
    if (wrong == NULL) asthra__ffi_end(b);
    return wrong;
}

ASTHRA__COLD static AsthraResult asthra__ffi_refuse(size_t at, const char *wrong) {
    if (at == ASTHRA_FFI_RETURN)
        return asthra_result_errorf(ASTHRA_INVALID, "asthra_ffi_prepare: return %s", wrong);
    return asthra_result_errorf(ASTHRA_INVALID, "asthra_ffi_prepare: parameter %zu %s", at, wrong);
}

static AsthraResult asthra__ffi_check(const Asthra__FFISignature *s, AsthraFFIAbi abi) {
    const char *wrong = NULL;
    if (s->nparams > ASTHRA__FFI_MOST)
        return asthra_result_errorf(ASTHRA_INVALID,
                                    "asthra_ffi_prepare: %zu parameters, at most %d", s->nparams,
                                    ASTHRA__FFI_MOST);
    if (s->nfixed > s->nparams)
        return asthra_result_errorf(ASTHRA_INVALID,
                                    "asthra_ffi_prepare: nfixed is %zu, of %zu parameters",
                                    s->nfixed, s->nparams);
    if (s->params == NULL && s->nparams != 0) wrong = "params is NULL";
    if (abi != ASTHRA_FFI_ABI_DEFAULT &&
        (!ASTHRA__CPU_X86_64 || (abi != ASTHRA_FFI_ABI_SYSV64 && abi != ASTHRA_FFI_ABI_WIN64)))
        wrong = "this processor does not have that ABI";
    if (wrong == NULL) return asthra_result_ok(NULL);
    return asthra_result_errorf(ASTHRA_INVALID, "asthra_ffi_prepare: %s", wrong);
}

ASTHRA__FN AsthraResult asthra__ffi_plan_for(Asthra__FFIPlan *p, AsthraFFIAbi abi,
                                             const Asthra__FFISignature *s) {
    Asthra__FFIBuilder b = {.plan = p, .words = p->words, .room = ASTHRA__FFI_INLINE, .abi = abi};
    size_t at, places = s->nparams * ASTHRA__FFI_PLACE_WORDS;
    AsthraResult r = asthra__ffi_check(s, abi);
    if (r.status) return r;
    if (places + s->nparams + 4 > b.room && !asthra__ffi_grow(&b, places + 3 * s->nparams + 8))
        return asthra__result_of(ASTHRA_OUT_OF_MEMORY);
    b.count = places;
    p->abi = (uint8_t)abi;
    p->parameters = (uint16_t)s->nparams;
    p->is_variadic = s->is_variadic;
    p->is_plain = true;
    const char *wrong = asthra__ffi_build(&b, s, &at);
    if (wrong == NULL && !b.is_out_of_memory) {
        if (b.is_heap) p->heap = b.words;
        return r;
    }
    if (b.is_heap) asthra__free(b.words);
    if (wrong != NULL) return asthra__ffi_refuse(at, wrong);
    return asthra_result_errorf(ASTHRA_OUT_OF_MEMORY, "asthra_ffi_prepare: out of memory");
}

/* ---- preparing ---- */

/* All but the words, which nobody reads before they are written. */
static void asthra__ffi_clear_plan(Asthra__FFIPlan *p) {
    memset(p, 0, offsetof(Asthra__FFIPlan, words));
}
static void asthra__ffi_clear(AsthraFFICall *c) {
    memset(c, 0, offsetof(AsthraFFICall, plan)); /* two, each of which is a few stores */
    asthra__ffi_clear_plan(asthra__ffi_plan(c));
}

/* The plan is filled, or r says why not. */
static AsthraResult asthra__ffi_prepared(AsthraFFICall *c, AsthraResult r) {
    if (r.status) {
        asthra__ffi_clear(c);
        asthra__store(&asthra__ffi_plan(c)->state, (uint32_t)ASTHRA__FFI_ENDED, relaxed);
        return r;
    }
    c->param_count = asthra__ffi_plan(c)->parameters;
    c->is_safe = true;
    asthra__store(&asthra__ffi_plan(c)->state, (uint32_t)ASTHRA__FFI_READY, release);
    return r;
}

ASTHRA_RT_API AsthraResult asthra_ffi_prepare_abi(AsthraFFICall *c, AsthraFFIAbi abi, void *fn,
                                                  const AsthraFFIType *ret,
                                                  const AsthraFFIType *const *params,
                                                  size_t nparams, size_t nfixed) {
    bool is_void = ret == NULL || ret->kind == ASTHRA_FFI_VOID;
    Asthra__FFISignature s = {is_void ? NULL : ret, params, nparams, nfixed, nfixed < nparams};
    if (c == NULL)
        return asthra_result_errorf(ASTHRA_INVALID, "asthra_ffi_prepare: the call is NULL");
    asthra__ffi_clear(c);
    c->function_ptr = fn;
    return asthra__ffi_prepared(c, asthra__ffi_plan_for(asthra__ffi_plan(c), abi, &s));
}

ASTHRA_RT_API AsthraResult asthra_ffi_prepare(AsthraFFICall *c, void *fn, const AsthraFFIType *ret,
                                              const AsthraFFIType *const *params, size_t nparams,
                                              size_t nfixed) {
    return asthra_ffi_prepare_abi(c, ASTHRA_FFI_ABI_DEFAULT, fn, ret, params, nparams, nfixed);
}

ASTHRA_RT_API AsthraResult asthra_ffi_signature(AsthraFFICall *c, void *fn, const char *text) {
    if (c == NULL || text == NULL)
        return asthra_result_errorf(ASTHRA_INVALID, "asthra_ffi_signature: the %s is NULL",
                                    c == NULL ? "call" : "text");
    asthra__ffi_clear(c);
    c->function_ptr = fn;
    return asthra__ffi_prepared(c, asthra__ffi_plan_text(asthra__ffi_plan(c), text));
}

/* From the fields of type descriptions. */
static AsthraResult asthra__ffi_plan_types(const AsthraFFICall *c) {
    const AsthraFFIType *few[16], **params = few;
    Asthra__FFISignature s = {NULL, NULL, c->param_count, c->param_count, false};
    if (c->param_count > ASTHRA__FFI_MOST || (c->param_count > 0 && c->param_types == NULL))
        return asthra_result_errorf(ASTHRA_INVALID, "asthra_ffi_call: param_count is %zu%s",
                                    c->param_count,
                                    c->param_types == NULL ? ", param_types is NULL" : "");
    if (c->param_count > sizeof few / sizeof *few)
        params = asthra__alloc(c->param_count * sizeof *params);
    AsthraResult r = asthra__result_of(params != NULL ? ASTHRA_OK : ASTHRA_OUT_OF_MEMORY);
    s.params = params;
    if (!r.status && c->return_type != NULL)
        r = asthra__ffi_describe(c->return_type, ASTHRA_FFI_RETURN, &s.result);
    for (size_t i = 0; i < c->param_count && !r.status; i++)
        r = asthra__ffi_describe(c->param_types[i], i, &params[i]);
    if (!r.status) r = asthra__ffi_plan_for(asthra__ffi_plan(c), ASTHRA_FFI_ABI_DEFAULT, &s);
    if (params != few) asthra__free(params);
    return r;
}

/* Under the lock: nobody else writes the call. */
static AsthraResult asthra__ffi_prepare_static(AsthraFFICall *c) {
    Asthra__FFIPlan *p = asthra__ffi_plan(c);
    if (asthra__load(&p->state, relaxed) == ASTHRA__FFI_ENDED)
        return asthra_result_errorf(ASTHRA_INVALID, "asthra_ffi_call: the call is not prepared: it "
                                                    "could not be, or was released");
    AsthraResult r =
        c->signature != NULL ? asthra__ffi_plan_text(p, c->signature) : asthra__ffi_plan_types(c);
    if (!r.status) r = asthra__ffi_settle(c);
    if (r.status) {
        asthra__ffi_empty(p);
        return r;
    }
    if (c->signature != NULL) c->param_count = p->parameters;
    c->is_safe = true;
    p->is_static = true;
    asthra__store(&p->state, (uint32_t)ASTHRA__FFI_READY, release); /* acquired by users */
    return r;
}

ASTHRA__FN bool asthra__ffi_ensure(const AsthraFFICall *c, AsthraResult *why) {
    if (asthra__load(&asthra__ffi_plan(c)->state, acquire) == ASTHRA__FFI_READY) return true;
    asthra__ffi_lock();
    bool is_ready = asthra__load(&asthra__ffi_plan(c)->state, acquire) == ASTHRA__FFI_READY;
    if (!is_ready) *why = asthra__ffi_prepare_static((AsthraFFICall *)(uintptr_t)c);
    asthra__ffi_unlock();
    return is_ready || !why->status;
}

/* Frees what a plan has; it is zero then. */
ASTHRA__FN void asthra__ffi_empty(Asthra__FFIPlan *p) {
    asthra__ffi_forget_rules(p);
    asthra__free(p->types);
    asthra__free(p->heap);
    asthra__ffi_clear_plan(p);
}

ASTHRA_RT_API void asthra_ffi_release(AsthraFFICall *c) {
    if (c == NULL) return;
    Asthra__FFIPlan *p = asthra__ffi_plan(c);
    if (asthra__load(&p->state, acquire) != ASTHRA__FFI_READY) return;
    uint32_t next = p->is_static ? 0 : ASTHRA__FFI_ENDED;
    asthra__ffi_empty(p);
    asthra__store(&p->state, next, relaxed);
}

/* ---- invoking ---- */

static inline void asthra__ffi_run_plan(const AsthraFFICall *c, void *ret, void *const *args) {
    Asthra__FFIPlan *p = asthra__ffi_plan(c);
    asthra__ffi_enter(asthra__ffi_steps(p), ret, args, p->stack_bytes, c->function_ptr);
}

/* With a place for a result that nobody wants; a large one's is on the heap. */
typedef struct Asthra__FFIVain {
    Asthra__FFIGuarded guarded;
    const AsthraFFICall *call;
    void *const *args;
    void *result, *heap;
} Asthra__FFIVain;

static void asthra__ffi_leave_vain(Asthra__FFIGuarded *guarded) {
    asthra__free(ASTHRA__CONTAINER(Asthra__FFIVain, guarded, guarded)->heap);
}
static void asthra__ffi_run_vain(void *guarded) {
    const Asthra__FFIVain *v = ASTHRA__CONTAINER(Asthra__FFIVain, guarded, guarded);
    asthra__ffi_run_plan(v->call, v->result, v->args);
}

static void asthra__ffi_invoke_in_vain(const AsthraFFICall *c, void *const *args) {
    const Asthra__FFIPlan *p = asthra__ffi_plan(c);
    Asthra__FFIShape shape = {p->result_size, 1};
    Asthra__FFIVain v;
    if (p->result != NULL) (void)asthra__ffi_measure(p->result, &shape);
    size_t room = shape.size + shape.align;
    v.guarded.leave = asthra__ffi_leave_vain;
    v.call = c;
    v.args = args;
    v.heap = room > 4096 ? asthra__alloc_or_die(NULL, room) : NULL;
    char *space = v.heap != NULL ? v.heap : __builtin_alloca(room);
    v.result = space + (-(uintptr_t)space & (shape.align - 1));
    if (v.heap != NULL) {
        asthra__ffi_run_guarded(&v.guarded, asthra__ffi_run_vain);
        asthra__free(v.heap);
    } else {
        asthra__ffi_run_plan(c, v.result, args);
    }
}

/* A call that is not prepared, or has no function, or no place for the result. */
ASTHRA__COLD static void asthra__ffi_invoke_slowly(const AsthraFFICall *c, void *ret,
                                                   void *const *args) {
    AsthraResult why = asthra_result_ok(NULL);
    if (!asthra__ffi_ensure(c, &why))
        asthra_panic_at(NULL, "asthra_ffi_invoke: the call cannot be prepared: %s",
                        asthra_result_message(why));
    if (c->function_ptr == NULL)
        asthra_panic_at(NULL, "asthra_ffi_invoke: function_ptr is NULL: a bare signature");
    if (ret == NULL && asthra__ffi_plan(c)->result_size != 0)
        asthra__ffi_invoke_in_vain(c, args);
    else
        asthra__ffi_run_plan(c, ret, args);
}

ASTHRA_RT_API void asthra_ffi_invoke(const AsthraFFICall *c, void *ret, void *const *args) {
    Asthra__FFIPlan *p = asthra__ffi_plan(c);
    if (ASTHRA__UNLIKELY(asthra__load(&p->state, acquire) != ASTHRA__FFI_READY ||
                         c->function_ptr == NULL || (ret == NULL && p->result_size != 0)))
        asthra__ffi_invoke_slowly(c, ret, args);
    else
        asthra__ffi_run_plan(c, ret, args);
}

#endif
