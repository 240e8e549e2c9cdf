#pragma once
// Which random bits belong to a position?
// A pure function of key and counter: no state, so the same bits in any order and on any thread.

#include <array>
#include <cstdint>

#include "heed/base/config.hpp"

namespace heed::inline v0 {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

/// A 64-bit seed as a Philox key, low word first.
[[nodiscard]] constexpr PhiloxKey philox_key(std::uint64_t seed) {
    return {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
}

/// Philox4x32-10: 128 uniform random bits for a 128-bit counter under a 64-bit key. (philox4x32 is
/// a macro of Random123, which a program may use as well.) Source: Salmon et al., "Parallel random
/// numbers: as easy as 1, 2, 3", SC 2011.
[[nodiscard]] constexpr PhiloxCounter philox(PhiloxCounter counter, PhiloxKey key) {
    constexpr std::uint64_t multiplier0 = 0xD2511F53, multiplier1 = 0xCD9E8D57;
    constexpr std::uint32_t weyl0 = 0x9E3779B9, weyl1 = 0xBB67AE85;
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t product0 = multiplier0 * counter[0];
        const std::uint64_t product1 = multiplier1 * counter[2];
        counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
                   static_cast<std::uint32_t>(product1),
                   static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
                   static_cast<std::uint32_t>(product0)};
        key[0] += weyl0;
        key[1] += weyl1;
    }
    return counter;
}

}  // namespace heed::inline v0
