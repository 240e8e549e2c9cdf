#pragma once
// How does a model learn a text?
// Makes steps, and judges the model now and then; knows neither files nor terminals.

#include "batches.hpp"
#include "training_state.hpp"

namespace char_model {

/// Training, step by step: AdamW on random windows of the text, with the gradient's norm clipped
/// and a learning rate that warms up and falls like a cosine. On as many threads as heed has
/// (heed::set_num_threads); their number changes no bit.
class Trainer {
  public:
    /// Settings, text and state must outlive the trainer; the state goes on from where it is.
    /// Throws heed::ArgumentError when the settings do not fit each other or the text.
    Trainer(const Settings& settings, const Corpus& corpus, TrainingState& state);

    /// One step; writes its losses into the curve of the state. Returns the loss of its batch.
    double step();

    /// The mean loss on windows spread evenly over the part of the text that is not trained on.
    [[nodiscard]] double validation_loss();

  private:
    /// The mean loss of a batch, and its gradients in the place of those before.
    double find_gradients(const Batch& batch);

    const Settings& settings_;
    const Corpus& corpus_;
    TrainingState& state_;
    CharModel<float> gradients_;
    heed::Tensor<float, 2> dlogits_;
};

}  // namespace char_model
