/* Stacks and switches alone, without the scheduler. */
#include "test.h"
#define ASTHRA_RT_IMPLEMENTATION
#define ASTHRA_RT_STATIC
#include "asthra_rt.h"

#include <setjmp.h>

static Asthra__Fiber root, *current;
static int steps[100], step_count;
static int rounds;

static void go(Asthra__Fiber *to) {
    Asthra__Fiber *from = current;
    current = to;
    asthra__fiber_switch(from, to, false);
}

static void notes_and_returns(void *unused) {
    (void)unused;
    asthra__fiber_arrive(current);
    for (;;) {
        steps[step_count++ % 100] = 1;
        rounds--;
        go(&root);
    }
}

static void set_up(void (*entry)(void *)) {
    asthra__sync_setup();
    asthra__fiber_setup(64 * 1024, entry);
    asthra__fiber_bind(&root, 0);
    current = &root;
}

TEST(fiber, a_bound_fiber_knows_the_threads_own_stack) {
    char here;
    set_up(notes_and_returns);
    CHECK(&here >= root.low && &here < root.high);
    CHECK_EQ(root.bound_to, 0);
    CHECK(asthra__fiber_room(&root) > 0);
    CHECK(root.slab == NULL);
}

TEST(fiber, switching_goes_there_and_back) {
    set_up(notes_and_returns);
    Asthra__Fiber *f = asthra__fiber_create(0);
    CHECK(f != NULL);
    for (int i = 0; i < 50; i++) {
        go(f);
        CHECK_EQ(step_count, i + 1);
        CHECK(current == &root);
    }
}

TEST(fiber, taken_ones_are_distinct_and_given_ones_come_back) {
    enum { N = 300 };
    set_up(notes_and_returns);
    uint32_t got = 0;
    Asthra__Fiber *list = asthra__fiber_take(N, &got);
    CHECK_EQ(got, N);
    uint32_t count = 0;
    const Asthra__Fiber *seen[N];
    for (Asthra__Fiber *f = list; f != NULL; f = asthra__fiber_next(f)) {
        CHECK(f->high - f->low >= 64 * 1024 - 4096);
        CHECK_EQ(f->bound_to, -1);
        CHECK_EQ((uintptr_t)f % 64, 0);
        for (uint32_t i = 0; i < count; i++) {
            CHECK(f->low >= seen[i]->high || f->high <= seen[i]->low);
        }
        seen[count++] = f;
    }
    CHECK_EQ(count, N);
    asthra__fiber_give(list);
    list = asthra__fiber_take(N, &got);
    CHECK_EQ(got, N);
    for (Asthra__Fiber *f = list; f != NULL; f = asthra__fiber_next(f)) {
        bool is_old = false;
        for (uint32_t i = 0; i < count; i++) is_old = is_old || seen[i] == f;
        CHECK(is_old);
    }
    asthra__fiber_give(list);
    asthra__fiber_teardown();
}

TEST(fiber, an_idle_one_is_gone_to_as_it_is_and_again_after_a_trim) {
    set_up(notes_and_returns);
    uint32_t got = 0;
    Asthra__Fiber *f = asthra__fiber_take(1, &got);
    CHECK_EQ(got, 1);
    go(f);
    go(f);
    asthra__fiber_give(f);
    asthra__fiber_trim();
    f = asthra__fiber_take(1, &got);
    go(f);
    CHECK_EQ(step_count, 3);
}

TEST(fiber, the_address_below_a_stack_is_its_guard) {
    set_up(notes_and_returns);
    uint32_t got = 0;
    Asthra__Fiber *list = asthra__fiber_take(70, &got);
    for (Asthra__Fiber *f = list; f != NULL; f = asthra__fiber_next(f)) {
        CHECK(asthra__fiber_of_guard(f->low - 1) == f);
        CHECK(asthra__fiber_of_guard(f->low - asthra__os_page_size()) == f);
        CHECK(asthra__fiber_of_guard(f->low) == NULL);
        CHECK(asthra__fiber_of_guard(f->high) == NULL);
    }
    CHECK(asthra__fiber_of_guard(&got) == NULL);
    CHECK(asthra__fiber_of_guard(NULL) == NULL);
}

#if !ASTHRA__ASAN && !ASTHRA__TSAN
static sigjmp_buf out;
static void *touched;
static void caught(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    touched = info->si_addr;
    siglongjmp(out, 1);
}

TEST(fiber, touching_a_guard_faults) {
    set_up(notes_and_returns);
    struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    uint32_t got = 0;
    for (Asthra__Fiber *f = asthra__fiber_take(10, &got); f != NULL; f = asthra__fiber_next(f)) {
        *(volatile char *)f->low = 1;
        if (f->has_canary) continue; /* no page could be guarded here */
        touched = NULL;
        if (sigsetjmp(out, 1) == 0) *(volatile char *)(f->low - 1) = 1;
        CHECK(touched == f->low - 1);
    }
}
#endif

TEST(fiber, sizes_that_overflow_are_refused) {
    set_up(notes_and_returns);
    CHECK(asthra__fiber_create(SIZE_MAX) == NULL);
    CHECK(asthra__fiber_create(SIZE_MAX / 2) == NULL);
    CHECK(asthra__fiber_create(ASTHRA__OS_STACK_MOST + 1) == NULL);
}

TEST(fiber, a_stack_of_another_size_is_made_and_destroyed) {
    set_up(notes_and_returns);
    for (size_t bytes = 16384; bytes < (size_t)64 << 20; bytes *= 3) {
        Asthra__Fiber *f = asthra__fiber_create(bytes);
        CHECK(f != NULL);
        CHECK((size_t)(f->high - f->low) >= bytes - 4096);
        go(f);
        const char *guard = f->low - 1;
        CHECK(asthra__fiber_of_guard(guard) == f);
        asthra__fiber_destroy(f);
        CHECK(asthra__fiber_of_guard(guard) == NULL);
    }
}

TEST(fiber, teardown_unmaps_everything) {
    for (int i = 0; i < 200; i++) {
        uint32_t got = 0;
        set_up(notes_and_returns);
        asthra__fiber_take(500, &got);
        CHECK_EQ(got, 500);
        asthra__fiber_teardown();
        CHECK(asthra__fiber_of_guard(&got) == NULL);
    }
}
