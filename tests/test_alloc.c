/* The allocator of the runtime's own records: private names, so the bodies are in this file. */
#include "test.h"
#define ASTHRA_RT_STATIC
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"

static volatile size_t too_much = SIZE_MAX / 2; /* volatile: the compiler must not see through it */

TEST(alloc, blocks_are_aligned) {
    for (size_t bytes = 1; bytes < 300; bytes += 7) {
        void *block = asthra__alloc(bytes);
        CHECK((uintptr_t)block % _Alignof(max_align_t) == 0);
        asthra__free(block);
    }
}

TEST(alloc, zero_bytes_are_a_block) {
    void *block = asthra__alloc(0);
    CHECK(block != NULL);
    block = asthra__realloc(block, 0);
    CHECK(block != NULL);
    asthra__free(block);
    asthra__free(NULL);
}

TEST(alloc, zeroed_is_zero) {
    unsigned char *dirty = asthra__alloc(4000);
    memset(dirty, 0xff, 4000);
    asthra__free(dirty);
    unsigned char *block = asthra__alloc_zeroed(40, 100);
    for (size_t i = 0; i < 4000; i++) CHECK_EQ(block[i], 0);
    asthra__free(block);
}

TEST(alloc, zeroed_refuses_an_overflow) {
    CHECK(asthra__alloc_zeroed(SIZE_MAX / 4 + 2, 4) == NULL);
    CHECK(asthra__alloc_zeroed(4, SIZE_MAX / 4 + 2) == NULL);
}

TEST(alloc, realloc_keeps_what_was_inside) {
    char *block = asthra__realloc(NULL, 6);
    strcpy(block, "house");
    block = asthra__realloc(block, 60000);
    CHECK_STR(block, "house");
    asthra__free(block);
}

TEST(alloc, text_is_a_copy) {
    char word[] = "book";
    char *copy = asthra__alloc_text(word);
    word[0] = 'l';
    CHECK_STR(copy, "book");
    asthra__free(copy);
    CHECK(asthra__alloc_text(NULL) == NULL);
}

typedef struct Budget {
    int allocations, frees, left; /* left: requests that still succeed */
} Budget;

static void *budget_realloc(void *block, size_t bytes, void *user) {
    Budget *b = user;
    if (b->left == 0) {
        errno = ENOMEM;
        return NULL;
    }
    b->left--;
    b->allocations += !block;
    return realloc(block, bytes);
}
static void *budget_alloc(size_t bytes, void *user) {
    void *block = budget_realloc(NULL, bytes, user);
    return block ? memset(block, 0xff, bytes) : NULL;
}
static void budget_free(void *block, void *user) {
    ((Budget *)user)->frees++;
    free(block);
}
/* The record of the hook is not counted. */
static void set_budget(Budget *b) {
    AsthraAllocator hook = {budget_alloc, budget_realloc, budget_free, b};
    int left = b->left;
    b->left = 1;
    CHECK(asthra__alloc_set_hook(&hook));
    b->left = left;
    b->allocations = 0;
}

TEST(alloc, hook_takes_all) {
    Budget b = {0, 0, 100};
    set_budget(&b);
    unsigned char *zeroed = asthra__alloc_zeroed(3, 5);
    for (size_t i = 0; i < 15; i++) CHECK_EQ(zeroed[i], 0);
    void *moved = asthra__realloc(asthra__alloc(10), 1000);
    asthra__free(moved);
    asthra__free(zeroed);
    asthra__free(asthra__alloc_text("word"));
    CHECK_EQ(b.allocations, 3);
    CHECK_EQ(b.frees, 3);
    asthra__alloc_set_hook(NULL);
    CHECK_EQ(b.frees, 4);
    asthra__free(asthra__alloc(1));
    CHECK_EQ(b.allocations, 3);
    CHECK_EQ(b.frees, 4);
}

TEST(alloc, without_memory_null_and_errno_as_it_was) {
    Budget b = {0, 0, 1};
    set_budget(&b);
    char *block = asthra__alloc(6);
    strcpy(block, "still");
    errno = 77;
    CHECK(asthra__alloc(1) == NULL);
    CHECK(asthra__alloc_zeroed(1, 1) == NULL);
    CHECK(asthra__alloc_text("x") == NULL);
    CHECK(asthra__realloc(block, 10) == NULL);
    CHECK_EQ(errno, 77);
    CHECK_STR(block, "still");
    asthra__free(block);
    asthra__alloc_set_hook(NULL);
    CHECK_EQ(b.frees, 2);
}

TEST(alloc, a_hook_without_memory_for_its_record_changes_nothing) {
    Budget b = {0, 0, 0};
    AsthraAllocator hook = {budget_alloc, budget_realloc, budget_free, &b};
    errno = 77;
    CHECK(!asthra__alloc_set_hook(&hook));
    CHECK_EQ(errno, 77);
    CHECK(!asthra__alloc_is_hooked());
    void *block = asthra__alloc(1);
    CHECK(block != NULL);
    asthra__free(block);
}

TEST(alloc, a_block_goes_back_to_where_it_came_from) {
    Budget first = {0, 0, 100}, second = {0, 0, 100};
    char *plain = asthra__alloc(8);
    strcpy(plain, "plain");
    set_budget(&first);
    char *early = asthra__alloc(8);
    strcpy(early, "early");
    set_budget(&second);
    char *late = asthra__alloc(8);
    early = asthra__realloc(early, 10000);
    plain = asthra__realloc(plain, 10000);
    CHECK_STR(early, "early");
    CHECK_STR(plain, "plain");
    asthra__free(early);
    CHECK_EQ(first.frees, 2); /* with the record, which the block had kept */
    asthra__free(plain);
    asthra__alloc_set_hook(NULL);
    CHECK_EQ(second.frees, 0);
    asthra__free(late);
    CHECK_EQ(second.frees, 2);
    CHECK_EQ(first.allocations + second.allocations, 2);
}

static void *odd_alloc(size_t bytes, void *user) {
    (void)user;
    static _Alignas(16) char memory[4096];
    return bytes < 64 ? memory : memory + 64 + _Alignof(max_align_t) / 2;
}

TEST_PANICS(alloc, a_hook_that_does_not_align_panics, "a multiple of ") {
    AsthraAllocator hook = {odd_alloc, budget_realloc, budget_free, NULL};
    asthra__alloc_set_hook(&hook);
    asthra__alloc(100);
}

TEST(alloc, a_forked_child_has_no_hook_and_gives_back_what_it_inherited) {
#if ASTHRA_HAS_THREADS
    Budget b = {0, 0, 100};
    set_budget(&b);
    void *block = asthra__alloc(10);
    int status;
    pid_t child = fork();
    if (child == 0) {
        CHECK(!asthra__alloc_is_hooked());
        asthra__free(asthra__alloc(10));
        CHECK_EQ(b.frees, 0);
        asthra__free(block);
        CHECK_EQ(b.frees, 1);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
    asthra__free(block);
    asthra__alloc_set_hook(NULL);
    CHECK_EQ(b.frees, 2);
#endif
}

#if ASTHRA_HAS_THREADS
static void *allocate_on(void *done) {
    for (int i = 0; i < 100 || !__atomic_load_n((int *)done, __ATOMIC_ACQUIRE); i++) {
        void *block = asthra__alloc((size_t)i % 100);
        asthra__free(asthra__realloc(block, 200));
    }
    return NULL;
}
#endif

static void *counted_realloc(void *block, size_t bytes, void *user) {
    if (!block) __atomic_add_fetch((int *)user, 1, __ATOMIC_RELAXED);
    return realloc(block, bytes);
}
static void *counted_alloc(size_t bytes, void *user) {
    return counted_realloc(NULL, bytes, user);
}
static void counted_free(void *block, void *user) {
    __atomic_sub_fetch((int *)user, 1, __ATOMIC_RELAXED);
    free(block);
}

TEST(alloc, a_hook_may_change_while_others_allocate) {
    NEED_THREADS();
    pthread_t thread;
    int live = 0, done = 0;
    AsthraAllocator hook = {counted_alloc, counted_realloc, counted_free, &live};
#if ASTHRA_HAS_THREADS
    CHECK(pthread_create(&thread, NULL, allocate_on, &done) == 0);
#endif
    for (int i = 0; i < 2000; i++) {
        CHECK(asthra__alloc_set_hook(&hook));
        asthra__free(asthra__alloc(1));
        asthra__alloc_set_hook(NULL);
    }
    __atomic_store_n(&done, 1, __ATOMIC_RELEASE);
#if ASTHRA_HAS_THREADS
    CHECK(pthread_join(thread, NULL) == 0);
#else
    (void)thread;
#endif
    CHECK_EQ(live, 0);
}

TEST_PANICS(alloc, or_die_panics_with_the_size, "Out of memory: the runtime asked for 123 bytes") {
    Budget b = {0, 0, 0};
    set_budget(&b);
    asthra__alloc_or_die(NULL, 123);
}

TEST(alloc, or_die_gives_memory) {
    int *number = asthra__alloc_or_die(NULL, sizeof *number);
    *number = 5;
    number = asthra__alloc_or_die(number, 100 * sizeof *number);
    CHECK_EQ(*number, 5);
    asthra__free(number);
}

TEST(alloc, impossible_sizes_are_refused) {
    if (ASTHRA__ASAN || ASTHRA__TSAN) SKIP("the sanitizer's malloc ends the process");
    CHECK(asthra__alloc(too_much) == NULL);
}

TEST(alloc, an_arena_gives_its_chunks_back_to_where_they_came_from) {
    Budget b = {0, 0, 100};
    AsthraArena hooked, plain;
    asthra_arena_init_growing(&plain, 100, NULL);
    CHECK(asthra_arena_alloc(&plain, 1000) != NULL);
    set_budget(&b);
    asthra_arena_init_growing(&hooked, 100, NULL);
    for (int i = 0; i < 5; i++) CHECK(asthra_arena_alloc(&hooked, 100) != NULL);
    for (int i = 0; i < 5; i++) CHECK(asthra_arena_alloc(&plain, 100) != NULL);
    CHECK_EQ(b.allocations, 10);
    asthra__alloc_set_hook(NULL);
    CHECK(asthra_arena_alloc(&hooked, 10000) != NULL);
    CHECK_EQ(b.allocations, 10);
    asthra_arena_destroy(&hooked);
    asthra_arena_destroy(&plain);
    CHECK_EQ(b.frees, 11);
}

TEST_PANICS(alloc, half_a_hook_panics, "broken invariant") {
    AsthraAllocator half = {budget_alloc, NULL, NULL, NULL};
    asthra__alloc_set_hook(&half);
}
