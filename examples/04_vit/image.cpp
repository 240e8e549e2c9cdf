#include "image.hpp"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "heed/io/colour_map.hpp"

// Some versions of stb read tables that a damaged file never filled: zeros do no harm there, and
// leave nothing for its assertions to end the program about.
#define STBI_MALLOC(size) std::calloc(1, size)
#define STBI_REALLOC(memory, size) std::realloc(memory, size)
#define STBI_FREE(memory) std::free(memory)
#define STBI_ASSERT(condition) static_cast<void>(condition)
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_FAILURE_USERMSG
#define STBI_WRITE_NO_STDIO
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#include <stb/stb_image.h>
#include <stb/stb_image_write.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

namespace vit {

namespace {

using heed::Rgb;
using Bytes = std::span<const std::byte>;

[[noreturn]] void refuse(std::string_view rule, std::string_view found, std::string_view origin) {
    throw heed::FormatError("[read_image] " + std::string(rule) + "; found " + std::string(found) +
                            std::string(origin));
}

std::string reason() {
    const char* const text = stbi_failure_reason();
    return std::string("'").append(text == nullptr ? "another" : text).append("'");
}

/// Walks through the segments of a JPEG file before stb does, and refuses what some of its versions
/// do not: a table of codes with more entries than there is room for, which they write beyond it;
/// and a file that was cut, of which they paint the rest grey.
class JpegGuard {
  public:
    JpegGuard(Bytes file, std::string_view origin) : file_(file), origin_(origin) {}

    /// In the data of a scan, which follow its segment, only markers without a length occur.
    void check() const {
        constexpr std::size_t code_tables = 0xC4, end_of_image = 0xD9;
        for (std::size_t i = 0; i < file_.size();) {
            const std::size_t marker = at(i + 1);
            if (at(i) != 0xFF || marker == 0xFF) {
                ++i;
                continue;
            }
            if (marker == end_of_image) return;
            const bool has_no_length = marker <= 0x01 || (marker >= 0xD0 && marker <= 0xD8);
            const std::size_t length = has_no_length ? 0 : at(i + 2) * 256 + at(i + 3);
            if (marker == code_tables) check_tables(i + 4, length);
            i += 2 + length;
        }
        refuse("a picture must be whole", "no end of the JPEG data", origin_);
    }

  private:
    /// A byte of the file, or 0 behind its end.
    [[nodiscard]] std::size_t at(std::size_t i) const {
        return i < file_.size() ? std::to_integer<std::size_t>(file_[i]) : 0;
    }

    /// Each table has a byte of its own, the numbers of codes of 1 to 16 bits, then so many bytes.
    void check_tables(std::size_t begin, std::size_t length) const {
        const std::size_t end = begin + length - std::min<std::size_t>(length, 2);
        for (std::size_t i = begin; i < end;) {
            std::size_t codes = 0;
            for (std::size_t bits = 1; bits <= 16; ++bits) codes += at(i + bits);
            if (codes > 256)
                refuse("a table of codes may have 256", std::to_string(codes), origin_);
            i += 17 + codes;
        }
    }

    Bytes file_;
    std::string_view origin_;
};

std::vector<char> read_bytes(const std::filesystem::path& path, const std::string& origin) {
    std::error_code problem;
    if (!std::filesystem::is_regular_file(path, problem))
        refuse("there must be a regular file to read", "none", origin);
    std::ifstream file(path, std::ios::binary);
    if (!file) refuse("the file must be readable", "no way to open it", origin);
    return {std::istreambuf_iterator<char>(file), {}};
}

/// Calls colour(x, y) for every pixel; where it answers, the pixel gets that colour.
template <class Shape>
void paint(Image& image, Rgb colour, const Shape& covers) {
    for (Index y = 0; y < image.extent(0); ++y)
        for (Index x = 0; x < image.extent(1); ++x) {
            if (!covers(x, y)) continue;
            image(y, x, 0) = colour.red;
            image(y, x, 1) = colour.green;
            image(y, x, 2) = colour.blue;
        }
}

/// A colour for each row, from one to another.
void paint_rows(Image& image, Index begin, Index end, Rgb first, Rgb last) {
    for (Index row = begin; row < end; ++row) {
        const auto between = [&](int a, int b) {
            const Index steps = end - begin;
            return static_cast<std::uint8_t>((a * (end - row) + b * (row - begin)) / steps);
        };
        paint(image,
              {between(first.red, last.red), between(first.green, last.green),
               between(first.blue, last.blue)},
              [row](Index, Index y) { return y == row; });
    }
}

}  // namespace

Image decode_image(Bytes file, const std::string& origin) {
    constexpr std::string_view rule = "a picture must be PNG or JPEG, of at most 2^26 pixels";
    const auto* const bytes = reinterpret_cast<const stbi_uc*>(file.data());
    if (file.empty()) refuse(rule, "an empty file", origin);
    if (!std::in_range<int>(file.size()))
        refuse("a file must have less than 2^31 bytes", std::to_string(file.size()), origin);
    if (file.front() == std::byte{0xFF}) JpegGuard(file, origin).check();
    const int size = static_cast<int>(file.size());
    int width = 0, height = 0, channels = 0;
    if (stbi_info_from_memory(bytes, size, &width, &height, &channels) == 0)
        refuse(rule, reason(), origin);
    if (Index{width} * height > most_pixels)
        refuse(rule, std::to_string(width) + " x " + std::to_string(height), origin);
    const std::unique_ptr<stbi_uc, decltype(&std::free)> pixels(
        stbi_load_from_memory(bytes, size, &width, &height, &channels, 3), std::free);
    if (!pixels) refuse("a picture must be whole", reason(), origin);
    return Image(ImageView(pixels.get(), {Index{height}, Index{width}, Index{3}}));
}

Image read_image(const std::filesystem::path& path) {
    const std::string origin = " in '" + path.string() + "'";
    const std::vector<char> bytes = read_bytes(path, origin);
    return decode_image(std::as_bytes(std::span(bytes)), origin);
}

void write_png(const std::filesystem::path& path, ImageView image) {
    std::ofstream file(path, std::ios::binary);
    const auto write = [](void* stream, void* data, int size) {
        static_cast<std::ofstream*>(stream)->write(static_cast<const char*>(data), size);
    };
    const Image dense(image);
    const auto side = [&](int d) { return static_cast<int>(dense.extent(d)); };
    const int done =
        stbi_write_png_to_func(write, &file, side(1), side(0), 3, dense.data(), 3 * side(1));
    file.close();
    if (done == 0 || !file)
        throw heed::FormatError("[write_png] the file must be writable; found no way to write '" +
                                path.string() + "'");
}

Image drawn_landscape() {
    constexpr Index horizon = 150;
    Image image({240, 320, 3});
    paint_rows(image, 0, horizon, {70, 130, 200}, {205, 225, 240});
    paint_rows(image, horizon, 240, {120, 165, 80}, {50, 105, 45});
    const auto disc = [](Index cx, Index cy, Index radius) {
        return [=](Index x, Index y) {
            return (x - cx) * (x - cx) + (y - cy) * (y - cy) <= radius * radius;
        };
    };
    const auto box = [](Index left, Index top, Index right, Index bottom) {
        return [=](Index x, Index y) { return left <= x && x < right && top <= y && y < bottom; };
    };
    /// A triangle on a level base.
    const auto gable = [](Index peak_x, Index peak_y, Index base_y, Index half_base) {
        return [=](Index x, Index y) {
            return peak_y <= y && y < base_y &&
                   std::abs(x - peak_x) * (base_y - peak_y) <= (y - peak_y) * half_base;
        };
    };
    paint(image, {255, 220, 90}, disc(230, 50, 24));
    paint(image, {95, 110, 130}, gable(185, 70, horizon, 95));
    paint(image, {115, 125, 140}, gable(115, 35, horizon, 110));
    paint(image, {240, 245, 250}, gable(115, 35, 65, 29));
    paint(image, {205, 190, 165}, box(190, 140, 250, 185));
    paint(image, {150, 60, 45}, gable(220, 112, 141, 38));
    paint(image, {90, 60, 40}, box(213, 160, 227, 185));
    paint(image, {85, 60, 40}, box(87, 160, 97, 205));
    paint(image, {45, 90, 40}, disc(92, 138, 28));
    return image;
}

}  // namespace vit
