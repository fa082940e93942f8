/* heap - whose a heap is.                                                  [heap] body: thread
 *
 * One thread's, nobody's for a while, or shared by those that can have none.
 *
 * A heap is opened at the first slow call of a thread for a zone. When the thread ends, the heap
 * gives its empty pages back and waits, with the rest, in the queue of idle ones for the next
 * thread; heaps are never freed, so a remote free may push onto any heap it has ever seen. Frees
 * go on while a heap is idle: whoever needs a new segment first looks through the idle heaps for
 * pages that have become empty.
 *
 * A thread that is just attaching, or whose end nobody will tell (its record is not in the list),
 * shares one heap for each zone with its like, under a lock: the C library may call an allocator
 * that is built on us in the middle of our own pthread_key_create.
 *
 * A forked child keeps the heap of the thread that forked. Those of the other threads may have been
 * in the middle of anything: they stay as they are, and blocks in them can be freed but their room
 * is not used again. The locks of all files of the heap are taken around the fork.
 */
#include "heap_internal.h"

#if ASTHRA_HAS_MEMORY

static struct {
    Asthra__Lock lock; /* of all and idle */
    Asthra__Lock shared_lock;
    Asthra__Once once;
    ASTHRA__ATOMIC(Asthra__Heap *) all;
    Asthra__Heap *idle[ASTHRA__ZONES];
    Asthra__Heap shared[ASTHRA__ZONES];
    ASTHRA__ATOMIC(uint32_t) level;
    uint16_t count;
} asthra__heaps;

ASTHRA__FN AsthraSafetyLevel asthra__heap_level(void) {
    uint32_t level = asthra__load(&asthra__heaps.level, relaxed);
    return level == ASTHRA_SAFETY_DEFAULT ? ASTHRA_SAFETY_CHECKED : (AsthraSafetyLevel)level;
}

ASTHRA__FN void asthra__heap_set_level(AsthraSafetyLevel level) {
    asthra__store(&asthra__heaps.level, (uint32_t)level, relaxed);
}

static bool asthra__heap_is_shared(const Asthra__Heap *h) {
    return h >= asthra__heaps.shared && h < asthra__heaps.shared + ASTHRA__ZONES;
}

ASTHRA__FN Asthra__Heap *asthra__heap_next(Asthra__Heap *h, AsthraMemoryZone zone) {
    Asthra__Heap *next = h == NULL                   ? &asthra__heaps.shared[zone]
                         : asthra__heap_is_shared(h) ? asthra__load(&asthra__heaps.all, acquire)
                                                     : h->next;
    while (next != NULL && next != &asthra__heaps.shared[zone] && next->zone != zone)
        next = next->next;
    return next;
}

ASTHRA__FN uint64_t asthra__heap_thread(unsigned number) {
    Asthra__Heap *h = asthra__load(&asthra__heaps.all, acquire);
    while (h != NULL && h->number != number) h = h->next;
    return h == NULL ? 0 : asthra__load(&h->thread, relaxed);
}

/* ---- opening and closing ---- */

static void asthra__heap_detach(Asthra__Thread *t) {
    for (size_t z = 0; z < ASTHRA__ZONES; z++) {
        Asthra__Heap *h = t->heaps[z];
        if (h == NULL) continue;
        t->heaps[z] = NULL;
        asthra__heap_drain(h);
        asthra__heap_shed(h);
        if (h->zone != ASTHRA_MEMORY_ZONE_STACK) asthra__account_tell(&h->account, h->zone);
        asthra__lock(&asthra__heaps.lock);
        h->next_idle = asthra__heaps.idle[z];
        asthra__heaps.idle[z] = h;
        asthra__unlock(&asthra__heaps.lock);
    }
}

static void asthra__heap_fork_before(void) {
    asthra__lock(&asthra__heaps.shared_lock); /* who holds it may visit the idle heaps */
    asthra__lock(&asthra__heaps.lock);
    asthra__huge_fork_before();
    asthra__segment_fork_before();
    asthra__zone_fork_before();
}
static void asthra__heap_fork_after(void) {
    asthra__zone_fork_after();
    asthra__segment_fork_after();
    asthra__huge_fork_after();
    asthra__unlock(&asthra__heaps.lock);
    asthra__unlock(&asthra__heaps.shared_lock);
}

static void asthra__heap_setup(void) {
    asthra__thread_on_detach(asthra__heap_detach);
    asthra__os_on_fork(asthra__heap_fork_before, asthra__heap_fork_after, asthra__heap_fork_after);
}

static Asthra__Heap *asthra__heap_make(AsthraMemoryZone zone) {
    Asthra__Heap *h = asthra__segment_metadata(sizeof *h);
    if (h == NULL) return NULL;
    h->zone = zone;
    asthra__lock(&asthra__heaps.lock);
    h->number = ++asthra__heaps.count;
    asthra__heap_change_level(h, asthra__heap_level());
    h->next = asthra__load(&asthra__heaps.all, relaxed);
    asthra__store(&asthra__heaps.all, h, release);
    asthra__unlock(&asthra__heaps.lock);
    return h;
}

static Asthra__Heap *asthra__heap_adopt(AsthraMemoryZone zone) {
    asthra__lock(&asthra__heaps.lock);
    Asthra__Heap *h = asthra__heaps.idle[zone];
    if (h != NULL) asthra__heaps.idle[zone] = h->next_idle;
    asthra__unlock(&asthra__heaps.lock);
    return h;
}

/* NULL: no memory, or a thread that can have none. */
static Asthra__Heap *asthra__heap_open(AsthraMemoryZone zone) {
    asthra__once(&asthra__heaps.once, asthra__heap_setup);
    Asthra__Thread *t = asthra__thread();
    if (!t->is_listed) return NULL;
    Asthra__Heap *h = asthra__heap_adopt(zone);
    if (h == NULL) h = asthra__heap_make(zone);
    if (h == NULL) return NULL;
    asthra__store(&h->thread, t->id, relaxed);
    t->heaps[zone] = h;
    return h;
}

ASTHRA__FN Asthra__Heap *asthra__heap_enter(AsthraMemoryZone zone) {
    Asthra__Thread *t = asthra__thread_place();
    Asthra__Heap *h = t->heaps[zone];
    if (ASTHRA__UNLIKELY(h == NULL) && !t->is_in_heap) {
        t->is_in_heap = true;
        h = asthra__heap_open(zone);
        t->is_in_heap = false;
    }
    if (h == NULL) {
        h = &asthra__heaps.shared[zone];
        asthra__lock(&asthra__heaps.shared_lock);
        h->zone = zone;
    }
    if (h->level != asthra__heap_level()) asthra__heap_change_level(h, asthra__heap_level());
    return h;
}

ASTHRA__FN void asthra__heap_settle_level(void) {
    for (size_t z = 0; z < ASTHRA__ZONES; z++)
        if (asthra__thread_place()->heaps[z] != NULL)
            asthra__heap_leave(asthra__heap_enter((AsthraMemoryZone)z));
}

ASTHRA__FN void asthra__heap_leave(Asthra__Heap *h) {
    if (asthra__heap_is_shared(h)) asthra__unlock(&asthra__heaps.shared_lock);
}

ASTHRA__FN bool asthra__heap_is_quick(const Asthra__Heap *h) {
    return !asthra__heap_is_shared(h) && h->level != ASTHRA_SAFETY_FULL;
}

ASTHRA__FN size_t asthra__heap_visit_idle(void) {
    size_t bytes = 0;
    asthra__lock(&asthra__heaps.lock);
    for (size_t z = 0; z < ASTHRA__ZONES; z++)
        for (Asthra__Heap *h = asthra__heaps.idle[z]; h != NULL; h = h->next_idle)
            bytes += asthra__heap_trim_one(h);
    asthra__unlock(&asthra__heaps.lock);
    return bytes;
}

ASTHRA__FN size_t asthra__heap_visit_shared(void) {
    size_t bytes = 0;
    asthra__lock(&asthra__heaps.shared_lock);
    for (size_t z = 0; z < ASTHRA__ZONES; z++) {
        Asthra__Heap *h = &asthra__heaps.shared[z];
        if (h->level == ASTHRA_SAFETY_DEFAULT) continue; /* nobody has entered it yet */
        bytes += asthra__heap_trim_one(h);
    }
    asthra__unlock(&asthra__heaps.shared_lock);
    return bytes;
}

#endif
