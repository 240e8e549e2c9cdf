// How does one instruction set work on the rows of a layer?
// No #pragma once: for_each_isa.inl includes it once for each instruction set, behind
// tile_kernels.inl, in the same namespace and under the same rules.

#define HEED_INLINE [[gnu::always_inline]] inline

// The later ones use the earlier.
#include "heed/simd/kernels/elements.inl"
// -
#include "heed/simd/kernels/activation.inl"
#include "heed/simd/kernels/dropout_rows.inl"
// -
#include "heed/simd/kernels/finish.inl"
#include "heed/simd/kernels/norms.inl"
#include "heed/simd/kernels/optimizer.inl"
#include "heed/simd/kernels/probabilities.inl"

template <class T>
inline constexpr LayerKernels<T> layer_table = {
    finish_rows<T>,
    activate<T>,
    activation_gradient<T>,
    add<T>,
    multiply<T>,
    scale<T>,
    sum<T>,
    squares<T>,
    wide_squares<T>,
    scale_row<T>,
    norm_sums<T>,
    norm_gradient<T>,
    norm_parameters<T>,
    largest<T>,
    exponentials<T>,
    drop_entries<T>,
    adamw<T>,
};

#undef HEED_INLINE
