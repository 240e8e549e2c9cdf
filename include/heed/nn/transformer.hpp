#pragma once
// What surrounds attention in a transformer encoder?
// TransformerEncoderLayer: attention, feed-forward network, residuals and norms, in either order,
// as stages of one parallel loop; the way back is defined in transformer_backward.hpp.

#include <optional>
#include <string>

#include "heed/nn/feed_forward.hpp"
#include "heed/nn/multi_head_attention.hpp"

namespace heed::inline v0 {

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
        const detail::Workers workers(multiply_adds(x.shape()));
        const int concurrency = workers.executor.concurrency();
        const Index at_once =
            attention_.elements_at_once(x.shape(), x.shape(), mask, outputs, concurrency);
        detail::for_each_batch_part(
            x.extent(0), at_once, mask, [&](const detail::BatchPart& part, const Mask& part_mask) {
                const Forward<Mask> forward(*this, part(x), part(y), part_mask, outputs,
                                            concurrency);
                detail::Stages stages;
                forward.add_to(stages);
                forward.begin();
                stages.run(workers.executor);
                forward.finish();
            });
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
        const detail::Workers workers(2 * multiply_adds(x.shape()));
        const Backward<Mask> backward(*this, x, dy, dx, gradients, mask,
                                      workers.executor.concurrency());
        detail::Stages stages;
        backward.add_to(stages);
        stages.run(workers.executor);
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

    /// forward and backward as stages of one loop.
    template <ScorePart Mask>
    class Forward;
    template <ScorePart Mask>
    class Backward;

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
    /// Of one forward.
    [[nodiscard]] double multiply_adds(const Shape<3>& x) const {
        return attention_.multiply_adds(x, x) + feed_forward_.multiply_adds(x);
    }

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

    EncoderLayerNames names_;
    bool norm_first_;
    MultiHeadAttention<T> attention_;
    FeedForward<T> feed_forward_;
    LayerNorm<T> norm1_, norm2_;
    detail::DropoutStream branch_dropout_;
    detail::ReusableBuffer<T> sum_, normed_, last_sum_;

    // For backward: what the forward in training overwrites, and gradients on their way.
    detail::LastForward<Shape<3>> last_;
    detail::ReusableBuffer<T> attention_input_, d_sum_, d_branch_, d_dropped_, scales_;
};

/// One forward, checked and ready to run.
template <ComputeScalar T>
template <ScorePart Mask>
class TransformerEncoderLayer<T>::Forward {
  public:
    using Rows = detail::RowList<T>;

    /// Throws whatever forward refuses.
    Forward(TransformerEncoderLayer& self, TensorView<const T, 3> x, TensorView<T, 3> y,
            const Mask& mask, const MultiHeadAttentionOutputs<T>& outputs, int workers)
        : self_(self),
          way_(self, x, y),
          norm1_(self.norm1_.rule(), way_.before_norm1, Rows(way_.after_norm1)),
          attention_(self.attention_, way_.attended, way_.attended, way_.attended, way_.sum, mask,
                     outputs, detail::RowList<const T>(x), workers),
          norm2_(self.norm2_.rule(), way_.before_norm2, Rows(way_.after_norm2)),
          feed_forward_(self.feed_forward_, way_.expanded, way_.last_sum,
                        drops() ? detail::RowList<const T>() : way_.residual, workers) {
        if (drops())
            drop_.emplace(self.branch_dropout_.current(), Rows(way_.last_sum).to_read(),
                          Rows(way_.last_sum), way_.residual);
    }

    void add_to(detail::Stages& stages) const {
        if (self_.norm_first_) stages.then(norm1_.count(), norm1_);
        attention_.add_to(stages);
        if (self_.norm_first_)
            stages.then(norm2_.count(), norm2_);
        else
            stages.then(norm1_.count(), norm1_);
        feed_forward_.add_to(stages);
        if (drop_) stages.then(drop_->count(), *drop_);
        if (!self_.norm_first_) stages.then(norm2_.count(), norm2_);
    }

    /// Before the stages run, and after.
    void begin() const { attention_.begin(); }
    void finish() const {
        attention_.finish();
        feed_forward_.finish();
        self_.branch_dropout_.advance();
        if (self_.training()) self_.last_.remember(way_.last_sum.shape());
    }

  private:
    [[nodiscard]] bool drops() const { return self_.branch_dropout_.active(); }

    /// Where everything lies. In evaluation, sums may lie where the output will.
    struct Way {
        TensorView<const T, 3> attended;  ///< what attention reads
        TensorView<T, 3> sum;             ///< x + attention
        TensorView<const T, 3> expanded;  ///< what the feed-forward network reads
        TensorView<T, 3> last_sum;        ///< residual + feed-forward network
        TensorView<T, 3> after_norm1, after_norm2;
        detail::RowList<const T> before_norm1, before_norm2, residual;

        Way(TransformerEncoderLayer& self, TensorView<const T, 3> x, TensorView<T, 3> y) {
            const bool first = self.norm_first_, keeps = self.training();
            const auto in = [&](detail::ReusableBuffer<T>& buffer) {
                return buffer.view(x.shape());
            };
            sum = first && !keeps ? y : in(self.sum_);
            if (first) {
                after_norm1 = in(keeps ? self.attention_input_ : self.normed_);
                after_norm2 = in(self.normed_);
                attended = after_norm1;
                expanded = after_norm2;
                last_sum = y;
                before_norm1 = detail::RowList<const T>(x);
                before_norm2 = residual = detail::RowList<const T>(read(sum));
            } else {
                after_norm1 = in(self.normed_);
                after_norm2 = y;
                attended = x;
                expanded = after_norm1;
                last_sum = in(self.last_sum_);
                before_norm1 = detail::RowList<const T>(read(sum));
                before_norm2 = detail::RowList<const T>(read(last_sum));
                residual = detail::RowList<const T>(read(after_norm1));
            }
        }
    };

    TransformerEncoderLayer& self_;
    Way way_;
    detail::NormRows<T> norm1_;
    typename MultiHeadAttention<T>::template Forward<Mask> attention_;
    detail::NormRows<T> norm2_;
    typename FeedForward<T>::Forward feed_forward_;
    std::optional<detail::DropoutRows<T>> drop_;
};

}  // namespace heed::inline v0

#include "heed/nn/transformer_backward.hpp"
