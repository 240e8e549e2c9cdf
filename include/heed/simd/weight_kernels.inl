// How does one instruction set multiply with stored weights?
// No #pragma once: for_each_isa.inl includes it once for each instruction set, behind
// tile_kernels.inl, in the same namespace and under the same rules.

#define HEED_INLINE [[gnu::always_inline]] inline

#include "heed/simd/kernels/stored_weights.inl"

template <class W>
inline constexpr WeightKernels<W> weight_table = {
    widen<W>, {multiply_stored<1, W>, multiply_stored<2, W>, multiply_stored<3, W>}};

#undef HEED_INLINE
