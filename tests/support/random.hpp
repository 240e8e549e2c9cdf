#pragma once
// Where do random shapes and values come from? One seeded generator, the same on every machine.
// Reads the environment variable HEED_TEST_SEED once; never uses a clock or global state.

#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <numbers>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace support {

/// HEED_TEST_SEED, or 20240229 where it is absent or empty. Throws std::invalid_argument when it
/// is not a number.
inline std::uint64_t test_seed() {
    const char* text = std::getenv("HEED_TEST_SEED");
    if (text == nullptr || *text == '\0') return 20240229;
    const std::string_view digits(text);
    std::uint64_t seed = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), seed);
    if (error != std::errc() || end != digits.data() + digits.size()) {
        throw std::invalid_argument("HEED_TEST_SEED must be a number below 2^64; found " +
                                    std::string(digits));
    }
    return seed;
}

/// Random numbers for tests. Put SCOPED_TRACE(random.describe()) under its declaration, so that a
/// failure names the seed that repeats it. The standard's distributions differ between libraries;
/// these do not.
class Random {
  public:
    explicit Random(std::uint64_t seed = test_seed()) : seed_(seed), engine_(seed) {}

    std::uint64_t seed() const { return seed_; }
    std::string describe() const { return "HEED_TEST_SEED=" + std::to_string(seed_); }

    std::uint64_t bits() { return engine_(); }

    /// A double in [0, 1).
    double unit() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
    double uniform(double low, double high) { return low + (high - low) * unit(); }

    /// Standard normal (Box and Muller).
    double normal() {
        const double radius = std::sqrt(-2.0 * std::log(1.0 - unit()));
        return radius * std::cos(2.0 * std::numbers::pi * unit());
    }

    /// An integer in [low, high]; the bias of the remainder is far below what a test could see.
    std::int64_t integer(std::int64_t low, std::int64_t high) {
        const std::uint64_t count =
            static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low) + 1;
        const std::uint64_t offset = count == 0 ? bits() : bits() % count;
        return static_cast<std::int64_t>(static_cast<std::uint64_t>(low) + offset);
    }

    bool chance(double probability) { return unit() < probability; }

    template <class T>
    T pick(std::initializer_list<T> choices) {
        return choices.begin()[integer(0, static_cast<std::int64_t>(choices.size()) - 1)];
    }

    template <class T>
    std::vector<T> normals(std::size_t count, double spread = 1.0) {
        std::vector<T> values(count);
        for (T& value : values) value = static_cast<T>(spread * normal());
        return values;
    }

    template <class T>
    std::vector<T> uniforms(std::size_t count, double low, double high) {
        std::vector<T> values(count);
        for (T& value : values) value = static_cast<T>(uniform(low, high));
        return values;
    }

    /// 1 with this probability, else 0 (bytes, because std::vector<bool> has no elements).
    std::vector<unsigned char> flags(std::size_t count, double probability) {
        std::vector<unsigned char> values(count);
        for (unsigned char& value : values) value = chance(probability) ? 1 : 0;
        return values;
    }

  private:
    std::uint64_t seed_;
    std::mt19937_64 engine_;
};

}  // namespace support
