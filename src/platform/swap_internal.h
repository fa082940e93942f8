/* swap - leaving one stack and arriving on another.                        [swap] internal
 *
 * A context is the stack pointer of code that left its stack; everything else it needs lies above
 * that pointer: callee-saved registers and the control words of the floating-point units. Signal
 * masks do not travel; sticky floating-point flags may. One file per ABI
 * (swap_<processor>.c), or ucontext under ASTHRA_RT_NO_ASM (swap_ucontext.c).
 *
 * Sanitizers and Valgrind see a stack pointer that jumps: whoever calls asthra__swap announces it.
 */
#ifndef ASTHRA__SWAP_INTERNAL_H
#define ASTHRA__SWAP_INTERNAL_H

#include "sys_internal.h"

#if ASTHRA_HAS_TASK

/* Linkage and name of a routine that assembly may define: a strong hidden symbol in every mode, so
 * that the call is direct in shared objects too and two runtimes in one program do not link. */
#if ASTHRA_HAS_ASM
#define ASTHRA__SWAP_FN __attribute__((__visibility__("hidden"))) extern
#define ASTHRA__SWAP_NAMED(name) __asm__(name)
#else
#define ASTHRA__SWAP_FN ASTHRA__FN
#define ASTHRA__SWAP_NAMED(name)
#endif

typedef struct Asthra__SwapContext Asthra__SwapContext; /* never complete: an address on a stack */

/* False where the processor keeps a second, protected stack of return addresses (shadow stack): it
 * would end the process at the first swap. Asked once, before that. */
ASTHRA__FN bool asthra__swap_is_allowed(void);

/* A context that starts entry(message of its first swap) with default floating-point control on the
 * stack from `low` to `top`. `entry` must not return; a backtrace ends in it. */
ASTHRA__FN Asthra__SwapContext *asthra__swap_make(void *low, void *top, void (*entry)(void *));

/* Leaves this stack, writes its context to *from, goes on in `to`. Returns the message of whoever
 * comes back. *from is written before the stack is left: nobody may use it until this side has
 * been left, which only code on the other side can know.
 * Cost: the processor predicts the return when both sides called from the same place. */
ASTHRA__SWAP_FN void *asthra__swap(Asthra__SwapContext **from, Asthra__SwapContext *to,
                                   void *message) ASTHRA__SWAP_NAMED("asthra__swap");

/* Calls fn(argument) with default floating-point control and returns its value with the caller's
 * control words restored; is_default: they are the defaults, says the caller, which may be cheaper.
 * While it runs, *escape is a way out: asthra__swap_escape(*escape, v)
 * abandons every frame above and makes this call return v. Escape stands on the same stack. */
ASTHRA__SWAP_FN void *asthra__swap_call(void *(*fn)(void *), void *argument,
                                        Asthra__SwapContext **escape, bool is_default)
    ASTHRA__SWAP_NAMED("asthra__swap_call");
ASTHRA_NORETURN ASTHRA__SWAP_FN void asthra__swap_escape(Asthra__SwapContext *escape, void *value)
    ASTHRA__SWAP_NAMED("asthra__swap_escape");

#endif
#endif
