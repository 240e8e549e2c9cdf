#pragma once
// How do gradients go back through an attention without ever holding all weights?
// Recomputes tiles of weights from the saved log-sum-exp (FlashAttention 2, arXiv 2307.08691,
// section 3.1.2); memory grows with the lengths, not with their product. Reads what the forward
// pass read and wrote, and the gradient of its output; writes the gradients that are wanted.
//
// For scores s = scale * q k^T (changed by rules), weights p = exp(s - lse), dp = do v^T and
// delta_i = sum_c do_ic out_ic:
//
//     dv = p^T do,    ds = p * (dp - delta) * (slopes of the rules),
//     dq = scale * ds k,    dk = scale * ds^T q
//
// With dropout, p is dropped in dv, and dp like p. Nothing is computed twice for a pair of tiles.

#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>
#include <memory>
#include <string_view>

#include "heed/attention/plan.hpp"
#include "heed/attention/tiling.hpp"
#include "heed/simd/dispatch.hpp"

namespace heed::inline v0 {
namespace detail {

/// The keys of a head in parts that different workers may take. Each part has a sum of dq of its
/// own, and these are added in the order of the keys: the parts must depend on kv_len alone, or the
/// bits of dq would depend on the workers.
class KeyChunks {
  public:
    explicit KeyChunks(Index kv_len)
        : kv_len_(kv_len),
          keys_(key_tile * std::max(least_tiles, parts(parts(kv_len, key_tile), most))),
          count_(parts(kv_len, keys_)) {}

    [[nodiscard]] Index count() const { return count_; }
    [[nodiscard]] KeyRange operator[](Index chunk) const {
        return {chunk * keys_, std::min((chunk + 1) * keys_, kv_len_)};
    }

  private:
    static constexpr Index most = 8, least_tiles = 2;
    static constexpr Index parts(Index whole, Index part) { return (whole + part - 1) / part; }

    Index kv_len_;
    Index keys_;
    Index count_;
};

/// Hands out memory in whole cache lines. Without memory, it only counts.
template <class C>
class LineAllocator {
  public:
    explicit LineAllocator(C* memory) : memory_(memory) {}

    /// As many elements of T (C unless named) as the product of the extents.
    template <class T = C>
    [[nodiscard]] T* take(std::initializer_list<Index> extents) {
        CheckedSize<> bytes(where, sizeof(T));
        for (Index extent : extents) bytes *= static_cast<std::uint64_t>(extent);
        const std::uint64_t lines = (bytes + (scratch_alignment - 1)).bytes() / scratch_alignment;
        const Index begin = used_.index();
        used_ += (CheckedSize<>(where, lines) * (scratch_alignment / sizeof(C))).bytes();
        return memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + begin);
    }
    /// Elements of C so far.
    [[nodiscard]] CheckedSize<> used() const { return used_; }

  private:
    static constexpr std::string_view where = "attention_backward_workspace_bytes";

    C* memory_;
    CheckedSize<> used_{where, 0};
};

/// Lanes of the widest register; rows of features are padded to a multiple.
template <class C>
inline constexpr Index most_lanes = 64 / static_cast<Index>(sizeof(C));
template <class C>
[[nodiscard]] constexpr Index padded(Index count) {
    return (count + most_lanes<C> - 1) / most_lanes<C> * most_lanes<C>;
}

/// A tile of queries of one head with the gradient of its output, ready for the kernels.
template <class C>
struct BackwardQueries {
    C* queries;     ///< [head_dim][lane], times the scale
    C* d_out;       ///< [value_dim][lane]
    C* query_rows;  ///< [query][padded head_dim], zeros in place of NaN and infinity
    C* d_out_rows;  ///< [query][padded value_dim], likewise
    C* lse;         ///< per query, as delta; 0 in lanes without a query
    C* delta;
    KeyRange* range;     ///< per query
    TileRanges* ranges;  ///< one
    bool* d_out_poison;  ///< one: whether d_out_rows has zeros in place of poison
    Index first_dq = 0;  ///< where its [head_dim][lane] begins in a sum of dq
};

/// All query tiles of the heads that share a kv head, and their sums of dq.
template <class C>
class GroupScratch {
  public:
    /// `sums` is the number of sums of dq.
    GroupScratch(const AttentionShape& s, Index sums, LineAllocator<C>& memory)
        : heads_(s.heads / s.kv_heads),
          rows_(padded<C>(s.q_len)),
          head_dim_(s.head_dim),
          value_dim_(s.value_dim),
          tiles_(QueryTiling(s.q_len, least_lanes).count()) {
        all_ = {memory.take({heads_, rows_, head_dim_}),
                memory.take({heads_, rows_, value_dim_}),
                memory.take({heads_, rows_, padded<C>(head_dim_)}),
                memory.take({heads_, rows_, padded<C>(value_dim_)}),
                memory.take({heads_, rows_}),
                memory.take({heads_, rows_}),
                memory.template take<KeyRange>({heads_, rows_}),
                memory.template take<TileRanges>({heads_, tiles_}),
                memory.template take<bool>({heads_, tiles_})};
        dq_ = memory.take({sums, heads_, rows_, head_dim_});
    }

    /// The place of a tile of a head of the group, which begins at `first`.
    [[nodiscard]] BackwardQueries<C> tile(Index head, Index tile, Index first) const {
        const Index row = head * rows_ + first, n = head * tiles_ + tile;
        return {all_.queries + row * head_dim_,
                all_.d_out + row * value_dim_,
                all_.query_rows + row * padded<C>(head_dim_),
                all_.d_out_rows + row * padded<C>(value_dim_),
                all_.lse + row,
                all_.delta + row,
                all_.range + row,
                all_.ranges + n,
                all_.d_out_poison + n,
                row * head_dim_};
    }

    [[nodiscard]] const TileRanges& ranges(Index head, Index tile) const {
        return all_.ranges[head * tiles_ + tile];
    }

    [[nodiscard]] Index dq_elements() const { return heads_ * rows_ * head_dim_; }
    [[nodiscard]] C* dq(Index sum) const { return dq_ + sum * dq_elements(); }

  private:
    /// Of the narrowest register, which makes most tiles.
    static constexpr int least_lanes = 16 / static_cast<int>(sizeof(C));

    Index heads_;
    Index rows_;
    Index head_dim_;
    Index value_dim_;
    Index tiles_;
    BackwardQueries<C> all_{};
    C* dq_ = nullptr;
};

/// What one worker uses for one pair of tiles after another.
template <class C>
struct BackwardScratch {
    static constexpr Index row = max_tile_width * most_lanes<C>;

    C* scores;       ///< [key][lane], then the weights
    C* dropped;      ///< [key][lane], the weights after dropout; before, scratch of the rules
    C* gradients;    ///< [key][lane], of the weights, then of the scores
    C* slopes;       ///< [key][lane]
    C* keys;         ///< [key][head_dim], when keys cannot be read in place
    C* finite_keys;  ///< [key][head_dim], when some key is NaN or infinite
    C* values;       ///< [key][value_dim], when values cannot be read in place
    C* dk;           ///< [key][padded head_dim]
    C* dv;           ///< [key][padded value_dim]
    C* rows;         ///< [lane][head_dim], when dq cannot be written in place
    C* tile_max;     ///< per query of a tile, as all that follow
    C* first_key;
    C* end_key;

    BackwardScratch(const AttentionShape& s, LineAllocator<C>& memory)
        : scores(memory.take({key_tile, row})),
          dropped(memory.take({key_tile, row})),
          gradients(memory.take({key_tile, row})),
          slopes(memory.take({key_tile, row})),
          keys(memory.take({key_tile, s.head_dim})),
          finite_keys(memory.take({key_tile, s.head_dim})),
          values(memory.take({key_tile, s.value_dim})),
          dk(memory.take({key_tile, padded<C>(s.head_dim)})),
          dv(memory.take({key_tile, padded<C>(s.value_dim)})),
          rows(memory.take({row, s.head_dim})),
          tile_max(memory.take({row})),
          first_key(memory.take({row})),
          end_key(memory.take({row})) {}
};

/// How a backward pass is shared out, and the memory for it.
template <class C>
class BackwardLayout {
  public:
    BackwardLayout(const AttentionShape& s, int workers)
        : shape_(s),
          workers_(workers),
          chunks_(std::max<Index>(1, KeyChunks(s.kv_len).count())),
          splits_heads_(workers > 1 && chunks_ > 1 && s.batch * s.kv_heads < 2 * workers) {}

    /// False: a worker takes a whole kv head, chunk after chunk. True: it takes a chunk.
    [[nodiscard]] bool splits_heads() const { return splits_heads_; }

    /// Sums of dq that a group needs at the same time.
    [[nodiscard]] Index sums() const {
        return splits_heads_ ? chunks_ : std::min<Index>(2, chunks_);
    }

    [[nodiscard]] CheckedSize<> element_count() const {
        LineAllocator<C> worker(nullptr), group(nullptr);
        (void)BackwardScratch<C>(shape_, worker);
        (void)GroupScratch<C>(shape_, sums(), group);
        LineAllocator<C> all(nullptr);
        (void)all.take({workers_, worker.used().index()});
        (void)all.take({groups(), group.used().index()});
        return all.used();
    }

    [[nodiscard]] BackwardScratch<C> worker(int number, C* memory) const {
        LineAllocator<C> allocator(memory + number * worker_elements());
        return {shape_, allocator};
    }
    /// The scratch of a group; `number` is that of the kv head where heads are split, else that of
    /// the worker.
    [[nodiscard]] GroupScratch<C> group(Index number, C* memory) const {
        LineAllocator<C> none(nullptr);
        (void)GroupScratch<C>(shape_, sums(), none);
        LineAllocator<C> allocator(memory + workers_ * worker_elements() +
                                   number * none.used().index());
        return {shape_, sums(), allocator};
    }

  private:
    [[nodiscard]] Index groups() const {
        return splits_heads_ ? shape_.batch * shape_.kv_heads : workers_;
    }
    [[nodiscard]] Index worker_elements() const {
        LineAllocator<C> allocator(nullptr);
        (void)BackwardScratch<C>(shape_, allocator);
        return allocator.used().index();
    }

    AttentionShape shape_;
    Index workers_;
    Index chunks_;
    bool splits_heads_;
};

/// copy, as fast as memory is where nothing has to be converted.
template <class From, class To>
void copy_rows(TensorView<const From, 2> from, TensorView<To, 2> to) {
    if constexpr (std::is_same_v<From, To>)
        if (from.has_contiguous_rows() && to.has_contiguous_rows()) {
            for (Index i = 0; i < from.extent(0); ++i)
                std::copy_n(from.row(i), from.extent(1), to.row(i));
            return;
        }
    copy(from, to);
}

/// Puts zeros in place of NaN and infinity; true when there was one.
template <class C>
[[nodiscard]] bool take_poison_out(const TileKernels<C>& kernels, C* rows, Index stride,
                                   Index count, Index columns) {
    if (kernels.all_finite(rows, stride, count, columns)) return false;
    for (Index i = 0; i < count; ++i)
        for (Index c = 0; c < columns; ++c) {
            C& x = rows[i * stride + c];
            if (!std::isfinite(x)) x = C(0);
        }
    return true;
}

/// One tile of queries, before and after all keys.
template <class Plan, class C>
class QuerySide {
  public:
    QuerySide(const Plan& plan, const TileKernels<C>& kernels, const ScoreIndex& first, int width,
              const BackwardQueries<C>& own)
        : plan_(plan),
          kernels_(kernels),
          own_(own),
          at_(first),
          width_(width),
          row_(width * kernels.lanes),
          queries_(std::min<Index>(row_, plan.shape.q_len - first.q)) {}

    /// Rows and lanes of q and the gradient of out, delta, log-sum-exp, and the keys that the
    /// queries see.
    void load() const {
        const AttentionShape& s = plan_.shape;
        load_rows(plan_.q, own_.query_rows);
        load_rows(plan_.d_out, own_.d_out_rows);
        load_statistics();
        load_lanes(own_.query_rows, s.head_dim, plan_.scale, own_.queries);
        load_lanes(own_.d_out_rows, s.value_dim, C(1), own_.d_out);
        (void)take_poison_out(kernels_, own_.query_rows, padded<C>(s.head_dim), queries_,
                              s.head_dim);
        std::construct_at(own_.d_out_poison,
                          take_poison_out(kernels_, own_.d_out_rows, padded<C>(s.value_dim),
                                          queries_, s.value_dim));
        std::construct_at(own_.ranges, plan_.rules, at_, queries_, s.kv_len, own_.range);
    }

    /// Writes the rows of dq from its sum.
    void store_dq(C* sum, C* rows) const {
        using T = typename decltype(plan_.dq)::value_type;
        const TensorView<T, 2> dq = rows_of(plan_.dq);
        const Index features = plan_.shape.head_dim;
        std::array<C, BackwardScratch<C>::row> factor, one;
        factor.fill(plan_.scale);
        one.fill(C(1));
        kernels_.rescale[width_ - 1](sum, features, factor.data());
        if constexpr (std::is_same_v<T, C>)
            if (dq.has_contiguous_rows())
                return kernels_.finish(sum, row_, features, queries_, one.data(), dq.data(),
                                       dq.stride(0));
        kernels_.finish(sum, row_, features, queries_, one.data(), rows, features);
        copy(TensorView<const C, 2>(rows, {queries_, features}), dq);
    }

  private:
    template <class T>
    [[nodiscard]] TensorView<T, 2> rows_of(TensorView<T, 4> tensor) const {
        return tensor.select(0, at_.b).select(0, at_.h).slice(0, at_.q, queries_);
    }

    /// The caller's rows, each padded with zeros.
    template <class T>
    void load_rows(TensorView<const T, 4> tensor, C* rows) const {
        const TensorView<const T, 2> from = rows_of(tensor);
        const Index features = from.extent(1), stride = padded<C>(features);
        copy_rows(from, TensorView<C, 2>(rows, from.shape(), {stride, 1}));
        if (features == stride) return;
        for (Index i = 0; i < queries_; ++i)
            std::fill(rows + i * stride + features, rows + (i + 1) * stride, C(0));
    }

    void load_lanes(const C* rows, Index features, C scale, C* lanes) const {
        kernels_.load_queries(rows, padded<C>(features), queries_, features, scale, lanes, row_);
    }

    void load_statistics() const {
        const Index features = plan_.shape.value_dim;
        // The place for the lanes of d_out is still free.
        const TileRows<C> out(rows_of(plan_.out), own_.d_out);
        kernels_.row_products(own_.d_out_rows, padded<C>(features), out.data, out.stride, queries_,
                              features, own_.delta);
        for (Index i = 0; i < queries_; ++i) own_.lse[i] = plan_.lse(at_.b, at_.h, at_.q + i);
        std::fill(own_.delta + queries_, own_.delta + row_, C(0));
        std::fill(own_.lse + queries_, own_.lse + row_, C(0));
    }

    const Plan& plan_;
    const TileKernels<C>& kernels_;
    BackwardQueries<C> own_;
    ScoreIndex at_;  ///< the first query
    int width_;
    Index row_;
    Index queries_;
};

/// A tile of keys and values of one head, with the sums of its gradients.
template <class Plan, class C>
class KeySide {
  public:
    KeySide(const Plan& plan, const TileKernels<C>& kernels, const BackwardScratch<C>& scratch,
            Index b, Index kv_head, const KeyRange& keys)
        : plan_(plan),
          kernels_(kernels),
          s_(scratch),
          b_(b),
          kv_head_(kv_head),
          keys_(keys),
          k_(rows_of(plan.k), scratch.keys),
          v_(rows_of(plan.v), scratch.values),
          finite_k_(k_),
          key_features_(plan.shape.head_dim, kernels.lanes),
          value_features_(plan.shape.value_dim, kernels.lanes) {
        std::fill_n(s_.dk, size() * padded<C>(plan.shape.head_dim), C(0));
        std::fill_n(s_.dv, size() * padded<C>(plan.shape.value_dim), C(0));
        if (is_wanted(plan.dq)) find_finite_keys();
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
        if (!is_wanted(plan_.dq) && !is_wanted(plan_.dk)) return;
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

    /// A key that a query does not see must not reach its gradient: 0 * NaN would be NaN. One that
    /// it sees has made the gradient of the score NaN.
    void find_finite_keys() {
        const Index features = plan_.shape.head_dim;
        if (kernels_.all_finite(k_.data, k_.stride, size(), features)) return;
        for (Index j = 0; j < size(); ++j)
            std::copy_n(k_.data + j * k_.stride, features, s_.finite_keys + j * features);
        (void)take_poison_out(kernels_, s_.finite_keys, features, size(), features);
        finite_k_ = {s_.finite_keys, features};
    }

    /// product[key][lane] = rows of keys or values times lanes of queries, where it is needed.
    void multiply(const Pair& pair, const TileRows<C>& rows, Index features, const C* lanes,
                  C* product) const {
        LinesAhead ahead;
        const Index row = pair.tile.row;
        const TileRows<C> from = rows.from(pair.tile.first.k - keys_.begin);
        for (const TileStep& step : pair.steps) {
            const Index lane = step.first_register * kernels_.lanes;
            kernels_.scores[step.end_register - step.first_register - 1](
                from.data + step.keys.begin * from.stride, from.stride,
                step.keys.end - step.keys.begin, features, lanes + lane,
                product + step.keys.begin * row + lane, row, s_.tile_max + lane, ahead);
        }
    }

    /// The weights before dropout, by the saved log-sum-exp; exactly 0 where a key is not seen.
    void make_weights(const Pair& pair, Coverage flags) const {
        const ScoreTile<C>& tile = pair.tile;
        multiply(pair, k_, plan_.shape.head_dim, pair.queries.queries, s_.scores);
        const bool changes_scores = plan_.rules.changes_scores();
        if (has_slopes) std::fill_n(s_.slopes, tile.keys * tile.row, C(1));
        if (changes_scores) cap(tile);
        if (!pair.queries.ranges->all_see(tile.first.k, tile.keys)) hide_keys(pair);
        if (flags == Coverage::some) plan_.rules.hide_tile(tile);
        if (changes_scores) modify(tile);
        kernels_.weights[pair.width - 1](s_.scores, tile.keys, pair.queries.lse);
        if (!plan_.dropout.active()) return;
        std::copy_n(s_.scores, tile.keys * tile.row, s_.dropped);
        kernels_.drop(
            s_.dropped, tile.row, tile.keys,
            plan_.dropout.tile(
                static_cast<std::uint32_t>(tile.first.b * plan_.shape.heads + tile.first.h),
                static_cast<std::uint32_t>(tile.first.q), static_cast<std::uint64_t>(tile.first.k)),
            static_cast<C>(plan_.dropout.scale()));
    }

    void cap(const ScoreTile<C>& tile) const {
        if constexpr (has_slopes)
            plan_.rules.cap_tile(tile, s_.slopes);
        else
            plan_.rules.cap_tile(tile);
    }
    void modify(const ScoreTile<C>& tile) const {
        if constexpr (has_slopes)
            plan_.rules.modify_tile(tile, s_.slopes);
        else
            plan_.rules.modify_tile(tile);
    }

    /// Hides the keys outside each query's interval.
    void hide_keys(const Pair& pair) const {
        const ScoreTile<C>& tile = pair.tile;
        for (Index i = 0; i < tile.row; ++i) {
            const KeyRange range = pair.queries.ranges->of(i);
            const auto place = [&](Index key) {
                return static_cast<C>(std::clamp<Index>(key - tile.first.k, 0, tile.keys));
            };
            s_.first_key[i] = place(range.begin);
            s_.end_key[i] = place(range.end);
        }
        kernels_.hide_outside[pair.width - 1](s_.scores, tile.keys, s_.first_key, s_.end_key,
                                              s_.tile_max);
    }

    [[nodiscard]] const C* dropped() const {
        return plan_.dropout.active() ? s_.dropped : s_.scores;
    }

    /// From the gradients of the weights to those of the scores, exactly 0 where a weight is.
    void make_score_gradients(const Pair& pair) const {
        multiply(pair, v_, plan_.shape.value_dim, pair.queries.d_out, s_.gradients);
        kernels_.score_gradients[pair.width - 1](s_.scores, dropped(), s_.gradients, pair.tile.keys,
                                                 pair.queries.delta,
                                                 has_slopes ? s_.slopes : nullptr);
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
    void add_rows(const Pair& pair, const C* weights, const C* rows, const QueryTiling& features,
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
                kernels_.key_gradients[features.width(block) - 1](
                    weights + step.keys.begin * tile.row + lane, tile.row,
                    step.keys.end - step.keys.begin, rows + lane * stride + column, count,
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
        const ScoreTile<C>& tile = pair.tile;
        const TileRows<C> k = finite_k_.from(tile.first.k - keys_.begin);
        for (const TileStep& step : pair.steps) {
            const Index lane = step.first_register * kernels_.lanes;
            kernels_.values[step.end_register - step.first_register - 1](
                k.data + step.keys.begin * k.stride, k.stride, step.keys.end - step.keys.begin,
                plan_.shape.head_dim, s_.gradients + step.keys.begin * tile.row + lane,
                dq + pair.queries.first_dq + lane, tile.row, ahead);
        }
    }

    template <class T>
    void store_rows(const C* rows, Index stride, TensorView<T, 4> gradient) const {
        const TensorView<T, 2> to = rows_of(gradient);
        copy_rows(TensorView<const C, 2>(rows, to.shape(), {stride, 1}), to);
    }

    static constexpr bool has_slopes = decltype(Plan::rules)::has_slopes();

    const Plan& plan_;
    const TileKernels<C>& kernels_;
    const BackwardScratch<C>& s_;
    Index b_;
    Index kv_head_;
    KeyRange keys_;
    TileRows<C> k_;
    TileRows<C> v_;
    TileRows<C> finite_k_;
    QueryTiling key_features_;
    QueryTiling value_features_;
};

/// The gradients of one attention, in pieces that are independent of each other.
template <class Plan, class C>
class BackwardAttention {
  public:
    BackwardAttention(const Plan& plan, const TileKernels<C>& kernels)
        : plan_(plan),
          kernels_(kernels),
          tiling_(plan.shape.q_len, kernels.lanes),
          heads_(plan.shape.heads / plan.shape.kv_heads) {}

    /// Query tiles of the heads of a group.
    [[nodiscard]] Index tiles() const { return heads_ * tiling_.count(); }

    void load(Index kv_head, Index tile, const GroupScratch<C>& group) const {
        query_side(kv_head, tile, group).load();
    }

    /// dk and dv of a chunk of keys, and its share of dq.
    void add_keys(Index kv_head, const KeyRange& keys, const GroupScratch<C>& group, C* dq,
                  const BackwardScratch<C>& scratch) const {
        if (is_wanted(plan_.dq)) std::fill_n(dq, group.dq_elements(), C(0));
        for_each_key_tile(keys, [&](const KeyRange& range) {
            KeySide<Plan, C> side(plan_, kernels_, scratch, kv_head / plan_.shape.kv_heads,
                                  kv_head % plan_.shape.kv_heads, range);
            for (Index head = 0; head < heads_; ++head)
                for (Index t = 0; t < tiling_.count(); ++t) {
                    // Asked first, for behind a window most tiles see none of the keys.
                    if (group.ranges(head, t).some().intersect(range).is_empty()) continue;
                    const Index n = head * tiling_.count() + t;
                    side.add_queries(first_query(kv_head, n), width(n), queries(n, group), dq);
                }
            side.store();
        });
    }

    /// dq of a tile, from its first `sums` sums.
    void store_dq(Index kv_head, Index tile, Index sums, const GroupScratch<C>& group,
                  const BackwardScratch<C>& scratch) const {
        if (!is_wanted(plan_.dq)) return;
        const Index first = queries(tile, group).first_dq;
        const Index count = width(tile) * kernels_.lanes * plan_.shape.head_dim;
        for (Index sum = 1; sum < sums; ++sum)
            add(group.dq(sum) + first, count, group.dq(0) + first);
        query_side(kv_head, tile, group).store_dq(group.dq(0) + first, scratch.rows);
    }

    /// All of one kv head, chunk after chunk.
    void run_head(Index kv_head, const GroupScratch<C>& group,
                  const BackwardScratch<C>& scratch) const {
        for (Index n = 0; n < tiles(); ++n) load(kv_head, n, group);
        const KeyChunks chunks(plan_.shape.kv_len);
        // Without keys, too, dq is a sum.
        add_keys(kv_head, chunks[0], group, group.dq(0), scratch);
        for (Index chunk = 1; chunk < chunks.count(); ++chunk) {
            add_keys(kv_head, chunks[chunk], group, group.dq(1), scratch);
            if (is_wanted(plan_.dq)) add(group.dq(1), group.dq_elements(), group.dq(0));
        }
        for (Index n = 0; n < tiles(); ++n) store_dq(kv_head, n, 1, group, scratch);
    }

  private:
    static void add(const C* from, Index count, C* to) {
        for (Index n = 0; n < count; ++n) to[n] += from[n];
    }

    [[nodiscard]] int width(Index tile) const { return tiling_.width(tile % tiling_.count()); }
    [[nodiscard]] ScoreIndex first_query(Index kv_head, Index tile) const {
        const AttentionShape& s = plan_.shape;
        return {kv_head / s.kv_heads, kv_head % s.kv_heads * heads_ + tile / tiling_.count(),
                tiling_.begin(tile % tiling_.count()), 0};
    }
    [[nodiscard]] BackwardQueries<C> queries(Index tile, const GroupScratch<C>& group) const {
        const Index t = tile % tiling_.count();
        return group.tile(tile / tiling_.count(), t, tiling_.begin(t));
    }
    [[nodiscard]] QuerySide<Plan, C> query_side(Index kv_head, Index tile,
                                                const GroupScratch<C>& group) const {
        return {plan_, kernels_, first_query(kv_head, tile), width(tile), queries(tile, group)};
    }

    const Plan& plan_;
    const TileKernels<C>& kernels_;
    QueryTiling tiling_;
    Index heads_;
};

/// Gradients tile by tile. Whole kv heads are shared out among the workers where these suffice,
/// else chunks of their keys; the arithmetic is the same. `memory` holds
/// BackwardLayout::element_count elements.
/// Cost: 2 * (3 * head_dim + 2 * value_dim) operations for each pair of query and key in a tile
/// that is not empty.
template <class Plan, class C>
void fused_attention_backward(const Plan& plan, const ExecutorRef& executor, C* memory) {
    const AttentionShape& s = plan.shape;
    const BackwardAttention<Plan, C> backward(plan, tile_kernels<C>());
    const BackwardLayout<C> layout(s, executor.concurrency());
    const Index kv_heads = s.batch * s.kv_heads;
    if (!layout.splits_heads()) {
        executor.parallel_for(kv_heads, [&](Index head, int worker) {
            backward.run_head(head, layout.group(worker, memory), layout.worker(worker, memory));
        });
        return;
    }
    const KeyChunks chunks(s.kv_len);
    const Index tiles = backward.tiles();
    executor.parallel_for(kv_heads * tiles, [&](Index index, int) {
        backward.load(index / tiles, index % tiles, layout.group(index / tiles, memory));
    });
    executor.parallel_for(kv_heads * chunks.count(), [&](Index index, int worker) {
        const Index head = index / chunks.count(), chunk = index % chunks.count();
        const GroupScratch<C> group = layout.group(head, memory);
        backward.add_keys(head, chunks[chunk], group, group.dq(chunk),
                          layout.worker(worker, memory));
    });
    executor.parallel_for(kv_heads * tiles, [&](Index index, int worker) {
        backward.store_dq(index / tiles, index % tiles, chunks.count(),
                          layout.group(index / tiles, memory), layout.worker(worker, memory));
    });
}

}  // namespace detail
}  // namespace heed::inline v0
