#pragma once
// Attention without weights, and attention of one head with its own weights?
// ScaledDotProductAttention keeps options, mask, workspace and dropout between calls;
// SelfAttention adds W_q, W_k and W_v. MultiHeadAttention is next door.

#include <optional>

#include "heed/attention/scaled_dot_product_attention.hpp"
#include "heed/attention/scaled_dot_product_attention_backward.hpp"
#include "heed/nn/last_forward.hpp"
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
/// (the initial state) there is no dropout; in training each call draws a fresh mask, and keeps
/// what `backward` needs. An object serves one thread at a time. A mask that holds views must not
/// outlive their memory.
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
    [[nodiscard]] bool training() const { return dropout_.training(); }

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
        const detail::Workers workers(detail::multiply_adds(detail::attention_shape(q, k, v)));
        const auto run = prepare(q, k, v, out, mask, outputs, workers.executor.concurrency());
        run.run_on(workers.executor);
        finish(q, k, v, outputs);
    }

    /// forward_with as pieces for so many workers, ready to run; `finish` is to be called after
    /// them. Throws whatever forward refuses.
    template <ScorePart CallMask>
    [[nodiscard]] auto prepare(TensorView<const T, 4> q, TensorView<const T, 4> k,
                               TensorView<const T, 4> v, TensorView<T, 4> out, const CallMask& mask,
                               const AttentionOutputs<T>& outputs, int workers) {
        const AttentionShape shape = detail::attention_shape(q, k, v);
        last_.forget();
        const bool keeps_lse = training() && !detail::is_wanted(outputs.lse);
        auto plan = detail::make_plan(
            q, k, v, out, mask,
            AttentionOptions<T>{.scale = scale_,
                                .dropout = dropout_.current(),
                                .lse = keeps_lse ? lse_.view(lse_shape(shape)) : outputs.lse,
                                .weights = outputs.weights});
        const std::size_t bytes =
            detail::attention_scratch_bytes<T>(shape, plan.options.row_by_row(), workers);
        T* const memory = detail::Scratch(bytes, workspace_.span(bytes)).template as<T>();
        return detail::AttentionRun(std::move(plan), workers, memory);
    }
    void finish(TensorView<const T, 4> q, TensorView<const T, 4> k, TensorView<const T, 4> v,
                const AttentionOutputs<T>& outputs) {
        if (training() && detail::is_wanted(outputs.lse)) lse_.template keep<3>(outputs.lse);
        dropout_.advance();
        if (training()) last_.remember(detail::attention_shape(q, k, v));
    }

    /// The gradients of q, k and v (those that are wanted, overwritten) from d_out, that of the
    /// output. q, k, v and out are what the last forward, in training, was given and has written.
    /// Throws ArgumentError without such a forward; other errors, shapes and cost as in
    /// heed::scaled_dot_product_attention_backward.
    void backward(TensorView<const T, 4> q, TensorView<const T, 4> k, TensorView<const T, 4> v,
                  TensorView<const T, 4> out, TensorView<const T, 4> d_out,
                  const AttentionGradients<T>& gradients) {
        backward_with(q, k, v, out, d_out, gradients, mask_);
    }

    /// backward of forward_with, with the same mask.
    template <ScorePart CallMask>
    void backward_with(TensorView<const T, 4> q, TensorView<const T, 4> k, TensorView<const T, 4> v,
                       TensorView<const T, 4> out, TensorView<const T, 4> d_out,
                       const AttentionGradients<T>& gradients, const CallMask& mask) {
        const detail::Workers workers(detail::multiply_adds(detail::attention_shape(q, k, v)));
        const auto run =
            prepare_backward(q, k, v, out, d_out, gradients, mask, workers.executor.concurrency());
        detail::Stages stages;
        run.add_to(stages);
        stages.run(workers.executor);
    }

    /// backward_with as stages for so many workers, ready to run. Throws whatever backward refuses.
    template <ScorePart CallMask>
    [[nodiscard]] auto prepare_backward(TensorView<const T, 4> q, TensorView<const T, 4> k,
                                        TensorView<const T, 4> v, TensorView<const T, 4> out,
                                        TensorView<const T, 4> d_out,
                                        const AttentionGradients<T>& gradients,
                                        const CallMask& mask, int workers) {
        constexpr std::string_view where = "ScaledDotProductAttention";
        const AttentionShape& shape = last_.sizes(where);
        if (detail::attention_shape(q, k, v) != shape)
            detail::fail<ShapeError>(where, "q, k and v must have the sizes of the forward before ",
                                     "backward; found q ", q.shape(), ", k ", k.shape(), ", v ",
                                     v.shape());
        auto plan = detail::make_backward_plan<T, T, T>(
            q, k, v, out, lse_.view(lse_shape(shape)), d_out, gradients, mask,
            AttentionBackwardOptions{.scale = scale_, .dropout = dropout_.last()});
        const std::size_t bytes = detail::backward_scratch_bytes<T>(plan.rules, shape, workers);
        T* const memory = detail::Scratch(bytes, workspace_.span(bytes)).template as<T>();
        return detail::AttentionBackwardRun(std::move(plan), workers, memory);
    }

  private:
    static Shape<3> lse_shape(const AttentionShape& s) { return {s.batch, s.heads, s.q_len}; }

    std::optional<double> scale_;
    detail::DropoutStream dropout_;
    Mask mask_;
    detail::ReusableBuffer<std::byte> workspace_;
    detail::ReusableBuffer<T> lse_;  ///< of the last forward in training
    detail::LastForward<AttentionShape> last_;
};

namespace detail {

/// Queries, keys and values as heads, ready for the attention.
template <class T>
struct Heads {
    TensorView<T, 4> q, k, v;
};

/// Memory for heads.
template <class T>
struct HeadBuffers {
    ReusableBuffer<T> q, k, v;
};

/// linear_backward that adds to dx, by way of the buffer.
template <class T>
void add_linear_backward(TensorView<const T, 3> x, TensorView<const T, 2> weight,
                         TensorView<const T, 3> dy, LinearGradients<T, 3> gradients,
                         ReusableBuffer<T>& buffer) {
    const TensorView<T, 3> dx = gradients.dx;
    if (is_wanted(dx)) gradients.dx = buffer.view(dx.shape());
    linear_backward(x, weight, dy, gradients);
    if (is_wanted(dx)) add<T, 3>(gradients.dx, dx);
}

}  // namespace detail

/// Where the gradients of the inputs of a SelfAttention go; an empty view means "not wanted".
template <ComputeScalar T>
struct SelfAttentionGradients {
    TensorView<T, 3> dx = {};        ///< [batch, q_len, embed_dim], overwritten
    TensorView<T, 3> dcontext = {};  ///< [batch, kv_len, context_dim], overwritten
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
    [[nodiscard]] bool training() const { return attend_.training(); }

    [[nodiscard]] Linear<T>& query() { return query_; }
    [[nodiscard]] Linear<T>& key() { return key_; }
    [[nodiscard]] Linear<T>& value() { return value_; }

    /// x is [batch, q_len, embed_dim], context [batch, kv_len, context_dim], out
    /// [batch, q_len, v_dim]; the outputs have one head. In training out must not overlap x or the
    /// context. Throws ShapeError or ArgumentError.
    template <ScorePart Mask = NoMask>
    void forward(TensorView<const T, 3> x, TensorView<const T, 3> context, TensorView<T, 3> out,
                 const Mask& mask = {}, const AttentionOutputs<T>& outputs = {}) {
        if (training()) {
            detail::require_input_kept("SelfAttention", x, out);
            detail::require_input_kept("SelfAttention", context, out);
        }
        last_.forget();
        const Sizes sizes{x.shape(), context.shape()};
        const detail::Heads<T> heads = heads_in(projected_, sizes);
        query_.forward(x, heads.q.merge_heads());
        key_.forward(context, heads.k.merge_heads());
        value_.forward(context, heads.v.merge_heads());
        attend_.forward_with(heads.q, heads.k, heads.v, out.split_heads(1), mask, outputs);
        if (!training()) return;
        out_.template keep<3>(out);
        last_.remember(sizes);
    }

    /// From d_out, the gradient of the output: adds to the parameters of `gradients` (see
    /// make_gradients) and overwrites the gradients of inputs that are wanted. x, context and mask
    /// are those of the last forward, which must have been in training. Last dimensions must be
    /// contiguous. Throws ArgumentError without such a forward, else ShapeError or ArgumentError,
    /// before anything is written.
    template <ScorePart Mask = NoMask>
    void backward(TensorView<const T, 3> x, TensorView<const T, 3> context,
                  TensorView<const T, 3> d_out, const SelfAttentionGradients<T>& inputs,
                  SelfAttention& gradients, const Mask& mask = {}) {
        const Sizes sizes = check_backward(x, context, d_out, inputs, gradients);
        const detail::Heads<T> heads = heads_in(projected_, sizes), d = heads_in(d_heads_, sizes);
        attend_.backward_with(heads.q, heads.k, heads.v, out_.view(d_out.shape()).split_heads(1),
                              d_out.split_heads(1), {d.q, d.k, d.v}, mask);
        query_.backward(x, d.q.merge_heads(), inputs.dx, gradients.query_);
        key_.backward(context, d.k.merge_heads(), inputs.dcontext, gradients.key_);
        detail::add_linear_backward<T>(
            context, value_.weight(), d.v.merge_heads(),
            {inputs.dcontext, gradients.value_.weight(), gradients.value_.bias()}, d_context_part_);
    }

    /// backward of self-attention: dx is the gradient of x as query, key and value.
    template <ScorePart Mask = NoMask>
    void backward(TensorView<const T, 3> x, TensorView<const T, 3> d_out, TensorView<T, 3> dx,
                  SelfAttention& gradients, const Mask& mask = {}) {
        const bool wants_dx = detail::is_wanted(dx);
        const TensorView<T, 3> dcontext =
            wants_dx ? d_context_.view(x.shape()) : TensorView<T, 3>();
        backward(x, x, d_out, {dx, dcontext}, gradients, mask);
        if (wants_dx) add<T, 3>(dcontext, dx);
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

    /// True when the parameters of both have the same shapes.
    [[nodiscard]] bool has_sizes_of(const SelfAttention& other) const {
        return query_.has_sizes_of(other.query_) && key_.has_sizes_of(other.key_) &&
               value_.has_sizes_of(other.value_);
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

    /// Shapes of the inputs of one call.
    struct Sizes {
        Shape<3> x, context;
    };

    [[nodiscard]] detail::Heads<T> heads_in(detail::HeadBuffers<T>& buffers,
                                            const Sizes& sizes) const {
        const auto head = [](detail::ReusableBuffer<T>& buffer, const Shape<3>& from,
                             const Linear<T>& projection) {
            return buffer.view(from.with(2, projection.weight().extent(0))).split_heads(1);
        };
        return {head(buffers.q, sizes.x, query_), head(buffers.k, sizes.context, key_),
                head(buffers.v, sizes.context, value_)};
    }

    /// The sizes of the forward before. Throws whatever backward refuses, the mask's sizes apart.
    Sizes check_backward(TensorView<const T, 3> x, TensorView<const T, 3> context,
                         TensorView<const T, 3> d_out, const SelfAttentionGradients<T>& inputs,
                         const SelfAttention& gradients) const {
        constexpr std::string_view where = "SelfAttention";
        const Sizes& sizes = last_.sizes(where);
        const auto& [dx, dcontext] = inputs;
        detail::require_rows(where, "the input", x, sizes.x);
        detail::require_rows(where, "the context", context, sizes.context);
        detail::require_shape(where, "d_out", d_out.shape(),
                              sizes.x.with(2, value_.weight().extent(0)));
        detail::require_memory(where, "d_out", d_out);
        detail::require_gradient(where, "dx", dx, sizes.x, x, context, d_out);
        detail::require_gradient(where, "dcontext", dcontext, sizes.context, x, context, d_out, dx);
        detail::require_gradients(where, *this, gradients);
        return sizes;
    }

    Linear<T> query_, key_, value_;
    ScaledDotProductAttention<T> attend_;
    detail::HeadBuffers<T> projected_, d_heads_;
    detail::ReusableBuffer<T> out_, d_context_, d_context_part_;
    detail::LastForward<Sizes> last_;
};

}  // namespace heed::inline v0
