/* pool - a worker pool inside a program of plain threads that was there before.
 *
 * Its threads know nothing of tasks but two calls: go, and await, which blocks the calling thread
 * alone. Work that waits for other work costs no thread, so a digest may be split as it likes. */
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"
#include <pthread.h>
#include <stdio.h>

enum { THREADS = 4, REQUESTS = 8, BLOCK = 1 << 16, LEAF = 1 << 12 };

/* A tree of digests: halves are digested as tasks of their own, then put together. */
ASTHRA_TASK(uint64_t, digest, (const unsigned char *, data), (size_t, length)) {
    if (length > LEAF) {
        digest_task left = digest_go(data, length / 2);
        uint64_t right = digest(data + length / 2, length - length / 2);
        return digest_await(left) * 31 + right;
    }
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (size_t i = 0; i < length; i++) hash = (hash ^ data[i]) * 1099511628211u;
    return hash;
}

typedef struct Client { /* a thread of the program, with its requests */
    pthread_t thread;
    unsigned number;
    uint64_t answers[REQUESTS];
    unsigned char data[REQUESTS][BLOCK];
} Client;

static void *serve_client(void *args) {
    Client *c = args;
    digest_task under_way[REQUESTS];
    for (unsigned i = 0; i < REQUESTS; i++) {
        for (size_t at = 0; at < BLOCK; at++)
            c->data[i][at] = (unsigned char)(at * (c->number + 1) + i);
        under_way[i] = digest_go(c->data[i], BLOCK);
    }
    for (unsigned i = 0; i < REQUESTS; i++) c->answers[i] = digest_await(under_way[i]);
    return NULL;
}

int main(void) {
    static Client clients[THREADS];
    AsthraRuntimeConfig config = asthra_runtime_config_default();
    config.main_thread = ASTHRA_MAIN_HOSTS; /* the pool has threads of its own, one for each core */
    if (!asthra_runtime_init(&config)) return 1;
    for (unsigned i = 0; i < THREADS; i++) {
        clients[i].number = i;
        if (pthread_create(&clients[i].thread, NULL, serve_client, &clients[i])) return 1;
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(clients[i].thread, NULL);
        printf("client %u:", i);
        for (int r = 0; r < REQUESTS; r++) printf(" %04x", (unsigned)(clients[i].answers[r] >> 48));
        printf("\n");
    }
    asthra_runtime_shutdown();
    return 0;
}
