#!/bin/sh
# strict - the book compiles without a warning: the bodies at each optimisation level that changes
# what a compiler sees, the contract under C and C++ of every year; and it links as it may be used.
. tests/house/lib.sh

body() { quiet "$1" "-std=$2" "$3" $WARNINGS $INCLUDES -c -o "$OUT/$1$2$3.o" build/asthra_rt.c; }
contract() { quiet "$1" "-std=$2" $WARNINGS $INCLUDES -fsyntax-only tests/house/consumer.c; }
cpp="-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Werror"
contract_cpp() { quiet "$1" "-std=$2" $cpp $INCLUDES -fsyntax-only tests/house/consumer.cpp; }

need "$CC" clang
found_cc=$found
for cc in $found_cc; do
    check "$cc-body-c11-O2" body "$cc" c11 -O2
    check "$cc-body-gnu11-O0" body "$cc" gnu11 -O0
    for std in c99 c11 gnu11 c17; do check "$cc-contract-$std" contract "$cc" $std; done
done
check "$CC-body-c17-Os" body "$CC" c17 -Os
need "$CXX" clang++
for cxx in $found; do
    for std in c++11 c++14 c++17 c++20; do check "$cxx-contract-$std" contract_cpp "$cxx" $std; done
done

compile() { "$CC" -std=gnu11 -O0 $INCLUDES -c "$@"; }
units() {
    compile -DHOUSE_LINKED -DHOUSE_ELSEWHERE -o "$OUT/a.o" tests/house/features.c &&
        compile -DHOUSE_LINKED -Dmain=house_other -o "$OUT/b.o" tests/house/features.c &&
        compile -o "$OUT/body.o" build/asthra_rt.c &&
        "$CC" -o "$OUT/units" "$OUT/a.o" "$OUT/b.o" "$OUT/body.o" -pthread && "$OUT/units"
}
# The routines in assembly are strong and hidden, so that a second runtime in a program cannot link.
static() {
    quiet compile -O2 $WARNINGS -DASTHRA_RT_STATIC -o "$OUT/static.o" tests/house/features.c &&
        "$CC" -o "$OUT/static" "$OUT/static.o" -pthread && "$OUT/static" &&
        [ "$(nm -g --defined-only "$OUT/static.o" | awk '{ print $3 }' |
            grep -vE '^(asthra__|house_)')" = main ]
}
# All of it in a program without a loader: neither compiler nor linker says a word.
links_statically() {
    quiet "$1" -std=gnu11 -O1 $WARNINGS $INCLUDES -static -o "$OUT/links" tests/house/features.c \
        -pthread && "$OUT/links"
}
static_alone() { ! compile -DASTHRA_RT_STATIC -o "$OUT/alone.o" tests/house/consumer.c; }
cpp_program() {
    "$CXX" -std=c++17 $cpp $INCLUDES -c -o "$OUT/cpp.o" tests/house/consumer.cpp &&
        "$CXX" -o "$OUT/cpp" "$OUT/cpp.o" "$OUT/body.o" -pthread && "$OUT/cpp"
}
# A host of strict C11 that has read every header of the standard but signal.h, which shows a part
# of POSIX; their macros, noreturn say, change nothing of ours.
iso="assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp stdalign stdarg
    stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar wchar
    wctype"
after_iso_headers() {
    for h in $iso; do printf '#include <%s.h>\n' "$h"; done >"$OUT/iso.c"
    cat build/asthra_rt.c >>"$OUT/iso.c"
    quiet "$1" -std=c11 -O0 -Wall -Wextra -Werror $INCLUDES -pthread -c -o "$OUT/iso.o" "$OUT/iso.c"
}
for cc in $found_cc; do check "$cc-body-after-iso-headers" after_iso_headers "$cc"; done

# The contents page is ordinary C: one unit from src/, with the true names of the files.
unity() {
    quiet "$CC" -std=c11 -O0 $WARNINGS -Isrc -Ibuild/deps -c -o "$OUT/unity.o" build/asthra_rt.c
}
check two-units-share-a-body units
# AddressSanitizer finds nothing in what was optimised more than the tests of that variant are.
asan() {
    "$CC" -std=gnu11 -O2 -fsanitize=address $INCLUDES -DASTHRA_RT_ONLY -DASTHRA_RT_WITH_MANUAL \
        -DASTHRA_RT_WITH_STACK -o "$OUT/asan" tests/house/features.c -pthread && "$OUT/asan"
}
check static-holds-everything static
check optimised-program-is-clean-under-asan asan
check static-without-bodies-is-refused static_alone
need "$CC" musl-gcc
for cc in $found; do check "$cc-links-statically" links_statically "$cc"; done
have "$CXX" && check cpp-program-runs cpp_program
check contents-page-is-a-unity-build unity
end
