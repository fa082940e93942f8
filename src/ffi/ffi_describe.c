/* ffi_describe - type descriptions as descriptors.                     [ffi] body: descriptions
 *
 * Ready-made scalars are known by name and size. A type with a field table becomes a struct whose
 * fields lie where the table says, which they must do by C's rules, packed or not; a base is its
 * first field. Without fields and of its base's size, as enums are, it is what its base is. A
 * struct is made once, and kept in a list that only grows: there are as many as a program has
 * types.
 */
#include "ffi_internal.h"

#include "../core/type_internal.h"

#if ASTHRA_HAS_FFI

#include <string.h>

typedef struct Asthra__FFIKnown {
    struct Asthra__FFIKnown *next;
    const AsthraTypeInfo *info;
    AsthraFFIType type;
    const AsthraFFIType *fields[];
} Asthra__FFIKnown;

static struct {
    ASTHRA__ATOMIC(Asthra__FFIKnown *) known; /* newest first; entries are never removed */
} asthra__ffi_descriptions;

static const AsthraFFIType *asthra__ffi_scalar_of(const AsthraTypeInfo *t) {
    static const struct {
        const AsthraTypeInfo *info;
        const AsthraFFIType *type;
    } scalars[] = {
        {&asthra_type_bool, &asthra_ffi_type_bool}, {&asthra_type_i8, &asthra_ffi_type_s8},
        {&asthra_type_i16, &asthra_ffi_type_s16},   {&asthra_type_i32, &asthra_ffi_type_s32},
        {&asthra_type_i64, &asthra_ffi_type_s64},   {&asthra_type_u8, &asthra_ffi_type_u8},
        {&asthra_type_u16, &asthra_ffi_type_u16},   {&asthra_type_u32, &asthra_ffi_type_u32},
        {&asthra_type_u64, &asthra_ffi_type_u64},   {&asthra_type_f32, &asthra_ffi_type_f32},
        {&asthra_type_f64, &asthra_ffi_type_f64},   {&asthra_type_pointer, &asthra_ffi_type_ptr}};
    for (size_t i = 0; i < sizeof scalars / sizeof *scalars; i++)
        if (asthra__type_same(t, scalars[i].info)) return scalars[i].type;
    return NULL;
}

static const AsthraFFIType *asthra__ffi_find_known(const AsthraTypeInfo *t) {
    Asthra__FFIKnown *k = asthra__load(&asthra__ffi_descriptions.known, acquire);
    while (k != NULL && !(k->info == t || asthra__type_same(k->info, t))) k = k->next;
    return k != NULL ? &k->type : NULL;
}

static const AsthraFFIType *asthra__ffi_describe_at(const AsthraTypeInfo *t, unsigned depth);

static const AsthraFFIType *asthra__ffi_refuse_type(const AsthraTypeInfo *t, const char *why) {
    asthra__error_set(ASTHRA_INVALID, "type '%s' %s", t->name != NULL ? t->name : "?", why);
    return NULL;
}

/* Whether the fields lie where C would put them; there is room for offsets behind the list. */
static bool asthra__ffi_lies_well(Asthra__FFIKnown *k, const AsthraTypeInfo *t) {
    size_t *at = (size_t *)(void *)(k->fields + k->type.count), first = t->base != NULL;
    size_t size, align;
    if (asthra_ffi_layout(&k->type, &size, &align, at).status) return false;
    for (size_t i = 0; i < t->field_count; i++)
        if (at[first + i] != t->fields[i].offset) return false;
    return size == t->size;
}

static bool asthra__ffi_fill(Asthra__FFIKnown *k, const AsthraTypeInfo *t, unsigned depth) {
    size_t count = 0;
    if (t->base != NULL) k->fields[count++] = asthra__ffi_describe_at(t->base, depth);
    if (count > 0 && k->fields[0] == NULL) return false;
    for (size_t i = 0; i < t->field_count; i++) {
        if (t->fields[i].type == NULL) return asthra__ffi_refuse_type(t, "has a field of no type");
        k->fields[count] = asthra__ffi_describe_at(t->fields[i].type, depth);
        if (k->fields[count++] == NULL) return false;
    }
    k->info = t;
    k->type = (AsthraFFIType){ASTHRA_FFI_STRUCT, t->size, t->alignment, k->fields, count};
    if (t->alignment == 0) k->type.size = 0;
    if (asthra__ffi_lies_well(k, t)) return true;
    asthra__ffi_refuse_type(t, "has fields that do not lie as C would put them");
    return false;
}

/* Publishes what nobody else has published meanwhile. */
static const AsthraFFIType *asthra__ffi_publish(Asthra__FFIKnown *k) {
    k->next = asthra__load(&asthra__ffi_descriptions.known, acquire);
    while (!asthra__cas(&asthra__ffi_descriptions.known, &k->next, k, acq_rel)) {
    }
    return &k->type;
}

static const AsthraFFIType *asthra__ffi_describe_at(const AsthraTypeInfo *t, unsigned depth) {
    const AsthraFFIType *type = asthra__ffi_scalar_of(t);
    if (type == NULL) type = asthra__ffi_find_known(t);
    if (type != NULL) return type;
    size_t count = t->field_count + (t->base != NULL);
    if (depth > 64) return asthra__ffi_refuse_type(t, "contains itself, or nests deeper than 64");
    if (asthra__type_is_made(t, "?", sizeof(void *)) ||
        asthra__type_is_made(t, "[]", sizeof(AsthraSlice)))
        return asthra__ffi_refuse_type(t, "is made of another, which only marshaling understands");
    if (t->field_count == 0 && t->base != NULL && t->base->size == t->size)
        return asthra__ffi_describe_at(t->base, depth + 1);
    if (count == 0) return asthra__ffi_refuse_type(t, "has no field table, and is no scalar");
    Asthra__FFIKnown *k =
        asthra__alloc_zeroed(1, sizeof *k + count * (sizeof *k->fields + sizeof(size_t)));
    if (k == NULL) {
        asthra__error_set(ASTHRA_OUT_OF_MEMORY, "asthra_ffi_type_of: out of memory");
        return NULL;
    }
    if (asthra__ffi_fill(k, t, depth + 1)) return asthra__ffi_publish(k);
    asthra__free(k);
    return NULL;
}

ASTHRA_RT_API const AsthraFFIType *asthra_ffi_type_of(const AsthraTypeInfo *type) {
    if (type != NULL) return asthra__ffi_describe_at(type, 0);
    asthra__error_set(ASTHRA_INVALID, "asthra_ffi_type_of: the type is NULL");
    return NULL;
}

#endif
