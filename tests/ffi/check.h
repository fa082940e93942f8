/* check - what the programs that generate.c writes share: shapes of types, and what callees say.
 *
 * Nothing but the headers that a compiler brings along: callees and callers are also compiled for
 * processors whose libraries are not here. PREFIX.h comes first and says what is checked:
 *
 *     FFI_SEED     of the values
 *     FFI_MS       functions are __attribute__((ms_abi))
 *     FFI_DIRECT   callers call callees through C, and no runtime is needed
 */
#ifndef FFI_CHECK_H
#define FFI_CHECK_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef FFI_MS
#define FFI_ABI __attribute__((ms_abi))
#define FFI_LIST __builtin_ms_va_list
#define FFI_BEGIN __builtin_ms_va_start
#define FFI_END __builtin_ms_va_end
#else
#define FFI_ABI
#define FFI_LIST va_list
#define FFI_BEGIN va_start
#define FFI_END va_end
#endif

typedef void (*FfiFunction)(void);
/* Calls `function` with the values at v; the result goes to out, integers as int64_t. */
typedef void(FFI_ABI FfiCaller)(FfiFunction function, void *out, void *const *v);

/* What a type is made of. Only bytes of scalars are compared, whatever lies between them. */
typedef enum FfiForm { FFI_VOID, FFI_INT, FFI_BITS, FFI_REAL, FFI_COMPLEX, FFI_AGGREGATE } FfiForm;
typedef struct FfiShape FfiShape;
typedef struct FfiField {
    size_t offset, count;
    const FfiShape *shape;
} FfiField;
struct FfiShape {
    const char *name, *text;          /* text: of an aggregate, in C */
    const struct AsthraFFIType *type; /* NULL if FFI_DIRECT */
    FfiForm form;
    bool is_signed;
    size_t size, align, count;
    const FfiField *fields;
};
#define FFI_ALIGN(t)     \
    offsetof(            \
        struct {         \
            char before; \
            t one;       \
        },               \
        one)

typedef struct FfiSignature {
    const FfiShape *ret, *const *params;
    unsigned count, fixed;
} FfiSignature;

/* Of the generated units: one caller and one callee for each signature. */
extern const FfiFunction ffi_callees[];
extern FfiCaller *const ffi_callers[];

/* A callee says that it was entered, then what each parameter is (and loses it: what it was is
 * overwritten); an integer as its compiler widens it. Then it returns what is at ffi_result. */
extern const void *ffi_result;
void FFI_ABI ffi_enter(unsigned signature);
void FFI_ABI ffi_seen(unsigned param, void *value);
void FFI_ABI ffi_seen_int(unsigned param, int64_t value);

#define IN(k) ffi_seen(k, &p##k);
#define INT(k) ffi_seen_int(k, (int64_t)p##k);
/* Of sizes that are no part of a register's, ms_abi passes the address. gcc does when it calls, but
 * its va_arg knows that only on Windows. */
#ifdef FFI_MS
#define NEXT(k, t)                                                              \
    if (sizeof(t) == 1 || sizeof(t) == 2 || sizeof(t) == 4 || sizeof(t) == 8) { \
        t next = __builtin_va_arg(list, t);                                     \
        ffi_seen(k, &next);                                                     \
    } else                                                                      \
        ffi_seen(k, __builtin_va_arg(list, void *));
#else
#define NEXT(k, t)                          \
    {                                       \
        t next = __builtin_va_arg(list, t); \
        ffi_seen(k, &next);                 \
    }
#endif
#define V(t, k) (*(t *)v[k])

#endif
