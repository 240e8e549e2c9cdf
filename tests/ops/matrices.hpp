#pragma once
// Random matrices and rows for tests of products, and a product of matrices in one call.

#include "heed/base/thread_pool.hpp"
#include "heed/ops/product.hpp"
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

/// The rows of x through a product, its pieces shared by so many workers.
template <class T>
heed::Tensor<T, 2> multiply(heed::TensorView<const T, 2> x,
                            const heed::detail::ProductWeights<T>& weights,
                            const heed::detail::ProductFinish<T>& finish = {}, int workers = 1) {
    const heed::Index outputs =
        weights.packed != nullptr ? weights.packed->outputs() : weights.weight.extent(0);
    heed::Tensor<T, 2> y({x.extent(0), outputs});
    heed::ThreadPool pool(workers);
    const heed::detail::Product<T> product(heed::detail::RowList<const T>(x), weights,
                                           heed::detail::RowList<T>(y.view()), workers, finish);
    pool.parallel_for(product.count(), product);
    return y;
}

}  // namespace matrices
