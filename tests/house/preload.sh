#!/bin/sh
# preload - examples/asthra_malloc.c under programs that know nothing of it: same output, no crash.
. tests/house/lib.sh

so=$PWD/build/examples/asthra_malloc.so
# same NAME COMMAND...: writes the same with our malloc as with the system's.
same() {
    name=$1
    shift
    "$@" >"$OUT/$name.system" 2>&1 || { cat "$OUT/$name.system"; return 1; }
    LD_PRELOAD=$so "$@" >"$OUT/$name.ours" 2>&1 || { tail -20 "$OUT/$name.ours"; return 1; }
    cmp "$OUT/$name.system" "$OUT/$name.ours"
}
is_ours() {
    LD_PRELOAD=$so sh -c 'grep -c asthra_malloc.so /proc/self/maps' | grep -q '[1-9]'
}
# may NAME PROGRAM COMMAND...: the same, if the program is here.
may() {
    if command -v "$2" >/dev/null 2>&1; then
        name=$1
        shift
        check "$name" same "$name" "$@"
    else
        skip "$2 not found"
    fi
}

check it-is-loaded is_ours
seq 6900000 | sed 's/\(.\)\(.*\)/\2\1/' >"$OUT/numbers"
may sort-of-50-MB sort --parallel=2 -S 20M "$OUT/numbers"
rm -f "$OUT"/numbers "$OUT"/sort*
for compiler in gcc clang; do
    may "$compiler-compiles-the-book" "$compiler" -std=gnu11 -O0 -w $INCLUDES -S -o - \
        build/asthra_rt.c
done
may perl-builds-a-table perl -e 'for (1..300000) { $h{$_ % 7919} .= chr(65 + $_ % 26) }
    print join("", map { length $h{$_} } sort keys %h)'
may python3-builds-a-table python3 -c 'import json
print(json.dumps({str(i): [list(range(i % 50))] * 2 for i in range(5000)}, sort_keys=True))'
may git-log git log --stat -30
may awk-counts-words awk '
    { for (i = 1; i <= NF; i++) n[$i]++ } END { for (w in n) s += n[w]; print s }' asthra_rt.h
end
