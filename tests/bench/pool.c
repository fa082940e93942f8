/* pool - the pool's items, each also on malloc.        usage: pool ITEM WORKERS ours|malloc
 *
 *     pool_object               ns of a pair of alloc and free of 64 bytes, the last freed again
 *     pool_first, _best, _worst a churn of mixed sizes: ns of an alloc or free, then the most
 *                               bytes that were resident for each of the most that were allocated
 *
 * The churn replaces one of 20,000 blocks at a time by one of another size, from 16 bytes to 8 KiB,
 * small ones more often. Each of its phases likes other sizes than the one before, so that holes
 * are left that fit badly; and in its course a third of the blocks goes and comes again.
 */
#define ASTHRA_RT_ONLY
#define ASTHRA_RT_WITH_POOL
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"

#include "bench.h"

enum {
    PAIRS = 20000000,
    BLOCKS = 20000,
    PHASES = 12,
    STEPS = 100000,    /* of each phase */
    SAMPLE_EVERY = 500 /* steps */
};

static AsthraPool *pool; /* NULL: malloc */

static void *get(size_t size) {
    void *block = pool ? asthra_pool_alloc(pool, size) : malloc(size);
    bench_require(block != NULL, "out of memory");
    return block;
}
static void put(void *block) {
    if (pool)
        asthra_pool_free(pool, block);
    else
        free(block);
}

static void open_pool(size_t object_size, AsthraPoolStrategy strategy, int is_ours) {
    AsthraPoolConfig config = {"bench", object_size, 0, strategy, false};
    if (is_ours) bench_require((pool = asthra_pool_create(&config)) != NULL, "asthra_pool_create");
}

static void measure_pairs(void) {
    void *volatile block; /* or the pair of malloc is left out */
    double start = bench_now();
    for (long i = 0; i < PAIRS; i++) {
        block = get(64);
        put(block);
    }
    bench_print_ns(start, PAIRS);
}

/* ---- the churn ---- */
typedef struct Block {
    char *start;
    size_t size;
} Block;

static Block blocks[BLOCKS];
static size_t live, most_live; /* bytes */
static double seconds, most_resident;
static uint64_t state = 88172645463325252u;

static uint32_t draw(uint32_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state >> 32) * below >> 32);
}

/* A power of two from 16 to 4096, those that the phase likes more often, and up to as much more. */
static size_t draw_size(int phase) {
    uint32_t most = draw(3) ? 9 : 4, power = draw(most);
    size_t unit = (size_t)16 << (power + (uint32_t)phase * 2) % 9;
    if (unit > 256 && draw(4)) unit >>= 4;
    return unit + draw((uint32_t)unit);
}

static void drop(Block *b) {
    if (!b->start) return;
    bench_require(b->start[0] == (char)b->size && b->start[b->size - 1] == (char)b->size, "block");
    put(b->start);
    live -= b->size;
    b->start = NULL;
}

static void take(Block *b, size_t size) {
    b->start = get(b->size = size);
    memset(b->start, (int)(size & 0xff), size); /* resident */
    live += size;
    if (live > most_live) most_live = live;
}

static void run_phase(int phase) {
    double start = bench_now();
    for (long i = 1; i <= STEPS; i++) {
        Block *b = &blocks[draw(i > STEPS / 2 ? BLOCKS : BLOCKS / 3 * 2)];
        drop(b);
        take(b, draw_size(phase));
        if (i % SAMPLE_EVERY) continue;
        seconds += bench_now() - start;
        double resident = bench_resident();
        if (resident > most_resident) most_resident = resident;
        start = bench_now();
    }
    seconds += bench_now() - start;
    for (int k = 0; k < BLOCKS / 3; k++) drop(&blocks[draw(BLOCKS)]);
}

static void measure_churn(AsthraPoolStrategy strategy, int is_ours) {
    memset(blocks, 0, sizeof blocks);
    bench_resident(); /* stdio's own buffers */
    double before = bench_resident();
    open_pool(0, strategy, is_ours);
    for (int phase = 0; phase < PHASES; phase++) run_phase(phase);
    printf("%.2f %.3f\n", seconds * 1e9 / (2.0 * PHASES * STEPS),
           (most_resident - before) / (double)most_live);
}

int main(int argc, char **argv) {
    const char *item = argc > 1 ? argv[1] : "";
    int is_ours = argc < 4 || strcmp(argv[3], "malloc") != 0;
    if (strcmp(item, "pool_object") == 0) {
        open_pool(64, ASTHRA_POOL_FIRST_FIT, is_ours);
        measure_pairs();
    } else if (strcmp(item, "pool_first") == 0) {
        measure_churn(ASTHRA_POOL_FIRST_FIT, is_ours);
    } else if (strcmp(item, "pool_best") == 0) {
        measure_churn(ASTHRA_POOL_BEST_FIT, is_ours);
    } else if (strcmp(item, "pool_worst") == 0) {
        measure_churn(ASTHRA_POOL_WORST_FIT, is_ours);
    } else {
        return bench_unknown(item);
    }
    return 0;
}
