#pragma once
// How many multiply-adds can one core do here and now?
// The yardstick of every benchmark: runs nothing but independent multiply-adds in registers.

#include "clock.hpp"
#include "heed/base/isa.hpp"

namespace bench {

/// FLOP/s of multiply-adds on T (two operations for each element) that the calling thread reaches
/// with this instruction set, which the processor must have, over about so many seconds of that
/// clock. Baseline x86 has no fused multiply-add: there it is a product and a sum.
template <class T>
[[nodiscard]] double fma_peak(heed::Isa isa, double seconds, Clock clock);

}  // namespace bench
