#pragma once
// How is a tensor filled with numbers that are the same on every machine?
// Writes the view it is given; element n depends on the seed and on n alone (row-major order).

#include <cmath>
#include <cstdint>
#include <numbers>

#include "heed/tensor/elementwise.hpp"
#include "heed/tensor/philox.hpp"

namespace heed::inline v0 {

namespace detail {

/// The two numbers in [0, 1) that belong to element n, with 32 bits each.
inline std::array<double, 2> uniform_pair(std::uint64_t seed, std::uint64_t n) {
    const PhiloxCounter bits =
        philox({static_cast<std::uint32_t>(n), static_cast<std::uint32_t>(n >> 32), 0, 0},
               philox_key(seed));
    return {bits[0] * 0x1p-32, bits[1] * 0x1p-32};
}

}  // namespace detail

/// Independent values uniform in [low, high), rounded to T (so that a half type may reach high).
/// Throws ArgumentError unless low <= high with a finite difference.
template <StorageScalar T, int Rank>
void fill_uniform(TensorView<T, Rank> target, std::uint64_t seed, double low = 0.0,
                  double high = 1.0) {
    if (!(low <= high) || !std::isfinite(high - low))
        detail::fail<ArgumentError>("fill_uniform",
                                    "low must not exceed high, and their difference ",
                                    "must be finite; found low ", low, ", high ", high);
    std::uint64_t n = 0;
    detail::for_each_element(
        [&](T& element) {
            element = detail::convert<T>(low + (high - low) * detail::uniform_pair(seed, n++)[0]);
        },
        target);
}

/// Independent values from the normal distribution, by the Box-Muller transform.
/// Throws ArgumentError unless deviation >= 0 and both are finite.
template <StorageScalar T, int Rank>
void fill_normal(TensorView<T, Rank> target, std::uint64_t seed, double mean = 0.0,
                 double deviation = 1.0) {
    if (!(deviation >= 0.0) || !std::isfinite(mean + deviation))
        detail::fail<ArgumentError>("fill_normal",
                                    "mean and deviation must be finite, the latter 0 ",
                                    "or more; found mean ", mean, ", deviation ", deviation);
    std::uint64_t n = 0;
    detail::for_each_element(
        [&](T& element) {
            const auto [u, angle] = detail::uniform_pair(seed, n++);
            // 1 - u is in (0, 1], so that the logarithm is finite.
            const double radius = std::sqrt(-2.0 * std::log(1.0 - u));
            element = detail::convert<T>(mean + deviation * radius *
                                                    std::cos(2.0 * std::numbers::pi * angle));
        },
        target);
}

}  // namespace heed::inline v0
