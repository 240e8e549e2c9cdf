// LayerNorm and RMSNorm: by hand, against the oracle, far means, strides, in place, refusals.

#include "heed/ops/norm.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "heed/tensor/tensor.hpp"
#include "support/allocation_counter.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "tensor/errors.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::bfloat16;
using heed::half;
using heed::Index;
using heed::layer_norm;
using heed::rms_norm;
using heed::Shape;
using heed::ShapeError;
using heed::Tensor;
using heed::TensorView;
using support::elements;
using support::error_text;
using support::Random;
using support::Strided;
using ::testing::Each;
using ::testing::ElementsAre;

template <class T>
class Norm : public ::testing::Test {};
using ComputeTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Norm, ComputeTypes);

TYPED_TEST(Norm, LayerNormByHand) {
    using T = TypeParam;
    // Mean 2, variance 1; with epsilon 3 the divisor is sqrt(1 + 3) = 2.
    const Tensor<T, 1> x({2}, {1, 3}), weight({2}, {2, 10}), bias({2}, {1, -1});
    Tensor<T, 1> y(2);
    layer_norm(x, {}, {}, 0.0, y.view());
    EXPECT_THAT(y.values(), ElementsAre(-1, 1));
    layer_norm(x, {}, {}, 3.0, y.view());
    EXPECT_THAT(y.values(), ElementsAre(-0.5, 0.5));
    layer_norm(x, weight, {}, 3.0, y.view());
    EXPECT_THAT(y.values(), ElementsAre(-1, 5));
    layer_norm(x, {}, bias, 3.0, y.view());
    EXPECT_THAT(y.values(), ElementsAre(0.5, -0.5));
    layer_norm(x, weight, bias, 3.0, y.view());
    EXPECT_THAT(y.values(), ElementsAre(0, 4));
    // Variance divided by n, not n - 1: {0, 0, 0, 4} has mean 1 and variance 12 / 4 = 3.
    const Tensor<T, 1> four({4}, {0, 0, 0, 4});
    Tensor<T, 1> z(4);
    layer_norm(four, {}, {}, 1.0, z.view());
    EXPECT_THAT(z.values(), ElementsAre(-0.5, -0.5, -0.5, 1.5));
}

TYPED_TEST(Norm, RmsNormByHand) {
    using T = TypeParam;
    // (1 + 49) / 2 = 25; with epsilon 11 the divisor is 6.
    const Tensor<T, 1> x({2}, {1, 7}), weight({2}, {10, -5});
    Tensor<T, 1> y(2);
    rms_norm(x, {}, 0.0, y.view());
    EXPECT_NEAR(static_cast<double>(y(0)), 0.2, 1e-7);
    EXPECT_NEAR(static_cast<double>(y(1)), 1.4, 1e-6);
    rms_norm(x, weight, 11.0, y.view());
    EXPECT_NEAR(static_cast<double>(y(0)), 10.0 / 6, 1e-6);
    EXPECT_NEAR(static_cast<double>(y(1)), -35.0 / 6, 1e-6);
}

TYPED_TEST(Norm, EveryRowByItself) {
    using T = TypeParam;
    const Tensor<T, 3> x({2, 1, 2}, {1, 3, 10, 30});
    Tensor<T, 3> y({2, 1, 2});
    layer_norm(x, {}, {}, 0.0, y.view());
    EXPECT_THAT(y.values(), ElementsAre(-1, 1, -1, 1));
}

TYPED_TEST(Norm, AgainstTheOracle) {
    using T = TypeParam;
    using Wide = std::conditional_t<std::is_same_v<T, float>, double, long double>;
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 200; ++trial) {
        const auto shape = support::random_shape<3>(random, 1, 5).with(2, random.integer(1, 300));
        const auto n = static_cast<std::size_t>(shape[2]);
        const auto count = static_cast<std::size_t>(shape.element_count());
        const double epsilon = random.pick({1e-12, 1e-5, 0.1});
        const auto x = random.normals<T>(count, random.pick({0.1, 1.0, 100.0}));
        const auto weight = random.chance(0.5) ? random.normals<T>(n) : std::vector<T>();
        const auto bias = random.chance(0.5) ? random.normals<T>(n) : std::vector<T>();
        const auto view = [&](const std::vector<T>& v) {
            return v.empty() ? TensorView<const T, 1>() : TensorView<const T, 1>(v.data(), {n});
        };
        const Strided<T, 3> in(random, shape), out(random, shape);
        in.assign(x);
        const auto wide = [](const std::vector<T>& v) { return oracle::convert<Wide>(v); };
        // A row of one has variance 0, and its x - mean cancels to 0: nothing to compare.
        if (n > 1) {
            layer_norm(in.view(), view(weight), view(bias), epsilon, out.view());
            const auto exact = oracle::layer_norm(wide(x), n, epsilon, wide(weight), wide(bias));
            const auto plain = oracle::layer_norm(x, n, epsilon, weight, bias);
            const auto verdict = support::compare_with_oracle<T>(
                elements(out.view()), plain, exact, 1.0 + 2 * support::max_magnitude(exact));
            ASSERT_TRUE(verdict) << verdict.message << ", n " << n;
            ASSERT_TRUE(out.gaps_untouched());
        }
        rms_norm(in.view(), view(weight), epsilon, out.view());
        const auto verdict = support::compare_with_oracle<T>(
            elements(out.view()), oracle::rms_norm(x, n, epsilon, weight),
            oracle::rms_norm(wide(x), n, epsilon, wide(weight)));
        ASSERT_TRUE(verdict) << verdict.message << ", n " << n;
        ASSERT_TRUE(in.gaps_untouched() && out.gaps_untouched());
        ASSERT_EQ(elements(in.view()), x);
    }
}

// Mean 10,000, deviation 1. The sum of n terms errs by at most n eps / 2 of itself, so the mean by
// n eps / 2 * 10^4, and the output, in units of the deviation, by that and a few eps.
TEST(LayerNorm, FarMeansNeedTwoPasses) {
    Random random;
    SCOPED_TRACE(random.describe());
    constexpr std::size_t n = 64;
    constexpr double far = 1e4, eps = 0x1p-23;
    int broken = 0;
    for (int trial = 0; trial < 50; ++trial) {
        auto x = random.normals<float>(n);
        for (float& value : x) value += static_cast<float>(far);
        Tensor<float, 1> y(n);
        layer_norm(Tensor<float, 1>({n}, x), {}, {}, 1e-5, y.view());
        const auto exact = oracle::layer_norm(oracle::convert<double>(x), n, 1e-5);
        const double bound = n * eps / 2 * far * 1.5 + 20 * eps;
        const auto verdict = support::compare_within(elements(y.view()), exact, bound);
        ASSERT_TRUE(verdict) << verdict.message;

        // One pass: E[x^2] - E[x]^2, each term near 10^8, where floats are 8 apart.
        float sum = 0, squares = 0;
        for (float value : x) sum += value, squares += value * value;
        const float mean = sum / n, variance = squares / n - mean * mean;
        std::vector<float> naive;
        for (float value : x) naive.push_back((value - mean) / std::sqrt(variance + 1e-5F));
        broken += !support::compare_within(naive, exact, bound);
    }
    EXPECT_GE(broken, 45) << "the one-pass variance survives this test too often";
}

TEST(LayerNorm, HasMeanZeroAndVarianceOne) {
    Random random;
    SCOPED_TRACE(random.describe());
    const Tensor<double, 2> x({5, 100}, random.uniforms<double>(500, -3.0, 9.0));
    Tensor<double, 2> y({5, 100});
    layer_norm(x, {}, {}, 0.0, y.view());
    for (Index r = 0; r < 5; ++r) {
        double mean = 0, square = 0;
        for (Index c = 0; c < 100; ++c) mean += y(r, c) / 100, square += y(r, c) * y(r, c) / 100;
        EXPECT_NEAR(mean, 0.0, 100 * 0x1p-52);
        EXPECT_NEAR(square, 1.0, 100 * 0x1p-52);
    }
}

template <class T>
class NormOf : public ::testing::Test {};
using StorageTypes = ::testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(NormOf, StorageTypes);

// Museum B3 32: any strides, and y = x, give the bits of the packed computation.
TYPED_TEST(NormOf, StridesAndInPlaceMakeNoDifference) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 30; ++trial) {
        const auto shape = support::random_shape<3>(random, 0, 6);
        const auto count = static_cast<std::size_t>(shape.element_count());
        const auto values = random.normals<T>(count);
        const Strided<T, 1> weight(random, Shape<1>(shape[2])), bias(random, Shape<1>(shape[2]));
        weight.assign(random.normals<T>(static_cast<std::size_t>(shape[2])));
        bias.assign(random.normals<T>(static_cast<std::size_t>(shape[2])));
        const Tensor<T, 1> dense_weight(weight.const_view()), dense_bias(bias.const_view());
        const Tensor<T, 3> x(shape, values);
        Tensor<T, 3> layer(shape), rms(shape);
        layer_norm(x, dense_weight, dense_bias, 1e-3, layer.view());
        rms_norm(x, dense_weight, 1e-3, rms.view());
        for (bool in_place : {false, true}) {
            const Strided<T, 3> in(random, shape), other(random, shape);
            const auto out = in_place ? in.view() : other.view();
            in.assign(values);
            layer_norm(in.view(), weight.view(), bias.view(), 1e-3, out);
            ASSERT_EQ(elements(out), elements(layer.view()));
            in.assign(values);
            rms_norm(in.view(), weight.view(), 1e-3, out);
            ASSERT_EQ(elements(out), elements(rms.view()));
            ASSERT_TRUE(in.gaps_untouched() && other.gaps_untouched());
        }
    }
}

TYPED_TEST(NormOf, WithoutElements) {
    using T = TypeParam;
    for (const Shape<3>& shape : {Shape<3>(0, 2, 3), Shape<3>(2, 0, 3), Shape<3>(2, 3, 0)}) {
        const Tensor<T, 3> x(shape);
        const Tensor<T, 1> weight(shape[2]);
        Tensor<T, 3> y(shape);
        layer_norm(x, weight, weight, 1e-5, y.view());
        rms_norm(x, weight, 1e-5, y.view());
    }
}

TYPED_TEST(NormOf, ARowOfOneIsItsBias) {
    using T = TypeParam;
    const Tensor<T, 1> x({1}, {T(123.0F)}), weight({1}, {T(9.0F)}), bias({1}, {T(0.5F)});
    Tensor<T, 1> y(1);
    layer_norm(x, weight, bias, 1e-5, y.view());
    EXPECT_EQ(y(0), T(0.5F));
}

TYPED_TEST(NormOf, ANaNStaysInItsRow) {
    using T = TypeParam;
    Tensor<T, 2> x({3, 2}, {T(1.0F), T(3.0F), T(NAN), T(1.0F), T(3.0F), T(1.0F)}), y({3, 2});
    layer_norm(x, {}, {}, 0.0, y.view());
    for (Index r = 0; r < 3; ++r)
        for (Index c = 0; c < 2; ++c)
            EXPECT_EQ(std::isnan(static_cast<float>(y(r, c))), r == 1) << r << ", " << c;
    EXPECT_EQ(y(2, 0), T(1.0F));
}

// Museum B7 70 for norms: squares of 60,000 are far beyond the largest half, 65,504.
TEST(Museum, B7_70_HalvesAreStoredFloatsComputed) {
    constexpr Index n = 512;
    Tensor<half, 1> x(n), y(n);
    for (Index i = 0; i < n; ++i) x(i) = half(i % 2 == 0 ? 60000.0F : 59000.0F);
    rms_norm(x, {}, 1e-5, y.view());
    const double root = std::sqrt((3.6e9 + 3.481e9) / 2);
    // Inputs are exact up to rounding to multiples of 32; the result is rounded to 2^-11.
    EXPECT_NEAR(static_cast<double>(y(0)), 60000.0 / root, 2 * 0x1p-11);
    layer_norm(x, {}, {}, 1e-5, y.view());
    EXPECT_NEAR(static_cast<double>(y(0)), 1.0, 2 * 0x1p-11);
    EXPECT_NEAR(static_cast<double>(y(1)), -1.0, 2 * 0x1p-11);
    EXPECT_TRUE(std::isinf(static_cast<float>(x(0) + x(1)))) << "a sum of halves overflows at once";
}

TEST(NormErrors, SizesThatDoNotFitAreRefusedBeforeAnythingIsWritten) {
    const Tensor<float, 2> x({2, 3});
    const Tensor<float, 1> three(3), two(2);
    Tensor<float, 2> y({2, 3}, {7, 7, 7, 7, 7, 7}), turned({3, 2}, {7, 7, 7, 7, 7, 7});
    EXPECT_EQ(error_text<ShapeError>([&] { layer_norm(x, three, three, 1e-5, turned.view()); }),
              "[layer_norm] the output must have shape [2, 3]; found [3, 2]");
    EXPECT_EQ(error_text<ShapeError>([&] { layer_norm(x, two, three, 1e-5, y.view()); }),
              "[layer_norm] the weight must have shape [3]; found [2]");
    EXPECT_EQ(error_text<ShapeError>([&] { layer_norm(x, three, two, 1e-5, y.view()); }),
              "[layer_norm] the bias must have shape [3]; found [2]");
    EXPECT_EQ(error_text<ShapeError>([&] { rms_norm(x, three, 1e-5, turned.view()); }),
              "[rms_norm] the output must have shape [2, 3]; found [3, 2]");
    EXPECT_EQ(error_text<ShapeError>([&] { rms_norm(x, two, 1e-5, y.view()); }),
              "[rms_norm] the weight must have shape [3]; found [2]");
    EXPECT_THAT(y.values(), Each(7.0F));
    EXPECT_THAT(turned.values(), Each(7.0F));
}

// Museum B8 74: in place or apart; anything between gives an error, never a wrong answer.
TEST(NormErrors, OverlapAndNullAreRefusedBeforeAnythingIsWritten) {
    std::vector<float> memory(24, 7.0F);
    const auto view = [&](Index offset) {
        return TensorView<float, 2>(memory.data() + offset, {2, 3});
    };
    const TensorView<float, 1> weight(memory.data() + 20, {3});
    const TensorView<float, 2> x = view(4), null(nullptr, {2, 3});
    const auto both = [&](auto in, TensorView<const float, 1> w, auto out) {
        const auto layer = error_text<heed::Error>([&] { layer_norm(in, w, {}, 1e-5, out); });
        const auto rms = error_text<heed::Error>([&] { rms_norm(in, w, 1e-5, out); });
        EXPECT_EQ(layer.substr(sizeof("[layer_norm]")), rms.substr(sizeof("[rms_norm]")));
        return rms;
    };
    for (Index offset : {0, 1, 3, 5, 7, 9})
        EXPECT_EQ(both(x, {}, view(offset)),
                  "[rms_norm] the output must be the input's view or not overlap it; found "
                  "partial overlap");
    EXPECT_EQ(both(x, weight, view(17)),
              "[rms_norm] the output must not overlap an input or another output; found "
              "overlapping memory");
    EXPECT_THROW(layer_norm(x, {}, weight, 1e-5, view(17)), ShapeError);
    EXPECT_EQ(both(x, {}, TensorView<float, 2>(memory.data() + 12, {2, 3}, {0, 1})),
              "[rms_norm] the output must have a place for each element; found shape [2, 3], "
              "strides [0, 1]");
    EXPECT_EQ(both(null, {}, x),
              "[rms_norm] the input must point at memory; found null with shape [2, 3]");
    EXPECT_EQ(both(x, {}, null),
              "[rms_norm] the output must point at memory; found null with shape [2, 3]");
    EXPECT_EQ(both(x, TensorView<const float, 1>(nullptr, {3}), view(12)),
              "[rms_norm] the weight must point at memory; found null with shape [3]");
    EXPECT_THROW(layer_norm(x, {}, TensorView<const float, 1>(nullptr, {3}), 1e-5, view(12)),
                 heed::ArgumentError);
    EXPECT_THAT(memory, Each(7.0F));
}

TEST(NormErrors, AllocatesNothing) {
    Tensor<half, 2> x({5, 7});
    const support::AllocationCounter allocations;
    layer_norm(x, {}, {}, 1e-5, x.view());
    rms_norm(x, {}, 1e-5, x.view());
    EXPECT_EQ(allocations.count(), 0U);
}

}  // namespace
