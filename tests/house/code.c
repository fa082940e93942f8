/* What code.sh looks at in the generated code of a program. */
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"

/* Stands for what may go on in another thread: the compiler cannot see through it. */
ASTHRA__NOINLINE static void house_switch(void) {
    __asm__ volatile("" ::: "memory");
}

bool house_moved(void);
ASTHRA__NOINLINE bool house_moved(void) {
    const Asthra__Thread *before = asthra__thread();
    house_switch();
    return before != asthra__thread();
}

bool house_moved_if_attached(void);
ASTHRA__NOINLINE bool house_moved_if_attached(void) {
    const Asthra__Thread *before = asthra__thread_if_attached();
    house_switch();
    return before != asthra__thread_if_attached();
}

void house_safepoint(void); /* in a file of its own, as a user's is */

int main(void) {
    house_safepoint();
    return house_moved() || house_moved_if_attached();
}
