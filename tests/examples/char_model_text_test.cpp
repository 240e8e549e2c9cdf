// Alphabet, corpus and windows of examples/05_train_char_model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "05_train_char_model/batches.hpp"
#include "05_train_char_model/text.hpp"
#include "heed/base/contract.hpp"
#include "support/temporary_folder.hpp"

namespace char_model {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(CharModelAlphabet, NumbersTheBytesThatOccur) {
    const Alphabet alphabet("banana\n");
    EXPECT_EQ(alphabet.letters(), "\nabn");
    EXPECT_EQ(alphabet.size(), 4);
    EXPECT_EQ(alphabet.id('\n'), 0);
    EXPECT_EQ(alphabet.id('n'), 3);
    EXPECT_EQ(alphabet.letter(2), 'b');
    EXPECT_THAT([&] { (void)alphabet.id('x'); },
                ThrowsMessage<heed::ArgumentError>(HasSubstr("found byte 120 ('x')")));
}

TEST(CharModelAlphabet, BytesBeyondAsciiComeLast) {
    const Alphabet alphabet("a\xC3\xA9z");  // a, e acute, z
    EXPECT_EQ(alphabet.letters(), "az\xA9\xC3");
    EXPECT_EQ(alphabet.id('\xC3'), 3);
}

TEST(CharModelAlphabet, MayHaveAllBytes) {
    std::string all(256, '\0');
    std::iota(all.begin(), all.end(), '\0');
    const Corpus corpus(all);
    EXPECT_EQ(corpus.alphabet.size(), 256);
    EXPECT_EQ(corpus.ids.back(), 255);
}

TEST(CharModelCorpus, HoldsTheTailOut) {
    const Corpus corpus("abcdefghij", 0.3);
    EXPECT_THAT(corpus.training(), ElementsAre(0, 1, 2, 3, 4, 5, 6));
    EXPECT_THAT(corpus.validation(), ElementsAre(7, 8, 9));
}

TEST(CharModelCorpus, HasTheFingerprintOfFnv1a) {
    // Published test vectors of the hash (Fowler, Noll, Vo).
    EXPECT_EQ(Corpus("a").fingerprint, 0xAF63DC4C8601EC8C);
    EXPECT_EQ(Corpus("foobar").fingerprint, 0x85944171F73967E8);
}

TEST(CharModelText, ReadsBytesAndRefusesNothing) {
    const support::TemporaryFolder folder;
    std::ofstream(folder / "text", std::ios::binary) << "a\r\nb\xFF";
    std::ofstream(folder / "empty");
    EXPECT_EQ(read_text(folder / "text"), "a\r\nb\xFF");
    EXPECT_THROW((void)read_text(folder / "empty"), heed::FormatError);
    EXPECT_THAT([&] { (void)read_text(folder / "none"); },
                ThrowsMessage<heed::FormatError>(HasSubstr("found none at")));
}

/// 0, 1, 2, ...: a window tells where it begins.
std::vector<std::uint8_t> counting(std::size_t size) {
    std::vector<std::uint8_t> ids(size);
    std::iota(ids.begin(), ids.end(), std::uint8_t{0});
    return ids;
}

TEST(CharModelBatches, TargetsAreTheNextLetters) {
    const Batch batch = random_windows(counting(100), 3, 4, /*seed=*/7, /*step=*/0);
    ASSERT_EQ(batch.inputs.size(), 12u);
    for (std::size_t i = 0; i < 12; ++i) {
        EXPECT_EQ(batch.targets[i], batch.inputs[i] + 1);
        EXPECT_EQ(batch.inputs[i], batch.inputs[i / 4 * 4] + static_cast<int>(i % 4));
    }
}

TEST(CharModelBatches, DependOnSeedAndStepAlone) {
    const auto text = counting(250);
    const auto inputs = [&](std::uint64_t seed, Index step) {
        return random_windows(text, 8, 5, seed, step).inputs;
    };
    EXPECT_EQ(inputs(1, 3), inputs(1, 3));
    EXPECT_NE(inputs(1, 3), inputs(1, 4));
    EXPECT_NE(inputs(1, 3), inputs(2, 3));
    EXPECT_NE(inputs(1, 0), inputs(1, Index{1} << 32));
}

TEST(CharModelBatches, ReachEveryPlaceAndNoOther) {
    std::set<int> begins;
    for (Index step = 0; step < 100; ++step)
        for (int begin : random_windows(counting(10), 2, 1, 1, step).inputs) begins.insert(begin);
    EXPECT_THAT(begins, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8));  // 9 has no letter behind it
}

TEST(CharModelBatches, EvenWindowsSpanTheText) {
    const Batch batch = even_windows(counting(10), 3, 3);
    EXPECT_THAT(batch.inputs, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8));
    EXPECT_THAT(batch.targets, ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 9));
    EXPECT_THAT(even_windows(counting(10), 1, 3).inputs, ElementsAre(0, 1, 2));
    EXPECT_THAT(even_windows(counting(2), 2, 1).inputs, Each(0));
}

TEST(CharModelBatches, RefuseATextWithoutAWindow) {
    const auto text = counting(4);
    EXPECT_THAT([&] { (void)random_windows(text, 1, 4, 1, 0); },
                ThrowsMessage<heed::ArgumentError>(HasSubstr("longer than the context of 4")));
    EXPECT_THROW((void)even_windows(text, 1, 4), heed::ArgumentError);
    EXPECT_NO_THROW((void)even_windows(text, 1, 3));
}

}  // namespace
}  // namespace char_model
