#pragma once
// What are the parameters of a multi-head attention called in the file they come from?
// Plain data: one full name for each parameter; an empty name means "stored otherwise".

#include <string>

#include "heed/base/config.hpp"

namespace heed::inline v0 {

/// Names of the parameters of a MultiHeadAttention, relative to its prefix. A packed name, where
/// it is given, holds query, key and value one after another; the separate names serve otherwise.
struct AttentionNames {
    std::string qkv_weight, q_weight, k_weight, v_weight;
    std::string qkv_bias, q_bias, k_bias, v_bias;
    std::string out_weight, out_bias;
    std::string bias_k = "bias_k", bias_v = "bias_v";
    std::string q_norm = "q_norm", k_norm = "k_norm";

    /// torch.nn.MultiheadAttention: packed weights unless kdim or vdim differ, packed bias always.
    static AttentionNames pytorch() {
        AttentionNames names = separate("q_proj", "k_proj", "v_proj", "out_proj");
        names.q_weight = "q_proj_weight";
        names.k_weight = "k_proj_weight";
        names.v_weight = "v_proj_weight";
        names.qkv_weight = "in_proj_weight";
        names.qkv_bias = "in_proj_bias";
        return names;
    }

    /// timm's vision transformers: fused "qkv" and "proj".
    static AttentionNames timm() {
        AttentionNames names = separate("q", "k", "v", "proj");
        names.qkv_weight = "qkv.weight";
        names.qkv_bias = "qkv.bias";
        return names;
    }

    /// BERT and its relatives in Hugging Face: "query", "key", "value".
    static AttentionNames bert() { return separate("query", "key", "value", "dense"); }

    /// A linear layer for each projection, e.g. separate("q_proj", "k_proj", "v_proj", "o_proj").
    static AttentionNames separate(const std::string& q, const std::string& k, const std::string& v,
                                   const std::string& out) {
        AttentionNames names;
        names.q_weight = q + ".weight", names.q_bias = q + ".bias";
        names.k_weight = k + ".weight", names.k_bias = k + ".bias";
        names.v_weight = v + ".weight", names.v_bias = v + ".bias";
        names.out_weight = out + ".weight", names.out_bias = out + ".bias";
        return names;
    }
};

}  // namespace heed::inline v0
