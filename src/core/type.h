/* type - what a value looks like in memory.                                [type] contract
 *
 * A type description is static data, initialised at compile time; a field that is left zero says
 * nothing, so {0} describes a value without pointers, fields or base. Collector, counting, foreign
 * calls and checks all read this one form. Two descriptions are the same type when they are the
 * same object, or when name, size and alignment agree: two shared objects may each hold a copy.
 *
 * Owns: everything is borrowed and must live as long as the values that it describes.
 * Strip with: ASTHRA_RT_NO_TYPE.
 */
#ifndef ASTHRA__TYPE_H
#define ASTHRA__TYPE_H

#include "../platform/compiler.h"

#if ASTHRA_HAS_TYPE

typedef struct AsthraTypeInfo AsthraTypeInfo;
typedef struct AsthraTracer AsthraTracer; /* what a trace function reports pointers to */

typedef struct AsthraFieldInfo {
    const char *name;
    size_t offset;
    const AsthraTypeInfo *type;
} AsthraFieldInfo;

typedef struct AsthraMethodInfo {
    const char *name;
    void *function; /* ASTHRA_FN(f) */
} AsthraMethodInfo;

struct AsthraTypeInfo {
    const char *name;
    size_t size, alignment;          /* alignment 0: as malloc aligns */
    const uint32_t *pointer_offsets; /* bytes, of every pointer inside one value */
    size_t pointer_count;
    void (*trace)(void *object, AsthraTracer *tracer); /* for what offsets cannot tell */
    void (*destroy)(void *object);
    const AsthraTypeInfo *base;
    const AsthraFieldInfo *fields;
    size_t field_count;
    const AsthraMethodInfo *methods;
    size_t method_count;
};

typedef struct AsthraString {
    size_t length; /* bytes; a NUL may follow but need not */
    const char *data;
} AsthraString;

typedef struct AsthraSlice {
    void *data;
    size_t length, element_size; /* length counts elements */
} AsthraSlice;

typedef struct AsthraClosure {
    void *code, *env;
} AsthraClosure;

/* Initialisers. ASTHRA_FIELD(Node, next, &Node_type) is one row of a field table. */
#define ASTHRA__OFFSET(T, f) (uint32_t) offsetof(T, f)
#define ASTHRA__TYPE(name, T, offsets, n) \
    { name, sizeof(T), ASTHRA__ALIGNOF(T), offsets, n, NULL, NULL, NULL, NULL, 0, NULL, 0 }
#define ASTHRA_FIELD(T, f, type) \
    { #f, offsetof(T, f), (type) }

/* ASTHRA_TYPE_POINTERS(Node, ASTHRA__OFFSET(Node, next), ...); defines Node_type, a type whose
 * pointers stand at these offsets. */
#define ASTHRA_TYPE_POINTERS(T, ...)                       \
    static const uint32_t T##__pointers[] = {__VA_ARGS__}; \
    ASTHRA__CONST AsthraTypeInfo T##_type =                \
        ASTHRA__TYPE(#T, T, T##__pointers, sizeof T##__pointers / sizeof *T##__pointers)

/* Types made of others. An enum is what its base is; an optional of "Node", called "Node?", is a
 * pointer to one or NULL; a slice of them, "Node[]", an AsthraSlice; a callback an AsthraClosure
 * whose code is an AsthraFFIHandler, called "callback " and the signature that C calls it by.
 *
 *     static const AsthraTypeInfo Color_type = ASTHRA_TYPE_ENUM(Color, &asthra_type_i32),
 *                                 maybe_node = ASTHRA_TYPE_OPTIONAL("Node", &Node_type),
 *                                 compare = ASTHRA_TYPE_CALLBACK("i(pp)"); */
#define ASTHRA__TYPE_OF(name, T, offsets, n, base) \
    { name, sizeof(T), ASTHRA__ALIGNOF(T), offsets, n, NULL, NULL, (base), NULL, 0, NULL, 0 }
#define ASTHRA_TYPE_ENUM(T, base) ASTHRA__TYPE_OF(#T, T, NULL, 0, base)
#define ASTHRA_TYPE_OPTIONAL(name, base) \
    ASTHRA__TYPE_OF(name "?", void *, asthra__word_at_0, 1, base)
#define ASTHRA_TYPE_SLICE(name, base) \
    ASTHRA__TYPE_OF(name "[]", AsthraSlice, asthra__word_at_0, 1, base)
#define ASTHRA_TYPE_CALLBACK(signature) \
    ASTHRA__TYPE_OF("callback " signature, AsthraClosure, asthra__closure_env, 1, NULL)

/* Ready-made types, &asthra_type_i32. Each unit has copies of its own, so that static data can name
 * them; addresses do not matter. */
ASTHRA__CONST uint32_t asthra__word_at_0[] = {0};
ASTHRA__CONST uint32_t asthra__closure_env[] = {ASTHRA__OFFSET(AsthraClosure, env)};
ASTHRA__CONST uint32_t asthra__string_data[] = {ASTHRA__OFFSET(AsthraString, data)};
#define ASTHRA__SCALAR(word, T) asthra_type_##word = ASTHRA__TYPE(#word, T, NULL, 0)
ASTHRA__CONST AsthraTypeInfo ASTHRA__SCALAR(bool, bool), ASTHRA__SCALAR(i8, int8_t),
    ASTHRA__SCALAR(i16, int16_t), ASTHRA__SCALAR(i32, int32_t), ASTHRA__SCALAR(i64, int64_t),
    ASTHRA__SCALAR(u8, uint8_t), ASTHRA__SCALAR(u16, uint16_t), ASTHRA__SCALAR(u32, uint32_t),
    ASTHRA__SCALAR(u64, uint64_t), ASTHRA__SCALAR(f32, float), ASTHRA__SCALAR(f64, double),
    asthra_type_pointer = ASTHRA__TYPE("pointer", void *, asthra__word_at_0, 1),
    asthra_type_string = ASTHRA__TYPE("string", AsthraString, asthra__string_data, 1),
    asthra_type_optional_string = ASTHRA__TYPE("string?", AsthraString *, asthra__word_at_0, 1),
    asthra_type_slice = ASTHRA__TYPE("slice", AsthraSlice, asthra__word_at_0, 1);

#endif
#endif
