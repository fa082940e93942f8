/* The promises of src/concurrency/select.h, one test each. */
#include "test.h"
#include "asthra_rt.h"

#include <pthread.h>

static AsthraChannel *ints(size_t capacity) {
    AsthraChannel *c = asthra_channel_create(sizeof(int), capacity, "ints");
    CHECK(c != NULL);
    return c;
}

static void until_waiting(AsthraTaskHandle t) {
    while (asthra_task_state(t) != ASTHRA_TASK_WAITING) asthra_sleep_ns(10000);
}

static void send_int(AsthraChannel *c, int value) {
    CHECK_EQ(asthra_channel_send(c, &value).status, ASTHRA_OK);
}

static void *send_five(void *args) {
    send_int(args, 5);
    return NULL;
}

static void *receive_one(void *args) {
    int value = -1;
    CHECK_EQ(asthra_channel_receive(args, &value).status, ASTHRA_OK);
    return (void *)(intptr_t)value;
}

/* ---- one call ---- */

TEST(select, a_ready_receive_is_completed) {
    AsthraChannel *a = ints(1), *b = ints(1);
    int got = 0, other = 0;
    AsthraSelectCase cases[] = {asthra_select_receive(a, &other), asthra_select_receive(b, &got)};
    cases[1].status = ASTHRA_FAILED;
    send_int(b, 12);
    CHECK_EQ(asthra_select(cases, 2, ASTHRA_FOREVER), 1);
    CHECK_EQ(cases[1].status, ASTHRA_OK);
    CHECK_EQ(got, 12);
    CHECK_EQ(other, 0);
    CHECK_EQ(asthra_channel_count(b), 0);
    asthra_channel_destroy(a);
    asthra_channel_destroy(b);
}

TEST(select, a_ready_send_is_completed) {
    AsthraChannel *full = ints(1), *room = ints(1);
    int one = 1, two = 2, got = 0;
    send_int(full, 0);
    AsthraSelectCase cases[] = {asthra_select_send(full, &one), asthra_select_send(room, &two)};
    CHECK_EQ(asthra_select(cases, 2, ASTHRA_FOREVER), 1);
    CHECK_EQ(asthra_channel_receive(room, &got).status, ASTHRA_OK);
    CHECK_EQ(got, 2);
    CHECK_EQ(asthra_channel_count(full), 1);
    asthra_channel_destroy(full);
    asthra_channel_destroy(room);
}

TEST(select, with_a_limit_of_0_it_never_waits) {
    AsthraChannel *empty = ints(0), *full = ints(1);
    int value = 3;
    send_int(full, 1);
    AsthraSelectCase cases[] = {asthra_select_receive(empty, &value),
                                asthra_select_send(full, &value),
                                asthra_select_send(empty, &value)};
    CHECK_EQ(asthra_select(cases, 3, 0), ASTHRA_SELECT_DEFAULT);
    CHECK_EQ(asthra_select(NULL, 0, 0), ASTHRA_SELECT_DEFAULT);
    CHECK_EQ(value, 3);
    CHECK_EQ(asthra_channel_count(full), 1);
    asthra_channel_destroy(empty);
    asthra_channel_destroy(full);
}

TEST(select, a_time_limit_ends_it_and_nobody_waits_any_more) {
    AsthraChannel *c = ints(0);
    int value = 3;
    AsthraSelectCase cases[] = {asthra_select_receive(c, &value), asthra_select_send(c, &value)};
    for (int i = 0; i < 20; i++)
        CHECK_EQ(asthra_select(cases, 2, ASTHRA_US(50)), ASTHRA_SELECT_TIMEOUT);
    CHECK_EQ(asthra_channel_try_send(c, &value).status, ASTHRA_WOULD_BLOCK);
    CHECK_EQ(asthra_channel_try_receive(c, &value).status, ASTHRA_WOULD_BLOCK);
    CHECK_EQ(value, 3);
    asthra_channel_destroy(c);
}

TEST(select, a_null_channel_is_never_ready) {
    AsthraChannel *c = ints(1);
    int value = 1;
    AsthraSelectCase cases[] = {asthra_select_receive(NULL, &value), asthra_select_send(NULL, NULL),
                                asthra_select_send(c, &value)};
    CHECK_EQ(asthra_select(cases, 2, 0), ASTHRA_SELECT_DEFAULT);
    CHECK_EQ(asthra_select(cases, 2, ASTHRA_US(50)), ASTHRA_SELECT_TIMEOUT);
    CHECK_EQ(asthra_select(cases, 3, ASTHRA_FOREVER), 2);
    asthra_channel_destroy(c);
}

static void *select_nothing(void *args) {
    CHECK_EQ(asthra_select(NULL, 0, ASTHRA_FOREVER), ASTHRA_SELECT_CANCELLED);
    return args;
}

TEST(select, without_a_case_it_waits_until_cancelled) {
    AsthraTaskHandle t = asthra_spawn(select_nothing, NULL);
    until_waiting(t);
    CHECK(asthra_task_cancel(t));
    asthra_await(t);
}

static void *select_both(void *args) {
    AsthraChannel **c = args;
    int value = 4;
    AsthraSelectCase cases[] = {asthra_select_receive(c[0], &value),
                                asthra_select_send(c[1], &value)};
    CHECK_EQ(asthra_select(cases, 2, ASTHRA_FOREVER), ASTHRA_SELECT_CANCELLED);
    CHECK_EQ(value, 4);
    return NULL;
}

TEST(select, a_waiting_select_of_a_cancelled_task_returns_cancelled) {
    AsthraChannel *c[] = {ints(0), ints(0)};
    AsthraTaskHandle t = asthra_spawn(select_both, c);
    until_waiting(t);
    CHECK(asthra_task_cancel(t));
    asthra_await(t);
    asthra_channel_destroy(c[0]); /* nobody waits */
    asthra_channel_destroy(c[1]);
}

/* ---- fairness ---- */

enum { DRAWS = 20000 };

/* Draws among `count` receives; those in `ready` are. Each share is within eight deviations. */
static void check_shares(int count, const int *ready, int ready_count) {
    AsthraSelectCase cases[150];
    int hits[150] = {0}, value = 1;
    for (int i = 0; i < count; i++) cases[i] = asthra_select_receive(ints(1), NULL);
    for (int i = 0; i < ready_count; i++) asthra_channel_send(cases[ready[i]].channel, &value);
    for (int i = 0; i < DRAWS; i++) {
        int chosen = asthra_select(cases, (size_t)count, 0);
        CHECK(chosen >= 0);
        hits[chosen]++;
        asthra_channel_send(cases[chosen].channel, &value);
    }
    int share = DRAWS / ready_count, allowed = 600;
    for (int i = 0; i < ready_count; i++) {
        CHECK(hits[ready[i]] > share - allowed);
        CHECK(hits[ready[i]] < share + allowed);
    }
    for (int i = 0; i < count; i++) asthra_channel_destroy(cases[i].channel);
}

TEST(select, two_adjacent_ready_cases_of_eight_are_chosen_alike) {
    check_shares(8, (const int[]){3, 4}, 2);
    check_shares(8, (const int[]){0, 7}, 2);
}

TEST(select, all_of_eight_ready_cases_are_chosen_alike) {
    check_shares(8, (const int[]){0, 1, 2, 3, 4, 5, 6, 7}, 8);
}

TEST(select, ready_cases_far_apart_are_chosen_alike) {
    check_shares(150, (const int[]){0, 63, 64, 65, 149}, 5);
    check_shares(130, (const int[]){129, 5}, 2);
}

/* ---- waiting ---- */

TEST(select, it_waits_for_a_sender) {
    for (int i = 0; i < 200; i++) {
        AsthraChannel *c[3] = {ints(0), ints(0), ints(1)};
        int got = 0;
        AsthraSelectCase cases[3];
        for (int k = 0; k < 3; k++) cases[k] = asthra_select_receive(c[k], &got);
        AsthraTaskHandle t = asthra_spawn(send_five, c[i % 3]);
        CHECK_EQ(asthra_select(cases, 3, ASTHRA_FOREVER), i % 3);
        CHECK_EQ(got, 5);
        asthra_await(t);
        for (int k = 0; k < 3; k++) asthra_channel_destroy(c[k]);
    }
}

TEST(select, it_waits_for_a_receiver) {
    for (int i = 0; i < 200; i++) {
        AsthraChannel *c[2] = {ints(0), ints(0)};
        int values[] = {10, 11};
        AsthraSelectCase cases[] = {asthra_select_send(c[0], &values[0]),
                                    asthra_select_send(c[1], &values[1])};
        AsthraTaskHandle t = asthra_spawn(receive_one, c[i % 2]);
        CHECK_EQ(asthra_select(cases, 2, ASTHRA_SECONDS(3600)), i % 2);
        CHECK_EQ((intptr_t)asthra_await(t), 10 + i % 2);
        asthra_channel_destroy(c[0]);
        asthra_channel_destroy(c[1]);
    }
}

typedef struct Waiting {
    AsthraChannel *a, *b;
    int chosen, value;
    AsthraSelectCase cases[2];
} Waiting;

static void *select_waiting(void *args) {
    Waiting *w = args;
    int value = 6;
    w->cases[0] = asthra_select_receive(w->a, &w->value);
    w->cases[1] = asthra_select_send(w->b, &value);
    w->chosen = asthra_select(w->cases, 2, ASTHRA_FOREVER);
    return NULL;
}

TEST(select, closing_completes_a_receive_and_a_send) {
    for (int side = 0; side < 2; side++) {
        Waiting w = {.a = ints(0), .b = ints(0), .value = 9};
        AsthraTaskHandle t = asthra_spawn(select_waiting, &w);
        until_waiting(t);
        asthra_channel_close(side ? w.b : w.a);
        asthra_await(t);
        CHECK_EQ(w.chosen, side);
        CHECK_EQ(w.cases[side].status, ASTHRA_CLOSED);
        CHECK_EQ(w.value, 9);
        asthra_channel_destroy(w.a);
        asthra_channel_destroy(w.b);
    }
}

TEST(select, a_closed_channel_is_ready) {
    AsthraChannel *c = ints(2);
    int value = 1;
    AsthraSelectCase send = asthra_select_send(c, &value),
                     receive = asthra_select_receive(c, &value);
    send_int(c, 8);
    asthra_channel_close(c);
    CHECK_EQ(asthra_select(&send, 1, 0), 0);
    CHECK_EQ(send.status, ASTHRA_CLOSED);
    CHECK_EQ(asthra_select(&receive, 1, 0), 0);
    CHECK_EQ(receive.status, ASTHRA_OK); /* drained first */
    CHECK_EQ(value, 8);
    CHECK_EQ(asthra_select(&receive, 1, 0), 0);
    CHECK_EQ(receive.status, ASTHRA_CLOSED);
    asthra_channel_destroy(c);
}

TEST(select, the_cases_that_were_not_chosen_leave_nothing_behind) {
    Waiting w = {.a = ints(0), .b = ints(0)};
    AsthraTaskHandle t = asthra_spawn(select_waiting, &w);
    send_int(w.a, 3);
    asthra_await(t);
    CHECK_EQ(w.chosen, 0);
    CHECK_EQ(w.value, 3);
    CHECK_EQ(asthra_channel_try_receive(w.b, NULL).status, ASTHRA_WOULD_BLOCK);
    asthra_channel_destroy(w.a);
    asthra_channel_destroy(w.b);
}

static void *select_a_thousand(void *args) {
    enum { CASES = 1000 };
    AsthraChannel **c = args;
    static AsthraSelectCase cases[CASES];
    int value = 0;
    for (int i = 0; i < CASES; i++) cases[i] = asthra_select_receive(c[i == 777], &value);
    CHECK_EQ(asthra_select(cases, CASES, ASTHRA_FOREVER), 777);
    CHECK_EQ(value, 5);
    return NULL;
}

TEST(select, a_thousand_cases_fit_in_a_task) {
    AsthraChannel *c[] = {ints(0), ints(0)};
    AsthraTaskHandle t = asthra_spawn(select_a_thousand, c);
    until_waiting(t);
    send_five(c[1]);
    asthra_await(t);
    asthra_channel_destroy(c[0]);
    asthra_channel_destroy(c[1]);
}

/* ---- one channel in several cases, and selects that meet ---- */

TEST(select, it_never_meets_itself) {
    AsthraChannel *c = ints(0);
    int out = 1, in = 2;
    AsthraSelectCase cases[] = {asthra_select_send(c, &out), asthra_select_receive(c, &in),
                                asthra_select_send(c, &out), asthra_select_receive(c, &in)};
    CHECK_EQ(asthra_select(cases, 4, 0), ASTHRA_SELECT_DEFAULT);
    CHECK_EQ(asthra_select(cases, 4, ASTHRA_US(100)), ASTHRA_SELECT_TIMEOUT);
    CHECK_EQ(in, 2);
    asthra_channel_destroy(c);
}

TEST(select, the_same_channel_may_stand_in_several_cases) {
    AsthraChannel *c = ints(0);
    int got[3] = {0, 0, 0};
    for (int i = 0; i < 100; i++) {
        AsthraSelectCase cases[3];
        for (int k = 0; k < 3; k++) cases[k] = asthra_select_receive(c, &got[k]);
        AsthraTaskHandle t = asthra_spawn(send_five, c);
        int chosen = asthra_select(cases, 3, ASTHRA_FOREVER);
        CHECK(chosen >= 0 && chosen < 3);
        CHECK_EQ(got[chosen], 5);
        got[chosen] = 0;
        CHECK_EQ(got[0] + got[1] + got[2], 0);
        asthra_await(t);
    }
    asthra_channel_destroy(c);
}

/* Ring: player i sends on channel i and receives on channel i + 1, all in one select, until it has
 * done `rounds` of each. Whatever meets whom, what was sent is what was received. */
enum { PLAYERS = 3, ROUNDS = 3000 };

typedef struct Player {
    AsthraChannel *out, *in;
    long sent, received;
    int sends, receives;
} Player;

static void *play(void *args) {
    Player *p = args;
    while (p->sends < ROUNDS || p->receives < ROUNDS) {
        int out = p->sends + 1, in = 0;
        AsthraSelectCase cases[] = {
            asthra_select_send(p->sends < ROUNDS ? p->out : NULL, &out),
            asthra_select_receive(p->receives < ROUNDS ? p->in : NULL, &in)};
        int chosen = asthra_select(cases, 2, ASTHRA_FOREVER);
        CHECK(chosen == 0 || chosen == 1);
        CHECK_EQ(cases[chosen].status, ASTHRA_OK);
        if (chosen == 0)
            p->sent += out, p->sends++;
        else
            p->received += in, p->receives++;
    }
    return NULL;
}

static void check_ring(int players, bool on_threads) {
    Player player[PLAYERS];
    AsthraChannel *c[PLAYERS];
    AsthraTaskHandle tasks[PLAYERS];
    pthread_t threads[PLAYERS];
    long sent = 0, received = 0;
    for (int i = 0; i < players; i++) c[i] = ints(0);
    for (int i = 0; i < players; i++) {
        player[i] = (Player){c[i], c[(i + 1) % players], 0, 0, 0, 0};
        if (on_threads)
            CHECK(!pthread_create(&threads[i], NULL, play, &player[i]));
        else
            tasks[i] = asthra_spawn(play, &player[i]);
    }
    for (int i = 0; i < players; i++) {
        if (on_threads)
            pthread_join(threads[i], NULL);
        else
            asthra_await(tasks[i]);
        sent += player[i].sent;
        received += player[i].received;
    }
    CHECK_EQ(sent, received);
    CHECK_EQ(sent, (long)players * ROUNDS * (ROUNDS + 1) / 2);
    for (int i = 0; i < players; i++) asthra_channel_destroy(c[i]);
}

TEST(select, two_tasks_that_select_on_each_other_always_meet) {
    check_ring(2, false);
}
TEST(select, two_threads_that_select_on_each_other_always_meet) {
    check_ring(2, true);
}
TEST(select, three_tasks_in_a_circle_always_meet) {
    check_ring(3, false);
}
TEST(select, three_threads_in_a_circle_always_meet) {
    check_ring(3, true);
}

/* Everybody both sends and receives on the same channels, buffered and not, with limits that often
 * run out. No value is lost and none comes twice. */
enum { TRADERS = 4, TRADES = 3000 };

typedef struct Trader {
    AsthraChannel *c[3];
    int64_t next, sent, received, sends, receives;
} Trader;

static void *trade(void *args) {
    Trader *t = args;
    for (int i = 0; i < TRADES; i++) {
        int64_t out = t->next, in = 0;
        AsthraSelectCase cases[6];
        for (int k = 0; k < 3; k++) {
            cases[2 * k] = asthra_select_send(t->c[k], &out);
            cases[2 * k + 1] = asthra_select_receive(t->c[k], &in);
        }
        int chosen = asthra_select(cases, 6, i % 3 ? ASTHRA_US(20) : 0);
        if (chosen < 0) continue;
        CHECK_EQ(cases[chosen].status, ASTHRA_OK);
        if (chosen % 2)
            t->received += in, t->receives++;
        else
            t->sent += out, t->sends++, t->next++;
    }
    return NULL;
}

TEST_WITHIN(60, select, what_is_sent_with_time_limits_is_received_once) {
    Trader traders[TRADERS];
    AsthraTaskHandle tasks[TRADERS / 2];
    pthread_t threads[TRADERS / 2];
    AsthraChannel *c[3] = {asthra_channel_create(8, 0, "direct"),
                           asthra_channel_create(8, 1, "one"), asthra_channel_create(8, 5, "five")};
    int64_t sent = 0, received = 0, sends = 0, receives = 0, value;
    for (int i = 0; i < TRADERS; i++) {
        traders[i] = (Trader){{c[0], c[1], c[2]}, i * 1000000 + 1, 0, 0, 0, 0};
        if (i % 2)
            CHECK(!pthread_create(&threads[i / 2], NULL, trade, &traders[i]));
        else
            tasks[i / 2] = asthra_spawn(trade, &traders[i]);
    }
    for (int i = 0; i < TRADERS / 2; i++) {
        asthra_await(tasks[i]);
        pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < TRADERS; i++) {
        sent += traders[i].sent, sends += traders[i].sends;
        received += traders[i].received, receives += traders[i].receives;
    }
    for (int k = 0; k < 3; k++) {
        while (asthra_channel_try_receive(c[k], &value).status == ASTHRA_OK)
            received += value, receives++;
        asthra_channel_destroy(c[k]);
    }
    CHECK_EQ(sends, receives);
    CHECK_EQ(sent, received);
}

/* ---- the builder ---- */

TEST(select, a_builder_reads_its_data_at_each_execute) {
    AsthraChannel *c = ints(4);
    AsthraSelectBuilder *b = asthra_select_builder_create();
    int out = 0, in = -1;
    CHECK_EQ(asthra_select_builder_add_send(b, c, &out), 0);
    for (out = 10; out < 14; out++) {
        CHECK_EQ(asthra_select_execute(b), 0);
        CHECK_EQ(asthra_select_outcome(b), ASTHRA_SELECT_SENT);
    }
    for (int i = 10; i < 14; i++) {
        CHECK_EQ(asthra_channel_receive(c, &in).status, ASTHRA_OK);
        CHECK_EQ(in, i);
    }
    asthra_select_builder_destroy(b);
    asthra_channel_destroy(c);
}

TEST(select, a_builder_numbers_its_cases_and_tells_the_outcome) {
    AsthraSelectBuilder *b = asthra_select_builder_create();
    AsthraChannel *c = ints(1);
    int in = 0;
    for (int i = 0; i < 100; i++)
        CHECK_EQ(asthra_select_builder_add_receive(b, i == 60 ? c : NULL, &in), i);
    CHECK_EQ(asthra_select_outcome(b), ASTHRA_SELECT_NONE);
    send_int(c, 2);
    CHECK_EQ(asthra_select_execute(b), 60);
    CHECK_EQ(in, 2);
    CHECK_EQ(asthra_select_outcome(b), ASTHRA_SELECT_RECEIVED);
    asthra_channel_close(c);
    CHECK_EQ(asthra_select_execute(b), 60);
    CHECK_EQ(asthra_select_outcome(b), ASTHRA_SELECT_CLOSED);
    asthra_select_builder_destroy(b);
    asthra_channel_destroy(c);
}

TEST(select, a_builder_counts_its_limit_anew_each_time) {
    AsthraSelectBuilder *b = asthra_select_builder_create();
    AsthraChannel *c = ints(0);
    asthra_select_builder_add_receive(b, c, NULL);
    asthra_select_builder_set_timeout(b, ASTHRA_MS(2));
    for (int i = 0; i < 3; i++) {
        int64_t start = asthra_now_ns();
        CHECK_EQ(asthra_select_execute(b), ASTHRA_SELECT_TIMEOUT);
        CHECK(asthra_now_ns() - start >= ASTHRA_MS(2));
        CHECK_EQ(asthra_select_outcome(b), ASTHRA_SELECT_NONE);
    }
    asthra_select_builder_set_timeout(b, 0);
    CHECK_EQ(asthra_select_execute(b), ASTHRA_SELECT_TIMEOUT);
    asthra_select_builder_destroy(b);
    asthra_channel_destroy(c);
}

TEST(select, the_default_of_a_builder_beats_its_limit) {
    AsthraSelectBuilder *b = asthra_select_builder_create();
    asthra_select_builder_set_timeout(b, ASTHRA_SECONDS(3600));
    asthra_select_builder_set_default(b);
    CHECK_EQ(asthra_select_execute(b), ASTHRA_SELECT_DEFAULT);
    CHECK_EQ(asthra_select_outcome(b), ASTHRA_SELECT_NONE);
    asthra_select_builder_destroy(b);
}

TEST(select, a_builder_waits) {
    AsthraSelectBuilder *b = asthra_select_builder_create();
    AsthraChannel *c = ints(0), *other = ints(0);
    int in = 0, out = 0;
    asthra_select_builder_add_send(b, other, &out);
    asthra_select_builder_add_receive(b, c, &in);
    for (int i = 0; i < 50; i++) {
        AsthraTaskHandle t = asthra_spawn(send_five, c);
        CHECK_EQ(asthra_select_execute(b), 1);
        CHECK_EQ(in, 5);
        in = 0;
        asthra_await(t);
    }
    asthra_select_builder_destroy(b);
    asthra_channel_destroy(c);
    asthra_channel_destroy(other);
}

/* ---- bugs of the caller ---- */

TEST_PANICS(select, sending_null_panics, "case 1 sends to channel 'ints', but its data is NULL") {
    AsthraSelectCase cases[] = {asthra_select_receive(ints(0), NULL),
                                asthra_select_send(ints(0), NULL)};
    asthra_select(cases, 2, 0);
}
TEST_PANICS(select, a_kind_that_is_none_panics, "case 0 has kind 7") {
    AsthraSelectCase one = asthra_select_receive(ints(0), NULL);
    one.kind = (AsthraSelectKind)7;
    asthra_select(&one, 1, 0);
}
TEST_PANICS(select, adding_null_data_panics, "the data for channel 'ints' is NULL") {
    asthra_select_builder_add_send(asthra_select_builder_create(), ints(0), NULL);
}
TEST_PANICS(select, executing_null_panics, "asthra_select_execute: the builder is NULL") {
    asthra_select_execute(NULL);
}
TEST_PANICS(select, cases_of_null_panic, "asthra_select: cases is NULL") {
    asthra_select(NULL, 2, 0);
}
TEST_PANICS(select, a_channel_that_a_select_waits_on_is_not_destroyed, "still wait on channel") {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads =
        1; /* on another worker it could count as waiting before its nodes are linked */
    CHECK(asthra_runtime_init(&c));
    Waiting w = {.a = ints(0), .b = ints(0)};
    AsthraTaskHandle t = asthra_spawn(select_waiting, &w);
    until_waiting(t);
    asthra_channel_destroy(w.a);
}

/* ---- plain ifs ---- */

TEST(select, ifs_run_the_branch_of_the_case_that_was_chosen) {
    AsthraChannel *a = ints(1), *b = ints(1);
    int got = 0, value = 7, ran = 0;
    send_int(a, 5);
    ASTHRA_SELECT(s) {
        if (asthra_case_receive(&s, b, &got)) {
            CHECK(false);
        } else if (asthra_case_receive(&s, a, &got)) {
            CHECK(s.ok);
            ran++;
        } else if (asthra_case_timeout(&s, ASTHRA_MS(100))) {
            CHECK(false);
        }
    }
    CHECK_EQ(ran, 1);
    CHECK_EQ(got, 5);
    ASTHRA_SELECT(s) {
        if (asthra_case_receive(&s, a, &got)) CHECK(false);
        if (asthra_case_send(&s, b, &value)) ran++;
        if (asthra_case_receive(&s, a, &got)) CHECK(false);
    }
    CHECK_EQ(ran, 2);
    CHECK_EQ(asthra_channel_count(b), 1);
    asthra_channel_destroy(a);
    asthra_channel_destroy(b);
}

TEST(select, ifs_wait_until_one_is_ready) {
    AsthraChannel *a = ints(0), *b = ints(0);
    int got = 0;
    AsthraTaskHandle t = asthra_spawn(send_five, b);
    ASTHRA_SELECT(s) {
        if (asthra_case_receive(&s, a, NULL))
            CHECK(false);
        else if (asthra_case_receive(&s, b, &got))
            CHECK(s.ok);
    }
    CHECK_EQ(got, 5);
    asthra_await(t);
    t = asthra_spawn(receive_one, a);
    ASTHRA_SELECT(s) {
        if (asthra_case_send(&s, a, &got)) got = 0;
    }
    CHECK_EQ(got, 0);
    CHECK_EQ((intptr_t)asthra_await(t), 5);
    asthra_channel_destroy(a);
    asthra_channel_destroy(b);
}

TEST(select, ifs_on_a_closed_channel_are_not_ok) {
    AsthraChannel *c = ints(1);
    int value = 3, ran = 0;
    send_int(c, 4);
    asthra_channel_close(c);
    ASTHRA_SELECT(s) {
        if (asthra_case_receive(&s, c, &value)) ran += s.ok && value == 4;
    }
    ASTHRA_SELECT(s) {
        if (asthra_case_receive(&s, c, &value)) ran += !s.ok && value == 4;
    }
    ASTHRA_SELECT(s) {
        if (asthra_case_send(&s, c, &value)) ran += !s.ok;
    }
    CHECK_EQ(ran, 3);
    asthra_channel_destroy(c);
}

TEST(select, ifs_have_timeouts_and_the_shortest_counts) {
    AsthraChannel *c = ints(0);
    int64_t limits[] = {ASTHRA_FOREVER, ASTHRA_SECONDS(20), ASTHRA_US(50), ASTHRA_US(50)};
    int chosen = -1, times = 0;
    ASTHRA_SELECT(s) {
        if (asthra_case_receive(&s, c, NULL)) CHECK(false);
        for (int i = 0; i < 4; i++)
            if (asthra_case_timeout(&s, limits[i])) chosen = i;
    }
    CHECK_EQ(chosen, 2);
    ASTHRA_SELECT(s) {
        if (asthra_case_timeout(&s, 0)) times++;
    }
    CHECK_EQ(times, 1);
    int64_t moving = ASTHRA_US(70); /* what is left of some time, as it may be computed */
    ASTHRA_SELECT(s) {
        if (asthra_case_timeout(&s, moving--)) times++;
    }
    CHECK_EQ(times, 2);
    asthra_channel_destroy(c);
}

TEST(select, ifs_with_a_default_never_wait) {
    AsthraChannel *c = ints(1);
    int ran = 0;
    ASTHRA_SELECT(s) {
        if (asthra_case_timeout(&s, 0))
            CHECK(false);
        else if (asthra_case_receive(&s, c, NULL))
            CHECK(false);
        else if (asthra_case_default(&s))
            ran++;
    }
    CHECK_EQ(ran, 1);
    send_int(c, 1);
    ASTHRA_SELECT(s) {
        if (asthra_case_default(&s)) CHECK(false);
        if (asthra_case_receive(&s, c, NULL)) ran++;
        if (asthra_case_default(&s)) CHECK(false);
    }
    CHECK_EQ(ran, 2);
    ASTHRA_SELECT(s) {
        if (asthra_case_default(&s)) ran++;
        if (asthra_case_default(&s)) CHECK(false); /* one branch, whatever is asked twice */
    }
    CHECK_EQ(ran, 3);
    asthra_channel_destroy(c);
}

TEST(select, ifs_evaluate_their_conditions_twice_and_the_branch_once) {
    AsthraChannel *c = ints(1);
    int conditions = 0, outside = 0, branches = 0;
    send_int(c, 1);
    ASTHRA_SELECT(s) {
        outside++;
        if (asthra_case_receive(&s, (conditions++, c), NULL)) branches++;
    }
    CHECK_EQ(conditions, 2);
    CHECK_EQ(outside, 2);
    CHECK_EQ(branches, 1);
    asthra_channel_destroy(c);
}

static int leave_by_return(AsthraChannel *c) {
    ASTHRA_SELECT(s) {
        if (asthra_case_receive(&s, c, NULL)) return 1;
    }
    return 2;
}

TEST(select, break_continue_return_and_goto_leave_ifs) {
    AsthraChannel *c = ints(4);
    int rounds = 0;
    for (int i = 0; i < 4; i++) send_int(c, i);
    for (; rounds < 2; rounds++) {
        ASTHRA_SELECT(s) {
            if (asthra_case_receive(&s, c, NULL)) {
                if (rounds == 0) break; /* only the select */
                continue;
            }
            CHECK(rounds < 2);
        }
    }
    CHECK_EQ(rounds, 2);
    CHECK_EQ(leave_by_return(c), 1);
    ASTHRA_SELECT(s) {
        if (asthra_case_receive(&s, c, NULL)) goto out;
    }
    CHECK(false);
out:
    CHECK_EQ(asthra_channel_count(c), 0);
    asthra_channel_destroy(c);
}

TEST(select, a_branch_may_wait_and_hold_another_select) {
    AsthraChannel *a = ints(1), *b = ints(0);
    int got = 0, inner = 0;
    send_int(a, 1);
    AsthraTaskHandle t = asthra_spawn(send_five, b);
    ASTHRA_SELECT(s) {
        if (asthra_case_receive(&s, b, NULL)) {
            inner = -1; /* then there is nothing in b any more */
        } else if (asthra_case_receive(&s, a, &got)) {
            asthra_sleep_ns(ASTHRA_US(50));
            ASTHRA_SELECT(r) {
                if (asthra_case_receive(&r, a, NULL))
                    CHECK(false);
                else if (asthra_case_receive(&r, b, &inner))
                    CHECK(r.ok && s.ok);
            }
        }
    }
    CHECK((got == 1 && inner == 5) || (got == 0 && inner == -1));
    asthra_await(t);
    asthra_channel_destroy(a);
    asthra_channel_destroy(b);
}

TEST(select, ifs_may_stand_in_a_loop_and_beside_conditions) {
    AsthraChannel *c[ASTHRA_SELECT_MAX];
    int sum = 0, got = -1, wants[] = {1, 0};
    for (int i = 0; i < ASTHRA_SELECT_MAX; i++) c[i] = ints(1);
    for (int i = 0; i < ASTHRA_SELECT_MAX; i++) {
        send_int(c[i], i);
        ASTHRA_SELECT(s) {
            for (int k = 0; k < ASTHRA_SELECT_MAX; k++) {
                if (wants[0] && asthra_case_receive(&s, c[k], &got)) sum += got == k;
                if (wants[1] && asthra_case_receive(&s, c[k], &got)) CHECK(false);
            }
        }
    }
    CHECK_EQ(sum, ASTHRA_SELECT_MAX);
    for (int i = 0; i < ASTHRA_SELECT_MAX; i++) asthra_channel_destroy(c[i]);
}

TEST(select, ifs_with_a_null_channel_are_never_ready) {
    int ran = 0;
    ASTHRA_SELECT(s) {
        if (asthra_case_receive(&s, NULL, NULL))
            CHECK(false);
        else if (asthra_case_send(&s, NULL, NULL))
            CHECK(false);
        else if (asthra_case_default(&s))
            ran++;
    }
    CHECK_EQ(ran, 1);
}

/* Bit 0: the branch ran; bit 1: a loop without it ends, too. */
static void *ifs_until_cancelled(void *c) {
    intptr_t seen = 0;
    ASTHRA_SELECT(s) {
        if (asthra_case_receive(&s, c, NULL)) {
            CHECK(false);
        } else if (asthra_case_cancelled(&s)) {
            CHECK_EQ(asthra_last_error().status, ASTHRA_CANCELLED);
            seen |= 1;
        }
    }
    while (!asthra_cancel_requested()) {
        ASTHRA_SELECT(s) {
            if (asthra_case_receive(&s, c, NULL)) CHECK(false);
        }
    }
    ASTHRA_SELECT(s) {}
    return (void *)(seen | 2);
}

TEST(select, ifs_end_without_a_choice_when_the_task_is_cancelled) {
    AsthraChannel *c = ints(0);
    void *seen = NULL;
    AsthraTaskHandle t = asthra_spawn(ifs_until_cancelled, c);
    until_waiting(t);
    CHECK(asthra_task_cancel(t));
    CHECK_EQ(asthra_await_result(t, &seen).status, ASTHRA_CANCELLED);
    CHECK_EQ((intptr_t)seen, 3);
    asthra_channel_destroy(c);
}

static void *empty_ifs(void *args) {
    ASTHRA_SELECT(s) {}
    return args;
}

TEST(select, ifs_without_a_case_wait_until_cancelled) {
    AsthraTaskHandle t = asthra_spawn(empty_ifs, NULL);
    until_waiting(t);
    CHECK(asthra_task_cancel(t));
    CHECK_EQ(asthra_await_result(t, NULL).status, ASTHRA_CANCELLED);
}

TEST(select, the_names_in_parentheses_are_functions) {
    AsthraChannel *c = ints(1);
    AsthraSelect s;
    int value = 6, got = 0, ran = 0;
    for (AsthraSelect *at = (asthra_select_begin)(&s); asthra_select_step(at);) {
        if ((asthra_case_receive)(at, c, &got)) CHECK(false);
        if ((asthra_case_send)(at, c, &value)) ran |= 1;
    }
    for (AsthraSelect *at = asthra_select_begin(&s); asthra_select_step(at);) {
        if ((asthra_case_send)(at, c, &value)) CHECK(false);
        if ((asthra_case_timeout)(at, ASTHRA_US(50))) ran |= 2;
        if ((asthra_case_cancelled)(at)) CHECK(false);
    }
    for (AsthraSelect *at = asthra_select_begin(&s); asthra_select_step(at);) {
        if ((asthra_case_default)(at)) ran |= 4;
    }
    CHECK_EQ(ran, 7);
    asthra_channel_destroy(c);
}

/* ---- plain ifs: panics ---- */

TEST_PANICS(select, a_17th_case_panics_and_names_the_builder,
            "asthra_case_receive at tests/test_select.c:1002: more than 16 cases in the "
            "ASTHRA_SELECT at tests/test_select.c:1001: asthra_select_builder_create makes") {
    int i = 0;
#line 1001
    ASTHRA_SELECT(s) {
        while (asthra_case_receive(&s, NULL, NULL) || i++ < 16) continue;
    }
}

TEST_PANICS(
    select, a_case_outside_a_select_panics_with_its_line,
    "asthra_case_receive at tests/test_select.c:1101: not in the body of an ASTHRA_SELECT") {
    AsthraSelect s;
    memset(&s, 0x5a, sizeof s);
#line 1101
    asthra_case_receive(&s, NULL, NULL);
}

TEST_PANICS(
    select, a_case_behind_its_select_panics_with_its_line,
    "asthra_case_default at tests/test_select.c:1201: not in the body of an ASTHRA_SELECT") {
    AsthraSelect s;
    for (asthra_select_begin(&s); asthra_select_step(&s);) asthra_case_default(&s);
#line 1201
    asthra_case_default(&s);
}

TEST_PANICS(select, no_select_at_all_panics, "asthra_case_timeout at ") {
    asthra_case_timeout(NULL, 5);
}

TEST_PANICS(select, cases_in_another_order_panic,
            "asthra_case_send at tests/test_select.c:1303: the cases of the ASTHRA_SELECT at "
            "tests/test_select.c:1301 were others, or in another order") {
    AsthraChannel *c = ints(1);
    int value = 1, round = 0;
    send_int(c, 1);
#line 1301
    ASTHRA_SELECT(s) {
        if (round++ == 0) asthra_case_receive(&s, c, &value);
        asthra_case_send(&s, c, &value);
    }
}

TEST_PANICS(select, another_target_panics,
            "the cases of the ASTHRA_SELECT at tests/test_select.c:1401 were others") {
    AsthraChannel *c = ints(1);
    int values[2], round = 0;
    send_int(c, 1);
#line 1401
    ASTHRA_SELECT(s) {
        asthra_case_receive(&s, c, &values[round++]);
    }
}

TEST_PANICS(select, another_channel_panics, "the cases of the ASTHRA_SELECT at ") {
    AsthraChannel *c[] = {ints(1), ints(1)};
    int value = 0, round = 0;
    send_int(c[0], 1);
    ASTHRA_SELECT(s) {
        asthra_case_receive(&s, c[round++], &value);
    }
}

TEST_PANICS(select, a_case_more_in_the_second_round_panics, "the cases of the ASTHRA_SELECT at ") {
    int round = 0;
    ASTHRA_SELECT(s) {
        asthra_case_default(&s);
        if (round++ == 1) asthra_case_receive(&s, NULL, NULL);
    }
}

TEST_PANICS(select, a_chosen_case_that_nobody_asks_for_panics,
            "ASTHRA_SELECT at tests/test_select.c:1601: a receive on channel 'ints' was chosen, "
            "but when the body ran again nobody asked for it") {
    AsthraChannel *c = ints(1);
    bool wanted = true;
    send_int(c, 1);
#line 1601
    ASTHRA_SELECT(s) {
        if (wanted && asthra_case_receive(&s, c, NULL)) CHECK(false);
        wanted = false;
    }
}

TEST_PANICS(select, a_timeout_that_nobody_asks_for_panics, "the timeout was chosen, but when") {
    bool wanted = true;
    ASTHRA_SELECT(s) {
        if (wanted) asthra_case_timeout(&s, ASTHRA_US(50));
        wanted = false;
    }
}

TEST_PANICS(select, ifs_that_send_nothing_panic, "the value for channel 'ints' is NULL") {
    AsthraChannel *c = ints(1);
    ASTHRA_SELECT(s) {
        asthra_case_send(&s, c, NULL);
    }
}
