/* exceptions - C++ exceptions in tasks: each task has its own, also while a destructor waits amid the
 * unwinding of one, and one that nobody catches ends in std::terminate, not beyond the stack. */
#include "asthra_rt.h"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>

enum { TASKS = 8, ROUNDS = 10, DEPTH = 20 };

struct Counted {
    int *count;
    ~Counted() {
        if (++*count % 3 == 0) asthra_sleep_ns(1000);
    }
};

typedef void (*Dive)(int depth, int *unwound);
static Dive volatile dive_on; /* nobody sees through it */

static void dive(int depth, int *unwound) {
    Counted counted = {unwound};
    if (depth == 0) throw std::runtime_error("deep");
    dive_on(depth - 1, unwound);
}

struct Diver {
    int caught, unwound;
};

static void *catches(void *argument) {
    Diver *diver = static_cast<Diver *>(argument);
    for (int i = 0; i < ROUNDS; i++) {
        try {
            dive(DEPTH, &diver->unwound);
        } catch (const std::runtime_error &) {
            asthra_sleep_ns(1000); /* others throw meanwhile */
            try {
                throw;
            } catch (const std::exception &) {
                diver->caught++;
            }
        }
    }
    return argument;
}

static void *lets_one_out(void *unwound) {
    dive(3, static_cast<int *>(unwound));
    return unwound;
}

static void terminated() {
    std::_Exit(0);
}

int main() {
    static Diver divers[TASKS];
    AsthraTaskHandle tasks[TASKS];
    dive_on = dive;
    for (int i = 0; i < TASKS; i++) tasks[i] = asthra_spawn(catches, &divers[i]);
    for (int i = 0; i < TASKS; i++) {
        asthra_await(tasks[i]);
        if (divers[i].caught == ROUNDS && divers[i].unwound == ROUNDS * (DEPTH + 1)) continue;
        std::printf("caught %d, unwound %d\n", divers[i].caught, divers[i].unwound);
        return 1;
    }
    std::set_terminate(terminated);
    asthra_await(asthra_spawn(lets_one_out, &divers[0].unwound));
    return 2;
}
