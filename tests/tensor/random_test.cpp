// Random fills: the same numbers whatever the strides, within their bounds, with the right moments.

#include "heed/tensor/random.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <vector>

#include "heed/tensor/tensor.hpp"
#include "support/random.hpp"
#include "tensor/errors.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::ArgumentError;
using heed::bfloat16;
using heed::fill_normal;
using heed::fill_uniform;
using heed::half;
using heed::Shape;
using heed::Tensor;
using support::error_text;
using support::Strided;
using ::testing::Each;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

// Element 0 under seed 0 has counter and key zero, the first of Philox's published known answers:
// 6627e8d5 e169c58d ...
TEST(FillUniform, FirstElementFromThePublishedAnswer) {
    Tensor<double, 1> x(1);
    fill_uniform(x.view(), 0);
    EXPECT_EQ(x(0), 0x6627e8d5p-32);
    fill_uniform(x.view(), 0, -1.0, 3.0);
    EXPECT_EQ(x(0), -1.0 + 4.0 * 0x6627e8d5p-32);
    Tensor<float, 1> y(1);
    fill_uniform(y.view(), 0);
    EXPECT_EQ(y(0), static_cast<float>(0x6627e8d5p-32));
}

TEST(FillNormal, FirstElementFromThePublishedAnswer) {
    Tensor<double, 1> x(1);
    fill_normal(x.view(), 0, 10.0, 2.0);
    const double radius = std::sqrt(-2.0 * std::log(1.0 - 0x6627e8d5p-32));
    const double expected = 10.0 + 2.0 * radius * std::cos(2.0 * std::numbers::pi * 0xe169c58dp-32);
    EXPECT_NEAR(x(0), expected, 1e-14);
}

template <class T>
class RandomFill : public ::testing::Test {};
using StorageTypes = ::testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(RandomFill, StorageTypes);

TYPED_TEST(RandomFill, ElementNDependsOnSeedAndNAlone) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const auto shape = support::random_shape<3>(random, 1, 6);
    Tensor<TypeParam, 3> dense(shape), other(shape);
    Tensor<TypeParam, 1> longer(shape.element_count() + 5);
    const Strided<TypeParam, 3> strided(random, shape);
    const auto check = [&](const auto& fill) {
        fill(dense.view(), 42U);
        fill(strided.view(), 42U);
        fill(longer.view(), 42U);
        fill(other.view(), 43U);
        const auto expected = support::elements(dense.view());
        EXPECT_EQ(support::elements(strided.view()), expected);
        EXPECT_TRUE(strided.gaps_untouched());
        EXPECT_TRUE(std::equal(expected.begin(), expected.end(), longer.data()));
        EXPECT_NE(support::elements(other.view()), expected);
        fill(other.view(), 42U);
        EXPECT_EQ(support::elements(other.view()), expected);
    };
    check([](auto view, std::uint64_t seed) { fill_uniform(view, seed); });
    check([](auto view, std::uint64_t seed) { fill_normal(view, seed); });
    fill_uniform(Tensor<TypeParam, 2>({0, 3}).view(), 1);
    fill_normal(Tensor<TypeParam, 2>({3, 0}).view(), 1);
}

TYPED_TEST(RandomFill, UniformValuesStayWithinTheirRoundedBounds) {
    Tensor<TypeParam, 1> x(50'000);
    for (const auto& [low, high] : {std::pair{0.0, 1.0}, {-2.5, -1.0}, {-1e-3, 1e3}}) {
        fill_uniform(x.view(), 5, low, high);
        const auto bottom = static_cast<double>(heed::detail::convert<TypeParam>(low));
        const auto top = static_cast<double>(heed::detail::convert<TypeParam>(high));
        for (const TypeParam& value : x.values()) {
            ASSERT_GE(static_cast<double>(value), bottom);
            ASSERT_LE(static_cast<double>(value), top);
        }
    }
    fill_uniform(x.view(), 5, 0.5, 0.5);
    EXPECT_THAT(x.values(), Each(TypeParam(0.5F)));
    fill_normal(x.view(), 5, 0.5, 0.0);
    EXPECT_THAT(x.values(), Each(TypeParam(0.5F)));
}

/// Mean of f(x) over the elements.
template <class F>
double mean(const Tensor<double, 1>& x, const F& f) {
    double sum = 0;
    for (double value : x.values()) sum += f(value);
    return sum / static_cast<double>(x.element_count());
}

// The mean of n samples has the standard deviation sqrt(variance / n); 5 of those are allowed. The
// seeds are fixed, so that this passes always or never.
TEST(FillUniform, Moments) {
    constexpr double n = 200'000;
    Tensor<double, 1> x(200'000);
    fill_uniform(x.view(), 1);
    // E[u^k] = 1 / (k + 1), so the variance of u^k is 1 / (2 k + 1) - 1 / (k + 1)^2.
    for (int k = 1; k <= 4; ++k) {
        const double expected = 1.0 / (k + 1);
        const double variance = 1.0 / (2 * k + 1) - expected * expected;
        EXPECT_NEAR(mean(x, [&](double u) { return std::pow(u, k); }), expected,
                    5 * std::sqrt(variance / n));
    }
    // Neighbours are not correlated: the product of two centred ones has variance (1/12)^2.
    double product = 0;
    for (heed::Index i = 0; i + 1 < x.element_count(); ++i)
        product += (x(i) - 0.5) * (x(i + 1) - 0.5);
    EXPECT_NEAR(product / n, 0.0, 5 * (1.0 / 12) / std::sqrt(n));
}

TEST(FillNormal, Moments) {
    constexpr double n = 200'000;
    Tensor<double, 1> x(200'000);
    fill_normal(x.view(), 1);
    // E[z^2] = 1, E[z^4] = 3, E[z^6] = 15, E[z^8] = 105; odd moments are 0.
    EXPECT_NEAR(mean(x, [](double z) { return z; }), 0.0, 5 * std::sqrt(1.0 / n));
    EXPECT_NEAR(mean(x, [](double z) { return z * z; }), 1.0, 5 * std::sqrt((3.0 - 1.0) / n));
    EXPECT_NEAR(mean(x, [](double z) { return z * z * z; }), 0.0, 5 * std::sqrt(15.0 / n));
    EXPECT_NEAR(mean(x, [](double z) { return z * z * z * z; }), 3.0,
                5 * std::sqrt((105.0 - 9.0) / n));
    // P(|z| > 2) = erfc(sqrt 2).
    const double tail = std::erfc(std::numbers::sqrt2);
    EXPECT_NEAR(mean(x, [](double z) { return std::abs(z) > 2.0 ? 1.0 : 0.0; }), tail,
                5 * std::sqrt(tail * (1.0 - tail) / n));
    double product = 0;
    for (heed::Index i = 0; i + 1 < x.element_count(); ++i) product += x(i) * x(i + 1);
    EXPECT_NEAR(product / n, 0.0, 5 / std::sqrt(n));
    // Location and scale.
    Tensor<double, 1> y(1000), z(1000);
    fill_normal(z.view(), 9);
    fill_normal(y.view(), 9, -3.0, 0.5);
    for (heed::Index i = 0; i < 1000; ++i) ASSERT_NEAR(y(i), -3.0 + 0.5 * z(i), 1e-14);
}

TEST(FillUniform, BadBoundsAreRefused) {
    Tensor<float, 1> x({3}, {7, 7, 7});
    EXPECT_EQ(error_text<ArgumentError>([&] { fill_uniform(x.view(), 0, 1.0, 0.5); }),
              "[fill_uniform] low must not exceed high, and their difference must be finite; found "
              "low 1, high 0.5");
    for (const auto& [low, high] : {std::pair{nan_value, 1.0},
                                    {0.0, nan_value},
                                    {-infinity, 0.0},
                                    {0.0, infinity},
                                    {infinity, infinity},
                                    {-1e308, 1e308}})
        EXPECT_THROW(fill_uniform(x.view(), 0, low, high), ArgumentError) << low << ", " << high;
    EXPECT_THAT(x.values(), Each(7.0F));
}

TEST(FillNormal, BadParametersAreRefused) {
    Tensor<float, 1> x({3}, {7, 7, 7});
    EXPECT_EQ(error_text<ArgumentError>([&] { fill_normal(x.view(), 0, 0.0, -1.0); }),
              "[fill_normal] mean and deviation must be finite, the latter 0 or more; found mean "
              "0, deviation -1");
    for (const auto& [mean, deviation] : {std::pair{nan_value, 1.0},
                                          {0.0, nan_value},
                                          {infinity, 1.0},
                                          {-infinity, 1.0},
                                          {0.0, infinity}})
        EXPECT_THROW(fill_normal(x.view(), 0, mean, deviation), ArgumentError)
            << mean << ", " << deviation;
    EXPECT_THAT(x.values(), Each(7.0F));
}

}  // namespace
