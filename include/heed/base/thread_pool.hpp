#pragma once
// How does heed use several threads, when the caller allows it?
// A pool on Eigen's own threads, for one call or for the process; starts threads at construction.

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#if __has_include(<Eigen/ThreadPool>)
#include <Eigen/ThreadPool>
#else
#include <unsupported/Eigen/CXX11/ThreadPool>
#endif

#include "heed/base/contract.hpp"
#include "heed/base/cores.hpp"
#include "heed/base/executor.hpp"
#include "heed/base/stay_awake.hpp"

namespace heed::inline v0 {

/// Threads that wait for work between calls; the caller's thread is one of the workers.
///
/// A loop that is started inside a task of any ThreadPool runs on that task's thread alone, so
/// nested calls neither multiply threads nor wait for each other. Several threads may use one pool
/// at the same time. A loop allocates nothing. For a moment after a loop its threads stay awake for
/// the next one, because waking them takes longer than a short attention. Its own threads stay off
/// the cores of the loop's other workers, among the cores that were allowed when the pool was made.
class ThreadPool {
  public:
    /// Starts threads - 1 threads. Throws ArgumentError unless threads is in [1, 1024].
    explicit ThreadPool(int threads) : threads_(checked(threads)) {
        for (Loop& loop : loops_) free_.push_back(&loop);
        if (threads > 1) pool_ = std::make_unique<Eigen::ThreadPool>(threads - 1);
    }

    [[nodiscard]] int concurrency() const { return threads_; }

    void parallel_for(Index count, ParallelTask task) {
        const int helpers = static_cast<int>(std::min<Index>(threads_, count)) - 1;
        if (helpers < 1 || inside_task()) return serial.parallel_for(count, task);
        Loop* const taken = take_loop();
        if (taken == nullptr) return serial.parallel_for(count, task);
        Loop& loop = *taken;
        loop.begin(count, task, helpers);
        if (const int missing = helpers - invite(loop, helpers); missing > 0) wake(loop, missing);
        loop.work();
        loop.wait();
        const std::exception_ptr error = loop.error();
        if (loop.leave()) give_back(loop);
        if (error) std::rethrow_exception(error);
    }

  private:
    /// The pieces of one loop, taken one by one by whoever is free. The caller waits for pieces in
    /// work, not for helpers: one that comes late, because the machine is busy, finds nothing left.
    class Loop {
      public:
        void begin(Index count, ParallelTask task, int helpers) {
            count_ = count;
            task_ = task;
            next_ = 0;
            workers_ = 0;
            active_ = 0;
            users_ = helpers + 1;
            error_ = nullptr;
            cores_.clear();
            cores_.stand_here();
        }

        /// What a thread of the pool does.
        void help(detail::ThreadPlace& place, const detail::AllowedCores& allowed) {
            if (next_ < count_) place.find(cores_, allowed);
            work();
        }

        void work() {
            active_.fetch_add(1);
            const int worker = workers_.fetch_add(1);
            inside_task() = true;
            try {
                for (Index i = next_.fetch_add(1); i < count_; i = next_.fetch_add(1))
                    (*task_)(i, worker);
            } catch (...) {
                const std::lock_guard lock(mutex_);
                if (!error_) error_ = std::current_exception();
                next_ = count_;  // nobody need start anything more
            }
            inside_task() = false;
            if (active_.fetch_sub(1) == 1) active_.notify_all();
        }

        void wait() const {
            detail::stay_awake_while([this] { return active_ > 0; });
            for (int active = active_; active > 0; active = active_) active_.wait(active);
        }

        [[nodiscard]] std::exception_ptr error() {
            const std::lock_guard lock(mutex_);
            return error_;
        }

        /// True for the last of the caller and its helpers.
        [[nodiscard]] bool leave() { return users_.fetch_sub(1) == 1; }

      private:
        Index count_ = 0;
        std::optional<ParallelTask> task_;
        std::atomic<Index> next_{0};
        std::atomic<int> workers_{0};
        std::atomic<int> active_{0};
        std::atomic<int> users_{0};
        std::mutex mutex_;
        std::exception_ptr error_;
        detail::CoresInUse cores_;
    };

    /// Where the caller of a loop meets a thread that is still awake.
    struct Door {
        enum State : int { closed, open, invited };
        std::atomic<int> state{closed};
        Loop* loop = nullptr;  ///< of the invitation
        detail::ThreadPlace place;
    };

    /// Invites awake threads to a loop, at most `wanted`, and returns how many.
    int invite(Loop& loop, int wanted) {
        int count = 0;
        for (std::size_t i = 0; i < doors_.size() && count < wanted; ++i) {
            int expected = Door::open;
            if (!doors_[i].state.compare_exchange_strong(expected, Door::closed)) continue;
            doors_[i].loop = &loop;
            doors_[i].state = Door::invited;
            ++count;
        }
        return count;
    }

    /// Has so many threads that sleep come to a loop.
    void wake(Loop& loop, int count) {
        const int here = detail::current_core();
        for (Door& door : doors_)
            if (door.state == Door::closed) door.place.avoid(here, allowed_);
        for (; count > 0; --count) pool_->Schedule([this, &loop] { help(loop); });
    }

    /// What a thread of the pool does from its waking to its sleep.
    void help(Loop& first) {
        Door& door = doors_[static_cast<std::size_t>(pool_->CurrentThreadId())];
        for (Loop* loop = &first; loop != nullptr; loop = wait_at(door)) {
            loop->help(door.place, allowed_);
            if (loop->leave()) give_back(*loop);
        }
    }

    /// The next loop that this thread is invited to, or null when none comes soon.
    static Loop* wait_at(Door& door) {
        door.state = Door::open;
        detail::stay_awake_while([&door] { return door.state != Door::invited; });
        int expected = Door::open;
        if (door.state.compare_exchange_strong(expected, Door::closed)) return nullptr;
        // Somebody holds the handle: the invitation follows at once.
        while (door.state != Door::invited) std::this_thread::yield();
        door.state = Door::closed;
        return door.loop;
    }

    /// A loop that nobody uses. None when helpers have not come for so many of them that the
    /// threads have other things to do.
    Loop* take_loop() {
        const std::lock_guard lock(mutex_);
        if (free_.empty()) return nullptr;
        Loop* const loop = free_.back();
        free_.pop_back();
        return loop;
    }
    void give_back(Loop& loop) {
        const std::lock_guard lock(mutex_);
        free_.push_back(&loop);
    }

    static int checked(int threads) {
        if (threads < 1 || threads > 1024)
            detail::fail<ArgumentError>(
                "ThreadPool", "the number of threads must be in [1, 1024]; ", "found ", threads);
        return threads;
    }

    static bool& inside_task() {
        thread_local bool inside = false;
        return inside;
    }

    int threads_;
    detail::AllowedCores allowed_;
    std::mutex mutex_;
    std::vector<Loop> loops_ = std::vector<Loop>(64);
    std::vector<Loop*> free_;  ///< of them, never more than at first
    std::vector<Door> doors_ = std::vector<Door>(static_cast<std::size_t>(threads_ - 1));
    std::unique_ptr<Eigen::ThreadPool> pool_;  ///< last, so that its threads end before the rest
};

/// Lets every attention that names no executor use this many threads, the caller's included.
/// 1, the initial state, means the caller's thread alone; no thread is started before this is
/// called. Calls in progress finish with the former threads.
/// Throws ArgumentError unless threads is in [1, 1024].
inline void set_num_threads(int threads) {
    auto pool = std::make_shared<ThreadPool>(threads);
    ExecutorRef executor(*pool);
    detail::ProcessExecutor::set({std::move(pool), executor});
}

/// The number of threads that an attention which names no executor may use.
[[nodiscard]] inline int num_threads() {
    return detail::ProcessExecutor::get().executor.concurrency();
}

}  // namespace heed::inline v0
