#pragma once
// What is a training at some step?
// All that changes from step to step, and nothing else: with the settings and the text, it decides
// every later step.

#include <string_view>

#include "char_model.hpp"
#include "curve.hpp"
#include "heed/train/adamw.hpp"
#include "settings.hpp"
#include "text.hpp"

namespace char_model {

struct TrainingState {
    /// Before the first step.
    TrainingState(const Settings& settings, const Alphabet& alphabet)
        : model({.letters = alphabet.size(),
                 .context = settings.context,
                 .layers = settings.layers,
                 .heads = settings.heads,
                 .dim = settings.dim,
                 .hidden_dim = settings.hidden_dim}),
          adamw(model, {.weight_decay = settings.weight_decay, .decays = is_matrix}) {
        model.reset_parameters(settings.seed);
    }

    /// Steps that were made.
    [[nodiscard]] Index step() const { return std::ssize(curve.training); }

    CharModel<float> model;
    heed::AdamW<CharModel<float>> adamw;
    Curve curve;

  private:
    /// Biases, norms and embeddings do not decay, as is usual since GPT-2.
    static bool is_matrix(std::string_view name) {
        const bool is_product = name.starts_with("layers.") || name.starts_with("head.");
        return is_product && name.ends_with("weight") && name.find(".norm") == name.npos;
    }
};

}  // namespace char_model
