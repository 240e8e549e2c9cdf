// Are the gradients of an attention right, and the same to the last bit whoever computes them?
// Against central differences of the oracle, against the formula, and laws over random cases.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "attention/attend.hpp"
#include "attention/backward.hpp"
#include "attention/random_case.hpp"
#include "heed/base/thread_pool.hpp"
#include "support/allocation_counter.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "tensor/strided.hpp"

namespace {

using attend::Backward;
using attend::for_random_cases;
using attend::Gradients;
using attend::infinity;
using attend::OracleCase;
using attend::RandomBackward;
using heed::ArgumentError;
using heed::AttentionBackwardOptions;
using heed::AttentionShape;
using heed::Index;
using heed::Shape;
using heed::ShapeError;
using heed::Tensor;
using heed::TensorView;

/// Sizes for which differences in the direction of each element are affordable.
AttentionShape few(support::Random& random) {
    const Index kv_heads = random.integer(1, 2);
    return {.batch = random.integer(1, 2),
            .heads = kv_heads * random.integer(1, 2),
            .kv_heads = kv_heads,
            .q_len = random.integer(1, 7),
            .kv_len = random.integer(1, 8),
            .head_dim = random.integer(1, 5),
            .value_dim = random.integer(1, 5)};
}

template <class T>
Gradients<long double> by_differences(const Backward<T>& run, const OracleCase& problem) {
    using Real = long double;
    return attend::by_differences(
        problem, run.template inputs<Real>(run.q), run.template inputs<Real>(run.k),
        run.template inputs<Real>(run.v), run.template inputs<Real>(run.d_out));
}

// One query, two keys 0 and log 3: weights 1/4 and 3/4. With values 0 and 1 the output is 3/4, and
// the gradients of the scores are -+ 3/16.
TEST(Backward, ByHand) {
    const Tensor<double, 4> q({1, 1, 1, 1}, {1}), k({1, 1, 2, 1}, {0, std::log(3.0)}),
        v({1, 1, 2, 1}, {0, 1}), d_out({1, 1, 1, 1}, {1});
    Tensor<double, 4> out(q.shape()), dq(q.shape()), dk(k.shape()), dv(v.shape());
    Tensor<double, 3> lse({1, 1, 1});
    heed::scaled_dot_product_attention(q, k, v, out, heed::NoMask{}, {.lse = lse});
    heed::scaled_dot_product_attention_backward(q, k, v, out, lse, d_out,
                                                {.dq = dq, .dk = dk, .dv = dv});
    EXPECT_NEAR(dv(0, 0, 0, 0), 0.25, 1e-15);
    EXPECT_NEAR(dv(0, 0, 1, 0), 0.75, 1e-15);
    EXPECT_NEAR(dk(0, 0, 0, 0), -3.0 / 16, 1e-15);
    EXPECT_NEAR(dk(0, 0, 1, 0), 3.0 / 16, 1e-15);
    EXPECT_NEAR(dq(0, 0, 0, 0), 3.0 / 16 * std::log(3.0), 1e-15);
}

// The counter-check, and the licence to use the formula where differences would take too long.
TEST(Backward, DifferencesTellTheFormulaFromOneWithoutDelta) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    int told = 0;
    for (int n = 0; n < 30 && !testing::Test::HasFailure(); ++n) {
        const RandomBackward problem(random, few(random));
        SCOPED_TRACE("case " + std::to_string(n) + ": " + problem.describe());
        const Backward<double> run(random, problem.s);
        const OracleCase oracle = problem.oracle_case();
        const Gradients<long double> right = by_differences(run, oracle);
        attend::expect_close(run.by_formula<double>(oracle), right);
        const auto wrong = run.by_formula<double>(oracle, true);
        if (support::max_abs_error(wrong.dq, right.dq).error > 1e-3) ++told;
    }
    EXPECT_GT(told, 15);
}

TEST(Backward, InDoubleEqualsTheFormula) {
    for_random_cases(300, [](support::Random& random, const AttentionShape& s) {
        const RandomBackward problem(random, s);
        SCOPED_TRACE(problem.describe());
        Backward<double> run(random, problem.s);
        problem.with_mask([&](const auto& mask) { run.run(mask, problem.options); });
        attend::expect_close(run.gradients(), run.by_formula<long double>(problem.oracle_case()),
                             1e-11, 1e-11);
    });
}

/// The error of float is at most twice that of the formula in float, plus a few roundings of the
/// terms: those of a score count twice in a weight.
void expect_float_is_right(const Backward<float>& run, const OracleCase& oracle) {
    const auto right = run.by_formula<double>(oracle),
               plain_magnitude = run.by_formula<double>(oracle, false, true);
    const auto plain = run.by_formula<float>(oracle);
    const double scores = 1 + support::max_magnitude(attend::elements(run.lse));
    const auto check = [&](const char* name, const Tensor<float, 4>& found,
                           const std::vector<float>& p, const std::vector<double>& r,
                           const std::vector<double>& m) {
        const auto verdict = support::compare_with_oracle<float>(
            attend::elements(found), p, r, 2 * scores * support::max_magnitude(m));
        EXPECT_TRUE(verdict) << name << ": " << verdict.message;
    };
    check("dq", run.dq, plain.dq, right.dq, plain_magnitude.dq);
    check("dk", run.dk, plain.dk, right.dk, plain_magnitude.dk);
    check("dv", run.dv, plain.dv, right.dv, plain_magnitude.dv);
}

TEST(Backward, InFloatIsAsRightAsTheFormulaInFloat) {
    for_random_cases(300, [](support::Random& random, const AttentionShape& s) {
        const RandomBackward problem(random, s);
        SCOPED_TRACE(problem.describe());
        Backward<float> run(random, problem.s);
        problem.with_mask([&](const auto& mask) { run.run(mask, problem.options); });
        expect_float_is_right(run, problem.oracle_case());
    });
}

/// Several tiles of keys and queries, several chunks of keys.
constexpr AttentionShape long_sizes{1, 2, 1, 260, 700, 24, 40};

TEST(Backward, OverManyTilesEqualsTheFormula) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    for (int n = 0; n < 8 && !testing::Test::HasFailure(); ++n) {
        const RandomBackward problem(random, long_sizes);
        SCOPED_TRACE("case " + std::to_string(n) + ": " + problem.describe());
        Backward<double> run(random, problem.s);
        problem.with_mask([&](const auto& mask) { run.run(mask, problem.options); });
        attend::expect_close(run.gradients(), run.by_formula<long double>(problem.oracle_case()),
                             1e-11, 1e-11);
    }
}

TEST(BackwardLaw, AnySubsetOfGradientsHasTheBitsOfAll) {
    for_random_cases(100, [](support::Random& random, const AttentionShape& s) {
        const RandomBackward problem(random, s);
        SCOPED_TRACE(problem.describe());
        Backward<float> run(random, problem.s);
        problem.with_mask([&](const auto& mask) {
            run.run(mask, problem.options);
            for (int wanted = 0; wanted < 8; ++wanted) {
                Backward<float> some = run;
                heed::AttentionGradients<float> gradients;
                const auto want = [&](int bit, Tensor<float, 4>& gradient) {
                    if ((wanted & bit) == 0) return TensorView<float, 4>();
                    heed::fill(gradient.view(), attend::not_a_number);
                    return gradient.view();
                };
                gradients.dq = want(1, some.dq);
                gradients.dk = want(2, some.dk);
                gradients.dv = want(4, some.dv);
                heed::scaled_dot_product_attention_backward(run.q, run.k, run.v, run.out, run.lse,
                                                            run.d_out, gradients, mask,
                                                            problem.options);
                EXPECT_SAME(some, run);
            }
        });
    });
}

/// Runs the last task first, one after the other, under the numbers of several workers.
struct BackwardsExecutor {
    [[nodiscard]] int concurrency() const { return 7; }
    void parallel_for(Index count, heed::ParallelTask task) const {
        for (Index i = count; i > 0; --i) task(i - 1, static_cast<int>((i * 5) % 7));
    }
};

TEST(BackwardLaw, EveryExecutorGivesTheSameBits) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    heed::ThreadPool two(2), three(3), nine(9);
    BackwardsExecutor backwards;
    const AttentionShape many_heads{3, 8, 4, 150, 300, 20, 12};
    for (const AttentionShape& s : {long_sizes, many_heads})
        for (int n = 0; n < 6 && !testing::Test::HasFailure(); ++n) {
            RandomBackward problem(random, s);
            SCOPED_TRACE("case " + std::to_string(n) + ": " + problem.describe());
            Backward<float> one(random, problem.s);
            problem.with_mask([&](const auto& mask) {
                problem.options.executor = heed::serial;
                one.run(mask, problem.options);
                for (const heed::ExecutorRef executor :
                     {heed::ExecutorRef(two), heed::ExecutorRef(three), heed::ExecutorRef(nine),
                      heed::ExecutorRef(backwards)}) {
                    Backward<float> other = one;
                    problem.options.executor = executor;
                    other.backward(mask, problem.options);
                    EXPECT_SAME(other, one);
                }
            });
        }
}

/// The same values in memory of another order, with gaps of NaN.
template <class T>
struct Scattered : support::Strided<T, 4> {
    Scattered(support::Random& random, const Tensor<T, 4>& tensor)
        : support::Strided<T, 4>(random, tensor.shape(), static_cast<T>(attend::not_a_number)) {
        this->assign(attend::elements(tensor));
    }
};

TEST(BackwardLaw, StridesChangeNoBitAndGapsStayAsTheyAre) {
    for_random_cases(100, [](support::Random& random, const AttentionShape& s) {
        const RandomBackward problem(random, s);
        SCOPED_TRACE(problem.describe());
        Backward<float> run(random, problem.s);
        problem.with_mask([&](const auto& mask) {
            run.run(mask, problem.options);
            const Scattered<float> q(random, run.q), k(random, run.k), v(random, run.v),
                out(random, run.out), d_out(random, run.d_out), dq(random, run.dq),
                dk(random, run.dk), dv(random, run.dv);
            for (const auto* gradient : {&dq, &dk, &dv}) heed::fill(gradient->view(), 5.0f);
            heed::scaled_dot_product_attention_backward(
                q.view(), k.view(), v.view(), out.view(), run.lse, d_out.view(),
                {.dq = dq.view(), .dk = dk.view(), .dv = dv.view()}, mask, problem.options);
            EXPECT_SAME(dq.view(), run.dq);
            EXPECT_SAME(dk.view(), run.dk);
            EXPECT_SAME(dv.view(), run.dv);
            for (const auto* view : {&q, &k, &v, &out, &d_out, &dq, &dk, &dv})
                EXPECT_TRUE(view->gaps_untouched());
            EXPECT_SAME(q.view(), run.q);
            EXPECT_SAME(d_out.view(), run.d_out);
        });
    });
}

// The half types are storage: widening them first and computing in float is the same.
template <class T>
void expect_storage_only() {
    for_random_cases(60, [](support::Random& random, const AttentionShape& s) {
        const RandomBackward problem(random, s);
        SCOPED_TRACE(problem.describe());
        Backward<T> half(random, problem.s);
        Backward<float> full(random, problem.s);
        problem.with_mask([&](const auto& mask) {
            half.run(mask, problem.options);
            heed::copy(half.q.view(), full.q.view());
            heed::copy(half.k.view(), full.k.view());
            heed::copy(half.v.view(), full.v.view());
            heed::copy(half.out.view(), full.out.view());
            heed::copy(half.d_out.view(), full.d_out.view());
            full.lse = half.lse;
            full.backward(mask, problem.options);
            Backward<T> rounded = half;
            heed::copy(full.dq.view(), rounded.dq.view());
            heed::copy(full.dk.view(), rounded.dk.view());
            heed::copy(full.dv.view(), rounded.dv.view());
            EXPECT_SAME(half, rounded);
        });
    });
}

TEST(BackwardLaw, HalfTypesAreStorageOnly) {
    expect_storage_only<heed::half>();
    expect_storage_only<heed::bfloat16>();
}

TEST(BackwardLaw, KeysAndValuesMayHaveTypesOfTheirOwn) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const AttentionShape s{2, 4, 2, 30, 40, 20, 12};
    Backward<float> run(random, s);
    Tensor<heed::half, 4> k(run.k.shape()), dk(run.k.shape());
    Tensor<heed::bfloat16, 4> v(run.v.shape()), dv(run.v.shape());
    heed::copy(run.k.view(), k.view());
    heed::copy(run.v.view(), v.view());
    heed::copy(k.view(), run.k.view());
    heed::copy(v.view(), run.v.view());
    run.run(heed::Causal::bottom_right());
    Tensor<float, 4> dq(run.q.shape());
    heed::scaled_dot_product_attention_backward(run.q, k, v, run.out, run.lse, run.d_out,
                                                {.dq = dq, .dk = dk, .dv = dv},
                                                heed::Causal::bottom_right());
    EXPECT_SAME(dq, run.dq);
    Tensor<heed::half, 4> rounded_k(k.shape());
    Tensor<heed::bfloat16, 4> rounded_v(v.shape());
    heed::copy(run.dk.view(), rounded_k.view());
    heed::copy(run.dv.view(), rounded_v.view());
    EXPECT_SAME(dk, rounded_k);
    EXPECT_SAME(dv, rounded_v);
}

const std::array<float, 4> poisons{attend::not_a_number, infinity, -infinity, 1e38f};

/// Whether query (b, h, i) sees a key at all.
bool sees_any(const RandomBackward& problem, Index b, Index h, Index i) {
    for (Index j = 0; j < problem.s.kv_len; ++j)
        if (problem.visible(b, h, i, j)) return true;
    return false;
}

// In every key and value that no query sees; and in q, out and its gradient, in each row of a query
// that sees no key.
TEST(BackwardPoison, InHiddenPlacesChangesNoBit) {
    int poisoned_keys = 0, poisoned_queries = 0;
    for_random_cases(200, [&](support::Random& random, const AttentionShape& s) {
        const RandomBackward problem(random, s);
        const AttentionShape& n = problem.s;
        SCOPED_TRACE(problem.describe());
        Backward<float> run(random, n);
        problem.with_mask([&](const auto& mask) {
            run.run(mask, problem.options);
            Backward<float> poisoned = run;
            const auto spoil = [&](Tensor<float, 4>& tensor, Index b, Index h, Index i) {
                const float poison = poisons[static_cast<std::size_t>(random.integer(0, 3))];
                heed::fill(tensor.view().select(0, b).select(0, h).select(0, i), poison);
            };
            for (Index b = 0; b < n.batch; ++b) {
                std::vector<bool> seen(static_cast<std::size_t>(n.kv_heads * n.kv_len));
                for (Index h = 0; h < n.heads; ++h)
                    for (Index i = 0; i < n.q_len; ++i) {
                        for (Index j = 0; j < n.kv_len; ++j)
                            if (problem.visible(b, h, i, j))
                                seen[static_cast<std::size_t>(
                                    h / (n.heads / n.kv_heads) * n.kv_len + j)] = true;
                        if (sees_any(problem, b, h, i)) continue;
                        for (Index d = 0; d < n.head_dim; ++d) EXPECT_EQ(run.dq(b, h, i, d), 0.0f);
                        for (auto* tensor : {&poisoned.q, &poisoned.d_out, &poisoned.out})
                            spoil(*tensor, b, h, i);
                        ++poisoned_queries;
                    }
                for (Index g = 0; g < n.kv_heads; ++g)
                    for (Index j = 0; j < n.kv_len; ++j) {
                        if (seen[static_cast<std::size_t>(g * n.kv_len + j)]) continue;
                        for (Index d = 0; d < n.head_dim; ++d) EXPECT_EQ(run.dk(b, g, j, d), 0.0f);
                        for (Index c = 0; c < n.value_dim; ++c) EXPECT_EQ(run.dv(b, g, j, c), 0.0f);
                        spoil(poisoned.k, b, g, j);
                        spoil(poisoned.v, b, g, j);
                        ++poisoned_keys;
                    }
            }
            poisoned.backward(mask, problem.options);
            EXPECT_SAME(poisoned, run);
        });
    });
    EXPECT_GT(poisoned_keys, 500);
    EXPECT_GT(poisoned_queries, 500);
}

/// A poisoned element of one input, and the gradients that it must not reach.
TEST(BackwardPoison, InAPlaceThatSomeSeeChangesNoBitOfTheOthers) {
    int spoiled_rows = 0;
    for_random_cases(200, [&](support::Random& random, const AttentionShape& s) {
        if (s.batch * s.q_len * s.kv_len * s.head_dim * s.value_dim == 0) return;
        const RandomBackward problem(random, s);
        const AttentionShape& n = problem.s;
        SCOPED_TRACE(problem.describe());
        Backward<float> clean(random, n);
        problem.with_mask([&](const auto& mask) {
            clean.run(mask, problem.options);
            Backward<float> spoiled = clean;
            const Index b = random.integer(0, n.batch - 1), h = random.integer(0, n.heads - 1),
                        g = random.integer(0, n.kv_heads - 1), i = random.integer(0, n.q_len - 1),
                        j = random.integer(0, n.kv_len - 1), group = n.heads / n.kv_heads;
            const Index where = random.integer(0, 3);
            const auto poison = attend::not_a_number;
            if (where == 0) spoiled.q(b, h, i, random.integer(0, n.head_dim - 1)) = poison;
            if (where == 1) spoiled.k(b, g, j, random.integer(0, n.head_dim - 1)) = poison;
            if (where == 2) spoiled.v(b, g, j, random.integer(0, n.value_dim - 1)) = poison;
            if (where == 3) spoiled.d_out(b, h, i, random.integer(0, n.value_dim - 1)) = poison;
            spoiled.run(mask, problem.options);
            const bool of_query = where == 0 || where == 3;
            // Whether a query is spoiled: it is, or it sees a key that is.
            const auto is_spoiled = [&](Index bb, Index hh, Index ii) {
                return bb == b && (of_query ? hh == h && ii == i
                                            : hh / group == g && problem.visible(b, hh, ii, j));
            };
            const auto row = [&](const Tensor<float, 4>& tensor, Index bb, Index hh, Index r) {
                return tensor.view().select(0, bb).select(0, hh).select(0, r);
            };
            for (Index bb = 0; bb < n.batch; ++bb)
                for (Index hh = 0; hh < n.heads; ++hh)
                    for (Index ii = 0; ii < n.q_len; ++ii) {
                        if (!is_spoiled(bb, hh, ii))
                            EXPECT_SAME(row(spoiled.dq, bb, hh, ii), row(clean.dq, bb, hh, ii));
                        else if (sees_any(problem, bb, hh, ii) && where < 2) {
                            EXPECT_TRUE(std::isnan(spoiled.dq(bb, hh, ii, 0)));
                            ++spoiled_rows;
                        }
                    }
            for (Index bb = 0; bb < n.batch; ++bb)
                for (Index gg = 0; gg < n.kv_heads; ++gg)
                    for (Index jj = 0; jj < n.kv_len; ++jj) {
                        bool reached = false;
                        for (Index hh = gg * group; hh < (gg + 1) * group; ++hh)
                            for (Index ii = 0; ii < n.q_len; ++ii)
                                reached = reached || (is_spoiled(bb, hh, ii) &&
                                                      problem.visible(bb, hh, ii, jj));
                        if (reached) continue;
                        EXPECT_SAME(row(spoiled.dk, bb, gg, jj), row(clean.dk, bb, gg, jj));
                        EXPECT_SAME(row(spoiled.dv, bb, gg, jj), row(clean.dv, bb, gg, jj));
                    }
        });
    });
    EXPECT_GT(spoiled_rows, 100);
}

// NaN in one feature of the gradient of a row reaches that feature of dv for all keys the row sees.
TEST(BackwardPoison, InTheGradientOfTheOutputReachesTheValuesSeen) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    Backward<float> run(random, {1, 1, 1, 20, 20, 5, 3});
    run.d_out(0, 0, 7, 1) = infinity;
    run.run(heed::Causal{});
    for (Index j = 0; j < 20; ++j)
        for (Index c = 0; c < 3; ++c)
            EXPECT_EQ(run.dv(0, 0, j, c) == infinity, j <= 7 && c == 1) << j << ", " << c;
}

TEST(BackwardSizes, OfZeroAreWrittenWithZerosOrNotAtAll) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    for (const AttentionShape& s :
         {AttentionShape{0, 2, 1, 3, 4, 5, 6}, AttentionShape{2, 2, 1, 0, 4, 5, 6},
          AttentionShape{2, 2, 1, 3, 0, 5, 6}, AttentionShape{2, 2, 1, 3, 4, 0, 6},
          AttentionShape{2, 2, 1, 3, 4, 5, 0}}) {
        SCOPED_TRACE(attend::to_string(s));
        Backward<float> run(random, s);
        run.run(heed::NoMask{});
        const bool any_value = s.q_len > 0 && s.head_dim == 0;
        for (const auto* gradient : {&run.dq, &run.dk, &run.dv})
            for (float x : gradient->values()) EXPECT_EQ(x == 0.0f, !any_value);
    }
}

/// score -> 0.1 score^2 + tanh(score), times a number of the place, in any number type.
struct Bend {
    template <class Score>
    Score operator()(Score score, heed::ScoreIndex at) const {
        using std::tanh;
        return (score * score * Score(0.1) + tanh(score)) * Score(1.0 + 0.25 * double(at.k % 3));
    }
};
/// The same with its derivative by hand, in double alone.
struct BendByHand {
    double operator()(double score, heed::ScoreIndex at) const { return Bend{}(score, at); }
    double derivative(double score, heed::ScoreIndex at) const {
        const double t = std::tanh(score);
        return (0.2 * score + 1 - t * t) * (1.0 + 0.25 * static_cast<double>(at.k % 3));
    }
};

template <class Function>
void expect_gradient_through(const Function& function) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    for (int n = 0; n < 20 && !testing::Test::HasFailure(); ++n) {
        const AttentionShape s = few(random);
        Backward<double> run(random, s);
        const Index offset = random.integer(-1, 3);
        run.run(heed::SoftCap{1.5} & function & heed::Causal::offset(offset));
        oracle::Rules rules{.softcap = 1.5};
        rules.modify = [](double score, Index b, Index h, Index i, Index j) {
            return Bend{}(score, {b, h, i, j});
        };
        rules.visible = [offset](Index, Index, Index i, Index j) { return j <= i + offset; };
        attend::expect_close(run.gradients(), by_differences(run, {attend::sizes(s), rules}));
    }
}

TEST(BackwardFunction, IsDifferentiatedByADualNumber) {
    expect_gradient_through(Bend{});
    expect_gradient_through([](auto score, heed::ScoreIndex at) { return Bend{}(score, at); });
}

TEST(BackwardFunction, MayBringItsDerivative) {
    expect_gradient_through(BendByHand{});
}

TEST(Dual, FollowsTheRulesOfCalculus) {
    const auto slope = [](const auto& f, double x) { return f(heed::Dual<double>(x, 1.0)).slope; };
    for (const double x : {0.3, 1.0, 2.5}) {
        EXPECT_NEAR(slope([](auto a) { return exp(a); }, x), std::exp(x), 1e-14);
        EXPECT_NEAR(slope([](auto a) { return log(a); }, x), 1 / x, 1e-15);
        EXPECT_NEAR(slope([](auto a) { return sqrt(a); }, x), 0.5 / std::sqrt(x), 1e-15);
        EXPECT_NEAR(slope([](auto a) { return tanh(a); }, x), 1 / std::pow(std::cosh(x), 2), 1e-15);
        EXPECT_NEAR(slope([](auto a) { return abs(-a); }, x), 1, 0);
        EXPECT_NEAR(slope([](auto a) { return 1.0 / (a * a); }, x), -2 / (x * x * x), 1e-13);
        EXPECT_NEAR(slope([](auto a) { return 3 * a - a / 2 + 1.0f; }, x), 2.5, 0);
        EXPECT_NEAR(slope([](auto a) { return a > 1 ? a * a : -a; }, x), x > 1 ? 2 * x : -1, 0);
    }
}

TEST(BackwardWorkspace, OfTheCallerSuffices) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    heed::ThreadPool three(3);
    for (const heed::ExecutorRef executor :
         {heed::ExecutorRef(heed::serial), heed::ExecutorRef(three)}) {
        Backward<float> run(random, long_sizes);
        run.run(heed::NoMask{}, {.executor = executor});
        std::vector<std::byte> memory(
            heed::attention_backward_workspace_bytes<float>(long_sizes, executor.concurrency()) + 2,
            std::byte{0x7f});
        Backward<float> again = run;
        again.backward(
            heed::NoMask{},
            {.executor = executor, .workspace = std::span(memory).subspan(1, memory.size() - 2)});
        EXPECT_SAME(again, run);
        EXPECT_EQ(memory.front(), std::byte{0x7f});
        EXPECT_EQ(memory.back(), std::byte{0x7f});
    }
}

TEST(BackwardWorkspace, IsAllTheMemoryThatIsUsed) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const RandomBackward problem(random, long_sizes);
    Backward<float> run(random, problem.s);
    problem.with_mask([&](const auto& mask) {
        run.run(mask, problem.options);
        std::vector<std::byte> memory(
            heed::attention_backward_workspace_bytes<float>(problem.s, 1));
        AttentionBackwardOptions options = problem.options;
        options.executor = heed::serial;
        const auto count = [&](std::span<std::byte> workspace) {
            options.workspace = workspace;
            const support::AllocationCounter counter;
            run.backward(mask, options);
            return counter.count();
        };
        EXPECT_EQ(count(memory), 0u);
        // The counter-check: the counter does see the workspace that heed makes by itself.
        EXPECT_GE(count({}), 1u);
    });
}

/// Expects an error that names the function and says what is wrong, and no gradient written.
template <class Error, class Change>
void expect_refused(const std::string& says, const Change& change) {
    support::Random random;
    const AttentionShape s{2, 4, 2, 3, 5, 6, 7};
    Backward<float> run(random, s);
    run.forward(heed::NoMask{});
    heed::AttentionGradients<float> gradients{run.dq, run.dk, run.dv};
    AttentionBackwardOptions options;
    TensorView<const float, 4> out = run.out, d_out = run.d_out;
    TensorView<const float, 3> lse = run.lse;
    change(run, out, lse, d_out, gradients, options);
    try {
        heed::scaled_dot_product_attention_backward(run.q, run.k, run.v, out, lse, d_out, gradients,
                                                    heed::NoMask{}, options);
        ADD_FAILURE() << "not refused: " << says;
    } catch (const Error& error) {
        EXPECT_THAT(error.what(), testing::StartsWith("[scaled_dot_product_attention_backward] "));
        EXPECT_THAT(error.what(), testing::HasSubstr(says));
    }
    for (const auto* gradient : {&run.dq, &run.dk, &run.dv})
        for (float x : gradient->values()) EXPECT_EQ(x, 0.0f);
}

TEST(BackwardErrors, AreNamedBeforeAnythingIsWritten) {
    using Options = AttentionBackwardOptions;
    const auto refuse = [](auto kind, const char* says, const auto& change) {
        expect_refused<decltype(kind)>(says, change);
    };
    const ShapeError shape("");
    const ArgumentError argument("");
    refuse(shape, "out must",
           [](auto&, auto& out, auto&, auto&, auto&, Options&) { out = out.slice(3, 0, 6); });
    refuse(shape, "lse must",
           [](auto&, auto&, auto& lse, auto&, auto&, Options&) { lse = lse.slice(2, 0, 2); });
    refuse(shape, "d_out must",
           [](auto&, auto&, auto&, auto& d_out, auto&, Options&) { d_out = d_out.slice(1, 0, 2); });
    refuse(argument, "d_out must point at memory",
           [](auto&, auto&, auto&, auto& d_out, auto&, Options&) {
               d_out = TensorView<const float, 4>(nullptr, d_out.shape());
           });
    refuse(shape, "dq must", [](auto&, auto&, auto&, auto&, auto& gradients, Options&) {
        gradients.dq = gradients.dq.slice(2, 0, 2);
    });
    refuse(shape, "dk must not overlap",
           [](auto& run, auto&, auto&, auto&, auto& gradients, Options&) { gradients.dk = run.k; });
    refuse(shape, "dv must not overlap",
           [](auto& run, auto&, auto&, auto&, auto& gradients, Options&) {
               gradients.dv = TensorView<float, 4>(run.dk.data(), gradients.dv.shape());
               run.dk = Tensor<float, 4>({2, 2, 6, 7});
               gradients.dk = TensorView<float, 4>(run.dk.data(), run.k.shape());
               gradients.dv = TensorView<float, 4>(run.dk.data(), gradients.dv.shape());
           });
    refuse(argument, "the dropout probability",
           [](auto&, auto&, auto&, auto&, auto&, Options& options) {
               options.dropout.probability = 1.5;
           });
    refuse(argument, "the scale must be finite",
           [](auto&, auto&, auto&, auto&, auto&, Options& options) {
               options.scale = std::numeric_limits<double>::infinity();
           });
    static std::vector<std::byte> small(8);
    refuse(argument, "the workspace must have at least",
           [](auto&, auto&, auto&, auto&, auto&, Options& options) { options.workspace = small; });
    refuse(shape, "the workspace must not overlap",
           [](auto& run, auto&, auto&, auto&, auto&, Options& options) {
               options.workspace = std::as_writable_bytes(run.dq.values());
           });
}

}  // namespace
