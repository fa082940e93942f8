/* library - shared objects that are opened at run time.                     [library] contract
 *
 * Threads: any. Blocks: while the object is read, and in its constructors and destructors.
 * A static program has no loader: opening says so. Strip with: ASTHRA_RT_NO_LIBRARY.
 */
#ifndef ASTHRA__LIBRARY_H
#define ASTHRA__LIBRARY_H

#include "../core/result.h"

#if ASTHRA_HAS_LIBRARY

typedef struct AsthraFFILibrary AsthraFFILibrary;

/* Opens a shared object as dlopen does; path NULL: the program itself and what it is linked with.
 * Returns   OK; ASTHRA_FAILED: the loader's own message; ASTHRA_INVALID: out is NULL.
 * Owns      the caller, who closes *out; on failure it is NULL. */
ASTHRA_RT_API AsthraResult asthra_ffi_library_open(AsthraFFILibrary **out, const char *path);

/* Returns   OK and the address in *out, which is valid until the library is closed (NULL where that
 *           is the symbol's value); ASTHRA_FAILED: no such symbol; ASTHRA_INVALID: a NULL. */
ASTHRA_RT_API AsthraResult asthra_ffi_library_symbol(AsthraFFILibrary *l, const char *name,
                                                     void **out);

/* Returns   OK; ASTHRA_FAILED: the loader's message; ASTHRA_INVALID: l is NULL. */
ASTHRA_RT_API AsthraResult asthra_ffi_library_close(AsthraFFILibrary *l);

#endif
#endif
