#pragma once
// What does a tile of queries add to the gradients of a tile of keys, and to its own?
// Recomputes the weights of the pair of tiles from the saved log-sum-exp and goes back through them
// to dk, dv, dq and the gradients of rules; writes the rows of dk and dv at the end.

#include <algorithm>
#include <array>
#include <cmath>

#include "heed/attention/backward_queries.hpp"
#include "heed/attention/compose.hpp"
#include "heed/attention/rule_gradients.hpp"
#include "heed/attention/tile_pair.hpp"

namespace heed::inline v0::detail {

/// A tile of keys and values of one head, with the sums of its gradients.
template <class Plan, class C>
class KeySide {
  public:
    using Rules = decltype(Plan::rules);
    using OfRules = RuleGradients<Rules, C>;

    /// `kv_head` is that of all batch elements.
    KeySide(const Plan& plan, const TileKernels<C>& kernels, const BackwardScratch<C>& scratch,
            const OfRules& rule_gradients, const typename OfRules::Share& share, Index kv_head,
            const KeyRange& keys)
        : plan_(plan),
          kernels_(kernels),
          s_(scratch),
          rule_gradients_(rule_gradients),
          rules_want_gradients_(rule_gradients.are_wanted()),
          share_(share),
          slopes_{scratch.slopes, key_tile * BackwardScratch<C>::row, rule_gradients.slope_tiles()},
          b_(kv_head / plan.shape.kv_heads),
          kv_head_(kv_head % plan.shape.kv_heads),
          keys_(keys),
          k_(rows_of(plan.k), scratch.keys),
          v_(rows_of(plan.v), scratch.values),
          finite_k_(k_),
          key_features_(plan.shape.head_dim, kernels.lanes),
          value_features_(plan.shape.value_dim, kernels.lanes) {
        std::fill_n(s_.dk, size() * padded<C>(plan.shape.head_dim), C(0));
        std::fill_n(s_.dv, size() * padded<C>(plan.shape.value_dim), C(0));
        // A key that a query does not see must not reach its gradient: 0 * NaN would be NaN. One
        // that it sees has made the gradient of the score NaN.
        if (is_wanted(plan.dq))
            (void)take_poison_out(kernels, finite_k_, size(), plan.shape.head_dim, s_.finite_keys,
                                  plan.shape.head_dim);
    }

    /// What a pair of tiles, of which some query sees some key as far as intervals tell, adds to
    /// the gradients of keys and values, and to `dq`.
    void add_queries(const ScoreIndex& first_query, int width, const BackwardQueries<C>& queries,
                     C* dq) {
        const auto [first, end] = queries.ranges->some().intersect(keys_);
        const Index row = width * kernels_.lanes;
        const Index count = std::min(row, plan_.shape.q_len - first_query.q);
        Pair pair{queries,
                  {kernels_,
                   {first_query.b, first_query.h, first_query.q, first},
                   count,
                   end - first,
                   s_.scores,
                   row,
                   s_.dropped},
                  width,
                  {}};
        const Coverage flags = plan_.rules.coverage(pair.tile);
        if (flags == Coverage::none) return;
        queries.ranges->find_steps(first, end - first, kernels_.lanes, width, pair.steps);
        make_weights(pair, flags);
        if (is_wanted(plan_.dv)) add_dv(pair);
        if (!is_wanted(plan_.dq) && !is_wanted(plan_.dk) && !rules_want_gradients_) return;
        make_score_gradients(pair);
        if (is_wanted(plan_.dk)) add_dk(pair);
        if (is_wanted(plan_.dq)) add_dq(pair, dq);
    }

    void store() const {
        const Index stride = padded<C>(plan_.shape.head_dim);
        if (is_wanted(plan_.dk)) {
            std::array<C, most_lanes<C>> factor;
            factor.fill(plan_.scale);
            kernels_.rescale[0](s_.dk, size() * stride / kernels_.lanes, factor.data());
            store_rows(s_.dk, stride, plan_.dk);
        }
        if (is_wanted(plan_.dv)) store_rows(s_.dv, padded<C>(plan_.shape.value_dim), plan_.dv);
    }

  private:
    /// A tile of queries beside this tile of keys.
    struct Pair {
        const BackwardQueries<C>& queries;
        ScoreTile<C> tile;
        int width;
        TileSteps steps;
    };

    [[nodiscard]] Index size() const { return keys_.end - keys_.begin; }

    template <class T>
    [[nodiscard]] TensorView<T, 2> rows_of(TensorView<T, 4> tensor) const {
        return tensor.select(0, b_).select(0, kv_head_).slice(0, keys_.begin, size());
    }

    /// From the tile's first key on.
    [[nodiscard]] TileRows<C> from(const Pair& pair, const TileRows<C>& rows) const {
        return rows.from(pair.tile.first.k - keys_.begin);
    }

    /// The weights before dropout, by the saved log-sum-exp; exactly 0 where a key is not seen.
    void make_weights(const Pair& pair, Coverage flags) const {
        const ScoreTile<C>& tile = pair.tile;
        LinesAhead ahead;
        multiply(tile, pair.steps, from(pair, k_), plan_.shape.head_dim, pair.queries.queries,
                 s_.scores, s_.tile_max, ahead);
        const bool changes_scores = plan_.rules.changes_scores();
        if (has_slopes)
            for (int stage = 0; stage < slopes_.count; ++stage)
                std::fill_n(slopes_[stage], tile.keys * tile.row, C(1));
        if (changes_scores) cap(tile);
        if (!pair.queries.ranges->all_see(tile.first.k, tile.keys))
            hide_outside(tile, *pair.queries.ranges,
                         LaneLimits<C>{s_.first_key, s_.end_key, s_.tile_max});
        if (flags == Coverage::some) plan_.rules.hide_tile(tile);
        if (changes_scores) modify(tile);
        kernels_.weights[pair.width - 1](s_.scores, tile.keys, pair.queries.lse);
        if (!plan_.dropout.active()) return;
        std::copy_n(s_.scores, tile.keys * tile.row, s_.dropped);
        drop(tile, plan_.shape.heads, plan_.dropout, s_.dropped);
    }

    void cap(const ScoreTile<C>& tile) const {
        if constexpr (has_slopes)
            plan_.rules.cap_tile(tile, slopes_);
        else
            plan_.rules.cap_tile(tile);
    }
    void modify(const ScoreTile<C>& tile) const {
        if constexpr (has_slopes)
            plan_.rules.modify_tile(tile, slopes_);
        else
            plan_.rules.modify_tile(tile);
    }

    [[nodiscard]] const C* dropped() const {
        return plan_.dropout.active() ? s_.dropped : s_.scores;
    }

    /// From the gradients of the weights to those of the products, exactly 0 where a weight is,
    /// with what the rules between them take for themselves.
    void make_score_gradients(const Pair& pair) const {
        LinesAhead ahead;
        multiply(pair.tile, pair.steps, from(pair, v_), plan_.shape.value_dim, pair.queries.d_out,
                 s_.gradients, s_.tile_max, ahead);
        kernels_.score_gradients[pair.width - 1](
            s_.scores, dropped(), s_.gradients, pair.tile.keys, pair.queries.delta,
            has_slopes && !rules_want_gradients_ ? slopes_[0] : nullptr);
        if (!rules_want_gradients_) return;
        ScoreTile<C> gradients = pair.tile;
        gradients.scores = s_.gradients;
        gradients.clear_dead_lanes();
        plan_.rules.go_back(gradients, s_.scores, slopes_,
                            [&](std::size_t index, const auto& rule, const ScoreTile<C>& tile) {
                                rule_gradients_.add(index, rule, tile, share_);
                            });
    }

    void add_dv(const Pair& pair) const {
        add_rows(pair, dropped(), pair.queries.d_out_rows, value_features_, s_.dv,
                 padded<C>(plan_.shape.value_dim));
        if (*pair.queries.d_out_poison) add_poison(pair);
    }

    void add_dk(const Pair& pair) const {
        add_rows(pair, s_.gradients, pair.queries.query_rows, key_features_, s_.dk,
                 padded<C>(plan_.shape.head_dim));
    }

    /// sums[key] += sum over queries of weights[key][query] * rows[query].
    void add_rows(const Pair& pair, const C* weights, const C* rows, const LaneTiling& features,
                  C* sums, Index stride) const {
        LinesAhead ahead;
        const ScoreTile<C>& tile = pair.tile;
        C* const first = sums + (tile.first.k - keys_.begin) * stride;
        for (const TileStep& step : pair.steps) {
            const Index lane = step.first_register * kernels_.lanes;
            const Index count =
                std::min<Index>(step.end_register * kernels_.lanes, tile.queries) - lane;
            for (Index block = 0; block < features.count(); ++block) {
                const Index column = features.begin(block);
                kernels_.weighted_sums[features.width(block) - 1](
                    weights + step.keys.begin * tile.row + lane, tile.row,
                    step.keys.end - step.keys.begin, rows + lane * stride + column, stride, count,
                    first + step.keys.begin * stride + column, stride, ahead);
            }
        }
    }

    /// Adds the gradients of out that were taken out, for the keys that their queries see.
    void add_poison(const Pair& pair) const {
        const ScoreTile<C>& tile = pair.tile;
        for (Index i = 0; i < tile.queries; ++i)
            for (Index c = 0; c < plan_.shape.value_dim; ++c) {
                const C x =
                    static_cast<C>(plan_.d_out(tile.first.b, tile.first.h, tile.first.q + i, c));
                if (!std::isfinite(x)) add_poison(pair, i, c, x);
            }
    }
    void add_poison(const Pair& pair, Index i, Index c, C d_out) const {
        const Index first = pair.tile.first.k - keys_.begin;
        for (Index j = 0; j < pair.tile.keys; ++j) {
            const C weight = dropped()[j * pair.tile.row + i];
            if (weight != C(0))
                s_.dv[(first + j) * padded<C>(plan_.shape.value_dim) + c] += weight * d_out;
        }
    }

    void add_dq(const Pair& pair, C* dq) const {
        LinesAhead ahead;
        accumulate(pair.tile, pair.steps, from(pair, finite_k_), plan_.shape.head_dim, s_.gradients,
                   dq + pair.queries.first_dq, ahead);
    }

    template <class T>
    void store_rows(const C* rows, Index stride, TensorView<T, 4> gradient) const {
        const TensorView<T, 2> to = rows_of(gradient);
        copy(TensorView<const C, 2>(rows, to.shape(), {stride, 1}), to);
    }

    static constexpr bool has_slopes = Rules::has_slopes();

    const Plan& plan_;
    const TileKernels<C>& kernels_;
    const BackwardScratch<C>& s_;
    const OfRules& rule_gradients_;
    bool rules_want_gradients_;
    typename OfRules::Share share_;
    SlopeTiles<C> slopes_;
    Index b_;
    Index kv_head_;
    KeyRange keys_;
    TileRows<C> k_;
    TileRows<C> v_;
    TileRows<C> finite_k_;
    LaneTiling key_features_;
    LaneTiling value_features_;
};

}  // namespace heed::inline v0::detail
