#!/bin/sh
# glib - a main loop of GLib's drives the runtime, on the layer of Linux and on that of POSIX.
. tests/house/lib.sh
have pkg-config || { echo "pkg-config not found"; exit 77; }
pkg-config --exists glib-2.0 || { echo "glib-2.0 not found"; exit 77; }

libs=$(pkg-config --libs glib-2.0)
# Its headers are not ours to be judged.
cflags=$(pkg-config --cflags glib-2.0 | sed 's/-I/-isystem /g')
runs() {
    layer=$1
    shift
    quiet "$CC" -std=gnu11 -O1 -Wall -Wextra $INCLUDES $cflags "$@" -o "$OUT/$layer" \
        tests/house/glib.c "build/$layer/asthra_rt.a" $libs -pthread && "$OUT/$layer"
}
check loop runs plain
check loop-on-POSIX runs posix -DASTHRA_RT_POSIX
end
