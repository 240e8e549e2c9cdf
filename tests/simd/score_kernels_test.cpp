// Do the kernels that change scores and weights do to each lane what the scalar formula says?
// Runs on the instruction set in force; ctest runs it on all of them.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "heed/ops/dropout.hpp"
#include "heed/simd/dispatch.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"

namespace {

using heed::Index;
using heed::detail::max_tile_width;
using heed::detail::tile_kernels;
using heed::detail::TileKernels;
using support::Random;

template <class T>
class ScoreKernels : public testing::Test {
  protected:
    static constexpr T infinity = std::numeric_limits<T>::infinity();
    static constexpr T not_a_number = std::numeric_limits<T>::quiet_NaN();

    const TileKernels<T>& kernels = tile_kernels<T>();
    Random random;

    /// A tile of scores with some hidden ones, and some that are no numbers.
    struct Tile {
        Index width, row, queries, keys;
        std::vector<T> scores;
        T& at(Index i, Index j) { return scores[static_cast<std::size_t>(j * row + i)]; }
    };
    Tile random_tile() {
        Tile tile{};
        tile.width = random.integer(1, max_tile_width);
        tile.row = tile.width * kernels.lanes;
        tile.queries = random.integer(1, tile.row);
        tile.keys = random.integer(1, 70);
        tile.scores = random.template normals<T>(static_cast<std::size_t>(tile.row * tile.keys), 4);
        for (T& score : tile.scores) {
            if (random.chance(0.05)) score = -infinity;
            if (random.chance(0.02)) score = not_a_number;
        }
        return tile;
    }
};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(ScoreKernels, Scalars);

template <class T>
void expect_same(T actual, T expected, const char* what) {
    EXPECT_EQ(support::ulp_distance(actual, expected), 0u)
        << what << ": " << actual << ", not " << expected;
}

TYPED_TEST(ScoreKernels, WeightsAreExponentials) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    // x log2 e has the relative errors of the constant and of its own rounding; in the exponent
    // they count x times. Far from the largest score, where x is large, the weight is as small.
    const T lowest = std::log(std::numeric_limits<T>::min());
    const auto lanes = static_cast<std::size_t>(this->kernels.lanes);
    const std::size_t keys = 5000;
    std::vector<T> scores(keys * lanes), max(lanes), sum(lanes, T(0));
    for (T& m : max) m = static_cast<T>(this->random.normal());
    for (T& score : scores)
        score = static_cast<T>(this->random.uniform(static_cast<double>(lowest) + 4, 4.0));
    std::vector<T> weights = scores;
    this->kernels.exponentiate[0](weights.data(), static_cast<Index>(keys), max.data(), sum.data());
    for (std::size_t n = 0; n < scores.size(); ++n) {
        const T x = scores[n] - max[n % lanes];
        const T expected = static_cast<T>(std::exp(static_cast<long double>(x)));
        const auto error = support::ulp_distance(weights[n], expected);
        EXPECT_LE(static_cast<double>(error), 2 + 2 * static_cast<double>(std::abs(x)))
            << "exp(" << x << ") became " << weights[n] << ", not " << expected;
    }
}

TYPED_TEST(ScoreKernels, WeightsAreExactAtTheEnds) {
    using T = TypeParam;
    const auto lanes = static_cast<std::size_t>(this->kernels.lanes);
    const T lowest = std::log(std::numeric_limits<T>::min());
    const auto weight_of = [&](T score, T largest) {
        std::vector<T> scores(lanes, score), max(lanes, largest), sum(lanes, T(0));
        this->kernels.exponentiate[0](scores.data(), 1, max.data(), sum.data());
        EXPECT_EQ(support::ulp_distance(sum[0], scores[0]), 0u);
        return scores[lanes - 1];
    };
    constexpr T huge = std::numeric_limits<T>::max();
    EXPECT_EQ(weight_of(T(7), T(7)), T(1));
    EXPECT_EQ(weight_of(huge, huge), T(1));
    EXPECT_EQ(weight_of(-huge, -huge), T(1));
    EXPECT_EQ(weight_of(-huge, huge), T(0));
    EXPECT_EQ(weight_of(-this->infinity, T(7)), T(0));
    EXPECT_EQ(weight_of(-this->infinity, -this->infinity), T(0));
    EXPECT_EQ(weight_of(lowest - T(1), T(0)), T(0));
    EXPECT_GT(weight_of(lowest + T(1), T(0)), T(0));
    EXPECT_TRUE(std::isnan(weight_of(this->not_a_number, T(7))));
    EXPECT_TRUE(std::isnan(weight_of(this->infinity, this->infinity)));
}

TYPED_TEST(ScoreKernels, SoftCapIsTanhWithinFewUnitsOfTheLastPlace) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    const auto lanes = static_cast<std::size_t>(this->kernels.lanes);
    std::vector<T> scores = {0,       T(-0.0),  T(1e-30), T(-1e-30),
                             T(1e30), T(-1e30), T(9),     T(-9),
                             T(19.9), T(20.1),  T(-40),   std::numeric_limits<T>::max()};
    for (int i = 0; i < 20000; ++i)
        scores.push_back(
            static_cast<T>(this->random.normal() * std::exp(this->random.uniform(-20, 4))));
    scores.resize((scores.size() + lanes - 1) / lanes * lanes);
    for (const T cap : {T(1), T(0.37), T(50)}) {
        std::vector<T> capped = scores;
        this->kernels.soft_cap(capped.data(), static_cast<Index>(capped.size()), cap);
        for (std::size_t n = 0; n < scores.size(); ++n) {
            const long double x =
                static_cast<long double>(scores[n]) / static_cast<long double>(cap);
            const T expected = static_cast<T>(static_cast<long double>(cap) * std::tanh(x));
            EXPECT_LE(support::ulp_distance(capped[n], expected), 8u)
                << scores[n] << " with cap " << cap << " became " << capped[n] << ", not "
                << expected;
            EXPECT_LE(std::abs(capped[n]), cap);
        }
    }
}

TYPED_TEST(ScoreKernels, SoftCapSaturatesAtInfinityAndKeepsNaN) {
    using T = TypeParam;
    std::vector<T> scores(static_cast<std::size_t>(this->kernels.lanes), T(0));
    scores[0] = this->infinity;
    scores[1] = -this->infinity;
    this->kernels.soft_cap(scores.data(), this->kernels.lanes, T(3));
    EXPECT_EQ(scores[0], T(3));
    EXPECT_EQ(scores[1], T(-3));
    scores[0] = this->not_a_number;
    this->kernels.soft_cap(scores.data(), this->kernels.lanes, T(3));
    EXPECT_TRUE(std::isnan(scores[0]));
}

TYPED_TEST(ScoreKernels, BiasIsAddedToEachQueryAndHidesWhereItIsMinusInfinity) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    for (int round = 0; round < 300; ++round) {
        auto tile = this->random_tile();
        const Index stride = this->random.chance(0.2) ? 0 : tile.keys + this->random.integer(0, 3);
        std::vector<T> bias = this->random.template normals<T>(
            static_cast<std::size_t>(stride * (tile.queries - 1) + tile.keys));
        for (T& b : bias)
            if (this->random.chance(0.1))
                b = this->random.pick({-this->infinity, this->infinity, T(0)});
        auto before = tile;
        this->kernels.add_bias(tile.scores.data(), tile.row, bias.data(), stride, tile.queries,
                               tile.keys);
        for (Index i = 0; i < tile.queries; ++i)
            for (Index j = 0; j < tile.keys; ++j) {
                const T b = bias[static_cast<std::size_t>(i * stride + j)], s = before.at(i, j);
                const bool hidden = b == -this->infinity || s == -this->infinity;
                expect_same(tile.at(i, j), hidden ? -this->infinity : s + b, "score");
            }
    }
}

TYPED_TEST(ScoreKernels, FlagsHideInBothPolarities) {
    SCOPED_TRACE(this->random.describe());
    for (int round = 0; round < 300; ++round) {
        auto tile = this->random_tile();
        const bool visible = this->random.chance(0.5);
        const Index stride = this->random.chance(0.2) ? 0 : tile.keys + this->random.integer(0, 3);
        std::vector<std::uint8_t> flags(
            static_cast<std::size_t>(stride * (tile.queries - 1) + tile.keys));
        for (std::uint8_t& flag : flags)
            flag = this->random.template pick<std::uint8_t>({0, 0, 1, 2, 128, 255});
        auto before = tile;
        this->kernels.hide_flagged(tile.scores.data(), tile.row, flags.data(), stride, tile.queries,
                                   tile.keys, visible);
        for (Index i = 0; i < tile.queries; ++i)
            for (Index j = 0; j < tile.keys; ++j) {
                const bool seen = (flags[static_cast<std::size_t>(i * stride + j)] != 0) == visible;
                expect_same(tile.at(i, j), seen ? before.at(i, j) : -this->infinity, "score");
            }
    }
}

TYPED_TEST(ScoreKernels, DiagonalsAddWhatBelongsToADistance) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    for (int round = 0; round < 300; ++round) {
        auto tile = this->random_tile();
        std::vector<T> bias =
            this->random.template normals<T>(static_cast<std::size_t>(tile.keys - 1 + tile.row));
        for (T& b : bias)
            if (this->random.chance(0.1)) b = this->random.pick({-this->infinity, this->infinity});
        auto before = tile;
        this->kernels.add_diagonals(tile.scores.data(), tile.row, tile.keys, bias.data());
        for (Index i = 0; i < tile.queries; ++i)
            for (Index j = 0; j < tile.keys; ++j) {
                const T b = bias[static_cast<std::size_t>(tile.keys - 1 - j + i)];
                const T s = before.at(i, j);
                const bool hidden = b == -this->infinity || s == -this->infinity;
                expect_same(tile.at(i, j), hidden ? -this->infinity : s + b, "score");
            }
    }
}

TYPED_TEST(ScoreKernels, DropoutKeepsWhatTheScalarRuleKeeps) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    for (int round = 0; round < 300; ++round) {
        auto tile = this->random_tile();
        const heed::Dropout dropout{.probability = this->random.pick({0.1, 0.5, 0.999, 1.0}),
                                    .seed = this->random.bits(),
                                    .call = static_cast<std::uint32_t>(this->random.bits())};
        const heed::detail::DropoutRule rule("test", dropout);
        const auto head = static_cast<std::uint32_t>(this->random.bits());
        const auto query = static_cast<std::uint32_t>(this->random.integer(0, 5000));
        const auto key = static_cast<std::uint64_t>(this->random.integer(0, Index{1} << 34));
        auto before = tile;
        const T scale = static_cast<T>(rule.scale());
        this->kernels.drop(tile.scores.data(), tile.row, tile.keys, rule.tile(head, query, key),
                           scale);
        for (Index i = 0; i < tile.queries; ++i)
            for (Index j = 0; j < tile.keys; ++j) {
                const bool kept = rule.keeps(head, query + static_cast<std::uint32_t>(i),
                                             key + static_cast<std::uint64_t>(j));
                expect_same(tile.at(i, j), kept ? before.at(i, j) * scale : T(0), "weight");
            }
    }
}

}  // namespace
