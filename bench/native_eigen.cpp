// The only unit that is compiled with -march=native. Everything in it but these functions is
// hidden.

#include "native_eigen.hpp"

#include "plain_eigen.hpp"
#include "plain_eigen_linear.hpp"

namespace bench {

template <class T>
std::unique_ptr<Attention<T>> make_native_eigen(const Problem& problem) {
    return std::make_unique<PlainEigen<T>>(problem);
}

template <class T>
std::unique_ptr<BackwardPass> make_native_eigen_backward(const Problem& problem,
                                                         const BackwardTensors<T>& tensors) {
    return std::make_unique<PlainEigenBackward<T>>(problem, tensors);
}

template <class T>
std::unique_ptr<LinearProduct> make_native_eigen_linear(const LinearProblem& problem,
                                                        const LinearTensors<T>& tensors) {
    return std::make_unique<PlainEigenLinear<T>>(problem, tensors);
}

template std::unique_ptr<Attention<float>> make_native_eigen(const Problem& problem);
template std::unique_ptr<Attention<double>> make_native_eigen(const Problem& problem);
template std::unique_ptr<BackwardPass> make_native_eigen_backward(const Problem& problem,
                                                                  const BackwardTensors<float>&);
template std::unique_ptr<BackwardPass> make_native_eigen_backward(const Problem& problem,
                                                                  const BackwardTensors<double>&);
template std::unique_ptr<LinearProduct> make_native_eigen_linear(const LinearProblem& problem,
                                                                 const LinearTensors<float>&);

}  // namespace bench
