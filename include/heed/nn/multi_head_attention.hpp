#pragma once
// Multi-head attention with its weights, as the frameworks define it?
// Options in heed's words, in PyTorch's, in timm's and in BERT's; one class behind all of them.
// Projects into views (a head is a stride), attends, projects back.

#include <optional>
#include <string>
#include <utility>

#include "heed/nn/attention.hpp"
#include "heed/nn/attention_names.hpp"
#include "heed/nn/extra_keys.hpp"
#include "heed/nn/layers.hpp"
#include "heed/tensor/checks.hpp"

namespace heed::inline v0 {

/// Normalisation of each head's queries and keys before their product (arXiv 2302.05442).
enum class QkNorm { none, layer_norm, rms_norm };

/// All choices of a multi-head attention. Sizes of 0 mean "as usual", which each comment names.
struct MultiHeadAttentionOptions {
    Index embed_dim = 0;       ///< width of the queries' input and of the output
    Index num_heads = 1;       ///< of the queries
    Index num_kv_heads = 0;    ///< of keys and values, a divisor of num_heads; 0: num_heads
    Index head_dim = 0;        ///< width of a query or key head; 0: embed_dim / num_heads
    Index value_head_dim = 0;  ///< width of a value head; 0: head_dim
    Index kdim = 0;            ///< width of the keys' input; 0: embed_dim
    Index vdim = 0;            ///< width of the values' input; 0: embed_dim
    bool bias = true;          ///< of the query, key and value projections
    std::optional<bool> out_bias = std::nullopt;  ///< of the output projection; absent: as bias
    bool out_projection = true;                   ///< false: the concatenated heads are the output
    bool add_bias_kv = false;                     ///< one learned key and value after the others
    bool add_zero_attn = false;                   ///< one zero key and value after the others
    QkNorm qk_norm = QkNorm::none;
    double qk_norm_epsilon = 1e-6;
    std::optional<double> scale = std::nullopt;  ///< 1 / sqrt(head_dim) when absent
    double dropout = 0.0;                        ///< of the weights, in training
    double out_dropout = 0.0;                    ///< of the output, in training
    std::uint64_t seed = 0;                      ///< of both dropouts
    AttentionNames names = AttentionNames::pytorch();
};

/// torch.nn.MultiheadAttention, with its own argument names and parameter names. Inputs are batch
/// first. Its boolean masks mean "blocked": BlockWhere and block_keys.
struct PyTorchMultiheadAttention {
    Index embed_dim;
    Index num_heads;
    double dropout = 0.0;
    bool bias = true;
    bool add_bias_kv = false;
    bool add_zero_attn = false;
    Index kdim = 0;
    Index vdim = 0;

    operator MultiHeadAttentionOptions() const {
        return {.embed_dim = embed_dim,
                .num_heads = num_heads,
                .kdim = kdim,
                .vdim = vdim,
                .bias = bias,
                .add_bias_kv = add_bias_kv,
                .add_zero_attn = add_zero_attn,
                .dropout = dropout,
                .names = AttentionNames::pytorch()};
    }
};

/// The Attention block of timm's vision transformers, with its own argument names (`qk_scale` is
/// that of its earlier versions) and parameter names (fused "qkv", "proj", "q_norm", "k_norm").
struct TimmAttention {
    Index dim;
    Index num_heads = 8;
    bool qkv_bias = false;
    bool qk_norm = false;  ///< LayerNorm of each head, timm's default norm layer
    bool proj_bias = true;
    double attn_drop = 0.0;
    double proj_drop = 0.0;
    std::optional<double> qk_scale = std::nullopt;

    operator MultiHeadAttentionOptions() const {
        return {.embed_dim = dim,
                .num_heads = num_heads,
                .bias = qkv_bias,
                .out_bias = proj_bias,
                .qk_norm = qk_norm ? QkNorm::layer_norm : QkNorm::none,
                .scale = qk_scale,
                .dropout = attn_drop,
                .out_dropout = proj_drop,
                .names = AttentionNames::timm()};
    }
};

/// BERT's self-attention, with its own argument names and parameter names ("query", "key",
/// "value"). It has no output projection of its own; its additive mask is an AdditiveBias.
struct BertSelfAttention {
    Index hidden_size;
    Index num_attention_heads;
    double attention_probs_dropout_prob = 0.0;

    operator MultiHeadAttentionOptions() const {
        return {.embed_dim = hidden_size,
                .num_heads = num_attention_heads,
                .out_projection = false,
                .dropout = attention_probs_dropout_prob,
                .names = AttentionNames::bert()};
    }
};

/// Optional outputs of one call; an empty view means "not wanted". kv_len counts the extra keys of
/// add_bias_kv and add_zero_attn, which come last. Weights are before dropout.
template <ComputeScalar T>
struct MultiHeadAttentionOutputs {
    TensorView<T, 4> weights = {};           ///< [batch, heads, q_len, kv_len]
    TensorView<T, 3> averaged_weights = {};  ///< [batch, q_len, kv_len], the mean over heads
    TensorView<T, 3> lse = {};               ///< [batch, heads, q_len]
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

}  // namespace detail

/// out = concat_h(attention(x W_q^h, c W_k^h, c' W_v^h)) W_o^T, with biases.
///
/// The projections of all heads are packed into one matrix, head after head; the matrix of one
/// head is a slice of it. Self- and cross-attention, masked or not: the mask is an argument of each
/// call. Parameters carry the names of the framework chosen by `names`.
///
/// Buffers grow to the largest call and are then reused. In evaluation (the initial state) there
/// is no dropout; in training each call draws fresh masks. An object serves one thread at a time.
/// Source: Vaswani et al., arXiv 1706.03762; grouped heads: Ainslie et al., arXiv 2305.13245.
template <ComputeScalar T>
class MultiHeadAttention : public Module<MultiHeadAttention<T>> {
  public:
    using Options = MultiHeadAttentionOptions;
    using Outputs = MultiHeadAttentionOutputs<T>;

    /// Throws ArgumentError for sizes below 1, head counts that do not divide, a dropout outside
    /// [0, 1], a scale that is not finite or a negative epsilon; ShapeError for sizes beyond 63
    /// bits.
    explicit MultiHeadAttention(const Options& options);

    void train(bool on = true) {
        attend_.train(on);
        out_dropout_.train(on);
    }
    void eval() { train(false); }

    /// The options with every default resolved.
    [[nodiscard]] const Options& options() const { return options_; }

    /// Width of the output: embed_dim, or num_heads * value_head_dim without output projection.
    [[nodiscard]] Index output_dim() const {
        return options_.out_projection ? options_.embed_dim : value_width(options_.num_heads);
    }
    /// Number of keys that add_bias_kv and add_zero_attn append.
    [[nodiscard]] Index extra_keys() const {
        return (options_.add_bias_kv ? 1 : 0) + (options_.add_zero_attn ? 1 : 0);
    }

    /// The projections of all heads: [num_heads * head_dim, embed_dim],
    /// [num_kv_heads * head_dim, kdim] and [num_kv_heads * value_head_dim, vdim]. Head r is
    /// rows [r * width, (r + 1) * width).
    [[nodiscard]] TensorView<T, 2> query_weight() { return weight_of<0>(*this); }
    [[nodiscard]] TensorView<T, 2> key_weight() { return weight_of<1>(*this); }
    [[nodiscard]] TensorView<T, 2> value_weight() { return weight_of<2>(*this); }
    /// [embed_dim, num_heads * value_head_dim]; columns belong to heads as rows do above.
    [[nodiscard]] TensorView<T, 2> out_weight() { return out_weight_; }

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

    /// Glorot-uniform weights, zero biases.
    void reset_parameters(std::uint64_t seed);

    template <class Self, class Visitor>
    static void visit_parameters(Self& self, Visitor&& visit, const std::string& prefix);

  private:
    /// Queries, keys and values as heads, ready for the attention.
    struct Heads {
        TensorView<T, 4> q, k, v;
    };

    static Options resolve(Options o);

    [[nodiscard]] Index query_width() const { return options_.num_heads * options_.head_dim; }
    [[nodiscard]] Index key_width() const { return options_.num_kv_heads * options_.head_dim; }
    [[nodiscard]] Index value_width(Index heads) const { return heads * options_.value_head_dim; }
    /// First rows of the query, key and value projections in the packed matrix, and its end.
    [[nodiscard]] std::array<Index, 4> rows() const {
        const Index keys = query_width(), values = keys + key_width();
        return {0, keys, values, values + value_width(options_.num_kv_heads)};
    }
    /// One packed matrix serves when all three inputs have the same width.
    [[nodiscard]] bool is_packed() const { return key_weight_.empty(); }

    /// Weight and bias of the query (0), key (1) or value (2) projection. Static, so that one text
    /// serves const and mutable modules.
    template <int part, class Self>
    static auto weight_of(Self& self) {
        const auto rows = self.rows();
        if (part == 1 && !self.is_packed()) return self.key_weight_.view();
        if (part == 2 && !self.is_packed()) return self.value_weight_.view();
        const Index begin = self.is_packed() ? rows[part] : 0;
        return self.in_weight_.view().slice(0, begin, rows[part + 1] - rows[part]);
    }
    template <int part, class Self>
    static auto bias_of(Self& self) {
        const auto rows = self.rows();
        if (self.in_bias_.empty()) return self.in_bias_.view();
        return self.in_bias_.view().slice(0, rows[part], rows[part + 1] - rows[part]);
    }

    Heads project(TensorView<const T, 3> query, TensorView<const T, 3> key,
                  TensorView<const T, 3> value);
    Heads project_packed(TensorView<const T, 3> x);
    void append_extra_keys(TensorView<T, 3> k, TensorView<T, 3> v, Index kv_len) const;
    void normalise_heads(const Heads& heads) const;
    void check_inputs(TensorView<const T, 3> query, TensorView<const T, 3> key,
                      TensorView<const T, 3> value, TensorView<T, 3> out,
                      const Outputs& outputs) const;
    TensorView<T, 4> weights_buffer(const Outputs& outputs, const Heads& heads);
    static void average_heads(TensorView<const T, 4> weights, TensorView<T, 3> average);

    Options options_;
    Tensor<T, 2> in_weight_;  ///< packed [query; key; value], or the query's alone
    Tensor<T, 2> key_weight_, value_weight_;
    Tensor<T, 1> in_bias_;
    Tensor<T, 2> out_weight_;
    Tensor<T, 1> out_bias_;
    Tensor<T, 3> bias_k_, bias_v_;  ///< [1, 1, width], PyTorch's shape
    Tensor<T, 1> q_norm_weight_, q_norm_bias_, k_norm_weight_, k_norm_bias_;
    ScaledDotProductAttention<T> attend_;
    detail::DropoutStream out_dropout_;
    detail::ReusableBuffer<T> q_, k_, v_, context_, weights_;
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
    const auto [query_row, key_row, value_row, end] = rows();
    const bool packed = o.kdim == o.embed_dim && o.vdim == o.embed_dim;
    in_weight_ = Tensor<T, 2>({packed ? end : query_width(), o.embed_dim});
    if (!packed) {
        key_weight_ = Tensor<T, 2>({key_width(), o.kdim});
        value_weight_ = Tensor<T, 2>({value_width(o.num_kv_heads), o.vdim});
    }
    if (o.bias) in_bias_ = Tensor<T, 1>(end);
    if (o.out_projection) {
        out_weight_ = Tensor<T, 2>({o.embed_dim, value_width(o.num_heads)});
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
    // Packed or not, each projection is drawn as a matrix of its own.
    detail::fill_xavier(query_weight(), seed);
    detail::fill_xavier(key_weight(), seed + 1);
    detail::fill_xavier(value_weight(), seed + 2);
    if (!out_weight_.empty()) detail::fill_xavier(out_weight(), seed + 3);
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
    if (self.is_packed() && !names.qkv_weight.empty()) {
        present(names.qkv_weight, self.in_weight_.view());
    } else {
        present(names.q_weight, weight_of<0>(self));
        present(names.k_weight, weight_of<1>(self));
        present(names.v_weight, weight_of<2>(self));
    }
    if (!names.qkv_bias.empty()) {
        present(names.qkv_bias, self.in_bias_.view());
    } else {
        present(names.q_bias, bias_of<0>(self));
        present(names.k_bias, bias_of<1>(self));
        present(names.v_bias, bias_of<2>(self));
    }
    present(names.out_weight, self.out_weight_.view());
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
                                         TensorView<const T, 3> value, TensorView<T, 3> out,
                                         const Outputs& outputs) const {
    constexpr std::string_view where = "MultiHeadAttention";
    const Index batch = query.extent(0), q_len = query.extent(1), kv_len = key.extent(1);
    const auto require_input = [&](std::string_view what, TensorView<const T, 3> input,
                                   const Shape<3>& shape) {
        detail::require_shape(where, what, input.shape(), shape);
        detail::require_memory(where, what, input);
        detail::require_contiguous_rows(where, what, input);
    };
    require_input("the query", query, {batch, q_len, options_.embed_dim});
    require_input("the key", key, {batch, kv_len, options_.kdim});
    require_input("the value", value, {batch, kv_len, options_.vdim});
    detail::require_output(where, "the output", out, {batch, q_len, output_dim()}, query, key,
                           value);
    if (options_.out_projection) detail::require_contiguous_rows(where, "the output", out);
    detail::require_attention_outputs<T>(where, outputs,
                                         {batch, options_.num_heads, q_len, kv_len + extra_keys()},
                                         query, key, value, out);
}

template <ComputeScalar T>
typename MultiHeadAttention<T>::Heads MultiHeadAttention<T>::project_packed(
    TensorView<const T, 3> x) {
    const auto [keys, values, end] = std::array{rows()[1], rows()[2], rows()[3]};
    const TensorView<T, 3> all = q_.view(x.shape().with(2, end));
    linear(x, in_weight_, in_bias_, all);
    return {all.slice(2, 0, keys).split_heads(options_.num_heads),
            all.slice(2, keys, values - keys).split_heads(options_.num_kv_heads),
            all.slice(2, values, end - values).split_heads(options_.num_kv_heads)};
}

template <ComputeScalar T>
typename MultiHeadAttention<T>::Heads MultiHeadAttention<T>::project(TensorView<const T, 3> query,
                                                                     TensorView<const T, 3> key,
                                                                     TensorView<const T, 3> value) {
    const Index batch = query.extent(0), kv_len = key.extent(1), keys = kv_len + extra_keys();
    const auto q = q_.view(Shape<3>(batch, query.extent(1), query_width()));
    const auto k = k_.view(Shape<3>(batch, keys, key_width()));
    const auto v = v_.view(Shape<3>(batch, keys, value_width(options_.num_kv_heads)));
    linear(query, weight_of<0>(*this), bias_of<0>(*this), q);
    linear(key, weight_of<1>(*this), bias_of<1>(*this), k.slice(1, 0, kv_len));
    linear(value, weight_of<2>(*this), bias_of<2>(*this), v.slice(1, 0, kv_len));
    append_extra_keys(k, v, kv_len);
    return {q.split_heads(options_.num_heads), k.split_heads(options_.num_kv_heads),
            v.split_heads(options_.num_kv_heads)};
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

template <ComputeScalar T>
void MultiHeadAttention<T>::normalise_heads(const Heads& heads) const {
    const auto normalise = [&](TensorView<T, 4> x, const Tensor<T, 1>& weight,
                               const Tensor<T, 1>& bias) {
        if (options_.qk_norm == QkNorm::layer_norm)
            layer_norm(x, weight, bias, options_.qk_norm_epsilon, x);
        if (options_.qk_norm == QkNorm::rms_norm) rms_norm(x, weight, options_.qk_norm_epsilon, x);
    };
    normalise(heads.q, q_norm_weight_, q_norm_bias_);
    normalise(heads.k.slice(2, 0, heads.k.extent(2) - extra_keys()), k_norm_weight_, k_norm_bias_);
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

template <ComputeScalar T>
template <ScorePart Mask>
void MultiHeadAttention<T>::forward(TensorView<const T, 3> query, TensorView<const T, 3> key,
                                    TensorView<const T, 3> value, TensorView<T, 3> out,
                                    const Mask& mask, const Outputs& outputs) {
    check_inputs(query, key, value, out, outputs);
    const bool one_input = detail::same_view(query, key) && detail::same_view(key, value);
    const Heads heads = one_input && is_packed() && extra_keys() == 0 ? project_packed(query)
                                                                      : project(query, key, value);
    normalise_heads(heads);

    const TensorView<T, 3> context =
        options_.out_projection
            ? context_.view(out.shape().with(2, value_width(options_.num_heads)))
            : out;
    const AttentionOutputs<T> wanted{weights_buffer(outputs, heads), outputs.lse};
    attend_.forward_with(heads.q, heads.k, heads.v, context.split_heads(options_.num_heads),
                         detail::WithExtraKeys<Mask>{mask, extra_keys()}, wanted);
    if (detail::is_wanted(outputs.averaged_weights))
        average_heads(wanted.weights, outputs.averaged_weights);
    if (options_.out_projection) linear(context, out_weight_, out_bias_, out);
    out_dropout_.apply(out);
}

}  // namespace heed::inline v0
