#pragma once
// How does one tile of queries pass over the keys?
// The online softmax (FlashAttention 2, arXiv 2307.08691) of some queries of one head: its state,
// one step for each tile of keys, and the rows of the output at the end.

#include <algorithm>
#include <cmath>
#include <limits>

#include "heed/attention/key_tile.hpp"
#include "heed/attention/plan.hpp"
#include "heed/attention/tile_pair.hpp"

namespace heed::inline v0::detail {

/// One tile of queries of one head, from scores to rows of the output.
template <class Plan, class C>
class QueryTile {
  public:
    using Keys = KeyTile<Plan, C>;

    /// `end` is the end of the sequence of queries that the tile belongs to.
    QueryTile(const Plan& plan, const TileKernels<C>& kernels, const FusedScratch<C>& scratch,
              const QueryTileScratch<C>& own, const ScoreIndex& first, Index end, int width)
        : plan_(plan),
          kernels_(kernels),
          s_(scratch),
          own_(own),
          at_(first),
          queries_(std::min<Index>(width * kernels.lanes, end - first.q)),
          row_(width * kernels.lanes),
          width_(width),
          changes_scores_(plan.rules.changes_scores()),
          sink_(plan.rules.template sink<C>(at_)) {}

    /// Beyond it no query sees a key, as far as intervals tell.
    [[nodiscard]] const KeyRange& some() const { return ranges_.some(); }

    /// Transposes the queries onto lanes, clears the state and asks the masks which keys matter.
    void load() {
        const TensorView<const typename decltype(plan_.q)::value_type, 2> q =
            plan_.q.select(0, at_.b).select(0, at_.h);
        // The place for keys is free until the first of them, and a tile has more keys than
        // queries.
        const TileRows<C> rows(q.slice(0, at_.q, queries_), s_.keys);
        kernels_.load_queries(rows.data, rows.stride, queries_, plan_.shape.head_dim, plan_.scale,
                              own_.queries, row_);
        std::fill_n(own_.out, row_ * plan_.shape.value_dim, C(0));
        std::fill_n(own_.max, row_, sink_);
        std::fill_n(own_.sum, row_, has_sink() ? C(1) : C(0));
        ranges_ = TileRanges(plan_.rules, at_, queries_, plan_.shape.kv_len, own_.range);
    }

    /// One step of the online softmax, over the keys of a tile that some query may see.
    void attend(Keys& tile_of_keys, LinesAhead& ahead) {
        const auto [first, end] = some().intersect(tile_of_keys.keys());
        if (first >= end) return;
        const Index count = end - first;
        const ScoreTile<C> tile{
            kernels_, {at_.b, at_.h, at_.q, first}, queries_, count, s_.scores, row_, s_.hidden};
        const Coverage flags = plan_.rules.coverage(tile);
        if (flags == Coverage::none) return;
        const bool in_range = ranges_.all_see(first, count);
        ranges_.find_steps(first, count, kernels_.lanes, width_, steps_);
        const TileRows<C> k = tile_of_keys.keys_from(first);
        multiply(tile, steps_, k, plan_.shape.head_dim, own_.queries, s_.scores, s_.tile_max,
                 ahead);
        edit_scores(tile, in_range, flags);

        // Where every query sees every key, poison is theirs, and the product spreads it.
        const bool all_seen =
            in_range && flags == Coverage::all && !changes_scores_ && !plan_.dropout.active();
        const bool poison =
            all_seen ? tile_of_keys.poison_is_out() : tile_of_keys.take_poison_out();
        if (poison) std::copy_n(s_.scores, count * row_, s_.hidden);
        const int w = width_ - 1;
        // Before the first keys there is nothing to rescale but the exponential of a sink.
        if (kernels_.raise_max[w](s_.tile_max, own_.max, s_.factor) &&
            (first > some().begin || has_sink())) {
            kernels_.rescale[w](own_.sum, 1, s_.factor);
            kernels_.rescale[w](own_.out, plan_.shape.value_dim, s_.factor);
        }
        kernels_.exponentiate[w](s_.scores, count, own_.max, own_.sum);
        if (plan_.dropout.active()) drop(tile, plan_.shape.heads, plan_.dropout, s_.scores);
        const TileRows<C> v = tile_of_keys.values_from(first);
        accumulate(tile, steps_, v, plan_.shape.value_dim, s_.scores, own_.out, ahead);
        if (poison) add_poison(tile_of_keys, first, count);
    }

    /// Divides by the sums and writes the rows of the output and the log-sum-exp.
    void store() {
        store_lanes(kernels_, own_.out, row_, own_.sum,
                    plan_.out.select(0, at_.b).select(0, at_.h).slice(0, at_.q, queries_), s_.rows);
        if (!is_wanted(plan_.options.lse)) return;
        // Without a visible key, -inf + log(0) is -inf; with nothing but NaN, -inf + NaN is NaN.
        constexpr C infinity = std::numeric_limits<C>::infinity();
        for (Index i = 0; i < queries_; ++i)
            plan_.options.lse(at_.b, at_.h, at_.q + i) =
                own_.max[i] == infinity ? infinity : own_.max[i] + std::log(own_.sum[i]);
    }

  private:
    [[nodiscard]] bool has_sink() const { return sink_ > -std::numeric_limits<C>::infinity(); }

    /// Applies what changes or hides scores, stage by stage, and renews the maximum.
    void edit_scores(const ScoreTile<C>& tile, bool in_range, Coverage flags) {
        if (changes_scores_) plan_.rules.cap_tile(tile);
        if (!in_range)
            hide_outside(tile, ranges_, LaneLimits<C>{s_.first_key, s_.end_key, s_.tile_max});
        if (flags == Coverage::some) plan_.rules.hide_tile(tile);
        if (changes_scores_) plan_.rules.modify_tile(tile);
        if (changes_scores_ || flags == Coverage::some)
            kernels_.row_max[width_ - 1](s_.scores, tile.keys, s_.tile_max);
    }

    [[nodiscard]] bool is_kept(Index i, Index key) const {
        return plan_.dropout.keeps(static_cast<std::uint32_t>(at_.b * plan_.shape.heads + at_.h),
                                   static_cast<std::uint32_t>(at_.q + i),
                                   static_cast<std::uint64_t>(key));
    }

    /// Adds the values that were taken out, for the queries that see them: a query that must not
    /// keeps the bits that it has with any finite number there.
    void add_poison(const Keys& keys, Index first, Index count) {
        for (Index j = 0; j < count; ++j)
            for (Index c = 0; c < plan_.shape.value_dim; ++c) {
                const C value = keys.value(first + j, c);
                if (!std::isfinite(value)) add_poison(value, first, j, own_.out + c * row_);
            }
    }

    void add_poison(C value, Index first, Index j, C* out) {
        for (Index i = 0; i < queries_; ++i) {
            if (s_.hidden[j * row_ + i] == -std::numeric_limits<C>::infinity()) continue;
            if (plan_.dropout.active() && !is_kept(i, first + j)) continue;
            out[i] += s_.scores[j * row_ + i] * value;
        }
    }

    const Plan& plan_;
    const TileKernels<C>& kernels_;
    const FusedScratch<C>& s_;
    QueryTileScratch<C> own_;
    ScoreIndex at_;  ///< the first query
    Index queries_;
    Index row_;
    int width_;
    bool changes_scores_;
    C sink_;             ///< a score without a value that each query has seen before all keys
    TileRanges ranges_;  ///< which keys the queries see
    TileSteps steps_;    ///< of the key tile at work
};

}  // namespace heed::inline v0::detail
