// Is the test generator fair, and does it repeat?

#include "support/random.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>

namespace {

using support::Random;

/// Sets HEED_TEST_SEED for one test and puts the old value back.
class SeedVariable {
  public:
    explicit SeedVariable(const char* value) {
        if (const char* old = std::getenv(name)) old_ = old;
        setenv(name, value, 1);
    }
    SeedVariable(const SeedVariable&) = delete;
    SeedVariable& operator=(const SeedVariable&) = delete;
    ~SeedVariable() { old_.empty() ? unsetenv(name) : setenv(name, old_.c_str(), 1); }

  private:
    static constexpr const char* name = "HEED_TEST_SEED";
    std::string old_;
};

TEST(RandomSeed, ComesFromTheEnvironment) {
    const SeedVariable variable("18446744073709551615");
    EXPECT_EQ(Random().seed(), std::numeric_limits<std::uint64_t>::max());
    EXPECT_EQ(Random().describe(), "HEED_TEST_SEED=18446744073709551615");
}

TEST(RandomSeed, HasADefault) {
    const SeedVariable variable("");
    EXPECT_EQ(Random().seed(), 20240229u);
}

TEST(RandomSeed, MustBeANumber) {
    for (const char* wrong : {"x", "1x", "-1", " 1", "18446744073709551616"}) {
        const SeedVariable variable(wrong);
        EXPECT_THROW(Random(), std::invalid_argument) << wrong;
    }
}

TEST(RandomValues, AreThoseOfTheStandardEngine) {
    // The standard fixes the 10000th value of a default-seeded std::mt19937_64 ([rand.predef]).
    Random random(5489);
    for (int i = 1; i < 10000; ++i) random.bits();
    EXPECT_EQ(random.bits(), 9981545732273789042u);
}

TEST(RandomValues, RepeatWithTheSeed) {
    Random a(7), b(7), c(8);
    const auto first = a.normals<float>(100);
    EXPECT_EQ(first, b.normals<float>(100));
    EXPECT_NE(first, c.normals<float>(100));
    EXPECT_NE(first, a.normals<float>(100));
}

TEST(RandomValues, StayInTheirRange) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (double x : random.uniforms<double>(1000, -2.0, 3.0)) {
        EXPECT_GE(x, -2.0);
        EXPECT_LT(x, 3.0);
    }
    for (int i = 0; i < 1000; ++i) {
        const int chosen = random.pick({2, 3, 5});
        EXPECT_TRUE(chosen == 2 || chosen == 3 || chosen == 5);
    }
}

TEST(RandomValues, IntegersReachEveryValueAndBothEnds) {
    Random random;
    SCOPED_TRACE(random.describe());
    std::array<int, 4> seen{};
    for (int i = 0; i < 400; ++i) ++seen.at(static_cast<std::size_t>(random.integer(-1, 2) + 1));
    // Binomial of 400 and 1/4: mean 100, deviation 8.7; five of them.
    for (int count : seen) EXPECT_NEAR(count, 100, 44);
    EXPECT_EQ(random.integer(9, 9), 9);
    constexpr auto lowest = std::numeric_limits<std::int64_t>::min();
    constexpr auto highest = std::numeric_limits<std::int64_t>::max();
    EXPECT_NE(random.integer(lowest, highest), random.integer(lowest, highest));
}

TEST(RandomValues, NormalsHaveMeanZeroAndDeviationOne) {
    Random random;
    SCOPED_TRACE(random.describe());
    const int count = 10000;
    double sum = 0, squares = 0;
    for (double x : random.normals<double>(count)) {
        ASSERT_TRUE(std::isfinite(x));
        sum += x;
        squares += x * x;
    }
    // The mean deviates by 1 / sqrt(n) = 0.01, the mean square by sqrt(2 / n) = 0.014; five of
    // each.
    EXPECT_NEAR(sum / count, 0.0, 0.05);
    EXPECT_NEAR(squares / count, 1.0, 0.071);
}

TEST(RandomValues, FlagsHaveTheirShare) {
    Random random;
    SCOPED_TRACE(random.describe());
    int set = 0;
    for (unsigned char flag : random.flags(10000, 0.3)) set += flag;
    EXPECT_NEAR(set, 3000, 5 * 46);  // deviation sqrt(10000 * 0.3 * 0.7) = 46
}

}  // namespace
