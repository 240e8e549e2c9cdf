#include "checkpoint.hpp"

#include <algorithm>
#include <charconv>
#include <span>
#include <string>
#include <string_view>

#include "heed/io/safetensors.hpp"

namespace char_model {

namespace {

[[noreturn]] void refuse(const std::string& rule, const std::string& found) {
    throw heed::FormatError("[load_checkpoint] " + rule + "; found " + found);
}

/// The shortest text that reads back as this number.
std::string text(auto number) {
    std::array<char, 32> digits{};
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr;
    return {digits.data(), end};
}

/// What a training and its checkpoint must agree in.
heed::NamedTensors::Metadata description(const Settings& settings, const Corpus& corpus) {
    heed::NamedTensors::Metadata metadata{{"format", "heed char model 1"},
                                          {"text_size", text(corpus.size())},
                                          {"text_fingerprint", text(corpus.fingerprint)}};
    settings.visit([&](std::string_view name, auto value) {
        metadata.emplace("settings." + std::string(name), text(value));
    });
    return metadata;
}

void require_agreement(const heed::NamedTensors::Metadata& found,
                       const heed::NamedTensors::Metadata& wanted) {
    for (const auto& [name, value] : wanted) {
        const auto place = found.find(name);
        if (place == found.end()) refuse("a checkpoint must tell its " + name, "none");
        if (place->second != value)
            refuse("the checkpoint must be of the training that is to go on",
                   name + " " + place->second + " in the file, " + value + " here");
    }
}

std::span<const std::uint8_t> bytes(const std::string& letters) {
    return {reinterpret_cast<const std::uint8_t*>(letters.data()), letters.size()};
}

void add_curve(heed::NamedTensors& tensors, const Curve& curve) {
    const std::span<const double> training(curve.training);
    tensors.add("curve.training", heed::Tensor<double, 1>(training.size(), training));
    heed::Tensor<double, 2> validation({curve.validation.size(), std::size_t{2}});
    for (Index i = 0; i < validation.extent(0); ++i) {
        const Curve::Validation& point = curve.validation[static_cast<std::size_t>(i)];
        validation(i, 0) = static_cast<double>(point.step);
        validation(i, 1) = point.loss;
    }
    tensors.add("curve.validation", validation);
}

Curve read_curve(const heed::NamedTensors& tensors) {
    Curve curve;
    const auto training = tensors.view<double, 1>("curve.training");
    curve.training.assign(training.data(), training.data() + training.extent(0));
    const auto validation = tensors.view<double, 2>("curve.validation");
    if (validation.extent(1) != 2)
        refuse("curve.validation must be [n, 2]", to_string(validation.shape()));
    for (Index i = 0; i < validation.extent(0); ++i)
        curve.validation.push_back({static_cast<Index>(validation(i, 0)), validation(i, 1)});
    return curve;
}

}  // namespace

void save_checkpoint(const std::filesystem::path& file, const TrainingState& state,
                     const Settings& settings, const Corpus& corpus) {
    heed::NamedTensors tensors;
    tensors.metadata() = description(settings, corpus);
    tensors.add("alphabet", heed::Tensor<std::uint8_t, 1>(corpus.alphabet.letters().size(),
                                                          bytes(corpus.alphabet.letters())));
    state.model.save(tensors, "model.");
    state.adamw.save(tensors, "adamw.");
    add_curve(tensors, state.curve);
    heed::write_safetensors(file, tensors);
}

TrainingState load_checkpoint(const std::filesystem::path& file, const Settings& settings,
                              const Corpus& corpus) {
    const heed::NamedTensors tensors = heed::read_safetensors(file);
    require_agreement(tensors.metadata(), description(settings, corpus));
    const auto alphabet = tensors.view<std::uint8_t, 1>("alphabet");
    if (!std::ranges::equal(std::span(alphabet.data(), alphabet.element_count()),
                            bytes(corpus.alphabet.letters())))
        refuse("the checkpoint must have the alphabet of the text",
               "one of " + text(alphabet.extent(0)) + " letters");
    TrainingState state(settings, corpus.alphabet);
    state.model.load(tensors, "model.");
    state.adamw.load(tensors, "adamw.");
    state.curve = read_curve(tensors);
    return state;
}

}  // namespace char_model
