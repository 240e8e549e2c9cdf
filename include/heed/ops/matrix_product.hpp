#pragma once
// How are x W^T, dy W and dy^T x computed at the speed of the machine?
// On the tile kernels of attention, in pieces of the result that different workers may take, with
// scratch on the stack. Matrices are read in place. Each element is one sum in ascending order, cut
// into chunks that depend on its length alone: its bits depend neither on the other rows nor on the
// workers.

#include <algorithm>
#include <array>
#include <type_traits>

#include "heed/base/executor.hpp"
#include "heed/ops/tile_rows.hpp"
#include "heed/simd/dispatch.hpp"
#include "heed/simd/lane_tiling.hpp"
#include "heed/tensor/checks.hpp"

namespace heed::inline v0::detail {

/// Terms of the sums that are taken at once: one factor stays in the first-level cache.
inline constexpr Index product_terms = 128;
/// Rows or features of the result beside the lanes of a tile. Half types need room to be widened.
template <class T>
inline constexpr Index product_outputs = ComputeScalar<T> ? 192 : 64;

/// Up to so many rows of x would leave most lanes of a tile empty.
inline constexpr Index few_rows = 4;

[[nodiscard]] constexpr Index pieces(Index whole, Index size) {
    return (whole + size - 1) / size;
}

/// Scratch on the stack, aligned to a cache line and not initialised.
template <class C, Index count>
struct StackScratch {
    alignas(64) C data[static_cast<std::size_t>(count)];
};

/// Ones, as many as a tile has lanes.
template <class C>
[[nodiscard]] std::array<C, static_cast<std::size_t>(most_tile_lanes<C>)> ones() {
    std::array<C, static_cast<std::size_t>(most_tile_lanes<C>)> result;
    result.fill(C(1));
    return result;
}

/// y = x W^T + b for the rows of one tile and at most product_outputs features of y. Rows lie on
/// lanes, as the queries of an attention do; W is read as its keys are.
template <class T>
void multiply_tile(const TileKernels<ComputeType<T>>& kernels, int width, TensorView<const T, 2> x,
                   TensorView<const T, 2> weight, TensorView<const T, 1> bias, TensorView<T, 2> y) {
    using C = ComputeType<T>;
    constexpr bool widens = !std::is_same_v<T, C>;
    constexpr Index terms = product_terms, outputs = product_outputs<T>, most = most_tile_lanes<C>;
    StackScratch<C, terms * most> lanes;
    StackScratch<C, outputs * most> sums;
    StackScratch<C, widens ? std::max(terms, outputs) * most : 1> rows;
    StackScratch<C, widens ? outputs * terms : 1> wide_weight;
    const Index row = width * kernels.lanes, features = y.extent(1), length = x.extent(1);
    for (Index n = 0; n < features; ++n)
        std::fill_n(sums.data + n * row, row, bias.data() == nullptr ? C(0) : convert<C>(bias(n)));
    LinesAhead ahead;
    for (Index k = 0; k < length; k += terms) {
        const Index count = std::min(terms, length - k);
        const TileRows<C> from(x.slice(1, k, count), rows.data);
        kernels.load_queries(from.data, from.stride, x.extent(0), count, C(1), lanes.data, row);
        const TileRows<C> by(weight.slice(1, k, count), wide_weight.data);
        kernels.weighted_sums[width - 1](by.data, by.stride, features, lanes.data, row, count,
                                         sums.data, row, ahead);
    }
    store_lanes(kernels, sums.data, row, ones<C>().data(), y, rows.data);
}

/// The same for few rows: for each row a sum for each feature, its terms on the lanes.
template <class C>
void multiply_few(const TileKernels<C>& kernels, TensorView<const C, 2> x,
                  TensorView<const C, 2> weight, TensorView<const C, 1> bias, TensorView<C, 2> y) {
    for (Index i = 0; i < x.extent(0); ++i) {
        kernels.row_products(weight.data(), weight.stride(0), x.row(i), 0, weight.extent(0),
                             weight.extent(1), y.row(i));
        if (bias.data() != nullptr) add(bias, y.select(0, i));
    }
}

/// y = x W^T + b of matrices with contiguous rows; an absent bias is 0.
template <class T>
void multiply(TensorView<const T, 2> x, TensorView<const T, 2> weight, TensorView<const T, 1> bias,
              TensorView<T, 2> y, const ExecutorRef& executor) {
    using C = ComputeType<T>;
    const TileKernels<C>& kernels = tile_kernels<C>();
    const LaneTiling tiling(x.extent(0), kernels.lanes);
    const Index features = y.extent(1), size = product_outputs<T>;
    executor.parallel_for(pieces(features, size) * tiling.count(), [&](Index piece, int) {
        const Index first = piece / tiling.count() * size, count = std::min(size, features - first);
        const Index tile = piece % tiling.count(), begin = tiling.begin(tile);
        const Index rows = std::min<Index>(tiling.width(tile) * kernels.lanes, x.extent(0) - begin);
        const TensorView<const T, 2> by = weight.slice(0, first, count);
        const TensorView<const T, 1> plus = bias.empty() ? bias : bias.slice(0, first, count);
        const TensorView<T, 2> to = y.slice(0, begin, rows).slice(1, first, count);
        if constexpr (std::is_same_v<T, C>)
            if (x.extent(0) <= few_rows) return multiply_few<C>(kernels, x, by, plus, to);
        multiply_tile<T>(kernels, tiling.width(tile), x.slice(0, begin, rows), by, plus, to);
    });
}

/// A panel [rows, columns] of a matrix as [row][width * lanes], with zeros behind its columns.
template <class C>
void load_panel(TensorView<const C, 2> panel, Index row, C* to) {
    const Index columns = panel.extent(1);
    for (Index i = 0; i < panel.extent(0); ++i) {
        std::copy_n(panel.row(i), columns, to + i * row);
        std::fill(to + i * row + columns, to + (i + 1) * row, C(0));
    }
}

/// dx = dy W for some rows and the features of one tile of dx, which lie on the lanes.
template <class C>
void multiply_back_tile(const TileKernels<C>& kernels, int width, TensorView<const C, 2> dy,
                        TensorView<const C, 2> weight, TensorView<C, 2> dx) {
    constexpr Index terms = product_terms, most = most_tile_lanes<C>;
    StackScratch<C, terms * most> panel;
    StackScratch<C, product_outputs<C> * most> sums;
    const Index row = width * kernels.lanes, rows = dx.extent(0), length = dy.extent(1);
    std::fill_n(sums.data, rows * row, C(0));
    LinesAhead ahead;
    for (Index n = 0; n < length; n += terms) {
        const Index count = std::min(terms, length - n);
        load_panel(weight.slice(0, n, count), row, panel.data);
        kernels.weighted_sums[width - 1](dy.data() + n, dy.stride(0), rows, panel.data, row, count,
                                         sums.data, row, ahead);
    }
    copy(TensorView<const C, 2>(sums.data, dx.shape(), {row, 1}), dx);
}

/// dx = dy W of matrices with contiguous rows.
template <class C>
void multiply_back(TensorView<const C, 2> dy, TensorView<const C, 2> weight, TensorView<C, 2> dx,
                   const ExecutorRef& executor) {
    const TileKernels<C>& kernels = tile_kernels<C>();
    const LaneTiling tiling(dx.extent(1), kernels.lanes);
    const Index size = product_outputs<C>;
    executor.parallel_for(pieces(dx.extent(0), size) * tiling.count(), [&](Index piece, int) {
        const Index first = piece / tiling.count() * size, tile = piece % tiling.count();
        const Index rows = std::min(size, dx.extent(0) - first), begin = tiling.begin(tile);
        const Index columns =
            std::min<Index>(tiling.width(tile) * kernels.lanes, dx.extent(1) - begin);
        multiply_back_tile<C>(kernels, tiling.width(tile), dy.slice(0, first, rows),
                              weight.slice(1, begin, columns),
                              dx.slice(0, first, rows).slice(1, begin, columns));
    });
}

/// What a layer of products adds to the gradients of its weight and bias: dW += dy^T x and
/// db += the sum over rows of dy, both of which may be absent.
template <class C>
class WeightGradient {
  public:
    WeightGradient(TensorView<const C, 2> x, TensorView<const C, 2> dy, TensorView<C, 2> dweight,
                   TensorView<C, 1> dbias)
        : kernels_(tile_kernels<C>()),
          x_(x),
          dy_(dy),
          dweight_(dweight),
          dbias_(dbias),
          whole_(dweight.extent(1) / kernels_.lanes * kernels_.lanes),
          tiling_(whole_, kernels_.lanes) {}

    [[nodiscard]] Index count() const { return pieces(dy_.extent(1), outputs) * groups(); }

    /// Some rows of dW, and of their features a group of tiles; the first group takes db and what
    /// is left of the features behind whole registers.
    void add(Index piece) const {
        const Index first = piece / groups() * outputs, group = piece % groups();
        const Index rows = std::min(outputs, dy_.extent(1) - first);
        StackScratch<C, outputs * terms> lanes;
        for (Index m = 0; m < dy_.extent(0); m += terms) {
            const Index count = std::min(terms, dy_.extent(0) - m);
            const Index row = pieces(count, kernels_.lanes) * kernels_.lanes;
            kernels_.load_queries(dy_.data() + m * dy_.stride(0) + first, dy_.stride(0), count,
                                  rows, C(1), lanes.data, row);
            const Chunk chunk{m, count, first, rows, lanes.data, row};
            add_tiles(chunk, group);
            if (group == 0) add_rest(chunk);
        }
    }

  private:
    static constexpr Index terms = product_terms, outputs = 64, group_tiles = 8;

    /// Rows of x and dy, and outputs: [output][row].
    struct Chunk {
        Index first_row, rows;
        Index first_output, outputs;
        const C* lanes;
        Index row;  ///< of lanes
    };

    [[nodiscard]] Index groups() const {
        return std::max<Index>(1, pieces(dweight_.empty() ? 0 : tiling_.count(), group_tiles));
    }

    void add_tiles(const Chunk& c, Index group) const {
        if (!is_wanted(dweight_)) return;
        LinesAhead ahead;
        const Index end = std::min(tiling_.count(), (group + 1) * group_tiles);
        for (Index tile = group * group_tiles; tile < end; ++tile) {
            const Index column = tiling_.begin(tile);
            kernels_.weighted_sums[tiling_.width(tile) - 1](
                c.lanes, c.row, c.outputs, x_.row(c.first_row) + column, x_.stride(0), c.rows,
                dweight_.row(c.first_output) + column, dweight_.stride(0), ahead);
        }
    }

    void add_rest(const Chunk& c) const {
        if (is_wanted(dbias_)) {
            std::array<C, static_cast<std::size_t>(outputs)> sums{};
            kernels_.lane_sums(c.lanes, c.row, c.outputs, sums.data());
            for (Index n = 0; n < c.outputs; ++n)
                dbias_(c.first_output + n) += sums[static_cast<std::size_t>(n)];
        }
        const Index left = dweight_.extent(1) - whole_, row = kernels_.lanes;
        if (!is_wanted(dweight_) || left == 0) return;
        StackScratch<C, terms * most_lanes<C>> panel;
        StackScratch<C, outputs * most_lanes<C>> sums;
        const TensorView<C, 2> to =
            dweight_.slice(0, c.first_output, c.outputs).slice(1, whole_, left);
        load_panel<C>(x_.slice(0, c.first_row, c.rows).slice(1, whole_, left), row, panel.data);
        load_panel<C>(to, row, sums.data);
        LinesAhead ahead;
        kernels_.weighted_sums[0](c.lanes, c.row, c.outputs, panel.data, row, c.rows, sums.data,
                                  row, ahead);
        copy(TensorView<const C, 2>(sums.data, to.shape(), {row, 1}), to);
    }

    const TileKernels<C>& kernels_;
    TensorView<const C, 2> x_;
    TensorView<const C, 2> dy_;
    TensorView<C, 2> dweight_;
    TensorView<C, 1> dbias_;
    Index whole_;  ///< features that fill registers
    LaneTiling tiling_;
};

}  // namespace heed::inline v0::detail
