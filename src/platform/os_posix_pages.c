/* os_posix - pages, in terms of POSIX.                                     [os] body: pages
 *
 * Memory is private and anonymous: MAP_ANON, which POSIX has in its issue of 2024 only, and every
 * system before that. Pages go back by mapping fresh ones over them. What is mapped and what is
 * resident the system is not asked where it has no way to say: all counts as resident.
 *
 * A guard is a page without access, which splits its mapping; two more, then. How many mappings a
 * process may have POSIX does not say either. The guards take no more than leaves a host half of
 * the least that is usual (Linux, 65,530), and the rest of the stacks goes without.
 */
#include "os_internal.h"

#if ASTHRA_HAS_CORE && ASTHRA__SYS_POSIX

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if ASTHRA__ASAN
void __asan_unpoison_memory_region(void const volatile *addr, size_t size);
#endif

enum { ASTHRA__OS_GUARDS_MOST = 16000 };

static struct {
    ASTHRA__ATOMIC(uint32_t) guards; /* there are, and are being made */
} asthra__pages;

ASTHRA__FN void *asthra__os_map(size_t bytes) {
    int saved = errno;
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    errno = saved;
    return start == MAP_FAILED ? NULL : start;
}

ASTHRA__FN void asthra__os_unmap(void *start, size_t bytes) {
    int saved = errno;
#if ASTHRA__ASAN
    __asan_unpoison_memory_region(start, bytes); /* its shadow outlives the mapping */
#endif
    munmap(start, bytes);
    errno = saved;
}

/* A refusal may have taken the old pages away (POSIX, mmap, "Return value"). Whoever owns the
 * addresses believes that they are there, and others may come to lie in the gap. */
ASTHRA__FN bool asthra__os_discard(void *start, size_t bytes) {
    static const char text[] = "asthra_rt: the system took pages of this process and gave no fresh "
                               "ones for them; it is out of memory\n";
    int saved = errno;
    bool is_done = mmap(start, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON | MAP_FIXED,
                        -1, 0) == start;
    if (!is_done && !asthra__os_is_mapped(start, bytes)) {
        asthra__os_write_error(text, sizeof text - 1);
        abort();
    }
    errno = saved;
    return is_done;
}

ASTHRA__FN Asthra__OsMoved asthra__os_move(void *from, size_t bytes, void *to, size_t to_bytes) {
    (void)from, (void)bytes, (void)to, (void)to_bytes;
    return ASTHRA__OS_STAYED;
}

/* One whose name is gone before anybody has learned it. */
ASTHRA__FN int asthra__os_code_file(void) {
    char paths[][24] = {"/tmp/asthra_rt.XXXXXX", "/var/tmp/asthra.XXXXXX"};
    int fd = -1;
    for (size_t i = 0; i < sizeof paths / sizeof *paths && fd < 0; i++) {
        fd = mkstemp(paths[i]);
        if (fd < 0) continue;
        unlink(paths[i]);
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
    return fd;
}

ASTHRA__FN bool asthra__os_close_pages(void *start, size_t bytes) {
    int saved = errno;
    (void)asthra__os_discard(start, bytes);
    bool is_closed = mprotect(start, bytes, PROT_NONE) == 0;
    errno = saved;
    return is_closed;
}

ASTHRA__FN size_t asthra__os_resident(const void *start, size_t bytes) {
    size_t page = asthra__os_page_size();
    (void)start;
    return (bytes + page - 1) / page * page;
}

ASTHRA__FN Asthra__OsMapping asthra__os_mapping_of(const void *address) {
    size_t page = asthra__os_page_size();
    uintptr_t at = (uintptr_t)address;
    void *low, *high;
    int saved = errno;
    Asthra__OsMapping found = ASTHRA__OS_MAPPING_OTHER;
    if (!asthra__os_is_mapped((void *)(at / page * page), page))
        found = ASTHRA__OS_MAPPING_NONE;
    else if (asthra__os_main_stack(&low, &high) && at >= (uintptr_t)low && at < (uintptr_t)high)
        found = ASTHRA__OS_MAPPING_STACK;
    else if (asthra__os_is_static(address))
        found = ASTHRA__OS_MAPPING_STATIC;
    errno = saved;
    return found;
}

ASTHRA__FN bool asthra__os_is_code(const void *address, bool is_in_object) {
    uintptr_t page = asthra__os_page_size();
    int saved = errno;
    bool is_mapped = asthra__os_is_mapped((void *)((uintptr_t)address / page * page), page);
    errno = saved;
    return is_mapped && !is_in_object;
}

/* ---- guards ---- */

/* Guards all or none. */
static bool asthra__os_guard_all(char *first, size_t stride, size_t count) {
    size_t page = asthra__os_page_size(), done = 0;
    while (done < count && mprotect(first + done * stride, page, PROT_NONE) == 0) done++;
    if (done == count) return true;
    while (done-- > 0) mprotect(first + done * stride, page, PROT_READ | PROT_WRITE);
    return false;
}

ASTHRA__FN bool asthra__os_guard_pages(void *first, size_t stride, size_t count) {
    int saved = errno;
    if (count > ASTHRA__OS_GUARDS_MOST) return false;
    uint32_t before = asthra__add(&asthra__pages.guards, (uint32_t)count, relaxed);
    bool is_done =
        before + count <= ASTHRA__OS_GUARDS_MOST && asthra__os_guard_all(first, stride, count);
    if (!is_done) asthra__sub(&asthra__pages.guards, (uint32_t)count, relaxed);
    errno = saved;
    return is_done;
}

ASTHRA__FN void asthra__os_unmap_guarded(void *start, size_t bytes, size_t guards) {
    asthra__os_unmap(start, bytes);
    asthra__sub(&asthra__pages.guards, (uint32_t)guards, relaxed);
}

#endif
