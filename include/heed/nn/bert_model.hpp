#pragma once
// What does BERT make of token ids?
// Embeddings of words, types and places, an encoder, and a pooler of the first token; reads padded
// batches, or sequences of any lengths packed one behind another.
//
// Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
// Understanding", arXiv 1810.04805; names and defaults of Hugging Face's BertModel.

#include <algorithm>
#include <cmath>
#include <concepts>
#include <ranges>
#include <span>
#include <string>

#include "heed/nn/transformer_encoder.hpp"

namespace heed::inline v0 {

/// Hugging Face's BertConfig, with its names and defaults, and the argument of its BertModel. There
/// is no dropout.
struct BertConfig {
    Index vocab_size = 30522;
    Index hidden_size = 768;
    Index num_hidden_layers = 12;
    Index num_attention_heads = 12;
    Index intermediate_size = 3072;
    Activation hidden_act = Activation::gelu;
    Index max_position_embeddings = 512;
    Index type_vocab_size = 2;
    double layer_norm_eps = 1e-12;
    bool add_pooling_layer = true;
};

namespace detail {

/// A tensor or view of ids, [batch, length].
template <class Ids>
concept IdMatrix = TensorLike<Ids> && Ids::rank()
== 2 && std::integral<ElementOf<Ids>>;

/// A std::vector, std::span or array of ids.
template <class Ids>
concept IdRange =
    std::ranges::contiguous_range<Ids> && std::integral<std::ranges::range_value_t<Ids>>;

}  // namespace detail

/// The encoder of Hugging Face's BertModel:
///
///     x = LayerNorm(word[id] + type[type of the token] + position[place in its sequence])
///     hidden = layer_{n-1}(.. layer_0(x));    pooled = tanh(W hidden[first token] + b)
///
/// Parameters have the names that they have there: "embeddings.word_embeddings.weight",
/// "encoder.layer.0.attention.self.query.weight", "pooler.dense.weight", ... An object serves one
/// thread at a time.
template <ComputeScalar T>
class BertModel : public Module<BertModel<T>> {
  public:
    using Options = BertConfig;

    /// Throws ArgumentError for sizes below 1, a head count that does not divide hidden_size or an
    /// epsilon that is negative or not finite.
    explicit BertModel(const BertConfig& config = {})
        : config_(checked(config)),
          words_({config.vocab_size, config.hidden_size}),
          positions_({config.max_position_embeddings, config.hidden_size}),
          types_({config.type_vocab_size, config.hidden_size}),
          norm_({config.hidden_size, config.layer_norm_eps}),
          encoder_({.layer = {.d_model = config.hidden_size,
                              .nhead = config.num_attention_heads,
                              .dim_feedforward = config.intermediate_size,
                              .dropout = 0.0,
                              .activation = config.hidden_act,
                              .layer_norm_eps = config.layer_norm_eps,
                              .names = EncoderLayerNames::bert()},
                    .num_layers = config.num_hidden_layers,
                    .layer_prefix = "layer."}) {
        if (has_pooler()) pooler_ = Linear<T>({config.hidden_size, config.hidden_size});
    }

    /// In training a forward keeps what `backward` needs.
    void train(bool on = true) { encoder_.train(on); }
    void eval() { train(false); }
    [[nodiscard]] bool training() const { return encoder_.training(); }

    [[nodiscard]] const BertConfig& config() const { return config_; }
    [[nodiscard]] bool has_pooler() const { return config_.add_pooling_layer; }

    /// As Module::load. Left aside is "embeddings.position_ids", which older files hold: the
    /// numbers of the places, no parameter.
    void load(const NamedTensors& weights, const std::string& prefix = "") {
        WeightLoader(weights)
            .ignore(prefix + "embeddings.position_ids")
            .load_strictly(*this, prefix);
    }

    /// ids are [batch, length], hidden is [batch, length, hidden_size]. Sequence b has lengths[b]
    /// tokens; what follows is padding, ids of the vocabulary that no token sees and whose rows of
    /// hidden mean nothing. token_type_ids have the shape of ids, and are 0 when absent. The last
    /// dimension of hidden must be contiguous. Throws ShapeError for sizes that do not fit or more
    /// than max_position_embeddings tokens, ArgumentError for null or an id, type or length out of
    /// range, before anything is written.
    template <detail::IdMatrix Ids>
    void forward(const Ids& ids, std::span<const Index> lengths, TensorView<T, 3> hidden,
                 TensorView<const ElementOf<Ids>, 2> token_type_ids = {}) {
        const TensorView<const ElementOf<Ids>, 2> tokens = read(ids);
        check(tokens, lengths, token_type_ids);
        detail::require_output(where, "hidden", hidden, hidden_shape(tokens), tokens);
        detail::require_contiguous_rows(where, "hidden", hidden);
        last_.forget();
        const Shape<3>& shape = hidden.shape();
        const TensorView<T, 3> sum = training() ? sum_.view(shape) : TensorView<T, 3>();
        const TensorView<T, 3> embedded = training() ? embedded_.view(shape) : hidden;
        embed(tokens.extent(0), tokens.element_count(), [&](Index b, int) {
            embed_sequence(tokens.select(0, b), row_of(token_type_ids, b),
                           training() ? sum.select(0, b) : TensorView<T, 2>(),
                           embedded.select(0, b));
        });
        encoder_.forward(embedded, hidden, KeyLengths{lengths});
        if (training()) last_.remember(shape);
    }

    /// The same for sequences of any lengths, one behind another without padding: ids are [total],
    /// hidden is [total, hidden_size]; sequence s is the rows [cu_seqlens[s], cu_seqlens[s + 1]),
    /// with places from 0, and may be empty. In evaluation only, else ArgumentError; bits, other
    /// errors and cost as in TransformerEncoder::forward_packed.
    template <detail::IdRange Ids>
    void forward_packed(const Ids& ids, std::span<const Index> cu_seqlens, TensorView<T, 2> hidden,
                        std::span<const std::ranges::range_value_t<Ids>> token_type_ids = {}) {
        using Id = std::ranges::range_value_t<Ids>;
        const TensorView<const Id, 1> tokens = view_of(std::span<const Id>(ids));
        const TensorView<const Id, 1> types = view_of(token_type_ids);
        check_packed(tokens, cu_seqlens, hidden, types);
        embed(std::ssize(cu_seqlens) - 1, tokens.extent(0), [&](Index sequence, int) {
            const auto s = static_cast<std::size_t>(sequence);
            const auto part = [&](auto view) {
                return view.slice(0, cu_seqlens[s], cu_seqlens[s + 1] - cu_seqlens[s]);
            };
            embed_sequence(part(tokens), detail::is_wanted(types) ? part(types) : types,
                           TensorView<T, 2>(), part(hidden));
        });
        encoder_.forward_packed(hidden, cu_seqlens, hidden);
    }

    /// pooled = tanh(W first + b): first is [batch, hidden_size], the hidden states of each
    /// sequence's first token, such as hidden.select(1, 0); pooled has the same shape. Throws
    /// ArgumentError where there is no pooler, else ShapeError; see heed::linear.
    void pool(TensorView<const T, 2> first, TensorView<T, 2> pooled) const {
        if (!has_pooler())
            detail::fail<ArgumentError>(where, "pool needs a model with add_pooling_layer; found ",
                                        "one without");
        pooler_.forward(first, pooled);
        detail::for_each_element([](T& x) { x = std::tanh(x); }, pooled);
    }

    template <detail::IdMatrix Ids>
    [[nodiscard]] Tensor<T, 3> operator()(const Ids& ids, std::span<const Index> lengths) {
        Tensor<T, 3> hidden(hidden_shape(read(ids)));
        forward(ids, lengths, hidden.view());
        return hidden;
    }

    /// From d_hidden, the gradient of hidden: adds to the parameters of `gradients` (see
    /// make_gradients). The other arguments are those of the last forward, which must have been in
    /// training. d_hidden of padding should be 0; its last dimension must be contiguous. Throws
    /// ArgumentError without such a forward, else ShapeError or ArgumentError, before anything is
    /// written.
    template <detail::IdMatrix Ids>
    void backward(const Ids& ids, std::span<const Index> lengths, TensorView<const T, 3> d_hidden,
                  BertModel& gradients, TensorView<const ElementOf<Ids>, 2> token_type_ids = {}) {
        const TensorView<const ElementOf<Ids>, 2> tokens = read(ids);
        const Shape<3>& shape = last_.sizes(where);
        check(tokens, lengths, token_type_ids);
        detail::require_shape(where, "the ids", tokens.shape(), Shape<2>(shape[0], shape[1]));
        detail::require_gradients(where, *this, gradients);
        const TensorView<T, 3> d = d_embedded_.view(shape);
        encoder_.backward(embedded_.view(shape), d_hidden, d, gradients.encoder_,
                          KeyLengths{lengths});
        norm_.backward(sum_.view(shape), d, d, gradients.norm_);
        for (Index b = 0; b < tokens.extent(0); ++b)
            embed_backward(tokens.select(0, b), row_of(token_type_ids, b), d.select(0, b),
                           gradients);
    }

    /// Glorot-uniform layers, and embeddings as BERT's: normal, with a deviation of 0.02.
    void reset_parameters(std::uint64_t seed) {
        fill_normal(words_.weight(), seed, 0.0, 0.02);
        fill_normal(positions_.weight(), seed + 1, 0.0, 0.02);
        fill_normal(types_.weight(), seed + 2, 0.0, 0.02);
        if (has_pooler()) pooler_.reset_parameters(seed + 3);
        encoder_.reset_parameters(seed + 4);
    }

    /// True when the parameters of both have the same shapes.
    [[nodiscard]] bool has_sizes_of(const BertModel& other) const {
        return words_.has_sizes_of(other.words_) && positions_.has_sizes_of(other.positions_) &&
               types_.has_sizes_of(other.types_) && encoder_.has_sizes_of(other.encoder_) &&
               pooler_.has_sizes_of(other.pooler_);
    }

    template <class Self, class Visitor>
    static void visit_parameters(Self& self, Visitor&& visit, const std::string& prefix) {
        const std::string embeddings = prefix + "embeddings.";
        Embedding<T>::visit_parameters(self.words_, visit, embeddings + "word_embeddings.");
        Embedding<T>::visit_parameters(self.positions_, visit, embeddings + "position_embeddings.");
        Embedding<T>::visit_parameters(self.types_, visit, embeddings + "token_type_embeddings.");
        LayerNorm<T>::visit_parameters(self.norm_, visit, embeddings + "LayerNorm.");
        TransformerEncoder<T>::visit_parameters(self.encoder_, visit, prefix + "encoder.");
        if (self.has_pooler())
            Linear<T>::visit_parameters(self.pooler_, visit, prefix + "pooler.dense.");
    }

  private:
    static constexpr std::string_view where = "BertModel";

    static const BertConfig& checked(const BertConfig& c) {
        detail::require_positive(where, "vocab_size", c.vocab_size);
        detail::require_positive(where, "hidden_size", c.hidden_size);
        detail::require_positive(where, "num_hidden_layers", c.num_hidden_layers);
        detail::require_positive(where, "num_attention_heads", c.num_attention_heads);
        detail::require_positive(where, "intermediate_size", c.intermediate_size);
        detail::require_positive(where, "max_position_embeddings", c.max_position_embeddings);
        detail::require_positive(where, "type_vocab_size", c.type_vocab_size);
        return c;
    }

    template <class Id>
    static TensorView<const Id, 1> view_of(std::span<const Id> ids) {
        return {ids.data(), Shape<1>(ids.size())};
    }

    /// Row b of optional types: nothing where there are none.
    template <class Id>
    static TensorView<const Id, 1> row_of(TensorView<const Id, 2> types, Index b) {
        return detail::is_wanted(types) ? types.select(0, b) : TensorView<const Id, 1>();
    }

    template <class Id>
    static Index type_of(TensorView<const Id, 1> types, Index i) {
        return detail::is_wanted(types) ? static_cast<Index>(types(i)) : 0;
    }

    template <class Id>
    [[nodiscard]] Shape<3> hidden_shape(TensorView<const Id, 2> ids) const {
        return {ids.extent(0), ids.extent(1), config_.hidden_size};
    }

    /// Calls task(sequence, worker) for each sequence, shared out among the workers.
    template <class Task>
    void embed(Index sequences, Index tokens, const Task& task) const {
        // A token costs some passes over its features: as much as so many multiply-adds of each.
        constexpr double passes = 40;
        const detail::Workers workers(passes * static_cast<double>(tokens) *
                                      static_cast<double>(config_.hidden_size));
        workers.executor.parallel_for(sequences, task);
    }

    /// y = LayerNorm(x) with x = word + type + position, of one sequence; x is kept where there is
    /// a place for it.
    template <class Id>
    void embed_sequence(TensorView<const Id, 1> ids, TensorView<const Id, 1> types,
                        TensorView<T, 2> x, TensorView<T, 2> y) const {
        const detail::LayerKernels<T>& kernels = detail::layer_kernels<T>();
        const Index features = y.extent(1);
        for (Index i = 0; i < y.extent(0); ++i) {
            const TensorView<T, 1> sum = detail::is_wanted(x) ? x.select(0, i) : y.select(0, i);
            std::copy_n(words_.weight().row(static_cast<Index>(ids(i))), features, sum.data());
            kernels.add(types_.weight().row(type_of(types, i)), features, sum.data());
            kernels.add(positions_.weight().row(i), features, sum.data());
            norm_.forward(sum, y.select(0, i));
        }
    }

    template <class Id>
    static void embed_backward(TensorView<const Id, 1> ids, TensorView<const Id, 1> types,
                               TensorView<const T, 2> dx, BertModel& gradients) {
        embedding_backward<T, Id>(ids, dx, gradients.words_.weight());
        for (Index i = 0; i < dx.extent(0); ++i)
            add(dx.select(0, i), gradients.types_.weight().select(0, type_of(types, i)));
        add(dx, gradients.positions_.weight().slice(0, 0, dx.extent(0)));
    }

    /// The tokens of one sequence.
    template <class Id>
    void check_tokens(TensorView<const Id, 1> ids, TensorView<const Id, 1> types) const {
        if (ids.extent(0) > config_.max_position_embeddings)
            detail::fail<ShapeError>(where, "a sequence must have at most ",
                                     "max_position_embeddings tokens; found ", ids.extent(0),
                                     " instead of ", config_.max_position_embeddings);
        detail::require_ids(where, ids, config_.vocab_size);
        detail::require_ids("BertModel, token_type_ids", types, config_.type_vocab_size);
    }

    template <class Id, int Rank>
    static void check_memory(TensorView<const Id, Rank> ids, TensorView<const Id, Rank> types) {
        detail::require_memory(where, "the ids", ids);
        if (!detail::is_wanted(types)) return;
        detail::require_shape(where, "token_type_ids", types.shape(), ids.shape());
        detail::require_memory(where, "token_type_ids", types);
    }

    template <class Id>
    void check(TensorView<const Id, 2> ids, std::span<const Index> lengths,
               TensorView<const Id, 2> types) const {
        check_memory(ids, types);
        for (Index b = 0; b < ids.extent(0); ++b) check_tokens(ids.select(0, b), row_of(types, b));
        const auto [batch, length] = std::array{ids.extent(0), ids.extent(1)};
        (void)KeyLengths{lengths}.bind({.batch = batch, .q_len = length, .kv_len = length}, {});
    }

    template <class Id>
    void check_packed(TensorView<const Id, 1> ids, std::span<const Index> cu_seqlens,
                      TensorView<T, 2> hidden, TensorView<const Id, 1> types) const {
        check_memory(ids, types);
        detail::require_output(where, "hidden", hidden,
                               Shape<2>(ids.extent(0), config_.hidden_size), ids);
        if (training())
            detail::fail<ArgumentError>(where, "packed sequences are read in evaluation only; ",
                                        "found training");
        encoder_.check_packed(hidden, cu_seqlens, hidden);
        for (std::size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
            const Index begin = cu_seqlens[s], count = cu_seqlens[s + 1] - begin;
            check_tokens(ids.slice(0, begin, count),
                         detail::is_wanted(types) ? types.slice(0, begin, count) : types);
        }
    }

    BertConfig config_;
    Embedding<T> words_, positions_, types_;
    LayerNorm<T> norm_;
    TransformerEncoder<T> encoder_;
    Linear<T> pooler_;

    // For backward: what the norm and the encoder were given, and the gradient on its way.
    detail::LastForward<Shape<3>> last_;
    detail::ReusableBuffer<T> sum_, embedded_, d_embedded_;
};

}  // namespace heed::inline v0
