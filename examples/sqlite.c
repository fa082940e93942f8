/* sqlite - a database in memory, by the SQLite that the system has; rows arrive at a closure.
 *
 * Exit status 77: there is no SQLite, or no loader to open it with. */
#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"
#include <stdio.h>
#include <stdlib.h>

static void must(AsthraResult r, int status) {
    if (r.status == ASTHRA_OK) return;
    printf("sqlite: %s\n", asthra_result_message(r));
    exit(status);
}

static AsthraFFICall function(AsthraFFILibrary *l, const char *name, const char *signature) {
    AsthraFFICall c;
    void *address;
    must(asthra_ffi_library_symbol(l, name, &address), EXIT_FAILURE);
    must(asthra_ffi_signature(&c, address, signature), EXIT_FAILURE);
    return c;
}

typedef struct Rows {
    size_t count, most;
} Rows;

/* int (void *, int columns, char **values, char **names): not 0 says that no more are wanted. */
static void take_row(const AsthraFFICall *sig, void *ret, void **args, void *user) {
    Rows *rows = user;
    int columns = *(int *)args[1];
    char **values = *(char ***)args[2], **names = *(char ***)args[3];
    (void)sig;
    for (int i = 0; i < columns; i++)
        printf("%s%s %s", i > 0 ? ", " : "  ", names[i], values[i] ? values[i] : "unknown");
    puts("");
    *(int *)ret = ++rows->count == rows->most;
}

int main(void) {
    static const char *const statements[] = {
        "create table comets (name text, seen integer, period real)",
        "insert into comets values ('Halley', 1682, 74.7), ('Kirch', 1680, null)",
        "insert into comets values ('Encke', 1786, 3.3), ('Biela', 1772, 6.6)",
        "select name, period from comets where seen < 1700 order by name",
        "select count(*) as comets, avg(period) as average from comets",
        "select name from comets order by seen desc",
        "select name from planets",
    };
    AsthraFFILibrary *sqlite;
    must(asthra_ffi_library_open(&sqlite, "libsqlite3.so.0"), 77);
    AsthraFFICall open_db = function(sqlite, "sqlite3_open", "i(pp)"),
                  exec = function(sqlite, "sqlite3_exec", "i(ppppp)"),
                  message_of = function(sqlite, "sqlite3_errmsg", "p(p)"),
                  close_db = function(sqlite, "sqlite3_close", "i(p)");
    Rows rows;
    AsthraFFIClosure *closure = asthra_ffi_closure_bind_signature("i(pipp)", take_row, &rows);
    if (!closure) must(asthra_last_error(), EXIT_FAILURE);
    const char *name = ":memory:", *message;
    void *db, *where = &db, *each = asthra_ffi_closure_function(closure), *none = NULL;
    int code;
    ASTHRA_FFI_INVOKE(&open_db, &code, &name, &where);
    if (code != 0) must(asthra_result_err("no database"), EXIT_FAILURE);
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        rows = (Rows){.most = 3};
        puts(statements[i]);
        ASTHRA_FFI_INVOKE(&exec, &code, &db, (void *)&statements[i], &each, &none, &none);
        ASTHRA_FFI_INVOKE(&message_of, &message, &db);
        if (code != 0) printf("  %s\n", message);
    }
    ASTHRA_FFI_INVOKE(&close_db, &code, &db);
    if (code != 0) must(asthra_result_err("the database is not closed"), EXIT_FAILURE);
    asthra_ffi_closure_destroy(closure);
    asthra_ffi_release(&open_db), asthra_ffi_release(&exec);
    asthra_ffi_release(&message_of), asthra_ffi_release(&close_db);
    must(asthra_ffi_library_close(sqlite), EXIT_FAILURE);
}
