#pragma once
// What does a vision transformer get to see of a picture?
// timm's transform for evaluation: resized by the shorter side, cut in the centre, normalised.
// Pure functions of pictures.

#include <array>

#include "image.hpp"

namespace vit {

/// Mean and standard deviation, of each colour, that a model was trained with.
struct Normalisation {
    std::array<float, 3> mean;
    std::array<float, 3> deviation;

    friend bool operator==(const Normalisation&, const Normalisation&) = default;
};

/// Of the ViTs that Google trained (augreg and others).
inline constexpr Normalisation inception{{0.5f, 0.5f, 0.5f}, {0.5f, 0.5f, 0.5f}};
/// Of DeiT, DINO and many others.
inline constexpr Normalisation imagenet{{0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}};

/// The length to which the shorter side is resized: floor(size / crop_pct).
/// Throws heed::ArgumentError unless size is 1 or more and crop_pct 0.01 to 1.
[[nodiscard]] Index resized_side(Index size, double crop_pct);

/// The square of `size` pixels in the centre of the picture, whose shorter side is first resized to
/// `shorter_side`, `size` or more. Bit for bit what torchvision's Resize and CenterCrop make of a
/// Pillow image. Throws heed::ShapeError for an empty picture or a side that is too short.
[[nodiscard]] Image centre_square(ImageView picture, Index size, Index shorter_side);

/// (value / 255 - mean) / deviation, from [height, width, 3] to [3, height, width].
/// Throws heed::ShapeError when the shapes differ.
void normalise(ImageView picture, const Normalisation& normalisation,
               heed::TensorView<float, 3> target);

}  // namespace vit
