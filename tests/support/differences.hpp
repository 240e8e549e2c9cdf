#pragma once
// What is a gradient, if one trusts no formula? Central differences in long double.
// Changes the numbers it is given for a moment; calls the function twice for each of them.

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <vector>

namespace support {

/// The derivative of f(), which reads x, with respect to each element of x. The error is about
/// step^2 of the third derivative, and 1e-19 / step of f.
template <class F>
std::vector<long double> central_differences(std::vector<long double>& x, const F& f,
                                             long double step = 1e-5L) {
    std::vector<long double> result;
    for (long double& element : x) {
        const long double before = element;
        element = before + step;
        const long double above = f();
        element = before - step;
        result.push_back((above - f()) / (2 * step));
        element = before;
    }
    return result;
}

/// sum_i a_i b_i: a loss whose gradient with respect to a is b.
template <class Real>
Real dot(const std::vector<Real>& a, const std::vector<Real>& b) {
    Real sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
}

/// Every element within atol + rtol * |expected|.
template <class Actual, class Expected>
void expect_close(const char* name, const Actual& actual, const Expected& expected,
                  double atol = 1e-8, double rtol = 1e-6) {
    ASSERT_EQ(std::size(actual), std::size(expected)) << name;
    for (std::size_t n = 0; n < std::size(actual); ++n) {
        const double right = static_cast<double>(expected[n]);
        ASSERT_NEAR(static_cast<double>(actual[n]), right, atol + rtol * std::abs(right))
            << name << "[" << n << "]";
    }
}

}  // namespace support
