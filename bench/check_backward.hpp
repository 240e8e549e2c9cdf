#pragma once
// Are gradients right, before anyone asks how fast they came?
// Compares whole heads with plain Eigen in wider arithmetic, which the tests compare with the
// formula; reads inputs and gradients.

#include <algorithm>
#include <cmath>
#include <set>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "plain_eigen.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"

namespace bench {

/// All heads of small problems, else the first, the last and as many others as take about a second.
template <class T>
std::set<Size> heads_to_check(const Problem& p) {
    // In long double, of which processors have no vectors, a pair of query and key takes longer.
    constexpr Size pairs = std::is_same_v<T, float> ? 12 << 20 : 1 << 19;
    const Size heads = p.B * p.H;
    support::Random random(1);
    std::set<Size> result = {0, heads - 1};
    const Size count = std::min(heads, pairs / (p.Lq * p.Lk));
    while (std::ssize(result) < count) result.insert(random.integer(0, heads - 1));
    return result;
}

/// Gradients of one head; that of a bias as the bias is stored, but for this head alone.
template <class Real>
struct HeadGradients {
    std::vector<Real> dq, dk, dv, d_bias;

    HeadGradients(const Problem& p, Bias bias)
        : dq(static_cast<std::size_t>(p.Lq * p.D)),
          dk(static_cast<std::size_t>(p.Lk * p.D)),
          dv(dk.size()),
          d_bias(static_cast<std::size_t>(BiasTensors<Real>::count(p, bias) / p.H)) {}
};

/// Calls visit(place in the matrix of scores, index in the bias) for each score of a head; the
/// index is that of BiasTensors when `heads` and `head` are the problem's, of HeadGradients when
/// they are 1 and 0.
template <class Visit>
void for_each_bias(const Problem& p, Bias bias, Size heads, Size head, const Visit& visit) {
    for (Size i = 0; i < p.Lq; ++i)
        for (Size j = 0; j < p.Lk; ++j) {
            const Size score = i * p.Lk + j;
            visit(static_cast<std::size_t>(score),
                  bias == Bias::full
                      ? head * p.Lq * p.Lk + score
                      : oracle::t5_bucket(j - i, t5_buckets, true, t5_max_distance) * heads + head);
        }
}

/// The gradients of one head by plain Eigen in this arithmetic.
template <class Real, class T>
HeadGradients<Real> eigen_gradients(const Problem& problem, Size head,
                                    const BackwardTensors<T>& t) {
    Problem p = problem;
    p.B = p.H = 1;
    const auto part = [head](const T* tensor, Size count) {
        return std::vector<Real>(tensor + head * count, tensor + (head + 1) * count);
    };
    const std::vector<Real> q = part(t.q, p.query_count()), d_out = part(t.d_out, p.query_count()),
                            k = part(t.k, p.key_count()), v = part(t.v, p.key_count());
    std::vector<Real> bias, d_scores;
    if (t.bias.kind != Bias::none) {
        bias.resize(static_cast<std::size_t>(p.Lq * p.Lk));
        d_scores.resize(bias.size());
        for_each_bias(p, t.bias.kind, problem.H, head % problem.H, [&](std::size_t at, Size index) {
            bias[at] = static_cast<Real>(t.bias.values[index]);
        });
    }
    HeadGradients<Real> g(p, t.bias.kind);
    BackwardTensors<Real> tensors{q.data(), k.data(),    v.data(),    d_out.data(), nullptr,
                                  nullptr,  g.dq.data(), g.dk.data(), g.dv.data(),  {}};
    if (!bias.empty()) tensors.bias = {Bias::full, bias.data(), d_scores.data()};
    PlainEigenBackward<Real>(p, tensors).run();
    if (!bias.empty())
        for_each_bias(p, t.bias.kind, 1, 0, [&](std::size_t at, Size index) {
            g.d_bias[static_cast<std::size_t>(index)] += d_scores[at];
        });
    return g;
}

/// The gradients that were computed for one head.
template <class T>
HeadGradients<T> head_gradients(const Problem& p, Size head, const BackwardTensors<T>& t) {
    HeadGradients<T> g(p, t.bias.gradient == nullptr ? Bias::none : t.bias.kind);
    std::copy_n(t.dq + head * p.Lq * p.D, g.dq.size(), g.dq.begin());
    std::copy_n(t.dk + head * p.Lk * p.D, g.dk.size(), g.dk.begin());
    std::copy_n(t.dv + head * p.Lk * p.D, g.dv.size(), g.dv.begin());
    for (std::size_t n = 0; n < g.d_bias.size(); ++n)
        g.d_bias[n] =
            t.bias.gradient[t.bias.kind == Bias::full ? head * p.Lq * p.Lk + static_cast<Size>(n)
                                                      : static_cast<Size>(n) * p.H + head];
    return g;
}

/// No log-sum-exp of a row of this head is larger than this.
template <class T>
double lse_bound(const Problem& p, Size head, const BackwardTensors<T>& t) {
    typename PlainEigenHead<T>::Matrix scores(p.Lq, p.Lk);
    PlainEigenHead<T>(p, head, t.q, t.k, t.v).scores(scores);
    const Size biases = BiasTensors<T>::count(p, t.bias.kind);
    const double bias =
        support::max_magnitude(std::span(t.bias.values, static_cast<std::size_t>(biases)));
    return std::log(static_cast<double>(p.Lk)) + static_cast<double>(scores.cwiseAbs().maxCoeff()) +
           bias;
}

/// All elements of dq, dk and dv, and of the gradient of a bias where it is wanted (the batch must
/// then be 1), in the heads to check. The rule of the tests: no more than twice the error of plain
/// Eigen in the same arithmetic, both measured against plain Eigen in wider arithmetic, plus what
/// rounding alone may do. Weights that are computed anew from a rounded log-sum-exp are wrong by
/// its rounding, which grows with it; those that were kept are not.
template <class T>
support::Verdict check_backward(const Problem& p, const BackwardTensors<T>& t) {
    using Wide = std::conditional_t<std::is_same_v<T, float>, double, long double>;
    support::Verdict verdict;
    for (Size head : heads_to_check<T>(p)) {
        const HeadGradients<T> actual = head_gradients(p, head, t);
        const HeadGradients<T> plain = eigen_gradients<T>(p, head, t);
        const HeadGradients<Wide> expected = eigen_gradients<Wide>(p, head, t);
        const double growth = 1 + lse_bound(p, head, t);
        const auto compare = [&](const char* name, auto gradient_of) {
            if (!verdict || gradient_of(actual).empty()) return;
            verdict = support::compare_with_oracle<T>(
                gradient_of(actual), gradient_of(plain), gradient_of(expected),
                growth * support::max_magnitude(gradient_of(expected)));
            verdict.message =
                std::string(name) + " of head " + std::to_string(head) + ": " + verdict.message;
        };
        compare(
            "dq", [](const auto& g) -> const auto& { return g.dq; });
        compare(
            "dk", [](const auto& g) -> const auto& { return g.dk; });
        compare(
            "dv", [](const auto& g) -> const auto& { return g.dv; });
        compare(
            "the bias's gradient", [](const auto& g) -> const auto& { return g.d_bias; });
    }
    return verdict;
}

}  // namespace bench
