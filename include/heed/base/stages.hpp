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

    /// One parallel loop of the executor over all stages. Any executor will do: pieces are taken in
    /// order, so whoever waits does so for pieces that others are at work on. Rethrows what a piece
    /// throws; pieces that nobody has begun are then left out.
    void run(const ExecutorRef& executor) const {
        const Index workers = executor.concurrency();
        if (workers == 1) return run_alone();
        Progress progress;
        executor.parallel_for(std::min(workers, count_),
                              [&](Index, int worker) { work(progress, worker); });
    }

  private:
    struct Stage {
        Index begin;         ///< pieces of the stages before it
        Index first_needed;  ///< pieces below this must be done before it begins
        Index count;
        ParallelTask task;
    };

    struct Progress {
        std::atomic<Index> next{0};
        std::atomic<Index> done{0};
        std::atomic<bool> failed{false};
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

    /// Takes pieces until none is left.
    void work(Progress& progress, int worker) const {
        std::size_t s = 0;
        for (Index piece = progress.next++; piece < count_; piece = progress.next++) {
            while (piece >= stages_[s]->begin + stages_[s]->count) ++s;
            const Stage& stage = *stages_[s];
            if (!wait_for(progress, stage.first_needed)) return;
            try {
                stage.task(piece - stage.begin, worker);
            } catch (...) {
                stop(progress);
                throw;
            }
            ++progress.done;
            progress.done.notify_all();
        }
    }

    /// False when a piece has failed, so that the others will never all be done.
    static bool wait_for(Progress& progress, Index needed) {
        stay_awake_while([&] { return progress.done < needed; });
        for (Index done = progress.done; done < needed; done = progress.done)
            progress.done.wait(done);
        return !progress.failed;
    }

    void stop(Progress& progress) const {
        progress.next = count_;
        progress.failed = true;
        progress.done = count_;
        progress.done.notify_all();
    }

    static constexpr std::size_t most = 24;
    std::array<std::optional<Stage>, most> stages_;
    std::size_t size_ = 0;
    Index count_ = 0;
};

}  // namespace heed::inline v0::detail
