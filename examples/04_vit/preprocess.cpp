#include "preprocess.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "resample.hpp"

namespace vit {

namespace {

/// The centre of a side; halves go to the even position, as Python rounds.
Part centre_of(Index resized, Index size) {
    const Index twice = resized - size;
    const Index half = twice / 2;
    return {
        .size = resized, .begin = half + (twice % 2 != 0 && half % 2 != 0 ? 1 : 0), .count = size};
}

}  // namespace

Index resized_side(Index size, double crop_pct) {
    if (size < 1 || !(crop_pct >= 0.01 && crop_pct <= 1.0))
        throw heed::ArgumentError(
            "[resized_side] size must be 1 or more, crop_pct 0.01 to 1; found " +
            std::to_string(size) + ", " + std::to_string(crop_pct));
    return static_cast<Index>(std::floor(static_cast<double>(size) / crop_pct));
}

Image centre_square(ImageView picture, Index size, Index shorter_side) {
    const Index height = picture.extent(0), width = picture.extent(1);
    const Index shorter = std::min(height, width);
    if (shorter < 1 || size < 1 || shorter_side < size)
        throw heed::ShapeError("[centre_square] the square must lie inside the picture; found " +
                               to_string(picture.shape()) + ", resized to " +
                               std::to_string(shorter_side) + ", for " + std::to_string(size));
    const auto resized = [&](Index side) { return shorter_side * side / shorter; };
    return resize(picture, centre_of(resized(height), size), centre_of(resized(width), size));
}

void normalise(ImageView picture, const Normalisation& normalisation,
               heed::TensorView<float, 3> target) {
    const ImageView planes = picture.permute({2, 0, 1});
    if (planes.shape() != target.shape() || target.extent(0) != 3)
        throw heed::ShapeError(
            "[normalise] the target must be [3, height, width] of the picture; "
            "found " +
            to_string(picture.shape()) + " and " + to_string(target.shape()));
    for (Index c = 0; c < 3; ++c) {
        const float mean = normalisation.mean[static_cast<std::size_t>(c)];
        const float deviation = normalisation.deviation[static_cast<std::size_t>(c)];
        for (Index y = 0; y < target.extent(1); ++y)
            for (Index x = 0; x < target.extent(2); ++x)
                target(c, y, x) = (static_cast<float>(planes(c, y, x)) / 255.0f - mean) / deviation;
    }
}

}  // namespace vit
