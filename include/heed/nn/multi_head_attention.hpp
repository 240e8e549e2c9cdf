#pragma once
// Multi-head attention with its weights, as the frameworks define it?
// Weights, names, sizes and checks; the way of the data is in multi_head_attention_forward.hpp and
// multi_head_attention_backward.hpp.

#include <string>
#include <tuple>
#include <utility>

#include "heed/nn/attention.hpp"
#include "heed/nn/batch_parts.hpp"
#include "heed/nn/extra_keys.hpp"
#include "heed/nn/layers.hpp"
#include "heed/nn/multi_head_attention_options.hpp"
#include "heed/tensor/checks.hpp"

namespace heed::inline v0 {

/// Optional outputs of one call; an empty view means "not wanted". kv_len counts the extra keys of
/// add_bias_kv and add_zero_attn, which come last. Weights are before dropout.
template <ComputeScalar T>
struct MultiHeadAttentionOutputs {
    TensorView<T, 4> weights = {};           ///< [batch, heads, q_len, kv_len]
    TensorView<T, 3> averaged_weights = {};  ///< [batch, q_len, kv_len], the mean over heads
    TensorView<T, 3> lse = {};               ///< [batch, heads, q_len]
};

/// Where the gradients of the inputs of a multi-head attention go, overwritten; an empty view means
/// "not wanted".
template <ComputeScalar T>
struct MultiHeadAttentionGradients {
    TensorView<T, 3> dquery = {};  ///< [batch, q_len, embed_dim]
    TensorView<T, 3> dkey = {};    ///< [batch, kv_len, kdim]
    TensorView<T, 3> dvalue = {};  ///< [batch, kv_len, vdim]
};

namespace detail {

/// Checks the outputs that are wanted: shapes, and overlap with `others` and with each other.
template <class T, class... Others>
void require_attention_outputs(std::string_view where, const MultiHeadAttentionOutputs<T>& outputs,
                               const Shape<4>& scores, const Others&... others) {
    const auto& [weights, averaged, lse] = outputs;
    if (is_wanted(weights)) require_output(where, "the weights", weights, scores, others...);
    if (is_wanted(averaged))
        require_output(where, "the averaged weights", averaged, {scores[0], scores[2], scores[3]},
                       others..., weights);
    if (is_wanted(lse))
        require_output(where, "the log-sum-exp", lse, {scores[0], scores[1], scores[2]}, others...,
                       weights, averaged);
}

/// One input takes all three places.
template <class T>
[[nodiscard]] bool is_self_attention(TensorView<T, 3> query, TensorView<T, 3> key,
                                     TensorView<T, 3> value) {
    return same_view(query, key) && same_view(key, value);
}
/// What the query is called in messages.
template <class T>
[[nodiscard]] std::string_view query_name(TensorView<T, 3> query, TensorView<T, 3> key,
                                          TensorView<T, 3> value) {
    return is_self_attention(query, key, value) ? "the input" : "the query";
}

}  // namespace detail

/// out = concat_h(attention(x W_q^h, c W_k^h, c' W_v^h)) W_o^T, with biases.
///
/// The projections of all heads are one matrix, head after head; the matrix of one head is a slice
/// of it. Self- and cross-attention, masked or not: the mask is an argument of each
/// call. Parameters carry the names of the framework chosen by `names`.
///
/// Buffers grow to the largest call and are then reused. In evaluation (the initial state) there
/// is no dropout; in training each call draws fresh masks and keeps what `backward` needs. An
/// object serves one thread at a time. Source: Vaswani et al., arXiv 1706.03762; grouped heads:
/// Ainslie et al., arXiv 2305.13245.
template <ComputeScalar T>
class MultiHeadAttention : public Module<MultiHeadAttention<T>> {
  public:
    using Options = MultiHeadAttentionOptions;
    using Outputs = MultiHeadAttentionOutputs<T>;
    using Gradients = MultiHeadAttentionGradients<T>;

    /// Throws ArgumentError for sizes below 1, head counts that do not divide, a dropout outside
    /// [0, 1], a scale that is not finite or a negative epsilon; ShapeError for sizes beyond 63
    /// bits.
    explicit MultiHeadAttention(const Options& options);

    void train(bool on = true) {
        attend_.train(on);
        out_dropout_.train(on);
    }
    void eval() { train(false); }
    [[nodiscard]] bool training() const { return attend_.training(); }

    /// The options with every default resolved.
    [[nodiscard]] const Options& options() const { return options_; }

    /// Width of the output: embed_dim, or num_heads * value_head_dim without output projection.
    [[nodiscard]] Index output_dim() const {
        return options_.out_projection ? options_.embed_dim : attended_width();
    }
    /// Number of keys that add_bias_kv and add_zero_attn append.
    [[nodiscard]] Index extra_keys() const {
        return (options_.add_bias_kv ? 1 : 0) + (options_.add_zero_attn ? 1 : 0);
    }

    /// The projections of all heads: [num_heads * head_dim, embed_dim],
    /// [num_kv_heads * head_dim, kdim] and [num_kv_heads * value_head_dim, vdim]. Head r is
    /// rows [r * width, (r + 1) * width).
    /// Views that may be written at any time: see Module::pack_weights.
    [[nodiscard]] TensorView<T, 2> query_weight() { return part_of<0>(matrix_of<0>().view()); }
    [[nodiscard]] TensorView<T, 2> key_weight() { return part_of<1>(matrix_of<1>().view()); }
    [[nodiscard]] TensorView<T, 2> value_weight() { return part_of<2>(matrix_of<2>().view()); }
    /// [embed_dim, num_heads * value_head_dim]; columns belong to heads as rows do above.
    [[nodiscard]] TensorView<T, 2> out_weight() { return out_weight_.view(); }

    /// query is [batch, q_len, embed_dim], key [batch, kv_len, kdim], value [batch, kv_len, vdim],
    /// out [batch, q_len, output_dim()]. The mask concerns the kv_len keys given; extra keys are
    /// always visible, as in PyTorch. The last dimension of each must be contiguous, and out must
    /// not overlap an input. Throws ShapeError or ArgumentError before anything is written.
    template <ScorePart Mask = NoMask>
    void forward(TensorView<const T, 3> query, TensorView<const T, 3> key,
                 TensorView<const T, 3> value, TensorView<T, 3> out, const Mask& mask = {},
                 const Outputs& outputs = {});

    /// Self-attention: query, key and value are x.
    template <ScorePart Mask = NoMask>
    [[nodiscard]] Tensor<T, 3> operator()(TensorView<const T, 3> x, const Mask& mask = {},
                                          const Outputs& outputs = {}) {
        return (*this)(x, x, x, mask, outputs);
    }

    /// Cross-attention in general form.
    template <ScorePart Mask = NoMask>
    [[nodiscard]] Tensor<T, 3> operator()(TensorView<const T, 3> query, TensorView<const T, 3> key,
                                          TensorView<const T, 3> value, const Mask& mask = {},
                                          const Outputs& outputs = {}) {
        Tensor<T, 3> out(query.shape().with(2, output_dim()));
        forward(query, key, value, out, mask, outputs);
        return out;
    }

    /// From d_out, the gradient of the output: adds to the parameters of `gradients` (see
    /// make_gradients) and overwrites the gradients of inputs that are wanted. query, key, value
    /// and mask are those of the last forward, which must have been in training; its dropout is
    /// repeated. Last dimensions must be contiguous, and a gradient must not overlap what is read
    /// or another gradient. Throws ArgumentError without such a forward, else ShapeError or
    /// ArgumentError, before anything is written. Cost: two products for each projection of
    /// forward, and heed::scaled_dot_product_attention_backward.
    template <ScorePart Mask = NoMask>
    void backward(TensorView<const T, 3> query, TensorView<const T, 3> key,
                  TensorView<const T, 3> value, TensorView<const T, 3> d_out,
                  const Gradients& inputs, MultiHeadAttention& gradients, const Mask& mask = {});

    /// backward of self-attention: dx is the gradient of x as query, key and value.
    template <ScorePart Mask = NoMask>
    void backward(TensorView<const T, 3> x, TensorView<const T, 3> d_out, TensorView<T, 3> dx,
                  MultiHeadAttention& gradients, const Mask& mask = {});

    /// Of one forward.
    [[nodiscard]] double multiply_adds(const Shape<3>& query, const Shape<3>& key) const;

    /// How many elements of a batch a forward takes at once: all in training, with other outputs,
    /// or with a mask that does not divide. If not all, the mask has been checked for the whole
    /// batch, and what forward throws for it is thrown.
    template <ScorePart Mask>
    [[nodiscard]] Index elements_at_once(const Shape<3>& query, const Shape<3>& key,
                                         const Mask& mask, const Outputs& outputs,
                                         int workers) const;

    /// forward and backward as stages of a larger layer, which has a residual.
    template <ScorePart Mask>
    class Forward;
    template <ScorePart Mask>
    class Backward;

    /// Throws whatever backward refuses, and writes nothing.
    template <ScorePart Mask>
    void check_backward(TensorView<const T, 3> query, TensorView<const T, 3> key,
                        TensorView<const T, 3> value, TensorView<const T, 3> d_out,
                        const Gradients& inputs, const MultiHeadAttention& gradients,
                        const Mask& mask) const;

    /// Glorot-uniform weights, zero biases.
    void reset_parameters(std::uint64_t seed);

    /// True when the parameters of both have the same shapes.
    [[nodiscard]] bool has_sizes_of(const MultiHeadAttention& other) const {
        return parameter_shapes() == other.parameter_shapes();
    }

    template <class Self, class Visitor>
    static void visit_parameters(Self& self, Visitor&& visit, const std::string& prefix);

  private:
    using Heads = detail::Heads<T>;
    using HeadBuffers = detail::HeadBuffers<T>;

    /// Sizes of one call, without extra keys, and where its heads lie.
    struct Call {
        Index batch, q_len, kv_len;
        bool side_by_side;  ///< of one input, in one buffer
    };

    static Options resolve(Options o);

    [[nodiscard]] Index query_width() const { return options_.num_heads * options_.head_dim; }
    [[nodiscard]] Index key_width() const { return options_.num_kv_heads * options_.head_dim; }
    [[nodiscard]] Index value_width(Index heads) const { return heads * options_.value_head_dim; }
    [[nodiscard]] Index attended_width() const { return value_width(options_.num_heads); }
    /// First rows of the query, key and value projections in the packed matrix, and its end.
    [[nodiscard]] std::array<Index, 4> rows() const {
        const Index keys = query_width(), values = keys + key_width();
        return {0, keys, values, values + value_width(options_.num_kv_heads)};
    }
    /// One matrix serves when all three inputs have the same width.
    [[nodiscard]] bool is_joint() const { return key_weight_.empty(); }

    /// The matrix of the query (0), key (1) or value (2) projection, and its rows of that.
    template <int part, class Self>
    static auto& matrix_of(Self& self) {
        if (part == 1 && !self.is_joint()) return self.key_weight_;
        if (part == 2 && !self.is_joint()) return self.value_weight_;
        return self.in_weight_;
    }
    template <int part>
    [[nodiscard]] auto& matrix_of() {
        return matrix_of<part>(*this);
    }
    template <int part, class U>
    [[nodiscard]] TensorView<U, 2> part_of(TensorView<U, 2> matrix) const {
        if (!is_joint()) return matrix;
        return matrix.slice(0, rows()[part], rows()[part + 1] - rows()[part]);
    }
    /// Weight and bias of a projection for its product.
    template <int part>
    [[nodiscard]] detail::ProductWeights<T> projection() const {
        return matrix_of<part>(*this).for_product(bias_of<part>(*this), is_joint() ? part : 0);
    }
    /// The weight of a projection for the gradient of its product.
    template <int part>
    [[nodiscard]] detail::BackwardWeights<T> projection_backward() const {
        return matrix_of<part>(*this).for_gradient(is_joint() ? part : 0);
    }
    template <int part, class Self>
    static auto bias_of(Self& self) {
        const auto rows = self.rows();
        if (self.in_bias_.empty()) return self.in_bias_.view();
        return self.in_bias_.view().slice(0, rows[part], rows[part + 1] - rows[part]);
    }

    [[nodiscard]] auto parameter_shapes() const {
        return std::tuple(in_weight_.shape(), key_weight_.shape(), value_weight_.shape(),
                          in_bias_.shape(), out_weight_.shape(), out_bias_.shape(), bias_k_.shape(),
                          q_norm_weight_.shape(), q_norm_bias_.shape());
    }

    [[nodiscard]] AttentionShape attention_shape(const Shape<3>& query, const Shape<3>& key) const;
    [[nodiscard]] Call call_of(TensorView<const T, 3> query, TensorView<const T, 3> key,
                               TensorView<const T, 3> value) const;
    /// The heads of a call side by side, [batch, length, query, key and value heads]. Rows are an
    /// odd number of cache lines apart, so that those of one head are spread over all places of the
    /// caches; an even number would leave half of them, or more, to nobody.
    [[nodiscard]] TensorView<T, 3> side_by_side_in(HeadBuffers& buffers, const Call& call) const {
        constexpr Index line = detail::most_lanes<T>;
        const Index width = rows()[3], row = (detail::pieces(width, line) | 1) * line;
        return buffers.q.view(Shape<3>(call.batch, call.q_len, row)).slice(2, 0, width);
    }
    /// The heads of a call, packed or not, with room for extra keys.
    [[nodiscard]] Heads heads_in(HeadBuffers& buffers, const Call& call) const;
    /// Key or value heads without the extra keys, side by side: [batch, kv_len, width].
    [[nodiscard]] static TensorView<T, 3> given(TensorView<T, 4> heads, const Call& call) {
        return heads.slice(2, 0, call.kv_len).merge_heads();
    }
    void append_extra_keys(TensorView<T, 3> k, TensorView<T, 3> v, Index kv_len) const;
    /// The norm of the queries (0) or keys (1).
    template <int part>
    [[nodiscard]] detail::NormRule<T> norm_of() const {
        const auto kind = options_.qk_norm == QkNorm::layer_norm ? detail::NormKind::layer
                                                                 : detail::NormKind::rms;
        return {kind, options_.qk_norm_epsilon, part == 0 ? q_norm_weight_ : k_norm_weight_,
                part == 0 ? q_norm_bias_ : k_norm_bias_};
    }
    /// Where heads before their norm are kept for backward; nowhere in evaluation.
    [[nodiscard]] TensorView<T, 4> kept(detail::ReusableBuffer<T>& buffer,
                                        TensorView<T, 4> heads) const {
        return training() ? buffer.view(heads.shape()) : TensorView<T, 4>();
    }
    void check_inputs(TensorView<const T, 3> query, TensorView<const T, 3> key,
                      TensorView<const T, 3> value) const;
    void check_outputs(TensorView<const T, 3> query, TensorView<const T, 3> key,
                       TensorView<const T, 3> value, TensorView<T, 3> out,
                       const Outputs& outputs) const;
    TensorView<T, 4> weights_buffer(const Outputs& outputs, const Heads& heads);
    static void average_heads(TensorView<const T, 4> weights, TensorView<T, 3> average);

    // The way back.
    void check_gradients(TensorView<const T, 3> query, TensorView<const T, 3> key,
                         TensorView<const T, 3> value, TensorView<const T, 3> d_out,
                         const Gradients& inputs, const MultiHeadAttention& gradients) const;
    template <ScorePart Mask>
    void run_backward(TensorView<const T, 3> query, TensorView<const T, 3> key,
                      TensorView<const T, 3> value, TensorView<const T, 3> d_out,
                      const Gradients& inputs, MultiHeadAttention& gradients, const Mask& mask,
                      bool one_input);
    void backward_extra_keys(const Heads& d, const Call& call, MultiHeadAttention& gradients) const;

    Options options_;
    detail::WeightMatrix<T> in_weight_;  ///< [query; key; value], or the query's alone
    detail::WeightMatrix<T> key_weight_, value_weight_;
    Tensor<T, 1> in_bias_;
    detail::WeightMatrix<T> out_weight_;
    Tensor<T, 1> out_bias_;
    Tensor<T, 3> bias_k_, bias_v_;  ///< [1, 1, width], PyTorch's shape
    Tensor<T, 1> q_norm_weight_, q_norm_bias_, k_norm_weight_, k_norm_bias_;
    ScaledDotProductAttention<T> attend_;
    detail::DropoutStream out_dropout_;
    HeadBuffers projected_;
    detail::ReusableBuffer<T> context_, weights_;

    // For backward: heads before their norms, and gradients on their way.
    detail::LastForward<Call> last_;
    detail::ReusableBuffer<T> q_before_norm_, k_before_norm_;
    HeadBuffers d_heads_;
    detail::ReusableBuffer<T> d_out_, d_context_;
};

template <ComputeScalar T>
MultiHeadAttentionOptions MultiHeadAttention<T>::resolve(Options o) {
    constexpr std::string_view where = "MultiHeadAttention";
    detail::require_positive(where, "embed_dim", o.embed_dim);
    detail::require_positive(where, "num_heads", o.num_heads);
    const auto otherwise = [](Index value, Index usual) { return value != 0 ? value : usual; };
    if (o.head_dim == 0 && o.embed_dim % o.num_heads != 0)
        detail::fail<ArgumentError>(where, "num_heads must divide embed_dim unless head_dim is ",
                                    "given; found embed_dim ", o.embed_dim, ", num_heads ",
                                    o.num_heads);
    o.num_kv_heads =
        detail::require_positive(where, "num_kv_heads", otherwise(o.num_kv_heads, o.num_heads));
    o.head_dim = detail::require_positive(where, "head_dim",
                                          otherwise(o.head_dim, o.embed_dim / o.num_heads));
    o.value_head_dim =
        detail::require_positive(where, "value_head_dim", otherwise(o.value_head_dim, o.head_dim));
    o.kdim = detail::require_positive(where, "kdim", otherwise(o.kdim, o.embed_dim));
    o.vdim = detail::require_positive(where, "vdim", otherwise(o.vdim, o.embed_dim));
    o.out_bias = o.out_bias.value_or(o.bias);
    detail::require_nonnegative(where, "qk_norm_epsilon", o.qk_norm_epsilon);
    if (o.num_heads % o.num_kv_heads != 0)
        detail::fail<ArgumentError>(where, "num_kv_heads must divide num_heads; found num_heads ",
                                    o.num_heads, ", num_kv_heads ", o.num_kv_heads);
    // The rows of the packed matrix, of which all other widths are parts, and the output's input.
    const auto size = [&](Index n) {
        return detail::CheckedSize<>(where, static_cast<std::uint64_t>(n));
    };
    const auto heads = static_cast<std::uint64_t>(o.num_heads);
    const auto kv_heads = static_cast<std::uint64_t>(o.num_kv_heads);
    const auto keys = (size(o.head_dim) * kv_heads).bytes();
    const auto values = (size(o.value_head_dim) * kv_heads).bytes();
    (void)(size(o.head_dim) * heads + keys + values);
    (void)(size(o.value_head_dim) * heads);
    return o;
}

template <ComputeScalar T>
MultiHeadAttention<T>::MultiHeadAttention(const Options& options)
    : options_(resolve(options)),
      attend_({options.scale, options.dropout, options.seed}),
      out_dropout_(options.out_dropout, options.seed + 1) {
    const Options& o = options_;
    using Matrix = detail::WeightMatrix<T>;
    const auto [queries, keys, values, end] = rows();
    if (o.kdim == o.embed_dim && o.vdim == o.embed_dim) {
        in_weight_ = Matrix({end, o.embed_dim}, {keys, values, end});
    } else {
        in_weight_ = Matrix({query_width(), o.embed_dim});
        key_weight_ = Matrix({key_width(), o.kdim});
        value_weight_ = Matrix({value_width(o.num_kv_heads), o.vdim});
    }
    if (o.bias) in_bias_ = Tensor<T, 1>(end);
    if (o.out_projection) {
        out_weight_ = Matrix({o.embed_dim, value_width(o.num_heads)});
        if (*o.out_bias) out_bias_ = Tensor<T, 1>(o.embed_dim);
    }
    if (o.add_bias_kv) {
        bias_k_ = Tensor<T, 3>({Index{1}, Index{1}, key_width()});
        bias_v_ = Tensor<T, 3>({Index{1}, Index{1}, value_width(o.num_kv_heads)});
    }
    if (o.qk_norm != QkNorm::none) {
        q_norm_weight_ = k_norm_weight_ = Tensor<T, 1>(o.head_dim);
        fill(q_norm_weight_.view(), T(1));
        fill(k_norm_weight_.view(), T(1));
    }
    if (o.qk_norm == QkNorm::layer_norm) q_norm_bias_ = k_norm_bias_ = Tensor<T, 1>(o.head_dim);
}

template <ComputeScalar T>
void MultiHeadAttention<T>::reset_parameters(std::uint64_t seed) {
    // In one matrix or not, each projection is drawn as a matrix of its own.
    detail::fill_xavier(part_of<0>(matrix_of<0>().change()), seed);
    detail::fill_xavier(part_of<1>(matrix_of<1>().change()), seed + 1);
    detail::fill_xavier(part_of<2>(matrix_of<2>().change()), seed + 2);
    if (!out_weight_.empty()) detail::fill_xavier(out_weight_.change(), seed + 3);
    fill(in_bias_.view(), T(0));
    fill(out_bias_.view(), T(0));
    if (options_.add_bias_kv) {
        detail::fill_xavier(bias_k_.view().select(0, 0), seed + 4);
        detail::fill_xavier(bias_v_.view().select(0, 0), seed + 5);
    }
}

template <ComputeScalar T>
template <class Self, class Visitor>
void MultiHeadAttention<T>::visit_parameters(Self& self, Visitor&& visit,
                                             const std::string& prefix) {
    const AttentionNames& names = self.options_.names;
    const auto present = [&](const std::string& name, auto view) {
        if (!view.empty()) visit(prefix + name, view);
    };
    if constexpr (detail::VisitsMatrices<Visitor, decltype((self.in_weight_))>) {
        for (auto* matrix : {&self.in_weight_, &self.key_weight_, &self.value_weight_})
            visit.visit_matrix(*matrix);
    } else if (self.is_joint() && !names.qkv_weight.empty()) {
        present(names.qkv_weight, detail::shown_to<Visitor>(self.in_weight_));
    } else {
        const auto part = [&]<int n>(const std::string& name) {
            present(name, self.template part_of<n>(detail::shown_to<Visitor>(matrix_of<n>(self))));
        };
        part.template operator()<0>(names.q_weight);
        part.template operator()<1>(names.k_weight);
        part.template operator()<2>(names.v_weight);
    }
    if (!names.qkv_bias.empty()) {
        present(names.qkv_bias, self.in_bias_.view());
    } else {
        present(names.q_bias, bias_of<0>(self));
        present(names.k_bias, bias_of<1>(self));
        present(names.v_bias, bias_of<2>(self));
    }
    if (!self.out_weight_.empty())
        detail::visit_weight(self.out_weight_, visit, prefix + names.out_weight);
    present(names.out_bias, self.out_bias_.view());
    present(names.bias_k, self.bias_k_.view());
    present(names.bias_v, self.bias_v_.view());
    present(names.q_norm + ".weight", self.q_norm_weight_.view());
    present(names.q_norm + ".bias", self.q_norm_bias_.view());
    present(names.k_norm + ".weight", self.k_norm_weight_.view());
    present(names.k_norm + ".bias", self.k_norm_bias_.view());
}

template <ComputeScalar T>
void MultiHeadAttention<T>::check_inputs(TensorView<const T, 3> query, TensorView<const T, 3> key,
                                         TensorView<const T, 3> value) const {
    constexpr std::string_view where = "MultiHeadAttention";
    const Index batch = query.extent(0), q_len = query.extent(1), kv_len = key.extent(1);
    detail::require_rows(where, detail::query_name(query, key, value), query,
                         {batch, q_len, options_.embed_dim});
    detail::require_rows(where, "the key", key, {batch, kv_len, options_.kdim});
    detail::require_rows(where, "the value", value, {batch, kv_len, options_.vdim});
}

template <ComputeScalar T>
void MultiHeadAttention<T>::check_outputs(TensorView<const T, 3> query, TensorView<const T, 3> key,
                                          TensorView<const T, 3> value, TensorView<T, 3> out,
                                          const Outputs& outputs) const {
    constexpr std::string_view where = "MultiHeadAttention";
    const Index batch = query.extent(0), q_len = query.extent(1), kv_len = key.extent(1);
    detail::require_output(where, "the output", out, {batch, q_len, output_dim()}, query, key,
                           value);
    if (options_.out_projection) detail::require_contiguous_rows(where, "the output", out);
    detail::require_attention_outputs<T>(where, outputs,
                                         {batch, options_.num_heads, q_len, kv_len + extra_keys()},
                                         query, key, value, out);
}

template <ComputeScalar T>
typename MultiHeadAttention<T>::Call MultiHeadAttention<T>::call_of(
    TensorView<const T, 3> query, TensorView<const T, 3> key, TensorView<const T, 3> value) const {
    return {query.extent(0), query.extent(1), key.extent(1),
            detail::is_self_attention(query, key, value) && is_joint() && extra_keys() == 0};
}

template <ComputeScalar T>
detail::Heads<T> MultiHeadAttention<T>::heads_in(HeadBuffers& buffers, const Call& call) const {
    const Index heads = options_.num_heads, kv_heads = options_.num_kv_heads;
    if (call.side_by_side) {
        const auto [queries, keys, values, end] = rows();
        const TensorView<T, 3> all = side_by_side_in(buffers, call);
        return {all.slice(2, queries, keys).split_heads(heads),
                all.slice(2, keys, values - keys).split_heads(kv_heads),
                all.slice(2, values, end - values).split_heads(kv_heads)};
    }
    const Shape<3> queries(call.batch, call.q_len, query_width());
    const Shape<3> keys(call.batch, call.kv_len + extra_keys(), key_width());
    return {buffers.q.view(queries).split_heads(heads), buffers.k.view(keys).split_heads(kv_heads),
            buffers.v.view(keys.with(2, value_width(kv_heads))).split_heads(kv_heads)};
}

template <ComputeScalar T>
double MultiHeadAttention<T>::multiply_adds(const Shape<3>& query, const Shape<3>& key) const {
    const Index attended = options_.out_projection ? attended_width() : 0;
    return detail::multiply_adds(query, query_width() + attended) +
           detail::multiply_adds(key, rows()[3] - query_width()) +
           detail::multiply_adds(attention_shape(query, key));
}

template <ComputeScalar T>
AttentionShape MultiHeadAttention<T>::attention_shape(const Shape<3>& query,
                                                      const Shape<3>& key) const {
    return {.batch = query[0],
            .heads = options_.num_heads,
            .kv_heads = options_.num_kv_heads,
            .q_len = query[1],
            .kv_len = key[1],
            .head_dim = options_.head_dim,
            .value_dim = options_.value_head_dim};
}

template <ComputeScalar T>
template <ScorePart Mask>
Index MultiHeadAttention<T>::elements_at_once(const Shape<3>& query, const Shape<3>& key,
                                              const Mask& mask, const Outputs& outputs,
                                              int workers) const {
    const bool are_wanted = detail::is_wanted(outputs.weights) ||
                            detail::is_wanted(outputs.averaged_weights) ||
                            detail::is_wanted(outputs.lse);
    if (!DividesByBatch<Mask> || training() || are_wanted) return query[0];
    const Index numbers = query[1] * query_width() + key[1] * (rows()[3] - query_width());
    const Index at_once = detail::elements_at_once(
        query[0], query[1], numbers * static_cast<Index>(sizeof(T)), workers);
    if (at_once < query[0]) {
        AttentionShape shape = attention_shape(query, key);
        shape.kv_len += extra_keys();
        (void)detail::with_extra_keys(mask, extra_keys()).bind(shape);
    }
    return at_once;
}

template <ComputeScalar T>
void MultiHeadAttention<T>::append_extra_keys(TensorView<T, 3> k, TensorView<T, 3> v,
                                              Index kv_len) const {
    Index next = kv_len;
    if (options_.add_bias_kv) {
        for (Index b = 0; b < k.extent(0); ++b) {
            copy(bias_k_.view().select(0, 0).select(0, 0), k.select(0, b).select(0, next));
            copy(bias_v_.view().select(0, 0).select(0, 0), v.select(0, b).select(0, next));
        }
        ++next;
    }
    if (options_.add_zero_attn) {
        fill(k.slice(1, next, 1), T(0));
        fill(v.slice(1, next, 1), T(0));
    }
}

/// Averaging over heads needs the weights of each head, wanted by the caller or not.
template <ComputeScalar T>
TensorView<T, 4> MultiHeadAttention<T>::weights_buffer(const Outputs& outputs, const Heads& heads) {
    if (detail::is_wanted(outputs.weights) || !detail::is_wanted(outputs.averaged_weights))
        return outputs.weights;
    return weights_.view(
        Shape<4>(heads.q.extent(0), heads.q.extent(1), heads.q.extent(2), heads.k.extent(2)));
}

template <ComputeScalar T>
void MultiHeadAttention<T>::average_heads(TensorView<const T, 4> weights,
                                          TensorView<T, 3> average) {
    fill(average, T(0));
    for (Index b = 0; b < weights.extent(0); ++b)
        for (Index h = 0; h < weights.extent(1); ++h)
            add(weights.select(0, b).select(0, h), average.select(0, b));
    const T heads = static_cast<T>(weights.extent(1));
    detail::for_each_element([heads](T& value) { value /= heads; }, average);
}

}  // namespace heed::inline v0

#include "heed/nn/multi_head_attention_backward.hpp"
#include "heed/nn/multi_head_attention_forward.hpp"
