#pragma once
// How do two products, one behind the other, keep what lies between them near?
// Block by block of rows, each through both: the rows between them stay in the second-level cache,
// and take memory for one block of each worker only. The bits are those of the products apart.

#include <algorithm>

#include "heed/ops/product.hpp"

namespace heed::inline v0::detail {

/// y = finish2(finish1(x W_1^T) W_2^T). Blocks of rows are pieces that different workers may take.
/// y may be x, whose block has been read when that of y is written.
template <ComputeScalar T>
class ProductPair {
  public:
    struct Step {
        ProductWeights<T> weights;
        ProductFinish<T> finish;  ///< `before` and `gate_before` must be absent
    };

    /// Rows of a block, or 0 where the products do better apart: where workers would find too few
    /// blocks, or all rows between fit near.
    [[nodiscard]] static Index rows_of_block(Index rows, Index between, int workers) {
        Index most = packed_rows;
        while (most > least_rows && !is_near(most * between, sizeof(T))) most /= 2;
        most = shared_out(most, least_rows, workers, [&](Index n) { return pieces(rows, n); });
        // As many for each worker, of rows that go through a product together.
        const Index blocks = pieces(pieces(rows, most), workers) * workers;
        const bool are_enough = workers == 1 || blocks >= pieces_per_worker * workers;
        return rows > most && are_enough ? pieces(pieces(rows, blocks), 8) * 8 : 0;
    }

    /// `between` is [workers, rows of a block, outputs of the first product].
    ProductPair(RowList<const T> x, const Step& first, TensorView<T, 3> between, const Step& second,
                RowList<T> y)
        : x_(x),
          y_(y),
          first_(first),
          second_(second),
          between_(between),
          blocks_(CommonRows(x, y, second.finish.residual), between.extent(1)) {}

    [[nodiscard]] Index count() const { return blocks_.count(); }

    void operator()(Index piece, int worker) const {
        const Index row = blocks_.begin(piece), count = blocks_.size(piece);
        const RowList<T> between(between_.select(0, worker).slice(0, 0, count));
        multiply(rows(x_, row, count), first_.weights, between, first_.finish);
        ProductFinish<T> finish = second_.finish;
        if (!finish.residual.is_absent()) finish.residual = rows(finish.residual, row, count);
        multiply(between.to_read(), second_.weights, rows(y_, row, count), finish);
    }

  private:
    /// Of fewer, the weights would be read too often.
    static constexpr Index least_rows = 64;

    template <class U>
    [[nodiscard]] static RowList<U> rows(const RowList<U>& list, Index row, Index count) {
        return RowList<U>(list.block(row, count));
    }
    static void multiply(const RowList<const T>& x, const ProductWeights<T>& weights,
                         const RowList<T>& y, const ProductFinish<T>& finish) {
        const Product<T> product(x, weights, y, 1, finish);
        for (Index i = 0; i < product.count(); ++i) product(i, 0);
    }

    RowList<const T> x_;
    RowList<T> y_;
    Step first_, second_;
    TensorView<T, 3> between_;
    RowBlocks blocks_;
};

}  // namespace heed::inline v0::detail
