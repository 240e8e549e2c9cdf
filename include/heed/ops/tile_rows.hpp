#pragma once
// How do rows of the caller become rows and lanes for the kernels, and rows of the caller again?
// In place where they are dense numbers of the compute type, by way of scratch otherwise.

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "heed/simd/tile_kernels.hpp"
#include "heed/tensor/elementwise.hpp"

namespace heed::inline v0::detail {

/// Lanes of the widest register, and of the widest tile.
template <class C>
inline constexpr Index most_lanes = 64 / static_cast<Index>(sizeof(C));
template <class C>
inline constexpr Index most_tile_lanes = max_tile_width* most_lanes<C>;

/// Rows of one tile for the kernels: in place when they are dense numbers of the compute type,
/// widened into scratch otherwise.
template <class C>
struct TileRows {
    const C* data;
    Index stride;

    TileRows(const C* first, Index row_stride) : data(first), stride(row_stride) {}

    template <class T>
    TileRows(TensorView<const T, 2> rows, C* scratch) {
        if constexpr (std::is_same_v<T, C>) {
            if (is_in_place(rows)) {
                data = rows.data();
                stride = rows.stride(0);
                return;
            }
        }
        copy(rows, TensorView<C, 2>(scratch, rows.shape()));
        data = scratch;
        stride = rows.extent(1);
    }

    template <class T, int Rank>
    [[nodiscard]] static bool is_in_place(TensorView<const T, Rank> rows) {
        return std::is_same_v<T, C> && rows.has_contiguous_rows();
    }

    /// The rows after the first `count`.
    [[nodiscard]] TileRows from(Index count) const { return {data + count * stride, stride}; }
};

/// A panel [rows, columns] of a matrix as [row][width * lanes], with zeros behind its columns.
template <class C>
void load_panel(TensorView<const C, 2> panel, Index row, C* to) {
    const Index columns = panel.extent(1);
    for (Index i = 0; i < panel.extent(0); ++i) {
        std::copy_n(panel.row(i), columns, to + i * row);
        std::fill(to + i * row + columns, to + (i + 1) * row, C(0));
    }
}

/// Puts zeros in place of NaN and infinity, in a copy [count, columns] whose rows are
/// `copy_stride` apart and which may be the rows themselves. False when there was none; then the
/// rows stay what they are.
template <class C>
[[nodiscard]] bool take_poison_out(const TileKernels<C>& kernels, TileRows<C>& rows, Index count,
                                   Index columns, C* copy, Index copy_stride) {
    if (kernels.all_finite(rows.data, rows.stride, count, columns)) return false;
    for (Index i = 0; i < count; ++i)
        for (Index c = 0; c < columns; ++c) {
            const C x = rows.data[i * rows.stride + c];
            copy[i * copy_stride + c] = std::isfinite(x) ? x : C(0);
        }
    rows = {copy, copy_stride};
    return true;
}

/// rows(i, c) = lanes[c][i] / divisor[i], rounded to the type of the rows; `scratch` has room for
/// as many elements as the rows.
template <class C, class T>
void store_lanes(const TileKernels<C>& kernels, const C* lanes, Index row, const C* divisor,
                 TensorView<T, 2> rows, C* scratch) {
    const Index count = rows.extent(0), features = rows.extent(1);
    if constexpr (std::is_same_v<T, C>)
        if (rows.has_contiguous_rows())
            return kernels.finish(lanes, row, features, count, divisor, rows.data(),
                                  rows.stride(0));
    kernels.finish(lanes, row, features, count, divisor, scratch, features);
    copy(TensorView<const C, 2>(scratch, rows.shape()), rows);
}

}  // namespace heed::inline v0::detail
