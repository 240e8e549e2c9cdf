// Does MultiHeadAttention go back as it went forward, under every option and mask?

#include <gtest/gtest.h>

#include "heed/nn/multi_head_attention.hpp"
#include "nn/gradients.hpp"
#include "support/allocation_counter.hpp"
#include "support/threads.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::ArgumentError;
using heed::MultiHeadAttentionOptions;
using heed::NoMask;
using heed::QkNorm;
using heed::ShapeError;
using nn_test::all_nan;
using nn_test::all_zero;
using nn_test::Differences;
using nn_test::expect_agreement;
using nn_test::expect_close;
using nn_test::expect_close_parameters;
using nn_test::expect_refused;
using nn_test::Index;
using nn_test::nans;
using nn_test::parameters_of;
using nn_test::Random;
using nn_test::random_tensor;
using nn_test::randomise_parameters;
using nn_test::Shape;
using nn_test::Tensor;
using nn_test::TensorView;
using nn_test::values;
using Attention = heed::MultiHeadAttention<double>;
using View = TensorView<const double, 3>;

struct Lengths {
    Index batch = 2, q_len = 3, kv_len = 4;
};

Lengths random_lengths(Random& random) {
    return {random.integer(1, 2), random.integer(1, 4), random.integer(1, 4)};
}

Attention random_module(Random& random, const MultiHeadAttentionOptions& options) {
    Attention mha(options);
    randomise_parameters(random, mha);
    return mha;
}

/// Every option that forward has, together. A large epsilon keeps norms of a few numbers smooth.
MultiHeadAttentionOptions random_options(Random& random) {
    MultiHeadAttentionOptions o{
        .embed_dim = random.integer(1, 5),
        .num_kv_heads = random.integer(1, 2),
        .head_dim = random.integer(1, 3),
        .value_head_dim = random.pick<Index>({0, 1, 4}),
        .kdim = random.pick<Index>({0, 0, 3}),
        .vdim = random.pick<Index>({0, 0, 2}),
        .bias = random.chance(0.6),
        .out_projection = random.chance(0.8),
        .add_bias_kv = random.chance(0.3),
        .add_zero_attn = random.chance(0.3),
        .qk_norm = random.pick({QkNorm::none, QkNorm::layer_norm, QkNorm::rms_norm}),
        .qk_norm_epsilon = random.pick({0.05, 0.5}),
        .dropout = random.pick({0.0, 0.3}),
        .out_dropout = random.pick({0.0, 0.3}),
        .seed = random.bits()};
    o.num_heads = o.num_kv_heads * random.integer(1, 3);
    if (random.chance(0.3)) o.out_bias = !o.bias;
    if (random.chance(0.3)) o.scale = random.pick({-0.5, 0.0, 1.5});
    if (random.chance(0.3)) o.names = heed::AttentionNames::separate("q", "k", "v", "o");
    return o;
}

std::string describe(const MultiHeadAttentionOptions& o) {
    const auto flag = [](bool set, const char* name) { return set ? std::string(name) : ""; };
    return "embed " + std::to_string(o.embed_dim) + ", heads " + std::to_string(o.num_heads) + "/" +
           std::to_string(o.num_kv_heads) + ", head_dim " + std::to_string(o.head_dim) + "/" +
           std::to_string(o.value_head_dim) + ", kdim " + std::to_string(o.kdim) + ", vdim " +
           std::to_string(o.vdim) + ", qk_norm " + std::to_string(static_cast<int>(o.qk_norm)) +
           ", dropout " + std::to_string(o.dropout) + "/" + std::to_string(o.out_dropout) +
           flag(o.bias, ", bias") + flag(o.out_projection, ", out projection") +
           flag(o.add_bias_kv, ", add_bias_kv") + flag(o.add_zero_attn, ", add_zero_attn");
}

/// The tensors of one call forward and back.
struct Tensors {
    Tensor<double, 3> query, key, value, out, d_out, dquery, dkey, dvalue;

    Tensors(Random& random, const Attention& mha, const Lengths& n)
        : query(random_tensor<double, 3>(random, {n.batch, n.q_len, mha.options().embed_dim})),
          key(random_tensor<double, 3>(random, {n.batch, n.kv_len, mha.options().kdim})),
          value(random_tensor<double, 3>(random, {n.batch, n.kv_len, mha.options().vdim})),
          out({n.batch, n.q_len, mha.output_dim()}),
          d_out(random_tensor<double, 3>(random, out.shape())),
          dquery(nans(query.shape())),
          dkey(nans(key.shape())),
          dvalue(nans(value.shape())) {}

    heed::MultiHeadAttentionGradients<double> gradients() { return {dquery, dkey, dvalue}; }

    template <class Mask = NoMask>
    void forward(Attention& mha, const Mask& mask = {}) {
        mha.forward(query, key, value, out, mask);
    }
    template <class Mask = NoMask>
    void backward(Attention& mha, Attention& to, const Mask& mask = {}) {
        mha.backward(query, key, value, d_out, gradients(), to, mask);
    }
    bool inputs_untouched() const { return all_nan(dquery) && all_nan(dkey) && all_nan(dvalue); }
};

/// Forward under `mask`, back under `mask_back`, all gradients judged by differences.
template <class Mask = NoMask, class MaskBack = Mask>
Differences judge(Random& random, Attention module, const Lengths& n, const Mask& mask = {},
                  const MaskBack& mask_back = {}) {
    module.train();
    Tensors t(random, module, n);
    Attention running(module);
    Attention gradients = running.make_gradients();
    t.forward(running, mask);
    t.backward(running, gradients, mask_back);

    const auto loss = [&](Attention& mha) {
        t.forward(mha, mask);
        return nn_test::weighted_sum<3>(t.out, t.d_out);
    };
    const auto of_inputs = [&] {
        Attention copy(module);
        return loss(copy);
    };
    Differences differences;
    compare_parameters(differences, module, gradients, loss);
    differences.compare("query", t.query.view(), read(t.dquery), of_inputs);
    differences.compare("key", t.key.view(), read(t.dkey), of_inputs);
    differences.compare("value", t.value.view(), read(t.dvalue), of_inputs);
    return differences;
}

/// The same for self-attention.
template <class Mask = NoMask>
Differences judge_self(Random& random, Attention module, const Lengths& n, const Mask& mask = {}) {
    module.train();
    Tensors t(random, module, n);
    Attention running(module);
    Attention gradients = running.make_gradients();
    running.forward(t.query, t.query, t.query, t.out, mask);
    running.backward(t.query, t.d_out, t.dquery, gradients, mask);

    const auto loss = [&](Attention& mha) {
        mha.forward(t.query, t.query, t.query, t.out, mask);
        return nn_test::weighted_sum<3>(t.out, t.d_out);
    };
    Differences differences;
    compare_parameters(differences, module, gradients, loss);
    differences.compare("x", t.query.view(), read(t.dquery), [&] {
        Attention copy(module);
        return loss(copy);
    });
    return differences;
}

// --- By differences
// -------------------------------------------------------------------------------

TEST(MultiHeadAttentionBackward, RandomOptions) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int i = 0; i < 60; ++i) {
        const MultiHeadAttentionOptions options = random_options(random);
        SCOPED_TRACE(describe(options));
        expect_agreement(judge(random, random_module(random, options), random_lengths(random)));
    }
}

TEST(MultiHeadAttentionBackward, RandomOptionsOfSelfAttention) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int i = 0; i < 60; ++i) {
        MultiHeadAttentionOptions options = random_options(random);
        options.kdim = options.vdim = 0;
        SCOPED_TRACE(describe(options));
        Lengths n = random_lengths(random);
        n.kv_len = n.q_len;
        expect_agreement(judge_self(random, random_module(random, options), n));
    }
}

/// Calls f(mask) with masks of every kind: intervals, flags, biases, and scores with slopes.
template <class F>
void for_each_mask(Random& random, const Lengths& n, const F& f) {
    const std::vector<Index> lengths{n.kv_len, 1};
    f(heed::Causal::bottom_right() & heed::KeyLengths{lengths});
    Tensor<bool, 2> blocked({n.q_len, n.kv_len});
    for (bool& flag : blocked.values()) flag = random.chance(0.4);
    const auto bias = random_tensor<double, 3>(random, {2, n.q_len, n.kv_len});
    f(heed::BlockWhere(blocked) & heed::AdditiveBias(bias) & heed::SoftCap{1.5});
    f([](auto score, heed::ScoreIndex at) {
        return score * (1 + 0.25 * static_cast<double>(at.q - at.k));
    });
}

TEST(MultiHeadAttentionBackward, UnderMasksWithAndWithoutExtraKeys) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (const bool bias_kv : {false, true})
        for (const bool zero_attn : {false, true}) {
            SCOPED_TRACE(std::string(bias_kv ? "bias_kv " : "") + (zero_attn ? "zero_attn" : ""));
            const MultiHeadAttentionOptions options{.embed_dim = 4,
                                                    .num_heads = 2,
                                                    .add_bias_kv = bias_kv,
                                                    .add_zero_attn = zero_attn,
                                                    .dropout = 0.2};
            for (const Lengths n : {Lengths{2, 3, 4}, Lengths{2, 3, 3}})
                for_each_mask(random, n, [&](const auto& mask) {
                    const Attention mha = random_module(random, options);
                    expect_agreement(judge(random, mha, n, mask, mask));
                    if (n.q_len == n.kv_len) expect_agreement(judge_self(random, mha, n, mask));
                });
        }
}

// Gradients of learned biases, tables and sinks travel inside the mask; a layer's own keys have
// none, and need no row of the bias.
TEST(MultiHeadAttentionBackward, OfLearnedBiasesInTheMask) {
    Random random;
    SCOPED_TRACE(random.describe());
    const Lengths n;
    for (const bool extra : {false, true}) {
        Attention mha = random_module(random, {.embed_dim = 4,
                                               .num_heads = 2,
                                               .add_bias_kv = extra,
                                               .add_zero_attn = extra,
                                               .dropout = 0.2});
        mha.train();
        Tensors t(random, mha, n);
        auto matrix = random_tensor<double, 3>(random, {2, n.q_len, n.kv_len}),
             keys = random_tensor<double, 3>(random, {2, 1, n.kv_len});
        auto table = random_tensor<double, 2>(random, {8, 2});
        auto sinks = random_tensor<double, 1>(random, {2});
        Tensor<double, 3> d_matrix(matrix.shape()), d_keys(keys.shape());
        Tensor<double, 2> d_table(table.shape());
        Tensor<double, 1> d_sinks(sinks.shape());
        const auto mask =
            heed::AdditiveBias(matrix).with_gradient(d_matrix) &
            heed::AdditiveBias(keys).with_gradient(d_keys) &
            heed::T5Bias(table, {}, heed::Alignment::top_left()).with_gradient(d_table) &
            heed::Sinks(sinks).with_gradient(d_sinks) & heed::SoftCap{1.5};
        Attention running(mha);
        Attention gradients = running.make_gradients();
        t.forward(running, mask);
        t.backward(running, gradients, mask);

        Differences differences;
        const auto loss = [&] {
            Attention copy(mha);
            t.forward(copy, mask);
            return nn_test::weighted_sum<3>(t.out, t.d_out);
        };
        differences.compare("matrix", matrix.view(), read(d_matrix), loss);
        differences.compare("keys", keys.view(), read(d_keys), loss);
        differences.compare("table", table.view(), read(d_table), loss);
        differences.compare("sinks", sinks.view(), read(d_sinks), loss);
        expect_agreement(differences);
    }
}

// --- The judge can tell
// ---------------------------------------------------------------------------

TEST(MultiHeadAttentionBackward, AnotherMaskIsNoticed) {
    Random random;
    SCOPED_TRACE(random.describe());
    const Attention mha = random_module(random, {.embed_dim = 4, .num_heads = 2});
    EXPECT_GT(judge(random, mha, {}, heed::Causal::bottom_right(), NoMask{}).wrong(), 10);
    EXPECT_GT(judge(random, mha, {}, heed::SoftCap{0.5}, NoMask{}).wrong(), 10);
}

TEST(MultiHeadAttentionBackward, AnotherDropoutIsNoticed) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (const bool of_weights : {false, true}) {
        Attention mha = random_module(random, {.embed_dim = 4,
                                               .num_heads = 2,
                                               .dropout = of_weights ? 0.5 : 0.0,
                                               .out_dropout = of_weights ? 0.0 : 0.5});
        mha.train();
        Tensors t(random, mha, {});
        Attention first = mha.make_gradients(), second = mha.make_gradients();
        t.forward(mha);
        t.backward(mha, first);
        t.forward(mha);
        t.backward(mha, second);
        EXPECT_FALSE(all_close(first.out_weight(), second.out_weight(), 1e-3));
    }
}

// --- Laws
// -----------------------------------------------------------------------------------------

// One product, or three whose gradients of x add up; and views that heed cannot know to be one.
TEST(MultiHeadAttentionBackward, SelfAttentionIsTheSumOfThree) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int i = 0; i < 20; ++i) {
        MultiHeadAttentionOptions options = random_options(random);
        options.kdim = options.vdim = 0;
        options.dropout = options.out_dropout = 0;
        SCOPED_TRACE(describe(options));
        Attention mha = random_module(random, options);
        mha.train();
        Lengths n = random_lengths(random);
        n.kv_len = n.q_len;
        Tensors t(random, mha, n);
        const View x = t.query;
        const Tensor<double, 3> copy(x);
        Tensor<double, 3> dx(x.shape());
        Attention together = mha.make_gradients(), apart = mha.make_gradients(),
                  of_copies = mha.make_gradients();
        mha.forward(x, x, x, t.out);
        mha.backward(x, t.d_out, dx, together);
        for (const bool copied : {false, true}) {
            const View other = copied ? copy : x;
            Attention& to = copied ? of_copies : apart;
            mha.forward(x, other, other, t.out);
            mha.backward(x, other, other, t.d_out, t.gradients(), to);
            heed::add<double, 3>(t.dkey, t.dquery);
            heed::add<double, 3>(t.dvalue, t.dquery);
            expect_close(dx, t.dquery);
            expect_close_parameters(together, to);
        }
    }
}

TEST(MultiHeadAttentionBackward, PackedAndSeparateNamesAreTheSame) {
    Random random;
    SCOPED_TRACE(random.describe());
    MultiHeadAttentionOptions options{.embed_dim = 4, .num_heads = 2};
    Attention packed = random_module(random, options);
    options.names = heed::AttentionNames::separate("q", "k", "v", "o");
    Attention separate(options);
    heed::NamedTensors saved, renamed;
    packed.save(saved);
    for (const auto& [kind, rank] : {std::pair{"weight", 2}, std::pair{"bias", 1}}) {
        const std::string name = kind;
        const std::vector<double> all = parameters_of(packed).at("in_proj_" + name);
        const std::size_t part = all.size() / 3;
        for (std::size_t i = 0; i < 3; ++i) {
            const std::span<const double> numbers(all.data() + i * part, part);
            const std::string to = std::string(1, "qkv"[i]) + "." + name;
            if (rank == 2)
                renamed.add(to, TensorView<const double, 2>(numbers, {4, 4}));
            else
                renamed.add(to, TensorView<const double, 1>(numbers, Shape<1>(4)));
        }
        renamed.add("o." + name, saved.at("out_proj." + name));
    }
    separate.load(renamed);
    Tensors t(random, packed, {2, 3, 3});
    const auto gradients_of = [&](Attention& mha) {
        mha.train();
        Attention gradients = mha.make_gradients();
        mha.forward(t.query, t.query, t.query, t.out);
        mha.backward(t.query, t.d_out, t.dquery, gradients);
        return parameters_of(gradients);
    };
    const auto of_packed = gradients_of(packed), of_separate = gradients_of(separate);
    for (const std::string name : {"weight", "bias"}) {
        std::vector<double> joined;
        for (const std::string part : {"q.", "k.", "v."})
            for (const double x : of_separate.at(part + name)) joined.push_back(x);
        EXPECT_EQ(of_packed.at("in_proj_" + name), joined);
        EXPECT_EQ(of_packed.at("out_proj." + name), of_separate.at("o." + name));
    }
}

TEST(MultiHeadAttentionBackward, AddsToParametersAndOverwritesInputs) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int i = 0; i < 20; ++i) {
        const MultiHeadAttentionOptions options = random_options(random);
        SCOPED_TRACE(describe(options));
        Attention mha = random_module(random, options);
        mha.train();
        Tensors t(random, mha, random_lengths(random));
        Attention once = mha.make_gradients();
        t.forward(mha);
        t.backward(mha, once);
        const auto dquery = values(t.dquery), dkey = values(t.dkey), dvalue = values(t.dvalue);
        Attention twice(once);
        t.backward(mha, twice);
        EXPECT_EQ(values(t.dquery), dquery);
        EXPECT_EQ(values(t.dkey), dkey);
        EXPECT_EQ(values(t.dvalue), dvalue);
        Attention doubled(once);
        doubled.for_each_parameter([](const std::string&, auto view) {
            heed::detail::for_each_element([](double& value) { value *= 2; }, view);
        });
        expect_close_parameters(twice, doubled);

        // Each gradient has the same bits whatever else is wanted.
        Attention without = mha.make_gradients();
        heed::fill(t.dkey.view(), std::nan(""));
        mha.backward(t.query, t.key, t.value, t.d_out, {.dkey = t.dkey}, without);
        EXPECT_EQ(values(t.dkey), dkey);
        EXPECT_EQ(parameters_of(without), parameters_of(once));
    }
}

TEST(MultiHeadAttentionBackward, AnyStridesWithContiguousRows) {
    Random random;
    SCOPED_TRACE(random.describe());
    using Strided = support::Strided<double, 3>;
    for (int i = 0; i < 20; ++i) {
        MultiHeadAttentionOptions options = random_options(random);
        options.dropout = options.out_dropout = 0;
        SCOPED_TRACE(describe(options));
        Attention mha = random_module(random, options);
        mha.train();
        Tensors t(random, mha, random_lengths(random));
        Attention gradients = mha.make_gradients(), others = mha.make_gradients();
        t.forward(mha);
        t.backward(mha, gradients);
        const auto strided = [&](const Tensor<double, 3>& like) {
            auto view =
                std::make_unique<Strided>(random, like.shape(), 77, Strided::Rows::contiguous);
            view->assign(values(like));
            return view;
        };
        const auto query = strided(t.query), key = strided(t.key), value = strided(t.value),
                   d_out = strided(t.d_out), dquery = strided(t.query), dkey = strided(t.key),
                   dvalue = strided(t.value);
        mha.forward(query->view(), key->view(), value->view(), t.out);
        mha.backward(query->view(), key->view(), value->view(), d_out->view(),
                     {dquery->view(), dkey->view(), dvalue->view()}, others);
        expect_close(dquery->view(), t.dquery);
        expect_close(dkey->view(), t.dkey);
        expect_close(dvalue->view(), t.dvalue);
        expect_close_parameters(others, gradients);
        EXPECT_TRUE(dquery->gaps_untouched() && dkey->gaps_untouched() && dvalue->gaps_untouched());
    }
}

TEST(MultiHeadAttentionBackward, EmptyBatchesAndLengths) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (const bool extra : {false, true})
        for (const Lengths n : {Lengths{0, 3, 3}, Lengths{2, 0, 3}, Lengths{2, 3, 0}}) {
            Attention mha =
                random_module(random, {.embed_dim = 4, .num_heads = 2, .add_bias_kv = extra});
            mha.train();
            Tensors t(random, mha, n);
            Attention gradients = mha.make_gradients();
            t.forward(mha);
            t.backward(mha, gradients);
            for (const double x : t.dquery.values()) EXPECT_TRUE(std::isfinite(x));
            for (const double x : t.dkey.values()) EXPECT_EQ(x, 0);
            EXPECT_EQ(all_zero(gradients), n.batch * n.q_len == 0);
        }
}

TEST(MultiHeadAttentionBackward, LargerThanATile) {
    Random random;
    SCOPED_TRACE(random.describe());
    // Over several tiles of queries and keys, with threads, against the formula's law: the loss
    // sum(out * d_out) is linear in the output projection, so that <W, dW> + <b, db> is the loss.
    Attention mha = random_module(random, {.embed_dim = 16, .num_heads = 2, .num_kv_heads = 1});
    mha.train();
    Tensors t(random, mha, {2, 150, 290});
    Attention alone = mha.make_gradients(), shared = mha.make_gradients();
    t.forward(mha, heed::Causal::bottom_right());
    t.backward(mha, alone, heed::Causal::bottom_right());
    const auto dkey = values(t.dkey);
    {
        const support::WithThreads several(2);
        t.forward(mha, heed::Causal::bottom_right());
        t.backward(mha, shared, heed::Causal::bottom_right());
    }
    EXPECT_EQ(values(t.dkey), dkey);
    EXPECT_EQ(parameters_of(alone), parameters_of(shared));
    const auto parameters = parameters_of(mha), gradients = parameters_of(alone);
    double sum = 0;
    for (const std::string name : {"out_proj.weight", "out_proj.bias"})
        for (std::size_t i = 0; i < parameters.at(name).size(); ++i)
            sum += parameters.at(name)[i] * gradients.at(name)[i];
    const double loss = nn_test::weighted_sum<3>(t.out, t.d_out);
    EXPECT_NEAR(sum, loss, 1e-8 + 1e-6 * std::abs(loss));
}

// --- Training, memory, errors
// ---------------------------------------------------------------------

TEST(MultiHeadAttentionBackward, TrainingWithoutDropoutIsEvaluation) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (int i = 0; i < 30; ++i) {
        MultiHeadAttentionOptions options = random_options(random);
        options.dropout = options.out_dropout = 0;
        Attention mha = random_module(random, options);
        const Lengths n = random_lengths(random);
        Tensors t(random, mha, n);
        Tensor<double, 3> lse({n.batch, options.num_heads, n.q_len}), trained_lse(lse.shape());
        mha.forward(t.query, t.key, t.value, t.out, NoMask{}, {.lse = lse});
        const auto evaluated = values(t.out);
        mha.train();
        mha.forward(t.query, t.key, t.value, t.out, NoMask{}, {.lse = trained_lse});
        EXPECT_EQ(values(t.out), evaluated);
        EXPECT_EQ(values(lse), values(trained_lse));

        // What else is asked of the forward pass does not matter to backward.
        Attention gradients = mha.make_gradients(), others = mha.make_gradients();
        t.backward(mha, gradients);
        t.forward(mha);
        t.backward(mha, others);
        EXPECT_EQ(parameters_of(gradients), parameters_of(others));
    }
}

TEST(MultiHeadAttentionBackward, BelongsToAForwardInTraining) {
    Random random;
    SCOPED_TRACE(random.describe());
    Attention mha = random_module(random, {.embed_dim = 4, .num_heads = 2});
    Tensors t(random, mha, {});
    Attention gradients = mha.make_gradients();
    const auto refused = [&](Attention& module) {
        expect_refused<ArgumentError>(
            [&] { t.backward(module, gradients); },
            {"[MultiHeadAttention] backward needs a forward in training before it; found none"});
        EXPECT_TRUE(t.inputs_untouched());
        EXPECT_TRUE(all_zero(gradients));
    };
    refused(mha);
    t.forward(mha);
    refused(mha);
    mha.train();
    refused(mha);
    t.forward(mha);
    Attention copy(mha);
    refused(copy);
    copy = mha;
    refused(copy);
    // A forward whose mask is refused leaves nothing to go back through.
    const Tensor<bool, 2> wide({3, 9});
    EXPECT_THROW(t.forward(mha, heed::BlockWhere(wide)), ShapeError);
    refused(mha);
    t.forward(mha);
    Attention moved(std::move(mha));
    t.backward(moved, gradients);
    EXPECT_FALSE(all_zero(gradients));
}

TEST(MultiHeadAttentionBackward, RefusesBeforeAnythingIsWritten) {
    Random random;
    SCOPED_TRACE(random.describe());
    Attention mha = random_module(
        random, {.embed_dim = 4, .num_heads = 2, .kdim = 5, .vdim = 6, .add_bias_kv = true});
    mha.train();
    Tensors t(random, mha, {2, 3, 4});
    t.forward(mha);
    Attention gradients = mha.make_gradients();
    struct Call {
        View query, key, value, d_out;
        heed::MultiHeadAttentionGradients<double> inputs;
    };
    const auto refuse = [&]<class Error>(Error*, const auto& change, const std::string& fragment) {
        SCOPED_TRACE(fragment);
        Call c{t.query, t.key, t.value, t.d_out, t.gradients()};
        change(c);
        expect_refused<Error>(
            [&] { mha.backward(c.query, c.key, c.value, c.d_out, c.inputs, gradients); },
            {"[MultiHeadAttention] " + fragment});
        EXPECT_TRUE(t.inputs_untouched());
        EXPECT_TRUE(all_zero(gradients));
    };
    ShapeError* const shape_error = nullptr;
    ArgumentError* const argument_error = nullptr;
    Tensor<double, 3> other({2, 3, 7}), longer({2, 5, 4}), over_query(t.query), over_d_out(t.d_out);
    refuse(
        shape_error, [&](Call& c) { c.query = other; }, "the query must have shape [2, 3, 4]");
    refuse(
        shape_error, [&](Call& c) { c.query = longer; }, "the query must have shape [2, 3, 4]");
    refuse(
        shape_error, [&](Call& c) { c.key = c.key.slice(1, 0, 3); },
        "the key must have shape [2, 4, 5]");
    refuse(
        shape_error, [&](Call& c) { c.value = other; }, "the value must have shape [2, 4, 6]");
    refuse(
        shape_error, [&](Call& c) { c.d_out = other; }, "d_out must have shape [2, 3, 4]");
    refuse(
        argument_error, [&](Call& c) { c.query = View(nullptr, c.query.shape()); },
        "the query must point at memory");
    refuse(
        argument_error, [&](Call& c) { c.d_out = View(nullptr, c.d_out.shape()); },
        "d_out must point at memory");
    refuse(
        shape_error, [&](Call& c) { c.inputs.dquery = other; }, "dquery must have shape [2, 3, 4]");
    refuse(
        shape_error, [&](Call& c) { c.inputs.dkey = other; }, "dkey must have shape [2, 4, 5]");
    refuse(
        shape_error, [&](Call& c) { c.inputs.dvalue = other; }, "dvalue must have shape [2, 4, 6]");
    refuse(
        shape_error,
        [&](Call& c) {
            c.query = over_query;
            c.inputs.dquery = over_query;
        },
        "dquery must not overlap an input");
    refuse(
        shape_error,
        [&](Call& c) {
            c.d_out = over_d_out;
            c.inputs.dquery = over_d_out;
        },
        "dquery must not overlap an input");
    Tensor<double, 1> memory(Shape<1>(64));
    refuse(
        shape_error,
        [&](Call& c) {
            c.inputs.dkey = {memory.data(), c.key.shape()};
            c.inputs.dvalue = {memory.data() + 10, c.value.shape()};
        },
        "dvalue must not overlap an input or another output");
    refuse(
        shape_error,
        [&](Call& c) {
            c.d_out = View(memory.data(), c.d_out.shape(), {12, 1, 3});
        },
        "d_out must have a contiguous last dimension");
    refuse(
        shape_error,
        [&](Call& c) {
            c.inputs.dquery = {memory.data(), c.query.shape(), {12, 1, 3}};
        },
        "dquery must have a contiguous last dimension");

    const Tensor<bool, 2> wide({3, 9});
    expect_refused<ShapeError>([&] { t.backward(mha, gradients, heed::BlockWhere(wide)); },
                               {"[BlockWhere]"});
    EXPECT_TRUE(t.inputs_untouched());
    EXPECT_TRUE(all_zero(gradients));
    expect_refused<ArgumentError>([&] { t.backward(mha, mha); },
                                  {"the gradients must be another module", "the module itself"});
    for (const MultiHeadAttentionOptions& options :
         {MultiHeadAttentionOptions{.embed_dim = 4, .num_heads = 2},
          {.embed_dim = 4, .num_heads = 2, .kdim = 5, .vdim = 6},
          {.embed_dim = 4,
          .num_heads = 2,
          .kdim = 5,
          .vdim = 6,
          .bias = false,
          .add_bias_kv = true}}) {
        Attention of_others(options);
        expect_refused<ShapeError>([&] { t.backward(mha, of_others); },
                                   {"the gradients must have the parameters of the module"});
        EXPECT_TRUE(all_zero(of_others));
    }
    // One input has a name of its own.
    Attention self({.embed_dim = 4, .num_heads = 2});
    self.train();
    const Tensor<double, 3> x({2, 3, 4});
    Tensor<double, 3> out({2, 3, 4});
    self.forward(x, x, x, out);
    Attention of_self = self.make_gradients();
    expect_refused<ShapeError>([&] { self.backward(longer, out, {}, of_self); },
                               {"the input must have shape [2, 3, 4]; found [2, 5, 4]"});
    expect_refused<ShapeError>([&] { self.backward(x, out, other.view(), of_self); },
                               {"dx must have shape [2, 3, 4]; found [2, 3, 7]"});
    t.backward(mha, gradients);  // good input is still taken
    EXPECT_FALSE(all_zero(gradients));
}

TEST(MultiHeadAttentionBackward, AllocatesNothingInSteadyState) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (const bool extra : {false, true}) {
        Attention mha = random_module(random, {.embed_dim = 8,
                                               .num_heads = 2,
                                               .add_bias_kv = extra,
                                               .qk_norm = QkNorm::layer_norm,
                                               .dropout = 0.1,
                                               .out_dropout = 0.1});
        mha.train();
        Tensors t(random, mha, {2, 20, 20}), small(random, mha, {1, 3, 3});
        Attention gradients = mha.make_gradients();
        const auto step = [&] {
            for (Tensors* tensors : {&t, &small}) {
                tensors->forward(mha, heed::Causal::top_left());
                tensors->backward(mha, gradients, heed::Causal::top_left());
                mha.forward(tensors->query, tensors->query, tensors->query, tensors->out);
                mha.backward(tensors->query, tensors->d_out, tensors->dquery, gradients);
            }
        };
        const support::AllocationCounter cold;
        step();
        EXPECT_GT(cold.count(), 0u);
        const support::AllocationCounter warm;
        step();
        EXPECT_EQ(warm.count(), 0u);
    }
}

}  // namespace
