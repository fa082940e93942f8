/* closure - functions made at run time, for C to call.                       [closure] body
 *
 * Stubs come in sheets: a page of code, then a record for each stub. The code is written into a
 * file in memory, once, and mapped without the right to write; the records, which it reads, are
 * private memory without the right to execute. So no page ever has both, and a forked child that
 * makes or ends closures writes to records of its own. Where no such file can be had or mapped,
 * there is one sheet in the program: stubs by hand-written assembly, records where a pointer beside
 * them says.
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
    AsthraFFIClosure *free; /* this and the next under the floor's lock */
    bool is_fixed_used;
    Asthra__Once setup;
} asthra__closure;

ASTHRA_NORETURN static void asthra__closure_ended(void) {
    asthra_panic_at(NULL, "a closure was called that has ended");
}

/* ---- from stub to handler ---- */

/* Elements that are 16 bytes apart, moved together where they are. */
static void asthra__closure_close_up(const Asthra__FFIPlace *place, char *frame) {
    char *first = frame + place->offset; /* eight bytes of each, of which the next covers some */
    for (size_t i = 1; i < place->second; i++)
        memcpy(first + i * place->split, first + 16 * i, sizeof(uint64_t));
}

/* The address that is in the frame in place of an argument. */
static char *asthra__closure_pointed(const Asthra__FFIPlace *place, const char *frame) {
    char *at;
    memcpy(&at, frame + place->offset, sizeof at);
    return at;
}

/* Bytes that an argument needs when it cannot stay where it is. Of a copy that the caller has made
 * it shows now: some compilers align none more strictly than the stack. */
static size_t asthra__closure_room(const Asthra__FFIPlace *place, const char *frame) {
    Asthra__FFIShape shape;
    if (place->how == ASTHRA__FFI_SCATTERED)
        return (place->split + sizeof(uint64_t) + 15) & ~(size_t)15;
    if ((place->how & ASTHRA__FFI_MOVED) == 0) return 0;
    (void)asthra__ffi_measure(place->type, &shape);
    if (place->how == (ASTHRA__FFI_POINTED | ASTHRA__FFI_MOVED) &&
        ((uintptr_t)asthra__closure_pointed(place, frame) & (shape.align - 1)) == 0)
        return 0;
    return (shape.size + sizeof(uint64_t) + shape.align + 15) & ~(size_t)15;
}

static size_t asthra__closure_rooms(const Asthra__FFIPlace *places, size_t count,
                                    const char *frame) {
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) bytes += asthra__closure_room(&places[i], frame);
    return bytes;
}

/* An argument in two parts, or one that its type wants elsewhere, put together in a room of so many
 * bytes, which begins at a multiple of 16. */
static void *asthra__closure_gather(const Asthra__FFIPlace *place, char *frame, char *room,
                                    size_t bytes) {
    Asthra__FFIShape shape = {0, 1};
    unsigned how = place->how & ~(unsigned)ASTHRA__FFI_MOVED;
    char *from =
        how == ASTHRA__FFI_POINTED ? asthra__closure_pointed(place, frame) : frame + place->offset;
    if (bytes == 0) return from;
    if (how != place->how) (void)asthra__ffi_measure(place->type, &shape);
    room += -(uintptr_t)room & (shape.align - 1);
    if (how == ASTHRA__FFI_STRIDED) asthra__closure_close_up(place, frame);
    if (how != ASTHRA__FFI_SCATTERED) {
        memcpy(room, from, shape.size);
    } else {
        memcpy(room, from, sizeof(uint64_t));
        memcpy(room + place->split, frame + place->second, sizeof(uint64_t));
    }
    return room;
}

static uint64_t asthra__closure_enter(AsthraFFIClosure *c, char *frame) {
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
            args[i] = asthra__closure_pointed(place, frame);
        } else if (place->how == ASTHRA__FFI_STRIDED) {
            asthra__closure_close_up(place, frame);
        } else {
            size_t room = asthra__closure_room(place, frame);
            if (parts == NULL)
                parts = __builtin_alloca(asthra__closure_rooms(places, count, frame));
            args[i] = asthra__closure_gather(place, frame, parts, room);
            parts += room;
        }
    }
    args[count] = NULL;
    void *result = p->result_size != 0 ? asthra__closure_result(p, frame) : NULL;
    c->handler(c->sig, result, args, c->user);
    return asthra__closure_finish(p, frame);
}

/* The same for most closures: a few arguments, all of them in the frame. */
enum { ASTHRA__CLOSURE_FEW = 8 };

static inline void asthra__closure_plain_args(Asthra__FFIPlan *p, char *frame, void **args) {
    const Asthra__FFIPlace *places = asthra__ffi_places(p);
    size_t count = p->parameters;
    for (size_t i = 0; i < count; i++) args[i] = frame + places[i].offset;
    args[count] = NULL;
}

static uint64_t asthra__closure_enter_plain(AsthraFFIClosure *c, char *frame) {
    void *args[ASTHRA__CLOSURE_FEW + 1];
    Asthra__FFIPlan *p = asthra__ffi_plan(c->sig);
    asthra__closure_plain_args(p, frame, args);
    void *result = p->result_size != 0 ? asthra__closure_result(p, frame) : NULL;
    c->handler(c->sig, result, args, c->user);
    return asthra__closure_finish(p, frame);
}

/* And with a result that stays where the handler puts it. */
static uint64_t asthra__closure_enter_as_is(AsthraFFIClosure *c, char *frame) {
    void *args[ASTHRA__CLOSURE_FEW + 1];
    Asthra__FFIPlan *p = asthra__ffi_plan(c->sig);
    asthra__closure_plain_args(p, frame, args);
    c->handler(c->sig, asthra__closure_result(p, frame), args, c->user);
    return 0;
}

/* And with a word as the result, or nothing. */
static uint64_t asthra__closure_enter_word(AsthraFFIClosure *c, char *frame) {
    void *args[ASTHRA__CLOSURE_FEW + 1];
    Asthra__FFIPlan *p = asthra__ffi_plan(c->sig);
    uint64_t word = 0;
    asthra__closure_plain_args(p, frame, args);
    c->handler(c->sig, p->result_size != 0 ? &word : NULL, args, c->user);
    return p->result_kind == ASTHRA_FFI_S32
               ? (uint64_t)(int64_t)(int32_t)(uint32_t)word
               : asthra__ffi_widen((AsthraFFIKind)p->result_kind, &word);
}

/* How C's calls come in. */
static void asthra__closure_wire(AsthraFFIClosure *c, const Asthra__FFIPlan *p) {
    static const Asthra__ClosureEnter plain[] = {
        asthra__closure_enter_plain, asthra__closure_enter_as_is, asthra__closure_enter_word};
    bool is_plain = p->is_plain && p->parameters <= ASTHRA__CLOSURE_FEW;
    Asthra__ClosureResult how = ASTHRA__CLOSURE_FINISHED;
    c->entry = asthra__closure_entry_of(p, is_plain, &how);
    c->enter = is_plain ? plain[how] : asthra__closure_enter;
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

/* A thread keeps the one that it ended last, for the next that it makes. */
static void asthra__closure_give(AsthraFFIClosure *c) {
    c->entry = (void *)(uintptr_t)asthra__closure_ended;
    Asthra__Thread *t = asthra__thread();
    AsthraFFIClosure *before = t->closure;
    t->closure = c;
    if (before == NULL) return;
    asthra__ffi_lock();
    asthra__closure_put(before, before->code);
    asthra__ffi_unlock();
}

static void asthra__closure_detach(Asthra__Thread *t) {
    if (t->closure == NULL) return;
    asthra__ffi_lock();
    asthra__closure_put(t->closure, t->closure->code);
    asthra__ffi_unlock();
    t->closure = NULL;
}

static void asthra__closure_setup(void) {
    asthra__thread_on_detach(asthra__closure_detach);
}

/* NULL: *why. */
static AsthraFFIClosure *asthra__closure_take(AsthraStatus *why) {
    Asthra__Thread *t = asthra__thread();
    AsthraFFIClosure *c = t->closure;
    if (c != NULL) {
        t->closure = NULL;
        return c;
    }
    asthra__once(&asthra__closure.setup, asthra__closure_setup);
    asthra__ffi_lock();
    if (asthra__closure.free == NULL && !asthra__closure_map()) *why = asthra__closure_use_fixed();
    c = asthra__closure.free;
    if (c != NULL) asthra__closure.free = c->next;
    asthra__ffi_unlock();
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
    AsthraFFIClosure *c = asthra__closure_take(&why);
    if (c == NULL) return asthra__closure_refuse(why);
    c->sig = sig;
    c->handler = fn;
    c->user = user;
    c->own = NULL;
    asthra__closure_wire(c, asthra__ffi_plan(sig));
    *out = c;
    *code = c->code;
    return r;
}

ASTHRA_RT_API AsthraFFIClosure *asthra_ffi_closure_bind_signature(const char *text,
                                                                  AsthraFFIHandler fn, void *user) {
    AsthraFFIClosure *c;
    void *code;
    AsthraFFICall *sig = asthra__alloc_zeroed(1, sizeof *sig);
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
    asthra__closure_give(closure);
    if (own == NULL) return;
    asthra_ffi_release(own);
    asthra__free(own);
}

#endif
