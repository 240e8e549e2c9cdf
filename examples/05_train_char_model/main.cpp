// A small transformer learns to write, letter by letter, from a book: heed's layers forward and
// backward, its optimizer, and what a training needs besides. Can be stopped at any time.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <exception>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>

#include "checkpoint.hpp"
#include "common/cache_folder.hpp"
#include "common/report.hpp"
#include "heed/base/thread_pool.hpp"
#include "plot.hpp"
#include "progress.hpp"
#include "sampling.hpp"
#include "trainer.hpp"

namespace {

using namespace char_model;
using examples::item;

constexpr int exit_failure = 1, exit_interrupted = 130;  // as a shell tells of Ctrl-C

struct Options {
    std::filesystem::path text, checkpoint = "char_model.safetensors", plot;
    bool quick = false, resume = false;
    std::optional<Index> steps;
    Index stop_after = 0;
    std::uint64_t seed = 1;
    int threads = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 4u));
    Index sample = 600;
    std::string prompt;
    double temperature = 0.6;

    [[nodiscard]] Settings settings() const {
        Settings settings = quick ? Settings::quick() : Settings();
        settings.steps = steps.value_or(settings.steps);
        settings.warmup_steps = std::min(settings.warmup_steps, settings.steps);
        settings.seed = seed;
        return settings;
    }
};

volatile std::sig_atomic_t interrupted = 0;

/// The first Ctrl-C asks for an end after the step in work; the second ends the program.
void end_soon(int signal) {
    interrupted = 1;
    std::signal(signal, SIG_DFL);
}

/// What could spoil the end is refused at the begin.
void require_means(const Options& options) {
    if (!std::filesystem::exists(options.text))
        throw std::runtime_error(
            "There is no text at " + options.text.string() +
            ".\nGet the book once (4 MB, of the Debian package bible-kjv) with\n"
            "    examples/05_train_char_model/fetch_text.sh\n"
            "or name a text of your own with --text FILE.");
    if (!options.resume && std::filesystem::exists(options.checkpoint))
        throw std::runtime_error("There is a checkpoint at " + options.checkpoint.string() +
                                 " already.\nGo on from it with --resume, name another file with "
                                 "--checkpoint FILE, or remove it.");
    if (options.plot.empty()) return;
    (void)plot_script(options.plot, {});
    if (!can_plot())
        throw std::runtime_error("--plot needs gnuplot (Debian and Ubuntu: gnuplot-nox).");
}

/// Trains up to the last step, to a stop that was asked for, or to Ctrl-C. Saves then, and at each
/// validation, so that not even a power cut loses much.
void train(TrainingState& state, const Settings& settings, const Corpus& corpus,
           const Options& options) {
    heed::set_num_threads(options.threads);
    Trainer trainer(settings, corpus, state);
    const Index first = state.step();
    const Index end = options.stop_after > 0 ? std::min(settings.steps, first + options.stop_after)
                                             : settings.steps;
    Progress progress(std::cerr, isatty(STDERR_FILENO) != 0, first, settings.steps,
                      settings.batch * settings.context);
    std::signal(SIGINT, end_soon);
    bool goes_on = state.step() < end;
    while (goes_on) {
        trainer.step();
        goes_on = state.step() < end && !interrupted;
        const auto& validation = state.curve.validation;
        const bool validated = !validation.empty() && validation.back().step == state.step();
        if (validated || !goes_on) save_checkpoint(options.checkpoint, state, settings, corpus);
        progress.show(state.step(), state.curve.smoothed(state.step()),
                      validation.empty() ? std::nullopt : std::optional(validation.back().loss));
    }
    progress.finish();
    std::signal(SIGINT, SIG_DFL);
}

void report(const TrainingState& state, const Settings& settings, const Options& options) {
    const Curve& curve = state.curve;
    item("Steps") << state.step() << " of " << settings.steps << '\n';
    item("Loss") << std::fixed << std::setprecision(4) << curve.smoothed(state.step())
                 << " training";
    if (!curve.validation.empty()) std::cout << ", " << curve.validation.back().loss << " held out";
    std::cout << " (nats per letter)\n";
    item("Checkpoint") << options.checkpoint.string() << '\n';
    if (!options.plot.empty()) item("Plot") << options.plot.string() << '\n';
    if (state.step() < settings.steps)
        std::cout << "\nStopped before the end. The same command with --resume goes on.\n";
}

int run(const Options& options) {
    require_means(options);
    const Settings settings = options.settings();
    const Corpus corpus(read_text(options.text));
    TrainingState state = options.resume ? load_checkpoint(options.checkpoint, settings, corpus)
                                         : TrainingState(settings, corpus.alphabet);
    item("Text") << options.text.filename().string() << ", " << corpus.size() << " letters, "
                 << corpus.alphabet.size() << " different; the last 5 % held out\n";
    item("Model") << settings.layers << " layers, " << settings.heads << " heads, width "
                  << settings.dim << ", " << state.model.parameter_count() << " weights; sees "
                  << settings.context << " letters\n"
                  << std::flush;
    for (char letter : options.prompt) (void)corpus.alphabet.id(letter);
    // At once, so that a place that cannot be written is refused before the work.
    if (!options.resume) save_checkpoint(options.checkpoint, state, settings, corpus);
    train(state, settings, corpus, options);
    if (!options.plot.empty()) write_plot(options.plot, state.curve);
    report(state, settings, options);
    if (interrupted) return exit_interrupted;
    if (options.sample > 0) {
        std::cout << "\n" << options.prompt;
        sample_text(std::cout, state.model, corpus.alphabet, options.prompt, options.sample,
                    options.temperature, settings.seed);
        std::cout << '\n';
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app{
        "Trains a small transformer to write like a text, letter by letter, and lets it write.\n"
        "Ctrl-C stops and saves; the same command with --resume goes on, bit for bit as if it had\n"
        "never stopped. With --resume, a training that is complete writes again.\n"
        "Exit codes: 0 done, 1 no text or not a fitting checkpoint, 130 stopped by Ctrl-C."};
    Options options;
    options.text = examples::cache_folder() / "kjv.txt";
    app.add_option("--text", options.text, "What to learn: any text of bytes")
        ->type_name("FILE")
        ->capture_default_str();
    app.add_option("--checkpoint", options.checkpoint, "Where the training is kept (safetensors)")
        ->type_name("FILE")
        ->capture_default_str();
    app.add_flag("--resume", options.resume, "Go on from the checkpoint");
    app.add_flag("--quick", options.quick, "A small model and a short way: some seconds");
    app.add_option("--steps", options.steps, "How many [3000, with --quick 1000]")
        ->check(CLI::PositiveNumber);
    app.add_option("--stop-after", options.stop_after, "Stop and save after so many steps more")
        ->check(CLI::PositiveNumber);
    app.add_option("--seed", options.seed, "Of weights, windows and samples")
        ->capture_default_str();
    app.add_option("--threads", options.threads, "At most; the results are the same")
        ->check(CLI::Range(1, 1024))
        ->capture_default_str();
    app.add_option("--plot", options.plot, "Draw the losses into this file, .svg or .png")
        ->type_name("FILE");
    app.add_option("--sample", options.sample, "How many letters to write at the end")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    app.add_option("--prompt", options.prompt, "What they continue");
    app.add_option("--temperature", options.temperature, "0 writes the likeliest letters, 1 draws")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    CLI11_PARSE(app, argc, argv);
    try {
        return run(options);
    } catch (const std::exception& error) {
        std::cerr << error.what() << '\n';
        return exit_failure;
    }
}
