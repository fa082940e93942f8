/* Panics: report, hook, policy, history. The slots of a scheduler are private names. */
#include "test.h"
#define ASTHRA_RT_STATIC
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"

#include <pthread.h>
#include <setjmp.h>

/* An owner whose task is a setjmp: a panic that fails the task arrives there. */
static jmp_buf task;
static AsthraPanicPolicy task_policy = ASTHRA_PANIC_FAIL_TASK;
static AsthraPanicInfo failed;
static char failed_message[1200];
static const AsthraPanicInfo *failure = &failed;

static uint64_t id_of_task(void) {
    return 42;
}
static const char *name_of_task(void) {
    return "parser";
}
static AsthraPanicPolicy policy_of_task(void) {
    return task_policy;
}
static void set_policy_of_task(AsthraPanicPolicy policy) {
    task_policy = policy;
}
static void fail_task(const AsthraPanicInfo *info) {
    failed = *info;
    snprintf(failed_message, sizeof failed_message, "%s", info->message);
    failed.message = failed_message;
    longjmp(task, 1);
}
static const Asthra__PanicOwner owner = {id_of_task, name_of_task, policy_of_task,
                                         set_policy_of_task, fail_task};

/* Panics inside the task and comes back. */
__attribute__((format(printf, 2, 3))) static void fail_at(const char *here, const char *format,
                                                          ...) {
    char message[4000];
    va_list list;
    va_start(list, format);
    vsnprintf(message, sizeof message, format, list);
    va_end(list);
    asthra__panic_set_owner(&owner);
    if (!setjmp(task)) asthra_panic_at(here, "%s", message);
}
#define FAIL(...) fail_at(ASTHRA_HERE, __VA_ARGS__)

static void fail_quietly(void) { /* what is written to stderr is not what these tests look at */
    int nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, STDERR_FILENO);
    close(nowhere);
}

TEST_PANICS(panic, message_is_formatted_and_reported, "panic: 7 of nine\n") {
    asthra_panic("%d of %s", 7, "nine");
}

TEST_PANICS(panic, report_of_the_function_form_has_its_message, "panic: by function\n") {
    (asthra_panic)("by %s", "function");
}

TEST_PANICS(panic, report_names_the_main_thread, "  in thread 'main'\n") {
    asthra_panic("x");
}

TEST_PANICS(panic, report_names_the_task, "  in task 'parser' (id 42)\n") {
    task_policy = ASTHRA_PANIC_ABORT;
    asthra__panic_set_owner(&owner);
    asthra_panic("x");
}

static void *panic_nameless(void *unused) {
    asthra_panic("%s", unused ? "x" : "y");
    return unused;
}

TEST_PANICS(panic, thread_without_a_name_is_no_task, "  in no task\n") {
    pthread_t other;
    pthread_create(&other, NULL, panic_nameless, NULL);
    pthread_join(other, NULL);
}

TEST_PANICS(panic, check_names_what_was_broken, "broken invariant: 1 + 1 == 3") {
    ASTHRA__CHECK(1 + 1 == 3);
}

TEST(panic, check_that_holds_does_nothing) {
    ASTHRA__CHECK(1 + 1 == 2);
}

static void say(const AsthraPanicInfo *info, void *user) {
    fprintf(stderr, "hook: %s %s:%d [%s]\n", info->message, info->file, info->line,
            (const char *)user);
}

TEST_PANICS(panic, hook_gets_message_place_and_user,
            "hook: lost 3 some.c:9 [mine]\npanic: lost 3") {
    asthra_panic_set_hook(say, "mine");
    asthra_panic_at("some.c:9", "lost %d", 3);
}

static void end_well(const AsthraPanicInfo *info, void *user) {
    (void)user;
    _exit(strcmp(info->message, "first") == 0 ? 0 : TEST_EXIT_FAILED);
}

TEST(panic, hook_runs_before_the_report) { /* it ends the process, so a report would show */
    int ends[2], status;
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        asthra_panic_set_hook(end_well, NULL);
        asthra_panic("first");
    }
    close(ends[1]);
    char byte;
    CHECK_EQ(read(ends[0], &byte, 1), 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void panic_too(const AsthraPanicInfo *info, void *user) {
    (void)info, (void)user;
    asthra_panic("the second, of %d", 2);
}

TEST_PANICS(panic, panic_inside_the_hook_aborts_with_both,
            "panic: the second, of 2\n  while handling the panic: the first\n") {
    asthra_panic_set_hook(panic_too, NULL);
    asthra_panic("the first");
}

static void look_back(const AsthraPanicInfo *info, void *user) {
    AsthraPanicInfo all[2];
    CHECK(asthra_panic_last() == info);
    CHECK_EQ(asthra_panic_history(all, 2), 1);
    *(bool *)user = true;
}

TEST(panic, hook_may_read_the_history) {
    bool has_looked = false;
    asthra_panic_set_hook(look_back, &has_looked);
    FAIL("x");
    CHECK(has_looked);
    has_looked = false;
    asthra_panic_set_hook(NULL, NULL);
    FAIL("y");
    CHECK(!has_looked);
}

TEST(panic, failing_task_gets_the_info) {
    int64_t before = asthra__os_now_ns();
    FAIL("bad byte %d", 200);
    CHECK_STR(failure->message, "bad byte 200");
    CHECK_EQ(failure->line, __LINE__ - 2);
    CHECK(strstr(failure->file, "test_panic.c") != NULL);
    CHECK_EQ(failure->task_id, 42);
    CHECK_STR(failure->task_name, "parser");
    CHECK(failure->time_ns >= before && failure->time_ns <= asthra__os_now_ns());
}

TEST(panic, stack_is_a_line_for_each_frame) {
    FAIL("x");
    size_t length = strlen(failure->stack);
    CHECK(length == 0 || failure->stack[length - 1] == '\n'); /* static programs may have none */
}

TEST(panic, place_is_split_at_the_last_colon) {
    fail_at("C:/a:b/file.x:77", "x");
    CHECK_STR(failure->file, "C:/a:b/file.x");
    CHECK_EQ(failure->line, 77);
}

TEST(panic, without_a_place_file_is_null) {
    fail_at(NULL, "x");
    CHECK(failure->file == NULL);
    CHECK_EQ(failure->line, 0);
}

TEST(panic, finished_message_is_not_a_format) {
    asthra__panic_set_owner(&owner);
    if (!setjmp(task)) asthra__panic_with("there.c", 5, "100%d");
    CHECK_STR(failure->message, "100%d");
    CHECK_STR(failure->file, "there.c");
    CHECK_EQ(failure->line, 5);
}

TEST(panic, message_is_cut_at_a_thousand_bytes) {
    FAIL("%0*d", 3000, 1);
    CHECK_EQ(strlen(failure->message), 1000);
}

TEST_PANICS(panic, policy_abort_ends_the_process, "panic: x\n") {
    asthra__panic_set_owner(&owner);
    asthra_panic_set_policy(ASTHRA_PANIC_ABORT);
    FAIL("x");
    _exit(0);
}

static void fail_nothing(const AsthraPanicInfo *info) {
    (void)info;
}

TEST_PANICS(panic, without_a_task_to_fail_the_process_aborts, "panic: x\n") {
    static const Asthra__PanicOwner none = {NULL, NULL, policy_of_task, NULL, fail_nothing};
    asthra__panic_set_owner(&none);
    if (!setjmp(task)) asthra_panic("x");
}

TEST_PANICS(panic, outside_tasks_a_policy_changes_nothing, "panic: still\n") {
    asthra_panic_set_policy(ASTHRA_PANIC_FAIL_TASK);
    asthra_panic("still");
}

TEST(panic, abort_is_a_signal) {
    int status;
    pid_t child = fork();
    if (child == 0) asthra_panic("x");
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

TEST(panic, last_is_the_newest_and_null_before_any) {
    fail_quietly();
    CHECK(asthra_panic_last() == NULL);
    FAIL("one");
    FAIL("two");
    CHECK_STR(asthra_panic_last()->message, "two");
}

TEST(panic, history_keeps_the_last_sixteen_newest_last) {
    AsthraPanicInfo all[20];
    fail_quietly();
    CHECK_EQ(asthra_panic_history(all, 20), 0);
    for (int i = 0; i < 20; i++) FAIL("panic %d", i);
    CHECK_EQ(asthra_panic_history(all, 20), 16);
    CHECK_STR(all[0].message, "panic 4");
    CHECK_STR(all[15].message, "panic 19");
    CHECK_STR(all[15].task_name, "parser");
}

TEST(panic, history_with_little_room_holds_the_newest) {
    AsthraPanicInfo two[2];
    fail_quietly();
    for (int i = 0; i < 5; i++) FAIL("panic %d", i);
    CHECK_EQ(asthra_panic_history(two, 2), 2);
    CHECK_STR(two[0].message, "panic 3");
    CHECK_STR(two[1].message, "panic 4");
    CHECK_EQ(asthra_panic_history(NULL, 0), 0);
}

TEST(panic, texts_live_until_sixteen_more) {
    fail_quietly();
    FAIL("old");
    const AsthraPanicInfo *old = asthra_panic_last();
    for (int i = 0; i < 15; i++) FAIL("new");
    CHECK_STR(old->message, "old");
}

TEST(panic, cleared_history_is_empty_and_fills_again) {
    AsthraPanicInfo all[3];
    fail_quietly();
    FAIL("old");
    asthra_panic_clear_history();
    CHECK(asthra_panic_last() == NULL);
    CHECK_EQ(asthra_panic_history(all, 3), 0);
    FAIL("new");
    CHECK_EQ(asthra_panic_history(all, 3), 1);
    CHECK_STR(all[0].message, "new");
}

TEST(panic, switched_off_handler_keeps_report_and_history_away) {
    int ends[2];
    char byte;
    CHECK(pipe(ends) == 0);
    int before = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
    asthra__panic_enable_report(false);
    FAIL("silent");
    dup2(before, STDERR_FILENO);
    close(ends[1]);
    CHECK_EQ(read(ends[0], &byte, 1), 0);
    CHECK(asthra_panic_last() == NULL);
    CHECK_STR(failure->message, "silent"); /* the task is told none the less */
    asthra__panic_enable_report(true);
    FAIL("loud");
    CHECK_STR(asthra_panic_last()->message, "loud");
}

static pthread_barrier_t together;

static void *panic_long(void *letter) {
    char message[900];
    memset(message, *(const char *)letter, sizeof message);
    asthra_panic("%.900s", message);
}

/* A hook that holds the threads back until all are about to report. */
static void gather(const AsthraPanicInfo *info, void *user) {
    (void)info, (void)user;
    pthread_barrier_wait(&together);
}

/* Three threads of a child panic at the same time; reads what all of them write. */
static size_t panic_together(char *out, size_t room) {
    int ends[2], status;
    size_t have = 0;
    ssize_t got;
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        pthread_t threads[3];
        dup2(ends[1], STDERR_FILENO);
        pthread_barrier_init(&together, NULL, 3);
        asthra_panic_set_hook(gather, NULL);
        for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, panic_long, &"abc"[i]);
        for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
        _exit(0);
    }
    close(ends[1]);
    while ((got = read(ends[0], out + have, room - 1 - have)) > 0) have += (size_t)got;
    close(ends[0]);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    out[have] = 0;
    return have;
}

TEST(panic, reports_of_threads_that_panic_together_are_whole) {
    NEED_THREADS();
    static char text[40000];
    for (int i = 0; i < 10; i++) {
        panic_together(text, sizeof text);
        CHECK(strncmp(text, "panic: ", 7) == 0);
        for (const char *report = text; report; report = strstr(report + 1, "panic: ")) {
            char letter = report[7];
            for (int n = 0; n < 900; n++) CHECK_EQ(report[7 + n], letter);
            CHECK_EQ(report[907], '\n');
            CHECK(strncmp(report + 908, "  at ", 5) == 0);
        }
    }
}

static void *read_history(void *stop) {
    AsthraPanicInfo one;
    while (!asthra__load((ASTHRA__ATOMIC(bool) *)stop, relaxed)) asthra_panic_history(&one, 1);
    return NULL;
}

TEST(panic, forked_child_may_panic) { /* a lock that stays held in the child hangs this test */
    NEED_THREADS();
    ASTHRA__ATOMIC(bool) stop = false;
    pthread_t reader;
    fail_quietly();
    FAIL("of the parent");
    CHECK(!pthread_create(&reader, NULL, read_history, &stop));
    for (int i = 0; i < 30; i++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            FAIL("of the child");
            _exit(strcmp(asthra_panic_last()->message, "of the child") == 0 ? 0 : 1);
        }
        CHECK(waitpid(child, &status, 0) == child);
        CHECK_EQ(status, 0);
    }
    asthra__store(&stop, true, relaxed);
    pthread_join(reader, NULL);
}

TEST_PANICS(panic, report_names_the_callers_place, "  at generated.src:123\n") {
#line 123 "generated.src"
    asthra_panic("here");
}
