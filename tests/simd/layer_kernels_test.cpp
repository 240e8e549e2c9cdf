// Do the kernels of rows do what the scalar formula says, whatever the length of the row is?
// Runs on the instruction set in force; ctest runs it on all of them.

#include "heed/simd/layer_kernels.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "heed/simd/layer_dispatch.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"

namespace {

using heed::Activation;
using heed::Index;
using heed::detail::layer_kernels;
using heed::detail::LayerKernels;
using heed::detail::RowFinish;
using support::Random;
using Wide = long double;

constexpr Activation activations[] = {Activation::none, Activation::relu, Activation::gelu,
                                      Activation::gelu_tanh, Activation::silu};

Wide sigmoid(Wide x) {
    return 1 / (1 + std::exp(-x));
}
Wide gelu_tanh_argument(Wide x) {
    return 2 * std::sqrt(2 / std::numbers::pi_v<Wide>) * (x + 0.044715L * x * x * x);
}

Wide activated(Activation activation, Wide x) {
    switch (activation) {
        case Activation::none:
            break;
        case Activation::relu:
            return x < 0 ? 0 : x;
        case Activation::gelu:
            return x / 2 * std::erfc(-x / std::numbers::sqrt2_v<Wide>);
        case Activation::gelu_tanh:
            return x * sigmoid(gelu_tanh_argument(x));
        case Activation::silu:
            return x * sigmoid(x);
    }
    return x;
}

Wide slope(Activation activation, Wide x) {
    const Wide density = std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi_v<Wide>);
    const Wide u = gelu_tanh_argument(x);
    const Wide du = 2 * std::sqrt(2 / std::numbers::pi_v<Wide>) * (1 + 3 * 0.044715L * x * x);
    switch (activation) {
        case Activation::none:
            break;
        case Activation::relu:
            return x > 0 ? 1 : 0;
        case Activation::gelu:
            return std::erfc(-x / std::numbers::sqrt2_v<Wide>) / 2 + x * density;
        case Activation::gelu_tanh:
            return sigmoid(u) + x * sigmoid(u) * sigmoid(-u) * du;
        case Activation::silu:
            return sigmoid(x) + x * sigmoid(x) * sigmoid(-x);
    }
    return 1;
}

/// A row, with elements behind it that nobody may touch.
template <class T>
struct Row {
    std::vector<T> elements;
    std::size_t count;

    Row(Random& random, Index columns, double spread = 1)
        : elements(random.template normals<T>(static_cast<std::size_t>(columns), spread)),
          count(static_cast<std::size_t>(columns)) {
        elements.push_back(T(77));
    }
    T* data() { return elements.data(); }
    T operator[](std::size_t c) const { return elements[c]; }
    void expect_untouched() const { EXPECT_EQ(elements.back(), T(77)); }
};

template <class T>
class LayerKernelsTest : public testing::Test {
  protected:
    static constexpr T infinity = std::numeric_limits<T>::infinity();
    static constexpr Wide eps = std::numeric_limits<T>::epsilon();

    const LayerKernels<T>& kernels = layer_kernels<T>();
    Random random;

    /// Of these many columns, as short and long as kernels tell apart.
    Index columns() { return random.chance(0.3) ? random.integer(0, 20) : random.integer(1, 300); }

    static void expect_near(T found, Wide expected, Wide bound, const char* what) {
        EXPECT_LE(std::abs(static_cast<Wide>(found) - expected), bound * eps)
            << what << ": " << found << ", not " << expected;
    }
};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(LayerKernelsTest, Scalars);

/// The promised accuracy, relative to the result: 6 units in the last place, and where x is
/// negative 2 x^2 more, which the exponential of -x^2/2 has.
TYPED_TEST(LayerKernelsTest, ActivationsAreTheirFormulas) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    for (const Activation activation : activations) {
        std::vector<T> x(20'000);
        for (T& value : x) value = static_cast<T>(this->random.uniform(-9, 9));
        std::vector<T> y = x;
        this->kernels.activate(activation, y.data(), static_cast<Index>(y.size()));
        for (std::size_t n = 0; n < x.size(); ++n) {
            const Wide expected = activated(activation, x[n]);
            const Wide units = 6 + (x[n] < 0 ? 2 * Wide(x[n]) * x[n] : 0);
            this->expect_near(y[n], expected, units * std::abs(expected), "activation");
        }
    }
}

/// Slopes have 4 units in the last place of 1, the largest that they are about.
TYPED_TEST(LayerKernelsTest, GradientsOfActivationsAreTheirFormulas) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    for (const Activation activation : activations) {
        const Index count = 5001;
        Row<T> x(this->random, count, 3), dy(this->random, count), dx(this->random, count);
        this->kernels.activation_gradient(activation, x.data(), dy.data(), count, dx.data());
        for (std::size_t n = 0; n < x.count; ++n)
            this->expect_near(dx[n], slope(activation, x[n]) * dy[n], 4 * std::abs(dy[n]), "slope");
        dx.expect_untouched();
    }
}

TYPED_TEST(LayerKernelsTest, ActivationsHaveLimits) {
    using T = TypeParam;
    const T huge = std::numeric_limits<T>::max(), inf = this->infinity;
    for (const Activation activation :
         {Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::silu}) {
        std::vector<T> x = {-inf, -huge, -1000, 0,
                            1000, huge,  inf,   std::numeric_limits<T>::quiet_NaN()};
        std::vector<T> y = x, one(x.size(), T(1)), dx(x.size());
        const auto count = static_cast<Index>(x.size());
        this->kernels.activate(activation, y.data(), count);
        this->kernels.activation_gradient(activation, x.data(), one.data(), count, dx.data());
        for (std::size_t n = 0; n < 3; ++n) {
            EXPECT_EQ(y[n], T(0)) << n;
            EXPECT_EQ(dx[n], T(0)) << n;
        }
        EXPECT_EQ(y[3], T(0));
        for (std::size_t n = 4; n < 7; ++n) {
            EXPECT_EQ(y[n], x[n]) << n;
            EXPECT_EQ(dx[n], T(1)) << n;
        }
        EXPECT_TRUE(std::isnan(y[7]));
        EXPECT_TRUE(std::isnan(dx[7]));
    }
}

TYPED_TEST(LayerKernelsTest, RowsAreFinishedByTheFormula) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    for (int round = 0; round < 200; ++round) {
        const Index rows = this->random.integer(1, 5), columns = this->random.integer(1, 60);
        const Index row = columns + this->random.integer(0, 20), stride = columns + 3;
        const auto has = [&] { return this->random.chance(0.5); };
        Row<T> sums(this->random, rows * row), gate(this->random, rows * row);
        Row<T> scale(this->random, columns), bias(this->random, columns);
        Row<T> gate_scale(this->random, columns), gate_bias(this->random, columns);
        Row<T> residual(this->random, rows * stride), kept_x(this->random, rows * stride);
        Row<T> kept_g(this->random, rows * stride);
        Row<T> out(this->random, rows * stride);
        const Row<T> out_before = out;
        RowFinish<T> f;
        f.activation = activations[this->random.integer(0, 4)];
        if (has()) f.scale = scale.data();
        if (has()) f.bias = bias.data();
        if (has()) f.gate = gate.data();
        if (f.gate != nullptr && has()) f.gate_scale = gate_scale.data();
        if (f.gate != nullptr && has()) f.gate_bias = gate_bias.data();
        if (has()) f.x = {kept_x.data(), stride};
        if (has()) f.g = {kept_g.data(), stride};
        if (has()) f.residual = {residual.data(), stride};
        this->kernels.finish_rows(sums.data(), row, rows, columns, f, out.data(), stride);

        for (Index r = 0; r < rows; ++r)
            for (Index c = 0; c < stride; ++c) {
                const auto at = static_cast<std::size_t>(r * stride + c);
                const auto in = static_cast<std::size_t>(r * row + c);
                const auto column = static_cast<std::size_t>(c);
                if (c >= columns) {
                    EXPECT_EQ(out[at], out_before[at]) << "behind the columns";
                    continue;
                }
                const auto affine = [&](Wide x, const T* by, const T* plus) {
                    return x * (by == nullptr ? 1 : by[column]) +
                           (plus == nullptr ? 0 : plus[column]);
                };
                const Wide value = affine(sums[in], f.scale, f.bias);
                const Wide gated = affine(gate[in], f.gate_scale, f.gate_bias);
                const Wide result = f.gate != nullptr ? value * activated(f.activation, gated)
                                                      : activated(f.activation, value);
                const Wide added = f.residual.data != nullptr ? residual[at] : 0;
                // Sums of a few normal numbers, each step with an error of a unit or two.
                this->expect_near(out[at], result + added, 200, "result");
                if (f.x.data != nullptr) this->expect_near(kept_x[at], value, 20, "x");
                if (f.g.data != nullptr && f.gate != nullptr)
                    this->expect_near(kept_g[at], gated, 20, "g");
            }
        out.expect_untouched();
    }
}

TYPED_TEST(LayerKernelsTest, SumsAndProductsOfRows) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    for (int round = 0; round < 200; ++round) {
        const Index count = this->columns();
        Row<T> x(this->random, count), y(this->random, count);
        const T shift = static_cast<T>(this->random.normal());
        Wide sum = 0, squares = 0, plain = 0, most = -std::numeric_limits<Wide>::infinity();
        for (std::size_t c = 0; c < x.count; ++c) {
            sum += x[c];
            squares += (x[c] - Wide(shift)) * (x[c] - Wide(shift));
            plain += Wide(x[c]) * x[c];
            most = std::max<Wide>(most, x[c]);
        }
        const Wide n = static_cast<Wide>(count) + 1;
        this->expect_near(this->kernels.sum(x.data(), count), sum, 4 * n, "sum");
        this->expect_near(this->kernels.squares(x.data(), count, shift), squares, (squares + 4) * n,
                          "squares");
        EXPECT_NEAR(this->kernels.wide_squares(x.data(), count), static_cast<double>(plain),
                    1e-14 * static_cast<double>((plain + 1) * n));
        EXPECT_EQ(static_cast<Wide>(this->kernels.largest(x.data(), count)), most);

        Row<T> added = y, multiplied = y, scaled = y;
        this->kernels.add(x.data(), count, added.data());
        this->kernels.multiply(x.data(), count, multiplied.data());
        this->kernels.scale(shift, count, scaled.data());
        for (std::size_t c = 0; c < x.count; ++c) {
            EXPECT_EQ(added[c], y[c] + x[c]);
            EXPECT_EQ(multiplied[c], y[c] * x[c]);
            EXPECT_EQ(scaled[c], y[c] * shift);
        }
        added.expect_untouched();
        multiplied.expect_untouched();
        scaled.expect_untouched();
    }
}

TYPED_TEST(LayerKernelsTest, DropsTheEntriesThatPhiloxSaysWhereverTheRowBegins) {
    using T = TypeParam;
    const heed::PhiloxKey key{1, 2};
    const T scale = static_cast<T>(this->random.normal());
    const auto half = std::uint64_t{1} << 31;
    // The last begins before a carry into the second counter word.
    for (const std::uint64_t first :
         {std::uint64_t{0}, std::uint64_t{3}, std::uint64_t{997}, (std::uint64_t{1} << 34) - 70})
        for (const Index count : {0, 1, 5, 64, 131, 300})
            for (const std::uint64_t threshold : {std::uint64_t{1}, half, 2 * half}) {
                Row<T> x(this->random, count), residual(this->random, count);
                const heed::detail::DropoutTile at{key, 7, 9, 0, first, threshold};
                Row<T> alone = x, added = x, in_residual = residual;
                const auto drop = this->kernels.drop_entries;
                drop(alone.data(), nullptr, count, at, scale, alone.data());
                drop(x.data(), residual.data(), count, at, scale, added.data());
                drop(x.data(), in_residual.data(), count, at, scale, in_residual.data());
                for (std::size_t c = 0; c < x.count; ++c) {
                    const std::uint64_t entry = first + c;
                    const auto words = heed::philox({static_cast<std::uint32_t>(entry >> 2),
                                                     static_cast<std::uint32_t>(entry >> 34), 9, 7},
                                                    key);
                    const T kept = words[entry % 4] < threshold ? T(0) : x[c] * scale;
                    ASSERT_EQ(alone[c], kept) << "entry " << entry;
                    ASSERT_EQ(added[c], residual[c] + kept);
                    ASSERT_EQ(in_residual[c], added[c]);
                }
                for (const Row<T>* row : {&alone, &added, &in_residual}) row->expect_untouched();
            }
}

TYPED_TEST(LayerKernelsTest, TheLargestPassesOverNotANumber) {
    using T = TypeParam;
    std::vector<T> x = {std::numeric_limits<T>::quiet_NaN(), 1, -3};
    EXPECT_EQ(this->kernels.largest(x.data(), 3), T(1));
    EXPECT_EQ(this->kernels.largest(x.data(), 1), -this->infinity);
    EXPECT_EQ(this->kernels.largest(x.data(), 0), -this->infinity);
}

TYPED_TEST(LayerKernelsTest, ExponentialsAndTheirSum) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    for (int round = 0; round < 100; ++round) {
        const Index count = this->columns();
        Row<T> x(this->random, count, 3), e(this->random, count);
        const T most = this->kernels.largest(x.data(), count);
        const T sum = this->kernels.exponentials(x.data(), count, most, e.data());
        const T sum_alone = this->kernels.exponentials(x.data(), count, most, nullptr);
        Wide expected_sum = 0;
        for (std::size_t c = 0; c < x.count; ++c) {
            const Wide difference = static_cast<T>(x[c] - most);
            const Wide expected = std::exp(difference);
            expected_sum += expected;
            this->expect_near(e[c], expected, (3 - 2 * difference) * expected, "exp");
        }
        const Wide bound = (static_cast<Wide>(count) + 8) * (expected_sum + 1);
        this->expect_near(sum, expected_sum, bound, "sum");
        this->expect_near(sum_alone, expected_sum, bound, "sum alone");
        e.expect_untouched();
    }
}

TYPED_TEST(LayerKernelsTest, NormsAndTheirGradientsRowByRow) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    for (int round = 0; round < 200; ++round) {
        const Index count = this->columns();
        Row<T> x(this->random, count), dy(this->random, count), y(this->random, count);
        Row<T> weight(this->random, count), bias(this->random, count), dx(this->random, count);
        Row<T> dweight(this->random, count), dbias(this->random, count);
        const Row<T> dweight_before = dweight, dbias_before = dbias;
        const heed::detail::RowScale<T> by{static_cast<T>(this->random.normal()),
                                           static_cast<T>(this->random.uniform(0.5, 2))};
        const T mean = static_cast<T>(this->random.normal());
        const T along = static_cast<T>(this->random.normal());
        const T* const w = this->random.chance(0.5) ? weight.data() : nullptr;
        const T* const b = this->random.chance(0.5) ? bias.data() : nullptr;
        T sums[2];
        this->kernels.scale_row(x.data(), count, by, w, b, y.data());
        this->kernels.norm_sums(x.data(), dy.data(), w, count, by, sums);
        this->kernels.norm_gradient(x.data(), dy.data(), w, count, by, mean, along, dx.data());
        this->kernels.norm_parameters(x.data(), dy.data(), count, by, dweight.data(), dbias.data());
        Wide slopes = 0, products = 0;
        for (std::size_t c = 0; c < x.count; ++c) {
            const Wide n = (Wide(x[c]) - by.shift) * by.factor;
            const Wide s = Wide(dy[c]) * (w == nullptr ? 1 : w[c]);
            slopes += s;
            products += s * n;
            const Wide size = 1 + std::abs(n);
            this->expect_near(y[c], n * (w == nullptr ? 1 : w[c]) + (b == nullptr ? 0 : b[c]),
                              40 * size, "y");
            this->expect_near(dx[c], by.factor * (s - mean - n * along), 80 * size, "dx");
            this->expect_near(dweight[c], dweight_before[c] + dy[c] * n, 40 * size, "dweight");
            this->expect_near(dbias[c], Wide(dbias_before[c]) + dy[c], 8, "dbias");
        }
        const Wide bound = 40 * (static_cast<Wide>(count) + 1);
        this->expect_near(sums[0], slopes, bound, "sum of slopes");
        this->expect_near(sums[1], products, 2 * bound, "sum of products");
        for (const Row<T>* row : {&y, &dx, &dweight, &dbias}) row->expect_untouched();
    }
}

TYPED_TEST(LayerKernelsTest, AdamWMovesEachParameter) {
    using T = TypeParam;
    SCOPED_TRACE(this->random.describe());
    const heed::detail::AdamWStep<T> step{T(0.999), T(0.1),  T(0.001), T(0.01),
                                          T(0.5),   T(1e-8), T(0.99)};
    for (const Index count : {Index{0}, Index{1}, Index{15}, Index{16}, Index{100}}) {
        Row<T> w(this->random, count), g(this->random, count), m(this->random, count),
            v(this->random, count);
        for (T& square : v.elements) square = std::abs(square);
        const Row<T> w0 = w, m0 = m, v0 = v;
        this->kernels.adamw(step, count, w.data(), g.data(), m.data(), v.data());
        for (std::size_t c = 0; c < w.count; ++c) {
            const Wide mean = m0[c] + Wide(step.share1) * (Wide(g[c]) - m0[c]);
            const Wide square = Wide(step.beta2) * v0[c] + Wide(step.share2) * g[c] * g[c];
            const Wide moved =
                Wide(step.keep) * w0[c] -
                Wide(step.rate) * mean / (std::sqrt(square) / step.root + step.epsilon);
            this->expect_near(m[c], mean, 8, "mean");
            this->expect_near(v[c], square, 16, "square");
            this->expect_near(w[c], moved, 40 * (1 + std::abs(moved)), "parameter");
        }
        for (const Row<T>* row : {&w, &m, &v}) row->expect_untouched();
    }
}

}  // namespace
