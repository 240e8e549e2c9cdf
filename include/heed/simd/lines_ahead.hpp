#pragma once
// Which memory is wanted soon, while there is still arithmetic to do?
// A list of cache lines that the products ask for on their way, one at each step: all at once they
// would wait for each other. Lines that will be written can be asked for as this core's alone.
// Asking changes nothing but the time, so any address may be asked for.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "heed/base/contract.hpp"
#include "heed/base/pieces.hpp"
#include "heed/tensor/view.hpp"

namespace heed::inline v0::detail {

/// So much memory is likely to stay in the second-level cache of a core that uses all of it.
inline constexpr std::size_t near_bytes = std::size_t{768} << 10;

/// Whether a result may lie in the caches of other workers, which have read it after the last call.
[[nodiscard]] constexpr bool may_lie_elsewhere(Index elements, std::size_t size, int workers) {
    return workers > 1 && static_cast<std::size_t>(elements) * size <= near_bytes;
}

class LinesAhead {
    /// Lines side by side in `columns`, each column walked from row to row.
    struct Block {
        std::uintptr_t first;
        Index stride;
        Index rows;
        Index columns;
    };

    static constexpr Index line = 64;

  public:
    /// Equally spaced addresses in memory.
    struct Walk {
        std::uintptr_t first;
        std::uintptr_t step;
    };

    /// Rows that will be written and may lie elsewhere: a line that another core has, too, cannot
    /// be written before that core has given it up, which takes as long as bringing it does.
    class Written {
      public:
        struct Lines {
            std::uintptr_t first;
            Index step, count;
        };

        /// The lines to ask for together with the next `asks` lines that are to be read.
        [[nodiscard]] Lines take(Index asks) {
            wait_ -= asks;
            if (wait_ >= 0 || block_.columns == 0) return {};
            const Index count = std::min(asks * rate_ / one, block_.rows - row_);
            const Lines lines{block_.first + static_cast<std::uintptr_t>(row_ * block_.stride),
                              block_.stride, count};
            row_ += count;
            if (row_ == block_.rows) {
                row_ = 0;
                block_.first += line;
                --block_.columns;
            }
            return lines;
        }

      private:
        friend LinesAhead;
        static constexpr Index one = 256;

        Block block_;
        Index rate_;  ///< lines to write for so many, times `one`, to read
        Index wait_;
        Index row_;
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

    /// Appends the rows of a view whose last dimension is contiguous, which will be written: asked
    /// for as this core's alone, evenly with `asks` asks, after `wait` others; nothing for other
    /// views. Costs about a hundredth of a product.
    template <class T>
    void add_written(TensorView<T, 2> rows, Index asks, Index wait = 0) {
        if (rows.empty() || !rows.has_contiguous_rows()) return;
        HEED_ASSERT(written_size_ < written_.size());
        constexpr auto size = static_cast<Index>(sizeof(T));
        const Block block{reinterpret_cast<std::uintptr_t>(rows.data()), rows.stride(0) * size,
                          rows.extent(0), pieces(rows.extent(1) * size, line)};
        Written& written = written_[written_size_++];
        written.block_ = block;
        written.rate_ = pieces(block.rows * block.columns * Written::one, std::max<Index>(1, asks));
        written.wait_ = wait;
        written.row_ = 0;
    }

    [[nodiscard]] std::span<Written> written() { return {written_.data(), written_size_}; }

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
    void append(const Block& block) {
        HEED_ASSERT(size_ < blocks_.size());
        blocks_[size_++] = block;
    }

    std::size_t size_ = 0;
    std::size_t written_size_ = 0;
    std::size_t next_ = 0;
    Index row_ = 0;
    std::array<Block, 7> blocks_;     ///< as many as the products of a gated layer have at most
    std::array<Written, 3> written_;  ///< as many as a gated layer in training writes
};

}  // namespace heed::inline v0::detail
