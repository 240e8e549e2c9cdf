// The nonlinearities: known values, the ends of the number line, accuracy, application to views.

#include "heed/ops/activation.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
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

using heed::Activation;
using heed::apply_activation;
using heed::bfloat16;
using heed::half;
using heed::Tensor;
using support::elements;
using support::Random;
using support::Strided;

template <class T>
class ActivationOf : public ::testing::Test {
  public:
    using Wide = std::conditional_t<std::is_same_v<T, float>, double, long double>;
    static constexpr double eps = std::numeric_limits<T>::epsilon();
    static constexpr T smallest = std::numeric_limits<T>::min();

    /// |f(x) - exact| <= bound * |exact|, plus one subnormal unit.
    static void expect_relative(T result, Wide exact, double bound, T x) {
        const auto error = static_cast<double>(std::abs(static_cast<Wide>(result) - exact));
        const auto size = static_cast<double>(std::abs(exact));
        ASSERT_LE(error, bound * size + static_cast<double>(std::numeric_limits<T>::denorm_min()))
            << "x = " << x << ", " << result << " instead of " << static_cast<double>(exact);
    }
};
using ComputeTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(ActivationOf, ComputeTypes);

// Phi(1) = 0.841344746068542949 (tables of the normal distribution); sigmoid(1) = e / (1 + e) =
// 0.731058578630004879; sqrt(2 / pi) * 1.044715 = 0.833562, tanh of it 0.682383981216553.
TYPED_TEST(ActivationOf, KnownValues) {
    using T = TypeParam;
    EXPECT_NEAR(static_cast<double>(heed::gelu(T(1))), 0.841344746068542949, 2 * this->eps);
    EXPECT_NEAR(static_cast<double>(heed::gelu(T(-1))), -0.158655253931457051, this->eps);
    EXPECT_NEAR(static_cast<double>(heed::silu(T(1))), 0.731058578630004879, 2 * this->eps);
    EXPECT_NEAR(static_cast<double>(heed::silu(T(-1))), -0.268941421369995121, this->eps);
    EXPECT_NEAR(static_cast<double>(heed::gelu_tanh(T(1))), (1 + 0.682383981216553) / 2,
                2 * this->eps + 1e-14);
    EXPECT_EQ(heed::relu(T(2.5)), T(2.5));
    EXPECT_EQ(heed::relu(T(-2.5)), T(0));
    for (const auto& f : {heed::gelu<T>, heed::gelu_tanh<T>, heed::silu<T>, heed::relu<T>}) {
        EXPECT_EQ(f(T(0)), T(0));
        EXPECT_EQ(f(T(-0.0)), T(0));
    }
}

TYPED_TEST(ActivationOf, Silu) {
    using T = TypeParam;
    // exp errs by at most a unit, sum and quotient by half of one: 2 eps relative, as long as
    // exp(-x) is finite. Beyond that the result is smaller than x / largest, and 0 is given.
    Random random;
    SCOPED_TRACE(random.describe());
    const T overflow = std::log(std::numeric_limits<T>::max());
    for (int trial = 0; trial < 20'000; ++trial) {
        const T x = static_cast<T>(random.uniform(-static_cast<double>(overflow), 200.0));
        this->expect_relative(heed::silu(x), oracle::silu<typename TestFixture::Wide>(x),
                              2.5 * this->eps, x);
    }
    EXPECT_LE(std::abs(heed::silu(-overflow - 1)), (overflow + 1) * this->smallest);
}

TYPED_TEST(ActivationOf, Gelu) {
    using T = TypeParam;
    // For negative x the tail falls as exp(-x^2 / 2): a relative error of eps in the argument
    // becomes x^2 eps in the result. The rest are erfc and two products.
    Random random;
    SCOPED_TRACE(random.describe());
    const double end = std::is_same_v<T, float> ? -13.0 : -37.0;
    for (int trial = 0; trial < 20'000; ++trial) {
        const T x = static_cast<T>(random.uniform(end, 10.0));
        const double tail = x < 0 ? static_cast<double>(x) * static_cast<double>(x) : 0.0;
        this->expect_relative(heed::gelu(x), oracle::gelu<typename TestFixture::Wide>(x),
                              (tail + 4.0) * this->eps, x);
    }
}

TYPED_TEST(ActivationOf, GeluTanh) {
    using T = TypeParam;
    // 1 + tanh cancels for negative x, so the error is relative to x / 2, not to the result: half
    // a unit each for tanh, sum and product, and the argument's 4 roundings times t / cosh(t)^2,
    // which is at most 0.45.
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 20'000; ++trial) {
        const T x = static_cast<T>(random.uniform(-20.0, 20.0));
        const auto exact = oracle::gelu_tanh<typename TestFixture::Wide>(x);
        const auto error = static_cast<double>(std::abs(heed::gelu_tanh(x) - exact));
        ASSERT_LE(error, 4 * this->eps * static_cast<double>(std::abs(x) / 2)) << x;
    }
}

TYPED_TEST(ActivationOf, OddPartIsHalfOfX) {
    using T = TypeParam;
    // f(x) - f(-x) = x for all three, because Phi, sigmoid and (1 + tanh) / 2 of x and -x sum to 1.
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 1000; ++trial) {
        const T x = static_cast<T>(random.uniform(0.0, 12.0));
        for (const auto& f : {heed::gelu<T>, heed::gelu_tanh<T>, heed::silu<T>})
            ASSERT_NEAR(static_cast<double>(f(x) - f(-x)), static_cast<double>(x),
                        4 * this->eps * static_cast<double>(x));
    }
}

template <class T>
void ends_of_the_number_line() {
    const T infinite = std::numeric_limits<T>::infinity(), smallest = std::numeric_limits<T>::min(),
            largest = std::numeric_limits<T>::max();
    for (const auto& f : {heed::gelu<T>, heed::gelu_tanh<T>, heed::silu<T>, heed::relu<T>}) {
        EXPECT_EQ(f(infinite), infinite);
        EXPECT_EQ(f(-infinite), T(0));
        EXPECT_EQ(f(T(1e30)), T(1e30));
        EXPECT_EQ(f(T(-1e30)), T(0));
        EXPECT_EQ(f(largest), largest);
        EXPECT_EQ(f(-largest), T(0));
        EXPECT_TRUE(std::isnan(f(std::numeric_limits<T>::quiet_NaN())));
        EXPECT_LE(std::abs(f(smallest)), smallest);
    }
    // The formulas as they are written in books.
    const T x = -infinite;
    EXPECT_TRUE(std::isnan(x / 2 * (1 + std::erf(x / std::numbers::sqrt2_v<T>))));
    EXPECT_TRUE(std::isnan(x / (1 + std::exp(-x))));
    EXPECT_TRUE(std::isnan(x / 2 * (1 + std::tanh(x))));
}

TEST(Museum, B7_68_EndsOfTheNumberLine) {
    ends_of_the_number_line<float>();
    ends_of_the_number_line<double>();
}

// 1 + erf has lost every digit of the tail where gelu still has them.
TEST(ActivationCounterCheck, OnePlusErfLosesTheTail) {
    const float x = -6.0F;
    const float naive = x / 2 * (1 + std::erf(x / std::numbers::sqrt2_v<float>));
    const double exact = oracle::gelu(-6.0);  // -5.9e-9
    EXPECT_GT(std::abs(static_cast<double>(naive) - exact), 0.5 * std::abs(exact));
    EXPECT_LE(std::abs(static_cast<double>(heed::gelu(x)) - exact), 40 * 0x1p-23 * std::abs(exact));
}

// ---- application to views -----------------------------------------------------------------------

/// Distance from 1 to the next number. (std::numeric_limits of Eigen 3.4's half says 2^-13.)
template <class T>
constexpr double unit_of = std::numeric_limits<T>::epsilon();
template <>
constexpr double unit_of<half> = 0x1p-10;
template <>
constexpr double unit_of<bfloat16> = 0x1p-7;

constexpr auto all_activations = {Activation::none, Activation::relu, Activation::gelu,
                                  Activation::gelu_tanh, Activation::silu};

double exact(Activation activation, double x) {
    switch (activation) {
        case Activation::none:
            return x;
        case Activation::relu:
            return x > 0 ? x : 0;
        case Activation::gelu:
            return oracle::gelu(x);
        case Activation::gelu_tanh:
            return oracle::gelu_tanh(x);
        case Activation::silu:
            return oracle::silu(x);
    }
    return std::numeric_limits<double>::quiet_NaN();
}

template <class T>
class ApplyActivation : public ::testing::Test {};
using StorageTypes = ::testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(ApplyActivation, StorageTypes);

TYPED_TEST(ApplyActivation, EveryElementOfAnyView) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (Activation activation : all_activations) {
        for (int trial = 0; trial < 10; ++trial) {
            const auto shape = support::random_shape<3>(random, 0, 5);
            const Strided<T, 3> owner(random, shape);
            const auto values =
                random.normals<T>(static_cast<std::size_t>(shape.element_count()), 2.0);
            owner.assign(values);
            apply_activation(activation, owner.view());
            ASSERT_TRUE(owner.gaps_untouched());
            const auto result = elements(owner.view());
            for (std::size_t i = 0; i < values.size(); ++i) {
                const double x = static_cast<double>(values[i]);
                // 4 eps of |x| as above, computed in float or double; then one rounding to T.
                // The absolute part is for results that are subnormal in T.
                const double eps = std::numeric_limits<heed::ComputeType<T>>::epsilon();
                const double unit = unit_of<T>;
                const double expected = exact(activation, x);
                ASSERT_LE(std::abs(static_cast<double>(result[i]) - expected),
                          4 * eps * std::abs(x) + unit / 2 * std::abs(expected) + 0x1p-25)
                    << x;
            }
        }
    }
}

TYPED_TEST(ApplyActivation, NoneChangesNoBit) {
    Random random;
    SCOPED_TRACE(random.describe());
    const auto values = random.normals<TypeParam>(100);
    Tensor<TypeParam, 1> x({100}, values);
    apply_activation(Activation::none, x.view());
    EXPECT_EQ(elements(x.view()), values);
}

// All 65,536 halves: computed in float (4 eps of |x| as above) and rounded once (half a unit), and
// only a NaN gives a NaN.
TEST(ApplyActivationToHalves, EveryPattern) {
    Tensor<half, 1> x(65536);
    for (Activation activation : all_activations) {
        for (std::uint32_t bits = 0; bits < 65536; ++bits)
            x(bits) = std::bit_cast<half>(static_cast<std::uint16_t>(bits));
        apply_activation(activation, x.view());
        for (std::uint32_t bits = 0; bits < 65536; ++bits) {
            const auto in =
                static_cast<double>(std::bit_cast<half>(static_cast<std::uint16_t>(bits)));
            const auto out = static_cast<double>(x(bits));
            if (std::isnan(in)) {
                ASSERT_TRUE(std::isnan(out)) << bits;
            } else if (std::isinf(in)) {
                ASSERT_EQ(out, in > 0 || activation == Activation::none ? in : 0.0);
            } else {
                const double expected = exact(activation, in);
                const double unit = std::max(std::abs(expected) * 0x1p-10, 0x1p-24);
                ASSERT_LE(std::abs(out - expected), unit / 2 + 4 * 0x1p-23 * std::abs(in)) << in;
            }
        }
    }
}

// Shared elements would be replaced twice.
TEST(ApplyActivationErrors, SharedElementsAndNullAreRefusedBeforeAnythingIsWritten) {
    std::vector<float> memory(6, 7.0F);
    EXPECT_EQ(support::error_text<heed::ShapeError>([&] {
                  apply_activation(Activation::relu,
                                   heed::TensorView<float, 2>(memory.data(), {3, 2}, {1, 1}));
              }),
              "[apply_activation] the tensor must have a place for each element; found shape [3, "
              "2], strides [1, 1]");
    EXPECT_EQ(support::error_text<heed::ArgumentError>([] {
                  apply_activation(Activation::gelu, heed::TensorView<float, 1>(nullptr, {3}));
              }),
              "[apply_activation] the tensor must point at memory; found null with shape [3]");
    EXPECT_THAT(memory, ::testing::Each(7.0F));
}

TEST(ApplyActivationToHalves, AllocatesNothing) {
    Tensor<half, 2> x({5, 7});
    const support::AllocationCounter allocations;
    for (Activation activation : all_activations) apply_activation(activation, x.view());
    EXPECT_EQ(allocations.count(), 0U);
}

}  // namespace
