// Products with packed weights, and what becomes of their sums: against the oracle, against weights
// in place, row by row.

#include "heed/ops/product.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "heed/base/thread_pool.hpp"
#include "heed/ops/activation.hpp"
#include "heed/ops/linear.hpp"
#include "ops/matrices.hpp"
#include "support/allocation_counter.hpp"
#include "support/isas.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::Activation;
using heed::bfloat16;
using heed::half;
using heed::Index;
using heed::Shape;
using heed::Tensor;
using heed::TensorView;
using heed::detail::PackedWeights;
using heed::detail::Product;
using heed::detail::ProductFinish;
using heed::detail::ProductWeights;
using heed::detail::RowList;
using matrices::multiply;
using matrices::random_matrix;
using matrices::random_row;
using support::elements;
using support::Random;

template <class T>
class ProductOf : public ::testing::Test {
  protected:
    Random source;
};
using ComputeTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(ProductOf, ComputeTypes);

TYPED_TEST(ProductOf, PackedWeightsGiveTheBitsOfWeightsInPlace) {
    using T = TypeParam;
    Random& random = this->source;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 60; ++trial) {
        // Panels of one part and of several, blocks of rows of one product and of more.
        const Index rows = random.integer(1, random.chance(0.1) ? 1100 : 150);
        const Index in = random.integer(0, random.chance(0.1) ? 1700 : 300);
        const Index out = random.integer(1, 200);
        const auto x = random_matrix<T>(random, rows, in), w = random_matrix<T>(random, out, in);
        const auto b = random_row<T>(random, out);
        PackedWeights<T> packed;
        packed.pack(w);
        const auto bias = random.chance(0.5) ? TensorView<const T, 1>(b) : TensorView<const T, 1>();
        const auto in_place = multiply<T>(x, {w, bias});
        const auto verdict = support::compare_bits(
            elements(multiply<T>(x, {{}, bias, &packed}).view()), elements(in_place.view()));
        ASSERT_TRUE(verdict) << verdict.message << " rows " << rows << " in " << in << " out "
                             << out;
    }
}

TYPED_TEST(ProductOf, ARowHasItsBitsWhateverTheOthersAre) {
    using T = TypeParam;
    Random& random = this->source;
    SCOPED_TRACE(random.describe());
    const Index in = 2500, out = 70;  // more inputs than are taken at once
    const auto w = random_matrix<T>(random, out, in);
    PackedWeights<T> packed;
    packed.pack(w);
    const auto x = random_matrix<T>(random, 37, in);
    const auto all = multiply<T>(x, {{}, {}, &packed}, {}, 2);
    for (const Index count : {Index{1}, Index{2}, Index{3}, Index{4}, Index{9}})
        for (const Index first : {Index{0}, Index{13}, Index{28}}) {
            const auto some = multiply<T>(x.view().slice(0, first, count), {{}, {}, &packed});
            ASSERT_EQ(elements(some.view()), elements(all.view().slice(0, first, count)));
        }
    // What is wrong with one row is not wrong with its neighbours.
    Tensor<T, 2> poisoned = x;
    fill(poisoned.view().select(0, 5), std::numeric_limits<T>::quiet_NaN());
    const auto with_poison = multiply<T>(poisoned, {{}, {}, &packed});
    for (Index i = 0; i < 37; ++i) {
        if (i == 5) continue;
        ASSERT_EQ(elements(with_poison.view().select(0, i)), elements(all.view().select(0, i)));
    }
}

TYPED_TEST(ProductOf, AgainstTheOracle) {
    using T = TypeParam;
    using Wide = std::conditional_t<std::is_same_v<T, float>, double, long double>;
    Random& random = this->source;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 40; ++trial) {
        const Index rows = random.integer(1, 70), in = random.integer(1, 400);
        const Index out = random.integer(1, 120);
        const auto x = random_matrix<T>(random, rows, in), w = random_matrix<T>(random, out, in);
        const auto b = random_row<T>(random, out);
        PackedWeights<T> packed;
        packed.pack(w);
        const auto solve = [&]<class Real>(Real) {
            return oracle::linear(oracle::convert<Real>(elements(x.view())),
                                  oracle::convert<Real>(elements(w.view())),
                                  static_cast<std::size_t>(in), static_cast<std::size_t>(out),
                                  oracle::convert<Real>(elements(b.view())));
        };
        const auto verdict = support::compare_with_oracle<T>(
            elements(multiply<T>(x, {{}, b, &packed}).view()), solve(T{}), solve(Wide{}),
            16.0 * std::sqrt(static_cast<double>(in)));
        ASSERT_TRUE(verdict) << verdict.message;
    }
}

/// What Product does at once, one after another.
template <class T>
Tensor<T, 2> step_by_step(TensorView<const T, 2> x, const ProductWeights<T>& weights,
                          const ProductFinish<T>& finish, TensorView<const T, 2> residual) {
    Tensor<T, 2> y = multiply<T>(x, weights);
    if (finish.gate) {
        Tensor<T, 2> gate = multiply<T>(x, *finish.gate);
        apply_activation(finish.activation, gate.view());
        heed::detail::for_each_element([](T& to, T by) { to *= by; }, y.view(), gate.view());
    } else {
        apply_activation(finish.activation, y.view());
    }
    if (residual.data() != nullptr) add(residual, y.view());
    return y;
}

TYPED_TEST(ProductOf, WhatIsDoneAtOnceIsWhatIsDoneStepByStep) {
    using T = TypeParam;
    Random& random = this->source;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 150; ++trial) {
        const Index rows = random.integer(1, 90);
        const Index in = random.integer(1, random.chance(0.1) ? 900 : 60);
        const Index out = random.integer(1, 230);
        const auto x = random_matrix<T>(random, rows, in), w = random_matrix<T>(random, out, in),
                   g = random_matrix<T>(random, out, in),
                   residual = random_matrix<T>(random, rows, out);
        const auto b = random_row<T>(random, out), gb = random_row<T>(random, out);
        PackedWeights<T> packed, packed_gate;
        packed.pack(w);
        packed_gate.pack(g);
        const bool is_packed = random.chance(0.5);
        const ProductWeights<T> weights{w, b, is_packed ? &packed : nullptr};
        const ProductWeights<T> gate{g, gb, is_packed ? &packed_gate : nullptr};
        Tensor<T, 2> before({rows, out}), gate_before({rows, out});
        ProductFinish<T> finish;
        finish.activation = static_cast<Activation>(random.integer(0, 4));
        if (random.chance(0.5)) finish.gate = gate;
        if (random.chance(0.5)) finish.before = RowList<T>(before.view());
        if (finish.gate && random.chance(0.5)) finish.gate_before = RowList<T>(gate_before.view());
        TensorView<const T, 2> added;
        if (random.chance(0.5)) {
            added = residual;
            finish.residual = RowList<const T>(added);
        }
        const auto found = multiply<T>(x, weights, finish, 2);
        const auto expected = step_by_step<T>(x, weights, finish, added);
        // The same operations; a product and a sum may be fused in one of them.
        for (Index i = 0; i < rows; ++i)
            for (Index c = 0; c < out; ++c)
                ASSERT_NEAR(
                    found.view()(i, c), expected.view()(i, c),
                    8 * std::numeric_limits<T>::epsilon() * (std::abs(expected.view()(i, c)) + 4));
        if (!finish.before.is_absent()) {
            ASSERT_EQ(elements(before.view()), elements(multiply<T>(x, weights).view()));
        }
        if (!finish.gate_before.is_absent()) {
            ASSERT_EQ(elements(gate_before.view()), elements(multiply<T>(x, gate).view()));
        }
    }
}

TYPED_TEST(ProductOf, TheResidualMayBeTheResult) {
    using T = TypeParam;
    Random& random = this->source;
    SCOPED_TRACE(random.describe());
    for (const bool is_packed : {true, false})
        for (const Index rows : {Index{2}, Index{70}}) {
            const auto x = random_matrix<T>(random, rows, 20), w = random_matrix<T>(random, 50, 20);
            auto y = random_matrix<T>(random, rows, 50);
            PackedWeights<T> packed;
            packed.pack(w);
            const ProductWeights<T> weights{w, {}, is_packed ? &packed : nullptr};
            const Tensor<T, 2> before = y;
            const Product<T> product(RowList<const T>(read(x)), weights, RowList<T>(y.view()), 1,
                                     {.residual = RowList<const T>(read(y))});
            for (Index piece = 0; piece < product.count(); ++piece) product(piece, 0);
            Tensor<T, 2> expected = multiply<T>(x, weights);
            add<T, 2>(before, expected.view());
            ASSERT_EQ(elements(y.view()), elements(expected.view()));
        }
}

TYPED_TEST(ProductOf, PackedOnOneInstructionSetServesAll) {
    using T = TypeParam;
    Random& random = this->source;
    SCOPED_TRACE(random.describe());
    const auto x = random_matrix<T>(random, 20, 33), w = random_matrix<T>(random, 95, 33);
    for (const heed::Isa packs : support::isas()) {
        PackedWeights<T> packed;
        {
            const support::WithIsa isa(packs);
            packed.pack(w);
        }
        for (const heed::Isa multiplies : support::isas()) {
            const support::WithIsa isa(multiplies);
            ASSERT_EQ(elements(multiply<T>(x, {{}, {}, &packed}).view()),
                      elements(multiply<T>(x, {w}).view()));
        }
    }
}

TYPED_TEST(ProductOf, RowsOfABatchWithGaps) {
    using T = TypeParam;
    Random& random = this->source;
    SCOPED_TRACE(random.describe());
    const auto w = random_matrix<T>(random, 30, 8);
    PackedWeights<T> packed;
    packed.pack(w);
    Tensor<T, 3> x({3, 25, 8}, random.normals<T>(600)), y({3, 30, 30});
    const TensorView<T, 3> from = x.view().slice(1, 2, 20), to = y.view().slice(1, 5, 20);
    const Product<T> product(RowList<const T>(read(from)), {{}, {}, &packed}, RowList<T>(to), 1);
    for (Index piece = 0; piece < product.count(); ++piece) product(piece, 0);
    for (Index b = 0; b < 3; ++b) {
        ASSERT_EQ(elements(to.select(0, b)),
                  elements(multiply<T>(from.select(0, b), {{}, {}, &packed}).view()));
        ASSERT_EQ(y(b, Index{4}, Index{0}), T(0));
        ASSERT_EQ(y(b, Index{25}, Index{0}), T(0));
    }
}

TYPED_TEST(ProductOf, AllocatesNothing) {
    using T = TypeParam;
    const Tensor<T, 2> x({70, 40}), w({100, 40});
    Tensor<T, 2> y({70, 100});
    PackedWeights<T> packed;
    packed.pack(w);
    const support::AllocationCounter allocations;
    packed.pack(w);  // again, into the same memory
    const Product<T> product(RowList<const T>(read(x)), {{}, {}, &packed}, RowList<T>(y.view()), 1);
    for (Index piece = 0; piece < product.count(); ++piece) product(piece, 0);
    EXPECT_EQ(allocations.count(), 0U);
}

/// Offsets of the first and the last byte that a walk through all panels asks for, or -1; panels
/// of equal size must ask for each byte between them once.
std::pair<std::ptrdiff_t, std::ptrdiff_t> asked_of(Index outputs, Index inputs) {
    const support::WithIsa isa(heed::Isa::baseline);  // short parts
    PackedWeights<float> packed;
    packed.pack(Tensor<float, 2>({outputs, inputs}));
    const std::byte* const all = packed.panel(0).weights;
    std::pair<std::ptrdiff_t, std::ptrdiff_t> asked(-1, -1);
    for (Index p = 0; p < packed.panels(); ++p) {
        const std::span<const std::byte> bytes = packed.bytes_after(packed.pass(p, 100));
        if (bytes.empty()) continue;
        const std::ptrdiff_t first = bytes.data() - all;
        if (asked.first < 0) asked.first = first;
        EXPECT_TRUE(asked.second < 0 || first == asked.second + 1) << "panel " << p;
        asked.second = first + std::ssize(bytes) - 1;
    }
    return asked;
}

TEST(PackedWeights, AreAskedForOnceAndToTheEnd) {
    const auto ahead = static_cast<std::ptrdiff_t>(heed::detail::least_bytes_ahead);
    // Panels of 48 outputs: larger than what is asked for ahead, and smaller.
    EXPECT_EQ(asked_of(144, 1000), std::pair(ahead, std::ptrdiff_t{144 * 1000 * 4 - 1}));
    EXPECT_EQ(asked_of(144, 100),
              std::pair(std::ptrdiff_t{48 * 100 * 4}, std::ptrdiff_t{144 * 100 * 4 - 1}));
    EXPECT_EQ(asked_of(48, 100), std::pair(std::ptrdiff_t{-1}, std::ptrdiff_t{-1}));
    EXPECT_EQ(asked_of(48, 0), std::pair(std::ptrdiff_t{-1}, std::ptrdiff_t{-1}));
}

TEST(PackedWeights, OfOnePartAreTakenByFewRowsAtATime) {
    const auto pass_of = [](Index inputs, Index rows) {
        PackedWeights<float> packed;
        packed.pack(Tensor<float, 2>({48, inputs}));
        return packed.pass(0, rows);
    };
    for (const heed::Isa isa : support::isas()) {
        const support::WithIsa with(isa);
        const heed::detail::PanelPass one = pass_of(100, 90), several = pass_of(5000, 90);
        EXPECT_EQ(one.terms, 100);
        EXPECT_LT(one.together, 90);
        EXPECT_LT(several.terms, 5000);
        EXPECT_EQ(several.together, 90);
        EXPECT_EQ(pass_of(100, 3).together, 3);
    }
}

// --- Weights in fewer bits ----------------------------------------------------------------------

template <class W>
class NarrowProduct : public ::testing::Test {
  protected:
    Random source;
};
using NarrowTypes = ::testing::Types<half, bfloat16, std::int8_t>;
TYPED_TEST_SUITE(NarrowProduct, NarrowTypes);

TYPED_TEST(NarrowProduct, IsTheProductWithTheRoundedWeights) {
    using W = TypeParam;
    Random& random = this->source;
    SCOPED_TRACE(random.describe());
    for (int trial = 0; trial < 60; ++trial) {
        // Few rows are multiplied directly, more by way of widened panels.
        const Index rows = random.integer(1, 30), in = random.integer(1, 600);
        const Index out = random.integer(1, 120);
        const auto x = random_matrix<float>(random, rows, in),
                   w = random_matrix<float>(random, out, in);
        const auto b = random_row<float>(random, out);
        PackedWeights<float> narrow, wide;
        narrow.template pack_as<W>(w);
        Tensor<float, 2> rounded({out, in});
        narrow.unpack(rounded.view());
        wide.pack(rounded);
        const auto found = multiply<float>(x, {{}, b, &narrow}),
                   expected = multiply<float>(x, {{}, b, &wide});
        if constexpr (!std::is_same_v<W, std::int8_t>) {
            ASSERT_EQ(elements(found.view()), elements(expected.view()));
        } else {
            // Scaled after the sum instead of before.
            const double bound = 16 * 0x1p-23 * std::sqrt(static_cast<double>(in)) * 4;
            const auto verdict =
                support::compare_within(elements(found.view()), elements(expected.view()), bound);
            ASSERT_TRUE(verdict) << verdict.message;
        }
    }
}

TYPED_TEST(NarrowProduct, HasTheSameBitsForFewRowsAndMany) {
    using W = TypeParam;
    Random& random = this->source;
    SCOPED_TRACE(random.describe());
    const auto x = random_matrix<float>(random, 20, 700), w = random_matrix<float>(random, 60, 700);
    PackedWeights<float> packed;
    packed.template pack_as<W>(w);
    const auto all = multiply<float>(x, {{}, {}, &packed});
    for (Index rows = 1; rows <= 9; ++rows)
        ASSERT_EQ(elements(multiply<float>(x.view().slice(0, 3, rows), {{}, {}, &packed}).view()),
                  elements(all.view().slice(0, 3, rows)));
}

TYPED_TEST(NarrowProduct, WeightsAreRoundedToTheNearest) {
    using W = TypeParam;
    Random& random = this->source;
    SCOPED_TRACE(random.describe());
    const auto w = random_matrix<float>(random, 50, 40);
    PackedWeights<float> packed;
    packed.template pack_as<W>(w);
    Tensor<float, 2> rounded({50, 40});
    packed.unpack(rounded.view());
    for (Index n = 0; n < 50; ++n) {
        float largest = 0;
        for (Index k = 0; k < 40; ++k) largest = std::max(largest, std::abs(w(n, k)));
        for (Index k = 0; k < 40; ++k) {
            if constexpr (std::is_same_v<W, std::int8_t>)
                ASSERT_LE(std::abs(rounded(n, k) - w(n, k)), largest / 254 * 1.00001f);
            else
                ASSERT_EQ(rounded(n, k), static_cast<float>(static_cast<W>(w(n, k))));
        }
    }
}

TEST(Int8Weights, OfNothingButZerosAndOfTinyNumbers) {
    const float tiny = std::numeric_limits<float>::denorm_min();
    const Tensor<float, 2> w({2, 3}, {0, 0, 0, 190 * tiny, -tiny, 0});
    PackedWeights<float> packed;
    packed.pack_as<std::int8_t>(w);
    Tensor<float, 2> rounded({2, 3});
    packed.unpack(rounded.view());
    for (Index k = 0; k < 3; ++k) EXPECT_EQ(rounded(Index{0}, k), 0.0f);
    EXPECT_EQ(rounded(Index{1}, Index{0}), 127 * tiny);
    EXPECT_EQ(rounded(Index{1}, Index{1}), -tiny);
}

TEST(Int8Weights, MustBeFinite) {
    for (const float bad :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
        const Tensor<float, 2> w({1, 2}, {1, bad});
        PackedWeights<float> packed;
        EXPECT_THROW(packed.pack_as<std::int8_t>(w), heed::ArgumentError);
        EXPECT_TRUE(packed.empty());
    }
}

/// All numbers that 16 bits can hold.
template <class W>
void expect_all_patterns() {
    std::vector<W> stored;
    for (int bits = 0; bits < 65536; ++bits)
        stored.push_back(Eigen::numext::bit_cast<W>(static_cast<std::uint16_t>(bits)));
    std::vector<float> wide(stored.size());
    heed::detail::weight_kernels<W>().widen(stored.data(), 65536, wide.data());
    for (std::size_t n = 0; n < stored.size(); ++n) {
        const float expected = static_cast<float>(stored[n]);
        if (std::isnan(expected))
            ASSERT_TRUE(std::isnan(wide[n])) << n;
        else
            ASSERT_EQ(std::bit_cast<std::uint32_t>(wide[n]), std::bit_cast<std::uint32_t>(expected))
                << n;
    }
}

TEST(WeightKernels, WidenAllHalfs) {
    expect_all_patterns<half>();
    expect_all_patterns<bfloat16>();
}

TEST(WeightKernels, WidenAllWholeNumbers) {
    std::vector<std::int8_t> stored;
    for (int n = -128; n < 128; ++n) stored.push_back(static_cast<std::int8_t>(n));
    std::vector<float> wide(stored.size());
    heed::detail::weight_kernels<std::int8_t>().widen(stored.data(), 256, wide.data());
    for (std::size_t n = 0; n < stored.size(); ++n) ASSERT_EQ(wide[n], float(stored[n]));
}

}  // namespace
