#include "batches.hpp"

#include <string>

#include "heed/base/contract.hpp"
#include "heed/tensor/philox.hpp"

namespace char_model {

namespace {

/// The number of places where a window and the letter behind it fit.
std::uint64_t window_count(std::span<const std::uint8_t> text, Index length) {
    if (std::ssize(text) <= length)
        throw heed::ArgumentError(
            "[windows] each part of the text must be longer than the context of " +
            std::to_string(length) + " letters; found " + std::to_string(text.size()));
    return text.size() - static_cast<std::size_t>(length);
}

/// begin(row) tells where the window of a row begins.
template <class Begin>
Batch windows(std::span<const std::uint8_t> text, Index rows, Index length, const Begin& begin) {
    Batch batch;
    for (Index row = 0; row < rows; ++row) {
        const auto first = text.begin() + static_cast<Index>(begin(static_cast<unsigned>(row)));
        batch.inputs.insert(batch.inputs.end(), first, first + length);
        batch.targets.insert(batch.targets.end(), first + 1, first + length + 1);
    }
    return batch;
}

}  // namespace

Batch random_windows(std::span<const std::uint8_t> text, Index rows, Index length,
                     std::uint64_t seed, Index step) {
    const std::uint64_t count = window_count(text, length);
    const auto number = static_cast<std::uint64_t>(step);
    return windows(text, rows, length, [&](std::uint32_t row) {
        const heed::PhiloxCounter bits = heed::philox(
            {row, static_cast<std::uint32_t>(number), static_cast<std::uint32_t>(number >> 32), 0},
            heed::philox_key(seed));
        // The remainder's bias is below count / 2^64.
        return ((std::uint64_t{bits[1]} << 32) | bits[0]) % count;
    });
}

Batch even_windows(std::span<const std::uint8_t> text, Index rows, Index length) {
    const std::uint64_t last = window_count(text, length) - 1;
    const auto steps = static_cast<std::uint64_t>(rows > 1 ? rows - 1 : 1);
    return windows(text, rows, length, [&](std::uint32_t row) { return last * row / steps; });
}

}  // namespace char_model
