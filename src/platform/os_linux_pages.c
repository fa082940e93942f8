/* os_linux - pages of Linux.                                               [os] body: pages
 *
 * Memory comes from mmap without reservation, so that a thousand stacks cost addresses and
 * not memory. A guard page is a mark in the page table where the kernel has such marks
 * (MADV_GUARD_INSTALL, 6.13), 64 of them in one call where a process may advise itself
 * (process_madvise on PIDFD_SELF). Older kernels split the mapping in two with mprotect, and a
 * process has a limit of mappings (vm.max_map_count). Of that limit we take no more than leaves
 * half of it to the host: a budget, filled by counting the lines of /proc/self/maps, pays two
 * mappings a guard. When it is empty and something was unmapped since, it is counted again.
 *
 * What the mappings of the process are, the kernel tells in a file; it is read for messages, and to
 * fill the budget.
 */
#include "os_internal.h"

#if ASTHRA_HAS_CORE && ASTHRA__SYS_LINUX

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#if ASTHRA__ASAN
void __asan_unpoison_memory_region(void const volatile *addr, size_t size);
#endif

enum {
    ASTHRA__OS_GUARD_INSTALL = 102,    /* MADV_GUARD_INSTALL, Linux 6.13 */
    ASTHRA__OS_NO_SUCH_ADVICE = 30000, /* to be refused */
    ASTHRA__OS_PIDFD_SELF = -10000,    /* PIDFD_SELF_THREAD, Linux 6.15 */
    ASTHRA__OS_DONTNEED_LOCKED = 24,   /* MADV_DONTNEED_LOCKED, Linux 5.18 */
    ASTHRA__OS_MOVE = 1 | 2,           /* MREMAP_MAYMOVE, MREMAP_FIXED */
    ASTHRA__OS_NOREPLACE = 0x100000,   /* MAP_FIXED_NOREPLACE, Linux 4.17; before that a hint */
    ASTHRA__OS_PROCESS_MADVISE = 440,  /* the same number on every processor */
    ASTHRA__OS_GUARDS_A_CALL = 64
};

/* Ways to guard a page, best first; one that fails for good is never tried again. The first is to
 * find out: emulators and sandboxes exist that answer OK to any advice and do nothing. */
enum {
    ASTHRA__OS_GUARD_UNKNOWN,
    ASTHRA__OS_GUARD_MANY,
    ASTHRA__OS_GUARD_EACH,
    ASTHRA__OS_GUARD_SPLIT
};

static struct {
    ASTHRA__ATOMIC(int) guard_way;
    ASTHRA__ATOMIC(int) budget;      /* mappings that guards may still make */
    ASTHRA__ATOMIC(bool) is_counted; /* nothing was unmapped since the budget was filled */
} asthra__pages;

/* ---- the mappings of the process ---- */

/* /proc/self/maps, a character at a time: it has no bound, and no heap may be asked. */
typedef struct Asthra__OsMaps {
    int file;
    size_t at, have;
    char bytes[1024];
} Asthra__OsMaps;

static int asthra__os_maps_next(Asthra__OsMaps *maps) {
    if (maps->at == maps->have) {
        ssize_t got = read(maps->file, maps->bytes, sizeof maps->bytes);
        if (got <= 0) return -1;
        maps->have = (size_t)got;
        maps->at = 0;
    }
    return maps->bytes[maps->at++];
}

/* Reads hexadecimal digits; the character that ended them is in *end. */
static uintptr_t asthra__os_maps_number(Asthra__OsMaps *maps, int *end) {
    uintptr_t value = 0;
    for (;;) {
        int c = asthra__os_maps_next(maps);
        *end = c;
        if (c >= '0' && c <= '9')
            value = value << 4 | (uintptr_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value << 4 | (uintptr_t)(c - 'a' + 10);
        else
            return value;
    }
}

ASTHRA__FN size_t asthra__os_maps_scan(uintptr_t inside, uintptr_t *before, uintptr_t *start,
                                       uintptr_t *end) {
    int saved = errno, c = 0;
    Asthra__OsMaps maps = {.file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC)};
    size_t count = 0;
    *before = *start = *end = 0;
    while (maps.file >= 0 && c >= 0) {
        uintptr_t low = asthra__os_maps_number(&maps, &c);
        uintptr_t high = asthra__os_maps_number(&maps, &c);
        if (c < 0) break;
        count++;
        *before = *end;
        *start = low;
        *end = high;
        if (inside && inside >= low && inside < high) break;
        while (c >= 0 && c != '\n') c = asthra__os_maps_next(&maps);
    }
    if (maps.file >= 0) close(maps.file);
    errno = saved;
    return inside && !(inside >= *start && inside < *end) ? 0 : count;
}

/* Reads to the end of the line; returns the first character of the mapping's name, 0: none. */
static int asthra__os_maps_name(Asthra__OsMaps *maps, char second[8]) {
    int name = 0, c;
    size_t n = 0;
    while ((c = asthra__os_maps_next(maps)) >= 0 && c != '\n') {
        if (name == 0 && (c == '/' || c == '[')) name = c;
        if (name != 0 && n < 7) second[n++] = (char)c;
    }
    second[n] = '\0';
    return name;
}

static Asthra__OsMapping asthra__os_mapping_kind(int name, const char *text, bool follows_file) {
    if (name == '/') return ASTHRA__OS_MAPPING_STATIC;
    if (name == 0 && follows_file) return ASTHRA__OS_MAPPING_STATIC; /* .bss */
    return strcmp(text, "[stack]") == 0 ? ASTHRA__OS_MAPPING_STACK : ASTHRA__OS_MAPPING_OTHER;
}

ASTHRA__FN Asthra__OsMapping asthra__os_mapping_of(const void *address) {
    int saved = errno, c = 0;
    Asthra__OsMaps maps = {.file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC)};
    Asthra__OsMapping found = maps.file < 0 ? ASTHRA__OS_MAPPING_OTHER : ASTHRA__OS_MAPPING_NONE;
    uintptr_t at = (uintptr_t)address, file_end = 0;
    while (maps.file >= 0) {
        char text[8];
        uintptr_t low = asthra__os_maps_number(&maps, &c);
        uintptr_t high = asthra__os_maps_number(&maps, &c);
        if (c < 0) break;
        int name = asthra__os_maps_name(&maps, text);
        if (at >= low && at < high) {
            found = asthra__os_mapping_kind(name, text, low == file_end);
            break;
        }
        if (name == '/') file_end = high;
    }
    if (maps.file >= 0) close(maps.file);
    errno = saved;
    return found;
}

ASTHRA__FN bool asthra__os_is_code(const void *address, bool is_in_object) {
    int saved = errno, c = 0;
    Asthra__OsMaps maps = {.file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC)};
    uintptr_t at = (uintptr_t)address, page = asthra__os_page_size();
    bool is_code = false;
    if (maps.file < 0)
        is_code = !is_in_object && asthra__os_is_mapped((void *)(at / page * page), page);
    while (maps.file >= 0) {
        uintptr_t low = asthra__os_maps_number(&maps, &c);
        uintptr_t high = asthra__os_maps_number(&maps, &c);
        if (c < 0) break;
        for (int column = 0; column < 3; column++) c = asthra__os_maps_next(&maps); /* rwx */
        is_code = at >= low && at < high && c == 'x';
        if (at < high) break;
        while (c >= 0 && c != '\n') c = asthra__os_maps_next(&maps);
    }
    if (maps.file >= 0) close(maps.file);
    errno = saved;
    return is_code;
}

/* ---- pages ---- */

ASTHRA__FN void *asthra__os_map(size_t bytes) {
    int saved = errno;
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    errno = saved;
    return start == MAP_FAILED ? NULL : start;
}

ASTHRA__FN void asthra__os_unmap(void *start, size_t bytes) {
    int saved = errno;
#if ASTHRA__ASAN
    __asan_unpoison_memory_region(start, bytes); /* its shadow outlives the mapping */
#endif
    munmap(start, bytes);
    asthra__store(&asthra__pages.is_counted, false, relaxed);
    errno = saved;
}

ASTHRA__FN void asthra__os_unmap_guarded(void *start, size_t bytes, size_t guards) {
    (void)guards; /* the kernel tells how many mappings there are */
    asthra__os_unmap(start, bytes);
}

/* Kernels since 6.3 want to hear whether it may be executed, others do not know the word. */
ASTHRA__FN int asthra__os_code_file(void) {
    enum { ASTHRA__OS_CLOEXEC = 1, ASTHRA__OS_EXEC = 16 }; /* MFD_CLOEXEC, MFD_EXEC */
    long fd = -1;
#ifdef SYS_memfd_create
    fd = syscall(SYS_memfd_create, "asthra_rt", (long)(ASTHRA__OS_CLOEXEC | ASTHRA__OS_EXEC));
    if (fd < 0 && errno == EINVAL)
        fd = syscall(SYS_memfd_create, "asthra_rt", (long)ASTHRA__OS_CLOEXEC);
#endif
    return (int)fd;
}

ASTHRA__FN bool asthra__os_close_pages(void *start, size_t bytes) {
    int saved = errno;
    madvise(start, bytes, MADV_DONTNEED);
    bool is_closed = mprotect(start, bytes, PROT_NONE) == 0;
    errno = saved;
    return is_closed;
}

ASTHRA__FN size_t asthra__os_resident(const void *start, size_t bytes) {
    unsigned char there[256];
    int saved = errno;
    size_t page = asthra__os_page_size(), count = 0;
    for (size_t done = 0; done < bytes; done += sizeof there * page) {
        size_t part = bytes - done < sizeof there * page ? bytes - done : sizeof there * page;
        if (mincore((char *)(uintptr_t)start + done, part, there) != 0) break;
        for (size_t i = 0; i < (part + page - 1) / page; i++) count += there[i] & 1;
    }
    errno = saved;
    return count * page;
}

ASTHRA__FN bool asthra__os_discard(void *start, size_t bytes) {
    int saved = errno; /* EINVAL: locked memory */
    bool is_done = madvise(start, bytes, MADV_DONTNEED) == 0 ||
                   madvise(start, bytes, ASTHRA__OS_DONTNEED_LOCKED) == 0;
    errno = saved;
    return is_done;
}

/* The kernel takes away what is in the way before it finds reasons to refuse: that `from` lies in
 * several mappings, because the host has advised part of it, say. */
ASTHRA__FN Asthra__OsMoved asthra__os_move(void *from, size_t bytes, void *to, size_t to_bytes) {
    int saved = errno;
    Asthra__OsMoved how = ASTHRA__OS_MOVED;
    if (syscall(SYS_mremap, from, bytes, to_bytes, ASTHRA__OS_MOVE, to) != (long)to) {
        void *again = mmap(to, to_bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | ASTHRA__OS_NOREPLACE, -1, 0);
        how = asthra__os_is_mapped(to, to_bytes) ? ASTHRA__OS_STAYED : ASTHRA__OS_LOST;
        if (again != MAP_FAILED && again != to) munmap(again, to_bytes);
    }
#if ASTHRA__ASAN
    if (how == ASTHRA__OS_MOVED) __asan_unpoison_memory_region(from, bytes);
#endif
    errno = saved;
    return how;
}

/* Fills the budget: how far the mappings of the process are from half of what it may have. */
static void asthra__os_budget_fill(void) {
    char text[32];
    uintptr_t before, start, end;
    asthra__os_read_file("/proc/sys/vm/max_map_count", text, sizeof text);
    long limit = atol(text) > 0 ? atol(text) / 2 : 65530 / 2;
    long used = (long)asthra__os_maps_scan(0, &before, &start, &end);
    long left = limit > used ? limit - used : 0;
    asthra__store(&asthra__pages.is_counted, true, relaxed);
    asthra__store(&asthra__pages.budget, left < INT32_MAX ? (int)left : INT32_MAX, relaxed);
}

/* Takes two mappings from the budget; false: there are none to take. */
static bool asthra__os_budget_take(void) {
    if (asthra__sub(&asthra__pages.budget, 2, relaxed) >= 2) return true;
    asthra__add(&asthra__pages.budget, 2, relaxed);
    if (asthra__load(&asthra__pages.is_counted, relaxed)) return false;
    asthra__os_budget_fill();
    return asthra__sub(&asthra__pages.budget, 2, relaxed) >= 2;
}

/* Guards pages from `first` on in one call; returns how many, 0 with errno if none. */
static size_t asthra__os_guard_many(char *first, size_t stride, size_t count) {
    struct iovec pages[ASTHRA__OS_GUARDS_A_CALL];
    size_t page = asthra__os_page_size();
    if (count > ASTHRA__OS_GUARDS_A_CALL) count = ASTHRA__OS_GUARDS_A_CALL;
    for (size_t i = 0; i < count; i++)
        pages[i] = (struct iovec){.iov_base = first + i * stride, .iov_len = page};
    long done = syscall(ASTHRA__OS_PROCESS_MADVISE, (long)ASTHRA__OS_PIDFD_SELF, pages, count,
                        (long)ASTHRA__OS_GUARD_INSTALL, 0L);
    return done > 0 ? (size_t)done / page : 0;
}

/* Guards pages from `first` on in the way `way`; returns how many, 0 if that way is closed. */
static size_t asthra__os_guard_some(int way, char *first, size_t stride, size_t count) {
    size_t page = asthra__os_page_size();
    if (way == ASTHRA__OS_GUARD_MANY) return asthra__os_guard_many(first, stride, count);
    if (way == ASTHRA__OS_GUARD_EACH) return madvise(first, page, ASTHRA__OS_GUARD_INSTALL) == 0;
    return asthra__os_budget_take() && mprotect(first, page, PROT_NONE) == 0;
}

static int asthra__os_guard_way(void *some_page) {
    int way = asthra__load(&asthra__pages.guard_way, relaxed);
    if (ASTHRA__LIKELY(way != ASTHRA__OS_GUARD_UNKNOWN)) return way;
    bool is_honest = madvise(some_page, asthra__os_page_size(), ASTHRA__OS_NO_SUCH_ADVICE) != 0;
    way = is_honest ? ASTHRA__OS_GUARD_MANY : ASTHRA__OS_GUARD_SPLIT;
    asthra__store(&asthra__pages.guard_way, way, relaxed);
    return way;
}

ASTHRA__FN bool asthra__os_guard_pages(void *first, size_t stride, size_t count) {
    int saved = errno;
    char *at = first;
    while (count > 0) {
        int way = asthra__os_guard_way(at);
        size_t done = asthra__os_guard_some(way, at, stride, count);
        at += done * stride;
        count -= done;
        if (done > 0) continue;
        if (way == ASTHRA__OS_GUARD_SPLIT || errno == ENOMEM) break;
        if (errno != EINTR && errno != EAGAIN)
            asthra__store(&asthra__pages.guard_way, way + 1, relaxed);
    }
    errno = saved;
    return count == 0;
}

#endif
