// Alignment: where a query stands on the key axis, and which defaults are refused.
#include "heed/attention/geometry.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <string>
#include <vector>

namespace {

using heed::Alignment;
using heed::AttentionShape;
using heed::Index;
using testing::HasSubstr;

constexpr Index farthest = Index{1} << 61;

AttentionShape lengths(Index q_len, Index kv_len, Index batch = 1) {
    return {.batch = batch,
            .heads = 1,
            .kv_heads = 1,
            .q_len = q_len,
            .kv_len = kv_len,
            .head_dim = 1,
            .value_dim = 1};
}

Index position(const Alignment& alignment, const AttentionShape& shape, Index q, Index b = 0) {
    return alignment.resolve("test", shape)({b, 0, q, 0});
}

template <class Kind>
std::string message_of(const Alignment& alignment, const AttentionShape& shape) {
    try {
        (void)alignment.resolve("where", shape);
    } catch (const Kind& error) {
        return error.what();
    }
    return "no error";
}

TEST(Alignment, TopLeftPutsTheFirstQueryAtTheFirstKey) {
    for (Index q_len = 0; q_len < 5; ++q_len)
        for (Index kv_len = 0; kv_len < 5; ++kv_len)
            for (Index i = 0; i < q_len; ++i)
                EXPECT_EQ(position(Alignment::top_left(), lengths(q_len, kv_len), i), i);
}

TEST(Alignment, BottomRightPutsTheLastQueryAtTheLastKey) {
    for (Index q_len = 1; q_len < 5; ++q_len)
        for (Index kv_len = 0; kv_len < 5; ++kv_len) {
            const AttentionShape shape = lengths(q_len, kv_len);
            EXPECT_EQ(position(Alignment::bottom_right(), shape, q_len - 1), kv_len - 1);
            EXPECT_EQ(position(Alignment::bottom_right(), shape, 0), kv_len - q_len);
        }
}

TEST(Alignment, OffsetCountsTheKeysBeforeTheFirstQuery) {
    for (const Index before : {Index{0}, Index{7}, Index{-3}, farthest, -farthest})
        EXPECT_EQ(position(Alignment::offset(before), lengths(3, 9), 2), before + 2);
}

TEST(Alignment, OffsetsAreOneForEachBatchElement) {
    const std::array<Index, 3> before{4, 0, -2};
    for (Index b = 0; b < 3; ++b)
        EXPECT_EQ(position(Alignment::offsets(before), lengths(3, 9, 3), 1, b),
                  before[static_cast<std::size_t>(b)] + 1);
}

TEST(Alignment, AnEmptyBatchNeedsNoOffsets) {
    EXPECT_NO_THROW((void)Alignment::offsets({}).resolve("test", lengths(3, 9, 0)));
}

TEST(Alignment, UnnamedIsTheDiagonalOfASquareAndNothingElse) {
    EXPECT_EQ(position(Alignment(), lengths(4, 4), 3), 3);
    for (const auto& [q_len, kv_len] : {std::pair<Index, Index>{3, 4}, {4, 3}, {0, 1}, {1, 0}}) {
        const std::string message =
            message_of<heed::ArgumentError>(Alignment(), lengths(q_len, kv_len));
        EXPECT_THAT(message, HasSubstr("[where] the alignment must be named"));
        EXPECT_THAT(message, HasSubstr("found q_len " + std::to_string(q_len) + ", kv_len " +
                                       std::to_string(kv_len)));
    }
}

TEST(Alignment, KnowsWhetherItIsNamed) {
    EXPECT_FALSE(Alignment().is_named());
    EXPECT_TRUE(Alignment::top_left().is_named());
    EXPECT_TRUE(Alignment::bottom_right().is_named());
    EXPECT_TRUE(Alignment::offset(0).is_named());
    EXPECT_TRUE(Alignment::offsets({}).is_named());
}

TEST(Alignment, AnOffsetBeyondEveryPositionIsRefused) {
    constexpr Index least = std::numeric_limits<Index>::min();
    constexpr Index most = std::numeric_limits<Index>::max();
    for (const Index before : {farthest + 1, -farthest - 1, least, most}) {
        EXPECT_THAT(
            message_of<heed::ArgumentError>(Alignment::offset(before), lengths(1, 1)),
            HasSubstr("[where] an offset must be within 2^61; found " + std::to_string(before)));
        const std::array<Index, 2> one_bad{0, before};
        EXPECT_THAT(message_of<heed::ArgumentError>(Alignment::offsets(one_bad), lengths(1, 1, 2)),
                    HasSubstr("found " + std::to_string(before)));
    }
}

TEST(Alignment, OffsetsOfAnotherBatchAreRefused) {
    const std::array<Index, 2> two{0, 0};
    for (const Index batch : {Index{0}, Index{1}, Index{3}})
        EXPECT_THAT(message_of<heed::ShapeError>(Alignment::offsets(two), lengths(1, 1, batch)),
                    HasSubstr("found offsets 2, batch " + std::to_string(batch)));
    EXPECT_THAT(message_of<heed::ShapeError>(Alignment::offsets({}), lengths(1, 1, 1)),
                HasSubstr("found offsets 0, batch 1"));
}

}  // namespace
