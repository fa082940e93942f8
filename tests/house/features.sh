#!/bin/sh
# features - every build that the switches allow: each part out, each alone, each trait, all off.
. tests/house/lib.sh
. tests/house/switches.sh

level=-Os # -O0, four times as quick, where nobody looks at what is left
build() {
    rm -f "$OUT/f.o"
    quiet "$CC" -std=gnu11 "$level" $WARNINGS $INCLUDES "$@" -c -o "$OUT/f.o" \
        tests/house/features.c && "$CC" -o "$OUT/f" "$OUT/f.o" -pthread && "$OUT/f"
}
# What the last build promises not to use.
uses_no() { ! nm -u "$OUT/f.o" | awk '{ print $NF }' | grep -E "$1"; }
refused() {
    ! "$CC" $INCLUDES "$@" -fsyntax-only tests/house/features.c 2>"$OUT/refused" &&
        grep 'error.*needs.*ASTHRA_RT_' "$OUT/refused"
}

# Arenas alone: no system, no library, nothing of the core. The book's folder and the compiler's own
# are all that is searched, so that a header of libc is not found.
alone="-DASTHRA_RT_ONLY -DASTHRA_RT_WITH_ARENA"
freestanding() {
    "$1" -std=c11 -Os -ffreestanding -nostdinc -isystem "$("$1" -print-file-name=include)" -I. \
        $WARNINGS $alone -H -c -o "$OUT/alone.o" build/asthra_rt.c 2>"$OUT/headers" ||
        { cat "$OUT/headers"; return 1; }
    # -H names each header that was read, behind a dot for each level.
    ! grep '^\.\.* ' "$OUT/headers" |
        grep -vE '/(__)?std(arg|bool|def|int)[-_a-z]*\.h$|^\. (\./)?asthra_rt\.h$'
}
alone_needs_no_library() {
    ! nm -u "$OUT/alone.o" | awk '{ print $NF }' | grep -vxE 'mem(cpy|move|set|cmp)'
}
alone_is_small() {
    size -A "$OUT/alone.o" | awk '$1 ~ /^\.(text|rodata|data|bss)/ { print; sum += $2 }
        END { print sum " bytes of 2048"; exit sum > 2048 || !sum }'
}
# The tests of the module, which need a system, on that object.
alone_works() {
    "$CC" -std=gnu11 -O1 -Wall -Wextra -Werror $alone -I. -o "$OUT/alone" tests/test_arena.c \
        "$OUT/alone.o" -pthread && "$OUT/alone"
}
# Of any other part the core comes along, with arenas or without.
core_comes_with() {
    printf '#include "asthra_rt.h"\n#if !ASTHRA_HAS_CORE\n#error no core\n#endif\n' |
        "$CC" $INCLUDES $alone $(flags WITH_ $(comes "$1")) -fsyntax-only -x c -
}

check all-on build
level=-O0
for part in $parts; do
    check "no-$part" build $(flags NO_ $(goes "$part"))
    check "only-$part" build -DASTHRA_RT_ONLY $(flags WITH_ $(comes "$part"))
done
for part in $parts; do
    [ "$part" = ARENA ] || check "arena-with-$part-has-a-core" core_comes_with "$part"
done
need "$CC" clang
for cc in $found; do
    check "$cc-only-ARENA-is-freestanding" freestanding "$cc"
    check "$cc-only-ARENA-needs-no-library" alone_needs_no_library
    check "$cc-only-ARENA-is-small" alone_is_small
    check "$cc-only-ARENA-works" alone_works
done
# Modules wait by means of their own where there are no tasks.
module_alone() {
    "$CC" -std=gnu11 -O1 -w -DASTHRA_RT_ONLY -DASTHRA_RT_WITH_MODULE $INCLUDES -o "$OUT/module" \
        tests/test_module.c build/asthra_rt.c -pthread && "$OUT/module"
}
check only-MODULE-works module_alone
level=-Os
check all-off build -DASTHRA_RT_ONLY
check all-off-has-no-stb_ds uses_no stbds
for trait in $traits; do
    case $trait in THREADS | STDIO) level=-Os ;; *) level=-O0 ;; esac
    check "no-$trait" build "-DASTHRA_RT_NO_$trait"
    case $trait in
    THREADS) check no-THREADS-no-pthread uses_no '^(pthread|sem|mtx|cnd|thrd|tss)_' ;;
    STDIO) check no-STDIO-no-stdio uses_no 'printf(_chk)?$|^f?put[sc]|^fwrite|^std(err|out)$' ;;
    esac
done
level=-O0
check lock-pins build -DASTHRA_RT_LOCK_PINS
check lock-pins-without-PINNED-is-refused refused -DASTHRA_RT_LOCK_PINS -DASTHRA_RT_NO_PINNED
for debug in 1 2; do check "debug-$debug" build "-DASTHRA_RT_DEBUG=$debug"; done
level=-Os
check all-traits-off build $(flags NO_ $traits)
for row in $needs; do
    check "${row%:*}-without-${row#*:}-is-refused" refused -DASTHRA_RT_ONLY \
        "-DASTHRA_RT_WITH_${row%:*}"
done
end
