/* os_posix - chance, cores, fences and this process, in terms of POSIX.    [os] body: posix
 *
 * For every system but Linux, and for Linux under ASTHRA_RT_POSIX: POSIX.1-2008 with threads and
 * CLOCK_MONOTONIC, and MAP_ANON. What POSIX does not tell is answered as the contract allows: one
 * node of memory, an unknown number of threads, every core that is online, threads without names.
 *
 * The main thread is the one that runs the program's constructors, ours among them; or the first
 * that asks, if that is earlier. Above its frames lie the strings of its environment, on every
 * system that starts programs as System V did, so the highest of them is where its stack ends; how
 * much there is below is the limit, at the start or now, whichever is less. Where the strings are
 * not near, as in a library that another thread loaded, the stack is unknown.
 *
 * Both halves of an asymmetric fence are full fences. ThreadSanitizer does not model fences: there
 * both are a read-modify-write of one word.
 */
#include "os_internal.h"

#if ASTHRA_HAS_CORE && ASTHRA__SYS_POSIX

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#if ASTHRA_HAS_THREADS
#include <pthread.h>
#endif

enum { ASTHRA__OS_STACK_ROOM = 8 << 20 }; /* of a main stack without a limit */

extern char **environ;

static struct {
    ASTHRA__ATOMIC(uint32_t) fence;   /* ThreadSanitizer's stand-in */
    ASTHRA__ATOMIC(uint32_t) chances; /* asked for so far */
    uint64_t seed;
    uintptr_t stack_high, stack_room; /* of the main thread at the start; 0: unknown */
} asthra__os;

/* ---- the start ---- */

static uintptr_t asthra__os_environment_end(uintptr_t above) {
    uintptr_t end = 0;
    if (!environ) return 0;
    for (char **e = environ; *e; e++) {
        uintptr_t after = (uintptr_t)*e + strlen(*e) + 1;
        if (after - above < ASTHRA__OS_STACK_ROOM && after > end) end = after;
    }
    uintptr_t list = (uintptr_t)(environ + 1);
    return list - above < ASTHRA__OS_STACK_ROOM && list > end ? list : end;
}

static uintptr_t asthra__os_stack_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_STACK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return ASTHRA__OS_STACK_ROOM;
    return limit.rlim_cur < UINTPTR_MAX / 4 ? (uintptr_t)limit.rlim_cur : ASTHRA__OS_STACK_ROOM;
}

static uint64_t asthra__os_seed(void) {
    uint64_t seed = (uintptr_t)&seed ^ (uint64_t)asthra__os_now_ns() << 20;
    int file = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    uint64_t fresh;
    if (file < 0) return seed;
    if (read(file, &fresh, sizeof fresh) == (ssize_t)sizeof fresh) seed = fresh;
    close(file);
    return seed;
}

static void asthra__os_begin(void) {
    int saved = errno;
    uintptr_t page = asthra__os_page_size();
    uintptr_t end = asthra__os_environment_end((uintptr_t)__builtin_frame_address(0));
    asthra__os.stack_high = (end + page - 1) / page * page;
    asthra__os.stack_room = asthra__os_stack_limit();
    asthra__os.seed = asthra__os_seed();
    errno = saved;
}

ASTHRA__FN bool asthra__os_main_stack(void **low, void **high) {
    uintptr_t room = asthra__os_stack_limit();
    if (room > asthra__os.stack_room) room = asthra__os.stack_room;
    if (asthra__os.stack_high == 0 || asthra__os.stack_high <= room) return false;
    *low = (void *)(asthra__os.stack_high - room);
    *high = (void *)asthra__os.stack_high;
    return true;
}

#if ASTHRA_HAS_THREADS

static struct {
    pthread_once_t once;
    pthread_t first, main; /* whose the stack above is; the same, or in a child who forked */
} asthra__os_threads = {.once = PTHREAD_ONCE_INIT};

static void asthra__os_fork_child(void) {
    asthra__os_threads.main = pthread_self();
}

static void asthra__os_begin_threads(void) {
    asthra__os_begin();
    asthra__os_threads.first = asthra__os_threads.main = pthread_self();
    asthra__os_on_fork(NULL, NULL, asthra__os_fork_child);
}

__attribute__((__constructor__)) static void asthra__os_start(void) {
    pthread_once(&asthra__os_threads.once, asthra__os_begin_threads);
}

ASTHRA__FN bool asthra__os_is_main_thread(void) {
    asthra__os_start();
    return pthread_equal(pthread_self(), asthra__os_threads.main) != 0;
}

ASTHRA__FN uint64_t asthra__os_thread_id(void) {
    pthread_t self = pthread_self();
    uint64_t id = 0;
    memcpy(&id, &self, sizeof self);
    return id;
}

ASTHRA__FN bool asthra__os_stack_bounds(void **low, void **high) {
    asthra__os_start();
    bool is_first = pthread_equal(pthread_self(), asthra__os_threads.first) != 0;
    return (is_first && asthra__os_main_stack(low, high)) || asthra__os_thread_bounds(low, high);
}

ASTHRA__FN size_t asthra__os_thread_count(void) {
    return 0;
}

ASTHRA__FN void asthra__os_thread_show(Asthra__OsThread thread, const char *name) {
    (void)thread, (void)name;
}

#else

__attribute__((__constructor__)) static void asthra__os_start(void) {
    if (asthra__os.stack_room == 0) asthra__os_begin();
}

ASTHRA__FN bool asthra__os_is_main_thread(void) {
    return true;
}

ASTHRA__FN uint64_t asthra__os_thread_id(void) {
    return (uint64_t)getpid();
}

ASTHRA__FN bool asthra__os_stack_bounds(void **low, void **high) {
    asthra__os_start();
    return asthra__os_main_stack(low, high);
}

/* Others may not call the runtime, nor end a wait of it. */
ASTHRA__FN size_t asthra__os_thread_count(void) {
    return 1;
}

#endif

/* ---- chance, cores, nodes ---- */

ASTHRA__FN uint64_t asthra__os_entropy(void) {
    uint64_t number = asthra__add(&asthra__os.chances, 1, relaxed);
    asthra__os_start();
    uint64_t bits = asthra__os.seed + (number << 32 ^ (uint64_t)getpid());
    bits = (bits ^ bits >> 30) * UINT64_C(0xbf58476d1ce4e5b9); /* splitmix64 */
    bits = (bits ^ bits >> 27) * UINT64_C(0x94d049bb133111eb);
    return bits ^ bits >> 31;
}

ASTHRA__FN unsigned asthra__os_cores(void) {
    long online = 1;
#ifdef _SC_NPROCESSORS_ONLN /* a word of every system, and of POSIX since 2024 */
    int saved = errno;
    online = sysconf(_SC_NPROCESSORS_ONLN);
    errno = saved;
#endif
    return online > 0 ? (unsigned)online : 1;
}

ASTHRA__FN unsigned asthra__os_nodes(void) {
    return 1;
}

ASTHRA__FN unsigned asthra__os_node(void) {
    return 0;
}

ASTHRA__FN void asthra__os_prefer_node(void *start, size_t bytes, unsigned node) {
    (void)start, (void)bytes, (void)node;
}

/* ---- fences ---- */

ASTHRA__FN void asthra__os_fence_setup(void) {}

#if ASTHRA_HAS_THREADS && !ASTHRA__TSAN

ASTHRA__FN ASTHRA__FAST void asthra__os_fence_light(void) {
    atomic_thread_fence(memory_order_seq_cst);
}

ASTHRA__FN void asthra__os_fence_heavy(void) {
    atomic_thread_fence(memory_order_seq_cst);
}

#else

ASTHRA__FN void asthra__os_fence_light(void) {
    asthra__add(&asthra__os.fence, 1, seq_cst);
}

ASTHRA__FN void asthra__os_fence_heavy(void) {
    asthra__add(&asthra__os.fence, 1, seq_cst);
}

#endif

/* ---- for the shared files ---- */

ASTHRA__FN size_t asthra__os_signal_frame(void) {
#ifdef _SC_MINSIGSTKSZ
    long bytes = sysconf(_SC_MINSIGSTKSZ);
    if (bytes > 0) return (size_t)bytes;
#endif
    return (size_t)MINSIGSTKSZ;
}

/* The codes that POSIX has for faults (<signal.h>): others may be those of signals that were sent,
 * by a system that numbers them as it likes. */
ASTHRA__FN bool asthra__os_is_fault(int number, int code) {
    if (number == SIGSEGV) return code == SEGV_MAPERR || code == SEGV_ACCERR;
    return code == BUS_ADRALN || code == BUS_ADRERR || code == BUS_OBJERR;
}

/* Where linkers make ELF: the bounds of what we are linked into. */
extern const char asthra__os_image[] __asm__("__ehdr_start")
    __attribute__((__weak__, __visibility__("hidden")));
extern const char asthra__os_image_end[] __asm__("_end")
    __attribute__((__weak__, __visibility__("hidden")));

ASTHRA__FN bool asthra__os_has_shadow_stack(void) {
    return false;
}

/* An executable that cannot be moved has true addresses, whatever the loader calls its base. */
static bool asthra__os_is_moved(const char *base) {
    uint16_t type;
    if (memcmp(base, "\177ELF", 4) != 0) return true;
    memcpy(&type, base + 16, sizeof type); /* e_type */
    return type != 2;                      /* ET_EXEC */
}

ASTHRA__FN const char *asthra__os_object_of(uintptr_t at, const char *object, uintptr_t *moved) {
    uintptr_t image = (uintptr_t)asthra__os_image;
    if (!object && image != 0 && at - image < (uintptr_t)asthra__os_image_end - image) {
        object = "?"; /* the program, by no name that we know */
        *moved = image;
    }
    if (object && !asthra__os_is_moved((const char *)*moved)) *moved = 0;
    return object;
}

ASTHRA__FN long asthra__os_syscall(long number, const long *args) {
    (void)number, (void)args;
    return -ENOSYS;
}

#endif
