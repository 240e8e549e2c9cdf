#pragma once
// Which rows does a tensor consist of, when only rows matter?
// A list of all rows of the last dimension; index arithmetic, reads and writes nothing.

#include <algorithm>
#include <numeric>

#include "heed/base/pieces.hpp"
#include "heed/tensor/view.hpp"

namespace heed::inline v0::detail {

/// The rows of a tensor of up to three dimensions, in row-major order: matrices of equally spaced
/// rows, one matrix where the strides allow it.
template <class T>
class RowList {
  public:
    /// No rows; stands for an absent tensor.
    RowList() = default;

    explicit RowList(TensorView<T, 1> view) : RowList(view.unsqueeze()) {}
    explicit RowList(TensorView<T, 2> view) : RowList(view.unsqueeze()) {}
    explicit RowList(TensorView<T, 3> view)
        : data_(view.data()),
          matrices_(view.extent(0)),
          rows_(view.extent(1)),
          columns_(view.extent(2)),
          matrix_stride_(view.stride(0)),
          row_stride_(view.stride(1)),
          column_stride_(view.stride(2)) {
        if (matrices_ == 1 || rows_ == 1 || matrix_stride_ == rows_ * row_stride_) {
            if (rows_ == 1) row_stride_ = matrix_stride_;
            rows_ *= matrices_;
            matrices_ = rows_ == 0 ? 0 : 1;
        }
    }

    /// The same rows to read.
    [[nodiscard]] RowList<const T> to_read() const { return RowList<const T>(*this); }

    [[nodiscard]] bool is_absent() const { return data_ == nullptr; }
    [[nodiscard]] Index count() const { return matrices_ * rows_; }
    [[nodiscard]] Index columns() const { return columns_; }
    [[nodiscard]] bool has_contiguous_rows() const { return column_stride_ == 1 || columns_ <= 1; }
    /// Of a matrix: blocks of rows begin and end within one.
    [[nodiscard]] Index rows_of_matrix() const { return rows_; }
    /// Between the rows of a matrix.
    [[nodiscard]] Index row_stride() const { return row_stride_; }

    [[nodiscard]] T* first_of(Index row) const {
        if (matrices_ == 1) return data_ + row * row_stride_;
        return data_ + row / rows_ * matrix_stride_ + row % rows_ * row_stride_;
    }
    [[nodiscard]] TensorView<T, 1> operator[](Index row) const {
        return {first_of(row), Shape<1>(columns_), {column_stride_}};
    }
    [[nodiscard]] TensorView<T, 2> block(Index row, Index count) const {
        return {first_of(row), Shape<2>(count, columns_), {row_stride_, column_stride_}};
    }

  private:
    template <class>
    friend class RowList;
    template <class U>
    explicit RowList(const RowList<U>& other)
        : data_(other.data_),
          matrices_(other.matrices_),
          rows_(other.rows_),
          columns_(other.columns_),
          matrix_stride_(other.matrix_stride_),
          row_stride_(other.row_stride_),
          column_stride_(other.column_stride_) {}

    T* data_ = nullptr;
    Index matrices_ = 0, rows_ = 0, columns_ = 0;
    Index matrix_stride_ = 0, row_stride_ = 0, column_stride_ = 1;
};

/// The rows that several tensors have in common, as matrices that are matrices of each of them;
/// absent lists have no say.
struct CommonRows {
    Index matrices = 0;
    Index rows = 0;  ///< of a matrix

    template <class... T>
    explicit CommonRows(const RowList<T>&... lists) {
        Index count = 0;
        const auto ask = [&](const auto& list) {
            if (list.is_absent()) return;
            rows = std::gcd(rows, list.rows_of_matrix());
            count = list.count();
        };
        (ask(lists), ...);
        if (rows > 0) matrices = count / rows;
    }
};

/// Rows in blocks that lie within one matrix: balanced, in multiples of 8, which a product takes at
/// once.
class RowBlocks {
  public:
    RowBlocks(const CommonRows& all, Index most)
        : rows_(all.rows),
          steps_(pieces(all.rows, step)),
          blocks_(pieces(all.rows, most)),
          matrices_(all.matrices) {}

    [[nodiscard]] Index count() const { return matrices_ * blocks_; }
    [[nodiscard]] Index begin(Index block) const {
        return block / blocks_ * rows_ + first_of(block % blocks_);
    }
    [[nodiscard]] Index size(Index block) const {
        return first_of(block % blocks_ + 1) - first_of(block % blocks_);
    }

  private:
    static constexpr Index step = 8;

    [[nodiscard]] Index first_of(Index block) const {
        const Index first = block * (steps_ / blocks_) + std::min(block, steps_ % blocks_);
        return std::min(first * step, rows_);
    }

    Index rows_, steps_, blocks_, matrices_;
};

/// Calls f(list of the rows of each view ..) until it has seen all rows, in order. The views have
/// the same leading dimensions; where there are more than two of them that cannot be merged, the
/// first ones are walked one by one. A view of nothing stands for an absent one.
template <class F, int Rank, class... T>
void for_each_row_list(const F& f, TensorView<T, Rank>... views) {
    const auto is_absent = [](const auto& view) { return view.shape() == Shape<Rank>(); };
    if constexpr (Rank <= 3) {
        f((is_absent(views) ? RowList<T>() : RowList<T>(views))...);
    } else if ((views.is_contiguous() && ...)) {
        for_each_row_list(f, (is_absent(views) ? TensorView<T, Rank - 1>() : views.merge(0))...);
    } else {
        Index count = 0;
        ((count = std::max(count, views.extent(0))), ...);
        for (Index i = 0; i < count; ++i)
            for_each_row_list(
                f, (is_absent(views) ? TensorView<T, Rank - 1>() : views.select(0, i))...);
    }
}

}  // namespace heed::inline v0::detail
