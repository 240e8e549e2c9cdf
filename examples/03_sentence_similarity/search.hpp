#pragma once
// Which lines of a text are closest to a question?
// Reads a file, and orders what the encoder found; knows no model.

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "heed/base/checked_size.hpp"

namespace sentence_similarity {

using heed::Index;

/// The lines of a file that are not blank.
struct Lines {
    std::vector<std::string> texts;
    std::vector<Index> numbers;  ///< of each in the file, counted from 1
};

/// Throws heed::FormatError for a line that is not UTF-8, or when the file cannot be read or holds
/// nothing but blanks.
[[nodiscard]] Lines read_lines(const std::filesystem::path& file);

/// The places of the largest scores, the largest first; of equal ones the first comes first. All,
/// where there are not as many.
[[nodiscard]] std::vector<std::size_t> best_of(std::span<const float> scores, std::size_t count);

}  // namespace sentence_similarity
