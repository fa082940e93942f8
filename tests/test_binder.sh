#!/bin/sh
# The binder on small houses of its own: what it binds, what it refuses; the same from each awk.
. tests/house/lib.sh
top=$PWD
house=$top/$OUT/tree

# lines FILE LINE...; header NAME LINE...: src/NAME.h with its guard.
lines() {
    file=$1
    shift
    printf '%s\n' "$@" >"$file"
}
header() {
    name=$1
    shift
    guard=ASTHRA__$(basename "$name" | tr '[:lower:]' '[:upper:]')_H
    lines "src/$name.h" "/* ${name##*/}. */" "#ifndef $guard" "#define $guard" "$@" '#endif'
}
# A house with two floors, three modules and a door, in build/house/test_binder/tree; stands in it.
reset() {
    rm -rf "$house" && mkdir -p "$house/src/core" "$house/src/roof" || exit 1
    cp amalgamate "$house/" && cd "$house" || exit 1
    lines src/asthra_rt.h '/* asthra_rt - a small house.' ' *     #include "asthra_rt.h"' ' */' \
        '#ifndef ASTHRA_RT_H' '#define ASTHRA_RT_H' '#include "core/one.h"' \
        '#include "roof/two.h"' '#endif' '#ifdef ASTHRA_RT_IMPLEMENTATION' \
        '#include "core/one_internal.h"' '#include "core/one.c"' \
        '#include "core/table.c"' '#include "roof/two.c"' '#endif'
    header core/one '#include <stddef.h>' 'int asthra_one(void);'
    header roof/two '#include "../core/one.h"' 'int asthra_two(void);'
    header core/one_internal '#include "one.h"' 'int asthra__one(void);'
    lines src/core/one.c '/* one. */' '#include "one_internal.h"' '' '#include <string.h>' \
        'int asthra_one(void) { return 1; }'
    lines src/roof/two.c '/* two. */' '#include "two.h"' '#include "core/one_internal.h"' \
        'int asthra_two(void) { return 2; }'
    lines src/core/table.c '/* table. */' '#include "one_internal.h"' '#include "stb_ds_open.h"' \
        '#include "stb_ds_close.h"'
    lines src/core/stb_ds_open.h '#define DOOR 1' '/* --fold puts */' '#include "stb_ds.h"' \
        '/* --fold replaces */'
    lines src/core/stb_ds_close.h '#undef DOOR'
}
# edit FILE SED...: changes a file of the house.
edit() {
    file=$1
    shift
    sed "$@" "$file" >edited && mv edited "$file"
}
# shellcheck disable=SC2034 # the changes that are evaluated below name it
page=src/asthra_rt.h

# binds CHANGE [CLAIM]: a fresh house with this change binds, and then the claim holds.
binds() { (reset && eval "$1" && ./amalgamate && ./amalgamate --check && eval "${2:-true}"); }
# refuses WORDS CHANGE: it does not bind, and says these words with a file and a line.
refuses() {
    (
        reset && ./amalgamate && eval "$2" || exit 1
        if ./amalgamate 2>said; then echo "bound all the same" && exit 1; fi
        cat said
        grep -qE "^src/[a-z_/]+\.[ch]:[0-9]+: .*$1" said
    )
}

check binds-a-house binds true
check keeps-system-includes binds true 'grep "^#include <string.h>" asthra_rt.h'
check keeps-comments binds true 'grep "^ \*     #include \"asthra_rt.h\"" asthra_rt.h'
check pastes-each-file-once binds true '[ "$(grep -c "int asthra__one" asthra_rt.h)" = 1 ]'
check drops-includes-of-modules binds true '! grep "^# *include \"[^s]" asthra_rt.h'
check peels-guards binds true '! grep ASTHRA__ONE_H asthra_rt.h'
check peels-guards-whole binds true '[ "$(grep -c "^#endif" asthra_rt.h)" = 2 ]'
check names-chapters binds true \
    'grep "^/\* ---- \[one\] contract -* core/one.h ---- \*/$" asthra_rt.h'
check pastes-doors-where-they-stand binds true \
    '[ "$(grep -oE "define DOOR|undef DOOR|\[(table|two)\] body" asthra_rt.h | tr -d "\n")" = \
        "[table] bodydefine DOORundef DOOR[two] body" ]'
check takes-a-piece-of-a-module binds \
    'lines src/core/one_b.c "int b;" && edit $page "s,.*core/one.c.*,&\n#include \"core/one_b.c\","'
three='header core/three "int three(void);" && lines src/core/three.c "int three;" &&
    edit $page -e "s,.*core/one.h.*,&\n#include \"core/three.h\"," \
        -e "s,.*core/table.c.*,&\n#include \"core/three.c\","'
check a-module-without-a-contract-knows-its-floor binds \
    "$three"' && echo "#include \"three.h\"" >>src/core/table.c'
check refuses-the-contract-of-another-floor refuses 'later chapter' \
    "$three"' && echo "#include \"roof/two.h\"" >>src/core/table.c'

check refuses-a-later-chapter refuses 'later chapter' 'header core/one "#include \"../roof/two.h\""'
check refuses-a-later-chapter-in-a-body refuses 'later chapter' \
    'echo "#include \"roof/two.h\"" >>src/core/one.c'
check refuses-a-later-internal-header refuses 'later chapter' \
    'header core/one "#include \"one_internal.h\""'
check refuses-a-body-included refuses 'includes the body' \
    'echo "#include \"core/one.c\"" >>src/roof/two.c'
check refuses-an-unknown-include refuses 'no chapter' \
    'echo "#include \"core/none.h\"" >>src/roof/two.c'
check refuses-an-unreached-file refuses 'reaches this file' 'lines src/core/extra.c "int x;"'
check refuses-a-missing-file refuses 'missing' 'rm src/roof/two.c'
check refuses-a-file-bound-twice refuses 'second time' 'echo "#include \"core/one.c\"" >>$page'
check refuses-a-contract-among-bodies refuses 'contracts come first' \
    'edit $page "/two.h/d" && echo "#include \"roof/two.h\"" >>$page'
check refuses-another-order-of-bodies refuses 'keep one order' \
    'edit $page "/one.c/d" && echo "#include \"core/one.c\"" >>$page'
check refuses-a-door-on-the-contents-page refuses 'a door' \
    'echo "#include \"core/stb_ds_open.h\"" >>$page'
check refuses-a-missing-guard refuses 'no include guard' 'lines src/core/one.h "int x;"'
check refuses-an-open-guard refuses 'never closes' 'edit src/core/one.h "/endif/d"'
check refuses-a-system-include-in-a-contract refuses 'contract includes only' \
    'header core/one "#include <stdio.h>"'
check refuses-an-indented-include refuses 'first column' \
    'echo "  #include <stdio.h>" >>src/core/one.c'
check refuses-carriage-returns refuses 'carriage return' 'printf "int x;\r\n" >>src/core/one.c'
check refuses-tabs refuses 'tab' 'printf "\tint x;\n" >>src/core/one.c'
check refuses-trailing-blanks refuses 'ends in a blank' 'echo "int x; " >>src/core/one.c'
check refuses-other-bytes refuses 'printable ASCII' 'printf "/* \303\251 */\n" >>src/core/one.c'

stale() {
    (
        reset && ./amalgamate && echo 'int x;' >>src/core/one.c && ! ./amalgamate --check 2>said &&
            grep 'asthra_rt.h:[0-9]*: .*run ./amalgamate' said
    )
}
shorter() { (reset && ./amalgamate && edit asthra_rt.h '$d' && ! ./amalgamate --check); }
longer() { (reset && ./amalgamate && echo >>asthra_rt.h && ! ./amalgamate --check); }
absent() { (reset && ! ./amalgamate --check); }
untouched() {
    (
        reset && ./amalgamate && cp asthra_rt.h before && printf '\t\n' >>src/core/one.c &&
            ! ./amalgamate && cmp before asthra_rt.h && ! find . -name 'asthra_rt.h.*' | grep .
    )
}
check check-sees-a-stale-book stale
check check-sees-a-shorter-book shorter
check check-sees-a-longer-book longer
check check-sees-no-book absent
check a-refusal-leaves-the-book-as-it-was untouched

folds() {
    (
        reset && printf '/* stb_ds.h - v9 */\r\n\tint folded;\n' >stb_ds.h &&
            ./amalgamate --fold stb_ds.h && grep 'int folded' dist/asthra_rt.h &&
            grep "cksum $(cksum <stb_ds.h)" dist/asthra_rt.h &&
            ! grep 'include "stb_ds.h"' dist/asthra_rt.h && [ ! -e asthra_rt.h ]
    )
}
folds_no_other() {
    (reset && lines other.h 'int x;' && ! ./amalgamate --fold other.h && [ ! -e dist/asthra_rt.h ])
}
folds_no_missing() { (reset && ! ./amalgamate --fold none.h); }
anywhere() { (reset && cd / && "$house/amalgamate" && "$house/amalgamate" --check); }
helps() { ./amalgamate --help | grep -e --fold && ! ./amalgamate --what; }
check folds-a-package folds
check folds-nothing-else folds_no_other
check folds-no-missing-file folds_no_missing
check runs-from-anywhere anywhere
check explains-itself helps

# Each awk that is here binds the real house to the same bytes.
rm -f "$OUT/first.h"
same() {
    rm -rf "$house" && mkdir -p "$house" && cp -R amalgamate src "$house/" || return 1
    (cd "$house" && AWK=$1 ./amalgamate) || return 1
    [ -r "$OUT/first.h" ] || cp "$house/asthra_rt.h" "$OUT/first.h"
    cmp "$OUT/first.h" "$house/asthra_rt.h"
}
for awk in gawk mawk 'busybox awk'; do
    tool=${awk%% *}
    if have "$tool"; then check "same-bytes-from-$tool" same "$awk"; else skip "$tool not found"; fi
done
end
