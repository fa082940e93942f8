/* ffi_callees - what the items of foreign calls call; for LuaJIT as a shared object. */
#include "ffi_items.h"
#include <stdarg.h>

void callee_void(void) {}

int callee_int2(int a, int b) {
    return a + b;
}

double callee_double8(double a, double b, double c, double d, double e, double f, double g,
                      double h) {
    return a + b + c + d + e + f + g + h;
}

int callee_int12(int a, int b, int c, int d, int e, int f, int g, int h, int i, int j, int k,
                 int l) {
    return a + b + c + d + e + f + g + h + i + j + k + l;
}

double callee_struct16(Pair p) {
    return p.x + p.y;
}

double callee_struct32(Quad q) {
    return (double)q.a + q.b + (double)q.c + q.d;
}

double callee_variadic4(int a, ...) {
    va_list rest;
    va_start(rest, a);
    double sum = a + va_arg(rest, int);
    sum += va_arg(rest, double);
    sum += va_arg(rest, int);
    sum += va_arg(rest, double);
    va_end(rest);
    return sum;
}

Pair callee_pair(double x, double y) {
    return (Pair){x, y};
}

void callee_take(void *block) {
    (void)block;
}
