#!/bin/sh
# examples - each examples/NAME.c prints what examples/NAME.expected holds.
. tests/house/lib.sh

expected() { "build/examples/$1" >"$OUT/$1.out" && diff -u "examples/$1.expected" "$OUT/$1.out"; }
for wanted in examples/*.expected; do
    name=${wanted##*/}
    check "${name%.expected}-prints-what-is-expected" expected "${name%.expected}"
done
end
