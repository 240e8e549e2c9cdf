#pragma once
// Which number does a token have?
// Reads a vocabulary, a token a line; knows nothing of how a text is cut into tokens.

#include <filesystem>
#include <istream>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

namespace examples {

/// Tokens and their ids: the id of each is its line, counted from 0.
class Vocabulary {
  public:
    explicit Vocabulary(std::istream& lines);

    /// Throws std::runtime_error when there is no such file.
    static Vocabulary read(const std::filesystem::path& file);

    [[nodiscard]] std::optional<int> find(std::string_view token) const;

    /// Throws std::runtime_error for a token that is not there.
    [[nodiscard]] int at(std::string_view token) const;

    [[nodiscard]] std::size_t size() const { return ids_.size(); }

  private:
    /// Lets tokens be looked up without a copy of them.
    struct Hash {
        using is_transparent = void;
        std::size_t operator()(std::string_view token) const {
            return std::hash<std::string_view>()(token);
        }
    };

    std::unordered_map<std::string, int, Hash, std::equal_to<>> ids_;
};

}  // namespace examples
