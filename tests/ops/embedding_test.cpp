// Rows of a table by their numbers: every kind of number, any strides, and numbers that name no
// row.

#include "heed/ops/embedding.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "heed/tensor/tensor.hpp"
#include "support/random.hpp"
#include "tensor/errors.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::ArgumentError;
using heed::bfloat16;
using heed::embedding;
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

template <class Id>
TensorView<const Id, 1> view_of(const std::vector<Id>& ids) {
    return {ids.data(), {ids.size()}};
}

template <class Id>
class EmbeddingIds : public ::testing::Test {};
using IdTypes = ::testing::Types<std::int8_t, std::uint8_t, std::int16_t, std::int32_t,
                                 std::uint32_t, std::int64_t, std::uint64_t>;
TYPED_TEST_SUITE(EmbeddingIds, IdTypes);

TYPED_TEST(EmbeddingIds, ByHand) {
    const Tensor<float, 2> table({3, 2}, {0, 1, 10, 11, 20, 21});
    const std::vector<TypeParam> ids{2, 0, 2, 1};
    Tensor<float, 2> y({4, 2});
    embedding(view_of(ids), table, y.view());
    EXPECT_THAT(y.values(), ElementsAre(20, 21, 0, 1, 20, 21, 10, 11));
}

TYPED_TEST(EmbeddingIds, IdsOutsideTheTableAreRefusedBeforeAnythingIsWritten) {
    using Id = TypeParam;
    const Tensor<float, 2> table({3, 2});
    Tensor<float, 2> y({2, 2}, {7, 7, 7, 7});
    const auto message = [&](Id id) {
        const std::vector<Id> ids{1, id};
        return error_text<ArgumentError>([&] { embedding(view_of(ids), table, y.view()); });
    };
    EXPECT_EQ(message(3), "[embedding] an id must be in [0, 3); found 3 at position 1");
    for (Id id : {std::numeric_limits<Id>::max(), std::numeric_limits<Id>::min()})
        if (id != 0) {
            EXPECT_EQ(message(id), "[embedding] an id must be in [0, 3); found " +
                                       std::to_string(id) + " at position 1");
        }
    if (std::is_signed_v<Id>) {
        EXPECT_EQ(message(static_cast<Id>(-1)),
                  "[embedding] an id must be in [0, 3); found -1 at position 1");
    }
    EXPECT_THAT(y.values(), Each(7.0F));
}

template <class T>
class EmbeddingOf : public ::testing::Test {};
using StorageTypes = ::testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(EmbeddingOf, StorageTypes);

TYPED_TEST(EmbeddingOf, AnyStridesCopyEveryBit) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 50; ++trial) {
        const Index vocabulary = random.integer(1, 9), width = random.integer(0, 6),
                    n = random.integer(0, 12);
        const Strided<T, 2> table(random, Shape<2>(vocabulary, width));
        const Strided<T, 2> y(random, Shape<2>(n, width));
        const Strided<std::int32_t, 1> ids(random, Shape<1>(n), -99);
        table.assign(random.normals<T>(static_cast<std::size_t>(vocabulary * width)));
        std::vector<std::int32_t> numbers;
        for (Index i = 0; i < n; ++i)
            numbers.push_back(static_cast<std::int32_t>(random.integer(0, vocabulary - 1)));
        ids.assign(numbers);
        embedding(ids.const_view(), table.view(), y.view());
        for (Index i = 0; i < n; ++i)
            for (Index c = 0; c < width; ++c)
                ASSERT_EQ(y.view()(i, c), table.view()(numbers[static_cast<std::size_t>(i)], c));
        ASSERT_TRUE(y.gaps_untouched());
    }
}

TEST(Embedding, OfNothing) {
    const std::vector<std::int64_t> none;
    Tensor<float, 2> y({0, 2});
    embedding(view_of(none), Tensor<float, 2>({3, 2}), y.view());
    embedding(view_of(none), Tensor<float, 2>({0, 2}), y.view());
    // An empty table has no row 0.
    const std::vector<std::int64_t> zero{0};
    Tensor<float, 2> one({1, 2}, {7, 7});
    EXPECT_EQ(error_text<ArgumentError>([&] {
                  embedding(view_of(zero), Tensor<float, 2>({0, 2}), one.view());
              }),
              "[embedding] an id must be in [0, 0); found 0 at position 0");
    EXPECT_THAT(one.values(), Each(7.0F));
}

TEST(Embedding, SizesThatDoNotFitAreRefusedBeforeAnythingIsWritten) {
    const std::vector<std::int32_t> ids{0, 1};
    const Tensor<float, 2> table({3, 2});
    Tensor<float, 2> narrow({2, 1}, {7, 7}), longer({3, 2}, {7, 7, 7, 7, 7, 7});
    EXPECT_EQ(error_text<ShapeError>([&] { embedding(view_of(ids), table, narrow.view()); }),
              "[embedding] the output must have shape [2, 2]; found [2, 1]");
    EXPECT_EQ(error_text<ShapeError>([&] { embedding(view_of(ids), table, longer.view()); }),
              "[embedding] the output must have shape [2, 2]; found [3, 2]");
    EXPECT_THAT(narrow.values(), Each(7.0F));
    EXPECT_THAT(longer.values(), Each(7.0F));
}

TEST(Embedding, OverlapAndNullAreRefusedBeforeAnythingIsWritten) {
    std::vector<float> memory(12, 7.0F);
    const std::vector<std::int32_t> ids{0, 1};
    const TensorView<float, 2> table(memory.data(), {3, 2}), y(memory.data() + 6, {2, 2});
    const TensorView<float, 2> null(nullptr, {2, 2});
    const auto message = [&](auto rows, auto out) {
        return error_text<heed::Error>([&] { embedding(view_of(ids), rows, out); });
    };
    EXPECT_EQ(message(table, TensorView<float, 2>(memory.data() + 4, {2, 2})),
              "[embedding] the output must not overlap an input or another output; found "
              "overlapping memory");
    EXPECT_EQ(message(table, TensorView<float, 2>(memory.data() + 6, {2, 2}, {0, 1})),
              "[embedding] the output must have a place for each element; found shape [2, 2], "
              "strides [0, 1]");
    EXPECT_EQ(message(null, y),
              "[embedding] the table must point at memory; found null with shape [2, 2]");
    EXPECT_EQ(message(table, null),
              "[embedding] the output must point at memory; found null with shape [2, 2]");
    EXPECT_EQ(error_text<ArgumentError>(
                  [&] { embedding(TensorView<const std::int32_t, 1>(nullptr, {2}), table, y); }),
              "[embedding] the ids must point at memory; found null with shape [2]");
    EXPECT_THAT(memory, Each(7.0F));
}

// --- The way back

TYPED_TEST(EmbeddingIds, BackwardByHand) {
    const std::vector<TypeParam> ids{2, 0, 2};
    const Tensor<float, 2> dy({3, 2}, {1, 2, 10, 20, 100, 200});
    Tensor<float, 2> dtable({3, 2}, {0, 0, 5, 6, 1000, 0});
    heed::embedding_backward(view_of(ids), dy, dtable.view());
    // Rows that two ids name get both; the row that none names is left alone.
    EXPECT_THAT(dtable.values(), ElementsAre(10, 20, 5, 6, 1101, 202));
}

// <dy, rows of the table> is linear in the table: its gradient is what the transpose of taking rows
// gives, <embedding(t), dy> = <t, embedding_backward(dy)>, exact in small integers.
TEST(EmbeddingBackward, IsTheTransposeForAnyStrides) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 50; ++trial) {
        const Index vocabulary = random.integer(1, 9), width = random.integer(0, 6),
                    n = random.integer(0, 12);
        const Shape<2> tables(vocabulary, width), rows(n, width);
        const Strided<double, 2> table(random, tables), y(random, rows), dy(random, rows),
            dtable(random, tables);
        const auto integers = [&](const auto& strided) {
            std::vector<double> values;
            for (Index i = 0; i < strided.view().element_count(); ++i)
                values.push_back(static_cast<double>(random.integer(-9, 9)));
            strided.assign(values);
        };
        integers(table);
        integers(dy);
        dtable.assign(std::vector<double>(static_cast<std::size_t>(vocabulary * width), 1.0));
        std::vector<int> ids;
        for (Index i = 0; i < n; ++i)
            ids.push_back(static_cast<int>(random.integer(0, vocabulary - 1)));
        embedding(view_of(ids), table.const_view(), y.view());
        heed::embedding_backward(view_of(ids), dy.const_view(), dtable.view());
        const auto product = [](const auto& a, const auto& b, double less) {
            const auto x = elements(a.view()), z = elements(b.view());
            double sum = 0;
            for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] * (z[i] - less);
            return sum;
        };
        ASSERT_EQ(product(table, dtable, 1.0), product(dy, y, 0.0));
        ASSERT_TRUE(dtable.gaps_untouched() && dy.gaps_untouched());
    }
}

TEST(EmbeddingBackward, MistakesAreRefusedBeforeAnythingIsWritten) {
    std::vector<float> memory(20, 7.0F);
    const std::vector<std::int32_t> ids{0, 1}, far{0, 3};
    const TensorView<float, 2> dtable(memory.data(), {3, 2}), dy(memory.data() + 6, {2, 2});
    const auto message = [&](const auto& numbers, auto slopes, auto table) {
        return error_text<heed::Error>(
            [&] { heed::embedding_backward(view_of(numbers), slopes, table); });
    };
    EXPECT_EQ(message(far, dy, dtable),
              "[embedding_backward] an id must be in [0, 3); found 3 at position 1");
    EXPECT_EQ(message(ids, TensorView<float, 2>(memory.data() + 6, {2, 3}), dtable),
              "[embedding_backward] dy must have shape [2, 2]; found [2, 3]");
    EXPECT_EQ(message(ids, TensorView<float, 2>(nullptr, {2, 2}), dtable),
              "[embedding_backward] dy must point at memory; found null with shape [2, 2]");
    EXPECT_EQ(message(ids, TensorView<float, 2>(memory.data() + 5, {2, 2}), dtable),
              "[embedding_backward] dtable must not overlap an input or another output; found "
              "overlapping memory");
    EXPECT_THAT(memory, Each(7.0F));
}

}  // namespace
