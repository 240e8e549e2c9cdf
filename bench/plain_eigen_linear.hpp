#pragma once
// What would a C++ user write with Eigen for a linear layer?
// A matrix product for each pass. Includes nothing of heed.

#include <Eigen/Core>

#include "linear_problem.hpp"

namespace bench {

template <class T>
class PlainEigenLinear final : public LinearProduct {
  public:
    PlainEigenLinear(const LinearProblem& problem, const LinearTensors<T>& tensors)
        : problem_(problem), tensors_(tensors) {}

    void run() override {
        const LinearProblem& p = problem_;
        const Input x(tensors_.x, p.M, p.K), weight(tensors_.weight, p.N, p.K);
        const Input dy(tensors_.dy, p.M, p.N);
        Eigen::Map<Matrix> result(tensors_.result, p.result_rows(), p.result_columns());
        switch (p.pass) {
            case LinearPass::forward:
                result.noalias() = x * weight.transpose();
                result.rowwise() += Eigen::Map<const Row>(tensors_.bias, p.N);
                break;
            case LinearPass::dx:
                result.noalias() = dy * weight;
                break;
            case LinearPass::dweight:
                result.noalias() += dy.transpose() * x;
                break;
        }
    }

  private:
    using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    using Row = Eigen::Matrix<T, 1, Eigen::Dynamic>;
    using Input = Eigen::Map<const Matrix>;

    LinearProblem problem_;
    LinearTensors<T> tensors_;
};

}  // namespace bench
