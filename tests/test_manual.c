/* The promises of src/memory/manual.h, one test each; then what a hostile program would try. */
#include "test.h"
#include "asthra_rt.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define IS_SANITIZED 1
#else
#define IS_SANITIZED 0
#endif

static size_t scaled(size_t rounds) {
    return rounds / test_thrift();
}

/* Blocks of every kind: small, medium, large and huge, and what is next to a limit. */
static const size_t sizes[] = {0,     1,     15,     16,      17,      100,     128,    129,
                               1000,  1024,  1025,   8192,    8193,    20000,   65535,  65536,
                               65537, 69632, 300000, 2097151, 2097152, 2097153, 9000000};
enum { SIZES = sizeof sizes / sizeof *sizes };

static const size_t kinds[] = {0, 24, 1000, 9000, 70000, 3000000};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* ---- contents: a pattern that depends on the place, checked wherever it was set ---- */

static size_t next_place(size_t i) {
    return i < 2048 ? i + 1 : i + 509;
}
static unsigned char pattern(size_t i, unsigned seed) {
    return (unsigned char)(seed * 31 + i * 13 + (i >> 8) * 7);
}
static void *fill(void *block, size_t size, unsigned seed) {
    unsigned char *bytes = block;
    for (size_t i = 0; i < size; i = next_place(i)) bytes[i] = pattern(i, seed);
    return block;
}
static bool holds(const void *block, size_t size, unsigned seed) {
    const unsigned char *bytes = block;
    for (size_t i = 0; i < size; i = next_place(i))
        if (bytes[i] != pattern(i, seed)) return false;
    return true;
}
static bool is_zero(const void *block, size_t size) {
    const unsigned char *bytes = block;
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != 0) return false;
    return true;
}
static bool is_aligned(const void *block, size_t alignment) {
    return ((uintptr_t)block & (alignment - 1)) == 0;
}

/* As a bug would write or read: a sanitizer is not to see it. */
#if defined(__SANITIZE_ADDRESS__)
#define UNSEEN __attribute__((noinline, no_sanitize_address))
#else
#define UNSEEN __attribute__((noinline))
#endif
static UNSEEN void poke(void *place, unsigned char byte) {
    *(volatile unsigned char *)place = byte;
}
static UNSEEN void poke_word(void *place, uintptr_t word) {
    *(volatile uintptr_t *)place = word;
}

static AsthraMemoryStatistics statistics(void) {
    return asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL);
}

static void out_of_memory(const void *block) {
    CHECK(block == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
    CHECK(*asthra_result_message(asthra_last_error()) != 0);
    asthra_result_ok(NULL);
}

static void on_thread(void *(*run)(void *), void *argument) {
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, run, argument));
    CHECK(!pthread_join(thread, NULL));
}
static void *free_it(void *block) {
    asthra_manual_free(block);
    return NULL;
}

/* ---- blocks ---- */

TEST(manual, blocks_are_aligned_to_16_and_do_not_overlap) {
    enum { N = 2001 + SIZES };
    static void *blocks[N];
    for (size_t i = 0; i < N; i++) {
        size_t size = i <= 2000 ? i : sizes[i - 2001];
        blocks[i] = asthra_manual_alloc(size);
        CHECK(blocks[i] != NULL && is_aligned(blocks[i], 16));
        fill(blocks[i], size, (unsigned)i);
    }
    for (size_t i = 0; i < N; i++) {
        CHECK(holds(blocks[i], i <= 2000 ? i : sizes[i - 2001], (unsigned)i));
        asthra_manual_free(blocks[i]);
    }
    CHECK_EQ(statistics().current, 0);
}

TEST(manual, a_block_of_no_bytes_is_a_block_of_its_own) {
    enum { N = 1000 };
    static char *blocks[N];
    for (int i = 0; i < N; i++) {
        blocks[i] = i % 2 ? asthra_manual_alloc(0) : asthra_manual_alloc_zeroed(0, (size_t)i);
        CHECK(blocks[i] != NULL && is_aligned(blocks[i], 16));
        CHECK_EQ(asthra_manual_usable_size(blocks[i]), 0);
        for (int k = 0; k < i; k++) CHECK(blocks[k] != blocks[i]);
    }
    for (int i = 0; i < N; i++) asthra_manual_free(blocks[i]);
}

TEST(manual, aligned_blocks_of_no_bytes_are_blocks) {
    for (size_t alignment = 1; alignment <= 16 << 20; alignment *= 2) {
        char *one = asthra_manual_alloc_aligned(0, alignment);
        char *two = asthra_manual_alloc_aligned(0, alignment);
        CHECK(one != NULL && two != NULL && one != two);
        CHECK(is_aligned(one, alignment) && is_aligned(two, alignment));
        CHECK_EQ(asthra_manual_usable_size(one), 0);
        asthra_manual_free(one);
        asthra_manual_free(two);
    }
}

TEST(manual, null_is_freed_and_has_no_bytes) {
    asthra_manual_free(NULL);
    CHECK_EQ(asthra_manual_usable_size(NULL), 0);
    CHECK_EQ(statistics().count, 0);
}

TEST(manual, usable_size_is_what_was_asked_for) {
    for (size_t i = 0; i <= 2000 + SIZES; i++) {
        size_t size = i <= 2000 ? i : sizes[i - 2001];
        void *block = asthra_manual_alloc(size);
        CHECK_EQ(asthra_manual_usable_size(block), size);
        memset(block, 0xff, size);
        block = asthra_manual_realloc(block, size + 3);
        CHECK_EQ(asthra_manual_usable_size(block), size + 3);
        block = asthra_manual_realloc(block, size / 3 * 2);
        CHECK_EQ(asthra_manual_usable_size(block), size / 3 * 2);
        asthra_manual_free(block);
    }
}

static void start_at(AsthraSafetyLevel level) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.memory_safety_level = level;
    c.worker_threads = 1;
    CHECK(asthra_runtime_init(&c));
}

TEST(manual, without_checks_every_usable_byte_may_be_written_and_is_kept) {
    start_at(ASTHRA_SAFETY_NONE);
    for (size_t i = 0; i < SIZES; i++) {
        void *block = asthra_manual_alloc(sizes[i]);
        size_t usable = asthra_manual_usable_size(block);
        CHECK(usable >= sizes[i]);
        fill(block, usable, 5);
        void *moved = asthra_manual_realloc(block, usable * 3 + 1);
        CHECK(holds(moved, usable, 5));
        block = asthra_manual_alloc_aligned(sizes[i], 256);
        fill(block, asthra_manual_usable_size(block), 6);
        asthra_manual_free(block);
        block = asthra_manual_alloc_zeroed(1, sizes[i]);
        CHECK(is_zero(block, sizes[i]));
        fill(block, asthra_manual_usable_size(block), 7);
        asthra_manual_free(block);
        asthra_manual_free(moved);
    }
    CHECK_EQ(statistics().current, 0);
    asthra_runtime_shutdown();
}

TEST(manual, blocks_outlive_a_change_of_the_level) {
    static const AsthraSafetyLevel levels[] = {ASTHRA_SAFETY_NONE, ASTHRA_SAFETY_CHECKED,
                                               ASTHRA_SAFETY_FULL, ASTHRA_SAFETY_CHECKED};
    static void *blocks[4][SIZES];
    for (size_t l = 0; l < 4; l++) {
        start_at(levels[l]);
        for (size_t i = 0; i < SIZES; i++)
            blocks[l][i] = fill(asthra_manual_alloc(sizes[i]), sizes[i], (unsigned)(l + i));
        asthra_runtime_shutdown();
    }
    for (size_t l = 0; l < 4; l++) {
        for (size_t i = 0; i < SIZES; i++) {
            CHECK(holds(blocks[l][i], sizes[i], (unsigned)(l + i)));
            asthra_manual_free(blocks[l][i]);
        }
    }
    CHECK_EQ(statistics().current, 0);
}

/* ---- bad arguments ---- */

TEST(manual, more_than_there_is_gives_null_and_the_reason) {
    static const size_t sizes_too_large[] = {SIZE_MAX,
                                             SIZE_MAX - 1,
                                             SIZE_MAX - 15,
                                             SIZE_MAX - 4096,
                                             SIZE_MAX / 2 + 2,
                                             (size_t)PTRDIFF_MAX + 1,
                                             PTRDIFF_MAX,
                                             PTRDIFF_MAX - 15,
                                             PTRDIFF_MAX - 4095,
                                             PTRDIFF_MAX - 4096,
                                             PTRDIFF_MAX - 65536 * 64,
                                             PTRDIFF_MAX - PTRDIFF_MAX / 4};
    test_crowd_addresses();
    void *block = fill(asthra_manual_alloc(100), 100, 1);
    for (size_t i = 0; i < sizeof sizes_too_large / sizeof *sizes_too_large; i++) {
        size_t size = sizes_too_large[i];
        size_t failures = statistics().failures;
        out_of_memory(asthra_manual_alloc(size));
        out_of_memory(asthra_manual_alloc_zeroed(1, size));
        out_of_memory(asthra_manual_alloc_zeroed(size, 1));
        for (size_t alignment = 1; alignment <= 16 << 20; alignment *= 8)
            out_of_memory(asthra_manual_alloc_aligned(size, alignment));
        out_of_memory(asthra_manual_realloc(NULL, size));
        out_of_memory(asthra_manual_realloc(block, size));
        CHECK(holds(block, 100, 1) && asthra_manual_usable_size(block) == 100);
        CHECK_EQ(statistics().failures, failures + 14);
    }
    asthra_manual_free(block);
    CHECK_EQ(statistics().current, 0);
}

TEST(manual, a_product_that_overflows_gives_null_and_the_reason) {
    static const size_t odd[] = {2, 3, 16, 65536, SIZE_MAX / 2, SIZE_MAX};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        out_of_memory(asthra_manual_alloc_zeroed(odd[i], SIZE_MAX / odd[i] + 1 + (odd[i] == 1)));
        out_of_memory(asthra_manual_alloc_zeroed(SIZE_MAX / odd[i] + 1, odd[i]));
    }
    out_of_memory(asthra_manual_alloc_zeroed((size_t)1 << (sizeof(size_t) * 4),
                                             (size_t)1 << (sizeof(size_t) * 4)));
    out_of_memory(asthra_manual_alloc_zeroed(SIZE_MAX, SIZE_MAX));
    CHECK_EQ(statistics().current, 0);
}

TEST(manual, an_alignment_that_is_no_power_of_two_is_refused) {
    static const size_t odd[] = {0, 3, 5, 6, 12, 24, 48, 65535, 65537, SIZE_MAX, SIZE_MAX - 1};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        for (size_t size = 0; size <= 10000000; size = size * 10 + 1) {
            CHECK(asthra_manual_alloc_aligned(size, odd[i]) == NULL);
            CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
        }
    }
}

TEST(manual, an_alignment_beyond_the_address_space_is_out_of_memory) {
    test_crowd_addresses();
    for (size_t alignment = (size_t)PTRDIFF_MAX / 2 + 1; alignment != 0; alignment *= 2)
        for (size_t i = 0; i < SIZES; i++)
            out_of_memory(asthra_manual_alloc_aligned(sizes[i], alignment));
}

TEST(manual, blocks_are_aligned_as_asked) {
    for (size_t alignment = 1; alignment <= 16 << 20; alignment *= 2) {
        void *blocks[SIZES];
        for (size_t i = 0; i < SIZES; i++) {
            blocks[i] = asthra_manual_alloc_aligned(sizes[i], alignment);
            CHECK(blocks[i] != NULL);
            CHECK(is_aligned(blocks[i], alignment) && is_aligned(blocks[i], 16));
            CHECK_EQ(asthra_manual_usable_size(blocks[i]), sizes[i]);
            fill(blocks[i], sizes[i], (unsigned)i);
        }
        for (size_t i = 0; i < SIZES; i++) {
            CHECK(holds(blocks[i], sizes[i], (unsigned)i));
            blocks[i] = asthra_manual_realloc(blocks[i], sizes[i] + 1000);
            CHECK(holds(blocks[i], sizes[i], (unsigned)i));
            asthra_manual_free(blocks[i]);
        }
    }
    CHECK_EQ(statistics().current, 0);
}

TEST(manual, errno_is_left_as_it_was) {
    test_crowd_addresses();
    errno = 77;
    for (size_t i = 0; i < SIZES; i++) {
        void *block = asthra_manual_alloc_zeroed(1, sizes[i]);
        asthra_manual_free(asthra_manual_alloc_aligned(sizes[i], 131072));
        block = asthra_manual_realloc(block, sizes[i] * 3 + 1);
        asthra_manual_free(block);
        CHECK_EQ(errno, 77);
    }
    CHECK(asthra_manual_alloc(PTRDIFF_MAX / 2) == NULL);
    CHECK(asthra_manual_alloc_aligned(1, 3) == NULL);
    asthra_memory_trim();
    CHECK_EQ(errno, 77);
}

/* ---- zeroed and resized ---- */

TEST(manual, zeroed_blocks_are_zero_wherever_they_come_from) {
    for (int round = test_thrift() == 20 ? 2 : 0; round < 4; round++) {
        for (size_t i = 0; i < SIZES; i++) {
            void *dirty[3];
            for (int k = 0; k < 3; k++)
                dirty[k] = memset(asthra_manual_alloc(sizes[i]), 0xa5, sizes[i]);
            for (int k = 0; k < 3; k++) asthra_manual_free(dirty[k]);
            if (round == 2) asthra_memory_trim();
            for (int k = 0; k < 3; k++) {
                dirty[k] = asthra_manual_alloc_zeroed(k == 0 ? sizes[i] : 1, k == 0 ? 1 : sizes[i]);
                CHECK(is_zero(dirty[k], sizes[i]));
                memset(dirty[k], 0x5a, sizes[i]);
            }
            for (int k = 0; k < 3; k++) asthra_manual_free(dirty[k]);
        }
    }
}

TEST(manual, realloc_keeps_what_fits_between_all_sizes) {
    for (size_t from = 0; from < SIZES; from++) {
        for (size_t to = test_thrift() == 20 ? from % 3 : 0; to < SIZES;
             to += test_thrift() == 20 ? 3 : 1) {
            size_t less = sizes[from] < sizes[to] ? sizes[from] : sizes[to];
            void *block = fill(asthra_manual_alloc(sizes[from]), sizes[from], 3);
            void *next = fill(asthra_manual_alloc(sizes[from]), sizes[from], 4);
            block = asthra_manual_realloc(block, sizes[to]);
            CHECK(block != NULL && is_aligned(block, 16));
            CHECK(holds(block, less, 3));
            fill(block, sizes[to], 5);
            CHECK(holds(next, sizes[from], 4));
            asthra_manual_free(next);
            CHECK(holds(block, sizes[to], 5));
            asthra_manual_free(block);
        }
    }
    CHECK_EQ(statistics().current, 0);
}

TEST(manual, realloc_by_every_byte_keeps_the_contents) {
    void *block = NULL;
    for (size_t size = 1; size <= 3000; size++) {
        block = asthra_manual_realloc(block, size);
        CHECK(holds(block, size - 1, 9));
        fill(block, size, 9);
    }
    for (size_t size = 3000; size-- > 0;) {
        block = asthra_manual_realloc(block, size);
        CHECK(holds(block, size, 9));
    }
    asthra_manual_free(block);
}

TEST(manual, realloc_of_null_allocates_and_to_nothing_does_not_free) {
    void *block = asthra_manual_realloc(NULL, 40);
    CHECK_EQ(asthra_manual_usable_size(block), 40);
    for (size_t i = 0; i < SIZES; i++) {
        block = asthra_manual_realloc(block, sizes[i]);
        block = asthra_manual_realloc(block, 0);
        CHECK(block != NULL);
        CHECK_EQ(asthra_manual_usable_size(block), 0);
        CHECK_EQ(statistics().current, 0);
    }
    asthra_manual_free(block);
    block = asthra_manual_realloc(NULL, 0);
    CHECK(block != NULL);
    asthra_manual_free(block);
}

TEST(manual, a_shrink_is_not_refused_by_the_limit) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.max_heap_size = 1000000;
    CHECK(asthra_runtime_init(&c));
    void *block = asthra_manual_alloc(900000);
    CHECK(block != NULL);
    block = asthra_manual_realloc(block, 800000);
    CHECK(block != NULL);
    CHECK_EQ(asthra_manual_usable_size(block), 800000);
    block = asthra_manual_realloc(block, 850000);
    CHECK(block != NULL);
    CHECK(asthra_manual_realloc(block, 1000001) == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_LIMIT);
    CHECK_EQ(asthra_manual_usable_size(block), 850000);
    void *rest = asthra_manual_alloc(150000);
    CHECK(rest != NULL);
    CHECK(asthra_manual_alloc(1) == NULL);
    asthra_manual_free(block);
    asthra_manual_free(rest);
    rest = asthra_manual_alloc(1000000);
    CHECK(rest != NULL);
    asthra_manual_free(rest);
    asthra_runtime_shutdown();
}

/* ---- the walk ---- */

enum { WALKED = 3000 };
typedef struct Walk {
    char *blocks[WALKED];
    size_t sizes[WALKED], seen[WALKED], strangers, calls, stop_after;
    bool frees;
    void *made[WALKED];
    size_t made_size;
} Walk;

static bool look(void *block, size_t size, void *user) {
    Walk *w = user;
    size_t i = 0;
    while (i < WALKED && w->blocks[i] != block) i++;
    w->calls++;
    if (i == WALKED) {
        for (i = 0; i < WALKED && w->made[i] != block; i++) continue;
        CHECK(i < WALKED);
        CHECK_EQ(size, w->made_size);
        w->strangers++;
    } else {
        CHECK_EQ(size, w->sizes[i]);
        CHECK(holds(block, size, (unsigned)i));
        w->seen[i]++;
        if (w->frees) asthra_manual_free(block);
        if (w->frees) w->blocks[i] = NULL;
        if (w->made_size != 0)
            w->made[i] = memset(asthra_manual_alloc(w->made_size), 0x7f, w->made_size);
    }
    return w->calls != w->stop_after;
}

static Walk *walk_of(size_t count) {
    Walk *w = calloc(1, sizeof *w);
    for (size_t i = 0; i < count; i++) {
        w->sizes[i] = i % 7 == 0 ? sizes[i / 7 % (SIZES - 4)] : i * 7 % 2500;
        w->blocks[i] = fill(asthra_manual_alloc(w->sizes[i]), w->sizes[i], (unsigned)i);
    }
    return w;
}

TEST(manual, walk_shows_each_live_block_once) {
    Walk *w = walk_of(WALKED);
    for (size_t i = 0; i < WALKED; i += 3) {
        asthra_manual_free(w->blocks[i]);
        w->blocks[i] = NULL;
    }
    asthra_manual_walk(look, w);
    for (size_t i = 0; i < WALKED; i++) CHECK_EQ(w->seen[i], i % 3 != 0);
    CHECK_EQ(w->strangers, 0);
    w->calls = 0, w->stop_after = 5;
    asthra_manual_walk(look, w);
    CHECK_EQ(w->calls, 5);
    free(w);
}

TEST(manual, walk_shows_each_block_once_while_visit_frees) {
    Walk *w = walk_of(WALKED);
    w->frees = true;
    asthra_manual_walk(look, w);
    for (size_t i = 0; i < WALKED; i++) CHECK_EQ(w->seen[i], 1);
    CHECK_EQ(w->strangers, 0);
    CHECK_EQ(statistics().current, 0);
    w->calls = 0;
    asthra_manual_walk(look, w);
    CHECK_EQ(w->calls, 0);
    free(w);
}

TEST(manual, walk_goes_on_while_visit_frees_and_allocates) {
    static const size_t made[] = {16, 40, 1000, 20000, 70000, 900000, 2500000};
    for (size_t m = 0; m < sizeof made / sizeof *made; m++) {
        size_t count = made[m] < 100000 ? 600 : 60;
        Walk *w = walk_of(count);
        w->frees = true;
        w->made_size = made[m];
        asthra_manual_walk(look, w);
        for (size_t i = 0; i < count; i++) CHECK_EQ(w->seen[i], 1);
        CHECK(w->strangers <= count);
        for (size_t i = 0; i < count; i++) {
            for (size_t k = 0; k < made[m]; k += 100) CHECK(((char *)w->made[i])[k] == 0x7f);
            asthra_manual_free(w->made[i]);
        }
        free(w);
        CHECK_EQ(statistics().current, 0);
    }
}

/* The page that visit empties becomes a part of what it allocates, before the walk goes on. */
static bool free_and_take_its_page(void *block, size_t size, void *user) {
    void **known = user;
    CHECK(block == known[0] ? size == 1 : block == known[1] ? size == 2 : block == known[2]);
    if (block != known[0]) return true;
    asthra_manual_free(block);
    known[0] = NULL;
    known[2] = memset(asthra_manual_alloc(190000), 0x7f, 190000);
    return true;
}

TEST(manual, walk_does_not_read_a_page_that_has_become_another) {
    enum { N = 6000 };
    static void *blocks[N];
    void *below = asthra_manual_alloc(70000);
    for (int i = 0; i < N; i++) blocks[i] = asthra_manual_alloc(i == 5000 ? 2 : 1);
    asthra_manual_free(below);
    for (int i = 0; i < N; i++)
        if (i != 1000 && i != 5000) asthra_manual_free(blocks[i]);
    void *known[3] = {blocks[1000], blocks[5000], NULL};
    asthra_manual_walk(free_and_take_its_page, known);
    CHECK(known[0] == NULL);
}

static atomic_bool is_over;

static void *churn(void *seed) {
    unsigned x = (unsigned)(uintptr_t)seed;
    void *blocks[64] = {NULL};
    while (!atomic_load(&is_over)) {
        x = x * 1664525 + 1013904223;
        size_t i = x >> 26, size = (x >> 8) % 5000;
        if ((x >> 4 & 1023) == 0) size = (x >> 8) % 3000000;
        asthra_manual_free(blocks[i]);
        blocks[i] = memset(asthra_manual_alloc(size), 1, size < 64 ? size : 64);
    }
    for (size_t i = 0; i < 64; i++) asthra_manual_free(blocks[i]);
    return NULL;
}

static bool count_to(void *block, size_t size, void *user) {
    Walk *w = user;
    for (size_t i = 0; i < 100; i++) {
        if (w->blocks[i] != block) continue;
        CHECK_EQ(size, w->sizes[i]);
        w->seen[i]++;
    }
    return true;
}

TEST(manual, walk_shows_blocks_at_rest_while_other_threads_allocate) {
    pthread_t threads[2];
    Walk *w = walk_of(100);
    for (uintptr_t i = 0; i < 2; i++)
        CHECK(!pthread_create(&threads[i], NULL, churn, (void *)(i + 1)));
    size_t rounds = scaled(400);
    for (size_t i = 0; i < rounds; i++) asthra_manual_walk(count_to, w);
    atomic_store(&is_over, true);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    for (size_t i = 0; i < 100; i++) CHECK_EQ(w->seen[i], rounds);
    free(w);
}

/* ---- what must be reported ---- */

enum { REPORTED = 42 };

static char expected[3][160];

static void is_expected(const AsthraPanicInfo *info, void *unused) {
    (void)unused;
    for (int i = 0; i < 3; i++)
        if (strstr(info->message, expected[i]) == NULL)
            test_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"", info->message, expected[i]);
    _exit(REPORTED);
}

__attribute__((format(printf, 2, 3))) static void expect(int i, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(expected[i], sizeof expected[i], format, args);
    va_end(args);
}

/* Runs `run` in a process of its own, in which it must panic as it said with expect(). */
static void must_be_reported(const char *name, void (*run)(size_t size), size_t size) {
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(20);
        asthra_panic_set_hook(is_expected, NULL);
        run(size);
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == REPORTED) return;
    test_fail(__FILE__, __LINE__, "%s of %zu bytes was not reported: %s %d", name, size,
              WIFSIGNALED(status) ? "signal" : "status",
              WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

static char *a_block(size_t size) {
    char *block = asthra_manual_alloc(size);
    expect(0, "Invalid pointer in manual_free: %p ", (void *)block);
    return block;
}
/* The same of a block in the midst of others, in a page that stays. */
static char *a_block_among_others(size_t size) {
    for (int i = 0; i < 40; i++) asthra_manual_alloc(size);
    char *block = a_block(size);
    for (int i = 0; i < 40; i++) asthra_manual_alloc(size);
    return block;
}

/* As the system's tools show it; where there is no such number, as debuggers do. */
static unsigned long long thread_id(void) {
#if ASTHRA_HAS_LINUX || !ASTHRA_HAS_THREADS
    return (unsigned long long)syscall(SYS_gettid);
#else
    return (uintptr_t)pthread_self();
#endif
}
static void freed_before(const void *block) {
    expect(1, "is the block %p of zone MANUAL, freed before by thread %llu at ", block,
           thread_id());
}
static void *frees_it(void *block) {
    freed_before(block);
    asthra_manual_free(block);
    return NULL;
}

static void twice(size_t size) {
    frees_it(a_block_among_others(size));
    char *block = a_block(size);
    frees_it(block);
    asthra_manual_free(block);
}
static void twice_among_others(size_t size) {
    char *block = a_block_among_others(size);
    frees_it(block);
    asthra_manual_free(block);
}
static void twice_with_frees_between(size_t size) {
    char *others[20], *block;
    for (int i = 0; i < 20; i++) others[i] = asthra_manual_alloc(size);
    block = a_block(size);
    frees_it(block);
    for (int i = 0; i < 20; i++) asthra_manual_free(others[i]);
    expected[1][0] = 0; /* the page may have been given back */
    asthra_manual_free(block);
}
static void twice_with_a_trim_between(size_t size) {
    char *block = a_block(size);
    asthra_manual_free(block);
    asthra_memory_trim();
    asthra_manual_free(block);
}
static void once_more_by_another_thread(size_t size) {
    char *block = a_block_among_others(size);
    frees_it(block);
    on_thread(free_it, block);
}
static void once_more_after_another_thread(size_t size) {
    char *block = a_block_among_others(size);
    on_thread(frees_it, block);
    asthra_manual_free(block);
}
static void twice_by_another_thread(size_t size) {
    char *block = a_block_among_others(size);
    on_thread(frees_it, block);
    expected[1][0] = 0; /* its heap is the next thread's, and so is the name */
    on_thread(free_it, block);
}
static void *gives_a_block(void *out) {
    *(char **)out = a_block_among_others(9);
    return NULL;
}
static void twice_after_its_thread_ended(size_t size) {
    char *block;
    (void)size;
    on_thread(gives_a_block, &block);
    frees_it(block);
    asthra_manual_free(block);
}
static void after_realloc_moved_it(size_t size) {
    char *block = a_block_among_others(size);
    CHECK(asthra_manual_realloc(block, size * 4 + 100) != block);
    expect(1, "is the block %p of zone MANUAL, freed before by thread", (void *)block);
    asthra_manual_free(block);
}
static void realloc_of_freed(size_t size) {
    char *block = a_block_among_others(size);
    expect(0, "Invalid pointer in manual_realloc: %p is the block", (void *)block);
    frees_it(block);
    asthra_manual_realloc(block, size + 1);
}
static void usable_size_of_freed(size_t size) {
    char *block = a_block_among_others(size);
    expect(0, "Invalid pointer in manual_usable_size: %p is the block", (void *)block);
    frees_it(block);
    asthra_manual_usable_size(block);
}
static void interior_at(char *block, size_t offset, size_t size) {
    expect(0, "Invalid pointer in manual_free: %p ", (void *)(block + offset));
    expect(1, "is interior: %zu bytes into the block %p of %zu bytes in zone MANUAL", offset,
           (void *)block, size);
    asthra_manual_free(block + offset);
}
static void interior_by_one(size_t size) {
    interior_at(a_block_among_others(size), 1, size);
}
static void interior_by_eight(size_t size) {
    interior_at(a_block_among_others(size), 8, size);
}
static void interior_in_the_middle(size_t size) {
    interior_at(a_block_among_others(size), size < 2 ? 1 : size / 2, size);
}
static void interior_at_the_last_byte(size_t size) {
    interior_at(a_block_among_others(size), size == 0 ? 1 : size - 1, size);
}
static void interior_of_an_aligned_block(size_t size) {
    interior_at(asthra_manual_alloc_aligned(size, 4096), 2, size);
}
static void *free_interior(void *block) {
    asthra_manual_free((char *)block + 3);
    return NULL;
}
static void interior_by_another_thread(size_t size) {
    char *block = a_block_among_others(size);
    expect(0, "Invalid pointer in manual_free");
    expect(1, "is interior: 3 bytes into the block %p of %zu bytes", (void *)block, size);
    on_thread(free_interior, block);
}
static void interior_of_a_freed_block(size_t size) {
    char *block = a_block_among_others(size);
    asthra_manual_free(block);
    expect(0, "is interior: 5 bytes into the block %p of zone MANUAL, freed before", (void *)block);
    asthra_manual_free(block + 5);
}
static void interior_in_realloc(size_t size) {
    char *block = a_block_among_others(size);
    expect(0, "Invalid pointer in manual_realloc: %p is interior", (void *)(block + 4));
    asthra_manual_realloc(block + 4, 10);
}

static const struct Misuse {
    const char *name;
    void (*run)(size_t size);
    bool needs_threads;
} misuses[] = {
    {"a double free", twice, false},
    {"a double free among others", twice_among_others, false},
    {"a double free with frees between", twice_with_frees_between, false},
    {"a double free with a trim between", twice_with_a_trim_between, false},
    {"a double free by another thread", once_more_by_another_thread, true},
    {"a free after another thread's", once_more_after_another_thread, true},
    {"a double free by two other threads", twice_by_another_thread, true},
    {"a double free after the thread's end", twice_after_its_thread_ended, true},
    {"a free of what realloc moved", after_realloc_moved_it, false},
    {"a realloc of a freed block", realloc_of_freed, false},
    {"a usable_size of a freed block", usable_size_of_freed, false},
    {"a free one byte inside", interior_by_one, false},
    {"a free eight bytes inside", interior_by_eight, false},
    {"a free in the middle", interior_in_the_middle, false},
    {"a free of the last byte", interior_at_the_last_byte, false},
    {"a free inside an aligned block", interior_of_an_aligned_block, false},
    {"a free inside, by another thread", interior_by_another_thread, true},
    {"a free inside a freed block", interior_of_a_freed_block, false},
    {"a realloc inside", interior_in_realloc, false},
};

static bool has_threads(void) {
#ifdef ASTHRA_RT_NO_THREADS
    return false;
#else
    return true;
#endif
}

TEST_WITHIN(60, manual, double_and_interior_frees_say_what_they_are) {
    for (size_t i = 0; i < sizeof misuses / sizeof *misuses; i++)
        for (size_t k = test_thrift() == 20 ? i % 3 : 0; k < KINDS;
             k += test_thrift() == 20 ? 3 : 1)
            if (has_threads() || !misuses[i].needs_threads)
                must_be_reported(misuses[i].name, misuses[i].run, kinds[k]);
}

/* What is no block of any zone; `which` chooses. */
static void stranger(size_t which) {
    static int datum;
    int local = 0;
    char *block = asthra_manual_alloc(48), *sole = asthra_manual_alloc(70000);
    char *strangers[] = {(char *)&local,
                         (char *)&datum,
                         (char *)(uintptr_t)stranger,
                         (char *)(uintptr_t) "text",
                         malloc(100),
                         malloc(10000000),
                         (char *)(uintptr_t)8,
                         (char *)UINTPTR_MAX,
                         (char *)(UINTPTR_MAX / 2 + 1),
                         (char *)((uintptr_t)block & ~((uintptr_t)(4 << 20) - 1)),
                         (char *)((uintptr_t)block | 0xfff0),
                         sole + 69632,
                         (char *)(((uintptr_t)block | ((4 << 20) - 1)) - 15)};
    static const char *const words[] = {
        "it is on a stack",
        "it is static data or code",
        "it is static data or code",
        "it is static data or code",
        "it is memory of others, such as malloc",
        "it is memory of others, such as malloc",
        "nothing is mapped there",
        "nothing is mapped there",
        "nothing is mapped there",
        "it is in no block, between those of the heap",
        "it is in no block, between those of the heap",
        "",
        "it is in no block, between those of the heap",
    };
    expect(0, "Invalid pointer in manual_free: %p ", (void *)strangers[which]);
    expect(1, "was never allocated: %s", words[which]);
    if (which == 11) expect(1, "is interior");
    asthra_manual_free(strangers[which]);
}

TEST(manual, frees_of_what_was_never_allocated_say_what_it_is) {
    for (size_t which = 0; which < 13; which++) {
        bool is_malloc = which == 4 || which == 5; /* a sanitizer's or an emulator's is anywhere */
        if (is_malloc && scaled(20) != 20) continue;
        must_be_reported("a free of what was never allocated", stranger, which);
    }
}

static void *give_stack(void *out) {
    int local = 0;
    atomic_store((_Atomic(int *) *)out, &local);
    while (!atomic_load(&is_over)) sched_yield();
    return NULL;
}
static void other_stack(size_t size) {
    pthread_t thread;
    _Atomic(int *) place = NULL;
    (void)size;
    CHECK(!pthread_create(&thread, NULL, give_stack, (void *)&place));
    while (atomic_load(&place) == NULL) sched_yield();
    expect(0, "Invalid pointer in manual_free");
    expect(1, "was never allocated: ");
    asthra_manual_free(atomic_load(&place));
}
TEST(manual, a_free_of_another_threads_stack_is_reported) {
    NEED_THREADS();
    must_be_reported("a free of another thread's stack", other_stack, 0);
}

TEST_PANICS(manual, a_double_free_ends_the_process, "freed before") {
    void *block = asthra_manual_alloc(10);
    asthra_manual_free(block);
    asthra_manual_free(block);
}

/* ---- writes past the end ---- */

static unsigned char overflow_byte;
static size_t overflow_bytes;
static void overflow(size_t size) {
    char *block = a_block_among_others(size);
    expect(0, "Heap overflow, seen in manual_free: the block %p of", (void *)block);
    expect(1, "bytes in zone MANUAL was written past its end");
    for (size_t i = 0; i < overflow_bytes; i++) poke(block + size + i, overflow_byte);
    asthra_manual_free(block);
}

TEST_WITHIN(60, manual, a_write_past_the_end_is_found_by_the_free) {
    static const unsigned char bytes[] = {0, 0xff, 'A'};
    size_t step = scaled(20) == 20 ? 1 : 37;
    for (size_t size = 1; size <= 2000; size += step) {
        overflow_byte = bytes[size % 3];
        overflow_bytes = 1 + size % 8;
        must_be_reported("an overflow", overflow, size);
    }
    for (size_t k = 0; k < KINDS; k++) {
        overflow_byte = 0;
        overflow_bytes = 1;
        must_be_reported("an overflow", overflow, kinds[k]);
    }
}

static void overflow_found_by_a_thread(size_t size) {
    char *block = asthra_manual_alloc(size);
    expect(0, "Heap overflow, seen in manual_free: the block %p of", (void *)block);
    poke(block + size, 0);
    on_thread(free_it, block);
}
static void overflow_found_by_realloc(size_t size) {
    char *block = asthra_manual_alloc(size);
    expect(0, "Heap overflow, seen in manual_realloc: the block %p of", (void *)block);
    poke(block + size, 0);
    asthra_manual_realloc(block, size + 1);
}
static void overflow_after_realloc(size_t size) {
    char *block = asthra_manual_realloc(asthra_manual_alloc(size + 2), size);
    expect(0, "Heap overflow, seen in manual_free: the block %p of", (void *)block);
    poke(block + size, 0);
    asthra_manual_free(block);
}
TEST(manual, a_write_past_the_end_is_found_elsewhere_too) {
    for (size_t k = 0; k < KINDS; k += test_thrift() == 20 ? 3 : 1) {
        must_be_reported("an overflow", overflow_found_by_realloc, kinds[k]);
        must_be_reported("an overflow", overflow_after_realloc, kinds[k]);
        if (has_threads()) must_be_reported("an overflow", overflow_found_by_a_thread, kinds[k]);
    }
}

/* ---- writes after the free: a report, or nothing, but never a crash ---- */

static uintptr_t wild_words[] = {
    1, 0x41, 0x4141414141414141u & UINTPTR_MAX, UINTPTR_MAX, UINTPTR_MAX / 2 + 9, 4096};
enum { WILD_WORDS = sizeof wild_words / sizeof *wild_words };
static size_t wild_word;

static void allocate_much(size_t size) {
    for (int i = 0; i < 10000; i++) asthra_manual_alloc(size);
}
static void write_after_free(size_t size) {
    char *block = a_block_among_others(size);
    expect(0, "Use after free: the freed block ");
    asthra_manual_free(block);
    poke_word(block, wild_words[wild_word]);
    allocate_much(size);
}
static void write_after_another_threads_free(size_t size) {
    char *block = a_block_among_others(size);
    expect(0, "Use after free: the freed block ");
    on_thread(free_it, block);
    poke_word(block, wild_words[wild_word]);
    allocate_much(size);
}
static void write_after_another_threads_free_then_trim(size_t size) {
    char *block = a_block_among_others(size);
    expect(0, "Use after free: the freed block ");
    on_thread(free_it, block);
    poke_word(block, wild_words[wild_word]);
    asthra_memory_trim();
}
/* The word names another block of the page: a live one, or the inside of one. */
static void write_of_a_live_block_after_free(size_t size) {
    char *block = a_block_among_others(size), *live = asthra_manual_alloc(size);
    expect(0, "Use after free: the freed block %p", (void *)block);
    asthra_manual_free(block);
    poke_word(block, (uintptr_t)live);
    allocate_much(size);
}
static void write_of_an_interior_address_after_free(size_t size) {
    char *block = a_block_among_others(size);
    expect(0, "Use after free: the freed block %p", (void *)block);
    asthra_manual_free(block);
    poke_word(block, (uintptr_t)block + 1);
    allocate_much(size);
}

TEST(manual, a_write_after_the_free_is_reported_and_no_crash) {
    for (size_t k = 0; k < 4; k++) {
        for (wild_word = 0; wild_word < WILD_WORDS; wild_word++) {
            must_be_reported("a write after free", write_after_free, kinds[k]);
            if (!has_threads()) continue;
            must_be_reported("a write after another thread's free",
                             write_after_another_threads_free, kinds[k]);
            must_be_reported("a write after another thread's free, seen in trim",
                             write_after_another_threads_free_then_trim, kinds[k]);
        }
    }
}

TEST(manual, a_block_is_not_given_out_twice_after_a_write_to_a_freed_one) {
    for (size_t k = 0; k < 4; k++) {
        must_be_reported("a write of a live block", write_of_a_live_block_after_free, kinds[k]);
        must_be_reported("a write of an interior address", write_of_an_interior_address_after_free,
                         kinds[k]);
    }
}

/* ---- against a model: what is live, how large, and what is in it ---- */

enum { MODEL_SLOTS = 4096 };

typedef struct Model {
    uint64_t random;
    size_t live;
    unsigned seeds[MODEL_SLOTS];
    size_t sizes[MODEL_SLOTS];
    void *blocks[MODEL_SLOTS];
} Model;

static uint64_t next_random(Model *m) {
    m->random ^= m->random << 13, m->random ^= m->random >> 7, m->random ^= m->random << 17;
    return m->random * UINT64_C(0x2545f4914f6cdd1d) >> 16;
}

/* Most blocks are small, as in life. */
static size_t random_size(Model *m) {
    uint64_t r = next_random(m);
    size_t top = (r & 255) < 200     ? 128
                 : (r & 255) < 248   ? 2048
                 : (r & 4095) < 4080 ? 20000
                                     : 200000;
    if ((r & 65535) == 65535) top = 4000000;
    return (size_t)(r >> 16) % top;
}

static void model_allocate(Model *m, size_t i) {
    size_t size = random_size(m), alignment = 16;
    uint64_t how = next_random(m) % 16;
    if (how == 0) {
        alignment = (size_t)1 << next_random(m) % 13;
        m->blocks[i] = asthra_manual_alloc_aligned(size, alignment);
    } else if (how == 1) {
        m->blocks[i] = asthra_manual_alloc_zeroed(size, 1);
        CHECK(is_zero(m->blocks[i], size));
    } else {
        m->blocks[i] = asthra_manual_alloc(size);
    }
    CHECK(m->blocks[i] != NULL && is_aligned(m->blocks[i], alignment < 16 ? 16 : alignment));
    m->sizes[i] = size;
    m->seeds[i] = (unsigned)next_random(m);
    m->live += size;
    fill(m->blocks[i], size, m->seeds[i]);
}

static void model_free(Model *m, size_t i) {
    CHECK(holds(m->blocks[i], m->sizes[i], m->seeds[i]));
    m->live -= m->sizes[i];
    asthra_manual_free(m->blocks[i]);
    m->blocks[i] = NULL;
}

static void model_resize(Model *m, size_t i) {
    size_t size = random_size(m), less = size < m->sizes[i] ? size : m->sizes[i];
    m->blocks[i] = asthra_manual_realloc(m->blocks[i], size);
    CHECK(m->blocks[i] != NULL && is_aligned(m->blocks[i], 16));
    CHECK(holds(m->blocks[i], less, m->seeds[i]));
    m->live += size - m->sizes[i];
    m->sizes[i] = size;
    fill(m->blocks[i], size, m->seeds[i]);
}

static void model_step(Model *m) {
    size_t i = next_random(m) % MODEL_SLOTS;
    uint64_t how = next_random(m) % 16;
    if (m->blocks[i] == NULL)
        model_allocate(m, i);
    else if (how < 3)
        model_resize(m, i);
    else if (how == 3)
        CHECK_EQ(asthra_manual_usable_size(m->blocks[i]), m->sizes[i]);
    else
        model_free(m, i);
}

TEST_WITHIN(60, manual, blocks_are_as_a_model_says_through_millions_of_operations) {
    for (uint64_t seed = 1; seed <= 4; seed++) {
        Model *m = calloc(1, sizeof *m);
        m->random = seed * 77777;
        for (size_t i = 0; i < scaled(500000); i++) model_step(m);
        CHECK_EQ(statistics().current, m->live);
        for (size_t i = 0; i < MODEL_SLOTS; i++)
            if (m->blocks[i] != NULL) model_free(m, i);
        CHECK_EQ(statistics().current, 0);
        CHECK(statistics().peak >= statistics().current);
        free(m);
    }
}

/* ---- threads ---- */

enum { MODEL_THREADS = 4, SHARED_BLOCKS = 256 };
typedef struct Passed {
    size_t size;
    unsigned seed;
} Passed;
static _Atomic(Passed *) passed[SHARED_BLOCKS];

/* Puts a block where any thread may take it, and frees what was there. */
static void pass_on(Model *m) {
    size_t size = sizeof(Passed) + random_size(m);
    Passed *mine = asthra_manual_alloc(size);
    mine->size = size - sizeof *mine;
    mine->seed = (unsigned)next_random(m);
    fill(mine + 1, mine->size, mine->seed);
    mine = atomic_exchange(&passed[next_random(m) % SHARED_BLOCKS], mine);
    if (mine == NULL) return;
    CHECK(holds(mine + 1, mine->size, mine->seed));
    asthra_manual_free(mine);
}

static void *lives_by_the_model(void *seed) {
    Model *m = calloc(1, sizeof *m);
    m->random = (uintptr_t)seed;
    for (size_t i = 0; i < scaled(400000); i++) {
        if (i % 4 == 0) pass_on(m);
        model_step(m);
    }
    for (size_t i = 0; i < MODEL_SLOTS; i++)
        if (m->blocks[i] != NULL) model_free(m, i);
    free(m);
    return NULL;
}

static void free_what_was_passed(void) {
    for (size_t i = 0; i < SHARED_BLOCKS; i++)
        asthra_manual_free(atomic_exchange(&passed[i], NULL));
}

TEST_WITHIN(60, manual, threads_that_pass_blocks_on_agree_with_their_models) {
    pthread_t threads[MODEL_THREADS];
    for (uintptr_t i = 0; i < MODEL_THREADS; i++)
        CHECK(!pthread_create(&threads[i], NULL, lives_by_the_model, (void *)(i + 1)));
    for (int i = 0; i < MODEL_THREADS; i++) pthread_join(threads[i], NULL);
    free_what_was_passed();
    CHECK_EQ(statistics().current, 0);
    asthra_memory_trim();
    CHECK(statistics().mapped <= 4 << 20);
}

/* One side allocates and the other frees. */
enum { RING = 1024 };
static _Atomic(char *) ring[RING];

static void *consumes(void *count) {
    for (size_t i = 0; i < (size_t)(uintptr_t)count; i++) {
        char *block;
        while ((block = atomic_exchange(&ring[i % RING], NULL)) == NULL) sched_yield();
        CHECK(holds(block, asthra_manual_usable_size(block), (unsigned)i));
        asthra_manual_free(block);
    }
    return NULL;
}

TEST(manual, what_one_thread_allocates_and_another_frees_is_used_again) {
    pthread_t thread;
    size_t count = scaled(600000);
    CHECK(!pthread_create(&thread, NULL, consumes, (void *)(uintptr_t)count));
    for (size_t i = 0; i < count; i++) {
        size_t size = i * 7919 % (i % 1000 == 0 ? 100000 : 500);
        char *none = NULL, *block = fill(asthra_manual_alloc(size), size, (unsigned)i);
        while (!atomic_compare_exchange_weak(&ring[i % RING], &none, block)) {
            none = NULL;
            sched_yield();
        }
    }
    pthread_join(thread, NULL);
    CHECK_EQ(statistics().current, 0);
    asthra_memory_trim();
    CHECK(statistics().mapped <= 8 << 20);
}

/* Each generation of threads inherits the blocks of the last one, replaces them and ends. */
enum { LARSON_SLOTS = 500 };
typedef struct Larson {
    unsigned random;
    void *blocks[LARSON_SLOTS];
} Larson;

static void *inherits(void *larson) {
    Larson *l = larson;
    for (size_t i = 0; i < 2000; i++) {
        l->random = l->random * 1664525 + 1013904223;
        size_t k = (l->random >> 8) % LARSON_SLOTS, size = (l->random >> 4) % 1000;
        if (l->blocks[k] != NULL)
            CHECK(holds(l->blocks[k], asthra_manual_usable_size(l->blocks[k]), (unsigned)k));
        asthra_manual_free(l->blocks[k]);
        l->blocks[k] = fill(asthra_manual_alloc(size), size, (unsigned)k);
    }
    return NULL;
}

TEST(manual, blocks_outlive_their_threads) {
    static Larson larsons[3];
    size_t most = 0;
    for (size_t generation = 0; generation < scaled(120) + 10; generation++) {
        pthread_t threads[3];
        for (int i = 0; i < 3; i++)
            CHECK(!pthread_create(&threads[i], NULL, inherits, &larsons[i]));
        for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
        if (generation == 4) most = statistics().mapped * 2;
    }
    CHECK(statistics().mapped <= most);
    for (int i = 0; i < 3; i++)
        for (size_t k = 0; k < LARSON_SLOTS; k++) asthra_manual_free(larsons[i].blocks[k]);
    CHECK_EQ(statistics().current, 0);
}

/* All free what all allocated, at the same time. */
enum { STORM_THREADS = 4, STORM_BLOCKS = 20000 };
static void *storm_blocks[STORM_THREADS][STORM_BLOCKS];
static pthread_barrier_t storm;

static void *storms(void *number) {
    size_t me = (size_t)(uintptr_t)number, count = scaled(STORM_BLOCKS);
    for (int round = 0; round < 5; round++) {
        for (size_t i = 0; i < count; i++) {
            size_t size = (i * 31 + me) % (i % 500 == 0 ? 90000 : 300);
            storm_blocks[me][i] = fill(asthra_manual_alloc(size), size, (unsigned)(me + i));
        }
        pthread_barrier_wait(&storm);
        for (size_t i = 0; i < count; i++) {
            size_t whose = (me + i) % STORM_THREADS;
            void *block = storm_blocks[whose][i];
            CHECK(holds(block, asthra_manual_usable_size(block), (unsigned)(whose + i)));
            asthra_manual_free(block);
        }
        pthread_barrier_wait(&storm);
    }
    return NULL;
}

TEST(manual, all_threads_free_what_all_allocated) {
    pthread_t threads[STORM_THREADS];
    pthread_barrier_init(&storm, NULL, STORM_THREADS);
    for (uintptr_t i = 0; i < STORM_THREADS; i++)
        CHECK(!pthread_create(&threads[i], NULL, storms, (void *)i));
    for (int i = 0; i < STORM_THREADS; i++) pthread_join(threads[i], NULL);
    CHECK_EQ(statistics().current, 0);
    asthra_memory_trim();
    CHECK(statistics().mapped <= 4 << 20);
}

static void *uses_a_little(void *unused) {
    void *blocks[20];
    (void)unused;
    for (size_t i = 0; i < 20; i++) blocks[i] = fill(asthra_manual_alloc(i * 50), i * 50, 1);
    for (size_t i = 0; i < 20; i++) asthra_manual_free(blocks[i]);
    return NULL;
}

TEST_WITHIN(60, manual, threads_that_end_give_back_what_they_had) {
    enum { AT_ONCE = 8 };
    size_t early = 0, rounds = scaled(10000) / AT_ONCE;
    for (size_t i = 0; i < rounds; i++) {
        pthread_t threads[AT_ONCE];
        for (int k = 0; k < AT_ONCE; k++)
            CHECK(!pthread_create(&threads[k], NULL, uses_a_little, NULL));
        for (int k = 0; k < AT_ONCE; k++) pthread_join(threads[k], NULL);
        if (i == 10) early = statistics().mapped;
    }
    CHECK_EQ(statistics().current, 0);
    CHECK(statistics().mapped <= early + (1 << 20));
    asthra_memory_trim();
    CHECK_EQ(statistics().mapped, 0);
}

/* ThreadSanitizer's own end of a thread is one of the last destructors, after which it crashes. */
#if defined(__SANITIZE_THREAD__)
enum { LATE_ROUNDS = 1 };
#else
enum { LATE_ROUNDS = 6 };
#endif
static pthread_key_t late_keys[3];
static atomic_size_t late_calls;

/* Frees what the last round left, and leaves a block for the next. */
static void late(void *block) {
    size_t key = *(unsigned char *)block, round = ((unsigned char *)block)[1];
    atomic_fetch_add(&late_calls, 1);
    CHECK(holds((char *)block + 2, 98, (unsigned)round));
    asthra_manual_free(block);
    asthra_manual_free(asthra_manual_alloc(3000000));
    asthra_manual_free(asthra_manual_realloc(asthra_manual_alloc(9000), 70000));
    if (round >= LATE_ROUNDS) return;
    unsigned char *next = asthra_manual_alloc(100);
    next[0] = (unsigned char)key, next[1] = (unsigned char)(round + 1);
    fill(next + 2, 98, (unsigned)round + 1);
    pthread_setspecific(late_keys[key], next);
}

static void *ends_slowly(void *unused) {
    (void)unused;
    for (size_t key = 0; key < 3; key++) {
        unsigned char *block = asthra_manual_alloc(100);
        block[0] = (unsigned char)key, block[1] = 0;
        fill(block + 2, 98, 0);
        pthread_setspecific(late_keys[key], block);
    }
    return NULL;
}

TEST(manual, works_in_late_destructors_of_threads_round_after_round) {
    NEED_THREADS();
    CHECK(!pthread_key_create(&late_keys[0], late));
    asthra_manual_free(asthra_manual_alloc(1)); /* the runtime's own key lies between */
    CHECK(!pthread_key_create(&late_keys[1], late));
    CHECK(!pthread_key_create(&late_keys[2], late));
    size_t threads = scaled(400), mapped = 0;
    for (size_t i = 0; i < threads; i++) {
        on_thread(ends_slowly, NULL);
        if (i == threads / 2) mapped = statistics().mapped;
    }
    CHECK(atomic_load(&late_calls) >= threads * 3 * (LATE_ROUNDS < 4 ? LATE_ROUNDS : 4));
    /* What the last round left nobody can free: the system makes no more of them. */
    CHECK(statistics().current <= threads * 3 * 100);
    CHECK(statistics().mapped <= mapped + (1 << 20));
}

/* ---- two frees at once: one of them is reported ---- */

static void *contested;
static atomic_int at_start, reported, ended;

static void park_the_loser(const AsthraPanicInfo *info, void *unused) {
    (void)unused;
    if (strstr(info->message, "freed before") == NULL && strstr(info->message, "at once") == NULL)
        test_fail(__FILE__, __LINE__, "\"%s\" is another report", info->message);
    atomic_fetch_add(&reported, 1);
    atomic_fetch_add(&ended, 1);
    for (;;) pause();
}
static void *race_to_free(void *block) {
    atomic_fetch_add(&at_start, 1);
    while (atomic_load(&at_start) < 2) continue;
    asthra_manual_free(block);
    atomic_fetch_add(&ended, 1);
    return NULL;
}
/* The owner looks through what others freed when it trims. */
static void *race_as_owner(void *unused) {
    (void)unused;
    contested = asthra_manual_alloc(40);
    void *keeps_the_page = asthra_manual_alloc(40);
    atomic_fetch_add(&at_start, 1);
    while (atomic_load(&at_start) < 2) continue;
    asthra_manual_free(contested);
    while (atomic_load(&ended) == 0) sched_yield();
    if (atomic_load(&reported) == 0) asthra_memory_trim();
    atomic_fetch_add(&ended, 1);
    asthra_manual_free(keeps_the_page);
    return NULL;
}
static void *race_with_the_owner(void *unused) {
    (void)unused;
    while (atomic_load(&at_start) == 0) continue;
    return race_to_free(contested);
}

static void races(void *(*one)(void *), void *(*other)(void *), void *argument) {
    pthread_t threads[2];
    atomic_store(&at_start, 0), atomic_store(&reported, 0), atomic_store(&ended, 0);
    CHECK(!pthread_create(&threads[0], NULL, one, argument));
    CHECK(!pthread_create(&threads[1], NULL, other, argument));
    for (int i = 0; i < 2; i++) pthread_detach(threads[i]);
    while (atomic_load(&ended) < 2) sched_yield();
    CHECK_EQ(atomic_load(&reported), 1); /* who lost is parked */
}

TEST(manual, of_two_threads_that_free_one_block_at_once_one_is_reported) {
    NEED_THREADS();
    asthra_panic_set_hook(park_the_loser, NULL);
    for (size_t round = 0; round < scaled(60); round++) {
        for (size_t k = 0; k < KINDS - 2; k++) {
            asthra_manual_alloc(kinds[k]); /* keeps the page */
            races(race_to_free, race_to_free, asthra_manual_alloc(kinds[k]));
        }
        races(race_as_owner, race_with_the_owner, NULL);
    }
    _exit(0);
}

/* ---- before, between and after ---- */

static char *early;
static void *late_block;

static void after_all(void) {
    CHECK(holds(early, 1000, 8));
    asthra_manual_free(early);
    asthra_manual_free(asthra_manual_realloc(late_block, 5000000));
    for (size_t i = 0; i < SIZES; i++) {
        void *block = fill(asthra_manual_alloc(sizes[i]), sizes[i], 1);
        CHECK(holds(block, sizes[i], 1));
        asthra_manual_free(block);
    }
    CHECK_EQ(statistics().current, 0);
}

__attribute__((constructor)) static void before_all(void) {
    if (getenv("ASTHRA_TEST_EARLY") == NULL) return;
    early = fill(asthra_manual_alloc(1000), 1000, 8);
    atexit(after_all);
}

TEST(manual, works_in_constructors_and_exit_handlers) {
    NEED_NO_EMULATOR("a program cannot start itself again under an emulator");
    if (early == NULL) {
        setenv("ASTHRA_TEST_EARLY", "1", 1);
        execl("/proc/self/exe", "test_manual", "works_in_constructors_and_exit_handlers", NULL);
        CHECK(false);
    }
    CHECK(holds(early, 1000, 8));
    for (int i = 0; i < 2; i++) {
        CHECK(asthra_runtime_init(NULL));
        early = asthra_manual_realloc(early, 2000 - (size_t)i);
        asthra_runtime_shutdown();
        CHECK(holds(early, 1000, 8));
        asthra_manual_free(asthra_manual_alloc(100));
    }
    late_block = asthra_manual_alloc(10);
}

/* ---- fork ---- */

static void *passes_blocks_on(void *seed) {
    Model m = {.random = (uintptr_t)seed};
    while (!atomic_load(&is_over)) pass_on(&m);
    return NULL;
}
static void *allocates_the_smallest(void *unused) {
    while (!atomic_load(&is_over)) asthra_manual_free(asthra_manual_alloc(1));
    return unused;
}

/* A block that was in its place at the fork is whole: it may be the child's. */
static void live_in_the_child(void) {
    Model m = {.random = 99};
    alarm(20);
    for (size_t i = 0; i < SHARED_BLOCKS; i++) {
        Passed *p = atomic_exchange(&passed[i], NULL);
        if (p != NULL) CHECK(holds(p + 1, p->size, p->seed));
        asthra_manual_free(p);
    }
    for (size_t i = 0; i < 3000; i++) pass_on(&m);
    free_what_was_passed();
    void *zero = asthra_manual_alloc_zeroed(1, 3000000);
    CHECK(is_zero(zero, 3000000));
    asthra_manual_free(zero);
    asthra_memory_trim();
    _exit(0);
}

static void fork_amid(void *(*run)(void *)) {
    pthread_t threads[3];
    for (uintptr_t i = 0; i < 3; i++)
        CHECK(!pthread_create(&threads[i], NULL, run, (void *)(i + 1)));
    for (size_t i = 0; i < scaled(60) + 3; i++) {
        int status;
        asthra_manual_free(asthra_manual_alloc(i * 100));
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) live_in_the_child();
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
    }
    atomic_store(&is_over, true);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    free_what_was_passed();
}

TEST_WITHIN(60, manual, a_forked_child_has_a_working_heap) {
    NEED_THREADS();
    NEED_NO_EMULATOR(
        "fork: qemu-user ends in an assertion of its own after a fork of many threads");
    fork_amid(passes_blocks_on);
}

static void told_of_block(void *ptr, size_t size, AsthraMemoryZone zone, void *user) {
    (void)ptr, (void)size, (void)zone, (void)user;
}
TEST_WITHIN(60, manual, a_child_forked_amid_hooks_does_not_hang) {
    NEED_THREADS();
    NEED_NO_EMULATOR(
        "fork: qemu-user ends in an assertion of its own after a fork of many threads");
    asthra_memory_set_hooks(&(AsthraMemoryHooks){told_of_block, NULL, NULL});
    fork_amid(allocates_the_smallest);
}

static void *starts_threads_that_end_slowly(void *unused) {
    while (!atomic_load(&is_over)) on_thread(ends_slowly, NULL);
    return unused;
}
TEST_WITHIN(60, manual, a_child_forked_amid_late_destructors_does_not_hang) {
    NEED_THREADS();
    NEED_NO_EMULATOR(
        "fork: qemu-user ends in an assertion of its own after a fork of many threads");
    for (int i = 0; i < 3; i++) CHECK(!pthread_key_create(&late_keys[i], late));
    fork_amid(starts_threads_that_end_slowly);
}

/* ---- memory goes back ---- */

static size_t resident_bytes(void) {
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%*u %lu", &pages) == 1);
    fclose(file);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

enum { MANY = 32000, MANY_BYTES = 2000 };
static void *many[MANY];
static void allocate_many(void) {
    for (int i = 0; i < MANY; i++) many[i] = memset(asthra_manual_alloc(MANY_BYTES), 1, MANY_BYTES);
}
static void free_many(void) {
    for (int i = 0; i < MANY; i++) asthra_manual_free(many[i]);
}

TEST(manual, memory_goes_back_to_the_system_after_trim) {
    NEED_NO_EMULATOR("what is resident is the emulator's");
    for (int round = 0; round < 3; round++) {
        allocate_many();
        size_t full = resident_bytes();
        free_many();
        CHECK(asthra_memory_trim() >= MANY * MANY_BYTES / 10 * 9);
        if (!IS_SANITIZED) CHECK(resident_bytes() + MANY * MANY_BYTES / 10 * 9 <= full);
        CHECK_EQ(statistics().mapped, 0);
        CHECK_EQ(statistics().resident, 0);
    }
    void *huge = memset(asthra_manual_alloc(50000000), 1, 50000000);
    size_t full = resident_bytes();
    asthra_manual_free(huge);
    if (!IS_SANITIZED) CHECK(resident_bytes() + 49000000 <= full);
}

static void goes_back_by_itself(size_t count, size_t size) {
    for (size_t i = 0; i < count; i++) many[i] = memset(asthra_manual_alloc(size), 1, size);
    size_t full = resident_bytes();
    for (size_t i = 0; i < count; i++) asthra_manual_free(many[i]);
    while (resident_bytes() + count * size / 10 * 9 > full) {
        struct timespec pause = {0, 10000000};
        nanosleep(&pause, NULL);
        void *block = asthra_manual_alloc(100000); /* somebody must pass by */
        asthra_manual_free(block);
    }
}
/* A mapping that was freed waits for a block that is not much smaller. */
TEST(manual, a_large_mapping_is_used_again) {
    size_t sizes[] = {9000000, 8999990, 5000000, 4500001};
    for (int level = ASTHRA_SAFETY_NONE; level <= ASTHRA_SAFETY_CHECKED; level++) {
        AsthraRuntimeConfig c = asthra_runtime_config_default();
        c.memory_safety_level = (AsthraSafetyLevel)level;
        CHECK(asthra_runtime_init(&c));
        asthra_memory_trim();
        char *first = memset(asthra_manual_alloc(sizes[0]), 0x5a, sizes[0]);
        for (size_t i = 1; i < 4; i++) {
            asthra_manual_free(first);
            CHECK(asthra_memory_statistics_all().mapped >= sizes[i - 1]);
            char *next = asthra_manual_alloc_zeroed(1, sizes[i]);
            CHECK(next == first);
            CHECK(is_zero(next, sizes[i]));
            CHECK(asthra_manual_usable_size(next) >= sizes[i]);
            CHECK_EQ(asthra_memory_zone_of(first + sizes[i] + 8192), ASTHRA_MEMORY_ZONE_NONE);
            memset(next, 0x5a, sizes[i]);
        }
        asthra_manual_free(first);
        char *small = asthra_manual_alloc(2200000); /* less than half */
        CHECK(small != first);
        asthra_manual_free(small);
        CHECK(asthra_memory_trim() >= 2200000);
        CHECK_EQ(statistics().current, 0);
        asthra_runtime_shutdown();
    }
}
TEST_PANICS(manual, a_second_free_of_a_mapping_that_waits_is_reported,
            "Invalid pointer in manual_free") {
    char *block = asthra_manual_alloc(9000000);
    asthra_manual_free(block);
    asthra_manual_free(block);
}
TEST(manual, realloc_of_whole_mappings_keeps_what_fits) {
    static const size_t steps[] = {2500000, 5000001, 70000000, 69000000, 9000000, 2300000, 100};
    unsigned *block = asthra_manual_alloc(steps[0]);
    for (size_t i = 0; i < steps[0] / sizeof *block; i++) block[i] = (unsigned)i * 7;
    size_t least = steps[0];
    for (size_t k = 1; k < sizeof steps / sizeof *steps; k++) {
        unsigned *other = asthra_manual_alloc(3000000); /* in its way */
        block = asthra_manual_realloc(block, steps[k]);
        CHECK(block != NULL);
        if (steps[k] < least) least = steps[k];
        for (size_t i = 0; i < least / sizeof *block; i++) CHECK(block[i] == (unsigned)i * 7);
        ((char *)block)[steps[k] - 1] = 1;
        least = least / 4 * 4 - (least == steps[k] ? 4 : 0);
        asthra_manual_free(other);
    }
    asthra_manual_free(block);
    CHECK_EQ(statistics().current, 0);
}

TEST(manual, memory_goes_back_to_the_system_by_itself_after_a_while) {
    NEED_NO_EMULATOR("what is resident is the emulator's");
    if (IS_SANITIZED) SKIP("a sanitizer's own memory is counted too");
    goes_back_by_itself(MANY, MANY_BYTES);
    goes_back_by_itself(3, 9000000);
}

TEST(manual, what_is_used_again_stays_in_memory) {
    NEED_NO_EMULATOR("what is resident is the emulator's");
    if (IS_SANITIZED) SKIP("a sanitizer's own memory is counted too");
    allocate_many();
    free_many();
    size_t full = resident_bytes();
    for (int i = 0; i < 5; i++) {
        allocate_many();
        free_many();
        CHECK(resident_bytes() < full + (4 << 20));
    }
}
