/* module - parts of a program that are initialised once, needs first.        [module] contract
 *
 * A compiler, or a library, describes a part of the program as static data: its name, its types,
 * the modules that it needs, and what is to be called at its beginning and at its end. Registering
 * a module initialises whatever it needs, then the module itself, each once, whoever registers it
 * and however often. asthra_runtime_shutdown undoes them, the one initialised last first, and after
 * that all of them may be registered anew.
 *
 * A module is known by its name. Two of one name in a program are an error, unless they are one
 * object. In the child of a fork nothing is registered: what the parent initialised is the parent's
 * to undo. (Without threads the child goes on as its parent would.)
 * Needs: nothing.  Strip with: ASTHRA_RT_NO_MODULE.
 */
#ifndef ASTHRA__MODULE_H
#define ASTHRA__MODULE_H

#include "../core/result.h"
#include "../core/type.h"

#if ASTHRA_HAS_MODULE

struct AsthraTypeInfo;
typedef struct AsthraModule AsthraModule;

/* Static data: borrowed until asthra_runtime_shutdown has returned. What is NULL is not there. */
struct AsthraModule {
    const char *name, *version;                /* the version is for messages */
    const struct AsthraTypeInfo *const *types; /* ends with NULL, as needs does */
    const AsthraModule *const *needs;

    /* Called once, after the inits of all needs have succeeded. It may spawn, await and wait, and
     * register further modules, which are needs as well. Outside tasks it runs on the thread that
     * registers; in a task, in a task of its own, so that a panic under ASTHRA_PANIC_FAIL_TASK is
     * its failure. It returns: a longjmp out of it, or the end of its thread, is a bug. */
    AsthraResult (*init)(const AsthraModule *m);

    /* Called in asthra_runtime_shutdown, on its thread, when tasks have ended as that says: none is
     * left but what the finis of other modules spawned. It may use the runtime as before, but for
     * registering and shutting down. What it leaves behind ends as tasks do at shutdown. */
    void (*fini)(const AsthraModule *m);
};

/* Initialises m and what it needs, and starts the runtime if that does not run.
 *
 * Returns   ASTHRA_OK, also if it had been done; whoever comes while another initialises m waits
 *           and gets the same answer, or takes over where that one was cancelled. ASTHRA_INVALID:
 *           m is NULL; it, or what it needs, has no name, or another's; modules need each other in
 *           a cycle, which is named ("a needs b needs a"); or the runtime shuts down.
 *           ASTHRA_OUT_OF_MEMORY. ASTHRA_PANICKED: an init did. ASTHRA_CANCELLED: the caller was.
 *           Else what an init failed with, and asthra_result_message names the module. After an
 *           error m may be registered again. What succeeded before it stays initialised, for
 *           others may use it by then.
 * Blocks    while inits run, its own and those of others; all needs are looked at before the first
 *           of them. An init that awaits a task which registers that init's own module waits for
 *           ever, and so does all that needs it.
 * Cost      an allocation for each module that is new; a lookup of m's name if it is not.
 */
ASTHRA_RT_API AsthraResult asthra_module_register(const AsthraModule *m);

#endif
#endif
