/* test - the whole test framework: one header, one program per module.
 *
 *     #include "test.h"              first, because it asks the system for its POSIX names
 *     #include "asthra_rt.h"
 *
 *     TEST(channel, close_wakes_receivers) { CHECK(...); CHECK_EQ(got, 3); CHECK_STR(name, "x"); }
 *     TEST_PANICS(channel, destroy_with_waiters_names_them, "text the report must hold") { ... }
 *     TEST_WITHIN(60, task, a_million_parked_tasks) { if (too_small()) SKIP("needs 4 GB"); ... }
 *
 * Each test runs in a forked process of its own with a time limit (20 s; ASTHRA_TEST_LIMIT=seconds
 * changes that, and raises the limits of TEST_WITHIN, never lowers them), so that a hang or a crash
 * names itself. What a test prints is kept and shown when it fails. A failed CHECK ends the process
 * from whatever thread or task it was made on. The process that forks never calls the runtime, so
 * it has one thread and forking it is safe; this header defines main.
 *
 *     prog              runs all; the last line is "module: N passed, N failed[, N skipped]"
 *     prog NAME...      runs these in this process, nothing captured, no limit: for a debugger
 *     prog --list       prints the names
 */
#ifndef ASTHRA_TEST_H
#define ASTHRA_TEST_H

#if !defined _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TEST_EXIT_FAILED = 98, TEST_EXIT_SKIPPED = 97, TEST_OUTPUT_MAX = 16384 };

typedef struct TestCase TestCase;
struct TestCase {
    const char *module, *name;
    const char *panic_text; /* NULL: must end well; else: must die, saying this */
    int limit_seconds;      /* 0: the default */
    void (*body)(void);
    TestCase *next;
};

static TestCase *test_first, **test_tail = &test_first;

/* Constructors of one file run in the order of the file: tests run in the order they are read. */
#define TEST_CASE_(module_, name_, panic_, limit_)                                             \
    static void test_##module_##_##name_(void);                                                \
    __attribute__((constructor)) static void test_add_##module_##_##name_(void) {              \
        static TestCase one = {#module_, #name_, panic_, limit_, test_##module_##_##name_, 0}; \
        *test_tail = &one;                                                                     \
        test_tail = &one.next;                                                                 \
    }                                                                                          \
    static void test_##module_##_##name_(void)

#define TEST(module_, name_) TEST_CASE_(module_, name_, NULL, 0)
#define TEST_WITHIN(seconds_, module_, name_) TEST_CASE_(module_, name_, NULL, seconds_)
#define TEST_PANICS(module_, name_, text_) TEST_CASE_(module_, name_, text_, 0)

#define CHECK(condition) \
    ((condition) ? (void)0 : test_fail(__FILE__, __LINE__, "CHECK(%s) failed", #condition))
#define CHECK_EQ(a, b) test_check_eq(__FILE__, __LINE__, #a, #b, (long long)(a), (long long)(b))
#define CHECK_STR(a, b) test_check_str(__FILE__, __LINE__, #a, #b, (a), (b))
#define SKIP(reason) test_skip(reason)

#define TEST_MAYBE_UNUSED __attribute__((unused))

__attribute__((noreturn, format(printf, 3, 4))) TEST_MAYBE_UNUSED static void
test_fail(const char *file, int line, const char *format, ...) {
    va_list args;
    va_start(args, format);
    flockfile(stderr);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    fflush(stderr);
    va_end(args);
    _exit(TEST_EXIT_FAILED);
}

__attribute__((noreturn)) TEST_MAYBE_UNUSED static void test_skip(const char *reason) {
    fprintf(stderr, "%s\n", reason);
    fflush(stderr);
    _exit(TEST_EXIT_SKIPPED);
}

/* Where a build without threads has nothing to say: said by a test whose children, or whose
 * workers, are threads; a test that comes to start one itself need not. */
TEST_MAYBE_UNUSED static void test_need_threads(void) {
#ifdef ASTHRA_RT_NO_THREADS
    test_skip("this build has no threads");
#endif
}
#define NEED_THREADS() test_need_threads()

/* Where the portable layer cannot know who else could wake a task. */
TEST_MAYBE_UNUSED static void test_need_to_count_threads(void) {
#if defined(ASTHRA_RT_POSIX) && !defined(ASTHRA_RT_NO_THREADS)
    test_skip("POSIX does not count threads: nobody is asleep for sure");
#endif
}
#define NEED_TO_COUNT_THREADS() test_need_to_count_threads()

/* Where a fault must go on in the runtime, on a system whose registers the portable layer lacks. */
TEST_MAYBE_UNUSED static void test_need_registers(void) {
#ifndef __linux__
    test_skip("nobody said where a signal of this system keeps the registers");
#endif
}
#define NEED_REGISTERS() test_need_registers()

/* Whether qemu-user runs this program, as its variant says. */
TEST_MAYBE_UNUSED static bool test_is_emulated(void) {
    static const char *const emulated[] = {"aarch64", "riscv64", "armhf", "arm"};
    const char *variant = getenv("ASTHRA_TEST_VARIANT");
    for (size_t i = 0; variant && i < sizeof emulated / sizeof *emulated; i++)
        if (strcmp(variant, emulated[i]) == 0) return true;
    return false;
}

/* Where an emulator is in the way. */
TEST_MAYBE_UNUSED static void test_need_no_emulator(const char *reason) {
    if (test_is_emulated()) test_skip(reason);
}
#define NEED_NO_EMULATOR(reason) test_need_no_emulator(reason)
/* qemu-user maps all addresses of a 32-bit program, and answers for those that are not. */
#define NEED_UNMAPPED_ADDRESSES() \
    ((void)(sizeof(void *) < 8 && (NEED_NO_EMULATOR("nothing is unmapped under an emulator"), 0)))

/* Where addresses have 32 bits, takes most of them: nobody gets a large piece any more. */
TEST_MAYBE_UNUSED static void test_crowd_addresses(void) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    const size_t piece = (size_t)1 << 28;
    while (sizeof piece < 8 && mmap(NULL, piece, PROT_NONE, flags, -1, 0) != MAP_FAILED) {
    }
}

/* gcc says it one way, clang another. */
#if defined(__has_feature)
#define TEST_HAS_SANITIZER(name) __has_feature(name)
#else
#define TEST_HAS_SANITIZER(name) 0
#endif
#if defined(__SANITIZE_THREAD__) || TEST_HAS_SANITIZER(thread_sanitizer)
#define UNDER_TSAN 1
#else
#define UNDER_TSAN 0
#endif
#if defined(__SANITIZE_ADDRESS__) || TEST_HAS_SANITIZER(address_sanitizer)
#define UNDER_ASAN 1
#else
#define UNDER_ASAN 0
#endif

/* Dice: splitmix64 (Steele, Lea and Flood, 2014). */
TEST_MAYBE_UNUSED static uint32_t test_roll(uint64_t *state, uint32_t bound) {
    uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((x ^ x >> 31) >> 33) % bound;
}

/* What a long test divides its rounds by: 1 in the plain variant and alone, more where everything
 * is slower, some in the others, which run the same code compiled otherwise. */
TEST_MAYBE_UNUSED static unsigned test_thrift(void) {
    const char *variant = getenv("ASTHRA_TEST_VARIANT");
    if (UNDER_TSAN || UNDER_ASAN || test_is_emulated()) return 20;
    return variant && strcmp(variant, "plain") != 0 ? 4 : 1;
}

#ifdef ASTHRA_RT_NO_THREADS
TEST_MAYBE_UNUSED static int test_no_thread(pthread_t *thread, const pthread_attr_t *attributes,
                                            void *(*function)(void *), void *argument) {
    (void)thread, (void)attributes, (void)function, (void)argument;
    test_skip("this build has no threads");
}
#define pthread_create test_no_thread
#endif

TEST_MAYBE_UNUSED static void test_check_eq(const char *file, int line, const char *a_text,
                                            const char *b_text, long long a, long long b) {
    if (a != b) test_fail(file, line, "CHECK_EQ(%s, %s): %lld is not %lld", a_text, b_text, a, b);
}

TEST_MAYBE_UNUSED static void test_check_str(const char *file, int line, const char *a_text,
                                             const char *b_text, const char *a, const char *b) {
    if (a && b ? strcmp(a, b) == 0 : a == b) return;
    test_fail(file, line, "CHECK_STR(%s, %s): \"%s\" is not \"%s\"", a_text, b_text,
              a ? a : "(null)", b ? b : "(null)");
}

static double test_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int test_limit(const TestCase *test) {
    const char *text = getenv("ASTHRA_TEST_LIMIT");
    int limit = text && atoi(text) > 0 ? atoi(text) : 20;
    return test->limit_seconds > limit ? test->limit_seconds : limit;
}

/* The child: in a process group of its own, so that its children end with it; output captured. */
__attribute__((noreturn)) static void test_child(const TestCase *test, int capture,
                                                 const sigset_t *mask) {
    setpgid(0, 0);
    dup2(capture, STDOUT_FILENO);
    dup2(capture, STDERR_FILENO);
    close(capture);
    sigprocmask(SIG_SETMASK, mask, NULL);
    test->body();
    exit(0); /* not _exit: leak checkers report there, and the runtime's end is part of the test */
}

/* Waits for `child` up to `limit` seconds, SIGCHLD blocked. Returns false if it was killed. */
static bool test_wait(pid_t child, int limit, int *status) {
    double end = test_seconds() + limit;
    sigset_t chld;
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    while (waitpid(child, status, WNOHANG) == 0) {
        double left = end - test_seconds();
        if (left <= 0) {
            kill(-child, SIGKILL);
            kill(child, SIGKILL);
            waitpid(child, status, 0);
            return false;
        }
        struct timespec pause = {(time_t)left, 50000000};
        sigtimedwait(&chld, NULL, &pause);
    }
    kill(-child, SIGKILL); /* whatever it left behind */
    return true;
}

/* Reads what the child wrote, its last TEST_OUTPUT_MAX bytes, as a string in `text`. */
static void test_read(int capture, char *text) {
    off_t size = lseek(capture, 0, SEEK_END),
          start = size > TEST_OUTPUT_MAX ? size - TEST_OUTPUT_MAX : 0;
    ssize_t got = pread(capture, text, TEST_OUTPUT_MAX, start);
    size_t length = got > 0 ? (size_t)got : 0;
    for (size_t i = 0; i < length; i++)
        if (!text[i]) text[i] = '?';
    text[length] = 0;
}

/* Says why a finished test failed, or NULL if it passed. */
static const char *test_verdict(const TestCase *test, int status, const char *text) {
    static char why[160];
    bool died = WIFSIGNALED(status) || WEXITSTATUS(status) != 0;
    bool by_check = WIFEXITED(status) && WEXITSTATUS(status) == TEST_EXIT_FAILED;
    if (by_check) return "a check failed";
    if (test->panic_text) {
        if (!died) return "it ended well, and should have died";
        if (strstr(text, test->panic_text)) return NULL;
        snprintf(why, sizeof why, "it died without saying \"%s\"", test->panic_text);
        return why;
    }
    if (!died) return NULL;
    if (WIFSIGNALED(status))
        snprintf(why, sizeof why, "ended by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(why, sizeof why, "exit status %d", WEXITSTATUS(status));
    return why;
}

typedef struct TestCounts {
    int passed, failed, skipped;
} TestCounts;

static void test_report(const TestCase *test, const char *why, const char *text, double seconds,
                        TestCounts *counts) {
    if (why) {
        counts->failed++;
        printf("FAIL %s.%s: %s\n", test->module, test->name, why);
        if (*text) printf("%s%s", text, text[strlen(text) - 1] == '\n' ? "" : "\n");
    } else {
        counts->passed++;
        printf("ok   %s.%s", test->module, test->name);
        printf(seconds >= 1 ? " (%.1f s)\n" : "\n", seconds);
    }
    fflush(stdout);
}

static void test_run(const TestCase *test, const sigset_t *mask, TestCounts *counts) {
    static char text[TEST_OUTPUT_MAX + 1], why[64];
    FILE *file = tmpfile();
    if (!file) {
        test_report(test, "no temporary file for its output", strerror(errno), 0, counts);
        return;
    }
    int capture = fileno(file), status = 0, limit = test_limit(test);
    double start = test_seconds();
    pid_t child = fork();
    if (child == 0) test_child(test, capture, mask);
    if (child < 0) {
        test_report(test, "fork failed", strerror(errno), 0, counts);
        fclose(file);
        return;
    }
    bool ended = test_wait(child, limit, &status);
    test_read(capture, text);
    fclose(file);
    if (ended && WIFEXITED(status) && WEXITSTATUS(status) == TEST_EXIT_SKIPPED) {
        counts->skipped++;
        printf("skip %s.%s: %s", test->module, test->name, *text ? text : "\n");
        fflush(stdout); /* or the children of the next test say it again */
        return;
    }
    snprintf(why, sizeof why, "no end after %d s", limit);
    test_report(test, ended ? test_verdict(test, status, text) : why, text, test_seconds() - start,
                counts);
}

static int test_run_here(const char *name) {
    for (const TestCase *test = test_first; test; test = test->next) {
        if (strcmp(test->name, name) != 0) continue;
        test->body();
        printf("ok   %s.%s\n", test->module, test->name);
        return 0;
    }
    fprintf(stderr, "no test is called %s; --list shows them\n", name);
    return 2;
}

int main(int argc, char **argv) {
    TestCounts counts = {0, 0, 0};
    sigset_t chld, before;
    if (argc > 1 && strcmp(argv[1], "--list") == 0) {
        for (const TestCase *test = test_first; test; test = test->next) puts(test->name);
        return 0;
    }
    for (int i = 1; i < argc; i++) {
        int result = test_run_here(argv[i]);
        if (result || i + 1 == argc) return result;
    }
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    sigprocmask(SIG_BLOCK, &chld, &before);
    for (const TestCase *test = test_first; test; test = test->next)
        test_run(test, &before, &counts);
    printf("%s: %d passed, %d failed", test_first ? test_first->module : "nothing", counts.passed,
           counts.failed);
    printf(counts.skipped ? ", %d skipped\n" : "\n", counts.skipped);
    return counts.failed != 0;
}

#endif /* ASTHRA_TEST_H */
