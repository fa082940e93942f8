/* fiber - stacks, and moving between them.                                 [fiber] body
 *
 * Stacks are mapped in slabs: one mapping for up to 64 of them, so that a million stacks stay far
 * below the system's limit of mappings, each with a guard page at its low end and its record at its
 * high end, where the first frames make the page resident anyway. A parked task that uses little
 * costs one page.
 *
 *     low address                                                         high address
 *     | guard | usable stack, grows down <------------------------- | Asthra__Fiber |
 *
 * The first slab is small and each next one twice as large, so that a program with three tasks does
 * not pay for sixty-four. A stack of another size than the default is a slab of its own, and slabs
 * of large stacks have fewer where addresses are few.
 *
 * Invariants
 *   - Slab records are never freed before teardown, only reused: the fault handler walks their list
 *     without a lock.
 *   - An idle fiber stands in its entry function with nothing of a task above it; whoever takes it
 *     switches to it as it is.
 *   - Where pages could not be guarded, a canary at the low end is checked at each departure. The
 *     overflow is then found late, but it is found.
 *   - With ThreadSanitizer every fiber is fresh and is unmapped when it ends: the tool keeps shadow
 *     for addresses, and a stack that served two tasks would mix their histories.
 */
#include "fiber_internal.h"

#if ASTHRA_HAS_TASK

#include <string.h>

enum { ASTHRA__SLAB_FIRST = 4, ASTHRA__SLAB_MOST = 64 };
#define ASTHRA__SLAB_BYTES (SIZE_MAX / 64) /* at most, if it is not one stack alone */
#define ASTHRA__CANARY UINT64_C(0x6173746872612d72)

typedef struct Asthra__Slab {
    struct Asthra__Slab *next;        /* all slabs, newest first */
    struct Asthra__Slab *next_unused; /* records without memory */
    ASTHRA__ATOMIC(char *) base;      /* NULL: no memory */
    size_t stride;
    uint32_t count, carved;
    bool is_guarded;
} Asthra__Slab;

/* Records come from the system, as the stacks do, whatever allocator the configuration names: a
 * task that was spawned is promised a stack. */
typedef struct Asthra__SlabBatch Asthra__SlabBatch;
struct Asthra__SlabBatch {
    Asthra__SlabBatch *next;
    Asthra__Slab slabs[64];
};

static struct {
    Asthra__Lock lock;
    ASTHRA__ATOMIC(Asthra__Slab *) slabs;
    Asthra__SlabBatch *batches;
    Asthra__Slab *unused, *current; /* current: default-sized fibers are carved from it */
    Asthra__Fiber *idle, *idle_trimmed;
    size_t default_bytes;
    uint32_t slab_size;
    void (*entry)(void *);
} asthra__fiber;

/* ---- what sanitizers and C++ want to know ---- */

#if ASTHRA__ASAN
void __sanitizer_start_switch_fiber(void **fake_stack_save, const void *bottom, size_t size);
void __sanitizer_finish_switch_fiber(void *fake_stack_save, const void **bottom_old,
                                     size_t *size_old);
#endif
#if ASTHRA__TSAN
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void *__tsan_get_current_fiber(void);
#endif

/* Valgrind takes a stack pointer that moves a little for calls and returns, and forgets what lay
 * between; so it is told of each stack. A request is a group of rotations or shifts that change
 * nothing and an exchange of a register with itself, which Valgrind knows and a processor does in a
 * nanosecond (Valgrind manual, "The client request mechanism"). It goes to the words of a request
 * and back with an answer; where nobody listens, with UINTPTR_MAX. */
#if ASTHRA_HAS_ASM && ASTHRA__CPU_X86_64
static uintptr_t asthra__valgrind_ask(const uintptr_t *words) {
    uintptr_t answer = UINTPTR_MAX;
    __asm__ volatile("rolq $3, %%rdi\n\t"
                     "rolq $13, %%rdi\n\t"
                     "rolq $61, %%rdi\n\t"
                     "rolq $51, %%rdi\n\t"
                     "xchgq %%rbx, %%rbx"
                     : "+d"(answer)
                     : "a"(words)
                     : "cc", "memory");
    return answer;
}
#elif ASTHRA_HAS_ASM && ASTHRA__CPU_I386
static uintptr_t asthra__valgrind_ask(const uintptr_t *words) {
    uintptr_t answer = UINTPTR_MAX;
    __asm__ volatile("roll $3, %%edi\n\t"
                     "roll $13, %%edi\n\t"
                     "roll $29, %%edi\n\t"
                     "roll $19, %%edi\n\t"
                     "xchgl %%ebx, %%ebx"
                     : "+d"(answer)
                     : "a"(words)
                     : "cc", "memory");
    return answer;
}
#elif ASTHRA_HAS_ASM && ASTHRA__CPU_AARCH64
static uintptr_t asthra__valgrind_ask(const uintptr_t *words) {
    register uintptr_t answer __asm__("x3") = UINTPTR_MAX;
    register const uintptr_t *argument __asm__("x4") = words;
    __asm__ volatile("ror x12, x12, #3\n\t"
                     "ror x12, x12, #13\n\t"
                     "ror x12, x12, #51\n\t"
                     "ror x12, x12, #61\n\t"
                     "orr x10, x10, x10"
                     : "+r"(answer)
                     : "r"(argument)
                     : "cc", "memory");
    return answer;
}
#elif ASTHRA_HAS_ASM && ASTHRA__CPU_ARM
static uintptr_t asthra__valgrind_ask(const uintptr_t *words) {
    register uintptr_t answer __asm__("r3") = UINTPTR_MAX;
    register const uintptr_t *argument __asm__("r4") = words;
    __asm__ volatile("mov r12, r12, ror #3\n\t"
                     "mov r12, r12, ror #13\n\t"
                     "mov r12, r12, ror #29\n\t"
                     "mov r12, r12, ror #19\n\t"
                     "orr r10, r10, r10"
                     : "+r"(answer)
                     : "r"(argument)
                     : "cc", "memory");
    return answer;
}
#elif ASTHRA_HAS_ASM && ASTHRA__CPU_RISCV64
static uintptr_t asthra__valgrind_ask(const uintptr_t *words) {
    register uintptr_t answer __asm__("a3") = UINTPTR_MAX;
    register const uintptr_t *argument __asm__("a4") = words;
    __asm__ volatile(".option push\n\t"
                     ".option norvc\n\t"
                     "srli zero, zero, 3\n\t"
                     "srli zero, zero, 13\n\t"
                     "srli zero, zero, 51\n\t"
                     "srli zero, zero, 61\n\t"
                     "or a0, a0, a0\n\t"
                     ".option pop"
                     : "+r"(answer)
                     : "r"(argument)
                     : "cc", "memory");
    return answer;
}
#else
static uintptr_t asthra__valgrind_ask(const uintptr_t *words) {
    (void)words;
    return UINTPTR_MAX;
}
#endif

/* 1 + the answer; 0: nobody listens. */
enum { ASTHRA__VALGRIND_STACK = 0x1501, ASTHRA__VALGRIND_STACK_GONE = 0x1502 };
static unsigned asthra__valgrind(size_t request, uintptr_t first, uintptr_t second) {
    const uintptr_t words[6] = {request, first, second, 0, 0, 0};
    return (unsigned)(asthra__valgrind_ask(words) + 1);
}

/* The C++ runtime's per-thread record of exceptions in flight: words that belong to a stack. */
extern void *asthra__cxa_get_globals(void) __asm__("__cxa_get_globals") __attribute__((__weak__));

static void asthra__fiber_depart(Asthra__Fiber *from, Asthra__Fiber *to, bool is_dead) {
    if (asthra__cxa_get_globals != NULL) {
        memcpy(from->cxx_globals, asthra__cxa_get_globals(), sizeof from->cxx_globals);
    }
    if (ASTHRA__UNLIKELY(from->has_canary)) {
        ASTHRA__CHECK(*(uint64_t *)(void *)from->low == ASTHRA__CANARY);
    }
#if ASTHRA__ASAN
    __sanitizer_start_switch_fiber(is_dead ? NULL : &from->fake_stack, to->low,
                                   (size_t)(to->high - to->low));
#endif
#if ASTHRA__TSAN
    if (to->tsan == NULL) to->tsan = __tsan_create_fiber(0); /* late: it costs a millisecond */
    __tsan_switch_to_fiber(to->tsan, 0);
#endif
    (void)to, (void)is_dead;
}

ASTHRA__FN void asthra__fiber_arrive(Asthra__Fiber *to) {
#if ASTHRA__ASAN
    __sanitizer_finish_switch_fiber(to->fake_stack, NULL, NULL);
#endif
    if (asthra__cxa_get_globals != NULL) {
        memcpy(asthra__cxa_get_globals(), to->cxx_globals, sizeof to->cxx_globals);
    }
}

ASTHRA__FN void asthra__fiber_switch(Asthra__Fiber *from, Asthra__Fiber *to, bool is_dead) {
    asthra__fiber_depart(from, to, is_dead);
    asthra__swap(&from->context, to->context, NULL);
    asthra__fiber_arrive(from);
}

/* ---- slabs ---- */

static size_t asthra__fiber_stride(size_t usable) {
    size_t page = asthra__os_page_size();
    return (usable + sizeof(Asthra__Fiber) + page - 1) / page * page + page;
}

static size_t asthra__slab_batch_bytes(void) {
    size_t page = asthra__os_page_size();
    return (sizeof(Asthra__SlabBatch) + page - 1) / page * page;
}

/* More records, in the list of all for good. Caller holds the lock. */
static void asthra__slab_records(void) {
    Asthra__SlabBatch *batch = asthra__os_map(asthra__slab_batch_bytes());
    if (batch == NULL) return;
    batch->next = asthra__fiber.batches;
    asthra__fiber.batches = batch;
    for (size_t i = sizeof batch->slabs / sizeof *batch->slabs; i-- > 0;) {
        Asthra__Slab *s = &batch->slabs[i];
        s->next_unused = asthra__fiber.unused;
        asthra__fiber.unused = s;
        s->next = asthra__load(&asthra__fiber.slabs, relaxed);
        asthra__store(&asthra__fiber.slabs, s, release); /* the fault handler walks the list */
    }
}

/* Caller holds the lock. */
static Asthra__Slab *asthra__slab_record(void) {
    if (asthra__fiber.unused == NULL) asthra__slab_records();
    Asthra__Slab *s = asthra__fiber.unused;
    if (s != NULL) asthra__fiber.unused = s->next_unused;
    return s;
}

/* Caller holds the lock. NULL: no memory. */
static Asthra__Slab *asthra__slab_map(size_t stride, uint32_t count) {
    Asthra__Slab *s = asthra__slab_record();
    if (s == NULL) return NULL;
    char *base = asthra__os_map(stride * count);
    if (base == NULL) {
        s->next_unused = asthra__fiber.unused;
        asthra__fiber.unused = s;
        return NULL;
    }
    s->stride = stride;
    s->count = count;
    s->carved = 0;
    s->is_guarded = asthra__os_guard_pages(base, stride, count);
    asthra__store(&s->base, base, release);
    return s;
}

static Asthra__Fiber *asthra__slab_fiber(const Asthra__Slab *s, char *base, uint32_t i) {
    char *record = base + s->stride * (i + 1) - sizeof(Asthra__Fiber);
    return (Asthra__Fiber *)(void *)(record - (uintptr_t)record % 64);
}

/* Before the stacks of s go. */
static void asthra__slab_untell(const Asthra__Slab *s, char *base) {
    for (uint32_t i = 0; i < s->carved; i++) {
        unsigned id = asthra__slab_fiber(s, base, i)->valgrind_id;
        if (id != 0) (void)asthra__valgrind(ASTHRA__VALGRIND_STACK_GONE, id - 1, 0);
    }
}

/* Caller holds the lock. */
static void asthra__slab_unmap(Asthra__Slab *s) {
    char *base = asthra__load(&s->base, relaxed);
    asthra__slab_untell(s, base);
    asthra__store(&s->base, (char *)NULL, relaxed);
    asthra__os_unmap_guarded(base, s->stride * s->count, s->is_guarded ? s->count : 0);
    s->next_unused = asthra__fiber.unused;
    asthra__fiber.unused = s;
}

/* Makes the next stack of s a fiber. */
static Asthra__Fiber *asthra__slab_carve(Asthra__Slab *s) {
    char *stack = asthra__load(&s->base, relaxed) + s->stride * s->carved++;
    char *record = stack + s->stride - sizeof(Asthra__Fiber);
    Asthra__Fiber *f = (Asthra__Fiber *)(void *)(record - (uintptr_t)record % 64);
    memset(f, 0, sizeof *f);
    f->runnable.is_fiber = true;
    f->ranked.item = &f->runnable;
    f->slab = s;
    f->low = stack + asthra__os_page_size();
    f->high = (char *)f;
    f->bound_to = -1;
    f->has_canary = !s->is_guarded;
    if (f->has_canary) *(uint64_t *)(void *)f->low = ASTHRA__CANARY;
    f->valgrind_id =
        asthra__valgrind(ASTHRA__VALGRIND_STACK, (uintptr_t)f->low, (uintptr_t)f->high);
    f->context = asthra__swap_make(f->low, f->high, asthra__fiber.entry);
    return f;
}

/* How many stacks the next slab of the default size has. Caller holds the lock. */
static uint32_t asthra__slab_count(size_t stride) {
    uint32_t count = asthra__fiber.slab_size;
    while (count > 1 && stride > ASTHRA__SLAB_BYTES / count) count /= 2;
    return count;
}

/* A fresh fiber of the default size. Caller holds the lock. */
static Asthra__Fiber *asthra__fiber_fresh(void) {
    Asthra__Slab *s = asthra__fiber.current;
    if (s == NULL || s->carved == s->count) {
        size_t stride = asthra__fiber_stride(asthra__fiber.default_bytes);
        s = asthra__slab_map(stride, asthra__slab_count(stride));
        if (s == NULL) return NULL;
        asthra__fiber.current = s;
        if (asthra__fiber.slab_size < ASTHRA__SLAB_MOST) asthra__fiber.slab_size *= 2;
    }
    return asthra__slab_carve(s);
}

/* ---- for the scheduler ---- */

ASTHRA__FN void asthra__fiber_setup(size_t default_stack_bytes, void (*entry)(void *)) {
    asthra__fiber.default_bytes = default_stack_bytes;
    asthra__fiber.slab_size = ASTHRA__SLAB_FIRST;
    asthra__fiber.entry = entry;
}

ASTHRA__FN size_t asthra__fiber_default_bytes(void) {
    return asthra__fiber.default_bytes;
}

ASTHRA__FN Asthra__Fiber *asthra__fiber_create(size_t stack_bytes) {
    size_t usable = stack_bytes == 0 ? asthra__fiber.default_bytes : stack_bytes;
    if (usable > ASTHRA__OS_STACK_MOST) return NULL;
    asthra__lock(&asthra__fiber.lock);
    Asthra__Slab *s = asthra__slab_map(asthra__fiber_stride(usable), 1);
    Asthra__Fiber *f = s == NULL ? NULL : asthra__slab_carve(s);
    asthra__unlock(&asthra__fiber.lock);
    return f;
}

static Asthra__Fiber *asthra__fiber_next(const Asthra__Fiber *f) {
    return f->runnable.next == NULL ? NULL
                                    : ASTHRA__CONTAINER(Asthra__Fiber, runnable, f->runnable.next);
}

static Asthra__Fiber *asthra__fiber_unlink(Asthra__Fiber **list) {
    Asthra__Fiber *f = *list;
    if (f != NULL) *list = asthra__fiber_next(f);
    return f;
}

ASTHRA__FN Asthra__Fiber *asthra__fiber_take(uint32_t want, uint32_t *got) {
    Asthra__Fiber *list = NULL;
    *got = 0;
    asthra__lock(&asthra__fiber.lock);
    while (*got < want) {
        Asthra__Fiber *f = asthra__fiber_unlink(&asthra__fiber.idle);
        if (f == NULL) f = asthra__fiber_unlink(&asthra__fiber.idle_trimmed);
        if (f == NULL) f = asthra__fiber_fresh();
        if (f == NULL) break;
        f->runnable.next = list == NULL ? NULL : &list->runnable;
        list = f;
        *got += 1;
    }
    asthra__unlock(&asthra__fiber.lock);
    return list;
}

ASTHRA__FN void asthra__fiber_give(Asthra__Fiber *list) {
    Asthra__Fiber *last = list;
    for (Asthra__Fiber *f = list; f != NULL; f = asthra__fiber_next(f)) last = f;
    if (last == NULL) return;
    asthra__lock(&asthra__fiber.lock);
    last->runnable.next = asthra__fiber.idle == NULL ? NULL : &asthra__fiber.idle->runnable;
    asthra__fiber.idle = list;
    asthra__unlock(&asthra__fiber.lock);
}

ASTHRA__FN void asthra__fiber_destroy(Asthra__Fiber *f) {
    ASTHRA__ASSERT(f->slab != NULL && f->slab->count == 1);
#if ASTHRA__TSAN
    if (f->tsan != NULL) __tsan_destroy_fiber(f->tsan);
#endif
    asthra__lock(&asthra__fiber.lock);
    asthra__slab_unmap(f->slab);
    asthra__unlock(&asthra__fiber.lock);
}

ASTHRA__FN size_t asthra__fiber_trim(void) {
    size_t page = asthra__os_page_size(), bytes = 0;
    asthra__lock(&asthra__fiber.lock);
    Asthra__Fiber *list = asthra__fiber.idle;
    asthra__fiber.idle = NULL;
    asthra__unlock(&asthra__fiber.lock);
    while (list != NULL) {
        Asthra__Fiber *f = asthra__fiber_unlink(&list);
        uintptr_t keep = (uintptr_t)f->context / page * page;
        if (f->slab->is_guarded && keep > (uintptr_t)f->low) {
            (void)asthra__os_discard(f->low, keep - (uintptr_t)f->low);
            bytes += keep - (uintptr_t)f->low;
        }
        asthra__lock(&asthra__fiber.lock);
        f->runnable.next =
            asthra__fiber.idle_trimmed == NULL ? NULL : &asthra__fiber.idle_trimmed->runnable;
        asthra__fiber.idle_trimmed = f;
        asthra__unlock(&asthra__fiber.lock);
    }
    return bytes;
}

ASTHRA__FN void asthra__fiber_bind(Asthra__Fiber *f, int worker) {
    void *low = NULL, *high = NULL;
    asthra__os_stack_bounds(&low, &high);
    memset(f, 0, sizeof *f);
    f->runnable.is_fiber = true;
    f->ranked.item = &f->runnable;
    const char *here = __builtin_frame_address(0);
    bool is_here = here >= (char *)low && here < (char *)high;
    f->low = is_here ? low : NULL; /* a task's stack, in the child of its fork: of no known size */
    f->high = is_here ? high : NULL;
    f->bound_to = worker;
#if ASTHRA__TSAN
    f->tsan = __tsan_get_current_fiber();
#endif
}

#if ASTHRA__TSAN
static void asthra__slab_forget(const Asthra__Slab *s, char *base) {
    for (uint32_t i = 0; i < s->carved; i++) {
        void *fiber = asthra__slab_fiber(s, base, i)->tsan;
        if (fiber != NULL) __tsan_destroy_fiber(fiber);
    }
}
#else
static void asthra__slab_forget(const Asthra__Slab *s, char *base) {
    (void)s, (void)base;
}
#endif

ASTHRA__FN void asthra__fiber_teardown(void) {
    Asthra__Slab *s = asthra__load(&asthra__fiber.slabs, relaxed);
    asthra__store(&asthra__fiber.slabs, (Asthra__Slab *)NULL, relaxed);
    for (; s != NULL; s = s->next) {
        char *base = asthra__load(&s->base, relaxed);
        if (base == NULL) continue;
        asthra__slab_forget(s, base);
        asthra__slab_untell(s, base);
        asthra__os_unmap_guarded(base, s->stride * s->count, s->is_guarded ? s->count : 0);
    }
    while (asthra__fiber.batches != NULL) {
        Asthra__SlabBatch *batch = asthra__fiber.batches;
        asthra__fiber.batches = batch->next;
        asthra__os_unmap(batch, asthra__slab_batch_bytes());
    }
    asthra__fiber.unused = NULL;
    asthra__fiber.current = NULL;
    asthra__fiber.idle = NULL;
    asthra__fiber.idle_trimmed = NULL;
}

ASTHRA__FN void asthra__fiber_forget(void) {
    memset(&asthra__fiber, 0, sizeof asthra__fiber);
}

/* ---- guards ---- */

static uintptr_t asthra__fiber_seal(const Asthra__FiberGuard *g) {
    return (uintptr_t)g ^ (uintptr_t)g->outer ^ (uintptr_t)0x6a2d6a2d6a2d6a2du;
}

/* Those that are no less deep were skipped by a longjmp, and may be overwritten. */
ASTHRA__FN void asthra__fiber_guard_enter(Asthra__Fiber *f, Asthra__FiberGuard *g) {
    Asthra__FiberGuard *outer = f->guards;
    while (outer != NULL && (uintptr_t)outer <= (uintptr_t)g)
        outer = outer->seal == asthra__fiber_seal(outer) ? outer->outer : NULL;
    g->outer = outer;
    g->seal = asthra__fiber_seal(g);
    f->guards = g;
}

ASTHRA__FN void asthra__fiber_guard_leave(Asthra__Fiber *f, Asthra__FiberGuard *g) {
    f->guards = g->outer;
    g->seal = 0;
}

ASTHRA__FN void asthra__fiber_guards_abandon(Asthra__Fiber *f, const void *end) {
    Asthra__FiberGuard *g;
    while ((g = f->guards) != NULL && (uintptr_t)g < (uintptr_t)end) {
        bool is_whole = g->seal == asthra__fiber_seal(g);
        if (is_whole) g->leave(g);
        f->guards = is_whole ? g->outer : NULL;
    }
}

ASTHRA__FN size_t asthra__fiber_room(const Asthra__Fiber *f) {
    return (size_t)((char *)__builtin_frame_address(0) - f->low);
}

ASTHRA__FN Asthra__Fiber *asthra__fiber_of_guard(const void *address) {
    size_t page = asthra__os_page_size();
    for (Asthra__Slab *s = asthra__load(&asthra__fiber.slabs, acquire); s != NULL; s = s->next) {
        char *base = asthra__load(&s->base, acquire);
        size_t distance = (size_t)((const char *)address - base);
        if (base == NULL || (const char *)address < base) continue;
        if (distance >= s->stride * s->count || distance % s->stride >= page) continue;
        uintptr_t record =
            (uintptr_t)base + distance / s->stride * s->stride + s->stride - sizeof(Asthra__Fiber);
        return (Asthra__Fiber *)(record - record % 64);
    }
    return NULL;
}

#endif
