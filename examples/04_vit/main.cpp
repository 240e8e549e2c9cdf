// A vision transformer in heed: which classes timm's models see in a picture, and which parts of it
// they look at.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <new>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "heed/base/thread_pool.hpp"
#include "heed/io/heatmap.hpp"
#include "heed/io/safetensors.hpp"
#include "heed/ops/softmax.hpp"
#include "image.hpp"
#include "preprocess.hpp"
#include "pytorch_answers.hpp"
#include "rollout.hpp"
#include "seeded_weights.hpp"
#include "vision_transformer.hpp"

namespace {

using namespace vit;
using Model = VisionTransformer<float>;
using Path = std::filesystem::path;

constexpr int exit_failure = 1;

struct Options {
    std::vector<Path> images;
    Path weights, save_weights, labels, png;
    Choices choices;
    Index image_size = 0;  ///< 0: the model's own
    Normalisation normalisation = inception;
    double crop_pct = 0.9;
    Index top = 5, batch = 8;
    int threads = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 4u));
    bool rollout = true;
    heed::Colouring colours = heed::Colouring::automatic;
};

/// A picture on its way: the square of it that the model sees, and the same for a person.
struct Input {
    std::string description;
    Image seen, shown;
};

/// What the model makes of some inputs.
struct Answers {
    heed::Tensor<float, 2> logits;     ///< [inputs, classes]
    heed::Tensor<float, 4> attention;  ///< [depth, inputs, tokens, tokens]; empty without rollout
    std::chrono::duration<double> time{};
};

/// One line of the report: what it is, and the rest from a fixed column on.
std::ostream& item(std::string_view what) {
    return std::cout << std::left << std::setw(12) << what << std::right;
}

std::string times(Index width, Index height) {
    return std::to_string(width) + " x " + std::to_string(height);
}

// --- Before the model runs ---------------------------------------------------------------------

Model make_model(const Options& options) {
    if (!options.weights.empty())
        return Model(heed::read_safetensors(options.weights), options.choices);
    Model model(Architecture::tiny(/*classes=*/100));
    fill_seeded(model);
    if (options.save_weights.empty()) return model;
    heed::NamedTensors weights;
    model.save(weights);
    heed::write_safetensors(options.save_weights, weights);
    return model;
}

/// A name for each class; none without a file.
std::vector<std::string> read_labels(const Path& path, Index classes) {
    std::vector<std::string> labels;
    if (path.empty()) return labels;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        if (line.ends_with('\r')) line.pop_back();
        labels.push_back(line);
    }
    if (std::ssize(labels) != classes)
        throw heed::FormatError("[read_labels] there must be a line for each of " +
                                std::to_string(classes) + " classes; found " +
                                std::to_string(labels.size()) + " in '" + path.string() + "'");
    return labels;
}

/// The weights of all blocks, which rollout needs at once, grow with the square of the patches.
void require_memory(const Architecture& a, const Options& options) {
    if (!options.rollout) return;
    constexpr double most = 4.0 * (1 << 30);
    const Index together = std::clamp<Index>(std::ssize(options.images), 1, options.batch);
    const double bytes = sizeof(float) * static_cast<double>(a.depth * together) *
                         std::pow(static_cast<double>(a.tokens()), 2.0);
    if (bytes > most)
        throw std::runtime_error("The attention of " + std::to_string(a.depth) + " blocks with " +
                                 std::to_string(a.tokens()) +
                                 " tokens would take more than 4 GiB: see --no-rollout, --batch "
                                 "and --image-size.");
}

Input make_input(const std::string& name, const Image& picture, Index size, double crop_pct) {
    constexpr Index shown_size = 448;  // small squares are shown larger than the model sees them
    const Index zoom = std::max<Index>(1, shown_size / size), side = resized_side(size, crop_pct);
    return {.description = name + ", " + times(picture.extent(1), picture.extent(0)),
            .seen = centre_square(picture, size, side),
            .shown = centre_square(picture, zoom * size, zoom * side)};
}

std::vector<Input> read_inputs(std::span<const Path> paths, Index size, double crop_pct) {
    std::vector<Input> inputs;
    for (const Path& path : paths)
        inputs.push_back(make_input(path.string(), read_image(path), size, crop_pct));
    return inputs;
}

// --- What comes out ----------------------------------------------------------------------------

Answers run_model(Model& model, std::span<const Input> inputs, const Options& options) {
    const Architecture& a = model.architecture();
    const Index count = std::ssize(inputs);
    heed::Tensor<float, 4> images({count, Index{3}, a.image_size, a.image_size});
    for (Index i = 0; i < count; ++i)
        normalise(inputs[static_cast<std::size_t>(i)].seen, options.normalisation,
                  images.view().select(0, i));
    Answers answers;
    if (options.rollout)
        answers.attention = heed::Tensor<float, 4>({a.depth, count, a.tokens(), a.tokens()});
    const auto begin = std::chrono::steady_clock::now();
    answers.logits = model.forward(images, answers.attention);
    answers.time = std::chrono::steady_clock::now() - begin;
    for (const float logit : answers.logits.values())
        if (!std::isfinite(logit))
            throw std::runtime_error(
                "The model's answers are no finite numbers, with these weights.");
    return answers;
}

/// The share of each token in the answer to one input.
heed::Tensor<double, 1> token_shares(const Model& model, const Answers& answers, Index i) {
    return attention_rollout(heed::read(answers.attention).select(1, i),
                             heed::read(model.pool_weights()));
}

/// Those of the patches, [grid, grid].
heed::Tensor<double, 2> patch_shares(const Model& model, const Answers& answers, Index i) {
    const Architecture& a = model.architecture();
    const heed::Tensor<double, 1> shares = token_shares(model, answers, i);
    return heed::Tensor<double, 2>(
        shares.view().slice(0, a.prefix(), a.patches()).split(0, a.grid()));
}

void print_model(const Model& model, const Options& options) {
    const Architecture& a = model.architecture();
    item("Model") << "ViT: " << a.depth << " blocks, " << a.heads << " heads, width " << a.width
                  << "; " << times(a.grid(), a.grid()) << " patches of "
                  << times(a.patch_size, a.patch_size) << " pixels\n";
    item("Weights") << model.parameter_count() << ", "
                    << (options.weights.empty() ? "random" : "of " + options.weights.string())
                    << '\n';
    if (options.weights.empty())
        item("") << "The classes mean nothing, nor does where it looks: what is checked is\n"
                 << std::string(12, ' ') << "that heed computes what PyTorch computes.\n";
}

void print_classes(std::span<const float> logits, const std::vector<std::string>& labels,
                   Index top) {
    std::vector<float> probabilities(logits.begin(), logits.end());
    heed::softmax(std::span(probabilities));
    std::vector<std::size_t> order(logits.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::stable_sort(order, [&](auto a, auto b) { return logits[a] > logits[b]; });
    order.resize(std::min(order.size(), static_cast<std::size_t>(top)));
    item("Class") << "probability\n";
    for (const std::size_t i : order)
        item("  " + std::to_string(i)) << std::fixed << std::setprecision(4) << probabilities[i]
                                       << (labels.empty() ? "" : "       " + labels[i]) << '\n';
}

void print_shares(heed::TensorView<const double, 2> shares, heed::Colouring colours) {
    heed::Tensor<double, 2> relative(shares);
    const double mean = relative.matrix().mean();
    for (double& share : relative.values()) share /= mean;
    std::cout << "\nWhere it looks, by attention rollout; 1 is an average patch\n\n";
    heed::print_heatmap(std::cout, relative,
                        {.low = std::ranges::min(relative.values()), .colours = colours});
}

/// "looks.png" for a single picture, else "looks-1.png" and so on.
Path numbered(const Path& path, std::size_t number, std::size_t count) {
    if (count == 1) return path;
    Path result = path;
    return result.replace_filename(path.stem().string() + "-" + std::to_string(number) +
                                   path.extension().string());
}

/// The largest difference from PyTorch; false unless rounding explains it.
template <std::size_t count>
bool agrees(std::string_view what, std::span<const double> found,
            const pytorch_answers::Answer<count>& answer) {
    double difference = 0.0;
    for (std::size_t i = 0; i < count; ++i)
        difference = std::max(difference, std::abs(found[i] - answer.values[i]));
    const bool within = difference <= answer.tolerance();
    item("  " + std::string(what))
        << std::scientific << std::setprecision(1) << difference << ", with plain sums "
        << answer.plain_error << (within ? "" : ": this is NOT what PyTorch computes") << '\n';
    return within;
}

bool agrees_with_pytorch(const Model& model, const Answers& answers) {
    std::cout << "Largest differences of float from PyTorch in float64\n";
    const auto row = answers.logits.values();
    const std::vector<double> logits(row.begin(), row.end());
    bool all = agrees("logits", logits, pytorch_answers::logits);
    if (!answers.attention.empty())
        all =
            agrees("rollout", token_shares(model, answers, 0).values(), pytorch_answers::rollout) &&
            all;
    return all;
}

/// Runs the model on some inputs, the first of which has that number, and tells of each.
Answers look(Model& model, std::span<const Input> inputs, std::size_t number,
             const std::vector<std::string>& labels, const Options& options) {
    Answers answers = run_model(model, inputs, options);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        const auto row = static_cast<Index>(i);
        std::cout << '\n';
        item("Picture") << inputs[i].description << '\n';
        if (model.architecture().classes == 0)
            item("Class") << "none: these weights have no head\n";
        else
            print_classes({answers.logits.view().row(row),
                           static_cast<std::size_t>(answers.logits.extent(1))},
                          labels, options.top);
        if (!options.rollout) continue;
        const heed::Tensor<double, 2> shares = patch_shares(model, answers, row);
        print_shares(shares, options.colours);
        if (options.png.empty()) continue;
        const Path png =
            numbered(options.png, number + i, std::max<std::size_t>(1, options.images.size()));
        write_png(png, draw_over(inputs[i].shown, shares));
        std::cout << '\n';
        item("Drawn") << png.string() << '\n';
    }
    return answers;
}

void print_time(std::chrono::duration<double> time, std::size_t pictures) {
    std::cout << '\n';
    item("Time") << std::fixed << std::setprecision(1) << time.count() * 1e3 << " ms, "
                 << static_cast<double>(pictures) / time.count() << " pictures/s, "
                 << heed::num_threads() << (heed::num_threads() == 1 ? " thread\n" : " threads\n");
}

/// True when nothing was asked for that changes what PyTorch was asked.
bool has_known_answers(const Options& options) {
    const Options usual;
    return options.images.empty() && options.weights.empty() && options.image_size == 0 &&
           options.crop_pct == usual.crop_pct && options.normalisation == usual.normalisation;
}

int run(const Options& options) {
    heed::set_num_threads(options.threads);
    Model model = make_model(options);
    if (options.image_size != 0) model.set_image_size(options.image_size);
    const Architecture& a = model.architecture();
    const std::vector<std::string> labels = read_labels(options.labels, a.classes);
    require_memory(a, options);
    print_model(model, options);

    if (options.images.empty()) {
        const std::vector<Input> drawn{make_input("a landscape that this program draws",
                                                  drawn_landscape(), a.image_size,
                                                  options.crop_pct)};
        const Answers answers = look(model, drawn, 1, labels, options);
        print_time(answers.time, 1);
        const bool fine = !has_known_answers(options) || agrees_with_pytorch(model, answers);
        return fine ? 0 : exit_failure;
    }
    std::chrono::duration<double> time{};
    const std::span<const Path> paths(options.images);
    const auto batch = static_cast<std::size_t>(options.batch);
    for (std::size_t i = 0; i < paths.size(); i += batch) {
        const auto some = paths.subspan(i, std::min(batch, paths.size() - i));
        const std::vector<Input> inputs = read_inputs(some, a.image_size, options.crop_pct);
        time += look(model, inputs, i + 1, labels, options).time;
    }
    print_time(time, paths.size());
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app{
        "Classifies pictures with a vision transformer as timm has it, and shows where it looks.\n"
        "Without --weights its weights are random: the classes mean nothing then, and without a\n"
        "picture either, what heed computes is compared with what PyTorch computed.\n"
        "Exit codes: 0 done, 1 something does not fit, or the results are not PyTorch's."};
    Options options;
    std::string normalisation = "inception", pool;
    bool no_rollout = false, no_color = false;
    app.add_option("images", options.images, "PNG or JPEG files [a landscape drawn by the program]")
        ->type_name("FILE");
    auto* const weights = app.add_option("--weights", options.weights,
                                         "The model: a timm VisionTransformer's model.safetensors")
                              ->type_name("FILE");
    app.add_option("--save-weights", options.save_weights,
                   "Write the random weights there, to load them elsewhere (timm's "
                   "vit_tiny_patch16_224 with 100 classes)")
        ->type_name("FILE")
        ->excludes(weights);
    app.add_option("--labels", options.labels, "Names of the classes, a line for each")
        ->type_name("FILE");
    auto* const png =
        app.add_option("--png", options.png,
                       "Draw where it looks over the picture; of several, FILE-1, FILE-2, ...")
            ->type_name("FILE");
    app.add_flag("--no-rollout", no_rollout, "Only classify; attention then keeps no weights")
        ->excludes(png);
    app.add_option("--top", options.top, "How many classes to tell")
        ->check(CLI::Range(1, 100000))
        ->capture_default_str();
    app.add_option("--mean-std", normalisation,
                   "Colours that the model was trained with: inception (0.5, 0.5; Google's ViTs)\n"
                   "or imagenet (DeiT, DINO and others)")
        ->check(CLI::IsMember({"inception", "imagenet"}))
        ->capture_default_str();
    app.add_option("--crop-pct", options.crop_pct, "Which part of the shorter side is looked at")
        ->check(CLI::Range(0.01, 1.0))
        ->capture_default_str();
    app.add_option("--image-size", options.image_size,
                   "Pixels of the square it reads; positions are resized [as in the weights]")
        ->check(CLI::Range(1, 100000));
    app.add_option("--heads", options.choices.heads,
                   "Heads of each block [width / 64; 16 for the widths of ViT-H, -g, -G, So400m]")
        ->check(CLI::Range(1, 100000))
        ->needs(weights);
    app.add_option("--pool", pool,
                   "Where classes are read: token or average [average with fc_norm or without a "
                   "class token]")
        ->check(CLI::IsMember({"token", "average"}))
        ->needs(weights);
    app.add_option("--batch", options.batch, "Pictures that are computed together, at most")
        ->check(CLI::Range(1, 100000))
        ->capture_default_str();
    app.add_option("--threads", options.threads, "At most; the results are the same")
        ->check(CLI::Range(1, 1024))
        ->capture_default_str();
    app.add_flag("--no-color", no_color, "Draw without colours, as for anything but a terminal");
    CLI11_PARSE(app, argc, argv);
    options.rollout = !no_rollout;
    if (no_color) options.colours = heed::Colouring::none;
    if (normalisation == "imagenet") options.normalisation = imagenet;
    if (!pool.empty()) options.choices.pool = pool == "token" ? Pool::token : Pool::average;
    try {
        return run(options);
    } catch (const std::bad_alloc&) {
        std::cerr << "There is not enough memory for this model or these pictures.\n";
        return exit_failure;
    } catch (const std::exception& error) {
        std::cerr << error.what() << '\n';
        return exit_failure;
    }
}
