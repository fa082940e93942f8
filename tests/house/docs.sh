#!/bin/sh
# docs - README's blocks. A C block that holds main is a program, and is run; any other C block is
# run as the inside of main. A `text` block right after a program is what that program prints. A
# line
# of a `sh` block that begins with make names targets that there are; the others are run in a folder
# that holds the header, stb_ds.h and the first program.
. tests/house/lib.sh
rm -f "$OUT"/block*

split() {
    awk -v out="$OUT" '
        /^```/ && !inside {
            inside = 1; file = ""; lang = substr($0, 4)
            if (lang == "c") file = sprintf("%s/block%02d.c", out, ++n)
            if (lang == "text" && last == "c") file = sprintf("%s/block%02d.expected", out, n)
            if (lang == "sh") file = sprintf("%s/block%02d.sh", out, ++n)
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
bodies() { "$CC" -std=gnu11 -O0 $INCLUDES -c -o "$OUT/bodies.o" build/asthra_rt.c; }
# block NAME: the bodies come from the block itself or from an object beside it.
block() {
    source=$1.c bodies=$OUT/bodies.o
    if ! grep -q 'main *(' "$source"; then
        wrapped "$source" >"$1.wrapped.c"
        source=$1.wrapped.c
    fi
    grep -q 'define ASTHRA_RT_IMPLEMENTATION' "$source" && bodies=''
    "$CC" -std=gnu11 -O0 -Wall -Wextra -Werror $INCLUDES -o "$1" "$source" $bodies -pthread &&
        "$1" >"$1.out" </dev/null && { [ ! -r "$1.expected" ] || diff -u "$1.expected" "$1.out"; }
}
# shell NAME: its commands, with CC for cc.
shell() {
    grep '^make' "$1.sh" >"$1.make"
    while read -r line; do $line -n GATE=1 >/dev/null || return 1; done <"$1.make"
    rm -rf "$OUT/user" && mkdir "$OUT/user" || return
    cp asthra_rt.h build/deps/stb_ds.h "$OUT/user" || return
    for first in "$OUT"/block??.c; do break; done
    cp "$first" "$OUT/user/program.c"
    (cd "$OUT/user" && grep -v '^make' "$1.sh" | sed "s,^cc ,$CC ," >run && sh -e run)
}
# The program on the cover of the book.
cover() {
    awk '/A whole program/ { on = 1; next }
        on && /^ \*     / { sub(/^ \*     /, ""); print; seen = 1; next }
        on && seen && !/^ \*$/ { exit }
        on && seen { print "" }' asthra_rt.h >"$OUT/cover.c"
    grep -q 'main *(' "$OUT/cover.c" && block "$OUT/cover" && [ -s "$OUT/cover.out" ]
}
check bodies-compile bodies
check cover-program-runs cover
check plots-are-of-these-tables tests/bench/plot --check
check readme-has-blocks split
for source in "$OUT"/block??.c "$OUT"/block??.sh; do
    name=${source##*/}
    case $name in
    *.c) check "readme-${name%.c}" block "${source%.c}" ;;
    *.sh) check "readme-${name%.sh}" shell "$PWD/${source%.sh}" ;;
    esac
done
end
