#pragma once
// How long did it take?
// Reads clocks; one of them stands still while other programs have the core.

#include <time.h>

#include <chrono>

namespace bench {

/// A clock in seconds, of which only differences mean something.
using Clock = double (*)();

/// CPU time of the calling thread.
[[nodiscard]] inline double cpu_seconds() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

[[nodiscard]] inline double wall_seconds() {
    using Seconds = std::chrono::duration<double>;
    return Seconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace bench
