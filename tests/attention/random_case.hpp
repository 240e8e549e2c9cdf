#pragma once
// What may an attention be asked? Random sizes and masks of every type at once, and what they mean
// in the oracle's terms.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "attention/attend.hpp"
#include "support/oracle.hpp"

namespace attend {

inline std::string to_string(const heed::AttentionShape& s) {
    std::string text;
    for (const auto& [name, value] :
         {std::pair{"batch ", s.batch}, std::pair{", heads ", s.heads},
          std::pair{", kv_heads ", s.kv_heads}, std::pair{", q_len ", s.q_len},
          std::pair{", kv_len ", s.kv_len}, std::pair{", head_dim ", s.head_dim},
          std::pair{", value_dim ", s.value_dim}})
        text += name + std::to_string(value);
    return text;
}

inline oracle::Sizes sizes(const heed::AttentionShape& s) {
    return {.B = s.batch,
            .H = s.heads,
            .Hk = s.kv_heads,
            .Lq = s.q_len,
            .Lk = s.kv_len,
            .D = s.head_dim,
            .Dv = s.value_dim};
}

/// Mostly small sizes of every relation to each other, now and then 0, now and then long.
inline heed::AttentionShape random_sizes(support::Random& random) {
    const auto length = [&](Index usual, Index rare) {
        if (random.chance(0.02)) return Index{0};
        return random.integer(1, random.chance(0.03) ? rare : usual);
    };
    const Index kv_heads = random.integer(1, 3);
    return {.batch = length(3, 5),
            .heads = kv_heads * random.integer(1, 3),
            .kv_heads = kv_heads,
            .q_len = length(14, 70),
            .kv_len = length(14, 200),
            .head_dim = length(12, 130),
            .value_dim = length(12, 130)};
}

/// Runs a law on random cases until one fails, and prints which.
template <class Law>
void for_random_cases(int cases, const Law& law) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    for (int n = 0; n < cases && !testing::Test::HasFailure(); ++n) {
        const heed::AttentionShape s = random_sizes(random);
        SCOPED_TRACE("case " + std::to_string(n) + ": " + to_string(s));
        law(random, s);
    }
}

/// The score function among the random masks.
struct Tilt {
    double slope;
    template <class Score>
    Score operator()(Score score, heed::ScoreIndex at) const {
        return score + static_cast<Score>(slope) * static_cast<Score>((at.q + 2 * at.k) % 5);
    }
};

/// Where the gradients of biases, slopes, tables and sinks go, if they are wanted.
struct RuleGradients {
    Tensor<float, 4> bias;
    Tensor<float, 2> slopes;
    Tensor<float, 1> sinks;
    Tensor<float, 2> t5, swin;

    template <class Visit>
    void for_each(const Visit& visit) {
        visit("bias", bias.view());
        visit("slopes", slopes.view());
        visit("sinks", sinks.view());
        visit("t5", t5.view());
        visit("swin", swin.view());
    }
};

/// Masks and modifications of every type. Those that are switched off hold their neutral element.
struct RandomMasks {
    heed::AttentionShape shape;
    std::vector<Index> offsets;
    Index causal_offset = Index{1} << 40;
    Index left = -1, right = -1;
    std::vector<Index> lengths;
    Tensor<bool, 4> attend;
    Tensor<std::uint8_t, 4> block;
    Tensor<float, 4> bias;
    Tensor<float, 2> slopes;
    Tilt tilt{0};
    double cap;
    std::vector<Index> shift;  ///< by which documents move each query on the key axis, if any

    /// Where the gradients of bias and slopes go, if anywhere.
    struct {
        TensorView<float, 4> bias;
        TensorView<float, 2> slopes;
    } gradients;

    RandomMasks(support::Random& random, const heed::AttentionShape& s, double each = 0.4)
        : shape(s),
          attend(flags(random, some_extents(random), random.chance(each) ? 0.8 : 1.0)),
          block(some_extents(random)),
          bias(some_extents(random)),
          slopes({random.chance(0.5) ? s.batch : 1, s.heads}),
          cap(random.uniform(0.3, 5.0)) {
        const bool blocks = random.chance(each), biases = random.chance(each);
        const bool sloped = random.chance(each);
        for (Index b = 0; b < s.batch; ++b) {
            offsets.push_back(random.integer(-s.q_len, s.kv_len));
            lengths.push_back(random.chance(each) ? random.integer(0, s.kv_len) : s.kv_len);
        }
        if (random.chance(each)) causal_offset = random.integer(-s.q_len / 2, s.kv_len);
        if (random.chance(each)) left = random.integer(-1, s.kv_len);
        if (random.chance(each)) right = random.integer(-1, s.kv_len);
        if (random.chance(each)) tilt.slope = static_cast<double>(random.integer(-4, 4)) / 8.0;
        for (std::uint8_t& flag : block.values())
            flag = blocks && random.chance(0.2) ? random.pick<std::uint8_t>({1, 2, 255}) : 0;
        for (float& x : bias.values())
            if (biases) x = random.chance(0.1) ? -infinity : static_cast<float>(random.normal());
        for (float& x : slopes.values())
            if (sloped) x = static_cast<float>(random.uniform(0, 0.5));
    }

    /// A bias of one of the 16 shapes that broadcast.
    void reshape_bias(support::Random& random, int which) {
        const auto extent = [&](int d) {
            return (which >> d & 1) != 0 ? heed::detail::score_shape(shape)[d] : 1;
        };
        bias = normals<float, 4>(random, {extent(0), extent(1), extent(2), extent(3)});
        for (float& x : bias.values())
            if (random.chance(0.1)) x = -infinity;
    }

    /// All of them but soft-cap.
    [[nodiscard]] auto masks() const {
        return heed::AdditiveBias{bias}.with_gradient(gradients.bias) &
               heed::Causal::offset(causal_offset) &
               heed::Alibi{slopes, heed::Alignment::offsets(offsets)}.with_gradient(
                   gradients.slopes) &
               heed::KeyLengths{lengths} & heed::AttendWhere{attend} & tilt &
               heed::SlidingWindow{left, right, heed::Alignment::offsets(offsets)} &
               heed::BlockWhere{block};
    }
    [[nodiscard]] auto masks_and_cap() const { return masks() & heed::SoftCap{cap}; }

    /// What masks() shows, biases of minus infinity included.
    [[nodiscard]] bool visible(Index b, Index h, Index q, Index k) const {
        const Index p = position(b, q);
        return k <= q + shift_of(q) + causal_offset && (left < 0 || p - k <= left) &&
               (right < 0 || k - p <= right) && k < lengths[static_cast<std::size_t>(b)] &&
               at(attend, b, h, q, k) && at(block, b, h, q, k) == 0 &&
               at(bias, b, h, q, k) != -infinity;
    }

    [[nodiscard]] double modify(double score, Index b, Index h, Index q, Index k) const {
        return tilt(score + added(b, h, q, k), {b, h, q, k});
    }

    /// Magnitude of the terms that modify() adds to a score.
    [[nodiscard]] double added_magnitude() const {
        double largest = 0;
        for (Index b = 0; b < shape.batch; ++b)
            for (Index h = 0; h < shape.heads; ++h)
                for (Index q = 0; q < shape.q_len; ++q)
                    for (Index k = 0; k < shape.kv_len; ++k)
                        if (visible(b, h, q, k))
                            largest = std::max(largest, std::abs(at(bias, b, h, q, k)) +
                                                            distance_penalty(b, h, q, k) +
                                                            4 * std::abs(tilt.slope));
        return largest;
    }

    [[nodiscard]] std::string describe() const {
        return "causal " + std::to_string(causal_offset) + ", window " + std::to_string(left) +
               ", " + std::to_string(right) + ", cap " + std::to_string(cap) + ", tilt " +
               std::to_string(tilt.slope);
    }

    [[nodiscard]] Index shift_of(Index q) const {
        return shift.empty() ? 0 : shift[static_cast<std::size_t>(q)];
    }

    /// By which the slope of a head is multiplied.
    [[nodiscard]] double distance(Index b, Index q, Index k) const {
        return static_cast<double>(std::abs(position(b, q) - k));
    }
    template <class T>
    static T& at(Tensor<T, 4>& tensor, Index b, Index h, Index q, Index k) {
        const auto place = [&](int d, Index i) { return tensor.extent(d) == 1 ? 0 : i; };
        return tensor(place(0, b), place(1, h), place(2, q), place(3, k));
    }

  private:
    [[nodiscard]] Index position(Index b, Index q) const {
        return q + shift_of(q) + offsets[static_cast<std::size_t>(b)];
    }

    template <class T>
    static T at(const Tensor<T, 4>& tensor, Index b, Index h, Index q, Index k) {
        const auto place = [&](int d, Index i) { return tensor.extent(d) == 1 ? 0 : i; };
        return tensor(place(0, b), place(1, h), place(2, q), place(3, k));
    }

    [[nodiscard]] double distance_penalty(Index b, Index h, Index q, Index k) const {
        const float slope = slopes(slopes.extent(0) == 1 ? 0 : b, h);
        return static_cast<double>(slope) * distance(b, q, k);
    }

    [[nodiscard]] double added(Index b, Index h, Index q, Index k) const {
        return static_cast<double>(at(bias, b, h, q, k)) - distance_penalty(b, h, q, k);
    }

    /// [batch, heads, q_len, kv_len] with some of them 1 instead.
    [[nodiscard]] heed::Shape<4> some_extents(support::Random& random) const {
        const auto some = [&](Index extent) { return random.chance(0.4) ? 1 : extent; };
        return {some(shape.batch), some(shape.heads), some(shape.q_len), some(shape.kv_len)};
    }
};

/// Sinks, a relative position table of T5 and, in packed sequences, documents; or Swin's table.
struct RandomRelatives {
    heed::AttentionShape shape;
    std::vector<Index> queries{0}, keys{0};  ///< boundaries of the documents
    std::vector<Index> label_of_query, label_of_key;
    Tensor<float, 1> sinks;
    bool both_directions;
    Index buckets, max_distance;
    Tensor<float, 2> t5;
    Index height = 1, width = 1;
    Tensor<float, 2> swin;

    /// Where the gradients of sinks and tables go, if anywhere.
    struct {
        TensorView<float, 1> sinks;
        TensorView<float, 2> t5, swin;
    } gradients;

    /// With documents, `masks` refer to them from now on. For a window, q_len and kv_len are its
    /// tokens.
    RandomRelatives(support::Random& random, const heed::AttentionShape& s, RandomMasks* masks,
                    Index window_height = 0)
        : shape(s),
          sinks(s.heads),
          both_directions(random.chance(0.5)),
          buckets(random.integer(4, 40)),
          max_distance(random.integer(buckets, 150)),
          t5(normals<float, 2>(random, {buckets, s.heads})) {
        for (float& x : sinks.values())
            x = random.chance(0.2) ? -infinity : static_cast<float>(3 * random.normal());
        if (window_height > 0) {
            height = window_height;
            width = s.q_len / height;
            swin = normals<float, 2>(random, {(2 * height - 1) * (2 * width - 1), s.heads});
        }
        const auto documents = static_cast<std::size_t>(random.integer(1, 5));
        cut(random, documents, s.q_len, queries, label_of_query);
        cut(random, documents, s.kv_len, keys, label_of_key);
        if (masks == nullptr) return;
        for (Index d : label_of_query)
            masks->shift.push_back(keys[static_cast<std::size_t>(d)] -
                                   queries[static_cast<std::size_t>(d)]);
    }

    [[nodiscard]] auto packed() const {
        return heed::Sinks{sinks}.with_gradient(gradients.sinks) & heed::Documents(queries, keys) &
               heed::T5Bias{t5,
                            {.bidirectional = both_directions, .max_distance = max_distance},
                            heed::Alignment::top_left()}
                   .with_gradient(gradients.t5);
    }
    [[nodiscard]] auto window() const {
        return heed::SwinBias{swin, height, width}.with_gradient(gradients.swin) &
               heed::Sinks{sinks}.with_gradient(gradients.sinks);
    }

    [[nodiscard]] bool same_document(Index q, Index k) const {
        return label_of_query[static_cast<std::size_t>(q)] ==
               label_of_key[static_cast<std::size_t>(k)];
    }
    [[nodiscard]] Index t5_row(Index position, Index k) const {
        return oracle::t5_bucket(k - position, buckets, both_directions, max_distance);
    }
    [[nodiscard]] double t5_bias(Index position, Index h, Index k) const {
        return static_cast<double>(t5(t5_row(position, k), h));
    }
    [[nodiscard]] Index swin_row(Index q, Index k) const {
        const Index rows = q / width - k / width + height - 1;
        const Index columns = q % width - k % width + width - 1;
        return rows * (2 * width - 1) + columns;
    }
    [[nodiscard]] double swin_bias(Index h, Index q, Index k) const {
        return static_cast<double>(swin(swin_row(q, k), h));
    }
    [[nodiscard]] double added_magnitude() const {
        return support::max_magnitude(t5.values()) + support::max_magnitude(swin.values());
    }

  private:
    static void cut(support::Random& random, std::size_t count, Index length,
                    std::vector<Index>& bounds, std::vector<Index>& labels) {
        for (std::size_t d = 1; d < count; ++d) bounds.push_back(random.integer(0, length));
        bounds.push_back(length);
        std::sort(bounds.begin(), bounds.end());
        for (std::size_t d = 0; d < count; ++d)
            labels.insert(labels.end(), static_cast<std::size_t>(bounds[d + 1] - bounds[d]),
                          static_cast<Index>(d));
    }
};

}  // namespace attend
