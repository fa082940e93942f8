/* ffi - plans, and what the files of the processors make of types.             [ffi] internal
 *
 * A plan is a list of words that hand-written pieces of machine code, its steps, run through: each
 * does one thing, such as loading one register from the next argument, and jumps to the address in
 * the next word. Some take operands, the words behind their own. What steps there are, and which a
 * signature needs, is in one file for each processor; everything else is in terms of this header.
 */
#ifndef ASTHRA__FFI_INTERNAL_H
#define ASTHRA__FFI_INTERNAL_H

#include "../concurrency/fiber_internal.h"
#include "../core/alloc_internal.h"
#include "../platform/sys_internal.h"
#include "ffi.h"

#if ASTHRA_HAS_FFI

#if !(ASTHRA__CPU_X86_64 || ASTHRA__CPU_AARCH64 || ASTHRA__CPU_RISCV64 || ASTHRA__CPU_I386 || \
      ASTHRA__CPU_ARM)
#error "ffi has no hand-written calls for this processor yet: define ASTHRA_RT_NO_ASM"
#endif

/* A routine in assembly: strong and hidden in every mode. */
#define ASTHRA__FFI_CODE __attribute__((__visibility__("hidden"))) extern

/* What stands around one, but for 32-bit ARM's; and a word that C writes and assembly reads. */
/* clang-format off */
#if ASTHRA__CPU_RISCV64 /* aligned by the assembler, not by the linker */
#define ASTHRA__FFI_OPTION ".option push\n.option norelax\n"
#define ASTHRA__FFI_NO_OPTION ".option pop\n"
#else
#define ASTHRA__FFI_OPTION ""
#define ASTHRA__FFI_NO_OPTION ""
#endif
#define ASTHRA__FFI_BEGIN(name)                      \
    ".pushsection .text." name ",\"ax\",%progbits\n" \
    ASTHRA__FFI_OPTION                               \
    ".p2align 5\n"                                   \
    ".globl " name "\n"                              \
    ".hidden " name "\n"                             \
    ".type " name ", %function\n"                    \
    name ":\n"                                       \
    ".cfi_startproc\n"
#define ASTHRA__FFI_END(name)     \
    ".cfi_endproc\n"              \
    ".size " name ", .-" name "\n" \
    ASTHRA__FFI_NO_OPTION         \
    ".popsection\n"
#define ASTHRA__FFI_WORD(name)                        \
    ".pushsection .bss." name ",\"aw\",%nobits\n"     \
    ".p2align 3\n"                                    \
    ".globl " name "\n"                               \
    ".hidden " name "\n"                              \
    ".type " name ", %object\n"                       \
    name ":\n"                                        \
    ".zero 8\n" /* for either size of words */        \
    ".size " name ", 8\n"                             \
    ".popsection\n"
/* clang-format on */

/* ---- types ---- */

/* Of a type that has been looked at: field tables of any depth are valid from here on. */
typedef struct Asthra__FFIShape {
    size_t size, align;
} Asthra__FFIShape;

/* NULL, or what is wrong with it as the end of a sentence: "has no fields". */
ASTHRA__FN const char *asthra__ffi_measure(const AsthraFFIType *t, Asthra__FFIShape *out);

/* The fields of a measured block, or its elements, each with its offset in that, until `each` says
 * false; false: it did. */
typedef bool (*Asthra__FFIEach)(const AsthraFFIType *field, size_t at, void *user);
ASTHRA__FN bool asthra__ffi_fields(const AsthraFFIType *t, Asthra__FFIEach each, void *user);

static inline bool asthra__ffi_is_block(AsthraFFIKind kind) { /* no scalar, and no complex one */
    return kind >= ASTHRA_FFI_STRUCT;
}
static inline bool asthra__ffi_is_integer(AsthraFFIKind kind) { /* in one register, or less */
    return (kind >= ASTHRA_FFI_BOOL && kind <= ASTHRA_FFI_U64) || kind == ASTHRA_FFI_PTR;
}
ASTHRA__FN size_t asthra__ffi_size_of(AsthraFFIKind kind); /* of a scalar or complex one */
/* An integer or pointer, widened to 64 bits as its type says. */
ASTHRA__FN uint64_t asthra__ffi_widen(AsthraFFIKind kind, const void *value);

/* ---- plans ---- */

/* Where a closure finds an argument, in bytes from the beginning of the frame that its entry makes
 * of the registers, with the stack behind it. The frame begins at a multiple of 16. */
typedef enum Asthra__FFIHow {
    ASTHRA__FFI_HERE,      /* at `offset` */
    ASTHRA__FFI_POINTED,   /* its address is at `offset` */
    ASTHRA__FFI_SCATTERED, /* in two parts, the second, from byte `split` on, at `second` */
    ASTHRA__FFI_STRIDED,   /* `second` elements of `split` bytes, one in each 16 from `offset` on */
    ASTHRA__FFI_MOVED = 16 /* added to those: its type is more, or wants another multiple */
} Asthra__FFIHow;
typedef struct Asthra__FFIPlace {
    const AsthraFFIType *type;
    uint32_t offset;
    uint16_t second;
    uint8_t how, split;
} Asthra__FFIPlace;

enum {
    ASTHRA__FFI_READY = 0x0ff1ca11, /* Asthra__FFIPlan.state; 0: a static call may prepare itself */
    ASTHRA__FFI_ENDED = 0x0ff1dead, /* no static call, and released, or never prepared */
    ASTHRA__FFI_MOST = 1024,        /* parameters */
    ASTHRA__FFI_HEAD = 24 + 4 * sizeof(void *),
    ASTHRA__FFI_INLINE = (256 - ASTHRA__FFI_HEAD) / sizeof(uintptr_t)
};

/* What AsthraFFICall.plan holds. It has no pointer to itself, so that a call can be moved. */
typedef struct Asthra__FFIPlan {
    ASTHRA__ATOMIC(uint32_t) state;
    uint32_t stack_bytes; /* as the entry of this processor wants it */
    uint32_t result_size; /* 0: void */
    uint16_t parameters, fixed;
    uint8_t abi, result_kind, error_rule;
    uint8_t result_how;   /* the processor's: how a closure returns it */
    uint8_t result_split; /* the processor's: where the second part of a result begins */
    bool is_static : 1;   /* it prepared itself */
    bool is_variadic : 1;
    bool is_plain : 1;                   /* a closure finds every argument HERE */
    bool has_vectors : 1;                /* the processor's: arguments in such registers */
    const AsthraFFIType *result;         /* NULL: void */
    uintptr_t *heap;                     /* NULL: the words are below */
    struct Asthra__FFIRules *rules;      /* NULL: none */
    void *types;                         /* of a text, ours; NULL: none */
    uintptr_t words[ASTHRA__FFI_INLINE]; /* places, then steps */
} Asthra__FFIPlan;
_Static_assert(sizeof(Asthra__FFIPlan) <= sizeof(((AsthraFFICall *)0)->plan), "a plan fits");

enum { ASTHRA__FFI_PLACE_WORDS = sizeof(Asthra__FFIPlace) / sizeof(uintptr_t) };

static inline Asthra__FFIPlan *asthra__ffi_plan(const AsthraFFICall *c) {
    return (Asthra__FFIPlan *)(void *)(uintptr_t)c->plan;
}
static inline uintptr_t *asthra__ffi_words(Asthra__FFIPlan *p) {
    return p->heap != NULL ? p->heap : p->words;
}
static inline Asthra__FFIPlace *asthra__ffi_places(Asthra__FFIPlan *p) {
    return (Asthra__FFIPlace *)(void *)asthra__ffi_words(p);
}
static inline uintptr_t *asthra__ffi_steps(Asthra__FFIPlan *p) {
    return asthra__ffi_words(p) + (size_t)p->parameters * ASTHRA__FFI_PLACE_WORDS;
}
/* Ready, or made so; false: the reason is in *why. */
ASTHRA__FN bool asthra__ffi_ensure(const AsthraFFICall *c, AsthraResult *why);

/* ---- what makes plans ---- */

typedef struct Asthra__FFISignature {
    const AsthraFFIType *result; /* NULL: void */
    const AsthraFFIType *const *params;
    size_t nparams, nfixed;
    bool is_variadic;
} Asthra__FFISignature;

/* Fills a zeroed plan; it is not READY yet. */
ASTHRA__FN AsthraResult asthra__ffi_plan_for(Asthra__FFIPlan *p, AsthraFFIAbi abi,
                                             const Asthra__FFISignature *s);
ASTHRA__FN void asthra__ffi_empty(Asthra__FFIPlan *p); /* frees what it has; it is zero then */
/* Fills a zeroed plan from a text, as above. */
ASTHRA__FN AsthraResult asthra__ffi_plan_text(Asthra__FFIPlan *p, const char *text);

typedef struct Asthra__FFIBuilder {
    Asthra__FFIPlan *plan;
    uintptr_t *words; /* of the plan, or a larger list */
    size_t count, room;
    bool is_heap, is_out_of_memory;
    bool is_variadic; /* the parameter at hand is; of the function, plan->is_variadic says it */
    AsthraFFIAbi abi;
    /* Of the processor's file: registers and bytes of stack that are taken, the strictest alignment
     * of what is there, and bytes behind the arguments. */
    unsigned ints, floats;
    size_t stack, stack_align, behind;
} Asthra__FFIBuilder;

ASTHRA__FN void asthra__ffi_emit_more(Asthra__FFIBuilder *b, uintptr_t word); /* with more room */
static inline void asthra__ffi_emit(Asthra__FFIBuilder *b, uintptr_t word) {
    if (ASTHRA__LIKELY(b->count < b->room))
        b->words[b->count++] = word;
    else
        asthra__ffi_emit_more(b, word);
}
/* Room for `size` bytes of stack arguments at a multiple of `align`; where they begin. */
ASTHRA__FN size_t asthra__ffi_stack(Asthra__FFIBuilder *b, size_t size, size_t align);

/* The last thing that is done to a place, of a type of that alignment. */
static inline void asthra__ffi_align_place(Asthra__FFIPlace *place, size_t align) {
    uint32_t at = place->how == ASTHRA__FFI_HERE ? place->offset | 16 : 16;
    if (align > (at & (0 - at))) place->how |= ASTHRA__FFI_MOVED;
}

/* The file of the processor. Each returns NULL, or why that is refused as the end of a sentence.
 * begin: of the result; add: of the next parameter, whose place it fills but for the type; end:
 * after the last, with the step that calls and those that store the result. */
ASTHRA__FN const char *asthra__ffi_begin(Asthra__FFIBuilder *b, const AsthraFFIType *result,
                                         Asthra__FFIShape shape);
ASTHRA__FN const char *asthra__ffi_add(Asthra__FFIBuilder *b, const AsthraFFIType *t,
                                       Asthra__FFIShape shape, Asthra__FFIPlace *place);
ASTHRA__FN void asthra__ffi_end(Asthra__FFIBuilder *b);

/* Runs a plan. The frame holds ret and function. */
ASTHRA__FFI_CODE void asthra__ffi_enter(const uintptr_t *steps, void *ret, void *const *args,
                                        size_t stack_bytes,
                                        void *function) __asm__("asthra__ffi_enter");

/* ---- shared by the modules of this floor ---- */

/* ---- rules: what a call does with its arguments beside passing them ---- */

struct AsthraTypeMarshaler;

typedef struct Asthra__FFIRule {
    uint32_t param;
    AsthraTransferSemantics transfer;
    bool is_own;                                 /* of the parameter, and not of the whole call */
    const struct AsthraTypeMarshaler *marshaler; /* NULL: none */
} Asthra__FFIRule;

typedef struct Asthra__FFIRules {
    Asthra__FFIRule *rows; /* by parameter */
    size_t count;
    AsthraTransferSemantics result_transfer;
    void (*result_end)(void *); /* NULL: nothing to do */
    const struct AsthraTypeMarshaler *result_marshaler;
} Asthra__FFIRules;

ASTHRA__FN void asthra__ffi_forget_rules(Asthra__FFIPlan *p);
ASTHRA__FN Asthra__FFIRule *asthra__ffi_find_row(const Asthra__FFIPlan *p, size_t param);
/* Sets what is not NULL; a parameter cannot be both marshaled and handed over. */
ASTHRA__FN AsthraResult asthra__ffi_set_rule(Asthra__FFIPlan *p, size_t param,
                                             const AsthraTransferSemantics *transfer,
                                             const struct AsthraTypeMarshaler *const *marshaler);
/* Of marshaling a parameter or result by m, NULL: no more. The transfer of the whole call passes it
 * by, one of its own does not. */
ASTHRA__FN AsthraResult asthra__ffi_set_marshaled(AsthraFFICall *c, size_t param,
                                                  const struct AsthraTypeMarshaler *m);
ASTHRA__FN const AsthraFFIType *asthra__ffi_type_at(const Asthra__FFIPlan *p, size_t param);
/* The call is prepared and has that parameter, or result; else why not. */
ASTHRA__FN AsthraResult asthra__ffi_expect(AsthraFFICall *c, size_t param, const char *who);
/* Of a type description: what C sees of it. */
ASTHRA__FN AsthraResult asthra__ffi_describe(const AsthraTypeInfo *type, size_t param,
                                             const AsthraFFIType **out);
/* What the fields of a static call say beside its signature. */
ASTHRA__FN AsthraResult asthra__ffi_settle(AsthraFFICall *c);

/* ---- calls by rules ---- */

/* Something to be done when an arena ends, in memory of that arena. */
typedef struct Asthra__FFIDuty {
    struct Asthra__FFIDuty *next;
    void (*run)(void *what, void *user);
    void *what, *user;
} Asthra__FFIDuty;

/* Memory for one call's temporaries: a list of pieces, the first within. */
struct AsthraFFIArena {
    struct Asthra__FFIPiece *pieces; /* newest first */
    Asthra__FFIDuty *duties;         /* newest first */
    char *at, *end;
    unsigned depth; /* of pointers that marshaling has followed to where it is */
    ASTHRA__ALIGNED(ASTHRA__MAX_ALIGN) char first[256];
};
ASTHRA__FN void asthra__ffi_arena_begin(struct AsthraFFIArena *a);
ASTHRA__FN void *asthra__ffi_arena_alloc(struct AsthraFFIArena *a, size_t size); /* NULL: none */
/* The same for a value of that shape, which may be aligned more strictly. */
ASTHRA__FN void *asthra__ffi_arena_value(struct AsthraFFIArena *a, Asthra__FFIShape shape);
ASTHRA__FN void asthra__ffi_arena_end(struct AsthraFFIArena *a); /* does its duties, and is empty */

/* Calls run(record), with the personality of ffi_pass.c for those who unwind through it. */
ASTHRA__FFI_CODE void asthra__ffi_guard(void (*run)(void *record),
                                        void *record) __asm__("asthra__ffi_guard");
/* What is to be put right when a panic or exception comes out of `run`, which else does so itself,
 * by asthra__ffi_leave_guarded if the caller shall see the error that there is, and not one that is
 * made on the way. It lies on the stack of who runs it. If `leave` panics, it is called again, and
 * goes on where it was. */
typedef struct Asthra__FFIGuarded Asthra__FFIGuarded;
struct Asthra__FFIGuarded {
#if ASTHRA_HAS_TASK
    Asthra__FiberGuard guard; /* in the list of that stack */
#endif
    void (*leave)(Asthra__FFIGuarded *g); /* NULL: it was */
    struct AsthraError *error;            /* while it is put aside */
};
ASTHRA__FN void asthra__ffi_run_guarded(Asthra__FFIGuarded *g, void (*run)(void *g));
ASTHRA__FN void asthra__ffi_leave_guarded(Asthra__FFIGuarded *g);

/* invoke, with errno noted and the error rule asked; a word is the value, and in *ret unless that
 * is NULL. */
ASTHRA__FN AsthraResult asthra__ffi_perform(const AsthraFFICall *c, void *ret, void *const *args);
/* The same with marshaling and ownership; args are our values. */
ASTHRA__FN AsthraResult asthra__ffi_pass(AsthraFFICall *c, void *ret, void **args);

/* A pointer that a call passes; if it cannot be handed over, *wrong says why. Then, when the call
 * has failed, takes it back; else forgets what had come in and is not ours. */
ASTHRA__FN AsthraStatus asthra__ffi_hand_over(void *ptr, void *function, const char **wrong);
ASTHRA__FN const char *asthra__ffi_could_hand_over(const void *ptr); /* without doing it */
ASTHRA__FN void asthra__ffi_take_back(void *ptr);
ASTHRA__FN void asthra__ffi_hand_off(void *ptr);
/* A result that is ours, to be ended so; false: no memory to remember it. One to be ended now. */
ASTHRA__FN bool asthra__ffi_adopt(void *ptr, void (*end)(void *));
ASTHRA__FN void asthra__ffi_dispose(void *ptr, void (*end)(void *));
/* At the end of the runtime: tells what is out, and ends what was adopted. */
ASTHRA__FN void asthra__ffi_report(void);
ASTHRA__FN void asthra__ffi_configure(bool is_enabled, bool is_strict);

/* A hook for the collector, which owns blocks that we do not know: pins and unpins one, and takes a
 * result in. Each returns whether it knows the address. NULL: there is no collector. */
typedef struct Asthra__FFICollector {
    bool (*pin)(void *ptr);
    bool (*unpin)(void *ptr);
    bool (*adopt)(void *ptr, void (*end)(void *));
} Asthra__FFICollector;
ASTHRA__FN void asthra__ffi_set_collector(const Asthra__FFICollector *collector); /* static */
ASTHRA__FN const Asthra__FFICollector *asthra__ffi_collector(void);

/* Of marshal.c, declared here because calls by rules need them. */
#if ASTHRA_HAS_MARSHAL
/* What a call needs for a type, to C or, of a result, back; *m NULL: it passes as it is, or not at
 * all. Under the lock nobody registers a marshaler, so that the answer stays the same. */
ASTHRA__FN AsthraResult asthra__marshal_for(const AsthraTypeInfo *type, bool is_back,
                                            const struct AsthraTypeMarshaler **m);
ASTHRA__FN const AsthraFFIType *asthra__marshal_c_type(const struct AsthraTypeMarshaler *m);
/* Makes *c_value in the arena, whose end cleans it up. */
ASTHRA__FN AsthraResult asthra__marshal_enter(const struct AsthraTypeMarshaler *m,
                                              const void *value, void **c_value,
                                              struct AsthraFFIArena *a);
ASTHRA__FN AsthraResult asthra__marshal_result(const struct AsthraTypeMarshaler *m,
                                               const void *c_value, void *out);
/* Our value fits into the value of a result. */
ASTHRA__FN bool asthra__marshal_is_word(const struct AsthraTypeMarshaler *m);
/* Where a string, slice or optional leads to; NULL: nowhere, or nobody knows. */
ASTHRA__FN const void *asthra__marshal_target(const struct AsthraTypeMarshaler *m,
                                              const void *value);
#else
static inline AsthraResult asthra__marshal_for(const AsthraTypeInfo *type, bool is_back,
                                               const struct AsthraTypeMarshaler **m) {
    (void)type, (void)is_back;
    *m = NULL;
    return asthra_result_ok(NULL);
}
static inline const AsthraFFIType *asthra__marshal_c_type(const struct AsthraTypeMarshaler *m) {
    (void)m;
    return NULL;
}
static inline AsthraResult asthra__marshal_enter(const struct AsthraTypeMarshaler *m,
                                                 const void *value, void **c_value,
                                                 struct AsthraFFIArena *a) {
    (void)m, (void)value, (void)c_value, (void)a;
    return asthra_result_ok(NULL);
}
static inline AsthraResult asthra__marshal_result(const struct AsthraTypeMarshaler *m,
                                                  const void *c_value, void *out) {
    (void)m, (void)c_value, (void)out;
    return asthra_result_ok(NULL);
}
static inline bool asthra__marshal_is_word(const struct AsthraTypeMarshaler *m) {
    (void)m;
    return false;
}
static inline const void *asthra__marshal_target(const struct AsthraTypeMarshaler *m,
                                                 const void *value) {
    (void)m, (void)value;
    return NULL;
}
#endif

ASTHRA__FN void asthra__ffi_lock(void); /* of rare things; held over a fork */
ASTHRA__FN void asthra__ffi_unlock(void);

#endif
#endif
