#include "common/vocabulary.hpp"

#include <fstream>
#include <stdexcept>

namespace examples {

Vocabulary::Vocabulary(std::istream& lines) {
    std::string line;
    for (int id = 0; std::getline(lines, line); ++id) ids_.emplace(line, id);
}

Vocabulary Vocabulary::read(const std::filesystem::path& file) {
    std::ifstream lines(file);
    if (!lines) throw std::runtime_error("cannot read the vocabulary " + file.string());
    return Vocabulary(lines);
}

std::optional<int> Vocabulary::find(std::string_view token) const {
    const auto place = ids_.find(token);
    return place == ids_.end() ? std::nullopt : std::optional(place->second);
}

int Vocabulary::at(std::string_view token) const {
    if (const auto id = find(token)) return *id;
    throw std::runtime_error("the vocabulary has no '" + std::string(token) + "'");
}

}  // namespace examples
