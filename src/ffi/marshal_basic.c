/* marshal_basic - strings, bool and slices.                              [marshal] body: basic
 *
 * What C gets of a string is a copy in the call's arena, so that nothing is left to clean up; what
 * comes back is a copy on the heap. The length is the truth on our side and the NUL on C's: a
 * string that has one inside cannot be told to C, which would see the end there.
 */
#include "marshal_internal.h"

#if ASTHRA_HAS_MARSHAL

#include <string.h>

ASTHRA__COLD ASTHRA__FN AsthraResult asthra__marshal_no_memory(void) {
    return asthra_result_errorf(ASTHRA_OUT_OF_MEMORY, "marshal: out of memory");
}

ASTHRA__COLD ASTHRA__FN AsthraResult asthra__marshal_refuse(const AsthraTypeInfo *t,
                                                            const char *wrong) {
    return asthra_result_errorf(ASTHRA_INVALID, "type '%s' %s",
                                t != NULL && t->name != NULL ? t->name : "?", wrong);
}

/* ---- strings ---- */

static AsthraResult asthra__marshal_check_string(const AsthraString *s) {
    if (s == NULL || s->length == 0) return asthra_result_ok(NULL);
    if (s->data == NULL || s->length > PTRDIFF_MAX)
        return asthra_result_errorf(ASTHRA_INVALID, "a string of %zu bytes has no data", s->length);
    const char *nul = memchr(s->data, 0, s->length);
    if (nul == NULL) return asthra_result_ok(NULL);
    return asthra_result_errorf(ASTHRA_INVALID,
                                "a string of %zu bytes has a NUL at byte %zu, where it would end "
                                "for C",
                                s->length, (size_t)(nul - s->data));
}

/* C's form of what *s is, NULL included. */
static AsthraResult asthra__marshal_string_down(const AsthraString *s, void *c_out,
                                                AsthraFFIArena *a) {
    char *text = NULL;
    AsthraResult r = asthra__marshal_check_string(s);
    if (r.status) return r;
    if (s != NULL) {
        text = asthra__ffi_arena_alloc(a, s->length + 1);
        if (text == NULL) return asthra__marshal_no_memory();
        if (s->length > 0) memcpy(text, s->data, s->length);
        text[s->length] = 0;
    }
    memcpy(c_out, &text, sizeof text);
    return r;
}

static AsthraResult asthra__marshal_string_to_c(const void *value, void *c_out, AsthraFFIArena *a,
                                                void *user) {
    AsthraString s;
    (void)user;
    memcpy(&s, value, sizeof s);
    return asthra__marshal_string_down(&s, c_out, a);
}

static AsthraResult asthra__marshal_string_back(const void *c_value, void *out, void *user) {
    AsthraString s;
    const char *text;
    (void)user;
    memcpy(&text, c_value, sizeof text);
    if (text == NULL)
        return asthra_result_errorf(ASTHRA_INVALID, "C's string is NULL: use the type 'string?' "
                                                    "where it may be");
    s.length = strlen(text);
    char *copy = asthra__alloc(s.length + 1);
    if (copy == NULL) return asthra__marshal_no_memory();
    s.data = memcpy(copy, text, s.length + 1);
    memcpy(out, &s, sizeof s);
    return asthra_result_ok(NULL);
}

static void asthra__marshal_string_end(void *value, void *user) {
    AsthraString s;
    (void)user;
    memcpy(&s, value, sizeof s);
    asthra__free((void *)(uintptr_t)s.data);
    memset(value, 0, sizeof s);
}

static AsthraResult asthra__marshal_maybe_to_c(const void *value, void *c_out, AsthraFFIArena *a,
                                               void *user) {
    const AsthraString *s;
    (void)user;
    memcpy(&s, value, sizeof s);
    return asthra__marshal_string_down(s, c_out, a);
}

/* One block: the string, then its bytes. */
static AsthraResult asthra__marshal_maybe_back(const void *c_value, void *out, void *user) {
    AsthraString *s = NULL;
    const char *text;
    (void)user;
    memcpy(&text, c_value, sizeof text);
    if (text != NULL) {
        size_t length = strlen(text);
        s = asthra__alloc(sizeof *s + length + 1);
        if (s == NULL) return asthra__marshal_no_memory();
        s->length = length;
        s->data = memcpy(s + 1, text, length + 1);
    }
    memcpy(out, &s, sizeof s);
    return asthra_result_ok(NULL);
}

static void asthra__marshal_maybe_end(void *value, void *user) {
    void *s, *none = NULL;
    (void)user;
    memcpy(&s, value, sizeof s);
    asthra__free(s);
    memcpy(value, &none, sizeof none);
}

/* ---- bool ---- */

_Static_assert(sizeof(bool) == 1, "a bool is a byte");

static AsthraResult asthra__marshal_bool_to_c(const void *value, void *c_out, AsthraFFIArena *a,
                                              void *user) {
    (void)a, (void)user;
    *(unsigned char *)c_out = *(const unsigned char *)value != 0;
    return asthra_result_ok(NULL);
}
static AsthraResult asthra__marshal_bool_back(const void *c_value, void *out, void *user) {
    return asthra__marshal_bool_to_c(c_value, out, NULL, user);
}

/* ---- slices ---- */

ASTHRA__FN AsthraResult asthra__marshal_check_slice(const AsthraSlice *s, size_t element_size) {
    if (s->element_size == 0 || s->element_size != element_size)
        return asthra_result_errorf(ASTHRA_INVALID,
                                    "a slice has an element_size of %zu, expected %zu",
                                    s->element_size, element_size != 0 ? element_size : 1);
    if (s->data == NULL && s->length != 0)
        return asthra_result_errorf(ASTHRA_INVALID, "a slice of %zu elements has no data",
                                    s->length);
    return asthra_result_ok(NULL);
}

static AsthraResult asthra__marshal_slice_to_c(const void *value, void *c_out, AsthraFFIArena *a,
                                               void *user) {
    AsthraSlice s;
    (void)a, (void)user;
    memcpy(&s, value, sizeof s);
    memcpy(c_out, &s.data, sizeof s.data);
    return asthra__marshal_check_slice(&s, s.element_size);
}

/* ---- the table ---- */

static const AsthraTypeMarshaler asthra__marshal_basics[] = {
    {&asthra_type_string, &asthra_ffi_type_ptr, asthra__marshal_string_to_c,
     asthra__marshal_string_back, NULL, asthra__marshal_string_end, NULL},
    {&asthra_type_optional_string, &asthra_ffi_type_ptr, asthra__marshal_maybe_to_c,
     asthra__marshal_maybe_back, NULL, asthra__marshal_maybe_end, NULL},
    {&asthra_type_bool, &asthra_ffi_type_bool, asthra__marshal_bool_to_c, asthra__marshal_bool_back,
     NULL, NULL, NULL},
    {&asthra_type_slice, &asthra_ffi_type_ptr, asthra__marshal_slice_to_c, NULL, NULL, NULL, NULL}};

ASTHRA__FN const AsthraTypeMarshaler *asthra__marshal_basic(const AsthraTypeInfo *t) {
    if (t->name == NULL || (*t->name != 's' && *t->name != 'b')) return NULL; /* most of them */
    for (size_t i = 0; i < sizeof asthra__marshal_basics / sizeof *asthra__marshal_basics; i++)
        if (asthra__type_same(t, asthra__marshal_basics[i].asthra_type))
            return &asthra__marshal_basics[i];
    return NULL;
}

ASTHRA__FN bool asthra__marshal_is_string(const AsthraTypeMarshaler *m) {
    return m->asthra_to_c == asthra__marshal_string_to_c ||
           m->asthra_to_c == asthra__marshal_maybe_to_c;
}

ASTHRA__FN const void *asthra__marshal_basic_target(const AsthraTypeMarshaler *m,
                                                    const void *value) {
    const void *there = NULL;
    if (m->asthra_to_c == asthra__marshal_string_to_c) there = ((const AsthraString *)value)->data;
    if (m->asthra_to_c == asthra__marshal_slice_to_c) there = ((const AsthraSlice *)value)->data;
    if (m->asthra_to_c == asthra__marshal_maybe_to_c) memcpy(&there, value, sizeof there);
    return there;
}

ASTHRA__FN bool asthra__marshal_is_bool(const AsthraTypeMarshaler *m) {
    return m->asthra_to_c == asthra__marshal_bool_to_c;
}

ASTHRA__FN AsthraResult asthra__marshal_string_in(const AsthraTypeMarshaler *m, const void *value,
                                                  const AsthraString **s) {
    *s = value;
    if (m->asthra_to_c == asthra__marshal_maybe_to_c) memcpy(s, value, sizeof *s);
    return asthra__marshal_check_string(*s);
}

#endif
