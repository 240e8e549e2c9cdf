#pragma once
// What do the ways there and back do alike with a tile of queries beside a tile of keys?
// The two products over the keys, what hides keys outside intervals, dropout. Writes the rows that
// it is given.

#include <algorithm>
#include <cstdint>

#include "heed/attention/score_tile.hpp"
#include "heed/attention/tiling.hpp"
#include "heed/ops/dropout.hpp"

namespace heed::inline v0::detail {

/// product[key][lane] = sum over features of rows[key] * lanes[feature], where some query sees the
/// key; tile_max as in TileKernels::scores. The rows begin with the tile's first key.
template <class C>
void multiply(const ScoreTile<C>& tile, const TileSteps& steps, const TileRows<C>& rows,
              Index features, const C* lanes, C* product, C* tile_max, LinesAhead& ahead) {
    for (const TileStep& step : steps) {
        const Index lane = step.first_register * tile.kernels.lanes;
        tile.kernels.scores[step.end_register - step.first_register - 1](
            rows.data + step.keys.begin * rows.stride, rows.stride, step.keys.end - step.keys.begin,
            features, lanes + lane, product + step.keys.begin * tile.row + lane, tile.row,
            tile_max + lane, ahead);
    }
}

/// sums[feature][lane] += sum over keys of rows[key] * weights[key][lane], where some query sees
/// the key.
template <class C>
void accumulate(const ScoreTile<C>& tile, const TileSteps& steps, const TileRows<C>& rows,
                Index features, const C* weights, C* sums, LinesAhead& ahead) {
    for (const TileStep& step : steps) {
        const Index lane = step.first_register * tile.kernels.lanes;
        tile.kernels.values[step.end_register - step.first_register - 1](
            rows.data + step.keys.begin * rows.stride, rows.stride, step.keys.end - step.keys.begin,
            features, weights + step.keys.begin * tile.row + lane, sums + lane, tile.row, ahead);
    }
}

/// Room for what hide_outside tells the kernel, per query of a tile.
template <class C>
struct LaneLimits {
    C* first_key;
    C* end_key;
    C* tile_max;
};

/// Hides the keys outside each query's interval and renews the maximum.
template <class C>
void hide_outside(const ScoreTile<C>& tile, const TileRanges& ranges, const LaneLimits<C>& limits) {
    for (Index i = 0; i < tile.row; ++i) {
        const KeyRange range = ranges.of(i);
        const auto place = [&](Index key) {
            return static_cast<C>(std::clamp<Index>(key - tile.first.k, 0, tile.keys));
        };
        limits.first_key[i] = place(range.begin);
        limits.end_key[i] = place(range.end);
    }
    tile.kernels.hide_outside[tile.row / tile.kernels.lanes - 1](
        tile.scores, tile.keys, limits.first_key, limits.end_key, limits.tile_max);
}

/// Applies active dropout to weights in the layout of the tile; `heads` is that of q.
template <class C>
void drop(const ScoreTile<C>& tile, Index heads, const DropoutRule& rule, C* weights) {
    tile.kernels.drop(weights, tile.row, tile.keys,
                      rule.tile(static_cast<std::uint32_t>(tile.first.b * heads + tile.first.h),
                                static_cast<std::uint32_t>(tile.first.q),
                                static_cast<std::uint64_t>(tile.first.k)),
                      static_cast<C>(rule.scale()));
}

}  // namespace heed::inline v0::detail
