#pragma once
// What do the tests of the bug museum have in common?
// Runs an attention with weights and without, and looks at both results.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "attention/attend.hpp"
#include "attention/judge.hpp"
#include "attention/random_case.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

namespace museum {

using attend::elements;
using attend::everything;
using attend::expect_oracle;
using attend::infinity;
using attend::Inputs;
using attend::not_a_number;
using attend::Outputs;
using attend::same_bits;
using heed::AdditiveBias;
using heed::Alignment;
using heed::AttendWhere;
using heed::AttentionShape;
using heed::BlockWhere;
using heed::Causal;
using heed::Index;
using heed::KeyLengths;
using heed::NoMask;
using heed::Shape;
using heed::SlidingWindow;
using heed::SoftCap;
using heed::Tensor;
using heed::TensorView;

/// Inputs that are the same in every run.
template <class T = float>
Inputs<T> inputs(const AttentionShape& s, std::uint64_t seed = 1) {
    support::Random random(seed);
    return Inputs<T>(random, s);
}

template <class T, class Mask>
Outputs<T> expect_right(const AttentionShape& s, const Inputs<T>& in, const Mask& mask,
                        const oracle::Rules& rules, double added = 0) {
    return expect_oracle(s, in.q, in.k, in.v, mask, rules, added);
}

/// What both paths wrote. The results must outlive it.
template <class T>
std::vector<TensorView<const T, 4>> outs(const Outputs<T>& result) {
    return {result.out, result.lean_out};
}
template <class T>
void outs(Outputs<T>&&) = delete;
template <class T>
std::vector<TensorView<const heed::ComputeType<T>, 3>> lses(const Outputs<T>& result) {
    return {result.lse, result.lean_lse};
}
template <class T>
void lses(Outputs<T>&&) = delete;

template <class T>
void expect_empty_row(const Outputs<T>& result, Index b, Index h, Index i) {
    for (const auto& out : outs(result))
        for (Index c = 0; c < out.extent(3); ++c)
            EXPECT_EQ(static_cast<float>(out(b, h, i, c)), 0.0f) << "row " << i;
    for (const auto& lse : lses(result)) EXPECT_EQ(lse(b, h, i), -infinity) << "row " << i;
    for (Index j = 0; j < result.weights.extent(3); ++j)
        EXPECT_EQ(static_cast<float>(result.weights(b, h, i, j)), 0.0f);
}

template <class T>
void expect_no_nan(const Outputs<T>& result) {
    for (const auto& out : outs(result))
        for (const T x : elements(out)) EXPECT_FALSE(std::isnan(static_cast<float>(x)));
    for (const auto& lse : lses(result))
        for (const auto x : elements(lse)) EXPECT_FALSE(std::isnan(x));
}

}  // namespace museum
