/* Shared objects at run time. A static program has no loader: there each test that needs one sees
 * that opening says so, and is skipped. */
#include "test.h"
#include "asthra_rt.h"

#include <dlfcn.h>
#include <sys/auxv.h>

static AsthraFFILibrary *library_none(void) {
    return (AsthraFFILibrary *)(uintptr_t)1;
}

/* Whether the system loaded a loader with this program. */
static bool has_loader(void) {
    return getauxval(AT_BASE) != 0;
}

static AsthraFFILibrary *open_or_skip(const char *path) {
    AsthraFFILibrary *l = library_none();
    AsthraResult r = asthra_ffi_library_open(&l, path);
    if (!has_loader()) {
        CHECK_EQ(r.status, ASTHRA_FAILED);
        CHECK(l == NULL);
        SKIP("a static program has no loader");
    }
    if (r.status) fprintf(stderr, "%s\n", asthra_result_message(r));
    CHECK_EQ(r.status, ASTHRA_OK);
    CHECK(l != NULL);
    return l;
}

static void *symbol(AsthraFFILibrary *l, const char *name) {
    void *out = NULL;
    CHECK_EQ(asthra_ffi_library_symbol(l, name, &out).status, ASTHRA_OK);
    return out;
}

static void close_well(AsthraFFILibrary *l) {
    CHECK_EQ(asthra_ffi_library_close(l).status, ASTHRA_OK);
}

/* A failure whose message has these three, in this order. */
static void check_failed(AsthraResult r, const char *first, const char *second, const char *third) {
    const char *text = asthra_result_message(r);
    fprintf(stderr, "%s\n", text);
    CHECK_EQ(r.status, ASTHRA_FAILED);
    CHECK(strncmp(text, first, strlen(first)) == 0);
    CHECK((text = strstr(text, second)) != NULL);
    CHECK(strstr(text + strlen(second), third) != NULL);
    CHECK_STR(asthra_result_message(asthra_last_error()), asthra_result_message(r));
}

/* ---- a library of our own ---- */

#if defined(__i386__)
#define MACHINE " -m32"
#else
#define MACHINE ""
#endif

/* Made by the compiler of the build, where there is one. */
static const char *made(const char *name, const char *text) {
    static char path[64], command[256];
    const char *cc = getenv("CC");
    snprintf(path, sizeof path, "/tmp/asthra_%ld_%s.so", (long)getpid(), name);
    snprintf(command, sizeof command, "%s%s -fPIC -shared -x c -o %s - 2>&1", cc ? cc : "cc",
             MACHINE, path);
    FILE *compiler = popen(command, "w");
    CHECK(compiler != NULL);
    fputs(text, compiler);
    if (pclose(compiler) != 0) SKIP("no compiler makes a shared object");
    return path;
}

static AsthraFFILibrary *open_made(const char *name, const char *text) {
    if (!has_loader()) SKIP("a static program has no loader");
    const char *path = made(name, text);
    AsthraFFILibrary *l = open_or_skip(path);
    unlink(path);
    return l;
}

/* ---- what works ---- */

#ifdef __GLIBC__
#define LIBM "libm.so.6"
#else
#define LIBM "libm.so"
#endif

TEST(library, opens_by_name_and_calls_what_is_in_it) {
    AsthraFFILibrary *libm = open_or_skip(LIBM);
    double (*power)(double, double) = ASTHRA_FN_AS(double (*)(double, double), symbol(libm, "pow"));
    CHECK(power(2, 10) == 1024);
    close_well(libm);
}

TEST(library, no_path_is_the_program_and_what_it_is_linked_with) {
    AsthraFFILibrary *self = open_or_skip(NULL);
    int (*absolute)(int) = ASTHRA_FN_AS(int (*)(int), symbol(self, "abs"));
    CHECK_EQ(absolute(-7), 7);
    CHECK(symbol(self, "malloc") != NULL);
    close_well(self);
    CHECK_EQ(absolute(-8), 8);
}

TEST(library, names_of_one_library_are_not_seen_by_another) {
    AsthraFFILibrary *l = open_made("apart", "int asthra_test_apart(void) { return 1; }");
    AsthraFFILibrary *self = open_or_skip(NULL);
    void *out = l;
    CHECK(symbol(l, "asthra_test_apart") != NULL);
    CHECK_EQ(asthra_ffi_library_symbol(self, "asthra_test_apart", &out).status, ASTHRA_FAILED);
    CHECK(out == NULL);
    close_well(self);
    close_well(l);
}

TEST(library, a_symbol_whose_value_is_null_is_found) {
    AsthraFFILibrary *l = open_made("null", "__asm__(\".globl nowhere\\nnowhere = 0\");");
    void *out = l;
    CHECK(dlsym(RTLD_DEFAULT, "elsewhere") == NULL); /* nobody asks for this message */
    CHECK_EQ(asthra_ffi_library_symbol(l, "nowhere", &out).status, ASTHRA_OK);
    CHECK(out == NULL);
    close_well(l);
}

static const char *const counts_ends =
    "int *count; static int own;\n"
    "__attribute__((constructor)) static void begin(void) { own = 1; count = &own; }\n"
    "__attribute__((destructor)) static void end(void) { *count += 10; }\n";

TEST(library, constructors_run_when_it_opens_and_destructors_when_it_closes) {
    AsthraFFILibrary *l = open_made("ends", counts_ends);
    int **count = symbol(l, "count"), seen = 5;
    CHECK_EQ(**count, 1);
    *count = &seen;
    close_well(l);
    CHECK_EQ(seen, 15);
}

TEST(library, opened_twice_is_open_until_it_is_closed_twice) {
    if (!has_loader()) SKIP("a static program has no loader");
    const char *path = made("twice", counts_ends);
    AsthraFFILibrary *l = open_or_skip(path), *again = open_or_skip(path);
    int **count = symbol(l, "count"), seen = 5;
    unlink(path);
    CHECK(symbol(again, "count") == count);
    *count = &seen;
    close_well(l);
    CHECK_EQ(seen, 5);
    CHECK(symbol(again, "count") == count);
    close_well(again);
    CHECK_EQ(seen, 15);
}

static void *open_in_task(void *unused) {
    AsthraFFILibrary *libm = open_or_skip(LIBM);
    CHECK(symbol(libm, "cos") != NULL);
    close_well(libm);
    return unused;
}

TEST(library, a_task_opens_one_on_its_own_stack) {
    AsthraTaskHandle tasks[8];
    for (int i = 0; i < 8; i++) tasks[i] = asthra_spawn(open_in_task, NULL);
    for (int i = 0; i < 8; i++) asthra_await(tasks[i]);
    asthra_runtime_shutdown();
}

/* ---- what does not ---- */

TEST(library, without_a_loader_opening_says_what_to_do) {
    AsthraFFILibrary *l = library_none();
    if (has_loader()) SKIP("this program has a loader");
    check_failed(asthra_ffi_library_open(&l, "libx.so"),
                 "cannot open \"libx.so\": ", "this program has no loader", "-static");
    CHECK(l == NULL);
    check_failed(asthra_ffi_library_open(&l, NULL),
                 "cannot open the program itself: ", "this program has no loader", "-ldl");
}

TEST(library, a_missing_file_is_named_once_with_the_reason_of_the_loader) {
    AsthraFFILibrary *l = library_none();
    close_well(open_or_skip(NULL));
    AsthraResult r = asthra_ffi_library_open(&l, "/nowhere/libx.so.1");
    check_failed(r, "cannot open \"/nowhere/libx.so.1\": ", "", "o such file");
    CHECK(strstr(strstr(asthra_result_message(r), "libx") + 1, "libx") == NULL);
    CHECK(l == NULL);
}

TEST(library, a_file_that_is_no_object_is_refused) {
    char path[] = "/tmp/asthra_library_XXXXXX";
    AsthraFFILibrary *l = library_none();
    close_well(open_or_skip(NULL));
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    for (int i = 0; i < 64; i++) CHECK_EQ(write(fd, "These are words, no object.\n", 28), 28);
    close(fd);
    AsthraResult r = asthra_ffi_library_open(&l, path);
    unlink(path);
    check_failed(r, "cannot open \"", path, "");
    CHECK(l == NULL);
}

TEST(library, what_a_library_wants_and_nobody_has_is_said_when_it_opens) {
    AsthraFFILibrary *l = library_none();
    if (!has_loader()) SKIP("a static program has no loader");
    const char *path = made("wants", "int asthra_test_nobody(void);\n"
                                     "int some(void) { return asthra_test_nobody(); }\n");
    AsthraResult r = asthra_ffi_library_open(&l, path);
    unlink(path);
    check_failed(r, "cannot open \"", path, "asthra_test_nobody");
    CHECK(l == NULL);
}

TEST(library, a_missing_symbol_is_named) {
    AsthraFFILibrary *libm = open_or_skip(LIBM);
    void *out = libm;
    check_failed(asthra_ffi_library_symbol(libm, "tangerine", &out),
                 "cannot find \"tangerine\": ", "", "tangerine");
    CHECK(out == NULL);
    CHECK(symbol(libm, "tan") != NULL);
    close_well(libm);
}

static void check_invalid(AsthraResult r, const char *text) {
    CHECK_EQ(r.status, ASTHRA_INVALID);
    CHECK_STR(asthra_result_message(r), text);
}

TEST(library, a_null_is_named) {
    void *out = &out;
    check_invalid(asthra_ffi_library_open(NULL, LIBM), "asthra_ffi_library_open: out is NULL");
    check_invalid(asthra_ffi_library_close(NULL), "asthra_ffi_library_close: the library is NULL");
    check_invalid(asthra_ffi_library_symbol(NULL, "abs", &out),
                  "asthra_ffi_library_symbol: the library is NULL");
    CHECK(out == NULL);
    check_invalid(asthra_ffi_library_symbol(library_none(), NULL, &out),
                  "asthra_ffi_library_symbol: name is NULL");
    check_invalid(asthra_ffi_library_symbol(library_none(), "abs", NULL),
                  "asthra_ffi_library_symbol: out is NULL");
}

TEST(library, errno_is_left_as_it_was) {
    AsthraFFILibrary *l = NULL, *none = NULL;
    void *out;
    errno = 1234;
    bool has_one = asthra_ffi_library_open(&l, LIBM).status == ASTHRA_OK;
    CHECK_EQ(errno, 1234);
    CHECK_EQ(asthra_ffi_library_open(&none, "/nowhere/libx.so").status, ASTHRA_FAILED);
    CHECK_EQ(asthra_ffi_library_open(&none, "/dev/null").status, ASTHRA_FAILED);
    CHECK_EQ(asthra_ffi_library_symbol(NULL, "cos", &out).status, ASTHRA_INVALID);
    CHECK_EQ(errno, 1234);
    CHECK_EQ(has_one, has_loader());
    if (!has_one) return;
    CHECK(symbol(l, "cos") != NULL);
    CHECK_EQ(asthra_ffi_library_symbol(l, "tangerine", &out).status, ASTHRA_FAILED);
    close_well(l);
    CHECK_EQ(errno, 1234);
}
