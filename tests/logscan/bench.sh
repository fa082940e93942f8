#!/bin/sh
# bench.sh - logscan beside awk and Go on one generated log, on all cores and on one.
#
#     bench.sh LOGSCAN GENERATE [FOLDER [MEGABYTES [ROUNDS]]]
#
# The programs take turns, so that a busy moment of the machine hits all of them. The peer runs
# right after ours in each round, and a ratio is taken within a round. FOLDER keeps the log and
# the Go program; 200 MB and 7 rounds (3 for awk) when left out.
# shellcheck disable=SC2086 # a pin may be empty, or several words
set -u
[ $# -ge 2 ] || { echo "usage: bench.sh LOGSCAN GENERATE [FOLDER [MB [ROUNDS]]]" >&2; exit 2; }
logscan=$1
generate=$2
dir=${3:-build/logscan}
megabytes=${4:-200}
rounds=${5:-7}
here=$(dirname "$0")
mkdir -p "$dir" || exit 2
log=$dir/access-$megabytes.log
[ -s "$log" ] || { "$generate" "$megabytes" >"$log.part" && mv "$log.part" "$log"; } || exit 2
LC_ALL=C
export LC_ALL

now() { date +%s.%N; } # coreutils and busybox both write nanoseconds on Linux

timed() { # COMMAND... : seconds on stdout; its output goes to $dir/out
    begin=$(now)
    "$@" >"$dir/out" || { echo "failed: $*" >&2; exit 1; }
    end=$(now)
    echo "$begin $end" | awk '{ printf "%.4f\n", $2 - $1 }'
}

spread() { # NAME < ours peer : item ours peer ratio min median max
    awk -v name="$1" '
        function put(list, n, value,    i) {
            for (i = n; i > 1 && list[i - 1] > value; i--) list[i] = list[i - 1]
            list[i] = value
        }
        { put(ours, NR, $1); put(peer, NR, $2); put(ratio, NR, $1 / $2) }
        END {
            m = int((NR + 1) / 2)
            printf "%-34s %8.3f s %8.3f s  ratio min %.3f median %.3f max %.3f\n",
                   name, ours[m], peer[m], ratio[1], ratio[m], ratio[NR]
        }'
}

compare() { # NAME ROUNDS PIN PEER...
    name=$1
    count=$2
    pin=$3
    shift 3
    while [ "$count" -gt 0 ]; do
        a=$(timed $pin "$logscan" "$log") || exit 1
        cp "$dir/out" "$dir/ours"
        b=$(timed $pin "$@" "$log") || exit 1
        cmp -s "$dir/ours" "$dir/out" || { echo "$name: the tables differ" >&2; exit 1; }
        echo "$a $b"
        count=$((count - 1))
    done | spread "$name"
}

one=
command -v taskset >/dev/null 2>&1 && one="taskset -c 0"
"$logscan" "$log" >/dev/null || exit 1 # brings the log into the page cache

echo "logscan, $megabytes MB                         ours       peer  (ours / peer)"
if command -v go >/dev/null 2>&1; then
    GOCACHE=${GOCACHE:-$(cd "$dir" && pwd)/gocache} GO111MODULE=off \
        go build -o "$dir/logscan-go" "$here/logscan.go" || exit 1
    compare "Go, all cores" "$rounds" "" "$dir/logscan-go"
    if [ -n "$one" ]; then compare "Go, one core" "$rounds" "$one" "$dir/logscan-go"; fi
else
    echo "Go                                 not installed"
fi
for awk in mawk gawk; do
    if command -v $awk >/dev/null 2>&1; then
        compare "$awk, all cores" 3 "" $awk -f "$here/logscan.awk"
        if [ -n "$one" ]; then compare "$awk, one core" 3 "$one" $awk -f "$here/logscan.awk"; fi
    else
        printf '%-34s not installed\n' "$awk"
    fi
done
