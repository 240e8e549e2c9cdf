#pragma once
// How does a picture, or a grid of numbers, get another size?
// The antialiased bicubic filter of Pillow and PyTorch; reads a view, returns a new tensor.
//
// Source: Keys, "Cubic convolution interpolation for digital image processing", IEEE Trans. ASSP 29
// (1981), with a = -1/2, stretched where a picture shrinks.

#include <cstdint>

#include "heed/tensor/tensor.hpp"

namespace vit {

using heed::Index;

/// Positions [begin, begin + count) of a side that is `size` long after resizing.
struct Part {
    Index size = 0;
    Index begin = 0;
    Index count = size;
};

/// A part of what Pillow's Image.resize with BICUBIC makes of a picture [height, width, channels],
/// bit for bit: columns first, rounded to 8 bits before the rows. Only the part is computed, so a
/// small piece of a huge picture is cheap. Throws heed::ShapeError for a part that does not lie
/// inside, or where anything is empty.
[[nodiscard]] heed::Tensor<std::uint8_t, 3> resize(heed::TensorView<const std::uint8_t, 3> picture,
                                                   const Part& rows, const Part& columns);

/// Numbers [height, width, channels] at another size, as PyTorch's interpolate with mode "bicubic"
/// and antialias. For float and double. Throws heed::ShapeError where anything is empty.
template <class T>
[[nodiscard]] heed::Tensor<T, 3> resize(heed::TensorView<const T, 3> grid, Index height,
                                        Index width);

}  // namespace vit
