// Does MultiHeadAttention answer what PyTorch, timm and BERT answer, with their own parameter
// names?
//
// The golden numbers are PyTorch's in float64, rounded once to float32. heed in double must
// therefore round to the same float32 numbers, one unit in the last place allowed for ties. heed in
// float may err twice as much as plain loops in float do on the same case, plus the rounding floor
// (support/tolerance.hpp): on these cases 1e-6 or so.

#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "heed/nn/multi_head_attention.hpp"
#include "nn/nn_support.hpp"
#include "nn/reference.hpp"
#include "support/golden.hpp"

namespace {

using heed::AdditiveBias;
using heed::AnyTensor;
using heed::BlockWhere;
using heed::MultiHeadAttention;
using heed::NamedTensors;
using nn_test::Index;
using nn_test::Shape;
using nn_test::Tensor;
using nn_test::TensorView;
using nn_test::values;
using support::GoldenCase;
using support::GoldenFile;
using support::Verdict;

// --- Comparing
// ------------------------------------------------------------------------------------

/// Float results against golden numbers.
Verdict judge(const std::vector<float>& actual, const std::vector<float>& plain,
              const std::vector<float>& golden, double sensitivity) {
    return reference::compare(actual, plain, golden, sensitivity);
}

/// Double results, rounded as the golden numbers were.
Verdict judge(const std::vector<double>& actual, const std::vector<double>&,
              const std::vector<float>& golden, double) {
    Verdict verdict{.message = "size"};
    verdict.ok = actual.size() == golden.size();
    for (std::size_t i = 0; verdict.ok && i < actual.size(); ++i) {
        const auto rounded = static_cast<float>(actual[i]);
        const auto units = support::ulp_distance(rounded, golden[i]);
        if (units <= 1) continue;
        verdict = {.ok = false,
                   .error = static_cast<double>(units),
                   .bound = 1,
                   .at = i,
                   .message = std::to_string(units) + " units from the golden number at element " +
                              std::to_string(i)};
    }
    return verdict;
}

/// One sentence for the first verdict that is no success.
Verdict first_failure(const std::vector<std::pair<std::string, Verdict>>& verdicts) {
    for (const auto& [what, verdict] : verdicts)
        if (!verdict.ok) {
            Verdict failed = verdict;
            failed.message = what + ": " + verdict.message;
            return failed;
        }
    return {};
}

// --- torch.nn.MultiheadAttention
// ------------------------------------------------------------------

/// Ways to misread a case, which the comparison must notice.
enum class Misreading { none, no_padding, no_mask, attend_where_blocked, causal_bottom_right };

/// One case in heed's words: batch first, four- and two-dimensional masks.
template <class T>
struct PyTorchCase {
    const GoldenCase& golden;
    Tensor<T, 3> query, key, value;  // as in the file, with a batch of 1 where it has none
    bool batch_first, is_self;
    Index batch, q_len, kv_len, heads, keys;

    explicit PyTorchCase(const GoldenCase& c)
        : golden(c),
          query(with_batch(c.input("query"))),
          key(with_batch(c.input("key"))),
          value(with_batch(c.input("value"))),
          batch_first(c.flag("batch_first") || c.input("query").shape().size() == 2),
          is_self(c.input("query") == c.input("key") && c.input("key") == c.input("value")),
          batch(in_order(query.view()).extent(0)),
          q_len(in_order(query.view()).extent(1)),
          kv_len(in_order(key.view()).extent(1)),
          heads(c.integer("num_heads")),
          keys(kv_len + (c.flag("add_bias_kv") ? 1 : 0) + (c.flag("add_zero_attn") ? 1 : 0)) {}

    static Tensor<T, 3> with_batch(const AnyTensor& tensor) {
        if (tensor.shape().size() == 3) return tensor.to<T, 3>();
        return Tensor<T, 3>(TensorView<const T, 3>(tensor.to<T, 2>().view().unsqueeze()));
    }

    /// The batch in front, whatever the file's order is.
    template <class Element>
    TensorView<Element, 3> in_order(TensorView<Element, 3> view) const {
        return batch_first ? view : view.transpose(0, 1);
    }

    MultiHeadAttention<T> module(const NamedTensors& parameters) const {
        MultiHeadAttention<T> mha(
            heed::PyTorchMultiheadAttention{.embed_dim = golden.integer("embed_dim"),
                                            .num_heads = golden.integer("num_heads"),
                                            .bias = golden.flag("bias"),
                                            .add_bias_kv = golden.flag("add_bias_kv"),
                                            .add_zero_attn = golden.flag("add_zero_attn"),
                                            .kdim = golden.integer("kdim"),
                                            .vdim = golden.integer("vdim")});
        mha.load(parameters);
        return mha;
    }

    /// attn_mask [Lq, Lk] or [B * H, Lq, Lk] as a view that broadcasts to [B, H, Lq, Lk].
    template <class Element>
    TensorView<const Element, 4> mask_view(const AnyTensor& mask) const {
        if (mask.shape().size() == 2) return mask.view<Element, 2>().unsqueeze().unsqueeze();
        return mask.view<Element, 3>().split(0, batch);
    }
    /// key_padding_mask [B, Lk] or [Lk] as [B, Lk].
    template <class Element>
    TensorView<const Element, 2> padding_view(const AnyTensor& mask) const {
        if (mask.shape().size() == 1) return mask.view<Element, 1>().unsqueeze();
        return mask.view<Element, 2>();
    }

    /// Calls f(mask) with the case's attn_mask and key_padding_mask together.
    template <class F>
    void with_masks(Misreading misreading, const F& f) const {
        const auto with_padding = [&](const auto& mask) {
            const AnyTensor* padding = golden.find_input("key_padding_mask");
            if (padding == nullptr || misreading == Misreading::no_padding)
                f(mask);
            else if (padding->scalar_type() == heed::ScalarType::boolean)
                f(mask & heed::block_keys(padding_view<bool>(*padding)));
            else
                f(mask & AdditiveBias(padding_view<float>(*padding).split(1, 1).split(1, 1)));
        };
        const AnyTensor* mask = golden.find_input("attn_mask");
        if (misreading == Misreading::causal_bottom_right)
            with_padding(heed::Causal::bottom_right());
        else if (mask == nullptr || misreading == Misreading::no_mask)
            with_padding(heed::NoMask{});
        else if (mask->scalar_type() != heed::ScalarType::boolean)
            with_padding(AdditiveBias(mask_view<float>(*mask)));
        else if (misreading == Misreading::attend_where_blocked)
            with_padding(heed::AttendWhere(mask_view<bool>(*mask)));
        else
            with_padding(BlockWhere(mask_view<bool>(*mask)));
    }

    /// The same masks for the reference, from the files' numbers alone.
    oracle::Rules rules() const {
        const AnyTensor* mask = golden.find_input("attn_mask");
        const AnyTensor* padding = golden.find_input("key_padding_mask");
        const Index H = heads, Lq = q_len, Lk = kv_len;
        const auto mask_at = [=](Index b, Index h, Index q, Index k) {
            const Index row = mask->shape().size() == 2 ? q : (b * H + h) * Lq + q;
            return static_cast<std::size_t>(row * Lk + k);
        };
        const auto padding_at = [=](Index b, Index k) {
            return static_cast<std::size_t>(b * Lk + k);
        };
        const auto is_set = [](const AnyTensor* tensor, std::size_t at) {
            return tensor != nullptr && tensor->scalar_type() == heed::ScalarType::boolean &&
                   tensor->bytes()[at] != std::byte{0};
        };
        const auto bias = [](const AnyTensor* tensor, std::size_t at) {
            if (tensor == nullptr || tensor->scalar_type() == heed::ScalarType::boolean) return 0.0;
            return static_cast<double>(support::float_values(*tensor)[at]);
        };
        oracle::Rules rules;
        rules.visible = [=](Index b, Index h, Index q, Index k) {
            return !(mask && is_set(mask, mask_at(b, h, q, k))) &&
                   !(padding && is_set(padding, padding_at(b, k)));
        };
        rules.modify = [=](double score, Index b, Index h, Index q, Index k) {
            if (mask) score += bias(mask, mask_at(b, h, q, k));
            if (padding) score += bias(padding, padding_at(b, k));
            return score;
        };
        return rules;
    }

    /// PyTorch's parameters under the reference's names.
    reference::Parameters<T> reference_parameters() const {
        reference::Parameters<T> result;
        const Index E = golden.integer("embed_dim");
        const std::vector<std::string> parts{"q", "k", "v"};
        const auto split = [&](const std::vector<T>& packed, const std::string& kind) {
            const Index count = static_cast<Index>(packed.size()) / 3;
            for (Index i = 0; i < 3; ++i)
                result[parts[static_cast<std::size_t>(i)] + kind] =
                    reference::piece(packed, i * count, count);
        };
        for (const auto& [name, tensor] : golden.parameters()) {
            const std::vector<float> numbers = support::float_values(tensor);
            const std::vector<T> parameter(numbers.begin(), numbers.end());
            if (name == "in_proj_weight")
                split(parameter, ".weight");
            else if (name == "in_proj_bias")
                split(parameter, ".bias");
            else if (name.ends_with("_proj_weight"))
                result[name.substr(0, 1) + ".weight"] = parameter;
            else if (name.starts_with("out_proj."))
                result["o." + name.substr(9)] = parameter;
            else
                result[name] = parameter;
        }
        EXPECT_EQ(result.at("q.weight").size(), static_cast<std::size_t>(E * E));
        return result;
    }

    reference::Yardstick<T> yardstick() const {
        const reference::MultiHead m{.B = batch,
                                     .Lq = q_len,
                                     .Lk = kv_len,
                                     .E = golden.integer("embed_dim"),
                                     .kdim = golden.integer("kdim"),
                                     .vdim = golden.integer("vdim"),
                                     .H = heads,
                                     .Hk = heads,
                                     .add_zero_attn = golden.flag("add_zero_attn"),
                                     .rules = rules()};
        return reference::yardstick<T>(m, reference_parameters(), values(in_order(query.view())),
                                       values(in_order(key.view())),
                                       values(in_order(value.view())));
    }

    /// Runs heed with a mask and compares all that PyTorch returned.
    template <class Mask>
    Verdict compare(MultiHeadAttention<T>& mha, const Mask& mask, bool one_input) const {
        const AnyTensor& golden_output = golden.output("output");
        Tensor<T, 3> output(with_batch(golden_output).shape());
        Tensor<T, 4> weights;
        Tensor<T, 3> averaged;
        heed::MultiHeadAttentionOutputs<T> outputs;
        const AnyTensor* golden_weights = golden.find_output("weights");
        if (golden_weights && golden.flag("average_attn_weights")) {
            averaged = Tensor<T, 3>({batch, q_len, keys});
            outputs.averaged_weights = averaged;
        } else if (golden_weights) {
            weights = Tensor<T, 4>({batch, heads, q_len, keys});
            outputs.weights = weights;
        }
        const auto q = in_order(TensorView<const T, 3>(query));
        const auto k = one_input ? q : in_order(TensorView<const T, 3>(key));
        const auto v = one_input ? q : in_order(TensorView<const T, 3>(value));
        mha.forward(q, k, v, in_order(output.view()), mask, outputs);

        const auto [oracle, bound, sensitivity] = yardstick();
        const Tensor<float, 3> expected = PyTorchCase<float>::with_batch(golden_output);
        std::vector<std::pair<std::string, Verdict>> verdicts{
            {"output", judge(values(in_order(output.view())), bound.output,
                             values(in_order(expected.view())), sensitivity.output)}};
        if (!averaged.empty())
            verdicts.emplace_back(
                "averaged weights",
                judge(values(averaged), bound.averaged_weights,
                      support::float_values(*golden_weights), sensitivity.averaged_weights));
        if (!weights.empty())
            verdicts.emplace_back(
                "weights", judge(values(weights), bound.weights,
                                 support::float_values(*golden_weights), sensitivity.weights));
        return first_failure(verdicts);
    }
};

/// The comparison of one case, as it is or spoiled.
template <class T>
Verdict compare_case(const GoldenFile& file, const std::string& name,
                     Misreading misreading = Misreading::none,
                     const std::function<void(NamedTensors&)>& spoil = {}) {
    const GoldenCase golden(file, name);
    NamedTensors parameters = golden.parameters();
    if (spoil) spoil(parameters);
    const PyTorchCase<T> given(golden);
    MultiHeadAttention<T> mha = given.module(parameters);
    Verdict verdict;
    given.with_masks(misreading,
                     [&](const auto& mask) { verdict = given.compare(mha, mask, false); });
    return verdict;
}

template <class T>
class MultiHeadAttentionGolden : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(MultiHeadAttentionGolden, Scalars);

TYPED_TEST(MultiHeadAttentionGolden, EveryPyTorchCase) {
    using T = TypeParam;
    const GoldenFile file("mha");
    ASSERT_GE(file.cases().size(), 44u);
    for (const std::string& name : file.cases()) {
        SCOPED_TRACE(name);
        const GoldenCase golden(file, name);
        const PyTorchCase<T> given(golden);
        // One module for all calls: its buffers are reused, and its weights loaded in place.
        MultiHeadAttention<T> mha = given.module(golden.parameters());
        given.with_masks(Misreading::none, [&](const auto& mask) {
            EXPECT_VERDICT(given.compare(mha, mask, false));
            if (given.is_self) EXPECT_VERDICT(given.compare(mha, mask, true));
        });
    }
}

// PyTorch wants the mask even where is_causal says it all; heed's Causal is that mask.
TYPED_TEST(MultiHeadAttentionGolden, CausalIsPyTorchsHint) {
    using T = TypeParam;
    const GoldenFile file("mha");
    int cases = 0;
    for (const std::string& name : file.cases()) {
        const GoldenCase golden(file, name);
        if (!golden.flag("is_causal") || golden.find_input("key_padding_mask")) continue;
        SCOPED_TRACE(name);
        const PyTorchCase<T> given(golden);
        MultiHeadAttention<T> mha = given.module(golden.parameters());
        EXPECT_VERDICT(given.compare(mha, heed::Causal::top_left(), false));
        ++cases;
    }
    EXPECT_EQ(cases, 3);
}

// The keys of a file may carry a prefix, and the file may hold other tensors beside them.
TYPED_TEST(MultiHeadAttentionGolden, LoadsFromTheFileByPrefix) {
    const GoldenFile file("mha");
    const GoldenCase golden(file, "everything");
    const PyTorchCase<TypeParam> given(golden);
    MultiHeadAttention<TypeParam> mha = given.module(golden.parameters());
    for (auto view : {mha.query_weight(), mha.key_weight(), mha.value_weight(), mha.out_weight()})
        heed::fill(view, TypeParam(0));
    mha.load(file.tensors(), golden.parameter_prefix());
    given.with_masks(Misreading::none,
                     [&](const auto& mask) { EXPECT_VERDICT(given.compare(mha, mask, false)); });
}

// --- Does the comparison see mistakes?
// ------------------------------------------------------------

/// The comparison must fail by far more than any rounding.
template <class T>
void expect_noticed(const Verdict& verdict) {
    EXPECT_FALSE(verdict.ok) << "the mistake went unnoticed";
    EXPECT_GT(verdict.error, 1000 * verdict.bound) << verdict.message;
}

/// Replaces a parameter by what f makes of its values.
void replace(NamedTensors& parameters, const std::string& name,
             const std::function<void(TensorView<float, 2>)>& f) {
    NamedTensors changed;
    for (const auto& [key, tensor] : parameters) {
        if (key != name) {
            changed.add(key, tensor);
            continue;
        }
        Tensor<float, 2> values = tensor.to<float, 2>();
        f(values.view());
        changed.add(key, values);
    }
    parameters = std::move(changed);
}

void transpose_in_place(TensorView<float, 2> square) {
    for (Index i = 0; i < square.extent(0); ++i)
        for (Index j = 0; j < i; ++j) std::swap(square(i, j), square(j, i));
}

TYPED_TEST(MultiHeadAttentionGolden, NoticesTransposedWeights) {
    const GoldenFile file("mha");
    const auto packed = [](NamedTensors& parameters) {
        replace(parameters, "in_proj_weight", [](TensorView<float, 2> weight) {
            for (Index part = 0; part < 3; ++part)
                transpose_in_place(weight.slice(0, part * weight.extent(1), weight.extent(1)));
        });
    };
    const auto out = [](NamedTensors& parameters) {
        replace(parameters, "out_proj.weight", transpose_in_place);
    };
    expect_noticed<TypeParam>(compare_case<TypeParam>(file, "self", Misreading::none, packed));
    expect_noticed<TypeParam>(compare_case<TypeParam>(file, "self", Misreading::none, out));
}

TYPED_TEST(MultiHeadAttentionGolden, NoticesSwappedProjections) {
    const GoldenFile file("mha");
    const auto swap_rows = [](NamedTensors& parameters) {
        replace(parameters, "in_proj_weight", [](TensorView<float, 2> weight) {
            const Index rows = weight.extent(1);
            for (Index i = 0; i < rows; ++i)
                for (Index j = 0; j < rows; ++j) std::swap(weight(i, j), weight(rows + i, j));
        });
    };
    expect_noticed<TypeParam>(compare_case<TypeParam>(file, "self", Misreading::none, swap_rows));
    // With vdim the projections have names of their own, and q and k the same shape.
    const auto swap_names = [](NamedTensors& parameters) {
        NamedTensors swapped;
        for (const auto& [name, tensor] : parameters)
            swapped.add(name == "q_proj_weight"   ? "k_proj_weight"
                        : name == "k_proj_weight" ? "q_proj_weight"
                                                  : name,
                        tensor);
        parameters = std::move(swapped);
    };
    expect_noticed<TypeParam>(compare_case<TypeParam>(file, "vdim", Misreading::none, swap_names));
}

TYPED_TEST(MultiHeadAttentionGolden, NoticesMisreadMasks) {
    const GoldenFile file("mha");
    for (const auto& [name, misreading] : std::vector<std::pair<std::string, Misreading>>{
             {"padding_bool", Misreading::no_padding},
             {"padding_float", Misreading::no_padding},
             {"bias_kv_padding_mask", Misreading::no_padding},
             {"mask_bool", Misreading::no_mask},
             {"mask_float_per_head", Misreading::no_mask},
             {"mask_bool", Misreading::attend_where_blocked},
             {"mask_bool_per_head", Misreading::attend_where_blocked},
             {"causal_hint_fewer_queries", Misreading::causal_bottom_right}}) {
        SCOPED_TRACE(name);
        expect_noticed<TypeParam>(compare_case<TypeParam>(file, name, misreading));
    }
}

// --- timm's vision transformers
// -------------------------------------------------------------------

template <class T>
reference::Parameters<T> timm_parameters(const GoldenCase& golden) {
    reference::Parameters<T> result;
    for (const auto& [name, tensor] : golden.parameters()) {
        const std::vector<float> numbers = support::float_values(tensor);
        const std::vector<T> parameter(numbers.begin(), numbers.end());
        if (name.starts_with("qkv.")) {
            const Index count = static_cast<Index>(parameter.size()) / 3;
            const std::string kind = name.substr(3);
            result["q" + kind] = reference::piece(parameter, 0, count);
            result["k" + kind] = reference::piece(parameter, count, count);
            result["v" + kind] = reference::piece(parameter, 2 * count, count);
        } else if (name.starts_with("proj.")) {
            result["o" + name.substr(4)] = parameter;
        } else {
            result[name] = parameter;
        }
    }
    return result;
}

TYPED_TEST(MultiHeadAttentionGolden, EveryTimmCase) {
    using T = TypeParam;
    const GoldenFile file("timm");
    ASSERT_GE(file.cases().size(), 6u);
    for (const std::string& name : file.cases()) {
        SCOPED_TRACE(name);
        const GoldenCase golden(file, name);
        MultiHeadAttention<T> attention(
            heed::TimmAttention{.dim = golden.integer("dim"),
                                .num_heads = golden.integer("num_heads"),
                                .qkv_bias = golden.flag("qkv_bias"),
                                .qk_norm = golden.flag("qk_norm"),
                                .qk_scale = golden.real("qk_scale")});
        attention.load(file.tensors(), golden.parameter_prefix());

        const Tensor<T, 3> x = golden.input("x").template to<T, 3>();
        const Index batch = x.extent(0), length = x.extent(1), heads = golden.integer("num_heads");
        Tensor<T, 4> weights({batch, heads, length, length});
        const Tensor<T, 3> y = attention(x, heed::NoMask{}, {.weights = weights});

        reference::MultiHead m{.B = batch,
                               .Lq = length,
                               .Lk = length,
                               .E = x.extent(2),
                               .kdim = x.extent(2),
                               .vdim = x.extent(2),
                               .H = heads,
                               .Hk = heads,
                               .epsilon = golden.real("qk_norm_eps").value_or(1e-6)};
        if (golden.flag("qk_norm")) m.qk_norm = reference::MultiHead::Norm::layer;
        m.rules.scale = golden.real("qk_scale");
        const auto [oracle, plain, sensitivity] =
            reference::yardstick<T>(m, timm_parameters<T>(golden), values(x), values(x), values(x));
        EXPECT_VERDICT(judge(values(y), plain.output,
                             support::float_values(golden.output("output")), sensitivity.output));
        EXPECT_VERDICT(judge(values(weights), plain.weights,
                             support::float_values(golden.output("weights")), sensitivity.weights));
    }
}

// --- BERT self-attention
// --------------------------------------------------------------------------

TYPED_TEST(MultiHeadAttentionGolden, EveryBertCase) {
    using T = TypeParam;
    const GoldenFile file("bert");
    ASSERT_GE(file.cases().size(), 5u);
    for (const std::string& name : file.cases()) {
        SCOPED_TRACE(name);
        const GoldenCase golden(file, name);
        MultiHeadAttention<T> attention(
            heed::BertSelfAttention{.hidden_size = golden.integer("hidden_size"),
                                    .num_attention_heads = golden.integer("num_attention_heads")});
        attention.load(file.tensors(), golden.parameter_prefix());

        const Tensor<T, 3> x = golden.input("hidden_states").template to<T, 3>();
        const bool is_cross = golden.find_input("encoder_hidden_states") != nullptr;
        const Tensor<T, 3> c =
            golden.input(is_cross ? "encoder_hidden_states" : "hidden_states").template to<T, 3>();
        const AnyTensor* additive = golden.find_input("attention_mask");
        const Index heads = golden.integer("num_attention_heads");
        Tensor<T, 4> probabilities({x.extent(0), heads, x.extent(1), c.extent(1)});
        const heed::MultiHeadAttentionOutputs<T> outputs{.weights = probabilities};
        // The mask as BERT makes it: 0, or the lowest float, added to the scores.
        const Tensor<T, 3> context =
            additive ? attention(x, c, c, AdditiveBias(additive->view<float, 4>()), outputs)
                     : attention(x, c, c, heed::NoMask{}, outputs);

        reference::Parameters<T> parameters;
        for (const auto& [key, tensor] : golden.parameters()) {
            const std::vector<float> numbers = support::float_values(tensor);
            parameters[key.substr(0, 1) + key.substr(key.find('.'))] = {numbers.begin(),
                                                                        numbers.end()};
        }
        reference::MultiHead m{.B = x.extent(0),
                               .Lq = x.extent(1),
                               .Lk = c.extent(1),
                               .E = x.extent(2),
                               .kdim = x.extent(2),
                               .vdim = x.extent(2),
                               .H = heads,
                               .Hk = heads};
        if (additive) {
            const oracle::Broadcast<float> bias{support::float_values(*additive),
                                                additive->shape()[0], additive->shape()[1],
                                                additive->shape()[2], additive->shape()[3]};
            m.rules.modify = [=](double score, Index b, Index h, Index q, Index k) {
                return score + static_cast<double>(bias(b, h, q, k));
            };
        }
        const auto [oracle, plain, sensitivity] =
            reference::yardstick<T>(m, parameters, values(x), values(c), values(c));
        EXPECT_VERDICT(judge(values(context), plain.output,
                             support::float_values(golden.output("context")), sensitivity.output));
        EXPECT_VERDICT(judge(values(probabilities), plain.weights,
                             support::float_values(golden.output("probabilities")),
                             sensitivity.weights));
    }
}

// All keys of one sequence carry the lowest float: that is a large bias, not a mask, and swallows
// every score, so that each key gets the same weight.
TYPED_TEST(MultiHeadAttentionGolden, TheLowestFloatIsABiasAndNoMask) {
    using T = TypeParam;
    const GoldenFile file("bert");
    const GoldenCase golden(file, "all_keys_padded");
    MultiHeadAttention<T> attention(
        heed::BertSelfAttention{.hidden_size = 8, .num_attention_heads = 2});
    attention.load(file.tensors(), golden.parameter_prefix());
    const Tensor<T, 3> x = golden.input("hidden_states").template to<T, 3>();
    Tensor<T, 4> weights({2, 2, 5, 5});
    const auto bias = golden.input("attention_mask").template view<float, 4>();
    (void)attention(x, AdditiveBias(bias), {.weights = weights});
    for (const T weight : values(weights.view().select(0, 1))) EXPECT_EQ(weight, T(1) / T(5));
}

}  // namespace
