// Do products see every change of the weights, and do stored weights do what they promise?

#include "heed/nn/weight_matrix.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "heed/nn/transformer.hpp"
#include "heed/train/adamw.hpp"
#include "nn/nn_support.hpp"
#include "support/allocation_counter.hpp"

namespace {

using heed::FeedForward;
using heed::Linear;
using heed::MultiHeadAttention;
using heed::NamedTensors;
using heed::TransformerEncoderLayer;
using namespace nn_test;

template <class Layer>
Layer made();
template <>
Linear<float> made() {
    return Linear<float>({.in_features = 8, .out_features = 8});
}
template <>
MultiHeadAttention<float> made() {
    return MultiHeadAttention<float>({.embed_dim = 8, .num_heads = 2});
}
template <>
FeedForward<float> made() {
    return FeedForward<float>({.dim = 8, .hidden_dim = 20, .gated = true});
}
template <>
TransformerEncoderLayer<float> made() {
    return TransformerEncoderLayer<float>(
        {.d_model = 8, .nhead = 2, .dim_feedforward = 20, .dropout = 0.0});
}

template <class Layer>
class WeightsOf : public testing::Test {
  protected:
    WeightsOf() { module.reset_parameters(1); }

    Random random;
    Layer module = made<Layer>();
    Tensor<float, 3> x = random_tensor<float, 3>(random, {2, 3, 8});

    std::vector<float> answer() { return values(module(x.view())); }

    /// The answer of a layer with the same parameters that has never been asked.
    std::vector<float> fresh_answer() {
        Layer fresh(module);
        return values(fresh(x.view()));
    }
    void go_back(TensorView<const float, 3> from, TensorView<const float, 3> dy,
                 TensorView<float, 3> dx, Layer& gradients) {
        if constexpr (std::is_same_v<Layer, Linear<float>>)
            module.template backward<3>(from, dy, dx, gradients);
        else
            module.backward(from, dy, dx, gradients);
    }
    void expect_fresh(const char* after) {
        const auto found = answer();
        EXPECT_NE(found, last) << "nothing has changed after " << after;
        EXPECT_EQ(found, fresh_answer()) << after;
        last = found;
    }
    std::vector<float> last;
};
using Layers = testing::Types<Linear<float>, MultiHeadAttention<float>, FeedForward<float>,
                              TransformerEncoderLayer<float>>;
TYPED_TEST_SUITE(WeightsOf, Layers);

TYPED_TEST(WeightsOf, AnswersAreThoseOfTheWeightsAsTheyAre) {
    auto& layer = this->module;
    this->last = this->answer();

    layer.reset_parameters(2);
    this->expect_fresh("reset_parameters");

    NamedTensors saved;
    TypeParam other = made<TypeParam>();
    other.reset_parameters(3);
    other.save(saved);
    layer.load(saved);
    this->expect_fresh("load");

    auto gradients = layer.make_gradients();
    gradients.fill_parameters(1);
    heed::AdamW adamw(layer);
    adamw.step(layer, gradients, 0.1);
    this->expect_fresh("a step of AdamW");
    adamw.step(layer, gradients, 0.1);
    this->expect_fresh("another step");

    layer.fill_parameters(0.125);
    this->expect_fresh("fill_parameters");

    std::vector<std::function<void(float)>> writers;
    layer.for_each_parameter([&](const std::string& name, auto view) {
        if (name.find("norm") == std::string::npos)
            writers.push_back([view](float by) {
                float next = 0;
                heed::detail::for_each_element([&](float& w) { w += by * ++next; }, view);
            });
    });
    for (const auto& write : writers) write(0.01f);
    this->expect_fresh("writing through the views of a visit");
    for (const auto& write : writers) write(0.02f);
    this->expect_fresh("writing through them again");

    layer.pack_weights();
    EXPECT_EQ(this->answer(), this->last) << "packing changes no bit";
    for (const auto& write : writers) write(-0.01f);
    layer.pack_weights();
    this->expect_fresh("writing and packing");

    layer = made<TypeParam>();
    layer.reset_parameters(4);
    this->expect_fresh("assignment");
}

TYPED_TEST(WeightsOf, PackedAnswersHaveTheBitsOfThoseInPlace) {
    const auto packed = this->answer();
    this->module.for_each_parameter([](const std::string&, auto) {});
    EXPECT_EQ(this->answer(), packed);
}

TYPED_TEST(WeightsOf, PackedGradientsHaveTheBitsOfThoseInPlace) {
    auto& layer = this->module;
    if constexpr (requires { layer.train(); }) layer.train();
    auto gradients = layer.make_gradients();
    // So many rows that packed weights are worth reading.
    const auto from = random_tensor<float, 3>(this->random, {2, 12, 8});
    const auto dy = random_tensor<float, 3>(this->random, from.shape());
    const auto dx_of_now = [&] {
        Tensor<float, 3> dx(from.shape());
        (void)layer(from.view());
        this->go_back(from, dy, dx, gradients);
        return values(dx.view());
    };
    const auto packed = dx_of_now();
    layer.for_each_parameter([](const std::string&, auto) {});
    EXPECT_EQ(dx_of_now(), packed);
    // Packed weights of before a change are not those of the gradient.
    layer.pack_weights();
    (void)layer(from.view());
    Tensor<float, 3> dx(from.shape());
    layer.fill_parameters(0);
    this->go_back(from, dy, dx, gradients);
    if constexpr (!std::is_same_v<TypeParam, TransformerEncoderLayer<float>>) {  // no residual
        EXPECT_THAT(values(dx.view()), testing::Each(0.0f));
    }
}

TYPED_TEST(WeightsOf, PackingAgainAllocatesNothing) {
    auto& layer = this->module;
    auto gradients = layer.make_gradients();
    heed::Tensor<float, 3> y(this->x.shape());
    const auto forward = [&] {
        if constexpr (requires {
                          layer.forward(this->x.view(), this->x.view(), this->x.view(), y.view());
                      })
            layer.forward(this->x.view(), this->x.view(), this->x.view(), y.view());
        else
            layer.forward(this->x.view(), y.view());
    };
    forward();
    layer.fill_parameters(0.5);
    const support::AllocationCounter counter;
    forward();
    EXPECT_EQ(counter.count(), 0U);
}

template <class W>
double units_of() {
    if (std::is_same_v<W, float>) return 0;
    return std::is_same_v<W, heed::half>       ? 0x1p-10
           : std::is_same_v<W, heed::bfloat16> ? 0x1p-7
                                               : 1.0 / 64;
}

TYPED_TEST(WeightsOf, StoredInFewerBitsAnswerNearly) {
    const auto exact = this->answer();
    const auto judge = [&]<class W>(W) {
        TypeParam stored(this->module);
        stored.template store_weights_as<W>();
        const auto found = values(stored(this->x.view()));
        // Some sums of some products, each of numbers of about 1 with half a unit of error.
        EXPECT_TRUE(support::compare_within(found, exact, 20 * units_of<W>()));
        EXPECT_EQ(found == exact, (std::is_same_v<W, float>));
        // A copy answers, too.
        TypeParam copy(stored);
        EXPECT_EQ(values(copy(this->x.view())), found);
    };
    judge(float());
    judge(heed::half());
    judge(heed::bfloat16());
    judge(std::int8_t());
}

TYPED_TEST(WeightsOf, StoredWeightsCannotBeViewedSavedLoadedOrTrained) {
    auto& layer = this->module;
    NamedTensors saved;
    layer.save(saved, "before.");
    auto gradients = layer.make_gradients();
    layer.template store_weights_as<heed::bfloat16>();
    const auto expect_refusal = [](const auto& f) {
        try {
            f();
            FAIL() << "not refused";
        } catch (const heed::ArgumentError& error) {
            EXPECT_THAT(
                error.what(),
                testing::AllOf(testing::HasSubstr("weights that were stored in another form"),
                               testing::HasSubstr("a matrix [")));
        }
    };
    NamedTensors empty;
    expect_refusal([&] { layer.save(empty); });
    expect_refusal([&] { layer.load(saved, "before."); });
    expect_refusal([&] { layer.reset_parameters(1); });
    expect_refusal([&] { layer.for_each_parameter([](const std::string&, auto) {}); });
    expect_refusal([&] { layer.template store_weights_as<float>(); });
    EXPECT_EQ(layer.parameter_count(), made<TypeParam>().parameter_count());
    const auto before = this->answer();
    EXPECT_EQ(this->answer(), before);
}

// Zeros need not be written before somebody reads or adds, and nobody can tell.
TYPED_TEST(WeightsOf, GradientsBeginAtZeroWhateverWasThere) {
    auto& layer = this->module;
    if constexpr (requires { layer.train(); }) layer.train();
    auto cleared = layer.make_gradients(), written = layer.make_gradients();
    cleared.fill_parameters(std::numeric_limits<double>::quiet_NaN());
    cleared.fill_parameters(0);
    written.for_each_parameter([](const std::string&, auto view) { heed::fill(view, 0.0f); });
    const auto dy = random_tensor<float, 3>(this->random, this->x.shape());
    Tensor<float, 3> y(dy.shape()), dx(dy.shape());
    decltype(parameters_of(cleared)) before;  // asking now would write the zeros
    for (const char* step : {"first", "added to the first"}) {
        y = layer(this->x.view());
        this->go_back(this->x, dy, dx, cleared);
        this->go_back(this->x, dy, dx, written);
        const auto found = parameters_of(cleared);
        EXPECT_EQ(found, parameters_of(written)) << step;
        EXPECT_NE(found, before) << step;
        before = found;
    }
}

TYPED_TEST(WeightsOf, ClearedParametersReadAsZerosToEverybody) {
    auto& layer = this->module;
    const auto all_zeros = testing::Each(0.0f);
    std::vector<std::function<float()>> kept;
    layer.for_each_parameter(
        [&](const std::string&, auto view) { kept.push_back([view] { return *view.data(); }); });
    layer.fill_parameters(0);
    for (const auto& first_of : kept) EXPECT_EQ(first_of(), 0) << "in a view from before";
    layer.fill_parameters(1);
    layer.pack_weights();
    layer.fill_parameters(0);
    for (const auto& first_of : kept) EXPECT_EQ(first_of(), 0) << "in one from before packing";

    // Views to read are views, too.
    TypeParam watched(layer);
    watched.fill_parameters(1);
    std::vector<std::function<float()>> read;
    std::as_const(watched).for_each_parameter(
        [&](const std::string&, auto view) { read.push_back([view] { return *view.data(); }); });
    watched.fill_parameters(0);
    for (const auto& first_of : read) EXPECT_EQ(first_of(), 0) << "in a view to read";

    layer.pack_weights();
    layer.fill_parameters(1);
    layer.fill_parameters(0);
    const TypeParam copy(layer);
    NamedTensors saved;
    copy.save(saved);
    TypeParam other = made<TypeParam>();
    other.reset_parameters(2);
    other.load(saved);
    for (const auto& [name, elements] : parameters_of(other))
        EXPECT_THAT(elements, all_zeros) << name;
    EXPECT_THAT(values(TypeParam(copy)(this->x.view())), all_zeros);
    layer.for_each_parameter(
        [&](const std::string& name, auto view) { EXPECT_THAT(values(view), all_zeros) << name; });
}

TEST(StoredWeights, AreRefusedByBackwardBeforeAnythingIsWritten) {
    Random random;
    auto layer = made<TransformerEncoderLayer<float>>();
    layer.reset_parameters(1);
    auto gradients = layer.make_gradients();
    layer.store_weights_as<heed::half>();
    layer.train();
    const auto x = random_tensor<float, 3>(random, {1, 3, 8});
    Tensor<float, 3> y(x.shape()), dx(x.shape());
    layer.forward(x, y);
    EXPECT_THROW(layer.backward(x, y, dx, gradients), heed::ArgumentError);
    double sum = 0;
    gradients.for_each_parameter([&](const std::string&, auto view) {
        heed::detail::for_each_element([&](float g) { sum += std::abs(g); }, view);
    });
    EXPECT_EQ(sum, 0);
    EXPECT_THAT(values(dx), testing::Each(0.0f));
}

struct Two : heed::Module<Two> {
    Linear<float> a = made<Linear<float>>(), b = made<Linear<float>>();

    template <class Self, class Visitor>
    static void visit_parameters(Self& self, Visitor&& visit, const std::string& prefix) {
        self.a.for_each_parameter(visit, prefix + "a.");
        Linear<float>::visit_parameters(self.b, visit, prefix + "b.");
    }
};

TEST(StoredWeights, OfAComposedModule) {
    Two two;
    two.a.reset_parameters(1);
    two.b.reset_parameters(2);
    two.store_weights_as<std::int8_t>();
    EXPECT_THROW((void)two.a.weight(), heed::ArgumentError);
    EXPECT_THROW((void)two.b.weight(), heed::ArgumentError);
}

// A visitor that keeps no view leaves products with packed weights, and one that may keep it does
// not.
TEST(PackedWeights, AreReadUnlessAViewMayBeWritten) {
    auto layer = made<Linear<float>>();
    const auto is_packed = [&] { return layer.product_weights().packed != nullptr; };
    EXPECT_TRUE(is_packed());
    layer.reset_parameters(1);
    layer.fill_parameters(1);
    EXPECT_TRUE(is_packed());
    (void)std::as_const(layer).weight();
    EXPECT_TRUE(is_packed());
    (void)layer.weight();
    EXPECT_FALSE(is_packed());
    layer.reset_parameters(1);
    EXPECT_FALSE(is_packed()) << "the view is still there";
    layer.pack_weights();
    EXPECT_TRUE(is_packed());
    layer.for_each_parameter([](const std::string&, auto) {});
    EXPECT_FALSE(is_packed());
}

TEST(PackedWeights, MayBeAskedForByTwoThreadsAtOnce) {
    auto made_layer = made<Linear<float>>();
    made_layer.reset_parameters(1);
    Random random;
    const auto x = random_tensor<float, 3>(random, {1, 5, 8});
    for (int round = 0; round < 20; ++round) {
        const Linear<float> layer(made_layer);
        std::vector<float> first, second;
        std::thread other([&] { first = values(layer(x)); });
        second = values(layer(x));
        other.join();
        ASSERT_EQ(first, second);
    }
}

}  // namespace
