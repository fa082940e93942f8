/* typed - tasks and channels that know their types.                         [typed] contract
 *
 * The macros here make plain functions, with which the common program needs no cast, no struct of
 * arguments and no free. They stand where a function would: at file scope, in one file, or in a
 * header by their _DECLARE forms. Types are whatever C can pass by value and copy as bytes; one
 * that is spelt around its name (a function pointer, an array in a struct) needs a typedef.
 *
 * What is of the wrong type, or missing, is the compiler's error at the caller's line. (Pointers of
 * another type are only a warning to gcc before 14 and clang before 16, as in any call of C.)
 * Needs: task; channels need channel, their cases in a select need select.  Nothing to strip: these
 * are macros.
 */
#ifndef ASTHRA__TYPED_H
#define ASTHRA__TYPED_H

#include "select.h"
#include "task.h"

#if ASTHRA_HAS_TYPED

/* ---- tasks ---- */

/* A function of 1 to 8 arguments that can also run as a task:
 *
 *     ASTHRA_TASK(int64_t, count_words, (const char *, path), (size_t, from)) {
 *         ...
 *         return words;
 *     }
 *
 *     int64_t count_words(const char *path, size_t from);            calls it
 *     count_words_task count_words_go(const char *path, size_t from);   spawns it
 *     int64_t count_words_await(count_words_task t);          waits, consumes t, gives the result
 *
 * The body may use all three. Arguments and the result, of any size, are copied; nobody frees.
 * `t.task` is an ordinary handle, to be cancelled, retained, asked for its state or detached. Go
 * gives the zero handle where asthra_spawn does, and awaiting that panics with the reason. Await
 * panics if the task panicked, with its message; the result of a task that was cancelled before it
 * started is zeroes. Panics name the task and the line of its ASTHRA_TASK, not the caller's, which
 * is in the stack.
 *
 * Cost   as asthra_spawn and asthra_await while the arguments take at most 16 bytes and the result
 *        at most 16, else as asthra_spawn_copy. */
#define ASTHRA_TASK(R, name, ...)                         \
    ASTHRA__TASK_OF(static, VALUE, R, name, __VA_ARGS__); \
    static R name ASTHRA__PARAMETERS(__VA_ARGS__)

/* The same of a function that returns nothing. */
#define ASTHRA_TASK_VOID(name, ...)                         \
    ASTHRA__TASK_OF(static, VOID, void, name, __VA_ARGS__); \
    static void name ASTHRA__PARAMETERS(__VA_ARGS__)

/* For headers, followed by a semicolon: the function itself is external, and one file holds it as
 * plain C: int64_t count_words(const char *path, size_t from) { ... } */
#define ASTHRA_TASK_DECLARE(R, name, ...) ASTHRA__TASK_OF(extern, VALUE, R, name, __VA_ARGS__)
#define ASTHRA_TASK_DECLARE_VOID(name, ...) ASTHRA__TASK_OF(extern, VOID, void, name, __VA_ARGS__)

/* All of them without arguments: ASTHRA_TASK0(double, measure) { ... } */
#define ASTHRA_TASK0(R, name)                 \
    ASTHRA__TASK0_OF(static, VALUE, R, name); \
    static R name(void)
#define ASTHRA_TASK0_VOID(name)                 \
    ASTHRA__TASK0_OF(static, VOID, void, name); \
    static void name(void)
#define ASTHRA_TASK0_DECLARE(R, name) ASTHRA__TASK0_OF(extern, VALUE, R, name)
#define ASTHRA_TASK0_DECLARE_VOID(name) ASTHRA__TASK0_OF(extern, VOID, void, name)

/* How the macros are made. EACH: m(type, name) for each argument, with s() between. */
#define ASTHRA__COUNT_(a, b, c, d, e, f, g, h, i, k, ...) k
#define ASTHRA__COUNT(...) ASTHRA__COUNT_(__VA_ARGS__, 8, 7, 6, 5, 4, 3, 2, 1, 0, ~)
#define ASTHRA__E1(m, s, a) m a
#define ASTHRA__E2(m, s, a, b) m a s() m b
#define ASTHRA__E3(m, s, a, b, c) m a s() m b s() m c
#define ASTHRA__E4(m, s, a, b, c, d) m a s() m b s() m c s() m d
#define ASTHRA__E5(m, s, a, b, c, d, e) m a s() m b s() m c s() m d s() m e
#define ASTHRA__E6(m, s, a, b, c, d, e, f) m a s() m b s() m c s() m d s() m e s() m f
#define ASTHRA__E7(m, s, a, b, c, d, e, f, g) m a s() m b s() m c s() m d s() m e s() m f s() m g
#define ASTHRA__E8(m, s, a, b, c, d, e, f, g, h) \
    m a s() m b s() m c s() m d s() m e s() m f s() m g s() m h
#define ASTHRA__EACH(m, s, ...) \
    ASTHRA__CAT(ASTHRA__E, ASTHRA__COUNT(~, __VA_ARGS__))(m, s, __VA_ARGS__)
#define ASTHRA__COMMA() ,
#define ASTHRA__NOTHING()
#define ASTHRA__BARE(...) __VA_ARGS__
#define ASTHRA__PARAMETER(t, n) t n
#define ASTHRA__TYPE_AND_NAME(t, n) t n;
#define ASTHRA__VALUE(t, n) n
#define ASTHRA__GET(t, n) asthra__block->in.n
#define ASTHRA__PARAMETERS(...) (ASTHRA__EACH(ASTHRA__PARAMETER, ASTHRA__COMMA, __VA_ARGS__))

/* C would decay an array on its way; C++ refuses it by itself. */
#ifdef __cplusplus
#define ASTHRA__CLAIM(claim, text) static_assert(claim, text)
#define ASTHRA__ARGUMENT(t, n)
#else
#define ASTHRA__CLAIM(claim, text) __extension__ _Static_assert(claim, text)
#define ASTHRA__IS_SAME(a, b) __builtin_types_compatible_p(__typeof__(a), __typeof__(b))
#define ASTHRA__ARGUMENT(t, n)                            \
    enum { asthra__name_of_argument_##n };                \
    ASTHRA__CLAIM(ASTHRA__IS_SAME(n, asthra__block.in.n), \
                  #n " is an array: pass its address, or a struct that holds it");
#endif

#define ASTHRA__VALUE_RESULT(R) R result;
#define ASTHRA__VALUE_KEEP asthra__block->result =
#define ASTHRA__VALUE_AWAIT(R, t, who)                                  \
    union {                                                             \
        R result;                                                       \
        AsthraTaskWords words;                                          \
    } asthra__block;                                                    \
    if (sizeof(R) <= sizeof(AsthraTaskWords))                           \
        asthra__block.words = asthra_await_words_at(t, who);            \
    else                                                                \
        asthra_await_copy_at(t, &asthra__block.result, sizeof(R), who); \
    return asthra__block.result;
#define ASTHRA__VOID_RESULT(R)
#define ASTHRA__VOID_KEEP
#define ASTHRA__VOID_AWAIT(R, t, who) asthra_await_words_at(t, who);

/* The result takes the place of the arguments, which have been passed on by then. */
#define ASTHRA__TASK(link, kind, R, name, parameters, fields, claims, values, arguments)      \
    typedef struct {                                                                          \
        AsthraTaskHandle task;                                                                \
    } name##_task;                                                                            \
    union name##__block {                                                                     \
        struct {                                                                              \
            fields                                                                            \
        } in;                                                                                 \
        ASTHRA__##kind##_RESULT(R) AsthraTaskWords words;                                     \
    };                                                                                        \
    ASTHRA__CLAIM(ASTHRA__ALIGNOF(union name##__block) <= 2 * sizeof(void *),                 \
                  #name ": more than malloc's alignment; pass the address of what needs it"); \
    link R name parameters;                                                                   \
    ASTHRA_UNUSED static void *name##__run(void *asthra__args) {                              \
        union name##__block *asthra__block = (union name##__block *)asthra__args;             \
        (void)asthra__block;                                                                  \
        ASTHRA__##kind##_KEEP name arguments;                                                 \
        return asthra__args;                                                                  \
    }                                                                                         \
    ASTHRA__INLINE name##_task name##_go parameters {                                         \
        union name##__block asthra__block = {{ASTHRA__BARE values}};                          \
        name##_task asthra__task;                                                             \
        claims if (sizeof asthra__block <= sizeof(AsthraTaskWords)) asthra__task.task =       \
            asthra_spawn_words_at(name##__run, asthra__block.words, ASTHRA__AT(#name));       \
        else asthra__task.task =                                                              \
            asthra_spawn_room_at(name##__run, &asthra__block.in, sizeof asthra__block.in,     \
                                 sizeof asthra__block, ASTHRA__AT(#name));                    \
        return asthra__task;                                                                  \
    }                                                                                         \
    ASTHRA__INLINE R name##_await(name##_task asthra__task) {                                 \
        ASTHRA__##kind##_AWAIT(R, asthra__task.task, ASTHRA__AT(#name "_await"))              \
    }                                                                                         \
    union name##__block
#define ASTHRA__TASK_OF(link, kind, R, name, ...)                                   \
    ASTHRA__TASK(link, kind, R, name, ASTHRA__PARAMETERS(__VA_ARGS__),              \
                 ASTHRA__EACH(ASTHRA__TYPE_AND_NAME, ASTHRA__NOTHING, __VA_ARGS__), \
                 ASTHRA__EACH(ASTHRA__ARGUMENT, ASTHRA__NOTHING, __VA_ARGS__),      \
                 (ASTHRA__EACH(ASTHRA__VALUE, ASTHRA__COMMA, __VA_ARGS__)),         \
                 (ASTHRA__EACH(ASTHRA__GET, ASTHRA__COMMA, __VA_ARGS__)))
#define ASTHRA__TASK0_OF(link, kind, R, name) \
    ASTHRA__TASK(link, kind, R, name, (void), char none;, , (0), ())

/* ---- channels ---- */

#if ASTHRA_HAS_CHANNEL

/* A channel of values of type T, at file scope:
 *
 *     ASTHRA_CHANNEL_TYPE(Lines, char *);
 *
 *     Lines lines = Lines_create(8);           named "Lines"; raw is NULL if it failed
 *     AsthraResult r = Lines_send(lines, text);
 *     char *line;
 *     while (Lines_receive(lines, &line)) puts(line);
 *     ASTHRA_SELECT(s) {                       a NULL channel is never ready there
 *         if (Lines_case_receive(&s, lines, &line)) ...
 *         else if (Lines_case_send(&s, others, &text)) ...
 *     }
 *     Lines_close(lines);
 *     Lines_destroy(lines);
 *
 * and _try_send, _try_receive, _send_timeout and _receive_timeout; each is its namesake in channel,
 * _receive asthra_channel_next. T is also Lines_value. Lines is a value that holds the channel:
 * `lines.raw` serves for what has no form here, and a channel from elsewhere can be put there. One
 * that is NULL, or whose values have another size, panics and names the line of its
 * ASTHRA_CHANNEL_TYPE. */
#define ASTHRA_CHANNEL_TYPE(name, T)                                                              \
    typedef T name##_value;                                                                       \
    typedef struct {                                                                              \
        AsthraChannel *raw;                                                                       \
    } name;                                                                                       \
    ASTHRA__INLINE name name##_create(size_t asthra__capacity) {                                  \
        name asthra__c;                                                                           \
        asthra__c.raw = asthra_channel_create(sizeof(name##_value), asthra__capacity, #name);     \
        return asthra__c;                                                                         \
    }                                                                                             \
    ASTHRA__INLINE AsthraResult name##_send(name asthra__c, T asthra__v) {                        \
        ASTHRA__ELEMENT(name, asthra__v);                                                         \
        return asthra_channel_send(ASTHRA__CHANNEL(name, _send, asthra__c), &asthra__v);          \
    }                                                                                             \
    ASTHRA__INLINE bool name##_receive(name asthra__c, name##_value *asthra__out) {               \
        return asthra_channel_next(ASTHRA__CHANNEL(name, _receive, asthra__c), asthra__out,       \
                                   sizeof(name##_value));                                         \
    }                                                                                             \
    ASTHRA__INLINE AsthraResult name##_try_send(name asthra__c, T asthra__v) {                    \
        return asthra_channel_try_send(ASTHRA__CHANNEL(name, _try_send, asthra__c), &asthra__v);  \
    }                                                                                             \
    ASTHRA__INLINE AsthraResult name##_try_receive(name asthra__c, name##_value *asthra__out) {   \
        return asthra_channel_try_receive(ASTHRA__CHANNEL(name, _try_receive, asthra__c),         \
                                          asthra__out);                                           \
    }                                                                                             \
    ASTHRA__INLINE AsthraResult name##_send_timeout(name asthra__c, T asthra__v,                  \
                                                    int64_t asthra__ns) {                         \
        AsthraChannel *asthra__raw = ASTHRA__CHANNEL(name, _send_timeout, asthra__c);             \
        return asthra_channel_send_timeout(asthra__raw, &asthra__v, asthra__ns);                  \
    }                                                                                             \
    ASTHRA__INLINE AsthraResult name##_receive_timeout(name asthra__c, name##_value *asthra__out, \
                                                       int64_t asthra__ns) {                      \
        AsthraChannel *asthra__raw = ASTHRA__CHANNEL(name, _receive_timeout, asthra__c);          \
        return asthra_channel_receive_timeout(asthra__raw, asthra__out, asthra__ns);              \
    }                                                                                             \
    ASTHRA__INLINE bool name##_close(name asthra__c) {                                            \
        return asthra_channel_close(ASTHRA__CHANNEL(name, _close, asthra__c));                    \
    }                                                                                             \
    ASTHRA__INLINE void name##_destroy(name asthra__c) {                                          \
        asthra_channel_destroy(ASTHRA__CHANNEL(name, _destroy, asthra__c));                       \
    }                                                                                             \
    ASTHRA__CHANNEL_CASES(name)                                                                   \
    typedef name##_value name##__element

#if ASTHRA_HAS_SELECT
#define ASTHRA__CHANNEL_CASES(name)                                                                \
    ASTHRA__INLINE bool name##_case_receive(AsthraSelect *asthra__s, name asthra__c,               \
                                            name##_value *asthra__out) {                           \
        return asthra_case_receive_at(asthra__s, asthra__c.raw, asthra__out, sizeof(name##_value), \
                                      ASTHRA__AT(#name "_case_receive"));                          \
    }                                                                                              \
    ASTHRA__INLINE bool name##_case_send(AsthraSelect *asthra__s, name asthra__c,                  \
                                         const name##_value *asthra__value) {                      \
        return asthra_case_send_at(asthra__s, asthra__c.raw, asthra__value, sizeof(name##_value),  \
                                   ASTHRA__AT(#name "_case_send"));                                \
    }
#else
#define ASTHRA__CHANNEL_CASES(name)
#endif

#define ASTHRA__CHANNEL(name, verb, c) \
    asthra_channel_expect((c).raw, sizeof(name##_value), ASTHRA__AT(#name #verb))
#ifdef __cplusplus
#define ASTHRA__ELEMENT(name, v)     \
    name##_value *asthra__at = &(v); \
    (void)asthra__at
#else
#define ASTHRA__ELEMENT(name, v)                    \
    ASTHRA__CLAIM(ASTHRA__IS_SAME(v, name##_value), \
                  #name ": its values are arrays: put the array into a struct")
#endif

#endif

#endif
#endif
