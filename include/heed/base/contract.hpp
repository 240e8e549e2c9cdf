#pragma once
// How does heed refuse bad input?
// Defines the three error types and the one way to throw them; never prints, never aborts.

#include <array>
#include <cassert>
#include <charconv>
#include <cmath>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include "heed/base/config.hpp"

/// Checks heed's own reasoning, in debug builds only; a caller's mistake is never reported by it.
#define HEED_ASSERT(condition) assert(condition)

namespace heed::inline v0 {

/// Base of everything heed throws by itself.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// Sizes, strides or overlaps that do not fit each other.
struct ShapeError : Error {
    using Error::Error;
};

/// A single value out of its range (probability, window, head count, alignment not named).
struct ArgumentError : Error {
    using Error::Error;
};

/// Bytes from outside (files, weight names) that are not what they claim to be.
struct FormatError : Error {
    using Error::Error;
};

namespace detail {

template <class Value>
std::string text(const Value& value) {
    if constexpr (std::is_convertible_v<const Value&, std::string_view>) {
        return std::string(std::string_view(value));
    } else if constexpr (std::is_same_v<Value, bool>) {
        return value ? "true" : "false";
    } else if constexpr (std::is_floating_point_v<Value>) {
        // The shortest text that reads back as this value: 1.0000001 must not be shown as 1.000000.
        std::array<char, 32> digits{};
        const auto written =
            std::to_chars(digits.data(), digits.data() + digits.size(), static_cast<double>(value));
        return std::string(digits.data(), written.ptr);
    } else {
        using std::to_string;
        return to_string(value);
    }
}

/// Throws `Kind` with the text "[where] part part ...": every message names the function, the rule
/// and what was found.
template <class Kind, class... Parts>
[[noreturn]] void fail(std::string_view where, const Parts&... parts) {
    std::string message = "[" + std::string(where) + "] ";
    (message += ... += text(parts));
    throw Kind(message);
}

/// "[where] name must be finite and 0 or more; found ..." unless it is.
inline double require_nonnegative(std::string_view where, std::string_view name, double value) {
    if (!(value >= 0.0 && std::isfinite(value)))
        fail<ArgumentError>(where, name, " must be finite and 0 or more; found ", value);
    return value;
}

}  // namespace detail
}  // namespace heed::inline v0
