#pragma once
// What would a C++ user write with Eigen?
// Head by head two matrix products and a softmax between them, with a matrix for the scores that
// is reused from head to head. Includes nothing of heed.

#include <Eigen/Core>
#include <cmath>
#include <limits>

#include "attention_problem.hpp"

namespace bench {

template <class T>
class PlainEigen final : public Attention<T> {
  public:
    explicit PlainEigen(const Problem& problem)
        : problem_(problem), scores_(Matrix::Zero(problem.Lq, problem.Lk)) {}

    void run(const T* q, const T* k, const T* v, T* out) override {
        const auto [B, H, Lq, Lk, D, causal, window] = problem_;
        const T scale = 1 / std::sqrt(static_cast<T>(D));
        for (Size head = 0; head < B * H; ++head) {
            const Eigen::Map<const Matrix> queries(q + head * Lq * D, Lq, D);
            const Eigen::Map<const Matrix> keys(k + head * Lk * D, Lk, D);
            const Eigen::Map<const Matrix> values(v + head * Lk * D, Lk, D);
            Eigen::Map<Matrix> result(out + head * Lq * D, Lq, D);
            scores_.noalias() = (scale * queries) * keys.transpose();
            if (causal) hide_keys();
            softmax_rows();
            result.noalias() = scores_ * values;
        }
    }

    [[nodiscard]] std::size_t scratch_bytes() const override {
        return static_cast<std::size_t>(scores_.size()) * sizeof(T);
    }

  private:
    using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

    void hide_keys() {
        const T hidden = -std::numeric_limits<T>::infinity();
        for (Size i = 0; i < problem_.Lq; ++i) {
            scores_.row(i).head(problem_.first_key(i)).setConstant(hidden);
            scores_.row(i).tail(problem_.Lk - problem_.end_key(i)).setConstant(hidden);
        }
    }

    void softmax_rows() {
        for (Size i = 0; i < problem_.Lq; ++i) {
            auto row = scores_.row(i).array();
            row = (row - row.maxCoeff()).exp();
            row /= row.sum();
        }
    }

    Problem problem_;
    Matrix scores_;
};

}  // namespace bench
