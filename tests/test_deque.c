/* The work-stealing deque alone: each item is taken once, in the order each side is promised. */
#include "test.h"
#define ASTHRA_RT_IMPLEMENTATION
#define ASTHRA_RT_STATIC
#include "asthra_rt.h"

#include <pthread.h>
#include <stdatomic.h>

enum { MOST = 200000 };
static Asthra__Deque deque;
static atomic_int taken[MOST + 1];
static atomic_int stop;
static int many = MOST;

static void *item(size_t n) {
    return (void *)(uintptr_t)(n + 1);
}
static size_t number(void *item) {
    return (size_t)(uintptr_t)item - 1;
}

TEST(deque, the_owner_pops_the_newest_and_thieves_take_the_oldest) {
    asthra__sync_setup();
    CHECK(asthra__deque_init(&deque));
    CHECK(asthra__deque_pop(&deque) == NULL);
    CHECK(asthra__deque_wrest(&deque) == NULL);
    for (size_t i = 0; i < 10; i++) CHECK(asthra__deque_push(&deque, item(i)));
    CHECK_EQ(asthra__deque_count(&deque), 10);
    CHECK(asthra__deque_pop(&deque) == item(9));
    CHECK(asthra__deque_wrest(&deque) == item(0));
    CHECK(asthra__deque_wrest(&deque) == item(1));
    CHECK(asthra__deque_pop(&deque) == item(8));
    for (size_t i = 2; i < 8; i++) CHECK(asthra__deque_wrest(&deque) == item(i));
    CHECK(asthra__deque_pop(&deque) == NULL);
    CHECK(asthra__deque_wrest(&deque) == NULL);
    CHECK_EQ(asthra__deque_count(&deque), 0);
    asthra__deque_destroy(&deque);
}

TEST(deque, only_what_is_shared_is_stolen_and_the_owner_takes_it_back) {
    asthra__sync_setup();
    CHECK(asthra__deque_init(&deque));
    for (size_t i = 0; i < 9; i++) CHECK(asthra__deque_push(&deque, item(i)));
    CHECK(asthra__deque_steal(&deque) == NULL);
    asthra__deque_share(&deque); /* 0 .. 4 */
    asthra__deque_share(&deque); /* not more while something is */
    CHECK(asthra__deque_steal(&deque) == item(0));
    for (size_t i = 8; i > 0; i--) CHECK(asthra__deque_pop(&deque) == item(i));
    CHECK(asthra__deque_pop(&deque) == NULL);
    CHECK(asthra__deque_steal(&deque) == NULL);
    for (size_t i = 0; i < 9; i++) CHECK(asthra__deque_push(&deque, item(i)));
    for (size_t i = 0; i < 9; i++) CHECK(asthra__deque_oldest(&deque) == item(i));
    CHECK(asthra__deque_oldest(&deque) == NULL);
    asthra__deque_destroy(&deque);
}

TEST(deque, pop_if_takes_one_of_the_newest_few) {
    asthra__sync_setup();
    CHECK(asthra__deque_init(&deque));
    CHECK(!asthra__deque_pop_if(&deque, item(0)));
    for (size_t i = 0; i < 20; i++) asthra__deque_push(&deque, item(i));
    CHECK(!asthra__deque_pop_if(&deque, item(0)));
    CHECK(asthra__deque_pop_if(&deque, item(17)));
    CHECK(asthra__deque_pop_if(&deque, item(19)));
    CHECK(asthra__deque_pop_if(&deque, item(16)));
    CHECK(!asthra__deque_pop_if(&deque, item(16)));
    CHECK(asthra__deque_pop(&deque) == item(18));
    CHECK_EQ(asthra__deque_count(&deque), 16);
    asthra__deque_share(&deque); /* 0 .. 7 */
    for (size_t i = 15; i > 9; i--) CHECK(asthra__deque_pop(&deque) == item(i));
    CHECK(!asthra__deque_pop_if(&deque, item(7))); /* shared is not dug for */
    CHECK(asthra__deque_pop_if(&deque, item(8)));
    for (size_t i = 9; i > 0; i--) {
        if (i != 8) CHECK(asthra__deque_pop(&deque) == item(i));
    }
    CHECK(asthra__deque_pop_if(&deque, item(0)));
    CHECK(!asthra__deque_pop_if(&deque, item(0)));
    asthra__deque_destroy(&deque);
}

TEST(deque, it_grows_and_keeps_its_order) {
    for (size_t stolen = 0; stolen < 300; stolen += 37) {
        CHECK(asthra__deque_init(&deque));
        for (size_t i = 0; i < stolen; i++) CHECK(asthra__deque_push(&deque, item(i)));
        for (size_t i = 0; i < stolen; i++) CHECK(asthra__deque_wrest(&deque) == item(i));
        for (size_t i = 0; i < 5000; i++) CHECK(asthra__deque_push(&deque, item(i)));
        for (size_t i = 0; i < 100; i++) CHECK(asthra__deque_wrest(&deque) == item(i));
        for (size_t i = 5000; i > 100; i--) CHECK(asthra__deque_pop(&deque) == item(i - 1));
        CHECK(asthra__deque_pop(&deque) == NULL);
        asthra__deque_destroy(&deque);
    }
}

static void *steals(void *unused) {
    size_t before = 0, hungry = 0;
    bool is_first = true;
    for (;;) {
        void *got = asthra__deque_steal(&deque);
        if (got == NULL && ++hungry % 64 == 0) got = asthra__deque_wrest(&deque);
        if (got == NULL) {
            if (atomic_load(&stop)) return unused;
            continue;
        }
        /* One thief sees rising numbers: they are pushed in order and stolen from the old end. */
        CHECK(is_first || number(got) > before);
        is_first = false;
        before = number(got);
        atomic_fetch_add(&taken[before], 1);
    }
}

static void shared(size_t thieves, unsigned pops_of_8) {
    pthread_t t[4];
    atomic_store(&stop, 0);
    for (int i = 0; i < many; i++) atomic_store(&taken[i], 0);
    asthra__sync_setup();
    CHECK(asthra__deque_init(&deque));
    for (size_t i = 0; i < thieves; i++) CHECK_EQ(pthread_create(&t[i], NULL, steals, NULL), 0);
    for (size_t i = 0; i < (size_t)many; i++) {
        CHECK(asthra__deque_push(&deque, item(i)));
        if (i % 64 == 63) asthra__deque_share(&deque);
        if (i % 8 >= pops_of_8) continue;
        size_t wanted = i % 5 ? i : i - i % 4;
        void *got = i % 3                                        ? asthra__deque_pop(&deque)
                    : asthra__deque_pop_if(&deque, item(wanted)) ? item(wanted)
                                                                 : NULL;
        if (got != NULL) atomic_fetch_add(&taken[number(got)], 1);
    }
    for (void *got; (got = asthra__deque_pop(&deque)) != NULL;)
        atomic_fetch_add(&taken[number(got)], 1);
    atomic_store(&stop, 1);
    for (size_t i = 0; i < thieves; i++) pthread_join(t[i], NULL);
    for (int i = 0; i < many; i++) {
        if (atomic_load(&taken[i]) != 1)
            test_fail(__FILE__, __LINE__, "item %d: %d times", i, taken[i]);
    }
    asthra__deque_destroy(&deque);
}

TEST(deque, each_item_is_taken_once_by_one_thief_or_the_owner) {
    if (ASTHRA__TSAN) many = 20000;
    shared(1, 8);
    shared(1, 4);
}
TEST(deque, each_item_is_taken_once_among_three_thieves) {
    if (ASTHRA__TSAN) many = 20000;
    shared(3, 8);
    shared(3, 7);
    shared(3, 1);
}

/* A few items come again and again, as descriptors do, while thieves move the border. */
enum { FEW = 12 };
static atomic_int is_out[FEW];
static void *wrests(void *unused) {
    while (!atomic_load(&stop)) {
        void *got = asthra__deque_wrest(&deque);
        if (got != NULL) CHECK_EQ(atomic_exchange(&is_out[number(got)], 1), 0);
    }
    return unused;
}
TEST(deque, items_that_come_again_are_taken_once_each_time) {
    pthread_t t[2];
    int rounds = ASTHRA__TSAN ? 20000 : MOST;
    asthra__sync_setup();
    CHECK(asthra__deque_init(&deque));
    for (size_t i = 0; i < FEW; i++) atomic_store(&is_out[i], 1);
    for (int i = 0; i < 2; i++) CHECK_EQ(pthread_create(&t[i], NULL, wrests, NULL), 0);
    for (int round = 0; round < rounds; round++) {
        for (size_t i = 0; i < FEW; i++) {
            if (!atomic_load(&is_out[i])) continue;
            atomic_store(&is_out[i], 0);
            CHECK(asthra__deque_push(&deque, item(i)));
        }
        for (size_t i = 0; i < FEW; i++) {
            size_t wanted = (i + (size_t)round) % FEW;
            if (!asthra__deque_pop_if(&deque, item(wanted))) continue;
            CHECK_EQ(atomic_exchange(&is_out[wanted], 1), 0);
        }
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
    for (void *got; (got = asthra__deque_pop(&deque)) != NULL;)
        CHECK_EQ(atomic_exchange(&is_out[number(got)], 1), 0);
    for (size_t i = 0; i < FEW; i++) CHECK_EQ(atomic_load(&is_out[i]), 1);
    asthra__deque_destroy(&deque);
}

/* Push one, pop one: owner and thief fight for the last item all the time. */
TEST(deque, the_last_item_is_taken_once) {
    pthread_t t[2];
    int rounds = ASTHRA__TSAN ? 20000 : MOST;
    many = rounds;
    asthra__sync_setup();
    CHECK(asthra__deque_init(&deque));
    for (int i = 0; i < 2; i++) CHECK_EQ(pthread_create(&t[i], NULL, steals, NULL), 0);
    for (size_t i = 0; i < (size_t)rounds; i++) {
        CHECK(asthra__deque_push(&deque, item(i)));
        bool is_mine =
            i % 2 ? asthra__deque_pop(&deque) != NULL : asthra__deque_pop_if(&deque, item(i));
        if (is_mine)
            atomic_fetch_add(&taken[i], 1);
        else
            CHECK_EQ(asthra__deque_count(&deque), 0);
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
    for (int i = 0; i < rounds; i++) CHECK_EQ(atomic_load(&taken[i]), 1);
    asthra__deque_destroy(&deque);
}
