// The derivatives of the nonlinearities: figures of PyTorch, differences of the oracle, the ends of
// the number line, application to views.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "heed/ops/activation.hpp"
#include "heed/tensor/tensor.hpp"
#include "support/allocation_counter.hpp"
#include "support/differences.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"
#include "tensor/errors.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::Activation;
using heed::activation_backward;
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

/// An activation with its derivative in float and double, and the oracle's function.
struct Pair {
    Activation activation;
    float (*in_float)(float);
    double (*in_double)(double);
    long double (*function)(long double);
};

const Pair pairs[] = {
    {Activation::relu, heed::relu_derivative<float>, heed::relu_derivative<double>,
     [](long double x) { return x > 0 ? x : 0; }},
    {Activation::gelu, heed::gelu_derivative<float>, heed::gelu_derivative<double>,
     oracle::gelu<long double>},
    {Activation::gelu_tanh, heed::gelu_tanh_derivative<float>, heed::gelu_tanh_derivative<double>,
     oracle::gelu_tanh<long double>},
    {Activation::silu, heed::silu_derivative<float>, heed::silu_derivative<double>,
     oracle::silu<long double>},
};

// torch.nn.functional of PyTorch 2.13 in float64, at -3, -1/2, 0, 1/2, 3.
TEST(ActivationDerivative, AsInPyTorch) {
    const std::vector<double> at{-3.0, -0.5, 0.0, 0.5, 3.0};
    const auto check = [&](const char* name, double (*derivative)(double),
                           const std::vector<double>& expected) {
        std::vector<double> found;
        for (const double x : at) found.push_back(derivative(x));
        expect_close(name, found, expected, 4 * 0x1p-52, 0);
    };
    check("relu", heed::relu_derivative, {0, 0, 0, 1, 1});
    check("silu", heed::silu_derivative,
          {-0.08810410601516962, 0.2600388126973482, 0.5, 0.7399611873026519, 1.0881041060151693});
    check("gelu", heed::gelu_derivative,
          {-0.01194564720418392, 0.13250487534383712, 0.5, 0.8674951246561629, 1.011945647204184});
    check(
        "gelu_tanh", heed::gelu_tanh_derivative,
        {-0.011584166630969648, 0.13263009646535764, 0.5, 0.8673699035346424, 1.0115841666309695});
}

TEST(ActivationDerivative, EqualsCentralDifferencesOfTheOracle) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (const Pair& pair : pairs)
        for (int trial = 0; trial < 2000; ++trial) {
            std::vector<long double> x{random.uniform(-12, 12)};
            if (std::abs(x[0]) < 1e-4L) continue;  // the corner of relu
            const auto slope =
                support::central_differences(x, [&] { return pair.function(x[0]); })[0];
            const auto at = static_cast<double>(x[0]);
            ASSERT_NEAR(pair.in_double(at), static_cast<double>(slope), 1e-10) << at;
        }
}

// A handful of operations on numbers of about |x| at most, where x is no longer among those whose
// other factor is tiny: 8 eps.
TEST(ActivationDerivative, FloatsErrByRoundingAlone) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (const Pair& pair : pairs)
        for (int trial = 0; trial < 20'000; ++trial) {
            const auto x = static_cast<float>(random.uniform(-20, 20));
            ASSERT_NEAR(pair.in_float(x), pair.in_double(static_cast<double>(x)), 8 * 0x1p-23) << x;
        }
}

TEST(ActivationDerivative, EndsOfTheNumberLine) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    for (const Pair& pair : pairs) {
        for (const float x : {1e3F, 1e10F, 1e20F, std::numeric_limits<float>::max(), infinity}) {
            EXPECT_EQ(pair.in_float(x), 1.0F) << x;
            EXPECT_EQ(pair.in_float(-x), 0.0F) << -x;
        }
        for (const double x : {1e5, 1e200, std::numeric_limits<double>::max()}) {
            EXPECT_EQ(pair.in_double(x), 1.0) << x;
            EXPECT_EQ(pair.in_double(-x), 0.0) << -x;
        }
        EXPECT_TRUE(std::isnan(pair.in_float(std::numeric_limits<float>::quiet_NaN())));
    }
}

TEST(ActivationBackward, AnyStridesAndInPlace) {
    Random random;
    SCOPED_TRACE(random.describe());
    const auto check = [&](Activation activation, auto derivative) {
        const auto shape = support::random_shape<3>(random, 0, 5);
        const auto count = static_cast<std::size_t>(shape.element_count());
        const Strided<double, 3> x(random, shape), dy(random, shape), dx(random, shape);
        x.assign(random.normals<double>(count, 3.0));
        dy.assign(random.normals<double>(count));
        activation_backward(activation, x.view(), dy.view(), dx.view());
        const auto at = elements(x.view()), slopes = elements(dy.view()),
                   found = elements(dx.view());
        // The kernel may err by 4 units in the last place of dy, the scalar formula by 8.
        for (std::size_t i = 0; i < count; ++i)
            ASSERT_NEAR(found[i], slopes[i] * derivative(at[i]),
                        12 * 0x1p-52 * std::abs(slopes[i]));
        ASSERT_TRUE(x.gaps_untouched() && dy.gaps_untouched() && dx.gaps_untouched());
        Tensor<double, 3> over_x(x.const_view()), over_dy(dy.const_view());
        activation_backward(activation, over_x, dy.view(), over_x.view());
        activation_backward(activation, x.view(), over_dy, over_dy.view());
        ASSERT_EQ(elements(over_x.view()), found);
        ASSERT_EQ(elements(over_dy.view()), found);
    };
    for (int trial = 0; trial < 20; ++trial) {
        for (const Pair& pair : pairs) check(pair.activation, pair.in_double);
        check(Activation::none, [](double) { return 1.0; });
    }
}

TEST(ActivationBackward, AllocatesNothing) {
    Tensor<float, 2> x({5, 7}), dy({5, 7});
    const support::AllocationCounter allocations;
    activation_backward(Activation::gelu, x, dy, dy.view());
    EXPECT_EQ(allocations.count(), 0U);
}

TEST(ActivationBackwardErrors, AreThrownBeforeAnythingIsWritten) {
    std::vector<float> memory(24, 7.0F);
    const auto view = [&](heed::Index at, const Shape<2>& shape = {2, 3}) {
        return TensorView<float, 2>(memory.data() + at, shape);
    };
    const auto message = [&](auto x, auto dy, auto dx) {
        return error_text<heed::Error>([&] { activation_backward(Activation::relu, x, dy, dx); });
    };
    EXPECT_EQ(message(view(0), view(6, {3, 2}), view(12)),
              "[activation_backward] dy must have shape [2, 3]; found [3, 2]");
    EXPECT_EQ(message(view(0), view(6), view(12, {3, 2})),
              "[activation_backward] dx must have shape [2, 3]; found [3, 2]");
    for (const heed::Index at : {1, 5, 7})
        EXPECT_EQ(message(view(0), view(6), view(at)),
                  "[activation_backward] the output must be the input's view or not overlap it; "
                  "found partial overlap");
    EXPECT_EQ(message(view(0), TensorView<float, 2>(nullptr, {2, 3}), view(12)),
              "[activation_backward] dy must point at memory; found null with shape [2, 3]");
    EXPECT_THAT(memory, Each(7.0F));
}

}  // namespace
