#!/bin/sh
# dist - the folded book is one file: it needs no stb_ds.h, and the table's tests pass on it.
. tests/house/lib.sh
./amalgamate --fold build/deps/stb_ds.h || exit 1

stamped() { grep -q "cksum $(cksum <build/deps/stb_ds.h)" dist/asthra_rt.h; }
alone() { ! grep -nE '^# *include *["<](stb/)?stb_ds' dist/asthra_rt.h; }
quietly() { quiet "$1" -std=c11 -O0 $WARNINGS -Idist -c -o "$OUT/f.o" tests/house/features.c; }
runs() { "$CC" -std=gnu11 -O0 -Idist -o "$OUT/f" tests/house/features.c -pthread && "$OUT/f"; }
table() {
    "$CC" -std=gnu11 -O1 -Idist -Itests -o "$OUT/table" tests/test_table.c -pthread && "$OUT/table"
}
check stamp-is-the-checksum stamped
check needs-no-stb_ds alone
need "$CC" clang
for cc in $found; do check "$cc-compiles-without-a-warning" quietly "$cc"; done
check program-runs runs
check table-tests-pass table
end
