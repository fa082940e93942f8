#!/bin/sh
# code - what is promised of the code that compilers make of the book, read with objdump.
#
# ARCHITECTURE, law 4: a thread's record is reached through its accessors only, and asked for anew
# after a switch, at every level of optimisation. Section 7: routines in assembly are hidden, lie in
# sections of their own and name no other symbol. The contract of task: a safepoint is one load and
# one branch. And error paths are cold and out of line.
. tests/house/lib.sh

names() { grep -oE 'asthra_[a-z0-9_]+\)?\(' | tr -d '()' | sort -u; }
grep 'ASTHRA__COLD ' asthra_rt.h | names >"$OUT/cold"
grep 'ASTHRA__COLD .*ASTHRA_NORETURN ' asthra_rt.h | names >"$OUT/panics"
cat >"$OUT/safepoint.c" <<'END'
#include "asthra_rt.h"
void house_safepoint(void);
void house_safepoint(void) { asthra_safepoint(); }
END

# The program of the house, with the safepoint in a file of its own, as a user's is.
program() {
    "$cc" -std=gnu11 $1 -w $INCLUDES -c -o "$OUT/object.o" tests/house/code.c &&
        "$cc" -std=gnu11 $1 -w $INCLUDES -o "$OUT/program" "$OUT/object.o" "$OUT/safepoint.c" \
            -pthread &&
        "$objdump" -d --no-show-raw-insn "$OUT/program" |
        sed -E 's,\s+(#|//) .*,,' >"$OUT/program.s"
}
# Compilers add a dot and a word to names of their own making: clones, cold parts.
lines_of() {
    awk -v name="$1" '/^[0-9a-f]+ <.*>:$/ { f = substr($2, 2); sub(/[.>].*/, "", f); next }
        f == name && NF > 1' "$OUT/program.s"
}

# Who attaches a thread does so before its first switch, and so does who asks before its first call
# (asthra__thread_raw). %fs:0x28 is the stack protector's.
reached_through_accessors() {
    lines_of asthra__thread | grep -qE "$thread_local" || return 1
    ! awk -v it="$thread_local" '
        /^[0-9a-f]+ <.*>:$/ { f = substr($2, 2); calls = /[.]cold/; sub(/[.>].*/, "", f); next }
        f !~ /^(asthra|house)_/ { next }
        f ~ /^asthra__thread(_if_attached|_attach|_place)?$/ { next }
        $0 ~ it && !/%fs:0x28/ && calls { print f ": " $0 }
        /\s(call|bl|blr)\s/ { calls = 1 }' "$OUT/program.s" | grep .
}
asked_twice() {
    lines_of "$1"
    [ "$(lines_of "$1" | grep -cE "\s(call|bl)\s.*<$2[.>]")" = 2 ]
}
thread_record() {
    reached_through_accessors && asked_twice house_moved asthra__thread &&
        asked_twice house_moved_if_attached asthra__thread_if_attached
}

# At most: an address in one or two steps, the load, a comparison, the branch, the slow way, return.
safepoint() {
    lines_of house_safepoint | grep -vE '\snop|xchg\s+%ax,%ax' >"$OUT/safepoint.s"
    cat "$OUT/safepoint.s"
    [ "$(grep -cE "\s($load)" "$OUT/safepoint.s")" = 1 ] &&
        [ "$(grep -cE "\s($branch)" "$OUT/safepoint.s")" = 1 ] &&
        [ "$(wc -l <"$OUT/safepoint.s")" -le 6 ] &&
        ! grep -E '\s(call|bl|lock|xchg|mfence|dmb)\s' "$OUT/safepoint.s"
}

# Of each function in the object: name, section, visibility.
functions() {
    "$objdump" -t "$OUT/object.o" | awk -F '\t' '$1 ~ / F \.text/ {
        n = split($1, left, " "); m = split($2, right, " ")
        print right[m], left[n], m == 3 ? right[2] : "-" }'
}
cold_lies_apart() {
    awk 'NR == FNR { cold[$1] = 1; next }
        { f = $1; sub(/\..*/, "", f) }
        f in cold { n++; if ($2 !~ /^\.text\.unlikely/) { print f " is in " $2; bad = 1 } }
        END { print n + 0 " found"; exit bad || n < 20 }' "$OUT/cold" "$OUT/functions"
}
# Where the compiler splits functions: no warm part calls what never returns.
panics_out_of_line() {
    ! awk 'FILENAME ~ /panics$/ { panics[$1] = 1; next }
        FILENAME ~ /functions$/ { if ($2 ~ /unlikely/) apart[$1] = 1; next }
        /^[0-9a-f]+ <.*>:$/ { f = substr($2, 2, length($2) - 3); next }
        f !~ /^asthra_/ || f in apart || NF < 2 { next }
        { callee = $NF; gsub(/^<|[.+>].*$/, "", callee) }
        callee in panics && $2 ~ /^(call|jmp)$/ { print f ": " $0 }
        ' "$OUT/panics" "$OUT/functions" "$OUT/program.s" | grep .
}
# Words that assembly owns, in sections that are named after them.
words() { "$objdump" -t "$OUT/object.o" | awk '/ \.bss\.asthra__/ { print $NF }'; }
assembly() {
    words >"$OUT/words"
    grep -q '^asthra__swap \.text\.asthra__swap \.hidden$' "$OUT/functions" &&
        ! awk '($2 ~ /^\.text\.asthra__/) != ($3 == ".hidden")' "$OUT/functions" | grep . &&
        ! "$objdump" -r "$OUT/object.o" |
        awk 'FNR == NR { own[$1]; next }
            /^RELOCATION/ { here = /\[\.text\.asthra__/ }
            { name = $3; sub(/[-+].*/, "", name) }
            here && /R_/ && !(name in own)' "$OUT/words" - | grep .
}

look() {
    check "$cc-O2" program -O2
    functions >"$OUT/functions"
    check "$cc-O2-thread-record" thread_record
    check "$cc-safepoint-is-one-load-and-one-branch" safepoint
    check "$cc-cold-lies-apart" cold_lies_apart
    check "$cc-assembly-is-hidden-and-alone" assembly
    ! grep -q '\.cold ' "$OUT/functions" || check "$cc-panics-out-of-line" panics_out_of_line
    [ "$cc" = "$CC" ] && [ "$objdump" = objdump ] || return
    check "$cc-shared" program '-O2 -fPIC -shared'
    check "$cc-shared-thread-record" thread_record
    if program '-O3 -flto' >"$OUT/log" 2>&1; then check "$cc-O3-lto-thread-record" thread_record
    else skip "$cc -flto does not link"; fi
}

need "$CC" clang aarch64-linux-gnu-gcc
for cc in $found; do
    case $("$cc" -dumpmachine) in
    x86_64*)
        objdump=objdump thread_local='%fs:|__tls_get_addr'
        load='[a-km-z][a-z]*\s.*\(%' branch='j[^m]' ;;
    aarch64*)
        objdump=aarch64-linux-gnu-objdump thread_local='tpidr_el0|tlsdesc'
        load='ldr\sw' branch='b\.|cbn?z|tbn?z'
        [ "$(uname -m)" = aarch64 ] && objdump=objdump ;;
    *) skip "code: nobody has said how to read that of $("$cc" -dumpmachine)"; continue ;;
    esac
    if have "$objdump"; then look; else skip "$objdump not found"; fi
done
end
