#pragma once
// Which products does a linear layer consist of, and how much work are they?
// Sizes and the interface that every contender implements; knows neither heed nor Eigen.

#include "size.hpp"

namespace bench {

/// y = x W^T + b;  dX = dY W;  dW += dY^T X
enum class LinearPass { forward, dx, dweight };

/// x [M,K], W [N,K], b [N], y [M,N], all contiguous.
struct LinearProblem {
    LinearPass pass = LinearPass::forward;
    Size M = 1, K = 1, N = 1;

    [[nodiscard]] double flops() const { return 2.0 * static_cast<double>(M * K * N); }

    /// Rows and columns of the result.
    [[nodiscard]] Size result_rows() const { return pass == LinearPass::dweight ? N : M; }
    [[nodiscard]] Size result_columns() const { return pass == LinearPass::forward ? N : K; }
    [[nodiscard]] Size result_count() const { return result_rows() * result_columns(); }

    /// Of the weight, which M = 1 reads once, or of its gradient, which is read and written.
    template <class T>
    [[nodiscard]] double weight_bytes() const {
        const Size times = pass == LinearPass::dweight ? 2 : 1;
        return static_cast<double>(times * K * N) * sizeof(T);
    }

    /// Calls visit(name, value) with what tells it from other problems of the pass.
    template <class Visit>
    void for_each_argument(const Visit& visit) const {
        visit("M", M);
        visit("K", K);
        visit("N", N);
    }
};

/// What a product reads and writes; those that its pass does not need may be null.
template <class T>
struct LinearTensors {
    const T *x, *weight, *bias, *dy;
    T* result;
};

/// One way to compute the product of a problem.
class LinearProduct {
  public:
    virtual ~LinearProduct() = default;
    virtual void run() = 0;
};

}  // namespace bench
