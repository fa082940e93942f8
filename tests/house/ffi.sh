#!/bin/sh
# ffi - calls and closures of generated signatures (tests/ffi/generate.c), callees and callers by
# gcc and by clang, all four ways. Arguments are those of a variant: its name, what runs it, its
# compiler and flags; without them it is the plain one.
#
#     ASTHRA_FFI_COUNT     how many signatures, 200 when unset; more than 500 are several programs
#     ASTHRA_FFI_SEED      of the first program; the next ones count up
#     ASTHRA_FFI_OPTIONS   more for the generator, as --odd
#     ASTHRA_FFI_DIRECT    not empty: through C alone, which needs no runtime
. tests/house/lib.sh
[ $# = 0 ] && set -- plain '' "$CC" -O2
variant=$1 runner=$2
shift 2
OUT=$OUT/$variant
mkdir -p "$OUT"
count=${ASTHRA_FFI_COUNT:-200} seed=${ASTHRA_FFI_SEED:-1} most=500
direct=${ASTHRA_FFI_DIRECT:+--direct}
archive=build/$variant/asthra_rt.a
[ -n "$direct" ] && archive=''
unit="-std=gnu11 -Wall -Wextra -Wno-psabi -Itests/ffi -I$OUT"

# Callees and callers are units without a library, and without what sanitizers add to them.
own=''
for flag; do case $flag in -fsanitize=* | -fno-sanitize*) ;; *) own="$own $flag" ;; esac; done
case $1 in *clang*) mine=clang theirs=gcc ;; *) mine=gcc theirs=clang ;; esac
case $variant in
aarch64 | riscv64) other="clang --target=$variant-linux-gnu" ;;
# clang 14 may otherwise store words of a parameter that it has just overwritten.
armhf) other='clang --target=arm-linux-gnueabihf -march=armv7-a -mfpu=vfpv3-d16
    -mfloat-abi=hard -mllvm -arm-load-store-opt=0' ;;
i386) other='clang -m32 -msse2' ;;
x87) other='clang -m32 -march=i686 -mno-sse' ;;
*) other=$theirs ;;
esac
[ "$variant" = riscv64 ] && other="$other -march=rv64gc -mabi=lp64d"
# Of these both compilers pass a packed struct of floats as other ones.
case $variant in aarch64 | armhf) reals='' ;; *) reals='--with packed-reals' ;; esac
both=$mine
echo 'int works;' >"$OUT/works.c"
if $other -c -o "$OUT/works.o" "$OUT/works.c" 2>"$OUT/log"; then both="$mine $theirs"
else skip "$theirs for $variant not found"; fi

compiles() { # compiles PROGRAM COMPILER LEVEL: callees and callers
    command=$other
    [ "$2" = "$mine" ] && command=$own
    for part in callees callers; do
        quiet $command "-O$3" $unit -ffreestanding -c -o "$OUT/$1_$part.$2.o" \
            "$OUT/$1_$part.c" || return
    done
}
calls() { # calls PROGRAM COMPILER COMPILER: callers by the first, callees by the second
    binary=$OUT/$1.$2.$3
    $compiler -o "$binary" "$OUT/$1_callers.$2.o" "$OUT/$1_callees.$3.o" "$OUT/$1.o" $archive \
        -pthread -lm && $runner "$binary" >"$binary.out" 2>&1 &&
        tail -n 1 "$binary.out" | grep '^ffi: [1-9][0-9]* passed, 0 failed$' && return
    cat "$binary.out"
    return 1
}
# programs NAME COMPILERS OPTION...: generates, and tries callers of each with callees of each, one
# program at -O1, the next at -O2, the next at -O0.
programs() {
    name=$1 compilers=$2
    shift 2
    left=$count at=$seed
    while [ "$left" -gt 0 ]; do
        some=$((left > most ? most : left))
        program=$name-$at
        check "$program-is-written" build/ffi/generate --seed "$at" --count "$some" $direct "$@" \
            ${ASTHRA_FFI_OPTIONS-} "$OUT/$program"
        check "$program-driver" quiet $compiler $unit $INCLUDES -c -o "$OUT/$program.o" \
            "$OUT/${program}_driver.c"
        for a in $compilers; do
            check "$program-compiles-by-$a" compiles "$program" "$a" $((at % 3))
        done
        for a in $compilers; do
            for b in $compilers; do check "$program-$a-calls-$b" calls "$program" "$a" "$b"; done
        done
        left=$((left - some)) at=$((at + 1))
    done
}

compiler=$*
programs sysv "$both" $reals
if "$@" -dM -E -x c /dev/null | grep -q '__x86_64__ 1'; then
    programs ms "$both" --abi ms $reals
    count=$((count / 4 + 1)) # gcc's opinion, since they differ
    case $both in *gcc*) programs ms-ldbl gcc --abi ms --with bare-ldbl ;; esac
fi
end
