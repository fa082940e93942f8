/* The promises of src/runtime/module.h, with tasks and without. */
#include "test.h"
#include "asthra_rt.h"

#include <stdatomic.h>

#if ASTHRA_HAS_TASK
#define PAUSE() asthra_yield()
#else
#define PAUSE() (void)sched_yield()
#endif
#include <sched.h>

#define NEEDS(...) ((const AsthraModule *const[]){__VA_ARGS__, NULL})

/* ---- what is called is written down, one letter each: a small one its init, a capital its fini */

static char calls[64];
static atomic_int called;

static void note(int letter) {
    int at = atomic_fetch_add(&called, 1);
    if (at < (int)sizeof calls - 1) calls[at] = (char)letter;
}
static void forget(void) {
    memset(calls, 0, sizeof calls);
    atomic_store(&called, 0);
}
static AsthraResult begin(const AsthraModule *m) {
    note(m->name[0]);
    return asthra_result_ok(NULL);
}
static void end(const AsthraModule *m) {
    note(m->name[0] - 'a' + 'A');
}

static const AsthraModule a = {"a", "1.0", NULL, NULL, begin, end};
static const AsthraModule b = {"b", "1.0", NULL, NEEDS(&a), begin, end};
static const AsthraModule c = {"c", "1.0", NULL, NEEDS(&a), begin, end};
static const AsthraModule d = {"d", "1.0", NULL, NEEDS(&b, &c, &b), begin, end};

static void fails(AsthraResult r, AsthraStatus status, const char *words) {
    CHECK_EQ(r.status, status);
    if (!strstr(asthra_result_message(r), words))
        test_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"", asthra_result_message(r),
                  words);
}
static void registers(const AsthraModule *m) {
    AsthraResult r = asthra_module_register(m);
    if (r.status) test_fail(__FILE__, __LINE__, "%s: %s", m->name, asthra_result_message(r));
}

/* ---- order ---- */

TEST(module, needs_are_initialised_first_and_undone_last) {
    registers(&d);
    CHECK_STR(calls, "abcd");
    asthra_runtime_shutdown();
    CHECK_STR(calls, "abcdDCBA");
}

TEST(module, each_is_initialised_once) {
    registers(&b);
    registers(&b);
    registers(&d);
    registers(&a);
    CHECK_STR(calls, "abcd");
    asthra_runtime_shutdown();
    CHECK_STR(calls, "abcdDCBA");
}

TEST(module, they_are_undone_in_reverse_of_the_order_in_which_they_were_initialised) {
    registers(&c);
    registers(&d);
    asthra_runtime_shutdown();
    CHECK_STR(calls, "acbdDBCA");
}

TEST(module, another_start_registers_them_anew) {
    for (int round = 0; round < 3; round++) {
        forget();
        if (round == 2) CHECK(asthra_runtime_init(NULL));
        registers(&b);
        CHECK_STR(calls, "ab");
        asthra_runtime_shutdown();
        CHECK_STR(calls, "abBA");
        asthra_runtime_shutdown();
        CHECK_STR(calls, "abBA");
    }
}

static const AsthraModule bare = {.name = "bare"};
static const AsthraModule bare_user = {"u", NULL, NULL, NEEDS(&bare), begin, NULL};

TEST(module, one_without_functions_is_a_module) {
    registers(&bare_user);
    registers(&bare);
    CHECK_STR(calls, "u");
    asthra_runtime_shutdown();
    CHECK_STR(calls, "u");
}

/* ---- what is refused ---- */

static const AsthraModule nameless = {.version = "1"}, nameless_empty = {.name = ""};
static const AsthraModule nameless_user = {"user", NULL, NULL, NEEDS(&a, &nameless), begin, end};

TEST(module, null_and_nameless_ones_are_refused) {
    fails(asthra_module_register(NULL), ASTHRA_INVALID, "NULL");
    fails(asthra_module_register(&nameless), ASTHRA_INVALID, "no name");
    fails(asthra_module_register(&nameless_empty), ASTHRA_INVALID, "no name");
    fails(asthra_module_register(&nameless_user), ASTHRA_INVALID,
          "'user' needs one that has no name");
    CHECK_STR(calls, "");
}

static const AsthraModule other = {"a", "2.0", NULL, NULL, begin, end};
static const AsthraModule unnumbered = {"a", NULL, NULL, NULL, begin, end};
static const AsthraModule both = {"both", NULL, NULL, NEEDS(&b, &other), begin, end};

TEST(module, two_of_one_name_are_refused_and_their_versions_told) {
    fails(asthra_module_register(&both), ASTHRA_INVALID,
          "'a': version 1.0, which came first, and version 2.0");
    CHECK_STR(calls, ""); /* found before anything was done */
    registers(&other);
    fails(asthra_module_register(&b), ASTHRA_INVALID,
          "'a': version 2.0, which came first, and version 1.0");
    fails(asthra_module_register(&unnumbered), ASTHRA_INVALID, "version without a number");
    registers(&other);
    CHECK_STR(calls, "a");
    asthra_runtime_shutdown();
    registers(&b); /* the name is free again */
    CHECK_STR(calls, "aAab");
}

static const AsthraModule ring_q, ring_r;
static const AsthraModule ring_p = {"p", NULL, NULL, NEEDS(&a, &ring_q), begin, end};
static const AsthraModule ring_q = {"q", NULL, NULL, NEEDS(&ring_r), begin, end};
static const AsthraModule ring_r = {"r", NULL, NULL, NEEDS(&a, &ring_p), begin, end};
#define RING "in a cycle: p needs q needs r needs p"

static const AsthraModule self = {"self", NULL, NULL, NEEDS(&self), begin, end};
static const AsthraModule z = {"z", NULL, NULL, NEEDS(&a, &ring_r), begin, end};

TEST(module, a_cycle_is_named_the_same_from_everywhere_and_nothing_is_done) {
    fails(asthra_module_register(&ring_p), ASTHRA_INVALID, RING);
    fails(asthra_module_register(&ring_q), ASTHRA_INVALID, RING);
    fails(asthra_module_register(&ring_r), ASTHRA_INVALID, RING);
    fails(asthra_module_register(&z), ASTHRA_INVALID, RING);
    fails(asthra_module_register(&self), ASTHRA_INVALID, "in a cycle: self needs self");
    CHECK_STR(calls, "");
}

/* ---- many ---- */

enum { MOST = 10000 };
static AsthraModule many[MOST];
static const AsthraModule *many_needs[MOST][2], *all_of_many[MOST + 1];
static char many_names[MOST][16];
static int how_many, next_of_many; /* the first, or all of them; in a chain: the last one first */

static AsthraResult begin_many(const AsthraModule *m) {
    CHECK_EQ(m - many, how_many - 1 - next_of_many);
    next_of_many++;
    return asthra_result_ok(NULL);
}
static void end_many(const AsthraModule *m) {
    next_of_many--;
    CHECK_EQ(m - many, how_many - 1 - next_of_many);
}
static void make_many(const AsthraModule *(*need)(int i),
                      AsthraResult (*init)(const AsthraModule *),
                      void (*fini)(const AsthraModule *)) {
    how_many = MOST / (int)test_thrift();
    for (int i = 0; i < how_many; i++) {
        snprintf(many_names[i], sizeof many_names[i], "m%d", i);
        many_needs[i][0] = need(i);
        many[i] = (AsthraModule){many_names[i], NULL, NULL, many_needs[i], init, fini};
        all_of_many[i] = &many[i];
    }
}
static const AsthraModule *the_next_one(int i) {
    return i + 1 < how_many ? &many[i + 1] : NULL;
}
static const AsthraModule *always_a(int i) {
    (void)i;
    return &a;
}
static void *register_first_of_many(void *unused) {
    registers(&many[0]);
    CHECK_EQ(next_of_many, how_many);
    return unused;
}

/* On a stack of a task, or of a small thread, where a frame for each would not fit. */
TEST(module, a_chain_of_ten_thousand) {
    make_many(the_next_one, begin_many, end_many);
#if ASTHRA_HAS_TASK
    asthra_await(asthra_spawn(register_first_of_many, NULL));
#else
    pthread_t thread;
    pthread_attr_t small;
    CHECK(!pthread_attr_init(&small) && !pthread_attr_setstacksize(&small, 128 * 1024));
    CHECK(!pthread_create(&thread, &small, register_first_of_many, NULL));
    pthread_join(thread, NULL);
#endif
    register_first_of_many(NULL);
    asthra_runtime_shutdown();
    CHECK_EQ(next_of_many, 0);
}

TEST(module, a_cycle_of_ten_thousand_is_named_in_short) {
    make_many(the_next_one, begin_many, end_many);
    many_needs[how_many - 1][0] = &many[0];
    AsthraResult r = asthra_module_register(&many[how_many / 2]);
    fails(r, ASTHRA_INVALID, "in a cycle: m0 needs m1 needs m2 needs");
    fails(r, ASTHRA_INVALID, "more, the last of which needs m0");
    CHECK_EQ(next_of_many, 0);
}

static const AsthraModule top = {"top", NULL, NULL, all_of_many, begin, NULL};

TEST(module, one_that_needs_ten_thousand) {
    make_many(always_a, NULL, NULL);
    registers(&top);
    CHECK_STR(calls, "at");
    for (int i = 0; i < how_many; i++) registers(&many[i]);
    asthra_runtime_shutdown();
    CHECK_STR(calls, "atA");
}

/* ---- failure ---- */

static atomic_int may_begin;

static AsthraResult begin_if_allowed(const AsthraModule *m) {
    note(m->name[0]);
    if (atomic_load(&may_begin)) return asthra_result_ok(NULL);
    AsthraResult r = asthra_result_errorf(ASTHRA_LIMIT, "no %s %d", "disk", 7);
    r.detail = 28;
    return r;
}

static const AsthraModule frail = {"f", NULL, NULL, NEEDS(&b), begin_if_allowed, end};
static const AsthraModule frail_user = {"u", NULL, NULL, NEEDS(&frail), begin, end};

TEST(module, an_init_that_fails_leaves_its_needs_and_may_be_tried_again) {
    for (int i = 0; i < 3; i++) {
        AsthraResult r = asthra_module_register(&frail_user);
        fails(r, ASTHRA_LIMIT, "init of module 'f', needed by 'u': no disk 7");
        CHECK_EQ(r.detail, 28);
        fails(asthra_last_error(), ASTHRA_LIMIT, "no disk 7");
    }
    fails(asthra_module_register(&frail), ASTHRA_LIMIT, "init of module 'f': no disk 7");
    CHECK_STR(calls, "abffff");
    atomic_store(&may_begin, 1);
    registers(&frail_user);
    CHECK_STR(calls, "abfffffu");
    asthra_runtime_shutdown();
    CHECK_STR(calls, "abfffffuUFBA");
}

static const AsthraModule shy = {"f", "1", NULL, NULL, begin_if_allowed, end};
static const AsthraModule bold = {"f", "2", NULL, NULL, begin, end};

TEST(module, the_name_of_one_that_failed_is_free) {
    CHECK_EQ(asthra_module_register(&shy).status, ASTHRA_LIMIT);
    registers(&bold);
    fails(asthra_module_register(&shy), ASTHRA_INVALID, "version 2, which came first");
    asthra_runtime_shutdown();
    CHECK_STR(calls, "ffF");
}

/* Everything that is asked of the allocator fails once. */
static struct { int live, asked, fails_at; } memory;

static void *take(size_t bytes, void *user) {
    (void)user;
    if (++memory.asked == memory.fails_at) return NULL;
    memory.live++;
    return malloc(bytes);
}
static void *take_more(void *block, size_t bytes, void *user) {
    (void)user;
    if (++memory.asked == memory.fails_at) return NULL;
    if (block == NULL) memory.live++;
    return realloc(block, bytes);
}
static void give(void *block, void *user) {
    (void)user;
    if (block != NULL) memory.live--;
    free(block);
}

TEST(module, out_of_memory_is_a_result_that_leaves_everything_as_it_was) {
    AsthraRuntimeConfig config = asthra_runtime_config_default();
    config.allocator = (AsthraAllocator){take, take_more, give, NULL};
    int failures = 0;
    for (int n = 1;; n++) {
        forget();
        memory.live = memory.asked = memory.fails_at = 0;
        CHECK(asthra_runtime_init(&config));
        memory.fails_at = memory.asked + n;
        AsthraResult r = asthra_module_register(&d);
        if (r.status) {
            CHECK_EQ(r.status, ASTHRA_OUT_OF_MEMORY);
            CHECK_STR(calls, "");
            failures++;
            registers(&d);
        }
        bool is_through = memory.asked < memory.fails_at;
        CHECK_STR(calls, "abcd");
        asthra_runtime_shutdown();
        CHECK_STR(calls, "abcdDCBA");
        CHECK_EQ(memory.live, 0);
        if (is_through) break;
    }
    CHECK_EQ(failures, 4);
}

TEST(module, failing_again_and_again_takes_no_more_memory) {
    AsthraRuntimeConfig config = asthra_runtime_config_default();
    config.allocator = (AsthraAllocator){take, take_more, give, NULL};
    memory.fails_at = 0;
    CHECK(asthra_runtime_init(&config));
    CHECK_EQ(asthra_module_register(&frail_user).status, ASTHRA_LIMIT);
    int live = memory.live;
    for (int i = 0; i < 50; i++) CHECK_EQ(asthra_module_register(&frail_user).status, ASTHRA_LIMIT);
    CHECK_EQ(memory.live, live);
    asthra_runtime_shutdown();
    CHECK_EQ(memory.live, 0);
}

/* ---- inits that register ---- */

static AsthraResult begin_with_d(const AsthraModule *m) {
    AsthraResult r = asthra_module_register(&d);
    note(m->name[0]);
    return r;
}

static const AsthraModule host = {"h", NULL, NULL, NEEDS(&c), begin_with_d, end};

TEST(module, an_init_registers_further_ones) {
    registers(&host);
    CHECK_STR(calls, "acbdh");
    asthra_runtime_shutdown();
    CHECK_STR(calls, "acbdhHDBCA");
}

static const AsthraModule loop_y;
static AsthraResult begin_with_loop_y(const AsthraModule *m) {
    AsthraResult r = asthra_module_register(&loop_y);
    note(r.status ? '!' : m->name[0]);
    return r;
}
static const AsthraModule loop_x = {"x", NULL, NULL, NULL, begin_with_loop_y, end};
static const AsthraModule loop_w = {"w", NULL, NULL, NEEDS(&loop_x), begin, end};
static const AsthraModule loop_y = {"y", NULL, NULL, NEEDS(&a, &loop_w), begin, end};

TEST(module, a_cycle_through_an_init_is_named) {
    fails(asthra_module_register(&loop_x), ASTHRA_INVALID,
          "init of module 'x': modules need each other in a cycle: w needs x needs y needs w");
    CHECK_STR(calls, "a!");
    fails(asthra_module_register(&loop_y), ASTHRA_INVALID, "in a cycle: w needs x needs y needs w");
    CHECK_STR(calls, "a!!");
    asthra_runtime_shutdown();
    CHECK_STR(calls, "a!!A");
}

static AsthraResult begin_with_itself(const AsthraModule *m) {
    fails(asthra_module_register(m), ASTHRA_INVALID, "in a cycle: i needs i");
    return begin(m);
}

static const AsthraModule itself = {"i", NULL, NULL, NULL, begin_with_itself, end};

TEST(module, an_init_that_does_not_mind_the_cycle_goes_on) {
    registers(&itself);
    CHECK_STR(calls, "i");
}

/* ---- shutdown ---- */

static void end_stubbornly(const AsthraModule *m) {
    fails(asthra_module_register(&a), ASTHRA_INVALID, "shuts down");
    fails(asthra_module_register(m), ASTHRA_INVALID, "shuts down");
    asthra_runtime_shutdown();
    end(m);
}

static const AsthraModule stubborn = {"s", NULL, NULL, NEEDS(&a), begin, end_stubbornly};

TEST(module, a_fini_neither_registers_nor_shuts_down) {
    registers(&stubborn);
    asthra_runtime_shutdown();
    CHECK_STR(calls, "asSA");
    CHECK(!asthra_runtime_is_running());
    registers(&stubborn);
}

static AsthraResult begin_by_ending(const AsthraModule *m) {
    asthra_runtime_shutdown();
    return begin(m);
}

static const AsthraModule ending = {"e", NULL, NULL, NULL, begin_by_ending, end};

TEST_PANICS(module, an_init_that_shuts_down_panics, "called in the init of module 'e'") {
    asthra_module_register(&ending);
}

/* ---- at once ---- */

static atomic_int gate, arrived;

static AsthraResult begin_slowly(const AsthraModule *m) {
    atomic_fetch_add(&arrived, 1);
    while (!atomic_load(&gate)) PAUSE();
    return begin_if_allowed(m);
}
static const AsthraModule slow = {"s", NULL, NULL, NEEDS(&a), begin_slowly, end};
static const AsthraModule slow_user = {"t", NULL, NULL, NEEDS(&slow), begin, end};

static void *register_slow(void *unused) {
    registers(&slow_user);
    CHECK(strchr(calls, 't') != NULL); /* not before it is done */
    return unused;
}
static void *fail_slowly(void *unused) {
    fails(asthra_module_register(&slow), ASTHRA_LIMIT, "init of module 's': no disk 7");
    return unused;
}
static void until_arrived(int count) {
    while (atomic_load(&arrived) < count) PAUSE();
}

static void register_on_threads(void *(*registration)(void *)) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) CHECK(!pthread_create(&threads[i], NULL, registration, NULL));
    until_arrived(1);
    atomic_store(&gate, 1);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
}

TEST(module, threads_that_register_one_at_once_wait_for_its_init) {
    atomic_store(&may_begin, 1);
    register_on_threads(register_slow);
    CHECK_STR(calls, "ast");
}

/* Those that come when one has failed try again themselves, and fail too. */
TEST(module, threads_that_wait_for_an_init_are_told_how_it_failed) {
    register_on_threads(fail_slowly);
    CHECK(strncmp(calls, "as", 2) == 0 && strspn(calls + 1, "s") == strlen(calls + 1));
    atomic_store(&may_begin, 1);
    registers(&slow);
}

static void *register_ring(void *of) {
    for (int i = 0; i < 200; i++) fails(asthra_module_register(of), ASTHRA_INVALID, RING);
    return NULL;
}

TEST(module, a_cycle_that_two_threads_come_to_from_two_ends_stops_neither) {
    pthread_t threads[2];
    CHECK(!pthread_create(&threads[0], NULL, register_ring, (void *)(uintptr_t)&ring_p));
    CHECK(!pthread_create(&threads[1], NULL, register_ring, (void *)(uintptr_t)&ring_r));
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    CHECK_STR(calls, "");
}

/* The init of each registers the other when both have begun. */
static const AsthraModule cross_k;
static AsthraResult begin_across(const AsthraModule *m);
static const AsthraModule cross_j = {"j", NULL, NULL, NULL, begin_across, end};
static const AsthraModule cross_l = {"l", NULL, NULL, NEEDS(&cross_j), begin, end};
static const AsthraModule cross_k = {"k", NULL, NULL, NULL, begin_across, end};
#define CROSS_RING "in a cycle: j needs k needs l needs j"

static AsthraResult begin_across(const AsthraModule *m) {
    atomic_fetch_add(&arrived, 1);
    until_arrived(2);
    AsthraResult r = asthra_module_register(m == &cross_j ? &cross_k : &cross_l);
    if (r.status) note('!');
    return r;
}
static void *register_across(void *module) {
    fails(asthra_module_register(module), ASTHRA_INVALID, CROSS_RING);
    return NULL;
}

/* One of them finds the ring, and the other fails with it. */
TEST(module, a_cycle_through_inits_on_two_threads_stops_neither) {
    pthread_t threads[2];
    CHECK(!pthread_create(&threads[0], NULL, register_across, (void *)(uintptr_t)&cross_j));
    CHECK(!pthread_create(&threads[1], NULL, register_across, (void *)(uintptr_t)&cross_k));
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    CHECK_STR(calls, "!!");
}

/* As before, but the one init runs within another. */
static const AsthraModule nest_k;
static AsthraResult begin_nest_n(const AsthraModule *m) {
    (void)m;
    atomic_fetch_add(&arrived, 1);
    until_arrived(2);
    return asthra_module_register(&nest_k);
}
static const AsthraModule nest_n = {"n", NULL, NULL, NULL, begin_nest_n, end};
static AsthraResult begin_nest_j(const AsthraModule *m) {
    (void)m;
    return asthra_module_register(&nest_n);
}
static const AsthraModule nest_j = {"j", NULL, NULL, NULL, begin_nest_j, end};
static AsthraResult begin_nest_k(const AsthraModule *m) {
    (void)m;
    atomic_fetch_add(&arrived, 1);
    until_arrived(2);
    return asthra_module_register(&nest_j);
}
static const AsthraModule nest_k = {"k", NULL, NULL, NULL, begin_nest_k, end};

static void *register_nest(void *module) {
    fails(asthra_module_register(module), ASTHRA_INVALID, "in a cycle: j needs n needs k needs j");
    return NULL;
}

TEST(module, a_cycle_through_an_init_within_an_init_stops_neither) {
    pthread_t threads[2];
    CHECK(!pthread_create(&threads[0], NULL, register_nest, (void *)(uintptr_t)&nest_j));
    CHECK(!pthread_create(&threads[1], NULL, register_nest, (void *)(uintptr_t)&nest_k));
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
}

static void *register_slow_alone(void *unused) {
    registers(&slow);
    return unused;
}
static void *register_slow_as_it_ends(void *unused) {
    fails(asthra_module_register(&slow), ASTHRA_FAILED, "was shut down");
    return unused;
}
/* It waited, or it came when the shutdown had begun, or was over. */
static void *register_slow_at_any_time(void *unused) {
    AsthraResult r = asthra_module_register(&slow);
    CHECK(r.status == ASTHRA_OK || strstr(asthra_result_message(r), "was shut down") ||
          strstr(asthra_result_message(r), "shuts down"));
    return unused;
}
static void *open_gate(void *unused) {
    atomic_store(&gate, 1);
    return unused;
}

TEST(module, shutdown_waits_for_an_init_on_another_thread) {
    pthread_t thread, opener;
    CHECK(asthra_runtime_init(NULL));
    atomic_store(&may_begin, 1);
    CHECK(!pthread_create(&thread, NULL, register_slow_alone, NULL));
    until_arrived(1);
    CHECK(!pthread_create(&opener, NULL, open_gate, NULL));
    asthra_runtime_shutdown();
    CHECK_STR(calls, "asSA");
    pthread_join(thread, NULL);
    pthread_join(opener, NULL);
}

TEST(module, shutdown_goes_on_when_an_init_outlasts_its_time) {
    pthread_t thread, waiter;
    AsthraRuntimeConfig config = asthra_runtime_config_default();
    config.shutdown_timeout_ns = 1000;
    CHECK(asthra_runtime_init(&config));
    CHECK(!pthread_create(&thread, NULL, register_slow_as_it_ends, NULL));
    until_arrived(1);
    CHECK(!pthread_create(&waiter, NULL, register_slow_at_any_time, NULL));
    for (int i = 0; i < 1000; i++) sched_yield();
    asthra_runtime_shutdown();
    CHECK_STR(calls, "aA");
    atomic_store(&may_begin, 1);
    atomic_store(&gate, 1);
    pthread_join(thread, NULL);
    pthread_join(waiter, NULL);
    registers(&slow); /* nothing was left behind */
}

/* ---- fork ---- */

TEST(module, in_the_child_of_a_fork_nothing_is_registered) {
    NEED_THREADS(); /* without them the child goes on as its parent would */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    SKIP("fork: sanitizers have no threads, or no heap, after a fork of many");
#endif
    NEED_NO_EMULATOR("fork: qemu-user ends in an assertion of its own after a fork of many");
    registers(&b);
    pid_t child = fork();
    if (child == 0) {
        forget();
        registers(&b);
        CHECK_STR(calls, "ab");
        asthra_runtime_shutdown();
        CHECK_STR(calls, "abBA");
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    registers(&d);
    CHECK_STR(calls, "abcd");
}

#if ASTHRA_HAS_TASK

/* ---- with tasks ---- */

static void *twice(void *n) {
    return (void *)(2 * (intptr_t)n);
}
static void *register_d(void *unused) {
    registers(&d);
    return unused;
}

static AsthraResult begin_with_tasks(const AsthraModule *m) {
    CHECK_EQ((intptr_t)asthra_await(asthra_spawn(twice, (void *)21)), 42);
    asthra_await(asthra_spawn(register_d, NULL));
    CHECK_EQ(asthra_sleep_ns(1000).status, ASTHRA_OK);
    return begin(m);
}
static void end_with_tasks(const AsthraModule *m) {
    CHECK(asthra_runtime_is_running());
    CHECK_EQ((intptr_t)asthra_await(asthra_spawn(twice, (void *)21)), 42);
    CHECK_EQ(asthra_sleep_ns(1000).status, ASTHRA_OK);
    end(m);
}
static const AsthraModule busy = {"m", NULL, NULL, NEEDS(&a), begin_with_tasks, end_with_tasks};

static void *register_busy(void *unused) {
    registers(&busy);
    return unused;
}

TEST(module, inits_and_finis_use_tasks_also_under_a_seed) {
    for (uint64_t seed = 0; seed < 20; seed++) {
        AsthraRuntimeConfig config = asthra_runtime_config_default();
        config.deterministic_seed = seed;
        CHECK(asthra_runtime_init(&config));
        forget();
        if (seed % 2)
            asthra_await(asthra_spawn(register_busy, NULL));
        else
            registers(&busy);
        CHECK_STR(calls, "abcdm");
        asthra_runtime_shutdown();
        CHECK_STR(calls, "abcdmMDCBA");
    }
}

static const AsthraModule busy_at_end = {"n", NULL, NULL, NEEDS(&d), begin, end_with_tasks};
static void *register_busy_at_end(void *unused) {
    registers(&busy_at_end);
    return unused;
}

TEST(module, a_main_that_hosts_calls_finis_that_use_tasks) {
    AsthraRuntimeConfig config = asthra_runtime_config_default();
    AsthraSpawnOptions bound = {.affinity = ASTHRA_AFFINITY_MAIN};
    config.main_thread = ASTHRA_MAIN_HOSTS;
    for (int round = 0; round < 20; round++) {
        CHECK(asthra_runtime_init(&config));
        forget();
        if (round % 2)
            asthra_task_detach(asthra_spawn_with(&bound, register_busy_at_end, NULL));
        else
            registers(&busy_at_end);
        asthra_runtime_shutdown();
        CHECK_STR(calls, "abcdnNDCBA");
    }
}

/* Seeds choose who is first, who waits and who wakes. */
TEST(module, tasks_that_register_at_once_initialise_each_once) {
    static const AsthraModule *const roots[] = {&d, &b, &c, &busy, &a, &d};
    for (uint64_t seed = 1; seed <= 300 / test_thrift(); seed++) {
        AsthraRuntimeConfig config = asthra_runtime_config_default();
        AsthraTaskHandle tasks[6];
        config.deterministic_seed = seed;
        CHECK(asthra_runtime_init(&config));
        forget();
        for (int i = 0; i < 6; i++)
            tasks[i] = asthra_spawn(i == 3 ? register_busy : register_d, NULL);
        for (int i = 0; i < 6; i++) registers(roots[i]);
        for (int i = 0; i < 6; i++) asthra_await(tasks[i]);
        CHECK_EQ(strlen(calls), 5);
        CHECK_EQ(strspn(calls, "abcdm"), 5);
        asthra_runtime_shutdown();
        for (int i = 0; i < 5; i++) CHECK_EQ(calls[9 - i], calls[i] - 'a' + 'A');
    }
}

TEST(module, a_cycle_through_inits_in_two_tasks_stops_neither) {
    for (uint64_t seed = 1; seed <= 200 / test_thrift(); seed++) {
        AsthraRuntimeConfig config = asthra_runtime_config_default();
        config.deterministic_seed = seed;
        CHECK(asthra_runtime_init(&config));
        forget();
        atomic_store(&arrived, 0);
        AsthraTaskHandle j = asthra_spawn(register_across, (void *)(uintptr_t)&cross_j);
        AsthraTaskHandle k = asthra_spawn(register_across, (void *)(uintptr_t)&cross_k);
        asthra_await(j);
        asthra_await(k);
        CHECK_STR(calls, "!!");
        asthra_runtime_shutdown();
    }
}

/* An init that waited for one, and ran another that failed, is looked at by a third, which is about
 * to wait for it. What it waited for is over by then, and its records are gone. */
static atomic_int may_end, is_mended, waits_last;
static AsthraResult begin_if_mended(const AsthraModule *m) {
    return atomic_load(&is_mended) ? begin(m) : asthra_result_err("broken");
}
static const AsthraModule brittle = {"z", NULL, NULL, NULL, begin_if_mended, end};
static AsthraResult begin_after_slow(const AsthraModule *m) {
    if (!atomic_load(&waits_last)) registers(&slow);
    fails(asthra_module_register(&brittle), ASTHRA_FAILED, "broken");
    if (atomic_load(&waits_last)) registers(&slow);
    atomic_fetch_add(&arrived, 1);
    while (!atomic_load(&may_end)) asthra_yield();
    return begin(m);
}
static const AsthraModule after_slow = {"x", NULL, NULL, NULL, begin_after_slow, end};
static AsthraResult begin_after_all(const AsthraModule *m) {
    registers(&after_slow);
    return begin(m);
}
static const AsthraModule after_all = {"y", NULL, NULL, NULL, begin_after_all, end};

static void *register_it(void *module) {
    registers(module);
    return NULL;
}
static void yield_often(unsigned times) {
    while (times-- > 0) asthra_yield();
}

TEST(module, an_init_that_waited_is_waited_for) {
    const AsthraModule *const all[] = {&slow, &after_slow, &after_all};
    for (uint64_t seed = 1; seed <= 40; seed++) {
        AsthraRuntimeConfig config = asthra_runtime_config_default();
        AsthraTaskHandle tasks[3];
        config.deterministic_seed = seed;
        CHECK(asthra_runtime_init(&config));
        forget();
        atomic_store(&arrived, 0), atomic_store(&gate, 0);
        atomic_store(&may_begin, 1), atomic_store(&may_end, 0), atomic_store(&is_mended, 0);
        atomic_store(&waits_last, seed % 2);
        tasks[0] = asthra_spawn(register_it, (void *)(uintptr_t)all[0]);
        until_arrived(1);
        tasks[1] = asthra_spawn(register_it, (void *)(uintptr_t)all[1]);
        yield_often(20);
        atomic_store(&gate, 1);
        until_arrived(2);
        atomic_store(&is_mended, 1);
        registers(&brittle);
        tasks[2] = asthra_spawn(register_it, (void *)(uintptr_t)all[2]);
        yield_often(20);
        atomic_store(&may_end, 1);
        for (int i = 0; i < 3; i++) asthra_await(tasks[i]);
        CHECK(strchr(calls, 'x') < strchr(calls, 'y'));
        asthra_runtime_shutdown();
    }
}

TEST(module, tasks_and_threads_wait_for_one_init) {
    AsthraTaskHandle tasks[8];
    atomic_store(&may_begin, 1);
    for (int i = 0; i < 8; i++) tasks[i] = asthra_spawn(register_slow, NULL);
    register_on_threads(register_slow);
    for (int i = 0; i < 8; i++) asthra_await(tasks[i]);
    CHECK_STR(calls, "ast");
}

static void *is_cancelled(void *unused) {
    CHECK_EQ(asthra_module_register(&slow_user).status, ASTHRA_CANCELLED);
    return unused;
}

TEST(module, a_task_that_waits_for_an_init_can_be_cancelled) {
    atomic_store(&may_begin, 1);
    AsthraTaskHandle first = asthra_spawn(register_slow, NULL);
    until_arrived(1);
    AsthraTaskHandle second = asthra_spawn(is_cancelled, NULL);
    while (asthra_task_state(second) != ASTHRA_TASK_WAITING) asthra_yield();
    CHECK(asthra_task_cancel(second));
    asthra_await_result(second, NULL);
    atomic_store(&gate, 1);
    asthra_await(first);
    CHECK_STR(calls, "ast");
}

static AsthraResult begin_until_cancelled(const AsthraModule *m) {
    if (atomic_fetch_add(&arrived, 1) == 0) return asthra_sleep_ns(ASTHRA_SECONDS(3600));
    return begin(m);
}
static const AsthraModule sleepy = {"w", NULL, NULL, NEEDS(&a), begin_until_cancelled, end};

static void *register_sleepy(void *is_first) {
    AsthraResult r = asthra_module_register(&sleepy);
    CHECK_EQ(r.status, is_first ? ASTHRA_CANCELLED : ASTHRA_OK);
    return NULL;
}

TEST(module, whoever_waits_takes_over_from_an_init_that_was_cancelled) {
    AsthraTaskHandle first = asthra_spawn(register_sleepy, &arrived), more[3];
    until_arrived(1);
    for (int i = 0; i < 3; i++) more[i] = asthra_spawn(register_sleepy, NULL);
    for (int i = 0; i < 3; i++)
        while (asthra_task_state(more[i]) != ASTHRA_TASK_WAITING) asthra_yield();
    CHECK(asthra_task_cancel(first));
    asthra_await_result(first, NULL);
    for (int i = 0; i < 3; i++) asthra_await(more[i]);
    CHECK_STR(calls, "aw");
}

static AsthraResult begin_badly(const AsthraModule *m) {
    atomic_fetch_add(&arrived, 1);
    while (!atomic_load(&gate)) asthra_yield();
    asthra_cancel_mask_begin(); /* left open */
    if (!atomic_load(&may_begin)) asthra_panic("no %s in %s", "luck", m->name);
    asthra_cancel_mask_end();
    return begin(m);
}
static const AsthraModule bad = {"u", NULL, NULL, NEEDS(&a), begin_badly, end};

static void *survive_bad(void *unused) {
    asthra_panic_set_policy(ASTHRA_PANIC_FAIL_TASK);
    fails(asthra_module_register(&bad), ASTHRA_PANICKED, "init of module 'u': no luck in u");
    CHECK(!asthra_cancel_requested());
    return unused;
}

TEST(module, an_init_that_panics_fails_for_all_who_wait_for_it) {
    AsthraRuntimeConfig config = asthra_runtime_config_default();
    config.enable_panic_handler = false;
    CHECK(asthra_runtime_init(&config));
    AsthraTaskHandle first = asthra_spawn(survive_bad, NULL), more[3];
    until_arrived(1);
    for (int i = 0; i < 3; i++) more[i] = asthra_spawn(survive_bad, NULL);
    for (int i = 0; i < 3; i++)
        while (asthra_task_state(more[i]) != ASTHRA_TASK_WAITING) asthra_yield();
    atomic_store(&gate, 1);
    asthra_await(first);
    for (int i = 0; i < 3; i++) asthra_await(more[i]);
    CHECK_EQ(atomic_load(&arrived), 1);
    atomic_store(&may_begin, 1);
    registers(&bad);
    CHECK_STR(calls, "au");
}

/* ---- tasks and shutdown ---- */

static void *uses_a(void *unused) {
    asthra_yield();
    note(strchr(calls, 'A') ? '?' : '+');
    return unused;
}
static void *uses_a_when_cancelled(void *unused) {
    CHECK_EQ(asthra_sleep_ns(ASTHRA_SECONDS(3600)).status, ASTHRA_CANCELLED);
    return uses_a(unused);
}

TEST(module, finis_come_when_tasks_have_ended) {
    registers(&a);
    asthra_task_detach(asthra_spawn(uses_a, NULL));
    AsthraTaskHandle h = asthra_spawn(uses_a_when_cancelled, NULL);
    while (asthra_task_state(h) != ASTHRA_TASK_WAITING) asthra_yield();
    asthra_task_detach(h);
    asthra_runtime_shutdown();
    CHECK_STR(calls, "a++A");
}

static AsthraTaskHandle server;
static void *serves(void *unused) {
    while (asthra_sleep_ns(ASTHRA_SECONDS(3600)).status == ASTHRA_OK) {
    }
    note('-');
    return unused;
}
static AsthraResult begin_server(const AsthraModule *m) {
    server = asthra_spawn(serves, NULL);
    return begin(m);
}
static void end_server(const AsthraModule *m) {
    CHECK_EQ(asthra_await_result(server, NULL).status, ASTHRA_CANCELLED);
    asthra_task_detach(asthra_spawn(uses_a_when_cancelled, NULL)); /* it is left behind */
    end(m);
}

static const AsthraModule with_server = {"v", NULL, NULL, NEEDS(&a), begin_server, end_server};

TEST(module, a_fini_awaits_its_task_and_what_it_leaves_ends_too) {
    registers(&with_server);
    while (asthra_task_state(server) != ASTHRA_TASK_WAITING) asthra_yield();
    asthra_runtime_shutdown();
    CHECK_STR(calls, "av-VA?");
}

#endif
