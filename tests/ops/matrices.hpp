#pragma once
// Random matrices and rows for tests of products.

#include "heed/tensor/tensor.hpp"
#include "support/random.hpp"

namespace matrices {

template <class T>
heed::Tensor<T, 2> random_matrix(support::Random& random, heed::Index rows, heed::Index columns) {
    return heed::Tensor<T, 2>({rows, columns},
                              random.normals<T>(static_cast<std::size_t>(rows * columns)));
}

template <class T>
heed::Tensor<T, 1> random_row(support::Random& random, heed::Index columns) {
    return heed::Tensor<T, 1>(heed::Shape<1>(columns),
                              random.normals<T>(static_cast<std::size_t>(columns)));
}

}  // namespace matrices
