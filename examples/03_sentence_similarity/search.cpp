#include "search.hpp"

#include <algorithm>
#include <fstream>
#include <numeric>

#include "heed/base/contract.hpp"
#include "unicode.hpp"

namespace sentence_similarity {

namespace {

void require_utf8(const std::string& line, Index number, const std::filesystem::path& file) {
    try {
        (void)from_utf8(line);
    } catch (const heed::FormatError& error) {
        throw heed::FormatError(file.string() + ", line " + std::to_string(number) + ": " +
                                error.what());
    }
}

}  // namespace

Lines read_lines(const std::filesystem::path& file) {
    std::ifstream stream(file);
    Lines lines;
    std::string line;
    for (Index number = 1; std::getline(stream, line); ++number) {
        if (line.find_first_not_of(" \t\r\v\f") == std::string::npos) continue;
        require_utf8(line, number, file);
        lines.texts.push_back(line);
        lines.numbers.push_back(number);
    }
    if (lines.texts.empty())
        throw heed::FormatError("[read_lines] there must be a text to search; found none at '" +
                                file.string() + "'");
    return lines;
}

std::vector<std::size_t> best_of(std::span<const float> scores, std::size_t count) {
    std::vector<std::size_t> places(scores.size());
    std::iota(places.begin(), places.end(), std::size_t{0});
    std::ranges::stable_sort(places, std::ranges::greater(),
                             [&](std::size_t place) { return scores[place]; });
    places.resize(std::min(count, places.size()));
    return places;
}

}  // namespace sentence_similarity
