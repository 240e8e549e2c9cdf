// Do FeedForward and TransformerEncoderLayer compute their formulas, and what PyTorch computes?

#include "heed/nn/transformer.hpp"

#include <gtest/gtest.h>

#include <array>
#include <limits>

#include "nn/nn_support.hpp"
#include "nn/reference.hpp"
#include "support/allocation_counter.hpp"
#include "support/golden.hpp"
#include "support/threads.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::Activation;
using heed::AttentionNames;
using heed::FeedForward;
using heed::NoMask;
using heed::TransformerEncoderLayer;
using nn_test::Index;
using nn_test::parameters_of;
using nn_test::Random;
using nn_test::random_tensor;
using nn_test::randomise_parameters;
using nn_test::Shape;
using nn_test::Tensor;
using nn_test::TensorView;
using nn_test::values;
using support::GoldenCase;
using support::GoldenFile;
using support::Verdict;

const std::vector<std::pair<Activation, std::string>> activations{
    {Activation::none, "none"},
    {Activation::relu, "relu"},
    {Activation::gelu, "gelu"},
    {Activation::gelu_tanh, "gelu_tanh"},
    {Activation::silu, "silu"}};

// --- FeedForward
// ----------------------------------------------------------------------------------

template <class T>
class FeedForwardTest : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(FeedForwardTest, Scalars);

auto feed_forward_answer(const std::string& activation, Index dim) {
    return [=]<class Real>(const reference::Parameters<Real>& p, const std::vector<Real>& x) {
        return reference::feed_forward(p, activation, x, dim);
    };
}

TYPED_TEST(FeedForwardTest, EveryActivationGatedOrNot) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (const auto& [activation, name] : activations)
        for (const bool gated : {false, true})
            for (const bool bias : {false, true}) {
                SCOPED_TRACE(testing::Message() << name << " gated " << gated << " bias " << bias);
                FeedForward<T> module({.dim = 5,
                                       .hidden_dim = 7,
                                       .activation = activation,
                                       .gated = gated,
                                       .bias = bias});
                EXPECT_EQ(module.is_gated(), gated);
                randomise_parameters(random, module);
                for (const Shape<3>& shape : {Shape<3>{2, 3, 5}, {1, 1, 5}, {0, 3, 5}, {3, 9, 5}}) {
                    const auto x = random_tensor<T, 3>(random, shape, 2.0);
                    const Tensor<T, 3> y = module(x);
                    EXPECT_VERDICT(reference::compare_module<T>(
                        values(y), parameters_of(module), values(x), feed_forward_answer(name, 5)));
                    Tensor<T, 3> in_place(x);
                    module.forward(in_place, in_place);
                    EXPECT_VERDICT(support::compare_bits(values(in_place), values(y)));
                }
            }
}

// The counter-check: no two activations agree, and a gate is not an ungated layer.
TYPED_TEST(FeedForwardTest, ActivationsDiffer) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const auto x = random_tensor<T, 3>(random, {2, 3, 5}, 2.0);
    FeedForward<T> base({.dim = 5, .hidden_dim = 7});
    randomise_parameters(random, base);
    heed::NamedTensors weights;
    base.save(weights);
    for (const auto& [activation, name] : activations) {
        FeedForward<T> module({.dim = 5, .hidden_dim = 7, .activation = activation});
        module.load(weights);
        for (const auto& [other, other_name] : activations)
            EXPECT_EQ(reference::compare_module<T>(values(module(x)), parameters_of(module),
                                                   values(x), feed_forward_answer(other_name, 5))
                          .ok,
                      activation == other)
                << name << " as " << other_name;
    }
}

TYPED_TEST(FeedForwardTest, DropoutFollowsTheActivation) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const auto x = random_tensor<T, 3>(random, {2, 3, 5});
    for (const bool gated : {false, true}) {
        FeedForward<T> module(
            {.dim = 5, .hidden_dim = 6, .gated = gated, .dropout = 0.4, .seed = 9});
        randomise_parameters(random, module);
        const auto plain = values(module(x));
        const auto p = parameters_of(module);
        module.train();
        for (std::uint32_t call = 0; call < 3; ++call) {
            // The mask of call n: dropout of ones gives 0 or 1 / (1 - p) for each hidden value.
            Tensor<double, 1> mask(2 * 3 * 6);
            heed::fill(mask.view(), 1.0);
            heed::dropout<double>(mask.view(), mask.view(), {0.4, 9, call});
            const auto answer = [&]<class Real>(const reference::Parameters<Real>& q,
                                                const std::vector<Real>& input) {
                // The hidden values are what feed_forward gives when the second layer is the unit.
                reference::Parameters<Real> first = q;
                first.erase("linear2.bias");
                first["linear2.weight"].assign(36, 0);
                for (std::size_t i = 0; i < 6; ++i) first["linear2.weight"][7 * i] = 1;
                std::vector<Real> hidden = reference::feed_forward(first, "relu", input, 5);
                for (std::size_t i = 0; i < hidden.size(); ++i)
                    hidden[i] *= static_cast<Real>(mask.values()[i]);
                return reference::project(q, "linear2", hidden, 6);
            };
            EXPECT_VERDICT(reference::compare_module<T>(values(module(x)), p, values(x), answer));
        }
        module.eval();
        EXPECT_VERDICT(support::compare_bits(values(module(x)), plain));

        FeedForward<T> all({.dim = 5, .hidden_dim = 6, .gated = gated, .dropout = 1.0});
        randomise_parameters(random, all);
        all.train();
        const auto y = values(all(x)), bias = parameters_of(all).at("linear2.bias");
        for (std::size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i], bias[i % 5]);
    }
}

TYPED_TEST(FeedForwardTest, ReusedBuffersChangeNoBit) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (const bool gated : {false, true}) {
        FeedForward<T> reused({.dim = 5, .hidden_dim = 6, .gated = gated});
        randomise_parameters(random, reused);
        for (const Shape<3>& shape : {Shape<3>{1, 2, 5}, {3, 9, 5}, {2, 1, 5}, {1, 1, 5}}) {
            const auto x = random_tensor<T, 3>(random, shape);
            FeedForward<T> fresh(reused);
            EXPECT_VERDICT(support::compare_bits(values(reused(x)), values(fresh(x))));
        }
    }
}

/// In evaluation many rows go block by block through the layers, in training layer by layer.
TYPED_TEST(FeedForwardTest, ManyRowsHaveTheBitsOfTrainingWithFewerBytes) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (const int threads : {1, 2})
        for (const bool gated : {false, true}) {
            const support::WithThreads with(threads);
            FeedForward<T> layer({.dim = 12, .hidden_dim = 1600, .gated = gated});
            randomise_parameters(random, layer);
            layer.pack_weights();
            FeedForward<T> trained(layer);
            trained.train();
            const auto x = random_tensor<T, 3>(random, {3, 241, 12});
            const auto expected = trained(x);
            Tensor<T, 3> y(x.shape());
            const support::AllocationCounter all;
            layer.forward(x, y);
            EXPECT_LT(all.bytes(), 3 * 241 * 1600 * sizeof(T) / 2) << "the hidden layer in whole";
            const support::AllocationCounter again;
            layer.forward(x, y);
            EXPECT_EQ(again.count(), 0u);
            EXPECT_VERDICT(support::compare_bits(values(y), values(expected)));
        }
}

TYPED_TEST(FeedForwardTest, ResetDrawsEachLayerByItself) {
    using T = TypeParam;
    FeedForward<T> a({.dim = 6, .hidden_dim = 6, .gated = true}), b(a);
    Random random;
    randomise_parameters(random, a);
    a.reset_parameters(3);
    b.reset_parameters(3);
    const auto p = parameters_of(a);
    EXPECT_EQ(p, parameters_of(b));
    EXPECT_NE(p.at("linear1.weight"), p.at("linear2.weight"));
    EXPECT_NE(p.at("linear1.weight"), p.at("gate.weight"));
    EXPECT_NE(p.at("linear2.weight"), p.at("gate.weight"));
    EXPECT_EQ(p.at("gate.bias"), std::vector<T>(6));
}

// --- TransformerEncoderLayer
// ----------------------------------------------------------------------

template <class T>
class EncoderLayerTest : public testing::Test {};
TYPED_TEST_SUITE(EncoderLayerTest, Scalars);

/// The reference's names.
heed::EncoderLayerNames reference_names() {
    return {"",
            "norm1.",
            "linear1.",
            "linear2.",
            "norm2.",
            "gate.",
            AttentionNames::separate("q", "k", "v", "o")};
}

struct Choice {
    bool norm_first = false;
    Activation activation = Activation::relu;
    std::string activation_name = "relu";
    double epsilon = 1e-5;
    bool bias = true;
};

constexpr Index width = 8, heads = 2, hidden = 11;

template <class T>
TransformerEncoderLayer<T> random_layer(Random& random, const Choice& c, double dropout = 0.1,
                                        std::uint64_t seed = 0) {
    TransformerEncoderLayer<T> layer({.d_model = width,
                                      .nhead = heads,
                                      .dim_feedforward = hidden,
                                      .dropout = dropout,
                                      .activation = c.activation,
                                      .layer_norm_eps = c.epsilon,
                                      .norm_first = c.norm_first,
                                      .bias = c.bias,
                                      .seed = seed,
                                      .names = reference_names()});
    randomise_parameters(random, layer);
    return layer;
}

auto encoder_answer(const Choice& c, const Shape<3>& shape, const oracle::Rules& rules = {}) {
    reference::EncoderLayer layer{.attention = {.B = shape[0],
                                                .Lq = shape[1],
                                                .Lk = shape[1],
                                                .E = shape[2],
                                                .kdim = shape[2],
                                                .vdim = shape[2],
                                                .H = heads,
                                                .Hk = heads,
                                                .rules = rules},
                                  .activation = c.activation_name,
                                  .epsilon = c.epsilon,
                                  .norm_first = c.norm_first};
    return [layer]<class Real>(const reference::Parameters<Real>& p, const std::vector<Real>& x) {
        return reference::encoder_layer(layer, p, x);
    };
}

std::vector<Choice> all_choices() {
    std::vector<Choice> result;
    for (const bool norm_first : {false, true}) {
        for (const auto& [activation, name] : activations)
            result.push_back({norm_first, activation, name});
        result.push_back({.norm_first = norm_first, .epsilon = 0.25});
        result.push_back({.norm_first = norm_first, .bias = false});
    }
    return result;
}

TYPED_TEST(EncoderLayerTest, EveryChoiceFollowsTheFormula) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (const Choice& c : all_choices()) {
        SCOPED_TRACE(testing::Message() << "norm_first " << c.norm_first << ' ' << c.activation_name
                                        << " epsilon " << c.epsilon << " bias " << c.bias);
        auto layer = random_layer<T>(random, c);
        for (const Shape<3>& shape : {Shape<3>{2, 4, width}, {1, 1, width}, {3, 7, width}}) {
            const auto x = random_tensor<T, 3>(random, shape);
            const auto p = parameters_of(layer);
            const Tensor<T, 3> y = layer(x);
            EXPECT_VERDICT(
                reference::compare_module<T>(values(y), p, values(x), encoder_answer(c, shape)));
            oracle::Rules causal;
            causal.visible = [](Index, Index, Index q, Index k) { return k <= q; };
            EXPECT_VERDICT(reference::compare_module<T>(
                values(layer(x, heed::Causal{})), p, values(x), encoder_answer(c, shape, causal)));
        }
    }
}

// The counter-check: pre-norm is not post-norm, and the mask is not optional.
TYPED_TEST(EncoderLayerTest, OtherFormulasAreNoticed) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const Shape<3> shape{2, 4, width};
    const auto x = random_tensor<T, 3>(random, shape);
    for (const bool norm_first : {false, true}) {
        const Choice c{.norm_first = norm_first};
        auto layer = random_layer<T>(random, c);
        const auto judge = [&](const Choice& as, const oracle::Rules& rules = {}) {
            return reference::compare_module<T>(values(layer(x)), parameters_of(layer), values(x),
                                                encoder_answer(as, shape, rules));
        };
        EXPECT_TRUE(judge(c));
        EXPECT_FALSE(judge({.norm_first = !norm_first}));
        EXPECT_FALSE(judge({.norm_first = norm_first, .activation_name = "gelu"}));
        EXPECT_FALSE(judge({.norm_first = norm_first, .epsilon = 1e-3}));
        oracle::Rules causal;
        causal.visible = [](Index, Index, Index q, Index k) { return k <= q; };
        EXPECT_FALSE(judge(c, causal));
    }
}

TYPED_TEST(EncoderLayerTest, InPlaceIsTheSameBitByBit) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (const bool norm_first : {false, true}) {
        auto layer = random_layer<T>(random, {.norm_first = norm_first});
        const auto x = random_tensor<T, 3>(random, {2, 5, width});
        const Tensor<T, 3> y = layer(x, heed::Causal{});
        Tensor<T, 3> in_place(x);
        layer.forward(in_place, in_place, heed::Causal{});
        EXPECT_VERDICT(support::compare_bits(values(in_place), values(y)));
        // Also through a strided view of it.
        support::Strided<T, 3> strided(random, x.shape(), T(77),
                                       support::Strided<T, 3>::Rows::contiguous);
        strided.assign(x.values());
        layer.forward(strided.const_view(), strided.view(), heed::Causal{});
        EXPECT_VERDICT(reference::compare_module<T>(
            values(strided.view()), parameters_of(layer), values(x), [&] {
                oracle::Rules causal;
                causal.visible = [](Index, Index, Index q, Index k) { return k <= q; };
                return encoder_answer({.norm_first = norm_first}, x.shape(), causal);
            }()));
        EXPECT_TRUE(strided.gaps_untouched());
    }
}

TYPED_TEST(EncoderLayerTest, AnyStridesWithContiguousRows) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (int turn = 0; turn < 20; ++turn) {
        const Choice c{.norm_first = random.chance(0.5)};
        auto layer = random_layer<T>(random, c);
        const Shape<3> shape(random.integer(1, 3), random.integer(1, 5), width);
        const auto x = random_tensor<T, 3>(random, shape);
        using Strided = support::Strided<T, 3>;
        Strided from(random, shape, T(77), Strided::Rows::contiguous);
        Strided to(random, shape, T(77), Strided::Rows::contiguous);
        from.assign(x.values());
        layer.forward(from.const_view(), to.view());
        EXPECT_VERDICT(reference::compare_module<T>(values(to.view()), parameters_of(layer),
                                                    values(x), encoder_answer(c, shape)));
        EXPECT_TRUE(to.gaps_untouched());
        EXPECT_VERDICT(support::compare_bits(values(from.view()), values(x)));
    }
}

TYPED_TEST(EncoderLayerTest, OutputsAreThoseOfTheAttention) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const auto x = random_tensor<T, 3>(random, {2, 4, width});
    for (const bool norm_first : {false, true}) {
        auto layer = random_layer<T>(random, {.norm_first = norm_first});
        Tensor<T, 4> weights({2, heads, 4, 4}), expected_weights({2, heads, 4, 4});
        Tensor<T, 3> averaged({2, 4, 4}), expected_averaged({2, 4, 4});
        Tensor<T, 3> lse({2, heads, 4}), expected_lse({2, heads, 4});
        const Tensor<T, 3> y = layer(
            x, heed::Causal{}, {.weights = weights, .averaged_weights = averaged, .lse = lse});
        oracle::Rules causal;
        causal.visible = [](Index, Index, Index q, Index k) { return k <= q; };
        EXPECT_VERDICT(reference::compare_module<T>(
            values(y), parameters_of(layer), values(x),
            encoder_answer({.norm_first = norm_first}, x.shape(), causal)));

        Tensor<T, 3> seen(x);
        if (norm_first) {
            const auto p = parameters_of(layer);
            const Tensor<T, 1> gain(Shape<1>(width), p.at("norm1.weight"));
            const Tensor<T, 1> bias(Shape<1>(width), p.at("norm1.bias"));
            heed::layer_norm<T>(x, gain, bias, 1e-5, seen.view());
        }
        (void)layer.attention()(seen, heed::Causal{},
                                {.weights = expected_weights,
                                 .averaged_weights = expected_averaged,
                                 .lse = expected_lse});
        EXPECT_VERDICT(support::compare_bits(values(weights), values(expected_weights)));
        EXPECT_VERDICT(support::compare_bits(values(averaged), values(expected_averaged)));
        EXPECT_VERDICT(support::compare_bits(values(lse), values(expected_lse)));
    }
}

TYPED_TEST(EncoderLayerTest, ReusedBuffersChangeNoBit) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (const bool norm_first : {false, true}) {
        auto reused = random_layer<T>(random, {.norm_first = norm_first});
        for (const Shape<3>& shape : {Shape<3>{1, 2, width},
                                      {3, 9, width},
                                      {0, 3, width},
                                      {2, 0, width},
                                      {2, 1, width},
                                      {1, 1, width}}) {
            const auto x = random_tensor<T, 3>(random, shape);
            auto fresh(reused);
            EXPECT_VERDICT(support::compare_bits(values(reused(x)), values(fresh(x))));
        }
    }
}

TYPED_TEST(EncoderLayerTest, PaddedPositionsHaveNoEffectOnOthers) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const std::array<Index, 2> lengths{5, 3};
    for (const bool norm_first : {false, true}) {
        auto layer = random_layer<T>(random, {.norm_first = norm_first});
        auto x = random_tensor<T, 3>(random, {2, 5, width});
        const Tensor<T, 3> clean = layer(x, heed::KeyLengths{lengths});
        heed::fill(x.view().select(0, 1).slice(0, 3, 2), std::numeric_limits<T>::quiet_NaN());
        const Tensor<T, 3> poisoned = layer(x, heed::KeyLengths{lengths});
        EXPECT_VERDICT(support::compare_bits(values(poisoned.view().select(0, 0)),
                                             values(clean.view().select(0, 0))));
        EXPECT_VERDICT(support::compare_bits(values(poisoned.view().select(0, 1).slice(0, 0, 3)),
                                             values(clean.view().select(0, 1).slice(0, 0, 3))));
    }
}

// --- Dropout of an encoder layer
// ------------------------------------------------------------------

// Of everything: both branches vanish, biases included, and the residual is left.
TYPED_TEST(EncoderLayerTest, DropoutOfEverythingLeavesTheResidual) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const auto x = random_tensor<T, 3>(random, {2, 3, width});
    auto pre = random_layer<T>(random, {.norm_first = true}, 1.0);
    pre.train();
    EXPECT_VERDICT(support::compare_bits(values(pre(x)), values(x)));

    auto post = random_layer<T>(random, {.norm_first = false}, 1.0);
    post.train();
    Tensor<T, 3> expected(x);
    const auto p = parameters_of(post);
    for (const std::string name : {"norm1", "norm2"}) {
        const Tensor<T, 1> gain(Shape<1>(width), p.at(name + ".weight"));
        const Tensor<T, 1> bias(Shape<1>(width), p.at(name + ".bias"));
        heed::layer_norm<T>(expected, gain, bias, 1e-5, expected.view());
    }
    EXPECT_VERDICT(support::compare_bits(values(post(x)), values(expected)));
}

// Every dropout of the layer has a stream of its own, and each call draws the next masks.
TYPED_TEST(EncoderLayerTest, DropoutDrawsFromFourStreams) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const double p = 0.3;
    const std::uint64_t seed = random.bits();
    const auto x = random_tensor<T, 3>(random, {2, 4, width});
    for (const bool norm_first : {false, true}) {
        auto layer = random_layer<T>(random, {.norm_first = norm_first}, p, seed);
        const auto plain = values(layer(x));
        // The layer by hand from its parts, each with its dropout.
        heed::NamedTensors weights;
        layer.save(weights);
        heed::MultiHeadAttention<T> attention({.embed_dim = width,
                                               .num_heads = heads,
                                               .dropout = p,
                                               .out_dropout = p,
                                               .seed = seed,
                                               .names = reference_names().in_attention});
        FeedForward<T> feed({.dim = width, .hidden_dim = hidden, .dropout = p, .seed = seed + 2});
        heed::LayerNorm<T> norm1({.features = width}), norm2({.features = width});
        heed::WeightLoader(weights)
            .load(attention)
            .load(feed)
            .load(norm1, "norm1.")
            .load(norm2, "norm2.")
            .finish();
        attention.train();
        feed.train();
        layer.train();
        const auto sum = [](const Tensor<T, 3>& residual, const Tensor<T, 3>& branch) {
            Tensor<T, 3> result(residual);
            heed::add<T>(branch, result.view());
            return result;
        };
        const auto fed = [&](const Tensor<T, 3>& in, std::uint32_t call) {
            Tensor<T, 3> result = feed(in);
            heed::dropout<T>(result, result.view(), {p, seed + 3, call});
            return result;
        };
        std::vector<T> previous = plain;
        for (std::uint32_t call = 0; call < 3; ++call) {
            Tensor<T, 3> expected;
            if (norm_first) {
                const Tensor<T, 3> middle = sum(x, attention(norm1(x)));
                expected = sum(middle, fed(norm2(middle), call));
            } else {
                const Tensor<T, 3> middle = norm1(sum(x, attention(x)));
                expected = norm2(sum(middle, fed(middle, call)));
            }
            const auto actual = values(layer(x));
            EXPECT_VERDICT(support::compare_bits(actual, values(expected)));
            EXPECT_FALSE(support::compare_bits(actual, previous));
            previous = actual;
        }
        layer.eval();
        EXPECT_VERDICT(support::compare_bits(values(layer(x)), plain));
    }
}

TYPED_TEST(EncoderLayerTest, ResetDrawsEveryMatrix) {
    using T = TypeParam;
    const typename TransformerEncoderLayer<T>::Options options{
        .d_model = 8, .nhead = 2, .dim_feedforward = 8};
    TransformerEncoderLayer<T> a(options), b(options);
    Random random;
    a.reset_parameters(3);
    b.reset_parameters(3);
    const auto p = parameters_of(a);
    EXPECT_EQ(p, parameters_of(b));
    const std::vector<std::string> drawn{"self_attn.in_proj_weight", "self_attn.out_proj.weight",
                                         "linear1.weight", "linear2.weight"};
    for (const std::string& name : drawn)
        for (const std::string& other : drawn)
            if (name < other) {
                EXPECT_NE(std::vector<T>(p.at(name).begin(), p.at(name).begin() + 64),
                          std::vector<T>(p.at(other).begin(), p.at(other).begin() + 64))
                    << name << " and " << other;
            }
    EXPECT_EQ(p.at("norm1.weight"), std::vector<T>(8, T(1)));
    EXPECT_EQ(p.at("linear1.bias"), std::vector<T>(8, T(0)));
}

// --- PyTorch
// --------------------------------------------------------------------------------------

/// Float results by the error of plain loops in float; double results rounded as the golden ones.
template <class T, class Answerer>
Verdict judge(const std::vector<T>& actual, const reference::Parameters<T>& p,
              const std::vector<T>& x, const std::vector<float>& golden, const Answerer& answer) {
    if constexpr (std::is_same_v<T, float>) {
        const Verdict against_oracle = reference::compare_module<T>(actual, p, x, answer);
        Verdict verdict = support::compare_within(actual, golden, against_oracle.bound);
        return against_oracle.ok ? verdict : against_oracle;
    } else {
        Verdict verdict{.ok = actual.size() == golden.size(), .message = "sizes"};
        for (std::size_t i = 0; verdict.ok && i < actual.size(); ++i)
            if (support::ulp_distance(static_cast<float>(actual[i]), golden[i]) > 1) {
                verdict.ok = false;
                verdict.message = "element " + std::to_string(i) + " is not the golden one";
            }
        return verdict;
    }
}

/// Runs a case, if need be without one of its masks, and compares.
template <class T>
Verdict compare_case(const GoldenFile& file, const std::string& name, bool with_mask = true,
                     bool with_padding = true) {
    const GoldenCase golden(file, name);
    const bool batch_first = golden.flag("batch_first");
    const Choice c{
        .norm_first = golden.flag("norm_first"),
        .activation = golden.argument("activation") == "gelu" ? Activation::gelu : Activation::relu,
        .activation_name = golden.argument("activation").value(),
        .epsilon = golden.real("layer_norm_eps").value(),
        .bias = golden.flag("bias")};
    TransformerEncoderLayer<T> layer({.d_model = golden.integer("d_model"),
                                      .nhead = golden.integer("nhead"),
                                      .dim_feedforward = golden.integer("dim_feedforward"),
                                      .activation = c.activation,
                                      .layer_norm_eps = c.epsilon,
                                      .norm_first = c.norm_first,
                                      .bias = c.bias});
    layer.load(file.tensors(), golden.parameter_prefix());

    const auto in_order = [&](auto view) { return batch_first ? view : view.transpose(0, 1); };
    const Tensor<T, 3> src = golden.input("src").to<T, 3>();
    Tensor<T, 3> y(src.shape());
    oracle::Rules rules;
    const auto x = in_order(src.view());
    if (golden.find_input("src_mask")) {
        const auto mask = golden.input("src_mask").view<bool, 2>();
        const auto padding = golden.input("src_key_padding_mask").view<bool, 2>();
        rules.visible = [=](Index b, Index, Index q, Index k) {
            return !mask(q, k) && !padding(b, k);
        };
        if (with_mask && with_padding)
            layer.forward(x, in_order(y.view()),
                          heed::BlockWhere(mask) & heed::block_keys(padding));
        else if (with_mask)
            layer.forward(x, in_order(y.view()), heed::BlockWhere(mask));
        else
            layer.forward(x, in_order(y.view()), heed::block_keys(padding));
    } else {
        layer.forward(x, in_order(y.view()));
    }

    reference::Parameters<T> parameters;
    for (const auto& [key, tensor] : golden.parameters()) {
        const std::vector<float> numbers = support::float_values(tensor);
        const std::vector<T> parameter(numbers.begin(), numbers.end());
        const std::string part = "self_attn.in_proj_";
        if (key.starts_with(part)) {
            const Index count = static_cast<Index>(parameter.size()) / 3;
            for (const auto& [letter, i] : {std::pair{"q.", 0}, {"k.", 1}, {"v.", 2}})
                parameters[letter + key.substr(part.size())] =
                    reference::piece(parameter, i * count, count);
        } else if (key.starts_with("self_attn.out_proj.")) {
            parameters["o." + key.substr(19)] = parameter;
        } else {
            parameters[key] = parameter;
        }
    }
    const Tensor<float, 3> expected = golden.output("output").to<float, 3>();
    return judge<T>(values(in_order(y.view())), parameters, values(x),
                    values(in_order(expected.view())), encoder_answer(c, x.shape(), rules));
}

TYPED_TEST(EncoderLayerTest, EveryPyTorchCase) {
    const GoldenFile file("encoder_layer");
    ASSERT_GE(file.cases().size(), 11u);
    for (const std::string& name : file.cases()) {
        SCOPED_TRACE(name);
        EXPECT_VERDICT(compare_case<TypeParam>(file, name));
    }
}

TYPED_TEST(EncoderLayerTest, PyTorchsMasksMatter) {
    const GoldenFile file("encoder_layer");
    int masks_noticed = 0, paddings_noticed = 0;
    for (const std::string& name : file.cases()) {
        if (!GoldenCase(file, name).find_input("src_mask")) continue;
        masks_noticed += compare_case<TypeParam>(file, name, false, true) ? 0 : 1;
        paddings_noticed += compare_case<TypeParam>(file, name, true, false) ? 0 : 1;
    }
    // In pre_norm_gelu_masked the mask blocks what the padding blocks.
    EXPECT_EQ(masks_noticed, 5);
    EXPECT_EQ(paddings_noticed, 4);
}

}  // namespace
