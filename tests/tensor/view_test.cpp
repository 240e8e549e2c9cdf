// Every operation on a view against naive index arithmetic; every way to make one; every refusal.

#include "heed/tensor/view.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <type_traits>
#include <vector>

#include "heed/tensor/tensor.hpp"
#include "support/random.hpp"
#include "tensor/errors.hpp"
#include "tensor/strided.hpp"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace {

using heed::Index;
using heed::Shape;
using heed::ShapeError;
using heed::Strides;
using heed::TensorView;
using support::address;
using support::error_text;
using support::for_each_position;
using support::Position;
using support::Random;
using support::random_shape;
using support::Strided;
using ::testing::ElementsAre;

constexpr int trials = 100;
constexpr Index two_to(int power) {
    return Index{1} << power;
}

std::vector<float> counted(Index count) {
    std::vector<float> values(static_cast<std::size_t>(count));
    std::iota(values.begin(), values.end(), 0.0F);
    return values;
}

// ---- construction -------------------------------------------------------------------------------

TEST(View, OfNothing) {
    const TensorView<float, 3> view;
    EXPECT_EQ(view.data(), nullptr);
    EXPECT_EQ(view.shape(), Shape<3>(0, 0, 0));
    EXPECT_TRUE(view.empty());
    EXPECT_TRUE(view.is_contiguous());
}

TEST(View, OfRowMajorMemory) {
    // 0 1 2
    // 3 4 5
    std::vector<float> memory = counted(6);
    const TensorView<float, 2> view(memory.data(), {2, 3});
    EXPECT_EQ(view.strides(), (Strides<2>{3, 1}));
    EXPECT_EQ(view(0, 2), 2.0F);
    EXPECT_EQ(view(1, 0), 3.0F);
    EXPECT_EQ(view(1, 2), 5.0F);
    EXPECT_EQ(view.element_count(), 6);
    view(1, 1) = 40.0F;
    EXPECT_EQ(memory[4], 40.0F);
}

TEST(View, DeducesElementTypeAndRank) {
    float memory[6] = {};
    const TensorView dense(memory, Shape<2>(2, 3));
    static_assert(std::is_same_v<decltype(dense), const TensorView<float, 2>>);
    const float* read_only = memory;
    const TensorView strided(read_only, Shape<1>(2), Strides<1>{3});
    static_assert(std::is_same_v<decltype(strided), const TensorView<const float, 1>>);
    EXPECT_EQ(dense.data(), strided.data());
}

TEST(View, OfMemoryWithNegativeAndZeroStrides) {
    std::vector<float> memory = counted(4);
    const TensorView<float, 1> backwards(memory.data() + 3, {4}, {-1});
    EXPECT_THAT(support::elements(backwards), ElementsAre(3, 2, 1, 0));
    // One row of four, seen three times.
    const TensorView<float, 2> repeated(memory.data(), {3, 4}, {0, 1});
    EXPECT_EQ(&repeated(0, 2), &repeated(2, 2));
    EXPECT_THAT(support::elements(repeated), ElementsAre(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3));
}

TEST(View, OfVectorAndSpan) {
    std::vector<float> memory = counted(6);
    const std::vector<float>& read_only = memory;
    const TensorView<float, 2> of_vector(memory, {2, 3});
    const TensorView<float, 2> of_span(std::span<float>(memory), {2, 3});
    const TensorView<const float, 3> of_const(read_only, {1, 2, 3});
    EXPECT_EQ(of_vector.data(), memory.data());
    EXPECT_EQ(of_span(1, 2), 5.0F);
    EXPECT_EQ(of_const(0, 1, 2), 5.0F);
    static_assert(
        !std::is_constructible_v<TensorView<float, 2>, const std::vector<float>&, Shape<2>>);
    std::vector<float> none;
    EXPECT_TRUE((TensorView<float, 2>(none, {0, 3}).empty()));
}

TEST(View, OfVectorOrSpanOfAnotherSizeIsRefused) {
    std::vector<float> memory(5);
    EXPECT_EQ(error_text<ShapeError>([&] {
                  TensorView<float, 2>(memory, {2, 3});
              }),
              "[TensorView] shape [2, 3] needs 6 elements; found 5");
    EXPECT_THROW((TensorView<float, 2>(memory, {2, 2})), ShapeError);
    EXPECT_THROW((TensorView<float, 2>(memory, {0, 5})), ShapeError);
    EXPECT_THROW((TensorView<float, 2>(memory, {two_to(32), two_to(32)})), ShapeError);
}

/// The interface of std::mdspan, with unsigned extents and sizes as the standard has them.
template <class T, std::size_t Rank>
struct MyMdspan {
    T* data;
    std::array<std::size_t, Rank> extents;
    std::array<std::size_t, Rank> strides;
    static constexpr std::size_t rank() { return Rank; }
    T* data_handle() const { return data; }
    std::size_t extent(std::size_t d) const { return extents[d]; }
    std::size_t stride(std::size_t d) const { return strides[d]; }
};

TEST(View, OfAnythingShapedLikeMdspan) {
    std::vector<float> memory = counted(12);
    // Columns 0 and 2 of 3 x 4, transposed.
    const MyMdspan<float, 2> span{memory.data(), {2, 3}, {2, 4}};
    const TensorView<float, 2> view = span;
    EXPECT_THAT(support::elements(view), ElementsAre(0, 4, 8, 2, 6, 10));
    const TensorView<const float, 2> read_only = span;
    EXPECT_EQ(read_only.data(), memory.data());
    // A view has that interface itself, so that it can become an mdspan again.
    const TensorView<float, 2> again(view);
    EXPECT_EQ(again.data_handle(), memory.data());
    using ReadOnly = MyMdspan<const float, 2>;
    static_assert(std::is_convertible_v<ReadOnly, TensorView<const float, 2>>);
    static_assert(!std::is_constructible_v<TensorView<float, 2>, ReadOnly>);
    static_assert(!std::is_constructible_v<TensorView<float, 3>, MyMdspan<float, 2>>);
    static_assert(!std::is_constructible_v<TensorView<float, 2>, MyMdspan<double, 2>>);
}

TEST(View, OfAnMdspanThatDoesNotFitIsRefused) {
    float memory[1] = {};
    const std::size_t huge = std::size_t{1} << 63;
    EXPECT_THROW((TensorView<float, 2>(MyMdspan<float, 2>{memory, {huge, 1}, {1, 1}})), ShapeError);
    EXPECT_THROW((TensorView<float, 2>(
                     MyMdspan<float, 2>{memory, {std::size_t{1} << 40, 2}, {huge / 2, 1}})),
                 ShapeError);
}

// ---- Eigen --------------------------------------------------------------------------------------

template <class Matrix>
Matrix numbered_matrix(Eigen::Index rows, Eigen::Index columns) {
    Matrix matrix(rows, columns);
    for (Eigen::Index r = 0; r < rows; ++r)
        for (Eigen::Index c = 0; c < columns; ++c)
            matrix(r, c) = static_cast<typename Matrix::Scalar>(10 * r + c);
    return matrix;
}

using ColumnMajor = Eigen::MatrixXf;
using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// The view shows the very coefficients of the Eigen object.
template <class View, class E>
void expect_same_elements(const View& view, const E& matrix) {
    ASSERT_EQ(view.extent(0), matrix.rows());
    ASSERT_EQ(view.extent(1), matrix.cols());
    for (Index r = 0; r < view.extent(0); ++r)
        for (Index c = 0; c < view.extent(1); ++c)
            EXPECT_EQ(&view(r, c), &matrix.coeffRef(r, c)) << r << ", " << c;
}

TEST(EigenView, MatricesOfBothOrders) {
    ColumnMajor column_major = numbered_matrix<ColumnMajor>(3, 4);
    RowMajor row_major = numbered_matrix<RowMajor>(3, 4);
    const TensorView<float, 2> a = column_major, b = row_major;
    EXPECT_EQ(a.strides(), (Strides<2>{1, 3}));
    EXPECT_EQ(b.strides(), (Strides<2>{4, 1}));
    expect_same_elements(a, column_major);
    expect_same_elements(b, row_major);
    a(2, 3) = -1.0F;
    EXPECT_EQ(column_major(2, 3), -1.0F);
}

TEST(EigenView, FixedSizesDoublesFlagsAndArrays) {
    Eigen::Matrix<double, 2, 3> fixed = Eigen::Matrix<double, 2, 3>::Zero();
    expect_same_elements(TensorView<double, 2>(fixed), fixed);
    Eigen::Array<bool, Eigen::Dynamic, Eigen::Dynamic> flags(2, 2);
    flags << true, false, false, true;
    expect_same_elements(TensorView<bool, 2>(flags), flags);
    Eigen::Matrix<heed::half, Eigen::Dynamic, Eigen::Dynamic> halves(2, 2);
    expect_same_elements(TensorView<heed::half, 2>(halves), halves);
}

TEST(EigenView, BlocksMapsAndTransposes) {
    ColumnMajor column_major = numbered_matrix<ColumnMajor>(5, 6);
    RowMajor row_major = numbered_matrix<RowMajor>(5, 6);
    auto block = column_major.block(1, 2, 3, 4);
    auto row_block = row_major.block(1, 2, 3, 4);
    auto transposed = column_major.transpose();
    expect_same_elements(TensorView<float, 2>(block), block);
    expect_same_elements(TensorView<float, 2>(row_block), row_block);
    for (Index r = 0; r < 6; ++r)
        for (Index c = 0; c < 5; ++c)
            EXPECT_EQ(&(TensorView<float, 2>(transposed))(r, c), &column_major.coeffRef(c, r));
    std::vector<float> memory = counted(24);
    Eigen::Map<ColumnMajor, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>> map(
        memory.data(), 3, 2, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>(9, 2));
    expect_same_elements(TensorView<float, 2>(map), map);
}

TEST(EigenView, Vectors) {
    Eigen::VectorXf vector = Eigen::VectorXf::LinSpaced(4, 0.0F, 3.0F);
    Eigen::RowVectorXf row_vector = Eigen::RowVectorXf::LinSpaced(4, 0.0F, 3.0F);
    ColumnMajor matrix = numbered_matrix<ColumnMajor>(3, 4);
    auto row = matrix.row(1);
    auto column = matrix.col(2);
    EXPECT_THAT(support::elements(TensorView<float, 1>(vector)), ElementsAre(0, 1, 2, 3));
    EXPECT_THAT(support::elements(TensorView<float, 1>(row_vector)), ElementsAre(0, 1, 2, 3));
    EXPECT_THAT(support::elements(TensorView<float, 1>(row)), ElementsAre(10, 11, 12, 13));
    EXPECT_THAT(support::elements(TensorView<float, 1>(column)), ElementsAre(2, 12, 22));
    EXPECT_EQ((TensorView<float, 1>(row).stride(0)), 3);
    // A vector is also a matrix of one column or one row.
    EXPECT_EQ((TensorView<float, 2>(vector).shape()), Shape<2>(4, 1));
    EXPECT_EQ((TensorView<float, 2>(row_vector).shape()), Shape<2>(1, 4));
    static_assert(!std::is_constructible_v<TensorView<float, 1>, ColumnMajor&>);
}

TEST(EigenView, EmptyMatrices) {
    ColumnMajor none(0, 3);
    Eigen::VectorXf no_vector(0);
    EXPECT_EQ((TensorView<float, 2>(none).shape()), Shape<2>(0, 3));
    EXPECT_TRUE((TensorView<float, 1>(no_vector).empty()));
}

TEST(EigenView, ConstObjectsAndTemporariesAreReadOnly) {
    static_assert(std::is_convertible_v<ColumnMajor&, TensorView<float, 2>>);
    static_assert(std::is_convertible_v<const ColumnMajor&, TensorView<const float, 2>>);
    static_assert(!std::is_constructible_v<TensorView<float, 2>, const ColumnMajor&>);
    static_assert(!std::is_constructible_v<TensorView<float, 2>, ColumnMajor>);
    static_assert(!std::is_constructible_v<TensorView<float, 2>, RowMajor&&>);
    static_assert(!std::is_constructible_v<TensorView<float, 1>, Eigen::VectorXf>);
    static_assert(std::is_constructible_v<TensorView<const float, 2>, ColumnMajor>);
    static_assert(std::is_constructible_v<TensorView<const float, 1>, Eigen::VectorXf>);
    static_assert(!std::is_constructible_v<TensorView<float, 2>, Eigen::Map<const ColumnMajor>&>);
    static_assert(!std::is_constructible_v<TensorView<float, 1>, const Eigen::VectorXf&>);
}

TEST(EigenView, OtherNumbersAndUnevaluatedExpressionsAreNoViews) {
    static_assert(!std::is_constructible_v<TensorView<float, 2>, Eigen::MatrixXd&>);
    static_assert(!std::is_constructible_v<TensorView<const float, 2>, Eigen::MatrixXd&>);
    using Sum = decltype(std::declval<ColumnMajor&>() + std::declval<ColumnMajor&>());
    using Product = decltype(std::declval<ColumnMajor&>() * std::declval<ColumnMajor&>());
    static_assert(!std::is_constructible_v<TensorView<const float, 2>, Sum>);
    static_assert(!std::is_constructible_v<TensorView<const float, 2>, Product>);
    static_assert(!std::is_constructible_v<TensorView<const float, 3>, ColumnMajor&>);
}

// ---- constness ----------------------------------------------------------------------------------

TEST(ViewTypes, ConstIsOneWay) {
    using Reader = TensorView<const float, 2>;
    using Writer = TensorView<float, 2>;
    static_assert(std::is_convertible_v<Writer, Reader>);
    static_assert(!std::is_constructible_v<Writer, Reader>);
    static_assert(!std::is_assignable_v<Writer&, Reader>);
    static_assert(!std::is_assignable_v<decltype(std::declval<Reader>()(0, 0)), float>);
    static_assert(std::is_assignable_v<decltype(std::declval<const Writer>()(0, 0)), float>);
    static_assert(!std::is_constructible_v<TensorView<const double, 2>, Writer>);
    static_assert(!std::is_constructible_v<TensorView<const float, 3>, Writer>);
    static_assert(!std::is_constructible_v<Writer, const float*, Shape<2>>);
    static_assert(std::is_same_v<Reader::element_type, const float>);
    static_assert(std::is_same_v<Reader::value_type, float>);
    static_assert(Reader::rank() == 2);
    // An operation on a reader gives a reader.
    using Sliced = decltype(std::declval<Reader>().slice(0, 0, 0));
    using Mapped = decltype(std::declval<Reader>().matrix());
    static_assert(std::is_same_v<Sliced, Reader>);
    static_assert(!std::is_assignable_v<decltype(std::declval<Mapped>()(0, 0)), float>);
}

TEST(ViewTypes, ConversionKeepsPointerShapeAndStrides) {
    std::vector<float> memory = counted(12);
    const TensorView<float, 2> writer(memory.data() + 11, {2, 3}, {-6, -2});
    const TensorView<const float, 2> reader = writer;
    EXPECT_EQ(reader.data(), writer.data());
    EXPECT_EQ(reader.shape(), writer.shape());
    EXPECT_EQ(reader.strides(), writer.strides());
}

// Two units that were compiled for different instruction sets agree on these types: no member of
// theirs is an Eigen vector, whose alignment depends on the flags.
TEST(Museum, B8_72_SizesDoNotDependOnTheInstructionSet) {
    static_assert(sizeof(TensorView<float, 1>) == sizeof(void*) + 2 * sizeof(Index));
    static_assert(sizeof(TensorView<float, 4>) == sizeof(void*) + 8 * sizeof(Index));
    static_assert(sizeof(TensorView<const double, 4>) == sizeof(TensorView<float, 4>));
    static_assert(sizeof(heed::Tensor<float, 4>) ==
                  sizeof(void*) + sizeof(std::size_t) + 4 * sizeof(Index));
    static_assert(std::is_trivially_copyable_v<TensorView<float, 4>>);
}

TEST(Museum, B8_73_NoTypeIsOverAligned) {
    static_assert(alignof(TensorView<float, 4>) <= alignof(std::max_align_t));
    static_assert(alignof(heed::Tensor<double, 4>) <= alignof(std::max_align_t));
    static_assert(alignof(heed::Tensor<heed::half, 4>) <= alignof(std::max_align_t));
    static_assert(alignof(heed::MatrixMap<float>) <= alignof(std::max_align_t));
    static_assert(alignof(heed::Shape<4>) <= alignof(std::max_align_t));
}

// ---- operations against index arithmetic --------------------------------------------------------

/// Every element of `result` lies where `source` has its element at to_source(position).
template <class Result, class Source, class F>
void expect_addresses(const Result& result, const Source& source, const F& to_source) {
    for_each_position(result.shape(), [&](const auto& at) {
        ASSERT_EQ(address(result, at), address(source, to_source(at)));
    });
}

TEST(ViewLaws, ElementAccess) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < trials; ++trial) {
        const Strided<float, 3> owner(random, random_shape<3>(random, 1, 5));
        const auto view = owner.view();
        for_each_position(view.shape(), [&](const auto& at) {
            ASSERT_EQ(&view(at[0], at[1], at[2]), address(view, at));
            ASSERT_EQ(view.row(at[0], at[1]) + at[2] * view.stride(2), address(view, at));
        });
    }
}

TEST(ViewLaws, Slice) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < trials; ++trial) {
        const Strided<float, 3> owner(random, random_shape<3>(random, 0, 6));
        const auto view = owner.view();
        const auto d = static_cast<int>(random.integer(0, 2));
        const Index begin = random.integer(0, view.extent(d));
        const Index count = random.integer(0, view.extent(d) - begin);
        const auto slice = view.slice(d, begin, count);
        ASSERT_EQ(slice.shape(), view.shape().with(d, count));
        ASSERT_EQ(slice.strides(), view.strides());
        expect_addresses(slice, view, [&](Position<3> at) {
            at[static_cast<std::size_t>(d)] += begin;
            return at;
        });
    }
}

TEST(ViewLaws, Select) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < trials; ++trial) {
        const Strided<float, 3> owner(random, random_shape<3>(random, 1, 6));
        const auto view = owner.view();
        const auto d = static_cast<int>(random.integer(0, 2));
        const Index position = random.integer(0, view.extent(d) - 1);
        const auto chosen = view.select(d, position);
        static_assert(decltype(chosen)::rank() == 2);
        Index checked = 0;
        expect_addresses(chosen, view, [&](const Position<2>& at) {
            ++checked;
            Position<3> source{};
            for (int from = 0, to = 0; from < 3; ++from)
                source[static_cast<std::size_t>(from)] =
                    from == d ? position : at[static_cast<std::size_t>(to++)];
            return source;
        });
        ASSERT_EQ(checked * view.extent(d), view.element_count());
    }
}

TEST(ViewLaws, PermuteAndTranspose) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < trials; ++trial) {
        const Strided<float, 4> owner(random, random_shape<4>(random, 0, 4));
        const auto view = owner.view();
        std::array<int, 4> order{0, 1, 2, 3};
        for (std::size_t i = 3; i > 0; --i)
            std::swap(order[i],
                      order[static_cast<std::size_t>(random.integer(0, static_cast<Index>(i)))]);
        const auto permuted = view.permute(order);
        for (std::size_t d = 0; d < 4; ++d)
            ASSERT_EQ(permuted.extent(static_cast<int>(d)), view.extent(order[d]));
        expect_addresses(permuted, view, [&](const Position<4>& at) {
            Position<4> source{};
            for (std::size_t d = 0; d < 4; ++d) source[static_cast<std::size_t>(order[d])] = at[d];
            return source;
        });
        const auto a = static_cast<std::size_t>(random.integer(0, 3));
        const auto b = static_cast<std::size_t>(random.integer(0, 3));
        expect_addresses(view.transpose(static_cast<int>(a), static_cast<int>(b)), view,
                         [&](Position<4> at) {
                             std::swap(at[a], at[b]);
                             return at;
                         });
    }
}

TEST(ViewLaws, Reshape) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < trials; ++trial) {
        const Index a = random.integer(0, 4), b = random.integer(0, 4), c = random.integer(1, 4);
        std::vector<float> memory = counted(a * b * c);
        const TensorView<float, 2> view(memory, {a * b, c});
        const auto reshaped = view.reshape(Shape<4>(c, 1, b, a));
        ASSERT_EQ(reshaped.shape(), Shape<4>(c, 1, b, a));
        Index n = 0;
        for_each_position(reshaped.shape(), [&](const auto& at) {
            ASSERT_EQ(address(reshaped, at), memory.data() + n++);
        });
        ASSERT_EQ(n, view.element_count());
    }
}

TEST(ViewLaws, SplitAndMerge) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < trials; ++trial) {
        const auto d = static_cast<int>(random.integer(0, 2));
        const auto i = static_cast<std::size_t>(d);
        const Index outer = random.integer(1, 4), inner = random.integer(0, 4);
        const auto shape = random_shape<3>(random, 0, 4).with(d, outer * inner);
        const Strided<float, 3> owner(random, shape);
        const auto view = owner.view();
        const auto split = view.split(d, outer);
        ASSERT_EQ(split.extent(d), outer);
        ASSERT_EQ(split.extent(d + 1), inner);
        expect_addresses(split, view, [&](const Position<4>& at) {
            Position<3> source{};
            for (std::size_t from = 0, to = 0; from < 3; ++from, ++to) {
                source[from] = at[to];
                if (from == i) source[from] = at[to] * inner + at[to + 1], ++to;
            }
            return source;
        });
        const auto merged = split.merge(d);
        ASSERT_EQ(merged.shape(), view.shape());
        expect_addresses(merged, view, [](const Position<3>& at) { return at; });
    }
}

TEST(ViewLaws, Unsqueeze) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < trials; ++trial) {
        const Strided<float, 2> owner(random, random_shape<2>(random, 0, 5));
        const auto higher = owner.view().unsqueeze();
        ASSERT_EQ(higher.shape(), Shape<3>(1, owner.view().extent(0), owner.view().extent(1)));
        expect_addresses(higher, owner.view(), [](const Position<3>& at) {
            return Position<2>{at[1], at[2]};
        });
    }
}

TEST(ViewLaws, SplitHeadsAndMergeHeads) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < trials; ++trial) {
        const Index B = random.integer(0, 3), L = random.integer(0, 4);
        const Index H = random.integer(1, 4), D = random.integer(0, 4);
        const Strided<float, 3> owner(random, Shape<3>(B, L, H * D));
        const auto x = owner.view();
        const auto heads = x.split_heads(H);
        ASSERT_EQ(heads.shape(), Shape<4>(B, H, L, D));
        expect_addresses(heads, x, [&](const Position<4>& at) {
            return Position<3>{at[0], at[2], at[1] * D + at[3]};
        });
        const auto back = heads.merge_heads();
        ASSERT_EQ(back.data(), x.data());
        ASSERT_EQ(back.shape(), x.shape());
        expect_addresses(back, x, [](const Position<3>& at) { return at; });
    }
}

TEST(ViewLaws, HeadsOfAPackedProjectionByHand) {
    // One position of a packed query-key-value row with H = 2, D = 2:
    // q00 q01 q10 q11 k00 k01 k10 k11 v00 v01 v10 v11. The keys are the slice [4, 8).
    std::vector<float> memory = counted(12);
    const TensorView<float, 3> packed(memory, {1, 1, 12});
    const auto keys = packed.slice(2, 4, 4).split_heads(2);
    EXPECT_EQ(keys.shape(), Shape<4>(1, 2, 1, 2));
    EXPECT_THAT(support::elements(keys), ElementsAre(4, 5, 6, 7));
    EXPECT_EQ(keys(0, 1, 0, 0), 6.0F);
}

TEST(ViewLaws, IsContiguousMeansNumberedInOrder) {
    Random random;
    SCOPED_TRACE(random.describe());
    int contiguous = 0;
    for (int trial = 0; trial < 20 * trials; ++trial) {
        const Shape<3> shape = random_shape<3>(random, 0, 3);
        std::array<Index, 3> strides{};
        for (Index& stride : strides) stride = random.pick<Index>({-1, 0, 1, 2, 3, 4, 6, 9});
        std::vector<float> memory(200);
        const TensorView<float, 3> view(memory.data() + 100, shape, strides);
        bool expected = true;
        Index n = 0;
        for_each_position(shape, [&](const auto& at) {
            expected = expected && address(view, at) == view.data() + n++;
        });
        ASSERT_EQ(view.is_contiguous(), expected)
            << to_string(shape) << " " << heed::detail::list_text(strides);
        contiguous += expected && !view.empty();
    }
    EXPECT_GT(contiguous, 10);
}

TEST(ViewLaws, ContiguousRows) {
    float memory[12] = {};
    EXPECT_TRUE((TensorView<float, 2>(memory, {3, 4}).has_contiguous_rows()));
    EXPECT_TRUE((TensorView<float, 2>(memory, {2, 3}, {-4, 1}).has_contiguous_rows()));
    EXPECT_FALSE((TensorView<float, 2>(memory, {3, 4}).transpose(0, 1).has_contiguous_rows()));
    EXPECT_FALSE((TensorView<float, 2>(memory, {2, 3}, {6, 2}).has_contiguous_rows()));
    EXPECT_FALSE((TensorView<float, 2>(memory, {2, 3}, {6, -1}).has_contiguous_rows()));
    // With one element per row, or none, there are no neighbours.
    EXPECT_TRUE((TensorView<float, 2>(memory, {3, 1}, {1, 7}).has_contiguous_rows()));
    EXPECT_TRUE((TensorView<float, 2>(memory, {3, 0}, {1, 7}).has_contiguous_rows()));
}

// ---- matrix -------------------------------------------------------------------------------------

TEST(ViewMatrix, AliasesAndNeverCopies) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < trials; ++trial) {
        const auto shape = random_shape<4>(random, 1, 4);
        const Strided<float, 4> owner(random, shape, 77.0F, Strided<float, 4>::Rows::contiguous);
        const auto view = owner.view();
        for (Index b = 0; b < shape[0]; ++b)
            for (Index h = 0; h < shape[1]; ++h) {
                auto matrix = view.matrix(b, h);
                ASSERT_EQ(matrix.data(), &view(b, h, 0, 0));
                ASSERT_EQ(matrix.rows(), shape[2]);
                ASSERT_EQ(matrix.cols(), shape[3]);
                for (Index r = 0; r < shape[2]; ++r)
                    for (Index c = 0; c < shape[3]; ++c)
                        ASSERT_EQ(&matrix.coeffRef(r, c), &view(b, h, r, c));
            }
    }
}

TEST(ViewMatrix, WritesGoToTheCaller) {
    std::vector<float> memory(8);
    const TensorView<float, 3> view(memory, {2, 2, 2});
    view.matrix(1) << 1, 2, 3, 4;
    EXPECT_THAT(memory, ElementsAre(0, 0, 0, 0, 1, 2, 3, 4));
}

TEST(ViewMatrix, NegativeAndZeroRowStridesInEigenProducts) {
    // Rows 2, 1, 0 of a 3 x 2 matrix, and its first row three times.
    std::vector<float> memory = counted(6);
    const TensorView<float, 2> backwards(memory.data() + 4, {3, 2}, {-2, 1});
    const TensorView<float, 2> repeated(memory.data(), {3, 2}, {0, 1});
    const Eigen::Vector2f ones(1.0F, 1.0F);
    EXPECT_EQ(Eigen::VectorXf(backwards.matrix() * ones), Eigen::Vector3f(9, 5, 1));
    EXPECT_EQ(Eigen::VectorXf(repeated.matrix() * ones), Eigen::Vector3f(1, 1, 1));
    const RowMajor product = backwards.matrix() * repeated.matrix().transpose();
    EXPECT_EQ(product(0, 0), 5.0F);  // (4, 5) . (0, 1)
    EXPECT_EQ(product(2, 1), 1.0F);  // (0, 1) . (0, 1)
}

TEST(ViewMatrix, ColumnsThatAreNotNeighboursAreRefused) {
    float memory[12] = {};
    const TensorView<float, 2> view(memory, {3, 4});
    EXPECT_EQ(error_text<ShapeError>([&] { (void)view.transpose(0, 1).matrix(); }),
              "[matrix] the last dimension must be contiguous; found shape [4, 3], strides [1, 4]");
    EXPECT_THROW((void)(TensorView<float, 2>(memory, {2, 3}, {6, -1}).matrix()), ShapeError);
    EXPECT_THROW((void)(TensorView<float, 2>(memory, {2, 3}, {6, 0}).matrix()), ShapeError);
    // A single column has no neighbours within a row.
    EXPECT_EQ(view.slice(1, 2, 1).transpose(0, 1).transpose(0, 1).matrix().rows(), 3);
}

// ---- nothing in it ------------------------------------------------------------------------------

// Every operation on every shape with a zero, without memory behind it: under UBSan, arithmetic on
// the null pointer would be an error.
TEST(EmptyView, EveryOperationWithEverySubsetOfExtentsZero) {
    for (unsigned zeros = 1; zeros < 16; ++zeros) {
        const auto extent = [&](unsigned d) { return (zeros >> d & 1) != 0 ? Index{0} : Index{2}; };
        const Shape<4> shape(extent(0), extent(1), extent(2), extent(3));
        SCOPED_TRACE(to_string(shape));
        const TensorView<float, 4> view(nullptr, shape);
        EXPECT_TRUE(view.empty());
        EXPECT_TRUE(view.is_contiguous());
        for (int d = 0; d < 4; ++d) {
            for (Index begin = 0; begin <= view.extent(d); ++begin)
                EXPECT_TRUE(view.slice(d, begin, view.extent(d) - begin).empty());
            if (view.extent(d) == 2) {
                EXPECT_EQ(view.select(d, 1).data(), nullptr);
                EXPECT_EQ(view.split(d, 2).extent(d + 1), 1);
            } else {
                EXPECT_EQ(view.split(d, 5).extent(d), 5);
            }
            if (d < 3) {
                EXPECT_EQ(view.merge(d).extent(d), view.extent(d) * view.extent(d + 1));
            }
            EXPECT_TRUE(view.transpose(0, d).empty());
        }
        EXPECT_EQ(view.permute({3, 2, 1, 0}).extent(0), view.extent(3));
        EXPECT_EQ(view.reshape(Shape<2>(7, 0)).shape(), Shape<2>(7, 0));
        EXPECT_EQ(view.unsqueeze().extent(0), 1);
        EXPECT_EQ(view.merge_heads().extent(1), view.extent(2));
        EXPECT_EQ(view.merge(0).split_heads(1).extent(1), 1);
        if (view.extent(0) == 2 && view.extent(1) == 2) {
            const auto matrix = view.matrix(1, 1);
            EXPECT_EQ(matrix.rows(), view.extent(2));
            EXPECT_EQ(matrix.cols(), view.extent(3));
            if (view.extent(2) == 2) {
                EXPECT_EQ(view.row(1, 1, 1), nullptr);
            }
        }
        EXPECT_EQ((TensorView<const float, 4>(view).shape()), shape);
    }
}

TEST(EmptyView, AnEmptySliceStaysInsideItsMemory) {
    std::vector<float> memory(6);
    const TensorView<float, 2> view(memory, {2, 3});
    EXPECT_EQ(view.slice(0, 2, 0).data(), memory.data());
    EXPECT_EQ(view.slice(1, 3, 0).slice(0, 1, 1).data(), memory.data());
}

TEST(EmptyView, HugeExtentsBesideAZero) {
    const TensorView<float, 3> view(nullptr, {two_to(40), two_to(40), 0}, {0, 0, 1});
    EXPECT_TRUE(view.empty());
    EXPECT_TRUE(view.is_contiguous());
    EXPECT_THROW((void)view.merge(0), ShapeError);
    EXPECT_EQ(view.merge(1).shape(), Shape<2>(two_to(40), 0));
}

// ---- single positions ---------------------------------------------------------------------------

// A dimension of extent 1 is never stepped along: its stride may be anything.
TEST(SinglePosition, ItsStrideDoesNotCount) {
    std::vector<float> memory = counted(15);
    constexpr Index anything = std::numeric_limits<Index>::min();
    const TensorView<float, 4> view(memory.data(), {3, 1, 5, 1}, {5, anything, 1, -7});
    EXPECT_TRUE(view.is_contiguous());
    EXPECT_TRUE(view.has_contiguous_rows());
    EXPECT_EQ(view(2, 0, 4, 0), 14.0F);
    for (int d = 0; d < 3; ++d) {
        const auto merged = view.merge(d);
        EXPECT_EQ(support::elements(merged), memory) << d;
    }
    EXPECT_EQ(support::elements(view.reshape(Shape<1>(15))), memory);
    EXPECT_EQ(support::elements(view.merge_heads().merge(1)), memory);
    EXPECT_EQ(support::elements(view.split(1, 1)), memory);
    EXPECT_EQ(support::elements(view.unsqueeze().merge(0)), memory);
}

TEST(SinglePosition, HeadsOfOneElementMergeAtAnyDistance) {
    // Column 1 of each head of [L = 2, H = 3, D = 4]: neighbouring heads are 4 elements apart.
    std::vector<float> memory = counted(24);
    const auto column = TensorView<float, 4>(memory, {1, 2, 3, 4}).transpose(1, 2).slice(3, 1, 1);
    EXPECT_EQ(column.shape(), Shape<4>(1, 3, 2, 1));
    EXPECT_THAT(support::elements(column.merge_heads()), ElementsAre(1, 5, 9, 13, 17, 21));
}

// ---- refusals -----------------------------------------------------------------------------------

class ViewErrors : public ::testing::Test {
  protected:
    std::vector<float> memory_ = counted(24);
    TensorView<float, 3> view_{memory_, {2, 3, 4}};
};

TEST_F(ViewErrors, Slice) {
    EXPECT_EQ(error_text<ShapeError>([&] { (void)view_.slice(1, 2, 2); }),
              "[slice] positions must lie inside dimension 1 of [2, 3, 4]; found begin 2, count 2");
    EXPECT_EQ(error_text<ShapeError>([&] { (void)view_.slice(3, 0, 0); }),
              "[slice] a dimension must be in [0, 3); found 3");
    constexpr Index most = std::numeric_limits<Index>::max();
    for (const auto& bad : {std::pair<Index, Index>{-1, 1},
                            {0, -1},
                            {4, 0},
                            {0, 4},
                            {1, most},
                            {most, 1},
                            {most, most},
                            {-most - 1, 0}})
        EXPECT_THAT(error_text<ShapeError>([&] { (void)view_.slice(1, bad.first, bad.second); }),
                    ::testing::StartsWith("[slice] positions must lie inside"))
            << bad.first << ", " << bad.second;
    EXPECT_THROW((void)view_.slice(-1, 0, 0), ShapeError);
}

TEST_F(ViewErrors, Select) {
    EXPECT_EQ(error_text<ShapeError>([&] { (void)view_.select(2, 4); }),
              "[select] position must lie inside dimension 2 of [2, 3, 4]; found 4");
    EXPECT_EQ(error_text<ShapeError>([&] { (void)view_.select(-1, 0); }),
              "[select] a dimension must be in [0, 3); found -1");
    EXPECT_THROW((void)view_.select(0, -1), ShapeError);
    EXPECT_THROW((void)view_.slice(0, 0, 0).select(0, 0), ShapeError);
}

TEST_F(ViewErrors, PermuteAndTranspose) {
    EXPECT_EQ(error_text<ShapeError>([&] {
                  (void)view_.permute({0, 1, 1});
              }),
              "[permute] order must name each of the 3 dimensions once; found [0, 1, 1]");
    EXPECT_THROW((void)view_.permute({0, 1, 3}), ShapeError);
    EXPECT_THROW((void)view_.permute({-1, 0, 1}), ShapeError);
    EXPECT_EQ(error_text<ShapeError>([&] { (void)view_.transpose(0, 3); }),
              "[transpose] a dimension must be in [0, 3); found 3");
    EXPECT_THROW((void)view_.transpose(-1, 0), ShapeError);
}

TEST_F(ViewErrors, Reshape) {
    EXPECT_EQ(error_text<ShapeError>([&] { (void)view_.reshape(Shape<2>(5, 5)); }),
              "[reshape] element counts must agree; found [2, 3, 4] and [5, 5]");
    EXPECT_EQ(error_text<ShapeError>([&] { (void)view_.transpose(0, 1).reshape(Shape<1>(24)); }),
              "[reshape] only row-major elements without gaps can be reshaped without a copy; "
              "found shape [3, 2, 4], strides [4, 12, 1]");
    EXPECT_THROW((void)view_.slice(2, 0, 2).reshape(Shape<1>(12)), ShapeError);
    EXPECT_THROW((void)view_.reshape(Shape<2>(two_to(32), two_to(32))), ShapeError);
}

TEST_F(ViewErrors, Split) {
    EXPECT_EQ(error_text<ShapeError>([&] { (void)view_.split(2, 3); }),
              "[split] the number of parts must divide dimension 2 of [2, 3, 4]; found 3");
    EXPECT_THROW((void)view_.split(2, 0), ShapeError);
    EXPECT_THROW((void)view_.split(2, -2), ShapeError);
    EXPECT_THROW((void)view_.split(3, 1), ShapeError);
    EXPECT_THROW((void)view_.split(-1, 1), ShapeError);
    EXPECT_THROW((void)view_.split_heads(3), ShapeError);
}

TEST_F(ViewErrors, Merge) {
    EXPECT_EQ(error_text<ShapeError>([&] { (void)view_.transpose(0, 1).merge(0); }),
              "[merge] dimensions 0 and 1 of [3, 2, 4] must follow each other in memory; found "
              "strides [4, 12, 1]");
    EXPECT_EQ(error_text<ShapeError>([&] { (void)view_.merge(2); }),
              "[merge] a dimension must be in [0, 3); found 3");
    EXPECT_THROW((void)view_.merge(-1), ShapeError);
    EXPECT_THROW((void)view_.slice(2, 0, 3).merge(1), ShapeError);
    // Heads that lie one after the other (BHLD) cannot be joined per position.
    EXPECT_THROW((void)view_.unsqueeze().merge_heads(), ShapeError);
}

TEST_F(ViewErrors, ReachBeyond63Bits) {
    float* const memory = memory_.data();
    // (2^33 - 1) * 2^30 = 2^63 - 2^30 elements fit, their bytes do not.
    EXPECT_THROW((TensorView<float, 1>(memory, {two_to(33)}, {two_to(30)})), ShapeError);
    EXPECT_EQ(
        error_text<ShapeError>([&] { TensorView<float, 1>(memory, {two_to(33)}, {two_to(31)}); }),
        "[TensorView] a size must fit into 63 bits; found a product or sum beyond it");
    EXPECT_THROW((TensorView<float, 1>(memory, {two_to(33)}, {-two_to(31)})), ShapeError);
    EXPECT_THROW((TensorView<float, 2>(memory, {2, 2}, {two_to(61), 1})), ShapeError);
    EXPECT_THROW((TensorView<float, 2>(memory, {2, 2}, {two_to(60), two_to(60)})), ShapeError);
    EXPECT_THROW((TensorView<float, 1>(memory, {2}, {std::numeric_limits<Index>::min()})),
                 ShapeError);
    EXPECT_THROW((TensorView<float, 2>(memory, {0, two_to(40)}, {1, two_to(40)})), ShapeError);
    EXPECT_THROW((TensorView<float, 2>(memory, {two_to(40), two_to(40)}, {0, 0})), ShapeError);
    EXPECT_THROW((TensorView<float, 2>(memory, {two_to(32), two_to(32)})), ShapeError);
    EXPECT_NO_THROW((TensorView<float, 2>(memory, {2, 2}, {two_to(60), 1})));
    EXPECT_NO_THROW((TensorView<float, 2>(memory, {2, 2}, {-two_to(60), 1})));
}

TEST_F(ViewErrors, NothingWasWritten) {
    EXPECT_EQ(memory_, counted(24));
}

#ifndef NDEBUG
TEST(ViewDeathTest, PositionsAreCheckedInDebugBuilds) {
    ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
    std::vector<float> memory(6);
    const TensorView<float, 2> view(memory, {2, 3});
    EXPECT_DEATH((void)view(0, 3), "extent");
    EXPECT_DEATH((void)view(-1, 0), "extent");
    EXPECT_DEATH((void)view.row(2), "extent");
}
#endif

// ---- far apart ----------------------------------------------------------------------------------

#ifdef __linux__
/// Addresses in plenty; only pages that are written take memory. Null where there are none.
class Addresses {
  public:
    explicit Addresses(Index floats) : bytes_(static_cast<std::size_t>(floats) * sizeof(float)) {
        memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    Addresses(const Addresses&) = delete;
    Addresses& operator=(const Addresses&) = delete;
    ~Addresses() {
        if (memory_ != MAP_FAILED) munmap(memory_, bytes_);
    }
    [[nodiscard]] float* begin() const {
        return memory_ == MAP_FAILED ? nullptr : static_cast<float*>(memory_);
    }

  private:
    std::size_t bytes_;
    void* memory_;
};

// Offsets beyond 2^31 elements: with 32-bit arithmetic, "silent corruption first, crash second".
TEST(Museum, B3_37_OffsetsBeyond32Bits) {
    constexpr Index far = two_to(31) + 5;
    const Addresses addresses(16 * far);
    if (addresses.begin() == nullptr) GTEST_SKIP() << "not that many addresses here";
    const TensorView<float, 4> view(addresses.begin(), {2, 2, 2, 2},
                                    {8 * far, 4 * far, 2 * far, far});
    const auto distance = [&](const auto& other) { return other.data() - addresses.begin(); };
    EXPECT_EQ(distance(view.select(0, 1)), 8 * far);
    EXPECT_EQ(distance(view.slice(1, 1, 1)), 4 * far);
    EXPECT_EQ(distance(view.select(0, 1).select(0, 1).select(0, 1).slice(0, 1, 1)), 15 * far);
    EXPECT_EQ(view.row(1, 1, 1) - addresses.begin(), 14 * far);
    EXPECT_EQ(&view(1, 0, 0, 1) - addresses.begin(), 9 * far);
    EXPECT_EQ(view.merge(2).stride(2), far);
    EXPECT_EQ(view.split(0, 2).stride(0), 8 * far);
    EXPECT_EQ(view.unsqueeze().stride(1), 8 * far);
    // What 32 bits would make of it.
    EXPECT_NE(static_cast<Index>(static_cast<std::int32_t>(15 * far)), 15 * far);
}

TEST(Museum, B3_37_SparseMemoryWithFarRows) {
    // Three rows of 4 floats, 2^31 + 4096 elements apart: 16 GiB of addresses, three pages.
    constexpr Index stride = two_to(31) + 4096;
    const Addresses addresses(2 * stride + 4096);
    float* const memory = addresses.begin();
    if (memory == nullptr) GTEST_SKIP() << "not that many addresses here";
    const TensorView<float, 2> view(memory, {3, 4}, {stride, 1});
    for (Index i = 0; i < 3; ++i)
        for (Index j = 0; j < 4; ++j) view(i, j) = static_cast<float>(10 * i + j);
    EXPECT_EQ(memory[2 * stride + 3], 23.0F);
    EXPECT_EQ(memory[stride + 1], 11.0F);
    EXPECT_EQ(view.matrix()(2, 3), 23.0F);
    EXPECT_EQ(view.select(0, 2)(3), 23.0F);
    EXPECT_EQ(view.transpose(0, 1)(3, 2), 23.0F);
    const heed::Tensor<float, 2> dense{TensorView<const float, 2>(view)};
    EXPECT_THAT(support::elements(dense.view()),
                ElementsAre(0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23));
}
#endif

}  // namespace
