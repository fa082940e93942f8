/* marshal - values on their way between the runtime and C.                    [marshal] body
 *
 * A list holds what is known of types, newest first; it only grows, so it is walked without a lock.
 * What was registered is in it for good, and the newest wins. What was composed for a type (see
 * marshal_compose.c) is there as well, and so is the knowledge that a type needs nothing. Since a
 * registration may change what a type of that type's is made of, these count only for the
 * generation of registrations that they were made in; another one composes anew. Nothing is ever
 * taken out: whoever found a marshaler may keep it.
 *
 * A registration happens under the floor's lock, under which static calls prepare themselves: what
 * they find for a type is one marshaler from beginning to end. Composing happens under no lock; two
 * threads may compose the same, and either is good.
 *
 *     a call      asthra__marshal_enter makes C's value in the arena of the passage (ffi_pass.c)
 *     by hand     the same in an arena of the block's own, which asthra_marshal_free ends
 *
 * Blocks made by hand have a head in front, sealed with their address. Strings, which are most of
 * them, are a head and the bytes.
 */
#include "marshal_internal.h"

#if ASTHRA_HAS_MARSHAL

#include <string.h>

static struct {
    ASTHRA__ATOMIC(Asthra__MarshalEntry *) entries; /* newest first */
    ASTHRA__ATOMIC(uint32_t) registrations;
} asthra__marshal;

/* ---- registry ---- */

ASTHRA__FN Asthra__MarshalEntry *asthra__marshal_entry(const AsthraTypeInfo *t, size_t fields,
                                                       uint32_t generation) {
    size_t each = sizeof(Asthra__MarshalField) + sizeof(size_t) + sizeof(AsthraFFIType *);
    Asthra__MarshalEntry *e = asthra__alloc_zeroed(1, sizeof *e + fields * each);
    if (e == NULL) return NULL;
    e->m.asthra_type = t;
    e->m.user = e;
    e->generation = generation;
    e->c.count = fields;
    e->there = (size_t *)(void *)(e->fields + fields);
    return e;
}

ASTHRA__FN void asthra__marshal_publish(Asthra__MarshalEntry *e) {
    e->next = asthra__load(&asthra__marshal.entries, relaxed);
    while (!asthra__cas(&asthra__marshal.entries, &e->next, e, release)) { /* acquired by look */
    }
}

/* Generation 0 is that of what was registered. */
static uint32_t asthra__marshal_generation(void) {
    return asthra__load(&asthra__marshal.registrations, acquire) + 1;
}

static bool asthra__marshal_is_callback(const AsthraTypeInfo *t) {
    return t->size == sizeof(AsthraClosure) && t->name != NULL &&
           strncmp(t->name, "callback ", sizeof "callback " - 1) == 0;
}

ASTHRA__FN AsthraResult asthra__marshal_look(const AsthraTypeInfo *t, unsigned depth,
                                             const AsthraTypeMarshaler **out) {
    const uint32_t now = asthra__marshal_generation(); /* before the list is */
    const Asthra__MarshalEntry *e = asthra__load(&asthra__marshal.entries, acquire);
    while (e != NULL && ((e->generation != 0 && e->generation != now) ||
                         !asthra__type_same(t, e->m.asthra_type)))
        e = e->next;
    *out = asthra__marshal_basic(t);
    if (e != NULL) *out = e->m.asthra_to_c != NULL || e->m.c_to_asthra != NULL ? &e->m : NULL;
    if (e != NULL || *out != NULL) return asthra_result_ok(NULL);
    if (t->field_count == 0 && t->base == NULL && !asthra__marshal_is_callback(t))
        return asthra_result_ok(NULL);
    if (depth > 64) return asthra__marshal_refuse(t, "contains itself, or nests deeper than 64");
    return asthra__marshal_compose(t, depth + 1, now, out);
}

ASTHRA_RT_API AsthraResult asthra_marshaler_register(const AsthraTypeMarshaler *m) {
    const char *missing = m == NULL                ? "marshaler"
                          : m->asthra_type == NULL ? "asthra_type"
                          : m->c_type == NULL      ? "c_type"
                          : m->asthra_to_c == NULL && m->c_to_asthra == NULL
                              ? "function for either way"
                              : NULL;
    if (missing != NULL)
        return asthra_result_errorf(ASTHRA_INVALID, "asthra_marshaler_register: there is no %s",
                                    missing);
    AsthraResult r = asthra_ffi_layout(m->c_type, NULL, NULL, NULL);
    if (r.status) return r;
    Asthra__MarshalEntry *e = asthra__marshal_entry(m->asthra_type, 0, 0);
    if (e == NULL) return asthra__marshal_no_memory();
    e->m = *m;
    asthra__ffi_lock();
    asthra__marshal_publish(e);
    asthra__add(&asthra__marshal.registrations, 1, release); /* who sees it sees the entry */
    asthra__ffi_unlock();
    return r;
}

ASTHRA_RT_API const AsthraTypeMarshaler *asthra_marshaler_find(const AsthraTypeInfo *t) {
    const AsthraTypeMarshaler *m = NULL;
    if (t == NULL)
        asthra__error_set(ASTHRA_INVALID, "asthra_marshaler_find: the type is NULL");
    else if (!asthra__marshal_look(t, 0, &m).status && m == NULL)
        asthra__marshal_refuse(t, "has no marshaler");
    return m;
}

/* ---- calls ---- */

ASTHRA__FN AsthraResult asthra__marshal_for(const AsthraTypeInfo *type, bool is_back,
                                            const AsthraTypeMarshaler **m) {
    AsthraResult r = asthra__marshal_look(type, 0, m);
    if (r.status || *m == NULL) return r;
    if (is_back ? (*m)->c_to_asthra == NULL : (*m)->asthra_to_c == NULL)
        return asthra__marshal_refuse(type, is_back ? "has no way back" : "goes no way to C");
    if (asthra__marshal_is_enum(*m)) *m = NULL;
    return r;
}

ASTHRA__FN const AsthraFFIType *asthra__marshal_c_type(const AsthraTypeMarshaler *m) {
    return m->c_type;
}

ASTHRA__FN AsthraResult asthra__marshal_enter(const AsthraTypeMarshaler *m, const void *value,
                                              void **c_value, AsthraFFIArena *a) {
    *c_value = asthra__ffi_arena_value(a, asthra__marshal_c_shape(m));
    if (*c_value == NULL) return asthra__marshal_no_memory();
    return asthra__marshal_down(m, value, *c_value, a);
}

ASTHRA__FN AsthraResult asthra__marshal_result(const AsthraTypeMarshaler *m, const void *c_value,
                                               void *out) {
    return asthra__marshal_up(m, c_value, out, 0);
}

ASTHRA__FN bool asthra__marshal_is_word(const AsthraTypeMarshaler *m) {
    const AsthraTypeInfo *t = m->asthra_type;
    return t != NULL && t->field_count == 0 && t->size <= sizeof(void *);
}

ASTHRA_RT_API void *asthra_ffi_arena_alloc(AsthraFFIArena *a, size_t size) {
    void *block = a != NULL ? asthra__ffi_arena_alloc(a, size) : NULL;
    if (a == NULL)
        asthra__error_set(ASTHRA_INVALID, "asthra_ffi_arena_alloc: the arena is NULL");
    else if (block == NULL)
        asthra__error_note(ASTHRA_OUT_OF_MEMORY);
    return block;
}

/* Two measured types that mean the same bytes in the same registers. */
static bool asthra__marshal_is_like(const AsthraFFIType *a, const AsthraFFIType *b) {
    size_t a_size, a_align, b_size, b_align;
    if (a == b) return true;
    if (a->kind != b->kind || asthra_ffi_layout(a, &a_size, &a_align, NULL).status ||
        asthra_ffi_layout(b, &b_size, &b_align, NULL).status || a_size != b_size ||
        a_align != b_align)
        return false;
    if (!asthra__ffi_is_block(a->kind)) return true;
    if (a->count != b->count) return false;
    for (size_t i = 0; i < (a->kind == ASTHRA_FFI_ARRAY ? 1 : a->count); i++)
        if (!asthra__marshal_is_like(a->fields[i], b->fields[i])) return false;
    return true;
}

ASTHRA_RT_API AsthraResult asthra_ffi_set_marshaler(AsthraFFICall *c, size_t param,
                                                    const AsthraTypeMarshaler *m) {
    static const char who[] = "asthra_ffi_set_marshaler";
    bool is_back = param == ASTHRA_FFI_RETURN;
    AsthraResult r = asthra__ffi_expect(c, param, who);
    if (r.status) return r;
    Asthra__FFIPlan *p = asthra__ffi_plan(c);
    if (m == NULL) return asthra__ffi_set_marshaled(c, param, NULL);
    if (is_back ? m->c_to_asthra == NULL : m->asthra_to_c == NULL)
        return asthra_result_errorf(ASTHRA_INVALID, "%s: %s is NULL", who,
                                    is_back ? "c_to_asthra" : "asthra_to_c");
    if (m->c_type == NULL || !asthra__marshal_is_like(m->c_type, asthra__ffi_type_at(p, param)))
        return asthra_result_errorf(ASTHRA_INVALID, "%s: c_type is not the type that is passed",
                                    who);
    return asthra__ffi_set_marshaled(c, param, m);
}

/* ---- by hand ---- */

typedef struct Asthra__MarshalHead { /* in front of each block */
    ASTHRA__ALIGNED(ASTHRA__MAX_ALIGN) uintptr_t seal;
    void *block;
    const AsthraTypeMarshaler *m; /* of a value of ours that it cleans up; NULL: none */
    AsthraFFIArena *arena;        /* of a value of C's; NULL: it needed none */
} Asthra__MarshalHead;

static uintptr_t asthra__marshal_seal(const void *value) {
    return (uintptr_t)value ^ (uintptr_t)UINT64_C(0x9d3f1c6ea57b2840);
}

/* Room for a value, with an arena if that is wanted; NULL: no memory. */
static void *asthra__marshal_block(size_t size, bool has_arena) {
    size_t front = sizeof(Asthra__MarshalHead) + (has_arena ? sizeof(AsthraFFIArena) : 0);
    if (size > SIZE_MAX / 2) return NULL;
    char *block = asthra__alloc(front + size);
    if (block == NULL) return NULL;
    Asthra__MarshalHead *h = (Asthra__MarshalHead *)(void *)(block + front) - 1;
    *h = (Asthra__MarshalHead){asthra__marshal_seal(h + 1), block, NULL, NULL};
    if (!has_arena) return h + 1;
    h->arena = (AsthraFFIArena *)(void *)block;
    asthra__ffi_arena_begin(h->arena);
    return h + 1;
}

static Asthra__MarshalHead *asthra__marshal_head(void *value) {
    Asthra__MarshalHead *h = (Asthra__MarshalHead *)((uintptr_t)value - sizeof *h);
    if ((uintptr_t)value % ASTHRA__MAX_ALIGN != 0 || h->seal != asthra__marshal_seal(value))
        asthra_panic_at(NULL,
                        "asthra_marshal_free: %p is no result of asthra_marshal_to_c or "
                        "asthra_marshal_to_asthra, or was freed before",
                        value);
    return h;
}

/* Ends a block, without a value of ours in it; also one that was left halfway. */
static void asthra__marshal_drop(Asthra__MarshalHead *h) {
    h->seal = 0;
    if (h->arena != NULL) asthra__ffi_arena_end(h->arena);
    asthra__free(h->block);
}

/* What is done with a block. */
typedef struct Asthra__MarshalDeed {
    Asthra__FFIGuarded guarded;
    Asthra__MarshalHead *head;
    const AsthraTypeMarshaler *m;
    const void *from;
    AsthraResult result;
} Asthra__MarshalDeed;

static void asthra__marshal_leave(Asthra__FFIGuarded *guarded) {
    Asthra__MarshalDeed *d = ASTHRA__CONTAINER(Asthra__MarshalDeed, guarded, guarded);
    asthra__marshal_drop(d->head);
}

static void asthra__marshal_fill(void *guarded) {
    Asthra__MarshalDeed *d = ASTHRA__CONTAINER(Asthra__MarshalDeed, guarded, guarded);
    d->result = d->head->arena != NULL
                    ? asthra__marshal_down(d->m, d->from, d->head + 1, d->head->arena)
                    : asthra__marshal_up(d->m, d->from, d->head + 1, 0);
    if (d->result.status) asthra__ffi_leave_guarded(guarded);
}

static void asthra__marshal_empty(void *guarded) {
    Asthra__MarshalDeed *d = ASTHRA__CONTAINER(Asthra__MarshalDeed, guarded, guarded);
    asthra__marshal_end(d->m, d->head + 1);
    asthra__marshal_drop(d->head);
}

static AsthraResult asthra__marshal_do(void (*deed)(void *), Asthra__MarshalHead *h,
                                       const AsthraTypeMarshaler *m, const void *from) {
    Asthra__MarshalDeed d;
    d.guarded.leave = asthra__marshal_leave;
    d.head = h;
    d.m = m;
    d.from = from;
    d.result = asthra_result_ok(NULL);
    asthra__ffi_run_guarded(&d.guarded, deed);
    return d.result;
}

/* NULL, with the reason in asthra_last_error(). */
ASTHRA__COLD static void *asthra__marshal_failed(const char *who, AsthraResult r) {
    asthra__error_set((AsthraStatus)r.status, "%s: %s", who, asthra_result_message(r));
    return NULL;
}

static const char asthra__marshal_down_name[] = "asthra_marshal_to_c",
                  asthra__marshal_up_name[] = "asthra_marshal_to_asthra";

static void *asthra__marshal_string(const AsthraTypeMarshaler *m, const void *value) {
    const AsthraString *s;
    AsthraResult r = asthra__marshal_string_in(m, value, &s);
    if (r.status) return asthra__marshal_failed(asthra__marshal_down_name, r);
    if (s == NULL) {
        asthra__error_clear();
        return NULL;
    }
    char *text = asthra__marshal_block(s->length + 1, false);
    if (text == NULL)
        return asthra__marshal_failed(asthra__marshal_down_name, asthra__marshal_no_memory());
    if (s->length > 0) memcpy(text, s->data, s->length);
    text[s->length] = 0;
    return text;
}

ASTHRA_RT_API void *asthra_marshal_to_c(void *value, const AsthraTypeInfo *type) {
    static const char *const who = asthra__marshal_down_name;
    const AsthraTypeMarshaler *m;
    const AsthraFFIType *c;
    size_t size;
    if (value == NULL || type == NULL)
        return asthra__marshal_failed(
            who, asthra__marshal_refuse(type, value == NULL ? "has no value: NULL" : "is NULL"));
    AsthraResult r = asthra__marshal_look(type, 0, &m);
    if (!r.status && m != NULL && asthra__marshal_is_string(m))
        return asthra__marshal_string(m, value);
    if (!r.status) r = asthra__marshal_see(type, m, &c, &size);
    if (r.status) return asthra__marshal_failed(who, r);
    void *made = asthra__marshal_block(size, m != NULL);
    if (made == NULL) return asthra__marshal_failed(who, asthra__marshal_no_memory());
    Asthra__MarshalHead *h = (Asthra__MarshalHead *)made - 1;
    if (m != NULL)
        r = asthra__marshal_do(asthra__marshal_fill, h, m, value);
    else
        memcpy(made, value, size);
    return r.status ? asthra__marshal_failed(who, r) : made;
}

ASTHRA_RT_API void *asthra_marshal_to_asthra(void *c_value, const AsthraTypeInfo *type) {
    static const char *const who = asthra__marshal_up_name;
    const AsthraTypeMarshaler *m = NULL;
    const AsthraFFIType *c;
    if (type == NULL) return asthra__marshal_failed(who, asthra__marshal_refuse(type, "is NULL"));
    AsthraResult r = asthra__marshal_look(type, 0, &m);
    const void *from = c_value;
    if (!r.status && m != NULL && asthra__marshal_is_string(m)) from = &c_value;
    if (!r.status && from == NULL) r = asthra__marshal_refuse(type, "has no value: NULL");
    if (!r.status && from == c_value) r = asthra__marshal_see(type, m, &c, NULL);
    if (r.status) return asthra__marshal_failed(who, r);
    void *made = asthra__marshal_block(type->size, false);
    if (made == NULL) return asthra__marshal_failed(who, asthra__marshal_no_memory());
    Asthra__MarshalHead *h = (Asthra__MarshalHead *)made - 1;
    h->m = m;
    if (m != NULL)
        r = asthra__marshal_do(asthra__marshal_fill, h, m, from);
    else
        memcpy(made, c_value, type->size);
    return r.status ? asthra__marshal_failed(who, r) : made;
}

ASTHRA_RT_API void asthra_marshal_free(void *marshaled, const AsthraTypeInfo *type) {
    (void)type;
    if (marshaled == NULL) return;
    Asthra__MarshalHead *h = asthra__marshal_head(marshaled);
    (void)asthra__marshal_do(asthra__marshal_empty, h, h->m, NULL);
}

#endif
