// Which numbers may be stored, and is every conversion the nearest number of the target type?

#include "heed/base/scalar.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <type_traits>

namespace {

using heed::bfloat16;
using heed::half;
using heed::detail::convert;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

template <class T>
T from_bits(std::uint16_t bits) {
    return std::bit_cast<T>(bits);
}

template <class T>
std::uint16_t bits_of(T value) {
    return std::bit_cast<std::uint16_t>(value);
}

TEST(Scalar, Concepts) {
    static_assert(heed::ComputeScalar<float> && heed::ComputeScalar<double>);
    static_assert(!heed::ComputeScalar<half> && !heed::ComputeScalar<bfloat16>);
    static_assert(!heed::ComputeScalar<int> && !heed::ComputeScalar<long double>);
    static_assert(heed::StorageScalar<float> && heed::StorageScalar<double>);
    static_assert(heed::StorageScalar<half> && heed::StorageScalar<bfloat16>);
    static_assert(!heed::StorageScalar<bool> && !heed::StorageScalar<std::int8_t>);
    static_assert(!heed::StorageScalar<const float>);
}

TEST(Scalar, ComputeType) {
    static_assert(std::is_same_v<heed::ComputeType<float>, float>);
    static_assert(std::is_same_v<heed::ComputeType<double>, double>);
    static_assert(std::is_same_v<heed::ComputeType<half>, float>);
    static_assert(std::is_same_v<heed::ComputeType<bfloat16>, float>);
}

TEST(Scalar, HalfTypesTakeTwoBytes) {
    static_assert(sizeof(half) == 2 && sizeof(bfloat16) == 2);
    EXPECT_EQ(static_cast<float>(std::numeric_limits<half>::max()), 65504.0F);
    EXPECT_EQ(static_cast<float>(half(1.0F / 3.0F)), 0.333251953125F);   // 1365 / 4096
    EXPECT_EQ(static_cast<float>(bfloat16(1.0F / 3.0F)), 0.333984375F);  // 171 / 512
    EXPECT_EQ(static_cast<float>(from_bits<half>(0x0001)), 0x1p-24F);    // smallest subnormal
    EXPECT_EQ(static_cast<float>(from_bits<bfloat16>(0x0001)), 0x1p-133F);
}

TEST(Convert, DoubleToFloatAroundTheLargestFloat) {
    constexpr float largest = std::numeric_limits<float>::max();
    // The largest float is 2^128 - 2^104; its neighbour would be 2^128. Halfway, 2^128 - 2^103, is
    // a tie and goes to the even one, which is infinity; everything below goes to the float.
    const double tie = 0x1.ffffffp127;
    EXPECT_EQ(convert<float>(tie), std::numeric_limits<float>::infinity());
    EXPECT_EQ(convert<float>(std::nextafter(tie, 0.0)), largest);
    EXPECT_EQ(convert<float>(std::nextafter(static_cast<double>(largest), infinity)), largest);
    EXPECT_EQ(convert<float>(static_cast<double>(largest)), largest);
    EXPECT_EQ(convert<float>(-tie), -std::numeric_limits<float>::infinity());
    EXPECT_EQ(convert<float>(-std::nextafter(tie, 0.0)), -largest);
    EXPECT_EQ(convert<float>(1e300), std::numeric_limits<float>::infinity());
    EXPECT_EQ(convert<float>(-1e300), -std::numeric_limits<float>::infinity());
    EXPECT_EQ(convert<float>(infinity), std::numeric_limits<float>::infinity());
    EXPECT_EQ(convert<float>(-infinity), -std::numeric_limits<float>::infinity());
    EXPECT_TRUE(std::isnan(convert<float>(nan_value)));
}

TEST(Convert, DoubleToFloatIsTheNearestFloat) {
    constexpr std::uint64_t seed = 7;
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    for (int trial = 0; trial < 100'000; ++trial) {
        // Any bit pattern: every exponent, subnormals, infinities, NaN.
        const auto pattern = static_cast<std::uint32_t>(random());
        const float a = std::bit_cast<float>(pattern & 0x7fff'ffff);
        if (!std::isfinite(a) || !std::isfinite(std::nextafter(a, INFINITY))) continue;
        const double low = a, high = std::nextafter(a, INFINITY), middle = low + (high - low) / 2;
        const bool low_is_even = (pattern & 1) == 0;
        ASSERT_EQ(convert<float>(low), static_cast<float>(low));
        ASSERT_EQ(convert<float>(std::nextafter(middle, -infinity)), static_cast<float>(low));
        ASSERT_EQ(convert<float>(std::nextafter(middle, infinity)), static_cast<float>(high));
        ASSERT_EQ(convert<float>(middle), static_cast<float>(low_is_even ? low : high));
        ASSERT_EQ(convert<float>(-middle), -static_cast<float>(low_is_even ? low : high));
    }
}

template <class T>
class HalfConvert : public ::testing::Test {};
using HalfTypes = ::testing::Types<half, bfloat16>;
TYPED_TEST_SUITE(HalfConvert, HalfTypes);

TYPED_TEST(HalfConvert, EveryPatternSurvivesTheWayThroughFloatAndDouble) {
    for (std::uint32_t pattern = 0; pattern <= 0xffff; ++pattern) {
        const auto bits = static_cast<std::uint16_t>(pattern);
        const auto value = from_bits<TypeParam>(bits);
        const float wide = convert<float>(value);
        if (std::isnan(wide)) {
            ASSERT_TRUE(std::isnan(static_cast<float>(convert<TypeParam>(wide)))) << pattern;
            continue;
        }
        ASSERT_EQ(bits_of(convert<TypeParam>(wide)), bits) << pattern;
        ASSERT_EQ(bits_of(convert<TypeParam>(convert<double>(value))), bits) << pattern;
        ASSERT_EQ(bits_of(convert<TypeParam>(value)), bits) << pattern;
    }
}

// Between every two neighbours: just below the middle goes down, just above goes up, the middle
// goes to the even one. From float, and from double, where rounding to float first would turn
// "just above the middle" into the middle.
TYPED_TEST(HalfConvert, EveryMiddleRoundsAsIEEE754Says) {
    const std::uint16_t top = bits_of(std::numeric_limits<TypeParam>::max());
    int wrong_by_way_of_float = 0;
    for (std::uint16_t bits = 0; bits < top; ++bits) {
        const auto a = from_bits<TypeParam>(bits);
        const auto b = from_bits<TypeParam>(static_cast<std::uint16_t>(bits + 1));
        const double low = convert<double>(a), high = convert<double>(b);
        const double middle = low + (high - low) / 2;  // exact: one more bit than a half type has
        const std::uint16_t even = bits % 2 == 0 ? bits : static_cast<std::uint16_t>(bits + 1);
        const double above = std::nextafter(middle, infinity), below = std::nextafter(middle, 0.0);
        ASSERT_EQ(bits_of(convert<TypeParam>(middle)), even) << bits;
        ASSERT_EQ(bits_of(convert<TypeParam>(static_cast<float>(middle))), even) << bits;
        ASSERT_EQ(bits_of(convert<TypeParam>(above)), bits + 1) << bits;
        ASSERT_EQ(bits_of(convert<TypeParam>(below)), bits) << bits;
        ASSERT_EQ(bits_of(convert<TypeParam>(-above)), (bits + 1) | 0x8000) << bits;
        ASSERT_EQ(bits_of(convert<TypeParam>(-below)), bits | 0x8000) << bits;
        const auto twice_rounded = static_cast<TypeParam>(static_cast<float>(above));
        wrong_by_way_of_float += bits_of(twice_rounded) != bits + 1;
    }
    EXPECT_GT(wrong_by_way_of_float, 1000) << "the counter-example is not one";
}

TYPED_TEST(HalfConvert, BeyondTheRange) {
    const auto top = std::numeric_limits<TypeParam>::max();
    const auto below_top = from_bits<TypeParam>(static_cast<std::uint16_t>(bits_of(top) - 1));
    const double largest = convert<double>(top);
    const double tie = largest + (largest - convert<double>(below_top)) / 2;
    const auto as_float = [](double x) { return static_cast<float>(convert<TypeParam>(x)); };
    EXPECT_EQ(as_float(tie), INFINITY);
    EXPECT_EQ(as_float(std::nextafter(tie, 0.0)), static_cast<float>(top));
    EXPECT_EQ(as_float(-tie), -INFINITY);
    EXPECT_EQ(as_float(1e300), INFINITY);
    EXPECT_EQ(as_float(-infinity), -INFINITY);
    EXPECT_TRUE(std::isnan(as_float(nan_value)));
    EXPECT_EQ(as_float(1e-300), 0.0F);
    EXPECT_TRUE(std::signbit(as_float(-1e-300)));
}

TEST(Convert, IntegersAndFlags) {
    EXPECT_EQ(convert<float>(true), 1.0F);
    EXPECT_EQ(convert<double>(-3), -3.0);
    EXPECT_EQ(static_cast<float>(convert<half>(2049)), 2048.0F);  // a tie, to even
    EXPECT_EQ(static_cast<float>(convert<half>(false)), 0.0F);
}

}  // namespace
