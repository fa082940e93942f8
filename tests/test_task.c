/* The promises of src/concurrency/task.h, one test each. */
#include "test.h"
#include "asthra_rt.h"

#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define NUMBER(n) ((void *)(intptr_t)(n))

static void start(size_t workers) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = workers;
    CHECK(asthra_runtime_init(&c));
}

static void start_failing_tasks(size_t workers) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = workers;
    c.panic_policy = ASTHRA_PANIC_FAIL_TASK;
    CHECK(asthra_runtime_init(&c));
}

/* Returns once t waits. Sleeping and not yielding, so that a main that helps runs it. */
static void until_waiting(AsthraTaskHandle t) {
    while (asthra_task_state(t) != ASTHRA_TASK_WAITING) asthra_sleep_ns(10000);
}

static void until_set(const atomic_int *flag) {
    while (!atomic_load(flag)) asthra_sleep_ns(10000);
}

static void *add_one(void *n) {
    return NUMBER((intptr_t)n + 1);
}

static void *wait_for_ever(void *status) {
    AsthraResult r = asthra_sleep_ns(ASTHRA_FOREVER);
    if (status) *(uint32_t *)status = r.status;
    return NUMBER(7);
}

static void *spin_until(void *flag) {
    while (!atomic_load((atomic_int *)flag)) asthra_yield();
    return NULL;
}

static void *fails(void *text) {
    asthra_panic_at(NULL, "%s", (const char *)text);
}

/* ---- spawn and await ---- */

TEST(task, await_returns_what_the_function_returned) {
    CHECK_EQ((intptr_t)asthra_await(asthra_spawn(add_one, NUMBER(41))), 42);
}

TEST(task, the_names_in_parentheses_are_functions) {
    AsthraTaskHandle (*spawn)(AsthraTaskFunction, void *) = asthra_spawn;
    AsthraTaskHandle (*spawn_copy)(AsthraTaskFunction, const void *, size_t) = asthra_spawn_copy;
    CHECK_EQ((intptr_t)asthra_await(spawn(add_one, NUMBER(1))), 2);
    AsthraTaskHandle h = spawn_copy(add_one, "abc", 4);
    CHECK(asthra_await(h) != NULL);
}

TEST(task, await_result_tells_a_good_end) {
    void *value = NULL;
    AsthraResult r = asthra_await_result(asthra_spawn(add_one, NUMBER(1)), &value);
    CHECK_EQ(r.status, ASTHRA_OK);
    CHECK_EQ((intptr_t)value, 2);
    CHECK_EQ((intptr_t)asthra_result_value(r), 2);
    CHECK_EQ(asthra_await_result(asthra_spawn(add_one, NULL), NULL).status, ASTHRA_OK);
}

typedef struct Range {
    int from, to;
} Range;

/* Fork and join: half by a child, half here. */
static void *sum_range(void *args) {
    Range r = *(Range *)args;
    if (r.to - r.from == 1) return NUMBER(r.from);
    Range left = {r.from, (r.from + r.to) / 2}, right = {(r.from + r.to) / 2, r.to};
    AsthraTaskHandle other = asthra_spawn_copy(sum_range, &left, sizeof left);
    intptr_t mine = (intptr_t)sum_range(&right);
    return NUMBER(mine + (intptr_t)asthra_await(other));
}

static void sums(size_t workers) {
    Range all = {0, UNDER_TSAN ? 400 : 20000};
    start(workers);
    for (int i = 0; i < 5; i++) {
        intptr_t sum = (intptr_t)asthra_await(asthra_spawn(sum_range, &all));
        CHECK_EQ(sum, (intptr_t)all.to * (all.to - 1) / 2);
    }
    asthra_runtime_shutdown();
}

TEST(task, fork_and_join_on_one_worker) {
    sums(1);
}
TEST(task, fork_and_join_on_two_workers) {
    sums(2);
}
TEST(task, fork_and_join_on_more_workers_than_cores) {
    sums(8);
}

TEST(task, siblings_may_be_awaited_in_any_order) {
    AsthraTaskHandle h[100];
    for (int i = 0; i < 100; i++) h[i] = asthra_spawn(add_one, NUMBER(i));
    for (int i = 0; i < 100; i++) CHECK_EQ((intptr_t)asthra_await(h[i]), i + 1);
    for (int i = 0; i < 100; i++) h[i] = asthra_spawn(add_one, NUMBER(i));
    for (int i = 99; i >= 0; i--) CHECK_EQ((intptr_t)asthra_await(h[i]), i + 1);
    for (int i = 0; i < 100; i++) h[i] = asthra_spawn(add_one, NUMBER(i));
    for (int i = 0; i < 100; i++)
        CHECK_EQ((intptr_t)asthra_await(h[i * 37 % 100]), i * 37 % 100 + 1);
}

TEST_PANICS(task, a_null_function_panics, "the function is NULL") {
    asthra_spawn_at(NULL, NULL, "nothing");
}

/* ---- copies ---- */

typedef struct Copied {
    size_t size;
    int is_zeroed;
} Copied;
static Copied copied;

static void *looks_at_copy(void *block) {
    unsigned char *bytes = block;
    CHECK_EQ((uintptr_t)block % _Alignof(max_align_t), 0);
    for (size_t i = 0; i < copied.size; i++) {
        CHECK_EQ(bytes[i], copied.is_zeroed ? 0 : (unsigned char)(i * 7 + copied.size));
        bytes[i] = (unsigned char)(bytes[i] ^ 0xff);
    }
    if (copied.size % 3 == 0) asthra_yield();
    for (size_t i = 0; i < copied.size; i++) bytes[i] = (unsigned char)(bytes[i] ^ 0x0f);
    return block;
}

static void copy_sizes(bool is_zeroed) {
    static unsigned char block[4096], back[4096];
    for (size_t size = 0; size <= sizeof block; size += size < 300 ? 1 : 61) {
        copied.size = size;
        copied.is_zeroed = is_zeroed;
        for (size_t i = 0; i < size; i++) block[i] = (unsigned char)(i * 7 + size);
        AsthraTaskHandle h = asthra_spawn_copy(looks_at_copy, is_zeroed ? NULL : block, size);
        if (!is_zeroed) memset(block, 0xee, size); /* the copy is the task's own */
        CHECK_EQ(asthra_await_copy(h, back, size).status, ASTHRA_OK);
        for (size_t i = 0; i < size; i++) {
            CHECK_EQ(back[i], (is_zeroed ? 0 : (unsigned char)(i * 7 + size)) ^ 0xf0);
        }
    }
}

TEST(task, a_copied_block_of_any_size_arrives_aligned_and_comes_back) {
    copy_sizes(false);
}
TEST(task, a_null_block_is_zeroes) {
    copy_sizes(true);
}

static void *returns_its_block(void *block) {
    return block;
}

TEST(task, blocks_used_alternately_do_not_mix) {
    char large[200], small[8], back[200];
    for (int i = 0; i < 300; i++) {
        memset(large, i, sizeof large);
        memset(small, i + 1, sizeof small);
        AsthraTaskHandle a = asthra_spawn_copy(returns_its_block, large, sizeof large);
        AsthraTaskHandle b = asthra_spawn_copy(returns_its_block, small, sizeof small);
        CHECK_EQ(asthra_await_copy(b, back, sizeof small).status, ASTHRA_OK);
        CHECK(memcmp(back, small, sizeof small) == 0);
        CHECK_EQ(asthra_await_copy(a, back, sizeof large).status, ASTHRA_OK);
        CHECK(memcmp(back, large, sizeof large) == 0);
    }
}

TEST(task, await_copy_of_a_task_without_that_much_is_invalid_and_consumes) {
    char block[64] = {0};
    AsthraTaskHandle none = asthra_spawn(add_one, NULL);
    AsthraTaskHandle small = asthra_spawn_copy(returns_its_block, block, 5);
    CHECK_EQ(asthra_await_copy(none, block, 1).status, ASTHRA_INVALID);
    CHECK(!asthra_task_is_valid(none));
    CHECK_EQ(asthra_await_copy(small, block, 6).status, ASTHRA_INVALID);
    CHECK(!asthra_task_is_valid(small));
    small = asthra_spawn_copy(returns_its_block, "abcde", 5);
    CHECK_EQ(asthra_await_copy(small, block, 2).status, ASTHRA_OK);
    CHECK(memcmp(block, "ab\0", 3) == 0);
}

TEST(task, a_block_too_large_for_memory_is_a_failed_spawn) {
    AsthraTaskHandle h = asthra_spawn_copy(add_one, NULL, SIZE_MAX - 100);
    CHECK_EQ(h.bits, 0);
    CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
    CHECK_EQ((intptr_t)asthra_await(asthra_spawn(add_one, NUMBER(1))), 2);
    CHECK_EQ(asthra_last_error().status, ASTHRA_OK);
}

/* ---- handles ---- */

TEST_PANICS(task, awaiting_twice_panics, "asthra_await: handle ") {
    AsthraTaskHandle h = asthra_spawn(add_one, NULL);
    asthra_await(h);
    asthra_await(h);
}

TEST_PANICS(task, a_stale_handle_panics_with_its_id, "asthra_task_name: handle ") {
    AsthraTaskHandle h = asthra_spawn(add_one, NULL);
    uint64_t id = asthra_task_id(h);
    asthra_await(h);
    fprintf(stderr, "expecting %llu\n", (unsigned long long)id);
    asthra_task_name(h);
}

TEST_PANICS(task, detaching_what_was_awaited_panics, "asthra_task_detach: handle ") {
    AsthraTaskHandle h = asthra_spawn(add_one, NULL);
    asthra_await(h);
    asthra_task_detach(h);
}

TEST_PANICS(task, detaching_twice_panics, "asthra_task_detach: ") {
    AsthraTaskHandle h = asthra_spawn(wait_for_ever, NULL);
    asthra_task_detach(h);
    asthra_task_detach(h);
}

TEST_PANICS(task, awaiting_what_was_detached_panics, "was detached, or its handle was consumed") {
    AsthraTaskHandle h = asthra_spawn(wait_for_ever, NULL);
    asthra_task_detach(h);
    asthra_await(h);
}

TEST_PANICS(task, a_foreign_handle_panics_with_its_id, "handle 81985529216486895 names no task") {
    AsthraTaskHandle h = {UINT64_C(81985529216486895)};
    asthra_task_cancel(h);
}

TEST_PANICS(task, a_zero_handle_panics, "asthra_await: handle 0") {
    AsthraTaskHandle none = {0};
    asthra_await(none);
}

static void *starts_nothing(void *unused) {
    (void)unused;
    AsthraTaskHandle h = asthra_spawn(add_one, NULL);
    if (h.bits == 0) asthra_await(h);
    return NULL;
}

TEST_PANICS(task, a_zero_handle_panics_with_the_reason_of_the_failed_spawn,
            "handle 0, whose spawn failed: max_tasks: 1 tasks are unfinished already") {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.max_tasks = 1;
    CHECK(asthra_runtime_init(&c));
    asthra_await(asthra_spawn(starts_nothing, NULL));
}

TEST(task, is_valid_never_panics) {
    AsthraTaskHandle none = {0}, odd = {UINT64_MAX}, h = asthra_spawn(add_one, NULL);
    CHECK(!asthra_task_is_valid(none));
    CHECK(!asthra_task_is_valid(odd));
    CHECK(asthra_task_is_valid(h));
    CHECK(asthra_task_is_valid(h)); /* not consumed */
    asthra_await(h);
    CHECK(!asthra_task_is_valid(h));
    for (uint64_t i = 0; i < 5000; i++) {
        AsthraTaskHandle any = {i << 32 | i};
        asthra_task_is_valid(any);
    }
}

TEST(task, ids_are_never_used_twice) {
    enum { N = 20000 };
    static uint64_t seen[N];
    int n = N / (int)test_thrift();
    for (int i = 0; i < n; i++) {
        AsthraTaskHandle h = asthra_spawn(add_one, NULL);
        seen[i] = asthra_task_id(h);
        CHECK(seen[i] != 0);
        asthra_await(h);
    }
    for (int i = 1; i < n; i++) {
        for (int k = i - 1; k >= 0 && k > i - 40; k--) CHECK(seen[i] != seen[k]);
    }
}

static void *consumes_later(void *handle) {
    return asthra_await(*(AsthraTaskHandle *)handle);
}

/* Consuming one handle from two sides at once is found out, not obeyed twice. */
TEST_PANICS(task, two_awaits_of_one_handle_at_once_panic, "asthra_await: ") {
    start(4);
    for (int i = 0; i < 1000; i++) {
        AsthraTaskHandle victim = asthra_spawn(wait_for_ever, NULL);
        AsthraTaskHandle first = asthra_spawn(consumes_later, &victim);
        AsthraTaskHandle second = asthra_spawn(consumes_later, &victim);
        until_waiting(first);
        until_waiting(second);
        asthra_task_cancel(victim);
        asthra_await(first);
        asthra_await(second);
    }
}

TEST(task, a_retained_handle_is_consumed_on_its_own) {
    AsthraTaskHandle a = asthra_spawn(add_one, NUMBER(4));
    AsthraTaskHandle b = asthra_task_retain(a);
    CHECK_EQ((intptr_t)asthra_await(a), 5);
    CHECK(asthra_task_is_valid(b));
    CHECK_EQ(asthra_task_state(b), ASTHRA_TASK_COMPLETED);
    CHECK_EQ((intptr_t)asthra_await(b), 5);
    CHECK(!asthra_task_is_valid(b));
}

TEST(task, many_await_one_task_with_a_handle_each) {
    enum { N = 50 };
    AsthraTaskHandle one = asthra_spawn(wait_for_ever, NULL), many[N];
    static AsthraTaskHandle handles[N];
    for (int i = 0; i < N; i++) {
        handles[i] = asthra_task_retain(one);
        many[i] = asthra_spawn(consumes_later, &handles[i]);
    }
    for (int i = 0; i < N; i++) until_waiting(many[i]);
    until_waiting(one);
    asthra_task_cancel(one);
    for (int i = 0; i < N; i++) CHECK_EQ((intptr_t)asthra_await(many[i]), 7);
    CHECK_EQ((intptr_t)asthra_await(one), 7);
}

static atomic_int ran;
static void *counts(void *unused) {
    (void)unused;
    atomic_fetch_add(&ran, 1);
    return NULL;
}

TEST(task, a_detached_task_runs_on_and_frees_itself) {
    uint32_t highest = 0;
    for (int i = 0; i < 5000 / (int)test_thrift(); i++) {
        AsthraTaskHandle h = asthra_spawn(counts, NULL);
        if ((uint32_t)h.bits > highest) highest = (uint32_t)h.bits;
        asthra_task_detach(h);
        while (atomic_load(&ran) <= i) asthra_sleep_ns(0);
    }
    CHECK(highest < 1024); /* descriptors were used again: the low half is their index */
}

TEST(task, descriptors_that_one_thread_makes_and_another_ends_are_used_again) {
    start(4);
    for (int round = 0; round < (UNDER_TSAN ? 4 : test_thrift() == 20 ? 10 : 50); round++) {
        AsthraTaskHandle h[500];
        for (int i = 0; i < 500; i++) h[i] = asthra_spawn(counts, NULL);
        for (int i = 0; i < 500; i++) {
            CHECK((uint32_t)h[i].bits < 20000);
            if (i % 2)
                asthra_task_detach(h[i]);
            else
                asthra_await(h[i]);
        }
    }
}

/* ---- asking ---- */

static void *who_am_i(void *out) {
    AsthraTaskHandle *h = out;
    *h = asthra_task_current();
    return NULL;
}

TEST(task, current_is_the_task_and_zero_outside) {
    AsthraTaskHandle inside = {1};
    CHECK_EQ(asthra_task_current().bits, 0);
    AsthraTaskHandle h = asthra_spawn(who_am_i, &inside);
    uint64_t bits = h.bits;
    asthra_await(h);
    CHECK_EQ(inside.bits, bits);
    CHECK_EQ(asthra_task_current().bits, 0);
}

static void *current_around_a_child(void *unused) {
    (void)unused;
    AsthraTaskHandle before = asthra_task_current(), inside;
    asthra_await(asthra_spawn(who_am_i, &inside));
    CHECK_EQ(asthra_task_current().bits, before.bits);
    CHECK(inside.bits != before.bits);
    return NULL;
}

TEST(task, current_comes_back_after_a_child_in_place) {
    for (int i = 0; i < 200; i++) asthra_await(asthra_spawn(current_around_a_child, NULL));
}

static void *names_itself(void *out) {
    snprintf(out, 200, "%s", asthra_task_name(asthra_task_current()));
    return NULL;
}

TEST(task, spawn_names_a_task_after_its_expression_and_place) {
    char name[200], expected[200];
    asthra_await(asthra_spawn(names_itself, name));
    snprintf(expected, sizeof expected, "names_itself at %s:%d", __FILE__, __LINE__ - 1);
    CHECK_STR(name, expected);
}

TEST(task, a_name_in_the_options_is_copied) {
    char given[] = "reader", name[200];
    AsthraSpawnOptions o = {.name = given};
    AsthraTaskHandle h = asthra_spawn_with(&o, names_itself, name);
    given[0] = 'x';
    CHECK_STR(asthra_task_name(h), "reader");
    asthra_await(h);
    CHECK_STR(name, "reader");
}

TEST(task, a_long_name_is_cut_and_none_is_not_null) {
    char given[500], name[200];
    memset(given, 'n', sizeof given);
    given[sizeof given - 1] = 0;
    AsthraSpawnOptions o = {.name = given};
    asthra_await(asthra_spawn_with(&o, names_itself, name));
    CHECK(strlen(name) > 20);
    CHECK(strncmp(name, given, strlen(name)) == 0);
    asthra_await(asthra_spawn_with(NULL, names_itself, name));
    CHECK(strlen(name) > 0);
}

static void *waits_on_flags(void *flags) {
    atomic_int *f = flags;
    atomic_store(&f[0], 1);
    while (!atomic_load(&f[1])) sched_yield();
    return NULL;
}

TEST(task, state_tells_created_running_waiting_and_the_ends) {
    NEED_THREADS();
    atomic_int flags[2] = {0, 0};
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = 1;
    c.panic_policy = ASTHRA_PANIC_FAIL_TASK;
    CHECK(asthra_runtime_init(&c));
    AsthraTaskHandle created = asthra_spawn(add_one, NULL);
    CHECK_EQ(asthra_task_state(created), ASTHRA_TASK_CREATED); /* main is the only worker */
    asthra_task_detach(asthra_task_retain(created));
    asthra_sleep_ns(1);
    CHECK_EQ(asthra_task_state(created), ASTHRA_TASK_COMPLETED);
    asthra_await(created);
    AsthraTaskHandle failed = asthra_spawn(fails, "on purpose");
    asthra_sleep_ns(1);
    CHECK_EQ(asthra_task_state(failed), ASTHRA_TASK_FAILED);
    asthra_task_detach(failed);
    AsthraTaskHandle waiting = asthra_spawn(wait_for_ever, NULL);
    asthra_sleep_ns(1);
    CHECK_EQ(asthra_task_state(waiting), ASTHRA_TASK_WAITING);
    CHECK(asthra_task_cancel(waiting));
    CHECK_EQ(asthra_task_state(waiting), ASTHRA_TASK_READY);
    asthra_sleep_ns(1);
    CHECK_EQ(asthra_task_state(waiting), ASTHRA_TASK_CANCELLED);
    asthra_task_detach(waiting);
    asthra_runtime_shutdown();
    start(2);
    AsthraTaskHandle running = asthra_spawn(waits_on_flags, flags);
    while (!atomic_load(&flags[0])) sched_yield();
    CHECK_EQ(asthra_task_state(running), ASTHRA_TASK_RUNNING);
    atomic_store(&flags[1], 1);
    asthra_await(running);
}

typedef struct Family {
    AsthraTaskHandle parent, child;
    uint64_t seen_parent;
    atomic_int go;
} Family;

static void *family_child(void *args) {
    Family *f = args;
    f->seen_parent = asthra_task_parent(asthra_task_current()).bits;
    while (!atomic_load(&f->go)) asthra_yield();
    return NULL;
}

static void *family_parent(void *args) {
    Family *f = args;
    f->parent = asthra_task_current();
    f->child = asthra_spawn(family_child, f);
    return NULL;
}

TEST(task, parent_is_the_spawner_and_zero_once_that_is_gone) {
    Family f = {.go = 0};
    start(2);
    AsthraTaskHandle p = asthra_spawn(family_parent, &f);
    CHECK_EQ(asthra_task_parent(p).bits, 0); /* a thread */
    asthra_await(p);
    CHECK_EQ(asthra_task_parent(f.child).bits, 0);
    atomic_store(&f.go, 1);
    asthra_await(f.child);
}

static void *counts_children(void *unused) {
    (void)unused;
    AsthraTaskHandle me = asthra_task_current(), h[5];
    CHECK_EQ(asthra_task_child_count(me), 0);
    for (int i = 0; i < 5; i++) h[i] = asthra_spawn(wait_for_ever, NULL);
    CHECK_EQ(asthra_task_child_count(me), 5);
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(asthra_task_parent(h[i]).bits, me.bits);
        asthra_task_cancel(h[i]);
        asthra_await(h[i]);
        CHECK_EQ(asthra_task_child_count(me), 4 - i);
    }
    return NULL;
}

TEST(task, child_count_counts_the_unfinished) {
    asthra_await(asthra_spawn(counts_children, NULL));
}

/* ---- timed await ---- */

TEST(task, a_timed_await_that_times_out_does_not_consume) {
    AsthraTaskHandle h = asthra_spawn(wait_for_ever, NULL);
    void *value = NUMBER(99);
    until_waiting(h);
    CHECK_EQ(asthra_await_timeout(h, 0, &value).status, ASTHRA_TIMED_OUT);
    CHECK_EQ(asthra_await_timeout(h, ASTHRA_MS(2), &value).status, ASTHRA_TIMED_OUT);
    CHECK_EQ((intptr_t)value, 99);
    CHECK(asthra_task_is_valid(h));
    CHECK_EQ(asthra_await_timeout(h, ASTHRA_US(1), NULL).status, ASTHRA_TIMED_OUT);
    asthra_task_cancel(h);
    CHECK_EQ(asthra_await_timeout(h, ASTHRA_SECONDS(100), &value).status, ASTHRA_CANCELLED);
    CHECK_EQ((intptr_t)value, 7);
    CHECK(!asthra_task_is_valid(h));
}

TEST(task, a_timed_await_that_succeeds_consumes) {
    AsthraTaskHandle h = asthra_spawn(add_one, NUMBER(1));
    void *value = NULL;
    AsthraResult r = asthra_await_timeout(h, ASTHRA_SECONDS(100), &value);
    CHECK_EQ(r.status, ASTHRA_OK);
    CHECK_EQ((intptr_t)value, 2);
    CHECK(!asthra_task_is_valid(h));
    h = asthra_spawn(add_one, NUMBER(2));
    CHECK_EQ(asthra_await_timeout(h, ASTHRA_FOREVER, &value).status, ASTHRA_OK);
    CHECK_EQ((intptr_t)value, 3);
}

typedef struct Timed {
    AsthraTaskHandle other;
    AsthraResult result;
} Timed;

static void *timed_awaiter(void *args) {
    Timed *t = args;
    t->result = asthra_await_timeout(t->other, ASTHRA_SECONDS(1000), NULL);
    return NULL;
}

TEST(task, cancelling_a_timed_awaiter_leaves_the_handle_and_says_so) {
    Timed t = {.other = asthra_spawn(wait_for_ever, NULL)};
    AsthraTaskHandle h = asthra_spawn(timed_awaiter, &t);
    until_waiting(t.other);
    until_waiting(h);
    CHECK(asthra_task_cancel(h));
    asthra_await(h);
    CHECK_EQ(t.result.status, ASTHRA_CANCELLED);
    CHECK_EQ(t.result.detail, 1);
    CHECK(asthra_task_is_valid(t.other));
    CHECK_EQ(asthra_task_state(t.other), ASTHRA_TASK_WAITING); /* not forwarded */
    asthra_task_cancel(t.other);
    AsthraResult r = asthra_await_timeout(t.other, ASTHRA_SECONDS(100), NULL);
    CHECK_EQ(r.status, ASTHRA_CANCELLED);
    CHECK_EQ(r.detail, 0);
}

/* Time-outs and ends race; whoever wins, nothing is lost or consumed twice. */
TEST(task, a_timed_await_races_with_the_end) {
    NEED_THREADS();
    start(4);
    for (int i = 0; i < (UNDER_TSAN ? 300 : 3000); i++) {
        uint32_t status = 0;
        AsthraTaskHandle h = asthra_spawn(wait_for_ever, &status);
        AsthraResult r = asthra_await_timeout(h, i % 50 * 1000, NULL);
        CHECK_EQ(r.status, ASTHRA_TIMED_OUT);
        asthra_task_cancel(h);
        do r = asthra_await_timeout(h, i % 7 * 500, NULL);
        while (r.status == ASTHRA_TIMED_OUT);
        CHECK_EQ(r.status, ASTHRA_CANCELLED);
        CHECK(!asthra_task_is_valid(h));
    }
}

/* ---- cancel ---- */

TEST(task, cancelling_a_queued_task_keeps_it_from_starting) {
    void *value = NUMBER(1);
    start(1);
    AsthraTaskHandle h = asthra_spawn(counts, NULL);
    CHECK(asthra_task_cancel(h));
    CHECK_EQ(asthra_await_result(h, &value).status, ASTHRA_CANCELLED);
    CHECK(value == NULL);
    h = asthra_spawn(counts, NULL);
    CHECK(asthra_task_cancel(h));
    CHECK(asthra_await(h) == NULL);
    CHECK_EQ(atomic_load(&ran), 0);
}

TEST(task, cancelling_ends_a_wait_with_the_status) {
    uint32_t status = 99;
    AsthraTaskHandle h = asthra_spawn(wait_for_ever, &status);
    until_waiting(h);
    CHECK(asthra_task_cancel(h));
    void *value = NULL;
    CHECK_EQ(asthra_await_result(h, &value).status, ASTHRA_CANCELLED);
    CHECK_EQ((intptr_t)value, 7); /* its function returned */
    CHECK_EQ(status, ASTHRA_CANCELLED);
}

TEST(task, cancelling_what_has_ended_is_false) {
    AsthraTaskHandle h = asthra_spawn(counts, NULL);
    asthra_task_retain(h);
    asthra_await(h);
    CHECK(!asthra_task_cancel(h));
    CHECK_EQ(asthra_await_result(h, NULL).status, ASTHRA_OK);
}

static void *ignores_cancel(void *flags) {
    atomic_int *f = flags;
    atomic_store(&f[0], 1);
    while (!atomic_load(&f[1])) asthra_yield();
    return NUMBER(3);
}

TEST(task, a_task_that_never_saw_its_cancel_completes) {
    atomic_int flags[2] = {0, 0};
    start(2);
    AsthraTaskHandle h = asthra_spawn(ignores_cancel, flags);
    until_set(&flags[0]);
    CHECK(asthra_task_cancel(h));
    atomic_store(&flags[1], 1);
    void *value = NULL;
    CHECK_EQ(asthra_await_result(h, &value).status, ASTHRA_OK);
    CHECK_EQ((intptr_t)value, 3);
}

static void *polls_for_cancel(void *flag) {
    atomic_store((atomic_int *)flag, 1);
    while (!asthra_cancel_requested()) asthra_yield();
    return NULL;
}

TEST(task, cancel_requested_tells_the_task) {
    atomic_int flag = 0;
    start(2);
    CHECK(!asthra_cancel_requested());
    AsthraTaskHandle h = asthra_spawn(polls_for_cancel, &flag);
    until_set(&flag);
    asthra_task_cancel(h);
    CHECK_EQ(asthra_await_result(h, NULL).status, ASTHRA_CANCELLED);
}

static void *waits_again_and_again(void *out) {
    uint32_t *status = out;
    for (int i = 0; i < 4; i++) status[i] = asthra_sleep_ns(i == 3 ? 0 : ASTHRA_FOREVER).status;
    return NULL;
}

TEST(task, a_cancelled_task_is_refused_every_later_wait) {
    uint32_t status[4] = {9, 9, 9, 9};
    AsthraTaskHandle h = asthra_spawn(waits_again_and_again, status);
    until_waiting(h);
    asthra_task_cancel(h);
    asthra_await(h);
    for (int i = 0; i < 4; i++) CHECK_EQ(status[i], ASTHRA_CANCELLED);
}

typedef struct Masked {
    AsthraChannel *channel;
    uint32_t inside, nested, outside;
    bool requested_inside, requested_outside;
} Masked;

static void *masked_waits(void *args) {
    Masked *m = args;
    int value;
    asthra_cancel_mask_begin();
    asthra_cancel_mask_begin();
    m->nested = asthra_channel_receive(m->channel, &value).status;
    asthra_cancel_mask_end();
    m->requested_inside = asthra_cancel_requested();
    m->inside = asthra_channel_receive(m->channel, &value).status;
    asthra_cancel_mask_end();
    m->requested_outside = asthra_cancel_requested();
    m->outside = asthra_channel_receive(m->channel, &value).status;
    return NULL;
}

TEST(task, a_masked_region_defers_a_cancel_and_nests) {
    Masked m = {.channel = asthra_channel_create(sizeof(int), 0, "masked")};
    AsthraTaskHandle h = asthra_spawn(masked_waits, &m);
    int value = 1;
    until_waiting(h);
    CHECK(asthra_task_cancel(h));
    asthra_sleep_ns(ASTHRA_MS(1));
    CHECK_EQ(asthra_task_state(h), ASTHRA_TASK_WAITING);
    CHECK_EQ(asthra_channel_send(m.channel, &value).status, ASTHRA_OK);
    CHECK_EQ(asthra_channel_send(m.channel, &value).status, ASTHRA_OK);
    CHECK_EQ(asthra_await_result(h, NULL).status, ASTHRA_CANCELLED);
    CHECK_EQ(m.nested, ASTHRA_OK);
    CHECK_EQ(m.inside, ASTHRA_OK);
    CHECK_EQ(m.outside, ASTHRA_CANCELLED);
    CHECK(!m.requested_inside);
    CHECK(m.requested_outside);
    asthra_channel_destroy(m.channel);
}

static void *masks_too_often(void *unused) {
    for (int i = 0; i < 256; i++) asthra_cancel_mask_begin();
    return unused;
}
TEST_PANICS(task, the_256th_nested_mask_panics, "masks") {
    asthra_await(asthra_spawn(masks_too_often, NULL));
}

static void *masks_255_times(void *unused) {
    for (int i = 0; i < 255; i++) asthra_cancel_mask_begin();
    for (int i = 0; i < 255; i++) asthra_cancel_mask_end();
    return unused;
}
TEST(task, masks_nest_255_deep) {
    asthra_await(asthra_spawn(masks_255_times, NULL));
}

static void *unmasks(void *unused) {
    asthra_cancel_mask_end();
    return unused;
}
TEST_PANICS(task, ending_no_mask_panics, "asthra_cancel_mask_end: no region is open") {
    asthra_await(asthra_spawn(unmasks, NULL));
}

TEST(task, masks_outside_tasks_change_nothing) {
    asthra_cancel_mask_begin();
    asthra_cancel_mask_end();
    asthra_cancel_mask_end();
}

static void *awaits_a_sleeper(void *depth) {
    if (depth == NULL) {
        CHECK_EQ(asthra_sleep_ns(ASTHRA_FOREVER).status, ASTHRA_CANCELLED);
        return NULL;
    }
    AsthraTaskHandle h = asthra_spawn(awaits_a_sleeper, NUMBER((intptr_t)depth - 1));
    CHECK_EQ(asthra_await_result(h, NULL).status, ASTHRA_CANCELLED);
    return NULL;
}

TEST(task, an_awaiter_that_was_cancelled_through_its_child_is_cancelled) {
    for (size_t workers = 1; workers <= 4; workers += 3) {
        start(workers);
        for (intptr_t depth = 0; depth < 20; depth++) {
            AsthraTaskHandle h = asthra_spawn(awaits_a_sleeper, NUMBER(depth));
            while (asthra_task_state(h) != ASTHRA_TASK_WAITING) asthra_yield();
            CHECK(asthra_task_cancel(h));
            CHECK_EQ(asthra_await_result(h, NULL).status, ASTHRA_CANCELLED);
        }
        asthra_runtime_shutdown();
    }
}

static void *cancels_itself_and_awaits(void *unused) {
    (void)unused;
    AsthraTaskHandle first = asthra_spawn(add_one, NULL);
    CHECK(asthra_task_cancel(asthra_task_current()));
    CHECK_EQ(asthra_await_result(first, NULL).status, ASTHRA_CANCELLED); /* it had not started */
    return NULL;
}
static void *awaits_what_completes_all_the_same(void *unused) {
    CHECK(asthra_task_cancel(asthra_task_current()));
    asthra_await_result(*(AsthraTaskHandle *)unused, NULL);
    return NULL;
}

TEST(task, an_awaiter_whose_child_completed_never_saw_its_cancel) {
    start(1);
    AsthraTaskHandle h = asthra_spawn(cancels_itself_and_awaits, NULL);
    CHECK_EQ(asthra_await_result(h, NULL).status, ASTHRA_CANCELLED);
    AsthraTaskHandle done = asthra_spawn(add_one, NULL);
    while (asthra_task_state(done) != ASTHRA_TASK_COMPLETED) asthra_yield();
    h = asthra_spawn(awaits_what_completes_all_the_same, &done);
    CHECK_EQ(asthra_await_result(h, NULL).status, ASTHRA_OK);
}

/* A chain of awaits, in place where it can be: the last one sleeps. */
static atomic_int chain_is_whole;
static void *chain(void *depth) {
    intptr_t left = (intptr_t)depth;
    if (left == 0) {
        atomic_store(&chain_is_whole, 1);
        return NUMBER(asthra_sleep_ns(ASTHRA_FOREVER).status == ASTHRA_CANCELLED);
    }
    return NUMBER((intptr_t)asthra_await(asthra_spawn(chain, NUMBER(left - 1))) + 1);
}

TEST(task, a_cancel_goes_along_a_chain_of_awaits) {
    for (size_t workers = 1; workers <= 4; workers += 3) {
        start(workers);
        for (int depth = 0; depth < 40; depth++) {
            AsthraTaskHandle h = asthra_spawn(chain, NUMBER(depth));
            until_set(&chain_is_whole);
            atomic_store(&chain_is_whole, 0);
            if (depth % 2) asthra_sleep_ns(ASTHRA_US(300));
            CHECK(asthra_task_cancel(h));
            CHECK_EQ((intptr_t)asthra_await(h), depth + 1);
        }
        asthra_runtime_shutdown();
    }
}

static atomic_int was_cancelled;
static void *masked_awaiter(void *status) {
    AsthraTaskHandle child = asthra_spawn(wait_for_ever, status);
    asthra_cancel_mask_begin();
    do CHECK_EQ(asthra_await_timeout(child, ASTHRA_MS(1), NULL).status, ASTHRA_TIMED_OUT);
    while (!atomic_load(&was_cancelled) || asthra_task_state(child) != ASTHRA_TASK_WAITING);
    asthra_cancel_mask_end();
    CHECK(asthra_cancel_requested());
    asthra_task_cancel(child);
    asthra_await(child);
    return NULL;
}

TEST(task, a_masked_awaiter_does_not_forward) {
    uint32_t status = 99;
    AsthraTaskHandle h = asthra_spawn(masked_awaiter, &status);
    until_waiting(h);
    CHECK(asthra_task_cancel(h));
    atomic_store(&was_cancelled, 1);
    asthra_await(h);
    CHECK_EQ(status, ASTHRA_CANCELLED);
}

/* ---- panics ---- */

TEST(task, a_failed_task_is_reported_with_its_message) {
    start_failing_tasks(2);
    void *value = NUMBER(1);
    AsthraResult r = asthra_await_result(asthra_spawn(fails, "disk on fire"), &value);
    CHECK_EQ(r.status, ASTHRA_PANICKED);
    CHECK_STR(asthra_result_message(r), "disk on fire");
    CHECK(value == NULL);
    CHECK_EQ((intptr_t)asthra_await(asthra_spawn(add_one, NUMBER(1))), 2);
}

TEST_PANICS(task, a_plain_await_of_a_failed_task_panics_with_its_message, "panic: disk on fire") {
    asthra_panic_set_hook(NULL, NULL);
    start_failing_tasks(2);
    AsthraTaskHandle h = asthra_spawn(fails, "disk on fire");
    asthra_sleep_ns(ASTHRA_MS(1));
    asthra_await(h);
}

static void *awaits_a_failing_child(void *text) {
    asthra_await(asthra_spawn(fails, text));
    return NULL;
}

TEST(task, a_panic_goes_up_one_await_at_a_time) {
    start_failing_tasks(2);
    for (int i = 0; i < 100; i++) {
        AsthraResult r = asthra_await_result(asthra_spawn(awaits_a_failing_child, "deep"), NULL);
        CHECK_EQ(r.status, ASTHRA_PANICKED);
        CHECK_STR(asthra_result_message(r), "deep");
    }
}

static void *survives_a_failing_child(void *text) {
    int mine = 17;
    AsthraResult r = asthra_await_result(asthra_spawn(fails, text), NULL);
    CHECK_EQ(r.status, ASTHRA_PANICKED);
    CHECK_EQ(mine, 17);
    CHECK(asthra_task_current().bits != 0);
    return NUMBER(5);
}

TEST(task, a_panic_in_place_stops_at_the_child) {
    start_failing_tasks(1);
    for (int i = 0; i < 500; i++) {
        CHECK_EQ((intptr_t)asthra_await(asthra_spawn(survives_a_failing_child, "child")), 5);
    }
}

static void *fails_after_waiting(void *text) {
    asthra_yield();
    asthra_sleep_ns(1000);
    asthra_panic_at(NULL, "%s", (const char *)text);
}

TEST(task, many_tasks_fail_at_once) {
    enum { N = 200 };
    AsthraTaskHandle h[N];
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = 4;
    c.panic_policy = ASTHRA_PANIC_FAIL_TASK;
    c.enable_panic_handler = false;
    CHECK(asthra_runtime_init(&c));
    for (int i = 0; i < N; i++) {
        h[i] = asthra_spawn(i % 2 ? fails : fails_after_waiting, i % 3 ? "a third" : "others");
    }
    for (int i = 0; i < N; i++) {
        AsthraResult r = asthra_await_result(h[i], NULL);
        CHECK_EQ(r.status, ASTHRA_PANICKED);
        CHECK_STR(asthra_result_message(r), i % 3 ? "a third" : "others");
    }
    asthra_runtime_shutdown();
}

static void *fails_softly(void *text) {
    asthra_panic_set_policy(ASTHRA_PANIC_FAIL_TASK);
    asthra_panic_at(NULL, "%s", (const char *)text);
}

TEST(task, the_policy_can_be_the_tasks_own) {
    AsthraResult r = asthra_await_result(asthra_spawn(fails_softly, "soft"), NULL);
    CHECK_EQ(r.status, ASTHRA_PANICKED);
}

TEST_PANICS(task, by_default_a_panic_of_a_task_ends_the_process, "in task 'fails at ") {
    asthra_await(asthra_spawn(fails, "hard"));
}

TEST(task, a_detached_task_may_fail) {
    start_failing_tasks(2);
    for (int i = 0; i < 200; i++) asthra_task_detach(asthra_spawn(fails, "alone"));
    asthra_runtime_shutdown();
}

static void *last_error_is_mine(void *number) {
    char text[32];
    snprintf(text, sizeof text, "error %d", (int)(intptr_t)number);
    CHECK_EQ(asthra_last_error().status, ASTHRA_OK);
    asthra_result_errorf(ASTHRA_FAILED, "%s", text);
    for (int i = 0; i < 20; i++) {
        asthra_yield();
        CHECK_STR(asthra_result_message(asthra_last_error()), text);
    }
    return NULL;
}

TEST(task, each_task_has_a_last_error_of_its_own) {
    AsthraTaskHandle h[50];
    start(4);
    for (int i = 0; i < 50; i++) h[i] = asthra_spawn(last_error_is_mine, NUMBER(i));
    for (int i = 0; i < 50; i++) asthra_await(h[i]);
    CHECK_EQ(asthra_last_error().status, ASTHRA_OK);
}

/* ---- what stays as it was ---- */

/* Compilers keep the address of errno over a call; after a wait that may be another thread's. */
__attribute__((noinline)) static int *errno_now(void) {
    int *place = &errno;
    __asm__ volatile("" : "+r"(place));
    return place;
}

static void *errno_is_mine(void *number) {
    int mine = (int)(intptr_t)number;
    *errno_now() = mine;
    for (int i = 0; i < 50; i++) {
        asthra_yield();
        CHECK_EQ(*errno_now(), mine);
        asthra_sleep_ns(i * 100);
        CHECK_EQ(*errno_now(), mine);
    }
    AsthraTaskHandle h = asthra_spawn(add_one, NULL);
    CHECK_EQ(*errno_now(), mine);
    asthra_await(h);
    CHECK_EQ(*errno_now(), mine);
    AsthraTaskHandle other = asthra_spawn(wait_for_ever, NULL);
    CHECK_EQ(asthra_await_timeout(other, 1000, NULL).status, ASTHRA_TIMED_OUT);
    CHECK_EQ(*errno_now(), mine);
    asthra_task_cancel(other);
    asthra_await(other);
    CHECK_EQ(*errno_now(), mine);
    return NULL;
}

TEST(task, errno_stays_with_its_task) {
    AsthraTaskHandle h[40];
    start(4);
    errno = 1000;
    for (int i = 0; i < 40; i++) h[i] = asthra_spawn(errno_is_mine, NUMBER(i + 1));
    CHECK_EQ(errno, 1000);
    for (int i = 0; i < 40; i++) asthra_await(h[i]);
    CHECK_EQ(errno, 1000);
}

static void *breaks_errno(void *unused) {
    *errno_now() = 77;
    return unused;
}

TEST(task, a_child_in_place_leaves_errno_alone) {
    start(1);
    for (int i = 0; i < 100; i++) {
        errno = i;
        asthra_await(asthra_spawn(breaks_errno, NULL));
        CHECK_EQ(errno, i);
    }
}

#if defined(FE_UPWARD) && defined(FE_TONEAREST)
static void *rounds(void *unused) {
    CHECK_EQ(fegetround(), FE_TONEAREST);
    fesetround(FE_DOWNWARD);
    for (int i = 0; i < 10; i++) {
        asthra_yield();
        CHECK_EQ(fegetround(), FE_DOWNWARD);
    }
    return unused;
}

TEST(task, a_fresh_task_rounds_to_nearest_and_keeps_its_mode) {
    for (size_t workers = 1; workers <= 3; workers++) {
        AsthraTaskHandle h[20];
        start(workers);
        fesetround(FE_UPWARD);
        for (int i = 0; i < 20; i++) {
            asthra_await(asthra_spawn(rounds, NULL));
            CHECK_EQ(fegetround(), FE_UPWARD);
        }
        for (int i = 0; i < 20; i++) h[i] = asthra_spawn(rounds, NULL);
        for (int i = 0; i < 20; i++) asthra_await(h[i]);
        CHECK_EQ(fegetround(), FE_UPWARD);
        asthra_runtime_shutdown();
        CHECK_EQ(fegetround(), FE_UPWARD);
        fesetround(FE_TONEAREST);
    }
}
#endif

/* ---- depth and number ---- */

static void *deep(void *depth) {
    intptr_t left = (intptr_t)depth;
    if (left == 0) return NULL;
    return NUMBER((intptr_t)asthra_await(asthra_spawn(deep, NUMBER(left - 1))) + 1);
}

static void go_deep(size_t workers) {
    intptr_t depth = UNDER_TSAN ? 1000 : 100000;
    start(workers);
    for (int i = 0; i < (test_thrift() == 20 ? 1 : 3); i++) {
        CHECK_EQ((intptr_t)asthra_await(asthra_spawn(deep, NUMBER(depth))), depth);
    }
    asthra_runtime_shutdown();
}

TEST_WITHIN(60, task, a_chain_of_100000_awaits_on_one_worker) {
    go_deep(1);
}
TEST_WITHIN(60, task, a_chain_of_100000_awaits_on_two_workers) {
    go_deep(2);
}

TEST_WITHIN(60, task, a_chain_of_100000_awaits_is_cancelled_to_its_end) {
    intptr_t depth = UNDER_TSAN ? 1000 : UNDER_ASAN ? 10000 : 100000;
    start(2);
    AsthraTaskHandle h = asthra_spawn(chain, NUMBER(depth));
    asthra_sleep_ns(ASTHRA_MS(5));
    asthra_task_cancel(h);
    void *value = NULL;
    asthra_await_result(h, &value);
    CHECK((intptr_t)value <= depth + 1);
}

static AsthraChannel *gate;
static void *passes_the_gate(void *n) {
    int value;
    asthra_channel_receive(gate, &value);
    return n;
}

static void crowd(intptr_t count) {
    AsthraTaskHandle *h = malloc((size_t)count * sizeof *h);
    CHECK(h != NULL);
    gate = asthra_channel_create(sizeof(int), 0, "gate");
    for (intptr_t i = 0; i < count; i++) {
        h[i] = asthra_spawn(passes_the_gate, NUMBER(i));
        CHECK(h[i].bits != 0);
    }
    for (intptr_t i = 0; i < count; i++) {
        while (asthra_task_state(h[i]) != ASTHRA_TASK_WAITING) asthra_sleep_ns(1000);
    }
    asthra_channel_close(gate);
    for (intptr_t i = 0; i < count; i++) CHECK_EQ((intptr_t)asthra_await(h[i]), i);
    asthra_channel_destroy(gate);
    free(h);
}

TEST_WITHIN(60, task, ten_thousand_tasks_wait_at_once) {
    start(2);
    crowd(UNDER_TSAN ? 2000 : 10000); /* ThreadSanitizer has room for 8,128 fibers */
    asthra_runtime_shutdown();
}

static size_t memory_available(void) {
    size_t kib = 0;
    char line[128];
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "MemAvailable: %zu kB", &kib) == 1) break;
    }
    if (f) fclose(f);
    return kib * 1024;
}

TEST_WITHIN(180, task, a_million_tasks_wait_at_once) {
    struct rlimit space;
    if (UNDER_TSAN || UNDER_ASAN) SKIP("a million stacks: not under a sanitizer");
    if (sizeof(void *) < 8) SKIP("a million stacks: not in a 32-bit address space");
    if (test_is_emulated()) SKIP("a million stacks: not under an emulator");
    if (memory_available() < (size_t)10 << 30) SKIP("a million stacks: needs 10 GB of free memory");
    if (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur != RLIM_INFINITY)
        SKIP("a million stacks: the address space is limited");
    start(2);
    crowd(1000000);
    asthra_runtime_shutdown();
}

/* ---- stacks ---- */

__attribute__((noinline)) static size_t use_stack(size_t bytes) {
    volatile char frame[2048];
    frame[0] = frame[sizeof frame - 1] = (char)bytes;
    size_t deeper = bytes > sizeof frame ? use_stack(bytes - sizeof frame) : 0;
    return deeper + (size_t)frame[0] * 0 + 1;
}

static void *uses(void *bytes) {
    return NUMBER(use_stack((size_t)bytes));
}

enum { HALF_A_STACK = (sizeof(void *) < 8 ? 64 : 256) / 2 * 1024 };

static void *nested_uses(void *depth) {
    intptr_t left = (intptr_t)depth;
    use_stack(UNDER_ASAN ? 20000 : HALF_A_STACK / 2 - 5536);
    if (left > 0) asthra_await(asthra_spawn(nested_uses, NUMBER(left - 1)));
    use_stack(UNDER_ASAN ? 40000 : HALF_A_STACK - 8192);
    return NULL;
}

TEST(task, every_task_can_use_half_of_the_default_stack) {
    start(1);
    asthra_await(asthra_spawn(uses, NUMBER(UNDER_ASAN ? 60000 : HALF_A_STACK - 3072)));
    asthra_await(asthra_spawn(nested_uses, NUMBER(30)));
    asthra_runtime_shutdown();
    start(2);
    asthra_await(asthra_spawn(nested_uses, NUMBER(30)));
}

TEST(task, stack_bytes_are_there) {
    static const size_t sizes[] = {1, 4096, 100000, 200000, 1 << 20, 8 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        AsthraSpawnOptions o = {.stack_bytes = sizes[i]};
        size_t use = sizes[i] < 65536 ? 1000 : sizes[i] - 8192;
        for (int k = 0; k < 3; k++) {
            AsthraTaskHandle h = asthra_spawn_with(&o, uses, NUMBER(UNDER_ASAN ? use / 3 : use));
            asthra_await(h);
        }
    }
}

static void *waits_for_its_turn(void *turn) {
    CHECK_EQ(asthra_channel_receive(turn, NULL).status, ASTHRA_CLOSED);
    return NUMBER(use_stack(100000));
}

TEST(task, all_stacks_may_be_large_and_slabs_of_them_need_no_more_addresses_than_they) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    AsthraTaskHandle h[13];
    if (UNDER_ASAN || UNDER_TSAN) SKIP("large stacks: a sanitizer touches all of them");
    c.worker_threads = 1;
    c.stack_size = (size_t)120 << 20;
    CHECK(asthra_runtime_init(&c));
    AsthraChannel *turn = asthra_channel_create(1, 0, NULL);
    for (int i = 0; i < 13; i++) h[i] = asthra_spawn(waits_for_its_turn, turn);
    for (int i = 0; i < 13; i++) until_waiting(h[i]);
    asthra_channel_close(turn);
    for (int i = 0; i < 13; i++) asthra_await(h[i]);
    asthra_channel_destroy(turn);
}

TEST(task, tasks_with_large_stacks_wait_and_move) {
    AsthraSpawnOptions o = {.stack_bytes = 1 << 20};
    AsthraTaskHandle h[20];
    start(3);
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 20; i++) h[i] = asthra_spawn_with(&o, errno_is_mine, NUMBER(i + 1));
        for (int i = 0; i < 20; i++) asthra_await(h[i]);
    }
    asthra_runtime_shutdown();
}

TEST(task, a_stack_that_cannot_be_had_waits_or_panics_and_never_crashes) {
    AsthraSpawnOptions o = {.stack_bytes = SIZE_MAX / (sizeof(size_t) > 4 ? 2048 : 16)};
    test_crowd_addresses();
    pid_t child = fork();
    if (child == 0) {
        asthra_await(asthra_spawn_with(&o, add_one, NULL));
        _exit(0);
    }
    int status = 0;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status) || (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT));
}

TEST(task, a_stack_beyond_all_memory_is_a_failed_spawn) {
    AsthraSpawnOptions o = {.stack_bytes = SIZE_MAX};
    CHECK_EQ(asthra_spawn_with(&o, add_one, NULL).bits, 0);
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
    CHECK(strstr(asthra_result_message(asthra_last_error()), "stack_bytes") != NULL);
}

#if !UNDER_ASAN && !UNDER_TSAN
static size_t bottomless(size_t n);
static size_t (*volatile deeper)(size_t) = bottomless; /* seen through, it would warn */
static size_t bottomless(size_t n) {
    volatile char frame[512];
    frame[0] = (char)n;
    return deeper(n + 1) + (size_t)frame[0];
}
static void *overflows(void *unused) {
    (void)unused;
    return NUMBER(bottomless(1));
}
static void *overflows_after_a_wait(void *unused) {
    asthra_yield();
    asthra_sleep_ns(1000);
    return overflows(unused);
}

TEST_PANICS(task, an_overflow_names_the_task_the_size_and_the_fix,
            " KiB; give it more with stack_bytes in AsthraSpawnOptions") {
    NEED_REGISTERS();
    AsthraSpawnOptions o = {.name = "greedy", .priority = 1};
    asthra_await(asthra_spawn_with(&o, overflows, NULL));
}

static void *holds_an_overflowing_child(void *unused) {
    asthra_yield(); /* off the thread's own stack */
    asthra_await(asthra_spawn(overflows, unused));
    return NULL;
}

TEST_PANICS(task, an_overflow_in_place_names_those_below,
            "on a stack that it shares with 'parent'") {
    NEED_REGISTERS();
    AsthraSpawnOptions o = {.name = "parent", .priority = 1};
    start(1);
    asthra_await(asthra_spawn_with(&o, holds_an_overflowing_child, NULL));
}

TEST_PANICS(task, an_overflow_of_mains_own_stack_is_told_too,
            "stack overflow: task 'overflows at ") {
    NEED_REGISTERS();
    struct rlimit small = {1 << 20, 1 << 20};
    setrlimit(RLIMIT_STACK, &small);
    start(1);
    asthra_await(asthra_spawn(overflows, NULL)); /* in place: on main's stack */
}

TEST(task, an_overflow_can_fail_its_task_and_the_rest_goes_on) {
    NEED_REGISTERS();
    Range hundred = {0, 100};
    start_failing_tasks(2);
    AsthraSpawnOptions large = {.stack_bytes = 600000}, ranked = {.priority = 1};
    for (int i = 0; i < 30; i++) {
        AsthraTaskFunction fn = i % 2 ? overflows : overflows_after_a_wait;
        const AsthraSpawnOptions *o = i % 3 == 0 ? &large : i % 3 == 1 ? &ranked : NULL;
        AsthraTaskHandle h = asthra_spawn_with(o, fn, NULL);
        asthra_sleep_ns(ASTHRA_MS(1)); /* not in place on main's own stack */
        AsthraResult r = asthra_await_result(h, NULL);
        CHECK_EQ(r.status, ASTHRA_PANICKED);
        CHECK(strncmp(asthra_result_message(r), "stack overflow", 14) == 0);
        CHECK_EQ((intptr_t)asthra_await(asthra_spawn(sum_range, &hundred)), 4950);
    }
    asthra_runtime_shutdown();
}
#endif

/* ---- order and fairness: turns are counted, not time ---- */

static int order[64];
static atomic_int order_count;
static void *notes(void *number) {
    order[atomic_fetch_add(&order_count, 1)] = (int)(intptr_t)number;
    return NULL;
}

TEST(task, higher_priority_runs_earlier_and_equals_in_order) {
    AsthraTaskHandle h[12];
    start(1);
    for (int i = 0; i < 12; i++) {
        AsthraSpawnOptions o = {.priority = i % 4 - 1};
        h[i] = asthra_spawn_with(&o, notes, NUMBER(i % 4 * 100 + i));
    }
    asthra_sleep_ns(0);
    for (int i = 0; i < 12; i++) asthra_await(h[i]);
    int before = 400;
    for (int i = 0; i < 12; i++) {
        CHECK(order[i] / 100 <= before / 100);
        bool is_plain = order[i] / 100 == 1; /* those may run newest first */
        if (order[i] / 100 == before / 100 && !is_plain) CHECK(order[i] > before);
        before = order[i];
    }
}

TEST(task, yield_lets_others_run) {
    atomic_int flag = 0;
    start(1);
    AsthraTaskHandle waiter = asthra_spawn(spin_until, &flag);
    AsthraTaskHandle other = asthra_spawn(spin_until, &flag);
    for (int i = 0; i < 1000; i++) asthra_yield();
    atomic_store(&flag, 1);
    while (asthra_task_state(waiter) != ASTHRA_TASK_COMPLETED) asthra_yield();
    asthra_await(waiter);
    asthra_await(other);
}

typedef struct Race {
    atomic_long turns; /* of those that take every turn they can */
    atomic_int stop;
    AsthraChannel *there, *back;
    long most; /* what the third saw at its end */
    int steps;
} Race;

static void *ping(void *args) {
    Race *r = args;
    int ball = 0;
    while (asthra_channel_send(r->there, &ball).status == ASTHRA_OK) {
        atomic_fetch_add(&r->turns, 1);
        if (asthra_channel_receive(r->back, &ball).status) break;
    }
    return NULL;
}
static void *pong(void *args) {
    Race *r = args;
    int ball;
    while (asthra_channel_receive(r->there, &ball).status == ASTHRA_OK) {
        atomic_fetch_add(&r->turns, 1);
        if (asthra_channel_send(r->back, &ball).status) break;
    }
    return NULL;
}
static void *yields(void *args) {
    Race *r = args;
    while (!atomic_load(&r->stop)) {
        atomic_fetch_add(&r->turns, 1);
        asthra_yield();
    }
    return NULL;
}
/* Counts the others' turns in each of its own waits for a turn. */
static void *third(void *args) {
    Race *r = args;
    for (int i = 0; i < r->steps; i++) {
        long before = atomic_load(&r->turns);
        asthra_yield();
        long took = atomic_load(&r->turns) - before;
        if (took > r->most) r->most = took;
    }
    return NULL;
}

static void end_race(Race *r, AsthraTaskHandle a, AsthraTaskHandle b) {
    atomic_store(&r->stop, 1);
    if (r->there) asthra_channel_close(r->there);
    if (r->back) asthra_channel_close(r->back);
    asthra_await(a);
    asthra_await(b);
}

static void race(AsthraTaskFunction one, AsthraTaskFunction two, int priority, int third_priority) {
    Race r = {.steps = 200};
    AsthraSpawnOptions o = {.priority = priority}, t = {.priority = third_priority};
    start(1);
    r.there = asthra_channel_create(sizeof(int), 0, "there");
    r.back = asthra_channel_create(sizeof(int), 0, "back");
    AsthraTaskHandle a = asthra_spawn_with(&o, one, &r), b = asthra_spawn_with(&o, two, &r);
    AsthraTaskHandle c = asthra_spawn_with(&t, third, &r);
    while (asthra_task_state(c) != ASTHRA_TASK_COMPLETED) asthra_sleep_ns(ASTHRA_MS(1));
    asthra_await(c);
    end_race(&r, a, b);
    /* Ahead of it: two tasks and main, 64 turns for each at most. */
    if (r.most > 64 * 4) fprintf(stderr, "%ld turns\n", r.most);
    CHECK(r.most <= 64 * 4);
    asthra_channel_destroy(r.there);
    asthra_channel_destroy(r.back);
}

TEST(task, a_pair_that_plays_ping_pong_starves_nobody) {
    race(ping, pong, 0, 0);
}
TEST(task, yielders_starve_nobody) {
    race(yields, yields, 0, 0);
}
TEST(task, urgent_yielders_starve_nobody) {
    race(yields, yields, 5, 0);
}
TEST(task, urgent_ping_pong_starves_nobody) {
    race(ping, pong, 5, 0);
}
TEST(task, plain_yielders_do_not_starve_the_background) {
    race(yields, yields, 0, -1);
}
TEST(task, urgent_yielders_do_not_starve_the_background) {
    race(yields, yields, 3, -1);
}

TEST(task, a_main_that_yields_starves_nobody) {
    Race r = {.steps = 200};
    start(1);
    AsthraTaskHandle c = asthra_spawn(third, &r);
    for (long turns = 0; asthra_task_state(c) != ASTHRA_TASK_COMPLETED; turns++) {
        CHECK(turns < 64L * 200 * 3);
        asthra_yield();
    }
    asthra_await(c);
}

static void *bound_yields(void *args) {
    return yields(args);
}
TEST(task, bound_yielders_starve_nobody) {
    Race r = {.steps = 200};
    AsthraSpawnOptions o = {.affinity = ASTHRA_AFFINITY_WORKER(0)};
    start(1);
    AsthraTaskHandle a = asthra_spawn_with(&o, bound_yields, &r);
    AsthraTaskHandle b = asthra_spawn_with(&o, bound_yields, &r), c = asthra_spawn(third, &r);
    while (asthra_task_state(c) != ASTHRA_TASK_COMPLETED) asthra_sleep_ns(ASTHRA_MS(1));
    asthra_await(c);
    end_race(&r, a, b);
    CHECK(r.most <= 64 * 4);
}

static void *forks_for_ever(void *args) {
    Race *r = args;
    while (!atomic_load(&r->stop)) {
        atomic_fetch_add(&r->turns, 1);
        asthra_await(asthra_spawn(add_one, NULL));
    }
    return NULL;
}

TEST(task, awaits_in_place_starve_nobody) {
    Race r = {.steps = 50};
    start(1);
    AsthraTaskHandle a = asthra_spawn(forks_for_ever, &r), b = asthra_spawn(forks_for_ever, &r);
    AsthraTaskHandle c = asthra_spawn(third, &r);
    while (asthra_task_state(c) != ASTHRA_TASK_COMPLETED) asthra_sleep_ns(ASTHRA_MS(1));
    asthra_await(c);
    end_race(&r, a, b);
}

/* ---- where a task runs ---- */

static pthread_t main_thread;
static void *on_main(void *unused) {
    for (int i = 0; i < 20; i++) {
        CHECK(pthread_equal(pthread_self(), main_thread));
        if (i % 2)
            asthra_yield();
        else
            asthra_sleep_ns(1000);
        asthra_await(asthra_spawn(add_one, NULL));
    }
    return unused;
}

TEST(task, affinity_main_runs_on_the_main_thread_alone) {
    main_thread = pthread_self();
    AsthraSpawnOptions o = {.affinity = ASTHRA_AFFINITY_MAIN};
    for (size_t workers = 1; workers <= 4; workers++) {
        AsthraTaskHandle h[10];
        start(workers);
        for (int i = 0; i < 10; i++) h[i] = asthra_spawn_with(&o, on_main, NULL);
        for (int i = 0; i < 10; i++) asthra_await(h[i]);
        asthra_runtime_shutdown();
    }
}

static void *stays(void *out) {
    pthread_t first = pthread_self();
    for (int i = 0; i < 50; i++) {
        asthra_sleep_ns(i * 100);
        CHECK(pthread_equal(pthread_self(), first));
    }
    *(pthread_t *)out = first;
    return NULL;
}

TEST(task, affinity_to_a_worker_holds_for_the_whole_task) {
    NEED_THREADS();
    AsthraTaskHandle h[4][3];
    pthread_t seen[4][3];
    start(4);
    for (int w = 0; w < 4; w++) {
        AsthraSpawnOptions o = {.affinity = ASTHRA_AFFINITY_WORKER(w)};
        for (int i = 0; i < 3; i++) h[w][i] = asthra_spawn_with(&o, stays, &seen[w][i]);
    }
    for (int w = 0; w < 4; w++) {
        for (int i = 0; i < 3; i++) asthra_await(h[w][i]);
        CHECK(pthread_equal(seen[w][0], seen[w][1]) && pthread_equal(seen[w][0], seen[w][2]));
        for (int v = 0; v < w; v++) CHECK(!pthread_equal(seen[w][0], seen[v][0]));
    }
}

TEST(task, a_worker_that_does_not_exist_is_refused) {
    NEED_THREADS();
    AsthraSpawnOptions o = {.affinity = ASTHRA_AFFINITY_WORKER(2)};
    start(2);
    CHECK_EQ(asthra_spawn_with(&o, add_one, NULL).bits, 0);
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
    o.affinity = -2;
    CHECK_EQ(asthra_spawn_with(&o, add_one, NULL).bits, 0);
    o.affinity = ASTHRA_AFFINITY_WORKER(1);
    CHECK_EQ((intptr_t)asthra_await(asthra_spawn_with(&o, add_one, NULL)), 1);
}

TEST(task, a_hosting_main_runs_no_tasks) {
    NEED_THREADS();
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.main_thread = ASTHRA_MAIN_HOSTS;
    c.worker_threads = 1;
    CHECK(asthra_runtime_init(&c));
    AsthraSpawnOptions o = {.affinity =
                                ASTHRA_AFFINITY_WORKER(1)}; /* main is no worker of theirs */
    CHECK_EQ(asthra_spawn_with(&o, add_one, NULL).bits, 0);
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
    pthread_t seen = pthread_self();
    asthra_await(asthra_spawn(stays, &seen));
    CHECK(!pthread_equal(seen, pthread_self()));
    AsthraTaskHandle h = asthra_spawn(wait_for_ever, NULL);
    CHECK_EQ(asthra_await_timeout(h, ASTHRA_MS(1), NULL).status, ASTHRA_TIMED_OUT);
    asthra_task_cancel(h);
    asthra_await(h);
    asthra_runtime_shutdown();
}

/* ---- plain threads ---- */

static void *thread_does_all(void *unused) {
    char back[100];
    errno = 55;
    AsthraTaskHandle h = asthra_spawn(add_one, NUMBER(1));
    CHECK_EQ((intptr_t)asthra_await(h), 2);
    h = asthra_spawn_copy(returns_its_block, "hello", 6);
    CHECK_EQ(asthra_await_copy(h, back, 6).status, ASTHRA_OK);
    CHECK_STR(back, "hello");
    h = asthra_spawn(wait_for_ever, NULL);
    CHECK_EQ(asthra_await_timeout(h, ASTHRA_US(100), NULL).status, ASTHRA_TIMED_OUT);
    CHECK(asthra_task_cancel(h));
    CHECK_EQ(asthra_await_result(h, NULL).status, ASTHRA_CANCELLED);
    AsthraSpawnOptions o = {.name = "named", .priority = 2, .stack_bytes = 300000};
    h = asthra_spawn_with(&o, add_one, NULL);
    CHECK_STR(asthra_task_name(h), "named");
    AsthraTaskHandle again = asthra_task_retain(h);
    CHECK_EQ((intptr_t)asthra_await(h), 1);
    CHECK_EQ((intptr_t)asthra_await(again), 1);
    asthra_task_detach(asthra_spawn(counts, NULL));
    asthra_yield();
    CHECK_EQ(asthra_task_current().bits, 0);
    CHECK_EQ(asthra_sleep_ns(1000).status, ASTHRA_OK);
    int most = UNDER_TSAN ? 50 : 500;
    Range all = {0, most};
    CHECK_EQ((intptr_t)asthra_await(asthra_spawn(sum_range, &all)), most * (most - 1) / 2);
    CHECK_EQ(errno, 55);
    return unused;
}

static void many_plain_threads(size_t workers, bool main_waits_outside) {
    pthread_t t[8];
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = workers;
    CHECK(asthra_runtime_init(&c));
    atomic_store(&ran, 0);
    for (int i = 0; i < 8; i++) CHECK_EQ(pthread_create(&t[i], NULL, thread_does_all, NULL), 0);
    if (!main_waits_outside) thread_does_all(NULL);
    for (int i = 0; i < 8; i++) pthread_join(t[i], NULL);
    asthra_runtime_shutdown();
    CHECK_EQ(atomic_load(&ran), main_waits_outside ? 8 : 9);
}

TEST(task, plain_threads_may_call_everything) {
    many_plain_threads(2, false);
}
TEST(task, plain_threads_may_call_everything_while_main_is_away) {
    many_plain_threads(2, true);
}
TEST(task, plain_threads_beside_a_single_worker) {
    many_plain_threads(1, false);
}
TEST(task, plain_threads_beside_a_single_worker_that_is_away) {
    many_plain_threads(1, true);
}

static void *thread_awaits(void *handle) {
    return asthra_await(*(AsthraTaskHandle *)handle);
}

TEST(task, a_plain_thread_awaits_what_main_spawned_while_the_single_worker_is_away) {
    pthread_t t;
    void *value = NULL;
    start(1);
    AsthraTaskHandle h = asthra_spawn(add_one, NUMBER(1));
    CHECK_EQ(pthread_create(&t, NULL, thread_awaits, &h), 0);
    pthread_join(t, &value); /* main is not in the runtime */
    CHECK_EQ((intptr_t)value, 2);
    asthra_runtime_shutdown();
}

static void *thread_receives(void *channel) {
    int value = 0;
    CHECK_EQ(asthra_channel_receive(channel, &value).status, ASTHRA_OK);
    return NUMBER(value);
}
static void *sends_nine(void *channel) {
    int nine = 9;
    asthra_yield();
    asthra_channel_send(channel, &nine);
    return NULL;
}

TEST(task, a_plain_thread_receives_from_a_task_while_the_single_worker_is_away) {
    pthread_t t;
    void *value = NULL;
    start(1);
    AsthraChannel *c = asthra_channel_create(sizeof(int), 0, "c");
    AsthraTaskHandle h = asthra_spawn(sends_nine, c);
    CHECK_EQ(pthread_create(&t, NULL, thread_receives, c), 0);
    pthread_join(t, &value);
    CHECK_EQ((intptr_t)value, 9);
    asthra_await(h);
    asthra_channel_destroy(c);
}

TEST(task, after_a_relief_main_still_runs_what_is_bound_to_it) {
    pthread_t t;
    start(1);
    CHECK_EQ(pthread_create(&t, NULL, thread_does_all, NULL), 0);
    pthread_join(t, NULL);
    main_thread = pthread_self();
    AsthraSpawnOptions o = {.affinity = ASTHRA_AFFINITY_MAIN};
    AsthraTaskHandle h[5];
    for (int i = 0; i < 5; i++) h[i] = asthra_spawn_with(&o, on_main, NULL);
    for (int i = 0; i < 5; i++) asthra_await(h[i]);
    sum_range(&(Range){0, 1000});
    asthra_runtime_shutdown();
}

/* Whoever cancels a chain of awaits holds a handle of its first task only: the others may end, and
 * their descriptors be used again, while the cancel is on its way to them. */
static atomic_int stop_all;
static _Atomic uint64_t chain_handle;

static void *sleeps_a_little(void *status) {
    *(uint32_t *)status = asthra_sleep_ns(1000).status;
    return NULL;
}
static void *short_chain(void *depth) {
    intptr_t left = (intptr_t)depth;
    uint32_t status;
    if (left == 0) return sleeps_a_little(&status);
    AsthraTaskHandle child = asthra_spawn(short_chain, NUMBER(left - 1));
    if (left % 2) asthra_yield();
    asthra_await_result(child, NULL);
    return NULL;
}
static void *cancels_all_day(void *unused) {
    while (!atomic_load(&stop_all)) {
        AsthraTaskHandle h = {atomic_exchange(&chain_handle, 0)};
        if (h.bits == 0) continue;
        asthra_task_cancel(h);
        asthra_task_detach(h);
    }
    return unused;
}

TEST(task, a_late_cancel_never_hits_the_next_task_in_its_place) {
    pthread_t t[2];
    start(3);
    for (int i = 0; i < 2; i++) CHECK_EQ(pthread_create(&t[i], NULL, cancels_all_day, NULL), 0);
    for (int i = 0; i < (UNDER_TSAN ? 100 : 5000 / (int)test_thrift()); i++) {
        uint32_t status[4] = {99, 99, 99, 99};
        AsthraTaskHandle bystanders[4], victim = asthra_spawn(short_chain, NUMBER(3));
        AsthraTaskHandle second = asthra_task_retain(victim);
        if (i % 2) asthra_yield();
        atomic_store(&chain_handle, second.bits);
        asthra_await_result(victim, NULL);
        second.bits = atomic_exchange(&chain_handle, 0);
        if (second.bits != 0) asthra_task_detach(second);
        for (int k = 0; k < 4; k++) bystanders[k] = asthra_spawn(sleeps_a_little, &status[k]);
        for (int k = 0; k < 4; k++) {
            CHECK_EQ(asthra_await_result(bystanders[k], NULL).status, ASTHRA_OK);
            CHECK_EQ(status[k], ASTHRA_OK);
        }
    }
    atomic_store(&stop_all, 1);
    for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
}

TEST(task, a_safepoint_may_stand_anywhere) {
    for (int i = 0; i < 1000; i++) asthra_safepoint();
    asthra_safepoint_slow();
}

static atomic_int may_go_on;
static void *loops_with_safepoints(void *unused) {
    while (!atomic_load(&may_go_on)) asthra_safepoint();
    return unused;
}
static void *lets_them_go_on(void *unused) {
    atomic_store(&may_go_on, 1);
    return unused;
}
static void *sleeps_then_lets_them_go_on(void *unused) {
    asthra_sleep_ns(ASTHRA_MS(1));
    return lets_them_go_on(unused);
}

/* As many loops as workers, so that nobody is left to watch or to steal. */
static void loops_end(size_t workers, uint64_t seed, AsthraTaskFunction ends_them) {
    AsthraTaskHandle h[8];
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = workers;
    c.deterministic_seed = seed;
    atomic_store(&may_go_on, 0);
    CHECK(asthra_runtime_init(&c));
    for (size_t i = 0; i < 2 * workers; i++) h[i] = asthra_spawn(loops_with_safepoints, NULL);
    asthra_await(asthra_spawn(ends_them, NULL));
    for (size_t i = 0; i < 2 * workers; i++) asthra_await(h[i]);
    asthra_runtime_shutdown();
}
TEST(task, safepoints_let_queued_tasks_run) {
    for (int i = 0; i < 10; i++) {
        loops_end(1, 0, lets_them_go_on);
        loops_end(3, 0, lets_them_go_on);
        loops_end(1, 77 + (uint64_t)i, lets_them_go_on);
    }
}
TEST(task, safepoints_let_timers_fire) {
    for (int i = 0; i < 10; i++) {
        loops_end(1, 0, sleeps_then_lets_them_go_on);
        loops_end(3, 0, sleeps_then_lets_them_go_on);
    }
}

/* Main sleeps on its own stack, which only worker 0 may run, while a task has that worker. */
TEST(task, safepoints_let_main_go_on) {
    AsthraSpawnOptions o = {.affinity = ASTHRA_AFFINITY_MAIN};
    for (size_t workers = 1; workers <= 3; workers++) {
        start(workers);
        atomic_store(&may_go_on, 0);
        AsthraTaskHandle h = asthra_spawn_with(&o, loops_with_safepoints, NULL);
        CHECK_EQ(asthra_sleep_ns(ASTHRA_MS(1)).status, ASTHRA_OK);
        atomic_store(&may_go_on, 1);
        asthra_await(h);
        asthra_runtime_shutdown();
    }
}

/* Where nobody waits the word is 0 again, and a loop costs nothing. */
static void *loops_until_nobody_asks(void *unused) {
    while (asthra_safepoint_word) asthra_safepoint();
    return unused;
}
TEST(task, safepoints_rest_when_nobody_waits) {
    start(1);
    asthra_await(asthra_spawn(loops_until_nobody_asks, NULL));
}
