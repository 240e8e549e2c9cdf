// What a tensor looks like as text, and what printing leaves as it was.

#include "heed/tensor/print.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <iomanip>
#include <limits>
#include <sstream>

#include "heed/tensor/tensor.hpp"

namespace {

using heed::half;
using heed::Shape;
using heed::Tensor;
using heed::TensorView;

template <class X>
std::string text(const X& tensor) {
    std::ostringstream out;
    out << tensor;
    return out.str();
}

TEST(Print, OneToThreeDimensions) {
    EXPECT_EQ(text(Tensor<float, 1>({3}, {1, 2.5, -3})), "[1 2.5 -3]");
    EXPECT_EQ(text(Tensor<float, 2>({2, 2}, {1, 2, 3, 4})), "[[1 2]\n [3 4]]");
    EXPECT_EQ(text(Tensor<int, 3>({2, 2, 2}, {1, 2, 3, 4, 5, 6, 7, 8})),
              "[[[1 2]\n"
              "  [3 4]]\n"
              " [[5 6]\n"
              "  [7 8]]]");
}

TEST(Print, TheViewsOrderNotTheMemorys) {
    Tensor<float, 2> tensor({2, 2}, {1, 2, 3, 4});
    EXPECT_EQ(text(tensor.view().transpose(0, 1)), "[[1 3]\n [2 4]]");
    const TensorView<const float, 1> backwards(tensor.data() + 3, {4}, {-1});
    EXPECT_EQ(text(backwards), "[4 3 2 1]");
}

TEST(Print, Nothing) {
    EXPECT_EQ(text(Tensor<float, 1>()), "[]");
    EXPECT_EQ(text(Tensor<float, 2>({0, 3})), "[]");
    EXPECT_EQ(text(Tensor<float, 2>({2, 0})), "[[]\n []]");
}

TEST(Print, EveryElementTypeAsNumbers) {
    EXPECT_EQ(text(Tensor<bool, 1>({2}, {true, false})), "[1 0]");
    EXPECT_EQ(text(Tensor<std::uint8_t, 1>({2}, {65, 200})), "[65 200]");
    EXPECT_EQ(text(Tensor<std::int8_t, 1>({1}, {-5})), "[-5]");
    EXPECT_EQ(text(Tensor<half, 1>({2}, {half(0.5F), half(-2.0F)})), "[0.5 -2]");
    EXPECT_EQ(text(Tensor<heed::bfloat16, 1>({1}, {heed::bfloat16(1.5F)})), "[1.5]");
    constexpr float infinity = std::numeric_limits<float>::infinity();
    EXPECT_EQ(text(Tensor<float, 1>({2}, {infinity, -infinity})), "[inf -inf]");
}

TEST(Print, StreamFormatHoldsForEveryElementAndStays) {
    std::ostringstream out;
    out << std::fixed << std::setprecision(2) << std::setw(7)
        << Tensor<float, 2>({2, 2}, {1, -2.125, 3, 100}) << '|' << 0.125;
    EXPECT_EQ(out.str(), "[[   1.00   -2.12]\n [   3.00  100.00]]|0.12");
    EXPECT_EQ(out.width(), 0);
}

TEST(Print, Chains) {
    std::ostringstream out;
    out << "x = " << Tensor<int, 1>({1}, {1}) << ", y = " << Tensor<int, 1>({1}, {2}).view();
    EXPECT_EQ(out.str(), "x = [1], y = [2]");
}

}  // namespace
