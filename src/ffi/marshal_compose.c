/* marshal_compose - structs, and types that are made of others.        [marshal] body: composed
 *
 * A struct of which a field needs marshaling is marshaled field by field, into a struct that C
 * would make of the fields' C types in their order. Where a field lies in our value the field table
 * says; bytes that no field covers do not travel. What no field needs is not composed: such a
 * struct passes as it is.
 *
 * Types contain themselves through pointers alone, so only those are followed late: what an
 * optional or a slice is made of is asked when a value of it comes by. How many pointers lie one
 * behind the other is counted on the way, since values, unlike types, may well run in circles.
 *
 * Cleanups of values inside values need no code here: each is a duty of the arena, noted when the
 * inner value was made, whatever happens to the outer one afterwards.
 */
#include "closure.h"
#include "marshal_internal.h"

#if ASTHRA_HAS_MARSHAL

#include <string.h>

/* Of what an optional or slice is made, if that passes as it is. */
static const AsthraTypeMarshaler asthra__marshal_none;

/* A type that passes as it is. */
static AsthraResult asthra__marshal_plain(const AsthraTypeInfo *t, const AsthraFFIType **c) {
    *c = asthra_ffi_type_of(t);
    if (*c != NULL) return asthra_result_ok(NULL);
    AsthraResult why = asthra_last_error();
    if (why.status == ASTHRA_OUT_OF_MEMORY) return why;
    return asthra__marshal_refuse(t, "has no marshaler, and no C layout");
}

/* Of a descriptor in which nothing is wrong. Measuring is quick, but knows no arrays. */
static Asthra__FFIShape asthra__marshal_shape(const AsthraFFIType *c) {
    Asthra__FFIShape shape = {0, 0};
    if (c->kind == ASTHRA_FFI_ARRAY)
        (void)asthra_ffi_layout(c, &shape.size, &shape.align, NULL);
    else
        (void)asthra__ffi_measure(c, &shape);
    return shape;
}

ASTHRA__FN AsthraResult asthra__marshal_see(const AsthraTypeInfo *t, const AsthraTypeMarshaler *m,
                                            const AsthraFFIType **c, size_t *size) {
    AsthraResult r = asthra_result_ok(NULL);
    if (m != NULL)
        *c = m->c_type;
    else
        r = asthra__marshal_plain(t, c);
    if (r.status) return r;
    Asthra__FFIShape shape = asthra__marshal_shape(*c);
    if (size != NULL) *size = shape.size;
    if (shape.align > ASTHRA__MAX_ALIGN || t->alignment > ASTHRA__MAX_ALIGN)
        return asthra__marshal_refuse(t, "is aligned more strictly than malloc aligns");
    return r;
}

/* ---- one value ---- */

ASTHRA__FN AsthraResult asthra__marshal_down(const AsthraTypeMarshaler *m, const void *value,
                                             void *c_out, AsthraFFIArena *a) {
    Asthra__FFIDuty *duty = NULL;
    if (m->asthra_to_c == NULL) return asthra__marshal_refuse(m->asthra_type, "goes no way to C");
    if (m->cleanup_c != NULL && (duty = asthra__ffi_arena_alloc(a, sizeof *duty)) == NULL)
        return asthra__marshal_no_memory();
    AsthraResult r = m->asthra_to_c(value, c_out, a, m->user);
    if (r.status || duty == NULL) return r;
    *duty = (Asthra__FFIDuty){a->duties, m->cleanup_c, c_out, m->user};
    a->duties = duty;
    return r;
}

/* ---- structs ---- */

static AsthraResult asthra__marshal_struct_to_c(const void *value, void *c_out, AsthraFFIArena *a,
                                                void *user) {
    const Asthra__MarshalEntry *e = user;
    AsthraResult r = asthra_result_ok(NULL);
    memset(c_out, 0, e->c_size);
    for (size_t i = 0; i < e->c.count && !r.status; i++) {
        const Asthra__MarshalField *f = &e->fields[i];
        const char *from = (const char *)value + f->here;
        char *to = (char *)c_out + e->there[i];
        if (f->m != NULL)
            r = asthra__marshal_down(f->m, from, to, a);
        else
            memcpy(to, from, f->size);
    }
    return r;
}

/* On the way back: what is made so far is ended if the rest is not made. */
typedef struct Asthra__MarshalBack {
    Asthra__FFIGuarded guarded;
    const Asthra__MarshalEntry *e;
    const void *c_value;
    void *out;
    size_t count; /* fields that are made, from the first on */
    unsigned depth;
    AsthraResult result;
} Asthra__MarshalBack;

static void asthra__marshal_struct_undo(Asthra__FFIGuarded *guarded) {
    Asthra__MarshalBack *b = ASTHRA__CONTAINER(Asthra__MarshalBack, guarded, guarded);
    while (b->count > 0) {
        const Asthra__MarshalField *f = &b->e->fields[--b->count];
        asthra__marshal_end(f->m, (char *)b->out + f->here);
    }
}

static void asthra__marshal_struct_fields(void *guarded) {
    Asthra__MarshalBack *b = ASTHRA__CONTAINER(Asthra__MarshalBack, guarded, guarded);
    for (; b->count < b->e->c.count && !b->result.status; b->count += !b->result.status) {
        const Asthra__MarshalField *f = &b->e->fields[b->count];
        const char *from = (const char *)b->c_value + b->e->there[b->count];
        char *to = (char *)b->out + f->here;
        if (f->m != NULL)
            b->result = asthra__marshal_up(f->m, from, to, b->depth);
        else
            memcpy(to, from, f->size);
    }
    if (b->result.status) asthra__ffi_leave_guarded(guarded);
}

static AsthraResult asthra__marshal_struct_up(const Asthra__MarshalEntry *e, const void *c_value,
                                              void *out, unsigned depth) {
    Asthra__MarshalBack b;
    b.guarded.leave = asthra__marshal_struct_undo;
    b.e = e;
    b.c_value = c_value;
    b.out = memset(out, 0, e->m.asthra_type->size);
    b.count = 0;
    b.depth = depth;
    b.result = asthra_result_ok(NULL);
    asthra__ffi_run_guarded(&b.guarded, asthra__marshal_struct_fields);
    return b.result;
}
static AsthraResult asthra__marshal_struct_back(const void *c_value, void *out, void *user) {
    return asthra__marshal_struct_up(user, c_value, out, 0);
}

static void asthra__marshal_struct_ends(void *guarded) {
    asthra__marshal_struct_undo(guarded);
}
static void asthra__marshal_struct_end(void *value, void *user) {
    Asthra__MarshalBack b;
    b.guarded.leave = asthra__marshal_struct_undo;
    b.e = user;
    b.out = value;
    b.count = b.e->c.count;
    asthra__ffi_run_guarded(&b.guarded, asthra__marshal_struct_ends);
}

/* ---- optionals and slices ---- */

/* What e is made of; *inner NULL: it passes as it is. */
static AsthraResult asthra__marshal_inner(Asthra__MarshalEntry *e,
                                          const AsthraTypeMarshaler **inner) {
    const AsthraTypeInfo *base = e->m.asthra_type->base;
    AsthraResult r = asthra_result_ok(NULL);
    const AsthraFFIType *c;
    *inner = asthra__load(&e->inner, acquire); /* stored below, with what it points to */
    if (*inner == NULL) {
        r = asthra__marshal_look(base, 0, inner);
        if (!r.status) r = asthra__marshal_see(base, *inner, &c, NULL);
        if (r.status) return r;
        if (*inner == NULL || asthra__marshal_is_plain(*inner)) *inner = &asthra__marshal_none;
        asthra__store(&e->inner, *inner, release);
    }
    if (*inner == &asthra__marshal_none) *inner = NULL;
    return r;
}

static AsthraResult asthra__marshal_too_deep(const AsthraTypeInfo *t) {
    return asthra__marshal_refuse(t, "leads through more than 128 pointers, or in a circle");
}

/* C's values of `count` of ours, and `more` zeroed ones behind; *out: the first. */
static AsthraResult asthra__marshal_elements(const AsthraTypeMarshaler *inner, const char *from,
                                             size_t count, size_t more, AsthraFFIArena *a,
                                             void **out) {
    AsthraResult r = asthra_result_ok(NULL);
    size_t size = asthra__marshal_c_shape(inner).size, step = inner->asthra_type->size;
    if (a->depth == ASTHRA__MARSHAL_DEPTH) return asthra__marshal_too_deep(inner->asthra_type);
    if (count > SIZE_MAX / 2 / size) return asthra__marshal_no_memory();
    char *to = asthra__ffi_arena_alloc(a, (count + more) * size);
    if (to == NULL) return asthra__marshal_no_memory();
    *out = to;
    a->depth++;
    for (size_t i = 0; i < count && !r.status; i++)
        r = asthra__marshal_down(inner, from + i * step, to + i * size, a);
    a->depth--;
    memset(to + count * size, 0, more * size);
    return r;
}

static AsthraResult asthra__marshal_optional_to_c(const void *value, void *c_out, AsthraFFIArena *a,
                                                  void *user) {
    const AsthraTypeMarshaler *inner;
    AsthraResult r = asthra__marshal_inner(user, &inner);
    void *there;
    memcpy(&there, value, sizeof there);
    if (!r.status && there != NULL && inner != NULL)
        r = asthra__marshal_elements(inner, there, 1, 0, a, &there);
    memcpy(c_out, &there, sizeof there);
    return r;
}

static AsthraResult asthra__marshal_slice_of_to_c(const void *value, void *c_out, AsthraFFIArena *a,
                                                  void *user) {
    Asthra__MarshalEntry *e = user;
    const AsthraTypeMarshaler *inner;
    AsthraSlice s;
    memcpy(&s, value, sizeof s);
    void *there = s.data;
    AsthraResult r = asthra__marshal_check_slice(&s, e->m.asthra_type->base->size);
    if (!r.status) r = asthra__marshal_inner(e, &inner);
    if (!r.status && inner != NULL)
        r = asthra__marshal_elements(inner, s.data, s.length, 1, a, &there);
    memcpy(c_out, &there, sizeof there);
    return r;
}

/* `out` is the block that shall hold the value, and c_value C's. */
static void asthra__marshal_optional_drop(Asthra__FFIGuarded *guarded) {
    Asthra__MarshalBack *b = ASTHRA__CONTAINER(Asthra__MarshalBack, guarded, guarded);
    asthra__free(b->out);
}

static void asthra__marshal_optional_value(void *guarded) {
    Asthra__MarshalBack *b = ASTHRA__CONTAINER(Asthra__MarshalBack, guarded, guarded);
    const AsthraTypeMarshaler *inner;
    b->result = asthra__marshal_inner((Asthra__MarshalEntry *)(uintptr_t)b->e, &inner);
    if (!b->result.status && inner != NULL)
        b->result = asthra__marshal_up(inner, b->c_value, b->out, b->depth + 1);
    else if (!b->result.status)
        memcpy(b->out, b->c_value, b->e->m.asthra_type->base->size);
    if (b->result.status) asthra__ffi_leave_guarded(guarded);
}

static AsthraResult asthra__marshal_optional_up(const Asthra__MarshalEntry *e, const void *c_value,
                                                void *out, unsigned depth) {
    const AsthraTypeInfo *base = e->m.asthra_type->base;
    Asthra__MarshalBack b;
    b.guarded.leave = asthra__marshal_optional_drop;
    b.e = e;
    b.out = NULL;
    b.depth = depth;
    b.result = asthra_result_ok(NULL);
    memcpy(&b.c_value, c_value, sizeof b.c_value);
    if (b.c_value != NULL) {
        if (depth == ASTHRA__MARSHAL_DEPTH) return asthra__marshal_too_deep(base);
        b.out = asthra__alloc(base->size);
        if (b.out == NULL) return asthra__marshal_no_memory();
        asthra__ffi_run_guarded(&b.guarded, asthra__marshal_optional_value);
    }
    if (!b.result.status) memcpy(out, &b.out, sizeof b.out);
    return b.result;
}
static AsthraResult asthra__marshal_optional_back(const void *c_value, void *out, void *user) {
    return asthra__marshal_optional_up(user, c_value, out, 0);
}

static void asthra__marshal_optional_end(void *value, void *user) {
    const AsthraTypeMarshaler *inner;
    void *here, *none = NULL;
    memcpy(&here, value, sizeof here);
    if (here == NULL) return;
    if (!asthra__marshal_inner(user, &inner).status) asthra__marshal_end(inner, here);
    asthra__free(here);
    memcpy(value, &none, sizeof none);
}

ASTHRA__FN AsthraResult asthra__marshal_up(const AsthraTypeMarshaler *m, const void *c_value,
                                           void *out, unsigned depth) {
    if (m->c_to_asthra == NULL) return asthra__marshal_refuse(m->asthra_type, "has no way back");
    if (m->c_to_asthra == asthra__marshal_struct_back)
        return asthra__marshal_struct_up(m->user, c_value, out, depth);
    if (m->c_to_asthra == asthra__marshal_optional_back)
        return asthra__marshal_optional_up(m->user, c_value, out, depth);
    return m->c_to_asthra(c_value, out, m->user);
}

ASTHRA__FN Asthra__FFIShape asthra__marshal_c_shape(const AsthraTypeMarshaler *m) {
    Asthra__FFIShape composed = {0, ASTHRA__MAX_ALIGN};
    if (m->asthra_to_c != asthra__marshal_struct_to_c) return asthra__marshal_shape(m->c_type);
    composed.size = ((const Asthra__MarshalEntry *)m->user)->c_size;
    return composed;
}

ASTHRA__FN const void *asthra__marshal_target(const AsthraTypeMarshaler *m, const void *value) {
    const void *there;
    if (m->asthra_to_c == asthra__marshal_slice_of_to_c) return ((const AsthraSlice *)value)->data;
    if (m->asthra_to_c != asthra__marshal_optional_to_c)
        return asthra__marshal_basic_target(m, value);
    memcpy(&there, value, sizeof there);
    return there;
}

/* ---- callbacks and enums ---- */

#if ASTHRA_HAS_CLOSURE
static void asthra__marshal_callback_end(void *closure, void *unused) {
    (void)unused;
    asthra_ffi_closure_destroy(closure);
}

static AsthraResult asthra__marshal_callback_bind(const AsthraClosure *ours, AsthraFFIArena *a,
                                                  const AsthraFFICall *signature, void **code) {
    AsthraFFIClosure *closure;
    Asthra__FFIDuty *duty = asthra__ffi_arena_alloc(a, sizeof *duty);
    if (duty == NULL) return asthra__marshal_no_memory();
    AsthraResult r = asthra_ffi_closure_create(
        &closure, code, signature, ASTHRA_FN_AS(AsthraFFIHandler, ours->code), ours->env);
    if (r.status) return r;
    *duty = (Asthra__FFIDuty){a->duties, asthra__marshal_callback_end, closure, NULL};
    a->duties = duty;
    return r;
}
#else
static AsthraResult asthra__marshal_callback_bind(const AsthraClosure *ours, AsthraFFIArena *a,
                                                  const AsthraFFICall *signature, void **code) {
    (void)ours, (void)a, (void)signature, (void)code;
    return asthra_result_err("a callback needs closure: take ASTHRA_RT_NO_CLOSURE back");
}
#endif

static AsthraResult asthra__marshal_callback_to_c(const void *value, void *c_out, AsthraFFIArena *a,
                                                  void *user) {
    const Asthra__MarshalEntry *e = user;
    AsthraResult r = asthra_result_ok(NULL);
    AsthraClosure ours;
    void *code = NULL;
    memcpy(&ours, value, sizeof ours);
    if (ours.code != NULL) r = asthra__marshal_callback_bind(&ours, a, e->signature, &code);
    memcpy(c_out, &code, sizeof code);
    return r;
}

static AsthraResult asthra__marshal_enum_back(const void *c_value, void *out, void *user) {
    const Asthra__MarshalEntry *e = user;
    memcpy(out, c_value, e->m.asthra_type->size);
    return asthra_result_ok(NULL);
}
static AsthraResult asthra__marshal_enum_to_c(const void *value, void *c_out, AsthraFFIArena *a,
                                              void *user) {
    (void)a;
    return asthra__marshal_enum_back(value, c_out, user);
}

ASTHRA__FN bool asthra__marshal_is_enum(const AsthraTypeMarshaler *m) {
    return m->asthra_to_c == asthra__marshal_enum_to_c;
}
ASTHRA__FN bool asthra__marshal_is_plain(const AsthraTypeMarshaler *m) {
    return asthra__marshal_is_enum(m) || asthra__marshal_is_bool(m);
}

/* ---- making them ---- */

static AsthraResult asthra__marshal_make_callback(Asthra__MarshalEntry *e) {
    const char *signature = e->m.asthra_type->name + sizeof "callback " - 1;
    AsthraFFICall *call = asthra__alloc(sizeof *call);
    if (call == NULL) return asthra__marshal_no_memory();
    AsthraResult r = asthra_ffi_signature(call, NULL, signature);
    if (r.status) asthra__free(call);
    e->signature = call;
    e->m.c_type = &asthra_ffi_type_ptr;
    e->m.asthra_to_c = asthra__marshal_callback_to_c;
    return r;
}

static void asthra__marshal_make_optional(Asthra__MarshalEntry *e) {
    e->m.c_type = &asthra_ffi_type_ptr;
    e->m.asthra_to_c = asthra__marshal_optional_to_c;
    e->m.c_to_asthra = asthra__marshal_optional_back;
    e->m.cleanup_asthra = asthra__marshal_optional_end;
}

static void asthra__marshal_make_slice(Asthra__MarshalEntry *e) {
    e->m.c_type = &asthra_ffi_type_ptr;
    e->m.asthra_to_c = asthra__marshal_slice_of_to_c;
}

/* What is nothing but its base by another name. */
static AsthraResult asthra__marshal_make_alias(Asthra__MarshalEntry *e, unsigned depth) {
    const AsthraTypeInfo *t = e->m.asthra_type;
    const AsthraTypeMarshaler *m;
    const AsthraFFIType *c;
    AsthraResult r = asthra__marshal_look(t->base, depth, &m);
    if (r.status) return r;
    if (m != NULL) {
        e->m = *m;
        e->m.asthra_type = t;
        return r;
    }
    r = asthra__marshal_plain(t, &c);
    if (r.status) return r.status == ASTHRA_OUT_OF_MEMORY ? r : asthra_result_ok(NULL);
    if (asthra__ffi_is_block(c->kind)) return r;
    e->m.c_type = c;
    e->m.asthra_to_c = asthra__marshal_enum_to_c;
    e->m.c_to_asthra = asthra__marshal_enum_back;
    return r;
}

/* Field i of a type, of which a base is the first. */
static AsthraFieldInfo asthra__marshal_field(const AsthraTypeInfo *t, size_t i) {
    const AsthraFieldInfo base = {"base", 0, t->base};
    if (t->base == NULL) return t->fields[i];
    return i == 0 ? base : t->fields[i - 1];
}

/* Finds what the fields need. */
static AsthraResult asthra__marshal_look_at_fields(Asthra__MarshalEntry *e, unsigned depth,
                                                   bool *needs) {
    const AsthraTypeInfo *t = e->m.asthra_type;
    AsthraResult r = asthra_result_ok(NULL);
    for (size_t i = 0; i < e->c.count && !r.status; i++) {
        AsthraFieldInfo f = asthra__marshal_field(t, i);
        if (f.type == NULL || f.offset > t->size || f.type->size > t->size - f.offset)
            return asthra__marshal_refuse(t, "has a field of no type, or outside of it");
        e->fields[i].here = f.offset;
        e->fields[i].size = f.type->size;
        r = asthra__marshal_look(f.type, depth, &e->fields[i].m);
        if (!r.status && e->fields[i].m != NULL)
            *needs |= !asthra__marshal_is_plain(e->fields[i].m);
    }
    return r;
}

/* Lays C's struct out. */
static AsthraResult asthra__marshal_make_struct(Asthra__MarshalEntry *e) {
    const AsthraFFIType **types = (const AsthraFFIType **)(void *)(e->there + e->c.count);
    bool is_down = true, is_up = true;
    for (size_t i = 0; i < e->c.count; i++) {
        const AsthraTypeMarshaler *m = e->fields[i].m;
        AsthraResult r = asthra_result_ok(NULL);
        if (m == NULL)
            r = asthra__marshal_plain(asthra__marshal_field(e->m.asthra_type, i).type, &types[i]);
        else
            types[i] = m->c_type;
        if (r.status) return r;
        is_down &= m == NULL || m->asthra_to_c != NULL;
        is_up &= m == NULL || m->c_to_asthra != NULL;
    }
    e->c.kind = ASTHRA_FFI_STRUCT;
    e->c.fields = types;
    e->m.c_type = &e->c;
    if (is_down) e->m.asthra_to_c = asthra__marshal_struct_to_c;
    if (is_up) e->m.c_to_asthra = asthra__marshal_struct_back;
    e->m.cleanup_asthra = asthra__marshal_struct_end;
    return asthra_ffi_layout(&e->c, &e->c_size, NULL, e->there);
}

/* Makes of an entry what its type is, or leaves it without functions. */
static AsthraResult asthra__marshal_make(Asthra__MarshalEntry *e, unsigned depth) {
    const AsthraTypeInfo *t = e->m.asthra_type;
    bool needs = false;
    AsthraResult r = asthra_result_ok(NULL);
    if (t->base == NULL && t->field_count == 0) return asthra__marshal_make_callback(e);
    if (asthra__type_is_made(t, "?", sizeof(void *))) {
        asthra__marshal_make_optional(e);
    } else if (asthra__type_is_made(t, "[]", sizeof(AsthraSlice))) {
        asthra__marshal_make_slice(e);
    } else if (t->field_count == 0 && t->base->size == t->size) {
        r = asthra__marshal_make_alias(e, depth);
    } else {
        r = asthra__marshal_look_at_fields(e, depth, &needs);
        if (!r.status && needs) r = asthra__marshal_make_struct(e);
    }
    return r;
}

ASTHRA__FN AsthraResult asthra__marshal_compose(const AsthraTypeInfo *t, unsigned depth,
                                                uint32_t generation,
                                                const AsthraTypeMarshaler **out) {
    Asthra__MarshalEntry *e =
        asthra__marshal_entry(t, t->field_count + (t->base != NULL), generation);
    if (e == NULL) return asthra__marshal_no_memory();
    AsthraResult r = asthra__marshal_make(e, depth);
    if (r.status) {
        asthra__free(e);
        return r;
    }
    asthra__marshal_publish(e);
    *out = e->m.asthra_to_c != NULL || e->m.c_to_asthra != NULL ? &e->m : NULL;
    return r;
}

#endif
