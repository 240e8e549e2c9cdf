#pragma once
// On which cores do the workers of a loop stand?
// A thread that wakes may find itself on the core of the one that woke it, and the system takes
// longer than a short loop to part them. Workers therefore tell where they are, and a pool's own
// threads leave a core that another worker has. Does nothing where the system does not tell.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "heed/base/config.hpp"

#if defined(__linux__) && __has_include(<sched.h>)
#include <sched.h>
#endif

#if defined(__linux__) && defined(CPU_SETSIZE)
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

/// The cores of the workers of one loop.
class CoresInUse {
  public:
    void clear() {
        for (auto& word : words_) word.store(0, std::memory_order_relaxed);
    }

    /// For the caller's thread, which stays where it is.
    void stand_here() { (void)take(sched_getcpu()); }

    /// For a thread of a pool: goes to a core that no other worker has, if there is one.
    void find_a_place(const AllowedCores& allowed) {
        if (take(sched_getcpu())) return;
        cpu_set_t free = allowed.cores();
        for (int core = 0; core < CPU_SETSIZE; ++core)
            if (CPU_ISSET(core, &free) && is_taken(core)) CPU_CLR(core, &free);
        // The thread is there when this returns. Refused, it works where it is.
        if (CPU_COUNT(&free) > 0 && sched_setaffinity(0, sizeof free, &free) == 0)
            (void)take(sched_getcpu());
    }

  private:
    static constexpr int bits = 64;

    /// False when another worker had it.
    bool take(int core) {
        if (core < 0 || core >= CPU_SETSIZE) return true;
        const std::uint64_t bit = std::uint64_t{1} << (core % bits);
        return (word(core).fetch_or(bit) & bit) == 0;
    }
    [[nodiscard]] bool is_taken(int core) {
        return (word(core).load() >> (core % bits) & 1) != 0;
    }
    [[nodiscard]] std::atomic<std::uint64_t>& word(int core) {
        return words_[static_cast<std::size_t>(core / bits)];
    }

    std::array<std::atomic<std::uint64_t>, CPU_SETSIZE / bits> words_{};
};

#else

class AllowedCores {};
class CoresInUse {
  public:
    void clear() {}
    void stand_here() {}
    void find_a_place(const AllowedCores&) {}
};

#endif

}  // namespace heed::inline v0::detail
