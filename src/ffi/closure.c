/* closure - functions made at run time, for C to call.                       [closure] body
 *
 * Stubs come in sheets: a page of code, then a record for each stub. The code is written into a file
 * in memory, once, and mapped without the right to write; the records, which it reads, are private
 * memory without the right to execute. So no page ever has both, and a forked child that makes or
 * ends closures writes to records of its own. Where no such file can be had or mapped, there is one
 * sheet in the program: stubs by hand-written assembly, records where a pointer beside them says.
 *
 * Free records form a list under the floor's lock; sheets are never given back. A free record's
 * entry is a function that panics, so a call of a closure that has ended is told, until the stub is
 * taken again.
 *
 *     C code -> stub -> entry (assembly) -> enter -> handler
 */
#include "closure_internal.h"

#if ASTHRA_HAS_CLOSURE

#include <string.h>

static struct {
    AsthraFFIClosure *free; /* under the floor's lock, as all of this */
    bool is_fixed_used;
} asthra__closure;

ASTHRA_NORETURN static void asthra__closure_ended(void) {
    asthra_panic_at(NULL, "a closure was called that has ended");
}

/* ---- from stub to handler ---- */

/* An argument in two parts, put together. */
static void asthra__closure_gather(const Asthra__FFIPlace *place, const char *frame, char *whole) {
    memcpy(whole, frame + place->offset, sizeof(uint64_t));
    memcpy(whole + place->split, frame + place->second, sizeof(uint64_t));
}

enum { ASTHRA__CLOSURE_GATHERED = 16 };

/* How many arguments are in parts. */
static size_t asthra__closure_scattered(const Asthra__FFIPlace *places, size_t count) {
    size_t scattered = 0;
    for (size_t i = 0; i < count; i++) scattered += places[i].how == ASTHRA__FFI_SCATTERED;
    return scattered;
}

static unsigned asthra__closure_enter(AsthraFFIClosure *c, char *frame) {
    Asthra__FFIPlan *p = asthra__ffi_plan(c->sig);
    const Asthra__FFIPlace *places = asthra__ffi_places(p);
    size_t count = p->parameters;
    void **args = __builtin_alloca((count + 1) * sizeof *args);
    char *parts = NULL;
    for (size_t i = 0; i < count; i++) {
        const Asthra__FFIPlace *place = &places[i];
        args[i] = frame + place->offset;
        if (ASTHRA__LIKELY(place->how == ASTHRA__FFI_HERE)) continue;
        if (place->how == ASTHRA__FFI_POINTED) {
            memcpy(&args[i], frame + place->offset, sizeof args[i]);
            continue;
        }
        if (parts == NULL)
            parts = __builtin_alloca(asthra__closure_scattered(places, count) *
                                     ASTHRA__CLOSURE_GATHERED);
        asthra__closure_gather(place, frame, parts);
        args[i] = parts;
        parts += ASTHRA__CLOSURE_GATHERED;
    }
    args[count] = NULL;
    c->handler(c->sig, p->result_size != 0 ? asthra__closure_result(p, frame) : NULL, args,
               c->user);
    return asthra__closure_finish(p, frame);
}

/* ---- sheets ---- */

static void asthra__closure_put(AsthraFFIClosure *c, void *code) {
    c->entry = (void *)(uintptr_t)asthra__closure_ended;
    c->code = code;
    c->next = asthra__closure.free;
    asthra__closure.free = c;
}

/* A sheet of mapped stubs. */
static bool asthra__closure_map(void) {
    size_t page = asthra__os_page_size(), stubs = page / ASTHRA__CLOSURE_STUB;
    size_t records = (stubs * ASTHRA__CLOSURE_RECORD + page - 1) & ~(page - 1);
    char *sheet = asthra__os_map(page + records);
    if (sheet == NULL) return false;
    unsigned char *code = (unsigned char *)sheet; /* written here first, and then mapped over */
    for (size_t i = 0; i < stubs; i++)
        asthra__closure_write(code + i * ASTHRA__CLOSURE_STUB,
                              (uintptr_t)sheet + i * ASTHRA__CLOSURE_STUB,
                              (uintptr_t)sheet + page + i * ASTHRA__CLOSURE_RECORD);
    if (!asthra__os_map_code(sheet, page)) {
        asthra__os_unmap(sheet, page + records);
        return false;
    }
    for (size_t i = stubs; i-- > 0;)
        asthra__closure_put((AsthraFFIClosure *)(void *)(sheet + page) + i,
                            sheet + i * ASTHRA__CLOSURE_STUB);
    return true;
}

/* The program's own sheet, once. */
static AsthraStatus asthra__closure_use_fixed(void) {
    if (asthra__closure.is_fixed_used) return ASTHRA_LIMIT;
    AsthraFFIClosure *records = asthra__alloc_zeroed(ASTHRA__CLOSURE_FIXED, sizeof *records);
    if (records == NULL) return ASTHRA_OUT_OF_MEMORY;
    asthra__closure.is_fixed_used = true;
    asthra__closure_records = records;
    for (size_t i = ASTHRA__CLOSURE_FIXED; i-- > 0;)
        asthra__closure_put(&records[i],
                            (void *)((uintptr_t)asthra__closure_stubs + i * ASTHRA__CLOSURE_STUB));
    return ASTHRA_OK;
}

/* Under the lock. NULL: *why. */
static AsthraFFIClosure *asthra__closure_take(AsthraStatus *why) {
    if (asthra__closure.free == NULL && !asthra__closure_map()) *why = asthra__closure_use_fixed();
    AsthraFFIClosure *c = asthra__closure.free;
    if (c != NULL) asthra__closure.free = c->next;
    return c;
}

/* ---- public ---- */

ASTHRA__COLD static AsthraResult asthra__closure_refuse(AsthraStatus why) {
    if (why == ASTHRA_LIMIT)
        return asthra_result_errorf(
            ASTHRA_LIMIT,
            "asthra_ffi_closure_create: code cannot be mapped here, and all "
            "%d stubs of the program are taken",
            ASTHRA__CLOSURE_FIXED);
    return asthra_result_errorf(ASTHRA_OUT_OF_MEMORY, "asthra_ffi_closure_create: out of memory");
}

ASTHRA_RT_API AsthraResult asthra_ffi_closure_create(AsthraFFIClosure **out, void **code,
                                                     const AsthraFFICall *sig, AsthraFFIHandler fn,
                                                     void *user) {
    const char *missing = out == NULL    ? "out"
                          : code == NULL ? "code"
                          : sig == NULL  ? "the signature"
                          : fn == NULL   ? "the handler"
                                         : NULL;
    AsthraResult r = asthra_result_ok(NULL);
    AsthraStatus why = ASTHRA_OK;
    if (missing != NULL)
        return asthra_result_errorf(ASTHRA_INVALID, "asthra_ffi_closure_create: %s is NULL",
                                    missing);
    *out = NULL;
    *code = NULL;
    if (!asthra__ffi_ensure(sig, &r)) return r;
    asthra__ffi_lock();
    AsthraFFIClosure *c = asthra__closure_take(&why);
    asthra__ffi_unlock();
    if (c == NULL) return asthra__closure_refuse(why);
    c->sig = sig;
    c->handler = fn;
    c->user = user;
    c->own = NULL;
    c->enter = asthra__closure_enter;
    c->entry = asthra__closure_entry_of(asthra__ffi_plan(sig));
    *out = c;
    *code = c->code;
    return r;
}

ASTHRA_RT_API AsthraFFIClosure *asthra_ffi_closure_bind_signature(const char *text,
                                                                  AsthraFFIHandler fn, void *user) {
    AsthraFFIClosure *c;
    void *code;
    AsthraFFICall *sig = asthra__alloc(sizeof *sig);
    if (sig == NULL) {
        asthra__error_set(ASTHRA_OUT_OF_MEMORY, "asthra_ffi_closure_bind_signature: out of memory");
        return NULL;
    }
    AsthraResult r = asthra_ffi_signature(sig, NULL, text);
    if (!r.status) r = asthra_ffi_closure_create(&c, &code, sig, fn, user);
    if (!r.status) {
        c->own = sig;
        asthra__error_clear();
        return c;
    }
    asthra_ffi_release(sig);
    asthra__free(sig);
    return NULL;
}

ASTHRA_RT_API void *asthra_ffi_closure_function(const AsthraFFIClosure *closure) {
    return closure != NULL ? closure->code : NULL;
}

ASTHRA_RT_API void asthra_ffi_closure_destroy(AsthraFFIClosure *closure) {
    if (closure == NULL) return;
    if (closure->entry == (void *)(uintptr_t)asthra__closure_ended)
        asthra_panic_at(NULL, "asthra_ffi_closure_destroy: the closure has ended already");
    AsthraFFICall *own = closure->own;
    asthra__ffi_lock();
    asthra__closure_put(closure, closure->code);
    asthra__ffi_unlock();
    asthra_ffi_release(own);
    asthra__free(own);
}

#endif
