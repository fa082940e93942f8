/* musl - an unwinder for the musl variant of the tests. Debian's musl-gcc links gcc's libgcc_eh,
 * which was built for glibc and crashes here; a system made of musl has one that works. This one
 * follows frame pointers, which the variant keeps, to the first that is not plausible. */
#include <stdint.h>
#include <unwind.h>

struct _Unwind_Context {
    uintptr_t address, stack;
};

_Unwind_Reason_Code _Unwind_Backtrace(_Unwind_Trace_Fn visit, void *argument) {
    const uintptr_t *frame = __builtin_frame_address(0);
    for (;;) {
        uintptr_t caller = frame[0];
        struct _Unwind_Context here = {frame[1], (uintptr_t)(frame + 2)};
        if (here.address == 0 || visit(&here, argument) != _URC_NO_REASON) break;
        if (caller <= (uintptr_t)frame || caller - (uintptr_t)frame > 65536) break;
        frame = (const uintptr_t *)caller;
    }
    return _URC_END_OF_STACK;
}

_Unwind_Ptr _Unwind_GetIPInfo(struct _Unwind_Context *frame, int *is_exact) {
    *is_exact = 0;
    return frame->address;
}

_Unwind_Word _Unwind_GetCFA(struct _Unwind_Context *frame) {
    return frame->stack;
}
