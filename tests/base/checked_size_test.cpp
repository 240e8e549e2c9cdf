// Sizes that would wrap around are refused: against 128-bit arithmetic, at the limit, at random.

#include "heed/base/checked_size.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <type_traits>

namespace {

using heed::Index;
using heed::detail::CheckedSize;
__extension__ using Wide = unsigned __int128;

constexpr std::uint64_t limit = (std::uint64_t{1} << 63) - 1;
constexpr std::uint64_t largest = std::numeric_limits<std::uint64_t>::max();

TEST(CheckedSize, IndexIsSignedAndWide) {
    static_assert(std::is_signed_v<Index>);
    static_assert(sizeof(Index) == 8);
}

TEST(CheckedSize, ValuesUpToTheLargestIndexPass) {
    EXPECT_EQ(CheckedSize<>("f", 0).index(), 0);
    EXPECT_EQ(CheckedSize<>("f", limit).index(), std::numeric_limits<Index>::max());
    EXPECT_EQ(CheckedSize<>("f", limit).bytes(), limit);
    EXPECT_THROW(CheckedSize<>("f", limit + 1), heed::ShapeError);
    EXPECT_THROW(CheckedSize<>("f", largest), heed::ShapeError);
}

TEST(CheckedSize, ProductsAtTheLimit) {
    // 2^63 - 1 = 7^2 * 73 * 127 * 337 * 92737 * 649657: a product that is the limit exactly.
    EXPECT_EQ((CheckedSize<>("f", 649657) * (limit / 649657)).bytes(), limit);
    EXPECT_THROW(CheckedSize<>("f", 649657) * (limit / 649657 + 1), heed::ShapeError);
    EXPECT_THROW(CheckedSize<>("f", std::uint64_t{1} << 32) * (std::uint64_t{1} << 31),
                 heed::ShapeError);
    EXPECT_EQ((CheckedSize<>("f", std::uint64_t{1} << 32) * (std::uint64_t{1} << 30)).bytes(),
              std::uint64_t{1} << 62);
    EXPECT_EQ((CheckedSize<>("f", limit) * 0).index(), 0);
    EXPECT_EQ((CheckedSize<>("f", 0) * largest).index(), 0);
}

TEST(CheckedSize, SumsAtTheLimit) {
    EXPECT_EQ((CheckedSize<>("f", limit) + 0).bytes(), limit);
    EXPECT_EQ((CheckedSize<>("f", 1) + (limit - 1)).bytes(), limit);
    EXPECT_THROW(CheckedSize<>("f", 1) + limit, heed::ShapeError);
    EXPECT_THROW(CheckedSize<>("f", 1) + largest, heed::ShapeError);
    EXPECT_THROW(CheckedSize<>("f", 0) + (limit + 1), heed::ShapeError);
}

// Museum 79 in small: the plain product 2^32 * 2^32 is 0, and 0 passes every later check.
TEST(CheckedSize, PlainArithmeticWouldWrap) {
    const std::uint64_t extent = std::uint64_t{1} << 32;
    ASSERT_EQ(extent * extent, 0U);
    EXPECT_THROW(CheckedSize<>("f", extent) * extent, heed::ShapeError);
}

TEST(CheckedSize, ErrorKindAndTextAreTheCallersOwn) {
    EXPECT_THROW(CheckedSize<heed::FormatError>("f", limit) * 2, heed::FormatError);
    try {
        CheckedSize<>("grow", limit) += 1;
        FAIL() << "nothing thrown";
    } catch (const heed::ShapeError& error) {
        EXPECT_STREQ(error.what(),
                     "[grow] a size must fit into 63 bits; found a product or sum beyond it");
    }
}

TEST(CheckedSize, AFailedOperationLeavesTheValue) {
    CheckedSize<> size("f", 5);
    EXPECT_THROW(size *= limit, heed::ShapeError);
    EXPECT_EQ(size.index(), 5);
    EXPECT_THROW(size += limit, heed::ShapeError);
    EXPECT_EQ(size.index(), 5);
}

TEST(CheckedSize, ThrowsExactlyWhenTheTrueResultDoesNotFit) {
    constexpr std::uint64_t seed = 20240601;
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    // Widths are drawn, not values, so that products land on both sides of the limit.
    const auto draw = [&] { return random() >> (random() % 64); };
    int thrown = 0;
    for (int trial = 0; trial < 20'000; ++trial) {
        const std::uint64_t a = draw() & limit, b = draw();
        const Wide product = Wide{a} * b, sum = Wide{a} + b;
        if (product <= limit) {
            ASSERT_EQ((CheckedSize<>("f", a) * b).bytes(), static_cast<std::uint64_t>(product));
        } else {
            ++thrown;
            ASSERT_THROW(CheckedSize<>("f", a) * b, heed::ShapeError) << a << " * " << b;
        }
        if (sum <= limit)
            ASSERT_EQ((CheckedSize<>("f", a) + b).bytes(), static_cast<std::uint64_t>(sum));
        else
            ASSERT_THROW(CheckedSize<>("f", a) + b, heed::ShapeError) << a << " + " << b;
    }
    EXPECT_GT(thrown, 1000);
    EXPECT_LT(thrown, 19'000);
}

}  // namespace
