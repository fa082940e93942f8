/* ffi_type - sizes, alignments and offsets.                                   [ffi] body: types
 *
 * A descriptor is data of the caller, and may be nonsense: everything is looked at once, when a
 * call is prepared, and trusted afterwards. A type that contains itself is found by its depth; one
 * whose fields are many by being the same again and again, by how many were looked at.
 */
#include "ffi_internal.h"

#if ASTHRA_HAS_FFI

#include <string.h>

enum { ASTHRA__FFI_DEPTH = 64, ASTHRA__FFI_FIELDS = 100000 };

/* As a member of a struct, which on i386 is not what the type has elsewhere. */
#define ASTHRA__FFI_SCALAR(T)          \
    {                                  \
        sizeof(T), offsetof(           \
                       struct {        \
                           char first; \
                           T member;   \
                       },              \
                       member)         \
    }

/* By kind; of what is no scalar, 0. */
static const Asthra__FFIShape asthra__ffi_scalars[] = {{0, 0},
                                                       ASTHRA__FFI_SCALAR(bool),
                                                       ASTHRA__FFI_SCALAR(int8_t),
                                                       ASTHRA__FFI_SCALAR(uint8_t),
                                                       ASTHRA__FFI_SCALAR(int16_t),
                                                       ASTHRA__FFI_SCALAR(uint16_t),
                                                       ASTHRA__FFI_SCALAR(int32_t),
                                                       ASTHRA__FFI_SCALAR(uint32_t),
                                                       ASTHRA__FFI_SCALAR(int64_t),
                                                       ASTHRA__FFI_SCALAR(uint64_t),
                                                       ASTHRA__FFI_SCALAR(float),
                                                       ASTHRA__FFI_SCALAR(double),
                                                       ASTHRA__FFI_SCALAR(long double),
                                                       ASTHRA__FFI_SCALAR(float _Complex),
                                                       ASTHRA__FFI_SCALAR(double _Complex),
                                                       ASTHRA__FFI_SCALAR(long double _Complex),
                                                       ASTHRA__FFI_SCALAR(void *),
                                                       {0, 0},
                                                       {0, 0},
                                                       {0, 0}};

ASTHRA__FN size_t asthra__ffi_size_of(AsthraFFIKind kind) {
    return asthra__ffi_scalars[kind].size;
}

ASTHRA__FN uint64_t asthra__ffi_widen(AsthraFFIKind kind, const void *value) {
    union {
        int8_t s8;
        uint8_t u8;
        int16_t s16;
        uint16_t u16;
        int32_t s32;
        uint32_t u32;
        uint64_t u64;
    } v;
    memcpy(&v, value, asthra__ffi_size_of(kind));
    switch (kind) {
    case ASTHRA_FFI_BOOL: return v.u8 != 0;
    case ASTHRA_FFI_S8: return (uint64_t)(int64_t)v.s8;
    case ASTHRA_FFI_U8: return v.u8;
    case ASTHRA_FFI_S16: return (uint64_t)(int64_t)v.s16;
    case ASTHRA_FFI_U16: return v.u16;
    case ASTHRA_FFI_S32: return (uint64_t)(int64_t)v.s32;
    case ASTHRA_FFI_U32: return v.u32;
    default: return sizeof(void *) == 4 && kind == ASTHRA_FFI_PTR ? v.u32 : v.u64;
    }
}

static size_t asthra__ffi_up(size_t n, size_t align) {
    return (n + align - 1) & ~(align - 1);
}

/* One look at a tree of descriptors. */
typedef struct Asthra__FFILook {
    size_t fields; /* so far */
    unsigned depth;
} Asthra__FFILook;

static const char *asthra__ffi_look(Asthra__FFILook *look, const AsthraFFIType *t,
                                    Asthra__FFIShape *out);

/* Of a block: what its fields come to, each where its alignment wants it, which is no stricter than
 * the block's own if that is given; and side by side. */
typedef struct Asthra__FFILaid {
    size_t align, end, packed_end;
} Asthra__FFILaid;

static size_t asthra__ffi_cap(const AsthraFFIType *t) {
    return t->size != 0 ? t->align : SIZE_MAX;
}

static const char *asthra__ffi_lay(Asthra__FFILook *look, const AsthraFFIType *t,
                                   Asthra__FFILaid *out) {
    const size_t cap = asthra__ffi_cap(t);
    size_t at = 0, packed = 0;
    *out = (Asthra__FFILaid){1, 0, 0};
    for (size_t i = 0; i < t->count; i++) {
        Asthra__FFIShape field;
        const char *wrong = asthra__ffi_look(look, t->fields[i], &field);
        if (wrong != NULL) return wrong;
        if (field.align > cap) field.align = cap;
        if (field.align > out->align) out->align = field.align;
        if (t->kind == ASTHRA_FFI_UNION) at = packed = 0;
        at = asthra__ffi_up(at, field.align) + field.size;
        packed += field.size;
        if (at > out->end) out->end = at;
        if (packed > out->packed_end) out->packed_end = packed;
        if (at > SIZE_MAX / 4) return "is larger than memory";
    }
    return NULL;
}

static const char *asthra__ffi_look_block(Asthra__FFILook *look, const AsthraFFIType *t,
                                          Asthra__FFIShape *out) {
    Asthra__FFILaid laid;
    if (t->count == 0) return "has no fields";
    if (t->fields == NULL) return "has fields that are NULL";
    const char *wrong = asthra__ffi_lay(look, t, &laid);
    if (wrong != NULL) return wrong;
    out->size = t->size != 0 ? t->size : asthra__ffi_up(laid.end, laid.align);
    out->align = t->size != 0 ? t->align : laid.align;
    return laid.packed_end > out->size ? "has fields that take more than its size" : NULL;
}

static const char *asthra__ffi_look_array(Asthra__FFILook *look, const AsthraFFIType *t,
                                          Asthra__FFIShape *out) {
    if (t->count == 0) return "is an array of no elements";
    if (t->fields == NULL) return "has fields that are NULL";
    const char *wrong = asthra__ffi_look(look, t->fields[0], out);
    if (wrong != NULL) return wrong;
    if (t->count > SIZE_MAX / 4 / out->size) return "is larger than memory";
    out->size *= t->count;
    return NULL;
}

static const char *asthra__ffi_look_inside(Asthra__FFILook *look, const AsthraFFIType *t,
                                           Asthra__FFIShape *out) {
    if (t->kind == ASTHRA_FFI_ARRAY) return asthra__ffi_look_array(look, t, out);
    if (asthra__ffi_is_block(t->kind)) return asthra__ffi_look_block(look, t, out);
    *out = asthra__ffi_scalars[t->kind];
    return NULL;
}

/* What is wrong with a descriptor before its fields are looked at. */
static const char *asthra__ffi_look_at(const AsthraFFIType *t, bool is_field) {
    if (t == NULL) return is_field ? "has a field that is NULL" : "is NULL";
    if ((unsigned)t->kind > ASTHRA_FFI_ARRAY) return "has a kind that does not exist";
    if (t->kind == ASTHRA_FFI_VOID) return is_field ? "has a field that is void" : "is void";
    if (t->size == 0) return NULL;
    if (t->align == 0 || (t->align & (t->align - 1)) != 0 || t->align > 65536)
        return "has an alignment that is no power of two, or above 65536";
    if (t->size % t->align != 0 && asthra__ffi_is_block(t->kind))
        return "has a size that is no multiple of its alignment";
    return NULL;
}

static const char *asthra__ffi_look(Asthra__FFILook *look, const AsthraFFIType *t,
                                    Asthra__FFIShape *out) {
    const char *wrong = asthra__ffi_look_at(t, look->depth > 0);
    if (wrong != NULL) return wrong;
    if (++look->fields > ASTHRA__FFI_FIELDS) return "has more than 100000 fields";
    if (++look->depth > ASTHRA__FFI_DEPTH) return "contains itself, or nests deeper than 64";
    wrong = asthra__ffi_look_inside(look, t, out);
    look->depth--;
    if (wrong != NULL || t->size == 0) return wrong;
    if (t->size != out->size) return "has a size that is not its kind's";
    out->align = t->align;
    return NULL;
}

ASTHRA__FN const char *asthra__ffi_measure(const AsthraFFIType *t, Asthra__FFIShape *out) {
    Asthra__FFILook look = {0, 0};
    if (t != NULL && (unsigned)t->kind <= ASTHRA_FFI_PTR && t->kind != ASTHRA_FFI_VOID &&
        t->size == 0) { /* most of them */
        *out = asthra__ffi_scalars[t->kind];
        return NULL;
    }
    if (t != NULL && t->kind == ASTHRA_FFI_ARRAY) return "is an array: pass a pointer, or a struct";
    return asthra__ffi_look(&look, t, out);
}

/* ---- fields ---- */

static bool asthra__ffi_elements(const AsthraFFIType *t, Asthra__FFIEach each, void *user) {
    Asthra__FFILook look = {0, 0};
    Asthra__FFIShape element;
    (void)asthra__ffi_look(&look, t->fields[0], &element);
    for (size_t i = 0; i < t->count; i++)
        if (!each(t->fields[0], i * element.size, user)) return false;
    return true;
}

ASTHRA__FN bool asthra__ffi_fields(const AsthraFFIType *t, Asthra__FFIEach each, void *user) {
    Asthra__FFILook look = {0, 0};
    Asthra__FFILaid laid;
    Asthra__FFIShape field;
    size_t cap = asthra__ffi_cap(t), at = 0;
    if (t->kind == ASTHRA_FFI_ARRAY) return asthra__ffi_elements(t, each, user);
    (void)asthra__ffi_lay(&look, t, &laid);
    if (t->size != 0 && laid.end > t->size) cap = 1; /* packed */
    for (size_t i = 0; i < t->count; i++) {
        look = (Asthra__FFILook){0, 0};
        (void)asthra__ffi_look(&look, t->fields[i], &field);
        if (field.align > cap) field.align = cap;
        at = t->kind == ASTHRA_FFI_UNION ? 0 : asthra__ffi_up(at, field.align);
        if (!each(t->fields[i], at, user)) return false;
        at += field.size;
    }
    return true;
}

/* ---- public ---- */

static bool asthra__ffi_note_offset(const AsthraFFIType *field, size_t at, void *next) {
    size_t **offset = next;
    (void)field;
    *(*offset)++ = at;
    return true;
}

ASTHRA_RT_API AsthraResult asthra_ffi_layout(const AsthraFFIType *t, size_t *size, size_t *align,
                                             size_t *offset) {
    Asthra__FFILook look = {0, 0};
    Asthra__FFIShape shape = {0, 0};
    const char *wrong = asthra__ffi_look(&look, t, &shape);
    if (wrong != NULL)
        return asthra_result_errorf(ASTHRA_INVALID, "asthra_ffi_layout: the type %s", wrong);
    if (offset != NULL && asthra__ffi_is_block(t->kind) && t->kind != ASTHRA_FFI_ARRAY)
        asthra__ffi_fields(t, asthra__ffi_note_offset, &offset);
    if (size != NULL) *size = shape.size;
    if (align != NULL) *align = shape.align;
    return asthra_result_ok(NULL);
}

#endif
