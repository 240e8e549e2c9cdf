// Real bugs of other attention code, each with the test that it must not pass here. The first line
// of a test names where the bug was found. Everything runs both with and without weights.
// Here: softmax and special values (B1), masks and geometry (B2).
#include "attention/museum.hpp"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

namespace {

using namespace museum;

constexpr float lowest = std::numeric_limits<float>::lowest();

// pytorch#103963, #103749
TEST(Museum, B1_01_FullyMaskedRow) {
    const AttentionShape s{2, 2, 2, 8, 6, 5, 4};
    Tensor<bool, 2> mask({8, 6});
    heed::fill(mask.view(), true);
    heed::fill(mask.view().select(0, 4), false);
    const auto result =
        expect_right(s, inputs(s), AttendWhere{mask},
                     {.visible = [](Index, Index, Index i, Index) { return i != 4; }});
    for (Index b = 0; b < 2; ++b)
        for (Index h = 0; h < 2; ++h) expect_empty_row(result, b, h, 4);
}

// pytorch#127055: whole tiles of keys masked before the first live one.
TEST(Museum, B1_02_MaskedTilesBeforeTheFirstLiveOne) {
    const Index L = 640;
    const AttentionShape s{1, 1, 1, L, L, 8, 8};
    const auto live = [](Index, Index, Index i, Index j) { return i - 10 < j && j <= i; };
    Tensor<float, 2> mask({L, L});
    for (Index i = 0; i < L; ++i)
        for (Index j = 0; j < L; ++j) mask(i, j) = live(0, 0, i, j) ? 0.0f : -infinity;
    const auto in = inputs(s);
    const auto by_bias = expect_right(s, in, AdditiveBias{mask}, {.visible = live});
    const auto by_window =
        expect_right(s, in, SlidingWindow{.left = 9, .right = 0}, {.visible = live});
    EXPECT_SAME(by_bias.out, by_window.out);
}

// The same with live keys that begin at every place around the edges of tiles.
TEST(Museum, B1_02_LiveKeysBeginAnywhere) {
    const Index L = 270;
    const AttentionShape s{1, 1, 1, 3, L, 4, 4};
    const auto in = inputs(s);
    for (Index first = 0; first<L; first += first % 16> 13 || first % 16 < 2 ? 1 : 5) {
        const auto live = [&](Index, Index, Index, Index j) { return j >= first && j < first + 9; };
        Tensor<bool, 1> mask(L);
        for (Index j = 0; j < L; ++j) mask(j) = live(0, 0, 0, j);
        expect_right(s, in, AttendWhere{mask}, {.visible = live});
    }
}

// ik_llama.cpp#2344
TEST(Museum, B1_03_EmptyRowsFirstInTheMiddleAndLast) {
    const AttentionShape s{1, 2, 1, 64, 40, 6, 5};
    for (const Index first : {0, 25, 50}) {
        Tensor<bool, 2> mask({64, 40});
        for (Index i = 0; i < 64; ++i)
            for (Index j = 0; j < 40; ++j) mask(i, j) = i < first || i >= first + 14;
        const auto result = expect_right(s, inputs(s), AttendWhere{mask},
                                         {.visible = [&](Index, Index, Index i, Index) {
                                             return i < first || i >= first + 14;
                                         }});
        for (Index i = first; i < first + 14; ++i) expect_empty_row(result, 0, 1, i);
    }
}

// pytorch#109517, #110213: the lowest number is small, not hidden.
TEST(Museum, B1_04_LowestIsNotMinusInfinity) {
    const AttentionShape s{1, 1, 1, 3, 5, 4, 2};
    Tensor<float, 2> mask({3, 5});
    heed::fill(mask.view().select(0, 1), lowest);
    const auto result = everything(inputs(s).q, inputs(s).k, inputs(s).v, AdditiveBias{mask});
    expect_no_nan(result);
    for (Index j = 0; j < 5; ++j) EXPECT_FLOAT_EQ(result.weights(0, 0, 1, j), 0.2f);
    for (const auto& lse : lses(result)) EXPECT_EQ(lse(0, 0, 1), lowest);
}

// transformers#27114: two of the lowest add up to minus infinity.
TEST(Museum, B1_05_TwoLowestMasks) {
    const AttentionShape s{1, 1, 1, 5, 5, 4, 2};
    Tensor<float, 1> padding(5);
    Tensor<float, 2> causal({5, 5});
    padding(3) = padding(4) = lowest;
    for (Index i = 0; i < 5; ++i)
        for (Index j = i + 1; j < 5; ++j) causal(i, j) = lowest;
    const auto in = inputs(s);
    const auto result = everything(in.q, in.k, in.v, AdditiveBias{padding} & AdditiveBias{causal});
    expect_no_nan(result);
    const std::array<Index, 1> lengths{3};
    EXPECT_SAME(result.out, everything(in.q, in.k, in.v, Causal{} & KeyLengths{lengths}).out);
}

// jax#34114
TEST(Museum, B1_06_DoubleMaskBeyondFloat) {
    const AttentionShape s{1, 1, 1, 3, 5, 4, 2};
    const Tensor<double, 1> mask({5}, {0, -1e308, 0.5, -1e300, 0});
    const auto result =
        expect_right(s, inputs(s), AdditiveBias{mask},
                     {.modify = [&](double x, Index, Index, Index, Index j) { return x + mask(j); },
                      .visible = [](Index, Index, Index, Index j) { return j != 1 && j != 3; }},
                     0.5);
    EXPECT_EQ(result.weights(0, 0, 0, 1), 0.0f);
}

// pytorch#101967
TEST(Museum, B1_07_PoisonInMaskedKeysAndValues) {
    const AttentionShape s{2, 2, 1, 9, 40, 4, 3};
    const std::array<Index, 2> lengths{33, 7};
    for (const float poison : {not_a_number, infinity, -infinity, 1e38f, -1e38f}) {
        Inputs<float> in = inputs(s);
        const auto clean = everything(in.q, in.k, in.v, KeyLengths{lengths});
        for (Index b = 0; b < 2; ++b) {
            const Index length = lengths[static_cast<std::size_t>(b)];
            heed::fill(in.k.view().select(0, b).slice(1, length, 40 - length), poison);
            heed::fill(in.v.view().select(0, b).slice(1, length, 40 - length), poison);
        }
        EXPECT_SAME(clean, everything(in.q, in.k, in.v, KeyLengths{lengths}));
    }
}

// flash-attention#1745, Wan2GP#1628
TEST(Museum, B1_08_UninitialisedTailOfACache) {
    const AttentionShape tight{1, 2, 2, 1, 5, 8, 8};
    const auto in = inputs(tight);
    Tensor<float, 4> k({1, 2, 64, 8}), v({1, 2, 64, 8});
    const float signalling = std::bit_cast<float>(0x7fa00000u);
    for (Tensor<float, 4>* cache : {&k, &v}) heed::fill(cache->view(), signalling);
    heed::copy(TensorView<const float, 4>(in.k), k.view().slice(2, 0, 5));
    heed::copy(TensorView<const float, 4>(in.v), v.view().slice(2, 0, 5));
    const std::array<Index, 1> length{5};
    const auto expected = everything(in.q, in.k, in.v);
    for (const auto& cached :
         {everything(in.q, k, v, KeyLengths{length}), everything(in.q, k, v, Causal::offset(4))}) {
        EXPECT_SAME(cached.out, expected.out);
        EXPECT_SAME(cached.lean_out, expected.lean_out);
        EXPECT_SAME(cached.lse, expected.lse);
        EXPECT_SAME(cached.lean_lse, expected.lean_lse);
    }
}

// NNlib.jl#206, openvino#33456: documented as NaN output and a log-sum-exp of infinity.
TEST(Museum, B1_10_InfiniteScore) {
    const Tensor<float, 4> q({1, 1, 3, 1}, {1, 1, 1}), k({1, 1, 3, 1}, {0.5f, 1, 2}),
        v({1, 1, 3, 1}, {1, 2, 3});
    const auto infinite = [](float s, heed::ScoreIndex at) {
        return at.q == 1 && at.k == 0 ? infinity : s;
    };
    const auto clean = everything(q, k, v), spoiled = everything(q, k, v, infinite);
    for (Index i = 0; i < 3; ++i)
        for (std::size_t path = 0; path < 2; ++path) {
            const float x = outs(spoiled)[path](0, 0, i, 0), lse = lses(spoiled)[path](0, 0, i);
            EXPECT_EQ(std::isnan(x), i == 1);
            EXPECT_EQ(lse == infinity, i == 1);
            if (i == 1) continue;
            EXPECT_NEAR(x, outs(clean)[path](0, 0, i, 0), 1e-6);
        }
}

// executorch#18407, FasterTransformer#43: exp overflows at 88.7.
TEST(Museum, B1_12_ScoresUpToTenThousand) {
    const AttentionShape s{1, 2, 2, 7, 300, 4, 3};
    for (const double spread : {10.0, 30.0, 100.0}) {
        support::Random random(3);
        Inputs<float> in(random, s);
        for (float& x : in.q.values()) x *= static_cast<float>(spread);
        for (float& x : in.k.values()) x *= static_cast<float>(spread);
        expect_no_nan(expect_right(s, in, NoMask{}, {}));
        expect_no_nan(
            expect_right(s, in, Causal::bottom_right(),
                         {.visible = [](Index, Index, Index i, Index j) { return j <= i + 293; }}));
    }
}

// vllm#56578: tanh by exponentials is inf / inf.
TEST(Museum, B1_13_SoftCapOfHugeScores) {
    const Tensor<float, 4> q({1, 1, 1, 1}, {1}), k({1, 1, 4, 1}, {1e4f, -1e4f, 3e38f, -3e38f}),
        v({1, 1, 4, 1}, {1, 2, 3, 4});
    const auto result = everything(q, k, v, SoftCap{50});
    EXPECT_EQ(elements(result.scores), (std::vector<float>{50, -50, 50, -50}));
    // Two equal scores that matter: (1 + 3) / 2.
    for (const auto& out : outs(result)) EXPECT_FLOAT_EQ(out(0, 0, 0, 0), 2.0f);
    for (const auto& lse : lses(result)) EXPECT_FLOAT_EQ(lse(0, 0, 0), 50 + std::log(2.0f));
}

// onnx#7865, #7867, onnxruntime#28379: a soft-cap after the mask turns -inf into -cap.
TEST(Museum, B1_14_SoftCapAfterTheMaskLeaks) {
    const AttentionShape s{1, 1, 1, 3, 6, 4, 2};
    Inputs<float> in = inputs(s);
    Tensor<float, 1> mask(6);
    mask(2) = mask(5) = -infinity;
    const auto run = [&] {
        return everything(in.q, in.k, in.v, AdditiveBias{mask} & SoftCap{0.5});
    };
    const auto clean = run();
    for (const Index j : {2, 5}) heed::fill(in.v.view().select(2, j), 1e6f);
    EXPECT_SAME(clean, run());
    // The counter-check: in the wrong order each hidden key would keep a weight of about e^-1.
    EXPECT_GT(std::exp(0.5 * std::tanh(-infinity / 0.5) - 0.5), 0.3);
}

// pytorch#105202
TEST(Museum, B1_15_NegativeScale) {
    const AttentionShape s{1, 2, 2, 5, 9, 4, 3};
    expect_no_nan(expect_right(s, inputs(s), NoMask{}, {.scale = -1e4}));
    expect_no_nan(expect_right(s, inputs(s), NoMask{}, {.scale = -0.3}));
}

// SKaiNET#860, flash-attention#1461: 0 is a scale, and -inf * 0 is none.
TEST(Museum, B1_16_ScaleZero) {
    const AttentionShape s{1, 1, 1, 6, 6, 4, 3};
    const auto in = inputs(s);
    const auto result = everything(in.q, in.k, in.v, Causal{}, {.scale = 0.0});
    for (Index i = 0; i < 6; ++i)
        for (Index j = 0; j < 6; ++j)
            EXPECT_FLOAT_EQ(result.weights(0, 0, i, j),
                            j <= i ? 1.0f / static_cast<float>(i + 1) : 0.0f);
    expect_right(s, in, Causal{},
                 {.scale = 0.0, .visible = [](Index, Index, Index i, Index j) { return j <= i; }});
}

// onnxruntime#29020, pytorch#103082, #108108, mlx#2836, executorch#22426
TEST(Museum, B2_17_CausalCorners) {
    const AttentionShape s{1, 1, 1, 1, 16, 4, 3};
    const auto in = inputs(s);
    const auto top_left = everything(in.q, in.k, in.v, Causal::top_left());
    for (const auto& out : outs(top_left))
        for (Index c = 0; c < 3; ++c) EXPECT_EQ(out(0, 0, 0, c), in.v(0, 0, 0, c));
    EXPECT_SAME(everything(in.q, in.k, in.v, Causal::bottom_right()), everything(in.q, in.k, in.v));
}

// flash-attention#282, #436, jax#24491
TEST(Museum, B2_18_AllPairsOfLengths) {
    for (Index q_len = 1; q_len <= 17; ++q_len)
        for (Index kv_len = 1; kv_len <= 17; ++kv_len) {
            const AttentionShape s{1, 1, 1, q_len, kv_len, 3, 2};
            const auto in = inputs(s, static_cast<std::uint64_t>(20 * q_len + kv_len));
            expect_right(s, in, Causal::top_left(),
                         {.visible = [](Index, Index, Index i, Index j) { return j <= i; }});
            expect_right(s, in, Causal::bottom_right(),
                         {.visible = [&](Index, Index, Index i, Index j) {
                             return j <= i + kv_len - q_len;
                         }});
        }
}

// flash-attention#1778
TEST(Museum, B2_19_MoreQueriesThanKeysBottomRight) {
    const AttentionShape s{2, 2, 1, 50, 13, 4, 3};
    const auto in = inputs(s);
    const auto result = everything(in.q, in.k, in.v, Causal::bottom_right());
    for (Index b = 0; b < 2; ++b)
        for (Index h = 0; h < 2; ++h)
            for (Index i = 0; i < 37; ++i) expect_empty_row(result, b, h, i);
    for (const auto& out : outs(result))
        for (Index c = 0; c < 3; ++c) EXPECT_EQ(out(1, 1, 37, c), in.v(1, 0, 0, c));
}

// flash-attention#1133, zml#763, transformers#39408 (counts of visible keys: the tests of masks)
TEST(Museum, B2_20_WindowOffByOne) {
    for (const Index L : {1, 2, 15, 48, 129}) {
        const AttentionShape s{1, 2, 1, L, L, 4, 3};
        const auto in = inputs(s);
        const auto causal = everything(in.q, in.k, in.v, Causal{});
        EXPECT_SAME(everything(in.q, in.k, in.v, SlidingWindow{L - 1, 0}), causal);
        EXPECT_SAME(everything(in.q, in.k, in.v, SlidingWindow{-1, 0}), causal);
        if (L == 1) continue;
        EXPECT_FALSE(same_bits(everything(in.q, in.k, in.v, SlidingWindow{L - 2, 0}), causal));
        EXPECT_FALSE(same_bits(everything(in.q, in.k, in.v, SlidingWindow{L - 1, 1}), causal));
    }
}

// flash-attention#895, #2199
TEST(Museum, B2_21_WindowWiderThanTheKeys) {
    constexpr Index most = std::numeric_limits<Index>::max();
    for (const Index kv_len : {1, 13, 140}) {
        const AttentionShape s{1, 1, 1, 50, kv_len, 4, 3};
        const auto in = inputs(s);
        for (const auto& at : {Alignment::top_left(), Alignment::bottom_right()}) {
            const auto run = [&](Index left, Index right) {
                return everything(in.q, in.k, in.v, SlidingWindow{left, right, at});
            };
            EXPECT_SAME(run(3, most), run(3, -1));
            EXPECT_SAME(run(most, 2), run(-1, 2));
            EXPECT_SAME(run(most, most), run(-1, -1));
            EXPECT_SAME(run(3, kv_len + 50), run(3, -1));
        }
    }
}

// flash-attention#1116
TEST(Museum, B2_22_NegativeWindow) {
    const AttentionShape s{1, 1, 1, 7, 7, 4, 3};
    const auto in = inputs(s);
    EXPECT_SAME(everything(in.q, in.k, in.v, SlidingWindow{-1, -1}), everything(in.q, in.k, in.v));
    for (const Index wrong : {Index{-2}, std::numeric_limits<Index>::min()}) {
        EXPECT_THROW((void)everything(in.q, in.k, in.v, SlidingWindow{wrong, 0}),
                     heed::ArgumentError);
        EXPECT_THROW((void)everything(in.q, in.k, in.v, SlidingWindow{0, wrong}),
                     heed::ArgumentError);
    }
    EXPECT_SAME(everything(in.q, in.k, in.v, SlidingWindow{0, 0}).lean_out, in.v);
}

// jax#32300
TEST(Museum, B2_23_WindowWithoutAMask) {
    for (const Index L : {5, 33, 200}) {
        const AttentionShape s{2, 2, 1, L, L, 4, 3};
        const auto in = inputs(s);
        Tensor<bool, 1> all(Index{1});
        all(0) = true;
        const SlidingWindow window{3, 1};
        EXPECT_SAME(everything(in.q, in.k, in.v, window),
                    everything(in.q, in.k, in.v, window & AttendWhere{all}));
    }
}

// keras#23038
TEST(Museum, B2_24_CausalOnEveryPath) {
    for (const Index kv_heads : {4, 2, 1}) {
        const AttentionShape s{2, 4, kv_heads, 9, 9, 4, 3};
        for (const double p : {0.0, 0.3}) {
            Inputs<float> in = inputs(s);
            const auto run = [&] {
                return everything(in.q, in.k, in.v, Causal{},
                                  {.dropout = {.probability = p, .seed = 5}});
            };
            const auto clean = run();
            heed::fill(in.v.view().slice(2, 6, 3), not_a_number);
            heed::fill(in.k.view().slice(2, 6, 3), not_a_number);
            const auto poisoned = run();
            const auto before = [](const auto& tensor) { return tensor.view().slice(2, 0, 6); };
            EXPECT_SAME(before(clean.out), before(poisoned.out));
            EXPECT_SAME(before(clean.lean_out), before(poisoned.lean_out));
            EXPECT_SAME(before(clean.weights), before(poisoned.weights));
            EXPECT_SAME(before(clean.lse), before(poisoned.lse));
            EXPECT_SAME(before(clean.lean_lse), before(poisoned.lean_lse));
        }
    }
}

// pytorch#63271
TEST(Museum, B2_25_MasksTogether) {
    const AttentionShape s{3, 4, 2, 40, 50, 5, 6};
    support::Random random(7);
    const Inputs<float> in(random, s);
    const Tensor<bool, 4> flags = attend::flags<4>(random, {3, 1, 40, 50}, 0.8);
    const Tensor<float, 4> bias = attend::normals<float, 4>(random, {1, 4, 40, 50});
    const std::array<Index, 3> lengths{50, 20, 1};
    const oracle::Rules rules{
        .modify = [&](double x, Index, Index h, Index i,
                      Index j) { return x + static_cast<double>(bias(0, h, i, j)); },
        .visible =
            [&](Index b, Index, Index i, Index j) {
                return j <= i + 10 && j < lengths[static_cast<std::size_t>(b)] && flags(b, 0, i, j);
            }};
    expect_right(
        s, in,
        Causal::bottom_right() & KeyLengths{lengths} & AttendWhere{flags} & AdditiveBias{bias},
        rules, 5.0);
}

// pytorch#107084
TEST(Museum, B2_26_FloatBiasIsNoBooleanMask) {
    const AttentionShape s{2, 2, 2, 20, 30, 5, 6};
    support::Random random(8);
    const Inputs<float> in(random, s);
    const Tensor<float, 4> bias = attend::normals<float, 4>(random, {2, 2, 20, 30}, 2.0);
    expect_right(s, in, AdditiveBias{bias},
                 {.modify = [&](double x, Index b, Index h, Index i,
                                Index j) { return x + static_cast<double>(bias(b, h, i, j)); }},
                 10.0);
}

// mlpack#3969, #3998, #3573
TEST(Museum, B2_27_PaddingOfEachBatchElement) {
    const AttentionShape s{4, 2, 1, 3, 5, 4, 3};
    const std::array<Index, 4> lengths{5, 3, 1, 0};
    const auto shown = [&](Index b, Index, Index, Index j) {
        return j < lengths[static_cast<std::size_t>(b)];
    };
    const auto in = inputs(s);
    const auto result = expect_right(s, in, KeyLengths{lengths}, {.visible = shown});
    for (Index b = 0; b < 4; ++b)
        for (Index i = 0; i < 3; ++i) {
            float sum = 0;
            for (Index j = 0; j < 5; ++j) sum += result.weights(b, 1, i, j);
            EXPECT_NEAR(sum, b < 3 ? 1.0f : 0.0f, 1e-6f);
        }
    // True attends in one type and is blocked in the other.
    Tensor<bool, 2> attends({4, 5}), blocked({4, 5});
    for (Index b = 0; b < 4; ++b)
        for (Index j = 0; j < 5; ++j) blocked(b, j) = !(attends(b, j) = shown(b, 0, 0, j));
    EXPECT_SAME(result, everything(in.q, in.k, in.v, heed::attend_keys(attends)));
    EXPECT_SAME(result, everything(in.q, in.k, in.v, heed::block_keys(blocked)));
}

// pytorch#128816: a last dimension of 1 was read beyond its end. Exactly as much memory as needed.
TEST(Museum, B2_28_SixteenMaskShapes) {
    const std::array<Index, 4> full{2, 3, 17, 33};
    const Shape<4> whole(full);
    const AttentionShape s{2, 3, 3, 17, 33, 4, 3};
    const auto in = inputs(s);
    support::Random random(9);
    for (unsigned set = 0; set < 16; ++set) {
        std::array<Index, 4> extents{};
        for (std::size_t d = 0; d < 4; ++d) extents[d] = set >> d & 1u ? full[d] : 1;
        const Shape<4> shape(extents);
        const auto count = static_cast<std::size_t>(shape.element_count());
        const std::unique_ptr<bool[]> flags(new bool[count]);
        const std::unique_ptr<float[]> biases(new float[count]);
        for (std::size_t n = 0; n < count; ++n) {
            flags[n] = random.chance(0.8);
            biases[n] = random.chance(0.2) ? -infinity : static_cast<float>(random.normal());
        }
        const TensorView<const bool, 4> mask(flags.get(), shape);
        const TensorView<const float, 4> bias(biases.get(), shape);
        const Tensor<bool, 4> whole_mask(heed::broadcast_to(mask, whole));
        const Tensor<float, 4> whole_bias(heed::broadcast_to(bias, whole));
        EXPECT_SAME(everything(in.q, in.k, in.v, AttendWhere{mask}),
                    everything(in.q, in.k, in.v, AttendWhere{whole_mask}));
        EXPECT_SAME(everything(in.q, in.k, in.v, AdditiveBias{bias}),
                    everything(in.q, in.k, in.v, AdditiveBias{whole_bias}));
    }
}

// stable-diffusion.cpp#1625
TEST(Museum, B2_29_TransposedMask) {
    const AttentionShape s{1, 1, 1, 6, 9, 4, 3};
    Tensor<bool, 2> mask({6, 9});
    const auto shown = [](Index, Index, Index i, Index j) { return (2 * i + j) % 3 != 0; };
    for (Index i = 0; i < 6; ++i)
        for (Index j = 0; j < 9; ++j) mask(i, j) = shown(0, 0, i, j);
    expect_right(s, inputs(s), AttendWhere{mask}, {.visible = shown});
    EXPECT_THROW((void)everything(inputs(s).q, inputs(s).k, inputs(s).v,
                                  AttendWhere{mask.view().transpose(0, 1)}),
                 heed::ShapeError);
}

// pytorch#162588
TEST(Museum, B2_30_MaskOverManyKeys) {
    const Index L = 70001;
    const AttentionShape s{1, 1, 1, 1, L, 4, 3};
    support::Random random(10);
    const Tensor<bool, 4> flags = attend::flags<4>(random, {1, 1, 1, L}, 0.7);
    const auto shown = [&](Index, Index, Index, Index j) { return flags(0, 0, 0, j); };
    expect_right(s, inputs(s), AttendWhere{flags}, {.visible = shown});
}

}  // namespace
