/* features - a program that uses every part that the build holds: for each switch and each dialect,
 * and for the objects of the workshop (HOUSE_LINKED: the bodies come from elsewhere, and with
 * HOUSE_ELSEWHERE so does house_times). It ends with 0 if all is well, else with the line that saw
 * what is wrong. */
#ifndef HOUSE_LINKED
#define ASTHRA_RT_IMPLEMENTATION
#endif
#include "asthra_rt.h"

#define HOUSE_EXPECT(x)                  \
    do {                                 \
        if (!(x)) return __LINE__ & 127; \
    } while (0)

#if ASTHRA_HAS_TASK
static void *house_same(void *value) {
    return value;
}
/* As a header has it; the body is in one file of a program. */
ASTHRA_TASK_DECLARE(long, house_times, (long, a), (long, b));
#ifndef HOUSE_ELSEWHERE
long house_times(long a, long b) {
    return a * b;
}
#endif
static int house_task(void) {
    int here = 0;
    HOUSE_EXPECT(house_times_await(house_times_go(6, 7)) == 42);
    HOUSE_EXPECT(asthra_await(asthra_spawn(house_same, &here)) == &here);
    HOUSE_EXPECT(asthra_sleep_ns(1000).status == ASTHRA_OK);
    return 0;
}
#endif

#if ASTHRA_HAS_CHANNEL
ASTHRA_CHANNEL_TYPE(HouseInts, int);
static void *house_send(void *channel) {
    for (int i = 1; i <= 4; i++) asthra_channel_send((AsthraChannel *)channel, &i);
    asthra_channel_close((AsthraChannel *)channel);
    return NULL;
}
static int house_channel(void) {
    AsthraChannel *c = asthra_channel_create(sizeof(int), 2, "house");
    HOUSE_EXPECT(c != NULL);
    int value = 0, sum = 0;
    HOUSE_EXPECT(asthra_channel_send(c, &value).status == ASTHRA_OK); /* seen by the compiler */
    AsthraTaskHandle sender = asthra_spawn(house_send, c);
    while (asthra_channel_next(c, &value, sizeof value)) sum += value;
    asthra_await(sender);
    asthra_channel_destroy(c);
    HOUSE_EXPECT(sum == 10);
    HouseInts ints = HouseInts_create(1);
    HOUSE_EXPECT(HouseInts_send(ints, 7).status == ASTHRA_OK);
    HOUSE_EXPECT(HouseInts_receive(ints, &value) && value == 7);
    HouseInts_destroy(ints);
    return 0;
}
#endif

#if ASTHRA_HAS_SELECT
static int house_select(void) {
    AsthraChannel *c = asthra_channel_create(sizeof(int), 1, "house");
    AsthraSelectBuilder *b = asthra_select_builder_create();
    int out = 0, in = 7;
    HOUSE_EXPECT(c && b);
    asthra_select_builder_add_receive(b, c, &out);
    asthra_select_builder_set_timeout(b, 0);
    HOUSE_EXPECT(asthra_select_execute(b) < 0);
    HOUSE_EXPECT(asthra_channel_try_send(c, &in).status == ASTHRA_OK);
    HOUSE_EXPECT(asthra_select_execute(b) == 0 && out == 7);
    asthra_select_builder_destroy(b);
    out = 0;
    ASTHRA_SELECT(s) {
        if (asthra_case_receive(&s, c, NULL))
            out = 1;
        else if (asthra_case_send(&s, c, &in))
            out = 2;
    }
    HOUSE_EXPECT(out == 2);
    HouseInts ints;
    ints.raw = c;
    ASTHRA_SELECT(s) {
        if (HouseInts_case_receive(&s, ints, &out)) HOUSE_EXPECT(s.ok && out == 7);
    }
    asthra_channel_destroy(c);
    return 0;
}
#endif

#if ASTHRA_HAS_MUTEX
static int house_mutex(void) {
    AsthraMutex m;
    asthra_mutex_init(&m);
    HOUSE_EXPECT(asthra_mutex_lock(&m).status == ASTHRA_OK);
    asthra_mutex_unlock(&m);
    asthra_mutex_destroy(&m);
    return 0;
}
#endif

#if ASTHRA_HAS_EXTERNAL
static int house_external(void) {
    AsthraExternalCallOptions o = {"house", 0, sizeof(int)};
    int here = 0;
    HOUSE_EXPECT(asthra_external_call(house_same, &here, NULL).value.pointer == &here);
    HOUSE_EXPECT(asthra_external_call(house_same, &here, &o).status == ASTHRA_OK);
    HOUSE_EXPECT(asthra_external_call(NULL, &here, NULL).status == ASTHRA_FAILED);
#if ASTHRA_HAS_THREADS
    HOUSE_EXPECT(asthra_register_external_thread(pthread_self(), "house"));
    HOUSE_EXPECT(asthra_external_thread_list(NULL, 0) == 1);
    HOUSE_EXPECT(asthra_unregister_external_thread(pthread_self()));
#endif
    return 0;
}
#endif

#if ASTHRA_HAS_FD
static int house_fd(void) {
    HOUSE_EXPECT(asthra_wait_fd(-1, 1, 0).status == ASTHRA_INVALID);
    return 0;
}
#endif

#if ASTHRA_HAS_SCOPE
static AsthraResult house_child(void *number) {
    if (*(int *)number == 3) return asthra_result_err("three");
    return asthra_result_ok(NULL);
}
static int house_scope(void) {
    AsthraScope s;
    ASTHRA_SCOPE(s) {
        for (int i = 0; i < 5; i++) asthra_scope_spawn(&s, house_child, &i, sizeof i);
    }
    HOUSE_EXPECT(s.result.status == ASTHRA_FAILED);
    asthra_scope_begin(&s);
    HOUSE_EXPECT(asthra_result_is_ok(asthra_scope_end(&s)));
    return 0;
}
#endif

#if ASTHRA_HAS_TYPE
typedef struct HouseNode {
    struct HouseNode *next;
} HouseNode;
ASTHRA_TYPE_POINTERS(HouseNode, ASTHRA__OFFSET(HouseNode, next));
static int house_type(void) {
    HOUSE_EXPECT(HouseNode_type.pointer_count == 1 && asthra_type_i32.size == 4);
    return 0;
}
#endif

#if ASTHRA_HAS_PINNED
static int house_pinned(void) {
    char *block = (char *)asthra_pinned_alloc(100);
    HOUSE_EXPECT(block != NULL && asthra_pin_memory(block + 1, 10));
    HOUSE_EXPECT(asthra_pin_count(block + 1) == 1 && asthra_pin_list(NULL, 0) == 1);
    HOUSE_EXPECT(asthra_unpin_memory(block + 1) && !asthra_unpin_memory(block + 1));
    asthra_pinned_free(block);
    return 0;
}
#endif

#if ASTHRA_HAS_ARENA
static int house_arena(void) {
    static char memory[256 + 16];
    AsthraArena a;
    asthra_arena_init(&a, memory, sizeof memory);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 8; i++) HOUSE_EXPECT(asthra_arena_alloc(&a, 20) != NULL);
        HOUSE_EXPECT(asthra_arena_alloc(&a, 17) == NULL);
        asthra_arena_reset(&a);
    }
    asthra_arena_destroy(&a);
    asthra_arena_init_growing(&a, 0, NULL);
    HOUSE_EXPECT((asthra_arena_alloc(&a, 100) != NULL) == ASTHRA_HAS_CORE);
    asthra_arena_destroy(&a);
    return 0;
}
#endif

#if ASTHRA_HAS_POOL
static int house_pool(void) {
    AsthraPoolConfig config = {"house", 0, 65536, ASTHRA_POOL_BEST_FIT, true};
    AsthraPool *p = asthra_pool_create(&config);
    HOUSE_EXPECT(p != NULL);
    void *block = asthra_pool_alloc(p, 32768);
    AsthraPoolHandle h = asthra_pool_handle_alloc(p, 16384);
    HOUSE_EXPECT(block && asthra_pool_handle_get(p, h));
    asthra_pool_free(p, block);
    HOUSE_EXPECT(asthra_pool_defragment(p) == 16384);
    asthra_pool_handle_free(p, h);
    asthra_pool_destroy(p);
    return 0;
}
#endif

#if ASTHRA_HAS_LIBRARY
/* A static program has no loader, and says so. */
static int house_library(void) {
    AsthraFFILibrary *self = NULL;
    void *found = NULL;
    AsthraResult r = asthra_ffi_library_open(&self, NULL);
    if (r.status != ASTHRA_OK) {
        HOUSE_EXPECT(self == NULL && asthra_result_message(r)[0] == 'c');
        return 0;
    }
    HOUSE_EXPECT(asthra_ffi_library_symbol(self, "abs", &found).status == ASTHRA_OK && found);
    HOUSE_EXPECT(asthra_ffi_library_symbol(self, "house", &found).status == ASTHRA_FAILED);
    HOUSE_EXPECT(asthra_ffi_library_close(self).status == ASTHRA_OK);
    return 0;
}
#endif

#if ASTHRA_HAS_MODULE
static int house_inits, house_finis;
static AsthraResult house_init(const AsthraModule *m) {
    house_inits++;
    return asthra_result_ok((void *)(uintptr_t)m);
}
static void house_fini(const AsthraModule *m) {
    house_finis += m->fini == house_fini;
}
static const AsthraModule house_base = {"base", "1", NULL, NULL, house_init, house_fini};
static const AsthraModule *const house_needs[] = {&house_base, NULL};
static const AsthraModule house_roof = {"roof", "1", NULL, house_needs, house_init, house_fini};
static int house_module(void) {
    for (int i = 0; i < 2; i++) HOUSE_EXPECT(asthra_module_register(&house_roof).status == 0);
    HOUSE_EXPECT(house_inits == 2 && house_finis == 0);
    return 0;
}
#endif

#if ASTHRA_HAS_FFI
static int house_sum(int a, int b) {
    return a + b;
}
static int house_ffi(void) {
    AsthraFFICall call;
    int a = 40, b = 2, sum = 0;
    void *args[] = {&a, &b};
    HOUSE_EXPECT(asthra_ffi_signature(&call, ASTHRA_FN(house_sum), "i(ii)").status == ASTHRA_OK);
    ASTHRA_FFI_INVOKE(&call, &sum, &a, &b);
    HOUSE_EXPECT(sum == 42 && asthra_ffi_call(&call, args).value.integer == 42);
    HOUSE_EXPECT(asthra_ffi_call_safe(&call, args).value.integer == 42);
    HOUSE_EXPECT(asthra_ffi_reclaim(&call).status == ASTHRA_INVALID);
    asthra_ffi_release(&call);
    return 0;
}
#endif

#if ASTHRA_HAS_CLOSURE
static void house_difference(const AsthraFFICall *sig, void *ret, void **args, void *user) {
    *(int *)ret = *(int *)args[0] - *(int *)args[1] + *(int *)user + (int)sig->param_count - 2;
}
static int house_closure(void) {
    int base = 10;
    AsthraFFIClosure *c = asthra_ffi_closure_bind_signature("i(ii)", house_difference, &base);
    HOUSE_EXPECT(c != NULL);
    int (*f)(int, int) = ASTHRA_FN_AS(int (*)(int, int), asthra_ffi_closure_function(c));
    HOUSE_EXPECT(f(5, 3) == 12);
    asthra_ffi_closure_destroy(c);
    return 0;
}
#endif

#if ASTHRA_HAS_CORE
#if ASTHRA_HAS_STACK
static int house_stack(void) {
    const char *first = (const char *)asthra_stack_alloc(10);
    HOUSE_EXPECT(first != NULL);
    ASTHRA_STACK_SCOPE(outer) {
        ASTHRA_STACK_SCOPE(inner) {
            HOUSE_EXPECT(asthra_stack_alloc(100000) != NULL);
        }
        HOUSE_EXPECT((const char *)asthra_stack_alloc(10) == first + 32);
    }
    return 0;
}
#endif

static int house_result(void) {
    int value = 0;
    HOUSE_EXPECT(asthra_result_value(asthra_result_ok(&value)) == &value);
    HOUSE_EXPECT(asthra_result_errorf(ASTHRA_LIMIT, "%d of %s", 3, "x").status == ASTHRA_LIMIT);
    HOUSE_EXPECT(asthra_result_message(asthra_result_err("why"))[0] == 'w');
    return 0;
}
#endif

int main(void) {
    int failed = 0;
#if ASTHRA_HAS_CORE
    failed = house_result();
    if (!failed && !asthra_runtime_init(NULL)) failed = 1;
#endif
#if ASTHRA_HAS_TASK
    if (!failed) failed = house_task();
#endif
#if ASTHRA_HAS_CHANNEL
    if (!failed) failed = house_channel();
#endif
#if ASTHRA_HAS_SELECT
    if (!failed) failed = house_select();
#endif
#if ASTHRA_HAS_MUTEX
    if (!failed) failed = house_mutex();
#endif
#if ASTHRA_HAS_EXTERNAL
    if (!failed) failed = house_external();
#endif
#if ASTHRA_HAS_FD
    if (!failed) failed = house_fd();
#endif
#if ASTHRA_HAS_SCOPE
    if (!failed) failed = house_scope();
#endif
#if ASTHRA_HAS_TYPE
    if (!failed) failed = house_type();
#endif
#if ASTHRA_HAS_PINNED
    if (!failed) failed = house_pinned();
#endif
#if ASTHRA_HAS_STACK
    if (!failed) failed = house_stack();
#endif
#if ASTHRA_HAS_ARENA
    if (!failed) failed = house_arena();
#endif
#if ASTHRA_HAS_POOL
    if (!failed) failed = house_pool();
#endif
#if ASTHRA_HAS_LIBRARY
    if (!failed) failed = house_library();
#endif
#if ASTHRA_HAS_MODULE
    if (!failed) failed = house_module();
#endif
#if ASTHRA_HAS_FFI
    if (!failed) failed = house_ffi();
#endif
#if ASTHRA_HAS_CLOSURE
    if (!failed) failed = house_closure();
#endif
#if ASTHRA_HAS_CORE
    asthra_runtime_shutdown();
#endif
#if ASTHRA_HAS_MODULE
    if (!failed && house_finis != 2) failed = __LINE__ & 127;
#endif
    return failed;
}
