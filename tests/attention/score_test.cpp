// How does each modification change a score? Each against its formula, on scores that are exact.
#include "heed/attention/score.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "attention/attend.hpp"

namespace {

using attend::infinity;
using heed::Alignment;
using heed::Index;
using heed::ScoreIndex;
using heed::ScoreStage;
using heed::Shape;
using heed::Tensor;
using heed::TensorView;

/// Attention whose raw scores are small integers, so that sums with small dyadic numbers are exact.
template <class T>
struct Grid {
    Tensor<T, 4> q, k, v;
    Index group;

    explicit Grid(const Shape<4>& s, Index heads_per_key = 1)
        : q({s[0], s[1], s[2], 1}),
          k({s[0], s[1] / heads_per_key, s[3], 1}),
          v({s[0], s[1] / heads_per_key, s[3], 1}),
          group(heads_per_key) {
        int next = 0;
        for (Tensor<T, 4>* tensor : {&q, &k, &v})
            for (T& x : tensor->values()) x = static_cast<T>(static_cast<float>(next++ % 7 - 3));
    }

    [[nodiscard]] double score(Index b, Index h, Index i, Index j) const {
        return static_cast<double>(q(b, h, i, 0)) * static_cast<double>(k(b, h / group, j, 0));
    }

    template <class Mask>
    [[nodiscard]] attend::Outputs<T> run(const Mask& mask,
                                         ScoreStage stage = ScoreStage::masked) const {
        return attend::everything(q, k, v, mask, {.scale = 1.0, .scores_at = stage});
    }

    /// The first final score that is not exactly the given function of raw score and place.
    template <class Mask, class Formula>
    [[nodiscard]] std::string difference(const Mask& mask, const Formula& formula) const {
        const Tensor<T, 4> scores = run(mask).scores;
        for (Index b = 0; b < scores.extent(0); ++b)
            for (Index h = 0; h < scores.extent(1); ++h)
                for (Index i = 0; i < scores.extent(2); ++i)
                    for (Index j = 0; j < scores.extent(3); ++j) {
                        const auto found = static_cast<double>(scores(b, h, i, j));
                        const double expected = formula(score(b, h, i, j), b, h, i, j);
                        if (found != expected)
                            return "at " + to_string(Shape<4>(b, h, i, j)) + ": " +
                                   std::to_string(found) + " instead of " +
                                   std::to_string(expected);
                    }
        return "";
    }
};

/// One query and one key for each score: q = 1, k = the scores.
template <class T>
attend::Outputs<T> capped(const std::vector<T>& scores, double cap) {
    const Index n = std::ssize(scores);
    const Tensor<T, 4> q({1, 1, 1, 1}, {T(1)}), k({1, 1, n, 1}, scores), v({1, 1, n, 1});
    return attend::everything(q, k, v, heed::SoftCap{cap},
                              {.scale = 1.0, .scores_at = ScoreStage::capped});
}

template <class T>
void expect_soft_cap() {
    const std::vector<T> scores{-10000, -88.7f, -50, -3, -0.25f, -1e-4f, 0,  1e-30f,
                                1e-4f,  0.5f,   1,   7,  49,     51,     89, 10000};
    for (const double cap : {0.5, 2.0, 30.0, 50.0, 1e30, 1e-30}) {
        const Tensor<T, 4> found = capped(scores, cap).scores;
        for (std::size_t i = 0; i < scores.size(); ++i) {
            const auto s = static_cast<long double>(scores[i]);
            const auto expected =
                static_cast<double>(static_cast<long double>(cap) * std::tanh(s / cap));
            // Half a unit each for the cap, the quotient and the product, two for tanh, rounded up;
            // and the quotient may underflow.
            using Limits = std::numeric_limits<T>;
            const double bound = 4.0 * static_cast<double>(Limits::epsilon()) * std::abs(expected) +
                                 cap * static_cast<double>(Limits::denorm_min());
            EXPECT_NEAR(static_cast<double>(found(0, 0, 0, i)), expected, bound)
                << "score " << scores[i] << ", cap " << cap;
        }
    }
}

TEST(SoftCap, IsItsFormula) {
    expect_soft_cap<float>();
    expect_soft_cap<double>();
}

// cap 2: s = 2 -> 2 tanh 1 = 1.5231883, s = -1 -> -2 tanh 0.5 = -0.9242343
TEST(SoftCap, ByHand) {
    const Tensor<float, 4> found = capped<float>({2, -1, 0}, 2.0).scores;
    EXPECT_NEAR(found(0, 0, 0, 0), 1.5231883, 4e-7);
    EXPECT_NEAR(found(0, 0, 0, 1), -0.9242343, 2e-7);
    EXPECT_EQ(found(0, 0, 0, 2), 0.0f);
}

TEST(SoftCap, TheLargestAndSmallestCapsGiveNumbers) {
    for (const float cap : {std::numeric_limits<float>::max(), std::numeric_limits<float>::min(),
                            std::numeric_limits<float>::denorm_min()})
        for (const float score :
             attend::elements(capped<float>({-1e4f, -1, 0, 1, 1e4f}, cap).scores))
            EXPECT_TRUE(std::isfinite(score)) << "cap " << cap;
}

/// The bias that a broadcast shape means, written out in full.
template <class T>
Tensor<T, 4> expanded(TensorView<const T, 4> bias, const Shape<4>& whole) {
    Tensor<T, 4> result(whole);
    for (Index b = 0; b < whole[0]; ++b)
        for (Index h = 0; h < whole[1]; ++h)
            for (Index i = 0; i < whole[2]; ++i)
                for (Index j = 0; j < whole[3]; ++j) {
                    const auto at = [&](int d, Index n) { return bias.extent(d) == 1 ? 0 : n; };
                    result(b, h, i, j) = bias(at(0, b), at(1, h), at(2, i), at(3, j));
                }
    return result;
}

// All 16 shapes in which each dimension is 1 or full, in memory of exactly that size, so that a
// sanitizer sees the slightest step outside.
template <class T, class Bias>
void expect_every_bias_shape() {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const Shape<4> whole(3, 4, 5, 6);
    const Grid<T> grid(whole, 2);
    for (unsigned set = 0; set < 16; ++set) {
        std::array<Index, 4> extents{};
        for (int d = 0; d < 4; ++d)
            extents[static_cast<std::size_t>(d)] = set >> d & 1u ? whole[d] : 1;
        const Shape<4> shape(extents);
        const auto count = static_cast<std::size_t>(shape.element_count());
        const std::unique_ptr<Bias[]> exact(new Bias[count]);
        for (std::size_t i = 0; i < count; ++i)
            exact[i] = random.chance(0.1)
                           ? static_cast<Bias>(-infinity)
                           : static_cast<Bias>(static_cast<float>(random.integer(-20, 20)) / 4);
        const TensorView<const Bias, 4> bias(exact.get(), shape);
        const Tensor<Bias, 4> full = expanded(bias, whole);
        EXPECT_EQ(grid.difference(heed::AdditiveBias{bias},
                                  [&](double s, Index b, Index h, Index i, Index j) {
                                      return s + static_cast<double>(full(b, h, i, j));
                                  }),
                  "")
            << to_string(shape);
        const auto verdict = attend::same_bits(grid.run(heed::AdditiveBias{bias}),
                                               grid.run(heed::AdditiveBias{full}));
        EXPECT_TRUE(verdict) << to_string(shape) << ": " << verdict.message;
    }
}

TEST(AdditiveBias, BroadcastsOverEverySetOfDimensions) {
    expect_every_bias_shape<float, float>();
    expect_every_bias_shape<double, double>();
}

TEST(AdditiveBias, MayBeStoredInAnyType) {
    expect_every_bias_shape<float, heed::half>();
    expect_every_bias_shape<float, heed::bfloat16>();
    expect_every_bias_shape<float, double>();
    expect_every_bias_shape<double, float>();
    expect_every_bias_shape<heed::half, float>();
    expect_every_bias_shape<heed::bfloat16, heed::bfloat16>();
}

TEST(AdditiveBias, OfFewerDimensionsAlignsAtTheKeys) {
    const Grid<float> grid({2, 3, 4, 5});
    Tensor<float, 1> keys(5);
    Tensor<float, 2> square({4, 5});
    Tensor<float, 3> heads({3, 4, 5});
    float next = 0;
    for (float& x : keys.values()) x = next += 0.5f;
    for (float& x : square.values()) x = next += 0.5f;
    for (float& x : heads.values()) x = next += 0.5f;
    using heed::AdditiveBias;
    EXPECT_EQ(grid.difference(AdditiveBias{keys},
                              [&](double s, Index, Index, Index, Index j) { return s + keys(j); }),
              "");
    EXPECT_EQ(grid.difference(AdditiveBias{square}, [&](double s, Index, Index, Index i,
                                                        Index j) { return s + square(i, j); }),
              "");
    EXPECT_EQ(grid.difference(AdditiveBias{heads}, [&](double s, Index, Index h, Index i,
                                                       Index j) { return s + heads(h, i, j); }),
              "");
    // The counter-check: rows taken for columns are seen.
    Tensor<float, 2> columns({5, 4});
    EXPECT_THROW((void)grid.run(AdditiveBias{columns}), heed::ShapeError);
    EXPECT_NE(grid.difference(AdditiveBias{square},
                              [&](double s, Index, Index, Index i, Index j) {
                                  return s + (j < 4 ? square(i, j) : square(0, j));
                              }),
              "");
}

TEST(AdditiveBias, MayHaveAnyStrides) {
    const Grid<float> grid({2, 3, 4, 5});
    Tensor<float, 4> stored({5, 4, 2, 3});
    float next = -30;
    for (float& x : stored.values()) x = next += 0.5f;
    EXPECT_EQ(grid.difference(heed::AdditiveBias{stored.view().permute({2, 3, 1, 0})},
                              [&](double s, Index b, Index h, Index i, Index j) {
                                  return s + stored(j, i, b, h);
                              }),
              "");
    const float* const last = stored.data() + 4;
    EXPECT_EQ(grid.difference(heed::AdditiveBias{TensorView<const float, 1>(last, {5}, {-1})},
                              [&](double s, Index, Index, Index, Index j) { return s + last[-j]; }),
              "");
}

TEST(AdditiveBias, MinusInfinityHidesWhateverTheScoreIs) {
    for (const float poison : {attend::not_a_number, infinity, -infinity, 1e38f}) {
        Grid<float> grid({1, 1, 2, 4});
        const Tensor<float, 1> bias({4}, {0, -infinity, 1, -infinity});
        const auto clean = grid.run(heed::AdditiveBias{bias});
        for (const Index j : {1, 3}) grid.k(0, 0, j, 0) = grid.v(0, 0, j, 0) = poison;
        const auto poisoned = grid.run(heed::AdditiveBias{bias});
        const auto verdict = attend::same_bits(clean, poisoned);
        EXPECT_TRUE(verdict) << poison << ": " << verdict.message;
        EXPECT_EQ(poisoned.weights(0, 0, 0, 1), 0.0f);
    }
}

TEST(Alibi, SubtractsSlopeTimesDistanceOnBothSides) {
    const Grid<float> grid({2, 4, 5, 7}, 2);
    const Tensor<float, 1> slopes({4}, {0.5f, 0.25f, 0.125f, 2.0f});
    for (const Index offset : {-2, 0, 2, 9})
        EXPECT_EQ(grid.difference(heed::Alibi{slopes, Alignment::offset(offset)},
                                  [&](double s, Index, Index h, Index i, Index j) {
                                      return s - slopes(h) * std::abs(double(i + offset - j));
                                  }),
                  "")
            << offset;
    EXPECT_EQ(grid.difference(heed::Alibi{slopes, Alignment::bottom_right()},
                              [&](double s, Index, Index h, Index i, Index j) {
                                  return s - slopes(h) * std::abs(double(i + 2 - j));
                              }),
              "");
}

TEST(Alibi, SlopesMayDifferInEachBatchElement) {
    const Grid<float> grid({2, 2, 3, 3});
    const Tensor<float, 2> slopes({2, 2}, {0.5f, 0.25f, 1.0f, 4.0f});
    EXPECT_EQ(grid.difference(heed::Alibi{slopes},
                              [&](double s, Index b, Index h, Index i, Index j) {
                                  return s - slopes(b, h) * std::abs(double(i - j));
                              }),
              "");
    const std::array<Index, 2> offsets{3, -1};
    EXPECT_EQ(grid.difference(heed::Alibi{slopes, Alignment::offsets(offsets)},
                              [&](double s, Index b, Index h, Index i, Index j) {
                                  const Index p = i + offsets[static_cast<std::size_t>(b)];
                                  return s - slopes(b, h) * std::abs(double(p - j));
                              }),
              "");
}

TEST(Alibi, OneSlopeServesAllHeads) {
    const Grid<float> grid({2, 3, 3, 3});
    const Tensor<float, 1> slope({1}, {0.5f});
    EXPECT_EQ(grid.difference(heed::Alibi{slope},
                              [&](double s, Index, Index, Index i, Index j) {
                                  return s - 0.5 * std::abs(double(i - j));
                              }),
              "");
}

// Press et al., "Train short, test long", section 3: "for our models that have 8 heads, the slopes
// that we used are the geometric sequence 1/2, 1/4, ..., 1/256".
TEST(AlibiSlopes, PublishedForEightHeads) {
    const Tensor<double, 1> slopes = heed::alibi_slopes<double>(8);
    const std::vector<double> published{1. / 2,  1. / 4,  1. / 8,   1. / 16,
                                        1. / 32, 1. / 64, 1. / 128, 1. / 256};
    EXPECT_EQ(attend::elements(slopes), published);
}

// The same, for 16 heads: 1/2^0.5, 1/2^1, ..., 1/2^8. For 12 heads the authors' code takes the
// slopes of 8 and then every second one of 16: 2^-0.5, 2^-1.5, 2^-2.5, 2^-3.5.
TEST(AlibiSlopes, PublishedForSixteenAndTwelveHeads) {
    const Tensor<double, 1> sixteen = heed::alibi_slopes<double>(16);
    for (Index h = 0; h < 16; ++h)
        EXPECT_DOUBLE_EQ(sixteen(h), std::pow(2.0, -0.5 * static_cast<double>(h + 1)));
    const Tensor<double, 1> twelve = heed::alibi_slopes<double>(12);
    const std::vector<double> published{0.5,
                                        0.25,
                                        0.125,
                                        0.0625,
                                        0.03125,
                                        0.015625,
                                        0.0078125,
                                        0.00390625,
                                        0.7071067811865476,
                                        0.35355339059327379,
                                        0.17677669529663689,
                                        0.088388347648318447};
    ASSERT_EQ(twelve.element_count(), 12);
    for (std::size_t h = 0; h < 12; ++h) EXPECT_DOUBLE_EQ(twelve(h), published[h]) << h;
}

/// The recursion of the authors' code.
std::vector<double> slopes_by_recursion(Index heads) {
    const double log = std::log2(static_cast<double>(heads));
    std::vector<double> slopes;
    if (log == std::floor(log)) {
        const double start = std::exp2(-std::exp2(3.0 - log));
        for (Index h = 0; h < heads; ++h)
            slopes.push_back(start * std::pow(start, static_cast<double>(h)));
        return slopes;
    }
    const auto whole = Index{1} << static_cast<int>(std::floor(log));
    slopes = slopes_by_recursion(whole);
    const std::vector<double> doubled = slopes_by_recursion(2 * whole);
    for (std::size_t h = 0; std::ssize(slopes) < heads; h += 2) slopes.push_back(doubled[h]);
    return slopes;
}

TEST(AlibiSlopes, EqualTheAuthorsRecursionForAnyNumberOfHeads) {
    for (Index heads = 1; heads <= 130; ++heads) {
        const Tensor<double, 1> slopes = heed::alibi_slopes<double>(heads);
        const Tensor<float, 1> floats = heed::alibi_slopes<float>(heads);
        const std::vector<double> expected = slopes_by_recursion(heads);
        ASSERT_EQ(slopes.element_count(), heads);
        for (Index h = 0; h < heads; ++h) {
            const double slope = expected[static_cast<std::size_t>(h)];
            EXPECT_NEAR(slopes(h), slope, 1e-14 * slope) << heads << " heads, head " << h;
            EXPECT_FLOAT_EQ(floats(h), static_cast<float>(slope));
        }
    }
}

TEST(AlibiSlopes, NeedAHead) {
    for (const Index heads : {Index{0}, Index{-1}, std::numeric_limits<Index>::min()}) {
        try {
            (void)heed::alibi_slopes<float>(heads);
            ADD_FAILURE() << heads << " heads accepted";
        } catch (const heed::ArgumentError& error) {
            EXPECT_EQ(std::string(error.what()),
                      "[alibi_slopes] there must be a head; found heads " + std::to_string(heads));
        }
    }
}

struct Tilt {
    float slope;
    float operator()(float score, ScoreIndex at) const {
        return score - slope * static_cast<float>(at.q - at.k);
    }
};

TEST(ScoreFunction, IsCalledWithScoreAndPlace) {
    const Grid<float> grid({2, 4, 3, 5}, 2);
    const auto place = [](double s, Index b, Index h, Index i, Index j) {
        return s + 1000. * double(b) + 100. * double(h) + 10. * double(i) + double(j);
    };
    EXPECT_EQ(grid.difference(
                  [](float s, ScoreIndex at) {
                      return s + static_cast<float>(1000 * at.b + 100 * at.h + 10 * at.q + at.k);
                  },
                  place),
              "");
    EXPECT_EQ(grid.difference(Tilt{0.5f}, [](double s, Index, Index, Index i,
                                             Index j) { return s - 0.5 * double(i - j); }),
              "");
}

TEST(ScoreFunction, WorksInTheComputeTypeOfItsAttention) {
    const Grid<double> grid({1, 2, 3, 5});
    // 2^-40 disappears from a float that is about 1.
    EXPECT_EQ(grid.difference([](auto s, ScoreIndex) { return s + 0x1p-40; },
                              [](double s, Index, Index, Index, Index) { return s + 0x1p-40; }),
              "");
    const Grid<heed::half> halves({1, 2, 3, 5});
    EXPECT_EQ(halves.difference(Tilt{0.5f}, [](double s, Index, Index, Index i,
                                               Index j) { return s - 0.5 * double(i - j); }),
              "");
}

TEST(ScoreFunction, MinusInfinityHidesTheKey) {
    const auto even_keys = [](float s, ScoreIndex at) { return at.k % 2 == 0 ? s : -infinity; };
    Grid<float> grid({1, 1, 3, 6});
    const auto clean = grid.run(even_keys);
    for (const Index j : {1, 3, 5}) grid.k(0, 0, j, 0) = grid.v(0, 0, j, 0) = attend::not_a_number;
    const auto poisoned = grid.run(even_keys);
    EXPECT_TRUE(attend::same_bits(clean, poisoned)) << attend::same_bits(clean, poisoned).message;
    EXPECT_EQ(clean.weights(0, 0, 0, 1), 0.0f);
    const auto nothing = grid.run([](float, ScoreIndex) { return -infinity; });
    EXPECT_EQ(nothing.out(0, 0, 0, 0), 0.0f);
    EXPECT_EQ(nothing.lse(0, 0, 0), -infinity);
}

TEST(ScoreFunction, ANaNSpoilsItsRowAndNoOther) {
    const Grid<float> grid({1, 1, 3, 6});
    const auto clean = grid.run(heed::NoMask{});
    const auto spoiled = grid.run(
        [](float s, ScoreIndex at) { return at.q == 1 && at.k == 4 ? attend::not_a_number : s; });
    for (Index i = 0; i < 3; ++i) {
        EXPECT_EQ(std::isnan(spoiled.out(0, 0, i, 0)), i == 1);
        EXPECT_EQ(std::isnan(spoiled.lse(0, 0, i)), i == 1);
        if (i == 1) continue;
        EXPECT_EQ(spoiled.out(0, 0, i, 0), clean.out(0, 0, i, 0));
    }
}

// scale 1, cap 2, bias 0.5, key 2 hidden: the raw scores 2, -1, 0 at each stage.
TEST(ScoreStages, ShowTheScoreOnItsWay) {
    const Tensor<float, 4> q({1, 1, 1, 1}, {1}), k({1, 1, 3, 1}, {4, -2, 0}), v({1, 1, 3, 1});
    const Tensor<float, 1> bias({1}, {0.5f});
    const Tensor<bool, 1> blocked({3}, {false, false, true});
    const auto mask = heed::SoftCap{2} & heed::AdditiveBias{bias} & heed::BlockWhere{blocked};
    const auto at = [&](ScoreStage stage) {
        return attend::elements(
            attend::everything(q, k, v, mask, {.scale = 0.5, .scores_at = stage}).scores);
    };
    EXPECT_EQ(at(ScoreStage::scaled), (std::vector<float>{2, -1, 0}));
    const std::vector<float> capped_scores = at(ScoreStage::capped);
    EXPECT_FLOAT_EQ(capped_scores[0], 1.5231883f);
    EXPECT_FLOAT_EQ(capped_scores[1], -0.92423431f);
    EXPECT_EQ(capped_scores[2], 0.0f);
    const std::vector<float> masked = at(ScoreStage::masked);
    EXPECT_EQ(masked[0], capped_scores[0] + 0.5f);
    EXPECT_EQ(masked[1], capped_scores[1] + 0.5f);
    EXPECT_EQ(masked[2], -infinity);
}

}  // namespace
