// Do ScaledDotProductAttention and SelfAttention go back as they went forward?

#include <gtest/gtest.h>

#include "heed/nn/attention.hpp"
#include "nn/gradients.hpp"
#include "support/allocation_counter.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::ArgumentError;
using heed::Causal;
using heed::NoMask;
using heed::ScaledDotProductAttention;
using heed::SelfAttention;
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

// --- ScaledDotProductAttention
// --------------------------------------------------------------------

/// Inputs, outputs and gradients of one attention.
struct Heads {
    Tensor<double, 4> q, k, v, out, d_out, dq, dk, dv;

    Heads(Random& random, const heed::AttentionShape& s)
        : q(random_tensor<double, 4>(random, {s.batch, s.heads, s.q_len, s.head_dim})),
          k(random_tensor<double, 4>(random, {s.batch, s.kv_heads, s.kv_len, s.head_dim})),
          v(random_tensor<double, 4>(random, {s.batch, s.kv_heads, s.kv_len, s.value_dim})),
          out({s.batch, s.heads, s.q_len, s.value_dim}),
          d_out(random_tensor<double, 4>(random, out.shape())),
          dq(nans(q.shape())),
          dk(nans(k.shape())),
          dv(nans(v.shape())) {}

    heed::AttentionGradients<double> gradients() { return {dq, dk, dv}; }
};

constexpr heed::AttentionShape shape{2, 4, 2, 3, 5, 3, 2};

TEST(ScaledDotProductAttentionBackward, EveryInputByDifferences) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (const double dropout : {0.0, 0.4}) {
        Heads h(random, shape);
        const ScaledDotProductAttention<double, Causal> before(
            {.scale = 0.8, .dropout = dropout, .seed = random.bits()}, Causal::bottom_right());
        auto training(before);
        training.train();
        auto running(training);
        running.forward(h.q, h.k, h.v, h.out);
        running.backward(h.q, h.k, h.v, h.out, h.d_out, h.gradients());
        const auto loss = [&] {
            auto copy(training);
            copy.forward(h.q, h.k, h.v, h.out);
            return nn_test::weighted_sum<4>(h.out, h.d_out);
        };
        Differences differences;
        differences.compare("q", h.q.view(), read(h.dq), loss);
        differences.compare("k", h.k.view(), read(h.dk), loss);
        differences.compare("v", h.v.view(), read(h.dv), loss);
        expect_agreement(differences);
    }
}

// Call by call it is the function, with the dropout of the call and the mask of the call.
TEST(ScaledDotProductAttentionBackward, IsTheFunctionCallByCall) {
    Random random;
    SCOPED_TRACE(random.describe());
    Heads h(random, shape), expected(random, shape);
    const heed::SoftCap mask{2.0};
    ScaledDotProductAttention<double> attend({.dropout = 0.5, .seed = 7});
    attend.train();
    for (std::uint32_t call = 0; call < 3; ++call) {
        Tensor<double, 3> lse({2, 4, 3});
        const heed::Dropout dropout{0.5, 7, call};
        const bool wants_lse = call == 1;  // what the caller asks for does not matter
        attend.forward_with(h.q, h.k, h.v, h.out, mask,
                            {.lse = wants_lse ? lse.view() : TensorView<double, 3>()});
        attend.backward_with(h.q, h.k, h.v, h.out, h.d_out, h.gradients(), mask);
        scaled_dot_product_attention(h.q, h.k, h.v, h.out, mask, {.dropout = dropout, .lse = lse});
        scaled_dot_product_attention_backward(h.q, h.k, h.v, h.out, lse, h.d_out,
                                              expected.gradients(), mask, {.dropout = dropout});
        EXPECT_EQ(values(h.dq), values(expected.dq));
        EXPECT_EQ(values(h.dk), values(expected.dk));
        EXPECT_EQ(values(h.dv), values(expected.dv));
    }
}

TEST(ScaledDotProductAttentionBackward, Refusals) {
    Random random;
    SCOPED_TRACE(random.describe());
    Heads h(random, shape);
    ScaledDotProductAttention<double> attend;
    const auto back = [&](auto& module) {
        module.backward(h.q, h.k, h.v, h.out, h.d_out, h.gradients());
    };
    const std::string none =
        "[ScaledDotProductAttention] backward needs a forward in training before it; found none";
    const auto untouched = [&] { return std::isnan(h.dq(0, 0, 0, 0) + h.dv(0, 0, 0, 0)); };
    expect_refused<ArgumentError>([&] { back(attend); }, {none});
    attend.forward(h.q, h.k, h.v, h.out);
    expect_refused<ArgumentError>([&] { back(attend); }, {none});
    attend.train();
    attend.forward(h.q, h.k, h.v, h.out);
    auto copy(attend);
    expect_refused<ArgumentError>([&] { back(copy); }, {none});
    expect_refused<ShapeError>(
        [&] {
            attend.backward(h.q, h.k.view().slice(2, 0, 4), h.v.view().slice(2, 0, 4), h.out,
                            h.d_out, h.gradients());
        },
        {"[ScaledDotProductAttention] q, k and v must have the sizes of the forward before",
         "k [2, 2, 4, 3]"});
    expect_refused<ShapeError>([&] { attend.backward(h.q, h.k, h.v, h.q, h.d_out, h.gradients()); },
                               {"out must have"});
    EXPECT_TRUE(untouched());
    back(attend);
    EXPECT_FALSE(untouched());
}

TEST(ScaledDotProductAttentionBackward, AllocatesNothingInSteadyState) {
    Random random;
    SCOPED_TRACE(random.describe());
    Heads h(random, {2, 4, 2, 33, 65, 8, 8}), small(random, shape);
    ScaledDotProductAttention<double, Causal> attend({.dropout = 0.1}, Causal::bottom_right());
    attend.train();
    const auto step = [&] {
        for (Heads* heads : {&h, &small}) {
            attend.forward(heads->q, heads->k, heads->v, heads->out);
            attend.backward(heads->q, heads->k, heads->v, heads->out, heads->d_out,
                            heads->gradients());
        }
    };
    step();
    const support::AllocationCounter counter;
    step();
    EXPECT_EQ(counter.count(), 0u);
}

// --- SelfAttention
// --------------------------------------------------------------------------------

using Attention = SelfAttention<double>;

Attention random_module(Random& random, const Attention::Options& options) {
    Attention attention(options);
    randomise_parameters(random, attention);
    return attention;
}

struct Tensors {
    Tensor<double, 3> x, context, out, d_out, dx, dcontext;

    Tensors(Random& random, Attention& attention, Index q_len, Index kv_len)
        : x(random_tensor<double, 3>(random,
                                     {Index{2}, q_len, attention.query().weight().extent(1)})),
          context(random_tensor<double, 3>(random,
                                           {Index{2}, kv_len, attention.key().weight().extent(1)})),
          out({Index{2}, q_len, attention.value().weight().extent(0)}),
          d_out(random_tensor<double, 3>(random, out.shape())),
          dx(nans(x.shape())),
          dcontext(nans(context.shape())) {}

    template <class Mask = NoMask>
    void backward(Attention& attention, Attention& gradients, const Mask& mask = {}) {
        attention.backward(x, context, d_out, {dx, dcontext}, gradients, mask);
    }
};

TEST(SelfAttentionBackward, CrossAttentionByDifferences) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (const bool bias : {false, true})
        for (const double dropout : {0.0, 0.3}) {
            Attention module = random_module(random, {.embed_dim = random.integer(1, 4),
                                                      .k_dim = random.integer(1, 4),
                                                      .v_dim = random.integer(1, 4),
                                                      .context_dim = random.integer(1, 4),
                                                      .bias = bias,
                                                      .scale = 0.9,
                                                      .dropout = dropout});
            module.train();
            Tensors t(random, module, 3, 4);
            const auto mask = Causal::bottom_right() & heed::SoftCap{1.5};
            Attention running(module), gradients = module.make_gradients();
            running.forward(t.x, t.context, t.out, mask);
            t.backward(running, gradients, mask);
            const auto loss = [&](Attention& m) {
                m.forward(t.x, t.context, t.out, mask);
                return nn_test::weighted_sum<3>(t.out, t.d_out);
            };
            const auto of_inputs = [&] {
                Attention copy(module);
                return loss(copy);
            };
            Differences differences;
            compare_parameters(differences, module, gradients, loss);
            differences.compare("x", t.x.view(), read(t.dx), of_inputs);
            differences.compare("context", t.context.view(), read(t.dcontext), of_inputs);
            expect_agreement(differences);
        }
}

TEST(SelfAttentionBackward, OfOneInputIsTheSum) {
    Random random;
    SCOPED_TRACE(random.describe());
    Attention module = random_module(random, {.embed_dim = 4, .bias = true, .dropout = 0.3});
    module.train();
    Tensors t(random, module, 3, 3);
    Attention gradients = module.make_gradients(), others = module.make_gradients();
    module.forward(t.x, t.x, t.out, Causal::top_left());
    module.backward(t.x, t.x, t.d_out, {t.dx, t.dcontext}, others, Causal::top_left());
    Tensor<double, 3> dx(t.x.shape());
    module.backward(t.x, t.d_out, dx, gradients, Causal::top_left());
    heed::add<double, 3>(t.dcontext, t.dx);
    EXPECT_EQ(values(dx), values(t.dx));
    EXPECT_EQ(parameters_of(gradients), parameters_of(others));

    // Added to, and without the input's gradient the same.
    module.backward(t.x, t.d_out, {}, gradients, Causal::top_left());
    others.for_each_parameter([](const std::string&, auto view) {
        heed::detail::for_each_element([](double& value) { value *= 2; }, view);
    });
    expect_close_parameters(gradients, others);
}

TEST(SelfAttentionBackward, AnyStrides) {
    Random random;
    SCOPED_TRACE(random.describe());
    using Strided = support::Strided<double, 3>;
    Attention module = random_module(random, {.embed_dim = 4, .v_dim = 3, .context_dim = 2});
    module.train();
    Tensors t(random, module, 3, 5);
    const Strided x(random, t.x.shape(), 77, Strided::Rows::contiguous);
    const Strided dx(random, t.x.shape(), 77, Strided::Rows::contiguous);
    const Strided dcontext(random, t.context.shape(), 77, Strided::Rows::contiguous);
    const Strided d_out(random, t.d_out.shape());
    x.assign(values(t.x));
    d_out.assign(values(t.d_out));
    Attention gradients = module.make_gradients(), others = module.make_gradients();
    module.forward(t.x, t.context, t.out);
    t.backward(module, gradients);
    module.forward(x.view(), t.context, t.out);
    module.backward(x.view(), t.context, d_out.view(), {dx.view(), dcontext.view()}, others);
    expect_close(dx.view(), t.dx);
    expect_close(dcontext.view(), t.dcontext);
    expect_close_parameters(gradients, others);
    EXPECT_TRUE(dx.gaps_untouched() && dcontext.gaps_untouched());
}

TEST(SelfAttentionBackward, Refusals) {
    Random random;
    SCOPED_TRACE(random.describe());
    Attention module = random_module(random, {.embed_dim = 4});
    Tensors t(random, module, 3, 5);
    Attention gradients = module.make_gradients();
    const std::string where = "[SelfAttention] ";
    const auto untouched = [&] {
        return all_nan(t.dx) && all_nan(t.dcontext) && all_zero(gradients);
    };
    const std::string none = where + "backward needs a forward in training before it; found none";
    expect_refused<ArgumentError>([&] { t.backward(module, gradients); }, {none});
    module.forward(t.x, t.context, t.out);
    expect_refused<ArgumentError>([&] { t.backward(module, gradients); }, {none});
    module.train();
    expect_refused<ShapeError>(
        [&] { module.forward(t.x, t.context, t.x); },
        {where + "in training the output must not overlap the input, which backward needs"});
    expect_refused<ShapeError>(
        [&] { module.forward(t.x, t.x, t.x); },
        {where + "in training the output must not overlap the input, which backward needs"});
    module.forward(t.x, t.context, t.out);
    Attention copy(module);
    expect_refused<ArgumentError>([&] { t.backward(copy, gradients); }, {none});

    const Tensor<double, 3> wide({2, 3, 7});
    Tensor<double, 3> to({2, 3, 7});
    const auto refuse = [&](const auto& call, const std::string& fragment) {
        expect_refused<ShapeError>(call, {where + fragment});
        EXPECT_TRUE(untouched());
    };
    heed::SelfAttentionGradients<double> inputs{t.dx, t.dcontext};
    refuse([&] { module.backward(wide, t.context, t.d_out, inputs, gradients); },
           "the input must have shape [2, 3, 4]");
    refuse([&] { module.backward(t.x, wide, t.d_out, inputs, gradients); },
           "the context must have shape [2, 5, 4]");
    refuse([&] { module.backward(t.x, t.context, wide, inputs, gradients); },
           "d_out must have shape [2, 3, 4]");
    refuse(
        [&] {
            module.backward(t.x, t.context, t.d_out, {to, t.dcontext}, gradients);
        },
        "dx must have shape [2, 3, 4]");
    refuse(
        [&] {
            module.backward(t.x, t.context, t.d_out, {t.dx, to}, gradients);
        },
        "dcontext must have shape [2, 5, 4]");
    refuse(
        [&] {
            module.backward(t.x, t.context, t.d_out, {t.x, t.dcontext}, gradients);
        },
        "dx must not overlap an input");
    Attention of_others({.embed_dim = 4, .bias = true});
    refuse([&] { t.backward(module, of_others); }, "the gradients must have the parameters");
    expect_refused<ArgumentError>([&] { t.backward(module, module); },
                                  {where + "the gradients must be another module"});
    const Tensor<bool, 2> mask({3, 9});
    expect_refused<ShapeError>([&] { t.backward(module, gradients, heed::BlockWhere(mask)); },
                               {"[BlockWhere]"});
    EXPECT_TRUE(untouched());
    t.backward(module, gradients);
    EXPECT_FALSE(all_zero(gradients));
}

TEST(SelfAttentionBackward, AllocatesNothingInSteadyState) {
    Random random;
    SCOPED_TRACE(random.describe());
    Attention module = random_module(random, {.embed_dim = 8, .bias = true, .dropout = 0.1});
    module.train();
    Tensors t(random, module, 20, 20);
    Attention gradients = module.make_gradients();
    const auto step = [&] {
        module.forward(t.x, t.x, t.out);
        module.backward(t.x, t.d_out, t.dx, gradients);
    };
    step();
    const support::AllocationCounter counter;
    step();
    EXPECT_EQ(counter.count(), 0u);
}

}  // namespace
