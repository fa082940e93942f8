/* The record of each thread: private names, so the bodies are in this file. */
#include <errno.h>
#include "test.h"
#define ASTHRA_RT_STATIC
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"

#include <limits.h>
#include <pthread.h>

static void on_another_thread(void *(*run)(void *), void *argument) {
    pthread_t other;
    CHECK(!pthread_create(&other, NULL, run, argument));
    pthread_join(other, NULL);
}

TEST(thread, attaches_at_the_first_call) {
    CHECK(asthra__thread_if_attached() == NULL);
    CHECK_EQ(asthra__thread_count(), 0);
    Asthra__Thread *t = asthra__thread();
    CHECK(t != NULL);
    CHECK(asthra__thread_if_attached() == t);
    CHECK(asthra__thread() == t);
    CHECK_EQ(asthra__thread_count(), 1);
}

TEST(thread, attaching_leaves_errno) {
    errno = 77;
    asthra__thread();
    CHECK_EQ(errno, 77);
}

TEST(thread, first_thread_is_main) {
    CHECK(asthra__thread()->is_main);
    CHECK_STR(asthra__thread()->name, "main");
    CHECK(asthra__thread()->own_error == NULL);
}

static void *look(void *main_record) {
    Asthra__Thread *t = asthra__thread();
    CHECK(t != main_record);
    CHECK(!t->is_main);
    CHECK_STR(t->name, "");
    CHECK(t->errno_place == &errno);
    CHECK_EQ(asthra__thread_count(), 2);
    return NULL;
}

TEST(thread, each_thread_has_a_record_and_gives_it_back) {
    Asthra__Thread *t = asthra__thread();
    for (int i = 0; i < 50; i++) {
        on_another_thread(look, t);
        CHECK_EQ(asthra__thread_count(), 1);
    }
}

static void *attach(void *unused) {
    asthra__thread();
    asthra_result_err("an error record, which the end of the thread frees");
    return unused;
}

TEST(thread, threads_may_come_and_go_in_any_order) {
    enum { COUNT = 12 };
    pthread_t threads[COUNT];
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < COUNT; i++) CHECK(!pthread_create(&threads[i], NULL, attach, NULL));
        for (int i = 0; i < COUNT; i++) pthread_join(threads[i], NULL);
    }
    CHECK_EQ(asthra__thread_count(), 0);
}

TEST(thread, name_is_copied_and_cut) {
    char name[] = "reader";
    asthra__thread_set_name(name);
    name[0] = '#';
    CHECK_STR(asthra__thread()->name, "reader");
    asthra__thread_set_name("a name that has more than thirty-one letters");
    CHECK_STR(asthra__thread()->name, "a name that has more than thirt");
    asthra__thread_set_name(NULL);
    CHECK_STR(asthra__thread()->name, "");
}

static char hooks_called[16];
static void hook_a(Asthra__Thread *t) {
    CHECK(asthra__thread() == t && t->is_attached);
    strcat(hooks_called, "a");
}
static void hook_b(Asthra__Thread *t) {
    CHECK_STR(t->name, "worker");
    strcat(hooks_called, "b");
}
static void hook_c(Asthra__Thread *t) {
    (void)t;
}
static void hook_d(Asthra__Thread *t) {
    (void)t;
}
static void hook_e(Asthra__Thread *t) {
    (void)t;
}
static void hook_f(Asthra__Thread *t) {
    (void)t;
}

static void *be_worker(void *unused) {
    asthra__thread_set_name("worker");
    return unused;
}

TEST(thread, hooks_run_newest_first_while_the_record_is_whole) {
    asthra__thread_on_detach(hook_a);
    asthra__thread_on_detach(hook_b);
    asthra__thread_on_detach(hook_a); /* again: changes nothing */
    on_another_thread(be_worker, NULL);
    CHECK_STR(hooks_called, "ba");
}

static void hook_first(Asthra__Thread *t) {
    asthra__thread_on_detach(hook_a); /* what it calls may be the reason for others */
    CHECK(asthra__thread() == t && t->is_attached);
    strcat(hooks_called, "1");
}

TEST(thread, one_hook_runs_before_all_others_and_may_add_some) {
    asthra__thread_before_detach(hook_first);
    asthra__thread_on_detach(hook_b);
    on_another_thread(be_worker, NULL);
    CHECK_STR(hooks_called, "1ab");
}

TEST_PANICS(thread, sixth_hook_is_refused_aloud, "5 detach hooks") {
    asthra__thread_on_detach(hook_a);
    asthra__thread_on_detach(hook_b);
    asthra__thread_on_detach(hook_c);
    asthra__thread_on_detach(hook_d);
    asthra__thread_on_detach(hook_e);
    asthra__thread_on_detach(hook_f);
}

static pthread_key_t late_key;
static ASTHRA__ATOMIC(int) late_calls; /* a sanitizer thinks that the thread has ended by then */

/* A destructor of the host that calls the runtime when the thread's record has gone already, and
 * insists on as many rounds as the system grants. */
static void call_late(void *unused) {
    Asthra__Thread *t = asthra__thread();
    CHECK(t->is_attached);
    asthra__add(&late_calls, 1, relaxed);
    pthread_setspecific(late_key, unused);
}
static void *arm_late_call(void *unused) {
    asthra__thread();
    pthread_setspecific(late_key, &late_key);
    return unused;
}

TEST(thread, late_calls_of_an_ending_thread_work_and_leave_nothing) {
    asthra__thread(); /* so that our key is older than the host's, and its destructor comes first */
    CHECK(!pthread_key_create(&late_key, call_late));
    for (int i = 0; i < 10; i++) {
        asthra__store(&late_calls, 0, relaxed);
        on_another_thread(arm_late_call, NULL);
        CHECK(asthra__load(&late_calls, relaxed) >= 4);
        CHECK_EQ(asthra__thread_count(), 1);
    }
}

static void *attach_unlisted(void *unused) {
    CHECK(asthra__thread()->is_attached);
    CHECK(asthra__thread()->link == NULL);
    return unused;
}

TEST(thread, without_a_key_threads_attach_but_are_not_listed) {
    pthread_key_t key;
    while (pthread_key_create(&key, NULL) == 0) {
    }
    on_another_thread(attach_unlisted, NULL);
    CHECK_EQ(asthra__thread_count(), 0);
}

static void *fork_here(void *unused) {
    asthra__thread_set_name("forker");
    pid_t child = fork();
    if (child == 0) {
        bool good = asthra__thread_count() == 1 && asthra__thread()->is_main &&
                    strcmp(asthra__thread()->name, "forker") == 0;
        _exit(good ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
    CHECK(!asthra__thread()->is_main);
    return unused;
}

TEST(thread, only_the_forking_thread_lives_in_the_child) {
    asthra__thread();
    on_another_thread(fork_here, NULL);
    CHECK_EQ(asthra__thread_count(), 1);
}

static void *attach_for_ever(void *stop) {
    while (!asthra__load((ASTHRA__ATOMIC(bool) *)stop, relaxed)) on_another_thread(attach, NULL);
    return NULL;
}

TEST(thread, fork_finds_the_list_whole) { /* a lock that stays held in the child hangs this test */
    ASTHRA__ATOMIC(bool) stop = false;
    pthread_t busy;
    asthra__thread();
    CHECK(!pthread_create(&busy, NULL, attach_for_ever, &stop));
    for (int i = 0; i < 50; i++) {
        int status;
        pid_t child = fork();
        if (child == 0) _exit(asthra__thread_count() == 1 ? 0 : 1);
        CHECK(waitpid(child, &status, 0) == child);
        CHECK_EQ(status, 0);
    }
    asthra__store(&stop, true, relaxed);
    pthread_join(busy, NULL);
}

#if ASTHRA_HAS_TASK && !ASTHRA__ASAN && !ASTHRA__TSAN

typedef struct Journey {
    Asthra__SwapContext *inside, *outside;
    Asthra__Thread *before, *after;
} Journey;

/* Runs on a stack of its own, begun by one thread and ended by another. A compiler that takes the
 * two calls for one, or keeps the address of a thread-local, finds the first thread twice. */
static void travel(void *argument) {
    Journey *j = argument;
    j->before = asthra__thread();
    asthra__swap(&j->inside, j->outside, NULL);
    j->after = asthra__thread();
    asthra__swap(&j->inside, j->outside, NULL);
}

static void *resume(void *argument) {
    Journey *j = argument;
    Asthra__Thread *t = asthra__thread();
    asthra__swap(&j->outside, j->inside, j);
    CHECK(j->after == t);
    return NULL;
}

TEST(thread, record_is_found_anew_after_a_switch_of_stacks) {
    enum { BYTES = 64 * 1024 };
    char *low = asthra__os_map(BYTES);
    Journey j = {0};
    CHECK(low != NULL);
    j.inside = asthra__swap_make(low, low + BYTES, travel);
    asthra__swap(&j.outside, j.inside, &j);
    CHECK(j.before == asthra__thread());
    on_another_thread(resume, &j);
    CHECK(j.after != j.before);
    asthra__os_unmap(low, BYTES);
}

#endif
