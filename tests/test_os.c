/* What the runtime asks of the system: private names, so the bodies are in this file. What one
 * layer alone promises stands under ASTHRA__SYS_LINUX or ASTHRA__SYS_POSIX. */
#include "test.h"

#include <sys/mman.h>

/* 0, or: mappings over others are refused, after they have taken away what is there if it is 2. */
static int refuses_over;
static void *faulty_mmap(void *at, size_t size, int access, int flags, int fd, off_t from) {
    if (!(flags & MAP_FIXED) || refuses_over == 0) return mmap(at, size, access, flags, fd, from);
    if (refuses_over == 2) munmap(at, size);
    errno = ENOMEM;
    return MAP_FAILED;
}
#define mmap faulty_mmap
#define ASTHRA_RT_STATIC
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"
#undef mmap

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <sys/prctl.h>
#include <sys/resource.h>

/* Pages. */

static size_t page;

static char *mapped(size_t pages) {
    page = asthra__os_page_size();
    char *start = asthra__os_map(pages * page);
    CHECK(start != NULL);
    return start;
}

/* Asks the kernel, which answers without a signal. */
static bool can_read(const char *address) {
    int ends[2];
    CHECK_EQ(pipe(ends), 0);
    bool readable = write(ends[1], address, 1) == 1;
    close(ends[0]);
    close(ends[1]);
    return readable;
}

TEST(os, pages_are_zero_and_discarded_pages_are_zero_again) {
    char *start = mapped(8);
    for (size_t i = 0; i < 8 * page; i++) CHECK_EQ(start[i], 0);
    memset(start, 'x', 8 * page);
    asthra__os_discard(start + page, 6 * page);
    CHECK_EQ(start[page - 1], 'x');
    CHECK_EQ(start[page], 0);
    CHECK_EQ(start[7 * page - 1], 0);
    CHECK_EQ(start[7 * page], 'x');
    asthra__os_unmap(start, 8 * page);
    CHECK(ASTHRA__TSAN || !can_read(start)); /* its own thread maps at any time */
}

TEST(os, a_map_that_cannot_be_is_null) {
    errno = 7;
    CHECK(asthra__os_map(SIZE_MAX / 65536 * 65536) == NULL);
    CHECK_EQ(errno, 7);
}

enum { GUARDS = 150, STRIDE = 3 }; /* more than two calls of 64 */

static void check_guards(void) {
    char *start = mapped(GUARDS * STRIDE);
    CHECK(asthra__os_guard_pages(start, STRIDE * page, GUARDS));
    for (size_t i = 0; i < GUARDS * STRIDE; i++)
        CHECK_EQ(can_read(start + i * page), i % STRIDE != 0);
    for (size_t i = 0; i < GUARDS; i++)
        asthra__os_discard(start + (i * STRIDE + 1) * page, (STRIDE - 1) * page);
    for (size_t i = 0; i < GUARDS; i++) CHECK(!can_read(start + i * STRIDE * page));
    asthra__os_unmap_guarded(start, GUARDS * STRIDE * page, GUARDS);
}

TEST(os, guard_pages_fault_and_survive_discards_beside_them) {
    check_guards();
}

#if ASTHRA__SYS_LINUX

TEST(os, guard_pages_work_without_process_madvise) {
    CHECK(asthra__os_guard_pages(mapped(1), 0, 1));
    if (asthra__load(&asthra__pages.guard_way, relaxed) == ASTHRA__OS_GUARD_SPLIT)
        SKIP("this system has no guard marks");
    asthra__store(&asthra__pages.guard_way, ASTHRA__OS_GUARD_EACH, relaxed);
    check_guards();
}

TEST(os, guard_pages_work_with_mprotect) {
    asthra__store(&asthra__pages.guard_way, ASTHRA__OS_GUARD_SPLIT, relaxed);
    check_guards();
    CHECK(asthra__load(&asthra__pages.budget, relaxed) > 0);
}

TEST(os, guards_that_split_mappings_leave_half_of_the_limit_to_the_host) {
    char text[32];
    asthra__os_read_file("/proc/sys/vm/max_map_count", text, sizeof text);
    size_t most = (size_t)atol(text), guards = most / 2;
    if (most == 0 || most > 100000) SKIP("the limit of mappings is not the usual one");
    char *start = mapped(guards * 2);
    asthra__store(&asthra__pages.guard_way, ASTHRA__OS_GUARD_SPLIT, relaxed);
    CHECK(!asthra__os_guard_pages(start, 2 * page, guards));
    uintptr_t before, low, high;
    size_t count = asthra__os_maps_scan(0, &before, &low, &high);
    CHECK(count > most / 4 && count <= most / 2 + 2);
    CHECK(!asthra__os_guard_pages(start + 2 * page * (guards - 1), page, 1));
    CHECK(can_read(start + 2 * page * (guards - 1)));
    asthra__os_unmap(start, guards * 2 * page); /* and what is unmapped may be had again */
    check_guards();
}

#else

static uint32_t guards_now(void) {
    return asthra__load(&asthra__pages.guards, relaxed);
}

TEST(os, guards_that_split_mappings_leave_most_of_the_limit_to_the_host) {
    uint32_t before = guards_now();
    size_t guards = ASTHRA__OS_GUARDS_MOST - before, bytes;
    char *start = mapped(guards * 2 + 2), *more = mapped(4);
    bytes = (guards * 2 + 2) * page;
    CHECK(!asthra__os_guard_pages(start, 2 * page, guards + 1)); /* all or none */
    CHECK(can_read(start));
    CHECK_EQ(guards_now(), before);
    CHECK(asthra__os_guard_pages(start, 2 * page, guards));
    CHECK(!asthra__os_guard_pages(more, 2 * page, 1));
    CHECK(can_read(more));
    CHECK_EQ(guards_now(), ASTHRA__OS_GUARDS_MOST);
    asthra__os_unmap_guarded(start, bytes, guards); /* and what is unmapped may be had again */
    CHECK_EQ(guards_now(), before);
    check_guards();
    CHECK_EQ(guards_now(), before);
}

TEST(os, guards_that_the_system_refuses_are_taken_back) {
    char *start = mapped(8);
    uint32_t before = guards_now();
    asthra__os_unmap(start + 6 * page, page);
    if (can_read(start + 6 * page)) SKIP("a thread of a sanitizer has mapped the hole");
    CHECK(!asthra__os_guard_pages(start, 2 * page, 4));
    for (size_t i = 0; i < 6; i++) CHECK(can_read(start + i * page));
    CHECK_EQ(guards_now(), before);
}

TEST(os, pages_that_cannot_be_given_back_keep_their_bytes) {
    char *start = mapped(2);
    memset(start, 'x', 2 * page);
    refuses_over = 1;
    errno = 7;
    CHECK(!asthra__os_discard(start, 2 * page));
    CHECK(asthra__os_close_pages(start, page));
    CHECK_EQ(errno, 7);
    CHECK(!can_read(start));
    CHECK_EQ(start[page], 'x');
}

TEST_PANICS(os, pages_that_are_lost_end_the_process, "it is out of memory") {
    char *start = mapped(2);
    refuses_over = 2;
    asthra__os_discard(start, 2 * page);
}

TEST(os, pages_are_not_moved_and_all_count_as_resident) {
    char *start = mapped(4);
    *start = 'x';
    CHECK_EQ(asthra__os_move(start, page, start + page, page), ASTHRA__OS_STAYED);
    CHECK_EQ(*start, 'x');
    CHECK_EQ(asthra__os_resident(start, 3 * page), 3 * page);
}

#endif

static char in_data[8] = "data", in_bss[8];
TEST(os, an_address_is_of_the_program_or_the_main_stack_or_elsewhere_or_nowhere) {
    char *start = mapped(2), here;
    CHECK_EQ(asthra__os_mapping_of(in_data), ASTHRA__OS_MAPPING_STATIC);
    CHECK_EQ(asthra__os_mapping_of(in_bss), ASTHRA__OS_MAPPING_STATIC);
    CHECK_EQ(asthra__os_mapping_of(ASTHRA_FN(mapped)), ASTHRA__OS_MAPPING_STATIC);
    CHECK_EQ(asthra__os_mapping_of(start + page + 1), ASTHRA__OS_MAPPING_OTHER);
    if (!ASTHRA__ASAN) CHECK_EQ(asthra__os_mapping_of(&here), ASTHRA__OS_MAPPING_STACK);
    asthra__os_close_pages(start, 2 * page);
    if (!test_is_emulated()) /* qemu-arm lists nothing that is closed and empty */
        CHECK_EQ(asthra__os_mapping_of(start + 1), ASTHRA__OS_MAPPING_OTHER);
    asthra__os_unmap(start, 2 * page);
    if (!ASTHRA__TSAN) CHECK_EQ(asthra__os_mapping_of(start + 1), ASTHRA__OS_MAPPING_NONE);
    CHECK_EQ(asthra__os_mapping_of((void *)16), ASTHRA__OS_MAPPING_NONE);
}

/* ---- what may be executed ---- */

static bool may_be_executed(const void *address) {
    errno = 7;
    bool may = asthra__os_is_executable(address);
    CHECK_EQ(errno, 7);
    return may;
}

TEST(os, functions_may_be_executed_and_data_may_not) {
    CHECK(may_be_executed(ASTHRA_FN(mapped)));
    CHECK(may_be_executed(ASTHRA_FN(can_read)));
    CHECK(may_be_executed(ASTHRA_FN(printf)));
    CHECK(may_be_executed(ASTHRA_FN(getpid)));
    CHECK(!may_be_executed(in_data));
    CHECK(!may_be_executed(in_bss));
    CHECK(!may_be_executed(&environ));
    CHECK(!may_be_executed(NULL));
    CHECK(!may_be_executed((void *)16));
    CHECK(!may_be_executed((void *)UINTPTR_MAX));
}

TEST(os, pages_may_be_executed_once_they_were_made_so) {
    char *start = mapped(2), *at = start + page / 2;
    CHECK_EQ(may_be_executed(at), ASTHRA__SYS_POSIX); /* which knows no better */
    CHECK_EQ(mprotect(start, page, PROT_READ | PROT_EXEC), 0);
    CHECK(may_be_executed(at));
    CHECK_EQ(may_be_executed(at + page), ASTHRA__SYS_POSIX);
    if (!test_is_emulated()) { /* qemu-user does not let it be executed alone */
        CHECK_EQ(mprotect(start, page, PROT_EXEC), 0);
        CHECK(may_be_executed(at));
    }
    CHECK_EQ(mprotect(start, page, PROT_READ), 0);
    CHECK_EQ(may_be_executed(at), ASTHRA__SYS_POSIX);
    asthra__os_unmap(start, 2 * page);
    NEED_UNMAPPED_ADDRESSES();
    CHECK(ASTHRA__TSAN || !may_be_executed(at));
}

#if ASTHRA__SYS_LINUX

TEST(os, what_the_kernel_maps_may_be_executed_too) {
    const char *vdso = (const char *)getauxval(AT_SYSINFO_EHDR); /* its file header */
    if (!vdso) SKIP("this system maps no page of code");
    CHECK(may_be_executed(vdso + 64));
}

TEST(os, data_that_was_made_executable_is_executable) {
    static char data[1 << 18];
    size_t bytes = asthra__os_page_size(), step = sizeof data / 2;
    char *at = data + (step - (uintptr_t)data % step) % step; /* of any size of page */
    CHECK(!may_be_executed(at));
    CHECK_EQ(mprotect(at, bytes, PROT_READ | PROT_EXEC), 0);
    CHECK(may_be_executed(at + 5));
    CHECK(!may_be_executed(at + bytes));
}

TEST(os, where_the_system_does_not_tell_what_is_mapped_may_be_executed) {
    struct rlimit limit, none;
    char *start = mapped(1);
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    none = limit;
    none.rlim_cur = 0;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    if (open("/proc/self/maps", O_RDONLY) >= 0) SKIP("descriptors can be had above the limit");
    bool is_told = may_be_executed(start) && may_be_executed(ASTHRA_FN(mapped));
    asthra__os_unmap(start, page);
    bool is_lost = may_be_executed(start);
    setrlimit(RLIMIT_NOFILE, &limit); /* for what a sanitizer does at the end */
    CHECK(is_told);
    NEED_UNMAPPED_ADDRESSES();
    CHECK(ASTHRA__TSAN || !is_lost);
}

#endif

TEST(os, a_guard_outside_of_every_mapping_is_refused) {
    NEED_UNMAPPED_ADDRESSES();
    char *start = mapped(1);
    asthra__os_unmap(start, page);
    errno = 7;
    CHECK(ASTHRA__TSAN || !asthra__os_guard_pages(start, page, 1));
    CHECK_EQ(errno, 7);
}

static int fork_calls;
TEST_MAYBE_UNUSED static int tell_calls(void *argument) {
    (void)argument;
    return fork_calls;
}

static int in_a_child(int (*run)(void *), void *argument) {
    int status;
    pid_t child = fork();
    if (child == 0) _exit(run(argument));
    CHECK(child > 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    return status;
}

static int count_readable(void *start) {
    int count = 0;
    for (size_t i = 0; i < 4; i++) count += can_read((char *)start + i * page);
    return count;
}

TEST(os, a_forked_child_has_the_guards) {
    char *start = mapped(4);
    CHECK(asthra__os_guard_pages(start, 2 * page, 2));
    int status = in_a_child(count_readable, start);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 2);
}

/* Clock, chance, cores. */

TEST(os, the_clock_does_not_go_back) {
    int64_t last = asthra__os_now_ns();
    CHECK(last > 0);
    for (int i = 0; i < 1000; i++) {
        int64_t now = asthra__os_now_ns();
        CHECK(now >= last);
        last = now;
    }
}

TEST(os, entropy_differs) {
    uint64_t first = asthra__os_entropy();
    CHECK(first != asthra__os_entropy());
    CHECK(first != 0);
}

#if ASTHRA__SYS_LINUX

TEST(os, cores_are_those_that_affinity_allows) {
    cpu_set_t one, all;
    CHECK_EQ(sched_getaffinity(0, sizeof all, &all), 0);
    unsigned cores = asthra__os_cores();
    CHECK(cores >= 1 && cores <= (unsigned)CPU_COUNT(&all));
    CPU_ZERO(&one);
    for (size_t i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++)
        if (CPU_ISSET(i, &all)) CPU_SET(i, &one);
    CHECK_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    CHECK_EQ(asthra__os_cores(), 1);
}

static unsigned quota_of(const char *text) {
    char path[] = "/tmp/asthra_quota_XXXXXX";
    int file = mkstemp(path);
    CHECK(file >= 0);
    CHECK_EQ(write(file, text, strlen(text)), (ssize_t)strlen(text));
    close(file);
    unsigned cores = asthra__os_cores_quota(path);
    unlink(path);
    return cores;
}

TEST(os, a_quota_is_rounded_up_to_whole_cores) {
    CHECK_EQ(quota_of("150000 100000\n"), 2);
    CHECK_EQ(quota_of("100000 100000\n"), 1);
    CHECK_EQ(quota_of("1000 100000\n"), 1);
    CHECK_EQ(quota_of("max 100000\n"), 0);
    CHECK_EQ(quota_of("rubbish"), 0);
    CHECK_EQ(quota_of(""), 0);
    CHECK_EQ(asthra__os_cores_quota("/nowhere/cpu.max"), 0);
}

#else

TEST(os, cores_are_those_that_are_online) {
    CHECK_EQ(asthra__os_cores(), sysconf(_SC_NPROCESSORS_ONLN));
}

#endif

/* Parking. */

TEST(os, a_wait_on_another_value_returns_and_a_timeout_ends_one) {
    ASTHRA__ATOMIC(uint32_t) word = 5;
    errno = 7;
    asthra__os_wait(&word, 4, -1);
    int64_t end = asthra__os_now_ns() + 2000000;
    while (asthra__os_now_ns() < end) asthra__os_wait(&word, 5, end - asthra__os_now_ns() + 1);
    asthra__os_wait(&word, 5, 0);
    CHECK_EQ(errno, 7);
}

/* It may end early for no reason, but not for ever so often. */
TEST(os, a_timed_wait_sleeps) {
    ASTHRA__ATOMIC(uint32_t) word = 5;
    for (int i = 0; i < 20; i++) {
        int64_t start = asthra__os_now_ns();
        asthra__os_wait(&word, 5, 3000000);
        if (asthra__os_now_ns() - start >= 3000000) return;
    }
    CHECK(false);
}

#if ASTHRA_HAS_THREADS

static ASTHRA__ATOMIC(uint32_t) turn;

static void *take_turns(void *argument) {
    for (uint32_t i = 1; i < 2000; i += 2) {
        while (asthra__load(&turn, acquire) != i) asthra__os_wait(&turn, i - 1, -1);
        asthra__store(&turn, i + 1, release);
        asthra__os_wake(&turn, 1);
    }
    return argument;
}

TEST(os, a_wake_ends_a_wait) {
    Asthra__OsThread thread;
    CHECK(asthra__os_thread_start(&thread, 0, take_turns, NULL, "turns"));
    for (uint32_t i = 0; i < 2000; i += 2) {
        while (asthra__load(&turn, acquire) != i) asthra__os_wait(&turn, i - 1, -1);
        asthra__store(&turn, i + 1, release);
        asthra__os_wake(&turn, INT32_MAX);
    }
    asthra__os_thread_join(thread);
    CHECK_EQ(asthra__load(&turn, relaxed), 2000);
}

#if ASTHRA__SYS_POSIX

/* Three words: two of one bucket, one of another. */
static ASTHRA__ATOMIC(uint32_t) words[1024];
static ASTHRA__ATOMIC(uint32_t) * twin, *stranger;

static void find_words(void) {
    twin = stranger = NULL;
    for (size_t i = 1; i < 1024; i++) {
        bool is_twin = asthra__os_bucket(&words[i]) == asthra__os_bucket(&words[0]);
        if (is_twin && !twin) twin = &words[i];
        if (!is_twin && !stranger) stranger = &words[i];
    }
    CHECK(twin && stranger);
}

static size_t sleepers_on(const void *word) {
    Asthra__OsBucket *b = asthra__os_bucket(word);
    size_t count = 0;
    pthread_mutex_lock(&b->lock);
    for (const Asthra__OsSleeper *s = b->first; s; s = s->next) count += s->word == word;
    pthread_mutex_unlock(&b->lock);
    return count;
}

static ASTHRA__ATOMIC(int) woken;
static void *sleep_on(void *word) {
    asthra__os_wait(word, 0, -1);
    asthra__add(&woken, 1, seq_cst);
    return NULL;
}

static void put_to_sleep(pthread_t *thread, ASTHRA__ATOMIC(uint32_t) * word) {
    size_t before = sleepers_on(word);
    CHECK_EQ(pthread_create(thread, NULL, sleep_on, word), 0);
    while (sleepers_on(word) == before) sched_yield();
}

TEST(os, a_wake_is_for_the_oldest_sleepers_of_its_word_alone) {
    pthread_t t[6];
    find_words();
    for (int i = 0; i < 3; i++) put_to_sleep(&t[i], &words[0]);
    put_to_sleep(&t[3], twin);
    put_to_sleep(&t[4], stranger);
    put_to_sleep(&t[5], &words[0]);
    asthra__os_wake(&words[0], 0);
    CHECK_EQ(sleepers_on(&words[0]), 4);
    asthra__os_wake(&words[0], 2); /* no word is changed: who sleeps on would stay */
    CHECK_EQ(sleepers_on(&words[0]), 2);
    pthread_join(t[0], NULL);
    pthread_join(t[1], NULL);
    asthra__os_wake(twin, INT32_MAX);
    pthread_join(t[3], NULL);
    CHECK_EQ(asthra__load(&woken, seq_cst), 3);
    CHECK_EQ(sleepers_on(&words[0]), 2);
    CHECK_EQ(sleepers_on(stranger), 1);
    asthra__os_wake(&words[0], INT32_MAX);
    asthra__os_wake(stranger, 1);
    pthread_join(t[2], NULL);
    pthread_join(t[4], NULL);
    pthread_join(t[5], NULL);
    CHECK_EQ(sleepers_on(&words[0]) + sleepers_on(twin) + sleepers_on(stranger), 0);
}

static ASTHRA__ATOMIC(int) is_late;
static void *be_late(void *word) {
    while (asthra__load(&is_late, acquire) == 0) asthra__os_wait(word, 0, 1000000);
    return NULL;
}

/* Until it was seen in the list, behind `before` others. */
static void put_to_moments(pthread_t *thread, ASTHRA__ATOMIC(uint32_t) * word, size_t before) {
    asthra__store(&is_late, 0, relaxed);
    CHECK_EQ(pthread_create(thread, NULL, be_late, word), 0);
    while (sleepers_on(word) == before) sched_yield();
}

TEST(os, who_is_late_leaves_the_list_wherever_it_stands) {
    pthread_t late, others[3];
    for (size_t before = 0; before < 3; before++) {
        for (size_t i = 0; i < before; i++) put_to_sleep(&others[i], &words[0]);
        put_to_moments(&late, &words[0], before);
        CHECK_EQ(pthread_create(&others[2], NULL, sleep_on, &words[0]), 0);
        while (sleepers_on(&words[0]) <= before) sched_yield();
        asthra__store(&is_late, 1, release);
        pthread_join(late, NULL);
        while (sleepers_on(&words[0]) <= before) sched_yield();
        CHECK_EQ(sleepers_on(&words[0]), before + 1);
        for (size_t left = before + 1; left-- > 0;) {
            asthra__os_wake(&words[0], 1);
            CHECK_EQ(sleepers_on(&words[0]), left);
        }
        for (size_t i = 0; i < before; i++) pthread_join(others[i], NULL);
        pthread_join(others[2], NULL);
    }
}

TEST(os, a_sleep_longer_than_any_time_is_a_long_one) {
    static const int64_t longest[] = {INT64_MAX, INT64_MAX - 1, INT64_C(9000000000999999999)};
    for (size_t i = 0; i < sizeof longest / sizeof *longest; i++) {
        struct timespec due = asthra__os_due(longest[i]), now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        CHECK(due.tv_sec > now.tv_sec + 10000000 && due.tv_nsec >= 0);
        CHECK(due.tv_nsec < 1000000000);
    }
}

static ASTHRA__ATOMIC(int) came_through;
static void *look_and_tell(void *word) {
    asthra__store(&came_through, 1, seq_cst);
    asthra__os_wait(word, 0, -1);
    return NULL;
}

TEST(os, what_changes_before_the_look_is_seen_by_it) {
    for (int i = 0; i < 20; i++) {
        Asthra__OsBucket *b = asthra__os_bucket(&words[i]);
        pthread_t thread;
        asthra__store(&came_through, 0, relaxed);
        pthread_mutex_lock(&b->lock);
        CHECK_EQ(pthread_create(&thread, NULL, look_and_tell, &words[i]), 0);
        while (asthra__load(&came_through, seq_cst) == 0) sched_yield();
        for (int k = 0; k < 100; k++) sched_yield(); /* until it stands before the mutex */
        asthra__store(&words[i], 1, relaxed);
        pthread_mutex_unlock(&b->lock);
        pthread_join(thread, NULL);
    }
}

static void *sleep_and_be_cancelled(void *word) {
    asthra__os_wait(word, 0, -1);
    asthra__store(&came_through, 1, seq_cst);
    pthread_testcancel();
    asthra__store(&came_through, 2, seq_cst);
    return NULL;
}

TEST(os, a_cancelled_thread_sleeps_until_it_is_woken) {
    pthread_t thread;
    void *value;
    CHECK_EQ(pthread_create(&thread, NULL, sleep_and_be_cancelled, &words[0]), 0);
    while (sleepers_on(&words[0]) == 0) sched_yield();
    CHECK_EQ(pthread_cancel(thread), 0);
    for (int i = 0; i < 100; i++) sched_yield();
    CHECK_EQ(sleepers_on(&words[0]), 1);
    asthra__os_wake(&words[0], 1);
    pthread_join(thread, &value);
    CHECK_EQ(asthra__load(&came_through, seq_cst), 1);
    CHECK(value == PTHREAD_CANCELED);
}

/* The parent's sleeper stands in the list, and another thread holds the mutex. */
static int wait_and_wake_in_the_child(void *argument) {
    Asthra__OsThread thread;
    alarm(10);
    if (sleepers_on(argument) != 0) return 1;
    asthra__os_wake(argument, INT32_MAX);
    asthra__os_wait(argument, 0, 1000);
    if (ASTHRA__TSAN) return 42; /* it allows no threads here */
    asthra__store(&turn, 0, relaxed);
    if (!asthra__os_thread_start(&thread, 0, take_turns, NULL, NULL)) return 2;
    for (uint32_t i = 0; i < 2000; i += 2) {
        while (asthra__load(&turn, acquire) != i) asthra__os_wait(&turn, i - 1, -1);
        asthra__store(&turn, i + 1, release);
        asthra__os_wake(&turn, 1);
    }
    asthra__os_thread_join(thread);
    return 42;
}

static ASTHRA__ATOMIC(int) is_held;
static void *hold_all(void *unused) {
    for (size_t i = 0; i < ASTHRA__OS_BUCKETS; i++)
        pthread_mutex_lock(&asthra__os_parking.buckets[i].lock);
    asthra__store(&is_held, 1, release);
    while (asthra__load(&is_held, acquire) == 1) sched_yield();
    for (size_t i = 0; i < ASTHRA__OS_BUCKETS; i++)
        pthread_mutex_unlock(&asthra__os_parking.buckets[i].lock);
    return unused;
}

static int in_a_child_of_holders(int (*run)(void *), void *argument) {
    pthread_t holder;
    CHECK_EQ(pthread_create(&holder, NULL, hold_all, NULL), 0);
    while (asthra__load(&is_held, acquire) == 0) sched_yield();
    int status = in_a_child(run, argument);
    asthra__store(&is_held, 2, release);
    pthread_join(holder, NULL);
    return status;
}

TEST(os, a_forked_child_parks_whatever_the_parents_threads_were_at) {
    pthread_t sleeper;
    put_to_sleep(&sleeper, &words[0]);
    int status = in_a_child_of_holders(wait_and_wake_in_the_child, &words[0]);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 42);
    CHECK_EQ(sleepers_on(&words[0]), 1);
    asthra__os_wake(&words[0], 1);
    pthread_join(sleeper, NULL);
}

static void wake_in_the_child(void) {
    alarm(10);
    asthra__os_wake(&words[0], 1);
    fork_calls = 42;
}

TEST(os, hooks_of_a_forked_child_may_wake) {
    asthra__os_on_fork(NULL, NULL, wake_in_the_child); /* before anybody has parked */
    asthra__os_wake(&words[0], 1);
    int status = in_a_child_of_holders(tell_calls, NULL);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 42);
}

#endif

/* Fences: both sides write theirs and read the other's; without the fences both read 0 at times. */

enum { DUELS = 20000 };
static struct {
    ASTHRA__ATOMIC(int) mine;
    char gap[124];
} duel[2];
static ASTHRA__ATOMIC(int) go_round, done_round;
static int seen_by_light;

static void until(ASTHRA__ATOMIC(int) * word, int value) {
    for (int spins = 0; asthra__load(word, acquire) != value; spins++) {
        if (spins < 200)
            asthra__cpu_relax();
        else
            asthra__os_yield();
    }
}

static void *light_side(void *argument) {
    for (int i = 1; i <= DUELS; i++) {
        until(&go_round, i);
        asthra__store(&duel[0].mine, 1, relaxed);
        asthra__os_fence_light();
        seen_by_light = asthra__load(&duel[1].mine, relaxed);
        asthra__store(&done_round, i, release);
    }
    return argument;
}

static void fight(void) {
    Asthra__OsThread thread;
    CHECK(asthra__os_thread_start(&thread, 0, light_side, NULL, NULL));
    for (int i = 1; i <= DUELS; i++) {
        asthra__store(&duel[0].mine, 0, relaxed);
        asthra__store(&duel[1].mine, 0, relaxed);
        asthra__store(&go_round, i, release);
        for (volatile int pause = i % 128; pause > 0;) pause = pause - 1; /* until both are at it */
        asthra__store(&duel[1].mine, 1, relaxed);
        asthra__os_fence_heavy();
        int seen = asthra__load(&duel[0].mine, relaxed);
        until(&done_round, i);
        CHECK(seen || seen_by_light);
    }
    asthra__os_thread_join(thread);
}

TEST(os, light_and_heavy_fences_order_two_threads) {
    asthra__os_fence_setup();
    fight();
}

#if ASTHRA__SYS_LINUX
TEST(os, fences_order_two_threads_without_membarrier) {
    fight();
}
#endif

static int fence_again(void *argument) {
    (void)argument;
    for (int i = 0; i < 10; i++) asthra__os_fence_heavy(); /* aborts if it is not registered */
    return 42;
}

TEST(os, a_forked_child_may_fence) {
    asthra__os_fence_setup();
    int status = in_a_child(fence_again, NULL);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
}

/* Threads. */

typedef struct Seen {
    char name[16];
    sigset_t blocked;
    bool is_main, has_bounds;
    char *low, *high, *local;
    size_t threads;
} Seen;

static void *look_around(void *argument) {
    Seen *seen = argument;
    pthread_sigmask(SIG_SETMASK, NULL, &seen->blocked);
    seen->is_main = asthra__os_is_main_thread();
    seen->has_bounds = asthra__os_stack_bounds((void **)&seen->low, (void **)&seen->high);
    char local;
    seen->local = __builtin_frame_address(0);
    seen->threads = asthra__os_thread_count();
    (void)local;
    return argument;
}

TEST(os, a_thread_has_its_stack_and_blocks_what_is_not_its_own_fault) {
    Seen seen;
    Asthra__OsThread thread;
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    size_t threads = asthra__os_thread_count();
    CHECK(asthra__os_thread_start(&thread, 1024 * 1024, look_around, &seen, "looks around"));
    asthra__os_thread_join(thread);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    CHECK(!seen.is_main && asthra__os_is_main_thread());
    CHECK_EQ(seen.has_bounds, ASTHRA__SYS_LINUX_ABI);
    if (seen.has_bounds) {
        CHECK(seen.local > seen.low && seen.local < seen.high);
        CHECK(seen.high - seen.low >= 1000 * 1024);
    }
#if ASTHRA__SYS_LINUX
    CHECK(seen.threads > threads && threads >= 1);
#else
    CHECK(seen.threads == 0 && threads == 0); /* unknown */
#endif
    CHECK(sigismember(&seen.blocked, SIGUSR1) == 1 && sigismember(&seen.blocked, SIGINT) == 1);
    CHECK(sigismember(&seen.blocked, SIGSEGV) == 0 && sigismember(&seen.blocked, SIGFPE) == 0);
    for (int number = 1; number < 32; number++)
        CHECK_EQ(sigismember(&before, number), sigismember(&after, number));
}

#if ASTHRA__SYS_LINUX

static void *wait_for_name(void *argument) {
    char name[16] = "";
    while (strcmp(name, "a-name-that-is-") != 0) {
        prctl(PR_GET_NAME, name);
        asthra__os_yield();
    }
    return argument;
}

TEST(os, a_thread_shows_the_first_fifteen_bytes_of_its_name) {
    Asthra__OsThread thread;
    CHECK(asthra__os_thread_start(&thread, 0, wait_for_name, NULL, "a-name-that-is-too-long"));
    asthra__os_thread_join(thread);
}

#endif

TEST(os, a_thread_that_cannot_be_is_refused) {
    Asthra__OsThread thread;
    errno = 7;
    CHECK(!asthra__os_thread_start(&thread, SIZE_MAX / 16 * 15, take_turns, NULL, "too big"));
    CHECK_EQ(errno, 7);
}

static void before_fork(void) {
    fork_calls = fork_calls * 10 + 1;
}
static void after_fork_parent(void) {
    fork_calls = fork_calls * 10 + 2;
}
static void after_fork_child(void) {
    fork_calls = fork_calls * 10 + 3;
}

TEST(os, hooks_of_fork_are_called_on_their_sides) {
    asthra__os_on_fork(before_fork, after_fork_parent, after_fork_child);
    int status = in_a_child(tell_calls, NULL);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 13);
    CHECK_EQ(fork_calls, 12);
}

static int bounds_in_the_child(void *argument) {
    char *low, *high, *here = __builtin_frame_address(0);
    (void)argument;
    if (!asthra__os_is_main_thread()) return 3;
    if (!asthra__os_stack_bounds((void **)&low, (void **)&high))
        return ASTHRA__SYS_LINUX_ABI ? 1 : 42; /* unknown, and not the first thread's */
    return here > low && here < high ? 42 : 2;
}

static void *fork_on_a_thread(void *argument) {
    *(int *)argument = in_a_child(bounds_in_the_child, NULL);
    return NULL;
}

TEST(os, a_thread_that_forked_is_main_in_the_child_and_finds_its_own_stack) {
    Asthra__OsThread thread;
    int status = 0;
    CHECK(asthra__os_thread_start(&thread, 0, fork_on_a_thread, &status, NULL));
    asthra__os_thread_join(thread);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 42);
}

#endif

TEST(os, the_main_stack_has_the_room_that_its_limit_gives) {
    char *low, *high, *here = __builtin_frame_address(0);
    struct rlimit limit;
    CHECK(asthra__os_is_main_thread());
    CHECK(asthra__os_stack_bounds((void **)&low, (void **)&high));
    CHECK(here > low && here < high);
    CHECK_EQ(getrlimit(RLIMIT_STACK, &limit), 0);
    if (limit.rlim_cur < (rlim_t)1 << 30) CHECK(high - low <= (ptrdiff_t)limit.rlim_cur);
    CHECK(high - low > 64 * 1024);
}

#if ASTHRA__SYS_POSIX
/* Other mappings may lie there by now. */
TEST(os, room_that_a_later_limit_gives_the_main_stack_is_not_counted) {
    char *low, *high, *low_then, *high_then;
    struct rlimit limit;
    CHECK_EQ(getrlimit(RLIMIT_STACK, &limit), 0);
    CHECK(asthra__os_stack_bounds((void **)&low, (void **)&high));
    if (limit.rlim_cur == RLIM_INFINITY) SKIP("the stack of this process has no limit");
    limit.rlim_cur += (rlim_t)1 << 20;
    if (setrlimit(RLIMIT_STACK, &limit) != 0) SKIP("the limit of the stack may not be raised");
    CHECK(asthra__os_stack_bounds((void **)&low_then, (void **)&high_then));
    CHECK(low_then == low && high_then == high);
    limit.rlim_cur -= (rlim_t)2 << 20;
    CHECK_EQ(setrlimit(RLIMIT_STACK, &limit), 0);
    CHECK(asthra__os_stack_bounds((void **)&low_then, (void **)&high_then));
    CHECK(low_then == low + (1 << 20) && high_then == high);
}
#endif

/* Faults. */

static void *volatile fault_address;
static sigjmp_buf way_out;
static char *forbidden;
static volatile int host_signals;

static void touch(char *address) {
    *(volatile char *)address = 1;
}

static char landing[64 * 1024] __attribute__((aligned(64)));

static void landed(void *argument) {
    CHECK(argument == landing);
    siglongjmp(way_out, 1);
}

static bool redirect(void *address, void *context) {
    fault_address = address;
    return asthra__os_fault_redirect(context, landed, landing, landing + sizeof landing);
}

static bool open_the_page(void *address, void *context) {
    (void)context;
    fault_address = address;
    return mprotect(forbidden, page, PROT_READ | PROT_WRITE) == 0;
}

static bool not_mine(void *address, void *context) {
    (void)context;
    fault_address = address;
    return false;
}

static void forbid_a_page(void) {
    forbidden = mapped(1);
    CHECK_EQ(mprotect(forbidden, page, PROT_NONE), 0);
}

TEST(os, a_fault_handler_may_mend_the_cause) {
    forbid_a_page();
    CHECK(asthra__os_fault_install(open_the_page));
    touch(forbidden + 17);
    CHECK(fault_address == forbidden + 17);
    CHECK_EQ(forbidden[17], 1);
}

#if ASTHRA__SYS_LINUX_ABI

TEST(os, a_fault_can_be_redirected_again_and_again) {
    volatile int times = 0;
    forbid_a_page();
    CHECK(asthra__os_fault_install(redirect));
    if (sigsetjmp(way_out, 1) == 0 || times < 5) {
        times = times + 1;
        touch(forbidden + times);
        CHECK(false);
    }
    CHECK(fault_address == forbidden + 5);
}

#if defined(__x86_64__) || defined(__i386__)
static volatile long double sum;

static void landed_among_sums(void *argument) {
    volatile long double one = 1;
    sum = one + one;
    landed(argument);
}
static bool redirect_sums(void *address, void *context) {
    (void)address;
    return asthra__os_fault_redirect(context, landed_among_sums, landing, landing + sizeof landing);
}

TEST(os, a_redirected_fault_leaves_nothing_of_the_sums_that_it_interrupted) {
    forbid_a_page();
    CHECK(asthra__os_fault_install(redirect_sums));
    if (sigsetjmp(way_out, 1) == 0)
        __asm__ volatile("fld1; fld1; fld1; fld1; fld1; fld1; fld1; fld1; movb $1, %0"
                         : "=m"(*forbidden));
    CHECK(sum == 2);
}
#endif

static int eat_stack(volatile char *above) {
    volatile char room[512];
    room[0] = above[0];
    return room[0] ? 0 : eat_stack(room) + room[0]; /* always 0 */
}

TEST(os, an_overflow_is_handled_on_the_alternate_stack) {
#if ASTHRA__TSAN
    SKIP("ThreadSanitizer's own stack of calls overflows first");
#endif
    void *memory, *again, *low, *high;
    char *here = __builtin_frame_address(0);
    struct rlimit small = {1024 * 1024, 1024 * 1024};
    CHECK_EQ(setrlimit(RLIMIT_STACK, &small), 0);
    CHECK(asthra__os_fault_stack_enter(&memory));
    CHECK(asthra__os_fault_stack_enter(&again));
    CHECK(again == NULL); /* the one that is there is kept */
    CHECK(asthra__os_fault_install(redirect));
    CHECK(asthra__os_stack_bounds(&low, &high));
    if (sigsetjmp(way_out, 1) == 0) eat_stack((volatile char *)"");
    CHECK((char *)fault_address < here);
    CHECK((char *)fault_address <= (char *)low + 64 * 1024);
    asthra__os_fault_stack_leave(memory);
}

#else /* nobody said where a context keeps what: faults go on */

static bool call(void *address, void *context) {
    fault_address = address;
    return asthra__os_fault_call(context, landed, landing);
}

static int fault_and_redirect(void *handler) {
    Asthra__OsFaultHandler *which = handler;
    signal(SIGSEGV, SIG_DFL);
    if (!asthra__os_fault_install(*which)) return 1;
    touch(forbidden);
    return 2;
}

TEST(os, a_fault_that_cannot_be_redirected_goes_on) {
    static Asthra__OsFaultHandler handlers[] = {redirect, call};
    forbid_a_page();
    for (int i = 0; i < 2; i++) {
        int status = in_a_child(fault_and_redirect, &handlers[i]);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    }
}

#endif

TEST(os, an_alternate_stack_of_the_host_is_kept) {
    static char hosts[64 * 1024];
    stack_t host = {.ss_sp = hosts, .ss_size = sizeof hosts}, now;
    void *memory = hosts;
    CHECK_EQ(sigaltstack(&host, NULL), 0);
    CHECK(asthra__os_fault_stack_enter(&memory));
    CHECK(memory == NULL);
    asthra__os_fault_stack_leave(memory);
    CHECK_EQ(sigaltstack(NULL, &now), 0);
    CHECK(now.ss_sp == hosts);
}

TEST(os, an_alternate_stack_is_taken_away_again) {
    stack_t none = {.ss_flags = SS_DISABLE}, now;
    void *memory;
    CHECK_EQ(sigaltstack(&none, NULL), 0); /* a sanitizer's */
    for (int i = 0; i < 1000; i++) {
        CHECK(asthra__os_fault_stack_enter(&memory));
        CHECK(memory != NULL);
        asthra__os_fault_stack_leave(memory);
    }
    CHECK_EQ(sigaltstack(NULL, &now), 0);
    CHECK(now.ss_flags & SS_DISABLE);
}

static void hosts_handler(int number, siginfo_t *info, void *context) {
    (void)context;
    CHECK_EQ(number, SIGSEGV);
    host_signals = host_signals + 1;
    fault_address = info->si_addr;
    siglongjmp(way_out, 1);
}

static void install_hosts(int flags) {
    struct sigaction action = {.sa_flags = SA_SIGINFO | flags};
    action.sa_sigaction = hosts_handler;
    sigemptyset(&action.sa_mask);
    CHECK_EQ(sigaction(SIGSEGV, &action, NULL), 0);
}

TEST(os, what_is_not_ours_goes_to_the_hosts_handler) {
    volatile int times = 0;
    forbid_a_page();
    install_hosts(SA_NODEFER);
    CHECK(asthra__os_fault_install(not_mine));
    if (sigsetjmp(way_out, 0) == 0 || times < 3) { /* the mask is not restored: NODEFER is kept */
        times = times + 1;
        touch(forbidden + times);
    }
    CHECK_EQ(host_signals, 3);
    CHECK(fault_address == forbidden + 3);
}

TEST(os, removal_brings_the_hosts_handler_back) {
    struct sigaction now;
    install_hosts(0);
    CHECK(asthra__os_fault_install(not_mine));
    asthra__os_fault_remove();
    CHECK_EQ(sigaction(SIGSEGV, NULL, &now), 0);
    CHECK(now.sa_sigaction == hosts_handler);
    CHECK_EQ(sigaction(SIGBUS, NULL, &now), 0);
    CHECK(now.sa_sigaction != asthra__os_fault_signal);
}

static struct sigaction below;
static void handler_on_top(int number, siginfo_t *info, void *context) {
    host_signals = host_signals + 1;
    below.sa_sigaction(number, info, context);
}

TEST(os, a_handler_that_was_stacked_on_ours_survives_removal_and_return) {
    struct sigaction top = {.sa_flags = SA_SIGINFO}, now;
    top.sa_sigaction = handler_on_top;
    sigemptyset(&top.sa_mask);
    forbid_a_page();
    CHECK(asthra__os_fault_install(not_mine));
    CHECK_EQ(sigaction(SIGSEGV, &top, &below), 0);
    asthra__os_fault_remove();
    CHECK_EQ(sigaction(SIGSEGV, NULL, &now), 0);
    CHECK(now.sa_sigaction == handler_on_top);
    CHECK(asthra__os_fault_install(open_the_page)); /* and must not end below itself */
    touch(forbidden);
    CHECK_EQ(host_signals, 1);
}

static int fault_with_default(void *send) {
    int (*sent)(int) = raise;
    signal(SIGSEGV, SIG_DFL);
    if (!asthra__os_fault_install(not_mine)) return 1;
    if (send)
        sent(SIGSEGV);
    else
        touch(forbidden);
    return 2;
}

TEST(os, what_nobody_handles_ends_the_process) {
    forbid_a_page();
    int status = in_a_child(fault_with_default, NULL);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

TEST(os, a_signal_that_was_sent_is_not_taken_for_a_fault) {
    int status = in_a_child(fault_with_default, &page);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    CHECK(asthra__os_fault_install(open_the_page));
    struct sigaction ours;
    CHECK_EQ(sigaction(SIGSEGV, NULL, &ours), 0);
    asthra__os_fault_remove();
    CHECK(signal(SIGSEGV, SIG_IGN) != SIG_ERR);
    CHECK(asthra__os_fault_install(open_the_page));
    raise(SIGSEGV); /* ignored, as the host asked */
    CHECK(fault_address == NULL);
}

/* Backtraces and names. */

enum { FRAMES = 64 };
static void *frames[FRAMES];
static size_t frame_count;

/* Calls through a pointer that the compiler cannot see through, or it unrolls the recursion. */
static void (*volatile look_on)(int depth, size_t room);

static void look_back(int depth, size_t room) {
    look_on = look_back;
    if (depth > 0)
        look_on(depth - 1, room);
    else
        frame_count = asthra__os_backtrace(frames, room);
    __asm__ volatile("" ::: "memory"); /* no tail call: each level keeps its frame */
}

TEST(os, a_backtrace_is_as_deep_as_the_calls_and_no_longer_than_its_room) {
    look_back(0, FRAMES);
    size_t shallow = frame_count;
    if (shallow == 0) SKIP("this program has no unwinder");
    look_back(20, FRAMES);
    CHECK_EQ(frame_count, shallow + 20);
    CHECK(frames[1] == frames[2] && frames[1] == frames[19]);
    look_back(20, 7);
    CHECK_EQ(frame_count, 7);
}

TEST(os, every_frame_has_a_name_or_an_offset_that_tools_can_read) {
    look_back(3, FRAMES);
    for (size_t i = 0; i < frame_count; i++) {
        char text[256];
        size_t length = asthra__os_symbol(frames[i], text, sizeof text - 1);
        CHECK(length > 4 && length < sizeof text);
        text[length] = 0;
        CHECK(strstr(text, "0x") != NULL);
        CHECK(strstr(text, " (") != NULL && text[length - 1] == ')');
    }
}

TEST(os, a_name_fits_its_room_and_a_wild_address_is_only_a_number) {
    char text[64];
    memset(text, '#', sizeof text);
    CHECK_EQ(asthra__os_symbol((const void *)16, text, sizeof text), 4);
    CHECK(memcmp(text, "0x10#", 5) == 0);
    memset(text, '#', sizeof text);
    CHECK_EQ(asthra__os_symbol((const void *)(uintptr_t)look_back, text, 5), 5);
    CHECK_EQ(text[5], '#');
}

/* Reports. */

TEST(os, an_error_is_written_whole_and_errno_stays) {
    int ends[2];
    char got[8] = "";
    CHECK_EQ(pipe(ends), 0);
    int kept = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
    errno = 7;
    asthra__os_write_error("report\n", 7);
    bool is_terminal = asthra__os_stderr_is_terminal();
    int after = errno;
    dup2(kept, STDERR_FILENO);
    CHECK_EQ(read(ends[0], got, 7), 7);
    CHECK_STR(got, "report\n");
    CHECK(!is_terminal);
    CHECK_EQ(after, 7);
}
