// Do weights get into modules and out of them under their names, and is everything that does not
// fit told at once, before anything is written?

#include "heed/nn/module.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "heed/io/safetensors.hpp"
#include "heed/nn/transformer.hpp"
#include "nn/nn_support.hpp"
#include "support/temporary_folder.hpp"

namespace {

using heed::AnyTensor;
using heed::FormatError;
using heed::Linear;
using heed::MultiHeadAttention;
using heed::NamedTensors;
using heed::ScalarType;
using heed::WeightLoader;
using nn_test::expect_refused;
using nn_test::Index;
using nn_test::parameters_of;
using nn_test::Random;
using nn_test::random_tensor;
using nn_test::randomise_parameters;
using nn_test::Shape;
using nn_test::Tensor;
using nn_test::TensorView;
using nn_test::values;

template <class M>
NamedTensors saved(const M& module, const std::string& prefix = "") {
    NamedTensors weights;
    module.save(weights, prefix);
    return weights;
}

/// A copy under changed names; an empty name leaves the tensor out.
NamedTensors renamed(const NamedTensors& weights,
                     const std::function<std::string(const std::string&)>& name_of) {
    NamedTensors result;
    for (const auto& [name, tensor] : weights)
        if (const std::string now = name_of(name); !now.empty()) result.add(now, tensor);
    return result;
}

NamedTensors without(const NamedTensors& weights, const std::string& name) {
    return renamed(weights, [&](const std::string& key) { return key == name ? "" : key; });
}

NamedTensors replaced(const NamedTensors& weights, const std::string& name, AnyTensor tensor) {
    NamedTensors result = without(weights, name);
    result.add(name, std::move(tensor));
    return result;
}

/// The text of the FormatError that the call throws.
template <class F>
std::string refusal(const F& f) {
    try {
        f();
    } catch (const FormatError& error) {
        return error.what();
    }
    ADD_FAILURE() << "not refused";
    return "";
}

// --- Every module
// ---------------------------------------------------------------------------------

/// Calls f(name, module, another of the same kind) for modules that have every kind of parameter.
template <class T, class F>
void for_each_module(const F& f) {
    const auto twice = [&](const char* name, auto module) {
        SCOPED_TRACE(name);
        const auto another = module;
        f(name, std::move(module), another);
    };
    twice("Linear", Linear<T>({.in_features = 3, .out_features = 2}));
    twice("Linear without bias", Linear<T>({.in_features = 3, .out_features = 2, .bias = false}));
    twice("LayerNorm", heed::LayerNorm<T>({.features = 4}));
    twice("LayerNorm without bias", heed::LayerNorm<T>({.features = 4, .bias = false}));
    twice("RMSNorm", heed::RMSNorm<T>({.features = 4}));
    twice("Embedding", heed::Embedding<T>({.count = 5, .features = 3}));
    twice("SelfAttention", heed::SelfAttention<T>({.embed_dim = 4, .k_dim = 3, .bias = true}));
    using Attention = MultiHeadAttention<T>;
    twice("packed", Attention({.embed_dim = 6, .num_heads = 2}));
    twice("bias_k and kdim", Attention(heed::PyTorchMultiheadAttention{
                                 .embed_dim = 6, .num_heads = 2, .add_bias_kv = true, .kdim = 5}));
    twice("timm", Attention(heed::TimmAttention{
                      .dim = 6, .num_heads = 2, .qkv_bias = true, .qk_norm = true}));
    twice("bert", Attention(heed::BertSelfAttention{.hidden_size = 6, .num_attention_heads = 2}));
    twice("Llama-like", Attention({.embed_dim = 8,
                                   .num_heads = 4,
                                   .num_kv_heads = 2,
                                   .bias = false,
                                   .qk_norm = heed::QkNorm::rms_norm,
                                   .names = heed::AttentionNames::separate("q_proj", "k_proj",
                                                                           "v_proj", "o_proj")}));
    twice("FeedForward", heed::FeedForward<T>({.dim = 4, .hidden_dim = 6}));
    twice("gated FeedForward",
          heed::FeedForward<T>({.dim = 4, .hidden_dim = 6, .gated = true, .bias = false}));
    using Encoder = heed::TransformerEncoderLayer<T>;
    using Names = heed::EncoderLayerNames;
    for (const auto& [name, names] : {std::pair{"PyTorch's encoder layer", Names::pytorch()},
                                      {"BERT's encoder layer", Names::bert()},
                                      {"ALBERT's encoder layer", Names::albert()},
                                      {"timm's block", Names::timm()}})
        twice(name, Encoder({.d_model = 6, .nhead = 2, .dim_feedforward = 5, .names = names}));
}

std::vector<std::string> names_in(const NamedTensors& weights) {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : weights) names.push_back(name);
    return names;
}

template <class T>
class ModuleTest : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(ModuleTest, Scalars);

TYPED_TEST(ModuleTest, WhatIsSavedLoadsBitByBit) {
    Random random;
    SCOPED_TRACE(random.describe());
    const support::TemporaryFolder folder;
    const std::filesystem::path path = folder / "module.safetensors";
    for_each_module<TypeParam>([&](const char*, auto module, auto another) {
        randomise_parameters(random, module);
        for (const std::string prefix : {"", "encoder.layers.0."}) {
            const NamedTensors weights = saved(module, prefix);
            ASSERT_GT(weights.size(), 0u);
            Index count = 0;
            for (const auto& [name, tensor] : weights) {
                EXPECT_TRUE(name.starts_with(prefix)) << name;
                EXPECT_EQ(tensor.scalar_type(), heed::scalar_type_of<TypeParam>);
                count += static_cast<Index>(tensor.bytes().size() / sizeof(TypeParam));
            }
            EXPECT_EQ(module.parameter_count(), count);
            // By way of a file, too.
            heed::write_safetensors(path, weights);
            another.load(heed::read_safetensors(path), prefix);
            EXPECT_EQ(saved(another, prefix), weights);
            EXPECT_EQ(parameters_of(another), parameters_of(module));
        }
    });
}

// One missing, misshapen, mistyped or unused weight, in turn for every parameter of every module.
TYPED_TEST(ModuleTest, WhatDoesNotFitIsNamedAndChangesNothing) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for_each_module<T>([&](const char*, auto module, auto another) {
        randomise_parameters(random, module);
        randomise_parameters(random, another);
        const auto before = parameters_of(module);
        const NamedTensors good = saved(another, "a.");
        const auto refused = [&](const NamedTensors& weights, const std::string& what,
                                 const std::string& name) {
            expect_refused<FormatError>([&] { module.load(weights, "a."); },
                                        {"[WeightLoader]", what, name});
            EXPECT_EQ(parameters_of(module), before) << what << ' ' << name;
        };
        for (const auto& entry : good) {
            const std::string& name = entry.first;
            const AnyTensor& tensor = entry.second;
            refused(without(good, name), "missing: ", name);
            refused(renamed(good,
                            [&](const std::string& key) { return key == name ? key + "_" : key; }),
                    "missing: " + name + "; unused: ", name + "_");
            std::vector<Index> shape = tensor.shape();
            ++shape.back();
            const AnyTensor longer(tensor.scalar_type(), shape);
            refused(replaced(good, name, longer),
                    "of another shape or type: ", name + " " + to_string(longer) + " instead of ");
            shape.back() -= 2;
            refused(replaced(good, name, AnyTensor(tensor.scalar_type(), shape)), "of another",
                    name);
            shape = tensor.shape();
            shape.insert(shape.begin(), 1);  // as many elements, another rank
            refused(replaced(good, name, AnyTensor(tensor.scalar_type(), shape)), "of another",
                    name);
            shape = {};
            refused(replaced(good, name, AnyTensor(tensor.scalar_type(), shape)), "of another",
                    name);
            for (const ScalarType type :
                 {ScalarType::i64, ScalarType::boolean, ScalarType::f8_e4m3})
                refused(replaced(good, name, AnyTensor(type, tensor.shape())), "of another",
                        name + " " + to_string(AnyTensor(type, tensor.shape())));
        }
        NamedTensors more = good;
        more.add("a.zz", AnyTensor(ScalarType::f32, {1}));
        refused(more, "unused: ", "a.zz");
        refused(saved(another, "b."), "missing: ", "a.");
        // And after all that, a good load works.
        module.load(good, "a.");
        EXPECT_EQ(parameters_of(module), parameters_of(another));
    });
}

// --- Names
// ----------------------------------------------------------------------------------------

TEST(ModuleNames, AreThoseOfTheFrameworks) {
    using Names = std::vector<std::string>;
    const auto of = [](const auto& module) { return names_in(saved(module)); };
    using Attention = MultiHeadAttention<float>;
    EXPECT_EQ(of(Attention(heed::PyTorchMultiheadAttention{.embed_dim = 4, .num_heads = 2})),
              (Names{"in_proj_bias", "in_proj_weight", "out_proj.bias", "out_proj.weight"}));
    EXPECT_EQ(of(Attention(heed::PyTorchMultiheadAttention{
                  .embed_dim = 4, .num_heads = 2, .bias = false, .add_bias_kv = true, .vdim = 3})),
              (Names{"bias_k", "bias_v", "k_proj_weight", "out_proj.weight", "q_proj_weight",
                     "v_proj_weight"}));
    EXPECT_EQ(of(Attention(heed::TimmAttention{.dim = 8, .qk_norm = true})),
              (Names{"k_norm.bias", "k_norm.weight", "proj.bias", "proj.weight", "q_norm.bias",
                     "q_norm.weight", "qkv.weight"}));
    EXPECT_EQ(of(Attention(heed::TimmAttention{.dim = 8, .qkv_bias = true, .proj_bias = false})),
              (Names{"proj.weight", "qkv.bias", "qkv.weight"}));
    EXPECT_EQ(of(Attention(heed::BertSelfAttention{.hidden_size = 4, .num_attention_heads = 2})),
              (Names{"key.bias", "key.weight", "query.bias", "query.weight", "value.bias",
                     "value.weight"}));
    EXPECT_EQ(of(heed::SelfAttention<float>({.embed_dim = 4})),
              (Names{"W_key.weight", "W_query.weight", "W_value.weight"}));
    using Encoder = heed::TransformerEncoderLayer<float>;
    EXPECT_EQ(of(Encoder({.d_model = 4, .nhead = 2, .dim_feedforward = 3})),
              (Names{"linear1.bias", "linear1.weight", "linear2.bias", "linear2.weight",
                     "norm1.bias", "norm1.weight", "norm2.bias", "norm2.weight",
                     "self_attn.in_proj_bias", "self_attn.in_proj_weight",
                     "self_attn.out_proj.bias", "self_attn.out_proj.weight"}));
    EXPECT_EQ(
        of(Encoder({.d_model = 4,
                    .nhead = 2,
                    .dim_feedforward = 3,
                    .names = heed::EncoderLayerNames::bert()})),
        (Names{"attention.output.LayerNorm.bias", "attention.output.LayerNorm.weight",
               "attention.output.dense.bias", "attention.output.dense.weight",
               "attention.self.key.bias", "attention.self.key.weight", "attention.self.query.bias",
               "attention.self.query.weight", "attention.self.value.bias",
               "attention.self.value.weight", "intermediate.dense.bias",
               "intermediate.dense.weight", "output.LayerNorm.bias", "output.LayerNorm.weight",
               "output.dense.bias", "output.dense.weight"}));
    EXPECT_EQ(
        of(Encoder({.d_model = 4,
                    .nhead = 2,
                    .dim_feedforward = 3,
                    .names = heed::EncoderLayerNames::albert()})),
        (Names{"attention.LayerNorm.bias", "attention.LayerNorm.weight", "attention.dense.bias",
               "attention.dense.weight", "attention.key.bias", "attention.key.weight",
               "attention.query.bias", "attention.query.weight", "attention.value.bias",
               "attention.value.weight", "ffn.bias", "ffn.weight", "ffn_output.bias",
               "ffn_output.weight", "full_layer_layer_norm.bias", "full_layer_layer_norm.weight"}));
    EXPECT_EQ(of(Encoder({.d_model = 4,
                          .nhead = 2,
                          .dim_feedforward = 3,
                          .names = heed::EncoderLayerNames::timm()})),
              (Names{"attn.proj.bias", "attn.proj.weight", "attn.qkv.bias", "attn.qkv.weight",
                     "mlp.fc1.bias", "mlp.fc1.weight", "mlp.fc2.bias", "mlp.fc2.weight",
                     "norm1.bias", "norm1.weight", "norm2.bias", "norm2.weight"}));
}

// Shapes of the parameters where a transposed or mixed-up one would load in silence elsewhere.
TEST(ModuleNames, ShapesAreThoseOfPyTorch) {
    const NamedTensors packed = saved(MultiHeadAttention<float>({.embed_dim = 6, .num_heads = 2}));
    EXPECT_EQ(to_string(packed.at("in_proj_weight")), "F32 [18, 6]");
    EXPECT_EQ(to_string(packed.at("in_proj_bias")), "F32 [18]");
    const NamedTensors cross = saved(MultiHeadAttention<float>(heed::PyTorchMultiheadAttention{
        .embed_dim = 6, .num_heads = 2, .add_bias_kv = true, .kdim = 4, .vdim = 5}));
    EXPECT_EQ(to_string(cross.at("q_proj_weight")), "F32 [6, 6]");
    EXPECT_EQ(to_string(cross.at("k_proj_weight")), "F32 [6, 4]");
    EXPECT_EQ(to_string(cross.at("v_proj_weight")), "F32 [6, 5]");
    EXPECT_EQ(to_string(cross.at("in_proj_bias")), "F32 [18]");
    EXPECT_EQ(to_string(cross.at("bias_k")), "F32 [1, 1, 6]");
    EXPECT_EQ(to_string(cross.at("bias_v")), "F32 [1, 1, 6]");
    const NamedTensors grouped =
        saved(MultiHeadAttention<float>({.embed_dim = 6,
                                         .num_heads = 4,
                                         .num_kv_heads = 2,
                                         .head_dim = 3,
                                         .value_head_dim = 5,
                                         .qk_norm = heed::QkNorm::rms_norm}));
    EXPECT_EQ(to_string(grouped.at("in_proj_weight")), "F32 [28, 6]");  // 4*3 + 2*3 + 2*5
    EXPECT_EQ(to_string(grouped.at("out_proj.weight")), "F32 [6, 20]");
    EXPECT_EQ(to_string(grouped.at("q_norm.weight")), "F32 [3]");
    const NamedTensors block =
        saved(heed::TransformerEncoderLayer<float>({.d_model = 4,
                                                    .nhead = 2,
                                                    .dim_feedforward = 3,
                                                    .names = heed::EncoderLayerNames::timm()}));
    EXPECT_EQ(to_string(block.at("attn.qkv.weight")), "F32 [12, 4]");
    EXPECT_EQ(to_string(block.at("mlp.fc1.weight")), "F32 [3, 4]");
    EXPECT_EQ(to_string(block.at("mlp.fc2.weight")), "F32 [4, 3]");
}

// PyTorch's own formulas: sum(p.numel() for p in module.parameters()).
TEST(ModuleNames, ParameterCountsAreThoseOfPyTorch) {
    const auto count = [](const heed::MultiHeadAttentionOptions& options) {
        return MultiHeadAttention<float>(options).parameter_count();
    };
    using heed::PyTorchMultiheadAttention;
    const Index E = 12;
    EXPECT_EQ(count(PyTorchMultiheadAttention{E, 3}), 4 * E * E + 4 * E);
    EXPECT_EQ(count(PyTorchMultiheadAttention{.embed_dim = E, .num_heads = 3, .bias = false}),
              4 * E * E);
    EXPECT_EQ(
        count(PyTorchMultiheadAttention{.embed_dim = E, .num_heads = 3, .kdim = 5, .vdim = 7}),
        2 * E * E + E * 5 + E * 7 + 4 * E);
    EXPECT_EQ(count(PyTorchMultiheadAttention{
                  .embed_dim = E, .num_heads = 3, .add_bias_kv = true, .add_zero_attn = true}),
              4 * E * E + 4 * E + 2 * E);
    // ViT-B/16 in timm: 768 * 2304 + 2304 + 768 * 768 + 768.
    EXPECT_EQ(count(heed::TimmAttention{.dim = 768, .num_heads = 12, .qkv_bias = true}), 2'362'368);
    // A layer of BERT base: 7,087,872 of the model's 110 million.
    EXPECT_EQ(heed::TransformerEncoderLayer<float>({.d_model = 768,
                                                    .nhead = 12,
                                                    .dim_feedforward = 3072,
                                                    .names = heed::EncoderLayerNames::bert()})
                  .parameter_count(),
              7'087'872);
    // torch.nn.TransformerEncoderLayer(512, 8), all defaults.
    EXPECT_EQ(heed::TransformerEncoderLayer<float>({.d_model = 512, .nhead = 8}).parameter_count(),
              3'152'384);
    EXPECT_EQ(Linear<float>({.in_features = 3, .out_features = 4}).parameter_count(), 16);
    EXPECT_EQ(heed::Embedding<float>({.count = 7, .features = 3}).parameter_count(), 21);
}

// --- Loading
// --------------------------------------------------------------------------------------

template <class T>
NamedTensors linear_weights(T first) {
    NamedTensors weights;
    weights.add("weight", Tensor<T, 2>({1, 2}, {first, first}));
    weights.add("bias", Tensor<T, 1>({1}, {first}));
    return weights;
}

const Linear<float>::Options two_to_one{.in_features = 2, .out_features = 1};

TEST(ModuleLoad, ThePrefixIsTakenLiterally) {
    NamedTensors weights;
    Linear<float> one(two_to_one), ten(two_to_one), loaded(two_to_one);
    heed::fill(one.weight(), 1);
    heed::fill(ten.weight(), 10);
    one.save(weights, "layer.1.");
    ten.save(weights, "layer.10.");
    loaded.load(weights, "layer.1.");
    EXPECT_EQ(loaded.weight()(0, 0), 1);
    loaded.load(weights, "layer.10.");
    EXPECT_EQ(loaded.weight()(0, 0), 10);
    // Without its dot the prefix names both layers' weights, and no parameter of either.
    const std::string text = refusal([&] { loaded.load(weights, "layer.1"); });
    EXPECT_NE(text.find("missing: layer.1weight, layer.1bias; unused: layer.1.bias, "
                        "layer.1.weight, layer.10.bias, layer.10.weight"),
              std::string::npos)
        << text;
    // Without a prefix, every tensor must belong to the module.
    EXPECT_NE(
        refusal([&] { loaded.load(weights); }).find("missing: weight, bias; unused: layer.1."),
        std::string::npos);
}

TEST(ModuleLoad, EverythingIsToldAtOnce) {
    MultiHeadAttention<float> mha({.embed_dim = 4, .num_heads = 2});
    NamedTensors weights = replaced(without(saved(mha), "out_proj.bias"), "in_proj_bias",
                                    AnyTensor(ScalarType::f16, {11}));
    weights.add("bias_k", AnyTensor(ScalarType::f32, {1, 1, 4}));
    weights.add("out_projection.bias", AnyTensor(ScalarType::f32, {4}));
    EXPECT_EQ(refusal([&] { mha.load(weights); }),
              "[WeightLoader] the weights must be those of the model; found missing: "
              "out_proj.bias; of another shape or type: in_proj_bias F16 [11] instead of [12]; "
              "unused: bias_k, out_projection.bias");
}

TEST(ModuleLoad, LongListsAreCutAndCounted) {
    heed::TransformerEncoderLayer<float> layer({.d_model = 4, .nhead = 2, .dim_feedforward = 3});
    const std::string text = refusal([&] { layer.load(NamedTensors{}); });
    EXPECT_NE(text.find("self_attn.in_proj_weight"), std::string::npos) << text;
    EXPECT_NE(text.find(" and 4 more"), std::string::npos) << text;  // 12 parameters, 8 shown
}

// Views that were taken before a load see the new values: loading writes in place.
TEST(ModuleLoad, ViewsStayValid) {
    Linear<float> layer(two_to_one);
    const TensorView<float, 2> weight = layer.weight();
    layer.load(linear_weights(2.5f));
    EXPECT_EQ(weight.data(), layer.weight().data());
    EXPECT_EQ(weight(0, 1), 2.5f);
}

TEST(ModuleLoad, ConvertsBetweenNumberTypes) {
    // 1 + 2^-12 needs 12 bits after the point: float and double hold it, half (10) and bfloat16
    // (7) round it to 1 on saving. 1/3 in double rounds to the float nearest to it.
    const double third = 1.0 / 3.0;
    const auto load_into = [](auto module, const NamedTensors& weights) {
        module.load(weights);
        return module.weight()(0, 0);
    };
    const Linear<float> single(two_to_one);
    const Linear<double> wide({.in_features = 2, .out_features = 1});
    EXPECT_EQ(load_into(single, linear_weights(third)), static_cast<float>(third));
    EXPECT_EQ(load_into(wide, linear_weights(third)), third);
    EXPECT_EQ(load_into(wide, linear_weights(0.1f)), static_cast<double>(0.1f));
    // Halves and bfloat16 are widened without loss: the largest half, and 2^-24, its smallest.
    for (const float exact : {65504.0f, 0x1p-24f, -0.0f, 1.5f}) {
        EXPECT_EQ(load_into(single, linear_weights(heed::half(exact))), exact);
        EXPECT_EQ(load_into(wide, linear_weights(heed::half(exact))), static_cast<double>(exact));
    }
    for (const float exact : {0x1.fep127f, 0x1p-126f, 1.5f}) {
        EXPECT_EQ(load_into(single, linear_weights(heed::bfloat16(exact))), exact);
        EXPECT_EQ(load_into(wide, linear_weights(heed::bfloat16(exact))),
                  static_cast<double>(exact));
    }
    // Beyond the range of float: infinity, as IEEE 754 rounds.
    EXPECT_EQ(load_into(single, linear_weights(1e300)), std::numeric_limits<float>::infinity());
    EXPECT_TRUE(
        std::isnan(load_into(single, linear_weights(std::numeric_limits<double>::quiet_NaN()))));
}

TEST(ModuleLoad, MixedNumberTypesInOneFile) {
    Random random;
    SCOPED_TRACE(random.describe());
    NamedTensors weights;
    weights.add("weight",
                Tensor<heed::bfloat16, 2>({1, 2}, {heed::bfloat16(2), heed::bfloat16(3)}));
    weights.add("bias", Tensor<double, 1>({1}, {0.5}));
    Linear<float> layer(two_to_one);
    layer.load(weights);
    EXPECT_EQ(values(layer(Tensor<float, 1>({2}, {1, 10}))), std::vector<float>{32.5f});
}

TEST(ModuleSave, RefusesNamesThatAreTaken) {
    Linear<float> layer(two_to_one);
    NamedTensors weights;
    layer.save(weights, "a.");
    layer.save(weights, "b.");
    EXPECT_EQ(weights.size(), 4u);
    expect_refused<heed::ArgumentError>([&] { layer.save(weights, "a."); }, {"a.weight"});
}

TEST(ModuleSave, CopiesTheValues) {
    Linear<float> layer(two_to_one);
    heed::fill(layer.weight(), 1);
    const NamedTensors before = saved(layer);
    heed::fill(layer.weight(), 2);
    EXPECT_EQ((before.view<float, 2>("weight")(0, 0)), 1);
}

// --- WeightLoader
// ---------------------------------------------------------------------------------

struct ModelWeights {
    Linear<float> first{two_to_one}, second{two_to_one};
    NamedTensors weights;

    ModelWeights() {
        heed::fill(first.weight(), 1);
        heed::fill(second.weight(), 2);
        first.save(weights, "model.first.");
        second.save(weights, "model.second.");
        weights.add("head.weight", AnyTensor(ScalarType::f32, {3}));
        weights.add("head.bias", AnyTensor(ScalarType::i64, {3}));
    }
};

TEST(WeightLoaderTest, LoadsModulesAndKeepsAccount) {
    const ModelWeights model;
    Linear<float> a(two_to_one), b(two_to_one);
    WeightLoader loader(model.weights);
    EXPECT_EQ(loader.unused().size(), 6u);
    loader.load(a, "model.first.");
    EXPECT_EQ(loader.unused(),
              (std::vector<std::string>{"head.bias", "head.weight", "model.second.bias",
                                        "model.second.weight"}));
    const std::string text = refusal([&] { loader.finish(); });
    EXPECT_NE(text.find("unused: head.bias, head.weight, model.second.bias, model.second.weight"),
              std::string::npos)
        << text;
    loader.load(b, "model.second.").ignore("head.").finish();
    EXPECT_TRUE(loader.unused().empty());
    EXPECT_EQ(a.weight()(0, 0), 1);
    EXPECT_EQ(b.weight()(0, 0), 2);
    // Loading twice (shared layers) is no offence.
    loader.load(a, "model.second.").finish();
    EXPECT_EQ(a.weight()(0, 0), 2);
}

TEST(WeightLoaderTest, IgnoresByPrefixOnly) {
    const ModelWeights model;
    WeightLoader loader(model.weights);
    loader.ignore("model.first.");
    EXPECT_EQ(loader.unused().size(), 4u);
    loader.ignore("ead.");
    EXPECT_EQ(loader.unused().size(), 4u);
    loader.ignore("head.w");
    EXPECT_EQ(loader.unused().size(), 3u);
    loader.ignore("");
    loader.finish();
}

TEST(WeightLoaderTest, ARefusedLoadUsesNothing) {
    const ModelWeights model;
    Linear<float> wide({.in_features = 3, .out_features = 1});
    WeightLoader loader(model.weights);
    const std::string text = refusal([&] { loader.load(wide, "model.first."); });
    EXPECT_NE(text.find("model.first.weight F32 [1, 2] instead of [1, 3]"), std::string::npos);
    EXPECT_EQ(loader.unused().size(), 6u);
    for (const float value : values(wide.weight())) EXPECT_EQ(value, 0);
}

TEST(WeightLoaderTest, StrictLoadsLookUnderTheirPrefixAlone) {
    ModelWeights model;
    Linear<float> a(two_to_one);
    model.weights.add("model.first.extra", AnyTensor(ScalarType::f32, {1}));
    WeightLoader loader(model.weights);
    EXPECT_NE(refusal([&] {
                  loader.load_strictly(a, "model.first.");
              }).find("found unused: model.first.extra"),
              std::string::npos);
    EXPECT_EQ(loader.unused().size(), 7u);
    loader.ignore("model.first.e").load_strictly(a, "model.first.");
    loader.load_strictly(a, "model.second.");
    EXPECT_EQ(loader.unused(), (std::vector<std::string>{"head.bias", "head.weight"}));
    // What was loaded before is not unused, whoever had it.
    Linear<float> inner(two_to_one);
    ModelWeights nested;
    nested.weights = renamed(nested.weights, [](const std::string& name) {
        return name.starts_with("model.first.") ? "model." + name.substr(12) : name;
    });
    WeightLoader(nested.weights)
        .load(inner, "model.second.")
        .load_strictly(a, "model.")
        .ignore("head.")
        .finish();
    EXPECT_EQ(a.weight()(0, 0), 1);
}

}  // namespace
