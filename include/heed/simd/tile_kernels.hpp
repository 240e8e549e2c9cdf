#pragma once
// Which operations does a tile of attention consist of?
// The table that each instruction set fills in; plain function pointers, so that the loops above
// are compiled once. Kernels know registers and rows, not heads, masks or batches.

#include <cstdint>

#include "heed/base/checked_size.hpp"
#include "heed/base/isa.hpp"
#include "heed/simd/lines_ahead.hpp"
#include "heed/tensor/philox.hpp"

namespace heed::inline v0::detail {

/// Which weights of a tile does dropout keep? Those whose 32 random bits are at least `threshold`:
/// word `key % 4` of Philox under the counter (key / 4, query, head, call).
struct DropoutTile {
    PhiloxKey philox_key;
    std::uint32_t call;
    std::uint32_t head;
    std::uint32_t first_query;
    std::uint64_t first_key;
    std::uint64_t threshold;  ///< in [1, 2^32]
};

/// Queries lie on SIMD lanes: a tile is `width * lanes` queries wide, where width is 1, 2 or 3
/// registers. Rows of tile buffers are `row` elements apart, a multiple of the lanes. Per-query
/// state (maximum, sum) is one row. Tiles need no alignment.
inline constexpr int max_tile_width = 3;

template <class T>
struct TileKernels {
    Isa isa;
    int lanes;  ///< elements of T in one register
    /// Rows of a product, 1, 2 or 3 registers wide, that stay in registers together,
    /// and ask for one line at each step.
    int rows_at_once[max_tile_width];

    /// How many lines a product of `width` registers asks for.
    [[nodiscard]] Index asks(int width, Index rows, Index terms) const {
        return pieces(rows, rows_at_once[width - 1]) * terms;
    }

    /// tile[d][i] = scale * q[i][d] for i < queries, 0 beyond; q's rows are `stride` apart.
    void (*load_queries)(const T* q, Index stride, Index queries, Index head_dim, T scale, T* tile,
                         Index row);

    /// scores[j][i] = sum_d k[j][d] * queries[d][i]; tile_max[i] = max_j scores[j][i], which
    /// passes over NaN. Indexed by width - 1, as all arrays here. Asks for lines ahead on its way.
    void (*scores[max_tile_width])(const T* k, Index stride, Index keys, Index head_dim,
                                   const T* queries, T* scores, Index row, T* tile_max,
                                   LinesAhead& ahead);

    /// tile_max[i] = max_j scores[j][i], for scores that were changed.
    void (*row_max[max_tile_width])(const T* scores, Index keys, T* tile_max);

    /// scores[j][i] = minus infinity unless first_key[i] <= j < end_key[i] (small whole numbers);
    /// tile_max[i] as above.
    void (*hide_outside[max_tile_width])(T* scores, Index keys, const T* first_key,
                                         const T* end_key, T* tile_max);

    /// scores[n] = cap * tanh(scores[n] / cap) for n < count, a multiple of the lanes.
    void (*soft_cap)(T* scores, Index count, T cap);

    /// scores[j][i] += bias[i][j] for i < queries and j < keys, minus infinity where either is;
    /// bias's rows are `stride` apart.
    void (*add_bias)(T* scores, Index row, const T* bias, Index stride, Index queries, Index keys);

    /// scores[j][i] = minus infinity where flags[i][j], as truth, is not `visible`; else as before.
    void (*hide_flagged)(T* scores, Index row, const std::uint8_t* flags, Index stride,
                         Index queries, Index keys, bool visible);

    /// scores[j][i] += bias[keys - 1 - j + i] for all lanes of a row, minus infinity where either
    /// is: what depends on the distance of query and key alone. bias has keys - 1 + row elements.
    void (*add_diagonals)(T* scores, Index row, Index keys, const T* bias);

    /// Raises max[i] to tile_max[i] where that is larger by more than a margin which exp cannot
    /// overflow, and writes factor[i] = exp(old max - new max). True when some maximum was raised.
    bool (*raise_max[max_tile_width])(const T* tile_max, T* max, T* factor);

    /// scores[j][i] = exp(scores[j][i] - max[i]), exactly 0 for minus infinity and below the
    /// normal range; sum[i] += sum_j of them. Each is within 2 + 2 |x| units of
    /// the last place, x being the difference.
    void (*exponentiate[max_tile_width])(T* scores, Index keys, const T* max, T* sum);

    /// weights[j][i] = scale * weights[j][i] where kept, else 0.
    void (*drop)(T* weights, Index row, Index keys, const DropoutTile& dropout, T scale);

    /// rows[r][i] *= factor[i].
    void (*rescale[max_tile_width])(T* rows, Index count, const T* factor);

    /// True when all elements of the rows are finite.
    bool (*all_finite)(const T* rows, Index stride, Index count, Index columns);

    /// out[c][i] += sum_j v[j][c] * weights[j][i], keys in ascending order. Asks for lines ahead.
    void (*values[max_tile_width])(const T* v, Index stride, Index keys, Index value_dim,
                                   const T* weights, T* out, Index row, LinesAhead& ahead);

    /// result[i][c] = out[c][i] / sum[i] for i < queries (0 where the sum is 0); rows of the result
    /// are `stride` apart.
    void (*finish)(const T* out, Index row, Index value_dim, Index queries, const T* sum, T* result,
                   Index stride);

    /// result[i] = sum_c a[i][c] * b[i][c] for i < rows.
    void (*row_products)(const T* a, Index a_stride, const T* b, Index b_stride, Index rows,
                         Index columns, T* result);

    /// scores[j][i] = exp(scores[j][i] - lse[i]), exactly 0 for a score of minus infinity, whatever
    /// lse[i] is.
    void (*weights[max_tile_width])(T* scores, Index keys, const T* lse);

    /// slopes[n] *= 1 - (scores[n] / cap)^2 for n < count, a multiple of the lanes: the derivative
    /// of soft_cap, by its result.
    void (*soft_cap_slopes)(const T* scores, T* slopes, Index count, T cap);

    /// gradients[j][i] = (dropped[j][i] * gradients[j][i] - weights[j][i] * delta[i]) *
    /// slopes[j][i]: from the gradient of a weight after dropout to that of its score. A dropped or
    /// a weight of 0 is not multiplied but selected. Without slopes (null) they are 1.
    void (*score_gradients[max_tile_width])(const T* weights, const T* dropped, T* gradients,
                                            Index keys, const T* delta, const T* slopes);

    /// gradients[n] = slopes[n] * gradients[n] for n < count, a multiple of the lanes; 0 where
    /// weights[n] is.
    void (*multiply_slopes)(const T* weights, const T* slopes, Index count, T* gradients);

    /// sums[j] += sum_i rows[j][i] over all lanes of a row, for j < count.
    void (*lane_sums)(const T* rows, Index row, Index count, T* sums);

    /// sums[keys - 1 - j + i] += tile[j][i] for all lanes of a row: by the distance of query and
    /// key. sums has keys - 1 + row elements.
    void (*diagonal_sums)(const T* tile, Index row, Index keys, T* sums);

    /// rows[i][j] += tile[j][i] for i < queries and j < keys; rows are `stride` apart.
    void (*add_to_rows)(const T* tile, Index row, Index keys, Index queries, T* rows, Index stride);

    /// sums[j][c] += sum_i weights[j][i] * rows[i][c] for j < count and i < terms, in ascending
    /// order, and for `width` registers of features c, which lie on the lanes here. Rows of weights
    /// are `weight_row` apart, those of rows `row`, of sums `sum_row`. Asks for lines ahead.
    using WeightedSums = void (*)(const T* weights, Index weight_row, Index count, const T* rows,
                                  Index row, Index terms, T* sums, Index sum_row,
                                  LinesAhead& ahead);
    WeightedSums weighted_sums[max_tile_width];

    /// The same for sums of 0: what was there is not read.
    WeightedSums first_weighted_sums[max_tile_width];

    /// weighted_sums of terms in so many parts: the weights of each are `part_step` behind those of
    /// the part before, the rows one after another. There are `terms` of each part.
    void (*weighted_sums_of_parts[max_tile_width])(const T* weights, Index weight_row, Index count,
                                                   Index parts, Index part_step, const T* rows,
                                                   Index row, Index terms, T* sums, Index sum_row,
                                                   LinesAhead& ahead);

    /// Those that begin with 0, or those that add, by width - 1.
    [[nodiscard]] const WeightedSums* sums_that_begin(bool begin) const {
        return begin ? first_weighted_sums : weighted_sums;
    }
};

}  // namespace heed::inline v0::detail
