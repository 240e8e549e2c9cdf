#pragma once
// Which choices does a multi-head attention have?
// Plain data: all of them in heed's words, and those of PyTorch, timm and BERT under the names that
// they have there.

#include <cstdint>
#include <optional>

#include "heed/nn/attention_names.hpp"

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

}  // namespace heed::inline v0
