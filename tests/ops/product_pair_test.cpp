// Does a pair of products, block by block of rows, give the bits of the two apart, whatever its
// blocks and workers; and when does it take blocks?

#include "heed/ops/product_pair.hpp"

#include <gtest/gtest.h>

#include "heed/base/thread_pool.hpp"
#include "ops/matrices.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::Activation;
using heed::Index;
using heed::Tensor;
using heed::TensorView;
using heed::detail::PackedWeights;
using heed::detail::ProductFinish;
using heed::detail::ProductPair;
using heed::detail::ProductWeights;
using heed::detail::RowList;
using matrices::multiply;
using matrices::random_matrix;
using matrices::random_row;
using support::elements;
using support::Random;

template <class T>
class ProductPairOf : public ::testing::Test {
  protected:
    Random source;
};
using ComputeTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(ProductPairOf, ComputeTypes);

/// Random weights, packed or in place, and what they are views of.
template <class T>
struct Weights {
    Tensor<T, 2> matrix;
    Tensor<T, 1> bias;
    PackedWeights<T> packed;
    bool is_packed, has_bias;

    Weights(Random& random, Index out, Index in)
        : matrix(random_matrix<T>(random, out, in)),
          bias(random_row<T>(random, out)),
          is_packed(random.chance(0.7)),
          has_bias(random.chance(0.5)) {
        packed.pack(matrix);
    }
    [[nodiscard]] ProductWeights<T> use() const {
        const auto b = has_bias ? TensorView<const T, 1>(bias) : TensorView<const T, 1>();
        return is_packed ? ProductWeights<T>{{}, b, &packed} : ProductWeights<T>{matrix, b};
    }
};

template <class T>
RowList<const T> rows(const Tensor<T, 2>& of) {
    return RowList<const T>(of.view());
}

TYPED_TEST(ProductPairOf, GivesTheBitsOfTheProductsApart) {
    using T = TypeParam;
    Random& random = this->source;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 40; ++trial) {
        const Index count = random.integer(1, 200), in = random.integer(1, 70);
        const Index between = random.integer(1, 150), out = in;
        const int workers = static_cast<int>(random.integer(1, 3));
        const auto x = random_matrix<T>(random, count, in);
        const Weights<T> w1(random, between, in), gate(random, between, in),
            w2(random, out, between);
        ProductFinish<T> activate{.activation = Activation::gelu};
        if (random.chance(0.5) && gate.is_packed == w1.is_packed) activate.gate = gate.use();
        ProductFinish<T> add;
        if (random.chance(0.5)) add.residual = rows(x);

        const Tensor<T, 2> hidden = multiply<T>(x, w1.use(), activate);
        const Tensor<T, 2> expected = multiply<T>(hidden, w2.use(), add);

        const Index block = 8 * random.integer(1, 20);
        const bool in_place = random.chance(0.3);
        Tensor<T, 2> y = in_place ? x : Tensor<T, 2>({count, out});
        if (in_place && !add.residual.is_absent()) add.residual = rows(y);
        Tensor<T, 3> scratch({workers, block, between});
        const ProductPair<T> pair(in_place ? rows(y) : rows(x), {w1.use(), activate},
                                  scratch.view(), {w2.use(), add}, RowList<T>(y.view()));
        heed::ThreadPool pool(workers);
        pool.parallel_for(pair.count(), pair);
        const auto verdict = support::compare_bits(elements(y.view()), elements(expected.view()));
        ASSERT_TRUE(verdict) << verdict.message << " rows " << count << " in blocks of " << block
                             << ", " << in << " to " << between;
    }
}

TYPED_TEST(ProductPairOf, KnowsMatricesThatAreApart) {
    using T = TypeParam;
    Random& random = this->source;
    SCOPED_TRACE(random.describe());
    const Index length = 21, in = 24, between = 40;
    const Weights<T> w1(random, between, in), w2(random, in, between);
    const auto all = random_matrix<T>(random, 3 * (length + 2), in);
    const TensorView<const T, 3> x =
        all.view().split(0, 3).slice(1, 0, length);  // [3, length, in], apart
    Tensor<T, 3> dense(x.shape()), y(x.shape()), expected(x.shape());
    copy(x, dense.view());
    Tensor<T, 3> scratch({1, 16, between});
    const auto run = [&](TensorView<const T, 3> from, TensorView<T, 3> to) {
        const ProductPair<T> pair(RowList<const T>(from), {w1.use(), {}}, scratch.view(),
                                  {w2.use(), {}}, RowList<T>(to));
        for (Index i = 0; i < pair.count(); ++i) pair(i, 0);
    };
    run(x, y);
    run(dense, expected);
    EXPECT_TRUE(support::compare_bits(elements(y.view()), elements(expected.view())));
}

TEST(ProductPair, TakesBlocksWhereThereIsMoreThanIsNear) {
    const auto rows = [](Index count, Index between, int workers) {
        return ProductPair<float>::rows_of_block(count, between, workers);
    };
    EXPECT_EQ(rows(128, 1536, 1), 0) << "all is near";
    EXPECT_EQ(rows(4096, 1536, 1), 128);
    EXPECT_EQ(rows(4096, 4096, 1), 64) << "fewer would read the weights too often";
    EXPECT_EQ(rows(256, 1536, 2), 0) << "too few for two workers";
    EXPECT_EQ(rows(0, 1536, 1), 0);
    EXPECT_EQ(rows(4096, 0, 1), 128) << "a hidden layer of nothing";
}

TEST(ProductPair, BlocksAreAsManyForEachWorkerAndFit) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 300; ++trial) {
        const Index count = random.integer(1, 5000), between = random.integer(1, 5000);
        const int workers = static_cast<int>(random.integer(1, 8));
        const Index size = ProductPair<float>::rows_of_block(count, between, workers);
        if (size == 0) continue;
        EXPECT_EQ(size % 8, 0);
        EXPECT_LE(size, 128);
        if (workers > 1) {
            EXPECT_GE(heed::detail::pieces(count, size), 3 * workers);
        }
        EXPECT_TRUE(size <= 64 || size * between * 4 <= 768 * 1024 + 8 * between * 4);
    }
}

}  // namespace
