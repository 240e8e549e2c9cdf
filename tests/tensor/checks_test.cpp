// May a view be read, may it be written? What the common checks let through and what they refuse.

#include "heed/tensor/checks.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "heed/tensor/broadcast.hpp"
#include "heed/tensor/tensor.hpp"
#include "tensor/errors.hpp"

namespace {

using heed::ArgumentError;
using heed::Shape;
using heed::ShapeError;
using heed::Tensor;
using heed::TensorView;
using heed::detail::is_wanted;
using heed::detail::require_contiguous_rows;
using heed::detail::require_memory;
using heed::detail::require_optional_output;
using heed::detail::require_output;
using heed::detail::require_same_or_apart;
using support::error_text;
using ::testing::Each;

TEST(Checks, Memory) {
    Tensor<float, 2> tensor({2, 3});
    require_memory("f", "the input", tensor.view());
    require_memory("f", "the input", TensorView<float, 2>());
    require_memory("f", "the input", TensorView<float, 2>(nullptr, {5, 0}));
    EXPECT_EQ(error_text<ArgumentError>([] {
                  require_memory("f", "the input", TensorView<float, 2>(nullptr, {2, 3}));
              }),
              "[f] the input must point at memory; found null with shape [2, 3]");
}

TEST(Checks, Output) {
    std::vector<float> memory(24, 7.0F);
    const TensorView<float, 2> y(memory.data(), {2, 3}), apart(memory.data() + 6, {2, 3});
    const Shape<2> shape(2, 3);
    require_output("f", "the output", y, shape);
    require_output("f", "the output", y, shape, apart, TensorView<float, 1>());
    require_output("f", "the output", TensorView<float, 2>(nullptr, {0, 3}), Shape<2>(0, 3));
    EXPECT_EQ(error_text<ShapeError>([&] {
                  require_output("f", "the output", y, {3, 2});
              }),
              "[f] the output must have shape [3, 2]; found [2, 3]");
    EXPECT_EQ(error_text<ArgumentError>([&] {
                  require_output("f", "the output", TensorView<float, 2>(nullptr, shape), shape);
              }),
              "[f] the output must point at memory; found null with shape [2, 3]");
    EXPECT_EQ(error_text<ShapeError>([&] {
                  const auto row = y.slice(0, 0, 1);
                  require_output("f", "the output", heed::broadcast_to(row, shape), shape);
              }),
              "[f] the output must have a place for each element; found shape [2, 3], strides [0, "
              "1]");
    const TensorView<float, 1> last(memory.data() + 5, {1});
    EXPECT_EQ(
        error_text<ShapeError>([&] { require_output("f", "the output", y, shape, apart, last); }),
        "[f] the output must not overlap an input or another output; found overlapping "
        "memory");
    EXPECT_THAT(memory, Each(7.0F));
}

TEST(Checks, SameOrApart) {
    std::vector<float> memory(24);
    const TensorView<float, 2> x(memory.data(), {2, 2});
    require_same_or_apart("f", x, x);
    require_same_or_apart("f", TensorView<const float, 2>(x), x);
    require_same_or_apart("f", x, TensorView<float, 2>(memory.data() + 4, {2, 2}));
    for (const auto& y : {x.transpose(0, 1), TensorView<float, 2>(memory.data() + 1, {2, 2}),
                          TensorView<float, 2>(memory.data() + 3, {2, 2}, {-2, -1})})
        EXPECT_EQ(error_text<ShapeError>([&] { require_same_or_apart("f", x, y); }),
                  "[f] the output must be the input's view or not overlap it; found partial "
                  "overlap");
}

TEST(Checks, ContiguousRows) {
    std::vector<float> memory(24);
    require_contiguous_rows("f", "x", TensorView<float, 2>(memory.data(), {2, 3}, {7, 1}));
    require_contiguous_rows("f", "x", TensorView<float, 2>(memory.data(), {3, 1}, {1, 5}));
    require_contiguous_rows("f", "x", TensorView<float, 2>());
    EXPECT_EQ(
        error_text<ShapeError>([&] {
            require_contiguous_rows("f", "x", TensorView<float, 2>(memory.data(), {2, 3}, {7, 2}));
        }),
        "[f] x must have a contiguous last dimension; found strides [7, 2]");
}

TEST(Checks, OptionalOutputs) {
    std::vector<float> memory(12);
    const TensorView<float, 2> y(memory.data(), {2, 3}), other(memory.data() + 5, {2, 3});
    require_optional_output("f", "y", TensorView<float, 2>(), Shape<2>(2, 3), other);
    require_optional_output("f", "y", y, Shape<2>(2, 3));
    EXPECT_EQ(error_text<ShapeError>([&] {
                  require_optional_output("f", "y", y, {3, 2});
              }),
              "[f] y must have shape [3, 2]; found [2, 3]");
    EXPECT_EQ(error_text<ShapeError>([&] {
                  require_optional_output("f", "y", y, {2, 3}, other);
              }),
              "[f] y must not overlap an input or another output; found overlapping memory");
    EXPECT_EQ(error_text<ArgumentError>([&] {
                  require_optional_output("f", "y", TensorView<float, 2>(nullptr, {2, 3}), {2, 3});
              }),
              "[f] y must point at memory; found null with shape [2, 3]");
}

TEST(Checks, WantedOutputs) {
    Tensor<float, 2> tensor({2, 3});
    EXPECT_TRUE(is_wanted(tensor.view()));
    EXPECT_TRUE(is_wanted(tensor.view().slice(0, 0, 0)));
    EXPECT_TRUE(is_wanted(TensorView<float, 2>(nullptr, {2, 3})));  // and refused later, as null
    EXPECT_FALSE(is_wanted(TensorView<float, 2>()));
}

}  // namespace
