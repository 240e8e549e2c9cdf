#pragma once
// What does a layer of products add to the gradients of its weight and bias, dy^T x and the sum of
// dy?
// On the tile kernels of attention, in pieces that different workers may take, with scratch on the
// stack. Each element is one sum in ascending order, cut into chunks that depend on its length
// alone: its bits do not depend on the workers.

#include <algorithm>
#include <array>
#include <atomic>

#include "heed/ops/product.hpp"

namespace heed::inline v0::detail {

/// Where a gradient is added to. It may stand for zeros that nobody has written: whoever adds
/// first writes instead, and what was there is not read.
template <class C>
struct GradientSum {
    TensorView<C, 2> to = {};
    std::atomic<bool>* is_unwritten = nullptr;
};

/// What a layer of products adds to the gradients of its weight and bias: dW += dy^T x and
/// db += the sum over rows of dy, both of which may be absent.
template <class C>
class WeightGradient {
  public:
    /// Rows are contiguous. `workers` is how many may take pieces at the same time.
    WeightGradient(RowList<const C> x, RowList<const C> dy, const GradientSum<C>& dweight,
                   TensorView<C, 1> dbias, int workers)
        : kernels_(tile_kernels<C>()),
          x_(x),
          dy_(dy),
          common_(x, dy),
          dweight_(dweight.to),
          is_unwritten_(dweight.is_unwritten),
          begins_(is_unwritten_ != nullptr && *is_unwritten_),
          dbias_(dbias),
          whole_(dweight_.extent(1) / kernels_.lanes * kernels_.lanes),
          tiling_(whole_, kernels_.lanes),
          group_tiles_(most_group_tiles),
          outputs_(most_outputs) {
        cut(pieces_per_worker * workers);
    }

    [[nodiscard]] Index count() const {
        const bool wanted = is_wanted(dweight_) || is_wanted(dbias_);
        return wanted && common_.rows > 0 ? pieces(dy_.columns(), outputs_) * groups() : 0;
    }

    /// Some rows of dW, and of their features a group of tiles; the first group takes db and what
    /// is left of the features behind whole registers.
    void operator()(Index piece, int /*worker*/) const {
        const Index first = piece / groups() * outputs_, group = piece % groups();
        const Index rows = std::min(outputs_, dy_.columns() - first);
        if (begins_) *is_unwritten_ = false;
        StackScratch<C, most_outputs * terms> lanes;
        for (Index matrix = 0; matrix < common_.matrices; ++matrix)
            for (Index m = 0; m < common_.rows; m += terms) {
                const Index count = std::min(terms, common_.rows - m);
                const Index row = pieces(count, kernels_.lanes) * kernels_.lanes;
                const Index at = matrix * common_.rows + m;
                kernels_.load_queries(dy_.first_of(at) + first, dy_.row_stride(), count, rows, C(1),
                                      lanes.data, row);
                const Chunk chunk{at, count, first, rows, lanes.data, row, begins_ && at == 0};
                add_tiles(chunk, group);
                if (group == 0) add_rest(chunk);
            }
    }

  private:
    /// Of a piece: with more outputs many rows of x come from memory less often, with more tiles of
    /// features dy is put on lanes less often; with fewer there are enough pieces for all workers.
    static constexpr Index most_outputs = sizeof(C) > 4 ? 64 : 128, fewest_outputs = 64;
    static constexpr Index most_group_tiles = 24, fewest_group_tiles = 8;
    static constexpr Index terms = product_terms, many_rows = 512;

    /// Rows of x and dy, and outputs: [output][row].
    struct Chunk {
        Index first_row, rows;
        Index first_output, outputs;
        const C* lanes;
        Index row;    ///< of lanes
        bool begins;  ///< what is there is not added to, but overwritten
    };

    /// Makes pieces smaller where they would be too few.
    void cut(Index enough) {
        const auto are_too_few = [&] {
            return pieces(dy_.columns(), outputs_) * groups() < enough;
        };
        if (common_.matrices * common_.rows < many_rows || are_too_few()) outputs_ = fewest_outputs;
        if (are_too_few()) group_tiles_ = fewest_group_tiles;
    }
    [[nodiscard]] Index groups() const {
        return std::max<Index>(1, pieces(dweight_.empty() ? 0 : tiling_.count(), group_tiles_));
    }

    [[nodiscard]] Index end_of(Index group) const {
        return std::min(tiling_.count(), (group + 1) * group_tiles_);
    }
    [[nodiscard]] Index columns_of(Index tile) const {
        return tiling_.width(tile) * kernels_.lanes;
    }

    void add_tiles(const Chunk& c, Index group) const {
        if (!is_wanted(dweight_)) return;
        const Index end = end_of(group);
        for (Index tile = group * group_tiles_; tile < end; ++tile) {
            const Index column = tiling_.begin(tile);
            LinesAhead ahead;
            if (tile + 1 < end) add_lines_of(c, tile + 1, ahead);
            kernels_.sums_that_begin(c.begins)[tiling_.width(tile) - 1](
                c.lanes, c.row, c.outputs, x_.first_of(c.first_row) + column, x_.row_stride(),
                c.rows, dweight_.row(c.first_output) + column, dweight_.stride(0), ahead);
        }
    }

    /// What a tile reads.
    void add_lines_of(const Chunk& c, Index tile, LinesAhead& ahead) const {
        const Index column = tiling_.begin(tile), columns = columns_of(tile);
        ahead.add(dweight_.slice(0, c.first_output, c.outputs).slice(1, column, columns));
        ahead.add(x_.block(c.first_row, c.rows).slice(1, column, columns));
    }

    void add_rest(const Chunk& c) const {
        if (is_wanted(dbias_)) {
            std::array<C, static_cast<std::size_t>(most_outputs)> sums{};
            kernels_.lane_sums(c.lanes, c.row, c.outputs, sums.data());
            for (Index n = 0; n < c.outputs; ++n)
                dbias_(c.first_output + n) += sums[static_cast<std::size_t>(n)];
        }
        const Index left = dweight_.extent(1) - whole_, row = kernels_.lanes;
        if (!is_wanted(dweight_) || left == 0) return;
        StackScratch<C, terms * most_lanes<C>> panel;
        StackScratch<C, most_outputs * most_lanes<C>> sums;
        const TensorView<C, 2> to =
            dweight_.slice(0, c.first_output, c.outputs).slice(1, whole_, left);
        load_panel<C>(x_.block(c.first_row, c.rows).slice(1, whole_, left), row, panel.data);
        load_panel<C>(to, row, sums.data);
        LinesAhead ahead;
        kernels_.sums_that_begin(c.begins)[0](c.lanes, c.row, c.outputs, panel.data, row, c.rows,
                                              sums.data, row, ahead);
        copy(TensorView<const C, 2>(sums.data, to.shape(), {row, 1}), to);
    }

    const TileKernels<C>& kernels_;
    RowList<const C> x_;
    RowList<const C> dy_;
    CommonRows common_;
    TensorView<C, 2> dweight_;
    std::atomic<bool>* is_unwritten_;
    bool begins_;  ///< there is nothing to add to
    TensorView<C, 1> dbias_;
    Index whole_;  ///< features that fill registers
    LaneTiling tiling_;
    Index group_tiles_;
    Index outputs_;
};

}  // namespace heed::inline v0::detail
