#pragma once
// How does a matrix look in a terminal?
// Writes lines to the stream it is given, nowhere else; asks the environment about colours only
// when told to choose them.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>
#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

#include "heed/io/heatmap_options.hpp"
#include "heed/io/label.hpp"

namespace heed::inline v0 {

namespace detail {

/// True for std::cout, std::cerr and std::clog when a person sees them.
[[nodiscard]] inline bool is_terminal(const std::ostream& out) {
#if __has_include(<unistd.h>)
    if (&out == &std::cout) return isatty(STDOUT_FILENO) != 0;
    if (&out == &std::cerr || &out == &std::clog) return isatty(STDERR_FILENO) != 0;
#endif
    (void)out;
    return false;
}

/// What the environment says of colours: no-color.org, and the customs of terminals.
[[nodiscard]] inline Colouring colouring_of(const std::ostream& out) {
    const auto variable = [](const char* name) {
        const char* value = std::getenv(name);
        return std::string_view(value == nullptr ? "" : value);
    };
    if (!is_terminal(out) || !variable("NO_COLOR").empty() || variable("TERM") == "dumb")
        return Colouring::none;
    const std::string_view depth = variable("COLORTERM");
    return depth == "truecolor" || depth == "24bit" ? Colouring::true_colour : Colouring::ansi_256;
}

/// The escape sequences for the colours of places in a range (colour_of); none without colours.
class Ink {
  public:
    explicit Ink(Colouring colours) : colours_(colours) {}

    [[nodiscard]] bool is_plain() const { return colours_ == Colouring::none; }
    [[nodiscard]] std::string behind(double place) const { return sequence("48;", place); }
    [[nodiscard]] std::string in(double place) const { return sequence("38;", place); }
    [[nodiscard]] std::string off() const { return is_plain() ? "" : "\x1b[0m"; }

    /// Behind, and letters that can be read on it.
    [[nodiscard]] std::string behind_text(double place) const {
        if (is_plain()) return {};
        const bool dark = readable_on(v0::colour_of(place)) == Rgb{255, 255, 255};
        const std::string_view letters = colours_ == Colouring::ansi_256
                                             ? (dark ? "5;231" : "5;16")
                                             : (dark ? "2;255;255;255" : "2;0;0;0");
        return behind(place) + "\x1b[38;" + std::string(letters) + "m";
    }

  private:
    [[nodiscard]] std::string sequence(std::string_view plane, double place) const {
        if (is_plain()) return {};
        const std::string start = "\x1b[" + std::string(plane);
        if (colours_ == Colouring::ansi_256)
            return start + "5;" + std::to_string(number_of(place)) + "m";
        const Rgb c = v0::colour_of(place);
        return start + "2;" + std::to_string(c.red) + ";" + std::to_string(c.green) + ";" +
               std::to_string(c.blue) + "m";
    }

    /// The map in the terminal's palette. Not the palette's nearest colours: those do not get
    /// lighter all the way, for its darkest step is large.
    [[nodiscard]] static int number_of(double place) {
        static constexpr std::array<int, 8> palette{53, 55, 24, 30, 36, 77, 148, 220};
        if (std::isnan(place)) return 246;
        const double step = std::clamp(place, 0.0, 1.0) * (palette.size() - 1);
        return palette[static_cast<std::size_t>(std::lround(step))];
    }

    Colouring colours_;
};

/// The drawing of one matrix as lines of text.
template <class T>
class TextHeatmap {
  public:
    TextHeatmap(TensorView<const T, 2> values, const HeatmapOptions& options, ValueRange range,
                Colouring colours)
        : values_(values),
          options_(options),
          range_(range),
          ink_(colours),
          cells_(options.cells == HeatmapCells::automatic ? chosen_cells() : options.cells) {
        for (const std::string& label : options.row_labels) rows_.emplace_back(label);
        for (const std::string& label : options.column_labels) columns_.emplace_back(label);
        for (const Label& label : rows_) margin_ = std::max(margin_, label.width());
        margin_ = std::min(margin_, longest_row_label);
        if (margin_ > 0) ++margin_;  // a blank before the cells
        for_each_element(
            [this](const T& value) {
                const auto text = value_text(static_cast<double>(value), range_);
                value_width_ = std::max(value_width_, text.size());
            },
            values_);
        cell_width_ = chosen_width();
    }

    [[nodiscard]] std::string text() {
        if (!options_.title.empty()) line(Label(options_.title).fitted(longest_title));
        if (cells_ == HeatmapCells::values)
            column_labels_across();
        else
            column_labels_down();
        const Index step = half() && !ink_.is_plain() ? 2 : 1;
        for (Index i = 0; i < values_.extent(0); i += step) line(row_label(i) + cells(i));
        if (cells_ != HeatmapCells::values) legend();
        return std::move(text_);
    }

  private:
    static constexpr std::size_t longest_row_label = 24;
    static constexpr std::size_t longest_column_label = 12;
    static constexpr std::string_view shades = " .:-=+*#%@";

    [[nodiscard]] HeatmapCells chosen_cells() const {
        if (values_.extent(1) <= 12) return HeatmapCells::values;
        return values_.extent(1) <= 48 || !options_.row_labels.empty() ? HeatmapCells::blocks
                                                                       : HeatmapCells::half_blocks;
    }

    [[nodiscard]] bool half() const { return cells_ == HeatmapCells::half_blocks; }

    /// Columns of text for one element.
    [[nodiscard]] std::size_t chosen_width() const {
        if (half()) return 1;
        if (cells_ == HeatmapCells::blocks) return 2;
        std::size_t widest = value_width_ + (ink_.is_plain() ? 3 : 0);  // two shades and a blank
        for (const Label& label : columns_)
            widest = std::max(widest, std::min(label.width(), longest_column_label));
        return widest + 2;
    }

    void line(std::string text) {
        while (text.ends_with(' ')) text.pop_back();
        text_ += text + '\n';
    }

    [[nodiscard]] std::string row_label(Index i) const {
        if (rows_.empty()) return {};
        const Label& label = rows_[static_cast<std::size_t>(i)];
        return label.aligned(margin_ - 1, Label::Side::right) + ' ';
    }

    void column_labels_across() {
        if (columns_.empty()) return;
        std::string text(margin_, ' ');
        // In colour the numbers stand in the middle of their cells, in plain text at the right.
        for (const Label& label : columns_)
            text += ink_.is_plain()
                        ? "  " + label.aligned(cell_width_ - 2, Label::Side::right)
                        : " " + label.aligned(cell_width_ - 2, Label::Side::centre) + " ";
        line(text);
    }

    /// Labels from top to bottom, a character a line, all ending just above the cells.
    void column_labels_down() {
        std::size_t longest = 0;
        for (const Label& label : columns_)
            longest = std::max(longest, std::min(label.glyphs().size(), longest_column_label));
        for (std::size_t down = 0; down < longest; ++down) {
            std::string text(margin_, ' ');
            for (const Label& label : columns_) text += letter(label, down, longest);
            line(text);
        }
    }

    /// What a label shows in one of the lines above its column.
    [[nodiscard]] std::string letter(const Label& label, std::size_t down,
                                     std::size_t longest) const {
        const auto& glyphs = label.glyphs();
        const std::size_t shown = std::min(glyphs.size(), longest_column_label);
        const std::size_t above = longest - shown;
        if (down < above) return std::string(cell_width_, ' ');
        const Glyph& glyph = glyphs[down - above];
        const bool cut = glyphs.size() > shown && down + 1 == longest;
        if (cut || glyph.width > cell_width_) return "~" + std::string(cell_width_ - 1, ' ');
        return glyph.text + std::string(cell_width_ - glyph.width, ' ');
    }

    /// The cells of row i; of half blocks in colour, those of row i + 1 below them.
    [[nodiscard]] std::string cells(Index i) const {
        std::string text;
        for (Index j = 0; j < values_.extent(1); ++j) text += cell(i, j);
        return text + (values_.extent(1) > 0 ? ink_.off() : "");
    }

    [[nodiscard]] std::string cell(Index i, Index j) const {
        const double value = at(i, j);
        if (ink_.is_plain()) return plain_cell(value);
        const double place = range_.place_of(value);
        if (half()) {
            const bool last = i + 1 == values_.extent(0);
            const std::string below = last ? "" : ink_.behind(range_.place_of(at(i + 1, j)));
            return ink_.in(place) + below + "\u2580";  // upper half block
        }
        if (cells_ == HeatmapCells::blocks) return ink_.behind(place) + "  ";
        return ink_.behind_text(place) +
               Label(value_text(value, range_)).aligned(cell_width_, Label::Side::centre);
    }

    [[nodiscard]] std::string plain_cell(double value) const {
        const std::string shade(half() ? 1 : 2, shade_of(value));
        if (cells_ != HeatmapCells::values) return shade;
        const Label number(value_text(value, range_));
        const std::string text = shade + ' ' + number.aligned(value_width_, Label::Side::right);
        return std::string(cell_width_ - text.size(), ' ') + text;
    }

    [[nodiscard]] char shade_of(double value) const {
        if (std::isnan(value)) return '?';
        const double place = std::clamp(range_.place_of(value), 0.0, 1.0);
        return shades[static_cast<std::size_t>(std::lround(place * (shades.size() - 1)))];
    }

    /// The colours or shades in order, between the numbers they begin and end with.
    void legend() {
        std::string scale = ink_.is_plain() ? std::string(shades) : "";
        for (int step = 0; step < 24 && !ink_.is_plain(); ++step)
            scale += ink_.behind(step / 23.0) + ' ';
        line(std::string(margin_, ' ') + value_text(range_.low, range_) + " [" + scale +
             ink_.off() + "] " + value_text(range_.high, range_));
    }

    [[nodiscard]] double at(Index i, Index j) const { return static_cast<double>(values_(i, j)); }

    TensorView<const T, 2> values_;
    const HeatmapOptions& options_;
    ValueRange range_;
    Ink ink_;
    HeatmapCells cells_;
    std::vector<Label> rows_;
    std::vector<Label> columns_;
    std::size_t margin_ = 0;
    std::size_t value_width_ = 4;  ///< of the widest number
    std::size_t cell_width_ = 0;
    std::string text_;
};

}  // namespace detail

/// Draws a matrix, such as the weights of one head, as lines of text: rows (queries) downwards,
/// columns (keys) across, a colour or shade for each number.
///
/// To a terminal it is in colour; to anything else in plain characters, which is the same on every
/// machine. Labels may be any UTF-8; long ones are cut, control characters replaced.
///
/// Throws ShapeError when there are labels, but not one for each row or column; ArgumentError when
/// low is not below high. Source: no-color.org for NO_COLOR.
template <TensorLike X>
requires(std::remove_cvref_t<X>::rank() == 2 &&
         StorageScalar<ElementOf<X>>) void print_heatmap(std::ostream& out, const X& values,
                                                         const HeatmapOptions& options = {}) {
    constexpr std::string_view name = "print_heatmap";
    const auto view = read(values);
    detail::require_labels(name, "row", options.row_labels, view.extent(0));
    detail::require_labels(name, "column", options.column_labels, view.extent(1));
    const ValueRange range = detail::checked_range(name, view, options);
    const Colouring colours =
        options.colours == Colouring::automatic ? detail::colouring_of(out) : options.colours;
    out << detail::TextHeatmap<ElementOf<X>>(view, options, range, colours).text();
}

}  // namespace heed::inline v0
