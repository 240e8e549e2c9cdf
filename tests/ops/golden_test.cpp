// What PyTorch answers for the same numbers (tests/golden/README.md).

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "heed/ops/activation.hpp"
#include "heed/ops/embedding.hpp"
#include "heed/ops/linear.hpp"
#include "heed/ops/norm.hpp"
#include "heed/ops/softmax.hpp"
#include "heed/tensor/tensor.hpp"
#include "support/golden.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

namespace {

using heed::Index;
using heed::Tensor;
using heed::TensorView;
using support::GoldenCase;
using support::GoldenFile;

using Values = std::vector<float>;

/// One case: what heed answers, and the plain version in float, whose error is the yardstick.
struct Answer {
    Values ours, plain;
};

const GoldenFile& file() {
    static const GoldenFile golden("ops");
    return golden;
}

/// The parameter of that name, or an empty tensor.
Tensor<float, 1> vector_parameter(const GoldenCase& golden, const std::string& name) {
    const auto* tensor = file().tensors().find(golden.parameter_prefix() + name);
    return tensor == nullptr ? Tensor<float, 1>() : tensor->to<float, 1>();
}

Values values_of(const Tensor<float, 1>& tensor) {
    return {tensor.values().begin(), tensor.values().end()};
}

/// The input as rows of its last dimension.
Tensor<float, 2> rows(const GoldenCase& golden) {
    const auto& x = golden.input("x");
    const Index columns = x.shape().back();
    const Values values = support::float_values(x);
    return Tensor<float, 2>({static_cast<Index>(values.size()) / columns, columns}, values);
}

Answer norm(const GoldenCase& golden, bool layer) {
    const Tensor<float, 2> x = rows(golden);
    const auto weight = vector_parameter(golden, "weight"), bias = vector_parameter(golden, "bias");
    const double eps = golden.real("eps").value();
    const auto columns = static_cast<std::size_t>(x.extent(1));
    const Values in(x.values().begin(), x.values().end());
    Tensor<float, 2> y(x.shape());
    Values plain;
    if (layer) {
        heed::layer_norm(x, weight, bias, eps, y.view());
        plain = oracle::layer_norm(in, columns, eps, values_of(weight), values_of(bias));
    } else {
        heed::rms_norm(x, weight, eps, y.view());
        plain = oracle::rms_norm(in, columns, eps, values_of(weight));
    }
    return {{y.values().begin(), y.values().end()}, plain};
}

Answer activation(const GoldenCase& golden, heed::Activation which, float (*plain)(float)) {
    Answer answer{support::float_values(golden.input("x")), {}};
    for (float x : answer.ours) answer.plain.push_back(plain(x));
    const TensorView<float, 1> view(answer.ours, {answer.ours.size()});
    heed::apply_activation(which, view);
    return answer;
}

Answer softmax(const GoldenCase& golden, bool weights) {
    Tensor<float, 2> x = rows(golden);
    const auto columns = static_cast<std::size_t>(x.extent(1));
    const Values in(x.values().begin(), x.values().end());
    Values lse;
    for (Index r = 0; r < x.extent(0); ++r)
        lse.push_back(
            heed::softmax(x.values().subspan(static_cast<std::size_t>(r) * columns, columns)));
    if (!weights) return {lse, oracle::log_sum_exp(in, columns)};
    return {{x.values().begin(), x.values().end()}, oracle::softmax(in, columns)};
}

Answer linear(const GoldenCase& golden) {
    const Tensor<float, 2> x = rows(golden);
    const auto weight = file().tensors().to<float, 2>(golden.parameter_prefix() + "weight");
    const auto bias = vector_parameter(golden, "bias");
    Tensor<float, 2> y({x.extent(0), weight.extent(0)});
    heed::linear(x, weight, bias, y.view());
    return {{y.values().begin(), y.values().end()},
            oracle::linear(Values(x.values().begin(), x.values().end()),
                           Values(weight.values().begin(), weight.values().end()),
                           static_cast<std::size_t>(x.extent(1)),
                           static_cast<std::size_t>(weight.extent(0)), values_of(bias))};
}

Answer embedding(const GoldenCase& golden) {
    const auto weight = file().tensors().to<float, 2>(golden.parameter_prefix() + "weight");
    const auto& input = golden.input("ids");
    const auto ids = input.view<std::int64_t, 2>().reshape(
        heed::Shape<1>(input.view<std::int64_t, 2>().element_count()));
    Tensor<float, 2> y({ids.extent(0), weight.extent(1)});
    heed::embedding(ids, weight, y.view());
    const Values values(y.values().begin(), y.values().end());
    return {values, values};
}

float plain_relu(float x) {
    return x > 0.0F ? x : 0.0F;
}

Answer answer(const GoldenCase& golden) {
    const std::string& name = golden.name();
    const auto is = [&](const char* prefix) { return name.starts_with(prefix); };
    if (is("layer_norm")) return norm(golden, true);
    if (is("rms_norm")) return norm(golden, false);
    if (is("gelu_tanh"))
        return activation(golden, heed::Activation::gelu_tanh, oracle::gelu_tanh<float>);
    if (is("gelu")) return activation(golden, heed::Activation::gelu, oracle::gelu<float>);
    if (is("silu")) return activation(golden, heed::Activation::silu, oracle::silu<float>);
    if (is("relu")) return activation(golden, heed::Activation::relu, plain_relu);
    if (is("softmax")) return softmax(golden, true);
    if (is("logsumexp")) return softmax(golden, false);
    if (is("linear")) return linear(golden);
    if (is("embedding")) return embedding(golden);
    ADD_FAILURE() << "a case that this test does not know: " << name;
    return {};
}

// The library's answers are rounded to float once, from double.
TEST(GoldenOps, EveryCaseOfPyTorch) {
    const auto cases = file().cases();
    EXPECT_GE(cases.size(), 21U);
    for (const std::string& name : cases) {
        SCOPED_TRACE(name);
        const GoldenCase golden(file(), name);
        const Values expected = support::float_values(golden.output("output"));
        const Answer found = answer(golden);
        const auto verdict = support::compare_with_oracle<float>(
            found.ours, found.plain, expected, 1.0 + support::max_magnitude(expected));
        EXPECT_TRUE(verdict) << verdict.message;
    }
}

// Element by element, so that the large inputs do not excuse the small ones: the activations err by
// at most 4 units of |x| (tests/ops/activation_test.cpp), and the answers by half a unit.
TEST(GoldenOps, ActivationsElementByElement) {
    int checked = 0;
    for (const std::string& name : file().cases()) {
        const auto is = [&](const char* prefix) { return name.starts_with(prefix); };
        if (!is("gelu") && !is("silu") && !is("relu")) continue;
        SCOPED_TRACE(name);
        const GoldenCase golden(file(), name);
        const Values x = support::float_values(golden.input("x"));
        const Values expected = support::float_values(golden.output("output"));
        const Values ours = answer(golden).ours;
        ASSERT_EQ(ours.size(), expected.size());
        for (std::size_t i = 0; i < x.size(); ++i, ++checked)
            EXPECT_LE(std::abs(ours[i] - expected[i]), 4.5F * 0x1p-23F * std::abs(x[i])) << x[i];
    }
    EXPECT_GT(checked, 100);
}

// The comparison can fail: another variance, another approximation, a forgotten bias.
TEST(GoldenOps, OtherDefinitionsDoNotPass) {
    const auto passes = [](const char* name, const Answer& found) {
        const Values expected = support::float_values(GoldenCase(file(), name).output("output"));
        return support::compare_with_oracle<float>(found.ours, found.plain, expected,
                                                   1.0 + support::max_magnitude(expected))
            .ok;
    };
    const auto plain = [](const char* name) { return answer(GoldenCase(file(), name)).plain; };
    EXPECT_TRUE(passes("gelu", answer(GoldenCase(file(), "gelu"))));
    EXPECT_FALSE(passes("gelu", {activation(GoldenCase(file(), "gelu"), heed::Activation::gelu_tanh,
                                            oracle::gelu_tanh<float>)
                                     .ours,
                                 plain("gelu")}));
    EXPECT_FALSE(passes("layer_norm",
                        {norm(GoldenCase(file(), "layer_norm"), false).ours, plain("layer_norm")}));
    Answer shifted = answer(GoldenCase(file(), "linear"));
    shifted.ours[0] += 1e-5F;
    EXPECT_FALSE(passes("linear", shifted));
}

}  // namespace
