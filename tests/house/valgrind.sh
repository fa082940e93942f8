#!/bin/sh
# valgrind - the program of all parts and the examples under memcheck: no error and no leak.
. tests/house/lib.sh
have valgrind || { echo "valgrind not found"; exit 77; }
clean() {
    "$CC" -std=gnu11 -O1 -g $INCLUDES -o "$OUT/f" "$1" -pthread &&
        valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite "$OUT/f"
}
check program-of-all-parts clean tests/house/features.c
check hello clean examples/hello.c # stacks of tasks lie side by side
check concordance clean examples/concordance.c
end
