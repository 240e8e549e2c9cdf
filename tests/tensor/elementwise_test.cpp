// Copy, fill, add and compare over any strides; order of visits; what counts as a tensor.

#include "heed/tensor/elementwise.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "heed/tensor/tensor.hpp"
#include "support/allocation_counter.hpp"
#include "support/random.hpp"
#include "tensor/errors.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::all_close;
using heed::bfloat16;
using heed::half;
using heed::Index;
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

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

TEST(TensorLike, IsATensorOrAView) {
    static_assert(heed::TensorLike<Tensor<float, 2>>);
    static_assert(heed::TensorLike<const Tensor<float, 2>&>);
    static_assert(heed::TensorLike<TensorView<float, 2>>);
    static_assert(heed::TensorLike<const TensorView<const half, 3>>);
    static_assert(heed::TensorLike<Tensor<bool, 1>>);
    static_assert(!heed::TensorLike<float>);
    static_assert(!heed::TensorLike<std::vector<float>>);
    static_assert(!heed::TensorLike<Eigen::MatrixXf>);
    static_assert(!heed::TensorLike<Shape<2>>);
    static_assert(std::is_same_v<heed::ElementOf<TensorView<const float, 2>>, float>);
    static_assert(std::is_same_v<heed::ElementOf<const Tensor<double, 2>&>, double>);
}

TEST(Read, GivesAReadOnlyViewOfTheSameElements) {
    Tensor<float, 2> tensor({2, 2});
    const auto view = heed::read(tensor);
    static_assert(std::is_same_v<decltype(view), const TensorView<const float, 2>>);
    EXPECT_EQ(view.data(), tensor.data());
    EXPECT_EQ(heed::read(view).strides(), view.strides());
}

TEST(ForEachElement, VisitsInRowMajorOrderWhateverTheStrides) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 50; ++trial) {
        const Strided<float, 4> owner(random, support::random_shape<4>(random, 0, 4));
        std::vector<const float*> expected, visited;
        support::for_each_position(owner.view().shape(), [&](const auto& at) {
            expected.push_back(support::address(owner.view(), at));
        });
        heed::detail::for_each_element([&](const float& x) { visited.push_back(&x); },
                                       owner.const_view());
        ASSERT_EQ(visited, expected);
    }
}

TEST(Copy, AnyStridesToAnyStrides) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 100; ++trial) {
        const auto shape = support::random_shape<3>(random, 0, 5);
        const Strided<float, 3> source(random, shape), target(random, shape, -1.0F);
        source.assign(random.normals<float>(static_cast<std::size_t>(shape.element_count())));
        heed::copy(source.const_view(), target.view());
        ASSERT_EQ(elements(target.view()), elements(source.view()));
        ASSERT_TRUE(target.gaps_untouched());
        ASSERT_TRUE(source.gaps_untouched());
    }
}

// Museum B3 32: strides of every kind give the same bits as the packed copy.
TEST(Museum, B3_32_StridesAreHonoured) {
    // B = 1, L = 2, H = 2, D = 2 as BLHD; seen as BHLD each head is every second pair.
    Tensor<float, 4> blhd({1, 2, 2, 2}, {0, 1, 10, 11, 20, 21, 30, 31});
    Tensor<float, 4> bhld({1, 2, 2, 2});
    heed::copy(blhd.view().transpose(1, 2), bhld.view());
    EXPECT_THAT(bhld.values(), ElementsAre(0, 1, 20, 21, 10, 11, 30, 31));
    heed::copy(blhd.view().transpose(2, 3), bhld.view());
    EXPECT_THAT(bhld.values(), ElementsAre(0, 10, 1, 11, 20, 30, 21, 31));
    const TensorView<const float, 2> backwards(blhd.data() + 7, {2, 4}, {-4, -1});
    const TensorView<const float, 2> repeated(blhd.data() + 6, {3, 2}, {0, 1});
    EXPECT_THAT((Tensor<float, 2>(backwards).values()), ElementsAre(31, 30, 21, 20, 11, 10, 1, 0));
    EXPECT_THAT((Tensor<float, 2>(repeated).values()), ElementsAre(30, 31, 30, 31, 30, 31));
}

TEST(Copy, ConvertsAndRoundsOnce) {
    const Tensor<double, 1> source({4}, {1.0 + 0x1p-11 + 0x1p-40, 1e300, -1e-300, nan_value});
    Tensor<half, 1> halves(4);
    Tensor<float, 1> floats(4);
    Tensor<bfloat16, 1> brain(4);
    heed::copy(source.view(), halves.view());
    heed::copy(source.view(), floats.view());
    heed::copy(source.view(), brain.view());
    EXPECT_EQ(static_cast<float>(halves(0)), 1.0F + 0x1p-10F);
    EXPECT_EQ(static_cast<float>(halves(1)), INFINITY);
    EXPECT_TRUE(std::signbit(static_cast<float>(halves(2))));
    EXPECT_TRUE(std::isnan(static_cast<float>(halves(3))));
    EXPECT_EQ(floats(0), 1.0F + 0x1p-11F);
    EXPECT_EQ(floats(1), INFINITY);
    EXPECT_TRUE(std::isnan(floats(3)));
    EXPECT_EQ(static_cast<float>(brain(0)), 1.0F);
    const Tensor<bool, 1> flags({2}, {true, false});
    Tensor<float, 1> of_flags(2);
    heed::copy(flags.view(), of_flags.view());
    EXPECT_THAT(of_flags.values(), ElementsAre(1, 0));
    Tensor<std::int64_t, 1> integers(2);
    heed::copy(of_flags.view(), integers.view());
    EXPECT_THAT(integers.values(), ElementsAre(1, 0));
}

TEST(Copy, OtherShapesAreRefusedBeforeAnythingIsWritten) {
    const Tensor<float, 2> source({2, 3}, {1, 2, 3, 4, 5, 6});
    Tensor<float, 2> target({3, 2}, {9, 9, 9, 9, 9, 9});
    EXPECT_EQ(error_text<ShapeError>([&] { heed::copy(source.view(), target.view()); }),
              "[copy] the target must have shape [2, 3]; found [3, 2]");
    EXPECT_THAT(target.values(), Each(9.0F));
}

TEST(Fill, WritesEveryElementAndNothingElse) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 50; ++trial) {
        const Strided<half, 3> owner(random, support::random_shape<3>(random, 0, 4));
        heed::fill(owner.view(), half(2.5F));
        ASSERT_THAT(elements(owner.view()), Each(half(2.5F)));
        ASSERT_TRUE(owner.gaps_untouched());
    }
    Tensor<bool, 2> flags({2, 2});
    heed::fill(flags.view(), true);
    EXPECT_THAT(flags.values(), Each(true));
}

TEST(Add, AddsAndRefusesOtherShapes) {
    Random random;
    SCOPED_TRACE(random.describe());
    const auto shape = support::random_shape<3>(random, 1, 5);
    const auto count = static_cast<std::size_t>(shape.element_count());
    const Strided<float, 3> source(random, shape), target(random, shape);
    const auto a = random.normals<float>(count), b = random.normals<float>(count);
    source.assign(a);
    target.assign(b);
    heed::add(source.view(), target.view());
    const auto sum = elements(target.view());
    for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(sum[i], b[i] + a[i]);
    EXPECT_EQ(elements(source.view()), a);
    EXPECT_TRUE(target.gaps_untouched());

    const Tensor<float, 2> x({2, 3});
    Tensor<float, 2> y({3, 2}, {9, 9, 9, 9, 9, 9});
    EXPECT_EQ(error_text<ShapeError>([&] { heed::add(x, y.view()); }),
              "[add] the target must have shape [2, 3]; found [3, 2]");
    EXPECT_THAT(y.values(), Each(9.0F));
}

bool close(double a, double b, double rtol = 0.0, double atol = 0.0) {
    return all_close(Tensor<double, 1>({1}, {a}), Tensor<double, 1>({1}, {b}), rtol, atol);
}

TEST(AllClose, IsNumPysRule) {
    EXPECT_TRUE(close(1.0, 1.0));
    EXPECT_FALSE(close(1.0, std::nextafter(1.0, 2.0)));
    // |10 - 8| = 2 = atol + rtol * |8| at the bound, exactly.
    EXPECT_TRUE(close(10.0, 8.0, 0.25, 0.0));
    EXPECT_TRUE(close(10.0, 8.0, 0.125, 1.0));
    EXPECT_FALSE(close(10.0, 8.0, 0.125, 0.5));
    // The relative part is of the second argument: 2 <= 0.2 * 10, but not 0.2 * 8.
    EXPECT_TRUE(close(8.0, 10.0, 0.2, 0.0));
    EXPECT_FALSE(close(10.0, 8.0, 0.2, 0.0));
    EXPECT_TRUE(close(-8.0, -10.0, 0.2, 0.0));
    EXPECT_FALSE(close(8.0, -8.0, 1.0, 0.0));
    EXPECT_TRUE(close(0.0, -0.0));
}

TEST(AllClose, SpecialValues) {
    constexpr double anything = 1e300;
    EXPECT_TRUE(close(infinity, infinity));
    EXPECT_TRUE(close(-infinity, -infinity));
    EXPECT_FALSE(close(infinity, -infinity, anything, anything));
    EXPECT_FALSE(close(infinity, 1.0, anything, anything));
    EXPECT_FALSE(close(1.0, infinity, anything, anything));
    EXPECT_FALSE(close(nan_value, nan_value, anything, anything));
    EXPECT_FALSE(close(nan_value, 1.0, anything, anything));
    EXPECT_FALSE(close(1.0, nan_value, anything, anything));
}

// One bad element anywhere is found, whatever comes after it.
TEST(AllClose, FindsABadElementAtEveryPosition) {
    Random random;
    SCOPED_TRACE(random.describe());
    const Shape<3> shape(2, 3, 4);
    const auto values = random.normals<float>(24);
    const Strided<float, 3> a(random, shape), b(random, shape);
    for (std::size_t bad = 0; bad < 24; ++bad) {
        a.assign(values);
        b.assign(values);
        ASSERT_TRUE(all_close(a.view(), b.view()));
        auto changed = values;
        changed[bad] += 1.0F;
        b.assign(changed);
        ASSERT_FALSE(all_close(a.view(), b.view())) << bad;
        changed[bad] = NAN;
        b.assign(changed);
        ASSERT_FALSE(all_close(a.view(), b.view())) << bad;
    }
}

TEST(AllClose, MixedTypesEmptyTensorsAndOtherShapes) {
    EXPECT_TRUE(all_close(Tensor<half, 1>({1}, {half(0.5F)}), Tensor<double, 1>({1}, {0.5})));
    EXPECT_TRUE(all_close(Tensor<float, 2>({0, 3}), Tensor<float, 2>({0, 3})));
    EXPECT_EQ(error_text<ShapeError>([] {
                  (void)all_close(Tensor<float, 2>({2, 3}), Tensor<float, 2>({3, 2}));
              }),
              "[all_close] the second tensor must have shape [2, 3]; found [3, 2]");
}

TEST(Elementwise, AllocatesNothing) {
    Tensor<float, 3> a({3, 4, 5}), b({3, 4, 5});
    const support::AllocationCounter allocations;
    heed::copy(a.view(), b.view());
    heed::fill(b.view(), 1.0F);
    heed::add(a.view(), b.view());
    (void)all_close(a, b);
    EXPECT_EQ(allocations.count(), 0U);
}

}  // namespace
