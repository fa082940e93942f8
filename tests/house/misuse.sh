#!/bin/sh
# misuse - the likely mistakes with the typed forms do not compile, and the message names the line;
# put right, each of them does.
. tests/house/lib.sh

# A block for each mistake, the inside of a function or, where it begins with //, of a file. The
# line with - is the mistake; the line with + stands in its place when it is put right.
snippets() {
    cat <<'END'
== await-of-another-task
- (void)sum_await(name_go('x'));
+ (void)sum_await(sum_go(1, 2));
== await-of-a-bare-handle
sum_task t = sum_go(1, 2);
- (void)sum_await(t.task);
+ (void)sum_await(t);
== await-without-the-task
sum_task t = sum_go(1, 2);
- (void)sum_await();
+ (void)sum_await(t);
== go-with-an-argument-missing
- (void)sum_await(sum_go(1));
+ (void)sum_await(sum_go(1, 2));
== go-with-an-argument-too-many
- (void)sum_await(sum_go(1, 2, 3));
+ (void)sum_await(sum_go(1, 2));
== go-with-a-struct-for-a-number
Point p = { 1, 2 };
- (void)sum_await(sum_go(p, 2));
+ (void)sum_await(sum_go(p.x, 2));
== go-with-a-number-for-a-struct
Point p = { 1, 2 };
- turn_await(turn_go(3));
+ turn_await(turn_go(p));
== go-with-a-pointer-for-a-number
- (void)sum_await(sum_go("one", 2));
+ (void)sum_await(sum_go(1, 2));
== go-with-another-pointer
double d = 1;
int i = 1;
- (void)at_await(at_go(&d));
+ (void)at_await(at_go(&i));
(void)d, (void)i;
== result-of-another-type
- Point p = sum_await(sum_go(1, 2));
+ int p = sum_await(sum_go(1, 2));
(void)p;
== result-of-a-void-task
Point p = { 1, 2 };
- int n = turn_await(turn_go(p));
+ turn_await(turn_go(p)); int n = 0;
(void)n;
== declared-with-another-body
//
ASTHRA_TASK_DECLARE(int, other_body, (int, n));
- int other_body(double n) { return (int)n; }
+ int other_body(int n) { return n; }
== array-argument
//
- ASTHRA_TASK(int, first_of, (int, a[3])) { return a[0]; }
+ ASTHRA_TASK(int, first_of, (int *, a)) { return a[0]; }
== array-type-argument
//
typedef int Three[3];
- ASTHRA_TASK(int, first_of_type, (Three, a)) { return a[0]; }
+ ASTHRA_TASK(int, first_of_type, (int *, a)) { return a[0]; }
== over-aligned-argument
//
typedef struct { _Alignas(64) char bytes[64]; } Wide;
- ASTHRA_TASK(int, first_byte, (Wide, w)) { return w.bytes[0]; }
+ ASTHRA_TASK(int, first_byte, (Wide *, w)) { return w->bytes[0]; }
== no-arguments
//
- ASTHRA_TASK(int, of_none) { return 1; }
+ ASTHRA_TASK0(int, of_none) { return 1; }
== nine-arguments
//
#define EIGHT (int, a), (int, b), (int, c), (int, d), (int, e), (int, f), (int, g), (int, h)
- ASTHRA_TASK(int, last, EIGHT, (int, i)) { return a + b + c + d + e + f + g + h + i; }
+ ASTHRA_TASK(int, last, EIGHT) { return a + b + c + d + e + f + g + h; }
== argument-without-parentheses
//
- ASTHRA_TASK(int, bare, int, n) { return n; }
+ ASTHRA_TASK(int, bare, (int, n)) { return n; }
== send-a-struct-as-a-number
Point p = { 1, 2 };
- Numbers_send(numbers(), p);
+ Numbers_send(numbers(), p.x);
== send-a-number-as-a-struct
- Points_send(points(), 3);
+ Point p = { 3, 3 }; Points_send(points(), p);
== send-a-pointer-as-a-number
- Numbers_send(numbers(), "three");
+ Numbers_send(numbers(), 3);
== send-another-pointer
int three = 3;
- Texts_send(texts(), &three);
+ Texts_send(texts(), "three");
(void)three;
== send-to-another-channel
- Numbers_send(points(), 3);
+ Numbers_send(numbers(), 3);
== send-to-a-bare-channel
- Numbers_send(numbers().raw, 3);
+ Numbers_send(numbers(), 3);
== send-nothing
- Numbers_send(numbers());
+ Numbers_send(numbers(), 3);
== try-send-another-struct
Line line = { "three" };
- Points_try_send(points(), line);
+ Lines_try_send(lines(), line);
== receive-into-another-number
int n = 0;
long long m = 0;
- Numbers_receive(numbers(), &n);
+ Numbers_receive(numbers(), &m);
(void)n, (void)m;
== receive-into-another-struct
Line line = { "" };
- Points_receive(points(), &line);
+ Lines_receive(lines(), &line);
== receive-into-a-value
long long n = 0;
- Numbers_receive(numbers(), n);
+ Numbers_receive(numbers(), &n);
(void)n;
== receive-into-a-pointer-to-const
const char *text = "";
char *line = 0;
- Texts_try_receive(texts(), &line);
+ Texts_try_receive(texts(), &text);
(void)text, (void)line;
== receive-with-a-timeout-for-the-target
long long n = 0;
- Numbers_receive_timeout(numbers(), ASTHRA_MS(1), &n);
+ Numbers_receive_timeout(numbers(), &n, ASTHRA_MS(1));
(void)n;
== create-without-a-capacity
- Numbers n = Numbers_create();
+ Numbers n = Numbers_create(1);
(void)n;
== destroy-another-channel
- Points_destroy(numbers());
+ Numbers_destroy(numbers());
== case-outside-a-select
long long n = 0;
- if (Numbers_case_receive(&s, numbers(), &n)) return;
+ ASTHRA_SELECT(s) { if (Numbers_case_receive(&s, numbers(), &n)) return; }
(void)n;
== case-behind-its-select
ASTHRA_SELECT(s) { if (asthra_case_default(&s)) break; }
- if (asthra_case_default(&s)) return;
+ ASTHRA_SELECT(s) { if (asthra_case_default(&s)) return; }
== case-without-an-address
ASTHRA_SELECT(s) {
- if (asthra_case_default(s)) return;
+ if (asthra_case_default(&s)) return;
}
== case-into-another-struct
Line line = { "" };
ASTHRA_SELECT(s) {
- if (Points_case_receive(&s, points(), &line)) return;
+ if (Lines_case_receive(&s, lines(), &line)) return;
}
(void)line;
== case-into-another-pointer
char *line = 0;
const char *text = 0;
ASTHRA_SELECT(s) {
- if (Texts_case_receive(&s, texts(), &line)) return;
+ if (Texts_case_receive(&s, texts(), &text)) return;
}
(void)line, (void)text;
== case-on-another-channel
long long n = 0;
ASTHRA_SELECT(s) {
- if (Numbers_case_receive(&s, points(), &n)) return;
+ if (Numbers_case_receive(&s, numbers(), &n)) return;
}
(void)n;
== case-without-a-channel
ASTHRA_SELECT(s) {
- if (asthra_case_receive(&s, 0)) return;
+ if (asthra_case_receive(&s, 0, 0)) return;
}
== case-that-sends-a-value
ASTHRA_SELECT(s) {
- if (Numbers_case_send(&s, numbers(), 3)) return;
+ long long n = 3; if (Numbers_case_send(&s, numbers(), &n)) return;
}
== case-without-a-timeout
ASTHRA_SELECT(s) {
- if (asthra_case_timeout(&s)) return;
+ if (asthra_case_timeout(&s, ASTHRA_MS(1))) return;
}
== select-without-a-name
- ASTHRA_SELECT() { if (asthra_case_default(&s)) return; }
+ ASTHRA_SELECT(s) { if (asthra_case_default(&s)) return; }
== scope-spawn-of-a-task-function
AsthraScope scope;
ASTHRA_SCOPE(scope) {
- asthra_scope_spawn(&scope, function, 0, 0);
+ asthra_scope_spawn(&scope, child, 0, 0);
}
(void)function;
== scope-spawn-without-a-size
AsthraScope scope;
int n = 3;
ASTHRA_SCOPE(scope) {
- asthra_scope_spawn(&scope, child, &n);
+ asthra_scope_spawn(&scope, child, &n, sizeof n);
}
(void)n;
== scope-spawn-without-an-address
AsthraScope scope;
ASTHRA_SCOPE(scope) {
- asthra_scope_spawn(scope, child, 0, 0);
+ asthra_scope_spawn(&scope, child, 0, 0);
}
== scope-with-an-address
AsthraScope scope;
- ASTHRA_SCOPE(&scope) {}
+ ASTHRA_SCOPE(scope) {}
== scope-that-was-not-declared
- ASTHRA_SCOPE(scope) {}
+ AsthraScope scope; ASTHRA_SCOPE(scope) {}
== a-channel-of-arrays
//
typedef char Name[16];
- ASTHRA_CHANNEL_TYPE(Names, Name);
+ typedef struct { Name name; } Named; ASTHRA_CHANNEL_TYPE(Names, Named);
END
}
cat >"$OUT/begin.h" <<'END'
#include "asthra_rt.h"
typedef struct { int x, y; } Point;
ASTHRA_TASK(int, sum, (int, a), (int, b)) { return a + b; }
ASTHRA_TASK(char, name, (char, c)) { return c; }
ASTHRA_TASK(int, at, (int *, p)) { return *p; }
ASTHRA_TASK_VOID(turn, (Point, p)) { (void)p; }
AsthraResult child(void *args);
void *function(void *args);
typedef struct { const char *text; } Line;
ASTHRA_CHANNEL_TYPE(Numbers, long long);
ASTHRA_CHANNEL_TYPE(Points, Point);
ASTHRA_CHANNEL_TYPE(Lines, Line);
ASTHRA_CHANNEL_TYPE(Texts, const char *);
Numbers numbers(void);
Points points(void);
Lines lines(void);
Texts texts(void);
END

# A file for each mistake, with the line's number as the second word of its name; and one for all
# that were put right.
rm -f "$OUT"/wrong-*
snippets | awk -v out="$OUT" '
    function inside(f, text) {
        return bare ? text : "void " f "(void);\nvoid " f "(void) {\n" text "}\n"
    }
    function finish() {
        if (!n) return
        file = out "/wrong-" line + (bare ? 1 : 3) "-" name ".c"
        printf "#include \"begin.h\"\n%s", inside("wrong", wrong) >file
        close(file)
        printf "%s", inside("right" n, right) >(out "/right.c")
    }
    BEGIN { print "#include \"begin.h\"" >(out "/right.c") }
    /^==/ { finish(); n++; name = $2; wrong = right = ""; bare = at = 0; next }
    /^\/\// { bare = 1; next }
    /^\+ / { right = right substr($0, 3) "\n"; next }
    { at++ }
    /^- / { line = at; wrong = wrong substr($0, 3) "\n"; next }
    { wrong = wrong $0 "\n"; right = right $0 "\n" }
    END { finish() }'
compile() { "$cc" -std=c11 $INCLUDES -I"$OUT" -fsyntax-only "$@"; }
# What gcc 14 and clang 16 refuse by themselves.
strict="-Werror=incompatible-pointer-types -Werror=int-conversion"
refused() {
    ! compile $strict "$1" 2>"$OUT/refused" || return 1
    line=${1#"$OUT"/wrong-} && line=${line%%-*}
    cat "$OUT/refused"
    # gcc may blame a line of the header, and name this one as where its macro is used
    grep -qE "^$1:$line:.*(error|in expansion of macro)" "$OUT/refused"
}

need "$CC" clang
for cc in $found; do
    check "$cc-all-put-right" quiet compile $WARNINGS "$OUT/right.c"
    for file in "$OUT"/wrong-*; do
        name=${file##*/wrong-} && name=${name#*-}
        check "$cc-${name%.c}" refused "$file"
    done
done
end
