/* gdb - tasks in each state, for gdb.sh, which stops this program in house_ready. Alone, main is
 * the only worker and everything stands where it is said to stand. With an argument there are two
 * workers beside it, and a task that main runs in a poll. */
#include <poll.h>
#include <unistd.h>

#include "asthra_rt.h"

static AsthraChannel *empty, *full, *also_empty;
static AsthraMutex mutex;
static AsthraTaskHandle tasks[9];
static int received;

static AsthraResult house_good __attribute__((used)), house_bad __attribute__((used)); /* for gdb */
void house_ready(int count); /* where gdb stops */
__attribute__((noinline)) void house_ready(int count) {
    __asm__ volatile("" : : "r"(count) : "memory");
}

/* Its locals live across the wait, in as many of the registers that a call keeps as there are. */
static volatile int house_number;
static void *house_receives(void *arg) {
    int k1 = ++house_number, k2 = ++house_number, k3 = ++house_number, k4 = ++house_number;
    int k5 = ++house_number, k6 = ++house_number, k7 = ++house_number, k8 = ++house_number;
    int k9 = ++house_number, k10 = ++house_number, k11 = ++house_number, k12 = ++house_number;
    if (asthra_channel_receive(empty, &received).status) return arg;
    house_number = k1, house_number = k2, house_number = k3, house_number = k4;
    house_number = k5, house_number = k6, house_number = k7, house_number = k8;
    house_number = k9, house_number = k10, house_number = k11, house_number = k12;
    return NULL;
}
static volatile double house_reals[3] = {1.5, 3, 6};
static void *house_sends(void *arg) {
    double r1 = house_reals[0], r2 = house_reals[1], r3 = house_reals[2];
    int value = 4;
    if (asthra_channel_send(full, &value).status) return arg;
    house_reals[0] = r1, house_reals[1] = r2, house_reals[2] = r3;
    return NULL;
}
static void *house_selects(void *arg) {
    int value = 5;
    AsthraSelectCase cases[] = {asthra_select_receive(also_empty, &received),
                                asthra_select_send(full, &value)};
    return asthra_select(cases, 2, ASTHRA_FOREVER) < 0 ? arg : NULL;
}
static void *house_locks(void *arg) {
    return asthra_mutex_lock(&mutex).status ? arg : NULL;
}
static void *house_sleeps(void *arg) {
    return asthra_sleep_ns(ASTHRA_SECONDS(3600)).status ? arg : NULL;
}
static int pipe_ends[2]; /* nobody writes */
static void *house_reads(void *arg) {
    return asthra_wait_fd(pipe_ends[0], POLLIN, ASTHRA_FOREVER).status ? arg : NULL;
}
/* The child is called in place and parks there, with its parent below it. */
__attribute__((noinline)) static int house_deep(int depth, volatile int *sum) {
    *sum += depth;
    if (depth == 0) return asthra_channel_receive(also_empty, &received).status != 0;
    return house_deep(depth - 1, sum) + *sum % 2;
}
static void *house_child(void *arg) {
    volatile int sum = 0;
    return house_deep(3, &sum) ? arg : NULL;
}
static void *house_awaits(void *arg) {
    tasks[7] = asthra_spawn(house_child, arg);
    asthra_await_result(tasks[7], NULL);
    return arg;
}

static void until_waiting(int from, int to) {
    for (int i = from; i < to; i++)
        while (tasks[i].bits == 0 || asthra_task_state(tasks[i]) != ASTHRA_TASK_WAITING)
            asthra_yield();
}
static void *house_looks(void *arg) {
    until_waiting(0, 8);
    tasks[8] = asthra_spawn(house_sleeps, NULL); /* not started */
    house_ready(8);
    return arg;
}

static int house_spinning;
static void *house_spins(void *arg) {
    __atomic_store_n(&house_spinning, 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(&house_spinning, __ATOMIC_ACQUIRE)) {
    }
    return arg;
}
static void *house_is_polled(void *arg) {
    house_ready(3);
    return arg;
}
static void with_threads(void) {
    asthra_mutex_lock(&mutex);
    AsthraTaskHandle spinner = asthra_spawn(house_spins, NULL);
    tasks[0] = asthra_spawn(house_receives, NULL);
    while (!__atomic_load_n(&house_spinning, __ATOMIC_ACQUIRE)) {
    }
    until_waiting(0, 1);
    house_ready(2);
    __atomic_store_n(&house_spinning, 0, __ATOMIC_RELEASE);
    asthra_await(spinner);
    AsthraSpawnOptions bound = {.name = "polled", .affinity = ASTHRA_AFFINITY_MAIN};
    AsthraTaskHandle polled = asthra_spawn_with(&bound, house_is_polled, NULL);
    while (asthra_task_state(polled) < ASTHRA_TASK_COMPLETED) asthra_runtime_poll(ASTHRA_FOREVER);
    asthra_await(polled);
}

static void alone(void) {
    int values[] = {0, 1, -2, 3};
    asthra_channel_send(full, &values[0]);
    asthra_channel_receive(full, &received); /* the oldest is not in front */
    for (int i = 1; i < 4; i++) asthra_channel_send(full, &values[i]);
    asthra_mutex_lock(&mutex);
    tasks[0] = asthra_spawn(house_receives, NULL);
    tasks[1] = asthra_spawn(house_sends, NULL);
    tasks[2] = asthra_spawn(house_selects, NULL);
    tasks[3] = asthra_spawn(house_locks, NULL);
    tasks[4] = asthra_spawn(house_sleeps, NULL);
    tasks[5] = asthra_spawn(house_reads, NULL);
    tasks[6] = asthra_spawn(house_awaits, NULL);
    asthra_await(asthra_spawn(house_looks, NULL));
}

int main(int argc, char **argv) {
    AsthraRuntimeConfig config = asthra_runtime_config_default();
    (void)argv;
    config.worker_threads = argc > 1 ? 2 : 1;
    config.main_thread = argc > 1 ? ASTHRA_MAIN_HOSTS : ASTHRA_MAIN_HELPS;
    house_ready(0);
    if (pipe(pipe_ends) != 0 || !asthra_runtime_init(&config)) return 1;
    empty = asthra_channel_create(sizeof(int), 4, "jobs");
    also_empty = asthra_channel_create(24, 0, "events");
    full = asthra_channel_create(sizeof(int), 3, "results");
    house_good = asthra_result_ok((void *)42);
    house_bad = asthra_result_errorf(ASTHRA_LIMIT, "%d are too many", 7);
    if (argc > 1)
        with_threads();
    else
        alone();
    asthra_mutex_unlock(&mutex);
    asthra_runtime_shutdown(); /* cancels them */
    return 0;
}
