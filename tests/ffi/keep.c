/* keep - calls something while all registers that a call preserves are in use; part of check.c.
 *
 * The values come from where a compiler cannot know them, and are more than the registers.
 */
enum { FFI_WORDS = 10, FFI_REALS = 12 };
static volatile uintptr_t ffi_words[FFI_WORDS];
static volatile double ffi_reals[FFI_REALS];
#define EACH_WORD(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)
#define EACH_REAL(X) EACH_WORD(X) X(10) X(11)

#ifdef FFI_MS
/* rsi, rdi and xmm6 to xmm15 are preserved by functions of ms_abi alone, and no compiler relies on
 * it. Stack: 160 bytes more than the red zone, 32 of which belong to the callee. */
static bool call_keeping_more(FfiCaller *caller, FfiFunction function, void *out, void *const *v) {
    uint64_t before[22], after[22];
    for (unsigned i = 0; i < 22; i++) before[i] = (uint64_t)ffi_words[i % FFI_WORDS] * (i + 1);
    register void *const *third __asm__("r8") = v;
    register const uint64_t *from __asm__("r12") = before;
    register uint64_t *to __asm__("r13") = after;
    __asm__ volatile("mov %%rsp, %%rbx\n\t"
                     "sub $288, %%rsp\n\t"
                     "and $-16, %%rsp\n\t"
                     "movups (%%r12), %%xmm6\n\t"
                     "movups 16(%%r12), %%xmm7\n\t"
                     "movups 32(%%r12), %%xmm8\n\t"
                     "movups 48(%%r12), %%xmm9\n\t"
                     "movups 64(%%r12), %%xmm10\n\t"
                     "movups 80(%%r12), %%xmm11\n\t"
                     "movups 96(%%r12), %%xmm12\n\t"
                     "movups 112(%%r12), %%xmm13\n\t"
                     "movups 128(%%r12), %%xmm14\n\t"
                     "movups 144(%%r12), %%xmm15\n\t"
                     "mov 160(%%r12), %%rsi\n\t"
                     "mov 168(%%r12), %%rdi\n\t"
                     "call *%%rax\n\t"
                     "movups %%xmm6, (%%r13)\n\t"
                     "movups %%xmm7, 16(%%r13)\n\t"
                     "movups %%xmm8, 32(%%r13)\n\t"
                     "movups %%xmm9, 48(%%r13)\n\t"
                     "movups %%xmm10, 64(%%r13)\n\t"
                     "movups %%xmm11, 80(%%r13)\n\t"
                     "movups %%xmm12, 96(%%r13)\n\t"
                     "movups %%xmm13, 112(%%r13)\n\t"
                     "movups %%xmm14, 128(%%r13)\n\t"
                     "movups %%xmm15, 144(%%r13)\n\t"
                     "mov %%rsi, 160(%%r13)\n\t"
                     "mov %%rdi, 168(%%r13)\n\t"
                     "mov %%rbx, %%rsp"
                     : "+a"(caller), "+c"(function), "+d"(out), "+r"(third)
                     : "r"(from), "r"(to)
                     : "rbx", "rsi", "rdi", "r9", "r10", "r11", "xmm0", "xmm1", "xmm2", "xmm3",
                       "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
                       "xmm13", "xmm14", "xmm15", "memory", "cc");
    return memcmp(before, after, sizeof before) == 0;
}
#else
static bool call_keeping_more(FfiCaller *caller, FfiFunction function, void *out, void *const *v) {
    caller(function, out, v);
    return true;
}
#endif

/* Returns   whether all of them are what they were. */
static bool __attribute__((noinline))
call_keeping(FfiCaller *caller, FfiFunction function, void *out, void *const *v) {
#define LOAD_WORD(n) uintptr_t word##n = ffi_words[n];
#define LOAD_REAL(n) double real##n = ffi_reals[n];
#define KEPT_WORD(n) is_kept &= word##n == ffi_words[n];
#define KEPT_REAL(n) is_kept &= real##n == ffi_reals[n];
    EACH_WORD(LOAD_WORD)
    EACH_REAL(LOAD_REAL)
    bool is_kept = call_keeping_more(caller, function, out, v);
    EACH_WORD(KEPT_WORD)
    EACH_REAL(KEPT_REAL)
    return is_kept;
}
