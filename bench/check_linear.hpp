#pragma once
// Is a product of a linear layer right, before anyone asks how fast it came?
// Compares rows of the result with the oracle of the tests; reads inputs and result.

#include <set>
#include <type_traits>
#include <vector>

#include "linear_problem.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"

namespace bench {

/// Every pass is a product of rows with rows: of x and W, of dY and W^T, of dY^T and X^T.
template <class T>
class LinearOracle {
  public:
    LinearOracle(const LinearProblem& problem, const LinearTensors<T>& tensors)
        : problem_(problem), tensors_(tensors) {}

    /// Some rows of the result in this arithmetic, one after the other.
    template <class Real>
    [[nodiscard]] std::vector<Real> rows(const std::set<Size>& which) const {
        const Size columns = problem_.result_columns();
        std::vector<Real> left, right, bias;
        for (Size row : which)
            for (Size i = 0; i < terms(); ++i) left.push_back(left_at(row, i));
        for (Size column = 0; column < columns; ++column)
            for (Size i = 0; i < terms(); ++i) right.push_back(right_at(column, i));
        if (problem_.pass == LinearPass::forward)
            bias.assign(tensors_.bias, tensors_.bias + columns);
        return oracle::linear(left, right, static_cast<std::size_t>(terms()),
                              static_cast<std::size_t>(columns), bias);
    }

  private:
    [[nodiscard]] Size terms() const {
        switch (problem_.pass) {
            case LinearPass::forward:
                return problem_.K;
            case LinearPass::dx:
                return problem_.N;
            case LinearPass::dweight:
                break;
        }
        return problem_.M;
    }
    [[nodiscard]] T left_at(Size row, Size i) const {
        if (problem_.pass == LinearPass::forward) return tensors_.x[row * problem_.K + i];
        const bool transposed = problem_.pass == LinearPass::dweight;
        return tensors_.dy[transposed ? i * problem_.N + row : row * problem_.N + i];
    }
    [[nodiscard]] T right_at(Size column, Size i) const {
        if (problem_.pass == LinearPass::forward) return tensors_.weight[column * problem_.K + i];
        const T* const matrix = problem_.pass == LinearPass::dx ? tensors_.weight : tensors_.x;
        return matrix[i * problem_.K + column];
    }

    LinearProblem problem_;
    LinearTensors<T> tensors_;
};

/// The rule of the tests on the first, the last and two other rows of a result; that of dW must
/// have been added to zeros.
template <class T>
support::Verdict check_linear(const LinearProblem& p, const LinearTensors<T>& tensors) {
    using Wide = std::conditional_t<std::is_same_v<T, float>, double, long double>;
    support::Random random(1);
    std::set<Size> rows = {0, p.result_rows() - 1};
    for (int more = 0; more < 2; ++more) rows.insert(random.integer(0, p.result_rows() - 1));
    std::vector<T> actual;
    for (Size row : rows) {
        const T* const begin = tensors.result + row * p.result_columns();
        actual.insert(actual.end(), begin, begin + p.result_columns());
    }
    const LinearOracle<T> oracle(p, tensors);
    return support::compare_with_oracle<T>(actual, oracle.template rows<T>(rows),
                                           oracle.template rows<Wide>(rows));
}

}  // namespace bench
