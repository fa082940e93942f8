#!/bin/sh
# check.sh - logscan against logscan.awk, a second program for the same table.
#
#     check.sh LOGSCAN GENERATE [FOLDER]
#
# LOGSCAN and GENERATE are built already; FOLDER (a fresh one if left out) takes the files that
# are compared. Run it from the repository's root.
# shellcheck disable=SC2181
set -u
[ $# -ge 2 ] || { echo "usage: check.sh LOGSCAN GENERATE [FOLDER]" >&2; exit 2; }
logscan=$(cd "$(dirname "$1")" && pwd)/$(basename "$1") # it is also run in another folder
generate=$2
here=$(dirname "$0")
if [ $# -ge 3 ]; then
    dir=$3
    mkdir -p "$dir" || exit 2
else
    dir=$(mktemp -d) || exit 2
    trap 'rm -rf "$dir"' EXIT
fi
LC_ALL=C # names are ordered by byte in both programs
export LC_ALL

for awk in mawk gawk original-awk awk; do
    command -v "$awk" >/dev/null 2>&1 && break
done

passed=0
failed=0
verdict() { # STATUS SENTENCE
    if [ "$1" -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok    logscan $2"
    else
        failed=$((failed + 1))
        echo "FAIL  logscan $2"
    fi
}

agrees() { # SENTENCE FILE...
    what=$1
    shift
    "$awk" -f "$here/logscan.awk" "$@" >"$dir/expected" || echo "$awk failed" >>"$dir/expected"
    "$logscan" "$@" >"$dir/got" 2>"$dir/complaints" || echo "logscan failed" >>"$dir/got"
    cat "$dir/complaints" >>"$dir/got" # stderr is no terminal, so nothing may be there
    diff "$dir/expected" "$dir/got" >"$dir/difference"
    status=$?
    verdict $status "agrees with $awk on $what"
    [ $status -eq 0 ] || sed -n 1,8p "$dir/difference"
}

refuses() { # SENTENCE REASON FILE...
    what=$1
    reason=$2
    shift 2
    "$logscan" "$@" >"$dir/got" 2>"$dir/complaints"
    status=$?
    [ $status -ne 0 ] && [ ! -s "$dir/got" ] && grep -q "^logscan: $reason" "$dir/complaints"
    verdict $? "refuses $what"
}

sample=examples/sample.log
agrees "the sample" "$sample"
"$logscan" >"$dir/got" 2>&1 && cmp -s "$dir/got" examples/logscan.expected
verdict $? "without a file scans the sample"

: >"$dir/empty"
agrees "an empty file" "$dir/empty"
printf '\n\n\n' >"$dir/blank"
agrees "blank lines" "$dir/blank"
printf '%s' '10.0.0.1 - - [x] "GET /last HTTP/1.1" 200 7' >"$dir/open_end"
agrees "a last line without its newline" "$dir/open_end"
awk '{ printf "%s\r\n", $0 } NR % 3 == 0 { print "h - \"PUT /bare HTTP/1.0\" 201 5\r" }' \
    "$sample" >"$dir/crlf"
agrees "CRLF lines" "$dir/crlf"

awk 'BEGIN {
    for (long = "/x"; length(long) < 3000000;) long = long long
    print "a - \"GET /before HTTP/1.1\" 200 1"
    print "b - \"GET " long " HTTP/1.1\" 200 2 \"-\" \"-\""
    print "c - \"GET /after HTTP/1.1\" 200 3 \"-\" \"" long "\""
    print "d - \"GET /end HTTP/1.1\" 200 4"
}' >"$dir/long"
agrees "lines of megabytes" "$dir/long"

cat >"$dir/odd" <<'END'
h - - "GET / HTTP/1.1" 200 1
h "GET /no-blank-after" 200 1 x
h "GET /one-word" 200
h "GET /status" 99 1
h "GET /status" 600 1
h "GET /status" 2000 1
h "GET /status" 2x0 1
h "GET /dash" 304 -
h "GET /dash" 304 - x
h "GET /dash" 304 -x
h "GET /dash" 304 --
h "GET /bytes" 200 1x
h "GET /bytes" 200 123456789012345
h "GET /bytes" 200 1234567890123456
h "GET /bytes"  200 1
h "get /lower" 200 1
h "GET" 200 1
h "GET " 200 1
h "GET ?query" 200 1
h "GET /query?a?b c?d" 200 1
h "GET /path" 200 1"
h "GET /a\"b" 200 1
h"quoted - "GET /" 200 1
 "GET /no-host" 200 1
"GET /no-host" 200 1
h GET / 200 1
h "GET / 200 1
h - "A /letter" 200 0
h - "POST  /two-blanks" 200 5
"
""
"""
""""
END
printf \
    'tab\thost - "GET /tab\tinside" 200 1\nh "GET /bytes" 200 \nh "GET /carriage\r" 200 1\nh "GET /return" 200 1\r\r\nh "GET /\r' >>"$dir/odd"
agrees "lines that are hardly requests" "$dir/odd"

"$generate" 7 >"$dir/some" && [ "$(wc -c <"$dir/some")" -ge 7000000 ]
verdict $? "has a generated log"
agrees "a log of many chunks" "$dir/some"
agrees "several files" "$dir/some" "$dir/empty" "$sample" "$dir/open_end" "$sample"
tail -c 3333333 "$dir/some" >"$dir/cut"
agrees "a log that begins in the middle of a line" "$dir/cut"
awk 'BEGIN { for (i = 0; i < 60000; i++) print "h" i " - \"GET /" i * 7 " x\" 200 " i }' \
    >"$dir/names"
agrees "names that are all different" "$dir/names"

if [ -r /dev/stdin ]; then
    # shellcheck disable=SC2002 # a pipe is the point
    cat "$dir/some" | "$logscan" /dev/stdin >"$dir/got" 2>&1
    "$awk" -f "$here/logscan.awk" "$dir/some" | cmp -s - "$dir/got"
    verdict $? "reads a pipe"
fi

refuses "a missing file" "cannot read '$dir/none': No such file or directory\$" "$dir/none"
refuses "a missing file after a good one" "cannot read '$dir/none': No such" "$sample" "$dir/none"
refuses "a folder" "cannot read '$dir': Is a directory\$" "$dir"
(cd "$dir" && mkdir -p nowhere && cd nowhere && "$logscan") >"$dir/got" 2>"$dir/complaints"
[ $? -ne 0 ] && grep -q "cannot read 'examples/sample.log'" "$dir/complaints"
verdict $? "says so where the sample is not found"
if [ "$(id -u)" -ne 0 ]; then
    : >"$dir/secret" && chmod 0 "$dir/secret"
    refuses "an unreadable file" "cannot read '$dir/secret': Permission denied\$" "$dir/secret"
fi
if [ -w /dev/full ]; then
    "$logscan" "$sample" >/dev/full 2>"$dir/complaints"
    [ $? -ne 0 ] && grep -q "^logscan: cannot write: " "$dir/complaints"
    verdict $? "says that its table could not be written"
fi

echo "logscan: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
