#!/bin/sh
# examples - each examples/NAME.c prints what examples/NAME.expected holds, or ends with status 77
# and a last line that says why it cannot: a library is not here, or the program has no loader.
#
#     examples.sh [FOLDER [COMMAND...]]    the programs of another build, and what runs them
. tests/house/lib.sh

folder=${1-build/examples}
[ $# = 0 ] || shift
OUT=$OUT/$folder
mkdir -p "$OUT"
printed() { # NAME STATUS
    cat "$OUT/$1.err"
    [ "$2" = 0 ] && diff -u "examples/$1.expected" "$OUT/$1.out"
}
for wanted in examples/*.expected; do
    name=${wanted##*/}
    name=${name%.expected}
    status=0
    "$@" "$folder/$name" >"$OUT/$name.out" 2>"$OUT/$name.err" || status=$?
    case $status in
    77) skip "$(tail -n 1 "$OUT/$name.out")" ;;
    *) check "$name-prints-what-is-expected" printed "$name" $status ;;
    esac
done
end
