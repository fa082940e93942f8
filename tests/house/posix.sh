#!/bin/sh
# posix - the layer of ASTHRA_RT_POSIX asks the system for what POSIX.1-2008 has, and no other call:
# what its objects want of others is in a list, and it compiles where no other name is to be seen.
. tests/house/lib.sh
. tests/house/switches.sh

# Of POSIX.1-2008 with XSI, and of C.
calls="abort calloc clock_gettime close environ fcntl free getcontext getpid getrlimit isatty
    makecontext malloc memchr memcmp memcpy memmove memset mkstemp mmap mlock mprotect msync munlock
    munmap
    nanosleep open pipe poll pthread_atfork pthread_attr_destroy pthread_attr_getstack
    pthread_attr_init
    pthread_attr_setstacksize pthread_cond_destroy pthread_cond_init pthread_cond_signal
    pthread_cond_timedwait pthread_cond_wait pthread_condattr_init pthread_condattr_setclock
    pthread_create pthread_detach pthread_equal pthread_join pthread_key_create pthread_mutex_init
    pthread_mutex_lock pthread_mutex_unlock pthread_once pthread_self pthread_setcancelstate
    pthread_setspecific pthread_sigmask raise read realloc sched_yield setcontext sigaction
    sigaddset sigaltstack sigdelset sigemptyset sigfillset sigprocmask snprintf strchr strcmp
    strcspn strlen strncmp strrchr strstr swapcontext sysconf unlink vsnprintf write"
# The unwinder; errno, sysconf and thread-locals as C libraries call them; what is bound weakly: the
# loader's names, the C++ runtime, the linker's bounds of the image.
others="_Unwind_Backtrace _Unwind_GetCFA _Unwind_GetGR _Unwind_GetIPInfo __errno_location __sysconf
    __tls_get_addr __stack_chk_fail _GLOBAL_OFFSET_TABLE_ dladdr dl_iterate_phdr dlclose dlerror
    dlsym __cxa_get_globals __ehdr_start _end"
# What Linux's C libraries say of stacks, where it is known that they do.
known="pthread_getattr_np"

wants_only() {
    object=$1
    shift
    nm -u "$object" | awk '{ print $NF }' >"$OUT/wanted"
    grep -qx mmap "$OUT/wanted" || return 1
    ! printf '%s\n' "$@" | grep -vxFf - "$OUT/wanted"
}
build() {
    quiet "$CC" -std=gnu11 -O0 $WARNINGS $INCLUDES -DASTHRA_RT_POSIX "$@" -c -o "$OUT/f.o" \
        tests/house/features.c && "$CC" -o "$OUT/f" "$OUT/f.o" -pthread && "$OUT/f"
}
compiles() { quiet "$@" $WARNINGS $INCLUDES -DASTHRA_RT_POSIX -fsyntax-only build/asthra_rt.c; }
# No name but those of POSIX.1-2008 with XSI, and the flag that every system has before its time.
plainly() {
    sed '/^ *#define _GNU_SOURCE/d' asthra_rt.h >"$OUT/asthra_rt.h"
    echo '#include <sys/mman.h>' >"$OUT/names.c"
    ! "$CC" -std=c11 -D_XOPEN_SOURCE=700 -dM -E "$OUT/names.c" | grep 'define MAP_ANON' || return 1
    INCLUDES="-I$OUT -Ibuild/deps" compiles "$CC" -std=c11 -D_XOPEN_SOURCE=700 -U__linux__ \
        -DMAP_ANON=0x20
}

check calls-POSIX-only wants_only build/posix/asthra_rt.o $calls $others $known
check is-taken-where-there-is-no-Linux build -U__linux__
check knows-nobody-else-there wants_only "$OUT/f.o" $calls $others
check all-traits-off build -U__linux__ $(flags NO_ $traits)
no_threads=$(printf '%s\n' $calls | grep -v '^pthread')
check no-threads-no-pthread wants_only "$OUT/f.o" $no_threads $others
check wants-no-other-name plainly
# Other processors have switches of their own, and their compilers names of their own.
helpers='^__(aarch64_[a-z0-9_]*|aeabi_[a-z0-9_]*|[cp][a-z]*[sdt]i2|trunctfdf2)$|^_Unwind_VRS_Get$'
calls_elsewhere() {
    "$1" -std=gnu11 -O0 $INCLUDES -DASTHRA_RT_POSIX -DASTHRA_RT_ONLY -DASTHRA_RT_WITH_TASK -c \
        -o "$OUT/$1.o" build/asthra_rt.c || return 1
    wants_only "$OUT/$1.o" $calls $others $known $(nm -u "$OUT/$1.o" | awk '{ print $NF }' |
        grep -E "$helpers")
}
need riscv64-linux-gnu-gcc aarch64-linux-gnu-gcc arm-linux-gnueabihf-gcc
for cc in $found; do check "$cc-calls-POSIX-only" calls_elsewhere "$cc"; done
need clang musl-gcc
for cc in $found; do check "$cc-compiles-without-a-warning" compiles "$cc" -std=c11 -O0; done
end
