#pragma once
// How do gradients move the parameters of a model?
// Adam with decoupled weight decay. Reads gradients, writes parameters and its own two moments.

#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include "heed/ops/row_parts.hpp"
#include "heed/simd/layer_dispatch.hpp"
#include "heed/train/side_by_side.hpp"

namespace heed::inline v0 {

struct AdamWOptions {
    double beta1 = 0.9;    ///< decay of the mean of gradients, in [0, 1)
    double beta2 = 0.999;  ///< decay of the mean of their squares, in [0, 1)
    double epsilon = 1e-8;
    double weight_decay = 0.01;
    /// Whether the parameter of that name decays; empty: all do. Usual is to spare biases, norms
    /// and embeddings.
    std::function<bool(std::string_view name)> decays = {};
};

namespace detail {

/// Step t with this learning rate; `decays`: whether the parameter does.
template <class T>
[[nodiscard]] AdamWStep<T> adamw_step(const AdamWOptions& o, std::int64_t t, double learning_rate,
                                      bool decays) {
    return {.beta2 = static_cast<T>(o.beta2),
            .share1 = static_cast<T>(1.0 - o.beta1),
            .share2 = static_cast<T>(1.0 - o.beta2),
            .rate = static_cast<T>(learning_rate / (1.0 - std::pow(o.beta1, t))),
            .root = static_cast<T>(std::sqrt(1.0 - std::pow(o.beta2, t))),
            .epsilon = static_cast<T>(o.epsilon),
            .keep = static_cast<T>(1.0 - (decays ? learning_rate * o.weight_decay : 0.0))};
}

/// Moves the scalars of a row.
template <class T>
void adamw_row(const AdamWStep<T>& step, TensorView<T, 1> parameter,
               TensorView<const T, 1> gradient, TensorView<T, 1> mean, TensorView<T, 1> square) {
    RowParts<T, T> w(parameter), m(mean), v(square);
    RowParts<T, const T> g(gradient);
    for_each_part(parameter.extent(0), [&](Index first, Index count) {
        layer_kernels<T>().adamw(step, count, w.edit(first, count), g.read(first, count),
                                 m.edit(first, count), v.edit(first, count));
        for (RowParts<T, T>* parts : {&w, &m, &v}) parts->store(first, count);
    });
}

}  // namespace detail

/// Adam with decoupled weight decay, with the meaning of torch.optim.AdamW. Step t = 1, 2, .. with
/// the learning rate a takes the gradient g of each scalar w to
///
///     m = beta1 m + (1 - beta1) g,        v = beta2 v + (1 - beta2) g^2,
///     w = (1 - a weight_decay) w - a (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)
///
/// with m = v = 0 at first. Its state is two modules like the model, so that the model's number
/// type is also that of the moments. An object serves one model.
/// Source: Loshchilov, Hutter, arXiv 1711.05101; Kingma, Ba, arXiv 1412.6980.
template <class Model>
class AdamW {
  public:
    using Options = AdamWOptions;

    /// Throws ArgumentError for a beta outside [0, 1), or an epsilon or weight decay that is
    /// negative or not finite.
    explicit AdamW(const Model& model, const AdamWOptions& options = {})
        : options_(checked(options)),
          first_moment_(model.make_gradients()),
          second_moment_(model.make_gradients()) {}

    /// Moves the parameters of the model once. Throws ArgumentError for a learning rate that is
    /// negative or not finite, ShapeError unless model and gradients have the parameters of the
    /// model that this was made for; nothing is written then.
    void step(Model& model, const Model& gradients, double learning_rate) {
        detail::require_nonnegative("AdamW", "the learning rate", learning_rate);
        const auto move = [&](const std::string& name, auto parameter, auto gradient, auto mean,
                              auto square) {
            using T = typename decltype(parameter)::value_type;
            const auto step =
                detail::adamw_step<T>(options_, steps_ + 1, learning_rate, decays(name));
            detail::for_each_long_row([&](auto... rows) { detail::adamw_row<T>(step, rows...); },
                                      parameter, gradient, mean, square);
        };
        detail::for_each_side_by_side("AdamW", move, model, gradients, first_moment_,
                                      second_moment_);
        ++steps_;
    }

    /// Number of steps done.
    [[nodiscard]] std::int64_t step_count() const { return steps_; }

    /// Adds the state to the collection: "step", and under "first_moment." and "second_moment." the
    /// names of the parameters. With the model's parameters, and the same options and gradients,
    /// training goes on from it with the same bits. Throws ArgumentError when a name is taken.
    void save(NamedTensors& state, const std::string& prefix = "") const {
        state.add(prefix + "step", Tensor<std::int64_t, 1>({1}, {steps_}));
        first_moment_.save(state, prefix + "first_moment.");
        second_moment_.save(state, prefix + "second_moment.");
    }

    /// Takes over a state that was saved. Throws FormatError when it does not fit the model;
    /// nothing is changed then.
    void load(const NamedTensors& state, const std::string& prefix = "") {
        const auto steps = state.view<std::int64_t, 1>(prefix + "step");
        if (steps.extent(0) != 1 || steps(0) < 0)
            detail::fail<FormatError>(
                "AdamW", prefix, "step must be one number, 0 or more; found ",
                steps.extent(0) == 1 ? std::to_string(steps(0)) : to_string(steps.shape()));
        Model first(first_moment_), second(second_moment_);
        first.load(state, prefix + "first_moment.");
        second.load(state, prefix + "second_moment.");
        first_moment_ = std::move(first);
        second_moment_ = std::move(second);
        steps_ = steps(0);
    }

  private:
    static const AdamWOptions& checked(const AdamWOptions& o) {
        const auto require_beta = [](std::string_view name, double beta) {
            if (!(beta >= 0.0 && beta < 1.0))
                detail::fail<ArgumentError>("AdamW", name, " must be in [0, 1); found ", beta);
        };
        require_beta("beta1", o.beta1);
        require_beta("beta2", o.beta2);
        detail::require_nonnegative("AdamW", "epsilon", o.epsilon);
        detail::require_nonnegative("AdamW", "weight_decay", o.weight_decay);
        return o;
    }

    [[nodiscard]] bool decays(const std::string& name) const {
        return !options_.decays || options_.decays(name);
    }

    AdamWOptions options_;
    Model first_moment_, second_moment_;
    std::int64_t steps_ = 0;
};

}  // namespace heed::inline v0
