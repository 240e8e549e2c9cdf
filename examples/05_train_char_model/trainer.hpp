#pragma once
// How does a model learn a text?
// Makes steps, and judges the model now and then; knows neither files nor terminals.

#include <span>
#include <vector>

#include "batches.hpp"
#include "heed/base/executor.hpp"
#include "training_state.hpp"

namespace char_model {

/// Training, step by step: AdamW on random windows of the text, with the gradient's norm clipped
/// and a learning rate that warms up and falls like a cosine.
///
/// A batch is cut into shards, each with a copy of the model, so that they may run on threads of
/// their own. Their gradients are added in one order: the number of threads changes no bit.
class Trainer {
  public:
    /// Settings, text, state and executor must outlive the trainer; the state goes on from where
    /// it is. Throws heed::ArgumentError when the settings do not fit each other or the text.
    Trainer(const Settings& settings, const Corpus& corpus, TrainingState& state,
            heed::ExecutorRef executor = {});

    /// One step; writes its losses into the curve of the state. Returns the loss of its batch.
    double step();

    /// The mean loss on windows spread evenly over the part of the text that is not trained on.
    [[nodiscard]] double validation_loss();

  private:
    using Parameters = std::vector<std::span<float>>;

    /// What a thread needs for a part of a batch.
    struct Shard {
        explicit Shard(const CharModel<float>& whole, Index letters_of_shard);

        CharModel<float> model, gradients;
        Parameters weights, slopes;  ///< the memory of the two
        heed::Tensor<float, 2> dlogits;
        double loss = 0.0;
    };

    static Parameters parameters_of(CharModel<float>& model);
    void run_shards(const Batch& batch, bool with_gradients);
    [[nodiscard]] double mean_loss() const;
    void copy_weights();
    void add_gradients();

    const Settings& settings_;
    const Corpus& corpus_;
    TrainingState& state_;
    heed::ExecutorRef executor_;
    Parameters weights_;  ///< of the state's model
    std::vector<Shard> shards_;
};

}  // namespace char_model
