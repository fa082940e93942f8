/* shape - the words that tables of types are written in; for the driver unit, before its tables. */
#ifndef FFI_SHAPE_H
#define FFI_SHAPE_H

#ifdef FFI_DIRECT
#define TYPE(of) NULL
#else
#include "asthra_rt.h"
#define TYPE(of) of
/* An array in a list of fields. */
#define A(of, count)                                                      \
    &(const AsthraFFIType) {                                              \
        ASTHRA_FFI_ARRAY, 0, 0, (const AsthraFFIType *const[]){of}, count \
    }
#endif

#define SCALAR(word, form, name, is_signed, size, align)       \
    __attribute__((unused)) static const FfiShape S_##word = { \
        name, NULL, TYPE(&asthra_ffi_type_##word), FFI_##form, is_signed, size, align, 0, NULL};
#define COMPLEX(word, name, t, part)                                                               \
    static const FfiField F_##word[] = {{0, 2, &part}};                                            \
    __attribute__((unused)) static const FfiShape S_##word = {                                     \
        name, NULL,    TYPE(&asthra_ffi_type_##word), FFI_COMPLEX, false, sizeof(t), FFI_ALIGN(t), \
        1,    F_##word};

#endif
