#!/bin/sh
# gdb - the script that the book carries, in gdb's batch mode: on gdb.c, on a core, on a static
# program, on stripped ones, and without what it wants. A command may fail with a sentence, never
# with a traceback. Without arguments it is what the gate looks at; with those of a variant (its
# name, what runs it, its compiler and flags) it is gdb.c built that way, and with plain the rest.
. tests/house/lib.sh
variant=${1-gate} runner=${2-}
OUT=$PWD/$OUT/$variant
mkdir -p "$OUT"
unable() { echo "$1"; exit 77; }
have gdb || unable "gdb not found"
[ "$(gdb -nx -batch -ex 'python print(1 + 1)' 2>&1)" = 2 ] || unable "gdb without Python"
if [ -n "$runner" ]; then have gdb-multiarch || unable "gdb-multiarch not found"; fi
case $(gdb -nx -batch -ex run --args true 2>&1) in
*'exited normally'*) ;;
*) unable "gdb may not trace a process here" ;;
esac

# build OUTPUT COMPILER FLAG...: gdb.c at -O1, where a function keeps what it can in registers and
# compilers can say where. The bodies of the gate are at -O0, which costs least and leaves those
# registers to the switch.
build() {
    output=$1
    shift
    rm -f "$output"
    "$@" -std=gnu11 -g $INCLUDES -c -o "$output.o" build/asthra_rt.c -pthread &&
        "$@" -std=gnu11 -O1 -g $INCLUDES -o "$output" tests/house/gdb.c "$output.o" -pthread
}
# session GDB FILE COMMAND...: what each command says, under a line with its name, in $said.
session() {
    debugger=$1 file=$2
    shift 2
    for command; do set -- "$@" -ex "echo == $command\\n" -ex "$command"; shift; done
    timeout 100 "$debugger" -nx -batch -iex "add-auto-load-safe-path $here" -ex 'set width 0' "$@" \
        "$file" >"$said" 2>&1
    cat "$said"
    ! grep -nE 'Traceback|Python Exception|Error occurred|Error while executing' "$said"
}
# shows COMMAND PATTERN...: it said lines like these, in this order.
shows() {
    awk -v wanted="== $1" '/^== / { on = $0 == wanted; next } on' "$said" >"$OUT/section"
    shift
    for pattern; do
        line=$(grep -nE -m 1 -e "$pattern" "$OUT/section" | cut -d: -f1)
        [ -n "$line" ] || { echo "no line is like: $pattern"; cat "$OUT/section"; return 1; }
        sed -i "1,${line}d" "$OUT/section"
    done
}
stops='break house_ready' here=$PWD

lists_tasks() {
    shows 'asthra tasks' \
        "^ +1 +waiting +house_receives at .*  receive on channel 'jobs'$since" \
        "^ +2 +waiting +house_sends at .*  send on channel 'results'$since" \
        "^ +3 +waiting +house_selects .*select of receive on channel 'events', send on channel" \
        "^ +4 +waiting +house_locks at .*  lock of a mutex$since" \
        "^ +5 +waiting +house_sleeps .*  sleep.*(59|60).. min left|sleep.* 1.0 h left" \
        "^ +6 +waiting +house_reads at .*  descriptor$since" \
        "^ +7 +waiting +house_awaits .*  await of task 9 'house_child .*, which stands above it" \
        "^\\* +8 +running +house_looks at .*  thread 1 'main', worker 0" \
        "^ +9 +waiting +house_child at .*  receive on channel 'events'$since" \
        "^ +10 +created +house_sleeps at .*  not started" \
        "^ +- +waiting +thread 1 'main' +await of task 8 'house_looks .*, which stands above it" \
        '^workers: 1, asleep: 0; queued: 1 at them, 0 globally'
}
shows_stacks() {
    shows 'asthra bt house_receives' "^task 1 'house_receives at .*: waiting, receive on channel" \
        '^#[0-9]+ .* asthra_channel_receive \(' '^#[0-9]+ .* house_receives \(arg=' &&
        shows 'asthra bt tasks[3]' "^task 4 'house_locks" 'house_locks \(arg=' &&
        shows 'asthra bt 7' "^task 9 'house_child " 'house_deep \(depth=' 'house_deep \(depth=' \
            'house_deep \(depth=' 'house_deep \(depth=' 'house_child \(arg=' \
            "^task 7 'house_awaits " 'asthra_await_result \(' 'house_awaits \(arg=' &&
        shows 'asthra bt main' "^task 8 'house_looks .*: running" '^#0 +house_ready \(count=' \
            '^#1 .* house_looks \(' "^thread 1 'main': await of task 8" 'asthra_await \(' \
            ' main \(' &&
        shows 'asthra bt all' "^task 1 '" 'house_receives' "^task 2 '" 'house_sends' "^task 3 '" \
            'house_selects' "^task 4 '" 'house_locks' "^task 5 '" 'house_sleeps' "^task 6 '" \
            'asthra_wait_fd' 'house_reads' "^task 8 '" "^task 9 '" 'house_deep' "^task 7 '" \
            'house_awaits' 'have not started: 1$' &&
        ! grep -E '^#[0-9]+ .*asthra(__|\.)[a-z]' "$said"
}
goes_to_tasks() {
    shows 'asthra task house_child' "^task 9 'house_child" 'asthra_channel_receive \(' &&
        shows 'up' 'house_deep \(depth=' &&
        shows 'asthra task 1' "^task 1 'house_receives" &&
        shows 'info locals' '^k1 = 1$' '^k2 = 2$' '^k3 = 3$' '^k4 = 4$' '^k5 = 5$' '^k6 = 6$' \
            '^k7 = 7$' '^k8 = 8$' '^k9 = 9$' '^k10 = 10$' '^k11 = 11$' '^k12 = 12$' &&
        { [ -z "$runner" ] || shows 'info locals ' '^r1 = 1.5$' '^r2 = 3$' '^r3 = 6$'; } &&
        shows 'asthra task off' '^#0 +house_ready \(count=' &&
        shows 'backtrace 2' '^#0 +house_ready \(' '^#1 .* house_looks \('
}
shows_values() {
    shows 'asthra channel full' "^channel 'results': 3 of 3 values of 4 bytes$" 'value 0: 1$' \
        'value 1: -2$' 'value 2: 3$' "waits to send: task 3 'house_selects" \
        "waits to send: task 2 'house_sends" &&
        shows 'asthra channel also_empty' "^channel 'events': 0 of 0 values of 24 bytes$" \
            "waits to receive: task 9 'house_child" "waits to receive: task 3 'house_selects" &&
        shows 'asthra result house_good' '^ASTHRA_OK, value 0x2a$' 'integer: 42$' &&
        shows 'asthra result &house_bad' '^ASTHRA_LIMIT: 7 are too many$' &&
        shows 'print house_bad' '= ASTHRA_LIMIT: 7 are too many$' &&
        shows 'print *empty' "= channel 'jobs': 0 of 4 values of 4 bytes$" &&
        shows 'print tasks[0]' "= task 1 'house_receives at .*', waiting$" &&
        shows 'asthra workers' "^worker 0: thread 1 'main', runs task 8 'house_.*; 1 not started"
}
refuses() {
    for row in 'asthra bt 77:no task has the id 77' 'asthra bt nobody:no id, no name' \
        'asthra bt house_sleeps:2 tasks have that name: 5, 10' 'asthra bt:which task' \
        'asthra bt 10:has not started: it has no stack' 'asthra channel mutex:no channel' \
        'asthra channel (AsthraChannel *)0:is NULL' 'asthra result:which result'; do
        shows "${row%%:*}" "^asthra: .*${row#*:}" || return 1
    done
}
# look GDB PROGRAM BEFORE...: all commands; BEFORE leads to where the program stands at the second
# stop.
look() {
    said=$OUT/$prefix.said
    check "$prefix-session" session "$@" 'asthra tasks' 'asthra workers' \
        'asthra bt house_receives' 'asthra bt tasks[3]' 'asthra bt 7' 'asthra bt main' \
        'asthra bt all' 'asthra task house_child' 'up' 'asthra task 1' \
        'frame function house_receives' 'info locals' 'asthra task 2' 'frame function house_sends' \
        'info locals ' 'asthra task off' 'backtrace 2' 'asthra channel full' \
        'asthra channel also_empty' 'asthra result house_good' 'asthra result &house_bad' \
        'print house_bad' 'print *empty' 'print tasks[0]' 'asthra bt 77' 'asthra bt nobody' \
        'asthra bt house_sleeps' 'asthra bt' 'asthra bt 10' 'asthra channel mutex' \
        'asthra channel (AsthraChannel *)0' 'asthra result' 'asthra task house_receives' \
        'continue' || return
    check "$prefix-lists-tasks" lists_tasks
    check "$prefix-shows-stacks" shows_stacks
    check "$prefix-goes-to-tasks" goes_to_tasks
    check "$prefix-shows-channels-and-results" shows_values
    check "$prefix-refuses-with-a-sentence" refuses
}
# Where the script says that registers are is where the call frame information of asthra__swap says
# it: a thread is put there, as if it were about to leave. Somewhere in that routine all are saved.
cat >"$OUT/words.py" <<'END'
import gdb.types
import struct
g = asthra_scheduler()
def bits(value):
    kind = value.type.strip_typedefs()
    if kind.code == gdb.TYPE_CODE_UNION: # one view of it; of vectors only the beginning was saved
        return bits(value[[name for name in ('double', 'd', 'u', 'f64')
                           if gdb.types.has_field(kind, name)][0]])
    if kind.code == gdb.TYPE_CODE_ARRAY:
        return bits(value[0])
    if kind.code == gdb.TYPE_CODE_FLT:
        return struct.pack('d', float(value))
    return int(value) & (1 << 8 * kind.sizeof) - 2 # bit 0 says Thumb
def is_same(context, name, there):
    return bits(there) == bits(context.value(name, there.type))
def agrees(context, frame):
    return (frame and int(frame.read_register(context.sp)) == context.top and
            all(is_same(context, name, frame.read_register(name)) for name in context.saved))
for task in (1, 2):
    address = int(asthra_fiber(g, asthra_task_of(g, task))['context'])
    context, most = AsthraContext(address), 200
    at = int(gdb.parse_and_eval('(long)&asthra__swap'))
    while most > 0 and not agrees(context, gdb.newest_frame().older()):
        gdb.execute(f'set ${context.sp} = {address}')
        gdb.execute(f'set $pc = {at}')
        at, most = at + 1, most - 1
    print(f'agrees: {most > 0}, {len(context.saved)} registers')
END
agrees() {
    session "$@" "source $OUT/words.py" kill &&
        shows "source $OUT/words.py" '^agrees: True' '^agrees: True'
}
goes_on() { shows 'continue' 'exited normally'; }

# ---- the programs ----

# An emulator waits for gdb at a socket, and for ever if nobody comes: no longer than we do.
emulator=''
dismiss() {
    [ -n "$emulator" ] || return
    kill "$emulator" 2>/dev/null
    wait "$emulator" 2>/dev/null
    emulator=''
}
trap dismiss EXIT
trap 'exit 1' HUP INT TERM
emulate() {
    dismiss
    rm -f "$OUT/socket"
    "$runner" -g "$OUT/socket" "$1" >"$OUT/emulator" 2>&1 &
    emulator=$!
    tries=100
    until [ -S "$OUT/socket" ]; do
        if [ $((tries -= 1)) = 0 ] || ! kill -0 "$emulator" 2>/dev/null; then
            echo "no socket from $runner"
            cat "$OUT/emulator"
            return 1
        fi
        sleep 0.1
    done
}
of_another_processor() {
    set -- gdb-multiarch "$1" "target remote $OUT/socket" "$stops" continue continue
    since='' # a clock from afar is not exact
    emulate "$2" && look "$@"
    check "$prefix-goes-on" goes_on
    emulate "$2"
    check "$prefix-registers-are-where-they-were-saved" agrees "$@"
}
of_this_one() {
    set -- gdb "$1" "$stops" run continue
    look "$@"
    check "$prefix-goes-on" goes_on
    check "$prefix-registers-are-where-they-were-saved" agrees "$@"
}
# Before the start, and before the runtime's.
begins() {
    session gdb "$program" 'asthra tasks' "$stops" run 'asthra bt main' 'print tasks[0]' \
        'asthra' &&
        shows 'asthra tasks' '^asthra: the program is not running' &&
        shows 'asthra bt main' '^asthra: the runtime is not running' &&
        shows 'print tasks[0]' '= no task$' && shows 'asthra' 'asthra bt -- ' 'asthra tasks -- '
}
# In the middle of starting and stopping nothing is whole, and everything is said in a sentence.
half_way() {
    for step in asthra__workers_create asthra__seat_setup asthra__task_cancel_parked \
        asthra__seats_dismiss asthra__task_teardown asthra__workers_destroy \
        asthra__fiber_teardown asthra__scheduler_forget; do
        set -- "$@" "tbreak $step" continue 'asthra tasks' 'asthra workers' 'asthra bt all' \
            'asthra bt 1' 'asthra task main' 'print tasks[0]' 'asthra channel empty'
    done
    session gdb "$program" 'tbreak main' run "$@" continue && goes_on &&
        [ "$(grep -c '^Temporary breakpoint [2-9], asthra__' "$said")" = 8 ] &&
        ! grep -E '^(asthra: )?(<|None|list index|.*object)' "$said"
}
of_threads() {
    session gdb "$program" "$stops" 'run two' continue 'asthra tasks' 'asthra bt house_spins' \
        'thread' 'asthra bt house_receives' 'asthra bt main' 'asthra workers' \
        'asthra task house_spins' 'thread ' 'info locals' continue 'asthra bt main ' \
        'asthra bt polled' continue &&
        shows 'asthra tasks' "running +house_spins at .*  thread [23], worker [01]" \
            "waiting +house_receives .*  receive on channel 'jobs'" 'workers: 2, asleep: ' &&
        shows 'asthra bt house_spins' '^task [12] .*: running' 'house_spins \(arg=' &&
        shows 'thread' 'Current thread is 1 ' && shows 'thread ' 'Current thread is [23] ' &&
        shows 'asthra bt house_receives' 'house_receives \(arg=' &&
        shows 'asthra bt main' "^thread 1 'main': runs" '^#0 +house_ready' ' main \(' &&
        shows 'asthra workers' 'worker [01]: thread [23], runs task [12]' 'workers: 2' &&
        shows 'asthra bt main ' "^thread 1 'main': runs tasks$" 'asthra_runtime_poll \(' \
            ' with_threads \(' ' main \(' &&
        shows 'asthra bt polled' "'polled': running, thread 1 'main', worker 2" 'house_is_polled' &&
        shows 'continue' 'exited normally'
}
# The kernel's, where it may write one; else gdb's, which leaves out a mapping that holds a guard
# page (MADV_GUARD_INSTALL, Linux 6.13).
core() {
    rm -rf "$OUT/cores" && mkdir "$OUT/cores" || return
    (cd "$OUT/cores" && ulimit -c unlimited &&
        session gdb "$program" "$stops" run continue 'signal SIGABRT')
    for dump in "$OUT"/cores/core*; do [ -s "$dump" ] && return; done
    dump=$OUT/cores/gcore
    session gdb "$program" "$stops" run continue "generate-core-file $dump" kill
    [ -s "$dump" ] && ! grep 'Memory read failed for corefile section, .* at 0x[0-9a-e]' "$said"
}
static() {
    "$CC" -std=gnu11 -O1 -g -static $INCLUDES -o "$OUT/static" tests/house/gdb.c "$program.o" \
        -pthread
}
of_ucontext() {
    session gdb "$program" "$stops" run continue 'asthra tasks' 'asthra bt 1' \
        'asthra bt main' &&
        lists_tasks && shows 'asthra bt 1' '^asthra: this build switches stacks with ucontext' &&
        shows 'asthra bt main' "^task 8 '" '^#0 +house_ready \('
}
without() {
    session gdb "$1" 'asthra tasks' 'asthra bt all' &&
        shows 'asthra tasks' "$2" && shows 'asthra bt all' "$2"
}
without_debug_information() {
    objcopy --strip-debug --keep-section=.debug_gdb_scripts "$program" "$OUT/plain" &&
        without "$OUT/plain" '^asthra: the runtime was compiled without -g'
}
without_symbols() {
    objcopy --strip-all --keep-section=.debug_gdb_scripts "$program" "$OUT/bare" &&
        without "$OUT/bare" '^asthra: this program has no symbols of the runtime'
}
without_tasks() {
    echo '#include "asthra_rt.h"
int main(void) { return asthra_runtime_init(0) ? 0 : 1; }' >"$OUT/no_tasks.c" &&
        "$CC" -std=gnu11 -O0 -g -DASTHRA_RT_IMPLEMENTATION -DASTHRA_RT_ONLY -DASTHRA_RT_WITH_GDB \
            $INCLUDES -o "$OUT/no_tasks" "$OUT/no_tasks.c" -pthread &&
        without "$OUT/no_tasks" '^asthra: this build of the runtime has no tasks'
}
# Nothing of it is loaded, strip takes it away, and every piece came whole.
section() {
    readelf -SW "$1" | grep -E '\.debug_gdb_scripts +PROGBITS .* MS +0 +0 +1$' &&
        strip -o "$OUT/stripped" "$1" &&
        ! readelf -SW "$OUT/stripped" | grep debug_gdb_scripts &&
        objcopy --dump-section ".debug_gdb_scripts=$OUT/scripts" "$1" "$OUT/copy" &&
        [ "$(tr -cd '\004' <"$OUT/scripts" | wc -c)" = 3 ] &&
        [ "$(tr -cd '\000' <"$OUT/scripts" | wc -c)" = 3 ]
}
left_out() {
    echo '#include "asthra_rt.h"' | "$CC" -std=gnu11 -DASTHRA_RT_IMPLEMENTATION -DASTHRA_RT_NO_GDB \
        $INCLUDES -E -x c -o "$OUT/without.i" - && ! grep '[.]debug_gdb' "$OUT/without.i"
}

# Link-time optimization may tear a file apart: not the script.
optimized() {
    "$CC" -std=gnu11 -O1 -g -flto $INCLUDES -o "$OUT/optimized" tests/house/gdb.c \
        build/asthra_rt.c -pthread
}
# What is not about how the bodies were compiled, at first what the gate has time for.
rest() {
    said=$OUT/other.said
    check before-the-start begins
    check threads of_threads
    check without-debug-information without_debug_information
    check without-symbols without_symbols
    check without-tasks without_tasks
    check section-is-not-loaded section "$program"
    check left-out left_out
    [ "$variant" = plain ] || return
    prefix=static
    check static-links static
    look gdb "$OUT/static" "$stops" run continue
    prefix=optimized
    check optimized-links optimized
    check optimized-section section "$OUT/optimized"
    look gdb "$OUT/optimized" "$stops" run continue
    since='' # of a core's clock it is not known
    prefix=core
    if core >"$OUT/log" 2>&1; then look gdb "$program" "core-file $dump"
    else skip "core: the kernel writes none here, and gdb's lacks what has guard pages"; fi
}

since=', since [0-9.]+ (us|ms|s)' prefix=$variant program=$OUT/program
[ $# = 0 ] && set -- gate '' "$CC"
shift 2
check "$prefix-builds" build "$program" "$@"
[ -x "$program" ] || end
if [ -n "$runner" ]; then of_another_processor "$program"
elif [ "$variant" = noasm ]; then said=$OUT/noasm.said && check noasm-says-so of_ucontext
else of_this_one "$program"
fi
case $variant in
gate | plain) rest ;;
nothreads) said=$OUT/other.said && check half-way half_way ;;
esac
end
