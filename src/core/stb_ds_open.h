/* stb_ds_open - the door to stb_ds, the one package: what stands between the doors is private.
 *
 * A host may use stb_ds itself, before us, after us, or both, in another version. So every macro
 * that stb_ds.h reads or defines is put aside here and comes back in stb_ds_close.h; all that it
 * declares gets a private name. Short names need nothing: our settings leave them out. When a newer
 * stb_ds.h defines one more macro, `make hygiene` names it; add it to both doors.
 */
#pragma push_macro("INCLUDE_STB_DS_H")
#undef INCLUDE_STB_DS_H
#pragma push_macro("STBDS_ADDRESSOF")
#undef STBDS_ADDRESSOF
#pragma push_macro("STBDS_ALIGN_FWD")
#undef STBDS_ALIGN_FWD
#pragma push_macro("STBDS_ARR_TO_HASH")
#undef STBDS_ARR_TO_HASH
#pragma push_macro("STBDS_ASSERT")
#undef STBDS_ASSERT
#pragma push_macro("STBDS_ASSERT_WAS_UNDEFINED")
#undef STBDS_ASSERT_WAS_UNDEFINED
#pragma push_macro("STBDS_BUCKET_LENGTH")
#undef STBDS_BUCKET_LENGTH
#pragma push_macro("STBDS_BUCKET_MASK")
#undef STBDS_BUCKET_MASK
#pragma push_macro("STBDS_BUCKET_SHIFT")
#undef STBDS_BUCKET_SHIFT
#pragma push_macro("STBDS_CACHE_LINE_SIZE")
#undef STBDS_CACHE_LINE_SIZE
#pragma push_macro("STBDS_FREE")
#undef STBDS_FREE
#pragma push_macro("STBDS_HASH_DELETED")
#undef STBDS_HASH_DELETED
#pragma push_macro("STBDS_HASH_EMPTY")
#undef STBDS_HASH_EMPTY
#pragma push_macro("STBDS_HASH_TO_ARR")
#undef STBDS_HASH_TO_ARR
#pragma push_macro("STBDS_HAS_LITERAL_ARRAY")
#undef STBDS_HAS_LITERAL_ARRAY
#pragma push_macro("STBDS_HAS_TYPEOF")
#undef STBDS_HAS_TYPEOF
#pragma push_macro("STBDS_HM_BINARY")
#undef STBDS_HM_BINARY
#pragma push_macro("STBDS_HM_STRING")
#undef STBDS_HM_STRING
#pragma push_macro("STBDS_INDEX_DELETED")
#undef STBDS_INDEX_DELETED
#pragma push_macro("STBDS_INDEX_EMPTY")
#undef STBDS_INDEX_EMPTY
#pragma push_macro("STBDS_INDEX_IN_USE")
#undef STBDS_INDEX_IN_USE
#pragma push_macro("STBDS_INTERNAL_BUCKET_START")
#undef STBDS_INTERNAL_BUCKET_START
#pragma push_macro("STBDS_INTERNAL_SMALL_BUCKET")
#undef STBDS_INTERNAL_SMALL_BUCKET
#pragma push_macro("STBDS_NOTUSED")
#undef STBDS_NOTUSED
#pragma push_macro("STBDS_NO_SHORT_NAMES")
#undef STBDS_NO_SHORT_NAMES
#pragma push_macro("STBDS_OFFSETOF")
#undef STBDS_OFFSETOF
#pragma push_macro("STBDS_REALLOC")
#undef STBDS_REALLOC
#pragma push_macro("STBDS_ROTATE_LEFT")
#undef STBDS_ROTATE_LEFT
#pragma push_macro("STBDS_ROTATE_RIGHT")
#undef STBDS_ROTATE_RIGHT
#pragma push_macro("STBDS_SH_ARENA")
#undef STBDS_SH_ARENA
#pragma push_macro("STBDS_SH_DEFAULT")
#undef STBDS_SH_DEFAULT
#pragma push_macro("STBDS_SH_NONE")
#undef STBDS_SH_NONE
#pragma push_macro("STBDS_SH_STRDUP")
#undef STBDS_SH_STRDUP
#pragma push_macro("STBDS_SIPHASH_2_4")
#undef STBDS_SIPHASH_2_4
#pragma push_macro("STBDS_SIPHASH_C_ROUNDS")
#undef STBDS_SIPHASH_C_ROUNDS
#pragma push_macro("STBDS_SIPHASH_D_ROUNDS")
#undef STBDS_SIPHASH_D_ROUNDS
#pragma push_macro("STBDS_SIPROUND")
#undef STBDS_SIPROUND
#pragma push_macro("STBDS_SIZE_T_BITS")
#undef STBDS_SIZE_T_BITS
#pragma push_macro("STBDS_STATISTICS")
#undef STBDS_STATISTICS
#pragma push_macro("STBDS_STATS")
#undef STBDS_STATS
#pragma push_macro("STBDS_STRING_ARENA_BLOCKSIZE_MAX")
#undef STBDS_STRING_ARENA_BLOCKSIZE_MAX
#pragma push_macro("STBDS_STRING_ARENA_BLOCKSIZE_MIN")
#undef STBDS_STRING_ARENA_BLOCKSIZE_MIN
#pragma push_macro("STBDS_TEST_SIPHASH_2_4")
#undef STBDS_TEST_SIPHASH_2_4
#pragma push_macro("STBDS_UNIT_TESTS")
#undef STBDS_UNIT_TESTS
#pragma push_macro("STB_DS_IMPLEMENTATION")
#undef STB_DS_IMPLEMENTATION
#pragma push_macro("stbds_arraddn")
#undef stbds_arraddn
#pragma push_macro("stbds_arraddnindex")
#undef stbds_arraddnindex
#pragma push_macro("stbds_arraddnoff")
#undef stbds_arraddnoff
#pragma push_macro("stbds_arraddnptr")
#undef stbds_arraddnptr
#pragma push_macro("stbds_array_header")
#undef stbds_array_header
#pragma push_macro("stbds_arrcap")
#undef stbds_arrcap
#pragma push_macro("stbds_arrdel")
#undef stbds_arrdel
#pragma push_macro("stbds_arrdeln")
#undef stbds_arrdeln
#pragma push_macro("stbds_arrdelswap")
#undef stbds_arrdelswap
#pragma push_macro("stbds_arrfree")
#undef stbds_arrfree
#pragma push_macro("stbds_arrfreef")
#undef stbds_arrfreef
#pragma push_macro("stbds_arrgrow")
#undef stbds_arrgrow
#pragma push_macro("stbds_arrgrowf")
#undef stbds_arrgrowf
#pragma push_macro("stbds_arrgrowf_wrapper")
#undef stbds_arrgrowf_wrapper
#pragma push_macro("stbds_arrins")
#undef stbds_arrins
#pragma push_macro("stbds_arrinsn")
#undef stbds_arrinsn
#pragma push_macro("stbds_arrlast")
#undef stbds_arrlast
#pragma push_macro("stbds_arrlen")
#undef stbds_arrlen
#pragma push_macro("stbds_arrlenu")
#undef stbds_arrlenu
#pragma push_macro("stbds_arrmaybegrow")
#undef stbds_arrmaybegrow
#pragma push_macro("stbds_arrpop")
#undef stbds_arrpop
#pragma push_macro("stbds_arrpush")
#undef stbds_arrpush
#pragma push_macro("stbds_arrput")
#undef stbds_arrput
#pragma push_macro("stbds_arrsetcap")
#undef stbds_arrsetcap
#pragma push_macro("stbds_arrsetlen")
#undef stbds_arrsetlen
#pragma push_macro("stbds_hash_bucket")
#undef stbds_hash_bucket
#pragma push_macro("stbds_hash_bytes")
#undef stbds_hash_bytes
#pragma push_macro("stbds_hash_index")
#undef stbds_hash_index
#pragma push_macro("stbds_hash_seed")
#undef stbds_hash_seed
#pragma push_macro("stbds_hash_string")
#undef stbds_hash_string
#pragma push_macro("stbds_hash_table")
#undef stbds_hash_table
#pragma push_macro("stbds_header")
#undef stbds_header
#pragma push_macro("stbds_hm_find_slot")
#undef stbds_hm_find_slot
#pragma push_macro("stbds_hmdefault")
#undef stbds_hmdefault
#pragma push_macro("stbds_hmdefaults")
#undef stbds_hmdefaults
#pragma push_macro("stbds_hmdel")
#undef stbds_hmdel
#pragma push_macro("stbds_hmdel_key")
#undef stbds_hmdel_key
#pragma push_macro("stbds_hmdel_key_wrapper")
#undef stbds_hmdel_key_wrapper
#pragma push_macro("stbds_hmfree")
#undef stbds_hmfree
#pragma push_macro("stbds_hmfree_func")
#undef stbds_hmfree_func
#pragma push_macro("stbds_hmget")
#undef stbds_hmget
#pragma push_macro("stbds_hmget_key")
#undef stbds_hmget_key
#pragma push_macro("stbds_hmget_key_ts")
#undef stbds_hmget_key_ts
#pragma push_macro("stbds_hmget_key_ts_wrapper")
#undef stbds_hmget_key_ts_wrapper
#pragma push_macro("stbds_hmget_key_wrapper")
#undef stbds_hmget_key_wrapper
#pragma push_macro("stbds_hmget_ts")
#undef stbds_hmget_ts
#pragma push_macro("stbds_hmgeti")
#undef stbds_hmgeti
#pragma push_macro("stbds_hmgeti_ts")
#undef stbds_hmgeti_ts
#pragma push_macro("stbds_hmgetp")
#undef stbds_hmgetp
#pragma push_macro("stbds_hmgetp_null")
#undef stbds_hmgetp_null
#pragma push_macro("stbds_hmgetp_ts")
#undef stbds_hmgetp_ts
#pragma push_macro("stbds_hmgets")
#undef stbds_hmgets
#pragma push_macro("stbds_hmlen")
#undef stbds_hmlen
#pragma push_macro("stbds_hmlenu")
#undef stbds_hmlenu
#pragma push_macro("stbds_hmput")
#undef stbds_hmput
#pragma push_macro("stbds_hmput_default")
#undef stbds_hmput_default
#pragma push_macro("stbds_hmput_default_wrapper")
#undef stbds_hmput_default_wrapper
#pragma push_macro("stbds_hmput_key")
#undef stbds_hmput_key
#pragma push_macro("stbds_hmput_key_wrapper")
#undef stbds_hmput_key_wrapper
#pragma push_macro("stbds_hmputs")
#undef stbds_hmputs
#pragma push_macro("stbds_is_key_equal")
#undef stbds_is_key_equal
#pragma push_macro("stbds_load_32_or_64")
#undef stbds_load_32_or_64
#pragma push_macro("stbds_log2")
#undef stbds_log2
#pragma push_macro("stbds_make_hash_index")
#undef stbds_make_hash_index
#pragma push_macro("stbds_probe_position")
#undef stbds_probe_position
#pragma push_macro("stbds_pshdel")
#undef stbds_pshdel
#pragma push_macro("stbds_pshget")
#undef stbds_pshget
#pragma push_macro("stbds_pshgeti")
#undef stbds_pshgeti
#pragma push_macro("stbds_pshput")
#undef stbds_pshput
#pragma push_macro("stbds_rand_seed")
#undef stbds_rand_seed
#pragma push_macro("stbds_sh_new_arena")
#undef stbds_sh_new_arena
#pragma push_macro("stbds_sh_new_strdup")
#undef stbds_sh_new_strdup
#pragma push_macro("stbds_shdefault")
#undef stbds_shdefault
#pragma push_macro("stbds_shdefaults")
#undef stbds_shdefaults
#pragma push_macro("stbds_shdel")
#undef stbds_shdel
#pragma push_macro("stbds_shfree")
#undef stbds_shfree
#pragma push_macro("stbds_shget")
#undef stbds_shget
#pragma push_macro("stbds_shgeti")
#undef stbds_shgeti
#pragma push_macro("stbds_shgetp")
#undef stbds_shgetp
#pragma push_macro("stbds_shgetp_null")
#undef stbds_shgetp_null
#pragma push_macro("stbds_shgets")
#undef stbds_shgets
#pragma push_macro("stbds_shlen")
#undef stbds_shlen
#pragma push_macro("stbds_shlenu")
#undef stbds_shlenu
#pragma push_macro("stbds_shmode_func")
#undef stbds_shmode_func
#pragma push_macro("stbds_shmode_func_wrapper")
#undef stbds_shmode_func_wrapper
#pragma push_macro("stbds_shput")
#undef stbds_shput
#pragma push_macro("stbds_shputi")
#undef stbds_shputi
#pragma push_macro("stbds_shputs")
#undef stbds_shputs
#pragma push_macro("stbds_siphash_bytes")
#undef stbds_siphash_bytes
#pragma push_macro("stbds_stralloc")
#undef stbds_stralloc
#pragma push_macro("stbds_strdup")
#undef stbds_strdup
#pragma push_macro("stbds_string_arena")
#undef stbds_string_arena
#pragma push_macro("stbds_string_block")
#undef stbds_string_block
#pragma push_macro("stbds_strreset")
#undef stbds_strreset
#pragma push_macro("stbds_temp")
#undef stbds_temp
#pragma push_macro("stbds_temp_key")
#undef stbds_temp_key
#pragma push_macro("stbds_unit_tests")
#undef stbds_unit_tests

/* Private names. */
#define stbds_rand_seed asthra__stbds_rand_seed
#define stbds_hash_bytes asthra__stbds_hash_bytes
#define stbds_hash_string asthra__stbds_hash_string
#define stbds_stralloc asthra__stbds_stralloc
#define stbds_strreset asthra__stbds_strreset
#define stbds_unit_tests asthra__stbds_unit_tests
#define stbds_arrgrowf asthra__stbds_arrgrowf
#define stbds_arrfreef asthra__stbds_arrfreef
#define stbds_hmfree_func asthra__stbds_hmfree_func
#define stbds_hmget_key asthra__stbds_hmget_key
#define stbds_hmget_key_ts asthra__stbds_hmget_key_ts
#define stbds_hmput_default asthra__stbds_hmput_default
#define stbds_hmput_key asthra__stbds_hmput_key
#define stbds_hmdel_key asthra__stbds_hmdel_key
#define stbds_shmode_func asthra__stbds_shmode_func
#define stbds_string_arena asthra__stbds_string_arena
#define stbds_string_block asthra__stbds_string_block
#define stbds_array_header asthra__stbds_array_header
#define stbds_hash_bucket asthra__stbds_hash_bucket
#define stbds_hash_index asthra__stbds_hash_index
#define stbds_hash_seed asthra__stbds_hash_seed
#define stbds_probe_position asthra__stbds_probe_position
#define stbds_log2 asthra__stbds_log2
#define stbds_make_hash_index asthra__stbds_make_hash_index
#define stbds_siphash_bytes asthra__stbds_siphash_bytes
#define stbds_is_key_equal asthra__stbds_is_key_equal
#define stbds_hm_find_slot asthra__stbds_hm_find_slot
#define stbds_strdup asthra__stbds_strdup
#define STBDS_SH_NONE ASTHRA__STBDS_SH_NONE
#define STBDS_SH_DEFAULT ASTHRA__STBDS_SH_DEFAULT
#define STBDS_SH_STRDUP ASTHRA__STBDS_SH_STRDUP
#define STBDS_SH_ARENA ASTHRA__STBDS_SH_ARENA

/* Our settings. stb_ds never looks at what realloc returned, so ours does not return on failure. */
#define STB_DS_IMPLEMENTATION
#define STBDS_NO_SHORT_NAMES
#define STBDS_REALLOC(context, block, bytes) asthra__alloc_or_die((block), (bytes))
#define STBDS_FREE(context, block) asthra__free(block)
#define STBDS_ASSERT(x) ((void)0)

/* A function declared static stays static when stb_ds says extern (C11 6.2.2p4), and keeps its
 * attributes: no symbol leaves, what is unused is dropped, and shifts of bytes into the sign bit of
 * an int, which both compilers define, pass the undefined-behaviour sanitizer. */
#define ASTHRA__STBDS_FN ASTHRA_UNUSED __attribute__((__no_sanitize__("undefined"))) static
struct stbds_string_arena;
ASTHRA__STBDS_FN void stbds_rand_seed(size_t seed);
ASTHRA__STBDS_FN size_t stbds_hash_bytes(void *p, size_t len, size_t seed);
ASTHRA__STBDS_FN size_t stbds_siphash_bytes(void *p, size_t len, size_t seed);
ASTHRA__STBDS_FN size_t stbds_hash_string(char *str, size_t seed);
ASTHRA__STBDS_FN char *stbds_stralloc(struct stbds_string_arena *a, char *str);
ASTHRA__STBDS_FN void stbds_strreset(struct stbds_string_arena *a);
ASTHRA__STBDS_FN void *stbds_arrgrowf(void *a, size_t elemsize, size_t addlen, size_t min_cap);
ASTHRA__STBDS_FN void stbds_arrfreef(void *a);
ASTHRA__STBDS_FN void stbds_hmfree_func(void *p, size_t elemsize);
ASTHRA__STBDS_FN void *stbds_hmget_key(void *a, size_t elemsize, void *key, size_t keysize,
                                       int mode);
ASTHRA__STBDS_FN void *stbds_hmget_key_ts(void *a, size_t elemsize, void *key, size_t keysize,
                                          ptrdiff_t *temp, int mode);
ASTHRA__STBDS_FN void *stbds_hmput_default(void *a, size_t elemsize);
ASTHRA__STBDS_FN void *stbds_hmput_key(void *a, size_t elemsize, void *key, size_t keysize,
                                       int mode);
ASTHRA__STBDS_FN void *stbds_hmdel_key(void *a, size_t elemsize, void *key, size_t keysize,
                                       size_t keyoffset, int mode);
ASTHRA__STBDS_FN void *stbds_shmode_func(size_t elemsize, int mode);
#undef ASTHRA__STBDS_FN

/* What stb_ds looks like under our warnings is its author's affair. */
#pragma GCC diagnostic push
#ifdef __clang__
#pragma clang diagnostic ignored "-Weverything"
#else
#pragma GCC diagnostic ignored "-Wcast-align"
#pragma GCC diagnostic ignored "-Wcast-qual"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wfloat-conversion"
#pragma GCC diagnostic ignored "-Wimplicit-fallthrough"
#pragma GCC diagnostic ignored "-Wmissing-declarations"
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wnull-dereference"
#pragma GCC diagnostic ignored "-Wpedantic"
#pragma GCC diagnostic ignored "-Wpointer-arith"
#pragma GCC diagnostic ignored "-Wredundant-decls"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#pragma GCC diagnostic ignored "-Wswitch-default"
#pragma GCC diagnostic ignored "-Wundef"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-macros"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#endif

/* Where it is. ./amalgamate --fold puts the text of stb_ds.h here, in place of these lines. */
#if defined(ASTHRA_RT_STB_DS_H)
#include ASTHRA_RT_STB_DS_H
#elif defined(__has_include)
#if __has_include("stb_ds.h")
#include "stb_ds.h"
#elif __has_include(<stb/stb_ds.h>)
#include <stb/stb_ds.h>
#elif __has_include(<stb_ds.h>)
#include <stb_ds.h>
#else
#error "stb_ds.h is missing: put it beside asthra_rt.h, or define ASTHRA_RT_STB_DS_H as its path"
#endif
#else
#include "stb_ds.h"
#endif
/* This is what --fold replaces. */
