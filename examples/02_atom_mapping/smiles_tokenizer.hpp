#pragma once
// Into which pieces does the model cut a reaction SMILES, and what are their ids?
// Reads text and the vocabulary; knows pieces, not molecules; refuses what the model cannot name.

#include <cstddef>
#include <filesystem>
#include <istream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/vocabulary.hpp"

namespace atom_mapping {

/// A reaction SMILES that cannot be read: what is wrong, and at which character (counted from 0).
class SmilesError : public std::runtime_error {
  public:
    SmilesError(const std::string& problem, std::size_t position)
        : std::runtime_error(problem), position_(position) {}

    [[nodiscard]] std::size_t position() const { return position_; }

  private:
    std::size_t position_;
};

/// A piece of a SMILES and the character at which it begins.
struct Piece {
    std::string text;
    std::size_t position;
};

/// Cuts a reaction SMILES as the model does: atoms in brackets, `Br`, `Cl`, atoms of one letter,
/// ring numbers (`1` or `%12`), bonds, parentheses, dots and `>>`.
/// Throws SmilesError at the first character that begins none of these.
[[nodiscard]] std::vector<Piece> split_pieces(std::string_view smiles);

/// The pieces that the model knows; the id of each is its line in vocab.txt, counted from 0.
class Vocabulary {
  public:
    explicit Vocabulary(std::istream& lines) : tokens_(lines) {}

    /// Throws std::runtime_error when there is no such file.
    static Vocabulary read(const std::filesystem::path& file) {
        return Vocabulary(examples::Vocabulary::read(file));
    }

    /// `[CLS]`, the pieces, `[SEP]` as ids. Throws SmilesError for a piece that the model does not
    /// know, std::runtime_error when the vocabulary lacks `[CLS]` or `[SEP]`.
    [[nodiscard]] std::vector<int> ids(const std::vector<Piece>& pieces) const;

    [[nodiscard]] std::size_t size() const { return tokens_.size(); }

  private:
    explicit Vocabulary(examples::Vocabulary tokens) : tokens_(std::move(tokens)) {}

    examples::Vocabulary tokens_;
};

/// The same as text: the labels of the rows and columns of an attention matrix.
[[nodiscard]] std::vector<std::string> tokens(const std::vector<Piece>& pieces);

}  // namespace atom_mapping
