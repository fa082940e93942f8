/* closure - functions made at run time, for C to call.                     [closure] contract
 *
 * A closure is an address that C calls as a function of any signature; the call arrives at a
 * handler with the addresses of its arguments, as asthra_ffi_invoke takes them. No memory is ever
 * writable and executable: the code is a page of prepared stubs, mapped as often as it is needed
 * from a file in memory; where the system allows none, 128 stubs of the program itself serve.
 *
 * A closure may be called on any thread, by several at once, and in forked children. What the
 * handler throws, as C++ does, passes through to the caller.
 *
 * Threads: any. Blocks: never. Strip with: ASTHRA_RT_NO_CLOSURE.
 */
#ifndef ASTHRA__CLOSURE_H
#define ASTHRA__CLOSURE_H

#include "ffi.h"

#if ASTHRA_HAS_CLOSURE

typedef struct AsthraFFIClosure AsthraFFIClosure;

/* Runs on the thread that called. args[i] is the address of the i-th argument, good until the
 * handler returns. ret takes the result, of exactly its type; NULL if there is none. */
typedef void (*AsthraFFIHandler)(const AsthraFFICall *sig, void *ret, void **args, void *user);

/* Makes a closure of a prepared signature; *code is its address, to be called as a function.
 *
 * Returns   OK; ASTHRA_INVALID: a NULL, or sig is not prepared and cannot be; ASTHRA_LIMIT: no file
 *           in memory can be had, and all stubs are taken; ASTHRA_OUT_OF_MEMORY.
 * Owns      sig must live as long as the closure; the caller owns *out.
 * Cost      some 50 ns; each 256 a mapping of 20 KiB (4 KiB pages; RISC-V: 128, 12 KiB).
 */
ASTHRA_RT_API AsthraResult asthra_ffi_closure_create(AsthraFFIClosure **out, void **code,
                                                     const AsthraFFICall *sig, AsthraFFIHandler fn,
                                                     void *user);

/* The same with a signature of its own, as asthra_ffi_signature reads it; NULL with the reason in
 * asthra_last_error(). */
ASTHRA_RT_API AsthraFFIClosure *asthra_ffi_closure_bind_signature(const char *text,
                                                                  AsthraFFIHandler fn, void *user);
ASTHRA_RT_API void *asthra_ffi_closure_function(const AsthraFFIClosure *closure);

/* Ends a closure, which nobody may be calling; NULL is allowed. A later call panics, as long as the
 * stub is not taken again. Ending one twice panics. */
ASTHRA_RT_API void asthra_ffi_closure_destroy(AsthraFFIClosure *closure);

#endif
#endif
