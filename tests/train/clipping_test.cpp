// The norm of a model's gradients: figures of PyTorch, what is left alone, what is not finite.

#include "heed/train/clipping.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "nn/nn_support.hpp"
#include "support/differences.hpp"
#include "train/small_model.hpp"

namespace {

using heed::clip_gradient_norm;
using heed::Linear;
using nn_test::parameters_of;
using nn_test::Random;
using nn_test::randomise_parameters;
using nn_test::values;
using train_test::SmallModel;

/// Weights 3 and -4, bias 12: the norm is 13.
template <class T>
Linear<T> of_norm_13() {
    Linear<T> gradients({.in_features = 2, .out_features = 1});
    gradients.weight()(0, 0) = 3;
    gradients.weight()(0, 1) = -4;
    gradients.bias()(0) = 12;
    return gradients;
}

// torch.nn.utils.clip_grad_norm_ of PyTorch 2.13 in float64.
TEST(ClipGradientNorm, AsInPyTorch) {
    auto gradients = of_norm_13<double>();
    EXPECT_EQ(clip_gradient_norm(gradients, 2.0), 13.0);
    support::expect_close("weight", values(gradients.weight()),
                          std::vector{0.46153842603550577, -0.615384568047341}, 1e-16, 0);
    EXPECT_NEAR(gradients.bias()(0), 1.846153704142023, 3e-16);
}

TEST(ClipGradientNorm, ShortGradientsKeepEveryBit) {
    for (const double most : {13.1, 1e30, std::numeric_limits<double>::infinity()}) {
        auto gradients = of_norm_13<float>();
        EXPECT_EQ(clip_gradient_norm(gradients, most), 13.0);
        EXPECT_EQ(parameters_of(gradients), parameters_of(of_norm_13<float>()));
    }
    SmallModel<float> nothing;
    nothing.fill_parameters(0);
    EXPECT_EQ(clip_gradient_norm(nothing, 1.0), 0.0);
    EXPECT_EQ(clip_gradient_norm(nothing, 0.0), 0.0);
}

TEST(ClipGradientNorm, IsThatOfAllParametersTogether) {
    Random random;
    SCOPED_TRACE(random.describe());
    SmallModel<double> gradients;
    randomise_parameters(random, gradients, 3.0);
    double squares = 0;
    for (const auto& [name, found] : parameters_of(gradients))
        squares += support::dot(found, found);
    EXPECT_NEAR(clip_gradient_norm(gradients, 0.5), std::sqrt(squares), 1e-13);
    EXPECT_NEAR(clip_gradient_norm(gradients, 0.5), 0.5, 1e-6);
    EXPECT_NEAR(clip_gradient_norm(gradients, 0.0), 0.5, 1e-6);
    EXPECT_EQ(clip_gradient_norm(gradients, 0.0), 0.0);
}

// Squares of floats beyond 1e19 are beyond float; their sum in double is not.
TEST(ClipGradientNorm, LargeFloatsDoNotOverflow) {
    auto gradients = of_norm_13<float>();
    gradients.for_each_parameter([](const std::string&, auto view) {
        heed::detail::for_each_element([](float& g) { g *= 1e30F; }, view);
    });
    EXPECT_NEAR(clip_gradient_norm(gradients, 1.0) / 13e30, 1.0, 1e-6);
    EXPECT_NEAR(gradients.bias()(0), 12.0 / 13, 1e-6);
}

TEST(ClipGradientNorm, WhatIsNotFiniteShowsInTheResult) {
    const float infinity = std::numeric_limits<float>::infinity();
    auto gradients = of_norm_13<float>();
    gradients.bias()(0) = infinity;
    EXPECT_EQ(clip_gradient_norm(gradients, 1.0), infinity);
    EXPECT_EQ(gradients.weight()(0, 0), 0.0F);
    EXPECT_TRUE(std::isnan(gradients.bias()(0)));
    EXPECT_TRUE(std::isnan(clip_gradient_norm(gradients, 1.0)));
    EXPECT_TRUE(std::isnan(gradients.weight()(0, 0)));
}

TEST(ClipGradientNorm, RefusesANormThatIsNone) {
    for (const double most : {-1.0, std::numeric_limits<double>::quiet_NaN()}) {
        auto gradients = of_norm_13<float>();
        nn_test::expect_refused<heed::ArgumentError>(
            [&] { (void)clip_gradient_norm(gradients, most); },
            {"[clip_gradient_norm] max_norm must be 0 or more"});
        EXPECT_EQ(parameters_of(gradients), parameters_of(of_norm_13<float>()));
    }
}

}  // namespace
