#pragma once
// Who runs independent pieces of work?
// Defines what an executor is and a cheap reference to one; runs pieces, starts no thread itself.

#include <concepts>
#include <memory>
#include <mutex>
#include <optional>
#include <type_traits>

#include "heed/base/checked_size.hpp"

namespace heed::inline v0 {

/// One piece of a parallel loop: called as task(index, worker). A reference, valid for the loop.
class ParallelTask {
  public:
    template <class F>
    requires(!std::same_as<F, ParallelTask> && std::invocable<const F&, Index, int>)
        ParallelTask(const F& f)
        : function_(&f), call_([](const void* function, Index index, int worker) {
              (*static_cast<const F*>(function))(index, worker);
          }) {}

    /// A member function of an object that lives for the loop: (object.*method)(index, worker).
    template <auto method, class Object>
    [[nodiscard]] static ParallelTask of(const Object& object) {
        return {&object, [](const void* self, Index index, int worker) {
                    (static_cast<const Object*>(self)->*method)(index, worker);
                }};
    }

    void operator()(Index index, int worker) const { call_(function_, index, worker); }

  private:
    ParallelTask(const void* function, void (*call)(const void*, Index, int))
        : function_(function), call_(call) {}

    const void* function_;
    void (*call_)(const void*, Index, int);
};

/// Anything that can run a loop in parallel:
///
///     int concurrency() const;                             // most workers at the same time, >= 1
///     void parallel_for(Index count, ParallelTask task);   // task(i, worker) for each i < count
///
/// `worker` is in [0, concurrency()), and no two calls run with the same worker at the same time.
/// parallel_for returns when all is done, and rethrows an exception that a task threw. The order
/// and the placement of the tasks are free: heed's results do not depend on them.
template <class E>
concept Executor = requires(E& executor, const E& constant, Index count, ParallelTask task) {
    { constant.concurrency() } -> std::convertible_to<int>;
    executor.parallel_for(count, task);
};

/// A reference to any executor, or to none, which means the caller's thread alone.
class ExecutorRef {
  public:
    ExecutorRef() = default;

    /// The executor must outlive the reference.
    template <Executor E>
    requires(!std::same_as<E, ExecutorRef>) ExecutorRef(E& executor)
        : executor_(&executor),
          concurrency_([](const void* e) {
              return static_cast<int>(static_cast<const E*>(e)->concurrency());
          }),
          run_([](void* e, Index count, ParallelTask task) {
              static_cast<E*>(e)->parallel_for(count, task);
          }) {}

    [[nodiscard]] int concurrency() const {
        return executor_ == nullptr ? 1 : concurrency_(executor_);
    }

    void parallel_for(Index count, ParallelTask task) const {
        if (executor_ != nullptr && count > 1) return run_(executor_, count, task);
        for (Index i = 0; i < count; ++i) task(i, 0);
    }

  private:
    void* executor_ = nullptr;
    int (*concurrency_)(const void*) = nullptr;
    void (*run_)(void*, Index, ParallelTask) = nullptr;
};

/// The caller's thread alone, whatever the process's executor is.
struct SerialExecutor {
    [[nodiscard]] int concurrency() const { return 1; }
    void parallel_for(Index count, ParallelTask task) const {
        for (Index i = 0; i < count; ++i) task(i, 0);
    }
};
inline SerialExecutor serial;

namespace detail {

/// The executor for calls that name none. Shared, so that a call in progress keeps it alive while
/// another thread replaces it.
class ProcessExecutor {
  public:
    struct Held {
        std::shared_ptr<void> owner;
        ExecutorRef executor;
    };

    static Held get() {
        const std::lock_guard lock(mutex());
        return held();
    }
    static void set(Held executor) {
        // The former one is released after the lock: its threads may take a while to end.
        const std::lock_guard lock(mutex());
        std::swap(held(), executor);
    }

  private:
    static std::mutex& mutex() {
        static std::mutex instance;
        return instance;
    }
    static Held& held() {
        static Held instance;
        return instance;
    }
};

/// One worker is worth waking for this many multiply-adds, a few tens of microseconds.
inline constexpr double least_work_per_worker = 1e6;

/// Workers that so many multiply-adds deserve: none but the caller for few, else all there are.
[[nodiscard]] inline int useful_workers(double multiply_adds, int concurrency) {
    return multiply_adds < 2 * least_work_per_worker ? 1 : concurrency;
}

/// Who does some work: the caller's executor, or else that of the process; none but the caller's
/// thread where there is little to do.
struct Workers {
    ProcessExecutor::Held process = ProcessExecutor::get();
    ExecutorRef executor;

    explicit Workers(double multiply_adds, const std::optional<ExecutorRef>& wanted = std::nullopt)
        : executor(wanted.value_or(process.executor)) {
        if (useful_workers(multiply_adds, executor.concurrency()) == 1) executor = serial;
    }
};

}  // namespace detail
}  // namespace heed::inline v0
