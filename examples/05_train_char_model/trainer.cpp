#include "trainer.hpp"

#include <span>
#include <string>

#include "heed/ops/cross_entropy.hpp"
#include "heed/train/clipping.hpp"
#include "heed/train/learning_rate.hpp"

namespace char_model {

namespace {

void require_valid(const Settings& settings, const Corpus& corpus) {
    const Index batch = settings.batch, windows = settings.validation_windows;
    if (batch < 1 || windows < 1 || windows % batch != 0)
        throw heed::ArgumentError(
            "[Trainer] validation_windows must be a multiple of batch, both at least 1; found " +
            std::to_string(windows) + " and " + std::to_string(batch));
    (void)random_windows(corpus.training(), 0, settings.context, 0, 0);
    (void)even_windows(corpus.validation(), 0, settings.context);
}

}  // namespace

Trainer::Trainer(const Settings& settings, const Corpus& corpus, TrainingState& state)
    : settings_(settings),
      corpus_(corpus),
      state_(state),
      gradients_(state.model.make_gradients()) {
    require_valid(settings, corpus);
    dlogits_ = heed::Tensor<float, 2>({settings.batch * settings.context, corpus.alphabet.size()});
}

double Trainer::step() {
    Curve& curve = state_.curve;
    const Index step = state_.step();
    const heed::WarmupCosine rate{.peak = settings_.peak_rate,
                                  .floor = settings_.floor_rate,
                                  .warmup_steps = settings_.warmup_steps,
                                  .total_steps = settings_.steps};
    curve.training.push_back(find_gradients(random_windows(
        corpus_.training(), settings_.batch, settings_.context, settings_.seed, step)));
    heed::clip_gradient_norm(gradients_, settings_.max_gradient_norm);
    state_.adamw.step(state_.model, gradients_, rate(step));
    const Index done = state_.step();
    if (done % settings_.validate_every == 0 || done == settings_.steps)
        curve.validation.push_back({done, validation_loss()});
    return curve.training.back();
}

double Trainer::find_gradients(const Batch& batch) {
    CharModel<float>& model = state_.model;
    model.train();
    const auto logits = model.forward(batch.inputs, settings_.context);
    const double loss = heed::cross_entropy(logits, batch.targets, {}, dlogits_);
    gradients_.fill_parameters(0);
    model.backward(batch.inputs, dlogits_, gradients_);
    return loss;
}

double Trainer::validation_loss() {
    state_.model.eval();
    const Batch all =
        even_windows(corpus_.validation(), settings_.validation_windows, settings_.context);
    const Index batches = settings_.validation_windows / settings_.batch;
    double sum = 0.0;
    for (Index i = 0; i < batches; ++i) {
        const auto part = [&](const std::vector<int>& ids) {
            const std::size_t count = ids.size() / static_cast<std::size_t>(batches);
            return std::span(ids).subspan(static_cast<std::size_t>(i) * count, count);
        };
        const auto logits = state_.model.forward(part(all.inputs), settings_.context);
        sum += heed::cross_entropy(logits, part(all.targets));
    }
    return sum / static_cast<double>(batches);
}

}  // namespace char_model
