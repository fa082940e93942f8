/* Pins under ASTHRA_RT_LOCK_PINS: which pages are locked, and what a refusal leaves behind. */
#include "test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>

/* The system's two calls pass here, so that a page's state is known without asking the system. */
enum { PAGES = 64 };
static char *area; /* of PAGES pages */
static size_t page;
static bool is_locked[PAGES];
static atomic_long lock_calls;
static int lock_error; /* not 0: refused, after the first half was locked */

static void note_pages(const void *start, size_t bytes, bool locked) {
    for (size_t i = 0; i < PAGES; i++)
        if (area + i * page >= (const char *)start && area + i * page < (const char *)start + bytes)
            is_locked[i] = locked;
}
static int noted_mlock(const void *start, size_t bytes) {
    atomic_fetch_add(&lock_calls, 1);
    if (lock_error == 0 && mlock(start, bytes) != 0) return -1;
    note_pages(start, lock_error == 0 ? bytes : bytes / 2, true);
    errno = lock_error;
    return lock_error == 0 ? 0 : -1;
}
static int noted_munlock(const void *start, size_t bytes) {
    note_pages(start, bytes, false);
    return munlock(start, bytes);
}
static long map_calls, map_fails_from; /* 0: never */
static void *faulty_mmap(void *at, size_t size, int access, int flags, int fd, off_t from) {
    if (++map_calls >= map_fails_from && map_fails_from != 0) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return mmap(at, size, access, flags, fd, from);
}
#define mlock noted_mlock
#define munlock noted_munlock
#define mmap faulty_mmap
#define ASTHRA_RT_LOCK_PINS
#define ASTHRA_RT_STATIC
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"
#undef mlock
#undef munlock
#undef mmap

static void make_area(void) {
    page = (size_t)sysconf(_SC_PAGESIZE);
    area = mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(area != MAP_FAILED);
}

/* Exactly the pages from `first` to before `end` are locked. */
static void check_locked(size_t first, size_t end) {
    for (size_t i = 0; i < PAGES; i++) CHECK_EQ(is_locked[i], i >= first && i < end);
}

TEST(pinned_lock, a_pin_locks_the_pages_that_it_touches) {
    make_area();
    CHECK(asthra_pin_memory(area + 3 * page + page - 1, 2));
    check_locked(3, 5);
    CHECK(asthra_unpin_memory(area + 3 * page + page - 1));
    check_locked(0, 0);
}

#if !ASTHRA__ASAN && !ASTHRA__TSAN /* they make mlock do nothing */
static long locked_kb(void) {
    char line[256];
    long kb = -1;
    FILE *status = fopen("/proc/self/status", "r");
    CHECK(status != NULL);
    while (fgets(line, sizeof line, status))
        if (strncmp(line, "VmLck:", 6) == 0) kb = atol(line + 6);
    fclose(status);
    return kb;
}

TEST(pinned_lock, the_system_agrees) {
    make_area();
    long before = locked_kb();
    if (before < 0) SKIP("the system does not say");
    CHECK(asthra_pin_memory(area, 10 * page));
    CHECK_EQ(locked_kb() - before, 10 * (long)page / 1024);
    CHECK(asthra_unpin_memory(area));
    CHECK_EQ(locked_kb(), before);
}

TEST(pinned_lock, without_the_right_to_lock_a_pin_fails_with_the_reason) {
    struct rlimit none = {0, 0};
    make_area();
    CHECK_EQ(setrlimit(RLIMIT_MEMLOCK, &none), 0);
    if (geteuid() == 0 && setuid(65534) != 0) SKIP("root may lock, and may not become another");
    if (mlock(area, page) == 0) SKIP("everybody may lock here");
    CHECK(!asthra_pin_memory(area, 1));
    CHECK_EQ(asthra_last_error().status, ASTHRA_LIMIT);
    CHECK(strstr(asthra_result_message(asthra_last_error()), "ulimit -l") != NULL);
    CHECK_EQ(asthra_pin_count(area), 0);
}
#endif

TEST(pinned_lock, two_pins_on_a_page_do_not_unlock_each_other) {
    make_area();
    CHECK(asthra_pin_memory(area + 100, 10));
    CHECK(asthra_pin_memory(area + 200, 2 * page));
    check_locked(0, 3);
    CHECK(asthra_unpin_memory(area + 200));
    check_locked(0, 1);
    CHECK(asthra_pin_memory(area + 300, 10));
    CHECK(asthra_unpin_memory(area + 100));
    check_locked(0, 1);
    CHECK(asthra_unpin_memory(area + 300));
    check_locked(0, 0);
}

TEST(pinned_lock, only_what_nobody_else_holds_is_unlocked) {
    make_area();
    CHECK(asthra_pin_memory(area, 10 * page));
    CHECK(asthra_pin_memory(area + 4 * page, 1));
    CHECK(asthra_unpin_memory(area));
    check_locked(4, 5);
    CHECK(asthra_unpin_memory(area + 4 * page));
    check_locked(0, 0);
}

TEST(pinned_lock, pins_of_an_address_lock_once) {
    make_area();
    CHECK(asthra_pin_memory(area, page));
    long calls = atomic_load(&lock_calls);
    CHECK(asthra_pin_memory(area, page));
    CHECK(asthra_pin_memory(area, 1));
    CHECK_EQ(atomic_load(&lock_calls), calls);
    CHECK(asthra_unpin_memory(area));
    CHECK(asthra_unpin_memory(area));
    check_locked(0, 1);
    CHECK(asthra_unpin_memory(area));
    check_locked(0, 0);
}

TEST(pinned_lock, a_wider_pin_locks_the_rest) {
    make_area();
    CHECK(asthra_pin_memory(area, 1));
    CHECK(asthra_pin_memory(area, 5 * page));
    check_locked(0, 5);
    CHECK(asthra_unpin_memory(area));
    check_locked(0, 5);
    CHECK(asthra_unpin_memory(area));
    check_locked(0, 0);
}

TEST(pinned_lock, a_refused_lock_changes_nothing) {
    make_area();
    CHECK(asthra_pin_memory(area + page, 1));
    lock_error = EAGAIN;
    CHECK(!asthra_pin_memory(area, 8 * page));
    CHECK_EQ(asthra_last_error().status, ASTHRA_LIMIT);
    check_locked(1, 2); /* of the pages that were locked in vain none is left */
    CHECK(!asthra_pin_memory(area + page, 8 * page)); /* a wider one: the first stays as it was */
    CHECK_EQ(asthra_pin_count(area + page), 1);
    check_locked(1, 2);
    lock_error = 0;
    AsthraPinInfo pin;
    CHECK_EQ(asthra_pin_list(&pin, 1), 1);
    CHECK_EQ(pin.size, 1);
    CHECK(asthra_unpin_memory(area + page));
    check_locked(0, 0);
}

TEST(pinned_lock, what_is_not_mapped_cannot_be_pinned) {
    make_area();
    CHECK_EQ(munmap(area + 8 * page, page), 0);
    lock_error = ENOMEM; /* what the system says; sanitizers say nothing */
    CHECK(!asthra_pin_memory(area, 16 * page));
    CHECK_EQ(asthra_last_error().status, ASTHRA_LIMIT);
    CHECK_EQ(asthra_pin_list(NULL, 0), 0);
    check_locked(0, 0);
}

/* The count of pages is a table too. */
TEST(pinned_lock, without_memory_for_the_count_nothing_changes) {
    make_area();
    CHECK(asthra_pin_memory(area, 1)); /* 128 slots for pages */
    char *wide = mmap(NULL, 300 * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    map_fails_from = 1;
    map_calls = 0;
    CHECK(!asthra_pin_memory(wide, 300 * page));
    CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
    check_locked(0, 1);
    map_fails_from = 0;
    CHECK_EQ(asthra_pin_list(NULL, 0), 1);
    if (asthra_pin_memory(wide, 300 * page)) /* unless ulimit -l is less */
        CHECK(asthra_unpin_memory(wide));
    CHECK(asthra_unpin_memory(area));
    check_locked(0, 0);
    CHECK_EQ(asthra__pinned.pages.used, 0);
}

TEST_PANICS(pinned_lock, blocks_are_held_as_without_locks, "is pinned; unpin it first") {
    char *block = asthra_manual_alloc(1000);
    make_area();
    CHECK(asthra_pin_memory(block + 10, 1));
    asthra_manual_free(block);
}

#if !ASTHRA__TSAN /* is_locked is looked at from outside the lock */
static void *pin_here_and_there(void *seed) {
    uint64_t s = (uint64_t)(uintptr_t)seed;
    for (int i = 0; i < 2000; i++) {
        s ^= s << 13, s ^= s >> 7, s ^= s << 17;
        char *at = area + s % 40 * page / 2;
        CHECK(asthra_pin_memory(at, 1 + (s >> 32) % (10 * page)));
        CHECK(is_locked[(size_t)(at - area) / page]);
        CHECK(asthra_unpin_memory(at));
    }
    return NULL;
}

TEST_WITHIN(60, pinned_lock, threads_leave_no_page_locked) {
    pthread_t threads[3];
    make_area();
    for (uintptr_t i = 0; i < 3; i++)
        CHECK(!pthread_create(&threads[i], NULL, pin_here_and_there, (void *)(i + 1)));
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    check_locked(0, 0);
    CHECK_EQ(asthra__pinned.pages.used, 0);
}
#endif
