// Does a large batch that goes through a layer in parts have the bits of its elements alone, take
// memory for a part only, and refuse what does not fit before anything is written?

#include "heed/nn/batch_parts.hpp"

#include <gtest/gtest.h>

#include <span>
#include <vector>

#include "heed/nn/transformer.hpp"
#include "nn/nn_support.hpp"
#include "support/allocation_counter.hpp"
#include "support/threads.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::Causal;
using heed::KeyLengths;
using heed::MultiHeadAttention;
using heed::NoMask;
using heed::SlidingWindow;
using heed::TransformerEncoderLayer;
using heed::detail::elements_at_once;
using nn_test::Index;
using nn_test::Random;
using nn_test::random_tensor;
using nn_test::randomise_parameters;
using nn_test::Shape;
using nn_test::Tensor;
using nn_test::TensorView;
using nn_test::values;

/// 9 elements with 150 rows of 3 * 576 floats each: 3 parts with one worker, 2 with two.
constexpr Index batch = 9, length = 150, width = 576;

class BatchParts : public testing::TestWithParam<int> {
  protected:
    BatchParts()
        : with_(GetParam()),
          x_(random_tensor<float, 3>(random_, {batch, length, width})),
          y_(x_.shape()),
          expected_(x_.shape()) {
        for (Index b = 0; b < batch; ++b) lengths_.push_back(1 + 18 * b);
    }

    /// forward(x, y, mask) of the batch, and of its elements with part(b).
    template <class Forward, class Mask, class Part>
    void expect_bits_of_elements(const Forward& forward, const Mask& mask, const Part& part) {
        forward(x_.view(), y_.view(), mask);
        for (Index b = 0; b < batch; ++b)
            forward(x_.view().slice(0, b, 1), expected_.view().slice(0, b, 1), part(b));
        EXPECT_VERDICT(support::compare_bits(values(y_), values(expected_)));
    }
    template <class Forward>
    void expect_bits_with_every_mask(const Forward& forward) {
        const auto one = [&](Index b) {
            return std::span(lengths_).subspan(static_cast<std::size_t>(b), 1);
        };
        Tensor<bool, 2> keys({batch, length});
        for (Index b = 0; b < batch; ++b)
            for (Index k = 0; k < length; ++k) keys(b, k) = k % (b + 2) != 1;
        expect_bits_of_elements(forward, NoMask{}, [](Index) { return NoMask{}; });
        expect_bits_of_elements(forward, KeyLengths{lengths_} & SlidingWindow{9, 30}, [&](Index b) {
            return KeyLengths{one(b)} & SlidingWindow{9, 30};
        });
        expect_bits_of_elements(forward, Causal::offsets(lengths_),
                                [&](Index b) { return Causal::offsets(one(b)); });
        expect_bits_of_elements(forward, heed::attend_keys(keys), [&](Index b) {
            return heed::attend_keys(keys.view().slice(0, b, 1));
        });
        const Tensor<bool, 2> same = random_flags();
        expect_bits_of_elements(forward, heed::BlockWhere(same),
                                [&](Index) { return heed::BlockWhere(same); });
    }

    Tensor<bool, 2> random_flags() {
        Tensor<bool, 2> flags({length, length});
        for (Index q = 0; q < length; ++q)
            for (Index k = 0; k < length; ++k) flags(q, k) = random_.chance(0.3);
        return flags;
    }

    Random random_;
    support::WithThreads with_;
    Tensor<float, 3> x_, y_, expected_;
    std::vector<Index> lengths_;
};

TEST_P(BatchParts, OfAnAttentionHaveTheBitsOfItsElements) {
    SCOPED_TRACE(random_.describe());
    for (const bool bias_kv : {false, true}) {
        MultiHeadAttention<float> layer(
            {.embed_dim = width, .num_heads = 4, .add_bias_kv = bias_kv});
        randomise_parameters(random_, layer);
        expect_bits_with_every_mask([&](auto x, auto y, const auto& mask) {
            layer.forward(heed::read(x), heed::read(x), heed::read(x), y, mask);
        });
    }
}

TEST_P(BatchParts, OfAnEncoderLayerHaveTheBitsOfItsElements) {
    SCOPED_TRACE(random_.describe());
    for (const bool norm_first : {false, true}) {
        TransformerEncoderLayer<float> layer(
            {.d_model = width, .nhead = 4, .dim_feedforward = 80, .norm_first = norm_first});
        randomise_parameters(random_, layer);
        expect_bits_with_every_mask(
            [&](auto x, auto y, const auto& mask) { layer.forward(heed::read(x), y, mask); });
    }
}

TEST_P(BatchParts, TakeMemoryForAPartOnlyAndOnce) {
    SCOPED_TRACE(random_.describe());
    MultiHeadAttention<float> layer({.embed_dim = width, .num_heads = 4});
    randomise_parameters(random_, layer);
    const auto one = heed::read(x_.view().slice(0, 0, 1));
    layer.forward(one, one, one, y_.view().slice(0, 0, 1));  // packs the weights
    const support::AllocationCounter first;
    layer.forward(x_, x_, x_, y_);
    const std::size_t whole = static_cast<std::size_t>(batch * length * width) * 4 * sizeof(float);
    const Index at_once =
        layer.elements_at_once(x_.shape(), x_.shape(), NoMask{}, {}, heed::num_threads());
    EXPECT_EQ(at_once, GetParam() == 1 ? 3 : 5);
    EXPECT_LT(first.bytes(), whole * static_cast<std::size_t>(at_once + 1) / batch);
    const support::AllocationCounter second;
    layer.forward(x_, x_, x_, y_);
    EXPECT_EQ(second.count(), 0u);
}

TEST_P(BatchParts, WhatDoesNotFitIsRefusedBeforeAnythingIsWritten) {
    MultiHeadAttention<float> layer({.embed_dim = width, .num_heads = 4});
    y_.view()(0, 0, 0) = 7;
    const std::span<const Index> lengths(lengths_);
    EXPECT_THROW(layer.forward(x_, x_, x_, y_, KeyLengths{lengths.first(batch - 1)}),
                 heed::ShapeError);
    lengths_.back() = length + 1;
    EXPECT_THROW(layer.forward(x_, x_, x_, y_, KeyLengths{lengths_}), heed::ArgumentError);
    Tensor<bool, 2> keys({batch + 1, length});
    EXPECT_THROW(layer.forward(x_, x_, x_, y_, heed::attend_keys(keys)), heed::ShapeError);
    EXPECT_EQ(y_(0, 0, 0), 7);
}

TEST_P(BatchParts, OutputsBesideTheFirstAreThoseOfTheWholeBatch) {
    SCOPED_TRACE(random_.describe());
    MultiHeadAttention<float> layer({.embed_dim = width, .num_heads = 4});
    randomise_parameters(random_, layer);
    Tensor<float, 3> lse({batch, 4, length});
    layer.forward(x_, x_, x_, y_);
    layer.forward(x_, x_, x_, expected_, NoMask{}, {.lse = lse});
    EXPECT_VERDICT(support::compare_bits(values(y_), values(expected_)));
}

INSTANTIATE_TEST_SUITE_P(Threads, BatchParts, testing::Values(1, 2));

TEST(ElementsAtOnce, KeepWhatLiesBetweenNear) {
    constexpr Index mib = Index{1} << 20;
    EXPECT_EQ(elements_at_once(8, 128, mib / 4, 1), 8) << "all are near";
    EXPECT_EQ(elements_at_once(32, 128, mib, 1), 4);
    EXPECT_EQ(elements_at_once(32, 128, mib, 2), 8) << "each worker has caches";
    EXPECT_EQ(elements_at_once(10, 128, mib, 1), 4);
    EXPECT_EQ(elements_at_once(9, 128, mib, 1), 3) << "parts alike";
    EXPECT_EQ(elements_at_once(8, 2048, 100 * mib, 1), 1);
    EXPECT_EQ(elements_at_once(64, 16, 4 * mib, 1), 8) << "128 rows at least";
    EXPECT_EQ(elements_at_once(0, 128, mib, 1), 0);
    EXPECT_EQ(elements_at_once(5, 0, 0, 3), 5);
}

}  // namespace
