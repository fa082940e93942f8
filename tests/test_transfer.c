/* The hook that a collector fills: here stands one that counts pins. */
#include "test.h"

#define ASTHRA_RT_IMPLEMENTATION
#include "asthra_rt.h"

/* Blocks that the stand-in owns; nobody else knows them. */
static char owned[2][64];
static int pins[2], adopted, ended;

static int *pins_of(const void *ptr) {
    for (int i = 0; i < 2; i++)
        if (ptr == owned[i]) return &pins[i];
    return NULL;
}
static bool pin_owned(void *ptr) {
    int *count = pins_of(ptr);
    if (count != NULL) ++*count;
    return count != NULL;
}
static bool unpin_owned(void *ptr) {
    int *count = pins_of(ptr);
    if (count != NULL) --*count;
    return count != NULL;
}
static bool adopt_any(void *ptr, void (*end)(void *)) {
    (void)end;
    adopted += ptr != NULL;
    return true;
}
static const Asthra__FFICollector collector = {pin_owned, unpin_owned, adopt_any};

static void *same(void *p) {
    return p;
}
static void *fail(void *p) {
    CHECK_EQ(*pins_of(p), 1); /* while C has it */
    return NULL;
}
static void count_end(void *p) {
    (void)p;
    ended++;
}

static AsthraFFICall handing(void *fn) {
    AsthraFFICall c;
    asthra__ffi_set_collector(&collector);
    CHECK(!asthra_ffi_signature(&c, fn, "p(p)").status);
    CHECK(!asthra_ffi_set_transfer(&c, 0, ASTHRA_TRANSFER_FULL).status);
    return c;
}

TEST(transfer, a_collected_block_is_pinned_while_it_is_out) {
    AsthraFFICall c = handing(ASTHRA_FN(same));
    void *block = owned[1];
    CHECK(!asthra_ffi_call(&c, (void *[]){&block}).status);
    CHECK(pins[0] == 0 && pins[1] == 1);
    CHECK_EQ(asthra_ffi_transferred_count(), 1);
    CHECK_EQ(asthra_ffi_call(&c, (void *[]){&block}).status, ASTHRA_INVALID);
    CHECK_EQ(pins[1], 1);
    CHECK(!asthra_ffi_reclaim(block).status);
    CHECK_EQ(pins[1], 0);
    CHECK_EQ(asthra_pin_count(block), 0);
    asthra_ffi_release(&c);
}

TEST(transfer, a_failed_call_unpins_what_the_collector_owns) {
    AsthraFFICall c = handing(ASTHRA_FN(fail));
    void *block = owned[0];
    CHECK(!asthra_ffi_set_error_rule(&c, ASTHRA_FFI_ERROR_NULL).status);
    CHECK_EQ(asthra_ffi_call(&c, (void *[]){&block}).status, ASTHRA_FAILED);
    CHECK_EQ(pins[0], 0);
    CHECK_EQ(asthra_ffi_transferred_count(), 0);
    asthra_ffi_release(&c);
}

TEST(transfer, manual_blocks_are_pinned_by_the_zone_beside_a_collector) {
    AsthraFFICall c = handing(ASTHRA_FN(same));
    void *block = asthra_manual_alloc(24);
    CHECK(!asthra_ffi_call(&c, (void *[]){&block}).status);
    CHECK_EQ(asthra_pin_count(block), 1);
    CHECK(!asthra_ffi_reclaim(block).status);
    CHECK_EQ(asthra_pin_count(block), 0);
    asthra_manual_free(block);
    asthra_ffi_release(&c);
}

TEST(transfer, a_full_return_belongs_to_the_collector) {
    AsthraFFICall c = handing(ASTHRA_FN(same));
    char foreign[8];
    void *p = foreign;
    CHECK(!asthra_ffi_set_transfer(&c, ASTHRA_FFI_RETURN, ASTHRA_TRANSFER_FULL).status);
    CHECK(!asthra_ffi_set_return_free(&c, count_end).status);
    CHECK(asthra_ffi_call(&c, (void *[]){&p}).value.pointer == p);
    CHECK(adopted == 1 && ended == 0);
    CHECK_EQ(asthra_ffi_reclaim(p).status, ASTHRA_INVALID);
    asthra_ffi_release(&c);
}

#if ASTHRA_HAS_MARSHAL
static AsthraResult reads_word(const void *c_value, void *out, void *user) {
    (void)user;
    memcpy(out, *(char *const *)c_value, 1);
    return asthra_result_ok(NULL);
}
static const AsthraTypeInfo letter = {.name = "letter", .size = 1, .alignment = 1};
static const AsthraTypeMarshaler of_letter = {
    &letter, &asthra_ffi_type_ptr, NULL, reads_word, NULL, NULL, NULL};

TEST(transfer, a_full_return_that_is_marshaled_belongs_to_the_collector_too) {
    AsthraFFICall c = handing(ASTHRA_FN(same));
    char foreign[8] = "x", back = 0;
    void *p = foreign;
    CHECK(!asthra_ffi_set_transfer(&c, ASTHRA_FFI_RETURN, ASTHRA_TRANSFER_FULL).status);
    CHECK(!asthra_ffi_set_marshaler(&c, ASTHRA_FFI_RETURN, &of_letter).status);
    CHECK(!asthra_ffi_call_into(&c, &back, (void *[]){&p}).status);
    CHECK(back == 'x' && adopted == 1);
    asthra_ffi_release(&c);
}
#endif
