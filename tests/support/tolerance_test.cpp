// Do the yardsticks measure? Cases on both sides of every bound.

#include "support/tolerance.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace {

using support::compare_bits;
using support::compare_with_oracle;
using support::compare_within;
using support::ulp_distance;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr double eps = std::numeric_limits<float>::epsilon();

TEST(UlpDistance, CountsRepresentableValues) {
    EXPECT_EQ(ulp_distance(1.0f, 1.0f), 0u);
    EXPECT_EQ(ulp_distance(1.0f, std::nextafter(1.0f, 2.0f)), 1u);
    EXPECT_EQ(ulp_distance(2.0f, 1.0f), 1u << 23);  // one binade of float has 2^23 values
    EXPECT_EQ(ulp_distance(2.0, 1.0), std::uint64_t{1} << 52);
    EXPECT_EQ(ulp_distance(0.0f, -0.0f), 0u);
    const float tiny = std::numeric_limits<float>::denorm_min();
    EXPECT_EQ(ulp_distance(tiny, -tiny), 2u);
    EXPECT_EQ(ulp_distance(infinity, std::numeric_limits<float>::max()), 1u);
    // -inf..inf is twice the 0x7f800000 steps from 0 to inf.
    EXPECT_EQ(ulp_distance(-infinity, infinity), 2 * std::uint64_t{0x7f800000});
    const double wide = std::numeric_limits<double>::infinity();
    EXPECT_EQ(ulp_distance(-wide, wide), 2 * std::uint64_t{0x7ff0000000000000});
    EXPECT_EQ(ulp_distance(nan, nan), 0u);
    EXPECT_EQ(ulp_distance(nan, 1.0f), std::numeric_limits<std::uint64_t>::max());
}

TEST(AbsError, SpecialValues) {
    EXPECT_EQ(support::abs_error(infinity, std::numeric_limits<double>::infinity()), 0.0);
    EXPECT_EQ(support::abs_error(nan, nan), 0.0);
    EXPECT_TRUE(std::isinf(support::abs_error(nan, 1.0)));
    EXPECT_TRUE(std::isinf(support::abs_error(1.0f, nan)));
    EXPECT_TRUE(std::isinf(support::abs_error(infinity, -infinity)));
    EXPECT_TRUE(std::isinf(support::abs_error(infinity, 1.0)));
}

TEST(CompareWithin, NamesTheWorstElement) {
    const std::vector<float> actual{1.0f, 2.5f, 3.25f};
    const auto verdict = compare_within(actual, std::vector<double>{1, 2, 3}, 0.25);
    EXPECT_FALSE(verdict);
    EXPECT_EQ(verdict.error, 0.5);
    EXPECT_EQ(verdict.at, 1u);
    EXPECT_EQ(verdict.message,
              "largest error 0.5, bound 0.25, at element 1 of 3: 2.5 instead of 2");
    EXPECT_TRUE(compare_within(actual, std::vector<double>{1, 2, 3}, 0.5));
}

TEST(CompareWithin, SizesMustAgree) {
    const auto verdict = compare_within(std::vector<float>{1}, std::vector<double>{1, 2}, 1e9);
    EXPECT_FALSE(verdict);
    EXPECT_EQ(verdict.message, "1 elements instead of 2");
    EXPECT_TRUE(compare_within(std::vector<float>{}, std::vector<double>{}, 0.0));
}

TEST(CompareWithOracle, TwiceThePlainErrorAndAFloor) {
    const std::vector<double> oracle{1.0, -8.0};
    const std::vector<double> plain{1.0 + 1e-3, -8.0};
    // Bound: 2e-3 + 4 eps * 8.
    const double bound = 2e-3 + 32 * eps;
    const auto off_by = [&](double error) { return std::vector<double>{1.0, -8.0 + error}; };
    EXPECT_TRUE(compare_with_oracle<float>(off_by(0.999 * bound), plain, oracle));
    EXPECT_FALSE(compare_with_oracle<float>(off_by(1.001 * bound), plain, oracle));
}

TEST(CompareWithOracle, MagnitudeOfTheTermsMayBeGiven) {
    const std::vector<double> oracle{0.0}, off{100 * eps};
    EXPECT_FALSE(compare_with_oracle<float>(off, oracle, oracle));  // floor 0
    EXPECT_TRUE(compare_with_oracle<float>(off, oracle, oracle, 25.0));
}

TEST(CompareWithOracle, ABrokenPlainVersionBoundsNothing) {
    const std::vector<double> oracle{1.0};
    EXPECT_FALSE(compare_with_oracle<float>(oracle, std::vector<float>{infinity}, oracle));
    EXPECT_FALSE(compare_with_oracle<float>(std::vector<float>{nan}, oracle, oracle));
}

TEST(CompareBits, TellsZerosApartAndKeepsNan) {
    EXPECT_FALSE(compare_bits(std::vector<float>{0.0f}, std::vector<float>{-0.0f}));
    EXPECT_TRUE(compare_bits(std::vector<float>{nan, 1}, std::vector<float>{nan, 1}));
    EXPECT_FALSE(compare_bits(std::vector<float>{1}, std::vector<float>{std::nextafter(1.f, 2.f)}));
    EXPECT_FALSE(compare_bits(std::vector<float>{1}, std::vector<float>{1, 2}));
}

}  // namespace
