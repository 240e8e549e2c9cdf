// Do the kernels of the backward pass do to each lane what the scalar formula says?
// Runs on the instruction set in force; ctest runs it on all of them.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

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
class BackwardKernels : public testing::Test {
  protected:
    static constexpr T infinity = std::numeric_limits<T>::infinity();
    static constexpr T not_a_number = std::numeric_limits<T>::quiet_NaN();
    static constexpr T eps = std::numeric_limits<T>::epsilon();

    const TileKernels<T>& kernels = tile_kernels<T>();
    Random random;
    Index width = 1, row = 1, keys = 1;

    void pick_sizes() {
        width = random.integer(1, max_tile_width);
        row = width * kernels.lanes;
        keys = random.integer(1, 70);
    }
    std::vector<T> normals(Index count) {
        return random.template normals<T>(static_cast<std::size_t>(count));
    }
    static T& at(std::vector<T>& x, Index n) { return x[static_cast<std::size_t>(n)]; }
};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(BackwardKernels, Scalars);

TYPED_TEST(BackwardKernels, WeightsAreExponentialsAndExactlyZeroWhereHidden) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    for (int round = 0; round < 100; ++round) {
        this->pick_sizes();
        std::vector<T> scores = this->normals(this->keys * this->row),
                       lse = this->normals(this->row);
        for (T& score : scores)
            if (this->random.chance(0.1))
                score = this->random.pick({-this->infinity, this->not_a_number});
        for (T& x : lse)
            if (this->random.chance(0.2))
                x = this->random.pick({-this->infinity, this->infinity, this->not_a_number});
        std::vector<T> weights = scores;
        this->kernels.weights[this->width - 1](weights.data(), this->keys, lse.data());
        for (Index n = 0; n < this->keys * this->row; ++n) {
            const T score = this->at(scores, n), reference = this->at(lse, n % this->row);
            const T weight = this->at(weights, n);
            if (score == -this->infinity) {
                EXPECT_EQ(support::ulp_distance(weight, T(0)), 0u);
            } else if (std::isnan(score) || std::isnan(reference)) {
                EXPECT_TRUE(std::isnan(weight));
            } else if (std::isfinite(reference)) {
                EXPECT_NEAR(weight / std::exp(score - reference), T(1), 16 * this->eps);
            }
        }
    }
}

TYPED_TEST(BackwardKernels, SlopesOfSoftCapAreThoseOfTanh) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    const Index count = 16 * this->kernels.lanes;
    std::vector<T> capped = this->normals(count), slopes = this->normals(count);
    for (T& x : capped) x = T(3) * std::tanh(x);
    const std::vector<T> before = slopes;
    this->kernels.soft_cap_slopes(capped.data(), slopes.data(), count, T(3));
    for (std::size_t n = 0; n < capped.size(); ++n) {
        const T share = capped[n] / T(3);
        EXPECT_NEAR(slopes[n], before[n] * (1 - share * share), 8 * this->eps);
    }
}

TYPED_TEST(BackwardKernels, GradientsOfScoresAreSelectedWhereAWeightIsZero) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    for (int round = 0; round < 100; ++round) {
        this->pick_sizes();
        const Index count = this->keys * this->row;
        std::vector<T> weights = this->normals(count), dropped = weights,
                       before = this->normals(count), delta = this->normals(this->row),
                       slopes = this->normals(count);
        const bool bent = this->random.chance(0.5);
        for (Index n = 0; n < count; ++n) {
            if (this->random.chance(0.2)) this->at(dropped, n) = 0;
            if (this->random.chance(0.2)) this->at(dropped, n) = this->at(weights, n) = 0;
            if (this->at(dropped, n) == 0) this->at(before, n) = this->not_a_number;
            if (this->at(weights, n) == 0) this->at(slopes, n) = this->not_a_number;
        }
        std::vector<T> gradients = before;
        this->kernels.score_gradients[this->width - 1](weights.data(), dropped.data(),
                                                       gradients.data(), this->keys, delta.data(),
                                                       bent ? slopes.data() : nullptr);
        for (Index n = 0; n < count; ++n) {
            const T weight = this->at(weights, n), kept = this->at(dropped, n);
            const T product = kept == 0 ? T(0) : kept * this->at(before, n);
            const T expected = (product - weight * this->at(delta, n % this->row)) *
                               (bent ? this->at(slopes, n) : T(1));
            if (weight == 0) {
                EXPECT_EQ(support::ulp_distance(this->at(gradients, n), T(0)), 0u);
            } else {
                EXPECT_NEAR(this->at(gradients, n), expected, 200 * this->eps);
            }
        }
    }
}

TYPED_TEST(BackwardKernels, ProductsOfRowsAreSums) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    for (Index columns = 0; columns < 70; ++columns) {
        const Index rows = this->random.integer(1, 5), a_stride = columns + 3,
                    b_stride = columns + this->random.integer(0, 4);
        std::vector<T> a = this->normals(rows * a_stride), b = this->normals(rows * b_stride + 1),
                       result(static_cast<std::size_t>(rows));
        this->kernels.row_products(a.data(), a_stride, b.data(), b_stride, rows, columns,
                                   result.data());
        for (Index i = 0; i < rows; ++i) {
            long double sum = 0;
            for (Index c = 0; c < columns; ++c)
                sum += static_cast<long double>(this->at(a, i * a_stride + c)) *
                       static_cast<long double>(this->at(b, i * b_stride + c));
            EXPECT_NEAR(this->at(result, i), static_cast<T>(sum), 500 * this->eps);
        }
    }
}

TYPED_TEST(BackwardKernels, GradientsOfKeysAreSumsOverQueries) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    for (int round = 0; round < 100; ++round) {
        this->pick_sizes();
        const Index queries = this->random.integer(1, 48), weight_row = queries + 3,
                    stride = this->row + this->random.integer(0, 9);
        std::vector<T> weights = this->normals(this->keys * weight_row),
                       rows = this->normals(queries * stride),
                       before = this->normals(this->keys * stride), gradients = before;
        heed::detail::LinesAhead ahead;
        // The first sums do not read what was there.
        const bool begins = this->random.chance(0.5);
        if (begins)
            for (Index j = 0; j < this->keys; ++j)
                std::fill_n(gradients.data() + j * stride, this->row,
                            std::numeric_limits<T>::quiet_NaN());
        (begins ? this->kernels.first_weighted_sums : this->kernels.weighted_sums)[this->width - 1](
            weights.data(), weight_row, this->keys, rows.data(), stride, queries, gradients.data(),
            stride, ahead);
        for (Index j = 0; j < this->keys; ++j)
            for (Index c = 0; c < stride; ++c) {
                const T start = begins && c < this->row ? T(0) : this->at(before, j * stride + c);
                auto sum = static_cast<long double>(start);
                for (Index i = 0; i < queries && c < this->row; ++i)
                    sum += static_cast<long double>(this->at(weights, j * weight_row + i)) *
                           static_cast<long double>(this->at(rows, i * stride + c));
                EXPECT_NEAR(this->at(gradients, j * stride + c), static_cast<T>(sum),
                            500 * this->eps);
            }
    }
}

TYPED_TEST(BackwardKernels, TermsInPartsGiveTheSumOfAllBitForBit) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    for (int round = 0; round < 100; ++round) {
        this->pick_sizes();
        const Index parts = this->random.integer(1, 5), terms = this->random.integer(0, 48),
                    part_row = terms + this->random.integer(0, 3), all = parts * terms,
                    part_step = this->keys * part_row + this->random.integer(0, 9);
        const std::vector<T> weights = this->normals(parts * part_step),
                             rows = this->normals(all * this->row);
        std::vector<T> side_by_side(static_cast<std::size_t>(this->keys * all));
        for (Index j = 0; j < this->keys; ++j)
            for (Index part = 0; part < parts; ++part)
                std::copy_n(weights.data() + part * part_step + j * part_row, terms,
                            side_by_side.data() + j * all + part * terms);
        std::vector<T> expected = this->normals(this->keys * this->row), sums = expected;
        heed::detail::LinesAhead ahead;
        this->kernels.weighted_sums[this->width - 1](side_by_side.data(), all, this->keys,
                                                     rows.data(), this->row, all, expected.data(),
                                                     this->row, ahead);
        this->kernels.weighted_sums_of_parts[this->width - 1](
            weights.data(), part_row, this->keys, parts, part_step, rows.data(), this->row, terms,
            sums.data(), this->row, ahead);
        EXPECT_EQ(sums, expected);
    }
}

TYPED_TEST(BackwardKernels, SlopesMultiplyGradientsButNotWhereAWeightIsZero) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    for (int round = 0; round < 50; ++round) {
        this->pick_sizes();
        const Index count = this->keys * this->row;
        std::vector<T> weights = this->normals(count), slopes = this->normals(count),
                       gradients = this->normals(count);
        for (Index n = 0; n < count; ++n)
            if (this->random.chance(0.2)) {
                this->at(weights, n) = 0;
                this->at(slopes, n) = this->not_a_number;
            }
        std::vector<T> result = gradients;
        this->kernels.multiply_slopes(weights.data(), slopes.data(), count, result.data());
        for (Index n = 0; n < count; ++n)
            EXPECT_EQ(this->at(result, n), this->at(weights, n) == 0
                                               ? T(0)
                                               : this->at(slopes, n) * this->at(gradients, n));
    }
}

// Whole numbers, so that every order of the sums gives the same.
TYPED_TEST(BackwardKernels, SumsRunOverLanesDiagonalsAndRows) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    for (int round = 0; round < 100; ++round) {
        this->pick_sizes();

        const auto whole = [&](Index count) {
            std::vector<T> numbers(static_cast<std::size_t>(count));
            for (T& x : numbers) x = static_cast<T>(this->random.integer(-9, 9));
            return numbers;
        };
        std::vector<T> tile = whole(this->keys * this->row);
        const std::vector<T> lanes_before = whole(this->keys),
                             diagonals_before = whole(this->keys - 1 + this->row);
        std::vector<T> of_lanes = lanes_before, of_diagonals = diagonals_before;
        std::vector<T> lanes_right = lanes_before, diagonals_right = diagonals_before;
        const Index queries = this->random.integer(1, this->row),
                    stride = this->keys + this->random.integer(0, 3);
        const std::vector<T> rows_before = whole(queries * stride);
        std::vector<T> rows = rows_before, rows_right = rows_before;
        for (Index j = 0; j < this->keys; ++j)
            for (Index i = 0; i < this->row; ++i) {
                const T x = this->at(tile, j * this->row + i);
                this->at(lanes_right, j) += x;
                this->at(diagonals_right, this->keys - 1 - j + i) += x;
                if (i < queries) this->at(rows_right, i * stride + j) += x;
            }
        this->kernels.lane_sums(tile.data(), this->row, this->keys, of_lanes.data());
        this->kernels.diagonal_sums(tile.data(), this->row, this->keys, of_diagonals.data());
        this->kernels.add_to_rows(tile.data(), this->row, this->keys, queries, rows.data(), stride);
        EXPECT_EQ(of_lanes, lanes_right);
        EXPECT_EQ(of_diagonals, diagonals_right);
        EXPECT_EQ(rows, rows_right);
    }
}

}  // namespace
