/* Nodes of memory: numa_aware, on a machine that says it has several. Private names. */
#include "test.h"

/* What the system would say, and what it was asked. */
static int sys_asked, sys_preferred;
static _Thread_local unsigned sys_node;
#include <sys/syscall.h>
static long counted_syscall(long number, ...);
#define syscall counted_syscall
#define ASTHRA_RT_IMPLEMENTATION
#define ASTHRA_RT_STATIC
#include "asthra_rt.h"
#undef syscall

/* It reads six arguments whatever it was given, as the C library's own does. */
__attribute__((no_sanitize_address)) TEST_MAYBE_UNUSED static long counted_syscall(long number,
                                                                                   ...) {
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_getcpu) {
        __atomic_add_fetch(&sys_asked, 1, __ATOMIC_RELAXED);
        *(unsigned *)a[1] = sys_node;
        return 0;
    }
    if (number == SYS_mbind) {
        __atomic_add_fetch(&sys_preferred, 1, __ATOMIC_RELAXED);
        if (*(unsigned long *)a[3] != 1ul << sys_node || a[2] != 1) abort(); /* MPOL_PREFERRED */
        errno = EPERM;                                                       /* as in a sandbox */
        return -1;
    }
    return syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

#if ASTHRA__SYS_LINUX
#define what_node asthra__os_node
#else /* a system that does not know of nodes: the heap is told all the same */
static unsigned what_node(void) {
    return sys_node;
}
#endif

static uintptr_t unit_of(const void *p) {
    return (uintptr_t)p / ASTHRA__REGION_BYTES;
}

static Asthra__Segment *segment_of(const void *p) {
    return (Asthra__Segment *)(unit_of(p) * ASTHRA__REGION_BYTES);
}

enum { TAKEN = 40 };

/* A thread of a node that takes blocks. One takes after the other, but all live until the last has
 * taken, so that each has a heap of its own. */
typedef struct Taker {
    unsigned node;
    pthread_t thread;
    pthread_barrier_t *has_taken, *all_have_taken;
    void *blocks[TAKEN];
} Taker;

static void *take(void *p) {
    Taker *t = p;
    sys_node = t->node;
    for (size_t i = 0; i < TAKEN; i++) t->blocks[i] = memset(asthra_manual_alloc(30000), 1, 30000);
    pthread_barrier_wait(t->has_taken);
    pthread_barrier_wait(t->all_have_taken);
    return NULL;
}

static void take_all(Taker *takers, unsigned count) {
    pthread_barrier_t one, all;
    CHECK(pthread_barrier_init(&one, NULL, 2) == 0);
    CHECK(pthread_barrier_init(&all, NULL, count + 1) == 0);
    for (unsigned i = 0; i < count; i++) {
        takers[i].has_taken = &one;
        takers[i].all_have_taken = &all;
        CHECK(pthread_create(&takers[i].thread, NULL, take, &takers[i]) == 0);
        pthread_barrier_wait(&one);
    }
    pthread_barrier_wait(&all);
    for (unsigned i = 0; i < count; i++) CHECK(pthread_join(takers[i].thread, NULL) == 0);
    pthread_barrier_destroy(&one);
    pthread_barrier_destroy(&all);
}

static void give_all(const Taker *takers, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        for (size_t n = 0; n < TAKEN; n++) asthra_manual_free(takers[i].blocks[n]);
}

/* Whether the two have blocks in one segment. */
static bool do_share(const Taker *a, const Taker *b) {
    for (size_t i = 0; i < TAKEN; i++)
        for (size_t n = 0; n < TAKEN; n++)
            if (unit_of(a->blocks[i]) == unit_of(b->blocks[n])) return true;
    return false;
}

static size_t bytes_mapped(void) {
    return asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).mapped;
}

TEST(nodes, threads_on_different_nodes_take_from_different_segments) {
    NEED_THREADS();
    Taker t[3] = {{.node = 0}, {.node = 3}, {.node = 11}};
    asthra__segment_set_nodes(what_node);
    take_all(t, 3);
    CHECK(!do_share(&t[0], &t[1]));
    CHECK(!do_share(&t[0], &t[2]));
    CHECK(do_share(&t[1], &t[2])); /* one ring for two nodes */
    for (size_t i = 0; i < TAKEN; i++) {
        CHECK_EQ(segment_of(t[0].blocks[i])->node, 0);
        CHECK_EQ(segment_of(t[1].blocks[i])->node % ASTHRA__SEGMENT_NODES, 3);
    }
    CHECK_EQ(sys_preferred, ASTHRA__SYS_LINUX ? 2 : 0);
    give_all(t, 3);
    asthra_memory_trim();
    CHECK_EQ(bytes_mapped(), 0);
}

TEST(nodes, all_segments_are_used_again_when_nodes_matter_no_longer) {
    NEED_THREADS();
    Taker first = {.node = 5}, second = {.node = 0};
    asthra__segment_set_nodes(what_node);
    take_all(&first, 1);
    give_all(&first, 1);
    asthra_memory_trim();
    asthra__segment_set_nodes(NULL);
    take_all(&second, 1);
    CHECK(do_share(&first, &second));
    give_all(&second, 1);
}

static bool gives_none;
static void *no_memory(size_t bytes, void *user) {
    (void)user;
    return gives_none ? NULL : malloc(bytes);
}
static void *no_more_memory(void *block, size_t bytes, void *user) {
    (void)user;
    return gives_none ? NULL : realloc(block, bytes);
}
static void give_up(void *block, void *user) {
    (void)user;
    free(block);
}

TEST(nodes, a_block_of_another_node_is_better_than_none) {
    AsthraAllocator a = {no_memory, no_more_memory, give_up, NULL};
    asthra__segment_set_nodes(what_node);
    sys_node = 2;
    char *first = asthra_manual_alloc(100);
    CHECK(asthra__alloc_set_hook(&a));
    gives_none = true;
    sys_node = 6;
    char *other = asthra_manual_alloc(100000);
    CHECK(other != NULL);
    CHECK_EQ(segment_of(other)->node, 2);
    asthra_manual_free(other);
    asthra_manual_free(first);
    asthra__alloc_set_hook(NULL);
}

TEST(nodes, memory_that_was_lent_has_a_node_and_keeps_its_policy) {
    AsthraAllocator a = {no_memory, no_more_memory, give_up, NULL};
    asthra__segment_set_nodes(what_node);
    sys_node = 7;
    CHECK(asthra__alloc_set_hook(&a));
    char *block = asthra_manual_alloc(100);
    CHECK(segment_of(block)->raw != NULL);
    CHECK_EQ(segment_of(block)->node, 7);
    CHECK_EQ(sys_preferred, 0);
    asthra_manual_free(block);
    asthra__alloc_set_hook(NULL);
    asthra_memory_trim();
    CHECK(!asthra__segment_is_lent());
}

TEST(nodes, without_numa_aware_or_with_one_node_the_system_is_not_asked) {
    for (int aware = 0; aware <= (asthra__os_nodes() == 1); aware++) {
        AsthraRuntimeConfig c = asthra_runtime_config_default();
        CHECK(!c.numa_aware);
        c.numa_aware = aware != 0;
        CHECK(asthra_runtime_init(&c));
        CHECK(asthra__load(&asthra__segments.node_now, relaxed) == NULL);
        for (size_t size = 1; size < 10000000; size *= 3)
            asthra_manual_free(asthra_manual_alloc(size));
        asthra_runtime_shutdown();
    }
    CHECK_EQ(sys_asked, 0);
    CHECK_EQ(sys_preferred, 0);
}

#if ASTHRA__SYS_LINUX
TEST(nodes, a_list_of_nodes_is_counted) {
    CHECK_EQ(asthra__os_list_count("0\n"), 1);
    CHECK_EQ(asthra__os_list_count("0-3\n"), 4);
    CHECK_EQ(asthra__os_list_count("0-1,4,6-7\n"), 5);
    CHECK_EQ(asthra__os_list_count(""), 0);
    CHECK_EQ(asthra__os_list_count("\n"), 0);
    CHECK_EQ(asthra__os_list_count("3-1"), 0);
    CHECK_EQ(asthra__os_list_count("0,99999999999999999999"), 1);
    CHECK(asthra__os_nodes() >= 1);
}

TEST(nodes, a_preference_that_the_system_will_not_hear_of_is_no_error) {
    char *page = asthra__os_map_aligned(asthra__os_page_size(), asthra__os_page_size());
    errno = 77;
    sys_node = 4;
    asthra__os_prefer_node(page, asthra__os_page_size(), 4);
    asthra__os_prefer_node(page, asthra__os_page_size(), 5000);
    CHECK_EQ(asthra__os_node(), 4);
    CHECK_EQ(errno, 77);
    CHECK_EQ(sys_preferred, 1);
    *page = 1;
}
#else
TEST(nodes, a_system_that_does_not_know_of_nodes_has_one) {
    sys_node = 4;
    CHECK_EQ(asthra__os_nodes(), 1);
    CHECK_EQ(asthra__os_node(), 0);
    CHECK_EQ(sys_asked, 0);
}
#endif
