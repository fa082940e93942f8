/* The promises of src/concurrency/scope.h, one test each. */
#include "test.h"
#include "asthra_rt.h"

#include <stdatomic.h>

static void start_seeded(size_t workers, uint64_t seed) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = workers;
    c.deterministic_seed = seed;
    c.panic_policy = ASTHRA_PANIC_FAIL_TASK;
    CHECK(asthra_runtime_init(&c));
}

static void start(size_t workers) {
    start_seeded(workers, 0);
}

static void until_waiting(AsthraTaskHandle t) {
    while (asthra_task_state(t) != ASTHRA_TASK_WAITING) asthra_sleep_ns(10000);
}

/* What many children count. */
typedef struct Tally {
    atomic_int begun, ended, cancelled;
    AsthraChannel *channel;
} Tally;

typedef struct Job {
    Tally *tally;
    int number;
} Job;

static AsthraResult count_one(void *args) {
    const Job *job = args;
    atomic_fetch_add(&job->tally->begun, 1);
    asthra_yield();
    atomic_fetch_add(&job->tally->ended, 1);
    return asthra_result_ok(NULL);
}

/* Until it is cancelled. */
static AsthraResult linger(void *args) {
    const Job *job = args;
    atomic_fetch_add(&job->tally->begun, 1);
    AsthraResult r = asthra_sleep_ns(ASTHRA_FOREVER);
    CHECK_EQ(r.status, ASTHRA_CANCELLED);
    asthra_yield();
    atomic_fetch_add(&job->tally->cancelled, 1);
    return r;
}

static AsthraResult fail_with_number(void *args) {
    const Job *job = args;
    while (atomic_load(&job->tally->begun) < job->number) asthra_yield();
    return asthra_result_errorf(ASTHRA_LIMIT, "%d begun", job->number);
}

static void check_waits(size_t workers) {
    Tally tally = {0};
    start(workers);
    AsthraScope s;
    ASTHRA_SCOPE(s) {
        CHECK(s.open);
        for (int i = 0; i < 50; i++) {
            Job job = {&tally, i};
            asthra_scope_spawn(&s, count_one, &job, sizeof job);
        }
    }
    CHECK(!s.open);
    CHECK_EQ(s.result.status, ASTHRA_OK);
    CHECK(asthra_result_value(s.result) == NULL);
    CHECK_EQ(atomic_load(&tally.ended), 50);
}

TEST(scope, its_brace_waits_for_all_on_one_worker) {
    check_waits(1);
}
TEST(scope, its_brace_waits_for_all_on_two_workers) {
    check_waits(2);
}

TEST(scope, without_children_it_ends_at_once) {
    AsthraScope s;
    ASTHRA_SCOPE(s) {}
    CHECK_EQ(s.result.status, ASTHRA_OK);
    asthra_scope_begin(&s);
    CHECK_EQ(asthra_scope_end(&s).status, ASTHRA_OK);
}

static void *parent_of_many(void *args) {
    Tally *tally = args;
    AsthraScope s;
    ASTHRA_SCOPE(s) {
        for (int i = 0; i < 20; i++) {
            Job job = {tally, i};
            asthra_scope_spawn(&s, count_one, &job, sizeof job);
        }
        CHECK_EQ(asthra_task_child_count(asthra_task_current()), 20);
    }
    CHECK_EQ(asthra_task_child_count(asthra_task_current()), 0);
    return NULL;
}

TEST(scope, nothing_of_it_is_left_behind_its_brace) {
    Tally tally = {0};
    start(1);
    asthra_await(asthra_spawn(parent_of_many, &tally));
    CHECK_EQ(atomic_load(&tally.ended), 20);
}

/* ---- blocks ---- */

typedef struct Wide {
    unsigned char bytes[3000];
} Wide;

static AsthraResult check_wide(void *args) {
    const Wide *wide = args;
    CHECK_EQ((uintptr_t)args % (2 * sizeof(void *)), 0);
    for (int i = 0; i < 3000; i++) CHECK_EQ(wide->bytes[i], wide->bytes[0]);
    return asthra_result_ok(NULL);
}
static AsthraResult check_zeroes(void *args) {
    for (int i = 0; i < 300; i++) CHECK_EQ(((unsigned char *)args)[i], 0);
    return asthra_result_ok(NULL);
}
static AsthraResult ignore(void *args) {
    CHECK_EQ((uintptr_t)args % (2 * sizeof(void *)), 0);
    return asthra_result_ok(NULL);
}

TEST(scope, blocks_are_copied_zeroed_or_empty) {
    AsthraScope s;
    Wide wide;
    start(1);
    ASTHRA_SCOPE(s) {
        for (int i = 0; i < 10; i++) {
            memset(&wide, i, sizeof wide);
            asthra_scope_spawn(&s, check_wide, &wide, sizeof wide);
            asthra_scope_spawn(&s, check_zeroes, NULL, 300);
            asthra_scope_spawn(&s, ignore, NULL, 0);
            asthra_scope_spawn(&s, ignore, &wide, 0);
        }
    }
    CHECK_EQ(s.result.status, ASTHRA_OK);
}

static AsthraResult check_name(void *unused) {
    (void)unused;
    const char *name = asthra_task_name(asthra_task_current());
    CHECK(strstr(name, "check_name at tests/test_scope.c:") != NULL);
    return asthra_result_ok(NULL);
}

TEST(scope, children_are_named_after_their_expression_and_place) {
    AsthraScope s;
    ASTHRA_SCOPE(s) {
        asthra_scope_spawn(&s, check_name, NULL, 0);
    }
}

/* ---- failures ---- */

static void check_first_error(size_t workers) {
    Tally tally = {0};
    start(workers);
    AsthraScope s;
    ASTHRA_SCOPE(s) {
        Job job = {&tally, 30};
        for (int i = 0; i < 30; i++) asthra_scope_spawn(&s, linger, &job, sizeof job);
        asthra_scope_spawn(&s, fail_with_number, &job, sizeof job);
        for (int i = 0; i < 5; i++) asthra_scope_spawn(&s, linger, &job, sizeof job);
    }
    CHECK_EQ(s.result.status, ASTHRA_LIMIT);
    CHECK_STR(asthra_result_message(s.result), "30 begun");
    CHECK_STR(asthra_result_message(asthra_last_error()), "30 begun");
    CHECK_EQ(atomic_load(&tally.cancelled), atomic_load(&tally.begun));
}

TEST(scope, the_first_failure_cancels_the_others_on_one_worker) {
    check_first_error(1);
}
TEST(scope, the_first_failure_cancels_the_others_on_two_workers) {
    check_first_error(2);
}

static AsthraResult never(void *args) {
    (void)args;
    CHECK(false);
    return asthra_result_ok(NULL);
}

static void *spawn_into_a_failed_one(void *args) {
    Job job = {args, 0};
    AsthraScope s;
    asthra_scope_begin(&s);
    asthra_scope_spawn(&s, fail_with_number, &job, sizeof job);
    while (asthra_task_child_count(asthra_task_current()) > 0) asthra_yield();
    asthra_scope_spawn(&s, never, NULL, 0);
    CHECK_STR(asthra_result_message(asthra_scope_end(&s)), "0 begun");
    return NULL;
}

TEST(scope, in_one_that_failed_nothing_starts_any_more) {
    Tally tally = {0};
    start(1);
    asthra_await(asthra_spawn(spawn_into_a_failed_one, &tally));
}

static AsthraResult fail_in_own_words(void *args) {
    static const int context = 7;
    (void)args;
    return asthra_result_err_with_context("my own words", &context);
}
static AsthraResult fail_without_words(void *args) {
    (void)args;
    AsthraResult r = {ASTHRA_CLOSED, 77, {NULL}};
    return r;
}
static AsthraResult overwrite_errors(void *args) {
    for (int i = 0; i < 10; i++) asthra_result_errorf(ASTHRA_FAILED, "others %d", i);
    return asthra_result_ok(args);
}

TEST(scope, message_context_and_detail_outlive_the_child) {
    AsthraScope s, t;
    ASTHRA_SCOPE(s) {
        asthra_scope_spawn(&s, fail_in_own_words, NULL, 0);
    }
    ASTHRA_SCOPE(t) {
        for (int i = 0; i < 20; i++) asthra_scope_spawn(&t, overwrite_errors, NULL, 0);
    }
    CHECK_EQ(s.result.status, ASTHRA_FAILED);
    CHECK_STR(asthra_result_message(s.result), "my own words");
    CHECK_EQ(*(const int *)asthra_result_context(s.result), 7);
    ASTHRA_SCOPE(s) {
        asthra_scope_spawn(&s, fail_without_words, NULL, 0);
    }
    CHECK_EQ(s.result.status, ASTHRA_CLOSED);
    CHECK_EQ(s.result.detail, 77);
    CHECK_STR(asthra_result_message(s.result), "Channel is closed");
    CHECK(asthra_result_context(s.result) == NULL);
}

static AsthraResult panics(void *args) {
    asthra_panic("child %d gave up", *(int *)args);
}

TEST(scope, a_panic_of_a_child_is_a_failure) {
    Tally tally = {0};
    Job job = {&tally, 0};
    int number = 3;
    AsthraScope s;
    start(1);
    ASTHRA_SCOPE(s) {
        asthra_scope_spawn(&s, linger, &job, sizeof job);
        asthra_scope_spawn(&s, panics, &number, sizeof number);
    }
    CHECK_EQ(s.result.status, ASTHRA_PANICKED);
    CHECK_STR(asthra_result_message(s.result), "child 3 gave up");
    CHECK_EQ(atomic_load(&tally.begun), atomic_load(&tally.cancelled));
}

TEST(scope, a_spawn_that_fails_is_a_failure) {
    Tally tally = {0};
    Job job = {&tally, 0};
    AsthraScope s;
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = 1;
    c.max_tasks = 3;
    CHECK(asthra_runtime_init(&c));
    ASTHRA_SCOPE(s) {
        for (int i = 0; i < 10; i++) asthra_scope_spawn(&s, linger, &job, sizeof job);
    }
    CHECK_EQ(s.result.status, ASTHRA_LIMIT);
    CHECK_STR(asthra_result_message(s.result), "max_tasks: 3 tasks are unfinished already");
    CHECK_EQ(atomic_load(&tally.begun), atomic_load(&tally.cancelled));
    ASTHRA_SCOPE(s) {
        asthra_scope_spawn(&s, count_one, &job, sizeof job); /* none of them counts any more */
        asthra_scope_spawn(&s, count_one, &job, sizeof job);
        asthra_scope_spawn(&s, count_one, &job, sizeof job);
    }
    CHECK_EQ(s.result.status, ASTHRA_OK);
    CHECK_EQ(atomic_load(&tally.ended), 3);
    ASTHRA_SCOPE(s) {
        asthra_scope_spawn(&s, count_one, NULL, SIZE_MAX - 5);
    }
    CHECK_EQ(s.result.status, ASTHRA_OUT_OF_MEMORY);
}

/* An allocator that refuses the nth call, and what it gave and took back. */
static atomic_int calls, refused, live;
static void *counted_alloc(size_t size, void *user) {
    (void)user;
    void *block = atomic_fetch_add(&calls, 1) == atomic_load(&refused) ? NULL : malloc(size);
    if (block) atomic_fetch_add(&live, 1);
    return block;
}
static void *counted_realloc(void *block, size_t size, void *user) {
    (void)user;
    if (atomic_fetch_add(&calls, 1) == atomic_load(&refused)) return NULL;
    if (!block) atomic_fetch_add(&live, 1);
    return realloc(block, size);
}
static void counted_free(void *block, void *user) {
    (void)user;
    if (block) atomic_fetch_sub(&live, 1);
    free(block);
}

static void *fork_and_join(void *args) {
    AsthraScope s;
    Tally *tally = args;
    ASTHRA_SCOPE(s) {
        Job job = {tally, 0};
        for (int i = 0; i < 4; i++) asthra_scope_spawn(&s, count_one, &job, sizeof job);
    }
    return (void *)(uintptr_t)s.result.status;
}

TEST(scope, without_memory_it_fails_and_ends_at_every_allocation) {
    int failures = 0;
    for (int n = 0; n < 40; n++) {
        Tally tally = {0};
        AsthraRuntimeConfig c = asthra_runtime_config_default();
        c.worker_threads = 1;
        c.allocator = (AsthraAllocator){counted_alloc, counted_realloc, counted_free, NULL};
        atomic_store(&refused, -1);
        CHECK(asthra_runtime_init(&c));
        AsthraTaskHandle t = asthra_spawn(fork_and_join, &tally);
        atomic_store(&refused, atomic_load(&calls) + n);
        uintptr_t status = (uintptr_t)asthra_await(t);
        atomic_store(&refused, -1);
        CHECK(status == ASTHRA_OK || status == ASTHRA_OUT_OF_MEMORY);
        CHECK_EQ(atomic_load(&tally.begun), atomic_load(&tally.ended));
        CHECK(status != ASTHRA_OK || atomic_load(&tally.ended) == 4);
        failures += status != ASTHRA_OK;
        asthra_runtime_shutdown();
        CHECK_EQ(atomic_load(&live), 0);
    }
    CHECK(failures >= 5); /* the scope's record, and each block */
}

/* ---- nesting ---- */

static AsthraResult inner_scope(void *args) {
    Job job = *(Job *)args;
    AsthraScope s;
    if (job.number-- == 0) return count_one(args);
    ASTHRA_SCOPE(s) {
        for (int i = 0; i < 3; i++) asthra_scope_spawn(&s, inner_scope, &job, sizeof job);
    }
    return s.result;
}

TEST(scope, scopes_nest_in_children) {
    Tally tally = {0};
    Job job = {&tally, 4};
    start(2);
    CHECK_EQ(inner_scope(&job).status, ASTHRA_OK);
    CHECK_EQ(atomic_load(&tally.ended), 81);
}

TEST(scope, scopes_nest_in_a_block_and_fail_on_their_own) {
    Tally tally = {0};
    Job job = {&tally, 0};
    AsthraScope outer, inner;
    start(2);
    ASTHRA_SCOPE(outer) {
        asthra_scope_spawn(&outer, count_one, &job, sizeof job);
        ASTHRA_SCOPE(inner) {
            asthra_scope_spawn(&inner, fail_in_own_words, NULL, 0);
        }
        CHECK_STR(asthra_result_message(inner.result), "my own words");
        asthra_scope_spawn(&outer, count_one, &job, sizeof job);
    }
    CHECK_EQ(outer.result.status, ASTHRA_OK);
    CHECK_EQ(atomic_load(&tally.ended), 2);
}

static AsthraResult hold_open(void *args) {
    Job job = *(Job *)args;
    AsthraScope s;
    ASTHRA_SCOPE(s) {
        for (int i = 0; i < 4; i++) asthra_scope_spawn(&s, linger, &job, sizeof job);
    }
    CHECK_EQ(s.result.status, ASTHRA_CANCELLED);
    return s.result;
}

TEST(scope, a_failure_reaches_the_children_of_children) {
    Tally tally = {0};
    Job job = {&tally, 12};
    AsthraScope s;
    start(2);
    ASTHRA_SCOPE(s) {
        for (int i = 0; i < 3; i++) asthra_scope_spawn(&s, hold_open, &job, sizeof job);
        asthra_scope_spawn(&s, fail_with_number, &job, sizeof job);
    }
    CHECK_STR(asthra_result_message(s.result), "12 begun");
    CHECK_EQ(atomic_load(&tally.cancelled), 12);
}

typedef struct Family {
    AsthraScope *scope;
    Tally *tally;
    int generations;
} Family;

static AsthraResult have_children(void *args) {
    Family family = *(Family *)args;
    atomic_fetch_add(&family.tally->begun, 1);
    if (family.generations-- == 0) return asthra_result_ok(NULL);
    asthra_scope_spawn(family.scope, have_children, &family, sizeof family);
    asthra_scope_spawn(family.scope, have_children, &family, sizeof family);
    return asthra_result_ok(NULL);
}

static void check_family(size_t workers) {
    Tally tally = {0};
    AsthraScope s;
    start(workers);
    ASTHRA_SCOPE(s) {
        Family family = {&s, &tally, UNDER_TSAN ? 5 : 9};
        asthra_scope_spawn(&s, have_children, &family, sizeof family);
    }
    CHECK_EQ(s.result.status, ASTHRA_OK);
    CHECK_EQ(atomic_load(&tally.begun), UNDER_TSAN ? 63 : 1023);
}

TEST(scope, a_child_may_spawn_into_the_scope_on_one_worker) {
    check_family(1);
}
TEST(scope, a_child_may_spawn_into_the_scope_on_four_workers) {
    check_family(4);
}

TEST(scope, main_may_own_one_however_it_takes_part) {
    for (int i = 0; i < 4; i++) {
        Tally tally = {0};
        AsthraScope s;
        AsthraRuntimeConfig c = asthra_runtime_config_default();
        c.worker_threads = 1 + (size_t)i / 2;
        c.main_thread = i % 2 ? ASTHRA_MAIN_HOSTS : ASTHRA_MAIN_HELPS;
        CHECK(asthra_runtime_init(&c));
        for (int round = 0; round < 2; round++) { /* the second finds everything warm */
            atomic_store(&tally.begun, 0);
            ASTHRA_SCOPE(s) {
                Job job = {&tally, 5};
                for (int n = 0; n < 5; n++) asthra_scope_spawn(&s, linger, &job, sizeof job);
                asthra_scope_spawn(&s, fail_with_number, &job, sizeof job);
            }
            CHECK_STR(asthra_result_message(s.result), "5 begun");
            CHECK_EQ(atomic_load(&tally.cancelled), 5 + 5 * round);
        }
        Job job = {&tally, 3};
        CHECK_EQ(inner_scope(&job).status, ASTHRA_OK);
        CHECK_EQ(atomic_load(&tally.ended), 27);
        asthra_runtime_shutdown();
    }
}

static AsthraResult keep_handle(void *args) {
    AsthraTaskHandle *kept = *(AsthraTaskHandle **)args;
    *kept = asthra_task_retain(asthra_task_current());
    return asthra_result_ok(args);
}

TEST(scope, a_child_has_no_value_for_whoever_keeps_its_handle) {
    AsthraTaskHandle kept, *at = &kept;
    AsthraScope s;
    void *value = &kept;
    start(1);
    ASTHRA_SCOPE(s) {
        asthra_scope_spawn(&s, keep_handle, &at, sizeof at);
    }
    CHECK_EQ(asthra_task_state(kept), ASTHRA_TASK_COMPLETED);
    CHECK_EQ(asthra_await_result(kept, &value).status, ASTHRA_OK);
    CHECK(value == NULL);
}

/* ---- cancellation of the owner ---- */

static void *owner(void *args) {
    Tally *tally = args;
    Job job = {tally, 0};
    AsthraScope s;
    ASTHRA_SCOPE(s) {
        for (int i = 0; i < 8; i++) asthra_scope_spawn(&s, linger, &job, sizeof job);
    }
    CHECK_EQ(s.result.status, ASTHRA_CANCELLED);
    CHECK(asthra_cancel_requested());
    return (void *)(intptr_t)atomic_load(&tally->cancelled);
}

TEST(scope, a_cancel_of_the_owner_reaches_the_children_and_the_end_waits) {
    Tally tally = {0};
    void *cancelled = NULL;
    start(2);
    AsthraTaskHandle t = asthra_spawn(owner, &tally);
    while (atomic_load(&tally.begun) < 8) asthra_sleep_ns(10000);
    until_waiting(t);
    CHECK(asthra_task_cancel(t));
    CHECK_EQ(asthra_await_result(t, &cancelled).status, ASTHRA_CANCELLED);
    CHECK_EQ((intptr_t)cancelled, 8);
}

TEST(scope, a_cancel_before_the_end_is_seen_there) {
    Tally tally = {0};
    start(1);
    AsthraTaskHandle t = asthra_spawn(owner, &tally);
    asthra_await_timeout(t, ASTHRA_MS(1), NULL); /* it has started, or will never */
    asthra_task_cancel(t);
    CHECK_EQ(asthra_await_result(t, NULL).status, ASTHRA_CANCELLED);
    CHECK_EQ(atomic_load(&tally.begun), atomic_load(&tally.cancelled));
}

static AsthraResult heedless(void *args) {
    const Job *job = args;
    atomic_fetch_add(&job->tally->begun, 1);
    asthra_cancel_mask_begin();
    int value;
    CHECK_EQ(asthra_channel_receive(job->tally->channel, &value).status, ASTHRA_OK);
    asthra_cancel_mask_end();
    atomic_fetch_add(&job->tally->ended, 1);
    return asthra_result_ok(NULL);
}

static void *owner_of_heedless(void *args) {
    Job job = {args, 0};
    AsthraScope s;
    ASTHRA_SCOPE(s) {
        for (int i = 0; i < 3; i++) asthra_scope_spawn(&s, heedless, &job, sizeof job);
    }
    CHECK_EQ(s.result.status, ASTHRA_OK);
    CHECK_EQ(atomic_load(&job.tally->ended), 3);
    return args;
}

TEST(scope, an_owner_whose_children_complete_never_saw_its_cancel) {
    Tally tally = {0};
    void *value = NULL;
    start(1);
    tally.channel = asthra_channel_create(sizeof(int), 0, "numbers");
    AsthraTaskHandle t = asthra_spawn(owner_of_heedless, &tally);
    while (atomic_load(&tally.begun) < 3) asthra_sleep_ns(10000);
    until_waiting(t);
    CHECK(asthra_task_cancel(t));
    for (int i = 0; i < 3; i++) CHECK_EQ(asthra_channel_send(tally.channel, &i).status, ASTHRA_OK);
    CHECK_EQ(asthra_await_result(t, &value).status, ASTHRA_OK);
    CHECK(value == &tally);
    asthra_channel_destroy(tally.channel);
}

static AsthraResult receive_one(void *args) {
    const Job *job = args;
    int value;
    atomic_fetch_add(&job->tally->begun, 1);
    return asthra_channel_receive(job->tally->channel, &value);
}

static void *masked_owner(void *args) {
    Job job = {args, 0};
    AsthraScope s;
    asthra_cancel_mask_begin();
    ASTHRA_SCOPE(s) {
        asthra_scope_spawn(&s, receive_one, &job, sizeof job);
    }
    asthra_cancel_mask_end();
    CHECK_EQ(s.result.status, ASTHRA_OK);
    CHECK(asthra_cancel_requested());
    return NULL;
}

TEST(scope, a_cancel_does_not_pass_an_owner_that_masks_it) {
    Tally tally = {0};
    int value = 1;
    start(1);
    tally.channel = asthra_channel_create(sizeof(int), 0, "numbers");
    AsthraTaskHandle t = asthra_spawn(masked_owner, &tally);
    while (atomic_load(&tally.begun) < 1) asthra_sleep_ns(10000);
    until_waiting(t);
    CHECK(asthra_task_cancel(t));
    CHECK_EQ(asthra_channel_send(tally.channel, &value).status, ASTHRA_OK);
    CHECK_EQ(asthra_await_result(t, NULL).status, ASTHRA_CANCELLED);
    asthra_channel_destroy(tally.channel);
}

static AsthraResult spawn_once_cancelled(void *args) {
    Family family = *(Family *)args;
    atomic_fetch_add(&family.tally->begun, 1);
    asthra_sleep_ns(ASTHRA_FOREVER);
    asthra_scope_spawn(family.scope, never, NULL, 0);
    return asthra_result_ok(NULL);
}

static void *owner_of_spawner(void *args) {
    AsthraScope s;
    ASTHRA_SCOPE(s) {
        Family family = {&s, args, 0};
        asthra_scope_spawn(&s, spawn_once_cancelled, &family, sizeof family);
    }
    return (void *)(uintptr_t)s.result.status;
}

TEST(scope, what_a_cancelled_one_did_not_spawn_is_not_done) {
    Tally tally = {0};
    void *status = NULL;
    start(1);
    AsthraTaskHandle t = asthra_spawn(owner_of_spawner, &tally);
    while (atomic_load(&tally.begun) < 1) asthra_sleep_ns(10000);
    until_waiting(t);
    asthra_task_cancel(t);
    asthra_await_result(t, &status);
    CHECK_EQ((uintptr_t)status, ASTHRA_CANCELLED);
}

/* ---- panics of the owner ---- */

/* Children write to the frames of an owner that panics: all have ended before those go. */
typedef struct Frames {
    atomic_int *begun;
    volatile int *place;
} Frames;

/* A fresh task that uses some of whatever idle stack it is started on. */
static void *scribble(void *unused) {
    volatile unsigned char all[30000];
    for (size_t i = 0; i < sizeof all; i++) all[i] = 0xee;
    return unused;
}

static atomic_int writers_ended;

static AsthraResult write_until_cancelled(void *args) {
    const Frames *f = args;
    atomic_fetch_add(f->begun, 1);
    *f->place = 1;
    while (!asthra_cancel_requested()) asthra_yield();
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(*f->place, 1); /* nobody else uses this memory */
        if (i % 4 == 0) asthra_task_detach(asthra_spawn(scribble, NULL));
        asthra_yield();
    }
    *f->place = 2;
    atomic_fetch_add(&writers_ended, 1);
    return asthra_result_ok(NULL);
}

static void deep(int depth, atomic_int *begun, void (*then)(void)) {
    volatile int places[8] = {0};
    AsthraScope s;
    int before = atomic_load(begun);
    ASTHRA_SCOPE(s) {
        for (int i = 0; i < 8; i++) {
            Frames f = {begun, &places[i]};
            asthra_scope_spawn(&s, write_until_cancelled, &f, sizeof f);
        }
        while (atomic_load(begun) < before + 8) asthra_yield();
        if (depth > 0) deep(depth - 1, begun, then);
        then();
    }
}

static void give_up(void) {
    asthra_panic("the owner gave up");
}
static void *panicking_owner(void *args) {
    deep(3, args, give_up);
    return NULL;
}
/* So that owners run in place, too, above others' frames. */
static void *await_owner(void *args) {
    AsthraTaskFunction function = ASTHRA_FN_AS(AsthraTaskFunction, ((void **)args)[0]);
    AsthraTaskHandle t = asthra_spawn(function, ((void **)args)[1]);
    AsthraResult r = asthra_await_result(t, NULL);
    CHECK_EQ(r.status, ASTHRA_PANICKED);
    CHECK(strstr(asthra_result_message(r), ((void **)args)[2]) != NULL);
    return NULL;
}

static void check_abandoned(size_t workers, AsthraTaskFunction function, char *message) {
    atomic_int begun = 0;
    start(workers);
    for (int i = 0; i < (UNDER_TSAN ? 2 : 10); i++) {
        void *args[] = {ASTHRA_FN(function), &begun, message};
        asthra_await(asthra_spawn(await_owner, args));
        CHECK_EQ(atomic_load(&writers_ended), atomic_load(&begun));
    }
    CHECK(atomic_load(&begun) % 16 == 0);
}

TEST(scope, an_owner_that_panics_ends_its_children_first_on_one_worker) {
    check_abandoned(1, panicking_owner, "the owner gave up");
}
TEST(scope, an_owner_that_panics_ends_its_children_first_on_two_workers) {
    check_abandoned(2, panicking_owner, "the owner gave up");
}
#if !UNDER_ASAN && !UNDER_TSAN
static size_t bottomless(size_t n);
static size_t (*volatile deeper)(size_t) = bottomless; /* seen through, it would warn */
static size_t bottomless(size_t n) {
    volatile char frame[512];
    frame[0] = (char)n;
    return deeper(n + 1) + (size_t)frame[0];
}
static void overflow(void) {
    CHECK(bottomless(1) == 0);
}

static void *overflowing_owner(void *args) {
    deep(1, args, overflow);
    return NULL;
}

TEST(scope, an_owner_that_overflows_ends_its_children_first_on_one_worker) {
    check_abandoned(1, overflowing_owner, "stack overflow");
}
TEST(scope, an_owner_that_overflows_ends_its_children_first_on_two_workers) {
    check_abandoned(2, overflowing_owner, "stack overflow");
}
#endif

/* ---- leaving it ---- */

TEST(scope, continue_ends_it_as_its_brace_does) {
    Tally tally = {0};
    Job job = {&tally, 0};
    AsthraScope s;
    ASTHRA_SCOPE(s) {
        asthra_scope_spawn(&s, count_one, &job, sizeof job);
        if (job.number == 0) continue;
        CHECK(false);
    }
    CHECK_EQ(s.result.status, ASTHRA_OK);
    CHECK_EQ(atomic_load(&tally.ended), 1);
}

/* The children hold the memory of whoever leaves. */
static void *leave_by(void *args) {
    Job *job = args;
    AsthraScope s;
    ASTHRA_SCOPE(s) {
        asthra_scope_spawn(&s, linger, job, sizeof *job);
        while (atomic_load(&job->tally->begun) == 0) asthra_yield();
        if (job->number == 0) break;
        if (job->number == 1) return NULL;
        if (job->number == 2) goto out;
    }
out:
    return NULL;
}

static void *begin_and_return(void *args) {
    Job *job = args;
    AsthraScope s[2];
    for (int i = 0; i < 2; i++) {
        asthra_scope_begin(&s[i]);
        asthra_scope_spawn(&s[i], linger, job, sizeof *job);
    }
    while (atomic_load(&job->tally->begun) < 2) asthra_yield();
    return NULL;
}

/* What the panic of fn says; in a task that fails by it. */
static const char *panic_of(AsthraTaskFunction fn, void *args) {
    asthra_panic_clear_history();
    CHECK_EQ(asthra_await_result(asthra_spawn(fn, args), NULL).status, ASTHRA_PANICKED);
    CHECK(asthra_panic_last() != NULL);
    return asthra_panic_last()->message;
}

TEST(scope, leaving_it_without_its_end_panics_and_the_children_end_first) {
    start(1);
    for (int i = 0; i < 3; i++) {
        Tally tally = {0};
        Job job = {&tally, i};
        const char *message = panic_of(leave_by, &job);
        CHECK(strstr(message, "the ASTHRA_SCOPE at tests/test_scope.c:") != NULL);
        CHECK(strstr(message, " was left without its end, by break, return or goto") != NULL);
        CHECK_EQ(atomic_load(&tally.cancelled), 1);
    }
}

TEST_PANICS(scope, leaving_it_ends_the_process_by_default, " was left without its end") {
    Tally tally = {0};
    Job job = {&tally, 0};
    asthra_await(asthra_spawn(leave_by, &job));
}

TEST(scope, a_task_that_returns_without_the_end_panics_and_the_children_end_first) {
    Tally tally = {0};
    Job job = {&tally, 0};
    start(1);
    const char *message = panic_of(begin_and_return, &job);
    CHECK(strstr(message, "a task has returned while the asthra_scope_begin at ") != NULL);
    CHECK(strstr(message, " is open: its asthra_scope_end is missing") != NULL);
    CHECK_EQ(atomic_load(&tally.cancelled), 2);
}

TEST_PANICS(scope, a_shutdown_inside_it_panics,
            "asthra_runtime_shutdown: called while the asthra_scope_begin at ") {
    AsthraScope s;
    asthra_scope_begin(&s);
    asthra_runtime_shutdown();
}

static void *begin_on_a_thread(void *scope) {
    asthra_scope_begin((AsthraScope *)scope);
    return NULL;
}

TEST_PANICS(scope, a_thread_that_ends_inside_it_panics,
            "a thread ends while the asthra_scope_begin at ") {
    static AsthraScope s;
    pthread_t thread;
    NEED_THREADS();
    start(1);
    CHECK_EQ(pthread_create(&thread, NULL, begin_on_a_thread, &s), 0);
    pthread_join(thread, NULL);
}

static atomic_int steps;

static void *end_after_the_shutdown(void *unused) {
    AsthraScope s;
    asthra_scope_begin(&s);
    atomic_store(&steps, 1);
    while (atomic_load(&steps) == 1) sched_yield();
    CHECK_EQ(asthra_scope_end(&s).status, ASTHRA_OK);
    return unused;
}

TEST_PANICS(scope, a_shutdown_inside_that_of_another_thread_panics_there,
            ": the runtime was shut down inside the asthra_scope_begin at ") {
    pthread_t thread;
    NEED_THREADS();
    start(1);
    CHECK_EQ(pthread_create(&thread, NULL, end_after_the_shutdown, NULL), 0);
    while (atomic_load(&steps) == 0) sched_yield();
    asthra_runtime_shutdown();
    atomic_store(&steps, 2);
    pthread_join(thread, NULL);
}

/* ---- misuse ---- */

TEST_PANICS(scope, beginning_an_open_one_panics,
            "asthra_scope_begin at tests/test_scope.c:3002: the scope is open since the "
            "asthra_scope_begin at tests/test_scope.c:3001") {
    AsthraScope s, inner;
#line 3001
    asthra_scope_begin(&s);
    asthra_scope_begin(&inner);
#line 3002
    asthra_scope_begin(&s);
}

TEST_PANICS(
    scope, ending_it_twice_panics,
    "asthra_scope_end at tests/test_scope.c:3101: the scope has ended, or was never begun") {
    AsthraScope s;
    asthra_scope_begin(&s);
    CHECK_EQ(asthra_scope_end(&s).status, ASTHRA_OK);
#line 3101
    CHECK_EQ(asthra_scope_end(&s).status, ASTHRA_OK);
}

TEST_PANICS(scope, spawning_after_the_end_panics, "asthra_scope_spawn: the scope has ended, or") {
    AsthraScope s;
    ASTHRA_SCOPE(s) {}
    asthra_scope_spawn(&s, never, NULL, 0);
}

TEST_PANICS(scope, spawning_before_the_begin_panics, "asthra_scope_spawn: the scope was never") {
    AsthraScope s;
    memset(&s, 0x5a, sizeof s);
    asthra_scope_spawn(&s, never, NULL, 0);
}

TEST_PANICS(scope, the_copy_of_one_panics,
            "asthra_scope_spawn: the scope was never begun: this is "
            "something else, or the copy of one") {
    AsthraScope s, copy;
    asthra_scope_begin(&s);
    copy = s;
    asthra_scope_spawn(&copy, never, NULL, 0);
}

TEST_PANICS(scope, a_null_scope_panics,
            "asthra_scope_begin at tests/test_scope.c:3201: the scope") {
#line 3201
    asthra_scope_begin(NULL);
}

TEST_PANICS(scope, a_null_scope_is_not_spawned_into, "asthra_scope_spawn: the scope is NULL") {
    asthra_scope_spawn(NULL, never, NULL, 0);
}

TEST_PANICS(scope, a_null_function_panics, "asthra_scope_spawn: the function is NULL") {
    AsthraScope s;
    ASTHRA_SCOPE(s) {
        asthra_scope_spawn(&s, NULL, NULL, 0);
    }
}

TEST_PANICS(scope, ending_the_outer_one_first_panics,
            "asthra_scope_end at tests/test_scope.c:3303: the asthra_scope_begin at "
            "tests/test_scope.c:3302 is still open inside the asthra_scope_begin at "
            "tests/test_scope.c:3301") {
    AsthraScope s, inner;
#line 3301
    asthra_scope_begin(&s);
#line 3302
    asthra_scope_begin(&inner);
#line 3303
    CHECK_EQ(asthra_scope_end(&s).status, ASTHRA_OK);
}

static AsthraResult end_it(void *args) {
    return asthra_scope_end(*(AsthraScope **)args);
}

TEST(scope, ending_anothers_panics) {
    AsthraScope s, *at = &s;
    start(1);
    ASTHRA_SCOPE(s) {
        asthra_scope_spawn(&s, end_it, &at, sizeof at);
    }
    CHECK_EQ(s.result.status, ASTHRA_PANICKED);
    CHECK(strstr(asthra_result_message(s.result), "belongs to thread 'main', which alone") != NULL);
}

TEST(scope, the_names_in_parentheses_are_functions) {
    Tally tally = {0};
    Job job = {&tally, 0};
    AsthraScope s;
    (asthra_scope_begin)(&s);
    (asthra_scope_spawn)(&s, count_one, &job, sizeof job);
    CHECK_EQ((asthra_scope_end)(&s).status, ASTHRA_OK);
    CHECK(asthra_scope_enter(&s) == &s);
    (asthra_scope_spawn)(&s, count_one, &job, sizeof job);
    CHECK_EQ(asthra_scope_end(&s).status, ASTHRA_OK);
    CHECK_EQ(atomic_load(&tally.ended), 2);
}

/* ---- plain threads ---- */

enum { ROUNDS = UNDER_TSAN ? 5 : 20 };

static void *scope_on_a_thread(void *args) {
    Tally *tally = args;
    for (int round = 0; round < ROUNDS; round++) {
        AsthraScope s;
        int before = atomic_load(&tally->ended);
        ASTHRA_SCOPE(s) {
            Job job = {tally, 3};
            for (int i = 0; i < 10; i++) asthra_scope_spawn(&s, count_one, &job, sizeof job);
        }
        CHECK_EQ(s.result.status, ASTHRA_OK);
        CHECK(atomic_load(&tally->ended) >= before + 10);
    }
    return NULL;
}

static void check_threads(size_t workers) {
    pthread_t threads[3];
    Tally tally = {0};
    start(workers);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, scope_on_a_thread, &tally), 0);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    CHECK_EQ(atomic_load(&tally.ended), 3 * ROUNDS * 10);
}

TEST(scope, plain_threads_may_own_one) {
    check_threads(2);
}
TEST(scope, plain_threads_beside_a_single_worker_may_own_one) {
    check_threads(1);
}

/* ---- many ---- */

static long resident_kib(void) {
    long total = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    CHECK(f != NULL);
    CHECK_EQ(fscanf(f, "%ld %ld", &total, &resident), 2);
    fclose(f);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

/* In rounds, so that few of them are there at the same time. */
static void *many_in_one(void *args) {
    enum { EACH = 100 };
    Job job = {args, 0};
    long before = 0;
    int rounds = UNDER_TSAN ? 5 : 1000 / (int)test_thrift();
    AsthraScope s;
    ASTHRA_SCOPE(s) {
        for (int round = 0; round < rounds; round++) {
            for (int i = 0; i < EACH; i++) asthra_scope_spawn(&s, count_one, &job, sizeof job);
            while (atomic_load(&job.tally->ended) < (round + 1) * EACH) asthra_yield();
            if (round == 10) before = resident_kib();
        }
        if (test_thrift() == 1) CHECK(resident_kib() < before + 1024); /* else 30 MiB */
    }
    CHECK_EQ(s.result.status, ASTHRA_OK);
    return NULL;
}

TEST_WITHIN(60, scope, a_child_that_has_ended_holds_no_memory) {
    Tally tally = {0};
    start(1);
    asthra_await(asthra_spawn(many_in_one, &tally));
    CHECK(atomic_load(&tally.ended) >= 500);
}

enum { MANY = UNDER_TSAN ? 100 : 5000 }; /* twice as many are there at once */

static AsthraResult wait_or_fail(void *args) {
    const Job *job = args;
    atomic_fetch_add(&job->tally->begun, 1);
    if (job->number != 0) return linger(args);
    while (atomic_load(&job->tally->begun) < MANY) asthra_yield();
    return asthra_result_err("the first of many");
}

TEST_WITHIN(60, scope, a_failure_among_thousands_ends_them_all) {
    Tally tally = {0};
    AsthraScope s;
    start(2);
    ASTHRA_SCOPE(s) {
        for (int i = 0; i < 2 * MANY; i++) {
            Job job = {&tally, i};
            asthra_scope_spawn(&s, wait_or_fail, &job, sizeof job);
        }
    }
    CHECK_STR(asthra_result_message(s.result), "the first of many");
    CHECK(atomic_load(&tally.cancelled) >= MANY / 2 - 1); /* each of those counts itself twice */
}

/* ---- schedules ---- */

/* A tree of scopes whose children fail, panic, wait and cancel one another by dice. */
typedef struct World {
    AsthraChannel *channel;
    atomic_int open, children;
} World;

typedef struct Branch {
    World *world;
    AsthraScope *scope;
    uint64_t dice;
    int depth;
} Branch;

static uint32_t roll(Branch *b, uint32_t bound) {
    return test_roll(&b->dice, bound);
}

static AsthraResult grow(void *args);

static AsthraResult grow_a_scope(Branch *b) {
    AsthraScope s;
    atomic_int *open = &b->world->open;
    int children = (int)roll(b, 5);
    atomic_fetch_add(open, 1);
    ASTHRA_SCOPE(s) {
        for (int i = 0; i < children; i++) {
            Branch child = {b->world, &s, b->dice + (uint64_t)i, b->depth - 1};
            asthra_scope_spawn(&s, grow, &child, sizeof child);
            if (roll(b, 4) == 0) asthra_yield();
        }
        if (roll(b, 8) == 0) asthra_task_cancel(asthra_task_current());
        if (roll(b, 12) == 0) asthra_panic("a block by dice");
    }
    atomic_fetch_sub(open, 1);
    return s.result;
}

static AsthraResult grow(void *args) {
    Branch b = *(Branch *)args;
    int value = 1;
    AsthraResult r = asthra_result_ok(NULL);
    atomic_fetch_add(&b.world->children, 1);
    switch (roll(&b, 10)) {
    case 0: r = asthra_result_errorf(ASTHRA_FAILED, "branch %d", b.depth); break;
    case 1: r = asthra_channel_send_timeout(b.world->channel, &value, ASTHRA_US(20)); break;
    case 2: r = asthra_channel_receive_timeout(b.world->channel, &value, ASTHRA_US(20)); break;
    case 3: asthra_panic("branch %d by dice", b.depth);
    case 4:
        if (b.depth > 0 && b.scope) asthra_scope_spawn(b.scope, grow, &b, sizeof b);
        break;
    case 5: {
        AsthraTaskHandle parent = asthra_task_parent(asthra_task_current());
        if (parent.bits != 0) asthra_task_cancel(parent);
        break;
    }
    default: break;
    }
    if (b.depth-- > 0 && r.status == ASTHRA_OK) r = grow_a_scope(&b);
    return r.status == ASTHRA_TIMED_OUT ? asthra_result_ok(NULL) : r;
}

static void *grow_a_tree(void *args) {
    AsthraResult r = grow(args);
    if (r.status) CHECK(asthra_result_message(r)[0] != '\0');
    return NULL;
}

static void check_tree(uint64_t dice) {
    World world = {NULL, 0, 0};
    world.channel = asthra_channel_create(sizeof(int), 0, "world");
    Branch b = {&world, NULL, dice, 4};
    asthra_await_result(asthra_spawn(grow_a_tree, &b), NULL);
    asthra_channel_destroy(world.channel); /* nobody waits: nothing has outlived its scope */
}

/* How many seeds; a soak by hand asks for more. */
static uint64_t seeds(uint64_t usual) {
    const char *asked = getenv("ASTHRA_SOAK_SEEDS");
    return asked ? strtoull(asked, NULL, 10) : usual / test_thrift();
}

TEST_WITHIN(60, scope, random_trees_end_under_every_seed) {
    for (uint64_t seed = 1, last = seeds(400); seed <= last; seed++) {
        start_seeded(1, seed);
        check_tree(seed);
        asthra_runtime_shutdown();
    }
}
TEST_WITHIN(60, scope, random_trees_end_on_four_workers) {
    start(4);
    for (uint64_t round = 1, last = seeds(400); round <= last; round++) check_tree(1000 + round);
}
