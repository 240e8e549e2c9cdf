// Do FeedForward and TransformerEncoderLayer go back as they went forward?

#include <gtest/gtest.h>

#include "heed/nn/transformer.hpp"
#include "nn/gradients.hpp"
#include "support/allocation_counter.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::Activation;
using heed::ArgumentError;
using heed::FeedForward;
using heed::ShapeError;
using heed::TransformerEncoderLayer;
using nn_test::all_nan;
using nn_test::all_zero;
using nn_test::compare_parameters;
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
using nn_test::weighted_sum;

constexpr std::array activations{Activation::none, Activation::relu, Activation::gelu,
                                 Activation::gelu_tanh, Activation::silu};

/// Goes forward and back once, from a module that stands before its forward pass, and judges all
/// gradients by differences. `run(module, x, y)` is the forward pass, `back(module, gradients, x,
/// dy, dx)` the way back.
template <class M, class Run, class Back>
Differences judge(Random& random, M module, const Shape<3>& shape, const Run& run,
                  const Back& back) {
    module.train();
    auto x = random_tensor<double, 3>(random, shape);
    const auto dy = random_tensor<double, 3>(random, shape);
    M running(module);
    M gradients = running.make_gradients();
    Tensor<double, 3> y(shape), dx = nans(shape);
    run(running, x, y);
    back(running, gradients, x, dy, dx);

    const auto loss = [&](M& m) {
        Tensor<double, 3> out(shape);
        run(m, x, out);
        return weighted_sum<3>(out, dy);
    };
    Differences differences;
    compare_parameters(differences, module, gradients, loss);
    differences.compare("x", x.view(), read(dx), [&] {
        M copy(module);
        return loss(copy);
    });
    return differences;
}

Differences judge(Random& random, const FeedForward<double>& module, const Shape<3>& shape) {
    return judge(
        random, module, shape, [](auto& m, auto& x, auto& y) { m.forward(x, y); },
        [](auto& m, auto& gradients, auto& x, auto& dy, auto& dx) {
            m.backward(x, dy, dx, gradients);
        });
}

template <class Mask = heed::NoMask>
Differences judge(Random& random, const TransformerEncoderLayer<double>& module,
                  const Shape<3>& shape, const Mask& mask = {}) {
    return judge(
        random, module, shape, [&](auto& m, auto& x, auto& y) { m.forward(x, y, mask); },
        [&](auto& m, auto& gradients, auto& x, auto& dy, auto& dx) {
            m.backward(x, dy, dx, gradients, mask);
        });
}

// --- FeedForward
// ----------------------------------------------------------------------------------

FeedForward<double> random_feed_forward(Random& random, FeedForward<double>::Options options) {
    FeedForward<double> feed(options);
    randomise_parameters(random, feed);
    return feed;
}

TEST(FeedForwardBackward, EveryActivationGatedOrNot) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (const Activation activation : activations)
        for (const bool gated : {false, true})
            for (const double dropout : {0.0, 0.3}) {
                const Shape<3> shape(random.integer(1, 3), random.integer(1, 4),
                                     random.integer(1, 5));
                const auto feed = random_feed_forward(random, {.dim = shape[2],
                                                               .hidden_dim = random.integer(1, 7),
                                                               .activation = activation,
                                                               .gated = gated,
                                                               .bias = random.chance(0.5),
                                                               .dropout = dropout,
                                                               .seed = random.bits()});
                SCOPED_TRACE(to_string(shape));
                expect_agreement(judge(random, feed, shape));
            }
}

TEST(FeedForwardBackward, AnotherDropoutIsNoticed) {
    Random random;
    SCOPED_TRACE(random.describe());
    const auto feed = random_feed_forward(
        random, {.dim = 4, .hidden_dim = 8, .activation = Activation::gelu, .dropout = 0.5});
    const Differences differences = judge(
        random, feed, {2, 3, 4}, [](auto& m, auto& x, auto& y) { m.forward(x, y); },
        [](auto& m, auto& gradients, auto& x, auto& dy, auto& dx) {
            Tensor<double, 3> y(x.shape());
            m.forward(x, y);  // draws the next mask, to which backward now belongs
            m.backward(x, dy, dx, gradients);
        });
    EXPECT_GT(differences.wrong(), 10);
}

// --- TransformerEncoderLayer
// ----------------------------------------------------------------------

using LayerOptions = TransformerEncoderLayer<double>::Options;

TransformerEncoderLayer<double> random_layer(Random& random, const LayerOptions& options) {
    TransformerEncoderLayer<double> layer(options);
    randomise_parameters(random, layer);
    return layer;
}

TEST(EncoderLayerBackward, EveryChoice) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (const bool norm_first : {false, true})
        for (const Activation activation : {Activation::relu, Activation::gelu})
            for (const bool bias : {false, true})
                for (const double dropout : {0.0, 0.2}) {
                    const Index heads = random.integer(1, 3);
                    const Index width = heads * random.integer(1, 3);
                    const auto layer =
                        random_layer(random, {.d_model = width,
                                              .nhead = heads,
                                              .dim_feedforward = random.integer(1, 6),
                                              .dropout = dropout,
                                              .activation = activation,
                                              .layer_norm_eps = random.pick({0.1, 0.5}),
                                              .norm_first = norm_first,
                                              .bias = bias,
                                              .seed = random.bits()});
                    const Shape<3> shape(random.integer(1, 2), random.integer(1, 4), width);
                    SCOPED_TRACE(std::string(norm_first ? "pre" : "post") + "-norm, dropout " +
                                 std::to_string(dropout) + ", " + to_string(shape));
                    expect_agreement(judge(random, layer, shape));
                }
}

TEST(EncoderLayerBackward, UnderMasks) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (const bool norm_first : {false, true}) {
        const auto layer = random_layer(random, {.d_model = 6,
                                                 .nhead = 2,
                                                 .dim_feedforward = 5,
                                                 .activation = Activation::gelu,
                                                 .layer_norm_eps = 0.1,
                                                 .norm_first = norm_first});
        const std::vector<Index> lengths{4, 2};
        expect_agreement(
            judge(random, layer, {2, 4, 6}, heed::Causal::top_left() & heed::KeyLengths{lengths}));
    }
}

TEST(EncoderLayerBackward, AnotherMaskIsNoticed) {
    Random random;
    SCOPED_TRACE(random.describe());
    const auto layer = random_layer(
        random, {.d_model = 6, .nhead = 2, .dim_feedforward = 5, .layer_norm_eps = 0.1});
    const Differences differences = judge(
        random, layer, {2, 4, 6},
        [](auto& m, auto& x, auto& y) { m.forward(x, y, heed::Causal::top_left()); },
        [](auto& m, auto& gradients, auto& x, auto& dy, auto& dx) {
            m.backward(x, dy, dx, gradients);
        });
    EXPECT_GT(differences.wrong(), 10);
}

// --- Both
// -----------------------------------------------------------------------------------------

/// One module of each kind, and the shape of its input.
template <class F>
void for_each_module(Random& random, const F& f) {
    const Shape<3> shape(2, 3, 4);
    for (const bool flag : {false, true}) {
        SCOPED_TRACE(flag ? "FeedForward, gated" : "FeedForward");
        f("FeedForward",
          random_feed_forward(random, {.dim = 4, .hidden_dim = 5, .gated = flag, .dropout = 0.1}),
          shape);
    }
    for (const bool flag : {false, true}) {
        SCOPED_TRACE(flag ? "pre-norm" : "post-norm");
        f("TransformerEncoderLayer",
          random_layer(random,
                       {.d_model = 4, .nhead = 2, .dim_feedforward = 5, .norm_first = flag}),
          shape);
    }
}

TEST(TransformerBackward, AddsToParametersAndOverwritesInputs) {
    Random random;
    SCOPED_TRACE(random.describe());
    for_each_module(random, [&](const std::string&, auto module, const Shape<3>& shape) {
        module.train();
        const auto x = random_tensor<double, 3>(random, shape);
        const auto dy = random_tensor<double, 3>(random, shape);
        Tensor<double, 3> y(shape), dx = nans(shape), again = nans(shape);
        auto once = module.make_gradients();
        EXPECT_TRUE(all_zero(once));
        module.forward(x, y);
        module.backward(x, dy, dx, once);
        auto twice(once);
        module.backward(x, dy, again, twice);
        EXPECT_EQ(values(dx), values(again));
        auto doubled(once);
        doubled.for_each_parameter([](const std::string&, auto view) {
            heed::detail::for_each_element([](double& value) { value *= 2; }, view);
        });
        EXPECT_FALSE(all_zero(once));
        expect_close_parameters(twice, doubled);

        // Without the input's gradient the others have the same bits.
        auto parameters_only = module.make_gradients();
        module.backward(x, dy, {}, parameters_only);
        EXPECT_EQ(parameters_of(parameters_only), parameters_of(once));
    });
}

TEST(TransformerBackward, AnyStridesWithContiguousRows) {
    Random random;
    SCOPED_TRACE(random.describe());
    using Strided = support::Strided<double, 3>;
    for_each_module(random, [&](const std::string&, auto module, const Shape<3>& shape) {
        module.train();
        const auto x = random_tensor<double, 3>(random, shape);
        const auto dy = random_tensor<double, 3>(random, shape);
        const Strided in(random, shape, 77, Strided::Rows::contiguous);
        const Strided slope(random, shape, 77, Strided::Rows::contiguous);
        const Strided to(random, shape, 77, Strided::Rows::contiguous);
        in.assign(values(x));
        slope.assign(values(dy));
        Tensor<double, 3> y(shape), dx(shape);
        auto strided_module(module);
        auto gradients = module.make_gradients(), others = module.make_gradients();
        module.forward(x, y);
        module.backward(x, dy, dx, gradients);
        strided_module.forward(in.view(), y);
        strided_module.backward(in.view(), slope.view(), to.view(), others);
        expect_close(to.view(), dx);
        expect_close_parameters(others, gradients);
        EXPECT_TRUE(to.gaps_untouched());
    });
}

TEST(TransformerBackward, EmptyBatchesAndLengths) {
    Random random;
    for_each_module(random, [&](const std::string&, auto module, const Shape<3>& shape) {
        module.train();
        for (const int dimension : {0, 1}) {
            Tensor<double, 3> x(shape.with(dimension, 0)), dx(x.shape()), y(x.shape());
            auto gradients = module.make_gradients();
            module.forward(x, y);
            module.backward(x, y, dx, gradients);
            EXPECT_TRUE(all_zero(gradients));
        }
    });
}

TEST(TransformerBackward, BelongsToAForwardInTraining) {
    Random random;
    SCOPED_TRACE(random.describe());
    for_each_module(random, [&](const std::string& name, auto module, const Shape<3>& shape) {
        const auto x = random_tensor<double, 3>(random, shape);
        Tensor<double, 3> y(shape), dx = nans(shape);
        auto gradients = module.make_gradients();
        const auto refused = [&](auto& m) {
            expect_refused<ArgumentError>(
                [&] { m.backward(x, y, dx, gradients); },
                {"[" + name + "] backward needs a forward in training before it; found none"});
            EXPECT_TRUE(all_nan(dx));
            EXPECT_TRUE(all_zero(gradients));
        };
        refused(module);
        module.forward(x, y);  // in evaluation
        refused(module);
        module.train();
        refused(module);
        module.forward(x, y);
        auto copy(module);  // without the buffers
        refused(copy);
        auto assigned(module);
        assigned.forward(x, y);
        assigned = module;
        refused(assigned);
        auto moved(std::move(copy));
        refused(moved);
        module.eval();
        module.backward(x, y, dx, gradients);  // of the forward in training
        dx = nans(shape);
        gradients.fill_parameters(0);
        module.forward(x, y);
        refused(module);
    });
}

TEST(TransformerBackward, MovesTakeTheBuffersAlong) {
    Random random;
    SCOPED_TRACE(random.describe());
    for_each_module(random, [&](const std::string&, auto module, const Shape<3>& shape) {
        const auto x = random_tensor<double, 3>(random, shape);
        Tensor<double, 3> y(shape), dx(shape), moved_dx(shape);
        module.train();
        module.forward(x, y);
        auto gradients = module.make_gradients(), others = module.make_gradients();
        module.backward(x, y, dx, gradients);
        auto moved(std::move(module));
        moved.backward(x, y, moved_dx, others);
        EXPECT_EQ(values(dx), values(moved_dx));
        EXPECT_EQ(parameters_of(gradients), parameters_of(others));
    });
}

TEST(TransformerBackward, RefusesBeforeAnythingIsWritten) {
    Random random;
    SCOPED_TRACE(random.describe());
    for_each_module(random, [&](const std::string& name, auto module, const Shape<3>& shape) {
        const auto x = random_tensor<double, 3>(random, shape);
        const auto dy = random_tensor<double, 3>(random, shape);
        const Tensor<double, 3> wide({2, 3, 5}), longer({2, 4, 4});
        Tensor<double, 3> y(shape), dx = nans(shape), other({2, 3, 5});
        module.train();
        module.forward(x, y);
        auto gradients = module.make_gradients();
        using View = TensorView<const double, 3>;
        const auto refuse = [&]<class Error>(Error*, View in, View slope, TensorView<double, 3> to,
                                             const std::string& fragment) {
            expect_refused<Error>([&] { module.backward(in, slope, to, gradients); },
                                  {"[" + name + "] " + fragment});
            EXPECT_TRUE(all_nan(dx));
            EXPECT_TRUE(all_zero(gradients));
        };
        ShapeError* const shape_error = nullptr;
        ArgumentError* const argument_error = nullptr;
        refuse(shape_error, wide, dy, dx, "the input must have shape [2, 3, 4]");
        refuse(shape_error, longer, longer, dx, "the input must have shape [2, 3, 4]");
        refuse(shape_error, x, wide, dx, "dy must have shape [2, 3, 4]");
        refuse(shape_error, x, dy, other, "dx must have shape [2, 3, 4]");
        refuse(argument_error, View(nullptr, shape), dy, dx, "the input must point at memory");
        refuse(argument_error, x, View(nullptr, shape), dx, "dy must point at memory");
        auto over_x(x), over_dy(dy);
        refuse(shape_error, over_x, dy, over_x, "dx must not overlap an input");
        refuse(shape_error, x, over_dy, over_dy, "dx must not overlap an input");
        const Tensor<double, 3> turned({2, 4, 3});
        refuse(shape_error, x, turned.view().transpose(1, 2), dx,
               "dy must have a contiguous last dimension");
        refuse(shape_error, turned.view().transpose(1, 2), dy, dx,
               "the input must have a contiguous last dimension");

        expect_refused<ArgumentError>([&] { module.backward(x, dy, dx, module); },
                                      {"[" + name + "] the gradients must be another module"});
        EXPECT_TRUE(all_nan(dx));

        // Good input is still taken after that.
        module.backward(x, dy, dx, gradients);
        EXPECT_FALSE(all_nan(dx));
    });
}

TEST(TransformerBackward, RefusesGradientsOfAnotherSize) {
    Random random;
    const Shape<3> shape(2, 3, 4);
    const auto x = random_tensor<double, 3>(random, shape);
    Tensor<double, 3> y(shape), dx = nans(shape);
    const auto check = [&](auto module, auto gradients) {
        module.train();
        module.forward(x, y);
        gradients.fill_parameters(0);
        expect_refused<ShapeError>([&] { module.backward(x, y, dx, gradients); },
                                   {"the gradients must have the parameters of the module"});
        EXPECT_TRUE(all_nan(dx));
        EXPECT_TRUE(all_zero(gradients));
    };
    using Feed = FeedForward<double>;
    check(Feed({.dim = 4, .hidden_dim = 5}), Feed({.dim = 4, .hidden_dim = 6}));
    check(Feed({.dim = 4, .hidden_dim = 5}), Feed({.dim = 4, .hidden_dim = 5, .bias = false}));
    check(Feed({.dim = 4, .hidden_dim = 5}), Feed({.dim = 4, .hidden_dim = 5, .gated = true}));
    using Layer = TransformerEncoderLayer<double>;
    check(Layer({.d_model = 4, .dim_feedforward = 5}), Layer({.d_model = 4, .dim_feedforward = 6}));
    check(Layer({.d_model = 4, .dim_feedforward = 5}),
          Layer({.d_model = 4, .dim_feedforward = 5, .bias = false}));
}

// The feed-forward part of the layer comes first on the way back, the mask last.
TEST(EncoderLayerBackward, RefusesAMaskBeforeAnythingIsWritten) {
    Random random;
    SCOPED_TRACE(random.describe());
    const Tensor<bool, 2> wide({3, 5});
    for (const bool norm_first : {false, true}) {
        auto layer = random_layer(
            random, {.d_model = 4, .nhead = 2, .dim_feedforward = 5, .norm_first = norm_first});
        const auto x = random_tensor<double, 3>(random, {2, 3, 4});
        Tensor<double, 3> y(x.shape()), dx = nans(x.shape());
        layer.train();
        layer.forward(x, y);
        auto gradients = layer.make_gradients();
        expect_refused<ShapeError>(
            [&] { layer.backward(x, y, dx, gradients, heed::BlockWhere(wide)); }, {"[BlockWhere]"});
        EXPECT_TRUE(all_nan(dx));
        EXPECT_TRUE(all_zero(gradients));
    }
}

TEST(TransformerBackward, TrainingRefusesTheOutputOverTheInput) {
    Random random;
    SCOPED_TRACE(random.describe());
    for_each_module(random, [&](const std::string& name, auto module, const Shape<3>& shape) {
        auto x = random_tensor<double, 3>(random, shape);
        const auto before = values(x);
        module.train();
        expect_refused<ShapeError>(
            [&] { module.forward(x, x); },
            {"[" + name + "] in training the output must not overlap the input"});
        EXPECT_EQ(values(x), before);
        module.eval();
        module.forward(x, x);
        EXPECT_NE(values(x), before);
    });
}

// What training keeps changes no bit of the output.
TEST(TransformerBackward, TrainingWithoutDropoutIsEvaluation) {
    Random random;
    SCOPED_TRACE(random.describe());
    const auto check = [&](auto module) {
        const auto x = random_tensor<double, 3>(random, {2, 3, 4});
        Tensor<double, 3> evaluated(x.shape()), trained(x.shape());
        module.forward(x, evaluated);
        module.train();
        module.forward(x, trained);
        EXPECT_EQ(values(evaluated), values(trained));
    };
    for (const bool flag : {false, true}) {
        check(random_feed_forward(random, {.dim = 4, .hidden_dim = 5, .gated = flag}));
        check(random_layer(
            random,
            {.d_model = 4, .nhead = 2, .dim_feedforward = 5, .dropout = 0.0, .norm_first = flag}));
    }
}

TEST(TransformerBackward, AllocatesNothingInSteadyState) {
    Random random;
    SCOPED_TRACE(random.describe());
    for_each_module(random, [&](const std::string&, auto module, const Shape<3>& shape) {
        const auto x = random_tensor<double, 3>(random, shape);
        Tensor<double, 3> y(shape), dx(shape);
        auto gradients = module.make_gradients();
        module.train();
        const auto step = [&] {
            module.forward(x, y);
            module.backward(x, y, dx, gradients);
        };
        const support::AllocationCounter cold;
        step();
        EXPECT_GT(cold.count(), 0u);
        const support::AllocationCounter warm;
        step();
        EXPECT_EQ(warm.count(), 0u);
    });
}

}  // namespace
