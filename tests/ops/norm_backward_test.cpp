// The gradients of LayerNorm and RMSNorm: figures of PyTorch, differences of the oracle, laws,
// strides, in place, refusals.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "heed/ops/norm.hpp"
#include "heed/tensor/tensor.hpp"
#include "support/allocation_counter.hpp"
#include "support/differences.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"
#include "tensor/errors.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::Index;
using heed::layer_norm_backward;
using heed::rms_norm_backward;
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

// torch.nn.functional.layer_norm and rms_norm of PyTorch 2.13 in float64, epsilon 0.1.
struct Figures {
    Tensor<double, 2> x{{2, 3}, {1.0, -2.0, 0.5, 0.3, 4.0, -1.0}};
    Tensor<double, 2> dy{{2, 3}, {1.0, 0.5, -2.0, 0.25, -1.0, 3.0}};
    Tensor<double, 1> weight{{3}, {2.0, -1.0, 0.5}};
    Tensor<double, 2> dx{{2, 3}};
    Tensor<double, 1> dweight{3}, dbias{3};
};

TEST(NormBackward, LayerNormAsInPyTorch) {
    Figures f;
    layer_norm_backward(f.x, f.weight, 0.1, f.dy,
                        {.dx = f.dx, .dweight = f.dweight, .dbias = f.dbias});
    expect_close("dx", f.dx.values(),
                 std::vector{0.9497110412907449, 0.14793358669332643, -1.0976446279840713,
                             -0.25111039791599055, 0.06396528379346517, 0.1871451141225255},
                 1e-15, 1e-14);
    expect_close("dweight", f.dweight.values(),
                 std::vector{0.7708774761136874, -2.0331599515397945, -3.929386106722751}, 1e-15,
                 1e-14);
    EXPECT_THAT(f.dbias.values(), ElementsAre(1.25, -0.5, 1.0));
}

TEST(NormBackward, RmsNormAsInPyTorch) {
    Figures f;
    rms_norm_backward(f.x, f.weight, 0.1, f.dy, {.dx = f.dx, .dweight = f.dweight});
    expect_close("dx", f.dx.values(),
                 std::vector{1.1392514864877021, 0.29474820435292304, -0.9008035009437646,
                             0.18868542119839832, 0.16217392530849672, 0.6863133643210096},
                 1e-15, 1e-14);
    expect_close("dweight", f.dweight.values(),
                 std::vector{0.7663656297644421, -2.3966016978609708, -1.98125492891918}, 1e-15,
                 1e-14);
}

/// Which norm, so that one text serves both.
enum class Kind { layer, rms };

template <class T, int Rank>
struct Gradients {
    TensorView<T, Rank> dx = {};
    TensorView<T, 1> dweight = {}, dbias = {};
};

template <class T, int Rank>
void backward(Kind kind, TensorView<const T, Rank> x, TensorView<const T, 1> weight, double epsilon,
              TensorView<const T, Rank> dy, const Gradients<T, Rank>& g) {
    if (kind == Kind::layer)
        layer_norm_backward(x, weight, epsilon, dy, {g.dx, g.dweight, g.dbias});
    else
        rms_norm_backward(x, weight, epsilon, dy, {g.dx, g.dweight});
}

template <class Real>
std::vector<Real> forward(Kind kind, const std::vector<Real>& x, std::size_t n, double epsilon,
                          const std::vector<Real>& weight, const std::vector<Real>& bias) {
    return kind == Kind::layer ? oracle::layer_norm(x, n, epsilon, weight, bias)
                               : oracle::rms_norm(x, n, epsilon, weight);
}

/// One random problem: views with any strides, gradients with something in them.
template <class T, int Rank>
struct Problem {
    Shape<Rank> shape;
    Strided<T, Rank> x, dy, dx;
    Strided<T, 1> weight, dweight, dbias;

    Problem(Random& random, Index most_features)
        : shape(support::random_shape<Rank>(random, 1, 3)
                    .with(Rank - 1, random.integer(1, most_features))),
          x(random, shape),
          dy(random, shape),
          dx(random, shape),
          weight(random, Shape<1>(shape[Rank - 1])),
          dweight(random, Shape<1>(shape[Rank - 1])),
          dbias(random, Shape<1>(shape[Rank - 1])) {
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

    [[nodiscard]] Gradients<T, Rank> gradients() const {
        return {dx.view(), dweight.view(), dbias.view()};
    }
    [[nodiscard]] bool gaps_untouched() const {
        return x.gaps_untouched() && dy.gaps_untouched() && dx.gaps_untouched() &&
               weight.gaps_untouched() && dweight.gaps_untouched() && dbias.gaps_untouched();
    }
};

template <int Rank>
void compare_with_differences(Random& random, Kind kind) {
    using Real = long double;
    const Problem<double, Rank> p(random, 7);
    const bool has_weight = random.chance(0.7);
    // Where epsilon is small beside the variance's reach, third derivatives are large.
    const double epsilon = random.pick({0.1, 1.0});
    const auto n = static_cast<std::size_t>(p.shape[Rank - 1]);
    auto x = oracle::convert<Real>(elements(p.x.view()));
    auto weight = has_weight ? oracle::convert<Real>(elements(p.weight.view()))
                             : std::vector<Real>(n, Real(1));
    std::vector<Real> bias(n);
    const auto dy = oracle::convert<Real>(elements(p.dy.view()));
    const auto before_weight = elements(p.dweight.view()), before_bias = elements(p.dbias.view());
    backward<double, Rank>(kind, p.x.view(),
                           has_weight ? p.weight.const_view() : TensorView<const double, 1>(),
                           epsilon, p.dy.view(), p.gradients());
    const auto loss = [&] { return support::dot(forward(kind, x, n, epsilon, weight, bias), dy); };
    const auto added_to = [](std::vector<Real> gradient, const std::vector<double>& before) {
        for (std::size_t i = 0; i < before.size(); ++i) gradient[i] += before[i];
        return gradient;
    };
    using support::central_differences;
    expect_close("dx", elements(p.dx.view()), central_differences(x, loss));
    expect_close("dweight", elements(p.dweight.view()),
                 added_to(central_differences(weight, loss), before_weight));
    if (kind == Kind::layer) {
        expect_close("dbias", elements(p.dbias.view()),
                     added_to(central_differences(bias, loss), before_bias));
    } else {
        ASSERT_EQ(elements(p.dbias.view()), before_bias);
    }
    ASSERT_TRUE(p.gaps_untouched());
}

TEST(NormBackward, EqualsCentralDifferencesOfTheOracleForAllRanksAndStrides) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 40 && !HasFatalFailure(); ++trial)
        for (const Kind kind : {Kind::layer, Kind::rms}) {
            compare_with_differences<1>(random, kind);
            compare_with_differences<2>(random, kind);
            compare_with_differences<3>(random, kind);
            compare_with_differences<4>(random, kind);
        }
}

// A LayerNorm does not see a constant added to its input, and (without epsilon) neither norm sees
// its length: dx has no part along them. The counter-check: dy itself has.
TEST(NormBackward, NothingAlongWhatTheNormDoesNotSee) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 50; ++trial) {
        const auto n = static_cast<std::size_t>(random.integer(3, 200));
        const Tensor<double, 1> x({n}, random.normals<double>(n));
        const Tensor<double, 1> dy({n}, random.normals<double>(n));
        Tensor<double, 1> dx(n);
        const auto along = [&](const auto& g, double constant, double length) {
            double sum = 0;
            for (std::size_t i = 0; i < n; ++i) sum += g(i) * (constant + length * x(i));
            return std::abs(sum);
        };
        // Sums of n terms of about 1, each off by some eps.
        const double bound = static_cast<double>(n) * 0x1p-52 * 40;
        layer_norm_backward(x, {}, 0.0, dy, {.dx = dx});
        EXPECT_LE(along(dx, 1, 0), bound);
        EXPECT_LE(along(dx, 0, 1), bound);
        rms_norm_backward(x, {}, 0.0, dy, {.dx = dx});
        EXPECT_LE(along(dx, 0, 1), bound);
        EXPECT_GT(along(dx, 1, 0), bound);
        EXPECT_GT(along(dy, 1, 0), bound);
    }
}

// In float, against the same in double: sums of n terms, each of which errs by a few eps of its
// size, as do the mean and the deviation.
TEST(NormBackward, FloatsErrByRoundingAlone) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 60; ++trial)
        for (const Kind kind : {Kind::layer, Kind::rms}) {
            const Problem<float, 2> p(random, 300);
            const auto n = static_cast<double>(p.shape[1]);
            const auto widen = [](const auto& strided) {
                Tensor<double, 2> wide(strided.view().shape());
                copy(strided.view(), wide.view());
                return wide;
            };
            const Tensor<double, 2> x = widen(p.x), dy = widen(p.dy);
            Tensor<double, 1> weight(p.weight.view().shape());
            copy(p.weight.view(), weight.view());
            Tensor<double, 2> dx(x.shape());
            backward<float, 2>(kind, p.x.view(), p.weight.view(), 0.1, p.dy.view(), p.gradients());
            backward<double, 2>(kind, x, weight, 0.1, dy, {.dx = dx});
            // |dx| <= r (|g| + mean |g| + |n| mean |g n|) < 3.2 * (20 + 4 + 5 * 4), generously.
            expect_close("dx", elements(p.dx.view()), elements(dx.view()),
                         0x1p-23 * 8 * (std::sqrt(n) + 20) * 3.2, 0);
        }
}

TEST(NormBackward, WhatIsWantedChangesNoBit) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (const Kind kind : {Kind::layer, Kind::rms}) {
        const Problem<float, 3> p(random, 40);
        const auto weight_before = elements(p.dweight.view()),
                   bias_before = elements(p.dbias.view());
        const auto run = [&](const Gradients<float, 3>& g) {
            backward<float, 3>(kind, p.x.view(), p.weight.view(), 1e-5, p.dy.view(), g);
        };
        run(p.gradients());
        const auto dx = elements(p.dx.view()), dweight = elements(p.dweight.view()),
                   dbias = elements(p.dbias.view());
        for (unsigned wanted = 0; wanted < 8; ++wanted) {
            const std::vector<float> fives(dx.size(), 5.0F);
            p.dx.assign(fives);
            p.dweight.assign(weight_before);
            p.dbias.assign(bias_before);
            Gradients<float, 3> g;
            if (wanted & 1U) g.dx = p.dx.view();
            if (wanted & 2U) g.dweight = p.dweight.view();
            if (wanted & 4U) g.dbias = p.dbias.view();
            run(g);
            EXPECT_EQ(elements(p.dx.view()), wanted & 1U ? dx : fives);
            EXPECT_EQ(elements(p.dweight.view()), wanted & 2U ? dweight : weight_before);
            EXPECT_EQ(elements(p.dbias.view()), wanted & 4U ? dbias : bias_before);
        }
    }
}

TEST(NormBackward, OverTheInputOrTheSlopeItself) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (const Kind kind : {Kind::layer, Kind::rms}) {
        const Problem<double, 2> p(random, 9);
        backward<double, 2>(kind, p.x.view(), p.weight.view(), 0.1, p.dy.view(), p.gradients());
        Tensor<double, 2> over_x(p.x.const_view()), over_dy(p.dy.const_view());
        backward<double, 2>(kind, over_x, p.weight.view(), 0.1, p.dy.view(), {.dx = over_x});
        backward<double, 2>(kind, p.x.view(), p.weight.view(), 0.1, over_dy, {.dx = over_dy});
        EXPECT_EQ(elements(over_x.view()), elements(p.dx.view()));
        EXPECT_EQ(elements(over_dy.view()), elements(p.dx.view()));
    }
}

TEST(NormBackward, WithoutRowsOrFeatures) {
    Tensor<double, 1> dweight({2}, {3, 3}), dbias({2}, {4, 4});
    Tensor<double, 2> none({0, 2}), narrow({2, 0});
    layer_norm_backward(none, {}, 0.1, none, {.dx = none, .dweight = dweight, .dbias = dbias});
    rms_norm_backward(none, {}, 0.1, none, {.dx = none, .dweight = dweight});
    layer_norm_backward(narrow, {}, 0.1, narrow, {.dx = narrow});
    EXPECT_THAT(dweight.values(), Each(3));
    EXPECT_THAT(dbias.values(), Each(4));
    // A single feature is always its own mean: no gradient reaches it.
    const Tensor<double, 2> x({2, 1}, {5, -3}), dy({2, 1}, {1, 2});
    Tensor<double, 2> dx({2, 1}, {9, 9});
    layer_norm_backward(x, {}, 0.1, dy, {.dx = dx});
    EXPECT_THAT(dx.values(), Each(0));
}

TEST(NormBackward, AllocatesNothing) {
    Figures f;
    const support::AllocationCounter allocations;
    layer_norm_backward(f.x, f.weight, 0.1, f.dy,
                        {.dx = f.dx, .dweight = f.dweight, .dbias = f.dbias});
    rms_norm_backward(f.x, f.weight, 0.1, f.dy, {.dx = f.dx, .dweight = f.dweight});
    EXPECT_EQ(allocations.count(), 0U);
}

TEST(NormBackwardErrors, AreThrownBeforeAnythingIsWritten) {
    std::vector<double> memory(60, 7.0);
    const auto view = [&](Index at, const Shape<2>& shape = {2, 3}) {
        return TensorView<double, 2>(memory.data() + at, shape);
    };
    const auto row = [&](Index at, Index n = 3) {
        return TensorView<double, 1>(memory.data() + at, Shape<1>(n));
    };
    const auto x = view(0), dy = view(6), dx = view(12);
    const auto weight = row(18), dweight = row(21), dbias = row(24);
    const auto message = [&](auto w, auto slope, auto to, auto to_w, auto to_b) {
        return error_text<ShapeError>([&] {
            layer_norm_backward(x, w, 0.1, slope, {.dx = to, .dweight = to_w, .dbias = to_b});
        });
    };
    EXPECT_EQ(message(row(18, 2), dy, dx, dweight, dbias),
              "[layer_norm_backward] the weight must have shape [3]; found [2]");
    EXPECT_EQ(message(weight, view(6, {3, 2}), dx, dweight, dbias),
              "[layer_norm_backward] dy must have shape [2, 3]; found [3, 2]");
    EXPECT_EQ(message(weight, dy, view(12, {3, 2}), dweight, dbias),
              "[layer_norm_backward] dx must have shape [2, 3]; found [3, 2]");
    EXPECT_EQ(message(weight, dy, dx, row(21, 2), dbias),
              "[layer_norm_backward] dweight must have shape [3]; found [2]");
    EXPECT_EQ(message(weight, dy, dx, dweight, row(24, 2)),
              "[layer_norm_backward] dbias must have shape [3]; found [2]");
    EXPECT_EQ(message(weight, dy, view(1), dweight, dbias),
              "[layer_norm_backward] the output must be the input's view or not overlap it; found "
              "partial overlap");
    EXPECT_EQ(message(weight, dy, view(7), dweight, dbias),
              "[layer_norm_backward] the output must be the input's view or not overlap it; found "
              "partial overlap");
    const std::string overlap =
        " must not overlap an input or another output; found overlapping "
        "memory";
    EXPECT_EQ(message(weight, dy, view(16), dweight, dbias), "[layer_norm_backward] dx" + overlap);
    for (const Index at : {0, 6, 12, 18})
        EXPECT_EQ(message(weight, dy, dx, row(at), dbias),
                  "[layer_norm_backward] dweight" + overlap);
    for (const Index at : {0, 6, 12, 18, 21})
        EXPECT_EQ(message(weight, dy, dx, dweight, row(at)),
                  "[layer_norm_backward] dbias" + overlap);
    EXPECT_EQ(
        error_text<heed::ArgumentError>([&] {
            rms_norm_backward(x, weight, 0.1, TensorView<double, 2>(nullptr, {2, 3}), {.dx = dx});
        }),
        "[rms_norm_backward] dy must point at memory; found null with shape [2, 3]");
    EXPECT_THAT(memory, Each(7.0));
}

}  // namespace
