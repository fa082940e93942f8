/* zlib - compresses a text by the zlib that the system has, without its header or a linker flag.
 *
 *     zlib [file]       without a file: examples/opticks.txt
 *
 * A call that returns anything but Z_OK is a failure, by its error rule. Exit status 77: there is
 * no zlib, or no loader to open it with. */
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if ULONG_MAX > UINT32_MAX /* unsigned long */
#define UL "L"
#else
#define UL "I"
#endif

static AsthraFFILibrary *zlib;

static void must(AsthraResult r, int status) {
    if (r.status == ASTHRA_OK) return;
    printf("zlib: %s\n", asthra_result_message(r));
    exit(status);
}

static AsthraFFICall function(const char *name, const char *signature, AsthraFFIErrorRule rule) {
    AsthraFFICall c;
    void *address;
    must(asthra_ffi_library_symbol(zlib, name, &address), EXIT_FAILURE);
    must(asthra_ffi_signature(&c, address, signature), EXIT_FAILURE);
    must(asthra_ffi_set_error_rule(&c, rule), EXIT_FAILURE);
    return c;
}

int main(int argc, char **argv) {
    static unsigned char text[1 << 20], small[sizeof text + sizeof text / 8], again[sizeof text];
    const char *name = argc > 1 ? argv[1] : "examples/opticks.txt";
    must(asthra_ffi_library_open(&zlib, "libz.so.1"), 77);
    AsthraFFICall sum = function("crc32", UL "(" UL "pI)", ASTHRA_FFI_ERROR_NEVER),
                  squeeze = function("compress2", "i(ppp" UL "i)", ASTHRA_FFI_ERROR_NONZERO),
                  restore = function("uncompress", "i(ppp" UL ")", ASTHRA_FFI_ERROR_NONZERO);
    FILE *file = fopen(name, "rb");
    unsigned long length = file ? fread(text, 1, sizeof text, file) : 0;
    if (length == 0) must(asthra_result_err("there is no text"), EXIT_FAILURE);
    fclose(file);

    unsigned long crc, none = 0, room = sizeof small, left = length;
    void *from = text, *to = small, *back = again, *at_room = &room, *at_left = &left;
    uint32_t count = (uint32_t)length;
    int level = 9;
    ASTHRA_FFI_INVOKE(&sum, &crc, &none, &from, &count);
    printf("%s: %lu bytes, crc32 %08lx\n", name, length, crc);

    must(asthra_ffi_call(&squeeze, (void *[]){&to, &at_room, &from, &length, &level}), 1);
    printf("compressed to less than a half: %s\n", room < length / 2 ? "yes" : "no");

    must(asthra_ffi_call(&restore, (void *[]){&back, &at_left, &to, &room}), 1);
    printf("and back: %s\n", left == length && !memcmp(text, again, length) ? "the same" : "other");
    left = length / 2;
    AsthraResult r = asthra_ffi_call(&restore, (void *[]){&back, &at_left, &to, &room});
    printf("with room for a half: %s\n", asthra_result_is_ok(r) ? "restored" : "refused");
    asthra_ffi_release(&sum), asthra_ffi_release(&squeeze), asthra_ffi_release(&restore);
    must(asthra_ffi_library_close(zlib), EXIT_FAILURE);
}
