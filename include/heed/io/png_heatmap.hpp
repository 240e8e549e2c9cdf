#pragma once
// How does a matrix, or one for each head, look as a picture?
// Writes the PNG file that it is told to write, nothing else.

#include <algorithm>
#include <array>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "heed/base/pieces.hpp"
#include "heed/io/file.hpp"
#include "heed/io/heatmap_options.hpp"
#include "heed/io/picture.hpp"

namespace heed::inline v0 {

namespace detail {

/// The picture of a matrix for each head [heads, rows, columns], as tiles side by side. Row labels
/// stand left of the first tiles, column labels above the topmost ones, one legend on the right.
template <class T>
class HeatmapPicture {
  public:
    HeatmapPicture(std::string_view where, TensorView<const T, 3> values,
                   const HeatmapOptions& options, const std::vector<std::string>& captions)
        : values_(values),
          range_(checked_range(where, values, options)),
          cell_(cell_pixels(options)),
          label_scale_(cell_ >= 18 ? 2 : 1),
          scale_(std::min(tile_width(), tile_height()) >= 100 ? 2 : 1),
          title_(Label(options.title).fitted(longest_title), options.title.empty() ? 0 : 2),
          row_labels_(texts(options.row_labels, label_scale_)),
          column_labels_(texts(options.column_labels, label_scale_)),
          captions_(texts(captions, scale_)),
          across_(tiles_across(values.extent(0))) {
        for (const PixelText& label : column_labels_) upright_ &= label.width() <= cell_ - 2;
        left_ = margin + (row_labels_.empty() ? 0 : widest(row_labels_) + gap);
        top_ = margin + (options.title.empty() ? 0 : title_.height() + 2 * gap);
        if (!column_labels_.empty())
            top_ += (upright_ ? PixelText::height(label_scale_) : widest(column_labels_)) + gap;
    }

    [[nodiscard]] Picture drawn(std::string_view where) const {
        const Index down = pieces(values_.extent(0), across_);
        const Index tiles_right = left_ + across_ * tile_width() + (across_ - 1) * tile_gap;
        const Index tiles_bottom = top_ + down * (tile_height() + caption_height()) +
                                   std::max<Index>(down - 1, 0) * tile_gap;
        const Box legend{tiles_right + 2 * gap, top_, 8 * scale_,
                         std::clamp<Index>(tiles_bottom - top_ - caption_height(), 60, 360)};
        const Index right = legend.x + legend.width + gap + legend_width();
        Picture picture(where, std::max(right, margin + title_.width()) + margin,
                        std::max(tiles_bottom, legend.y + legend.height) + margin);
        picture.write(title_, margin, margin, ink);
        for (Index tile = 0; tile < values_.extent(0); ++tile) draw_tile(picture, tile);
        draw_legend(picture, legend);
        return picture;
    }

  private:
    static constexpr Index margin = 20;
    static constexpr Index gap = 8;
    static constexpr Index tile_gap = 24;
    static constexpr std::size_t longest_label = 40;
    static constexpr Rgb ink{0x22, 0x22, 0x22};
    static constexpr Rgb frame_ink{0xB0, 0xB0, 0xB0};

    [[nodiscard]] Index tile_width() const { return values_.extent(2) * cell_; }
    [[nodiscard]] Index tile_height() const { return values_.extent(1) * cell_; }
    [[nodiscard]] Index caption_height() const {
        return captions_.empty() ? 0 : PixelText::height(scale_) + gap;
    }

    /// Large enough for labels to be read, small enough for a screen.
    [[nodiscard]] Index cell_pixels(const HeatmapOptions& options) const {
        if (options.cell_pixels > 0) return options.cell_pixels;
        const bool labelled = !options.row_labels.empty() || !options.column_labels.empty();
        const Index side = std::max<Index>({values_.extent(1), values_.extent(2), 1});
        const Index room = values_.extent(0) > 1 ? 300 : 720;
        return std::clamp<Index>(room / side, labelled ? 10 : 2, values_.extent(0) > 1 ? 32 : 64);
    }

    /// As near to a square as fits without an empty place, if that is at most twice as wide as
    /// high; else simply near to a square.
    static Index tiles_across(Index tiles) {
        Index side = 1;
        while (side * side < tiles) ++side;
        for (Index across = side; across * across <= 3 * tiles; ++across)
            if (tiles % across == 0) return across;
        return side;
    }

    static std::vector<PixelText> texts(const std::vector<std::string>& labels, Index scale) {
        std::vector<PixelText> result;
        for (const std::string& label : labels)
            result.emplace_back(Label(label).fitted(longest_label), scale);
        return result;
    }

    static Index widest(const std::vector<PixelText>& texts) {
        Index width = 0;
        for (const PixelText& text : texts) width = std::max(width, text.width());
        return width;
    }

    void draw_tile(Picture& picture, Index tile) const {
        const Index column = tile % across_, row = tile / across_;
        const Box box{left_ + column * (tile_width() + tile_gap),
                      top_ + row * (tile_height() + caption_height() + tile_gap), tile_width(),
                      tile_height()};
        picture.frame(box, frame_ink);
        for (Index i = 0; i < values_.extent(1); ++i)
            for (Index j = 0; j < values_.extent(2); ++j)
                draw_cell(picture, static_cast<double>(values_(tile, i, j)),
                          {box.x + j * cell_, box.y + i * cell_, cell_, cell_});
        if (column == 0) draw_row_labels(picture, box);
        if (row == 0) draw_column_labels(picture, box);
        if (!captions_.empty()) {
            const PixelText& caption = captions_[static_cast<std::size_t>(tile)];
            picture.write(caption, box.x + (box.width - caption.width()) / 2,
                          box.y + box.height + gap, ink);
        }
    }

    void draw_cell(Picture& picture, double value, const Box& box) const {
        const Rgb colour = range_.colour_of(value);
        picture.fill(box, colour);
        if (cell_ < 16) return;  // too small for any number
        const PixelText number(value_text(value, range_), cell_ >= 64 ? 2 : 1);
        if (number.width() + 4 <= cell_)
            picture.write(number, box.x + (box.width - number.width() + 1) / 2,
                          box.y + (box.height - number.height()) / 2, readable_on(colour));
    }

    void draw_row_labels(Picture& picture, const Box& box) const {
        for (std::size_t i = 0; i < row_labels_.size(); ++i) {
            const PixelText& label = row_labels_[i];
            picture.write(label, box.x - gap - label.width(),
                          box.y + static_cast<Index>(i) * cell_ + (cell_ - label.height()) / 2,
                          ink);
        }
    }

    void draw_column_labels(Picture& picture, const Box& box) const {
        for (std::size_t j = 0; j < column_labels_.size(); ++j) {
            const PixelText& label = column_labels_[j];
            const Index x = box.x + static_cast<Index>(j) * cell_;
            if (upright_)
                picture.write(label, x + (cell_ - label.width() + 1) / 2,
                              box.y - gap - label.height(), ink);
            else
                picture.write_upwards(label, x + (cell_ - label.height()) / 2, box.y - gap, ink);
        }
    }

    /// The range's ends and middle, from above.
    [[nodiscard]] std::array<PixelText, 3> legend_numbers() const {
        const auto number = [this](double value) {
            return PixelText(value_text(value, range_), scale_);
        };
        return {number(range_.high), number(range_.low + (range_.high - range_.low) / 2),
                number(range_.low)};
    }

    [[nodiscard]] Index legend_width() const {
        const auto numbers = legend_numbers();
        return std::max({numbers[0].width(), numbers[1].width(), numbers[2].width()});
    }

    void draw_legend(Picture& picture, const Box& box) const {
        for (Index y = 0; y < box.height; ++y) {
            const double place = static_cast<double>(y) / static_cast<double>(box.height - 1);
            picture.fill({box.x, box.y + y, box.width, 1}, v0::colour_of(1.0 - place));
        }
        picture.frame(box, frame_ink);
        const auto numbers = legend_numbers();
        for (Index i = 0; i < 3; ++i) {
            const PixelText& number = numbers[static_cast<std::size_t>(i)];
            picture.write(number, box.x + box.width + gap,
                          box.y + i * (box.height - number.height()) / 2, ink);
        }
    }

    TensorView<const T, 3> values_;
    ValueRange range_;
    Index cell_;
    Index label_scale_;
    Index scale_;  ///< of captions and legend
    PixelText title_;
    std::vector<PixelText> row_labels_;
    std::vector<PixelText> column_labels_;
    std::vector<PixelText> captions_;
    Index across_;
    bool upright_ = true;  ///< column labels that fit above their cells are not turned
    Index left_ = 0;
    Index top_ = 0;
};

/// Checks the labels, draws, and writes the file in one step.
template <class T>
void write_heatmap(std::string_view where, const std::filesystem::path& path,
                   TensorView<const T, 3> values, const HeatmapOptions& options,
                   const std::vector<std::string>& captions) {
    require_labels(where, "row", options.row_labels, values.extent(1));
    require_labels(where, "column", options.column_labels, values.extent(2));
    require_labels(where, "head", captions, values.extent(0));
    const std::vector<std::byte> png =
        HeatmapPicture<T>(where, values, options, captions).drawn(where).png();
    ReplacementFile file(where, path);
    file.write(png);
    file.keep();
}

}  // namespace detail

/// Draws a matrix, such as the weights of one head, into a PNG file: rows (queries) downwards,
/// columns (keys) across, a colour for each number and the number itself where it fits. The same
/// numbers make the same bytes. Labels are drawn in ASCII, other characters as '?'.
///
/// Throws ShapeError when there are labels, but not one for each row or column; ArgumentError when
/// low is not below high or when the picture would have more than 2^26 pixels; FormatError when
/// the file cannot be written.
template <TensorLike X>
requires(std::remove_cvref_t<X>::rank() == 2 && StorageScalar<ElementOf<X>>) void write_heatmap_png(
    const std::filesystem::path& path, const X& values, const HeatmapOptions& options = {}) {
    detail::write_heatmap("write_heatmap_png", path, read(values).unsqueeze(), options, {});
}

/// The same for several matrices of one shape, such as all heads of a layer [heads, rows, columns],
/// side by side under one range of colours and one legend.
template <TensorLike X>
requires(
    std::remove_cvref_t<X>::rank() == 3 &&
    StorageScalar<ElementOf<X>>) void write_heatmap_grid_png(const std::filesystem::path& path,
                                                             const X& values,
                                                             const HeatmapOptions& options = {}) {
    std::vector<std::string> captions = options.head_labels;
    for (Index head = 0; options.head_labels.empty() && head < read(values).extent(0); ++head)
        captions.push_back("head " + std::to_string(head));
    detail::write_heatmap("write_heatmap_grid_png", path, read(values), options, captions);
}

}  // namespace heed::inline v0
