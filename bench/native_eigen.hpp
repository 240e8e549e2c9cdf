#pragma once
// And what if that user also knows about -march=native?
// The same plain Eigen code, compiled for this processor in a shared library of its own: functions
// of that library must not replace those that the rest of the program compiled without the flag.

#include <memory>

#include "attention_problem.hpp"
#include "linear_problem.hpp"

namespace bench {

template <class T>
[[gnu::visibility("default"), nodiscard]] std::unique_ptr<Attention<T>> make_native_eigen(
    const Problem& problem);

template <class T>
[[gnu::visibility("default"), nodiscard]] std::unique_ptr<BackwardPass> make_native_eigen_backward(
    const Problem& problem, const BackwardTensors<T>& tensors);

template <class T>
[[gnu::visibility("default"), nodiscard]] std::unique_ptr<LinearProduct> make_native_eigen_linear(
    const LinearProblem& problem, const LinearTensors<T>& tensors);

}  // namespace bench
