/* host - a program whose main loop is its own: poll(2) over its events and the runtime's.
 *
 * Events are numbers that a thread of the program's types into a pipe. Tasks find their smallest
 * factors on the other threads; what draws is bound to main, so the table needs no lock. */
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

enum { ROWS = 12 };

static struct { uint64_t number, factor; } table[ROWS]; /* main's */
static int rows_drawn, events[2];

typedef struct Drawing {
    int row;
    uint64_t number, factor;
} Drawing;

static void *draw(void *args) { /* on main, inside asthra_runtime_poll */
    Drawing *d = args;
    table[d->row].number = d->number;
    table[d->row].factor = d->factor;
    rows_drawn++;
    return NULL;
}

ASTHRA_TASK_VOID(factorize, (int, row), (uint64_t, number)) {
    const AsthraSpawnOptions on_main = {.name = "draw", .affinity = ASTHRA_AFFINITY_MAIN};
    uint64_t factor = 2;
    while (factor * factor <= number && number % factor) factor++;
    Drawing d = {row, number, factor * factor <= number ? factor : number};
    asthra_await(asthra_spawn_with(&on_main, draw, &d)); /* d is ours until that has ended */
}

static void *types(void *unused) {
    const uint64_t primes[ROWS] = {999961, 999959, 999953, 2,      999931, 999917,
                                   3,      999907, 999883, 999863, 999853, 999809};
    for (uint64_t i = 0; i < ROWS; i++) {
        uint64_t number = primes[i] * 999983;
        if (write(events[1], &number, sizeof number) != sizeof number) return unused;
    }
    return NULL;
}

int main(void) {
    AsthraRuntimeConfig config = asthra_runtime_config_default();
    config.main_thread = ASTHRA_MAIN_HOSTS;
    pthread_t user;
    if (!asthra_runtime_init(&config) || pipe(events) || pthread_create(&user, NULL, types, NULL))
        return 1;
    struct pollfd calls[2] = {{.fd = events[0], .events = POLLIN},
                              {.fd = asthra_runtime_wake_fd(), .events = POLLIN}};
    for (int rows = 0; rows_drawn < ROWS;) {
        if (poll(calls, 2, -1) < 0) return 1; /* a window system's turn would be here */
        uint64_t number;
        if (calls[0].revents && read(events[0], &number, sizeof number) == sizeof number)
            asthra_task_detach(factorize_go(rows++, number).task);
        if (calls[1].revents) asthra_runtime_poll(ASTHRA_MS(4)); /* a quarter of a frame */
    }
    for (int i = 0; i < ROWS; i++)
        printf("%llu: %llu\n", (unsigned long long)table[i].number,
               (unsigned long long)table[i].factor);
    pthread_join(user, NULL);
    asthra_runtime_shutdown();
    return 0;
}
