#pragma once
// What is a transformer encoder as a whole?
// A stack of encoder layers with an optional norm behind them; reads batches of one length, padded
// or not, or sequences of any lengths packed one behind another.

#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <vector>

#include "heed/attention/mask.hpp"
#include "heed/nn/transformer.hpp"

namespace heed::inline v0 {

/// A stack of encoder layers, as torch.nn.TransformerEncoder:
///
///     x = layer_0(x);  x = layer_1(x);  ...;  y = norm(x), or x where there is no norm
///
/// Parameters: those of each layer under layer_prefix, its number and a dot ("layers.0."), and
/// those of the norm under norm_prefix. In evaluation (the initial state) there is no dropout. An
/// object serves one thread at a time.
template <ComputeScalar T>
class TransformerEncoder : public Module<TransformerEncoder<T>> {
  public:
    using Layer = TransformerEncoderLayer<T>;

    struct Options {
        typename Layer::Options layer = {};  ///< of every layer; layers draw their own dropout
        Index num_layers = 1;
        bool norm =
            false;  ///< a LayerNorm behind the last layer, with the layers' epsilon and bias
        std::string layer_prefix = "layers.";
        std::string norm_prefix = "norm.";
    };

    /// Throws ArgumentError for fewer layers than one, and whatever a layer refuses.
    explicit TransformerEncoder(const Options& o)
        : layer_prefix_(o.layer_prefix),
          norm_prefix_(o.norm_prefix),
          has_norm_(o.norm),
          width_(o.layer.d_model) {
        detail::require_positive(where, "num_layers", o.num_layers);
        typename Layer::Options layer = o.layer;
        for (Index i = 0; i < o.num_layers; ++i, layer.seed += seeds_of_a_layer)
            layers_.emplace_back(layer);
        states_.resize(layers_.size());
        if (has_norm_) norm_ = LayerNorm<T>({width_, o.layer.layer_norm_eps, o.layer.bias});
    }

    void train(bool on = true) {
        for (Layer& layer : layers_) layer.train(on);
    }
    void eval() { train(false); }
    [[nodiscard]] bool training() const { return layers_.front().training(); }

    [[nodiscard]] Index num_layers() const { return std::ssize(layers_); }
    /// Layer i, from 0.
    [[nodiscard]] Layer& layer(Index i) { return layers_.at(static_cast<std::size_t>(i)); }

    /// x and y are [batch, length, d_model]. In evaluation they may be the same view, but not
    /// overlap otherwise; in training they must not overlap. The mask is that of the attention in
    /// every layer. Throws ShapeError or ArgumentError before y is written.
    template <ScorePart Mask = NoMask>
    void forward(TensorView<const T, 3> x, TensorView<T, 3> y, const Mask& mask = {}) {
        check(x, y);
        last_.forget();
        TensorView<const T, 3> state = x;
        for (std::size_t i = 0; i < layers_.size(); ++i) {
            const TensorView<T, 3> next = is_kept(i) ? states_[i].view(x.shape()) : y;
            layers_[i].forward(state, next, mask);
            state = next;
        }
        if (has_norm_) norm_.forward(state, y);
        if (training()) last_.remember(x.shape());
    }

    /// The same for sequences of any lengths, one behind another without padding, each of which
    /// attends to itself alone: x and y are [total, d_model], and sequence s is the rows
    /// [cu_seqlens[s], cu_seqlens[s + 1]), as in FlashAttention; it may be empty. The result has
    /// the bits that `forward` gives the sequence by itself, or in a padded batch with KeyLengths.
    /// It is `forward` of one batch element with the mask Documents{cu_seqlens}, with which
    /// `backward` goes back. Views and errors as in forward; ArgumentError also for boundaries that
    /// do not lead from 0 to total without a step back. Cost: that of the rows alone.
    void forward_packed(TensorView<const T, 2> x, std::span<const Index> cu_seqlens,
                        TensorView<T, 2> y) {
        check_packed(x, cu_seqlens, y);
        forward(x.unsqueeze(), y.unsqueeze(), Documents{cu_seqlens});
    }

    /// Throws whatever forward_packed refuses, and writes nothing.
    void check_packed(TensorView<const T, 2> x, std::span<const Index> cu_seqlens,
                      TensorView<T, 2> y) const {
        check(x, y);
        const Index total = x.extent(0);
        (void)Documents(cu_seqlens).bind({.batch = 1, .q_len = total, .kv_len = total}, {});
    }

    /// From dy, the gradient of the output: adds to the parameters of `gradients` (see
    /// make_gradients) and overwrites dx (an empty view: not wanted). x and mask are those of the
    /// last forward, which must have been in training; its dropout is repeated. Last dimensions
    /// must be contiguous, and dx must not overlap x or dy. Throws ArgumentError without such a
    /// forward, else ShapeError or ArgumentError, before anything is written.
    template <ScorePart Mask = NoMask>
    void backward(TensorView<const T, 3> x, TensorView<const T, 3> dy, TensorView<T, 3> dx,
                  TransformerEncoder& gradients, const Mask& mask = {}) {
        check_backward(x, dy, dx, gradients, mask);
        const auto state = [&](std::size_t i) { return states_[i].view(x.shape()); };
        const auto gradient_before = [&](std::size_t i) {
            return i == 0 ? dx : d_states_[i % 2].view(x.shape());
        };
        std::size_t i = layers_.size();
        TensorView<const T, 3> d = dy;
        if (has_norm_) {
            const TensorView<T, 3> next = gradient_before(i);
            norm_.backward(state(i - 1), d, next, gradients.norm_);
            d = next;
        }
        while (i-- > 0) {
            const TensorView<T, 3> next = gradient_before(i);
            layers_[i].backward(i == 0 ? x : state(i - 1), d, next, gradients.layers_[i], mask);
            d = next;
        }
    }

    template <ScorePart Mask = NoMask>
    [[nodiscard]] Tensor<T, 3> operator()(TensorView<const T, 3> x, const Mask& mask = {}) {
        Tensor<T, 3> y(x.shape());
        forward(x, y, mask);
        return y;
    }

    /// Every layer draws weights of its own.
    void reset_parameters(std::uint64_t seed) {
        for (Layer& layer : layers_) {
            layer.reset_parameters(seed);
            seed += seeds_of_a_layer;
        }
    }

    /// True when the parameters of both have the same shapes.
    [[nodiscard]] bool has_sizes_of(const TransformerEncoder& other) const {
        return norm_.has_sizes_of(other.norm_) &&
               std::equal(
                   layers_.begin(), layers_.end(), other.layers_.begin(), other.layers_.end(),
                   [](const Layer& mine, const Layer& its) { return mine.has_sizes_of(its); });
    }

    template <class Self, class Visitor>
    static void visit_parameters(Self& self, Visitor&& visit, const std::string& prefix) {
        for (std::size_t i = 0; i < self.layers_.size(); ++i)
            Layer::visit_parameters(self.layers_[i], visit,
                                    prefix + self.layer_prefix_ + std::to_string(i) + ".");
        if (self.has_norm_)
            LayerNorm<T>::visit_parameters(self.norm_, visit, prefix + self.norm_prefix_);
    }

  private:
    static constexpr std::string_view where = "TransformerEncoder";
    static constexpr std::uint64_t seeds_of_a_layer = 16;  ///< more than a layer draws from

    /// True where backward needs the output of layer i.
    [[nodiscard]] bool is_kept(std::size_t i) const {
        return training() && (has_norm_ || i + 1 < layers_.size());
    }

    template <int Rank>
    void check(TensorView<const T, Rank> x, TensorView<T, Rank> y) const {
        detail::require_shape(where, "the input", x.shape(), x.shape().with(Rank - 1, width_));
        detail::require_memory(where, "the input", x);
        detail::require_contiguous_rows(where, "the input", x);
        detail::require_output(where, "the output", y, x.shape());
        detail::require_contiguous_rows(where, "the output", y);
        if (training())
            detail::require_input_kept(where, x, y);
        else
            detail::require_same_or_apart(where, x, y);
    }

    /// Throws whatever backward refuses, before anything is written.
    template <ScorePart Mask>
    void check_backward(TensorView<const T, 3> x, TensorView<const T, 3> dy, TensorView<T, 3> dx,
                        TransformerEncoder& gradients, const Mask& mask) {
        const Shape<3>& shape = last_.sizes(where);
        detail::require_rows(where, "the input", x, shape);
        detail::require_rows(where, "dy", dy, shape);
        detail::require_gradient(where, "dx", dx, shape, x, dy);
        detail::require_gradients(where, *this, gradients);
        // Every layer sees the same sizes and mask: what one does not refuse, none does.
        layers_.back().attention().check_backward(x, x, x, dy, {},
                                                  gradients.layers_.back().attention(), mask);
    }

    std::string layer_prefix_, norm_prefix_;
    bool has_norm_;
    Index width_;
    std::vector<Layer> layers_;
    LayerNorm<T> norm_;

    // For backward: what lies between the layers, and gradients on their way.
    detail::LastForward<Shape<3>> last_;
    std::vector<detail::ReusableBuffer<T>> states_;
    std::array<detail::ReusableBuffer<T>, 2> d_states_;
};

}  // namespace heed::inline v0
