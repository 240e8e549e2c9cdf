// The vectors of examples/03_sentence_similarity: laws on a tiny model, and all-MiniLM-L6-v2
// against PyTorch (tests/golden/sentences.safetensors) where its weights are.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "03_sentence_similarity/progress.hpp"
#include "03_sentence_similarity/published_results.hpp"
#include "03_sentence_similarity/search.hpp"
#include "03_sentence_similarity/sentence_encoder.hpp"
#include "examples/weights_folder.hpp"
#include "support/golden.hpp"
#include "support/temporary_folder.hpp"
#include "support/tolerance.hpp"

namespace sentence_similarity {
namespace {

using heed::Tensor;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<float> values(heed::TensorView<const float, 1> row) {
    std::vector<float> result;
    for (Index i = 0; i < row.extent(0); ++i) result.push_back(row(i));
    return result;
}

// --- A tiny model
// ---------------------------------------------------------------------------------

/// Letters as words, and a model of random weights.
class TinyEncoder : public testing::Test {
  protected:
    static BertTokenizer tokenizer() {
        std::stringstream lines("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\nd\n");
        return BertTokenizer(examples::Vocabulary(lines));
    }
    static heed::BertModel<float> model() {
        heed::BertModel<float> model({.vocab_size = 9,
                                      .hidden_size = 16,
                                      .num_hidden_layers = 2,
                                      .num_attention_heads = 2,
                                      .intermediate_size = 24,
                                      .max_position_embeddings = 256});
        model.reset_parameters(7);
        return model;
    }
    static std::string letters(std::size_t count, std::size_t step) {
        std::string text;
        for (std::size_t i = 0; i < count; ++i)
            text += std::string(1, static_cast<char>('a' + i * step % 4)) + ' ';
        return text;
    }

    SentenceEncoder encoder{tokenizer(), model()};
};

TEST_F(TinyEncoder, IsTheMeanOfTheHiddenStates) {
    const std::vector<std::string> texts{"a b c d a"};
    const Tensor<float, 2> vectors = encoder.encode(texts);
    ASSERT_EQ(vectors.shape(), heed::Shape<2>(1, 16));
    heed::BertModel<float> bert = model();
    const Tensor<int, 2> ids({1, 7}, {2, 5, 6, 7, 8, 5, 3});
    const std::vector<Index> lengths{7};
    const Tensor<float, 3> hidden = bert(ids, lengths);
    std::vector<double> mean(16);
    double length = 0;
    for (Index i = 0; i < 16; ++i) {
        double& m = mean[static_cast<std::size_t>(i)];
        for (Index t = 0; t < 7; ++t) m += static_cast<double>(hidden(0, t, i)) / 7;
        length += m * m;
    }
    for (double& m : mean) m /= std::sqrt(length);
    // Sums of 7 and of 16 numbers, a square root and a division, of numbers below 1.
    EXPECT_TRUE(support::compare_within(values(vectors.view().select(0, 0)), mean, 20 * 6e-8).ok);
}

TEST_F(TinyEncoder, NeitherOrderNorCompanyMatters) {
    std::vector<std::string> texts;
    for (std::size_t i = 0; i < 60; ++i) texts.push_back(letters(3 + i * 37 % 250, 1 + i % 3));
    const Tensor<float, 2> together = encoder.encode(texts);
    std::vector<std::string> turned(texts.rbegin(), texts.rend());
    const Tensor<float, 2> backward = encoder.encode(turned);
    for (std::size_t i = 0; i < texts.size(); ++i) {
        const auto row = values(together.view().select(0, static_cast<Index>(i)));
        EXPECT_EQ(row, values(encoder.encode(std::span(texts).subspan(i, 1)).view().select(0, 0)));
        EXPECT_EQ(row, values(backward.view().select(0, static_cast<Index>(59 - i))));
    }
}

TEST_F(TinyEncoder, VectorsHaveLengthOne) {
    const std::vector<std::string> texts{"a", "", letters(500, 3), "[MASK]", "zzz", "a a"};
    const Tensor<float, 2> vectors = encoder.encode(texts);
    const Tensor<float, 2> cosines = similarities(vectors, vectors);
    for (Index i = 0; i < 6; ++i) EXPECT_NEAR(cosines(i, i), 1.0f, 1e-6f);
    EXPECT_LT(cosines(0, 2), 0.999f);
}

TEST_F(TinyEncoder, NoTexts) {
    bool observed = false;
    const Tensor<float, 2> vectors =
        encoder.encode({}, [&](const EncodingProgress&) { observed = true; });
    EXPECT_EQ(vectors.shape(), heed::Shape<2>(0, 16));
    EXPECT_FALSE(observed);
    EXPECT_EQ(similarities(vectors, vectors).shape(), heed::Shape<2>(0, 0));
}

TEST_F(TinyEncoder, TellsOfItsProgress) {
    const std::vector<std::string> texts(30, letters(500, 1));  // 256 tokens each, cut off
    std::vector<EncodingProgress> seen;
    (void)encoder.encode(texts, [&](const EncodingProgress& now) { seen.push_back(now); });
    ASSERT_GT(seen.size(), 1u);
    for (const EncodingProgress& now : seen) {
        EXPECT_EQ(now.all_texts, 30);
        EXPECT_EQ(now.all_tokens, 30 * 256);
        EXPECT_EQ(now.tokens, now.texts * 256);
    }
    EXPECT_EQ(seen.back().texts, 30);
}

TEST_F(TinyEncoder, RefusesWhatDoesNotFit) {
    std::stringstream lines("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n");
    BertTokenizer other{examples::Vocabulary(lines)};
    EXPECT_THROW(SentenceEncoder(other, model()), heed::FormatError);
    EXPECT_THROW((void)SentenceEncoder::read("/no/such/folder"), std::runtime_error);
    const std::vector<std::string> texts{"a", "b\xff"};
    EXPECT_THROW((void)encoder.encode(texts), heed::FormatError);
}

TEST(PoolMean, OfRowsThatCancelIsZero) {
    const Tensor<float, 2> rows({2, 3}, {1, 2, 3, -1, -2, -3});
    Tensor<float, 1> pooled(3);
    pool_mean(rows, pooled);
    EXPECT_THAT(values(pooled), ElementsAre(0.0f, 0.0f, 0.0f));
    pool_mean(rows.view().slice(0, 0, 1), pooled);
    EXPECT_NEAR(pooled(2), 3 / std::sqrt(14.0f), 1e-6f);
}

// --- The model itself
// -----------------------------------------------------------------------------

class MiniLm : public testing::Test {
  protected:
    static void SetUpTestSuite() {
        const auto folder = examples_test::weights_folder("all-MiniLM-L6-v2");
        if (!folder.empty())
            encoder = std::make_unique<SentenceEncoder>(SentenceEncoder::read(folder));
    }
    static void TearDownTestSuite() { encoder.reset(); }
    void SetUp() override {
        if (!encoder)
            GTEST_SKIP() << "no weights: run examples/03_sentence_similarity/fetch_weights.py";
    }

    /// The texts of the golden file.
    static std::vector<std::string> golden_texts(const support::GoldenCase& golden) {
        std::vector<std::string> texts;
        while (const auto text = golden.argument("text" + std::to_string(texts.size())))
            texts.push_back(nlohmann::json::parse(*text).get<std::string>());
        return texts;
    }

    static std::unique_ptr<SentenceEncoder> encoder;
};

std::unique_ptr<SentenceEncoder> MiniLm::encoder;

// PyTorch in float is itself 2e-7 away from PyTorch in double; numbers are below 0.2.
TEST_F(MiniLm, VectorsAreThoseOfPyTorch) {
    const support::GoldenFile file("sentences");
    const support::GoldenCase golden(file, "minilm");
    const std::vector<std::string> texts = golden_texts(golden);
    ASSERT_EQ(texts.size(), 10u);
    const Tensor<float, 2> expected = golden.output("embeddings").to<float, 2>();
    const Tensor<float, 2> vectors = encoder->encode(texts);
    for (Index i = 0; i < vectors.extent(0); ++i) {
        const auto verdict = support::compare_within(values(vectors.view().select(0, i)),
                                                     values(expected.view().select(0, i)), 1e-6);
        EXPECT_TRUE(verdict.ok) << texts[static_cast<std::size_t>(i)] << ": " << verdict.message;
    }
    // The counter-check: other texts have other vectors.
    EXPECT_GT(support::max_abs_error(values(vectors.view().select(0, 0)),
                                     values(expected.view().select(0, 1)))
                  .error,
              0.01);
}

TEST_F(MiniLm, SimilaritiesAreThePublishedOnes) {
    const std::vector<std::string> texts(demo_sentences.begin(), demo_sentences.end());
    const Tensor<float, 2> vectors = encoder->encode(texts);
    const Tensor<float, 2> cosines = similarities(vectors, vectors);
    for (Index i = 0; i < 6; ++i)
        for (Index j = 0; j < 6; ++j)
            EXPECT_NEAR(cosines(i, j), published_similarities[i][j], published_tolerance);
}

// --- Searching
// ------------------------------------------------------------------------------------

TEST(Search, LinesAreNumberedAndBlanksLeftOut) {
    const support::TemporaryFolder folder;
    std::ofstream(folder / "text") << "one\n\n  \t\r\n two\nthree";
    const Lines lines = read_lines(folder / "text");
    EXPECT_THAT(lines.texts, ElementsAre("one", " two", "three"));
    EXPECT_THAT(lines.numbers, ElementsAre(1, 4, 5));
}

TEST(Search, RefusesFilesWithoutText) {
    const support::TemporaryFolder folder;
    std::ofstream(folder / "blank") << "\n \n";
    std::ofstream(folder / "latin1") << "one\n\ncaf\xe9\n";
    for (const std::string name : {"blank", "nothing", "."})
        EXPECT_THROW((void)read_lines(folder / name), heed::FormatError) << name;
    try {
        (void)read_lines(folder / "latin1");
        ADD_FAILURE() << "Latin-1 passed";
    } catch (const heed::FormatError& error) {
        EXPECT_THAT(error.what(), HasSubstr("latin1, line 3: "));
        EXPECT_THAT(error.what(), HasSubstr("0xE9 at position 3"));
    }
}

TEST(Search, BestAreTheLargestInOrder) {
    const std::vector<float> scores{0.1f, 0.9f, 0.5f, 0.9f, -1.0f};
    EXPECT_THAT(best_of(scores, 3), ElementsAre(1u, 3u, 2u));
    EXPECT_THAT(best_of(scores, 9), ElementsAre(1u, 3u, 2u, 0u, 4u));
    EXPECT_THAT(best_of({}, 3), IsEmpty());
    std::vector<std::size_t> places(100);
    std::iota(places.begin(), places.end(), std::size_t{0});
    EXPECT_EQ(best_of(std::vector<float>(100, 0.5f), 100), places);
}

TEST(EncodingProgressLine, TellsAll) {
    EXPECT_EQ(
        to_string(
            EncodingProgress{.texts = 120, .all_texts = 311, .tokens = 5000, .all_tokens = 20000},
            2.0),
        "120/311 [######------------------] 2500 tokens/s, 0:06 left");
    EXPECT_THAT(to_string(EncodingProgress{}, 0.0), HasSubstr("0/0 [####"));
}

TEST(EncodingProgressLine, IsSeenOnATerminalOnly) {
    std::ostringstream terminal, file;
    Progress seen(terminal, true), unseen(file, false);
    for (Progress* progress : {&seen, &unseen}) {
        progress->show({.texts = 1, .all_texts = 2, .tokens = 10, .all_tokens = 20});
        progress->erase();
    }
    EXPECT_THAT(terminal.str(), HasSubstr("\r1/2 [############------------]"));
    EXPECT_TRUE(terminal.str().ends_with("\r\x1b[K"));
    EXPECT_THAT(file.str(), IsEmpty());
}

}  // namespace
}  // namespace sentence_similarity
