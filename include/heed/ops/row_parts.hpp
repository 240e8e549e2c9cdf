#pragma once
// How do rows of any stride and storage meet kernels that want dense numbers?
// Part by part: in place when they are dense numbers of the compute type, by way of scratch on the
// stack otherwise. The parts are the same either way, so that the bits do not depend on strides.

#include <algorithm>
#include <array>
#include <tuple>
#include <type_traits>

#include "heed/tensor/elementwise.hpp"

namespace heed::inline v0::detail {

/// Elements of a row that are worked on at once.
inline constexpr Index row_part = 1024;

/// Calls f(first, count) for each part of a row.
template <class F>
void for_each_part(Index columns, const F& f) {
    for (Index c = 0; c < columns; c += row_part) f(c, std::min(row_part, columns - c));
}

/// Calls f(rows ..) for all rows of views of one shape; a dense tensor is one long row.
template <class F, int Rank, class... T>
void for_each_long_row(const F& f, TensorView<T, Rank>... views) {
    if constexpr (Rank == 1) {
        f(views...);
    } else if ((views.is_contiguous() && ...)) {
        f(TensorView<T, 1>(views.data(), Shape<1>(views.element_count()))...);
    } else {
        const Index rows = std::get<0>(std::tuple(views...)).extent(0);
        for (Index i = 0; i < rows; ++i) for_each_long_row(f, views.select(0, i)...);
    }
}

/// A row, or a null one. Scratch holds one part at a time.
template <class C, class T>
class RowParts {
  public:
    explicit RowParts(TensorView<T, 1> row) : row_(row) {}

    /// The part as dense numbers to read; null for a null row.
    [[nodiscard]] const C* read(Index first, Index count) {
        if (row_.data() == nullptr) return nullptr;
        if (const C* const here = in_place(first)) return here;
        for (Index c = 0; c < count; ++c)
            scratch_[static_cast<std::size_t>(c)] = convert<C>(row_(first + c));
        return scratch_.data();
    }
    /// A place to write the part to.
    [[nodiscard]] C* place(Index first) requires(!std::is_const_v<T>) {
        C* const here = in_place(first);
        return here != nullptr ? here : scratch_.data();
    }
    /// The part as dense numbers to change.
    [[nodiscard]] C* edit(Index first, Index count) requires(!std::is_const_v<T>) {
        (void)read(first, count);
        return place(first);
    }
    /// After the last write to the part.
    void store(Index first, Index count) requires(!std::is_const_v<T>) {
        if (in_place(first) != nullptr) return;
        for (Index c = 0; c < count; ++c)
            row_(first + c) = convert<T>(scratch_[static_cast<std::size_t>(c)]);
    }

  private:
    /// Null unless the elements are such numbers as they are.
    [[nodiscard]] auto in_place(Index first) const {
        if constexpr (std::is_same_v<std::remove_const_t<T>, C>)
            return row_.has_contiguous_rows() ? row_.data() + first : nullptr;
        else
            return static_cast<C*>(nullptr);
    }

    TensorView<T, 1> row_;
    std::array<C, static_cast<std::size_t>(row_part)> scratch_;
};

}  // namespace heed::inline v0::detail
