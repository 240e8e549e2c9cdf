#pragma once
// What is there to learn, as numbers?
// Reads a text and numbers the bytes that occur in it; sets its tail apart, to judge the model by.

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "heed/base/checked_size.hpp"

namespace char_model {

using heed::Index;

/// The bytes that occur in a text, numbered from 0 in ascending order. A letter outside of ASCII is
/// several bytes, which the model learns to write one after another.
class Alphabet {
  public:
    explicit Alphabet(std::string_view text);

    [[nodiscard]] Index size() const { return std::ssize(letters_); }
    [[nodiscard]] const std::string& letters() const { return letters_; }
    [[nodiscard]] char letter(Index id) const { return letters_[static_cast<std::size_t>(id)]; }

    /// Throws heed::ArgumentError for a byte that is not in the alphabet.
    [[nodiscard]] int id(char letter) const;

  private:
    std::string letters_;
    std::array<int, 256> ids_;  ///< by byte; -1 where it does not occur
};

/// A text as ids, in two parts.
struct Corpus {
    /// The last `validation_share` of the text is held out.
    explicit Corpus(std::string_view text, double validation_share = 0.05);

    [[nodiscard]] Index size() const { return std::ssize(ids); }
    [[nodiscard]] std::span<const std::uint8_t> training() const;
    [[nodiscard]] std::span<const std::uint8_t> validation() const;

    Alphabet alphabet;
    std::vector<std::uint8_t> ids;
    Index training_size;
    std::uint64_t fingerprint;  ///< of the text: FNV-1a, 64 bits
};

/// The bytes of a file. Throws heed::FormatError when it cannot be read or is empty.
[[nodiscard]] std::string read_text(const std::filesystem::path& file);

}  // namespace char_model
