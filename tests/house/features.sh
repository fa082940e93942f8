#!/bin/sh
# features - every build that the switches allow: each part out, each alone, each trait, all off.
. tests/house/lib.sh
. tests/house/switches.sh

build() {
    rm -f "$OUT/f.o"
    quiet "$CC" -std=gnu11 -Os $WARNINGS $INCLUDES "$@" -c -o "$OUT/f.o" tests/house/features.c &&
        "$CC" -o "$OUT/f" "$OUT/f.o" -pthread && "$OUT/f"
}
# What the last build promises not to use.
uses_no() { ! nm -u "$OUT/f.o" | awk '{ print $NF }' | grep -E "$1"; }
refused() {
    ! "$CC" $INCLUDES "$@" -fsyntax-only tests/house/features.c 2>"$OUT/refused" &&
        grep 'error.*needs.*ASTHRA_RT_' "$OUT/refused"
}

check all-on build
for part in $parts; do
    check "no-$part" build $(flags NO_ $(goes "$part"))
    check "only-$part" build -DASTHRA_RT_ONLY $(flags WITH_ $(comes "$part"))
done
check all-off build -DASTHRA_RT_ONLY
check all-off-has-no-stb_ds uses_no stbds
for trait in $traits; do
    check "no-$trait" build "-DASTHRA_RT_NO_$trait"
    case $trait in
    THREADS) check no-THREADS-no-pthread uses_no '^(pthread|sem|mtx|cnd|thrd|tss)_' ;;
    STDIO) check no-STDIO-no-stdio uses_no 'printf(_chk)?$|^f?put[sc]|^fwrite|^std(err|out)$' ;;
    esac
done
check all-traits-off build $(flags NO_ $traits)
for debug in 1 2; do check "debug-$debug" build "-DASTHRA_RT_DEBUG=$debug"; done
for row in $needs; do
    check "${row%:*}-without-${row#*:}-is-refused" refused -DASTHRA_RT_ONLY \
        "-DASTHRA_RT_WITH_${row%:*}"
done
end
