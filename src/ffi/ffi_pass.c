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
#if ASTHRA_HAS_TASK
    Asthra__FiberGuard guard; /* in the list of the stack that we stand on */
#endif
    AsthraFFICall *call;
    void *ret;
    void **args;    /* ours: what is passed */
    size_t entered; /* rows */
    bool is_good;   /* the function returned, and not a failure */
    AsthraResult result;
    struct AsthraError *failure; /* the result's, while cleanups may make others; NULL: none */
    struct AsthraFFIArena arena;
} Asthra__FFIPassage;

static void asthra__ffi_leave_row(const Asthra__FFIPassage *g, const Asthra__FFIRule *row) {
    void *ptr;
    if (row->transfer == ASTHRA_TRANSFER_NONE || g->is_good) return;
    memcpy(&ptr, g->args[row->param], sizeof ptr);
    asthra__ffi_take_back(ptr);
}

static void asthra__ffi_leave(Asthra__FFIPassage *g) {
    const Asthra__FFIRules *rules = asthra__ffi_plan(g->call)->rules;
    while (g->entered > 0) asthra__ffi_leave_row(g, &rules->rows[--g->entered]);
    asthra__ffi_arena_end(&g->arena);
}

/* The same for a call that does not return: what was left halfway is left to the end. */
static void asthra__ffi_leave_behind(Asthra__FFIPassage *g) {
    asthra__ffi_leave(g);
    asthra__error_free(g->failure);
}

/* After a return. Cleanups may make calls and errors of their own: the caller sees this one's. */
static void asthra__ffi_leave_kept(Asthra__FFIPassage *g) {
    int number = asthra__thread()->ffi_errno;
    AsthraResult r = g->result;
    if (r.status) g->failure = asthra__error_copy(r);
    asthra__ffi_leave(g);
    asthra__thread()->ffi_errno = number;
    if (r.status) g->result = asthra__result_adopt(r.status, r.detail, g->failure);
    g->failure = NULL;
}

static AsthraResult asthra__ffi_enter_row(Asthra__FFIPassage *g, const Asthra__FFIRule *row) {
    void **arg = &g->args[row->param], *ptr;
    if (row->marshaler != NULL) return asthra__marshal_enter(row->marshaler, *arg, arg, &g->arena);
    if (row->transfer == ASTHRA_TRANSFER_NONE) return asthra_result_ok(NULL);
    memcpy(&ptr, *arg, sizeof ptr);
    const char *wrong = asthra__ffi_hand_over(ptr, g->call->function_ptr);
    if (wrong == NULL) return asthra_result_ok(NULL);
    return asthra_result_errorf(ASTHRA_INVALID, "asthra_ffi_call: parameter %u %s", row->param,
                                wrong);
}

/* A pointer that the function returned and that is ours now. */
static AsthraResult asthra__ffi_adopt_result(const Asthra__FFIRules *rules, AsthraResult r) {
    void *ptr = r.value.pointer;
    if (rules->result_transfer == ASTHRA_TRANSFER_NONE || ptr == NULL) return r;
    if (asthra__ffi_adopt(ptr, rules->result_end)) return r;
    if (rules->result_end != NULL) rules->result_end(ptr);
    return asthra_result_errorf(ASTHRA_OUT_OF_MEMORY, "asthra_ffi_call: no memory to own what was "
                                                      "returned; it was freed");
}

/* The result, marshaled into ret, or into the value where that is NULL. */
static AsthraResult asthra__ffi_marshal_result(Asthra__FFIPassage *g, const Asthra__FFIRules *rules,
                                               void *c_value) {
    uint64_t word = 0;
    void *ptr = NULL;
    AsthraResult r =
        asthra__marshal_result(rules->result_marshaler, c_value, g->ret != NULL ? g->ret : &word);
    if (rules->result_transfer != ASTHRA_TRANSFER_NONE && rules->result_end != NULL) {
        memcpy(&ptr, c_value, sizeof ptr);
        if (ptr != NULL) rules->result_end(ptr);
    }
    if (!r.status && g->ret == NULL) memcpy(&r.value, &word, sizeof word);
    return r;
}

static AsthraResult asthra__ffi_call_inside(Asthra__FFIPassage *g) {
    const Asthra__FFIPlan *p = asthra__ffi_plan(g->call);
    const Asthra__FFIRules *rules = p->rules;
    AsthraResult r = asthra_result_ok(NULL);
    void *c_value = g->ret;
    for (; g->entered < rules->count && !r.status; g->entered += !r.status)
        r = asthra__ffi_enter_row(g, &rules->rows[g->entered]);
    if (r.status) return r;
    if (rules->result_marshaler != NULL) {
        c_value = asthra__ffi_arena_alloc(&g->arena, p->result_size);
        if (c_value == NULL) return asthra__result_of(ASTHRA_OUT_OF_MEMORY);
    }
    r = asthra__ffi_perform(g->call, c_value, g->args);
    if (r.status) return r;
    g->is_good = true;
    if (rules->result_marshaler != NULL) return asthra__ffi_marshal_result(g, rules, c_value);
    return asthra__ffi_adopt_result(rules, r);
}

static void asthra__ffi_run_passage(void *record) {
    Asthra__FFIPassage *g = record;
    g->result = asthra__ffi_call_inside(g);
    asthra__ffi_leave_kept(g);
}

#if ASTHRA_HAS_TASK
static void asthra__ffi_abandon(Asthra__FiberGuard *guard) {
    asthra__ffi_leave_behind(ASTHRA__CONTAINER(Asthra__FFIPassage, guard, guard));
}
static void asthra__ffi_watch(Asthra__FFIPassage *g) {
    g->guard.leave = asthra__ffi_abandon;
    asthra__fiber_guard_enter(asthra__seat()->fiber, &g->guard);
}
static void asthra__ffi_unwatch(Asthra__FFIPassage *g) {
    asthra__fiber_guard_leave(asthra__seat()->fiber, &g->guard);
}
#else
static void asthra__ffi_watch(Asthra__FFIPassage *g) {
    (void)g;
}
static void asthra__ffi_unwatch(Asthra__FFIPassage *g) {
    (void)g;
}
#endif

static void asthra__ffi_unwound(void *record) {
    asthra__ffi_unwatch(record);
    asthra__ffi_leave_behind(record);
}

/* The personality of asthra__ffi_guard: the record is in a register that the frame keeps. Nothing
 * is caught, and nobody lands: in the second phase the passage is left, and unwinding goes on. Its
 * names come from the unwinder that calls it. */
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

ASTHRA__FN AsthraResult asthra__ffi_pass(AsthraFFICall *c, void *ret, void **args) {
    size_t count = asthra__ffi_plan(c)->parameters;
    Asthra__FFIPassage g;
    g.call = c;
    g.ret = ret;
    g.args = __builtin_alloca((count + 1) * sizeof *g.args);
    if (count > 0) memcpy(g.args, args, count * sizeof *args);
    g.entered = 0;
    g.is_good = false;
    g.failure = NULL;
    asthra__ffi_arena_begin(&g.arena);
    asthra__ffi_watch(&g);
    asthra__ffi_show_personality();
    asthra__ffi_guard(asthra__ffi_run_passage, &g);
    asthra__ffi_unwatch(&g);
    return g.result;
}

#endif
