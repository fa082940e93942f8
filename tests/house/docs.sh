#!/bin/sh
# docs - README's blocks. A C block that holds main is a program, and is run; any other C block is
# compiled as the inside of main. A `text` block right after a program is what that program prints.
. tests/house/lib.sh
rm -f "$OUT"/block*

split() {
    awk -v out="$OUT" '
        /^```/ && !inside {
            inside = 1; file = ""; lang = substr($0, 4)
            if (lang == "c") file = sprintf("%s/block%02d.c", out, ++n)
            if (lang == "text" && last == "c") file = sprintf("%s/block%02d.expected", out, n)
            last = lang
            next
        }
        /^```/ { inside = 0; if (file) close(file); next }
        inside && file { print >file }' README.md
}
wrapped() {
    printf '%s\n' '#include "asthra_rt.h"' '#include <stdio.h>'
    grep '^#' "$1"
    echo 'int main(void) {'
    grep -v '^#' "$1"
    echo 'return 0; }'
}
# block NAME: the bodies come from the block itself or from a unit beside it.
block() {
    if ! grep -q 'main *(' "$1.c"; then
        wrapped "$1.c" >"$1.wrapped.c"
        "$CC" -std=gnu11 -O1 $INCLUDES -c -o "$1.o" "$1.wrapped.c"
        return
    fi
    bodies=build/asthra_rt.c
    grep -q 'define ASTHRA_RT_IMPLEMENTATION' "$1.c" && bodies=''
    "$CC" -std=gnu11 -O1 -Wall -Wextra -Werror $INCLUDES -o "$1" "$1.c" $bodies -pthread &&
        "$1" >"$1.out" </dev/null && { [ ! -r "$1.expected" ] || diff -u "$1.expected" "$1.out"; }
}
# The program on the cover of the book.
cover() {
    awk '/A whole program/ { on = 1; next }
        on && /^ \*     / { sub(/^ \*     /, ""); print; seen = 1; next }
        on && seen && !/^ \*$/ { exit }
        on && seen { print "" }' asthra_rt.h >"$OUT/cover.c"
    grep -q 'main *(' "$OUT/cover.c" && block "$OUT/cover" && [ -s "$OUT/cover.out" ]
}
check cover-program-runs cover
check readme-has-blocks split
for source in "$OUT"/block??.c; do
    name=${source##*/}
    check "readme-${name%.c}" block "${source%.c}"
done
end
