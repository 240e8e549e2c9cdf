// Are the small layers the operations of ops/ with weights of their own?

#include "heed/nn/layers.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <span>

#include "nn/nn_support.hpp"
#include "nn/reference.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::Embedding;
using heed::LayerNorm;
using heed::Linear;
using heed::RMSNorm;
using nn_test::Index;
using nn_test::parameters_of;
using nn_test::Random;
using nn_test::random_tensor;
using nn_test::randomise_parameters;
using nn_test::Shape;
using nn_test::Tensor;
using nn_test::TensorView;
using nn_test::values;

template <class T>
class LayersTest : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(LayersTest, Scalars);

/// The answers of the layers on [.., columns], in any arithmetic.
auto linear_answer(Index in_features) {
    return [in_features]<class Real>(const reference::Parameters<Real>& p,
                                     const std::vector<Real>& x) {
        return oracle::linear(x, reference::find(p, "weight"), reference::to_size(in_features),
                              reference::find(p, "weight").size() / reference::to_size(in_features),
                              reference::find(p, "bias"));
    };
}
auto layer_norm_answer(Index columns, double epsilon) {
    return [=]<class Real>(const reference::Parameters<Real>& p, const std::vector<Real>& x) {
        return oracle::layer_norm(x, reference::to_size(columns), epsilon,
                                  reference::find(p, "weight"), reference::find(p, "bias"));
    };
}
auto rms_norm_answer(Index columns, double epsilon) {
    return [=]<class Real>(const reference::Parameters<Real>& p, const std::vector<Real>& x) {
        return oracle::rms_norm(x, reference::to_size(columns), epsilon,
                                reference::find(p, "weight"));
    };
}

// --- Linear
// ---------------------------------------------------------------------------------------

template <class T, int Rank>
void check_linear(Random& random, const Linear<T>& layer, const Shape<Rank>& shape) {
    SCOPED_TRACE(to_string(shape));
    const Tensor<T, Rank> x = random_tensor<T, Rank>(random, shape);
    const Tensor<T, Rank> y = layer(x);
    EXPECT_EQ(y.shape(), shape.with(Rank - 1, layer.weight().extent(0)));
    EXPECT_VERDICT(reference::compare_module<T>(values(y), parameters_of(layer), values(x),
                                                linear_answer(layer.weight().extent(1))));
    Tensor<T, Rank> into(y.shape());
    layer.forward(x.view(), into.view());
    EXPECT_VERDICT(support::compare_bits(values(into), values(y)));
}

TYPED_TEST(LayersTest, LinearOfEveryRank) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (const bool bias : {false, true}) {
        Linear<T> layer({.in_features = 5, .out_features = 7, .bias = bias});
        randomise_parameters(random, layer);
        EXPECT_EQ(layer.bias().empty(), !bias);
        check_linear<T, 1>(random, layer, {5});
        check_linear<T, 2>(random, layer, {3, 5});
        check_linear<T, 3>(random, layer, {2, 3, 5});
        check_linear<T, 4>(random, layer, {2, 1, 3, 5});
        check_linear<T, 2>(random, layer, {0, 5});
    }
    Linear<T> column({.in_features = 1, .out_features = 1});
    randomise_parameters(random, column);
    check_linear<T, 2>(random, column, {4, 1});
}

TYPED_TEST(LayersTest, LinearOnStridedRows) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    Linear<T> layer({.in_features = 6, .out_features = 4});
    randomise_parameters(random, layer);
    for (int turn = 0; turn < 20; ++turn) {
        const auto x = random_tensor<T, 3>(random, {2, 3, 6});
        using Strided = support::Strided<T, 3>;
        Strided from(random, x.shape(), T(77), Strided::Rows::contiguous);
        Strided to(random, {2, 3, 4}, T(77), Strided::Rows::contiguous);
        from.assign(x.values());
        layer.forward(from.const_view(), to.view());
        EXPECT_VERDICT(reference::compare_module<T>(values(to.view()), parameters_of(layer),
                                                    values(x), linear_answer(6)));
        EXPECT_TRUE(to.gaps_untouched());
    }
}

// The counter-check: a layer with the transposed weight is not this layer.
TYPED_TEST(LayersTest, LinearIsNotItsTranspose) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    Linear<T> layer({.in_features = 4, .out_features = 4}), transposed(layer);
    randomise_parameters(random, layer);
    heed::copy(layer.weight().transpose(0, 1), transposed.weight());
    heed::copy(layer.bias(), transposed.bias());
    const auto x = random_tensor<T, 2>(random, {3, 4});
    EXPECT_FALSE(reference::compare_module<T>(values(transposed(x)), parameters_of(layer),
                                              values(x), linear_answer(4)));
}

TYPED_TEST(LayersTest, LinearIsZeroUntilReset) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    Linear<T> layer({.in_features = 30, .out_features = 20}), same(layer), other(layer);
    for (const T value : values(layer(random_tensor<T, 2>(random, {2, 30}))))
        EXPECT_EQ(value, T(0));
    randomise_parameters(random, layer);
    layer.reset_parameters(3);
    same.reset_parameters(3);
    other.reset_parameters(4);
    EXPECT_EQ(parameters_of(layer), parameters_of(same));
    EXPECT_NE(parameters_of(layer), parameters_of(other));
    EXPECT_EQ(values(layer.bias()), std::vector<T>(20));
    // Uniform in +-sqrt(6 / (30 + 20)): of 600 numbers one is beyond 95 % on either side (to
    // 1 - 2 * 0.975^600), and their mean is within 5 of its deviations, bound / sqrt(3 * 600).
    const double bound = std::sqrt(6.0 / 50.0);
    double low = 0, high = 0, sum = 0;
    for (const T value : values(layer.weight())) {
        low = std::min(low, static_cast<double>(value));
        high = std::max(high, static_cast<double>(value));
        sum += static_cast<double>(value);
    }
    EXPECT_GE(low, -bound * (1 + 1e-6));
    EXPECT_LE(high, bound * (1 + 1e-6));
    EXPECT_LE(low, -0.95 * bound);
    EXPECT_GE(high, 0.95 * bound);
    EXPECT_LE(std::abs(sum / 600), 5 * bound / std::sqrt(3.0 * 600));
}

// --- Norms
// ----------------------------------------------------------------------------------------

TYPED_TEST(LayersTest, NormsOfEveryRank) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (const double epsilon : {1e-5, 0.5, 0.0})
        for (const bool bias : {false, true}) {
            LayerNorm<T> layer({.features = 6, .epsilon = epsilon, .bias = bias});
            RMSNorm<T> rms({.features = 6, .epsilon = epsilon});
            randomise_parameters(random, layer);
            randomise_parameters(random, rms);
            const auto check = [&](const auto& x) {
                EXPECT_VERDICT(reference::compare_module<T>(values(layer(x)), parameters_of(layer),
                                                            values(x),
                                                            layer_norm_answer(6, epsilon)));
                EXPECT_VERDICT(reference::compare_module<T>(
                    values(rms(x)), parameters_of(rms), values(x), rms_norm_answer(6, epsilon)));
            };
            check(random_tensor<T, 1>(random, {6}));
            check(random_tensor<T, 2>(random, {3, 6}));
            check(random_tensor<T, 3>(random, {2, 3, 6}));
            check(random_tensor<T, 4>(random, {2, 1, 3, 6}));
        }
}

TYPED_TEST(LayersTest, NormsBeginAsTheBareOperation) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const auto x = random_tensor<T, 2>(random, {3, 5});
    Tensor<T, 2> layer({3, 5}), rms({3, 5});
    heed::layer_norm<T>(x, {}, {}, 1e-5, layer.view());  // the default of PyTorch
    heed::rms_norm<T>(x, {}, 1e-6, rms.view());
    EXPECT_VERDICT(support::compare_bits(values(LayerNorm<T>({.features = 5})(x)), values(layer)));
    EXPECT_VERDICT(support::compare_bits(values(RMSNorm<T>({.features = 5})(x)), values(rms)));
}

TYPED_TEST(LayersTest, NormsInPlaceAndOnAnyStrides) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    LayerNorm<T> layer({.features = 5});
    RMSNorm<T> rms({.features = 5});
    randomise_parameters(random, layer);
    randomise_parameters(random, rms);
    for (int turn = 0; turn < 20; ++turn) {
        const auto x = random_tensor<T, 3>(random, {2, 3, 5});
        const auto check = [&](const auto& norm) {
            const auto expected = values(norm(x));
            Tensor<T, 3> in_place(x);
            norm.forward(in_place.view(), in_place.view());
            EXPECT_VERDICT(support::compare_bits(values(in_place), expected));
            support::Strided<T, 3> from(random, x.shape()), to(random, x.shape());
            from.assign(x.values());
            norm.forward(from.const_view(), to.view());
            EXPECT_VERDICT(support::compare_bits(values(to.view()), expected));
            EXPECT_TRUE(to.gaps_untouched());
        };
        check(layer);
        check(rms);
    }
}

// --- Embedding
// ------------------------------------------------------------------------------------

TYPED_TEST(LayersTest, EmbeddingTakesRowsByIdsOfAnyIntegerType) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    Embedding<T> layer({.count = 5, .features = 3});
    randomise_parameters(random, layer);
    const auto check = [&]<class Id>(const std::vector<Id>& ids) {
        const Tensor<T, 2> y = layer(ids);
        ASSERT_EQ(y.shape(), (Shape<2>(ids.size(), 3)));
        for (std::size_t i = 0; i < ids.size(); ++i)
            for (Index j = 0; j < 3; ++j)
                EXPECT_EQ(y(i, j), layer.weight()(static_cast<Index>(ids[i]), j));
        EXPECT_VERDICT(support::compare_bits(values(layer(std::span<const Id>(ids))), values(y)));
        Tensor<T, 2> into(y.shape());
        layer.forward(std::span<const Id>(ids), into.view());
        EXPECT_VERDICT(support::compare_bits(values(into), values(y)));
    };
    check(std::vector<int>{4, 0, 0, 3, 1, 2});
    check(std::vector<std::int64_t>{1, 4});
    check(std::vector<std::uint8_t>{0, 4, 4});
    check(std::vector<std::size_t>{2});
    check(std::vector<int>{});
}

TYPED_TEST(LayersTest, EmbeddingResetIsStandardNormal) {
    using T = TypeParam;
    Embedding<T> layer({.count = 100, .features = 10}), same(layer), other(layer);
    for (const T value : values(layer.weight())) EXPECT_EQ(value, T(0));
    layer.reset_parameters(3);
    same.reset_parameters(3);
    other.reset_parameters(4);
    EXPECT_EQ(parameters_of(layer), parameters_of(same));
    EXPECT_NE(parameters_of(layer), parameters_of(other));
    double sum = 0, squares = 0;
    for (const T value : values(layer.weight())) {
        sum += static_cast<double>(value);
        squares += static_cast<double>(value * value);
    }
    // Deviations of the mean and of the mean square of 1000 numbers: 0.032 and 0.045; five of them.
    EXPECT_NEAR(sum / 1000, 0.0, 0.16);
    EXPECT_NEAR(squares / 1000, 1.0, 0.23);
}

// A default-constructed layer has no features: it can be assigned to, and refuses to compute.
TYPED_TEST(LayersTest, DefaultConstructedLayersWaitForAssignment) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const auto x = random_tensor<T, 2>(random, {2, 3});
    Linear<T> linear;
    LayerNorm<T> norm;
    RMSNorm<T> rms;
    Embedding<T> embedding;
    EXPECT_EQ(linear.parameter_count() + norm.parameter_count() + rms.parameter_count() +
                  embedding.parameter_count(),
              0);
    nn_test::expect_refused<heed::ShapeError>([&] { (void)linear(x); }, {"[linear]", "[2, 3]"});
    nn_test::expect_refused<heed::ArgumentError>([&] { (void)embedding(std::vector<int>{0}); },
                                                 {"[embedding]", "[0, 0)"});
    linear = Linear<T>({.in_features = 3, .out_features = 2});
    EXPECT_EQ(linear(x).shape(), (Shape<2>(2, 2)));
}

}  // namespace
