#pragma once
// Which windows of the text are read together?
// Copies ids out of the text; a batch is a pure function of the seed and the step.

#include <cstdint>
#include <span>
#include <vector>

#include "heed/base/checked_size.hpp"

namespace char_model {

using heed::Index;

/// Windows of the text, row by row: [rows * length]. The target of a letter is the next one.
struct Batch {
    std::vector<int> inputs, targets;
};

/// `rows` windows of `length` letters that begin anywhere: independent and uniform draws that
/// depend on (seed, step, row) alone, so that training can stop and go on at any step.
/// Throws heed::ArgumentError for a text of `length` letters or less.
[[nodiscard]] Batch random_windows(std::span<const std::uint8_t> text, Index rows, Index length,
                                   std::uint64_t seed, Index step);

/// `rows` windows spread evenly over the text, the first at its begin and the last at its end.
/// Throws heed::ArgumentError for a text of `length` letters or less.
[[nodiscard]] Batch even_windows(std::span<const std::uint8_t> text, Index rows, Index length);

}  // namespace char_model
