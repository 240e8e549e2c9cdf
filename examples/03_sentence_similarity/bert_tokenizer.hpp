#pragma once
// Which tokens does BERT make of a text?
// Reads text in UTF-8 and the vocabulary; knows no model.
//
// The steps and their order are those of the tokenizers library of Hugging Face (BertTokenizerFast,
// uncased). Of characters that Unicode has come to know since version 8, that library knows
// nothing.

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "common/vocabulary.hpp"
#include "heed/base/checked_size.hpp"

namespace sentence_similarity {

using heed::Index;

/// A text as words and marks of punctuation, each by itself, in lower case and without accents.
///
/// Control characters, U+0000 and U+FFFD vanish; Chinese characters become words of their own;
/// letters are decomposed (NFD), lose their nonspacing marks and become lower case; words end at
/// white space; punctuation is Unicode's and all of ASCII's signs.
/// Throws heed::FormatError unless the text is UTF-8.
[[nodiscard]] std::vector<std::u32string> split_words(std::string_view text);

/// BERT's tokenizer for lower-case models: words are cut into the pieces of a vocabulary
/// (WordPiece).
class BertTokenizer {
  public:
    /// Throws std::runtime_error unless the vocabulary has [PAD], [UNK], [CLS], [SEP] and [MASK].
    explicit BertTokenizer(examples::Vocabulary vocabulary);

    /// Throws std::runtime_error also when there is no such file.
    static BertTokenizer read(const std::filesystem::path& vocabulary) {
        return BertTokenizer(examples::Vocabulary::read(vocabulary));
    }

    [[nodiscard]] Index vocabulary_size() const { return static_cast<Index>(vocabulary_.size()); }

    /// [CLS], the text, [SEP]: of the text's tokens as many as make `longest` in all. The names of
    /// the five special tokens, written in the text, are these tokens. Throws heed::ArgumentError
    /// for less than 2, heed::FormatError unless the text is UTF-8.
    [[nodiscard]] std::vector<int> ids(std::string_view text, Index longest) const;

  private:
    void add_text(std::string_view text, std::vector<int>& ids) const;
    void add_pieces(std::u32string_view word, std::vector<int>& ids) const;

    examples::Vocabulary vocabulary_;
    int unknown_, begin_, end_;
};

}  // namespace sentence_similarity
