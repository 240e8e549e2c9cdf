// Gradients of biases, slopes, tables and sinks: against central differences and the formula, and
// the laws that they keep.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "attention/rule_gradients.hpp"
#include "heed/base/thread_pool.hpp"
#include "support/tolerance.hpp"
#include "tensor/strided.hpp"

namespace {

using attend::Backward;
using attend::NamedGradients;
using attend::RandomBackward;
using attend::WantedRules;
using heed::AdditiveBias;
using heed::Alibi;
using heed::AttentionShape;
using heed::Index;
using heed::ShapeError;
using heed::Sinks;
using heed::Tensor;
using heed::TensorView;

using Kind = RandomBackward::Kind;

/// Within atol + rtol * |expected|, which a float must hold.
void expect_close(const std::vector<double>& actual, const std::vector<long double>& expected,
                  const std::string& name, double atol = 1e-8, double rtol = 1e-6) {
    ASSERT_EQ(actual.size(), expected.size()) << name;
    for (std::size_t n = 0; n < actual.size(); ++n) {
        const double right = static_cast<double>(expected[n]);
        ASSERT_NEAR(actual[n], right, atol + rtol * std::abs(right)) << name << "[" << n << "]";
    }
}

void expect_formula(RandomBackward& problem, Backward<double>& run) {
    WantedRules wanted(problem);
    problem.with_mask([&](const auto& mask) { run.run(mask, problem.options); });
    const auto right = attend::rule_gradients<long double>(problem, run);
    attend::for_each_rule(problem, wanted,
                          [&](const std::string& name, const std::vector<double>& found) {
                              expect_close(found, right.at(name), name);
                          });
    attend::expect_close(run.gradients(), run.by_formula<long double>(problem.oracle_case()), 1e-11,
                         1e-11);
}

// Two keys of equal score; the bias log 3 makes their weights 1/4 and 3/4, as does the gradient.
TEST(RuleGradients, ByHand) {
    const Tensor<double, 4> q({1, 1, 1, 1}, {0}), k({1, 1, 2, 1}, {0, 0}), v({1, 1, 2, 1}, {0, 1}),
        d_out({1, 1, 1, 1}, {1});
    const Tensor<double, 1> bias(2, {0, std::log(3.0)}), sink(1, {std::log(4.0)});
    Tensor<double, 4> out(q.shape());
    Tensor<double, 3> lse({1, 1, 1});
    Tensor<double, 1> d_bias(2), d_sink(1);
    const auto gradients_with = [&](const auto& mask) {
        heed::scaled_dot_product_attention(q, k, v, out, mask, {.lse = lse});
        heed::scaled_dot_product_attention_backward(q, k, v, out, lse, d_out,
                                                    heed::AttentionGradients<double>{}, mask);
    };
    gradients_with(AdditiveBias{bias}.with_gradient(d_bias));
    EXPECT_NEAR(d_bias(0), -3.0 / 16, 1e-15);
    EXPECT_NEAR(d_bias(1), 3.0 / 16, 1e-15);
    // With a sink of weight 1/2: 1/8, 3/8, output 3/8.
    gradients_with(AdditiveBias{bias}.with_gradient(d_bias) & Sinks{sink}.with_gradient(d_sink));
    EXPECT_NEAR(d_bias(0), -3.0 / 64, 1e-15);
    EXPECT_NEAR(d_bias(1), 3.0 / 8 * 5 / 8, 1e-15);
    EXPECT_NEAR(d_sink(0), -3.0 / 16, 1e-15);
}

/// Sizes for which differences in many directions are affordable.
AttentionShape few(support::Random& random) {
    const Index kv_heads = random.integer(1, 2);
    return {.batch = random.integer(1, 3),
            .heads = kv_heads * random.integer(1, 2),
            .kv_heads = kv_heads,
            .q_len = random.integer(1, 6),
            .kv_len = random.integer(1, 7),
            .head_dim = random.integer(1, 3),
            .value_dim = random.integer(1, 3)};
}

/// The gradients of the rules; of larger ones, some elements.
void expect_rule_differences(support::Random& random, RandomBackward& problem,
                             const Backward<double>& run, WantedRules& wanted) {
    constexpr std::size_t some = 6;
    attend::for_each_rule(
        problem, wanted, [&](const std::string& name, const std::vector<double>& found) {
            const Index last = static_cast<Index>(found.size()) - 1;
            for (std::size_t n = 0; n < std::min(some, found.size()); ++n) {
                const std::size_t at =
                    found.size() <= some ? n : static_cast<std::size_t>(random.integer(0, last));
                const auto right =
                    static_cast<double>(attend::rule_difference(problem, run, name, at));
                ASSERT_NEAR(found[at], right, 1e-8 + 1e-6 * std::abs(right))
                    << name << "[" << at << "]";
            }
        });
}

// Everything at once: dq, dk, dv and the gradients of all rules, with every mask, 16 shapes of
// biases, dropout, empty rows, grouped heads, soft-cap, windows and packed sequences.
TEST(Gradcheck, EqualsCentralDifferencesOfTheOracle) {
    using Real = long double;
    support::Random random;
    SCOPED_TRACE(random.describe());
    for (int n = 0; n < 2000 && !testing::Test::HasFailure(); ++n) {
        RandomBackward problem(random, few(random));
        problem.masks.reshape_bias(random, n % 16);
        SCOPED_TRACE("case " + std::to_string(n) + ": " + problem.describe());
        Backward<double> run(random, problem.s);
        WantedRules wanted(problem);
        problem.with_mask([&](const auto& mask) { run.run(mask, problem.options); });
        attend::expect_close(run.gradients(), attend::by_differences(
                                                  problem.oracle_case(), run.inputs<Real>(run.q),
                                                  run.inputs<Real>(run.k), run.inputs<Real>(run.v),
                                                  run.inputs<Real>(run.d_out)));
        expect_rule_differences(random, problem, run, wanted);
    }
}

TEST(RuleGradients, InDoubleEqualTheFormula) {
    attend::for_random_cases(400, [](support::Random& random, const AttentionShape& s) {
        RandomBackward problem(random, s);
        problem.masks.reshape_bias(random, static_cast<int>(random.integer(0, 15)));
        SCOPED_TRACE(problem.describe());
        Backward<double> run(random, problem.s);
        expect_formula(problem, run);
    });
}

/// Several tiles of keys and queries, several chunks of keys, heads that share keys.
constexpr AttentionShape long_sizes{2, 2, 1, 100, 520, 4, 6};

TEST(RuleGradients, OverManyTilesEqualTheFormula) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    for (int n = 0; n < 16 && !testing::Test::HasFailure(); ++n) {
        RandomBackward problem(random, long_sizes);
        problem.masks.reshape_bias(random, n);
        SCOPED_TRACE("case " + std::to_string(n) + ": " + problem.describe());
        Backward<double> run(random, problem.s);
        expect_formula(problem, run);
    }
}

TEST(RuleGradients, InFloatAreAsRightAsTheFormulaInFloat) {
    attend::for_random_cases(300, [](support::Random& random, const AttentionShape& s) {
        RandomBackward problem(random, s);
        problem.masks.reshape_bias(random, static_cast<int>(random.integer(0, 15)));
        SCOPED_TRACE(problem.describe());
        Backward<float> run(random, problem.s);
        WantedRules wanted(problem);
        problem.with_mask([&](const auto& mask) { run.run(mask, problem.options); });
        const auto right = attend::rule_gradients<double>(problem, run),
                   magnitude = attend::rule_gradients<double>(problem, run, true);
        const auto plain = attend::rule_gradients<float>(problem, run);
        const double scores = 1 + support::max_magnitude(attend::elements(run.lse));
        attend::for_each_rule(problem, wanted,
                              [&](const std::string& name, const std::vector<double>& found) {
                                  const auto verdict = support::compare_with_oracle<float>(
                                      oracle::convert<float>(found), plain.at(name), right.at(name),
                                      2 * scores * support::max_magnitude(magnitude.at(name)));
                                  EXPECT_TRUE(verdict) << name << ": " << verdict.message;
                              });
    });
}

/// Bit by bit, what two runs wrote.
void expect_same(WantedRules& a, WantedRules& b) {
    std::map<std::string, std::vector<float>> of_a;
    a.gradients.for_each([&](const char* name, auto view) { of_a[name] = attend::elements(view); });
    b.gradients.for_each([&](const char* name, auto view) {
        const auto verdict = support::compare_bits(of_a[name], attend::elements(view));
        EXPECT_TRUE(verdict) << name << ": " << verdict.message;
    });
}

TEST(RuleGradientsLaw, WantedOrNotTheOthersHaveTheSameBits) {
    attend::for_random_cases(100, [](support::Random& random, const AttentionShape& s) {
        RandomBackward problem(random, s);
        Backward<float> without(random, problem.s);
        problem.with_mask([&](const auto& mask) { without.run(mask, problem.options); });
        Backward<float> with = without;
        WantedRules all(problem);
        problem.with_mask([&](const auto& mask) { with.backward(mask, problem.options); });
        EXPECT_TRUE(attend::same_bits(with, without));
        // Without dq, dk and dv.
        WantedRules alone(problem);
        problem.with_mask([&](const auto& mask) {
            heed::scaled_dot_product_attention_backward(
                with.q, with.k, with.v, with.out, with.lse, with.d_out,
                heed::AttentionGradients<float>{}, mask, problem.options);
        });
        expect_same(alone, all);
    });
}

/// Runs the last task first, one after the other, under the numbers of several workers.
struct BackwardsExecutor {
    [[nodiscard]] int concurrency() const { return 7; }
    void parallel_for(Index count, heed::ParallelTask task) const {
        for (Index i = count; i > 0; --i) task(i - 1, static_cast<int>((i * 5) % 7));
    }
};

TEST(RuleGradientsLaw, EveryExecutorGivesTheSameBits) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    heed::ThreadPool two(2), nine(9);
    BackwardsExecutor backwards;
    const AttentionShape many_heads{3, 8, 4, 150, 300, 20, 12};
    for (const AttentionShape& s : {long_sizes, many_heads})
        for (int n = 0; n < 16 && !testing::Test::HasFailure(); ++n) {
            RandomBackward problem(random, s);
            problem.masks.reshape_bias(random, n);
            SCOPED_TRACE("case " + std::to_string(n) + ": " + problem.describe());
            Backward<float> one(random, problem.s);
            problem.options.executor = heed::serial;
            WantedRules of_one(problem);
            problem.with_mask([&](const auto& mask) { one.run(mask, problem.options); });
            for (const heed::ExecutorRef executor :
                 {heed::ExecutorRef(two), heed::ExecutorRef(nine), heed::ExecutorRef(backwards)}) {
                Backward<float> other = one;
                problem.options.executor = executor;
                WantedRules of_other(problem);
                problem.with_mask([&](const auto& mask) { other.backward(mask, problem.options); });
                EXPECT_TRUE(attend::same_bits(other, one));
                expect_same(of_other, of_one);
            }
        }
}

/// s + rate * s^2, whose derivative depends on the score.
struct Bend {
    double rate;
    template <class Score>
    Score operator()(Score score, heed::ScoreIndex) const {
        return score + static_cast<Score>(rate) * score * score;
    }
};

// What follows on a bias bends its gradient, what comes before does not.
TEST(RuleGradients, GoThroughTheFunctionsBehindTheirRule) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const AttentionShape s{2, 2, 1, 5, 6, 3, 2};
    const auto bias = attend::normals<double, 4>(random, {1, 2, 5, 6});
    const auto slopes = attend::normals<double, 1>(random, {2});
    Tensor<double, 4> d_bias(bias.shape()), d_between(bias.shape());
    Tensor<double, 1> d_slopes(slopes.shape());
    Backward<double> run(random, s);
    const Bend first{0.2}, second{-0.1}, third{0.15};
    const auto mask = first & AdditiveBias{bias}.with_gradient(d_bias) & second &
                      AdditiveBias{bias}.with_gradient(d_between) &
                      Alibi{slopes}.with_gradient(d_slopes) & third & heed::SoftCap{3} &
                      heed::Causal::offset(2);
    const auto aligned = heed::Causal::offset(2) & mask;
    run.run(aligned, {});
    Backward<double> plain = run;
    const auto without = heed::Causal::offset(2) & first & AdditiveBias{bias} & second &
                         AdditiveBias{bias} & Alibi{slopes} & third & heed::SoftCap{3};
    plain.backward(without, {});
    EXPECT_TRUE(attend::same_bits(plain, run));

    // Of the element [h, q, k] of the first bias, the second, and of a slope.
    const auto loss = [&](double in_first, double in_second, double in_slopes, Index h, Index q,
                          Index k) {
        oracle::Rules rules;
        rules.softcap = 3;
        rules.visible = [](Index, Index, Index i, Index j) { return j <= i + 2; };
        rules.modify = [&](double score, Index b, Index head, Index i, Index j) {
            const bool here = head == h && i == q && j == k;
            const heed::ScoreIndex at{b, head, i, j};
            score = second(first(score, at) + bias(0, head, i, j) + (here ? in_first : 0), at);
            const double slope = slopes(head) + (head == h ? in_slopes : 0);
            score += bias(0, head, i, j) + (here ? in_second : 0) -
                     slope * static_cast<double>(std::abs(i + 2 - j));
            return third(score, at);
        };
        using Real = long double;
        const auto out = oracle::attention(attend::sizes(s), run.inputs<Real>(run.q),
                                           run.inputs<Real>(run.k), run.inputs<Real>(run.v), rules)
                             .output;
        const auto d_out = run.inputs<Real>(run.d_out);
        Real sum = 0;
        for (std::size_t n = 0; n < out.size(); ++n) sum += out[n] * d_out[n];
        return sum;
    };
    const double step = 1e-4;
    const auto slope_of = [&](const auto& f) {
        return static_cast<double>((f(step) - f(-step)) / (2 * step));
    };
    for (Index h = 0; h < 2; ++h) {
        for (Index q = 0; q < 5; ++q)
            for (Index k = 0; k < 6; ++k) {
                EXPECT_NEAR(d_bias(0, h, q, k),
                            slope_of([&](double x) { return loss(x, 0, 0, h, q, k); }), 1e-7);
                EXPECT_NEAR(d_between(0, h, q, k),
                            slope_of([&](double x) { return loss(0, x, 0, h, q, k); }), 1e-7);
            }
        EXPECT_NEAR(d_slopes(h), slope_of([&](double x) { return loss(0, 0, x, h, 0, 0); }), 1e-6);
    }
}

// Gradients of any strides are written where they belong, and nowhere else.
TEST(RuleGradientsLaw, StridesChangeNoBitAndGapsStayAsTheyAre) {
    attend::for_random_cases(60, [](support::Random& random, const AttentionShape& s) {
        const auto bias = attend::normals<float, 4>(
            random, {random.chance(0.5) ? 1 : s.batch, random.chance(0.5) ? 1 : s.heads,
                     random.chance(0.3) ? 1 : s.q_len, random.chance(0.3) ? 1 : s.kv_len});
        Backward<float> run(random, s);
        Tensor<float, 4> dense(bias.shape());
        run.run(AdditiveBias{bias}.with_gradient(dense), {});
        support::Strided<float, 4> scattered(random, bias.shape(), 77.0f);
        run.backward(AdditiveBias{bias}.with_gradient(scattered.view()), {});
        EXPECT_TRUE(attend::same_bits(scattered.view(), dense));
        EXPECT_TRUE(scattered.gaps_untouched());
    });
}

// A half is storage only: the gradient is that of the same numbers in float, rounded once.
TEST(RuleGradientsLaw, HalfTypesAreStorageOnly) {
    attend::for_random_cases(60, [](support::Random& random, const AttentionShape& s) {
        const auto bias = attend::normals<heed::bfloat16, 4>(
            random, {random.chance(0.5) ? 1 : s.batch, s.heads, random.chance(0.3) ? 1 : s.q_len,
                     s.kv_len});
        Tensor<float, 4> wide(bias.shape()), d_wide(bias.shape());
        heed::copy(bias.view(), wide.view());
        Tensor<heed::bfloat16, 4> d_bias(bias.shape()), rounded(bias.shape());
        Backward<float> run(random, s);
        run.run(AdditiveBias{wide}.with_gradient(d_wide), {});
        run.backward(AdditiveBias{bias}.with_gradient(d_bias), {});
        heed::copy(d_wide.view(), rounded.view());
        EXPECT_TRUE(attend::same_bits(d_bias, rounded));
    });
}

// Where no query sees a key, or the bias hides it, the gradient is exactly 0, whatever lies there.
TEST(RuleGradientsPoison, InHiddenPlacesChangesNoBit) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const AttentionShape s{2, 2, 1, 70, 300, 8, 8};
    Backward<float> run(random, s);
    const std::vector<Index> lengths{180, 0};
    const auto slopes = attend::normals<float, 1>(random, {2}),
               sinks = attend::normals<float, 1>(random, {2});
    auto bias = attend::normals<float, 4>(random, {2, 1, 70, 300});
    for (Index i = 0; i < 70; ++i) bias(0, 0, i, 7) = attend::infinity * -1;
    Tensor<float, 4> d_bias(bias.shape());
    Tensor<float, 1> d_slopes(2), d_sinks(2);
    const auto mask = AdditiveBias{bias}.with_gradient(d_bias) & heed::KeyLengths{lengths} &
                      Alibi{slopes, heed::Alignment::top_left()}.with_gradient(d_slopes) &
                      Sinks{sinks}.with_gradient(d_sinks);
    run.run(mask, {});
    const auto before = attend::elements(d_bias), slopes_before = attend::elements(d_slopes),
               sinks_before = attend::elements(d_sinks);
    for (Index b = 0; b < 2; ++b)
        for (Index i = 0; i < 70; ++i)
            for (Index j = 0; j < 300; ++j)
                if (b == 1 || j == 7 || j >= 180) {
                    EXPECT_EQ(d_bias(b, 0, i, j), 0.0f);
                }
    const float nan = attend::not_a_number;
    for (Index b = 0; b < 2; ++b)
        for (Index j = 0; j < 300; ++j)
            if (b == 1 || j == 7 || j >= 180) {
                heed::fill(run.k.view().select(0, b).select(0, 0).select(0, j), nan);
                heed::fill(run.v.view().select(0, b).select(0, 0).select(0, j), nan);
            }
    heed::fill(run.d_out.view().select(0, 1), nan);
    for (auto* gradient : {&d_slopes, &d_sinks}) heed::fill(gradient->view(), nan);
    heed::fill(d_bias.view(), nan);
    run.backward(mask, {});
    EXPECT_TRUE(support::compare_bits(attend::elements(d_bias), before));
    EXPECT_TRUE(support::compare_bits(attend::elements(d_slopes), slopes_before));
    EXPECT_TRUE(support::compare_bits(attend::elements(d_sinks), sinks_before));
}

TEST(RuleGradientsSizes, OfZeroAreWrittenWithZeros) {
    support::Random random;
    for (const AttentionShape& s :
         {AttentionShape{0, 2, 1, 3, 4, 2, 2}, AttentionShape{2, 2, 1, 0, 4, 2, 2},
          AttentionShape{2, 2, 1, 3, 0, 2, 2}}) {
        Backward<float> run(random, s);
        const Tensor<float, 1> slopes(2, {0.5f, 0.25f}), sinks(2, {0.5f, -attend::infinity});
        const Tensor<float, 4> bias({1, 1, 1, 1});
        Tensor<float, 1> d_slopes(2), d_sinks(2);
        Tensor<float, 4> d_bias(bias.shape());
        for (auto* gradient : {&d_slopes, &d_sinks})
            heed::fill(gradient->view(), attend::not_a_number);
        heed::fill(d_bias.view(), attend::not_a_number);
        run.run(Alibi{slopes, heed::Alignment::top_left()}.with_gradient(d_slopes) &
                    Sinks{sinks}.with_gradient(d_sinks) & AdditiveBias{bias}.with_gradient(d_bias),
                {});
        for (float x : {d_slopes(0), d_slopes(1), d_sinks(0), d_sinks(1), d_bias(0, 0, 0, 0)})
            EXPECT_EQ(x, 0.0f) << attend::to_string(s);
    }
}

/// What backward says to a bias of [2, 1, 3, 5] with this gradient beside others.
template <class Mask>
std::string refusal(Backward<float>& run, const Mask& mask,
                    const heed::AttentionBackwardOptions& options = {}) {
    try {
        heed::scaled_dot_product_attention_backward(run.q, run.k, run.v, run.out, run.lse,
                                                    run.d_out, {.dq = run.dq}, mask, options);
    } catch (const heed::Error& error) {
        return error.what();
    }
    return "nothing";
}

TEST(RuleGradientsErrors, AreNamedBeforeAnythingIsWritten) {
    support::Random random;
    Backward<float> run(random, {2, 4, 2, 3, 5, 6, 7});
    run.forward(heed::NoMask{});
    Tensor<float, 4> bias({2, 1, 3, 5}), gradient(bias.shape()), transposed({2, 1, 5, 3});
    const AdditiveBias part(bias);
    EXPECT_THROW((void)part.with_gradient(transposed), ShapeError);
    EXPECT_THROW((void)Alibi(Tensor<float, 1>(4)).with_gradient(Tensor<float, 1>(3)), ShapeError);
    const auto says = [](const char* text) { return testing::HasSubstr(text); };
    EXPECT_THAT(refusal(run, part.with_gradient(bias)), says("must not overlap an input"));
    EXPECT_THAT(refusal(run, part.with_gradient(TensorView<float, 4>(run.q.data(), bias.shape()))),
                says("must not overlap an input"));
    EXPECT_THAT(refusal(run, part.with_gradient(TensorView<float, 4>(run.dq.data(), bias.shape()))),
                says("must not overlap an input or another output"));
    EXPECT_THAT(refusal(run, part.with_gradient(gradient) & part.with_gradient(gradient)),
                says("must not overlap another output"));
    EXPECT_THAT(refusal(run, part.with_gradient(TensorView<float, 4>(gradient.data(), bias.shape(),
                                                                     {0, 0, 5, 1}))),
                says("must have a place for each element"));
    EXPECT_THAT(refusal(run, part.with_gradient(TensorView<float, 4>(nullptr, bias.shape()))),
                says("must point at memory"));
    std::vector<std::byte> workspace(1 << 20);
    EXPECT_THAT(refusal(run,
                        part.with_gradient(TensorView<float, 4>(
                            reinterpret_cast<float*>(workspace.data()), bias.shape())),
                        {.workspace = workspace}),
                says("the workspace must not overlap"));
    for (float x : run.dq.values()) EXPECT_EQ(x, 0.0f);
    for (float x : gradient.values()) EXPECT_EQ(x, 0.0f);
}

// A workspace of exactly the size that is asked for suffices, and nothing beyond it is written.
TEST(RuleGradientsWorkspace, OfTheCallerSuffices) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    heed::ThreadPool three(3);
    for (int n = 0; n < 16 && !testing::Test::HasFailure(); ++n)
        for (const heed::ExecutorRef executor :
             {heed::ExecutorRef(heed::serial), heed::ExecutorRef(three)}) {
            RandomBackward problem(random, long_sizes);
            problem.masks.reshape_bias(random, n);
            Backward<float> run(random, problem.s);
            problem.options.executor = executor;
            WantedRules expected(problem);
            problem.with_mask([&](const auto& mask) { run.run(mask, problem.options); });
            WantedRules found(problem);
            problem.with_mask([&](const auto& mask) {
                const std::size_t bytes = heed::attention_backward_workspace_bytes<float>(
                    problem.s, mask, executor.concurrency());
                const std::byte mark{0x5a};
                std::vector<std::byte> workspace(bytes + 64, mark);
                problem.options.workspace = std::span(workspace).first(bytes);
                run.backward(mask, problem.options);
                for (std::size_t i = bytes; i < workspace.size(); ++i)
                    EXPECT_EQ(workspace[i], mark);
                problem.options.workspace = std::span(workspace).first(bytes - 1);
                EXPECT_THROW(run.backward(mask, problem.options), heed::ArgumentError);
                problem.options.workspace = {};
            });
            expect_same(found, expected);
        }
}

}  // namespace
