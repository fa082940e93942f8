/* ffi_rules - temporary.                                               [ffi] body: rules */
#include "ffi_internal.h"

#if ASTHRA_HAS_FFI
ASTHRA__FN void asthra__ffi_forget_rules(Asthra__FFIPlan *p) {
    (void)p;
}
ASTHRA__FN AsthraResult asthra__ffi_describe(const AsthraTypeInfo *type, size_t param,
                                             const AsthraFFIType **out) {
    (void)type;
    (void)param;
    (void)out;
    return asthra__result_of(ASTHRA_INVALID);
}
ASTHRA__FN AsthraResult asthra__ffi_settle(AsthraFFICall *c) {
    (void)c;
    return asthra_result_ok(NULL);
}
#endif
