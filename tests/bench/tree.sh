#!/bin/sh
# tree.sh TREEGREP - examples/treegrep beside grep -rFI on a tree of 6,000 files, 90 MB: copies of
# src, tests and the book. They take turns, and a ratio is of the two of one round.
set -u
treegrep=$1
dir=${BUILD:-build/bench}/tree
rounds=${BENCH_ROUNDS:-7}
LC_ALL=C
export LC_ALL
if [ ! -d "$dir" ]; then
    mkdir -p "$dir.part" || exit 2
    for i in $(seq 40); do
        mkdir "$dir.part/$i" && cp -r src tests asthra_rt.h "$dir.part/$i" || exit 2
    done
    mv "$dir.part" "$dir"
fi
grep -rFI asthra "$dir" >/dev/null # whoever is first reads no disk
timed() { # OUT COMMAND... : seconds
    out=$1
    shift
    begin=$(date +%s.%N)
    "$@" >"$out"
    echo "$begin $(date +%s.%N)" | awk '{ printf "%.4f\n", $2 - $1 }'
}
for text in asthra__waiters_claim 'not in any of them'; do
    round=0
    while [ "$round" -lt "$rounds" ]; do
        a=$(timed "$dir.ours" "$treegrep" "$text" "$dir")
        b=$(timed "$dir.peer" grep -rFI "$text" "$dir")
        sort "$dir.ours" >"$dir.sorted" && sort "$dir.peer" | cmp - "$dir.sorted" || exit 1
        echo "$a $b"
        round=$((round + 1))
    done | sort | awk -v text="$text" '
        { ours[NR] = $1; peer[NR] = $2; ratio[NR] = $1 / $2 }
        function sorted(list, n,   i, j, t) {
            for (i = 2; i <= n; i++)
                for (j = i; j > 1 && list[j - 1] > list[j]; j--) {
                    t = list[j]; list[j] = list[j - 1]; list[j - 1] = t
                }
        }
        END {
            sorted(ours, NR); sorted(peer, NR); sorted(ratio, NR)
            m = int((NR + 1) / 2)
            printf "treegrep %-24s %6.3f s, grep -rFI %6.3f s  ratio %.3f %.3f %.3f %s\n", text,
                ours[m], peer[m], ratio[1], ratio[m], ratio[NR], ratio[m] < 1 ? "met" : "MISSED"
        }'
done
