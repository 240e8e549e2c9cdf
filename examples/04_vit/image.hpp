#pragma once
// How does a picture come from a file, and go to one?
// PNG and JPEG by way of stb; reads and writes the files it is given, regular ones only.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "heed/tensor/tensor.hpp"

namespace vit {

using heed::Index;

/// Colours of 8 bits, [height, width, 3]: red, green, blue.
using Image = heed::Tensor<std::uint8_t, 3>;
using ImageView = heed::TensorView<const std::uint8_t, 3>;

/// More pixels are refused before memory is taken for them: a file of some bytes can promise any.
inline constexpr Index most_pixels = Index{1} << 26;

/// The picture in a PNG or JPEG file. Grey becomes colour, alpha is dropped, of 16 bits the upper 8
/// are taken, and the orientation that a camera notes (EXIF) is not looked at: what Pillow's
/// convert("RGB") does, but for grey of 16 bits, which that one cuts at 255.
/// Throws heed::FormatError "[read_image] rule; found ... in 'path'" for anything else.
[[nodiscard]] Image read_image(const std::filesystem::path& path);

/// The same from the bytes of a file; `origin` ends the error messages.
[[nodiscard]] Image decode_image(std::span<const std::byte> file, const std::string& origin = "");

/// Writes a PNG file. Throws heed::FormatError when that cannot be done.
void write_png(const std::filesystem::path& path, ImageView image);

/// A landscape of 320 x 240 pixels, drawn with whole numbers only: the same on every machine.
[[nodiscard]] Image drawn_landscape();

}  // namespace vit
