// C functions around the training of examples/05_train_char_model, one step at a time.

#include <algorithm>
#include <limits>
#include <string_view>

#include "05_train_char_model/trainer.hpp"
#include "heed_peer.hpp"

/// A training of the example's default model on a text; serves one call at a time.
struct HeedPeerTrainer {
    HeedPeerTrainer(int threads, std::string_view text)
        : corpus(text),
          state(settings, corpus.alphabet),
          threads(threads),
          trainer(settings, corpus, state) {}

    /// Those of the example, without its validations, which are no part of a step.
    static char_model::Settings without_validation() {
        char_model::Settings settings;
        settings.validate_every = std::numeric_limits<char_model::Index>::max();
        return settings;
    }

    char_model::Settings settings = without_validation();
    char_model::Corpus corpus;
    char_model::TrainingState state;
    int threads;
    char_model::Trainer trainer;
};

namespace {

using namespace heed_peer;

/// Calls with the setting of that name, if there is one.
template <class Use>
void with_setting(const HeedPeerTrainer& trainer, std::string_view name, const Use& use) {
    trainer.settings.visit([&](std::string_view found, auto value) {
        if (found == name) use(static_cast<double>(value));
    });
    if (name == "letters") use(static_cast<double>(trainer.corpus.alphabet.size()));
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

/// A training that begins, or null on failure.
HeedPeerTrainer* heed_peer_trainer_open(std::int32_t threads, const char* text,
                                        std::int64_t letters) {
    return made_by([&] {
        return new HeedPeerTrainer(threads,
                                   std::string_view(text, static_cast<std::size_t>(letters)));
    });
}

void heed_peer_trainer_close(HeedPeerTrainer* trainer) {
    delete trainer;
}

/// One of the example's settings, or "letters", the size of its alphabet; NaN for another name.
double heed_peer_trainer_setting(const HeedPeerTrainer* trainer, const char* name) {
    double found = std::numeric_limits<double>::quiet_NaN();
    with_setting(*trainer, name, [&](double value) { found = value; });
    return found;
}

/// Shows the model's parameters as they are. Returns 0, or 1 on failure.
int heed_peer_trainer_parameters(const HeedPeerTrainer* trainer, HeedPeerVisitor visit) {
    return status_of([&] { show_parameters(trainer->state.model, visit); });
}

/// The ids [batch * context] that a step, counted from 0, reads, and those that it has to foretell.
/// Returns 0, or 1 on failure.
int heed_peer_trainer_batch(const HeedPeerTrainer* trainer, std::int64_t step, std::int32_t* inputs,
                            std::int32_t* targets) {
    return status_of([&] {
        const char_model::Settings& settings = trainer->settings;
        const char_model::Batch batch = char_model::random_windows(
            trainer->corpus.training(), settings.batch, settings.context, settings.seed, step);
        std::ranges::copy(batch.inputs, inputs);
        std::ranges::copy(batch.targets, targets);
    });
}

/// The next step, and the loss of its batch before it. Returns 0, or 1 on failure.
int heed_peer_trainer_step(HeedPeerTrainer* trainer, double* loss) {
    return status_of([&] {
        use_threads(trainer->threads);
        *loss = trainer->trainer.step();
    });
}

}  // extern "C"
#pragma GCC visibility pop
