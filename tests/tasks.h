/* tasks - what tests of tasks share; included behind test.h and asthra_rt.h. */
#ifndef ASTHRA__TEST_TASKS_H
#define ASTHRA__TEST_TASKS_H

/* Before a test that forks while there are many threads. */
#if UNDER_TSAN
#define SKIP_WHERE_UNSAFE() SKIP("ThreadSanitizer has no threads after a fork of many")
#elif UNDER_ASAN
#define SKIP_WHERE_UNSAFE() SKIP("AddressSanitizer's heap stays locked after a fork of many")
#else
#define SKIP_WHERE_UNSAFE() \
    NEED_NO_EMULATOR("qemu-user ends in an assertion of its own after a fork of many threads")
#endif

TEST_MAYBE_UNUSED static void start_as(size_t workers, uint64_t seed) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = workers;
    c.deterministic_seed = seed;
    CHECK(asthra_runtime_init(&c));
}

/* Returns once t waits. Sleeping and not yielding, so that a main that helps runs it. */
TEST_MAYBE_UNUSED static void until_waiting(AsthraTaskHandle t) {
    while (asthra_task_state(t) != ASTHRA_TASK_WAITING) asthra_sleep_ns(10000);
}

#endif
