/* The promises of src/concurrency/typed.h, one test each. What must not compile is in
 * tests/house/misuse.sh. */
#include "test.h"
#include "asthra_rt.h"

#include <stdatomic.h>

static void start(size_t workers) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = workers;
    c.panic_policy = ASTHRA_PANIC_FAIL_TASK;
    CHECK(asthra_runtime_init(&c));
}

/* ---- tasks ---- */

typedef struct Point {
    double x, y, z;
} Point;

typedef struct Page {
    int numbers[1500];
} Page;

ASTHRA_TASK(int64_t, fib, (int, n)) {
    if (n < 2) return n;
    fib_task first = fib_go(n - 1);
    int64_t second = fib(n - 2);
    return fib_await(first) + second;
}

static void check_fib(size_t workers) {
    start(workers);
    CHECK_EQ(fib(15), 610);
    CHECK_EQ(fib_await(fib_go(15)), 610);
}

TEST(typed, a_task_may_spawn_itself_on_one_worker) {
    check_fib(1);
}
TEST(typed, a_task_may_spawn_itself_on_two_workers) {
    check_fib(2);
}

/* The names are those that the macros use, too. */
ASTHRA_TASK(double, of_eight, (bool, block), (char, t), (const int, task), (const char *, p),
            (Point, in), (float, result), (uint8_t, words), (unsigned long long, name)) {
    return (block ? 1e7 : 0) + (t - 'a') * 1e6 + task * 1e5 + (p[0] - 'a') * 1e4 + in.z * 1e3 +
           (double)result * 1e2 + words * 10.0 + (double)name;
}
ASTHRA_TASK(int, of_two, (signed char, a), (short, b)) {
    return a * 100 + b;
}
ASTHRA_TASK(int, of_three, (int, a), (int, b), (int, c)) {
    return a * 100 + b * 10 + c;
}
ASTHRA_TASK(int, of_four, (int, a), (int, b), (int, c), (int, d)) {
    return of_three(a, b, c) * 10 + d;
}
ASTHRA_TASK(int, of_five, (int, a), (int, b), (int, c), (int, d), (int, e)) {
    return of_four(a, b, c, d) * 10 + e;
}
ASTHRA_TASK(int, of_six, (int, a), (int, b), (int, c), (int, d), (int, e), (int, f)) {
    return of_five(a, b, c, d, e) * 10 + f;
}
ASTHRA_TASK(int, of_seven, (int, a), (int, b), (int, c), (int, d), (int, e), (int, f), (int, g)) {
    return of_six(a, b, c, d, e, f) * 10 + g;
}

TEST(typed, one_to_eight_arguments_arrive_in_their_places) {
    Point point = {7, 8, 5};
    CHECK_EQ(of_two_await(of_two_go(-3, 4)), -296);
    CHECK_EQ(of_three_await(of_three_go(1, 2, 3)), 123);
    CHECK_EQ(of_four_await(of_four_go(1, 2, 3, 4)), 1234);
    CHECK_EQ(of_five_await(of_five_go(1, 2, 3, 4, 5)), 12345);
    CHECK_EQ(of_six_await(of_six_go(1, 2, 3, 4, 5, 6)), 123456);
    CHECK_EQ(of_seven_await(of_seven_go(1, 2, 3, 4, 5, 6, 7)), 1234567);
    of_eight_task eight = of_eight_go(true, 'c', 3, "e", point, 6.0f, 7, 8);
    CHECK_EQ((long)of_eight_await(eight), 12345678);
}

ASTHRA_TASK(Point, turned, (Point, p)) {
    Point turned = {p.y, p.z, p.x};
    return turned;
}
ASTHRA_TASK(AsthraResult, two_words, (void *, value)) {
    return asthra_result_ok(value);
}
ASTHRA_TASK(Page, counted, (int, from)) {
    Page page;
    for (int i = 0; i < 1500; i++) page.numbers[i] = from + i;
    return page;
}
ASTHRA_TASK(long, summed, (Page, page), (int, times)) {
    long sum = 0;
    for (int i = 0; i < 1500; i++) sum += page.numbers[i];
    return sum * times;
}
ASTHRA_TASK(Page, reversed, (Page, page)) {
    Page back;
    for (int i = 0; i < 1500; i++) back.numbers[i] = page.numbers[1499 - i];
    return back;
}

TEST(typed, structs_of_any_size_go_in_and_out) {
    Point p = {1, 2, 3}, q = turned_await(turned_go(p));
    CHECK(q.x == 2 && q.y == 3 && q.z == 1);
    CHECK(asthra_result_value(two_words_await(two_words_go(&p))) == &p);
    Page page = counted_await(counted_go(10));
    CHECK_EQ(page.numbers[1499], 1509);
    CHECK_EQ(summed_await(summed_go(page, 2)), 2 * (1500 * 10 + 1500 * 1499 / 2));
    page = reversed_await(reversed_go(page));
    CHECK_EQ(page.numbers[0], 1509);
    CHECK_EQ(page.numbers[1499], 10);
}

TEST(typed, arguments_are_copied_when_the_task_is_spawned) {
    start(1); /* so that none starts before it is awaited */
    summed_task tasks[20];
    Page page = {{0}};
    for (int i = 0; i < 20; i++) {
        page.numbers[i] = 1;
        tasks[i] = summed_go(page, 1);
    }
    for (int i = 0; i < 20; i++) CHECK_EQ(summed_await(tasks[i]), i + 1);
}

ASTHRA_TASK(int, maximum, (const int, a), (const volatile int, b), (const Point, p)) {
    int other = b > (int)p.x ? b : (int)p.x;
    return a > other ? a : other;
}

TEST(typed, arguments_may_be_const) {
    Point p = {3, 0, 0};
    CHECK_EQ(maximum_await(maximum_go(5, 4, p)), 5);
    CHECK_EQ(maximum_await(maximum_go(1, 2, p)), 3);
}

ASTHRA_TASK(bool, is_even, (bool, before)) {
    return !before;
}
ASTHRA_TASK(char, next_letter, (char, c)) {
    return (char)(c + 1);
}
ASTHRA_TASK(float, half, (float, f)) {
    return f / 2;
}
ASTHRA_TASK(long double, doubled, (long double, d)) {
    return d * 2;
}

TEST(typed, small_types_keep_their_values) {
    for (int i = 0; i < 3; i++) {
        CHECK(is_even_await(is_even_go(false)) == true);
        CHECK(is_even_await(is_even_go(true)) == false);
        CHECK_EQ(next_letter_await(next_letter_go('y')), 'z');
        CHECK(half_await(half_go(5)) == 2.5f);
        CHECK(doubled_await(doubled_go(1.25L)) == 2.5L);
    }
}

ASTHRA_TASK_VOID(store, (int *, out), (int, value)) {
    *out = value;
}
ASTHRA_TASK_VOID(store_sum, (Point, p), (double *, out)) {
    *out = p.x + p.y + p.z;
}

TEST(typed, a_task_may_return_nothing) {
    Point p = {1, 2, 3};
    double sum = 0;
    int value = 0;
    store_await(store_go(&value, 7));
    CHECK_EQ(value, 7);
    store_sum_await(store_sum_go(p, &sum));
    CHECK(sum == 6);
    store(&value, 8);
    CHECK_EQ(value, 8);
}

static atomic_int called;
ASTHRA_TASK0(Point, origin) {
    Point p = {0, 0, 9};
    return p;
}
ASTHRA_TASK0(int, answer) {
    return 42;
}
ASTHRA_TASK0_VOID(call) {
    atomic_fetch_add(&called, 1);
}

TEST(typed, a_task_may_have_no_arguments) {
    CHECK(origin_await(origin_go()).z == 9);
    CHECK_EQ(answer_await(answer_go()), 42);
    CHECK_EQ(answer(), 42);
    call_await(call_go());
    CHECK_EQ(atomic_load(&called), 1);
}

/* As in a header. */
ASTHRA_TASK_DECLARE(int64_t, declared, (const char *, text), (size_t, from));
ASTHRA_TASK_DECLARE_VOID(declared_void, (int *, out));
ASTHRA_TASK0_DECLARE(int, declared_bare);
ASTHRA_TASK0_DECLARE_VOID(declared_bare_void);

int64_t declared(const char *text, size_t from) {
    return text[from];
}
void declared_void(int *out) {
    *out = 3;
}
int declared_bare(void) {
    return 4;
}
void declared_bare_void(void) {
    atomic_fetch_add(&called, 10);
}

TEST(typed, a_declared_task_is_a_plain_function_elsewhere) {
    int out = 0;
    CHECK_EQ(declared_await(declared_go("abc", 2)), 'c');
    declared_void_await(declared_void_go(&out));
    CHECK_EQ(out, 3);
    CHECK_EQ(declared_bare_await(declared_bare_go()), 4);
    declared_bare_void_await(declared_bare_void_go());
    CHECK_EQ(atomic_load(&called), 10);
}

TEST(typed, many_large_ones_at_once) {
    enum { MANY = 300 };
    static reversed_task tasks[MANY];
    start(4);
    Page page = {{0}};
    for (int i = 0; i < MANY; i++) {
        page.numbers[0] = i;
        tasks[i] = reversed_go(page);
    }
    for (int i = 0; i < MANY; i++) CHECK_EQ(reversed_await(tasks[i]).numbers[1499], i);
}

ASTHRA_TASK(int, patient, (int64_t, ns)) {
    return asthra_sleep_ns(ns).status == ASTHRA_CANCELLED ? 5 : 6;
}

TEST(typed, the_handle_inside_is_an_ordinary_one) {
    start(1);
    patient_task t = patient_go(ASTHRA_FOREVER);
    CHECK(asthra_task_is_valid(t.task));
    CHECK(strstr(asthra_task_name(t.task), "patient at tests/test_typed.c:") != NULL);
    AsthraTaskHandle second = asthra_task_retain(t.task);
    CHECK_EQ(asthra_await_timeout(second, ASTHRA_US(50), NULL).status, ASTHRA_TIMED_OUT);
    asthra_task_cancel(second);
    CHECK_EQ(patient_await(t), 5); /* it had started, so it has a result */
    CHECK_EQ(asthra_await_result(second, NULL).status, ASTHRA_CANCELLED);
    asthra_task_detach(patient_go(0).task);
}

TEST(typed, a_task_cancelled_before_its_start_gives_zeroes) {
    start(1);
    fib_task t = fib_go(10);
    turned_task u = turned_go(turned_await(turned_go(origin())));
    reversed_task v = reversed_go(counted(3));
    asthra_task_cancel(t.task);
    asthra_task_cancel(u.task);
    asthra_task_cancel(v.task);
    CHECK_EQ(fib_await(t), 0);
    Point p = turned_await(u);
    CHECK(p.x == 0 && p.y == 0 && p.z == 0);
    Page page = reversed_await(v);
    for (int i = 0; i < 1500; i++) CHECK_EQ(page.numbers[i], 0);
}

/* ---- tasks: panics ---- */

ASTHRA_TASK(int, broken, (int, how)) {
    if (how) asthra_panic("broken by %d", how);
    return 1;
}

/* What the panic of fn says; in a task that fails by it. */
static const char *panic_of(AsthraTaskFunction fn, void *args) {
    asthra_panic_clear_history();
    CHECK_EQ(asthra_await_result(asthra_spawn(fn, args), NULL).status, ASTHRA_PANICKED);
    CHECK(asthra_panic_last() != NULL);
    return asthra_panic_last()->message;
}

static void *await_broken(void *unused) {
    broken_await(broken_go(3));
    return unused;
}

TEST(typed, awaiting_what_panicked_panics_with_its_message) {
    AsthraPanicInfo both[3];
    start(1);
    CHECK_STR(panic_of(await_broken, NULL), "broken by 3");
    CHECK_EQ(asthra_panic_history(both, 3), 2);
    CHECK(strstr(both[0].task_name, "broken at ") != NULL);
    CHECK(both[0].task_id != both[1].task_id);
}

enum { LINE_OF_TWICE = __LINE__ + 1 };
ASTHRA_TASK(int, twice, (int, n)) {
    return 2 * n;
}
static void *await_twice(void *unused) {
    twice_task t = twice_go(4);
    CHECK_EQ(twice_await(t), 8);
    twice_await(t);
    return unused;
}
static void *await_void_twice(void *unused) {
    call_task t = call_go();
    call_await(t);
    call_await(t);
    return unused;
}
static void *await_large_twice(void *unused) {
    counted_task t = counted_go(1);
    counted_await(t);
    counted_await(t);
    return unused;
}

TEST(typed, awaiting_twice_panics_with_the_task_and_its_line) {
    char expected[80];
    start(1);
    const char *message = panic_of(await_twice, NULL);
    snprintf(expected, sizeof expected, "twice_await at %s:%d: handle ", __FILE__, LINE_OF_TWICE);
    if (!strstr(message, expected)) test_fail(__FILE__, __LINE__, "%s: %s", expected, message);
    CHECK(strstr(message, "it was awaited or detached before") != NULL);
    CHECK(strstr(panic_of(await_void_twice, NULL), "call_await at ") != NULL);
    CHECK(strstr(panic_of(await_large_twice, NULL), "counted_await at ") != NULL);
}

static void *nothing(void *args) {
    return args;
}
static void *await_another_kind(void *unused) {
    twice_task t = {asthra_spawn(nothing, &t)};
    twice_await(t);
    return unused;
}
static void *await_a_smaller_kind(void *unused) {
    counted_task t = {twice_go(1).task};
    counted_await(t);
    return unused;
}

TEST(typed, a_handle_of_another_kind_panics) {
    start(1);
    CHECK(strstr(panic_of(await_another_kind, NULL), "task 'nothing at ") != NULL);
    CHECK(strstr(panic_of(await_a_smaller_kind, NULL), "has no block with a result of 6000 bytes"));
}

static void *await_none(void *unused) {
    twice_task t = twice_go(1); /* the second task, where one is allowed */
    CHECK_EQ(t.task.bits, 0);
    twice_await(t);
    return unused;
}

TEST(typed, awaiting_a_failed_spawn_panics_with_the_reason) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.max_tasks = 1;
    c.panic_policy = ASTHRA_PANIC_FAIL_TASK;
    CHECK(asthra_runtime_init(&c));
    const char *message = panic_of(await_none, NULL);
    CHECK(strstr(message, "twice_await at ") != NULL);
    CHECK(strstr(message, "handle 0, whose spawn failed: max_tasks: 1 tasks") != NULL);
}

/* ---- channels ---- */

typedef struct Job {
    int number;
    double weight;
    const char *name;
} Job;

ASTHRA_CHANNEL_TYPE(Jobs, Job);
ASTHRA_CHANNEL_TYPE(Names, const char *);
ASTHRA_CHANNEL_TYPE(Numbers, int64_t);
ASTHRA_CHANNEL_TYPE(Bytes, uint8_t);
ASTHRA_CHANNEL_TYPE(Pages, Page);

ASTHRA_TASK_VOID(send_jobs, (Jobs, jobs), (int, count)) {
    for (int i = 0; i < count; i++) {
        Job job = {i, i / 2.0, "job"};
        CHECK_EQ(Jobs_send(jobs, job).status, ASTHRA_OK);
    }
    CHECK(Jobs_close(jobs));
}

static void check_jobs(size_t workers, size_t capacity) {
    start(workers);
    Jobs jobs = Jobs_create(capacity);
    send_jobs_task sender = send_jobs_go(jobs, 100);
    Job job;
    int next = 0;
    while (Jobs_receive(jobs, &job)) {
        CHECK_EQ(job.number, next++);
        CHECK(job.weight == job.number / 2.0);
        CHECK_STR(job.name, "job");
    }
    CHECK_EQ(next, 100);
    send_jobs_await(sender);
    Jobs_destroy(jobs);
}

TEST(typed, values_arrive_whole_and_in_order) {
    check_jobs(1, 0);
}
TEST(typed, values_arrive_whole_and_in_order_from_another_worker) {
    check_jobs(2, 8);
}

TEST(typed, try_and_timeouts_are_those_of_the_channel) {
    Names names = Names_create(1);
    const char *got = "none";
    CHECK_EQ(Names_try_receive(names, &got).status, ASTHRA_WOULD_BLOCK);
    CHECK_EQ(Names_receive_timeout(names, &got, ASTHRA_US(20)).status, ASTHRA_TIMED_OUT);
    CHECK_STR(got, "none");
    CHECK_EQ(Names_try_send(names, "one").status, ASTHRA_OK);
    CHECK_EQ(Names_try_send(names, "two").status, ASTHRA_WOULD_BLOCK);
    CHECK_EQ(Names_send_timeout(names, "two", ASTHRA_US(20)).status, ASTHRA_TIMED_OUT);
    CHECK_EQ(Names_try_receive(names, &got).status, ASTHRA_OK);
    CHECK_STR(got, "one");
    CHECK_EQ(Names_send_timeout(names, "three", ASTHRA_FOREVER).status, ASTHRA_OK);
    CHECK_EQ(Names_receive_timeout(names, &got, 0).status, ASTHRA_OK);
    CHECK_STR(got, "three");
    CHECK(Names_close(names));
    CHECK(!Names_close(names));
    CHECK_EQ(Names_send(names, "four").status, ASTHRA_CLOSED);
    CHECK(!Names_receive(names, &got));
    CHECK_EQ(asthra_last_error().status, ASTHRA_CLOSED);
    Names_destroy(names);
}

TEST(typed, values_are_converted_as_arguments_are) {
    Bytes bytes = Bytes_create(2);
    Numbers numbers = Numbers_create(1);
    Bytes_value byte = 0;
    int64_t number = 0;
    CHECK_EQ(Bytes_send(bytes, 200).status, ASTHRA_OK);
    CHECK(Bytes_receive(bytes, &byte));
    CHECK_EQ(byte, 200);
    CHECK_EQ(Numbers_send(numbers, byte).status, ASTHRA_OK);
    CHECK(Numbers_receive(numbers, &number));
    CHECK_EQ(number, 200);
    CHECK_EQ(Numbers_send(numbers, 1).status, ASTHRA_OK);
    CHECK(Numbers_receive(numbers, NULL)); /* dropped */
    CHECK_EQ(asthra_channel_count(numbers.raw), 0);
    CHECK_STR(asthra_channel_name(numbers.raw), "Numbers");
    CHECK_EQ(asthra_channel_capacity(bytes.raw), 2);
    Bytes_destroy(bytes);
    Numbers_destroy(numbers);
}

TEST(typed, values_may_be_large) {
    static Page page;
    Pages pages = Pages_create(1);
    page.numbers[1499] = 7;
    CHECK_EQ(Pages_send(pages, page).status, ASTHRA_OK);
    page.numbers[1499] = 8;
    CHECK(Pages_receive(pages, &page));
    CHECK_EQ(page.numbers[1499], 7);
    Pages_destroy(pages);
}

enum { LINE_OF_WORDS = __LINE__ + 1 };
ASTHRA_CHANNEL_TYPE(Words, int32_t);

static const char *const verbs[] = {"send",         "receive",         "try_send", "try_receive",
                                    "send_timeout", "receive_timeout", "close",    "destroy"};
enum { VERBS = sizeof verbs / sizeof *verbs };

typedef struct Misuse {
    Words words;
    int verb;
} Misuse;

static void *use_words(void *args) {
    const Misuse *m = args;
    int32_t value = 0;
    switch (m->verb) {
    case 0: Words_send(m->words, 1); break;
    case 1: Words_receive(m->words, &value); break;
    case 2: Words_try_send(m->words, 1); break;
    case 3: Words_try_receive(m->words, &value); break;
    case 4: Words_send_timeout(m->words, 1, 0); break;
    case 5: Words_receive_timeout(m->words, &value, 0); break;
    case 6: Words_close(m->words); break;
    default: Words_destroy(m->words);
    }
    return NULL;
}

static void check_refused(AsthraChannel *raw, const char *reason) {
    char expected[80];
    for (int i = 0; i < VERBS; i++) {
        Misuse m = {{raw}, i};
        const char *message = panic_of(use_words, &m);
        snprintf(expected, sizeof expected, "Words_%s at %s:%d: %s", verbs[i], __FILE__,
                 LINE_OF_WORDS, reason);
        if (strncmp(message, expected, strlen(expected)) != 0)
            test_fail(__FILE__, __LINE__, "'%s' is not '%s'", message, expected);
    }
}

TEST(typed, a_channel_that_is_null_or_of_another_size_panics_and_is_named) {
    start(1);
    AsthraChannel *other = asthra_channel_create(sizeof(int64_t), 1, "other");
    check_refused(NULL, "the channel is NULL: it was never created");
    check_refused(other, "channel 'other' carries values of 8 bytes, not 4");
    CHECK_EQ(asthra_channel_count(other), 0);
    CHECK(!asthra_channel_is_closed(other));
    asthra_channel_destroy(other);
}

static void *send_into_none(void *unused) {
    Pages pages = Pages_create(SIZE_MAX / 2);
    CHECK(pages.raw == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_INVALID);
    Pages_receive(pages, NULL);
    return unused;
}

TEST(typed, a_channel_whose_create_failed_panics_with_the_reason) {
    start(1);
    CHECK(strstr(panic_of(send_into_none, NULL), "values of 6000 bytes overflow") != NULL);
}

/* ---- channels in a select ---- */

ASTHRA_TASK(int64_t, add_up, (Numbers, numbers), (Names, names), (Numbers, sums)) {
    int64_t number = 0, sum = 0;
    const char *name = NULL;
    bool is_open = true;
    while (is_open) {
        ASTHRA_SELECT(s) {
            if (Numbers_case_receive(&s, numbers, &number)) {
                sum += number;
            } else if (Names_case_receive(&s, names, &name)) {
                is_open = s.ok;
                sum += s.ok ? name[0] - '0' : 0;
            } else if (sum > 0 && Numbers_case_send(&s, sums, &sum)) {
                sum = 0;
            }
        }
    }
    return sum;
}

TEST(typed, a_select_receives_and_sends_values) {
    Numbers numbers = Numbers_create(0), sums = Numbers_create(0), off = {NULL};
    Names names = Names_create(0);
    int64_t sum = 0, ran = 0;
    add_up_task t = add_up_go(numbers, names, sums);
    Numbers_send(numbers, 40);
    Names_send(names, "2");
    CHECK(Numbers_receive(sums, &sum));
    CHECK_EQ(sum, 42);
    Numbers_send(numbers, 7);
    Names_close(names);
    CHECK_EQ(add_up_await(t), 7);
    ASTHRA_SELECT(s) {
        if (Numbers_case_receive(&s, off, &sum)) CHECK(false);
        if (Names_case_receive(&s, names, NULL)) ran++;
    }
    CHECK_EQ(ran, 1);
    Numbers_destroy(numbers);
    Numbers_destroy(sums);
    Names_destroy(names);
}

static void *select_another_size(void *raw) {
    Words words = {raw};
    int32_t value = 0;
    ASTHRA_SELECT(s) {
        Words_case_receive(&s, words, &value);
    }
    return NULL;
}
static void *select_send_another_size(void *raw) {
    Words words = {raw};
    int32_t value = 0;
    ASTHRA_SELECT(s) {
        Words_case_send(&s, words, &value);
    }
    return NULL;
}
static void *case_without_a_select(void *raw) {
    Words words = {raw};
    AsthraSelect s;
    memset(&s, 0, sizeof s);
    Words_case_receive(&s, words, NULL);
    return NULL;
}

TEST(typed, cases_of_another_size_and_outside_a_select_panic_and_are_named) {
    start(1);
    AsthraChannel *other = asthra_channel_create(sizeof(int64_t), 1, "other");
    const char *message = panic_of(select_another_size, other);
    CHECK(strncmp(message, "Words_case_receive at tests/test_typed.c:", 41) == 0);
    CHECK(strstr(message, "channel 'other' carries values of 8 bytes, not 4") != NULL);
    message = panic_of(select_send_another_size, other);
    CHECK(strncmp(message, "Words_case_send at tests/test_typed.c:", 38) == 0);
    message = panic_of(case_without_a_select, other);
    CHECK(strncmp(message, "Words_case_receive at tests/test_typed.c:", 41) == 0);
    CHECK(strstr(message, ": not in the body of an ASTHRA_SELECT") != NULL);
    asthra_channel_destroy(other);
}
