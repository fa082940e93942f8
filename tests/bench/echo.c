/* echo - CPU of a server for each request over loopback, ours beside a loop over epoll.
 *
 *     echo echo W ours, echo echo 1 epoll     serves BENCH_CONNECTIONS until the client is through;
 *                                             prints the server's CPU for a request, microseconds
 *     echo client PORT                        the other side, a process of its own, of Go's too
 *
 * Each connection has one request under way: 64 bytes out, the same 64 back.
 */
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"
#include "bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { REQUEST = 64 };

static void check(int claim, const char *what) {
    if (claim) return;
    perror(what);
    exit(1);
}

/* ---- the client ---- */

static int connect_to(int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    check(fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0, "connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void ask(int fd) {
    static const char request[REQUEST] = "echo";
    check(write(fd, request, sizeof request) == REQUEST, "write");
}

static int client(int port) {
    int set = epoll_create1(0);
    long asked = 0, answered = 0;
    for (int i = 0; i < BENCH_CONNECTIONS; i++, asked++) {
        int fd = connect_to(port);
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        check(epoll_ctl(set, EPOLL_CTL_ADD, fd, &e) == 0, "epoll_ctl");
        ask(fd);
    }
    while (answered < BENCH_REQUESTS) {
        struct epoll_event ready[BENCH_CONNECTIONS];
        int count = epoll_wait(set, ready, BENCH_CONNECTIONS, -1);
        for (int i = 0; i < count; i++) {
            char answer[REQUEST];
            check(read(ready[i].data.fd, answer, sizeof answer) == REQUEST, "read");
            answered++;
            if (asked < BENCH_REQUESTS) asked++, ask(ready[i].data.fd);
        }
    }
    return 0;
}

/* ---- a server: listens, starts its client, takes the connections ---- */

static int connections[BENCH_CONNECTIONS];
static pid_t the_client;

static void accept_all(const char *program) {
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t length = sizeof at;
    char port[16];
    int one = 1, door = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    check(door >= 0 && bind(door, (struct sockaddr *)&at, sizeof at) == 0, "bind");
    check(listen(door, BENCH_CONNECTIONS) == 0, "listen");
    check(getsockname(door, (struct sockaddr *)&at, &length) == 0, "getsockname");
    snprintf(port, sizeof port, "%d", ntohs(at.sin_port));
    the_client = fork();
    if (the_client == 0) {
        execl(program, program, "client", port, (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < BENCH_CONNECTIONS; i++) {
        connections[i] = accept4(door, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        check(connections[i] >= 0, "accept");
        setsockopt(connections[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    close(door);
}

/* False: the client has gone, or there is nothing to read yet and *again is set. */
static int answer(int fd, int *again) {
    char request[REQUEST];
    ssize_t got = read(fd, request, sizeof request);
    *again = got < 0 && errno == EAGAIN;
    return got > 0 && write(fd, request, (size_t)got) == got;
}

static void *serve(void *connection) {
    int fd = (int)(intptr_t)connection, again;
    do
        if (asthra_wait_fd(fd, POLLIN, ASTHRA_FOREVER).status) break;
    while (answer(fd, &again) || again);
    close(fd);
    return NULL;
}

static void serve_with_tasks(size_t workers) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    AsthraTaskHandle tasks[BENCH_CONNECTIONS];
    c.worker_threads = workers;
    check(asthra_runtime_init(&c), "asthra_runtime_init");
    for (int i = 0; i < BENCH_CONNECTIONS; i++)
        tasks[i] = asthra_spawn(serve, (void *)(intptr_t)connections[i]);
    for (int i = 0; i < BENCH_CONNECTIONS; i++) asthra_await(tasks[i]);
    asthra_runtime_shutdown();
}

static void serve_with_epoll(void) {
    int set = epoll_create1(EPOLL_CLOEXEC), open = BENCH_CONNECTIONS;
    for (int i = 0; i < BENCH_CONNECTIONS; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.fd = connections[i]};
        check(epoll_ctl(set, EPOLL_CTL_ADD, connections[i], &e) == 0, "epoll_ctl");
    }
    while (open > 0) {
        struct epoll_event ready[BENCH_CONNECTIONS];
        int count = epoll_wait(set, ready, BENCH_CONNECTIONS, -1), again;
        for (int i = 0; i < count; i++) {
            if (answer(ready[i].data.fd, &again) || again) continue;
            close(ready[i].data.fd);
            open--;
        }
    }
}

int main(int count, char **words) {
    int status, number = count > 2 ? atoi(words[2]) : 1;
    if (count == 3 && strcmp(words[1], "client") == 0) return client(number);
    if (count != 4 || strcmp(words[1], "echo") != 0) return bench_unknown("echo");
    accept_all(words[0]);
    double before = bench_cpu();
    if (strcmp(words[3], "ours") == 0)
        serve_with_tasks((size_t)number);
    else
        serve_with_epoll();
    double used = bench_cpu() - before;
    check(waitpid(the_client, &status, 0) == the_client, "waitpid");
    bench_require(status == 0, "the client failed");
    bench_print(used * 1e6 / BENCH_REQUESTS);
    return 0;
}
