/* fetch - pages from a server on loopback, at most one started each millisecond. Page 3 is never
 * answered and runs into its limit; neither are 8 to 11, cancelled once the others are there. */
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PAGES = 12, UNANSWERED = 3, WANTED = 8 };
ASTHRA_CHANNEL_TYPE(Tickets, char);
typedef struct Page { /* of a fetch that was cancelled before it began: zeroes */
    bool is_over, is_late;
    int bytes;
} Page;

ASTHRA_TASK_VOID(answer, (int, connection)) {
    const char text[100 * PAGES] = "";
    int page = UNANSWERED;
    asthra_wait_fd(connection, POLLIN, ASTHRA_FOREVER);
    if (read(connection, &page, sizeof page) < 0 || page == UNANSWERED || page >= WANTED)
        asthra_wait_fd(connection, POLLIN, ASTHRA_FOREVER); /* until the other side goes */
    else if (write(connection, text, (size_t)page * 100) < 0)
        perror("write");
    close(connection);
}

ASTHRA_TASK_VOID(serve, (int, door)) {
    while (!asthra_wait_fd(door, POLLIN, ASTHRA_FOREVER).status) {
        int connection = accept(door, NULL, NULL);
        if (connection >= 0) asthra_task_detach(answer_go(connection).task);
    }
}

ASTHRA_TASK_VOID(sell, (Tickets, tickets)) {
    while (!Tickets_send(tickets, 't').status) asthra_sleep_ns(ASTHRA_MS(1));
}

ASTHRA_TASK(Page, fetch, (struct sockaddr_in, server), (Tickets, tickets), (int, page)) {
    const int64_t limit_ns = page == UNANSWERED ? ASTHRA_MS(20) : ASTHRA_FOREVER;
    char part[256];
    Page p = {false, false, 0};
    if (!Tickets_receive(tickets, part)) return p;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool is_asked = connect(fd, (struct sockaddr *)&server, sizeof server) == 0 &&
                    write(fd, &page, sizeof page) == sizeof page;
    for (ssize_t got = 1; is_asked && got > 0; p.bytes += (int)got) {
        AsthraResult r = asthra_wait_fd(fd, POLLIN, limit_ns);
        got = r.status ? 0 : read(fd, part, sizeof part);
        p.is_over = r.status != ASTHRA_CANCELLED;
        p.is_late = r.status == ASTHRA_TIMED_OUT;
    }
    close(fd);
    return p;
}

int main(void) {
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t length = sizeof at;
    int door = socket(AF_INET, SOCK_STREAM, 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(door, (struct sockaddr *)&at, length) || listen(door, PAGES) ||
        getsockname(door, (struct sockaddr *)&at, &length))
        return 1;
    Tickets tickets = Tickets_create(0);
    asthra_task_detach(serve_go(door).task);
    asthra_task_detach(sell_go(tickets).task);
    fetch_task fetches[PAGES];
    for (int i = 0; i < PAGES; i++) fetches[i] = fetch_go(at, tickets, i);
    for (int i = 0; i < PAGES; i++) {
        for (int rest = i; i == WANTED && rest < PAGES; rest++) /* that will do */
            asthra_task_cancel(fetches[rest].task);
        Page p = fetch_await(fetches[i]);
        printf("page %d: %d bytes%s%s\n", i, p.bytes, p.is_over ? "" : ", cancelled",
               p.is_late ? ", timed out" : "");
    }
    asthra_runtime_shutdown(); /* cancels those who still wait: server, seller, silent answers */
    Tickets_destroy(tickets);
}
