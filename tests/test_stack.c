/* The promises of src/memory/stack.h, one test each. It holds the bodies itself: to count what the
 * heap gave, and to let mappings fail. */
#include "test.h"

#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unwind.h>

static atomic_long mappings, fail_at; /* fail_at 0: none */
static atomic_bool fails_on;

static void *faulty_mmap(void *at, size_t size, int access, int flags, int fd, off_t from) {
    long fail = atomic_load(&fail_at), now = atomic_fetch_add(&mappings, 1) + 1;
    if (fail != 0 && (atomic_load(&fails_on) ? now >= fail : now == fail)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return mmap(at, size, access, flags, fd, from);
}

#define mmap faulty_mmap
#define ASTHRA_RT_IMPLEMENTATION
#define ASTHRA_RT_STATIC
#include "asthra_rt.h"
#undef mmap

static size_t current_bytes(void) {
    Asthra__AccountSum sum = {0, 0, 0, 0};
    asthra__stack_sum(&sum);
    return sum.total - sum.freed;
}

static bool count_one(void *block, size_t size, void *count) {
    (void)block, (void)size;
    ++*(size_t *)count;
    return true;
}
static size_t chunks(void) {
    size_t count = 0;
    asthra__heap_walk(ASTHRA_MEMORY_ZONE_STACK, count_one, &count);
    return count;
}

static void start(size_t workers, uint64_t seed) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = workers;
    c.deterministic_seed = seed;
    CHECK(asthra_runtime_init(&c));
}

static void *filled(size_t size, int with) {
    void *block = asthra_stack_alloc(size);
    CHECK(block != NULL);
    CHECK_EQ((uintptr_t)block % 16, 0);
    memset(block, with, size);
    return block;
}
static void is_still(const void *block, size_t size, int with) {
    const unsigned char *bytes = block;
    if (size > 0) CHECK_EQ(bytes[0], (unsigned char)with);
    if (size > 1) CHECK(memcmp(bytes, bytes + 1, size - 1) == 0);
}

/* ---- blocks ---- */

TEST(stack, blocks_are_aligned_and_apart) {
    char *blocks[600];
    for (size_t i = 0; i < 600; i++) blocks[i] = filled(i, (int)i);
    for (size_t i = 0; i < 600; i++) is_still(blocks[i], i, (int)i);
    CHECK_EQ(current_bytes(), 599 * 600 / 2);
}

TEST(stack, a_block_of_no_bytes_is_a_block_of_its_own) {
    char *a = asthra_stack_alloc(0), *b = asthra_stack_alloc(0), *c = asthra_stack_alloc(1);
    CHECK(a != NULL && b != NULL && c != NULL);
    CHECK(a != b && b != c && a != c);
}

TEST(stack, sizes_that_cannot_be_are_refused_with_a_reason) {
    static const size_t sizes[] = {SIZE_MAX,           SIZE_MAX - 15,           SIZE_MAX - 31,
                                   SIZE_MAX - 4096,    (size_t)PTRDIFF_MAX + 1, PTRDIFF_MAX,
                                   PTRDIFF_MAX / 2 + 1};
    char *before = filled(40, 1);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        CHECK(asthra_stack_alloc(sizes[i]) == NULL);
        CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
    }
    char *after = filled(40, 2);
    CHECK(after > before && after - before < 100); /* the region is as it was */
    is_still(before, 40, 1);
}

TEST(stack, a_region_grows_by_chunks_and_gives_them_back) {
    static char *blocks[3000];
    AsthraStackMark m = asthra_stack_mark();
    filled(1, 1);
    size_t before = chunks();
    for (int i = 0; i < 3000; i++) blocks[i] = filled(300, i);
    char *large = filled(1000000, 5), *huge = filled(10000000, 6);
    for (int i = 0; i < 3000; i++) is_still(blocks[i], 300, i);
    is_still(large, 1000000, 5);
    is_still(huge, 10000000, 6);
    CHECK(chunks() > before + 10);
    CHECK_EQ(current_bytes(), 3000 * 300 + 11000000 + 1);
    asthra_stack_release(&m);
    CHECK(chunks() <= before + 1); /* a spare */
    CHECK_EQ(current_bytes(), 0);
}

TEST(stack, a_loop_over_the_border_of_a_chunk_stays_away_from_the_heap) {
    filled(4000, 1);
    char *first = NULL;
    for (int i = 0; i < 100; i++) {
        AsthraStackMark m = asthra_stack_mark();
        char *block = filled(500, 2);
        if (i == 0) first = block;
        CHECK(block == first);
        size_t now = chunks();
        asthra_stack_release(&m);
        CHECK_EQ(chunks(), now);
    }
}

TEST(stack, errno_is_left_as_it_was) {
    errno = 77;
    AsthraStackMark m = asthra_stack_mark();
    filled(100000, 1);
    asthra_stack_release(&m);
    CHECK(asthra_stack_alloc(SIZE_MAX) == NULL);
    CHECK_EQ(errno, 77);
}

TEST(stack, blocks_are_of_the_zone) {
    char *block = filled(100, 1);
    int local = 0;
    CHECK_EQ(asthra__heap_zone_of(block), ASTHRA_MEMORY_ZONE_STACK);
    CHECK_EQ(asthra__heap_zone_of(block + 99), ASTHRA_MEMORY_ZONE_STACK);
    CHECK_EQ(asthra__heap_zone_of(&local), ASTHRA_MEMORY_ZONE_NONE);
}

/* ---- scopes ---- */

TEST(stack, a_release_frees_what_came_after_the_mark) {
    char *outer = filled(50, 1);
    AsthraStackMark m = asthra_stack_mark();
    char *first = filled(70, 2);
    filled(90, 3);
    CHECK_EQ(current_bytes(), 50 + 70 + 90);
    asthra_stack_release(&m);
    CHECK(!m.open);
    CHECK_EQ(current_bytes(), 50);
    CHECK(asthra_stack_alloc(70) == first);
    is_still(outer, 50, 1);
}

TEST(stack, scopes_nest) {
    AsthraStackMark m[100];
    char *blocks[100];
    for (int i = 0; i < 100; i++) {
        m[i] = asthra_stack_mark();
        blocks[i] = filled((size_t)i * 20, i);
    }
    for (int i = 99; i >= 0; i--) {
        is_still(blocks[i], (size_t)i * 20, i);
        asthra_stack_release(&m[i]);
        CHECK_EQ(current_bytes(), 20 * (i - 1) * i / 2);
    }
}

/* More than there are stamps in a block of them; and before the region begins too. */
TEST(stack, scopes_need_no_memory) {
    enum { DEEP = 20000 };
    static AsthraStackMark m[DEEP];
    atomic_store(&fails_on, true);
    atomic_store(&fail_at, 1);
    for (int i = 0; i < DEEP; i++) CHECK((m[i] = asthra_stack_mark()).open);
    for (int i = DEEP - 1; i >= 0; i--) asthra_stack_release(&m[i]);
    atomic_store(&fail_at, 0);
    CHECK_EQ(chunks(), 0);
    for (int i = 0; i < DEEP / 2; i++) m[i] = asthra_stack_mark();
    filled(10, 1);
    for (int i = DEEP / 2; i < DEEP; i++) m[i] = asthra_stack_mark();
    for (int i = DEEP - 1; i >= 0; i--) asthra_stack_release(&m[i]);
    CHECK_EQ(current_bytes(), 0);
}

static int leaves_by_return(void) {
    ASTHRA_STACK_SCOPE(m) {
        filled(100, 1);
        return 7;
    }
    return 0;
}

TEST(stack, a_scope_is_released_however_it_is_left) {
    int rounds = 0;
    filled(8, 1);
    ASTHRA_STACK_SCOPE(m) {
        filled(100, 1);
        rounds++;
    }
    CHECK_EQ(rounds, 1);
    CHECK_EQ(current_bytes(), 8);
    ASTHRA_STACK_SCOPE(m) {
        filled(100, 1);
        if (rounds) break;
        rounds = 99;
    }
    CHECK_EQ(current_bytes(), 8);
    ASTHRA_STACK_SCOPE(m) {
        filled(100, 1);
        if (rounds) continue;
        rounds = 99;
    }
    CHECK_EQ(current_bytes(), 8);
    CHECK_EQ(leaves_by_return(), 7);
    CHECK_EQ(current_bytes(), 8);
    for (int i = 0; i < 10; i++) {
        ASTHRA_STACK_SCOPE(outer) {
            filled(100, 1);
            ASTHRA_STACK_SCOPE(inner) {
                filled(100, 1);
                if (i == 5) goto out;
            }
        }
    }
out:
    CHECK_EQ(current_bytes(), 8);
    CHECK_EQ(rounds, 1);
}

/* What compilers without cleanups get. */
TEST(stack, a_scope_of_other_compilers_ends_at_its_brace) {
    for (AsthraStackMark m = asthra_stack_mark(); m.open; asthra_stack_release(&m)) {
        filled(100, 1);
        CHECK_EQ(current_bytes(), 100);
    }
    CHECK_EQ(current_bytes(), 0);
}

/* ---- releases in a wrong order ---- */

#define INNERMOST "the innermost open"

TEST_PANICS(stack, an_outer_mark_cannot_be_released, INNERMOST) {
    AsthraStackMark outer = asthra_stack_mark();
    filled(10, 1);
    AsthraStackMark inner = asthra_stack_mark();
    CHECK(inner.open);
    asthra_stack_release(&outer);
}
TEST_PANICS(stack, an_outer_mark_cannot_be_released_before_any_allocation, INNERMOST) {
    AsthraStackMark outer = asthra_stack_mark(), inner = asthra_stack_mark();
    CHECK(inner.open);
    asthra_stack_release(&outer);
}
TEST_PANICS(stack, a_mark_is_released_once, "expected no more releases") {
    AsthraStackMark m = asthra_stack_mark();
    filled(10, 1);
    asthra_stack_release(&m);
    asthra_stack_release(&m);
}
TEST_PANICS(stack, a_mark_is_released_once_inside_another, "found a mark that is not open") {
    AsthraStackMark outer = asthra_stack_mark(), m = asthra_stack_mark();
    CHECK(outer.open);
    asthra_stack_release(&m);
    asthra_stack_release(&m);
}
TEST_PANICS(stack, a_copy_of_a_released_mark_is_not_the_next_one, "one released before") {
    AsthraStackMark m = asthra_stack_mark(), copy = m;
    filled(10, 1);
    asthra_stack_release(&m);
    AsthraStackMark next = asthra_stack_mark();
    CHECK(next.open && next.depth != copy.depth);
    asthra_stack_release(&copy);
}
TEST_PANICS(stack, no_mark_is_no_mark, "expected a mark, found NULL") {
    asthra_stack_release(NULL);
}
TEST_PANICS(stack, a_mark_of_zeros_is_not_open, "not open") {
    AsthraStackMark m = asthra_stack_mark(), none = {NULL, 0, true};
    CHECK(m.open);
    asthra_stack_release(&none);
}
static void *releases(void *mark) {
    AsthraStackMark own = asthra_stack_mark();
    CHECK(own.open);
    asthra_stack_release(mark);
    return NULL;
}
TEST_PANICS(stack, a_mark_of_another_task_cannot_be_released, INNERMOST) {
    start(1, 0);
    AsthraStackMark m = asthra_stack_mark();
    asthra_await(asthra_spawn(releases, &m));
}
TEST_PANICS(stack, a_mark_of_another_thread_cannot_be_released, INNERMOST) {
    pthread_t t;
#ifdef ASTHRA_RT_NO_THREADS
    AsthraStackMark n = asthra_stack_mark();
    releases(&n);
#endif
    AsthraStackMark m = asthra_stack_mark();
    CHECK_EQ(pthread_create(&t, NULL, releases, &m), 0);
    pthread_join(t, NULL);
}
TEST_PANICS(stack, a_scope_that_another_compiler_left_by_break_is_seen, INNERMOST) {
    ASTHRA_STACK_SCOPE(outer) {
        for (AsthraStackMark m = asthra_stack_mark(); m.open; asthra_stack_release(&m)) break;
    }
}

/* ---- single frees ---- */

static void stack_free(void *ptr) {
    asthra__stack_free(ptr, "stack_free");
}

TEST(stack, the_newest_block_can_be_freed_and_then_the_one_below) {
    char *blocks[500];
    for (int i = 0; i < 500; i++) blocks[i] = filled((size_t)i * 3, i);
    stack_free(NULL);
    for (int i = 499; i >= 0; i--) {
        is_still(blocks[i], (size_t)i * 3, i);
        stack_free(blocks[i]);
    }
    CHECK_EQ(current_bytes(), 0);
    CHECK(chunks() <= 2);
    CHECK(asthra_stack_alloc(1) == blocks[0]);
}
TEST(stack, a_released_scope_lets_the_block_below_it_go) {
    char *block = filled(10, 1);
    for (int nested = 0; nested < 2; nested++) {
        AsthraStackMark outer = asthra_stack_mark(), inner = asthra_stack_mark();
        filled(10, 2);
        asthra_stack_release(&inner);
        if (nested) filled(10, 2);
        asthra_stack_release(&outer);
    }
    stack_free(block);
    CHECK_EQ(current_bytes(), 0);
}

#define INVALID "Invalid pointer in stack_free"

TEST_PANICS(stack, only_the_newest_block_can_be_freed, "is not the newest block, which is") {
    char *older = filled(10, 1);
    filled(10, 2);
    stack_free(older);
}
TEST_PANICS(stack, an_interior_pointer_cannot_be_freed, INVALID) {
    char *block = filled(100, 1);
    stack_free(block + 16);
}
TEST_PANICS(stack, a_block_is_freed_once, "was freed or released before") {
    char *below = filled(10, 1), *block = filled(10, 1);
    CHECK(below != block);
    stack_free(block);
    stack_free(block);
}
TEST_PANICS(stack, the_last_block_is_freed_once, "the region has no block") {
    char *block = filled(10, 1);
    stack_free(block);
    stack_free(block);
}
TEST_PANICS(stack, a_block_below_an_open_scope_cannot_be_freed, "a scope was opened after it") {
    char *block = filled(10, 1);
    AsthraStackMark m = asthra_stack_mark();
    CHECK(m.open);
    stack_free(block);
}
TEST_PANICS(stack, a_block_below_two_open_scopes_cannot_be_freed_after_one, "a scope was opened") {
    char *block = filled(10, 1);
    AsthraStackMark outer = asthra_stack_mark(), inner = asthra_stack_mark();
    CHECK(outer.open);
    asthra_stack_release(&inner);
    stack_free(block);
}
TEST_PANICS(stack, a_local_variable_cannot_be_freed, INVALID) {
    int local = 0;
    filled(10, 1);
    stack_free(&local);
}
TEST_PANICS(stack, where_nothing_was_allocated_nothing_can_be_freed, INVALID) {
    static int it;
    stack_free(&it);
}
#if ASTHRA_HAS_MANUAL
TEST_PANICS(stack, a_manual_block_cannot_be_freed_here, "in zone MANUAL, another zone") {
    stack_free(asthra_manual_alloc(10));
}
TEST_PANICS(stack, a_manual_free_takes_no_stack_block, "Invalid pointer in manual_free") {
    asthra_manual_free(filled(10, 1));
}
#endif
static void *frees(void *block) {
    filled(10, 1);
    stack_free(block);
    return NULL;
}
TEST_PANICS(stack, another_tasks_block_cannot_be_freed, "is in the region of") {
    start(1, 0);
    asthra_await(asthra_spawn(frees, filled(10, 1)));
}

/* ---- overflows ---- */

TEST_PANICS(stack, a_write_past_the_newest_block_is_found_at_the_next_allocation, "zone overflow") {
    volatile char *block = filled(32, 1);
    char *hidden = (char *)(uintptr_t)block;
    __asm__ volatile("" : "+r"(hidden));
#if ASTHRA__ASAN
    asthra__heap_show(hidden, 64);
#endif
    hidden[32] = 0;
    asthra_stack_alloc(1);
}
TEST_PANICS(stack, a_write_past_the_newest_block_is_found_at_the_release, "zone overflow") {
    AsthraStackMark m = asthra_stack_mark();
    char *block = filled(48, 1);
    __asm__ volatile("" : "+r"(block));
#if ASTHRA__ASAN
    asthra__heap_show(block, 80);
#endif
    memset(block, 0, 53);
    asthra_stack_release(&m);
}
TEST_PANICS(stack, at_the_full_level_one_byte_past_any_block_is_found, "was written past its end") {
    asthra__heap_set_level(ASTHRA_SAFETY_FULL);
    AsthraStackMark m = asthra_stack_mark();
    char *block = filled(41, 1);
    filled(10, 1);
    filled(5000, 1);
    __asm__ volatile("" : "+r"(block));
#if ASTHRA__ASAN
    asthra__heap_show(block, 48);
#endif
    block[41] = 0;
    asthra_stack_release(&m);
}
TEST_PANICS(stack, at_the_full_level_a_write_after_the_release_is_found, "Use after release") {
    asthra__heap_set_level(ASTHRA_SAFETY_FULL);
    AsthraStackMark m = asthra_stack_mark();
    char *block = filled(41, 1);
    asthra_stack_release(&m);
    __asm__ volatile("" : "+r"(block));
#if ASTHRA__ASAN
    asthra__heap_show(block, 48);
#endif
    block[7] = 0;
#if ASTHRA__ASAN
    asthra__heap_hide(block, 48);
#endif
    asthra_stack_alloc(30);
}

#if ASTHRA__ASAN
int __asan_address_is_poisoned(void const volatile *addr);
TEST(stack, a_sanitizer_knows_what_is_no_block) {
    AsthraStackMark m = asthra_stack_mark();
    char *block = filled(41, 1), *far = filled(100000, 1);
    CHECK(!__asan_address_is_poisoned(block + 40));
    CHECK(__asan_address_is_poisoned(block + 41));
    CHECK(__asan_address_is_poisoned(block - 1));
    asthra_stack_release(&m);
    CHECK(__asan_address_is_poisoned(block));
    CHECK(__asan_address_is_poisoned(far));
}
#endif

/* ---- tasks ---- */

static void *uses_its_own(void *unused) {
    CHECK_EQ(current_bytes(), 100);
    filled(3000, 2);
    AsthraStackMark left_open = asthra_stack_mark();
    CHECK(left_open.open);
    filled(30000, 3);
    CHECK_EQ(current_bytes(), 33100);
    return unused;
}

TEST(stack, a_task_awaited_in_place_has_a_region_of_its_own) {
    start(1, 0);
    char *mine = filled(100, 1);
    AsthraStackMark m = asthra_stack_mark();
    for (int i = 0; i < 10; i++) {
        asthra_await(asthra_spawn(uses_its_own, NULL));
        CHECK_EQ(current_bytes(), 100);
    }
    is_still(mine, 100, 1);
    asthra_stack_release(&m);
    stack_free(mine);
    asthra_runtime_shutdown();
}

static void *sums_down(void *depth) {
    intptr_t n = (intptr_t)depth;
    AsthraStackMark m = asthra_stack_mark();
    int *block = filled(64, (int)n);
    intptr_t sum = n == 0 ? 0 : (intptr_t)asthra_await(asthra_spawn(sums_down, (void *)(n - 1)));
    is_still(block, 64, (int)n);
    if (n % 2) asthra_stack_release(&m);
    return (void *)(sum + n);
}
TEST(stack, regions_of_tasks_that_await_one_another_are_apart) {
    start(2, 0);
    for (int i = 0; i < (test_thrift() == 20 ? 4 : 20); i++)
        CHECK_EQ((intptr_t)asthra_await(asthra_spawn(sums_down, (void *)200)), 20100);
    CHECK_EQ(current_bytes(), 0);
    asthra_runtime_shutdown();
    CHECK(chunks() <= ASTHRA__STACK_IDLE); /* main's */
    asthra__stack_trim();
    CHECK_EQ(chunks(), 0);
}

enum { WANDERERS = 60, STEPS = 40 };
static atomic_int moves;
static void *wanders(void *number) {
    int n = (int)(intptr_t)number;
    char *blocks[STEPS];
    const void *last = asthra__thread();
    for (int i = 0; i < STEPS; i++) {
        AsthraStackMark m = asthra_stack_mark();
        filled(200, 99);
        if (i % 5 == n % 5) CHECK(asthra_result_is_ok(asthra_sleep_ns(ASTHRA_US(10))));
        asthra_yield();
        if (last != asthra__thread()) atomic_fetch_add(&moves, 1);
        last = asthra__thread();
        asthra_stack_release(&m);
        blocks[i] = filled(150, n + i);
    }
    for (int i = 0; i < STEPS; i++) is_still(blocks[i], 150, n + i);
    return NULL;
}
TEST(stack, a_region_follows_its_task_to_other_workers) {
    AsthraTaskHandle h[WANDERERS];
    start(4, 0);
    filled(7, 7);
    for (int i = 0; i < WANDERERS; i++) h[i] = asthra_spawn(wanders, (void *)(intptr_t)i);
    for (int i = 0; i < WANDERERS; i++) asthra_await(h[i]);
    CHECK_EQ(current_bytes(), 7);
    fprintf(stderr, "%d moves\n", atomic_load(&moves));
    asthra_runtime_shutdown();
}

static void *with_a_stack_of_its_own(void *channel) {
    int64_t pair[2];
    char *block = filled(500, 8);
    CHECK(asthra_result_is_ok(asthra_channel_receive(channel, pair)));
    is_still(block, 500, 8);
    return NULL;
}
TEST(stack, tasks_with_options_have_regions_too) {
    start(2, 0);
    AsthraTaskHandle h[9];
    int64_t pair[2] = {1, 2};
    AsthraChannel *c = asthra_channel_create(sizeof pair, 0, "gate");
    for (int i = 0; i < 9; i++) {
        AsthraSpawnOptions o = {NULL, i % 3 ? 0 : (size_t)1 << 20, i % 2,
                                i == 5 ? ASTHRA_AFFINITY_WORKER(0) : ASTHRA_AFFINITY_ANY};
        h[i] = asthra_spawn_with(&o, with_a_stack_of_its_own, c);
    }
    for (int i = 0; i < 9; i++) CHECK(asthra_result_is_ok(asthra_channel_send(c, pair)));
    for (int i = 0; i < 9; i++) asthra_await(h[i]);
    CHECK_EQ(current_bytes(), 0);
    asthra_channel_destroy(c);
    asthra_runtime_shutdown();
}

static void *panics_in_a_scope(void *depth) {
    asthra_panic_set_policy(ASTHRA_PANIC_FAIL_TASK);
    filled(100, 1);
    ASTHRA_STACK_SCOPE(m) {
        filled(10000, 2);
        if (depth == NULL) asthra_panic("on purpose");
        asthra_await_result(asthra_spawn(panics_in_a_scope, NULL), NULL);
        asthra_panic("on purpose too");
    }
    return NULL;
}
TEST(stack, a_panic_frees_the_region_of_its_task_and_no_other) {
    start(2, 0);
    asthra__panic_enable_report(false);
    filled(33, 3);
    for (int i = 0; i < 50; i++) {
        AsthraStackMark m = asthra_stack_mark();
        char *block = filled(200, 4);
        AsthraTaskHandle h = asthra_spawn(panics_in_a_scope, i % 2 ? &h : NULL);
        CHECK_EQ(asthra_await_result(h, NULL).status, ASTHRA_PANICKED);
        is_still(block, 200, 4);
        asthra_stack_release(&m);
        CHECK_EQ(current_bytes(), 33);
    }
    asthra_runtime_shutdown();
}

static atomic_int waiting;
static void *waits_for_ever(void *channel) {
    int value = 0;
    ASTHRA_STACK_SCOPE(m) {
        filled(10000, 2);
        atomic_fetch_add(&waiting, 1);
        while (asthra_result_is_ok(asthra_channel_receive(channel, &value))) continue;
    }
    filled(10, 1);
    return NULL;
}
TEST(stack, a_cancelled_task_frees_its_region) {
    start(2, 0);
    AsthraChannel *c = asthra_channel_create(sizeof(int), 0, "silent");
    AsthraTaskHandle h[10];
    for (int i = 0; i < 10; i++) h[i] = asthra_spawn(waits_for_ever, c);
    while (atomic_load(&waiting) < 10) asthra_sleep_ns(10000);
    CHECK_EQ(current_bytes(), 100000);
    for (int i = 0; i < 10; i++) asthra_task_cancel(h[i]);
    for (int i = 0; i < 10; i++) CHECK_EQ(asthra_await_result(h[i], NULL).status, ASTHRA_CANCELLED);
    CHECK_EQ(current_bytes(), 0);
    asthra_channel_destroy(c);
    asthra_runtime_shutdown();
}

static void *never_ends(void *channel) {
    int value = 0;
    filled(10000, 2);
    asthra_cancel_mask_begin();
    if (channel == NULL) return NULL;
    atomic_fetch_add(&waiting, 1);
    while (asthra_channel_receive(channel, &value).status != ASTHRA_CLOSED) continue;
    return NULL;
}
static void *awaits_what_never_ends(void *channel) {
    filled(100, 2);
    return asthra_await(asthra_spawn(never_ends, channel));
}
TEST(stack, regions_of_tasks_that_outlast_shutdown_go_with_it) {
    AsthraRuntimeConfig config = asthra_runtime_config_default();
    config.worker_threads = 2;
    config.shutdown_timeout_ns = ASTHRA_MS(50);
    CHECK(asthra_runtime_init(&config));
    char *mine = filled(20, 1);
    static AsthraChannel *c; /* it stays: its waiters were left where they are */
    c = asthra_channel_create(sizeof(int), 0, "silent");
    for (int i = 0; i < 4; i++) asthra_task_detach(asthra_spawn(awaits_what_never_ends, c));
    while (atomic_load(&waiting) < 4) asthra_sleep_ns(10000);
    CHECK_EQ(current_bytes(), 40420);
    asthra_runtime_shutdown();
    is_still(mine, 20, 1);
    CHECK_EQ(current_bytes(), 20);
    asthra__stack_trim();
    CHECK_EQ(chunks(), 1);
}

/* ---- threads ---- */

static void *thread_allocates(void *unused) {
    filled(100, 1);
    AsthraStackMark m = asthra_stack_mark();
    filled(100000, 2);
    if (unused != NULL) asthra_stack_release(&m);
    asthra_stack_mark();
    return unused;
}
TEST(stack, a_threads_region_goes_with_it) {
    pthread_t t;
    filled(50, 5);
    for (int i = 0; i < 50; i++) {
        CHECK_EQ(pthread_create(&t, NULL, thread_allocates, i % 2 ? &t : NULL), 0);
        pthread_join(t, NULL);
        CHECK_EQ(current_bytes(), 50);
        CHECK_EQ(chunks(), 1);
    }
}

static pthread_key_t late;
static void *thread_allocates_late(void *unused) {
    pthread_setspecific(late, &late);
    filled(100, 1);
    return unused;
}
static void in_destructor(void *rounds) {
    static int calls;
    AsthraStackMark m = asthra_stack_mark();
    filled(100, 1);
    asthra_stack_release(&m);
    filled(100, 1);
    if (++calls % 2 == 1) pthread_setspecific(late, rounds);
}
TEST(stack, late_destructors_of_a_thread_may_allocate) {
    pthread_t t;
    CHECK_EQ(pthread_key_create(&late, in_destructor), 0);
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(pthread_create(&t, NULL, thread_allocates_late, NULL), 0);
        pthread_join(t, NULL);
        CHECK_EQ(current_bytes(), 0);
        CHECK_EQ(chunks(), 0);
    }
}

/* The heap once looked at a field of the list of threads that others change. */
static void *thread_comes_and_goes(void *unused) {
    filled(1, 1);
    return unused;
}
TEST(stack, threads_may_begin_while_others_attach) {
    enum { THREADS = 30 };
    pthread_t t[THREADS];
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&t[i], NULL, thread_comes_and_goes, NULL), 0);
    for (int i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
    CHECK_EQ(current_bytes(), 0);
}

TEST(stack, worker_threads_leave_nothing_behind) {
    for (int i = 0; i < 5; i++) {
        start(3, 0);
        AsthraTaskHandle h[40];
        for (int k = 0; k < 40; k++) h[k] = asthra_spawn(wanders, (void *)(intptr_t)k);
        for (int k = 0; k < 40; k++) asthra_await(h[k]);
        asthra_runtime_shutdown();
        asthra__stack_trim();
        CHECK_EQ(chunks(), 0);
    }
}

/* ---- forks ---- */

static void child_is_well(char *mine, AsthraStackMark *m) {
    is_still(mine, 300, 1);
    CHECK_EQ(current_bytes(), 300);
    filled(100000, 2);
    asthra_stack_release(m);
    CHECK_EQ(current_bytes(), 300);
    stack_free(mine);
    CHECK_EQ(current_bytes(), 0);
    asthra__stack_trim();
    CHECK(chunks() <= 6); /* of other threads those that were just being allocated */
    asthra_await(asthra_spawn(sums_down, (void *)50));
    CHECK_EQ(current_bytes(), 0);
    _exit(0);
}
static void *forks(void *unused) {
    int status = -1;
    char *mine = filled(300, 1);
    AsthraStackMark m = asthra_stack_mark();
    asthra_yield();
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) child_is_well(mine, &m);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    asthra_stack_release(&m);
    is_still(mine, 300, 1);
    return unused;
}
static atomic_bool stop;
static void *keeps_allocating(void *unused) {
    char *mine = filled(1000, 9);
    while (!atomic_load(&stop)) {
        ASTHRA_STACK_SCOPE(m) {
            for (int i = 0; i < 50; i++) filled(400, i);
        }
        asthra_yield();
    }
    is_still(mine, 1000, 9);
    return unused;
}
TEST(stack, the_child_of_a_fork_keeps_the_region_of_what_forked_alone) {
#if ASTHRA__TSAN || ASTHRA__ASAN
    SKIP("stack: sanitizers do not follow a fork of several threads");
#endif
    NEED_THREADS();
    NEED_NO_EMULATOR("stack: qemu-user ends by itself in a child of several threads");
    start(3, 0);
    pthread_t t;
    AsthraTaskHandle h[3];
    for (int i = 0; i < 3; i++) h[i] = asthra_spawn(keeps_allocating, NULL);
    CHECK_EQ(pthread_create(&t, NULL, keeps_allocating, NULL), 0);
    filled(10, 1);
    for (int i = 0; i < 10; i++) {
        AsthraSpawnOptions o = {.priority = i % 2};
        asthra_await(asthra_spawn_with(&o, forks, NULL));
    }
    atomic_store(&stop, true);
    pthread_join(t, NULL);
    for (int i = 0; i < 3; i++) asthra_await(h[i]);
    CHECK_EQ(current_bytes(), 10);
    asthra_runtime_shutdown();
}

/* ---- accounts, limit, hooks ---- */

TEST(stack, what_was_allocated_is_counted_to_the_byte) {
    Asthra__AccountSum sum = {0, 0, 0, 0};
    filled(1, 1);
    filled(0, 1);
    filled(17, 1);
    AsthraStackMark m = asthra_stack_mark();
    filled(100000, 1);
    asthra_stack_release(&m);
    asthra__stack_sum(&sum);
    CHECK_EQ(sum.total, 100018);
    CHECK_EQ(sum.freed, 100000);
    CHECK_EQ(sum.count, 4);
    CHECK(asthra__zone_peak(ASTHRA_MEMORY_ZONE_STACK, 18) <= 100018);
}

static atomic_int allocs, frees_told;
static size_t told_bytes;
static void on_alloc(void *ptr, size_t size, AsthraMemoryZone zone, void *user) {
    if (zone != ASTHRA_MEMORY_ZONE_STACK) return;
    CHECK(ptr != NULL && user == &allocs);
    atomic_fetch_add(&allocs, 1);
    told_bytes += size;
    ASTHRA_STACK_SCOPE(m) filled(5000, 1); /* told to nobody */
}
static void on_free(void *ptr, AsthraMemoryZone zone, void *user) {
    if (zone != ASTHRA_MEMORY_ZONE_STACK) return;
    CHECK(ptr != NULL && user == &allocs);
    is_still(ptr, 20, 6);
    atomic_fetch_add(&frees_told, 1);
    filled(10, 1); /* goes with what is freed */
}
static const AsthraMemoryHooks hooks = {on_alloc, on_free, &allocs};

static void *is_told_of(void *unused) {
    for (int i = 0; i < 300; i++) filled(30, 6);
    ASTHRA_STACK_SCOPE(m) {
        for (int i = 0; i < 300; i++) filled(30, 6);
        stack_free(filled(20, 6));
    }
    CHECK_EQ(atomic_load(&allocs), 601);
    CHECK_EQ(atomic_load(&frees_told), 301);
    return unused;
}
TEST(stack, hooks_are_told_of_each_block_that_a_scope_or_an_end_frees) {
    start(1, 0);
    asthra_memory_set_hooks(&hooks);
    asthra_await(asthra_spawn(is_told_of, NULL));
    asthra_memory_set_hooks(NULL);
    CHECK_EQ(atomic_load(&frees_told), 601);
    CHECK_EQ(told_bytes, 600 * 30 + 20);
    CHECK_EQ(current_bytes(), 0);
    asthra_runtime_shutdown();
}

static void set_limit(size_t bytes) {
    Asthra__ZoneLimit limit = {bytes, current_bytes(), ASTHRA_HEAP_LIMIT_NULL, NULL, NULL};
    asthra__zone_set_limit(&limit);
}
static void *uses_the_limit(void *unused) {
    CHECK(asthra_stack_alloc(900) != NULL);
    CHECK(asthra_stack_alloc(200) == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_LIMIT);
    return unused;
}
TEST(stack, the_limit_holds_and_what_is_freed_may_be_used_again) {
    start(1, 0);
    filled(100, 1);
    set_limit(1100);
    for (int i = 0; i < 10; i++) {
        ASTHRA_STACK_SCOPE(m) uses_the_limit(NULL);
        asthra_await(asthra_spawn(uses_the_limit, NULL));
    }
    char *block = asthra_stack_alloc(1000);
    CHECK(block != NULL && asthra_stack_alloc(1) == NULL);
    stack_free(block);
    CHECK(asthra_stack_alloc(1000) != NULL);
    Asthra__AccountSum sum = {0, 0, 0, 0};
    asthra__stack_sum(&sum);
    CHECK_EQ(sum.failures, 21);
    set_limit(0);
    asthra_runtime_shutdown();
}

/* ---- out of memory ---- */

static bool is_fine_or_told(const void *block) {
    if (block == NULL) CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
    return block != NULL;
}
static void lives_with_faults(void) {
    static const size_t sizes[] = {10, 5000, 100, 70000, 300, 3000000, 8, 60000, 9000000};
    enum { SIZES = sizeof sizes / sizeof *sizes };
    char *blocks[SIZES];
    AsthraStackMark m[SIZES];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < SIZES; i++) {
            CHECK((m[i] = asthra_stack_mark()).open);
            blocks[i] = asthra_stack_alloc(sizes[i]);
            if (is_fine_or_told(blocks[i])) memset(blocks[i], i, sizes[i]);
        }
        for (int i = SIZES; i-- > 0;) {
            if (blocks[i] != NULL) is_still(blocks[i], sizes[i], i);
            asthra_stack_release(&m[i]);
        }
        CHECK_EQ(current_bytes(), 0);
    }
}
TEST_WITHIN(120, stack, at_every_mapping_that_fails_the_region_stays_as_it_was) {
    for (int on = 0; on < 2; on++) {
        int status = 0;
        for (long at = 1; status != 43; at += test_thrift() == 20 ? 5 : 1) {
            CHECK(at < 1000);
            pid_t child = fork();
            CHECK(child >= 0);
            if (child == 0) {
                long before = atomic_load(&mappings);
                atomic_store(&fails_on, on != 0);
                atomic_store(&fail_at, before + at);
                lives_with_faults();
                bool was_hit = atomic_load(&mappings) >= before + at;
                atomic_store(&fail_at, 0);
                lives_with_faults();
                filled(5000000, 1);
                _exit(was_hit ? 0 : 43);
            }
            CHECK_EQ(waitpid(child, &status, 0), child);
            CHECK(WIFEXITED(status));
            status = WEXITSTATUS(status);
            CHECK(status == 0 || status == 43);
        }
    }
}

/* ---- a model ---- */

enum { MODEL_BLOCKS = 200, MODEL_SCOPES = 40 };
typedef struct Model {
    uint64_t random;
    int blocks, scopes, depth;
    struct {
        unsigned char *at;
        size_t size;
        unsigned char fill;
    } block[MODEL_BLOCKS];
    struct {
        AsthraStackMark mark;
        int blocks;
    } scope[MODEL_SCOPES];
} Model;

static uint32_t model_random(Model *m, uint32_t bound) {
    m->random = m->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((m->random >> 33) % bound);
}
static void model_check(const Model *m, int i) {
    is_still(m->block[i].at, m->block[i].size, m->block[i].fill);
}
static void model_alloc(Model *m) {
    static const uint32_t most[] = {40, 40, 40, 300, 300, 3000, 70000};
    if (m->blocks == MODEL_BLOCKS) return;
    size_t size = model_random(m, most[model_random(m, 7)]);
    unsigned char fill = (unsigned char)model_random(m, 256);
    m->block[m->blocks].at = filled(size, fill);
    m->block[m->blocks].size = size;
    m->block[m->blocks++].fill = fill;
}
static void model_open(Model *m) {
    if (m->scopes == MODEL_SCOPES) return;
    m->scope[m->scopes].mark = asthra_stack_mark();
    m->scope[m->scopes++].blocks = m->blocks;
}
static void model_release(Model *m) {
    if (m->scopes == 0) return;
    for (m->scopes--; m->blocks > m->scope[m->scopes].blocks; m->blocks--)
        model_check(m, m->blocks - 1);
    asthra_stack_release(&m->scope[m->scopes].mark);
}
static void model_free(Model *m) {
    int least = m->scopes == 0 ? 0 : m->scope[m->scopes - 1].blocks;
    if (m->blocks == least) return;
    model_check(m, --m->blocks);
    stack_free(m->block[m->blocks].at);
}
static void *model_run(void *model);
static void model_child(Model *m) {
    if (m->depth == 2) return;
    Model *child = calloc(1, sizeof *child);
    child->random = m->random ^ 0x5555;
    child->depth = m->depth + 1;
    asthra_await(asthra_spawn(model_run, child));
    free(child);
}
static void *model_run(void *model) {
    Model *m = model;
    int steps = m->depth == 0 ? 600 : 40;
    for (int i = 0; i < steps; i++) {
        switch (model_random(m, 16)) {
        case 0:
        case 1:
        case 2: model_open(m); break;
        case 3:
        case 4: model_release(m); break;
        case 5:
        case 6: model_free(m); break;
        case 7: asthra_yield(); break;
        case 8:
            if (model_random(m, 8) == 0) asthra_sleep_ns(ASTHRA_US(5));
            break;
        case 9:
            if (model_random(m, 4) == 0) model_child(m);
            break;
        default: model_alloc(m); break;
        }
    }
    for (int i = 0; i < m->blocks; i++) model_check(m, i);
    while (m->depth % 2 == 0 && m->scopes > 0) model_release(m);
    return NULL;
}
static void model_many(uint64_t seed) {
    enum { TASKS = 24 };
    static Model models[TASKS];
    AsthraTaskHandle h[TASKS];
    memset(models, 0, sizeof models);
    filled(3, 3);
    for (int i = 0; i < TASKS; i++) {
        models[i].random = seed * 1000 + (uint64_t)i;
        h[i] = asthra_spawn(model_run, &models[i]);
    }
    for (int i = 0; i < TASKS; i++) asthra_await(h[i]);
    CHECK_EQ(current_bytes(), 3);
    stack_free((char *)asthra__thread()->stack->top - 32);
}
static uint64_t model_rounds(uint64_t most) {
    return ASTHRA__ASAN || ASTHRA__TSAN || test_is_emulated() ? most / 5 : most;
}

TEST_WITHIN(60, stack, is_as_the_model_says_on_many_workers) {
    for (uint64_t seed = 1; seed <= model_rounds(30); seed++) {
        start(1 + seed % 4, 0);
        model_many(seed);
        asthra_runtime_shutdown();
    }
    asthra__stack_trim();
}
TEST_WITHIN(60, stack, is_as_the_model_says_under_seeds) {
    for (uint64_t seed = 1; seed <= model_rounds(30); seed++) {
        fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
        start(1, seed);
        model_many(seed);
        asthra_runtime_shutdown();
    }
}
TEST_WITHIN(60, stack, is_as_the_model_says_at_every_level) {
    for (int level = ASTHRA_SAFETY_NONE; level <= ASTHRA_SAFETY_FULL; level++) {
        for (uint64_t seed = 1; seed <= model_rounds(test_thrift() == 20 ? 5 : 10); seed++) {
            start(2, seed % 3);
            asthra__heap_set_level((AsthraSafetyLevel)level);
            model_many(seed);
            asthra_runtime_shutdown();
        }
    }
}
