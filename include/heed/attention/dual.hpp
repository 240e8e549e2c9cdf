#pragma once
// What is the derivative of a user's function?
// A number that carries its derivative through arithmetic (forward differentiation); reads and
// writes nothing else.

#include <cmath>
#include <compare>
#include <type_traits>

namespace heed::inline v0 {

/// A number and its derivative. Arithmetic, comparisons and the functions below follow the rules of
/// calculus; a plain number is a constant. A comparison looks at the values, so that the derivative
/// is that of the branch taken. Source: Wengert, "A simple automatic derivative evaluation
/// program", 1964.
template <class C>
struct Dual {
    C value = 0;
    C slope = 0;

    Dual() = default;
    Dual(C at, C derivative) : value(at), slope(derivative) {}
    template <class Number>
    requires std::is_arithmetic_v<Number> Dual(Number constant) : value(static_cast<C>(constant)) {}

    friend Dual operator-(const Dual& a) { return {-a.value, -a.slope}; }
    friend Dual operator+(const Dual& a, const Dual& b) {
        return {a.value + b.value, a.slope + b.slope};
    }
    friend Dual operator-(const Dual& a, const Dual& b) {
        return {a.value - b.value, a.slope - b.slope};
    }
    friend Dual operator*(const Dual& a, const Dual& b) {
        return {a.value * b.value, a.slope * b.value + a.value * b.slope};
    }
    friend Dual operator/(const Dual& a, const Dual& b) {
        const C quotient = a.value / b.value;
        return {quotient, (a.slope - quotient * b.slope) / b.value};
    }
    Dual& operator+=(const Dual& b) { return *this = *this + b; }
    Dual& operator-=(const Dual& b) { return *this = *this - b; }
    Dual& operator*=(const Dual& b) { return *this = *this * b; }
    Dual& operator/=(const Dual& b) { return *this = *this / b; }

    friend bool operator==(const Dual& a, const Dual& b) { return a.value == b.value; }
    friend auto operator<=>(const Dual& a, const Dual& b) { return a.value <=> b.value; }

    friend Dual exp(const Dual& x) {
        const C result = std::exp(x.value);
        return {result, result * x.slope};
    }
    friend Dual log(const Dual& x) { return {std::log(x.value), x.slope / x.value}; }
    friend Dual sqrt(const Dual& x) {
        const C result = std::sqrt(x.value);
        return {result, x.slope / (2 * result)};
    }
    friend Dual tanh(const Dual& x) {
        const C result = std::tanh(x.value);
        return {result, (1 - result) * (1 + result) * x.slope};
    }
    friend Dual abs(const Dual& x) { return x.value < 0 ? -x : x; }
};

}  // namespace heed::inline v0
