#pragma once
// How do loops that read each other's results share one parallel loop?
// Runs stages one after another, the pieces of each shared out among the workers. Allocates
// nothing and starts no thread.

#include <algorithm>
#include <array>
#include <atomic>
#include <optional>

#include "heed/base/contract.hpp"
#include "heed/base/executor.hpp"
#include "heed/base/stay_awake.hpp"

namespace heed::inline v0::detail {

/// The pieces of a loop in so many shares, each of them a range.
struct Shares {
    Index pieces, count;

    [[nodiscard]] Index begin(Index number) const { return pieces * number / count; }
    /// The number of the share that has a piece.
    [[nodiscard]] Index of(Index piece) const { return ((piece + 1) * count - 1) / pieces; }
};

/// A list of loops. Each is called as f(piece, worker), and begins when those before it are done
/// (`then`), or as soon as workers are free (`beside`). What the functions refer to must live until
/// `run` returns.
///
///     Stages stages;
///     stages.then(queries.count(), queries);
///     stages.beside(keys.count(), keys);
///     stages.then(attention.count(), attention);
///     stages.run(executor);
class Stages {
  public:
    template <class F>
    void then(Index count, const F& f) {
        add(count, f, count_);
    }
    template <class F>
    void beside(Index count, const F& f) {
        add(count, f, size_ == 0 ? 0 : stages_[size_ - 1]->first_needed);
    }

    /// One parallel loop of the executor over all stages. Any executor will do: whoever waits does
    /// so for pieces that others are at work on. Rethrows what a piece throws; pieces that nobody
    /// has begun are then left out.
    ///
    /// Each worker has a share of every stage, the same one each time, so that what it wrote in one
    /// stage, or read in one run, is still near in the next; it helps with the shares of others
    /// when its own is done.
    void run(const ExecutorRef& executor) const {
        const Index workers = std::min<Index>(executor.concurrency(), count_);
        if (workers <= 1) return run_alone();
        Progress progress{static_cast<int>(std::min(workers, most_shares))};
        executor.parallel_for(workers, [&](Index, int worker) { work(progress, worker); });
    }

  private:
    struct Stage {
        Index begin;         ///< pieces of the stages before it
        Index first_needed;  ///< pieces below this must be done before it begins
        Index count;
        ParallelTask task;

        /// Where a share of it begins, counted over all stages.
        [[nodiscard]] Index share(int number, int shares) const {
            return begin + Shares{count, shares}.begin(number);
        }
    };

    static constexpr Index most_shares = 16;

    struct Progress {
        /// The next piece of a share. Of stages before the current one no piece is left.
        struct alignas(64) Share {
            std::atomic<Index> next{0};
        };

        int count;
        std::array<Share, static_cast<std::size_t>(most_shares)> shares{};
        alignas(64) std::atomic<Index> done{0};
        std::atomic<bool> failed{false};

        /// The next piece of a share in [begin, end), or -1 when none is left.
        Index take(int share, Index begin, Index end) {
            std::atomic<Index>& next = shares[static_cast<std::size_t>(share)].next;
            for (Index seen = next;;) {
                const Index piece = std::max(seen, begin);
                if (piece >= end) return -1;
                if (next.compare_exchange_weak(seen, piece + 1)) return piece;
            }
        }
    };

    template <class F>
    void add(Index count, const F& f, Index first_needed) {
        HEED_ASSERT(size_ < stages_.size());
        if (count == 0) return;
        stages_[size_++].emplace(Stage{count_, first_needed, count, ParallelTask(f)});
        count_ += count;
    }

    void run_alone() const {
        for (std::size_t s = 0; s < size_; ++s)
            for (Index i = 0; i < stages_[s]->count; ++i) stages_[s]->task(i, 0);
    }

    /// A worker's way through the stages. Nobody goes on before all pieces of a stage are taken.
    void work(Progress& progress, int worker) const {
        for (std::size_t s = 0; s < size_ && !progress.failed; ++s) {
            try {
                const Index done = take_part(progress, *stages_[s], worker);
                if (done == 0) continue;
                progress.done += done;
            } catch (...) {
                progress.failed = true;
                progress.done = count_;
                progress.done.notify_all();
                throw;
            }
            progress.done.notify_all();
        }
    }

    /// Computes pieces until all are taken, of its own share first, and returns how many.
    static Index take_part(Progress& progress, const Stage& stage, int worker) {
        Index done = 0;
        for (int i = 0; i < progress.count; ++i) {
            const int share = (worker + i) % progress.count;
            const Index begin = stage.share(share, progress.count);
            const Index end = stage.share(share + 1, progress.count);
            for (Index piece = progress.take(share, begin, end); piece >= 0;
                 piece = progress.take(share, begin, end)) {
                if (done == 0 && !wait_for(progress, stage.first_needed)) return 0;
                if (progress.failed) return 0;
                stage.task(piece - stage.begin, worker);
                ++done;
            }
        }
        return done;
    }

    /// False when a piece has failed, so that the others will never all be done.
    static bool wait_for(Progress& progress, Index needed) {
        stay_awake_while([&] { return progress.done < needed; });
        for (Index done = progress.done; done < needed; done = progress.done)
            progress.done.wait(done);
        return !progress.failed;
    }

    static constexpr std::size_t most = 48;  ///< a layer's backward has some thirty
    std::array<std::optional<Stage>, most> stages_;
    std::size_t size_ = 0;
    Index count_ = 0;
};

/// A loop alone, of as many pieces as its count(), with a share for each worker.
template <class Loop>
void run_in_shares(const Loop& loop, const ExecutorRef& executor) {
    Stages stages;
    stages.then(loop.count(), loop);
    stages.run(executor);
}

}  // namespace heed::inline v0::detail
