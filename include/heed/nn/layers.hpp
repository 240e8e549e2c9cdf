#pragma once
// Which small layers do attention models consist of?
// Linear, LayerNorm, RMSNorm, Embedding: weights with the operation of the same name in ops/.
// Weights are zero (scales one) until loaded or until reset_parameters.

#include <cmath>
#include <cstdint>
#include <string>

#include "heed/nn/module.hpp"
#include "heed/ops/embedding.hpp"
#include "heed/ops/linear.hpp"
#include "heed/ops/norm.hpp"
#include "heed/tensor/random.hpp"

namespace heed::inline v0 {

namespace detail {

/// "[where] name must be at least 1; found ..." unless it is.
inline Index require_positive(std::string_view where, std::string_view name, Index value) {
    if (value < 1) fail<ArgumentError>(where, name, " must be at least 1; found ", value);
    return value;
}

/// Glorot and Bengio's uniform initialisation, AISTATS 2010: +-sqrt(6 / (in + out)).
template <class T>
void fill_xavier(TensorView<T, 2> weight, std::uint64_t seed) {
    const double fans = static_cast<double>(weight.extent(0) + weight.extent(1));
    const double bound = std::sqrt(6.0 / fans);
    fill_uniform(weight, seed, -bound, bound);
}

/// What norms have in common: y has the shape of x.
template <class Derived, class T>
class Norm : public Module<Derived> {
  public:
    template <TensorLike X>
    [[nodiscard]] Tensor<T, X::rank()> operator()(const X& x) const {
        Tensor<T, X::rank()> y(read(x).shape());
        static_cast<const Derived&>(*this).forward(read(x), y.view());
        return y;
    }
};

}  // namespace detail

/// y = x W^T + b. Parameters: "weight" [out_features, in_features], "bias" [out_features].
template <ComputeScalar T>
class Linear : public Module<Linear<T>> {
  public:
    struct Options {
        Index in_features = 0;
        Index out_features = 0;
        bool bias = true;
    };

    Linear() = default;
    /// Throws ArgumentError for a size below 1.
    explicit Linear(const Options& o)
        : weight_(Shape<2>(detail::require_positive("Linear", "out_features", o.out_features),
                           detail::require_positive("Linear", "in_features", o.in_features))),
          bias_(o.bias ? o.out_features : 0) {}

    [[nodiscard]] Index in_features() const { return weight_.shape()[1]; }
    [[nodiscard]] Index out_features() const { return weight_.shape()[0]; }

    /// A view that may be written at any time: see Module::pack_weights.
    [[nodiscard]] TensorView<T, 2> weight() { return weight_.view(); }
    [[nodiscard]] TensorView<const T, 2> weight() const { return weight_.view(); }
    /// An empty view when there is no bias.
    [[nodiscard]] TensorView<T, 1> bias() { return bias_; }
    [[nodiscard]] TensorView<const T, 1> bias() const { return bias_; }

    /// x is [.., in_features], y is [.., out_features]. Throws ShapeError; see heed::linear. An
    /// element of y has the same bits whatever the other rows of x are, however few.
    template <int Rank>
    void forward(InputView<T, Rank> x, TensorView<T, Rank> y) const {
        const auto check = [&](const auto&... matrix) {
            detail::check_linear<T, Rank>("linear", x, weight_.shape(), bias_, y, matrix...);
        };
        weight_.has_matrix() ? check(weight_.read()) : check();
        detail::run_linear<T, Rank>(x, product_weights(), y, std::nullopt);
    }

    /// From the gradient dy of the output: dx is overwritten (an empty view: not wanted), the
    /// gradients of the parameters are added to. x is what forward was given. Throws ShapeError;
    /// see heed::linear_backward.
    template <int Rank>
    void backward(InputView<T, Rank> x, InputView<T, Rank> dy, TensorView<T, Rank> dx,
                  Linear& gradients) const {
        detail::require_gradients("Linear", *this, gradients);
        const detail::BackwardWeights<T> weights = backward_weights();
        const detail::GradientSum<T> dweight = gradients.weight_gradient();
        detail::check_linear_backward<T, Rank>(x, weights.matrix, dy, dx, dweight.to,
                                               gradients.bias_);
        detail::run_linear_backward<T, Rank>(x, weights, dy, dx, dweight, gradients.bias_,
                                             std::nullopt);
    }

    template <TensorLike X>
    [[nodiscard]] Tensor<T, X::rank()> operator()(const X& x) const {
        const auto in = read(x);
        Tensor<T, X::rank()> y(in.shape().with(X::rank() - 1, out_features()));
        forward(in, y.view());
        return y;
    }

    /// Glorot-uniform weight, zero bias.
    void reset_parameters(std::uint64_t seed) {
        detail::fill_xavier(weight_.change(), seed);
        fill(bias(), T(0));
    }

    /// True when the parameters of both have the same shapes.
    [[nodiscard]] bool has_sizes_of(const Linear& other) const {
        return weight_.shape() == other.weight_.shape() && bias_.shape() == other.bias_.shape();
    }

    template <class Self, class Visitor>
    static void visit_parameters(Self& self, Visitor&& visit, const std::string& prefix) {
        detail::visit_weight(self.weight_, visit, prefix + "weight");
        if (!self.bias_.empty()) visit(prefix + "bias", self.bias());
    }

    /// For products that are part of a larger layer.
    [[nodiscard]] detail::ProductWeights<T> product_weights() const {
        return weight_.for_product(bias_);
    }
    [[nodiscard]] detail::BackwardWeights<T> backward_weights() const {
        return weight_.for_gradient();
    }
    /// Where backward adds to, in a module of gradients.
    [[nodiscard]] detail::GradientSum<T> weight_gradient() { return weight_.sum(); }

  private:
    detail::WeightMatrix<T> weight_;
    Tensor<T, 1> bias_;
};

/// LayerNorm over the last dimension. Parameters: "weight" [features] (1 at first), "bias"
/// [features] (0 at first).
template <ComputeScalar T>
class LayerNorm : public detail::Norm<LayerNorm<T>, T> {
  public:
    struct Options {
        Index features = 0;
        double epsilon = 1e-5;
        bool bias = true;
    };

    LayerNorm() = default;
    /// Throws ArgumentError for a size below 1 or an epsilon that is negative or not finite.
    explicit LayerNorm(const Options& o)
        : weight_(detail::require_positive("LayerNorm", "features", o.features)),
          bias_(o.bias ? o.features : 0),
          epsilon_(detail::require_nonnegative("LayerNorm", "epsilon", o.epsilon)) {
        fill(weight_.view(), T(1));
    }

    /// x and y are [.., features] and may be the same. Throws ShapeError.
    template <int Rank>
    void forward(InputView<T, Rank> x, TensorView<T, Rank> y) const {
        layer_norm(x, weight_, bias_, epsilon_, y);
    }

    /// For norms that are part of a larger layer, and in a module of gradients for those of its
    /// parameters.
    [[nodiscard]] detail::NormRule<T> rule() const {
        return {detail::NormKind::layer, epsilon_, weight_, bias_};
    }
    [[nodiscard]] typename detail::NormGradientRows<T>::Gradients gradients(
        detail::RowList<T> dx, detail::RowList<const T> residual) {
        return {dx, weight_, bias_, residual};
    }

    /// As Linear::backward; dx may also be the view of x or of dy. See heed::layer_norm_backward.
    template <int Rank>
    void backward(InputView<T, Rank> x, InputView<T, Rank> dy, TensorView<T, Rank> dx,
                  LayerNorm& gradients) const {
        detail::require_gradients("LayerNorm", *this, gradients);
        layer_norm_backward(x, weight_, epsilon_, dy, {dx, gradients.weight_, gradients.bias_});
    }

    /// True when the parameters of both have the same shapes.
    [[nodiscard]] bool has_sizes_of(const LayerNorm& other) const {
        return weight_.shape() == other.weight_.shape() && bias_.shape() == other.bias_.shape();
    }

    template <class Self, class Visitor>
    static void visit_parameters(Self& self, Visitor&& visit, const std::string& prefix) {
        visit(prefix + "weight", self.weight_.view());
        if (!self.bias_.empty()) visit(prefix + "bias", self.bias_.view());
    }

  private:
    Tensor<T, 1> weight_;
    Tensor<T, 1> bias_;
    double epsilon_ = 1e-5;
};

/// RMSNorm over the last dimension. Parameter: "weight" [features] (1 at first).
template <ComputeScalar T>
class RMSNorm : public detail::Norm<RMSNorm<T>, T> {
  public:
    struct Options {
        Index features = 0;
        double epsilon = 1e-6;
    };

    RMSNorm() = default;
    /// Throws ArgumentError for a size below 1 or an epsilon that is negative or not finite.
    explicit RMSNorm(const Options& o)
        : weight_(detail::require_positive("RMSNorm", "features", o.features)),
          epsilon_(detail::require_nonnegative("RMSNorm", "epsilon", o.epsilon)) {
        fill(weight_.view(), T(1));
    }

    /// x and y are [.., features] and may be the same. Throws ShapeError.
    template <int Rank>
    void forward(InputView<T, Rank> x, TensorView<T, Rank> y) const {
        rms_norm(x, weight_, epsilon_, y);
    }

    /// As Linear::backward; dx may also be the view of x or of dy. See heed::rms_norm_backward.
    template <int Rank>
    void backward(InputView<T, Rank> x, InputView<T, Rank> dy, TensorView<T, Rank> dx,
                  RMSNorm& gradients) const {
        detail::require_gradients("RMSNorm", *this, gradients);
        rms_norm_backward(x, weight_, epsilon_, dy, {dx, gradients.weight_});
    }

    /// True when the parameters of both have the same shapes.
    [[nodiscard]] bool has_sizes_of(const RMSNorm& other) const {
        return weight_.shape() == other.weight_.shape();
    }

    template <class Self, class Visitor>
    static void visit_parameters(Self& self, Visitor&& visit, const std::string& prefix) {
        visit(prefix + "weight", self.weight_.view());
    }

  private:
    Tensor<T, 1> weight_;
    double epsilon_ = 1e-6;
};

/// One row of a table for each id. Parameter: "weight" [count, features].
template <ComputeScalar T>
class Embedding : public Module<Embedding<T>> {
  public:
    struct Options {
        Index count = 0;
        Index features = 0;
    };

    Embedding() = default;
    /// Throws ArgumentError for a size below 1.
    explicit Embedding(const Options& o)
        : weight_({detail::require_positive("Embedding", "count", o.count),
                   detail::require_positive("Embedding", "features", o.features)}) {}

    [[nodiscard]] TensorView<T, 2> weight() { return weight_; }
    [[nodiscard]] TensorView<const T, 2> weight() const { return weight_; }

    /// ids are [n], y is [n, features]. Throws ArgumentError for an id outside [0, count).
    template <std::integral Id>
    void forward(std::span<const Id> ids, TensorView<T, 2> y) const {
        embedding<T, Id>(view_of(ids), weight_, y);
    }

    /// Adds the gradient dy [n, features] of the output to the rows of gradients that ids name.
    /// Throws ShapeError, or ArgumentError for an id outside [0, count).
    template <std::integral Id>
    void backward(std::span<const Id> ids, InputView<T, 2> dy, Embedding& gradients) const {
        detail::require_gradients("Embedding", *this, gradients);
        embedding_backward<T, Id>(view_of(ids), dy, gradients.weight());
    }
    template <std::integral Id>
    void backward(const std::vector<Id>& ids, InputView<T, 2> dy, Embedding& gradients) const {
        backward(std::span<const Id>(ids), dy, gradients);
    }

    template <std::integral Id>
    [[nodiscard]] Tensor<T, 2> operator()(std::span<const Id> ids) const {
        Tensor<T, 2> y({ids.size(), static_cast<std::size_t>(weight_.extent(1))});
        forward(ids, y.view());
        return y;
    }
    template <std::integral Id>
    [[nodiscard]] Tensor<T, 2> operator()(const std::vector<Id>& ids) const {
        return (*this)(std::span<const Id>(ids));
    }

    /// Standard normal rows, as in PyTorch.
    void reset_parameters(std::uint64_t seed) { fill_normal(weight(), seed); }

    /// True when the parameters of both have the same shapes.
    [[nodiscard]] bool has_sizes_of(const Embedding& other) const {
        return weight_.shape() == other.weight_.shape();
    }

    template <class Self, class Visitor>
    static void visit_parameters(Self& self, Visitor&& visit, const std::string& prefix) {
        visit(prefix + "weight", self.weight());
    }

  private:
    template <std::integral Id>
    static TensorView<const Id, 1> view_of(std::span<const Id> ids) {
        return {ids.data(), Shape<1>(ids.size())};
    }

    Tensor<T, 2> weight_;
};

}  // namespace heed::inline v0
