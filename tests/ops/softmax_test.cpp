// Softmax and log-sum-exp of a row: values, special values, accuracy, and what a naive one would
// do.

#include "heed/ops/softmax.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "support/allocation_counter.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace {

using heed::log_sum_exp;
using heed::softmax;
using support::Random;
using ::testing::Each;
using ::testing::ElementsAre;

template <class T>
constexpr T infinity = std::numeric_limits<T>::infinity();
template <class T>
constexpr T nan_value = std::numeric_limits<T>::quiet_NaN();

template <class T>
T lse_of(const std::vector<T>& row) {
    return log_sum_exp(std::span<const T>(row));
}

template <class T>
class Softmax : public ::testing::Test {
  public:
    using Wide = std::conditional_t<std::is_same_v<T, float>, double, long double>;
    static constexpr double eps = std::numeric_limits<T>::epsilon();

    /// Weights and log-sum-exp of the row against the oracle, by the project's rule.
    static void expect_accurate(const std::vector<T>& row) {
        std::vector<T> weights = row;
        const T lse = softmax(std::span<T>(weights));
        const auto wide = oracle::convert<Wide>(row);
        const auto verdict = support::compare_with_oracle<T>(
            weights, oracle::softmax(row, row.size()), oracle::softmax(wide, row.size()));
        EXPECT_TRUE(verdict) << verdict.message;
        const std::vector<T> ours{lse}, plain = oracle::log_sum_exp(row, row.size());
        // The logarithm is added to the largest score: terms of that magnitude, and of log n.
        const double magnitude =
            support::max_magnitude(row) + std::log(static_cast<double>(row.size())) + 1.0;
        const auto lse_verdict = support::compare_with_oracle<T>(
            ours, plain, oracle::log_sum_exp(wide, row.size()), magnitude);
        EXPECT_TRUE(lse_verdict) << lse_verdict.message;
    }
};
using ComputeTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Softmax, ComputeTypes);

TYPED_TEST(Softmax, ByHand) {
    // exp: 1, 2, 3; their sum is 6.
    using T = TypeParam;
    std::vector<T> row{0, std::log(T(2)), std::log(T(3))};
    const T lse = softmax(std::span<T>(row));
    EXPECT_NEAR(static_cast<double>(row[0]), 1.0 / 6, 2 * this->eps);
    EXPECT_NEAR(static_cast<double>(row[1]), 2.0 / 6, 2 * this->eps);
    EXPECT_NEAR(static_cast<double>(row[2]), 3.0 / 6, 2 * this->eps);
    EXPECT_NEAR(static_cast<double>(lse), std::log(6.0), 4 * this->eps);
}

TYPED_TEST(Softmax, NoneOneAndEqualScores) {
    using T = TypeParam;
    std::vector<T> none;
    EXPECT_EQ(softmax(std::span<T>(none)), -infinity<T>);
    EXPECT_EQ(lse_of(none), -infinity<T>);
    for (T score : {T(0), T(-1e30), T(1e30), std::numeric_limits<T>::lowest(), T(3.25)}) {
        std::vector<T> one{score};
        EXPECT_EQ(lse_of(one), score);
        EXPECT_EQ(softmax(std::span<T>(one)), score);
        EXPECT_EQ(one[0], T(1));
    }
    std::vector<T> equal(8, T(-7));
    softmax(std::span<T>(equal));
    EXPECT_THAT(equal, Each(T(0.125)));
}

TYPED_TEST(Softmax, WeightsAreNonNegativeOrderedAndSumToOne) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 200; ++trial) {
        const auto n = static_cast<std::size_t>(random.integer(1, 300));
        const auto row = random.normals<T>(n, random.pick({0.1, 1.0, 10.0, 1000.0}));
        std::vector<T> weights = row;
        const T lse = softmax(std::span<T>(weights));
        ASSERT_EQ(lse, lse_of(row)) << "the two functions are one definition";
        double sum = 0;
        for (std::size_t i = 0; i < n; ++i) {
            ASSERT_GE(weights[i], T(0));
            ASSERT_LE(weights[i], T(1));
            sum += static_cast<double>(weights[i]);
            if (i > 0 && row[i] > row[i - 1]) {
                ASSERT_GE(weights[i], weights[i - 1]);
            }
        }
        // The divisor has n - 1 roundings, each weight one more: n * eps / 2 in all.
        ASSERT_NEAR(sum, 1.0, static_cast<double>(n) * this->eps);
    }
}

TYPED_TEST(Softmax, AgainstTheOracle) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 300; ++trial) {
        const auto n = static_cast<std::size_t>(random.integer(1, 400));
        auto row = random.normals<T>(n, random.pick({0.01, 1.0, 5.0, 50.0}));
        const T shift = static_cast<T>(random.pick({0.0, 0.0, 100.0, -5000.0}));
        for (T& x : row) x += shift;
        if (random.chance(0.3))
            for (T& x : row)
                if (random.chance(0.5)) x = -infinity<T>;
        if (lse_of(row) == -infinity<T>) continue;
        this->expect_accurate(row);
    }
    this->expect_accurate(random.normals<T>(70'001));
}

TYPED_TEST(Softmax, MinusInfinityGetsExactlyZeroAndChangesNoBit) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const auto live = random.normals<T>(37);
    std::vector<T> expected = live;
    const T lse = softmax(std::span<T>(expected));
    std::vector<T> holes;
    for (T x : live) {
        for (std::int64_t i = random.integer(0, 3); i > 0; --i) holes.push_back(-infinity<T>);
        holes.push_back(x);
    }
    std::vector<T> weights = holes;
    EXPECT_EQ(softmax(std::span<T>(weights)), lse);
    std::vector<T> of_live;
    for (std::size_t i = 0; i < holes.size(); ++i) {
        if (holes[i] == -infinity<T>) {
            EXPECT_EQ(weights[i], T(0));
            EXPECT_FALSE(std::signbit(weights[i]));
        } else {
            of_live.push_back(weights[i]);
        }
    }
    const auto verdict = support::compare_bits(of_live, expected);
    EXPECT_TRUE(verdict) << verdict.message;
}

TYPED_TEST(Softmax, LogSumExpReadsOnly) {
    using T = TypeParam;
    const std::vector<T> row{1, 2, 3};
    (void)lse_of(row);
    EXPECT_THAT(row, ElementsAre(1, 2, 3));
    static_assert(std::is_same_v<decltype(log_sum_exp(std::span<const T>(row))), T>);
}

TYPED_TEST(Softmax, AllocatesNothing) {
    std::vector<TypeParam> row(100, 1);
    const support::AllocationCounter allocations;
    softmax(std::span<TypeParam>(row));
    (void)lse_of(row);
    EXPECT_EQ(allocations.count(), 0U);
}

template <class T>
void row_of_minus_infinity() {
    for (std::size_t n = 1; n <= 67; ++n) {
        std::vector<T> row(n, -infinity<T>);
        EXPECT_EQ(lse_of(row), -infinity<T>);
        EXPECT_EQ(softmax(std::span<T>(row)), -infinity<T>);
        EXPECT_THAT(row, Each(T(0))) << n;
        // The plain formula: exp(-inf - -inf) is NaN.
        const T largest = -infinity<T>;
        EXPECT_TRUE(std::isnan(std::exp(-infinity<T> - largest)));
    }
}

TEST(Museum, B1_09_RowOfMinusInfinity) {
    row_of_minus_infinity<float>();
    row_of_minus_infinity<double>();
}

// Written in the documentation: a row with plus infinity becomes all NaN, its log-sum-exp +inf.
template <class T>
void plus_infinity() {
    std::vector<T> memory{5, 6, infinity<T>, 1, 2, 7, 8};
    EXPECT_EQ(softmax(std::span<T>(memory).subspan(2, 3)), infinity<T>);
    for (std::size_t i = 2; i < 5; ++i) EXPECT_TRUE(std::isnan(memory[i])) << i;
    EXPECT_THAT(std::vector<T>(memory.begin(), memory.begin() + 2), ElementsAre(5, 6));
    EXPECT_THAT(std::vector<T>(memory.end() - 2, memory.end()), ElementsAre(7, 8));
    EXPECT_EQ(lse_of(std::vector<T>{infinity<T>, 1, 2}), infinity<T>);
    EXPECT_EQ(lse_of(std::vector<T>{1, infinity<T>, infinity<T>}), infinity<T>);
    EXPECT_EQ(lse_of(std::vector<T>{infinity<T>, -infinity<T>}), infinity<T>);
}

TEST(Museum, B1_10_PlusInfinity) {
    plus_infinity<float>();
    plus_infinity<double>();
}

template <class T>
void nan_at_every_position() {
    int lost_by_maximum = 0;
    for (std::size_t n = 1; n <= 67; ++n) {
        for (std::size_t at = 0; at < n; ++at) {
            for (T other : {T(0), T(at), -infinity<T>, infinity<T>}) {
                std::vector<T> row(n, other);
                row[at] = nan_value<T>;
                ASSERT_TRUE(std::isnan(lse_of(row))) << n << ", " << at << ", " << other;
                lost_by_maximum += !std::isnan(*std::max_element(row.begin(), row.end()));
                ASSERT_TRUE(std::isnan(softmax(std::span<T>(row))));
                for (T weight : row) ASSERT_TRUE(std::isnan(weight)) << n << ", " << at;
            }
        }
    }
    EXPECT_GT(lost_by_maximum, 0) << "a maximum alone would have found every NaN";
}

TEST(Museum, B1_11_NaNAtEveryPosition) {
    nan_at_every_position<float>();
    nan_at_every_position<double>();
}

template <class T>
void scores_up_to_ten_thousand() {
    Random random;
    SCOPED_TRACE(random.describe());
    std::vector<T> rising(200), falling(200);
    for (std::size_t i = 0; i < 200; ++i) {
        rising[i] = static_cast<T>(-1e4 + 100.0 * static_cast<double>(i));
        falling[199 - i] = rising[i];
    }
    Softmax<T>::expect_accurate(rising);
    Softmax<T>::expect_accurate(falling);
    Softmax<T>::expect_accurate(random.uniforms<T>(200, -1e4, 1e4));
    Softmax<T>::expect_accurate(random.uniforms<T>(200, 9999.0, 1e4));
    Softmax<T>::expect_accurate(random.uniforms<T>(200, -1e4, -9999.0));
    // Without the maximum: infinity over infinity, and zero over zero.
    const T high = std::exp(T(1e4)), low = std::exp(T(-1e4));
    EXPECT_TRUE(std::isnan(high / (high + high)));
    EXPECT_TRUE(std::isnan(low / (low + low)));
}

TEST(Museum, B1_12_ScoresUpToTenThousand) {
    scores_up_to_ten_thousand<float>();
    scores_up_to_ten_thousand<double>();
}

TEST(Museum, B7_66_FarScoresAreZeroNotTiny) {
    // exp(-104) = 6.8e-46 is below half of the smallest float, 2^-149 = 1.4e-45.
    std::vector<float> row{0.0F, -104.0F, -104.5F, -1000.0F, -1e30F, -infinity<float>};
    softmax(std::span<float>(row));
    EXPECT_EQ(row[0], 1.0F);
    for (std::size_t i = 1; i < row.size(); ++i) {
        EXPECT_EQ(row[i], 0.0F) << i;
        EXPECT_FALSE(std::signbit(row[i])) << i;
    }
}

/// How long softmax of a copy of the row takes, in seconds.
double seconds(const std::vector<float>& row) {
    std::vector<float> weights = row;
    const auto start = std::chrono::steady_clock::now();
    softmax(std::span<float>(weights));
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The fastest of many runs of each: other work on the machine can only make them slower.
TEST(Museum, B7_66_MaskedScoresCostNoMore) {
    Random random;
    SCOPED_TRACE(random.describe());
    const auto live = random.normals<float>(20'000);
    std::vector<float> masked = live;
    for (std::size_t i = 0; i < masked.size(); ++i)
        if (i % 2 == 1) masked[i] = -infinity<float>;
    double of_live = infinity<double>, of_masked = infinity<double>;
    for (int run = 0; run < 400 && (run < 20 || of_masked > 1.3 * of_live); ++run) {
        of_live = std::min(of_live, seconds(live));
        of_masked = std::min(of_masked, seconds(masked));
    }
    EXPECT_LE(of_masked, 1.3 * of_live);
}

#if defined(__SSE__)
TEST(Museum, B7_66_ControlWordOfTheProcessorStays) {
    constexpr unsigned flags = 0x3f;  // what happened so far; anything may set these
    const unsigned before = _mm_getcsr() & ~flags;
    std::vector<float> row{0.0F, -100.0F, -infinity<float>, 3.0F};
    softmax(std::span<float>(row));
    EXPECT_EQ(_mm_getcsr() & ~flags, before);
}
#endif

// Every float in [-110, -80], where results become subnormal and then zero, and a sample of the
// rest up to 0, as the weight of x beside a 0: exp(x) / (1 + exp(x)).
TEST(Museum, B7_67_ExponentialsOfEveryFloatNearUnderflow) {
    const auto check = [](float x) {
        std::vector<float> row{0.0F, x};
        const float lse = softmax(std::span<float>(row));
        const double e = std::exp(static_cast<double>(x)), expected = e / (1.0 + e);
        // Half a unit (of subnormals, where they are coarser) each for exp, sum and quotient; the
        // library's exp may err by another half.
        const double unit = std::max(expected * 0x1p-23, 0x1p-149);
        ASSERT_LE(std::abs(static_cast<double>(row[1]) - expected), 2.0 * unit) << x;
        ASSERT_LE(std::abs(static_cast<double>(lse) - std::log1p(e)), 2.0 * 0x1p-23) << x;
    };
    for (float x = -80.0F; x >= -110.0F && !::testing::Test::HasFatalFailure();
         x = std::nextafter(x, -1000.0F))
        check(x);
    const auto last = std::bit_cast<std::uint32_t>(-80.0F);
    for (std::uint32_t bits = 0x8000'0000; bits < last && !::testing::Test::HasFatalFailure();
         bits += 1009)
        check(std::bit_cast<float>(bits));
    std::vector<float> row{0.0F, -infinity<float>};
    softmax(std::span<float>(row));
    EXPECT_THAT(row, ElementsAre(1.0F, 0.0F));
}

// What the accuracy test would say of two other ways to write it.
TEST(SoftmaxCounterCheck, PlainExponentialsAndReversedShiftFail) {
    const std::vector<float> row{1000.0F, 1000.5F, 999.0F};
    const auto exact = oracle::softmax(oracle::convert<double>(row), 3);
    const auto plain = oracle::softmax(row, 3);
    std::vector<float> naive = row, shifted_by_least = row;
    float sum = 0;
    for (float& x : naive) sum += x = std::exp(x);
    for (float& x : naive) x /= sum;
    EXPECT_FALSE(support::compare_with_oracle<float>(naive, plain, exact));
    // Subtracting the smallest score overflows once the row spans 89.
    std::vector<float> wide{0.0F, 100.0F};
    const float largest = std::exp(wide[1] - wide[0]);
    EXPECT_TRUE(std::isinf(largest));
    softmax(std::span<float>(wide));
    EXPECT_EQ(wide[1], 1.0F);
}

}  // namespace
