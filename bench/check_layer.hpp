#pragma once
// Is the output of a multi-head attention right, before anyone asks how fast it came?
// Compares all of it with the oracle of the tests; reads input, weights and output.

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <vector>

#include "size.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

namespace bench {

/// Self-attention of x [L,E] with H heads.
struct LayerProblem {
    Size L = 1, E = 1, H = 1;

    /// Of four projections and the attention.
    [[nodiscard]] double flops() const {
        return static_cast<double>(8 * L * E * E + 4 * L * L * E);
    }

    /// Calls visit(name, value) with what tells it from other problems.
    template <class Visit>
    void for_each_argument(const Visit& visit) const {
        visit("L", L);
        visit("E", E);
        visit("H", H);
    }
};

/// As in torch.nn.MultiheadAttention: in_weight [3E,E], in_bias [3E], out_weight [E,E],
/// out_bias [E].
template <class T>
struct LayerTensors {
    const T *x, *in_weight, *in_bias, *out_weight, *out_bias;
    T* out;
};

/// One part of the projection, [L,E], from or to heads [H,L,E/H].
template <class Real>
std::vector<Real> heads_of(const LayerProblem& p, const std::vector<Real>& rows, Size row_length,
                           Size begin) {
    const Size width = p.E / p.H;
    std::vector<Real> heads;
    for (Size h = 0; h < p.H; ++h)
        for (Size i = 0; i < p.L; ++i) {
            const auto first = rows.begin() + i * row_length + begin + h * width;
            heads.insert(heads.end(), first, first + width);
        }
    return heads;
}
template <class Real>
std::vector<Real> rows_of(const LayerProblem& p, const std::vector<Real>& heads) {
    const Size width = p.E / p.H;
    std::vector<Real> rows(heads.size());
    for (Size h = 0; h < p.H; ++h)
        for (Size i = 0; i < p.L; ++i)
            std::copy_n(heads.begin() + (h * p.L + i) * width, width,
                        rows.begin() + i * p.E + h * width);
    return rows;
}

/// The output in this arithmetic.
template <class Real, class T>
std::vector<Real> oracle_layer(const LayerProblem& p, const LayerTensors<T>& t) {
    const auto project = [&](const std::vector<Real>& x, const T* weight, const T* bias,
                             Size outputs) {
        return oracle::linear<Real>(x, {weight, weight + outputs * p.E},
                                    static_cast<std::size_t>(p.E),
                                    static_cast<std::size_t>(outputs), {bias, bias + outputs});
    };
    const std::vector<Real> projected =
        project({t.x, t.x + p.L * p.E}, t.in_weight, t.in_bias, 3 * p.E);
    const auto part = [&](Size number) { return heads_of(p, projected, 3 * p.E, number * p.E); };
    const Size width = p.E / p.H;
    const oracle::Sizes sizes{
        .B = 1, .H = p.H, .Hk = p.H, .Lq = p.L, .Lk = p.L, .D = width, .Dv = width};
    const auto attended = oracle::attention<Real>(sizes, part(0), part(1), part(2)).output;
    return project(rows_of(p, attended), t.out_weight, t.out_bias, p.E);
}

/// The rule of the tests.
template <class T>
support::Verdict check_layer(const LayerProblem& p, const LayerTensors<T>& tensors) {
    using Wide = std::conditional_t<std::is_same_v<T, float>, double, long double>;
    const std::vector<T> actual(tensors.out, tensors.out + p.L * p.E);
    return support::compare_with_oracle<T>(actual, oracle_layer<T>(p, tensors),
                                           oracle_layer<Wide>(p, tensors));
}

}  // namespace bench
