#pragma once
// Attention without weights, and attention of one head with its own weights?
// ScaledDotProductAttention keeps options, mask, workspace and dropout between calls;
// SelfAttention adds W_q, W_k and W_v. MultiHeadAttention is next door.

#include <optional>

#include "heed/attention/scaled_dot_product_attention.hpp"
#include "heed/nn/layers.hpp"
#include "heed/nn/state.hpp"

namespace heed::inline v0 {

/// Optional outputs of one call; an empty view means "not wanted".
template <ComputeScalar T>
struct AttentionOutputs {
    TensorView<T, 4> weights = {};  ///< [batch, heads, q_len, kv_len], before dropout
    TensorView<T, 3> lse = {};      ///< [batch, heads, q_len]
};

/// scaled_dot_product_attention with everything fixed but the tensors. Masked self-attention is
/// this with `Causal`:
///
///     ScaledDotProductAttention<float, Causal> attend({.dropout = 0.1}, Causal::top_left());
///
/// Keeps its workspace, so that calls of one size allocate nothing after the first. In evaluation
/// (the initial state) there is no dropout; in training each call draws a fresh mask. An object
/// serves one thread at a time. A mask that holds views must not outlive their memory.
template <ComputeScalar T, ScorePart Mask = NoMask>
class ScaledDotProductAttention {
  public:
    struct Options {
        std::optional<double> scale = std::nullopt;  ///< 1 / sqrt(head_dim) when absent
        double dropout = 0.0;                        ///< of the weights, in training
        std::uint64_t seed = 0;                      ///< of dropout
    };

    ScaledDotProductAttention() : ScaledDotProductAttention(Options{}) {}

    /// Throws ArgumentError for a dropout outside [0, 1] or a scale that is not finite in T.
    explicit ScaledDotProductAttention(const Options& options, const Mask& mask = {})
        : scale_(options.scale), dropout_(options.dropout, options.seed), mask_(mask) {
        (void)detail::resolve_scale<T>(scale_, 1);
    }

    void train(bool on = true) { dropout_.train(on); }
    void eval() { train(false); }

    [[nodiscard]] const Mask& mask() const { return mask_; }
    void set_mask(const Mask& mask) { mask_ = mask; }

    /// Shapes and errors as in heed::scaled_dot_product_attention.
    void forward(TensorView<const T, 4> q, TensorView<const T, 4> k, TensorView<const T, 4> v,
                 TensorView<T, 4> out, const AttentionOutputs<T>& outputs = {}) {
        forward_with(q, k, v, out, mask_, outputs);
    }

    [[nodiscard]] Tensor<T, 4> operator()(TensorView<const T, 4> q, TensorView<const T, 4> k,
                                          TensorView<const T, 4> v) {
        const AttentionShape s = detail::attention_shape(q, k, v);
        Tensor<T, 4> out({s.batch, s.heads, s.q_len, s.value_dim});
        forward(q, k, v, out);
        return out;
    }

    /// forward with another mask for this call.
    template <ScorePart CallMask>
    void forward_with(TensorView<const T, 4> q, TensorView<const T, 4> k, TensorView<const T, 4> v,
                      TensorView<T, 4> out, const CallMask& mask,
                      const AttentionOutputs<T>& outputs = {}) {
        const std::size_t bytes = attention_workspace_bytes<T>(detail::attention_shape(q, k, v),
                                                               detail::is_wanted(outputs.weights));
        scaled_dot_product_attention(q, k, v, out, mask,
                                     {.scale = scale_,
                                      .dropout = dropout_.current(),
                                      .lse = outputs.lse,
                                      .weights = outputs.weights,
                                      .workspace = workspace_.span(bytes)});
        dropout_.advance();
    }

  private:
    std::optional<double> scale_;
    detail::DropoutStream dropout_;
    Mask mask_;
    detail::ReusableBuffer<std::byte> workspace_;
};

/// Attention of one head with its own projections: q = x W_q^T, k = c W_k^T, v = c W_v^T, where
/// the context c is x itself (self-attention) or another sequence (cross-attention).
/// Parameters: "W_query.weight" [k_dim, embed_dim], "W_key.weight" [k_dim, context_dim],
/// "W_value.weight" [v_dim, context_dim], and biases when asked for.
template <ComputeScalar T>
class SelfAttention : public Module<SelfAttention<T>> {
  public:
    struct Options {
        Index embed_dim = 0;
        Index k_dim = 0;        ///< width of queries and keys; 0: embed_dim
        Index v_dim = 0;        ///< width of values and of the output; 0: k_dim
        Index context_dim = 0;  ///< width of the context; 0: embed_dim
        bool bias = false;
        std::optional<double> scale = std::nullopt;  ///< 1 / sqrt(k_dim) when absent
        double dropout = 0.0;
        std::uint64_t seed = 0;
    };

    /// Throws ArgumentError for sizes below 1, a dropout outside [0, 1] or a scale that is not
    /// finite.
    explicit SelfAttention(const Options& o)
        : query_({o.embed_dim, k_dim(o), o.bias}),
          key_({context_dim(o), k_dim(o), o.bias}),
          value_({context_dim(o), v_dim(o), o.bias}),
          attend_({o.scale, o.dropout, o.seed}) {}

    void train(bool on = true) { attend_.train(on); }
    void eval() { train(false); }

    [[nodiscard]] Linear<T>& query() { return query_; }
    [[nodiscard]] Linear<T>& key() { return key_; }
    [[nodiscard]] Linear<T>& value() { return value_; }

    /// x is [batch, q_len, embed_dim], context [batch, kv_len, context_dim], out
    /// [batch, q_len, v_dim]; the outputs have one head. Throws ShapeError or ArgumentError.
    template <ScorePart Mask = NoMask>
    void forward(TensorView<const T, 3> x, TensorView<const T, 3> context, TensorView<T, 3> out,
                 const Mask& mask = {}, const AttentionOutputs<T>& outputs = {}) {
        const auto project = [](const Linear<T>& projection, TensorView<const T, 3> from,
                                detail::ReusableBuffer<T>& buffer) {
            const auto to = buffer.view(from.shape().with(2, projection.weight().extent(0)));
            projection.forward(from, to);
            return to.split_heads(1);
        };
        const auto q = project(query_, x, q_);
        const auto k = project(key_, context, k_);
        const auto v = project(value_, context, v_);
        attend_.forward_with(q, k, v, out.split_heads(1), mask, outputs);
    }

    /// Self-attention.
    template <ScorePart Mask = NoMask>
    [[nodiscard]] Tensor<T, 3> operator()(TensorView<const T, 3> x, const Mask& mask = {}) {
        return (*this)(x, x, mask);
    }

    /// Cross-attention.
    template <ScorePart Mask = NoMask>
    [[nodiscard]] Tensor<T, 3> operator()(TensorView<const T, 3> x, TensorView<const T, 3> context,
                                          const Mask& mask = {}) {
        Tensor<T, 3> out(x.shape().with(2, value_.weight().extent(0)));
        forward(x, context, out, mask);
        return out;
    }

    /// Glorot-uniform weights, zero biases.
    void reset_parameters(std::uint64_t seed) {
        query_.reset_parameters(seed);
        key_.reset_parameters(seed + 1);
        value_.reset_parameters(seed + 2);
    }

    template <class Self, class Visitor>
    static void visit_parameters(Self& self, Visitor&& visit, const std::string& prefix) {
        Linear<T>::visit_parameters(self.query_, visit, prefix + "W_query.");
        Linear<T>::visit_parameters(self.key_, visit, prefix + "W_key.");
        Linear<T>::visit_parameters(self.value_, visit, prefix + "W_value.");
    }

  private:
    static Index k_dim(const Options& o) { return o.k_dim != 0 ? o.k_dim : o.embed_dim; }
    static Index v_dim(const Options& o) { return o.v_dim != 0 ? o.v_dim : k_dim(o); }
    static Index context_dim(const Options& o) {
        return o.context_dim != 0 ? o.context_dim : o.embed_dim;
    }

    Linear<T> query_, key_, value_;
    ScaledDotProductAttention<T> attend_;
    detail::ReusableBuffer<T> q_, k_, v_;
};

}  // namespace heed::inline v0
