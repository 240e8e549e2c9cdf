// Does a tensor of any type give back what was put in, and refuse to be taken for another?

#include "heed/tensor/any_tensor.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace {

using heed::AnyTensor;
using heed::ArgumentError;
using heed::FormatError;
using heed::Index;
using heed::NamedTensors;
using heed::ScalarType;
using heed::ShapeError;
using heed::Tensor;
using heed::TensorView;
using testing::ElementsAre;
using testing::HasSubstr;

/// Expects `statement` to throw `Kind` with exactly this text.
#define EXPECT_ERROR(statement, Kind, text)         \
    try {                                           \
        (void)(statement);                          \
        ADD_FAILURE() << "nothing was thrown";      \
    } catch (const Kind& error) {                   \
        EXPECT_EQ(std::string(error.what()), text); \
    }

template <class T>
class AnyTensorOf : public testing::Test {};
using AllTypes = testing::Types<bool, std::uint8_t, std::int8_t, std::int16_t, std::uint16_t,
                                heed::half, heed::bfloat16, std::int32_t, std::uint32_t, float,
                                double, std::int64_t, std::uint64_t>;
TYPED_TEST_SUITE(AnyTensorOf, AllTypes);

TYPED_TEST(AnyTensorOf, GivesBackWhatWasPutIn) {
    using T = TypeParam;
    const auto one = static_cast<T>(1), zero = static_cast<T>(0);
    const Tensor<T, 2> values({2, 3}, {one, zero, one, one, zero, zero});
    const AnyTensor any(values);
    EXPECT_EQ(any.bytes().size(), 6 * sizeof(T));
    EXPECT_THAT(any.shape(), ElementsAre(2, 3));
    const TensorView<const T, 2> view = any.view<T, 2>();
    EXPECT_EQ(view.shape(), values.shape());
    for (Index i = 0; i < 2; ++i)
        for (Index j = 0; j < 3; ++j) EXPECT_EQ(view(i, j), values(i, j));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(view.data()) % 64, 0u);
}

TYPED_TEST(AnyTensorOf, IsSeenAsNoOtherType) {
    const AnyTensor any(Tensor<TypeParam, 1>(3));
    int seen = 0;
    const auto try_as = [&]<class T>(T) {
        try {
            (void)any.view<T, 1>();
            ++seen;
        } catch (const FormatError&) {
        }
    };
    try_as(bool{}), try_as(std::uint8_t{}), try_as(std::int8_t{}), try_as(std::int16_t{});
    try_as(std::uint16_t{}), try_as(heed::half{}), try_as(heed::bfloat16{});
    try_as(std::int32_t{}), try_as(std::uint32_t{}), try_as(float{}), try_as(double{});
    try_as(std::int64_t{}), try_as(std::uint64_t{});
    EXPECT_EQ(seen, 1);
}

TEST(AnyTensor, CopiesStridedViewsDensely) {
    const Tensor<float, 2> values({2, 3}, {1, 2, 3, 4, 5, 6});
    const AnyTensor any(values.view().transpose(0, 1));
    EXPECT_THAT(any.shape(), ElementsAre(3, 2));
    EXPECT_TRUE(
        heed::all_close(any.view<float, 2>(), Tensor<float, 2>({3, 2}, {1, 4, 2, 5, 3, 6}), 0, 0));
}

TEST(AnyTensor, ErrorsNameWhatWasFound) {
    const AnyTensor any(Tensor<float, 2>({2, 3}));
    EXPECT_ERROR((any.view<double, 2>("gain")), FormatError,
                 "[AnyTensor::view] gain must be F64 of rank 2; found F32 [2, 3]");
    EXPECT_ERROR((any.view<float, 3>()), FormatError,
                 "[AnyTensor::view] tensor must be F32 of rank 3; found F32 [2, 3]");
    EXPECT_ERROR((any.to<float, 1>()), FormatError,
                 "[AnyTensor::to] tensor must be F16, BF16, F32 or F64 of rank 1; "
                 "found F32 [2, 3]");
    EXPECT_ERROR((AnyTensor(Tensor<std::int64_t, 1>(4)).to<float, 1>("ids")), FormatError,
                 "[AnyTensor::to] ids must be F16, BF16, F32 or F64 of rank 1; found I64 [4]");
}

TEST(AnyTensor, ConvertsBetweenFloatingTypes) {
    // Exact in all four types.
    const Tensor<float, 1> values(4, {1.5f, -0.25f, 0.0f, 96.0f});
    const auto through = [&]<class T>(T) {
        Tensor<T, 1> stored(4);
        heed::copy(values.view(), stored.view());
        const AnyTensor any(stored);
        EXPECT_TRUE(heed::all_close(any.to<float, 1>(), values, 0, 0));
        EXPECT_TRUE(heed::all_close(any.to<double, 1>(), values, 0, 0));
        EXPECT_TRUE(heed::all_close(any.to<heed::half, 1>(), values, 0, 0));
        EXPECT_TRUE(heed::all_close(any.to<heed::bfloat16, 1>(), values, 0, 0));
    };
    through(heed::half{}), through(heed::bfloat16{}), through(float{}), through(double{});
}

TEST(AnyTensor, RoundsWhenTheTargetIsNarrower) {
    // float has 24 bits: 1 + 2^-24 is halfway and goes to the even neighbour, 1 + 3 * 2^-24 too.
    const AnyTensor any(Tensor<double, 1>(3, {1 + 0x1p-24, 1 + 0x3p-24, 1e300}));
    const Tensor<float, 1> rounded = any.to<float, 1>();
    EXPECT_EQ(rounded(0), 1.0f);
    EXPECT_EQ(rounded(1), 1.0f + 0x1p-22f);
    EXPECT_EQ(rounded(2), std::numeric_limits<float>::infinity());
}

TEST(AnyTensor, ScalarsHaveRankZero) {
    AnyTensor scalar(ScalarType::i64, {});
    EXPECT_EQ(scalar.bytes().size(), 8u);
    scalar.bytes()[0] = std::byte{42};
    EXPECT_EQ((scalar.view<std::int64_t, 1>()(0)), 42);
    EXPECT_THROW((void)(scalar.view<std::int64_t, 2>()), FormatError);
    EXPECT_EQ(to_string(scalar), "I64 []");
}

TEST(AnyTensor, EmptyTensorsKeepTheirShape) {
    const AnyTensor empty(Tensor<float, 3>({2, 0, 3}));
    EXPECT_EQ(empty.bytes().size(), 0u);
    EXPECT_EQ((empty.view<float, 3>().shape()), (heed::Shape<3>(2, 0, 3)));
    EXPECT_EQ((empty.to<double, 3>().shape()), (heed::Shape<3>(2, 0, 3)));
}

TEST(AnyTensor, RefusesImpossibleShapes) {
    const Index huge = Index{1} << 32;
    EXPECT_ERROR(AnyTensor(ScalarType::u8, {2, -1}), ShapeError,
                 "[AnyTensor] an extent must be 0 or more; found [2, -1]");
    EXPECT_THROW(AnyTensor(ScalarType::u8, {huge, huge}), ShapeError);
    EXPECT_THROW(AnyTensor(ScalarType::f64, {huge, huge / 8}), ShapeError);
    // The extent of 0 does not excuse strides that cannot be formed.
    EXPECT_THROW(AnyTensor(ScalarType::u8, {0, huge, huge}), ShapeError);
}

TEST(AnyTensor, ComparesTypeShapeAndBytes) {
    const AnyTensor a(Tensor<float, 1>(2, {1, 2}));
    EXPECT_TRUE(a == AnyTensor(Tensor<float, 1>(2, {1, 2})));
    EXPECT_FALSE(a == AnyTensor(Tensor<float, 1>(2, {1, 3})));
    EXPECT_FALSE(a == AnyTensor(Tensor<float, 2>({1, 2}, {1, 2})));
    EXPECT_FALSE(AnyTensor(ScalarType::f16, {2}) == AnyTensor(ScalarType::bf16, {2}));
}

TEST(AnyTensor, IsACopyOfItsSource) {
    Tensor<float, 1> source(2, {1, 2});
    const AnyTensor any(source);
    AnyTensor copy = any;
    source(0) = 9;
    copy.bytes()[0] = std::byte{1};
    EXPECT_EQ((any.view<float, 1>()(0)), 1.0f);
}

NamedTensors encoder() {
    NamedTensors tensors;
    tensors.add("layer.0.weight", Tensor<float, 2>({2, 2}, {1, 2, 3, 4}));
    tensors.add("layer.0.bias", Tensor<heed::half, 1>(2));
    tensors.add("ids", Tensor<std::int64_t, 1>(3));
    return tensors;
}

TEST(NamedTensors, FindsByName) {
    const NamedTensors tensors = encoder();
    EXPECT_EQ(tensors.size(), 3u);
    EXPECT_EQ(tensors.find("missing"), nullptr);
    ASSERT_NE(tensors.find("ids"), nullptr);
    EXPECT_EQ(tensors.find("ids"), &tensors.at("ids"));
    EXPECT_EQ((tensors.view<float, 2>("layer.0.weight")(1, 0)), 3.0f);
    EXPECT_EQ((tensors.to<double, 2>("layer.0.weight")(1, 1)), 4.0);
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors) names.push_back(name);
    EXPECT_THAT(names, ElementsAre("ids", "layer.0.bias", "layer.0.weight"));
}

TEST(NamedTensors, MissingNamesOfferTheNearest) {
    const NamedTensors tensors = encoder();
    EXPECT_ERROR(tensors.at("layer.0.wieght"), FormatError,
                 "[NamedTensors::at] a tensor must be named 'layer.0.wieght'; found none, "
                 "but 'layer.0.weight'");
    EXPECT_ERROR(tensors.at("something.else.entirely"), FormatError,
                 "[NamedTensors::at] a tensor must be named 'something.else.entirely'; found none");
    EXPECT_ERROR(NamedTensors().at(""), FormatError,
                 "[NamedTensors::at] a tensor must be named ''; found none");
}

TEST(NamedTensors, TypeErrorsNameTheTensor) {
    EXPECT_ERROR((encoder().view<float, 1>("layer.0.bias")), FormatError,
                 "[AnyTensor::view] layer.0.bias must be F32 of rank 1; found F16 [2]");
    EXPECT_ERROR((encoder().to<float, 1>("ids")), FormatError,
                 "[AnyTensor::to] ids must be F16, BF16, F32 or F64 of rank 1; found I64 [3]");
}

TEST(NamedTensors, NamesAreUnique) {
    NamedTensors tensors = encoder();
    EXPECT_ERROR(tensors.add("ids", Tensor<float, 1>(1)), ArgumentError,
                 "[NamedTensors::add] a name must be new; found 'ids' twice");
    EXPECT_EQ(tensors, encoder());
}

TEST(EditDistance, CountsInsertionsRemovalsReplacements) {
    using heed::detail::edit_distance;
    EXPECT_EQ(edit_distance("", ""), 0u);
    EXPECT_EQ(edit_distance("abc", ""), 3u);
    EXPECT_EQ(edit_distance("", "abc"), 3u);
    EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);  // k>s, e>i, +g
    EXPECT_EQ(edit_distance("flaw", "lawn"), 2u);       // -f, +n
}

}  // namespace
