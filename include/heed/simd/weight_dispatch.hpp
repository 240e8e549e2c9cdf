#pragma once
// Which table of kernels serves stored weights?
// As dispatch.hpp; only what is used is compiled.

#include "heed/base/scalar.hpp"
#include "heed/simd/dispatch.hpp"
#include "heed/simd/weight_kernels.hpp"

namespace heed::inline v0::detail {

/// The kernels of the instruction set in force.
template <class W>
[[nodiscard]] const WeightKernels<W>& weight_kernels();

#if defined(HEED_COMPILED) && !HEED_DEFINES_KERNELS
extern template const WeightKernels<half>& weight_kernels<half>();
extern template const WeightKernels<bfloat16>& weight_kernels<bfloat16>();
extern template const WeightKernels<std::int8_t>& weight_kernels<std::int8_t>();
#endif

#if HEED_DEFINES_KERNELS
#define HEED_KERNEL_TEXT "heed/simd/weight_kernels.inl"
#include "heed/simd/for_each_isa.inl"
#undef HEED_KERNEL_TEXT

template <class W>
const WeightKernels<W>& weight_kernels() {
    return HEED_TABLE(weight_table<W>);
}

#if defined(HEED_COMPILED)
template const WeightKernels<half>& weight_kernels<half>();
template const WeightKernels<bfloat16>& weight_kernels<bfloat16>();
template const WeightKernels<std::int8_t>& weight_kernels<std::int8_t>();
#endif

#endif  // HEED_DEFINES_KERNELS

}  // namespace heed::inline v0::detail
