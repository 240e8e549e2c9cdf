#include "rollout.hpp"

#include <algorithm>
#include <cmath>

#include "heed/io/colour_map.hpp"
#include "resample.hpp"

namespace vit {

namespace {

constexpr double opacity = 0.6;  // of the colours over the picture

/// How light a pixel is (luma of ITU-R BT.601): under colours that mean something else, the
/// picture's own would confuse.
double lightness(ImageView picture, Index y, Index x) {
    return 0.299 * picture(y, x, 0) + 0.587 * picture(y, x, 1) + 0.114 * picture(y, x, 2);
}

std::uint8_t blended(double below, std::uint8_t above) {
    return static_cast<std::uint8_t>(std::lround((1.0 - opacity) * below + opacity * above));
}

}  // namespace

Image draw_over(ImageView picture, heed::TensorView<const double, 2> shares) {
    const Index height = picture.extent(0), width = picture.extent(1), gap = 8;
    const heed::Tensor<double, 2> dense(shares);
    const auto [least, most] = std::minmax_element(dense.values().begin(), dense.values().end());
    const heed::ValueRange range = heed::value_range(dense, *least, *most);
    const heed::Tensor<double, 3> smooth = resize<double>(
        dense.view().reshape(heed::Shape<3>(shares.extent(0), shares.extent(1), Index{1})), height,
        width);

    Image both({height, 2 * width + gap, Index{3}});
    heed::fill(both.view(), 255);
    heed::copy(picture, both.view().slice(1, 0, width));
    const auto right = both.view().slice(1, width + gap, width);
    for (Index y = 0; y < height; ++y)
        for (Index x = 0; x < width; ++x) {
            const heed::Rgb colour = range.colour_of(smooth(y, x, 0));
            const double below = lightness(picture, y, x);
            right(y, x, 0) = blended(below, colour.red);
            right(y, x, 1) = blended(below, colour.green);
            right(y, x, 2) = blended(below, colour.blue);
        }
    return both;
}

}  // namespace vit
