#pragma once
// What does the way back need of a tile of queries, and what does it leave there?
// Before all keys: rows and lanes of q and the gradient of out, delta, log-sum-exp. After them: the
// rows of dq.

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>

#include "heed/attention/backward_scratch.hpp"
#include "heed/attention/score_tile.hpp"

namespace heed::inline v0::detail {

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
        (void)has_poison_taken_out(own_.query_rows, s.head_dim);
        std::construct_at(own_.d_out_poison, has_poison_taken_out(own_.d_out_rows, s.value_dim));
        std::construct_at(own_.ranges, plan_.rules, at_, queries_, s.kv_len, own_.range);
    }

    /// Writes the rows of dq from its sum.
    void store_dq(C* sum, C* rows) const {
        std::array<C, BackwardScratch<C>::row> factor, one;
        factor.fill(plan_.scale);
        one.fill(C(1));
        kernels_.rescale[width_ - 1](sum, plan_.shape.head_dim, factor.data());
        store_lanes(kernels_, sum, row_, one.data(), rows_of(plan_.dq), rows);
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
        copy(from, TensorView<C, 2>(rows, from.shape(), {stride, 1}));
        if (features == stride) return;
        for (Index i = 0; i < queries_; ++i)
            std::fill(rows + i * stride + features, rows + (i + 1) * stride, C(0));
    }

    [[nodiscard]] bool has_poison_taken_out(C* rows, Index features) const {
        TileRows<C> in_place(rows, padded<C>(features));
        return take_poison_out(kernels_, in_place, queries_, features, rows, padded<C>(features));
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

}  // namespace heed::inline v0::detail
