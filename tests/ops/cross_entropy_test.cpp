// Cross-entropy: figures of PyTorch, differences, large logits, ignored rows, refusals.

#include "heed/ops/cross_entropy.hpp"
#include "heed/ops/softmax.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "heed/tensor/tensor.hpp"
#include "support/allocation_counter.hpp"
#include "support/differences.hpp"
#include "support/random.hpp"
#include "tensor/errors.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::ArgumentError;
using heed::cross_entropy;
using heed::Index;
using heed::Shape;
using heed::ShapeError;
using heed::Tensor;
using heed::TensorView;
using support::elements;
using support::error_text;
using support::expect_close;
using support::Random;
using support::Strided;
using ::testing::Each;
using ::testing::ElementsAre;

constexpr double infinity = std::numeric_limits<double>::infinity();

// Two classes with logits 0 and log 3: probabilities 1/4 and 3/4.
TEST(CrossEntropy, ByHand) {
    const Tensor<double, 2> logits({2, 2}, {0, std::log(3.0), 0, std::log(3.0)});
    Tensor<double, 2> dlogits({2, 2}, {9, 9, 9, 9});
    EXPECT_NEAR(cross_entropy(logits, std::vector{0, 1}, {}, dlogits),
                (std::log(4.0) + std::log(4.0 / 3)) / 2, 1e-15);
    expect_close("dlogits", dlogits.values(), std::vector{-0.375, 0.375, 0.125, -0.125}, 1e-16);
}

// torch.nn.functional.cross_entropy of PyTorch 2.13 in float64; the third row is ignored.
TEST(CrossEntropy, AsInPyTorch) {
    const Tensor<double, 2> logits(
        {4, 3}, {1.0, -2.0, 0.5, 100.0, 101.0, 99.0, 0.0, 0.0, 0.0, -1.0, 3.0, 2.0});
    Tensor<double, 2> dlogits(logits.shape());
    EXPECT_NEAR(cross_entropy(logits, std::vector{2, 0, -100, 1}, {}, dlogits), 0.9129218360180448,
                1e-15);
    expect_close(
        "dlogits", dlogits.values(),
        std::vector{0.20124963204954194, 0.010019629189858006, -0.21126926123939993,
                    -0.25175717631506744, 0.2217469852582739, 0.030010191056793478, 0.0, 0.0, 0.0,
                    0.004404295651263139, -0.09286693857534378, 0.08846264292408064},
        1e-16, 1e-15);
}

/// The textbook formula, without the shift by the largest logit.
long double plain_loss(const std::vector<long double>& logits, const std::vector<int>& targets,
                       std::size_t classes, int ignore) {
    long double loss = 0, count = 0;
    for (std::size_t i = 0; i < targets.size(); ++i) {
        if (targets[i] == ignore) continue;
        long double sum = 0;
        for (std::size_t c = 0; c < classes; ++c) sum += std::exp(logits[i * classes + c]);
        loss += std::log(sum) - logits[i * classes + static_cast<std::size_t>(targets[i])];
        ++count;
    }
    return count > 0 ? loss / count : 0;
}

TEST(CrossEntropy, EqualsCentralDifferencesOfTheFormula) {
    using Doubles = Strided<double, 2>;
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 100 && !HasFatalFailure(); ++trial) {
        const Index rows = random.integer(0, 6), classes = random.integer(1, 7);
        const int ignore = static_cast<int>(random.pick({-100, -1, 0}));
        const Doubles x(random, {rows, classes}, 77, Doubles::Rows::contiguous);
        const Doubles dx(random, {rows, classes}, 77, Doubles::Rows::contiguous);
        x.assign(random.normals<double>(static_cast<std::size_t>(rows * classes), 3.0));
        std::vector<int> targets;
        for (Index i = 0; i < rows; ++i)
            targets.push_back(
                random.chance(0.2) ? ignore : static_cast<int>(random.integer(0, classes - 1)));
        std::vector<long double> wide;
        for (const double value : elements(x.view())) wide.push_back(value);
        const auto loss = [&] {
            return plain_loss(wide, targets, static_cast<std::size_t>(classes), ignore);
        };
        const double found = cross_entropy(x.view(), targets, {.ignore_index = ignore}, dx.view());
        ASSERT_NEAR(found, static_cast<double>(loss()), 1e-14);
        ASSERT_EQ(found, cross_entropy(x.view(), targets, {.ignore_index = ignore}));
        expect_close("dlogits", elements(dx.view()), support::central_differences(wide, loss));
        ASSERT_TRUE(x.gaps_untouched() && dx.gaps_untouched());
    }
}

TEST(CrossEntropy, OverTheLogitsThemselves) {
    Random random;
    SCOPED_TRACE(random.describe());
    Tensor<float, 2> logits({5, 7}, random.normals<float>(35)), dlogits({5, 7});
    const std::vector<int> targets{0, 6, -100, 3, 3};
    const double loss = cross_entropy(logits, targets, {}, dlogits);
    EXPECT_EQ(cross_entropy(logits, targets, {}, logits), loss);
    EXPECT_EQ(elements(logits.view()), elements(dlogits.view()));
}

// The gradient of a row is a probability less a one: it sums to 0, and so to a few eps.
TEST(CrossEntropy, LargeLogitsLoseNothing) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (const float shift : {1e4F, -1e4F, 3e38F}) {
        // Multiples of 1/8 up to 8 are exact beside 10^4; beside 3e38 they are lost, all equal.
        std::vector<float> values(6);
        for (float& value : values) value = static_cast<float>(random.integer(-64, 64)) / 8;
        const Tensor<float, 2> near({1, 6}, values);
        for (float& value : values) value += shift;
        const Tensor<float, 2> far({1, 6}, values);
        Tensor<float, 2> gradient({1, 6}), expected({1, 6});
        const double loss = cross_entropy(far, std::vector{2}, {}, gradient);
        float sum = 0;
        for (const float g : gradient.values()) sum += g;
        EXPECT_NEAR(sum, 0.0F, 6 * 0x1p-23F);
        if (shift > 1e5F) {
            EXPECT_NEAR(loss, std::log(6.0), 1e-6);
            continue;
        }
        EXPECT_EQ(loss, cross_entropy(near, std::vector{2}, {}, expected));
        EXPECT_EQ(elements(gradient.view()), elements(expected.view()));
    }
    // The counter-check: log-sum-exp less target, rounded at 10^4, is off by up to its eps.
    const std::vector<float> row{10000.0F, 10001.0F};
    const float naive = heed::log_sum_exp<float>(row) - row[1];
    const double right = std::log1p(std::exp(-1.0));
    const Tensor<float, 2> logits({1, 2}, row);
    EXPECT_GT(std::abs(naive - right), 1e-5);
    EXPECT_NEAR(cross_entropy(logits, std::vector{1}), right, 2e-7);
}

TEST(CrossEntropy, IgnoredRowsCountForNothing) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const Tensor<double, 2> alone({1, 2}, {0, 1}), padded({3, 2}, {nan, nan, 0, 1, nan, nan});
    Tensor<double, 2> expected({1, 2}), dlogits({3, 2}, {9, 9, 9, 9, 9, 9});
    const double loss = cross_entropy(alone, std::vector{1}, {}, expected);
    EXPECT_EQ(cross_entropy(padded, std::vector{-100, 1, -100}, {}, dlogits), loss);
    EXPECT_THAT(elements(dlogits.view()), ElementsAre(0, 0, expected(0, 0), expected(0, 1), 0, 0));
    // Nothing but ignored rows, or no rows: 0, where PyTorch answers NaN.
    EXPECT_EQ(cross_entropy(padded, std::vector{-100, -100, -100}, {}, dlogits), 0.0);
    EXPECT_THAT(dlogits.values(), Each(0));
    EXPECT_EQ(cross_entropy(Tensor<double, 2>({0, 2}), std::vector<int>{}), 0.0);
    // A class may be the one that is ignored.
    EXPECT_EQ(cross_entropy(padded, std::vector{0, 1, 0}, {.ignore_index = 0}), loss);
}

TEST(CrossEntropy, TargetsOfAnyIntegerTypeAndContainer) {
    const Tensor<float, 2> logits({2, 3}, {1, 2, 3, 4, 5, 7});
    const double loss = cross_entropy(logits, std::vector<int>{2, 0});
    EXPECT_EQ(cross_entropy(logits, std::vector<std::int64_t>{2, 0}), loss);
    EXPECT_EQ(cross_entropy(logits, std::vector<std::uint8_t>{2, 0}), loss);
    EXPECT_EQ(cross_entropy(logits, std::array<std::size_t, 2>{2, 0}), loss);
    const std::vector<std::int32_t> ids{2, 0};
    EXPECT_EQ(cross_entropy(logits.view(), std::span<const std::int32_t>(ids)), loss);
}

TEST(CrossEntropy, ClassesOfProbabilityZero) {
    const Tensor<double, 2> logits({1, 3}, {0, -infinity, 0});
    Tensor<double, 2> dlogits({1, 3});
    EXPECT_NEAR(cross_entropy(logits, std::vector{0}, {}, dlogits), std::log(2.0), 1e-15);
    EXPECT_THAT(elements(dlogits.view()), ElementsAre(-0.5, 0, 0.5));
    EXPECT_EQ(cross_entropy(logits, std::vector{1}, {}, dlogits), infinity);
    EXPECT_THAT(elements(dlogits.view()), ElementsAre(0.5, -1, 0.5));
    EXPECT_TRUE(std::isnan(cross_entropy(
        Tensor<double, 2>({1, 2}, {0, std::numeric_limits<double>::quiet_NaN()}), std::vector{0})));
}

TEST(CrossEntropy, AllocatesNothing) {
    const Tensor<float, 2> logits({4, 3});
    Tensor<float, 2> dlogits({4, 3});
    const std::vector<int> targets{0, 1, 2, -100};
    const support::AllocationCounter allocations;
    (void)cross_entropy(logits, targets, {}, dlogits);
    EXPECT_EQ(allocations.count(), 0U);
}

TEST(CrossEntropyErrors, AreThrownBeforeAnythingIsWritten) {
    std::vector<double> memory(30, 7.0);
    const TensorView<double, 2> logits(memory.data(), {2, 3}), dlogits(memory.data() + 6, {2, 3});
    const std::vector<int> right{0, 1};
    const auto message = [&](auto x, const auto& targets, auto dx) {
        return error_text<heed::Error>([&] { (void)cross_entropy(x, targets, {}, dx); });
    };
    EXPECT_EQ(message(logits, std::vector{0, 3}, dlogits),
              "[cross_entropy] a target must be in [0, 3) or -100; found 3 at position 1");
    EXPECT_EQ(message(logits, std::vector{-1, 1}, dlogits),
              "[cross_entropy] a target must be in [0, 3) or -100; found -1 at position 0");
    // -100 as an unsigned number is another number.
    EXPECT_EQ(message(logits, std::vector<std::uint8_t>{0, 156}, dlogits),
              "[cross_entropy] a target must be in [0, 3) or -100; found 156 at position 1");
    EXPECT_EQ(message(logits, std::vector{0}, dlogits),
              "[cross_entropy] the targets must have shape [2]; found [1]");
    EXPECT_EQ(message(logits, right, TensorView<double, 2>(memory.data() + 6, {3, 2})),
              "[cross_entropy] dlogits must have shape [2, 3]; found [3, 2]");
    EXPECT_EQ(message(logits, right, TensorView<double, 2>(memory.data() + 1, {2, 3})),
              "[cross_entropy] the output must be the input's view or not overlap it; found "
              "partial overlap");
    EXPECT_EQ(message(TensorView<double, 2>(memory.data(), {2, 3}, {6, 2}), right,
                      TensorView<double, 2>(memory.data() + 20, {2, 3})),
              "[cross_entropy] the logits must have a contiguous last dimension; found strides "
              "[6, 2]");
    EXPECT_EQ(message(logits, right, TensorView<double, 2>(memory.data() + 6, {2, 3}, {6, 2})),
              "[cross_entropy] dlogits must have a contiguous last dimension; found strides "
              "[6, 2]");
    EXPECT_EQ(message(TensorView<double, 2>(nullptr, {2, 3}), right, dlogits),
              "[cross_entropy] the logits must point at memory; found null with shape [2, 3]");
    EXPECT_THAT(memory, Each(7.0));
    EXPECT_THROW((void)cross_entropy(Tensor<double, 2>({1, 0}), std::vector{0}), ArgumentError);
}

}  // namespace
