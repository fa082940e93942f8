/* Debug flags and the marks that they switch: private names, so the bodies are in this file. */
#include "test.h"
#define ASTHRA_RT_STATIC
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"

/* What a mark under the flag writes. */
static const char *marked(AsthraDebugFlag flag) {
    static char line[100];
    int ends[2], before = dup(STDERR_FILENO);
    CHECK(pipe(ends) == 0);
    dup2(ends[1], STDERR_FILENO);
    ASTHRA__TRACE(flag, "mark %d", 7);
    dup2(before, STDERR_FILENO);
    close(ends[1]);
    ssize_t got = read(ends[0], line, sizeof line - 1);
    CHECK(got >= 0);
    line[got] = 0;
    close(ends[0]);
    close(before);
    return line;
}

TEST(trace, flags_are_off_at_the_start) {
    CHECK_STR(marked(ASTHRA_DEBUG_MEMORY_ALLOCATION), "");
    CHECK_STR(marked(ASTHRA_DEBUG_SAFETY_CHECKS), "");
}

TEST(trace, flag_that_is_on_writes_a_line) {
    asthra_set_debug_flag(ASTHRA_DEBUG_CONCURRENCY_OPERATIONS, true);
    CHECK_STR(marked(ASTHRA_DEBUG_CONCURRENCY_OPERATIONS), "mark 7\n");
}

TEST(trace, flag_that_is_off_again_writes_nothing) {
    asthra_set_debug_flag(ASTHRA_DEBUG_FFI_CALLS, true);
    asthra_set_debug_flag(ASTHRA_DEBUG_FFI_CALLS, false);
    CHECK_STR(marked(ASTHRA_DEBUG_FFI_CALLS), "");
}

TEST(trace, flags_are_separate) {
    asthra_set_debug_flag(ASTHRA_DEBUG_FFI_CALLS, true);
    asthra_set_debug_flag(ASTHRA_DEBUG_SAFETY_CHECKS, true);
    asthra_set_debug_flag(ASTHRA_DEBUG_SAFETY_CHECKS, false);
    CHECK_STR(marked(ASTHRA_DEBUG_FFI_CALLS), "mark 7\n");
    CHECK_STR(marked(ASTHRA_DEBUG_SAFETY_CHECKS), "");
    CHECK_STR(marked(ASTHRA_DEBUG_MEMORY_ALLOCATION), "");
    CHECK_STR(marked(ASTHRA_DEBUG_CONCURRENCY_OPERATIONS), "");
}

static int arguments_read;
static int argument(void) {
    return ++arguments_read;
}

TEST(trace, arguments_are_not_evaluated_when_off) {
    ASTHRA__TRACE(ASTHRA_DEBUG_FFI_CALLS, "%d", argument());
    CHECK_EQ(arguments_read, 0);
    asthra_set_debug_flag(ASTHRA_DEBUG_FFI_CALLS, true);
    ASTHRA__TRACE(ASTHRA_DEBUG_FFI_CALLS, "%d", argument());
    CHECK_EQ(arguments_read, 1);
}

TEST(trace, unknown_flag_changes_nothing) {
    asthra_set_debug_flag((AsthraDebugFlag)4, true);
    asthra_set_debug_flag((AsthraDebugFlag)40, true);
    for (int flag = 0; flag < 4; flag++) CHECK(!asthra__trace_is_on((AsthraDebugFlag)flag));
}
