# The only gate. `make` binds the book, builds the tour and runs it; `make test` is what CI and README name.
#
#   make workshop  one object per .c, -Werror       make san       ASan+UBSan and TSan, Valgrind
#   make features  each switch alone off, alone on  make hygiene   macros and symbols keep to our prefixes
#   make cross     the suite on other processors    make docs      README's blocks compile and run
#   make style     columns, layout, names           make dist      fold stb_ds.h in, test the result
#   make bench     every figure next to its peer    make sizes     the table pasted in README
#   make fuzz      a longer soak of random programs make posix     all tests on the POSIX layer
#   make ffi       generated calls, by the thousand make clean
#
# gcc and make are enough. What else a target would like it uses when it is there and says when it is not.
# A check is a target check-NAME, run by tests/run; any of them can be asked for alone: make check-strict.

MAKEFLAGS += --no-print-directory --no-builtin-rules
.SUFFIXES:
.SECONDARY:
.DELETE_ON_ERROR:
ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin CXX),default)
CXX := g++
endif
export CC CXX
# One more than cores: some checks wait.
JOBS ?= $(shell echo $$(($$(nproc 2>/dev/null || echo 2) + 1)))

B := build
BOOK := asthra_rt.h
SOURCES := $(wildcard src/*.h src/*/*.[ch])
STB := $B/deps/stb_ds.h
INCLUDES := -I. -I$B/deps -Itests
export WARNINGS := -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef \
    -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wpointer-arith -Wcast-qual -Werror

TESTS := $(patsubst tests/%.c,%,$(wildcard tests/test_*.c))
SCRIPTS := $(patsubst tests/%.sh,%,$(wildcard tests/test_*.sh))
EXAMPLES := $(patsubst examples/%.expected,%,$(wildcard examples/*.expected))

.PHONY: all test clean
all: $B/examples/logscan
	@echo "== examples/logscan on examples/sample.log"
	@$B/examples/logscan

# The gate takes the committed book as it is; everything else binds it first when src/ is newer.
ifndef GATE
$(BOOK): $(SOURCES) amalgamate
	./amalgamate
endif

$(STB):
	@tests/house/find_stb_ds.sh

$B/asthra_rt.c: Makefile
	@mkdir -p $B
	@printf '#define ASTHRA_RT_IMPLEMENTATION\n#include "asthra_rt.h"\n' >$@

$B/examples/%: examples/%.c $(wildcard examples/*.h) $(BOOK) $(STB)
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -O2 -Wall -Wextra $(INCLUDES) -o $@ $< -pthread

# Whole programs still, and quick to compile.
$B/unoptimised/%: examples/%.c $(wildcard examples/*.h) $(BOOK) $(STB)
	@mkdir -p $(@D)
	@$(CC) -std=gnu11 -O0 -Wall -Wextra $(INCLUDES) -o $@ $< -pthread

$B/examples/%.so: examples/%.c $(BOOK) $(STB)
	@mkdir -p $(@D)
	@$(CC) -std=gnu11 -O2 -Wall -Wextra -fPIC -shared -ftls-model=initial-exec $(INCLUDES) -o $@ $< -pthread

# ---- variants: the book in one archive, each tests/test_X.c a program -------------------------------
# A test that defines ASTHRA_RT_IMPLEMENTATION itself, to see private names, does without the archive
# and is optimised less than the archive (VARIANT.alone).

ALONE := $(patsubst tests/%.c,%,$(shell grep -l 'define ASTHRA_RT_IMPLEMENTATION' tests/test_*.c))

VARIANTS := plain clang asan tsan noasm nothreads posix musl aarch64 riscv64 armhf arm i386 x87
plain.cc := $(CC)
plain.flags := -O2 -g1
plain.alone := -O1
clang.cc := clang
clang.flags := -O1
clang.alone := -O0
asan.cc := $(CC)
asan.flags := -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all -DASTHRA_RT_DEBUG=2
asan.alone := -O0
tsan.cc := $(CC)
tsan.flags := -O1 -g1 -fsanitize=thread -DASTHRA_RT_DEBUG=1
noasm.cc := $(CC)
noasm.flags := -O1 -DASTHRA_RT_NO_ASM
noasm.alone := -O0
nothreads.cc := $(CC)
nothreads.flags := -O0 -DASTHRA_RT_NO_THREADS
posix.cc := $(CC)
posix.flags := -O1 -g1 -DASTHRA_RT_POSIX
posix.alone := -O0
aarch64.cc := aarch64-linux-gnu-gcc
aarch64.flags := -O1 -static
aarch64.run := qemu-aarch64
riscv64.cc := riscv64-linux-gnu-gcc
riscv64.flags := -O1 -static -fasynchronous-unwind-tables
riscv64.run := qemu-riscv64
riscv64.strict := $(WARNINGS)
armhf.cc := arm-linux-gnueabihf-gcc
armhf.flags := -O1 -static -funwind-tables
armhf.run := qemu-arm
armhf.strict := $(WARNINGS)
arm.cc := $(armhf.cc)
arm.flags := $(armhf.flags) -marm
arm.run := $(armhf.run)
# Headers of the kernel are those of x86-64: the package that would link them keeps cross compilers out.
i386.cc := $(CC)
i386.flags := -O1 -m32 -msse2 -idirafter /usr/include/x86_64-linux-gnu
i386.strict := $(WARNINGS)
x87.cc := $(CC)
x87.flags := -O1 -m32 -march=i686 -mno-sse -idirafter /usr/include/x86_64-linux-gnu
musl.cc := musl-gcc
musl.flags := -O1 -static -fno-omit-frame-pointer
musl.alone := -O0
musl.more := tests/house/musl.c

# Seconds that one test may take where everything is slower.
plain.limit := 30
clang.limit := 30
asan.limit := 90
tsan.limit := 120
noasm.limit := 30
nothreads.limit := 30
posix.limit := 30
musl.limit := 30
aarch64.limit := 60
riscv64.limit := 60
armhf.limit := 60
arm.limit := 60
i386.limit := 30
x87.limit := 30

# TSan's memory map needs address-space randomisation off on newer kernels, and it sleeps at exit.
tsan.run := env TSAN_OPTIONS=atexit_sleep_ms=0 $(shell setarch -R true 2>/dev/null && echo setarch -R)

define variant
$B/$1/asthra_rt.o: $B/asthra_rt.c $(BOOK) $(STB)
	@mkdir -p $$(@D)
	@$($1.cc) -std=gnu11 $($1.flags) $(or $($1.strict),-Wall -Wextra) $(INCLUDES) -c -o $$@ $$< -pthread
$B/$1/asthra_rt.a: $B/$1/asthra_rt.o
	@rm -f $$@ && ar rcs $$@ $$<
$(ALONE:%=$B/$1/%): $(BOOK) $(STB)
$(filter-out $(ALONE:%=$B/$1/%),$(TESTS:%=$B/$1/%)): $B/$1/asthra_rt.a
$B/$1/test_%: tests/test_%.c $(wildcard tests/*.h)
	@mkdir -p $$(@D)
	@$($1.cc) -std=gnu11 $($1.flags) $$(if $$(filter test_$$*,$(ALONE)),$($1.alone)) -Wall -Wextra $(INCLUDES) -o $$@ $$< $($1.more) $$(filter %.a,$$^) -pthread -lm
# The bodies come from the archive.
$B/$1/examples/%: examples/%.c $(wildcard examples/*.h) $B/$1/asthra_rt.a
	@mkdir -p $$(@D)
	@$($1.cc) -std=gnu11 $($1.flags) -Wall -Wextra -DASTHRA__IMPLEMENTED -D_GNU_SOURCE $(INCLUDES) -o $$@ $$< $B/$1/asthra_rt.a -pthread
check-$1-examples: $(EXAMPLES:%=$B/$1/examples/%)
	@tests/run $1-examples sh tests/house/examples.sh $B/$1/examples $($1.run)
$B/$1/exceptions: tests/house/exceptions.cpp $B/$1/asthra_rt.a
	@$(subst gcc,g++,$($1.cc)) -std=c++11 $($1.flags) -Wall -Wextra $(INCLUDES) -o $$@ $$^ -pthread
check-$1-exceptions: $B/$1/exceptions
	@tests/run $1-exceptions $($1.run) $$<
check-$1-gdb: $B/asthra_rt.c $(BOOK) $(STB)
	@tests/run $1-gdb sh tests/house/gdb.sh $1 "$($1.run)" $($1.cc) $($1.flags)
check-$1-ffi: $B/$1/asthra_rt.a $B/ffi/generate
	@tests/run $1-ffi sh tests/house/ffi.sh $1 "$($1.run)" $($1.cc) $($1.flags)
.PHONY: check-$1-examples check-$1-exceptions check-$1-gdb check-$1-ffi check-$1-test_%
check-$1-test_%: $B/$1/test_%
	@ASTHRA_TEST_LIMIT=$$(or $$(ASTHRA_TEST_LIMIT),$($1.limit)) ASTHRA_TEST_VARIANT=$1 tests/run $1-test_$$* $($1.run) $$<
endef
$(foreach v,$(VARIANTS),$(eval $(call variant,$v)))

# Where only the switch of stacks is another one, the tests that switch.
noasm.tests := $(filter %_channel %_fiber %_fork %_go_semantics %_mutex %_panic %_scheduler %_scope \
    %_select %_signals %_stack %_swap %_task %_thread %_timer,$(TESTS))

# Where races are looked for, the tests with threads.
tsan.tests := $(filter-out %_alloc %_arena %_faults %_guard %_nodes %_pinned_lock %_result %_table \
    %_text %_trace %_type,$(TESTS))

arm.tests := test_swap test_ffi test_closure
x87.tests := test_swap test_ffi test_closure
aarch64.few := $(filter %_channel %_closure %_deque %_ffi %_fiber %_mutex %_scheduler %_select \
    %_signals %_swap %_sync %_task,$(TESTS))
riscv64.few := test_swap test_fiber test_ffi test_closure
armhf.few := test_swap test_fiber test_ffi test_closure
musl.few := $(filter-out %_arena %_deque %_faults %_go_semantics %_heap %_manual %_nodes %_pinned \
    %_pinned_lock %_pool %_soak %_table %_type %_typed,$(TESTS))
i386.few := test_swap test_select test_channel test_memory test_ffi test_closure
# Where only the system's layer is another one, the tests that wait, map and fault; all by `make posix`.
posix.tests := $(filter %_channel %_closure %_external %_fiber %_fork %_memory %_mutex %_os %_select \
    %_signals %_sync %_thread,$(TESTS))

# usable VARIANT: its compiler makes a program that runs here.
usable = $(shell mkdir -p $B && echo 'int main(void) { return 0; }' >$B/probe_$1.c && \
    $($1.cc) $($1.flags) -pthread -o $B/probe_$1 $B/probe_$1.c 2>/dev/null && $($1.run) $B/probe_$1 2>/dev/null && echo yes)
units = $(if $(call usable,$1),$(patsubst %,$1-%,$(or $($1.tests),$(TESTS))),missing-$1)
# Of other processors and C libraries `make cross` runs the whole suite, and the gate the tests where
# they differ most.
few = $(if $(call usable,$1),$(patsubst %,$1-%,$($1.few)),missing-$1)
exceptions = $(if $(shell mkdir -p $B && echo 'int main() { throw 1; }' >$B/probe_$1.cpp && \
    $(subst gcc,g++,$($1.cc)) $($1.flags) -o $B/probe_$1 $B/probe_$1.cpp 2>/dev/null && echo yes),$1-exceptions,missing-$1-g++)
examples = $(if $(call usable,$1),$1-examples)
# The gate shows gdb one build; `make cross` all that differ in what gdb sees, and more of it.
GDB := plain clang noasm nothreads aarch64 riscv64 armhf i386
gdb = $(if $(call usable,$1),$1-gdb)
# Generated calls: some in the gate, on each processor; `make ffi` makes thousands.
FFI := plain clang asan musl aarch64 riscv64 armhf i386
ffi = $(if $(call usable,$1),$1-ffi)
check-missing-%:
	@tests/run missing-$* sh -c 'echo "$* not found"; exit 77'

# ---- other checks: a script each, or a program --------------------------------------------------------

check-book:
	@tests/run book ./amalgamate --check
check-test_%: tests/test_%.sh
	@tests/run test_$* sh $<
check-%: tests/house/%.sh $(STB) $B/asthra_rt.c $(BOOK)
	@tests/run $* sh $<
check-preload: $B/examples/asthra_malloc.so
check-posix: $B/posix/asthra_rt.o
check-glib: $B/plain/asthra_rt.a $B/posix/asthra_rt.a
check-ffi: $B/plain/asthra_rt.a $B/ffi/generate
check-examples: $(EXAMPLES:%=$B/unoptimised/%)
	@tests/run examples sh tests/house/examples.sh $B/unoptimised
check-logscan: $B/examples/logscan $B/logscan/generate
	@tests/run logscan sh tests/logscan/check.sh $^ $B/logscan/checked
$B/logscan/generate: tests/logscan/generate.c
	@mkdir -p $(@D)
	@$(CC) -std=gnu11 -O2 -Wall -Wextra -o $@ $<
$B/ffi/generate: tests/ffi/generate.c
	@mkdir -p $(@D)
	@$(CC) -std=c11 -O1 $(WARNINGS) -o $@ $<

WORKSHOP := $(patsubst src/%.c,$B/workshop/%.o,$(wildcard src/*/*.c))
$B/workshop/%.o: src/%.c $(filter %.h,$(SOURCES)) $(STB)
	@mkdir -p $(@D)
	@$(CC) -std=c11 -O2 $(WARNINGS) -D_GNU_SOURCE -DASTHRA__WORKSHOP -Isrc -I$B/deps -c -o $@ $<
$B/workshop/program: tests/house/features.c $(WORKSHOP) $(BOOK)
	@$(CC) -std=gnu11 $(INCLUDES) -DHOUSE_LINKED -o $@ $< $(WORKSHOP) -pthread
check-workshop: $B/workshop/program
	@tests/run workshop $<

# ---- gates ------------------------------------------------------------------------------------------

HOUSE := strict misuse workshop features hygiene hosts glib code docs examples preload logscan gdb dist \
    style spin
gate = tests/run begin; $(MAKE) GATE=1 -k -j$(JOBS) $(1:%=check-%) || true; tests/run end $1

test: $(STB)
	@$(call gate,book $(call units,plain) $(SCRIPTS) $(HOUSE) $(call units,asan) $(call units,tsan) \
	    $(call units,clang) $(call units,noasm) $(call units,nothreads) $(call few,musl) \
	    $(call exceptions,plain) $(call exceptions,asan) $(call examples,musl) $(call few,aarch64) \
	    $(call few,riscv64) $(call few,armhf) $(call few,i386) posix $(call units,posix) \
	    $(foreach v,$(filter-out clang musl,$(FFI)),$(call ffi,$v)))

.PHONY: unit san posix cross $(HOUSE) sizes bench fuzz ffi
unit: $(BOOK)
	@$(call gate,$(call units,plain))
san: $(BOOK)
	@$(call gate,$(call units,asan) $(call units,tsan) valgrind)
CROSS := aarch64 riscv64 armhf i386 musl
posix: $(BOOK)
	@$(call gate,posix $(TESTS:%=posix-%))
cross: $(BOOK)
	@$(call gate,$(foreach v,$(CROSS),$(call units,$v) $(call examples,$v) $(call exceptions,$v)) \
	    $(call units,arm) $(call units,x87) $(foreach v,$(GDB),$(call gdb,$v)))
$(HOUSE): $(BOOK)
	@export STYLE_LAYOUT=1; $(call gate,$@)

sizes: $(BOOK) $(STB)
	@tests/bench/sizes
bench: $(BOOK) $(STB) $B/examples/logscan $B/examples/treegrep $B/logscan/generate
	@CPPFLAGS="$(INCLUDES)" tests/bench/run
	@tests/logscan/bench.sh $B/examples/logscan $B/logscan/generate
	@sh tests/bench/tree.sh $B/examples/treegrep
fuzz: $(BOOK)
	@export ASTHRA_SOAK_SEEDS=$(or $(SEEDS),10000) ASTHRA_TEST_LIMIT=3600 ASTHRA_CHECK_LIMIT=3900; \
	    $(call gate,plain-test_soak)

ffi: $(BOOK)
	@export ASTHRA_FFI_COUNT=$(or $(COUNT),4000) ASTHRA_FFI_SEED=$(or $(SEED),1); \
	    export ASTHRA_CHECK_LIMIT=7200; $(call gate,$(foreach v,$(FFI),$(call ffi,$v)))

clean:
	rm -rf $B dist
