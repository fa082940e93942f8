/* closure - records, stubs, and what a processor adds.                     [closure] internal
 *
 * A stub is a few bytes of code at an address of its own; all it does is to find its record and to
 * jump to the entry that the record names. An entry, written in assembly, puts the registers of
 * arguments into a frame, which ends where the stack's arguments begin, calls record->enter(record,
 * frame), loads the registers of results from the frame and returns.
 */
#ifndef ASTHRA__CLOSURE_INTERNAL_H
#define ASTHRA__CLOSURE_INTERNAL_H

#include "closure.h"
#include "ffi_internal.h"

#if ASTHRA_HAS_CLOSURE

/* What entries call. The value is the entry's. */
typedef uint64_t (*Asthra__ClosureEnter)(AsthraFFIClosure *c, char *frame);

struct AsthraFFIClosure {
    void *entry;                /* what stubs jump to, at offset 0 */
    Asthra__ClosureEnter enter; /* one word further */
    const AsthraFFICall *sig;
    AsthraFFIHandler handler;
    void *user;
    AsthraFFICall *own;     /* of bind_signature; NULL: the caller's */
    AsthraFFIClosure *next; /* while it is free */
    void *code;             /* the stub */
};

enum {
    ASTHRA__CLOSURE_STUB = ASTHRA__CPU_RISCV64 ? 32 : 16, /* bytes of a stub */
    ASTHRA__CLOSURE_FIXED = 128,                          /* stubs in the program itself */
    ASTHRA__CLOSURE_RECORD = sizeof(AsthraFFIClosure)
};

/* The processor's: writes a stub that will stand at `at`, for a record at an address. */
ASTHRA__FN void asthra__closure_write(unsigned char *bytes, uintptr_t at, uintptr_t record);

/* How a result comes from the handler to the entry. */
typedef enum Asthra__ClosureResult {
    ASTHRA__CLOSURE_FINISHED, /* the two below put it where the entry takes it from */
    ASTHRA__CLOSURE_AS_IS,    /* it stays where the first of them says; enter returns 0 */
    ASTHRA__CLOSURE_WORD      /* it is a word or nothing, and what enter returns */
} Asthra__ClosureResult;

/* The entry for calls by a plan, which may find any argument in the frame if it is plain. *how is
 * FINISHED; only of plain ones it may become another. */
ASTHRA__FN void *asthra__closure_entry_of(const Asthra__FFIPlan *p, bool is_plain,
                                          Asthra__ClosureResult *how);

/* Where the handler puts the result; and afterwards, what it left there, to where the entry takes
 * it from, integers widened. Returns what enter returns, which the entry understands. */
ASTHRA__FN void *asthra__closure_result(const Asthra__FFIPlan *p, char *frame);
ASTHRA__FN uint64_t asthra__closure_finish(const Asthra__FFIPlan *p, char *frame);

/* The fixed stubs, side by side, and where they find their records, side by side too. */
ASTHRA__FFI_CODE void asthra__closure_stubs(void) __asm__("asthra__closure_stubs");
ASTHRA__FFI_CODE AsthraFFIClosure *asthra__closure_records __asm__("asthra__closure_records");

#endif
#endif
