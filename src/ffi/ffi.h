/* ffi - calls of C functions that nobody compiled for us.                      [ffi] contract
 *
 * A type is a descriptor, a signature a list of them. Preparing a call turns its signature into a
 * plan, once, by the rules of the processor's ABI; invoking runs the plan: it loads registers and
 * stack, calls, and stores the result.
 *
 *     AsthraFFICall call;
 *     int32_t base = 2, power = 10;
 *     double result;
 *     asthra_ffi_signature(&call, ASTHRA_FN(ldexp), "d(di)");
 *     ASTHRA_FFI_INVOKE(&call, &result, &(double){1.5}, &power);
 *
 * Processors: x86-64 (System V, and Win64 as gcc's ms_abi), AArch64 (AAPCS64), RISC-V (LP64D), ARM
 * (AAPCS with VFP registers), i386 (cdecl).
 *
 * C++ exceptions pass through calls, and so does whatever else unwinds. A call may be made from
 * any number of threads at once, once it is prepared; setting rules is for one thread, before that.
 *
 * Needs: type, and hand-written assembly. Strip with: ASTHRA_RT_NO_FFI.
 */
#ifndef ASTHRA__FFI_H
#define ASTHRA__FFI_H

#include "../core/result.h"
#include "../core/type.h"

#if ASTHRA_HAS_FFI

/* ---- types ---- */

typedef enum AsthraFFIKind {
    ASTHRA_FFI_VOID, /* as a return only */
    ASTHRA_FFI_BOOL,
    ASTHRA_FFI_S8,
    ASTHRA_FFI_U8,
    ASTHRA_FFI_S16,
    ASTHRA_FFI_U16,
    ASTHRA_FFI_S32,
    ASTHRA_FFI_U32,
    ASTHRA_FFI_S64,
    ASTHRA_FFI_U64,
    ASTHRA_FFI_F32,
    ASTHRA_FFI_F64,
    ASTHRA_FFI_LDBL,  /* long double, as the C compiler has it */
    ASTHRA_FFI_CF32,  /* float _Complex */
    ASTHRA_FFI_CF64,  /* double _Complex */
    ASTHRA_FFI_CLDBL, /* long double _Complex */
    ASTHRA_FFI_PTR,
    ASTHRA_FFI_STRUCT,
    ASTHRA_FFI_UNION,
    ASTHRA_FFI_ARRAY /* inside a struct or union only */
} AsthraFFIKind;

/* A descriptor is read, never written, and lives as long as what was prepared with it. */
typedef struct AsthraFFIType AsthraFFIType;
struct AsthraFFIType {
    AsthraFFIKind kind;
    size_t size, align; /* size 0: both are computed; else both are taken as given */
    const AsthraFFIType *const *fields;
    size_t count; /* of fields; an array: of fields[0] */
};

/* Ready-made descriptors, &asthra_ffi_type_s32. Each unit has copies of its own, so that static
 * data can name them; what counts is the kind, not the address. */
#define ASTHRA__FFI(word, KIND) asthra_ffi_type_##word = {ASTHRA_FFI_##KIND, 0, 0, NULL, 0}
ASTHRA__CONST AsthraFFIType ASTHRA__FFI(void, VOID), ASTHRA__FFI(bool, BOOL), ASTHRA__FFI(s8, S8),
    ASTHRA__FFI(u8, U8), ASTHRA__FFI(s16, S16), ASTHRA__FFI(u16, U16), ASTHRA__FFI(s32, S32),
    ASTHRA__FFI(u32, U32), ASTHRA__FFI(s64, S64), ASTHRA__FFI(u64, U64), ASTHRA__FFI(f32, F32),
    ASTHRA__FFI(f64, F64), ASTHRA__FFI(ldbl, LDBL), ASTHRA__FFI(cf32, CF32),
    ASTHRA__FFI(cf64, CF64), ASTHRA__FFI(cldbl, CLDBL), ASTHRA__FFI(ptr, PTR);

/* Size, alignment and, of a struct or union, the offset of each field (offset: `count` of them);
 * all three in bytes, each pointer may be NULL. Fields of a type whose size is given lie as if no
 * field were aligned more strictly than the type (#pragma pack); where they do not fit then, as if
 * the type were packed.
 *
 * Returns   OK; ASTHRA_INVALID: the descriptor makes no sense, and the message says why.
 */
ASTHRA_RT_API AsthraResult asthra_ffi_layout(const AsthraFFIType *t, size_t *size, size_t *align,
                                             size_t *offset);

/* The descriptor of a type description: of a ready-made scalar or pointer, of an enum, or of one
 * with a field table. Made once for each type, and never freed.
 *
 * Returns   NULL: it has no C layout, or memory ran out; asthra_last_error() says which. */
ASTHRA_RT_API const AsthraFFIType *asthra_ffi_type_of(const AsthraTypeInfo *type);

/* ---- calls ---- */

typedef enum AsthraFFIAbi {
    ASTHRA_FFI_ABI_DEFAULT, /* what the C compiler calls by */
    ASTHRA_FFI_ABI_SYSV64,  /* on x86-64 */
    ASTHRA_FFI_ABI_WIN64    /* on x86-64: functions with __attribute__((ms_abi)) */
} AsthraFFIAbi;

/* Who owns what a pointer leads to once the call has been made. */
typedef enum AsthraTransferSemantics {
    ASTHRA_TRANSFER_NONE = 0, /* nothing changes hands: C borrows it for the call */
    ASTHRA_TRANSFER_FULL,     /* the block and what is in it */
    ASTHRA_TRANSFER_CONTAINER /* the block; what it points to stays with its owner */
} AsthraTransferSemantics;

/* Which return values are failures. */
typedef enum AsthraFFIErrorRule {
    ASTHRA_FFI_ERROR_NEVER = 0,
    ASTHRA_FFI_ERROR_NEGATIVE,
    ASTHRA_FFI_ERROR_NULL,
    ASTHRA_FFI_ERROR_NONZERO
} AsthraFFIErrorRule;

/* What asthra_result_context gives of a call that failed by its rule; lives as the message does. */
typedef struct AsthraFFIError {
    int type;                      /* AsthraStatus of the result */
    int errno_value;               /* 0: the function set none */
    const char *message, *context; /* context: the call's safety_contract, or NULL */
} AsthraFFIError;

/* One function and its signature. Either one of the functions below prepares it, or it is static
 * data that prepares itself at its first call, from its first fields: `signature`, or else the
 * types. Prepared, it may be moved, but of two copies only one is released. */
typedef struct AsthraFFICall {
    void *function_ptr;                       /* ASTHRA_FN(f) */
    AsthraTransferSemantics transfer;         /* of all parameters and the return; zero: NONE */
    const AsthraTypeInfo *const *param_types; /* param_count of them */
    size_t param_count;
    const AsthraTypeInfo *return_type; /* NULL: void */
    bool is_safe;                /* true once prepared; set it to false to have _safe refuse */
    const char *safety_contract; /* said when a call is refused; NULL: nothing to say */
    const char *signature;       /* not NULL: instead of the types */
    uint64_t plan[32];           /* opaque; zero before it is prepared */
} AsthraFFICall;

#define ASTHRA_FFI_RETURN ((size_t)-1) /* where a parameter's number is asked */

/* Prepares a call of fn: its return type (NULL: void), its parameters, and how many of these are
 * named: nfixed < nparams makes it variadic. fn NULL prepares a bare signature, for closures.
 * Whatever *c held is overwritten.
 *
 * Returns   OK; ASTHRA_INVALID: `parameter N` (from 0) or `return` and what is wrong with it: a
 *           NULL, a void parameter, no fields, a type that contains itself, a variadic parameter of
 *           a type that C promotes; ASTHRA_OUT_OF_MEMORY.
 * Owns      the list may die, descriptors may not. What many parameters need is allocated, and
 *           freed by asthra_ffi_release.
 * Cost      some 100 ns.
 */
ASTHRA_RT_API AsthraResult asthra_ffi_prepare(AsthraFFICall *c, void *fn, const AsthraFFIType *ret,
                                              const AsthraFFIType *const *params, size_t nparams,
                                              size_t nfixed);
ASTHRA_RT_API AsthraResult asthra_ffi_prepare_abi(AsthraFFICall *c, AsthraFFIAbi abi, void *fn,
                                                  const AsthraFFIType *ret,
                                                  const AsthraFFIType *const *params,
                                                  size_t nparams, size_t nfixed);

/* The same from a text: return type, and parameters in parentheses. Blanks do not count.
 *
 *     v void           c C int8_t, uint8_t      f F float, float _Complex        p pointer
 *     B bool           s S int16_t, uint16_t    d D double, double _Complex      {..} struct
 *                      i I int32_t, uint32_t    g G long double, and _Complex    <..> union
 *                      l L int64_t, uint64_t                                     [3i] array
 *
 * "i(p...i)": what follows the dots is variadic; with nothing after them none is passed. "v()" has
 * no parameters. `text` is copied. */
ASTHRA_RT_API AsthraResult asthra_ffi_signature(AsthraFFICall *c, void *fn, const char *text);

/* Frees what preparing allocated. The call can be prepared again, or released again, and no more; a
 * static one prepares itself at its next call. NULL is allowed. */
ASTHRA_RT_API void asthra_ffi_release(AsthraFFICall *c);

/* Calls. args[i] is the address of the i-th argument's value; ret receives exactly the bytes of the
 * return type, or is NULL where nobody wants them. Neither args nor the values are written. No
 * rule, check or transfer applies, and errno is whatever the function leaves. A call that is not
 * prepared and cannot prepare itself is a panic, as is a bare signature.
 * Cost      a few ns, and less than 1 for each argument; allocates nothing but a place for a result
 *           above 4 KiB that nobody wants. */
ASTHRA_RT_API void asthra_ffi_invoke(const AsthraFFICall *c, void *ret, void *const *args);

/* ASTHRA_FFI_INVOKE(&call, &result, &a, &b): asthra_ffi_invoke with the addresses of its arguments;
 * without any: ASTHRA_FFI_INVOKE(&call, &result, NULL). */
#ifndef __cplusplus
#define ASTHRA_FFI_INVOKE(call, ret, ...) \
    asthra_ffi_invoke((call), (ret), (void *const[]){__VA_ARGS__})
#else
#define ASTHRA_FFI_INVOKE(call, ret, ...)            \
    do {                                             \
        void *const asthra__a[] = {__VA_ARGS__};     \
        asthra_ffi_invoke((call), (ret), asthra__a); \
    } while (0)
#endif

/* Calls by the rules: marshals and hands over what the call says, sets errno to 0 before and notes
 * it afterwards, and tells by the call's error rule whether it failed. A longjmp must not pass it.
 *
 * Returns   OK with the function's result as value: an integer widened to 64 bits, a bool as 0 or
 *           1, a float widened to double, a pointer. Else ASTHRA_INVALID: a result that is no word
 *           needs asthra_ffi_call_into; or what preparing says. A call that failed by its rule:
 *           ASTHRA_OUT_OF_MEMORY, ASTHRA_INVALID or ASTHRA_FAILED for ENOMEM, EINVAL, others; its
 *           detail is errno and its context an AsthraFFIError. Under strict_ffi_safety also what
 *           asthra_ffi_call_safe says.
 */
ASTHRA_RT_API AsthraResult asthra_ffi_call(AsthraFFICall *c, void **args);

/* The same, and always validates before: the function and every args[i] are there, the function can
 * be executed, no value lies in freed memory of our zones, no pointer leads there, nor a string, a
 * slice or an optional that is marshaled; what is handed over can be.
 *
 * Returns   also ASTHRA_INVALID: "Unsafe FFI call", the rule that failed, and the call's
 *           safety_contract. Nothing was called or handed over then.
 */
ASTHRA_RT_API AsthraResult asthra_ffi_call_safe(AsthraFFICall *c, void **args);

/* As asthra_ffi_call; the result, of any type, is stored in *ret, and a word is the value too. */
ASTHRA_RT_API AsthraResult asthra_ffi_call_into(AsthraFFICall *c, void *ret, void **args);

/* Returns   OK; ASTHRA_INVALID: the return type does not go with the rule, or c is not prepared and
 *           cannot be. Threads: one, before the call is shared. */
ASTHRA_RT_API AsthraResult asthra_ffi_set_error_rule(AsthraFFICall *c, AsthraFFIErrorRule rule);

/* errno as the last asthra_ffi_call, _safe or _into of this thread found it after its function. */
ASTHRA_RT_API int asthra_ffi_last_errno(void);

/* ---- who owns what ---- */

/* What happens to the pointer that is parameter `param`, or ASTHRA_FFI_RETURN.
 *
 * NONE, the default of a zeroed call: C borrows. Collected memory stays alive and where it is.
 * FULL and CONTAINER, of a parameter: if the pointer leads to the beginning of a block of ours, the
 * block is pinned and remembered as out before the call; a free of it panics until it is reclaimed.
 * After a call that failed by its rule it is not out. Memory of others, which C frees by its own
 * means, is just passed on, and so is NULL. A pointer into a block, or one that is out already, is
 * refused: ASTHRA_INVALID.
 * FULL, of the return: the result is ours. With a collector it belongs to that; the function of
 * asthra_ffi_set_return_free, if there is one, frees it: after a marshaler has made a value of it,
 * or when nobody is told of it, as the result of a failed call; else when it is reclaimed, or at
 * asthra_runtime_shutdown. Handed on to C it is C's, and if it is a block of ours, again as it was
 * once it is reclaimed.
 * CONTAINER, of the return: likewise, and that function must free the block alone.
 *
 * Returns   OK; ASTHRA_INVALID: there is no such parameter, or it is no pointer, or marshaled. */
ASTHRA_RT_API AsthraResult asthra_ffi_set_transfer(AsthraFFICall *c, size_t param,
                                                   AsthraTransferSemantics how);
ASTHRA_RT_API AsthraResult asthra_ffi_set_return_free(AsthraFFICall *c, void (*end)(void *));

/* Takes back what is out, or frees the result that ptr was by its call's function.
 * Returns   OK; ASTHRA_INVALID: ptr is neither. Cost: a lock, and a look into a table. */
ASTHRA_RT_API AsthraResult asthra_ffi_reclaim(void *ptr);

/* How many blocks are out. asthra_runtime_shutdown reports them on stderr, with the functions that
 * they were handed to. */
ASTHRA_RT_API size_t asthra_ffi_transferred_count(void);

/* A call of the system by its number, with at most six arguments. In a task it runs as an
 * asthra_external_call does, so that it may block, and a cancelled task waits for its end: until
 * then the system may write to where args say. On a plain thread it is made right here.
 *
 * Returns   OK and what the system returned as an integer; a failure as one of asthra_ffi_call, by
 *           errno; ASTHRA_INVALID: more than six, or a build without calls of Linux. */
ASTHRA_RT_API AsthraResult asthra_ffi_syscall(long number, const long *args, size_t count);

#endif
#endif
