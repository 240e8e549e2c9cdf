// Are heed's gradients those of PyTorch's autograd?

#include <gtest/gtest.h>

#include "heed/nn/bert_model.hpp"
#include "heed/nn/transformer.hpp"
#include "heed/nn/transformer_encoder.hpp"
#include "nn/bert_golden.hpp"
#include "nn/gradients.hpp"
#include "nn/is_golden.hpp"
#include "support/golden.hpp"

namespace {

using heed::MultiHeadAttention;
using heed::NamedTensors;
using heed::TransformerEncoderLayer;
using nn_test::is_golden;
using nn_test::parameters_of;
using nn_test::Tensor;
using nn_test::TensorView;
using support::GoldenCase;
using support::GoldenFile;

/// Every parameter's gradient, by PyTorch's names.
template <class M>
void expect_golden_parameters(const GoldenCase& golden, const M& gradients) {
    const auto found = parameters_of(gradients);
    EXPECT_EQ(found.size(), golden.parameters().size());
    for (const auto& [name, numbers] : found)
        EXPECT_TRUE(is_golden(numbers, golden.output("grad/" + name))) << name;
}

/// Calls f with the masks of these names, where the case has them; true means blocked.
template <class F>
void with_masks(const GoldenCase& golden, const std::string& mask, const std::string& padding,
                const F& f) {
    if (golden.find_input(mask) == nullptr)
        f(heed::NoMask{});
    else
        f(heed::BlockWhere(golden.input(mask).view<bool, 2>()) &
          heed::block_keys(golden.input(padding).view<bool, 2>()));
}

class GoldenGradients : public testing::Test {
  protected:
    GoldenFile file{"gradients"};

    /// The cases whose names begin like this.
    [[nodiscard]] std::vector<GoldenCase> cases(const std::string& kind) const {
        std::vector<GoldenCase> result;
        for (const std::string& name : file.cases())
            if (name.starts_with(kind)) result.emplace_back(file, name);
        return result;
    }
};

TEST_F(GoldenGradients, MultiHeadAttention) {
    ASSERT_EQ(cases("mha_").size(), 5u);
    int selves = 0;
    for (const GoldenCase& golden : cases("mha_")) {
        SCOPED_TRACE(golden.name());
        MultiHeadAttention<double> mha(
            heed::PyTorchMultiheadAttention{.embed_dim = golden.integer("embed_dim"),
                                            .num_heads = golden.integer("num_heads"),
                                            .bias = golden.flag("bias"),
                                            .add_bias_kv = golden.flag("add_bias_kv"),
                                            .add_zero_attn = golden.flag("add_zero_attn"),
                                            .kdim = golden.integer("kdim"),
                                            .vdim = golden.integer("vdim")});
        mha.load(golden.parameters());
        mha.train();
        const auto input = [&](const char* name) {
            return golden.input(name).template to<double, 3>();
        };
        const Tensor<double, 3> query = input("query"), key = input("key"), value = input("value"),
                                d_out = input("d_output");
        Tensor<double, 3> out(query.shape()), dquery(query.shape()), dkey(key.shape()),
            dvalue(value.shape());
        with_masks(golden, "attn_mask", "key_padding_mask", [&](const auto& mask) {
            auto gradients = mha.make_gradients();
            mha.forward(query, key, value, out, mask);
            mha.backward(query, key, value, d_out, {dquery, dkey, dvalue}, gradients, mask);
            EXPECT_TRUE(is_golden(nn_test::values(dquery), golden.output("d_query")));
            EXPECT_TRUE(is_golden(nn_test::values(dkey), golden.output("d_key")));
            EXPECT_TRUE(is_golden(nn_test::values(dvalue), golden.output("d_value")));
            expect_golden_parameters(golden, gradients);

            if (golden.input("query") != golden.input("key")) return;
            ++selves;
            gradients.fill_parameters(0);
            Tensor<double, 3> dx(query.shape());
            mha.forward(query, query, query, out, mask);
            mha.backward(query, d_out, dx, gradients, mask);
            heed::add<double, 3>(dkey, dquery);
            heed::add<double, 3>(dvalue, dquery);
            EXPECT_TRUE(heed::all_close(dx, dquery, 1e-12, 1e-12));
            expect_golden_parameters(golden, gradients);
        });
    }
    EXPECT_EQ(selves, 2);
}

TEST_F(GoldenGradients, TransformerEncoderLayer) {
    ASSERT_EQ(cases("encoder_layer_").size(), 4u);
    for (const GoldenCase& golden : cases("encoder_layer_")) {
        SCOPED_TRACE(golden.name());
        TransformerEncoderLayer<double> layer({.d_model = golden.integer("d_model"),
                                               .nhead = golden.integer("nhead"),
                                               .dim_feedforward = golden.integer("dim_feedforward"),
                                               .dropout = 0.0,
                                               .activation = golden.argument("activation") == "gelu"
                                                                 ? heed::Activation::gelu
                                                                 : heed::Activation::relu,
                                               .norm_first = golden.flag("norm_first")});
        layer.load(golden.parameters());
        layer.train();
        const Tensor<double, 3> x = golden.input("src").to<double, 3>(),
                                dy = golden.input("d_output").to<double, 3>();
        Tensor<double, 3> y(x.shape()), dx(x.shape());
        with_masks(golden, "src_mask", "src_key_padding_mask", [&](const auto& mask) {
            auto gradients = layer.make_gradients();
            layer.forward(x, y, mask);
            layer.backward(x, dy, dx, gradients, mask);
            EXPECT_TRUE(is_golden(nn_test::values(dx), golden.output("d_src")));
            expect_golden_parameters(golden, gradients);

            // A gradient of something else is noticed.
            EXPECT_FALSE(is_golden(nn_test::values(y), golden.output("d_src")));
            gradients.fill_parameters(1);
            for (const auto& [name, numbers] : parameters_of(gradients))
                EXPECT_FALSE(is_golden(numbers, golden.output("grad/" + name))) << name;
        });
    }
}

TEST_F(GoldenGradients, TransformerEncoder) {
    ASSERT_EQ(cases("transformer_encoder_").size(), 2u);
    for (const GoldenCase& golden : cases("transformer_encoder_")) {
        SCOPED_TRACE(golden.name());
        heed::TransformerEncoder<double> encoder(
            {.layer = {.d_model = golden.integer("d_model"),
                       .nhead = golden.integer("nhead"),
                       .dim_feedforward = golden.integer("dim_feedforward"),
                       .dropout = 0.0,
                       .activation = heed::Activation::gelu,
                       .norm_first = golden.flag("norm_first")},
             .num_layers = golden.integer("num_layers"),
             .norm = golden.flag("norm")});
        encoder.load(golden.parameters());
        encoder.train();
        const Tensor<double, 3> x = golden.input("src").to<double, 3>(),
                                dy = golden.input("d_output").to<double, 3>();
        Tensor<double, 3> y(x.shape()), dx(x.shape());
        with_masks(golden, "mask", "src_key_padding_mask", [&](const auto& mask) {
            auto gradients = encoder.make_gradients();
            encoder.forward(x, y, mask);
            encoder.backward(x, dy, dx, gradients, mask);
            EXPECT_TRUE(is_golden(nn_test::values(dx), golden.output("d_src")));
            expect_golden_parameters(golden, gradients);
        });
    }
}

TEST_F(GoldenGradients, BertModel) {
    const GoldenCase golden(file, "bert_model");
    heed::BertModel<double> model(nn_test::bert_config(golden, /*add_pooling_layer=*/false));
    heed::WeightLoader(file.tensors()).load(model, golden.parameter_prefix());
    model.train();
    const auto ids = golden.input("input_ids").view<std::int64_t, 2>();
    const auto types = golden.input("token_type_ids").view<std::int64_t, 2>();
    const std::vector<heed::Index> lengths = nn_test::lengths_of(golden);
    Tensor<double, 3> hidden({ids.extent(0), ids.extent(1), model.config().hidden_size});
    auto gradients = model.make_gradients();
    model.forward(ids, lengths, hidden, types);
    model.backward(ids, lengths, golden.input("d_output").to<double, 3>(), gradients, types);
    for (const auto& [name, numbers] : parameters_of(gradients))
        EXPECT_TRUE(is_golden(numbers, golden.output("grad/" + name))) << name;

    // Without the types the gradients are others.
    gradients.fill_parameters(0);
    model.forward(ids, lengths, hidden);
    model.backward(ids, lengths, golden.input("d_output").to<double, 3>(), gradients);
    const std::string types_table = "embeddings.token_type_embeddings.weight";
    EXPECT_FALSE(
        is_golden(parameters_of(gradients).at(types_table), golden.output("grad/" + types_table)));
}

}  // namespace
