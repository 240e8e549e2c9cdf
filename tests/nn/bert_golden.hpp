#pragma once
// The golden cases of BERT: what does each of them give?
// Reads a case of tests/golden/bert_model.safetensors or gradients.safetensors.

#include <vector>

#include "heed/nn/bert_model.hpp"
#include "support/golden.hpp"

namespace nn_test {

inline heed::BertConfig bert_config(const support::GoldenCase& golden, bool add_pooling_layer) {
    return {.vocab_size = golden.integer("vocab_size"),
            .hidden_size = golden.integer("hidden_size"),
            .num_hidden_layers = golden.integer("num_hidden_layers"),
            .num_attention_heads = golden.integer("num_attention_heads"),
            .intermediate_size = golden.integer("intermediate_size"),
            .max_position_embeddings = golden.integer("max_position_embeddings"),
            .type_vocab_size = golden.integer("type_vocab_size"),
            .layer_norm_eps = golden.real("layer_norm_eps").value(),
            .add_pooling_layer = add_pooling_layer};
}

/// Tokens of each sequence, from its attention mask.
inline std::vector<heed::Index> lengths_of(const support::GoldenCase& golden) {
    const auto visible = golden.input("attention_mask").view<bool, 2>();
    std::vector<heed::Index> lengths(static_cast<std::size_t>(visible.extent(0)));
    for (heed::Index b = 0; b < visible.extent(0); ++b)
        for (heed::Index i = 0; i < visible.extent(1); ++i)
            lengths[static_cast<std::size_t>(b)] += visible(b, i) ? 1 : 0;
    return lengths;
}

}  // namespace nn_test
