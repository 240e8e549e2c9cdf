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

    /// x and y are [batch, length, dim] and may be the same memory. Throws ShapeError before y is
    /// written.
    void forward(TensorView<const T, 3> x, TensorView<T, 3> y) {
        detail::require_output("FeedForward", "the output", y, x.shape());
        const auto hidden_shape = x.shape().with(2, linear1_.weight().extent(0));
        const TensorView<T, 3> hidden = hidden_.view(hidden_shape);
        linear1_.forward(x, hidden);
        if (is_gated()) {
            const TensorView<T, 3> gate = gate_values_.view(hidden_shape);
            gate_.forward(x, gate);
            apply_activation(activation_, gate);
            detail::for_each_element([](T& h, const T& g) { h *= g; }, hidden, gate);
        } else {
            apply_activation(activation_, hidden);
        }
        dropout_.apply(hidden);
        linear2_.forward(hidden, y);
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
    Activation activation_;
    Linear<T> linear1_, linear2_, gate_;
    detail::DropoutStream dropout_;
    detail::ReusableBuffer<T> hidden_, gate_values_;
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

    [[nodiscard]] MultiHeadAttention<T>& attention() { return attention_; }

    /// x and y are [batch, length, d_model] and may be the same view, but not overlap otherwise.
    /// The mask and the outputs are those of the attention. Throws ShapeError or ArgumentError
    /// before y is written.
    template <ScorePart Mask = NoMask>
    void forward(TensorView<const T, 3> x, TensorView<T, 3> y, const Mask& mask = {},
                 const MultiHeadAttentionOutputs<T>& outputs = {}) {
        check(x, y, outputs);
        const TensorView<T, 3> branch = branch_.view(x.shape());
        const TensorView<T, 3> normed = normed_.view(x.shape());
        const auto attend = [&](TensorView<const T, 3> in) {
            attention_.forward(in, in, in, branch, mask, outputs);
        };
        if (norm_first_) {
            norm1_.forward(x, normed);
            attend(normed);
            if (!detail::same_view(x, y)) copy(x, y);
            add(branch, y);
            norm2_.forward(y, normed);
            feed_forward_branch(normed, branch);
            add(branch, y);
        } else {
            attend(x);
            add(x, branch);
            norm1_.forward(branch, normed);
            feed_forward_branch(normed, branch);
            add(normed, branch);
            norm2_.forward(branch, y);
        }
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
        detail::require_same_or_apart(where, x, y);
        // Weights written over the input would be added as its residual.
        detail::require_attention_outputs<T>(where, outputs,
                                             {batch, options.num_heads, length, length}, x, y);
    }

    void feed_forward_branch(TensorView<const T, 3> x, TensorView<T, 3> y) {
        feed_forward_.forward(x, y);
        branch_dropout_.apply(y);
    }

    EncoderLayerNames names_;
    bool norm_first_;
    MultiHeadAttention<T> attention_;
    FeedForward<T> feed_forward_;
    LayerNorm<T> norm1_, norm2_;
    detail::DropoutStream branch_dropout_;
    detail::ReusableBuffer<T> branch_, normed_;
};

}  // namespace heed::inline v0
