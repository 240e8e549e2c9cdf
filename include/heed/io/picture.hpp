#pragma once
// How is a picture drawn and made a PNG?
// Owns its pixels; draws rectangles and short texts, cut at its edges; writes no file by itself.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "heed/base/checked_size.hpp"
#include "heed/io/colour_map.hpp"
#include "heed/io/label.hpp"
#include "heed/io/stb.hpp"

namespace heed::inline v0::detail {

/// A rectangle of pixels.
struct Box {
    Index x = 0;
    Index y = 0;
    Index width = 0;
    Index height = 0;
};

/// Texts in the font of stb_easy_font: capitals 7 pixels high, times a whole number. It has ASCII
/// only; the word marks of tokenisers become '_', other characters '?'.
class PixelText {
  public:
    explicit PixelText(const Label& label, Index scale) : scale_(scale) {
        std::string ascii;
        for (const Glyph& glyph : label.glyphs()) {
            const bool word_mark = glyph.code == 0x2581 || glyph.code == 0x0120;
            if (glyph.width > 0) ascii += glyph.code < 0x80 ? glyph.text[0] : word_mark ? '_' : '?';
        }
        width_ = stb::stb_easy_font_width(ascii.data());
        std::vector<Vertex> vertices(ascii.size() * vertices_per_letter);
        const int boxes =
            stb::stb_easy_font_print(0, 0, ascii.data(), nullptr, vertices.data(),
                                     static_cast<int>(vertices.size() * sizeof(Vertex)));
        for (std::size_t i = 0; i < static_cast<std::size_t>(boxes); ++i)
            boxes_.push_back(box_of(vertices[4 * i], vertices[4 * i + 2]));
    }
    PixelText(std::string_view text, Index scale) : PixelText(Label(text), scale) {}

    [[nodiscard]] Index width() const { return width_ * scale_; }
    [[nodiscard]] static Index height(Index scale) { return 7 * scale; }
    [[nodiscard]] Index height() const { return height(scale_); }

    /// The strokes of the letters, from the upper left corner of the text.
    [[nodiscard]] Box stroke(std::size_t i) const {
        const Box& b = boxes_[i];
        return {b.x * scale_, b.y * scale_, b.width * scale_, b.height * scale_};
    }
    [[nodiscard]] std::size_t stroke_count() const { return boxes_.size(); }

  private:
    /// As stb_easy_font writes them; its documentation says 270 bytes a letter on average.
    struct Vertex {
        float x, y, z;
        std::array<unsigned char, 4> colour;
    };
    static constexpr std::size_t vertices_per_letter = 100;

    static Box box_of(const Vertex& corner, const Vertex& opposite) {
        const auto whole = [](float x) { return static_cast<Index>(x); };
        return {whole(corner.x), whole(corner.y), whole(opposite.x - corner.x),
                whole(opposite.y - corner.y)};
    }

    Index scale_;
    Index width_ = 0;
    std::vector<Box> boxes_;
};

/// Pixels of 24 bits, white at first.
class Picture {
  public:
    /// Throws ArgumentError above 2^26 pixels.
    Picture(std::string_view where, Index width, Index height) : width_(width), height_(height) {
        constexpr Index most = Index{1} << 26;
        if (width > most || height > most || width * height > most)
            fail<ArgumentError>(where, "a picture may have 2^26 pixels; found ", width, " x ",
                                height);
        pixels_.assign(static_cast<std::size_t>(width * height), Rgb{255, 255, 255});
    }

    void fill(const Box& box, Rgb colour) {
        const Index left = std::clamp<Index>(box.x, 0, width_);
        const Index right = std::clamp<Index>(box.x + box.width, left, width_);
        const Index top = std::clamp<Index>(box.y, 0, height_);
        const Index bottom = std::clamp<Index>(box.y + box.height, top, height_);
        for (Index y = top; y < bottom; ++y) {
            const auto row = pixels_.begin() + y * width_;
            std::fill(row + left, row + right, colour);
        }
    }

    /// A frame of one pixel just outside the box.
    void frame(const Box& b, Rgb colour) {
        fill({b.x - 1, b.y - 1, b.width + 2, 1}, colour);
        fill({b.x - 1, b.y + b.height, b.width + 2, 1}, colour);
        fill({b.x - 1, b.y - 1, 1, b.height + 2}, colour);
        fill({b.x + b.width, b.y - 1, 1, b.height + 2}, colour);
    }

    /// A text from left to right; (x, y) is its upper left corner.
    void write(const PixelText& text, Index x, Index y, Rgb colour) {
        for (std::size_t i = 0; i < text.stroke_count(); ++i) {
            const Box s = text.stroke(i);
            fill({x + s.x, y + s.y, s.width, s.height}, colour);
        }
    }

    /// A text from bottom to top; (x, y) is its lower left corner, where it begins.
    void write_upwards(const PixelText& text, Index x, Index y, Rgb colour) {
        for (std::size_t i = 0; i < text.stroke_count(); ++i) {
            const Box s = text.stroke(i);
            fill({x + s.y, y - s.x - s.width, s.height, s.width}, colour);
        }
    }

    /// The bytes of a PNG file, the same on every machine.
    [[nodiscard]] std::vector<std::byte> png() const {
        std::vector<std::byte> bytes;
        const auto append = [](void* target, void* data, int size) {
            const auto* const begin = static_cast<const std::byte*>(data);
            static_cast<std::vector<std::byte>*>(target)->insert(
                static_cast<std::vector<std::byte>*>(target)->end(), begin, begin + size);
        };
        static_assert(sizeof(Rgb) == 3);
        if (stb::stbi_write_png_to_func(append, &bytes, static_cast<int>(width_),
                                        static_cast<int>(height_), 3, pixels_.data(),
                                        static_cast<int>(width_ * 3)) == 0)
            throw std::bad_alloc();
        return bytes;
    }

  private:
    Index width_;
    Index height_;
    std::vector<Rgb> pixels_;
};

}  // namespace heed::inline v0::detail
