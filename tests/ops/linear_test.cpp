// x W^T + b: by hand, against the oracle for all ranks and strides, overlap, refusals.

#include "heed/ops/linear.hpp"
#include "heed/tensor/tensor.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "heed/tensor/broadcast.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "tensor/errors.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::bfloat16;
using heed::half;
using heed::Index;
using heed::linear;
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
class LinearOf : public ::testing::Test {};
using StorageTypes = ::testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(LinearOf, StorageTypes);

TYPED_TEST(LinearOf, ByHand) {
    using T = TypeParam;
    const auto t = [](float value) { return T(value); };
    // (1 2) (3 4)^T = 11, (1 2) (5 6)^T = 17, (1 2) (7 8)^T = 23; bias 1, 2, 3.
    const Tensor<T, 1> x({2}, {t(1), t(2)}), bias({3}, {t(1), t(2), t(3)});
    const Tensor<T, 2> weight({3, 2}, {t(3), t(4), t(5), t(6), t(7), t(8)});
    Tensor<T, 1> y(3);
    linear(x, weight, {}, y.view());
    EXPECT_THAT(elements(y.view()), ElementsAre(t(11), t(17), t(23)));
    linear(x, weight, bias, y.view());
    EXPECT_THAT(elements(y.view()), ElementsAre(t(12), t(19), t(26)));
    // Two rows, as a batch of one each: (0 1) gives 4, 6, 8.
    const Tensor<T, 3> rows({2, 1, 2}, {t(1), t(2), t(0), t(1)});
    Tensor<T, 3> result({2, 1, 3});
    linear(rows, weight, bias, result.view());
    EXPECT_THAT(elements(result.view()), ElementsAre(t(12), t(19), t(26), t(5), t(8), t(11)));
}

TYPED_TEST(LinearOf, WithoutRowsInputsOrOutputs) {
    using T = TypeParam;
    const Tensor<T, 1> bias({2}, {T(5.0F), T(6.0F)});
    Tensor<T, 3> y({2, 1, 2}, {T(9.0F), T(9.0F), T(9.0F), T(9.0F)});
    // A sum over nothing is 0; what was in y is gone.
    linear(Tensor<T, 3>({2, 1, 0}), Tensor<T, 2>({2, 0}), {}, y.view());
    EXPECT_THAT(elements(y.view()), Each(T(0.0F)));
    linear(Tensor<T, 3>({2, 1, 0}), Tensor<T, 2>({2, 0}), bias, y.view());
    EXPECT_THAT(elements(y.view()), ElementsAre(T(5.0F), T(6.0F), T(5.0F), T(6.0F)));
    Tensor<T, 3> no_rows({0, 3, 2}), no_outputs({2, 3, 0});
    linear(Tensor<T, 3>({0, 3, 4}), Tensor<T, 2>({2, 4}), bias, no_rows.view());
    linear(Tensor<T, 3>({2, 3, 4}), Tensor<T, 2>({0, 4}), {}, no_outputs.view());
    linear(Tensor<T, 3>({2, 3, 4}), Tensor<T, 2>({0, 4}), Tensor<T, 1>(0), no_outputs.view());
}

/// One random problem; x and y are strided but for their rows.
template <class T, int Rank>
void compare_with_oracle(Random& random) {
    using C = heed::ComputeType<T>;
    using Wide = std::conditional_t<std::is_same_v<C, float>, double, long double>;
    using Rows = typename Strided<T, Rank>::Rows;
    const Index in = random.integer(1, 70), out = random.integer(1, 40);
    const auto shape = support::random_shape<Rank>(random, 1, 4).with(Rank - 1, in);
    const Strided<T, Rank> x(random, shape, T(77.0F), Rows::contiguous);
    const Strided<T, Rank> y(random, shape.with(Rank - 1, out), T(77.0F), Rows::contiguous);
    const Strided<T, 2> weight(random, Shape<2>(out, in), T(77.0F),
                               Strided<T, 2>::Rows::contiguous);
    const Strided<T, 1> bias(random, Shape<1>(out));
    x.assign(random.normals<T>(static_cast<std::size_t>(shape.element_count())));
    weight.assign(random.normals<T>(static_cast<std::size_t>(in * out)));
    bias.assign(random.normals<T>(static_cast<std::size_t>(out)));
    const bool has_bias = random.chance(0.5);
    linear(x.view(), weight.view(), has_bias ? bias.const_view() : TensorView<const T, 1>(),
           y.view());
    const auto solve = [&]<class Real>(Real) {
        return oracle::linear(
            oracle::convert<Real>(elements(x.view())),
            oracle::convert<Real>(elements(weight.view())), static_cast<std::size_t>(in),
            static_cast<std::size_t>(out),
            has_bias ? oracle::convert<Real>(elements(bias.view())) : std::vector<Real>());
    };
    const auto exact = solve(Wide{});
    const auto result = oracle::convert<C>(elements(y.view()));
    // Any order of n additions errs by at most n eps / 2 of the sum of magnitudes, here below 8 n;
    // that is worst-case, so twice the plain version's error plus the size of the terms is asked.
    const double terms = 16.0 * std::sqrt(static_cast<double>(in));
    if constexpr (heed::ComputeScalar<T>) {
        const auto verdict = support::compare_with_oracle<C>(result, solve(C{}), exact, terms);
        ASSERT_TRUE(verdict) << verdict.message;
    } else {
        // Computed in float, rounded once: half a unit of the result in T.
        const double unit = std::is_same_v<T, half> ? 0x1p-10 : 0x1p-7;
        for (std::size_t i = 0; i < exact.size(); ++i)
            ASSERT_NEAR(static_cast<double>(result[i]), exact[i],
                        unit / 2 * std::abs(exact[i]) + 0x1p-20 * terms);
    }
    ASSERT_TRUE(y.gaps_untouched());
}

TYPED_TEST(LinearOf, AgainstTheOracleForAllRanksAndStrides) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 40 && !this->HasFatalFailure(); ++trial) {
        compare_with_oracle<TypeParam, 1>(random);
        compare_with_oracle<TypeParam, 2>(random);
        compare_with_oracle<TypeParam, 3>(random);
        compare_with_oracle<TypeParam, 4>(random);
    }
}

// Dense in every sense that counts, with a single position whose stride follows nothing.
TEST(Linear, TransposedBatchOfOne) {
    Random random;
    SCOPED_TRACE(random.describe());
    const auto values = random.normals<float>(15);
    const Tensor<float, 2> weight({2, 5}, random.normals<float>(10));
    Tensor<float, 3> x({1, 3, 5}, values), y({1, 3, 2}), turned({3, 1, 2});
    linear(x, weight, {}, y.view());
    linear(x.view().transpose(0, 1), weight, {}, turned.view());
    EXPECT_EQ(elements(turned.view()), elements(y.view()));
}

TEST(Linear, RepeatedAndReversedRows) {
    const Tensor<float, 2> weight({1, 2}, {1, 10});
    Tensor<float, 2> x({2, 2}, {1, 2, 3, 4}), y({2, 1});
    const TensorView<const float, 2> reversed(x.data() + 2, {2, 2}, {-2, 1});
    linear(reversed, weight, {}, y.view());
    EXPECT_THAT(elements(y.view()), ElementsAre(43, 21));
    const TensorView<float, 2> backwards(y.data() + 1, {2, 1}, {-1, 1});
    linear(x, weight, {}, backwards);
    EXPECT_THAT(elements(y.view()), ElementsAre(43, 21));
    linear(heed::broadcast_to(x.view().slice(0, 1, 1), Shape<2>(2, 2)), weight, {}, y.view());
    EXPECT_THAT(elements(y.view()), ElementsAre(43, 43));
}

TEST(Linear, ARowHasItsBitsWhateverTheOthersAre) {
    Random random;
    SCOPED_TRACE(random.describe());
    const Tensor<float, 2> x({60, 300}, random.normals<float>(18'000)),
        weight({230, 300}, random.normals<float>(69'000));
    Tensor<float, 2> all({60, 230});
    linear(x, weight, {}, all.view());
    for (const Index rows : {1, 2, 4, 5, 8, 9, 17, 48}) {
        Tensor<float, 2> some({rows, Index{230}});
        linear(x.view().slice(0, 7, rows), weight, {}, some.view());
        EXPECT_EQ(elements(some.view()), elements(all.view().slice(0, 7, rows))) << rows;
    }
}

/// Two workers, of whom one does everything; counts loops.
struct LoopCounter {
    int loops = 0;
    [[nodiscard]] int concurrency() const { return 2; }
    void parallel_for(Index count, heed::ParallelTask task) {
        ++loops;
        heed::serial.parallel_for(count, task);
    }
};

int loops_of(Index rows, Index in, Index out) {
    const Tensor<float, 2> x({rows, in}), weight({out, in});
    Tensor<float, 2> y({rows, out});
    LoopCounter counter;
    linear(x, weight, {}, y.view(), heed::ExecutorRef(counter));
    return counter.loops;
}

TEST(Linear, IsSharedOutWhenItComputesOrReadsMuch) {
    EXPECT_EQ(loops_of(512, 64, 64), 1);
    EXPECT_EQ(loops_of(1, 512, 512), 1);  // a MiB of weights for one row
    EXPECT_EQ(loops_of(1, 64, 64), 0);
    EXPECT_EQ(loops_of(16, 64, 64), 0);
    EXPECT_EQ(loops_of(0, 1024, 1024), 0);
}

TEST(Linear, ANaNReachesItsRowOrColumnOnly) {
    Random random;
    SCOPED_TRACE(random.describe());
    Tensor<float, 2> x({20, 30}, random.normals<float>(600));
    Tensor<float, 2> weight({25, 30}, random.normals<float>(750)), y({20, 25});
    x(7, 11) = NAN;
    weight(13, 3) = NAN;
    linear(x, weight, {}, y.view());
    for (Index r = 0; r < 20; ++r)
        for (Index c = 0; c < 25; ++c)
            ASSERT_EQ(std::isnan(y(r, c)), r == 7 || c == 13) << r << ", " << c;
}

// 4096 * 15 = 61,440 fits into a half; a half that adds 15 at a time stops at 16,384, where its
// numbers are 16 apart and ties go back.
TEST(Museum, B7_70_HalvesAreSummedInFloat) {
    constexpr Index n = 4096;
    Tensor<half, 2> x({1, n}), weight({1, n}), y({1, 1});
    heed::fill(x.view(), half(1.0F));
    heed::fill(weight.view(), half(15.0F));
    linear(x, weight, {}, y.view());
    EXPECT_EQ(static_cast<float>(y(0, 0)), 61440.0F);
    half naive(0.0F);
    for (Index i = 0; i < n; ++i) naive += x(0, i) * weight(0, i);
    EXPECT_NE(static_cast<float>(naive), 61440.0F);
}

// Museum B8 74: an output that lies on an input gives an error, never a wrong answer.
TEST(Museum, B8_74_OverlapIsRefused) {
    std::vector<float> memory(64, 7.0F);
    const TensorView<float, 2> x(memory.data(), {4, 4});
    const TensorView<float, 2> weight(memory.data() + 16, {4, 4});
    const TensorView<float, 1> bias(memory.data() + 32, {4});
    const auto y_at = [&](Index offset) {
        return TensorView<float, 2>(memory.data() + offset, {4, 4});
    };
    EXPECT_EQ(error_text<ShapeError>([&] { linear(x, weight, bias, y_at(0)); }),
              "[linear] the output must not overlap an input or another output; found overlapping "
              "memory");
    for (Index offset = 0; offset < 36; ++offset)
        EXPECT_THROW(linear(x, weight, bias, y_at(offset)), ShapeError) << offset;
    EXPECT_THAT(memory, Each(7.0F));
    EXPECT_NO_THROW(linear(x, weight, bias, y_at(36)));
    // Interleaved with the input, without a common element.
    std::vector<float> rows(32, 1.0F);
    const TensorView<float, 2> left(rows.data(), {4, 4}, {8, 1}),
        right(rows.data() + 4, {4, 4}, {8, 1});
    EXPECT_NO_THROW(linear(left, weight, {}, right));
    EXPECT_EQ(rows[4], 28.0F);
    EXPECT_EQ(rows[0], 1.0F);
}

TEST(LinearErrors, SizesThatDoNotFitAreRefusedBeforeAnythingIsWritten) {
    const Tensor<float, 2> x({2, 3}), weight({4, 3}), narrow({4, 2});
    const Tensor<float, 1> bias(4), short_bias(3);
    Tensor<float, 2> y({2, 4}), turned({4, 2});
    heed::fill(y.view(), 7.0F);
    heed::fill(turned.view(), 7.0F);
    EXPECT_EQ(error_text<ShapeError>([&] { linear(x, narrow, bias, y.view()); }),
              "[linear] the input's last dimension must be the weight's; found input [2, 3], "
              "weight [4, 2]");
    EXPECT_EQ(error_text<ShapeError>([&] { linear(x, weight, bias, turned.view()); }),
              "[linear] the output must have shape [2, 4]; found [4, 2]");
    EXPECT_EQ(error_text<ShapeError>([&] { linear(x, weight, short_bias, y.view()); }),
              "[linear] the bias must have shape [4]; found [3]");
    EXPECT_THAT(y.values(), Each(7.0F));
    EXPECT_THAT(turned.values(), Each(7.0F));
}

TEST(LinearErrors, NullAndSharedOutputsAreRefusedBeforeAnythingIsWritten) {
    const Tensor<float, 2> x({2, 3}), weight({4, 3});
    Tensor<float, 2> y({2, 4});
    heed::fill(y.view(), 7.0F);
    const TensorView<const float, 2> null_x(nullptr, {2, 3}), null_weight(nullptr, {4, 3});
    EXPECT_EQ(error_text<heed::ArgumentError>([&] { linear(null_x, weight, {}, y.view()); }),
              "[linear] the input must point at memory; found null with shape [2, 3]");
    EXPECT_EQ(error_text<heed::ArgumentError>([&] { linear(x, null_weight, {}, y.view()); }),
              "[linear] the weight must point at memory; found null with shape [4, 3]");
    EXPECT_EQ(error_text<heed::ArgumentError>(
                  [&] { linear(x, weight, TensorView<const float, 1>(nullptr, {4}), y.view()); }),
              "[linear] the bias must point at memory; found null with shape [4]");
    EXPECT_EQ(error_text<heed::ArgumentError>([&] {
                  linear(x, weight, {}, TensorView<float, 2>(nullptr, {2, 4}));
              }),
              "[linear] the output must point at memory; found null with shape [2, 4]");
    EXPECT_EQ(error_text<ShapeError>([&] {
                  linear(x, weight, {}, TensorView<float, 2>(y.data(), {2, 4}, {0, 1}));
              }),
              "[linear] the output must have a place for each element; found shape [2, 4], strides "
              "[0, 1]");
    EXPECT_THAT(y.values(), Each(7.0F));
}

TEST(LinearErrors, RowsThatAreNotContiguousAreRefusedBeforeAnythingIsWritten) {
    Tensor<float, 2> x({3, 3}), weight({3, 3}), y({3, 3});
    heed::fill(y.view(), 7.0F);
    const auto turn = [](auto& tensor) { return tensor.view().transpose(0, 1); };
    EXPECT_EQ(error_text<ShapeError>([&] { linear(turn(x), weight, {}, y.view()); }),
              "[linear] the input must have a contiguous last dimension; found strides [1, 3]");
    EXPECT_EQ(error_text<ShapeError>([&] { linear(x, turn(weight), {}, y.view()); }),
              "[linear] the weight must have a contiguous last dimension; found strides [1, 3]");
    EXPECT_EQ(error_text<ShapeError>([&] { linear(x, weight, {}, turn(y)); }),
              "[linear] the output must have a contiguous last dimension; found strides [1, 3]");
    EXPECT_THAT(y.values(), Each(7.0F));
}

}  // namespace
