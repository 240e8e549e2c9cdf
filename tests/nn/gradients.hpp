#pragma once
// Are these the gradients of that module? Central differences of its own forward pass, which other
// tests hold against the oracle; knows modules by their parameters and by a loss.

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "nn/nn_support.hpp"

namespace nn_test {

/// sum(y * weights), the loss whose gradient with respect to y is `weights`.
template <int Rank>
double weighted_sum(TensorView<const double, Rank> y, TensorView<const double, Rank> weights) {
    double sum = 0;
    heed::detail::for_each_element([&](double a, double b) { sum += a * b; }, y, weights);
    return sum;
}

/// What is judged: the differences of loss() against gradients by formula.
///
/// Two central differences, of steps h and h/2, give the derivative with an error of h^4 times the
/// fifth derivative (Richardson), 1e-12 or so here, and 1e-11 of rounding. Where the two are far
/// apart there is a kink between them (relu at 0); such an element is not judged, but counted.
class Differences {
  public:
    template <class Loss, int Rank>
    void compare(const std::string& what, TensorView<double, Rank> at,
                 TensorView<const double, Rank> gradient, const Loss& loss) {
        const std::vector<double> found = values(gradient);
        std::size_t n = 0;
        heed::detail::for_each_element(
            [&](double& x) {
                judge(what + "[" + std::to_string(n) + "]", x, found[n], loss);
                ++n;
            },
            at);
        EXPECT_EQ(found.size(), n) << what;
    }

    [[nodiscard]] int judged() const { return judged_; }
    [[nodiscard]] int wrong() const { return wrong_; }
    /// The first few that are wrong.
    [[nodiscard]] const std::string& report() const { return report_; }
    [[nodiscard]] bool few_kinks() const { return 50 * kinks_ <= judged_; }

  private:
    template <class Loss>
    void judge(const std::string& what, double& x, double found, const Loss& loss) {
        constexpr double h = 1e-4;
        const double before = x;
        const auto difference = [&](double step) {
            x = before + step;
            const double above = loss();
            x = before - step;
            const double below = loss();
            x = before;
            return (above - below) / (2 * step);
        };
        const double whole = difference(h), half = difference(h / 2);
        ++judged_;
        if (std::abs(whole - half) > 1e-5 * (1 + std::abs(half))) {
            ++kinks_;
            return;
        }
        const double expected = (4 * half - whole) / 3;
        if (std::abs(found - expected) <= 1e-8 + 1e-6 * std::abs(expected)) return;
        if (++wrong_ <= 5)
            report_ += what + " is " + std::to_string(found) + " instead of " +
                       std::to_string(expected) + "\n";
    }

    int judged_ = 0, wrong_ = 0, kinks_ = 0;
    std::string report_;
};

/// Judges the gradients of every parameter. `module` stands before its forward pass, dropout
/// included; loss(module) runs one on the copy that it is given.
template <class M, class Loss>
void compare_parameters(Differences& differences, M& module, const M& gradients, const Loss& loss) {
    std::map<std::string, std::vector<double>> found;
    gradients.for_each_parameter(
        [&](const std::string& name, auto view) { found[name] = values(view); });
    module.for_each_parameter([&](const std::string& name, auto view) {
        using View = decltype(view);
        const std::vector<double>& numbers = found.at(name);
        const TensorView<const double, View::rank()> gradient(numbers, view.shape());
        differences.compare(name, view, gradient, [&] {
            M copy(module);
            return loss(copy);
        });
    });
}

inline void expect_agreement(const Differences& differences) {
    EXPECT_GT(differences.judged(), 0);
    EXPECT_EQ(differences.wrong(), 0) << differences.report();
    EXPECT_TRUE(differences.few_kinks());
}

/// Every element is within the house's tolerance in double of another way to the same number.
template <heed::TensorLike A, heed::TensorLike B>
void expect_close(const A& actual, const B& expected, const std::string& what = "") {
    EXPECT_TRUE(heed::all_close(actual, expected, 1e-6, 1e-8)) << what;
}

/// The parameters of two modules of one kind.
template <template <class> class M>
void expect_close_parameters(const M<double>& actual, const M<double>& expected) {
    const auto others = parameters_of(expected);
    for (const auto& [name, numbers] : parameters_of(actual)) {
        const Shape<1> shape(numbers.size());
        expect_close(TensorView<const double, 1>(numbers, shape),
                     TensorView<const double, 1>(others.at(name), shape), name);
    }
}

/// A tensor of NaN: what is not overwritten shows, and what is written by a refused call too.
template <int Rank>
Tensor<double, Rank> nans(const Shape<Rank>& shape) {
    Tensor<double, Rank> tensor(shape);
    heed::fill(tensor.view(), std::nan(""));
    return tensor;
}

inline bool all_nan(const Tensor<double, 3>& tensor) {
    for (const double x : tensor.values())
        if (!std::isnan(x)) return false;
    return true;
}

/// True when every parameter is 0.
template <class M>
bool all_zero(const M& module) {
    bool zero = true;
    module.for_each_parameter([&](const std::string&, auto view) {
        for (const double x : values(view)) zero = zero && x == 0;
    });
    return zero;
}

}  // namespace nn_test
