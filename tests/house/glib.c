/* A host whose main loop is GLib's: the runtime is one of its sources, a channel another. What the
 * loop did is counted, and whatever it did had a cause, which is counted too: so it rests when
 * there is nothing to do. */
#include "test.h"
#include "asthra_rt.h"

#include <glib.h>
#include <poll.h>
#include <stdatomic.h>

#define NUMBER(n) ((void *)(intptr_t)(n))

static pthread_t main_thread;
static GMainLoop *loop;
static long callbacks; /* of every other source */
static int parts;      /* of a test, until it may end */

static void check_on_main(void) {
    CHECK(pthread_equal(pthread_self(), main_thread));
}

static void part_ends(void) {
    check_on_main();
    if (--parts == 0) g_main_loop_quit(loop);
}

/* ---- the runtime as a source ---- */

typedef struct Host {
    GSource source;
    gpointer wake;
    int wake_fd;
    int64_t budget_ns;
    long prepares, dispatches, turns;
} Host;

static gboolean host_prepare(GSource *source, gint *timeout_ms) {
    int64_t deadline = asthra_runtime_next_deadline(), left_ms = -1;
    ((Host *)source)->prepares++;
    if (deadline != ASTHRA_FOREVER) {
        int64_t left_ns = deadline - asthra_now_ns();
        left_ms = left_ns <= 0 ? 0 : left_ns / 1000000 + 1;
    }
    *timeout_ms = left_ms < G_MAXINT ? (gint)left_ms : G_MAXINT;
    return left_ms == 0;
}

static gboolean host_check(GSource *source) {
    int64_t deadline = asthra_runtime_next_deadline();
    if (g_source_query_unix_fd(source, ((Host *)source)->wake) & G_IO_IN) return TRUE;
    return deadline != ASTHRA_FOREVER && deadline <= asthra_now_ns();
}

static gboolean host_dispatch(GSource *source, GSourceFunc unused, gpointer unused_too) {
    Host *h = (Host *)source;
    (void)unused, (void)unused_too;
    h->dispatches++;
    h->turns += (long)asthra_runtime_poll(h->budget_ns);
    return G_SOURCE_CONTINUE;
}

static Host *host_begin(size_t workers, AsthraMainThread kind, int64_t budget_ns) {
    static GSourceFuncs calls = {
        .prepare = host_prepare, .check = host_check, .dispatch = host_dispatch};
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.worker_threads = workers;
    c.main_thread = kind;
    CHECK(asthra_runtime_init(&c));
    main_thread = pthread_self();
    callbacks = 0;
    loop = g_main_loop_new(NULL, FALSE);
    Host *h = (Host *)g_source_new(&calls, sizeof *h);
    h->wake_fd = asthra_runtime_wake_fd();
    CHECK(h->wake_fd >= 0);
    h->wake = g_source_add_unix_fd(&h->source, h->wake_fd, G_IO_IN);
    h->budget_ns = budget_ns;
    CHECK(g_source_attach(&h->source, NULL) != 0);
    return h;
}

/* Work gives one turn, and tells at most once, perhaps late, which is then a dispatch for nothing;
 * so is a limit that was not reached. The loop turns for each dispatch and limit, and once more
 * because GLib wakes itself when a source with descriptors was attached, dispatched or removed. */
static void host_end(Host *h, long most_turns, long limits) {
    int fd = h->wake_fd;
    CHECK(h->turns <= most_turns);
    CHECK(h->dispatches <= 2 * h->turns + limits);
    CHECK(h->prepares <= 2 * (1 + h->dispatches + callbacks) + limits);
    if (h->budget_ns == 0) CHECK(h->dispatches >= h->turns); /* a turn each */
    g_source_destroy(&h->source);
    g_source_unref(&h->source);
    g_main_loop_unref(loop);
    asthra_runtime_shutdown();
    CHECK(!asthra_runtime_is_running());
    CHECK(fcntl(fd, F_GETFD) == -1 && errno == EBADF);
}

typedef void Scenario(size_t workers, AsthraMainThread kind, int64_t budget_ns);

static void everywhere(Scenario *run) {
    const int64_t budgets[2] = {0, ASTHRA_MS(4)};
    for (size_t workers = 1; workers <= 2; workers++) {
        for (int b = 0; b < 2; b++) {
            run(workers, ASTHRA_MAIN_HOSTS, budgets[b]);
            run(workers, ASTHRA_MAIN_HELPS, budgets[b]);
        }
    }
}

static AsthraTaskHandle spawn_on_main(AsthraTaskFunction fn, void *args) {
    AsthraSpawnOptions o = {.affinity = ASTHRA_AFFINITY_MAIN};
    AsthraTaskHandle t = asthra_spawn_with(&o, fn, args);
    CHECK(asthra_task_is_valid(t));
    return t;
}

static void *ends_part(void *unused) {
    part_ends();
    return unused;
}

/* ---- sleep ---- */

enum { SLEEPERS = 4, SLEEPS = 10 };

static void sleep_often(void) {
    for (int i = 0; i < SLEEPS; i++) {
        int64_t begun = asthra_now_ns(), limit = ASTHRA_US(200 * (i % 8));
        CHECK_EQ(asthra_sleep_ns(limit).status, ASTHRA_OK);
        CHECK(asthra_now_ns() - begun >= limit);
    }
}

static void *sleeps_on_main(void *unused) {
    sleep_often();
    part_ends();
    return unused;
}

static void *sleeps_elsewhere(void *unused) {
    sleep_often();
    asthra_task_detach(spawn_on_main(ends_part, NULL));
    return unused;
}

static void sleepers(size_t workers, AsthraMainThread kind, int64_t budget_ns) {
    Host *h = host_begin(workers, kind, budget_ns);
    parts = 2 * SLEEPERS;
    for (int i = 0; i < SLEEPERS; i++) {
        asthra_task_detach(spawn_on_main(sleeps_on_main, NULL));
        asthra_task_detach(asthra_spawn(sleeps_elsewhere, NULL));
    }
    g_main_loop_run(loop);
    host_end(h, SLEEPERS * (1 + SLEEPS) + SLEEPERS, SLEEPERS * SLEEPS);
}

TEST(glib, the_loop_wakes_for_those_who_sleep_on_main) {
    everywhere(sleepers);
}

static atomic_int busy;
static atomic_bool may_end;

static void *computes(void *unused) {
    atomic_fetch_add(&busy, 1);
    while (!atomic_load(&may_end)) continue;
    return unused;
}

/* Nobody else looks at the clock then. */
static void sleepers_beside_busy_workers(size_t workers, AsthraMainThread kind, int64_t budget_ns) {
    Host *h = host_begin(workers, kind, budget_ns);
    int others = kind == ASTHRA_MAIN_HOSTS ? (int)workers : 1;
    atomic_store(&busy, 0);
    atomic_store(&may_end, false);
    for (int i = 0; i < others; i++) asthra_task_detach(asthra_spawn(computes, NULL));
    while (atomic_load(&busy) < others) sched_yield();
    parts = SLEEPERS;
    for (int i = 0; i < SLEEPERS; i++) asthra_task_detach(spawn_on_main(sleeps_on_main, NULL));
    g_main_loop_run(loop);
    atomic_store(&may_end, true);
    host_end(h, SLEEPERS * (1 + SLEEPS), SLEEPERS * SLEEPS);
}

TEST(glib, the_loop_knows_when_those_who_sleep_are_due) {
    everywhere(sleepers_beside_busy_workers);
}

/* ---- tasks of main and of others ---- */

enum { CALLERS = 3, CALLS = 20 };

static atomic_int calls_of_main;

static void *runs_on_main(void *unused) {
    check_on_main();
    atomic_fetch_add(&calls_of_main, 1);
    return unused;
}

static void *calls_main(void *unused) {
    for (int i = 0; i < CALLS; i++) asthra_await(spawn_on_main(runs_on_main, NULL));
    return unused;
}

static void *calls_others(void *unused) {
    for (int i = 0; i < CALLS; i++) {
        check_on_main();
        asthra_await(asthra_spawn(calls_main, NULL));
        check_on_main();
        asthra_yield();
    }
    part_ends();
    return unused;
}

static void exchange(size_t workers, AsthraMainThread kind, int64_t budget_ns) {
    Host *h = host_begin(workers, kind, budget_ns);
    parts = CALLERS;
    atomic_store(&calls_of_main, 0);
    for (int i = 0; i < CALLERS; i++) asthra_task_detach(spawn_on_main(calls_others, NULL));
    g_main_loop_run(loop);
    CHECK_EQ(atomic_load(&calls_of_main), CALLERS * CALLS * CALLS);
    /* What main awaits it may run itself: then each of its calls is a wait, too. */
    host_end(h, CALLERS * (1 + CALLS * (2 + 2 * CALLS)), 0);
}

TEST(glib, tasks_of_main_and_of_others_call_each_other) {
    everywhere(exchange);
}

/* ---- channels, fed by the loop and read by it ---- */

enum { VALUES = 30, RECEIVERS = 3 };

static AsthraChannel *in, *out;
static int fed;
static atomic_int receivers;
static long sum, received;

static gboolean feed(gpointer next) {
    int value = (*(int *)next)++;
    callbacks++;
    CHECK_EQ(asthra_channel_try_send(in, &value).status, ASTHRA_OK);
    if (++fed == 2 * VALUES) asthra_channel_close(in);
    return value + 1 < VALUES ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

static void *doubles(void *unused) {
    int value;
    while (asthra_channel_next(in, &value, sizeof value)) {
        value *= 2;
        CHECK_EQ(asthra_channel_send(out, &value).status, ASTHRA_OK);
    }
    if (atomic_fetch_sub(&receivers, 1) == 1) asthra_channel_close(out);
    return unused;
}

static void *doubles_on_main(void *unused) {
    doubles(unused);
    part_ends();
    return unused;
}

/* GLib calls it when the channel's descriptor is readable, so there is something to receive. */
static gboolean outlet_dispatch(GSource *source, GSourceFunc unused, gpointer unused_too) {
    int value;
    AsthraStatus got = (AsthraStatus)asthra_channel_try_receive(out, &value).status;
    (void)source, (void)unused, (void)unused_too;
    callbacks++;
    CHECK(got == ASTHRA_OK || got == ASTHRA_CLOSED);
    if (got == ASTHRA_OK) received++, sum += value;
    if (got == ASTHRA_CLOSED) part_ends();
    return got == ASTHRA_OK ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

static void pipeline(size_t workers, AsthraMainThread kind, int64_t budget_ns) {
    static GSourceFuncs calls = {.dispatch = outlet_dispatch};
    Host *h = host_begin(workers, kind, budget_ns);
    int idle = 0, ticks = 0;
    in = asthra_channel_create(sizeof(int), 2 * VALUES, "in");
    out = asthra_channel_create(sizeof(int), workers == 1 ? 0 : 3, "out");
    parts = 2;
    fed = 0;
    sum = received = 0;
    atomic_store(&receivers, RECEIVERS);
    asthra_task_detach(spawn_on_main(doubles_on_main, NULL));
    for (int i = 1; i < RECEIVERS; i++) asthra_task_detach(asthra_spawn(doubles, NULL));
    GSource *outlet = g_source_new(&calls, sizeof *outlet);
    g_source_add_unix_fd(outlet, asthra_channel_fd(out), G_IO_IN);
    g_source_attach(outlet, NULL);
    g_source_unref(outlet);
    g_timeout_add(1, feed, &ticks);
    g_idle_add(feed, &idle);
    g_main_loop_run(loop);
    CHECK_EQ(received, 2 * VALUES);
    CHECK_EQ(sum, 2 * VALUES * (VALUES - 1));
    CHECK_EQ(callbacks, 4 * VALUES + 1);
    asthra_channel_destroy(in);
    asthra_channel_destroy(out);
    host_end(h, 1 + 2 * VALUES + 1 + 2 * VALUES, 0);
}

TEST(glib, channels_carry_values_from_the_loop_and_back) {
    everywhere(pipeline);
}

/* ---- rest ---- */

static void *waits_for_ever(void *result) {
    *(AsthraResult *)result = asthra_sleep_ns(ASTHRA_SECONDS(1000));
    return NULL;
}

static gboolean quits(gpointer unused) {
    (void)unused;
    callbacks++;
    g_main_loop_quit(loop);
    return G_SOURCE_REMOVE;
}

static void rest(size_t workers, AsthraMainThread kind, int64_t budget_ns) {
    AsthraResult of_main = {0, 0, {0}}, of_others = of_main;
    Host *h = host_begin(workers, kind, budget_ns);
    for (int i = 0; i < 10; i++) CHECK(!g_main_context_iteration(NULL, FALSE));
    CHECK_EQ(h->prepares, 10);
    CHECK_EQ(h->dispatches, 0);
    h->prepares = 0;
    asthra_task_detach(spawn_on_main(waits_for_ever, &of_main));
    asthra_task_detach(asthra_spawn(waits_for_ever, &of_others));
    g_timeout_add(20, quits, NULL);
    g_main_loop_run(loop);
    CHECK_EQ(h->turns, 1);
    host_end(h, 1, 1); /* and shutdown cancels them */
    CHECK_EQ(of_main.status, ASTHRA_CANCELLED);
    CHECK_EQ(of_others.status, ASTHRA_CANCELLED);
}

TEST(glib, a_loop_without_work_rests_and_quits) {
    everywhere(rest);
}
