// A real model in heed: RXNMapper's encoder reads a chemical reaction, and one of its attention
// heads tells which atom of the reactants each atom of the product was.

#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <exception>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "albert.hpp"
#include "atom_mapper.hpp"
#include "common/cache_folder.hpp"
#include "common/report.hpp"
#include "heed/io/heatmap.hpp"
#include "heed/io/safetensors.hpp"
#include "published_results.hpp"

namespace {

using namespace atom_mapping;
using examples::item;
using heed::Index;

constexpr int exit_failure = 1, exit_bad_reaction = 2;

struct Options {
    std::string reaction{published_results.front().reaction};
    std::filesystem::path weights, vocabulary, png;
    Index layer = mapping_layer, head = mapping_head;
    heed::Colouring colours = heed::Colouring::automatic;
};

/// "C4", counted from 1 as the numbers in the mapped reaction are.
std::string name(const std::vector<Atom>& atoms, std::size_t i) {
    return atoms[i].element + std::to_string(i + 1);
}

std::vector<std::string> names(const std::vector<Atom>& atoms) {
    std::vector<std::string> result;
    for (std::size_t i = 0; i < atoms.size(); ++i) result.push_back(name(atoms, i));
    return result;
}

/// The molecule of an atom, as it is written in the reaction.
std::string molecule_of(const Reaction& reaction, const Atom& atom) {
    const auto is_end = [&](std::size_t piece) {
        return reaction.pieces[piece].text == "." || reaction.pieces[piece].text == ">>";
    };
    std::size_t begin = atom.piece;
    while (begin > 0 && !is_end(begin - 1)) --begin;
    std::string text;
    for (std::size_t i = begin; i < reaction.pieces.size() && !is_end(i); ++i)
        text += reaction.pieces[i].text;
    return text;
}

void require_length(const Reaction& reaction) {
    const std::size_t count = tokens(reaction.pieces).size();
    if (std::cmp_greater(count, Albert::longest))
        throw SmilesError("the model reads at most " + std::to_string(Albert::longest) +
                              " tokens; the reaction has " + std::to_string(count),
                          0);
}

void require_weights(const std::filesystem::path& weights) {
    if (std::filesystem::exists(weights)) return;
    throw std::runtime_error("There are no weights at " + weights.string() +
                             ".\nFetch them once (3 MB, MIT licence) with\n"
                             "    python3 examples/02_atom_mapping/fetch_weights.py\n"
                             "or name your own with --weights PATH.");
}

/// Attention weights of every layer and head, [layers, heads, tokens, tokens].
heed::Tensor<float, 4> run_model(Albert& model, const std::vector<int>& ids) {
    heed::Tensor<float, 4> weights(
        {Albert::layers, Albert::heads, std::ssize(ids), std::ssize(ids)});
    const auto begin = std::chrono::steady_clock::now();
    (void)model(ids, weights);
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;
    item("Encoder") << Albert::layers << " layers, " << Albert::heads << " heads, "
                    << model.parameter_count() << " weights, " << std::fixed << std::setprecision(1)
                    << time.count() << " ms\n";
    return weights;
}

void draw_head(heed::TensorView<const float, 2> attention, const Reaction& reaction,
               const Options& options) {
    constexpr std::size_t widest = 60;
    std::cout << "\nLayer " << options.layer << ", head " << options.head
              << ": how the attention between product atoms (rows) and reactant\n"
                 "atoms (columns) of the same element is shared\n\n";
    if (reaction.reactants.size() > widest) {
        std::cout << "(too wide for a terminal; see --png)\n";
        return;
    }
    heed::print_heatmap(std::cout, attention_shares(attention, reaction),
                        {.row_labels = names(reaction.products),
                         .column_labels = names(reaction.reactants),
                         .low = 0.0,
                         .high = 1.0,
                         .colours = options.colours});
}

void write_png(heed::TensorView<const float, 3> heads, const Reaction& reaction,
               const Options& options) {
    constexpr std::size_t most_labels = 160;  // more would make a picture too large to look at
    heed::HeatmapOptions picture{
        .title = "Layer " + std::to_string(options.layer) + ": " + options.reaction, .low = 0.0};
    const std::vector<std::string> labels = tokens(reaction.pieces);
    if (labels.size() <= most_labels) picture.row_labels = picture.column_labels = labels;
    for (Index head = 0; head < Albert::heads; ++head) {
        const bool maps = options.layer == mapping_layer && head == mapping_head;
        picture.head_labels.push_back("head " + std::to_string(head) +
                                      (maps ? ", which maps atoms" : ""));
    }
    heed::write_heatmap_grid_png(options.png, heads, picture);
    item("Picture") << options.png.string() << ", all heads of layer " << options.layer << '\n';
}

void print_mapping(const Reaction& reaction, const AtomMapping& mapping) {
    std::vector<bool> used(reaction.reactants.size());
    std::cout << "\nProduct     was reactant   confidence   in molecule\n";
    for (std::size_t p = 0; p < reaction.products.size(); ++p) {
        item("  " + name(reaction.products, p));
        if (mapping.reactant_of[p] < 0) {
            std::cout << "<-  (none)\n";
            continue;
        }
        const auto r = static_cast<std::size_t>(mapping.reactant_of[p]);
        used[r] = true;
        std::cout << "<-  " << std::left << std::setw(11) << name(reaction.reactants, r)
                  << std::fixed << std::setprecision(6) << mapping.confidences[p] << "     "
                  << molecule_of(reaction, reaction.reactants[r]) << std::right << '\n';
    }
    std::string left;
    for (std::size_t r = 0; r < used.size(); ++r)
        if (!used[r]) left += ' ' + name(reaction.reactants, r);
    if (!left.empty()) std::cout << "  not in the product:" << left << '\n';
    std::cout << '\n';
}

/// Compares with what was published of this reaction, if anything was. False when it differs.
bool agrees_with_published(const std::string& smiles, const AtomMapping& mapping) {
    const auto published = published_result(smiles);
    if (!published) return true;
    const double difference = std::abs(mapping.confidence / published->confidence - 1.0);
    const bool agrees = difference <= published_tolerance &&
                        mapping.reactant_of == reactants_in(published->mapping);
    item("Published") << std::fixed << std::setprecision(10) << published->confidence << ", ";
    if (agrees)
        std::cout << "the same mapping; equal within 1e-5\n";
    else
        std::cout << "NOT what we got\n";
    return agrees;
}

int map_reaction(const Options& options) {
    const Reaction reaction = parse_reaction(options.reaction);
    require_length(reaction);
    require_weights(options.weights);
    const std::vector<int> ids = Vocabulary::read(options.vocabulary).ids(reaction.pieces);
    Albert model(heed::read_safetensors(options.weights));

    std::cout
        << "RXNMapper learned chemistry by reading reactions as text, without labels. One of\n"
           "its attention heads follows each atom from the reactants to the product.\n\n";
    item("Reaction") << options.reaction << '\n';
    item("Tokens") << ids.size() << ':';
    for (const std::string& token : tokens(reaction.pieces)) std::cout << ' ' << token;
    std::cout << '\n';

    const heed::Tensor<float, 4> weights = run_model(model, ids);
    const auto head = [&](Index l, Index h) { return weights.view().select(0, l).select(0, h); };
    draw_head(head(options.layer, options.head), reaction, options);

    const AtomMapping mapping = map_atoms(head(mapping_layer, mapping_head), reaction);
    print_mapping(reaction, mapping);
    item("Mapped") << write_mapped(reaction, mapping) << '\n';
    item("Confidence") << (mapping.confidence < 1e-4 ? std::scientific : std::fixed)
                       << std::setprecision(10) << mapping.confidence << '\n';
    const bool agrees = agrees_with_published(options.reaction, mapping);
    if (!options.png.empty()) write_png(weights.view().select(0, options.layer), reaction, options);
    return agrees ? 0 : exit_failure;
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app{
        "Tells which reactant atom each product atom was, with RXNMapper's encoder run by heed.\n"
        "The reaction is read as it is written: no canonical SMILES is made of it.\n"
        "Exit codes: 0 done, 1 no weights or not the published result, 2 not a reaction."};
    Options options;
    bool no_color = false;
    options.weights = examples::cache_folder() / "rxnmapper" / "model.safetensors";
    app.add_option("reaction", options.reaction, "Reaction SMILES, reactants>>products")
        ->capture_default_str();
    app.add_option("--weights", options.weights, "The model, as fetch_weights.py writes it")
        ->type_name("PATH")
        ->capture_default_str();
    app.add_option("--vocab", options.vocabulary, "Its vocabulary [vocab.txt beside the weights]")
        ->type_name("PATH");
    app.add_option("--png", options.png, "Write all heads of the layer to this file, as a picture")
        ->type_name("PATH");
    app.add_option("--layer", options.layer, "The layer to draw; the mapping is always layer 10's")
        ->check(CLI::Range(Index{0}, Albert::layers - 1))
        ->capture_default_str();
    app.add_option("--head", options.head, "The head to draw; the mapping is always head 5's")
        ->check(CLI::Range(Index{0}, Albert::heads - 1))
        ->capture_default_str();
    app.add_flag("--no-color", no_color, "Draw without colours, as for anything but a terminal");
    CLI11_PARSE(app, argc, argv);
    if (no_color) options.colours = heed::Colouring::none;
    if (options.vocabulary.empty())
        options.vocabulary = options.weights.parent_path() / "vocab.txt";
    try {
        return map_reaction(options);
    } catch (const SmilesError& error) {
        std::cerr << "This reaction cannot be mapped: " << error.what() << ".\n    "
                  << options.reaction << "\n    " << std::string(error.position(), ' ') << "^\n";
        return exit_bad_reaction;
    } catch (const std::exception& error) {
        std::cerr << error.what() << '\n';
        return exit_failure;
    }
}
