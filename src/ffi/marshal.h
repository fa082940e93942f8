/* marshal - values on their way between the runtime and C.                  [marshal] contract
 *
 * A marshaler turns values of one type into what C wants, and back: a string becomes bytes with a
 * NUL, an optional one NULL or such bytes. A call whose parameter has a marshaler is given the
 * runtime's value and passes C's. What that took is given back when the call ends, newest first:
 * when it returns, when it fails, when a panic or a C++ exception passes.
 *
 * Calls that are made from type descriptions find marshalers by themselves. A type without one
 * passes as it is if its layout is C's, which a scalar's or pointer's is, and that of a type whose
 * field table says so.
 *
 * Built in: "string" and "string?", both ways.
 *
 * Threads: any. Blocks: never. Needs: ffi. Strip with: ASTHRA_RT_NO_MARSHAL.
 */
#ifndef ASTHRA__MARSHAL_H
#define ASTHRA__MARSHAL_H

#include "ffi.h"

#if ASTHRA_HAS_MARSHAL

/* Memory for one call's temporaries. */
typedef struct AsthraFFIArena AsthraFFIArena;

/* Functions may be NULL: without asthra_to_c values go no way to C, without c_to_asthra none back;
 * without a cleanup nothing is left to do. Each may run on any thread; they get `user`. */
typedef struct AsthraTypeMarshaler {
    const AsthraTypeInfo *asthra_type;
    const AsthraFFIType *c_type;
    AsthraResult (*asthra_to_c)(const void *value, void *c_out, AsthraFFIArena *a, void *user);
    AsthraResult (*c_to_asthra)(const void *c_value, void *out, void *user);
    void (*cleanup_c)(void *c_value, void *user);
    void (*cleanup_asthra)(void *value, void *user);
    void *user;
} AsthraTypeMarshaler;

/* `size` bytes, aligned as malloc aligns, until the call ends; NULL: out of memory. */
ASTHRA_RT_API void *asthra_ffi_arena_alloc(AsthraFFIArena *a, size_t size);

/* Marshals parameter `param`, or ASTHRA_FFI_RETURN, by m; NULL: no more. m must live as long as c.
 *
 * Returns   OK; ASTHRA_INVALID: no such parameter, c_type is not the parameter's type, or m has no
 *           function for that way. Threads: one, before the call is shared. */
ASTHRA_RT_API AsthraResult asthra_ffi_set_marshaler(AsthraFFICall *c, size_t param,
                                                    const AsthraTypeMarshaler *m);

/* Makes m the marshaler of its type, in place of an earlier or built-in one. Copied.
 * Returns   OK; ASTHRA_INVALID: it has no asthra_type or c_type, or no function. */
ASTHRA_RT_API AsthraResult asthra_marshaler_register(const AsthraTypeMarshaler *m);

/* Returns   the marshaler, which stays where it is for good; NULL: the type has none. */
ASTHRA_RT_API const AsthraTypeMarshaler *asthra_marshaler_find(const AsthraTypeInfo *t);
#define asthra_marshaler_string (*asthra_marshaler_find(&asthra_type_string))
#define asthra_marshaler_optional_string (*asthra_marshaler_find(&asthra_type_optional_string))

/* By hand: what C wants of a value, and back; NULL with the reason in asthra_last_error(). The
 * result is a block that holds the C value (a string: is the bytes themselves), or the runtime's;
 * the caller owns it and ends it by asthra_marshal_free with the same type. */
ASTHRA_RT_API void *asthra_marshal_to_c(void *value, const AsthraTypeInfo *type);
ASTHRA_RT_API void *asthra_marshal_to_asthra(void *c_value, const AsthraTypeInfo *type);
ASTHRA_RT_API void asthra_marshal_free(void *marshaled, const AsthraTypeInfo *type);

#endif
#endif
