# lib - what the scripts of the house share: named checks, and the last line that tests/run reads.
# shellcheck shell=sh disable=SC2034
set -u
INCLUDES="-I. -Ibuild/deps -Itests"
OUT=build/house/${0##*/}
OUT=${OUT%.sh}
mkdir -p "$OUT"
passed=0 failed=0 skipped=0

# check NAME COMMAND...: passed if the command ends with 0; else its output is shown.
check() {
    check_name=$1
    shift
    if "$@" >"$OUT/log" 2>&1; then
        passed=$((passed + 1))
        echo "ok   $check_name"
    else
        check_status=$?
        failed=$((failed + 1))
        echo "FAIL $check_name: exit status $check_status of: $*"
        head -n 40 "$OUT/log"
    fi
}
skip() {
    skipped=$((skipped + 1))
    echo "skip $*"
}
have() { command -v "$1" >/dev/null 2>&1; }

# need TOOL...: sets found to the tools that are here; a skip line for each of the others.
need() {
    found=''
    for tool; do if have "$tool"; then found="$found $tool"; else skip "$tool not found"; fi; done
}
end() {
    line="house: $passed passed, $failed failed"
    [ "$skipped" -gt 0 ] && line="$line, $skipped skipped"
    echo "$line"
    [ "$failed" = 0 ]
    exit
}
# quiet COMMAND...: fails if the command fails or says anything.
quiet() {
    "$@" >"$OUT/quiet" 2>&1 && [ ! -s "$OUT/quiet" ] && return
    cat "$OUT/quiet"
    return 1
}
