/* thread - attach at the first call, detach at the end.                    [thread] body
 *
 * The record is a thread-local object, so finding it costs no lock and no allocation. The first
 * call of a thread fills it, puts it into the list and arms the destructor of a pthread key, the
 * one way to hear of the end of a thread that somebody else made.
 *
 * Thread-exit destructors run in no order, and any of them may call the runtime when ours has run.
 * That call attaches the thread again and arms the key again; the system then makes another round
 * of destructors. It makes a limited number of rounds (POSIX: at least four), so after three ends
 * the thread gets a record that is neither listed nor armed: the list must never hold the record of
 * a thread that is gone. The same is done when the system has no key to give. All that such a
 * record can lose is one error record of a few hundred bytes.
 *
 * Invariant: a record is in the list if and only if link is not NULL, and then its destructor is
 * armed. The list and its hooks are changed only under the lock, which forking takes, so that the
 * child finds them whole; there the list is cut down to the thread that forked.
 */
#include "thread_internal.h"
#include "text_internal.h"

#if ASTHRA_HAS_CORE

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#if ASTHRA_HAS_THREADS
#include <pthread.h>
#endif

enum { ASTHRA__THREAD_HOOKS = 5, ASTHRA__THREAD_ENDS = 3 };

typedef void (*Asthra__ThreadHook)(Asthra__Thread *t);

static struct {
    Asthra__Lock lock;
    Asthra__Thread *first;
    void (*hooks[ASTHRA__THREAD_HOOKS])(Asthra__Thread *t);
    size_t hook_count;
    ASTHRA__ATOMIC(Asthra__ThreadHook) first_hook; /* NULL: none */
#if ASTHRA_HAS_THREADS
    Asthra__Once once;
    pthread_key_t key;
    bool has_key;
#endif
} asthra__thread_list;

#if ASTHRA_HAS_THREADS
static _Thread_local Asthra__Thread asthra__thread_record;
#else
static Asthra__Thread asthra__thread_record;
#endif

static void asthra__thread_fill(Asthra__Thread *t) {
    unsigned char detaches = t->detaches;
    bool is_in_heap = t->is_in_heap;
    memset(t, 0, sizeof *t);
    t->detaches = detaches;
    t->is_in_heap = is_in_heap;
    t->errno_place = &errno;
    t->id = asthra__os_thread_id();
    t->is_main = asthra__os_is_main_thread();
    if (t->is_main) memcpy(t->name, "main", sizeof "main");
}

/* Caller holds the lock of the list. */
static void asthra__thread_enlist(Asthra__Thread *t) {
    t->next = asthra__thread_list.first;
    t->link = &asthra__thread_list.first;
    if (t->next) t->next->link = &t->next;
    asthra__thread_list.first = t;
}

#if ASTHRA_HAS_THREADS

/* Caller holds the lock of the list. */
static void asthra__thread_unlist(Asthra__Thread *t) {
    *t->link = t->next;
    if (t->next) t->next->link = t->link;
    t->next = NULL;
    t->link = NULL;
}

/* Hooks are only ever added, so one that is read under the lock may be called outside it. */
static void asthra__thread_call_hooks(Asthra__Thread *t) {
    void (*hooks[ASTHRA__THREAD_HOOKS])(Asthra__Thread *);
    asthra__lock(&asthra__thread_list.lock);
    size_t count = asthra__thread_list.hook_count;
    memcpy(hooks, asthra__thread_list.hooks, sizeof hooks);
    asthra__unlock(&asthra__thread_list.lock);
    while (count > 0) hooks[--count](t);
}

/* The key's destructor: `record` belongs to the calling thread, which is ending. */
static void asthra__thread_detach(void *record) {
    Asthra__Thread *t = record;
    Asthra__ThreadHook first = asthra__load(&asthra__thread_list.first_hook, acquire);
    if (first != NULL) first(t);
    asthra__thread_call_hooks(t);
    asthra__lock(&asthra__thread_list.lock);
    asthra__thread_unlist(t);
    asthra__unlock(&asthra__thread_list.lock);
    t->is_attached = t->is_listed = false;
    t->detaches++;
}

static void asthra__thread_fork_before(void) {
    asthra__lock(&asthra__thread_list.lock);
}
static void asthra__thread_fork_parent(void) {
    asthra__unlock(&asthra__thread_list.lock);
}
static void asthra__thread_fork_child(void) {
    asthra__sync_fork_child();
    asthra__thread_list.first = NULL;
    Asthra__Thread *t = asthra__thread_if_attached();
    if (t) t->is_main = asthra__os_is_main_thread(), t->id = asthra__os_thread_id();
    if (t && t->link) asthra__thread_enlist(t);
    asthra__unlock(&asthra__thread_list.lock);
}

static void asthra__thread_setup(void) {
    asthra__sync_setup();
    asthra__thread_list.has_key =
        pthread_key_create(&asthra__thread_list.key, asthra__thread_detach) == 0;
    asthra__os_on_fork(asthra__thread_fork_before, asthra__thread_fork_parent,
                       asthra__thread_fork_child);
}

/* Asks for the end of the calling thread; false: it will not be told. */
static bool asthra__thread_arm(Asthra__Thread *t) {
    return asthra__thread_list.has_key && t->detaches < ASTHRA__THREAD_ENDS &&
           pthread_setspecific(asthra__thread_list.key, t) == 0;
}

ASTHRA__COLD static void asthra__thread_attach(Asthra__Thread *t) {
    int saved = errno;
    asthra__once(&asthra__thread_list.once, asthra__thread_setup);
    asthra__thread_fill(t);
    if (asthra__thread_arm(t) && !t->is_attached) { /* else arming allocated, and that attached */
        asthra__lock(&asthra__thread_list.lock);
        asthra__thread_enlist(t);
        asthra__unlock(&asthra__thread_list.lock);
        t->is_listed = true;
    }
    t->is_attached = true;
    errno = saved;
}

#else

ASTHRA__COLD static void asthra__thread_attach(Asthra__Thread *t) {
    int saved = errno;
    asthra__thread_fill(t);
    asthra__thread_enlist(t);
    t->is_listed = true;
    t->is_attached = true;
    errno = saved;
}

#endif

ASTHRA__FN ASTHRA__FAST Asthra__Thread *asthra__thread_raw(void) {
    return &asthra__thread_record;
}

ASTHRA__FN ASTHRA__NOINLINE Asthra__Thread *asthra__thread_place(void) {
    Asthra__Thread *t = &asthra__thread_record;
    __asm__ volatile("" : "+r"(t));
    return t;
}

ASTHRA__FN ASTHRA__NOINLINE Asthra__Thread *asthra__thread(void) {
    Asthra__Thread *t = &asthra__thread_record;
    if (ASTHRA__UNLIKELY(!t->is_attached)) asthra__thread_attach(t);
    __asm__ volatile("" : "+r"(t)); /* noinline alone does not keep two calls from being merged */
    return t;
}

ASTHRA__FN ASTHRA__NOINLINE Asthra__Thread *asthra__thread_if_attached(void) {
    Asthra__Thread *t = asthra__thread_record.is_attached ? &asthra__thread_record : NULL;
    __asm__ volatile("" : "+r"(t));
    return t;
}

ASTHRA__FN void asthra__thread_set_name(const char *name) {
    Asthra__Thread *t = asthra__thread();
    Asthra__Text text = asthra__text_on(t->name, sizeof t->name);
    asthra__text_add(&text, name);
}

ASTHRA__FN size_t asthra__thread_count(void) {
    size_t count = 0;
    asthra__lock(&asthra__thread_list.lock);
    for (const Asthra__Thread *t = asthra__thread_list.first; t; t = t->next) count++;
    asthra__unlock(&asthra__thread_list.lock);
    return count;
}

ASTHRA__FN void asthra__thread_on_detach(void (*hook)(Asthra__Thread *t)) {
    size_t i = 0;
    asthra__lock(&asthra__thread_list.lock);
    while (i < asthra__thread_list.hook_count && asthra__thread_list.hooks[i] != hook) i++;
    if (i < ASTHRA__THREAD_HOOKS) {
        asthra__thread_list.hooks[i] = hook;
        if (i == asthra__thread_list.hook_count) asthra__thread_list.hook_count++;
    }
    asthra__unlock(&asthra__thread_list.lock);
    if (i < ASTHRA__THREAD_HOOKS) return;
    asthra__text_report("asthra_rt: thread keeps %d detach hooks; raise ASTHRA__THREAD_HOOKS",
                        (int)ASTHRA__THREAD_HOOKS);
    abort();
}

ASTHRA__FN void asthra__thread_before_detach(void (*hook)(Asthra__Thread *t)) {
    asthra__store(&asthra__thread_list.first_hook, hook, release);
}

#endif
