/* marshal - what its files share.                                         [marshal] internal */
#ifndef ASTHRA__MARSHAL_INTERNAL_H
#define ASTHRA__MARSHAL_INTERNAL_H

#include "../core/type_internal.h"
#include "ffi_internal.h"
#include "marshal.h"

#if ASTHRA_HAS_MARSHAL

enum { ASTHRA__MARSHAL_DEPTH = 128 }; /* of pointers, one behind the other, in a value */

/* Of a struct: where a field lies in our value and in C's. */
typedef struct Asthra__MarshalField {
    const AsthraTypeMarshaler *m; /* NULL: its bytes are copied */
    size_t here, size;
} Asthra__MarshalField;

/* One type in the registry. What is composed for the type is the user of its own marshaler. */
typedef struct Asthra__MarshalEntry {
    struct Asthra__MarshalEntry *next;
    AsthraTypeMarshaler m; /* without functions: values pass as they are */
    uint32_t generation;   /* that it was composed in; 0: registered, good for ever */
    /* An optional's or slice's: of what it is made of, once somebody asked. */
    ASTHRA__ATOMIC(const AsthraTypeMarshaler *) inner;
    const AsthraFFICall *signature; /* a callback's */
    AsthraFFIType c;                /* a struct's, and what lies where in C's value */
    size_t c_size, *there;
    Asthra__MarshalField fields[];
} Asthra__MarshalEntry;

/* ---- registry ---- */

/* The marshaler of a type, made if need be; *out NULL: it has none. depth: types inside types. */
ASTHRA__FN AsthraResult asthra__marshal_look(const AsthraTypeInfo *t, unsigned depth,
                                             const AsthraTypeMarshaler **out);
/* A zeroed entry with room for fields; NULL: no memory. And its place in the registry. */
ASTHRA__FN Asthra__MarshalEntry *asthra__marshal_entry(const AsthraTypeInfo *t, size_t fields,
                                                       uint32_t generation);
ASTHRA__FN void asthra__marshal_publish(Asthra__MarshalEntry *e);

/* ---- basic: strings, bool, slices; NULL: it is none of them ---- */

ASTHRA__FN const AsthraTypeMarshaler *asthra__marshal_basic(const AsthraTypeInfo *t);
/* Of a string's marshaler: the string in a value of its type, checked; *s NULL: it is NULL. */
ASTHRA__FN bool asthra__marshal_is_string(const AsthraTypeMarshaler *m);
ASTHRA__FN AsthraResult asthra__marshal_string_in(const AsthraTypeMarshaler *m, const void *value,
                                                  const AsthraString **s);
ASTHRA__FN const void *asthra__marshal_basic_target(const AsthraTypeMarshaler *m,
                                                    const void *value); /* see ffi_internal.h */
ASTHRA__FN bool asthra__marshal_is_bool(const AsthraTypeMarshaler *m);
/* Nothing is wrong with a slice of elements of that size. */
ASTHRA__FN AsthraResult asthra__marshal_check_slice(const AsthraSlice *s, size_t element_size);

/* ---- composed: what is made of others ---- */

ASTHRA__FN AsthraResult asthra__marshal_compose(const AsthraTypeInfo *t, unsigned depth,
                                                uint32_t generation,
                                                const AsthraTypeMarshaler **out);
/* C's values are the same bytes, as those of enums are; and nearly so, as those of bool. */
ASTHRA__FN bool asthra__marshal_is_enum(const AsthraTypeMarshaler *m);
ASTHRA__FN bool asthra__marshal_is_plain(const AsthraTypeMarshaler *m);
ASTHRA__FN Asthra__FFIShape
asthra__marshal_c_shape(const AsthraTypeMarshaler *m); /* of C's value */
/* What C sees of a type that has that marshaler, or NULL; *size: of C's value, unless NULL. Refuses
 * what is aligned more strictly than our blocks are. */
ASTHRA__FN AsthraResult asthra__marshal_see(const AsthraTypeInfo *t, const AsthraTypeMarshaler *m,
                                            const AsthraFFIType **c, size_t *size);
/* One value to C, its cleanup a duty of the arena; and one back. */
ASTHRA__FN AsthraResult asthra__marshal_down(const AsthraTypeMarshaler *m, const void *value,
                                             void *c_out, AsthraFFIArena *a);
ASTHRA__FN AsthraResult asthra__marshal_up(const AsthraTypeMarshaler *m, const void *c_value,
                                           void *out, unsigned depth);
static inline void asthra__marshal_end(const AsthraTypeMarshaler *m, void *value) {
    if (m != NULL && m->cleanup_asthra != NULL) m->cleanup_asthra(value, m->user);
}

/* ---- errors ---- */

ASTHRA__FN AsthraResult asthra__marshal_no_memory(void);
/* "type 'Node' " and what is wrong with it. */
ASTHRA__FN AsthraResult asthra__marshal_refuse(const AsthraTypeInfo *t, const char *wrong);

#endif
#endif
