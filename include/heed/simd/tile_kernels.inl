// How does one instruction set work on a tile?
// No #pragma once: for_each_isa.inl includes it once for each instruction set.
//
// Rules of this file: a pack never crosses the boundary of a function that is not inlined, nothing
// here takes a lambda, and no std:: function takes a pack; each would compile for the wrong
// target. `c + a * b` becomes a fused multiply-add where the target has one.

#define HEED_INLINE [[gnu::always_inline]] inline

// The later ones use the earlier.
#include "heed/simd/kernels/pack.inl"
// -
#include "heed/simd/kernels/exp.inl"
#include "heed/simd/kernels/products.inl"
#include "heed/simd/kernels/transpose.inl"
// -
#include "heed/simd/kernels/dropout.inl"
#include "heed/simd/kernels/gradients.inl"
#include "heed/simd/kernels/online_softmax.inl"
#include "heed/simd/kernels/scores.inl"
#include "heed/simd/kernels/sums.inl"

template <class T>
inline constexpr TileKernels<T> table = {
    HEED_ISA_OF_TEXT,
    lanes<T>,
    {rows_at_once<1>, rows_at_once<2>, rows_at_once<3>},
    load_queries<T>,
    {scores<1, T>, scores<2, T>, scores<3, T>},
    {row_max<1, T>, row_max<2, T>, row_max<3, T>},
    {hide_outside<1, T>, hide_outside<2, T>, hide_outside<3, T>},
    soft_cap<T>,
    add_bias<T>,
    hide_flagged<T>,
    add_diagonals<T>,
    {raise_max<1, T>, raise_max<2, T>, raise_max<3, T>},
    {exponentiate<1, T>, exponentiate<2, T>, exponentiate<3, T>},
    drop<T>,
    {rescale<1, T>, rescale<2, T>, rescale<3, T>},
    all_finite<T>,
    {values<1, T>, values<2, T>, values<3, T>},
    finish<T>,
    row_products<T>,
    {weights<1, T>, weights<2, T>, weights<3, T>},
    soft_cap_slopes<T>,
    {score_gradients<1, T>, score_gradients<2, T>, score_gradients<3, T>},
    multiply_slopes<T>,
    lane_sums<T>,
    diagonal_sums<T>,
    add_to_rows<T>,
    {weighted_sums<1, Product::accumulate, T>, weighted_sums<2, Product::accumulate, T>,
     weighted_sums<3, Product::accumulate, T>},
    {weighted_sums<1, Product::begin, T>, weighted_sums<2, Product::begin, T>,
     weighted_sums<3, Product::begin, T>},
    {weighted_sums_of_parts<1, T>, weighted_sums_of_parts<2, T>, weighted_sums_of_parts<3, T>},
};

#undef HEED_INLINE
