// Does a sink take its share of the softmax and give nothing? By hand, against the oracle, and
// against a key of the same score whose value is zero.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "attention/attend.hpp"
#include "attention/judge.hpp"
#include "attention/part_checks.hpp"
#include "attention/random_case.hpp"
#include "heed/nn/extra_keys.hpp"

namespace {

using attend::everything;
using attend::for_random_cases;
using attend::infinity;
using attend::Inputs;
using heed::ArgumentError;
using heed::AttentionShape;
using heed::Causal;
using heed::Index;
using heed::ShapeError;
using heed::Sinks;
using heed::Tensor;
using heed::TensorView;

/// One query whose score of key j is scores[j], with the given values.
template <class Mask>
attend::Outputs<float> row(const std::vector<float>& scores, const std::vector<float>& values,
                           const Mask& mask) {
    const Index n = std::ssize(scores);
    const Tensor<float, 4> q({1, 1, 1, 1}, {1.0f}), k({1, 1, n, 1}, scores);
    const Tensor<float, 4> v({1, 1, n, 1}, values);
    return everything(q, k, v, mask, {.scale = 1.0});
}

Tensor<float, 1> logits(float value) {
    return Tensor<float, 1>({1}, {value});
}

// Scores log 1 and log 2 beside a sink of log 3: weights 1 / 6 and 2 / 6, log-sum-exp log 6; with
// values 6 and 12 the output is 1 + 4.
TEST(Sinks, ByHand) {
    const auto result = row({0, std::log(2.0f)}, {6, 12}, Sinks{logits(std::log(3.0f))});
    EXPECT_NEAR(result.weights(0, 0, 0, 0), 1 / 6.0, 1e-7);
    EXPECT_NEAR(result.weights(0, 0, 0, 1), 2 / 6.0, 1e-7);
    for (const auto* out : {&result.out, &result.lean_out})
        EXPECT_NEAR((*out)(0, 0, 0, 0), 5, 3e-6);
    for (const auto* lse : {&result.lse, &result.lean_lse})
        EXPECT_NEAR((*lse)(0, 0, 0), std::log(6.0), 5e-7);
    EXPECT_EQ(result.scores(0, 0, 0, 1), std::log(2.0f));
}

// A sink of 0 is "softmax plus one": one score of 0 has the weight 1 / 2.
TEST(Sinks, OfZeroIsSoftmaxPlusOne) {
    const auto result = row({0}, {8}, Sinks{logits(0)});
    EXPECT_EQ(result.weights(0, 0, 0, 0), 0.5f);
    EXPECT_EQ(result.lean_out(0, 0, 0, 0), 4.0f);
    EXPECT_FLOAT_EQ(result.lean_lse(0, 0, 0), std::numbers::ln2_v<float>);
}

TEST(Sinks, WithoutAVisibleKeyAreTheLogSumExp) {
    for (const float sink : {-1e4f, -2.5f, 0.0f, 3.25f, 1e4f}) {
        const std::array<Index, 1> none{0};
        const auto masked = row({1, 2}, {3, 4}, heed::KeyLengths{none} & Sinks{logits(sink)});
        const auto empty = row({}, {}, Sinks{logits(sink)});
        for (const auto* result : {&masked, &empty}) {
            EXPECT_EQ(result->out(0, 0, 0, 0), 0.0f);
            EXPECT_EQ(result->lean_out(0, 0, 0, 0), 0.0f);
            EXPECT_EQ(result->lse(0, 0, 0), sink);
            EXPECT_EQ(result->lean_lse(0, 0, 0), sink);
            for (const float weight : result->weights.values()) EXPECT_EQ(weight, 0.0f);
        }
    }
}

// Far above the scores a sink takes everything, far below nothing; and nothing overflows.
TEST(Sinks, MayBeFarFromTheScores) {
    for (const float score : {-1e4f, -80.0f, 80.0f, 1e4f}) {
        const auto above = row({score, score}, {3, 5}, Sinks{logits(2e4f)});
        EXPECT_EQ(above.lean_out(0, 0, 0, 0), 0.0f);
        EXPECT_EQ(above.lean_lse(0, 0, 0), 2e4f);
        for (const float sink : {-2e4f, -3e38f}) {
            const auto below = row({score, score}, {3, 5}, Sinks{logits(sink)});
            EXPECT_EQ(below.lean_out(0, 0, 0, 0), 4.0f);
            EXPECT_FLOAT_EQ(below.lean_lse(0, 0, 0), score + std::numbers::ln2_v<float>);
            EXPECT_EQ(below.weights(0, 0, 0, 1), 0.5f);
        }
    }
}

TEST(Sinks, OfMinusInfinityAreNone) {
    for_random_cases(60, [](support::Random& random, const AttentionShape& s) {
        const Inputs<float> in(random, s);
        const attend::RandomMasks masks(random, s);
        Tensor<float, 1> none(s.heads);
        heed::fill(none.view(), -infinity);
        EXPECT_SAME(everything(in.q, in.k, in.v, masks.masks()),
                    everything(in.q, in.k, in.v, Sinks{none} & masks.masks()));
        // So is a double that is minus infinity as a float.
        Tensor<double, 1> far(s.heads);
        heed::fill(far.view(), -1e300);
        EXPECT_SAME(everything(in.q, in.k, in.v), everything(in.q, in.k, in.v, Sinks{far}));
    });
}

// Every mask at once, or none, so that full tiles, edges and tiles of scores edited one by one all
// meet a sink.
TEST(Sinks, AgreeWithTheOracle) {
    for_random_cases(250, [](support::Random& random, const AttentionShape& s) {
        const Inputs<float> in(random, s);
        const attend::RandomMasks masks(random, s);
        Tensor<float, 2> sinks({random.chance(0.5) ? s.batch : 1, s.heads});
        const double spread = random.pick({1.0, 10.0, 100.0});
        for (float& x : sinks.values())
            x = random.chance(0.1) ? -infinity : static_cast<float>(spread * random.normal());
        oracle::Rules rules;
        rules.sink = [&](Index b, Index h) { return sinks(sinks.extent(0) == 1 ? 0 : b, h); };
        attend::expect_oracle(s, in.q, in.k, in.v, Sinks{sinks}, rules);
        const Index offset = random.integer(-s.q_len, s.kv_len);
        rules.visible = [&](Index, Index, Index q, Index k) { return k <= q + offset; };
        attend::expect_oracle(s, in.q, in.k, in.v, Causal::offset(offset) & Sinks{sinks}, rules);
        rules.visible = [&](Index b, Index h, Index q, Index k) {
            return masks.visible(b, h, q, k);
        };
        rules.modify = [&](double score, Index b, Index h, Index q, Index k) {
            return masks.visible(b, h, q, k) ? masks.modify(score, b, h, q, k) : score;
        };
        rules.softcap = masks.cap;
        attend::expect_oracle(s, in.q, in.k, in.v, Sinks{sinks} & masks.masks_and_cap(), rules,
                              masks.added_magnitude());
    });
}

// The maximum of a long row rises and falls from tile to tile, under and over the sink.
TEST(Sinks, AgreeWithTheOracleOverManyTiles) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const AttentionShape s{1, 2, 1, 70, 700, 8, 5};
    Inputs<float> in(random, s);
    for (Index j = 0; j < s.kv_len; ++j)
        for (Index c = 0; c < s.head_dim; ++c)
            in.k(0, 0, j, c) *= 4 * std::sin(static_cast<float>(j) / 100);
    for (const float sink : {-30.0f, 0.0f, 5.0f, 20.0f, 60.0f}) {
        const Tensor<float, 1> sinks({2}, {sink, -sink});
        oracle::Rules rules;
        rules.sink = [&](Index, Index h) { return sinks(h); };
        attend::expect_oracle(s, in.q, in.k, in.v, Sinks{sinks}, rules);
    }
}

TEST(Sinks, InDoubleAndHalfAgreeWithTheOracle) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const AttentionShape s{2, 4, 2, 19, 150, 7, 9};
    const auto judge = [&]<class T, class Stored>(T, Stored) {
        const Inputs<T> in(random, s);
        const auto sinks = attend::normals<Stored, 2>(random, {2, 4}, 3.0);
        oracle::Rules rules;
        rules.sink = [&](Index b, Index h) { return static_cast<double>(sinks(b, h)); };
        attend::expect_oracle(s, in.q, in.k, in.v, Sinks{sinks}, rules);
    };
    judge(double{}, double{});
    judge(double{}, float{});
    judge(heed::half{}, heed::half{});
    judge(heed::bfloat16{}, float{});
    judge(float{}, heed::bfloat16{});
}

// The definition in other words: a key that every query sees, of that score and of value zero.
TEST(Sinks, EqualAKeyWithoutAValue) {
    for_random_cases(100, [](support::Random& random, const AttentionShape& s) {
        const Inputs<double> in(random, s);
        const auto sinks = attend::normals<double, 1>(random, heed::Shape<1>(s.heads), 3.0);
        AttentionShape longer = s;
        ++longer.kv_len;
        Inputs<double> with_key(random, longer);
        heed::copy(in.q.view(), with_key.q.view());
        heed::copy(in.k.view(), with_key.k.view().slice(2, 0, s.kv_len));
        heed::copy(in.v.view(), with_key.v.view().slice(2, 0, s.kv_len));
        heed::fill(with_key.v.view().slice(2, s.kv_len, 1), 0.0);
        const auto score = [&](double found, heed::ScoreIndex at) {
            return at.k == s.kv_len ? sinks(at.h) : found;
        };
        const auto found = everything(in.q, in.k, in.v, Sinks{sinks});
        const auto expected = everything(with_key.q, with_key.k, with_key.v, score);
        const auto check = [](const auto& a, const auto& b) {
            const auto verdict = support::compare_within(attend::elements(a), attend::elements(b),
                                                         support::rounding_floor<double>(64));
            EXPECT_TRUE(verdict) << verdict.message;
        };
        check(found.lean_out, expected.lean_out);
        check(found.lean_lse, expected.lean_lse);
        check(found.weights, heed::read(expected.weights).slice(3, 0, s.kv_len));
    });
}

// exp(log 1) + exp(log 2) = exp(log 3)
TEST(Sinks, AddUpInTheSum) {
    const auto one = logits(0), two = logits(std::log(2.0f)), three = logits(std::log(3.0f));
    const auto none = logits(-infinity);
    const auto together = row({1, 2}, {3, 4}, Sinks{three});
    const auto apart = row({1, 2}, {3, 4}, Sinks{one} & Sinks{none} & Sinks{two});
    EXPECT_NEAR(apart.lean_out(0, 0, 0, 0), together.lean_out(0, 0, 0, 0), 2e-6);
    EXPECT_NEAR(apart.lse(0, 0, 0), together.lse(0, 0, 0), 1e-6);
}

// Dropout comes after the softmax: the weights that remain keep their share of a sum with the sink.
TEST(Sinks, AreNotDropped) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const AttentionShape s{1, 2, 2, 20, 150, 4, 3};
    const Inputs<float> in(random, s);
    const Tensor<float, 1> sinks({2}, {1.0f, 4.0f});
    const heed::Dropout dropout{.probability = 0.5, .seed = 3};
    const auto result = everything(in.q, in.k, in.v, Sinks{sinks}, {.dropout = dropout});
    EXPECT_SAME(result.weights, everything(in.q, in.k, in.v, Sinks{sinks}).weights);
    for (std::uint32_t h = 0; h < 2; ++h)
        for (std::uint32_t i = 0; i < 20; ++i)
            for (Index c = 0; c < 3; ++c) {
                double expected = 0, magnitude = 0;
                for (std::uint32_t j = 0; j < 150; ++j) {
                    const auto bits = heed::philox({j / 4, i, h, 0}, heed::philox_key(3));
                    const double term = static_cast<double>(result.weights(0, h, i, j)) *
                                        static_cast<double>(in.v(0, h, j, c)) * 2;
                    magnitude += std::abs(term);
                    if (bits[j % 4] * 0x1p-32 >= 0.5) expected += term;
                }
                for (const auto* out : {&result.out, &result.lean_out})
                    EXPECT_NEAR((*out)(0, h, i, c), expected,
                                2 * support::rounding_floor<float>(magnitude));
            }
}

TEST(Sinks, LeaveNaNAndInfinityOfVisibleKeysAsTheyAre) {
    for (const float poison : {attend::not_a_number, infinity}) {
        const auto result = row({poison, 1}, {3, 4}, Sinks{logits(2)});
        EXPECT_TRUE(std::isnan(result.out(0, 0, 0, 0)));
        EXPECT_TRUE(std::isnan(result.lean_out(0, 0, 0, 0)));
        EXPECT_EQ(std::isnan(result.lean_lse(0, 0, 0)), std::isnan(poison));
    }
}

TEST(Sinks, PoisonInHiddenKeysChangesNoBit) {
    for_random_cases(100, [](support::Random& random, const AttentionShape& s) {
        Inputs<float> in(random, s);
        const auto sinks = attend::normals<float, 1>(random, heed::Shape<1>(s.heads), 3.0);
        const std::vector<Index> lengths(static_cast<std::size_t>(s.batch),
                                         random.integer(0, s.kv_len));
        const auto run = [&] {
            return everything(in.q, in.k, in.v, Sinks{sinks} & heed::KeyLengths{lengths});
        };
        const auto clean = run();
        if (s.batch == 0) return;
        const Index hidden = s.kv_len - lengths[0];
        for (auto* tensor : {&in.k, &in.v})
            heed::fill(tensor->view().slice(2, lengths[0], hidden),
                       random.pick({attend::not_a_number, infinity, 1e38f}));
        EXPECT_SAME(clean, run());
    });
}

// A layer's own keys are visible beside the mask's; the sink of the mask still counts.
TEST(Sinks, ReachALayerThatAppendsKeys) {
    support::Random random;
    const AttentionShape s{2, 2, 2, 5, 7, 4, 3};
    const Inputs<float> in(random, s);
    const Tensor<float, 1> sinks({2}, {0.5f, 3.0f});
    const auto mask = heed::detail::with_extra_keys(Sinks{sinks}, 1);
    EXPECT_SAME(everything(in.q, in.k, in.v, mask), everything(in.q, in.k, in.v, Sinks{sinks}));
}

TEST(Sinks, GiveTheSameBitsForAllThreadsAndAllocateNothing) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const Inputs<float> in(random, {2, 4, 2, 200, 300, 32, 32});
    const auto sinks = attend::normals<float, 1>(random, heed::Shape<1>(4), 3.0);
    const auto mask = [&] {
        return Sinks{sinks} & Causal::bottom_right() & heed::SlidingWindow{.left = 50} &
               heed::SoftCap{30.0};
    };
    attend::expect_same_bits_for_all_threads(in, mask());
    attend::expect_same_bits_for_all_threads(in, Sinks{sinks});
    attend::expect_no_allocation(in, mask);
}

TEST(Sinks, AreRefusedWhenTheyDoNotFit) {
    const AttentionShape s{2, 3, 1, 4, 6, 3, 3};
    attend::expect_refused<ShapeError>(s, Sinks{Tensor<float, 1>(2)}, "Sinks",
                                       {"the logits must broadcast to [2, 3]", "found [1, 2]"});
    attend::expect_refused<ShapeError>(s, Sinks{Tensor<float, 2>({3, 2})}, "Sinks",
                                       {"the logits must broadcast to [2, 3]", "found [3, 2]"});
    const TensorView<const float, 1> null(nullptr, heed::Shape<1>(3));
    attend::expect_refused<ArgumentError>(s, Sinks{null}, "Sinks",
                                          {"the logits must point at memory", "null"});
    Tensor<float, 2> bad({2, 3});
    bad(1, 2) = infinity;
    attend::expect_refused<ArgumentError>(
        s, Sinks{bad}, "Sinks",
        {"must be below infinity", "found inf for head 2 of batch element 1"});
    bad(1, 2) = attend::not_a_number;
    attend::expect_refused<ArgumentError>(s, Sinks{bad}, "Sinks", {"found nan for head 2"});
    const Tensor<double, 1> large({3}, {0, 4e38, 0});
    attend::expect_refused<ArgumentError>(s, Sinks{large}, "Sinks", {"found 4e+38 for head 1"});
    const Tensor<heed::half, 1> half({3}, {heed::half(0), heed::half(infinity), heed::half(0)});
    attend::expect_refused<ArgumentError>(s, Sinks{half}, "Sinks", {"found inf for head 1"});
}

TEST(Sinks, MustNotOverlapAnOutput) {
    support::Random random;
    const Inputs<float> in(random, {1, 2, 2, 3, 4, 2, 2});
    Tensor<float, 4> out({1, 2, 3, 2});
    EXPECT_THROW(heed::scaled_dot_product_attention(
                     in.q, in.k, in.v, out,
                     Sinks{TensorView<const float, 1>(out.data(), heed::Shape<1>(2))}),
                 ShapeError);
}

// softmax of a row beside a sink: log 1 and log 2 beside log 3.
TEST(Sinks, OfASoftmaxRow) {
    std::vector<double> scores{0, std::log(2.0)};
    const double lse = heed::softmax(std::span<double>(scores), std::log(3.0));
    EXPECT_NEAR(scores[0], 1 / 6.0, 1e-16);
    EXPECT_NEAR(scores[1], 2 / 6.0, 1e-16);
    EXPECT_NEAR(lse, std::log(6.0), 1e-15);
}

}  // namespace
