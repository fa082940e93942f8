/* memory - the zones' items; the manual zone's also on malloc.   usage: memory ITEM WORKERS SIDE
 *
 *     lifo      a pair of alloc and free: 64 blocks, then freed from the newest to the oldest
 *     replace   of 100,000 blocks one at random is freed and replaced by one of another size
 *     larson    as many threads as workers, each replacing among 5,000 blocks; a thread ends after
 *               a while, and the next one goes on with the blocks that it leaves
 *     cross     one thread allocates, another frees, with a ring of 1,024 blocks between them
 *     churn     the most bytes that were resident for each of the most that were allocated: fills
 *               48 MiB, frees nine of ten blocks at random, fills up again with other sizes ...
 *     mapped    us of a block of 3 MiB that is written, then freed
 *     grow      ms of a block that realloc doubles from 4 KiB to 256 MiB, and of writing its pages
 *     stack_alloc, arena_alloc   32 bytes, 1,000 of them, then all released
 *     pinned_pair                a pair of asthra_pinned_alloc and _free
 *     pin_unpin                  pins of 1,000 blocks of the manual zone; then their unpins
 *
 * Sizes are drawn from 16 to 1,024 bytes, the first and the last byte of each block is written, all
 * blocks are looked at in the end, and ns are of one allocation with its free. So that other
 * programs disturb less, items of one thread take processor time; larson and cross take real time,
 * the median of 25 parts.
 *
 * The first seven run at ASTHRA_SAFETY_NONE, with _checked or _full behind the name at that level;
 * SIDE level0 runs them at ASTHRA_SAFETY_NONE all the same. The rest runs at the default level.
 * Compiled with BENCH_PEER=1 this has the seven alone, on the malloc that SIDE names.
 */
#if BENCH_PEER
#define _GNU_SOURCE
#include <dlfcn.h>
#else
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"
#endif

#include "bench.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum {
    LIFO_DEPTH = 64,
    LIFO_ROUNDS = 300000,
    REPLACE_BLOCKS = 100000,
    REPLACE_STEPS = 4000000,
    LARSON_BLOCKS = 5000, /* of each thread */
    LARSON_STEPS = 200000,
    LARSON_MOST = 64, /* workers */
    RING = 1024,
    CROSS_STEPS = 200000,
    PARTS = 25, /* of larson: threads, one after the other */
    CHURN_BYTES = 48 << 20,
    CHURN_BLOCKS = 2000000, /* at most: CHURN_BYTES of the smallest sizes */
    CHURN_ROUNDS = 9
};

#if BENCH_PEER
static void *get(size_t size) {
    return malloc(size);
}
static void put(void *block) {
    free(block);
}
/* The library may be there and not be the one that malloc comes from. */
static void *get_again(void *block, size_t size) {
    return realloc(block, size);
}
static void start(const char *item, const char *side) {
    Dl_info info;
    const char *part = strcmp(side, "glibc") == 0 ? "libc.so" : side;
    bench_require(dladdr(dlsym(RTLD_DEFAULT, "malloc"), &info) != 0, "dladdr");
    bench_require(strstr(info.dli_fname, part) != NULL, info.dli_fname);
    (void)item;
}
#else
static void *get(size_t size) {
    return asthra_manual_alloc(size);
}
static void put(void *block) {
    asthra_manual_free(block);
}
static void *get_again(void *block, size_t size) {
    return asthra_manual_realloc(block, size);
}
static AsthraSafetyLevel level_of(const char *item, const char *side) {
    if (strstr(item, "_alloc") || strncmp(item, "pin", 3) == 0) return ASTHRA_SAFETY_DEFAULT;
    if (strcmp(side, "level0") == 0) return ASTHRA_SAFETY_NONE;
    if (strstr(item, "_checked")) return ASTHRA_SAFETY_CHECKED;
    return strstr(item, "_full") ? ASTHRA_SAFETY_FULL : ASTHRA_SAFETY_NONE;
}
static void start(const char *item, const char *side) {
    AsthraRuntimeConfig config = asthra_runtime_config_default();
    config.worker_threads = 1; /* the main thread: no other one disturbs */
    config.memory_safety_level = level_of(item, side);
    bench_require(asthra_runtime_init(&config), asthra_result_message(asthra_last_error()));
}
#endif

/* ---- blocks of random sizes ---- */
typedef struct Block {
    char *start;
    size_t size;
} Block;

typedef struct Dice {
    uint64_t state;
} Dice;

static Dice dice_of(unsigned number) {
    return (Dice){88172645463325252u + number * UINT64_C(0x9e3779b97f4a7c15)};
}

static uint32_t draw(Dice *d, uint32_t below) {
    d->state ^= d->state << 13;
    d->state ^= d->state >> 7;
    d->state ^= d->state << 17;
    return (uint32_t)((d->state >> 32) * below >> 32);
}

static size_t draw_size(Dice *d) {
    return 16 + draw(d, 1024 - 16 + 1);
}

/* volatile: or writes to what is freed at once are left out */
static void touch(volatile char *block, size_t size) {
    bench_require(block != NULL, "out of memory");
    block[0] = block[size - 1] = (char)size;
}

static void take(Block *b, size_t size) {
    b->start = get(b->size = size);
    touch(b->start, size);
}

static void drop(Block *b) {
    put(b->start);
}

static void look(const Block *b) {
    bench_require(b->start[0] == (char)b->size && b->start[b->size - 1] == (char)b->size, "block");
}

static void drop_all(Block *blocks, size_t count) {
    for (size_t i = 0; i < count; i++) look(&blocks[i]);
    for (size_t i = 0; i < count; i++) drop(&blocks[i]);
}

static void replace(Block *blocks, uint32_t count, long steps, Dice *d) {
    for (long i = 0; i < steps; i++) {
        Block *b = &blocks[draw(d, count)];
        drop(b);
        take(b, draw_size(d));
    }
}

static void print_cpu_ns(double begin, double operations) {
    printf("%.2f\n", (bench_cpu() - begin) * 1e9 / operations);
}

/* The median of the PARTS that lie between the ends of one and the next. */
static void print_median_ns(const double *ends, double operations) {
    double parts[PARTS];
    for (int i = 0; i < PARTS; i++) {
        double part = ends[i + 1] - ends[i];
        int k = i;
        for (; k > 0 && parts[k - 1] > part; k--) parts[k] = parts[k - 1];
        parts[k] = part;
    }
    printf("%.2f\n", parts[PARTS / 2] * 1e9 / operations);
}

/* ---- one thread ---- */
static void lifo_rounds(long rounds) {
    Block blocks[LIFO_DEPTH];
    Dice d = dice_of(0);
    for (long i = 0; i < rounds; i++) {
        for (int k = 0; k < LIFO_DEPTH; k++) take(&blocks[k], draw_size(&d));
        for (int k = LIFO_DEPTH; k-- > 0;) drop(&blocks[k]);
    }
}

static void measure_lifo(int workers) {
    (void)workers;
    lifo_rounds(LIFO_ROUNDS / 10);
    double begin = bench_cpu();
    lifo_rounds(LIFO_ROUNDS);
    print_cpu_ns(begin, (double)LIFO_ROUNDS * LIFO_DEPTH);
}

static void measure_replace(int workers) {
    static Block blocks[REPLACE_BLOCKS];
    Dice d = dice_of(0);
    (void)workers;
    for (int i = 0; i < REPLACE_BLOCKS; i++) take(&blocks[i], draw_size(&d));
    replace(blocks, REPLACE_BLOCKS, REPLACE_STEPS / 10, &d);
    double begin = bench_cpu();
    replace(blocks, REPLACE_BLOCKS, REPLACE_STEPS, &d);
    print_cpu_ns(begin, REPLACE_STEPS);
    drop_all(blocks, REPLACE_BLOCKS);
}

/* ---- larson ---- */
typedef struct Line { /* of threads, one after the other */
    Block blocks[LARSON_BLOCKS];
    Dice dice;
} Line;

static void *larson_fill(void *args) {
    Line *l = args;
    for (int i = 0; i < LARSON_BLOCKS; i++) take(&l->blocks[i], draw_size(&l->dice));
    return NULL;
}
static void *larson_live(void *args) {
    Line *l = args;
    replace(l->blocks, LARSON_BLOCKS, LARSON_STEPS, &l->dice);
    return NULL;
}
static void *larson_end(void *args) {
    drop_all(((Line *)args)->blocks, LARSON_BLOCKS);
    return NULL;
}

static void each_line(Line *lines, int count, void *(*live)(void *)) {
    pthread_t threads[LARSON_MOST];
    for (int i = 0; i < count; i++)
        bench_require(!pthread_create(&threads[i], NULL, live, &lines[i]), "pthread_create");
    for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
}

/* All threads of a generation are waited for: who is ahead does not wait in the allocator. */
static void measure_larson(int workers) {
    static Line lines[LARSON_MOST];
    bench_require(workers >= 1 && workers <= LARSON_MOST, "workers");
    for (int i = 0; i < workers; i++) lines[i].dice = dice_of((unsigned)i);
    each_line(lines, workers, larson_fill);
    each_line(lines, workers, larson_live);
    double ends[PARTS + 1] = {bench_now()};
    for (int i = 1; i <= PARTS; i++) {
        each_line(lines, workers, larson_live);
        ends[i] = bench_now();
    }
    print_median_ns(ends, LARSON_STEPS);
    each_line(lines, workers, larson_end);
}

/* ---- from thread to thread ---- */
static struct {
    Block blocks[RING];
    _Alignas(128) atomic_long taken; /* by the sender, ever */
    _Alignas(128) atomic_long given; /* back by the receiver */
} ring;

/* Until `count` is more than `least`; the other thread may need this core. */
static long wait_until_more(atomic_long *count, long least) {
    long now = atomic_load_explicit(count, memory_order_acquire);
    for (int i = 1; now <= least; i++) {
        if (i % 64 == 0) sched_yield();
        now = atomic_load_explicit(count, memory_order_acquire);
    }
    return now;
}

static void *cross_free(void *unused) {
    long there = 0;
    (void)unused;
    for (long i = 0; i < (long)PARTS * CROSS_STEPS; i++) {
        if (i >= there) there = wait_until_more(&ring.taken, i);
        look(&ring.blocks[i % RING]);
        drop(&ring.blocks[i % RING]);
        atomic_store_explicit(&ring.given, i + 1, memory_order_release);
    }
    return NULL;
}

static void cross_alloc(double *ends) {
    long back = 0;
    Dice d = dice_of(0);
    for (long i = 0; i < (long)PARTS * CROSS_STEPS; i++) {
        if (i % CROSS_STEPS == 0) ends[i / CROSS_STEPS] = bench_now();
        if (i - back >= RING) back = wait_until_more(&ring.given, i - RING);
        take(&ring.blocks[i % RING], draw_size(&d));
        atomic_store_explicit(&ring.taken, i + 1, memory_order_release);
    }
}

static void measure_cross(int workers) {
    pthread_t other;
    double ends[PARTS + 1];
    (void)workers;
    bench_require(!pthread_create(&other, NULL, cross_free, NULL), "pthread_create");
    cross_alloc(ends);
    pthread_join(other, NULL);
    ends[PARTS] = bench_now();
    print_median_ns(ends, CROSS_STEPS);
}

/* ---- the churn ---- */
static Block churn[CHURN_BLOCKS];
static size_t churn_count, churn_live, churn_most;

/* The most that was ever resident; the kernel counts in whole pages. */
static double peak_resident(void) {
    char line[256];
    unsigned long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    bench_require(f != NULL, "no /proc");
    while (fgets(line, sizeof line, f) && sscanf(line, "VmHWM: %lu", &kib) != 1) {
    }
    fclose(f);
    return (double)kib * 1024;
}

/* Each round has sizes of its own, up to four times the smallest of them; the first comes again. */
static void churn_fill(int round, Dice *d) {
    static const size_t least[] = {16, 256, 64, 1024, 32, 2048, 128, 512};
    size_t from = least[(size_t)round % (sizeof least / sizeof *least)];
    while (churn_live < CHURN_BYTES) {
        bench_require(churn_count < CHURN_BLOCKS, "too many blocks");
        Block *b = &churn[churn_count++];
        take(b, from + draw(d, (uint32_t)from * 3));
        memset(b->start, (int)(b->size & 0xff), b->size); /* resident */
        churn_live += b->size;
    }
    if (churn_live > churn_most) churn_most = churn_live;
}

static void churn_free(Dice *d) {
    size_t kept = 0;
    for (size_t i = 0; i < churn_count; i++) {
        look(&churn[i]);
        if (draw(d, 10) == 0) {
            churn[kept++] = churn[i];
        } else {
            churn_live -= churn[i].size;
            drop(&churn[i]);
        }
    }
    churn_count = kept;
}

static void measure_churn(int workers) {
    Dice d = dice_of(0);
    (void)workers;
    memset(churn, 1, sizeof churn); /* resident before */
    double before = peak_resident();
    for (int round = 0; round < CHURN_ROUNDS; round++) {
        churn_free(&d);
        churn_fill(round, &d);
    }
    printf("%.3f\n", (peak_resident() - before) / (double)churn_most);
    drop_all(churn, churn_count);
}

/* ---- blocks of megabytes ---- */

enum { MAPPED_BYTES = 3 << 20, MAPPED_ROUNDS = 300, GROW_BYTES = 256 << 20 };

static void measure_mapped(int workers) {
    double begin = bench_cpu();
    (void)workers;
    for (int i = 0; i < MAPPED_ROUNDS; i++) {
        char *block = get(MAPPED_BYTES);
        bench_require(block != NULL, "no memory");
        memset(block, i, MAPPED_BYTES);
        __asm__ volatile("" : : "r"(block) : "memory");
        put(block);
    }
    printf("%.2f\n", (bench_cpu() - begin) * 1e6 / MAPPED_ROUNDS);
}

static void measure_grow(int workers) {
    char *block = NULL;
    double begin = bench_cpu();
    (void)workers;
    for (size_t size = 4096; size <= GROW_BYTES; size *= 2) {
        block = get_again(block, size);
        bench_require(block != NULL, "no memory");
        for (size_t at = size == 4096 ? 0 : size / 2; at < size; at += 4096)
            block[at] = (char)(at >> 12);
    }
    double took = bench_cpu() - begin;
    for (size_t at = 0; at < GROW_BYTES; at += 4096)
        bench_require(block[at] == (char)(at >> 12), "lost");
    put(block);
    printf("%.2f\n", took * 1e3);
}

#if !BENCH_PEER
/* ---- the other zones ---- */
enum {
    SCOPES = 20000,
    IN_SCOPE = 1000,
    SMALL = 32,
    PAIRS = 10000000,
    PINS = 1000,
    PIN_ROUNDS = 3000
};

static void stack_scopes(int count) {
    for (int i = 0; i < count; i++) {
        AsthraStackMark mark = asthra_stack_mark();
        for (int k = 0; k < IN_SCOPE; k++) touch(asthra_stack_alloc(SMALL), SMALL);
        asthra_stack_release(&mark);
    }
}

static void measure_stack(int workers) {
    (void)workers;
    stack_scopes(10);
    double begin = bench_cpu();
    stack_scopes(SCOPES);
    print_cpu_ns(begin, (double)SCOPES * IN_SCOPE);
}

static void arena_scopes(AsthraArena *a, int count) {
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < IN_SCOPE; k++) touch(asthra_arena_alloc(a, SMALL), SMALL);
        asthra_arena_reset(a);
    }
}

static void measure_arena(int workers) {
    AsthraArena a;
    (void)workers;
    asthra_arena_init_growing(&a, 0, NULL);
    arena_scopes(&a, 10);
    double begin = bench_cpu();
    arena_scopes(&a, SCOPES);
    print_cpu_ns(begin, (double)SCOPES * IN_SCOPE);
    asthra_arena_destroy(&a);
}

static void measure_pinned(int workers) {
    Dice d = dice_of(0);
    (void)workers;
    double begin = bench_cpu();
    for (long i = 0; i < PAIRS; i++) {
        size_t size = draw_size(&d);
        void *block = asthra_pinned_alloc(size);
        touch(block, size);
        asthra_pinned_free(block);
    }
    print_cpu_ns(begin, PAIRS);
}

static void measure_pins(int workers) {
    Block blocks[PINS];
    Dice d = dice_of(0);
    double pin = 0, unpin = 0;
    (void)workers;
    for (int k = 0; k < PINS; k++) take(&blocks[k], draw_size(&d));
    for (int i = 0; i < PIN_ROUNDS; i++) {
        double begin = bench_cpu();
        for (int k = 0; k < PINS; k++)
            bench_require(asthra_pin_memory(blocks[k].start, blocks[k].size), "pin");
        double between = bench_cpu();
        for (int k = 0; k < PINS; k++) bench_require(asthra_unpin_memory(blocks[k].start), "unpin");
        unpin += bench_cpu() - between;
        pin += between - begin;
    }
    printf("%.2f %.2f\n", pin * 1e9 / PINS / PIN_ROUNDS, unpin * 1e9 / PINS / PIN_ROUNDS);
    drop_all(blocks, PINS);
}
#endif

typedef struct Item {
    const char *name; /* and those with a level behind it */
    void (*measure)(int workers);
} Item;

static const Item items[] = {
    {"lifo", measure_lifo},         {"replace", measure_replace},   {"larson", measure_larson},
    {"cross", measure_cross},       {"churn", measure_churn},       {"mapped", measure_mapped},
    {"grow", measure_grow},
#if !BENCH_PEER
    {"stack_alloc", measure_stack}, {"arena_alloc", measure_arena}, {"pinned_pair", measure_pinned},
    {"pin_unpin", measure_pins},
#endif
};

int main(int argc, char **argv) {
    const char *item = argc > 1 ? argv[1] : "";
    for (size_t i = 0; i < sizeof items / sizeof *items; i++) {
        if (strncmp(items[i].name, item, strlen(items[i].name)) != 0) continue;
        start(item, argc > 3 ? argv[3] : "");
        items[i].measure(argc > 2 ? atoi(argv[2]) : 1);
        return 0;
    }
    return bench_unknown(item);
}
