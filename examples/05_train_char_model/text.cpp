#include "text.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>

#include "heed/base/contract.hpp"

namespace char_model {

namespace {

std::size_t byte(char letter) {
    return static_cast<unsigned char>(letter);
}

std::uint64_t fnv1a(std::string_view text) {
    std::uint64_t hash = 0xCBF29CE484222325;
    for (char letter : text) hash = (hash ^ byte(letter)) * 0x100000001B3;
    return hash;
}

}  // namespace

Alphabet::Alphabet(std::string_view text) {
    ids_.fill(-1);
    for (char letter : text) ids_[byte(letter)] = 0;
    for (std::size_t b = 0; b < ids_.size(); ++b) {
        if (ids_[b] < 0) continue;
        ids_[b] = static_cast<int>(letters_.size());
        letters_ += static_cast<char>(b);
    }
}

int Alphabet::id(char letter) const {
    const int id = ids_[byte(letter)];
    if (id < 0)
        throw heed::ArgumentError(
            "[Alphabet] a letter must occur in the text that was learned; found byte " +
            std::to_string(byte(letter)) + " ('" + letter + "')");
    return id;
}

Corpus::Corpus(std::string_view text, double validation_share)
    : alphabet(text),
      ids(text.size()),
      training_size(static_cast<Index>(static_cast<double>(text.size()) * (1 - validation_share))),
      fingerprint(fnv1a(text)) {
    std::transform(text.begin(), text.end(), ids.begin(),
                   [this](char letter) { return static_cast<std::uint8_t>(alphabet.id(letter)); });
}

std::span<const std::uint8_t> Corpus::training() const {
    return std::span(ids).first(static_cast<std::size_t>(training_size));
}

std::span<const std::uint8_t> Corpus::validation() const {
    return std::span(ids).subspan(static_cast<std::size_t>(training_size));
}

std::string read_text(const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    if (text.empty())
        throw heed::FormatError("[read_text] there must be a text to learn; found none at '" +
                                file.string() + "'");
    return text;
}

}  // namespace char_model
