/* alloc - a hook, and malloc behind it.                                    [alloc] body
 *
 * A block carries a head of 16 bytes that names its source, so it goes back to where it came from
 * whatever the hook is by then: channels and pools outlive a runtime, and begin before it. malloc
 * is no source; any other is a counted copy of the hook, in memory of that allocator itself. The
 * hook counts as one user and each block as one, and the last to go frees the copy.
 *
 * Who takes from a hook must count before the hook can change and its copy be freed, so both happen
 * under a lock. Without a hook there is no lock: one load says so. In a forked child no runtime is
 * running, so it has no hook; what it inherited still has its source.
 *
 * errno is left as it was: running out of memory is told by the result, and calls of the runtime
 * promise not to disturb it.
 */
#include "alloc_internal.h"

#if ASTHRA_HAS_CORE

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct Asthra__AllocSource {
    AsthraAllocator allocator;
    ASTHRA__ATOMIC(size_t) users; /* blocks, and the hook */
} Asthra__AllocSource;

typedef union Asthra__AllocHead { /* in front of each block */
    Asthra__AllocSource *source;  /* NULL: malloc */
    char room[16];
} Asthra__AllocHead;
_Static_assert(sizeof(Asthra__AllocHead) % ASTHRA__MAX_ALIGN == 0, "blocks stay aligned");

static struct {
    Asthra__Lock lock; /* of hook, and of the step from reading it to counting */
    Asthra__Once once;
    ASTHRA__ATOMIC(Asthra__AllocSource *) hook; /* NULL: malloc */
} asthra__alloc_state;

/* ---- sources ---- */

/* The hook with one more user; NULL: malloc serves. */
static Asthra__AllocSource *asthra__source_enter(void) {
    if (ASTHRA__LIKELY(!asthra__alloc_is_hooked())) return NULL;
    asthra__lock(&asthra__alloc_state.lock);
    Asthra__AllocSource *s = asthra__load(&asthra__alloc_state.hook, relaxed);
    if (s != NULL) asthra__add(&s->users, (size_t)1, relaxed);
    asthra__unlock(&asthra__alloc_state.lock);
    return s;
}

static void asthra__source_leave(Asthra__AllocSource *s) {
    if (asthra__sub(&s->users, (size_t)1, acq_rel) != 1) return;
    AsthraAllocator a = s->allocator;
    a.free(s, a.user);
}

static void *asthra__source_expect_aligned(void *given) {
    if (ASTHRA__LIKELY((uintptr_t)given % ASTHRA__MAX_ALIGN == 0)) return given;
    asthra_panic_at(NULL,
                    "Wrong block from the allocator of the configuration: expected an address that "
                    "is a multiple of %d, found %p",
                    (int)ASTHRA__MAX_ALIGN, given);
}

/* NULL: there is none; then the source has a user less. */
static Asthra__AllocHead *asthra__source_take(Asthra__AllocSource *s, size_t bytes) {
    void *given = s->allocator.alloc(bytes, s->allocator.user);
    if (given == NULL) asthra__source_leave(s);
    return asthra__source_expect_aligned(given);
}

static void asthra__alloc_fork_before(void) {
    asthra__lock(&asthra__alloc_state.lock);
}
static void asthra__alloc_fork_parent(void) {
    asthra__unlock(&asthra__alloc_state.lock);
}
static void asthra__alloc_fork_child(void) {
    asthra__store(&asthra__alloc_state.hook, (Asthra__AllocSource *)NULL, relaxed);
    asthra__unlock(&asthra__alloc_state.lock);
}
static void asthra__alloc_setup(void) {
    asthra__os_on_fork(asthra__alloc_fork_before, asthra__alloc_fork_parent,
                       asthra__alloc_fork_child);
}

/* NULL: the allocator gave no memory. */
static Asthra__AllocSource *asthra__source_make(const AsthraAllocator *from) {
    asthra__once(&asthra__alloc_state.once, asthra__alloc_setup);
    int saved = errno;
    Asthra__AllocSource *s = from->alloc(sizeof *s, from->user);
    errno = saved;
    if (asthra__source_expect_aligned(s) == NULL) return NULL;
    s->allocator = *from;
    asthra__store(&s->users, (size_t)1, relaxed);
    return s;
}

ASTHRA__FN bool asthra__alloc_set_hook(const AsthraAllocator *hook) {
    Asthra__AllocSource *fresh = NULL;
    ASTHRA__CHECK(!hook || (hook->alloc && hook->realloc && hook->free));
    if (hook != NULL && (fresh = asthra__source_make(hook)) == NULL) return false;
    asthra__lock(&asthra__alloc_state.lock);
    Asthra__AllocSource *old = asthra__load(&asthra__alloc_state.hook, relaxed);
    asthra__store(&asthra__alloc_state.hook, fresh, relaxed);
    asthra__unlock(&asthra__alloc_state.lock);
    if (old != NULL) asthra__source_leave(old);
    return true;
}

ASTHRA__FN bool asthra__alloc_is_hooked(void) {
    return asthra__load(&asthra__alloc_state.hook, relaxed) != NULL;
}

static void *asthra__alloc_for_others(size_t bytes, void *unused) {
    (void)unused;
    return asthra__alloc(bytes);
}
static void asthra__free_for_others(void *block, void *unused) {
    (void)unused;
    asthra__free(block);
}
ASTHRA__FN AsthraAllocator asthra__alloc_source(void) {
    AsthraAllocator a = {asthra__alloc_for_others, NULL, asthra__free_for_others, NULL};
    return a;
}

/* ---- blocks ---- */

static Asthra__AllocHead *asthra__head_of(void *block) {
    return (Asthra__AllocHead *)block - 1;
}

ASTHRA__FN void *asthra__alloc(size_t bytes) {
    if (bytes > SIZE_MAX - sizeof(Asthra__AllocHead)) return NULL;
    int saved = errno;
    size_t all = bytes + sizeof(Asthra__AllocHead);
    Asthra__AllocSource *s = asthra__source_enter();
    Asthra__AllocHead *head = s != NULL ? asthra__source_take(s, all) : malloc(all);
    errno = saved;
    if (head == NULL) return NULL;
    head->source = s;
    return head + 1;
}

ASTHRA__FN void *asthra__alloc_zeroed(size_t count, size_t bytes) {
    size_t all;
    if (__builtin_mul_overflow(count, bytes, &all)) return NULL;
    if (asthra__alloc_is_hooked() || all > SIZE_MAX - sizeof(Asthra__AllocHead)) {
        void *block = asthra__alloc(all);
        return block ? memset(block, 0, all) : NULL;
    }
    int saved = errno; /* fresh pages are zero already, and calloc knows */
    Asthra__AllocHead *head = calloc(1, all + sizeof *head);
    errno = saved;
    return head ? head + 1 : NULL;
}

ASTHRA__FN void *asthra__realloc(void *block, size_t bytes) {
    if (!block) return asthra__alloc(bytes);
    if (bytes > SIZE_MAX - sizeof(Asthra__AllocHead)) return NULL;
    int saved = errno;
    Asthra__AllocHead *head = asthra__head_of(block);
    const Asthra__AllocSource *s = head->source;
    bytes += sizeof *head;
    head = s != NULL ? s->allocator.realloc(head, bytes, s->allocator.user) : realloc(head, bytes);
    errno = saved;
    if (s != NULL) asthra__source_expect_aligned(head);
    return head ? head + 1 : NULL;
}

ASTHRA__FN void asthra__free(void *block) {
    if (!block) return;
    int saved = errno;
    Asthra__AllocHead *head = asthra__head_of(block);
    Asthra__AllocSource *s = head->source;
    if (s == NULL) {
        free(head);
    } else {
        s->allocator.free(head, s->allocator.user);
        asthra__source_leave(s);
    }
    errno = saved;
}

ASTHRA__FN void *asthra__alloc_or_die(void *block, size_t bytes) {
    void *moved = asthra__realloc(block, bytes);
    if (ASTHRA__LIKELY(moved != NULL)) return moved;
    asthra_panic_at(NULL,
                    "Out of memory: the runtime asked for %zu bytes and got none; "
                    "raise the memory limit of the process",
                    bytes);
}

ASTHRA__FN char *asthra__alloc_text(const char *text) {
    if (!text) return NULL;
    size_t bytes = strlen(text) + 1;
    char *copy = asthra__alloc(bytes);
    return copy ? memcpy(copy, text, bytes) : NULL;
}

#endif
