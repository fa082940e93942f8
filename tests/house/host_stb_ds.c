/* host_stb_ds - a program that uses stb_ds itself, where HOST_BEFORE, _AFTER, _AROUND or _ABSENT
 * says, with the bodies of asthra_rt in the same unit. Both must work, each with its own stb_ds. */
#if defined HOST_BEFORE
#define STB_DS_IMPLEMENTATION
#include HOST_STB_DS
#elif defined HOST_AROUND
#include HOST_STB_DS
#endif

#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"

#if defined HOST_AFTER || defined HOST_AROUND
#define STB_DS_IMPLEMENTATION
#include HOST_STB_DS
#endif

static int host_table(void) {
#if !defined HOST_ABSENT
    struct {
        int key, value;
    } *map = NULL;
    struct {
        char *key;
        int value;
    } *names = NULL;
    int *numbers = NULL, sum = 0;
    for (int i = 0; i < 1000; i++) hmput(map, i, 2 * i);
    for (int i = 0; i < 1000; i++) arrput(numbers, hmget(map, i));
    while (arrlen(numbers) > 0) sum += arrpop(numbers);
    sh_new_arena(names);
    shput(names, "a", 1);
    sum += shget(names, "a");
    hmfree(map);
    shfree(names);
    arrfree(numbers);
    return sum == 999000 + 1;
#else
    return 1;
#endif
}

static int our_table(void) {
    Asthra__Table t;
    asthra__table_create(&t, ASTHRA__TABLE_TEXTS);
    char name[16];
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "%d", i);
        *asthra__table_slot_text(&t, name) += (uint64_t)i;
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < asthra__table_count(&t); i++) sum += asthra__table_at(&t, i)->value;
    asthra__table_destroy(&t);
    return sum == 499500;
}

static void *host_task(void *value) {
    return value;
}

int main(void) {
    int here = 0;
    if (!host_table()) return 1;
    if (!our_table()) return 2;
#if ASTHRA_HAS_TASK
    if (asthra_await(asthra_spawn(host_task, &here)) != &here) return 3;
#else
    if (host_task(&here) != &here) return 3;
#endif
    return host_table() ? 0 : 4;
}
