# logscan.awk - the table of examples/logscan.c, by one thread in plain POSIX awk.
#
#     LC_ALL=C awk -f logscan.awk [file]...
#
# The second opinion on logscan.c: shorter, slower, written in another language.

BEGIN {
    FS = "\""
    digits = "[0-9]"
    for (i = 1; i < 15; i++) digits = digits "[0-9]?"
    numbers = "^ [1-5][0-9][0-9] (-|" digits ")"
}

# What follows the request is all of the line, or goes on with a blank.
NF < 3 || $1 !~ /^[^ ]+ / || $2 !~ /^[A-Z]+ [^ ?]/ { next }
NF == 3 && $3 !~ (numbers "(\r?$| )") { next }
NF > 3 && $3 !~ (numbers " ") { next }

{
    sent = substr($3, 6) + 0
    split($1, host, / /)
    split($2, quoted, /[ ?]/)
    requests++
    bytes += sent
    count("status", substr($3, 2, 3))
    count("method", quoted[1])
    count("path", quoted[2])
    count("host", host[1])
}

function count(table, name,    key) {
    key = table SUBSEP name
    sums[key] += sent
    if (++hits[key] == 1) names[table, ++used[table]] = name
}

# Moves the row that comes first among those from `at` on to `at`.
function select_row(table, at,    best, i, name, hold) {
    best = at
    for (i = at + 1; i <= used[table]; i++) {
        name = names[table, i]
        hold = names[table, best]
        if (hits[table, name] > hits[table, hold] ||
            (hits[table, name] == hits[table, hold] && name "" < hold "")) best = i
    }
    hold = names[table, at]
    names[table, at] = names[table, best]
    names[table, best] = hold
}

function print_table(table, limit,    at, name, other_requests, other_bytes) {
    printf "\n%12s %16s  %s\n", "requests", "bytes", table
    other_requests = requests
    other_bytes = bytes
    for (at = 1; at <= used[table] && at <= limit; at++) {
        select_row(table, at)
        name = names[table, at]
        printf "%12.0f %16.0f  %s\n", hits[table, name], sums[table, name], name
        other_requests -= hits[table, name]
        other_bytes -= sums[table, name]
    }
    if (used[table] > limit) {
        printf "%12.0f %16.0f  (%d others)\n", other_requests, other_bytes, used[table] - limit
    }
}

END {
    printf "%.0f lines, %.0f requests, %.0f bytes sent, %.0f lines skipped\n",
           NR, requests, bytes, NR - requests
    print_table("status", 20)
    print_table("method", 20)
    print_table("path", 10)
    print_table("host", 10)
}
