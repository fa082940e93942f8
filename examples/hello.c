/* hello - tasks send into two channels; main takes what is ready and waits 5 s at the most. */
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"
#include <stdio.h>

typedef struct Powers {
    int n;
    AsthraChannel *squares, *cubes;
} Powers;

static void *send_powers(void *arg) {
    Powers *p = arg;
    int square = p->n * p->n, cube = square * p->n;
    asthra_channel_send(p->squares, &square); /* parks the task until main takes it */
    asthra_channel_send(p->cubes, &cube);
    return NULL;
}

int main(void) {
    int square = 0, cube = 0, squares = 0, cubes = 0;
    Powers p = {0, asthra_channel_create(sizeof(int), 0, "squares"),
                asthra_channel_create(sizeof(int), 0, "cubes")};
    for (p.n = 1; p.n <= 10; p.n++) {
        asthra_task_detach(asthra_spawn_copy(send_powers, &p, sizeof p)); /* each has its copy */
    }
    for (int left = 20; left > 0; left--) {
        AsthraSelectCase cases[] = {asthra_select_receive(p.squares, &square),
                                    asthra_select_receive(p.cubes, &cube)};
        int chosen = asthra_select(cases, 2, ASTHRA_SECONDS(5));
        if (chosen == ASTHRA_SELECT_TIMEOUT) return 1;
        squares += chosen == 0 ? square : 0;
        cubes += chosen == 1 ? cube : 0;
    }
    printf("hello: the squares of 1 to 10 make %d, the cubes %d\n", squares, cubes);
    asthra_channel_destroy(p.squares);
    asthra_channel_destroy(p.cubes);
    asthra_runtime_shutdown();
    return 0;
}
