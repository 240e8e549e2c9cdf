// Is the oracle itself right? Numbers that a reader can redo with pencil, and published ones.

#include "support/oracle.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "../../examples/01_self_attention/tutorial_data.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"

namespace {

using oracle::Index;
using oracle::Rules;
using oracle::Sizes;
using Vector = std::vector<double>;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

// Pencil work in double: a handful of operations on numbers below 10, each within half a unit.
constexpr double pencil = 10 * 8 * std::numeric_limits<double>::epsilon();

#define EXPECT_CLOSE(actual, ...)                                                     \
    do {                                                                              \
        const support::Verdict verdict =                                              \
            support::compare_within(actual, std::vector<double> __VA_ARGS__, pencil); \
        EXPECT_TRUE(verdict) << #actual ": " << verdict.message;                      \
    } while (false)

// Scores ln 1, ln 2, ln 5 sum to 8 after exp: weights 1/8, 2/8, 5/8, log-sum-exp ln 8.
const Vector log_scores{0.0, std::log(2.0), std::log(5.0)};

// One query against three keys, D = 1, so that with query 1 the scores are the keys.
const Sizes three_keys{.Lk = 3, .Dv = 2};
const Vector three_values{8, 80, 16, 160, 24, 240};

oracle::Result<double> attend_three(const Rules& rules) {
    return oracle::attention<double>(three_keys, {1}, log_scores, three_values, rules);
}

TEST(OracleSoftmax, WeightsInTheRatioOfOneTwoFive) {
    EXPECT_CLOSE(oracle::softmax(log_scores, 3), {0.125, 0.25, 0.625});
    EXPECT_CLOSE(oracle::log_sum_exp(log_scores, 3), {std::log(8.0)});
}

TEST(OracleSoftmax, LargeScoresShiftNothing) {
    Vector shifted = log_scores;
    for (double& score : shifted) score += 1024;  // exp(1024) would overflow
    const support::Verdict verdict =
        support::compare_within(oracle::softmax(shifted, 3), Vector{0.125, 0.25, 0.625},
                                1024 * std::numeric_limits<double>::epsilon());
    EXPECT_TRUE(verdict) << verdict.message;
    EXPECT_NEAR(oracle::log_sum_exp(shifted, 3)[0], 1024 + std::log(8.0), 1e-12);
}

TEST(OracleSoftmax, SpecialRows) {
    const Vector rows{-infinity, -infinity, 0, -infinity, infinity, 1, nan, -infinity};
    const Vector weights = oracle::softmax(rows, 2);
    EXPECT_TRUE(
        support::compare_bits(Vector(weights.begin(), weights.begin() + 4), Vector{0, 0, 1, 0}));
    for (std::size_t i = 4; i < 8; ++i) EXPECT_TRUE(std::isnan(weights[i])) << i;
    const Vector sums = oracle::log_sum_exp(rows, 2);
    EXPECT_EQ(sums[0], -infinity);
    EXPECT_EQ(sums[1], 0.0);
    EXPECT_EQ(sums[2], infinity);
    EXPECT_TRUE(std::isnan(sums[3]));
    EXPECT_TRUE(oracle::softmax(Vector{}, 0).empty());
}

TEST(OracleAttention, OneQueryThreeKeys) {
    const auto result = attend_three({});
    EXPECT_CLOSE(result.products, {0, std::log(2.0), std::log(5.0)});
    EXPECT_CLOSE(result.scaled, {0, std::log(2.0), std::log(5.0)});  // D = 1: scale 1
    EXPECT_CLOSE(result.weights, {0.125, 0.25, 0.625});
    EXPECT_CLOSE(result.log_sum_exp, {std::log(8.0)});
    // 8/8 + 2*16/8 + 5*24/8 = 1 + 4 + 15 = 20, and ten times that.
    EXPECT_CLOSE(result.output, {20, 200});
}

TEST(OracleAttention, DefaultScaleIsOneOverRootOfHeadDim) {
    // D = 4: q k = 1*3 + 2*2 + 3*1 + 4*0 = 10, divided by 2.
    const Sizes sizes{.D = 4};
    const auto result = oracle::attention<double>(sizes, {1, 2, 3, 4}, {3, 2, 1, 0}, {7});
    EXPECT_CLOSE(result.products, {10});
    EXPECT_CLOSE(result.scaled, {5});
    EXPECT_CLOSE(result.output, {7});
}

TEST(OracleAttention, ZeroAndNegativeScale) {
    // Scale 0: every weight 1/3, (8 + 16 + 24) / 3 = 16.
    EXPECT_CLOSE(attend_three({.scale = 0.0}).output, {16, 160});
    // Scale -1: exp 1, 1/2, 1/5 = 10, 5, 2 of 17: (10*8 + 5*16 + 2*24) / 17 = 208/17.
    EXPECT_CLOSE(attend_three({.scale = -1.0}).output, {208.0 / 17, 2080.0 / 17});
}

TEST(OracleAttention, SoftcapThenBiasThenMask) {
    Rules rules;
    rules.scale = 2.0;
    rules.softcap = 0.5;
    rules.modify = [](double score, Index, Index, Index, Index k) {
        return score + 3.0 * static_cast<double>(k);
    };
    rules.visible = [](Index, Index, Index, Index k) { return k != 2; };
    // Keys 0, 1/4, 1: scaled 0, 1/2, 2; capped 0, tanh(1)/2, tanh(4)/2; biased by 0, 3, 6.
    const auto result =
        oracle::attention<double>(Sizes{.Lk = 3}, {1}, {0, 0.25, 1}, {1, 0, 1e300}, rules);
    const double capped = std::tanh(1.0) / 2;
    EXPECT_CLOSE(result.scaled, {0, 0.5, 2});
    EXPECT_CLOSE(result.capped, {0, capped, std::tanh(4.0) / 2});
    EXPECT_CLOSE(result.modified, {0, capped + 3, std::tanh(4.0) / 2 + 6});
    EXPECT_CLOSE(result.masked, {0, capped + 3, -infinity});
    EXPECT_CLOSE(result.output, {1 / (1 + std::exp(capped + 3))});
}

TEST(OracleAttention, MaskedKeysAreLeftOut) {
    Rules rules;
    rules.visible = [](Index, Index, Index, Index k) { return k != 1; };
    // exp 1 and 5 of 6: (8 + 5*24) / 6 = 128/6.
    EXPECT_CLOSE(attend_three(rules).output, {128.0 / 6, 1280.0 / 6});
    EXPECT_CLOSE(attend_three(rules).weights, {1.0 / 6, 0, 5.0 / 6});

    const Vector clean = attend_three(rules).output;
    for (double poison : {nan, infinity, -infinity, 1e300}) {
        Vector key = log_scores, value = three_values;
        key[1] = value[2] = value[3] = poison;
        const auto result = oracle::attention<double>(three_keys, {1}, key, value, rules);
        EXPECT_TRUE(support::compare_bits(result.output, clean)) << poison;
        EXPECT_FALSE(std::isnan(result.log_sum_exp[0]));
    }
}

TEST(OracleAttention, EmptyRow) {
    Rules rules;
    rules.visible = [](Index, Index, Index q, Index) { return q == 1; };
    const auto result =
        oracle::attention<double>(Sizes{.Lq = 2, .Lk = 2}, {1, 1}, {0, 0}, {nan, 4}, rules);
    EXPECT_TRUE(support::compare_bits(Vector{result.output[0]}, Vector{0}));
    EXPECT_TRUE(std::isnan(result.output[1]));  // a NaN in a live element is kept
    EXPECT_EQ(result.log_sum_exp[0], -infinity);
    EXPECT_CLOSE(result.weights, {0, 0, 0.5, 0.5});
}

TEST(OracleAttention, NothingToAttendTo) {
    const auto result = oracle::attention<double>(Sizes{.Lq = 2, .Lk = 0, .Dv = 2}, {1, 1}, {}, {});
    EXPECT_TRUE(support::compare_bits(result.output, Vector{0, 0, 0, 0}));
    EXPECT_TRUE(support::compare_bits(result.log_sum_exp, Vector{-infinity, -infinity}));
    EXPECT_TRUE(oracle::attention<double>(Sizes{.B = 0}, {}, {}, {}).output.empty());
}

TEST(OracleAttention, NanQueryMakesItsRowNan) {
    const auto result =
        oracle::attention<double>(Sizes{.Lq = 2, .Lk = 2}, {nan, 0}, {1, 2}, {3, 5});
    EXPECT_TRUE(std::isnan(result.output[0]));
    EXPECT_CLOSE(Vector{result.output[1]}, {4});
}

TEST(OracleAttention, DropoutComesAfterTheWeights) {
    Rules rules;
    rules.dropout = 0.5;
    rules.keep = [](Index, Index, Index, Index k) { return k != 2; };
    // (8/8 + 2*16/8) / (1 - 1/2) = 10; the weights are those before dropout.
    EXPECT_CLOSE(attend_three(rules).output, {10, 100});
    EXPECT_CLOSE(attend_three(rules).weights, {0.125, 0.25, 0.625});
    rules.dropout = 1.0;
    rules.keep = [](Index, Index, Index, Index) { return false; };
    EXPECT_TRUE(support::compare_bits(attend_three(rules).output, Vector{0, 0}));
}

TEST(OracleAttention, GroupedHeadsReadTheirKeyHead) {
    // Six heads on two: heads 0..2 read head 0, heads 3..5 head 1 (a modulo would alternate).
    const Sizes sizes{.B = 2, .H = 6, .Hk = 2};
    const auto result = oracle::attention<double>(sizes, Vector(12, 1), Vector(4, 1), {1, 2, 3, 4});
    EXPECT_CLOSE(result.output, {1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4});
}

TEST(OracleAttention, SizesThatAllDiffer) {
    // Uniform weights average the keys; value = 100 b + 10 kv_head + position + d / 4.
    const Sizes n{.B = 2, .H = 4, .Hk = 2, .Lq = 3, .Lk = 5, .D = 6, .Dv = 7};
    EXPECT_EQ(n.query_count(), 2u * 4 * 3 * 6);
    EXPECT_EQ(n.key_count(), 2u * 2 * 5 * 6);
    EXPECT_EQ(n.value_count(), 2u * 2 * 5 * 7);
    EXPECT_EQ(n.output_count(), 2u * 4 * 3 * 7);
    EXPECT_EQ(n.score_count(), 2u * 4 * 3 * 5);
    EXPECT_EQ(n.row_count(), 2u * 4 * 3);
    Vector value(n.value_count());
    for (Index b = 0; b < n.B; ++b)
        for (Index h = 0; h < n.Hk; ++h)
            for (Index k = 0; k < n.Lk; ++k)
                for (Index d = 0; d < n.Dv; ++d)
                    value[n.value_at(b, h, k, d)] =
                        static_cast<double>(100 * b + 10 * h + k) + static_cast<double>(d) / 4;
    const auto result =
        oracle::attention<double>(n, Vector(n.query_count(), 1), Vector(n.key_count(), 1), value);
    for (Index b = 0; b < n.B; ++b)
        for (Index h = 0; h < n.H; ++h)
            for (Index q = 0; q < n.Lq; ++q)
                for (Index d = 0; d < n.Dv; ++d)
                    EXPECT_NEAR(result.output[n.output_at(b, h, q, d)],
                                static_cast<double>(100 * b + 10 * (h / 2) + 2) +
                                    static_cast<double>(d) / 4,
                                1e-12);
}

TEST(OracleAttention, RulesSeeTheirPosition) {
    const Sizes n{.B = 2, .H = 2, .Hk = 1, .Lq = 2, .Lk = 2};
    Rules rules;
    rules.modify = [](double, Index b, Index h, Index q, Index k) {
        return static_cast<double>(8 * b + 4 * h + 2 * q + k);
    };
    const auto result =
        oracle::attention<double>(n, Vector(8, 1), Vector(4, 1), Vector(4, 1), rules);
    Vector positions(16);
    std::iota(positions.begin(), positions.end(), 0.0);
    EXPECT_CLOSE(result.modified, (positions));
}

TEST(OracleAttention, FloatVersionIsCloseButNotExact) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const Sizes n{.Lq = 16, .Lk = 64, .D = 32, .Dv = 8};
    const auto query = random.normals<float>(n.query_count());
    const auto key = random.normals<float>(n.key_count());
    const auto value = random.normals<float>(n.value_count());
    const auto plain = oracle::attention<oracle::PlainFloat>(n, query, key, value);
    const auto exact =
        oracle::attention<double>(n, oracle::convert<double>(query), oracle::convert<double>(key),
                                  oracle::convert<double>(value));
    const double error = support::max_abs_error(plain.output, exact.output).error;
    EXPECT_GT(error, 0.0);
    // Scores of 32 products, each off by at most about 32 eps |q||k|/sqrt(D) with |q||k| near 32.
    EXPECT_LT(error, 64 * 32 / std::sqrt(32.0) * std::numeric_limits<float>::epsilon());
}

TEST(OracleBroadcast, SizesOfOneRepeat) {
    const oracle::Broadcast<int> per_key{.values = {5, 6, 7}, .Lk = 3};
    EXPECT_EQ(per_key(1, 2, 3, 2), 7);
    const oracle::Broadcast<int> per_batch_and_query{.values = {1, 2, 3, 4}, .B = 2, .Lq = 2};
    EXPECT_EQ(per_batch_and_query(1, 9, 0, 9), 3);
    EXPECT_EQ(per_batch_and_query(0, 9, 1, 9), 2);
}

TEST(OracleNorm, LayerNorm) {
    // Mean 3, deviations -2, 0, 2, variance 8/3; with eps 4/3 the root is 2: -1, 0, 1.
    EXPECT_CLOSE(oracle::layer_norm<double>({1, 3, 5}, 3, 4.0 / 3), {-1, 0, 1});
    EXPECT_CLOSE(oracle::layer_norm<double>({1, 3, 5}, 3, 4.0 / 3, {2, 3, 4}, {10, 20, 30}),
                 {8, 20, 34});
    // Two rows of two: mean 2 and -5, deviations -1, 1 and 2, -2, eps 0.
    EXPECT_CLOSE(oracle::layer_norm<double>({1, 3, -3, -7}, 2, 0.0), {-1, 1, 1, -1});
}

TEST(OracleNorm, MeanOfSquaresMinusSquareOfMeanWouldFail) {
    // The naive variance loses everything where the mean is large; the oracle's does not.
    const double x = 1e9;
    const double mean_square = (x * x + (x + 2) * (x + 2)) / 2;
    EXPECT_NE(mean_square - (x + 1) * (x + 1), 1.0);
    EXPECT_CLOSE(oracle::layer_norm<double>({x, x + 2}, 2, 0.0), {-1, 1});
}

TEST(OracleNorm, RmsNorm) {
    // Mean square (9 + 16) / 2 = 12.5; with eps 3.5 the root is 4.
    EXPECT_CLOSE(oracle::rms_norm<double>({3, 4}, 2, 3.5), {0.75, 1});
    EXPECT_CLOSE(oracle::rms_norm<double>({3, 4}, 2, 3.5, {4, 5}), {3, 5});
}

TEST(OracleActivation, KnownValues) {
    // Phi(1) = 0.841344746068543 (Abramowitz and Stegun, table 26.1).
    EXPECT_NEAR(oracle::gelu(1.0), 0.841344746068543, 1e-15);
    EXPECT_NEAR(oracle::gelu(-1.0), -0.158655253931457, 1e-15);
    EXPECT_NEAR(oracle::gelu_tanh(1.0), oracle::gelu(1.0), 2e-4);
    EXPECT_NE(oracle::gelu_tanh(1.0), oracle::gelu(1.0));
    // tanh(sqrt(2/pi) * (2 + 0.35772)) = tanh(1.8811882...), by the formula.
    EXPECT_NEAR(oracle::gelu_tanh(2.0), 1 + std::tanh(1.8811881), 1e-7);
    EXPECT_NEAR(oracle::silu(std::log(3.0)), std::log(3.0) * 0.75, 1e-15);  // 1 / (1 + 1/3)
}

TEST(OracleActivation, FarOut) {
    for (auto activation :
         {oracle::gelu<double>, oracle::gelu_tanh<double>, oracle::silu<double>}) {
        EXPECT_EQ(activation(0.0), 0.0);
        EXPECT_EQ(activation(infinity), infinity);
        EXPECT_EQ(activation(-infinity), 0.0);
        EXPECT_EQ(activation(1e30), 1e30);
        EXPECT_EQ(activation(-1e30), 0.0);
        EXPECT_TRUE(std::isnan(activation(nan)));
    }
}

TEST(OracleLinear, RowsTimesTransposedWeight) {
    // weight [3, 2]: (1,2).(1,0) = 1, (1,2).(0,1) = 2, (1,2).(3,4) = 11; (5,6): 5, 6, 39.
    const Vector weight{1, 0, 0, 1, 3, 4};
    EXPECT_CLOSE(oracle::linear<double>({1, 2, 5, 6}, weight, 2, 3), {1, 2, 11, 5, 6, 39});
    EXPECT_CLOSE(oracle::linear<double>({1, 2}, weight, 2, 3, {10, 20, 30}), {11, 22, 41});
}

// --- The published tutorial: another hand than ours has computed these -----------------------

constexpr double published = 1e-4;  // printed to four decimals

/// x W with x [rows, inner] and W [inner, columns].
template <class X, class W>
Vector times(const X& x, const W& w, std::size_t inner) {
    const std::size_t columns = w.size() / inner;
    Vector transposed(w.size());
    for (std::size_t i = 0; i < inner; ++i)
        for (std::size_t j = 0; j < columns; ++j) transposed[j * inner + i] = w[i * columns + j];
    return oracle::linear(oracle::convert<double>(x), transposed, inner, columns);
}

template <class Head, class Source>
oracle::Result<double> tutorial_head(const Head& w_query, const Head& w_key, const Vector& value,
                                     const Source& source, const Rules& rules) {
    const auto length = static_cast<Index>(source.size() / tutorial::embed_dim);
    const Sizes sizes{.Lq = static_cast<Index>(tutorial::length),
                      .Lk = length,
                      .D = static_cast<Index>(tutorial::head_dim),
                      .Dv = static_cast<Index>(value.size()) / length};
    return oracle::attention(sizes, times(tutorial::embedded, w_query, tutorial::embed_dim),
                             times(source, w_key, tutorial::embed_dim), value, rules);
}

template <class Source>
oracle::Result<double> single_head(const Source& source, const Rules& rules = {}) {
    const Vector value = times(source, tutorial::W_value, tutorial::embed_dim);
    return tutorial_head(tutorial::W_query, tutorial::W_key, value, source, rules);
}

TEST(OracleTutorial, SelfAttention) {
    const auto result = single_head(tutorial::embedded);
    const auto second_row = [](const Vector& stage) {
        return Vector(stage.begin() + tutorial::length, stage.begin() + 2 * tutorial::length);
    };
    using support::compare_within;
    EXPECT_TRUE(compare_within(second_row(result.products), tutorial::published_scores, published));
    EXPECT_TRUE(compare_within(second_row(result.weights), tutorial::published_weights, published));
    EXPECT_TRUE(compare_within(result.output, tutorial::published_self, published));
}

TEST(OracleTutorial, CausalAttention) {
    Rules causal;
    causal.visible = [](Index, Index, Index q, Index k) { return k <= q; };
    const auto result = single_head(tutorial::embedded, causal);
    const auto verdict =
        support::compare_within(result.weights, tutorial::published_causal_weights, published);
    EXPECT_TRUE(verdict) << verdict.message;
}

TEST(OracleTutorial, CrossAttention) {
    const auto result = single_head(tutorial::second_input);
    const auto verdict =
        support::compare_within(result.output, tutorial::published_cross, published);
    EXPECT_TRUE(verdict) << verdict.message;
}

TEST(OracleTutorial, FourHeadsSideBySide) {
    Vector side_by_side(tutorial::length * tutorial::num_heads);
    for (std::size_t h = 0; h < tutorial::num_heads; ++h) {
        const tutorial::Head& head = tutorial::heads[h];
        const Vector value = times(tutorial::embedded, head.W_value, tutorial::embed_dim);
        const auto result = tutorial_head(head.W_query, head.W_key, value, tutorial::embedded, {});
        for (std::size_t q = 0; q < tutorial::length; ++q)
            side_by_side[q * tutorial::num_heads + h] = result.output[q];
    }
    const auto verdict =
        support::compare_within(side_by_side, tutorial::published_heads, published);
    EXPECT_TRUE(verdict) << verdict.message;
}

TEST(OracleTutorial, ScalingByHeadDimInsteadOfItsRootWouldFail) {
    const auto result = single_head(tutorial::embedded, {.scale = 1.0 / tutorial::head_dim});
    EXPECT_FALSE(support::compare_within(result.output, tutorial::published_self, published));
}

}  // namespace
