/* boost - the fiber items on Boost.Fiber.   usage: boost ITEM WORKERS
 *
 * One worker schedules round robin. More steal from each other (work_stealing), which is what lets
 * a fiber that main made run on another thread, and idle ones sleep: shared_work, and stealers that
 * spin, measured slower on the channel items.
 */
#include "bench.h"
#include <boost/fiber/all.hpp>
#include <thread>
#include <vector>

namespace fibers = boost::fibers;
typedef fibers::unbuffered_channel<uint64_t> Unbuffered;
typedef fibers::buffered_channel<uint64_t> Buffered;

static int workers = 1;

/* A pool of stacks is ten times faster than a mapping each, but not made for several threads. */
template <typename Function> static fibers::fiber spawn(Function function) {
    static fibers::pooled_fixedsize_stack pool;
    if (workers > 1) return fibers::fiber(std::move(function));
    return fibers::fiber(std::allocator_arg, pool, std::move(function));
}

static void spawn_await(long count) {
    for (long i = 0; i < count; i++) spawn([] {}).join();
}

static void measure_spawn_await() {
    spawn_await(BENCH_SPAWN_AWAIT / 10);
    double start = bench_now();
    spawn_await(BENCH_SPAWN_AWAIT);
    bench_print_ns(start, BENCH_SPAWN_AWAIT);
}

static void spawn_all(std::vector<fibers::fiber> &handles) {
    for (auto &handle : handles) handle = spawn([] {});
    for (auto &handle : handles) handle.join();
}

/* One batch: with two workers a hundred thousand stacks cost a second. */
static void measure_spawn_many() {
    std::vector<fibers::fiber> handles(BENCH_SPAWN_MANY);
    spawn_all(handles);
    double start = bench_now();
    spawn_all(handles);
    bench_print_ns(start, BENCH_SPAWN_MANY);
}

static void measure_pingpong() {
    Unbuffered there, back;
    fibers::fiber other = spawn([&] {
        for (long i = 0; i < BENCH_ROUND_TRIPS; i++) back.push(there.value_pop());
    });
    uint64_t sum = 0;
    double elapsed = 0;
    spawn([&] {
        double start = bench_now();
        for (long i = 0; i < BENCH_ROUND_TRIPS; i++) {
            there.push(1);
            sum += back.value_pop();
        }
        elapsed = bench_now() - start;
    }).join();
    other.join();
    printf("%.2f\n", elapsed * 1e9 / (2.0 * BENCH_ROUND_TRIPS));
    bench_require(sum == BENCH_ROUND_TRIPS, "pingpong");
}

static void transfer(int pairs) {
    Buffered channel(BENCH_CAPACITY);
    std::vector<fibers::fiber> all;
    std::vector<uint64_t> sums((size_t)pairs);
    long each = BENCH_VALUES / pairs;
    double start = bench_now();
    for (int i = 0; i < pairs; i++) {
        all.push_back(spawn([&channel, each] {
            for (long k = 0; k < each; k++) channel.push(1);
        }));
        all.push_back(spawn([&channel, &sums, i, each] {
            uint64_t sum = 0;
            for (long k = 0; k < each; k++) sum += channel.value_pop();
            sums[(size_t)i] = sum;
        }));
    }
    for (auto &one : all) one.join();
    bench_print_ns(start, BENCH_VALUES);
    uint64_t total = 0;
    for (uint64_t sum : sums) total += sum;
    bench_require(total == BENCH_VALUES, "transfer");
}

static void measure_spsc() {
    transfer(1);
}
static void measure_mpmc() {
    transfer(BENCH_MPMC_TASKS);
}

static void measure_yield() {
    auto turn = [] {
        for (long i = 0; i < BENCH_YIELDS; i++) boost::this_fiber::yield();
    };
    double start = bench_now();
    fibers::fiber one = spawn(turn), two = spawn(turn);
    one.join();
    two.join();
    bench_print_ns(start, 2.0 * BENCH_YIELDS);
}

/* Entered at once (dispatch), or a million stacks would wait to start. */
static void skynet(Unbuffered &up, uint64_t number, uint64_t size) {
    if (size == 1) {
        up.push(number);
        return;
    }
    Unbuffered down;
    uint64_t part = size / BENCH_SKYNET_WAYS;
    for (uint64_t i = 0; i < BENCH_SKYNET_WAYS; i++) {
        fibers::fiber(fibers::launch::dispatch, [&down, number, i, part] {
            skynet(down, number + i * part, part);
        }).detach();
    }
    uint64_t sum = 0;
    for (int i = 0; i < BENCH_SKYNET_WAYS; i++) sum += down.value_pop();
    up.push(sum);
}

static void measure_skynet() {
    Unbuffered up;
    double start = bench_now();
    spawn([&up] { skynet(up, 0, BENCH_SKYNET); }).detach();
    uint64_t sum = up.value_pop();
    bench_print(bench_now() - start);
    bench_require(sum == (uint64_t)BENCH_SKYNET_SUM, "skynet");
}

static void measure_sleeps() {
    std::vector<fibers::fiber> all;
    all.reserve(BENCH_SLEEPS);
    double before = bench_cpu();
    for (int i = 0; i < BENCH_SLEEPS; i++) {
        std::chrono::milliseconds pause(1 + i % BENCH_SLEEP_STEPS);
        all.push_back(spawn([pause] { boost::this_fiber::sleep_for(pause); }));
    }
    for (auto &one : all) one.join();
    bench_print(bench_cpu() - before);
}

static void measure_mutex() {
    fibers::mutex lock;
    long count = 0;
    std::vector<fibers::fiber> all;
    double start = bench_now();
    for (int i = 0; i < BENCH_MUTEX_TASKS; i++) {
        all.push_back(spawn([&] {
            for (long k = 0; k < BENCH_LOCKS; k++) {
                lock.lock();
                count++;
                lock.unlock();
            }
        }));
    }
    for (auto &one : all) one.join();
    bench_print_ns(start, (double)BENCH_LOCKS * BENCH_MUTEX_TASKS);
    bench_require(count == (long)BENCH_LOCKS * BENCH_MUTEX_TASKS, "mutex");
}

static void (*find(const char *item))() {
    if (!strcmp(item, "spawn_await")) return measure_spawn_await;
    if (!strcmp(item, "spawn_many")) return measure_spawn_many;
    if (!strcmp(item, "pingpong")) return measure_pingpong;
    if (!strcmp(item, "spsc")) return measure_spsc;
    if (!strcmp(item, "mpmc")) return measure_mpmc;
    if (!strcmp(item, "yield")) return measure_yield;
    if (!strcmp(item, "skynet")) return measure_skynet;
    if (!strcmp(item, "sleeps")) return measure_sleeps;
    if (!strcmp(item, "mutex")) return measure_mutex;
    return nullptr;
}

/* The other workers run until main says that the item is over. */
static fibers::mutex over_lock;
static fibers::condition_variable over;
static bool is_over;

static void join_workers() {
    fibers::use_scheduling_algorithm<fibers::algo::work_stealing>((uint32_t)workers, true);
}

static void work() {
    join_workers();
    std::unique_lock<fibers::mutex> hold(over_lock);
    over.wait(hold, [] { return is_over; });
}

int main(int argc, char **argv) {
    const char *item = argc > 1 ? argv[1] : "";
    workers = argc > 2 ? atoi(argv[2]) : 1;
    void (*measure)() = find(item);
    if (!measure) return bench_unknown(item);
    std::vector<std::thread> threads;
    for (int i = 1; i < workers; i++) threads.emplace_back(work);
    if (workers > 1) join_workers();
    measure();
    {
        std::unique_lock<fibers::mutex> hold(over_lock);
        is_over = true;
    }
    over.notify_all();
    for (auto &thread : threads) thread.join();
    return 0;
}
