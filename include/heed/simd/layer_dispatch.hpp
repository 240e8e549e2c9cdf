#pragma once
// Which table of kernels serves the layers of this process?
// As dispatch.hpp, which programs that call an attention alone include without this.

#include <bit>
#include <cmath>

#include "heed/simd/dispatch.hpp"
#include "heed/simd/layer_kernels.hpp"

namespace heed::inline v0::detail {

/// The kernels of the instruction set in force.
template <class T>
[[nodiscard]] const LayerKernels<T>& layer_kernels();

#if defined(HEED_COMPILED) && !HEED_DEFINES_KERNELS
extern template const LayerKernels<float>& layer_kernels<float>();
extern template const LayerKernels<double>& layer_kernels<double>();
#endif

#if HEED_DEFINES_KERNELS
#define HEED_KERNEL_TEXT "heed/simd/layer_kernels.inl"
#include "heed/simd/for_each_isa.inl"
#undef HEED_KERNEL_TEXT

template <class T>
const LayerKernels<T>& layer_kernels() {
    return HEED_TABLE(layer_table<T>);
}

#if defined(HEED_COMPILED)
template const LayerKernels<float>& layer_kernels<float>();
template const LayerKernels<double>& layer_kernels<double>();
#endif

#endif  // HEED_DEFINES_KERNELS

}  // namespace heed::inline v0::detail
