#!/bin/sh
# spin - the models in tests/model, checked exhaustively by their own script, in bounded memory.
set -u
[ -r tests/model/run ] || { echo "tests/model/run not found"; exit 77; }
command -v spin >/dev/null 2>&1 || { echo "spin not found"; exit 77; }
ulimit -v 6000000 2>/dev/null
exec sh tests/model/run
