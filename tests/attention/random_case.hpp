#pragma once
// What may an attention be asked? Random sizes and masks of every type at once, and what they mean
// in the oracle's terms.

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

    /// All of them but soft-cap.
    [[nodiscard]] auto masks() const {
        return heed::AdditiveBias{bias} & heed::Causal::offset(causal_offset) &
               heed::Alibi{slopes, heed::Alignment::offsets(offsets)} & heed::KeyLengths{lengths} &
               heed::AttendWhere{attend} & tilt &
               heed::SlidingWindow{left, right, heed::Alignment::offsets(offsets)} &
               heed::BlockWhere{block};
    }
    [[nodiscard]] auto masks_and_cap() const { return masks() & heed::SoftCap{cap}; }

    /// What masks() shows, biases of minus infinity included.
    [[nodiscard]] bool visible(Index b, Index h, Index q, Index k) const {
        const Index p = q + offsets[static_cast<std::size_t>(b)];
        return k <= q + causal_offset && (left < 0 || p - k <= left) &&
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

  private:
    template <class T>
    static T at(const Tensor<T, 4>& tensor, Index b, Index h, Index q, Index k) {
        const auto place = [&](int d, Index i) { return tensor.extent(d) == 1 ? 0 : i; };
        return tensor(place(0, b), place(1, h), place(2, q), place(3, k));
    }

    [[nodiscard]] double distance_penalty(Index b, Index h, Index q, Index k) const {
        const Index p = q + offsets[static_cast<std::size_t>(b)];
        const float slope = slopes(slopes.extent(0) == 1 ? 0 : b, h);
        return static_cast<double>(slope) * static_cast<double>(std::abs(p - k));
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

}  // namespace attend
