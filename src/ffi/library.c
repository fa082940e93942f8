/* library - shared objects that are opened at run time.                    [library] body
 *
 * A library is the loader's own handle: nothing is allocated, and what the loader says of it is
 * passed on. Its message is asked for on the thread that failed, before anything can park it.
 *
 * The loader's functions are bound by weak names of this file: a static program, or one with an old
 * C library whose libdl it does not link, links quietly and is told at run time. Calls that the
 * host makes of the same functions in the same file stay what they are. dlopen is the one that
 * glibc's linker warns of in static programs, which may hold it for reasons of glibc's own; so
 * nobody names it here, and dlsym looks it up: a static program shows it no names.
 */
#include "library.h"

#include "../core/result_internal.h"
#include "../platform/compiler_internal.h"

#if ASTHRA_HAS_LIBRARY

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#ifdef RTLD_DEFAULT
#define ASTHRA__LIBRARY_ALL RTLD_DEFAULT
#else /* GNU's and musl's, which only some dialects show */
#define ASTHRA__LIBRARY_ALL NULL
#endif

#define ASTHRA__LIBRARY_WEAK(name) __attribute__((__weakref__(name)))
static void *asthra__library_dlsym(void *handle, const char *name) ASTHRA__LIBRARY_WEAK("dlsym");
static int asthra__library_dlclose(void *handle) ASTHRA__LIBRARY_WEAK("dlclose");
static char *asthra__library_dlerror(void) ASTHRA__LIBRARY_WEAK("dlerror");

typedef void *(*Asthra__LibraryOpen)(const char *path, int flags);

/* dlopen; NULL: this program has no loader. */
static Asthra__LibraryOpen asthra__library_loader(void) {
    if (!asthra__library_dlsym || !asthra__library_dlclose || !asthra__library_dlerror) return NULL;
    void *dlopen_found = asthra__library_dlsym(ASTHRA__LIBRARY_ALL, "dlopen");
    return ASTHRA_FN_AS(Asthra__LibraryOpen, dlopen_found);
}

/* `reason` may begin with the name again, which then is left out. */
ASTHRA__COLD static AsthraResult asthra__library_failed(const char *what, const char *name,
                                                        const char *reason) {
    size_t length = name ? strlen(name) : 0;
    if (!reason) reason = "the loader does not say why";
    if (!name) return asthra_result_errorf(ASTHRA_FAILED, "cannot %s: %s", what, reason);
    if (length && strncmp(reason, name, length) == 0 && strncmp(reason + length, ": ", 2) == 0)
        reason += length + 2;
    return asthra_result_errorf(ASTHRA_FAILED, "cannot %s \"%s\": %s", what, name, reason);
}

ASTHRA_RT_API AsthraResult asthra_ffi_library_open(AsthraFFILibrary **out, const char *path) {
    const char *what = path ? "open" : "open the program itself",
               *reason = "this program has no loader; link it without -static, and with -ldl "
                         "where the C library has one";
    int saved = errno;
    if (!out) return asthra_result_errorf(ASTHRA_INVALID, "asthra_ffi_library_open: out is NULL");
    *out = NULL;
    Asthra__LibraryOpen loader = asthra__library_loader();
    if (loader) {
        *out = loader(path, RTLD_NOW | RTLD_LOCAL);
        reason = *out ? NULL : asthra__library_dlerror();
    }
    AsthraResult r = asthra_result_ok(NULL);
    if (!*out) r = asthra__library_failed(what, path, reason);
    errno = saved;
    return r;
}

/* A symbol's value may be NULL: only a message tells that there is none. */
ASTHRA_RT_API AsthraResult asthra_ffi_library_symbol(AsthraFFILibrary *l, const char *name,
                                                     void **out) {
    int saved = errno;
    if (out) *out = NULL;
    const char *missing = !l ? "the library" : name ? "out" : "name";
    if (!l || !name || !out)
        return asthra_result_errorf(ASTHRA_INVALID, "asthra_ffi_library_symbol: %s is NULL",
                                    missing);
    (void)asthra__library_dlerror();
    *out = asthra__library_dlsym(l, name);
    const char *reason = *out ? NULL : asthra__library_dlerror();
    AsthraResult r = asthra_result_ok(NULL);
    if (reason) r = asthra__library_failed("find", name, reason);
    errno = saved;
    return r;
}

ASTHRA_RT_API AsthraResult asthra_ffi_library_close(AsthraFFILibrary *l) {
    int saved = errno;
    if (!l)
        return asthra_result_errorf(ASTHRA_INVALID,
                                    "asthra_ffi_library_close: the library is NULL");
    AsthraResult r = asthra_result_ok(NULL);
    if (asthra__library_dlclose(l) != 0)
        r = asthra__library_failed("close the library", NULL, asthra__library_dlerror());
    errno = saved;
    return r;
}

#endif
