// A real model in heed: all-MiniLM-L6-v2 turns sentences into vectors that are close where their
// meanings are. Compares sentences, or finds the lines of a text that are closest to a question.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <exception>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "common/cache_folder.hpp"
#include "common/report.hpp"
#include "heed/base/thread_pool.hpp"
#include "heed/io/heatmap.hpp"
#include "progress.hpp"
#include "published_results.hpp"
#include "search.hpp"
#include "sentence_encoder.hpp"

namespace {

using namespace sentence_similarity;
using examples::item;
using heed::Tensor;

constexpr int exit_failure = 1;

struct Options {
    std::vector<std::string> sentences;
    std::filesystem::path weights = examples::cache_folder() / "all-MiniLM-L6-v2", text;
    std::size_t top = 5;
    int threads = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 64u));
    heed::Colouring colours = heed::Colouring::automatic;
};

/// "-" stands for the lines of the standard input; no sentence at all for those of the demo.
std::vector<std::string> read_sentences(const std::vector<std::string>& given) {
    if (given.empty()) return {demo_sentences.begin(), demo_sentences.end()};
    std::vector<std::string> sentences;
    for (const std::string& sentence : given) {
        if (sentence != "-") {
            sentences.push_back(sentence);
            continue;
        }
        for (std::string line; std::getline(std::cin, line);)
            if (!line.empty()) sentences.push_back(line);
    }
    if (sentences.empty())
        throw std::runtime_error("There are no sentences on the standard input.");
    return sentences;
}

void require_weights(const std::filesystem::path& folder) {
    if (std::filesystem::exists(folder / "model.safetensors")) return;
    throw std::runtime_error("There are no weights in " + folder.string() +
                             ".\nFetch them once (84 MB, Apache-2.0) with\n"
                             "    python3 examples/03_sentence_similarity/fetch_weights.py\n"
                             "or name a folder that has them with --weights DIR.");
}

/// Encodes, and says how much that was and how long it took.
Tensor<float, 2> encode(SentenceEncoder& encoder, const std::vector<std::string>& texts,
                        const std::string& what) {
    Progress progress(std::cerr, isatty(STDERR_FILENO) != 0);
    EncodingProgress last;
    Tensor<float, 2> vectors = encoder.encode(texts, [&](const EncodingProgress& now) {
        last = now;
        progress.show(now);
    });
    const double seconds = progress.seconds();
    progress.erase();
    item(what) << texts.size() << ", of " << last.tokens << " tokens, in " << std::fixed
               << std::setprecision(3) << seconds << " s: " << std::setprecision(0)
               << static_cast<double>(last.tokens) / std::max(seconds, 1e-9) << " tokens/s\n";
    return vectors;
}

/// Compares with what PyTorch says of the sentences of the demo. False when it differs.
bool agrees_with_published(heed::TensorView<const float, 2> cosines) {
    double largest = 0.0;
    for (Index i = 0; i < cosines.extent(0); ++i)
        for (Index j = 0; j < cosines.extent(1); ++j)
            largest = std::max(largest, std::abs(static_cast<double>(cosines(i, j)) -
                                                 published_similarities[i][j]));
    const bool agrees = largest <= published_tolerance;
    item("PyTorch") << (agrees ? "says the same" : "says OTHERWISE")
                    << ": the largest difference is " << std::scientific << std::setprecision(1)
                    << largest << ", of 1e-05 allowed\n";
    return agrees;
}

void print_sentences(const std::vector<std::string>& sentences) {
    std::cout << '\n';
    for (std::size_t i = 0; i < sentences.size(); ++i)
        std::cout << std::setw(4) << i + 1 << "  " << sentences[i] << '\n';
    std::cout << '\n';
}

void print_matrix(heed::TensorView<const float, 2> cosines, heed::Colouring colours) {
    std::vector<std::string> numbers;
    for (Index i = 1; i <= cosines.extent(0); ++i) numbers.push_back(std::to_string(i));
    heed::print_heatmap(std::cout, cosines,
                        {.row_labels = numbers,
                         .column_labels = numbers,
                         .low = 0.0,
                         .high = 1.0,
                         .colours = colours});
}

/// Of each sentence the other one that is closest to it.
void print_closest(heed::TensorView<const float, 2> cosines) {
    for (Index i = 0; i < cosines.extent(0); ++i) {
        const auto best = best_of({&cosines(i, 0), static_cast<std::size_t>(cosines.extent(1))}, 2);
        const auto other = static_cast<Index>(best[0]) == i ? best[1] : best[0];
        std::cout << std::setw(4) << i + 1 << "  is closest to " << std::setw(4) << other + 1
                  << std::fixed << std::setprecision(3) << std::setw(8)
                  << cosines(i, static_cast<Index>(other)) << '\n';
    }
}

SentenceEncoder read_encoder(const Options& options) {
    SentenceEncoder encoder = SentenceEncoder::read(options.weights);
    const heed::BertConfig& config = encoder.model().config();
    item("Model") << config.num_hidden_layers << " layers, " << config.num_attention_heads
                  << " heads, " << encoder.model().parameter_count() << " weights\n";
    return encoder;
}

int compare(const Options& options) {
    constexpr std::size_t widest = 48;  // more columns are too many for a terminal
    const std::vector<std::string> sentences = read_sentences(options.sentences);
    std::cout << "all-MiniLM-L6-v2 turns a sentence into a vector. The cosine between two of them "
                 "says\nhow close the meanings are: 1 for the same, about 0 for strangers.\n\n";
    SentenceEncoder encoder = read_encoder(options);
    const Tensor<float, 2> vectors = encode(encoder, sentences, "Sentences");
    const Tensor<float, 2> cosines = similarities(vectors, vectors);
    print_sentences(sentences);
    if (sentences.size() <= widest)
        print_matrix(cosines, options.colours);
    else
        print_closest(cosines);
    std::cout << '\n';
    const bool is_demo = options.sentences.empty();
    return is_demo && !agrees_with_published(cosines) ? exit_failure : 0;
}

int search(const Options& options) {
    if (options.sentences.empty())
        throw std::runtime_error("--search needs a question: what should the lines be close to?");
    const std::vector<std::string> questions = read_sentences(options.sentences);
    const Lines lines = read_lines(options.text);
    SentenceEncoder encoder = read_encoder(options);
    const Tensor<float, 2> text = encode(encoder, lines.texts, "Lines");
    const Tensor<float, 2> asked = encode(encoder, questions, "Questions");
    const Tensor<float, 2> cosines = similarities(asked, text);
    for (std::size_t q = 0; q < questions.size(); ++q) {
        const auto scores = cosines.values().subspan(q * lines.texts.size(), lines.texts.size());
        std::cout << '\n' << questions[q] << '\n';
        for (const std::size_t place : best_of(scores, options.top))
            std::cout << std::fixed << std::setprecision(3) << std::setw(8) << scores[place]
                      << "  line " << lines.numbers[place] << ": " << lines.texts[place] << '\n';
    }
    return 0;
}

int run(const Options& options) {
    require_weights(options.weights);
    heed::set_num_threads(options.threads);
    return options.text.empty() ? compare(options) : search(options);
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app{
        "Compares the meanings of sentences with all-MiniLM-L6-v2 run by heed, or finds the lines "
        "of\n"
        "a text that are closest in meaning to a question.\n"
        "Exit codes: 0 done, 1 no weights, no text, or not the similarities that PyTorch finds."};
    Options options;
    bool no_color = false;
    app.add_option("sentences", options.sentences,
                   "What to compare, or with --search to ask; - reads lines from the standard "
                   "input [six sentences, whose similarities are known]")
        ->type_name("TEXT");
    app.add_option("--search", options.text, "Find the closest lines of this text (UTF-8)")
        ->type_name("FILE");
    app.add_option("--top", options.top, "How many lines to show for each question")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    app.add_option("--weights", options.weights,
                   "The folder that fetch_weights.py writes: model.safetensors, vocab.txt")
        ->type_name("DIR")
        ->capture_default_str();
    app.add_option("--threads", options.threads, "At most; the results are the same")
        ->check(CLI::Range(1, 1024))
        ->capture_default_str();
    app.add_flag("--no-color", no_color, "Draw without colours, as for anything but a terminal");
    CLI11_PARSE(app, argc, argv);
    if (no_color) options.colours = heed::Colouring::none;
    try {
        return run(options);
    } catch (const std::exception& error) {
        std::cerr << error.what() << '\n';
        return exit_failure;
    }
}
