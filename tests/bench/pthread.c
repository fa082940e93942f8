/* pthread - the items that plain threads can do.   usage: pthread ITEM WORKERS
 *
 * The kernel spreads threads over the cores, so this peer stands beside two workers only.
 */
#include "bench.h"
#include <pthread.h>

enum { ROUND_TRIPS = 50000 }; /* a tenth of the others': each hop is a futex wake */

/* An unbuffered channel of one word: a send returns once its value was taken. */
typedef struct Channel {
    pthread_mutex_t lock;
    pthread_cond_t filled, taken;
    int full;
    uint64_t value;
} Channel;

static Channel there, back;
static pthread_mutex_t shared_lock = PTHREAD_MUTEX_INITIALIZER;
static long shared_count;

static void channel_init(Channel *c) {
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->filled, NULL);
    pthread_cond_init(&c->taken, NULL);
    c->full = 0;
}

static void channel_send(Channel *c, uint64_t value) {
    pthread_mutex_lock(&c->lock);
    c->value = value;
    c->full = 1;
    pthread_cond_signal(&c->filled);
    while (c->full) pthread_cond_wait(&c->taken, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

static uint64_t channel_receive(Channel *c) {
    pthread_mutex_lock(&c->lock);
    while (!c->full) pthread_cond_wait(&c->filled, &c->lock);
    uint64_t value = c->value;
    c->full = 0;
    pthread_cond_signal(&c->taken);
    pthread_mutex_unlock(&c->lock);
    return value;
}

static void *echo(void *unused) {
    (void)unused;
    for (long i = 0; i < ROUND_TRIPS; i++) channel_send(&back, channel_receive(&there));
    return NULL;
}

static void measure_pingpong(void) {
    pthread_t other;
    channel_init(&there);
    channel_init(&back);
    pthread_create(&other, NULL, echo, NULL);
    double start = bench_now();
    uint64_t sum = 0;
    for (long i = 0; i < ROUND_TRIPS; i++) {
        channel_send(&there, 1);
        sum += channel_receive(&back);
    }
    bench_print_ns(start, 2.0 * ROUND_TRIPS);
    pthread_join(other, NULL);
    bench_require(sum == ROUND_TRIPS, "pingpong");
}

static void *lock_often(void *unused) {
    (void)unused;
    for (long i = 0; i < BENCH_LOCKS; i++) {
        pthread_mutex_lock(&shared_lock);
        shared_count++;
        pthread_mutex_unlock(&shared_lock);
    }
    return NULL;
}

static void measure_mutex(void) {
    pthread_t threads[BENCH_MUTEX_TASKS];
    double start = bench_now();
    for (int i = 0; i < BENCH_MUTEX_TASKS; i++) {
        pthread_create(&threads[i], NULL, lock_often, NULL);
    }
    for (int i = 0; i < BENCH_MUTEX_TASKS; i++) pthread_join(threads[i], NULL);
    bench_print_ns(start, (double)BENCH_LOCKS * BENCH_MUTEX_TASKS);
    bench_require(shared_count == (long)BENCH_LOCKS * BENCH_MUTEX_TASKS, "mutex");
}

int main(int argc, char **argv) {
    const char *item = argc > 1 ? argv[1] : "";
    if (!strcmp(item, "pingpong"))
        measure_pingpong();
    else if (!strcmp(item, "mutex"))
        measure_mutex();
    else
        return bench_unknown(item);
    return 0;
}
