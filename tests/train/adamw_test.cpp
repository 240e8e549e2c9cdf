// AdamW: the steps of PyTorch, the formula by hand, resuming bit for bit, refusals.

#include "heed/train/adamw.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <string>

#include "nn/nn_support.hpp"
#include "support/differences.hpp"
#include "train/small_model.hpp"

namespace {

using heed::AdamW;
using heed::ArgumentError;
using heed::FormatError;
using heed::Linear;
using heed::NamedTensors;
using heed::ShapeError;
using nn_test::expect_refused;
using nn_test::parameters_of;
using nn_test::Random;
using nn_test::randomise_parameters;
using nn_test::Tensor;
using nn_test::values;
using train_test::SmallModel;

/// One weight [1, 3] and one bias [1].
Linear<double> three_and_one(std::initializer_list<double> weight, double bias) {
    Linear<double> layer({.in_features = 3, .out_features = 1});
    copy(Tensor<double, 2>({1, 3}, weight).view(), layer.weight());
    layer.bias()(0) = bias;
    return layer;
}

// torch.optim.AdamW of PyTorch 2.13 in float64: betas 0.8 and 0.95, eps 1e-6, weight_decay 0.1 for
// the weight and 0 for the bias, in two parameter groups; another learning rate in each step.
TEST(AdamW, StepsOfPyTorch) {
    struct Step {
        double learning_rate;
        Linear<double> gradients, expected;
    };
    const Step steps[] = {
        {0.01, three_and_one({0.5, -1.0, 0.0}, 2.0),
         three_and_one({0.98900001999996, -1.98800000999999, 0.4995}, 0.2400000049999975)},
        {0.02, three_and_one({0.25, 3.0, -0.125}, -1.0),
         three_and_one({0.9686089408829776, -1.9948454671382996, 0.5140166489394574},
                       0.2357508247803351)},
        {0.005, three_and_one({-4.0, 0.5, 1e-3}, 0.5),
         three_and_one({0.971109181782591, -1.9963591176598805, 0.5165717728259298},
                       0.23420433801538149)},
    };
    auto model = three_and_one({1.0, -2.0, 0.5}, 0.25);
    AdamW adamw(model, {.beta1 = 0.8,
                        .beta2 = 0.95,
                        .epsilon = 1e-6,
                        .weight_decay = 0.1,
                        .decays = [](std::string_view name) { return name == "weight"; }});
    for (const Step& s : steps) {
        adamw.step(model, s.gradients, s.learning_rate);
        support::expect_close("weight", values(model.weight()), values(s.expected.weight()), 1e-15,
                              1e-15);
        support::expect_close("bias", values(model.bias()), values(s.expected.bias()), 1e-15,
                              1e-15);
    }
    NamedTensors state;
    adamw.save(state);
    support::expect_close(
        "exp_avg", values(state.view<double, 2>("first_moment.weight")),
        std::vector{-0.6959999999999998, 0.45199999999999996, -0.019799999999999998}, 1e-16, 1e-15);
    support::expect_close(
        "exp_avg_sq", values(state.view<double, 2>("second_moment.weight")),
        std::vector{0.8142500000000007, 0.4851250000000004, 0.0007422375000000007}, 1e-16, 2e-15);
}

// The same with all defaults and a learning rate of 1e-3.
TEST(AdamW, DefaultsOfPyTorch) {
    Linear<double> model({.in_features = 1, .out_features = 1, .bias = false}), gradients(model);
    model.fill_parameters(1);
    AdamW adamw(model);
    gradients.fill_parameters(1);
    adamw.step(model, gradients, 1e-3);
    EXPECT_NEAR(model.weight()(0, 0), 0.99899000001, 1e-15);
    gradients.fill_parameters(-0.5);
    adamw.step(model, gradients, 1e-3);
    EXPECT_NEAR(model.weight()(0, 0), 0.9987136730737091, 1e-15);
    EXPECT_EQ(adamw.step_count(), 2);
}

// Without epsilon, the first step is the sign of the gradient times the learning rate, whatever the
// gradient's size; decay is by the learning rate, whatever the gradient.
TEST(AdamW, FirstStepByHand) {
    auto model = three_and_one({1, 2, 4}, 8);
    AdamW adamw(model, {.epsilon = 1e-300, .weight_decay = 0.5});
    adamw.step(model, three_and_one({1e-20, -1e20, 0}, 3), 0.25);
    support::expect_close("weight", values(model.weight()),
                          std::vector{0.875 - 0.25, 1.75 + 0.25, 3.5}, 1e-15, 1e-15);
    EXPECT_NEAR(model.bias()(0), 7.0 - 0.25, 1e-15);
}

TEST(AdamW, ALearningRateOfZeroMovesTheMomentsAlone) {
    auto model = three_and_one({1, 2, 4}, 8);
    AdamW adamw(model);
    const auto before = parameters_of(model);
    adamw.step(model, three_and_one({1, 1, 1}, 1), 0);
    EXPECT_EQ(parameters_of(model), before);
    NamedTensors state;
    adamw.save(state);
    EXPECT_NEAR((state.view<double, 1>("first_moment.bias")(0)), 0.1, 1e-16);
}

TEST(AdamW, AsksForEachParameterByName) {
    SmallModel<float> model;
    std::set<std::string> asked;
    AdamW adamw(model, {.decays = [&](std::string_view name) {
                    asked.emplace(name);
                    return name.ends_with("linear.weight");
                }});
    model.fill_parameters(1);
    adamw.step(model, model.make_gradients(), 0.5);
    EXPECT_EQ(asked, (std::set<std::string>{"table.weight", "norm.weight", "norm.bias",
                                            "linear.weight", "linear.bias"}));
    for (const auto& [name, found] : parameters_of(model))
        EXPECT_EQ(found[0], name == "linear.weight" ? 0.995F : 1.0F) << name;
}

template <class T>
class AdamWOf : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(AdamWOf, Scalars);

TYPED_TEST(AdamWOf, ResumesBitForBit) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    SmallModel<T> model;
    randomise_parameters(random, model);
    AdamW adamw(model);
    std::vector<SmallModel<T>> gradients(6, model);
    for (auto& g : gradients) randomise_parameters(random, g);
    const auto train = [&](SmallModel<T>& m, AdamW<SmallModel<T>>& optimiser, std::size_t begin,
                           std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) optimiser.step(m, gradients[i], 0.01);
    };
    train(model, adamw, 0, 3);
    NamedTensors weights, state;
    model.save(weights);
    adamw.save(state, "optimiser.");
    EXPECT_EQ(state.size(), 11U);
    train(model, adamw, 3, 6);

    SmallModel<T> resumed;
    resumed.load(weights);
    AdamW again(resumed), fresh(resumed);
    again.load(state, "optimiser.");
    EXPECT_EQ(again.step_count(), 3);
    train(resumed, again, 3, 6);
    EXPECT_EQ(parameters_of(resumed), parameters_of(model));
    // The counter-check: without its state, it goes elsewhere.
    SmallModel<T> forgetful;
    forgetful.load(weights);
    train(forgetful, fresh, 3, 6);
    EXPECT_NE(parameters_of(forgetful), parameters_of(model));
}

/// The state with one tensor replaced or, by an empty name, left out.
NamedTensors changed(const NamedTensors& state, const std::string& name,
                     const std::optional<heed::AnyTensor>& tensor) {
    NamedTensors result;
    for (const auto& [key, value] : state)
        if (key != name)
            result.add(key, value);
        else if (tensor)
            result.add(key, *tensor);
    return result;
}

TEST(AdamWErrors, AStateThatDoesNotFitChangesNothing) {
    Random random;
    SmallModel<float> model, gradients;
    randomise_parameters(random, gradients);
    AdamW adamw(model);
    adamw.step(model, gradients, 0.1);
    NamedTensors good, after;
    adamw.save(good);
    AdamW target(model);
    target.step(model, gradients, 0.1);
    target.step(model, gradients, 0.1);
    NamedTensors before;
    target.save(before);
    const auto refused = [&](const NamedTensors& state,
                             std::initializer_list<std::string_view> fragments) {
        expect_refused<FormatError>([&] { target.load(state); }, fragments);
        NamedTensors now;
        target.save(now);
        EXPECT_EQ(now, before);
    };
    using heed::AnyTensor;
    const auto count = [](std::initializer_list<std::int64_t> values) {
        return AnyTensor(Tensor<std::int64_t, 1>({values.size()}, values));
    };
    refused(changed(good, "step", std::nullopt), {"step"});
    refused(changed(good, "step", AnyTensor(Tensor<float, 1>({1}, {1.0F}))), {"step", "F32"});
    refused(changed(good, "step", count({-1})), {"[AdamW] step must be one number", "found -1"});
    refused(changed(good, "step", count({1, 2})), {"[AdamW] step must be one number", "[2]"});
    refused(changed(good, "first_moment.norm.bias", std::nullopt), {"first_moment.norm.bias"});
    refused(changed(good, "second_moment.norm.bias", std::nullopt), {"second_moment.norm.bias"});
    refused(changed(good, "second_moment.norm.bias", AnyTensor(Tensor<float, 1>(7))),
            {"second_moment.norm.bias", "[7]"});
    target.load(good);
    EXPECT_EQ(target.step_count(), 1);
}

TEST(AdamWErrors, OtherParametersAreRefusedBeforeAnythingIsWritten) {
    SmallModel<float> model, wider(4);
    AdamW adamw(model);
    auto gradients = model.make_gradients();
    gradients.fill_parameters(1);
    const auto before = parameters_of(model);
    expect_refused<ShapeError>([&] { adamw.step(model, wider, 0.1); },
                               {"[AdamW] gradients and state must have the parameters of the model",
                                "table.weight", "[4, 3]"});
    expect_refused<ShapeError>([&] { adamw.step(wider, wider, 0.1); }, {"table.weight", "[4, 4]"});
    Linear<float> with({.in_features = 2, .out_features = 2}),
        without({.in_features = 2, .out_features = 2, .bias = false});
    AdamW of_both(with), of_one(without);
    expect_refused<ShapeError>([&] { of_both.step(with, without, 0.1); }, {"bias [2]"});
    expect_refused<ShapeError>([&] { of_one.step(without, with, 0.1); }, {"found more than its 1"});
    for (const double rate :
         {-0.1, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()})
        expect_refused<ArgumentError>([&] { adamw.step(model, gradients, rate); },
                                      {"[AdamW] the learning rate must be finite and 0 or more"});
    EXPECT_EQ(parameters_of(model), before);
    EXPECT_EQ(adamw.step_count(), 0);
}

TEST(AdamWErrors, OptionsOutOfRange) {
    const Linear<float> model({.in_features = 1, .out_features = 1});
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const auto refused = [&](const heed::AdamWOptions& options, std::string_view text) {
        expect_refused<ArgumentError>([&] { AdamW(model, options); }, {text});
    };
    refused({.beta1 = 1.0}, "[AdamW] beta1 must be in [0, 1); found 1");
    refused({.beta2 = -0.1}, "[AdamW] beta2 must be in [0, 1); found -0.1");
    refused({.beta2 = nan}, "[AdamW] beta2 must be in [0, 1); found nan");
    refused({.epsilon = -1}, "[AdamW] epsilon must be finite and 0 or more; found -1");
    refused({.weight_decay = -1}, "[AdamW] weight_decay must be finite and 0 or more; found -1");
}

}  // namespace
