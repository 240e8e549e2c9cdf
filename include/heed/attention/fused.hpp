#pragma once
// How is attention computed without ever holding all weights?
// Walks over tiles of queries and keys with an online softmax (FlashAttention 2, arXiv 2307.08691);
// memory grows with the tile, not with the sequence. Reads q, k, v and masks, writes out and lse.

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "heed/attention/plan.hpp"
#include "heed/attention/tiling.hpp"
#include "heed/simd/dispatch.hpp"

namespace heed::inline v0 {
namespace detail {

/// Scratch of one worker: one tile of each kind, and one row for each quantity per query.
template <class C>
struct FusedScratch {
    C* queries;  ///< [head_dim][lane]
    C* scores;   ///< [key][lane], then the weights
    C* hidden;   ///< scratch of the rules, then a copy of the scores of a tile that holds poison
    C* out;      ///< [value_dim][lane]
    C* keys;     ///< [key][head_dim], when keys cannot be read in place
    C* values;   ///< [key][value_dim], when values cannot be read in place
    C* rows;     ///< [lane][value_dim], when out cannot be written in place
    C* max;      ///< per query, as all that follow
    C* sum;
    C* tile_max;
    C* factor;
    C* first_key;
    C* end_key;
    KeyRange* range;

    static constexpr Index row = max_tile_width * 64 / static_cast<Index>(sizeof(C));

    /// A multiple of a cache line, so that workers do not share one.
    static CheckedSize<> element_count(const AttentionShape& s) {
        const auto size = [](Index n) {
            return CheckedSize<>("attention_workspace_bytes", static_cast<std::uint64_t>(n));
        };
        const auto per_feature = static_cast<std::uint64_t>(row + key_tile);
        return size(s.head_dim) * per_feature +
               (size(s.value_dim) * (per_feature + static_cast<std::uint64_t>(row))).bytes() +
               static_cast<std::uint64_t>(2 * key_tile * row + 6 * row + range_elements);
    }

    FusedScratch(const AttentionShape& s, C* memory) {
        const auto take = [&memory](Index count) { return std::exchange(memory, memory + count); };
        queries = take(row * s.head_dim);
        scores = take(row * key_tile);
        hidden = take(row * key_tile);
        out = take(row * s.value_dim);
        for (C** state : {&max, &sum, &tile_max, &factor, &first_key, &end_key}) *state = take(row);
        range = reinterpret_cast<KeyRange*>(take(range_elements));
        keys = take(s.head_dim * key_tile);
        values = take(s.value_dim * key_tile);
        rows = take(s.value_dim * row);
    }

  private:
    static constexpr Index range_elements = row * static_cast<Index>(sizeof(KeyRange) / sizeof(C));
};

/// One tile of queries of one head, from scores to rows of the output.
template <class Plan, class C>
class QueryTile {
  public:
    QueryTile(const Plan& plan, const TileKernels<C>& kernels, const FusedScratch<C>& scratch,
              Index b, Index h, Index first_query, int width)
        : plan_(plan),
          kernels_(kernels),
          s_(scratch),
          at_{b, h, first_query, 0},
          queries_(std::min<Index>(width * kernels.lanes, plan.shape.q_len - first_query)),
          row_(width * kernels.lanes),
          width_(width),
          changes_scores_(plan.rules.changes_scores()),
          k_(plan.k.select(0, b).select(0, kv_head())),
          v_(plan.v.select(0, b).select(0, kv_head())),
          sink_(plan.rules.template sink<C>(at_)) {}

    void run() {
        load();
        ranges_.for_each_key_tile([this](Index first, Index count) { attend_keys(first, count); });
        store();
    }

  private:
    [[nodiscard]] Index kv_head() const {
        return at_.h / (plan_.shape.heads / plan_.shape.kv_heads);
    }

    [[nodiscard]] bool has_sink() const { return sink_ > -std::numeric_limits<C>::infinity(); }

    /// Transposes the queries onto lanes, clears the state and asks the masks which keys matter.
    void load() {
        const TensorView<const typename decltype(plan_.q)::value_type, 2> q =
            plan_.q.select(0, at_.b).select(0, at_.h);
        // The place for keys is free until the first of them; a tile has more keys than queries.
        const TileRows<C> rows(q.slice(0, at_.q, queries_), s_.keys);
        kernels_.load_queries(rows.data, rows.stride, queries_, plan_.shape.head_dim, plan_.scale,
                              s_.queries, row_);
        std::fill_n(s_.out, row_ * plan_.shape.value_dim, C(0));
        std::fill_n(s_.max, row_, sink_);
        std::fill_n(s_.sum, row_, has_sink() ? C(1) : C(0));
        ranges_ = TileRanges(plan_.rules, at_, queries_, plan_.shape.kv_len, s_.range);
    }

    void attend_keys(Index first, Index count) {
        const ScoreTile<C> tile{
            kernels_, {at_.b, at_.h, at_.q, first}, queries_, count, s_.scores, row_, s_.hidden};
        const Coverage flags = plan_.rules.coverage(tile);
        if (flags == Coverage::none) return;
        const TileRows<C> k(k_.slice(0, first, count), s_.keys);
        const TileRows<C> v(v_.slice(0, first, count), s_.values);
        const bool in_range = ranges_.all_see(first, count);
        ranges_.find_steps(first, count, kernels_.lanes, width_, steps_);
        for (const TileStep& step : steps_) compute_scores(k, step);
        edit_scores(tile, in_range, flags);

        const bool all_seen = in_range && flags == Coverage::all && !changes_scores_;
        const bool poison = (!all_seen || plan_.dropout.active()) &&
                            !kernels_.all_finite(v.data, v.stride, count, plan_.shape.value_dim);
        if (poison) std::copy_n(s_.scores, count * row_, s_.hidden);
        const int w = width_ - 1;
        // Before the first keys there is nothing to rescale but the exponential of a sink.
        if (kernels_.raise_max[w](s_.tile_max, s_.max, s_.factor) &&
            (first > ranges_.some().begin || has_sink())) {
            kernels_.rescale[w](s_.sum, 1, s_.factor);
            kernels_.rescale[w](s_.out, plan_.shape.value_dim, s_.factor);
        }
        kernels_.exponentiate[w](s_.scores, count, s_.max, s_.sum);
        if (plan_.dropout.active()) drop_weights(first, count);
        if (poison)
            accumulate_poisoned(v, first, count);
        else
            for (const TileStep& step : steps_) accumulate_values(v.data, v.stride, step);
    }

    void compute_scores(const TileRows<C>& k, const TileStep& step) {
        const Index lane = step.first_register * kernels_.lanes;
        kernels_.scores[step.end_register - step.first_register - 1](
            k.data + step.keys.begin * k.stride, k.stride, step.keys.end - step.keys.begin,
            plan_.shape.head_dim, s_.queries + lane, s_.scores + step.keys.begin * row_ + lane,
            row_, s_.tile_max + lane);
    }

    void accumulate_values(const C* v, Index stride, const TileStep& step) {
        const Index lane = step.first_register * kernels_.lanes;
        kernels_.values[step.end_register - step.first_register - 1](
            v + step.keys.begin * stride, stride, step.keys.end - step.keys.begin,
            plan_.shape.value_dim, s_.scores + step.keys.begin * row_ + lane, s_.out + lane, row_);
    }

    /// Applies what changes or hides scores, stage by stage, and renews the maximum.
    void edit_scores(const ScoreTile<C>& tile, bool in_range, Coverage flags) {
        if (changes_scores_) plan_.rules.cap_tile(tile);
        if (!in_range) hide_keys(tile.first.k, tile.keys);
        if (flags == Coverage::some) plan_.rules.hide_tile(tile);
        if (changes_scores_) plan_.rules.modify_tile(tile);
        if (changes_scores_ || flags == Coverage::some)
            kernels_.row_max[width_ - 1](s_.scores, tile.keys, s_.tile_max);
    }

    /// Hides the keys outside each query's interval and renews the maximum.
    void hide_keys(Index first, Index count) {
        for (Index i = 0; i < row_; ++i) {
            const KeyRange range = ranges_.of(i);
            s_.first_key[i] = static_cast<C>(std::clamp<Index>(range.begin - first, 0, count));
            s_.end_key[i] = static_cast<C>(std::clamp<Index>(range.end - first, 0, count));
        }
        kernels_.hide_outside[width_ - 1](s_.scores, count, s_.first_key, s_.end_key, s_.tile_max);
    }

    [[nodiscard]] std::uint32_t head() const {
        return static_cast<std::uint32_t>(at_.b * plan_.shape.heads + at_.h);
    }

    [[nodiscard]] bool is_kept(Index i, Index key) const {
        return plan_.dropout.keeps(head(), static_cast<std::uint32_t>(at_.q + i),
                                   static_cast<std::uint64_t>(key));
    }

    void drop_weights(Index first, Index count) {
        kernels_.drop(s_.scores, row_, count,
                      plan_.dropout.tile(head(), static_cast<std::uint32_t>(at_.q),
                                         static_cast<std::uint64_t>(first)),
                      static_cast<C>(plan_.dropout.scale()));
    }

    /// Values that hold NaN or infinity where a query must not see them: the product runs over a
    /// copy with zeros in their place (same bits as with any finite number there), and each such
    /// element is then added for the queries that do see it.
    void accumulate_poisoned(const TileRows<C>& v, Index first, Index count) {
        const Index features = plan_.shape.value_dim;
        for (Index j = 0; j < count; ++j)
            for (Index c = 0; c < features; ++c) {
                const C value = v.data[j * v.stride + c];
                s_.values[j * features + c] = std::isfinite(value) ? value : C(0);
            }
        for (const TileStep& step : steps_) accumulate_values(s_.values, features, step);
        const auto all = v_;
        for (Index j = 0; j < count; ++j)
            for (Index c = 0; c < features; ++c) {
                const C value = static_cast<C>(all(first + j, c));
                if (!std::isfinite(value)) add_poison(value, first, j, s_.out + c * row_);
            }
    }

    void add_poison(C value, Index first, Index j, C* out) {
        for (Index i = 0; i < queries_; ++i) {
            if (s_.hidden[j * row_ + i] == -std::numeric_limits<C>::infinity()) continue;
            if (plan_.dropout.active() && !is_kept(i, first + j)) continue;
            out[i] += s_.scores[j * row_ + i] * value;
        }
    }

    /// Divides by the sums and writes the rows of the output and the log-sum-exp.
    void store() {
        using T = typename decltype(plan_.out)::value_type;
        const TensorView<T, 2> out =
            plan_.out.select(0, at_.b).select(0, at_.h).slice(0, at_.q, queries_);
        const Index features = plan_.shape.value_dim;
        bool in_place = false;
        if constexpr (std::is_same_v<T, C>) in_place = out.has_contiguous_rows();
        if (in_place) {
            if constexpr (std::is_same_v<T, C>)
                kernels_.finish(s_.out, row_, features, queries_, s_.sum, out.data(),
                                out.stride(0));
        } else {
            kernels_.finish(s_.out, row_, features, queries_, s_.sum, s_.rows, features);
            copy(TensorView<const C, 2>(s_.rows, Shape<2>(queries_, features)), out);
        }
        if (!is_wanted(plan_.options.lse)) return;
        // Without a visible key, -inf + log(0) is -inf; with nothing but NaN, -inf + NaN is NaN.
        constexpr C infinity = std::numeric_limits<C>::infinity();
        for (Index i = 0; i < queries_; ++i)
            plan_.options.lse(at_.b, at_.h, at_.q + i) =
                s_.max[i] == infinity ? infinity : s_.max[i] + std::log(s_.sum[i]);
    }

    const Plan& plan_;
    const TileKernels<C>& kernels_;
    const FusedScratch<C>& s_;
    ScoreIndex at_;  ///< the first query
    Index queries_;
    Index row_;
    int width_;
    bool changes_scores_;
    TensorView<const typename decltype(Plan::k)::value_type, 2> k_;
    TensorView<const typename decltype(Plan::v)::value_type, 2> v_;
    C sink_;             ///< a score without a value that each query has seen before all keys
    TileRanges ranges_;  ///< which keys the queries see
    TileSteps steps_;    ///< of the key tile at work
};

/// One worker is worth waking for this many multiply-adds, a few tens of microseconds.
inline constexpr double least_work_per_worker = 1e6;

/// Workers that a problem deserves: none but the caller for small ones, else all there are.
[[nodiscard]] inline int useful_workers(const AttentionShape& s, int concurrency) {
    const double work = static_cast<double>(s.batch) * static_cast<double>(s.heads) *
                        static_cast<double>(s.q_len) * static_cast<double>(s.kv_len) *
                        (static_cast<double>(s.head_dim) + static_cast<double>(s.value_dim));
    return work < 2 * least_work_per_worker ? 1 : concurrency;
}

/// Attention tile by tile, the tiles shared out among the workers. `memory` holds
/// FusedScratch::element_count elements for each worker.
/// Cost: 2 * (head_dim + value_dim) operations for each pair of query and key in a tile that is
/// not empty.
template <class Plan, class C>
void fused_attention(const Plan& plan, const ExecutorRef& executor, C* memory) {
    const AttentionShape& s = plan.shape;
    const TileKernels<C>& kernels = tile_kernels<C>();
    const Index per_worker = FusedScratch<C>::element_count(s).index();
    const QueryTiling tiling(s.q_len, kernels.lanes);
    const auto run = [&](Index index, int worker) {
        const FusedScratch<C> scratch(s, memory + worker * per_worker);
        // Last tiles first: under a causal mask they are the longest.
        const Index tile = tiling.count() - 1 - index % tiling.count();
        const Index head = index / tiling.count();
        QueryTile<Plan, C>(plan, kernels, scratch, head / s.heads, head % s.heads,
                           tiling.begin(tile), tiling.width(tile))
            .run();
    };
    executor.parallel_for(s.batch * s.heads * tiling.count(), run);
}

}  // namespace detail
}  // namespace heed::inline v0
