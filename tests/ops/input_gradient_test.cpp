// The gradient of a product on its way to the input: with packed weights as in place, in parts, row
// by row, whoever computes it.

#include "heed/ops/input_gradient.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "heed/base/thread_pool.hpp"
#include "ops/matrices.hpp"
#include "support/allocation_counter.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::Index;
using heed::Tensor;
using heed::TensorView;
using heed::detail::BackwardWeights;
using heed::detail::InputGradient;
using heed::detail::PackedWeights;
using heed::detail::RowList;
using matrices::random_matrix;
using support::elements;
using support::Random;

/// W, in place and packed in parts.
template <class T>
struct Weights {
    Tensor<T, 2> matrix;
    std::vector<PackedWeights<T>> parts;

    Weights(Random& random, std::vector<Index> outputs, Index in) {
        Index out = 0;
        for (const Index n : outputs) out += n;
        matrix = random_matrix<T>(random, out, in);
        Index first = 0;
        for (const Index n : outputs) {
            parts.emplace_back().pack(read(matrix).slice(0, first, n));
            first += n;
        }
    }
    [[nodiscard]] BackwardWeights<T> in_place() const { return {matrix}; }
    [[nodiscard]] BackwardWeights<T> packed() const { return {matrix, parts}; }
};

template <class T>
Tensor<T, 2> go_back(TensorView<const T, 2> dy, const BackwardWeights<T>& weights,
                     TensorView<const T, 2> residual = {}, int workers = 1) {
    Tensor<T, 2> dx({dy.extent(0), weights.matrix.extent(1)});
    fill(dx.view(), std::numeric_limits<T>::quiet_NaN());
    if (residual.data() != nullptr) copy(residual, dx.view());
    const RowList<T> to(dx.view());
    const InputGradient<T> gradient(RowList<const T>(dy), weights, to,
                                    residual.data() != nullptr ? to.to_read() : RowList<const T>(),
                                    workers);
    heed::ThreadPool pool(workers);
    pool.parallel_for(gradient.count(), gradient);
    return dx;
}

template <class T>
class InputGradientOf : public ::testing::Test {
  protected:
    Random source;

    void expect_same_bits(const std::vector<Index>& outputs, Index in, Index rows) {
        const Weights<T> w(source, outputs, in);
        const Index out = w.matrix.extent(0);
        const auto dy = random_matrix<T>(source, rows, out);
        const auto residual = random_matrix<T>(source, rows, in);
        const auto with = source.chance(0.5) ? read(residual) : TensorView<const T, 2>();
        const int workers = static_cast<int>(source.integer(1, 3));
        const auto expected = go_back<T>(dy, w.in_place(), with);
        const auto found = go_back<T>(dy, w.packed(), with, workers);
        const auto verdict =
            support::compare_bits(elements(found.view()), elements(expected.view()));
        ASSERT_TRUE(verdict) << verdict.message << " rows " << rows << " in " << in << " out "
                             << out << " workers " << workers;
    }
};
using ComputeTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(InputGradientOf, ComputeTypes);

TYPED_TEST(InputGradientOf, PackedWeightsGiveTheBitsOfWeightsInPlace) {
    Random& random = this->source;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 60; ++trial) {
        std::vector<Index> outputs(static_cast<std::size_t>(random.integer(1, 3)));
        for (Index& n : outputs) n = random.integer(1, 120);
        this->expect_same_bits(outputs, random.integer(1, 600), random.integer(1, 127));
    }
    // More rows read packed weights only where these are many.
    this->expect_same_bits({300, 200}, 450, 197);
}

TYPED_TEST(InputGradientOf, AgainstTheOracle) {
    using T = TypeParam;
    using Real = long double;
    Random& random = this->source;
    SCOPED_TRACE(random.describe());
    const Weights<T> w(random, {70, 33}, 290);
    const auto dy = random_matrix<T>(random, 21, 103), residual = random_matrix<T>(random, 21, 290);
    const auto found = go_back<T>(dy, w.packed(), residual, 2);
    for (Index r = 0; r < 21; ++r)
        for (Index k = 0; k < 290; ++k) {
            Real sum = static_cast<Real>(residual(r, k)), size = std::abs(sum);
            for (Index n = 0; n < 103; ++n) {
                const Real term = static_cast<Real>(dy(r, n)) * static_cast<Real>(w.matrix(n, k));
                sum += term;
                size += std::abs(term);
            }
            // Each of 103 fused steps and the last addition round a sum of at most `size`.
            const Real bound = 104 * size * std::numeric_limits<T>::epsilon() / 2;
            ASSERT_NEAR(static_cast<double>(found(r, k)), static_cast<double>(sum),
                        static_cast<double>(bound));
        }
}

TYPED_TEST(InputGradientOf, ARowHasItsBitsWhateverTheOthersAre) {
    using T = TypeParam;
    Random& random = this->source;
    SCOPED_TRACE(random.describe());
    const Weights<T> w(random, {90, 20, 100}, 300);
    const auto dy = random_matrix<T>(random, 100, 210);
    const auto all = go_back<T>(dy, w.packed(), {}, 2);
    for (const Index count : {Index{1}, Index{8}, Index{9}, Index{17}, Index{50}}) {
        const auto some = go_back<T>(dy.view().slice(0, 31, count), w.packed());
        ASSERT_EQ(elements(some.view()), elements(all.view().slice(0, 31, count)));
    }
    // What is wrong with one row is not wrong with its neighbours.
    Tensor<T, 2> poisoned = dy;
    fill(poisoned.view().select(0, 40), std::numeric_limits<T>::quiet_NaN());
    const auto with_poison = go_back<T>(poisoned, w.packed());
    for (Index i = 0; i < 100; ++i) {
        if (i == 40) continue;
        ASSERT_EQ(elements(with_poison.view().select(0, i)), elements(all.view().select(0, i)));
    }
}

TYPED_TEST(InputGradientOf, RowsOfABatchWithGaps) {
    using T = TypeParam;
    Random& random = this->source;
    SCOPED_TRACE(random.describe());
    const Weights<T> w(random, {30}, 70);
    Tensor<T, 3> dy({3, 25, 30}, random.normals<T>(3 * 25 * 30)), dx({3, 30, 70});
    const TensorView<T, 3> from = dy.view().slice(1, 2, 20), to = dx.view().slice(1, 5, 20);
    const InputGradient<T> gradient(RowList<const T>(read(from)), w.packed(), RowList<T>(to), {},
                                    1);
    for (Index piece = 0; piece < gradient.count(); ++piece) gradient(piece, 0);
    for (Index b = 0; b < 3; ++b) {
        ASSERT_EQ(elements(to.select(0, b)),
                  elements(go_back<T>(from.select(0, b), w.in_place()).view()));
        ASSERT_EQ(dx(b, Index{4}, Index{0}), T(0));
        ASSERT_EQ(dx(b, Index{25}, Index{0}), T(0));
    }
}

TYPED_TEST(InputGradientOf, AllocatesNothing) {
    using T = TypeParam;
    Random& random = this->source;
    const Weights<T> w(random, {100}, 40);
    const Tensor<T, 2> dy({70, 100});
    Tensor<T, 2> dx({70, 40});
    const support::AllocationCounter allocations;
    const InputGradient<T> gradient(RowList<const T>(read(dy)), w.packed(), RowList<T>(dx.view()),
                                    {}, 1);
    for (Index piece = 0; piece < gradient.count(); ++piece) gradient(piece, 0);
    EXPECT_EQ(allocations.count(), 0U);
}

}  // namespace
