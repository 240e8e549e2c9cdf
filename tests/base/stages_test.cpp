#include "heed/base/stages.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "heed/base/thread_pool.hpp"
#include "support/allocation_counter.hpp"

namespace {

using heed::ExecutorRef;
using heed::Index;
using heed::ThreadPool;
using heed::detail::Stages;

/// How many pieces of each stage have ended, and whether one began before what it needs had.
struct Record {
    explicit Record(std::vector<Index> counts) : all(std::move(counts)), ended(all.size()) {}

    void run(std::size_t stage, std::size_t first_needed_stage) const {
        for (std::size_t s = 0; s < first_needed_stage; ++s)
            if (ended[s] != all[s]) too_early = true;
        ++ended[stage];
    }
    void expect_all() const {
        EXPECT_FALSE(too_early);
        for (std::size_t s = 0; s < all.size(); ++s) EXPECT_EQ(ended[s], all[s]) << "stage " << s;
    }

    std::vector<Index> all;
    mutable std::vector<std::atomic<Index>> ended;
    mutable std::atomic<bool> too_early{false};
};

/// Two stages side by side, between one before and one after.
void run_four(const Record& record, const ExecutorRef& executor) {
    const auto first = [&](Index, int) { record.run(0, 0); };
    const auto left = [&](Index, int) { record.run(1, 1); };
    const auto right = [&](Index, int) { record.run(2, 1); };
    const auto last = [&](Index, int) { record.run(3, 3); };
    Stages stages;
    stages.then(record.all[0], first);
    stages.then(record.all[1], left);
    stages.beside(record.all[2], right);
    stages.then(record.all[3], last);
    stages.run(executor);
}

TEST(Shares, CutALoopIntoRanges) {
    for (Index pieces : {1, 2, 7, 16, 100})
        for (Index count : {1, 2, 3, 16}) {
            const heed::detail::Shares shares{pieces, count};
            EXPECT_EQ(shares.begin(0), 0);
            EXPECT_EQ(shares.begin(count), pieces);
            for (Index piece = 0; piece < pieces; ++piece) {
                const Index share = shares.of(piece);
                EXPECT_LE(shares.begin(share), piece) << pieces << " in " << count;
                EXPECT_GT(shares.begin(share + 1), piece) << pieces << " in " << count;
            }
        }
}

TEST(Stages, EachBeginsWhenThoseBeforeItAreDone) {
    for (int threads : {1, 2, 3, 8}) {
        ThreadPool pool(threads);
        for (int round = 0; round < 50; ++round)
            for (const auto& counts :
                 {std::vector<Index>{1, 1, 1, 1}, {7, 1, 30, 2}, {1, 50, 1, 50}, {0, 3, 0, 5}}) {
                const Record record(counts);
                run_four(record, pool);
                record.expect_all();
            }
    }
}

/// Runs its tasks one after another, the last one first: allowed, for their order is free.
struct Backwards {
    [[nodiscard]] int concurrency() const { return 4; }
    void parallel_for(Index count, heed::ParallelTask task) const {
        for (Index i = count; i-- > 0;) task(i, static_cast<int>(i));
    }
};

TEST(Stages, NeedNoTwoWorkersAtTheSameTime) {
    const Record record({5, 6, 7, 8});
    Backwards backwards;
    run_four(record, backwards);
    record.expect_all();
    const Record alone({5, 6, 7, 8});
    run_four(alone, ExecutorRef());
    alone.expect_all();
}

TEST(Stages, PiecesSideBySideNeedNotWaitForEachOther) {
    // Either stage ends only when the other has begun.
    std::atomic<int> begun{0};
    const auto meet = [&](Index, int) {
        ++begun;
        while (begun < 2) std::this_thread::yield();
    };
    ThreadPool pool(2);
    Stages stages;
    stages.then(1, meet);
    stages.beside(1, meet);
    stages.run(pool);
    EXPECT_EQ(begun, 2);
}

TEST(Stages, LongWaitsEnd) {
    // Longer than a waiting worker stays awake.
    std::atomic<bool> slept{false}, seen{false};
    const auto sleep = [&](Index, int) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        slept = true;
    };
    const auto look = [&](Index, int) { seen = slept.load(); };
    ThreadPool pool(2);
    Stages stages;
    stages.then(1, sleep);
    stages.then(2, look);
    stages.run(pool);
    EXPECT_TRUE(seen);
}

TEST(Stages, AnErrorEndsAllAndReachesTheCaller) {
    for (int threads : {1, 2, 4})
        for (int round = 0; round < 20; ++round) {
            ThreadPool pool(threads);
            std::atomic<Index> after{0};
            const auto fails = [](Index piece, int) {
                if (piece == 3) throw std::runtime_error("piece 3");
            };
            const auto counts = [&](Index, int) { ++after; };
            Stages stages;
            stages.then(8, fails);
            stages.then(100, counts);
            EXPECT_THROW(stages.run(pool), std::runtime_error);
            EXPECT_EQ(after, 0);
        }
}

TEST(Stages, AllocateNothing) {
    ThreadPool pool(2);
    const Record record({5, 6, 7, 8});
    run_four(record, pool);
    const Record again({5, 6, 7, 8});
    const support::AllocationCounter counter;
    run_four(again, pool);
    EXPECT_EQ(counter.count(), 0u);
}

}  // namespace
