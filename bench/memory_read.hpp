#pragma once
// How fast can one core read memory here and now?
// The yardstick of what reads more than it computes: adds up an array and nothing else.

#include "heed/base/isa.hpp"
#include "size.hpp"

namespace bench {

/// Reads so many floats, in order, with this instruction set, which the processor must have.
/// Returns a number that depends on all of them. Those behind the last whole group of registers are
/// left out.
[[nodiscard]] float read_memory(heed::Isa isa, const float* values, Size count);

}  // namespace bench
