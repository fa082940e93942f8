/* os_linux - clock, cores, parking, fences and threads of Linux.           [os] body
 *
 * Parking is a futex. The word that is waited on is the truth; a wake without a sleeper is lost and
 * may be, because every sleeper compares the word first.
 *
 * Fences. membarrier makes every running thread of the process pass a full fence, so one side of a
 * Dekker-like protocol can do without. The kernel keeps the registration over fork.
 * ThreadSanitizer does not model fences: there both halves are a read-modify-write of one word.
 *
 * The choices that were found at run time live in the one object below. Each is written once or
 * may be written twice with the same value, so relaxed order is enough.
 */
#include "os_internal.h"

#if ASTHRA_HAS_CORE && ASTHRA__SYS_LINUX

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#if ASTHRA_HAS_THREADS
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#endif

enum {
    ASTHRA__OS_FUTEX_WAIT = 128, /* FUTEX_WAIT | FUTEX_PRIVATE_FLAG */
    ASTHRA__OS_FUTEX_WAKE = 129,
    ASTHRA__OS_MEMBARRIER_QUERY = 0,
    ASTHRA__OS_MEMBARRIER_EXPEDITED = 1 << 3,
    ASTHRA__OS_MEMBARRIER_REGISTER = 1 << 4,
    ASTHRA__OS_PREFERRED = 1, /* MPOL_PREFERRED */
    ASTHRA__OS_NODES = 1024   /* the most that Linux can be built for */
};

static struct {
    ASTHRA__ATOMIC(bool) has_membarrier;
    ASTHRA__ATOMIC(uint32_t) fence; /* ThreadSanitizer's stand-in */
} asthra__os;

ASTHRA__FN size_t asthra__os_read_file(const char *path, char *out, size_t room) {
    int saved = errno;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    size_t have = 0;
    ssize_t got = 0;
    while (file >= 0 && have + 1 < room && (got = read(file, out + have, room - 1 - have)) > 0)
        have += (size_t)got;
    if (file >= 0) close(file);
    out[have] = 0;
    errno = saved;
    return have;
}

/* Clock, chance, cores. */

ASTHRA__FN int64_t asthra__os_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

ASTHRA__FN uint64_t asthra__os_entropy(void) {
    int saved = errno;
    uint64_t bits = 0;
    const unsigned long seed = getauxval(AT_RANDOM); /* the kernel's 16 random bytes */
    if (seed) memcpy(&bits, (const void *)seed, sizeof bits);
    bits ^= (uint64_t)asthra__os_now_ns() * 0x9e3779b97f4a7c15u ^ (uint64_t)getpid() << 40;
#ifdef SYS_getrandom
    uint64_t fresh;
    if (syscall(SYS_getrandom, &fresh, sizeof fresh, 1L /* GRND_NONBLOCK */) == (long)sizeof fresh)
        bits = fresh;
#endif
    errno = saved;
    return bits;
}

/* Cores of the affinity mask. 8192 is the most that Linux can be built for. */
static unsigned asthra__os_cores_allowed(void) {
    unsigned long mask[8192 / 8 / sizeof(unsigned long)];
    unsigned count = 0;
    long bytes = syscall(SYS_sched_getaffinity, 0L, sizeof mask, mask);
    for (size_t i = 0; bytes > 0 && i < (size_t)bytes / sizeof *mask; i++)
        count += (unsigned)__builtin_popcountl(mask[i]);
    if (count > 0) return count;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (unsigned)online : 1;
}

/* Cores of the quota in a cpu.max ("quota period", or "max period"), rounded up; 0: no quota. */
static unsigned asthra__os_cores_quota(const char *path) {
    char text[64];
    if (asthra__os_read_file(path, text, sizeof text) == 0) return 0;
    char *rest;
    long long quota = strtoll(text, &rest, 10), period = strtoll(rest, NULL, 10);
    if (quota <= 0 || period <= 0) return 0;
    long long cores = (quota + period - 1) / period;
    return cores < 8192 ? (unsigned)cores : 8192;
}

/* The tightest quota of this process's control group and the ones above it; 0: none. A container
 * sees its own group as the root, so the root is asked too. */
static unsigned asthra__os_cores_of_group(void) {
    static const char root[] = "/sys/fs/cgroup", leaf[] = "/cpu.max";
    char groups[2048], path[sizeof root + 512 + sizeof leaf];
    unsigned least = 0;
    asthra__os_read_file("/proc/self/cgroup", groups, sizeof groups);
    const char *own = strncmp(groups, "0::", 3) == 0 ? groups : strstr(groups, "\n0::");
    own = own ? strchr(own, '/') : NULL;
    size_t length = own ? strcspn(own, "\n") : 0;
    if (length > 512) length = 0;
    memcpy(path, root, sizeof root - 1);
    if (length > 0) memcpy(path + sizeof root - 1, own, length);
    for (;;) {
        memcpy(path + sizeof root - 1 + length, leaf, sizeof leaf);
        unsigned quota = asthra__os_cores_quota(path);
        if (quota && (!least || quota < least)) least = quota;
        if (length == 0) return least;
        do length--;
        while (length > 0 && path[sizeof root - 1 + length] != '/');
    }
}

ASTHRA__FN unsigned asthra__os_cores(void) {
    int saved = errno;
    unsigned allowed = asthra__os_cores_allowed(), quota = asthra__os_cores_of_group();
    errno = saved;
    return quota && quota < allowed ? quota : allowed;
}

/* Nodes of memory. */

/* How many numbers a list like "0-2,5" has; 0: it is none. */
static unsigned asthra__os_list_count(const char *text) {
    unsigned count = 0;
    for (;;) {
        char *rest;
        long first = strtol(text, &rest, 10), last = first;
        if (rest == text) return count;
        if (*rest == '-') last = strtol(rest + 1, &rest, 10);
        if (first < 0 || last < first || last >= ASTHRA__OS_NODES) return count;
        count += (unsigned)(last - first + 1);
        if (*rest != ',') return count;
        text = rest + 1;
    }
}

ASTHRA__FN unsigned asthra__os_nodes(void) {
    char text[256];
    int saved = errno;
    asthra__os_read_file("/sys/devices/system/node/has_memory", text, sizeof text);
    unsigned count = asthra__os_list_count(text);
    errno = saved;
    return count > 0 ? count : 1;
}

ASTHRA__FN unsigned asthra__os_node(void) {
    int saved = errno;
    unsigned node = 0;
    if (syscall(SYS_getcpu, NULL, &node, NULL) != 0) node = 0;
    errno = saved;
    return node;
}

/* The kernel reads one bit less than it is told of. */
ASTHRA__FN void asthra__os_prefer_node(void *start, size_t bytes, unsigned node) {
    enum { BITS = 8 * sizeof(unsigned long) };
    unsigned long mask[ASTHRA__OS_NODES / BITS] = {0};
    int saved = errno;
    if (node >= ASTHRA__OS_NODES) return;
    mask[node / BITS] = 1ul << node % BITS;
    syscall(SYS_mbind, start, bytes, (long)ASTHRA__OS_PREFERRED, mask, (long)ASTHRA__OS_NODES + 1,
            0L);
    errno = saved;
}

/* Parking. The kernel's old timespec is two longs on every processor that has this call. */

ASTHRA__FN void asthra__os_wait(ASTHRA__ATOMIC(uint32_t) * word, uint32_t expected,
                                int64_t timeout_ns) {
    int saved = errno;
    int64_t seconds = timeout_ns / 1000000000;
    long limit[2] = {seconds < INT32_MAX ? (long)seconds : INT32_MAX,
                     (long)(timeout_ns % 1000000000)};
    syscall(SYS_futex, word, (long)ASTHRA__OS_FUTEX_WAIT, (long)expected,
            timeout_ns < 0 ? NULL : limit, NULL, 0L);
    errno = saved;
}

ASTHRA__FN void asthra__os_wake(ASTHRA__ATOMIC(uint32_t) * word, uint32_t how_many) {
    int saved = errno;
    long most = how_many < INT32_MAX ? (long)how_many : INT32_MAX;
    syscall(SYS_futex, word, (long)ASTHRA__OS_FUTEX_WAKE, most, NULL, NULL, 0L);
    errno = saved;
}

ASTHRA__FN void asthra__os_yield(void) {
    sched_yield();
}

/* Fences. */

#if ASTHRA_HAS_THREADS && !ASTHRA__TSAN

static bool asthra__os_membarrier(int command) {
#ifdef SYS_membarrier
    return syscall(SYS_membarrier, (long)command, 0L, 0L) == 0;
#else
    (void)command;
    return false;
#endif
}

ASTHRA__FN void asthra__os_fence_setup(void) {
    int saved = errno;
    bool works = asthra__os_membarrier(ASTHRA__OS_MEMBARRIER_REGISTER) &&
                 asthra__os_membarrier(ASTHRA__OS_MEMBARRIER_EXPEDITED);
    asthra__store(&asthra__os.has_membarrier, works, relaxed);
    errno = saved;
}

ASTHRA__FN ASTHRA__FAST void asthra__os_fence_light(void) {
    if (ASTHRA__LIKELY(asthra__load(&asthra__os.has_membarrier, relaxed)))
        asthra__compiler_fence();
    else
        atomic_thread_fence(memory_order_seq_cst);
}

/* A membarrier that worked and is refused now (a sandbox was entered meanwhile) leaves the other
 * side unfenced; going on would lose wake-ups in silence. */
ASTHRA__FN void asthra__os_fence_heavy(void) {
    static const char text[] = "asthra_rt: membarrier was taken away from this process after the "
                               "runtime had started; allow it, or start the runtime later\n";
    atomic_thread_fence(memory_order_seq_cst);
    if (!asthra__load(&asthra__os.has_membarrier, relaxed)) return;
    int saved = errno;
    if (!asthra__os_membarrier(ASTHRA__OS_MEMBARRIER_EXPEDITED)) {
        asthra__os_fence_setup();
        if (!asthra__load(&asthra__os.has_membarrier, relaxed)) {
            asthra__os_write_error(text, sizeof text - 1);
            abort();
        }
    }
    errno = saved;
}

#else

ASTHRA__FN void asthra__os_fence_setup(void) {}

ASTHRA__FN void asthra__os_fence_light(void) {
    asthra__add(&asthra__os.fence, 1, seq_cst);
}

ASTHRA__FN void asthra__os_fence_heavy(void) {
    asthra__add(&asthra__os.fence, 1, seq_cst);
}

#endif

/* This process and its threads. */

ASTHRA__FN uint64_t asthra__os_thread_id(void) {
    return (uint64_t)syscall(SYS_gettid);
}

ASTHRA__FN bool asthra__os_is_main_thread(void) {
    return asthra__os_thread_id() == (uint64_t)getpid();
}

/* The main thread's stack is the mapping that holds the kernel's gift of random bytes. It grows
 * down to its limit, or to the mapping below it and the gap that the kernel keeps there. */
static bool asthra__os_main_stack(void **low, void **high) {
    uintptr_t before, start, end, least;
    struct rlimit limit;
    if (!asthra__os_maps_scan((uintptr_t)getauxval(AT_RANDOM), &before, &start, &end)) return false;
    least = before + 256 * asthra__os_page_size();
    if (getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur < end - least)
        least = end - (uintptr_t)limit.rlim_cur;
    if (least > start) least = start;
    *low = (void *)least;
    *high = (void *)end;
    return true;
}

ASTHRA__FN size_t asthra__os_thread_count(void) {
    int saved = errno;
    struct stat tasks; /* one directory for each, and "." and ".." */
    bool is_known = stat("/proc/self/task", &tasks) == 0 && tasks.st_nlink > 2;
    errno = saved;
    return is_known ? (size_t)tasks.st_nlink - 2 : 0;
}

ASTHRA__FN void asthra__os_write_error(const char *text, size_t length) {
    int saved = errno;
    while (length > 0) {
        ssize_t done = write(STDERR_FILENO, text, length);
        if (done < 0 && errno != EINTR) break;
        if (done <= 0) continue;
        text += done;
        length -= (size_t)done;
    }
    errno = saved;
}

ASTHRA__FN bool asthra__os_stderr_is_terminal(void) {
    int saved = errno;
    bool is_terminal = isatty(STDERR_FILENO) != 0;
    errno = saved;
    return is_terminal;
}

#if ASTHRA_HAS_THREADS

/* Two names that a host's earlier include of <pthread.h> may have left undeclared. */
extern int asthra__os_getattr(pthread_t thread, pthread_attr_t *out) __asm__("pthread_getattr_np");
extern int asthra__os_setname(pthread_t thread, const char *name) __asm__("pthread_setname_np");

/* The C library opens a stream to answer for the main thread, and musl tells only what has been
 * touched; so that one we answer ourselves. A thread that forked is the child's main thread and
 * stands elsewhere, which is why the place of a local counts. */
ASTHRA__FN bool asthra__os_stack_bounds(void **low, void **high) {
    pthread_attr_t attributes;
    size_t bytes = 0;
    const char *here = (const char *)&attributes;
    bool is_known = asthra__os_is_main_thread() && asthra__os_main_stack(low, high);
    if (is_known && here >= (char *)*low && here < (char *)*high) return true;
    if (asthra__os_getattr(pthread_self(), &attributes) != 0) return false;
    is_known = pthread_attr_getstack(&attributes, low, &bytes) == 0;
    pthread_attr_destroy(&attributes);
    if (is_known) *high = (char *)*low + bytes;
    return is_known;
}

/* Everything but what the thread's own instructions raise: those would end the process blocked. */
static void asthra__os_blocked_signals(sigset_t *set) {
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
    sigfillset(set);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(set, faults[i]);
}

static size_t asthra__os_thread_stack(size_t bytes) {
    long least = sysconf(_SC_THREAD_STACK_MIN);
    size_t page = asthra__os_page_size();
    if (least > 0 && bytes < (size_t)least) bytes = (size_t)least;
    if (bytes < (size_t)PTHREAD_STACK_MIN) bytes = (size_t)PTHREAD_STACK_MIN;
    return (bytes + page - 1) / page * page;
}

/* The new thread inherits the mask of this one, which is why it is changed for the moment. */
ASTHRA__FN bool asthra__os_thread_start(Asthra__OsThread *out, size_t stack_bytes,
                                        void *(*run)(void *), void *argument, const char *name) {
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t blocked, before;
    char shown[16] = {0};
    int saved = errno;
    if (pthread_attr_init(&attributes) != 0) return false;
    pthread_attr_setstacksize(&attributes, asthra__os_thread_stack(stack_bytes));
    asthra__os_blocked_signals(&blocked);
    pthread_sigmask(SIG_BLOCK, &blocked, &before);
    bool is_started = pthread_create(&thread, &attributes, run, argument) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (is_started) {
        for (size_t i = 0; name && name[i] && i + 1 < sizeof shown; i++) shown[i] = name[i];
        if (name) asthra__os_setname(thread, shown);
        *out = (Asthra__OsThread){0};
        memcpy(&out->handle, &thread, sizeof thread);
    }
    errno = saved;
    return is_started;
}
_Static_assert(sizeof(pthread_t) <= sizeof(unsigned long long), "a pthread_t fits the handle");

ASTHRA__FN void asthra__os_thread_join(Asthra__OsThread thread) {
    pthread_t joined;
    memcpy(&joined, &thread.handle, sizeof joined);
    pthread_join(joined, NULL);
}

ASTHRA__FN void asthra__os_on_fork(void (*before)(void), void (*parent)(void),
                                   void (*child)(void)) {
    pthread_atfork(before, parent, child);
}

#else

ASTHRA__FN bool asthra__os_stack_bounds(void **low, void **high) {
    return asthra__os_is_main_thread() && asthra__os_main_stack(low, high);
}

ASTHRA__FN void asthra__os_on_fork(void (*before)(void), void (*parent)(void),
                                   void (*child)(void)) {
    (void)before, (void)parent, (void)child;
}

#endif

#endif
