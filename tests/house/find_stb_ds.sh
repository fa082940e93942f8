#!/bin/sh
# find_stb_ds - puts stb_ds.h, the one package, into build/deps: a link to an installed copy, else
# Debian's libstb-dev, unpacked there. Nothing is installed, and no privilege is needed.
set -u
deps=$PWD/build/deps
mkdir -p "$deps" || exit 1

link() { ln -sf "$1" "$deps/stb_ds.h"; exit; }
[ -r "${ASTHRA_RT_STB_DS_H:-}" ] && link "$ASTHRA_RT_STB_DS_H"
for word in stb/stb_ds.h stb_ds.h; do
    found=$(echo "#include <$word>" | ${CC:-cc} -E - 2>/dev/null |
        sed -n "s,^# 1 \"\\(.*/$word\\)\".*,\\1,p" | head -n 1)
    [ -n "$found" ] && link "$found"
done

unpack() {
    cd "$deps" || exit 1
    apt-get download libstb-dev >/dev/null 2>&1 || {
        mkdir -p lists/partial cache/archives/partial
        set -- -o Dir::State::Lists="$deps/lists" -o Dir::Cache="$deps/cache" -o APT::Sandbox::User=
        apt-get "$@" update && apt-get "$@" download libstb-dev
    } >apt.log 2>&1 || return 1
    dpkg-deb -x libstb-dev_*.deb libstb-dev && rm -rf libstb-dev_*.deb lists cache apt.log
}
if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null && (unpack); then
    link libstb-dev/usr/include/stb/stb_ds.h
fi
echo "stb_ds.h was not found and could not be unpacked: put it at build/deps/stb_ds.h" \
    "(https://github.com/nothings/stb, or the package libstb-dev)" >&2
exit 1
