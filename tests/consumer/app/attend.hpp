#pragma once
#include <heed/heed.hpp>

/// Causal self-attention, in another unit than main.
heed::Tensor<float, 4> attend(const heed::Tensor<float, 4>& tokens);
