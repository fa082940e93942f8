/* exceptions - C++ exceptions in tasks: each task has its own, also while a destructor waits amid the
 * unwinding of one, and one that nobody catches ends in std::terminate, not beyond the stack. And
 * exceptions that pass through foreign calls and closures. */
#include "asthra_rt.h"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>

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

#if ASTHRA_HAS_CLOSURE

struct Many {
    long words[6];
};

static int throws(int a, double b, Many m, void *block) {
    Counted counted = {&a};
    if (block == NULL && a > 100) return a;
    throw std::runtime_error(b == 2.5 && m.words[5] == 6 ? "as it should be" : "arguments lost");
}

static void handles(const AsthraFFICall *, void *, void **args, void *user) {
    ++*static_cast<int *>(user);
    if (*static_cast<int *>(args[0]) == 7) throw std::runtime_error("as it should be");
}

/* Whether one came through, whole. */
static bool comes_through(const AsthraFFICall *call, int *a, double *b, Many *m, void **block) {
    try {
        int result;
        ASTHRA_FFI_INVOKE(call, &result, a, b, m, block);
    } catch (const std::runtime_error &e) {
        return std::string(e.what()) == "as it should be";
    }
    return false;
}

static bool calls_let_through() {
    AsthraFFICall call;
    int a = 1;
    double b = 2.5;
    Many m = {{1, 2, 3, 4, 5, 6}};
    void *block = asthra_manual_alloc(24);
    const char *text = sizeof(long) == 8 ? "i(id{llllll}p)" : "i(id{iiiiii}p)";
    if (asthra_ffi_signature(&call, ASTHRA_FN(throws), text).status) return false;
    for (int i = 0; i < 3; i++)
        if (!comes_through(&call, &a, &b, &m, &block)) return false;
    /* A block that was to be handed over stays ours. */
    void *args[] = {&a, &b, &m, &block};
    bool is_caught = false;
    asthra_ffi_set_transfer(&call, 3, ASTHRA_TRANSFER_FULL);
    try {
        asthra_ffi_call(&call, args);
    } catch (const std::runtime_error &) {
        is_caught = asthra_ffi_transferred_count() == 0 && asthra_pin_count(block) == 0;
    }
    asthra_manual_free(block);
    asthra_ffi_release(&call);
    return is_caught;
}

static bool closures_let_through() {
    int handled = 0, caught = 0;
    AsthraFFIClosure *closure = asthra_ffi_closure_bind_signature("i(idd)", handles, &handled);
    AsthraFFICall call;
    int seven = 7;
    double b = 1;
    if (closure == NULL) return false;
    void *code = asthra_ffi_closure_function(closure);
    if (asthra_ffi_signature(&call, code, "i(idd)").status) return false;
    for (int i = 0; i < 3; i++) {
        try {
            ASTHRA_FN_AS(int (*)(int, double, double), code)(7, 1, 2);
        } catch (const std::runtime_error &) {
            caught++;
        }
        try { /* through both at once */
            ASTHRA_FFI_INVOKE(&call, NULL, &seven, &b, &b);
        } catch (const std::runtime_error &) {
            caught++;
        }
    }
    asthra_ffi_closure_destroy(closure);
    return handled == 6 && caught == 6;
}

/* What is marshaled is cleaned up, newest first, when the exception arrives. */
static std::string story;
static AsthraResult notes(const void *value, void *c_out, AsthraFFIArena *, void *) {
    story += '+';
    *static_cast<int *>(c_out) = *static_cast<const int *>(value);
    return asthra_result_ok(NULL);
}
static void forgets(void *c_value, void *) {
    story += static_cast<char>('0' + *static_cast<int *>(c_value));
}
static const AsthraTypeMarshaler note = {
    &asthra_type_i32, &asthra_ffi_type_s32, notes, NULL, forgets, NULL, NULL};

typedef int (*Ask)(int, double, double);
static int asks(const char *text, Ask ask, int a, int b) {
    story += text;
    return ask(a, 0, 0) + b;
}

static bool marshaled_is_cleaned_up() {
    static const AsthraTypeInfo ask_type = ASTHRA_TYPE_CALLBACK("i(idd)");
    static const AsthraTypeInfo *const types[] = {&asthra_type_string, &ask_type, &asthra_type_i32,
                                                  &asthra_type_i32};
    AsthraFFICall call = AsthraFFICall();
    int handled = 0, caught = 0, seven = 7, eight = 8;
    AsthraString text = {2, "?!?"};
    AsthraClosure ask = {ASTHRA_FN(handles), &handled};
    void *args[] = {&text, &ask, &seven, &eight};
    call.function_ptr = ASTHRA_FN(asks);
    call.param_types = types;
    call.param_count = 4;
    if (asthra_ffi_set_marshaler(&call, 2, &note).status) return false;
    if (asthra_ffi_set_marshaler(&call, 3, &note).status) return false;
    for (int i = 0; i < 3; i++) {
        try {
            asthra_ffi_call(&call, args);
        } catch (const std::runtime_error &) {
            if (story == "++?!87") caught++;
        }
        story.clear();
    }
    asthra_ffi_release(&call);
    return handled == 3 && caught == 3;
}

/* The cleanup of 8 throws, or panics; that of 7, which was made first, comes after it. */
static void forgets_or_throws(void *c_value, void *panics) {
    forgets(c_value, NULL);
    if (*static_cast<int *>(c_value) != 8) return;
    if (panics != NULL) asthra_panic("while cleaning up");
    throw std::runtime_error("while cleaning up");
}
static int throws_odd(int a, int b) {
    if (a % 2 != 0) throw std::runtime_error("odd");
    return b;
}

static void asks_for_two(int a, void *panics) {
    AsthraTypeMarshaler m = note;
    int b = 8;
    void *args[] = {&a, &b};
    AsthraFFICall call;
    m.cleanup_c = forgets_or_throws;
    m.user = panics;
    asthra_ffi_signature(&call, ASTHRA_FN(throws_odd), "i(ii)");
    asthra_ffi_set_marshaler(&call, 0, &m);
    asthra_ffi_set_marshaler(&call, 1, &m);
    try {
        asthra_ffi_call(&call, args);
    } catch (const std::runtime_error &) {
        story += '!';
    }
    asthra_ffi_release(&call);
}
static void *panics_midway(void *unused) {
    asthra_panic_set_policy(ASTHRA_PANIC_FAIL_TASK);
    asks_for_two(7, unused);
    return unused;
}

static bool cleanups_may_throw() {
    asks_for_two(6, NULL);
    if (story != "++86!") return false;
    story.clear();
    void *value;
    AsthraResult r = asthra_await_result(asthra_spawn(panics_midway, &story), &value);
    return r.status == ASTHRA_PANICKED && story == "++87";
}

/* What a result needs that nobody wants is given back: a leak is the sanitizer's to tell. */
struct Large {
    char bytes[6000];
};
static Large throws_instead() {
    throw std::runtime_error("nothing");
}
static bool unwanted_results_let_through() {
    AsthraFFICall call;
    bool is_caught = false;
    asthra_ffi_signature(&call, ASTHRA_FN(throws_instead), "{[6000c]}()");
    try {
        asthra_ffi_invoke(&call, NULL, NULL);
    } catch (const std::runtime_error &) {
        is_caught = true;
    }
    asthra_ffi_release(&call);
    return is_caught;
}

#else
static bool calls_let_through() {
    return true;
}
static bool cleanups_may_throw() {
    return true;
}
static bool unwanted_results_let_through() {
    return true;
}
static bool marshaled_is_cleaned_up() {
    return true;
}
static bool closures_let_through() {
    return true;
}
#endif

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
    if (!calls_let_through() || !closures_let_through() || !unwanted_results_let_through()) {
        std::printf("an exception was lost in a foreign call or closure\n");
        return 3;
    }
    if (!marshaled_is_cleaned_up() || !cleanups_may_throw()) {
        std::printf("what was marshaled was not cleaned up\n");
        return 4;
    }
    std::set_terminate(terminated);
    asthra_await(asthra_spawn(lets_one_out, &divers[0].unwound));
    return 2;
}
