#pragma once
// How many pieces of a size cover a whole?

#include "heed/base/checked_size.hpp"

namespace heed::inline v0::detail {

/// The last piece may be smaller.
[[nodiscard]] constexpr Index pieces(Index whole, Index size) {
    return (whole + size - 1) / size;
}

}  // namespace heed::inline v0::detail
