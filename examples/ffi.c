/* ffi - calls functions by the words of a command line: a library, a name, a signature, arguments.
 *
 *     ffi libm.so.6 hypot 'd(dd)' 3 4        d, i, p: double, int, string
 *
 * Without words it makes a few such calls, then has libc's qsort order planets by a closure, which
 * knows what qsort does not tell: by which column. 77: there is no such library. */
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(AsthraResult r, int status) {
    if (r.status == ASTHRA_OK) return;
    printf("ffi: %s\n", asthra_result_message(r));
    exit(status);
}

static void prepare(AsthraFFICall *c, const char *library, const char *name, const char *text) {
    AsthraFFILibrary *l; /* stays open */
    void *function;
    must(asthra_ffi_library_open(&l, library), 77);
    must(asthra_ffi_library_symbol(l, name, &function), 1);
    must(asthra_ffi_signature(c, function, text), 1);
}

static void call(const char *const *words) {
    AsthraFFICall c;
    double doubles[8], real;
    int ints[8], number;
    void *args[8];
    size_t n = 0;
    prepare(&c, words[0], words[1], words[2]);
    if (words[2][0] != 'd' && words[2][0] != 'i') must(asthra_result_err("it returns d or i"), 1);
    for (const char *type = words[2] + 2; *type != ')'; type++) {
        if (*type == '.') continue;
        if (n == 8 || !words[3 + n] || !strchr("dip", *type))
            must(asthra_result_err("words and types do not fit"), 1);
        if (*type == 'd') doubles[n] = strtod(words[3 + n], NULL), args[n] = &doubles[n];
        if (*type == 'i') ints[n] = atoi(words[3 + n]), args[n] = &ints[n];
        if (*type == 'p') args[n] = (void *)&words[3 + n];
        n++;
    }
    asthra_ffi_invoke(&c, words[2][0] == 'd' ? (void *)&real : (void *)&number, args);
    printf("%s: %.15g\n", words[1], words[2][0] == 'd' ? real : number);
    asthra_ffi_release(&c);
}

static void compare(const AsthraFFICall *sig, void *ret, void **args, void *column) {
    double x = ((double *)column)[**(int **)args[0]], y = ((double *)column)[**(int **)args[1]];
    *(int *)ret = (x > y) - (x < y);
    (void)sig;
}

static void sort_planets(double *column) {
    static const char *const names[] = {"Earth", "Jupiter", "Mars", "Mercury", "Venus"};
    int order[] = {0, 1, 2, 3, 4};
    size_t count = 5, size = sizeof *order;
    AsthraFFIClosure *closure = asthra_ffi_closure_bind_signature("i(pp)", compare, column);
    if (!closure) must(asthra_last_error(), 1);
    void *first = order, *code = asthra_ffi_closure_function(closure);
    AsthraFFICall c;
    prepare(&c, "libc.so.6", "qsort", sizeof size == 8 ? "v(pLLp)" : "v(pIIp)");
    ASTHRA_FFI_INVOKE(&c, NULL, &first, &count, &size, &code);
    for (size_t i = 0; i < count; i++) printf("%s%c", names[order[i]], i + 1 < count ? ' ' : '\n');
    asthra_ffi_closure_destroy(closure);
    asthra_ffi_release(&c);
}

int main(int argc, char **argv) {
    static const char *const calls[][8] = {
        {"libm.so.6", "hypot", "d(dd)", "3", "4"},
        {"libm.so.6", "ldexp", "d(di)", "1.5", "10"},
        {"libc.so.6", "atoi", "i(p)", "1704, the first edition"},
        {"libc.so.6", "printf", "i(p...idp)", "%d, %g, %s\n", "1704", "0.5", "Opticks"}};
    static double diameters[] = {1, 11.21, .53, .38, .95}, orbits[] = {1, 5.2, 1.52, .39, .72};
    if (argc > 3) return call((const char *const *)argv + 1), 0;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) call(calls[i]);
    sort_planets(diameters), sort_planets(orbits);
}
