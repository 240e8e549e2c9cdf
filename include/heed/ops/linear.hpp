#pragma once
// What is x W^T + b?
// Reads x, W and b, writes y. Products run through Eigen on maps of the caller's memory.

#include "heed/tensor/checks.hpp"
#include "heed/tensor/elementwise.hpp"
#include "heed/tensor/tensor.hpp"

namespace heed::inline v0 {

namespace detail {

/// Half types are storage only: their rows are widened to float for the product and rounded once.
template <StorageScalar T>
void linear_rows(TensorView<const T, 2> x, TensorView<const T, 2> weight,
                 TensorView<const T, 1> bias, TensorView<T, 2> y) {
    if constexpr (!ComputeScalar<T>) {
        using C = ComputeType<T>;
        const auto widen = [](auto view) {
            Tensor<C, decltype(view)::rank()> wide(view.shape());
            copy(view, wide.view());
            return wide;
        };
        const auto wide_x = widen(x), wide_weight = widen(weight);
        const auto wide_bias = widen(bias);
        Tensor<C, 2> wide_y(y.shape());
        linear_rows<C>(wide_x, wide_weight, wide_bias, wide_y);
        copy(wide_y.view(), y);
    } else {
        y.matrix().noalias() = x.matrix() * weight.matrix().transpose();
        if (bias.data() == nullptr) return;
        for (Index r = 0; r < y.extent(0); ++r)
            for (Index c = 0; c < y.extent(1); ++c) y(r, c) += bias(c);
    }
}

/// Dense leading dimensions are one long list of rows; others are walked one by one.
template <StorageScalar T, int Rank>
void linear_any_rank(TensorView<const T, Rank> x, TensorView<const T, 2> weight,
                     TensorView<const T, 1> bias, TensorView<T, Rank> y) {
    if constexpr (Rank == 1) {
        linear_rows(x.unsqueeze(), weight, bias, y.unsqueeze());
    } else if constexpr (Rank == 2) {
        linear_rows(x, weight, bias, y);
    } else if (x.is_contiguous() && y.is_contiguous()) {
        linear_any_rank(x.merge(0), weight, bias, y.merge(0));
    } else {
        for (Index i = 0; i < x.extent(0); ++i)
            linear_any_rank(x.select(0, i), weight, bias, y.select(0, i));
    }
}

}  // namespace detail

/// y = x W^T + b for every row of x: x is [.., in], W is [out, in], b is [out] or an empty view,
/// y is [.., out]. The weight layout is PyTorch's. Rows of x, W and y must be contiguous; x's
/// leading dimensions may have any strides. y must not overlap x or W.
/// Throws ShapeError, or ArgumentError for null, before anything is written. Cost: 2 * rows * in *
/// out operations.
template <StorageScalar T, int Rank>
void linear(InputView<T, Rank> x, InputView<T, 2> weight, InputView<T, 1> bias,
            TensorView<T, Rank> y) {
    if (x.extent(Rank - 1) != weight.extent(1))
        detail::fail<ShapeError>("linear", "the input's last dimension must be the weight's; found",
                                 " input ", x.shape(), ", weight ", weight.shape());
    detail::require_memory("linear", "the input", x);
    detail::require_memory("linear", "the weight", weight);
    detail::require_memory("linear", "the bias", bias);
    detail::require_output("linear", "the output", y, x.shape().with(Rank - 1, weight.extent(0)));
    if (bias.data() != nullptr)
        detail::require_shape("linear", "the bias", bias.shape(), Shape<1>(weight.extent(0)));
    if (!x.has_contiguous_rows() || !weight.has_contiguous_rows() || !y.has_contiguous_rows())
        detail::fail<ShapeError>("linear", "the last dimension of input, weight and output must be",
                                 " contiguous; found strides ", x.stride(Rank - 1), ", ",
                                 weight.stride(1), ", ", y.stride(Rank - 1));
    if (detail::overlaps(y, x) || detail::overlaps(y, weight) || detail::overlaps(y, bias))
        detail::fail<ShapeError>("linear", "the output must not overlap the inputs; found overlap");
    detail::linear_any_rank(x, weight, bias, y);
}

}  // namespace heed::inline v0
