// Training in examples/05_train_char_model: it learns, it stops and goes on bit for bit, and the
// number of threads changes nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <sstream>
#include <string>

#include "05_train_char_model/checkpoint.hpp"
#include "05_train_char_model/sampling.hpp"
#include "05_train_char_model/trainer.hpp"
#include "heed/io/safetensors.hpp"
#include "support/temporary_folder.hpp"
#include "support/threads.hpp"

namespace char_model {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

Settings tiny_settings() {
    return {.layers = 2,
            .heads = 2,
            .dim = 8,
            .hidden_dim = 16,
            .context = 8,
            .batch = 4,
            .steps = 6,
            .warmup_steps = 2,
            .peak_rate = 1e-2,
            .validate_every = 2,
            .validation_windows = 8};
}

std::string repeated(const std::string& line, int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += line;
    return text;
}

const std::string rhyme = repeated("hey diddle diddle, the cat and the fiddle\n", 10);

std::string bytes_of(const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
}

/// Makes so many steps from the state on, with a trainer of their own.
void make_steps(TrainingState& state, const Settings& settings, const Corpus& corpus, Index count) {
    Trainer trainer(settings, corpus, state);
    for (Index i = 0; i < count; ++i) trainer.step();
}

/// The checkpoint after all steps in one go.
std::string uninterrupted(const support::TemporaryFolder& folder, const Settings& settings,
                          const Corpus& corpus) {
    TrainingState state(settings, corpus.alphabet);
    make_steps(state, settings, corpus, settings.steps);
    save_checkpoint(folder / "whole", state, settings, corpus);
    return bytes_of(folder / "whole");
}

TEST(CharModelTraining, GoesOnFromACheckpointBitForBit) {
    const support::TemporaryFolder folder;
    const Settings settings = tiny_settings();
    const Corpus corpus(rhyme);
    TrainingState begun(settings, corpus.alphabet);
    make_steps(begun, settings, corpus, 3);
    save_checkpoint(folder / "half", begun, settings, corpus);

    TrainingState state = load_checkpoint(folder / "half", settings, corpus);
    EXPECT_EQ(state.step(), 3);
    make_steps(state, settings, corpus, 3);
    save_checkpoint(folder / "two halves", state, settings, corpus);
    EXPECT_TRUE(bytes_of(folder / "two halves") == uninterrupted(folder, settings, corpus));
}

TEST(CharModelTraining, WithoutItsMomentsItWouldNot) {
    const support::TemporaryFolder folder;
    const Settings settings = tiny_settings();
    const Corpus corpus(rhyme);
    TrainingState begun(settings, corpus.alphabet);
    make_steps(begun, settings, corpus, 3);
    TrainingState forgetful(settings, corpus.alphabet);
    forgetful.model = begun.model;
    forgetful.curve = begun.curve;
    make_steps(forgetful, settings, corpus, 3);
    save_checkpoint(folder / "forgetful", forgetful, settings, corpus);
    EXPECT_FALSE(bytes_of(folder / "forgetful") == uninterrupted(folder, settings, corpus));
}

TEST(CharModelTraining, ThreadsChangeNoBit) {
    const support::TemporaryFolder folder;
    Settings settings = tiny_settings();
    // Large enough that threads share the work.
    settings.dim = 64;
    settings.hidden_dim = 128;
    settings.context = 16;
    settings.batch = 8;
    settings.steps = 3;
    const Corpus corpus(rhyme);
    const std::string alone = uninterrupted(folder, settings, corpus);
    for (int threads : {2, 3}) {
        const support::WithThreads shared(threads);
        EXPECT_TRUE(uninterrupted(folder, settings, corpus) == alone) << threads;
    }
}

TEST(CharModelTraining, IsJudgedByAllWindowsWhateverABatchIs) {
    Settings settings = tiny_settings();
    const Corpus corpus(rhyme);
    TrainingState state(settings, corpus.alphabet);
    const auto loss = [&](Index windows, Index batch) {
        settings.validation_windows = windows;
        settings.batch = batch;
        return Trainer(settings, corpus, state).validation_loss();
    };
    EXPECT_NEAR(loss(8, 2), loss(8, 8), 1e-6);
    EXPECT_GT(std::abs(loss(4, 2) - loss(8, 2)), 1e-5);  // they do tell the loss apart
}

TEST(CharModelTraining, ItLearns) {
    Settings settings = tiny_settings();
    settings.steps = 150;
    settings.warmup_steps = 10;
    settings.dim = 32;
    settings.hidden_dim = 64;
    settings.validate_every = 50;
    const Corpus corpus(repeated("abcd", 100));
    TrainingState state(settings, corpus.alphabet);
    make_steps(state, settings, corpus, settings.steps);
    // A fresh model errs; then every letter tells the next one, even the first of a window.
    EXPECT_GT(state.curve.training.front(), 1.0);
    EXPECT_LT(state.curve.training.back(), 0.05);
    ASSERT_EQ(state.curve.validation.size(), 3u);
    EXPECT_EQ(state.curve.validation.back().step, 150);
    EXPECT_LT(state.curve.validation.back().loss, 0.05);
    std::ostringstream out;
    sample_text(out, state.model, corpus.alphabet, "ab", 10, 0.0, 1);
    EXPECT_EQ(out.str(), "cdabcdabcd");
}

TEST(CharModelTraining, ValidatesNowAndThenAndAtTheEnd) {
    Settings settings = tiny_settings();
    settings.steps = 5;
    const Corpus corpus(rhyme);
    TrainingState state(settings, corpus.alphabet);
    make_steps(state, settings, corpus, 5);
    std::vector<Index> steps;
    for (const auto& point : state.curve.validation) steps.push_back(point.step);
    EXPECT_THAT(steps, testing::ElementsAre(2, 4, 5));
}

TEST(CharModelTraining, RefusesSettingsThatDoNotFit) {
    const Corpus corpus(rhyme);
    const auto trainer_of = [&](auto change) {
        Settings settings = tiny_settings();
        change(settings);
        TrainingState state(settings, corpus.alphabet);
        const Trainer trainer(settings, corpus, state);
    };
    EXPECT_NO_THROW(trainer_of([](Settings&) {}));
    EXPECT_THAT([&] { trainer_of([](Settings& s) { s.validation_windows = 6; }); },
                ThrowsMessage<heed::ArgumentError>(HasSubstr("found 6 and 4")));
    EXPECT_THROW(trainer_of([](Settings& s) { s.batch = 0; }), heed::ArgumentError);
    EXPECT_THROW(trainer_of([](Settings& s) { s.validation_windows = 0; }), heed::ArgumentError);
    EXPECT_THAT([&] { trainer_of([](Settings& s) { s.context = 30; }); },
                ThrowsMessage<heed::ArgumentError>(HasSubstr("longer than the context of 30")));
}

TEST(CharModelCheckpoint, RefusesWhatIsNotThisTraining) {
    const support::TemporaryFolder folder;
    const Settings settings = tiny_settings();
    const Corpus corpus(rhyme);
    const TrainingState state(settings, corpus.alphabet);
    const auto file = folder / "checkpoint";
    save_checkpoint(file, state, settings, corpus);
    const auto load = [&](const Settings& other, const Corpus& text) {
        return [&file, other, text] { (void)load_checkpoint(file, other, text); };
    };
    EXPECT_NO_THROW(load(settings, corpus)());

    Settings other = settings;
    other.steps = 7;
    EXPECT_THAT(load(other, corpus), ThrowsMessage<heed::FormatError>(
                                         HasSubstr("found settings.steps 6 in the file, 7 here")));
    other = settings;
    other.dim = 16;
    EXPECT_THROW(load(other, corpus)(), heed::FormatError);
    other = settings;
    other.seed = 2;
    EXPECT_THROW(load(other, corpus)(), heed::FormatError);

    std::string text = rhyme;
    std::swap(text[0], text[1]);  // the same letters in another order
    EXPECT_THAT(load(settings, Corpus(text)),
                ThrowsMessage<heed::FormatError>(HasSubstr("text_fingerprint")));
    EXPECT_THROW(load(settings, Corpus(rhyme + "z"))(), heed::FormatError);
}

TEST(CharModelCheckpoint, RefusesWhatIsNoCheckpoint) {
    const support::TemporaryFolder folder;
    const Settings settings = tiny_settings();
    const Corpus corpus(rhyme);
    const TrainingState state(settings, corpus.alphabet);
    const auto file = folder / "checkpoint";
    const auto load = [&] { (void)load_checkpoint(file, settings, corpus); };
    EXPECT_THROW(load(), heed::FormatError);
    std::ofstream(file) << "not a checkpoint";
    EXPECT_THROW(load(), heed::FormatError);
    heed::write_safetensors(file, {});
    EXPECT_THAT(load, ThrowsMessage<heed::FormatError>(HasSubstr("a checkpoint must tell its")));

    save_checkpoint(file, state, settings, corpus);
    heed::NamedTensors whole = heed::read_safetensors(file);
    for (const char* lost : {"alphabet", "model.head.bias", "curve.training", "curve.validation"}) {
        heed::NamedTensors part;
        part.metadata() = whole.metadata();
        for (const auto& [name, tensor] : whole)
            if (name != lost) part.add(name, tensor);
        heed::write_safetensors(file, part);
        EXPECT_THROW(load(), heed::FormatError) << lost;
    }
    heed::write_safetensors(file, whole);
    EXPECT_NO_THROW(load());
}

}  // namespace
}  // namespace char_model
