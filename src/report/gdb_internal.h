/* gdb - how a script gets into the section where gdb looks for it.               [gdb] internal */
#ifndef ASTHRA__GDB_INTERNAL_H
#define ASTHRA__GDB_INTERNAL_H

#include "gdb.h"

#include "../platform/sys_internal.h"

#if ASTHRA_HAS_GDB

/* An entry of .debug_gdb_scripts (Debugging with GDB, "The .debug_gdb_scripts section"): 4 says
 * that Python text follows, then come a name, the text, and a zero. Each line is a string that ends
 * in \\n, which the assembler turns into the end of the line; so there is no backslash in the text,
 * and its quotes are single ones. What stands between BEGIN and END is one text, in pieces that no
 * compiler finds too long. Compilers keep them in order; entries a linker may put in any. */
#define ASTHRA__GDB_SECTION ".pushsection .debug_gdb_scripts,\"MS\",%progbits,1\n"
#define ASTHRA__GDB_BEGIN(name) \
    __asm__(ASTHRA__GDB_SECTION ".byte 4\n.ascii \"" name "\\n\"\n.popsection\n")
#define ASTHRA__GDB(lines) __asm__(ASTHRA__GDB_SECTION ".ascii \"" lines "\"\n.popsection\n")
#define ASTHRA__GDB_END() __asm__(ASTHRA__GDB_SECTION ".byte 0\n.popsection\n")

#endif
#endif
