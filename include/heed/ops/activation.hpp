#pragma once
// Which nonlinearity sits between two linear layers?
// Scalar formulas, and their application to a view on the lanes of the machine; allocates nothing.

#include <cmath>
#include <numbers>

#include "heed/ops/row_parts.hpp"
#include "heed/simd/layer_dispatch.hpp"
#include "heed/tensor/checks.hpp"

namespace heed::inline v0 {

/// max(x, 0); NaN stays NaN.
template <ComputeScalar T>
[[nodiscard]] T relu(T x) {
    return x < 0 ? T(0) : x;
}

/// x * sigmoid(x) = x / (1 + exp(-x)); 0 at minus infinity. Also called swish.
/// Source: Elfwing et al., arXiv 1702.03118.
template <ComputeScalar T>
[[nodiscard]] T silu(T x) {
    // exp(-x) overflows to infinity for very negative x; -inf / inf would be NaN.
    return x == -std::numeric_limits<T>::infinity() ? T(0) : x / (1 + std::exp(-x));
}

/// x * Phi(x) = x/2 * (1 + erf(x / sqrt 2)), the exact form (PyTorch's default); 0 at minus
/// infinity. Source: Hendrycks, Gimpel, arXiv 1606.08415.
template <ComputeScalar T>
[[nodiscard]] T gelu(T x) {
    if (x == -std::numeric_limits<T>::infinity()) return 0;
    // erfc keeps its relative accuracy where 1 + erf cancels.
    return x / 2 * std::erfc(-x / std::numbers::sqrt2_v<T>);
}

/// x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))), the approximation of GPT-2 and many others;
/// 0 at minus infinity. Source: Hendrycks, Gimpel, arXiv 1606.08415.
template <ComputeScalar T>
[[nodiscard]] T gelu_tanh(T x) {
    if (x == -std::numeric_limits<T>::infinity()) return 0;
    const T root = std::numbers::sqrt2_v<T> * std::numbers::inv_sqrtpi_v<T>;
    return x / 2 * (1 + std::tanh(root * (x + T(0.044715) * x * x * x)));
}

/// The derivative of relu: 0 up to and with 0 (as in PyTorch), 1 above; NaN stays NaN.
template <ComputeScalar T>
[[nodiscard]] T relu_derivative(T x) {
    return std::isnan(x) ? x : T(x > 0);
}

/// The derivative of silu: s (1 + x (1 - s)) with s = sigmoid(x); 0 and 1 at the infinities.
template <ComputeScalar T>
[[nodiscard]] T silu_derivative(T x) {
    if (x == -std::numeric_limits<T>::infinity()) return 0;
    // x (1 - s) = -silu(-x), where 1 - s would cancel.
    return (1 - silu(-x)) / (1 + std::exp(-x));
}

/// The derivative of gelu: Phi(x) + x phi(x), with the distribution and the density of the standard
/// normal; 0 and 1 at the infinities.
template <ComputeScalar T>
[[nodiscard]] T gelu_derivative(T x) {
    const T phi = std::numbers::inv_sqrtpi_v<T> / std::numbers::sqrt2_v<T> * std::exp(-x * x / 2);
    const T slope = phi == 0 ? T(0) : x * phi;  // infinity * 0 is NaN
    return std::erfc(-x / std::numbers::sqrt2_v<T>) / 2 + slope;
}

/// The derivative of gelu_tanh: (1 + t) / 2 + x/2 (1 - t^2) u' with t = tanh(u),
/// u = sqrt(2/pi) (x + 0.044715 x^3); 0 and 1 at the infinities.
template <ComputeScalar T>
[[nodiscard]] T gelu_tanh_derivative(T x) {
    const T root = std::numbers::sqrt2_v<T> * std::numbers::inv_sqrtpi_v<T>;
    const T t = std::tanh(root * (x + T(0.044715) * x * x * x));
    const T rest = 1 - t * t;
    if (rest == 0) return (1 + t) / 2;  // x^2 may be infinite here
    return (1 + t) / 2 + x / 2 * rest * root * (1 + 3 * T(0.044715) * x * x);
}

/// Replaces every element by its activation, within 6 units in the last place of the result, and
/// where x is negative 2 x^2 more. Half types are computed in float. Throws ShapeError when
/// elements of x share memory, ArgumentError for null, before anything is written.
template <StorageScalar T, int Rank>
void apply_activation(Activation activation, TensorView<T, Rank> x) {
    using C = ComputeType<T>;
    detail::require_output("apply_activation", "the tensor", x, x.shape());
    if (activation == Activation::none) return;
    const auto apply = [&](TensorView<T, 1> row) {
        detail::RowParts<C, T> parts(row);
        detail::for_each_part(row.extent(0), [&](Index first, Index count) {
            detail::layer_kernels<C>().activate(activation, parts.edit(first, count), count);
            parts.store(first, count);
        });
    };
    detail::for_each_long_row(apply, x);
}

/// dx = dy * (derivative of the activation at x), element by element, where x is what the
/// activation was applied to (the pre-activation). dx may be the view of dy or of x, but not
/// overlap them otherwise. Throws ShapeError for shapes that differ or overlap, ArgumentError for
/// null, before anything is written.
template <ComputeScalar T, int Rank>
void activation_backward(Activation activation, InputView<T, Rank> x, InputView<T, Rank> dy,
                         TensorView<T, Rank> dx) {
    constexpr std::string_view where = "activation_backward";
    detail::require_memory(where, "the input", x);
    detail::require_memory(where, "dy", dy);
    detail::require_shape(where, "dy", dy.shape(), x.shape());
    detail::require_output(where, "dx", dx, x.shape());
    detail::require_same_or_apart(where, x, dx);
    detail::require_same_or_apart(where, dy, dx);
    const auto go_back = [&](TensorView<const T, 1> at, TensorView<const T, 1> from,
                             TensorView<T, 1> to) {
        detail::RowParts<T, const T> ats(at), froms(from);
        detail::RowParts<T, T> tos(to);
        detail::for_each_part(at.extent(0), [&](Index first, Index count) {
            detail::layer_kernels<T>().activation_gradient(activation, ats.read(first, count),
                                                           froms.read(first, count), count,
                                                           tos.place(first));
            tos.store(first, count);
        });
    };
    detail::for_each_long_row(go_back, x, dy, dx);
}

}  // namespace heed::inline v0
