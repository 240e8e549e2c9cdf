#pragma once
// Is what an attention wrote as right as it can be? The oracle's answer, and the error that the
// plain version in the compute type has, for one problem.

#include <algorithm>
#include <cmath>
#include <concepts>
#include <limits>
#include <type_traits>
#include <vector>

#include "attention/attend.hpp"
#include "attention/random_case.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

namespace attend {

/// The right answers and those of the plain version in the compute type.
template <class C>
struct Expected {
    using Wide = std::conditional_t<std::same_as<C, float>, double, long double>;
    oracle::Result<Wide> right;
    oracle::Result<C> plain;
    double value_magnitude = 0;  ///< of the terms of an output
    double score_magnitude = 0;  ///< of the terms of a score

    /// Row-major inputs, each number exactly as it is stored. `added` is the magnitude of what
    /// rules.modify adds to a score.
    Expected(const heed::AttentionShape& s, const std::vector<double>& q,
             const std::vector<double>& k, const std::vector<double>& v, oracle::Rules rules,
             double added = 0) {
        if (!rules.scale)
            rules.scale = s.head_dim == 0
                              ? 1.0
                              : static_cast<double>(C(1) / std::sqrt(static_cast<C>(s.head_dim)));
        using oracle::convert;
        right = oracle::attention(sizes(s), convert<Wide>(q), convert<Wide>(k), convert<Wide>(v),
                                  rules);
        plain = oracle::attention(sizes(s), convert<C>(q), convert<C>(k), convert<C>(v), rules);
        value_magnitude = support::max_magnitude(v) / (1 - rules.dropout);
        score_magnitude = product_magnitude(s, q, k, v, *rules.scale) + added;
    }

    /// Of the terms of a weight: an error of a score is one of twice that share in each weight.
    [[nodiscard]] double weight_magnitude() const { return 1 + 2 * score_magnitude; }

    template <class T>
    [[nodiscard]] support::Verdict judge_out(const std::vector<double>& out) const {
        return judge<T>(out, plain.output, right.output, weight_magnitude() * value_magnitude);
    }
    template <class T>
    [[nodiscard]] support::Verdict judge_weights(const std::vector<double>& weights) const {
        return judge<T>(weights, plain.weights, right.weights, weight_magnitude());
    }
    [[nodiscard]] support::Verdict judge_lse(const std::vector<double>& lse) const {
        return judge<C>(lse, plain.log_sum_exp, right.log_sum_exp,
                        support::max_magnitude(right.log_sum_exp) + score_magnitude);
    }
    template <class T>
    [[nodiscard]] support::Verdict judge_scores(const std::vector<double>& scores,
                                                heed::ScoreStage stage) const {
        const auto at_stage = [stage](const auto& result) {
            return stage == heed::ScoreStage::scaled   ? result.scaled
                   : stage == heed::ScoreStage::capped ? result.capped
                                                       : result.masked;
        };
        return judge<T>(scores, at_stage(plain), at_stage(right), score_magnitude);
    }

  private:
    /// The sum of |q_c k_c| bounds what any order of summation may do to q . k.
    static double product_magnitude(const heed::AttentionShape& s, std::vector<double> q,
                                    std::vector<double> k, const std::vector<double>& v,
                                    double scale) {
        for (auto* values : {&q, &k})
            for (double& x : *values) x = std::abs(x);
        return support::max_magnitude(
            oracle::attention(sizes(s), q, k, v, {.scale = std::abs(scale)}).scaled);
    }

    /// Error at most twice that of the plain version, plus a floor of roundings of the terms, plus
    /// one rounding to the type of the output (and half of its smallest number, where that is all).
    template <class T, class Plain, class Right>
    static support::Verdict judge(const std::vector<double>& found, const Plain& plain_one,
                                  const Right& right_one, double magnitude) {
        const double plain_error = support::max_abs_error(plain_one, right_one).error;
        double bound = 2 * plain_error + support::rounding_floor<C>(magnitude);
        if constexpr (!std::same_as<T, C>)
            bound += std::ldexp(support::max_magnitude(right_one) + bound,
                                -std::numeric_limits<T>::digits) +
                     0x1p-25;
        support::Verdict verdict = support::compare_within(found, right_one, bound);
        verdict.plain_error = plain_error;
        return verdict;
    }
};

/// Runs an attention on both paths and has everything that it writes judged.
template <class T, class K, class V, heed::ScorePart Mask>
Outputs<T> expect_oracle(const heed::AttentionShape& s, const Tensor<T, 4>& q,
                         const Tensor<K, 4>& k, const Tensor<V, 4>& v, const Mask& mask,
                         const oracle::Rules& rules, double added = 0) {
    const auto as_double = [](const auto& x) { return oracle::convert<double>(elements(x)); };
    heed::AttentionOptions<T> options;
    options.scale = rules.scale;
    const Outputs<T> result = everything(q, k, v, mask, options);
    const Expected<heed::ComputeType<T>> e(s, as_double(q), as_double(k), as_double(v), rules,
                                           added);
    const auto check = [&](const char* name, const support::Verdict& verdict) {
        EXPECT_TRUE(verdict) << name << ": " << verdict.message << "; " << to_string(s);
    };
    check("out", e.template judge_out<T>(as_double(result.out)));
    check("out alone", e.template judge_out<T>(as_double(result.lean_out)));
    check("weights", e.template judge_weights<T>(as_double(result.weights)));
    check("lse", e.judge_lse(as_double(result.lse)));
    check("lse without weights", e.judge_lse(as_double(result.lean_lse)));
    return result;
}

}  // namespace attend
