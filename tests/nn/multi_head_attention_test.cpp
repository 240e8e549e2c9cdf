// Does MultiHeadAttention compute its formula, under every option and mask, on any strides?
// The reference (reference.hpp) is written in plain loops, in wider arithmetic.

#include "heed/nn/multi_head_attention.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include "nn/nn_support.hpp"
#include "nn/reference.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::AttentionNames;
using heed::MultiHeadAttention;
using heed::MultiHeadAttentionOptions;
using heed::NoMask;
using heed::QkNorm;
using nn_test::Index;
using nn_test::parameters_of;
using nn_test::Random;
using nn_test::random_tensor;
using nn_test::randomise_parameters;
using nn_test::Shape;
using nn_test::Tensor;
using nn_test::TensorView;
using nn_test::values;
using support::Verdict;

/// The names that the reference knows.
AttentionNames reference_names() {
    return AttentionNames::separate("q", "k", "v", "o");
}

struct Lengths {
    Index batch = 2, q_len = 4, kv_len = 4;
};

/// The reference's view of a module.
template <class T>
reference::MultiHead described(const MultiHeadAttention<T>& mha, const Lengths& n,
                               const oracle::Rules& rules = {}) {
    const MultiHeadAttentionOptions& o = mha.options();
    reference::MultiHead m{.B = n.batch,
                           .Lq = n.q_len,
                           .Lk = n.kv_len,
                           .E = o.embed_dim,
                           .kdim = o.kdim,
                           .vdim = o.vdim,
                           .H = o.num_heads,
                           .Hk = o.num_kv_heads,
                           .add_zero_attn = o.add_zero_attn,
                           .epsilon = o.qk_norm_epsilon,
                           .rules = rules};
    m.rules.scale = o.scale;
    if (o.qk_norm == QkNorm::layer_norm) m.qk_norm = reference::MultiHead::Norm::layer;
    if (o.qk_norm == QkNorm::rms_norm) m.qk_norm = reference::MultiHead::Norm::rms;
    return m;
}

template <class T>
MultiHeadAttention<T> random_module(Random& random, MultiHeadAttentionOptions options) {
    options.names = reference_names();
    MultiHeadAttention<T> mha(options);
    randomise_parameters(random, mha);
    return mha;
}

template <class T>
struct Inputs {
    Tensor<T, 3> query, key, value;

    Inputs(Random& random, const MultiHeadAttention<T>& mha, const Lengths& n)
        : query(random_tensor<T, 3>(random, {n.batch, n.q_len, mha.options().embed_dim})),
          key(random_tensor<T, 3>(random, {n.batch, n.kv_len, mha.options().kdim})),
          value(random_tensor<T, 3>(random, {n.batch, n.kv_len, mha.options().vdim})) {}
};

/// Everything that one call writes, prefilled with NaN, so that a place which is not written shows.
template <class T>
struct Everything {
    Tensor<T, 3> out, averaged, lse;
    Tensor<T, 4> weights;

    Everything(const MultiHeadAttention<T>& mha, const Lengths& n)
        : out({n.batch, n.q_len, mha.output_dim()}),
          averaged({n.batch, n.q_len, n.kv_len + mha.extra_keys()}),
          lse({n.batch, mha.options().num_heads, n.q_len}),
          weights({n.batch, mha.options().num_heads, n.q_len, n.kv_len + mha.extra_keys()}) {
        const T nan = std::numeric_limits<T>::quiet_NaN();
        heed::fill(out.view(), nan);
        heed::fill(averaged.view(), nan);
        heed::fill(lse.view(), nan);
        heed::fill(weights.view(), nan);
    }

    heed::MultiHeadAttentionOutputs<T> outputs() {
        return {.weights = weights, .averaged_weights = averaged, .lse = lse};
    }
};

template <class T>
void expect_close(const Everything<T>& actual, const reference::Yardstick<T>& yardstick) {
    EXPECT_VERDICT(reference::compare_output(values(actual.out), yardstick));
    EXPECT_VERDICT(reference::compare_weights(values(actual.weights), yardstick));
    EXPECT_VERDICT(reference::compare_averaged_weights(values(actual.averaged), yardstick));
    EXPECT_VERDICT(reference::compare_log_sum_exp(values(actual.lse), yardstick));
}

/// Runs a module under a mask, whose meaning `rules` tells the reference, and compares everything.
template <class T, class Mask = NoMask>
void check(Random& random, MultiHeadAttention<T>& mha, const Lengths& n, const Mask& mask = {},
           const oracle::Rules& rules = {}) {
    const Inputs<T> in(random, mha, n);
    Everything<T> actual(mha, n);
    mha.forward(in.query, in.key, in.value, actual.out, mask, actual.outputs());
    expect_close(actual,
                 reference::yardstick<T>(described(mha, n, rules), parameters_of(mha),
                                         values(in.query), values(in.key), values(in.value)));
}

template <class T>
class MultiHeadAttentionTest : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(MultiHeadAttentionTest, Scalars);

// --- Options
// --------------------------------------------------------------------------------------

TYPED_TEST(MultiHeadAttentionTest, EveryOptionByItself) {
    Random random;
    SCOPED_TRACE(random.describe());
    using Options = MultiHeadAttentionOptions;
    const std::vector<Options> all{
        {.embed_dim = 12, .num_heads = 3},
        {.embed_dim = 1, .num_heads = 1},
        {.embed_dim = 12, .num_heads = 12},
        {.embed_dim = 12, .num_heads = 6, .num_kv_heads = 2},
        {.embed_dim = 12, .num_heads = 6, .num_kv_heads = 1},
        {.embed_dim = 10, .num_heads = 3, .head_dim = 4},
        {.embed_dim = 12, .num_heads = 3, .value_head_dim = 7},
        {.embed_dim = 12, .num_heads = 3, .kdim = 5},
        {.embed_dim = 12, .num_heads = 3, .vdim = 5},
        {.embed_dim = 12, .num_heads = 3, .kdim = 7, .vdim = 5},
        {.embed_dim = 12, .num_heads = 3, .bias = false},
        {.embed_dim = 12, .num_heads = 3, .bias = false, .out_bias = true},
        {.embed_dim = 12, .num_heads = 3, .bias = true, .out_bias = false},
        {.embed_dim = 12, .num_heads = 3, .value_head_dim = 5, .out_projection = false},
        {.embed_dim = 12, .num_heads = 3, .add_bias_kv = true},
        {.embed_dim = 12, .num_heads = 3, .add_zero_attn = true},
        {.embed_dim = 12, .num_heads = 3, .qk_norm = QkNorm::layer_norm},
        {.embed_dim = 12, .num_heads = 3, .qk_norm = QkNorm::rms_norm},
        {.embed_dim = 12, .num_heads = 3, .qk_norm = QkNorm::layer_norm, .qk_norm_epsilon = 0.5},
        {.embed_dim = 12, .num_heads = 3, .qk_norm = QkNorm::rms_norm, .qk_norm_epsilon = 0.5},
        {.embed_dim = 12, .num_heads = 3, .scale = 0.125},
        {.embed_dim = 12, .num_heads = 3, .scale = 0.0},
        {.embed_dim = 12, .num_heads = 3, .scale = -0.5},
    };
    for (std::size_t i = 0; i < all.size(); ++i) {
        SCOPED_TRACE("option set " + std::to_string(i));
        auto mha = random_module<TypeParam>(random, all[i]);
        check(random, mha, {.q_len = 5, .kv_len = 5});
        check(random, mha, {.q_len = 3, .kv_len = 7});
    }
}

TYPED_TEST(MultiHeadAttentionTest, RandomOptionsTogether) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int turn = 0; turn < 60; ++turn) {
        SCOPED_TRACE("turn " + std::to_string(turn));
        const Index kv_heads = random.integer(1, 3), heads = kv_heads * random.integer(1, 3);
        const Index head_dim = random.integer(1, 6);
        const bool usual_widths = random.chance(0.5);
        auto mha = random_module<TypeParam>(
            random,
            {.embed_dim = usual_widths ? heads * head_dim : random.integer(1, 20),
             .num_heads = heads,
             .num_kv_heads = kv_heads,
             .head_dim = head_dim,
             .value_head_dim = random.integer(0, 6),
             .kdim = random.chance(0.5) ? 0 : random.integer(1, 9),
             .vdim = random.chance(0.5) ? 0 : random.integer(1, 9),
             .bias = random.chance(0.5),
             .out_bias = random.chance(0.5) ? std::optional(random.chance(0.5)) : std::nullopt,
             .out_projection = random.chance(0.7),
             .add_bias_kv = random.chance(0.4),
             .add_zero_attn = random.chance(0.4),
             .qk_norm = random.pick({QkNorm::none, QkNorm::layer_norm, QkNorm::rms_norm}),
             // Below, LayerNorm of two numbers is nearly a step, whose place rounding decides.
             .qk_norm_epsilon = random.pick({1e-2, 1e-1}),
             .scale = random.chance(0.5) ? std::optional(random.uniform(-1, 1)) : std::nullopt});
        check(random, mha,
              {.batch = random.integer(1, 3),
               .q_len = random.integer(1, 6),
               .kv_len = random.integer(1, 6)});
    }
}

TYPED_TEST(MultiHeadAttentionTest, DefaultsAreResolvedAsPromised) {
    const MultiHeadAttentionOptions o =
        MultiHeadAttention<TypeParam>({.embed_dim = 12, .num_heads = 4}).options();
    EXPECT_EQ(o.num_kv_heads, 4);
    EXPECT_EQ(o.head_dim, 3);
    EXPECT_EQ(o.value_head_dim, 3);
    EXPECT_EQ(o.kdim, 12);
    EXPECT_EQ(o.vdim, 12);
    EXPECT_EQ(o.out_bias, true);
    const MultiHeadAttention<TypeParam> bare(
        {.embed_dim = 12, .num_heads = 4, .head_dim = 5, .value_head_dim = 2, .bias = false});
    EXPECT_EQ(bare.options().out_bias, false);
    EXPECT_EQ(bare.output_dim(), 12);
    EXPECT_EQ(bare.extra_keys(), 0);
    const MultiHeadAttention<TypeParam> merged({.embed_dim = 12,
                                                .num_heads = 4,
                                                .num_kv_heads = 2,
                                                .value_head_dim = 2,
                                                .out_projection = false,
                                                .add_bias_kv = true,
                                                .add_zero_attn = true});
    EXPECT_EQ(merged.output_dim(), 8);
    EXPECT_EQ(merged.extra_keys(), 2);
}

TYPED_TEST(MultiHeadAttentionTest, EmptyBatchesAndLengths) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (const bool extra : {false, true}) {
        auto mha = random_module<TypeParam>(
            random, {.embed_dim = 6, .num_heads = 2, .add_bias_kv = extra, .add_zero_attn = extra});
        // Without keys the context is 0, and the output the bias alone; appended keys still count.
        check(random, mha, {.batch = 2, .q_len = 3, .kv_len = 0});
        for (const Lengths& n : {Lengths{.batch = 0}, Lengths{.q_len = 0}}) {
            Everything<TypeParam> actual(mha, n);
            const Inputs<TypeParam> in(random, mha, n);
            mha.forward(in.query, in.key, in.value, actual.out, NoMask{}, actual.outputs());
            EXPECT_TRUE(actual.out.empty());
        }
    }
}

// --- Masks
// ----------------------------------------------------------------------------------------

template <class T>
class MultiHeadAttentionMasks : public testing::Test {};
TYPED_TEST_SUITE(MultiHeadAttentionMasks, Scalars);

struct MaskData {
    Lengths n{.batch = 2, .q_len = 4, .kv_len = 6};
    Index heads = 2;
    Tensor<bool, 2> flags_2d;
    Tensor<bool, 3> flags_3d;
    Tensor<bool, 4> flags_4d;
    Tensor<bool, 2> padding;
    Tensor<double, 4> bias;
    Tensor<double, 1> slopes;
    std::array<Index, 2> lengths{6, 3};
    std::array<Index, 2> offsets{0, 2};

    explicit MaskData(Random& random)
        : flags_2d({n.q_len, n.kv_len}),
          flags_3d({heads, n.q_len, n.kv_len}),
          flags_4d({n.batch, heads, n.q_len, n.kv_len}),
          padding({n.batch, n.kv_len}),
          bias(random_tensor<double, 4>(random, {n.batch, heads, n.q_len, n.kv_len})),
          slopes(heed::alibi_slopes<double>(heads)) {
        const auto draw = [&](auto view) {
            heed::detail::for_each_element([&](bool& flag) { flag = random.chance(0.4); }, view);
        };
        draw(flags_2d.view());
        draw(flags_3d.view());
        draw(flags_4d.view());
        draw(padding.view());
    }
};

/// Every kind of mask in heed's words and in the reference's, with the module's options as given.
template <class T>
void check_every_mask(const MultiHeadAttentionOptions& options) {
    Random random;
    SCOPED_TRACE(random.describe());
    const MaskData d(random);
    auto mha = random_module<T>(random, options);
    const auto run = [&](const char* what, const auto& mask, const oracle::Rules& rules) {
        SCOPED_TRACE(what);
        check(random, mha, d.n, mask, rules);
    };
    const auto visible = [](auto f) {
        oracle::Rules rules;
        rules.visible = f;
        return rules;
    };
    const auto modify = [](auto f) {
        oracle::Rules rules;
        rules.modify = f;
        return rules;
    };

    run("top left", heed::Causal::top_left(),
        visible([](Index, Index, Index q, Index k) { return k <= q; }));
    run("bottom right", heed::Causal::bottom_right(),
        visible([](Index, Index, Index q, Index k) { return k <= q + 2; }));
    run("an offset that leaves rows empty", heed::Causal::offset(-2),
        visible([](Index, Index, Index q, Index k) { return k <= q - 2; }));
    run("offsets", heed::Causal::offsets(d.offsets),
        visible([](Index b, Index, Index q, Index k) { return k <= q + 2 * b; }));
    run("window", heed::SlidingWindow{1, 2, heed::Alignment::offset(1)},
        visible([](Index, Index, Index q, Index k) { return q <= k && k <= q + 3; }));
    run("lengths", heed::KeyLengths{d.lengths},
        visible([](Index b, Index, Index, Index k) { return k < (b == 0 ? 6 : 3); }));
    run("blocked [Lq, Lk]", heed::BlockWhere(d.flags_2d),
        visible([&](Index, Index, Index q, Index k) { return !d.flags_2d(q, k); }));
    run("attend [H, Lq, Lk]", heed::AttendWhere(d.flags_3d),
        visible([&](Index, Index h, Index q, Index k) { return d.flags_3d(h, q, k); }));
    run("attend [B, H, Lq, Lk]", heed::AttendWhere(d.flags_4d),
        visible([&](Index b, Index h, Index q, Index k) { return d.flags_4d(b, h, q, k); }));
    run("padding", heed::block_keys(d.padding),
        visible([&](Index b, Index, Index, Index k) { return !d.padding(b, k); }));
    run("bias", heed::AdditiveBias(d.bias),
        modify(
            [&](double s, Index b, Index h, Index q, Index k) { return s + d.bias(b, h, q, k); }));
    run("ALiBi", heed::Alibi(d.slopes, heed::Alignment::bottom_right()),
        modify([&](double s, Index, Index h, Index q, Index k) {
            return s - d.slopes(h) * static_cast<double>(std::abs(q + 2 - k));
        }));
    run(
        "a function of the user",
        [](auto score, heed::ScoreIndex at) {
            using C = decltype(score);
            return at.k == 1 ? -std::numeric_limits<C>::infinity() : score * C(0.5);
        },
        modify([](double s, Index, Index, Index, Index k) {
            return k == 1 ? -std::numeric_limits<double>::infinity() : s * 0.5;
        }));
    oracle::Rules all;
    all.visible = [&](Index b, Index, Index q, Index k) { return k <= q + 2 && !d.padding(b, k); };
    all.modify = [&](double s, Index b, Index h, Index q, Index k) {
        return s + d.bias(b, h, q, k) - d.slopes(h) * static_cast<double>(std::abs(q + 2 - k));
    };
    // The unnamed alignment of ALiBi is the one that Causal names.
    run("together",
        heed::Causal::bottom_right() & heed::block_keys(d.padding) & heed::AdditiveBias(d.bias) &
            heed::Alibi(d.slopes),
        all);
}

TYPED_TEST(MultiHeadAttentionMasks, OnTheGivenKeys) {
    check_every_mask<TypeParam>({.embed_dim = 6, .num_heads = 2});
}

// Appended keys are visible to every query whatever the mask says, and have no bias.
TYPED_TEST(MultiHeadAttentionMasks, WithExtraKeys) {
    check_every_mask<TypeParam>({.embed_dim = 6, .num_heads = 2, .add_bias_kv = true});
    check_every_mask<TypeParam>({.embed_dim = 6, .num_heads = 2, .add_zero_attn = true});
    check_every_mask<TypeParam>({.embed_dim = 6,
                                 .num_heads = 2,
                                 .num_kv_heads = 1,
                                 .value_head_dim = 5,
                                 .add_bias_kv = true,
                                 .add_zero_attn = true});
}

// With as many queries as given keys an alignment needs no name, appended keys or not.
TYPED_TEST(MultiHeadAttentionMasks, ExtraKeysDoNotCountForTheAlignment) {
    Random random;
    SCOPED_TRACE(random.describe());
    auto mha = random_module<TypeParam>(
        random, {.embed_dim = 6, .num_heads = 2, .add_bias_kv = true, .add_zero_attn = true});
    oracle::Rules causal;
    causal.visible = [](Index, Index, Index q, Index k) { return k <= q; };
    check(random, mha, {.q_len = 5, .kv_len = 5}, heed::Causal{}, causal);
    check(random, mha, {.q_len = 5, .kv_len = 5}, heed::Causal::bottom_right(), causal);
}

// A soft-cap is no mask: it caps the scores of appended keys as well.
TYPED_TEST(MultiHeadAttentionMasks, SoftCapCapsEveryKey) {
    Random random;
    SCOPED_TRACE(random.describe());
    auto mha =
        random_module<TypeParam>(random, {.embed_dim = 6, .num_heads = 2, .add_bias_kv = true});
    oracle::Rules rules;
    rules.softcap = 0.25;
    check(random, mha, {.q_len = 3, .kv_len = 4}, heed::SoftCap{0.25}, rules);
}

TYPED_TEST(MultiHeadAttentionMasks, PoisonInPaddingChangesNoBit) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const Lengths n{.batch = 2, .q_len = 3, .kv_len = 5};
    const std::array<Index, 2> lengths{5, 3};
    auto mha = random_module<T>(random, {.embed_dim = 8, .num_heads = 2, .kdim = 7});
    Inputs<T> in(random, mha, n);
    const auto run = [&] {
        Everything<T> result(mha, n);
        mha.forward(in.query, in.key, in.value, result.out, heed::KeyLengths{lengths},
                    result.outputs());
        return result;
    };
    const Everything<T> clean = run();
    for (const T poison : {std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity(),
                           std::numeric_limits<T>::max()}) {
        heed::fill(in.key.view().select(0, 1).slice(0, 3, 2), poison);
        heed::fill(in.value.view().select(0, 1).slice(0, 3, 2), poison);
        const Everything<T> poisoned = run();
        EXPECT_VERDICT(support::compare_bits(values(poisoned.out), values(clean.out)));
        EXPECT_VERDICT(support::compare_bits(values(poisoned.weights), values(clean.weights)));
        EXPECT_VERDICT(support::compare_bits(values(poisoned.lse), values(clean.lse)));
    }
}

// --- The same thing said in two ways
// --------------------------------------------------------------

/// All parameters as views, by name.
template <class T>
std::map<std::string, const T*> parameter_memory(MultiHeadAttention<T>& mha) {
    std::map<std::string, const T*> memory;
    MultiHeadAttention<T>::visit_parameters(
        mha, [&](const std::string& name, auto view) { memory[name] = view.data(); }, "");
    return memory;
}

// W_q^r, W_k^r and W_v^r of the textbook are views of the packed matrix: no copy, the same memory.
TYPED_TEST(MultiHeadAttentionTest, WeightsOfOneHeadAreViewsOfThePackedOnes) {
    using T = TypeParam;
    const Index E = 12, H = 3, D = 4;
    MultiHeadAttention<T> mha({.embed_dim = E, .num_heads = H});
    heed::NamedTensors before;
    mha.save(before);
    T* const packed = const_cast<T*>(parameter_memory(mha).at("in_proj_weight"));
    const std::array<TensorView<T, 2>, 3> parts{mha.query_weight(), mha.key_weight(),
                                                mha.value_weight()};
    for (Index part = 0; part < 3; ++part)
        for (Index r = 0; r < H; ++r) {
            const TensorView<T, 2> head = parts[static_cast<std::size_t>(part)].slice(0, r * D, D);
            EXPECT_EQ(head.shape(), (Shape<2>(D, E)));
            for (Index i = 0; i < D; ++i)
                for (Index j = 0; j < E; ++j)
                    EXPECT_EQ(&head(i, j), packed + ((part * H + r) * D + i) * E + j);
        }
    // Writing through such a view writes the module's parameter.
    mha.key_weight().slice(0, 1 * D, D)(2, 3) = T(0.5);
    heed::NamedTensors after;
    mha.save(after);
    const auto saved = after.template view<T, 2>("in_proj_weight");
    EXPECT_EQ(saved(E + 1 * D + 2, 3), T(0.5));
    EXPECT_FALSE(before == after);
}

// Multi-head attention is the concatenation of one-head attentions with those views, times W_o.
TYPED_TEST(MultiHeadAttentionTest, IsTheConcatenationOfSelfAttentions) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const Lengths n{.batch = 2, .q_len = 5, .kv_len = 5};
    const Index E = 12, H = 3, D = 4, Dv = 6;
    auto mha = random_module<T>(
        random,
        {.embed_dim = E, .num_heads = H, .head_dim = D, .value_head_dim = Dv, .bias = false});
    const Inputs<T> in(random, mha, n);

    Tensor<T, 3> concatenated({n.batch, n.q_len, H * Dv});
    for (Index r = 0; r < H; ++r) {
        heed::SelfAttention<T> head({.embed_dim = E, .k_dim = D, .v_dim = Dv});
        heed::copy(mha.query_weight().slice(0, r * D, D), head.query().weight());
        heed::copy(mha.key_weight().slice(0, r * D, D), head.key().weight());
        heed::copy(mha.value_weight().slice(0, r * Dv, Dv), head.value().weight());
        head.forward(in.query, in.query, concatenated.view().slice(2, r * Dv, Dv),
                     heed::Causal::top_left());
    }
    Tensor<T, 3> expected({n.batch, n.q_len, E});
    heed::linear<T>(concatenated, mha.out_weight(), {}, expected.view());

    oracle::Rules causal;
    causal.visible = [](Index, Index, Index q, Index k) { return k <= q; };
    const auto yardstick =
        reference::yardstick<T>(described(mha, n, causal), parameters_of(mha), values(in.query),
                                values(in.query), values(in.query));
    Tensor<T, 3> whole = mha(in.query, heed::Causal::top_left());
    for (Tensor<T, 3>* result : {&whole, &expected})
        EXPECT_VERDICT(reference::compare_output(values(*result), yardstick));
}

// One product with the packed matrix or three with its parts: the same up to rounding.
TYPED_TEST(MultiHeadAttentionTest, OneProductEqualsThree) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (const Lengths& n : {Lengths{1, 1, 1}, Lengths{2, 7, 7}, Lengths{3, 40, 40}}) {
        auto mha = random_module<T>(
            random, {.embed_dim = 48, .num_heads = 4, .num_kv_heads = 2, .value_head_dim = 5});
        const Inputs<T> in(random, mha, n);
        const Tensor<T, 3> copy_of_query(in.query), another(in.query);
        const auto yardstick =
            reference::yardstick<T>(described(mha, n), parameters_of(mha), values(in.query),
                                    values(in.query), values(in.query));
        const Tensor<T, 3> one = mha(in.query);
        const Tensor<T, 3> three = mha(in.query, copy_of_query, another);
        // A key and a value that are one tensor do not make a self-attention.
        const Tensor<T, 3> two = mha(in.query, another, another);
        for (const Tensor<T, 3>* result : {&one, &two, &three})
            EXPECT_VERDICT(reference::compare_output(values(*result), yardstick));
    }
}

// The same memory seen with another shape or other strides is another input.
TYPED_TEST(MultiHeadAttentionTest, ViewsOfOneMemoryNeedNotBeOneInput) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    auto mha = random_module<T>(random, {.embed_dim = 6, .num_heads = 2});
    const Tensor<T, 3> x = random_tensor<T, 3>(random, {2, 6, 6});
    const TensorView<const T, 3> all = x, prefix = all.slice(1, 0, 3);
    const TensorView<const T, 3> backwards(x.data(), {2, 6, 6}, {36, 0, 1});
    for (const auto& [q, k, v] :
         {std::array{prefix, all, all}, std::array{all, prefix, prefix},
          std::array{all, backwards, all}, std::array{all, all, backwards}}) {
        const Lengths n{2, q.extent(1), k.extent(1)};
        Everything<T> actual(mha, n);
        mha.forward(q, k, v, actual.out, NoMask{}, actual.outputs());
        expect_close(actual, reference::yardstick<T>(described(mha, n), parameters_of(mha),
                                                     values(q), values(k), values(v)));
    }
}

template <class T>
void copy_parameters(const MultiHeadAttention<T>& from, MultiHeadAttention<T>& to) {
    heed::NamedTensors weights;
    from.save(weights);
    to.load(weights);
}

// The packed parameter of one module cut into the separate ones of another, and the other way.
TYPED_TEST(MultiHeadAttentionTest, PackedAndSeparateNamesMeanTheSame) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const Index E = 12;
    MultiHeadAttentionOptions options{.embed_dim = E, .num_heads = 4, .num_kv_heads = 2};
    MultiHeadAttention<T> packed(options);
    randomise_parameters(random, packed);
    heed::NamedTensors file;
    packed.save(file);
    const auto weight = file.template view<T, 2>("in_proj_weight");
    const auto bias = file.template view<T, 1>("in_proj_bias");
    heed::NamedTensors cut;
    Index row = 0;
    for (const auto& [name, rows] : {std::pair{"q", E}, {"k", E / 2}, {"v", E / 2}}) {
        cut.add(std::string(name) + ".weight", weight.slice(0, row, rows));
        cut.add(std::string(name) + ".bias", bias.slice(0, row, rows));
        row += rows;
    }
    cut.add("o.weight", file.at("out_proj.weight"));
    cut.add("o.bias", file.at("out_proj.bias"));
    EXPECT_EQ(row, weight.extent(0));

    options.names = reference_names();
    MultiHeadAttention<T> separate(options);
    separate.load(cut);
    const Tensor<T, 3> x = random_tensor<T, 3>(random, {2, 5, E});
    EXPECT_VERDICT(support::compare_bits(values(separate(x)), values(packed(x))));
    heed::NamedTensors saved;
    separate.save(saved);
    EXPECT_EQ(saved, cut);
}

// Grouped heads: each key and value head serves num_heads / num_kv_heads neighbouring query heads.
TYPED_TEST(MultiHeadAttentionTest, GroupedHeadsAreRepeatedHeads) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const Index E = 12, H = 6, Hk = 2, D = 2, Dv = 3;
    const MultiHeadAttentionOptions grouped_options{
        .embed_dim = E, .num_heads = H, .num_kv_heads = Hk, .head_dim = D, .value_head_dim = Dv};
    MultiHeadAttentionOptions full_options = grouped_options;
    full_options.num_kv_heads = H;
    auto grouped = random_module<T>(random, grouped_options);
    auto full = random_module<T>(random, full_options);

    const auto given = parameters_of(grouped);
    heed::NamedTensors repeated;
    for (const auto& [name, values_of_it] : given) {
        const bool is_key = name.starts_with("k."), is_value = name.starts_with("v.");
        std::vector<T> numbers;
        if (is_key || is_value) {
            const Index rows = is_key ? D : Dv;
            const Index columns = name.ends_with("weight") ? E : 1;
            for (Index h = 0; h < H; ++h) {
                const auto head =
                    reference::piece(values_of_it, h / (H / Hk) * rows * columns, rows * columns);
                numbers.insert(numbers.end(), head.begin(), head.end());
            }
        } else {
            numbers = values_of_it;
        }
        if (name.ends_with("bias"))
            repeated.add(name, Tensor<T, 1>(Shape<1>(numbers.size()), numbers));
        else
            repeated.add(name, Tensor<T, 2>(Shape<2>(static_cast<Index>(numbers.size()) /
                                                         (name == "o.weight" ? H * Dv : E),
                                                     name == "o.weight" ? H * Dv : E),
                                            numbers));
    }
    full.load(repeated);

    const Lengths n{.q_len = 5, .kv_len = 5};
    const Inputs<T> in(random, grouped, n);
    const auto yardstick =
        reference::yardstick<T>(described(full, n), parameters_of(full), values(in.query),
                                values(in.query), values(in.query));
    const Tensor<T, 3> small = grouped(in.query), large = full(in.query);
    for (const Tensor<T, 3>* result : {&small, &large})
        EXPECT_VERDICT(reference::compare_output(values(*result), yardstick));
}

// --- Memory
// ---------------------------------------------------------------------------------------

TYPED_TEST(MultiHeadAttentionTest, AnyStridesWithContiguousRows) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (int turn = 0; turn < 20; ++turn) {
        SCOPED_TRACE("turn " + std::to_string(turn));
        auto mha = random_module<T>(random, {.embed_dim = 6,
                                             .num_heads = 2,
                                             .kdim = random.pick<Index>({5, 6}),
                                             .out_projection = random.chance(0.7)});
        const Lengths n{random.integer(1, 3), random.integer(1, 4), random.integer(1, 4)};
        const Inputs<T> in(random, mha, n);
        const auto strided = [&](const Tensor<T, 3>& from) {
            auto result = std::make_unique<support::Strided<T, 3>>(
                random, from.shape(), T(77), support::Strided<T, 3>::Rows::contiguous);
            result->assign(from.values());
            return result;
        };
        const auto q = strided(in.query), k = strided(in.key), v = strided(in.value);
        const auto out = strided(Tensor<T, 3>({n.batch, n.q_len, mha.output_dim()}));
        // Weights and log-sum-exp may have any strides at all.
        const Index keys = n.kv_len, heads = 2;
        support::Strided<T, 4> weights(random, {n.batch, heads, n.q_len, keys});
        support::Strided<T, 3> averaged(random, {n.batch, n.q_len, keys});
        support::Strided<T, 3> lse(random, {n.batch, heads, n.q_len});
        mha.forward(
            q->view(), k->view(), v->view(), out->view(), NoMask{},
            {.weights = weights.view(), .averaged_weights = averaged.view(), .lse = lse.view()});
        Everything<T> actual(mha, n);
        heed::copy(out->view(), actual.out.view());
        heed::copy(weights.view(), actual.weights.view());
        heed::copy(averaged.view(), actual.averaged.view());
        heed::copy(lse.view(), actual.lse.view());
        expect_close(
            actual, reference::yardstick<T>(described(mha, n), parameters_of(mha), values(in.query),
                                            values(in.key), values(in.value)));
        EXPECT_TRUE(out->gaps_untouched() && weights.gaps_untouched() &&
                    averaged.gaps_untouched() && lse.gaps_untouched());
    }
}

TYPED_TEST(MultiHeadAttentionTest, OutputsMayBeAskedForOneByOne) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const Lengths n{.q_len = 3, .kv_len = 5};
    auto mha = random_module<T>(random, {.embed_dim = 6, .num_heads = 3, .add_bias_kv = true});
    const Inputs<T> in(random, mha, n);
    Everything<T> all(mha, n), some(mha, n);
    mha.forward(in.query, in.key, in.value, all.out, NoMask{}, all.outputs());
    mha.forward(in.query, in.key, in.value, some.out, NoMask{},
                {.averaged_weights = some.averaged});
    EXPECT_TRUE(std::isnan(some.weights(0, 0, 0, 0)));
    mha.forward(in.query, in.key, in.value, some.out, NoMask{}, {.weights = some.weights});
    mha.forward(in.query, in.key, in.value, some.out, NoMask{}, {.lse = some.lse});
    const auto yardstick = reference::yardstick<T>(
        described(mha, n), parameters_of(mha), values(in.query), values(in.key), values(in.value));
    expect_close(all, yardstick);
    expect_close(some, yardstick);
}

// Buffers that grew for a large call serve a small one, and the other way round, bit by bit.
TYPED_TEST(MultiHeadAttentionTest, ReusedBuffersChangeNoBit) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    auto reused = random_module<T>(
        random, {.embed_dim = 8, .num_heads = 2, .add_bias_kv = true, .add_zero_attn = true});
    for (const Lengths& n : {Lengths{1, 2, 3}, Lengths{3, 9, 11}, Lengths{2, 1, 4},
                             Lengths{1, 12, 1}, Lengths{4, 12, 12}, Lengths{1, 1, 1}}) {
        const Inputs<T> in(random, reused, n);
        MultiHeadAttention<T> fresh(reused);
        Everything<T> a(reused, n), b(fresh, n);
        reused.forward(in.query, in.key, in.value, a.out, heed::Causal::top_left(), a.outputs());
        fresh.forward(in.query, in.key, in.value, b.out, heed::Causal::top_left(), b.outputs());
        EXPECT_VERDICT(support::compare_bits(values(a.out), values(b.out)));
        EXPECT_VERDICT(support::compare_bits(values(a.weights), values(b.weights)));
        EXPECT_VERDICT(support::compare_bits(values(a.averaged), values(b.averaged)));
        EXPECT_VERDICT(support::compare_bits(values(a.lse), values(b.lse)));
    }
}

TYPED_TEST(MultiHeadAttentionTest, CopiesAreIndependent) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    auto original = random_module<T>(random, {.embed_dim = 8, .num_heads = 2});
    const Tensor<T, 3> x = random_tensor<T, 3>(random, {2, 3, 8});
    const Tensor<T, 3> before = original(x);
    MultiHeadAttention<T> copy(original);
    EXPECT_VERDICT(support::compare_bits(values(copy(x)), values(before)));
    heed::fill(copy.out_weight(), T(0));
    EXPECT_VERDICT(support::compare_bits(values(original(x)), values(before)));
    MultiHeadAttention<T> moved(std::move(original));
    EXPECT_VERDICT(support::compare_bits(values(moved(x)), values(before)));
    copy = moved;
    EXPECT_VERDICT(support::compare_bits(values(copy(x)), values(before)));
}

// --- Dropout
// --------------------------------------------------------------------------------------

template <class T>
class MultiHeadAttentionDropout : public testing::Test {};
TYPED_TEST_SUITE(MultiHeadAttentionDropout, Scalars);

TYPED_TEST(MultiHeadAttentionDropout, EvaluationHasNone) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    auto with = random_module<T>(
        random, {.embed_dim = 8, .num_heads = 2, .dropout = 0.5, .out_dropout = 0.5});
    auto without = random_module<T>(random, {.embed_dim = 8, .num_heads = 2});
    copy_parameters(with, without);
    const Tensor<T, 3> x = random_tensor<T, 3>(random, {2, 6, 8});
    const auto plain = values(without(x));
    EXPECT_VERDICT(support::compare_bits(values(with(x)), plain));
    with.train();
    EXPECT_FALSE(support::compare_bits(values(with(x)), plain));
    with.eval();
    EXPECT_VERDICT(support::compare_bits(values(with(x)), plain));
    with.train(true);
    with.train(false);
    EXPECT_VERDICT(support::compare_bits(values(with(x)), plain));
    // Training without a dropout draws nothing either.
    without.train();
    EXPECT_VERDICT(support::compare_bits(values(without(x)), plain));
}

// The mask of call n is the pure function of (seed, n, b, h, q, k) that the attention documents.
TYPED_TEST(MultiHeadAttentionDropout, EachCallDrawsTheNextMaskOfTheWeights) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const Lengths n{.batch = 2, .q_len = 4, .kv_len = 6};
    const double p = 0.4;
    const std::uint64_t seed = random.bits();
    auto mha = random_module<T>(random, {.embed_dim = 8,
                                         .num_heads = 4,
                                         .num_kv_heads = 2,
                                         .add_bias_kv = true,
                                         .dropout = p,
                                         .seed = seed});
    const Inputs<T> in(random, mha, n);
    mha.train();
    for (std::uint32_t call = 0; call < 3; ++call) {
        if (call == 1) {  // An evaluation in between draws nothing.
            mha.eval();
            (void)mha(in.query, in.key, in.value);
            mha.train();
        }
        const heed::detail::DropoutRule rule("test", {p, seed, call});
        oracle::Rules rules;
        rules.dropout = p;
        rules.keep = [&](Index b, Index h, Index q, Index k) {
            return rule.keeps(static_cast<std::uint32_t>(b * 4 + h), static_cast<std::uint32_t>(q),
                              static_cast<std::uint64_t>(k));
        };
        Everything<T> actual(mha, n);
        mha.forward(in.query, in.key, in.value, actual.out, NoMask{}, actual.outputs());
        // Returned weights are before dropout: the reference's, which are.
        expect_close(actual,
                     reference::yardstick<T>(described(mha, n, rules), parameters_of(mha),
                                             values(in.query), values(in.key), values(in.value)));
    }
}

// The output's masks are a stream of their own, seeded next to that of the weights.
TYPED_TEST(MultiHeadAttentionDropout, EachCallDrawsTheNextMaskOfTheOutput) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const double p = 0.3;
    const std::uint64_t seed = random.bits();
    auto mha =
        random_module<T>(random, {.embed_dim = 8, .num_heads = 2, .out_dropout = p, .seed = seed});
    const Tensor<T, 3> x = random_tensor<T, 3>(random, {2, 5, 8});
    const Tensor<T, 3> plain = mha(x);
    mha.train();
    for (std::uint32_t call = 0; call < 3; ++call) {
        Tensor<T, 3> expected(plain.shape());
        heed::dropout<T>(plain, expected.view(), {p, seed + 1, call});
        EXPECT_VERDICT(support::compare_bits(values(mha(x)), values(expected)));
    }
}

TYPED_TEST(MultiHeadAttentionDropout, TheSameSeedRepeatsAnotherDoesNot) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const auto module = [](std::uint64_t seed) {
        return MultiHeadAttention<T>(
            {.embed_dim = 8, .num_heads = 2, .dropout = 0.3, .out_dropout = 0.3, .seed = seed});
    };
    MultiHeadAttention<T> a = module(7), b = module(7), c = module(8);
    randomise_parameters(random, a);
    copy_parameters(a, b);
    copy_parameters(a, c);
    const Tensor<T, 3> x = random_tensor<T, 3>(random, {2, 6, 8});
    std::vector<std::vector<T>> seen;
    for (MultiHeadAttention<T>* m : {&a, &b, &c}) m->train();
    for (int call = 0; call < 4; ++call) {
        seen.push_back(values(a(x)));
        EXPECT_VERDICT(support::compare_bits(values(b(x)), seen.back()));
        EXPECT_FALSE(support::compare_bits(values(c(x)), seen.back()));
        for (int before = 0; before < call; ++before)
            EXPECT_FALSE(support::compare_bits(seen[static_cast<std::size_t>(before)], seen.back()))
                << "calls " << before << " and " << call << " drew the same masks";
    }
}

TYPED_TEST(MultiHeadAttentionDropout, OfEverythingLeavesTheBiasOrNothing) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const Tensor<T, 3> x = random_tensor<T, 3>(random, {2, 3, 8});
    auto weights = random_module<T>(random, {.embed_dim = 8, .num_heads = 2, .dropout = 1.0});
    weights.train();
    const std::vector<T> y = values(weights(x)), bias = parameters_of(weights).at("o.bias");
    for (std::size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i], bias[i % 8]);
    auto output = random_module<T>(random, {.embed_dim = 8, .num_heads = 2, .out_dropout = 1.0});
    output.train();
    for (const T value : values(output(x))) EXPECT_EQ(value, T(0));
    auto merged = random_module<T>(
        random, {.embed_dim = 8, .num_heads = 2, .out_projection = false, .out_dropout = 1.0});
    merged.train();
    for (const T value : values(merged(x))) EXPECT_EQ(value, T(0));
}

// --- Presets
// --------------------------------------------------------------------------------------

TEST(MultiHeadAttentionPresets, SayWhatTheirFrameworksSay) {
    const MultiHeadAttentionOptions torch = heed::PyTorchMultiheadAttention{.embed_dim = 8,
                                                                            .num_heads = 2,
                                                                            .dropout = 0.1,
                                                                            .bias = false,
                                                                            .add_bias_kv = true,
                                                                            .add_zero_attn = true,
                                                                            .kdim = 3,
                                                                            .vdim = 5};
    EXPECT_EQ(torch.embed_dim, 8);
    EXPECT_EQ(torch.num_heads, 2);
    EXPECT_EQ(torch.dropout, 0.1);
    EXPECT_EQ(torch.out_dropout, 0.0);
    EXPECT_FALSE(torch.bias);
    EXPECT_TRUE(torch.add_bias_kv);
    EXPECT_TRUE(torch.add_zero_attn);
    EXPECT_EQ(torch.kdim, 3);
    EXPECT_EQ(torch.vdim, 5);

    const MultiHeadAttentionOptions timm = heed::TimmAttention{.dim = 16,
                                                               .qk_norm = true,
                                                               .proj_bias = false,
                                                               .attn_drop = 0.2,
                                                               .proj_drop = 0.3,
                                                               .qk_scale = 0.5};
    EXPECT_EQ(timm.embed_dim, 16);
    EXPECT_EQ(timm.num_heads, 8);
    EXPECT_FALSE(timm.bias);
    EXPECT_EQ(timm.out_bias, false);
    EXPECT_EQ(timm.qk_norm, QkNorm::layer_norm);
    EXPECT_EQ(timm.dropout, 0.2);
    EXPECT_EQ(timm.out_dropout, 0.3);
    EXPECT_EQ(timm.scale, 0.5);
    const MultiHeadAttentionOptions plain = heed::TimmAttention{.dim = 16, .qkv_bias = true};
    EXPECT_TRUE(plain.bias);
    EXPECT_EQ(plain.out_bias, true);
    EXPECT_EQ(plain.qk_norm, QkNorm::none);
    EXPECT_EQ(plain.scale, std::nullopt);

    const MultiHeadAttentionOptions bert = heed::BertSelfAttention{
        .hidden_size = 12, .num_attention_heads = 3, .attention_probs_dropout_prob = 0.25};
    EXPECT_EQ(bert.embed_dim, 12);
    EXPECT_EQ(bert.num_heads, 3);
    EXPECT_FALSE(bert.out_projection);
    EXPECT_EQ(bert.dropout, 0.25);
}

// PyTorch scales an unscaled product after the default; a preset's module agrees with a plain one.
TEST(MultiHeadAttentionPresets, ScalesAreHonoured) {
    Random random;
    SCOPED_TRACE(random.describe());
    const Tensor<float, 3> x = random_tensor<float, 3>(random, {1, 4, 8});
    MultiHeadAttention<float> usual(heed::TimmAttention{.dim = 8, .num_heads = 2});
    randomise_parameters(random, usual);
    MultiHeadAttention<float> said(
        heed::TimmAttention{.dim = 8, .num_heads = 2, .qk_scale = 0.5});  // 1 / sqrt(4)
    MultiHeadAttention<float> other(
        heed::TimmAttention{.dim = 8, .num_heads = 2, .qk_scale = 0.25});
    copy_parameters(usual, said);
    copy_parameters(usual, other);
    EXPECT_VERDICT(support::compare_bits(values(said(x)), values(usual(x))));
    EXPECT_FALSE(support::compare_bits(values(other(x)), values(usual(x))));
}

// --- Initialisation
// -------------------------------------------------------------------------------

TYPED_TEST(MultiHeadAttentionTest, ResetDrawsGlorotWeightsAndZeroBiases) {
    using T = TypeParam;
    auto options = MultiHeadAttentionOptions{.embed_dim = 24,
                                             .num_heads = 4,
                                             .num_kv_heads = 2,
                                             .add_bias_kv = true,
                                             .names = reference_names()};
    MultiHeadAttention<T> a(options), b(options), c(options);
    Random random;
    randomise_parameters(random, a);
    a.reset_parameters(5);
    b.reset_parameters(5);
    c.reset_parameters(6);
    const auto first = parameters_of(a), again = parameters_of(b), other = parameters_of(c);
    EXPECT_EQ(first, again);
    std::vector<std::vector<T>> drawn;
    for (const auto& [name, numbers] : first) {
        if (name.ends_with("bias")) {
            EXPECT_EQ(numbers, std::vector<T>(numbers.size())) << name;
            continue;
        }
        EXPECT_NE(numbers, other.at(name)) << name;
        // Uniform in +-sqrt(6 / (in + out)); of that many numbers one is beyond 80 % of it.
        const bool is_row = name.starts_with("bias_");
        const double in = is_row ? 12 : 24;
        const double out = is_row ? 1 : static_cast<double>(numbers.size()) / 24;
        const double bound = std::sqrt(6 / (in + out));
        EXPECT_LE(support::max_magnitude(numbers), bound * (1 + 1e-6)) << name;
        EXPECT_GE(support::max_magnitude(numbers), bound * (is_row ? 0.5 : 0.8)) << name;
        drawn.emplace_back(numbers.begin(), numbers.begin() + 12);
    }
    for (std::size_t i = 0; i < drawn.size(); ++i)
        for (std::size_t j = 0; j < i; ++j) EXPECT_NE(drawn[i], drawn[j]) << i << " and " << j;
}

}  // namespace
