/* The configuration's allocator: the whole runtime lives on it, and gives all of it back. */
#include "test.h"
#include "asthra_rt.h"

#include <stdatomic.h>

enum { KIB = 1024, MIB = 1024 * 1024, TASKS = 6 };

/* ---- an allocator that counts, checks and poisons ---- */

typedef struct Given Given;
struct Given { /* in front of each block, which keeps it aligned */
    _Alignas(max_align_t) uint64_t magic;
    size_t size;
    Given *next, **link;
};
#define GIVEN_MAGIC UINT64_C(0x9f3c17ad5be24086)

typedef struct Checker {
    pthread_mutex_t lock;
    Given *given;           /* blocks that are out */
    size_t live, calls;     /* of them; calls that could fail */
    size_t fails_at;        /* the number of the one that does; 0: none */
    bool is_light;          /* poisons only the first 64 KiB of a block, where time counts */
    bool is_short, is_dry;  /* it has failed; all fail */
    const char *low, *high; /* of all addresses that were ever given */
} Checker;

static void check_given(Checker *k, Given *g) {
    Given *found = k->given;
    while (found != NULL && found != g) found = found->next;
    if (found == NULL) test_fail(__FILE__, __LINE__, "%p was not given, or twice taken", (void *)g);
    CHECK(g->magic == GIVEN_MAGIC);
}

static size_t poisoned(const Checker *k, size_t size) {
    return k->is_light && size > 64 * KIB ? 64 * KIB : size;
}

static void *checker_give(Checker *k, size_t size) {
    Given *g = NULL;
    CHECK(size != 0);
    k->calls++;
    if (k->is_dry || k->calls == k->fails_at)
        k->is_short = true;
    else
        g = malloc(sizeof *g + size);
    if (g == NULL) return NULL;
    *g = (Given){GIVEN_MAGIC, size, k->given, &k->given};
    if (g->next != NULL) g->next->link = &g->next;
    k->given = g;
    k->live++;
    char *block = memset(g + 1, 0xa7, poisoned(k, size));
    if (k->low == NULL || block < k->low) k->low = block;
    if (block + size > k->high) k->high = block + size;
    return block;
}

static void checker_take(Checker *k, void *block) {
    Given *g = (Given *)block - 1;
    check_given(k, g);
    *g->link = g->next;
    if (g->next != NULL) g->next->link = g->link;
    k->live--;
    memset(g, 0x5e, sizeof *g + poisoned(k, g->size));
    free(g);
}

static void *checker_alloc(size_t size, void *user) {
    Checker *k = user;
    pthread_mutex_lock(&k->lock);
    void *block = checker_give(k, size);
    pthread_mutex_unlock(&k->lock);
    errno = ENOMEM;
    return block;
}
static void checker_free(void *block, void *user) {
    Checker *k = user;
    pthread_mutex_lock(&k->lock);
    checker_take(k, block);
    pthread_mutex_unlock(&k->lock);
    errno = ENOENT;
}
/* Always moves. */
static void *checker_realloc(void *block, size_t size, void *user) {
    Checker *k = user;
    CHECK(block != NULL);
    pthread_mutex_lock(&k->lock);
    size_t old = ((Given *)block - 1)->size;
    check_given(k, (Given *)block - 1);
    void *moved = checker_give(k, size);
    if (moved != NULL) {
        memcpy(moved, block, old < size ? old : size);
        checker_take(k, block);
    }
    pthread_mutex_unlock(&k->lock);
    return moved;
}

/* Whether an address is in a block that is out. */
static bool is_given(Checker *k, const void *address) {
    bool found = false;
    pthread_mutex_lock(&k->lock);
    for (Given *g = k->given; g != NULL && !found; g = g->next)
        found = (uintptr_t)address - (uintptr_t)(g + 1) < g->size;
    pthread_mutex_unlock(&k->lock);
    return found;
}

#define CHECKER \
    { .lock = PTHREAD_MUTEX_INITIALIZER }
static AsthraAllocator allocator_of(Checker *k) {
    AsthraAllocator a = {checker_alloc, checker_realloc, checker_free, k};
    return a;
}

static AsthraRuntimeConfig config_with(AsthraAllocator a) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = 2;
    c.allocator = a;
    return c;
}
static void start_with(Checker *k) {
    AsthraRuntimeConfig c = config_with(allocator_of(k));
    CHECK(asthra_runtime_init(&c));
}

/* ---- a program that uses everything, and does without what it does not get ---- */

static bool got(const void *p) {
    if (p == NULL) CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
    return p != NULL;
}

static void fill(void *block, size_t size) {
    if (got(block)) memset(block, 0x31, size);
}

static void use_zones(void) {
    void *blocks[12] = {NULL};
    for (size_t i = 0; i < 6; i++)
        fill(blocks[i] = asthra_manual_alloc(40u << 2 * i), 40u << 2 * i);
    fill(blocks[6] = asthra_manual_alloc(3 * MIB), 300 * KIB);
    fill(blocks[7] = asthra_manual_alloc_aligned(100, 8 * MIB), 100);
    CHECK((uintptr_t)blocks[7] % (8 * MIB) == 0);
    fill(blocks[8] = asthra_pinned_alloc(5000), 5000);
    fill(blocks[9] = asthra_alloc_array(10, 10, ASTHRA_MEMORY_ZONE_PINNED), 100);
    blocks[10] = asthra_manual_realloc(NULL, 100);
    void *larger = asthra_manual_realloc(blocks[10], 100000);
    if (got(larger)) blocks[10] = larger;
    for (size_t i = 0; i < 12; i++) {
        if (i == 8 || i == 9)
            asthra_pinned_free(blocks[i]);
        else
            asthra_manual_free(blocks[i]);
    }
    ASTHRA_STACK_SCOPE(scope) {
        for (size_t i = 1; i < 40; i++) fill(asthra_stack_alloc(i * 100), i * 100);
    }
}

static void use_pool(void) {
    AsthraPoolConfig config = {"pool", 0, 0, ASTHRA_POOL_BEST_FIT, true};
    AsthraPool *p = asthra_pool_create(&config);
    AsthraArena arena;
    asthra_arena_init_growing(&arena, 0, NULL);
    fill(asthra_arena_alloc(&arena, 1000), 1000);
    fill(asthra_arena_alloc(&arena, 100000), 100000);
    asthra_arena_destroy(&arena);
    if (!got(p)) return;
    fill(asthra_pool_alloc(p, 1000), 1000);
    AsthraPoolHandle h = asthra_pool_handle_alloc(p, 100000);
    if (h.bits != 0) fill(asthra_pool_handle_get(p, h), 100000);
    asthra_pool_destroy(p);
}

typedef struct Job {
    AsthraChannel *channel;
    int number;
    char room[200];
} Job;

static void *run_job(void *p) {
    Job *job = p;
    fill(asthra_stack_alloc(20000), 20000);
    use_zones();
    asthra_sleep_ns(1000);
    if (job->channel != NULL) asthra_channel_send(job->channel, &job->number);
    return NULL;
}

static void use_select(AsthraChannel *c) {
    int number = 0;
    AsthraSelectBuilder *b = asthra_select_builder_create();
    if (!got(b)) return;
    for (int i = 0; i < 20; i++) asthra_select_builder_add_receive(b, c, &number);
    asthra_select_builder_set_timeout(b, 100000);
    asthra_select_execute(b);
    asthra_select_builder_destroy(b);
}

static void use_tasks(void) {
    AsthraTaskHandle tasks[TASKS];
    AsthraChannel *c = asthra_channel_create(sizeof(int), 20, "numbers");
    if (got(c)) use_select(c);
    for (int i = 0; i < TASKS; i++) {
        Job job = {c, i, {0}};
        tasks[i] = asthra_spawn_copy(run_job, &job, sizeof job);
        if (tasks[i].bits == 0) CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
    }
    for (int i = 0; i < TASKS; i++)
        if (tasks[i].bits != 0) asthra_await(tasks[i]);
    if (c != NULL) asthra_channel_destroy(c);
}

static void use_all(void) {
    use_zones();
    use_pool();
    use_tasks();
    fill(asthra_stack_alloc(100), 100); /* outside a scope: the main thread's region stays open */
}

static void use_and_stop(void) {
    ASTHRA_STACK_SCOPE(scope) {
        use_all();
    }
    asthra_runtime_shutdown();
}

TEST(allocator, the_whole_runtime_lives_on_it_and_gives_all_back) {
    Checker k = CHECKER;
    start_with(&k);
    CHECK(k.live > 0);
    use_and_stop();
    CHECK_EQ(k.live, 0);
    CHECK(!k.is_short && k.calls > 20);
}

TEST(allocator, every_level_and_the_seeded_mode_give_all_back) {
    for (int level = ASTHRA_SAFETY_NONE; level <= ASTHRA_SAFETY_FULL; level++) {
        for (uint64_t seed = 0; seed < 2; seed++) {
            Checker k = CHECKER;
            AsthraRuntimeConfig c = config_with(allocator_of(&k));
            c.memory_safety_level = (AsthraSafetyLevel)level;
            c.deterministic_seed = seed;
            CHECK(asthra_runtime_init(&c));
            use_and_stop();
            CHECK_EQ(k.live, 0);
        }
    }
}

/* Either it does not start, and says why, or all works but what the call was for. */
TEST_WITHIN(60, allocator, whichever_call_fails_nothing_leaks_and_the_rest_works) {
    bool is_short = true;
    size_t refused = 0, n = 1;
    for (; is_short; n++) {
        Checker k = CHECKER;
        k.fails_at = n;
        k.is_light = true;
        AsthraRuntimeConfig c = config_with(allocator_of(&k));
        if (asthra_runtime_init(&c)) {
            use_and_stop();
        } else {
            CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
            CHECK(!asthra_runtime_is_running());
            refused++;
        }
        CHECK_EQ(k.live, 0);
        is_short = k.is_short;
    }
    CHECK(refused > 1 && n > 20 + refused);
}

TEST(allocator, when_it_runs_dry_what_is_left_can_be_used_and_given_back) {
    Checker k = CHECKER;
    start_with(&k);
    use_tasks(); /* the workers and their heaps are there */
    char *kept = asthra_manual_alloc(100);
    k.is_dry = true;
    strcpy(kept, "kept");
    use_all();
    CHECK(asthra_manual_alloc(5 * MIB) == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
    CHECK(asthra_channel_create(4, 4, NULL) == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
    CHECK_STR(kept, "kept");
    k.is_dry = false;
    use_zones();
    asthra_manual_free(kept);
    asthra_runtime_shutdown();
    asthra_memory_trim(); /* the main thread's own region has a block */
    CHECK(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).current == 0);
}

TEST(allocator, one_that_gives_nothing_does_not_start) {
    Checker k = CHECKER;
    k.is_dry = true;
    AsthraRuntimeConfig c = config_with(allocator_of(&k));
    CHECK(!asthra_runtime_init(&c));
    CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
    CHECK(strstr(asthra_result_message(asthra_last_error()), "allocator") != NULL);
    CHECK(asthra_runtime_init(NULL));
    use_and_stop();
    CHECK_EQ(k.calls, 1);
}

TEST(allocator, half_of_one_is_refused_and_named) {
    Checker k = CHECKER;
    AsthraRuntimeConfig c = config_with(allocator_of(&k));
    c.allocator.free = NULL;
    CHECK(!asthra_runtime_init(&c));
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
    CHECK_STR(asthra_result_message(asthra_last_error()),
              "allocator has alloc, but its free is NULL");
    c = config_with(allocator_of(&k));
    c.allocator.realloc = NULL;
    CHECK(!asthra_runtime_init(&c));
    CHECK_STR(asthra_result_message(asthra_last_error()),
              "allocator has alloc, but its realloc is NULL");
    CHECK_EQ(k.calls, 0);
    c.allocator.alloc = NULL; /* ours, whatever else it says */
    CHECK(asthra_runtime_init(&c));
    use_and_stop();
    CHECK_EQ(k.calls, 0);
}

TEST(allocator, an_init_that_is_refused_leaves_the_running_ones_allocator) {
    Checker k = CHECKER, other = CHECKER;
    start_with(&k);
    AsthraRuntimeConfig c = config_with(allocator_of(&other));
    CHECK(!asthra_runtime_init(&c));
    CHECK(strstr(asthra_result_message(asthra_last_error()), "already running") != NULL);
    size_t calls = k.calls;
    AsthraChannel *channel = asthra_channel_create(4, 4, NULL);
    CHECK(is_given(&k, channel) && k.calls > calls);
    asthra_channel_destroy(channel);
    use_and_stop();
    CHECK_EQ(k.live, 0);
    CHECK_EQ(other.calls, 0);
}

/* ---- what comes from where ---- */

TEST(allocator, fresh_blocks_of_every_zone_lie_in_its_memory) {
    Checker k = CHECKER;
    start_with(&k);
    size_t sizes[] = {1, 100, 10000, 100000, 1 * MIB, 5 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *block = asthra_manual_alloc(sizes[i]);
        CHECK(is_given(&k, block) && is_given(&k, block + sizes[i] - 1));
        CHECK_EQ(asthra_memory_zone_of(block), ASTHRA_MEMORY_ZONE_MANUAL);
        CHECK_EQ(asthra_manual_usable_size(block), sizes[i]);
        asthra_manual_free(block);
        block = asthra_pinned_alloc(sizes[i]);
        CHECK(is_given(&k, block) && is_given(&k, block + sizes[i] - 1));
        asthra_pinned_free(block);
        ASTHRA_STACK_SCOPE(scope) {
            block = asthra_stack_alloc(sizes[i]);
            CHECK(is_given(&k, block) && is_given(&k, block + sizes[i] - 1));
        }
    }
    asthra_runtime_shutdown();
    CHECK_EQ(k.live, 0);
}

TEST(allocator, huge_blocks_go_back_when_they_are_freed) {
    Checker k = CHECKER;
    start_with(&k);
    asthra_manual_free(asthra_manual_alloc(10));
    size_t live = k.live;
    void *a = asthra_manual_alloc(5 * MIB), *b = asthra_manual_alloc_aligned(10, 16 * MIB);
    CHECK_EQ(k.live, live + 2);
    asthra_manual_free(a);
    CHECK_EQ(k.live, live + 1);
    CHECK_EQ(asthra_memory_zone_of(a), ASTHRA_MEMORY_ZONE_NONE);
    CHECK_EQ(asthra_memory_zone_of(b), ASTHRA_MEMORY_ZONE_MANUAL);
    asthra_manual_free(b);
    CHECK_EQ(k.live, live);
}

TEST_PANICS(allocator, a_second_free_of_a_huge_block_is_still_known_as_one, "freed before") {
    static Checker k = CHECKER;
    start_with(&k);
    void *block = asthra_manual_alloc(5 * MIB);
    asthra_manual_free(block);
    asthra_manual_free(block);
}

TEST(allocator, what_is_asked_for_as_zero_is_zero) {
    Checker k = CHECKER;
    start_with(&k);
    size_t sizes[] = {100, 10000, 100000, 1 * MIB, 5 * MIB};
    for (size_t i = 0; i < 2 * sizeof sizes / sizeof *sizes; i++) {
        size_t size = sizes[i / 2];
        unsigned char *block = asthra_manual_alloc_zeroed(1, size);
        for (size_t at = 0; at < size; at++)
            if (block[at] != 0) test_fail(__FILE__, __LINE__, "byte %zu of %zu", at, size);
        memset(block, 0xff, size);
        asthra_manual_free(block);
    }
}

TEST(allocator, sizes_that_cannot_be_are_refused_without_asking_it) {
    Checker k = CHECKER;
    start_with(&k);
    size_t calls = k.calls;
    CHECK(asthra_manual_alloc(SIZE_MAX - 100) == NULL);
    CHECK(asthra_manual_alloc_aligned(100, SIZE_MAX / 2 + 1) == NULL);
    CHECK(asthra_manual_alloc_aligned(SIZE_MAX / 2 - 100000, SIZE_MAX / 2 + 1) == NULL);
    CHECK_EQ(k.calls, calls);
}

TEST(allocator, statistics_count_its_memory_as_that_of_the_zones) {
    Checker k = CHECKER;
    start_with(&k);
    char *block = asthra_manual_alloc(3 * MIB);
    memset(block, 1, 3 * MIB);
    AsthraMemoryStatistics s = asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL);
    CHECK(s.current == 3 * MIB && s.mapped >= 3 * MIB);
    CHECK(s.resident >= 3 * MIB / 2 && s.resident <= s.mapped);
    asthra_manual_free(block);
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).current, 0);
}

/* ---- what outlives a runtime ---- */

typedef struct Things {
    AsthraChannel *channel;
    AsthraPool *pool;
    AsthraArena arena;
    char *small, *large, *huge;
    int number;
} Things;

static void make_things(Things *t, int number) {
    AsthraPoolConfig config = {"things", 64, 0, ASTHRA_POOL_FIRST_FIT, false};
    t->number = number;
    t->channel = NULL; /* making one starts a runtime */
    if (asthra_runtime_is_running()) t->channel = asthra_channel_create(sizeof(int), 4, "things");
    t->pool = asthra_pool_create(&config);
    asthra_arena_init_growing(&t->arena, 0, NULL);
    CHECK(asthra_arena_alloc(&t->arena, 1000) != NULL && asthra_pool_alloc(t->pool, 64) != NULL);
    t->small = memset(asthra_manual_alloc(100), number, 100);
    t->large = memset(asthra_manual_alloc(100000), number, 100000);
    t->huge = memset(asthra_manual_alloc(3 * MIB), number, 3 * MIB);
}

static void end_things(Things *t) {
    int number = t->number;
    CHECK(t->small[99] == number && t->large[99999] == number);
    CHECK(t->huge[3 * MIB - 1] == number);
    for (int i = 0; i < 1000; i++) CHECK(asthra_pool_alloc(t->pool, 64) != NULL);
    CHECK(asthra_arena_alloc(&t->arena, 1000000) != NULL);
    if (t->channel != NULL) asthra_channel_destroy(t->channel);
    asthra_pool_destroy(t->pool);
    asthra_arena_destroy(&t->arena);
    t->small = asthra_manual_realloc(t->small, 10000);
    CHECK_EQ(t->small[99], number);
    asthra_manual_free(t->small);
    asthra_manual_free(t->large);
    asthra_manual_free(t->huge);
}

TEST(allocator, what_began_before_or_lives_on_goes_back_to_where_it_came_from) {
    Checker first = CHECKER, second = CHECKER;
    Things before, during, between, later;
    make_things(&before, 1);
    start_with(&first);
    make_things(&during, 2);
    asthra_runtime_shutdown();
    size_t calls = first.calls;
    CHECK(first.live > 0);
    make_things(&between, 3);
    CHECK_EQ(first.calls, calls);
    start_with(&second);
    make_things(&later, 4);
    end_things(&before);
    end_things(&during);
    CHECK_EQ(first.calls, calls);
    asthra_runtime_shutdown();
    CHECK_EQ(first.live, 0); /* the second's shutdown gave back what the first had left */
    end_things(&later);
    end_things(&between);
    CHECK(!asthra_runtime_is_running());
    asthra_memory_trim();
    CHECK_EQ(second.live, 0);
}

TEST(allocator, a_live_block_keeps_its_memory_until_it_is_freed_and_trimmed) {
    Checker k = CHECKER;
    start_with(&k);
    char *block = asthra_manual_alloc(100);
    strcpy(block, "word");
    use_and_stop();
    CHECK(k.live > 0 && is_given(&k, block));
    asthra_memory_trim();
    CHECK(is_given(&k, block));
    CHECK_STR(block, "word");
    asthra_manual_free(block);
    CHECK(asthra_memory_trim() > 0);
    CHECK_EQ(k.live, 0);
    CHECK_EQ(asthra_memory_zone_of(block), ASTHRA_MEMORY_ZONE_NONE);
}

static bool free_and_trim(void *block, size_t size, void *user) {
    CHECK(size == 100 && *(void **)user == block);
    asthra_manual_free(block);
    asthra_memory_trim();
    *(void **)user = NULL;
    return true;
}

TEST(allocator, a_walk_may_free_the_last_block_of_its_memory_and_trim) {
    Checker k = CHECKER;
    start_with(&k);
    void *block = asthra_manual_alloc(100);
    asthra_runtime_shutdown();
    asthra_manual_walk(free_and_trim, &block);
    CHECK(block == NULL);
    asthra_memory_trim();
    CHECK_EQ(k.live, 0);
}

TEST(allocator, while_it_serves_trim_keeps_its_memory) {
    Checker k = CHECKER;
    start_with(&k);
    use_zones();
    size_t live = k.live;
    asthra_memory_trim();
    CHECK_EQ(k.live, live);
}

TEST(allocator, after_shutdown_fresh_memory_is_the_systems_again) {
    Checker k = CHECKER;
    start_with(&k);
    use_and_stop();
    size_t calls = k.calls;
    use_zones();
    use_pool();
    start_with(&k);
    CHECK(k.calls > calls);
    asthra_runtime_shutdown();
    calls = k.calls;
    CHECK(asthra_runtime_init(NULL));
    use_and_stop();
    CHECK_EQ(k.calls, calls);
    CHECK_EQ(k.live, 0);
}

TEST(allocator, a_forked_child_takes_nothing_from_it_and_may_give_back) {
    NEED_THREADS();
    Checker k = CHECKER;
    start_with(&k);
    char *block = asthra_manual_alloc(5 * MIB);
    AsthraChannel *channel = asthra_channel_create(4, 4, NULL);
    size_t calls = k.calls, live = k.live;
    int status;
    pid_t child = fork();
    if (child == 0) {
        asthra_channel_destroy(channel);
        asthra_manual_free(block);
        CHECK_EQ(k.live, live - 2);
        use_pool();
        asthra_manual_free(asthra_manual_alloc(5 * MIB));
        CHECK_EQ(k.calls, calls);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
    asthra_channel_destroy(channel);
    asthra_manual_free(block);
    asthra_runtime_shutdown();
    CHECK_EQ(k.live, 0);
}

/* ---- threads of the host ---- */

typedef struct Host {
    atomic_int done, rounds;
} Host;

static bool count_block(void *block, size_t size, void *user) {
    (void)block, (void)size;
    ++*(size_t *)user;
    return true;
}

static void *run_host(void *user) {
    Host *host = user;
    for (int i = 0; !atomic_load(&host->done); i++) {
        size_t count = 0;
        use_zones();
        if (i % 8 == 0) asthra_manual_walk(count_block, &count);
        if (i % 8 == 4) asthra_memory_statistics_all();
        atomic_fetch_add(&host->rounds, 1);
    }
    return NULL;
}

TEST_WITHIN(60, allocator, threads_of_the_host_go_on_while_runtimes_come_and_go) {
    NEED_THREADS();
    Checker k = CHECKER;
    k.is_light = true;
    Host host = {0, 0};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, run_host, &host) == 0);
    for (int i = 0; i < 10; i++) {
        AsthraRuntimeConfig c = config_with(allocator_of(&k));
        c.memory_safety_level = (AsthraSafetyLevel)(1 + i % 3);
        CHECK(asthra_runtime_init(&c));
        use_tasks();
        while (atomic_load(&host.rounds) < 4 * i) sched_yield();
        asthra_runtime_shutdown();
    }
    atomic_store(&host.done, 1);
    for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    asthra_memory_trim();
    CHECK_EQ(k.live, 0);
}

/* ---- one on a static buffer ---- */

typedef struct Piece {         /* of the buffer: 16 bytes in front of each block */
    _Alignas(16) size_t bytes; /* with this head; odd: in use */
} Piece;

enum { BUFFER_BYTES = 64 * MIB };
static struct {
    pthread_mutex_t lock;
    _Alignas(16) char memory[BUFFER_BYTES];
} buffer = {.lock = PTHREAD_MUTEX_INITIALIZER};

static Piece *piece_at(size_t offset) {
    return (Piece *)(void *)(buffer.memory + offset);
}

/* First fit; free neighbours are joined on the way. */
static void *buffer_take(size_t size) {
    size_t need = (size + sizeof(Piece) + 15) / 16 * 16;
    if (piece_at(0)->bytes == 0) piece_at(0)->bytes = BUFFER_BYTES;
    for (size_t at = 0; at < BUFFER_BYTES; at += piece_at(at)->bytes & ~(size_t)1) {
        Piece *p = piece_at(at);
        if (p->bytes & 1) continue;
        while (at + p->bytes < BUFFER_BYTES && !(piece_at(at + p->bytes)->bytes & 1))
            p->bytes += piece_at(at + p->bytes)->bytes;
        if (p->bytes < need) continue;
        if (p->bytes > need) piece_at(at + need)->bytes = p->bytes - need;
        p->bytes = need | 1;
        return p + 1;
    }
    return NULL;
}

static void *buffer_alloc(size_t size, void *user) {
    (void)user;
    pthread_mutex_lock(&buffer.lock);
    void *block = buffer_take(size);
    pthread_mutex_unlock(&buffer.lock);
    return block;
}
static void buffer_free(void *block, void *user) {
    Piece *p = (Piece *)block - 1;
    (void)user;
    pthread_mutex_lock(&buffer.lock);
    CHECK((p->bytes & 1) && (char *)p >= buffer.memory && (char *)p < buffer.memory + BUFFER_BYTES);
    p->bytes--;
    pthread_mutex_unlock(&buffer.lock);
}
static void *buffer_realloc(void *block, size_t size, void *user) {
    size_t old = ((Piece *)block - 1)->bytes - 1 - sizeof(Piece);
    void *moved = buffer_alloc(size, user);
    if (moved == NULL) return NULL;
    memcpy(moved, block, old < size ? old : size);
    buffer_free(block, user);
    return moved;
}
static bool is_in_buffer(const void *p) {
    return (const char *)p >= buffer.memory && (const char *)p < buffer.memory + BUFFER_BYTES;
}

TEST(allocator, a_static_buffer_is_enough_and_comes_back_whole) {
    AsthraAllocator a = {buffer_alloc, buffer_realloc, buffer_free, NULL};
    AsthraRuntimeConfig c = config_with(a);
    CHECK(asthra_runtime_init(&c));
    use_tasks();
    void *blocks[100];
    size_t count = 0;
    while (count < 100 && (blocks[count] = asthra_manual_alloc(1 * MIB)) != NULL) {
        CHECK(is_in_buffer(blocks[count]));
        memset(blocks[count++], 7, 1 * MIB);
    }
    CHECK(count > 10 && count < 64);
    CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
    use_tasks();
    while (count > 0) asthra_manual_free(blocks[--count]);
    use_and_stop();
    CHECK(buffer_alloc(BUFFER_BYTES - sizeof(Piece), NULL) != NULL);
    CHECK(!is_in_buffer(asthra_manual_alloc(100)));
}
