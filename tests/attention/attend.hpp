#pragma once
// How do these tests run an attention and look at all that it writes?
// Calls the public functions only, into outputs prefilled with NaN, so that a place which is not
// written shows.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <limits>
#include <ostream>
#include <string>
#include <type_traits>
#include <vector>

#include "heed/attention/scaled_dot_product_attention.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"

namespace attend {

using heed::Index;
using heed::Tensor;
using heed::TensorView;

inline constexpr float infinity = std::numeric_limits<float>::infinity();
inline constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

/// The elements in row-major order, whatever the strides are.
template <heed::TensorLike X>
std::vector<heed::ElementOf<X>> elements(const X& x) {
    const Tensor<heed::ElementOf<X>, std::remove_cvref_t<X>::rank()> dense(heed::read(x));
    return {dense.values().begin(), dense.values().end()};
}

/// A tensor of the given values in their row-major order, of any number type.
template <class T, int Rank, class Values>
Tensor<T, Rank> tensor_of(const heed::Shape<Rank>& shape, const Values& values) {
    Tensor<T, Rank> result(shape);
    for (std::size_t i = 0; i < std::size(values); ++i)
        result.values()[i] = static_cast<T>(static_cast<float>(values[i]));
    return result;
}

template <class T, int Rank>
Tensor<T, Rank> normals(support::Random& random, const heed::Shape<Rank>& shape,
                        double spread = 1.0) {
    Tensor<T, Rank> result(shape);
    for (T& x : result.values()) x = static_cast<T>(static_cast<float>(spread * random.normal()));
    return result;
}

template <int Rank>
Tensor<bool, Rank> flags(support::Random& random, const heed::Shape<Rank>& shape,
                         double probability) {
    Tensor<bool, Rank> result(shape);
    for (bool& flag : result.values()) flag = random.chance(probability);
    return result;
}

/// Inputs of one attention with equal lengths of all kinds, for tests whose subject is elsewhere.
template <class T>
struct Inputs {
    Tensor<T, 4> q, k, v;

    Inputs(support::Random& random, const heed::AttentionShape& s)
        : q(normals<T, 4>(random, {s.batch, s.heads, s.q_len, s.head_dim})),
          k(normals<T, 4>(random, {s.batch, s.kv_heads, s.kv_len, s.head_dim})),
          v(normals<T, 4>(random, {s.batch, s.kv_heads, s.kv_len, s.value_dim})) {}
};

/// Everything that one attention writes; and what it writes when only the output and the
/// log-sum-exp are asked for, which may take another path.
template <class T>
struct Outputs {
    Tensor<T, 4> out, weights, scores, lean_out;
    Tensor<heed::ComputeType<T>, 3> lse, lean_lse;
};

/// The two paths are one attention: equal up to the rounding of scores, weights and values of this
/// magnitude, with infinities and NaN at the same places.
template <class T, class V>
void expect_paths_agree(const Outputs<T>& result, TensorView<const V, 4> values) {
    using C = heed::ComputeType<T>;
    // Poison in hidden places is no magnitude of a term.
    const auto largest = [](const auto& view) {
        double most = 0;
        for (const auto x : elements(view))
            if (std::abs(static_cast<double>(x)) < 1e30)
                most = std::max(most, std::abs(static_cast<double>(x)));
        return most;
    };
    const double scores = 1 + largest(result.scores);
    double bound = 8 * support::rounding_floor<C>(largest(values) * scores);
    if (!std::same_as<T, C>) bound += std::ldexp(largest(values), -std::numeric_limits<T>::digits);
    const auto as_double = [](const auto& x) { return oracle::convert<double>(elements(x)); };
    const support::Verdict out =
        support::compare_within(as_double(result.lean_out), as_double(result.out), bound);
    EXPECT_TRUE(out) << "the output alone: " << out.message;
    const support::Verdict lse =
        support::compare_within(as_double(result.lean_lse), as_double(result.lse),
                                8 * support::rounding_floor<C>(scores + largest(result.lse)));
    EXPECT_TRUE(lse) << "the log-sum-exp without weights: " << lse.message;
}

/// Runs an attention that writes all its outputs, and one that writes no weights and scores.
template <heed::TensorLike Q, heed::TensorLike K, heed::TensorLike V,
          heed::ScorePart Mask = heed::NoMask>
Outputs<heed::ElementOf<Q>> everything(const Q& q, const K& k, const V& v, const Mask& mask = {},
                                       heed::AttentionOptions<heed::ElementOf<Q>> options = {}) {
    using T = heed::ElementOf<Q>;
    using C = heed::ComputeType<T>;
    const auto rows = heed::read(q);
    const auto values = heed::read(v);
    const heed::Shape<4> out_shape = rows.shape().with(3, values.extent(3));
    const heed::Shape<4> square = rows.shape().with(3, values.extent(2));
    const heed::Shape<3> row_shape(square[0], square[1], square[2]);
    Outputs<T> result{Tensor<T, 4>(out_shape), Tensor<T, 4>(square),    Tensor<T, 4>(square),
                      Tensor<T, 4>(out_shape), Tensor<C, 3>(row_shape), Tensor<C, 3>(row_shape)};
    for (Tensor<T, 4>* tensor : {&result.out, &result.weights, &result.scores, &result.lean_out})
        heed::fill(tensor->view(), static_cast<T>(not_a_number));
    for (Tensor<C, 3>* tensor : {&result.lse, &result.lean_lse})
        heed::fill(tensor->view(), static_cast<C>(not_a_number));
    options.lse = result.lean_lse;
    heed::scaled_dot_product_attention(q, k, v, result.lean_out, mask, options);
    options.weights = result.weights;
    options.scores = result.scores;
    options.lse = result.lse;
    heed::scaled_dot_product_attention(q, k, v, result.out, mask, options);
    if (options.dropout.probability == 0) expect_paths_agree(result, values);
    return result;
}

/// Bit by bit, in row-major order.
template <heed::TensorLike A, heed::TensorLike B>
support::Verdict same_bits(const A& a, const B& b) {
    return support::compare_bits(elements(a), elements(b));
}

template <class T>
support::Verdict same_bits(const Outputs<T>& a, const Outputs<T>& b) {
    for (const auto& [name, verdict] :
         {std::pair{"out", same_bits(a.out, b.out)},
          std::pair{"weights", same_bits(a.weights, b.weights)},
          std::pair{"scores", same_bits(a.scores, b.scores)},
          std::pair{"lse", same_bits(a.lse, b.lse)},
          std::pair{"out alone", same_bits(a.lean_out, b.lean_out)},
          std::pair{"lse without weights", same_bits(a.lean_lse, b.lean_lse)}})
        if (!verdict.ok) {
            support::Verdict failed = verdict;
            failed.message = std::string(name) + ": " + verdict.message;
            return failed;
        }
    return {};
}

}  // namespace attend

/// Fails, and says where, unless two tensors or two runs agree in every bit.
#define EXPECT_SAME(a, b)                               \
    do {                                                \
        const auto verdict = ::attend::same_bits(a, b); \
        EXPECT_TRUE(verdict) << verdict.message;        \
    } while (false)
