/* gdb - tasks, stacks and channels in the debugger.                              [gdb] contract
 *
 * The file that holds the bodies carries a script, in Python, for gdb: in a section of the program
 * that is never loaded, and that strip removes. It wants -g for that file; without, it says so. gdb
 * runs it by itself where it is told to trust the program, in ~/.gdbinit or at the start:
 *
 *     add-auto-load-safe-path /path/of/the/program          or a folder, or / for all
 *     gdb -iex 'add-auto-load-safe-path .' ./program
 *
 * It works on a process and on a core of the kernel's (gdb's own leave out what has guard pages),
 * and writes to neither:
 *
 *     asthra tasks [all]    what each task does, or waits for and since when; a line on the queues
 *     asthra workers        what each worker does, and what waits in its queues
 *     asthra bt TASK        its stack; TASK is an id, the name of its function, an expression that
 *                           gives an AsthraTaskHandle, main, or all
 *     asthra task TASK      goes there, for up, down, frame, info locals, print; off: back
 *     asthra channel EXPR   what is inside, and who waits
 *     asthra result EXPR    its value, or its message
 *
 * and print shows an AsthraResult, an AsthraTaskHandle and a channel in words.
 * Needs: nothing.  Strip with: ASTHRA_RT_NO_GDB.
 */
#ifndef ASTHRA__GDB_H
#define ASTHRA__GDB_H

#endif
