#pragma once
// What are the gradients of biases, slopes, tables and sinks? From those of the scores by the
// formula, and by central differences of the oracle.

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "attention/backward.hpp"

namespace attend {

/// By name, in row-major order.
template <class Real>
using NamedGradients = std::map<std::string, std::vector<Real>>;

/// Calls visit(name, element, factor) for every number that a score is increased by, times the
/// factor.
template <class Visit>
void for_each_term(RandomBackward& problem, Index b, Index h, Index i, Index j,
                   const Visit& visit) {
    using Kind = RandomBackward::Kind;
    RandomMasks& masks = problem.masks;
    const RandomRelatives& relatives = problem.relatives;
    const auto place = [](Index n) { return static_cast<std::size_t>(n); };
    if (problem.kind == Kind::none) return;
    visit("bias", place(&masks.at(masks.bias, b, h, i, j) - masks.bias.data()), 1.0);
    visit("slopes", place((masks.slopes.extent(0) == 1 ? 0 : b) * problem.s.heads + h),
          -masks.distance(b, i, j));
    if (problem.kind == Kind::packed)
        visit("t5", place(relatives.t5_row(i + masks.shift_of(i), j) * problem.s.heads + h), 1.0);
    if (problem.kind == Kind::window)
        visit("swin", place(relatives.swin_row(i, j) * problem.s.heads + h), 1.0);
}

/// The gradients of a sink: -weight of the sink * delta, for each row.
template <class Real>
std::vector<Real> sink_gradients(const OracleCase& problem, const oracle::Result<Real>& forward,
                                 const std::vector<Real>& d_out, bool magnitude = false) {
    const oracle::Sizes& n = problem.n;
    std::vector<Real> result(static_cast<std::size_t>(n.H));
    for (Index b = 0; b < n.B; ++b)
        for (Index h = 0; h < n.H; ++h)
            for (Index i = 0; i < n.Lq; ++i) {
                const Real sink = static_cast<Real>(problem.rules.sink(b, h));
                if (std::isinf(sink)) continue;
                const Real weight = std::exp(sink - forward.log_sum_exp[n.row_at(b, h, i)]);
                for (Index c = 0; c < n.Dv; ++c) {
                    const std::size_t at = n.output_at(b, h, i, c);
                    const Real term = weight * d_out[at] * forward.output[at];
                    result[static_cast<std::size_t>(h)] -= magnitude ? -std::abs(term) : term;
                }
            }
    return result;
}

/// By the formula. `magnitude` sums the absolute values of all terms instead.
template <class Real, class T>
NamedGradients<Real> rule_gradients(RandomBackward& problem, const Backward<T>& run,
                                    bool magnitude = false) {
    const OracleCase oracle = problem.oracle_case();
    const oracle::Sizes& n = oracle.n;
    const std::vector<Real> v = run.template inputs<Real>(run.v),
                            d_out = run.template inputs<Real>(run.d_out);
    const auto forward = oracle::attention(n, run.template inputs<Real>(run.q),
                                           run.template inputs<Real>(run.k), v, oracle.rules);
    const auto of_scores = score_gradients(oracle, forward, v, d_out, false, magnitude);
    NamedGradients<Real> result;
    result["bias"].resize(problem.masks.bias.values().size());
    result["slopes"].resize(problem.masks.slopes.values().size());
    result["t5"].resize(problem.relatives.t5.values().size());
    result["swin"].resize(problem.relatives.swin.values().size());
    for (Index b = 0; b < n.B; ++b)
        for (Index h = 0; h < n.H; ++h)
            for (Index i = 0; i < n.Lq; ++i)
                for (Index j = 0; j < n.Lk; ++j)
                    for_each_term(problem, b, h, i, j,
                                  [&](const char* name, std::size_t element, double factor) {
                                      const Real term = of_scores[n.score_at(b, h, i, j)] *
                                                        static_cast<Real>(factor);
                                      result[name][element] += magnitude ? std::abs(term) : term;
                                  });
    if (oracle.rules.sink)
        result["sinks"] = sink_gradients(oracle, forward, d_out, magnitude);
    else
        result["sinks"].resize(static_cast<std::size_t>(n.H));
    return result;
}

/// One of them by central differences of the oracle's output: its error is about step^2, and that
/// of the double in rules.modify over the step.
template <class T>
long double rule_difference(RandomBackward& problem, const Backward<T>& run,
                            const std::string& name, std::size_t element) {
    using Real = long double;
    constexpr double step = 3e-6;
    const auto q = run.template inputs<Real>(run.q), k = run.template inputs<Real>(run.k),
               v = run.template inputs<Real>(run.v), d_out = run.template inputs<Real>(run.d_out);
    const auto loss = [&](double change) {
        OracleCase changed = problem.oracle_case();
        if (name == "sinks")
            changed.rules.sink = [sink = changed.rules.sink, element, change](Index b, Index h) {
                return sink(b, h) + (static_cast<std::size_t>(h) == element ? change : 0.0);
            };
        else
            changed.rules.modify = [&, modify = changed.rules.modify](double score, Index b,
                                                                      Index h, Index i, Index j) {
                for_each_term(problem, b, h, i, j,
                              [&](const std::string& of, std::size_t at, double factor) {
                                  if (of == name && at == element) score += change * factor;
                              });
                return modify(score, b, h, i, j);
            };
        const auto out = oracle::attention(changed.n, q, k, v, changed.rules).output;
        Real sum = 0;
        for (std::size_t n = 0; n < out.size(); ++n) sum += out[n] * d_out[n];
        return sum;
    };
    return (loss(step) - loss(-step)) / (2 * static_cast<Real>(step));
}

/// A place for the gradient of each rule, full of NaN, which the masks of the problem know.
struct WantedRules {
    RuleGradients gradients;

    explicit WantedRules(RandomBackward& problem)
        : gradients{Tensor<float, 4>(problem.masks.bias.shape()),
                    Tensor<float, 2>(problem.masks.slopes.shape()),
                    Tensor<float, 1>(problem.relatives.sinks.shape()),
                    Tensor<float, 2>(problem.relatives.t5.shape()),
                    Tensor<float, 2>(problem.relatives.swin.shape())} {
        want(problem);
    }

    void want(RandomBackward& problem) {
        gradients.for_each([](const char*, auto view) {
            heed::fill(view, std::numeric_limits<float>::quiet_NaN());
        });
        problem.masks.gradients = {gradients.bias, gradients.slopes};
        problem.relatives.gradients = {gradients.sinks, gradients.t5, gradients.swin};
    }

    static void want_none(RandomBackward& problem) {
        problem.masks.gradients = {};
        problem.relatives.gradients = {};
    }
};

/// visit(name, values) for the gradients that a composition of this kind has.
template <class Visit>
void for_each_rule(const RandomBackward& problem, WantedRules& wanted, const Visit& visit) {
    using Kind = RandomBackward::Kind;
    const Kind kind = problem.kind;
    wanted.gradients.for_each([&](const std::string& name, auto view) {
        const bool is_relative = name == "sinks" || name == "t5" || name == "swin";
        if (kind == Kind::none || (is_relative && kind != Kind::packed && kind != Kind::window))
            return;
        if (name == (kind == Kind::packed ? "swin" : "t5")) return;
        std::vector<double> values;
        heed::detail::for_each_element([&](float x) { values.push_back(static_cast<double>(x)); },
                                       heed::read(view));
        visit(name, values);
    });
}

}  // namespace attend
