#include "sentence_encoder.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "heed/io/safetensors.hpp"

namespace sentence_similarity {

namespace {

/// As many as make the products of matrices worth their while.
constexpr std::size_t tokens_of_a_batch = 2048;

heed::BertModel<float> read_model(const std::filesystem::path& file) {
    heed::BertModel<float> model(minilm);
    model.load(heed::read_safetensors(file));
    return model;
}

}  // namespace

SentenceEncoder::SentenceEncoder(BertTokenizer tokenizer, heed::BertModel<float> model)
    : tokenizer_(std::move(tokenizer)), model_(std::move(model)) {
    if (tokenizer_.vocabulary_size() != model_.config().vocab_size)
        throw heed::FormatError("[SentenceEncoder] the vocabulary must have the model's " +
                                std::to_string(model_.config().vocab_size) + " tokens; found " +
                                std::to_string(tokenizer_.vocabulary_size()));
}

SentenceEncoder SentenceEncoder::read(const std::filesystem::path& folder) {
    return {BertTokenizer::read(folder / "vocab.txt"), read_model(folder / "model.safetensors")};
}

/// Texts of about one length lie together, the longest first: their batches take about the same
/// time, and the last ones are quick.
std::vector<SentenceEncoder::Batch> SentenceEncoder::make_batches(
    const std::vector<Tokens>& tokens) {
    std::vector<std::size_t> order(tokens.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::stable_sort(order, std::ranges::greater(),
                             [&](std::size_t text) { return tokens[text].size(); });
    std::vector<Batch> batches;
    for (const std::size_t text : order) {
        const Tokens& ids = tokens[text];
        if (batches.empty() || batches.back().ids.size() + ids.size() > tokens_of_a_batch)
            batches.emplace_back();
        Batch& batch = batches.back();
        batch.texts.push_back(text);
        batch.ids.insert(batch.ids.end(), ids.begin(), ids.end());
        batch.cu_seqlens.push_back(std::ssize(batch.ids));
    }
    return batches;
}

heed::Tensor<float, 2> SentenceEncoder::encode(
    std::span<const std::string> texts,
    const std::function<void(const EncodingProgress&)>& observe) {
    std::vector<Tokens> tokens;
    EncodingProgress progress{.all_texts = std::ssize(texts)};
    for (const std::string& text : texts) {
        tokens.push_back(tokenizer_.ids(text, longest));
        progress.all_tokens += std::ssize(tokens.back());
    }
    heed::Tensor<float, 2> vectors({progress.all_texts, dim()});
    for (const Batch& batch : make_batches(tokens)) {
        const auto& bounds = batch.cu_seqlens;
        heed::Tensor<float, 2> hidden({bounds.back(), dim()});
        model_.forward_packed(batch.ids, bounds, hidden);
        for (std::size_t i = 0; i < batch.texts.size(); ++i)
            pool_mean(hidden.view().slice(0, bounds[i], bounds[i + 1] - bounds[i]),
                      vectors.view().select(0, static_cast<Index>(batch.texts[i])));
        progress.texts += std::ssize(batch.texts);
        progress.tokens += bounds.back();
        if (observe) observe(progress);
    }
    return vectors;
}

void pool_mean(heed::TensorView<const float, 2> rows, heed::TensorView<float, 1> pooled) {
    const Eigen::RowVectorXf mean = rows.matrix().colwise().mean();
    const float length = std::max(mean.norm(), 1e-12f);
    for (Index i = 0; i < pooled.extent(0); ++i) pooled(i) = mean(i) / length;
}

heed::Tensor<float, 2> similarities(heed::TensorView<const float, 2> a,
                                    heed::TensorView<const float, 2> b) {
    heed::Tensor<float, 2> cosines({a.extent(0), b.extent(0)});
    heed::linear<float, 2>(a, b, {}, cosines);
    return cosines;
}

}  // namespace sentence_similarity
