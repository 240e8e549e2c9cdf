// Philox4x32-10 against its published known answers and, where installed, the authors' own code.

// First, because it brings short macros that heed must not trip over.
#if __has_include(<Random123/philox.h>)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wpedantic"
#include <Random123/philox.h>
#pragma GCC diagnostic pop
#define HEED_TEST_RANDOM123 1
#else
#define HEED_TEST_RANDOM123 0
#endif

#include "heed/tensor/philox.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>

#include "support/random.hpp"

namespace {

using heed::philox;
using heed::PhiloxCounter;
using heed::PhiloxKey;

// Lines "philox4x32 10" of kat_vectors in the Random123 distribution of Salmon et al.
TEST(Philox, PublishedKnownAnswers) {
    EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}),
              (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
    EXPECT_EQ(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
              (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
    // The digits of pi.
    EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
              (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, IsAConstantExpression) {
    static_assert(philox({0, 0, 0, 0}, {0, 0})[3] == 0x9b00dbd8);
}

TEST(Philox, SeedBecomesTheKeyLowWordFirst) {
    static_assert(heed::philox_key(0x299f31d0'a4093822) == PhiloxKey{0xa4093822, 0x299f31d0});
    static_assert(heed::philox_key(1) == PhiloxKey{1, 0});
}

TEST(Philox, EveryBitOfCounterAndKeyMatters) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const auto word = [&] { return static_cast<std::uint32_t>(random.bits()); };
    double changed = 0;
    int flips = 0;
    for (int trial = 0; trial < 20; ++trial) {
        const PhiloxCounter counter{word(), word(), word(), word()};
        const PhiloxKey key{word(), word()};
        const PhiloxCounter before = philox(counter, key);
        for (std::size_t bit = 0; bit < 6 * 32; ++bit, ++flips) {
            PhiloxCounter c = counter;
            PhiloxKey k = key;
            const std::uint32_t mask = std::uint32_t{1} << (bit % 32);
            (bit < 128 ? c[bit / 32] : k[bit / 32 - 4]) ^= mask;
            const PhiloxCounter after = philox(c, k);
            int distance = 0;
            for (std::size_t i = 0; i < 4; ++i) distance += std::popcount(before[i] ^ after[i]);
            // 64 of 128 bits change on average; fewer than 24 is 7 standard deviations away.
            ASSERT_GE(distance, 24) << "bit " << bit;
            changed += distance;
        }
    }
    // The mean of n such counts has the standard deviation sqrt(32 / n).
    EXPECT_NEAR(changed / flips, 64.0, 5 * std::sqrt(32.0 / flips));
}

#if HEED_TEST_RANDOM123
TEST(Philox, AgreesWithTheAuthorsCode) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const auto word = [&] { return static_cast<std::uint32_t>(random.bits()); };
    for (int trial = 0; trial < 10'000; ++trial) {
        const PhiloxCounter counter{word(), word(), word(), word()};
        const PhiloxKey key{word(), word()};
        philox4x32_ctr_t theirs_counter = {{counter[0], counter[1], counter[2], counter[3]}};
        philox4x32_key_t theirs_key = {{key[0], key[1]}};
        const philox4x32_ctr_t theirs = philox4x32_R(10, theirs_counter, theirs_key);
        ASSERT_EQ(philox(counter, key),
                  (PhiloxCounter{theirs.v[0], theirs.v[1], theirs.v[2], theirs.v[3]}));
        // Nine rounds are another function: the comparison can fail.
        const philox4x32_ctr_t nine = philox4x32_R(9, theirs_counter, theirs_key);
        ASSERT_NE(philox(counter, key),
                  (PhiloxCounter{nine.v[0], nine.v[1], nine.v[2], nine.v[3]}));
    }
}
#endif

}  // namespace
