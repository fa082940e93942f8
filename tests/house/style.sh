#!/bin/sh
# style - what a script can see of the style: columns, bytes, first lines, length of functions. With
# STYLE_LAYOUT=1 (make style) the layout too, if clang-format 14 is here: other versions differ.
. tests/house/lib.sh
sources=$(find src tests examples -name '*.[ch]' | sort)
bodies=$(find src -name '*.c' | sort)
texts="$sources tests/run amalgamate $(echo tests/*.sh tests/house/*.sh)"

columns() {
    ! awk 'length > 100 { print FILENAME ":" FNR ": " length " columns" }' $texts | grep .
}
clean() { ! grep -nE '[^ -~]| $' $texts; }
unfinished() { ! grep -nE 'TO''DO|FIX''ME' $texts Makefile; }
first_lines() {
    for f in $(find src -mindepth 2 -name '*.[ch]' ! -name '*_open.h' ! -name '*_close.h'); do
        word=${f##*/} && word=${word%%[._]*}
        case $f in *.c) part=body ;; *_internal.h) part=internal ;; *) part=contract ;; esac
        head -n 1 "$f" | grep -qE "^/\* [a-z0-9_]+ - .*\. +\[$word\] $part(: [a-z]+)?( \*/)?$" ||
            echo "$f:1: does not open with /* word - sentence.  [$word] ${part}[: piece]"
    done >"$OUT/first"
    ! grep . "$OUT/first"
}
# A function ends at a brace in the first column and starts at the last line there that opens one.
functions() {
    ! awk 'FNR == 1 { start = 0 }
        /^[A-Za-z_].*\{$/ && !/^(typedef|enum|struct|union|extern)/ { start = FNR }
        /^ .*\) \{$/ && !start { start = FNR }
        /^}/ && start && FNR - start > 60 { print FILENAME ":" start ": " FNR - start " lines" }
        /^}/ { start = 0 }' $bodies | grep .
}
cover() { [ "$(awk '/\*\// { print FNR; exit }' asthra_rt.h)" -lt 150 ]; }
layout() { clang-format --dry-run -Werror --style=file $bodies $(find tests -name '*.[ch]'); }

check columns-at-most-100 columns
check printable-and-no-trailing-blanks clean
check no-unfinished-words unfinished
check first-lines-name-the-chapter first_lines
check functions-at-most-60-lines functions
check cover-under-150-lines cover
if [ "${STYLE_LAYOUT:-0}" = 1 ]; then
    case $(clang-format --version 2>/dev/null) in
    *"version 14."*) check layout-is-clang-format-s layout ;;
    *) skip "clang-format 14 not found" ;;
    esac
    if have shellcheck; then
        check shellcheck shellcheck -e SC2086,SC2046,SC2044,SC1091,SC2016,SC2317,SC3045,SC2153 \
            amalgamate tests/run tests/*.sh tests/house/*.sh
    else skip "shellcheck not found"; fi
fi
end
