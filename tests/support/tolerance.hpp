#pragma once
// Is a result as right as it can be? Errors in units in the last place, and bounds from the oracle.
// Reads two or three ranges of numbers; returns a verdict with a sentence, asserts nothing.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <sstream>
#include <string>
#include <type_traits>

namespace support {

/// Verdict on a range of numbers. Use as EXPECT_TRUE(verdict) << verdict.message;
struct Verdict {
    bool ok = true;
    double error = 0.0;  // the largest one
    double bound = 0.0;
    std::size_t at = 0;  // where it is
    std::string message;
    double plain_error = 0.0;  // of the plain version, where the bound comes from one

    explicit operator bool() const { return ok; }
};

/// Number of representable values from a to b (float or double): 0 for equal numbers, 1 for
/// neighbours, +0 and -0 being one number. Two NaN are 0 apart, NaN and a number as far as can be.
template <class T>
std::uint64_t ulp_distance(T a, T b) {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>);
    using Bits = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
    if (std::isnan(a) || std::isnan(b)) {
        return std::isnan(a) && std::isnan(b) ? 0 : std::numeric_limits<std::uint64_t>::max();
    }
    // Sign and magnitude -> one ascending line of integers, on which both zeros are 0.
    const auto rank = [](T x) {
        const Bits bits = std::bit_cast<Bits>(x);
        const std::int64_t magnitude = bits & std::numeric_limits<Bits>::max();
        return bits < 0 ? -magnitude : magnitude;
    };
    const std::int64_t low = std::min(rank(a), rank(b)), high = std::max(rank(a), rank(b));
    return static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low);
}

/// |actual - expected|; 0 for equal infinities and for two NaN, infinity where only one is special.
template <class T, class U>
double abs_error(T actual, U expected) {
    using Wide = std::common_type_t<T, U>;
    const Wide a = static_cast<Wide>(actual), e = static_cast<Wide>(expected);
    if (a == e || (std::isnan(a) && std::isnan(e))) return 0.0;
    const double error = static_cast<double>(std::abs(a - e));
    return std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
}

struct LargestError {
    double error = 0.0;
    std::size_t at = 0;
};

/// The largest abs_error over two ranges; infinite when their sizes differ.
template <class Actual, class Expected>
LargestError max_abs_error(const Actual& actual, const Expected& expected) {
    if (std::size(actual) != std::size(expected)) {
        return {std::numeric_limits<double>::infinity(),
                std::min<std::size_t>(std::size(actual), std::size(expected))};
    }
    LargestError largest;
    for (std::size_t i = 0; i < std::size(actual); ++i) {
        const double error = abs_error(actual[i], expected[i]);
        if (error > largest.error) largest = {error, i};
    }
    return largest;
}

/// The largest finite |x|; 0 for an empty range.
template <class Range>
double max_magnitude(const Range& values) {
    double largest = 0.0;
    for (const auto& value : values) {
        const double magnitude = static_cast<double>(std::abs(value));
        if (std::isfinite(magnitude)) largest = std::max(largest, magnitude);
    }
    return largest;
}

/// Every element within `bound` of the expected one.
template <class Actual, class Expected>
Verdict compare_within(const Actual& actual, const Expected& expected, double bound) {
    const LargestError largest = max_abs_error(actual, expected);
    Verdict verdict{.ok = largest.error <= bound,
                    .error = largest.error,
                    .bound = bound,
                    .at = largest.at,
                    .message = {}};
    std::ostringstream text;
    text.precision(9);
    if (std::size(actual) != std::size(expected)) {
        text << std::size(actual) << " elements instead of " << std::size(expected);
    } else if (largest.at < std::size(actual)) {
        text << "largest error " << largest.error << ", bound " << bound << ", at element "
             << largest.at << " of " << std::size(actual) << ": " << +actual[largest.at]
             << " instead of " << +expected[largest.at];
    }
    verdict.message = text.str();
    return verdict;
}

/// What rounding alone may do to numbers of this magnitude in T, where the plain version happened
/// to be lucky: a score, an exponential, a division and a sum, each of which may end half a unit
/// (eps / 2) from where it should and is counted twice: 4 eps.
template <class T>
double rounding_floor(double magnitude) {
    return 4.0 * static_cast<double>(std::numeric_limits<T>::epsilon()) * magnitude;
}

/// The rule of this project: our error is at most twice that of the plain version in the same
/// arithmetic, both measured against an oracle in wider arithmetic, plus the rounding floor of the
/// magnitude of the terms (absent: of the results). Twice, because another order of summation is
/// another sample of the same distribution of errors. Largest errors are compared, since single
/// elements of the plain version are often exact.
template <class T, class Actual, class Plain, class Oracle>
Verdict compare_with_oracle(const Actual& actual, const Plain& plain, const Oracle& oracle,
                            double magnitude = -1.0) {
    const double plain_error = max_abs_error(plain, oracle).error;
    if (magnitude < 0.0) magnitude = max_magnitude(oracle);
    const double bound = 2.0 * plain_error + rounding_floor<T>(magnitude);
    Verdict verdict = compare_within(actual, oracle, bound);
    verdict.plain_error = plain_error;
    if (!std::isfinite(bound)) {
        verdict.ok = false;
        verdict.message += "; the plain version itself breaks down here, so it can bound nothing";
    }
    return verdict;
}

/// Every element has the same bits as the expected one: +0 differs from -0, a NaN equals itself.
template <class Actual, class Expected>
Verdict compare_bits(const Actual& actual, const Expected& expected) {
    Verdict verdict = compare_within(actual, expected, 0.0);
    if (std::size(actual) != std::size(expected)) return verdict;
    for (std::size_t i = 0; i < std::size(actual); ++i) {
        const auto a = actual[i];
        const auto e = expected[i];
        static_assert(std::is_same_v<decltype(a), decltype(e)>);
        if (std::memcmp(&a, &e, sizeof a) != 0) {
            std::ostringstream text;
            text << std::hexfloat << "bits differ first at element " << i << " of "
                 << std::size(actual) << ": " << +a << " instead of " << +e;
            verdict.ok = false;
            verdict.at = i;
            verdict.message = text.str();
            return verdict;
        }
    }
    verdict.ok = true;
    return verdict;
}

}  // namespace support
