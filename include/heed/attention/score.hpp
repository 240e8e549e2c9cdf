#pragma once
// How is a score changed before the softmax?
// Each modification is a small value; bind() checks it once against the sizes and returns a rule.
// A final score of minus infinity hides the key. Reads the caller's tensors, writes nothing.

#include <cmath>
#include <limits>

#include "heed/attention/mask.hpp"
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
};

template <class T>
struct BiasRule {
    TensorView<const T, 4> tensor;
    template <class C>
    [[nodiscard]] C modify(C score, const ScoreIndex& at) const {
        // Selected, not added: whatever the score of a hidden key is (NaN from poison or padding),
        // it stays hidden.
        constexpr C hidden = -std::numeric_limits<C>::infinity();
        const C bias = convert<C>(tensor(at.b, at.h, at.q, at.k));
        return bias == hidden ? hidden : score + bias;
    }
};

template <class T>
struct AlibiRule {
    TensorView<const T, 2> tensor;
    QueryPosition position;
    template <class C>
    [[nodiscard]] C modify(C score, const ScoreIndex& at) const {
        const Index distance = position(at) - at.k;
        return score - convert<C>(tensor(at.b, at.h)) * static_cast<C>(std::abs(distance));
    }
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
template <StorageScalar T>
class AdditiveBias {
  public:
    template <TensorLike B>
    explicit AdditiveBias(const B& bias) : bias_(detail::to_rank_4(read(bias))) {}

    [[nodiscard]] detail::BiasRule<T> bind(const AttentionShape& shape, const Alignment&) const {
        return {broadcast_to(bias_, detail::score_shape(shape), "AdditiveBias", "the bias")};
    }

  private:
    TensorView<const T, 4> bias_;
};

template <TensorLike B>
AdditiveBias(const B&) -> AdditiveBias<ElementOf<B>>;

/// s becomes s - slope_h * |p - j| for query position p and key j, with one slope for each head:
/// [heads] or [batch, heads]. Source: Press et al., arXiv 2108.12409.
template <StorageScalar T>
class Alibi {
  public:
    template <TensorLike S>
    explicit Alibi(const S& slopes, Alignment aligned = {}) : alignment(aligned) {
        static_assert(S::rank() <= 2, "ALiBi slopes are [heads] or [batch, heads]");
        if constexpr (S::rank() == 1)
            slopes_ = read(slopes).unsqueeze();
        else
            slopes_ = read(slopes);
    }

    [[nodiscard]] detail::AlibiRule<T> bind(const AttentionShape& shape, Alignment common) const {
        return {broadcast_to(slopes_, Shape<2>(shape.batch, shape.heads), "Alibi", "the slopes"),
                (alignment.is_named() ? alignment : common).resolve("Alibi", shape)};
    }

    Alignment alignment;

  private:
    TensorView<const T, 2> slopes_;
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

}  // namespace heed::inline v0
