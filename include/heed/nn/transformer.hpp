#pragma once
// What surrounds attention in a transformer encoder?
// FeedForward and TransformerEncoderLayer: sublayers, residuals and norms, in either order.

#include <string>

#include "heed/nn/multi_head_attention.hpp"
#include "heed/ops/activation.hpp"

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
    /// they must not overlap. Throws ShapeError or ArgumentError before y is written.
    void forward(TensorView<const T, 3> x, TensorView<T, 3> y) {
        detail::require_output("FeedForward", "the output", y, x.shape());
        if (training()) detail::require_input_kept("FeedForward", x, y);
        last_.forget();
        const TensorView<T, 3> hidden = hidden_.view(hidden_shape(x));
        linear1_.forward(x, hidden);
        if (is_gated()) {
            const TensorView<T, 3> gate = gate_values_.view(hidden_shape(x));
            gate_.forward(x, gate);
            activate(gate);
            if (training()) ungated_.template keep<3>(hidden);
            multiply(gate, hidden);
        } else {
            activate(hidden);
        }
        dropout_.apply(hidden);
        linear2_.forward(hidden, y);
        if (training()) last_.remember(x.shape());
    }

    /// From dy, the gradient of the output: adds to the parameters of `gradients` (see
    /// make_gradients) and overwrites dx (an empty view: not wanted). x is that of the last
    /// forward, which must have been in training; its dropout is repeated. Last dimensions must be
    /// contiguous, and dx must not overlap x or dy. Throws ArgumentError without such a forward,
    /// else ShapeError or ArgumentError, before anything is written.
    void backward(TensorView<const T, 3> x, TensorView<const T, 3> dy, TensorView<T, 3> dx,
                  FeedForward& gradients) {
        check_backward(x, dy, dx, gradients);
        const TensorView<T, 3> hidden = hidden_.view(hidden_shape(x));
        const TensorView<T, 3> before = before_activation_.view(hidden_shape(x));
        const TensorView<T, 3> d_hidden = d_hidden_.view(hidden_shape(x));
        linear2_.backward(hidden, dy, d_hidden, gradients.linear2_);
        (void)dropout_.backward(read(d_hidden), d_hidden_);  // in place
        if (is_gated()) {
            const TensorView<T, 3> d_gate = d_gate_.view(hidden_shape(x));
            copy(d_hidden, d_gate);
            multiply(ungated_.view(hidden_shape(x)), d_gate);
            multiply(gate_values_.view(hidden_shape(x)), d_hidden);
            activation_backward(activation_, before, d_gate, d_gate);
            linear1_.backward(x, d_hidden, dx, gradients.linear1_);
            detail::add_linear_backward<T>(x, gate_.weight(), d_gate,
                                           {dx, gradients.gate_.weight(), gradients.gate_.bias()},
                                           d_part_);
        } else {
            activation_backward(activation_, before, d_hidden, d_hidden);
            linear1_.backward(x, d_hidden, dx, gradients.linear1_);
        }
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
    }

    [[nodiscard]] Tensor<T, 3> operator()(TensorView<const T, 3> x) {
        Tensor<T, 3> y(x.shape());
        forward(x, y);
        return y;
    }

    [[nodiscard]] bool is_gated() const { return gate_.weight().element_count() > 0; }
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

  private:
    [[nodiscard]] Shape<3> hidden_shape(TensorView<const T, 3> x) const {
        return x.shape().with(2, linear1_.weight().extent(0));
    }

    void activate(TensorView<T, 3> values) {
        if (training()) before_activation_.template keep<3>(values);
        apply_activation(activation_, values);
    }

    /// target *= factors, element by element.
    static void multiply(TensorView<const T, 3> factors, TensorView<T, 3> target) {
        detail::for_each_element([](const T& factor, T& value) { value *= factor; }, factors,
                                 target);
    }

    Activation activation_;
    Linear<T> linear1_, linear2_, gate_;
    detail::DropoutStream dropout_;
    detail::ReusableBuffer<T> hidden_, gate_values_;

    // For backward: what the forward in training overwrites, and gradients on their way.
    detail::LastForward<Shape<3>> last_;
    detail::ReusableBuffer<T> before_activation_, ungated_, d_hidden_, d_gate_, d_part_;
};

/// What the parts of an encoder layer are called in the file they come from; the names end in a
/// dot where they stand for a part with several parameters.
struct EncoderLayerNames {
    std::string attention, norm1, linear1, linear2, norm2, gate;
    AttentionNames in_attention;

    /// torch.nn.TransformerEncoderLayer.
    static EncoderLayerNames pytorch() {
        return {"self_attn.",
                "norm1.",
                "linear1.",
                "linear2.",
                "norm2.",
                "gate.",
                AttentionNames::pytorch()};
    }

    /// A layer of Hugging Face's BERT: attention.self.query, attention.output.dense, ...
    static EncoderLayerNames bert() {
        return {"attention.",
                "attention.output.LayerNorm.",
                "intermediate.dense.",
                "output.dense.",
                "output.LayerNorm.",
                "gate.",
                AttentionNames::separate("self.query", "self.key", "self.value", "output.dense")};
    }

    /// The shared layer of Hugging Face's ALBERT.
    static EncoderLayerNames albert() {
        return {"attention.",          "attention.LayerNorm.",   "ffn.",
                "ffn_output.",         "full_layer_layer_norm.", "gate.",
                AttentionNames::bert()};
    }

    /// A block of timm's vision transformers, which is pre-norm: attn.qkv, mlp.fc1, ...
    static EncoderLayerNames timm() {
        return {
            "attn.", "norm1.", "mlp.fc1.", "mlp.fc2.", "norm2.", "gate.", AttentionNames::timm()};
    }
};

/// One layer of a transformer encoder, as torch.nn.TransformerEncoderLayer:
///
///     post-norm:  x = norm1(x + attention(x));  x = norm2(x + feed_forward(x))
///     pre-norm:   x = x + attention(norm1(x));  x = x + feed_forward(norm2(x))
///
/// In evaluation (the initial state) there is no dropout. An object serves one thread at a time.
template <ComputeScalar T>
class TransformerEncoderLayer : public Module<TransformerEncoderLayer<T>> {
  public:
    struct Options {
        Index d_model = 0;
        Index nhead = 1;
        Index dim_feedforward = 2048;
        double dropout = 0.1;  ///< of weights, activations and both residual branches, in training
        Activation activation = Activation::relu;
        double layer_norm_eps = 1e-5;
        bool norm_first = false;  ///< pre-norm
        bool bias = true;
        std::uint64_t seed = 0;  ///< of dropout
        EncoderLayerNames names = EncoderLayerNames::pytorch();
    };

    /// Throws ArgumentError for sizes below 1, a head count that does not divide d_model, or a
    /// dropout outside [0, 1].
    explicit TransformerEncoderLayer(const Options& o)
        : names_(o.names),
          norm_first_(o.norm_first),
          attention_({.embed_dim = o.d_model,
                      .num_heads = o.nhead,
                      .bias = o.bias,
                      .dropout = o.dropout,
                      .out_dropout = o.dropout,
                      .seed = o.seed,
                      .names = o.names.in_attention}),
          feed_forward_({.dim = o.d_model,
                         .hidden_dim = o.dim_feedforward,
                         .activation = o.activation,
                         .bias = o.bias,
                         .dropout = o.dropout,
                         .seed = o.seed + 2}),
          norm1_({o.d_model, o.layer_norm_eps, o.bias}),
          norm2_({o.d_model, o.layer_norm_eps, o.bias}),
          branch_dropout_(o.dropout, o.seed + 3) {}

    void train(bool on = true) {
        attention_.train(on);
        feed_forward_.train(on);
        branch_dropout_.train(on);
    }
    void eval() { train(false); }
    [[nodiscard]] bool training() const { return branch_dropout_.training(); }

    [[nodiscard]] MultiHeadAttention<T>& attention() { return attention_; }

    /// x and y are [batch, length, d_model]. In evaluation they may be the same view, but not
    /// overlap otherwise; in training they must not overlap. The mask and the outputs are those of
    /// the attention. Throws ShapeError or ArgumentError before y is written.
    template <ScorePart Mask = NoMask>
    void forward(TensorView<const T, 3> x, TensorView<T, 3> y, const Mask& mask = {},
                 const MultiHeadAttentionOutputs<T>& outputs = {}) {
        check(x, y, outputs);
        last_.forget();
        const TensorView<T, 3> branch = branch_.view(x.shape());
        const TensorView<T, 3> normed = normed_.view(x.shape());
        const auto attend = [&](TensorView<const T, 3> in) {
            attention_.forward(in, in, in, branch, mask, outputs);
        };
        if (norm_first_) {
            norm1_.forward(x, normed);
            if (training()) attention_input_.template keep<3>(normed);
            attend(normed);
            if (!detail::same_view(x, y)) copy(x, y);
            add(branch, y);
            if (training()) sum_.template keep<3>(y);
            norm2_.forward(y, normed);
            feed_forward_branch(normed, branch);
            add(branch, y);
        } else {
            attend(x);
            add(x, branch);
            if (training()) sum_.template keep<3>(branch);
            norm1_.forward(branch, normed);
            feed_forward_branch(normed, branch);
            add(normed, branch);
            norm2_.forward(branch, y);
        }
        if (training()) last_.remember(x.shape());
    }

    /// From dy, the gradient of the output: adds to the parameters of `gradients` (see
    /// make_gradients) and overwrites dx (an empty view: not wanted). x and mask are those of the
    /// last forward, which must have been in training; its dropout is repeated. Last dimensions
    /// must be contiguous, and dx must not overlap x or dy. Throws ArgumentError without such a
    /// forward, else ShapeError or ArgumentError, before anything is written.
    template <ScorePart Mask = NoMask>
    void backward(TensorView<const T, 3> x, TensorView<const T, 3> dy, TensorView<T, 3> dx,
                  TransformerEncoderLayer& gradients, const Mask& mask = {}) {
        check_backward(x, dy, dx, gradients, mask);
        const TensorView<T, 3> d_sum = d_sum_.view(x.shape());
        const TensorView<T, 3> d_branch = d_branch_.view(x.shape());
        const TensorView<T, 3> sum = sum_.view(x.shape());
        if (norm_first_) {
            backward_feed_forward(dy, d_branch, gradients);
            norm2_.backward(sum, d_branch, d_sum, gradients.norm2_);
            add<T, 3>(dy, d_sum);
            attention_.backward(attention_input_.view(x.shape()), d_sum, d_branch,
                                gradients.attention_, mask);
            norm1_.backward(x, d_branch, dx, gradients.norm1_);
        } else {
            norm2_.backward(branch_.view(x.shape()), dy, d_sum, gradients.norm2_);
            backward_feed_forward(d_sum, d_branch, gradients);
            add<T, 3>(d_sum, d_branch);
            norm1_.backward(sum, d_branch, d_sum, gradients.norm1_);
            attention_.backward(x, d_sum, dx, gradients.attention_, mask);
        }
        if (detail::is_wanted(dx)) add<T, 3>(d_sum, dx);
    }

    template <ScorePart Mask = NoMask>
    [[nodiscard]] Tensor<T, 3> operator()(TensorView<const T, 3> x, const Mask& mask = {},
                                          const MultiHeadAttentionOutputs<T>& outputs = {}) {
        Tensor<T, 3> y(x.shape());
        forward(x, y, mask, outputs);
        return y;
    }

    void reset_parameters(std::uint64_t seed) {
        attention_.reset_parameters(seed);
        feed_forward_.reset_parameters(seed + 6);
    }

    /// True when the parameters of both have the same shapes.
    [[nodiscard]] bool has_sizes_of(const TransformerEncoderLayer& other) const {
        return attention_.has_sizes_of(other.attention_) && norm1_.has_sizes_of(other.norm1_) &&
               feed_forward_.has_sizes_of(other.feed_forward_) && norm2_.has_sizes_of(other.norm2_);
    }

    template <class Self, class Visitor>
    static void visit_parameters(Self& self, Visitor&& visit, const std::string& prefix) {
        const EncoderLayerNames& n = self.names_;
        MultiHeadAttention<T>::visit_parameters(self.attention_, visit, prefix + n.attention);
        LayerNorm<T>::visit_parameters(self.norm1_, visit, prefix + n.norm1);
        FeedForward<T>::visit_parameters(self.feed_forward_, visit, prefix + n.linear1,
                                         prefix + n.linear2, prefix + n.gate);
        LayerNorm<T>::visit_parameters(self.norm2_, visit, prefix + n.norm2);
    }

  private:
    void check(TensorView<const T, 3> x, TensorView<T, 3> y,
               const MultiHeadAttentionOutputs<T>& outputs) const {
        constexpr std::string_view where = "TransformerEncoderLayer";
        const auto& options = attention_.options();
        const Index batch = x.extent(0), length = x.extent(1);
        detail::require_shape(where, "the input", x.shape(), {batch, length, options.embed_dim});
        detail::require_memory(where, "the input", x);
        detail::require_output(where, "the output", y, x.shape());
        if (training())
            detail::require_input_kept(where, x, y);
        else
            detail::require_same_or_apart(where, x, y);
        // Weights written over the input would be added as its residual.
        detail::require_attention_outputs<T>(where, outputs,
                                             {batch, options.num_heads, length, length}, x, y);
    }

    void feed_forward_branch(TensorView<const T, 3> x, TensorView<T, 3> y) {
        feed_forward_.forward(x, y);
        branch_dropout_.apply(y);
    }

    /// Throws whatever backward refuses, before anything is written.
    template <ScorePart Mask>
    void check_backward(TensorView<const T, 3> x, TensorView<const T, 3> dy, TensorView<T, 3> dx,
                        const TransformerEncoderLayer& gradients, const Mask& mask) {
        constexpr std::string_view where = "TransformerEncoderLayer";
        const Shape<3>& shape = last_.sizes(where);
        detail::require_rows(where, "the input", x, shape);
        detail::require_rows(where, "dy", dy, shape);
        detail::require_gradient(where, "dx", dx, shape, x, dy);
        detail::require_gradients(where, *this, gradients);
        // The parts must not refuse later what their neighbours have begun.
        const TensorView<const T, 3> in = norm_first_ ? attention_input_.view(shape) : x;
        attention_.check_backward(in, in, in, d_sum_.view(shape), {}, gradients.attention_, mask);
        feed_forward_.check_backward(normed_.view(shape), dy, {}, gradients.feed_forward_);
    }

    /// By way of the dropout behind the feed-forward part to its input.
    void backward_feed_forward(TensorView<const T, 3> dy, TensorView<T, 3> dx,
                               TransformerEncoderLayer& gradients) {
        feed_forward_.backward(normed_.view(dy.shape()), branch_dropout_.backward(dy, d_dropped_),
                               dx, gradients.feed_forward_);
    }

    EncoderLayerNames names_;
    bool norm_first_;
    MultiHeadAttention<T> attention_;
    FeedForward<T> feed_forward_;
    LayerNorm<T> norm1_, norm2_;
    detail::DropoutStream branch_dropout_;
    detail::ReusableBuffer<T> branch_, normed_;

    // For backward: what the forward in training overwrites, and gradients on their way.
    detail::LastForward<Shape<3>> last_;
    detail::ReusableBuffer<T> attention_input_, sum_, d_sum_, d_branch_, d_dropped_;
};

}  // namespace heed::inline v0
