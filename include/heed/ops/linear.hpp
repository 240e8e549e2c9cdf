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

/// Calls f(matrix of each view) until it has seen all rows, in order. The views have the same
/// leading dimensions: where these are dense, they are one long list of rows; others are walked one
/// by one.
template <class F, int Rank, class First, class... Rest>
void for_each_matrix(const F& f, TensorView<First, Rank> first, TensorView<Rest, Rank>... rest) {
    if constexpr (Rank == 1) {
        f(first.unsqueeze(), rest.unsqueeze()...);
    } else if constexpr (Rank == 2) {
        f(first, rest...);
    } else if (first.is_contiguous() && (rest.is_contiguous() && ...)) {
        for_each_matrix(f, first.merge(0), rest.merge(0)...);
    } else {
        for (Index i = 0; i < first.extent(0); ++i)
            for_each_matrix(f, first.select(0, i), rest.select(0, i)...);
    }
}

/// The input's rows must be those that the weight multiplies.
template <class T, int Rank>
void require_linear_input(std::string_view where, TensorView<const T, Rank> x,
                          TensorView<const T, 2> weight) {
    if (x.extent(Rank - 1) != weight.extent(1))
        fail<ShapeError>(where, "the input's last dimension must be the weight's; found input ",
                         x.shape(), ", weight ", weight.shape());
    require_memory(where, "the input", x);
    require_memory(where, "the weight", weight);
}

template <class T, int Rank>
void check_linear_backward(TensorView<const T, Rank> x, TensorView<const T, 2> weight,
                           TensorView<const T, Rank> dy, TensorView<T, Rank> dx,
                           TensorView<T, 2> dweight, TensorView<T, 1> dbias) {
    constexpr std::string_view where = "linear_backward";
    require_linear_input(where, x, weight);
    require_shape(where, "dy", dy.shape(), x.shape().with(Rank - 1, weight.extent(0)));
    require_memory(where, "dy", dy);
    require_optional_output(where, "dx", dx, x.shape(), x, weight, dy);
    require_optional_output(where, "dweight", dweight, weight.shape(), x, weight, dy, dx);
    require_optional_output(where, "dbias", dbias, Shape<1>(weight.extent(0)), x, weight, dy, dx,
                            dweight);
    require_contiguous_rows(where, "the input", x);
    require_contiguous_rows(where, "the weight", weight);
    require_contiguous_rows(where, "dy", dy);
    require_contiguous_rows(where, "dx", dx);
    require_contiguous_rows(where, "dweight", dweight);
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
    detail::require_linear_input("linear", x, weight);
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
    detail::for_each_matrix(
        [&](auto from, auto to) { detail::linear_rows<T>(from, weight, bias, to); }, x, y);
}

/// Where the gradients of `linear` go; an empty view means "not wanted".
template <ComputeScalar T, int Rank>
struct LinearGradients {
    TensorView<T, Rank> dx = {};    ///< [.., in], overwritten
    TensorView<T, 2> dweight = {};  ///< [out, in], added to
    TensorView<T, 1> dbias = {};    ///< [out], added to
};

/// The gradients of a loss with respect to input, weight and bias of `linear`, from its gradient dy
/// with respect to the output:
///
///     dx = dy W,    dW += dy^T x,    db += sum over rows of dy
///
/// x is [.., in], W is [out, in], dy is [.., out]. Last dimensions must be contiguous (dbias
/// apart), leading ones may have any strides. A gradient must not overlap what is read or another
/// gradient. Rows are summed in one fixed order, whatever else is wanted. Throws ShapeError, or
/// ArgumentError for null, before anything is written. Cost: 2 * rows * in * out operations for
/// each of dx and dW.
template <TensorLike X>
void linear_backward(const X& x, InputView<ElementOf<X>, 2> weight,
                     InputView<ElementOf<X>, X::rank()> dy,
                     const LinearGradients<ElementOf<X>, X::rank()>& gradients) {
    const auto& [dx, dweight, dbias] = gradients;
    detail::check_linear_backward(read(x), weight, dy, dx, dweight, dbias);
    if (detail::is_wanted(dx))
        detail::for_each_matrix(
            [&](auto from, auto to) { to.matrix().noalias() = from.matrix() * weight.matrix(); },
            dy, dx);
    if (detail::is_wanted(dweight))
        detail::for_each_matrix(
            [into = dweight](auto left, auto right) {
                into.matrix().noalias() += left.matrix().transpose() * right.matrix();
            },
            dy, read(x));
    if (detail::is_wanted(dbias))
        detail::for_each_matrix(
            [into = dbias](auto rows) {
                for (Index r = 0; r < rows.extent(0); ++r) add(rows.select(0, r), into);
            },
            dy);
}

}  // namespace heed::inline v0
