#pragma once
// What does BERT make of packed token ids?
// Embeddings and a stack of heed's encoder layers; reads ids, writes the last hidden states.

#include <span>
#include <string>
#include <vector>

#include "heed/heed.hpp"

namespace heed_peer {

/// Sizes, by the names of Hugging Face's BertConfig.
struct BertSizes {
    heed::Index vocab_size = 0;
    heed::Index hidden_size = 0;
    heed::Index num_hidden_layers = 0;
    heed::Index num_attention_heads = 0;
    heed::Index intermediate_size = 0;
    heed::Index max_position_embeddings = 0;
    heed::Index type_vocab_size = 0;
    double layer_norm_eps = 0;
};

/// BertModel without its pooler. Parameters have Hugging Face's names.
class BertStack : public heed::Module<BertStack> {
  public:
    explicit BertStack(const BertSizes& sizes)
        : words_({sizes.vocab_size, sizes.hidden_size}),
          places_({sizes.max_position_embeddings, sizes.hidden_size}),
          types_({sizes.type_vocab_size, sizes.hidden_size}),
          norm_({sizes.hidden_size, sizes.layer_norm_eps}) {
        for (heed::Index i = 0; i < sizes.num_hidden_layers; ++i)
            layers_.emplace_back(Layer::Options{.d_model = sizes.hidden_size,
                                                .nhead = sizes.num_attention_heads,
                                                .dim_feedforward = sizes.intermediate_size,
                                                .activation = heed::Activation::gelu,
                                                .layer_norm_eps = sizes.layer_norm_eps,
                                                .names = heed::EncoderLayerNames::bert()});
    }

    /// ids are the tokens of all sequences, one after another, all of type 0; sequence s is the
    /// rows [cu_seqlens[s], cu_seqlens[s + 1]) of hidden [total, hidden_size].
    void forward_packed(std::span<const int> ids, std::span<const heed::Index> cu_seqlens,
                        heed::TensorView<float, 2> hidden) {
        embed(ids, cu_seqlens, hidden);
        norm_.forward<2>(hidden, hidden);
        const heed::TensorView<float, 3> state = hidden.unsqueeze();
        const heed::Documents documents(cu_seqlens);
        for (Layer& layer : layers_) layer.forward(state, state, documents);
    }

    template <class Self, class Visitor>
    static void visit_parameters(Self& self, Visitor&& visit, const std::string& prefix) {
        using Table = heed::Embedding<float>;
        const std::string embeddings = prefix + "embeddings.";
        Table::visit_parameters(self.words_, visit, embeddings + "word_embeddings.");
        Table::visit_parameters(self.places_, visit, embeddings + "position_embeddings.");
        Table::visit_parameters(self.types_, visit, embeddings + "token_type_embeddings.");
        heed::LayerNorm<float>::visit_parameters(self.norm_, visit, embeddings + "LayerNorm.");
        for (std::size_t i = 0; i < self.layers_.size(); ++i)
            Layer::visit_parameters(self.layers_[i], visit,
                                    prefix + "encoder.layer." + std::to_string(i) + ".");
    }

  private:
    using Layer = heed::TransformerEncoderLayer<float>;

    void embed(std::span<const int> ids, std::span<const heed::Index> cu_seqlens,
               heed::TensorView<float, 2> hidden) {
        words_.forward(ids, hidden);
        for (std::size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
            const heed::Index begin = cu_seqlens[s], length = cu_seqlens[s + 1] - begin;
            const heed::TensorView<float, 2> rows = hidden.slice(0, begin, length);
            heed::add<float, 2>(places_.weight().slice(0, 0, length), rows);
            for (heed::Index i = 0; i < length; ++i)
                heed::add<float, 1>(types_.weight().select(0, 0), rows.select(0, i));
        }
    }

    heed::Embedding<float> words_, places_, types_;
    heed::LayerNorm<float> norm_;
    std::vector<Layer> layers_;
};

}  // namespace heed_peer
