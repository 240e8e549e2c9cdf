// The tokens of examples/03_sentence_similarity, against those of Hugging Face's tokenizers library
// (tests/golden/wordpiece.json), with a small vocabulary of our own and with the model's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "03_sentence_similarity/bert_tokenizer.hpp"
#include "03_sentence_similarity/unicode.hpp"
#include "examples/weights_folder.hpp"
#include "heed/base/contract.hpp"

namespace sentence_similarity {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr Index longest = 256;

const nlohmann::json& golden() {
    static const nlohmann::json file =
        nlohmann::json::parse(std::ifstream(HEED_TEST_DATA_DIR "/wordpiece.json"));
    return file;
}

BertTokenizer tokenizer_of(const std::vector<std::string>& tokens) {
    std::stringstream lines;
    for (const std::string& token : tokens) lines << token << '\n';
    return BertTokenizer(examples::Vocabulary(lines));
}

BertTokenizer small_tokenizer() {
    return tokenizer_of(golden()["vocabulary"].get<std::vector<std::string>>());
}

/// A few words, for tests by hand: [PAD] is 0, [MASK] 4, and so on.
BertTokenizer tiny_tokenizer() {
    return tokenizer_of(
        {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##aff", "##able", "a", "##a", "."});
}

std::vector<std::string> words(std::string_view text) {
    std::vector<std::string> result;
    for (const std::u32string& word : split_words(text)) result.push_back(to_utf8(word));
    return result;
}

// --- The reference
// --------------------------------------------------------------------------------

void expect_golden(const BertTokenizer& tokenizer, const char* key) {
    for (const auto& example : golden()["cases"]) {
        const auto text = example["text"].get<std::string>();
        EXPECT_EQ(tokenizer.ids(text, longest), example[key].get<std::vector<int>>())
            << example["text"].dump(-1, ' ', /*ensure_ascii=*/true);
    }
}

TEST(BertTokenizer, EveryHardTextAsTheReference) {
    EXPECT_GE(golden()["cases"].size(), 100u);
    expect_golden(small_tokenizer(), "ids");
}

TEST(BertTokenizer, EveryHardTextAsTheReferenceWithTheModelsVocabulary) {
    const auto folder = examples_test::weights_folder("all-MiniLM-L6-v2");
    if (folder.empty())
        GTEST_SKIP() << "no vocabulary: run examples/03_sentence_similarity/fetch_weights.py";
    expect_golden(BertTokenizer::read(folder / "vocab.txt"), "model_ids");
}

// The texts would show little if most of their words were unknown.
TEST(BertTokenizer, TheHardTextsAreMostlyKnown) {
    const auto tokenizer = small_tokenizer();
    const int unknown = tokenizer.ids("[UNK]", longest)[1];
    std::size_t tokens = 0, unknowns = 0;
    for (const auto& example : golden()["cases"]) {
        const auto ids = example["ids"].get<std::vector<int>>();
        if (ids.size() == longest) continue;
        tokens += ids.size();
        unknowns += static_cast<std::size_t>(std::count(ids.begin(), ids.end(), unknown));
    }
    EXPECT_GT(tokens, 800u);
    EXPECT_LT(5 * unknowns, tokens);
}

// --- Words, by hand
// -------------------------------------------------------------------------------

TEST(BertTokenizer, WordsAreLowerCaseWithoutAccents) {
    EXPECT_THAT(words("Héllo  WÖRLD"), ElementsAre("hello", "world"));
    EXPECT_THAT(words("e\u0301\u0302x \u0130 \u03a3\u03a3"), ElementsAre("ex", "i", "σσ"));
    EXPECT_THAT(words("Straße"), ElementsAre("straße"));
}

TEST(BertTokenizer, WordsEndAtBlanksPunctuationAndIdeographs) {
    EXPECT_THAT(words("don't,stop\tnow\u3000!"),
                ElementsAre("don", "'", "t", ",", "stop", "now", "!"));
    EXPECT_THAT(words("a…b 5€ x+y"), ElementsAre("a", "…", "b", "5€", "x", "+", "y"));
    EXPECT_THAT(words("ab中文cd"), ElementsAre("ab", "中", "文", "cd"));
    EXPECT_THAT(words("--"), ElementsAre("-", "-"));
    EXPECT_THAT(words(" \n"), IsEmpty());
}

TEST(BertTokenizer, ControlCharactersVanish) {
    EXPECT_THAT(words(std::string("a\0b", 3)), ElementsAre("ab"));
    EXPECT_THAT(words("a\u200bb\x01"
                      "c\u00add \ufffd"),
                ElementsAre("abcd"));
    EXPECT_THAT(words("a\rb\u0085c"), ElementsAre("a", "bc"));
}

// --- Pieces, by hand
// ------------------------------------------------------------------------------

TEST(BertTokenizer, TakesTheLongestPieces) {
    const auto tokenizer = tiny_tokenizer();
    EXPECT_EQ(tokenizer.vocabulary_size(), 11);
    EXPECT_THAT(tokenizer.ids("unaffable", 10), ElementsAre(2, 5, 6, 7, 3));
    EXPECT_THAT(tokenizer.ids("AAA.", 10), ElementsAre(2, 8, 9, 9, 10, 3));
    EXPECT_THAT(tokenizer.ids("", 10), ElementsAre(2, 3));
}

TEST(BertTokenizer, AWordOfUnknownPiecesIsUnknownAsAWhole) {
    const auto tokenizer = tiny_tokenizer();
    EXPECT_THAT(tokenizer.ids("unaffably un", 10), ElementsAre(2, 1, 5, 3));
    EXPECT_THAT(tokenizer.ids(std::string(100, 'a'), 200), testing::SizeIs(102));
    EXPECT_THAT(tokenizer.ids(std::string(101, 'a'), 200), ElementsAre(2, 1, 3));
}

TEST(BertTokenizer, KeepsRoomForTheEnd) {
    const auto tokenizer = tiny_tokenizer();
    EXPECT_THAT(tokenizer.ids("a a a a", 6), ElementsAre(2, 8, 8, 8, 8, 3));
    EXPECT_THAT(tokenizer.ids("a a a a", 5), ElementsAre(2, 8, 8, 8, 3));
    EXPECT_THAT(tokenizer.ids("unaffable", 3), ElementsAre(2, 5, 3));
    EXPECT_THAT(tokenizer.ids("a", 2), ElementsAre(2, 3));
    EXPECT_THROW((void)tokenizer.ids("a", 1), heed::ArgumentError);
    EXPECT_THROW((void)tokenizer.ids("a", -1), heed::ArgumentError);
}

TEST(BertTokenizer, SpecialTokensMayBeTyped) {
    const auto tokenizer = tiny_tokenizer();
    EXPECT_THAT(tokenizer.ids("a[SEP]a", 10), ElementsAre(2, 8, 3, 8, 3));
    EXPECT_THAT(tokenizer.ids("[MASK][PAD]", 10), ElementsAre(2, 4, 0, 3));
    // Brackets are unknown to this vocabulary: [ a ] are three words.
    EXPECT_THAT(tokenizer.ids("[a]", 10), ElementsAre(2, 1, 8, 1, 3));
    EXPECT_THAT(tokenizer.ids("[sep]", 10), ElementsAre(2, 1, 1, 1, 3));
}

// --- What is refused
// ------------------------------------------------------------------------------

TEST(BertTokenizer, RefusesWhatIsNotUtf8) {
    const auto tokenizer = tiny_tokenizer();
    const std::pair<std::string, const char*> texts[] = {
        {"a\xe9", "0xE9 at position 1"},             // Latin-1
        {"\x80", "0x80 at position 0"},              // goes on with nothing
        {"ab\xc3", "0xC3 at position 2"},            // ends too early
        {"\xc0\xaf", "0xC0 at position 0"},          // '/' in two bytes
        {"\xe0\x80\xaf", "0xE0 at position 0"},      // and in three
        {"x\xed\xa0\x80", "0xED at position 1"},     // half of a pair of UTF-16
        {"\xf4\x90\x80\x80", "0xF4 at position 0"},  // beyond U+10FFFF
        {"\xff", "0xFF at position 0"}};
    for (const auto& [text, where] : texts) {
        try {
            (void)tokenizer.ids(text, 10);
            ADD_FAILURE() << where << " passed";
        } catch (const heed::FormatError& error) {
            EXPECT_THAT(error.what(), HasSubstr(where));
        }
    }
}

TEST(BertTokenizer, RefusesAVocabularyWithoutTheSpecialTokens) {
    for (const std::string missing : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) {
        std::vector<std::string> tokens{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"};
        std::erase(tokens, missing);
        try {
            (void)tokenizer_of(tokens);
            ADD_FAILURE() << missing << " was not missed";
        } catch (const std::runtime_error& error) {
            EXPECT_THAT(error.what(), HasSubstr("the vocabulary has no '" + missing));
        }
    }
    EXPECT_THROW((void)BertTokenizer::read("/no/such/vocab.txt"), std::runtime_error);
}

// Any bytes are refused or read, and what is read is of the vocabulary and no longer than asked
// for.
TEST(BertTokenizer, SurvivesAnyBytes) {
    const auto tokenizer = small_tokenizer();
    const std::uint64_t seed = 3;
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto& cases = golden()["cases"];
    int read = 0, refused = 0;
    for (int round = 0; round < 5000; ++round) {
        auto text = cases[random() % cases.size()]["text"].get<std::string>().substr(0, 60);
        for (std::size_t edits = random() % 4; edits > 0 && !text.empty(); --edits)
            text[random() % text.size()] = static_cast<char>(random());
        try {
            const auto ids = tokenizer.ids(text, 40);
            ASSERT_LE(ids.size(), 40u);
            for (const int id : ids)
                ASSERT_TRUE(0 <= id && id < static_cast<int>(tokenizer.vocabulary_size()));
            ++read;
        } catch (const heed::FormatError&) {
            ++refused;
        }
    }
    EXPECT_GT(read, 1000);
    EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace sentence_similarity
