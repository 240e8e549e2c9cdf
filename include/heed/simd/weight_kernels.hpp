#pragma once
// How are products computed with weights that are stored in fewer bits?
// The table that each instruction set fills in for a type of storage, as that of tile_kernels.hpp.

#include <cstdint>

#include "heed/simd/tile_kernels.hpp"

namespace heed::inline v0::detail {

/// Rows of x that a product reads stored weights for directly; for more it is faster to widen them
/// first.
inline constexpr Index most_direct_rows = 8;

/// Weights stored as W (half, bfloat16 or std::int8_t), computed with in float.
template <class W>
struct WeightKernels {
    /// to[n] = from[n] for n < count, a multiple of the lanes.
    void (*widen)(const W* from, Index count, float* to);

    /// sums[r][c] += sum_k x[r][k] * panel[k][c] for r < rows, at most most_direct_rows, in
    /// ascending order, and for `width` registers of columns c. Rows of x are `x_row` apart, those
    /// of the panel `row`, of sums `sum_row`.
    void (*multiply[max_tile_width])(const float* x, Index x_row, Index rows, const W* panel,
                                     Index row, Index terms, float* sums, Index sum_row);
};

}  // namespace heed::inline v0::detail
