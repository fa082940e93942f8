/* The door to the memory zones: statistics, the limit, hooks, descriptions. */
#include "test.h"
#include "asthra_rt.h"

static bool start(AsthraRuntimeConfig c) {
    c.worker_threads = 2;
    return asthra_runtime_init(&c);
}

TEST(memory, zones_have_names) {
    CHECK_STR(asthra_memory_zone_to_string(ASTHRA_MEMORY_ZONE_GC), "GC");
    CHECK_STR(asthra_memory_zone_to_string(ASTHRA_MEMORY_ZONE_MANUAL), "MANUAL");
    CHECK_STR(asthra_memory_zone_to_string(ASTHRA_MEMORY_ZONE_PINNED), "PINNED");
    CHECK_STR(asthra_memory_zone_to_string(ASTHRA_MEMORY_ZONE_STACK), "STACK");
    CHECK_STR(asthra_memory_zone_to_string(ASTHRA_MEMORY_ZONE_NONE), "NONE");
    CHECK_STR(asthra_memory_zone_to_string((AsthraMemoryZone)77), "NONE");
}

TEST(memory, the_door_gives_manual_blocks) {
    int *one = ASTHRA_NEW(int, MANUAL);
    double *many = ASTHRA_NEW_ARRAY(double, 100, MANUAL);
    CHECK(one != NULL && many != NULL);
    CHECK_EQ(asthra_manual_usable_size(many), 100 * sizeof(double));
    asthra_free(one, ASTHRA_MEMORY_ZONE_MANUAL);
    asthra_manual_free(many);
    asthra_free(NULL, ASTHRA_MEMORY_ZONE_MANUAL);
}

TEST(memory, a_zone_that_is_not_there_fails_with_a_reason) {
    CHECK(asthra_alloc(8, ASTHRA_MEMORY_ZONE_GC) == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
    CHECK(strstr(asthra_result_message(asthra_last_error()), "GC") != NULL);
    CHECK(asthra_alloc(8, (AsthraMemoryZone)9) == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
    CHECK(asthra_alloc(8, ASTHRA_MEMORY_ZONE_NONE) == NULL);
}

TEST(memory, an_array_that_overflows_is_refused) {
    CHECK(asthra_alloc_array(SIZE_MAX / 2, 3, ASTHRA_MEMORY_ZONE_MANUAL) == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
}

TEST(memory, zone_of_answers_for_any_address) {
    static int somewhere;
    int local = 0;
    char *block = asthra_manual_alloc(100), *huge = asthra_manual_alloc(5000000);
    CHECK_EQ(asthra_memory_zone_of(block), ASTHRA_MEMORY_ZONE_MANUAL);
    CHECK_EQ(asthra_memory_zone_of(block + 99), ASTHRA_MEMORY_ZONE_MANUAL);
    CHECK_EQ(asthra_memory_zone_of(huge + 4999999), ASTHRA_MEMORY_ZONE_MANUAL);
    CHECK_EQ(asthra_memory_zone_of(&local), ASTHRA_MEMORY_ZONE_NONE);
    CHECK_EQ(asthra_memory_zone_of(&somewhere), ASTHRA_MEMORY_ZONE_NONE);
    CHECK_EQ(asthra_memory_zone_of("text"), ASTHRA_MEMORY_ZONE_NONE);
    CHECK_EQ(asthra_memory_zone_of(NULL), ASTHRA_MEMORY_ZONE_NONE);
    CHECK_EQ(asthra_memory_zone_of((void *)UINTPTR_MAX), ASTHRA_MEMORY_ZONE_NONE);
    CHECK_EQ(asthra_memory_zone_of(huge + 6000000), ASTHRA_MEMORY_ZONE_NONE); /* of its last unit */
    void *foreign = malloc(100);
    CHECK_EQ(asthra_memory_zone_of(foreign), ASTHRA_MEMORY_ZONE_NONE);
    free(foreign);
    asthra_manual_free(huge);
    CHECK_EQ(asthra_memory_zone_of(huge), ASTHRA_MEMORY_ZONE_NONE);
    asthra_manual_free(block);
}

TEST(memory, describe_tells_live_from_freed) {
    AsthraAllocationInfo info;
    char *block = asthra_manual_alloc(100);
    CHECK(asthra_memory_describe(block + 40, &info));
    CHECK_EQ(info.kind, ASTHRA_ADDRESS_LIVE);
    CHECK_EQ(info.zone, ASTHRA_MEMORY_ZONE_MANUAL);
    CHECK(info.start == block);
    CHECK_EQ(info.size, 100);
    asthra_manual_free(block);
    CHECK(asthra_memory_describe(block, &info));
    CHECK_EQ(info.kind, ASTHRA_ADDRESS_FREED);
    CHECK(info.start == block);
    CHECK(info.freed_at != NULL && info.freed_at[0] != '\0');
}

TEST(memory, describe_tells_what_is_not_ours) {
    static int somewhere;
    int local = 0;
    AsthraAllocationInfo info;
    CHECK(!asthra_memory_describe(&local, &info));
    CHECK_EQ(info.kind, ASTHRA_ADDRESS_STACK);
    CHECK(!asthra_memory_describe(&somewhere, &info));
    CHECK_EQ(info.kind, ASTHRA_ADDRESS_STATIC);
    CHECK(!asthra_memory_describe((void *)16, &info));
    CHECK_EQ(info.kind, ASTHRA_ADDRESS_UNMAPPED);
    CHECK(info.start == NULL);
    CHECK_EQ(info.zone, ASTHRA_MEMORY_ZONE_NONE);
}

/* ---- statistics ---- */

TEST(memory, statistics_are_exact_at_rest) {
    AsthraMemoryStatistics before = asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL);
    void *blocks[100];
    size_t usable = 0;
    for (size_t i = 0; i < 100; i++) {
        blocks[i] = asthra_manual_alloc(i * i * 30);
        usable += asthra_manual_usable_size(blocks[i]);
    }
    AsthraMemoryStatistics now = asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL);
    CHECK_EQ(now.current - before.current, usable);
    CHECK_EQ(now.total - before.total, usable);
    CHECK_EQ(now.count - before.count, 100);
    CHECK_EQ(now.failures, before.failures);
    CHECK(now.peak >= now.current && now.mapped >= now.current && now.resident <= now.mapped);
    for (size_t i = 0; i < 100; i++) asthra_manual_free(blocks[i]);
    AsthraMemoryStatistics after = asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL);
    CHECK_EQ(after.current, before.current);
    CHECK_EQ(after.total, now.total);
    CHECK(after.peak + 65536 >= now.current);
    CHECK(asthra_manual_alloc(SIZE_MAX) == NULL);
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).failures, before.failures + 1);
}

TEST(memory, a_realloc_changes_what_is_in_use) {
    void *block = asthra_manual_alloc(100);
    size_t before = asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).current;
    block = asthra_manual_realloc(block, 104);
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).current, before + 4);
    block = asthra_manual_realloc(block, 9000);
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).current, before + 8900);
    asthra_manual_free(block);
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).current, before - 100);
}

#if ASTHRA_HAS_THREADS
static void *allocate_a_lot(void *out) {
    void **blocks = out;
    for (int i = 0; i < 1000; i++) blocks[i] = asthra_manual_alloc(64);
    return NULL;
}

TEST(memory, statistics_add_up_threads_that_have_ended) {
    static void *blocks[1000];
    size_t before = asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).current;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, allocate_a_lot, blocks) == 0);
    pthread_join(thread, NULL);
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).current, before + 64000);
    for (int i = 0; i < 1000; i++) asthra_manual_free(blocks[i]);
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).current, before);
}
#endif

TEST(memory, all_zones_are_summed) {
    void *block = asthra_manual_alloc(1000);
    AsthraMemoryStatistics one = asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL);
    AsthraMemoryStatistics all = asthra_memory_statistics_all();
    CHECK(all.current >= one.current && all.count >= one.count && all.mapped >= one.mapped);
    asthra_manual_free(block);
}

/* ---- the limit ---- */

TEST(memory, the_limit_returns_null) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.max_heap_size = 1000000;
    CHECK(start(c));
    void *first = asthra_manual_alloc(600000);
    CHECK(first != NULL);
    CHECK(asthra_manual_alloc(600000) == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_LIMIT);
    CHECK(strstr(asthra_result_message(asthra_last_error()), "1000000") != NULL);
    asthra_manual_free(first);
    void *second = asthra_manual_alloc(600000);
    CHECK(second != NULL);
    asthra_manual_free(second);
    asthra_runtime_shutdown();
    second = asthra_manual_alloc(6000000);
    CHECK(second != NULL);
    asthra_manual_free(second);
}

TEST(memory, the_limit_counts_small_blocks_to_the_byte) {
    static void *blocks[2000];
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    size_t before = asthra_memory_statistics_all().current, n = 0;
    c.max_heap_size = before + 1000 * 100;
    CHECK(start(c));
    while (n < 2000 && (blocks[n] = asthra_manual_alloc(100)) != NULL) n++;
    CHECK_EQ(n, 1000);
    asthra_manual_free(blocks[--n]);
    CHECK((blocks[n++] = asthra_manual_alloc(100)) != NULL);
    CHECK(asthra_manual_alloc(1) == NULL);
    CHECK(asthra_manual_realloc(blocks[0], 105) == NULL);
    while (n > 0) asthra_manual_free(blocks[--n]);
    asthra_runtime_shutdown();
}

TEST_PANICS(memory, the_limit_panics_where_that_is_the_policy, "max_heap_size 100000") {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.max_heap_size = 100000;
    c.heap_limit_policy = ASTHRA_HEAP_LIMIT_PANIC;
    CHECK(start(c));
    asthra_manual_alloc(200000);
}

static void *spare;
static bool give_the_spare(size_t size, AsthraMemoryZone zone, void *user) {
    CHECK_EQ(size, 80000);
    CHECK_EQ(zone, ASTHRA_MEMORY_ZONE_MANUAL);
    ++*(int *)user;
    if (spare == NULL) return false;
    asthra_manual_free(spare);
    spare = NULL;
    return true;
}

TEST(memory, the_limits_hook_may_free_and_try_again) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    int calls = 0;
    c.max_heap_size = 100000;
    c.heap_limit_policy = ASTHRA_HEAP_LIMIT_HOOK;
    CHECK(!start(c));
    c.heap_limit_hook = give_the_spare;
    c.heap_limit_hook_user = &calls;
    CHECK(start(c));
    spare = asthra_manual_alloc(60000);
    void *block = asthra_manual_alloc(80000);
    CHECK(block != NULL);
    CHECK_EQ(calls, 1);
    CHECK(asthra_manual_alloc(80000) == NULL);
    CHECK_EQ(calls, 2);
    asthra_manual_free(block);
    asthra_runtime_shutdown();
}

TEST(memory, a_zone_that_is_switched_off_names_its_field) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.enable_manual_memory = false;
    void *before = asthra_manual_alloc(10);
    CHECK(start(c));
    CHECK(asthra_manual_alloc(10) == NULL);
    CHECK(strstr(asthra_result_message(asthra_last_error()), "enable_manual_memory") != NULL);
    asthra_manual_free(before);
    asthra_runtime_shutdown();
    before = asthra_manual_alloc(10);
    CHECK(before != NULL);
    asthra_manual_free(before);
}

/* ---- hooks and the debug line ---- */

static size_t allocs, frees, bytes;
static void on_alloc(void *ptr, size_t size, AsthraMemoryZone zone, void *user) {
    CHECK(ptr != NULL && zone == ASTHRA_MEMORY_ZONE_MANUAL && user == &allocs);
    allocs++;
    bytes += size;
    asthra_manual_free(asthra_manual_alloc(10)); /* not told */
}
static void on_free(void *ptr, AsthraMemoryZone zone, void *user) {
    CHECK(ptr != NULL && zone == ASTHRA_MEMORY_ZONE_MANUAL && user == &allocs);
    frees++;
}

TEST(memory, hooks_see_every_block) {
    AsthraMemoryHooks hooks = {on_alloc, on_free, &allocs};
    asthra_memory_set_hooks(&hooks);
    for (size_t i = 0; i < 100; i++) asthra_manual_free(asthra_manual_alloc(i));
    asthra_manual_free(asthra_manual_alloc_zeroed(10, 10));
    asthra_manual_free(asthra_manual_alloc_aligned(100, 4096));
    CHECK_EQ(allocs, 102);
    CHECK_EQ(frees, 102);
    CHECK_EQ(bytes, 4950 + 200);
    asthra_memory_set_hooks(NULL);
    asthra_manual_free(asthra_manual_alloc(10));
    CHECK_EQ(allocs, 102);
}

static void fills(void *ptr, size_t size, AsthraMemoryZone zone, void *unused) {
    (void)zone, (void)unused;
    memset(ptr, 0x5a, size);
}
/* Fresh memory is zero by itself, unless a hook came before. */
TEST(memory, zeroed_memory_is_zero_whatever_a_hook_wrote_into_it) {
    static const size_t sizes[] = {10, 1000, 70000, 900000, 5000000};
    AsthraMemoryHooks hooks = {fills, NULL, NULL};
    asthra_memory_set_hooks(&hooks);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *block = asthra_manual_alloc_zeroed(1, sizes[i]);
        for (size_t k = 0; k < sizes[i]; k++) CHECK_EQ(block[k], 0);
        asthra_manual_free(block);
    }
    asthra_memory_set_hooks(NULL);
}

TEST_PANICS(memory, the_debug_line_shows_each_allocation, "(123 bytes) in zone MANUAL") {
    asthra_set_debug_flag(ASTHRA_DEBUG_MEMORY_ALLOCATION, true);
    asthra_manual_free(asthra_manual_alloc(123));
    asthra_set_debug_flag(ASTHRA_DEBUG_MEMORY_ALLOCATION, false);
    asthra_manual_free(asthra_manual_alloc(456));
    asthra_panic("done");
}

/* ---- giving back ---- */

TEST(memory, trim_gives_memory_back) {
    enum { N = 4000 };
    static void *blocks[N];
    for (int i = 0; i < N; i++) blocks[i] = memset(asthra_manual_alloc(4000), 1, 4000);
    AsthraMemoryStatistics full = asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL);
    CHECK(full.resident >= N * 4000u);
    for (int i = 0; i < N; i++) asthra_manual_free(blocks[i]);
    AsthraMemoryStatistics all = asthra_memory_statistics_all(); /* with what is free */
    CHECK(all.resident >= N * 4000u);
    size_t given = asthra_memory_trim();
    CHECK(given > N * 4000u / 2);
    CHECK(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).resident < full.resident / 10);
    if (ASTHRA_HAS_LINUX)
        CHECK(asthra_memory_statistics_all().resident <= all.resident - N * 4000u / 2);
    else /* nobody tells what is in memory: it counts as what is mapped does */
        CHECK_EQ(asthra_memory_statistics_all().resident, all.resident);
    CHECK_EQ(asthra_memory_statistics_all().mapped, all.mapped);
}

TEST(memory, a_level_that_is_none_is_refused) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.memory_safety_level = (AsthraSafetyLevel)4;
    CHECK(!start(c));
    CHECK(strstr(asthra_result_message(asthra_last_error()), "memory_safety_level") != NULL);
}

TEST(memory, without_safety_a_block_has_its_class) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.memory_safety_level = ASTHRA_SAFETY_NONE;
    CHECK(start(c));
    void *block = asthra_manual_alloc(100);
    CHECK_EQ(asthra_manual_usable_size(block), 112);
    memset(block, 1, 112);
    asthra_manual_free(block);
    asthra_runtime_shutdown();
}

/* ---- the full level ---- */

static void start_full(void) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.memory_safety_level = ASTHRA_SAFETY_FULL;
    CHECK(start(c));
}

TEST(memory, the_full_level_keeps_correct_programs_quiet) {
    static unsigned char *blocks[500];
    unsigned seed = 7;
    start_full();
    for (int i = 0; i < 200000; i++) {
        seed = seed * 1664525 + 1013904223;
        size_t k = seed >> 8 & 255, size = seed >> 16 & 2047;
        if (blocks[k] != NULL) CHECK_EQ(blocks[k][0], k);
        if (seed & 64)
            asthra_manual_free(blocks[k]), blocks[k] = asthra_manual_alloc(size + 1);
        else
            blocks[k] = asthra_manual_realloc(blocks[k], size + 1);
        blocks[k][0] = (unsigned char)k;
        CHECK_EQ(asthra_manual_usable_size(blocks[k]), size + 1);
    }
    for (int k = 0; k < 256; k++) asthra_manual_free(blocks[k]);
    asthra_runtime_shutdown();
}

#if !defined(__SANITIZE_ADDRESS__) /* which is told of the same, and is first */
static void overflow(size_t size) {
    start_full();
    char *block = asthra_manual_alloc(size);
    *(volatile char *)(block + size) = 0;
    asthra_manual_free(block);
}
TEST_PANICS(memory, the_full_level_finds_one_byte_past_a_whole_class, "Heap overflow") {
    overflow(64);
}
TEST_PANICS(memory, the_full_level_finds_one_byte_past_a_large_block, "Heap overflow") {
    overflow(131072);
}
TEST_PANICS(memory, the_full_level_finds_one_byte_past_a_huge_block, "Heap overflow") {
    overflow(4u << 20);
}

TEST_PANICS(memory, the_full_level_finds_it_in_a_block_that_is_at_hand_too, "Heap overflow") {
    NEED_REGISTERS();
    start_full();
    for (size_t size = 1; size < 2000; size++) asthra_manual_alloc(size); /* fills caches */
    char *block = asthra_manual_alloc(80);
    *(volatile char *)(block + 80) = 0;
    asthra_manual_free(block);
}

TEST_PANICS(memory, the_full_level_finds_a_write_after_the_free, "byte 30 of the block") {
    start_full();
    char *block = asthra_manual_alloc(100);
    asthra_manual_free(block);
    *(volatile char *)(block + 30) = 1;
    for (int i = 0; i < 1000; i++) asthra_manual_free(asthra_manual_alloc(100));
}

TEST_PANICS(memory, shutdown_looks_at_what_waits, "byte 16 of the block") {
    start_full();
    char *block = asthra_manual_alloc(100);
    asthra_manual_free(block);
    *(volatile char *)(block + 16) = 1;
    asthra_runtime_shutdown();
}
#endif

TEST(memory, the_full_level_does_not_hand_out_a_freed_block_soon) {
    start_full();
    void *block = asthra_manual_alloc(100);
    asthra_manual_free(block);
    for (int i = 0; i < 100; i++) {
        void *other = asthra_manual_alloc(100);
        CHECK(other != block);
        asthra_manual_free(other);
    }
    asthra_runtime_shutdown();
}

/* ---- the stack zone through the door ---- */

TEST(memory, the_door_gives_stack_blocks) {
    AsthraMemoryStatistics before = asthra_memory_statistics(ASTHRA_MEMORY_ZONE_STACK);
    ASTHRA_STACK_SCOPE(scope) {
        int *one = ASTHRA_NEW_ARRAY(int, 100, STACK);
        CHECK_EQ(asthra_memory_zone_of(one), ASTHRA_MEMORY_ZONE_STACK);
        AsthraMemoryStatistics now = asthra_memory_statistics(ASTHRA_MEMORY_ZONE_STACK);
        CHECK_EQ(now.current - before.current, 400);
        CHECK_EQ(now.count - before.count, 1);
        char *newest = asthra_alloc(10, ASTHRA_MEMORY_ZONE_STACK);
        asthra_free(newest, ASTHRA_MEMORY_ZONE_STACK);
        CHECK_EQ(asthra_memory_statistics_all().current,
                 asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).current + before.current +
                     400);
    }
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_STACK).current, before.current);
}

TEST_PANICS(memory, a_manual_block_is_not_freed_to_the_stack, "Invalid pointer in stack_free") {
    asthra_free(asthra_manual_alloc(10), ASTHRA_MEMORY_ZONE_STACK);
}

TEST_PANICS(memory, a_stack_block_is_not_freed_to_the_heap, "Invalid pointer in manual_free") {
    asthra_free(asthra_stack_alloc(10), ASTHRA_MEMORY_ZONE_MANUAL);
}

TEST(memory, the_limit_counts_the_stack_zone) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.max_heap_size = asthra_memory_statistics_all().current + 1000;
    CHECK(start(c));
    ASTHRA_STACK_SCOPE(scope) {
        CHECK(asthra_stack_alloc(600) != NULL);
        CHECK(asthra_manual_alloc(600) == NULL);
        CHECK(asthra_stack_alloc(600) == NULL);
        CHECK_EQ(asthra_last_error().status, ASTHRA_LIMIT);
    }
    asthra_manual_free(asthra_manual_alloc(600));
    asthra_runtime_shutdown();
}

#if ASTHRA_HAS_THREADS
static void *allocates_first(void *unused) {
    for (size_t size = 1; size < 3000; size *= 2) asthra_manual_free(asthra_manual_alloc(size));
    return unused;
}

/* Whether its end will be told was read from the links of a list, which its neighbours write. */
TEST(memory, first_allocations_of_many_threads_do_not_race) {
    pthread_t threads[8];
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 8; i++)
            CHECK(!pthread_create(&threads[i], NULL, allocates_first, NULL));
        for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    }
}
#endif
