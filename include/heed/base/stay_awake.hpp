#pragma once
// How does a thread wait that is likely to be needed at once?
// Asks again and again, and gives up after a moment; changes nothing.

#include <chrono>
#include <thread>

#include "heed/base/config.hpp"

namespace heed::inline v0::detail {

/// Waits without sleeping while `going_on()` holds, but not for long: waking a thread takes longer
/// than a short attention.
template <class Condition>
void stay_awake_while(const Condition& going_on) {
    constexpr std::chrono::microseconds patience(500);
    using Clock = std::chrono::steady_clock;
    for (const auto end = Clock::now() + patience; going_on() && Clock::now() < end;)
        std::this_thread::yield();
}

}  // namespace heed::inline v0::detail
