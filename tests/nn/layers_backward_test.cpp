// Do layers hand their weights and gradients to the right operation, and is the place for the
// gradients what a module makes of itself?

#include <gtest/gtest.h>

#include "heed/nn/layers.hpp"
#include "heed/nn/transformer.hpp"
#include "nn/nn_support.hpp"
#include "support/allocation_counter.hpp"
#include "support/differences.hpp"
#include "support/oracle.hpp"

namespace {

using heed::Embedding;
using heed::LayerNorm;
using heed::Linear;
using heed::RMSNorm;
using heed::ShapeError;
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

/// loss(x) = <layer(x), dy> by the layer's own forward pass, in double: the step of 1e-5 errs by
/// about 1e-10, rounding by 1e-16 / 1e-5.
template <class M, int Rank>
void expect_gradients(const M& layer, const Tensor<double, Rank>& input) {
    Random random;
    M moved(layer);
    Tensor<double, Rank> x(input), dx(x.shape());
    const auto dy = random_tensor<double, Rank>(random, layer(x).shape());
    const auto loss = [&] { return support::dot(values(moved(x)), values(dy)); };
    const auto slope = [&](double& element) {
        const double before = element, step = 1e-5;
        element = before + step;
        const double above = loss();
        element = before - step;
        const double below = loss();
        element = before;
        return (above - below) / (2 * step);
    };
    M gradients = layer.make_gradients();
    gradients.fill_parameters(0.5);  // added to
    layer.backward(x, dy, dx.view(), gradients);

    std::vector<double> expected;
    for (double& element : x.values()) expected.push_back(slope(element));
    support::expect_close("dx", dx.values(), expected);
    std::map<std::string, std::vector<double>> slopes;
    moved.for_each_parameter([&](const std::string& name, auto view) {
        heed::detail::for_each_element([&](double& w) { slopes[name].push_back(0.5 + slope(w)); },
                                       view);
    });
    for (const auto& [name, found] : parameters_of(gradients))
        support::expect_close(name.c_str(), found, slopes.at(name));
    // Without dx, the same.
    M alone = layer.make_gradients();
    alone.fill_parameters(0.5);
    layer.backward(x, dy, TensorView<double, Rank>(), alone);
    EXPECT_EQ(parameters_of(alone), parameters_of(gradients));
}

template <class M>
void expect_gradients_of_every_rank(M layer, Index features) {
    Random random;
    SCOPED_TRACE(random.describe());
    randomise_parameters(random, layer);
    expect_gradients(layer, random_tensor<double, 1>(random, {features}));
    expect_gradients(layer, random_tensor<double, 2>(random, {3, features}));
    expect_gradients(layer, random_tensor<double, 3>(random, {2, 3, features}));
    expect_gradients(layer, random_tensor<double, 4>(random, {2, 1, 2, features}));
}

TEST(LayersBackward, EqualsDifferencesOfTheForwardPass) {
    for (const bool bias : {false, true}) {
        expect_gradients_of_every_rank(
            Linear<double>({.in_features = 5, .out_features = 4, .bias = bias}), 5);
        expect_gradients_of_every_rank(
            LayerNorm<double>({.features = 5, .epsilon = 0.1, .bias = bias}), 5);
    }
    expect_gradients_of_every_rank(RMSNorm<double>({.features = 5, .epsilon = 0.1}), 5);
}

TEST(LayersBackward, EmbeddingAddsToTheRowsOfItsIds) {
    Random random;
    SCOPED_TRACE(random.describe());
    const Embedding<float> layer({.count = 4, .features = 2});
    Embedding<float> gradients = layer.make_gradients(), same(gradients);
    const std::vector<int> ids{3, 0, 3};
    const Tensor<float, 2> dy({3, 2}, {1, 2, 3, 4, 5, 6});
    layer.backward(ids, dy, gradients);
    EXPECT_EQ(values(gradients.weight()), (std::vector<float>{3, 4, 0, 0, 0, 0, 6, 8}));
    layer.backward(std::span<const int>(ids), dy, same);
    EXPECT_EQ(values(same.weight()), values(gradients.weight()));
    expect_refused<heed::ArgumentError>(
        [&] {
            layer.backward(std::vector{4, 0, 0}, dy, same);
        },
        {"[embedding_backward]", "found 4"});
}

TEST(LayersBackward, AllocatesNothing) {
    Random random;
    const LayerNorm<float> norm({.features = 5});
    const Linear<float> linear({.in_features = 5, .out_features = 5});
    auto norm_gradients = norm.make_gradients();
    auto linear_gradients = linear.make_gradients();
    const auto x = random_tensor<float, 2>(random, {3, 5}), dy(x);
    Tensor<float, 2> dx(x.shape());
    const support::AllocationCounter allocations;
    norm.backward(x, dy, dx.view(), norm_gradients);
    linear.backward(x, dy, dx.view(), linear_gradients);
    EXPECT_EQ(allocations.count(), 0U);
}

TEST(LayersBackward, GradientsOfOtherOptionsAreRefusedBeforeAnythingIsWritten) {
    Random random;
    const auto x = random_tensor<float, 2>(random, {3, 4});
    const auto dy = random_tensor<float, 2>(random, {3, 2});
    Tensor<float, 2> dx(x.shape());
    const Linear<float> layer({.in_features = 4, .out_features = 2});
    const auto refused = [&](Linear<float> gradients,
                             std::initializer_list<std::string_view> fragments) {
        expect_refused<ShapeError>([&] { layer.backward(x, dy, dx.view(), gradients); }, fragments);
        for (const auto& [name, found] : parameters_of(gradients))
            EXPECT_EQ(found, std::vector<float>(found.size()));
    };
    refused(Linear<float>(), {"[Linear] the gradients must have the parameters of the module",
                              "found weight [0, 0] instead of weight [2, 4]"});
    refused(Linear<float>({.in_features = 4, .out_features = 2, .bias = false}),
            {"found no more instead of bias [2]"});
    // As many scalars, but others.
    refused(Linear<float>({.in_features = 5, .out_features = 2, .bias = false}),
            {"found weight [2, 5] instead of weight [2, 4]"});
    expect_refused<ShapeError>(
        [&] {
            LayerNorm<float> other({.features = 4, .bias = false});
            LayerNorm<float>({.features = 4}).backward(x, x, dx.view(), other);
        },
        {"[LayerNorm]", "found no more instead of bias [4]"});
    expect_refused<ShapeError>(
        [&] {
            RMSNorm<float> other({.features = 5});
            RMSNorm<float>({.features = 4}).backward(x, x, dx.view(), other);
        },
        {"[RMSNorm]", "found weight [5] instead of weight [4]"});
    expect_refused<ShapeError>(
        [&] {
            Embedding<float> other({.count = 4, .features = 2});
            Embedding<float>({.count = 4, .features = 3}).backward(std::vector{0, 1, 2}, dy, other);
        },
        {"[Embedding]", "found weight [4, 2] instead of weight [4, 3]"});
    // A layer is no place for its own gradients.
    Linear<float> itself({.in_features = 4, .out_features = 2});
    expect_refused<heed::ArgumentError>(
        [&] { itself.backward(x, dy, dx.view(), itself); },
        {"[Linear] the gradients must be another module", "found the module itself"});
    EXPECT_EQ(values(dx), std::vector<float>(12));
}

// --- What every module offers for it
// --------------------------------------------------------------

TEST(ModuleGradients, AreTheParametersAtZero) {
    Random random;
    SCOPED_TRACE(random.describe());
    heed::TransformerEncoderLayer<float> layer({.d_model = 6, .nhead = 2, .dim_feedforward = 5});
    randomise_parameters(random, layer);
    const auto before = parameters_of(layer);
    auto gradients = layer.make_gradients();
    EXPECT_EQ(gradients.parameter_count(), layer.parameter_count());
    for (const auto& [name, found] : parameters_of(gradients)) {
        ASSERT_TRUE(before.contains(name)) << name;
        EXPECT_EQ(found, std::vector<float>(before.at(name).size())) << name;
    }
    gradients.fill_parameters(1.25);
    for (const auto& [name, found] : parameters_of(gradients))
        EXPECT_EQ(found, std::vector<float>(found.size(), 1.25F)) << name;
    EXPECT_EQ(parameters_of(layer), before);
}

TEST(ModuleGradients, ParametersAreVisitedUnderTheirNamesConstOrNot) {
    Linear<double> layer({.in_features = 2, .out_features = 3});
    std::vector<std::string> names;
    layer.for_each_parameter(
        [&](const std::string& name, auto view) {
            names.push_back(name);
            fill(view, 2.0);
        },
        "a.");
    EXPECT_EQ(names, (std::vector<std::string>{"a.weight", "a.bias"}));
    double sum = 0;
    std::as_const(layer).for_each_parameter([&](const std::string&, auto view) {
        static_assert(std::is_const_v<typename decltype(view)::element_type>);
        heed::detail::for_each_element([&](const double& w) { sum += w; }, view);
    });
    EXPECT_EQ(sum, 2.0 * 9);
}

}  // namespace
