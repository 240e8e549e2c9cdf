#pragma once
// Which memory is wanted soon, while there is still arithmetic to do?
// A list of cache lines that the products ask for on their way, one at each step: all at once they
// would wait for each other. Asking changes nothing but the time, so any address may be asked for.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "heed/base/contract.hpp"
#include "heed/base/pieces.hpp"
#include "heed/tensor/view.hpp"

namespace heed::inline v0::detail {

class LinesAhead {
  public:
    /// Equally spaced addresses in memory.
    struct Walk {
        std::uintptr_t first;
        std::uintptr_t step;
    };

    /// Appends the rows of a view whose last dimension is contiguous; nothing for other views.
    template <class T>
    void add(TensorView<T, 2> rows) {
        if (rows.empty() || !rows.has_contiguous_rows()) return;
        constexpr auto size = static_cast<Index>(sizeof(T));
        const Index row_bytes = rows.extent(1) * size;
        const Index stride = rows.stride(0) * size;
        const auto first = reinterpret_cast<std::uintptr_t>(rows.data());
        append(stride == row_bytes ? Block{first, line, pieces(rows.extent(0) * row_bytes, line), 1}
                                   : Block{first, stride, rows.extent(0), pieces(row_bytes, line)});
    }

    /// Appends memory, asked for evenly by so many asks; if these are fewer than its lines, the
    /// processor is left to find those between. Asked for sooner, lines would fill the few places
    /// that a core has for those on their way, where what is wanted now has to pass, too.
    void add_evenly(std::span<const std::byte> memory, Index asks) {
        if (memory.empty() || asks == 0) return;
        const auto bytes = static_cast<Index>(memory.size());
        const Index step = pieces(bytes, asks);
        const auto first = reinterpret_cast<std::uintptr_t>(memory.data());
        append({first, step, pieces(bytes, step), 1});
    }

    /// The next lines to ask for, `count` of them or fewer; when none is left, one that is near.
    [[nodiscard]] Walk take(Index count) {
        while (next_ < size_) {
            Block& block = blocks_[next_];
            if (block.columns == 0) {
                ++next_;
                continue;
            }
            const Walk walk{block.first + static_cast<std::uintptr_t>(row_ * block.stride),
                            static_cast<std::uintptr_t>(block.stride)};
            row_ += count;
            if (row_ >= block.rows) {
                row_ = 0;
                block.first += line;
                --block.columns;
            }
            return walk;
        }
        return {reinterpret_cast<std::uintptr_t>(this), 0};
    }

  private:
    /// Lines side by side in `columns`, each column walked from row to row.
    struct Block {
        std::uintptr_t first;
        Index stride;
        Index rows;
        Index columns;
    };

    static constexpr Index line = 64;

    void append(const Block& block) {
        HEED_ASSERT(size_ < blocks_.size());
        blocks_[size_++] = block;
    }

    std::array<Block, 7> blocks_;  ///< as many as the products of a gated layer have at most
    std::size_t size_ = 0;
    std::size_t next_ = 0;
    Index row_ = 0;
};

}  // namespace heed::inline v0::detail
