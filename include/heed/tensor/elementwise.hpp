#pragma once
// How does one visit, copy, fill or compare every element, whatever the strides are?
// Reads and writes the views it is given, row by row in row-major order; allocates nothing.

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "heed/tensor/view.hpp"

namespace heed::inline v0 {

/// A tensor or view, or anything else that converts to a view of its own rank and element type.
template <class X>
concept TensorLike = requires {
    typename std::remove_cvref_t<X>::element_type;
    { std::remove_cvref_t<X>::rank() } -> std::convertible_to<int>;
    requires std::convertible_to < X&&,
        TensorView < const typename std::remove_cvref_t<X>::value_type,
        std::remove_cvref_t<X>::rank()
    >> ;
};

/// The number type of a tensor or view, without const.
template <TensorLike X>
using ElementOf = std::remove_cv_t<typename std::remove_cvref_t<X>::element_type>;

/// The read-only view of a tensor or view.
template <TensorLike X>
[[nodiscard]] TensorView<const ElementOf<X>, std::remove_cvref_t<X>::rank()> read(const X& x) {
    return x;
}

namespace detail {

/// Calls f(a, b, ...) for the elements at every position of views that have the same shape.
template <class F, class First, class... Rest, int Rank>
void for_each_element(const F& f, TensorView<First, Rank> first, TensorView<Rest, Rank>... rest) {
    if constexpr (Rank == 1) {
        for (Index i = 0; i < first.extent(0); ++i) f(first(i), rest(i)...);
    } else {
        for (Index i = 0; i < first.extent(0); ++i)
            for_each_element(f, first.select(0, i), rest.select(0, i)...);
    }
}

}  // namespace detail

namespace detail {

template <class From, class To, int Rank>
void copy_elements(TensorView<From, Rank> source, TensorView<To, Rank> target) {
    if constexpr (std::is_same_v<std::remove_const_t<From>, To> && Rank > 1) {
        // As fast as memory is, where nothing has to be converted.
        if (source.has_contiguous_rows() && target.has_contiguous_rows()) {
            for (Index i = 0; i < source.extent(0); ++i) {
                if constexpr (Rank == 2)
                    std::copy_n(source.row(i), source.extent(1), target.row(i));
                else
                    copy_elements(source.select(0, i), target.select(0, i));
            }
            return;
        }
    }
    for_each_element(
        [](const auto& from, To& to) {
            if constexpr (StorageScalar<To>)
                to = convert<To>(from);
            else
                to = static_cast<To>(from);
        },
        source, target);
}

}  // namespace detail

/// Copies every element, converting between number types as IEEE 754 rounds.
/// The views may have any strides but must not overlap. Throws ShapeError when shapes differ.
template <class From, class To, int Rank>
void copy(TensorView<From, Rank> source, TensorView<To, Rank> target) {
    static_assert(!std::is_const_v<To>, "the target of a copy must be writable");
    detail::require_shape("copy", "the target", target.shape(), source.shape());
    detail::copy_elements(source, target);
}

/// Sets every element to the same value.
template <class T, int Rank>
void fill(TensorView<T, Rank> target, std::type_identity_t<T> value) {
    if constexpr (Rank == 1) {
        if (target.has_contiguous_rows()) {
            std::fill_n(target.data(), target.extent(0), value);
            return;
        }
        detail::for_each_element([value](T& element) { element = value; }, target);
    } else {
        for (Index i = 0; i < target.extent(0); ++i) fill(target.select(0, i), value);
    }
}

/// target += source, element by element. Throws ShapeError when shapes differ.
template <class T, int Rank>
void add(InputView<T, Rank> source, TensorView<T, Rank> target) {
    detail::require_shape("add", "the target", target.shape(), source.shape());
    detail::for_each_element([](const T& from, T& to) { to += from; }, source, target);
}

/// True when |a - b| <= atol + rtol * |b| at every position, as in NumPy: equal infinities agree,
/// NaN agrees with nothing. Throws ShapeError when the shapes differ.
template <TensorLike A, TensorLike B>
[[nodiscard]] bool all_close(const A& a, const B& b, double rtol = 1e-5, double atol = 1e-8) {
    const auto x = read(a);
    const auto y = read(b);
    detail::require_shape("all_close", "the second tensor", y.shape(), x.shape());
    bool close = true;
    detail::for_each_element(
        [&](const auto& left, const auto& right) {
            const auto l = static_cast<double>(left), r = static_cast<double>(right);
            const bool agree =
                l == r || (std::isfinite(r) && std::abs(l - r) <= atol + rtol * std::abs(r));
            close = close && agree;
        },
        x, y);
    return close;
}

}  // namespace heed::inline v0
