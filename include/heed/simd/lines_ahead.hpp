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

/// Whether so many elements of a size in bytes are no more than that.
[[nodiscard]] constexpr bool is_near(Index elements, std::size_t size) {
    return static_cast<std::size_t>(elements) * size <= near_bytes;
}

/// Whether a result may lie in the caches of other workers, which have read it after the last call.
[[nodiscard]] constexpr bool may_lie_elsewhere(Index elements, std::size_t size, int workers) {
    return workers > 1 && is_near(elements, size);
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
    /// A walk has so many lines at least, if need be more than there are: each begins anew.
    static constexpr Index fewest = 32;

  public:
    /// Equally spaced addresses in memory.
    struct Walk {
        std::uintptr_t first;
        std::uintptr_t step;
        Index count;
    };

    /// Rows that will be written and may lie elsewhere: a line that another core has, too, cannot
    /// be written before that core has given it up, which takes as long as bringing it does.
    class Written {
      public:
        struct Lines {
            std::uintptr_t first;
            Index step, count;
        };

        Written() = default;
        Written(const Block& block, Index asks, Index wait)
            : block_(block),
              rate_(pieces(block.rows * block.columns * one, std::max<Index>(1, asks))),
              wait_(wait),
              row_(0) {}

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
        const Block block = block_of_rows(rows);
        const Index row_bytes = rows.extent(1) * static_cast<Index>(sizeof(T));
        append(block.stride == row_bytes
                   ? Block{block.first, line, pieces(block.rows * row_bytes, line), 1}
                   : block);
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
        written_[written_size_++] = Written(block_of_rows(rows), asks, wait);
    }

    [[nodiscard]] std::span<Written> written() { return {written_.data(), written_size_}; }

    /// The next lines to ask for, `count` of them or fewer, but not very few; when none is left,
    /// one that is near.
    [[nodiscard]] Walk take(Index count) {
        while (next_ < size_) {
            Block& block = blocks_[next_];
            if (block.columns == 0) {
                ++next_;
                continue;
            }
            const Walk walk{block.first + static_cast<std::uintptr_t>(row_ * block.stride),
                            static_cast<std::uintptr_t>(block.stride),
                            std::min(count, std::max(block.rows - row_, fewest))};
            row_ += walk.count;
            if (row_ >= block.rows) {
                row_ = 0;
                block.first += line;
                --block.columns;
            }
            return walk;
        }
        return {reinterpret_cast<std::uintptr_t>(this), 0, count};
    }

  private:
    /// Each row in lines of its own.
    template <class T>
    [[nodiscard]] static Block block_of_rows(TensorView<T, 2> rows) {
        constexpr auto size = static_cast<Index>(sizeof(T));
        return {reinterpret_cast<std::uintptr_t>(rows.data()), rows.stride(0) * size,
                rows.extent(0), pieces(rows.extent(1) * size, line)};
    }

    void append(const Block& block) {
        HEED_ASSERT(size_ < blocks_.size());
        blocks_[size_++] = block;
    }

    std::size_t size_ = 0;
    std::size_t written_size_ = 0;
    std::size_t next_ = 0;
    Index row_ = 0;
    std::array<Block, 7> blocks_;     ///< as many as an attention or a product has at most
    std::array<Written, 2> written_;  ///< results
};

}  // namespace heed::inline v0::detail
