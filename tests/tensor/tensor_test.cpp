// Who owns the numbers: construction, copies, moves, alignment, and memory that there is not.

#include "heed/tensor/tensor.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/allocation_counter.hpp"
#include "support/random.hpp"
#include "tensor/errors.hpp"
#include "tensor/strided.hpp"

// Under a sanitizer, memory that there is not shall be an exception as elsewhere.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() {
    return "allocator_may_return_null=1";
}
extern "C" const char* __tsan_default_options();
extern "C" const char* __tsan_default_options() {
    return "allocator_may_return_null=1";
}

namespace {

using heed::bfloat16;
using heed::half;
using heed::Index;
using heed::Shape;
using heed::ShapeError;
using heed::Tensor;
using heed::TensorView;
using support::error_text;
using support::Random;
using support::Strided;
using ::testing::ElementsAre;

constexpr Index two_to(int power) {
    return Index{1} << power;
}

template <class T>
class TensorOf : public ::testing::Test {};
using ElementTypes = ::testing::Types<float, double, half, bfloat16, bool, std::int8_t,
                                      std::int64_t, std::uint8_t, std::byte>;
TYPED_TEST_SUITE(TensorOf, ElementTypes);

TYPED_TEST(TensorOf, BeginsAsZerosInMemoryThatHeldOtherThings) {
    constexpr std::size_t count = 1000;
    void* before = nullptr;
    bool reused = false;
    for (int attempt = 0; attempt < 20 && !reused; ++attempt) {
        {
            // Leave a pattern where the next tensor of this size is likely to be put.
            Tensor<TypeParam, 1> dirty(count);
            before = dirty.data();
            std::memset(before, 0x5a, count * sizeof(TypeParam));
        }
        const Tensor<TypeParam, 1> tensor(count);
        reused = tensor.data() == before;
        for (const TypeParam& element : tensor.values()) ASSERT_EQ(element, TypeParam(0));
    }
    SUCCEED() << (reused ? "memory was reused" : "memory was never reused");
}

TYPED_TEST(TensorOf, IsAlignedTo64Bytes) {
    for (Index count = 1; count < 200; ++count) {
        const Tensor<TypeParam, 1> tensor(count);
        ASSERT_EQ(reinterpret_cast<std::uintptr_t>(tensor.data()) % 64, 0U) << count;
    }
}

TYPED_TEST(TensorOf, CopiesAreIndependent) {
    Tensor<TypeParam, 2> original({2, 3});
    original(1, 2) = TypeParam(1);
    Tensor<TypeParam, 2> copy = original;
    EXPECT_NE(copy.data(), original.data());
    EXPECT_EQ(copy.shape(), original.shape());
    EXPECT_EQ(copy(1, 2), TypeParam(1));
    copy(1, 2) = TypeParam(0);
    EXPECT_EQ(original(1, 2), TypeParam(1));
}

TEST(Tensor, WithoutElements) {
    const Tensor<float, 3> none;
    EXPECT_EQ(none.shape(), Shape<3>(0, 0, 0));
    EXPECT_TRUE(none.empty());
    EXPECT_EQ(none.data(), nullptr);
    EXPECT_EQ(none.view().data(), nullptr);
    for (const Shape<3>& shape : {Shape<3>(0, 2, 3), Shape<3>(2, 0, 3), Shape<3>(2, 3, 0)}) {
        const Tensor<float, 3> tensor(shape);
        EXPECT_EQ(tensor.shape(), shape);
        EXPECT_EQ(tensor.element_count(), 0);
        EXPECT_TRUE(tensor.empty());
        EXPECT_TRUE(tensor.values().empty());
        EXPECT_EQ((Tensor<float, 3>(tensor).shape()), shape);
        EXPECT_EQ((Tensor<float, 3>(TensorView<const float, 3>(tensor)).shape()), shape);
    }
    EXPECT_EQ((Tensor<float, 1>({0}, {})).element_count(), 0);
}

TEST(Tensor, OfOneDimensionByItsExtentOrItsShape) {
    const Index six = 6;
    EXPECT_EQ((Tensor<float, 1>(6).shape()), Shape<1>(6));
    EXPECT_EQ((Tensor<float, 1>({six}).shape()), Shape<1>(6));
    EXPECT_EQ((Tensor<float, 1>({2}, {1, 2}).shape()), Shape<1>(2));
    EXPECT_THROW((Tensor<float, 1>(-1)), heed::ShapeError);
}

TEST(Tensor, OfLiteralValues) {
    // 1 2
    // 3 4
    const Tensor<float, 2> tensor({2, 2}, {1, 2, 3, 4});
    EXPECT_EQ(tensor(0, 1), 2.0F);
    EXPECT_EQ(tensor(1, 0), 3.0F);
    const Tensor<bool, 2> flags({2, 2}, {true, false, false, true});
    EXPECT_TRUE(flags(0, 0) && flags(1, 1));
    EXPECT_FALSE(flags(0, 1) || flags(1, 0));
    static_assert(sizeof(flags.data()[0]) == 1, "one byte each, not packed as in vector<bool>");
    EXPECT_EQ((Tensor<half, 1>({1}, {half(0.5F)})(0)), half(0.5F));
}

TEST(Tensor, OfValues) {
    const std::vector<double> values{1, 2, 3, 4, 5, 6};
    const Tensor<double, 2> tensor({3, 2}, values);
    EXPECT_EQ(tensor(2, 0), 5.0);
    EXPECT_NE(tensor.data(), values.data());
    EXPECT_THAT(tensor.values(), ElementsAre(1, 2, 3, 4, 5, 6));
}

TEST(Tensor, OfTheWrongNumberOfValuesIsRefused) {
    EXPECT_EQ(error_text<ShapeError>([] {
                  Tensor<float, 2>({2, 2}, {1, 2, 3});
              }),
              "[TensorView] shape [2, 2] needs 4 elements; found 3");
    EXPECT_THROW((Tensor<float, 2>({2, 2}, {1, 2, 3, 4, 5})), ShapeError);
    EXPECT_THROW((Tensor<float, 2>({2, 2}, std::vector<float>())), ShapeError);
    EXPECT_THROW((Tensor<float, 2>({two_to(32), two_to(32)}, std::vector<float>())), ShapeError);
}

TEST(Tensor, OfAnyViewIsADenseCopy) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 50; ++trial) {
        const auto shape = support::random_shape<3>(random, 0, 5);
        const Strided<float, 3> owner(random, shape);
        owner.assign(random.normals<float>(static_cast<std::size_t>(shape.element_count())));
        const Tensor<float, 3> tensor(owner.const_view());
        ASSERT_TRUE(tensor.view().is_contiguous());
        ASSERT_EQ(tensor.shape(), shape);
        ASSERT_EQ(std::vector<float>(tensor.values().begin(), tensor.values().end()),
                  support::elements(owner.view()));
    }
}

TEST(Tensor, OfAnEigenMatrix) {
    Eigen::MatrixXf matrix(2, 3);
    matrix << 1, 2, 3, 4, 5, 6;
    const Tensor<float, 2> tensor{TensorView<const float, 2>(matrix)};
    EXPECT_THAT(tensor.values(), ElementsAre(1, 2, 3, 4, 5, 6));
    // And back: the map is the tensor's own memory.
    Tensor<float, 2> target({2, 3});
    target.matrix() = 2.0F * matrix;
    EXPECT_THAT(target.values(), ElementsAre(2, 4, 6, 8, 10, 12));
    EXPECT_EQ(target.matrix().data(), target.data());
    Tensor<float, 4> deep({2, 2, 2, 2});
    EXPECT_EQ(deep.matrix(1, 0).data(), deep.data() + 8);
    EXPECT_EQ(std::as_const(deep).matrix(1, 1).data(), deep.data() + 12);
}

TEST(Tensor, ConstnessReachesTheElements) {
    using T = Tensor<float, 2>;
    static_assert(std::is_convertible_v<T&, TensorView<float, 2>>);
    static_assert(std::is_convertible_v<T&, TensorView<const float, 2>>);
    static_assert(std::is_convertible_v<const T&, TensorView<const float, 2>>);
    static_assert(!std::is_convertible_v<const T&, TensorView<float, 2>>);
    static_assert(!std::is_constructible_v<TensorView<float, 2>, const T&>);
    static_assert(!std::is_convertible_v<T&, TensorView<float, 3>>);
    static_assert(!std::is_convertible_v<T&, TensorView<const double, 2>>);
    static_assert(!std::is_assignable_v<decltype(std::declval<const T&>()(0, 0)), float>);
    static_assert(!std::is_assignable_v<decltype(std::declval<const T&>().matrix()(0, 0)), float>);
    static_assert(std::is_same_v<decltype(std::declval<const T&>().data()), const float*>);
    static_assert(
        std::is_same_v<decltype(std::declval<const T&>().values()), std::span<const float>>);
    static_assert(!std::is_convertible_v<TensorView<float, 2>, T>, "a copy must be asked for");
    static_assert(!std::is_convertible_v<Shape<2>, T>);
}

TEST(Tensor, MovesDoNotCopy) {
    static_assert(std::is_nothrow_move_constructible_v<Tensor<float, 2>>);
    static_assert(std::is_nothrow_move_assignable_v<Tensor<float, 2>>);
    Tensor<float, 2> source({2, 2}, {1, 2, 3, 4});
    const float* const elements = source.data();
    const support::AllocationCounter allocations;
    Tensor<float, 2> target = std::move(source);
    EXPECT_EQ(target.data(), elements);
    EXPECT_EQ(allocations.count(), 0U);
    EXPECT_EQ(target(1, 1), 4.0F);
}

TEST(Tensor, AMovedFromTensorCanBeAssignedAndDestroyed) {
    Tensor<float, 2> tensor({2, 2}, {1, 2, 3, 4});
    Tensor<float, 2> other = std::move(tensor);
    EXPECT_EQ(tensor.data(), nullptr);  // NOLINT(bugprone-use-after-move): that is the question
    EXPECT_TRUE(tensor.values().empty());
    tensor = Tensor<float, 2>({1, 3}, {7, 8, 9});
    EXPECT_EQ(tensor.shape(), Shape<2>(1, 3));
    EXPECT_THAT(tensor.values(), ElementsAre(7, 8, 9));
    other = std::move(tensor);
    tensor = other;
    EXPECT_THAT(tensor.values(), ElementsAre(7, 8, 9));
    EXPECT_NE(tensor.data(), other.data());
}

TEST(Tensor, SelfAssignmentKeepsTheElements) {
    Tensor<float, 1> tensor({3}, {1, 2, 3});
    Tensor<float, 1>& same = tensor;
    tensor = same;
    EXPECT_THAT(tensor.values(), ElementsAre(1, 2, 3));
    tensor = std::move(same);
    EXPECT_THAT(tensor.values(), ElementsAre(1, 2, 3));
}

TEST(Tensor, AllocatesOnceAndOnlyWhatIsNeeded) {
    const support::AllocationCounter allocations;
    const Tensor<float, 3> tensor({3, 5, 7});
    EXPECT_EQ(allocations.count(), 1U);
    EXPECT_EQ(allocations.bytes(), 3 * 5 * 7 * sizeof(float));
    const Tensor<float, 3> none({3, 0, 7});
    EXPECT_EQ(allocations.count(), 1U);
}

TEST(Tensor, TooManyElementsAreAShapeError) {
    EXPECT_EQ(error_text<ShapeError>([] {
                  Tensor<float, 2>({two_to(32), two_to(32)});
              }),
              "[Shape] a size must fit into 63 bits; found a product or sum beyond it");
    // The count fits into 63 bits, the bytes do not.
    EXPECT_EQ(error_text<ShapeError>([] { Tensor<double, 1>(two_to(61)); }),
              "[Tensor] a size must fit into 63 bits; found a product or sum beyond it");
    EXPECT_THROW((Tensor<half, 2>({two_to(31), two_to(31)})), ShapeError);
    EXPECT_THROW((Tensor<float, 2>({-1, 2})), ShapeError);
}

TEST(Tensor, MemoryThatThereIsNotIsBadAlloc) {
    Tensor<double, 1> tensor({3}, {1, 2, 3});
    EXPECT_THROW((Tensor<double, 1>(two_to(59))), std::bad_alloc);
    EXPECT_THROW((Tensor<bool, 1>(std::numeric_limits<Index>::max())), std::bad_alloc);
    // A view of one element that claims to be huge: its copy cannot be made, and the target of the
    // assignment stays as it was.
    const TensorView<const double, 1> huge(tensor.data(), {two_to(59)}, {0});
    EXPECT_THROW((tensor = Tensor<double, 1>(huge)), std::bad_alloc);
    EXPECT_THAT(tensor.values(), ElementsAre(1, 2, 3));
}

TEST(Tensor, ViewsReachTheSameElements) {
    Tensor<float, 2> tensor({2, 3});
    const TensorView<float, 2> view = tensor;
    view(1, 2) = 6.0F;
    EXPECT_EQ(tensor(1, 2), 6.0F);
    EXPECT_EQ(&tensor(1, 2), tensor.data() + 5);
    EXPECT_EQ(&std::as_const(tensor)(1, 2), &view(1, 2));
    EXPECT_EQ(tensor.extent(1), 3);
    EXPECT_EQ(tensor.values().data(), tensor.data());
    static_assert(Tensor<float, 2>::rank() == 2);
    static_assert(std::is_same_v<Tensor<float, 2>::element_type, float>);
}

}  // namespace
