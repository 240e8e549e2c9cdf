#pragma once
// Which number types can be stored, and in which type is computed with them?
// Knows number types only. Half types are storage: they are widened when read, rounded when
// written.

#include <Eigen/Core>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "heed/base/config.hpp"

namespace heed::inline v0 {

using half = Eigen::half;
using bfloat16 = Eigen::bfloat16;

/// Types that heed computes in.
template <class T>
concept ComputeScalar = std::same_as<T, float> || std::same_as<T, double>;

/// Types that tensors of numbers may hold.
template <class T>
concept StorageScalar = ComputeScalar<T> || std::same_as<T, half> || std::same_as<T, bfloat16>;

namespace detail {

template <StorageScalar T>
struct ComputeTypeOf {
    using type = std::conditional_t<ComputeScalar<T>, T, float>;
};

}  // namespace detail

/// The type in which products, sums and exponentials of stored T are formed: float for the half
/// types, T itself otherwise.
template <StorageScalar T>
using ComputeType = typename detail::ComputeTypeOf<std::remove_cv_t<T>>::type;

namespace detail {

/// The float nearest to a double; an infinity beyond the range, where a plain static_cast is
/// undefined.
inline float nearest_float(double value) {
    constexpr float largest = std::numeric_limits<float>::max();
    constexpr float infinity = std::numeric_limits<float>::infinity();
    // Halfway from the largest float to 2^128, a tie that goes to the even one: infinity.
    constexpr double beyond = 0x1.ffffffp127;
    if (value >= beyond) return infinity;
    if (value <= -beyond) return -infinity;
    if (value > largest) return largest;
    if (value < -largest) return -largest;
    return static_cast<float>(value);
}

/// A double cut to float with the last bit set whenever something was cut off. Rounding that again
/// to a half type ends where a single rounding would have; the nearest float may lie exactly in
/// the middle of two halves, and the second rounding would not know from which side it came.
inline float odd_float(double value) {
    const float nearest = nearest_float(value);
    const bool exact = static_cast<double>(nearest) == value;
    const bool odd = (std::bit_cast<std::uint32_t>(nearest) & 1) != 0;
    if (exact || odd || !std::isfinite(nearest)) return nearest;
    constexpr float infinity = std::numeric_limits<float>::infinity();
    return std::nextafter(nearest, value > nearest ? infinity : -infinity);
}

/// Converts between number types as IEEE 754 does: to the nearest value, the even one of two; a
/// value beyond the target's range becomes an infinity.
template <StorageScalar To, class From>
To convert(From value) {
    if constexpr (std::same_as<To, From>) {
        return value;
    } else if constexpr (std::same_as<From, double>) {
        if constexpr (std::same_as<To, float>)
            return nearest_float(value);
        else
            return static_cast<To>(odd_float(value));
    } else if constexpr (ComputeScalar<To>) {
        return static_cast<To>(value);
    } else {
        return static_cast<To>(static_cast<float>(value));
    }
}

}  // namespace detail
}  // namespace heed::inline v0
