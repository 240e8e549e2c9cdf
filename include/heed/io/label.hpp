#pragma once
// How much room does a label take, and how is it made to fit?
// Works on UTF-8 text; what would move a terminal's cursor becomes harmless.

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "heed/base/config.hpp"

namespace heed::inline v0::detail {

/// One character of a label as UTF-8, and the columns of a terminal it takes.
struct Glyph {
    std::string text;
    char32_t code = 0;
    std::size_t width = 1;
};

/// The next code point of a text, taken off its front; U+FFFD for a byte that is no UTF-8.
[[nodiscard]] inline char32_t take_code_point(std::string_view& text) {
    constexpr char32_t invalid = 0xFFFD;
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char first = byte(0);
    const std::size_t length = first < 0x80   ? 1
                               : first < 0xC2 ? 0
                               : first < 0xE0 ? 2
                               : first < 0xF0 ? 3
                               : first < 0xF5 ? 4
                                              : 0;
    char32_t code = length <= 1 ? first : first & (0x7F >> length);
    bool valid = length > 0 && length <= text.size();
    for (std::size_t i = 1; valid && i < length; ++i) {
        valid = (byte(i) & 0xC0) == 0x80;
        code = code << 6 | (byte(i) & 0x3F);
    }
    // Overlong forms and halves of surrogate pairs.
    constexpr std::array<char32_t, 5> least{0, 0, 0x80, 0x800, 0x10000};
    valid = valid && code >= least[length] && code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF);
    text.remove_prefix(valid ? length : 1);
    return valid ? code : invalid;
}

[[nodiscard]] inline std::string utf8_of(char32_t code) {
    const auto tail = [code](int shift) {
        return static_cast<char>(0x80U | (code >> shift & 0x3F));
    };
    const auto head = [code](unsigned mark, int shift) {
        return static_cast<char>(mark | code >> shift);
    };
    if (code < 0x80) return {static_cast<char>(code)};
    if (code < 0x800) return {head(0xC0, 6), tail(0)};
    if (code < 0x10000) return {head(0xE0, 12), tail(6), tail(0)};
    return {head(0xF0, 18), tail(12), tail(6), tail(0)};
}

/// Columns that a terminal gives a character: 0 for combining marks, 2 for East Asian wide ones
/// and emoji. The large blocks of Unicode's East Asian Width (UAX 11), not each exception.
[[nodiscard]] inline std::size_t columns_of(char32_t code) {
    struct Block {
        char32_t first, last;
    };
    static constexpr std::array<Block, 5> none{
        {{0x0300, 0x036F}, {0x1AB0, 0x1AFF}, {0x200B, 0x200F}, {0x20D0, 0x20FF}, {0xFE00, 0xFE0F}}};
    static constexpr std::array<Block, 8> wide{{{0x1100, 0x115F},
                                                {0x2E80, 0xA4CF},
                                                {0xAC00, 0xD7A3},
                                                {0xF900, 0xFAFF},
                                                {0xFE30, 0xFE6F},
                                                {0xFF00, 0xFF60},
                                                {0x1F300, 0x1FAFF},
                                                {0x20000, 0x3FFFD}}};
    const auto holds = [code](std::span<const Block> blocks) {
        for (const Block& block : blocks)
            if (block.first <= code && code <= block.last) return true;
        return false;
    };
    return holds(none) ? 0 : holds(wide) ? 2 : 1;
}

/// A text that can be measured, cut and put beside others. Control characters become '?', so that
/// no label can steer a terminal.
class Label {
  public:
    explicit Label(std::string_view text) {
        while (!text.empty()) {
            char32_t code = take_code_point(text);
            // The C0 and C1 controls, and those that reverse the direction of writing.
            const bool control = code < 0x20 || (code >= 0x7F && code < 0xA0) ||
                                 (code >= 0x2028 && code <= 0x202E) ||
                                 (code >= 0x2066 && code <= 0x2069);
            if (control) code = '?';
            glyphs_.push_back({utf8_of(code), code, columns_of(code)});
            width_ += glyphs_.back().width;
        }
    }

    [[nodiscard]] const std::vector<Glyph>& glyphs() const { return glyphs_; }
    [[nodiscard]] std::size_t width() const { return width_; }

    /// At most `width` columns; "~" ends what had to be cut.
    [[nodiscard]] std::string fitted(std::size_t width) const {
        const bool cut = width_ > width;
        std::string result;
        std::size_t used = cut ? 1 : 0;
        for (const Glyph& glyph : glyphs_) {
            if (used + glyph.width > width) break;
            used += glyph.width;
            result += glyph.text;
        }
        return cut && width > 0 ? result + "~" : result;
    }

    /// Exactly `width` columns, with blanks before (right), behind (left) or around (centre).
    enum class Side { left, right, centre };
    [[nodiscard]] std::string aligned(std::size_t width, Side side) const {
        const std::string text = fitted(width);
        const std::size_t blanks = width - (width_ > width ? Label(text).width() : width_);
        const std::size_t before = side == Side::right    ? blanks
                                   : side == Side::centre ? (blanks + 1) / 2
                                                          : 0;
        return std::string(before, ' ') + text + std::string(blanks - before, ' ');
    }

  private:
    std::vector<Glyph> glyphs_;
    std::size_t width_ = 0;
};

}  // namespace heed::inline v0::detail
