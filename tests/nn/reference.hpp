#pragma once
// What should a module with weights answer? Modules in plain loops on vectors, from the oracle.
// Knows parameters by the names "q.weight", "k.weight", "v.weight", "o.weight", "q.bias" ...;
// includes nothing of heed's arithmetic.

#include <algorithm>
#include <limits>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include "support/oracle.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"

namespace reference {

using oracle::Index;

inline std::size_t to_size(Index n) {
    return static_cast<std::size_t>(n);
}

/// Parameters by name, in row-major order.
template <class Real>
using Parameters = std::map<std::string, std::vector<Real>>;

/// The parameter, or an empty vector where there is none.
template <class Real>
std::vector<Real> find(const Parameters<Real>& parameters, const std::string& name) {
    const auto place = parameters.find(name);
    return place == parameters.end() ? std::vector<Real>{} : place->second;
}

/// Elements [begin, begin + count).
template <class Real>
std::vector<Real> piece(const std::vector<Real>& values, Index begin, Index count) {
    return {values.begin() + begin, values.begin() + begin + count};
}

template <class Real, class Given>
Parameters<Real> convert(const Parameters<Given>& parameters) {
    Parameters<Real> result;
    for (const auto& [name, values] : parameters) result[name] = oracle::convert<Real>(values);
    return result;
}

/// [B, L, H * D] -> [B, H, L, D]
template <class Real>
std::vector<Real> split_heads(const std::vector<Real>& x, Index B, Index L, Index H) {
    if (x.empty()) return {};
    const Index width = static_cast<Index>(x.size()) / (B * L);
    const Index D = width / H;
    std::vector<Real> y;
    for (Index b = 0; b < B; ++b)
        for (Index h = 0; h < H; ++h)
            for (Index i = 0; i < L; ++i)
                for (Index d = 0; d < D; ++d)
                    y.push_back(x[to_size((b * L + i) * width + h * D + d)]);
    return y;
}

/// [B, H, L, D] -> [B, L, H * D]
template <class Real>
std::vector<Real> merge_heads(const std::vector<Real>& x, Index B, Index L, Index H) {
    return split_heads(x, B, H, L);
}

/// Rows appended to every sequence of [B, L, width].
template <class Real>
std::vector<Real> append_row(const std::vector<Real>& x, Index B, const std::vector<Real>& row) {
    std::vector<Real> y;
    const Index per_batch = static_cast<Index>(x.size()) / B;
    for (Index b = 0; b < B; ++b) {
        const std::vector<Real> sequence = piece(x, b * per_batch, per_batch);
        y.insert(y.end(), sequence.begin(), sequence.end());
        y.insert(y.end(), row.begin(), row.end());
    }
    return y;
}

/// Sizes and switches of a multi-head attention; widths follow from the parameters.
struct MultiHead {
    Index B = 1, Lq = 1, Lk = 1;
    Index E = 1, kdim = 1, vdim = 1;
    Index H = 1, Hk = 1;
    bool add_zero_attn = false;
    enum class Norm { none, layer, rms } qk_norm = Norm::none;
    double epsilon = 1e-6;
    oracle::Rules rules = {};  ///< of the keys given; those appended are always visible
};

template <class Real>
struct Answer {
    std::vector<Real> output;   ///< [B, Lq, E], or the merged heads where there is no "o.weight"
    std::vector<Real> weights;  ///< [B, H, Lq, keys]
    std::vector<Real> averaged_weights;  ///< [B, Lq, keys]
    std::vector<Real> log_sum_exp;       ///< [B, H, Lq]
};

/// x W^T + b with the parameters of that name.
template <class Real>
std::vector<Real> project(const Parameters<Real>& p, const std::string& name,
                          const std::vector<Real>& x, Index in_features) {
    const std::vector<Real> weight = find(p, name + ".weight");
    const std::size_t in = to_size(in_features);
    return oracle::linear(x, weight, in, weight.size() / in, find(p, name + ".bias"));
}

/// Each head's rows of [B, H, L, D] normalised.
template <class Real>
std::vector<Real> normalise(const MultiHead& m, const Parameters<Real>& p, const std::string& name,
                            const std::vector<Real>& x) {
    const std::vector<Real> gain = find(p, name + ".weight"), bias = find(p, name + ".bias");
    switch (m.qk_norm) {
        case MultiHead::Norm::layer:
            return oracle::layer_norm(x, gain.size(), m.epsilon, gain, bias);
        case MultiHead::Norm::rms:
            return oracle::rms_norm(x, gain.size(), m.epsilon, gain);
        case MultiHead::Norm::none:
            break;
    }
    return x;
}

/// The rules, with keys from `given` on free of them.
inline oracle::Rules with_extra_keys(oracle::Rules rules, Index given) {
    if (const auto visible = rules.visible)
        rules.visible = [=](Index b, Index h, Index q, Index k) {
            return k >= given || visible(b, h, q, k);
        };
    if (const auto modify = rules.modify)
        rules.modify = [=](double score, Index b, Index h, Index q, Index k) {
            return k >= given ? score : modify(score, b, h, q, k);
        };
    return rules;
}

template <class Real>
std::vector<Real> mean_over_heads(const oracle::Sizes& n, const std::vector<Real>& weights) {
    std::vector<Real> mean(to_size(n.B * n.Lq * n.Lk), 0);
    for (Index b = 0; b < n.B; ++b)
        for (Index h = 0; h < n.H; ++h)
            for (Index i = 0; i < n.Lq * n.Lk; ++i)
                mean[to_size(b * n.Lq * n.Lk + i)] +=
                    weights[to_size((b * n.H + h) * n.Lq * n.Lk + i)] / static_cast<Real>(n.H);
    return mean;
}

/// concat_h(attention(query W_q^h, key W_k^h, value W_v^h)) W_o^T; kv heads are normalised before
/// bias_k and the zero key are appended.
template <class Real>
Answer<Real> multi_head_attention(const MultiHead& m, const Parameters<Real>& p,
                                  const std::vector<Real>& query, const std::vector<Real>& key,
                                  const std::vector<Real>& value) {
    const std::vector<Real> q =
        normalise(m, p, "q_norm", split_heads(project(p, "q", query, m.E), m.B, m.Lq, m.H));
    const std::vector<Real> normed =
        normalise(m, p, "k_norm", split_heads(project(p, "k", key, m.kdim), m.B, m.Lk, m.Hk));
    std::vector<Real> k = merge_heads(normed, m.B, m.Lk, m.Hk);
    std::vector<Real> v = project(p, "v", value, m.vdim);
    const std::size_t k_width = find(p, "k.weight").size() / to_size(m.kdim);
    const std::size_t v_width = find(p, "v.weight").size() / to_size(m.vdim);
    Index keys = m.Lk;
    const auto append = [&](const std::vector<Real>& k_row, const std::vector<Real>& v_row) {
        k = append_row(k, m.B, k_row);
        v = append_row(v, m.B, v_row);
        ++keys;
    };
    if (p.contains("bias_k")) append(find(p, "bias_k"), find(p, "bias_v"));
    if (m.add_zero_attn) append(std::vector<Real>(k_width), std::vector<Real>(v_width));

    const oracle::Sizes n{.B = m.B,
                          .H = m.H,
                          .Hk = m.Hk,
                          .Lq = m.Lq,
                          .Lk = keys,
                          .D = static_cast<Index>(k_width) / m.Hk,
                          .Dv = static_cast<Index>(v_width) / m.Hk};
    const auto heads =
        oracle::attention(n, q, split_heads(k, m.B, keys, m.Hk), split_heads(v, m.B, keys, m.Hk),
                          with_extra_keys(m.rules, m.Lk));
    const std::vector<Real> context = merge_heads(heads.output, m.B, m.Lq, m.H);
    return {p.contains("o.weight") ? project(p, "o", context, m.H * n.Dv) : context, heads.weights,
            mean_over_heads(n, heads.weights), heads.log_sum_exp};
}

/// The scalar functions between two linear layers, by PyTorch's names; "none" changes nothing.
template <class Real>
Real activate(const std::string& name, Real x) {
    if (name == "relu") return x < 0 ? Real(0) : x;
    if (name == "gelu") return oracle::gelu(x);
    if (name == "gelu_tanh") return oracle::gelu_tanh(x);
    if (name == "silu") return oracle::silu(x);
    return x;
}

/// W_2 (act(W_1 x + b_1)) + b_2, or W_2 (act(W_g x + b_g) * (W_1 x + b_1)) + b_2 where there is a
/// "gate.weight". x is [.., dim].
template <class Real>
std::vector<Real> feed_forward(const Parameters<Real>& p, const std::string& activation,
                               const std::vector<Real>& x, Index dim) {
    std::vector<Real> hidden = project(p, "linear1", x, dim);
    if (p.contains("gate.weight")) {
        const std::vector<Real> gate = project(p, "gate", x, dim);
        for (std::size_t i = 0; i < hidden.size(); ++i) hidden[i] *= activate(activation, gate[i]);
    } else {
        for (Real& value : hidden) value = activate(activation, value);
    }
    const Index width = static_cast<Index>(find(p, "linear1.weight").size()) / dim;
    return project(p, "linear2", hidden, width);
}

/// An encoder layer; the attention's parameters are "q.weight" ... as above.
struct EncoderLayer {
    MultiHead attention;
    std::string activation = "relu";
    double epsilon = 1e-5;
    bool norm_first = false;
};

template <class Real>
std::vector<Real> encoder_layer(const EncoderLayer& layer, const Parameters<Real>& p,
                                const std::vector<Real>& x) {
    const Index E = layer.attention.E;
    const auto norm = [&](const std::string& name, const std::vector<Real>& values) {
        return oracle::layer_norm(values, to_size(E), layer.epsilon, find(p, name + ".weight"),
                                  find(p, name + ".bias"));
    };
    const auto attend = [&](const std::vector<Real>& values) {
        return multi_head_attention(layer.attention, p, values, values, values).output;
    };
    const auto sum = [](std::vector<Real> a, const std::vector<Real>& b) {
        for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
        return a;
    };
    const auto feed = [&](const std::vector<Real>& values) {
        return feed_forward(p, layer.activation, values, E);
    };
    if (layer.norm_first) {
        const std::vector<Real> y = sum(x, attend(norm("norm1", x)));
        return sum(y, feed(norm("norm2", y)));
    }
    const std::vector<Real> y = norm("norm1", sum(x, attend(x)));
    return norm("norm2", sum(y, feed(y)));
}

/// The arithmetic that judges T.
template <class T>
using Wider = std::conditional_t<std::is_same_v<T, float>, double, long double>;

/// How far each part of an answer moves, in units of T's epsilon, when every parameter and input
/// moves by at most one epsilon of itself: the size of the terms that cancel or are amplified on
/// the way, which no computation in T can know better. The largest of a few random draws.
struct Sensitivity {
    double output = 0, weights = 0, averaged_weights = 0, log_sum_exp = 0;
};

/// The answer of the oracle, and that of the plain version in T. An error may be twice the plain
/// version's plus 4 epsilon of the sensitivity (support::compare_with_oracle).
template <class T>
struct Yardstick {
    Answer<Wider<T>> oracle;
    Answer<T> plain;
    Sensitivity sensitivity;
};

/// The values, each times 1 + r, with r uniform in +-epsilon of T.
template <class T>
std::vector<Wider<T>> nudged(support::Random& random, const std::vector<T>& values) {
    std::vector<Wider<T>> result = oracle::convert<Wider<T>>(values);
    const double epsilon = static_cast<double>(std::numeric_limits<T>::epsilon());
    for (auto& value : result)
        value *= 1 + static_cast<Wider<T>>(random.uniform(-epsilon, epsilon));
    return result;
}

template <class T>
Parameters<Wider<T>> nudged(support::Random& random, const Parameters<T>& parameters) {
    Parameters<Wider<T>> result;
    for (const auto& [name, values] : parameters) result[name] = nudged(random, values);
    return result;
}

/// The largest distance between two answers of the same kind, in epsilons of T.
template <class T, class Wide>
double distance(const std::vector<Wide>& a, const std::vector<Wide>& b) {
    return support::max_abs_error(a, b).error /
           static_cast<double>(std::numeric_limits<T>::epsilon());
}

inline constexpr int sensitivity_draws = 8;

/// Parameters and inputs are given in T, so that all answers are about the same numbers.
template <class T>
Yardstick<T> yardstick(const MultiHead& m, const Parameters<T>& p, const std::vector<T>& query,
                       const std::vector<T>& key, const std::vector<T>& value) {
    using Wide = Wider<T>;
    Yardstick<T> y{
        multi_head_attention<Wide>(m, convert<Wide>(p), oracle::convert<Wide>(query),
                                   oracle::convert<Wide>(key), oracle::convert<Wide>(value)),
        multi_head_attention<T>(m, p, query, key, value),
        {}};
    support::Random random(1);
    for (int draw = 0; draw < sensitivity_draws; ++draw) {
        const auto moved = multi_head_attention<Wide>(m, nudged(random, p), nudged(random, query),
                                                      nudged(random, key), nudged(random, value));
        const auto note = [](double& most, double now) { most = std::max(most, now); };
        Sensitivity& s = y.sensitivity;
        note(s.output, distance<T>(moved.output, y.oracle.output));
        note(s.weights, distance<T>(moved.weights, y.oracle.weights));
        note(s.averaged_weights, distance<T>(moved.averaged_weights, y.oracle.averaged_weights));
        note(s.log_sum_exp, distance<T>(moved.log_sum_exp, y.oracle.log_sum_exp));
    }
    return y;
}

/// Is the result as close to the oracle as a computation in T can be?
template <class T, class Wide>
support::Verdict compare(const std::vector<T>& actual, const std::vector<T>& plain,
                         const std::vector<Wide>& oracle, double sensitivity) {
    return support::compare_with_oracle<T>(actual, plain, oracle,
                                           std::max(sensitivity, support::max_magnitude(oracle)));
}

template <class T>
support::Verdict compare_output(const std::vector<T>& actual, const Yardstick<T>& y) {
    return compare(actual, y.plain.output, y.oracle.output, y.sensitivity.output);
}
template <class T>
support::Verdict compare_weights(const std::vector<T>& actual, const Yardstick<T>& y) {
    return compare(actual, y.plain.weights, y.oracle.weights, y.sensitivity.weights);
}
template <class T>
support::Verdict compare_averaged_weights(const std::vector<T>& actual, const Yardstick<T>& y) {
    return compare(actual, y.plain.averaged_weights, y.oracle.averaged_weights,
                   y.sensitivity.averaged_weights);
}
template <class T>
support::Verdict compare_log_sum_exp(const std::vector<T>& actual, const Yardstick<T>& y) {
    return compare(actual, y.plain.log_sum_exp, y.oracle.log_sum_exp, y.sensitivity.log_sum_exp);
}

/// The same for a module with one input and one output: answer(parameters, x) in any arithmetic.
template <class T, class Answerer>
support::Verdict compare_module(const std::vector<T>& actual, const Parameters<T>& p,
                                const std::vector<T>& x, const Answerer& answer) {
    using Wide = Wider<T>;
    const auto oracle = answer(convert<Wide>(p), oracle::convert<Wide>(x));
    support::Random random(1);
    double sensitivity = 0;
    for (int draw = 0; draw < sensitivity_draws; ++draw)
        sensitivity = std::max(sensitivity,
                               distance<T>(answer(nudged(random, p), nudged(random, x)), oracle));
    return compare(actual, answer(p, x), oracle, sensitivity);
}

}  // namespace reference
