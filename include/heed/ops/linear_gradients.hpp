#pragma once
// How does the gradient of a linear layer go back, alone or as part of a larger one?
// As stages: what goes to the input, beside what goes to the parameters.

#include "heed/base/stages.hpp"
#include "heed/ops/input_gradient.hpp"
#include "heed/ops/weight_gradient.hpp"

namespace heed::inline v0::detail {

/// dx = residual + dy W beside dW += dy^T x and db += the sum over rows of dy. dx and the residual
/// may be absent; the residual may be dx.
template <ComputeScalar T>
class LinearGradientStages {
  public:
    LinearGradientStages(RowList<const T> x, const BackwardWeights<T>& weights, RowList<const T> dy,
                         RowList<T> dx, RowList<const T> residual, const GradientSum<T>& dweight,
                         TensorView<T, 1> dbias, int workers)
        : wants_dx_(!dx.is_absent()),
          input_(dy, weights, dx, residual, workers),
          parameters_(x, dy, dweight, dbias, workers) {}

    /// Of a Linear, whose gradients lie in another.
    template <class Linear>
    LinearGradientStages(RowList<const T> x, const Linear& linear, RowList<const T> dy,
                         RowList<T> dx, RowList<const T> residual, Linear& gradients, int workers)
        : LinearGradientStages(x, linear.backward_weights(), dy, dx, residual,
                               gradients.weight_gradient(), gradients.bias(), workers) {}

    /// Both begin when all before is done.
    void add_to(Stages& stages) const {
        stages.then(parameters_.count(), parameters_);
        if (!wants_dx_) return;
        if (parameters_.count() > 0)
            stages.beside(input_.count(), input_);
        else
            stages.then(input_.count(), input_);
    }

  private:
    bool wants_dx_;
    InputGradient<T> input_;
    WeightGradient<T> parameters_;
};

}  // namespace heed::inline v0::detail
