/* os_linux - chance, cores, parking, fences and threads of Linux.          [os] body: linux
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

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#if ASTHRA_HAS_THREADS
#include <pthread.h>
#endif

enum {
    ASTHRA__OS_FUTEX_WAIT = 128, /* FUTEX_WAIT | FUTEX_PRIVATE_FLAG */
    ASTHRA__OS_FUTEX_WAKE = 129,
    ASTHRA__OS_MEMBARRIER_QUERY = 0,
    ASTHRA__OS_MEMBARRIER_EXPEDITED = 1 << 3,
    ASTHRA__OS_MEMBARRIER_REGISTER = 1 << 4,
    ASTHRA__OS_AT_MINSIGSTKSZ = 51, /* AT_MINSIGSTKSZ: what the kernel's own frame takes */
    ASTHRA__OS_PREFERRED = 1,       /* MPOL_PREFERRED */
    ASTHRA__OS_NODES = 1024         /* the most that Linux can be built for */
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

/* Chance, cores. */

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

/* PR_GET_SHADOW_STACK_STATUS; a kernel that does not know the question has none to give. */
ASTHRA__FN bool asthra__os_has_shadow_stack(void) {
    enum { ASTHRA__OS_SHADOW_STATUS = 74, ASTHRA__OS_SHADOW_ON = 1 };
    unsigned long status = 0;
    int saved = errno;
    bool is_known = prctl(ASTHRA__OS_SHADOW_STATUS, &status, 0ul, 0ul, 0ul) == 0;
    errno = saved;
    return is_known && (status & ASTHRA__OS_SHADOW_ON) != 0;
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

/* How far the executable was moved from the addresses in its file; *is_inside: it holds `at`. The
 * program headers stand behind the file header, at the start of the part that has offset 0. */
static uintptr_t asthra__os_exe_shift(uintptr_t at, bool *is_inside) {
    const ElfW(Phdr) *parts = (const void *)getauxval(AT_PHDR);
    size_t count = parts ? (size_t)getauxval(AT_PHNUM) : 0;
    uintptr_t shift = 0;
    *is_inside = false;
    for (size_t i = 0; i < count; i++)
        if (parts[i].p_type == PT_LOAD && parts[i].p_offset == 0)
            shift = (uintptr_t)parts - sizeof(ElfW(Ehdr)) - (uintptr_t)parts[i].p_vaddr;
    for (size_t i = 0; i < count; i++)
        if (parts[i].p_type == PT_LOAD && at - shift - parts[i].p_vaddr < parts[i].p_memsz)
            *is_inside = true;
    return shift;
}

ASTHRA__FN const char *asthra__os_object_of(uintptr_t at, const char *object, uintptr_t *moved) {
    bool is_inside;
    uintptr_t shift = asthra__os_exe_shift(at, &is_inside);
    if (!is_inside) return object;
    *moved = shift;
    return (const char *)getauxval(AT_EXECFN);
}

ASTHRA__FN size_t asthra__os_signal_frame(void) {
    return (size_t)getauxval(ASTHRA__OS_AT_MINSIGSTKSZ);
}

ASTHRA__FN bool asthra__os_is_fault(int number, int code) {
    (void)number;
    return code > 0;
}

ASTHRA__FN size_t asthra__os_thread_count(void) {
    int saved = errno;
    struct stat tasks; /* one directory for each, and "." and ".." */
    bool is_known = stat("/proc/self/task", &tasks) == 0 && tasks.st_nlink > 2;
    errno = saved;
    return is_known ? (size_t)tasks.st_nlink - 2 : 0;
}

#if ASTHRA_HAS_THREADS

/* A name that a host's earlier include of <pthread.h> may have left undeclared. */
extern int asthra__os_setname(pthread_t thread, const char *name) __asm__("pthread_setname_np");

/* The C library opens a stream to answer for the main thread, and musl tells only what has been
 * touched; so that one we answer ourselves. A thread that forked is the child's main thread and
 * stands elsewhere, which is why the place of a local counts. */
ASTHRA__FN bool asthra__os_stack_bounds(void **low, void **high) {
    const char *here = __builtin_frame_address(0);
    bool is_main = asthra__os_is_main_thread() && asthra__os_main_stack(low, high);
    if (is_main && here >= (char *)*low && here < (char *)*high) return true;
    return asthra__os_thread_bounds(low, high);
}

ASTHRA__FN void asthra__os_thread_show(Asthra__OsThread thread, const char *name) {
    char shown[16] = {0};
    pthread_t named;
    memcpy(&named, &thread.handle, sizeof named);
    for (size_t i = 0; name[i] && i + 1 < sizeof shown; i++) shown[i] = name[i];
    asthra__os_setname(named, shown);
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

/* ---- calls by number ---- */

ASTHRA__FN long asthra__os_syscall(long number, const long *args) {
    int saved = errno;
    long value = syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]);
    if (value == -1) value = -errno;
    errno = saved;
    return value;
}

#endif
