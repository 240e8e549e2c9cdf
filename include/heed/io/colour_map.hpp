#pragma once
// Which colour has a number?
// Pure functions of numbers; draws nothing.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>

#include "heed/tensor/elementwise.hpp"

namespace heed::inline v0 {

/// A colour of sRGB, 8 bits a channel.
struct Rgb {
    std::uint8_t red = 0;
    std::uint8_t green = 0;
    std::uint8_t blue = 0;

    friend bool operator==(const Rgb&, const Rgb&) = default;
};

/// From dark violet for 0 over green to light yellow for 1, each step as much lighter as any other;
/// numbers outside are cut, NaN is grey. Source: matplotlib's viridis at ten places (CC0).
[[nodiscard]] inline Rgb colour_of(double x) {
    static constexpr std::array<Rgb, 10> places{{{0x44, 0x01, 0x54},
                                                 {0x48, 0x28, 0x78},
                                                 {0x3E, 0x49, 0x89},
                                                 {0x31, 0x68, 0x8E},
                                                 {0x26, 0x82, 0x8E},
                                                 {0x1F, 0x9E, 0x89},
                                                 {0x35, 0xB7, 0x79},
                                                 {0x6E, 0xCE, 0x58},
                                                 {0xB5, 0xDE, 0x2B},
                                                 {0xFD, 0xE7, 0x25}}};
    if (std::isnan(x)) return {0x90, 0x90, 0x90};
    const double place = std::clamp(x, 0.0, 1.0) * (places.size() - 1);
    const std::size_t below = std::min(static_cast<std::size_t>(place), places.size() - 2);
    const double part = place - static_cast<double>(below);
    const auto between = [part](std::uint8_t a, std::uint8_t b) {
        return static_cast<std::uint8_t>(std::lround(a + part * (b - a)));
    };
    const Rgb a = places[below], b = places[below + 1];
    return {between(a.red, b.red), between(a.green, b.green), between(a.blue, b.blue)};
}

/// Black or white, whichever can be read on this colour.
[[nodiscard]] inline Rgb readable_on(Rgb colour) {
    // Luma of ITU-R BT.601.
    const double luma = 0.299 * colour.red + 0.587 * colour.green + 0.114 * colour.blue;
    return luma > 125.0 ? Rgb{0, 0, 0} : Rgb{255, 255, 255};
}

/// The numbers that get the first and the last colour.
struct ValueRange {
    double low = 0.0;
    double high = 1.0;

    /// The place of a number in the range, 0 to 1 inside.
    [[nodiscard]] double place_of(double value) const { return (value - low) / (high - low); }
    [[nodiscard]] Rgb colour_of(double value) const { return v0::colour_of(place_of(value)); }
};

/// The range of some numbers: from 0, or the smallest if that is below, to the largest; infinities
/// and NaN apart. Either end may be given. An empty range becomes one of width 1.
template <TensorLike X>
[[nodiscard]] ValueRange value_range(const X& values, std::optional<double> low = std::nullopt,
                                     std::optional<double> high = std::nullopt) {
    double smallest = 0.0, largest = -std::numeric_limits<double>::infinity();
    detail::for_each_element(
        [&](const auto& element) {
            const auto value = static_cast<double>(element);
            if (!std::isfinite(value)) return;
            smallest = std::min(smallest, value);
            largest = std::max(largest, value);
        },
        read(values));
    ValueRange range{low.value_or(smallest), high.value_or(largest)};
    if (!(range.high > range.low)) range.high = range.low + 1.0;
    return range;
}

}  // namespace heed::inline v0
