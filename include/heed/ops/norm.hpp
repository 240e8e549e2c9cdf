#pragma once
// How is each row brought to unit scale?
// Reads and writes rows of the last dimension; knows rows, not heads; allocates nothing.

#include <cmath>

#include "heed/tensor/checks.hpp"
#include "heed/tensor/elementwise.hpp"

namespace heed::inline v0 {

namespace detail {

/// Calls f(row of x, row of y) for every row of the last dimension.
template <class F, class T, int Rank>
void for_each_row(const F& f, TensorView<const T, Rank> x, TensorView<T, Rank> y) {
    if constexpr (Rank == 1) {
        f(x, y);
    } else {
        for (Index i = 0; i < x.extent(0); ++i) for_each_row(f, x.select(0, i), y.select(0, i));
    }
}

template <class T, int Rank>
void check_norm(std::string_view where, TensorView<const T, Rank> x, TensorView<const T, 1> weight,
                TensorView<const T, 1> bias, TensorView<T, Rank> y) {
    require_memory(where, "the input", x);
    require_memory(where, "the weight", weight);
    require_memory(where, "the bias", bias);
    require_output(where, "the output", y, x.shape(), weight, bias);
    require_same_or_apart(where, x, y);
    const Shape<1> row(x.extent(Rank - 1));
    if (weight.data() != nullptr) require_shape(where, "the weight", weight.shape(), row);
    if (bias.data() != nullptr) require_shape(where, "the bias", bias.shape(), row);
}

/// y_c = (x_c - shift) * factor * weight_c + bias_c; an absent weight is 1, an absent bias 0.
template <class C, class T>
void scale_row(TensorView<const T, 1> x, C shift, C factor, TensorView<const T, 1> weight,
               TensorView<const T, 1> bias, TensorView<T, 1> y) {
    for (Index c = 0; c < x.extent(0); ++c) {
        C value = (static_cast<C>(x(c)) - shift) * factor;
        if (weight.data() != nullptr) value *= static_cast<C>(weight(c));
        if (bias.data() != nullptr) value += static_cast<C>(bias(c));
        y(c) = static_cast<T>(value);
    }
}

}  // namespace detail

/// LayerNorm over the last dimension: y = (x - mean) / sqrt(variance + epsilon) * weight + bias,
/// with the variance divided by n. `weight` and `bias` may be empty views (1 and 0); y may be x's
/// view, but not overlap it otherwise. Half types are computed in float. Throws ShapeError, or
/// ArgumentError for null, before anything is written. Source: Ba, Kiros, Hinton, arXiv 1607.06450.
template <StorageScalar T, int Rank>
void layer_norm(InputView<T, Rank> x, InputView<T, 1> weight, InputView<T, 1> bias, double epsilon,
                TensorView<T, Rank> y) {
    using C = ComputeType<T>;
    detail::check_norm("layer_norm", x, weight, bias, y);
    detail::for_each_row(
        [&](InputView<T, 1> from, TensorView<T, 1> to) {
            const auto n = static_cast<C>(from.extent(0));
            C sum = 0, squares = 0;
            for (Index c = 0; c < from.extent(0); ++c) sum += static_cast<C>(from(c));
            const C mean = sum / n;
            // Two passes: the one-pass form E[x^2] - E[x]^2 cancels for large means.
            for (Index c = 0; c < from.extent(0); ++c) {
                const C difference = static_cast<C>(from(c)) - mean;
                squares += difference * difference;
            }
            const C factor = 1 / std::sqrt(squares / n + static_cast<C>(epsilon));
            detail::scale_row(from, mean, factor, weight, bias, to);
        },
        x, y);
}

/// RMSNorm over the last dimension: y = x / sqrt(mean(x^2) + epsilon) * weight. `weight` may be an
/// empty view (1); y may be x's view, but not overlap it otherwise. Half types are computed in
/// float. Throws ShapeError, or ArgumentError for null, before anything is written. Source: Zhang,
/// Sennrich, arXiv 1910.07467.
template <StorageScalar T, int Rank>
void rms_norm(InputView<T, Rank> x, InputView<T, 1> weight, double epsilon, TensorView<T, Rank> y) {
    using C = ComputeType<T>;
    detail::check_norm("rms_norm", x, weight, {}, y);
    detail::for_each_row(
        [&](InputView<T, 1> from, TensorView<T, 1> to) {
            C squares = 0;
            for (Index c = 0; c < from.extent(0); ++c) {
                const C value = static_cast<C>(from(c));
                squares += value * value;
            }
            const C mean = squares / static_cast<C>(from.extent(0));
            const C factor = 1 / std::sqrt(mean + static_cast<C>(epsilon));
            detail::scale_row(from, C(0), factor, weight, {}, to);
        },
        x, y);
}

}  // namespace heed::inline v0
