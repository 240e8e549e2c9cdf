#pragma once
// Which nonlinearity sits between two linear layers?
// Scalar formulas, and their application to a view in place; allocates nothing.

#include <cmath>
#include <numbers>

#include "heed/tensor/checks.hpp"
#include "heed/tensor/elementwise.hpp"

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

enum class Activation { none, relu, gelu, gelu_tanh, silu };

/// Replaces every element by its activation. Half types are computed in float. Throws ShapeError
/// when elements of x share memory, ArgumentError for null, before anything is written.
template <StorageScalar T, int Rank>
void apply_activation(Activation activation, TensorView<T, Rank> x) {
    using C = ComputeType<T>;
    detail::require_output("apply_activation", "the tensor", x, x.shape());
    const auto apply = [&](auto f) {
        detail::for_each_element([&](T& v) { v = static_cast<T>(f(static_cast<C>(v))); }, x);
    };
    switch (activation) {
        case Activation::none:
            break;
        case Activation::relu:
            apply(relu<C>);
            break;
        case Activation::gelu:
            apply(gelu<C>);
            break;
        case Activation::gelu_tanh:
            apply(gelu_tanh<C>);
            break;
        case Activation::silu:
            apply(silu<C>);
            break;
    }
}

}  // namespace heed::inline v0
