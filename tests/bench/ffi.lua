-- ffi - the items of foreign calls in LuaJIT.   usage: luajit ffi.lua CALLEES.so ITEM WORKERS
--
-- Loops are compiled, but for structs by value: LuaJIT leaves calls with these to its interpreter.
local ffi = require 'ffi'
ffi.cdef [[
typedef struct Pair { double x, y; } Pair;
typedef struct Quad { int64_t a; double b; int64_t c; double d; } Quad;
void callee_void(void);
int callee_int2(int a, int b);
double callee_double8(double, double, double, double, double, double, double, double);
int callee_int12(int, int, int, int, int, int, int, int, int, int, int, int);
double callee_struct16(Pair p);
double callee_struct32(Quad q);
]]
local C = ffi.load(arg[1])
local items = {}

function items.ffi_void(count)
    for _ = 1, count do C.callee_void() end
end
function items.ffi_int2(count)
    local sum = 0
    for i = 0, count - 1 do sum = sum + C.callee_int2(i, 1) end
    return sum, 1
end
function items.ffi_double8(count)
    local sum = 0
    for i = 0, count - 1 do sum = sum + C.callee_double8(i, 1, 2, 3, 4, 5, 6, 7) end
    return sum, 28
end
function items.ffi_int12(count)
    local sum = 0
    for i = 0, count - 1 do sum = sum + C.callee_int12(i, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11) end
    return sum, 66
end
function items.ffi_struct16(count)
    local sum, p = 0, ffi.new('Pair', 0, 1)
    for i = 0, count - 1 do
        p.x = i
        sum = sum + C.callee_struct16(p)
    end
    return sum, 1
end
function items.ffi_struct32(count)
    local sum, q = 0, ffi.new('Quad', 0, 1, 2, 3)
    for i = 0, count - 1 do
        q.a = i
        sum = sum + C.callee_struct32(q)
    end
    return sum, 6
end

local run = items[arg[2]]
if not run then
    io.stderr:write('bench: no item ', arg[2], ' here\n')
    os.exit(3)
end
local took, calls = 0, 64
while took < 0.05 do
    calls = calls * 2
    local start = os.clock()
    local sum, rest = run(calls)
    took = os.clock() - start
    if rest and sum ~= calls * ((calls - 1) / 2 + rest) then error('bench: wrong result: sum') end
end
print(('%.3f'):format(took / calls * 1e9))
