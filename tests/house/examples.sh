#!/bin/sh
# examples - each examples/NAME.c prints what examples/NAME.expected holds.
#
#     examples.sh [FOLDER [COMMAND...]]    the programs of another build, and what runs them
. tests/house/lib.sh

folder=${1-build/examples}
[ $# = 0 ] || shift
OUT=$OUT/$folder
mkdir -p "$OUT"
run() {
    name=$1
    shift
    "$@" "$folder/$name" >"$OUT/$name.out" && diff -u "examples/$name.expected" "$OUT/$name.out"
}
for wanted in examples/*.expected; do
    name=${wanted##*/}
    name=${name%.expected}
    check "$name-prints-what-is-expected" run "$name" "$@"
done
end
