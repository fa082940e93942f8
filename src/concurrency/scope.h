/* scope - tasks that do not outlive the block that spawns them.                [scope] contract
 *
 *     AsthraScope s;
 *     ASTHRA_SCOPE(s) {
 *         for (int i = 0; i < count; i++)
 *             asthra_scope_spawn(&s, fetch, &requests[i], sizeof requests[i]);
 *     }
 *     ASTHRA_TRY(s.result);
 *
 * The closing brace waits for all children, whatever becomes of them, so a child may use what the
 * block can see. The first that fails cancels the others, and its failure is the scope's result; a
 * panic of a child whose policy is not to abort counts as one, as does a spawn that fails. A child
 * that another failure, or a cancel of the owner, ended before it started has failed, too, with
 * ASTHRA_CANCELLED. Scopes nest.
 *
 * The owner, the task or thread that began the scope, is not cancelled by a failure: what could
 * wait for a child that has failed belongs into a child. A cancel of the owner reaches the children
 * when it waits for the end; it has seen its cancel if the scope fails by that, and not if all
 * children complete all the same. An owner that panics, and does not abort, cancels and awaits the
 * children of its open scopes first, while what they use is still there.
 *
 * The owner may spawn, and any task that the scope waits for: its children, what they await, and
 * so on. Nobody else may, nor the owner after the end.
 * Needs: task.  Strip with: ASTHRA_RT_NO_SCOPE.
 */
#ifndef ASTHRA__SCOPE_H
#define ASTHRA__SCOPE_H

#include "../core/result.h"

#if ASTHRA_HAS_SCOPE

typedef struct AsthraScope {
    AsthraResult result; /* once it has ended: ASTHRA_OK, or the first failure */
    bool open;
    void *opaque[8];
} AsthraScope;

/* A child. Any result that is not ASTHRA_OK is a failure; a value is dropped. `args` is its copy,
 * aligned as malloc's, and lives as long as it runs. */
typedef AsthraResult (*AsthraScopeFunction)(void *args);

/* Opens a scope inside the innermost one of this task or thread. `s` need not be set, and stays
 * where it is until the end. One that is open panics. Cost  one allocation; if there is no memory
 * the scope's result says so, and nothing is spawned. */
ASTHRA_RT_API void asthra_scope_begin(AsthraScope *s);

/* Spawns fn with a copy of `size` bytes at `block` (NULL: zeroes), named after its expression and
 * place. In a scope that has failed, or whose end was cancelled, it spawns nothing.
 * Cost      no allocation once warm. A child that has ended holds no memory. */
ASTHRA_RT_API void asthra_scope_spawn(AsthraScope *s, AsthraScopeFunction fn, const void *block,
                                      size_t size);

/* Waits for all children. Called by the owner, for its innermost scope; else it panics.
 *
 * Returns   ASTHRA_OK, or the first failure: its status, detail, context and, in the owner's own
 *           error record, its message, cut at 255 bytes.
 */
ASTHRA_MUST_USE ASTHRA_RT_API AsthraResult asthra_scope_end(AsthraScope *s);

/* The same as a block, which sets s.result at its closing brace. Leaving it by break, return or
 * goto panics (gcc, clang; by continue it ends as by the brace). A scope that the end of its task
 * or thread finds open panics, too. */
#define ASTHRA_SCOPE(s)                                               \
    for (AsthraScope * s##__at ASTHRA__CLEANUP(asthra_scope_check) =  \
             asthra_scope_enter_at(&(s), ASTHRA__AT("ASTHRA_SCOPE")); \
         s##__at->open;                                               \
         s##__at->result = asthra_scope_end_at(s##__at, ASTHRA__AT("ASTHRA_SCOPE")))

/* What the macros call. `who` begins their panics, and says where the scope was begun. */
ASTHRA_RT_API void asthra_scope_begin_at(AsthraScope *s, const char *who);
ASTHRA_RT_API void asthra_scope_spawn_at(AsthraScope *s, AsthraScopeFunction fn, const void *block,
                                         size_t size, const char *name);
ASTHRA_MUST_USE ASTHRA_RT_API AsthraResult asthra_scope_end_at(AsthraScope *s, const char *who);
ASTHRA_RT_API AsthraScope *asthra_scope_enter(AsthraScope *s);
ASTHRA_RT_API AsthraScope *asthra_scope_enter_at(AsthraScope *s, const char *who);
ASTHRA_RT_API void asthra_scope_check(AsthraScope **s);
#define asthra_scope_begin(s) asthra_scope_begin_at((s), ASTHRA__AT("asthra_scope_begin"))
#define asthra_scope_spawn(s, fn, block, size) \
    asthra_scope_spawn_at((s), (fn), (block), (size), ASTHRA__AT(#fn))
#define asthra_scope_end(s) asthra_scope_end_at((s), ASTHRA__AT("asthra_scope_end"))

#endif
#endif
