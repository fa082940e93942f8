/* What the heap promises its zones, seen from inside; and what becomes of it when the system
 * refuses a mapping, or does not take pages back. */
#include "test.h"

#include <elf.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unwind.h>

/* ---- the calls that fail ---- */

static long calls, fail_at, live_bytes; /* fail_at 0: none */
static bool fails_on, keeps_pages, moves_no_pages, refills_nothing;
static long budget, discards; /* budget 0: none */
static int failed;

static bool fails(void) {
    long now = ++calls;
    if (fail_at == 0 || (fails_on ? now < fail_at : now != fail_at)) return false;
    failed++;
    errno = ENOMEM;
    return true;
}
/* Over what is mapped: how the portable layer gives pages back. */
static void *faulty_remap(void *at, size_t size, int access, int flags, int fd, off_t from) {
    discards++;
    errno = ENOMEM;
    return keeps_pages ? MAP_FAILED : mmap(at, size, access, flags, fd, from);
}
static void *faulty_mmap(void *at, size_t size, int access, int flags, int fd, off_t from) {
    if (flags & MAP_FIXED) return faulty_remap(at, size, access, flags, fd, from);
    if (fails() || (budget != 0 && live_bytes + (long)size > budget)) return MAP_FAILED;
    void *start = mmap(at, size, access, flags, fd, from);
    if (start != MAP_FAILED) live_bytes += (long)size;
    return start;
}
static int faulty_munmap(void *start, size_t size) {
    live_bytes -= (long)size;
    return munmap(start, size);
}
TEST_MAYBE_UNUSED static int faulty_madvise(void *start, size_t size, int advice) {
    discards++;
    errno = EINVAL; /* as of locked memory, by a kernel that knows one way only */
    return keeps_pages ? -1 : madvise(start, size, advice);
}
#ifndef ASTHRA_RT_NO_THREADS
static bool is_in_setspecific;
static void allocate_inside(void);
/* A C library whose pthread_setspecific allocates, with an allocator that is built on the heap. */
static int setspecific_that_allocates(pthread_key_t key, const void *value) {
    if (is_in_setspecific) allocate_inside();
    return pthread_setspecific(key, value);
}
#define pthread_setspecific setspecific_that_allocates
#endif

/* As of a source that lies in several mappings: what is in its way goes before that is seen. */
static long mremap_that_refuses(void *to, size_t size) {
    munmap(to, size);
    if (refills_nothing) fail_at = calls + 1;
    errno = EFAULT;
    return -1;
}
TEST_MAYBE_UNUSED static long faulty_syscall(long number, ...) {
    long a[6];
    va_list args;
    va_start(args, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(args, long);
    va_end(args);
    if (number == SYS_mremap && moves_no_pages)
        return mremap_that_refuses((void *)a[4], (size_t)a[2]);
    return syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
#define syscall faulty_syscall
#define mmap faulty_mmap
#define munmap faulty_munmap
#define madvise faulty_madvise
#define ASTHRA_RT_IMPLEMENTATION
#define ASTHRA_RT_STATIC
#include "asthra_rt.h"

/* ---- classes ---- */

TEST(heap, each_size_has_the_smallest_class_that_holds_it) {
    for (size_t size = 1; size <= ASTHRA__MEDIUM_MAX; size++) {
        unsigned bin = asthra__bin_of(size);
        CHECK(bin < ASTHRA__HEAP_BINS && asthra__bin_size(bin) >= size);
        CHECK(bin == 0 || asthra__bin_size(bin - 1) < size);
        CHECK(asthra__bin_size(bin) <= size + 15 || asthra__bin_size(bin) - size <= size / 8);
    }
    CHECK_EQ(asthra__bin_size(ASTHRA__HEAP_BINS - 1), ASTHRA__MEDIUM_MAX);
}

TEST(heap, aligned_classes_hold_the_size_at_the_alignment) {
    for (size_t alignment = 16; alignment <= ASTHRA__SLICE_BYTES; alignment *= 2) {
        for (size_t size = 0; size <= ASTHRA__MEDIUM_MAX; size += 13) {
            unsigned bin = asthra__bin_for(size, alignment);
            CHECK(bin < ASTHRA__HEAP_BINS && asthra__bin_size(bin) >= size);
            CHECK_EQ(asthra__bin_size(bin) % alignment, 0);
        }
    }
}

TEST(heap, blocks_begin_at_multiples_of_their_size_and_nowhere_else) {
    for (unsigned bin = 0; bin < ASTHRA__HEAP_BINS; bin++) {
        size_t size = asthra__bin_size(bin);
        char *block =
            asthra__heap_alloc(size - ASTHRA__TRAILER_BYTES, ASTHRA_MEMORY_ZONE_MANUAL, NULL);
        Asthra__Found f;
        CHECK_EQ(asthra__heap_find(block, &f), ASTHRA_ADDRESS_LIVE);
        CHECK_EQ(f.page->block_size, size);
        CHECK(f.page->bytes / size == f.page->room && f.page->bytes % size == 0);
        for (size_t i = 0; i < f.page->bytes + 100; i++) {
            bool is_start = i % size == 0 && i < f.page->bytes;
            if (asthra__begins_block(f.page, f.page->start + i) != is_start)
                test_fail(__FILE__, __LINE__, "byte %zu of the page of class %zu", i, size);
        }
        CHECK(!asthra__begins_block(f.page, f.page->start - 1));
        CHECK(!asthra__begins_block(f.page, f.page->start - size));
    }
}

/* Every number of bytes that a block can be short of its class, from the word alone. */
TEST(heap, a_trailer_of_a_live_block_is_told_from_every_other) {
    static const uint64_t others[] = {0,
                                      UINT64_MAX,
                                      ASTHRA__TRAILER_NEVER,
                                      ASTHRA__TRAILER_FREED,
                                      ASTHRA__TRAILER_FAR,
                                      UINT64_C(0x4141414141414141)};
    for (uint64_t slack = 8; slack <= ASTHRA__LARGE_MAX; slack += slack < 70000 ? 1 : 997) {
        uint64_t trailer = ASTHRA__TRAILER_MARK + (slack << 8);
        CHECK_EQ(asthra__trailer_slack(trailer), slack);
        CHECK_EQ(trailer & 255, ASTHRA__TRAILER_LIVE);
        for (unsigned bit = 0; bit < 64; bit++) {
            if (bit >= 8 && bit < 40) continue; /* of the count itself */
            CHECK(asthra__trailer_slack(trailer ^ UINT64_C(1) << bit) > UINT32_MAX);
        }
    }
    for (size_t i = 0; i < 6; i++) CHECK(asthra__trailer_slack(others[i]) > UINT32_MAX);
    for (unsigned number = 1; number < 300; number++) {
        uint64_t by = (uint64_t)(uintptr_t)&others << 16 | asthra__trailer_tag(number);
        CHECK(asthra__trailer_slack(by) > UINT32_MAX);
        CHECK_EQ(asthra__trailer_number(by), number < 256 ? number : 0);
        CHECK(asthra__trailer_site(by) == &others);
    }
}

TEST(heap, blocks_that_were_not_given_out_yet_are_neither_live_nor_freed) {
    for (unsigned bin = 0; bin < ASTHRA__HEAP_BINS; bin++) {
        Asthra__Found f, g;
        char *block = asthra_manual_alloc(asthra__bin_size(bin) - ASTHRA__TRAILER_BYTES);
        CHECK_EQ(asthra__heap_find(block, &f), ASTHRA_ADDRESS_LIVE);
        for (size_t i = 0; i < f.page->room; i++) {
            char *other = f.page->start + i * f.capacity;
            if (other != block) CHECK_EQ(asthra__heap_find(other, &g), ASTHRA_ADDRESS_SLACK);
        }
    }
}

TEST(heap, every_address_in_a_page_finds_its_block) {
    for (unsigned bin = 0; bin < ASTHRA__HEAP_BINS; bin++) {
        size_t size = asthra__bin_size(bin);
        char *start =
            asthra__heap_alloc(size - ASTHRA__TRAILER_BYTES, ASTHRA_MEMORY_ZONE_MANUAL, NULL);
        Asthra__Found f;
        CHECK_EQ(asthra__heap_find(start, &f), ASTHRA_ADDRESS_LIVE);
        CHECK(start == f.page->start && f.page->block_size == size);
        CHECK_EQ((uintptr_t)start % (size & (0 - size)), 0);
        for (size_t offset = 0, all = f.page->bytes; offset < all; offset += 1 + offset % 5) {
            asthra__heap_find(start + offset, &f);
            if (f.start != start + offset / size * size)
                test_fail(__FILE__, __LINE__, "offset %zu of class %zu", offset, size);
        }
    }
}

/* ---- hollow memory ---- */

enum { HOLLOW_BLOCKS = 3000 };
typedef struct Kept {
    unsigned char *start;
    size_t size;
    unsigned char value;
} Kept;

static void keep(Kept *k, size_t size, unsigned char value) {
    *k = (Kept){asthra_manual_alloc(size), size, value};
    CHECK(k->start != NULL);
    memset(k->start, value, size);
}
static void look_at(const Kept *k) {
    for (size_t i = 0; i < k->size; i++)
        if (k->start[i] != k->value)
            test_fail(__FILE__, __LINE__, "byte %zu of %zu at %p", i, k->size, (void *)k->start);
}
static Asthra__Heap *own_heap(void) {
    return asthra__thread()->heaps[ASTHRA_MEMORY_ZONE_MANUAL];
}

/* Each made block of a page is in its list, gone or in use, and gone if and only if it lies in a
 * unit that is hollow. */
static void check_pages(void) {
    Asthra__Heap *h = own_heap();
    for (unsigned bin = 0; bin < ASTHRA__HEAP_BINS; bin++) {
        for (Asthra__HeapPage *p = h->bins[bin]; p != NULL; p = asthra__page_after(h, p)) {
            size_t listed = 0, gone = 0;
            for (Asthra__HeapBlock *b = p->free; b != NULL; b = asthra__block_next(b)) {
                size_t offset = (size_t)((char *)b - p->start);
                CHECK(!asthra__page_is_hollow(p, offset, p->block_size));
                listed++;
            }
            for (size_t i = 0; i < p->made; i++)
                gone += asthra__page_is_hollow(p, i * p->block_size, p->block_size);
            CHECK_EQ(gone, p->gone);
            CHECK_EQ(listed + gone + p->used, p->made);
        }
    }
}

static void hollow_as_a_model_says(AsthraSafetyLevel level, bool keeps) {
    static Kept kept[HOLLOW_BLOCKS];
    static const size_t sizes[] = {9000, 40, 300, 8000, 1000, 30000, 3000, 100};
    uint64_t dice = 88172645463325252u;
    size_t count = 0, gone = 0;
    asthra__heap_set_level(level);
    keeps_pages = keeps;
    for (int round = 0; round < 400 / (int)test_thrift(); round++) {
        size_t least = sizes[round % 8];
        while (count < HOLLOW_BLOCKS / (1 + least / 1000)) {
            dice ^= dice << 13, dice ^= dice >> 7, dice ^= dice << 17;
            keep(&kept[count++], least + dice % least, (unsigned char)dice);
        }
        for (size_t i = 0, all = count, left = count = 0; i < all; i++) {
            dice ^= dice << 13, dice ^= dice >> 7, dice ^= dice << 17;
            look_at(&kept[i]);
            /* in runs, so that there are holes of all sizes */
            if ((i + left) % 40 >= 30 || dice % 16 == 0) {
                kept[count++] = kept[i];
            } else {
                asthra_manual_free(kept[i].start);
                left += dice % 64 == 0;
            }
        }
        if (round % 3 == 0) gone += asthra__heap_trim_one(own_heap());
        check_pages();
    }
    for (size_t i = 0; i < count; i++) look_at(&kept[i]), asthra_manual_free(kept[i].start);
    CHECK(keeps ? gone == 0 : gone > 1 << 20);
    asthra_memory_trim();
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).current, 0);
}
TEST_WITHIN(60, heap, blocks_keep_their_contents_while_what_lies_between_goes) {
    hollow_as_a_model_says(ASTHRA_SAFETY_CHECKED, false);
}
TEST_WITHIN(60, heap, blocks_without_trailers_keep_theirs_too) {
    hollow_as_a_model_says(ASTHRA_SAFETY_NONE, false);
}
TEST_WITHIN(60, heap, what_the_system_does_not_take_is_made_anew_all_the_same) {
    hollow_as_a_model_says(ASTHRA_SAFETY_CHECKED, true);
}

enum { SPARSE = 4096, SPARSE_BYTES = 1000 };
/* Blocks of which each tenth stays. */
static void make_sparse(char **blocks) {
    for (int i = 0; i < SPARSE; i++)
        blocks[i] = memset(asthra_manual_alloc(SPARSE_BYTES), i, SPARSE_BYTES);
    for (int i = 0; i < SPARSE; i++)
        if (i % 10 != 0) asthra_manual_free(blocks[i]);
}

TEST(heap, trim_gives_back_what_lies_between_live_blocks) {
    static char *blocks[SPARSE];
    if (asthra__os_page_size() > 4096) SKIP("too few pages lie between");
    make_sparse(blocks);
    size_t live = (size_t)SPARSE * SPARSE_BYTES;
    CHECK(asthra_memory_trim() > live / 3); /* 4 KiB without one of ten blocks of 1 KiB: half */
    for (int i = 0; i < SPARSE; i++) {
        AsthraAllocationInfo info;
        CHECK(asthra_memory_describe(blocks[i] + 7, &info));
        CHECK_EQ(info.kind, i % 10 == 0 ? ASTHRA_ADDRESS_LIVE : ASTHRA_ADDRESS_FREED);
        CHECK(info.start == blocks[i]);
        if (i % 10 == 0) CHECK_EQ(blocks[i][SPARSE_BYTES - 1], (char)i);
    }
    CHECK_EQ(asthra_memory_trim(), 0);
    size_t mapped = asthra_memory_statistics_all().mapped;
    for (int i = 0; i < SPARSE; i++) /* there is room for as many */
        if (i % 10 != 0) CHECK((blocks[i] = asthra_manual_alloc(SPARSE_BYTES)) != NULL);
    CHECK_EQ(asthra_memory_statistics_all().mapped, mapped);
    for (int i = 0; i < SPARSE; i++) asthra_manual_free(blocks[i]);
}

TEST(heap, before_it_grows_a_heap_gives_back_what_lies_between_live_blocks) {
    static char *blocks[SPARSE];
    if (asthra__os_page_size() > 4096) SKIP("too few pages lie between");
    make_sparse(blocks);
    Asthra__HeapPage *page = asthra__page_of(blocks[SPARSE / 2]);
    CHECK_EQ(page->hollow, 0u);
    for (int i = 0; i < SPARSE; i++) CHECK(asthra_manual_alloc(SPARSE_BYTES * 2) != NULL);
    CHECK(page->hollow != 0);
    CHECK_EQ(blocks[SPARSE / 2 / 10 * 10][5], (char)(SPARSE / 2 / 10 * 10));
    check_pages();
}

static char *freed_and_gone(void) {
    static char *blocks[SPARSE];
    make_sparse(blocks);
    asthra_memory_trim();
    for (int i = 0; i < SPARSE; i++) {
        const Asthra__HeapPage *p = asthra__page_of(blocks[i]);
        if (asthra__page_is_hollow(p, (size_t)(blocks[i] - p->start), p->block_size))
            return blocks[i];
    }
    SKIP("no memory is gone");
    return NULL;
}
TEST_PANICS(heap, a_second_free_of_a_block_whose_memory_is_gone_is_reported,
            "Invalid pointer in manual_free") {
    asthra_manual_free(freed_and_gone());
}
TEST_PANICS(heap, a_block_whose_memory_is_gone_was_freed, "freed before") {
    asthra_manual_realloc(freed_and_gone(), 5);
}

/* A slice that has served many classes: what was the start of a block is the inside of another, and
 * what ended one lies in the middle of another that was not handed out. */
TEST(heap, blocks_of_the_class_before_are_forgotten) {
    for (unsigned round = 0; round < 4 * ASTHRA__HEAP_BINS; round++) {
        size_t size = asthra__bin_size(round * 31 % ASTHRA__HEAP_BINS) - ASTHRA__TRAILER_BYTES;
        size_t count = 200000 / size + 2;
        char *blocks[25002];
        for (size_t i = 0; i < count; i++) blocks[i] = asthra_manual_alloc(size);
        for (size_t i = 0; i < count; i++) {
            Asthra__Found f;
            CHECK_EQ(asthra__heap_find(blocks[i], &f), ASTHRA_ADDRESS_LIVE);
            CHECK_EQ(f.size, size);
            for (size_t k = 0; k < f.page->room; k += i % 16 == 0 ? 1 : f.page->room) {
                Asthra__Found g;
                char *block = f.page->start + k * f.capacity;
                AsthraAddressKind kind = asthra__heap_find(block, &g);
                if (kind == ASTHRA_ADDRESS_LIVE && g.size != size)
                    test_fail(__FILE__, __LINE__, "block %zu of class %zu", k, f.capacity);
                if (k >= f.page->made) CHECK_EQ(kind, ASTHRA_ADDRESS_SLACK);
            }
        }
        for (size_t i = 0; i < count; i++) asthra_manual_free(blocks[i]);
        asthra_memory_trim();
    }
}

/* ---- overflows: every size, every length ---- */

#if ASTHRA__ASAN
#define UNSEEN __attribute__((noinline, no_sanitize_address))
#else
#define UNSEEN __attribute__((noinline))
#endif
static UNSEEN void copy_unseen(volatile unsigned char *to, const volatile unsigned char *from,
                               size_t size) {
    for (size_t i = 0; i < size; i++) to[i] = from[i];
}
static UNSEEN void set_unseen(volatile unsigned char *to, unsigned char byte, size_t size) {
    for (size_t i = 0; i < size; i++) to[i] = byte;
}
static void check_overflows(unsigned char *block, size_t size, unsigned char byte) {
    unsigned char kept[16];
    Asthra__Found f;
    CHECK_EQ(asthra__heap_find(block, &f), ASTHRA_ADDRESS_LIVE);
    CHECK(f.size == size && asthra__found_is_whole(&f));
    for (size_t length = 1; length <= 16 && length <= f.capacity - size; length++) {
        copy_unseen(kept, block + size, length);
        set_unseen(block + size, byte, length);
        asthra__heap_find(block, &f);
        if (asthra__found_is_whole(&f))
            test_fail(__FILE__, __LINE__, "%zu bytes past %zu were not seen", length, size);
        copy_unseen(block + size, kept, length);
    }
}

TEST(heap, each_overflow_into_the_slack_is_seen) {
    static const unsigned char bytes[] = {0, 0xff, 'A', 1, 0x80};
    for (size_t size = 0; size <= 2000; size++) {
        unsigned char *block = asthra_manual_alloc(size);
        for (size_t i = 0; i < sizeof bytes; i++) {
            memset(block, bytes[i], size);
            check_overflows(block, size, bytes[i]);
        }
        if (size > 2) block = asthra_manual_realloc(block, size - size / 3);
        check_overflows(block, size > 2 ? size - size / 3 : size, 0);
        asthra_manual_free(block);
    }
    for (size_t size = 2001; size < 5000000; size += size / 3 + 1) {
        unsigned char *block = asthra_manual_alloc_zeroed(1, size);
        check_overflows(block, size, 0);
        asthra_manual_free(block);
    }
}

/* ---- zones ---- */

static void frees_in_another_zone(void *block) {
    asthra_manual_free(block);
}
static void reallocs_in_another_zone(void *block) {
    asthra_manual_realloc(block, 5);
}
static void asks_in_another_zone(void *block) {
    asthra_manual_usable_size(block);
}

static void note_other_zone(const AsthraPanicInfo *info, void *unused) {
    (void)unused;
    CHECK(strstr(info->message, "Invalid pointer in manual_") != NULL);
    CHECK(strstr(info->message, "in zone PINNED, another zone") != NULL);
    _exit(42);
}

TEST(heap, a_call_of_another_zone_names_the_blocks_zone) {
    static void (*const misuses[])(void *) = {frees_in_another_zone, reallocs_in_another_zone,
                                              asks_in_another_zone};
    static const size_t kinds[] = {0, 24, 1000, 9000, 70000, 3000000};
    for (size_t i = 0; i < 18; i++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            asthra_panic_set_hook(note_other_zone, NULL);
            misuses[i / 6](asthra__heap_alloc(kinds[i % 6], ASTHRA_MEMORY_ZONE_PINNED, NULL));
            _exit(0);
        }
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 42 << 8);
    }
}

TEST(heap, a_walk_keeps_to_its_zone) {
    for (size_t i = 0; i < 100; i++) {
        asthra__heap_alloc(i * 40, ASTHRA_MEMORY_ZONE_PINNED, NULL);
        asthra__heap_alloc(i * 90000, ASTHRA_MEMORY_ZONE_STACK, NULL);
    }
    Asthra__AccountSum sum = {0, 0, 0, 0};
    asthra__heap_sum(ASTHRA_MEMORY_ZONE_PINNED, &sum);
    CHECK_EQ(sum.count, 100);
    CHECK_EQ(sum.total, 40 * 99 * 50);
    asthra__heap_sum(ASTHRA_MEMORY_ZONE_MANUAL, &sum);
    CHECK_EQ(sum.count, 100);
}

/* ---- frees of two threads at once ---- */

#ifndef ASTHRA_RT_NO_THREADS
static void *frees(void *block) {
    asthra_manual_free(block);
    return NULL;
}
static void free_elsewhere(void *block) {
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, frees, block));
    pthread_join(thread, NULL);
}

/* The owner has read that the block is live, the other thread frees it, the owner goes on. */
static void free_at_once(char *block) {
    Asthra__Found f;
    asthra__heap_find(block, &f);
    uint64_t before = asthra__trailer_get(f.start, f.capacity);
    free_elsewhere(block);
    asthra__trailer_set(f.start, f.capacity, before);
    asthra_manual_free(block);
}

TEST_PANICS(heap, what_its_owner_and_another_thread_free_at_once_is_reported,
            "by two threads at once") {
    for (int i = 0; i < 10; i++) asthra_manual_alloc(40);
    free_at_once(asthra_manual_alloc(40));
    asthra_memory_trim();
}

TEST_PANICS(heap, what_was_freed_at_once_and_used_again_is_reported, "by two threads at once") {
    for (int i = 0; i < 10; i++) asthra_manual_alloc(40);
    free_at_once(asthra_manual_alloc(40));
    asthra_manual_alloc(40);
    asthra_memory_trim();
}
#endif

/* ---- faults ---- */

enum { CAME_THROUGH = 0, MET_NO_FAULT = 43, MOST_FAULTS = 500, BLOCKS = 30 };

static size_t size_of(size_t i) {
    static const size_t kinds[] = {0, 24, 1000, 9000, 70000, 900000, 3000000, 40, 20000, 5000000};
    return kinds[i % 10] + i * 3;
}

static bool is_got(void *block) {
    if (block != NULL) return true;
    CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
    CHECK(*asthra_result_message(asthra_last_error()) != 0);
    return false;
}
static void fill(unsigned char *block, size_t size, size_t i) {
    for (size_t k = 0; k < size; k += k < 64 ? 1 : 16411) block[k] = (unsigned char)(k + i);
}
static void check(const unsigned char *block, size_t size, size_t i) {
    for (size_t k = 0; k < size; k += k < 64 ? 1 : 16411)
        CHECK_EQ(block[k], (unsigned char)(k + i));
}

/* Every function with blocks of every kind; whatever fails, what there is stays whole. */
static void live_once(void) {
    unsigned char *blocks[BLOCKS];
    size_t sizes[BLOCKS];
    errno = 55;
    for (size_t i = 0; i < BLOCKS; i++) {
        sizes[i] = size_of(i);
        if (i % 3 == 0) blocks[i] = asthra_manual_alloc(sizes[i]);
        if (i % 3 == 1) blocks[i] = asthra_manual_alloc_zeroed(sizes[i], 1);
        if (i % 3 == 2) blocks[i] = asthra_manual_alloc_aligned(sizes[i], (size_t)16 << i % 16);
        if (!is_got(blocks[i])) continue;
        for (size_t k = 0; i % 3 == 1 && k < sizes[i]; k += k < 20000 ? 7 : 4099)
            CHECK_EQ(blocks[i][k], 0);
        fill(blocks[i], sizes[i], i);
    }
    for (size_t i = 0; i < BLOCKS; i++) {
        size_t size = size_of(i + 7);
        if (blocks[i] == NULL) continue;
        unsigned char *moved = asthra_manual_realloc(blocks[i], size);
        if (!is_got(moved)) {
            CHECK_EQ(asthra_manual_usable_size(blocks[i]), sizes[i]);
            check(blocks[i], sizes[i], i);
            continue;
        }
        check(moved, size < sizes[i] ? size : sizes[i], i);
        blocks[i] = moved, sizes[i] = size;
        fill(moved, size, i);
    }
    for (size_t i = 0; i < BLOCKS; i++) {
        if (blocks[i] != NULL) check(blocks[i], sizes[i], i);
        asthra_manual_free(blocks[i]);
    }
    asthra_memory_trim();
    CHECK_EQ(errno, 55);
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).current, 0);
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).mapped, 0);
}

__attribute__((noreturn)) static void run_with_fault(long at, bool goes_on, bool is_warm) {
    alarm(30);
    long most = 0;
    if (is_warm) {
        live_once();
        live_once();
        most = live_bytes;
    }
    calls = 0, fails_on = goes_on, fail_at = at;
    live_once();
    bool was_hit = failed != 0;
    fail_at = 0, failed = 0;
    size_t refused = asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).failures;
    live_once(); /* from here on nothing may fail */
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).failures, refused);
    if (is_warm && live_bytes > most + (1 << 22))
        test_fail(__FILE__, __LINE__, "%ld bytes were mapped and %ld are", most, live_bytes);
    _exit(was_hit ? CAME_THROUGH : MET_NO_FAULT);
}

static bool is_slow(void) {
    return ASTHRA__TSAN || ASTHRA__ASAN || test_is_emulated();
}

TEST_WITHIN(120, heap, with_every_mapping_that_fails_nothing_is_lost) {
    for (int way = 0; way < 4; way++) {
        long at = 1;
        for (int status = 0; status != MET_NO_FAULT; at += is_slow() ? 7 : 1) {
            CHECK(at < MOST_FAULTS);
            pid_t child = fork();
            CHECK(child >= 0);
            if (child == 0) run_with_fault(at, way & 1, way & 2);
            CHECK_EQ(waitpid(child, &status, 0), child);
            status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            if (status != CAME_THROUGH && status != MET_NO_FAULT)
                test_fail(__FILE__, __LINE__, "fault %ld%s%s: status %d", at,
                          way & 1 ? " and all after it" : "", way & 2 ? ", warm" : "", status);
        }
        CHECK(at > (way & 2 ? 2 : 10));
    }
}

TEST(heap, zeroed_blocks_are_zero_when_the_system_keeps_pages) {
    keeps_pages = true;
    for (size_t size = 100; size < 3000000; size *= 3) {
        unsigned char *block = asthra_manual_alloc(size);
        memset(block, 0xa5, size);
        asthra_manual_free(block);
        asthra_memory_trim();
        block = asthra_manual_alloc_zeroed(size, 1);
        for (size_t i = 0; i < size; i++) CHECK_EQ(block[i], 0);
        asthra_manual_free(block);
    }
}

TEST(heap, a_page_is_whole_when_the_system_keeps_pages) {
    keeps_pages = true;
    void *blocks[500];
    for (int round = 0; round < 20; round++) {
        size_t size = round % 2 ? 70000 : 24;
        for (int i = 0; i < 500; i++) blocks[i] = memset(asthra_manual_alloc(size), 0xff, size);
        for (int i = 0; i < 500; i++) asthra_manual_free(blocks[i]);
        asthra_memory_trim();
    }
}

#ifndef ASTHRA_RT_NO_THREADS
static void allocate_inside(void) {
    asthra_manual_free(asthra_manual_alloc(100));
}
static void *attaches(void *unused) {
    is_in_setspecific = true;
    asthra__thread_set_name("one that attaches before it allocates");
    is_in_setspecific = false;
    CHECK_EQ(asthra__thread_count(), 2);
    asthra_manual_free(asthra_manual_alloc(10));
    return unused;
}

TEST(heap, a_thread_whose_attaching_allocates_is_listed_once) {
    pthread_t thread;
    alarm(20);
    asthra__thread_set_name("one");
    asthra_manual_free(asthra_manual_alloc(10));
    CHECK(!pthread_create(&thread, NULL, attaches, NULL));
    pthread_join(thread, NULL);
    CHECK_EQ(asthra__thread_count(), 1);
}
#endif

TEST(heap, zeroed_blocks_are_zero_where_pages_were_hollow) {
    static char *blocks[SPARSE];
    make_sparse(blocks);
    asthra_memory_trim();
    for (int i = 0; i < SPARSE; i += 10) asthra_manual_free(blocks[i]);
    asthra_memory_trim();
    for (int i = 0; i < 40; i++) {
        unsigned char *block = asthra_manual_alloc_zeroed(1, 100000);
        for (size_t k = 0; k < 100000; k++) CHECK_EQ(block[k], 0);
    }
}
static void *lend(size_t size, void *unused) {
    (void)unused;
    return malloc(size);
}
static void *lend_again(void *block, size_t size, void *unused) {
    (void)unused;
    return realloc(block, size);
}
static void take_back(void *block, void *unused) {
    (void)unused;
    free(block);
}
TEST(heap, what_an_allocator_lent_is_not_discarded) {
    static char *blocks[SPARSE];
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.allocator = (AsthraAllocator){lend, lend_again, take_back, NULL};
    CHECK(asthra_runtime_init(&c));
    make_sparse(blocks);
    discards = 0;
    asthra_memory_trim();
    CHECK_EQ(discards, 0);
    unsigned char *huge = memset(asthra_manual_alloc(5000000), 7, 5000000);
    moves_no_pages = true; /* nor moved */
    huge = asthra_manual_realloc(huge, 20000000);
    moves_no_pages = false;
    for (size_t i = 0; i < 5000000; i++) CHECK_EQ(huge[i], 7);
    asthra_manual_free(huge);
    CHECK_EQ(asthra__huge.kept_count, 0);
    for (int i = 0; i < SPARSE; i += 10) asthra_manual_free(blocks[i]);
    asthra_runtime_shutdown();
}
TEST(heap, a_mapping_that_waits_is_not_used_while_an_allocator_is) {
    AsthraRuntimeConfig c = asthra_runtime_config_default();
    c.allocator = (AsthraAllocator){lend, lend_again, take_back, NULL};
    asthra_manual_free(asthra_manual_alloc(9000000));
    CHECK(asthra_runtime_init(&c));
    void *block = asthra_manual_alloc(9000000);
    Asthra__Found f;
    CHECK_EQ(asthra__heap_find(block, &f), ASTHRA_ADDRESS_LIVE);
    CHECK(f.huge->raw != NULL);
    asthra_manual_free(block);
    asthra_runtime_shutdown();
}
TEST(heap, what_was_cut_off_a_mapping_is_nobodys) {
    AsthraAllocationInfo info;
    char *block = asthra_manual_alloc(15 << 20);
    asthra_manual_free(block);
    CHECK(asthra_manual_alloc(9 << 20) == block);
    CHECK(!asthra_memory_describe(block + (13 << 20), &info));
    CHECK(info.kind != ASTHRA_ADDRESS_SLACK);
}
TEST(heap, a_mapping_that_waits_is_not_used_for_more_alignment) {
    size_t alignment = (size_t)1 << 26;
    char *block = asthra_manual_alloc(9000000);
    while (((uintptr_t)block & (alignment - 1)) == 0) block = asthra_manual_alloc(9000000);
    asthra_manual_free(block);
    CHECK_EQ((uintptr_t)asthra_manual_alloc_aligned(9000000, alignment) & (alignment - 1), 0);
}
TEST(heap, mappings_that_wait_are_counted) {
    size_t mapped = asthra_memory_statistics_all().mapped;
    for (int i = 0; i < 10; i++) {
        asthra_manual_free(asthra_manual_alloc(9000000));
        CHECK(asthra_memory_statistics_all().mapped >= mapped + 9000000);
        asthra_memory_trim();
        CHECK_EQ(asthra_memory_statistics_all().mapped, mapped);
    }
    char *blocks[40];
    for (int i = 0; i < 40; i++) blocks[i] = asthra_manual_alloc(2200000);
    for (int i = 0; i < 40; i++) asthra_manual_free(blocks[i]);
    CHECK(asthra_memory_statistics_all().mapped <= mapped + (32 << 20));
    CHECK(asthra__huge.kept_count < ASTHRA__HUGE_KEPT);
    for (int i = 0; i < 40; i++) blocks[i] = asthra_manual_alloc_aligned(100, 1 << 20);
    for (int i = 0; i < 40; i++) asthra_manual_free(blocks[i]);
    CHECK(asthra__huge.kept_count < ASTHRA__HUGE_KEPT); /* there is room for the next */
}
TEST(heap, mappings_that_wait_go_before_memory_runs_out) {
    asthra_manual_free(asthra_manual_alloc(100));
    for (int i = 0; i < 2; i++) {
        asthra_manual_free(asthra_manual_alloc(16000000));
        budget = live_bytes + (1 << 20);
        if (i == 0) CHECK(asthra_manual_alloc(5000000) != NULL);
        for (int k = 0; i == 1 && k < 100; k++) CHECK(asthra_manual_alloc(60000) != NULL);
        budget = 0;
    }
}
TEST(heap, at_the_full_level_no_mapping_waits) {
    asthra__heap_set_level(ASTHRA_SAFETY_FULL);
    asthra_manual_free(asthra_manual_alloc(9000000));
    CHECK_EQ(asthra__huge.kept_count, 0);
}
TEST(heap, pages_that_the_system_does_not_move_are_copied) {
    unsigned char *block = memset(asthra_manual_alloc(5000000), 7, 5000000);
    moves_no_pages = true;
    block = asthra_manual_realloc(block, 20000000);
    for (size_t i = 0; i < 5000000; i++) CHECK_EQ(block[i], 7);
    asthra_manual_free(block);
}
#if ASTHRA__SYS_LINUX /* the portable layer moves none, and loses none */
TEST(heap, a_mapping_that_is_lost_over_a_move_leaves_the_block_as_it_was) {
    NEED_UNMAPPED_ADDRESSES();
    unsigned char *block = memset(asthra_manual_alloc(5000000), 7, 5000000);
    moves_no_pages = refills_nothing = true;
    CHECK(asthra_manual_realloc(block, 20000000) == NULL);
    CHECK_EQ(asthra_last_error().status, ASTHRA_OUT_OF_MEMORY);
    fail_at = 0;
    for (size_t i = 0; i < 5000000; i++) CHECK_EQ(block[i], 7);
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).current, 5000000);
    moves_no_pages = false;
    block = asthra_manual_realloc(block, 20000000);
    for (size_t i = 0; i < 5000000; i++) CHECK_EQ(block[i], 7);
    asthra_manual_free(block);
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).current, 0);
}
#endif
/* Part of the mapping is another one for the system: it does not move as a whole. */
TEST(heap, a_mapping_that_its_user_has_advised_grows_all_the_same) {
    unsigned char *block = memset(asthra_manual_alloc(9000000), 7, 9000000);
    for (size_t size = 20000000; size < 200000000; size *= 3) {
        char *page = (char *)(((uintptr_t)block + 3000000) & ~(uintptr_t)4095);
        (madvise)(page, 65536, MADV_DONTDUMP);
        block = asthra_manual_realloc(block, size);
        CHECK(block != NULL);
        for (size_t i = 0; i < 9000000; i++) CHECK_EQ(block[i], 7);
        block[size - 1] = 1;
    }
    asthra_manual_free(block);
}
TEST_PANICS(heap, the_old_address_of_what_moved_is_free, "Invalid pointer in manual_free") {
    void *block = asthra_manual_alloc(5000000);
    CHECK(asthra_manual_realloc(block, 20000000) != NULL);
    asthra_manual_free(block);
}
TEST(heap, a_pin_is_refused_where_a_mapping_waits) {
    char *block = asthra_manual_alloc(9000000);
    asthra_manual_free(block);
    CHECK(!asthra_pin_memory(block, 9000000));
    CHECK(!asthra_pin_memory(block, 100));
    CHECK(asthra_manual_alloc(9000000) == block);
    CHECK(asthra_pin_memory(block, 9000000));
    CHECK(asthra_unpin_memory(block));
    asthra_manual_free(block);
}
TEST(heap, trim_looks_again_where_as_many_blocks_lie_elsewhere) {
    static char *blocks[SPARSE];
    if (asthra__os_page_size() > 4096) SKIP("too few pages lie between");
    for (int i = 0; i < SPARSE; i++) blocks[i] = asthra_manual_alloc(SPARSE_BYTES);
    for (int i = 0; i < SPARSE; i++)
        if (i % 4 != 0) asthra_manual_free(blocks[i]);
    asthra_memory_trim();
    for (int i = 0; i < SPARSE; i++)
        if (i % 4 != 0) blocks[i] = asthra_manual_alloc(SPARSE_BYTES);
    for (int i = 0; i < SPARSE; i++)
        if (((uintptr_t)blocks[i] >> 10) % 64 >= 16) asthra_manual_free(blocks[i]);
    CHECK(asthra_memory_trim() > SPARSE * SPARSE_BYTES / 2);
}
TEST(heap, at_the_full_level_no_memory_is_gone) {
    static char *blocks[SPARSE];
    asthra__heap_set_level(ASTHRA_SAFETY_FULL);
    make_sparse(blocks);
    asthra_memory_trim();
    for (int i = 0; i < SPARSE; i++) {
        Asthra__Found f;
        asthra__heap_find(blocks[i], &f);
        if (f.page != NULL) CHECK_EQ(f.page->hollow, 0u);
    }
}
TEST(heap, what_is_gone_is_used_again_before_a_zone_grows) {
    static char *blocks[SPARSE];
    make_sparse(blocks);
    asthra_memory_trim();
    size_t mapped = asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).mapped;
    for (int i = 0; i < SPARSE; i++)
        if (i % 10 != 0) CHECK((blocks[i] = asthra_manual_alloc(SPARSE_BYTES)) != NULL);
    CHECK_EQ(asthra_memory_statistics(ASTHRA_MEMORY_ZONE_MANUAL).mapped, mapped);
}
