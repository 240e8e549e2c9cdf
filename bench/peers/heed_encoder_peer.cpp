// C functions around a sentence encoder: BERT, the mean over the tokens of each sentence, length 1.

#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "heed_peer.hpp"

/// An encoder, with memory that calls share; serves one call at a time.
struct HeedPeerEncoder {
    int threads;
    heed::Index width;
    heed::BertModel<float> bert;
    std::vector<float> hidden;
};

namespace {

using namespace heed_peer;

HeedPeerEncoder* make_encoder(int threads, const heed::BertConfig& config,
                              const heed::NamedTensors& weights) {
    heed::BertModel<float> bert(config);
    bert.load(weights);
    return new HeedPeerEncoder{threads, config.hidden_size, std::move(bert), {}};
}

heed::TensorView<float, 2> hidden_of(HeedPeerEncoder& encoder, heed::Index tokens) {
    const auto count = static_cast<std::size_t>(tokens * encoder.width);
    if (encoder.hidden.size() < count) encoder.hidden.resize(count);
    return {encoder.hidden.data(), {tokens, encoder.width}};
}

/// The sum of the rows, made one long: the mean points the same way.
void pool(heed::TensorView<const float, 2> hidden, heed::TensorView<float, 1> embedding) {
    heed::fill(embedding, 0.0f);
    for (heed::Index i = 0; i < hidden.extent(0); ++i)
        heed::add<float, 1>(hidden.select(0, i), embedding);
    double squares = 0;
    for (heed::Index c = 0; c < embedding.extent(0); ++c)
        squares += static_cast<double>(embedding(c)) * static_cast<double>(embedding(c));
    const auto factor = static_cast<float>(1 / std::sqrt(squares));
    for (heed::Index c = 0; c < embedding.extent(0); ++c) embedding(c) *= factor;
}

void encode(HeedPeerEncoder& encoder, const std::int32_t* ids,
            std::span<const heed::Index> cu_seqlens, float* embeddings) {
    use_threads(encoder.threads);
    const heed::Index tokens = cu_seqlens.back(), sentences = std::ssize(cu_seqlens) - 1;
    const heed::TensorView<float, 2> hidden = hidden_of(encoder, tokens);
    encoder.bert.forward_packed(std::span(ids, static_cast<std::size_t>(tokens)), cu_seqlens,
                                hidden);
    const heed::TensorView<float, 2> out(embeddings, {sentences, encoder.width});
    for (heed::Index s = 0; s < sentences; ++s) {
        const heed::Index begin = cu_seqlens[static_cast<std::size_t>(s)];
        const heed::Index end = cu_seqlens[static_cast<std::size_t>(s) + 1];
        pool(hidden.slice(0, begin, end - begin), out.select(0, s));
    }
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

/// Sizes of an encoder, by the names of Hugging Face's BertConfig.
struct HeedPeerBert {
    std::int64_t vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size,
        max_position_embeddings, type_vocab_size;
    double layer_norm_eps;
};

/// An encoder with the weights of Hugging Face's BertModel, under their names there and without the
/// pooler, or null on failure.
HeedPeerEncoder* heed_peer_encoder_open(std::int32_t threads, const HeedPeerBert* sizes,
                                        const HeedPeerTensor* weights, std::int64_t weight_count) {
    return made_by([&] {
        const auto& [vocab, hidden, layers, heads, intermediate, places, types, epsilon] = *sizes;
        return make_encoder(threads,
                            {.vocab_size = vocab,
                             .hidden_size = hidden,
                             .num_hidden_layers = layers,
                             .num_attention_heads = heads,
                             .intermediate_size = intermediate,
                             .max_position_embeddings = places,
                             .type_vocab_size = types,
                             .layer_norm_eps = epsilon,
                             .add_pooling_layer = false},
                            named_tensors(weights, weight_count));
    });
}

void heed_peer_encoder_close(HeedPeerEncoder* encoder) {
    delete encoder;
}

/// embeddings [sentences, hidden_size] of sentences that are packed one after another: sentence s
/// is the ids [cu_seqlens[s], cu_seqlens[s + 1]), and has at least one. Returns 0, or 1 on failure.
int heed_peer_encoder_encode(HeedPeerEncoder* encoder, const std::int32_t* ids,
                             const std::int64_t* cu_seqlens, std::int64_t sentences,
                             float* embeddings) {
    return status_of([&] {
        const std::vector<heed::Index> ends(cu_seqlens, cu_seqlens + sentences + 1);
        encode(*encoder, ids, ends, embeddings);
    });
}

}  // extern "C"
#pragma GCC visibility pop
