// Attention on one sentence, from word vectors through four kinds of attention.
//
// Sentence, weights and results are those of a published tutorial (tutorial_data.hpp names it):
// each section compares what heed computes with the figures printed there.

#include <CLI/CLI.hpp>
#include <array>
#include <exception>
#include <iomanip>
#include <iostream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "heed/heed.hpp"
#include "heed/io/heatmap.hpp"
#include "tutorial_data.hpp"

namespace {

using heed::Index;
using heed::Tensor;
using Matrix = heed::TensorView<const float, 2>;

constexpr Index d_in = tutorial::embed_dim, d_k = tutorial::head_dim, d_v = tutorial::value_dim;
constexpr Index length = tutorial::length, num_heads = tutorial::num_heads;
constexpr std::size_t followed = 1;  // "is", the word that the tutorial follows

const std::vector<std::string> words(tutorial::words.begin(), tutorial::words.end());
const std::vector<std::string> head_names{"head 1", "head 2", "head 3", "head 4"};

/// Figures of the tutorial as rows of the given width.
template <std::size_t count>
Matrix rows_of(const std::array<float, count>& figures, Index width) {
    return Matrix(figures, heed::Shape<2>(static_cast<Index>(count) / width, width));
}

/// The tutorial multiplies from the right, x W; heed's layers hold W^T, as those of PyTorch do.
void set_weight(heed::TensorView<float, 2> weight, Matrix w) {
    copy(w.transpose(0, 1), weight);
}

/// Prints the sections, and remembers whether all published figures came out.
class Report {
  public:
    Report() { std::cout << std::fixed << std::setprecision(4); }

    static void section(std::string_view title) {
        std::cout << '\n' << title << '\n' << std::string(title.size(), '-') << '\n';
    }
    /// A formula and the shapes in it.
    static void formula(std::string_view text, std::string_view shapes) {
        std::cout << "\n  " << std::left << std::setw(54) << text << std::right << shapes << '\n';
    }
    static void columns(const std::vector<std::string>& labels) {
        std::cout << '\n' << std::string(label_width + 1, ' ');
        for (const std::string& label : labels) std::cout << std::setw(cell_width) << label;
        std::cout << '\n';
    }
    static void row(std::string_view label, heed::TensorView<const float, 1> values) {
        std::cout << std::setw(label_width) << label << ' ';
        for (Index i = 0; i < values.extent(0); ++i)
            std::cout << std::setw(cell_width) << values(i);
        std::cout << '\n';
    }
    static void rows(Matrix values) {
        std::cout << '\n';
        for (std::size_t i = 0; i < words.size(); ++i)
            row(words[i], values.select(0, static_cast<Index>(i)));
    }

    /// Says whether our figures are the published ones. Those have four decimals, so they may
    /// differ by one in the last.
    template <std::size_t count>
    void compare(std::string_view what, Matrix ours, const std::array<float, count>& published) {
        const bool equal = all_close(ours, rows_of(published, ours.extent(1)), 0.0, 1e-4);
        std::cout << "\n  -> " << what << ": " << count << " numbers, "
                  << (equal ? "as published within 0.0001" : "NOT as published") << '\n';
        all_as_published_ = all_as_published_ && equal;
    }

    [[nodiscard]] bool all_as_published() const { return all_as_published_; }

  private:
    static constexpr int label_width = 7, cell_width = 9;  // in line with the heatmaps

    bool all_as_published_ = true;
};

/// The sentence through one kind of attention after the other.
class Tutorial {
  public:
    explicit Tutorial(heed::Colouring colours) : colours_(colours) {}

    /// True when every figure is the published one.
    bool run() {
        std::cout << "\"Life is short, eat dessert first\": attention step by step\n";
        embed();
        attend();
        attend_causally();
        attend_with_heads();
        attend_across();
        return report_.all_as_published();
    }

    /// All weights over the words of the sentence, side by side.
    void write_png(const std::string& path) const {
        Tensor<float, 3> all({2 + num_heads, length, length});
        copy(self_weights_.view().select(0, 0), all.view().slice(0, 0, 1));
        copy(causal_weights_.view().select(0, 0), all.view().slice(0, 1, 1));
        copy(head_weights_.view().select(0, 0), all.view().slice(0, 2, num_heads));
        heed::write_heatmap_grid_png(
            path, all,
            {.title = "Life is short, eat dessert first: who looks (rows) at whom (columns)",
             .row_labels = words,
             .column_labels = words,
             .head_labels = {"self", "causal", "head 1", "head 2", "head 3", "head 4"}});
    }

  private:
    void embed() {
        Report::section("1. Embedding: a word becomes a vector");
        heed::Embedding<float> embedding({.count = length, .features = d_in});
        // A word's id is its place in the sorted vocabulary; it picks a row of the table.
        for (std::size_t i = 0; i < words.size(); ++i)
            copy(rows_of(tutorial::embedded, d_in).select(0, static_cast<Index>(i)),
                 embedding.weight().select(0, tutorial::token_ids[i]));
        const std::span<const int> ids(tutorial::token_ids);
        copy(embedding(ids).view().unsqueeze(), x_.view());

        Report::formula("x = table[ids],   ids = 0 4 5 2 1 3", "table [6, 3], x [6, 3]");
        Report::rows(x_.view().select(0, 0));
    }

    void attend() {
        Report::section("2. Self-attention: which words does each word look at?");
        set_weight(attention_.query().weight(), rows_of(tutorial::W_query, d_k));
        set_weight(attention_.key().weight(), rows_of(tutorial::W_key, d_k));
        set_weight(attention_.value().weight(), rows_of(tutorial::W_value, d_v));
        Tensor<float, 3> out({1, length, d_v});
        attention_.forward(x_, x_, out, heed::NoMask{}, {.weights = self_weights_});

        // The same in Eigen's words, for the one step that no module shows: matrix() is a Map.
        const Tensor<float, 3> q = attention_.query()(x_), k = attention_.key()(x_);
        Tensor<float, 2> scores({length, length});
        scores.matrix() = q.matrix(0) * k.matrix(0).transpose();
        const Matrix is_scores = scores.view().slice(0, followed, 1);
        const Matrix is_weights = only(self_weights_).slice(0, followed, 1);

        Report::formula("q = x W_q,  k = x W_k,  v = x W_v", "q, k [6, 2], v [6, 4]");
        Report::formula("scores = q k^T, of \"is\" with each word", "[6, 6]");
        Report::columns(words);
        Report::row(words[followed], is_scores.select(0, 0));
        report_.compare("scores of \"is\"", is_scores, tutorial::published_scores);
        Report::formula("weights = softmax(scores / sqrt(2))", "[6, 6], rows sum to 1");
        Report::columns(words);
        Report::row(words[followed], is_weights.select(0, 0));
        report_.compare("weights of \"is\"", is_weights, tutorial::published_weights);
        draw(only(self_weights_), words, words);
        Report::formula("out = weights v", "[6, 4]");
        show("self-attention", out.view().select(0, 0), tutorial::published_self);
    }

    void attend_causally() {
        Report::section("3. Masked: no word looks at those after it");
        Tensor<float, 3> out({1, length, d_v});
        attention_.forward(x_, x_, out, heed::Causal::top_left(), {.weights = causal_weights_});

        Report::formula("weights = softmax(scores / sqrt(2)), where j <= i", "[6, 6]");
        draw(only(causal_weights_), words, words);
        show("causal weights", only(causal_weights_), tutorial::published_causal_weights);
    }

    void attend_with_heads() {
        Report::section("4. Multi-head: four heads side by side, each with weights of its own");
        heed::MultiHeadAttention<float> attention({.embed_dim = d_in,
                                                   .num_heads = num_heads,
                                                   .head_dim = d_k,
                                                   .value_head_dim = 1,
                                                   .bias = false,
                                                   .out_projection = false});
        // The weights of head r are rows of the packed ones: a view of them, not a copy.
        for (Index r = 0; r < num_heads; ++r) {
            const tutorial::Head& head = tutorial::heads[static_cast<std::size_t>(r)];
            set_weight(attention.query_weight().slice(0, r * d_k, d_k), rows_of(head.W_query, d_k));
            set_weight(attention.key_weight().slice(0, r * d_k, d_k), rows_of(head.W_key, d_k));
            set_weight(attention.value_weight().slice(0, r, 1), rows_of(head.W_value, 1));
        }
        const Tensor<float, 3> out = attention(x_, heed::NoMask{}, {.weights = head_weights_});

        Report::formula("W_q of head r = rows 2r and 2r + 1 of the packed W_q", "[2, 3] of [8, 3]");
        Report::formula("weights of \"is\", head by head", "[4, 6] of [4, 6, 6]");
        // What "is" looks at, head by head: the strides of the weights make a matrix of it.
        draw(head_weights_.view().select(0, 0).select(1, followed), head_names, words);
        Report::formula("out = (head 1 | head 2 | head 3 | head 4)", "[6, 4]");
        show("four heads", out.view().select(0, 0), tutorial::published_heads);
    }

    void attend_across() {
        Report::section("5. Cross-attention: the words look at another sequence");
        const Tensor<float, 3> other(rows_of(tutorial::second_input, d_in).unsqueeze());
        Tensor<float, 3> out({1, length, d_v});
        Tensor<float, 4> weights({1, 1, length, other.extent(1)});
        attention_.forward(x_, other, out, heed::NoMask{}, {.weights = weights});

        Report::formula("q = x W_q,  k = y W_k,  v = y W_v", "x [6, 3], y [8, 3], k [8, 2]");
        draw(only(weights), words, {"y1", "y2", "y3", "y4", "y5", "y6", "y7", "y8"});
        Report::formula("out = softmax(q k^T / sqrt(2)) v", "[6, 8] x [8, 4] = [6, 4]");
        show("cross-attention", out.view().select(0, 0), tutorial::published_cross);
    }

    /// The matrix of the only batch element and head.
    static Matrix only(const Tensor<float, 4>& weights) {
        return weights.view().select(0, 0).select(0, 0);
    }

    template <std::size_t count>
    void show(std::string_view what, Matrix rows, const std::array<float, count>& published) {
        Report::rows(rows);
        report_.compare(what, rows, published);
    }

    void draw(Matrix weights, const std::vector<std::string>& rows,
              const std::vector<std::string>& columns) const {
        std::cout << '\n';
        heed::print_heatmap(std::cout, weights,
                            {.row_labels = rows,
                             .column_labels = columns,
                             .low = 0.0,
                             .high = 1.0,
                             .colours = colours_});
    }

    heed::Colouring colours_;
    Report report_;
    heed::SelfAttention<float> attention_{{.embed_dim = d_in, .k_dim = d_k, .v_dim = d_v}};
    Tensor<float, 3> x_{{1, length, d_in}};
    Tensor<float, 4> self_weights_{{1, 1, length, length}};
    Tensor<float, 4> causal_weights_{self_weights_.shape()};
    Tensor<float, 4> head_weights_{{1, num_heads, length, length}};
};

}  // namespace

int main(int argc, char** argv) try {
    CLI::App app{
        "Self-, masked, multi-head and cross-attention on \"Life is short, eat dessert first\",\n"
        "compared with the figures of a published tutorial. Exit code 1 if one is different."};
    std::string png;
    bool no_color = false;
    app.add_option("--png", png, "Write the attention weights to this file, as a picture")
        ->type_name("PATH");
    app.add_flag("--no-color", no_color, "Draw without colours, as for anything but a terminal");
    CLI11_PARSE(app, argc, argv);

    Tutorial tutorial(no_color ? heed::Colouring::none : heed::Colouring::automatic);
    const bool as_published = tutorial.run();
    if (!png.empty()) {
        tutorial.write_png(png);
        std::cout << "\nPicture: " << png << '\n';
    }
    std::cout << (as_published ? "\nAll figures are the published ones.\n"
                               : "\nSome figures are NOT the published ones.\n");
    return as_published ? 0 : 1;
} catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
}
