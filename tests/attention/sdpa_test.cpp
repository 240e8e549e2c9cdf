// Is the result right? Fixtures that a pencil can follow, and random cases against the oracle.
#include <gtest/gtest.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "attention/attend.hpp"
#include "attention/judge.hpp"
#include "attention/random_case.hpp"
#include "heed/attention/explain.hpp"
#include "heed/base/thread_pool.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "tensor/strided.hpp"

namespace {

using attend::elements;
using attend::everything;
using attend::infinity;
using heed::AttentionShape;
using heed::bfloat16;
using heed::ComputeType;
using heed::half;
using heed::Index;
using heed::ScoreStage;
using heed::Shape;
using heed::Tensor;
using heed::TensorView;

// q . k = 1 and 0, scale 1/sqrt(1): the scores ln 3 and 0 have the exponentials 3 and 1, so the
// weights 3/4 and 1/4, the log-sum-exp ln 4, and out = 3/4 * 8 + 1/4 * 16 = 10.
TEST(Fixture, OneQueryTwoKeys) {
    const float ln3 = std::log(3.0f);
    const Tensor<float, 4> q({1, 1, 1, 1}, {1}), k({1, 1, 2, 1}, {ln3, 0}),
        v({1, 1, 2, 1}, {8, 16});
    const auto result = everything(q, k, v);
    EXPECT_FLOAT_EQ(result.scores(0, 0, 0, 0), ln3);
    EXPECT_EQ(result.scores(0, 0, 0, 1), 0.0f);
    EXPECT_FLOAT_EQ(result.weights(0, 0, 0, 0), 0.75f);
    EXPECT_FLOAT_EQ(result.weights(0, 0, 0, 1), 0.25f);
    EXPECT_FLOAT_EQ(result.lse(0, 0, 0), std::log(4.0f));
    EXPECT_FLOAT_EQ(result.out(0, 0, 0, 0), 10.0f);
}

// head_dim 4, so the scale is 1/2. q = (1,2,0,1).
//   k0 = (2,0,5,0): q.k = 2, score 1     k1 = (0,1,0,-2): q.k = 0, score 0
//   k2 = (1,1,1,1): q.k = 4, score 2
// exp: e, 1, e^2; sum 2.7182818 + 1 + 7.3890561 = 11.1073379
// weights 0.2447285, 0.0900306, 0.6652410
// v = (1,0), (0,1), (10,10): out = 0.2447285 + 6.6524096 = 6.8971381,
//                                  0.0900306 + 6.6524096 = 6.7424402
TEST(Fixture, DefaultScaleIsOneOverTheRootOfHeadDim) {
    const Tensor<float, 4> q({1, 1, 1, 4}, {1, 2, 0, 1});
    const Tensor<float, 4> k({1, 1, 3, 4}, {2, 0, 5, 0, 0, 1, 0, -2, 1, 1, 1, 1});
    const Tensor<float, 4> v({1, 1, 3, 2}, {1, 0, 0, 1, 10, 10});
    const auto result = everything(q, k, v);
    EXPECT_EQ(elements(result.scores), (std::vector<float>{1, 0, 2}));
    EXPECT_NEAR(result.weights(0, 0, 0, 0), 0.2447285, 1e-7);
    EXPECT_NEAR(result.weights(0, 0, 0, 1), 0.0900306, 1e-7);
    EXPECT_NEAR(result.weights(0, 0, 0, 2), 0.6652410, 1e-7);
    EXPECT_NEAR(result.out(0, 0, 0, 0), 6.8971381, 2e-6);
    EXPECT_NEAR(result.out(0, 0, 0, 1), 6.7424402, 2e-6);
    EXPECT_NEAR(result.lse(0, 0, 0), std::log(11.1073379), 1e-6);
}

// Equal scores: a causal row i is the mean of v[0..i]. v = 2, 4, 9 -> 2, 3, 5.
TEST(Fixture, CausalMeans) {
    const Tensor<double, 4> zero({1, 1, 3, 1}), v({1, 1, 3, 1}, {2, 4, 9});
    const auto out = heed::scaled_dot_product_attention(zero, zero, v, heed::Causal{});
    EXPECT_EQ(elements(out), (std::vector<double>{2, 3, 5}));
}

// Query heads 0, 1 read kv head 0, query heads 2, 3 read kv head 1.
TEST(Fixture, GroupsOfQueryHeadsShareAKeyHead) {
    const Tensor<float, 4> q({1, 4, 1, 1}), k({1, 2, 1, 1}), v({1, 2, 1, 1}, {5, 7});
    const auto out = heed::scaled_dot_product_attention(q, k, v);
    EXPECT_EQ(elements(out), (std::vector<float>{5, 5, 7, 7}));
    // The counter-check: mapped with a modulo, the heads would read 5, 7, 5, 7.
    std::vector<float> modulo;
    for (Index h = 0; h < 4; ++h) modulo.push_back(v(0, h % 2, 0, 0));
    EXPECT_NE(elements(out), modulo);
}

// scale -1 turns the fixture of ln 3 around: scores -ln 3 and 0, weights 1/4 and 3/4.
TEST(Fixture, ZeroAndNegativeScalesAreMeantAsGiven) {
    const Tensor<float, 4> q({1, 1, 1, 1}, {1}), k({1, 1, 2, 1}, {std::log(3.0f), 0}),
        v({1, 1, 2, 1}, {8, 16});
    const auto negative = everything(q, k, v, heed::NoMask{}, {.scale = -1.0});
    EXPECT_FLOAT_EQ(negative.out(0, 0, 0, 0), 8 * 0.25f + 16 * 0.75f);
    const auto zero = everything(q, k, v, heed::NoMask{}, {.scale = 0.0});
    EXPECT_EQ(elements(zero.weights), (std::vector<float>{0.5f, 0.5f}));
    EXPECT_EQ(zero.out(0, 0, 0, 0), 12.0f);
}

// p = 1/2 doubles what is kept: with equal weights 1/2 and values 8 and 16, the output is one of
// 0, 8, 16 and 24, and the weights that are returned stay 1/2.
TEST(Fixture, DropoutDoublesWhatItKeepsOfAHalf) {
    const Tensor<float, 4> q({1, 1, 64, 1}), k({1, 1, 2, 1}), v({1, 1, 2, 1}, {8, 16});
    const auto result =
        everything(q, k, v, heed::NoMask{}, {.dropout = {.probability = 0.5, .seed = 3}});
    std::array<int, 4> seen{};
    for (float x : result.out.values()) {
        ASSERT_TRUE(x == 0 || x == 8 || x == 16 || x == 24) << x;
        ++seen[static_cast<std::size_t>(x / 8)];
    }
    for (int count : seen) EXPECT_GT(count, 0);
    for (float w : result.weights.values()) EXPECT_EQ(w, 0.5f);
}

TEST(Fixture, HeadDimZeroHasScoresOfZeroAndAverages) {
    const Tensor<float, 4> q({1, 1, 2, 0}), k({1, 1, 2, 0}), v({1, 1, 2, 1}, {2, 4});
    const auto result = everything(q, k, v);
    EXPECT_EQ(elements(result.out), (std::vector<float>{3, 3}));
    EXPECT_EQ(elements(result.scores), (std::vector<float>{0, 0, 0, 0}));
}

/// How many random cases for a combination of types: a share of HEED_TEST_CASES, 3000 where absent.
int random_cases(double share) {
    const char* text = std::getenv("HEED_TEST_CASES");
    int cases = 3000;
    if (text != nullptr) std::from_chars(text, text + std::strlen(text), cases);
    return std::max(1, static_cast<int>(cases * share));
}

/// An input in memory of its own, in random order, with gaps of NaN, perhaps backwards, perhaps
/// with a dimension that repeats one element.
template <class T>
class Input {
  public:
    Input(support::Random& random, const Shape<4>& shape)
        : memory_(random, stored_shape(random, shape), static_cast<T>(attend::not_a_number)),
          view_(heed::broadcast_to(memory_.const_view(), shape)) {
        const auto count = static_cast<std::size_t>(memory_.view().element_count());
        memory_.assign(random.normals<float>(count, 1.5));
    }

    [[nodiscard]] TensorView<const T, 4> view() const { return view_; }

    [[nodiscard]] std::vector<double> dense() const {
        std::vector<double> values;
        support::for_each_position(view_.shape(), [&](const auto& at) {
            values.push_back(static_cast<double>(*support::address(view_, at)));
        });
        return values;
    }

  private:
    static Shape<4> stored_shape(support::Random& random, Shape<4> shape) {
        for (int d = 0; d < 4; ++d)
            if (shape[d] > 0 && random.chance(0.04)) shape = shape.with(d, 1);
        return shape;
    }

    support::Strided<T, 4> memory_;
    TensorView<const T, 4> view_;
};

/// An output in random order among gaps.
template <class T, int Rank>
class Output {
  public:
    Output(support::Random& random, const Shape<Rank>& shape)
        : memory_(random, shape, static_cast<T>(attend::not_a_number)) {}

    [[nodiscard]] TensorView<T, Rank> view() const { return memory_.view(); }

    [[nodiscard]] std::vector<double> values() const {
        std::vector<double> result;
        support::for_each_position(memory_.view().shape(), [&](const auto& at) {
            result.push_back(static_cast<double>(*support::address(memory_.view(), at)));
        });
        return result;
    }
    [[nodiscard]] bool gaps_untouched() const { return memory_.gaps_untouched(); }

  private:
    support::Strided<T, Rank> memory_;
};

/// The dropout mask, read off an attention with equal weights and the unit matrix as values.
std::vector<bool> kept_by(const AttentionShape& s, const heed::Dropout& dropout) {
    const Tensor<float, 4> q({s.batch, s.heads, s.q_len, 1}), k({s.batch, 1, s.kv_len, 1});
    Tensor<float, 4> v({s.batch, 1, s.kv_len, s.kv_len});
    for (Index b = 0; b < s.batch; ++b)
        for (Index j = 0; j < s.kv_len; ++j) v(b, 0, j, j) = 1;
    const auto out =
        heed::scaled_dot_product_attention(q, k, v, heed::NoMask{}, {.dropout = dropout});
    std::vector<bool> kept;
    for (float x : out.values()) kept.push_back(x > 0);
    return kept;
}

enum class Kind { none, all, all_and_cap, packed, window };

/// What a run of random cases has seen.
struct Tally {
    double worst_of_bound = 0;  ///< the largest error, as a share of what is allowed
    int judged = 0;
    int within_twice_plain = 0;  ///< without the floor of roundings
    int on_threads = 0;

    void add(const support::Verdict& verdict) {
        ++judged;
        if (verdict.error <= 2 * verdict.plain_error) ++within_twice_plain;
        if (verdict.error > 0)
            worst_of_bound = std::max(worst_of_bound, verdict.error / verdict.bound);
    }
};

std::ostream& operator<<(std::ostream& out, const Tally& tally) {
    return out << tally.judged << " results judged, worst error " << tally.worst_of_bound
               << " of the bound; " << tally.within_twice_plain
               << " within twice the plain version's alone; " << tally.on_threads
               << " cases on several threads";
}

/// Sizes that are worth several threads.
AttentionShape sizes_for_threads(support::Random& random) {
    const Index kv_heads = random.integer(1, 2);
    return {.batch = random.integer(1, 2),
            .heads = 2 * kv_heads,
            .kv_heads = kv_heads,
            .q_len = random.integer(60, 120),
            .kv_len = random.integer(130, 280),
            .head_dim = random.integer(40, 80),
            .value_dim = random.integer(40, 80)};
}

/// One attention of random sizes, strides, masks, options and executor, judged by the oracle.
template <class Q, class K, class V>
void expect_random_case(support::Random& random, Tally& tally) {
    using C = ComputeType<Q>;
    AttentionShape s =
        random.chance(0.02) ? sizes_for_threads(random) : attend::random_sizes(random);
    const Kind kind = random.pick({Kind::none, Kind::all, Kind::all, Kind::all_and_cap,
                                   Kind::packed, Kind::packed, Kind::window});
    const Index height = random.integer(1, 9);
    if (kind == Kind::window) s.q_len = s.kv_len = height * random.integer(1, 9);
    const Input<Q> q(random, {s.batch, s.heads, s.q_len, s.head_dim});
    const Input<K> k(random, {s.batch, s.kv_heads, s.kv_len, s.head_dim});
    const Input<V> v(random, {s.batch, s.kv_heads, s.kv_len, s.value_dim});
    attend::RandomMasks masks(random, s);
    const attend::RandomRelatives relatives(random, s, kind == Kind::packed ? &masks : nullptr,
                                            kind == Kind::window ? height : 0);
    SCOPED_TRACE(attend::to_string(s) + "; " + masks.describe() + "; kind " +
                 std::to_string(static_cast<int>(kind)));

    heed::AttentionOptions<Q> options;
    oracle::Rules rules;
    if (random.chance(0.4))
        options.scale = random.pick({0.0, -0.7, -2.0, 0.1, 1.0, 1.7, random.normal()});
    rules.scale = options.scale;
    if (kind != Kind::none)
        rules.visible = [&](Index b, Index h, Index i, Index j) {
            return masks.visible(b, h, i, j) &&
                   (kind != Kind::packed || relatives.same_document(i, j));
        };
    if (kind != Kind::none)
        rules.modify = [&](double score, Index b, Index h, Index i, Index j) {
            if (kind == Kind::packed) score += relatives.t5_bias(i + masks.shift_of(i), h, j);
            if (kind == Kind::window) score += relatives.swin_bias(h, i, j);
            return masks.modify(score, b, h, i, j);
        };
    if (kind == Kind::packed || kind == Kind::window)
        rules.sink = [&](Index, Index h) { return static_cast<double>(relatives.sinks(h)); };
    if (kind != Kind::none && kind != Kind::all) rules.softcap = masks.cap;
    if (random.chance(0.25)) {
        options.dropout = {random.pick({0.1, 0.5, 0.9}), random.bits(),
                           static_cast<std::uint32_t>(random.bits())};
        rules.dropout = options.dropout.probability;
        rules.keep = [kept = kept_by(s, options.dropout), n = attend::sizes(s)](Index b, Index h,
                                                                                Index i, Index j) {
            return kept[n.score_at(b, h, i, j)];
        };
    }

    const Shape<4> square(s.batch, s.heads, s.q_len, s.kv_len);
    const Output<Q, 4> out(random, {s.batch, s.heads, s.q_len, s.value_dim});
    const Output<Q, 4> weights(random, square), scores(random, square);
    const Output<C, 3> lse(random, {s.batch, s.heads, s.q_len});
    // Half of the cases ask for neither weights nor scores: those may take another path.
    const bool rich = random.chance(0.5);
    const bool want_weights = rich && random.chance(0.7), want_lse = random.chance(0.5),
               want_scores = rich && random.chance(0.7);
    if (want_weights) options.weights = weights.view();
    if (want_lse) options.lse = lse.view();
    if (want_scores) options.scores = scores.view();
    options.scores_at = random.pick({ScoreStage::scaled, ScoreStage::capped, ScoreStage::masked});
    static heed::ThreadPool two(2), five(5);
    if (random.chance(0.8))
        options.executor = random.pick({heed::ExecutorRef(two), heed::ExecutorRef(five)});

    const auto run = [&](const auto& mask) {
        if (heed::explain(q.view(), k.view(), v.view(), mask, options).workers > 1)
            ++tally.on_threads;
        heed::scaled_dot_product_attention(q.view(), k.view(), v.view(), out.view(), mask, options);
    };
    switch (kind) {
        case Kind::none:
            run(heed::NoMask{});
            break;
        case Kind::all:
            run(masks.masks());
            break;
        case Kind::all_and_cap:
            run(masks.masks_and_cap());
            break;
        case Kind::packed:
            run(relatives.packed() & masks.masks_and_cap());
            break;
        case Kind::window:
            run(relatives.window() & masks.masks_and_cap());
            break;
    }

    const attend::Expected<C> e(
        s, q.dense(), k.dense(), v.dense(), rules,
        kind == Kind::none ? 0.0 : masks.added_magnitude() + relatives.added_magnitude());
    const auto check = [&](const char* name, const support::Verdict& verdict) {
        tally.add(verdict);
        EXPECT_TRUE(verdict) << name << ": " << verdict.message;
    };
    check("out", e.template judge_out<Q>(out.values()));
    if (want_weights) check("weights", e.template judge_weights<Q>(weights.values()));
    if (want_lse) check("lse", e.judge_lse(lse.values()));
    if (want_scores)
        check("scores", e.template judge_scores<Q>(scores.values(), options.scores_at));
    EXPECT_TRUE(out.gaps_untouched() && weights.gaps_untouched() && scores.gaps_untouched() &&
                lse.gaps_untouched());
}

template <class Q, class K = Q, class V = Q>
void expect_random_cases(double share) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const int cases = random_cases(share);
    std::cout << cases << " cases, " << random.describe() << std::endl;
    Tally tally;
    for (int n = 0; n < cases; ++n) {
        SCOPED_TRACE("case " + std::to_string(n));
        expect_random_case<Q, K, V>(random, tally);
        if (testing::Test::HasFailure()) return;
        if ((n + 1) % 5000 == 0) std::cout << n + 1 << " cases: " << tally << std::endl;
    }
    std::cout << "in all: " << tally << std::endl;
}

// The counter-check: answers that are wrong in the usual ways, or right to too few digits, are
// refused by the same judge.
TEST(Oracle, RefusesBrokenVersions) {
    support::Random random(1);  // of fixed seed, because a random case may be blind to one of them
    const AttentionShape s{2, 4, 2, 7, 9, 8, 5};
    const Input<float> q(random, {2, 4, 7, 8}), k(random, {2, 2, 9, 8}), v(random, {2, 2, 9, 5});
    const auto causal = [](Index, Index, Index i, Index j) { return j <= i + 2; };
    const auto bias = [](double score, Index, Index h, Index i, Index j) {
        return score + 0.3 * static_cast<double>((h + i * j) % 4);
    };
    const oracle::Rules rules{
        .scale = 1 / std::sqrt(8.0), .softcap = 1.5, .modify = bias, .visible = causal};
    const std::vector<double> dense_q = q.dense(), dense_k = k.dense(), dense_v = v.dense();
    const attend::Expected<float> e(s, dense_q, dense_k, dense_v, rules, 0.9);
    const auto accepts = [&](const std::vector<double>& out) { return e.judge_out<float>(out).ok; };
    const auto under = [&](const oracle::Rules& other) {
        return oracle::attention<double>(attend::sizes(s), dense_q, dense_k, dense_v, other).output;
    };
    const auto changed = [&](const auto& change) {
        oracle::Rules other = rules;
        change(other);
        return under(other);
    };
    EXPECT_TRUE(accepts(under(rules)));
    EXPECT_FALSE(accepts(changed([](oracle::Rules& r) { r.scale = 1.0; })));
    EXPECT_FALSE(accepts(changed([](oracle::Rules& r) { r.softcap = 0; })));
    EXPECT_FALSE(accepts(changed([](oracle::Rules& r) { r.modify = {}; })));
    EXPECT_FALSE(accepts(changed([](oracle::Rules& r) { r.visible = {}; })));
    EXPECT_FALSE(accepts(changed([](oracle::Rules& r) {
        r.visible = [](Index, Index, Index i, Index j) { return j <= i; };
    })));
    EXPECT_FALSE(accepts(changed([&](oracle::Rules& r) {
        r.softcap = 0;  // soft-cap after the bias
        r.modify = [&](double score, Index b, Index h, Index i, Index j) {
            return 1.5 * std::tanh(bias(score, b, h, i, j) / 1.5);
        };
    })));
    // Keys and values as bfloat16 would hold them, called float.
    auto coarse_v = dense_v;
    for (double& x : coarse_v) x = static_cast<float>(static_cast<bfloat16>(static_cast<float>(x)));
    EXPECT_FALSE(accepts(
        oracle::attention<double>(attend::sizes(s), dense_q, dense_k, coarse_v, rules).output));
    // One element off by a few units.
    auto nearly = under(rules);
    nearly.back() += 3e-4;
    EXPECT_FALSE(accepts(nearly));
}

TEST(Oracle, Float) {
    expect_random_cases<float>(0.4);
}
TEST(Oracle, Double) {
    expect_random_cases<double>(0.2);
}
TEST(Oracle, Half) {
    expect_random_cases<half>(0.1);
}
TEST(Oracle, Bfloat16) {
    expect_random_cases<bfloat16>(0.1);
}
TEST(Oracle, FloatQueriesOnAHalfCache) {
    expect_random_cases<float, half, half>(0.1);
}
TEST(Oracle, HalfQueriesOnFloatKeysAndBfloat16Values) {
    expect_random_cases<half, float, bfloat16>(0.1);
}

}  // namespace
