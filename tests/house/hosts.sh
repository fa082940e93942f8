#!/bin/sh
# hosts - a host with an stb_ds of its own, before us, after us, around us or absent, of our version
# or of another, with stb_ds included by the book and folded into it.
. tests/house/lib.sh

# Another version: one field and one macro more, and an enumerator that has another name.
other=$OUT/stb_ds_other.h
sed -e 's/^  ptrdiff_t   temp;/  ptrdiff_t   temp; size_t other_version;/' \
    -e 's/^#define STBDS_HM_BINARY  .*/#define STBDS_HM_BINARY 0\n#define STBDS_OTHER_VERSION 1/' \
    -e 's/STBDS_SH_ARENA/STBDS_SH_ARENA_OTHER/' build/deps/stb_ds.h >"$other"
is_another() { [ "$(grep -cE 'other_version|OTHER_VERSION|ARENA_OTHER' "$other")" -ge 4 ]; }

# host CC FOLDER_OF_BOOK STB_DS PLACE
warnings="-Wall -Wextra -Werror -Wno-sign-compare -Wno-unused-function -Wno-unused-value"
host() {
    "$1" -std=gnu11 -O0 $warnings -I"$2" -I"$OUT" -Ibuild/deps -DHOST_STB_DS="\"$3\"" "-DHOST_$4" \
        -o "$OUT/host" tests/house/host_stb_ds.c -pthread && "$OUT/host"
}
named() {
    "$CC" -DASTHRA_RT_STB_DS_H="\"$other\"" -I. -o "$OUT/named" tests/house/features.c -pthread &&
        "$OUT/named"
}
check other-version-is-another is_another
./amalgamate --fold build/deps/stb_ds.h || exit 1
for place in BEFORE AFTER AROUND ABSENT; do
    check "$place-same" host "$CC" . stb_ds.h $place
    check "$place-other" host "$CC" . stb_ds_other.h $place
    check "$place-folded" host "$CC" dist stb_ds_other.h $place
done
need clang
for cc in $found; do check "$cc-AROUND-other" host "$cc" . stb_ds_other.h AROUND; done
check named-by-ASTHRA_RT_STB_DS_H named
end
