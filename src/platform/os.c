/* os - what all systems do alike: clock, messages, pages, threads.         [os] body
 *
 * A piece that is named after a system belongs to that system alone (os_linux.c, os_posix_pages.c);
 * the others serve all of them, by means that POSIX gives, and ask the system's own pieces for what
 * it does not.
 */
#include "os_internal.h"

#if ASTHRA_HAS_CORE

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#if ASTHRA_HAS_THREADS
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#endif

ASTHRA__FN int64_t asthra__os_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

ASTHRA__FN void asthra__os_yield(void) {
    sched_yield();
}

static bool asthra__os_write_all(int fd, const char *bytes, size_t count) {
    while (count > 0) {
        ssize_t done = write(fd, bytes, count);
        if (done < 0 && errno != EINTR) return false;
        if (done <= 0) continue;
        bytes += done;
        count -= (size_t)done;
    }
    return true;
}

ASTHRA__FN void asthra__os_write_error(const char *text, size_t length) {
    int saved = errno;
    (void)asthra__os_write_all(STDERR_FILENO, text, length);
    errno = saved;
}

ASTHRA__FN bool asthra__os_stderr_is_terminal(void) {
    int saved = errno;
    bool is_terminal = isatty(STDERR_FILENO) != 0;
    errno = saved;
    return is_terminal;
}

/* Descriptors. */

ASTHRA__FN int asthra__os_ms(int64_t ns) {
    if (ns < 0) return -1;
    int64_t ms = ns / 1000000 + (ns % 1000000 != 0);
    return ms < INT32_MAX ? (int)ms : INT32_MAX;
}

ASTHRA__COLD ASTHRA_NORETURN ASTHRA__FN void asthra__os_poll_lost(void) {
    static const char text[] = "asthra_rt: the program closed a descriptor of the runtime's, with "
                               "tasks waiting on it: leave those that it did not open alone\n";
    asthra__os_write_error(text, sizeof text - 1);
    abort();
}

ASTHRA__FN int asthra__os_poll_one(int fd, int events, int64_t timeout_ns) {
    int saved = errno;
    struct pollfd p = {.fd = fd, .events = (short)events};
    int got = poll(&p, 1, asthra__os_ms(timeout_ns));
    int answer = got > 0 ? p.revents : got == 0 ? 0 : -errno;
    errno = saved;
    return answer;
}

/* Pages. */

/* Who writes a file that is too long for a limit of the process gets a signal. */
static bool asthra__os_may_write(size_t bytes) {
    struct rlimit limit;
    return getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
           limit.rlim_cur >= bytes;
}

ASTHRA__FN bool asthra__os_map_code(void *start, size_t bytes) {
    int saved = errno;
    int fd = asthra__os_may_write(bytes) ? asthra__os_code_file() : -1;
    bool is_mapped =
        fd >= 0 && asthra__os_write_all(fd, start, bytes) &&
        mmap(start, bytes, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, 0) == start;
    if (fd >= 0) close(fd);
    errno = saved;
    return is_mapped;
}

ASTHRA__FN size_t asthra__os_page_size(void) {
    return (size_t)sysconf(_SC_PAGESIZE);
}

static char *asthra__os_map_plain(size_t bytes) {
    int saved = errno;
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    errno = saved;
    return start == MAP_FAILED ? NULL : start;
}

/* Neighbours of an aligned mapping are often aligned, so the plain call comes first. */
ASTHRA__FN void *asthra__os_map_aligned(size_t bytes, size_t alignment) {
    size_t wide = bytes + alignment - asthra__os_page_size();
    char *start = asthra__os_map_plain(bytes);
    if (start == NULL || ((uintptr_t)start & (alignment - 1)) == 0) return start;
    asthra__os_unmap(start, bytes);
    if (wide < bytes || (start = asthra__os_map_plain(wide)) == NULL) return NULL;
    size_t head = (size_t)(-(uintptr_t)start & (alignment - 1)), tail = wide - head - bytes;
    if (head != 0) asthra__os_unmap(start, head);
    if (tail != 0) asthra__os_unmap(start + head + bytes, tail);
    return start + head;
}

ASTHRA__FN bool asthra__os_open_pages(void *start, size_t bytes) {
    int saved = errno;
    bool is_open = mprotect(start, bytes, PROT_READ | PROT_WRITE) == 0;
    errno = saved;
    return is_open;
}

ASTHRA__FN int asthra__os_lock_pages(void *start, size_t bytes) {
    int saved = errno;
    int error = mlock(start, bytes) == 0 ? 0 : errno;
    errno = saved;
    return error;
}

ASTHRA__FN void asthra__os_unlock_pages(void *start, size_t bytes) {
    int saved = errno;
    munlock(start, bytes);
    errno = saved;
}

ASTHRA__FN bool asthra__os_is_mapped(void *start, size_t bytes) {
    return msync(start, bytes, MS_ASYNC) == 0;
}

#if ASTHRA_HAS_THREADS

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
    int saved = errno;
    if (pthread_attr_init(&attributes) != 0) return false;
    bool is_set = !pthread_attr_setstacksize(&attributes, asthra__os_thread_stack(stack_bytes));
    asthra__os_blocked_signals(&blocked);
    pthread_sigmask(SIG_BLOCK, &blocked, &before);
    bool is_started = is_set && pthread_create(&thread, &attributes, run, argument) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (is_started) {
        *out = (Asthra__OsThread){0};
        memcpy(&out->handle, &thread, sizeof thread);
        if (name) asthra__os_thread_show(*out, name);
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

ASTHRA__FN void asthra__os_thread_detach(Asthra__OsThread thread) {
    pthread_t left;
    memcpy(&left, &thread.handle, sizeof left);
    pthread_detach(left);
}

ASTHRA__FN Asthra__OsThread asthra__os_thread_self(void) {
    Asthra__OsThread out = {0};
    pthread_t self = pthread_self();
    memcpy(&out.handle, &self, sizeof self);
    return out;
}

#endif

#endif
