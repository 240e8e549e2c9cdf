// Extents and strides: construction, products, row-major strides, and what is refused.

#include "heed/tensor/shape.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

#include "support/random.hpp"
#include "tensor/errors.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::Index;
using heed::row_major_strides;
using heed::Shape;
using heed::ShapeError;
using heed::Strides;
using support::error_text;

constexpr Index two_to(int power) {
    return Index{1} << power;
}
constexpr Index largest = std::numeric_limits<Index>::max();

TEST(Shape, IsBuiltFromAnyIntegers) {
    const int a = 2;
    const std::size_t b = 3;
    const std::int8_t c = 4;
    const Shape<3> shape(a, b, c);
    EXPECT_EQ(shape[0], 2);
    EXPECT_EQ(shape[1], 3);
    EXPECT_EQ(shape[2], 4);
    EXPECT_EQ(shape, (Shape<3>{2, 3L, 4U}));
    EXPECT_EQ(shape, Shape<3>(std::array<Index, 3>{2, 3, 4}));
    EXPECT_NE(shape, Shape<3>(2, 4, 3));
    EXPECT_EQ(Shape<2>(), Shape<2>(0, 0));
}

TEST(Shape, WhatIsNoShapeDoesNotCompile) {
    static_assert(!std::is_constructible_v<Shape<2>, int>);
    static_assert(!std::is_constructible_v<Shape<2>, int, int, int>);
    static_assert(!std::is_constructible_v<Shape<2>, double, int>);
    static_assert(!std::is_convertible_v<Shape<2>, Shape<3>>);
    static_assert(std::is_convertible_v<int, Shape<1>>);
}

TEST(Shape, SizeIsThatOfItsExtents) {
    static_assert(sizeof(Shape<4>) == 4 * sizeof(Index));
    static_assert(alignof(Shape<4>) <= alignof(std::max_align_t));
    static_assert(std::is_trivially_copyable_v<Shape<4>>);
}

TEST(Shape, NegativeOrHugeExtentsAreRefused) {
    EXPECT_EQ(error_text<ShapeError>([] { Shape<2>(3, -1); }),
              "[Shape] an extent must be 0 or more and fit into 63 bits; found -1");
    EXPECT_EQ(error_text<ShapeError>([] { (void)Shape<1>(~std::uint64_t{0}); }),
              "[Shape] an extent must be 0 or more and fit into 63 bits; found "
              "18446744073709551615");
    EXPECT_THROW(Shape<1>(std::uint64_t{1} << 63), ShapeError);
    EXPECT_THROW(Shape<1>(-largest - 1), ShapeError);
    EXPECT_THROW((Shape<2>(std::array<Index, 2>{-5, 1})), ShapeError);
    EXPECT_EQ(Shape<1>(largest)[0], largest);
}

TEST(Shape, With) {
    const Shape<3> shape(2, 3, 4);
    EXPECT_EQ(shape.with(1, 9), Shape<3>(2, 9, 4));
    EXPECT_EQ(shape, Shape<3>(2, 3, 4));
    EXPECT_THROW((void)shape.with(0, -1), ShapeError);
}

TEST(Shape, Text) {
    EXPECT_EQ(to_string(Shape<3>(2, 3, 4)), "[2, 3, 4]");
    EXPECT_EQ(to_string(Shape<1>(0)), "[0]");
}

TEST(Shape, ElementCount) {
    EXPECT_EQ(Shape<3>(2, 3, 4).element_count(), 24);
    EXPECT_EQ(Shape<3>(2, 0, 4).element_count(), 0);
    EXPECT_EQ(Shape<2>().element_count(), 0);
    EXPECT_EQ(Shape<1>(1).element_count(), 1);
    EXPECT_EQ(Shape<2>(two_to(31), two_to(31)).element_count(), two_to(62));
}

// Museum 79's shape: the plain product 2^32 * 2^32 is 0, and an empty tensor passes every check.
TEST(Museum, B9_79_ElementCountThatWrapsToZero) {
    EXPECT_EQ(
        error_text<ShapeError>([] { (void)Shape<2>(two_to(32), two_to(32)).element_count(); }),
        "[Shape] a size must fit into 63 bits; found a product or sum beyond it");
    EXPECT_THROW((void)Shape<2>(two_to(32), two_to(31)).element_count(), ShapeError);
    EXPECT_THROW((void)Shape<3>(3, largest / 2, 1).element_count(), ShapeError);
    EXPECT_THROW((void)Shape<4>(65536, 65536, 65536, 65536).element_count(), ShapeError);
}

TEST(Shape, AZeroAnywhereMakesTheCountZeroWhateverTheOrder) {
    EXPECT_EQ(Shape<3>(0, two_to(40), two_to(40)).element_count(), 0);
    EXPECT_EQ(Shape<3>(two_to(40), 0, two_to(40)).element_count(), 0);
    EXPECT_EQ(Shape<3>(two_to(40), two_to(40), 0).element_count(), 0);
}

TEST(RowMajorStrides, ByHand) {
    // Last: 1. Middle: 4 elements per row. First: 3 rows of 4.
    EXPECT_EQ(row_major_strides(Shape<3>(2, 3, 4)), (Strides<3>{12, 4, 1}));
    EXPECT_EQ(row_major_strides(Shape<1>(7)), (Strides<1>{1}));
    EXPECT_EQ(row_major_strides(Shape<2>(5, 1)), (Strides<2>{1, 1}));
    EXPECT_EQ(row_major_strides(Shape<4>(1, 1, 1, 1)), (Strides<4>{1, 1, 1, 1}));
}

TEST(RowMajorStrides, AnEmptyDimensionDoesNotZeroTheOthers) {
    EXPECT_EQ(row_major_strides(Shape<3>(2, 0, 4)), (Strides<3>{4, 4, 1}));
    EXPECT_EQ(row_major_strides(Shape<3>(2, 3, 0)), (Strides<3>{3, 1, 1}));
    EXPECT_EQ(row_major_strides(Shape<2>(0, 0)), (Strides<2>{1, 1}));
}

TEST(RowMajorStrides, BeyondThe63rdBitAreRefused) {
    EXPECT_EQ(row_major_strides(Shape<2>(1, two_to(62))), (Strides<2>{two_to(62), 1}));
    EXPECT_EQ(error_text<ShapeError>(
                  [] { (void)row_major_strides(Shape<3>(2, two_to(32), two_to(32))); }),
              "[row_major_strides] a size must fit into 63 bits; found a product or sum beyond it");
    EXPECT_THROW((void)row_major_strides(Shape<3>(0, two_to(32), two_to(32))), ShapeError);
}

TEST(RowMajorStrides, NumberTheElementsInOrder) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 50; ++trial) {
        const auto shape = support::random_shape<4>(random, 1, 5);
        const auto strides = row_major_strides(shape);
        Index n = 0;
        support::for_each_position(shape, [&](const auto& at) {
            Index offset = 0;
            for (std::size_t d = 0; d < 4; ++d) offset += at[d] * strides[d];
            ASSERT_EQ(offset, n++) << to_string(shape);
        });
        ASSERT_EQ(n, shape.element_count());
    }
}

TEST(RequireShape, SaysWhereWhatExpectedAndFound) {
    EXPECT_NO_THROW(heed::detail::require_shape("f", "the output", Shape<2>(2, 3), Shape<2>(2, 3)));
    EXPECT_EQ(error_text<ShapeError>([] {
                  heed::detail::require_shape("f", "the output", Shape<2>(2, 4), Shape<2>(2, 3));
              }),
              "[f] the output must have shape [2, 3]; found [2, 4]");
}

}  // namespace
