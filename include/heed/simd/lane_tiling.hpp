#pragma once
// How are many things that lie side by side on lanes cut into tiles?
// Index arithmetic; reads and writes nothing.

#include <algorithm>

#include "heed/base/pieces.hpp"
#include "heed/simd/tile_kernels.hpp"

namespace heed::inline v0::detail {

/// Queries, rows or features in tiles: as few as possible of at most three registers, balanced, so
/// that 4 registers become 2 + 2 and not 3 + 1; the wider ones first.
class LaneTiling {
  public:
    LaneTiling() = default;
    LaneTiling(Index count, int lanes) : lanes_(lanes) {
        const Index registers = pieces(count, lanes);
        tiles_ = pieces(registers, max_tile_width);
        fewest_ = registers;
        if (tiles_ <= 1) return;  // often, and divisions take time
        fewest_ = registers / tiles_;
        wider_ = registers % tiles_;
    }

    [[nodiscard]] Index count() const { return tiles_; }
    [[nodiscard]] Index begin(Index tile) const { return first_register(tile) * lanes_; }
    [[nodiscard]] int width(Index tile) const {
        return static_cast<int>(first_register(tile + 1) - first_register(tile));
    }

  private:
    [[nodiscard]] Index first_register(Index tile) const {
        return tile * fewest_ + std::min(tile, wider_);
    }

    Index lanes_ = 0;
    Index tiles_ = 0;
    Index fewest_ = 0;  ///< registers of a tile
    Index wider_ = 0;   ///< tiles with one more, the first ones
};

}  // namespace heed::inline v0::detail
