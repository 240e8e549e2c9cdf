#include "heed/tensor/row_list.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "heed/tensor/tensor.hpp"
#include "support/random.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::Index;
using heed::Shape;
using heed::Tensor;
using heed::TensorView;
using heed::detail::CommonRows;
using heed::detail::for_each_row_list;
using heed::detail::RowBlocks;
using heed::detail::RowList;
using support::Random;
using support::Strided;

TEST(RowList, ADenseTensorIsOneMatrix) {
    Tensor<float, 3> x({2, 3, 4});
    const RowList<float> rows(x.view());
    EXPECT_EQ(rows.count(), 6);
    EXPECT_EQ(rows.rows_of_matrix(), 6);
    EXPECT_EQ(rows.row_stride(), 4);
    EXPECT_EQ(rows.columns(), 4);
    EXPECT_TRUE(rows.has_contiguous_rows());
    EXPECT_EQ(rows.first_of(5), x.data() + 20);
}

TEST(RowList, APartOfATensorIsAMatrixForEachFirstIndex) {
    Tensor<float, 3> x({2, 3, 4});
    const RowList<float> rows(x.view().slice(1, 1, 2));
    EXPECT_EQ(rows.count(), 4);
    EXPECT_EQ(rows.rows_of_matrix(), 2);
    EXPECT_EQ(rows.first_of(1), x.data() + 8);
    EXPECT_EQ(rows.first_of(2), x.data() + 16);
    const auto block = rows.block(2, 2);
    EXPECT_EQ(block.row(1), x.data() + 20);
}

TEST(RowList, OneRowOfEachMatrixIsOneMatrix) {
    Tensor<float, 3> x({3, 5, 4});
    const RowList<float> rows(x.view().slice(1, 2, 1));
    EXPECT_EQ(rows.rows_of_matrix(), 3);
    EXPECT_EQ(rows.row_stride(), 20);
    EXPECT_EQ(rows.first_of(2), x.data() + 48);
}

TEST(RowList, AbsentAndEmpty) {
    EXPECT_TRUE(RowList<float>().is_absent());
    EXPECT_EQ(RowList<float>().count(), 0);
    EXPECT_EQ(RowList<float>(Tensor<float, 3>({0, 3, 2}).view()).count(), 0);
    EXPECT_EQ(RowList<float>(Tensor<float, 3>({3, 0, 2}).view()).count(), 0);
    const CommonRows none{RowList<float>()};
    EXPECT_EQ(RowBlocks(none, 64).count(), 0);
}

TEST(RowList, HasTheElementsOfTheView) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 100; ++trial) {
        const auto shape = support::random_shape<3>(random, 1, 5);
        const Strided<float, 3> x(random, shape);
        x.assign(random.normals<float>(static_cast<std::size_t>(shape.element_count())));
        const RowList<float> rows(x.view());
        ASSERT_EQ(rows.count(), shape[0] * shape[1]);
        for (Index i = 0; i < rows.count(); ++i)
            for (Index c = 0; c < shape[2]; ++c)
                ASSERT_EQ(&rows[i](c), &x.view()(i / shape[1], i % shape[1], c));
    }
}

// Whatever the strides of the tensors are, blocks cover each row once and lie in one matrix of
// each.
TEST(RowBlocks, CoverAllRowsOnce) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 300; ++trial) {
        const Index batch = random.integer(1, 5), length = random.integer(1, 150);
        Tensor<float, 3> dense({batch, length, 2}), longer({batch, length + 1, 2});
        const RowList<float> a(dense.view()),
            b(random.chance(0.5) ? longer.view().slice(1, 0, length) : dense.view());
        const Index most = 8 * random.integer(1, 10);
        const CommonRows common(a, b, RowList<float>());
        const RowBlocks blocks(common, most);
        Index next = 0;
        for (Index block = 0; block < blocks.count(); ++block) {
            ASSERT_EQ(blocks.begin(block), next);
            const Index size = blocks.size(block);
            ASSERT_GE(size, 1);
            ASSERT_LE(size, most);
            for (Index i = 0; i < size; ++i) {
                ASSERT_EQ(a.block(next, size).row(i), a.first_of(next + i));
                ASSERT_EQ(b.block(next, size).row(i), b.first_of(next + i));
            }
            next += size;
        }
        ASSERT_EQ(next, batch * length);
    }
}

TEST(RowLists, OfFourDimensionsAreWalked) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 50; ++trial) {
        const auto shape = support::random_shape<4>(random, 1, 4);
        const Strided<float, 4> x(random, shape), y(random, shape);
        std::vector<const float*> seen, expected;
        for_each_row_list(
            [&](RowList<float> from, RowList<float> to, RowList<float> absent) {
                EXPECT_TRUE(absent.is_absent());
                EXPECT_EQ(from.count(), to.count());
                for (Index i = 0; i < from.count(); ++i) seen.push_back(from.first_of(i));
            },
            x.view(), y.view(), TensorView<float, 4>());
        for (Index i = 0; i < shape[0]; ++i)
            for (Index j = 0; j < shape[1]; ++j)
                for (Index k = 0; k < shape[2]; ++k) expected.push_back(x.view().row(i, j, k));
        ASSERT_EQ(seen, expected);
    }
}

}  // namespace
