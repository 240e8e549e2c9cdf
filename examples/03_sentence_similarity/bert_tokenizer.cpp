#include "bert_tokenizer.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "heed/base/contract.hpp"
#include "unicode.hpp"

namespace sentence_similarity {

namespace {

constexpr std::array<std::string_view, 5> special_tokens{"[PAD]", "[UNK]", "[CLS]", "[SEP]",
                                                         "[MASK]"};

/// A longer word is [UNK] as a whole.
constexpr std::size_t longest_word = 100;

/// The special token that the text begins with; an empty text where there is none.
std::string_view special_at(std::string_view text) {
    for (const std::string_view token : special_tokens)
        if (text.starts_with(token)) return token;
    return {};
}

/// The blocks of CJK ideographs that BERT writes as words of their own. The reference has a slip of
/// the pen here, which is kept: extension E begins at U+2B820, not U+2B920.
bool is_chinese(char32_t c) {
    constexpr std::array<std::pair<char32_t, char32_t>, 8> blocks{{{0x3400, 0x4DBF},
                                                                   {0x4E00, 0x9FFF},
                                                                   {0xF900, 0xFAFF},
                                                                   {0x20000, 0x2A6DF},
                                                                   {0x2A700, 0x2B73F},
                                                                   {0x2B740, 0x2B81F},
                                                                   {0x2B920, 0x2CEAF},
                                                                   {0x2F800, 0x2FA1F}}};
    return std::ranges::any_of(
        blocks, [c](const auto& block) { return block.first <= c && c <= block.second; });
}

bool is_mark(char32_t c) {
    const bool is_ascii_sign = (U'!' <= c && c <= U'/') || (U':' <= c && c <= U'@') ||
                               (U'[' <= c && c <= U'`') || (U'{' <= c && c <= U'~');
    return is_ascii_sign || is_punctuation(c);
}

bool is_white_space(char32_t c) {
    return c == U'\t' || c == U'\n' || c == U'\r' || is_separator(c);
}

/// Without what has no meaning; white space is blanks, and Chinese characters stand between them.
std::u32string clean(std::u32string_view text) {
    std::u32string result;
    for (const char32_t c : text) {
        if (is_white_space(c))
            result += U' ';
        else if (c == U'\0' || c == U'\uFFFD' || is_control(c))
            continue;
        else if (is_chinese(c))
            result.append({U' ', c, U' '});
        else
            result += c;
    }
    return result;
}

/// Lower-case letters without accents.
std::u32string normalise(std::u32string_view text) {
    std::u32string letters = decompose(clean(text));
    std::erase_if(letters, is_nonspacing_mark);
    std::ranges::transform(letters, letters.begin(), to_lower);
    return letters;
}

}  // namespace

std::vector<std::u32string> split_words(std::string_view text) {
    std::vector<std::u32string> words;
    bool is_open = false;  // more letters belong to the last word
    for (const char32_t c : normalise(from_utf8(text))) {
        const bool is_letter = c != U' ' && !is_mark(c);
        if (c != U' ') {
            if (!is_open || !is_letter) words.emplace_back();
            words.back() += c;
        }
        is_open = is_letter;
    }
    return words;
}

BertTokenizer::BertTokenizer(examples::Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {
    for (const std::string_view token : special_tokens) (void)vocabulary_.at(token);
    unknown_ = vocabulary_.at("[UNK]");
    begin_ = vocabulary_.at("[CLS]");
    end_ = vocabulary_.at("[SEP]");
}

std::vector<int> BertTokenizer::ids(std::string_view text, Index longest) const {
    if (longest < 2)
        throw heed::ArgumentError("[BertTokenizer] there must be room for [CLS] and [SEP]; found " +
                                  std::to_string(longest));
    std::vector<int> ids{begin_};
    std::size_t begin = 0;  // of the text behind the last special token
    for (std::size_t i = 0; i < text.size();) {
        const std::string_view special = special_at(text.substr(i));
        if (special.empty()) {
            ++i;
            continue;
        }
        add_text(text.substr(begin, i - begin), ids);
        ids.push_back(vocabulary_.at(special));
        begin = i += special.size();
    }
    add_text(text.substr(begin), ids);
    ids.resize(std::min(ids.size(), static_cast<std::size_t>(longest) - 1));
    ids.push_back(end_);
    return ids;
}

void BertTokenizer::add_text(std::string_view text, std::vector<int>& ids) const {
    for (const std::u32string& word : split_words(text)) add_pieces(word, ids);
}

/// Of the pieces that a word begins with the longest, then of those that go on ("##") again the
/// longest, and so on; where there is none, the word is unknown.
void BertTokenizer::add_pieces(std::u32string_view word, std::vector<int>& ids) const {
    if (word.size() > longest_word) return ids.push_back(unknown_);
    const std::size_t count_before = ids.size();
    while (!word.empty()) {
        const bool goes_on = ids.size() > count_before;
        std::optional<int> id;
        std::size_t length = word.size() + 1;
        while (!id && --length > 0)
            id = vocabulary_.find((goes_on ? "##" : "") + to_utf8(word.substr(0, length)));
        if (!id) {
            ids.resize(count_before);
            return ids.push_back(unknown_);
        }
        ids.push_back(*id);
        word.remove_prefix(length);
    }
}

}  // namespace sentence_similarity
