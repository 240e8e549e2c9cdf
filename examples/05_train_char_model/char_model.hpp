#pragma once
// How does a transformer predict the next letter?
// GPT's decoder put together from heed's modules: embeddings of letters and places, pre-norm layers
// that look back only, a norm and a linear layer to the logits. Keeps what the way back needs.
//
// Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019 (GPT-2).

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "heed/attention/mask.hpp"
#include "heed/nn/layers.hpp"
#include "heed/nn/transformer.hpp"

namespace char_model {

using heed::Index;

template <heed::ComputeScalar T>
class CharModel : public heed::Module<CharModel<T>> {
  public:
    struct Options {
        Index letters = 0;  ///< in the alphabet
        Index context = 0;  ///< letters that it sees at most
        Index layers = 0;
        Index heads = 0;
        Index dim = 0;
        Index hidden_dim = 0;
    };

    /// Throws heed::ArgumentError for sizes below 1, or heads that do not divide the width.
    explicit CharModel(const Options& o)
        : options_(o),
          letters_({o.letters, o.dim}),
          places_({o.context, o.dim}),
          norm_({o.dim}),
          head_({o.dim, o.letters}),
          states_(static_cast<std::size_t>(o.layers) + 1) {
        for (Index layer = 0; layer < o.layers; ++layer)
            layers_.emplace_back(Layer({.d_model = o.dim,
                                        .nhead = o.heads,
                                        .dim_feedforward = o.hidden_dim,
                                        .dropout = 0.0,
                                        .activation = heed::Activation::gelu,
                                        .norm_first = true}));
    }

    [[nodiscard]] const Options& options() const { return options_; }

    void train(bool on = true) {
        for (auto& layer : layers_) layer.train(on);
    }
    void eval() { train(false); }

    /// Independent draws for every weight. Small embeddings and layers that at first add little to
    /// what passes by learn faster than Xavier's, which suit networks without residuals.
    void reset_parameters(std::uint64_t seed) {
        constexpr std::uint64_t stride = 16;  // more seeds than a layer takes
        const std::uint64_t first = seed * 1000;
        heed::fill_normal(letters_.weight(), first, 0.0, 0.05);
        heed::fill_normal(places_.weight(), first + 1, 0.0, 0.05);
        head_.reset_parameters(first + 2);
        for (std::size_t i = 0; i < layers_.size(); ++i) {
            layers_[i].reset_parameters(first + (i + 1) * stride);
            halve_products(layers_[i]);
        }
    }

    /// Logits of the letter after each one: ids are [rows * length], the result is
    /// [rows * length, letters] and valid until the next call. Throws heed::ArgumentError for an id
    /// outside the alphabet, heed::ShapeError for a length beyond the context or no whole rows.
    heed::TensorView<T, 2> forward(std::span<const int> ids, Index length) {
        shape_activations(std::ssize(ids), length);
        letters_.forward(ids, flat(states_[0]));
        places_.forward(std::span<const int>(place_ids_), flat(normed_));
        heed::add(normed_.view(), states_[0].view());
        for (std::size_t i = 0; i < layers_.size(); ++i)
            layers_[i].forward(states_[i], states_[i + 1], heed::Causal::top_left());
        norm_.forward(states_.back(), normed_.view());
        head_.forward(flat(normed_), logits_.view());
        return logits_;
    }

    /// Adds to the gradients of all parameters what the last forward, which must have been in
    /// training and of the same ids, makes of the gradients of its logits.
    void backward(std::span<const int> ids, heed::TensorView<const T, 2> dlogits,
                  CharModel& gradients) {
        head_.backward(flat(normed_), dlogits, flat(dnormed_), gradients.head_);
        norm_.backward(states_.back(), dnormed_, dstate_.view(), gradients.norm_);
        for (std::size_t i = layers_.size(); i-- > 0;) {
            layers_[i].backward(states_[i], dstate_, dnormed_, gradients.layers_[i],
                                heed::Causal::top_left());
            std::swap(dstate_, dnormed_);
        }
        letters_.backward(ids, flat(dstate_), gradients.letters_);
        places_.backward(std::span<const int>(place_ids_), flat(dstate_), gradients.places_);
    }

    template <class Self, class Visitor>
    static void visit_parameters(Self& self, Visitor&& visit, const std::string& prefix) {
        heed::Embedding<T>::visit_parameters(self.letters_, visit, prefix + "letters.");
        heed::Embedding<T>::visit_parameters(self.places_, visit, prefix + "places.");
        for (std::size_t i = 0; i < self.layers_.size(); ++i)
            Layer::visit_parameters(self.layers_[i], visit,
                                    prefix + "layers." + std::to_string(i) + ".");
        heed::LayerNorm<T>::visit_parameters(self.norm_, visit, prefix + "norm.");
        heed::Linear<T>::visit_parameters(self.head_, visit, prefix + "head.");
    }

  private:
    using Layer = heed::TransformerEncoderLayer<T>;
    using States = heed::Tensor<T, 3>;  ///< [rows, length, dim]

    static void halve_products(Layer& layer) {
        layer.for_each_parameter([](const std::string& name, auto view) {
            if (name.find("norm") != std::string::npos) return;
            for (Index i = 0; i < view.element_count(); ++i) view.data()[i] /= 2;
        });
    }

    static heed::TensorView<T, 2> flat(States& states) { return states.view().merge(0); }

    void shape_activations(Index count, Index length) {
        if (length < 1 || length > options_.context || count < 1 || count % length != 0)
            throw heed::ShapeError("[CharModel] ids must be rows of 1 to " +
                                   std::to_string(options_.context) + " letters; found " +
                                   std::to_string(count) + " ids in rows of " +
                                   std::to_string(length));
        const heed::Shape<3> shape(count / length, length, options_.dim);
        if (normed_.shape() == shape) return;
        for (States* states : {&normed_, &dnormed_, &dstate_}) *states = States(shape);
        for (States& states : states_) states = States(shape);
        logits_ = heed::Tensor<T, 2>({count, options_.letters});
        place_ids_.resize(static_cast<std::size_t>(count));
        for (std::size_t i = 0; i < place_ids_.size(); ++i)
            place_ids_[i] = static_cast<int>(static_cast<Index>(i) % length);
    }

    Options options_;
    heed::Embedding<T> letters_, places_;
    std::vector<Layer> layers_;
    heed::LayerNorm<T> norm_;
    heed::Linear<T> head_;

    std::vector<States> states_;  ///< before each layer, and behind the last
    States normed_, dnormed_, dstate_;
    heed::Tensor<T, 2> logits_;
    std::vector<int> place_ids_;
};

}  // namespace char_model
