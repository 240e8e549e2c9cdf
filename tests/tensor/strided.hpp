#pragma once
// What do views with arbitrary strides look like, element by element?
// Makes random ones in memory of their own, and walks them by index arithmetic of its own.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <vector>

#include "heed/tensor/view.hpp"
#include "support/random.hpp"

namespace support {

using heed::Index;

template <int Rank>
using Position = std::array<Index, Rank>;

/// Calls f(position) for every position of a shape, the last dimension fastest.
template <int Rank, class F>
void for_each_position(const heed::Shape<Rank>& shape, const F& f) {
    for (Index extent : shape)
        if (extent == 0) return;
    Position<Rank> at{};
    while (true) {
        f(at);
        int d = Rank - 1;
        while (d >= 0 && ++at[static_cast<std::size_t>(d)] == shape[d])
            at[static_cast<std::size_t>(d--)] = 0;
        if (d < 0) return;
    }
}

/// Where the element at a position lies: data + sum of position * stride.
template <class T, int Rank>
T* address(heed::TensorView<T, Rank> view, const std::type_identity_t<Position<Rank>>& at) {
    Index offset = 0;
    for (int d = 0; d < Rank; ++d) offset += at[static_cast<std::size_t>(d)] * view.stride(d);
    return view.data() + offset;
}

/// The elements in row-major order.
template <class T, int Rank>
std::vector<std::remove_const_t<T>> elements(heed::TensorView<T, Rank> view) {
    std::vector<std::remove_const_t<T>> result;
    for_each_position(view.shape(), [&](const auto& at) { result.push_back(*address(view, at)); });
    return result;
}

/// A view into memory of its own. Dimensions lie in memory in any order, with gaps between them,
/// some of them backwards; no two elements share memory. The gaps hold `filling`.
template <class T, int Rank>
class Strided {
  public:
    enum class Rows { any, contiguous };

    Strided(Random& random, const heed::Shape<Rank>& shape, T filling = T(77),
            Rows rows = Rows::any)
        : filling_(filling) {
        std::array<int, Rank> order{};
        for (int d = 0; d < Rank; ++d) order[static_cast<std::size_t>(d)] = Rank - 1 - d;
        const std::size_t fixed = rows == Rows::contiguous ? 1 : 0;
        for (std::size_t d = Rank - 1; d > fixed; --d)
            std::swap(order[d],
                      order[static_cast<std::size_t>(random.integer(
                          static_cast<std::int64_t>(fixed), static_cast<std::int64_t>(d)))]);
        heed::Strides<Rank> strides{};
        Index step = 1, start = 0;
        for (int d : order) {
            const bool row = fixed == 1 && d == Rank - 1;
            if (!row) step += random.integer(0, 2);
            const bool backwards = !row && random.chance(0.25);
            if (backwards) start += (std::max<Index>(shape[d], 1) - 1) * step;
            strides[static_cast<std::size_t>(d)] = backwards ? -step : step;
            step *= std::max<Index>(shape[d], 1);
        }
        memory_.assign(static_cast<std::size_t>(step + 1), filling);
        view_ = heed::TensorView<T, Rank>(memory_.data() + start, shape, strides);
    }

    Strided(const Strided&) = delete;
    Strided& operator=(const Strided&) = delete;

    heed::TensorView<T, Rank> view() const { return view_; }
    heed::TensorView<const T, Rank> const_view() const { return view_; }

    /// Writes values in row-major order.
    template <class Values>
    void assign(const Values& values) const {
        auto next = values.begin();
        for_each_position(view_.shape(),
                          [&](const auto& at) { *address(view_, at) = static_cast<T>(*next++); });
    }

    /// True when memory between the elements still holds what it held at first, bit by bit.
    bool gaps_untouched() const {
        std::vector<bool> used(memory_.size());
        for_each_position(view_.shape(), [&](const auto& at) {
            used[static_cast<std::size_t>(address(view_, at) - memory_.data())] = true;
        });
        for (std::size_t i = 0; i < memory_.size(); ++i)
            if (!used[i] && std::memcmp(&memory_[i], &filling_, sizeof(T)) != 0) return false;
        return true;
    }

  private:
    T filling_;
    std::vector<T> memory_;
    heed::TensorView<T, Rank> view_;
};

/// Extents in [least, most].
template <int Rank>
heed::Shape<Rank> random_shape(Random& random, Index least, Index most) {
    std::array<Index, Rank> extents{};
    for (Index& extent : extents) extent = random.integer(least, most);
    return heed::Shape<Rank>(extents);
}

}  // namespace support
