/* marshal - values on their way between the runtime and C.                  [marshal] contract
 *
 * A marshaler turns values of one type into what C wants, and back: a string becomes bytes with a
 * NUL, an optional one NULL or such bytes. A call whose parameter has a marshaler is given the
 * runtime's value and passes C's. What that took is given back when the call ends, newest first:
 * when it returns, when it fails, when a panic or a C++ exception passes. So C must not keep it.
 *
 * Calls that are made from type descriptions find marshalers by themselves. A type without one
 * passes as it is if its layout is C's, which a scalar's or pointer's is, and that of a type whose
 * field table says so.
 *
 * Built in, by how the type is called:
 *
 *     "string"       AsthraString   a char * to a copy with a NUL behind. A NUL inside is an error,
 *                                   and so is NULL on the way back, which makes a copy of its own.
 *     "string?"      AsthraString * likewise, and NULL for NULL.
 *     "bool"         bool           a bool; whatever byte it was is 0 or 1 afterwards.
 *     enums          their base     that scalar: a type without fields, of its base's size, is what
 *                                   its base is, and has its base's marshaler if there is one.
 *     "slice"        AsthraSlice    a pointer to its elements themselves; of none, its `data` as it
 *                                   is. element_size must not be 0. No way back, for C tells no
 *                                   length.
 *     "T[]" of T     AsthraSlice    likewise; but if T needs marshaling, a pointer to C's values of
 *                                   the elements, and a zeroed one behind: of strings, an argv.
 *     "T?" of T      T *            NULL for NULL; else a pointer to the value itself, or if T
 *                                   needs marshaling to C's value of it. On the way back a copy.
 *     field tables   the struct     a struct of the fields' C values in the order of the table, the
 *                                   base first, as C lays it out. One without a field that needs
 *                                   marshaling has no marshaler.
 *     "callback SIG" AsthraClosure  a function pointer of the signature SIG, which calls the
 *                                   AsthraFFIHandler `code` with `env` as user; code NULL: NULL. It
 *                                   ends with the call. No way back. Needs: closure.
 *
 * In type.h there are initialisers of such types. bool and enums inside of others do not count as
 * what needs marshaling. A value may lead through 128 pointers one behind the other, of "T?" and
 * "T[]"; more, as in a circle, is an error. Unions and arrays inside structs have no field table,
 * and so no marshaler but a registered one.
 *
 * A result that is marshaled fits into an AsthraResult if its type has the size of a pointer, or
 * less, and no fields; else it needs asthra_ffi_call_into.
 *
 * What a marshaler says of an error is the result of the call, as it is. Type descriptions that
 * were asked about, and what a registered marshaler points to, must live for good.
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
 * without a cleanup nothing is left to do. Each may run on any thread; they get `user`.
 *
 * asthra_to_c fills *c_out, of c_type; cleanup_c gets the address of the same, once the call has
 * ended, and only if asthra_to_c had succeeded. One that panics leaves the others to be done, and
 * so does one that throws; while a panic passes, an exception takes its place. c_to_asthra fills
 * *out, a value of asthra_type, and takes back what it did if it fails. cleanup_asthra ends a value
 * that it made: of one that a call returned the caller asks for it, by
 * asthra_marshaler_find(type)->cleanup_asthra. */
typedef struct AsthraTypeMarshaler {
    const AsthraTypeInfo *asthra_type;
    const AsthraFFIType *c_type;
    AsthraResult (*asthra_to_c)(const void *value, void *c_out, AsthraFFIArena *a, void *user);
    AsthraResult (*c_to_asthra)(const void *c_value, void *out, void *user);
    void (*cleanup_c)(void *c_value, void *user);
    void (*cleanup_asthra)(void *value, void *user);
    void *user;
} AsthraTypeMarshaler;

/* `size` bytes, aligned as malloc aligns, until the call ends; NULL with the reason in
 * asthra_last_error(): out of memory, or a is NULL. */
ASTHRA_RT_API void *asthra_ffi_arena_alloc(AsthraFFIArena *a, size_t size);

/* Marshals parameter `param`, or ASTHRA_FFI_RETURN, by m; NULL: no more. m must live as long as c.
 *
 * Returns   OK; ASTHRA_INVALID: no such parameter; c_type is not the parameter's type in kind,
 *           size, alignment and fields; m has no function for that way; or the parameter is handed
 *           over (asthra_ffi_set_transfer), which a copy cannot be. A `transfer` of the whole call
 *           passes marshaled parameters by. Threads: one, before the call is shared. */
ASTHRA_RT_API AsthraResult asthra_ffi_set_marshaler(AsthraFFICall *c, size_t param,
                                                    const AsthraTypeMarshaler *m);

/* Makes m the marshaler of its type, in place of an earlier or built-in one, and inside of types
 * made of that one. Copied. Calls that are prepared keep what they have.
 * Returns   OK; ASTHRA_INVALID: it has no asthra_type or c_type, or no function for either way, or
 *           c_type makes no sense; ASTHRA_OUT_OF_MEMORY. */
ASTHRA_RT_API AsthraResult asthra_marshaler_register(const AsthraTypeMarshaler *m);

/* Returns   the marshaler, which stays where it is for good; NULL: the type has none, or cannot
 *           have one, or memory ran out; asthra_last_error() says which. */
ASTHRA_RT_API const AsthraTypeMarshaler *asthra_marshaler_find(const AsthraTypeInfo *t);
#define asthra_marshaler_string (*asthra_marshaler_find(&asthra_type_string))
#define asthra_marshaler_optional_string (*asthra_marshaler_find(&asthra_type_optional_string))

/* By hand: what C wants of a value, and back; NULL with the reason in asthra_last_error(). The
 * result is a block that holds the C value, or the runtime's; the caller owns it, with all that it
 * leads to, and ends it by asthra_marshal_free with the same type. Of a built-in string C's value
 * is the bytes themselves, both ways; NULL with no error is what a "string?" of NULL is for C. A
 * type without a marshaler is copied if its layout is C's.
 *
 * asthra_marshal_free panics over a pointer that is no such result, or was freed; NULL is allowed.
 * Cost      an allocation; of a string's way back two. */
ASTHRA_RT_API void *asthra_marshal_to_c(void *value, const AsthraTypeInfo *type);
ASTHRA_RT_API void *asthra_marshal_to_asthra(void *c_value, const AsthraTypeInfo *type);
ASTHRA_RT_API void asthra_marshal_free(void *marshaled, const AsthraTypeInfo *type);

#endif
#endif
