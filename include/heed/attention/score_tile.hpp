#pragma once
// What does a rule see of the tile that is being computed?
// A view of scores in the fused kernel's layout, the caller's tensors cut to it, and the loops for
// rules that know single scores only.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "heed/attention/geometry.hpp"
#include "heed/attention/tiling.hpp"
#include "heed/ops/tile_rows.hpp"

namespace heed::inline v0::detail {

/// How much of a tile some rule shows.
enum class Coverage { none, some, all };

[[nodiscard]] inline Coverage intersect(Coverage a, Coverage b) {
    return std::min(a, b);
}

/// Scores of neighbouring queries and keys: scores[j * row + i] belongs to query first.q + i and
/// key first.k + j. Lanes from `queries` on belong to nobody and may hold anything.
template <class C>
struct ScoreTile {
    static constexpr C hidden = -std::numeric_limits<C>::infinity();

    const TileKernels<C>& kernels;
    ScoreIndex first;
    Index queries;
    Index keys;
    C* scores;
    Index row;
    C* scratch;  ///< room for [row, keys]

    /// The tile without its last keys.
    [[nodiscard]] ScoreTile first_keys(Index count) const {
        ScoreTile part = *this;
        part.keys = std::min(keys, count);
        return part;
    }

    /// A tensor [batch, heads, q_len, kv_len] cut to [queries, keys] of this tile.
    template <class T>
    [[nodiscard]] TensorView<T, 2> part_of(TensorView<T, 4> tensor) const {
        return tensor.select(0, first.b)
            .select(0, first.h)
            .slice(0, first.q, queries)
            .slice(1, first.k, keys);
    }

    /// visit(score, at) for all scores.
    template <class Visit>
    void for_each(const Visit& visit) const {
        for (Index j = 0; j < keys; ++j) {
            ScoreIndex at{first.b, first.h, first.q, first.k + j};
            for (Index i = 0; i < queries; ++i, ++at.q) visit(scores[j * row + i], at);
        }
    }

    /// Zeros in the lanes that belong to nobody.
    void clear_dead_lanes() const {
        if (queries == row) return;
        for (Index j = 0; j < keys; ++j)
            std::fill(scores + j * row + queries, scores + (j + 1) * row, C(0));
    }

    /// scores <- edit(score, at), for scores that are not hidden.
    template <class Edit>
    void for_each_seen(const Edit& edit) const {
        for (Index j = 0; j < keys; ++j) {
            C* const place = scores + j * row;
            ScoreIndex at{first.b, first.h, first.q, first.k + j};
            for (Index i = 0; i < queries; ++i, ++at.q)
                if (place[i] != hidden) place[i] = edit(place[i], at);
        }
    }

    /// Adds bias(p - j) for queries at positions p and keys j; minus infinity hides.
    template <class Bias>
    void add_by_distance(const QueryPosition& position, const Bias& bias) const {
        if (!position.is_consecutive()) {
            for_each_seen(
                [&](C score, const ScoreIndex& at) { return score + bias(position(at) - at.k); });
            return;
        }
        const Index nearest = position(first) - first.k - (keys - 1);
        const Index count = keys - 1 + queries;
        for (Index n = 0; n < count; ++n) scratch[n] = bias(nearest + n);
        std::fill(scratch + count, scratch + keys - 1 + row, C(0));
        kernels.add_diagonals(scores, row, keys, scratch);
    }

    /// visit(distance, sum) with sums of the scores of queries at positions p and keys j by their
    /// distance p - j; a distance may come more than once. Lanes without a query must be 0.
    template <class Visit>
    void for_each_distance_sum(const QueryPosition& position, const Visit& visit) const {
        if (!position.is_consecutive()) {
            for_each([&](C score, const ScoreIndex& at) { visit(position(at) - at.k, score); });
            return;
        }
        const Index nearest = position(first) - first.k - (keys - 1);
        std::fill_n(scratch, keys - 1 + row, C(0));
        kernels.diagonal_sums(scores, row, keys, scratch);
        for (Index n = 0; n < keys - 1 + queries; ++n) visit(nearest + n, scratch[n]);
    }

    /// sums[i] += the scores of query i; lanes without a query must be 0.
    void add_query_sums(C* sums) const {
        std::array<C, key_tile> one;
        one.fill(C(1));
        std::array<C, most_tile_lanes<C>> of_query{};
        LinesAhead ahead;
        kernels.values[row / kernels.lanes - 1](one.data(), 1, keys, 1, scores, of_query.data(),
                                                row, ahead);
        for (Index i = 0; i < queries; ++i) sums[i] += of_query[static_cast<std::size_t>(i)];
    }

    /// sums[j] += the scores of key j; lanes without a query must be 0.
    void add_key_sums(C* sums) const { kernels.lane_sums(scores, row, keys, sums); }

    /// The sum of all scores; lanes without a query must be 0.
    [[nodiscard]] C sum() const {
        std::array<C, key_tile> of_key{};
        add_key_sums(of_key.data());
        C total = 0;
        for (Index j = 0; j < keys; ++j) total += of_key[static_cast<std::size_t>(j)];
        return total;
    }

    /// Adds biases [queries, keys]; minus infinity hides.
    template <class T>
    void add(TensorView<const T, 2> bias) const {
        const TileRows<C> rows(bias, scratch);
        kernels.add_bias(scores, row, rows.data, rows.stride, queries, keys);
    }
};

/// Hides the keys that a rule with single answers does not show.
template <class Rule, class C>
void hide_each(const Rule& rule, const ScoreTile<C>& tile) {
    tile.for_each_seen([&rule](C score, const ScoreIndex& at) {
        return rule.visible(at) ? score : ScoreTile<C>::hidden;
    });
}

/// One row where all rows are the same memory, else all.
template <class T>
[[nodiscard]] TensorView<const T, 2> distinct_rows(TensorView<const T, 2> rows) {
    return rows.stride(0) == 0 ? rows.slice(0, 0, 1) : rows;
}

/// What flags [queries, keys] show of a tile, one byte to a flag.
[[nodiscard]] inline Coverage coverage_of(TensorView<const std::uint8_t, 2> flags, bool visible) {
    if (!flags.has_contiguous_rows()) return Coverage::some;
    const auto keys = static_cast<std::size_t>(flags.extent(1));
    const TensorView<const std::uint8_t, 2> rows = distinct_rows(flags);
    bool any_clear = false, any_set = false;
    for (Index i = 0; i < rows.extent(0) && !(any_clear && any_set); ++i) {
        const std::uint8_t* const row = rows.row(i);
        any_clear = any_clear || std::memchr(row, 0, keys) != nullptr;
        any_set = any_set || row[0] != 0 || std::memcmp(row, row + 1, keys - 1) != 0;
    }
    if (any_clear && any_set) return Coverage::some;
    return any_set == visible ? Coverage::all : Coverage::none;
}

/// None when minus infinity hides all of a tile; biases show the rest.
template <class T>
[[nodiscard]] Coverage coverage_of(TensorView<const T, 2> bias) {
    constexpr double hidden = -std::numeric_limits<double>::infinity();
    const TensorView<const T, 2> rows = distinct_rows(bias);
    for (Index i = 0; i < rows.extent(0); ++i)
        for (Index j = 0; j < rows.extent(1); ++j)
            if (static_cast<double>(rows(i, j)) != hidden) return Coverage::all;
    return Coverage::none;
}

}  // namespace heed::inline v0::detail
