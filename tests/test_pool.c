/* The promises of src/memory/pool.h. The bodies are in this file, for the allocator's hook and for
 * a look at the trees. */
#include "test.h"
#define ASTHRA_RT_STATIC
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"

static volatile size_t too_much = SIZE_MAX; /* volatile: the compiler must not see through it */

static AsthraPool *pool_with(AsthraPoolConfig config) {
    AsthraPool *p = asthra_pool_create(&config);
    CHECK(p != NULL);
    return p;
}
static AsthraPool *objects_of(size_t object_size, size_t capacity) {
    return pool_with((AsthraPoolConfig){"objects", object_size, capacity, 0, false});
}
static AsthraPool *blocks_of(size_t capacity, AsthraPoolStrategy strategy) {
    return pool_with((AsthraPoolConfig){"blocks", 0, capacity, strategy, false});
}
static AsthraPool *moving(size_t capacity, AsthraPoolStrategy strategy) {
    return pool_with((AsthraPoolConfig){"moving", 0, capacity, strategy, true});
}

static AsthraStatus last_status(void) {
    return asthra_result_status(asthra_last_error());
}

static uint64_t random_state = 1;
static uint32_t random_below(uint32_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 32) * n >> 32);
}

static void fill(void *block, size_t size, uint32_t seed) {
    for (size_t i = 0; i < size; i++) ((unsigned char *)block)[i] = (unsigned char)(seed + i * 7);
}
static void check_filled(const void *block, size_t size, uint32_t seed) {
    for (size_t i = 0; i < size; i++)
        if (((const unsigned char *)block)[i] != (unsigned char)(seed + i * 7))
            test_fail(__FILE__, __LINE__, "byte %zu of %zu at %p is not what was written", i, size,
                      block);
}

/* ---- create ---- */

TEST(pool, zeros_and_null_are_a_growing_block_pool) {
    AsthraPoolConfig zeros = {0};
    AsthraPool *pools[2] = {asthra_pool_create(NULL), asthra_pool_create(&zeros)};
    for (int i = 0; i < 2; i++) {
        CHECK(pools[i] != NULL);
        for (int k = 0; k < 40; k++) CHECK(asthra_pool_alloc(pools[i], 32768) != NULL);
        asthra_pool_destroy(pools[i]);
    }
}

static void refused(AsthraPoolConfig config, AsthraStatus why) {
    CHECK(asthra_pool_create(&config) == NULL);
    CHECK_EQ(last_status(), why);
}

TEST(pool, contradictions_in_a_configuration_are_refused) {
    refused((AsthraPoolConfig){"x", 32, 0, ASTHRA_POOL_BEST_FIT, false}, ASTHRA_INVALID);
    refused((AsthraPoolConfig){"x", 32, 1024, ASTHRA_POOL_WORST_FIT, false}, ASTHRA_INVALID);
    refused((AsthraPoolConfig){"x", 0, 0, (AsthraPoolStrategy)3, false}, ASTHRA_INVALID);
    refused((AsthraPoolConfig){"x", 0, 0, (AsthraPoolStrategy)-1, false}, ASTHRA_INVALID);
    refused((AsthraPoolConfig){"x", 100, 99, 0, false}, ASTHRA_INVALID);
    refused((AsthraPoolConfig){"x", too_much, 0, 0, false}, ASTHRA_LIMIT);
    refused((AsthraPoolConfig){"x", 0, too_much, 0, false}, ASTHRA_LIMIT);
    refused((AsthraPoolConfig){"x", 1, too_much, 0, false}, ASTHRA_LIMIT);
    refused((AsthraPoolConfig){"x", too_much, too_much, 0, false}, ASTHRA_LIMIT);
}

TEST(pool, a_name_is_copied) {
    char name[] = "first";
    AsthraPool *p = pool_with((AsthraPoolConfig){name, 16, 16, 0, false});
    name[0] = 'w';
    CHECK(asthra_pool_alloc(p, 1) && !asthra_pool_alloc(p, 1));
    CHECK(strstr(asthra_result_message(asthra_last_error()), "'first'") != NULL);
    asthra_pool_destroy(p);
}

TEST(pool, a_good_create_clears_the_error) {
    refused((AsthraPoolConfig){"x", 100, 99, 0, false}, ASTHRA_INVALID);
    asthra_pool_destroy(blocks_of(16, ASTHRA_POOL_FIRST_FIT));
    CHECK_EQ(last_status(), ASTHRA_OK);
}

/* ---- objects ---- */

TEST(pool, capacity_is_bytes_of_objects) {
    AsthraPool *p = objects_of(24, 240);
    void *all[10];
    for (int i = 0; i < 10; i++) {
        CHECK((all[i] = asthra_pool_alloc(p, 24)) != NULL);
        CHECK_EQ((uintptr_t)all[i] % 16, 0);
        fill(all[i], 24, (uint32_t)i);
    }
    CHECK(!asthra_pool_alloc(p, 24));
    CHECK_EQ(last_status(), ASTHRA_LIMIT);
    for (int i = 0; i < 10; i++) check_filled(all[i], 24, (uint32_t)i);
    for (int i = 0; i < 10; i++) asthra_pool_free(p, all[i]);
    for (int i = 0; i < 10; i++) CHECK(asthra_pool_alloc(p, 24) != NULL);
    CHECK(!asthra_pool_alloc(p, 24));
    asthra_pool_destroy(p);
}

TEST(pool, the_newest_freed_object_is_the_next) {
    AsthraPool *p = objects_of(100, 0);
    void *a = asthra_pool_alloc(p, 100), *b = asthra_pool_alloc(p, 100);
    asthra_pool_free(p, a);
    asthra_pool_free(p, b);
    CHECK(asthra_pool_alloc(p, 100) == b);
    CHECK(asthra_pool_alloc(p, 100) == a);
    asthra_pool_destroy(p);
}

TEST(pool, an_object_serves_every_size_up_to_its_own) {
    AsthraPool *p = objects_of(40, 0);
    void *none = asthra_pool_alloc(p, 0), *one = asthra_pool_alloc(p, 1);
    CHECK(none && one && none != one && asthra_pool_alloc(p, 40));
    CHECK(!asthra_pool_alloc(p, 41));
    CHECK_EQ(last_status(), ASTHRA_INVALID);
    CHECK(!asthra_pool_alloc(p, too_much));
    asthra_pool_free(p, none);
    CHECK(!asthra_pool_alloc(p, 41)); /* with a free one, too */
    asthra_pool_destroy(p);
}

typedef struct Point {
    int32_t x, y, z;
} Point;

TEST(pool, new_gives_a_typed_object) {
    AsthraPool *p = objects_of(sizeof(Point), 0);
    Point *point = ASTHRA_POOL_NEW(Point, p);
    *point = (Point){1, 2, 3};
    CHECK_EQ(point->z, 3);
    asthra_pool_free(p, point);
    asthra_pool_destroy(p);
}

/* ---- blocks ---- */

TEST(pool, blocks_may_sum_up_to_the_capacity) {
    for (int s = ASTHRA_POOL_FIRST_FIT; s <= ASTHRA_POOL_WORST_FIT; s++) {
        AsthraPool *p = blocks_of(65536, (AsthraPoolStrategy)s);
        char *a = asthra_pool_alloc(p, 32768), *b = asthra_pool_alloc(p, 32768);
        CHECK(a && b && !asthra_pool_alloc(p, 0));
        CHECK_EQ(last_status(), ASTHRA_LIMIT);
        memset(a, 1, 32768);
        memset(b, 2, 32768);
        CHECK(a[32767] == 1 && b[0] == 2);
        asthra_pool_free(p, a);
        CHECK(!asthra_pool_alloc(p, 32769));
        asthra_pool_free(p, b);
        CHECK(asthra_pool_alloc(p, 65536) == a);
        asthra_pool_destroy(p);
    }
}

TEST(pool, a_capacity_is_rounded_up_to_16) {
    AsthraPool *p = blocks_of(100, ASTHRA_POOL_FIRST_FIT);
    void *block = asthra_pool_alloc(p, 100);
    CHECK(block != NULL);
    asthra_pool_free(p, block);
    CHECK(!asthra_pool_alloc(p, 113));
    asthra_pool_destroy(p);
}

TEST(pool, zero_bytes_are_a_unique_block) {
    AsthraPool *p = blocks_of(32, ASTHRA_POOL_BEST_FIT);
    void *a = asthra_pool_alloc(p, 0), *b = asthra_pool_alloc(p, 0);
    CHECK(a && b && a != b && !asthra_pool_alloc(p, 0));
    asthra_pool_free(p, b);
    asthra_pool_free(p, a);
    CHECK(asthra_pool_alloc(p, 32) == a);
    asthra_pool_destroy(p);
}

TEST(pool, impossible_sizes_are_null) {
    AsthraPool *p = blocks_of(4096, ASTHRA_POOL_FIRST_FIT), *q = asthra_pool_create(NULL);
    CHECK(!asthra_pool_alloc(p, too_much) && last_status() == ASTHRA_LIMIT);
    CHECK(!asthra_pool_alloc(p, 4097) && last_status() == ASTHRA_LIMIT);
    CHECK(!asthra_pool_alloc(q, too_much) && last_status() == ASTHRA_OUT_OF_MEMORY);
    CHECK(!asthra_pool_handle_alloc(q, too_much).bits && last_status() == ASTHRA_OUT_OF_MEMORY);
    CHECK(asthra_pool_alloc(p, 4096) && asthra_pool_alloc(q, 1));
    asthra_pool_destroy(p);
    asthra_pool_destroy(q);
}

TEST(pool, null_frees_are_nothing) {
    AsthraPool *p = asthra_pool_create(NULL);
    AsthraPoolHandle none = {0};
    asthra_pool_free(p, NULL);
    asthra_pool_handle_free(p, none);
    CHECK(!asthra_pool_handle_get(p, none));
    CHECK_EQ(last_status(), ASTHRA_INVALID);
    asthra_pool_destroy(p);
    asthra_pool_destroy(NULL);
}

/* Which of three holes of 160, 96 and 240 bytes, in this order, and a rest of 400 is taken. */
static int hole_for(AsthraPoolStrategy strategy, size_t size) {
    static const size_t sizes[] = {160, 96, 240, 400};
    AsthraPool *p = blocks_of(160 + 96 + 240 + 400 + 3 * 16, strategy);
    void *holes[4];
    int which = 0;
    for (int i = 0; i < 4; i++) {
        holes[i] = asthra_pool_alloc(p, sizes[i]);
        if (i < 3) asthra_pool_alloc(p, 16);
    }
    for (int i = 0; i < 4; i++) asthra_pool_free(p, holes[i]);
    void *block = asthra_pool_alloc(p, size);
    while (which < 4 && holes[which] != block) which++;
    asthra_pool_destroy(p);
    return which;
}

TEST(pool, first_fit_takes_the_lowest_address) {
    CHECK_EQ(hole_for(ASTHRA_POOL_FIRST_FIT, 90), 0);
    CHECK_EQ(hole_for(ASTHRA_POOL_FIRST_FIT, 161), 2);
}
TEST(pool, best_fit_takes_the_smallest) {
    CHECK_EQ(hole_for(ASTHRA_POOL_BEST_FIT, 90), 1);
    CHECK_EQ(hole_for(ASTHRA_POOL_BEST_FIT, 97), 0);
    CHECK_EQ(hole_for(ASTHRA_POOL_BEST_FIT, 241), 3);
}
TEST(pool, worst_fit_takes_the_largest) {
    CHECK_EQ(hole_for(ASTHRA_POOL_WORST_FIT, 1), 3);
}

static unsigned depth_below(const Asthra__PoolChunk *c, uint32_t root) {
    if (root == ASTHRA__POOL_NONE) return 0;
    Asthra__PoolTag n = asthra__pool_tag(c, root);
    unsigned left = depth_below(c, n.left), right = depth_below(c, n.right);
    return 1 + (left > right ? left : right);
}

/* Sizes that grow with the address, all equal ones, and random ones: a walk would be 20000 long. */
TEST(pool, a_search_for_the_best_fit_is_short_in_a_large_pool) {
    enum { HOLES = 20000 };
    static void *holes[HOLES];
    for (int kind = 0; kind < 3; kind++) {
        AsthraPool *p = blocks_of((size_t)1 << 28, ASTHRA_POOL_BEST_FIT);
        for (uint32_t i = 0; i < HOLES; i++) {
            uint32_t n = 65 + (kind == 0 ? i / 16 : kind == 1 ? 3 : random_below(100));
            holes[i] = asthra_pool_alloc(p, (size_t)n * 16);
            CHECK(holes[i] && asthra_pool_alloc(p, 16));
        }
        for (int i = 0; i < HOLES; i++) asthra_pool_free(p, holes[i]);
        unsigned depth = depth_below(p->chunks[0], p->chunks[0]->root);
        if (depth >= 60) test_fail(__FILE__, __LINE__, "kind %d: depth %u", kind, depth);
        asthra_pool_destroy(p);
    }
}

/* ---- the model: a map of granules, searched from end to end ---- */

enum { MODEL_GRANULES = 1024, MODEL_BLOCKS = 200 };

typedef struct ModelBlock {
    char *address;
    size_t size;
    uint32_t seed;
    AsthraPoolHandle handle; /* 0: a raw block */
} ModelBlock;

typedef struct Model {
    AsthraPool *pool;
    AsthraPoolStrategy strategy;
    char *base;
    bool is_used[MODEL_GRANULES];
    ModelBlock blocks[MODEL_BLOCKS];
    int count;
} Model;

static size_t model_granules(size_t size) {
    return size ? (size + 15) / 16 : 1;
}

static Model *model_of(AsthraPool *p, AsthraPoolStrategy strategy) {
    static Model m;
    memset(&m, 0, sizeof m);
    m.pool = p;
    m.strategy = strategy;
    m.base = asthra_pool_alloc(p, MODEL_GRANULES * 16);
    CHECK(m.base != NULL);
    asthra_pool_free(p, m.base);
    return &m;
}

/* The size of the hole that starts at i; 0: none does. */
static size_t model_hole(const Model *m, size_t i) {
    size_t end = i;
    if (i && !m->is_used[i - 1]) return 0;
    while (end < MODEL_GRANULES && !m->is_used[end]) end++;
    return end - i;
}

/* Where the strategy says that n granules belong (best fit: or another hole of the same size);
 * MODEL_GRANULES: nowhere. */
static size_t model_place(const Model *m, size_t n) {
    size_t best = MODEL_GRANULES, best_size = 0;
    for (size_t i = 0; i < MODEL_GRANULES; i++) {
        size_t size = model_hole(m, i);
        if (size < n) continue;
        if (m->strategy == ASTHRA_POOL_FIRST_FIT) return i;
        bool is_better = m->strategy == ASTHRA_POOL_BEST_FIT ? size < best_size : size > best_size;
        if (best == MODEL_GRANULES || is_better) best = i, best_size = size;
    }
    return best;
}

static void model_mark(Model *m, const ModelBlock *b, bool on) {
    size_t i = (size_t)(b->address - m->base) / 16;
    for (size_t k = 0; k < model_granules(b->size); k++) {
        CHECK(i + k < MODEL_GRANULES && m->is_used[i + k] != on);
        m->is_used[i + k] = on;
    }
}

static void model_alloc(Model *m, bool is_handle) {
    ModelBlock b = {NULL, random_below(random_below(8) ? 200 : 3000), random_below(256), {0}};
    size_t place = model_place(m, model_granules(b.size));
    if (is_handle) {
        b.handle = asthra_pool_handle_alloc(m->pool, b.size);
        if (b.handle.bits) b.address = asthra_pool_handle_get(m->pool, b.handle);
    } else {
        b.address = asthra_pool_alloc(m->pool, b.size);
    }
    CHECK_EQ(b.address != NULL, place != MODEL_GRANULES);
    if (!b.address) return;
    if (m->strategy == ASTHRA_POOL_BEST_FIT)
        CHECK_EQ(model_hole(m, (size_t)(b.address - m->base) / 16), model_hole(m, place));
    else
        CHECK_EQ(b.address - m->base, (long long)place * 16);
    model_mark(m, &b, true);
    fill(b.address, b.size, b.seed);
    m->blocks[m->count++] = b;
}

static void model_free(Model *m, int which) {
    ModelBlock b = m->blocks[which];
    check_filled(b.address, b.size, b.seed);
    if (b.handle.bits)
        asthra_pool_handle_free(m->pool, b.handle);
    else
        asthra_pool_free(m->pool, b.address);
    model_mark(m, &b, false);
    m->blocks[which] = m->blocks[--m->count];
}

static void model_step(Model *m, uint32_t handles_of_8) {
    bool is_alloc = m->count == 0 || (m->count < MODEL_BLOCKS && random_below(100) < 55);
    if (is_alloc)
        model_alloc(m, random_below(8) < handles_of_8);
    else
        model_free(m, (int)random_below((uint32_t)m->count));
}

static void model_end(Model *m) {
    while (m->count) model_free(m, m->count - 1);
    char *whole = asthra_pool_alloc(m->pool, MODEL_GRANULES * 16);
    CHECK(whole == m->base);
    asthra_pool_destroy(m->pool);
}

TEST_WITHIN(60, pool, blocks_are_where_the_strategy_says) {
    for (int s = ASTHRA_POOL_FIRST_FIT; s <= ASTHRA_POOL_WORST_FIT; s++) {
        Model *m =
            model_of(blocks_of(MODEL_GRANULES * 16, (AsthraPoolStrategy)s), (AsthraPoolStrategy)s);
        for (int i = 0; i < 40000 / (int)test_thrift(); i++) model_step(m, 2);
        model_end(m);
    }
}

/* Takes what moved; only blocks of handles may, and only down. Returns bytes moved. */
static size_t model_take_moves(Model *m) {
    size_t moved = 0;
    for (int i = 0; i < m->count; i++) model_mark(m, &m->blocks[i], false);
    for (int i = 0; i < m->count; i++) {
        ModelBlock *b = &m->blocks[i];
        char *now = b->handle.bits ? asthra_pool_handle_get(m->pool, b->handle) : b->address;
        CHECK(now && now <= b->address);
        if (now != b->address) moved += b->size;
        b->address = now;
        model_mark(m, b, true);
        check_filled(now, b->size, b->seed);
    }
    return moved;
}

TEST_WITHIN(60, pool, defragment_moves_handles_down_with_their_contents) {
    for (int s = ASTHRA_POOL_FIRST_FIT; s <= ASTHRA_POOL_WORST_FIT; s++) {
        Model *m =
            model_of(blocks_of(MODEL_GRANULES * 16, (AsthraPoolStrategy)s), (AsthraPoolStrategy)s);
        for (int i = 0; i < 20000 / (int)test_thrift(); i++) {
            model_step(m, 5);
            if (random_below(50)) continue;
            size_t moved = asthra_pool_defragment(m->pool);
            CHECK_EQ(moved, model_take_moves(m));
            CHECK_EQ(asthra_pool_defragment(m->pool), 0);
        }
        model_end(m);
    }
}

TEST(pool, defragment_leaves_one_free_block_where_all_is_held_by_handles) {
    for (int s = ASTHRA_POOL_FIRST_FIT; s <= ASTHRA_POOL_WORST_FIT; s++) {
        AsthraPool *p = blocks_of(64 * 100, (AsthraPoolStrategy)s);
        AsthraPoolHandle handles[100];
        for (uint32_t i = 0; i < 100; i++) {
            handles[i] = asthra_pool_handle_alloc(p, 64);
            fill(asthra_pool_handle_get(p, handles[i]), 64, i);
        }
        for (int i = 0; i < 100; i += 2) asthra_pool_handle_free(p, handles[i]);
        CHECK(!asthra_pool_alloc(p, 65));
        CHECK(asthra_pool_defragment(p) > 0);
        CHECK(asthra_pool_alloc(p, 64 * 50) != NULL);
        for (uint32_t i = 1; i < 100; i += 2)
            check_filled(asthra_pool_handle_get(p, handles[i]), 64, i);
        asthra_pool_destroy(p);
    }
}

/* Half of the blocks freed, every other one: 3200 bytes are free, in pieces of 64. */
static AsthraPool *full_of_holes(bool auto_defrag, AsthraPoolHandle *last, char **raw) {
    AsthraPool *p =
        pool_with((AsthraPoolConfig){"holes", 0, 64 * 100, ASTHRA_POOL_BEST_FIT, auto_defrag});
    AsthraPoolHandle handles[99];
    for (int i = 0; i < 99; i++) handles[i] = asthra_pool_handle_alloc(p, 64);
    *raw = asthra_pool_alloc(p, 64);
    *last = handles[97];
    fill(asthra_pool_handle_get(p, *last), 64, 97);
    fill(*raw, 64, 99);
    for (int i = 0; i < 99; i += 2) asthra_pool_handle_free(p, handles[i]);
    return p;
}

TEST(pool, auto_defrag_makes_room_and_only_where_it_was_asked_for) {
    AsthraPoolHandle last;
    char *raw;
    AsthraPool *p = full_of_holes(false, &last, &raw), *q = full_of_holes(true, &last, &raw);
    CHECK(!asthra_pool_alloc(p, 1000));
    AsthraPoolHandle h = asthra_pool_handle_alloc(q, 1000);
    CHECK(h.bits && asthra_pool_handle_get(q, h));
    CHECK(asthra_pool_alloc(q, 2000) != NULL);
    CHECK(!asthra_pool_alloc(q, 1000)); /* so many are not free */
    check_filled(asthra_pool_handle_get(q, last), 64, 97);
    check_filled(raw, 64, 99);
    asthra_pool_destroy(p);
    asthra_pool_destroy(q);
}

TEST(pool, raw_blocks_stay_and_may_keep_free_bytes_apart) {
    AsthraPool *p = moving(64 * 5, ASTHRA_POOL_FIRST_FIT);
    char *raw[5];
    for (int i = 0; i < 5; i++) raw[i] = asthra_pool_alloc(p, 64);
    asthra_pool_free(p, raw[0]);
    asthra_pool_free(p, raw[2]);
    CHECK(!asthra_pool_alloc(p, 128));
    CHECK_EQ(last_status(), ASTHRA_LIMIT);
    CHECK_EQ(asthra_pool_defragment(p), 0);
    asthra_pool_free(p, raw[1]);
    CHECK(asthra_pool_alloc(p, 192) == raw[0]);
    asthra_pool_destroy(p);
}

TEST_WITHIN(60, pool, auto_defrag_keeps_contents_under_churn) {
    for (int s = ASTHRA_POOL_FIRST_FIT; s <= ASTHRA_POOL_WORST_FIT; s++) {
        enum { LIVE = 120 };
        AsthraPool *p = moving(MODEL_GRANULES * 16, (AsthraPoolStrategy)s);
        ModelBlock blocks[LIVE] = {{0}};
        long served = 0, steps = 15000 / (long)test_thrift();
        for (long i = 0; i < steps; i++) {
            ModelBlock *b = &blocks[random_below(LIVE)];
            if (b->handle.bits) {
                check_filled(asthra_pool_handle_get(p, b->handle), b->size, b->seed);
                asthra_pool_handle_free(p, b->handle);
            }
            b->size = random_below(260);
            b->seed = random_below(256);
            b->handle = asthra_pool_handle_alloc(p, b->size);
            if (!b->handle.bits) continue;
            fill(asthra_pool_handle_get(p, b->handle), b->size, b->seed);
            served++;
        }
        CHECK(served > steps - steps / 15);
        asthra_pool_destroy(p);
    }
}

/* ---- growing ---- */

TEST(pool, a_growing_pool_gives_wholly_free_chunks_back_but_one) {
    AsthraPool *p = asthra_pool_create(NULL);
    void *blocks[300];
    for (int i = 0; i < 300; i++) CHECK((blocks[i] = asthra_pool_alloc(p, 5000)) != NULL);
    CHECK(p->chunk_count > 3);
    for (int i = 0; i < 300; i++) asthra_pool_free(p, blocks[i]);
    CHECK_EQ(p->chunk_count, 1);
    CHECK_EQ(p->free_bytes, p->total);
    asthra_pool_destroy(p);
}

TEST(pool, a_growing_pool_takes_blocks_of_any_size) {
    AsthraPool *p = asthra_pool_create(NULL);
    for (size_t size = 1; size < 20000000; size *= 3) {
        char *block = asthra_pool_alloc(p, size);
        CHECK(block != NULL);
        block[0] = block[size - 1] = 1;
    }
    asthra_pool_destroy(p);
}

TEST(pool, defragment_empties_chunks_of_a_growing_pool) {
    AsthraPool *p = pool_with((AsthraPoolConfig){"growing", 0, 0, ASTHRA_POOL_BEST_FIT, false});
    static AsthraPoolHandle handles[600];
    for (uint32_t i = 0; i < 600; i++) {
        handles[i] = asthra_pool_handle_alloc(p, 1000);
        fill(asthra_pool_handle_get(p, handles[i]), 1000, i);
    }
    for (int i = 0; i < 600; i++)
        if (i % 6) asthra_pool_handle_free(p, handles[i]);
    size_t before = p->total;
    CHECK(asthra_pool_defragment(p) > 0);
    CHECK(p->total < before);
    for (uint32_t i = 0; i < 600; i += 6)
        check_filled(asthra_pool_handle_get(p, handles[i]), 1000, i);
    asthra_pool_destroy(p);
}

/* A pool that grows, of blocks or objects: contents, and all are free at the end. */
static void churn(AsthraPool *p, uint32_t most, int rounds, uint64_t seed) {
    enum { LIVE = 500 };
    uint64_t state = seed * 2 + 1;
    struct {
        char *block;
        size_t size;
        uint32_t seed;
    } live[LIVE];
    memset(live, 0, sizeof live);
    for (int i = 0; i < rounds + LIVE; i++) {
        state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
        uint32_t value = (uint32_t)(state >> 33);
        int k = i < rounds ? (int)(value % LIVE) : i - rounds;
        if (live[k].block) {
            check_filled(live[k].block, live[k].size, live[k].seed);
            asthra_pool_free(p, live[k].block);
            live[k].block = NULL;
        } else if (i < rounds) {
            live[k].size = value / LIVE % (most + 1);
            live[k].seed = value & 255;
            CHECK((live[k].block = asthra_pool_alloc(p, live[k].size)) != NULL);
            CHECK_EQ((uintptr_t)live[k].block % 16, 0);
            fill(live[k].block, live[k].size, live[k].seed);
        }
    }
}

TEST_WITHIN(60, pool, growing_pools_keep_contents) {
    for (int s = ASTHRA_POOL_FIRST_FIT; s <= ASTHRA_POOL_WORST_FIT; s++) {
        AsthraPool *p = blocks_of(0, (AsthraPoolStrategy)s);
        churn(p, 2000, 30000, (uint64_t)s);
        CHECK_EQ(p->chunk_count, 1);
        CHECK_EQ(p->free_bytes, p->total);
        asthra_pool_destroy(p);
    }
    for (size_t size = 1; size < 300; size += 37) {
        AsthraPool *p = objects_of(size, 0);
        churn(p, (uint32_t)size, 20000, size);
        asthra_pool_destroy(p);
    }
}

/* ---- threads ---- */

enum { THREADS = 4 };

static void *churn_blocks(void *pool) {
    churn(pool, 600, 20000, (uint64_t)(uintptr_t)&pool);
    return NULL;
}
static void *churn_objects(void *pool) {
    churn(pool, 48, 20000, (uint64_t)(uintptr_t)&pool);
    return NULL;
}
static void run_threads(void *(*run)(void *), void *pool) {
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) CHECK(!pthread_create(&threads[i], NULL, run, pool));
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

TEST_WITHIN(60, pool, threads_share_a_block_pool) {
    for (int s = ASTHRA_POOL_FIRST_FIT; s <= ASTHRA_POOL_WORST_FIT; s++) {
        AsthraPool *p = blocks_of(0, (AsthraPoolStrategy)s);
        run_threads(churn_blocks, p);
        CHECK_EQ(p->free_bytes, p->total);
        asthra_pool_destroy(p);
    }
}

TEST_WITHIN(60, pool, threads_share_an_object_pool) {
    AsthraPool *p = objects_of(48, 0);
    run_threads(churn_objects, p);
    asthra_pool_destroy(p);
}

/* With the lock that the contract asks for where blocks may move. */
static pthread_mutex_t moves = PTHREAD_MUTEX_INITIALIZER;

static void *churn_handles(void *pool) {
    AsthraPoolHandle handles[8] = {{0}};
    uint32_t seed = (uint32_t)(uintptr_t)handles >> 4;
    for (int i = 0; i < 4000; i++) {
        AsthraPoolHandle *h = &handles[i % 8];
        size_t size = 16 + (size_t)i % 200;
        pthread_mutex_lock(&moves);
        if (h->bits) check_filled(asthra_pool_handle_get(pool, *h), 16, seed + (uint32_t)i % 8);
        asthra_pool_handle_free(pool, *h);
        *h = asthra_pool_handle_alloc(pool, size);
        if (h->bits) fill(asthra_pool_handle_get(pool, *h), size, seed + (uint32_t)i % 8);
        pthread_mutex_unlock(&moves);
    }
    return NULL;
}

TEST_WITHIN(60, pool, threads_share_handles_that_move) {
    AsthraPool *p = moving(5000, ASTHRA_POOL_BEST_FIT);
    run_threads(churn_handles, p);
    asthra_pool_destroy(p);
}

static void *only_handles(void *pool) {
    for (int i = 0; i < 5000; i++) {
        AsthraPoolHandle h = asthra_pool_handle_alloc(pool, (size_t)i % 100);
        CHECK(asthra_pool_handle_get(pool, h) != NULL);
        asthra_pool_handle_free(pool, h);
        CHECK(!asthra_pool_handle_get(pool, h));
    }
    return NULL;
}

TEST_WITHIN(60, pool, handles_need_no_lock_where_nothing_moves) {
    AsthraPool *p = asthra_pool_create(NULL);
    run_threads(only_handles, p);
    asthra_pool_destroy(p);
}

static void *end_pool(void *pool) {
    asthra_pool_destroy(pool);
    return NULL;
}

TEST(pool, another_thread_may_end_it_with_all_that_lives_in_it) {
    AsthraPool *p = asthra_pool_create(NULL);
    pthread_t thread;
    CHECK(asthra_pool_alloc(p, 100) && asthra_pool_handle_alloc(p, 100).bits);
    CHECK(!pthread_create(&thread, NULL, end_pool, p));
    pthread_join(thread, NULL);
}

/* ---- handles ---- */

TEST(pool, a_handle_is_stale_after_its_free) {
    AsthraPool *p = asthra_pool_create(NULL);
    AsthraPoolHandle a = asthra_pool_handle_alloc(p, 10);
    asthra_pool_handle_free(p, a);
    AsthraPoolHandle b = asthra_pool_handle_alloc(p, 10);
    CHECK(a.bits != b.bits && asthra_pool_handle_get(p, b));
    CHECK(!asthra_pool_handle_get(p, a));
    CHECK_EQ(last_status(), ASTHRA_INVALID);
    asthra_pool_destroy(p);
}

TEST(pool, a_handle_of_another_pool_gets_nothing) {
    AsthraPool *p = asthra_pool_create(NULL), *q = asthra_pool_create(NULL);
    AsthraPoolHandle a = asthra_pool_handle_alloc(p, 10), b = asthra_pool_handle_alloc(q, 10);
    CHECK(a.bits != b.bits);
    CHECK(!asthra_pool_handle_get(q, a) && !asthra_pool_handle_get(p, b));
    asthra_pool_destroy(p);
    asthra_pool_destroy(q);
}

TEST(pool, an_object_pool_has_handles_that_stay) {
    AsthraPool *p = objects_of(32, 64);
    AsthraPoolHandle a = asthra_pool_handle_alloc(p, 32), b = asthra_pool_handle_alloc(p, 8);
    void *where = asthra_pool_handle_get(p, b);
    CHECK(a.bits && where && !asthra_pool_handle_alloc(p, 32).bits);
    CHECK_EQ(last_status(), ASTHRA_LIMIT);
    CHECK(!asthra_pool_handle_alloc(p, 33).bits);
    CHECK_EQ(last_status(), ASTHRA_INVALID);
    asthra_pool_handle_free(p, a);
    CHECK_EQ(asthra_pool_defragment(p), 0);
    CHECK(asthra_pool_handle_get(p, b) == where);
    asthra_pool_destroy(p);
}

TEST(pool, an_entry_whose_generations_are_used_up_is_left) {
    AsthraPool *p = asthra_pool_create(NULL);
    asthra_pool_handle_free(p, asthra_pool_handle_alloc(p, 1));
    p->handles[0].generation = ASTHRA__POOL_GENERATIONS - 1;
    AsthraPoolHandle last = asthra_pool_handle_alloc(p, 1);
    CHECK_EQ(last.bits & 0xffffff, 0);
    asthra_pool_handle_free(p, last);
    CHECK(!asthra_pool_handle_get(p, last));
    AsthraPoolHandle next = asthra_pool_handle_alloc(p, 1);
    CHECK_EQ(next.bits & 0xffffff, 1);
    asthra_pool_destroy(p);
}

TEST(pool, many_handles) {
    enum { MANY = 3000 };
    static AsthraPoolHandle handles[MANY];
    AsthraPool *p = asthra_pool_create(NULL);
    for (uint32_t i = 0; i < MANY; i++) {
        handles[i] = asthra_pool_handle_alloc(p, 20);
        fill(asthra_pool_handle_get(p, handles[i]), 20, i);
    }
    for (uint32_t i = 0; i < MANY; i++) {
        check_filled(asthra_pool_handle_get(p, handles[i]), 20, i);
        asthra_pool_handle_free(p, handles[i]);
    }
    CHECK_EQ(p->handle_count, MANY);
    asthra_pool_destroy(p);
}

/* ---- wrong calls ---- */

static int foreign;

TEST_PANICS(pool, free_of_a_foreign_pointer_panics, "'objects': it is in none of its chunks") {
    asthra_pool_free(objects_of(16, 0), &foreign);
}
TEST_PANICS(pool, free_of_a_block_of_another_pool_panics, "it is in none of its chunks") {
    AsthraPool *p = blocks_of(64, ASTHRA_POOL_FIRST_FIT);
    asthra_pool_free(p, asthra_pool_alloc(objects_of(16, 0), 16));
}
TEST_PANICS(pool, free_inside_a_block_panics, "it is 1008 bytes inside a live block of 3008 at ") {
    AsthraPool *p = asthra_pool_create(NULL);
    asthra_pool_alloc(p, 5000);
    asthra_pool_free(p, (char *)asthra_pool_alloc(p, 3000) + 1008);
}
TEST_PANICS(pool, free_one_byte_into_a_block_panics, "it is 1 bytes inside a live block of 16 ") {
    AsthraPool *p = asthra_pool_create(NULL);
    asthra_pool_free(p, (char *)asthra_pool_alloc(p, 3) + 1);
}
TEST_PANICS(pool, free_twice_panics,
            "is not the start of a live block of pool 'blocks': it is in "
            "free memory (4096 bytes at ") {
    AsthraPool *p = blocks_of(4096, ASTHRA_POOL_FIRST_FIT);
    void *block = asthra_pool_alloc(p, 100);
    asthra_pool_free(p, block);
    asthra_pool_free(p, block);
}
TEST_PANICS(pool, free_twice_panics_behind_a_merge, "Invalid pointer in pool_free: ") {
    AsthraPool *p = blocks_of(4096, ASTHRA_POOL_BEST_FIT);
    void *a = asthra_pool_alloc(p, 100), *b = asthra_pool_alloc(p, 100);
    asthra_pool_free(p, a);
    asthra_pool_free(p, b);
    asthra_pool_free(p, b);
}
TEST_PANICS(pool, free_of_the_last_granule_of_free_memory_panics, "it is in free memory") {
    AsthraPool *p = blocks_of(4096, ASTHRA_POOL_BEST_FIT);
    asthra_pool_free(p, (char *)asthra_pool_alloc(p, 16) + 4080);
}
TEST_PANICS(pool, free_twice_of_an_object_panics, "it is an object that was freed before") {
    AsthraPool *p = objects_of(16, 0);
    void *object = asthra_pool_alloc(p, 16);
    asthra_pool_free(p, object);
    asthra_pool_free(p, object);
}
TEST_PANICS(pool, free_inside_an_object_panics, "it is 16 bytes inside a live object at ") {
    AsthraPool *p = objects_of(48, 0);
    asthra_pool_free(p, (char *)asthra_pool_alloc(p, 48) + 16);
}
TEST_PANICS(pool, free_of_what_never_was_an_object_panics, "a place that was never handed out") {
    AsthraPool *p = objects_of(48, 0);
    asthra_pool_free(p, (char *)asthra_pool_alloc(p, 48) + 48);
}
TEST_PANICS(pool, free_of_a_handles_block_panics, "it is a handle's: use its handle") {
    AsthraPool *p = asthra_pool_create(NULL);
    asthra_pool_free(p, asthra_pool_handle_get(p, asthra_pool_handle_alloc(p, 10)));
}
TEST_PANICS(pool, free_of_a_handles_object_panics, "it is a handle's: use its handle") {
    AsthraPool *p = objects_of(48, 0);
    asthra_pool_free(p, asthra_pool_handle_get(p, asthra_pool_handle_alloc(p, 10)));
}
TEST_PANICS(pool, handle_free_twice_panics, "in pool 'unnamed' is stale: its block was freed") {
    AsthraPool *p = asthra_pool_create(NULL);
    AsthraPoolHandle h = asthra_pool_handle_alloc(p, 10);
    asthra_pool_handle_free(p, h);
    asthra_pool_handle_free(p, h);
}
TEST_PANICS(pool, handle_free_in_another_pool_panics, "is another pool's") {
    AsthraPool *p = asthra_pool_create(NULL), *q = asthra_pool_create(NULL);
    asthra_pool_handle_alloc(q, 10);
    asthra_pool_handle_free(q, asthra_pool_handle_alloc(p, 10));
}
TEST_PANICS(pool, handle_free_of_an_invented_handle_panics, "is none that any pool has given") {
    AsthraPoolHandle h = {77};
    asthra_pool_handle_free(asthra_pool_create(NULL), h);
}
TEST_PANICS(pool, alloc_without_a_pool_panics, "the pool is NULL") {
    asthra_pool_alloc(NULL, 1);
}
TEST_PANICS(pool, free_without_a_pool_panics, "asthra_pool_free: the pool is NULL") {
    asthra_pool_free(NULL, &foreign);
}
TEST_PANICS(pool, handle_alloc_without_a_pool_panics, "the pool is NULL") {
    asthra_pool_handle_alloc(NULL, 1);
}
TEST_PANICS(pool, handle_get_without_a_pool_panics, "the pool is NULL") {
    AsthraPoolHandle h = {1};
    asthra_pool_handle_get(NULL, h);
}
TEST_PANICS(pool, handle_free_without_a_pool_panics, "the pool is NULL") {
    AsthraPoolHandle h = {1};
    asthra_pool_handle_free(NULL, h);
}
TEST_PANICS(pool, defragment_without_a_pool_panics, "the pool is NULL") {
    asthra_pool_defragment(NULL);
}

static void *free_a_foreign_pointer(void *pool) {
    asthra_panic_set_policy(ASTHRA_PANIC_FAIL_TASK);
    asthra_pool_free(pool, &foreign);
    return NULL;
}

TEST(pool, a_wrong_free_leaves_the_pool_to_others) {
    AsthraPool *p = asthra_pool_create(NULL);
    AsthraTaskHandle task = asthra_spawn(free_a_foreign_pointer, p);
    CHECK_EQ(asthra_await_result(task, NULL).status, ASTHRA_PANICKED);
    void *block = asthra_pool_alloc(p, 10);
    CHECK(block != NULL);
    asthra_pool_free(p, block);
    asthra_pool_destroy(p);
}

/* ---- writes that are wrong ---- */

static void need_no_asan(void) {
    if (ASTHRA__ASAN) SKIP("AddressSanitizer sees the write itself");
}

TEST_PANICS(pool, a_write_to_a_freed_object_is_noticed, "Damaged free block ") {
    need_no_asan();
    AsthraPool *p = objects_of(32, 0);
    volatile char *object = asthra_pool_alloc(p, 32);
    asthra_pool_free(p, (void *)object);
    object[3] = 7;
    asthra_pool_alloc(p, 32);
}
TEST_PANICS(pool, an_overflow_into_a_free_object_is_noticed, "in pool 'objects': it was written") {
    need_no_asan();
    AsthraPool *p = objects_of(32, 0);
    volatile char *a = asthra_pool_alloc(p, 32);
    asthra_pool_free(p, asthra_pool_alloc(p, 32));
    a[32] = 7;
    asthra_pool_alloc(p, 32);
}
TEST_PANICS(pool, a_write_to_a_freed_block_is_noticed, "Damaged free block ") {
    need_no_asan();
    AsthraPool *p = blocks_of(4096, ASTHRA_POOL_FIRST_FIT);
    volatile char *block = asthra_pool_alloc(p, 32);
    asthra_pool_alloc(p, 16);
    asthra_pool_free(p, (void *)block);
    block[8] = 7;
    asthra_pool_alloc(p, 16);
}
TEST_PANICS(pool, an_overflow_into_a_free_block_is_noticed, "Damaged free block ") {
    need_no_asan();
    AsthraPool *p = blocks_of(4096, ASTHRA_POOL_BEST_FIT);
    volatile char *block = asthra_pool_alloc(p, 32);
    for (int i = 32; i < 64; i++) block[i] = (char)0xff;
    asthra_pool_alloc(p, 16);
}
TEST_PANICS(pool, a_damaged_end_of_a_free_block_is_noticed, "Damaged free block ") {
    need_no_asan();
    AsthraPool *p = blocks_of(4096, ASTHRA_POOL_WORST_FIT);
    volatile char *a = asthra_pool_alloc(p, 64);
    void *b = asthra_pool_alloc(p, 64);
    asthra_pool_free(p, (void *)a);
    for (int i = 16; i < 64; i++) a[i] = (char)0x41;
    asthra_pool_free(p, b);
}
/* What a single granule's node says must not lead out of the chunk. */
TEST_PANICS(pool, a_damaged_block_at_the_end_is_noticed, "Damaged free block ") {
    need_no_asan();
    AsthraPool *p = blocks_of(64, ASTHRA_POOL_FIRST_FIT);
    volatile char *a = asthra_pool_alloc(p, 48);
    memset((char *)a + 48, 0, 16);
    asthra_pool_alloc(p, 16);
}

static void need_asan(void) {
    if (!ASTHRA__ASAN) SKIP("for AddressSanitizer");
}
TEST_PANICS(pool, asan_is_told_of_free_objects, "use-after-poison") {
    need_asan();
    AsthraPool *p = objects_of(32, 0);
    volatile char *object = asthra_pool_alloc(p, 32);
    asthra_pool_free(p, (void *)object);
    object[20] = 7;
}
TEST_PANICS(pool, asan_is_told_of_free_blocks, "use-after-poison") {
    need_asan();
    AsthraPool *p = asthra_pool_create(NULL);
    volatile char *block = asthra_pool_alloc(p, 100);
    asthra_pool_free(p, (void *)block);
    block[99] = 7;
}
TEST_PANICS(pool, asan_is_told_of_the_end_of_a_block, "use-after-poison") {
    need_asan();
    volatile char *block = asthra_pool_alloc(asthra_pool_create(NULL), 100);
    block[100] = 7;
}
TEST_PANICS(pool, asan_is_told_of_the_end_of_a_moved_block, "use-after-poison") {
    need_asan();
    AsthraPool *p = asthra_pool_create(NULL);
    void *raw = asthra_pool_alloc(p, 32);
    AsthraPoolHandle h = asthra_pool_handle_alloc(p, 100);
    asthra_pool_free(p, raw);
    CHECK_EQ(asthra_pool_defragment(p), 100);
    volatile char *block = asthra_pool_handle_get(p, h);
    CHECK(block == raw);
    block[99] = 7;
    block[100] = 7;
}

/* ---- out of memory ---- */

typedef struct Budget {
    int live, left; /* left: requests that still succeed */
    bool is_short;
} Budget;

static void *budget_alloc(size_t bytes, void *user) {
    Budget *b = user;
    if (b->left == 0) {
        b->is_short = true;
        return NULL;
    }
    b->left--;
    b->live++;
    void *block = malloc(bytes);
    return block ? memset(block, 0xa5, bytes) : NULL;
}
static void *budget_realloc(void *block, size_t bytes, void *user) {
    (void)user;
    return realloc(block, bytes);
}
static void budget_free(void *block, void *user) {
    ((Budget *)user)->live--;
    free(block);
}

/* Uses a pool in every way; what it does not get it does without, and says why it did not. */
static void use_sparingly(AsthraPoolConfig config) {
    enum { COUNT = 60 };
    void *blocks[COUNT];
    AsthraPoolHandle handles[COUNT];
    AsthraPool *p = asthra_pool_create(&config);
    if (!p) {
        CHECK_EQ(last_status(), ASTHRA_OUT_OF_MEMORY);
        return;
    }
    size_t size = config.object_size ? config.object_size : 4000;
    for (uint32_t i = 0; i < COUNT; i++) {
        blocks[i] = asthra_pool_alloc(p, size);
        CHECK(blocks[i] || last_status() == ASTHRA_OUT_OF_MEMORY);
        if (blocks[i]) fill(blocks[i], size, i);
        handles[i] = asthra_pool_handle_alloc(p, size);
        CHECK(handles[i].bits || last_status() == ASTHRA_OUT_OF_MEMORY);
        if (handles[i].bits) fill(asthra_pool_handle_get(p, handles[i]), size, i + 100);
    }
    for (int i = 0; i < COUNT; i += 3) {
        asthra_pool_free(p, blocks[i]);
        asthra_pool_handle_free(p, handles[i]);
        blocks[i] = NULL;
        handles[i].bits = 0;
    }
    asthra_pool_defragment(p);
    for (uint32_t i = 0; i < COUNT; i++) {
        if (blocks[i]) check_filled(blocks[i], size, i);
        if (handles[i].bits) check_filled(asthra_pool_handle_get(p, handles[i]), size, i + 100);
        asthra_pool_free(p, blocks[i]);
        asthra_pool_handle_free(p, handles[i]);
    }
    asthra_pool_destroy(p);
}

static void fail_each(AsthraPoolConfig config) {
    bool is_short = true;
    for (int n = 0; is_short; n++) {
        Budget b = {0, 1, false}; /* for the record of the hook */
        AsthraAllocator hook = {budget_alloc, budget_realloc, budget_free, &b};
        CHECK(asthra__alloc_set_hook(&hook));
        b.left = n;
        use_sparingly(config);
        asthra__alloc_set_hook(NULL);
        is_short = b.is_short;
        CHECK(n < 200);
    }
}

TEST(pool, each_allocation_may_fail_and_all_stays_valid) {
    refused((AsthraPoolConfig){"x", 100, 99, 0, false}, ASTHRA_INVALID); /* makes the record */
    fail_each((AsthraPoolConfig){"blocks", 0, 0, ASTHRA_POOL_BEST_FIT, true});
    fail_each((AsthraPoolConfig){"blocks", 0, 0, ASTHRA_POOL_FIRST_FIT, false});
    fail_each((AsthraPoolConfig){"objects", 500, 0, ASTHRA_POOL_FIRST_FIT, false});
    fail_each((AsthraPoolConfig){"capacity", 0, 500000, ASTHRA_POOL_WORST_FIT, true});
    fail_each((AsthraPoolConfig){"capacity", 500, 60000, ASTHRA_POOL_FIRST_FIT, true});
}

static void *use_all(void *user) {
    Budget *b = user;
    AsthraPool *p = pool_with((AsthraPoolConfig){"growing", 0, 0, ASTHRA_POOL_BEST_FIT, true});
    AsthraPoolHandle handles[16]; /* as many as fit without a larger table */
    for (int i = 0; i < 16; i++) handles[i] = asthra_pool_handle_alloc(p, 4096);
    for (int i = 0; i < 16; i += 2) asthra_pool_handle_free(p, handles[i]);
    CHECK_EQ(p->chunk_count, 1);
    b->left = 0;
    CHECK(asthra_pool_alloc(p, 8192) != NULL); /* for want of memory, by moving */
    CHECK(b->is_short);
    CHECK(!asthra_pool_alloc(p, 65536));
    CHECK_EQ(last_status(), ASTHRA_OUT_OF_MEMORY);
    b->left = 100;
    asthra_pool_destroy(p);
    return NULL;
}

TEST(pool, a_growing_pool_moves_where_it_cannot_grow) {
    Budget b = {0, 100, false};
    AsthraAllocator hook = {budget_alloc, budget_realloc, budget_free, &b};
    refused((AsthraPoolConfig){"x", 100, 99, 0, false}, ASTHRA_INVALID);
    asthra__alloc_set_hook(&hook);
    use_all(&b);
    asthra__alloc_set_hook(NULL);
    CHECK_EQ(b.live, 0);
}

TEST(pool, all_memory_comes_back) {
    Budget b = {0, 1000, false};
    AsthraAllocator hook = {budget_alloc, budget_realloc, budget_free, &b};
    asthra__alloc_set_hook(&hook);
    use_sparingly((AsthraPoolConfig){"blocks", 0, 0, ASTHRA_POOL_BEST_FIT, true});
    use_sparingly((AsthraPoolConfig){"objects", 500, 0, ASTHRA_POOL_FIRST_FIT, false});
    asthra__alloc_set_hook(NULL);
    CHECK_EQ(b.live, 0);
}
