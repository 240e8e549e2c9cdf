#include "trainer.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <string>

#include "heed/ops/cross_entropy.hpp"
#include "heed/train/clipping.hpp"
#include "heed/train/learning_rate.hpp"

namespace char_model {

namespace {

void require_multiple(const char* name, Index value, const char* of, Index divisor) {
    if (divisor < 1 || value < 1 || value % divisor != 0)
        throw heed::ArgumentError(std::string("[Trainer] ") + name + " must be a multiple of " +
                                  of + "; found " + std::to_string(value) + " and " +
                                  std::to_string(divisor));
}

/// The part of a batch that belongs to a shard.
std::span<const int> part(const std::vector<int>& ids, std::size_t shard, std::size_t shards) {
    const std::size_t count = ids.size() / shards;
    return std::span(ids).subspan(shard * count, count);
}

}  // namespace

Trainer::Shard::Shard(const CharModel<float>& whole, Index letters_of_shard)
    : model(whole),
      gradients(whole.make_gradients()),
      weights(parameters_of(model)),
      slopes(parameters_of(gradients)),
      dlogits({letters_of_shard, whole.options().letters}) {}

Trainer::Parameters Trainer::parameters_of(CharModel<float>& model) {
    Parameters parameters;
    model.for_each_parameter([&](const std::string&, auto view) {
        parameters.emplace_back(view.data(), static_cast<std::size_t>(view.element_count()));
    });
    return parameters;
}

Trainer::Trainer(const Settings& settings, const Corpus& corpus, TrainingState& state,
                 heed::ExecutorRef executor)
    : settings_(settings),
      corpus_(corpus),
      state_(state),
      executor_(executor),
      weights_(parameters_of(state.model)) {
    require_multiple("batch", settings.batch, "shards", settings.shards);
    require_multiple("validation_windows", settings.validation_windows, "batch", settings.batch);
    (void)random_windows(corpus.training(), 0, settings.context, 0, 0);
    (void)even_windows(corpus.validation(), 0, settings.context);
    const Index letters = settings.batch / settings.shards * settings.context;
    shards_.reserve(static_cast<std::size_t>(settings.shards));
    for (Index i = 0; i < settings.shards; ++i) shards_.emplace_back(state.model, letters);
}

double Trainer::step() {
    Curve& curve = state_.curve;
    const Index step = state_.step();
    const heed::WarmupCosine rate{.peak = settings_.peak_rate,
                                  .floor = settings_.floor_rate,
                                  .warmup_steps = settings_.warmup_steps,
                                  .total_steps = settings_.steps};
    copy_weights();
    run_shards(random_windows(corpus_.training(), settings_.batch, settings_.context,
                              settings_.seed, step),
               true);
    add_gradients();
    CharModel<float>& gradients = shards_.front().gradients;
    heed::clip_gradient_norm(gradients, settings_.max_gradient_norm);
    state_.adamw.step(state_.model, gradients, rate(step));
    curve.training.push_back(mean_loss());
    const Index done = state_.step();
    if (done % settings_.validate_every == 0 || done == settings_.steps)
        curve.validation.push_back({done, validation_loss()});
    return curve.training.back();
}

double Trainer::validation_loss() {
    copy_weights();
    const Batch all =
        even_windows(corpus_.validation(), settings_.validation_windows, settings_.context);
    const Index batches = settings_.validation_windows / settings_.batch;
    const Index letters = settings_.batch * settings_.context;
    double sum = 0.0;
    for (Index i = 0; i < batches; ++i) {
        const auto cut = [&](const std::vector<int>& ids) {
            return std::vector<int>(ids.begin() + i * letters, ids.begin() + (i + 1) * letters);
        };
        run_shards({cut(all.inputs), cut(all.targets)}, false);
        sum += mean_loss();
    }
    return sum / static_cast<double>(batches);
}

void Trainer::run_shards(const Batch& batch, bool with_gradients) {
    const auto run = [&](Index index, int) {
        const auto i = static_cast<std::size_t>(index);
        Shard& shard = shards_[i];
        const std::span<const int> ids = part(batch.inputs, i, shards_.size());
        const std::span<const int> targets = part(batch.targets, i, shards_.size());
        shard.model.train(with_gradients);
        const auto logits = shard.model.forward(ids, settings_.context);
        if (with_gradients) {
            shard.gradients.fill_parameters(0);
            shard.loss = heed::cross_entropy(logits, targets, {}, shard.dlogits);
            shard.model.backward(ids, shard.dlogits, shard.gradients);
        } else {
            shard.loss = heed::cross_entropy(logits, targets);
        }
    };
    executor_.parallel_for(std::ssize(shards_), run);
}

double Trainer::mean_loss() const {
    double sum = 0.0;
    for (const Shard& shard : shards_) sum += shard.loss;
    return sum / static_cast<double>(shards_.size());
}

void Trainer::copy_weights() {
    for (Shard& shard : shards_) {
        for (std::size_t p = 0; p < weights_.size(); ++p)
            std::ranges::copy(weights_[p], shard.weights[p].begin());
        shard.model.pack_weights();
    }
}

/// Leaves the mean of the shards' gradients in those of the first.
void Trainer::add_gradients() {
    const float share = 1.0f / static_cast<float>(shards_.size());
    for (std::size_t p = 0; p < weights_.size(); ++p) {
        const auto slopes = [&](const Shard& shard) {
            const std::span<float> of = shard.slopes[p];
            return Eigen::Map<Eigen::ArrayXf>(of.data(), static_cast<Index>(of.size()));
        };
        auto sum = slopes(shards_.front());
        for (std::size_t s = 1; s < shards_.size(); ++s) sum += slopes(shards_[s]);
        sum *= share;
    }
}

}  // namespace char_model
