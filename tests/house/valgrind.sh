#!/bin/sh
# valgrind - the program of all parts under memcheck: no error and no leak.
. tests/house/lib.sh
have valgrind || { echo "valgrind not found"; exit 77; }
clean() {
    "$CC" -std=gnu11 -O1 -g $INCLUDES -o "$OUT/f" tests/house/features.c -pthread &&
        valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite "$OUT/f"
}
check program-of-all-parts clean
end
