#pragma once
// Is a result in double the golden one that was computed and kept in float64?
// Two ways to the same number then differ by the roundings of short sums alone: a few 1e-16 of
// their largest terms, of order 1 to 100 in these cases. 1e-12 leaves room for that; a wrong result
// is off by its own size.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "heed/tensor/any_tensor.hpp"

namespace nn_test {

inline testing::AssertionResult is_golden(const std::vector<double>& actual,
                                          const heed::AnyTensor& golden) {
    if (golden.scalar_type() != heed::ScalarType::f64 ||
        golden.bytes().size() != actual.size() * sizeof(double))
        return testing::AssertionFailure() << "the golden tensor is " << to_string(golden);
    std::vector<double> expected(actual.size());
    std::memcpy(expected.data(), golden.bytes().data(), golden.bytes().size());
    for (std::size_t i = 0; i < actual.size(); ++i)
        if (!(std::abs(actual[i] - expected[i]) <= 1e-12 * (1 + std::abs(expected[i]))))
            return testing::AssertionFailure()
                   << "element " << i << " is " << actual[i] << " instead of " << expected[i];
    return testing::AssertionSuccess();
}

}  // namespace nn_test
