#pragma once
// How is a score changed before the softmax?
// Each modification is a small value; bind() checks it once against the sizes and returns a rule.
// A final score of minus infinity hides the key. Reads the caller's tensors, writes nothing.

#include <cmath>
#include <limits>

#include "heed/attention/mask.hpp"
#include "heed/tensor/checks.hpp"
#include "heed/tensor/tensor.hpp"

namespace heed::inline v0 {

namespace detail {

/// cap * tanh(s / cap)
struct SoftCapRule {
    double cap_value;
    template <class C>
    [[nodiscard]] C cap(C score) const {
        const C limit = static_cast<C>(cap_value);
        return limit * std::tanh(score / limit);
    }
    template <class C>
    void cap_tile(const ScoreTile<C>& tile) const {
        tile.kernels.soft_cap(tile.scores, tile.keys * tile.row, static_cast<C>(cap_value));
    }
    /// slopes *= the derivatives at scores that are capped already.
    template <class C>
    void cap_slopes(const ScoreTile<C>& tile, C* slopes) const {
        tile.kernels.soft_cap_slopes(tile.scores, slopes, tile.keys * tile.row,
                                     static_cast<C>(cap_value));
    }
};

/// score + bias, or hidden by a bias of minus infinity.
template <class C, class T>
[[nodiscard]] C add_bias(C score, T stored) {
    // Selected, not added: whatever the score of a hidden key is (NaN from poison or padding), it
    // stays hidden.
    constexpr C hidden = -std::numeric_limits<C>::infinity();
    const C bias = convert<C>(stored);
    return bias == hidden ? hidden : score + bias;
}

template <class T>
struct BiasRule {
    TensorView<const T, 4> tensor;
    TensorView<T, 4> gradient;
    template <class C>
    [[nodiscard]] C modify(C score, const ScoreIndex& at) const {
        return add_bias(score, tensor(at.b, at.h, at.q, at.k));
    }
    template <class C>
    [[nodiscard]] Coverage coverage(const ScoreTile<C>& tile) const {
        return coverage_of(tile.part_of(tensor));
    }
    template <class C>
    void modify_tile(const ScoreTile<C>& tile) const {
        tile.add(tile.part_of(tensor));
    }
    template <class C>
    void add_gradient(const ScoreTile<C>& tile, C* sums) const {
        if (gradient.extent(2) > 1)
            tile.add_query_sums(sums + tile.first.q);
        else if (gradient.extent(3) > 1)
            tile.add_key_sums(sums + tile.first.k);
        else
            sums[0] += tile.sum();
    }
};

template <class T>
struct AlibiRule {
    TensorView<const T, 2> tensor;
    QueryPosition position;
    TensorView<T, 4> gradient;
    template <class C>
    [[nodiscard]] C modify(C score, const ScoreIndex& at) const {
        const Index distance = position(at) - at.k;
        return score - convert<C>(tensor(at.b, at.h)) * static_cast<C>(std::abs(distance));
    }
    template <class C>
    void modify_tile(const ScoreTile<C>& tile) const {
        const C slope = convert<C>(tensor(tile.first.b, tile.first.h));
        tile.add_by_distance(position, [slope](Index distance) {
            return -slope * static_cast<C>(std::abs(distance));
        });
    }
    template <class C>
    void add_gradient(const ScoreTile<C>& tile, C* sums) const {
        tile.for_each_distance_sum(position, [sums](Index distance, C sum) {
            *sums -= static_cast<C>(std::abs(distance)) * sum;
        });
    }
};

template <class T>
struct SinkRule {
    TensorView<const T, 2> tensor;
    TensorView<T, 4> gradient;
    template <class C>
    [[nodiscard]] C sink(const ScoreIndex& row) const {
        return convert<C>(tensor(row.b, row.h));
    }
};

/// Where the gradient of `values` goes, under their rank; an empty view means "not wanted".
template <class T, int Rank, class G>
[[nodiscard]] TensorView<T, Rank> gradient_like(std::string_view where,
                                                TensorView<const T, Rank> values, G&& gradient) {
    constexpr int rank = std::remove_cvref_t<G>::rank();
    static_assert(rank <= Rank && std::is_convertible_v<G&&, TensorView<T, rank>>,
                  "the gradient must be writable and have the type and shape of what it is the "
                  "gradient of");
    const TensorView<T, rank> view = std::forward<G>(gradient);
    if constexpr (rank < Rank) {
        return gradient_like(where, values, view.unsqueeze());
    } else {
        if (is_wanted(view)) require_shape(where, "the gradient", view.shape(), values.shape());
        return view;
    }
}

/// The gradient of a table [entries, heads] as [1, heads, 1, entries].
template <class T>
[[nodiscard]] TensorView<T, 4> entries_of_heads(TensorView<T, 2> table) {
    return {table.data(),
            {1, table.extent(1), 1, table.extent(0)},
            {0, table.stride(1), 0, table.stride(0)}};
}

/// One number for each head: [heads] or [batch, heads], seen as [batch, heads].
template <class T>
class PerHead {
  public:
    template <TensorLike S>
    explicit PerHead(const S& numbers) {
        static_assert(S::rank() <= 2, "numbers for each head are [heads] or [batch, heads]");
        if constexpr (S::rank() == 1)
            view_ = read(numbers).unsqueeze();
        else
            view_ = read(numbers);
    }

    [[nodiscard]] TensorView<const T, 2> fit(const AttentionShape& shape, std::string_view where,
                                             std::string_view what) const {
        return broadcast_to(view_, Shape<2>(shape.batch, shape.heads), where, what);
    }

    template <class G>
    void set_gradient(std::string_view where, G&& gradient) {
        gradient_ = gradient_like(where, view_, std::forward<G>(gradient));
    }
    /// As [batch or 1, heads or 1, 1, 1].
    [[nodiscard]] TensorView<T, 4> gradient() const {
        return {gradient_.data(),
                {gradient_.extent(0), gradient_.extent(1), 1, 1},
                {gradient_.stride(0), gradient_.stride(1), 0, 0}};
    }

  private:
    TensorView<const T, 2> view_;
    TensorView<T, 2> gradient_;
};

}  // namespace detail

/// Soft-capping: s becomes cap * tanh(s / cap), before any bias or mask. The cap must be positive
/// and finite, also as a float (ArgumentError). Source: Gemma 2, arXiv 2408.00118.
struct SoftCap {
    double cap;

    [[nodiscard]] detail::SoftCapRule bind(const AttentionShape&, const Alignment&) const {
        // In float a larger cap would be infinite, a smaller one 0, and every score NaN.
        const float as_float = detail::convert<float>(cap);
        if (!(as_float > 0.0f) || !std::isfinite(as_float))
            detail::fail<ArgumentError>("SoftCap", "the cap must be positive and finite as a ",
                                        "float; found ", cap);
        return {cap};
    }
};

/// s becomes s + bias. Any rank up to 4, broadcast to [batch, heads, q_len, kv_len] by NumPy's
/// rule. A bias of minus infinity (also one that becomes it in the compute type) masks the key; a
/// large negative one does not, it only makes its weight small.
///
/// A bias that is learned brings the place for its gradient, which a backward pass then writes: in
/// the bias's own shape, the sum over every dimension along which the bias is broadcast.
template <StorageScalar T>
class AdditiveBias {
  public:
    template <TensorLike B>
    explicit AdditiveBias(const B& bias) : bias_(detail::to_rank_4(read(bias))) {}

    [[nodiscard]] detail::BiasRule<T> bind(const AttentionShape& shape, const Alignment&) const {
        return {broadcast_to(bias_, detail::score_shape(shape), name, "the bias"), gradient_};
    }

    /// The same bias with a place for its gradient; an empty view means "not wanted". Throws
    /// ShapeError unless it has the bias's shape.
    template <TensorLike G>
    [[nodiscard]] AdditiveBias with_gradient(G&& gradient) const {
        AdditiveBias result = *this;
        result.gradient_ = detail::gradient_like(name, bias_, std::forward<G>(gradient));
        return result;
    }

  private:
    static constexpr std::string_view name = "AdditiveBias";

    TensorView<const T, 4> bias_;
    TensorView<T, 4> gradient_;
};

template <TensorLike B>
AdditiveBias(const B&) -> AdditiveBias<ElementOf<B>>;

/// s becomes s - slope_h * |p - j| for query position p and key j, with one slope for each head:
/// [heads] or [batch, heads]. Learned slopes bring the place for their gradient, as AdditiveBias.
/// Source: Press et al., arXiv 2108.12409.
template <StorageScalar T>
class Alibi {
  public:
    template <TensorLike S>
    explicit Alibi(const S& slopes, Alignment aligned = {}) : alignment(aligned), slopes_(slopes) {}

    [[nodiscard]] detail::AlibiRule<T> bind(const AttentionShape& shape, Alignment common) const {
        return {slopes_.fit(shape, name, "the slopes"),
                alignment.or_else(common).resolve(name, shape), slopes_.gradient()};
    }

    /// The same slopes with a place for their gradient. Throws ShapeError unless it has their
    /// shape.
    template <TensorLike G>
    [[nodiscard]] Alibi with_gradient(G&& gradient) const {
        Alibi result = *this;
        result.slopes_.set_gradient(name, std::forward<G>(gradient));
        return result;
    }

    Alignment alignment;

  private:
    static constexpr std::string_view name = "Alibi";

    detail::PerHead<T> slopes_;
};

template <TensorLike S>
Alibi(const S&, Alignment = {}) -> Alibi<ElementOf<S>>;

/// The slopes of the ALiBi paper: a geometric sequence 2^(-8/n), 2^(-16/n), ... for n heads when n
/// is a power of two; otherwise those of the next lower power of two, followed by every second
/// slope of the next higher one. Throws ArgumentError unless heads >= 1.
template <ComputeScalar T>
[[nodiscard]] Tensor<T, 1> alibi_slopes(Index heads) {
    if (heads < 1)
        detail::fail<ArgumentError>("alibi_slopes", "there must be a head; found heads ", heads);
    Index whole = 1;
    while (whole <= heads / 2) whole *= 2;
    Tensor<T, 1> slopes(heads);
    for (Index h = 0; h < heads; ++h) {
        // The extra heads of a count that is no power of two: odd steps of the doubled sequence.
        const double step =
            h < whole ? static_cast<double>(h + 1) : static_cast<double>(h - whole) + 0.5;
        slopes(h) = static_cast<T>(std::exp2(-8.0 * step / static_cast<double>(whole)));
    }
    return slopes;
}

/// Attention sinks: one learned logit for each head, [heads] or [batch, heads], that takes part in
/// the softmax and has no value, so that a query may attend to nothing:
///
///     weight_j = exp(s_j) / (exp(sink_h) + sum_i exp(s_i))
///
/// The weights of a row then sum to less than 1, and its log-sum-exp includes the sink; a row
/// without a visible key has output 0 and the sink as log-sum-exp. Scale, soft-cap, biases, masks
/// and dropout do not reach a sink. Minus infinity is no sink; NaN and plus infinity (also one that
/// becomes it as a float) are an ArgumentError. Several Sinks add up in the sum.
/// Learned logits bring the place for their gradient, as AdditiveBias.
/// Source: gpt-oss, arXiv 2508.10925; as a fixed logit of 0: Miller, "Attention is off by one".
template <StorageScalar T>
class Sinks {
  public:
    template <TensorLike S>
    explicit Sinks(const S& logits) : logits_(logits) {}

    [[nodiscard]] detail::SinkRule<T> bind(const AttentionShape& shape, const Alignment&) const {
        const auto logits = logits_.fit(shape, name, "the logits");
        detail::require_memory(name, "the logits", logits);
        for (Index b = 0; b < shape.batch; ++b)
            for (Index h = 0; h < shape.heads; ++h)
                if (!(detail::convert<float>(logits(b, h)) <
                      std::numeric_limits<float>::infinity()))
                    detail::fail<ArgumentError>(name, "a logit must be below infinity as a ",
                                                "float; found ", static_cast<double>(logits(b, h)),
                                                " for head ", h, " of batch element ", b);
        return {logits, logits_.gradient()};
    }

    /// The same logits with a place for their gradient. Throws ShapeError unless it has their
    /// shape.
    template <TensorLike G>
    [[nodiscard]] Sinks with_gradient(G&& gradient) const {
        Sinks result = *this;
        result.logits_.set_gradient(name, std::forward<G>(gradient));
        return result;
    }

  private:
    static constexpr std::string_view name = "Sinks";

    detail::PerHead<T> logits_;
};

template <TensorLike S>
Sinks(const S&) -> Sinks<ElementOf<S>>;

}  // namespace heed::inline v0
