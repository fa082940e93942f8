/* The full level of the heap: who used a block and from where, guarded blocks, and what becomes of
 * both when the system refuses. */
#include "test.h"

#include <elf.h>
#include <limits.h>
#include <link.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unwind.h>

static atomic_long calls, fail_from = LONG_MAX, fail_to = LONG_MAX; /* which calls fail */
static atomic_bool closes_fail;

static bool fails(void) {
    long now = ++calls;
    if (now < fail_from || now >= fail_to) return false;
    errno = ENOMEM;
    return true;
}
static void *faulty_mmap(void *at, size_t size, int access, int flags, int fd, off_t from) {
    return fails() ? MAP_FAILED : mmap(at, size, access, flags, fd, from);
}
static int faulty_mprotect(void *start, size_t size, int access) {
    if (closes_fail && access == PROT_NONE) return errno = ENOMEM, -1;
    return fails() ? -1 : mprotect(start, size, access);
}

#define mmap faulty_mmap
#define mprotect faulty_mprotect
#define ASTHRA_RT_IMPLEMENTATION
#define ASTHRA_RT_STATIC
#include "asthra_rt.h"

#define APART __attribute__((noinline))
#define KEEP_FRAME() __asm__ volatile("" ::: "memory") /* no call before this is a tail call */

static void start_full(size_t workers) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.memory_safety_level = ASTHRA_SAFETY_FULL;
    c.worker_threads = workers;
    CHECK(asthra_runtime_init(&c));
}

static AsthraAllocationInfo told(const void *ptr) {
    AsthraAllocationInfo info;
    CHECK(asthra_memory_describe(ptr, &info));
    return info;
}

static bool is_guarded(const void *ptr) {
    Asthra__Found f;
    return asthra__heap_find(ptr, &f) == ASTHRA_ADDRESS_LIVE && f.huge != NULL &&
           f.huge->is_guarded;
}

/* The heap's next guarded block. */
APART static char *guarded(size_t size) {
    for (int i = 0; i <= ASTHRA__GUARD_EVERY; i++) {
        char *block = asthra_manual_alloc(size);
        if (is_guarded(block)) return block;
        asthra_manual_free(block);
    }
    test_fail(__FILE__, __LINE__, "no block was guarded");
}

/* ---- who and where ---- */

static bool has_unwinder(void) {
    return ASTHRA__OS_HAS_UNWINDER != 0;
}

static uintptr_t way[3]; /* return addresses, innermost first */

APART static void *allocate(size_t size) {
    way[0] = (uintptr_t)__builtin_return_address(0);
    void *block = asthra_manual_alloc(size);
    KEEP_FRAME();
    return block;
}
APART static void *allocate_one_way(size_t size) {
    way[1] = (uintptr_t)__builtin_return_address(0);
    void *block = allocate(size);
    KEEP_FRAME();
    return block;
}
/* A frame of another size each time. */
APART static void *allocate_on_a_large_frame(size_t size, size_t frame) {
    volatile char *room = __builtin_alloca(frame);
    way[1] = (uintptr_t)__builtin_return_address(0);
    room[0] = 1;
    void *block = allocate(size);
    room[frame - 1] = 1;
    KEEP_FRAME();
    return block;
}
APART static void *allocate_in_a_recursion(size_t size, int depth) {
    void *block = depth == 0 ? allocate_one_way(size) : allocate_in_a_recursion(size, depth - 1);
    KEEP_FRAME();
    return block;
}
APART static void give_back(void *block) {
    way[2] = (uintptr_t)__builtin_return_address(0);
    asthra_manual_free(block);
    KEEP_FRAME();
}

static void check_calls(uint32_t calls_made, size_t from, size_t to) {
    uintptr_t places[ASTHRA__CALLS_DEPTH];
    size_t count = asthra__calls_places(calls_made, places);
    CHECK(count > to - from);
    for (size_t i = from; i < to; i++) CHECK_EQ(places[i - from + 1], way[i]);
}

static Asthra__History history_of(const void *block) {
    Asthra__Found f;
    AsthraAddressKind kind = asthra__heap_find(block, &f);
    return asthra__full_history(&f, kind);
}

static void check_ways(void) {
    if (!has_unwinder()) SKIP("no unwinder in this program");
    for (size_t i = 0; i < 50; i++) {
        void *block =
            i % 2 ? allocate_one_way(i) : allocate_on_a_large_frame(i, 100 + i % 7 * 3000);
        check_calls(history_of(block).allocated.calls, 0, 2);
        give_back(block);
        check_calls(history_of(block).freed.calls, 2, 3);
        check_calls(history_of(block).allocated.calls, 0, 2);
    }
}

TEST(guard, a_block_tells_the_calls_that_made_and_freed_it) {
    start_full(1);
    check_ways();
}

static void *checks_ways(void *unused) {
    check_ways();
    return unused;
}

TEST(guard, so_it_does_in_tasks) {
    if (!has_unwinder()) SKIP("no unwinder in this program");
    start_full(2);
    AsthraTaskHandle tasks[40];
    for (int i = 0; i < 40; i++) {
        tasks[i] = asthra_spawn(checks_ways, NULL);
        asthra_await(tasks[i]);
    }
    asthra_runtime_shutdown();
}

/* The table knows the frame as large; now the same call stands near the end of a stack. */
static void *allocates_near_the_end(void *frame) {
    asthra_manual_free(allocate_on_a_large_frame(10, *(size_t *)frame));
    return NULL;
}
TEST(guard, a_walk_does_not_leave_the_stack) {
    static size_t frames[] = {200000, 16, 150000, 32, 16, 200000, 64};
    start_full(2);
    for (int i = 0; i < 7; i++) asthra_await(asthra_spawn(allocates_near_the_end, &frames[i]));
    asthra_runtime_shutdown();
}

TEST(guard, the_unwinder_is_asked_once_for_each_place) {
    if (!has_unwinder()) SKIP("no unwinder in this program");
    start_full(1);
    uintptr_t at = 0;
    for (int i = 0; i < 3; i++) asthra_manual_free(allocate_one_way(10));
    Asthra__Depot *d = asthra__depot();
    CHECK(asthra__step_find(d, way[0]) != 0 && asthra__step_find(d, way[0]) != ASTHRA__STEP_VARIES);
    for (size_t i = 1; i < 20; i++)
        asthra_manual_free(allocate_on_a_large_frame(10, i * 1000)), at = way[0];
    CHECK_EQ(asthra__step_find(d, at), ASTHRA__STEP_VARIES);
    uint32_t used = asthra__load(&d->used, relaxed);
    for (int i = 0; i < 1000; i++) asthra_manual_free(allocate_on_a_large_frame(10, 5000));
    CHECK(asthra__load(&d->used, relaxed) <= used + 2);
}

TEST(guard, a_recursion_keeps_what_it_was_called_from) {
    if (!has_unwinder()) SKIP("no unwinder in this program");
    uintptr_t places[ASTHRA__CALLS_DEPTH];
    start_full(1);
    void *block = allocate_in_a_recursion(40, 6);
    size_t count = asthra__calls_places(history_of(block).allocated.calls, places);
    CHECK(count >= 5);
    for (size_t i = 1; i < count; i++) CHECK(places[i] != places[i - 1]);
}

TEST(guard, texts_name_several_calls_and_stay) {
    start_full(1);
    void *block = allocate_one_way(40);
    AsthraAllocationInfo info = told(block);
    CHECK(info.kind == ASTHRA_ADDRESS_LIVE && info.start == block && info.size == 40);
    CHECK(info.allocated_at != NULL && info.freed_at == NULL);
    if (has_unwinder()) CHECK(strstr(info.allocated_at, ", from ") != NULL);
    give_back(block);
    AsthraAllocationInfo after = told(block);
    CHECK_EQ(after.kind, ASTHRA_ADDRESS_FREED);
    CHECK(after.allocated_at == info.allocated_at && after.freed_at != NULL);
    CHECK(strcmp(after.freed_at, after.allocated_at) != 0);
    CHECK(after.stamp == info.stamp && info.stamp != 0);
}

TEST(guard, blocks_of_every_kind_tell_both_ends) {
    static const size_t sizes[] = {0, 1, 24, 1000, 9000, 65536, 70000, 900000, 3000000};
    start_full(1);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void *block = allocate(sizes[i]);
        CHECK_EQ((uintptr_t)block % 16, 0);
        uint64_t stamp = told(block).stamp;
        CHECK(told(block).allocated_at != NULL && stamp != 0);
        memset(block, 0xff, sizes[i]);
        CHECK_EQ(told(block).stamp, stamp);
        give_back(block);
        AsthraAllocationInfo info;
        if (!asthra_memory_describe(block, &info)) continue;
        CHECK(info.kind == ASTHRA_ADDRESS_FREED && info.freed_at != NULL);
    }
}

TEST(guard, no_two_allocations_have_one_stamp) {
    enum { N = 10000 };
    static uint64_t stamps[N];
    start_full(1);
    for (int i = 0; i < N; i++) {
        void *block = i % 3 ? asthra_manual_alloc(20) : asthra_pinned_alloc(20);
        stamps[i] = told(block).stamp;
        CHECK(stamps[i] != 0);
        asthra_free(block, i % 3 ? ASTHRA_MEMORY_ZONE_MANUAL : ASTHRA_MEMORY_ZONE_PINNED);
    }
    for (int i = 0; i < N; i++)
        for (int k = i + 1; k < N; k += 1 + k / 50) CHECK(stamps[i] != stamps[k]);
}

static void *kept_block;
static void *allocates_and_keeps(void *unused) {
    kept_block = asthra_manual_alloc(100);
    return unused;
}
static void *frees_what_was_kept(void *unused) {
    asthra_manual_free(kept_block);
    return unused;
}

TEST(guard, tasks_are_named_by_their_ids) {
    start_full(1);
    AsthraTaskHandle first = asthra_spawn(allocates_and_keeps, NULL);
    uint64_t first_id = asthra_task_id(first);
    asthra_await(first);
    AsthraTaskHandle second = asthra_spawn(frees_what_was_kept, NULL);
    uint64_t second_id = asthra_task_id(second);
    CHECK(told(kept_block).allocated_by == first_id && told(kept_block).freed_by == 0);
    asthra_await(second);
    CHECK(told(kept_block).allocated_by == first_id && told(kept_block).freed_by == second_id);
    CHECK(first_id != second_id);
    void *outside = asthra_manual_alloc(10);
    CHECK_EQ(told(outside).allocated_by, 0);
}

TEST(guard, the_checked_level_tells_the_free_alone) {
    void *block = asthra_manual_alloc(40);
    AsthraAllocationInfo info = told(block);
    CHECK(info.allocated_at == NULL && info.stamp == 0 && info.allocated_by == 0);
    asthra_manual_free(block);
    info = told(block);
    CHECK(info.freed_at != NULL && info.allocated_at == NULL);
}

TEST(guard, a_full_depot_leaves_everything_else_as_it_was) {
    start_full(1);
    asthra_manual_free(asthra_manual_alloc(10));
    asthra__store(&asthra__depot()->used, (uint32_t)ASTHRA__CALLS_MOST - 1, relaxed);
    void *block = allocate_one_way(30);
    CHECK(told(block).allocated_at == NULL && told(block).stamp != 0);
    give_back(block);
    CHECK(told(block).freed_at == NULL && told(block).kind == ASTHRA_ADDRESS_FREED);
}

#if !ASTHRA__ASAN /* which has its own say first */

TEST_PANICS(guard, a_double_free_names_both_stacks, "it was allocated at ") {
    start_full(1);
    void *block = allocate(40);
    give_back(block);
    give_back(block);
}

static void check_message(const AsthraPanicInfo *info, void *unused) {
    (void)unused;
    CHECK(strstr(info->message, "freed before by thread ") != NULL);
    CHECK(strstr(info->message, " by task ") != NULL);
    CHECK(strstr(strstr(info->message, "; it was allocated by task "), " at ") != NULL);
    _exit(0);
}
static void *frees_twice(void *unused) {
    give_back(allocate(40));
    give_back(kept_block = allocate(40));
    give_back(kept_block);
    return unused;
}
TEST(guard, a_double_free_in_a_task_names_it) {
    start_full(1);
    asthra_panic_set_hook(check_message, NULL);
    asthra_await(asthra_spawn(frees_twice, NULL));
    CHECK(!"came here");
}

TEST_PANICS(guard, an_overflow_names_who_allocated, "past its end; it was allocated at ") {
    start_full(1);
    char *block = allocate(64);
    ((volatile char *)block)[64] = 1;
    give_back(block);
}

static void overwrite_freed(size_t at) {
    start_full(1);
    char *block = allocate(100);
    give_back(block);
    ((volatile char *)block)[at] ^= 1;
    asthra_memory_trim();
}
TEST_PANICS(guard, a_write_to_the_first_freed_byte_is_seen, "byte 0 of the block") {
    overwrite_freed(0);
}
TEST_PANICS(guard, a_write_over_the_freeing_task_is_seen, "byte 9 of the block") {
    overwrite_freed(9);
}
TEST_PANICS(guard, a_write_behind_it_is_seen, "byte 16 of the block") {
    overwrite_freed(16);
}
TEST_PANICS(guard, a_write_to_the_last_freed_byte_is_seen, "byte 99 of the block") {
    overwrite_freed(99);
}

/* ---- faults ---- */

TEST_PANICS(guard, a_read_past_the_end_of_a_guarded_block_faults, "Heap overflow: ") {
    NEED_REGISTERS();
    start_full(1);
    char *block = guarded(64);
    KEEP_FRAME();
    (void)((volatile char *)block)[64];
}
static void *writes_past_the_end(void *block) {
    ((volatile char *)block)[64] = 1;
    return block;
}
TEST_PANICS(guard, a_write_past_it_faults_in_a_task, "0 bytes past the end of the block ") {
    NEED_REGISTERS();
    start_full(2);
    asthra_await(asthra_spawn(writes_past_the_end, guarded(64)));
}
static void *reads(void *block) {
    (void)((volatile char *)block)[5];
    return block;
}
TEST_PANICS(guard, a_read_of_a_freed_guarded_block_faults, "Use after free: ") {
    NEED_REGISTERS();
    start_full(1);
    char *block = guarded(64);
    give_back(block);
    reads(block);
}
TEST_PANICS(guard, a_use_after_the_free_names_both_stacks, "; it was allocated at ") {
    NEED_REGISTERS();
    start_full(1);
    char *block = guarded(64);
    give_back(block);
    reads(block);
}
static void *faults_on_a_thread(void *block) {
    return reads(block);
}
TEST_PANICS(guard, a_fault_on_a_plain_thread_is_named_too, "byte 5 of the block ") {
    NEED_REGISTERS();
    NEED_THREADS();
    pthread_t thread;
    start_full(1);
    char *block = guarded(64);
    give_back(block);
    CHECK(!pthread_create(&thread, NULL, faults_on_a_thread, block));
    pthread_join(thread, NULL);
}

TEST(guard, a_fault_fails_its_task_alone_where_that_is_the_policy) {
    NEED_REGISTERS();
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.memory_safety_level = ASTHRA_SAFETY_FULL;
    c.worker_threads = 2;
    c.panic_policy = ASTHRA_PANIC_FAIL_TASK;
    CHECK(asthra_runtime_init(&c));
    for (int i = 0; i < 5; i++) {
        char *block = guarded(48);
        give_back(block);
        AsthraResult r = asthra_await_result(asthra_spawn(reads, block), NULL);
        CHECK_EQ(r.status, ASTHRA_PANICKED);
        CHECK(strstr(asthra_result_message(r), "Use after free") != NULL);
        asthra_manual_free(guarded(48));
    }
    asthra_runtime_shutdown();
}

TEST_PANICS(guard, a_second_free_of_a_guarded_block_is_refused, "Invalid pointer in manual_free") {
    start_full(1);
    char *block = guarded(48);
    give_back(block);
    give_back(block);
}
TEST_PANICS(guard, a_write_into_the_slack_of_a_guarded_block_is_seen, "Heap overflow, seen in") {
    start_full(1);
    char *block = guarded(50);
    ((volatile char *)block)[50] = 0;
    give_back(block);
}
TEST_PANICS(guard, an_interior_free_of_a_guarded_block_is_refused, "is interior: 16 bytes into") {
    start_full(1);
    asthra_manual_free(guarded(48) + 16);
}
#endif

/* ---- guarded blocks are blocks ---- */

static bool finds(void *block, size_t size, void *user) {
    void **searched = user;
    if (block == searched[0]) searched[1] = searched[0], CHECK_EQ(size, 100);
    return true;
}

TEST(guard, a_guarded_block_is_a_block_like_others) {
    start_full(1);
    size_t before = asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).current;
    char *block = guarded(100);
    void *searched[2] = {block, NULL};
    size_t page = asthra__os_page_size();
    CHECK_EQ((uintptr_t)block % 16, 0);
    CHECK_EQ((uintptr_t)block % page + 112, page);
    for (int i = 0; i < 100; i++) block[i] = (char)i;
    CHECK_EQ(asthra_manual_usable_size(block), 100);
    CHECK_EQ(asthra_memory_zone_of(block + 99), ASTHRA_MEMORY_ZONE_MANUAL);
    CHECK(told(block + 50).start == block && told(block + 50).size == 100);
    CHECK(told(block).allocated_at != NULL && told(block).stamp != 0);
    asthra_manual_walk(finds, searched);
    CHECK(searched[1] == block);
    AsthraMemoryStatistics now = asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL);
    CHECK(now.current == before + 100 && now.mapped >= page && now.resident >= page);
    CHECK(asthra_pin_memory(block, 100) && asthra_pin_count(block) == 1);
    CHECK(asthra_unpin_memory(block));
    char *moved = asthra_manual_realloc(block, 300);
    for (int i = 0; i < 100; i++) CHECK_EQ(moved[i], (char)i);
    CHECK_EQ(told(block).kind, ASTHRA_ADDRESS_FREED);
    CHECK_EQ(asthra_memory_zone_of(block), ASTHRA_MEMORY_ZONE_MANUAL);
    CHECK(told(block).freed_at != NULL && told(block).size == 100);
    asthra_manual_free(moved);
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).current, before);
}

TEST(guard, a_range_over_a_guarded_block_holds_a_dead_address) {
    start_full(1);
    char *block = guarded(100);
    CHECK(!asthra_pin_memory(block, 200));
    CHECK(asthra_pin_count(block) == 0);
    asthra_manual_free(block);
}

TEST(guard, a_range_over_full_blocks_ends) {
    start_full(1);
    char *blocks[20];
    for (int i = 0; i < 20; i++) blocks[i] = asthra_manual_alloc(100);
    for (int i = 0; i < 20; i++) CHECK(asthra_pin_memory(blocks[i], 100));
    asthra_pin_memory(blocks[0], 300);
    for (int i = 0; i < 20; i++) CHECK(asthra_unpin_memory(blocks[i]));
}

TEST(guard, one_allocation_in_a_thousand_is_guarded) {
    start_full(1);
    int count = 0;
    for (int i = 0; i < 10000; i++) {
        void *block = asthra_manual_alloc((size_t)(i % 200));
        count += is_guarded(block);
        asthra_manual_free(block);
    }
    CHECK(count >= 9 && count <= 11);
}

TEST(guard, zeroed_blocks_are_zero_when_a_place_is_used_again) {
    start_full(1);
    size_t places = ASTHRA__REGION_BYTES / (2 * asthra__os_page_size());
    for (size_t i = 0; i < places * 2 + 10; i++) {
        Asthra__Huge *g = asthra__guard_take(100);
        CHECK(g != NULL);
        for (int k = 0; k < 100; k++) CHECK_EQ(g->start[k], 0);
        memset(g->start, 0xa5, 100);
        asthra__guard_give(g);
    }
}

TEST(guard, a_freed_place_is_used_again_as_late_as_can_be) {
    start_full(1);
    Asthra__Huge *first = asthra__guard_take(100);
    asthra__guard_give(first);
    for (size_t i = 1; i < ASTHRA__REGION_BYTES / (2 * asthra__os_page_size()); i++) {
        Asthra__Huge *g = asthra__guard_take(100);
        CHECK(g != first);
        asthra__guard_give(g);
    }
    CHECK(asthra__guard_take(100) == first);
}

TEST(guard, when_all_places_are_taken_blocks_are_ordinary) {
    start_full(1);
    size_t places = ASTHRA__REGION_BYTES / (2 * asthra__os_page_size()) * ASTHRA__GUARD_POOLS;
    for (size_t i = 0; i < places; i++) {
        Asthra__Huge *g = asthra__guard_take(i % 4000);
        CHECK(g != NULL);
        memset(g->start, 1, i % 4000);
        asthra__store(&g->is_live, 1u, release);
        g->zone = ASTHRA_MEMORY_ZONE_MANUAL;
        CHECK_EQ(asthra_memory_zone_of(g->start), ASTHRA_MEMORY_ZONE_MANUAL);
    }
    CHECK(asthra__guard_take(10) == NULL);
    for (int i = 0; i < 3000; i++) asthra_manual_free(asthra_manual_alloc(40));
}

TEST(guard, a_block_of_more_than_a_page_is_not_guarded) {
    CHECK(asthra__guard_take(asthra__os_page_size() + 1) == NULL);
    CHECK(asthra__guard_take(SIZE_MAX) == NULL);
    CHECK(asthra__guard_take(asthra__os_page_size()) != NULL);
}

/* ---- when the system refuses ---- */

enum { MET_NO_FAULT = 43 };

__attribute__((noreturn)) static void live_with_faults(long from, long count) {
    alarm(30);
    start_full(1);
    calls = 0;
    fail_to = from + count;
    fail_from = from;
    for (int i = 0; i < 2500; i++) {
        size_t size = i % 500 == 7 ? 80000 : (size_t)(i % 300);
        unsigned char *block = asthra_manual_alloc(size);
        if (block == NULL) {
            CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
            continue;
        }
        memset(block, i, size);
        AsthraAllocationInfo info;
        CHECK(asthra_memory_describe(block, &info) && info.size == size);
        for (size_t k = 0; k < size; k++) CHECK_EQ(block[k], (unsigned char)i);
        asthra_manual_free(block);
    }
    bool is_hit = calls >= from;
    fail_from = LONG_MAX;
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).current, 0);
    asthra_runtime_shutdown();
    _exit(is_hit ? 0 : MET_NO_FAULT);
}

TEST_WITHIN(120, guard, with_every_call_that_fails_blocks_are_blocks) {
    for (int way = 0; way < 2; way++) {
        int status = 0;
        for (long at = 1; status != MET_NO_FAULT << 8; at++) {
            CHECK(at < 200);
            pid_t child = fork();
            CHECK(child >= 0);
            if (child == 0) live_with_faults(at, way == 0 ? 1 : LONG_MAX / 2);
            CHECK_EQ(waitpid(child, &status, 0), child);
            if (status != 0 && status != MET_NO_FAULT << 8)
                test_fail(__FILE__, __LINE__, "fault %ld%s: status %d", at,
                          way ? " and all after it" : "", status);
        }
    }
}

TEST(guard, pages_that_the_system_does_not_close_serve_on) {
    start_full(1);
    asthra_manual_free(guarded(64));
    closes_fail = true;
    for (int i = 0; i < 1000; i++) {
        char *block = asthra__guard_take(100)->start;
        memset(block, i, 100);
        Asthra__Found f;
        asthra__heap_find(block, &f);
        asthra__guard_give(f.huge);
    }
    closes_fail = false;
}

/* ---- forks ---- */

TEST(guard, a_forked_child_tells_and_guards_too) {
    int status;
    start_full(1);
    void *block = allocate_one_way(40);
    char *old = guarded(64);
    pid_t child = fork();
    if (child == 0) {
        CHECK(told(block).allocated_at != NULL && told(old).size == 64);
        asthra_manual_free(old);
        asthra_manual_free(block);
        CHECK(told(old).kind == ASTHRA_ADDRESS_FREED && told(block).freed_at != NULL);
        for (int i = 0; i < 3000; i++) asthra_manual_free(asthra_manual_alloc((size_t)i % 99));
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    memset(old, 1, 64);
}

/* ---- a model: threads that allocate, give each other blocks and free them ---- */

enum { MODEL_THREADS = 4, MODEL_BLOCKS = 64 };
typedef struct ModelBlock {
    unsigned char *block;
    size_t size;
    uint64_t stamp;
} ModelBlock;
static _Atomic(ModelBlock *) model_exchange[MODEL_BLOCKS];
static unsigned model_seed, model_steps;

static unsigned model_next(unsigned *state) {
    *state = *state * 1664525 + 1013904223;
    return *state >> 8;
}
static size_t model_size(unsigned *state) {
    unsigned n = model_next(state);
    return n % 16 == 0 ? n % 70000 : n % 4 == 0 ? n % 4200 : n % 200;
}
static ModelBlock *model_make(unsigned *state) {
    ModelBlock *m = malloc(sizeof *m);
    m->size = model_size(state);
    unsigned how = model_next(state) % 3;
    if (how == 0) m->block = asthra_manual_alloc(m->size);
    if (how == 1) m->block = asthra_manual_alloc_zeroed(1, m->size);
    if (how == 2) m->block = asthra_manual_alloc_aligned(m->size, (size_t)8 << m->size % 8);
    CHECK(m->block != NULL);
    for (size_t i = 0; how == 1 && i < m->size; i += 1 + i / 64) CHECK_EQ(m->block[i], 0);
    if (how == 2) CHECK_EQ((uintptr_t)m->block % ((size_t)8 << m->size % 8), 0);
    for (size_t i = 0; i < m->size; i++) m->block[i] = (unsigned char)(m->size + i);
    m->stamp = told(m->block).stamp;
    return m;
}
static void model_check(const ModelBlock *m) {
    AsthraAllocationInfo info = told(m->block);
    CHECK(info.kind == ASTHRA_ADDRESS_LIVE && info.start == m->block && info.size == m->size);
    CHECK(info.stamp == m->stamp && info.allocated_at != NULL);
    for (size_t i = 0; i < m->size; i++) CHECK_EQ(m->block[i], (unsigned char)(m->size + i));
}
static void model_resize(ModelBlock *m, unsigned *state) {
    size_t size = model_size(state), kept = size < m->size ? size : m->size;
    m->block = asthra_manual_realloc(m->block, size);
    CHECK(m->block != NULL);
    for (size_t i = 0; i < kept; i++) CHECK_EQ(m->block[i], (unsigned char)(m->size + i));
    m->size = size;
    for (size_t i = 0; i < size; i++) m->block[i] = (unsigned char)(size + i);
    m->stamp = told(m->block).stamp;
}
static void model_end(ModelBlock *m) {
    if (m == NULL) return;
    model_check(m);
    asthra_manual_free(m->block);
    free(m);
}
static void *model_run(void *number) {
    unsigned state = model_seed * 31 + (unsigned)(uintptr_t)number;
    for (unsigned i = 0; i < model_steps; i++) {
        ModelBlock *m = model_next(&state) % 8 ? model_make(&state) : NULL;
        if (m != NULL && model_next(&state) % 8 == 0) model_resize(m, &state);
        m = atomic_exchange(&model_exchange[model_next(&state) % MODEL_BLOCKS], m);
        if (m != NULL && model_next(&state) % 4 == 0) model_resize(m, &state);
        if (i % 512 == 511) asthra_memory_trim();
        model_end(m);
    }
    return NULL;
}

static void model_round(unsigned seed) {
    model_seed = seed;
    pthread_t threads[MODEL_THREADS];
    for (uintptr_t i = 0; i < MODEL_THREADS; i++)
        if (pthread_create(&threads[i], NULL, model_run, (void *)i) != 0) abort();
    for (int i = 0; i < MODEL_THREADS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < MODEL_BLOCKS; i++) model_end(atomic_exchange(&model_exchange[i], NULL));
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).current, 0);
}

TEST_WITHIN(60, guard, threads_that_share_blocks_find_them_whole) {
    NEED_THREADS();
    const char *seeds = getenv("ASTHRA_SOAK_SEEDS");
    unsigned rounds = seeds != NULL ? (unsigned)atoi(seeds) : 20;
    start_full(2);
    model_steps = 300;
    for (unsigned seed = 1; seed <= rounds; seed++) model_round(seed);
    asthra_runtime_shutdown();
}

/* ---- the stack zone ---- */

TEST(guard, a_stack_block_is_told_to_its_owner) {
    ASTHRA_STACK_SCOPE(scope) {
        char *first = asthra_stack_alloc(50), *second = asthra_stack_alloc(10000);
        char *empty = asthra_stack_alloc(0);
        CHECK(told(first + 49).start == first && told(first).size == 50);
        CHECK_EQ(told(first).zone, ASTHRA_MEMORY_ZONE_STACK);
        CHECK(told(second + 9999).start == second && told(second).size == 10000);
        CHECK(told(empty).start == empty && told(empty).size == 0);
        AsthraAllocationInfo info;
        CHECK(!asthra_memory_describe(first + 50, &info) && info.kind == ASTHRA_ADDRESS_SLACK);
        CHECK(info.start == NULL && info.zone == ASTHRA_MEMORY_ZONE_STACK);
        kept_block = first;
    }
    AsthraAllocationInfo info;
    CHECK(!asthra_memory_describe(kept_block, &info));
    CHECK(info.kind == ASTHRA_ADDRESS_SLACK && info.zone == ASTHRA_MEMORY_ZONE_STACK);
}

static void *is_told_its_block(void *foreign) {
    char *own = asthra_stack_alloc(30);
    AsthraAllocationInfo info = told(own);
    CHECK(info.start == own && info.allocated_by == asthra__current_id());
    info = told(foreign);
    CHECK_EQ(info.kind, ASTHRA_ADDRESS_LIVE);
    CHECK((char *)info.start <= (char *)foreign && info.size >= 40);
    return NULL;
}
TEST(guard, of_another_region_the_chunk_is_told) {
    start_full(1);
    asthra_await(asthra_spawn(is_told_its_block, asthra_stack_alloc(40)));
}
