/* The promises of src/memory/pinned.h, one test each; private names are seen, and mmap fails to
 * order. */
#include "test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

static atomic_long map_calls, map_fails_at; /* 0: none */
static atomic_bool map_fails_on;
static atomic_long mapped;

static void *faulty_mmap(void *at, size_t size, int access, int flags, int fd, off_t from) {
    long fails_at = atomic_load(&map_fails_at), now = atomic_fetch_add(&map_calls, 1) + 1;
    if (fails_at != 0 && (atomic_load(&map_fails_on) ? now >= fails_at : now == fails_at)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    void *start = mmap(at, size, access, flags, fd, from);
    if (start != MAP_FAILED) atomic_fetch_add(&mapped, (long)size);
    return start;
}
static int faulty_munmap(void *start, size_t size) {
    atomic_fetch_sub(&mapped, (long)size);
    return munmap(start, size);
}
#define mmap faulty_mmap
#define munmap faulty_munmap
#define ASTHRA_RT_STATIC
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"
#undef mmap
#undef munmap

static bool last_error_says(AsthraStatus status, const char *words) {
    AsthraResult r = asthra_last_error();
    return r.status == status && strstr(asthra_result_message(r), words) != NULL;
}

static uint64_t seed_of(uint64_t *s) { /* xorshift64 */
    *s ^= *s << 13, *s ^= *s >> 7, *s ^= *s << 17;
    return *s;
}

/* ---- the zone ---- */

TEST(pinned, blocks_hold_what_is_written) {
    enum { MANY = 300 };
    unsigned char *block[MANY];
    for (int i = 0; i < MANY; i++) {
        CHECK((block[i] = asthra_pinned_alloc((size_t)i * i)) != NULL);
        CHECK_EQ((uintptr_t)block[i] % 16, 0);
        CHECK_EQ(asthra_memory_zone_of(block[i]), ASTHRA_MEMORY_ZONE_PINNED);
        memset(block[i], i, (size_t)i * i);
    }
    for (int i = 0; i < MANY; i++) {
        for (int k = 0; k < i * i; k++) CHECK_EQ(block[i][k], i & 255);
        asthra_pinned_free(block[i]);
    }
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_PINNED).current, 0);
}

TEST(pinned, a_block_of_no_bytes_is_a_block_of_its_own) {
    void *a = asthra_pinned_alloc(0), *b = asthra_pinned_alloc(0);
    CHECK(a != NULL && b != NULL && a != b);
    asthra_pinned_free(a);
    asthra_pinned_free(b);
    asthra_pinned_free(NULL);
}

TEST(pinned, a_size_that_cannot_be_is_refused) {
    CHECK(asthra_pinned_alloc(SIZE_MAX) == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
}

TEST(pinned, allocated_is_not_pinned) {
    void *block = asthra_pinned_alloc(10);
    CHECK_EQ(asthra_pin_count(block), 0);
    CHECK_EQ(asthra_pin_list(NULL, 0), 0);
    asthra_pinned_free(block);
}

TEST_PANICS(pinned, a_double_free_panics, "Invalid pointer in pinned_free") {
    void *block = asthra_pinned_alloc(10);
    asthra_pinned_free(block);
    asthra_pinned_free(block);
}

TEST_PANICS(pinned, a_free_of_another_zones_block_panics, "another zone") {
    asthra_pinned_free(asthra_manual_alloc(10));
}

TEST_PANICS(pinned, a_manual_free_of_a_pinned_zones_block_panics, "zone PINNED, another zone") {
    asthra_manual_free(asthra_pinned_alloc(10));
}

TEST_PANICS(pinned, an_interior_free_panics, "is interior: 8 bytes into the block") {
    char *block = asthra_pinned_alloc(100);
    asthra_pinned_free(block + 8);
}

TEST_PANICS(pinned, a_free_of_a_local_panics, "Invalid pointer in pinned_free") {
    int local = 0;
    asthra_pinned_free(&local);
}

TEST(pinned, a_zone_that_is_switched_off_gives_nothing_and_pins_go_on) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    static int there;
    c.enable_pinned_memory = false;
    CHECK(asthra_runtime_init(&c));
    CHECK(asthra_pinned_alloc(8) == NULL);
    CHECK(last_error_says(ASTHRA_INVALID, "enable_pinned_memory"));
    CHECK(asthra_pin_memory(&there, sizeof there));
    CHECK(asthra_unpin_memory(&there));
    asthra_runtime_shutdown();
    asthra_pinned_free(asthra_pinned_alloc(8));
}

/* ---- pins ---- */

static char somewhere[1000];

TEST(pinned, pins_of_an_address_count) {
    for (size_t i = 1; i <= 5; i++) {
        CHECK(asthra_pin_memory(somewhere, 10));
        CHECK_EQ(asthra_pin_count(somewhere), i);
    }
    for (size_t i = 5; i-- > 0;) {
        CHECK(asthra_unpin_memory(somewhere));
        CHECK_EQ(asthra_pin_count(somewhere), i);
    }
}

TEST(pinned, an_address_is_counted_to_the_byte) {
    CHECK(asthra_pin_memory(somewhere, 10));
    CHECK_EQ(asthra_pin_count(somewhere + 1), 0);
    CHECK(asthra_pin_memory(somewhere + 1, 10));
    CHECK(asthra_pin_memory(somewhere + 1, 10));
    CHECK_EQ(asthra_pin_count(somewhere), 1);
    CHECK_EQ(asthra_pin_count(somewhere + 1), 2);
    CHECK(asthra_unpin_memory(somewhere));
    CHECK_EQ(asthra_pin_count(somewhere + 1), 2);
    CHECK_EQ(asthra_pin_count(NULL), 0);
}

TEST(pinned, the_widest_range_of_an_address_holds) {
    AsthraPinInfo pin;
    static const size_t sizes[] = {10, 4, 30, 30, 1}, widest[] = {10, 10, 30, 30, 30};
    for (size_t i = 0; i < 5; i++) {
        CHECK(asthra_pin_memory(somewhere, sizes[i]));
        CHECK_EQ(asthra_pin_list(&pin, 1), 1);
        CHECK(pin.address == somewhere && pin.size == widest[i] && pin.count == i + 1);
    }
    for (size_t i = 0; i < 5; i++) {
        CHECK_EQ(asthra_pin_list(&pin, 1), 1);
        CHECK_EQ(pin.size, 30);
        CHECK(asthra_unpin_memory(somewhere));
    }
    CHECK(asthra_pin_memory(somewhere, 7)); /* what was is forgotten */
    CHECK_EQ(asthra_pin_list(&pin, 1), 1);
    CHECK_EQ(pin.size, 7);
}

TEST(pinned, what_is_not_pinned_cannot_be_unpinned) {
    CHECK(!asthra_unpin_memory(somewhere));
    CHECK(last_error_says(ASTHRA_INVALID, "is not pinned"));
    CHECK(asthra_pin_memory(somewhere, 10));
    CHECK(!asthra_unpin_memory(somewhere + 4)); /* within a pin is not the pin */
    CHECK(asthra_unpin_memory(somewhere));
    CHECK(!asthra_unpin_memory(somewhere));
    CHECK(!asthra_unpin_memory(NULL));
    char *block = asthra_manual_alloc(100);
    CHECK(asthra_pin_memory(block + 5, 1));
    CHECK(!asthra_unpin_memory(block)); /* though the table knows it */
    CHECK_EQ(asthra_pin_count(block), 0);
    CHECK(asthra_unpin_memory(block + 5));
    asthra_manual_free(block);
}

TEST(pinned, bad_arguments_are_refused_with_the_reason) {
    CHECK(!asthra_pin_memory(NULL, 10));
    CHECK(last_error_says(ASTHRA_INVALID, "NULL"));
    CHECK(!asthra_pin_memory(somewhere, 0));
    CHECK(last_error_says(ASTHRA_INVALID, "size is 0"));
    CHECK(!asthra_pin_memory(somewhere, SIZE_MAX));
    CHECK(last_error_says(ASTHRA_INVALID, "past the end of the address space"));
    CHECK(!asthra_pin_memory((void *)(UINTPTR_MAX - 15), 17));
    CHECK(last_error_says(ASTHRA_INVALID, "past the end of the address space"));
    CHECK_EQ(asthra_pin_list(NULL, 0), 0);
}

TEST(pinned, the_last_byte_of_all_can_be_pinned) {
    void *top = (void *)(UINTPTR_MAX - 15);
    CHECK(asthra_pin_memory(top, 16));
    CHECK(asthra_unpin_memory(top));
    top = (void *)(UINTPTR_MAX - 5000000); /* over more than one unit of the region table */
    CHECK(asthra_pin_memory(top, 5000001));
    CHECK_EQ(asthra_pin_count(top), 1);
    CHECK(asthra_unpin_memory(top));
}

TEST(pinned, errno_is_left_alone) {
    errno = 77;
    CHECK(asthra_pin_memory(somewhere, 1));
    CHECK(!asthra_pin_memory(NULL, 1));
    CHECK(asthra_unpin_memory(somewhere));
    CHECK(!asthra_unpin_memory(somewhere));
    CHECK_EQ(errno, 77);
}

TEST(pinned, any_memory_can_be_pinned) {
    char local[10];
    char *pages = mmap(NULL, 20000000, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct {
        char *at;
        size_t size;
    } all[] = {{asthra_manual_alloc(10), 10},
               {asthra_pinned_alloc(0), 1},
               {asthra_pinned_alloc(3000), 3000},
               {asthra_manual_alloc(200000), 200000},
               {asthra_manual_alloc(9000000), 9000000},
               {malloc(10), 10},
               {local, sizeof local},
               {somewhere, sizeof somewhere},
               {pages + 77, 19999923}};
    enum { ALL = sizeof all / sizeof *all };
    for (size_t i = 0; i < ALL; i++) CHECK(asthra_pin_memory(all[i].at, all[i].size));
    for (size_t i = 0; i < ALL; i++) CHECK(asthra_pin_memory(all[i].at, all[i].size));
    CHECK_EQ(asthra_pin_list(NULL, 0), ALL);
    for (size_t i = 0; i < ALL; i++) CHECK_EQ(asthra_pin_count(all[i].at), 2);
    for (size_t i = 0; i < 2 * ALL; i++) CHECK(asthra_unpin_memory(all[i / 2].at));
    CHECK_EQ(asthra_pin_list(NULL, 0), 0);
    asthra_manual_free(all[0].at);
    asthra_pinned_free(all[1].at);
    asthra_pinned_free(all[2].at);
    asthra_manual_free(all[3].at);
    asthra_manual_free(all[4].at);
    free(all[5].at);
    munmap(pages, 20000000);
}

TEST(pinned, memory_of_the_zones_that_is_in_no_live_block_is_refused) {
    char *a = asthra_manual_alloc(40), *b = asthra_manual_alloc(40), *low = a < b ? a : b;
    CHECK(a + 48 == b || b + 48 == a);
    asthra_manual_free(a);
    CHECK(!asthra_pin_memory(a, 1));
    CHECK(last_error_says(ASTHRA_INVALID, "in no live block"));
    CHECK(!asthra_pin_memory(low, 96));
    CHECK(!asthra_pin_memory(low + 3, 60));
    CHECK(!asthra_pin_memory(b, 65536)); /* to the end of the page and beyond */
    CHECK_EQ(asthra_pin_list(NULL, 0), 0);
    asthra_manual_free(b); /* what was refused holds nothing */
}

/* The heap's table of regions knows whole units of 4 MiB: what else is mapped there is not ours. */
TEST(pinned, a_foreign_mapping_behind_a_huge_block_is_foreign) {
    size_t size = 3000000 & ~(size_t)65535;
    char *huge = asthra_manual_alloc(size);
    char *beside = mmap(huge + size + 262144, 65536, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (beside != huge + size + 262144) SKIP("the system maps elsewhere");
    CHECK(asthra_pin_memory(beside, 65536));
    asthra_manual_free(huge); /* it is not the block that is pinned */
    CHECK(!asthra_pin_memory(huge, size));
    CHECK(asthra_pin_memory(beside, 65536)); /* though the mapping waits */
    CHECK(asthra_unpin_memory(beside));
    asthra_memory_trim();
    CHECK(asthra_pin_memory(huge, size)); /* of nobody now */
    CHECK(asthra_unpin_memory(huge));
    CHECK(asthra_unpin_memory(beside));
    munmap(beside, 65536);
}

TEST(pinned, where_a_huge_block_was_is_foreign) {
    char *huge = asthra_manual_alloc(20000000);
    asthra_manual_free(huge);
    CHECK(asthra_pin_memory(huge + 1000, 9000000)); /* over more than one unit */
    CHECK(asthra_unpin_memory(huge + 1000));
}

TEST(pinned, a_foreign_range_that_runs_into_the_zones_is_refused) {
    uintptr_t unit = ASTHRA__REGION_BYTES;
    char *block = asthra_manual_alloc(100);
    char *segment = (char *)((uintptr_t)block & ~(unit - 1));
    CHECK_EQ(asthra_memory_zone_of(segment - 100), ASTHRA_MEMORY_ZONE_NONE);
    CHECK(asthra_pin_memory(segment - 100, 100));
    CHECK(asthra_unpin_memory(segment - 100));
    CHECK(!asthra_pin_memory(segment - 100, 101));
    CHECK(last_error_says(ASTHRA_INVALID, "in no live block"));
    asthra_manual_free(block);
}

/* ---- frees of what is pinned ---- */

TEST_PANICS(pinned, freeing_a_pinned_manual_block_panics, "Pinned memory in manual_free") {
    void *block = asthra_manual_alloc(40);
    CHECK(asthra_pin_memory(block, 40));
    asthra_manual_free(block);
}

TEST_PANICS(pinned, freeing_a_pinned_block_of_the_zone_panics, "Pinned memory in pinned_free") {
    void *block = asthra_pinned_alloc(40);
    CHECK(asthra_pin_memory(block, 1));
    asthra_pinned_free(block);
}

TEST_PANICS(pinned, realloc_of_a_pinned_block_panics, "Pinned memory in manual_realloc") {
    void *block = asthra_manual_alloc(40);
    CHECK(asthra_pin_memory(block, 40));
    block = asthra_manual_realloc(block, 41);
}

TEST_PANICS(pinned, one_of_two_pins_is_enough, "is pinned; unpin it first") {
    void *block = asthra_manual_alloc(40);
    CHECK(asthra_pin_memory(block, 40));
    CHECK(asthra_pin_memory(block, 40));
    CHECK(asthra_unpin_memory(block));
    asthra_manual_free(block);
}

TEST_PANICS(pinned, a_pin_of_a_blocks_interior_is_enough, "is pinned; unpin it first") {
    char *block = asthra_manual_alloc(400);
    CHECK(asthra_pin_memory(block + 399, 1));
    asthra_manual_free(block);
}

TEST_PANICS(pinned, so_is_one_of_a_large_blocks_interior, "is pinned; unpin it first") {
    char *block = asthra_pinned_alloc(300000);
    CHECK(asthra_pin_memory(block + 200000, 1000));
    asthra_pinned_free(block);
}

TEST_PANICS(pinned, so_is_one_of_a_huge_blocks_interior, "is pinned; unpin it first") {
    char *block = asthra_manual_alloc(30000000);
    CHECK(asthra_pin_memory(block + 20000000, 1000));
    asthra_manual_free(block);
}

TEST_PANICS(pinned, so_is_one_that_begins_before_the_block, "is pinned; unpin it first") {
    char *block = asthra_manual_alloc(30000000);
    CHECK_EQ(asthra_memory_zone_of(block - 10), ASTHRA_MEMORY_ZONE_NONE);
    CHECK(asthra_pin_memory(block - 10, 11));
    asthra_manual_free(block);
}

/* ---- the stack zone ---- */

static void leaves_a_pin(size_t offset) {
    char *low = asthra_stack_alloc(10), *block = asthra_stack_alloc(100);
    CHECK(low != NULL && asthra_pin_memory(block + offset, 1));
    asthra_stack_alloc(20);
}
TEST_PANICS(pinned, a_scope_with_a_pinned_block_is_not_released, "is pinned; unpin it first") {
    AsthraStackMark mark = asthra_stack_mark();
    leaves_a_pin(0);
    asthra_stack_release(&mark);
}
TEST_PANICS(pinned, nor_with_one_that_is_pinned_in_its_middle, "is pinned; unpin it first") {
    AsthraStackMark mark = asthra_stack_mark();
    leaves_a_pin(99);
    asthra_stack_release(&mark);
}
TEST_PANICS(pinned, a_pinned_block_of_the_stack_zone_is_not_freed, "is pinned; unpin it first") {
    char *block = asthra_stack_alloc(100);
    CHECK(asthra_pin_memory(block, 100));
    asthra_free(block, ASTHRA_MEMORY_ZONE_STACK);
}
static void *ends_with_a_pin(void *unused) {
    leaves_a_pin(5);
    return unused;
}
TEST_PANICS(pinned, a_task_does_not_end_with_a_pinned_block, "is pinned; unpin it first") {
    asthra_await(asthra_spawn(ends_with_a_pin, NULL));
}
TEST(pinned, what_is_released_beside_a_pinned_block_goes) {
    static char foreign[10];
    char *block = asthra_stack_alloc(100);
    CHECK(asthra_pin_memory(block, 100) && asthra_pin_memory(foreign, 10));
    ASTHRA_STACK_SCOPE(m) {
        asthra_stack_alloc(100);
        asthra_stack_alloc(100000);
    }
    asthra_free(asthra_stack_alloc(5), ASTHRA_MEMORY_ZONE_STACK);
    CHECK(asthra_unpin_memory(block) && asthra_unpin_memory(foreign));
    CHECK_EQ(asthra__trace_word() & ASTHRA__TRACE_ZONE_PINS, 0);
    asthra_free(block, ASTHRA_MEMORY_ZONE_STACK);
}

static char *row[20]; /* blocks side by side, lowest first */

static void make_row(void) {
    for (int i = 0; i < 20; i++) row[i] = asthra_manual_alloc(104);
    for (int i = 1; i < 20; i++) CHECK(row[i] == row[i - 1] + 112);
}

TEST_PANICS(pinned, a_range_over_several_blocks_pins_the_inner_ones, "is pinned; unpin it first") {
    make_row();
    CHECK(asthra_pin_memory(row[3] + 50, 600)); /* to row[8] + 89 */
    asthra_manual_free(row[5]);
}

TEST_PANICS(pinned, a_range_over_several_blocks_pins_the_last, "is pinned; unpin it first") {
    make_row();
    CHECK(asthra_pin_memory(row[3] + 50, 511)); /* row[8]'s first byte */
    asthra_manual_free(row[8]);
}

TEST_PANICS(pinned, a_wider_pin_of_an_address_reaches_on, "is pinned; unpin it first") {
    make_row();
    CHECK(asthra_pin_memory(row[3], 112));
    CHECK(asthra_pin_memory(row[3], 113));
    CHECK(asthra_unpin_memory(row[3]));
    asthra_manual_free(row[4]);
}

TEST(pinned, blocks_beside_a_range_are_free_to_go) {
    make_row();
    CHECK(asthra_pin_memory(row[3] + 50, 510)); /* to row[7]'s last byte */
    asthra_manual_free(row[2]);
    asthra_manual_free(row[8]);
    CHECK(asthra_unpin_memory(row[3] + 50));
    for (int i = 3; i < 8; i++) asthra_manual_free(row[i]);
}

#ifndef ASTHRA_RT_NO_THREADS
static void *free_it(void *block) {
    asthra_manual_free(block);
    return NULL;
}

static void free_elsewhere(void *block) {
    pthread_t other;
    CHECK(pthread_create(&other, NULL, free_it, block) == 0);
    pthread_join(other, NULL);
}

TEST_PANICS(pinned, another_threads_free_panics_too, "Pinned memory in manual_free") {
    char *block = asthra_manual_alloc(400);
    CHECK(asthra_pin_memory(block + 100, 1));
    free_elsewhere(block);
}

static void *pin_it(void *block) {
    CHECK(asthra_pin_memory(block, 1));
    return NULL;
}

/* The owner frees by a quick path, which the pin of another thread has to close. */
TEST_PANICS(pinned, so_does_the_owners_after_another_thread_pinned, "is pinned; unpin it first") {
    pthread_t other;
    char *block = asthra_manual_alloc(400);
    asthra_manual_free(asthra_manual_alloc(400));
    CHECK(pthread_create(&other, NULL, pin_it, block) == 0);
    pthread_join(other, NULL);
    asthra_manual_free(block);
}
#endif

TEST_PANICS(pinned, without_safety_checks_a_pinned_free_panics_too, "is pinned; unpin it first") {
    asthra__heap_set_level(ASTHRA_SAFETY_NONE);
    char *block = asthra_manual_alloc(400);
    CHECK(asthra_pin_memory(block + 100, 1));
    asthra_manual_free(block);
}

TEST_PANICS(pinned, with_all_safety_checks_it_does_too, "is pinned; unpin it first") {
    asthra__heap_set_level(ASTHRA_SAFETY_FULL);
    char *block = asthra_manual_alloc(400);
    CHECK(asthra_pin_memory(block + 100, 1));
    asthra_manual_free(block);
}

/* There freed blocks wait for a while before they are used again. */
TEST(pinned, a_block_that_waits_after_its_free_is_refused) {
    asthra__heap_set_level(ASTHRA_SAFETY_FULL);
    char *block = asthra_manual_alloc(400);
    CHECK(asthra_pin_memory(block, 400));
    CHECK(asthra_unpin_memory(block));
    asthra_manual_free(block);
    CHECK(!asthra_pin_memory(block, 400));
    CHECK(!asthra_pin_memory(block + 8, 1));
    CHECK_EQ(asthra_pin_list(NULL, 0), 0);
}

TEST(pinned, unpinned_blocks_can_be_freed_by_anybody) {
    static const size_t sizes[] = {0, 40, 5000, 60000, 300000, 30000000};
    for (size_t i = 0; i < 6; i++) {
        char *block = asthra_manual_alloc(sizes[i]), *other = asthra_manual_alloc(sizes[i]);
        CHECK(asthra_pin_memory(block, 1));
        CHECK(asthra_pin_memory(block + sizes[i] / 2, 1));
        CHECK(asthra_pin_memory(other + sizes[i] / 2, 1));
        CHECK(asthra_unpin_memory(block + sizes[i] / 2));
        CHECK(asthra_unpin_memory(block));
        CHECK(asthra_unpin_memory(other + sizes[i] / 2));
        block = asthra_manual_realloc(block, sizes[i] + 1);
        asthra_manual_free(block);
#ifdef ASTHRA_RT_NO_THREADS
        asthra_manual_free(other);
#else
        free_elsewhere(other);
#endif
    }
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).current, 0);
}

/* ---- the list ---- */

TEST(pinned, the_list_has_each_address_once) {
    enum { MANY = 3000 };
    static AsthraPinInfo pins[MANY + 1];
    static char bytes[MANY];
    static bool seen[MANY];
    for (size_t i = 0; i < MANY; i++)
        for (size_t k = 0; k <= i % 3; k++) CHECK(asthra_pin_memory(bytes + i, i % 7 + 1));
    CHECK_EQ(asthra_pin_list(NULL, 0), MANY);
    pins[MANY].count = 99;
    CHECK_EQ(asthra_pin_list(pins, MANY), MANY);
    for (size_t i = 0; i < MANY; i++) {
        size_t which = (size_t)((char *)pins[i].address - bytes);
        CHECK(which < MANY && !seen[which]);
        CHECK(pins[i].size == which % 7 + 1 && pins[i].count == which % 3 + 1);
        seen[which] = true;
    }
    CHECK_EQ(pins[MANY].count, 99);
    pins[10].count = 99;
    CHECK_EQ(asthra_pin_list(pins, 10), MANY); /* what does not fit is not written */
    CHECK_EQ(pins[10].count, 99);
}

TEST(pinned, blocks_that_others_touch_are_not_listed) {
    make_row();
    CHECK(asthra_pin_memory(row[3] + 50, 600));
    AsthraPinInfo pins[4];
    CHECK_EQ(asthra_pin_list(pins, 4), 1);
    CHECK(pins[0].address == row[3] + 50 && pins[0].size == 600 && pins[0].count == 1);
}

TEST(pinned, the_table_shrinks_again) {
    enum { MANY = 100000 };
    static char bytes[MANY];
    CHECK(asthra_pin_memory(somewhere, 1));
    long before = atomic_load(&mapped);
    for (size_t i = 0; i < MANY; i++) CHECK(asthra_pin_memory(bytes + i, 1));
    CHECK(atomic_load(&mapped) > before + MANY * 24);
    for (size_t i = 0; i < MANY; i++) CHECK(asthra_unpin_memory(bytes + i));
    CHECK(atomic_load(&mapped) <= before + 16 * 16384);
    CHECK_EQ(asthra_pin_list(NULL, 0), 1);
}

/* ---- the report ---- */

/* What is said on stderr between the two. */
static int kept_stderr;
static FILE *told;
static void listen_to_stderr(void) {
    told = tmpfile();
    kept_stderr = dup(2);
    CHECK(told != NULL && dup2(fileno(told), 2) == 2);
}
static char *stop_listening(void) {
    static char text[8192];
    dup2(kept_stderr, 2);
    ssize_t length = pread(fileno(told), text, sizeof text - 1, 0);
    CHECK(length >= 0);
    text[length] = '\0';
    return text;
}
static int times_in(const char *text, const char *words) {
    int times = 0;
    for (; (text = strstr(text, words)) != NULL; text++) times++;
    return times;
}

TEST(pinned, shutdown_reports_what_is_still_pinned) {
    char *block = asthra_manual_alloc(100);
    CHECK(asthra_runtime_init(NULL));
    CHECK(asthra_pin_memory(somewhere, 123));
    CHECK(asthra_pin_memory(somewhere, 1));
    CHECK(asthra_pin_memory(block + 1, 99));
    listen_to_stderr();
    asthra_runtime_shutdown();
    const char *text = stop_listening();
    CHECK_EQ(times_in(text, "still pinned: "), 2);
    CHECK(strstr(text, "still pinned: 123 bytes from ") != NULL);
    CHECK(strstr(text, "(2 pins), static data or code\n") != NULL);
    CHECK(strstr(text, "(1 pin), zone MANUAL\n") != NULL);
}

TEST(pinned, without_pins_shutdown_says_nothing) {
    CHECK(asthra_runtime_init(NULL));
    CHECK(asthra_pin_memory(somewhere, 123));
    CHECK(asthra_unpin_memory(somewhere));
    listen_to_stderr();
    asthra_runtime_shutdown();
    CHECK_STR(stop_listening(), "");
}

TEST(pinned, pins_outlive_shutdown) {
    char *block = asthra_pinned_alloc(100);
    CHECK(asthra_pin_memory(block, 1)); /* and need no runtime */
    CHECK(asthra_runtime_init(NULL));
    asthra_runtime_shutdown();
    CHECK_EQ(asthra_pin_count(block), 1);
    CHECK(asthra_runtime_init(NULL));
    CHECK(asthra_unpin_memory(block));
    asthra_runtime_shutdown();
    asthra_pinned_free(block);
}

TEST(pinned, the_report_is_bounded_and_counts_all) {
    listen_to_stderr();
    CHECK_EQ(asthra__pinned_report(), 0);
    for (size_t i = 0; i < 16; i++) CHECK(asthra_pin_memory(somewhere + i, 1));
    CHECK_EQ(asthra__pinned_report(), 16);
    CHECK_EQ(times_in(stop_listening(), "\n"), 16);
    for (size_t i = 16; i < 1000; i++) CHECK(asthra_pin_memory(somewhere + i, 1));
    listen_to_stderr();
    CHECK_EQ(asthra__pinned_report(), 1000);
    const char *text = stop_listening();
    CHECK_EQ(times_in(text, "\n"), 17);
    CHECK(strstr(text, "still pinned: and 984 more\n") != NULL);
}

/* ---- the hook; a stand-in for a collector ---- */

static struct {
    void *address;
    size_t before, after;
} heard[16];
static size_t heard_count;

static void hear(void *address, size_t before, size_t after) {
    if (heard_count < 16) heard[heard_count].address = address;
    if (heard_count < 16) heard[heard_count].before = before;
    if (heard_count < 16) heard[heard_count].after = after;
    heard_count++;
}

TEST(pinned, the_hook_hears_first_wider_and_last) {
    make_row();
    asthra__pinned_set_hook(hear);
    CHECK(asthra_pin_memory(row[0], 10));
    CHECK(asthra_pin_memory(row[0], 10));
    CHECK(asthra_pin_memory(row[0], 300)); /* spread from here on */
    CHECK(asthra_pin_memory(row[0], 20));
    for (int i = 0; i < 4; i++) CHECK(asthra_unpin_memory(row[0]));
    CHECK(!asthra_unpin_memory(row[0]));
    CHECK(!asthra_pin_memory(NULL, 1));
    CHECK_EQ(heard_count, 3);
    static const size_t before[] = {0, 10, 300}, after[] = {10, 300, 0};
    for (size_t i = 0; i < 3; i++)
        CHECK(heard[i].address == row[0] && heard[i].before == before[i] &&
              heard[i].after == after[i]);
    asthra__pinned_set_hook(NULL);
    CHECK(asthra_pin_memory(row[0], 10));
    CHECK(asthra_unpin_memory(row[0]));
    CHECK_EQ(heard_count, 3);
}

/* A stand-in that keeps what a collector would: it must never hear of a second first. */
static size_t held_by_stand_in; /* of the one address; under its shard's lock */
static atomic_long first_pins;
static void keep(void *address, size_t before, size_t after) {
    CHECK(address == somewhere);
    CHECK_EQ(held_by_stand_in, before);
    held_by_stand_in = after;
    if (before == 0) atomic_fetch_add(&first_pins, 1);
}
static void *pin_one_address(void *unused) {
    for (size_t i = 0; i < 20000; i++) {
        CHECK(asthra_pin_memory(somewhere, 1 + i % 5));
        CHECK(asthra_unpin_memory(somewhere));
    }
    return unused;
}

TEST(pinned, the_hook_hears_in_the_true_order) {
    pthread_t threads[3];
    asthra__pinned_set_hook(keep);
    for (int i = 0; i < 3; i++) CHECK(!pthread_create(&threads[i], NULL, pin_one_address, NULL));
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    CHECK_EQ(held_by_stand_in, 0);
    CHECK(atomic_load(&first_pins) > 0);
}

/* ---- a model ---- */

enum { MODEL_BLOCKS = 64, MODEL_PINS = 48 };
typedef struct Model {
    uint64_t random;
    char *block[MODEL_BLOCKS]; /* NULL: not allocated */
    size_t size[MODEL_BLOCKS];
    struct {
        char *at; /* NULL: not pinned */
        size_t size, count;
    } pins[MODEL_PINS];
} Model;

static size_t below(Model *m, size_t n) {
    return (size_t)(seed_of(&m->random) >> 20) % n;
}

/* Whether all bytes are outside the zones or in live blocks, asked of the door. */
static bool is_all_live(const char *at, size_t size) {
    AsthraAllocationInfo info;
    for (size_t i = 0; i < size; i++)
        if (!asthra_memory_describe(at + i, &info) || info.kind != ASTHRA_ADDRESS_LIVE)
            return false;
    return true;
}

/* The heap's answer to "may this block be freed?", without the panic. */
static bool is_refused(const char *block) {
    Asthra__Found f;
    CHECK_EQ(asthra__heap_find(block, &f), ASTHRA_ADDRESS_LIVE);
    uint32_t pins = asthra__load(f.page ? &f.page->pins : &f.huge->pins, acquire);
    CHECK(pins == 0 || f.huge || asthra__load(&f.page->quick, relaxed) == asthra__not_quick());
    return pins != 0 && asthra__pinned_holds(block, f.capacity);
}

static bool model_is_pinned(const Model *m, size_t b) {
    Asthra__Found f;
    asthra__heap_find(m->block[b], &f);
    for (size_t i = 0; i < MODEL_PINS; i++)
        if (m->pins[i].at != NULL && m->pins[i].at < m->block[b] + f.capacity &&
            m->pins[i].at + m->pins[i].size > m->block[b])
            return true;
    return false;
}

static void model_allocate_or_free(Model *m) {
    size_t b = below(m, MODEL_BLOCKS);
    if (m->block[b] == NULL) {
        m->size[b] = below(m, 8) ? 1 + below(m, 64) : 60000 + below(m, 20000);
        m->block[b] = asthra_manual_alloc(m->size[b]);
    } else {
        bool is_pinned = model_is_pinned(m, b);
        CHECK_EQ(is_refused(m->block[b]), is_pinned);
        if (is_pinned) return;
        asthra_manual_free(m->block[b]);
        m->block[b] = NULL;
    }
}

static void model_pin(Model *m) {
    size_t b = below(m, MODEL_BLOCKS), p = 0, same = MODEL_PINS;
    if (m->block[b] == NULL) return;
    char *at = m->block[b] + (below(m, 2) ? 0 : below(m, m->size[b]));
    size_t size = 1 + below(m, below(m, 2) ? 8 : 200);
    for (size_t i = 0; i < MODEL_PINS; i++) {
        if (m->pins[i].at == NULL) p = i;
        if (m->pins[i].at == at) same = i;
    }
    if (same < MODEL_PINS) p = same;
    if (same == MODEL_PINS && m->pins[p].at != NULL) return;
    size_t before = same < MODEL_PINS ? m->pins[p].size : 0;
    bool is_good = asthra_pin_memory(at, size);
    CHECK_EQ(is_good, size <= before || is_all_live(at, size));
    if (!is_good) return;
    m->pins[p].at = at;
    m->pins[p].size = size > before ? size : before;
    m->pins[p].count++;
}

static void model_unpin(Model *m) {
    size_t p = below(m, MODEL_PINS);
    if (m->pins[p].at == NULL) return;
    CHECK(asthra_unpin_memory(m->pins[p].at));
    CHECK_EQ(asthra_pin_count(m->pins[p].at), m->pins[p].count - 1);
    if (--m->pins[p].count == 0) m->pins[p].at = NULL, m->pins[p].size = 0;
}

static void model_check_list(const Model *m) {
    AsthraPinInfo list[MODEL_PINS + 1];
    size_t count = asthra_pin_list(list, MODEL_PINS + 1), expected = 0;
    for (size_t i = 0; i < MODEL_PINS; i++) expected += m->pins[i].at != NULL;
    CHECK_EQ(count, expected);
    for (size_t k = 0; k < count; k++) {
        size_t i = 0;
        while (i < MODEL_PINS && m->pins[i].at != list[k].address) i++;
        CHECK(i < MODEL_PINS);
        CHECK(m->pins[i].size == list[k].size && m->pins[i].count == list[k].count);
    }
}

/* Undoes all; then no page may have a pin left over. */
static void model_end(Model *m) {
    Asthra__Found f;
    for (size_t i = 0; i < MODEL_PINS; i++)
        for (; m->pins[i].count > 0; m->pins[i].count--) CHECK(asthra_unpin_memory(m->pins[i].at));
    for (size_t b = 0; b < MODEL_BLOCKS; b++) {
        if (m->block[b] == NULL) continue;
        asthra__heap_find(m->block[b], &f);
        CHECK_EQ(asthra__pinned_holds(m->block[b], f.capacity), false);
        asthra_manual_free(m->block[b]);
    }
}

static void model_run(uint64_t seed, int steps, bool is_alone) {
    Model m;
    memset(&m, 0, sizeof m);
    m.random = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (int i = 0; i < steps; i++) {
        switch (below(&m, 8)) {
        case 0:
        case 1: model_allocate_or_free(&m); break;
        case 2:
        case 3:
        case 4: model_pin(&m); break;
        case 5:
        case 6: model_unpin(&m); break;
        default:
            if (is_alone && below(&m, 8) == 0) model_check_list(&m);
        }
    }
    model_end(&m);
}

TEST_WITHIN(60, pinned, a_model_agrees_under_every_seed) {
    for (uint64_t seed = 1; seed <= 40; seed++) {
        fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
        model_run(seed, 4000, true);
        CHECK_EQ(asthra_pin_list(NULL, 0), 0);
    }
}

static bool no_page_has_pins(Asthra__HeapPage *page, void *unused) {
    (void)unused;
    CHECK_EQ(asthra__load(&page->pins, relaxed), 0);
    return true;
}

/* Blocks of 4 threads are in pages of their own; a range never reaches another thread's. */
static void *model_thread(void *seed) {
    for (int i = 0; i < 5; i++) model_run((uint64_t)(uintptr_t)seed + (uint64_t)i, 4000, false);
    return NULL;
}

TEST_WITHIN(60, pinned, models_on_many_threads_agree) {
    pthread_t threads[4];
    for (uintptr_t i = 0; i < 4; i++)
        CHECK(!pthread_create(&threads[i], NULL, model_thread, (void *)(i * 100 + 1)));
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    CHECK_EQ(asthra_pin_list(NULL, 0), 0);
    asthra__segment_each(no_page_has_pins, NULL);
}

static void *pin_ranges_of_the_row(void *args) {
    uint64_t random = (uint64_t)(uintptr_t)args;
    for (int i = 0; i < 20000; i++) {
        char *at = row[seed_of(&random) % 10] + (seed_of(&random) % 3) * 50;
        CHECK(asthra_pin_memory(at, 1 + (size_t)(seed_of(&random) % 1000)));
        CHECK(asthra_pin_count(at) >= 1);
        CHECK(asthra_unpin_memory(at));
    }
    return NULL;
}

/* Threads pin the same addresses with ranges of all widths: all that they hold is let go. */
TEST_WITHIN(60, pinned, threads_that_share_addresses_leave_nothing_behind) {
    pthread_t threads[4];
    make_row();
    for (uintptr_t i = 0; i < 4; i++)
        CHECK(!pthread_create(&threads[i], NULL, pin_ranges_of_the_row, (void *)(i + 1)));
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    CHECK_EQ(asthra_pin_list(NULL, 0), 0);
    asthra__segment_each(no_page_has_pins, NULL);
    for (int i = 0; i < 20; i++) {
        CHECK(!asthra__pinned_holds(row[i], 112));
        asthra_manual_free(row[i]);
    }
}

/* What a thread sees that found the address unpinned, and another pins more of it meanwhile. */
TEST(pinned, a_narrower_pin_that_comes_second_holds_nothing_twice) {
    make_row();
    CHECK(asthra_pin_memory(row[0], 600));
    CHECK(asthra__pin_spread(row[0], 250, true));
    CHECK_EQ(asthra_pin_count(row[0]), 2);
    CHECK(asthra_unpin_memory(row[0]));
    for (int i = 0; i < 20; i++) CHECK_EQ(is_refused(row[i]), i < 6);
    CHECK(asthra_unpin_memory(row[0]));
    asthra__segment_each(no_page_has_pins, NULL);
    for (int i = 0; i < 20; i++) asthra_manual_free(row[i]);
}

/* ---- listing while others pin ---- */

static atomic_bool is_over;
static char comings[4][4000];

static void *come_and_go(void *which) {
    char *bytes = comings[(uintptr_t)which];
    while (!atomic_load(&is_over)) {
        for (size_t i = 0; i < 4000; i++) CHECK(asthra_pin_memory(bytes + i, 1));
        for (size_t i = 0; i < 4000; i++) CHECK(asthra_unpin_memory(bytes + i));
    }
    return NULL;
}

TEST_WITHIN(60, pinned, a_list_made_while_others_pin_has_each_that_stays_once) {
    pthread_t threads[2];
    static AsthraPinInfo list[10000];
    for (size_t i = 0; i < 500; i++) CHECK(asthra_pin_memory(somewhere + i, 1));
    for (uintptr_t i = 0; i < 2; i++)
        CHECK(!pthread_create(&threads[i], NULL, come_and_go, (void *)i));
    for (int round = 0; round < 200; round++) {
        size_t count = asthra_pin_list(list, 10000), stays = 0;
        CHECK(count >= 500 && count <= 8500);
        bool seen[500] = {false};
        for (size_t k = 0; k < count; k++) {
            size_t which = (size_t)((char *)list[k].address - somewhere);
            CHECK_EQ(list[k].count, 1);
            if ((char *)list[k].address < somewhere || which >= 500) continue;
            CHECK(!seen[which]);
            seen[which] = true;
            stays++;
        }
        CHECK_EQ(stays, 500);
    }
    atomic_store(&is_over, true);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    CHECK_EQ(asthra_pin_list(NULL, 0), 500);
}

/* Tasks pin on one worker and unpin on another: pins belong to none. */
static void *pin_over_a_wait(void *block) {
    CHECK(asthra_pin_memory(block, 64));
    for (int i = 0; i < 10; i++) asthra_yield();
    CHECK(asthra_pin_count(block) >= 1);
    CHECK(asthra_unpin_memory(block));
    return NULL;
}

TEST(pinned, pins_belong_to_no_task) {
    AsthraTaskHandle tasks[40];
    char *blocks[4];
    for (int i = 0; i < 4; i++) blocks[i] = asthra_pinned_alloc(64);
    for (int i = 0; i < 40; i++) tasks[i] = asthra_spawn(pin_over_a_wait, blocks[i % 4]);
    for (int i = 0; i < 40; i++) asthra_await(tasks[i]);
    for (int i = 0; i < 4; i++) asthra_pinned_free(blocks[i]);
    CHECK_EQ(asthra_pin_list(NULL, 0), 0);
}

/* ---- no memory ---- */

enum { PINNED_UNDER_FAULTS = 4000 };

/* Pins, with the n-th mapping refused, or each from there on. What is refused says why and has
 * changed nothing; what was pinned stays. Returns how many were refused. */
static size_t pin_under_faults(const char *bytes, bool *is_pinned) {
    size_t refused = 0, count = 0;
    for (size_t i = 0; i < PINNED_UNDER_FAULTS; i++) {
        size_t size = i % 100 ? 1 : 200; /* over several blocks, where there are any */
        is_pinned[i] = asthra_pin_memory((void *)(uintptr_t)(bytes + i), size);
        count += is_pinned[i];
        if (is_pinned[i]) continue;
        refused++;
        CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
        CHECK_EQ(asthra_pin_count(bytes + i), 0);
    }
    CHECK_EQ(asthra_pin_list(NULL, 0), count);
    return refused;
}

static void run_under_faults(char *bytes, long at, bool goes_on, size_t *refused) {
    static bool is_pinned[PINNED_UNDER_FAULTS];
    atomic_store(&map_calls, 0);
    atomic_store(&map_fails_on, goes_on);
    atomic_store(&map_fails_at, at);
    *refused = pin_under_faults(bytes, is_pinned);
    for (size_t i = 0; i < PINNED_UNDER_FAULTS; i++)
        CHECK_EQ(asthra_unpin_memory(bytes + i), is_pinned[i]);
    CHECK_EQ(asthra_pin_list(NULL, 0), 0);
    atomic_store(&map_fails_at, 0);
    for (size_t i = 0; i < PINNED_UNDER_FAULTS; i++) CHECK(asthra_pin_memory(bytes + i, 1));
    for (size_t i = 0; i < PINNED_UNDER_FAULTS; i++) CHECK(asthra_unpin_memory(bytes + i));
}

/* Each in a process of its own: tables that have been made once are not made again. */
static bool faults_end(long at, bool goes_on, char *bytes) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        size_t refused;
        run_under_faults(bytes, at, goes_on, &refused);
        asthra__segment_each(no_page_has_pins, NULL);
        _exit(atomic_load(&map_calls) < at ? 1 : refused > 0 ? 2 : 0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    if (WEXITSTATUS(status) > 2)
        test_fail(__FILE__, __LINE__, "mapping %ld%s: status %d", at, goes_on ? " and on" : "",
                  WEXITSTATUS(status));
    if (goes_on && at == 1) CHECK_EQ(WEXITSTATUS(status), 2); /* the faults do reach us */
    return WEXITSTATUS(status) == 1;
}

static void under_every_fault(char *bytes) {
    for (int goes_on = 0; goes_on < 2; goes_on++) {
        long at = 1;
        while (!faults_end(at, goes_on != 0, bytes)) at += test_thrift() == 20 ? 5 : 1;
        CHECK(at > 16); /* sixteen tables, and each grows */
    }
}

TEST_WITHIN(120, pinned, pins_survive_every_refused_mapping) {
    static char foreign[PINNED_UNDER_FAULTS + 200];
    under_every_fault(foreign);
}

TEST_WITHIN(120, pinned, pins_within_a_block_survive_every_refused_mapping) {
    under_every_fault(asthra_manual_alloc(PINNED_UNDER_FAULTS + 200));
}

/* 32 blocks in a row: one pin touches many entries, in tables that may have no room. */
TEST_WITHIN(120, pinned, a_range_over_many_blocks_survives_every_refused_mapping) {
    char *blocks[32], *low;
    for (int i = 0; i < 32; i++) blocks[i] = asthra_manual_alloc(504);
    low = blocks[0];
    for (int i = 0; i < 32; i++) CHECK(blocks[i] == low + 512 * i);
    CHECK(PINNED_UNDER_FAULTS + 200 <= 32 * 512);
    under_every_fault(low);
    pid_t child = fork();
    if (child == 0) {
        for (long at = 1;; at++) {
            atomic_store(&map_calls, 0);
            atomic_store(&map_fails_at, at);
            if (asthra_pin_memory(low, 32 * 512)) break;
            atomic_store(&map_fails_at, 0);
            CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
            for (int i = 0; i < 32; i++) CHECK(!is_refused(blocks[i]));
        }
        for (int i = 0; i < 32; i++) CHECK(is_refused(blocks[i]));
        CHECK(asthra_unpin_memory(low));
        asthra__segment_each(no_page_has_pins, NULL);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- fork ---- */

static void *pin_all_the_time(void *which) {
    char *block = asthra_manual_alloc(1000);
    while (!atomic_load(&is_over)) {
        CHECK(asthra_pin_memory(block + (uintptr_t)which, 10)); /* spread, if not 0 */
        CHECK(asthra_pin_memory(comings[(uintptr_t)which], 10));
        CHECK(asthra_unpin_memory(comings[(uintptr_t)which]));
        CHECK(asthra_unpin_memory(block + (uintptr_t)which));
    }
    asthra_manual_free(block);
    return NULL;
}

TEST_WITHIN(60, pinned, a_forked_child_has_the_pins_and_can_go_on) {
#if ASTHRA__TSAN || ASTHRA__ASAN
    SKIP("fork: sanitizers do not support a child that goes on after a fork of many threads");
#endif
    NEED_NO_EMULATOR("fork: qemu-user ends in an assertion of its own after a fork of threads");
    pthread_t threads[3];
    char *block = asthra_manual_alloc(100);
    CHECK(asthra_pin_memory(block + 1, 10));
    for (uintptr_t i = 0; i < 3; i++)
        CHECK(!pthread_create(&threads[i], NULL, pin_all_the_time, (void *)i));
    for (int round = 0; round < 100; round++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(10);
            CHECK_EQ(asthra_pin_count(block + 1), 1);
            size_t count = asthra_pin_list(NULL, 0);
            CHECK(count >= 1 && count <= 7); /* of the others as the fork found them */
            CHECK(asthra_pin_memory(block, 100));
            CHECK(asthra_unpin_memory(block));
            CHECK(asthra_unpin_memory(block + 1));
            asthra_manual_free(block);
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    atomic_store(&is_over, true);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    CHECK_EQ(asthra_pin_count(block + 1), 1);
}
