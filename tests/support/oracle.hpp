#pragma once
// What is the right answer? Attention and its neighbours written from their formulas, plain loops.
// Reads vectors, returns new ones; includes nothing that it judges and is never meant to be fast.
//
// Every function is a template on the arithmetic type. In double it is the oracle of the float
// tests (in long double, of the double tests); in float it is the plain version whose error tells
// how much error a float computation may have (tolerance.hpp).

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <numbers>
#include <optional>
#include <utility>
#include <vector>

namespace oracle {

using Index = std::int64_t;

/// The textbook version in the arithmetic of the library under test.
using PlainFloat = float;

/// Sizes of one attention problem, and where an element lies in its row-major tensor:
/// query [B, H, Lq, D], key [B, Hk, Lk, D], value [B, Hk, Lk, Dv], output [B, H, Lq, Dv],
/// scores and weights [B, H, Lq, Lk], log-sum-exp [B, H, Lq].
struct Sizes {
    Index B = 1, H = 1, Hk = 1, Lq = 1, Lk = 1, D = 1, Dv = 1;

    std::size_t query_at(Index b, Index h, Index q, Index d) const {
        return to_size(((b * H + h) * Lq + q) * D + d);
    }
    std::size_t key_at(Index b, Index kv_head, Index k, Index d) const {
        return to_size(((b * Hk + kv_head) * Lk + k) * D + d);
    }
    std::size_t value_at(Index b, Index kv_head, Index k, Index d) const {
        return to_size(((b * Hk + kv_head) * Lk + k) * Dv + d);
    }
    std::size_t output_at(Index b, Index h, Index q, Index d) const {
        return to_size(((b * H + h) * Lq + q) * Dv + d);
    }
    std::size_t score_at(Index b, Index h, Index q, Index k) const {
        return to_size(((b * H + h) * Lq + q) * Lk + k);
    }
    std::size_t row_at(Index b, Index h, Index q) const { return to_size((b * H + h) * Lq + q); }

    std::size_t query_count() const { return to_size(B * H * Lq * D); }
    std::size_t key_count() const { return to_size(B * Hk * Lk * D); }
    std::size_t value_count() const { return to_size(B * Hk * Lk * Dv); }
    std::size_t output_count() const { return to_size(B * H * Lq * Dv); }
    std::size_t score_count() const { return to_size(B * H * Lq * Lk); }
    std::size_t row_count() const { return to_size(B * H * Lq); }

    /// Grouped queries: head h reads key and value head h / (H / Hk).
    Index kv_head(Index h) const { return h / (H / Hk); }

    static std::size_t to_size(Index i) { return static_cast<std::size_t>(i); }
};

/// What happens to a score, in the order of the members. An absent function changes nothing.
struct Rules {
    /// Absent: 1 / sqrt(D).
    std::optional<double> scale = {};
    /// s -> softcap * tanh(s / softcap); 0: none.
    double softcap = 0.0;
    /// Additive bias, or any other score modification. -inf gives the key the weight 0 but, unlike
    /// the mask below, does not hide a NaN in it.
    std::function<double(double score, Index b, Index h, Index q, Index k)> modify = {};
    /// Invisible keys are left out: whatever they hold has no effect.
    std::function<bool(Index b, Index h, Index q, Index k)> visible = {};
    /// Weights that dropout keeps; they are multiplied by 1 / (1 - dropout), the others left out.
    std::function<bool(Index b, Index h, Index q, Index k)> keep = {};
    double dropout = 0.0;
    /// One more score in the sum of each row of a head, without a value; -inf: none.
    std::function<double(Index b, Index h)> sink = {};
};

/// Output and every stage on the way there. A row without a visible key has output 0, weights 0
/// and log_sum_exp -inf. Weights are before dropout; `masked` is -inf where invisible.
template <class Real>
struct Result {
    std::vector<Real> output, weights, log_sum_exp;
    std::vector<Real> products, scaled, capped, modified, masked;
};

/// Tensor of [B, H, Lq, Lk] of which any size may be 1 instead: reads as if it were repeated.
template <class T>
struct Broadcast {
    std::vector<T> values;
    Index B = 1, H = 1, Lq = 1, Lk = 1;

    T operator()(Index b, Index h, Index q, Index k) const {
        const Index row = (first_if_one(b, B) * H + first_if_one(h, H)) * Lq + first_if_one(q, Lq);
        return values[static_cast<std::size_t>(row * Lk + first_if_one(k, Lk))];
    }

    static Index first_if_one(Index i, Index size) { return size == 1 ? 0 : i; }
};

template <class Real, class Range>
std::vector<Real> convert(const Range& values) {
    std::vector<Real> result;
    for (const auto& value : values) result.push_back(static_cast<Real>(value));
    return result;
}

/// weights_i = exp(s_i) / sum_j exp(s_j) over `count` scores; returns log(sum_j exp(s_j)).
/// All -inf, or none at all: weights 0, result -inf. A NaN makes weights and result NaN; +inf
/// makes the weights NaN and the result +inf. A sink adds exp(sink) to both sums.
template <class Real>
Real softmax_row(const Real* scores, Real* weights, std::size_t count,
                 Real sink = -std::numeric_limits<Real>::infinity()) {
    Real largest = sink;
    for (std::size_t i = 0; i < count; ++i) {
        if (scores[i] > largest || std::isnan(scores[i])) largest = scores[i];
    }
    if (std::isinf(largest)) {
        const Real weight = largest < 0 ? 0 : std::numeric_limits<Real>::quiet_NaN();
        for (std::size_t i = 0; i < count; ++i) weights[i] = weight;
        return largest;
    }
    Real sum = std::exp(sink - largest);
    for (std::size_t i = 0; i < count; ++i) {
        weights[i] = std::exp(scores[i] - largest);
        sum += weights[i];
    }
    for (std::size_t i = 0; i < count; ++i) weights[i] /= sum;
    return largest + std::log(sum);
}

/// Scores of row (b, h, q) at every stage.
template <class Real>
void score_row(const Sizes& n, const std::vector<Real>& query, const std::vector<Real>& key,
               const Rules& rules, Index b, Index h, Index q, Result<Real>& result) {
    const Real scale =
        rules.scale ? static_cast<Real>(*rules.scale) : 1 / std::sqrt(static_cast<Real>(n.D));
    const Real cap = static_cast<Real>(rules.softcap);
    for (Index k = 0; k < n.Lk; ++k) {
        const std::size_t at = n.score_at(b, h, q, k);
        Real product = 0;
        for (Index d = 0; d < n.D; ++d) {
            product += query[n.query_at(b, h, q, d)] * key[n.key_at(b, n.kv_head(h), k, d)];
        }
        const Real scaled = product * scale;
        const Real capped = cap == 0 ? scaled : cap * std::tanh(scaled / cap);
        const Real modified =
            rules.modify ? static_cast<Real>(rules.modify(static_cast<double>(capped), b, h, q, k))
                         : capped;
        const bool visible = !rules.visible || rules.visible(b, h, q, k);
        result.products[at] = product;
        result.scaled[at] = scaled;
        result.capped[at] = capped;
        result.modified[at] = modified;
        result.masked[at] = visible ? modified : -std::numeric_limits<Real>::infinity();
    }
}

/// output[b, h, q, :] = sum of weight * value over the keys that are visible and kept.
template <class Real>
void output_row(const Sizes& n, const std::vector<Real>& value, const Rules& rules, Index b,
                Index h, Index q, Result<Real>& result) {
    const Real kept_scale = 1 / (1 - static_cast<Real>(rules.dropout));
    for (Index k = 0; k < n.Lk; ++k) {
        if (rules.visible && !rules.visible(b, h, q, k)) continue;
        if (rules.keep && !rules.keep(b, h, q, k)) continue;
        Real weight = result.weights[n.score_at(b, h, q, k)];
        if (rules.keep) weight *= kept_scale;
        for (Index d = 0; d < n.Dv; ++d) {
            result.output[n.output_at(b, h, q, d)] +=
                weight * value[n.value_at(b, n.kv_head(h), k, d)];
        }
    }
}

/// softmax(mask(modify(softcap(scale * query key^T)))) value, one row after the other.
template <class Real>
Result<Real> attention(const Sizes& n, const std::vector<Real>& query, const std::vector<Real>& key,
                       const std::vector<Real>& value, const Rules& rules = {}) {
    Result<Real> result;
    result.output.assign(n.output_count(), 0);
    result.log_sum_exp.assign(n.row_count(), 0);
    for (auto* stage : {&result.weights, &result.products, &result.scaled, &result.capped,
                        &result.modified, &result.masked}) {
        stage->assign(n.score_count(), 0);
    }
    for (Index b = 0; b < n.B; ++b) {
        for (Index h = 0; h < n.H; ++h) {
            for (Index q = 0; q < n.Lq; ++q) {
                score_row(n, query, key, rules, b, h, q, result);
                const std::size_t row = n.score_at(b, h, q, 0);
                const Real sink = rules.sink ? static_cast<Real>(rules.sink(b, h))
                                             : -std::numeric_limits<Real>::infinity();
                result.log_sum_exp[n.row_at(b, h, q)] =
                    softmax_row(result.masked.data() + row, result.weights.data() + row,
                                Sizes::to_size(n.Lk), sink);
                output_row(n, value, rules, b, h, q, result);
            }
        }
    }
    return result;
}

/// Calls function(first element, row) for each row of `columns` elements.
template <class Function>
void for_each_row(std::size_t count, std::size_t columns, Function function) {
    for (std::size_t row = 0; columns != 0 && row < count / columns; ++row) {
        function(row * columns, row);
    }
}

/// T5's bucket of a key that many positions ahead of the query (behind it: negative), of a table of
/// num_buckets. By comparing powers, without the logarithm of a quotient: the largest bucket of
/// which (distance / exact)^large >= (max_distance / exact)^step.
inline Index t5_bucket(Index ahead, Index num_buckets, bool bidirectional, Index max_distance) {
    const Index n = bidirectional ? num_buckets / 2 : num_buckets, exact = n / 2;
    Index distance = ahead < 0 ? -ahead : ahead;
    if (!bidirectional && ahead > 0) distance = 0;
    Index bucket = distance;
    if (distance >= exact) {
        const auto over = [&](Index x) {
            return std::log2(static_cast<long double>(x) / static_cast<long double>(exact));
        };
        bucket = exact;
        while (bucket + 1 < n &&
               static_cast<long double>(n - exact) * over(distance) + 1e-12L >=
                   static_cast<long double>(bucket + 1 - exact) * over(max_distance))
            ++bucket;
    }
    return bidirectional && ahead > 0 ? bucket + n : bucket;
}

/// Softmax of each row of [..., columns].
template <class Real>
std::vector<Real> softmax(const std::vector<Real>& x, std::size_t columns) {
    std::vector<Real> y(x.size());
    for_each_row(x.size(), columns, [&](std::size_t first, std::size_t) {
        softmax_row(x.data() + first, y.data() + first, columns);
    });
    return y;
}

/// log(sum(exp(x))) of each row of [..., columns].
template <class Real>
std::vector<Real> log_sum_exp(const std::vector<Real>& x, std::size_t columns) {
    std::vector<Real> weights(columns), result;
    for_each_row(x.size(), columns, [&](std::size_t first, std::size_t) {
        result.push_back(softmax_row(x.data() + first, weights.data(), columns));
    });
    return result;
}

/// (x - mean) / sqrt(variance + eps) * gain + bias over each row; the variance divides by the
/// number of columns. An empty gain means 1, an empty bias 0.
template <class Real>
std::vector<Real> layer_norm(const std::vector<Real>& x, std::size_t columns, double eps,
                             const std::vector<Real>& gain = {},
                             const std::vector<Real>& bias = {}) {
    std::vector<Real> y(x.size());
    const Real n = static_cast<Real>(columns);
    for_each_row(x.size(), columns, [&](std::size_t first, std::size_t) {
        Real mean = 0, variance = 0;
        for (std::size_t i = 0; i < columns; ++i) mean += x[first + i] / n;
        for (std::size_t i = 0; i < columns; ++i) {
            variance += (x[first + i] - mean) * (x[first + i] - mean) / n;
        }
        const Real deviation = std::sqrt(variance + static_cast<Real>(eps));
        for (std::size_t i = 0; i < columns; ++i) {
            y[first + i] = (x[first + i] - mean) / deviation;
            if (!gain.empty()) y[first + i] *= gain[i];
            if (!bias.empty()) y[first + i] += bias[i];
        }
    });
    return y;
}

/// x / sqrt(mean(x^2) + eps) * gain over each row. An empty gain means 1.
template <class Real>
std::vector<Real> rms_norm(const std::vector<Real>& x, std::size_t columns, double eps,
                           const std::vector<Real>& gain = {}) {
    std::vector<Real> y(x.size());
    const Real n = static_cast<Real>(columns);
    for_each_row(x.size(), columns, [&](std::size_t first, std::size_t) {
        Real mean_square = 0;
        for (std::size_t i = 0; i < columns; ++i) mean_square += x[first + i] * x[first + i] / n;
        const Real root = std::sqrt(mean_square + static_cast<Real>(eps));
        for (std::size_t i = 0; i < columns; ++i) {
            y[first + i] = x[first + i] / root * (gain.empty() ? Real(1) : gain[i]);
        }
    });
    return y;
}

/// The activations below tend to 0 towards minus infinity, where their formulas say -inf * 0.
template <class Real>
bool is_minus_infinity(Real x) {
    return x == -std::numeric_limits<Real>::infinity();
}

/// x / 2 * erfc(-x / sqrt 2): the exact GELU, without cancellation for negative x.
template <class Real>
Real gelu(Real x) {
    if (is_minus_infinity(x)) return 0;
    return x / 2 * std::erfc(-x / std::numbers::sqrt2_v<Real>);
}

/// x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
template <class Real>
Real gelu_tanh(Real x) {
    if (is_minus_infinity(x)) return 0;
    const Real slope = std::sqrt(2 * std::numbers::inv_pi_v<Real>);
    return x / 2 * (1 + std::tanh(slope * (x + static_cast<Real>(0.044715L) * x * x * x)));
}

/// x / (1 + exp(-x))
template <class Real>
Real silu(Real x) {
    if (is_minus_infinity(x)) return 0;
    return x / (1 + std::exp(-x));
}

/// y[row, o] = sum_i x[row, i] * weight[o, i] + bias[o]; an empty bias means 0.
template <class Real>
std::vector<Real> linear(const std::vector<Real>& x, const std::vector<Real>& weight,
                         std::size_t in_features, std::size_t out_features,
                         const std::vector<Real>& bias = {}) {
    std::vector<Real> y;
    for_each_row(x.size(), in_features, [&](std::size_t first, std::size_t) {
        for (std::size_t o = 0; o < out_features; ++o) {
            Real sum = 0;
            for (std::size_t i = 0; i < in_features; ++i) {
                sum += x[first + i] * weight[o * in_features + i];
            }
            y.push_back(bias.empty() ? sum : sum + bias[o]);
        }
    });
    return y;
}

}  // namespace oracle
