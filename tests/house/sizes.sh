#!/bin/sh
# sizes - what each switch saves: bytes of code and constants of the bodies, as README's table.
. tests/house/lib.sh
. tests/house/switches.sh

# bytes FLAG...: text and data at -Os and at -O2, without debug information.
bytes() {
    for level in -Os -O2; do
        "$CC" -std=gnu11 $level $INCLUDES "$@" -c -o "$OUT/s.o" build/asthra_rt.c || exit 1
        size "$OUT/s.o" | awk 'NR == 2 { printf " %d |", $1 + $2 }'
    done
}
row() {
    name=$1
    shift
    printf '| %s |%s\n' "$name" "$(bytes "$@")"
}
echo "| build ($("$CC" -dumpmachine), $CC $("$CC" -dumpversion)) | bytes at -Os | bytes at -O2 |"
echo '| --- | --- | --- |'
row 'everything'
for part in $parts; do
    gone=$(goes "$part" | sort -u)
    row "without $(echo $gone | tr '[:upper:]' '[:lower:]')" $(flags NO_ $gone)
done
for trait in $traits; do row "\`ASTHRA_RT_NO_$trait\`" "-DASTHRA_RT_NO_$trait"; done
row '`ASTHRA_RT_ONLY`' -DASTHRA_RT_ONLY
