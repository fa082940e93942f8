/* The promises of src/memory/arena.h. The same file is a test of the build of arenas alone, which
 * has no core: make features runs it with the bodies from a freestanding object. */
#include "test.h"
#include "asthra_rt.h"

static volatile size_t huge = SIZE_MAX; /* volatile: the compiler must not see through it */

/* What a failure left; a build of arenas alone has no place for it. */
#if ASTHRA_HAS_CORE
#define CHECK_REASON(expected) CHECK_EQ(asthra_last_error().status, expected)
#else
#define CHECK_REASON(expected) ((void)0)
#endif

static uint64_t next_random(uint64_t *state) { /* xorshift64* */
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717) >> 16;
}

/* ---- an allocator that counts, fails as told, and may give addresses that are only words' ---- */

typedef struct Source {
    long calls, live, fails_at; /* fails_at: the number of the call, from 1; 0: none */
    size_t held, last;          /* bytes out; the last request */
    size_t off;                 /* from a multiple of 16 */
} Source;

enum { SOURCE_HEAD = 32 };

static void *source_alloc(size_t size, void *user) {
    Source *s = user;
    CHECK(size != 0);
    s->last = size;
    if (++s->calls == s->fails_at) return NULL;
    char *block = malloc(size + SOURCE_HEAD + s->off);
    CHECK(block != NULL);
    block += s->off;
    memcpy(block, &size, sizeof size);
    memset(block + SOURCE_HEAD, 0xee, size);
    s->live++;
    s->held += size;
    return block + SOURCE_HEAD;
}
static void source_free(void *block, void *user) {
    Source *s = user;
    size_t size;
    CHECK(block != NULL);
    memcpy(&size, (char *)block - SOURCE_HEAD, sizeof size);
    memset(block, 0xdd, size); /* all of it can be written: nothing is poisoned any more */
    s->live--;
    s->held -= size;
    free((char *)block - SOURCE_HEAD - s->off);
}
static AsthraAllocator allocator_of(Source *s) {
    AsthraAllocator a = {source_alloc, NULL, source_free, s};
    return a;
}
static AsthraArena growing(size_t chunk, Source *s) {
    AsthraAllocator from = allocator_of(s);
    AsthraArena a;
    memset(&a, 0xff, sizeof a);
    asthra_arena_init_growing(&a, chunk, &from);
    memset(&from, 0xff, sizeof from); /* it was copied */
    return a;
}

static _Alignas(64) unsigned char memory[1 << 16];

static AsthraArena fixed(size_t size) {
    AsthraArena a;
    memset(&a, 0xff, sizeof a);
    asthra_arena_init(&a, memory, size);
    return a;
}

static size_t rounded(size_t size) {
    return size ? (size + 15) / 16 * 16 : 16;
}

/* ---- blocks ---- */

TEST(arena, blocks_are_aligned_and_apart) {
    Source s = {0};
    AsthraArena arenas[2] = {fixed(sizeof memory), growing(1000, &s)};
    for (int k = 0; k < 2; k++) {
        for (size_t size = 0; size < 300; size++) {
            unsigned char *block = asthra_arena_alloc(&arenas[k], size);
            CHECK(block != NULL);
            CHECK((uintptr_t)block % 16 == 0);
            memset(block, 0xff, size);
        }
        asthra_arena_destroy(&arenas[k]);
    }
    CHECK_EQ(s.live, 0);
}

TEST(arena, zero_bytes_are_a_block_of_their_own) {
    Source s = {0};
    AsthraArena arenas[2] = {fixed(320), growing(64, &s)};
    for (int k = 0; k < 2; k++) {
        void *seen[20];
        for (int i = 0; i < 20; i++) {
            seen[i] = asthra_arena_alloc(&arenas[k], i % 3 ? 0 : 1);
            CHECK(seen[i] != NULL);
            for (int j = 0; j < i; j++) CHECK(seen[j] != seen[i]);
        }
        if (k == 0) CHECK(asthra_arena_alloc(&arenas[k], 0) == NULL);
        asthra_arena_destroy(&arenas[k]);
    }
}

/* Fills, checks and compares with what a model says; each block has bytes of its own. */
enum { MODEL_BLOCKS = 512 };

typedef struct Block {
    unsigned char *start;
    size_t size;
    unsigned char fill;
} Block;

typedef struct Model {
    Block blocks[MODEL_BLOCKS];
    int count;
    uint64_t random;
} Model;

static int by_start(const void *a, const void *b) {
    uintptr_t x = (uintptr_t)((const Block *)a)->start, y = (uintptr_t)((const Block *)b)->start;
    return x < y ? -1 : x > y;
}

static void model_check(Model *m) {
    qsort(m->blocks, (size_t)m->count, sizeof *m->blocks, by_start);
    for (int i = 0; i < m->count; i++) {
        Block *b = &m->blocks[i];
        for (size_t n = 0; n < b->size; n++) CHECK_EQ(b->start[n], b->fill);
        if (i) CHECK(b[-1].start + (b[-1].size ? b[-1].size : 1) <= b->start);
    }
    m->count = 0;
}

/* Mostly small, at times larger than any chunk. */
static size_t model_size(Model *m) {
    uint64_t r = next_random(&m->random);
    size_t size = (size_t)(r >> 8);
    if (r % 64 == 0) return size % 5000;
    return r % 8 ? size % 65 : size % 600;
}

/* false: refused. */
static bool model_step(Model *m, AsthraArena *a, size_t size) {
    unsigned char *block = asthra_arena_alloc(a, size);
    if (!block) return false;
    CHECK((uintptr_t)block % 16 == 0);
    Block b = {block, size, (unsigned char)next_random(&m->random)};
    memset(block, b.fill, size);
    m->blocks[m->count++] = b;
    return true;
}

static void model_growing(size_t chunk, size_t off, int rounds) {
    Source s = {0};
    Model m = {.random = 1 + chunk + off};
    s.off = off;
    AsthraArena a = growing(chunk, &s);
    for (int round = 0; round < rounds; round++) {
        int count = (int)(next_random(&m.random) % (MODEL_BLOCKS + 1));
        for (int i = 0; i < count; i++) CHECK(model_step(&m, &a, model_size(&m)));
        model_check(&m);
        asthra_arena_reset(&a);
    }
    asthra_arena_destroy(&a);
    CHECK_EQ(s.live, 0);
}

TEST_WITHIN(60, arena, random_blocks_keep_their_contents_in_chunks) {
    static const size_t chunks[] = {1, 64, 1000, 4096, 0};
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) model_growing(chunks[i], 0, 800);
}

TEST_WITHIN(60, arena, an_allocator_that_aligns_less_is_made_up_for) {
    model_growing(64, 8, 500);
    model_growing(4096, 8, 500);
}

/* On memory of the caller all is known beforehand, the address of each block too. */
TEST_WITHIN(60, arena, random_blocks_lie_where_a_model_says) {
    Model m = {.random = 7};
    for (int round = 0; round < 3000; round++) {
        size_t skip = next_random(&m.random) % 40, size = next_random(&m.random) % 20000;
        AsthraArena a;
        asthra_arena_init(&a, memory + skip, size);
        unsigned char *next = memory + rounded(skip);
        if (skip == 0) next = memory;
        size_t lost = (size_t)(next - memory) - skip, left = size < lost ? 0 : size - lost;
        left -= left % 16;
        while (m.count < MODEL_BLOCKS) {
            size_t request = model_size(&m);
            bool fits = rounded(request) <= left;
            CHECK_EQ(model_step(&m, &a, request), fits);
            if (!fits) break;
            CHECK(m.blocks[m.count - 1].start == next);
            next += rounded(request);
            left -= rounded(request);
        }
        model_check(&m);
        asthra_arena_destroy(&a);
    }
}

/* ---- memory of the caller ---- */

TEST(arena, nothing_outside_the_memory_is_touched) {
    for (size_t skip = 0; skip < 32; skip++) {
        for (size_t size = 0; size < 100; size++) {
            AsthraArena a;
            void *block;
            memset(memory, 0x5a, 256);
            asthra_arena_init(&a, memory + 32 + skip, size);
            while ((block = asthra_arena_alloc(&a, 16)) != NULL) memset(block, 0, 16);
            asthra_arena_reset(&a);
            asthra_arena_destroy(&a);
            for (size_t i = 0; i < 32 + skip; i++) CHECK_EQ(memory[i], 0x5a);
            for (size_t i = 32 + skip + size; i < 256; i++) CHECK_EQ(memory[i], 0x5a);
        }
    }
}

TEST(arena, all_of_the_memory_can_be_had) {
    AsthraArena a = fixed(4096);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 4096 / 32; i++)
            CHECK(asthra_arena_alloc(&a, 32) == memory + (size_t)i * 32);
        CHECK(asthra_arena_alloc(&a, 1) == NULL);
        CHECK(asthra_arena_alloc(&a, 0) == NULL);
        CHECK_REASON(ASTHRA_LIMIT);
        asthra_arena_reset(&a);
    }
    CHECK(asthra_arena_alloc(&a, 4096) == memory);
    CHECK(asthra_arena_alloc(&a, 1) == NULL);
    asthra_arena_destroy(&a);
}

TEST(arena, what_does_not_fit_takes_nothing) {
    AsthraArena a = fixed(64);
    CHECK(asthra_arena_alloc(&a, 65) == NULL);
    CHECK(asthra_arena_alloc(&a, 17) == memory);
    CHECK(asthra_arena_alloc(&a, 33) == NULL);
    CHECK(asthra_arena_alloc(&a, 32) == memory + 32);
    asthra_arena_destroy(&a);
}

TEST(arena, without_memory_all_is_refused) {
    AsthraArena arenas[4];
    memset(arenas, 0xff, sizeof arenas);
    asthra_arena_init(&arenas[0], NULL, 0);
    asthra_arena_init(&arenas[1], NULL, 1000);
    asthra_arena_init(&arenas[2], memory + 1, 14);
    memset(&arenas[3], 0, sizeof arenas[3]);
    for (int i = 0; i < 4; i++) {
        for (int round = 0; round < 2; round++) {
            CHECK(asthra_arena_alloc(&arenas[i], 0) == NULL);
            CHECK(asthra_arena_alloc(&arenas[i], 1) == NULL);
            CHECK_REASON(ASTHRA_LIMIT);
            asthra_arena_reset(&arenas[i]);
        }
        asthra_arena_destroy(&arenas[i]);
        CHECK(asthra_arena_alloc(&arenas[i], 1) == NULL);
    }
}

/* ---- sizes that cannot be ---- */

TEST(arena, impossible_sizes_are_refused_and_take_nothing) {
    Source s = {0};
    AsthraArena arenas[2] = {fixed(4096), growing(4096, &s)};
    for (int k = 0; k < 2; k++) {
        char *before = asthra_arena_alloc(&arenas[k], 16);
        long calls = s.calls;
        for (size_t i = 0; i < 200; i++) {
            CHECK(asthra_arena_alloc(&arenas[k], huge - i) == NULL);
            CHECK(asthra_arena_alloc(&arenas[k], huge / 2 + 1 + i) == NULL);
        }
        CHECK(asthra_arena_alloc(&arenas[k], huge / 2) == NULL);
        CHECK_REASON(k ? ASTHRA_OUT_OF_MEMORY : ASTHRA_LIMIT);
        CHECK_EQ(s.calls, calls); /* nobody was asked for what cannot be */
        CHECK(asthra_arena_alloc(&arenas[k], 16) == before + 16);
        asthra_arena_destroy(&arenas[k]);
    }
}

/* ---- growing ---- */

TEST(arena, chunks_have_the_size_asked_for) {
    static const size_t chunks[][2] = {{4096, 4096}, {0, 65536}, {100, 100}};
    for (int i = 0; i < 3; i++) {
        Source s = {0};
        AsthraArena a = growing(chunks[i][0], &s);
        CHECK_EQ(s.calls, 0); /* not before the first block */
        CHECK(asthra_arena_alloc(&a, 1) != NULL);
        CHECK_EQ(s.last, chunks[i][1]);
        asthra_arena_destroy(&a);
    }
}

TEST(arena, a_large_block_has_a_chunk_of_its_own) {
    Source s = {0};
    AsthraArena a = growing(1024, &s);
    char *before = asthra_arena_alloc(&a, 16);
    memset(asthra_arena_alloc(&a, 100000), 1, 100000);
    CHECK_EQ(s.live, 2);
    CHECK(s.last >= 100000 && s.last <= 100032);
    CHECK(asthra_arena_alloc(&a, 16) == before + 16); /* the room before it is not lost */
    asthra_arena_destroy(&a);
    CHECK_EQ(s.live, 0);
}

TEST(arena, huge_chunks_are_refused_where_there_is_no_memory) {
    Source s = {.fails_at = 1};
    AsthraArena a = growing(huge, &s);
    CHECK(asthra_arena_alloc(&a, 1) == NULL);
    CHECK_REASON(ASTHRA_OUT_OF_MEMORY);
    CHECK(s.last == huge);
    asthra_arena_destroy(&a);
    CHECK_EQ(s.live, 0);
}

TEST(arena, the_runtimes_allocator_serves_where_none_is_named) {
    AsthraAllocator none = {0};
    AsthraArena arenas[2];
    asthra_arena_init_growing(&arenas[0], 0, NULL);
    asthra_arena_init_growing(&arenas[1], 100, &none);
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < 10000; i++) {
            void *block = asthra_arena_alloc(&arenas[k], 100);
#if ASTHRA_HAS_CORE
            CHECK(block != NULL);
            memset(block, 1, 100);
#else
            CHECK(block == NULL);
#endif
        }
        asthra_arena_reset(&arenas[k]);
        asthra_arena_destroy(&arenas[k]);
    }
}

TEST(arena, an_allocator_without_free_keeps_the_chunks) {
    AsthraArena below = fixed(sizeof memory), a;
    AsthraAllocator from = {NULL, NULL, NULL, &below};
    Source s = {0};
    from.alloc = source_alloc;
    from.user = &s;
    asthra_arena_init_growing(&a, 256, &from);
    for (int i = 0; i < 10; i++) CHECK(asthra_arena_alloc(&a, 100) != NULL);
    long calls = s.calls;
    asthra_arena_destroy(&a);
    CHECK_EQ(s.calls, calls);
    CHECK_EQ(s.live, calls);
    asthra_arena_destroy(&below);
#if defined(__SANITIZE_ADDRESS__)
    _exit(0); /* its leaks are the test */
#endif
}

static void *from_arena(size_t size, void *user) {
    return asthra_arena_alloc(user, size);
}

TEST(arena, an_arena_can_grow_from_another) {
    AsthraArena below = fixed(4096), a;
    AsthraAllocator from = {from_arena, NULL, NULL, &below};
    int count = 0;
    asthra_arena_init_growing(&a, 512, &from);
    for (void *block; (block = asthra_arena_alloc(&a, 40)) != NULL; count++) memset(block, 1, 40);
    CHECK(count >= 8 * 9 && count <= 8 * 10);
    asthra_arena_destroy(&a);
    asthra_arena_destroy(&below);
}

/* ---- the nth chunk is not to be had, for each n ---- */

static bool workload(AsthraArena *a, Model *m) {
    static const size_t sizes[] = {16, 200, 1000, 0, 64, 3000, 15, 500};
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 40; i++)
            if (!model_step(m, a, sizes[i % 8] + (size_t)round * 7)) return false;
        model_check(m);
        asthra_arena_reset(a);
    }
    return true;
}

TEST(arena, when_the_nth_chunk_fails_nothing_is_lost) {
    bool ended_well = false;
    for (long n = 1; !ended_well; n++) {
        Source s = {.fails_at = n};
        Model m = {.random = 3};
        AsthraArena a = growing(1024, &s);
        CHECK(n < 1000);
        ended_well = workload(&a, &m);
        if (!ended_well) {
            CHECK_REASON(ASTHRA_OUT_OF_MEMORY);
            CHECK_EQ(s.calls, n);
            CHECK(model_step(&m, &a, 2000)); /* the next call succeeds */
            model_check(&m);                 /* and all blocks are as they were */
            asthra_arena_reset(&a);
            CHECK(workload(&a, &m));
        }
        asthra_arena_destroy(&a);
        CHECK_EQ(s.live, 0);
    }
}

/* ---- reset ---- */

TEST(arena, after_a_reset_the_same_blocks_come_without_the_allocator) {
    Source s = {0};
    AsthraArena a = growing(1024, &s);
    void *first[100];
    long calls = 0;
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 100; i++) {
            void *block = asthra_arena_alloc(&a, i % 10 == 3 ? 5000 : 100);
            if (round == 0) first[i] = block;
            if (round == 2) calls = s.calls;
            CHECK(block != NULL);
        }
        CHECK(round < 3 || s.calls == calls);
        asthra_arena_reset(&a);
        CHECK(asthra_arena_alloc(&a, 100) == first[0]);
        asthra_arena_reset(&a);
        asthra_arena_reset(&a); /* of nothing */
    }
    asthra_arena_destroy(&a);
    CHECK_EQ(s.live, 0);
}

/* Spares that large blocks pass over go back, so that no mixture makes an arena grow for ever. */
TEST(arena, resets_do_not_pile_up_memory) {
    Source s = {0};
    AsthraArena a = growing(1024, &s);
    uint64_t random = 11;
    for (int round = 0; round < 2000; round++) {
        size_t wanted = 0;
        while (wanted < 50000) {
            size_t size = next_random(&random) % 4 ? 100 : 1000 + next_random(&random) % 20000;
            wanted += size;
            CHECK(asthra_arena_alloc(&a, size) != NULL);
        }
        CHECK(s.held < 400000);
        asthra_arena_reset(&a);
    }
    asthra_arena_destroy(&a);
    CHECK_EQ(s.held, 0);
}

/* ---- the end ---- */

TEST(arena, destroyed_it_refuses_and_may_be_destroyed_again) {
    Source s = {0};
    AsthraArena arenas[2] = {fixed(4096), growing(4096, &s)};
    for (int k = 0; k < 2; k++) {
        CHECK(asthra_arena_alloc(&arenas[k], 100) != NULL);
        asthra_arena_destroy(&arenas[k]);
        CHECK(asthra_arena_alloc(&arenas[k], 1) == NULL);
        CHECK_REASON(ASTHRA_LIMIT);
        asthra_arena_reset(&arenas[k]);
        CHECK(asthra_arena_alloc(&arenas[k], 1) == NULL);
        asthra_arena_destroy(&arenas[k]);
    }
    CHECK_EQ(s.live, 0);
    memset(memory, 1, sizeof memory); /* the caller's again, sanitizers agree */
}

TEST(arena, it_may_move_between_calls) {
    Source s = {0};
    AsthraArena a = growing(256, &s), b;
    for (int i = 0; i < 100; i++) {
        memset(asthra_arena_alloc(&a, 40), i, 40);
        b = a;
        memset(&a, 0xff, sizeof a);
        memset(asthra_arena_alloc(&b, 40), i, 40);
        a = b;
    }
    asthra_arena_destroy(&a);
    CHECK_EQ(s.live, 0);
}

static void *end_it(void *arena) {
    CHECK(asthra_arena_alloc(arena, 1000) != NULL);
    asthra_arena_destroy(arena);
    return NULL;
}

TEST(arena, another_thread_may_go_on_with_it_and_destroy_it) {
    Source s = {0};
    AsthraArena a = growing(256, &s);
    pthread_t t;
    for (int i = 0; i < 100; i++) CHECK(asthra_arena_alloc(&a, 100) != NULL);
    CHECK(!pthread_create(&t, NULL, end_it, &a));
    pthread_join(t, NULL);
    CHECK_EQ(s.live, 0);
}

#if ASTHRA_HAS_TASK
static void *use_one(void *unused) {
    AsthraArena a;
    asthra_arena_init_growing(&a, 200, NULL);
    for (int i = 0; i < 200; i++) {
        char *block = asthra_arena_alloc(&a, 24);
        memset(block, i, 24);
        asthra_yield();
        for (int n = 0; n < 24; n++) CHECK_EQ((unsigned char)block[n], i);
    }
    asthra_arena_destroy(&a);
    return unused;
}

TEST(arena, a_task_takes_it_across_waits) {
    AsthraTaskHandle tasks[8];
    for (int i = 0; i < 8; i++) tasks[i] = asthra_spawn(use_one, NULL);
    for (int i = 0; i < 8; i++) asthra_await(tasks[i]);
}
#endif

#if ASTHRA_HAS_CORE
TEST(arena, a_refusal_says_how_much_is_left) {
    AsthraArena a = fixed(64);
    CHECK(asthra_arena_alloc(&a, 20) != NULL);
    CHECK(asthra_arena_alloc(&a, 100) == NULL);
    CHECK_STR(asthra_result_message(asthra_last_error()),
              "asthra_arena_alloc: 100 bytes asked for, 32 of 64 left");
    asthra_arena_destroy(&a);
}
#endif

/* ---- what AddressSanitizer sees ---- */

#if defined(__SANITIZE_ADDRESS__)
int __asan_address_is_poisoned(void const volatile *address);

/* Of each byte of a block and of the 32 behind it. */
static void check_poison(const char *block, size_t size, size_t until) {
    for (size_t i = 0; i < until; i++) CHECK_EQ(__asan_address_is_poisoned(block + i), i >= size);
}

TEST(arena, bytes_in_no_block_are_poisoned) {
    Source s = {0};
    AsthraArena arenas[2] = {fixed(4096), growing(2048, &s)};
    for (int k = 0; k < 2; k++) {
        for (size_t size = 0; size < 40; size++)
            check_poison(asthra_arena_alloc(&arenas[k], size), size, size + 20);
        asthra_arena_reset(&arenas[k]);
        check_poison(asthra_arena_alloc(&arenas[k], 5), 5, 1000);
        asthra_arena_destroy(&arenas[k]);
    }
}

static void touch_after_reset(AsthraArena a) {
    volatile char *block = asthra_arena_alloc(&a, 100);
    block[99] = 1;
    asthra_arena_reset(&a);
    block[0] = 1;
}
TEST_PANICS(arena, using_a_block_after_the_reset_is_reported, "use-after-poison") {
    touch_after_reset(fixed(4096));
}
TEST_PANICS(arena, using_a_block_of_a_chunk_after_the_reset_is_reported, "use-after-poison") {
    Source s = {0};
    touch_after_reset(growing(4096, &s));
}
TEST_PANICS(arena, writing_behind_a_block_is_reported, "use-after-poison") {
    AsthraArena a = fixed(4096);
    volatile char *block = asthra_arena_alloc(&a, 5);
    block[5] = 1;
}
#endif
