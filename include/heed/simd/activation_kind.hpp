#pragma once
// Which nonlinearities have kernels?
// A name for each; the formulas are in ops/activation.hpp.

#include "heed/base/config.hpp"

namespace heed::inline v0 {

/// What sits between two linear layers; ops/activation.hpp has the formulas.
enum class Activation { none, relu, gelu, gelu_tanh, silu };

}  // namespace heed::inline v0
