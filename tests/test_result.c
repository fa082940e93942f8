/* Results and last errors. The bodies are in this file, so that their calloc can fail. */
#include "test.h"

static bool memory_is_out;
static void *test_calloc(size_t count, size_t size) {
    return memory_is_out ? NULL : calloc(count, size);
}
#define calloc(count, size) test_calloc(count, size)

#define ASTHRA_RT_STATIC
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"

#include <pthread.h>

TEST(result, ok_carries_its_value) {
    int x = 0;
    AsthraResult r = asthra_result_ok(&x);
    CHECK(asthra_result_is_ok(r));
    CHECK(!r.status);
    CHECK_EQ(asthra_result_status(r), ASTHRA_OK);
    CHECK(asthra_result_value(r) == &x);
    CHECK(asthra_result_context(r) == NULL);
    CHECK_STR(asthra_result_message(r), "Success");
}

TEST(result, zeroed_one_is_a_success_of_null) {
    AsthraResult r;
    memset(&r, 0, sizeof r);
    CHECK(asthra_result_is_ok(r));
    CHECK(asthra_result_value(r) == NULL);
}

TEST(result, failure_has_its_message_and_no_value) {
    AsthraResult r = asthra_result_err("Disk is full");
    CHECK(!asthra_result_is_ok(r));
    CHECK_EQ(asthra_result_status(r), ASTHRA_FAILED);
    CHECK_STR(asthra_result_message(r), "Disk is full");
    CHECK(asthra_result_value(r) == NULL);
    CHECK(asthra_result_context(r) == NULL);
}

TEST(result, failure_gives_its_context_back) {
    int place = 0;
    AsthraResult r = asthra_result_err_with_context("Bad byte", &place);
    CHECK(asthra_result_context(r) == &place);
    CHECK_STR(asthra_result_message(r), "Bad byte");
}

TEST(result, next_failure_does_not_inherit_the_context) {
    int place = 0;
    asthra_result_err_with_context("Bad byte", &place);
    CHECK(asthra_result_context(asthra_result_err("Other")) == NULL);
}

TEST(result, errorf_formats_and_copies) {
    char word[8] = "seven";
    AsthraResult r = asthra_result_errorf(ASTHRA_LIMIT, "%s of %d: %.1f", word, 6, 1.5);
    strcpy(word, "gone");
    CHECK_EQ(asthra_result_status(r), ASTHRA_LIMIT);
    CHECK_STR(asthra_result_message(r), "seven of 6: 1.5");
}

TEST(result, errorf_cuts_at_255_bytes) {
    AsthraResult r = asthra_result_errorf(ASTHRA_FAILED, "%0400d", 1);
    CHECK_EQ(strlen(asthra_result_message(r)), 255);
}

TEST(result, errorf_may_quote_the_message_before_it) {
    AsthraResult inner = asthra_result_errorf(ASTHRA_LIMIT, "line %d", 12);
    AsthraResult outer =
        asthra_result_errorf(ASTHRA_INVALID, "parse: %s", asthra_result_message(inner));
    CHECK_STR(asthra_result_message(outer), "parse: line 12");
}

TEST(result, errorf_of_ok_is_taken_as_failed) {
    CHECK_EQ(asthra_result_errorf(ASTHRA_OK, "no").status, ASTHRA_FAILED);
}

TEST(result, null_message_is_the_sentence_of_the_status) {
    CHECK_STR(asthra_result_message(asthra_result_err(NULL)), "Failed");
}

TEST(result, every_status_has_its_sentence) {
#define EXPECT(name, sentence) \
    CHECK_STR(asthra_result_message(asthra__result_of(ASTHRA_##name)), sentence);
    ASTHRA_STATUS_TABLE(EXPECT)
#undef EXPECT
    CHECK_STR(asthra_result_message(asthra__result_of(ASTHRA_CLOSED)), "Channel is closed");
}

TEST(result, message_of_a_failure_made_by_hand_is_not_null) {
    AsthraResult r = {ASTHRA_TIMED_OUT, 0, {NULL}};
    CHECK_STR(asthra_result_message(r), "Timed out");
    CHECK(asthra_result_context(r) == NULL);
    r.status = 12345;
    CHECK(strlen(asthra_result_message(r)) > 0);
}

TEST(result, integer_travels) {
    CHECK_EQ(asthra__result_integer(-5).value.integer, -5);
}

static AsthraResult tries(AsthraResult inner, bool *went_on) {
    ASTHRA_TRY(inner);
    *went_on = true;
    return asthra_result_ok(NULL);
}

TEST(result, try_returns_a_failure_as_it_is) {
    bool went_on = false;
    AsthraResult r = tries(asthra_result_errorf(ASTHRA_LIMIT, "full"), &went_on);
    CHECK_EQ(r.status, ASTHRA_LIMIT);
    CHECK_STR(asthra_result_message(r), "full");
    CHECK(!went_on);
}

TEST(result, try_goes_on_after_a_success) {
    bool went_on = false;
    CHECK(asthra_result_is_ok(tries(asthra_result_ok(NULL), &went_on)));
    CHECK(went_on);
}

TEST(result, unwrap_gives_the_value) {
    int x = 0;
    CHECK(asthra_result_unwrap(asthra_result_ok(&x)) == &x);
}

TEST_PANICS(result, unwrap_of_a_failure_names_status_and_message, "LIMIT: too many: 7") {
    asthra_result_unwrap(asthra_result_errorf(ASTHRA_LIMIT, "too many: %d", 7));
}

TEST(result, last_error_is_ok_before_any) {
    CHECK(asthra_result_is_ok(asthra_last_error()));
    CHECK(asthra_result_value(asthra_last_error()) == NULL);
}

TEST(result, last_error_holds_the_last_failure_made) {
    asthra_result_err("first");
    asthra_result_errorf(ASTHRA_INVALID, "second %d", 2);
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
    CHECK_STR(asthra_result_message(asthra_last_error()), "second 2");
}

TEST(result, last_error_survives_a_success_result) {
    asthra__error_set(ASTHRA_LIMIT, "no more than %d", 9);
    (void)asthra_result_ok(NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_LIMIT);
    CHECK_STR(asthra_result_message(asthra_last_error()), "no more than 9");
}

TEST(result, clearing_forgets_the_last_error) {
    asthra__error_set(ASTHRA_LIMIT, "full");
    asthra__error_clear();
    CHECK(asthra_result_is_ok(asthra_last_error()));
    asthra__error_set(ASTHRA_INVALID, "bad");
    CHECK_STR(asthra_result_message(asthra_last_error()), "bad");
}

static void *fails(void *unused) {
    CHECK(asthra_result_is_ok(asthra_last_error()));
    asthra_result_err("of the other thread");
    return unused;
}

TEST(result, last_error_belongs_to_its_thread) {
    pthread_t other;
    asthra_result_err("mine");
    CHECK(pthread_create(&other, NULL, fails, NULL) == 0);
    pthread_join(other, NULL);
    CHECK_STR(asthra_result_message(asthra_last_error()), "mine");
}

static struct AsthraError *of_task;
static struct AsthraError **place_of_task(void) {
    return &of_task;
}

TEST(result, place_says_where_the_record_of_a_task_is_kept) {
    asthra_result_err("of the thread");
    asthra__result_set_place(place_of_task);
    CHECK(asthra_result_is_ok(asthra_last_error()));
    asthra_result_err("of the task");
    CHECK(of_task != NULL);
    asthra__result_set_place(NULL);
    CHECK_STR(asthra_result_message(asthra_last_error()), "of the thread");
    asthra__error_free(of_task);
}

TEST(result, without_memory_a_failure_keeps_its_status) {
    memory_is_out = true;
    errno = 5;
    AsthraResult r = asthra_result_errorf(ASTHRA_LIMIT, "lost %d", 1);
    CHECK_EQ(errno, 5);
    CHECK_EQ(r.status, ASTHRA_LIMIT);
    CHECK_STR(asthra_result_message(r), "A configured limit was reached");
    CHECK(asthra_result_context(asthra_result_err_with_context("lost", &r)) == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_FAILED);
    CHECK_STR(asthra_result_message(asthra_last_error()), "Failed");
    memory_is_out = false;
    asthra_result_errorf(ASTHRA_LIMIT, "lost %d", 2);
    CHECK_STR(asthra_result_message(asthra_last_error()), "lost 2");
}

static AsthraResult opens_nothing(void) {
    return asthra_result_err("No such file");
}

TEST_PANICS(result, unwrap_of_a_failure_names_the_expression_and_its_place,
            "opens_nothing() at generated.src:777") {
#line 777 "generated.src"
    asthra_result_unwrap(opens_nothing());
}
