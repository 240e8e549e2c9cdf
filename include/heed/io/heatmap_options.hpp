#pragma once
// What can be asked of a heatmap, in a terminal or as a picture?
// Plain values, checked against the matrix; draws nothing.

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "heed/io/colour_map.hpp"
#include "heed/tensor/shape.hpp"

namespace heed::inline v0 {

/// Which colours a terminal is sent.
enum class Colouring {
    automatic,    ///< what the terminal can show; none when it is no terminal or NO_COLOR is set
    none,         ///< plain ASCII, but for what labels hold
    ansi_256,     ///< the 256 colours of most terminals
    true_colour,  ///< 24 bits
};

/// What stands for one element in a terminal.
enum class HeatmapCells {
    automatic,    ///< values up to 12 columns, then blocks, then half blocks if rows have no labels
    values,       ///< a number
    blocks,       ///< two columns, which make about a square
    half_blocks,  ///< one column and half a line
};

/// Options of print_heatmap, write_heatmap_png and write_heatmap_grid_png.
struct HeatmapOptions {
    std::string title = {};

    /// UTF-8; one for each row (query), one for each column (key), or none at all.
    std::vector<std::string> row_labels = {};
    std::vector<std::string> column_labels = {};

    /// The numbers of the first and last colour. By default from 0 (or the smallest number, if
    /// that is below) to the largest.
    std::optional<double> low = std::nullopt;
    std::optional<double> high = std::nullopt;

    /// Terminal only.
    Colouring colours = Colouring::automatic;
    HeatmapCells cells = HeatmapCells::automatic;

    /// Picture only: width and height of an element in pixels; 0 chooses.
    Index cell_pixels = 0;

    /// Grid only: one for each head; "head 0" and so on when there are none.
    std::vector<std::string> head_labels = {};
};

namespace detail {

inline constexpr std::size_t longest_title = 200;

inline void require_labels(std::string_view where, std::string_view what,
                           const std::vector<std::string>& labels, Index count) {
    if (!labels.empty() && std::ssize(labels) != count)
        fail<ShapeError>(where, "there must be one label for each ", what, ", or none; found ",
                         labels.size(), " for ", count);
}

/// Checks the numbers among the options and resolves the range of colours.
template <class X>
[[nodiscard]] ValueRange checked_range(std::string_view where, const X& values,
                                       const HeatmapOptions& options) {
    const auto bad = [](const std::optional<double>& end) { return end && !std::isfinite(*end); };
    if (bad(options.low) || bad(options.high) ||
        (options.low && options.high && !(*options.low < *options.high)))
        fail<ArgumentError>(where, "low must be below high, both finite; found low ",
                            options.low.value_or(0), ", high ", options.high.value_or(0));
    if (options.cell_pixels < 0 || options.cell_pixels > 1024)
        fail<ArgumentError>(where, "cell_pixels must be 0 to 1024; found ", options.cell_pixels);
    return value_range(values, options.low, options.high);
}

/// A number with two decimals, or with an exponent where those would say little.
[[nodiscard]] inline std::string value_text(double value, const ValueRange& range) {
    if (std::isnan(value)) return "nan";
    if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
    const double largest = std::max(std::abs(range.low), std::abs(range.high));
    const bool fixed = largest >= 0.05 && largest < 1000.0 && std::abs(value) < 1000.0;
    std::array<char, 32> text{};
    const auto end =
        fixed
            ? std::to_chars(text.begin(), text.end(), value, std::chars_format::fixed, 2).ptr
            : std::to_chars(text.begin(), text.end(), value, std::chars_format::scientific, 1).ptr;
    const std::string result(text.begin(), end);
    return result == "-0.00" ? "0.00" : result;
}

}  // namespace detail
}  // namespace heed::inline v0
