#pragma once
// What are the gradients of an attention? By central differences of the oracle, and by the formula
// on the oracle's weights; and how these tests call heed's.

#include <algorithm>
#include <cmath>
#include <concepts>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "attention/attend.hpp"
#include "attention/random_case.hpp"
#include "heed/attention/scaled_dot_product_attention_backward.hpp"
#include "support/differences.hpp"
#include "support/oracle.hpp"

namespace attend {

/// Gradients in row-major order.
template <class Real>
struct Gradients {
    std::vector<Real> dq, dk, dv;

    template <class Visit>
    void for_each(const Visit& visit) const {
        visit("dq", dq);
        visit("dk", dk);
        visit("dv", dv);
    }
};

/// An attention in the oracle's terms; `slope` is the derivative of rules.modify, absent: 1.
struct OracleCase {
    oracle::Sizes n;
    oracle::Rules rules;
    std::function<double(double score, Index b, Index h, Index q, Index k)> slope = {};
};

/// By the formula, from the weights. `without_delta` is a mistake on purpose. `magnitude` sums the
/// absolute values of all terms instead (those of the slope 1 - share^2, too).
template <class Real>
Gradients<Real> by_formula(const OracleCase& problem, const std::vector<Real>& q,
                           const std::vector<Real>& k, const std::vector<Real>& v,
                           const std::vector<Real>& d_out, bool without_delta = false,
                           bool magnitude = false) {
    const auto& [n, rules, slope_of] = problem;
    const oracle::Result<Real> forward = oracle::attention(n, q, k, v, rules);
    const auto term = [magnitude](Real x) { return magnitude ? std::abs(x) : x; };
    const Real scale =
        rules.scale ? static_cast<Real>(*rules.scale) : 1 / std::sqrt(static_cast<Real>(n.D));
    const Real kept_scale = 1 / (1 - static_cast<Real>(rules.dropout));
    Gradients<Real> g{std::vector<Real>(n.query_count()), std::vector<Real>(n.key_count()),
                      std::vector<Real>(n.value_count())};
    for (Index b = 0; b < n.B; ++b)
        for (Index h = 0; h < n.H; ++h)
            for (Index i = 0; i < n.Lq; ++i) {
                Real delta = 0;
                for (Index c = 0; c < n.Dv && !without_delta; ++c)
                    delta += term(d_out[n.output_at(b, h, i, c)] *
                                  forward.output[n.output_at(b, h, i, c)]);
                for (Index j = 0; j < n.Lk; ++j) {
                    const Index kv = n.kv_head(h);
                    const std::size_t at = n.score_at(b, h, i, j);
                    const Real p = forward.weights[at];
                    if (p == 0 || (rules.visible && !rules.visible(b, h, i, j))) continue;
                    const Real kept = !rules.keep              ? Real(1)
                                      : rules.keep(b, h, i, j) ? kept_scale
                                                               : Real(0);
                    Real dp = 0;
                    for (Index c = 0; c < n.Dv; ++c) {
                        const Real x = d_out[n.output_at(b, h, i, c)];
                        dp += term(x * v[n.value_at(b, kv, j, c)]);
                        g.dv[n.value_at(b, kv, j, c)] += term(p * kept * x);
                    }
                    Real slope = 1;
                    if (slope_of)
                        slope = static_cast<Real>(
                            slope_of(static_cast<double>(forward.capped[at]), b, h, i, j));
                    if (rules.softcap != 0) {
                        const Real share = forward.capped[at] / static_cast<Real>(rules.softcap);
                        slope *= magnitude ? 1 + share * share : (1 - share) * (1 + share);
                    }
                    const Real ds =
                        scale * slope * p * (magnitude ? kept * dp + delta : kept * dp - delta);
                    for (Index d = 0; d < n.D; ++d) {
                        g.dq[n.query_at(b, h, i, d)] += term(ds * k[n.key_at(b, kv, j, d)]);
                        g.dk[n.key_at(b, kv, j, d)] += term(ds * q[n.query_at(b, h, i, d)]);
                    }
                }
            }
    return g;
}

/// By central differences of the oracle's output in the directions of all inputs. Their error is
/// about step^2, and that of the double in rules.modify over the step: 1e-10.
inline Gradients<long double> by_differences(const OracleCase& problem, std::vector<long double> q,
                                             std::vector<long double> k, std::vector<long double> v,
                                             const std::vector<long double>& d_out) {
    const auto loss = [&] {
        return support::dot(oracle::attention(problem.n, q, k, v, problem.rules).output, d_out);
    };
    const auto differences = [&](std::vector<long double>& x) {
        return support::central_differences(x, loss);
    };
    Gradients<long double> g;
    g.dq = differences(q);
    g.dk = differences(k);
    g.dv = differences(v);
    return g;
}

/// Every gradient within atol + rtol * |expected|.
template <class Real>
void expect_close(const Gradients<double>& actual, const Gradients<Real>& expected,
                  double atol = 1e-8, double rtol = 1e-6) {
    support::expect_close("dq", actual.dq, expected.dq, atol, rtol);
    support::expect_close("dk", actual.dk, expected.dk, atol, rtol);
    support::expect_close("dv", actual.dv, expected.dv, atol, rtol);
}

/// What a forward pass read and wrote, and a gradient of its output.
template <class T>
struct Backward {
    using C = heed::ComputeType<T>;
    Tensor<T, 4> q, k, v, out, d_out, dq, dk, dv;
    Tensor<C, 3> lse;

    Backward(support::Random& random, const heed::AttentionShape& s)
        : q(normals<T, 4>(random, {s.batch, s.heads, s.q_len, s.head_dim})),
          k(normals<T, 4>(random, {s.batch, s.kv_heads, s.kv_len, s.head_dim})),
          v(normals<T, 4>(random, {s.batch, s.kv_heads, s.kv_len, s.value_dim})),
          out({s.batch, s.heads, s.q_len, s.value_dim}),
          d_out(normals<T, 4>(random, {s.batch, s.heads, s.q_len, s.value_dim})),
          dq(q.shape()),
          dk(k.shape()),
          dv(v.shape()),
          lse({s.batch, s.heads, s.q_len}) {}

    template <class Mask>
    void forward(const Mask& mask, const heed::AttentionBackwardOptions& options = {}) {
        heed::scaled_dot_product_attention(
            q, k, v, out, mask, {.scale = options.scale, .dropout = options.dropout, .lse = lse});
    }

    /// Gradients into memory full of NaN, so that a place which is not written shows.
    template <class Mask>
    void backward(const Mask& mask, const heed::AttentionBackwardOptions& options = {}) {
        for (Tensor<T, 4>* gradient : {&dq, &dk, &dv})
            heed::fill(gradient->view(), static_cast<T>(not_a_number));
        heed::scaled_dot_product_attention_backward(q, k, v, out, lse, d_out,
                                                    {.dq = dq, .dk = dk, .dv = dv}, mask, options);
    }

    template <class Mask>
    void run(const Mask& mask, const heed::AttentionBackwardOptions& options = {}) {
        forward(mask, options);
        backward(mask, options);
    }

    [[nodiscard]] Gradients<double> gradients() const {
        return {oracle::convert<double>(elements(dq)), oracle::convert<double>(elements(dk)),
                oracle::convert<double>(elements(dv))};
    }
    template <class Real>
    [[nodiscard]] std::vector<Real> inputs(const Tensor<T, 4>& tensor) const {
        return oracle::convert<Real>(elements(tensor));
    }
    template <class Real>
    [[nodiscard]] Gradients<Real> by_formula(const OracleCase& problem, bool without_delta = false,
                                             bool magnitude = false) const {
        return attend::by_formula<Real>(problem, inputs<Real>(q), inputs<Real>(k), inputs<Real>(v),
                                        inputs<Real>(d_out), without_delta, magnitude);
    }
};

/// Bit by bit.
template <class T>
support::Verdict same_bits(const Backward<T>& a, const Backward<T>& b) {
    for (const auto& [name, verdict] :
         {std::pair{"dq", same_bits(a.dq, b.dq)}, std::pair{"dk", same_bits(a.dk, b.dk)},
          std::pair{"dv", same_bits(a.dv, b.dv)}})
        if (!verdict.ok) {
            support::Verdict failed = verdict;
            failed.message = std::string(name) + ": " + verdict.message;
            return failed;
        }
    return {};
}

/// A random composition of masks and modifications, dropout and scale, with its meaning.
struct RandomBackward {
    enum class Kind { none, masks, masks_and_cap, packed, window };

    heed::AttentionShape s;
    Kind kind;
    RandomMasks masks;
    RandomRelatives relatives;
    heed::AttentionBackwardOptions options;

    RandomBackward(support::Random& random, const heed::AttentionShape& shape)
        : RandomBackward(
              random, shape,
              random.pick({Kind::none, Kind::masks, Kind::masks_and_cap, Kind::masks_and_cap,
                           Kind::packed, Kind::packed, Kind::window})) {}

    /// Calls visit(mask) with the composition.
    template <class Visit>
    void with_mask(const Visit& visit) const {
        switch (kind) {
            case Kind::none:
                return visit(heed::NoMask{});
            case Kind::masks:
                return visit(masks.masks());
            case Kind::masks_and_cap:
                return visit(masks.masks_and_cap());
            case Kind::packed:
                return visit(relatives.packed() & masks.masks_and_cap());
            case Kind::window:
                return visit(relatives.window() & masks.masks_and_cap());
        }
    }

    [[nodiscard]] bool visible(Index b, Index h, Index i, Index j) const {
        return kind == Kind::none || (masks.visible(b, h, i, j) &&
                                      (kind != Kind::packed || relatives.same_document(i, j)));
    }

    /// Must not outlive this.
    [[nodiscard]] OracleCase oracle_case() const {
        oracle::Rules rules;
        rules.scale = options.scale;
        if (kind != Kind::none) {
            rules.visible = [this](Index b, Index h, Index i, Index j) {
                return visible(b, h, i, j);
            };
            rules.modify = [this](double score, Index b, Index h, Index i, Index j) {
                if (kind == Kind::packed) score += relatives.t5_bias(i + masks.shift_of(i), h, j);
                if (kind == Kind::window) score += relatives.swin_bias(h, i, j);
                return masks.modify(score, b, h, i, j);
            };
        }
        if (kind == Kind::packed || kind == Kind::window)
            rules.sink = [this](Index, Index h) { return static_cast<double>(relatives.sinks(h)); };
        if (kind != Kind::none && kind != Kind::masks) rules.softcap = masks.cap;
        if (options.dropout.probability > 0) {
            rules.dropout = options.dropout.probability;
            const heed::detail::DropoutRule rule("test", options.dropout);
            rules.keep = [rule, heads = s.heads](Index b, Index h, Index i, Index j) {
                return rule.keeps(static_cast<std::uint32_t>(b * heads + h),
                                  static_cast<std::uint32_t>(i), static_cast<std::uint64_t>(j));
            };
        }
        return {sizes(s), rules};
    }

    [[nodiscard]] std::string describe() const {
        return to_string(s) + "; " + masks.describe() + "; kind " +
               std::to_string(static_cast<int>(kind)) + ", dropout " +
               std::to_string(options.dropout.probability);
    }

  private:
    RandomBackward(support::Random& random, const heed::AttentionShape& shape, Kind chosen)
        : s(shape), kind(chosen), masks(random, shape, 0), relatives(random, shape, nullptr) {
        const Index height = random.integer(1, 3);
        if (kind == Kind::window)
            s.q_len = s.kv_len = height * std::max<Index>(1, s.q_len / height);
        masks = RandomMasks(random, s);
        relatives = RandomRelatives(random, s, kind == Kind::packed ? &masks : nullptr,
                                    kind == Kind::window ? height : 0);
        if (random.chance(0.4)) options.scale = random.pick({0.0, -0.7, 0.1, 1.0, 1.7});
        if (s.head_dim == 0 && !options.scale) options.scale = 1.0;
        if (random.chance(0.3))
            options.dropout = {random.pick({0.1, 0.5, 0.9}), random.bits(),
                               static_cast<std::uint32_t>(random.bits())};
    }
};

}  // namespace attend
