#include "heed/base/executor.hpp"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "heed/base/contract.hpp"
#include "heed/base/cores.hpp"
#include "heed/base/thread_pool.hpp"
#include "support/allocation_counter.hpp"

namespace {

using heed::ExecutorRef;
using heed::Index;
using heed::ThreadPool;

/// How often each index ran, and whether a worker ran two tasks at the same time.
struct Record {
    explicit Record(Index count, int workers)
        : runs(static_cast<std::size_t>(count)), busy(static_cast<std::size_t>(workers)) {}

    void operator()(Index index, int worker) const {
        if (busy[static_cast<std::size_t>(worker)].exchange(1) != 0) clash = true;
        ++runs[static_cast<std::size_t>(index)];
        busy[static_cast<std::size_t>(worker)] = 0;
    }

    mutable std::vector<std::atomic<int>> runs;
    mutable std::vector<std::atomic<int>> busy;
    mutable std::atomic<bool> clash{false};
};

void expect_each_once(const Record& record) {
    for (const auto& runs : record.runs) EXPECT_EQ(runs, 1);
    EXPECT_FALSE(record.clash);
}

TEST(Executor, RunsEachIndexOnceAndNoWorkerTwiceAtATime) {
    for (int threads : {1, 2, 3, 4, 8})
        for (Index count : {0, 1, 2, 7, 1000}) {
            ThreadPool pool(threads);
            const Record record(count, pool.concurrency());
            pool.parallel_for(count, record);
            expect_each_once(record);
        }
}

#if HEED_KNOWS_CORES
/// True when both workers of a loop stood on cores of their own while both were at work.
bool stood_apart(ThreadPool& pool) {
    std::atomic<int> here{0};
    std::array<int, 2> cores{};
    const auto meet = [&](Index index, int) {
        ++here;
        while (here < 2) std::this_thread::yield();
        cores[static_cast<std::size_t>(index)] = sched_getcpu();
        ++here;
        while (here < 4) std::this_thread::yield();
    };
    pool.parallel_for(2, meet);
    return cores[0] != cores[1];
}

// A thread that has slept wakes where it was woken from, and stays there for some milliseconds.
TEST(Executor, ThreadsOfAPoolLeaveTheCoreOfTheCaller) {
    const heed::detail::AllowedCores allowed;
    if (CPU_COUNT(&allowed.cores()) < 2) GTEST_SKIP() << "one core";
    ThreadPool pool(2);
    int apart = 0;
    constexpr int rounds = 30;
    for (int round = 0; round < rounds; ++round) {
        std::this_thread::sleep_for(std::chrono::milliseconds(3));
        apart += stood_apart(pool) ? 1 : 0;
    }
    // Not always: the system may move the caller meanwhile.
    EXPECT_GE(apart, rounds * 2 / 3);
}
#endif

TEST(Executor, EmptyReferenceAndSerialRunOnTheCaller) {
    const auto caller = std::this_thread::get_id();
    const auto task = [&](Index, int worker) {
        EXPECT_EQ(worker, 0);
        EXPECT_EQ(std::this_thread::get_id(), caller);
    };
    ExecutorRef().parallel_for(5, task);
    ExecutorRef(heed::serial).parallel_for(5, task);
    EXPECT_EQ(ExecutorRef().concurrency(), 1);
}

TEST(Executor, ReferenceForwardsToAUsersExecutor) {
    struct Backwards {
        int loops = 0;
        int concurrency() const { return 7; }
        void parallel_for(Index count, heed::ParallelTask task) {
            ++loops;
            for (Index i = count; i-- > 0;) task(i, 6);
        }
    } users;
    const ExecutorRef executor(users);
    const Record record(9, 7);
    executor.parallel_for(9, record);
    expect_each_once(record);
    EXPECT_EQ(users.loops, 1);
    EXPECT_EQ(executor.concurrency(), 7);
}

// Museum B7 64: an exception must reach the caller, whoever threw it, and leave the pool usable.
TEST(Museum, B7_64_ExceptionReachesTheCaller) {
    ThreadPool pool(3);
    for (Index thrower = 0; thrower < 20; ++thrower) {
        EXPECT_THROW(pool.parallel_for(20,
                                       [&](Index i, int) {
                                           if (i == thrower) throw std::bad_alloc();
                                       }),
                     std::bad_alloc);
        const Record record(20, 3);
        pool.parallel_for(20, record);
        expect_each_once(record);
    }
}

// Museum B7 65: a loop inside a task must finish, without more threads.
TEST(Museum, B7_65_NestedLoopsRunInPlace) {
    ThreadPool pool(2);
    std::atomic<int> inner{0};
    pool.parallel_for(8, [&](Index, int) {
        const auto here = std::this_thread::get_id();
        pool.parallel_for(5, [&](Index, int) {
            EXPECT_EQ(std::this_thread::get_id(), here);
            ++inner;
        });
    });
    EXPECT_EQ(inner, 40);
}

TEST(ThreadPool, ServesSeveralCallersAtOnce) {
    ThreadPool pool(2);
    std::vector<std::thread> callers;
    for (int c = 0; c < 4; ++c)
        callers.emplace_back([&] {
            for (int round = 0; round < 50; ++round) {
                const Record record(17, 2);
                pool.parallel_for(17, record);
                expect_each_once(record);
            }
        });
    for (std::thread& caller : callers) caller.join();
}

// Also while the pool's threads are kept from coming to the loops that they are to help with.
TEST(ThreadPool, LoopsAllocateNothing) {
    ThreadPool pool(2);
    std::atomic<int> blocked{0};
    std::atomic<bool> released{false};
    const auto block = [&](Index, int) {
        ++blocked;
        released.wait(false);
    };
    std::thread other([&] { pool.parallel_for(2, block); });
    while (blocked < 2) std::this_thread::yield();
    std::atomic<int> runs{0};
    const auto count = [&](Index, int) { ++runs; };
    const support::AllocationCounter counter;
    for (int loop = 0; loop < 300; ++loop) pool.parallel_for(4, count);
    EXPECT_EQ(counter.count(), 0u);
    EXPECT_EQ(runs, 1200);
    released = true;
    released.notify_all();
    other.join();
}

TEST(ThreadPool, RefusesImpossibleNumbersOfThreads) {
    for (int threads : {-1, 0, 1025}) {
        try {
            ThreadPool pool(threads);
            FAIL() << threads;
        } catch (const heed::ArgumentError& error) {
            EXPECT_EQ(std::string(error.what()),
                      "[ThreadPool] the number of threads must be in [1, 1024]; found " +
                          std::to_string(threads));
        }
    }
}

TEST(ThreadPool, ProcessUsesOneThreadUntilTold) {
    EXPECT_EQ(heed::num_threads(), 1);
    heed::set_num_threads(3);
    EXPECT_EQ(heed::num_threads(), 3);
    EXPECT_THROW(heed::set_num_threads(0), heed::ArgumentError);
    EXPECT_EQ(heed::num_threads(), 3) << "a refused number changes nothing";
    heed::set_num_threads(1);
    EXPECT_EQ(heed::num_threads(), 1);
}

}  // namespace
