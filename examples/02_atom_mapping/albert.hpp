#pragma once
// How does RXNMapper's encoder turn token ids into attention weights?
// ALBERT put together from heed's modules: embeddings, then one encoder layer run twelve times.
//
// Source: Lan et al., "ALBERT: A Lite BERT", arXiv 1909.11942; sizes and names of RXNMapper's
// published weights.

#include <span>
#include <string>

#include "heed/nn/layers.hpp"
#include "heed/nn/transformer.hpp"
#include "heed/tensor/broadcast.hpp"

namespace atom_mapping {

class Albert : public heed::Module<Albert> {
  public:
    static constexpr heed::Index vocabulary = 591, longest = 512, sentence_types = 2;
    static constexpr heed::Index embedding_dim = 128, dim = 256, hidden_dim = 512;
    static constexpr heed::Index layers = 12, heads = 8;
    static constexpr double epsilon = 1e-12;  ///< of every LayerNorm

    /// Throws heed::FormatError unless the weights are those of this model, all of them. Left aside
    /// are the parts that predict masked tokens and sentence order.
    explicit Albert(const heed::NamedTensors& weights) {
        heed::WeightLoader(weights)
            .load(*this, "albert.")
            .ignore("albert.pooler.")
            .ignore("predictions.")
            .finish();
    }

    /// Hidden states [1, L, dim] of L tokens; `weights`, [layers, heads, L, L], receives the
    /// attention weights of every layer. Throws heed::ShapeError for more than `longest` tokens,
    /// heed::ArgumentError for an id outside the vocabulary.
    heed::Tensor<float, 3> operator()(std::span<const int> ids,
                                      heed::TensorView<float, 4> weights) {
        heed::Tensor<float, 3> x(projection_(embed(ids)).view().unsqueeze());
        for (heed::Index layer = 0; layer < layers; ++layer)
            layer_.forward(x, x, heed::NoMask{}, {.weights = weights.select(0, layer).unsqueeze()});
        return x;
    }

    template <class Self, class Visitor>
    static void visit_parameters(Self& self, Visitor&& visit, const std::string& prefix) {
        const std::string embeddings = prefix + "embeddings.", encoder = prefix + "encoder.";
        Embedding::visit_parameters(self.words_, visit, embeddings + "word_embeddings.");
        Embedding::visit_parameters(self.positions_, visit, embeddings + "position_embeddings.");
        Embedding::visit_parameters(self.types_, visit, embeddings + "token_type_embeddings.");
        heed::LayerNorm<float>::visit_parameters(self.norm_, visit, embeddings + "LayerNorm.");
        heed::Linear<float>::visit_parameters(self.projection_, visit,
                                              encoder + "embedding_hidden_mapping_in.");
        heed::TransformerEncoderLayer<float>::visit_parameters(
            self.layer_, visit, encoder + "albert_layer_groups.0.albert_layers.0.");
    }

  private:
    using Embedding = heed::Embedding<float>;

    /// LayerNorm(word + position + type 0), [L, embedding_dim].
    [[nodiscard]] heed::Tensor<float, 2> embed(std::span<const int> ids) const {
        heed::Tensor<float, 2> x = words_(ids);
        heed::add(positions_.weight().slice(0, 0, x.extent(0)), x.view());
        heed::add(heed::broadcast_to(types_.weight().slice(0, 0, 1), x.shape()), x.view());
        norm_.forward(x, x.view());
        return x;
    }

    Embedding words_{{vocabulary, embedding_dim}};
    Embedding positions_{{longest, embedding_dim}};
    Embedding types_{{sentence_types, embedding_dim}};
    heed::LayerNorm<float> norm_{{embedding_dim, epsilon}};
    heed::Linear<float> projection_{{embedding_dim, dim}};
    heed::TransformerEncoderLayer<float> layer_{{.d_model = dim,
                                                 .nhead = heads,
                                                 .dim_feedforward = hidden_dim,
                                                 .activation = heed::Activation::gelu,
                                                 .layer_norm_eps = epsilon,
                                                 .names = heed::EncoderLayerNames::albert()}};
};

}  // namespace atom_mapping
