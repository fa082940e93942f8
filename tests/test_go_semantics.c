/* Go's published channel semantics, sentence by sentence, as our contract has them. The sentences
 * are those of "The Go Programming Language Specification" (Channel types, Send statements, Receive
 * operator, Close, Select statements) and of "The Go Memory Model" (Channel communication), told in
 * our words. Where ours differ on purpose the test says so: a send on a closed channel is a result
 * and no panic, and a nil channel as a direct operand is a panic and does not wait for ever.
 *
 * What happens before what is tested by plain, unsynchronised variables: a value read before it was
 * written fails the check here, and the same programs under ThreadSanitizer report a race. */
#include "test.h"
#include "asthra_rt.h"

#include <pthread.h>

static AsthraChannel *ints(size_t capacity) {
    AsthraChannel *c = asthra_channel_create(sizeof(int), capacity, "go");
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

static void until_waiting(AsthraTaskHandle t) {
    while (asthra_task_state(t) != ASTHRA_TASK_WAITING) asthra_sleep_ns(10000);
}

typedef struct Talk {
    AsthraChannel *a, *b;
    int note; /* plain: ordered by the channel alone */
} Talk;

/* Runs `side` as a task, then as a thread, with `body` on the other end. */
static void with_partner(size_t capacity, void *(*side)(void *), void (*body)(Talk *)) {
    for (int i = 0; i < 400; i++) {
        Talk talk = {ints(capacity), ints(capacity), 0};
        if (i % 2) {
            pthread_t t;
            CHECK(!pthread_create(&t, NULL, side, &talk));
            body(&talk);
            pthread_join(t, NULL);
        } else {
            AsthraTaskHandle t = asthra_spawn(side, &talk);
            body(&talk);
            asthra_await(t);
        }
        asthra_channel_destroy(talk.a);
        asthra_channel_destroy(talk.b);
    }
}

/* ---- memory model ---- */

static void *note_then_send(void *args) {
    Talk *talk = args;
    talk->note = 1;
    CHECK_EQ(send_int(talk->a, 0), ASTHRA_OK);
    return NULL;
}

static void receive_then_read(Talk *talk) {
    receive_int(talk->a);
    CHECK_EQ(talk->note, 1);
}

/* A send happens before the completion of the corresponding receive. */
TEST(go, a_send_happens_before_its_receive_completes) {
    with_partner(10, note_then_send, receive_then_read);
    with_partner(0, note_then_send, receive_then_read);
}

static void *note_then_close(void *args) {
    Talk *talk = args;
    talk->note = 1;
    asthra_channel_close(talk->a);
    return NULL;
}

static void receive_closed_then_read(Talk *talk) {
    CHECK_EQ(asthra_channel_receive(talk->a, NULL).status, ASTHRA_CLOSED);
    CHECK_EQ(talk->note, 1);
}

/* The closing of a channel happens before a receive that returns because the channel is closed. */
TEST(go, closing_happens_before_a_receive_that_reports_it) {
    with_partner(10, note_then_close, receive_closed_then_read);
    with_partner(0, note_then_close, receive_closed_then_read);
}

static void *note_then_receive(void *args) {
    Talk *talk = args;
    talk->note = 1;
    receive_int(talk->a);
    return NULL;
}

static void send_then_read(Talk *talk) {
    CHECK_EQ(send_int(talk->a, 0), ASTHRA_OK);
    CHECK_EQ(talk->note, 1);
}

/* A receive from an unbuffered channel happens before the corresponding send completes. */
TEST(go, an_unbuffered_receive_happens_before_its_send_completes) {
    with_partner(0, note_then_receive, send_then_read);
}

enum { LIMIT = 3, WORKERS = 12 };

static _Atomic int active;

static void *work_limited(void *args) {
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(send_int(args, 0), ASTHRA_OK);
        CHECK(++active <= LIMIT);
        asthra_yield();
        --active;
        receive_int(args);
    }
    return NULL;
}

/* The kth receive on a channel with capacity C happens before the k+C-th send completes: so a
 * channel counts how many are at work, and no more than C are. */
TEST(go, the_kth_receive_happens_before_the_k_plus_cth_send_completes) {
    AsthraChannel *slots = ints(LIMIT);
    AsthraTaskHandle tasks[WORKERS];
    for (int i = 0; i < WORKERS; i++) tasks[i] = asthra_spawn(work_limited, slots);
    for (int i = 0; i < WORKERS; i++) asthra_await(tasks[i]);
    CHECK_EQ(active, 0);
    asthra_channel_destroy(slots);
}

static long guarded;

static void *add_under_channel(void *args) {
    for (int i = 0; i < 2000; i++) {
        send_int(args, 0);
        guarded++; /* capacity 1: a mutex */
        receive_int(args);
    }
    return NULL;
}

TEST(go, a_channel_of_capacity_1_is_a_mutex) {
    AsthraChannel *c = ints(1);
    AsthraTaskHandle tasks[4];
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, add_under_channel, c));
    for (int i = 0; i < 4; i++) tasks[i] = asthra_spawn(add_under_channel, c);
    for (int i = 0; i < 4; i++) asthra_await(tasks[i]);
    pthread_join(thread, NULL);
    CHECK_EQ(guarded, 5 * 2000);
    asthra_channel_destroy(c);
}

/* ---- channel types, len and cap ---- */

/* Channels act as first-in-first-out queues. */
TEST(go, channels_are_first_in_first_out) {
    AsthraChannel *c = ints(100);
    for (int i = 0; i < 100; i++) CHECK_EQ(send_int(c, i), ASTHRA_OK);
    for (int i = 0; i < 100; i++) CHECK_EQ(receive_int(c), i);
    asthra_channel_destroy(c);
}

/* len is the number of elements queued, cap the capacity; an unbuffered channel has 0 of both. */
TEST(go, len_and_cap) {
    AsthraChannel *c = ints(3), *direct = ints(0);
    CHECK_EQ(asthra_channel_capacity(c), 3);
    for (size_t i = 0; i <= 3; i++) {
        CHECK_EQ(asthra_channel_count(c), i);
        if (i < 3) send_int(c, 1);
    }
    CHECK_EQ(asthra_channel_capacity(direct), 0);
    CHECK_EQ(asthra_channel_count(direct), 0);
    asthra_channel_destroy(direct);
    asthra_channel_destroy(c);
}

static void *receive_chan_of_chan(void *args) {
    AsthraChannel *inner = NULL;
    CHECK_EQ(asthra_channel_receive(args, &inner).status, ASTHRA_OK);
    CHECK_EQ(send_int(inner, 31), ASTHRA_OK);
    return NULL;
}

/* Channels are values: they can be sent over channels. */
TEST(go, channels_can_be_sent_over_channels) {
    AsthraChannel *outer = asthra_channel_create(sizeof(AsthraChannel *), 0, "outer");
    AsthraChannel *inner = ints(0);
    AsthraTaskHandle t = asthra_spawn(receive_chan_of_chan, outer);
    asthra_channel_send(outer, &inner);
    CHECK_EQ(receive_int(inner), 31);
    asthra_await(t);
    asthra_channel_destroy(inner);
    asthra_channel_destroy(outer);
}

/* ---- send and receive ---- */

static void *send_one(void *args) {
    Talk *talk = args;
    CHECK_EQ(send_int(talk->a, 1), ASTHRA_OK);
    talk->note = 1;
    return NULL;
}

/* Communication waits until the send can proceed: on an unbuffered channel, until a receiver is
 * ready. */
TEST(go, an_unbuffered_send_waits_for_its_receiver) {
    Talk talk = {ints(0), NULL, 0};
    AsthraTaskHandle t = asthra_spawn(send_one, &talk);
    until_waiting(t);
    CHECK_EQ(talk.note, 0);
    CHECK_EQ(receive_int(talk.a), 1);
    asthra_await(t);
    CHECK_EQ(talk.note, 1);
    asthra_channel_destroy(talk.a);
}

/* A send on a buffered channel can proceed if there is room in the buffer. */
TEST(go, a_buffered_send_proceeds_while_there_is_room) {
    AsthraChannel *c = ints(2);
    CHECK_EQ(send_int(c, 1), ASTHRA_OK); /* nobody else is there: these return */
    CHECK_EQ(send_int(c, 2), ASTHRA_OK);
    int value = 3;
    CHECK_EQ(asthra_channel_try_send(c, &value).status, ASTHRA_WOULD_BLOCK);
    asthra_channel_destroy(c);
}

/* A receive waits until a value is available. */
TEST(go, a_receive_waits_until_a_value_is_there) {
    Talk talk = {ints(4), NULL, 0};
    AsthraTaskHandle t = asthra_spawn(note_then_receive, &talk);
    until_waiting(t);
    CHECK_EQ(send_int(talk.a, 1), ASTHRA_OK);
    asthra_await(t);
    asthra_channel_destroy(talk.a);
}

/* A receive on a closed channel can always proceed at once, after any previously sent values have
 * been received; the second result says whether the value was sent (here: the status). */
TEST(go, a_receive_on_a_closed_channel_drains_and_then_never_waits) {
    AsthraChannel *c = ints(3);
    send_int(c, 1);
    send_int(c, 2);
    asthra_channel_close(c);
    CHECK_EQ(receive_int(c), 1);
    CHECK_EQ(receive_int(c), 2);
    for (int i = 0; i < 3; i++) {
        int value = 9;
        CHECK_EQ(asthra_channel_receive(c, &value).status, ASTHRA_CLOSED);
        CHECK_EQ(value, 9); /* Go: the zero value; ours leaves it */
    }
    asthra_channel_destroy(c);
}

/* Sending to a closed channel: Go panics, ours is an error result. */
TEST(go, a_send_on_a_closed_channel_fails) {
    AsthraChannel *c = ints(1);
    asthra_channel_close(c);
    CHECK_EQ(send_int(c, 1), ASTHRA_CLOSED);
    CHECK_EQ(asthra_channel_count(c), 0);
    asthra_channel_destroy(c);
}

static void *send_until_closed(void *args) {
    int sent = 0;
    while (send_int(args, sent) == ASTHRA_OK) sent++;
    return (void *)(intptr_t)sent;
}

/* Closing wakes senders that wait; what they had not sent yet is not in the channel. */
TEST(go, closing_ends_a_sender_that_waits) {
    AsthraChannel *c = ints(2);
    AsthraTaskHandle t = asthra_spawn(send_until_closed, c);
    until_waiting(t);
    asthra_channel_close(c);
    CHECK_EQ((intptr_t)asthra_await(t), 2);
    CHECK_EQ(receive_int(c), 0);
    CHECK_EQ(receive_int(c), 1);
    CHECK_EQ(asthra_channel_receive(c, NULL).status, ASTHRA_CLOSED);
    asthra_channel_destroy(c);
}

/* Closing a closed channel: Go panics, ours says that it was closed before. */
TEST(go, closing_twice) {
    AsthraChannel *c = ints(0);
    CHECK(asthra_channel_close(c));
    CHECK(!asthra_channel_close(c));
    asthra_channel_destroy(c);
}

/* Closing the nil channel panics. A nil channel as the operand of a send or receive never
 * communicates; there Go waits for ever, ours panics. */
TEST_PANICS(go, closing_the_nil_channel_panics, "the channel is NULL") {
    asthra_channel_close(NULL);
}
TEST_PANICS(go, receiving_from_the_nil_channel_panics, "the channel is NULL") {
    asthra_channel_receive(NULL, NULL);
}

static void *count_to_ten(void *args) {
    for (int i = 0; i < 10; i++) send_int(args, i);
    asthra_channel_close(args);
    return NULL;
}

/* A range loop over a channel produces the values sent until the channel is closed. */
TEST(go, range_over_a_channel) {
    AsthraChannel *c = ints(0);
    AsthraTaskHandle t = asthra_spawn(count_to_ten, c);
    int value, expected = 0;
    while (asthra_channel_next(c, &value, sizeof value)) CHECK_EQ(value, expected++);
    CHECK_EQ(expected, 10);
    asthra_await(t);
    asthra_channel_destroy(c);
}

/* A single channel may be used by any number of goroutines without further synchronisation. */
static void *sum_up(void *args) {
    intptr_t sum = 0;
    int value;
    while (asthra_channel_next(args, &value, sizeof value)) sum += value;
    return (void *)sum;
}

TEST(go, any_number_of_tasks_share_a_channel) {
    AsthraChannel *c = ints(3);
    AsthraTaskHandle tasks[8];
    intptr_t sum = 0;
    for (int i = 0; i < 8; i++) tasks[i] = asthra_spawn(sum_up, c);
    for (int i = 1; i <= 5000; i++) CHECK_EQ(send_int(c, i), ASTHRA_OK);
    asthra_channel_close(c);
    for (int i = 0; i < 8; i++) sum += (intptr_t)asthra_await(tasks[i]);
    CHECK_EQ(sum, 5000 * 5001 / 2);
    asthra_channel_destroy(c);
}

/* ---- select ---- */

/* If several can proceed, one is chosen by a uniform pseudo-random selection; it alone happens. */
TEST(go, select_chooses_one_of_those_that_can_proceed) {
    AsthraChannel *c[4] = {ints(1), ints(1), ints(1), ints(1)};
    int hits[4] = {0, 0, 0, 0}, value = 1;
    for (int i = 0; i < 4; i++) send_int(c[i], 1);
    for (int i = 0; i < 4000; i++) {
        AsthraSelectCase cases[4];
        for (int k = 0; k < 4; k++) cases[k] = asthra_select_receive(c[k], &value);
        int chosen = asthra_select(cases, 4, ASTHRA_FOREVER);
        hits[chosen]++;
        for (int k = 0; k < 4; k++) CHECK_EQ(asthra_channel_count(c[k]), k != chosen);
        send_int(c[chosen], 1);
    }
    for (int k = 0; k < 4; k++) CHECK(hits[k] > 700); /* 1000 +- 27 */
    for (int k = 0; k < 4; k++) asthra_channel_destroy(c[k]);
}

/* Otherwise, if there is a default case, that case is chosen. */
TEST(go, select_takes_the_default_only_if_nothing_can_proceed) {
    AsthraChannel *c = ints(1);
    AsthraSelectCase receive = asthra_select_receive(c, NULL);
    CHECK_EQ(asthra_select(&receive, 1, 0), ASTHRA_SELECT_DEFAULT);
    send_int(c, 1);
    CHECK_EQ(asthra_select(&receive, 1, 0), 0);
    asthra_channel_destroy(c);
}

static void *select_for_ever(void *args) {
    Talk *talk = args;
    AsthraSelectCase cases[] = {asthra_select_receive(talk->a, &talk->note),
                                asthra_select_receive(talk->b, &talk->note)};
    return (void *)(intptr_t)asthra_select(cases, 2, ASTHRA_FOREVER);
}

/* Without a default case it waits until at least one of the communications can proceed. */
TEST(go, select_without_default_waits) {
    Talk talk = {ints(0), ints(0), 0};
    AsthraTaskHandle t = asthra_spawn(select_for_ever, &talk);
    until_waiting(t);
    CHECK_EQ(send_int(talk.b, 17), ASTHRA_OK);
    CHECK_EQ((intptr_t)asthra_await(t), 1);
    CHECK_EQ(talk.note, 17);
    asthra_channel_destroy(talk.a);
    asthra_channel_destroy(talk.b);
}

/* Communication on nil channels can never proceed: a select with only nil channels and no default
 * waits for ever. */
TEST(go, select_with_only_nil_channels_waits_for_ever) {
    Talk talk = {NULL, NULL, 0};
    AsthraTaskHandle t = asthra_spawn(select_for_ever, &talk);
    until_waiting(t);
    asthra_sleep_ns(ASTHRA_MS(5));
    CHECK_EQ(asthra_task_state(t), ASTHRA_TASK_WAITING);
    asthra_task_cancel(t);
    CHECK_EQ((intptr_t)asthra_await(t), ASTHRA_SELECT_CANCELLED);
}

/* Setting a channel variable to nil switches its case off. */
TEST(go, a_merge_switches_its_drained_inputs_off_with_nil) {
    AsthraChannel *in[2] = {ints(0), ints(0)}, *open[2] = {in[0], in[1]};
    AsthraTaskHandle tasks[2];
    for (int i = 0; i < 2; i++) tasks[i] = asthra_spawn(count_to_ten, in[i]);
    int value = 0, sum = 0;
    while (open[0] || open[1]) {
        AsthraSelectCase cases[] = {asthra_select_receive(open[0], &value),
                                    asthra_select_receive(open[1], &value)};
        int chosen = asthra_select(cases, 2, ASTHRA_FOREVER);
        CHECK(open[chosen] != NULL);
        if (cases[chosen].status == ASTHRA_CLOSED)
            open[chosen] = NULL;
        else
            sum += value;
    }
    CHECK_EQ(sum, 2 * 45);
    for (int i = 0; i < 2; i++) {
        asthra_await(tasks[i]);
        asthra_channel_destroy(in[i]);
    }
}

/* A send case whose value is evaluated on entering the select: ours reads `data` during the
 * call. */
TEST(go, select_sends_random_bits) {
    AsthraChannel *c = ints(0);
    AsthraTaskHandle t = asthra_spawn(sum_up, c);
    int zero = 0, one = 1, ones = 0;
    for (int i = 0; i < 1000; i++) {
        AsthraSelectCase cases[] = {asthra_select_send(c, &zero), asthra_select_send(c, &one)};
        ones += asthra_select(cases, 2, ASTHRA_FOREVER);
    }
    asthra_channel_close(c);
    CHECK_EQ((intptr_t)asthra_await(t), ones);
    asthra_channel_destroy(c);
}

typedef struct Sieve {
    AsthraChannel *in, *out;
    int prime;
} Sieve;

static void *sieve_filter(void *args) {
    Sieve *s = args;
    int n;
    while (asthra_channel_next(s->in, &n, sizeof n))
        if (n % s->prime && send_int(s->out, n) != ASTHRA_OK) break;
    return NULL;
}

static void *sieve_numbers(void *args) {
    for (int n = 2; send_int(args, n) == ASTHRA_OK; n++) {
    }
    return NULL;
}

/* The specification's own example: the concurrent prime sieve. */
TEST(go, the_prime_sieve) {
    enum { PRIMES = 60 };
    static Sieve sieves[PRIMES];
    AsthraTaskHandle tasks[PRIMES + 1];
    AsthraChannel *c[PRIMES + 1];
    c[0] = ints(0);
    tasks[PRIMES] = asthra_spawn(sieve_numbers, c[0]);
    for (int i = 0; i < PRIMES; i++) {
        int prime = receive_int(c[i]);
        for (int d = 2; d * d <= prime; d++) CHECK(prime % d != 0);
        c[i + 1] = ints(0);
        sieves[i] = (Sieve){c[i], c[i + 1], prime};
        tasks[i] = asthra_spawn(sieve_filter, &sieves[i]);
    }
    CHECK_EQ(sieves[PRIMES - 1].prime, 281);
    for (int i = 0; i <= PRIMES; i++) asthra_channel_close(c[i]);
    for (int i = 0; i <= PRIMES; i++) asthra_await(tasks[i]);
    for (int i = 0; i <= PRIMES; i++) asthra_channel_destroy(c[i]);
}
