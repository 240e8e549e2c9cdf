#pragma once
// What lies between two linear layers?
// FeedForward: the network that follows attention in a transformer, gated or not, forward and back.

#include <algorithm>
#include <array>
#include <optional>
#include <string>

#include "heed/base/stages.hpp"
#include "heed/nn/last_forward.hpp"
#include "heed/nn/layers.hpp"
#include "heed/nn/state.hpp"
#include "heed/ops/activation.hpp"
#include "heed/ops/linear_gradients.hpp"
#include "heed/ops/product_pair.hpp"
#include "heed/ops/row_parts.hpp"

namespace heed::inline v0 {

/// y = W_2 act(W_1 x + b_1) + b_2, or with a gate y = W_2 (act(W_g x + b_g) * (W_1 x + b_1)) + b_2
/// (SwiGLU and its relatives, Shazeer, arXiv 2002.05202).
/// Parameters: "linear1.", "linear2.", and "gate." when gated, each "weight" and "bias".
template <ComputeScalar T>
class FeedForward : public Module<FeedForward<T>> {
  public:
    struct Options {
        Index dim = 0;         ///< width of input and output
        Index hidden_dim = 0;  ///< width between the two linear layers
        Activation activation = Activation::relu;
        bool gated = false;
        bool bias = true;
        double dropout = 0.0;  ///< after the activation, in training
        std::uint64_t seed = 0;
    };

    /// Throws ArgumentError for a size below 1 or a dropout outside [0, 1].
    explicit FeedForward(const Options& o)
        : activation_(o.activation),
          linear1_({o.dim, o.hidden_dim, o.bias}),
          linear2_({o.hidden_dim, o.dim, o.bias}),
          dropout_(o.dropout, o.seed) {
        if (o.gated) gate_ = Linear<T>({o.dim, o.hidden_dim, o.bias});
    }

    void train(bool on = true) { dropout_.train(on); }
    void eval() { train(false); }
    [[nodiscard]] bool training() const { return dropout_.training(); }

    /// x and y are [batch, length, dim]. In evaluation they may be the same memory; in training
    /// they must not overlap. Memory: hidden_dim numbers for each row, or in evaluation, where
    /// there are many rows, for at most 128 of each worker; in training two or three times as many.
    /// Throws ShapeError or ArgumentError before y is written.
    void forward(TensorView<const T, 3> x, TensorView<T, 3> y) {
        check(x, y);
        const detail::Workers workers(multiply_adds(x.shape()));
        const Forward forward(*this, x, y, {}, workers.executor.concurrency());
        detail::Stages stages;
        forward.add_to(stages);
        stages.run(workers.executor);
        forward.finish();
    }

    /// From dy, the gradient of the output: adds to the parameters of `gradients` (see
    /// make_gradients) and overwrites dx (an empty view: not wanted). x is that of the last
    /// forward, which must have been in training; its dropout is repeated. Last dimensions must be
    /// contiguous, and dx must not overlap x or dy. Throws ArgumentError without such a forward,
    /// else ShapeError or ArgumentError, before anything is written.
    void backward(TensorView<const T, 3> x, TensorView<const T, 3> dy, TensorView<T, 3> dx,
                  FeedForward& gradients) {
        check_backward(x, dy, dx, gradients);
        const detail::Workers workers(2 * multiply_adds(x.shape()));
        const Backward backward(*this, detail::RowList<const T>(x), detail::RowList<const T>(dy),
                                detail::RowList<T>(dx), {}, gradients,
                                workers.executor.concurrency());
        detail::Stages stages;
        backward.add_to(stages);
        stages.run(workers.executor);
    }

    /// Throws whatever backward refuses, and writes nothing.
    void check_backward(TensorView<const T, 3> x, TensorView<const T, 3> dy, TensorView<T, 3> dx,
                        const FeedForward& gradients) const {
        constexpr std::string_view where = "FeedForward";
        const Shape<3>& shape = last_.sizes(where);
        detail::require_rows(where, "the input", x, shape);
        detail::require_rows(where, "dy", dy, shape);
        detail::require_gradient(where, "dx", dx, shape, x, dy);
        detail::require_gradients(where, *this, gradients);
        for (const Linear<T>* linear : {&linear1_, &linear2_, &gate_}) (void)linear->weight();
    }

    [[nodiscard]] Tensor<T, 3> operator()(TensorView<const T, 3> x) {
        Tensor<T, 3> y(x.shape());
        forward(x, y);
        return y;
    }

    [[nodiscard]] bool is_gated() const { return gate_.out_features() > 0; }
    [[nodiscard]] Linear<T>& linear1() { return linear1_; }
    [[nodiscard]] Linear<T>& linear2() { return linear2_; }

    void reset_parameters(std::uint64_t seed) {
        linear1_.reset_parameters(seed);
        linear2_.reset_parameters(seed + 1);
        if (is_gated()) gate_.reset_parameters(seed + 2);
    }

    /// True when the parameters of both have the same shapes.
    [[nodiscard]] bool has_sizes_of(const FeedForward& other) const {
        return linear1_.has_sizes_of(other.linear1_) && linear2_.has_sizes_of(other.linear2_) &&
               gate_.has_sizes_of(other.gate_);
    }

    template <class Self, class Visitor>
    static void visit_parameters(Self& self, Visitor&& visit, const std::string& prefix) {
        visit_parameters(self, visit, prefix + "linear1.", prefix + "linear2.", prefix + "gate.");
    }
    /// The same with other names for the three layers.
    template <class Self, class Visitor>
    static void visit_parameters(Self& self, Visitor&& visit, const std::string& linear1,
                                 const std::string& linear2, const std::string& gate) {
        Linear<T>::visit_parameters(self.linear1_, visit, linear1);
        Linear<T>::visit_parameters(self.linear2_, visit, linear2);
        if (self.is_gated()) Linear<T>::visit_parameters(self.gate_, visit, gate);
    }

    /// forward and backward as stages of a larger layer.
    class Forward;
    class Backward;

    /// Of one forward.
    [[nodiscard]] double multiply_adds(const Shape<3>& x) const {
        return detail::multiply_adds(x, (is_gated() ? 3 : 2) * linear1_.out_features());
    }

  private:
    [[nodiscard]] Shape<3> hidden_shape(const Shape<3>& x) const {
        return x.with(2, linear1_.out_features());
    }
    /// Rows of the last forward in a buffer.
    [[nodiscard]] detail::RowList<T> hidden(detail::ReusableBuffer<T>& buffer) const {
        return detail::RowList<T>(buffer.view(hidden_shape(last_.sizes("FeedForward"))));
    }

    void check(TensorView<const T, 3> x, TensorView<T, 3> y) const {
        constexpr std::string_view where = "FeedForward";
        detail::require_linear_input(where, x, {linear1_.out_features(), linear1_.in_features()});
        detail::require_output(where, "the output", y, x.shape());
        if (training()) detail::require_input_kept(where, x, y);
        detail::require_contiguous_rows(where, "the output", y);
    }

    Activation activation_;
    Linear<T> linear1_, linear2_, gate_;
    detail::DropoutStream dropout_;
    detail::ReusableBuffer<T> hidden_;

    // For backward: what the activation and the gate were applied to, and gradients on their way.
    detail::LastForward<Shape<3>> last_;
    detail::ReusableBuffer<T> before_activation_, ungated_, d_hidden_, d_gate_;
};

/// One forward, checked and ready to run: y = residual + layer(x). The residual may be absent, or
/// the view of y; y may be the view of x in evaluation.
template <ComputeScalar T>
class FeedForward<T>::Forward {
  public:
    Forward(FeedForward& self, TensorView<const T, 3> x, TensorView<T, 3> y,
            detail::RowList<const T> residual, int workers)
        : self_(self), shape_(x.shape()) {
        self.last_.forget();
        const detail::RowList<const T> in(x);
        const detail::RowList<T> out(y);
        const Step expand{self.linear1_.product_weights(), finish_of(self, shape_)};
        const Step shrink{self.linear2_.product_weights(), {.residual = residual}};
        const Index width = self.linear1_.out_features();
        const Index rows = detail::ProductPair<T>::rows_of_block(in.count(), width, workers);
        if (!self.training() && rows > 0) {
            const Shape<3> between(workers, rows, width);
            pair_.emplace(in, expand, self.hidden_.view(between), shrink, out);
            return;
        }
        const detail::RowList<T> hidden(self.hidden_.view(self.hidden_shape(shape_)));
        expand_.emplace(in, expand.weights, hidden, workers, expand.finish);
        if (self.dropout_.active())
            drop_.emplace(self.dropout_.current(), hidden.to_read(), hidden);
        shrink_.emplace(hidden.to_read(), shrink.weights, out, workers, shrink.finish);
    }

    void add_to(detail::Stages& stages) const {
        if (pair_) return stages.then(pair_->count(), *pair_);
        stages.then(expand_->count(), *expand_);
        if (drop_) stages.then(drop_->count(), *drop_);
        stages.then(shrink_->count(), *shrink_);
    }

    /// After the stages have run.
    void finish() const {
        self_.dropout_.advance();
        if (self_.training()) self_.last_.remember(shape_);
    }

  private:
    using Step = typename detail::ProductPair<T>::Step;

    /// The activation, and in training what it is applied to.
    static detail::ProductFinish<T> finish_of(FeedForward& self, const Shape<3>& x) {
        const auto kept = [&](detail::ReusableBuffer<T>& buffer) {
            return self.training() ? detail::RowList<T>(buffer.view(self.hidden_shape(x)))
                                   : detail::RowList<T>();
        };
        detail::ProductFinish<T> finish{.activation = self.activation_};
        if (self.is_gated()) finish.gate = self.gate_.product_weights();
        if (self.is_gated()) finish.gate_before = kept(self.before_activation_);
        finish.before = kept(self.is_gated() ? self.ungated_ : self.before_activation_);
        return finish;
    }

    FeedForward& self_;
    Shape<3> shape_;
    std::optional<detail::ProductPair<T>> pair_;  ///< in evaluation, of many rows; else:
    std::optional<detail::Product<T>> expand_;
    std::optional<detail::DropoutRows<T>> drop_;
    std::optional<detail::Product<T>> shrink_;
};

/// One backward, checked and ready to run: dx = residual + the gradient of x. x is that of the last
/// forward; dx and the residual may be absent.
template <ComputeScalar T>
class FeedForward<T>::Backward {
  public:
    Backward(FeedForward& self, detail::RowList<const T> x, detail::RowList<const T> dy,
             detail::RowList<T> dx, detail::RowList<const T> residual, FeedForward& gradients,
             int workers)
        : self_(self),
          hidden_(self.hidden(self.hidden_)),
          before_(self.hidden(self.before_activation_)),
          ungated_(self.is_gated() ? self.hidden(self.ungated_) : detail::RowList<T>()),
          d_hidden_(self.hidden(self.d_hidden_)),
          d_gate_(self.is_gated() ? self.hidden(self.d_gate_) : detail::RowList<T>()),
          shrink_(hidden_.to_read(), self.linear2_, dy, d_hidden_, {}, gradients.linear2_, workers),
          expand_(x, self.linear1_, d_hidden_.to_read(), dx, residual, gradients.linear1_,
                  workers) {
        if (self.dropout_.last().probability > 0.0)
            drop_.emplace(self.dropout_.last(), d_hidden_.to_read(), d_hidden_);
        if (self.is_gated())
            gate_.emplace(x, self.gate_, d_gate_.to_read(), dx, dx.to_read(), gradients.gate_,
                          workers);
    }

    void add_to(detail::Stages& stages) const {
        shrink_.add_to(stages);
        if (drop_) stages.then(drop_->count(), *drop_);
        stages.then(detail::pieces(d_hidden_.count(), rows_of_piece),
                    ParallelTask::of<&Backward::go_back_piece>(*this));
        expand_.add_to(stages);
        if (gate_) gate_->add_to(stages);
    }

  private:
    static constexpr Index rows_of_piece = 8;

    void go_back_piece(Index piece, int /*worker*/) const {
        const Index end = std::min((piece + 1) * rows_of_piece, d_hidden_.count());
        for (Index row = piece * rows_of_piece; row < end; ++row) go_back(row);
    }

    /// A row of gradients of the hidden layer: from those of its output to those of its products.
    void go_back(Index row) const {
        const detail::LayerKernels<T>& kernels = detail::layer_kernels<T>();
        const Index columns = d_hidden_.columns();
        T* const d_hidden = d_hidden_.first_of(row);
        const T* const before = before_.first_of(row);
        if (d_gate_.is_absent())
            return kernels.activation_gradient(self_.activation_, before, d_hidden, columns,
                                               d_hidden);
        T* const d_gate = d_gate_.first_of(row);
        std::copy_n(d_hidden, columns, d_gate);
        kernels.multiply(ungated_.first_of(row), columns, d_gate);
        kernels.activation_gradient(self_.activation_, before, d_gate, columns, d_gate);
        detail::for_each_part(columns, [&](Index first, Index count) {
            std::array<T, static_cast<std::size_t>(detail::row_part)> gate;
            std::copy_n(before + first, count, gate.data());
            kernels.activate(self_.activation_, gate.data(), count);
            kernels.multiply(gate.data(), count, d_hidden + first);
        });
    }

    FeedForward& self_;
    detail::RowList<T> hidden_, before_, ungated_, d_hidden_, d_gate_;
    detail::LinearGradientStages<T> shrink_, expand_;
    std::optional<detail::LinearGradientStages<T>> gate_;
    std::optional<detail::DropoutRows<T>> drop_;
};

}  // namespace heed::inline v0
