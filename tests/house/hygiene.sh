#!/bin/sh
# hygiene - nothing outside our prefixes: macros, symbols, names; and the doors of stb_ds hold.
. tests/house/lib.sh

systems=$(sed -n 's/^#include \(<[^>]*>\).*/\1/p' asthra_rt.h build/deps/stb_ds.h |
    grep -v stb_ds | sort -u)
dump() { "$cc" -std=gnu11 $INCLUDES -DASTHRA_RT_DEBUG=2 -dM -E -x c - | sort; }
system_includes() {
    echo '#define _GNU_SOURCE'
    for h in $systems; do printf '#if __has_include(%s)\n#include %s\n#endif\n' "$h" "$h"; done
}
# only_ours LINE...: the book after these lines defines, changes and removes no macro but ours.
only_ours() {
    system_includes | dump >"$OUT/before"
    { system_includes && printf '%s\n' "$@" '#include "asthra_rt.h"'; } | dump >"$OUT/after"
    grep -q 'define ASTHRA_RT_H' "$OUT/after" || return 1
    ! comm -3 "$OUT/before" "$OUT/after" | grep -vE '^.?#define (ASTHRA_|asthra_)'
}
names_of_doors() { sed -n "s/#pragma $1_macro(\"\\(.*\\)\")/\\1/p" "src/core/stb_ds_$2.h"; }
doors_agree() {
    names_of_doors push open >"$OUT/open" && names_of_doors pop close | cmp - "$OUT/open"
}
# A host that has defined every one of these names finds them as they were.
host_macros() {
    names_of_doors push open | sed 's/.*/#define & kept/' | sort >"$OUT/host.h"
    cat "$OUT/host.h" build/asthra_rt.c | dump >"$OUT/after"
    ! comm -23 "$OUT/host.h" "$OUT/after" | grep .
}

object() { "$cc" -std=gnu11 "$@" $INCLUDES -c -o "$OUT/object.o" build/asthra_rt.c; }
exports() {
    object "$1" && ! nm -g --defined-only "$OUT/object.o" | awk '{ print $NF }' | grep -v '^asthra_'
}
# Compilers add names with a dot or a dollar sign, and __func__.
statics() {
    object -O0 && ! nm --defined-only "$OUT/object.o" | awk '{ print $NF }' |
        grep -vE '^asthra_|[.$]|^__func__|^__PRETTY'
}
# Tags, and the enumerators and macros in capitals, of the contract.
contract() {
    echo '#include "asthra_rt.h"' | "$cc" -std=c11 $INCLUDES -E -x c - |
        awk '/^# [0-9]+ "/ { ours = $3 ~ /asthra_rt\.h"/; next } ours' >"$OUT/contract.i"
    grep -q asthra_result_ok "$OUT/contract.i" || return 1
    ! grep -oE '(struct|union|enum) +[A-Za-z_0-9]+' "$OUT/contract.i" |
        grep -vE ' (Asthra|asthra_)' || return 1
    ! grep -oE '^ *[A-Z][A-Z0-9_]+ *(=|,|$)' "$OUT/contract.i" | grep -vE '^ *ASTHRA_'
}

need "$CC" clang
for cc in $found; do
    check "$cc-contract-macros" only_ours
    check "$cc-body-macros" only_ours '#define ASTHRA_RT_IMPLEMENTATION'
    check "$cc-host-macros-come-back" host_macros
    check "$cc-exports-O1" exports -O1
    check "$cc-exports-O0" exports -O0
    check "$cc-statics" statics
    check "$cc-contract-names" contract
done
check doors-agree doors_agree
end
