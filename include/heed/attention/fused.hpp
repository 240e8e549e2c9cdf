#pragma once
// How is attention computed without ever holding all weights?
// Walks over tiles of queries and keys with an online softmax (FlashAttention 2, arXiv 2307.08691);
// memory grows with the tile, not with the sequence. Reads q, k, v and masks, writes out and lse.

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <utility>

#include "heed/attention/plan.hpp"
#include "heed/attention/tiling.hpp"
#include "heed/simd/dispatch.hpp"

namespace heed::inline v0 {
namespace detail {

/// Queries that pass over the keys together, so that a tile of keys that is far away or must be
/// widened is fetched once for all of them.
template <class C>
inline constexpr Index group_queries = 768 / static_cast<Index>(sizeof(C));

/// The part of the scratch that belongs to one tile of queries.
template <class C>
struct QueryTileScratch {
    C* queries;  ///< [head_dim][lane]
    C* out;      ///< [value_dim][lane]
    C* max;      ///< per query, as all that follow
    C* sum;
    KeyRange* range;
};

/// Scratch of one worker: the tiles of a group of queries, and what they use one after another.
template <class C>
struct FusedScratch {
    C* scores;    ///< [key][lane], then the weights
    C* hidden;    ///< scratch of the rules, then a copy of the scores of a tile that holds poison
    C* keys;      ///< [key][head_dim], when keys cannot be read in place
    C* values;    ///< [key][value_dim], when values cannot be read in place or hold poison
    C* rows;      ///< [lane][value_dim], when out cannot be written in place
    C* tile_max;  ///< per query of a tile, as all that follow
    C* factor;
    C* first_key;
    C* end_key;

    static constexpr Index row = max_tile_width * 64 / static_cast<Index>(sizeof(C));

    /// A multiple of a cache line, so that workers do not share one.
    static CheckedSize<> element_count(const AttentionShape& s) {
        const auto size = [](Index n) {
            return CheckedSize<>("attention_workspace_bytes", static_cast<std::uint64_t>(n));
        };
        const auto unsigned_of = [](Index n) { return static_cast<std::uint64_t>(n); };
        return size(s.head_dim) * unsigned_of(group_queries<C> + key_tile) +
               (size(s.value_dim) * unsigned_of(group_queries<C> + key_tile + row)).bytes() +
               unsigned_of(2 * key_tile * row + 4 * row + group_queries<C> * (2 + range_elements));
    }

    FusedScratch(const AttentionShape& s, C* memory) : head_dim_(s.head_dim) {
        const auto take = [&memory](Index count) { return std::exchange(memory, memory + count); };
        scores = take(row * key_tile);
        hidden = take(row * key_tile);
        for (C** state : {&tile_max, &factor, &first_key, &end_key}) *state = take(row);
        keys = take(s.head_dim * key_tile);
        values = take(s.value_dim * key_tile);
        rows = take(s.value_dim * row);
        group_ = {take(group_queries<C> * s.head_dim), take(group_queries<C> * s.value_dim),
                  take(group_queries<C>), take(group_queries<C>),
                  reinterpret_cast<KeyRange*>(take(group_queries<C> * range_elements))};
        value_dim_ = s.value_dim;
    }

    /// The scratch of a tile before which the group has so many lanes.
    [[nodiscard]] QueryTileScratch<C> tile(Index lane) const {
        return {group_.queries + lane * head_dim_, group_.out + lane * value_dim_,
                group_.max + lane, group_.sum + lane, group_.range + lane};
    }

  private:
    static constexpr Index range_elements = static_cast<Index>(sizeof(KeyRange) / sizeof(C));

    QueryTileScratch<C> group_;
    Index head_dim_;
    Index value_dim_;
};

/// A tile of keys and values of one head, ready for the kernels.
template <class Plan, class C>
class KeyTile {
  public:
    using Key = typename decltype(Plan::k)::value_type;
    using Value = typename decltype(Plan::v)::value_type;

    KeyTile(const TileKernels<C>& kernels, TensorView<const Key, 2> k, TensorView<const Value, 2> v,
            KeyRange keys, const FusedScratch<C>& scratch)
        : kernels_(kernels),
          scratch_(scratch),
          all_values_(v),
          keys_(keys),
          k_(k.slice(0, keys.begin, size()), scratch.keys),
          v_(v.slice(0, keys.begin, size()), scratch.values) {}

    [[nodiscard]] KeyRange keys() const { return keys_; }
    [[nodiscard]] TileRows<C> keys_from(Index key) const { return k_.from(key - keys_.begin); }
    [[nodiscard]] TileRows<C> values_from(Index key) const { return v_.from(key - keys_.begin); }

    /// A value as the caller has it.
    [[nodiscard]] C value(Index key, Index feature) const {
        return static_cast<C>(all_values_(key, feature));
    }

    /// Whether some value is NaN or infinite. Once asked, the values for the kernels have zeros in
    /// their place, in a copy: whoever sees such a value must add it.
    [[nodiscard]] bool take_poison_out() {
        if (poison_ == Poison::unknown) {
            const bool none =
                kernels_.all_finite(v_.data, v_.stride, size(), all_values_.extent(1));
            poison_ = none ? Poison::none : Poison::out;
            if (!none) copy_finite_values();
        }
        return poison_is_out();
    }
    [[nodiscard]] bool poison_is_out() const { return poison_ == Poison::out; }

  private:
    [[nodiscard]] Index size() const { return keys_.end - keys_.begin; }

    void copy_finite_values() {
        const Index features = all_values_.extent(1);
        for (Index j = 0; j < size(); ++j)
            for (Index c = 0; c < features; ++c) {
                const C value = v_.data[j * v_.stride + c];
                scratch_.values[j * features + c] = std::isfinite(value) ? value : C(0);
            }
        v_ = {scratch_.values, features};
    }

    const TileKernels<C>& kernels_;
    const FusedScratch<C>& scratch_;
    TensorView<const Value, 2> all_values_;
    KeyRange keys_;
    TileRows<C> k_;
    TileRows<C> v_;
    enum class Poison { unknown, none, out } poison_ = Poison::unknown;
};

/// One tile of queries of one head, from scores to rows of the output.
template <class Plan, class C>
class QueryTile {
  public:
    using Keys = KeyTile<Plan, C>;

    QueryTile(const Plan& plan, const TileKernels<C>& kernels, const FusedScratch<C>& scratch,
              const QueryTileScratch<C>& own, const ScoreIndex& first, int width)
        : plan_(plan),
          kernels_(kernels),
          s_(scratch),
          own_(own),
          at_(first),
          queries_(std::min<Index>(width * kernels.lanes, plan.shape.q_len - first.q)),
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
        for (const TileStep& step : steps_) compute_scores(k, step, ahead);
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
        if (plan_.dropout.active()) drop_weights(first, count);
        const TileRows<C> v = tile_of_keys.values_from(first);
        for (const TileStep& step : steps_) accumulate_values(v, step, ahead);
        if (poison) add_poison(tile_of_keys, first, count);
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
                kernels_.finish(own_.out, row_, features, queries_, own_.sum, out.data(),
                                out.stride(0));
        } else {
            kernels_.finish(own_.out, row_, features, queries_, own_.sum, s_.rows, features);
            copy(TensorView<const C, 2>(s_.rows, Shape<2>(queries_, features)), out);
        }
        if (!is_wanted(plan_.options.lse)) return;
        // Without a visible key, -inf + log(0) is -inf; with nothing but NaN, -inf + NaN is NaN.
        constexpr C infinity = std::numeric_limits<C>::infinity();
        for (Index i = 0; i < queries_; ++i)
            plan_.options.lse(at_.b, at_.h, at_.q + i) =
                own_.max[i] == infinity ? infinity : own_.max[i] + std::log(own_.sum[i]);
    }

  private:
    [[nodiscard]] bool has_sink() const { return sink_ > -std::numeric_limits<C>::infinity(); }

    void compute_scores(const TileRows<C>& k, const TileStep& step, LinesAhead& ahead) {
        const Index lane = step.first_register * kernels_.lanes;
        kernels_.scores[step.end_register - step.first_register - 1](
            k.data + step.keys.begin * k.stride, k.stride, step.keys.end - step.keys.begin,
            plan_.shape.head_dim, own_.queries + lane, s_.scores + step.keys.begin * row_ + lane,
            row_, s_.tile_max + lane, ahead);
    }

    void accumulate_values(const TileRows<C>& v, const TileStep& step, LinesAhead& ahead) {
        const Index lane = step.first_register * kernels_.lanes;
        kernels_.values[step.end_register - step.first_register - 1](
            v.data + step.keys.begin * v.stride, v.stride, step.keys.end - step.keys.begin,
            plan_.shape.value_dim, s_.scores + step.keys.begin * row_ + lane, own_.out + lane, row_,
            ahead);
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

/// One worker is worth waking for this many multiply-adds, a few tens of microseconds.
inline constexpr double least_work_per_worker = 1e6;

/// Workers that a problem deserves: none but the caller for small ones, else all there are.
[[nodiscard]] inline int useful_workers(const AttentionShape& s, int concurrency) {
    const double work = static_cast<double>(s.batch) * static_cast<double>(s.heads) *
                        static_cast<double>(s.q_len) * static_cast<double>(s.kv_len) *
                        (static_cast<double>(s.head_dim) + static_cast<double>(s.value_dim));
    return work < 2 * least_work_per_worker ? 1 : concurrency;
}

/// Keys and values of a head up to this size stay in the second-level cache from one tile of
/// queries to the next.
inline constexpr Index near_cache_bytes = Index{256} << 10;

/// How many query tiles pass over the keys together: one where the keys are near and read in place,
/// else as many as the scratch holds, unless workers would be left without a group.
template <class Plan>
[[nodiscard]] Index tiles_of_group(const Plan& plan, const QueryTiling& tiling, int lanes,
                                   int workers) {
    using C = decltype(plan.scale);
    const AttentionShape& s = plan.shape;
    const bool in_place = TileRows<C>::is_in_place(plan.k) && TileRows<C>::is_in_place(plan.v);
    const double bytes =
        static_cast<double>(s.kv_len) * static_cast<double>(s.head_dim + s.value_dim) * sizeof(C);
    if (in_place && bytes <= near_cache_bytes) return 1;
    Index group = group_queries<C> / (max_tile_width * lanes);
    const auto items = [&] { return s.batch * s.heads * tiling.groups_of(group); };
    while (workers > 1 && group > 1 && items() < 4 * workers) group /= 2;
    return group;
}

/// What one worker does at a time: query tiles [begin, end) of one head.
struct WorkItem {
    Index b;
    Index h;
    Index begin;
    Index end;
    [[nodiscard]] std::size_t size() const { return static_cast<std::size_t>(end - begin); }
};

/// The items of an attention in the order in which they are begun.
class Schedule {
  public:
    template <class Plan>
    Schedule(const Plan& plan, const QueryTiling& tiling, int lanes, int workers)
        : batch_(plan.shape.batch),
          heads_(plan.shape.heads),
          tiles_(tiling.count()),
          group_(tiles_of_group(plan, tiling, lanes, workers)),
          groups_(tiling.groups_of(group_)) {}

    [[nodiscard]] Index count() const { return batch_ * heads_ * groups_; }

    [[nodiscard]] WorkItem operator[](Index index) const {
        // Last tiles first: under a causal mask they are the longest.
        const Index first = (groups_ - 1 - index % groups_) * group_;
        const Index head = index / groups_;
        return {head / heads_, head % heads_, first, std::min(first + group_, tiles_)};
    }

  private:
    Index batch_;
    Index heads_;
    Index tiles_;
    Index group_;
    Index groups_;
};

/// A group has most tiles where registers hold two numbers.
inline constexpr std::size_t max_group_tiles = 16;

/// Computes the items of one attention.
template <class Plan, class C>
class GroupAttention {
  public:
    GroupAttention(const Plan& plan, const TileKernels<C>& kernels, const QueryTiling& tiling)
        : plan_(plan), kernels_(kernels), tiling_(tiling) {}

    /// The tiles of an item pass over the keys together. `next` is what this worker likely does
    /// next, or null.
    void attend(const WorkItem& item, const WorkItem* next, const FusedScratch<C>& scratch) const {
        std::array<std::optional<Tile>, max_group_tiles> memory;
        const std::span<std::optional<Tile>> tiles(memory.data(), item.size());
        KeyRange some;
        Index lane = 0;
        for (Index t = item.begin; t < item.end; ++t) {
            std::optional<Tile>& tile = tiles[static_cast<std::size_t>(t - item.begin)];
            tile.emplace(plan_, kernels_, scratch, scratch.tile(lane),
                         ScoreIndex{item.b, item.h, tiling_.begin(t), 0}, tiling_.width(t));
            tile->load();
            lane += tiling_.width(t) * kernels_.lanes;
            some = some.hull(tile->some());
        }
        const auto k = keys_of(item), v = values_of(item);
        for_each_key_tile(some, [&](const KeyRange& range) {
            KeyTile<Plan, C> keys(kernels_, k, v, range, scratch);
            LinesAhead ahead = lines_after(item, range, some, next);
            for (std::optional<Tile>& tile : tiles) tile->attend(keys, ahead);
        });
        for (std::optional<Tile>& tile : tiles) tile->store();
    }

  private:
    using Tile = QueryTile<Plan, C>;

    /// What is wanted after a tile of keys: the next one, or at the end the rows of the output and
    /// the first rows of the next item.
    [[nodiscard]] LinesAhead lines_after(const WorkItem& item, const KeyRange& keys,
                                         const KeyRange& some, const WorkItem* next) const {
        LinesAhead ahead;
        if (keys.end < some.end) {
            add_keys(ahead, item, keys.end);
        } else {
            ahead.add(rows_of(plan_.out, item));
            if (next != nullptr) {
                ahead.add(rows_of(plan_.q, *next));
                const ScoreIndex first{next->b, next->h, tiling_.begin(next->begin), 0};
                const KeyRange seen = plan_.rules.range(first, {0, plan_.shape.kv_len});
                if (!seen.is_empty()) add_keys(ahead, *next, seen.begin);
            }
        }
        return ahead;
    }

    void add_keys(LinesAhead& ahead, const WorkItem& item, Index first) const {
        const Index count = std::min(key_tile, plan_.shape.kv_len - first);
        ahead.add(keys_of(item).slice(0, first, count));
        ahead.add(values_of(item).slice(0, first, count));
    }

    [[nodiscard]] auto keys_of(const WorkItem& item) const {
        return plan_.k.select(0, item.b).select(0, kv_head(item));
    }
    [[nodiscard]] auto values_of(const WorkItem& item) const {
        return plan_.v.select(0, item.b).select(0, kv_head(item));
    }
    [[nodiscard]] Index kv_head(const WorkItem& item) const {
        return item.h / (plan_.shape.heads / plan_.shape.kv_heads);
    }

    template <class T>
    [[nodiscard]] TensorView<const T, 2> rows_of(TensorView<T, 4> tensor,
                                                 const WorkItem& item) const {
        const Index begin = tiling_.begin(item.begin);
        const Index end = std::min(tiling_.begin(item.end), plan_.shape.q_len);
        return tensor.select(0, item.b).select(0, item.h).slice(0, begin, end - begin);
    }

    const Plan& plan_;
    const TileKernels<C>& kernels_;
    const QueryTiling& tiling_;
};

/// Attention tile by tile, the tiles shared out among the workers. `memory` holds
/// FusedScratch::element_count elements for each worker.
/// Cost: 2 * (head_dim + value_dim) operations for each pair of query and key in a tile that is
/// not empty.
template <class Plan, class C>
void fused_attention(const Plan& plan, const ExecutorRef& executor, C* memory) {
    const TileKernels<C>& kernels = tile_kernels<C>();
    const Index per_worker = FusedScratch<C>::element_count(plan.shape).index();
    const QueryTiling tiling(plan.shape.q_len, kernels.lanes);
    const int workers = executor.concurrency();
    const Schedule items(plan, tiling, kernels.lanes, workers);
    const GroupAttention<Plan, C> group(plan, kernels, tiling);
    const auto run = [&](Index index, int worker) {
        const FusedScratch<C> scratch(plan.shape, memory + worker * per_worker);
        // Each worker takes the next item that nobody has: this one's next is likely so far on.
        const Index next_index = index + workers;
        const WorkItem next = items[next_index];
        group.attend(items[index], next_index < items.count() ? &next : nullptr, scratch);
    };
    executor.parallel_for(items.count(), run);
}

}  // namespace detail
}  // namespace heed::inline v0
