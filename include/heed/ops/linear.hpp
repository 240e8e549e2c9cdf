#pragma once
// What is x W^T + b?
// Reads x, W and b, writes y, and on the way back their gradients; allocates nothing.

#include <algorithm>
#include <optional>

#include "heed/base/stages.hpp"
#include "heed/ops/linear_gradients.hpp"
#include "heed/ops/product.hpp"
#include "heed/tensor/checks.hpp"

namespace heed::inline v0 {

namespace detail {

/// So many rows take as long to be multiplied by a matrix as it takes to come from memory.
inline constexpr double rows_while_reading = 16;

/// Of all rows with a matrix of so many outputs; of few rows those that take as long.
template <int Rank>
[[nodiscard]] double multiply_adds(const Shape<Rank>& x, Index outputs) {
    double rows = 1;
    for (int i = 0; i + 1 < Rank; ++i) rows *= static_cast<double>(x[i]);
    if (rows > 0) rows = std::max(rows, rows_while_reading);
    return rows * static_cast<double>(x[Rank - 1]) * static_cast<double>(outputs);
}

/// The input's rows must be those that a weight of that shape multiplies.
template <class T, int Rank>
void require_linear_input(std::string_view where, TensorView<const T, Rank> x,
                          const Shape<2>& weight) {
    if (x.extent(Rank - 1) != weight[1])
        fail<ShapeError>(where, "the input's last dimension must be the weight's; found input ",
                         x.shape(), ", weight ", weight);
    require_memory(where, "the input", x);
    require_contiguous_rows(where, "the input", x);
}

template <class T>
void require_weight(std::string_view where, TensorView<const T, 2> weight) {
    require_memory(where, "the weight", weight);
    require_contiguous_rows(where, "the weight", weight);
}

template <class T, int Rank, class... Others>
void check_linear(std::string_view where, TensorView<const T, Rank> x, const Shape<2>& weight,
                  TensorView<const T, 1> bias, TensorView<T, Rank> y, const Others&... others) {
    require_linear_input(where, x, weight);
    require_memory(where, "the bias", bias);
    if (bias.data() != nullptr) require_shape(where, "the bias", bias.shape(), Shape<1>(weight[0]));
    require_output(where, "the output", y, x.shape().with(Rank - 1, weight[0]), x, bias, others...);
    require_contiguous_rows(where, "the output", y);
}

/// y = x W^T + b for every row, the rows checked.
template <class T, int Rank>
void run_linear(TensorView<const T, Rank> x, const ProductWeights<T>& weights,
                TensorView<T, Rank> y, const std::optional<ExecutorRef>& executor) {
    const Workers workers(multiply_adds(x.shape(), y.extent(Rank - 1)), executor);
    for_each_row_list(
        [&](RowList<const T> from, RowList<T> to) {
            const Product<T> product(from, weights, to, workers.executor.concurrency());
            run_in_shares(product, workers.executor);
        },
        x, y);
}

/// After check_linear_backward.
template <class T, int Rank>
void run_linear_backward(TensorView<const T, Rank> x, const BackwardWeights<T>& weights,
                         TensorView<const T, Rank> dy, TensorView<T, Rank> dx,
                         const GradientSum<T>& dweight, TensorView<T, 1> dbias,
                         const std::optional<ExecutorRef>& executor) {
    const Workers workers(multiply_adds(x.shape(), weights.matrix.extent(0)), executor);
    const auto go_back = [&](RowList<const T> from, RowList<const T> slopes, RowList<T> to) {
        const LinearGradientStages<T> gradients(from, weights, slopes, to, {}, dweight, dbias,
                                                workers.executor.concurrency());
        Stages stages;
        gradients.add_to(stages);
        stages.run(workers.executor);
    };
    for_each_row_list(go_back, x, dy, dx);
}

template <class T, int Rank>
void check_linear_backward(TensorView<const T, Rank> x, TensorView<const T, 2> weight,
                           TensorView<const T, Rank> dy, TensorView<T, Rank> dx,
                           TensorView<T, 2> dweight, TensorView<T, 1> dbias) {
    constexpr std::string_view where = "linear_backward";
    require_linear_input(where, x, weight.shape());
    require_weight(where, weight);
    require_shape(where, "dy", dy.shape(), x.shape().with(Rank - 1, weight.extent(0)));
    require_memory(where, "dy", dy);
    require_optional_output(where, "dx", dx, x.shape(), x, weight, dy);
    require_optional_output(where, "dweight", dweight, weight.shape(), x, weight, dy, dx);
    require_optional_output(where, "dbias", dbias, Shape<1>(weight.extent(0)), x, weight, dy, dx,
                            dweight);
    require_contiguous_rows(where, "dy", dy);
    require_contiguous_rows(where, "dx", dx);
    require_contiguous_rows(where, "dweight", dweight);
}

}  // namespace detail

/// y = x W^T + b for every row of x: x is [.., in], W is [out, in], b is [out] or an empty view,
/// y is [.., out]. The weight layout is PyTorch's. Rows of x, W and y must be contiguous; x's
/// leading dimensions may have any strides. y must not overlap x or W.
/// Half types are widened to float in tiles and rounded once. A matrix that is worth it is shared
/// out among the workers of the executor (absent: of the process); an element of y has the same
/// bits for all of them, and whatever the other rows of x are.
/// Throws ShapeError, or ArgumentError for null, before anything is written. Cost: 2 * rows * in *
/// out operations.
template <StorageScalar T, int Rank>
void linear(InputView<T, Rank> x, InputView<T, 2> weight, InputView<T, 1> bias,
            TensorView<T, Rank> y, const std::optional<ExecutorRef>& executor = std::nullopt) {
    detail::require_weight("linear", weight);
    detail::check_linear<T, Rank>("linear", x, weight.shape(), bias, y, weight);
    detail::run_linear<T, Rank>(x, {weight, bias}, y, executor);
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
/// gradient. Rows are summed in their order, whatever else is wanted and whoever computes it; the
/// executor as in linear. Throws ShapeError, or ArgumentError for null, before anything is written.
/// Cost: 2 * rows * in * out operations for each of dx and dW.
template <TensorLike X>
void linear_backward(const X& x, InputView<ElementOf<X>, 2> weight,
                     InputView<ElementOf<X>, X::rank()> dy,
                     const LinearGradients<ElementOf<X>, X::rank()>& gradients,
                     const std::optional<ExecutorRef>& executor = std::nullopt) {
    using T = ElementOf<X>;
    const auto& [dx, dweight, dbias] = gradients;
    detail::check_linear_backward(read(x), weight, dy, dx, dweight, dbias);
    detail::run_linear_backward<T, X::rank()>(read(x), {weight}, dy, dx, {dweight}, dbias,
                                              executor);
}

}  // namespace heed::inline v0
