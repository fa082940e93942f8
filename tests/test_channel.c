/* The promises of src/concurrency/channel.h, one test each. */
#include "test.h"
#include "asthra_rt.h"
#include "tasks.h"

#include <pthread.h>

static AsthraChannel *ints(size_t capacity) {
    AsthraChannel *c = asthra_channel_create(sizeof(int), capacity, "ints");
    CHECK(c != NULL);
    return c;
}

static AsthraStatus send_int(AsthraChannel *c, int value) {
    return (AsthraStatus)asthra_channel_send(c, &value).status;
}

static int receive_int(AsthraChannel *c) {
    int value = -1;
    CHECK_EQ(asthra_channel_receive(c, &value).status, ASTHRA_OK);
    return value;
}

typedef struct Job {
    AsthraChannel *channel;
    int value;
    AsthraResult result;
} Job;

static void *send_job(void *args) {
    Job *job = args;
    job->result = asthra_channel_send(job->channel, &job->value);
    return job;
}

static void *receive_job(void *args) {
    Job *job = args;
    job->result = asthra_channel_receive(job->channel, &job->value);
    return job;
}

/* ---- create ---- */

TEST(channel, create_copies_the_name_and_tells_its_sizes) {
    char name[] = "jobs";
    AsthraChannel *c = asthra_channel_create(12, 5, name);
    name[0] = 'x';
    CHECK_STR(asthra_channel_name(c), "jobs");
    CHECK_EQ(asthra_channel_element_size(c), 12);
    CHECK_EQ(asthra_channel_capacity(c), 5);
    CHECK_EQ(asthra_channel_count(c), 0);
    CHECK(!asthra_channel_is_closed(c));
    asthra_channel_destroy(c);
}

TEST(channel, a_channel_without_a_name_is_unnamed) {
    AsthraConcurrencyChannel *c = asthra_channel_create(1, 0, NULL);
    CHECK_STR(asthra_channel_name(c), "unnamed");
    asthra_channel_destroy(c);
}

TEST(channel, element_size_0_is_refused_with_the_reason) {
    CHECK(asthra_channel_create(0, 4, "nothing") == NULL);
    AsthraResult error = asthra_last_error();
    CHECK_EQ(error.status, ASTHRA_INVALID);
    CHECK(strstr(asthra_result_message(error), "element_size") != NULL);
    CHECK(strstr(asthra_result_message(error), "nothing") != NULL);
}

TEST(channel, sizes_that_overflow_are_refused_with_the_reason) {
    CHECK(asthra_channel_create(SIZE_MAX / 2, 3, "huge") == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
    CHECK(strstr(asthra_result_message(asthra_last_error()), "overflow") != NULL);
    CHECK(asthra_channel_create(8, SIZE_MAX / 8, "huge") == NULL);
    CHECK(asthra_channel_create(SIZE_MAX, SIZE_MAX, "huge") == NULL);
}

TEST(channel, a_good_create_clears_the_last_error) {
    CHECK(asthra_channel_create(0, 0, NULL) == NULL);
    AsthraChannel *c = ints(0);
    CHECK_EQ(asthra_last_error().status, ASTHRA_OK);
    asthra_channel_destroy(c);
}

/* ---- values ---- */

TEST(channel, values_come_out_in_sending_order_round_and_round_the_ring) {
    AsthraChannel *c = ints(3);
    int sent = 0, received = 0;
    for (int round = 0; round < 50; round++) {
        int fill = 1 + round % 3;
        for (int i = 0; i < fill; i++) CHECK_EQ(send_int(c, sent++), ASTHRA_OK);
        CHECK_EQ(asthra_channel_count(c), fill);
        for (int i = 0; i < fill; i++) CHECK_EQ(receive_int(c), received++);
    }
    CHECK_EQ(asthra_channel_count(c), 0);
    asthra_channel_destroy(c);
}

static void *fill_and_send(void *args) {
    AsthraChannel *c = args;
    size_t size = asthra_channel_element_size(c);
    unsigned char *value = malloc(size);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < size; i++) value[i] = (unsigned char)(i * 7 + (size_t)round);
        CHECK_EQ(asthra_channel_send(c, value).status, ASTHRA_OK);
        memset(value, 0xee, size); /* the channel has its copy */
    }
    free(value);
    return NULL;
}

static void check_size(size_t size, size_t capacity) {
    AsthraChannel *c = asthra_channel_create(size, capacity, "sized");
    AsthraTaskHandle sender = asthra_spawn(fill_and_send, c);
    unsigned char *value = malloc(size + 1);
    for (int round = 0; round < 3; round++) {
        value[size] = 0x5a;
        CHECK_EQ(asthra_channel_receive(c, value).status, ASTHRA_OK);
        for (size_t i = 0; i < size; i++)
            CHECK_EQ(value[i], (unsigned char)(i * 7 + (size_t)round));
        CHECK_EQ(value[size], 0x5a);
    }
    asthra_await(sender);
    free(value);
    asthra_channel_destroy(c);
}

TEST(channel, values_of_any_size_are_copied_whole) {
    static const size_t sizes[] = {1,  2,  3,   4,    5,    8,    12,     16,
                                   17, 64, 100, 4095, 4096, 4097, 1 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_size(sizes[i], 0);
        check_size(sizes[i], 1);
        check_size(sizes[i], 3);
    }
}

TEST(channel, receive_into_null_drops_the_value) {
    AsthraChannel *c = ints(2);
    send_int(c, 1);
    send_int(c, 2);
    CHECK_EQ(asthra_channel_receive(c, NULL).status, ASTHRA_OK);
    CHECK_EQ(receive_int(c), 2);
    Job job = {c, 0, {0, 0, {NULL}}};
    AsthraChannel *direct = ints(0);
    job.channel = direct;
    AsthraTaskHandle sender = asthra_spawn(send_job, &job);
    CHECK_EQ(asthra_channel_receive(direct, NULL).status, ASTHRA_OK);
    asthra_await(sender);
    CHECK_EQ(job.result.status, ASTHRA_OK);
    asthra_channel_destroy(direct);
    asthra_channel_destroy(c);
}

/* ---- who waits, and who does not ---- */

TEST(channel, try_would_block_where_the_others_wait) {
    AsthraChannel *buffered = ints(1), *direct = ints(0);
    int value = 7;
    CHECK_EQ(asthra_channel_try_receive(buffered, &value).status, ASTHRA_WOULD_BLOCK);
    CHECK_EQ(asthra_channel_try_send(buffered, &value).status, ASTHRA_OK);
    CHECK_EQ(asthra_channel_try_send(buffered, &value).status, ASTHRA_WOULD_BLOCK);
    CHECK_EQ(asthra_channel_try_send(direct, &value).status, ASTHRA_WOULD_BLOCK);
    CHECK_EQ(asthra_channel_try_receive(direct, &value).status, ASTHRA_WOULD_BLOCK);
    CHECK_EQ(value, 7);
    CHECK_STR(asthra_result_message(asthra_channel_try_receive(direct, NULL)), "Would block");
    asthra_channel_destroy(buffered);
    asthra_channel_destroy(direct);
}

TEST(channel, try_meets_a_partner_that_waits) {
    AsthraChannel *c = ints(0);
    Job receiver = {c, 0, {0, 0, {NULL}}}, sender = {c, 42, {0, 0, {NULL}}};
    AsthraTaskHandle t = asthra_spawn(receive_job, &receiver);
    until_waiting(t);
    int value = 41;
    CHECK_EQ(asthra_channel_try_send(c, &value).status, ASTHRA_OK);
    asthra_await(t);
    CHECK_EQ(receiver.value, 41);
    t = asthra_spawn(send_job, &sender);
    until_waiting(t);
    CHECK_EQ(asthra_channel_try_receive(c, &value).status, ASTHRA_OK);
    CHECK_EQ(value, 42);
    asthra_await(t);
    asthra_channel_destroy(c);
}

TEST(channel, a_limit_of_0_has_run_out) {
    AsthraChannel *c = ints(1);
    int value = 5;
    CHECK_EQ(asthra_channel_receive_timeout(c, &value, 0).status, ASTHRA_TIMED_OUT);
    CHECK_EQ(asthra_channel_send_timeout(c, &value, 0).status, ASTHRA_OK);
    CHECK_EQ(asthra_channel_send_timeout(c, &value, 0).status, ASTHRA_TIMED_OUT);
    CHECK_EQ(asthra_channel_receive_timeout(c, &value, 0).status, ASTHRA_OK);
    asthra_channel_destroy(c);
}

static void *time_out_both_ways(void *args) {
    AsthraChannel *c = args;
    int value = 9;
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(asthra_channel_receive_timeout(c, &value, ASTHRA_US(50)).status, ASTHRA_TIMED_OUT);
        CHECK_EQ(asthra_channel_send_timeout(c, &value, ASTHRA_US(50)).status, ASTHRA_TIMED_OUT);
    }
    CHECK_EQ(value, 9);
    return NULL;
}

TEST(channel, after_a_time_out_nothing_was_sent_and_nobody_waits) {
    AsthraChannel *c = ints(0);
    int value = 0;
    time_out_both_ways(c);
    asthra_await(asthra_spawn(time_out_both_ways, c));
    CHECK_EQ(asthra_channel_try_receive(c, &value).status, ASTHRA_WOULD_BLOCK);
    CHECK_EQ(asthra_channel_try_send(c, &value).status, ASTHRA_WOULD_BLOCK);
    asthra_channel_destroy(c);
}

TEST(channel, a_time_limit_that_is_not_reached_does_not_matter) {
    AsthraChannel *c = ints(0);
    Job job = {c, 3, {0, 0, {NULL}}};
    int value = 0;
    AsthraTaskHandle t = asthra_spawn(send_job, &job);
    CHECK_EQ(asthra_channel_receive_timeout(c, &value, ASTHRA_SECONDS(3600)).status, ASTHRA_OK);
    CHECK_EQ(value, 3);
    asthra_await(t);
    t = asthra_spawn(receive_job, &job);
    value = 4;
    CHECK_EQ(asthra_channel_send_timeout(c, &value, ASTHRA_FOREVER).status, ASTHRA_OK);
    asthra_await(t);
    CHECK_EQ(job.value, 4);
    asthra_channel_destroy(c);
}

TEST(channel, waiting_receivers_are_served_in_order) {
    AsthraChannel *c = ints(0);
    Job jobs[5];
    AsthraTaskHandle tasks[5];
    for (int i = 0; i < 5; i++) {
        jobs[i] = (Job){c, -1, {0, 0, {NULL}}};
        tasks[i] = asthra_spawn(receive_job, &jobs[i]);
        until_waiting(tasks[i]);
    }
    for (int i = 0; i < 5; i++) CHECK_EQ(send_int(c, i), ASTHRA_OK);
    for (int i = 0; i < 5; i++) {
        asthra_await(tasks[i]);
        CHECK_EQ(jobs[i].value, i);
    }
    asthra_channel_destroy(c);
}

TEST(channel, senders_that_wait_for_room_keep_their_order) {
    AsthraChannel *c = ints(2);
    Job jobs[5];
    AsthraTaskHandle tasks[5];
    for (int i = 0; i < 5; i++) {
        jobs[i] = (Job){c, i, {0, 0, {NULL}}};
        tasks[i] = asthra_spawn(send_job, &jobs[i]);
        if (i < 2)
            while (asthra_channel_count(c) <= (size_t)i) asthra_sleep_ns(10000);
        else
            until_waiting(tasks[i]);
    }
    CHECK_EQ(asthra_channel_count(c), 2);
    for (int i = 0; i < 5; i++) CHECK_EQ(receive_int(c), i);
    for (int i = 0; i < 5; i++) asthra_await(tasks[i]);
    asthra_channel_destroy(c);
}

/* ---- closing ---- */

TEST(channel, what_is_inside_a_closed_channel_can_still_be_received) {
    AsthraChannel *c = ints(2);
    send_int(c, 1);
    send_int(c, 2);
    CHECK(asthra_channel_close(c));
    CHECK(asthra_channel_is_closed(c));
    CHECK_EQ(asthra_channel_count(c), 2);
    CHECK_EQ(receive_int(c), 1);
    CHECK_EQ(receive_int(c), 2);
    int value = 77;
    CHECK_EQ(asthra_channel_receive(c, &value).status, ASTHRA_CLOSED);
    CHECK_EQ(asthra_channel_try_receive(c, &value).status, ASTHRA_CLOSED);
    CHECK_EQ(asthra_channel_receive_timeout(c, &value, ASTHRA_SECONDS(3600)).status, ASTHRA_CLOSED);
    CHECK_EQ(value, 77);
    asthra_channel_destroy(c);
}

TEST(channel, send_on_a_closed_channel_is_an_error_result) {
    AsthraChannel *c = ints(2);
    int value = 1;
    asthra_channel_close(c);
    AsthraResult r = asthra_channel_send(c, &value);
    CHECK_EQ(r.status, ASTHRA_CLOSED);
    CHECK_STR(asthra_result_message(r), "Channel is closed");
    CHECK_EQ(asthra_channel_try_send(c, &value).status, ASTHRA_CLOSED);
    CHECK_EQ(asthra_channel_send_timeout(c, &value, 1).status, ASTHRA_CLOSED);
    CHECK_EQ(asthra_channel_count(c), 0);
    asthra_channel_destroy(c);
}

TEST(channel, closing_again_changes_nothing) {
    AsthraChannel *c = ints(1);
    CHECK(asthra_channel_close(c));
    CHECK(!asthra_channel_close(c));
    CHECK_EQ(asthra_last_error().status, ASTHRA_CLOSED);
    CHECK(asthra_channel_is_closed(c));
    asthra_channel_destroy(c);
}

TEST(channel, close_wakes_every_waiting_receiver) {
    AsthraChannel *c = ints(3);
    Job jobs[4];
    AsthraTaskHandle tasks[4];
    for (int i = 0; i < 4; i++) {
        jobs[i] = (Job){c, 55, {0, 0, {NULL}}};
        tasks[i] = asthra_spawn(receive_job, &jobs[i]);
        until_waiting(tasks[i]);
    }
    asthra_channel_close(c);
    for (int i = 0; i < 4; i++) {
        asthra_await(tasks[i]);
        CHECK_EQ(jobs[i].result.status, ASTHRA_CLOSED);
        CHECK_EQ(jobs[i].value, 55);
    }
    asthra_channel_destroy(c);
}

TEST(channel, close_wakes_every_waiting_sender_and_takes_nothing_from_it) {
    AsthraChannel *c = ints(1);
    Job jobs[4];
    AsthraTaskHandle tasks[4];
    send_int(c, 100);
    for (int i = 0; i < 4; i++) {
        jobs[i] = (Job){c, i, {0, 0, {NULL}}};
        tasks[i] = asthra_spawn(send_job, &jobs[i]);
        until_waiting(tasks[i]);
    }
    asthra_channel_close(c);
    for (int i = 0; i < 4; i++) {
        asthra_await(tasks[i]);
        CHECK_EQ(jobs[i].result.status, ASTHRA_CLOSED);
        CHECK_STR(asthra_result_message(jobs[i].result), "Channel is closed");
    }
    CHECK_EQ(receive_int(c), 100);
    CHECK_EQ(asthra_channel_receive(c, NULL).status, ASTHRA_CLOSED);
    asthra_channel_destroy(c);
}

static void *send_ten_and_close(void *args) {
    for (int i = 0; i < 10; i++) send_int(args, i);
    asthra_channel_close(args);
    return NULL;
}

TEST(channel, next_ends_when_closed_and_drained) {
    AsthraChannel *c = ints(4);
    AsthraTaskHandle t = asthra_spawn(send_ten_and_close, c);
    int value = 0, expected = 0;
    while (asthra_channel_next(c, &value, sizeof value)) CHECK_EQ(value, expected++);
    CHECK_EQ(expected, 10);
    CHECK_EQ(value, 9);
    CHECK_EQ(asthra_last_error().status, ASTHRA_CLOSED);
    asthra_await(t);
    asthra_channel_destroy(c);
}

/* ---- bugs of the caller ---- */

TEST_PANICS(channel, next_with_a_wrong_size_panics, "carries values of 4 bytes, not 8") {
    int64_t wide;
    asthra_channel_next(ints(1), &wide, sizeof wide);
}
TEST_PANICS(channel, send_to_null_panics, "asthra_channel_send: the channel is NULL") {
    send_int(NULL, 1);
}
TEST_PANICS(channel, send_of_null_panics, "asthra_channel_send: the value is NULL") {
    asthra_channel_send(ints(1), NULL);
}
TEST_PANICS(channel, receive_from_null_panics, "asthra_channel_receive: the channel is NULL") {
    asthra_channel_receive(NULL, NULL);
}
TEST_PANICS(channel, try_send_to_null_panics, "asthra_channel_try_send: the channel is NULL") {
    int value = 1;
    asthra_channel_try_send(NULL, &value);
}
TEST_PANICS(channel, try_receive_from_null_panics, "asthra_channel_try_receive: the channel is") {
    asthra_channel_try_receive(NULL, NULL);
}
TEST_PANICS(channel, next_of_null_panics, "asthra_channel_next: the channel is NULL") {
    asthra_channel_next(NULL, NULL, 4);
}
TEST_PANICS(channel, close_of_null_panics, "asthra_channel_close: the channel is NULL") {
    asthra_channel_close(NULL);
}
TEST_PANICS(channel, destroy_of_null_panics, "asthra_channel_destroy: the channel is NULL") {
    asthra_channel_destroy(NULL);
}

TEST_PANICS(channel, destroy_with_waiters_names_them,
            "1 still wait on channel 'ints': task 1 'patient' (receive)") {
    AsthraSpawnOptions options = {"patient", 0, 0, 0};
    Job job = {ints(0), 0, {0, 0, {NULL}}};
    until_waiting(asthra_spawn_with(&options, receive_job, &job));
    asthra_channel_destroy(job.channel);
}

/* ---- the end of a channel ---- */

static void *send_one(void *args) {
    CHECK_EQ(send_int(args, 1), ASTHRA_OK);
    return NULL;
}

static void *send_one_thread(void *args) {
    return send_one(args);
}

/* Whatever the sender still does after its hand-over, it must not be to the channel. */
TEST(channel, destroying_after_ones_last_receive_is_safe) {
    for (int i = 0; i < 3000; i++) {
        AsthraChannel *c = ints((size_t)(i % 2));
        AsthraTaskHandle t = asthra_spawn(send_one, c);
        CHECK_EQ(receive_int(c), 1);
        asthra_channel_destroy(c);
        asthra_await(t);
    }
}

TEST(channel, destroying_after_a_thread_has_sent_is_safe) {
    for (int i = 0; i < 300; i++) {
        AsthraChannel *c = ints((size_t)(i % 2));
        pthread_t t;
        CHECK(!pthread_create(&t, NULL, send_one_thread, c));
        CHECK_EQ(receive_int(c), 1);
        asthra_channel_destroy(c);
        pthread_join(t, NULL);
    }
}

/* ---- many at once ---- */

enum { SENDERS = 4, EACH = 5000 };

typedef struct Numbered {
    int sender, number;
} Numbered;

typedef struct Crowd {
    AsthraChannel *channel;
    int sender;
    int newest[SENDERS]; /* of each sender, that this receiver has seen */
    int received[SENDERS];
} Crowd;

static void *crowd_send(void *args) {
    Crowd *crowd = args;
    for (int i = 0; i < EACH; i++) {
        Numbered value = {crowd->sender, i};
        CHECK_EQ(asthra_channel_send(crowd->channel, &value).status, ASTHRA_OK);
    }
    return NULL;
}

static void *crowd_receive(void *args) {
    Crowd *crowd = args;
    Numbered value;
    for (int i = 0; i < SENDERS; i++) crowd->newest[i] = -1;
    while (asthra_channel_next(crowd->channel, &value, sizeof value)) {
        CHECK(value.number > crowd->newest[value.sender]); /* in order per sender */
        crowd->newest[value.sender] = value.number;
        crowd->received[value.sender]++;
    }
    return NULL;
}

/* Half of each side are tasks, half are plain threads. */
static void check_crowd(size_t capacity) {
    AsthraChannel *c = asthra_channel_create(sizeof(Numbered), capacity, "crowd");
    Crowd senders[SENDERS], receivers[SENDERS];
    AsthraTaskHandle tasks[2][SENDERS / 2];
    pthread_t threads[2][SENDERS / 2];
    memset(senders, 0, sizeof senders);
    memset(receivers, 0, sizeof receivers);
    for (int i = 0; i < SENDERS; i++) {
        senders[i].channel = receivers[i].channel = c;
        senders[i].sender = i;
    }
    for (int i = 0; i < SENDERS / 2; i++) {
        tasks[0][i] = asthra_spawn(crowd_receive, &receivers[2 * i]);
        tasks[1][i] = asthra_spawn(crowd_send, &senders[2 * i]);
        CHECK(!pthread_create(&threads[0][i], NULL, crowd_receive, &receivers[2 * i + 1]));
        CHECK(!pthread_create(&threads[1][i], NULL, crowd_send, &senders[2 * i + 1]));
    }
    for (int i = 0; i < SENDERS / 2; i++) asthra_await(tasks[1][i]);
    for (int i = 0; i < SENDERS / 2; i++) pthread_join(threads[1][i], NULL);
    asthra_channel_close(c);
    for (int i = 0; i < SENDERS / 2; i++) asthra_await(tasks[0][i]);
    for (int i = 0; i < SENDERS / 2; i++) pthread_join(threads[0][i], NULL);
    for (int s = 0; s < SENDERS; s++) {
        int total = 0;
        for (int r = 0; r < SENDERS; r++) total += receivers[r].received[s];
        CHECK_EQ(total, EACH); /* exactly once */
    }
    asthra_channel_destroy(c);
}

TEST(channel, each_value_arrives_once_and_in_order_per_sender) {
    check_crowd(16);
}
TEST(channel, each_value_arrives_once_without_a_buffer_too) {
    check_crowd(0);
}

typedef struct Link {
    AsthraChannel *from, *to;
} Link;

static void *pass_on_plus_one(void *args) {
    Link *link = args;
    int value;
    while (asthra_channel_next(link->from, &value, sizeof value)) send_int(link->to, value + 1);
    asthra_channel_close(link->to);
    return NULL;
}

TEST(channel, a_thousand_channels_in_a_row) {
    enum { LINKS = 1000 };
    static AsthraChannel *c[LINKS + 1];
    static Link links[LINKS];
    static AsthraTaskHandle tasks[LINKS];
    for (int i = 0; i <= LINKS; i++) c[i] = ints((size_t)(i % 3));
    for (int i = 0; i < LINKS; i++) {
        links[i] = (Link){c[i], c[i + 1]};
        tasks[i] = asthra_spawn(pass_on_plus_one, &links[i]);
    }
    for (int round = 0; round < 3; round++) {
        CHECK_EQ(send_int(c[0], round), ASTHRA_OK);
        CHECK_EQ(receive_int(c[LINKS]), round + LINKS);
    }
    asthra_channel_close(c[0]);
    CHECK_EQ(asthra_channel_receive(c[LINKS], NULL).status, ASTHRA_CLOSED);
    for (int i = 0; i < LINKS; i++) asthra_await(tasks[i]);
    for (int i = 0; i <= LINKS; i++) asthra_channel_destroy(c[i]);
}

/* ---- tasks: errno, cancellation ---- */

/* A compiler may keep the address of a thread's errno; a task may go on in another thread. */
__attribute__((noinline)) static int *errno_here(void) {
    int *place = &errno;
    __asm__ volatile("" : "+r"(place));
    return place;
}

static void *receive_keeps_errno(void *args) {
    for (int i = 0; i < 100; i++) {
        *errno_here() = 1000 + i;
        receive_int(args);
        CHECK_EQ(*errno_here(), 1000 + i);
    }
    return NULL;
}

TEST(channel, waiting_leaves_errno_as_it_was) {
    AsthraChannel *c = ints(0);
    AsthraTaskHandle t = asthra_spawn(receive_keeps_errno, c);
    for (int i = 0; i < 100; i++) {
        *errno_here() = 2000 + i;
        CHECK_EQ(send_int(c, i), ASTHRA_OK);
        CHECK_EQ(*errno_here(), 2000 + i);
    }
    asthra_await(t);
    asthra_channel_destroy(c);
}

TEST(channel, a_waiting_call_of_a_cancelled_task_returns_cancelled) {
    AsthraChannel *c = ints(0);
    Job jobs[2] = {{c, 5, {0, 0, {NULL}}}, {c, 5, {0, 0, {NULL}}}};
    AsthraTaskHandle t = asthra_spawn(receive_job, &jobs[0]);
    until_waiting(t);
    CHECK(asthra_task_cancel(t));
    asthra_await(t);
    CHECK_EQ(jobs[0].result.status, ASTHRA_CANCELLED);
    CHECK_EQ(jobs[0].value, 5);
    t = asthra_spawn(send_job, &jobs[1]);
    until_waiting(t);
    CHECK(asthra_task_cancel(t));
    asthra_await(t);
    CHECK_EQ(jobs[1].result.status, ASTHRA_CANCELLED);
    CHECK_EQ(asthra_channel_try_receive(c, NULL).status, ASTHRA_WOULD_BLOCK);
    asthra_channel_destroy(c); /* nobody waits any more */
}

static void *use_while_cancelled(void *args) {
    AsthraChannel *c = args;
    int value = 0;
    while (!asthra_cancel_requested()) asthra_yield();
    CHECK_EQ(send_int(c, 8), ASTHRA_OK); /* need not wait */
    CHECK_EQ(receive_int(c), 8);
    CHECK_EQ(asthra_channel_receive(c, &value).status, ASTHRA_CANCELLED);
    CHECK(!asthra_channel_next(c, &value, sizeof value));
    CHECK_EQ(asthra_last_error().status, ASTHRA_CANCELLED);
    CHECK_EQ(asthra_channel_try_receive(c, &value).status, ASTHRA_WOULD_BLOCK);
    return c;
}

TEST(channel, calls_that_need_not_wait_succeed_in_a_cancelled_task) {
    AsthraChannel *c = ints(1);
    AsthraTaskHandle t = asthra_spawn(use_while_cancelled, c);
    while (asthra_task_state(t) == ASTHRA_TASK_CREATED) asthra_sleep_ns(10000);
    CHECK(asthra_task_cancel(t));
    CHECK(asthra_await(t) == c);
    asthra_channel_destroy(c);
}
