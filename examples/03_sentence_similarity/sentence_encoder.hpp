#pragma once
// What does a sentence mean, as a vector?
// BERT's hidden states of its tokens, their mean, brought to length 1. Reads texts in batches
// without padding; tells of its progress to whoever asks.
//
// Source: Reimers and Gurevych, "Sentence-BERT", arXiv 1908.10084; the sizes are those of
// all-MiniLM-L6-v2.

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "bert_tokenizer.hpp"
#include "heed/nn/bert_model.hpp"

namespace sentence_similarity {

/// Of the encoder all-MiniLM-L6-v2.
inline constexpr heed::BertConfig minilm{.hidden_size = 384,
                                         .num_hidden_layers = 6,
                                         .num_attention_heads = 12,
                                         .intermediate_size = 1536};

/// How far the encoder is with its texts.
struct EncodingProgress {
    Index texts = 0, all_texts = 0;
    Index tokens = 0, all_tokens = 0;
};

class SentenceEncoder {
  public:
    /// More tokens of a text are cut off: the model was trained on no longer ones.
    static constexpr Index longest = 256;

    /// Throws heed::FormatError unless the vocabulary is the model's.
    SentenceEncoder(BertTokenizer tokenizer, heed::BertModel<float> model);

    /// all-MiniLM-L6-v2 from the folder with its model.safetensors and vocab.txt. Throws
    /// heed::FormatError or std::runtime_error when they are not there or not what they should be.
    static SentenceEncoder read(const std::filesystem::path& folder);

    [[nodiscard]] const heed::BertModel<float>& model() const { return model_; }
    [[nodiscard]] Index dim() const { return model_.config().hidden_size; }

    /// One vector of length 1 for each text, [texts, dim]; their products are the cosines of the
    /// angles between them. An empty text has a vector, too: that of its two special tokens.
    /// `observe` is called after each batch. Throws heed::FormatError for a text that is not UTF-8.
    [[nodiscard]] heed::Tensor<float, 2> encode(
        std::span<const std::string> texts,
        const std::function<void(const EncodingProgress&)>& observe = {});

  private:
    using Tokens = std::vector<int>;

    /// Texts that are read together.
    struct Batch {
        std::vector<std::size_t> texts = {};
        Tokens ids = {};                      ///< of all of them, one behind another
        std::vector<Index> cu_seqlens = {0};  ///< where each begins, and the end
    };

    [[nodiscard]] static std::vector<Batch> make_batches(const std::vector<Tokens>& tokens);

    BertTokenizer tokenizer_;
    heed::BertModel<float> model_;
};

/// The mean of the rows, divided by its length (but not by less than 1e-12).
void pool_mean(heed::TensorView<const float, 2> rows, heed::TensorView<float, 1> pooled);

/// The cosines between the vectors of `a` and those of `b`, [a, b].
[[nodiscard]] heed::Tensor<float, 2> similarities(heed::TensorView<const float, 2> a,
                                                  heed::TensorView<const float, 2> b);

}  // namespace sentence_similarity
