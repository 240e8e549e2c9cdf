#pragma once
// What are the weights of a row of scores, and its log-sum-exp?
// Works on one row in place; knows rows, not heads; allocates nothing.

#include <cmath>
#include <limits>
#include <span>
#include <type_traits>

#include "heed/base/scalar.hpp"

namespace heed::inline v0 {

namespace detail {

/// m = max_j x_j and sum_j exp(x_j - m), whose logarithm is the log-sum-exp less m.
template <class T>
struct ExponentialSum {
    T largest;
    T sum;
};

/// For a row without a finite or larger entry (an empty row included), m is minus infinity and the
/// sum 1; m is NaN when the row holds a NaN, and plus infinity, with the sum 1, when it holds plus
/// infinity.
template <ComputeScalar T>
[[nodiscard]] ExponentialSum<T> exponential_sum(std::span<const T> row) {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    T largest = -infinity;
    // A NaN never compares greater, so it is looked for by itself: no lane order can lose it.
    bool has_nan = false;
    for (T x : row) {
        has_nan |= std::isnan(x);
        largest = x > largest ? x : largest;
    }
    if (has_nan) return {std::numeric_limits<T>::quiet_NaN(), T(1)};
    if (std::isinf(largest)) return {largest, T(1)};
    T sum = 0;
    for (T x : row) sum += std::exp(x - largest);
    return {largest, sum};
}

}  // namespace detail

/// log(sum_j exp(x_j)), computed as m + log(sum_j exp(x_j - m)) with m = max_j x_j.
/// Minus infinity for a row without a finite or larger entry (an empty row included); NaN when the
/// row holds a NaN; plus infinity when it holds plus infinity.
template <ComputeScalar T>
[[nodiscard]] T log_sum_exp(std::span<const T> row) {
    const auto [largest, sum] = detail::exponential_sum(row);
    return largest + std::log(sum);
}

/// Replaces the scores by exp(x_j - m) / sum_i exp(x_i - m) with m = max_i x_i, and returns the
/// row's log-sum-exp. The weights are 0 or more and sum to 1; entries of minus infinity get
/// exactly 0. A row with nothing but minus infinity becomes all zeros (log-sum-exp minus
/// infinity); a row with a NaN or plus infinity becomes all NaN.
/// A `sink` below infinity is one more score, which takes part in the maximum, the sum and the
/// log-sum-exp and gets no weight; minus infinity is none.
/// Cost: three passes. Source: the stable form of Blanchard, Higham, Higham, "Accurately computing
/// the log-sum-exp and softmax functions", IMA J. Numer. Anal. 41 (2021).
template <ComputeScalar T>
T softmax(std::span<T> row, std::type_identity_t<T> sink = -std::numeric_limits<T>::infinity()) {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    T largest = sink;
    bool has_nan = false;
    for (T x : row) {
        has_nan |= std::isnan(x);
        largest = x > largest ? x : largest;
    }
    if (has_nan || largest == infinity) {
        for (T& x : row) x = std::numeric_limits<T>::quiet_NaN();
        return has_nan ? std::numeric_limits<T>::quiet_NaN() : infinity;
    }
    if (largest == -infinity) {
        for (T& x : row) x = 0;
        return -infinity;
    }
    T sum = std::exp(sink - largest);
    for (T& x : row) sum += x = std::exp(x - largest);
    for (T& x : row) x /= sum;
    return largest + std::log(sum);
}

}  // namespace heed::inline v0
