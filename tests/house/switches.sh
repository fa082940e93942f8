# switches - the lists of switches, read from config.h, so that a new one is not forgotten.
# shellcheck shell=sh disable=SC2034
config=src/platform/config.h
parts=$(sed -n 's/.*defined(ASTHRA_RT_WITH_\([A-Z_]*\)).*/\1/p' $config | sort -u)
traits=$(sed -n 's/^#ifdef ASTHRA_RT_NO_\([A-Z_]*\)$/\1/p' $config | sort -u)

# CHANNEL:TASK for each row of needs.
needs=$(sed -n 's/^#if ASTHRA_HAS_\([A-Z_]*\) && !ASTHRA_HAS_\([A-Z_]*\)$/\1:\2/p' $config)
# goes PART: what goes with it; comes PART: what must come with it. Both name the part itself too.
goes() { for row in $needs; do [ "${row#*:}" = "$1" ] && goes "${row%:*}"; done; echo "$1"; }
comes() { for row in $needs; do [ "${row%:*}" = "$1" ] && comes "${row#*:}"; done; echo "$1"; }
# flags NO_ PART...: -DASTHRA_RT_NO_PART for each.
flags() {
    prefix=$1
    shift
    printf '%s\n' "$@" | sort -u | sed "s/^/-DASTHRA_RT_$prefix/" | tr '\n' ' '
}
