/* external - functions that block, and threads that are not ours.    [external] body: threads
 *
 * The list is an array, oldest first, under a lock. It grows outside the lock, and is given back
 * when nobody is on it. A thread that ends is looked for in it before anything of its record goes,
 * so that the hook may still call everything. A forked child cuts it down to its only thread.
 */
#include "external.h"

#include "../core/alloc_internal.h"
#include "../core/result_internal.h"
#include "scheduler_internal.h"

#if ASTHRA_HAS_EXTERNAL && ASTHRA_HAS_THREADS

#include <string.h>

enum { ASTHRA__EXTERNAL_ROOM = 16 }; /* of the first array */

static struct {
    Asthra__Once once;
    Asthra__Lock lock;
    AsthraExternalThreadInfo *rows;
    size_t room;
    ASTHRA__ATOMIC(size_t) count;
    AsthraExternalThreadHook hook;
    void *user;
} asthra__external_threads;

/* ---- the array; the lock is held ---- */

/* Its place; the count: it is not there. */
static size_t asthra__external_find(pthread_t thread) {
    size_t count = asthra__load(&asthra__external_threads.count, relaxed), i = 0;
    while (i < count && !pthread_equal(asthra__external_threads.rows[i].thread, thread)) i++;
    return i;
}

static bool asthra__external_is_listed(pthread_t thread) {
    return asthra__external_find(thread) != asthra__load(&asthra__external_threads.count, relaxed);
}

/* False: no room. */
static bool asthra__external_append(const AsthraExternalThreadInfo *row) {
    size_t count = asthra__load(&asthra__external_threads.count, relaxed);
    if (count == asthra__external_threads.room) return false;
    asthra__external_threads.rows[count] = *row;
    asthra__store(&asthra__external_threads.count, count + 1, relaxed);
    return true;
}

/* Takes the larger array; returns the old one, to be freed. */
static void *asthra__external_move(AsthraExternalThreadInfo *rows, size_t room) {
    AsthraExternalThreadInfo *old = asthra__external_threads.rows;
    size_t count = asthra__load(&asthra__external_threads.count, relaxed);
    if (count != 0) memcpy(rows, old, count * sizeof *rows);
    asthra__external_threads.rows = rows;
    asthra__external_threads.room = room;
    return old;
}

/* ---- changes ---- */

static void asthra__external_tell(const AsthraExternalThreadInfo *row, bool started) {
    asthra__lock(&asthra__external_threads.lock);
    AsthraExternalThreadHook hook = asthra__external_threads.hook;
    void *user = asthra__external_threads.user;
    asthra__unlock(&asthra__external_threads.lock);
    if (hook != NULL) hook(row->thread, row->name, started, user);
}

/* Makes room for one more; false: no memory. */
static bool asthra__external_grow(void) {
    asthra__lock(&asthra__external_threads.lock);
    size_t room = asthra__external_threads.room * 2;
    asthra__unlock(&asthra__external_threads.lock);
    if (room == 0) room = ASTHRA__EXTERNAL_ROOM;
    void *rows = asthra__alloc(room * sizeof *asthra__external_threads.rows);
    if (rows == NULL) return false;
    asthra__lock(&asthra__external_threads.lock);
    if (room > asthra__external_threads.room) rows = asthra__external_move(rows, room);
    asthra__unlock(&asthra__external_threads.lock);
    asthra__free(rows);
    return true;
}

/* False: the reason is set. */
static bool asthra__external_add(const AsthraExternalThreadInfo *row) {
    for (;;) {
        asthra__lock(&asthra__external_threads.lock);
        bool is_listed = asthra__external_is_listed(row->thread);
        bool is_added = !is_listed && asthra__external_append(row);
        asthra__unlock(&asthra__external_threads.lock);
        if (is_added) return true;
        if (is_listed) {
            asthra__error_set(ASTHRA_INVALID, "asthra_register_external_thread: it is on the list "
                                              "already");
            return false;
        }
        if (!asthra__external_grow()) {
            asthra__error_set(ASTHRA_OUT_OF_MEMORY,
                              "asthra_register_external_thread: no memory for the list");
            return false;
        }
    }
}

/* Takes the row at `at` out; returns an array to be freed, or NULL. The lock is held. */
static void *asthra__external_take(size_t at) {
    AsthraExternalThreadInfo *rows = asthra__external_threads.rows;
    size_t left = asthra__load(&asthra__external_threads.count, relaxed) - 1;
    memmove(rows + at, rows + at + 1, (left - at) * sizeof *rows);
    asthra__store(&asthra__external_threads.count, left, relaxed);
    if (left != 0) return NULL;
    asthra__external_threads.rows = NULL;
    asthra__external_threads.room = 0;
    return rows;
}

/* False: it was not there. */
static bool asthra__external_remove(pthread_t thread, AsthraExternalThreadInfo *row) {
    void *unused = NULL;
    asthra__lock(&asthra__external_threads.lock);
    size_t at = asthra__external_find(thread);
    bool is_listed = at != asthra__load(&asthra__external_threads.count, relaxed);
    if (is_listed) {
        *row = asthra__external_threads.rows[at];
        unused = asthra__external_take(at);
    }
    asthra__unlock(&asthra__external_threads.lock);
    asthra__free(unused);
    return is_listed;
}

/* ---- ends of threads, forks ---- */

static void asthra__external_thread_ends(Asthra__Thread *t) {
    AsthraExternalThreadInfo row;
    (void)t;
    if (asthra__load(&asthra__external_threads.count, relaxed) == 0) return;
    if (asthra__external_remove(pthread_self(), &row)) asthra__external_tell(&row, false);
}

static void asthra__external_threads_fork_before(void) {
    asthra__lock(&asthra__external_threads.lock);
}
static void asthra__external_threads_fork_parent(void) {
    asthra__unlock(&asthra__external_threads.lock);
}
static void asthra__external_threads_fork_child(void) {
    size_t i = asthra__external_find(pthread_self());
    bool is_listed = asthra__external_is_listed(pthread_self());
    if (is_listed) asthra__external_threads.rows[0] = asthra__external_threads.rows[i];
    asthra__store(&asthra__external_threads.count, (size_t)is_listed, relaxed);
    asthra__unlock(&asthra__external_threads.lock);
}

static void asthra__external_threads_setup(void) {
    asthra__thread_before_detach(asthra__external_thread_ends);
    asthra__os_on_fork(asthra__external_threads_fork_before, asthra__external_threads_fork_parent,
                       asthra__external_threads_fork_child);
}

/* ---- the contract ---- */

ASTHRA_RT_API bool asthra_register_external_thread(pthread_t thread, const char *name) {
    AsthraExternalThreadInfo row;
    if (!asthra__tier_is_on(3)) return false;
    asthra__once(&asthra__external_threads.once, asthra__external_threads_setup);
    memset(&row, 0, sizeof row);
    row.thread = thread;
    Asthra__Text t = asthra__text_on(row.name, sizeof row.name);
    asthra__text_add(&t, name);
    if (!asthra__external_add(&row)) return false;
    if (name != NULL && pthread_equal(thread, pthread_self())) asthra__thread_set_name(name);
    asthra__external_tell(&row, true);
    return true;
}

ASTHRA_RT_API bool asthra_unregister_external_thread(pthread_t thread) {
    AsthraExternalThreadInfo row;
    if (!asthra__external_remove(thread, &row)) {
        asthra__error_set(ASTHRA_INVALID, "asthra_unregister_external_thread: it is not on the "
                                          "list");
        return false;
    }
    asthra__external_tell(&row, false);
    return true;
}

ASTHRA_RT_API size_t asthra_external_thread_count(void) {
    return asthra__load(&asthra__external_threads.count, relaxed);
}

ASTHRA_RT_API size_t asthra_external_thread_list(AsthraExternalThreadInfo *out, size_t room) {
    asthra__lock(&asthra__external_threads.lock);
    size_t count = asthra__load(&asthra__external_threads.count, relaxed);
    size_t some = count < room ? count : room;
    if (some != 0) memcpy(out, asthra__external_threads.rows, some * sizeof *out);
    asthra__unlock(&asthra__external_threads.lock);
    return count;
}

ASTHRA_RT_API void asthra_external_thread_on_change(AsthraExternalThreadHook hook, void *user) {
    asthra__once(&asthra__external_threads.once, asthra__external_threads_setup);
    asthra__lock(&asthra__external_threads.lock);
    asthra__external_threads.hook = hook;
    asthra__external_threads.user = user;
    asthra__unlock(&asthra__external_threads.lock);
}

#endif
