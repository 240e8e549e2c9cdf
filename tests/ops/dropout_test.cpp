// Which entries does dropout keep: a pure function of seed, call and position, with the right odds.

#include "heed/ops/dropout.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "heed/tensor/random.hpp"
#include "heed/tensor/tensor.hpp"
#include "support/allocation_counter.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "tensor/errors.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::ArgumentError;
using heed::bfloat16;
using heed::Dropout;
using heed::dropout;
using heed::half;
using heed::Index;
using heed::Shape;
using heed::ShapeError;
using heed::Tensor;
using heed::detail::DropoutRule;
using support::elements;
using support::error_text;
using support::Random;
using support::Strided;
using ::testing::Each;
using ::testing::ElementsAre;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

/// Dropout of n ones.
std::vector<float> dropped_ones(Index n, const Dropout& options) {
    Tensor<float, 1> x(n);
    heed::fill(x.view(), 1.0F);
    dropout(x, x.view(), options);
    return elements(x.view());
}

// Seed, call and block 0 are the first of Philox's published known answers:
// 6627e8d5 e169c58d bc57ac4c 9b00dbd8, as fractions of 2^32: 0.399, 0.881, 0.736, 0.605.
// An entry is dropped when its fraction is below the probability.
TEST(DropoutOp, FirstBlockFromThePublishedAnswer) {
    EXPECT_THAT(dropped_ones(4, {.probability = 0.5}), ElementsAre(0, 2, 2, 2));
    EXPECT_THAT(dropped_ones(4, {.probability = 0.75}), ElementsAre(0, 4, 0, 0));
    EXPECT_THAT(dropped_ones(4, {.probability = 0.25}),
                ElementsAre(4.0F / 3, 4.0F / 3, 4.0F / 3, 4.0F / 3));
    // At the very fraction: "below" is strict.
    EXPECT_NE(dropped_ones(4, {.probability = 0x6627e8d5p-32})[0], 0.0F);
    EXPECT_EQ(dropped_ones(4, {.probability = 0x6627e8d6p-32})[0], 0.0F);
}

TEST(DropoutOp, EntryNIsTheNthWordOfPhilox) {
    Random random;
    SCOPED_TRACE(random.describe());
    const Dropout options{.probability = 0.3, .seed = random.bits(), .call = 7};
    const auto y = dropped_ones(1003, options);
    for (std::uint32_t n = 0; n < 1003; ++n) {
        const auto words = heed::philox({n / 4, 0, 0, options.call},
                                        {static_cast<std::uint32_t>(options.seed),
                                         static_cast<std::uint32_t>(options.seed >> 32)});
        const bool keep = words[n % 4] * 0x1p-32 >= std::floor(0.3 * 0x1p32) * 0x1p-32;
        ASSERT_EQ(y[n], keep ? static_cast<float>(1.0 / 0.7) : 0.0F) << n;
    }
}

template <class T>
class DropoutOf : public ::testing::Test {};
using StorageTypes = ::testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(DropoutOf, StorageTypes);

TYPED_TEST(DropoutOf, StridesInPlaceAndPrefixesMakeNoDifference) {
    using T = TypeParam;
    using C = heed::ComputeType<T>;
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 20; ++trial) {
        const auto shape = support::random_shape<3>(random, 0, 6);
        const auto count = static_cast<std::size_t>(shape.element_count());
        const Dropout options{.probability = random.unit(), .seed = random.bits()};
        const auto values = random.normals<T>(count);
        const Strided<T, 3> x(random, shape), y(random, shape), in_place(random, shape);
        x.assign(values);
        in_place.assign(values);
        dropout(x.view(), y.view(), options);
        dropout(in_place.view(), in_place.view(), options);
        ASSERT_TRUE(y.gaps_untouched());
        ASSERT_EQ(elements(x.view()), values);
        const auto result = elements(y.view());
        ASSERT_EQ(elements(in_place.view()), result);
        const auto keeps = dropped_ones(shape.element_count() + 3, options);
        const C scale = static_cast<C>(1.0 / (1.0 - options.probability));
        for (std::size_t i = 0; i < count; ++i)
            ASSERT_EQ(result[i], keeps[i] == 0.0F ? T(0) : static_cast<T>(C(values[i]) * scale));
    }
}

TYPED_TEST(DropoutOf, SpecialValues) {
    using T = TypeParam;
    // The first block under p = 0.5 is: drop, keep, keep, keep.
    Tensor<T, 1> x({4}, {T(infinity), T(infinity), T(NAN), T(-0.0F)});
    dropout(x, x.view(), {.probability = 0.5});
    EXPECT_EQ(static_cast<float>(x(0)), 0.0F);
    EXPECT_EQ(static_cast<float>(x(1)), infinity);
    EXPECT_TRUE(std::isnan(static_cast<float>(x(2))));
    EXPECT_TRUE(std::signbit(static_cast<float>(x(3))));
}

TEST(Museum, B4_41_ProbabilityZeroIsNoDropout) {
    Random random;
    SCOPED_TRACE(random.describe());
    auto values = random.normals<float>(1000, 1e3);
    values[3] = infinity;
    values[5] = -0.0F;
    values[7] = std::numeric_limits<float>::denorm_min();
    Tensor<float, 1> y(1000);
    const Tensor<float, 1> x({1000}, values);
    dropout(x, y.view(), {.probability = 0.0, .seed = 3});
    const auto verdict = support::compare_bits(elements(y.view()), values);
    EXPECT_TRUE(verdict) << verdict.message;
    EXPECT_FALSE(DropoutRule("f", {}).active());
    EXPECT_EQ(DropoutRule("f", {}).scale(), 1.0);
    EXPECT_TRUE(DropoutRule("f", {.probability = 0.1}).active());
    EXPECT_TRUE(DropoutRule("f", {.probability = 0x1p-32}).active());
}

TEST(Museum, B4_42_KeptEntriesAreScaledByTheInverseOfTheKeptShare) {
    for (double p : {0.1, 0.25, 0.5, 0.9, 0.999}) {
        const auto expected = static_cast<float>(1.0 / (1.0 - p));
        for (float value : dropped_ones(500, {.probability = p, .seed = 1}))
            ASSERT_TRUE(value == 0.0F || value == expected) << p << ": " << value;
        EXPECT_EQ(DropoutRule("f", {.probability = p}).scale(), 1.0 / (1.0 - p));
    }
}

/// The share of entries on which two draws agree.
double agreement(const std::vector<float>& a, const std::vector<float>& b) {
    double equal = 0;
    for (std::size_t i = 0; i < a.size(); ++i) equal += (a[i] == 0.0F) == (b[i] == 0.0F);
    return equal / static_cast<double>(a.size());
}

// Independent draws agree on (1 - p)^2 + p^2 of the entries.
TEST(Museum, B4_44_CallsAndSeedsDifferAndRepeat) {
    constexpr Index n = 40'000;
    constexpr double p = 0.3, expected = 0.7 * 0.7 + 0.3 * 0.3;
    const double allowed = 5 * std::sqrt(expected * (1 - expected) / n);
    const Dropout base{.probability = p, .seed = 11, .call = 0};
    const auto first = dropped_ones(n, base);
    EXPECT_EQ(dropped_ones(n, base), first);
    for (const Dropout& other : {Dropout{p, 11, 1}, Dropout{p, 11, 2}, Dropout{p, 12, 0},
                                 Dropout{p, 11 + (std::uint64_t{1} << 32), 0}, Dropout{p, 0, 11}})
        EXPECT_NEAR(agreement(first, dropped_ones(n, other)), expected, allowed)
            << other.seed << ", " << other.call;
    // Nor is an entry like its neighbours, up to a few blocks away.
    for (std::size_t lag = 1; lag <= 16; ++lag) {
        const std::vector<float> head(first.begin(), first.end() - 16);
        const auto shift = static_cast<std::ptrdiff_t>(lag);
        const std::vector<float> shifted(first.begin() + shift, first.end() - 16 + shift);
        EXPECT_NEAR(agreement(head, shifted), expected, allowed) << lag;
    }
}

TEST(Museum, B4_45_KeptShareAndMean) {
    constexpr Index n = 100'000;
    for (double p : {0.01, 0.1, 0.5, 0.8, 0.99}) {
        double kept = 0;
        for (float value : dropped_ones(n, {.probability = p, .seed = 5})) kept += value != 0.0F;
        EXPECT_NEAR(kept / n, 1.0 - p, 5 * std::sqrt(p * (1.0 - p) / n)) << p;
    }
    // The mean over 1,000 seeds of an entry of value 1 has variance p / (1 - p) / 1000.
    constexpr double p = 0.4;
    std::vector<double> sums(32);
    for (std::uint64_t seed = 0; seed < 1000; ++seed) {
        const auto y = dropped_ones(32, {.probability = p, .seed = seed});
        for (std::size_t i = 0; i < 32; ++i) sums[i] += static_cast<double>(y[i]);
    }
    for (double sum : sums) EXPECT_NEAR(sum / 1000, 1.0, 5 * std::sqrt(p / (1 - p) / 1000));
}

TEST(Museum, B4_46_DroppedMeansSelected) {
    // inf * 0 and NaN * 0 would be NaN.
    Tensor<float, 1> x({4}, {infinity, -infinity, NAN, 1.0F});
    dropout(x, x.view(), {.probability = 1.0});
    EXPECT_THAT(x.values(), Each(0.0F));
    for (float value : x.values()) EXPECT_FALSE(std::signbit(value));
    EXPECT_TRUE(std::isnan(infinity * 0.0F));
    // Next to 1: almost everything is dropped, and nothing breaks.
    const auto y = dropped_ones(1000, {.probability = std::nextafter(1.0, 0.0)});
    EXPECT_THAT(y, Each(0.0F));
}

TEST(Museum, B4_46_ProbabilitiesOutsideAreRefused) {
    const Tensor<float, 1> x({3}, {1, 2, 3});
    Tensor<float, 1> y({3}, {7, 7, 7});
    EXPECT_EQ(error_text<ArgumentError>([&] { dropout(x, y.view(), {.probability = -0.5}); }),
              "[dropout] the dropout probability must be in [0, 1]; found -0.5");
    for (double p : {-1e-300, std::nextafter(1.0, 2.0), 2.0, nan_value,
                     static_cast<double>(infinity), -static_cast<double>(infinity)})
        EXPECT_THROW(dropout(x, y.view(), {.probability = p}), ArgumentError) << p;
    EXPECT_THAT(y.values(), Each(7.0F));
    EXPECT_EQ(error_text<ArgumentError>([] { DropoutRule("attend", {.probability = 1.5}); }),
              "[attend] the dropout probability must be in [0, 1]; found 1.5");
}

TEST(DropoutOp, OtherShapesAreRefusedBeforeAnythingIsWritten) {
    const Tensor<float, 2> x({2, 3});
    Tensor<float, 2> y({3, 2}, {7, 7, 7, 7, 7, 7});
    EXPECT_EQ(error_text<ShapeError>([&] { dropout(x, y.view(), {.probability = 0.5}); }),
              "[dropout] the output must have shape [2, 3]; found [3, 2]");
    EXPECT_THAT(y.values(), Each(7.0F));
}

// Museum B8 74: in place or apart; anything between gives an error, never a wrong answer.
TEST(DropoutOp, OverlapAndNullAreRefusedBeforeAnythingIsWritten) {
    std::vector<float> memory(12, 7.0F);
    const heed::TensorView<float, 1> x(memory.data(), {6}), null(nullptr, {6});
    const auto message = [](auto in, auto out) {
        return error_text<heed::Error>([&] { dropout(in, out, {.probability = 0.5}); });
    };
    for (Index offset = 1; offset < 6; ++offset)
        EXPECT_EQ(message(x, heed::TensorView<float, 1>(memory.data() + offset, {6})),
                  "[dropout] the output must be the input's view or not overlap it; found partial "
                  "overlap");
    EXPECT_THROW(dropout(x, heed::TensorView<float, 1>(memory.data() + 5, {6}, {-1}), {}),
                 ShapeError);
    EXPECT_EQ(message(x, heed::TensorView<float, 1>(memory.data() + 6, {6}, {0})),
              "[dropout] the output must have a place for each element; found shape [6], strides "
              "[0]");
    EXPECT_EQ(message(null, x),
              "[dropout] the input must point at memory; found null with shape "
              "[6]");
    EXPECT_EQ(message(x, null),
              "[dropout] the output must point at memory; found null with shape "
              "[6]");
    EXPECT_THAT(memory, Each(7.0F));
    EXPECT_NO_THROW(dropout(x, heed::TensorView<float, 1>(memory.data() + 6, {6}), {}));
}

TEST(DropoutOp, WithoutElements) {
    const Tensor<float, 2> x({0, 3});
    Tensor<float, 2> y({0, 3});
    dropout(x, y.view(), {.probability = 0.5});
    SUCCEED();
}

TEST(DropoutOp, AllocatesNothing) {
    Tensor<float, 2> x({5, 7});
    const support::AllocationCounter allocations;
    dropout(x, x.view(), {.probability = 0.5});
    EXPECT_EQ(allocations.count(), 0U);
}

// The way back: dropout is linear in what it keeps, entry by entry, so the gradient of x is dropout
// of the gradient of y. The counter-check: another call drops other entries.
TEST(DropoutOp, IsItsOwnWayBack) {
    const heed::Dropout options{.probability = 0.4, .seed = 5, .call = 2};
    Tensor<double, 1> x(200), dy(200), y(200), dx(200), other(200);
    heed::fill_normal(dy.view(), 1);
    dropout(dy, dx.view(), options);
    dropout(dy, other.view(), {.probability = 0.4, .seed = 5, .call = 3});
    for (heed::Index i = 0; i < 200; ++i) {
        x(i) = 1;
        dropout(x, y.view(), options);
        double slope = 0;  // of sum_j dy_j y_j, which is linear in x, in the direction of x_i
        for (heed::Index j = 0; j < 200; ++j) slope += dy(j) * y(j);
        x(i) = 0;
        EXPECT_EQ(dx(i), slope);
    }
    EXPECT_NE(elements(dx.view()), elements(other.view()));
}

// The rule behind attention's dropout: every coordinate has its own counter word.
TEST(DropoutRuleTest, EveryCoordinateMatters) {
    const DropoutRule rule("f", {.probability = 0.5, .seed = 1}),
        next("f", {.probability = 0.5, .seed = 1, .call = 1});
    int outer = 0, middle = 0, inner = 0, far = 0, swapped = 0, call = 0;
    for (std::uint32_t i = 0; i < 1000; ++i) {
        outer += rule.keeps(0, 0, i) != rule.keeps(1, 0, i);
        middle += rule.keeps(0, 0, i) != rule.keeps(0, 1, i);
        inner += rule.keeps(0, 0, i) != rule.keeps(0, 0, i + 1);
        far += rule.keeps(0, 0, i) != rule.keeps(0, 0, i + (std::uint64_t{1} << 32));
        swapped += rule.keeps(1, 2, i) != rule.keeps(2, 1, i);
        call += rule.keeps(0, 0, i) != next.keeps(0, 0, i);
    }
    // Half of 1000 differ; 5 standard deviations are 79.
    for (int differing : {outer, middle, inner, far, swapped, call})
        EXPECT_NEAR(differing, 500, 79);
    const auto words = heed::philox({25, 2, 3, 0}, {1, 0});
    for (std::uint32_t lane = 0; lane < 4; ++lane)
        EXPECT_EQ(rule.keeps(3, 2, 100 + lane), words[lane] >= 0x8000'0000U) << lane;
}

}  // namespace
