#pragma once
// Small things that every test of modules needs: random tensors, their values as vectors, refusals.

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <string_view>
#include <typeinfo>
#include <vector>

#include "heed/base/contract.hpp"
#include "heed/tensor/elementwise.hpp"
#include "heed/tensor/tensor.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"

#define EXPECT_VERDICT(...)                             \
    do {                                                \
        const support::Verdict verdict = (__VA_ARGS__); \
        EXPECT_TRUE(verdict.ok) << verdict.message;     \
    } while (false)

namespace nn_test {

using heed::Index;
using heed::Shape;
using heed::Tensor;
using heed::TensorView;
using support::Random;

/// The elements in row-major order, whatever the strides.
template <class To, heed::TensorLike X>
std::vector<To> values_as(const X& tensor) {
    std::vector<To> result;
    heed::detail::for_each_element([&](const auto& x) { result.push_back(static_cast<To>(x)); },
                                   heed::read(tensor));
    return result;
}

template <heed::TensorLike X>
std::vector<heed::ElementOf<X>> values(const X& tensor) {
    return values_as<heed::ElementOf<X>>(tensor);
}

template <class T, int Rank>
void randomise(Random& random, TensorView<T, Rank> view, double spread = 1.0) {
    heed::detail::for_each_element([&](T& x) { x = static_cast<T>(spread * random.normal()); },
                                   view);
}

template <class T, int Rank>
Tensor<T, Rank> random_tensor(Random& random, const Shape<Rank>& shape, double spread = 1.0) {
    Tensor<T, Rank> tensor(shape);
    randomise(random, tensor.view(), spread);
    return tensor;
}

/// Every parameter of a module at random; scales of norms around 1.
template <class M>
void randomise_parameters(Random& random, M& module, double spread = 0.4) {
    M::visit_parameters(
        module,
        [&](const std::string& name, auto view) {
            randomise(random, view, spread);
            const bool is_scale =
                name.find("norm") != std::string::npos && name.ends_with("weight");
            using T = typename decltype(view)::value_type;
            if (is_scale) heed::detail::for_each_element([](T& x) { x += T(1); }, view);
        },
        "");
}

/// Every parameter's values by name.
template <template <class> class M, class T>
std::map<std::string, std::vector<T>> parameters_of(const M<T>& module) {
    std::map<std::string, std::vector<T>> result;
    M<T>::visit_parameters(
        module, [&](const std::string& name, auto view) { result[name] = values(view); }, "");
    return result;
}

/// Runs the function, which must throw exactly this error; the text must name the function first,
/// say what was found, and hold every given fragment.
template <class Expected, class F>
void expect_refused(const F& function, std::initializer_list<std::string_view> fragments) {
    try {
        function();
        ADD_FAILURE() << "not refused; expected the message with '" << *fragments.begin() << "'";
    } catch (const heed::Error& error) {
        const std::string text = error.what();
        EXPECT_EQ(typeid(error), typeid(Expected)) << text;
        EXPECT_TRUE(text.starts_with("[")) << text;
        EXPECT_NE(text.find("found"), std::string::npos) << text;
        for (std::string_view fragment : fragments)
            EXPECT_NE(text.find(fragment), std::string::npos)
                << "'" << fragment << "' is not in: " << text;
    }
}

}  // namespace nn_test
