/* The table of the runtime's own records: private names, so the bodies are in this file. */
#include "test.h"
#define ASTHRA_RT_STATIC
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"

#include <pthread.h>

enum { MANY = 20000 };

static Asthra__Table numbers(void) {
    Asthra__Table t = {0};
    asthra__table_create(&t, ASTHRA__TABLE_NUMBERS);
    return t;
}

static Asthra__Table texts(void) {
    Asthra__Table t = {0};
    asthra__table_create(&t, ASTHRA__TABLE_TEXTS);
    return t;
}

/* Keys that differ in high and low bits alike, so that a hash of one half shows. */
static uint64_t key_of(uint64_t i) {
    return i * UINT64_C(0x9e3779b97f4a7c15);
}

TEST(table, zeroed_one_is_empty_and_may_be_destroyed) {
    Asthra__Table t = {0};
    CHECK_EQ(asthra__table_count(&t), 0);
    CHECK(!asthra__table_find(&t, 1));
    CHECK(!asthra__table_find_text(&t, "a"));
    CHECK(!asthra__table_remove(&t, 1));
    asthra__table_destroy(&t);
}

TEST(table, new_slot_is_zero_and_stays) {
    Asthra__Table t = numbers();
    for (uint64_t i = 0; i < MANY; i++) {
        uint64_t *value = asthra__table_slot(&t, key_of(i));
        CHECK_EQ(*value, 0);
        *value = i + 1;
    }
    CHECK_EQ(asthra__table_count(&t), MANY);
    for (uint64_t i = 0; i < MANY; i++) {
        uint64_t *value = asthra__table_find(&t, key_of(i));
        CHECK(value && *value == i + 1);
        CHECK(asthra__table_slot(&t, key_of(i)) == value);
    }
    CHECK_EQ(asthra__table_count(&t), MANY);
    CHECK(!asthra__table_find(&t, key_of(MANY)));
    asthra__table_destroy(&t);
}

TEST(table, every_number_is_a_key) {
    static const uint64_t odd[] = {0,         1, 2, UINT64_MAX, UINT64_MAX - 1, UINT64_C(1) << 63,
                                   0xffffffff};
    Asthra__Table t = numbers();
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) *asthra__table_slot(&t, odd[i]) = i;
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        CHECK_EQ(*asthra__table_find(&t, odd[i]), i);
    asthra__table_destroy(&t);
}

TEST(table, text_keys_are_copied_and_compared_by_content) {
    Asthra__Table t = texts();
    char name[8] = "first";
    *asthra__table_slot_text(&t, name) = 7;
    strcpy(name, "other");
    CHECK(!asthra__table_find_text(&t, name));
    strcpy(name, "first");
    CHECK_EQ(*asthra__table_find_text(&t, name), 7);
    CHECK(asthra__table_at(&t, 0)->key.text != name);
    *asthra__table_slot_text(&t, "") = 9;
    CHECK_EQ(*asthra__table_find_text(&t, ""), 9);
    CHECK_EQ(asthra__table_count(&t), 2);
    asthra__table_destroy(&t);
}

TEST(table, removed_keys_are_gone_and_the_others_stay) {
    Asthra__Table t = texts();
    char name[16];
    for (unsigned i = 0; i < 2000; i++) {
        snprintf(name, sizeof name, "%u", i);
        *asthra__table_slot_text(&t, name) = i;
    }
    for (unsigned i = 0; i < 2000; i += 2) {
        snprintf(name, sizeof name, "%u", i);
        CHECK(asthra__table_remove_text(&t, name));
        CHECK(!asthra__table_remove_text(&t, name));
    }
    CHECK_EQ(asthra__table_count(&t), 1000);
    for (unsigned i = 0; i < 2000; i++) {
        snprintf(name, sizeof name, "%u", i);
        uint64_t *value = asthra__table_find_text(&t, name);
        CHECK(i % 2 ? value && *value == i : !value);
    }
    asthra__table_destroy(&t);
}

TEST(table, a_slot_made_again_after_remove_is_zero) {
    Asthra__Table t = numbers();
    *asthra__table_slot(&t, 5) = 50;
    CHECK(asthra__table_remove(&t, 5));
    CHECK_EQ(*asthra__table_slot(&t, 5), 0);
    asthra__table_destroy(&t);
}

TEST(table, entries_stand_in_the_order_in_which_they_came) {
    Asthra__Table t = numbers();
    for (uint64_t i = 0; i < 100; i++) *asthra__table_slot(&t, key_of(i)) = i;
    for (size_t i = 0; i < 100; i++) {
        CHECK(asthra__table_at(&t, i)->key.number == key_of(i));
        CHECK_EQ(asthra__table_at(&t, i)->value, i);
    }
    asthra__table_remove(&t, key_of(10));
    CHECK(asthra__table_at(&t, 10)->key.number == key_of(99));
    asthra__table_destroy(&t);
}

TEST(table, behaves_as_an_array_of_all_keys_does) {
    enum { KEYS = 64, STEPS = 50000 };
    uint64_t model[KEYS] = {0}, state = 1;
    bool there[KEYS] = {false};
    size_t count = 0;
    Asthra__Table t = numbers();
    for (int step = 0; step < STEPS; step++) {
        state = state * UINT64_C(6364136223846793005) + 1;
        unsigned k = (unsigned)(state >> 33) % KEYS;
        if (state >> 62) {
            *asthra__table_slot(&t, k) += 3;
            if (!there[k]) model[k] = 0, there[k] = true, count++;
            model[k] += 3;
        } else {
            CHECK(asthra__table_remove(&t, k) == there[k]);
            count -= there[k];
            there[k] = false;
        }
        uint64_t *value = asthra__table_find(&t, k);
        CHECK(there[k] ? value && *value == model[k] : !value);
        CHECK_EQ(asthra__table_count(&t), count);
    }
    asthra__table_destroy(&t);
}

TEST_PANICS(table, at_past_the_end_panics, "broken invariant") {
    Asthra__Table t = numbers();
    asthra__table_at(&t, 0);
}

TEST_PANICS(table, a_number_in_a_table_of_texts_panics, "broken invariant") {
    Asthra__Table t = texts();
    asthra__table_slot(&t, 1);
}

static int blocks_left;

static void *limited_realloc(void *block, size_t bytes, void *user) {
    (void)user;
    return blocks_left-- > 0 ? realloc(block, bytes) : NULL;
}
static void *limited_alloc(size_t bytes, void *user) {
    return limited_realloc(NULL, bytes, user);
}
static void limited_free(void *block, void *user) {
    (void)user;
    free(block);
}

/* Whatever allocation fails, of the first few, the table says so and does not go on with NULL. */
TEST(table, every_failed_allocation_is_a_panic) {
    static const AsthraAllocator hook = {limited_alloc, limited_realloc, limited_free, NULL};
    for (int n = 0;; n++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            blocks_left = 1; /* for the record of the hook */
            CHECK(asthra__alloc_set_hook(&hook));
            blocks_left = n;
            Asthra__Table t = texts();
            for (int i = 0; i < 20; i++) {
                char name[2] = {(char)('a' + i), 0};
                asthra__table_slot_text(&t, name);
            }
            _exit(0);
        }
        CHECK(waitpid(child, &status, 0) == child);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
            CHECK(n > 20);
            return;
        }
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
        CHECK(n < 1000);
    }
}

#if ASTHRA_HAS_THREADS
static Asthra__Table shared;

static void *make_tables(void *failed) {
    for (uint64_t i = 0; i < 200; i++) {
        Asthra__Table t = numbers();
        *asthra__table_slot(&t, i) = i;
        if (*asthra__table_find(&t, i) != i) *(bool *)failed = true;
        asthra__table_destroy(&t);
    }
    return NULL;
}

static void *read_shared(void *failed) {
    for (uint64_t i = 0; i < 2000; i++) {
        uint64_t *value = asthra__table_find(&shared, i);
        if (i < 1000 ? !value || *value != i : value != NULL) *(bool *)failed = true;
    }
    return NULL;
}

static void on_four_threads(void *(*body)(void *)) {
    pthread_t threads[4];
    bool failed[4] = {false};
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, body, &failed[i]) == 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        CHECK(!failed[i]);
    }
}

TEST(table, threads_may_create_at_the_same_time) {
    on_four_threads(make_tables);
}

TEST(table, threads_may_find_at_the_same_time) {
    shared = numbers();
    for (uint64_t i = 0; i < 1000; i++) *asthra__table_slot(&shared, i) = i;
    on_four_threads(read_shared);
    asthra__table_destroy(&shared);
}
#endif
