// A small tensor seen as a larger one: NumPy's rule, element by element, and what it refuses.

#include "heed/tensor/broadcast.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "heed/tensor/tensor.hpp"
#include "support/random.hpp"
#include "tensor/errors.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::broadcast_to;
using heed::Index;
using heed::Shape;
using heed::ShapeError;
using heed::Strides;
using heed::Tensor;
using heed::TensorView;
using support::error_text;
using support::Random;
using support::Strided;
using ::testing::ElementsAre;

TEST(Broadcast, ByHand) {
    // A column of 2 over 3 columns, and a row of 3 over 2 rows.
    Tensor<float, 2> column({2, 1}, {1, 2});
    Tensor<float, 1> row({3}, {4, 5, 6});
    EXPECT_THAT(support::elements(broadcast_to(column.view(), Shape<2>(2, 3))),
                ElementsAre(1, 1, 1, 2, 2, 2));
    EXPECT_THAT(support::elements(broadcast_to(row.view(), Shape<2>(2, 3))),
                ElementsAre(4, 5, 6, 4, 5, 6));
    EXPECT_EQ(broadcast_to(column.view(), Shape<2>(2, 3)).strides(), (Strides<2>{1, 0}));
    EXPECT_EQ(broadcast_to(row.view(), Shape<2>(2, 3)).strides(), (Strides<2>{0, 1}));
}

// All 16 subsets of (B, H, Lq, Lk) with extent 1, from random strided memory.
TEST(Broadcast, AllSixteenMaskShapes) {
    Random random;
    SCOPED_TRACE(random.describe());
    const Shape<4> target(2, 3, 4, 5);
    for (unsigned ones = 0; ones < 16; ++ones) {
        const auto extent = [&](int d) { return (ones >> d & 1U) != 0 ? Index{1} : target[d]; };
        const Shape<4> shape(extent(0), extent(1), extent(2), extent(3));
        const Strided<float, 4> owner(random, shape);
        const auto wide = broadcast_to(owner.view(), target);
        ASSERT_EQ(wide.shape(), target);
        support::for_each_position(target, [&](const support::Position<4>& at) {
            support::Position<4> source = at;
            for (int d = 0; d < 4; ++d)
                if (shape[d] == 1) source[static_cast<std::size_t>(d)] = 0;
            ASSERT_EQ(support::address(wide, at), support::address(owner.view(), source));
        });
    }
}

TEST(Broadcast, MissingDimensionsAreLeadingOnes) {
    Random random;
    SCOPED_TRACE(random.describe());
    const Strided<float, 2> owner(random, Shape<2>(3, 4));
    const auto wide = broadcast_to(owner.view(), Shape<4>(5, 2, 3, 4));
    support::for_each_position(wide.shape(), [&](const support::Position<4>& at) {
        ASSERT_EQ(support::address(wide, at), support::address(owner.view(), {at[2], at[3]}));
    });
    static_assert(std::is_same_v<decltype(wide), const TensorView<float, 4>>);
}

TEST(Broadcast, ZeroExtents) {
    EXPECT_EQ(broadcast_to(Tensor<float, 2>({0, 3}).view(), Shape<2>(0, 3)).shape(),
              Shape<2>(0, 3));
    float one = 1;
    EXPECT_TRUE(broadcast_to(TensorView<float, 1>(&one, {1}), Shape<2>(4, 0)).empty());
    EXPECT_TRUE(broadcast_to(Tensor<float, 1>(0).view(), Shape<2>(4, 0)).empty());
    // Nothing cannot be repeated.
    EXPECT_THROW((void)broadcast_to(Tensor<float, 1>(0).view(), Shape<1>(1)), ShapeError);
    EXPECT_THROW((void)broadcast_to(Tensor<float, 1>(0).view(), Shape<1>(3)), ShapeError);
}

TEST(Broadcast, WhatFitsNeitherWayIsRefused) {
    Tensor<float, 2> tensor({2, 3});
    EXPECT_EQ(error_text<ShapeError>([&] { (void)broadcast_to(tensor.view(), Shape<3>(4, 2, 5)); }),
              "[broadcast_to] the tensor must broadcast to [4, 2, 5]; found [2, 3]");
    EXPECT_EQ(error_text<ShapeError>(
                  [&] { (void)broadcast_to(tensor.view(), Shape<2>(1, 3), "attend", "the mask"); }),
              "[attend] the mask must broadcast to [1, 3]; found [2, 3]");
    // Shapes are aligned at the end, not at the beginning.
    EXPECT_THROW((void)broadcast_to(tensor.view(), Shape<3>(2, 3, 1)), ShapeError);
    EXPECT_THROW((void)broadcast_to(tensor.view(), Shape<2>(3, 2)), ShapeError);
    EXPECT_THROW((void)broadcast_to(tensor.view(), Shape<2>(4, 6)), ShapeError);
    EXPECT_THROW(
        (void)broadcast_to(Tensor<float, 1>(1).view(), Shape<2>(Index{1} << 32, Index{1} << 32)),
        ShapeError);
}

}  // namespace
