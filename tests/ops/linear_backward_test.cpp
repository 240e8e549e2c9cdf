// The gradients of x W^T + b: by hand, by differences of the oracle, all ranks and strides, what is
// added to and what is overwritten, refusals.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "heed/ops/linear.hpp"
#include "support/differences.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "tensor/errors.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::Index;
using heed::linear_backward;
using heed::LinearGradients;
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

template <class T>
class LinearBackwardOf : public ::testing::Test {};
using Scalars = ::testing::Types<float, double>;
TYPED_TEST_SUITE(LinearBackwardOf, Scalars);

TYPED_TEST(LinearBackwardOf, ByHand) {
    using T = TypeParam;
    // Two rows of two, three outputs.
    const Tensor<T, 2> x({2, 2}, {1, 2, 3, 4}), weight({3, 2}, {1, 0, 0, 1, 10, 100});
    const Tensor<T, 2> dy({2, 3}, {1, 2, 3, -1, 0, 1});
    Tensor<T, 2> dx({2, 2}, {9, 9, 9, 9}), dweight({3, 2}, {0, 0, 0, 0, 0, 1000});
    Tensor<T, 1> dbias({3}, {0, 50, 0});
    linear_backward(x, weight, dy, {.dx = dx, .dweight = dweight, .dbias = dbias});
    // dy_0 W = (1, 2) + 3 (10, 100), dy_1 W = (-1, 0) + (10, 100): what was there is gone.
    EXPECT_THAT(elements(dx.view()), ElementsAre(31, 302, 9, 100));
    // Column o of dy times the columns of x: (1 - 3, 2 - 4), (2, 4), (3 + 3, 6 + 4), added.
    EXPECT_THAT(elements(dweight.view()), ElementsAre(-2, -2, 2, 4, 6, 1010));
    EXPECT_THAT(elements(dbias.view()), ElementsAre(0, 52, 4));
}

/// One random problem of any rank; everything strided but for the rows.
template <class T, int Rank>
struct Problem {
    using Rows = typename Strided<T, Rank>::Rows;
    Index in, out;
    Shape<Rank> shape;
    Strided<T, Rank> x, dy, dx;
    Strided<T, 2> weight, dweight;
    Strided<T, 1> dbias;

    Problem(Random& random, Index most_in, Index most_out)
        : in(random.integer(1, most_in)),
          out(random.integer(1, most_out)),
          shape(support::random_shape<Rank>(random, 1, 4).with(Rank - 1, in)),
          x(random, shape, T(77), Rows::contiguous),
          dy(random, shape.with(Rank - 1, out), T(77), Rows::contiguous),
          dx(random, shape, T(77), Rows::contiguous),
          weight(random, {out, in}, T(77), Strided<T, 2>::Rows::contiguous),
          dweight(random, {out, in}, T(77), Strided<T, 2>::Rows::contiguous),
          dbias(random, Shape<1>(out)) {
        const auto randomise = [&](const auto& strided) {
            strided.assign(random.normals<T>(
                static_cast<std::size_t>(strided.view().shape().element_count())));
        };
        randomise(x);
        randomise(dy);
        randomise(dx);
        randomise(weight);
        randomise(dweight);
        randomise(dbias);
    }

    [[nodiscard]] LinearGradients<T, Rank> gradients() const {
        return {dx.view(), dweight.view(), dbias.view()};
    }
    [[nodiscard]] bool gaps_untouched() const {
        return x.gaps_untouched() && dy.gaps_untouched() && dx.gaps_untouched() &&
               weight.gaps_untouched() && dweight.gaps_untouched() && dbias.gaps_untouched();
    }
};

/// What the gradients are after they were added to `before`.
template <class Real>
std::vector<Real> sum_of(std::vector<Real> a, const std::vector<Real>& b) {
    for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
    return a;
}

template <int Rank>
void compare_with_differences(Random& random) {
    using Real = long double;
    const Problem<double, Rank> p(random, 6, 5);
    auto x = oracle::convert<Real>(elements(p.x.view()));
    auto weight = oracle::convert<Real>(elements(p.weight.view()));
    std::vector<Real> bias(static_cast<std::size_t>(p.out));
    const auto dy = oracle::convert<Real>(elements(p.dy.view()));
    const auto before_weight = oracle::convert<Real>(elements(p.dweight.view()));
    const auto before_bias = oracle::convert<Real>(elements(p.dbias.view()));
    linear_backward(p.x.view(), p.weight.view(), p.dy.view(), p.gradients());
    const auto loss = [&] {
        return support::dot(oracle::linear(x, weight, static_cast<std::size_t>(p.in),
                                           static_cast<std::size_t>(p.out), bias),
                            dy);
    };
    using support::central_differences;
    expect_close("dx", elements(p.dx.view()), central_differences(x, loss));
    expect_close("dweight", elements(p.dweight.view()),
                 sum_of(central_differences(weight, loss), before_weight));
    expect_close("dbias", elements(p.dbias.view()),
                 sum_of(central_differences(bias, loss), before_bias));
    ASSERT_TRUE(p.gaps_untouched());
}

TEST(LinearBackward, EqualsCentralDifferencesOfTheOracleForAllRanksAndStrides) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 25 && !HasFatalFailure(); ++trial) {
        compare_with_differences<1>(random);
        compare_with_differences<2>(random);
        compare_with_differences<3>(random);
        compare_with_differences<4>(random);
    }
}

/// C (+)= A B by plain loops, A [n, k], B [k, m] through strides of their own.
template <class Real>
std::vector<Real> product(std::vector<Real> c, const std::vector<Real>& a, Index a_row, Index a_col,
                          const std::vector<Real>& b, Index n, Index k, Index m) {
    const auto at = [](const std::vector<Real>& v, Index i) {
        return v[static_cast<std::size_t>(i)];
    };
    for (Index i = 0; i < n; ++i)
        for (Index j = 0; j < m; ++j)
            for (Index l = 0; l < k; ++l)
                c[static_cast<std::size_t>(i * m + j)] +=
                    at(a, i * a_row + l * a_col) * at(b, l * m + j);
    return c;
}

// Sizes at which Eigen blocks its products; against plain loops in wider arithmetic.
TYPED_TEST(LinearBackwardOf, LargeSizesRoundAsPlainLoopsDo) {
    using T = TypeParam;
    using Wide = std::conditional_t<std::is_same_v<T, float>, double, long double>;
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 10; ++trial) {
        const Problem<T, 3> p(random, 90, 70);
        const Index rows = p.shape[0] * p.shape[1];
        const auto solve = [&]<class Real>(Real) {
            const auto x = oracle::convert<Real>(elements(p.x.view()));
            const auto dy = oracle::convert<Real>(elements(p.dy.view()));
            const auto weight = oracle::convert<Real>(elements(p.weight.view()));
            const auto before = oracle::convert<Real>(elements(p.dweight.view()));
            return std::pair(
                product(std::vector<Real>(x.size()), dy, p.out, 1, weight, rows, p.out, p.in),
                product(before, dy, 1, p.out, x, p.out, rows, p.in));
        };
        const auto [exact_dx, exact_dweight] = solve(Wide{});
        const auto [plain_dx, plain_dweight] = solve(T{});
        linear_backward(p.x.view(), p.weight.view(), p.dy.view(), p.gradients());
        const auto check = [](const auto& found, const auto& plain, const auto& exact, Index k) {
            const auto verdict = support::compare_with_oracle<T>(
                found, plain, exact, 16.0 * std::sqrt(static_cast<double>(k)));
            ASSERT_TRUE(verdict) << verdict.message;
        };
        check(elements(p.dx.view()), plain_dx, exact_dx, p.out);
        check(elements(p.dweight.view()), plain_dweight, exact_dweight, rows);
    }
}

// The counter-check: gradients of the transposed weight, or without what was there before.
TEST(LinearBackward, OtherFormulasAreSeen) {
    const Tensor<double, 2> x({1, 2}, {1, 2}), weight({2, 2}, {1, 2, 3, 4}), dy({1, 2}, {1, -1});
    Tensor<double, 2> dx({1, 2}), turned({1, 2});
    linear_backward(x, weight, dy, {.dx = dx});
    linear_backward(x, Tensor<double, 2>(heed::read(weight).transpose(0, 1)), dy, {.dx = turned});
    EXPECT_NE(elements(dx.view()), elements(turned.view()));
}

TYPED_TEST(LinearBackwardOf, WhatIsWantedChangesNoBit) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const Problem<T, 3> p(random, 20, 20);
    const std::vector<T> weight_before = elements(p.dweight.view());
    const std::vector<T> bias_before = elements(p.dbias.view());
    linear_backward(p.x.view(), p.weight.view(), p.dy.view(), p.gradients());
    const auto dx = elements(p.dx.view()), dweight = elements(p.dweight.view()),
               dbias = elements(p.dbias.view());
    for (unsigned wanted = 0; wanted < 8; ++wanted) {
        p.dx.assign(std::vector<T>(dx.size(), T(5)));
        p.dweight.assign(weight_before);
        p.dbias.assign(bias_before);
        LinearGradients<T, 3> gradients;
        if (wanted & 1U) gradients.dx = p.dx.view();
        if (wanted & 2U) gradients.dweight = p.dweight.view();
        if (wanted & 4U) gradients.dbias = p.dbias.view();
        linear_backward(p.x.view(), p.weight.view(), p.dy.view(), gradients);
        EXPECT_EQ(elements(p.dx.view()), wanted & 1U ? dx : std::vector<T>(dx.size(), T(5)));
        EXPECT_EQ(elements(p.dweight.view()), wanted & 2U ? dweight : weight_before);
        EXPECT_EQ(elements(p.dbias.view()), wanted & 4U ? dbias : bias_before);
    }
}

TYPED_TEST(LinearBackwardOf, WithoutRowsInputsOrOutputs) {
    using T = TypeParam;
    Tensor<T, 2> dweight({2, 4});
    Tensor<T, 1> dbias(2);
    fill(dweight.view(), T(3));
    fill(dbias.view(), T(3));
    Tensor<T, 3> none({0, 3, 4});
    linear_backward(Tensor<T, 3>({0, 3, 4}), Tensor<T, 2>({2, 4}), Tensor<T, 3>({0, 3, 2}),
                    {.dx = none, .dweight = dweight, .dbias = dbias});
    EXPECT_THAT(dweight.values(), Each(T(3)));
    EXPECT_THAT(dbias.values(), Each(T(3)));
    // Without outputs, no input matters.
    Tensor<T, 3> dx({2, 3, 4});
    fill(dx.view(), T(3));
    linear_backward(dx, Tensor<T, 2>({0, 4}), Tensor<T, 3>({2, 3, 0}),
                    {.dx = Tensor<T, 3>(), .dweight = Tensor<T, 2>({0, 4}).view()});
    EXPECT_THAT(dx.values(), Each(T(3)));
    linear_backward(Tensor<T, 3>({2, 3, 4}), Tensor<T, 2>({0, 4}), Tensor<T, 3>({2, 3, 0}),
                    {.dx = dx});
    EXPECT_THAT(dx.values(), Each(T(0)));
    // Without inputs, the bias sums all the same.
    const Tensor<T, 2> dy({2, 2}, {1, 2, 3, 4});
    linear_backward(Tensor<T, 2>({2, 0}), Tensor<T, 2>({2, 0}), dy, {.dbias = dbias});
    EXPECT_THAT(dbias.values(), ElementsAre(T(7), T(9)));
}

TEST(LinearBackwardErrors, AreThrownBeforeAnythingIsWritten) {
    std::vector<double> memory(200, 7.0);
    const auto view = [&](Index at, const Shape<2>& shape) {
        return TensorView<double, 2>(memory.data() + at, shape);
    };
    const auto x = view(0, {2, 3}), dy = view(6, {2, 4}), weight = view(14, {4, 3}),
               dx = view(26, {2, 3}), dweight = view(32, {4, 3});
    const TensorView<double, 1> dbias(memory.data() + 44, {4});
    const auto message = [&](auto in, auto w, auto slope, auto to, auto to_w, auto to_b) {
        return error_text<ShapeError>(
            [&] { linear_backward(in, w, slope, {.dx = to, .dweight = to_w, .dbias = to_b}); });
    };
    EXPECT_EQ(message(x, view(14, {4, 2}), dy, dx, dweight, dbias),
              "[linear_backward] the input's last dimension must be the weight's; found input [2, "
              "3], weight [4, 2]");
    EXPECT_EQ(message(x, weight, view(6, {2, 3}), dx, dweight, dbias),
              "[linear_backward] dy must have shape [2, 4]; found [2, 3]");
    EXPECT_EQ(message(x, weight, dy, view(26, {3, 2}), dweight, dbias),
              "[linear_backward] dx must have shape [2, 3]; found [3, 2]");
    EXPECT_EQ(message(x, weight, dy, dx, view(32, {3, 4}), dbias),
              "[linear_backward] dweight must have shape [4, 3]; found [3, 4]");
    EXPECT_EQ(message(x, weight, dy, dx, dweight, TensorView<double, 1>(memory.data() + 44, {3})),
              "[linear_backward] dbias must have shape [4]; found [3]");
    EXPECT_EQ(
        message(x, weight, dy, dx, dweight, TensorView<double, 1>(memory.data() + 44, {4}, {0})),
        "[linear_backward] dbias must have a place for each element; found shape [4], "
        "strides [0]");
    EXPECT_EQ(message(TensorView<double, 2>(memory.data() + 100, {2, 3}, {6, 2}), weight, dy, dx,
                      dweight, dbias),
              "[linear_backward] the input must have a contiguous last dimension; found strides "
              "[6, 2]");
    EXPECT_EQ(message(x, weight, dy, TensorView<double, 2>(memory.data() + 100, {2, 3}, {6, 2}),
                      dweight, dbias),
              "[linear_backward] dx must have a contiguous last dimension; found strides [6, 2]");
    const std::string overlap =
        " must not overlap an input or another output; found overlapping "
        "memory";
    for (const Index at : {0, 6, 14, 25})
        EXPECT_EQ(message(x, weight, dy, view(at, {2, 3}), dweight, dbias),
                  "[linear_backward] dx" + overlap);
    for (const Index at : {0, 6, 14, 26})
        EXPECT_EQ(message(x, weight, dy, dx, view(at, {4, 3}), dbias),
                  "[linear_backward] dweight" + overlap);
    for (const Index at : {0, 6, 14, 26, 32})
        EXPECT_EQ(
            message(x, weight, dy, dx, dweight, TensorView<double, 1>(memory.data() + at, {4})),
            "[linear_backward] dbias" + overlap);
    EXPECT_EQ(error_text<heed::ArgumentError>([&] {
                  linear_backward(x, weight, TensorView<double, 2>(nullptr, {2, 4}), {.dx = dx});
              }),
              "[linear_backward] dy must point at memory; found null with shape [2, 4]");
    EXPECT_THAT(memory, Each(7.0));
}

}  // namespace
