#pragma once
// Is a result right, before anyone asks how fast it came?
// Compares rows of the output with the oracle of the tests; reads inputs and output.

#include <cstdint>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "attention_problem.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"

namespace bench {

/// Some rows of each head: the first, the last and others, about 64 of all heads.
inline std::vector<Size> rows_to_check(const Problem& p, Size head) {
    support::Random random(static_cast<std::uint64_t>(head));
    std::set<Size> rows = {0, p.Lq - 1};
    for (Size more = 64 / (p.B * p.H); more > 0; --more) rows.insert(random.integer(0, p.Lq - 1));
    return {rows.begin(), rows.end()};
}

/// The output rows of one head by the oracle in this arithmetic, one after the other.
template <class Real, class T>
std::vector<Real> oracle_rows(const Problem& p, Size head, const std::vector<Size>& rows,
                              const T* q, const T* k, const T* v) {
    const oracle::Sizes sizes{
        .B = 1, .H = 1, .Hk = 1, .Lq = std::ssize(rows), .Lk = p.Lk, .D = p.D, .Dv = p.D};
    std::vector<Real> query;
    for (Size row : rows) {
        const T* const begin = q + (head * p.Lq + row) * p.D;
        query.insert(query.end(), begin, begin + p.D);
    }
    const T *const keys = k + head * p.Lk * p.D, *const values = v + head * p.Lk * p.D;
    oracle::Rules rules;
    rules.visible = [&](oracle::Index, oracle::Index, oracle::Index row, oracle::Index key) {
        const Size i = rows[static_cast<std::size_t>(row)];
        return key >= p.first_key(i) && key < p.end_key(i);
    };
    return oracle::attention<Real>(sizes, query, {keys, keys + p.Lk * p.D},
                                   {values, values + p.Lk * p.D}, rules)
        .output;
}

/// The rule of the tests: no more than twice the error of the oracle's formulas in the same
/// arithmetic, both measured against them in wider arithmetic.
template <class T>
support::Verdict check_attention(const Problem& p, const T* q, const T* k, const T* v,
                                 const T* out) {
    using Wide = std::conditional_t<std::is_same_v<T, float>, double, long double>;
    std::vector<T> actual, plain;
    std::vector<Wide> expected;
    const auto append = [](auto& all, const auto& more) {
        all.insert(all.end(), more.begin(), more.end());
    };
    for (Size head = 0; head < p.B * p.H; ++head) {
        const std::vector<Size> rows = rows_to_check(p, head);
        append(plain, oracle_rows<T>(p, head, rows, q, k, v));
        append(expected, oracle_rows<Wide>(p, head, rows, q, k, v));
        for (Size row : rows) {
            const T* const begin = out + (head * p.Lq + row) * p.D;
            actual.insert(actual.end(), begin, begin + p.D);
        }
    }
    return support::compare_with_oracle<T>(actual, plain, expected);
}

}  // namespace bench
