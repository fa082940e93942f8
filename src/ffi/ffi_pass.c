/* ffi_pass - calls with rules: marshaling and ownership.                    [ffi] body: passages
 *
 * Such a call is a passage: its rows are entered in the order of parameters, then the function is
 * called, then the rows are left in reverse. Entering makes C's value of ours, or hands a block
 * over; leaving takes the block back if the call came to nothing. To clean C's values up are duties
 * of the arena that they stand in, which ends last.
 *
 * A passage is left exactly once, whatever ends it:
 *     a return          by asthra__ffi_run_passage
 *     an exception      by the personality of asthra__ffi_guard, in the second phase of unwinding
 *     a panic           by whoever fails the task, which finds it in the list of its stack's guards
 *                       (fiber_internal.h), before the frames are abandoned
 * A longjmp past it leaves nothing: what the passage had taken is lost.
 */
#include "ffi_internal.h"

#include "../concurrency/scheduler_internal.h"

#if ASTHRA_HAS_FFI

#include <string.h>
#include <unwind.h>

/* ---- arena ---- */

typedef struct Asthra__FFIPiece {
    ASTHRA__ALIGNED(ASTHRA__MAX_ALIGN) struct Asthra__FFIPiece *next;
} Asthra__FFIPiece;

ASTHRA__FN void asthra__ffi_arena_begin(struct AsthraFFIArena *a) {
    a->pieces = NULL;
    a->duties = NULL;
    a->at = a->first;
    a->end = a->first + sizeof a->first;
    a->depth = 0;
}

ASTHRA__FN void *asthra__ffi_arena_alloc(struct AsthraFFIArena *a, size_t size) {
    const size_t most = SIZE_MAX / 2, align = ASTHRA__MAX_ALIGN;
    if (size > most) return NULL;
    size = (size + (size == 0) + align - 1) & ~(align - 1);
    if ((size_t)(a->end - a->at) < size) {
        size_t room = size > 4096 ? size : 4096;
        Asthra__FFIPiece *piece = asthra__alloc(sizeof *piece + room);
        if (piece == NULL) return NULL;
        piece->next = a->pieces;
        a->pieces = piece;
        a->at = (char *)(piece + 1);
        a->end = a->at + room;
    }
    void *block = a->at;
    a->at += size;
    return block;
}

ASTHRA__FN void *asthra__ffi_arena_value(struct AsthraFFIArena *a, Asthra__FFIShape shape) {
    size_t more = shape.align > ASTHRA__MAX_ALIGN ? shape.align : 0;
    char *block = asthra__ffi_arena_alloc(a, shape.size + more);
    return block != NULL ? block + (-(uintptr_t)block & (shape.align - 1)) : NULL;
}

ASTHRA__FN void asthra__ffi_arena_end(struct AsthraFFIArena *a) {
    while (a->duties != NULL) {
        Asthra__FFIDuty duty = *a->duties;
        a->duties = duty.next;
        duty.run(duty.what, duty.user);
    }
    while (a->pieces != NULL) {
        Asthra__FFIPiece *piece = a->pieces;
        a->pieces = piece->next;
        asthra__free(piece);
    }
}

/* ---- passages ---- */

typedef struct Asthra__FFIPassage {
    Asthra__FFIGuarded guarded;
    AsthraFFICall *call;
    void *ret;
    void **args;    /* ours: what is passed */
    size_t entered; /* rows */
    int number;     /* errno, as the function left it */
    bool is_good;   /* the function returned, and not a failure */
    AsthraResult result;
    struct AsthraFFIArena arena;
} Asthra__FFIPassage;

static void asthra__ffi_leave_row(const Asthra__FFIPassage *g, const Asthra__FFIRule *row) {
    void *ptr;
    if (row->transfer == ASTHRA_TRANSFER_NONE) return;
    memcpy(&ptr, g->args[row->param], sizeof ptr);
    if (g->is_good)
        asthra__ffi_hand_off(ptr);
    else
        asthra__ffi_take_back(ptr);
}

static void asthra__ffi_leave(Asthra__FFIGuarded *guarded) {
    Asthra__FFIPassage *g = ASTHRA__CONTAINER(Asthra__FFIPassage, guarded, guarded);
    const Asthra__FFIRules *rules = asthra__ffi_plan(g->call)->rules;
    while (g->entered > 0) asthra__ffi_leave_row(g, &rules->rows[--g->entered]);
    asthra__ffi_arena_end(&g->arena);
}

static AsthraResult asthra__ffi_enter_row(Asthra__FFIPassage *g, const Asthra__FFIRule *row) {
    void **arg = &g->args[row->param], *ptr;
    const char *wrong;
    if (row->marshaler != NULL) return asthra__marshal_enter(row->marshaler, *arg, arg, &g->arena);
    if (row->transfer == ASTHRA_TRANSFER_NONE) return asthra_result_ok(NULL);
    memcpy(&ptr, *arg, sizeof ptr);
    AsthraStatus status = asthra__ffi_hand_over(ptr, g->call->function_ptr, &wrong);
    if (status == ASTHRA_OK) return asthra_result_ok(NULL);
    return asthra_result_errorf(status, "asthra_ffi_call: parameter %u %s", row->param, wrong);
}

/* ---- what comes back ---- */

/* A pointer that is ours, and that nobody is told of: a marshaler has made a value of it, or the
 * call has failed. */
static void asthra__ffi_end_result(void *ptr, void *rules) {
    asthra__ffi_dispose(ptr, ((const Asthra__FFIRules *)rules)->result_end);
}

/* A pointer that the function returned and that is ours now. */
static AsthraResult asthra__ffi_adopt_result(const Asthra__FFIRules *rules, void *ptr,
                                             AsthraResult r) {
    if (asthra__ffi_adopt(ptr, rules->result_end)) return r;
    if (rules->result_end != NULL) rules->result_end(ptr);
    return asthra_result_errorf(ASTHRA_OUT_OF_MEMORY, "asthra_ffi_call: no memory to own what was "
                                                      "returned; it was freed");
}

/* The result, marshaled into ret, or into the value where that is NULL. */
static AsthraResult asthra__ffi_marshal_result(Asthra__FFIPassage *g, const Asthra__FFIRules *rules,
                                               const void *c_value) {
    uint64_t word = 0;
    AsthraResult r =
        asthra__marshal_result(rules->result_marshaler, c_value, g->ret != NULL ? g->ret : &word);
    if (!r.status && g->ret == NULL) memcpy(&r.value, &word, sizeof word);
    return r;
}

/* The function itself. Whatever comes of its result, the pointer that it gives us is ended. */
static AsthraResult asthra__ffi_call_inside(Asthra__FFIPassage *g, void *c_value) {
    const Asthra__FFIPlan *p = asthra__ffi_plan(g->call);
    Asthra__FFIRules *rules = p->rules;
    Asthra__FFIDuty *duty = NULL;
    void *ptr = NULL;
    bool is_ours = rules->result_transfer != ASTHRA_TRANSFER_NONE;
    if (is_ours && c_value == NULL) c_value = &ptr;
    if (is_ours && (duty = asthra__ffi_arena_alloc(&g->arena, sizeof *duty)) == NULL)
        return asthra__result_of(ASTHRA_OUT_OF_MEMORY);
    AsthraResult r = asthra__ffi_perform(g->call, c_value, g->args);
    g->number = asthra__thread()->ffi_errno;
    g->is_good = r.status == ASTHRA_OK;
    if (is_ours) memcpy(&ptr, c_value, sizeof ptr);
    bool is_told = rules->result_marshaler == NULL && (g->is_good || g->ret != NULL);
    if (ptr != NULL && is_told) return asthra__ffi_adopt_result(rules, ptr, r);
    if (ptr != NULL) {
        *duty = (Asthra__FFIDuty){g->arena.duties, asthra__ffi_end_result, ptr, rules};
        g->arena.duties = duty;
    }
    if (!g->is_good || rules->result_marshaler == NULL) return r;
    return asthra__ffi_marshal_result(g, rules, c_value);
}

static AsthraResult asthra__ffi_pass_inside(Asthra__FFIPassage *g) {
    const Asthra__FFIPlan *p = asthra__ffi_plan(g->call);
    const Asthra__FFIRules *rules = p->rules;
    AsthraResult r = asthra_result_ok(NULL);
    void *c_value = g->ret;
    Asthra__FFIShape shape;
    for (; g->entered < rules->count && !r.status; g->entered += !r.status)
        r = asthra__ffi_enter_row(g, &rules->rows[g->entered]);
    if (r.status) return r;
    if (rules->result_marshaler != NULL) {
        (void)asthra__ffi_measure(p->result, &shape);
        c_value = asthra__ffi_arena_value(&g->arena, shape);
        if (c_value == NULL) return asthra__result_of(ASTHRA_OUT_OF_MEMORY);
    }
    return asthra__ffi_call_inside(g, c_value);
}

static void asthra__ffi_run_passage(void *guarded) {
    Asthra__FFIPassage *g = ASTHRA__CONTAINER(Asthra__FFIPassage, guarded, guarded);
    g->result = asthra__ffi_pass_inside(g);
    asthra__ffi_leave_guarded(guarded);
    asthra__thread()->ffi_errno = g->number; /* the function's, and not a cleanup's */
}

ASTHRA__FN AsthraResult asthra__ffi_pass(AsthraFFICall *c, void *ret, void **args) {
    size_t count = asthra__ffi_plan(c)->parameters;
    Asthra__FFIPassage g;
    g.guarded.leave = asthra__ffi_leave;
    g.call = c;
    g.ret = ret;
    g.args = __builtin_alloca((count + 1) * sizeof *g.args);
    if (count > 0) memcpy(g.args, args, count * sizeof *args);
    g.entered = 0;
    g.number = asthra__thread()->ffi_errno;
    g.is_good = false;
    asthra__ffi_arena_begin(&g.arena);
    asthra__ffi_run_guarded(&g.guarded, asthra__ffi_run_passage);
    return g.result;
}

/* ---- guards ---- */

ASTHRA__FN void asthra__ffi_leave_guarded(Asthra__FFIGuarded *g) {
    g->error = asthra__error_put_aside();
    g->leave(g);
    g->leave = NULL;
    asthra__error_put_back(g->error);
    g->error = NULL;
}

/* Left by what passes it; once, though an exception may come by after a panic. */
static void asthra__ffi_leave_behind(Asthra__FFIGuarded *g) {
    if (g->leave == NULL) return;
    g->leave(g);
    g->leave = NULL;
    asthra__error_free(g->error);
}

#if ASTHRA_HAS_TASK
/* A panic inside comes back here, and no further: however many there are, the stack is enough. */
typedef struct Asthra__FFITrial {
    Asthra__FFIGuarded guarded; /* an exception, too, puts the way out right */
    Asthra__FFIGuarded *what;
    Asthra__Fiber *fiber;
    Asthra__SwapContext *escape;
} Asthra__FFITrial;

static void asthra__ffi_end_trial(Asthra__FFIGuarded *guarded) {
    Asthra__FFITrial *t = ASTHRA__CONTAINER(Asthra__FFITrial, guarded, guarded);
    t->fiber->escape = t->escape;
}
static void *asthra__ffi_try(void *what) {
    asthra__ffi_leave_behind(what);
    return NULL;
}
static void asthra__ffi_run_trial(void *guarded) {
    Asthra__FFITrial *t = ASTHRA__CONTAINER(Asthra__FFITrial, guarded, guarded);
    asthra__swap_call(asthra__ffi_try, t->what, &t->fiber->escape, false);
    asthra__ffi_end_trial(guarded);
}

static void asthra__ffi_abandon(Asthra__FiberGuard *guard) {
    Asthra__FFITrial t;
    t.what = ASTHRA__CONTAINER(Asthra__FFIGuarded, guard, guard);
    t.fiber = asthra__seat()->fiber;
    t.escape = t.fiber->escape;
    while (t.what->leave != NULL) {
        t.guarded.leave = asthra__ffi_end_trial;
        asthra__ffi_run_guarded(&t.guarded, asthra__ffi_run_trial);
    }
}
static void asthra__ffi_watch(Asthra__FFIGuarded *g) {
    g->guard.leave = asthra__ffi_abandon;
    asthra__fiber_guard_enter(asthra__seat()->fiber, &g->guard);
}
static void asthra__ffi_unwatch(Asthra__FFIGuarded *g) {
    asthra__fiber_guard_leave(asthra__seat()->fiber, &g->guard);
}
#else
static void asthra__ffi_watch(Asthra__FFIGuarded *g) {
    (void)g;
}
static void asthra__ffi_unwatch(Asthra__FFIGuarded *g) {
    (void)g;
}
#endif

static void asthra__ffi_unwound(Asthra__FFIGuarded *g) {
    asthra__ffi_leave_behind(g);
    asthra__ffi_unwatch(g);
}

/* The personality of asthra__ffi_guard: the record is in a register that the frame keeps. Nothing
 * is caught, and nobody lands: in the second phase what is guarded is left, and unwinding goes on.
 * Its names come from the unwinder that calls it. */
#if ASTHRA__CPU_X86_64 || ASTHRA__CPU_I386
enum { ASTHRA__FFI_RECORD = 3 }; /* rbx, ebx; DWARF's numbers */
#elif ASTHRA__CPU_AARCH64
enum { ASTHRA__FFI_RECORD = 19 }; /* x19 */
#elif ASTHRA__CPU_RISCV64
enum { ASTHRA__FFI_RECORD = 9 }; /* s1 */
#else
enum { ASTHRA__FFI_RECORD = 4 }; /* r4 */
#endif

#if ASTHRA__OS_HAS_EHABI
#define ASTHRA__FFI_UNWINDER(name) __asm__(name) __attribute__((__weak__))
extern int asthra__ffi_register(struct _Unwind_Context *frame, int file, uint32_t number, int as,
                                void *out) ASTHRA__FFI_UNWINDER("_Unwind_VRS_Get");
extern _Unwind_Reason_Code asthra__ffi_unwind_frame(struct _Unwind_Control_Block *block,
                                                    struct _Unwind_Context *frame)
    ASTHRA__FFI_UNWINDER("__gnu_unwind_frame");

/* EHABI, 7.3: a personality routine unwinds its frame itself. */
ASTHRA__FFI_CODE _Unwind_Reason_Code
asthra__ffi_personality(int state, struct _Unwind_Control_Block *block,
                        struct _Unwind_Context *frame) __asm__("asthra__ffi_personality");
__attribute__((__used__)) _Unwind_Reason_Code
asthra__ffi_personality(int state, struct _Unwind_Control_Block *block,
                        struct _Unwind_Context *frame) {
    enum { ASTHRA__FFI_ACTION = 3, ASTHRA__FFI_CLEANING = 1 }; /* _US_UNWIND_FRAME_STARTING */
    uint32_t record = 0;
    if ((state & ASTHRA__FFI_ACTION) == ASTHRA__FFI_CLEANING) {
        (void)asthra__ffi_register(frame, 0, ASTHRA__FFI_RECORD, 0, &record);
        asthra__ffi_unwound((void *)(uintptr_t)record);
    }
    return asthra__ffi_unwind_frame(block, frame) == _URC_NO_REASON ? _URC_CONTINUE_UNWIND
                                                                    : _URC_FAILURE;
}
static void asthra__ffi_show_personality(void) {} /* the linker has: nothing else can be said */
#else
extern uintptr_t asthra__ffi_register(struct _Unwind_Context *frame,
                                      int number) __asm__("_Unwind_GetGR")
    __attribute__((__weak__));

static _Unwind_Reason_Code asthra__ffi_pass_unwinder(int version, _Unwind_Action actions,
                                                     uint64_t kind,
                                                     struct _Unwind_Exception *exception,
                                                     struct _Unwind_Context *frame) {
    (void)version, (void)kind, (void)exception;
    if (actions & _UA_CLEANUP_PHASE)
        asthra__ffi_unwound((void *)asthra__ffi_register(frame, ASTHRA__FFI_RECORD));
    return _URC_CONTINUE_UNWIND;
}

/* Where unwinders look for it: a word beside the guard, which assembly can name. */
ASTHRA__FFI_CODE uintptr_t asthra__ffi_personality __asm__("asthra__ffi_personality");
static void asthra__ffi_show_personality(void) {
    __atomic_store_n(&asthra__ffi_personality, (uintptr_t)asthra__ffi_pass_unwinder,
                     __ATOMIC_RELAXED);
}
#endif

ASTHRA__FN void asthra__ffi_run_guarded(Asthra__FFIGuarded *g, void (*run)(void *g)) {
    g->error = NULL;
    asthra__ffi_watch(g);
    asthra__ffi_show_personality();
    asthra__ffi_guard(run, g);
    asthra__ffi_unwatch(g);
}

#endif
