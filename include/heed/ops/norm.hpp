#pragma once
// How is each row brought to unit scale?
// Reads and writes rows of the last dimension; knows rows, not heads; allocates nothing.

#include <cmath>

#include "heed/tensor/checks.hpp"
#include "heed/tensor/elementwise.hpp"

namespace heed::inline v0 {

namespace detail {

/// Calls f(row of x, the same row of the others) for every row of the last dimension. An empty view
/// among the others stands for its own rows.
template <class F, int Rank, class X, class... Others>
void for_each_row(const F& f, TensorView<X, Rank> x, TensorView<Others, Rank>... others) {
    if constexpr (Rank == 1) {
        f(x, others...);
    } else {
        const auto part = [](auto view, Index i) {
            return view.empty() ? decltype(view.select(0, i))() : view.select(0, i);
        };
        for (Index i = 0; i < x.extent(0); ++i) for_each_row(f, x.select(0, i), part(others, i)...);
    }
}

/// A norm brings x to (x - shift) * factor.
template <class C>
struct RowScale {
    C shift;
    C factor;
};

/// The mean, and 1 / sqrt(variance + epsilon).
template <class C, class T>
RowScale<C> layer_norm_scale(TensorView<const T, 1> x, double epsilon) {
    const auto n = static_cast<C>(x.extent(0));
    C sum = 0, squares = 0;
    for (Index c = 0; c < x.extent(0); ++c) sum += static_cast<C>(x(c));
    const C mean = sum / n;
    // Two passes: the one-pass form E[x^2] - E[x]^2 cancels for large means.
    for (Index c = 0; c < x.extent(0); ++c) {
        const C difference = static_cast<C>(x(c)) - mean;
        squares += difference * difference;
    }
    return {mean, 1 / std::sqrt(squares / n + static_cast<C>(epsilon))};
}

/// 0, and 1 / sqrt(mean of squares + epsilon).
template <class C, class T>
RowScale<C> rms_norm_scale(TensorView<const T, 1> x, double epsilon) {
    C squares = 0;
    for (Index c = 0; c < x.extent(0); ++c) {
        const C value = static_cast<C>(x(c));
        squares += value * value;
    }
    const C mean = squares / static_cast<C>(x.extent(0));
    return {C(0), 1 / std::sqrt(mean + static_cast<C>(epsilon))};
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
void scale_row(TensorView<const T, 1> x, RowScale<C> by, TensorView<const T, 1> weight,
               TensorView<const T, 1> bias, TensorView<T, 1> y) {
    for (Index c = 0; c < x.extent(0); ++c) {
        C value = (static_cast<C>(x(c)) - by.shift) * by.factor;
        if (weight.data() != nullptr) value *= static_cast<C>(weight(c));
        if (bias.data() != nullptr) value += static_cast<C>(bias(c));
        y(c) = static_cast<T>(value);
    }
}

/// The gradients of a norm; dbias belongs to layer_norm alone.
template <class T, int Rank>
struct NormGradients {
    TensorView<T, Rank> dx;
    TensorView<T, 1> dweight, dbias;
};

template <class T, int Rank>
void check_norm_backward(std::string_view where, TensorView<const T, Rank> x,
                         TensorView<const T, 1> weight, TensorView<const T, Rank> dy,
                         const NormGradients<T, Rank>& gradients) {
    const auto& [dx, dweight, dbias] = gradients;
    const Shape<1> row(x.extent(Rank - 1));
    require_memory(where, "the input", x);
    require_memory(where, "the weight", weight);
    require_memory(where, "dy", dy);
    if (weight.data() != nullptr) require_shape(where, "the weight", weight.shape(), row);
    require_shape(where, "dy", dy.shape(), x.shape());
    require_optional_output(where, "dx", dx, x.shape(), weight);
    require_same_or_apart(where, x, dx);
    require_same_or_apart(where, dy, dx);
    require_optional_output(where, "dweight", dweight, row, x, weight, dy, dx);
    require_optional_output(where, "dbias", dbias, row, x, weight, dy, dx, dweight);
}

/// One row of the way back, where scale_row went forward. With a mean, its gradient is taken off.
template <class T>
void scale_row_backward(TensorView<const T, 1> x, RowScale<T> by, bool has_mean,
                        TensorView<const T, 1> weight, TensorView<const T, 1> dy,
                        const NormGradients<T, 1>& gradients) {
    const auto& [dx, dweight, dbias] = gradients;
    const Index n = x.extent(0);
    const auto normed = [&x, by](Index c) { return (x(c) - by.shift) * by.factor; };
    const auto slope = [&](Index c) {
        return weight.data() == nullptr ? dy(c) : dy(c) * weight(c);
    };
    const bool has_dweight = is_wanted(dweight), has_dbias = is_wanted(dbias);
    T sum = 0, product = 0;
    for (Index c = 0; c < n; ++c) {
        sum += slope(c);
        product += slope(c) * normed(c);
        if (has_dweight) dweight(c) += dy(c) * normed(c);
        if (has_dbias) dbias(c) += dy(c);
    }
    if (!is_wanted(dx)) return;
    const T mean = has_mean ? sum / static_cast<T>(n) : T(0);
    const T along = product / static_cast<T>(n);
    for (Index c = 0; c < n; ++c) dx(c) = by.factor * (slope(c) - mean - normed(c) * along);
}

/// scale_of(row) is what the forward pass scaled the row by.
template <class T, int Rank, class ScaleOf>
void norm_backward(std::string_view where, TensorView<const T, Rank> x,
                   TensorView<const T, 1> weight, TensorView<const T, Rank> dy,
                   const NormGradients<T, Rank>& gradients, const ScaleOf& scale_of,
                   bool has_mean) {
    check_norm_backward(where, x, weight, dy, gradients);
    for_each_row(
        [&](TensorView<const T, 1> row, TensorView<const T, 1> slopes, TensorView<T, 1> to) {
            scale_row_backward<T>(row, scale_of(row), has_mean, weight, slopes,
                                  {to, gradients.dweight, gradients.dbias});
        },
        x, dy, gradients.dx);
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
            const auto scale = detail::layer_norm_scale<C>(from, epsilon);
            detail::scale_row(from, scale, weight, bias, to);
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
            const auto scale = detail::rms_norm_scale<C>(from, epsilon);
            detail::scale_row(from, scale, weight, {}, to);
        },
        x, y);
}

/// Where the gradients of `layer_norm` go; an empty view means "not wanted".
template <ComputeScalar T, int Rank>
struct LayerNormGradients {
    TensorView<T, Rank> dx = {};    ///< the shape of x, overwritten
    TensorView<T, 1> dweight = {};  ///< [features], added to
    TensorView<T, 1> dbias = {};    ///< [features], added to
};

/// The gradients of a loss with respect to input, weight and bias of `layer_norm`, from its
/// gradient dy with respect to the output. With n = (x - mean) r, r = 1 / sqrt(variance + epsilon)
/// and g = dy * weight, row by row:
///
///     dx = r (g - mean(g) - n mean(g n)),    dweight += dy n,    dbias += dy
///
/// dx may be the view of x or of dy, but not overlap them otherwise; the other gradients overlap
/// nothing. Rows are summed in their order. The statistics are computed again from x. Throws
/// ShapeError, or ArgumentError for null, before anything is written.
template <TensorLike X>
void layer_norm_backward(const X& x, InputView<ElementOf<X>, 1> weight, double epsilon,
                         InputView<ElementOf<X>, X::rank()> dy,
                         const LayerNormGradients<ElementOf<X>, X::rank()>& gradients) {
    using T = ElementOf<X>;
    detail::norm_backward<T, X::rank()>(
        "layer_norm_backward", x, weight, dy, {gradients.dx, gradients.dweight, gradients.dbias},
        [epsilon](TensorView<const T, 1> row) { return detail::layer_norm_scale<T>(row, epsilon); },
        true);
}

/// Where the gradients of `rms_norm` go; an empty view means "not wanted".
template <ComputeScalar T, int Rank>
struct RmsNormGradients {
    TensorView<T, Rank> dx = {};    ///< the shape of x, overwritten
    TensorView<T, 1> dweight = {};  ///< [features], added to
};

/// The gradients of a loss with respect to input and weight of `rms_norm`, as layer_norm_backward.
/// With n = x r, r = 1 / sqrt(mean(x^2) + epsilon) and g = dy * weight, row by row:
///
///     dx = r (g - n mean(g n)),    dweight += dy n
template <TensorLike X>
void rms_norm_backward(const X& x, InputView<ElementOf<X>, 1> weight, double epsilon,
                       InputView<ElementOf<X>, X::rank()> dy,
                       const RmsNormGradients<ElementOf<X>, X::rank()>& gradients) {
    using T = ElementOf<X>;
    detail::norm_backward<T, X::rank()>(
        "rms_norm_backward", x, weight, dy, {gradients.dx, gradients.dweight, {}},
        [epsilon](TensorView<const T, 1> row) { return detail::rms_norm_scale<T>(row, epsilon); },
        false);
}

}  // namespace heed::inline v0
