#pragma once
// On which cores do the workers of a loop stand?
// A thread that is woken may find itself on the core of the one that woke it, and the system takes
// longer than a short loop to part them. A pool's own threads are therefore sent away from the
// caller's core before they are woken, and leave a core that another worker has. Does nothing where
// the system does not tell.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "heed/base/config.hpp"

#if defined(__linux__) && __has_include(<sched.h>)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__linux__) && defined(CPU_SETSIZE) && defined(SYS_gettid)
#define HEED_KNOWS_CORES 1
#else
#define HEED_KNOWS_CORES 0
#endif

namespace heed::inline v0::detail {

#if HEED_KNOWS_CORES

/// The cores that the process may use, as they were when this was made.
class AllowedCores {
  public:
    AllowedCores() {
        CPU_ZERO(&cores_);
        if (sched_getaffinity(0, sizeof cores_, &cores_) != 0) CPU_ZERO(&cores_);
    }
    [[nodiscard]] const cpu_set_t& cores() const { return cores_; }

  private:
    cpu_set_t cores_;
};

/// Where the calling thread is, or -1 for a core beyond those that the system can tell of.
[[nodiscard]] inline int current_core() {
    const int core = sched_getcpu();
    return core < CPU_SETSIZE ? core : -1;
}

/// The cores of the workers of one loop.
class CoresInUse {
  public:
    void clear() {
        for (auto& word : words_) word.store(0, std::memory_order_relaxed);
    }

    /// For a worker's thread: false when another worker has its core.
    bool stand_here() {
        const int core = current_core();
        if (core < 0) return true;
        const std::uint64_t bit = bit_of(core);
        return (words_[word_of(core)].fetch_or(bit) & bit) == 0;
    }

    /// Those of the allowed cores that no worker has.
    [[nodiscard]] cpu_set_t free(const AllowedCores& allowed) const {
        cpu_set_t cores = allowed.cores();
        for (int core = 0; core < CPU_SETSIZE; ++core)
            if (CPU_ISSET(core, &cores) && is_taken(core)) CPU_CLR(core, &cores);
        return cores;
    }

  private:
    static constexpr int bits = 64;

    [[nodiscard]] bool is_taken(int core) const {
        return (words_[word_of(core)] & bit_of(core)) != 0;
    }
    static std::uint64_t bit_of(int core) { return std::uint64_t{1} << (core % bits); }
    static std::size_t word_of(int core) { return static_cast<std::size_t>(core / bits); }

    std::array<std::atomic<std::uint64_t>, CPU_SETSIZE / bits> words_{};
};

/// Where a thread of a pool may be. What the system refuses changes nothing.
class ThreadPlace {
  public:
    /// For the thread itself, when it begins a loop: goes to a core that no other worker has, if
    /// there is one.
    void find(CoresInUse& in_use, const AllowedCores& allowed) {
        if (thread_ == 0) thread_ = static_cast<pid_t>(syscall(SYS_gettid));
        if (in_use.stand_here()) return;
        move(in_use.free(allowed), -1);
        in_use.stand_here();  // the thread is there when move returns
    }

    /// For the caller of a loop, before it wakes the thread, which shall not wake on that core.
    void avoid(int core, const AllowedCores& allowed) {
        if (core < 0 || thread_ == 0 || avoided_ == core) return;
        cpu_set_t others = allowed.cores();
        CPU_CLR(core, &others);
        move(others, core);
    }

  private:
    void move(const cpu_set_t& cores, int avoided) {
        if (CPU_COUNT(&cores) > 0 && sched_setaffinity(thread_, sizeof cores, &cores) == 0)
            avoided_ = avoided;
    }

    std::atomic<pid_t> thread_{0};  ///< 0 before its first loop
    std::atomic<int> avoided_{-1};  ///< the only allowed core that it may not use, or -1
};

#else

class AllowedCores {};
[[nodiscard]] inline int current_core() {
    return -1;
}
class CoresInUse {
  public:
    void clear() {}
    bool stand_here() { return true; }
};
class ThreadPlace {
  public:
    void find(CoresInUse&, const AllowedCores&) {}
    void avoid(int, const AllowedCores&) {}
};

#endif

}  // namespace heed::inline v0::detail
